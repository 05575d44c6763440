//! Secrets on file systems that do not record when a directory was created.

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use hmac::{Hmac, KeyInit, Mac};
use serde_json::json;
use sha2::Sha256;

use crate::support::disk::SmallDisk;
use crate::support::login::LogIn;
use crate::support::{Place, not_run};

const SECRETS: [&str; 2] = ["token", "session-key"];
const EACH_TIME: &str = "each start of the server makes new tokens and ends all logins";
const FOREIGN: &str = "secrets that were not made for ";

fn secrets_of(runtime: &Path) -> [String; 2] {
    SECRETS.map(|name| fs::read_to_string(runtime.join(name)).expect("there").trim().to_owned())
}

/// Writes secrets as an author could who has guessed what the directory's tags are made from, apart from its inode number.
fn forge(runtime: &Path, mark: &str) -> [String; 2] {
    let inode = fs::metadata(runtime).expect("there").ino();
    SECRETS.map(|name| {
        let random = "auth-orss-ecre-tfor-gedd-here";
        let mut tag = Hmac::<Sha256>::new_from_slice(random.as_bytes()).expect("a key");
        tag.update(format!("{name} of the directory {inode} {mark}").as_bytes());
        let tag: [u8; 32] = tag.finalize().into_bytes().into();
        let tag = u64::from_be_bytes(*tag.first_chunk().expect("it has 32"));
        let secret = format!("{random}-{tag:016x}");
        fs::write(runtime.join(name), format!("{secret}\n")).expect("writes");
        fs::set_permissions(runtime.join(name), fs::Permissions::from_mode(0o600)).expect("ours");
        secret
    })
}

/// Sets a token, so that the server also requires one from clients of this machine.
fn ask_for_tokens(place: &mut Place) {
    place.set_env("AUTOAPPDEV_READ_TOKEN", "a-token-for-viewers-alone");
    place.set_env("AUTOAPPDEV_PIPELINE_SCRIPT", "sleep.sh");
}

fn status_with(place: &Place, token: &str) -> u16 {
    place.request("GET", "/api/pipeline", &[("Authorization", &format!("Bearer {token}"))], None).status
}

fn log_in(place: &Place, token: &str) -> LogIn {
    let fields = [("Content-Type", "application/json")];
    LogIn::of(&place.request("POST", "/api/login", &fields, Some(&json!({"token": token}).to_string())))
}

fn status_of(place: &Place, session: &LogIn) -> u16 {
    place.request("GET", "/api/pipeline", &session.fields(), None).status
}

#[test]
fn secrets_are_replaced_at_each_start_on_file_system_without_times() {
    let test = "secrets_are_replaced_at_each_start_on_file_system_without_times";
    // This file system numbers its inodes in order, and records nothing else.
    let Some(SmallDisk { mut place, disk: _disk }) = SmallDisk::mounted(&["-t", "ramfs", "-o", "mode=700"], test) else { return };
    ask_for_tokens(&mut place);
    place.start_server();
    let mut before = secrets_of(&place.runtime());
    let boot = fs::read_to_string("/proc/sys/kernel/random/boot_id").expect("/proc is mounted");
    for mark in ["None", &format!("boot {}", boot.trim())] {
        let session = log_in(&place, &before[0]);
        assert_eq!((status_with(&place, &before[0]), status_of(&place, &session)), (200, 200));
        // A client command still verifies the live server, and sends it the token.
        let (code, out, err) = place.client(&["start"]);
        assert!(code == 0, "{out}{err}");
        assert_eq!(place.client(&["stop", "--now"]).0, 0);
        let (code, said) = place.stop_server_and_listen();
        assert!(code == 0 && said.matches(EACH_TIME).count() == 1 && said.contains("AUTOAPPDEV_TOKEN"), "{said}");
        let forged = forge(&place.runtime(), mark);
        place.start_server();
        let made = secrets_of(&place.runtime());
        for (made, known) in made.iter().zip(before.iter().zip(&forged)) {
            assert!(made != known.0 && made != known.1, "{mark}");
        }
        assert_eq!((status_with(&place, &forged[0]), status_with(&place, &before[0])), (401, 401), "{mark}");
        assert_eq!(status_of(&place, &session), 401, "{mark}");
        before = made;
    }
}

