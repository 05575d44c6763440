//! The table of requests with an `Idempotency-Key`, so that a repeat gets the same response and nothing is done twice.
//!
//! The key of a start is committed with its run, and the key of any other action before its command is sent. The response is
//! added before the client gets it. If killed in between, the key shows which run the action was about, and the run's events show
//! its result.

use std::time::Duration;

use rusqlite::{Connection, OptionalExtension, Transaction};

use super::change::{self, NewRun};
use super::connection::Store;
use super::error::{StoreError, StoreErrorKind};
use super::rows;
use crate::clock::Timestamp;
use crate::pipeline::Cause;

/// The maximum number of stored keys. The oldest are removed first.
pub(super) const KEYS_MAX: i64 = 1000;
/// The maximum number of bytes of stored keys and responses, without the newest.
const BYTES_MAX: i64 = 1024 * 1024;

/// A key, and a digest of the request that it was sent with.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RequestKey {
    /// The key, 1 to 64 characters.
    pub key: String,
    /// The digest of route and body, 64 hexadecimal digits.
    pub request: String,
}

/// The stored state of a request with a key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum KeyedRequest {
    /// The request was answered.
    Answered {
        /// The HTTP status.
        status: u16,
        /// The body.
        body: String,
    },
    /// The action was begun, and its response is unknown.
    Begun(Begun),
    /// The key was sent with another request.
    Other,
}

/// An action that was begun.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Begun {
    /// The run that the action began or was meant for.
    pub run_id: i64,
    /// The number of the run's last fact that was recorded before the action.
    pub seq: u64,
}

/// Stores a new key for an action that begins.
pub(super) fn insert(tx: &Transaction<'_>, key: &RequestKey, begun: Begun) -> Result<(), StoreErrorKind> {
    tx.prepare_cached("INSERT INTO request_keys (key, request, run_id, seq) VALUES (?1, ?2, ?3, ?4)")?.execute((
        &key.key,
        &key.request,
        begun.run_id,
        rows::stored(begun.seq),
    ))?;
    prune(tx)
}

/// Removes the oldest keys if there are too many. The newest stays, whatever its length.
fn prune(tx: &Transaction<'_>) -> Result<(), StoreErrorKind> {
    let sql =
        "SELECT id, length(key) + length(request) + coalesce(octet_length(body), 0) FROM request_keys ORDER BY id DESC LIMIT ?1";
    let mut statement = tx.prepare_cached(sql)?;
    let mut keys = statement.query([KEYS_MAX + 1])?;
    let (mut count, mut bytes) = (0, 0);
    while let Some(row) = keys.next()? {
        bytes += row.get::<_, i64>(1)?;
        if count > 0 && (count == KEYS_MAX || bytes > BYTES_MAX) {
            tx.prepare_cached("DELETE FROM request_keys WHERE id <= ?1")?.execute([row.get::<_, i64>(0)?])?;
            break;
        }
        count += 1;
    }
    Ok(())
}

/// Returns the ids of the oldest and the newest key, each 0 if no key is stored.
pub(super) fn oldest_and_newest(conn: &Connection) -> rusqlite::Result<(i64, i64)> {
    let sql = "SELECT coalesce((SELECT min(id) FROM request_keys), 0), coalesce((SELECT max(id) FROM request_keys), 0)";
    conn.query_row(sql, [], |row| Ok((row.get(0)?, row.get(1)?)))
}

impl Store {
    /// Commits a run as `starting`, before anything else of it exists, together with the key of its request. The pipeline must be
    /// stopped and no run alive. The state and the times of the previous run stay until this one is known to run. Returns the
    /// run's id.
    pub fn begin_run(&mut self, new: &NewRun, key: Option<&RequestKey>, at: Timestamp) -> Result<i64, StoreError> {
        self.write(|tx| {
            let run_id = change::begin(tx, None, new, at, Cause::Request)?;
            key.map_or(Ok(()), |key| insert(tx, key, Begun { run_id, seq: 0 }))?;
            Ok(run_id)
        })
    }

    /// Returns what is known about a request by its key; `None` if the key is new.
    pub fn keyed_request(&self, key: &RequestKey) -> Result<Option<KeyedRequest>, StoreError> {
        self.read(|conn| {
            conn.prepare_cached("SELECT request, run_id, seq, status, body FROM request_keys WHERE key = ?1")?
                .query_row([&key.key], |row| {
                    if row.get_ref("request")?.as_str()? != key.request {
                        return Ok(KeyedRequest::Other);
                    }
                    let status: Option<u16> = row.get("status")?;
                    Ok(match status {
                        Some(status) => KeyedRequest::Answered { status, body: row.get("body")? },
                        None => KeyedRequest::Begun(Begun { run_id: row.get("run_id")?, seq: rows::count(row, "seq")? }),
                    })
                })
                .optional()
        })
    }

    /// Stores the key of an action that begins on a live run. Its command must not wait for a slow disk, so the key is not
    /// synced. Only a power cut can lose it, and that ends the run as well. The next fact is synced, and the key with it. The key
    /// does not wait for a lock of another process either; a lock that is held only briefly does not shorten the wait of the next
    /// change.
    pub fn begin_keyed(&mut self, key: &RequestKey, begun: Begun) -> Result<(), StoreError> {
        let patience = self.patience.get();
        self.be_patient_for(Duration::ZERO);
        let done = self.write_unsynced(|tx| insert(tx, key, begun));
        if done.is_err() {
            self.be_patient_for(patience);
        }
        done
    }

