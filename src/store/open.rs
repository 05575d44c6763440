//! Opens the database in named phases: check the file without changing it, create it if it does not exist, connect, migrate.
//!
//! A refused file stays unchanged byte for byte, because every check that can refuse it uses a connection that cannot write. The
//! file may come from an untrusted source, so a changed schema is refused before any of its expressions is evaluated. If killed
//! here: a new file is empty, or has a header and no tables, or has all of V1 (each migration and its line in the history are one
//! transaction). The next opening continues from each of these.

use std::ffi::OsString;
use std::fmt::Write as _;
use std::fs::{self, OpenOptions};
use std::io::{self, ErrorKind};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

use rusqlite::{Connection, OpenFlags, Transaction, TransactionBehavior};

use super::error::StoreErrorKind;
use super::hardening::{harden, with_limits};
use super::history::{lacking, schema_version};
use super::known::{self, runner};
use super::{change, schema};
use crate::absent::if_there;
use crate::kill_point::KillPoint;
use crate::private;

/// How long opening the database waits for a lock that another process holds. The server's own locks last less than a
/// millisecond, and those of `autoappdev migrate` and `check` hardly longer.
pub const BUSY_TIMEOUT: Duration = Duration::from_secs(2);

/// The size up to which each opening checks the whole database. In a larger one it checks only the parts that every server needs.
/// A thousand runs take less.
const CHECKED_BYTES_MAX: u64 = 1024 * 1024;

/// The maximum number of sessions, and of request keys, in a file. The server stores at most 32 sessions of each role, and 1,000
/// keys.
const ROWS_MAX: i64 = 4096;

/// The highest id of a request key, and the highest version of the pipeline, that are accepted. A client in JavaScript cannot
/// distinguish larger numbers.
const NUMBER_MAX: i64 = 1 << 53;

/// The size of a write-ahead log's header, before the first frame: <https://www.sqlite.org/fileformat2.html#walformat>.
const WAL_HEADER_BYTES: usize = 32;

/// The kind of file at a path, as far as its metadata shows.
enum Look {
    Absent,
    Empty,
    Filled,
}

/// Opens the database at `path` for writing and brings it up to date. Also returns the migrations that were applied.
pub(super) fn open(path: &Path) -> Result<(Connection, Vec<String>), StoreErrorKind> {
    let looked_through = match look(path)? {
        Look::Absent => {
            create(path)?;
            KillPoint::ServerDatabaseMade.reach();
            true
        }
        Look::Empty => true,
        Look::Filled => inspect(path)?.is_some(),
    };
    let mut conn = connect(path)?;
    if !looked_through {
        pending_after_rollback(&mut conn, path)?;
    }
    configure(&conn)?;
    let applied = migrate(&mut conn)?;
    KillPoint::ServerDatabaseMigrated.reach();
    name_inert(&conn)?;
    prove_writable(&conn)?;
    reset_claimed_numbers(&mut conn)?;
    Ok((conn, applied))
}

/// Deletes all request keys, or sets the pipeline's version to 0, if their numbers are used up, or soon will be. No server assigns
/// numbers that high, but a database from another machine can contain any number. Keys are kept for only a day, and clients accept
/// a lower version, so both can start again.
fn reset_claimed_numbers(conn: &mut Connection) -> rusqlite::Result<()> {
    let tx = conn.transaction_with_behavior(TransactionBehavior::Immediate)?;
    if change::highest_id(&tx, "request_keys")? > NUMBER_MAX {
        tx.execute_batch("DELETE FROM request_keys; DELETE FROM sqlite_sequence WHERE name = 'request_keys'")?;
        ::log::warn!("the request keys in the database have invalid ids, so they were deleted");
    }
    if tx.execute("UPDATE pipeline_state SET version = 0 WHERE version > ?1", [NUMBER_MAX])? > 0 {
        ::log::warn!("the version of the pipeline in the database is one that no server gives; it starts again at 0");
    }
    tx.commit()
}

