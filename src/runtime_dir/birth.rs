//! Ties a secret to the directory that it was made for.
//!
//! Level 1. A runtime directory can come with an archive, an image or a clone, whose author knows the secrets in it. So the
//! server adds a tag to each secret: an HMAC of what the file system records when it creates the directory, which the author of
//! an archive cannot know. A directory keeps its secrets when it is renamed and when the machine is restarted. A copy, also one
//! from a backup, is another directory.

use std::fs;
use std::io;
use std::os::fd::AsRawFd;
use std::path::Path;

use hmac::{Hmac, KeyInit, Mac};
use rustix::fs::{AtFlags, CWD, StatxFlags, inotify};
use rustix::io::Errno;
use sha2::Sha256;

use crate::absent::if_there;
use crate::config::Token;
use crate::file_id::FileId;
use crate::hex::hex;

/// The number of hexadecimal digits in a tag. A guess costs a start of the server, so 64 bits are more than enough.
const TAG_DIGITS: usize = 16;

/// The properties that distinguish a directory from all others of its file system, past and future.
///
/// They do not include the device, whose number can change at each restart (btrfs, USB disks, network file systems).
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Birth {
    inode: u64,
    mark: Mark,
}

/// The property that distinguishes a directory from others that have had or will have its inode number, which the author of an
/// archive can guess.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Mark {
    /// The time of its creation, in seconds and nanoseconds.
    Time(i64, u32),
    /// The file system's handle, which contains a random number drawn at the directory's creation.
    Handle(String),
    /// The boot of the machine, because the file system records neither. An author elsewhere does not know it, but other users
    /// of the machine do. So with this mark, client commands can verify the live server, but the next server replaces the
    /// secrets.
    Boot(String),
    /// Nothing, because even the boot is unknown. No secret is certified.
    Nothing,
}

impl Birth {
    /// Reads the properties from the file system; follows links.
    pub(super) fn of(dir: &Path) -> io::Result<Self> {
        let time = match rustix::fs::statx(CWD, dir, AtFlags::empty(), StatxFlags::INO | StatxFlags::BTIME) {
            Ok(found) => {
                let time = (found.stx_btime.tv_sec, found.stx_btime.tv_nsec);
                // Some file systems return zero for a directory that existed before they recorded such times.
                (StatxFlags::from_bits_retain(found.stx_mask).contains(StatxFlags::BTIME) && time != (0, 0)).then_some(time)
            }
            // An old kernel, or a container's filter for system calls.
            Err(Errno::NOSYS | Errno::PERM) => None,
            Err(error) => return Err(error.into()),
        };
        let mark = match time {
            Some((seconds, nanoseconds)) => Mark::Time(seconds, nanoseconds),
            None => Mark::without_time(dir)?,
        };
        Ok(Self { inode: FileId::of(dir)?.ino, mark })
    }

    /// Checks whether a later server can use it to verify that a secret was made for the directory.
    pub(super) fn is_lasting(&self) -> bool {
        matches!(self.mark, Mark::Time(..) | Mark::Handle(_))
    }

    /// Returns the secret that consists of a random part and the tag for the file of this name in this directory.
    pub(super) fn certify(&self, name: &str, random: &Token) -> Token {
        let random = random.expose();
        Token::new(&format!("{random}-{}", self.tag(name, random))).expect("letters, digits and hyphens, and long enough")
    }

    /// Returns the secret in the text of a file if it was made for the file of this name in this directory.
    pub(super) fn certified(&self, name: &str, text: &str) -> Option<Token> {
        let (random, tag) = text.rsplit_once('-')?;
        // A comparison in constant time is not needed, because only users who can write the file can try tags.
        Token::new(text).ok().filter(|_| self.mark != Mark::Nothing && self.tag(name, random) == tag)
    }

