//! Paths that lead a server of this user to a place that another user chose: through links of other users, or through the links
//! and the `.env` of a cloned project.

use std::fs;
use std::os::unix::fs::{MetadataExt, chown, lchown, symlink};
use std::os::unix::net::{UnixListener, UnixStream};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use autoappdev::file_id::FileId;
use rustix::fs::{CWD, RenameFlags, renameat_with};

use super::foreign_files::{ANOTHER, THIRD, bare, copied_binary, ended, entries, is_root, set_mode};
use super::foreign_links::used;
use crate::support::Place;

/// Creates a link in a clone to a runtime directory.
type Make = fn(&Path, &Path);

/// Returns a command in a folder, without a place in its environment.
fn in_folder(place: &Place, folder: &Path, args: &[&str]) -> Command {
    let mut command = bare(place, args);
    command.env("AUTOAPPDEV_PORT", "0").current_dir(folder);
    command
}

fn ids(place: &Place) -> Vec<PathBuf> {
    let rows: i64 = place.sql().query_row("SELECT count(*) FROM pipeline_runs", [], |row| row.get(0)).expect("a number");
    assert_eq!(rows, 3, "no row was removed");
    entries(&place.runtime().join("runs"))
}

#[test]
fn clone_cannot_use_history_of_another_project() {
    let other = used(3);
    let theirs = other.runtime().canonicalize().expect("there");
    let database = theirs.join("autoappdev.db");
    let before = ids(&other);
    let place = Place::new();
    let by_dotenv = format!("AUTOAPPDEV_RUNTIME_DIR={}", theirs.display());
    let database_by_dotenv = format!("DATABASE_URL=sqlite:{}", database.display());
    let by_link_in_dotenv = "DATABASE_URL=sqlite:x.db".to_owned();
    let cases: [(&str, Option<&str>, Make); 5] = [
        ("AUTOAPPDEV_RUNTIME_DIR=", Some(&by_dotenv), |_, _| ()),
        ("AUTOAPPDEV_RUNTIME_DIR=", None, |theirs, clone| symlink(theirs, clone.join("runtime")).expect("links")),
        ("DATABASE_URL=sqlite:", Some(&database_by_dotenv), |_, _| ()),
        ("DATABASE_URL=sqlite:", Some(&by_link_in_dotenv), |theirs, clone| {
            symlink(theirs.join("autoappdev.db"), clone.join("x.db")).expect("links");
        }),
        ("DATABASE_URL=sqlite:", None, |theirs, clone| {
            fs::create_dir(clone.join("runtime")).expect("creates");
            set_mode(&clone.join("runtime"), 0o700);
            symlink(theirs.join("autoappdev.db"), clone.join("runtime/autoappdev.db")).expect("links");
        }),
    ];
    for (n, (setting, dotenv, make)) in cases.into_iter().enumerate() {
        let clone = place.folder().join(format!("clone-{n}"));
        fs::create_dir(&clone).expect("creates");
        make(&theirs, &clone);
        let dotenv = format!("AUTOAPPDEV_RUNS_KEEP=1\n{}\n", dotenv.unwrap_or_default());
        fs::write(clone.join(".env"), &dotenv).expect("writes");
        set_mode(&clone.join(".env"), 0o600);
        let target = if setting.starts_with("DATABASE") { &database } else { &theirs };
        let sentence = format!(
            "it leads to {}, and a project's .env and links are followed only inside its folder; if you trust this one, set {setting}",
            target.display()
        );
        for command in ["serve", "check", "migrate"] {
            let (code, said) = ended(in_folder(&place, &clone, &[command]));
            assert!(code == 1 && said.contains(&sentence), "{n}, {command}: {said}");
        }
        assert_eq!(ids(&other), before, "{n}");
        // The user's own environment can name the place, as the error suggests.
        let (name, value) = setting.split_once('=').expect("an assignment");
        let mut command = in_folder(&place, &clone, &["check"]);
        command.env(name, format!("{value}{}", target.display()));
        let (code, said) = ended(command);
        assert_eq!(code, 0, "{n}: {said}");
    }
}

#[test]
fn dotenv_of_clone_cannot_direct_client_to_another_project() {
    let other = Place::serving("sleep.sh");
    other.start();
    let place = Place::new();
    let theirs = other.runtime().canonicalize().expect("there");
    fs::write(place.folder().join(".env"), format!("AUTOAPPDEV_RUNTIME_DIR={}\n", theirs.display())).expect("writes");
    set_mode(&place.folder().join(".env"), 0o600);
    for args in [&["status"][..], &["stop", "--now"], &["logs"], &["pair", "--address", "x"]] {
        let (code, said) = ended(in_folder(&place, place.folder(), args));
        assert!(code == 4 && said.contains("is not used: it leads to"), "{args:?}: {said}");
    }
    assert_eq!(other.state(), "running");
    let mut command = in_folder(&place, place.folder(), &["stop", "--now"]);
    command.env("AUTOAPPDEV_RUNTIME_DIR", &theirs);
    assert_eq!(ended(command).0, 0, "the user's own environment names it");
}

