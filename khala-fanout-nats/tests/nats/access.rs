//! Who is let in, whom it trusts, and what it says when not.

use std::{
    fs,
    path::{Path, PathBuf},
    time::{SystemTime, UNIX_EPOCH},
};

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use khala_core::fanout::Fanout as _;
use khala_fanout_nats::{NatsCredentials, NatsFanout, NatsOptions};
use khala_testing::Nats;
use nkeys::KeyPair;
use rcgen::{BasicConstraints, CertificateParams, ExtendedKeyUsagePurpose, IsCa, Issuer};
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::{head, node, options, topic, until, within};

fn user(user: &str, password: &str) -> NatsCredentials {
    NatsCredentials::User { user: user.to_owned(), password: password.to_owned() }
}

/// They are let in, and heard.
async fn let_in(options: NatsOptions) {
    let fanout = NatsFanout::connect(options).await.unwrap();
    within(fanout.connected()).await;
    fanout.announce(&topic("t"), head(1, 1)).await.unwrap();
    within(fanout.flush()).await.unwrap();
    assert_eq!(fanout.state().fault, None);
}

/// They are not let in, and told so.
async fn kept_out(options: NatsOptions, why: &str) -> NatsFanout {
    let fanout = within(NatsFanout::connect(options)).await.unwrap();
    until(why, || fanout.state().fault.is_some_and(|fault| fault.contains(why))).await;
    assert!(!fanout.is_connected());
    let error = fanout.announce(&topic("t"), head(1, 1)).await.unwrap_err();
    assert!(error.to_string().contains(why), "{error}");
    fanout
}

#[tokio::test]
async fn users_and_passwords() {
    let nats = Nats::start_with("authorization { user: ann, password: right }");
    let options = options(nats.port());
    let_in(NatsOptions { credentials: user("ann", "right"), ..options.clone() }).await;
    let_in(NatsOptions {
        servers: vec![format!("nats://ann:right@127.0.0.1:{}", nats.port())],
        ..options.clone()
    })
    .await;
    kept_out(options.clone(), "authorization violation; check the user and password").await;
    let fanout =
        kept_out(NatsOptions { credentials: user("ann", "wrong"), ..options }, "authorization violation")
            .await;
    nats.kill();
    nats.configure("authorization { user: ann, password: wrong }");
    nats.restart();
    within(fanout.connected()).await;
}

#[tokio::test]
async fn tokens() {
    let nats = Nats::start_with("authorization { token: right }");
    let options = options(nats.port());
    let_in(NatsOptions { credentials: NatsCredentials::Token("right".into()), ..options.clone() }).await;
    let_in(NatsOptions { servers: vec![format!("right@127.0.0.1:{}", nats.port())], ..options.clone() })
        .await;
    kept_out(
        NatsOptions { credentials: NatsCredentials::Token("wrong".into()), ..options },
        "authorization violation",
    )
    .await;
}

#[tokio::test]
async fn nkeys_of_users() {
    let folder = TempDir::new().unwrap();
    let (right, wrong) = (KeyPair::new_user(), KeyPair::new_user());
    let file = |name: &str, text: String| {
        let path = folder.path().join(name);
        fs::write(&path, text).unwrap();
        path
    };
    let seed = right.seed().unwrap();
    let plain = file("plain.nk", format!("{seed}\n"));
    let framed = file(
        "framed.nk",
        format!("-----BEGIN USER NKEY SEED-----\n{seed}\n------END USER NKEY SEED------\n"),
    );
    let other = file("other.nk", wrong.seed().unwrap());
    let nats =
        Nats::start_with(&format!("authorization {{ users: [ {{ nkey: {} }} ] }}", right.public_key()));
    let options = options(nats.port());
    let_in(NatsOptions { credentials: NatsCredentials::NkeyFile(plain), ..options.clone() }).await;
    let_in(NatsOptions { credentials: NatsCredentials::NkeyFile(framed), ..options.clone() }).await;
    kept_out(
        NatsOptions { credentials: NatsCredentials::NkeyFile(other), ..options },
        "authorization violation",
    )
    .await;
}

