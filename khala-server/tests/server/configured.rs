//! Which settings the `khala-server` command takes, refuses and prints.

use tokio::{
    io::{AsyncBufReadExt as _, AsyncReadExt as _, BufReader},
    net::TcpListener,
    time::timeout,
};

use crate::{
    binary::{KEY, command, ended, refused},
    support::LONG,
};

#[tokio::test]
async fn others_can_reach_it_only_with_a_real_key() {
    let folder = tempfile::tempdir().unwrap();
    let open = |listen: &str| {
        let mut command = command(folder.path());
        command.env("KHALA_LISTEN", listen);
        command
    };
    for listen in ["0.0.0.0:0", "[::]:0", "127.0.0.1:0"] {
        told_to_set_a_key(ended(open(listen)).await, "KHALA_LISTEN");
    }
    for listen in ["0.0.0.0:0", "[::]:0"] {
        let mut command = open(listen);
        command.arg("--dev");
        told_to_set_a_key(ended(command).await, "with --dev it would listen on");
    }
    assert_eq!(folder.path().read_dir().unwrap().count(), 0, "it leaves nothing behind");

    let mut weak = open("0.0.0.0:0");
    weak.env("KHALA_AUTH__HS256_KEY", "short");
    refused(ended(weak).await, &["auth.hs256_key", "32 bytes"]);
    let mut missing = open("0.0.0.0:0");
    missing.env("KHALA_AUTH__HS256_KEY_FILE", "no-such-file");
    refused(ended(missing).await, &["auth.hs256_key_file", "no-such-file"]);

    let key = folder.path().join("key");
    std::fs::write(&key, "0123456789abcdef0123456789abcdef\n").unwrap();
    let mut real = open("0.0.0.0:0");
    let mut child = real.env("KHALA_AUTH__HS256_KEY_FILE", &key).spawn().unwrap();
    let mut line = String::new();
    let mut output = BufReader::new(child.stdout.take().unwrap());
    timeout(LONG, output.read_line(&mut line)).await.expect("it starts in time").unwrap();
    assert!(line.contains("0.0.0.0:"), "{line}");
    assert!(!folder.path().join("khala.dev.key").exists());
    child.start_kill().unwrap();
    let mut rest = String::new();
    output.read_to_string(&mut rest).await.unwrap();
    assert!(!rest.contains("eyJ"), "a token of a real key is printed");
}

/// Such a server ends with the lines that are to be written, and prints no token.
fn told_to_set_a_key((code, output, log): (Option<i32>, String, String), why: &str) {
    assert_eq!((code, output.as_str()), (Some(2), ""), "{log}");
    let lines = [
        "    export KHALA_AUTH__HS256_KEY_FILE=khala.key",
        "    [auth]",
        "    hs256_key_file = \"khala.key\"",
    ];
    for line in lines {
        assert!(log.lines().any(|found| found == line), "{line} is not in:\n{log}");
    }
    for text in [why, "--dev", "127.0.0.1", "auth.jwks_url"] {
        assert!(log.contains(text), "{text} is not in:\n{log}");
    }
}

