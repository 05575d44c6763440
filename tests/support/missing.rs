//! What a machine may lack: a test that needs it says that it did not run, and never looks like one that passed.

use std::io::{self, Write};
use std::thread;

/// Says that the test of this thread did not run, and why. Where the variable `required` is 1 that is a failure.
pub fn not_run(why: &str, required: &str) {
    assert!(std::env::var_os(required).is_none_or(|value| value != "1"), "{required}=1, but {why}");
    // Straight to stderr and in one piece: the test harness swallows what a passing test prints with the macros.
    let line = format!("\nNOT RUN: {}: {why}\n", thread::current().name().unwrap_or("a test"));
    io::stderr().write_all(line.as_bytes()).expect("stderr is writable");
}
