//! Opening the database in named phases: look at it without touching it, create it where there is none, connect, migrate.
//!
//! A file that is refused stays byte for byte as it was: everything that can refuse it looks through a connection that can't write.
//! The file may come from an untrusted source, so a changed schema is refused before any of its expressions is evaluated.
//! If killed here: a new file is empty, or has a header and no tables, or has all of V1 (each migration and its line in the history
//! are one transaction). The next opening takes each of these further.

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

/// How long opening the database waits for a lock that another process holds. Our own locks last less than a millisecond, those of
/// `autoappdev migrate` and `check` little more.
pub const BUSY_TIMEOUT: Duration = Duration::from_secs(2);

/// A larger database is not checked completely at each opening, but only the parts that every server needs. A thousand runs
/// take less.
const CHECKED_BYTES_MAX: u64 = 1024 * 1024;

/// The maximum number of sessions, and of request keys, in a file. The server stores at most 32 sessions of each role, and 1,000 keys.
const ROWS_MAX: i64 = 4096;

/// The highest id of a request key that is believed.
const KEY_ID_MAX: i64 = 1 << 53;

/// The head of a write-ahead log, before its first frame: <https://www.sqlite.org/fileformat2.html#walformat>.
const WAL_HEADER_BYTES: usize = 32;

/// What a path holds, as far as can be told without reading it.
enum Look {
    Absent,
    Empty,
    Filled,
}

/// Opens the database at `path` for writing, up to date; also says which migrations were applied.
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
    forget_claimed_keys(&mut conn)?;
    Ok((conn, applied))
}

/// Forgets all request keys of a database whose ids for them are used up, or soon will be. No server gives that many, but a database from
/// another machine can claim any number. Keys are kept for a day only, so their ids can begin again.
fn forget_claimed_keys(conn: &mut Connection) -> rusqlite::Result<()> {
    let tx = conn.transaction_with_behavior(TransactionBehavior::Immediate)?;
    if change::highest_id(&tx, "request_keys")? <= KEY_ID_MAX {
        return Ok(());
    }
    tx.execute_batch("DELETE FROM request_keys; DELETE FROM sqlite_sequence WHERE name = 'request_keys'")?;
    ::log::warn!("the request keys in the database have ids that no server gives; they are forgotten");
    tx.commit()
}

/// Refuses what is no file, and what has lost its file: `SQLite` would silently delete the write-ahead log of one that is missing or empty.
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
    // Another process may be making the file right now. It fills the file before the log, so this look at it comes after that one.
    if holds_data(path) {
        return Ok(Look::Filled);
    }
    let what = if matches!(look, Look::Absent) { "missing" } else { "empty" };
    let reason = format!("the file is {what} while its write-ahead log {} still holds data", wal.display());
    Err(StoreErrorKind::Damaged(reason))
}

/// Refuses anything but regular files at the paths of `SQLite`'s other files: `SQLite` would block on a pipe, for example.
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

/// The end of a rollback journal that names a super-journal, and its beginning: <https://www.sqlite.org/fileformat2.html#the_rollback_journal>.
const JOURNAL_MAGIC: [u8; 8] = [0xd9, 0xd5, 0x05, 0xf9, 0x20, 0xa1, 0x63, 0xd7];

/// Refuses a rollback journal that names a super-journal: `SQLite` would wait for that file if it is a pipe, read it into memory
/// whatever its size, and delete it. Only a transaction over several databases makes one, and this program has none.
fn only_our_journal(journal: &Path) -> Result<(), StoreErrorKind> {
    let Some(file) = if_there(private::open(journal))? else { return Ok(()) };
    let mut end = [0; JOURNAL_MAGIC.len()];
    // A shorter one is not read by `SQLite` either.
    let Some(at) = file.metadata()?.len().checked_sub(end.len() as u64) else { return Ok(()) };
    file.read_exact_at(&mut end, at)?;
    if at > 0 && end == JOURNAL_MAGIC {
        let reason =
            format!("{} is part of a transaction over several databases, which this program never makes", journal.display());
        return Err(StoreErrorKind::Foreign(reason));
    }
    Ok(())
}