#[test]
fn dotenv_and_links_are_followed_inside_the_folder() {
    let mut place = Place::new();
    fs::create_dir(place.folder().join("data")).expect("creates");
    symlink("data", place.folder().join("link")).expect("links");
    fs::write(place.folder().join(".env"), "AUTOAPPDEV_RUNTIME_DIR=link/run\nDATABASE_URL=sqlite:link/x.db\n").expect("writes");
    set_mode(&place.folder().join(".env"), 0o600);
    let command = in_folder(&place, place.folder(), &[]);
    place.start_server_with(command);
    assert!(place.folder().join("data/run/server.json").exists() && place.folder().join("data/x.db").exists());
    let (code, said) = ended(in_folder(&place, place.folder(), &["status"]));
    assert_eq!(code, 0, "{said}");
    assert_eq!(place.stop_server(), 0);
}

#[test]
fn clone_cannot_name_parent_folder_as_runtime_directory() {
    let place = Place::new();
    let clone = place.folder().join("src/clone");
    fs::create_dir_all(&clone).expect("creates");
    let above = clone.parent().expect("it has one").canonicalize().expect("there");
    fs::write(above.join("server.json"), "the user's own").expect("writes");
    set_mode(&above, 0o755);
    let absolute = format!("AUTOAPPDEV_RUNTIME_DIR={}", above.display());
    for dotenv in ["AUTOAPPDEV_RUNTIME_DIR=..", "AUTOAPPDEV_RUNTIME_DIR=../..", "AUTOAPPDEV_SOCKET=../x.sock", &absolute, ""] {
        fs::write(clone.join(".env"), format!("{dotenv}\n")).expect("writes");
        set_mode(&clone.join(".env"), 0o600);
        if dotenv.is_empty() {
            symlink("..", clone.join("runtime")).expect("links");
        }
        let (code, said) = ended(in_folder(&place, &clone, &["serve"]));
        assert!(code == 1 && said.contains("it leads to "), "{dotenv}: {said}");
        assert_eq!(entries(&above), ["clone", "server.json"].map(|name| above.join(name)), "{dotenv}");
        assert_eq!(above.metadata().expect("there").mode() & 0o777, 0o755, "{dotenv}");
    }
}

/// `SQLite` creates files beside the database, and another user could create them first.
#[test]
fn database_in_a_sticky_directory_of_all_users_is_refused() {
    let place = Place::new();
    let shared = place.folder().join("shared");
    fs::create_dir(&shared).expect("creates");
    for (mode, is_refused) in [(0o1777, true), (0o1755, false)] {
        set_mode(&shared, mode);
        // `check` reads an existing database, and otherwise looks for one.
        for command in ["serve", "check", "migrate", "check"].into_iter().skip(if is_refused { 0 } else { 2 }) {
            let mut asked = in_folder(&place, place.folder(), &[command]);
            asked.env("DATABASE_URL", format!("sqlite:{}", shared.join("x.db").display()));
            let (code, said) = ended(asked);
            assert_eq!(
                code == 1 && said.contains("where SQLite keeps files beside the database"),
                is_refused,
                "{command} {mode:o}: {said}"
            );
            assert_eq!(code == 0, !is_refused, "{command} {mode:o}: {said}");
            assert_eq!(entries(&shared).is_empty(), is_refused, "{command} {mode:o}: {said}");
        }
    }
    // The database was created before other users could create files there.
    set_mode(&shared, 0o1777);
    let before = entries(&shared);
    let mut check = in_folder(&place, place.folder(), &["check"]);
    check.env("DATABASE_URL", format!("sqlite:{}", shared.join("x.db").display()));
    let (code, said) = ended(check);
    assert!(code == 1 && said.contains("where SQLite keeps files beside the database"), "{said}");
    assert_eq!(entries(&shared), before);
}