/// Refuses anything but a regular file, and a missing or empty file whose write-ahead log holds data: `SQLite` would silently
/// delete that log.
fn look(path: &Path) -> Result<Look, StoreErrorKind> {
    let refused = |reason: &str| Err(StoreErrorKind::NotWritable(reason.to_owned()));
    let look = match fs::metadata(path) {
        Ok(meta) if meta.is_dir() => return refused("it is a folder"),
        Ok(meta) if !meta.is_file() => return refused("it is not a regular file"),
        Ok(meta) if meta.len() > 0 => {
            files_beside(path)?;
            return Ok(Look::Filled);
        }
        Ok(_) => Look::Empty,
        Err(e) if e.kind() == ErrorKind::NotFound => Look::Absent,
        Err(e) => return Err(e.into()),
    };
    files_beside(path)?;
    let wal = beside(path, "-wal");
    let holds_data = |path: &Path| fs::metadata(path).is_ok_and(|meta| meta.len() > 0);
    if !holds_data(&wal) {
        return Ok(look);
    }
    // Another process may be creating the file right now. It fills the file before the log, so check the file again after the
    // log.
    if holds_data(path) {
        return Ok(Look::Filled);
    }
    let what = if matches!(look, Look::Absent) { "missing" } else { "empty" };
    let reason = format!("the file is {what} while its write-ahead log {} still holds data", wal.display());
    Err(StoreErrorKind::Damaged(reason))
}

/// Refuses anything but regular files at the paths of `SQLite`'s other files. `SQLite` would block on a pipe, for example.
pub(super) fn files_beside(path: &Path) -> Result<(), StoreErrorKind> {
    for path in ["-journal", "-wal", "-shm"].map(|suffix| beside(path, suffix)) {
        match fs::symlink_metadata(&path) {
            Ok(meta) if !meta.is_file() => {
                return Err(StoreErrorKind::NotWritable(format!("{} is not a regular file; move it away", path.display())));
            }
            Ok(_) | Err(_) => {}
        }
    }
    only_our_journal(&beside(path, "-journal"))
}

/// The magic number that begins a rollback journal, and that also ends one that names a super-journal:
/// <https://www.sqlite.org/fileformat2.html#the_rollback_journal>.
const JOURNAL_MAGIC: [u8; 8] = [0xd9, 0xd5, 0x05, 0xf9, 0x20, 0xa1, 0x63, 0xd7];

/// Refuses a rollback journal that names a super-journal: `SQLite` would wait for that file if it is a pipe, read it into memory
/// whatever its size, and delete it. Only a transaction over several databases creates one, and this program uses one database.
fn only_our_journal(journal: &Path) -> Result<(), StoreErrorKind> {
    let Some(file) = if_there(private::open(journal))? else { return Ok(()) };
    let mut end = [0; JOURNAL_MAGIC.len()];
    // `SQLite` does not read a shorter journal either.
    let Some(at) = file.metadata()?.len().checked_sub(end.len() as u64) else { return Ok(()) };
    file.read_exact_at(&mut end, at)?;
    if at > 0 && end == JOURNAL_MAGIC {
        let reason =
            format!("{} is part of a transaction over several databases, which this program never makes", journal.display());
        return Err(StoreErrorKind::Foreign(reason));
    }
    Ok(())
}

/// Returns the path of a file that `SQLite` keeps next to the database. Resolves symbolic links as `SQLite` does.
pub(super) fn beside(path: &Path, suffix: &str) -> PathBuf {
    let mut name: OsString = fs::canonicalize(path).unwrap_or_else(|_| path.to_owned()).into();
    name.push(suffix);
    name.into()
}

/// Makes a path absolute. `SQLite` gives some relative paths another meaning: `:memory:`, and every path that begins with
/// `file:`.
pub(super) fn absolute(path: &Path) -> io::Result<PathBuf> {
    std::path::absolute(path)
}

/// Creates an empty file that only its owner can read. `SQLite` gives its other files the same mode.
fn create(path: &Path) -> io::Result<()> {
    match OpenOptions::new().write(true).create_new(true).mode(0o600).open(path) {
        // Another process has created it in the meantime, which is just as good.
        Err(e) if e.kind() == ErrorKind::AlreadyExists => Ok(()),
        other => other.map(drop),
    }
}

/// Checks a file and returns the names of the migrations that it lacks; an empty file lacks all of them. Writes nothing unless a
/// rollback journal has to be played back.
pub(super) fn look_over(path: &Path) -> Result<Vec<String>, StoreErrorKind> {
    match look(path)? {
        Look::Absent => Err(StoreErrorKind::Missing),
        Look::Empty => Ok(known::all().iter().map(ToString::to_string).collect()),
        Look::Filled => match inspect(path)? {
            Some(lacking) => Ok(lacking),
            None => pending_after_rollback(&mut connect(path)?, path),
        },
    }
}

