//! The usage of the run: when samples are taken, how they become signs, and which of them are stored.
//!
//! While the run is not paused, the shim takes one sample in each interval of the setting, and one a second while a server
//! reports that a client follows. It takes none while the run is paused, so nothing wakes this process then. A sample is a sign:
//! if the disk does not take it, it is lost, and no fact waits for it. Only one sample per interval is stored.

use std::path::PathBuf;
use std::time::Duration;

use super::signs::SignBoard;
use crate::clock::{Timestamp, whole_ms};
use crate::pipeline::{CpuPercent, Usage, UsageSample};
use crate::process::{Cgroup, TreeUsage};
use crate::run_dir::append_usage;

/// How often samples are taken while a client follows, and for how long after the server's latest report of that.
const WATCHED_EVERY: Duration = Duration::from_secs(1);
const WATCH_LAPSE: Duration = Duration::from_secs(15);

/// Sampling may take one part in this many of all time, so samples of a large tree become rarer.
const COST_DIVISOR: u32 = 20;

/// A moment of a run on its clocks: the time since its beginning, and how long it ran in that time.
#[derive(Clone, Copy, Debug)]
pub(super) struct Moment {
    /// Awake time.
    pub(super) now: Duration,
    pub(super) since_start: Duration,
    pub(super) ran: Duration,
}

pub(super) struct UsageKeeper {
    path: PathBuf,
    /// The interval of the setting; `None` if no samples are wanted.
    every: Option<Duration>,
    /// The interval of the stored samples, which grows with the run.
    kept_every: Duration,
    /// In awake time.
    watched_until: Duration,
    /// No sample before this awake time, because the previous one took long.
    rest_until: Duration,
    /// The latest sample, how long the run had run then, and how long at the latest stored one.
    last: UsageSample,
    last_ran: Duration,
    kept_ran: Duration,
    memory_peak_bytes: u64,
    /// The groups for which the kernel counts the processes that it kills when memory runs out, the best one first, with their
    /// counts before the run.
    oom: Vec<(Cgroup, u64)>,
}

impl UsageKeeper {
    /// Starts without samples. `every` is zero if no samples are wanted.
    pub(super) fn new(path: PathBuf, every: Duration) -> Self {
        Self {
            path,
            every: (!every.is_zero()).then_some(every),
            kept_every: every,
            watched_until: Duration::ZERO,
            rest_until: Duration::ZERO,
            last: UsageSample::START,
            last_ran: Duration::ZERO,
            kept_ran: Duration::ZERO,
            memory_peak_bytes: 0,
            oom: Vec::new(),
        }
    }

    /// Prepares for a run that is about to begin in one of these groups, the best one first. Kills that a group counts from now
    /// on belong to the run.
    pub(super) fn begin(&mut self, groups: impl IntoIterator<Item = Cgroup>) {
        self.oom = groups.into_iter().filter_map(|group| group.oom_kills().map(|before| (group, before))).collect();
    }

    /// Notes that a server reports that a client follows.
    pub(super) fn watch(&mut self, now: Duration) {
        self.watched_until = now + WATCH_LAPSE;
    }

    /// Returns when a sample is due while the run is not paused.
    pub(super) fn due_at(&self, at: Moment) -> Option<Duration> {
        let left = (self.last_ran + self.interval(at.now)?).saturating_sub(at.ran);
        Some((at.now + left).max(self.rest_until))
    }

    fn interval(&self, now: Duration) -> Option<Duration> {
        let every = self.every?;
        Some(if now < self.watched_until { every.min(WATCHED_EVERY) } else { every })
    }

    /// Applies a measurement that took `cost`.
    pub(super) fn take(&mut self, used: TreeUsage, wall: Timestamp, at: Moment, cost: Duration, board: &mut SignBoard) {
        let sample = UsageSample {
            at_ms: whole_ms(at.since_start),
            paused_ms: u32::try_from(whole_ms(at.since_start.saturating_sub(at.ran))).unwrap_or(u32::MAX),
            // A measurement can miss processes, but CPU time that was used stays used.
            cpu_ms: used.cpu_ms.max(self.last.cpu_ms),
            memory_bytes: used.memory_bytes,
            processes: used.processes,
        };
        // Not from the sample's own numbers: a pause can be longer than they can express.
        let ran_ms = whole_ms(at.ran.saturating_sub(self.last_ran));
        let usage = Usage {
            at: wall,
            cpu_percent: CpuPercent::of(sample.cpu_ms - self.last.cpu_ms, ran_ms),
            memory_bytes: used.memory_bytes,
            processes: used.processes,
        };
        let half = self.interval(at.now).unwrap_or_default() / 2;
        (self.last, self.last_ran) = (sample, at.ran);
        self.memory_peak_bytes = self.memory_peak_bytes.max(used.memory_bytes);
        self.rest_until = at.now + cost * COST_DIVISOR;
        board.change(|signs| signs.usage = Some(usage));
        if at.ran + half >= self.kept_ran + self.kept_every {
            self.kept_ran = at.ran;
            if let Ok(interval_ms) = append_usage(&self.path, sample, self.every.map_or(0, interval_ms)) {
                self.kept_every = Duration::from_millis(interval_ms.into());
            }
        }
    }

