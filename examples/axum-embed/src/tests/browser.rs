//! The page in headless Chromium, driven over the DevTools protocol.
//!
//! # Invariants
//! The browser resolves no name but `localhost`, so that nothing leaves the machine; it ends with the test.

use std::{
    fs,
    os::unix::process::CommandExt as _,
    process::{Command, Stdio},
};

use axum::{
    extract::Request,
    http::{HeaderMap, header},
    middleware::{Next, from_fn_with_state},
    response::Response,
};
use khala_testing::Guardian;
use tokio::time::sleep;

use super::*;

const SOON: Duration = Duration::from_millis(20);

struct Browser {
    socket: WebSocketStream<TcpStream>,
    calls: u64,
    // Declared in this order: the browser ends before its profile is removed.
    _guardian: Guardian,
    _profile: tempfile::TempDir,
}

/// A page that is open, by the id of its session.
struct Tab(String);

impl Browser {
    async fn start() -> Self {
        let profile = tempfile::tempdir().unwrap();
        let mut guardian = Guardian::without_folder();
        let mut command = Command::new("chromium");
        command.args(["--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage"]);
        command.args(["--no-first-run", "--disable-background-networking", "--disable-component-update"]);
        command.arg("--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1, EXCLUDE localhost");
        command.arg("--remote-debugging-port=0").arg(format!("--user-data-dir={}", profile.path().display()));
        command.process_group(0).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        let browser = command.spawn();
        let mut browser =
            browser.unwrap_or_else(|fault| panic!("chromium: {fault}; run scripts/setup --tests"));
        guardian.guards(browser.id());
        let started = Instant::now();
        let devtools = loop {
            let file = fs::read_to_string(profile.path().join("DevToolsActivePort")).unwrap_or_default();
            if let Some((port, path)) = file.split_once('\n') {
                break format!("127.0.0.1:{port}{path}");
            }
            assert!(browser.try_wait().unwrap().is_none(), "chromium ended");
            assert!(started.elapsed() < 3 * LONG, "chromium does not start");
            sleep(SOON).await;
        };
        let stream = TcpStream::connect(devtools.split('/').next().unwrap()).await.unwrap();
        let (socket, _) = client_async(format!("ws://{devtools}"), stream).await.unwrap();
        Self { socket, calls: 0, _guardian: guardian, _profile: profile }
    }

    /// Calls a method of the protocol, of a page or of the browser itself.
    async fn call(&mut self, tab: Option<&Tab>, method: &str, params: Value) -> Value {
        self.calls += 1;
        let mut call = json!({"id": self.calls, "method": method, "params": params});
        if let Some(Tab(session)) = tab {
            call["sessionId"] = json!(session);
        }
        self.socket.send(Message::text(call.to_string())).await.unwrap();
        loop {
            let message = timeout(LONG, self.socket.next()).await.unwrap().unwrap().unwrap();
            let mut answer: Value = serde_json::from_str(message.to_text().unwrap()).unwrap();
            if answer["id"] == self.calls {
                return answer["result"].take();
            }
        }
    }

    async fn open(&mut self, url: &str) -> Tab {
        let target = self.call(None, "Target.createTarget", json!({"url": url})).await["targetId"].take();
        let attach = json!({"targetId": target, "flatten": true});
        let session = self.call(None, "Target.attachToTarget", attach).await["sessionId"].take();
        let tab = Tab(session.as_str().unwrap().to_owned());
        let loaded = format!("location.href === {} && document.readyState === 'complete'", json!(url));
        self.until(&tab, &loaded).await;
        tab
    }

    /// What an expression gives; of a promise, what comes of it.
    async fn eval(&mut self, tab: &Tab, expression: &str) -> Value {
        let params = json!({"expression": expression, "awaitPromise": true, "returnByValue": true});
        self.call(Some(tab), "Runtime.evaluate", params).await["result"]["value"].take()
    }

    /// Waits until an expression is true.
    async fn until(&mut self, tab: &Tab, expression: &str) {
        let started = Instant::now();
        while self.eval(tab, expression).await != json!(true) {
            if started.elapsed() > LONG {
                let page = self.eval(tab, "document.body.innerText").await;
                panic!("{expression} does not come true on {page}");
            }
            sleep(SOON).await;
        }
    }

    /// What comes of a WebSocket and of a request with cookies, from a page to the application.
    async fn tries(&mut self, tab: &Tab, address: &str) -> Value {
        let script = format!(
            r#"Promise.all([
                new Promise((resolve) => {{
                    const socket = new WebSocket("ws://{address}{SOCKET}");
                    socket.onopen = () => resolve("open");
                    socket.onclose = ({{ code }}) => resolve(code);
                }}),
                fetch("http://{address}{HISTORY}", {{ credentials: "include" }}).then(() => "read", () => "not read"),
            ])"#
        );
        self.eval(tab, &script).await
    }
}

