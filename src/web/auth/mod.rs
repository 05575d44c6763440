//! Authentication and authorization: roles, tokens, sessions, one-time codes, and a limit on wrong tokens.

mod authenticator;
mod keys;
mod pairing;
mod sessions;
mod throttle;
mod timed_mutex;
mod trust;

pub use authenticator::Authenticator;
pub(super) use authenticator::{Caller, Shown};
pub(super) use sessions::Session;
pub use trust::Trust;
