//! Thousands of starts with odd names and odd bodies, in a root that changes meanwhile.

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::os::unix::net::UnixListener;
use std::path::Path;
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use crate::support::wire::Wire;
use crate::support::{Answer, Place, until_true};

use super::odd_names::{file, odd};

/// Pseudo-random numbers, the same in each test run.
struct Dice(u64);

impl Dice {
    fn below(&mut self, n: usize) -> usize {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        usize::try_from((self.0 >> 33) % n as u64).expect("small")
    }

    fn of<'a>(&mut self, words: &[&'a str]) -> &'a str {
        words[self.below(words.len())]
    }
}

/// Parts of names, as they are written between quotes in JSON.
const PARTS: &[&str] = &[
    "",
    ".",
    "..",
    "/",
    "//",
    "a",
    "sub",
    "folder",
    "odd",
    "odd-folder",
    "loop",
    "dangling",
    "pipe",
    "socket",
    "null",
    "out",
    "sealed",
    "sealed/x",
    "flicker",
    "flicker.d",
    "exit.sh",
    "bom",
    "crlf",
    "elf",
    "nul-line",
    "wide",
    " ",
    "-",
    "--",
    "~",
    "*",
    "$HOME",
    "%2e%2e",
    "\\u0000",
    "\\ud800",
    "\\udfff\\ud800",
    "\\ufffd",
    "\\u202e",
    "\\ufeff",
    "\\n",
    "\\r",
    "\\\\",
    "\\\"",
    "'",
    "größe",
    "☃",
    "\u{7f}",
    "proc",
];

fn any_name(dice: &mut Dice) -> String {
    let mut name = String::new();
    for _ in 0..=dice.below(4) {
        name += dice.of(PARTS);
        name += dice.of(&["/", "", "", " "]);
    }
    match dice.below(40) {
        0 => name.repeat(200),
        1 => "x".repeat([254, 255, 256, 4094, 4095, 4096, 70_000][dice.below(7)]),
        2 => format!("/{name}"),
        3 => "sub/../".repeat(dice.below(700)) + &name,
        _ => name,
    }
}

