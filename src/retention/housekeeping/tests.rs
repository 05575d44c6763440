//! Passes over histories made by the tests, without a server.

use std::fs::{self, File};
use std::mem::MaybeUninit;
use std::sync::mpsc;

use rustix::fs::inotify;

use super::*;
use crate::clock::{Timestamp, whole_ms};
use crate::latest_run::RUN_ID_MAX;
use crate::pipeline::{Containment, Entry, Exit, Fact, Killed, observe};
use crate::store::{DatabaseFile, NewRun, RequestKey, Store, Work};

const MIB: u64 = 1 << 20;

/// A runtime directory with a database.
struct World {
    dir: tempfile::TempDir,
    store: Store,
    position: u64,
    handed: mpsc::Receiver<Box<dyn Work>>,
    writer: Writer,
}

impl World {
    fn new() -> Self {
        let dir = tempfile::tempdir().expect("a temp folder");
        let store = Store::open(&dir.path().join("test.db")).expect("opens").store;
        let (sender, handed) = mpsc::channel();
        Self { dir, store, position: 0, handed, writer: Writer::new(move |work| sender.send(work).is_ok()) }
    }

    fn runs(&self) -> Runs {
        Runs::new(self.dir.path().to_owned())
    }

    fn housekeeping(&self, limits: Limits) -> Housekeeping {
        Housekeeping::new(
            self.dir.path(),
            RunLogs::new(self.dir.path().to_owned()),
            self.store.file().clone(),
            limits,
            self.writer.clone(),
            Arc::default(),
        )
        .expect("opens")
    }

    /// Begins a run, with segments of these sizes. The run's lock is held for as long as the file is kept.
    fn begin(&mut self, segments: &[u64]) -> (i64, File) {
        let at = Timestamp::from_unix_ms(0);
        let new = NewRun {
            script: "s".to_owned(),
            cwd: "/".to_owned(),
            args: Vec::new(),
            log_start: self.position,
            origin: None,
            ..NewRun::default()
        };
        let id = self.store.begin_run(&new, None, at).expect("begins");
        let (run, lock) = self.runs().create(id).expect("creates");
        self.runs().note_latest(id);
        for &bytes in segments {
            let file = File::create(run.log_dir().join(format!("{:020}.log", self.position))).expect("creates");
            // A hole takes no room on disk, but counts toward the length.
            file.set_len(bytes).expect("grows");
            self.position += bytes;
        }
        self.see(id, 1, Fact::Spawned { pid: 1, start_ticks: 1, containment: Containment::Tree });
        (id, lock)
    }

    fn see(&mut self, id: i64, seq: u64, fact: Fact) {
        let transition = observe(self.store.row().expect("reads").state, &fact);
        let entry = Entry { seq, at: Timestamp::from_unix_ms(0), boot_ms: 0, origin: None, fact };
        self.store.record(id, &entry, transition).expect("records");
    }

    fn end(&mut self, id: i64) {
        let log_end = self.position;
        self.see(
            id,
            2,
            Fact::Exited { exit: Exit::Code(0), asked: false, paused_ms: 0, log_end, killed: Killed::default(), oom_kills: None },
        );
    }

    /// Adds a run that has ended.
    fn run(&mut self, segments: &[u64]) -> i64 {
        let (id, lock) = self.begin(segments);
        self.end(id);
        drop(lock);
        // A child that another test has spawned meanwhile also holds the lock, until it executes its program.
        let deadline = Instant::now() + Duration::from_mins(1);
        while !history::is_left(&self.runs(), id) {
            assert!(Instant::now() < deadline, "its lock is free");
            thread::yield_now();
        }
        id
    }

    fn kept(&self, ids: std::ops::RangeInclusive<i64>) -> Vec<usize> {
        ids.map(|id| fs::read_dir(self.runs().run(id).log_dir()).map_or(0, Iterator::count)).collect()
    }

    fn handed(&self) -> Vec<Box<dyn Work>> {
        self.handed.try_iter().collect()
    }

    /// Carries out the work that was handed over, as the supervisor does. Returns the runs whose rows were deleted.
    fn carry_out(&mut self, handed: Vec<Box<dyn Work>>) -> Vec<i64> {
        let ids = || {
            Reader::open(&DatabaseFile::at(&self.dir.path().join("test.db"))).and_then(|reader| reader.run_ids()).expect("reads")
        };
        let before = ids();
        for mut work in handed {
            let done = work.run(&mut self.store);
            work.answer(done);
        }
        let after = ids();
        before.into_iter().filter(|id| !after.contains(id)).collect()
    }
}