    fn tag(&self, name: &str, random: &str) -> String {
        let mut signer = Hmac::<Sha256>::new_from_slice(random.as_bytes()).expect("a key of any length will do (RFC 2104)");
        let inode = self.inode;
        let mark = match &self.mark {
            // The same form as in every earlier version, so that existing tags stay valid.
            Mark::Time(seconds, nanoseconds) => format!("Some(({seconds}, {nanoseconds}))"),
            Mark::Handle(handle) => format!("handle {handle}"),
            Mark::Boot(id) => format!("boot {id}"),
            Mark::Nothing => String::new(),
        };
        signer.update(format!("{name} of the directory {inode} {mark}").as_bytes());
        let mut tag = hex(&signer.finalize().into_bytes());
        tag.truncate(TAG_DIGITS);
        tag
    }
}

impl Mark {
    fn without_time(dir: &Path) -> io::Result<Self> {
        let file_system = format!("{:x}", rustix::fs::statfs(dir)?.f_type);
        if let Some(handle) = handle_of(dir)?.filter(|handle| is_random(&file_system, handle)) {
            return Ok(Self::Handle(handle));
        }
        // See random(4). A `/proc` that shows only processes has no such file (`subset=pid` in proc(5)).
        let boot = if_there(fs::read_to_string("/proc/sys/kernel/random/boot_id"))?;
        Ok(boot.map_or(Self::Nothing, |id| Self::Boot(id.trim().to_owned())))
    }
}

/// Returns the file system's handle of a directory, in hexadecimal digits, or `None` if the file system has no handles or the
/// kernel does not show them.
///
/// The kernel shows the handle of each watched directory (`proc_pid_fdinfo(5)`). The alternative, `name_to_handle_at(2)`, is
/// often refused in containers and has no safe wrapper.
fn handle_of(dir: &Path) -> io::Result<Option<String>> {
    let watching = match inotify::init(inotify::CreateFlags::CLOEXEC) {
        Err(Errno::NOSYS | Errno::PERM) => return Ok(None),
        other => other?,
    };
    // Any event that lasts will do, because none is read.
    inotify::add_watch(&watching, dir, inotify::WatchFlags::DELETE_SELF | inotify::WatchFlags::ONLYDIR)?;
    let info = fs::read_to_string(format!("/proc/self/fdinfo/{}", watching.as_raw_fd()))?;
    Ok(info.split_ascii_whitespace().find_map(|word| word.strip_prefix("f_handle:")).map(str::to_owned))
}

