//! Login sessions, kept in memory for each request and in the database for the next start of the server.
//!
//! A cookie alone does not authenticate a request. A browser sends it to every port of the host, and so also to other servers
//! there. The proof, in contrast, is in the page's localStorage, which is separate for each port. Both are derived from the
//! session's secret, of which only a digest is stored.
//!
//! A login is stored before it is answered. If killed here, the session is listed but no client has its cookie. A session ends in
//! memory first; if that cannot be stored, the write is retried with each later change.

use std::collections::BTreeSet;
use std::io;
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use rouille::Request;

use super::keys::{Keys, Of};
use super::timed_mutex::TimedMutex;
use crate::api::session::{ListedSession, Role};
use crate::clock::{Timestamp, whole_ms};
use crate::config::Token;
use crate::kill_point::KillPoint;
use crate::lock::lock;
use crate::random;
use crate::store::{SessionRow, Store, StoreError, WorkError, Writer};
use crate::transport::Client;

/// How long a session lasts without renewal.
const LIFETIME: Duration = Duration::from_hours(30 * 24);
/// How long a session lasts at most, however often it is renewed.
const AGE_MAX: Duration = Duration::from_hours(90 * 24);
/// How often a session's last use is stored. Rare, because writing wears out a board's flash memory.
const NOTE_EVERY: Duration = Duration::from_hours(1);
/// The maximum number of sessions for each role. A further session replaces the one that has been unused longest; viewers never
/// replace operators.
const SESSIONS_MAX: usize = 32;
/// The longest stored `User-Agent`, in bytes.
const USER_AGENT_BYTES: usize = 200;
/// How long a login waits for other logins to be stored.
const TURN_MAX: Duration = Duration::from_secs(2);
/// The length of an id in characters, including a dash in the middle.
const ID_LETTERS: usize = 9;

/// A moment on two clocks. A session expires by the wall clock, which can be set. So that setting it back does not extend a
/// session without end, the session also expires when the time that it had left has passed on the boot-time clock.
#[derive(Clone, Copy, Debug)]
pub(super) struct Moment {
    pub(super) wall: Timestamp,
    pub(super) since_boot: Duration,
}

impl Moment {
    /// Returns the value of `Session::lasts_ms` for a session that expires at `expires_at`. If the clock was set back before the
    /// server started, the difference is too large, so it is limited to [`LIFETIME`].
    fn lasts_ms(self, expires_at: Timestamp) -> u64 {
        let left_ms = u64::try_from(expires_at.unix_ms().saturating_sub(self.wall.unix_ms())).unwrap_or(0);
        whole_ms(self.since_boot).saturating_add(left_ms.min(whole_ms(LIFETIME)))
    }
}

/// A session that was begun and not ended. It may have expired.
#[derive(Debug)]
pub(in crate::web) struct Session {
    /// The row as it was begun or loaded. The times that change are in the fields below.
    row: SessionRow,
    used_ms: AtomicI64,
    stored_ms: AtomicI64,
    expires_ms: AtomicI64,
    /// The time at which it expires, on the boot-time clock.
    lasts_ms: AtomicU64,
    /// The value of `Sessions::uses` at its last use. Unlike `used_ms`, this shows which of two sessions was used later even if
    /// the clock was set in between.
    last_use: AtomicU64,
    has_ended: AtomicBool,
}

impl Session {
    fn of(row: SessionRow, now: Moment, last_use: u64) -> Self {
        let (used, expires) = (row.used_at.unix_ms(), row.expires_at.unix_ms());
        Self {
            used_ms: used.into(),
            stored_ms: used.into(),
            expires_ms: expires.into(),
            lasts_ms: now.lasts_ms(row.expires_at).into(),
            last_use: last_use.into(),
            has_ended: AtomicBool::new(false),
            row,
        }
    }

    pub(in crate::web) fn id(&self) -> &str {
        &self.row.id
    }

    pub(in crate::web) fn role(&self) -> Role {
        self.row.role
    }

    pub(in crate::web) fn expires_at(&self) -> Timestamp {
        Timestamp::from_unix_ms(self.expires_ms.load(Ordering::Relaxed))
    }

    fn used_at(&self) -> Timestamp {
        Timestamp::from_unix_ms(self.used_ms.load(Ordering::Relaxed))
    }

