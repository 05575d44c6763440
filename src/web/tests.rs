//! The application behind its listeners, without sockets: what each client gets through each listener.

mod codes;
mod doors;
mod guesses;
mod sessions;
mod steps;

use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use rouille::{Request, Response};
use serde_json::{Value, json};

use super::app::App;
use super::auth::{Authenticator, Trust};
use super::guard::Guard;
use crate::api::version::Server;
use crate::clock::{Clock, SystemClock, Timestamp};
use crate::config::Token;
use crate::feed::Streams;
use crate::health::Inspector;
use crate::log::RunLogs;
use crate::run_dir::Runs;
use crate::runtime_dir::{Prover, Secrets};
use crate::store::{DatabaseFile, Store, Writer};
use crate::supervisor::{Settings, Supervisor};
use crate::transport::{Client, Handler, Reach};

const TOKEN: &str = "the-token-that-acts";
const READ_TOKEN: &str = "the-token-that-looks";
const SERVER_ID: &str = "0123456789abcdef0123456789abcdef";
const NETWORK: &str = "192.168.1.5:8788";
const LOOPBACK: &str = "127.0.0.1:8788";
const PHONE: &str = "192.168.1.77:40000";
const GUESSER: &str = "203.0.113.7:5000";

/// A clock that a test sets: the wall clock in milliseconds, and the time since boot.
#[derive(Clone, Debug)]
struct HandClock(Arc<Mutex<(i64, Duration)>>);

impl HandClock {
    fn new() -> Self {
        Self(Arc::new(Mutex::new((1_800_000_000_000, Duration::from_secs(100)))))
    }

    fn forward(&self, by: Duration) {
        let mut time = self.0.lock().expect("never poisoned");
        *time = (time.0 + i64::try_from(by.as_millis()).expect("short"), time.1 + by);
    }

    /// Moves the wall clock by this many days.
    fn step(&self, days: i64) {
        self.0.lock().expect("never poisoned").0 += days * 86_400_000;
    }
}

impl Clock for HandClock {
    fn now(&self) -> Timestamp {
        Timestamp::from_unix_ms(self.0.lock().expect("never poisoned").0)
    }

    fn since_boot(&self) -> Duration {
        self.0.lock().expect("never poisoned").1
    }
}

/// A real supervisor without a pipeline, for which tests create apps.
struct House {
    dir: tempfile::TempDir,
    supervisor: Option<Supervisor>,
    inspector: Inspector,
    clock: HandClock,
}

impl House {
    fn new() -> Self {
        let dir = tempfile::tempdir().expect("a temp folder");
        let store = Store::open(&dir.path().join("autoappdev.db")).expect("opens").store;
        let settings = Settings {
            runtime_dir: dir.path().to_owned(),
            root: dir.path().to_owned(),
            default_script: None,
            grace: Duration::ZERO,
            uses_cgroups: false,
            keeps_env_values: false,
            usage_every: Duration::ZERO,
            core_bytes_max: None,
            taken_vars: Vec::new(),
            log_segment_bytes: 1 << 20,
            log_run_bytes: 1 << 20,
        };
        let supervisor = Some(Supervisor::start(store, settings, || {}, || {}).expect("starts"));
        Self { dir, supervisor, inspector: Inspector::start(|| None).expect("starts"), clock: HandClock::new() }
    }

    fn authenticator(&self, token: &str) -> Arc<Authenticator> {
        self.authenticator_with(token, self.supervisor.as_ref().expect("it runs").handle().writer().clone())
    }

    fn authenticator_with(&self, token: &str, writer: Writer) -> Arc<Authenticator> {
        let [token, read_token, session_key] =
            [token, READ_TOKEN, "the-key-of-sessions"].map(|text| Token::new(text).expect("good"));
        let secrets = Secrets { token, read_token, session_key };
        Arc::new(Authenticator::start(&secrets, Box::new(self.clock.clone()), writer, || {}).expect("it reads"))
    }

    /// Creates an app for a listener with the default tokens.
    fn app(&self, reach: Reach, needs_token: bool) -> App {
        self.app_with(reach, needs_token, TOKEN)
    }

