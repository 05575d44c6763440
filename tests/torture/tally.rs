//! The counts and times, and the summary at the end.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

/// The counts and times of a test.
pub(crate) struct Tally {
    began: Instant,
    done: BTreeMap<String, usize>,
    ends: BTreeMap<String, usize>,
    times: BTreeMap<&'static str, Vec<Duration>>,
    violations: Vec<String>,
    rounds: u32,
    lines: u64,
}

impl Tally {
    pub(crate) fn new() -> Self {
        Self {
            began: Instant::now(),
            done: BTreeMap::new(),
            ends: BTreeMap::new(),
            times: BTreeMap::new(),
            violations: Vec::new(),
            rounds: 0,
            lines: 0,
        }
    }

    pub(crate) fn round(&mut self) {
        self.rounds += 1;
    }

    pub(crate) fn did(&mut self, what: &str) {
        *self.done.entry(what.to_owned()).or_default() += 1;
    }

    pub(crate) fn ended(&mut self, how: &str) {
        *self.ends.entry(how.to_owned()).or_default() += 1;
    }

    pub(crate) fn read_lines(&mut self, count: u64) {
        self.lines += count;
    }

    pub(crate) fn took(&mut self, what: &'static str, time: Duration) {
        self.times.entry(what).or_default().push(time);
    }

    pub(crate) fn violation(&mut self, round: u32, what: &str) {
        self.violations.push(format!("round {round}: {}", what.lines().next().unwrap_or_default()));
    }

    pub(crate) fn violations(&self) -> usize {
        self.violations.len()
    }

    pub(crate) fn runs(&self) -> usize {
        self.ends.values().sum()
    }

    pub(crate) fn elapsed(&self) -> Duration {
        self.began.elapsed()
    }

    pub(crate) fn progress(&self, round: u32) {
        println!(
            "  round {round}: {} runs, {} violations, {:.1} s",
            self.runs(),
            self.violations(),
            self.elapsed().as_secs_f64()
        );
    }

    pub(crate) fn print(&mut self, seed: u64) {
        let list = |counts: &BTreeMap<String, usize>| {
            let words: Vec<String> = counts.iter().map(|(what, count)| format!("{what} {count}")).collect();
            words.join(", ")
        };
        println!("\ntorture: {} rounds in {:.1} s, seed {seed}", self.rounds, self.elapsed().as_secs_f64());
        println!("  done:  {}", list(&self.done));
        println!("  ends:  {} runs: {}", self.runs(), list(&self.ends));
        println!("  log:   {} numbered lines, none missing, none twice", self.lines);
        for (what, times) in &mut self.times {
            times.sort_unstable();
            let at = |percent: usize| times[(times.len() - 1) * percent / 100].as_secs_f64() * 1000.0;
            let (median, p90, p99, max) = (at(50), at(90), at(99), at(100));
            println!("  {what}: median {median:.1} ms, p90 {p90:.1}, p99 {p99:.1}, max {max:.1} ({} times)", times.len());
        }
        println!("  violations: {}", self.violations.len());
        for violation in &self.violations {
            println!("    {violation}");
        }
    }
}
