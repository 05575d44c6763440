//! The resources that a server uses, as the kernel counts them.

use std::fmt;
use std::fs;

#[derive(Clone, Copy)]
pub struct Footprint {
    pub threads: u64,
    pub descriptors: u64,
    pub rss_kb: u64,
    /// The proportional share of all mapped memory: files and libraries that other processes map too count in part.
    pub pss_kb: u64,
    /// The highest resident size so far.
    pub peak_kb: u64,
}

impl Footprint {
    pub fn of(pid: u32) -> Self {
        let read = |file: &str| fs::read_to_string(format!("/proc/{pid}/{file}")).expect("the server is alive");
        let number = |text: &str, name: &str| {
            let line = text.lines().find_map(|line| line.strip_prefix(name)).unwrap_or_else(|| panic!("{name} is told"));
            line.split_whitespace().next().and_then(|word| word.parse().ok()).expect("a number")
        };
        let status = read("status");
        Self {
            threads: number(&status, "Threads:"),
            descriptors: fs::read_dir(format!("/proc/{pid}/fd")).expect("ours").count() as u64,
            rss_kb: number(&status, "VmRSS:"),
            pss_kb: number(&read("smaps_rollup"), "Pss:"),
            peak_kb: number(&status, "VmHWM:"),
        }
    }
}

impl Footprint {
    /// Checks whether the threads and descriptors are back at `quiet`, which can be from any time of the server's life.
    ///
    /// One more descriptor is not a leak. `SQLite` keeps the descriptor of a second connection to a file for later use, because a
    /// POSIX lock ends with any close. The first reader that opens another connection to the database, some time after boot,
    /// leaves one.
    pub fn is_back_to(&self, quiet: &Self) -> bool {
        const KEPT_BY_SQLITE: u64 = 1;
        self.threads <= quiet.threads && self.descriptors <= quiet.descriptors + KEPT_BY_SQLITE
    }
}

impl fmt::Display for Footprint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { threads, descriptors, rss_kb, pss_kb, peak_kb } = self;
        write!(f, "{threads} threads, {descriptors} descriptors, RSS {rss_kb} KB, PSS {pss_kb} KB, at most {peak_kb} KB")
    }
}
