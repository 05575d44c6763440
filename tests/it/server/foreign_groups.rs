//! Directories above the runtime directory that a group can write to. Its members could put another directory in its place.

use std::fs;
use std::os::unix::fs::chown;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use autoappdev::runtime_dir::{By, Distrust, resolve};

use super::foreign_files::{ANOTHER, THIRD, copied_binary, ended, entries, is_root, set_mode};
use super::foreign_namespaces::can_mount;
use crate::support::{Place, full_name, not_run};

/// A group that is in no file.
const GROUP: u32 = 61_009;
const PORT: (&str, &str) = ("AUTOAPPDEV_PORT", "0");
const SETTING: &str = "AUTOAPPDEV_TRUSTED_GROUPS";

/// Creates a folder of the third user that a group can write to.
fn shared(place: &Place, group: u32) -> PathBuf {
    set_mode(place.folder(), 0o755);
    copied_binary(place);
    let shared = place.folder().canonicalize().expect("there").join("shared");
    fs::create_dir(&shared).expect("creates");
    chown(&shared, Some(THIRD), Some(group)).expect("we are root");
    set_mode(&shared, 0o2775);
    shared
}

/// Returns a command of the third user in that folder, without the test's own settings. `words` run it.
fn of_third_user(place: &Place, words: &[&str], args: &[&str]) -> Command {
    let all: Vec<&str> = words.iter().copied().chain(["setpriv", "--reuid=65533", "--regid=65533", "--groups=61009"]).collect();
    started_by(place, &all, args)
}

fn started_by(place: &Place, words: &[&str], args: &[&str]) -> Command {
    let mut command = place.command_of(Path::new(words[0]));
    command.args(&words[1..]).arg(place.folder().join("autoappdev")).args(args);
    for name in ["HOST", "PORT", "RUNTIME_DIR", "PIPELINE_CWD", "DISK_FREE_MB"] {
        command.env_remove(format!("AUTOAPPDEV_{name}"));
    }
    command.current_dir(place.folder().join("shared"));
    command
}

/// Checks the errors of a server and of a client.
fn refused(why: &str, mut command: impl FnMut(&[&str]) -> Command) {
    let (code, said) = ended({
        let mut server = command(&["serve"]);
        server.envs([PORT]);
        server
    });
    assert!(code == 1 && said.contains(why), "{why}: {said}");
    let (code, said) = ended(command(&["status"]));
    let is_refused = code == 4 || code == 1 && said.contains("cannot use");
    assert!(is_refused && said.contains(why), "{why}: {said}");
}

fn serves(place: &mut Place, mut server: Command, mut client: Command) {
    server.envs([PORT]);
    place.start_server_with(server);
    assert_eq!(place.get("/api/health").status, 200);
    client.arg("status");
    let (code, said) = ended(client);
    assert_eq!(code, 0, "{said}");
    assert_eq!(place.stop_server(), 0);
    fs::remove_dir_all(place.folder().join("shared/runtime")).expect("removes");
}

/// Returns whether a process of the other user can create a directory in the folder and rename it.
fn another_can_write(folder: &Path, group: u32) -> bool {
    let mut command = Command::new("/bin/sh");
    command.args(["-c", "mkdir evil && mv evil moved && rmdir moved"]).current_dir(folder).uid(ANOTHER).gid(group);
    ended(command).0 == 0
}