const ALL: Limits =
    Limits { log_bytes: u64::MAX, runs: usize::MAX, ended_for: None, disk_free_bytes: Some(0), segment_bytes: MIB };

fn pass(housekeeping: &mut Housekeeping) -> Pass {
    let (_waker, wakes) = mpsc::sync_channel(1);
    housekeeping.pass(&wakes).expect("a pass")
}

/// Frees the disk as a pass does, with a disk of this size and with this much free space.
fn free_disk(housekeeping: &mut Housekeeping, disk: Disk) -> bool {
    let reader = Reader::open(&housekeeping.database).expect("opens");
    housekeeping.history.refresh(&housekeeping.runs, &reader, || true).expect("a scan");
    let logs = Logs {
        runs: &housekeeping.runs,
        all: &housekeeping.logs,
        reader: &reader,
        history: &housekeeping.history,
        segment_bytes: housekeeping.limits.segment_bytes,
        goes_on: &|| true,
    };
    logs.free_disk(disk, disk.free_share(housekeeping.limits.disk_free_bytes)).expect("a scan")
}

#[test]
fn retention_packs_only_segments_that_no_longer_grow() {
    let mut world = World::new();
    let (id, lock) = world.begin(&[PACKED_BYTES_MIN, PACKED_BYTES_MIN - 1, PACKED_BYTES_MIN]);
    let housekeeping = world.housekeeping(ALL);
    let second = 2 * PACKED_BYTES_MIN - 1;
    let finished = |standing| {
        let mut is_done = true;
        let (segments, _) = housekeeping.finished_of(id, standing, &mut is_done).expect("a scan");
        (segments.iter().map(|segment| segment.start).collect::<Vec<_>>(), is_done)
    };
    assert_eq!(finished(EndState::Unknown), (vec![], true));
    assert_eq!(finished(EndState::Live), (vec![0], true), "not the newest, and none that is small");
    assert_eq!(finished(EndState::Ended), (vec![0], false), "its shim has something to add: scanned again");
    drop(lock);
    let deadline = Instant::now() + Duration::from_mins(1);
    while finished(EndState::Ended) != (vec![0, second], true) {
        assert!(Instant::now() < deadline, "its shim has left: {:?}", finished(EndState::Ended));
        thread::yield_now();
    }
}

/// The newest segment of a live run grows until the next pass, which may be one segment later.
#[test]
fn retention_frees_room_for_the_next_segment_of_a_live_run() {
    for (log_bytes, kept) in [(3000 + MIB, [3, 1]), (2999 + MIB, [2, 1]), (100, [0, 1])] {
        let mut world = World::new();
        world.run(&[1000, 1000, 1000]);
        let _live = world.begin(&[10]);
        let mut housekeeping = world.housekeeping(Limits { log_bytes, ..ALL });
        assert_eq!(pass(&mut housekeeping), Pass::Done);
        assert_eq!(world.kept(1..=2), kept, "{log_bytes}");
    }
}

#[test]
fn oldest_logs_are_removed_first_and_not_scanned_again() {
    let mut world = World::new();
    for _ in 0..200 {
        world.run(&[500, 500]);
    }
    let mut housekeeping = world.housekeeping(Limits { log_bytes: 10_000, ..ALL });
    assert_eq!(pass(&mut housekeeping), Pass::Done);
    let kept = world.kept(1..=200);
    assert!(kept[..190].iter().all(|&count| count == 0) && kept[190..].iter().all(|&count| count == 2), "{kept:?}");
    assert_eq!((housekeeping.memory.log_floor, housekeeping.memory.settled), (191, 200));
    // With one more run, the oldest log makes room.
    world.run(&[400, 400]);
    assert_eq!(pass(&mut housekeeping), Pass::Done);
    assert_eq!(world.kept(190..=192), [0, 0, 2]);
    assert_eq!(housekeeping.sizes.as_ref().map(|by_run| by_run.values().sum()), Some(9800_u64));
    // The notes are valid for the next server.
    housekeeping.remember(true);
    let next = world.housekeeping(ALL);
    assert_eq!((next.memory.log_floor, next.memory.settled), (192, 201));
}

