//! Waiting for a condition, with a deadline; never for time to pass.

use std::thread;
use std::time::{Duration, Instant};

/// How long a condition may take on a slow, noisy machine. Nothing waits that long unless it fails.
pub const DEADLINE: Duration = Duration::from_mins(1);

/// Waits for `holds` to give something, with a deadline; never for time to pass.
pub fn until<T>(what: &str, mut holds: impl FnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + DEADLINE;
    loop {
        if let Some(value) = holds() {
            return value;
        }
        assert!(Instant::now() < deadline, "never came true: {what}");
        thread::sleep(Duration::from_millis(2));
    }
}

/// Waits for a condition.
pub fn until_true(what: &str, mut holds: impl FnMut() -> bool) {
    until(what, || holds().then_some(()));
}
