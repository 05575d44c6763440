//! Trust without a token: only processes of the server's own user have full control.

use std::fs;
use std::process::{Child, Command, Stdio};

use rustix::process::geteuid;
use serde_json::json;

use crate::support::wire::Wire;
use crate::support::{Answer, Place, is_stopped, not_run, signal, until, until_true};

/// Any user who is not root.
const ANOTHER: u32 = 65_534;

const START: &str =
    "POST /api/pipeline/start HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: 0\r\n";

fn is_root() -> bool {
    let is_root = geteuid().is_root();
    if !is_root {
        not_run("another user's process can only be made by root", "AUTOAPPDEV_REQUIRE_ROOT");
    }
    is_root
}

fn ask(mut wire: Wire, request: &str) -> Answer {
    wire.send(format!("{request}\r\n"));
    wire.answer()
}

fn assert_signs_in(answer: &Answer) {
    assert_eq!((answer.status, answer.error()), (401, "unauthorized"), "{answer:?}");
}

fn assert_nothing_was_started(place: &Place) {
    assert_eq!(place.get("/api/runs").ok()["runs"], json!([]));
}

#[test]
fn other_local_user_needs_token_and_own_user_does_not() {
    if !is_root() {
        return;
    }
    let place = Place::serving("sleep.sh");
    let token = fs::read_to_string(place.runtime().join("token")).expect("made at the first boot");
    let bearer = format!("Authorization: Bearer {}\r\n", token.trim());
    for request in [START, "GET /api/pipeline HTTP/1.1\r\nHost: localhost\r\n", "GET /api/logs HTTP/1.1\r\nHost: localhost\r\n"] {
        assert_signs_in(&ask(Wire::open_as(ANOTHER, place.port()), request));
    }
    assert_nothing_was_started(&place);
    // The connection belongs to the other user for as long as it lasts.
    let mut kept = Wire::open_as(ANOTHER, place.port());
    for _ in 0..3 {
        assert_signs_in(&kept.get("/api/pipeline"));
    }
    assert_eq!(ask(kept, &format!("{START}{bearer}")).status, 200, "the token is the way in");
    assert_eq!(ask(place.wire(), "POST /api/pipeline/stop HTTP/1.1\r\nHost: localhost\r\nContent-Length: 0\r\n").status, 200);
}

/// Returns how many connections to this port are still open at the server's end, accepted or not.
fn connections_at(port: u16) -> usize {
    const LISTENING: &str = "0A";
    let table = fs::read_to_string("/proc/net/tcp").expect("Linux");
    // The columns of the table: sl, `local_address`, `rem_address`, st.
    let ends = table.lines().map(|line| line.split_ascii_whitespace().skip(1).collect::<Vec<_>>());
    ends.filter(|fields| fields[0].ends_with(&format!(":{port:04X}")) && fields[2] != LISTENING).count()
}

/// For a socket that no process holds any longer, the kernel reports user 0, and this server runs as root.
#[test]
fn closed_client_is_not_identified() {
    if !is_root() {
        return;
    }
    let place = Place::serving("sleep.sh");
    let server = place.server_pid();
    for _ in 0..20 {
        signal(server, "STOP");
        until_true("the server is stopped", || is_stopped(server));
        let mut wire = Wire::open_as(ANOTHER, place.port());
        wire.send(format!("{START}\r\n"));
        drop(wire);
        signal(server, "CONT");
        until_true("it has been served", || connections_at(place.port()) == 0);
        assert_nothing_was_started(&place);
    }
}

/// An nginx for one test, stopped on drop.
struct Nginx {
    child: Child,
    port: u16,
}

impl Drop for Nginx {
    fn drop(&mut self) {
        // After SIGTERM the workers end with their master.
        signal(self.child.id(), "TERM");
        let _ended = self.child.wait();
    }
}

