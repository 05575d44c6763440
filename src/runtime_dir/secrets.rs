//! The secrets in the runtime directory: the two tokens, and what sessions are signed with. Each is one line in a file of its own.
//!
//! Level 1. Read by the server at its start and by client commands of the same user. Made where there is none, of the kernel's
//! randomness, written whole and renamed: if killed here, the file is not there and the next boot makes another, or it is there
//! and whole. What somebody else may have read or written is refused, never used and never replaced.

use std::fs;
use std::io::{self, Read, Write};
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

use crate::config::{Token, Tokens};
use crate::kill_point::KillPoint;
use crate::private;
use crate::random;
use crate::user;

/// The longest file that is read, in bytes.
const BYTES_MAX: u64 = 4096;

/// Which one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Secret {
    /// Who has it may look and act.
    Token,
    /// Who has it may look.
    ReadToken,
    /// What sessions are signed with, beside the token: nobody's but the server's.
    SessionKey,
}

impl Secret {
    /// Its file in the runtime directory.
    pub fn path(self, runtime_dir: &Path) -> PathBuf {
        runtime_dir.join(match self {
            Self::Token => "token",
            Self::ReadToken => "read-token",
            Self::SessionKey => "session-key",
        })
    }

    /// What is in its file, if there is one. An empty one counts as none: nobody can have been given what was in it.
    pub fn find(self, runtime_dir: &Path) -> Result<Option<Token>, SecretError> {
        let path = self.path(runtime_dir);
        match read(&path) {
            Ok(Ok(token)) => Ok(token),
            Ok(Err(problem)) => Err(SecretError::Wrong { path, problem }),
            Err(cause) if cause.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(cause) => Err(SecretError::Io { path, cause }),
        }
    }

    /// The same, and where there is none one is made.
    fn keep(self, runtime_dir: &Path) -> Result<Token, SecretError> {
        if let Some(found) = self.find(runtime_dir)? {
            return Ok(found);
        }
        let path = self.path(runtime_dir);
        make(&path).map_err(|cause| SecretError::Io { path, cause })
    }
}

/// All that a server with a door for strangers needs.
#[derive(Clone, Debug)]
pub struct Secrets {
    /// Who has it may look and act.
    pub token: Token,
    /// Who has it may look.
    pub read_token: Token,
    /// What sessions are signed with.
    pub session_key: Token,
}

impl Secrets {
    /// Those that were `given`, and the others from their files, which are made where they are not there.
    pub fn keep(given: &Tokens, runtime_dir: &Path) -> Result<Self, SecretError> {
        let keep = |given: &Option<Token>, secret: Secret| given.clone().map_or_else(|| secret.keep(runtime_dir), Ok);
        let secrets = Self {
            token: keep(&given.token, Secret::Token)?,
            read_token: keep(&given.read_token, Secret::ReadToken)?,
            session_key: Secret::SessionKey.keep(runtime_dir)?,
        };
        if secrets.token == secrets.read_token {
            return Err(SecretError::Same { runtime_dir: runtime_dir.to_owned() });
        }
        Ok(secrets)
    }
}

/// Why a secret cannot be used. No text holds one. To be read after "failed to ".
#[derive(Debug, thiserror::Error)]
pub enum SecretError {
    /// The file cannot be read or written.
    #[error("keep a secret in {}: {cause}; that takes a little room on the disk, and a folder that this user may read and write", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// The kernel's error.
        cause: io::Error,
    },
    /// What is there is not to be used.
    #[error("use {}: it {problem}; mend that, or remove the file and another one is made at the next start", path.display())]
    Wrong {
        /// The file.
        path: PathBuf,
        /// What is wrong with it, to be read after "it".
        problem: String,
    },
    /// A reader could act.
    #[error("tell the tokens apart: the read-only one is the same as the other; change one of AUTOAPPDEV_TOKEN, AUTOAPPDEV_READ_TOKEN and the files token and read-token in {}", runtime_dir.display())]
    Same {
        /// The folder of the files.
        runtime_dir: PathBuf,
    },
}

/// What is in a file that is its owner's alone, or what is wrong with it.
fn read(path: &Path) -> io::Result<Result<Option<Token>, String>> {
    let wrong = |problem: &str| Ok(Err(problem.to_owned()));
    let file = match private::open(path) {
        Err(error) if error.kind() == io::ErrorKind::InvalidInput => return wrong("is not a regular file"),
        opened => opened?,
    };
    let about = file.metadata()?;
    let owner = about.uid();
    if !user::is_own_or_root(owner) {
        return wrong(&format!("belongs to another user (uid {owner}), who knows what is in it"));
    }
    if about.permissions().mode() & 0o077 != 0 {
        return wrong("can be read by others (`chmod 600` on it mends that, if nobody has)");
    }
    let mut bytes = Vec::new();
    file.take(BYTES_MAX).read_to_end(&mut bytes)?;
    let Ok(text) = String::from_utf8(bytes) else { return wrong("is not text") };
    Ok(match text.trim() {
        "" => Ok(None),
        text => Token::new(text).map(Some).map_err(str::to_owned),
    })
}

