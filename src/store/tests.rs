//! Tests of what the store writes and refuses.

mod crashes;
mod locked;
mod memory;
mod reading;
mod runs;

use std::path::PathBuf;
use std::time::Duration;

use serde_json::json;
use tempfile::TempDir;

use super::*;
use crate::api::runs::Event;
use crate::clock::Timestamp;
use crate::pipeline::{Cause, Containment, Entry, Exit, Fact, Killed, Origin, Peer, RunStatus, State, observe};

/// A store in its own folder.
struct Bench {
    folder: TempDir,
    store: Store,
}

impl Bench {
    fn new() -> Self {
        let folder = tempfile::tempdir().expect("a temp folder");
        let store = Store::open(&folder.path().join("test.db")).expect("a new database").store;
        Self { folder, store }
    }

    fn path(&self) -> PathBuf {
        self.folder.path().join("test.db")
    }

    fn reader(&self) -> Reader {
        Reader::open(&DatabaseFile::at(&self.path())).expect("a reader")
    }

    fn row(&self) -> PipelineRow {
        self.store.row().expect("the row")
    }

    fn run(&self, id: i64) -> RunRow {
        self.store.run(id).expect("readable").expect("the run")
    }

    fn events(&self, id: i64) -> Vec<Event> {
        self.reader().run(id).expect("readable").expect("the run").1
    }

    /// Begins a run at `ms`.
    fn begin(&mut self, ms: i64) -> i64 {
        self.store.begin_run(&new_run(), None, at(ms)).expect("a stopped pipeline can begin a run")
    }

    /// Records a fact, with the transition that the rules derive from it in the stored state.
    fn see(&mut self, run_id: i64, seq: u64, ms: i64, fact: Fact) -> PipelineRow {
        self.see_by(None, run_id, seq, ms, fact)
    }

    /// Does the same for a fact with an origin.
    fn see_by(&mut self, origin: Option<Origin>, run_id: i64, seq: u64, ms: i64, fact: Fact) -> PipelineRow {
        let transition = observe(self.row().state, &fact);
        let entry = Entry { origin, ..entry(seq, ms, fact) };
        self.store.record(run_id, &entry, transition).expect("what follows from the rules is recorded")
    }
}

const CLIENT: Origin = Origin::operator(Peer::Uid(1000));

fn at(ms: i64) -> Timestamp {
    Timestamp::from_unix_ms(1_700_000_000_000 + ms)
}

fn entry(seq: u64, ms: i64, fact: Fact) -> Entry {
    Entry { seq, at: at(ms), boot_ms: 0, origin: None, fact }
}

fn new_run() -> NewRun {
    NewRun {
        script: "demo.sh".to_owned(),
        cwd: "/srv".to_owned(),
        args: vec!["a b".to_owned(), "\"".to_owned()],
        log_start: 100,
        origin: Some(CLIENT),
        start_cwd: Some("sub".to_owned()),
        env_names: vec!["A".to_owned(), "B".to_owned()],
        grace_ms: Some(2500),
    }
}

fn spawned(pid: u32) -> Fact {
    Fact::Spawned { pid, start_ticks: 1, containment: Containment::Tree }
}

fn exited(exit: Exit, asked: bool) -> Fact {
    Fact::Exited { exit, asked, paused_ms: 30, log_end: 900, killed: Killed::default(), oom_kills: Some(0) }
}

fn usage() -> Fact {
    Fact::Usage { cpu_user_ms: 5, cpu_system_ms: 6, max_rss_kb: 7, memory_peak_bytes: Some(8192) }
}

fn is_conflict<T>(result: &Result<T, StoreError>) -> bool {
    matches!(result, Err(StoreError { kind: StoreErrorKind::Conflict(_), .. }))
}

#[test]
fn new_database_has_stopped_pipeline_without_runs() {
    let bench = Bench::new();
    let row = bench.row();
    assert_eq!((row.state, row.pid, row.run_id, row.version), (State::Stopped, None, None, 0));
    assert_eq!((row.started_at, row.paused_at, row.resumed_at, row.stopped_at), (None, None, None, None));
    assert!(bench.store.latest_run().expect("readable").is_none());
    assert!(bench.reader().run(1).expect("readable").is_none());
    assert_eq!(bench.store.log_position_max(u64::MAX).expect("readable"), 0);
    assert_eq!(bench.reader().time().expect("readable").len(), crate::clock::TIMESTAMP_LEN);
}

