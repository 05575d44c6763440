//! A network for one test: a namespace in which an address beyond loopback leads only to the test itself.
//!
//! Creating it needs root, or a user namespace in which the test is root. Without either, the test reports that it did not run.
//! `AUTOAPPDEV_REQUIRE_NETNS=1` makes that a failure.

use std::io::{self, Write};
use std::process::Command;

use super::{full_name, not_run};

/// Set in a test that runs in its own network.
const WITHIN_VAR: &str = "AUTOAPPDEV_TEST_WITHIN_NETWORK";

/// The addresses of the machine in that network, apart from loopback.
pub const OWN_ADDRESS: &str = "10.77.0.1";
pub const OWN_ADDRESS_OF_SIX: &str = "fd77::1";

/// Sets the network up: loopback, and one end of a veth pair whose other end is not used.
const SET_UP: &str = "ip link set lo up && ip link add v0 type veth peer name v1 && ip link set v1 up && ip link set v0 up \
                      && ip addr add 10.77.0.1/24 dev v0 && ip addr add fd77::1/64 dev v0 nodad";

/// Returns whether this is the test inside its network. Outside of it, runs the test called `test` again in a new network, or
/// reports that this is not possible.
pub fn is_within_own_network(test: &str) -> bool {
    if std::env::var_os(WITHIN_VAR).is_some() {
        return true;
    }
    let flags = ["-n", "-Urn"].into_iter().find(|flags| {
        let tried = Command::new("unshare").args([flags, "bash", "-c", SET_UP]).output();
        tried.is_ok_and(|output| output.status.success())
    });
    let Some(flags) = flags else {
        let why = "no network of one's own can be made here, neither as this user nor in a user namespace; it takes unshare(1) and ip(8)";
        not_run(why, "AUTOAPPDEV_REQUIRE_NETNS");
        return false;
    };
    let this = std::env::current_exe().expect("it runs");
    let output = Command::new("unshare")
        .args([flags, "bash", "-c", &format!("{SET_UP} && exec \"$@\""), "bash"])
        .arg(this)
        .args(["--exact", &full_name(test), "--nocapture"])
        .env(WITHIN_VAR, "1")
        .output()
        .expect("it ran a moment ago");
    let said = String::from_utf8_lossy(&output.stdout);
    // A NOT RUN line must be visible outside the namespace too.
    io::stderr().write_all(&output.stderr).expect("stderr is writable");
    // A name that matches no test would succeed with 0 tests.
    let is_good = output.status.success() && said.contains("test result: ok. 1 passed");
    assert!(is_good, "{test} failed in its network; it said, beside what stands above:\n{said}");
    false
}