#[tokio::test]
async fn credentials_files() {
    let (operator, account, user) = (KeyPair::new_operator(), KeyPair::new_account(), KeyPair::new_user());
    let operator_jwt = jwt(&operator, &operator, "operator", json!({}));
    let account_jwt = jwt(
        &operator,
        &account,
        "account",
        json!({"limits": {"subs": -1, "data": -1, "payload": -1, "conn": -1, "leaf": -1, "imports": -1,
            "exports": -1, "wildcards": true}}),
    );
    let nats = Nats::start_with(&format!(
        "operator: \"{operator_jwt}\"\nresolver: MEMORY\nresolver_preload {{ {}: \"{account_jwt}\" }}\n",
        account.public_key()
    ));
    let folder = TempDir::new().unwrap();
    let credentials = |name: &str, issuer: &KeyPair| {
        let path = folder.path().join(name);
        let jwt = jwt(issuer, &user, "user", json!({"subs": -1, "data": -1, "payload": -1}));
        let seed = user.seed().unwrap();
        let text = format!(
            "-----BEGIN NATS USER JWT-----\n{jwt}\n------END NATS USER JWT------\n\n\
             -----BEGIN USER NKEY SEED-----\n{seed}\n------END USER NKEY SEED------\n"
        );
        fs::write(&path, text).unwrap();
        path
    };
    let options = options(nats.port());
    let_in(NatsOptions {
        credentials: NatsCredentials::CredentialsFile(credentials("right.creds", &account)),
        ..options.clone()
    })
    .await;
    let stranger = KeyPair::new_account();
    let strange = credentials("wrong.creds", &stranger);
    kept_out(
        NatsOptions { credentials: NatsCredentials::CredentialsFile(strange), ..options },
        "authorization violation",
    )
    .await;
}

/// A JWT as NATS has them.
fn jwt(issuer: &KeyPair, subject: &KeyPair, kind: &str, mut nats: Value) -> String {
    nats["type"] = kind.into();
    nats["version"] = 2.into();
    let claims = json!({
        "iat": SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs(),
        "iss": issuer.public_key(),
        "jti": subject.public_key(),
        "name": kind,
        "sub": subject.public_key(),
        "nats": nats,
    });
    let encoded = |part: &Value| URL_SAFE_NO_PAD.encode(part.to_string());
    let signed = format!("{}.{}", encoded(&json!({"typ": "JWT", "alg": "ed25519-nkey"})), encoded(&claims));
    let signature = issuer.sign(signed.as_bytes()).unwrap();
    format!("{signed}.{}", URL_SAFE_NO_PAD.encode(signature))
}

#[tokio::test]
async fn a_user_who_may_not_publish_is_told_of_it() {
    let nats = Nats::start_with(
        "authorization { users: [ { user: ann, password: right, permissions: { publish: \"other.>\" } } ] }",
    );
    let fanout =
        NatsFanout::connect(NatsOptions { credentials: user("ann", "right"), ..options(nats.port()) })
            .await
            .unwrap();
    within(fanout.connected()).await;
    let _ = fanout.announce(&topic("t"), head(1, 1)).await;
    until("it is told", || {
        fanout.state().fault.is_some_and(|fault| fault.contains("Permissions Violation for Publish"))
    })
    .await;
    assert!(fanout.is_connected());
}

/// What that user may subscribe to.
fn may_subscribe(what: &str) -> String {
    format!(
        "authorization {{ users: [ {{ user: ann, password: right, permissions: {{ publish: \">\", subscribe: {what} }} }} ] }}"
    )
}