#[test]
fn whole_run_is_recorded_in_all_three_tables() {
    let mut bench = Bench::new();
    let id = bench.store.begin_run(&new_run(), None, at(0)).expect("stopped");
    let row = bench.row();
    assert_eq!((row.state, row.run_id, row.version), (State::Stopped, Some(id), 1));
    assert_eq!(bench.run(id).status, RunStatus::Starting);

    let row = bench.see(id, 1, 10, spawned(4711));
    assert_eq!((row.state, row.pid, row.started_at), (State::Running, Some(4711), Some(at(10))));
    let row = bench.see(id, 2, 20, Fact::Paused { cause: Cause::Outside });
    assert_eq!((row.state, row.paused_at, row.resumed_at), (State::Paused, Some(at(20)), None));
    let resumed = Fact::Resumed { cause: Cause::Request, paused_ms: 30, detail: None };
    let row = bench.see_by(Some(CLIENT), id, 3, 50, resumed);
    assert_eq!((row.state, row.paused_at, row.resumed_at), (State::Running, Some(at(20)), Some(at(50))));
    assert_eq!(bench.run(id).paused_ms, 30);
    bench.see_by(Some(Origin::Signal), id, 4, 60, Fact::Stopping { grace_ms: 10_000 });
    let facts = [exited(Exit::Signal(15), true), usage()];
    let both = [
        (Entry { origin: Some(Origin::Signal), ..entry(5, 70, facts[0].clone()) }, observe(State::Running, &facts[0])),
        (entry(6, 71, facts[1].clone()), observe(State::Stopped, &facts[1])),
    ];
    let recorded = bench.store.record_all(id, &both).expect("an end");
    assert_eq!(recorded, bench.row());
    assert_eq!(
        recorded,
        PipelineRow {
            state: State::Stopped,
            pid: None,
            run_id: Some(id),
            started_at: Some(at(10)),
            paused_at: Some(at(20)),
            resumed_at: Some(at(50)),
            stopped_at: Some(at(70)),
            updated_at: at(71),
            version: 7,
        }
    );
    assert_eq!(bench.store.last_seq(id).expect("readable"), 6);
    assert_eq!(bench.store.log_position_max(u64::MAX).expect("readable"), 900);

    let run = serde_json::to_value(bench.run(id).run).expect("JSON");
    assert_eq!(
        run,
        json!({
            "id": 1, "status": "stopped", "pid": 4711, "script": "demo.sh", "cwd": "/srv", "args": ["a b", "\""],
            "created_at": at(0), "started_at": at(10), "stopped_at": at(70), "exit_code": null, "signal": 15, "paused_ms": 30,
            "cpu_user_ms": 5, "cpu_system_ms": 6, "max_rss_kb": 7, "error": null, "containment": "tree", "env_names": ["A", "B"], "grace_s": 2.5,
            "oom_kills": 0, "memory_peak_bytes": 8192,
            "started_by": {"by": "client", "role": "operator", "uid": 1000}, "stopped_by": {"by": "signal"},
            "outcome": {
                "kind": "stopped", "exit_code": null, "signal": 15, "signal_name": "SIGTERM", "by": {"by": "signal"}, "forced": false,
                "took_ms": 60,
            },
        })
    );
    let told: Vec<String> = bench
        .events(id)
        .iter()
        .map(|event| {
            let word = |state: Option<State>| state.map_or("-", State::as_str);
            let cause = event.cause.as_deref().unwrap_or("-");
            let detail = event.detail.as_deref().unwrap_or("-");
            format!("{} {} {} {} {cause} {detail}", event.seq, event.kind, word(event.from_state), word(event.to_state))
        })
        .collect();
    assert_eq!(
        told,
        [
            "0 starting - - request started by a client with user id 1000",
            "1 spawned stopped running request pid 4711",
            "2 paused running paused outside -",
            "3 resumed paused running request resumed by a client with user id 1000",
            "4 stopping - - - stopped because its shim got a SIGTERM, as at a shutdown of the machine; grace 10000 ms",
            "5 exited running stopped request stopped because its shim got a SIGTERM, as at a shutdown of the machine; signal 15",
            "6 usage - - - CPU 5 ms user, 6 ms system; at most 7 KiB a process; 8 KiB in all",
        ]
    );
    let event = serde_json::to_value(&bench.events(id)[1]).expect("JSON");
    assert_eq!(
        event,
        json!({"seq": 1, "at": at(10), "kind": "spawned", "from_state": "stopped", "to_state": "running", "cause": "request", "origin": null,
               "pid": 4711, "exit_code": null, "signal": null, "signal_name": null, "grace_ms": null, "paused_ms": null, "oom_kills": null,
               "detail": "pid 4711"})
    );
}