/// What came to the application, and its answer's status.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Seen {
    origin: String,
    path: String,
    with_cookie: bool,
    status: u16,
}

fn text(headers: &HeaderMap, name: header::HeaderName) -> String {
    headers.get(name).map(|value| value.to_str().unwrap().to_owned()).unwrap_or_default()
}

async fn note(State(seen): State<Arc<Mutex<Vec<Seen>>>>, request: Request, next: Next) -> Response {
    let headers = request.headers();
    let (origin, cookie) = (text(headers, header::ORIGIN), text(headers, header::COOKIE));
    let (path, with_cookie) = (request.uri().path().to_owned(), cookie.contains("login="));
    let response = next.run(request).await;
    let status = response.status().as_u16();
    seen.lock().unwrap().push(Seen { origin, path, with_cookie, status });
    response
}

#[tokio::test]
async fn a_page_follows_its_notes_and_another_origin_does_not() {
    let seen: Arc<Mutex<Vec<Seen>>> = Arc::default();
    let noted = from_fn_with_state(Arc::clone(&seen), note);
    let running = start_with(|router| router.layer(noted)).await;
    let address = &running.address;
    let mut browser = Browser::start().await;

    let page = browser.open(&format!("http://{address}/")).await;
    browser.until(&page, "document.getElementById('logout').onclick !== null").await;
    browser.eval(&page, "document.querySelector('#login button').click()").await;
    let status = "document.getElementById('status').textContent";
    browser.until(&page, &format!("{status} === 'following notes:ada'")).await;

    // A note that the page adds, and one that is added elsewhere.
    let add =
        "document.querySelector('#add input').value = 'mine'; document.querySelector('#add button').click()";
    browser.eval(&page, add).await;
    let ada = User::log_in(address, "ada").await;
    assert_eq!(ada.send("POST", "/notes", r#"{"text":"from elsewhere"}"#).await.status, 200);
    let shown = "[...document.querySelectorAll('#notes li')].map((item) => item.textContent).sort().join()";
    browser.until(&page, &format!("{shown} === 'from elsewhere,mine'")).await;

    // The browser has the secret, and the page has not.
    let cookies = browser.call(None, "Storage.getCookies", json!({})).await;
    let cookie = &cookies["cookies"][0];
    assert_eq!((&cookie["name"], &cookie["httpOnly"]), (&json!("login"), &json!(true)), "{cookies}");
    let secret = cookie["value"].as_str().unwrap();
    assert_eq!(secret.len(), 64);
    let all = "document.cookie + document.documentElement.outerHTML + JSON.stringify([localStorage, sessionStorage])";
    let all = browser.eval(&page, all).await;
    assert!(
        all.as_str().unwrap().contains("from elsewhere") && !all.as_str().unwrap().contains(secret),
        "{all}"
    );
    assert_eq!(browser.eval(&page, "document.cookie").await, "");

    // A page of another port is of the same site, so the browser sends the cookie along.
    let elsewhere = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let stranger = elsewhere.local_addr().unwrap().to_string();
    let nothing = Router::new().route("/", get(Html("<!doctype html><title>Elsewhere</title>")));
    tokio::spawn(async move { axum::serve(elsewhere, nothing).await });
    let localhost = address.replace("127.0.0.1", "localhost");
    for (host, with_cookie) in [(&stranger, true), (&localhost, false)] {
        let origin = format!("http://{host}");
        let page = browser.open(&format!("{origin}/")).await;
        assert_eq!(browser.tries(&page, address).await, json!([1006, "not read"]), "{origin}");
        for path in [SOCKET.split('?').next().unwrap(), HISTORY] {
            let refused = Seen { origin: origin.clone(), path: path.to_owned(), with_cookie, status: 403 };
            let seen = seen.lock().unwrap();
            assert!(seen.contains(&refused), "{refused:?} is not among {seen:?}");
        }
    }
    // The same from the application's own page.
    assert_eq!(browser.tries(&page, address).await, json!(["open", "read"]));

    browser.eval(&page, "document.getElementById('logout').click()").await;
    browser.until(&page, &format!("{status} === 'closed: 4003 token_revoked'")).await;
    assert_eq!(browser.eval(&page, "fetch('/login').then(({ status }) => status)").await, 401);
    let cookies = browser.call(None, "Storage.getCookies", json!({})).await;
    assert_eq!(cookies["cookies"], json!([]), "it is forgotten");
}
