//! How a process ended, and whether it caused that itself.

use nix::sys::signal::Signal;
use serde::{Deserialize, Serialize};

/// How a process ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Exit {
    /// The process exited with this exit code.
    Code(i32),
    /// The signal with this number ended the process.
    Signal(i32),
}

/// The signals that a process causes itself (`signal(7)`): by a fault, by a limit that it exceeded, by a timer that it set,
/// or by a pipe that no longer has a reader.
const OWN_SIGNALS: [i32; 13] = {
    use signal_hook::consts::signal::{
        SIGABRT, SIGALRM, SIGBUS, SIGFPE, SIGILL, SIGPIPE, SIGPROF, SIGSEGV, SIGSYS, SIGTRAP, SIGVTALRM, SIGXCPU, SIGXFSZ,
    };
    [SIGABRT, SIGALRM, SIGBUS, SIGFPE, SIGILL, SIGPIPE, SIGPROF, SIGSEGV, SIGSYS, SIGTRAP, SIGVTALRM, SIGXCPU, SIGXFSZ]
};

/// Returns a signal's name on this machine, such as `SIGTERM`. `None` for a real-time signal, and for a number that is not a
/// signal (`signal(7)`).
pub fn signal_name(signal: i32) -> Option<&'static str> {
    Signal::try_from(signal).ok().map(Signal::as_str)
}

impl Exit {
    /// Returns the exit code and the signal, of which one is `None`.
    pub const fn code_or_signal(self) -> (Option<i32>, Option<i32>) {
        match self {
            Self::Code(code) => (Some(code), None),
            Self::Signal(signal) => (None, Some(signal)),
        }
    }

    /// Returns whether another process ended it: a signal that a process does not cause by a fault. The kernel does not
    /// report the sender of a fatal signal, so a process that sends itself a KILL looks the same.
    pub fn is_from_outside(self) -> bool {
        match self {
            Self::Code(_) => false,
            Self::Signal(signal) => !OWN_SIGNALS.contains(&signal),
        }
    }
}