fn make(path: &Path) -> io::Result<Token> {
    let token = Token::made_of(random::bytes()?);
    let beside = path.with_extension("new");
    let mut file = private::create_anew(&beside)?;
    file.write_all(format!("{}\n", token.expose()).as_bytes())?;
    file.sync_all()?;
    KillPoint::ServerSecretBeside.reach();
    fs::rename(&beside, path)?;
    // Who was given it must find that it still holds after a power cut.
    if let Some(folder) = path.parent() {
        private::sync_dir(folder)?;
    }
    KillPoint::ServerSecretKept.reach();
    Ok(token)
}

#[cfg(test)]
mod tests {
    use super::*;

    const NONE: Tokens = Tokens { token: None, read_token: None };

    fn folder() -> tempfile::TempDir {
        tempfile::tempdir().expect("a temp folder")
    }

    fn write(path: &Path, text: &str, mode: u32) {
        fs::write(path, text).expect("writes");
        fs::set_permissions(path, fs::Permissions::from_mode(mode)).expect("ours");
    }

    #[test]
    fn they_are_made_once_each_another_and_for_the_owner_alone() {
        let dir = folder();
        assert_eq!(Secret::Token.find(dir.path()).expect("no error"), None);
        let first = Secrets::keep(&NONE, dir.path()).expect("made");
        let texts = [&first.token, &first.read_token, &first.session_key].map(Token::expose);
        assert!(texts[0] != texts[1] && texts[1] != texts[2] && texts[0] != texts[2]);
        for (secret, text) in [Secret::Token, Secret::ReadToken, Secret::SessionKey].into_iter().zip(texts) {
            let path = secret.path(dir.path());
            assert_eq!(fs::read_to_string(&path).expect("there"), format!("{text}\n"));
            assert_eq!(fs::metadata(&path).expect("there").permissions().mode() & 0o7777, 0o600);
        }
        assert_eq!(fs::read_dir(dir.path()).expect("there").count(), 3, "nothing is left beside them");
        let second = Secrets::keep(&NONE, dir.path()).expect("kept");
        assert_eq!([&second.token, &second.read_token, &second.session_key].map(Token::expose), texts);
    }

    #[test]
    fn one_that_is_given_goes_before_its_file_and_is_not_written_down() {
        let dir = folder();
        let given = Tokens { token: Some(Token::new("given-by-the-owner-1").expect("good")), read_token: None };
        assert_eq!(Secrets::keep(&given, dir.path()).expect("kept").token.expose(), "given-by-the-owner-1");
        assert!(!Secret::Token.path(dir.path()).exists());
        write(&Secret::ReadToken.path(dir.path()), "given-by-the-owner-1\n", 0o600);
        let error = Secrets::keep(&given, dir.path()).expect_err("the same").to_string();
        assert!(error.contains("AUTOAPPDEV_READ_TOKEN") && !error.contains("given-by-the-owner"), "{error}");
    }

    #[test]
    fn what_others_may_know_or_nobody_can_have_meant_is_not_used() {
        let dir = folder();
        let path = Secret::Token.path(dir.path());
        for (text, mode, advice) in [
            ("a-token-that-is-good", 0o640, "chmod 600"),
            ("a-token-that-is-good", 0o604, "chmod 600"),
            ("a-token-that-is-good", 0o620, "chmod 600"),
            ("too-short", 0o600, "at least 16 characters"),
            ("two words, long enough", 0o600, "blank"),
        ] {
            write(&path, text, mode);
            let error = Secrets::keep(&NONE, dir.path()).expect_err(text).to_string();
            assert!(error.contains(advice) && error.contains("remove the file") && !error.contains(text), "{error}");
            assert_eq!(fs::read_to_string(&path).expect("there"), text, "it is not touched");
        }
        fs::remove_file(&path).expect("there");
        fs::create_dir(&path).expect("creates");
        assert!(Secrets::keep(&NONE, dir.path()).expect_err("a folder").to_string().contains("is not a regular file"));
    }

    #[test]
    fn an_empty_file_holds_nothing_that_anybody_was_given() {
        let dir = folder();
        for empty in ["", "\n", "  \n"] {
            write(&Secret::Token.path(dir.path()), empty, 0o600);
            write(&dir.path().join("token.new"), "torn", 0o644);
            let made = Secrets::keep(&NONE, dir.path()).expect("made anew");
            assert_eq!(Secret::Token.find(dir.path()).expect("good"), Some(made.token));
            assert_eq!(fs::metadata(Secret::Token.path(dir.path())).expect("there").permissions().mode() & 0o7777, 0o600);
        }
    }
}