    /// Notes a measurement that failed, for example on a shortage of descriptors: the next one is due after the usual interval.
    pub(super) fn miss(&mut self, at: Moment) {
        self.rest_until = at.now + self.interval(at.now).unwrap_or_default();
    }

    /// Removes the sign, because the run is paused and its previous usage is outdated.
    pub(super) fn rest(board: &mut SignBoard) {
        if board.signs().usage.is_some() {
            board.change(|signs| signs.usage = None);
        }
    }

    /// Returns how many processes of the run were killed because memory ran out, if the kernel counts that. The run is over, and
    /// its group, if it had one, still exists.
    pub(super) fn oom_kills(&self) -> Option<u64> {
        self.oom.iter().find_map(|(group, before)| Some(group.oom_kills()?.saturating_sub(*before)))
    }

    /// Returns the highest memory measurement of the run, or `None` if it was never measured.
    pub(super) fn memory_seen_bytes(&self) -> Option<u64> {
        (self.memory_peak_bytes > 0).then_some(self.memory_peak_bytes)
    }
}

fn interval_ms(every: Duration) -> u32 {
    u32::try_from(whole_ms(every)).unwrap_or(u32::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::run_dir::read_usage;

    const S: fn(u64) -> Duration = Duration::from_secs;

    /// Returns the moment `now` of a run that began at time zero and was paused for `paused` seconds.
    fn at(now: u64, paused: u64) -> Moment {
        Moment { now: S(now), since_start: S(now), ran: S(now - paused) }
    }

    fn used(cpu_ms: u64) -> TreeUsage {
        TreeUsage { cpu_ms, memory_bytes: 1000 + cpu_ms, processes: 2 }
    }

    struct Bench {
        dir: tempfile::TempDir,
        keeper: UsageKeeper,
        board: SignBoard,
    }

    impl Bench {
        fn new(every: u64) -> Self {
            let dir = tempfile::tempdir().expect("a temp folder");
            let keeper = UsageKeeper::new(dir.path().join("usage"), S(every));
            Self { dir, keeper, board: SignBoard::default() }
        }

        fn look(&mut self, cpu_ms: u64, at: Moment) -> u32 {
            let wall = Timestamp::from_unix_ms(1_700_000_000_000);
            self.keeper.take(used(cpu_ms), wall, at, Duration::ZERO, &mut self.board);
            self.board.signs().usage.expect("it is told").cpu_percent.tenths()
        }

        /// Returns when each stored sample was taken, in seconds, with its CPU time.
        fn kept(&self) -> Vec<(u64, u64)> {
            let stored = read_usage(&self.dir.path().join("usage")).expect("reads");
            stored.map_or_else(Vec::new, |stored| stored.samples.iter().map(|one| (one.at_ms / 1000, one.cpu_ms)).collect())
        }
    }

    #[test]
    fn usage_is_sampled_once_per_unpaused_interval() {
        let mut bench = Bench::new(10);
        assert_eq!(bench.keeper.due_at(at(0, 0)), Some(S(10)));
        assert_eq!(bench.look(5_000, at(10, 0)), 500);
        assert_eq!(bench.keeper.due_at(at(10, 0)), Some(S(20)));
        // Paused from 12 to 100.
        assert_eq!(bench.keeper.due_at(at(100, 88)), Some(S(108)));
        UsageKeeper::rest(&mut bench.board);
        assert_eq!(bench.board.signs().usage, None);
        assert_eq!(bench.look(15_000, at(108, 88)), 1000, "the pause does not count");
        // A client follows for 15 seconds.
        bench.keeper.watch(S(110));
        assert_eq!(bench.keeper.due_at(at(110, 88)), Some(S(110)));
        for now in 110..=118 {
            bench.look(15_000 + now, at(now, 88));
            assert_eq!(bench.keeper.due_at(at(now, 88)), Some(S(now + 1)));
        }
        assert_eq!(bench.keeper.due_at(at(125, 88)), Some(S(128)), "it has lapsed");
        assert_eq!(bench.look(15_000, at(128, 88)), 0, "what was used was used");
        assert_eq!(bench.kept(), [(10, 5_000), (108, 15_000), (118, 15_118), (128, 15_118)]);
        assert_eq!(bench.keeper.memory_seen_bytes(), Some(16_118));
    }

    #[test]
    fn slow_usage_scan_is_made_less_often() {
        let mut bench = Bench::new(1);
        let wall = Timestamp::from_unix_ms(0);
        bench.keeper.take(used(1), wall, at(1, 0), Duration::from_millis(100), &mut bench.board);
        assert_eq!(bench.keeper.due_at(at(1, 0)), Some(S(3)));
        bench.keeper.miss(at(10, 0));
        assert_eq!(bench.keeper.due_at(at(10, 0)), Some(S(11)), "one that failed is not tried at once");
    }

    #[test]
    fn usage_is_not_scanned_with_interval_zero() {
        let mut bench = Bench::new(0);
        bench.keeper.watch(S(1));
        assert_eq!((bench.keeper.due_at(at(1, 0)), bench.keeper.memory_seen_bytes()), (None, None));
        bench.keeper.begin([]);
        assert_eq!(bench.keeper.oom_kills(), None);
    }
}