#[test]
fn event_has_the_values_of_its_fact_as_fields() {
    let mut bench = Bench::new();
    let killed = Killed::default;
    for (exit, fields) in [
        (Exit::Code(3), (Some(3), None, None)),
        (Exit::Signal(9), (None, Some(9), Some("SIGKILL"))),
        (Exit::Signal(34), (None, Some(34), None)),
    ] {
        let id = bench.begin(0);
        bench.see(id, 1, 1, spawned(4711));
        bench.see(id, 2, 2, Fact::Paused { cause: Cause::Request });
        bench.see(id, 3, 3, Fact::Resumed { cause: Cause::Request, paused_ms: 7, detail: None });
        assert_eq!(bench.store.stop_of(id).expect("readable"), None);
        for (seq, grace_ms, origin) in [(4, 10_000, Origin::Limit), (5, 90, CLIENT), (6, 500, Origin::Shutdown)] {
            bench.see_by(Some(origin), id, seq, 4, Fact::Stopping { grace_ms });
        }
        assert_eq!(bench.store.stop_of(id).expect("readable"), Some(StopRow { grace_ms: 500, origin: Some(Origin::Limit) }));
        bench.see(id, 7, 5, Fact::Exited { exit, asked: true, paused_ms: 8, log_end: 900, killed: killed(), oom_kills: Some(2) });
        let events = bench.events(id);
        assert_eq!(events.iter().filter_map(|event| event.pid).collect::<Vec<_>>(), [4711]);
        assert_eq!(events.iter().filter_map(|event| event.grace_ms).collect::<Vec<_>>(), [10_000, 90, 500]);
        assert_eq!(events.iter().filter_map(|event| event.paused_ms).collect::<Vec<_>>(), [7, 8]);
        let exited = &events[7];
        assert_eq!((exited.exit_code, exited.signal, exited.signal_name.as_deref()), fields);
    }
}

#[test]
fn run_times_stay_until_the_next_run_spawns() {
    let mut bench = Bench::new();
    let first = bench.begin(0);
    bench.see(first, 1, 10, spawned(1));
    bench.see(first, 2, 20, Fact::Paused { cause: Cause::Request });
    bench.see(first, 3, 30, exited(Exit::Code(0), false));
    let second = bench.begin(40);
    let row = bench.row();
    assert_eq!((row.started_at, row.paused_at, row.stopped_at), (Some(at(10)), Some(at(20)), Some(at(30))));
    let row = bench.see(second, 1, 50, spawned(2));
    assert_eq!((row.started_at, row.paused_at, row.resumed_at, row.stopped_at), (Some(at(50)), None, None, None));
    assert_eq!(bench.run(first).status, RunStatus::Completed);
    assert_eq!(bench.run(first).exit_code, Some(0));
}

#[test]
fn run_that_never_began_clears_times_of_previous_run() {
    for told_by_shim in [true, false] {
        let mut bench = Bench::new();
        let first = bench.begin(0);
        bench.see(first, 1, 10, spawned(1));
        bench.see(first, 2, 20, Fact::Paused { cause: Cause::Request });
        bench.see(first, 3, 30, exited(Exit::Code(3), false));
        let id = bench.begin(40);
        let row = if told_by_shim {
            bench.see(id, 1, 50, Fact::SpawnFailed { error: "no such file".to_owned(), lack: None })
        } else {
            bench.store.end_run(id, UnseenEnd::NeverBegan, at(50), "no such file", &Killed::default()).expect("starting")
        };
        assert_eq!(row, bench.row());
        assert_eq!((row.state, row.run_id), (State::Stopped, Some(id)));
        assert_eq!((row.started_at, row.paused_at, row.stopped_at), (None, None, Some(at(50))));
        let run = bench.run(id);
        assert_eq!((run.status, run.error.as_deref()), (RunStatus::Failed, Some("no such file")));
        assert_eq!(bench.events(id)[1].kind, "spawn_failed");
        assert_eq!(bench.store.last_seq(id).expect("readable"), u64::from(told_by_shim));
    }
}

