//! Tests of pages of runs that are selected, counted and compared, in a history of 100,000 runs.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use super::super::runs::{COMPLETED_BEFORE, COUNT_ALL, COUNT_FAILED};
use super::*;
use crate::api::runs::{CompletedRun, OutcomeFilter, RUNS_SEARCHED_MAX, RunCounts};

/// Ends of runs: status, exit code, signal, and the filter that selects them.
const ENDS: [(&str, &str, &str, OutcomeFilter); 7] = [
    ("completed", "0", "NULL", OutcomeFilter::Completed),
    ("failed", "3", "NULL", OutcomeFilter::Failed),
    ("failed", "NULL", "11", OutcomeFilter::Failed),
    ("failed", "NULL", "9", OutcomeFilter::Killed),
    ("failed", "NULL", "NULL", OutcomeFilter::NotStarted),
    ("stopped", "NULL", "15", OutcomeFilter::Stopped),
    ("lost", "NULL", "NULL", OutcomeFilter::Lost),
];

impl Bench {
    /// Adds `count` runs with these values, which can use their number `n`.
    fn add_runs(&self, count: usize, script: &str, args: &str, end: usize) {
        let (status, exit_code, signal, _) = ENDS[end];
        let error = if ["lost", "failed"].contains(&status) { "'Disk is full'" } else { "NULL" };
        self.store.execute(&format!(
            "WITH RECURSIVE numbers (n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM numbers WHERE n < {count})
             INSERT INTO pipeline_runs (status, pid, script, cwd, args, created_at, started_at, stopped_at, paused_ms, exit_code, signal,
                                        error, log_start)
             SELECT '{status}', 1, {script}, '/', {args}, '2026-01-31T10:00:00.000Z', '2026-01-31T10:00:00.000Z',
                    strftime('%Y-%m-%dT%H:%M:%fZ', '2026-01-31T10:00:00.500Z', n || ' seconds'), 500, {exit_code}, {signal}, {error}, 0
             FROM numbers"
        ));
    }

    /// Makes a store with 100,000 runs, of which the first failed and the others completed.
    fn with_long_history() -> Self {
        let bench = Self::new();
        bench.add_runs(1, "'first.sh'", "'[]'", 1);
        bench.add_runs(99_999, "'tools/job' || (n % 10) || '.sh'", "json_array('--number', n || '')", 0);
        bench
    }

    fn page(&self, before: Option<i64>, limit: u32, filter: &RunFilter) -> RunsPage {
        self.reader().runs(before, limit, filter).expect("readable")
    }
}

fn of_outcomes(words: &[OutcomeFilter]) -> RunFilter {
    RunFilter::new(Some(words.to_vec()), None)
}

fn of_text(text: &str) -> RunFilter {
    RunFilter::new(None, Some(text))
}

fn ids(page: &RunsPage) -> Vec<i64> {
    page.runs.iter().map(|run| run.id).collect()
}

#[test]
fn runs_are_selected_by_their_outcomes() {
    let mut bench = Bench::new();
    for end in 0..ENDS.len() {
        bench.add_runs(1, "'a.sh'", "'[]'", end);
    }
    let live = bench.begin(0);
    let selects = |words: &[OutcomeFilter]| ids(&bench.page(None, 100, &of_outcomes(words)));
    for word in OutcomeFilter::ALL {
        let of_ends = ENDS.iter().zip(1..).filter(|((.., selected), _)| selected == word).map(|(_, id)| id);
        let mut expected: Vec<i64> = of_ends.chain((*word == OutcomeFilter::Live).then_some(live)).collect();
        expected.reverse();
        assert_eq!(selects(&[*word]), expected, "{word}");
        let page = bench.page(None, 100, &of_outcomes(&[*word]));
        for run in &page.runs {
            assert_eq!(OutcomeFilter::that_selects(run.outcome.as_ref().map(|outcome| outcome.kind)), *word);
        }
    }
    assert_eq!(selects(OutcomeFilter::ALL), ids(&bench.page(None, 100, &RunFilter::default())));
    assert_eq!(selects(&[OutcomeFilter::Lost, OutcomeFilter::Live]), [8, 7]);
    let counts = bench.page(None, 1, &of_outcomes(&[OutcomeFilter::Live])).counts;
    assert_eq!(counts, Some(RunCounts { all: 8, failed: 5 }), "whatever is selected");
    assert_eq!(bench.page(Some(9), 1, &RunFilter::default()).counts, None);
}

