//! How a process ended, and whether it did that to itself.

use nix::sys::signal::Signal;
use serde::{Deserialize, Serialize};

/// How a process ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Exit {
    /// By itself, with this exit code.
    Code(i32),
    /// By this signal's number.
    Signal(i32),
}

/// The signals that a process brings upon itself (`signal(7)`): by a fault of its own, by a limit that it ran into, by a timer that it set,
/// by a pipe that nobody reads any more.
const OWN_SIGNALS: [i32; 13] = {
    use signal_hook::consts::signal::{
        SIGABRT, SIGALRM, SIGBUS, SIGFPE, SIGILL, SIGPIPE, SIGPROF, SIGSEGV, SIGSYS, SIGTRAP, SIGVTALRM, SIGXCPU, SIGXFSZ,
    };
    [SIGABRT, SIGALRM, SIGBUS, SIGFPE, SIGILL, SIGPIPE, SIGPROF, SIGSEGV, SIGSYS, SIGTRAP, SIGVTALRM, SIGXCPU, SIGXFSZ]
};

/// A signal's name on this machine, such as `SIGTERM`; none for a real-time signal, and for a number that is no signal (`signal(7)`).
pub fn signal_name(signal: i32) -> Option<&'static str> {
    Signal::try_from(signal).ok().map(Signal::as_str)
}

impl Exit {
    /// The exit code, or the signal.
    pub const fn code_or_signal(self) -> (Option<i32>, Option<i32>) {
        match self {
            Self::Code(code) => (Some(code), None),
            Self::Signal(signal) => (None, Some(signal)),
        }
    }

    /// Whether somebody else ended it: by a signal that no fault of its own brings. The kernel does not tell the sender of a deadly signal,
    /// so a process that sends itself a KILL looks the same.
    pub fn is_from_outside(self) -> bool {
        match self {
            Self::Code(_) => false,
            Self::Signal(signal) => !OWN_SIGNALS.contains(&signal),
        }
    }
}
