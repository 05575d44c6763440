//! A folder whose name contains line breaks and control sequences. It cannot add a line to any output or log.

use std::fs;
use std::io::{BufRead, BufReader};
use std::os::unix::net::UnixDatagram;
use std::process::{Command, Stdio};

use super::foreign_files::bare;
use crate::support::{DEADLINE, Place, signal};

const NAME: &str = "clone\nFORGED=1 autoappdev listens on this\r\u{1b}[2J";
/// The name as it is shown.
const SHOWN: &str = r"clone\nFORGED=1 autoappdev listens on this\r\u{1b}[2J";

/// Panics if the text has a line from the folder's name, or a sequence that controls a terminal.
fn check(what: &str, text: &str) {
    assert!(text.lines().all(|line| !line.starts_with("FORGED")), "{what}: {text}");
    assert!(!text.contains(['\u{1b}', '\r']), "{what}: {text:?}");
}

#[test]
fn folder_name_with_line_breaks_cannot_forge_lines() {
    let place = Place::new();
    let folder = place.folder().join(NAME);
    fs::create_dir(&folder).expect("creates");
    let command = |args: &[&str]| {
        let mut command = bare(&place, args);
        command.current_dir(&folder).env("AUTOAPPDEV_PORT", "0").stdin(Stdio::null());
        command
    };
    let said = |what: &str, mut command: Command| {
        let output = command.output().expect("runs");
        let text = String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned();
        check(what, &text);
        text
    };
    for args in [&["status"][..], &["logs", "-n", "1"], &["pair"], &["check"], &["migrate"], &["check"], &["check", "--json"]] {
        said(&format!("{args:?}"), command(args));
    }
    assert!(said("migrate", command(&["migrate"])).contains(SHOWN), "it names the database");
    assert!(said("status", command(&["status"])).contains(SHOWN), "it names the folder");

    let manager = UnixDatagram::bind(place.folder().join("notify")).expect("binds");
    manager.set_read_timeout(Some(DEADLINE)).expect("not zero");
    let errors = place.folder().join("errors");
    let mut serve = command(&["serve"]);
    // With a configured token, the output says where the other token is.
    serve
        .env("AUTOAPPDEV_READ_TOKEN", "a-token-that-reads-and-no-more")
        .env("AUTOAPPDEV_PIPELINE_SCRIPT", "missing.sh")
        .env("NOTIFY_SOCKET", place.folder().join("notify"));
    let mut server = serve.stdout(Stdio::piped()).stderr(fs::File::create(&errors).expect("creates")).spawn().expect("spawns");
    let mut lines = BufReader::new(server.stdout.take().expect("piped")).lines().map_while(Result::ok);
    let first = lines.next().expect("it serves");
    assert!(first.starts_with("autoappdev listens on http://"), "{first}");
    let mut notice = [0; 4096];
    let length = manager.recv(&mut notice).expect("it is ready");
    check("the service manager's", &String::from_utf8_lossy(&notice[..length]));
    assert!(String::from_utf8_lossy(&notice[..length]).contains(SHOWN), "the status names the socket");
    // A second server names the directory that is in use.
    assert!(said("a second server", command(&["serve"])).contains(SHOWN), "it names the directory");
    said("status", command(&["status"]));
    signal(server.id(), "TERM");
    let rest: Vec<String> = lines.collect();
    check("serve", &rest.join("\n"));
    server.wait().expect("ours");
    check("its errors", &fs::read_to_string(&errors).expect("text"));
    check("its log", &fs::read_to_string(folder.join("runtime/backend.log")).expect("text"));
}