/// A server on which something is set, and no key, trusts no key that it makes.
#[tokio::test]
async fn only_a_server_for_development_makes_a_key() {
    const SECRET: &str = "a-mint-secret-of-32-characters!!";
    let folder = tempfile::tempdir().unwrap();
    let mut minting = command(folder.path());
    minting.env("KHALA_MINT__SECRET", SECRET);
    told_to_set_a_key(ended(minting).await, "the variable KHALA_MINT__SECRET sets something");
    let file = folder.path().join("khala.toml");
    std::fs::write(&file, format!("[mint]\nsecret = \"{SECRET}\"")).unwrap();
    let mut minting = command(folder.path());
    minting.arg("--config").arg("khala.toml");
    told_to_set_a_key(ended(minting).await, "the settings file khala.toml sets something");
    for (name, value, key) in [
        ("KHALA_AUTH__HS256_KEY", "0123456789abcdef0123456789abcdef", "auth.hs256_key"),
        ("KHALA_AUTH__HS256_KEY_FILE", "key", "auth.hs256_key_file"),
        ("KHALA_AUTH__JWKS_URL", "https://login.example/keys", "auth.jwks_url"),
        ("KHALA_AUTH__KEYS_FILE", "keys.json", "auth.keys_file"),
        ("KHALA_AUTH__ORIGINS", "['https://app.example']", "auth.origins"),
        ("KHALA_AUTH__TRUSTED_PROXIES", "['10.0.0.1']", "auth.trusted_proxies"),
        ("KHALA_DATABASE", "postgres://127.0.0.1:1/khala", "database"),
        ("KHALA_MINT__SECRET", SECRET, "mint.secret"),
    ] {
        let mut command = command(folder.path());
        command.arg("--dev").env(name, value);
        refused(ended(command).await, &["--dev", key, "exclude each other"]);
    }
    assert_eq!(folder.path().read_dir().unwrap().count(), 1, "it leaves nothing behind");
}

#[tokio::test]
async fn bad_settings_are_one_line() {
    let folder = tempfile::tempdir().unwrap();
    let taken = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let taken = taken.local_addr().unwrap().to_string();
    for (name, value, named) in [
        ("KHALA_LISTEN", taken.as_str(), ["listen", &taken]),
        ("KHALA_LISTEN", "nonsense", ["listen", "nonsense"]),
        ("KHALA_LISTN", "127.0.0.1:0", ["KHALA_LISTN", "no setting"]),
        ("KHALA_LIMITS__FRAME_BYTES", "many", ["KHALA_LIMITS__FRAME_BYTES", "many"]),
        ("KHALA_CONFIG", "no-such.toml", ["no-such.toml", "read"]),
        ("KHALA_LOG__FILTER", "a=b=c", ["log.filter", "wrong"]),
    ] {
        let mut command = command(folder.path());
        command.arg("--dev").env("KHALA_LISTEN", "127.0.0.1:0").env(name, value);
        refused(ended(command).await, &named);
    }
    let file = folder.path().join("khala.toml");
    for (text, named) in [
        ("lisen = \"127.0.0.1:0\"", ["khala.toml", "lisen"]),
        ("[session]\ntopic = 1", ["khala.toml", "session.topic"]),
        ("[session]\ntopics = \"many\"", ["session.topics", "many"]),
        ("listen", ["khala.toml", "line 1"]),
    ] {
        std::fs::write(&file, text).unwrap();
        let mut command = command(folder.path());
        command.arg("--config").arg("khala.toml");
        refused(ended(command).await, &named);
    }
    assert_eq!(folder.path().read_dir().unwrap().count(), 1, "it leaves nothing behind");

    std::fs::write(folder.path().join("khala.db"), "this is no database, and long enough to be seen as none")
        .unwrap();
    let mut broken = command(folder.path());
    broken.arg("--dev").env("KHALA_LISTEN", "127.0.0.1:0");
    let (code, _, log) = ended(broken).await;
    assert_eq!(code, Some(2), "{log}");
    assert!(
        log.lines().last().unwrap().starts_with("khala-server: the database khala.db cannot be opened"),
        "{log}"
    );
    assert!(!log.contains("panicked"), "{log}");
}

#[tokio::test]
async fn config_prints_what_is_in_force() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("khala.toml"), "drain_seconds = 3\n[log]\nformat = \"json\"\n")
        .unwrap();
    let mut config = command(folder.path());
    config.args(["config", "--config", "khala.toml"]);
    config.env("KHALA_AUTH__HS256_KEY", "0123456789abcdef0123456789abcdef").env("KHALA_SESSION__TOPICS", "7");
    let (code, output, log) = ended(config).await;
    assert_eq!((code, log.as_str()), (Some(0), ""));
    for line in [
        "drain_seconds = 3",
        "format = \"json\"",
        "topics = 7",
        "hs256_key = \"***\"",
        "listen = \"127.0.0.1:4510\"",
    ] {
        assert!(output.lines().any(|found| found == line), "{line} is not in:\n{output}");
    }
}