/// Like [`pending`], with the first statement on a writing connection. That statement plays a rollback journal back, which
/// changes the file.
fn pending_after_rollback(conn: &mut Connection, path: &Path) -> Result<Vec<String>, StoreErrorKind> {
    pending(conn, path).map_err(|kind| kind.found().after_rollback())
}

/// Checks a file that is not empty, without writing: which program wrote it, the version of its schema, its integrity. Returns
/// the names of the migrations that it lacks. Returns `None` if a transaction was cut off before the file was in WAL mode,
/// because only a writer can undo that.
///
/// Only `SQLite` may open the file: closing any other descriptor of it would drop the locks of all of this process's connections
/// to it (<https://www.sqlite.org/howtocorrupt.html>, 2.2).
fn inspect(path: &Path) -> Result<Option<Vec<String>>, StoreErrorKind> {
    if fs::metadata(beside(path, "-journal")).is_ok_and(|meta| meta.len() > 0) {
        return Ok(None);
    }
    // Reading without locks is safe only while no process writes. If one did write meanwhile, a negative result proves nothing.
    let marks = || (fs::metadata(path).ok().map(|meta| (meta.len(), meta.modified().ok())), has_log(path));
    let mut attempts = 5;
    loop {
        let before = marks();
        let found = inspection(path, before.1).and_then(|mut conn| {
            let lacking = pending(&mut conn, path)?;
            if !before.1 {
                whole_pages(&conn, path)?;
            }
            Ok(lacking)
        });
        attempts -= 1;
        if found.is_ok() || attempts == 0 || marks() == before {
            return found.map(Some);
        }
    }
}

/// Checks whether a write-ahead log with frames exists. `SQLite` treats a log with an invalid header as empty. A kill can leave a
/// log that consists of a header only, and a power cut one of zeros. If `SQLite` may not write, it tries for ten seconds to read
/// such a log and then fails with `SQLITE_PROTOCOL`. `SQLite` holds no locks on this file that closing a descriptor could drop.
fn has_log(path: &Path) -> bool {
    let read = |file: fs::File| {
        let mut header = [0; WAL_HEADER_BYTES];
        file.read_exact_at(&mut header, 0)?;
        Ok::<_, io::Error>(is_wal_header(&header) && file.metadata()?.len() > WAL_HEADER_BYTES as u64)
    };
    private::open(&beside(path, "-wal")).and_then(read).unwrap_or(false)
}

/// Checks whether `SQLite` accepts this header of a write-ahead log: magic number, page size and checksum.
/// <https://www.sqlite.org/fileformat2.html#walformat>
fn is_wal_header(header: &[u8; WAL_HEADER_BYTES]) -> bool {
    let number = |at: usize| [header[at], header[at + 1], header[at + 2], header[at + 3]];
    let word = match u32::from_be_bytes(number(0)) {
        0x377f_0682 => u32::from_le_bytes,
        0x377f_0683 => u32::from_be_bytes,
        _ => return false,
    };
    let sums = (0..24).step_by(8).fold((0_u32, 0_u32), |(one, two), at| {
        let one = one.wrapping_add(word(number(at))).wrapping_add(two);
        (one, two.wrapping_add(word(number(at + 4))).wrapping_add(one))
    });
    let page_bytes = u32::from_be_bytes(number(8));
    let is_page_size = page_bytes.is_power_of_two() && (512..=65_536).contains(&page_bytes);
    is_page_size && sums == (u32::from_be_bytes(number(24)), u32::from_be_bytes(number(28)))
}

/// Refuses a file whose last page is cut off, because `SQLite` reads the missing part as zeros. Only for files without a
/// write-ahead log: a kill during a checkpoint may have cut off a file with a log, and the log still has that page.
fn whole_pages(conn: &Connection, path: &Path) -> Result<(), StoreErrorKind> {
    let page_bytes: u32 = conn.pragma_query_value(None, "page_size", |row| row.get(0))?;
    if fs::metadata(path)?.len().is_multiple_of(u64::from(page_bytes)) {
        Ok(())
    } else {
        Err(StoreErrorKind::Damaged("its last page is cut off".to_owned()))
    }
}