    fn app_with(&self, reach: Reach, needs_token: bool, token: &str) -> App {
        App {
            identity: Arc::new(Server { id: SERVER_ID.to_owned(), runtime_dir: "/srv/a/runtime".to_owned() }),
            started_at: SystemClock.now(),
            supervisor: self.supervisor.as_ref().expect("it runs").handle(),
            runs: Runs::new(self.dir.path().to_owned()),
            logs: RunLogs::new(self.dir.path().to_owned()),
            pipeline_root: self.dir.path().to_owned(),
            grace: Duration::ZERO,
            database: DatabaseFile::at(&self.dir.path().join("autoappdev.db")),
            guard: Guard::new(reach, vec![], vec![]),
            addresses: Arc::new([address(NETWORK)]),
            authenticator: self.authenticator(token),
            prover: Arc::new(Prover::new(&Token::new("the-key-of-sessions").expect("good"))),
            trust: Trust::of(reach, needs_token),
            budget: Arc::default(),
            health_budget: Arc::default(),
            script_budget: Arc::default(),
            keys_in_use: Arc::default(),
            inspector: self.inspector.clone(),
            streams: Arc::new(Streams::new(
                self.supervisor.as_ref().expect("it runs").handle(),
                self.inspector.clone(),
                Runs::new(self.dir.path().to_owned()),
                RunLogs::new(self.dir.path().to_owned()),
                DatabaseFile::at(&self.dir.path().join("autoappdev.db")),
            )),
        }
    }

    /// Creates an app for a listener on the network, with the default tokens.
    fn network(&self) -> App {
        self.app(Reach::at(address(NETWORK)), true)
    }
}

impl Drop for House {
    fn drop(&mut self) {
        let _no_run_lives = self.supervisor.take().map(Supervisor::stop);
    }
}

fn address(text: &str) -> SocketAddr {
    text.parse().expect("an address")
}

fn ask(app: &App, from: &str, method: &str, path: &str, fields: &[(&str, &str)], body: &str) -> Response {
    ask_as(Some(own_uid()), app, from, method, path, fields, body)
}

/// Sends a request from a process of this user.
fn ask_as(uid: Option<u32>, app: &App, from: &str, method: &str, path: &str, fields: &[(&str, &str)], body: &str) -> Response {
    let mut headers: Vec<(String, String)> =
        fields.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
    headers.push(("Host".to_owned(), "localhost".to_owned()));
    if !body.is_empty() {
        headers.push(("Content-Type".to_owned(), "application/json".to_owned()));
        headers.push(("Content-Length".to_owned(), body.len().to_string()));
    }
    let request = Request::fake_http_from(address(from), method, path, headers, body.as_bytes().to_vec());
    app.handle(&request, &Client::patient(uid))
}

fn own_uid() -> u32 {
    rustix::process::geteuid().as_raw()
}

fn header(response: &Response, name: &str) -> Option<String> {
    response.headers.iter().find(|(key, _)| key.eq_ignore_ascii_case(name)).map(|(_, value)| value.to_string())
}

fn read(response: Response) -> Value {
    let (mut reader, _) = response.data.into_reader_and_size();
    let mut text = String::new();
    std::io::Read::read_to_string(&mut reader, &mut text).expect("text");
    serde_json::from_str(&text).unwrap_or(Value::String(text))
}

