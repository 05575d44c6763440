//! Ties a secret to the directory that it was made for.
//!
//! Level 1. A runtime directory can come with an archive, an image or a clone, and whoever packed it knows the secrets in it. So
//! the server adds a tag to each secret: an HMAC of what the file system records when it creates the directory, which nobody can
//! know who packs an archive. A directory keeps its secrets when it is renamed and when the machine is restarted. A copy, also
//! one from a backup, is another directory.

use std::io;
use std::path::Path;

use hmac::{Hmac, KeyInit, Mac};
use rustix::fs::{AtFlags, CWD, StatxFlags};
use rustix::io::Errno;
use sha2::Sha256;

use crate::config::Token;
use crate::file_id::FileId;
use crate::hex::hex;

/// The number of hexadecimal digits in a tag. A guess costs a start of the server, so 64 bits are more than enough.
const TAG_DIGITS: usize = 16;

/// What distinguishes a directory from all others of its file system, past and future.
///
/// Leaves out the device: its number can be another one after each restart (btrfs, USB disks, network file systems).
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Birth {
    inode: u64,
    /// In seconds and nanoseconds. Without it, which is the case on some file systems, a later directory can have the same inode
    /// number, and an author could guess that number.
    at: Option<(i64, u32)>,
}

impl Birth {
    /// Reads it from the file system; follows links.
    pub(super) fn of(dir: &Path) -> io::Result<Self> {
        match rustix::fs::statx(CWD, dir, AtFlags::empty(), StatxFlags::INO | StatxFlags::BTIME) {
            Ok(found) => {
                let has_birth = StatxFlags::from_bits_retain(found.stx_mask).contains(StatxFlags::BTIME);
                let at = has_birth.then_some((found.stx_btime.tv_sec, found.stx_btime.tv_nsec));
                Ok(Self { inode: found.stx_ino, at })
            }
            // An old kernel, or a container's filter for system calls.
            Err(Errno::NOSYS | Errno::PERM) => Ok(Self { inode: FileId::of(dir)?.ino, at: None }),
            Err(error) => Err(error.into()),
        }
    }

    /// Returns the secret that consists of a random part and the tag for the file of this name in this directory.
    pub(super) fn certify(&self, name: &str, random: &Token) -> Token {
        let random = random.expose();
        Token::new(&format!("{random}-{}", self.tag(name, random))).expect("letters, digits and hyphens, and long enough")
    }

    /// Returns the secret in the text of a file if it was made for the file of this name in this directory.
    pub(super) fn certified(&self, name: &str, text: &str) -> Option<Token> {
        let (random, tag) = text.rsplit_once('-')?;
        // Needs no constant time: nobody can try tags but whoever can write the file.
        Token::new(text).ok().filter(|_| self.tag(name, random) == tag)
    }

    fn tag(&self, name: &str, random: &str) -> String {
        let mut signer = Hmac::<Sha256>::new_from_slice(random.as_bytes()).expect("a key of any length will do (RFC 2104)");
        let Self { inode, at } = self;
        signer.update(format!("{name} of the directory {inode} {at:?}").as_bytes());
        let mut tag = hex(&signer.finalize().into_bytes());
        tag.truncate(TAG_DIGITS);
        tag
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn secret_is_for_one_name_in_one_directory() {
        let random = Token::made_of(std::array::from_fn(|n| u8::try_from(n).expect("few")));
        let here = Birth { inode: 4711, at: Some((1_700_000_000, 5)) };
        let secret = here.certify("token", &random);
        let text = secret.expose();
        assert_eq!(here.certified("token", text).as_ref(), Some(&secret));
        assert_eq!(here.certified("read-token", text), None);
        for elsewhere in [
            Birth { inode: 4712, ..here.clone() },
            Birth { at: Some((1_700_000_000, 6)), ..here.clone() },
            Birth { at: Some((1_700_000_001, 5)), ..here.clone() },
            Birth { at: None, ..here.clone() },
        ] {
            assert_eq!(elsewhere.certified("token", text), None, "{elsewhere:?}");
        }
        let other_random = text.replacen('a', "b", 1);
        for other in ["", "-", "a-token-that-was-chosen", random.expose(), &text[1..], &text[..text.len() - 1], &*other_random] {
            assert_eq!(here.certified("token", other), None, "{other}");
        }
    }

    #[test]
    fn directory_is_the_same_after_a_rename_and_another_one_after_a_copy() {
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