/// Opens a connection that does not write to the database, and if possible not beside it either.
/// <https://www.sqlite.org/uri.html>
fn inspection(path: &Path, has_wal: bool) -> Result<Connection, StoreErrorKind> {
    let parameters = match (has_wal, beside(path, "-shm").exists()) {
        // Without a write-ahead log the file contains everything. By default even a reader would create a log.
        (false, true | false) => "immutable=1",
        // Reads the log through an index in memory, or through the index of a live writer.
        (true, true) => "mode=ro&readonly_shm=1",
        // The index must be created, and stays. It contains nothing that the log does not contain.
        (true, false) => "mode=ro",
    };
    let mut uri = "file://".to_owned();
    for byte in absolute(path)?.as_os_str().as_bytes() {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'/' | b'.' | b'-' | b'_' => uri.push(char::from(*byte)),
            other => write!(uri, "%{other:02X}").expect("a String takes all that is written to it"),
        }
    }
    uri.push('?');
    uri.push_str(parameters);
    let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_URI | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let conn = Connection::open_with_flags(uri, flags)?;
    harden(&conn)?;
    conn.busy_timeout(BUSY_TIMEOUT)?;
    Ok(conn)
}

/// Refuses a file that is foreign, newer, divergent or damaged, in this order. Returns the names of the migrations that it lacks.
fn pending(conn: &mut Connection, path: &Path) -> Result<Vec<String>, StoreErrorKind> {
    let (lacking, version, is_ours_alone) = with_limits(conn, |conn| {
        let _moment = moment(conn)?;
        let (version, lacking) = lacking(conn)?;
        // Before the checks below, because they evaluate expressions of the schema.
        let is_ours_alone = refuse_other_schema(conn, version)?;
        schema::read_tables_of_sqlite(conn)?;
        Ok((lacking, version, is_ours_alone))
    })?;
    if version > 0 {
        refuse_many(conn, "sessions", "sessions")?;
        refuse_many(conn, "request_keys", "request keys")?;
    }
    // `integrity_check` also compares every index with its table; only `autoappdev check` does that. In a large file
    // only these three tables are checked, because a check of all takes longer with each run in the history: it took seconds for
    // 100,000 runs. Tables of other programs are never checked.
    let is_small = fs::metadata(path).is_ok_and(|meta| meta.len() <= CHECKED_BYTES_MAX);
    let checks = if is_small && is_ours_alone { &["1"][..] } else { &["'pipeline_state'", "'sessions'", "'request_keys'"] };
    for checked in checks {
        let verdict: String = conn.query_row(&format!("PRAGMA quick_check({checked})"), [], |row| row.get(0))?;
        if verdict != "ok" {
            return Err(StoreErrorKind::Damaged(verdict));
        }
    }
    Ok(lacking)
}

/// Refuses a file with more rows in a table than this program ever stores. The server reads all sessions when it starts and
/// removes old keys all at once. A crafted file whose pages refer to the same page again and again has more rows than could ever
/// be read.
fn refuse_many(conn: &Connection, table: &str, what: &str) -> Result<(), StoreErrorKind> {
    let sql = format!("SELECT count(*) FROM (SELECT 1 FROM {table} NOT INDEXED LIMIT ?1)");
    let count: i64 = conn.query_row(&sql, [ROWS_MAX + 1], |row| row.get(0))?;
    if count > ROWS_MAX {
        return Err(StoreErrorKind::Damaged(format!("it has more than {ROWS_MAX} {what}, which this program never stores")));
    }
    Ok(())
}

/// Begins a read transaction, so that all reads until it is dropped see the same snapshot: another process may be migrating.
/// There is nothing to commit.
fn moment(conn: &Connection) -> rusqlite::Result<Transaction<'_>> {
    Transaction::new_unchecked(conn, TransactionBehavior::Deferred)
}

/// Refuses a file whose tables and indexes differ from those that its migrations create. Returns whether it contains nothing
/// else.
fn refuse_other_schema(conn: &Connection, version: i64) -> Result<bool, StoreErrorKind> {
    // Before the first migration there is no table, see `lacking`.
    if version == 0 {
        return Ok(true);
    }
    if let Some(name) = schema::without_own_page(conn)? {
        return Err(StoreErrorKind::Damaged(format!("its schema gives {name} no page of its own")));
    }
    let differences = schema::differences(conn, version)?;
    if differences.effective.is_empty() {
        return Ok(differences.inert.is_empty());
    }
    Err(StoreErrorKind::Damaged(format!(
        "its schema is not the one that this program made: {}",
        differences.effective.join("; ")
    )))
}