#[test]
fn lost_run_keeps_known_values_and_a_final_end() {
    let mut bench = Bench::new();
    let id = bench.begin(0);
    bench.see(id, 1, 10, spawned(4711));
    assert!(is_conflict(&bench.store.end_run(id, UnseenEnd::NeverBegan, at(20), "?", &Killed::default())), "it did begin");
    let row = bench.store.end_run(id, UnseenEnd::Lost, at(20), "the machine went down", &Killed::default()).expect("alive");
    assert_eq!((row.state, row.pid, row.started_at, row.stopped_at), (State::Stopped, None, Some(at(10)), Some(at(20))));
    let run = bench.run(id);
    assert_eq!((run.status, run.pid, run.exit_code, run.signal), (RunStatus::Lost, Some(4711), None, None));
    let event = bench.events(id).pop().expect("an event");
    assert_eq!((event.seq, event.kind.as_str(), event.cause.as_deref()), (2, "lost", Some("recovery")));
    assert_eq!(bench.store.last_seq(id).expect("readable"), 1, "what the store added is no fact of the journal");

    // An end is final: no later fact changes it.
    assert!(is_conflict(&bench.store.end_run(id, UnseenEnd::Lost, at(30), "again", &Killed::default())));
    let late = entry(7, 40, spawned(1));
    assert!(is_conflict(&bench.store.record(id, &late, observe(State::Stopped, &late.fact))));
    assert_eq!(bench.row(), row);
}

#[test]
fn recording_a_fact_twice_changes_nothing() {
    let mut bench = Bench::new();
    let id = bench.begin(0);
    bench.see(id, 1, 10, spawned(4711));
    let before = (bench.row(), bench.run(id), bench.events(id));
    let again = entry(1, 99, exited(Exit::Code(1), false));
    let recorded = bench.store.record(id, &again, observe(State::Running, &again.fact)).expect("harmless");
    assert_eq!(recorded, before.0);
    assert_eq!((bench.row(), bench.run(id), bench.events(id)), before);
}

#[test]
fn change_that_contradicts_stored_state_is_a_conflict() {
    let mut bench = Bench::new();
    let id = bench.begin(0);
    assert!(is_conflict(&bench.store.begin_run(&new_run(), None, at(1))), "another run is starting");
    bench.see(id, 1, 10, spawned(1));
    assert!(is_conflict(&bench.store.begin_run(&new_run(), None, at(11))), "another run is running");
    let before = (bench.row(), bench.run(id), bench.events(id));

    let resumed = entry(2, 20, Fact::Resumed { cause: Cause::Request, paused_ms: 1, detail: None });
    let from_paused = observe(State::Paused, &resumed.fact);
    assert!(is_conflict(&bench.store.record(id, &resumed, from_paused)), "it is not paused");
    let paused = entry(2, 20, Fact::Paused { cause: Cause::Request });
    let from_running = observe(State::Running, &paused.fact);
    assert!(is_conflict(&bench.store.record(id + 1, &paused, from_running)), "there is no such run");
    assert!(is_conflict(&bench.store.record(id, &entry(2, 20, usage()), from_running)), "usage pauses nothing");
    assert!(is_conflict(&bench.store.end_run(id + 1, UnseenEnd::Lost, at(20), "?", &Killed::default())), "there is no such run");
    assert!(is_conflict(&bench.store.adopt_unknown_run(id, &new_run(), at(20))), "it is known");

    // A call with several facts records all of them, or none.
    let facts = [(paused, from_running), (entry(3, 30, spawned(2)), observe(State::Stopped, &spawned(2)))];
    assert!(is_conflict(&bench.store.record_all(id, &facts)));
    assert_eq!((bench.row(), bench.run(id), bench.events(id)), before, "a refused change changes nothing");
}

