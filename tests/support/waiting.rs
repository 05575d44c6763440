//! Waiting for a condition with a deadline, and never for a fixed time.

use std::thread;
use std::time::{Duration, Instant};

/// The time limit for a condition, on a slow and busy machine. A test waits that long only if it fails.
pub const DEADLINE: Duration = Duration::from_mins(1);

/// Calls `holds` until it returns a value. Panics after the deadline.
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

/// Waits until a condition is true. Panics after the deadline.
pub fn until_true(what: &str, mut holds: impl FnMut() -> bool) {
    until(what, || holds().then_some(()));
}
