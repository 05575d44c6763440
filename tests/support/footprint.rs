//! What a server takes of the machine, as the kernel counts it.

use std::fmt;
use std::fs;

#[derive(Clone, Copy)]
pub struct Footprint {
    pub threads: u64,
    pub descriptors: u64,
    pub rss_kb: u64,
    /// Its own share of what it maps: files and libraries that others map too count in part.
    pub pss_kb: u64,
    /// The most that was ever resident.
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

impl fmt::Display for Footprint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { threads, descriptors, rss_kb, pss_kb, peak_kb } = self;
        write!(f, "{threads} threads, {descriptors} descriptors, RSS {rss_kb} KB, PSS {pss_kb} KB, at most {peak_kb} KB")
    }
}
