//! Tests of files whose pages refer to the same page again and again: they have more rows than could ever be read.

use std::time::Instant;

use super::*;
use crate::api::runs::RUNS_COUNTED_MAX;

pub(super) const PAGE: usize = 4096;

/// How long a test waits for an operation that might never end.
const DEADLINE: Duration = Duration::from_mins(2);

/// Returns the root page of a table or index.
fn root_of(path: &Path, name: &str) -> usize {
    let sql = "SELECT rootpage FROM sqlite_schema WHERE name = ?1";
    let conn = Connection::open(path).expect("our own file");
    let page: u32 = conn.query_row(sql, [name], |row| row.get(0)).expect("it is there");
    page as usize
}

pub(super) fn number(bytes: &[u8], at: usize) -> usize {
    usize::from(u16::from_be_bytes([bytes[at], bytes[at + 1]]))
}

/// Adds pages above a table's only page. Each refers to the page below as often as it has room
/// (<https://www.sqlite.org/fileformat2.html#b_tree_pages>). Ten of them make more than 10^20 rows.
pub(super) fn multiply(path: &Path, table: &str) {
    let root = root_of(path, table);
    let mut bytes = fs::read(path).expect("our own file");
    let leaf = bytes[(root - 1) * PAGE..root * PAGE].to_vec();
    let is_of_rowids = match leaf[0] {
        0x0d => true,
        0x0a => false,
        other => panic!("{table} has more than one page: {other:#x}"),
    };
    assert!(number(&leaf, 3) > 0, "{table} has a row");
    // A cell of an index is its length, here in one byte or two, and its content. A cell above it begins with the number of a
    // page.
    let cell = number(&leaf, 8);
    let content = if is_of_rowids {
        &[1][..]
    } else if leaf[cell] < 0x80 {
        &leaf[cell..=cell + usize::from(leaf[cell])]
    } else {
        let bytes = (usize::from(leaf[cell] & 0x7f) << 7) | usize::from(leaf[cell + 1]);
        &leaf[cell..cell + 2 + bytes]
    };
    bytes.extend(&leaf);
    let top = pages_above(&mut bytes, content, is_of_rowids, 0);
    bytes[(root - 1) * PAGE..root * PAGE].copy_from_slice(&top);
    store(path, bytes);
}

/// Adds nine pages above the last one, each of which refers to the page below as often as it has room. Returns a tenth page,
/// which is not added. `content` follows a page's number in each cell. The pages begin after `margin` bytes.
pub(super) fn pages_above(bytes: &mut Vec<u8>, content: &[u8], is_of_rowids: bool, margin: usize) -> Vec<u8> {
    let mut page = Vec::new();
    for level in 0..10 {
        if level > 0 {
            bytes.extend(&page);
        }
        let margin = if level == 9 { margin } else { 0 };
        let child = u32::try_from(bytes.len() / PAGE).expect("few pages").to_be_bytes();
        page = vec![0; PAGE];
        let mut start = PAGE;
        let mut count = 0;
        while start > margin + 12 + 2 * (count + 1) + 4 + content.len() {
            start -= 4 + content.len();
            page[start..start + 4].copy_from_slice(&child);
            page[start + 4..start + 4 + content.len()].copy_from_slice(content);
            let pointer = margin + 12 + 2 * count;
            page[pointer..pointer + 2].copy_from_slice(&u16::try_from(start).expect("small").to_be_bytes());
            count += 1;
        }
        let head = &mut page[margin..];
        head[0] = if is_of_rowids { 0x05 } else { 0x02 };
        head[3..5].copy_from_slice(&u16::try_from(count).expect("small").to_be_bytes());
        head[5..7].copy_from_slice(&u16::try_from(start).expect("small").to_be_bytes());
        head[8..12].copy_from_slice(&child);
    }
    page
}

/// Writes the file, with its number of pages in its header.
pub(super) fn store(path: &Path, mut bytes: Vec<u8>) {
    let pages = u32::try_from(bytes.len() / PAGE).expect("few pages").to_be_bytes();
    bytes[28..32].copy_from_slice(&pages);
    fs::write(path, bytes).expect("our own file");
}

/// Makes a database with a run, an event and a session. Opening does not check it completely, because it has another table.
fn with_multiplied(table: &str) -> TempDir {
    let folder = folder();
    let path = folder.path().join(NAME);
    let mut store = Store::open(&path).expect("a new database").store;
    let new = NewRun {
        script: "demo.sh".to_owned(),
        cwd: "/srv".to_owned(),
        args: Vec::new(),
        log_start: 0,
        origin: None,
        ..NewRun::default()
    };
    let at = Timestamp::from_unix_ms(0);
    let id = store.begin_run(&new, None, at).expect("stopped");
    store.end_run(id, UnseenEnd::Lost, at, "lost", &Killed::default()).expect("alive");
    store.execute(
        "INSERT INTO sessions SELECT 'one', hex(zeroblob(32)), 'viewer', hex(zeroblob(32)), at, at, at, at, '', ''
         FROM (SELECT '2000-01-01T00:00:00.000Z' AS at);
         INSERT INTO request_keys VALUES (1, 'one', hex(zeroblob(32)), NULL, NULL, 409, '{}'); CREATE TABLE extra (a)",
    );
    drop(store);
    multiply(&path, table);
    folder
}

