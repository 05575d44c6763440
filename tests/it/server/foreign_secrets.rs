//! A runtime directory from an archive contains secrets that the archive's author knows. The server uses none of them.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Command;

use serde_json::{Value, json};

use crate::support::login::LogIn;
use crate::support::network::{OWN_ADDRESS, is_within_own_network};
use crate::support::wire::Wire;
use crate::support::{Answer, Place, copy_all};

const SECRETS: [&str; 3] = ["token", "read-token", "session-key"];
/// The address that the owner uses.
const OWNER: &str = "127.0.0.1";
const SAYS: &str = "secrets that were not made for ";

/// Sends a request to one of the server's addresses, with exactly these header fields. Wrong tokens are counted for each address.
fn ask(at: &str, place: &Place, method: &str, path: &str, fields: &[(&str, &str)], body: &str) -> Answer {
    let mut wire = Wire::of(std::net::TcpStream::connect((at, place.port())).expect("the server listens there"));
    let fields: Vec<String> = fields.iter().map(|(name, value)| format!("{name}: {value}\r\n")).collect();
    let fields = fields.concat();
    let framing = format!("Content-Type: application/json\r\nContent-Length: {}\r\n", body.len());
    let framing = if method == "POST" { framing } else { String::new() };
    wire.send(format!("{method} {path} HTTP/1.1\r\nHost: {at}\r\n{fields}{framing}\r\n{body}"));
    wire.answer()
}

fn log_in(place: &Place, with: &Value) -> Answer {
    ask(OWNER, place, "POST", "/api/login", &[], &with.to_string())
}

fn status_with(place: &Place, token: &str) -> u16 {
    ask(OWNER, place, "GET", "/api/pipeline", &[("Authorization", &format!("Bearer {token}"))], "").status
}

fn secrets_of(runtime: &Path) -> [String; 3] {
    SECRETS.map(|name| fs::read_to_string(runtime.join(name)).expect("there").trim().to_owned())
}

/// Creates a server that other machines can reach, in a network for this test.
fn open_place() -> Place {
    let mut place = Place::new();
    place.set_env("AUTOAPPDEV_HOST", "0.0.0.0");
    place.set_env("AUTOAPPDEV_PIPELINE_SCRIPT", "sleep.sh");
    place
}

fn run(program: &str, args: &[&str], folder: &Path) {
    let output = Command::new(program).args(args).current_dir(folder).output().expect("it is everywhere");
    assert!(output.status.success(), "{program} {args:?}: {output:?}");
}

/// The author of an archive, and the secrets that the author keeps.
struct Author {
    place: Place,
    secrets: [String; 3],
    log_in: LogIn,
    code: String,
}

impl Author {
    /// Packs a runtime directory as `runtime.tar`, with a session in its database, and with these secrets or else those that a
    /// server created for it.
    fn pack(secrets: Option<[&str; 3]>) -> Self {
        let mut place = open_place();
        place.start_server();
        let first = secrets_of(&place.runtime());
        let session = LogIn::of(&log_in(&place, &json!({"token": first[0]})));
        place.bring_token(&first[0]);
        let one_time_code = place.post("/api/pair", json!({})).ok()["code"].as_str().expect("a code").to_owned();
        assert_eq!(
            ask(OWNER, &place, "GET", "/api/pipeline", &session.fields(), "").status,
            200,
            "it is good at the author's server"
        );
        assert_eq!(place.stop_server(), 0);
        for (name, text) in SECRETS.into_iter().zip(secrets.into_iter().flatten()) {
            fs::write(place.runtime().join(name), format!("{text}\n")).expect("writes");
        }
        for name in SECRETS {
            let mode = fs::metadata(place.runtime().join(name)).expect("there").permissions().mode();
            assert_eq!(mode & 0o7777, 0o600, "a server would have no other reason to refuse it");
        }
        run("tar", &["-cpf", "runtime.tar", "runtime"], place.folder());
        Self { secrets: secrets_of(&place.runtime()), log_in: session, code: one_time_code, place }
    }

    fn unpack_for(&self, victim: &Place) {
        let archive = self.place.folder().join("runtime.tar");
        run("tar", &["-xpf", archive.to_str().expect("text")], victim.folder());
        assert_eq!(secrets_of(&victim.runtime()), self.secrets);
    }

    fn assert_gets_nowhere(&self, victim: &Place) {
        let [token, read_token, _] = &self.secrets;
        let post = |path: &str, fields: &[(&str, &str)], body: &Value| {
            ask(OWN_ADDRESS, victim, "POST", path, fields, &body.to_string()).status
        };
        // At most five wrong tokens, because the status would then be 429. A wrong session does not count.
        let bearer = format!("Bearer {token}");
        assert_eq!(post("/api/pipeline/start", &[("Authorization", &bearer)], &json!({})), 401, "{token}");
        let bearer = format!("Bearer {read_token}");
        let read = ask(OWN_ADDRESS, victim, "GET", "/api/pipeline", &[("Authorization", &bearer)], "");
        assert_eq!(read.status, 401, "{read_token}");
        for body in [json!({ "token": token }), json!({ "token": read_token }), json!({"code": self.code})] {
            assert_eq!(post("/api/login", &[], &body), 401, "{body}");
        }
        assert_eq!(ask(OWN_ADDRESS, victim, "GET", "/api/pipeline", &self.log_in.fields(), "").status, 401, "the session");
        assert_eq!(post("/api/pipeline/start", &self.log_in.fields(), &json!({})), 401, "the session");
    }
}