    /// Returns the time until it expires by one of the clocks.
    pub(super) fn left(&self, now: Moment) -> Duration {
        let by_wall_ms = self.expires_at().unix_ms().saturating_sub(now.wall.unix_ms());
        let by_boot_ms = self.lasts_ms.load(Ordering::Relaxed).saturating_sub(whole_ms(now.since_boot));
        Duration::from_millis(u64::try_from(by_wall_ms).unwrap_or(0).min(by_boot_ms))
    }

    /// Checks whether it was ended or has expired.
    pub(super) fn is_over(&self, now: Moment) -> bool {
        self.has_ended.load(Ordering::SeqCst) || self.left(now).is_zero()
    }

    /// Checks whether the time that it had left has passed although the wall clock does not show that.
    fn has_outlasted_the_wall_clock(&self, now: Moment) -> bool {
        now.wall < self.expires_at() && self.is_over(now)
    }

    fn last_use(&self) -> u64 {
        self.last_use.load(Ordering::Relaxed)
    }
}

/// The origin of a one-time code. The code becomes invalid when the session that made it is ended, or when all sessions are.
#[derive(Clone, Debug, Default)]
pub(super) struct Grant {
    /// `None` if the code was made with the token, or by a client that needs neither token nor session.
    session: Option<Arc<Session>>,
    /// The value of `Sessions::all_ended` when the code was made.
    all_ended: u64,
}

/// The proofs that a request presents.
#[derive(Clone, Copy, Debug, Default)]
pub(in crate::web) struct Proofs<'r> {
    /// From the header field of the page's own requests.
    pub(in crate::web) field: Option<&'r str>,
    /// From the query of a link to a log. Set only for routes that links can point to.
    pub(in crate::web) link: Option<&'r str>,
}

/// The result of a login.
pub(in crate::web) struct Begun {
    pub(in crate::web) role: Role,
    pub(in crate::web) set_cookie: String,
    pub(in crate::web) proof: String,
    pub(in crate::web) download_proof: String,
}

/// A client that logs in.
#[derive(Clone, Debug)]
pub(super) struct Newcomer<'a> {
    pub(super) role: Role,
    pub(super) address: String,
    pub(super) user_agent: &'a str,
    /// The session of the same browser, which the new session replaces.
    pub(super) replaced: Option<Arc<Session>>,
    /// The grant of the one-time code, if the client logs in with one.
    pub(super) grant: Option<Grant>,
}

pub(super) struct Sessions {
    /// The fingerprints of the tokens.
    acts: String,
    looks: String,
    live: Mutex<Vec<Arc<Session>>>,
    /// How often all sessions were ended. Incremented before they are ended, so that a session added at the same time is either
    /// ended too or not added.
    all_ended: AtomicU64,
    /// How often a session was used or begun, in this process.
    uses: AtomicU64,
    /// The ids of sessions that have ended but are still stored.
    unrecorded: Mutex<BTreeSet<String>>,
    writer: Writer,
    /// The owner's actions queue behind database writes. So each role stores one login at a time, and operators do not wait for
    /// viewers.
    operators: TimedMutex,
    viewers: TimedMutex,
    /// Called when a session has ended, so that threads waiting on behalf of its client check it.
    wake: Box<dyn Fn() + Send + Sync>,
}

impl Sessions {
    /// Loads the stored sessions. Ends those that were made with another token or have expired.
    pub(super) fn load(
        keys: &Keys,
        tokens: (&Token, &Token),
        now: Moment,
        writer: Writer,
        wake: Box<dyn Fn() + Send + Sync>,
    ) -> Result<Self, WorkError> {
        let [acts, looks] = [tokens.0, tokens.1].map(|token| keys.digest(Of::Token, token.expose()));
        let rows = writer.write(|store| store.sessions())?.into_iter().map(limited);
        let this = Self {
            acts,
            looks,
            live: Mutex::default(),
            all_ended: AtomicU64::new(0),
            uses: AtomicU64::new(0),
            unrecorded: Mutex::default(),
            writer,
            operators: TimedMutex::default(),
            viewers: TimedMutex::default(),
            wake,
        };
        let (mut kept, ended): (Vec<_>, Vec<_>) =
            rows.partition(|row| row.made_with == this.made_with(row.role) && now.wall < row.expires_at);
        kept.sort_by_key(|row| row.used_at);
        *lock(&this.live) = kept.into_iter().map(|row| Arc::new(Session::of(row, now, this.next_use()))).collect();
        lock(&this.unrecorded).extend(ended.into_iter().map(|row| row.id));
        for role in Role::ALL {
            let ended = this.too_many(*role, SESSIONS_MAX, &[]);
            this.end_in_memory(|session| ended.contains(&session.row.id));
            lock(&this.unrecorded).extend(ended);
        }
        if let Err(error) = this.record_ends() {
            // These sessions are not accepted. Their rows are removed with the next change that is stored.
            ::log::warn!("sessions that have ended are still stored: failed to {error}");
        }
        Ok(this)
    }