/// Permissions are taken away from nodes that listen, and given back, while the connections stay.
async fn hears_again_after(taken: &str) {
    let nats = Nats::start_with(&may_subscribe("\">\""));
    let options = NatsOptions { credentials: user("ann", "right"), ..options(nats.port()) };
    let (one, other) = (NatsFanout::connect(options.clone()).await, NatsFanout::connect(options).await);
    let (one, other) = (one.unwrap(), other.unwrap());
    until("both listen", || one.listens() && other.listens()).await;
    let t = topic("t");
    let mut watch = other.watch(&t).await.unwrap();
    one.announce(&t, head(1, 1)).await.unwrap();
    assert_eq!(within(watch.moved()).await, head(1, 1));

    nats.configure(&may_subscribe(taken));
    nats.reload();
    until("it is told", || !other.listens()).await;
    let state = other.state();
    assert!(state.deaf.is_some_and(|why| why.contains("permissions")));
    assert!(state.fault.is_some_and(|fault| fault.contains("Permissions Violation for Subscription")));

    nats.configure(&may_subscribe("\">\""));
    nats.reload();
    until("it hears again", || one.listens() && other.listens()).await;
    one.announce(&t, head(1, 2)).await.unwrap();
    assert_eq!(within(watch.moved()).await, head(1, 2));
    assert_eq!(other.state().fault, None);
}

#[tokio::test]
async fn a_node_hears_again_once_it_may() {
    hears_again_after("\"nothing\"").await;
}

#[tokio::test]
async fn a_topic_is_heard_again_once_it_may_be() {
    hears_again_after("{ allow: \">\", deny: \"*.head.t\" }").await;
}

#[tokio::test]
async fn a_node_whose_beat_is_swallowed_is_told_of_it() {
    // It may subscribe to everything: nothing is refused that it subscribes to, and nothing of its own comes back.
    let nats = Nats::start_with(
        "authorization { users: [ { user: ann, password: right, permissions: { publish: { allow: \">\", deny: \"*.echo.*\" } } } ] }",
    );
    let fanout =
        NatsFanout::connect(NatsOptions { credentials: user("ann", "right"), ..options(nats.port()) })
            .await
            .unwrap();
    until("it is told", || fanout.state().deaf.is_some_and(|why| why.contains("does not come back"))).await;
    assert!(!fanout.listens());
}

/// The beat's own subscription was made first: it comes back, whatever is refused after it.
#[tokio::test]
async fn a_node_that_watches_more_topics_than_the_server_takes_is_told_of_it() {
    let nats = Nats::start_with("max_subscriptions: 10");
    let (one, other) = (node(nats.port()).await, node(nats.port()).await);
    until("both listen", || one.listens() && other.listens()).await;
    let topics: Vec<_> = (0..20).map(|n| topic(&format!("t{n}"))).collect();
    let mut watches = Vec::new();
    for topic in &topics {
        watches.push(other.watch(topic).await.unwrap());
    }
    until("it is told", || other.state().deaf.is_some_and(|why| why.contains("max_subscriptions"))).await;
    let state = other.state();
    assert!(
        state.fault.as_ref().is_some_and(|fault| fault.contains("maximum subscriptions exceeded")),
        "{state:?}"
    );
    one.announce(&topics[0], head(1, 1)).await.unwrap();
    assert_eq!(within(watches[0].moved()).await, head(1, 1), "the first are heard all the same");
    assert_eq!(
        (other.listens(), other.state().reconnects),
        (false, 0),
        "a new connection would mend nothing"
    );

    nats.kill();
    nats.configure("");
    nats.restart();
    until("both listen", || one.listens() && other.listens()).await;
    one.announce(&topics[19], head(1, 1)).await.unwrap();
    assert_eq!(within(watches[19].moved()).await, head(1, 1));
    assert_eq!(other.state().fault, None);
}

/// An authority, and what it has signed.
struct Authority {
    folder: TempDir,
    issuer: Issuer<'static, rcgen::KeyPair>,
}