/// Settings that contradict each other, and lists and tables that are wrong, from a file or the environment.
#[tokio::test]
async fn contradictions_are_one_line() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("khala.toml");
    for (text, named) in [
        ("auth.admin_token = \"a\"\nauth.admin_token_file = \"b\"", ["auth.admin_token", "exclude"]),
        ("auth.admin_token = \"short\"", ["auth.admin_token", "32 characters"]),
        ("auth.keys_file = \"none.json\"", ["auth.keys_file", "none.json"]),
        ("auth.jwks_url = \"http://idp.example/keys\"", ["auth.jwks_url", "https"]),
        ("auth.origins = [\"app.example\"]", ["auth.origins", "app.example"]),
        ("auth.trusted_proxies = [\"proxy\"]", ["auth.trusted_proxies", "proxy"]),
        ("jwt.bind_claims = [\"Team\"]", ["jwt.bind_claims", "Team"]),
        ("jwt.claim_names.scopes = \"org_id\"", ["jwt.claim_names.organisation", "org_id"]),
        ("jwt.max_age_seconds = \"never\"", ["jwt.max_age_seconds", "none"]),
        ("[[auth.keys]]\nkid = \"a\"\nalgorithm = \"HS256\"", ["auth.keys[0]", "secret_file"]),
        (
            "[[auth.keys]]\nkid = \"a\"\nalgorithm = \"HS512\"\npublic_key_file = \"x\"",
            ["auth.keys[0]", "HS512"],
        ),
        (
            "[[auth.keys]]\nkid = \"a\"\nalgorithm = \"HS256\"\nsecret = \"short\"",
            ["auth.keys[0]", "32 bytes"],
        ),
        ("[[auth.keys]]\nkdi = \"a\"", ["auth.keys[0].kdi", "khala.toml"]),
        ("[mint]\nkid = \"a\"", ["mint.kid", "mint.key_file"]),
        ("[mint]\nsecret = \"short\"", ["mint.secret", "32 characters"]),
        ("[mint]\nkey_file = \"x\"\nkid = \"a\"\nalgorithm = \"ES256\"", ["mint.key_file", "mint.secret"]),
        (
            "mint.secret = \"a-mint-secret-of-32-characters!!\"\nauth.jwks_url = \"http://127.0.0.1:1/\"",
            ["mint.key_file", "sign"],
        ),
        (
            "mint.secret = \"a-mint-secret-of-32-characters!!\"\nmint.max_ttl_seconds = 99999",
            ["mint.max_ttl_seconds", "jwt.max_age_seconds"],
        ),
        (
            "mint.secret = \"a-mint-secret-of-32-characters!!\"\nmint.min_ttl_seconds = 0",
            ["mint.min_ttl_seconds", "at least 1"],
        ),
        (
            "mint.secret = \"a-mint-secret-of-32-characters!!\"\nmint.claims = [\"sub\"]",
            ["mint.claims", "sub"],
        ),
        ("[mint.credential]\naudience = \"a\"", ["mint.credential.audience", "jwks_url"]),
        ("[mint.credential]\njwks_url = \"https://127.0.0.1/\"", ["mint.credential.scopes", "no scopes"]),
        ("[mint.credential]\nkey_file = \"x\"", ["mint.credential.key_file", "no key"]),
        ("[[classes]]\nname = \"a\"\npattern = \"**:x\"", ["classes[0].pattern", "wrong"]),
        (
            "[[classes]]\nname = \"a\"\npattern = \"x\"\n[[classes]]\nname = \"a\"\npattern = \"y\"",
            ["classes", "two"],
        ),
        ("[[classes]]\nname = \"a\"\npattern = \"x\"\nreed = []", ["classes[0].reed", "classes[].read"]),
        ("[compatibility]\nclient_build = {min = \"v1\"}", ["compatibility.client_build.min", "1.20.3"]),
        (
            "[compatibility]\nschema_version = {min = 3, max = 2}",
            ["compatibility.schema_version", "max is below min"],
        ),
        (
            "admission.joins_per_address = {per_second = 0, burst = 1}",
            ["admission.joins_per_address", "wrong"],
        ),
        (
            "admission.joins_per_address = {per_second = 1, bursts = 1}",
            ["admission.joins_per_address", "bursts"],
        ),
        ("admission.connections_per_address = 0", ["admission.connections_per_address", "wrong"]),
    ] {
        std::fs::write(&file, text).unwrap();
        let mut command = command(folder.path());
        command.env("KHALA_LISTEN", "127.0.0.1:0").arg("--config").arg("khala.toml");
        if !text.contains("auth.jwks_url") {
            command.env("KHALA_AUTH__HS256_KEY", KEY);
        }
        refused(ended(command).await, &named);
    }
    std::fs::remove_file(&file).unwrap();
    for (name, value, named) in [
        ("KHALA_AUTH__ORIGINS", "https://a.example", ["KHALA_AUTH__ORIGINS", "list"]),
        ("KHALA_JWT__REQUIRE_JTI", "perhaps", ["KHALA_JWT__REQUIRE_JTI", "boolean"]),
        ("KHALA_JWT__MAX_AGE_SECONDS", "long", ["KHALA_JWT__MAX_AGE_SECONDS", "none"]),
        ("KHALA_AUTH__KEYS", "[{kdi = 'a'}]", ["KHALA_AUTH__KEYS", "auth.keys[0].kdi"]),
        ("KHALA_MINT__CREDENTIAL", "{}", ["KHALA_MINT__CREDENTIAL", "no setting"]),
        ("KHALA_MINT__CREDENTIAL__ISSUER__X", "a", ["KHALA_MINT__CREDENTIAL__ISSUER__X", "no setting"]),
    ] {
        let mut command = command(folder.path());
        command.env("KHALA_LISTEN", "127.0.0.1:0").env(name, value);
        refused(ended(command).await, &named);
    }
}

