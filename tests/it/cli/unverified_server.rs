//! What a client sends to a server that it cannot verify: no token, and no request that acts, because its body can contain
//! secrets.

use std::fs::{self, File};
use std::net::TcpStream;
use std::os::fd::AsFd;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::Path;
use std::process::Command;
use std::thread;

use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

use super::command::{hold, write_server_json};
use super::known_server::{COMMANDS, OF_ENVIRONMENT, Project, heard};
use super::relay::Relay;
use crate::fake_server::FakeServer;
use crate::support::network::is_within_own_network;

/// Client commands that act.
const ACTS: &[&[&str]] = &[
    &["start", "x.sh", "--env", "KEY=secret-of-the-request-body-3"],
    &["pause"],
    &["resume"],
    &["stop"],
    &["pair", "--address", "10.0.0.1"],
    &["sessions", "end", "--all"],
];
const READS: &[&[&str]] = &[&["status"], &["logs"], &["runs", "1"], &["sessions"]];

#[test]
fn action_is_not_sent_to_unverified_server() {
    let project = Project::new();
    let runtime = project.place.runtime();
    let key = runtime.join("session-key");
    let aside = project.place.folder().join("key");
    fs::rename(&key, &aside).expect("moves");
    let put = |text: &str, mode: u32| {
        let _was_none = fs::remove_file(&key);
        fs::write(&key, text).expect("writes");
        fs::set_permissions(&key, fs::Permissions::from_mode(mode)).expect("ours");
    };
    let made = fs::read_to_string(&aside).expect("text");
    let keys: [(&str, &dyn Fn()); 4] = [
        ("cannot be read", &|| ()),
        ("cannot be read", &|| symlink(&aside, &key).expect("links")),
        ("cannot be read", &|| put(&made, 0o644)),
        ("was not made for this directory", &|| put("session-key-of-an-archive\n", 0o600)),
    ];
    for (why, make_key) in keys {
        make_key();
        let stranger = FakeServer::canned(200, r#"{"ok":true}"#);
        write_server_json(&runtime, "x", &stranger);
        let lock = hold(&runtime);
        for envs in [&[][..], &[("AUTOAPPDEV_TOKEN", OF_ENVIRONMENT)]] {
            for args in ACTS {
                let (code, _, err) = project.run(args, envs);
                let sentence = format!("cannot be verified, because {} {why}", key.display());
                assert!(code == 4 && err.contains(&sentence) && err.contains("so nothing was sent to it"), "{args:?}: {err}");
                assert!(err.contains("name it with --url and set the token in the environment"), "{err}");
            }
            assert!(stranger.requests().is_empty(), "{}", heard(&stranger));
        }
        // Reads are sent, without a token.
        for args in READS {
            let _whatever_it_understands = project.run(args, &[("AUTOAPPDEV_TOKEN", OF_ENVIRONMENT)]);
        }
        let heard_so_far = heard(&stranger);
        assert!(heard_so_far.contains("GET /api/pipeline\n") && !heard_so_far.to_lowercase().contains("authorization"));
        assert!(stranger.requests().iter().all(|asked| asked.line.starts_with("GET ")), "{heard_so_far}");
        project.assert_tells_nothing(&heard_so_far, why);
        // A `server.json` whose directory is not locked, and an address that only `.env` names, are not used at all.
        drop(lock);
        let before = stranger.requests().len();
        let port = stranger.address.port();
        for dotenv in [format!("AUTOAPPDEV_PORT={port}\n"), format!("AUTOAPPDEV_URL={}\n", stranger.url())] {
            project.write_dotenv(&dotenv);
            for args in ACTS {
                let (code, _, err) = project.run(args, &[]);
                assert!(code == 4 && err.contains("no server is running for"), "{args:?}: {err}");
            }
        }
        project.write_dotenv("");
        let asked = stranger.requests();
        assert!(asked[before..].iter().all(|asked| asked.line == "GET /api/version"), "{}", heard(&stranger));
        // The user can send the request there by naming the address.
        let named = [("AUTOAPPDEV_URL", &*stranger.url())];
        assert_ne!(project.run(&["--url", &stranger.url(), "stop"], &[]).0, 4);
        assert_ne!(project.run(ACTS[0], &named).0, 4);
        assert!(
            heard(&stranger).contains("POST /api/pipeline/stop") && heard(&stranger).contains("secret-of-the-request-body-3")
        );
    }
    // With the key, the stranger has to prove that it is the right server.
    put(&made, 0o600);
    let stranger = FakeServer::canned(200, r#"{"ok":true}"#);
    write_server_json(&runtime, "x", &stranger);
    let _lock = hold(&runtime);
    assert!(project.run(&["stop"], &[]).2.contains("does not prove that it is the server of this folder"));
}

/// The directory's session key does not exist, so no server can prove that it owns the directory. Another process answers at the
/// recorded address as the server would.
#[test]
fn client_warns_about_responses_of_unverified_server() {
    let mut project = Project::new();
    project.place.start_server();
    let truth = project.place.get("/api/pipeline").body.to_string();
    assert_eq!(project.place.stop_server(), 0);
    let runtime = project.place.runtime();
    fs::remove_file(runtime.join("session-key")).expect("there");
    let stranger = FakeServer::canned(200, &truth);
    write_server_json(&runtime, "x", &stranger);
    let _lock = hold(&runtime);
    let warning = format!("the server at {} could not be verified as the owner of this runtime directory", stranger.url());
    for args in [&["status"][..], &["status", "--json"]] {
        let (code, out, err) = project.run(args, &[]);
        assert!(code == 0 && err.matches(&warning).count() == 1 && err.lines().count() == 1, "{args:?}: {out}{err}");
        assert!(!out.contains("verified"), "{out}");
        if args.contains(&"--json") {
            assert_eq!(out.trim_end(), truth);
        }
    }
    // A follower sends many requests, but warns only once.
    let (_, _, err) = project.run(&["logs", "--lines", "1"], &[]);
    assert!(err.matches(&warning).count() <= 1, "{err}");
    // A user who names the address has chosen that server, so there is nothing to warn about.
    for (args, envs) in
        [(&["--url", &*stranger.url(), "status"][..], &[][..]), (&["status"], &[("AUTOAPPDEV_URL", &*stranger.url())])]
    {
        let (code, _, err) = project.run(args, envs);
        assert_eq!((code, &*err), (0, ""), "{args:?}");
    }
}

/// Calls `act` in a thread that is in the network namespace of a process.
fn within_network_of<T: Send>(namespace: &Path, act: impl FnOnce() -> T + Send) -> T {
    thread::scope(|threads| {
        let done = threads.spawn(|| {
            let namespace = File::open(namespace).expect("the server is alive");
            // Moves this thread, and the processes that it starts.
            move_into_link_name_space(namespace.as_fd(), Some(LinkNameSpaceType::Network)).expect("the test made it");
            act()
        });
        done.join().expect("it does not panic")
    })
}

/// Two network namespaces share a runtime directory, like those of two containers. Each has its own loopback.
#[test]
fn relay_at_same_address_in_another_network_gets_no_token() {
    if !is_within_own_network("relay_at_same_address_in_another_network_gets_no_token") {
        return;
    }
    let mut project = Project::new();
    project.place.set_env("AUTOAPPDEV_SOCKET", "off");
    project.place.use_token(OF_ENVIRONMENT);
    let server = project.place.command();
    let mut elsewhere = Command::new("unshare");
    elsewhere.args(["-n", "bash", "-c", "ip link set lo up && exec \"$@\"", "bash"]).arg(server.get_program());
    elsewhere.current_dir(project.place.folder());
    for (name, value) in server.get_envs() {
        match value {
            Some(value) => elsewhere.env(name, value),
            None => elsewhere.env_remove(name),
        };
    }
    project.place.start_server_with(elsewhere);
    let (port, pid) = (project.place.port(), project.place.server_pid());
    let namespace = std::path::PathBuf::from(format!("/proc/{pid}/ns/net"));
    let envs = [("AUTOAPPDEV_TOKEN", OF_ENVIRONMENT), ("AUTOAPPDEV_SOCKET", "off")];
    // In the server's own namespace, its address leads to it.
    let works = || {
        for args in [&["status"][..], &["start"], &["stop", "--now"]] {
            let (code, _, err) = within_network_of(&namespace, || project.run(args, &envs));
            assert_eq!(code, 0, "{args:?}: {err}");
        }
    };
    works();
    let relay = Relay::at(("127.0.0.1", port), {
        let namespace = namespace.clone();
        // A socket stays in the namespace in which it was created.
        move || within_network_of(&namespace, || TcpStream::connect(("127.0.0.1", port)).expect("the server listens there"))
    });
    for args in COMMANDS.iter().filter(|args| !args.contains(&"-f")).chain(ACTS) {
        let (code, _, err) = project.run(args, &envs);
        let sentence = "does not prove that it is the server of this folder and in the same network namespace as this command";
        assert!(code == 4 && err.contains(sentence) && err.contains("so nothing was sent to it"), "{args:?}: {err}");
        assert!(err.contains("name it with --url and set the token in the environment"), "{err}");
    }
    let told = relay.heard();
    project.assert_tells_nothing(&told, "a relay in another network");
    let lines: Vec<&str> = told.lines().filter(|line| line.contains(" HTTP/1.1")).collect();
    assert!(!lines.is_empty() && lines.iter().all(|line| line.starts_with("GET /api/version?challenge=")), "{told}");
    // The error suggests naming the address.
    let url = format!("http://{}", relay.address);
    assert_eq!(project.run(&["--url", &url, "status"], &envs).0, 0);
    works();
}