#[test]
fn schema_refuses_second_live_run_and_malformed_values() {
    let mut bench = Bench::new();
    let id = bench.begin(0);
    for sql in [
        "INSERT INTO pipeline_runs (status, script, cwd, args, created_at, log_start) SELECT status, script, cwd, args, created_at, 0 FROM pipeline_runs",
        "INSERT INTO pipeline_state SELECT 2, state, pid, run_id, started_at, paused_at, resumed_at, stopped_at, updated_at, version FROM pipeline_state",
        "UPDATE pipeline_state SET state = 'idle'",
        "UPDATE pipeline_state SET state = 'running'",
        "UPDATE pipeline_state SET updated_at = 'yesterday'",
        "UPDATE pipeline_state SET run_id = 99",
        "UPDATE pipeline_runs SET status = 'completed'",
        "UPDATE pipeline_runs SET stopped_at = '2026-01-01T00:00:00.000Z'",
        "UPDATE pipeline_runs SET signal = 9",
        "UPDATE pipeline_runs SET args = '{}'",
        "UPDATE pipeline_runs SET paused_ms = 'long'",
        "UPDATE pipeline_runs SET started_by = 'me'",
        "UPDATE pipeline_events SET origin = '[]'",
        "UPDATE pipeline_events SET grace_ms = -1",
        "UPDATE pipeline_events SET killed_count = 1",
        "UPDATE pipeline_events SET from_state = 'idle', to_state = 'stopped', cause = 'exit'",
        "DELETE FROM pipeline_runs",
    ] {
        assert!(bench.store.conn.execute(sql, []).is_err(), "{sql}");
    }
    assert_eq!(bench.run(id).status, RunStatus::Starting);
}

#[test]
fn schema_accepts_words_of_newer_version_and_reading_rejects_them() {
    let mut bench = Bench::new();
    let id = bench.begin(0);
    for (sql, word) in [
        ("UPDATE pipeline_events SET cause = 'schedule'", "schedule"),
        ("UPDATE pipeline_runs SET containment = 'jail'", "jail"),
        ("UPDATE pipeline_runs SET status = 'waiting'", "waiting"),
    ] {
        bench.store.conn.execute(sql, []).unwrap_or_else(|e| panic!("{sql}: {e}"));
        let error = bench.reader().run(id).expect_err("this version does not know the word");
        assert!(matches!(&error.kind, StoreErrorKind::UnknownText(unknown) if unknown.text == word), "{error}");
    }
}

#[test]
fn every_fact_can_be_stored() {
    let mut bench = Bench::new();
    let id = bench.begin(0);
    let facts = [
        Fact::Unknown,
        Fact::Stopping { grace_ms: u64::MAX },
        Fact::Usage { cpu_user_ms: u64::MAX, cpu_system_ms: 0, max_rss_kb: u64::MAX, memory_peak_bytes: Some(u64::MAX) },
        spawned(u32::MAX),
        Fact::Paused { cause: Cause::Request },
        Fact::Resumed { cause: Cause::Outside, paused_ms: u64::MAX, detail: None },
        Fact::SpawnFailed { error: String::new(), lack: None },
        // A position before the run's log begins: a journal is a record, however odd.
        Fact::Exited {
            exit: Exit::Code(-1),
            asked: false,
            paused_ms: 0,
            log_end: 0,
            killed: Killed::default(),
            oom_kills: Some(u64::MAX),
        },
    ];
    for (seq, fact) in (1..).zip(facts) {
        bench.see(id, seq, 1, fact);
    }
    assert_eq!(bench.run(id).status, RunStatus::Failed);
    assert_eq!(bench.run(id).log_end, Some(100));
}

fn two_killed() -> Killed {
    let mut killed = Killed::default();
    killed.add(7, || Some("tee".to_owned()));
    killed.add(8, || None);
    killed
}

#[test]
fn end_stores_killed_processes_with_event_and_run() {
    let mut bench = Bench::new();
    for (asked, sentence) in [
        (false, "exit code 3; 2 processes were still running when the script ended, and were killed: tee (7), process 8"),
        (true, "exit code 3; 2 processes had not ended by themselves, and were killed: tee (7), process 8"),
    ] {
        let id = bench.begin(0);
        bench.see(id, 1, 1, spawned(5));
        let exit = Exit::Code(3);
        bench.see(id, 2, 2, Fact::Exited { exit, asked, paused_ms: 0, log_end: 900, killed: two_killed(), oom_kills: None });
        let (run, events) = bench.reader().run(id).expect("readable").expect("the run");
        assert_eq!((&run.killed, &events[2].killed, events[2].detail.as_deref()), (&two_killed(), &two_killed(), Some(sentence)));
        assert!(events[1].killed.is_empty());
        let said = serde_json::to_value(&events[2]).expect("JSON");
        assert_eq!(said["killed"], serde_json::json!([{"pid": 7, "name": "tee"}, {"pid": 8, "name": ""}]));
    }
    let id = bench.begin(10);
    bench.store.end_run(id, UnseenEnd::Lost, at(11), "gone", &two_killed()).expect("alive");
    let (run, events) = bench.reader().run(id).expect("readable").expect("the run");
    assert_eq!((run.killed, &events[1].killed), (two_killed(), &two_killed()));
}

