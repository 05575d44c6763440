//! One-time codes, which `autoappdev pair` puts into a link in place of a token.
//!
//! Codes are kept in memory only, so a restart of the server invalidates all of them. Browsers keep links in their history, but a
//! used code cannot log in again. Guesses are neither limited nor counted, because a code of 120 bits that is valid for ten
//! minutes cannot be guessed, and because anyone can make a link with a wrong code.

use std::io;
use std::time::Duration;

use super::keys::{Keys, Of};
use super::sessions::{Grant, Moment};
use crate::api::session::Role;
use crate::clock::Timestamp;
use crate::config::Token;
use crate::random;

/// How long a code is valid, by the boot-time clock.
pub(super) const CODE_LIFETIME: Duration = Duration::from_mins(10);
/// The maximum number of codes. A further code replaces the oldest used one, or else the oldest.
const CODES_MAX: usize = 8;
/// The length of an id, in hexadecimal digits of the code's digest.
const ID_DIGITS: usize = 8;

/// A code that has not expired. A used code is kept, so that the user who made it can see that it was used.
#[derive(Clone, Debug)]
pub(super) struct Code {
    digest: String,
    pub(super) is_used: bool,
    pub(super) role: Role,
    pub(super) expires_at: Timestamp,
    /// The code becomes invalid with the session that made it, or when all sessions are ended.
    pub(super) grant: Grant,
    good_until: Duration,
}

impl Code {
    /// Returns the public name of the code, which reveals nothing about its text.
    pub(super) fn id(&self) -> &str {
        &self.digest[..ID_DIGITS]
    }
}

/// The codes that have not expired, oldest first.
#[derive(Debug, Default)]
pub(super) struct Codes(Vec<Code>);

impl Codes {
    /// Creates a code and returns it with its text.
    pub(super) fn make(&mut self, keys: &Keys, role: Role, grant: Grant, now: Moment) -> io::Result<(String, Code)> {
        let text = Token::made_of(random::bytes()?).expose().to_owned();
        self.expire(now.since_boot);
        if self.0.len() >= CODES_MAX {
            self.0.remove(self.0.iter().position(|code| code.is_used).unwrap_or(0));
        }
        let code = Code {
            digest: keys.digest(Of::Code, &text),
            is_used: false,
            role,
            expires_at: now.wall.after(CODE_LIFETIME),
            grant,
            good_until: now.since_boot + CODE_LIFETIME,
        };
        self.0.push(code.clone());
        Ok((text, code))
    }

    /// Marks the unused code with this text as used and returns it. If two requests present the same code, only one gets it.
    pub(super) fn take(&mut self, keys: &Keys, text: &str, since_boot: Duration) -> Option<Code> {
        self.expire(since_boot);
        let found = self.0.iter_mut().find(|code| !code.is_used && keys.is(Of::Code, text, &code.digest))?;
        found.is_used = true;
        Some(found.clone())
    }

    /// Makes a code usable again that was taken but did not log a client in.
    pub(super) fn give_back(&mut self, code: &Code) {
        if let Some(kept) = self.0.iter_mut().find(|kept| kept.digest == code.digest) {
            kept.is_used = false;
        }
    }

    /// Returns the codes, oldest first.
    pub(super) fn list(&mut self, since_boot: Duration) -> &[Code] {
        self.expire(since_boot);
        &self.0
    }

    fn expire(&mut self, since_boot: Duration) {
        self.0.retain(|code| since_boot < code.good_until);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::{Clock, SystemClock};

    const NOW: Duration = Duration::from_secs(1000);

    fn keys() -> Keys {
        Keys::new(&Token::new("the-key-of-sessions").expect("good"))
    }

    fn make(codes: &mut Codes, role: Role) -> (String, String) {
        let now = Moment { wall: SystemClock.now(), since_boot: NOW };
        let (text, code) = codes.make(&keys(), role, Grant::default(), now).expect("made");
        (text, code.id().to_owned())
    }

    #[test]
    fn one_time_code_is_valid_once_and_for_ten_minutes() {
        let (keys, mut codes) = (keys(), Codes::default());
        let [(first, first_id), (second, second_id)] = [Role::Viewer, Role::Operator].map(|role| make(&mut codes, role));
        assert!(first != second && first.len() >= 24 && first_id != second_id && !first.contains(&first_id));
        assert_eq!(codes.take(&keys, &first, NOW).map(|code| code.role), Some(Role::Viewer));
        assert!(codes.take(&keys, &first, NOW).is_none(), "it was used");
        assert!(codes.take(&keys, "", NOW).is_none());
        let listed: Vec<_> = codes.list(NOW).iter().map(|code| (code.id(), code.is_used)).collect();
        assert_eq!(listed, [(&*first_id, true), (&*second_id, false)]);
        let taken =
            codes.take(&keys, &second, NOW + CODE_LIFETIME.saturating_sub(Duration::from_millis(1))).expect("the last moment");
        codes.give_back(&taken);
        assert!(codes.take(&keys, &second, NOW + CODE_LIFETIME).is_none(), "it has expired");
        assert!(codes.list(NOW + CODE_LIFETIME).is_empty());
    }

    #[test]
    fn only_the_latest_one_time_codes_are_valid() {
        let (keys, mut codes) = (keys(), Codes::default());
        let made: Vec<String> = (0..=CODES_MAX).map(|_| make(&mut codes, Role::Operator).0).collect();
        assert!(codes.take(&keys, &made[0], NOW).is_none());
        assert!(codes.take(&keys, &made[7], NOW).is_some());
        // A used code is replaced first.
        let latest = make(&mut codes, Role::Operator).0;
        assert!([&made[1..7], &made[8..], &[latest]].concat().iter().all(|text| codes.take(&keys, text, NOW).is_some()));
        assert_eq!(codes.list(NOW).len(), CODES_MAX);
    }
}