    /// Returns the number of the next use; the first is 1.
    fn next_use(&self) -> u64 {
        self.uses.fetch_add(1, Ordering::Relaxed) + 1
    }

    fn made_with(&self, role: Role) -> &str {
        match role {
            Role::Operator => &self.acts,
            Role::Viewer => &self.looks,
        }
    }

    /// Returns the session that a request presents with a cookie and the matching proof.
    pub(super) fn of(&self, keys: &Keys, request: &Request, proofs: Proofs<'_>, now: Moment) -> Option<Arc<Session>> {
        if proofs.field.is_none() && proofs.link.is_none() {
            return None;
        }
        keys.cookies(request).find_map(|value| {
            let (id, secret) = value.split_once('.')?;
            let session = lock(&self.live).iter().find(|session| session.row.id == id).cloned()?;
            if session.has_outlasted_the_wall_clock(now) {
                self.end_unasked(id);
            }
            let holds = !session.is_over(now)
                && keys.is(Of::Secret, secret, &session.row.secret)
                && (proofs.field.is_some_and(|proof| keys.is(Of::Proof, value, proof))
                    || proofs.link.is_some_and(|proof| keys.is(Of::DownloadProof, value, proof)));
            holds.then_some(session)
        })
    }

    /// Returns the grant for a code that this session makes now.
    pub(super) fn grant(&self, session: Option<Arc<Session>>) -> Grant {
        Grant { session, all_ended: self.all_ended.load(Ordering::SeqCst) }
    }

    /// Checks that the grant has not been revoked.
    pub(super) fn holds(&self, grant: &Grant) -> bool {
        grant.all_ended == self.all_ended.load(Ordering::SeqCst)
            && grant.session.as_ref().is_none_or(|session| !session.has_ended.load(Ordering::SeqCst))
    }

    /// Wakes the logins that wait for their turn, because a connection gives way.
    pub(super) fn hurry(&self) {
        self.operators.hurry();
        self.viewers.hurry();
    }

    /// Begins a session, and returns once it is stored. While the client waits for its turn, its connection gives way to new
    /// ones.
    pub(super) fn begin(&self, keys: &Keys, who: &Newcomer<'_>, client: &Client<'_>, now: Moment) -> Result<Begun, BeginError> {
        let turnstile = match who.role {
            Role::Operator => &self.operators,
            Role::Viewer => &self.viewers,
        };
        let _passage = client.idle(|| turnstile.enter(TURN_MAX, &|| client.gives_way())).ok_or(BeginError::Busy)?;
        let text = || random::bytes().map(|bytes| Token::made_of(bytes).expose().to_owned());
        let (id, secret) = (text()?[..ID_LETTERS].to_owned(), text()?);
        let row = SessionRow {
            secret: keys.digest(Of::Secret, &secret),
            role: who.role,
            made_with: self.made_with(who.role).to_owned(),
            created_at: now.wall,
            used_at: now.wall,
            expires_at: now.wall.after(LIFETIME),
            ends_at: now.wall.after(AGE_MAX),
            address: who.address.clone(),
            user_agent: printable(who.user_agent),
            id: id.clone(),
        };
        let mut ended: Vec<String> = lock(&self.unrecorded).iter().cloned().collect();
        ended.extend(who.replaced.iter().map(|session| session.row.id.clone()));
        ended.extend(lock(&self.live).iter().filter(|session| session.is_over(now)).map(|session| session.row.id.clone()));
        // Chosen before the write, so that a login is one transaction.
        ended.extend(self.too_many(who.role, SESSIONS_MAX - 1, &ended));
        let (new, old) = (row.clone(), ended.clone());
        self.writer.write(move |store| {
            KillPoint::ServerLogInHeard.reach();
            store.begin_session(&new, &old)
        })?;
        KillPoint::ServerLogInCommitted.reach();
        lock(&self.unrecorded).retain(|id| !ended.contains(id));
        if !self.add(Session::of(row, now, self.next_use()), who.grant.as_ref()) {
            lock(&self.unrecorded).insert(id);
            // No client has this session's cookie. If the row cannot be removed now, it is removed with the next change that is
            // stored.
            let _tried_again = self.record_ends();
            return Err(BeginError::TakenBack);
        }
        self.end_in_memory(|session| ended.contains(&session.row.id));
        let value = format!("{id}.{secret}");
        Ok(Begun {
            role: who.role,
            set_cookie: keys.set_cookie(&value, LIFETIME.as_secs()),
            proof: keys.digest(Of::Proof, &value),
            download_proof: keys.digest(Of::DownloadProof, &value),
        })
    }

