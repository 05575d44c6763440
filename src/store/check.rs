//! `autoappdev check`: checks the database, and that it can be written, without changing it.
//!
//! It may run beside a live server: it holds the write lock for about a millisecond.

use std::path::Path;

use rusqlite::{Connection, OptionalExtension, Transaction, TransactionBehavior};

use super::error::{StoreError, StoreErrorKind};
use super::history::schema_version;
use super::rows::{PipelineRow, RunRow};
use super::{change, open, schema};

/// One step of a check.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CheckStep {
    /// The name of the step.
    pub name: &'static str,
    /// What was found, for users: good or bad.
    pub result: Result<String, String>,
}

/// Checks the database at `path`, without creating or migrating anything. Returns the steps in their order. After a failed step,
/// later ones may be left out.
///
/// # Errors
/// The database cannot be checked: the file is missing, of another program, newer, not writable, or so damaged that it cannot be
/// read.
pub fn check(path: &Path) -> Result<Vec<CheckStep>, StoreError> {
    steps(path).map_err(|kind| StoreError::new(path, kind.found()))
}

fn steps(path: &Path) -> Result<Vec<CheckStep>, StoreErrorKind> {
    let lacking = open::look_over(path)?;
    let mut steps = vec![CheckStep { name: "file", result: Ok(format!("{} is ours and can be read", path.display())) }];
    if !lacking.is_empty() {
        let behind = format!("it lacks {}; run `autoappdev migrate`", lacking.join(", "));
        steps.push(CheckStep { name: "schema", result: Err(behind) });
        return Ok(steps);
    }
    let mut conn = open::connect(path)?;
    // Other differences were refused above.
    let inert = schema::differences(&conn, schema_version())?.inert;
    // A table of another program can contain expressions that take hours, so then only this program's tables are checked.
    let tables = if inert.is_empty() { Vec::new() } else { schema::tables(schema_version())? };
    let schema = if inert.is_empty() { Ok(format!("version {}", schema_version())) } else { Err(inert.join("; ")) };
    steps.push(CheckStep { name: "schema", result: schema });
    let integrity = verdict(&conn, "integrity_check(5)", &tables, "ok")?;
    let is_intact = integrity.is_ok();
    steps.push(CheckStep { name: "integrity", result: integrity });
    if !is_intact {
        // The other steps read the tables, and that might never end.
        return Ok(steps);
    }
    steps.push(CheckStep { name: "foreign keys", result: verdict(&conn, "foreign_key_check", &tables, "")? });
    steps.push(CheckStep { name: "write", result: write_and_read_back(&mut conn, path)? });
    Ok(steps)
}

/// Runs a checking pragma on each of these tables, or on the whole file if there are none. The result is good if the first column
/// of the first line is `good`. Reads only the first line: in a damaged file the next one might take forever, or there may be
/// millions.
fn verdict(conn: &Connection, whole: &str, tables: &[String], good: &str) -> rusqlite::Result<Result<String, String>> {
    let (pragma, _) = whole.split_once('(').unwrap_or((whole, ""));
    let mut checks: Vec<String> = tables.iter().map(|table| format!("{pragma}('{table}')")).collect();
    if checks.is_empty() {
        checks.push(whole.to_owned());
    }
    let mut bad = Vec::new();
    for check in checks {
        let mut statement = conn.prepare(&format!("PRAGMA {check}"))?;
        let said: Option<String> = statement.query_row([], |row| row.get(0)).optional()?;
        if said.as_deref().unwrap_or_default() != good {
            bad.extend(said);
        }
    }
    Ok(if bad.is_empty() { Ok("ok".to_owned()) } else { Err(bad.join("; ")) })
}

/// Writes a run, an event and the state, reads them back, and rolls all of it back.
fn write_and_read_back(conn: &mut Connection, path: &Path) -> rusqlite::Result<Result<String, String>> {
    let before = PipelineRow::read(conn)?;
    let tx = conn.transaction_with_behavior(TransactionBehavior::Immediate)?;
    let read_back = try_writing(&tx);
    // Not `rollback`, which fails if SQLite has already rolled back, as after SQLITE_FULL:
    // https://www.sqlite.org/lang_transaction.html
    tx.finish()?;
    let after = PipelineRow::read(conn)?;
    Ok(match read_back {
        // A live server may have made changes meanwhile, but the values written here must be gone.
        Ok(written) if after.version < before.version || after == written => {
            Err("what was written could not be undone".to_owned())
        }
        Ok(_) => Ok("written, read back and rolled back".to_owned()),
        Err(kind) => Err(StoreError::new(path, kind).to_string()),
    })
}

/// Writes the rows of a lost run, which the schema always allows.
fn try_writing(tx: &Transaction<'_>) -> Result<PipelineRow, StoreErrorKind> {
    const AT: &str = "2000-01-01T00:00:00.000Z";
    let inserted = tx.execute(
        "INSERT INTO pipeline_runs (status, script, cwd, args, created_at, stopped_at, error, log_start)
         VALUES ('lost', 'check', '/', '[]', ?1, ?1, 'check', 0)",
        [AT],
    );
    if let Err(error) = inserted {
        return Err(change::why_no_run(tx, error)?);
    }
    let id = tx.last_insert_rowid();
    change::refuse_highest_id(id)?;
    tx.execute("INSERT INTO pipeline_events (run_id, seq, at, kind) VALUES (?1, 0, ?2, 'starting')", (id, AT))?;
    tx.execute("UPDATE pipeline_state SET version = version + 1, updated_at = ?1 WHERE id = 1", [AT])?;
    RunRow::read(tx, id)?.ok_or(rusqlite::Error::QueryReturnedNoRows)?;
    Ok(PipelineRow::read(tx)?)
}
