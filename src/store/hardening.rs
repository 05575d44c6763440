//! Restricts every database connection, because the file may come from an untrusted source, and a schema can contain code.
//!
//! <https://www.sqlite.org/security.html>. Loading extensions needs no setting: the SQL function is off by default, and
//! `.cargo/config.toml` leaves out the C function.

use std::ffi::c_int;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use rusqlite::config::DbConfig;
use rusqlite::limits::Limit;
use rusqlite::{Connection, ErrorCode};

use super::error::StoreErrorKind;

/// The settings and their values. This program's schemas use no triggers, no views, and no double quotes around strings.
const SETTINGS: [(DbConfig, bool); 7] = [
    // SQL cannot change the schema's pages or the journal.
    (DbConfig::SQLITE_DBCONFIG_DEFENSIVE, true),
    (DbConfig::SQLITE_DBCONFIG_WRITABLE_SCHEMA, false),
    // A schema may not call functions with side effects.
    (DbConfig::SQLITE_DBCONFIG_TRUSTED_SCHEMA, false),
    (DbConfig::SQLITE_DBCONFIG_ENABLE_VIEW, false),
    // Foreign-key actions are unaffected.
    (DbConfig::SQLITE_DBCONFIG_ENABLE_TRIGGER, false),
    // A misspelt column name is an error, not a string.
    (DbConfig::SQLITE_DBCONFIG_DQS_DML, false),
    (DbConfig::SQLITE_DBCONFIG_DQS_DDL, false),
];

/// The maximum size of a row or value. The server's rows are shorter than two request bodies. A file of a few megabytes can
/// compute or claim a value of a gigabyte.
const VALUE_BYTES_MAX: i32 = 16 * 1024 * 1024;

/// The maximum length of a pattern of `LIKE` and `GLOB`, whose time grows with the lengths of pattern and text. The server's
/// patterns have 24 characters.
const PATTERN_BYTES_MAX: i32 = 100;

/// The limits of [`with_limits`]: the size of a row, value or statement; the length of a compiled statement; and the number of
/// instructions that `SQLite` executes, counted in portions. This program's schema needs less than a fourth of each.
const SCHEMA_VALUE_BYTES_MAX: i32 = 16 * 1024;
const SCHEMA_OPS_MAX: i32 = 1024;
const PORTION: c_int = 500;
const PORTIONS_MAX: u32 = 40;

/// Applies all settings to a newly opened connection. Reads nothing from the file.
///
/// # Errors
/// `SQLite` does not know a setting, or ignores it.
pub(super) fn harden(conn: &Connection) -> Result<(), StoreErrorKind> {
    for (setting, is_on) in SETTINGS {
        if conn.set_db_config(setting, is_on)? != is_on {
            return Err(StoreErrorKind::Setting(format!("{setting:?}={is_on}")));
        }
    }
    conn.set_limit(Limit::SQLITE_LIMIT_LENGTH, VALUE_BYTES_MAX)?;
    conn.set_limit(Limit::SQLITE_LIMIT_LIKE_PATTERN_LENGTH, PATTERN_BYTES_MAX)?;
    // Checks each cell's size when a page is read. Otherwise a damaged page is noticed only after a read beyond its end.
    conn.pragma_update(None, "cell_size_check", 1)?;
    Ok(())
}