    /// Adds a session, unless its code was revoked while the session was being stored. Returns whether it was added.
    fn add(&self, session: Session, grant: Option<&Grant>) -> bool {
        let mut live = lock(&self.live);
        let may = grant.is_none_or(|grant| self.holds(grant));
        if may {
            live.push(Arc::new(session));
        }
        may
    }

    /// Returns the ids of a role's sessions in excess of `max`, the longest unused ones, not counting those in `ended`.
    fn too_many(&self, role: Role, max: usize, ended: &[String]) -> Vec<String> {
        let mut of_role: Vec<_> = lock(&self.live)
            .iter()
            .filter(|session| session.row.role == role && !ended.contains(&session.row.id))
            .cloned()
            .collect();
        of_role.sort_by_key(|session| std::cmp::Reverse(session.last_use()));
        of_role.into_iter().skip(max).map(|session| session.row.id.clone()).collect()
    }

    /// Records that a session is used, and stores that at most once in [`NOTE_EVERY`].
    pub(super) fn note_use(&self, session: &Session, now: Moment) {
        let (now_ms, note_every) = (now.wall.unix_ms(), i64::try_from(NOTE_EVERY.as_millis()).unwrap_or(i64::MAX));
        session.used_ms.store(now_ms, Ordering::Relaxed);
        session.last_use.store(self.next_use(), Ordering::Relaxed);
        let stored_ms = session.stored_ms.load(Ordering::Relaxed);
        // The difference is absolute, so a clock that was set back is stored as well.
        let is_due = now_ms.abs_diff(stored_ms) >= note_every.unsigned_abs();
        if is_due && session.stored_ms.compare_exchange(stored_ms, now_ms, Ordering::Relaxed, Ordering::Relaxed).is_ok() {
            let (id, expires_at) = (session.row.id.clone(), session.expires_at());
            // The result is not awaited: if the write fails, it is repeated an hour later.
            let _nobody_waits = self.writer.begin(move |store| store.note_session(&id, now.wall, expires_at));
        }
    }

    /// Returns a cookie that extends the session in the browser once half of its lifetime has passed. Returns `None` before that,
    /// at the session's maximum age, or if the extension cannot be stored.
    pub(super) fn renew(&self, keys: &Keys, request: &Request, session: &Session, now: Moment) -> Option<String> {
        let expires_at = now.wall.after(LIFETIME).min(session.row.ends_at);
        let is_half_over = now.wall.after(LIFETIME / 2) > session.expires_at();
        if !is_half_over || expires_at <= session.expires_at() {
            return None;
        }
        let value = keys.cookies(request).find(|value| {
            value
                .split_once('.')
                .is_some_and(|(id, secret)| id == session.row.id && keys.is(Of::Secret, secret, &session.row.secret))
        })?;
        let id = session.row.id.clone();
        let stored = self.writer.write(move |store| {
            KillPoint::ServerRenewalHeard.reach();
            store.note_session(&id, now.wall, expires_at)
        });
        if let Err(error) = stored {
            ::log::warn!("a session was not renewed: failed to {error}");
            return None;
        }
        KillPoint::ServerRenewalCommitted.reach();
        session.expires_ms.store(expires_at.unix_ms(), Ordering::Relaxed);
        session.lasts_ms.store(now.lasts_ms(expires_at), Ordering::Relaxed);
        session.stored_ms.store(now.wall.unix_ms(), Ordering::Relaxed);
        let lifetime_ms = expires_at.unix_ms().saturating_sub(now.wall.unix_ms());
        Some(keys.set_cookie(value, u64::try_from(lifetime_ms / 1000).unwrap_or(0)))
    }