/// The file that `SQLite` keeps next to the database, with symbolic links resolved as `SQLite` resolves them.
pub(super) fn beside(path: &Path, suffix: &str) -> PathBuf {
    let mut name: OsString = fs::canonicalize(path).unwrap_or_else(|_| path.to_owned()).into();
    name.push(suffix);
    name.into()
}

/// The path from the root. Some relative ones mean something else to `SQLite`: `:memory:`, and all that begin with `file:`.
pub(super) fn absolute(path: &Path) -> io::Result<PathBuf> {
    std::path::absolute(path)
}

/// Makes an empty file that only its owner can read. `SQLite` gives its other files the same mode.
fn create(path: &Path) -> io::Result<()> {
    match OpenOptions::new().write(true).create_new(true).mode(0o600).open(path) {
        // Another process made it since: as good as ours.
        Err(e) if e.kind() == ErrorKind::AlreadyExists => Ok(()),
        other => other.map(drop),
    }
}

/// Looks through a file, without writing where [`inspect`] can, and gives the names of the migrations it lacks; an empty one lacks
/// everything.
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

/// As [`pending`] does, with the first statement of a connection that writes: it plays a rollback journal back, which changes the file.
fn pending_after_rollback(conn: &mut Connection, path: &Path) -> Result<Vec<String>, StoreErrorKind> {
    pending(conn, path).map_err(|kind| kind.found().after_rollback())
}

