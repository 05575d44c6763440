//! The table of login sessions. It holds only digests, from which neither a cookie nor a token can be derived.
//!
//! Only `web/auth` decides which sessions are valid; this file stores them. Each change is one transaction, so if killed here a
//! session exists or does not.

use rusqlite::{Connection, Row};

use super::connection::Store;
use super::error::StoreError;
use crate::api::session::Role;
use crate::clock::Timestamp;

/// A row of `sessions`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SessionRow {
    /// The id used to list and end it. Not secret.
    pub id: String,
    /// The digest of the cookie's secret, 64 hexadecimal digits.
    pub secret: String,
    /// The role of the session.
    pub role: Role,
    /// The fingerprint of its role's token, 64 hexadecimal digits.
    pub made_with: String,
    /// The time at which it began.
    pub created_at: Timestamp,
    /// The time of its last use, accurate to the hour.
    pub used_at: Timestamp,
    /// The time at which it ends unless it is renewed.
    pub expires_at: Timestamp,
    /// The time at which it ends in any case.
    pub ends_at: Timestamp,
    /// The address of the client that began it.
    pub address: String,
    /// The client's `User-Agent`.
    pub user_agent: String,
}

impl SessionRow {
    fn of(row: &Row<'_>) -> rusqlite::Result<Self> {
        Ok(Self {
            id: row.get("id")?,
            secret: row.get("secret")?,
            role: row.get("role")?,
            made_with: row.get("made_with")?,
            created_at: row.get("created_at")?,
            used_at: row.get("used_at")?,
            expires_at: row.get("expires_at")?,
            ends_at: row.get("ends_at")?,
            address: row.get("address")?,
            user_agent: row.get("user_agent")?,
        })
    }
}

impl Store {
    /// Returns every session that was not ended, oldest first. Some may have expired. A row that this version cannot read is
    /// skipped and kept: it must not prevent the server, and so the pipeline, from starting.
    pub fn sessions(&self) -> Result<Vec<SessionRow>, StoreError> {
        self.read(|conn| {
            let mut statement = conn.prepare_cached("SELECT * FROM sessions ORDER BY created_at, id")?;
            let rows = statement.query_map((), |row| Ok((row.get::<_, String>("id"), SessionRow::of(row))))?;
            let mut sessions = Vec::new();
            for row in rows {
                match row? {
                    (_, Ok(session)) => sessions.push(session),
                    (id, Err(error)) => {
                        let id = id.unwrap_or_default();
                        ::log::warn!("session {id:?} in the database cannot be read, so it is ignored: {error}");
                    }
                }
            }
            Ok(sessions)
        })
    }

    /// Begins a session and ends those that make room for it.
    pub fn begin_session(&mut self, new: &SessionRow, ended: &[String]) -> Result<(), StoreError> {
        self.write(|tx| {
            delete(tx, ended)?;
            tx.prepare_cached(
                "INSERT INTO sessions (id, secret, role, made_with, created_at, used_at, expires_at, ends_at, address, user_agent)
                 VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10)",
            )?
            .execute((
                &new.id,
                &new.secret,
                new.role,
                &new.made_with,
                new.created_at,
                new.used_at,
                new.expires_at,
                new.ends_at,
                &new.address,
                &new.user_agent,
            ))?;
            Ok(())
        })
    }

    /// Ends these sessions. Ids that do not exist are ignored.
    pub fn end_sessions(&mut self, ids: &[String]) -> Result<(), StoreError> {
        self.write(|tx| Ok(delete(tx, ids)?))
    }

    /// Ends these sessions, and removes every row that this version cannot read, so that the end of all sessions leaves none to a
    /// later version.
    pub fn end_all_sessions(&mut self, ids: &[String]) -> Result<(), StoreError> {
        self.write(|tx| {
            delete(tx, ids)?;
            // By bytes, because an id may not be readable either. Rows of logins that are being stored now stay.
            let mut all = tx.prepare_cached("SELECT *, CAST(id AS BLOB) AS id_bytes FROM sessions")?;
            let unreadable = all
                .query_map((), |row| Ok((row.get::<_, Vec<u8>>("id_bytes")?, SessionRow::of(row).is_err())))?
                .filter_map(|row| row.map(|(id, is_unreadable)| is_unreadable.then_some(id)).transpose())
                .collect::<Result<Vec<_>, _>>()?;
            let mut one = tx.prepare_cached("DELETE FROM sessions WHERE CAST(id AS BLOB) = ?1")?;
            unreadable.iter().try_for_each(|id| one.execute([id]).map(drop))?;
            Ok(())
        })
    }

    /// Records that a session was used, and extends its expiry, which never moves back: a renewal may have overtaken a note that
    /// was begun before it. Does not restore an ended session.
    pub fn note_session(&mut self, id: &str, used_at: Timestamp, expires_at: Timestamp) -> Result<(), StoreError> {
        self.write(|tx| {
            tx.prepare_cached("UPDATE sessions SET used_at = ?2, expires_at = max(expires_at, ?3) WHERE id = ?1")?
                .execute((id, used_at, expires_at))?;
            Ok(())
        })
    }
}