#[test]
fn times_do_not_go_back_within_a_run_when_the_clock_does() {
    let mut bench = Bench::new();
    let id = bench.begin(1000);
    assert_eq!(bench.see(id, 1, 10, spawned(1)).started_at, Some(at(1000)));
    assert_eq!(bench.see(id, 2, 2000, Fact::Paused { cause: Cause::Request }).paused_at, Some(at(2000)));
    let row = bench.see(id, 3, 1500, Fact::Resumed { cause: Cause::Request, paused_ms: 0, detail: None });
    assert_eq!((row.resumed_at, row.updated_at), (Some(at(2000)), at(2000)));
    let row = bench.store.touch(at(3000)).expect("room");
    assert_eq!(row.updated_at, at(3000));
    // The touch had a later time; the fact keeps its true time.
    let row = bench.see(id, 4, 2500, exited(Exit::Code(0), false));
    assert_eq!((row.stopped_at, row.updated_at), (Some(at(2500)), at(3000)));
    assert_eq!(bench.store.touch(at(0)).expect("room").updated_at, at(3000));
    // The next run accepts the clock again.
    assert_eq!(bench.store.begin_run(&new_run(), None, at(500)).expect("stopped"), id + 1);
    assert_eq!(bench.row().updated_at, at(500));
}

#[test]
fn exhausted_run_ids_are_a_conflict() {
    let mut bench = Bench::new();
    bench.store.reserve_run_ids(i64::MAX).expect("as a run directory of that name asks for");
    let refused = bench.store.begin_run(&new_run(), None, at(0)).expect_err("there is no next id");
    assert!(refused.to_string().contains("the highest possible run id"), "{refused}");
    assert!(is_conflict::<i64>(&Err(refused)));
}

#[test]
fn version_grows_with_changes_and_run_ids_are_not_reused() {
    let mut bench = Bench::new();
    bench.store.reserve_run_ids(0).expect("nothing to do");
    bench.store.reserve_run_ids(7).expect("a new database");
    assert_eq!(bench.row().version, 0);
    let id = bench.begin(0);
    assert_eq!(id, 8);
    assert_eq!(bench.store.touch(at(1)).expect("room").version, 2);
    assert_eq!(bench.store.end_run(id, UnseenEnd::Lost, at(2), "gone", &Killed::default()).expect("alive").version, 3);
    bench.store.reserve_run_ids(3).expect("nothing to do");
    bench.store.reserve_run_ids(41).expect("more folders");
    assert_eq!(bench.begin(3), 42);
    assert_eq!(bench.row().version, 4);
}

#[test]
fn run_unknown_to_database_is_adopted_with_its_id() {
    let mut bench = Bench::new();
    assert_eq!(bench.store.adopt_unknown_run(12, &new_run(), at(0)).expect("unknown"), 12);
    assert_eq!(bench.row().run_id, Some(12));
    assert_eq!(bench.events(12)[0].cause.as_deref(), Some("recovery"));
    let facts = [spawned(5), Fact::Paused { cause: Cause::Outside }];
    let journal = [
        (entry(1, 1, facts[0].clone()), observe(State::Stopped, &facts[0])),
        (entry(2, 2, facts[1].clone()), observe(State::Running, &facts[1])),
    ];
    let recorded = bench.store.record_all(12, &journal).expect("its journal");
    assert_eq!((recorded.state, recorded.version), (State::Paused, 3));
    let causes: Vec<_> = bench.events(12).into_iter().map(|event| event.cause).collect();
    assert_eq!(causes, ["recovery", "request", "outside"].map(|cause| Some(cause.to_owned())));
    bench.store.end_run(12, UnseenEnd::Lost, at(3), "gone", &Killed::default()).expect("alive");
    assert_eq!(bench.begin(4), 13);
}