fn any_body(dice: &mut Dice) -> String {
    let (script, cwd) = (any_name(dice), any_name(dice));
    match dice.below(12) {
        0 => format!(r#"{{"cwd":"{cwd}"}}"#),
        1 => format!(r#"{{"script":"{script}","cwd":"{cwd}"}}"#),
        2 => format!(r#"{{"script":"{script}","args":["{cwd}","{script}"]}}"#),
        3 => format!(r#"{{"script":"{script}","env":{{"PATH":"{cwd}","{cwd}":"{script}"}}}}"#),
        4 => format!(r#"{{"script":"{script}","grace_s":{}}}"#, dice.of(&["0", "3600", "1e-9", "-0.0", "1e308", "null"])),
        5 => format!(r#"{{"script":"{script}","{cwd}":1}}"#),
        6 => format!(r#"{{"script":"{script} {cwd}"}}"#),
        _ => format!(r#"{{"script":"{script}"}}"#),
    }
}

/// Creates entries of the root that are not scripts, and some that are.
fn furnish(place: &Place) -> UnixListener {
    let root = place.root();
    fs::create_dir_all(root.join("sub/folder")).expect("creates");
    fs::create_dir_all(root.join("sealed/x")).expect("creates");
    fs::create_dir(root.join(odd("folder"))).expect("creates");
    file(place, odd("file"), b"exit 0\n", 0o644);
    file(place, "bom", b"\xef\xbb\xbf#!/bin/sh\n", 0o755);
    file(place, "crlf", b"#!/bin/sh\r\n", 0o755);
    file(place, "elf", b"\x7fELF\x02\x01", 0o755);
    file(place, "nul-line", b"#!\0\0\0", 0o755);
    file(place, "wide", &[b"#!".as_slice(), &[b'/'; 5_000]].concat(), 0o755);
    for (to, name) in [("loop", "loop"), ("nowhere", "dangling"), ("/dev/null", "null"), ("..", "out"), ("/proc/self", "proc")] {
        symlink(to, root.join(name)).expect("links");
    }
    symlink(odd("file"), root.join("odd")).expect("links");
    symlink(odd("folder"), root.join("odd-folder")).expect("links");
    assert!(Command::new("mkfifo").arg(root.join("pipe")).status().expect("coreutils").success());
    fs::set_permissions(root.join("sealed"), fs::Permissions::from_mode(0o000)).expect("ours");
    UnixListener::bind(root.join("socket")).expect("binds")
}

/// Creates and removes entries until `is_over` is set.
fn flicker(root: &Path, is_over: &AtomicBool) {
    let (path, folder) = (root.join("flicker"), root.join("flicker.d"));
    let mut turn = 0;
    while !is_over.load(Ordering::Relaxed) {
        turn += 1;
        // Each of these can find the entry in any state.
        let _ = fs::remove_file(&path);
        let _ = fs::remove_dir(&folder);
        let _ = match turn % 5 {
            0 => fs::write(&path, "exit 0\n"),
            1 => symlink(odd("file"), &path),
            2 => fs::create_dir(&folder),
            3 => symlink("flicker.d", &path),
            _ => Command::new("mkfifo").arg(&path).status().map(drop),
        };
    }
}

#[test]
fn thousands_of_odd_starts_get_known_codes_and_crash_nothing() {
    let place = Place::serving("exit.sh");
    let _socket = furnish(&place);
    let known: BTreeSet<(u16, &str)> = [
        (400, "invalid_json"),
        (400, "invalid_body"),
        (400, "invalid_script"),
        (400, "script_outside_root"),
        (404, "script_not_found"),
        (422, "spawn_failed"),
    ]
    .into();
    // A file with the highest possible position in the log of a run, which the server did not write.
    place.start();
    place.until_state("stopped");
    fs::write(place.run_dir(1).join("log/18446744073709551615.log"), "x").expect("writes");
    fs::write(place.run_dir(1).join("log/18446744073709551610-18446744073709551615.log.gz"), "x").expect("writes");
    let server = place.server_pid();
    let (is_over, root) = (AtomicBool::new(false), place.root());
    let mut seen = BTreeSet::new();
    thread::scope(|scope| {
        scope.spawn(|| flicker(&root, &is_over));
        let _ends_the_other = Ends(&is_over);
        let mut dice = Dice(20_261_129);
        let mut wire = place.wire();
        for _ in 0..4_000 {
            let body = any_body(&mut dice);
            let answer = ask_start(&mut wire, &body);
            let shown = &body[..body.floor_char_boundary(300)];
            if answer.status == 200 {
                place.until_state("stopped");
                seen.insert((200, "started"));
                continue;
            }
            let code = known.iter().find(|(status, word)| (answer.status, answer.error()) == (*status, *word));
            seen.insert(*code.unwrap_or_else(|| panic!("{shown}: {} {}", answer.status, answer.body)));
            assert!(answer.body["detail"].as_str().is_some_and(|detail| !detail.is_empty()), "{shown}: {}", answer.body);
        }
    });
    fs::set_permissions(place.root().join("sealed"), fs::Permissions::from_mode(0o700)).expect("ours");
    assert!(known.is_subset(&seen) && seen.contains(&(200, "started")), "the bodies have become hollow: {seen:?}");
    assert_eq!(place.server_pid(), server);
    assert_eq!(place.degraded(), None);
    assert!(!place.server_log().contains("panicked"), "{}", place.server_log());
    for run in fs::read_dir(place.runtime().join("runs")).expect("there").flatten() {
        let said = fs::read_to_string(run.path().join("shim.log")).expect("a shim's log");
        assert!(said.is_empty(), "{}: {said}", run.path().display());
    }
    place.start();
    place.until_state("stopped");
    until_true("nothing is left of any run", || place.processes().is_empty());
}

/// Ends the other thread on drop, even if this one fails.
struct Ends<'a>(&'a AtomicBool);

impl Drop for Ends<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

fn ask_start(wire: &mut Wire, body: &str) -> Answer {
    wire.send(format!(
        "POST /api/pipeline/start HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n{body}",
        body.len()
    ));
    wire.answer()
}