/// Checks whether a handle contains a random number that the file system has drawn and keeps. The file system is given by its
/// number in statfs(2), as hexadecimal digits.
///
/// Other file systems always count from the same number (FUSE), or have no such number, which reads as zero. So do directories
/// that mkfs(8) created.
fn is_random(file_system: &str, handle: &str) -> bool {
    /// The digits of a 32-bit number.
    const DIGITS: usize = 8;
    let number = match file_system {
        // ext2 to ext4, XFS and F2FS: the inode's number, and then its generation.
        "ef53" | "58465342" | "f2f52010" => handle.len().checked_sub(DIGITS).map(|at| &handle[at..]),
        // tmpfs.
        "1021994" => handle.get(..DIGITS),
        // NFS: bytes chosen by the server, after at least three numbers of the client.
        "6969" => handle.get(3 * DIGITS..),
        _ => None,
    };
    number.is_some_and(|digits| digits.bytes().any(|digit| digit != b'0'))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn secret_is_bound_to_name_and_directory() {
        let random = Token::made_of(std::array::from_fn(|n| u8::try_from(n).expect("few")));
        let here = Birth { inode: 4711, mark: Mark::Time(1_700_000_000, 5) };
        let secret = here.certify("token", &random);
        let text = secret.expose();
        assert_eq!(here.certified("token", text).as_ref(), Some(&secret));
        assert_eq!(here.certified("read-token", text), None);
        for elsewhere in [
            Birth { inode: 4712, ..here.clone() },
            Birth { mark: Mark::Time(1_700_000_000, 6), ..here.clone() },
            Birth { mark: Mark::Time(1_700_000_001, 5), ..here.clone() },
            Birth { mark: Mark::Handle(String::new()), ..here.clone() },
            Birth { mark: Mark::Boot(String::new()), ..here.clone() },
            Birth { mark: Mark::Nothing, ..here.clone() },
        ] {
            assert_eq!(elsewhere.certified("token", text), None, "{elsewhere:?}");
        }
        let other_random = text.replacen('a', "b", 1);
        for other in ["", "-", "a-token-that-was-chosen", random.expose(), &text[1..], &text[..text.len() - 1], &*other_random] {
            assert_eq!(here.certified("token", other), None, "{other}");
        }
    }

    #[test]
    fn tag_of_earlier_version_stays_valid() {
        let here = Birth { inode: 4711, mark: Mark::Time(1_700_000_000, 5) };
        let random = Token::made_of(std::array::from_fn(|n| u8::try_from(n).expect("few")));
        let text = format!("{}-abe63382c192cfb3", random.expose());
        assert!(here.certified("token", &text).is_some());
    }

    #[test]
    fn secret_is_certified_by_any_mark_and_not_without_one() {
        let random = Token::made_of([7; 24]);
        for (mark, is_certified, is_lasting) in [
            (Mark::Time(1, 0), true, true),
            (Mark::Handle("0c00000068a82134".to_owned()), true, true),
            (Mark::Boot("an-id".to_owned()), true, false),
            (Mark::Nothing, false, false),
        ] {
            let birth = Birth { inode: 12, mark };
            let secret = birth.certify("token", &random);
            assert_eq!(birth.certified("token", secret.expose()).is_some(), is_certified, "{birth:?}");
            assert_eq!(birth.is_lasting(), is_lasting, "{birth:?}");
        }
    }

    #[test]
    fn file_handle_counts_only_with_a_random_part() {
        let (ext4, fuse) = ("ef53", "65735546");
        for (file_system, handle, is_good) in [
            (ext4, "0c00000068a82134", true),
            // The root directory, which mkfs created.
            (ext4, "0200000000000000", false),
            (ext4, "", false),
            ("58465342", "830000000000000068a82134", true),
            ("1021994", "0cc644030100000000000000", true),
            ("1021994", "000000000100000000000000", false),
            ("1021994", "0cc6", false),
            ("6969", "0cc644030100000000000000", false),
            ("6969", "0cc64403010000000000000001000702", true),
            (fuse, "010000000000000001000000", false),
        ] {
            assert_eq!(is_random(file_system, handle), is_good, "{file_system} {handle}");
        }
    }

    #[test]
    fn file_handle_survives_rename_and_differs_for_new_directory() {
        let dir = tempfile::tempdir().expect("a temp folder");
        let [first, second] = ["first", "second"].map(|name| dir.path().join(name));
        fs::create_dir(&first).expect("creates");
        let mark = Mark::without_time(&first).expect("there");
        fs::write(first.join("file"), "changes its time of change").expect("writes");
        fs::rename(&first, &second).expect("renames");
        assert_eq!(Mark::without_time(&second).expect("there"), mark);
        fs::remove_dir_all(&second).and_then(|()| fs::create_dir(&second)).expect("ours");
        // Not every file system has a handle that identifies a directory.
        assert!(matches!(mark, Mark::Boot(_)) || Mark::without_time(&second).expect("there") != mark, "{mark:?}");
    }

    #[test]
    fn directory_identity_survives_rename_and_differs_for_new_one() {
        let dir = tempfile::tempdir().expect("a temp folder");
        let [first, second] = ["first", "second"].map(|name| dir.path().join(name));
        fs::create_dir(&first).expect("creates");
        let birth = Birth::of(&first).expect("there");
        fs::write(first.join("file"), "changes its time of change").expect("writes");
        fs::rename(&first, &second).expect("renames");
        assert_eq!(Birth::of(&second).expect("there"), birth);
        std::os::unix::fs::symlink(&second, &first).expect("links");
        assert_eq!(Birth::of(&first).expect("there"), birth, "a link leads to the directory");
        fs::remove_file(&first).expect("ours");
        fs::create_dir(&first).expect("creates");
        assert_ne!(Birth::of(&first).expect("there"), birth);
        assert_eq!(Birth::of(&dir.path().join("none")).expect_err("missing").kind(), io::ErrorKind::NotFound);
    }
}
