//! Tests of schemas of older versions and of other authors: what is migrated, and what is refused.

use super::*;
use crate::store::{Begun, KeyedRequest, RequestKey};

#[test]
fn database_with_foreign_tables_or_indexes_is_refused() {
    let redefined = |old: &str, new: &str| {
        format!(
            "PRAGMA writable_schema = 1;
             UPDATE sqlite_schema SET sql = replace(sql, '{old}', '{new}') WHERE type = 'table' AND sql LIKE '%{old}%';
             PRAGMA writable_schema = 0"
        )
    };
    let labelled = |create: &str, label: &str| {
        format!("{create}; PRAGMA writable_schema = 1; UPDATE sqlite_schema SET {label} WHERE name = 'extra'")
    };
    let named = |name: &str| format!("name = '{name}', sql = replace(sql, 'extra', '{name}')");
    for sql in [
        "DROP INDEX pipeline_runs_one_live".to_owned(),
        "DROP TABLE sessions".to_owned(),
        // Rows silently not stored, and silently replaced.
        redefined("address    TEXT NOT NULL", "address    TEXT NOT NULL ON CONFLICT IGNORE"),
        redefined("PRIMARY KEY (run_id, seq)", "PRIMARY KEY (run_id, seq) ON CONFLICT REPLACE"),
        // Evaluated by the check of the file.
        redefined("exit_code     INTEGER,", "exit_code     INTEGER CHECK (length(hex(zeroblob(7000000))) > 0),"),
        "ALTER TABLE pipeline_events ADD COLUMN extra TEXT".to_owned(),
        // Prevents a session from being deleted.
        "CREATE TABLE extra (id REFERENCES sessions (id))".to_owned(),
        "CREATE INDEX extra ON sessions (length(hex(zeroblob(7000000))))".to_owned(),
        redefined("checksum VARCHAR(255))", "checksum VARCHAR(255) check(length(hex(zeroblob(7000000))) > 0))"),
        format!("ALTER TABLE {HISTORY_TABLE} ADD COLUMN extra TEXT AS (hex(zeroblob(7000000)))"),
        // Prevents runs from being deleted, or is deleted with them.
        redefined("version int4 PRIMARY KEY,", "version int4 PRIMARY KEY REFERENCES pipeline_runs (id),"),
        redefined("checksum VARCHAR(255))", "checksum VARCHAR(255) REFERENCES sessions ON DELETE CASCADE)"),
        labelled("CREATE TABLE extra (run_id REFERENCES pipeline_runs (id))", "type = 'Table'"),
        labelled("CREATE INDEX extra ON pipeline_runs (script)", "type = 'INDEX'"),
        // An index is never this table, whatever its name.
        labelled("CREATE UNIQUE INDEX extra ON pipeline_runs (script, id)", &named(HISTORY_TABLE)),
        labelled("CREATE INDEX extra ON pipeline_state (length(hex(zeroblob(7000000))))", &named("sqlite_stat1")),
        labelled("CREATE INDEX extra ON pipeline_events (kind)", &named("sqlite_stat4")),
    ] {
        for folder in [changed(&sql), changed_and_killed(&sql)] {
            let error = refused(&folder);
            assert!(
                matches!(&error.kind, StoreErrorKind::Damaged(reason) if reason.starts_with("its schema ")),
                "{sql}: {error}"
            );
        }
    }
}

#[test]
fn migration_without_history_entry_is_rolled_back() {
    let folder = made_by(
        "CREATE TABLE refinery_schema_history(
             version int4 PRIMARY KEY, name VARCHAR(255), applied_on VARCHAR(255), checksum VARCHAR(255));
         CREATE INDEX cut_off ON refinery_schema_history (json(name))",
    );
    let path = folder.path().join(NAME);
    let mut conn = connect(&path).expect("our own file");
    let error = runner().run(&mut conn).expect_err("the history takes no line");
    assert!(
        matches!(migration_failed(&error), StoreErrorKind::Migration(reason) if reason.contains("malformed JSON")),
        "{error}"
    );
    conn.execute_batch("DROP TABLE refinery_schema_history").expect("our own file");
    drop(conn);
    assert_eq!(Store::open(&path).expect("nothing was left of it").applied, all_migrations());
}

/// Makes a file that a version of this program left, from its dump.
fn left_by(dump: &str) -> TempDir {
    let dump = format!("{}/tests/fixtures/schema/{dump}.sql", env!("CARGO_MANIFEST_DIR"));
    made_by(&fs::read_to_string(&dump).unwrap_or_else(|e| panic!("{dump}: {e}; each schema needs its fixture")))
}

