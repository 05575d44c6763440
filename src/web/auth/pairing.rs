//! One-time codes, which `autoappdev pair` puts into a link in place of a token.
//!
//! Codes are kept in memory only, so a restart of the server invalidates all of them. Browsers keep links in their history, but a
//! used code cannot log in again. Guesses are neither limited nor counted, because a code of 120 bits that is valid for ten minutes
//! cannot be guessed, and because a link with a wrong code can come from anybody.

use std::io;
use std::time::Duration;

use super::keys::{Keys, Of};
use super::sessions::Grant;
use crate::api::session::Role;
use crate::config::Token;
use crate::random;

/// How long a code is valid, by the boot-time clock.
pub(super) const CODE_LIFETIME: Duration = Duration::from_mins(10);
/// The maximum number of valid codes. A further code replaces the oldest.
const CODES_MAX: usize = 8;

/// An unused code.
#[derive(Clone, Debug)]
pub(super) struct Code {
    digest: String,
    pub(super) role: Role,
    /// The code becomes invalid with the session that made it, or when all sessions are ended.
    pub(super) grant: Grant,
    good_until: Duration,
}

/// The valid codes, oldest first. Times are since boot.
#[derive(Debug, Default)]
pub(super) struct Codes(Vec<Code>);

impl Codes {
    pub(super) fn make(&mut self, keys: &Keys, role: Role, grant: Grant, now: Duration) -> io::Result<String> {
        let text = Token::made_of(random::bytes()?).expose().to_owned();
        self.0.retain(|code| now < code.good_until);
        if self.0.len() >= CODES_MAX {
            self.0.remove(0);
        }
        self.0.push(Code { digest: keys.digest(Of::Code, &text), role, grant, good_until: now + CODE_LIFETIME });
        Ok(text)
    }

    /// Removes and returns the code with this text. If two requests present the same code, only one gets it.
    pub(super) fn take(&mut self, keys: &Keys, text: &str, now: Duration) -> Option<Code> {
        self.0.retain(|code| now < code.good_until);
        let found = self.0.iter().position(|code| keys.is(Of::Code, text, &code.digest))?;
        Some(self.0.remove(found))
    }

    /// Returns a code that was taken but not used, so that it can be used later.
    pub(super) fn give_back(&mut self, code: Code) {
        if self.0.len() < CODES_MAX {
            self.0.insert(0, code);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: Duration = Duration::from_secs(1000);

    fn keys() -> Keys {
        Keys::new(&Token::new("the-key-of-sessions").expect("good"))
    }

    #[test]
    fn code_is_good_once_and_for_ten_minutes() {
        let (keys, mut codes) = (keys(), Codes::default());
        let first = codes.make(&keys, Role::Viewer, Grant::default(), NOW).expect("made");
        let second = codes.make(&keys, Role::Operator, Grant::default(), NOW).expect("made");
        assert!(first != second && first.len() >= 24);
        assert_eq!(codes.take(&keys, &first, NOW).map(|code| code.role), Some(Role::Viewer));
        assert!(codes.take(&keys, &first, NOW).is_none(), "it was used");
        assert!(codes.take(&keys, "", NOW).is_none());
        let taken =
            codes.take(&keys, &second, NOW + CODE_LIFETIME.saturating_sub(Duration::from_millis(1))).expect("the last moment");
        codes.give_back(taken);
        assert!(codes.take(&keys, &second, NOW + CODE_LIFETIME).is_none(), "it has expired");
    }

    #[test]
    fn only_the_latest_codes_are_good() {
        let (keys, mut codes) = (keys(), Codes::default());
        let made: Vec<String> =
            (0..=CODES_MAX).map(|_| codes.make(&keys, Role::Operator, Grant::default(), NOW).expect("made")).collect();
        assert!(codes.take(&keys, &made[0], NOW).is_none());
        assert!(made[1..].iter().all(|text| codes.take(&keys, text, NOW).is_some()));
    }
}
