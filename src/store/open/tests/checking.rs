//! Tests of `autoappdev check`: what it finds, and that it changes nothing.

use super::*;

fn told(steps: &[CheckStep]) -> Vec<(&'static str, bool)> {
    steps.iter().map(|step| (step.name, step.result.is_ok())).collect()
}

#[test]
fn check_of_good_database_changes_nothing_beside_live_server() {
    let folder = filled();
    let path = folder.path().join(NAME);
    let good = [("file", true), ("schema", true), ("integrity", true), ("foreign keys", true), ("write", true)];
    let before = contents(&folder);
    let report = check(&path).expect("a good file");
    assert_eq!(told(&report), good, "{report:?}");
    assert!(contents(&folder) == before);

    let mut live = Store::open(&path).expect("a good file").store;
    let row = live.touch(Timestamp::from_unix_ms(1)).expect("room");
    assert_eq!(told(&check(&path).expect("a good file")), good);
    assert_eq!(live.row().expect("the row"), row);
    let killed = changed_and_killed("UPDATE pipeline_state SET version = 99");
    assert_eq!(told(&check(&killed.path().join(NAME)).expect("a kill is no damage")), good);
}

#[test]
fn check_creates_and_migrates_no_database() {
    let empty = folder();
    let error = check(&empty.path().join(NAME)).expect_err("there is nothing");
    assert!(matches!(error.kind, StoreErrorKind::Missing), "{error}");
    assert!(error.to_string().contains("there is no such file; `autoappdev migrate` creates it"), "{error}");
    assert!(Reader::open(&DatabaseFile::at(&empty.path().join(NAME))).is_err());
    assert!(contents(&empty).is_empty());

    let folder = holding(b"");
    let report = check(&folder.path().join(NAME)).expect("an empty file is no damage");
    assert_eq!(told(&report), [("file", true), ("schema", false)]);
    let lacks = format!("it lacks {}; run `autoappdev migrate`", all_migrations().join(", "));
    assert_eq!(report[1].result, Err(lacks));
    assert_eq!(contents(&folder)[&OsString::from(NAME)], b"");
}

/// The tables' expressions fail when they are evaluated, because their values are too large. Other expressions would take hours
/// without an error.
#[test]
fn check_evaluates_no_expression_of_foreign_tables() {
    for table in [
        "CREATE TABLE extra (a CHECK (length(hex(zeroblob(a))) > 0))",
        "CREATE TABLE extra (a, b AS (hex(zeroblob(a))) REFERENCES extra (a))",
        "CREATE TABLE extra (a); CREATE INDEX large ON extra (length(hex(zeroblob(a))))",
    ] {
        let sql = format!("PRAGMA foreign_keys = 0; {table}; INSERT INTO extra (a) VALUES (9000000)");
        let report = check(&changed(&sql).path().join(NAME)).expect("it can be read");
        let bad: Vec<_> = told(&report).into_iter().filter(|(_, good)| !good).collect();
        assert!(bad == [("schema", false)] && report.len() == 5, "{table}: {report:?}");
    }
    // This program's tables are checked all the same.
    let sql = "CREATE TABLE extra (a); PRAGMA foreign_keys = 0; PRAGMA ignore_check_constraints = 1;
        INSERT INTO pipeline_events (run_id, seq, at, kind) VALUES (99, 0, 'no time', 'lost')";
    let report = check(&changed(sql).path().join(NAME)).expect("it can be read");
    let bad: Vec<_> = told(&report).into_iter().filter(|(_, good)| !good).collect();
    assert_eq!(bad, [("schema", false), ("integrity", false)], "{report:?}");
    assert_eq!(report.len(), 3, "the tables are not read further: {report:?}");
}

#[test]
fn check_reports_what_opening_overlooks() {
    for (sql, step) in [
        ("CREATE TRIGGER extra AFTER UPDATE ON pipeline_state BEGIN SELECT 1; END", "schema"),
        ("CREATE VIEW extra AS SELECT 1", "schema"),
        (
            "PRAGMA foreign_keys = 0; INSERT INTO pipeline_events (run_id, seq, at, kind) VALUES (99, 0, '2000-01-01T00:00:00.000Z', 'lost')",
            "foreign keys",
        ),
        ("CREATE TRIGGER refuse BEFORE INSERT ON pipeline_runs BEGIN SELECT RAISE (FAIL, 'no'); END", "schema"),
    ] {
        let report = check(&changed(sql).path().join(NAME)).expect("it can be read");
        let bad: Vec<_> = told(&report).into_iter().filter(|(_, good)| !good).collect();
        assert_eq!(bad, [(step, false)], "{sql}: {report:?}");
    }
}

#[test]
fn check_reports_exhausted_run_ids() {
    // The highest id is left but is never given to a run; or no id is left.
    let noted =
        [i64::MAX - 1, i64::MAX].map(|latest| format!("UPDATE sqlite_sequence SET seq = {latest} WHERE name = 'pipeline_runs'"));
    let highest = i64::MAX;
    let row = format!(
        "INSERT INTO pipeline_runs (id, status, script, cwd, args, created_at, stopped_at, error, log_start)
         VALUES ({highest}, 'lost', '', '', '[]', '2000-01-01T00:00:00.000Z', '2000-01-01T00:00:00.000Z', '', 0);
         UPDATE sqlite_sequence SET seq = 1 WHERE name = 'pipeline_runs'"
    );
    for claim in noted.into_iter().chain([row]) {
        let folder = changed(&claim);
        let report = check(&folder.path().join(NAME)).expect("it can be read");
        let write = report.last().expect("steps");
        let reason = write.result.as_ref().expect_err("no run can begin");
        assert!(write.name == "write" && reason.contains("the highest possible run id"), "{report:?}");
    }
}