    /// Ends the session with this id, or all sessions, at once, and revokes the codes they made. Returns how many ended. On an
    /// error they have ended but are still stored.
    pub(super) fn end(&self, id: Option<&str>) -> Result<usize, WorkError> {
        if id.is_none() {
            self.all_ended.fetch_add(1, Ordering::SeqCst);
        }
        let ended = self.end_in_memory(|session| id.is_none_or(|id| session.id() == id));
        let count = ended.len();
        lock(&self.unrecorded).extend(ended);
        if id.is_none() {
            KillPoint::ServerEndAllHeard.reach();
            self.record(Store::end_all_sessions)?;
            KillPoint::ServerEndAllCommitted.reach();
        } else {
            KillPoint::ServerLogOutHeard.reach();
            self.record_ends()?;
            KillPoint::ServerLogOutCommitted.reach();
        }
        Ok(count)
    }

    /// Removes ended sessions from the database.
    pub(super) fn record_ends(&self) -> Result<(), WorkError> {
        if lock(&self.unrecorded).is_empty() {
            return Ok(());
        }
        self.record(Store::end_sessions)
    }

    /// Removes ended sessions from the database with `remove`, which gets their ids.
    fn record(
        &self,
        remove: impl FnOnce(&mut Store, &[String]) -> Result<(), StoreError> + Send + 'static,
    ) -> Result<(), WorkError> {
        let ids: Vec<String> = lock(&self.unrecorded).iter().cloned().collect();
        let removed = ids.clone();
        self.writer.write(move |store| remove(store, &removed))?;
        lock(&self.unrecorded).retain(|id| !ids.contains(id));
        Ok(())
    }

    /// Ends a session that the next server would take for a valid one, because the clock was set back.
    fn end_unasked(&self, id: &str) {
        let ended = self.end_in_memory(|session| session.row.id == id);
        lock(&self.unrecorded).extend(ended.iter().cloned());
        // The result is not awaited: if the write fails, the row is removed with the next change that is stored.
        let _nobody_waits = self.writer.begin(move |store| store.end_sessions(&ended));
    }

    fn end_in_memory(&self, is_chosen: impl Fn(&Session) -> bool) -> Vec<String> {
        let ended: Vec<Arc<Session>> = lock(&self.live).extract_if(.., |session| is_chosen(session)).collect();
        for session in &ended {
            session.has_ended.store(true, Ordering::SeqCst);
        }
        if !ended.is_empty() {
            (self.wake)();
        }
        ended.iter().map(|session| session.row.id.clone()).collect()
    }

    /// Lists every valid session, most recently used first.
    pub(super) fn list(&self, own: Option<&str>, now: Moment) -> Vec<ListedSession> {
        let mut live: Vec<Arc<Session>> = lock(&self.live).iter().filter(|session| !session.is_over(now)).cloned().collect();
        live.sort_by_key(|session| std::cmp::Reverse(session.last_use()));
        let listed = |session: &Arc<Session>| ListedSession {
            id: session.row.id.clone(),
            may: session.row.role,
            created_at: session.row.created_at,
            used_at: session.used_at(),
            expires_at: session.expires_at(),
            ends_at: session.row.ends_at,
            address: session.row.address.clone(),
            user_agent: session.row.user_agent.clone(),
            is_own: own == Some(session.id()),
        };
        live.iter().map(listed).collect()
    }
}

/// Limits a stored session to the times that a login and its renewals can have given it, in case the row was changed. The limits
/// follow from the row's own times, not from the wall clock: a board without a battery starts with a clock that is years behind,
/// which must end no session.
fn limited(row: SessionRow) -> SessionRow {
    let ends_at = row.ends_at.min(row.created_at.after(AGE_MAX));
    let expires_at = row.expires_at.min(row.created_at.max(row.used_at).after(LIFETIME)).min(ends_at);
    SessionRow { expires_at, ends_at, ..row }
}

/// The reason why a session was not begun. No session remains.
#[derive(Debug, thiserror::Error)]
pub(super) enum BeginError {
    #[error(transparent)]
    Store(#[from] WorkError),
    #[error("other log-ins are being stored")]
    Busy,
    #[error("the one-time code was taken back")]
    TakenBack,
    #[error("get random bytes: {0}")]
    Random(#[from] io::Error),
}

/// Returns a client's `User-Agent` as printable ASCII for a terminal, cut to [`USER_AGENT_BYTES`].
fn printable(user_agent: &str) -> String {
    let readable = user_agent.chars().map(|letter| if letter.is_ascii_graphic() || letter == ' ' { letter } else { '?' });
    readable.take(USER_AGENT_BYTES).collect()
}