/// The header fields that a page sends once it is logged in: its cookie and the matching proof.
type Credentials = Vec<(&'static str, String)>;

fn credentials_of(response: Response) -> Credentials {
    assert_eq!(response.status_code, 200);
    let cookie = header(&response, "Set-Cookie").expect("a cookie").split(';').next().expect("a pair").to_owned();
    let proof = read(response)["proof"].as_str().expect("a proof").to_owned();
    vec![("Cookie", cookie), ("X-AutoAppDev-Proof", proof)]
}

fn log_in(app: &App, token: &str) -> Credentials {
    credentials_of(ask(app, "10.9.9.9:1", "POST", "/api/login", &[], &format!(r#"{{"token":"{token}"}}"#)))
}

fn fields(credentials: &Credentials) -> Vec<(&str, &str)> {
    credentials.iter().map(|(name, value)| (*name, value.as_str())).collect()
}

fn bearer(token: &str) -> Vec<(&'static str, String)> {
    vec![("Authorization", format!("Bearer {token}"))]
}

fn status(app: &App, from: &str, method: &str, path: &str, who: &Credentials) -> u16 {
    ask(app, from, method, path, &fields(who), if method == "POST" { "{}" } else { "" }).status_code
}

/// Creates a one-time code with these credentials.
fn code(app: &App, from: &str, who: &Credentials, may: &str) -> String {
    let answer = read(ask(app, from, "POST", "/api/pair", &fields(who), &json!({ "may": may }).to_string()));
    assert_eq!((&answer["ok"], &answer["may"]), (&json!(true), &json!(may)));
    answer["code"].as_str().expect("a code").to_owned()
}

fn use_code(app: &App, from: &str, code: &str, who: &Credentials) -> Response {
    ask(app, from, "POST", "/api/login", &fields(who), &json!({ "code": code }).to_string())
}

fn sessions(app: &App) -> Vec<Value> {
    let answer = read(ask(app, PHONE, "GET", "/api/sessions", &fields(&bearer(TOKEN)), ""));
    answer["sessions"].as_array().expect("a list").clone()
}

#[test]
fn request_for_another_server_is_refused_before_the_token_check() {
    let house = House::new();
    let app = house.network();
    let fields = |id, token: &'static str| [("AutoAppDev-Server", id), ("Authorization", token)];
    for _ in 0..20 {
        for (method, path) in [("POST", "/api/pipeline/pause"), ("GET", "/api/pipeline"), ("GET", "/"), ("GET", "/api/health")] {
            for id in ["", "0123456789abcdef0123456789abcdee", "0123456789ABCDEF0123456789ABCDEF"] {
                let refused = ask(&app, PHONE, method, path, &fields(id, "Bearer the-other-servers-token"), "");
                assert_eq!((refused.status_code, read(refused)["error"].as_str()), (421, Some("other_server")), "{path} {id}");
            }
        }
    }
    // No wrong try was counted, and the right id is accepted.
    let answered = ask(&app, PHONE, "GET", "/api/version", &fields(SERVER_ID, "Bearer the-token-that-looks"), "");
    assert_eq!(answered.status_code, 200);
    assert_eq!(read(answered)["server"], serde_json::json!({"id": SERVER_ID, "runtime_dir": "/srv/a/runtime"}));
    let stopped = ask(&app, PHONE, "POST", "/api/pipeline/pause", &fields(SERVER_ID, "Bearer the-token-that-acts"), "");
    assert_eq!(stopped.status_code, 409);
}

#[test]
fn login_reports_its_role_and_logout_clears_cookie() {
    let house = House::new();
    let app = house.network();
    for (token, may) in [(TOKEN, "act"), (READ_TOKEN, "look")] {
        let response = ask(&app, PHONE, "POST", "/api/login", &[], &format!(r#"{{"token":"{token}"}}"#));
        let cookie = header(&response, "Set-Cookie").expect("a cookie");
        assert!(!cookie.contains(token));
        let answer = read(response);
        assert_eq!((&answer["ok"], &answer["may"]), (&json!(true), &json!(may)));
        let proof = answer["proof"].as_str().expect("a proof");
        assert_ne!(answer["proof"], answer["download_proof"]);
        let session = read(ask(&app, PHONE, "GET", "/api/session", &[("Cookie", &cookie), ("X-AutoAppDev-Proof", proof)], ""));
        assert_eq!(session["session"]["may"], may);
        assert_eq!(session["session"]["token_needed"], true);
        assert!(session["session"]["expires_at"].as_str().is_some_and(|at| at.starts_with("2027-02-14T")), "{session}");
    }
    let response = ask(&app, PHONE, "POST", "/api/login", &[], r#"{"token":"not-the-right-token"}"#);
    assert_eq!((response.status_code, header(&response, "Set-Cookie")), (401, None));
    assert_eq!(header(&response, "WWW-Authenticate").as_deref(), Some("Bearer realm=\"autoappdev\""));
    let out = header(&ask(&app, PHONE, "POST", "/api/logout", &[], "{}"), "Set-Cookie").expect("a cookie");
    assert!(
        out.contains("=; ")
            && out.contains("Max-Age=0")
            && log_in(&app, TOKEN)[0].1.starts_with(out.split('=').next().expect("a name"))
    );
    // A listener that requires no token accepts every login and stores none.
    let open = house.app(Reach::Socket, false);
    let response = ask(&open, PHONE, "POST", "/api/login", &[], r#"{"token":"whatever"}"#);
    assert_eq!((response.status_code, header(&response, "Set-Cookie")), (200, None));
    assert_eq!(read(response), json!({"ok": true, "may": "act"}));
    assert_eq!(
        read(ask(&open, PHONE, "GET", "/api/session", &[], ""))["session"],
        json!({"may": "act", "token_needed": false, "expires_at": null, "id": null})
    );
}

#[test]
fn wrong_tokens_delay_only_their_address() {
    let house = House::new();
    let app = house.network();
    let session = log_in(&app, TOKEN);
    let (guesser, owner) = ("203.0.113.7:5000", "203.0.113.8:5000");
    let look = |from: &str, token: &str| {
        let field = format!("Bearer {token}");
        ask(&app, from, "GET", "/api/pipeline", &[("Authorization", &field)], "")
    };
    let former = [("Cookie", "autoappdev-00000000=abcd-efgh.abcd"), ("X-AutoAppDev-Proof", "00")];
    for _ in 0..50 {
        let status = ask(&app, guesser, "GET", "/api/pipeline", &former, "").status_code;
        assert_eq!(status, 401, "an old log-in is no wrong try");
    }
    for _ in 0..5 {
        assert_eq!(look(guesser, "not-the-right-token").status_code, 401);
    }
    let refused = look(guesser, "not-the-right-token");
    assert_eq!((refused.status_code, header(&refused, "Retry-After").as_deref()), (429, Some("1")));
    let body = read(refused);
    assert_eq!(body["error"], "too_many_tries");
    assert!(body["detail"].as_str().is_some_and(|text| text.contains("203.0.113.7") && text.contains("in 1 s")), "{body}");
    // Not even the right token from there is checked: a right guess must not be recognisable.
    assert_eq!(look(guesser, TOKEN).status_code, 429);
    assert_eq!(ask(&app, guesser, "POST", "/api/login", &[], &format!(r#"{{"token":"{TOKEN}"}}"#)).status_code, 429);
    assert_eq!(ask(&app, guesser, "GET", "/api/pipeline", &[], "").status_code, 401, "who shows nothing guesses nothing");
    assert_eq!(ask(&app, guesser, "GET", "/", &[], "").status_code, 200);
    assert_eq!(ask(&app, guesser, "GET", "/api/pipeline", &fields(&session), "").status_code, 200, "who is logged in stays so");
    assert_eq!(look(owner, TOKEN).status_code, 200, "another address never waits");
    house.clock.forward(Duration::from_secs(1));
    assert_eq!(look(guesser, TOKEN).status_code, 200);
    // The count continues: the next wrong token doubles the wait, even after right ones.
    assert_eq!(look(guesser, READ_TOKEN).status_code, 200);
    assert_eq!(look(guesser, "not-the-right-token").status_code, 401);
    assert_eq!(header(&look(guesser, TOKEN), "Retry-After").as_deref(), Some("2"));
}

#[test]
fn concurrent_guesses_are_counted_like_sequential_ones() {
    let house = House::new();
    let app = house.network();
    let looked_at: usize = std::thread::scope(|scope| {
        let guess = || {
            (0..50)
                .filter(|_| ask(&app, PHONE, "GET", "/api/pipeline", &[("Authorization", "Bearer no")], "").status_code == 401)
                .count()
        };
        let guessers: Vec<_> = (0..8).map(|_| scope.spawn(guess)).collect();
        guessers.into_iter().map(|guesser| guesser.join().expect("it only asks")).sum()
    });
    assert_eq!(looked_at, 5);
}

#[test]
fn preflight_needs_no_token_and_allows_authorization_field() {
    let house = House::new();
    let friend = "http://localhost:5173";
    let app = App { guard: Guard::new(Reach::at(address(NETWORK)), vec![], vec![friend.to_owned()]), ..house.network() };
    let fields =
        [("Origin", friend), ("Access-Control-Request-Method", "GET"), ("Access-Control-Request-Headers", "authorization")];
    let response = ask(&app, PHONE, "OPTIONS", "/api/pipeline", &fields, "");
    assert_eq!(response.status_code, 204);
    assert!(
        header(&response, "Access-Control-Allow-Headers")
            .is_some_and(|list| list.split(", ").any(|name| name == "authorization"))
    );
    let response = ask(&app, PHONE, "GET", "/api/pipeline", &[("Origin", friend)], "");
    assert_eq!(
        (response.status_code, header(&response, "Access-Control-Allow-Origin").as_deref()),
        (401, Some(friend)),
        "errors can be read"
    );
}

#[test]
fn unknown_path_gets_404_for_every_method() {
    let house = House::new();
    for app in [house.network(), house.app(Reach::Socket, false)] {
        for method in ["GET", "HEAD", "POST", "OPTIONS", "DELETE"] {
            for path in ["/static/nothing.js", "/static/", "/static/app.js/x", "/nothing"] {
                assert_eq!(ask(&app, PHONE, method, path, &[], "").status_code, 404, "{method} {path}");
            }
        }
        assert_eq!(ask(&app, PHONE, "POST", "/static/app.js", &[], "").status_code, 405);
        assert_eq!(ask(&app, PHONE, "OPTIONS", "/static/app.js", &[], "").status_code, 204);
    }
}