impl Nginx {
    /// Starts an nginx that serves `location /` with these directives. The workers run as `user`.
    fn start(place: &Place, user: &str, directives: &str) -> Option<Self> {
        let dir = place.folder().join("nginx");
        fs::create_dir_all(&dir).expect("creates");
        for attempt in 0..20 {
            // The port is released again. If another process takes it first, nginx reports that.
            let port = std::net::TcpListener::bind("127.0.0.1:0").expect("binds").local_addr().expect("bound").port();
            let at = dir.display();
            let config = format!(
                "user {user}; worker_processes 1; daemon off; pid {at}/pid; error_log {at}/error;\nevents {{ worker_connections 64; }}\n\
                 http {{ access_log off; client_body_temp_path {at}/b; proxy_temp_path {at}/p; fastcgi_temp_path {at}/f; uwsgi_temp_path {at}/u; \
                 scgi_temp_path {at}/s;\n server {{ listen 127.0.0.1:{port}; location / {{ {directives} }} }} }}\n"
            );
            fs::write(dir.join("conf"), config).expect("writes");
            let mut command = Command::new("nginx");
            command.args(["-e", "stderr", "-p"]).arg(&dir).arg("-c").arg(dir.join("conf"));
            let Ok(mut child) = command.stdout(Stdio::null()).stderr(Stdio::null()).spawn() else {
                not_run("nginx is not installed (Debian: nginx-light)", "AUTOAPPDEV_REQUIRE_NGINX");
                return None;
            };
            let is_up = until("nginx serves or has ended", || match child.try_wait().expect("our child") {
                Some(_) => Some(false),
                None => std::net::TcpStream::connect(("127.0.0.1", port)).is_ok().then_some(true),
            });
            if is_up {
                return Some(Self { child, port });
            }
            eprintln!("attempt {attempt}: {}", fs::read_to_string(dir.join("error")).unwrap_or_default());
        }
        panic!("nginx did not start");
    }
}

#[test]
fn proxied_request_to_loopback_server_needs_token() {
    if !is_root() {
        return;
    }
    let place = Place::serving("sleep.sh");
    let to = format!("proxy_pass http://127.0.0.1:{};", place.port());
    let socket = format!("proxy_pass http://unix:{}:;", place.runtime().join("server.sock").display());
    let usual = "proxy_set_header Host localhost; proxy_http_version 1.1;";
    for (user, directives) in [
        // The configuration in most manuals. No header field reveals the proxy, but it runs as another user.
        ("www-data", to.clone()),
        ("www-data", format!("{to} {usual}")),
        ("root", format!("{to} {usual} proxy_set_header X-Forwarded-For $proxy_add_x_forwarded_for;")),
        ("root", format!("{to} {usual} proxy_set_header X-Real-IP $remote_addr;")),
        ("root", format!("{to} {usual} proxy_set_header X-Forwarded-Proto $scheme; proxy_set_header X-Forwarded-Host $host;")),
        ("root", format!("{to} {usual} proxy_set_header Forwarded for=$remote_addr;")),
        ("root", format!("{socket} {usual} proxy_set_header Via nginx;")),
    ] {
        let Some(nginx) = Nginx::start(&place, user, &directives) else { return };
        for request in [START, "GET /api/pipeline HTTP/1.1\r\nHost: localhost\r\n"] {
            let answer = ask(Wire::open(nginx.port), request);
            assert_eq!((answer.status, answer.error()), (401, "unauthorized"), "{user} {directives}: {answer:?}");
        }
        assert_nothing_was_started(&place);
    }
}

/// The case of a proxy's header fields does not matter, and each request on a connection is checked anew.
#[test]
fn proxy_fields_are_checked_for_each_request() {
    let place = Place::serving("sleep.sh");
    let mut wire = place.wire();
    let ask = |wire: &mut Wire, field: &str| {
        wire.send(format!("GET /api/pipeline HTTP/1.1\r\nHost: localhost\r\n{field}\r\n"));
        wire.answer().status
    };
    for field in ["x-forwarded-for: 203.0.113.7\r\n", "FORWARDED: for=203.0.113.7\r\n", "Via: 1.1 gate\r\n", "X-Real-Ip:\r\n"] {
        assert_eq!((ask(&mut wire, ""), ask(&mut wire, field), ask(&mut wire, "")), (200, 401, 200), "{field}");
    }
}