#[test]
fn run_directory_moved_away_and_back_is_read_again() {
    let mut world = World::new();
    for _ in 0..4 {
        world.run(&[500]);
    }
    let mut housekeeping = world.housekeeping(ALL);
    let (dir, away) = (world.runs().run(1).path().to_owned(), world.dir.path().join("away"));
    fs::rename(&dir, &away).expect("moves");
    assert_eq!(pass(&mut housekeeping), Pass::Done);
    assert_eq!(housekeeping.logs.first_run().expect("a scan"), Some(2));
    fs::rename(&away, &dir).expect("moves");
    assert_eq!(housekeeping.logs.first_run().expect("a scan"), Some(1));
}

/// A directory in a clone can have any number as its name.
#[test]
fn pass_does_not_iterate_up_to_a_huge_directory_number() {
    let mut world = World::new();
    for _ in 0..3 {
        world.run(&[500]);
    }
    let far = RUN_ID_MAX - 1;
    fs::create_dir_all(world.runs().run(far).log_dir()).expect("creates");
    let mut housekeeping = world.housekeeping(Limits { log_bytes: 1000, ..ALL });
    assert_eq!(pass(&mut housekeeping), Pass::Done);
    assert_eq!((world.kept(1..=3), housekeeping.memory.log_floor), (vec![0, 1, 1], 2));
    // Without any log, the floor is the latest run with a row.
    for id in [2, 3] {
        fs::remove_dir_all(world.runs().run(id).log_dir())
            .and_then(|()| fs::create_dir(world.runs().run(id).log_dir()))
            .expect("ours");
    }
    assert_eq!(pass(&mut housekeeping), Pass::Done);
    assert_eq!(housekeeping.memory.log_floor, 3);
}

#[test]
fn excess_runs_are_removed_even_if_their_rows_are_deleted_late() {
    let mut world = World::new();
    for _ in 0..250 {
        world.run(&[]);
    }
    let mut housekeeping = world.housekeeping(Limits { runs: 10, ..ALL });
    assert_eq!(pass(&mut housekeeping), Pass::Done);
    let mut handed = world.handed();
    assert_eq!(handed.len(), 3, "not all at once");
    assert!(!world.runs().run(240).path().exists() && world.runs().run(241).path().exists());
    // Some of the rows could not be deleted. The next pass finds these, and nothing else.
    handed.truncate(1);
    assert_eq!(world.carry_out(handed), (1..=100).collect::<Vec<_>>());
    assert_eq!(pass(&mut housekeeping), Pass::Done);
    let handed = world.handed();
    assert_eq!(world.carry_out(handed), (101..=240).collect::<Vec<_>>());
    world.run(&[]);
    assert_eq!(pass(&mut housekeeping), Pass::Done);
    let handed = world.handed();
    assert_eq!(world.carry_out(handed), [241]);
}

#[test]
fn retention_keeps_a_run_that_a_shim_still_holds() {
    let mut world = World::new();
    let (first, held) = world.begin(&[]);
    world.end(first);
    for _ in 0..4 {
        world.run(&[]);
    }
    let mut housekeeping = world.housekeeping(Limits { runs: 3, ..ALL });
    assert_eq!(pass(&mut housekeeping), Pass::Again);
    let handed = world.handed();
    assert_eq!(world.carry_out(handed), [2]);
    drop(held);
    let deadline = Instant::now() + Duration::from_mins(1);
    while pass(&mut housekeeping) != Pass::Done {
        assert!(Instant::now() < deadline, "its lock is free");
    }
    let handed = world.handed();
    assert_eq!(world.carry_out(handed), [1]);
}

#[test]
fn oldest_segments_are_removed_to_keep_a_share_of_the_disk_free() {
    let disk = |free_mib: u64| Disk { bytes: 200 * MIB, free_bytes: free_mib * MIB };
    // 15 % of the disk is 30 MiB, and the newest 4 MiB always stay.
    for (free_mib, kept) in [(30, [3, 3, 3]), (29, [2, 3, 3]), (26, [0, 2, 3]), (0, [0, 1, 3])] {
        let mut world = World::new();
        for _ in 0..2 {
            world.run(&[MIB, MIB, MIB]);
        }
        let _live = world.begin(&[MIB, MIB, MIB]);
        let mut housekeeping = world.housekeeping(Limits { disk_free_bytes: None, ..ALL });
        assert!(free_disk(&mut housekeeping, disk(free_mib)));
        assert_eq!(world.kept(1..=3), kept, "{free_mib} MiB are free");
        // If the share cannot be reached, nothing more is removed.
        assert!(free_disk(&mut housekeeping, disk(0)));
        assert_eq!(world.kept(1..=3), [0, 1, 3]);
    }
}