#[test]
fn secrets_from_archive_are_replaced() {
    if !is_within_own_network("secrets_from_archive_are_replaced") {
        return;
    }
    let by_hand = ["token-that-the-author-chose", "viewers-token-of-the-author", "session-key-of-the-author"];
    for secrets in [None, Some(by_hand)] {
        let author = Author::pack(secrets);
        let mut victim = open_place();
        author.unpack_for(&victim);
        victim.start_server();
        author.assert_gets_nowhere(&victim);
        // The victim's own secrets are new, and work.
        let own = secrets_of(&victim.runtime());
        for (name, (own, foreign)) in SECRETS.into_iter().zip(own.iter().zip(&author.secrets)) {
            assert_ne!(own, foreign, "{name}");
            let mode = fs::metadata(victim.runtime().join(name)).expect("there").permissions().mode();
            assert_eq!(mode & 0o7777, 0o600, "{name}");
        }
        assert_eq!((status_with(&victim, &own[0]), status_with(&victim, &own[1])), (200, 200));
        let session = LogIn::of(&log_in(&victim, &json!({"token": own[0]})));
        assert_eq!(ask(OWNER, &victim, "GET", "/api/pipeline", &session.fields(), "").status, 200);
        let log = fs::read_to_string(victim.runtime().join("backend.log")).expect("text");
        let (code, said) = victim.stop_server_and_listen();
        let sentence = format!(
            "{SAYS}{} are replaced: token, read-token, session-key (",
            victim.runtime().canonicalize().expect("there").display()
        );
        assert!(code == 0 && said.matches(&sentence).count() == 1 && said.contains("; log in or pair again;"), "{said}");
        assert!(said.contains("AUTOAPPDEV_TOKEN or AUTOAPPDEV_READ_TOKEN"), "{said}");
        assert!(log.contains(&sentence), "{log}");
        for secret in author.secrets.iter().chain(&own) {
            assert!(!said.contains(secret) && !log.contains(secret), "{said}");
        }
        // A second start has nothing to replace, and the login from the first start is still valid.
        victim.start_server();
        assert_eq!(secrets_of(&victim.runtime()), own);
        assert_eq!(ask(OWNER, &victim, "GET", "/api/pipeline", &session.fields(), "").status, 200);
        author.assert_gets_nowhere(&victim);
        let (code, said) = victim.stop_server_and_listen();
        assert!(code == 0 && !said.contains(SAYS), "{said}");
    }
}

#[test]
fn moved_directory_keeps_its_secrets_and_a_copy_gets_new_ones() {
    let mut place = Place::new();
    place.start_server();
    let (runtime, made) = (place.runtime(), secrets_of(&place.runtime()));
    assert_eq!(place.stop_server(), 0);
    let [moved, copy] = ["moved", "copy"].map(|name| place.folder().join(name));
    fs::rename(&runtime, &moved).expect("moves");
    place.set_env("AUTOAPPDEV_RUNTIME_DIR", moved.to_str().expect("text"));
    place.start_server();
    assert_eq!(secrets_of(&moved), made);
    let (code, said) = place.stop_server_and_listen();
    assert!(code == 0 && !said.contains(SAYS), "{said}");
    copy_all(&moved, &copy);
    assert_eq!(secrets_of(&copy), made);
    place.set_env("AUTOAPPDEV_RUNTIME_DIR", copy.to_str().expect("text"));
    place.start_server();
    let own = secrets_of(&copy);
    for (own, made) in own.iter().zip(&made) {
        assert_ne!(own, made);
    }
    let (code, said) = place.stop_server_and_listen();
    assert!(
        code == 0 && said.contains(&format!("{SAYS}{} are replaced", copy.canonicalize().expect("there").display())),
        "{said}"
    );
    // The original is unchanged.
    assert_eq!(secrets_of(&moved), made);
}

#[test]
fn file_of_configured_token_is_ignored_and_kept() {
    let mut place = Place::new();
    fs::create_dir(place.runtime()).expect("creates");
    for name in ["token", "session-key"] {
        fs::write(place.runtime().join(name), "of-another-directory-1234\n").expect("writes");
        fs::set_permissions(place.runtime().join(name), fs::Permissions::from_mode(0o600)).expect("ours");
    }
    place.use_token("a-token-that-the-owner-chose");
    place.start_server();
    assert_eq!(place.get("/api/pipeline").status, 200);
    let kept = secrets_of(&place.runtime());
    assert_eq!(kept[0], "of-another-directory-1234", "it is not used, so it stays");
    assert_ne!(kept[2], "of-another-directory-1234");
    let fields = [("Authorization", "Bearer of-another-directory-1234")];
    assert_eq!(place.request("GET", "/api/pipeline", &fields, None).status, 401);
    let (code, said) = place.stop_server_and_listen();
    assert!(code == 0 && said.contains(" are replaced: session-key ("), "{said}");
}