/// Logs the objects in the database that are not this program's and have no effect.
fn name_inert(conn: &Connection) -> rusqlite::Result<()> {
    let inert = schema::differences(conn, schema_version())?.inert;
    if !inert.is_empty() {
        ::log::warn!("the database contains more than this program's tables, which is ignored: {:?}", inert.join("; "));
    }
    Ok(())
}

/// Opens an existing file for writing.
pub(super) fn connect(path: &Path) -> Result<Connection, StoreErrorKind> {
    // Without CREATE: a file that has vanished since the check is an error, not an empty database.
    let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let conn = Connection::open_with_flags(absolute(path)?, flags)?;
    harden(&conn)?;
    // SQLite silently falls back to reading: https://www.sqlite.org/c3ref/open.html
    if conn.is_readonly(rusqlite::MAIN_DB)? {
        return Err(StoreErrorKind::NotWritable("it is write-protected".to_owned()));
    }
    conn.busy_timeout(BUSY_TIMEOUT)?;
    Ok(conn)
}

/// Sets what durability and safety depend on, and reads each setting back, because `SQLite` ignores a value that it cannot use.
fn configure(conn: &Connection) -> Result<(), StoreErrorKind> {
    let mode: String = conn.pragma_update_and_check(None, "journal_mode", "WAL", |row| row.get(0))?;
    if mode != "wal" {
        return Err(StoreErrorKind::Setting("journal_mode=WAL".to_owned()));
    }
    // 2 is FULL: the log is synced at each commit, so what was committed survives a power cut.
    for (name, value) in [("synchronous", 2), ("foreign_keys", 1)] {
        conn.pragma_update(None, name, value)?;
        let taken: i64 = conn.pragma_query_value(None, name, |row| row.get(0))?;
        if taken != value {
            return Err(StoreErrorKind::Setting(format!("{name}={value}")));
        }
    }
    conn.set_prepared_statement_cache_capacity(32);
    Ok(())
}

/// Applies the missing migrations, each with its line in the history, all in one transaction.
fn migrate(conn: &mut Connection) -> Result<Vec<String>, StoreErrorKind> {
    let lacking_now = |conn: &Connection| {
        let _moment = moment(conn)?;
        lacking(conn).map(|(_, names)| names)
    };
    if lacking_now(conn)?.is_empty() {
        return Ok(Vec::new());
    }
    conn.set_transaction_behavior(TransactionBehavior::Immediate);
    match runner().run(conn) {
        Ok(report) => Ok(report.applied_migrations().iter().map(ToString::to_string).collect()),
        // refinery checks and writes in two steps. If another process did the work in between, there is nothing left to do.
        Err(_) if lacking_now(conn).is_ok_and(|left| left.is_empty()) => Ok(Vec::new()),
        Err(e) => Err(migration_failed(&e)),
    }
}

/// Converts a failed migration by its cause: a full disk, a busy file and a file that is not writable have their own kinds.
fn migration_failed(error: &refinery::Error) -> StoreErrorKind {
    let refinery::error::Kind::Connection(step, cause) = error.kind() else {
        return StoreErrorKind::Migration(error.to_string());
    };
    if let Some(rusqlite::Error::SqliteFailure(failure, said)) = cause.downcast_ref() {
        let known = rusqlite::Error::SqliteFailure(*failure, said.clone()).into();
        if matches!(known, StoreErrorKind::Full | StoreErrorKind::Busy | StoreErrorKind::NotWritable(_)) {
            return known;
        }
    }
    StoreErrorKind::Migration(format!("{step}: {cause}"))
}

/// Writes and rolls back, because refusing the file at the start is better than at the first transition. Only a statement that
/// writes proves anything: if `SQLite` cannot write, BEGIN IMMEDIATE silently begins a read transaction.
fn prove_writable(conn: &Connection) -> rusqlite::Result<()> {
    let written = conn.execute_batch("BEGIN IMMEDIATE; UPDATE pipeline_state SET version = version WHERE id = 1");
    // Fails if no transaction began; then the other error is the one to report.
    let taken_back = conn.execute_batch("ROLLBACK");
    written.and(taken_back)
}

#[cfg(test)]
mod tests;