#[test]
fn group_writable_parent_of_runtime_directory_is_refused() {
    if !is_root() {
        return;
    }
    let mut place = Place::new();
    let shared = shared(&place, GROUP);
    let path = shared.display();
    assert!(another_can_write(&shared, GROUP));
    let why = format!(
        "group {GROUP} can write to {path} (mode 2775), so its members could put another directory in its place; `chmod g-w {path}` prevents \
         that; if you trust every member of the group, set {SETTING}={GROUP} in the environment of the server and of client commands"
    );
    refused(&why, |args| of_third_user(&place, &[], args));
    // A project cannot set it.
    fs::write(shared.join(".env"), format!("{SETTING}={GROUP}\n")).expect("writes");
    refused(&why, |args| of_third_user(&place, &[], args));
    fs::remove_file(shared.join(".env")).expect("ours");
    // The suggested value contains the groups that are already trusted.
    refused(&format!("{SETTING}=7,61009 in"), |args| {
        let mut command = of_third_user(&place, &[], args);
        command.env(SETTING, "7");
        command
    });
    // One of the runtime directory, the database and the socket is in the shared folder, and the others are elsewhere.
    let own = place.folder().join("own");
    fs::create_dir(&own).expect("creates");
    chown(&own, Some(THIRD), Some(THIRD)).expect("we are root");
    let runtime = own.join("runtime");
    for (setting, value) in [
        ("AUTOAPPDEV_RUNTIME_DIR", shared.join("below/runtime").display().to_string()),
        ("DATABASE_URL", format!("sqlite:{path}/x.db")),
        ("AUTOAPPDEV_SOCKET", format!("{path}/x.sock")),
    ] {
        let mut command = of_third_user(&place, &[], &["serve"]);
        command.current_dir(&own).envs([PORT]).env("AUTOAPPDEV_RUNTIME_DIR", &runtime).env(setting, value);
        let (code, said) = ended(command);
        assert!(code == 1 && said.contains(&format!("group {GROUP} can write to {path}")), "{setting}: {said}");
    }
    assert_eq!(entries(&shared), Vec::<PathBuf>::new(), "nothing was made in it");
    let trusting = || {
        let mut command = of_third_user(&place, &[], &[]);
        command.env(SETTING, format!("7, {GROUP}"));
        command
    };
    let (server, client) = (trusting(), trusting());
    serves(&mut place, server, client);
    // In a sticky directory, members cannot rename what belongs to another user.
    for mode in [0o3775, 0o2755] {
        set_mode(&shared, mode);
        let (server, client) = (of_third_user(&place, &[], &[]), of_third_user(&place, &[], &[]));
        serves(&mut place, server, client);
    }
}

#[test]
fn parent_directory_writable_by_acl_is_refused() {
    if !is_root() {
        return;
    }
    let mut place = Place::new();
    let shared = shared(&place, THIRD);
    set_mode(&shared, 0o755);
    // `setfacl -m u:65534:rwx`: the version, then tag, permissions and id of owner, user, group, mask and others.
    let entry =
        |tag: u16, permissions: u16, id: u32| [&tag.to_le_bytes()[..], &permissions.to_le_bytes(), &id.to_le_bytes()].concat();
    let list = [entry(1, 7, !0), entry(2, 7, ANOTHER), entry(4, 5, !0), entry(16, 7, !0), entry(32, 5, !0)].concat();
    let list = [&2_u32.to_le_bytes()[..], &list].concat();
    let set = rustix::fs::setxattr(&shared, "system.posix_acl_access", &list, rustix::fs::XattrFlags::empty());
    if set == Err(rustix::io::Errno::NOTSUP) {
        return not_run("this file system has no access control lists", "AUTOAPPDEV_REQUIRE_TMPFS");
    }
    set.expect("we are root");
    assert!(another_can_write(&shared, ANOTHER));
    let path = shared.display();
    // The access control list does not mention the group.
    let why =
        format!("a user or group of its access control list can write to {path} (mode 775); `chmod g-w {path}` prevents that");
    refused(&why, |args| {
        let mut command = of_third_user(&place, &[], args);
        command.env(SETTING, THIRD.to_string());
        command
    });
    assert!(Command::new("chmod").arg("g-w").arg(&shared).status().expect("chmod is there").success());
    assert!(!another_can_write(&shared, ANOTHER));
    let (server, client) = (of_third_user(&place, &[], &[]), of_third_user(&place, &[], &[]));
    serves(&mut place, server, client);
}

