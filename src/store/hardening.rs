//! What no connection may do, whatever a database file holds: somebody else may have written it, and a schema is program text.
//!
//! <https://www.sqlite.org/security.html>. Loading extensions needs nothing here: the SQL function is off unless it is switched on, and
//! `.cargo/config.toml` leaves the C function out as well.

use rusqlite::Connection;
use rusqlite::config::DbConfig;

use super::error::StoreErrorKind;

/// What is off and what is on. No schema of ours has a view, and none quotes a text with double quotes.
const SETTINGS: [(DbConfig, bool); 6] = [
    // Neither the schema's pages nor the journal can be changed by SQL.
    (DbConfig::SQLITE_DBCONFIG_DEFENSIVE, true),
    (DbConfig::SQLITE_DBCONFIG_WRITABLE_SCHEMA, false),
    // A schema may call no function with side effects.
    (DbConfig::SQLITE_DBCONFIG_TRUSTED_SCHEMA, false),
    (DbConfig::SQLITE_DBCONFIG_ENABLE_VIEW, false),
    // A misspelt column is an error, and no text.
    (DbConfig::SQLITE_DBCONFIG_DQS_DML, false),
    (DbConfig::SQLITE_DBCONFIG_DQS_DDL, false),
];

/// Applies all of this to a connection that was just opened. Reads nothing of the file.
///
/// # Errors
/// `SQLite` does not know a setting, or ignores it.
pub(super) fn harden(conn: &Connection) -> Result<(), StoreErrorKind> {
    for (setting, is_on) in SETTINGS {
        if conn.set_db_config(setting, is_on)? != is_on {
            return Err(StoreErrorKind::Setting(format!("{setting:?}={is_on}")));
        }
    }
    // Looks at each cell's size as a page is read: without it a damaged page is found out when something beyond its end was read.
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
