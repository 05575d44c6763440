//! Restricts every database connection, because someone else may have written the file, and a schema can contain code.
//!
//! <https://www.sqlite.org/security.html>. Loading extensions needs no setting: the SQL function is off by default, and
//! `.cargo/config.toml` leaves the C function out.

use rusqlite::Connection;
use rusqlite::config::DbConfig;

use super::error::StoreErrorKind;

/// The settings and their values. This program's schemas use neither views nor double quotes around strings.
const SETTINGS: [(DbConfig, bool); 6] = [
    // SQL cannot change the schema's pages or the journal.
    (DbConfig::SQLITE_DBCONFIG_DEFENSIVE, true),
    (DbConfig::SQLITE_DBCONFIG_WRITABLE_SCHEMA, false),
    // A schema may not call functions with side effects.
    (DbConfig::SQLITE_DBCONFIG_TRUSTED_SCHEMA, false),
    (DbConfig::SQLITE_DBCONFIG_ENABLE_VIEW, false),
    // A misspelt column name is an error, not a string.
    (DbConfig::SQLITE_DBCONFIG_DQS_DML, false),
    (DbConfig::SQLITE_DBCONFIG_DQS_DDL, false),
];

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
    // Checks each cell's size when a page is read. Otherwise a damaged page is noticed only after a read beyond its end.
    conn.pragma_update(None, "cell_size_check", 1)?;
    Ok(())
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