    /// Stores the keys that [`Store::begin_keyed`] failed to store. An existing key stays unchanged.
    pub fn begin_keyed_late(&mut self, keys: &[(RequestKey, Begun)]) -> Result<(), StoreError> {
        self.write_unsynced(|tx| {
            for (key, begun) in keys {
                let is_there = tx.prepare_cached("SELECT 1 FROM request_keys WHERE key = ?1")?.exists([&key.key])?;
                if !is_there {
                    insert(tx, key, *begun)?;
                }
            }
            Ok(())
        })
    }

    /// Stores the response to a request, unless one is stored or the key belongs to another request.
    pub fn keep_answer(&mut self, key: &RequestKey, status: u16, body: &str) -> Result<(), StoreError> {
        self.write(|tx| {
            tx.prepare_cached(
                "INSERT INTO request_keys (key, request, status, body) VALUES (?1, ?2, ?3, ?4)
                 ON CONFLICT (key) DO UPDATE SET status = excluded.status, body = excluded.body
                 WHERE status IS NULL AND request = excluded.request",
            )?
            .execute((&key.key, &key.request, status, body))?;
            prune(tx)
        })
    }

    /// Deletes the keys with ids up to this one.
    pub fn forget_request_keys(&mut self, up_to: i64) -> Result<(), StoreError> {
        self.write(|tx| {
            tx.prepare_cached("DELETE FROM request_keys WHERE id <= ?1")?.execute([up_to])?;
            Ok(())
        })
    }

    /// Checks whether an event of this kind was recorded after `begun`, in the same run.
    pub fn has_happened_since(&self, begun: Begun, kind: &str) -> Result<bool, StoreError> {
        self.read(|conn| {
            rows::events_in_order(conn, begun.run_id)?;
            conn.prepare_cached("SELECT 1 FROM pipeline_events WHERE run_id = ?1 AND seq > ?2 AND kind = ?3")?.exists((
                begun.run_id,
                rows::stored(begun.seq),
                kind,
            ))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(name: &str) -> RequestKey {
        RequestKey { key: name.to_owned(), request: "0".repeat(64) }
    }

    fn answered(store: &Store, name: &str) -> Option<u16> {
        match store.keyed_request(&key(name)).expect("read") {
            Some(KeyedRequest::Answered { status, .. }) => Some(status),
            Some(KeyedRequest::Begun(_) | KeyedRequest::Other) | None => None,
        }
    }

    fn ids(store: &Store) -> Vec<String> {
        store.dump("SELECT id || '' FROM request_keys ORDER BY id")
    }

    #[test]
    fn request_key_is_begun_once_and_keeps_its_first_response() {
        let mut store = Store::in_memory();
        assert_eq!(store.keyed_request(&key("a")).expect("read"), None);
        let begun = Begun { run_id: 7, seq: 3 };
        store.begin_keyed(&key("a"), begun).expect("begun");
        assert_eq!(store.keyed_request(&key("a")).expect("read"), Some(KeyedRequest::Begun(begun)));
        assert!(store.begin_keyed(&key("a"), begun).is_err(), "it acts once");
        let other = RequestKey { request: "1".repeat(64), ..key("a") };
        store.keep_answer(&other, 409, "{}").expect("nothing to keep");
        assert_eq!(store.keyed_request(&other).expect("read"), Some(KeyedRequest::Other));
        store.keep_answer(&key("a"), 200, "first").expect("kept");
        store.keep_answer(&key("a"), 409, "second").expect("the first stays");
        let first = KeyedRequest::Answered { status: 200, body: "first".to_owned() };
        assert_eq!(store.keyed_request(&key("a")).expect("read"), Some(first));
        store.keep_answer(&key("b"), 409, "{}").expect("kept, although nothing was begun");
        assert_eq!(answered(&store, "b"), Some(409));
    }

    #[test]
    fn request_keys_are_limited_and_oldest_are_removed_first() {
        let mut store = Store::in_memory();
        for number in 0..KEYS_MAX + 5 {
            store.keep_answer(&key(&number.to_string()), 200, "{}").expect("kept");
        }
        assert_eq!(ids(&store).len(), usize::try_from(KEYS_MAX).expect("few"));
        assert_eq!((answered(&store, "4"), answered(&store, "5")), (None, Some(200)));
        let half = "x".repeat(usize::try_from(BYTES_MAX / 2).expect("small") - 200);
        for name in ["a", "b", "c"] {
            store.keep_answer(&key(name), 200, &half).expect("kept");
        }
        assert_eq!((answered(&store, "a"), answered(&store, "b"), answered(&store, "c")), (None, Some(200), Some(200)));
        store.keep_answer(&key("d"), 200, &half.repeat(3)).expect("kept");
        assert_eq!((answered(&store, "c"), answered(&store, "d")), (None, Some(200)), "the newest is kept whatever its length");
    }

    #[test]
    fn id_of_a_removed_key_is_not_reused() {
        let mut store = Store::in_memory();
        for name in ["a", "b", "c"] {
            store.keep_answer(&key(name), 200, "{}").expect("kept");
        }
        store.forget_request_keys(2).expect("forgotten");
        assert_eq!(ids(&store), ["3"]);
        store.forget_request_keys(3).expect("forgotten, the newest too");
        assert_eq!(answered(&store, "c"), None);
        store.keep_answer(&key("d"), 200, "{}").expect("kept");
        assert_eq!(ids(&store), ["4"]);
    }
}