/// Returns the result of `act`, and fails the test if `act` does not end in time.
pub(super) fn ended<T: Send + 'static>(what: &str, act: impl FnOnce() -> T + Send + 'static) -> T {
    let act = std::thread::spawn(act);
    let deadline = Instant::now() + DEADLINE;
    while !act.is_finished() {
        assert!(Instant::now() < deadline, "{what} does not end");
        std::thread::sleep(Duration::from_millis(5));
    }
    act.join().expect("no panic")
}

#[test]
fn database_with_endless_sessions_keys_or_an_endless_history_is_refused() {
    for table in ["sessions", "request_keys", HISTORY_TABLE] {
        let folder = with_multiplied(table);
        ended(table, move || is_damaged(&folder));
    }
}

#[test]
fn endless_run_and_event_tables_are_reported_as_errors() {
    for table in ["pipeline_runs", "pipeline_events"] {
        let folder = with_multiplied(table);
        let path = folder.path().join(NAME);
        let report = {
            let path = path.clone();
            ended(table, move || check(&path).expect("opening overlooks it"))
        };
        assert!(report.iter().any(|step| step.name == "integrity" && step.result.is_err()), "{table}: {report:?}");
        let errors = ended(table, move || {
            let mut store = Store::open(&path).expect("opening overlooks it").store;
            let reader = Reader::open(&DatabaseFile::at(&path)).expect("a reader");
            if table == "pipeline_runs" {
                assert_eq!(reader.live_run().expect("an index has it"), None);
                return vec![reader.run_ids().map(drop)];
            }
            let of_run = [reader.run(1).map(drop), store.last_seq(1).map(drop), store.stop_of(1).map(drop)];
            of_run.into_iter().chain([store.forget_runs(&[1])]).collect()
        });
        for error in errors {
            let error = error.expect_err(table).to_string();
            assert!(error.contains("malformed") && error.contains("autoappdev check"), "{table}: {error}");
        }
    }
}

#[test]
fn live_run_lookup_ends_on_an_endless_index() {
    let folder = folder();
    let path = folder.path().join(NAME);
    let mut store = Store::open(&path).expect("a new database").store;
    let new = NewRun {
        script: "demo.sh".to_owned(),
        cwd: "/srv".to_owned(),
        args: Vec::new(),
        log_start: 0,
        origin: None,
        ..NewRun::default()
    };
    store.begin_run(&new, None, Timestamp::from_unix_ms(0)).expect("stopped");
    drop(store);
    multiply(&path, "pipeline_runs_one_live");
    let live = ended("live_run", move || Reader::open(&DatabaseFile::at(&path)).and_then(|reader| reader.live_run()));
    assert_eq!(live.expect("readable"), Some(1));
}

/// An index counts the rows, and their texts are read from the table.
#[test]
fn run_count_and_search_end_on_endless_trees() {
    for (endless, all, searched_all) in [("pipeline_runs", 1, false), ("pipeline_runs_by_status", RUNS_COUNTED_MAX, true)] {
        let folder = with_multiplied(endless);
        let path = folder.path().join(NAME);
        let page = ended(endless, move || {
            let reader = Reader::open(&DatabaseFile::at(&path)).expect("a reader");
            reader.runs(None, 500, &RunFilter::new(None, Some("is nowhere"))).expect("it ends")
        });
        assert_eq!(
            (page.runs.len(), page.searched_all, page.counts.map(|counts| counts.all)),
            (0, searched_all, Some(all)),
            "{endless}"
        );
    }
}

#[test]
fn database_with_thousands_of_sessions_is_refused() {
    for (count, is_refused) in [(ROWS_MAX, false), (ROWS_MAX + 1, true)] {
        let folder = changed(&format!(
            "WITH RECURSIVE numbers (n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM numbers WHERE n < {count})
             INSERT INTO sessions SELECT n, hex(zeroblob(32)), 'viewer', hex(zeroblob(32)), at, at, at, at, '', ''
             FROM numbers, (SELECT '2000-01-01T00:00:00.000Z' AS at)"
        ));
        if is_refused {
            is_damaged(&folder);
        } else {
            assert!(is_good(&folder.path().join(NAME)));
        }
    }
}
