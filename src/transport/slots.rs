//! The open connections: what each of them is doing, and which of them give way when there are too many.
//!
//! A connection that waits for its client gives its slot to a new one; the connection that has waited longest is the first. A
//! connection whose request waits, for a change or for its turn, gives way too: it is answered early. A connection whose request
//! is being answered never gives way; if none waits, that response is its last. A request that has arrived unnoticed is still
//! answered, as the last one of its connection. If no other connection gives way, a response of unknown length, such as an event
//! stream, is cut off, unless it is an operator's. Operators keep up to half of the slots, and only their connections beyond that
//! give way: a viewer must not take their connections by sending requests all the time. Only a connection whose client did not
//! receive a response is closed without one. It answers no further request, because its client would not receive that response
//! either.
//!
//! Nothing in this module waits for a slot: a new connection gets one at once or not at all, and `accept` tries again.

mod bodies;
mod giving_way;
mod open_connection;

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::{Duration, Instant};

use rustix::net::Shutdown;

pub(super) use giving_way::Full;
use giving_way::{Order, make_one_leave, make_way_for};
use open_connection::{Activity, Doing, OpenConnection};

use super::limits::{KINDS, Limits, Peer, Rank};
use super::listener::Stream;
use crate::lock::lock;

/// From so many connections on, clients that queue requests are answered in turns.
const CROWD: usize = 32;

/// How long each of these turns is: together, these clients get at most one answer in that time.
const TURN: Duration = Duration::from_millis(1);

/// The connection slots of a server.
#[derive(Default)]
pub(super) struct Slots {
    is_stopping: AtomicBool,
    /// Whether a connection whose thread must be woken has given way.
    is_hurried: AtomicBool,
    open: Mutex<BTreeMap<u64, OpenConnection>>,
    closed: Condvar,
    /// Held by the connection that is being given memory for a body.
    bodies: Mutex<()>,
}

impl Slots {
    pub(super) fn is_stopping(&self) -> bool {
        self.is_stopping.load(Ordering::SeqCst)
    }

    /// Begins to stop. From now on, each response announces that its connection ends.
    pub(super) fn begin_stop(&self) {
        self.is_stopping.store(true, Ordering::SeqCst);
    }

    /// Ends waiting connections, and waits at most for `limit` until the others have ended.
    pub(super) fn stop(&self, limit: Duration) {
        self.begin_stop();
        let deadline = Instant::now() + limit;
        let mut open = lock(&self.open);
        for occupant in open.values().filter(|occupant| matches!(occupant.activity.doing(), Doing::Waits(_) | Doing::Yields(_))) {
            // Data that has arrived can still be read, and is answered. An error means that the connection is already closed.
            let _closed = rustix::net::shutdown(&occupant.stream, Shutdown::Read);
        }
        while !open.is_empty() {
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                break;
            }
            open = self.closed.wait_timeout(open, left).unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    /// Gives a new connection a slot, or reports that all are taken. Never waits.
    pub(super) fn take(self: &Arc<Self>, number: u64, stream: &Arc<Stream>, peer: Peer) -> Result<Slot, Full> {
        if self.is_stopping() {
            return Err(Full { is_passing: false });
        }
        let mut open = lock(&self.open);
        make_way_for(peer, &open, Limits::now(), &self.is_hurried)?;
        let doing = Mutex::new(Doing::Waits(Instant::now()));
        let activity = Arc::new(Activity {
            doing,
            is_operator: AtomicBool::new(false),
            body_bytes: AtomicUsize::new(0),
            is_at_last_answer: AtomicBool::new(false),
        });
        open.insert(number, OpenConnection { stream: stream.clone(), peer, activity: activity.clone() });
        Ok(Slot { number, is_owner: peer == Peer::Owner, slots: self.clone(), activity })
    }

    /// Makes connections give way that have waited for a request for `limit`. Returns the time until the next check, or `None` if
    /// there are no connections, so that the server can sleep.
    pub(super) fn close_idle(&self, now: Instant, limit: Duration) -> Option<Duration> {
        let open = lock(&self.open);
        // A connection that is busy now can begin to wait right after this check, and reaches the limit no earlier than `limit`
        // from now.
        let mut next = (!open.is_empty()).then_some(limit)?;
        for occupant in open.values() {
            let doing = occupant.activity.doing();
            let Doing::Waits(since) = doing else { continue };
            let left = limit.saturating_sub(now.saturating_duration_since(since));
            if left.is_zero() {
                occupant.give_way(doing, &self.is_hurried);
            } else {
                next = next.min(left);
            }
        }
        Some(next)
    }

    /// Returns whether a connection whose thread must be woken has given way since the last call.
    pub(super) fn has_hurried(&self) -> bool {
        self.is_hurried.swap(false, Ordering::SeqCst)
    }

    pub(super) fn make_room(&self) {
        let open = lock(&self.open);
        let limits = Limits::now();
        let order = Order::among(|| open.values(), limits.shared + KINDS * limits.own);
        make_one_leave(|| open.values(), order, &self.is_hurried);
    }
}

/// The handle by which a connection reports what it is doing. Dropping it frees the slot.
pub(super) struct Slot {
    number: u64,
    is_owner: bool,
    slots: Arc<Slots>,
    activity: Arc<Activity>,
}

/// Whether a request that has been read is to be answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Works {
    /// It is to be answered, and others after it.
    On,
    /// It is to be answered. The connection gave way before that was known, and ends with the response.
    ForTheLastTime,
    /// It must not be executed: the connection is closed, and the client would not learn the result.
    NoMore,
}

