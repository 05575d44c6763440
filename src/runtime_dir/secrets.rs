//! The secrets in the runtime directory: the two tokens, and the key that signs sessions. Each is one line in its own file.
//!
//! Level 1. The server and client commands of the same user read them. At its start, the server creates missing secrets from
//! the kernel's randomness, and ties them to the directory (`birth`). A secret is written whole and renamed. If killed here:
//! the file does not exist and the next boot creates it, or it exists and is whole. A file that another user may have read or
//! written is refused, and is never used or replaced. A secret that was made for another directory came with a copy of that
//! directory, or with an archive whose author knows it. It is replaced, and is never used.

use std::fs;
use std::io::{self, Read, Write};
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

use super::birth::Birth;
use crate::config::{Token, Tokens};
use crate::kill_point::KillPoint;
use crate::private;
use crate::random;
use crate::shell_word::quoted_path;
use crate::user;

/// The maximum number of bytes that are read from a file.
const BYTES_MAX: u64 = 4096;

/// One of the secrets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Secret {
    /// The operators' token, which allows actions.
    Token,
    /// The viewers' token, which allows reading only.
    ReadToken,
    /// The key that, together with the token, signs sessions. Only the server uses it for that.
    SessionKey,
}

impl Secret {
    /// All secrets.
    pub const ALL: [Self; 3] = [Self::Token, Self::ReadToken, Self::SessionKey];

    /// Returns the path of its file in the runtime directory.
    pub fn path(self, runtime_dir: &Path) -> PathBuf {
        runtime_dir.join(self.name())
    }

    /// Returns the name of its file.
    pub fn name(self) -> &'static str {
        match self {
            Self::Token => "token",
            Self::ReadToken => "read-token",
            Self::SessionKey => "session-key",
        }
    }

    /// Returns the secret in its file, if there is one. An empty file counts as missing, because no client can have received a
    /// secret from it.
    ///
    /// # Errors
    /// The file cannot be read, may be known to another user, or was not made for this directory.
    pub fn find(self, runtime_dir: &Path) -> Result<Option<Token>, SecretError> {
        match self.look(runtime_dir)? {
            Look::Nothing => Ok(None),
            Look::Made(token) => Ok(Some(token)),
            Look::Foreign => Err(SecretError::Foreign { path: self.path(runtime_dir) }),
        }
    }

    fn look(self, runtime_dir: &Path) -> Result<Look, SecretError> {
        let path = self.path(runtime_dir);
        let looked = Birth::of(runtime_dir).and_then(|birth| read(&path).map(|text| (birth, text)));
        match looked {
            Ok((birth, Ok(text))) => Ok(match str::from_utf8(&text).map(str::trim) {
                Ok("") => Look::Nothing,
                Ok(text) => birth.certified(self.name(), text).map_or(Look::Foreign, Look::Made),
                Err(_) => Look::Foreign,
            }),
            Ok((_, Err(problem))) => Err(SecretError::Wrong { path, problem }),
            Err(cause) if cause.kind() == io::ErrorKind::NotFound => Ok(Look::Nothing),
            Err(cause) => Err(SecretError::Io { path, cause }),
        }
    }

    fn make(self, runtime_dir: &Path) -> Result<Token, SecretError> {
        let path = self.path(runtime_dir);
        let token = Birth::of(runtime_dir).and_then(|birth| {
            let token = birth.certify(self.name(), &Token::made_of(random::bytes()?));
            write(&path, &token).map(|()| token)
        });
        token.map_err(|cause| SecretError::Io { path, cause })
    }
}

/// The contents of a secret's file.
enum Look {
    /// There is no file, or it is empty.
    Nothing,
    /// A secret that was made for this directory.
    Made(Token),
    /// Anything else.
    Foreign,
}

/// Why secrets are replaced.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Replaced {
    /// The files of these secrets were not made for this directory.
    Foreign(Vec<Secret>),
    /// The file system records nothing from which a server could determine for which directory they were made.
    EachTime,
}

/// The secrets of a server, either set or read from files.
#[derive(Clone, Debug)]
pub struct Secrets {
    /// The operators' token, which allows actions.
    pub token: Token,
    /// The viewers' token, which allows reading only.
    pub read_token: Token,
    /// The key that signs sessions.
    pub session_key: Token,
}