/// The server removes the socket that a killed server left at its path.
#[test]
fn dotenv_of_clone_cannot_remove_socket_of_another_program() {
    let place = Place::new();
    let [clone, other] = ["clone", "other"].map(|name| place.folder().join(name));
    for dir in [&clone, &other] {
        fs::create_dir(dir).expect("creates");
    }
    let stale = other.canonicalize().expect("there").join("app.sock");
    drop(UnixListener::bind(&stale).expect("binds"));
    let before = FileId::of_name(&stale).expect("there");
    symlink(&other, clone.join("link")).expect("links");
    for (dotenv, named) in [
        (stale.display().to_string(), stale.clone()),
        ("../other/app.sock".to_owned(), clone.canonicalize().expect("there").join("../other/app.sock")),
        ("link/app.sock".to_owned(), clone.canonicalize().expect("there").join("link/app.sock")),
    ] {
        fs::write(clone.join(".env"), format!("AUTOAPPDEV_SOCKET={dotenv}\n")).expect("writes");
        set_mode(&clone.join(".env"), 0o600);
        let (code, said) = ended(in_folder(&place, &clone, &["serve"]));
        let sentence = format!(
            "cannot listen on {}: it leads to {}, and a project's .env and links are followed only inside its folder; if you trust this one, \
             set AUTOAPPDEV_SOCKET={} in the environment",
            named.display(),
            stale.display(),
            named.display()
        );
        assert!(code == 1 && said.contains(&sentence), "{dotenv}: {said}");
        assert_eq!(FileId::of_name(&stale).expect("there"), before, "{dotenv}");
    }
    fs::remove_file(clone.join(".env")).expect("there");
    if is_root() {
        // A socket of another user is not removed either, even if the environment names it.
        chown(&stale, Some(ANOTHER), None).expect("we are root");
        let mut command = in_folder(&place, &clone, &["serve"]);
        let (code, said) = ended({
            command.env("AUTOAPPDEV_SOCKET", &stale);
            command
        });
        assert!(code == 1 && said.contains("app.sock: Address already in use"), "{said}");
        assert_eq!(FileId::of_name(&stale).expect("there"), before);
        chown(&stale, Some(0), None).expect("we are root");
    }
    let mut place = place;
    let mut command = in_folder(&place, &clone, &[]);
    command.env("AUTOAPPDEV_SOCKET", &stale);
    place.start_server_with(command);
    UnixStream::connect(&stale).expect("the user's own environment can name any place");
}

/// The folder does not exist while the path is checked, and exists when the database is opened.
#[test]
fn database_in_a_missing_folder_that_another_user_can_create_is_refused() {
    if !is_root() {
        return;
    }
    let place = Place::new();
    let (shared, own) = shared(&place);
    let missing = shared.canonicalize().expect("there").join("missing");
    let url = format!("sqlite:{}", missing.join("x.db").display());
    let said = place.refused_server(("DATABASE_URL", &url));
    assert!(said.contains(&format!("as the database: its folder {} does not exist; create it", missing.display())), "{said}");
    let is_over = Arc::new(AtomicBool::new(false));
    let creates = thread::spawn({
        let (is_over, missing, theirs) = (is_over.clone(), missing.clone(), shared.join("theirs"));
        move || {
            while !is_over.load(Ordering::Relaxed) {
                fs::rename(&theirs, &missing).and_then(|()| fs::rename(&missing, &theirs)).expect("renames");
            }
        }
    });
    for _ in 0..20 {
        let said = place.refused_server(("DATABASE_URL", &url));
        assert!(said.contains("as the database: "), "{said}");
    }
    is_over.store(true, Ordering::Relaxed);
    creates.join().expect("no panic");
    assert_eq!(entries(&own), Vec::<PathBuf>::new(), "nothing was made in it");
    // The same for `migrate`; a folder of the user is used.
    let mut command = place.command();
    command.arg("migrate").env("DATABASE_URL", &url);
    assert_eq!(ended(command).0, 1);
    fs::create_dir(&missing).expect("creates");
    let mut command = place.command();
    command.arg("migrate").env("DATABASE_URL", &url);
    let (code, said) = ended(command);
    assert_eq!(code, 0, "{said}");
}

/// Client commands of the folder then find the server at the default path, which is a link.
#[test]
fn advice_for_linked_runtime_directory_works() {
    let mut place = Place::new();
    let [folder, other] = ["project", "elsewhere"].map(|name| place.folder().join(name));
    for dir in [&folder, &other] {
        fs::create_dir(dir).expect("creates");
    }
    set_mode(&other, 0o700);
    let folder = folder.canonicalize().expect("there");
    symlink(&other, folder.join("runtime")).expect("links");
    let (code, said) = ended(in_folder(&place, &folder, &["serve"]));
    let advised = said.split("set AUTOAPPDEV_RUNTIME_DIR=").nth(1).and_then(|rest| rest.split(" in the").next());
    let advised = advised.unwrap_or_else(|| panic!("{code}: {said}")).to_owned();
    let mut command = in_folder(&place, &folder, &[]);
    command.env("AUTOAPPDEV_RUNTIME_DIR", &advised);
    place.start_server_with(command);
    for with_variable in [false, true] {
        let mut command = in_folder(&place, &folder, &["status"]);
        if with_variable {
            command.env("AUTOAPPDEV_RUNTIME_DIR", &advised);
        }
        let (code, said) = ended(command);
        assert_eq!(code, 0, "{said}");
    }
    assert_eq!(place.stop_server(), 0);
}

