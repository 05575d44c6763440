//! Compares the schema in a file with the one that the migrations make. A schema contains code, so what is not ours may act on each write.
//!
//! Triggers and views do nothing, because every connection turns them off (`hardening`), and a table of another program is left alone.
//! Everything else makes the file unusable: a table that silently ignores or replaces rows, computes columns, or keeps rows of our
//! tables from being deleted.

use std::collections::BTreeMap;

use rusqlite::Connection;
use sha2::{Digest, Sha256};

use super::known;
use crate::hex::hex;

/// refinery's table: which migrations were applied. Its text is refinery's, not ours.
pub(super) const HISTORY_TABLE: &str = "refinery_schema_history";

/// The digests of our schemas, version 1 first. Comparing with a digest takes a tenth of the time that making the schema takes.
const DIGESTS: &[&str] = &["d67bde37e37dffb54a9a9c7306ce357291c9a02c3447190add7b2468c6582176"];

/// How a schema differs from ours, in sentences.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Differences {
    /// What changes the result of our statements, or can make them fail.
    pub(super) effective: Vec<String>,
    /// Triggers, views, and tables that have nothing to do with ours, such as those of a backup program.
    pub(super) inert: Vec<String>,
}

/// Compares with the schema that the migrations up to `version` make in an empty database.
pub(super) fn differences(conn: &Connection, version: i64) -> rusqlite::Result<Differences> {
    let found = objects(conn)?;
    let mut differences = Differences::default();
    let digest_of_ours = usize::try_from(version - 1).ok().and_then(|index| DIGESTS.get(index));
    if digest_of_ours.is_some_and(|ours| *ours == digest(&found)) {
        return Ok(differences);
    }
    let ours = objects(&model(version)?)?;
    for (name, object) in &ours {
        match found.get(name) {
            None => differences.effective.push(format!("{name} is missing")),
            Some(other) if other != object => differences.effective.push(format!("{name} was changed")),
            Some(_) => {}
        }
    }
    let is_ours = |table: &str| table == HISTORY_TABLE || ours.contains_key(&format!("table {table}"));
    for (name, object) in found.iter().filter(|(name, _)| !ours.contains_key(*name)) {
        let is_effective = match name.split_once(' ') {
            Some(("trigger" | "view", _)) => false,
            Some(("table", table)) => references(conn, table)?.iter().any(|referred| is_ours(referred)),
            _ => is_ours(&object.table),
        };
        let list = if is_effective { &mut differences.effective } else { &mut differences.inert };
        list.push(format!("{name} is not ours"));
    }
    Ok(differences)
}

/// The tables that a table's foreign keys refer to, in lower case, as ours are.
fn references(conn: &Connection, table: &str) -> rusqlite::Result<Vec<String>> {
    conn.prepare("SELECT lower(\"table\") FROM pragma_foreign_key_list(?1)")?.query_map([table], |row| row.get(0))?.collect()
}

/// Of each object's name and text, each with its length before it, so that no other division has the same digest.
fn digest(objects: &BTreeMap<String, Object>) -> String {
    let mut digest = Sha256::new();
    for text in objects.iter().flat_map(|(name, object)| [name, &object.table, &object.sql]) {
        digest.update(text.len().to_le_bytes());
        digest.update(text);
    }
    hex(&digest.finalize())
}

/// True if the history's table has expressions in it: to read, check or write one can take any amount of time and memory.
pub(super) fn history_has_expressions(conn: &Connection) -> rusqlite::Result<bool> {
    // 0 is an ordinary column: https://www.sqlite.org/pragma.html#pragma_table_xinfo
    let computed: i64 =
        conn.query_row("SELECT count(*) FROM pragma_table_xinfo(?1) WHERE hidden <> 0", [HISTORY_TABLE], |row| row.get(0))?;
    let sql: String =
        conn.query_row("SELECT sql FROM sqlite_schema WHERE type = 'table' AND name = ?1", [HISTORY_TABLE], |row| row.get(0))?;
    let is_check = |word: &str| word.eq_ignore_ascii_case("check");
    Ok(computed > 0 || sql.split(|letter: char| !letter.is_ascii_alphanumeric() && letter != '_').any(is_check))
}

