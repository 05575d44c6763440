//! A server on a small file system, with a script that fills it when it is told to, and what the tests ask of them.

use crate::support::disk::SmallDisk;
use crate::support::{Place, until_true};

/// Waits for `talk`, prints as many lines as it is told, says in its folder that it has printed them, and waits for `go`; then one more,
/// and code 7. A line takes 64 bytes, so that a block of 4096, which is what `seq` writes, ends with one: where a line is cut, and the rest is
/// long in coming, that is two records.
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

/// How many lines the log says were lost.
pub(super) fn lost(lines: &[String]) -> usize {
    let count = |line: &String| {
        let rest = line.strip_prefix("[autoappdev: ")?;
        rest.split_once(" lines are missing here")?.0.parse::<usize>().ok()
    };
    lines.iter().filter_map(count).sum()
}

/// Health says that something is wrong, with this word in it.
pub(super) fn until_degraded(place: &Place, word: &str) {
    until_true(&format!("health says {word:?}"), || place.degraded().is_some_and(|why| why.contains(word)));
}

pub(super) fn until_well(place: &Place) {
    until_true("all is well again by itself", || place.degraded().is_none());
}