/// Looks through a file with something in it, without writing: whose it is, its schema's version, its integrity. Gives the names of the
/// migrations it lacks; nothing where a transaction was cut off before the file was in WAL mode, for only a writer can undo that.
///
/// The file is never opened by other means than `SQLite`'s: closing any descriptor of it would drop the locks of all of this process's
/// connections to it (<https://www.sqlite.org/howtocorrupt.html>, 2.2).
fn inspect(path: &Path) -> Result<Option<Vec<String>>, StoreErrorKind> {
    if fs::metadata(beside(path, "-journal")).is_ok_and(|meta| meta.len() > 0) {
        return Ok(None);
    }
    // Who looks without locks promises that nobody writes. Where somebody did meanwhile, a bad finding proves nothing.
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

/// Whether there is a write-ahead log with something in it. One whose header is not valid holds nothing to `SQLite`: a kill can leave a log
/// of a header alone, and a power cut one of zeros. When `SQLite` may not write, it tries for ten seconds to read such a log and gives up
/// with `SQLITE_PROTOCOL`. There are no locks on this file that closing it could drop.
fn has_log(path: &Path) -> bool {
    let read = |file: fs::File| {
        let mut header = [0; WAL_HEADER_BYTES];
        file.read_exact_at(&mut header, 0)?;
        Ok::<_, io::Error>(is_wal_header(&header) && file.metadata()?.len() > WAL_HEADER_BYTES as u64)
    };
    private::open(&beside(path, "-wal")).and_then(read).unwrap_or(false)
}

/// Whether `SQLite` takes this for the header of a write-ahead log: magic number, page size and checksum.
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

/// Refuses a file whose last page is cut off: `SQLite` reads what is missing of it as zeros. For a file without a write-ahead log; one
/// with a log may have been cut off by a kill in the middle of a checkpoint, and the log still has that page.
fn whole_pages(conn: &Connection, path: &Path) -> Result<(), StoreErrorKind> {
    let page_bytes: u32 = conn.pragma_query_value(None, "page_size", |row| row.get(0))?;
    if fs::metadata(path)?.len().is_multiple_of(u64::from(page_bytes)) {
        Ok(())
    } else {
        Err(StoreErrorKind::Damaged("its last page is cut off".to_owned()))
    }
}

/// A connection that writes nothing, not even beside the file where that can be had. <https://www.sqlite.org/uri.html>
fn inspection(path: &Path, has_wal: bool) -> Result<Connection, StoreErrorKind> {
    let parameters = match (has_wal, beside(path, "-shm").exists()) {
        // Without a write-ahead log the file is all there is; by default even a reader would create one.
        (false, true | false) => "immutable=1",
        // Reads the log through an index in memory, or through the one of a live writer.
        (true, true) => "mode=ro&readonly_shm=1",
        // The index has to be made anew, and is left behind. It holds nothing of its own.
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

/// Refuses a file that is foreign, newer, divergent or damaged, in this order; gives the names of the migrations it lacks.
fn pending(conn: &mut Connection, path: &Path) -> Result<Vec<String>, StoreErrorKind> {
    let (lacking, version, is_ours_alone) = with_limits(conn, |conn| {
        let _moment = moment(conn)?;
        let (version, lacking) = lacking(conn)?;
        // Before the checks below, which evaluate expressions of the schema.
        let is_ours_alone = refuse_other_schema(conn, version)?;
        schema::read_tables_of_sqlite(conn)?;
        Ok((lacking, version, is_ours_alone))
    })?;
    if version > 0 {
        refuse_many(conn, "sessions", "sessions")?;
        refuse_many(conn, "request_keys", "request keys")?;
    }
    // Not `integrity_check`, which also compares every index with its table: that is for `autoappdev check`. Nor, where that takes longer
    // with each run in the history, all tables: it took seconds for a hundred thousand runs. Nor tables of others.
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

/// Refuses a file with more rows of a table than this program ever stores. The server reads all sessions when it starts and removes old
/// keys all at once, and pages of a file that refer to the same page again and again have more rows than can be read in a lifetime.
fn refuse_many(conn: &Connection, table: &str, what: &str) -> Result<(), StoreErrorKind> {
    let sql = format!("SELECT count(*) FROM (SELECT 1 FROM {table} NOT INDEXED LIMIT ?1)");
    let count: i64 = conn.query_row(&sql, [ROWS_MAX + 1], |row| row.get(0))?;
    if count > ROWS_MAX {
        return Err(StoreErrorKind::Damaged(format!("it has more than {ROWS_MAX} {what}, which this program never stores")));
    }
    Ok(())
}

/// All that is read while the result exists is of one moment: another process may be migrating. There is nothing to commit.
fn moment(conn: &Connection) -> rusqlite::Result<Transaction<'_>> {
    Transaction::new_unchecked(conn, TransactionBehavior::Deferred)
}

/// Refuses a file whose tables and indexes are not those that its migrations make. Returns whether nothing else is in it.
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

/// Names in the log what somebody else has put into the database, and what does nothing.
fn name_inert(conn: &Connection) -> rusqlite::Result<()> {
    let inert = schema::differences(conn, schema_version())?.inert;
    if !inert.is_empty() {
        ::log::warn!("the database contains more than this program's tables, which is ignored: {:?}", inert.join("; "));
    }
    Ok(())
}

/// Opens a file that exists, for writing.
pub(super) fn connect(path: &Path) -> Result<Connection, StoreErrorKind> {
    // Without CREATE: a file that has vanished since it was looked at is an error, not an empty database.
    let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let conn = Connection::open_with_flags(absolute(path)?, flags)?;
    harden(&conn)?;
    // SQLite falls back to reading without a word: https://www.sqlite.org/c3ref/open.html
    if conn.is_readonly(rusqlite::MAIN_DB)? {
        return Err(StoreErrorKind::NotWritable("it is write-protected".to_owned()));
    }
    conn.busy_timeout(BUSY_TIMEOUT)?;
    Ok(conn)
}

/// Sets what the promises stand on, and reads each setting back: `SQLite` ignores one that it can't take.
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

/// Applies the migrations that are lacking, each with its line in the history, all in one transaction.
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
        // refinery looks and writes in two steps. Where another process got in between and did the work, there is nothing left to do.
        Err(_) if lacking_now(conn).is_ok_and(|left| left.is_empty()) => Ok(Vec::new()),
        Err(e) => Err(migration_failed(&e)),
    }
}

/// A failed migration by its cause: a full disk and a busy file have their own words.
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

/// Writes and takes it back: better refused at the start than at the first transition. Only a statement that writes proves it; where
/// `SQLite` can't write, BEGIN IMMEDIATE begins a reading transaction without a word.
fn prove_writable(conn: &Connection) -> rusqlite::Result<()> {
    let written = conn.execute_batch("BEGIN IMMEDIATE; UPDATE pipeline_state SET version = version WHERE id = 1");
    // Without a transaction to take back this fails, and the other error is the one to tell.
    let taken_back = conn.execute_batch("ROLLBACK");
    written.and(taken_back)
}

#[cfg(test)]
mod tests;
