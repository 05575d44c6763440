//! A server on a small file system, with a script that fills it on request, and the checks that tests make of both.

use crate::support::disk::SmallDisk;
use crate::support::{Place, until_true};

/// A script that waits for `talk`, prints as many lines as requested, creates a file once it has printed them, and waits for
/// `go`. Then it prints one more line and exits with code 7.
///
/// A line takes 64 bytes, so that a block of 4096 bytes, which is what `seq` writes, ends with a complete line. A line that is
/// cut, and whose rest comes late, would become two records.
pub(super) const TALK: &str = "#!/bin/bash\nwhile [ ! -e talk ]; do sleep 0.01; done\n\
                    seq -f 'line %08.0f, and some words so that a disk is full the sooner' 1 \"$1\"\n\
                    touch printed\nwhile [ ! -e go ]; do sleep 0.01; done\necho last\nexit 7\n";

pub(super) fn serving(kib: u32, test: &str) -> Option<SmallDisk> {
    let mut small = SmallDisk::of_kib(kib, test)?;
    small.place.script("talk.sh", TALK);
    small.place.set_env("AUTOAPPDEV_PIPELINE_SCRIPT", "sleep.sh");
    small.place.start_server();
    Some(small)
}

/// Returns how many lines are lost according to the log.
pub(super) fn lost(lines: &[String]) -> usize {
    let count = |line: &String| {
        let rest = line.strip_prefix("[autoappdev: ")?;
        rest.split_once(" lines are missing here")?.0.parse::<usize>().ok()
    };
    lines.iter().filter_map(count).sum()
}

/// Waits until health reports a problem that contains this word.
pub(super) fn until_degraded(place: &Place, word: &str) {
    until_true(&format!("health says {word:?}"), || place.degraded().is_some_and(|why| why.contains(word)));
}

pub(super) fn until_well(place: &Place) {
    until_true("all is well again by itself", || place.degraded().is_none());
}