impl Slot {
    /// Checks whether the client is connected through the owner's Unix socket.
    pub(super) fn is_owner(&self) -> bool {
        self.is_owner
    }

    /// Returns the rank of the client's latest request, which decides whether it gets one of the last places for long requests. A
    /// proxy at the Unix socket can pass on a viewer's requests.
    pub(super) fn rank(&self) -> Rank {
        match (self.is_operator(), self.is_owner) {
            (false, _) => Rank::Viewer,
            (true, false) => Rank::Operator,
            (true, true) => Rank::Owner,
        }
    }

    /// Checks whether the client's latest request came from an operator.
    pub(super) fn is_operator(&self) -> bool {
        self.activity.is_operator()
    }

    /// Returns how long a client that has already sent its next request waits for its turn. The wait grows with the number of connections.
    /// Operators do not wait, and without a crowd no client does. Hundreds of threads that always have a request to answer would otherwise
    /// share the processors with each other, and leave an operator's new connection without an answer for seconds.
    pub(super) fn turn(&self) -> Option<Duration> {
        if self.is_operator() || self.is_stopping() {
            return None;
        }
        let count = lock(&self.slots.open).len();
        (count >= CROWD).then(|| TURN * u32::try_from(count).unwrap_or(u32::MAX))
    }

    /// Records whether the client's latest request comes from an operator.
    pub(super) fn set_operator(&self, is_operator: bool) {
        self.activity.is_operator.store(is_operator, Ordering::Relaxed);
    }

    /// Checks whether the server is stopping, and accepts no further request.
    pub(super) fn is_stopping(&self) -> bool {
        self.slots.is_stopping()
    }

    /// Records that the connection waits for a request. Returns false if it has been closed because its client did not receive a
    /// response.
    pub(super) fn waits(&self) -> bool {
        self.has_no_body();
        // A connection that gives way notices that after it has read what has arrived.
        self.activity.set(Doing::Waits(Instant::now())) != Doing::Leaves
    }

    /// Records that the connection discards what its client sends from now on. Returns false if it has been closed because its
    /// client did not receive a response.
    pub(super) fn yields(&self) -> bool {
        self.has_no_body();
        self.activity.set(Doing::Yields(Instant::now())) != Doing::Leaves
    }

    /// Records that the body of the request is no longer held.
    pub(super) fn has_no_body(&self) {
        self.activity.body_bytes.store(0, Ordering::SeqCst);
    }

    /// Records that a request has been read and is about to be answered.
    pub(super) fn works(&self) -> Works {
        match self.activity.set(Doing::Works) {
            Doing::Waits(_) | Doing::Works | Doing::Writes(_) | Doing::Idles(_) | Doing::Follows(_) | Doing::Yields(_) => {
                Works::On
            }
            Doing::GivesWay => Works::ForTheLastTime,
            Doing::Leaves => Works::NoMore,
        }
    }

    /// Records that the request that is being answered waits, for a change or for its turn.
    pub(super) fn idles(&self) {
        self.activity.set(Doing::Idles(Instant::now()));
    }

    /// Records that the request no longer waits. If the connection has given way meanwhile, that does not change.
    pub(super) fn idles_no_more(&self) {
        let mut doing = lock(&self.activity.doing);
        if matches!(*doing, Doing::Idles(_)) {
            *doing = Doing::Works;
        }
    }

    /// Records that the connection waits for more of a response of unknown length, which began at `since`. Returns false if the
    /// connection has given way.
    pub(super) fn follows(&self, since: Instant) -> bool {
        !self.activity.set(Doing::Follows(since)).gives_way()
    }

    /// Checks whether the next response is the connection's last, because others wait for a slot.
    pub(super) fn is_at_last_answer(&self) -> bool {
        self.activity.is_at_last_answer()
    }

    /// Checks whether the connection has given way, so that the current response is its last.
    pub(super) fn gives_way(&self) -> bool {
        self.activity.doing().gives_way()
    }

    /// Records that the client is to receive a response, or its next piece, from now on, and returns that time. An operator's
    /// response of unknown length keeps its slot meanwhile: on a busy machine, even a client that reads can receive a piece late.
    /// The limit of a write ends a response whose client does not read.
    pub(super) fn writes(&self) -> Instant {
        let now = Instant::now();
        let mut doing = lock(&self.activity.doing);
        let keeps = matches!(*doing, Doing::Follows(_)) && self.is_operator();
        // A connection that has given way notices that when it writes.
        if !keeps && !doing.gives_way() {
            *doing = Doing::Writes(now);
        }
        now
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        lock(&self.slots.open).remove(&self.number);
        self.slots.closed.notify_all();
    }
}

#[cfg(test)]
mod tests;
