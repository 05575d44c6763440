//! Reads a file's header and its migration history: which program wrote it, and which migrations it lacks.
//!
//! Called while a file is opened, before anything is written to it. The file may come from an untrusted source.

use rusqlite::types::Value;
use rusqlite::{Connection, OptionalExtension};
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use super::error::StoreErrorKind;
use super::known;
use super::schema::{self, HISTORY_TABLE};

/// The letters "`AADv`" in the file's header, which mark a file of this program. Set by V1;
/// <https://www.sqlite.org/pragma.html#pragma_application_id>.
pub(super) const APPLICATION_ID: i32 = 0x4141_4476;

/// The maximum number of lines in the history, one for each migration.
const HISTORY_LINES_MAX: usize = 1000;

/// Returns the version of the schema that this program uses: the number of its latest migration.
pub fn schema_version() -> i64 {
    known::all().last().map_or(0, |newest| newest.version)
}

/// Returns a file's version (0 before the first migration) and the migrations that it lacks. Refuses a file of another program.
/// Call it within a transaction.
///
/// refinery compares the histories too, but panics on one that it cannot parse. So it only gets a history that was checked here.
pub(super) fn lacking(conn: &Connection) -> Result<(i64, Vec<String>), StoreErrorKind> {
    let foreign = |reason| Err(StoreErrorKind::Foreign(reason));
    let application_id: i32 = conn.query_row("PRAGMA application_id", [], |row| row.get(0))?;
    if application_id != 0 && application_id != APPLICATION_ID {
        return foreign(format!("its application id is {application_id:#010x}"));
    }
    let history = history(conn)?;
    if history.is_empty() {
        // A kill before the first migration leaves an empty file or an empty history. SQLite treats another spelling of the
        // history's name as the same name, so such a table counts as another object.
        let sql = "SELECT name FROM sqlite_schema
             WHERE NOT (lower(type) = 'table' AND name = ?1) AND NOT (tbl_name = ?1 AND sql IS NULL) LIMIT 1";
        let object: Option<String> = conn.query_row(sql, [HISTORY_TABLE], |row| row.get(0)).optional()?;
        if let Some(name) = object {
            return foreign(format!("it has {name:?} but not the schema history of this program"));
        }
    }
    compare(&history)?;
    let lacking = known::all().iter().filter(|ours| history.iter().all(|applied| applied.version != ours.version));
    let version = history.iter().map(|applied| applied.version).max().unwrap_or(0);
    Ok((version, lacking.map(ToString::to_string).collect()))
}

/// A line of the history.
struct Applied {
    version: i64,
    name: String,
    checksum: u64,
}

/// Returns the migrations that were applied, as refinery recorded them; empty if the table does not exist.
fn history(conn: &Connection) -> Result<Vec<Applied>, StoreErrorKind> {
    match schema::is_history_of_refinery(conn)? {
        Some(true) => {}
        Some(false) => {
            return Err(StoreErrorKind::Damaged("its schema history is not the table that this program makes".to_owned()));
        }
        None => return Ok(Vec::new()),
    }
    // Not in order: if the file has no index for the primary key, SQLite would read and sort all lines first.
    let mut statement = conn.prepare(&format!("SELECT version, name, checksum, applied_on FROM {HISTORY_TABLE}"))?;
    let lines: Vec<[Value; 4]> = statement
        .query_map([], |row| Ok([row.get(0)?, row.get(1)?, row.get(2)?, row.get(3)?]))?
        .take(HISTORY_LINES_MAX + 1)
        .collect::<Result<_, _>>()?;
    if lines.len() > HISTORY_LINES_MAX {
        return Err(StoreErrorKind::Damaged(format!("its schema history has more than {HISTORY_LINES_MAX} lines")));
    }
    lines
        .into_iter()
        .map(|line| {
            if let [Value::Integer(version), Value::Text(name), Value::Text(checksum), Value::Text(applied_on)] = &line
                && let Ok(checksum) = checksum.parse()
                && OffsetDateTime::parse(applied_on, &Rfc3339).is_ok()
            {
                Ok(Applied { version: *version, name: name.clone(), checksum })
            } else {
                Err(StoreErrorKind::Damaged(format!("its schema history has an invalid line: {line:?}")))
            }
        })
        .collect()
}

/// Refuses a history that this program cannot continue.
fn compare(history: &[Applied]) -> Result<(), StoreErrorKind> {
    let newest_known = schema_version();
    let newest_applied = history.iter().map(|applied| applied.version).max().unwrap_or(0);
    let divergent = |reason| Err(StoreErrorKind::Divergent(reason));
    // Checked before the versions: a history with a different beginning is not a newer version of this one.
    for applied in history.iter().filter(|applied| applied.version <= newest_known) {
        let Some(ours) = known::all().iter().find(|ours| ours.version == applied.version) else {
            return divergent(format!("it has V{}__{}, which this program never had", applied.version, applied.name));
        };
        if ours.name != applied.name || ours.checksum != applied.checksum {
            return divergent(format!("its V{}__{} is not this program's {ours}", applied.version, applied.name));
        }
    }
    if newest_applied > newest_known {
        return Err(StoreErrorKind::Newer { found: newest_applied, known: newest_known });
    }
    for ours in known::all() {
        if ours.version < newest_applied && history.iter().all(|applied| applied.version != ours.version) {
            return divergent(format!("it lacks {ours} but has a later one"));
        }
    }
    Ok(())
}
