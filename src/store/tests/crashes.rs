//! Tests of what a kill leaves, and of the invariants on every path.

use std::fs;

use tempfile::TempDir;

use super::super::change;
use super::*;

impl Bench {
    /// Copies the files as a kill at this moment would leave them, and opens the copy.
    fn crashed(&self) -> (TempDir, Store) {
        self.crashed_with_wal_cut(usize::MAX)
    }

    fn crashed_with_wal_cut(&self, wal_bytes: usize) -> (TempDir, Store) {
        let folder = tempfile::tempdir().expect("a temp folder");
        let copy = folder.path().join("test.db");
        fs::copy(self.path(), &copy).expect("the database");
        let mut wal = fs::read(self.folder.path().join("test.db-wal")).expect("its log");
        wal.truncate(wal_bytes);
        fs::write(folder.path().join("test.db-wal"), wal).expect("room for its log");
        let store = Store::open(&copy).expect("a crash is no damage").store;
        (folder, store)
    }
}

#[test]
fn kill_during_transaction_keeps_all_of_it_or_nothing() {
    let mut bench = Bench::new();
    let id = bench.begin(0);
    let before = (bench.row(), bench.run(id), bench.events(id));
    let path = bench.path();
    let tx = bench.store.conn.transaction().expect("no other");
    let fact = spawned(4711);
    let transition = observe(State::Stopped, &fact);
    let row = PipelineRow::read(&tx).expect("the row");
    assert!(change::record(&tx, id, &entry(1, 10, fact), transition, row).is_ok());
    // Pages of an unfinished transaction may already be in the log, so write them there.
    tx.cache_flush().expect("room");
    let image = tempfile::tempdir().expect("a temp folder");
    for suffix in ["", "-wal"] {
        let name = format!("test.db{suffix}");
        fs::copy(path.with_file_name(&name), image.path().join(&name)).expect("a copy");
    }
    let store = Store::open(&image.path().join("test.db")).expect("a crash is no damage").store;
    assert_eq!((store.row().expect("the row"), store.run(id).expect("readable").expect("the run")), (before.0, before.1));
    assert_eq!(store.last_seq(id).expect("readable"), 0);
    tx.commit().expect("room");

    let after = (bench.row(), bench.run(id));
    let (_folder, store) = bench.crashed();
    assert_eq!((store.row().expect("the row"), store.run(id).expect("readable").expect("the run")), after);
    assert_eq!(store.last_seq(id).expect("readable"), 1);
}

#[test]
fn torn_wal_leaves_a_committed_state() {
    let mut bench = Bench::new();
    let id = bench.begin(0);
    let mut committed = vec![bench.row()];
    committed.push(bench.see(id, 1, 10, spawned(1)));
    committed.push(bench.see(id, 2, 20, Fact::Paused { cause: Cause::Request }));
    committed.push(bench.see(id, 3, 30, exited(Exit::Code(0), false)));
    let wal_bytes = fs::metadata(bench.folder.path().join("test.db-wal")).expect("the log").len();
    let wal_bytes = usize::try_from(wal_bytes).expect("a small file");
    let mut seen = std::collections::BTreeSet::new();
    // Odd steps, so that cuts fall into frame headers and pages alike.
    for cut in (0..=wal_bytes).step_by(1531).chain([wal_bytes]) {
        let (_folder, store) = bench.crashed_with_wal_cut(cut);
        let row = store.row().expect("the row");
        assert!(row.version == 0 || committed.contains(&row), "cut at {cut}: {row:?}");
        if let Some(run_id) = row.run_id {
            let run = store.run(run_id).expect("readable").expect("the run of the row");
            assert_eq!(run.status.is_live(), row.state != State::Stopped || row.version == 1, "cut at {cut}");
            assert_eq!(store.last_seq(run_id).expect("readable") + 1, row.version, "cut at {cut}");
        }
        seen.insert(row.version);
    }
    assert_eq!(seen.last(), Some(&4), "the whole log holds it all");
    assert!(seen.len() > 3, "the cuts fall between commits: {seen:?}");
}

/// A small generator of repeatable numbers (xorshift64, Marsaglia 2003).
struct Dice(u64);

impl Dice {
    fn below(&mut self, sides: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % sides
    }

    fn fact(&mut self) -> Fact {
        let cause = if self.below(2) == 0 { Cause::Request } else { Cause::Outside };
        let exit = if self.below(2) == 0 { Exit::Code(0) } else { Exit::Signal(9) };
        match self.below(12) {
            0..=2 => spawned(4711),
            3..=5 => Fact::Paused { cause },
            6 | 7 => Fact::Resumed { cause, paused_ms: 10, detail: None },
            8 => Fact::Stopping { grace_ms: 1 },
            9 => exited(exit, self.below(2) == 0),
            10 => usage(),
            _ => Fact::SpawnFailed { error: "no".to_owned(), lack: None },
        }
    }
}