/// Creates a shared directory with a link of another user to the user's own directory, which is empty.
fn shared(place: &Place) -> (PathBuf, PathBuf) {
    let (shared, own) = (place.folder().join("shared"), place.folder().join("own"));
    for dir in [&shared, &own] {
        fs::create_dir(dir).expect("creates");
    }
    set_mode(&own, 0o700);
    set_mode(&shared, 0o1777);
    symlink(&own, shared.join("theirs")).expect("links");
    lchown(shared.join("theirs"), Some(ANOTHER), Some(ANOTHER)).expect("we are root");
    (shared, own)
}

#[test]
fn database_or_socket_behind_link_of_another_user_is_refused() {
    if !is_root() {
        return;
    }
    let place = Place::new();
    set_mode(place.folder(), 0o755);
    let binary = copied_binary(&place);
    let (shared, own) = shared(&place);
    let why = "theirs belongs to another user (uid 65534), who could make it lead elsewhere";
    for path in ["theirs/x.db", "theirs/../own/x.db", "theirs"] {
        let url = format!("sqlite:{}", shared.join(path).display());
        let said = place.refused_server(("DATABASE_URL", &url));
        assert!(said.contains("as the database") && said.contains(why), "{path}: {said}");
        // Root can read where other users lead it, and a third user cannot. Neither writes there.
        for (command, user) in [("migrate", 0), ("check", THIRD)] {
            let mut asked = place.command_of(&binary);
            asked.args([command, "--database"]).arg(shared.join(path)).uid(user).gid(user);
            let (code, said) = ended(asked);
            assert!(code == 1 && said.contains("as the database") && said.contains(why), "{command} {path}: {said}");
        }
    }
    let said = place.refused_server(("AUTOAPPDEV_SOCKET", shared.join("theirs/s.sock").to_str().expect("text")));
    assert!(said.contains("cannot listen on") && said.contains(why), "{said}");
    let runtime = shared.join("theirs/runtime");
    let mut command = place.command();
    command.arg("migrate").env("AUTOAPPDEV_RUNTIME_DIR", &runtime);
    let (code, said) = ended(command);
    assert!(code == 1 && said.contains(why), "{said}");
    // The kernel does not resolve what follows a missing directory either.
    let said = place.refused_server(("AUTOAPPDEV_RUNTIME_DIR", shared.join("x/../theirs/runtime").to_str().expect("text")));
    assert!(said.contains("shared/x does not exist"), "{said}");
    assert_eq!(entries(&own), Vec::<PathBuf>::new(), "nothing was made in it");
    assert!(!shared.join("x").exists());
    assert!(!place.runtime().exists(), "nor was the runtime directory left there");
}

/// The path is a directory while it is checked, and a link when it is used.
#[test]
fn directory_exchanged_for_link_during_start_is_refused() {
    if !is_root() {
        return;
    }
    let place = Place::new();
    let (shared, own) = shared(&place);
    let (link, dir) = (shared.join("theirs"), shared.join("directory"));
    fs::create_dir(&dir).expect("creates");
    fs::create_dir(own.join("runtime")).expect("creates");
    fs::create_dir(dir.join("runtime")).expect("creates");
    chown(&dir, Some(ANOTHER), Some(ANOTHER)).expect("we are root");
    let is_over = Arc::new(AtomicBool::new(false));
    let exchanges = thread::spawn({
        let is_over = is_over.clone();
        move || {
            while !is_over.load(Ordering::Relaxed) {
                renameat_with(CWD, &link, CWD, &dir, RenameFlags::EXCHANGE).expect("exchanges");
            }
        }
    });
    let path = shared.join("theirs/runtime");
    for _ in 0..20 {
        let said = place.refused_server(("AUTOAPPDEV_RUNTIME_DIR", path.to_str().expect("text")));
        assert!(said.contains("belongs to another user (uid 65534)"), "{said}");
    }
    is_over.store(true, Ordering::Relaxed);
    exchanges.join().expect("no panic");
    assert_eq!(entries(&own.join("runtime")), Vec::<PathBuf>::new(), "nothing was made in it");
}