/// Each released schema has a dump with runs in it, and its data must survive every later migration. The later version of this
/// program represents those to come.
#[test]
fn older_schema_is_migrated_with_its_data() {
    let newest = schema_version();
    for version in 1..=newest {
        let folder = left_by(&format!("V{version}"));
        let path = folder.path().join(NAME);
        let kept = |lacking: usize| {
            let opened = Store::open(&path).expect("an older schema is no damage");
            assert_eq!(opened.applied, all_migrations()[all_migrations().len() - lacking..], "V{version}");
            let row = opened.store.row().expect("the row");
            assert_eq!((row.run_id, row.version), (Some(2), 9), "V{version}");
            let reader = Reader::open(&DatabaseFile::at(&path)).expect("a reader");
            let runs = reader.runs(None, 10, &RunFilter::default()).expect("readable").runs;
            assert_eq!(runs.iter().map(|run| run.status.as_str()).collect::<Vec<_>>(), ["lost", "completed"], "V{version}");
            let (_, events) = reader.run(2).expect("readable").expect("the run");
            assert_eq!((events.len(), events[4].grace_ms), (6, Some(10_000)), "V{version}");
            drop(opened);
            assert!(is_good(&path), "V{version}");
        };
        let moods = || -> rusqlite::Result<Vec<String>> {
            Connection::open(&path)?
                .prepare("SELECT mood FROM pipeline_runs ORDER BY id")?
                .query_map([], |row| row.get(0))?
                .collect()
        };
        kept(usize::try_from(newest - version).expect("it is newer"));
        assert!(moods().is_err(), "only the later version has this column");
        known::later::as_later_version(|| {
            let behind = check(&path).expect("it is only older");
            assert_eq!(behind[1].result, Err(format!("it lacks V{}__later; run `autoappdev migrate`", newest + 1)));
            kept(1);
            kept(0);
        });
        assert_eq!(moods().expect("the column is there"), ["completed!", "lost!"]);
        let before = contents(&folder);
        let error = refused(&folder);
        assert!(
            matches!(&error.kind, StoreErrorKind::Newer { found, known } if (*found, *known) == (newest + 1, newest)),
            "{error}"
        );
        assert!(contents(&folder) == before);
    }
}

#[test]
fn failed_migration_leaves_older_schema_unchanged() {
    let folder = filled();
    let path = folder.path().join(NAME);
    let rows = || Store::open(&path).and_then(|opened| opened.store.row()).expect("it opens");
    let before = rows();
    known::later::as_faulty_version(|| {
        let error = Store::open(&path).expect_err("the migration cannot update the rows");
        assert!(matches!(&error.kind, StoreErrorKind::Migration(reason) if reason.contains("log_start >= 0")), "{error}");
    });
    assert_eq!(rows(), before, "this version still opens it");
    known::later::as_later_version(|| assert_eq!(Store::open(&path).expect("it goes through").applied.len(), 1));
}

#[test]
fn request_key_outlives_a_migration() {
    let folder = filled();
    let path = folder.path().join(NAME);
    let key = RequestKey { key: "a".to_owned(), request: "0".repeat(64) };
    let begun = Begun { run_id: 1, seq: 1 };
    Store::open(&path).and_then(|mut opened| opened.store.begin_keyed(&key, begun)).expect("it is noted");
    known::later::as_later_version(|| {
        let later = Store::open(&path).expect("it is migrated").store;
        assert_eq!(later.keyed_request(&key).expect("readable"), Some(KeyedRequest::Begun(begun)));
    });
}

#[test]
fn database_of_a_development_version_is_refused_with_advice() {
    let error = refused(&left_by("development"));
    assert!(matches!(error.kind, StoreErrorKind::Divergent(_)), "{error}");
    let text = error.to_string();
    assert!(text.contains("a development version wrote it") && text.contains("its V1__pipeline is not"), "{text}");
    assert!(text.contains("move it aside with its -wal and -shm files and start again"), "{text}");
}

/// Only a writer can check a file with a rollback journal, because it plays the journal back first.
#[test]
fn refusal_after_rollback_reports_that_the_file_changed() {
    // Evaluating an expression of this index would cause another error.
    let living = changed(
        "PRAGMA journal_mode = DELETE; CREATE TABLE kept AS SELECT * FROM sessions;
         CREATE INDEX extra ON sessions (length(hex(zeroblob(9000000))))",
    );
    let mut conn = Connection::open(living.path().join(NAME)).expect("our own file");
    let tx = conn.transaction().expect("no other connection");
    tx.execute_batch("INSERT INTO kept (id) VALUES ('cut off')").expect("valid SQL");
    tx.cache_flush().expect("room");
    for act in
        [|path: &Path| Store::open(path).map(drop), |path: &Path| check(path).map(drop), |path: &Path| migrate(path).map(drop)]
    {
        let cut_off = folder();
        for name in [NAME, "test.db-journal"] {
            fs::copy(living.path().join(name), cut_off.path().join(name)).expect("it is there within the transaction");
        }
        let before = contents(&cut_off)[&OsString::from(NAME)].clone();
        let error = act(&cut_off.path().join(NAME)).expect_err("its schema is not ours");
        assert!(contents(&cut_off)[&OsString::from(NAME)] != before, "the transaction was undone");
        assert!(matches!(error.kind, StoreErrorKind::RolledBack(_)), "{error}");
        let text = error.to_string();
        assert!(text.contains("index extra is not ours") && text.contains("nothing else in it was changed"), "{text}");
        assert!(text.contains("undone from the rollback journal") && !text.contains("not been touched"), "{text}");
    }
}