impl Secrets {
    /// Returns the secrets that were `given`, and the others from their files. Creates the missing files.
    ///
    /// `before_replacing` is called with the reason before files are replaced. On a file system that makes every later start
    /// replace them, it is called at each start.
    pub fn keep(given: &Tokens, runtime_dir: &Path, before_replacing: impl FnOnce(&Replaced)) -> Result<Self, SecretError> {
        let birth = Birth::of(runtime_dir).map_err(|cause| SecretError::Io { path: runtime_dir.to_owned(), cause })?;
        let mut foreign = Vec::new();
        let mut look = |given: Option<&Token>, secret: Secret| {
            if let Some(given) = given {
                return Ok(Some(given.clone()));
            }
            Ok(match secret.look(runtime_dir)? {
                Look::Nothing => None,
                Look::Made(token) if birth.is_lasting() => Some(token),
                Look::Made(_) | Look::Foreign => {
                    foreign.push(secret);
                    None
                }
            })
        };
        // All are checked before the first is created, because a refused start must change nothing.
        let token = look(given.token.as_ref(), Secret::Token)?;
        let read_token = look(given.read_token.as_ref(), Secret::ReadToken)?;
        let session_key = look(None, Secret::SessionKey)?;
        if token.is_some() && token == read_token {
            return Err(SecretError::Same { runtime_dir: runtime_dir.to_owned() });
        }
        if !birth.is_lasting() {
            before_replacing(&Replaced::EachTime);
        } else if !foreign.is_empty() {
            before_replacing(&Replaced::Foreign(foreign));
        }
        let keep = |found: Option<Token>, secret: Secret| found.map_or_else(|| secret.make(runtime_dir), Ok);
        Ok(Self {
            token: keep(token, Secret::Token)?,
            read_token: keep(read_token, Secret::ReadToken)?,
            session_key: keep(session_key, Secret::SessionKey)?,
        })
    }
}

/// Why a secret cannot be used. No text contains a secret. The texts follow "failed to ".
#[derive(Debug, thiserror::Error)]
pub enum SecretError {
    /// The file cannot be read or written.
    #[error("keep a secret in {}: {cause}; {}", path.display(), advice(path, cause))]
    Io {
        /// The file.
        path: PathBuf,
        /// The kernel's error.
        cause: io::Error,
    },
    /// The file must not be used.
    #[error("use {}: it {problem}; correct that, or remove the file, and the next start creates another", path.display())]
    Wrong {
        /// The file.
        path: PathBuf,
        /// The problem, as a text that follows "it".
        problem: String,
    },
    /// The secret was made for another directory, so other people may know it.
    #[error(
        "use {}: it was not made for this directory, which was copied or restored, or came with the folder; the next start of the server \
         replaces it",
        path.display()
    )]
    Foreign {
        /// The file.
        path: PathBuf,
    },
    /// The two tokens are the same, so a viewer could act.
    #[error("use the tokens: the read-only token is the same as the operator token; change one of AUTOAPPDEV_TOKEN, \
        AUTOAPPDEV_READ_TOKEN and the files token and read-token in {}", runtime_dir.display())]
    Same {
        /// The directory of the files.
        runtime_dir: PathBuf,
    },
}

/// Returns what to do if a secret's file cannot be read or written.
fn advice(path: &Path, cause: &io::Error) -> String {
    let other_owner = fs::symlink_metadata(path).ok().map(|found| found.uid()).filter(|owner| !user::is_own(*owner));
    match (cause.kind(), other_owner) {
        (io::ErrorKind::PermissionDenied, Some(owner)) => {
            format!(
                "the file belongs to {}; remove it, or give it to this user: `chown {} {}`",
                user::another(owner),
                user::own(),
                quoted_path(path)
            )
        }
        _ => "this needs a little disk space, and a folder that this user may read and write".to_owned(),
    }
}

