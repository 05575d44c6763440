//! Compares the schema in a file with the one that the migrations create. A schema contains code, so foreign objects may act on
//! each write.
//!
//! Triggers and views do nothing, because every connection turns them off (`hardening`), and a table of another program is left
//! alone. Everything else makes the file unusable: a table that silently ignores or replaces rows, computes columns, or prevents
//! rows of this program's tables from being deleted.

use std::collections::{BTreeMap, BTreeSet};

use rusqlite::{Connection, OptionalExtension};
use sha2::{Digest, Sha256};

use super::known;
use crate::hex::hex;

/// refinery's table of applied migrations.
pub(super) const HISTORY_TABLE: &str = "refinery_schema_history";

/// The exact texts of the tables that refinery and `SQLite`'s ANALYZE create. A table with one of these names and another text
/// may compute columns, check rows, or prevent rows of this program's tables from being deleted.
const TEXTS_OF_OTHERS: [&str; 3] =
    [HISTORY_TEXT, "CREATE TABLE sqlite_stat1(tbl,idx,stat)", "CREATE TABLE sqlite_stat4(tbl,idx,neq,nlt,ndlt,sample)"];
const HISTORY_TEXT: &str = "CREATE TABLE refinery_schema_history( version int4 PRIMARY KEY, name VARCHAR(255), applied_on VARCHAR(255), \
     checksum VARCHAR(255))";

/// The digests of this program's schemas, version 1 first. Comparing digests takes a tenth of the time that creating the schema
/// takes.
const DIGESTS: &[&str] = &["a460434c9dd3583ca28723ad150dbc502f7485211be2cd5aa098e6ce732b6148"];

/// The differences of a schema from this program's, in sentences.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Differences {
    /// The differences that change the result of this program's statements, or can make them fail.
    pub(super) effective: Vec<String>,
    /// Triggers, views, and tables that do not affect this program's tables, such as those of a backup program.
    pub(super) inert: Vec<String>,
}

/// Compares a schema with the one that the migrations up to `version` create in an empty database.
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
            // SQLite evaluates computed columns of the statistics each time that it reads the schema.
            Some(("table", table)) if has_name_of_statistics(table) => true,
            Some(("table", table)) => is_ours(table) || references(conn, table)?.iter().any(|referred| is_ours(referred)),
            _ => is_ours(&object.table),
        };
        let list = if is_effective { &mut differences.effective } else { &mut differences.inert };
        list.push(format!("{name} is not ours"));
    }
    Ok(differences)
}

/// `SQLite` ignores the case of names.
fn has_name_of_statistics(table: &str) -> bool {
    table.to_ascii_lowercase().starts_with("sqlite_stat")
}

/// Reads all rows of the tables that `SQLite` itself reads: the planner's statistics with each schema, the highest ids with each
/// new run. Call it with limits, because `SQLite` ignores a limit that it reaches while it reads the statistics. The contents do
/// not matter.
pub(super) fn read_tables_of_sqlite(conn: &Connection) -> rusqlite::Result<()> {
    let names: Vec<String> = conn
        .prepare("SELECT name FROM sqlite_schema WHERE lower(type) = 'table' AND name LIKE 'sqlite!_%' ESCAPE '!'")?
        .query_map([], |row| row.get(0))?
        .collect::<Result<_, _>>()?;
    for name in names {
        let mut statement = conn.prepare(&format!("SELECT * FROM \"{}\"", name.replace('"', "\"\"")))?;
        let mut rows = statement.query([])?;
        while rows.next()?.is_some() {}
    }
    Ok(())
}

/// Returns a table or index without its own first page: it begins at the page of another object, at the first page, which is the
/// schema's, or at no page. A write to one of two objects on a page would damage the other, and a check of single tables does not
/// notice that. The tables of extensions have no pages.
pub(super) fn without_own_page(conn: &Connection) -> rusqlite::Result<Option<String>> {
    let mut statement = conn.prepare(
        "SELECT rootpage, name FROM sqlite_schema
         WHERE rootpage <> 0 OR lower(type) IN ('table', 'index') AND coalesce(sql, '') NOT LIKE 'CREATE VIRTUAL %'",
    )?;
    let mut rows = statement.query([])?;
    let mut taken = BTreeSet::from([0, 1]);
    while let Some(row) = rows.next()? {
        if !taken.insert(row.get::<_, i64>(0)?) {
            return row.get(1).map(Some);
        }
    }
    Ok(None)
}