impl Authority {
    fn new() -> Self {
        let folder = TempDir::new().unwrap();
        let key = rcgen::KeyPair::generate().unwrap();
        let mut params = CertificateParams::new([]).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let certificate = params.self_signed(&key).unwrap();
        fs::write(folder.path().join("ca.pem"), certificate.pem()).unwrap();
        Self { folder, issuer: Issuer::new(params, key) }
    }

    fn path(&self) -> PathBuf {
        self.folder.path().join("ca.pem")
    }

    /// Signs a certificate for that name, and gives the files of it and of its key.
    fn certify(&self, name: &str) -> (PathBuf, PathBuf) {
        let key = rcgen::KeyPair::generate().unwrap();
        let mut params = CertificateParams::new([name.to_owned()]).unwrap();
        params.extended_key_usages =
            vec![ExtendedKeyUsagePurpose::ClientAuth, ExtendedKeyUsagePurpose::ServerAuth];
        let certificate = params.signed_by(&key, &self.issuer).unwrap();
        let file = |what: &str| self.folder.path().join(format!("{name}.{what}.pem"));
        fs::write(file("certificate"), certificate.pem()).unwrap();
        fs::write(file("key"), key.serialize_pem()).unwrap();
        (file("certificate"), file("key"))
    }

    /// The configuration of a server that it vouches for.
    fn server(&self, more: &str) -> String {
        let (certificate, key) = self.certify("127.0.0.1");
        let file = |path: &Path| path.display().to_string();
        format!(
            "tls {{ cert_file: {:?}, key_file: {:?}, ca_file: {:?}, timeout: 10 {more} }}\n",
            file(&certificate),
            file(&key),
            file(&self.path())
        )
    }
}

#[tokio::test]
async fn servers_are_trusted_by_their_authority() {
    let authority = Authority::new();
    let nats = Nats::start_with(&authority.server(""));
    let options = options(nats.port());
    let_in(NatsOptions { tls_ca_file: Some(authority.path()), ..options.clone() }).await;
    let address = format!("tls://127.0.0.1:{}", nats.port());
    let_in(NatsOptions { servers: vec![address], tls_ca_file: Some(authority.path()), ..options.clone() })
        .await;
    kept_out(options.clone(), "not trusted here: name its root certificates").await;
    kept_out(
        NatsOptions { tls_ca_file: Some(Authority::new().path()), ..options.clone() },
        "invalid peer certificate",
    )
    .await;
    let elsewhere = format!("nats://localhost:{}", nats.port());
    kept_out(
        NatsOptions { servers: vec![elsewhere], tls_ca_file: Some(authority.path()), ..options },
        "certificate not valid for name",
    )
    .await;
}

#[tokio::test]
async fn nodes_show_who_they_are_by_certificates() {
    let authority = Authority::new();
    let nats = Nats::start_with(&authority.server(", verify: true"));
    let options = NatsOptions { tls_ca_file: Some(authority.path()), ..options(nats.port()) };
    let (certificate, key) = authority.certify("node");
    let_in(NatsOptions {
        tls_cert_file: Some(certificate.clone()),
        tls_key_file: Some(key.clone()),
        ..options.clone()
    })
    .await;
    let fanout = within(NatsFanout::connect(options.clone())).await.unwrap();
    until("it is told", || fanout.state().fault.is_some()).await;
    assert!(!fanout.is_connected());

    let (_, other) = authority.certify("other");
    let error = NatsFanout::connect(NatsOptions {
        tls_cert_file: Some(certificate),
        tls_key_file: Some(other),
        ..options
    })
    .await
    .unwrap_err();
    assert!(error.to_string().contains("does not go with the client certificate"), "{error}");
}

#[tokio::test]
async fn without_tls_there_is_no_connection_where_it_is_required() {
    let nats = Nats::start();
    kept_out(NatsOptions { require_tls: true, ..options(nats.port()) }, "the server does not speak TLS")
        .await;
}