/// Mounts files over `/etc/passwd` and `/etc/group`, for the programs that `sh` starts.
const WITH_LISTS: &str = "mount --bind \"$0/passwd\" /etc/passwd && mount --bind \"$0/group\" /etc/group && exec \"$@\"";

#[test]
fn parent_directory_writable_by_group_is_accepted_only_if_private() {
    if !is_root() || !can_mount() {
        return;
    }
    let mut place = Place::new();
    let shared = shared(&place, GROUP);
    let lists = place.folder().to_owned();
    let words = ["unshare", "-m", "sh", "-c", WITH_LISTS, lists.to_str().expect("text")];
    let root = "root:x:0:0:root:/root:/bin/sh\n";
    let me = format!("{root}me:x:{THIRD}:{GROUP}::/:/bin/sh\nyou:x:{ANOTHER}:{ANOTHER}::/:/bin/sh\n");
    let write = |users: &str, groups: &str| {
        fs::write(lists.join("passwd"), users).expect("writes");
        fs::write(lists.join("group"), groups).expect("writes");
    };
    let as_root: Vec<&str> = words.iter().copied().chain(["env"]).collect();
    for (users, groups) in [
        (me.clone(), format!("team:x:{GROUP}:me,you\n")),
        (me.clone(), format!("team:x:{GROUP}:\nalso:x:{GROUP}:you\n")),
        (me.clone(), format!("team:x:{GROUP}:elsewhere\n")),
        (format!("{me}third:x:61003:{GROUP}::/:/bin/sh\n"), format!("team:x:{GROUP}:me\n")),
        (format!("{me}+::::::\n"), format!("team:x:{GROUP}:me\n")),
    ] {
        write(&users, &groups);
        let why = format!("group team (gid {GROUP}) can write to {}", shared.display());
        refused(&why, |args| of_third_user(&place, &words, args));
        // Root reads this user's runtime directory.
        let (code, said) = ended(started_by(&place, &as_root, &["status"]));
        assert!(code == 4 && said.contains(&why), "{said}");
        assert_eq!(entries(&shared), Vec::<PathBuf>::new(), "nothing was made in it");
    }
    // The name of a trusted group.
    let trusting = |args: &[&str], name| {
        let mut command = of_third_user(&place, &words, args);
        command.env(SETTING, name);
        command
    };
    for args in [["serve"], ["status"], ["check"]] {
        let (code, said) = ended(trusting(&args, "teem"));
        let sentence = format!(
            "autoappdev: {SETTING}=teem is not a group of /etc/group; give the number of a group that is defined elsewhere"
        );
        assert!(code == 2 && said.trim_end() == sentence, "{said}");
    }
    let (server, client) = (trusting(&[], "team"), trusting(&[], "team"));
    serves(&mut place, server, client);
    for groups in [String::new(), format!("me:x:{GROUP}:\n"), format!("me:x:{GROUP}:me,root\n")] {
        write(&me, &groups);
        set_mode(&shared, 0o2775);
        for client in [of_third_user(&place, &words, &[]), started_by(&place, &as_root, &[])] {
            let server = of_third_user(&place, &words, &[]);
            serves(&mut place, server, client);
        }
        // Despite the sticky bit, members of the group could create files beside a database. They have created none yet.
        set_mode(&shared, 0o3775);
        let mut server = of_third_user(&place, &words, &[]);
        server.env("DATABASE_URL", format!("sqlite:{}", shared.join("x.db").display()));
        let client = of_third_user(&place, &words, &[]);
        serves(&mut place, server, client);
        remove_database(&shared);
    }
    write(&me, &format!("team:x:{GROUP}:me,you\n"));
    for args in [["serve"], ["migrate"], ["check"]] {
        let mut command = of_third_user(&place, &words, &args);
        command.envs([PORT]).env("DATABASE_URL", format!("sqlite:{}", shared.join("x.db").display()));
        let (code, said) = ended(command);
        let why = format!("other users can create files in {}, where SQLite keeps files beside the database", shared.display());
        assert!(code == 1 && said.contains(&why), "{args:?}: {said}");
    }
    assert_eq!(entries(&shared), Vec::<PathBuf>::new(), "nothing was made in it");
}