#[test]
fn live_run_loses_its_oldest_segments_only_after_all_ended_runs() {
    let mut world = World::new();
    world.run(&[MIB]);
    let _live = world.begin(&[MIB; 10]);
    let mut housekeeping = world.housekeeping(Limits { disk_free_bytes: Some(50 * MIB), ..ALL });
    assert!(free_disk(&mut housekeeping, Disk { bytes: 60 * MIB, free_bytes: 46 * MIB }));
    assert_eq!(world.kept(1..=2), [0, 7], "four MiB in all");
    // A twentieth of this small disk is three MiB.
    assert!(free_disk(&mut housekeeping, Disk { bytes: 61 * MIB, free_bytes: 0 }));
    assert_eq!(world.kept(1..=2), [0, 3]);
    // On an even smaller disk, the newest segment stays.
    assert!(free_disk(&mut housekeeping, Disk { bytes: MIB, free_bytes: 0 }));
    assert_eq!(world.kept(1..=2), [0, 1]);
}

#[test]
fn retry_pause_doubles_after_each_incomplete_pass() {
    let mut world = World::new();
    let (first, _held) = world.begin(&[]);
    world.end(first);
    world.run(&[]);
    let opened = inotify::init(inotify::CreateFlags::CLOEXEC).expect("the kernel has it");
    inotify::add_watch(&opened, world.runs().run(first).lock_path(), inotify::WatchFlags::OPEN).expect("it is there");
    let mut room = [MaybeUninit::uninit(); 4096];
    let mut opened = inotify::Reader::new(opened, &mut room);
    let mut housekeeping = world.housekeeping(Limits { runs: 1, ..ALL });
    assert_eq!(pass(&mut housekeeping), Pass::Again, "a shim holds the run");
    opened.next().expect("a pass looks at the lock");
    assert!(opened.is_buffer_empty(), "it does so once");
    let is_stopping = housekeeping.is_stopping.clone();
    let (sender, wakes) = mpsc::sync_channel(1);
    let began = Instant::now();
    let passes = thread::spawn(move || housekeeping.go_on(&wakes));
    for _ in 0..3 {
        opened.next().expect("another pass");
    }
    assert!(began.elapsed() >= RETRY + 2 * RETRY, "{:?}", began.elapsed());
    is_stopping.store(true, Ordering::Relaxed);
    drop(sender);
    passes.join().expect("no panic");
}

#[test]
fn idle_server_forgets_expired_request_keys() {
    let mut world = World::new();
    for key in ["a", "b"] {
        let key = RequestKey { key: key.to_owned(), request: "0".repeat(64) };
        world.store.keep_answer(&key, 409, "{}").expect("kept");
    }
    let mut housekeeping = world.housekeeping(ALL);
    housekeeping.passes_every = Duration::from_millis(10);
    // Both keys will be a day old in a moment, and nothing wakes the thread then.
    let nearly = whole_ms(KEYS_KEPT) - 500;
    let witness = format!(r#"{{"boot_id":"","boot_ms":0,"wall":null,"witnessed_ms":{nearly},"ended":[],"keys":[[0,2]]}}"#);
    housekeeping.memory.witness = serde_json::from_str(&witness).expect("its own form");
    let (_waker, wakes) = mpsc::sync_channel(1);
    let is_stopping = housekeeping.is_stopping.clone();
    let passes = thread::spawn(move || housekeeping.go_on(&wakes));
    let handed = world.handed.recv_timeout(Duration::from_mins(1)).expect("they are old");
    is_stopping.store(true, Ordering::Relaxed);
    world.carry_out(vec![handed]);
    let reader = Reader::open(&DatabaseFile::at(&world.dir.path().join("test.db"))).expect("opens");
    assert_eq!(reader.request_key_ids().expect("reads"), (0, 0));
    passes.join().expect("no panic");
}