/// Reads from a file whose schema is not known yet, with a limit on the number of steps and on what each can cost.
///
/// `SQLite` reads the whole schema and the planner's statistics before the first statement. Pages that refer to the same page
/// again and again have endless rows, rows that share pages take gigabytes, and columns of the statistics can be computed.
///
/// # Errors
/// The error of `read`; [`StoreErrorKind::Damaged`] if a limit was reached, even if `SQLite` ignored that.
pub(super) fn with_limits<T>(
    conn: &mut Connection,
    read: impl FnOnce(&Connection) -> Result<T, StoreErrorKind>,
) -> Result<T, StoreErrorKind> {
    const LIMITS: [(Limit, i32); 3] = [
        (Limit::SQLITE_LIMIT_LENGTH, SCHEMA_VALUE_BYTES_MAX),
        (Limit::SQLITE_LIMIT_SQL_LENGTH, SCHEMA_VALUE_BYTES_MAX),
        (Limit::SQLITE_LIMIT_VDBE_OP, SCHEMA_OPS_MAX),
    ];
    let damaged = |reason: String| Err(StoreErrorKind::Damaged(reason));
    let mut before = [0; LIMITS.len()];
    for ((limit, value), before) in LIMITS.into_iter().zip(&mut before) {
        *before = conn.limit(limit)?;
        conn.set_limit(limit, value)?;
    }
    let portions = Arc::new(AtomicU32::new(0));
    let counted = portions.clone();
    conn.progress_handler(PORTION, Some(move || counted.fetch_add(1, Ordering::Relaxed) >= PORTIONS_MAX))?;
    let result = read(conn);
    conn.progress_handler(0, None::<fn() -> bool>)?;
    for ((limit, _), before) in LIMITS.into_iter().zip(before) {
        conn.set_limit(limit, before)?;
    }
    if portions.load(Ordering::Relaxed) > PORTIONS_MAX {
        return damaged("reading its schema takes too many steps".to_owned());
    }
    match result {
        Err(StoreErrorKind::Sqlite(error)) => match error.sqlite_error_code() {
            Some(ErrorCode::TooBig) => {
                damaged(format!("its schema or its schema history has a row of more than {SCHEMA_VALUE_BYTES_MAX} bytes"))
            }
            // SQLite reports this for a statement that is too long.
            Some(ErrorCode::OutOfMemory) => damaged("an expression in its schema takes too much memory".to_owned()),
            _ => Err(StoreErrorKind::Sqlite(error)),
        },
        result => result,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hardened() -> Connection {
        let conn = Connection::open_in_memory().expect("opens");
        harden(&conn).expect("takes all of it");
        conn
    }

    #[test]
    fn sql_cannot_load_a_library_or_rewrite_the_schema() {
        let conn = hardened();
        conn.execute_batch("CREATE TABLE t (a); INSERT INTO t VALUES (1); CREATE VIEW v AS SELECT a FROM t")
            .expect("it is plain SQL");
        for (sql, why) in [
            ("SELECT load_extension('/lib/x86_64-linux-gnu/libc.so.6')", "no such function|not authorized"),
            (
                "PRAGMA writable_schema = 1; UPDATE sqlite_schema SET sql = 'CREATE TABLE t (a, b)' WHERE name = 't'",
                "may not be modified",
            ),
            ("SELECT * FROM v", "access to view"),
            ("SELECT \"no_such_column\" FROM t", "no such column"),
        ] {
            let error = conn.execute_batch(sql).expect_err(sql).to_string();
            assert!(why.split('|').any(|why| error.contains(why)), "{sql}: {error}");
        }
    }

    #[test]
    fn triggers_of_a_file_do_not_run_and_its_constraints_hold() {
        let conn = hardened();
        conn.execute_batch(
            "PRAGMA foreign_keys = 1;
             CREATE TABLE runs (id INTEGER PRIMARY KEY, state TEXT CHECK (state IN ('stopped', 'running')));
             CREATE TABLE events (run_id REFERENCES runs (id) ON DELETE CASCADE);
             CREATE TABLE latest (run_id REFERENCES runs (id));
             CREATE TRIGGER hide AFTER INSERT ON events BEGIN DELETE FROM events; END;
             CREATE TRIGGER keep BEFORE DELETE ON runs BEGIN SELECT RAISE (IGNORE); END;
             CREATE TRIGGER lie AFTER UPDATE ON runs BEGIN UPDATE runs SET state = 'running'; END;
             INSERT INTO runs VALUES (1, 'running'), (2, 'running');
             INSERT INTO events VALUES (1), (2);
             INSERT INTO latest VALUES (2);
             UPDATE runs SET state = 'stopped';
             DELETE FROM runs WHERE id = 1",
        )
        .expect("it is plain SQL");
        let count = |sql: &str| conn.query_row(sql, [], |row| row.get::<_, i64>(0)).expect(sql);
        assert_eq!(count("SELECT count(*) FROM events"), 1, "the deletion of run 1 has deleted its event, and nothing else has");
        assert_eq!(count("SELECT count(*) FROM runs WHERE state = 'stopped'"), 1);
        for (sql, why) in [
            ("UPDATE runs SET state = 'odd'", "CHECK constraint failed"),
            ("DELETE FROM runs", "FOREIGN KEY constraint failed"),
            ("INSERT INTO events VALUES (3)", "FOREIGN KEY constraint failed"),
        ] {
            assert!(conn.execute_batch(sql).expect_err(sql).to_string().contains(why), "{sql}");
        }
    }

    #[test]
    fn virtual_tables_are_unavailable() {
        let conn = hardened();
        let modules: Vec<String> = conn
            .prepare("SELECT name FROM pragma_module_list")
            .expect("a pragma")
            .query_map([], |row| row.get(0))
            .and_then(Iterator::collect)
            .expect("texts");
        for module in modules {
            let error = conn.execute_batch(&format!("CREATE VIRTUAL TABLE t USING {module}")).expect_err(&module).to_string();
            assert!(error.contains("no such module"), "{module}: {error}");
        }
    }

    #[test]
    fn sql_value_size_is_limited() {
        let conn = hardened();
        conn.execute_batch("CREATE TABLE t (a, b AS (hex(zeroblob(400000000))))").expect("plain SQL");
        for sql in ["INSERT INTO t (a) VALUES (1)", "SELECT hex(zeroblob(400000000))"] {
            let error = conn.execute_batch(sql).expect_err("it would take 800 MB").to_string();
            assert!(error.contains("too big"), "{sql}: {error}");
        }
    }

    #[test]
    fn bundled_library_has_no_way_to_load_extensions() {
        let options: Vec<String> = hardened()
            .prepare("PRAGMA compile_options")
            .expect("a pragma")
            .query_map([], |row| row.get(0))
            .and_then(Iterator::collect)
            .expect("texts");
        assert!(options.iter().any(|option| option == "OMIT_LOAD_EXTENSION"), "{options:?}");
    }
}