fn remove_database(folder: &Path) {
    for file in entries(folder) {
        assert!(file.file_name().is_some_and(|name| name.to_string_lossy().starts_with("x.db")), "{}", file.display());
        fs::remove_file(file).expect("ours");
    }
}

/// Set in the test that runs with its own lists in place of `/etc/passwd` and `/etc/group`. Names the folder of these lists.
const LISTS_VAR: &str = "AUTOAPPDEV_TEST_LISTS";

/// A long-lived process, such as a server or a client that follows a log, does not reuse what it read before.
#[test]
fn new_group_member_is_noticed_at_next_check() {
    let name = "new_group_member_is_noticed_at_next_check";
    let Some(lists) = std::env::var_os(LISTS_VAR) else {
        if is_root() && can_mount() {
            let lists = tempfile::tempdir().expect("a temp folder");
            for list in ["passwd", "group"] {
                fs::write(lists.path().join(list), "").expect("writes");
            }
            let mut command = Command::new("unshare");
            command.args(["-m", "sh", "-c", WITH_LISTS]).arg(lists.path()).arg(std::env::current_exe().expect("it runs"));
            let output = command.args(["--exact", &full_name(name), "--nocapture"]).env(LISTS_VAR, lists.path()).output();
            let output = output.expect("it ran a moment ago");
            let said = String::from_utf8_lossy(&output.stdout) + String::from_utf8_lossy(&output.stderr);
            assert!(output.status.success() && said.contains("test result: ok. 1 passed"), "{said}");
        }
        return;
    };
    let lists = Path::new(&lists);
    fs::write(lists.join("passwd"), "root:x:0:0:root:/root:/bin/sh\nyou:x:65534:65534::/:/bin/sh\n").expect("writes");
    let place = Place::new();
    let (folder, mine) = (place.folder().canonicalize().expect("there"), place.folder().join("mine"));
    fs::create_dir(&mine).expect("creates");
    chown(&folder, Some(0), Some(GROUP)).expect("we are root");
    set_mode(&folder, 0o2775);
    for (members, is_trusted) in [("root", true), ("root,you", false), ("", true), ("you", false), ("root", true)] {
        fs::write(lists.join("group"), format!("team:x:{GROUP}:{members}\n")).expect("writes");
        for by in [By::Server, By::Client] {
            let refused = resolve(&mine, by).err().map(|error| Distrust::of(&error).expect("a reason").clone());
            let expected = Distrust::GroupAbove { path: folder.clone(), mode: 0o2775, group: GROUP };
            assert_eq!(refused, (!is_trusted).then_some(expected), "{members:?} {by:?}");
        }
    }
}

/// In the namespace, the group has the number of root's group, whose members `/etc/group` does not list.
#[test]
fn group_outside_user_namespace_is_not_mistaken_for_private_group() {
    if !is_root() {
        return;
    }
    let place = Place::new();
    let shared = shared(&place, GROUP);
    chown(place.folder(), Some(THIRD), Some(THIRD)).expect("we are root");
    for (gid, group, shown) in [("61009", "0", "group root (gid 0)"), ("65533", "65534", "every group without a number")] {
        let regid = format!("--regid={gid}");
        let words = ["setpriv", "--reuid=65533", &regid, "--clear-groups", "unshare", "-U", "--map-root-user"];
        let why = format!(
            "{shown}{} can write to {}",
            if group == "0" { "" } else { " in this user namespace (gid 65534)" },
            shared.display()
        );
        for trusted in [None, Some("7"), Some("65534")] {
            refused(&why, |args| {
                let mut command = started_by(&place, &words, args);
                command.envs(trusted.map(|group| (SETTING, group)));
                command
            });
        }
        assert_eq!(entries(&shared), Vec::<PathBuf>::new(), "nothing was made in it");
    }
}
