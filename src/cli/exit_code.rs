//! The exit codes. `--help` prints this list, and a test compares the README's table with it.

pub(super) const FAILURE: u8 = 1;
pub(super) const WRONG_USAGE: u8 = 2;
pub(super) const REFUSED: u8 = 3;
pub(super) const UNREACHABLE: u8 = 4;

/// Each exit code with its meaning, as in `--help` and the README.
pub const EXIT_CODES: [(u8, &str); 5] = [
    (0, "success"),
    (FAILURE, "failure"),
    (WRONG_USAGE, "invalid usage, or an invalid setting"),
    (REFUSED, "the state does not allow the action, for example a pause of a stopped pipeline"),
    (UNREACHABLE, "no server answers, or its answer was cut off: `autoappdev status` shows the current state"),
];