/// An ext4 file system in an image file, whose inodes are too small for a creation time. It is unmounted on drop.
struct SmallInodes {
    image: PathBuf,
    at: PathBuf,
}

impl SmallInodes {
    fn make(folder: &Path) -> Option<Self> {
        let disk = Self { image: folder.join("image"), at: folder.join("disk") };
        fs::create_dir(&disk.at).expect("creates");
        let image = fs::File::create(&disk.image).and_then(|file| file.set_len(16 << 20));
        image.expect("a hole");
        let made = Command::new("mkfs.ext4").args(["-q", "-I", "128"]).arg(&disk.image).stderr(Stdio::null()).status();
        (made.is_ok_and(|status| status.success()) && disk.mount()).then_some(disk)
    }

    fn mount(&self) -> bool {
        let mounted = Command::new("mount").args(["-o", "loop"]).args([&self.image, &self.at]).stderr(Stdio::null()).status();
        mounted.is_ok_and(|status| status.success())
    }

    fn unmount(&self) {
        let _is_not_mounted = Command::new("umount").arg("-l").arg(&self.at).stderr(Stdio::null()).status();
    }
}

impl Drop for SmallInodes {
    fn drop(&mut self) {
        self.unmount();
    }
}

#[test]
fn directory_without_birth_time_is_identified_by_generation() {
    let folder = tempfile::Builder::new().prefix("autoappdev-disk-").tempdir().expect("a temp folder");
    let Some(disk) = SmallInodes::make(folder.path()) else {
        not_run("no image of an ext4 can be made and mounted here; it takes root and a loop device", "AUTOAPPDEV_REQUIRE_LOOP");
        return;
    };
    let mut place = Place::with_runtime(disk.at.join("runtime").to_str().expect("a temp folder has a plain name"));
    ask_for_tokens(&mut place);
    place.start_server();
    let runtime = place.runtime();
    let made = secrets_of(&runtime);
    let session = log_in(&place, &made[0]);
    assert_eq!(place.stop_server(), 0);
    // The same directory under another name, after what looks like a restart of the machine to the file system.
    let moved = disk.at.join("moved");
    fs::rename(&runtime, &moved).expect("moves");
    disk.unmount();
    assert!(disk.mount());
    place.set_env("AUTOAPPDEV_RUNTIME_DIR", moved.to_str().expect("text"));
    place.start_server();
    assert_eq!(secrets_of(&moved), made);
    assert_eq!((status_with(&place, &made[0]), status_of(&place, &session)), (200, 200));
    let (code, said) = place.stop_server_and_listen();
    assert!(code == 0 && !said.contains(EACH_TIME) && !said.contains(FOREIGN), "{said}");
    // One author has guessed the number of the inode, and another knows the secrets of an earlier directory with that number.
    for is_by_number in [true, false] {
        let inode = fs::metadata(&moved).expect("there").ino();
        let before = secrets_of(&moved);
        let known = if is_by_number {
            forge(&moved, "None")
        } else {
            fs::remove_dir_all(&moved).expect("ours");
            fs::create_dir(&moved).expect("creates");
            fs::set_permissions(&moved, fs::Permissions::from_mode(0o700)).expect("ours");
            assert_eq!(fs::metadata(&moved).expect("there").ino(), inode, "the file system gives the lowest free number");
            for (name, text) in SECRETS.iter().zip(&before) {
                fs::write(moved.join(name), format!("{text}\n")).expect("writes");
                fs::set_permissions(moved.join(name), fs::Permissions::from_mode(0o600)).expect("ours");
            }
            before
        };
        place.start_server();
        let new = secrets_of(&moved);
        assert!(new.iter().zip(&known).all(|(new, known)| new != known), "by number: {is_by_number}");
        assert_eq!((status_with(&place, &new[0]), status_with(&place, &known[0])), (200, 401), "by number: {is_by_number}");
        let (code, said) = place.stop_server_and_listen();
        assert!(code == 0 && said.contains(FOREIGN) && !said.contains(EACH_TIME), "{said}");
    }
}
