//! Reports of what a machine lacks. A test that needs it reports that it did not run, and never looks like a test that passed.

use std::fs::File;
use std::io::{self, Write};
use std::process::Command;
use std::thread;

/// Reports that the test of this thread did not run, and why. If the variable `required` is 1, that is a failure.
pub fn not_run(why: &str, required: &str) {
    assert!(std::env::var_os(required).is_none_or(|value| value != "1"), "{required}=1, but {why}");
    // Directly to stderr and in one write, because the test harness captures what a passing test prints with the macros.
    let line = format!("\nNOT RUN: {}: {why}\n", thread::current().name().unwrap_or("a test"));
    io::stderr().write_all(line.as_bytes()).expect("stderr is writable");
    // Some runners show the output of a test only if it failed.
    if let Some(list) = std::env::var_os("AUTOAPPDEV_NOT_RUN_LIST") {
        let list = File::options().create(true).append(true).open(list);
        list.and_then(|mut list| list.write_all(line.trim_start().as_bytes())).expect("the list is writable");
    }
}

/// Returns the path, within its crate, of the test whose function is called `test`.
pub fn full_name(test: &str) -> String {
    let this = std::env::current_exe().expect("it runs");
    let listed = Command::new(this).args(["--list", "--format", "terse"]).output().expect("it runs");
    let listed = String::from_utf8_lossy(&listed.stdout).into_owned();
    let mut names = listed.lines().filter_map(|line| line.strip_suffix(": test"));
    names.find(|name| name.rsplit("::").next() == Some(test)).unwrap_or_else(|| panic!("there is no test {test}")).to_owned()
}
