//! Who sent a request, and what that client may do: roles, tokens, log-ins, and a limit on wrong tokens.

mod authenticator;
mod session;
mod throttle;
mod trust;

pub use authenticator::Authenticator;
pub(super) use authenticator::Caller;
pub use trust::Trust;