/// Returns the tables to which a table's foreign keys refer, in lower case like this program's names.
fn references(conn: &Connection, table: &str) -> rusqlite::Result<Vec<String>> {
    conn.prepare("SELECT lower(\"table\") FROM pragma_foreign_key_list(?1)")?.query_map([table], |row| row.get(0))?.collect()
}

/// Returns the digest of each object's name and text. Each text is preceded by its length, so that a different division has a
/// different digest.
fn digest(objects: &BTreeMap<String, Object>) -> String {
    let mut digest = Sha256::new();
    for text in objects.iter().flat_map(|(name, object)| [name, &object.table, &object.sql]) {
        digest.update(text.len().to_le_bytes());
        digest.update(text);
    }
    hex(&digest.finalize())
}

/// Checks whether the history's table is the one that refinery creates; `None` if it does not exist. Reading a different table
/// could take any amount of time and memory.
pub(super) fn is_history_of_refinery(conn: &Connection) -> rusqlite::Result<Option<bool>> {
    conn.query_row("SELECT sql FROM sqlite_schema WHERE lower(type) = 'table' AND name = ?1", [HISTORY_TABLE], |row| {
        row.get(0).map(|sql: String| in_one_line(&sql) == HISTORY_TEXT)
    })
    .optional()
}

/// Removes the indentation, because another version of refinery may indent its text differently.
fn in_one_line(sql: &str) -> String {
    sql.split_ascii_whitespace().collect::<Vec<_>>().join(" ")
}

/// Returns the tables of a version.
pub(super) fn tables(version: i64) -> rusqlite::Result<Vec<String>> {
    model(version)?
        .prepare("SELECT name FROM sqlite_schema WHERE type = 'table' AND name NOT GLOB 'sqlite_*' ORDER BY name")?
        .query_map([], |row| row.get(0))?
        .collect()
}

/// Creates the schema of a version in memory, without refinery, which would compile a regular expression first.
fn model(version: i64) -> rusqlite::Result<Connection> {
    let conn = Connection::open_in_memory()?;
    known::all().iter().filter(|known| known.version <= version).try_for_each(|known| conn.execute_batch(known.sql))?;
    Ok(conn)
}

/// A table, an index, a trigger or a view.
#[derive(Debug, PartialEq, Eq)]
struct Object {
    /// The name of the table, or of the table to which the object belongs, in lower case.
    table: String,
    sql: String,
}

/// Returns all objects by type and name. Without the objects that `SQLite` creates for constraints, which have no text, and
/// without the history and the planner's statistics, which change no result.
///
/// The type is in lower case, because `SQLite` reads `Table` as `table`. The key contains the type, because in a file an index
/// can have the name of any of these tables.
fn objects(conn: &Connection) -> rusqlite::Result<BTreeMap<String, Object>> {
    let mut objects: BTreeMap<String, Object> = conn
        .prepare("SELECT lower(type) || ' ' || name, lower(tbl_name), sql FROM sqlite_schema WHERE sql IS NOT NULL")?
        .query_map([], |row| Ok((row.get(0)?, Object { table: row.get(1)?, sql: row.get(2)? })))?
        .collect::<Result<_, _>>()?;
    objects.retain(|_, object| !TEXTS_OF_OTHERS.contains(&in_one_line(&object.sql).as_str()));
    Ok(objects)
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
    fn each_schema_version_has_its_digest() {
        let digests: Vec<String> = known::all()
            .iter()
            .map(|known| digest(&objects(&model(known.version).expect("it applies")).expect("it can be read")))
            .collect();
        assert_eq!(digests, DIGESTS);
    }

    #[test]
    fn schema_differences_are_classified_as_effective_or_inert() {
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