/// Returns the contents of a file that only its owner can access, or what is wrong with the file.
fn read(path: &Path) -> io::Result<Result<Vec<u8>, String>> {
    let wrong = |problem: &str| Ok(Err(problem.to_owned()));
    let file = match private::open_of_any_user(path) {
        Err(error) if error.kind() == io::ErrorKind::InvalidInput => return wrong("is not a regular file"),
        opened => opened?,
    };
    let about = file.metadata()?;
    let owner = about.uid();
    if !user::is_own_or_root(owner) {
        return wrong(&format!("belongs to {}, who knows what is in it", user::another(owner)));
    }
    if about.permissions().mode() & 0o077 != 0 {
        return wrong("can be read by others (if none has, `chmod 600` is enough)");
    }
    let mut bytes = Vec::new();
    file.take(BYTES_MAX).read_to_end(&mut bytes)?;
    Ok(Ok(bytes))
}

fn write(path: &Path, token: &Token) -> io::Result<()> {
    let beside = path.with_extension("new");
    let mut file = private::create_anew(&beside)?;
    file.write_all(format!("{}\n", token.expose()).as_bytes())?;
    file.sync_all()?;
    KillPoint::ServerSecretBeside.reach();
    fs::rename(&beside, path)?;
    // A secret that a client has received must still be valid after a power cut.
    if let Some(folder) = path.parent() {
        private::sync_dir(folder)?;
    }
    KillPoint::ServerSecretKept.reach();
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    const NONE: Tokens = Tokens { token: None, read_token: None };

    fn folder() -> tempfile::TempDir {
        tempfile::tempdir().expect("a temp folder")
    }

    /// Returns the secrets of a server that starts here, and the files that it replaced.
    fn kept(given: &Tokens, dir: &Path) -> Result<(Secrets, Vec<Secret>), SecretError> {
        let mut replaced = Vec::new();
        let note = |why: &Replaced| match why {
            Replaced::Foreign(secrets) => replaced.clone_from(secrets),
            Replaced::EachTime => panic!("the temp folder's file system records creation times"),
        };
        Ok((Secrets::keep(given, dir, note)?, replaced))
    }

    fn put(path: &Path, text: &str, mode: u32) {
        fs::write(path, text).expect("writes");
        fs::set_permissions(path, fs::Permissions::from_mode(mode)).expect("ours");
    }

    #[test]
    fn secrets_are_created_once_distinct_and_private() {
        let dir = folder();
        assert_eq!(Secret::Token.find(dir.path()).expect("no error"), None);
        let (first, _) = kept(&NONE, dir.path()).expect("made");
        let texts = [&first.token, &first.read_token, &first.session_key].map(Token::expose);
        assert!(texts[0] != texts[1] && texts[1] != texts[2] && texts[0] != texts[2]);
        for (secret, text) in Secret::ALL.into_iter().zip(texts) {
            let path = secret.path(dir.path());
            assert_eq!(fs::read_to_string(&path).expect("there"), format!("{text}\n"));
            assert_eq!(fs::metadata(&path).expect("there").permissions().mode() & 0o7777, 0o600);
        }
        assert_eq!(fs::read_dir(dir.path()).expect("there").count(), 3, "nothing is left beside them");
        let (second, replaced) = kept(&NONE, dir.path()).expect("kept");
        assert_eq!([&second.token, &second.read_token, &second.session_key].map(Token::expose), texts);
        assert_eq!(replaced, []);
    }

    #[test]
    fn given_token_overrides_its_file_and_is_not_stored() {
        let dir = folder();
        let given = |text| Tokens { token: Some(Token::new(text).expect("good")), read_token: None };
        let (first, _) = kept(&given("given-by-the-owner-1"), dir.path()).expect("kept");
        assert_eq!(first.token.expose(), "given-by-the-owner-1");
        assert!(!Secret::Token.path(dir.path()).exists());
        let same = first.read_token.expose();
        let error = kept(&given(same), dir.path()).expect_err("the same").to_string();
        assert!(error.contains("AUTOAPPDEV_READ_TOKEN") && !error.contains(same), "{error}");
    }

    #[test]
    fn secret_file_accessible_to_others_is_refused_unchanged() {
        let dir = folder();
        let path = Secret::SessionKey.path(dir.path());
        // This file would be replaced.
        put(&Secret::Token.path(dir.path()), "a-token-of-somebody-else", 0o600);
        for mode in [0o640, 0o604, 0o620] {
            put(&path, "a-token-that-is-good", mode);
            let error = kept(&NONE, dir.path()).expect_err("others can read it").to_string();
            assert!(error.contains("chmod 600") && error.contains("remove the file") && !error.contains("is-good"), "{error}");
            assert_eq!(fs::read_to_string(&path).expect("there"), "a-token-that-is-good", "it is not touched");
        }
        fs::remove_file(&path).expect("there");
        fs::create_dir(&path).expect("creates");
        assert!(kept(&NONE, dir.path()).expect_err("a folder").to_string().contains("is not a regular file"));
        assert_eq!(fs::read_to_string(Secret::Token.path(dir.path())).expect("there"), "a-token-of-somebody-else");
        assert_eq!(fs::read_dir(dir.path()).expect("there").count(), 2, "no other one was made");
    }

    #[test]
    fn secret_not_made_for_this_directory_is_replaced_once() {
        let (dir, other) = (folder(), folder());
        let (foreign, _) = kept(&NONE, other.path()).expect("made");
        let foreign = foreign.token.expose();
        for text in [foreign, "a-token-that-is-good", "too-short", "two words, long enough", "\0\u{1b}", &"x".repeat(5000)] {
            let path = Secret::Token.path(dir.path());
            put(&path, text, 0o600);
            let error = Secret::Token.find(dir.path()).expect_err("foreign").to_string();
            assert!(error.contains("was not made for this directory") && !error.contains(text), "{error}");
            let (made, replaced) = kept(&NONE, dir.path()).expect("made anew");
            assert!(made.token.expose() != text && replaced == [Secret::Token], "{text}");
            assert_eq!(Secret::Token.find(dir.path()).expect("good").as_ref(), Some(&made.token));
            assert_eq!(fs::metadata(&path).expect("there").permissions().mode() & 0o7777, 0o600);
            let (again, replaced) = kept(&NONE, dir.path()).expect("kept");
            assert_eq!((&again.token, replaced), (&made.token, vec![]));
        }
        // A secret that was made for another file in this directory is not used either.
        let (made, _) = kept(&NONE, dir.path()).expect("kept");
        put(&Secret::Token.path(dir.path()), made.read_token.expose(), 0o600);
        assert_eq!(kept(&NONE, dir.path()).expect("made anew").1, [Secret::Token]);
    }

    #[test]
    fn empty_secret_file_is_filled_and_not_reported_as_replaced() {
        let dir = folder();
        for empty in ["", "\n", "  \n"] {
            put(&Secret::Token.path(dir.path()), empty, 0o600);
            put(&dir.path().join("token.new"), "torn", 0o644);
            let (made, replaced) = kept(&NONE, dir.path()).expect("made anew");
            assert_eq!((Secret::Token.find(dir.path()).expect("good"), replaced), (Some(made.token), vec![]));
            assert_eq!(fs::metadata(Secret::Token.path(dir.path())).expect("there").permissions().mode() & 0o7777, 0o600);
        }
    }

    /// Runs like a server that is not root. A capability belongs to a thread.
    #[test]
    fn advice_about_foreign_file_names_its_owner_and_the_command() {
        if !rustix::process::geteuid().is_root() {
            return;
        }
        let dir = folder();
        let path = Secret::Token.path(dir.path());
        put(&path, "a-token-that-is-good", 0o600);
        std::os::unix::fs::chown(&path, Some(65_534), None).expect("we are root");
        let find = || {
            use rustix::thread::{CapabilitySet, capabilities, set_capabilities};
            let mut sets = capabilities(None).expect("this thread's");
            sets.effective -= CapabilitySet::DAC_OVERRIDE | CapabilitySet::DAC_READ_SEARCH;
            set_capabilities(None, sets).expect("fewer");
            Secret::Token.find(dir.path()).expect_err("it cannot be read").to_string()
        };
        let error = std::thread::scope(|scope| scope.spawn(find).join().expect("no panic"));
        let advice =
            format!("belongs to another user (uid 65534); remove it, or give it to this user: `chown 0 {}`", path.display());
        assert!(error.contains(&advice), "{error}");
    }
}