#[test]
fn text_is_found_in_script_arguments_error_and_id() {
    let bench = Bench::new();
    bench.add_runs(1, "'tools/Backup.sh'", "'[]'", 0);
    bench.add_runs(1, "'b.sh'", r#"'["--target=\"D\u00e9p\u00f4t\"","\\n100%"]'"#, 0);
    bench.add_runs(1, "'c.sh'", "'[]'", 6);
    bench.add_runs(39, "'d.sh'", "'[]'", 0);
    let found = |text: &str| ids(&bench.page(None, 100, &of_text(text)));
    for (text, expected) in [
        ("backup", vec![1]),
        ("BACKUP.SH", vec![1]),
        ("tools/", vec![1]),
        ("disk IS full", vec![3]),
        ("--TARGET=\"", vec![2]),
        ("\"Dépôt\" \\n1", vec![2]),
        ("dÉpôt", vec![]),
        ("100%", vec![2]),
        ("42", vec![42]),
        ("\",\"", vec![]),
        ("[]", vec![]),
        ("'; DROP TABLE pipeline_runs; --", vec![]),
    ] {
        assert_eq!(found(text), expected, "{text}");
    }
    assert_eq!(found("d.sh").len(), 39);
    let both = RunFilter::new(Some(vec![OutcomeFilter::Lost]), Some(".sh"));
    assert_eq!(ids(&bench.page(None, 100, &both)), [3]);
}

#[test]
fn filtered_pages_have_no_gaps_and_no_empty_last_page() {
    let bench = Bench::new();
    for n in 0..14 {
        bench.add_runs(1, "'a.sh'", "'[]'", n % 2);
    }
    let filter = of_outcomes(&[OutcomeFilter::Failed]);
    let page = |before, limit| {
        let page = bench.page(before, limit, &filter);
        assert!(page.searched_all);
        (ids(&page), page.next_before)
    };
    assert_eq!(page(None, 3), (vec![14, 12, 10], Some(10)));
    assert_eq!(page(Some(10), 3), (vec![8, 6, 4], Some(4)));
    assert_eq!(page(Some(4), 3), (vec![2], None));
    assert_eq!(page(None, 7), (vec![14, 12, 10, 8, 6, 4, 2], None));
    assert_eq!(page(Some(2), 3), (vec![], None));
}

#[test]
fn run_search_stops_at_its_limit_and_resumes() {
    let bench = Bench::with_long_history();
    for (filter, expected) in [
        (of_outcomes(&[OutcomeFilter::Failed]), vec![1]),
        (of_text("FIRST"), vec![1]),
        (of_text("is nowhere"), vec![]),
        (of_text("--number 77777"), vec![77_778]),
        (of_text("job3.sh --number"), vec![]),
    ] {
        let (mut found, mut before, mut answers) = (Vec::new(), None, 0);
        loop {
            let page = bench.page(before, 500, &filter);
            let examined = before.unwrap_or(100_001) - page.next_before.unwrap_or(1);
            assert!(examined <= i64::try_from(RUNS_SEARCHED_MAX).expect("small"), "{examined}");
            assert_eq!(page.searched_all, page.next_before.is_none() || page.runs.len() == 500);
            assert_eq!(page.counts, before.is_none().then_some(RunCounts { all: 100_000, failed: 1 }));
            found.extend(ids(&page));
            answers += 1;
            before = page.next_before;
            if before.is_none() {
                break;
            }
        }
        assert_eq!((found, answers), (expected, 100_000_usize.div_ceil(RUNS_SEARCHED_MAX)), "{filter:?}");
    }
    let all = bench.page(None, 500, &RunFilter::default());
    assert_eq!((all.searched_all, all.next_before), (true, Some(99_501)));
}

#[test]
fn run_search_limits_bytes_of_examined_text() {
    let bench = Bench::new();
    bench.add_runs(20, "'a.sh'", "json_array(hex(zeroblob(524288)))", 0);
    for filter in [of_text("nowhere"), of_outcomes(&[OutcomeFilter::Lost])] {
        let page = bench.page(None, 500, &filter);
        assert_eq!((ids(&page), page.searched_all, page.next_before), (vec![], false, Some(13)));
        let page = bench.page(Some(8), 500, &filter);
        assert_eq!((ids(&page), page.searched_all, page.next_before), (vec![], true, None));
    }
    let page = bench.page(None, 500, &RunFilter::default());
    assert_eq!((ids(&page), page.searched_all, page.next_before), (vec![20], true, Some(20)), "a page of a megabyte");
}

/// Returns the number of instructions that `SQLite` executes, and the result.
fn steps<T>(reader: &mut Reader, read: impl FnOnce(&Reader) -> T) -> (u64, T) {
    let steps = Arc::new(AtomicU64::new(0));
    let counted = steps.clone();
    let count = move || {
        counted.fetch_add(1, Ordering::Relaxed);
        false
    };
    reader.conn.progress_handler(1, Some(count)).expect("a setting");
    let result = read(reader);
    reader.conn.progress_handler(0, None::<fn() -> bool>).expect("a setting");
    (steps.load(Ordering::Relaxed), result)
}

#[test]
fn oldest_history_page_costs_as_much_as_the_newest() {
    let bench = Bench::with_long_history();
    let mut reader = bench.reader();
    let mut of_page = |before: i64| {
        let all = RunFilter::default();
        let (steps, page) = steps(&mut reader, |reader| reader.runs(Some(before), 50, &all).expect("readable"));
        assert_eq!(ids(&page), (1..before).rev().take(50).collect::<Vec<_>>());
        steps
    };
    let (newest, oldest) = (of_page(100_001), of_page(52));
    assert!(newest.abs_diff(oldest) * 10 <= newest, "{newest} and {oldest}");
    let counts = |reader: &Reader| reader.runs(None, 1, &RunFilter::default()).expect("readable").counts;
    let (of_counts, _) = steps(&mut reader, counts);
    assert!(of_counts < 1_000_000, "{of_counts}");
    // None of these queries reads a row of a run.
    for sql in [COUNT_ALL, COUNT_FAILED, COMPLETED_BEFORE] {
        let mut statement = bench.store.conn.prepare(&format!("EXPLAIN QUERY PLAN {sql}")).expect("good SQL");
        let plan: Vec<String> = statement.raw_query().mapped(|row| row.get("detail")).collect::<Result<_, _>>().expect("texts");
        assert!(plan.iter().any(|line| line.contains("INDEX pipeline_runs_by_status")), "{sql}: {plan:?}");
    }
}

#[test]
fn durations_of_completed_runs_are_found_in_few_steps() {
    let bench = Bench::with_long_history();
    bench.add_runs(1, "'tools/job3.sh'", "'[]'", 5);
    let mut reader = bench.reader();
    let mut lengths = |script: &str, before| {
        let (steps, lengths) = steps(&mut reader, |reader| reader.completed_before(script, before).expect("readable"));
        assert!(steps < 200, "{script}: {steps} steps");
        lengths
    };
    let all = lengths("tools/job3.sh", 100_001);
    assert_eq!(all.iter().map(|run| run.id).collect::<Vec<_>>(), [99_994, 99_984, 99_974, 99_964, 99_954]);
    assert_eq!(all[0], CompletedRun { id: 99_994, took_ms: 99_993_500, active_ms: 99_993_000 });
    assert_eq!(lengths("tools/job3.sh", 15).iter().map(|run| run.id).collect::<Vec<_>>(), [14, 4]);
    assert_eq!(lengths("tools/job3.sh", 4), []);
    assert_eq!(lengths("first.sh", 100_001), [], "it has failed");
    assert_eq!(lengths("tools/job3", 100_001), []);
}