/// The tables of a version.
pub(super) fn tables(version: i64) -> rusqlite::Result<Vec<String>> {
    model(version)?
        .prepare("SELECT name FROM sqlite_schema WHERE type = 'table' AND name NOT GLOB 'sqlite_*' ORDER BY name")?
        .query_map([], |row| row.get(0))?
        .collect()
}

/// The schema of a version, in memory. Without refinery, which compiles a regular expression first.
fn model(version: i64) -> rusqlite::Result<Connection> {
    let conn = Connection::open_in_memory()?;
    known::all().iter().filter(|known| known.version <= version).try_for_each(|known| conn.execute_batch(known.sql))?;
    Ok(conn)
}

/// A table, an index, a trigger or a view.
#[derive(Debug, PartialEq, Eq)]
struct Object {
    /// The table that it is or belongs to, in lower case.
    table: String,
    sql: String,
}

/// All objects, by type and name. Left out are the history, what `SQLite` makes for constraints, which has no text, and the planner's
/// statistics, which change no result.
fn objects(conn: &Connection) -> rusqlite::Result<BTreeMap<String, Object>> {
    conn.prepare(
        "SELECT type || ' ' || name, lower(tbl_name), sql FROM sqlite_schema
         WHERE sql IS NOT NULL AND name <> ?1 AND name NOT GLOB 'sqlite_stat[1-4]'",
    )?
    .query_map([HISTORY_TABLE], |row| Ok((row.get(0)?, Object { table: row.get(1)?, sql: row.get(2)? })))?
    .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn changed(sql: &str) -> Differences {
        let newest = known::all().last().expect("there is one").version;
        let conn = model(newest).expect("our own schema");
        conn.execute_batch(sql).expect("valid SQL");
        differences(&conn, newest).expect("it can be read")
    }

    #[test]
    fn each_version_has_its_digest() {
        let digests: Vec<String> = known::all()
            .iter()
            .map(|known| digest(&objects(&model(known.version).expect("it applies")).expect("it can be read")))
            .collect();
        assert_eq!(digests, DIGESTS);
    }

    #[test]
    fn what_is_not_ours_is_told_apart_by_whether_it_acts() {
        assert_eq!(changed("ANALYZE"), Differences::default());
        for (sql, difference) in [
            ("DROP INDEX pipeline_runs_one_live", "index pipeline_runs_one_live is missing"),
            ("ALTER TABLE sessions ADD COLUMN extra TEXT AS (hex(zeroblob(400000000)))", "table sessions was changed"),
            ("DROP TABLE sessions; CREATE TABLE sessions (id PRIMARY KEY ON CONFLICT IGNORE)", "table sessions was changed"),
            ("CREATE TABLE extra (run_id REFERENCES Pipeline_Runs (id))", "table extra is not ours"),
            ("CREATE UNIQUE INDEX extra ON Sessions (role)", "index extra is not ours"),
        ] {
            assert_eq!(changed(sql), Differences { effective: vec![difference.to_owned()], inert: vec![] }, "{sql}");
        }
        for (sql, difference) in [
            ("CREATE VIEW extra AS SELECT 1", "view extra is not ours"),
            ("CREATE TRIGGER extra AFTER DELETE ON sessions BEGIN SELECT 1; END", "trigger extra is not ours"),
            ("CREATE TABLE _litestream_seq (id INTEGER PRIMARY KEY, seq INTEGER)", "table _litestream_seq is not ours"),
        ] {
            assert_eq!(changed(sql), Differences { effective: vec![], inert: vec![difference.to_owned()] }, "{sql}");
        }
    }
}
