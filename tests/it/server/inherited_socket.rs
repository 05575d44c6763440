//! A Unix socket of the service manager in a directory of another user, who can put any file at its path.

use std::fs;
use std::io::{Read, Write};
use std::os::unix::fs::chown;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::Command;

use super::foreign_files::{ANOTHER, is_root, set_mode};
use super::foreign_owners::as_another;
use crate::support::{DEADLINE, Place};

/// Returns the status line of the response to a request.
fn asked(path: &Path, method: &str, target: &str) -> String {
    let mut stream = UnixStream::connect(path).expect("connects");
    stream.set_read_timeout(Some(DEADLINE)).expect("ours");
    let head = "HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nContent-Type: application/json\r\nContent-Length: 2";
    write!(stream, "{method} {target} {head}\r\n\r\n{{}}").expect("sends");
    let mut answer = String::new();
    stream.read_to_string(&mut answer).expect("an answer, then the end");
    answer[9..12].to_owned()
}

#[test]
fn inherited_socket_with_exchanged_path_does_not_trust_another_user() {
    if !is_root() {
        return;
    }
    let mut place = Place::new();
    place.compile("activate");
    set_mode(place.folder(), 0o755);
    let theirs = place.folder().join("theirs");
    fs::create_dir(&theirs).expect("creates");
    chown(&theirs, Some(ANOTHER), None).expect("we are root");
    let (path, moved) = (theirs.join("a.sock"), theirs.join("b.sock"));
    // The server then finds a private file of its own user there. Every user can open the socket.
    let exchange = format!("mv {0} {1} && install -m 600 /dev/null {0} && exec \"$@\"", path.display(), moved.display());
    let server = place.command();
    let mut command = Command::new(place.root().join("activate"));
    command.args(["tcp", &format!("unix={}:666", path.display()), "--", "/bin/sh", "-c", &exchange, "sh"]);
    command.arg(server.get_program()).current_dir(place.folder());
    for (name, value) in server.get_envs() {
        match value {
            Some(value) => command.env(name, value),
            None => command.env_remove(name),
        };
    }
    command.env("AUTOAPPDEV_PIPELINE_SCRIPT", "sleep.sh");
    place.start_server_with(command);
    let by_another = moved.clone();
    let answers = as_another(move || {
        [("GET", "/api/pipeline"), ("POST", "/api/pipeline/start"), ("GET", "/api/health")]
            .map(|(method, target)| asked(&by_another, method, target))
    });
    assert_eq!(answers[..2], ["401", "401"], "health: {}", answers[2]);
    assert_eq!(asked(&moved, "POST", "/api/pipeline/start"), "200", "the server's own user needs no token");
}