fn delete(tx: &Connection, ids: &[String]) -> rusqlite::Result<()> {
    let mut statement = tx.prepare_cached("DELETE FROM sessions WHERE id = ?1")?;
    ids.iter().try_for_each(|id| statement.execute([id]).map(drop))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(id: &str) -> SessionRow {
        let at = |ms| Timestamp::from_unix_ms(ms);
        SessionRow {
            id: id.to_owned(),
            secret: "a".repeat(64),
            role: Role::Viewer,
            made_with: "b".repeat(64),
            created_at: at(1000),
            used_at: at(2000),
            expires_at: at(3000),
            ends_at: at(4000),
            address: "192.0.2.1".to_owned(),
            user_agent: "a browser".to_owned(),
        }
    }

    #[test]
    fn session_is_stored_updated_and_ended() {
        let mut store = Store::in_memory();
        store.begin_session(&row("one"), &[]).expect("kept");
        store.begin_session(&row("two"), &["none".to_owned()]).expect("kept");
        assert_eq!(store.sessions().expect("read"), [row("one"), row("two")]);
        assert!(store.begin_session(&row("one"), &[]).is_err(), "an id is one session's");
        let (used_at, expires_at) = (Timestamp::from_unix_ms(2500), Timestamp::from_unix_ms(3500));
        store.note_session("two", used_at, expires_at).expect("noted");
        store.note_session("none", used_at, expires_at).expect("nothing to note");
        assert_eq!(store.sessions().expect("read"), [row("one"), SessionRow { used_at, expires_at, ..row("two") }]);
        assert!(store.note_session("two", used_at, Timestamp::from_unix_ms(4001)).is_err(), "none lasts beyond its end");
        store.begin_session(&row("three"), &["one".to_owned()]).expect("kept");
        store.end_sessions(&["two".to_owned(), "none".to_owned()]).expect("ended");
        assert_eq!(store.sessions().expect("read"), [row("three")]);
    }

    #[test]
    fn unreadable_session_row_is_skipped_and_kept() {
        let mut store = Store::in_memory();
        for id in ["one", "two", "three"] {
            store.begin_session(&row(id), &[]).expect("kept");
        }
        store.execute("UPDATE sessions SET role = 'owner' WHERE id = 'one'");
        store.execute("UPDATE sessions SET created_at = '2026-99-31T10:00:00.000Z' WHERE id = 'two'");
        assert_eq!(store.sessions().expect("the others"), [row("three")]);
        assert!(store.begin_session(&row("one"), &[]).is_err(), "it is still there");
    }

    #[test]
    fn ending_all_sessions_removes_unreadable_rows() {
        let mut store = Store::in_memory();
        for id in ["one", "two", "three", "four"] {
            store.begin_session(&row(id), &[]).expect("kept");
        }
        store.execute("UPDATE sessions SET role = 'owner' WHERE id = 'one'");
        store.execute("UPDATE sessions SET id = CAST(x'ff' AS TEXT) WHERE id = 'two'");
        store.end_all_sessions(&["three".to_owned()]).expect("ended");
        assert_eq!(store.dump("SELECT id FROM sessions"), ["four"], "one that began meanwhile is not among them");
    }

    #[test]
    fn late_session_note_does_not_revert_a_renewal() {
        let mut store = Store::in_memory();
        store.begin_session(&row("one"), &[]).expect("kept");
        let at = Timestamp::from_unix_ms;
        store.note_session("one", at(2500), at(3500)).expect("renewed");
        store.note_session("one", at(2600), at(3000)).expect("noted, with what was read before the renewal");
        let expected = SessionRow { used_at: at(2600), expires_at: at(3500), ..row("one") };
        assert_eq!(store.sessions().expect("read"), [expected]);
    }
}