/// Asserts the invariants.
fn assert_invariants(bench: &Bench, last: &PipelineRow) {
    let row = bench.row();
    assert_eq!(&row, last, "what a change returned is what is stored");
    assert_eq!(row.pid.is_some(), row.state != State::Stopped);
    let runs = bench.reader().runs(None, 1000, &RunFilter::default()).expect("readable").runs;
    assert_eq!(row.run_id, runs.first().map(|run| run.id), "the row names the latest run");
    for (age, run) in runs.iter().enumerate() {
        assert!(age == 0 || !run.status.is_live(), "an older run is alive: {run:?}");
        let events = bench.events(run.id);
        assert!(events.is_sorted_by(|a, b| a.seq < b.seq && a.at <= b.at), "{events:?}");
        assert!(run.started_at.is_none_or(|started| started >= run.created_at));
        assert!(run.stopped_at.is_none_or(|stopped| stopped >= run.started_at.unwrap_or(run.created_at)));
    }
    let Some(run) = runs.first() else { return };
    match row.state {
        State::Stopped => assert!(!matches!(run.status, RunStatus::Running | RunStatus::Paused), "{run:?}"),
        State::Running => assert_eq!(run.status, RunStatus::Running),
        State::Paused => assert_eq!(run.status, RunStatus::Paused),
    }
    if run.status != RunStatus::Starting {
        assert_eq!((row.started_at, row.stopped_at), (run.started_at, run.stopped_at));
        assert!(row.paused_at.is_none_or(|paused| Some(paused) >= row.started_at));
    }
}

#[test]
fn random_walks_keep_the_invariants() {
    for seed in 1..=40 {
        let mut dice = Dice(0x9E37_79B9_7F4A_7C15_u64.wrapping_mul(seed));
        let mut bench = Bench::new();
        bench.store.conn.pragma_update(None, "synchronous", "OFF").expect("a setting");
        let mut last = bench.row();
        let mut journal: Vec<Entry> = Vec::new();
        let mut ended = true;
        for _ in 0..60 {
            let ms = i64::try_from(dice.below(100_000)).expect("a small number");
            let row = match dice.below(10) {
                0 | 1 => match bench.store.begin_run(&new_run(), None, at(ms)) {
                    Ok(_) => {
                        assert!(ended, "seed {seed}: began beside a live run");
                        journal.clear();
                        bench.row()
                    }
                    Err(StoreError { kind: StoreErrorKind::Conflict(_), .. }) => {
                        assert!(!ended, "seed {seed}: nothing stood in the way");
                        continue;
                    }
                    Err(e) => panic!("seed {seed}: {e}"),
                },
                2 => bench.store.touch(at(ms)).expect("room"),
                3 if !journal.is_empty() => {
                    // Records the journal again from its beginning, as after a restart that lost its position.
                    let run_id = last.run_id.expect("a run has the journal");
                    let facts: Vec<_> = journal.iter().map(|entry| (entry.clone(), observe(last.state, &entry.fact))).collect();
                    let again = bench.store.record_all(run_id, &facts).expect("harmless");
                    assert_eq!(again, last, "seed {seed}");
                    continue;
                }
                4 if !ended => {
                    let run_id = last.run_id.expect("a live run");
                    bench.store.end_run(run_id, UnseenEnd::Lost, at(ms), "lost", &Killed::default()).expect("alive")
                }
                _ => {
                    let Some(run_id) = last.run_id else { continue };
                    let entry = entry(journal.len() as u64 + 1, ms, dice.fact());
                    let transition = observe(last.state, &entry.fact);
                    let recorded = bench.store.record(run_id, &entry, transition);
                    match recorded {
                        Ok(row) if row != last => {
                            assert!(!ended || transition.is_none(), "seed {seed}: an ended run changed the state");
                            journal.push(entry);
                            row
                        }
                        // After its end a shim writes only `usage`. Any other fact is refused, or has the number that the `lost`
                        // event got.
                        Ok(_) if ended => continue,
                        Err(StoreError { kind: StoreErrorKind::Conflict(_), .. }) if ended && transition.is_some() => continue,
                        other => panic!("seed {seed}: {other:?}"),
                    }
                }
            };
            assert_eq!(row.version, last.version + 1, "seed {seed}");
            assert!(row.run_id != last.run_id || row.updated_at >= last.updated_at, "seed {seed}: {row:?} after {last:?}");
            last = row;
            ended = bench.store.latest_run().expect("readable").is_none_or(|run| !run.status.is_live());
            assert_invariants(&bench, &last);
        }
        let (_folder, survivor) = bench.crashed();
        assert_eq!(survivor.row().expect("the row"), last, "seed {seed}");
        assert!(check(&bench.path()).expect("a good file").iter().all(|step| step.result.is_ok()), "seed {seed}");
    }
}