#[tokio::test]
async fn config_masks_every_secret() {
    const SECRET: &str = "0123456789abcdef0123456789abcdef";
    let folder = tempfile::tempdir().unwrap();
    let mut config = command(folder.path());
    config.arg("config");
    for name in ["KHALA_AUTH__HS256_KEY", "KHALA_AUTH__ADMIN_TOKEN", "KHALA_MINT__SECRET"] {
        config.env(name, SECRET);
    }
    let keys = format!("[{{kid = 'a', algorithm = 'HS256', secret = '{SECRET}'}}]");
    config.env("KHALA_AUTH__KEYS", keys).env("KHALA_ADMISSION__JOINS_PER_CONNECTION", "none");
    config.env("KHALA_ADMISSION__CONNECTS_PER_ADDRESS", "{per_second = 5, burst = 50}");
    config.env("KHALA_AUTH__ORIGINS", "['https://a.example']");
    let (code, output, log) = ended(config).await;
    assert_eq!((code, log.as_str()), (Some(0), ""));
    assert!(!output.contains(SECRET), "{output}");
    assert_eq!(output.matches("\"***\"").count(), 4, "{output}");
    for text in
        ["joins_per_connection = \"none\"", "per_second = 5", "https://a.example", "max_age_seconds = 86400"]
    {
        assert!(output.contains(text), "{text} is not in:\n{output}");
    }
    // What is printed can be read again.
    std::fs::write(folder.path().join("khala.toml"), &output).unwrap();
    let mut again = command(folder.path());
    again.args(["config", "--config", "khala.toml"]);
    assert_eq!(ended(again).await.1, output);
}
