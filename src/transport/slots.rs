//! Who is connected, what each of them does, and who gives way when there are too many.
//!
//! A connection that waits for its client gives its slot to a new one, the one that has waited longest first, and so does a connection whose
//! request waits, for news or for its turn: it is answered early. A connection whose request is being answered never does; if none waits,
//! that answer is its last. If a request had arrived unseen even so, it is answered, as the last one of its connection. Where no other connection gives way, an answer without an end
//! breaks off, unless it is an operator's. Operators keep up to half of the slots, and only what they have beyond that gives way: a
//! viewer must not take their connections by asking all the time. Only a connection whose client did not take an answer is closed without a
//! word, and does nothing more: its client would not receive it.
//!
//! Nothing here waits for a slot: a new connection gets one at once or not at all, and `accept` tries again.

mod bodies;
mod giving_way;
mod occupant;

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::{Duration, Instant};

use rustix::net::Shutdown;

pub(super) use giving_way::Full;
use giving_way::{Order, make_one_leave, make_way_for};
use occupant::{Activity, Doing, Occupant};

use super::limits::{KINDS, Limits, Peer, Rank};
use super::listener::Stream;
use crate::lock::lock;

/// The connection slots of a server.
#[derive(Default)]
pub(super) struct Slots {
    is_stopping: AtomicBool,
    /// A connection whose thread must be woken gave way.
    is_hurried: AtomicBool,
    open: Mutex<BTreeMap<u64, Occupant>>,
    closed: Condvar,
    /// Held by the one that is given memory for a body.
    bodies: Mutex<()>,
}

impl Slots {
    pub(super) fn is_stopping(&self) -> bool {
        self.is_stopping.load(Ordering::SeqCst)
    }

    /// From here on every answer says that it is its connection's last.
    pub(super) fn begin_stop(&self) {
        self.is_stopping.store(true, Ordering::SeqCst);
    }

    /// Lets go who waits, and gives what is being answered until `limit` to end.
    pub(super) fn stop(&self, limit: Duration) {
        self.begin_stop();
        let deadline = Instant::now() + limit;
        let mut open = lock(&self.open);
        for occupant in open.values().filter(|occupant| matches!(occupant.activity.doing(), Doing::Waits(_) | Doing::Yields(_))) {
            // Data that has arrived can still be read, and is answered. An error means that the connection is closed already.
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
        open.insert(number, Occupant { stream: stream.clone(), peer, activity: activity.clone() });
        Ok(Slot { number, is_owner: peer == Peer::Owner, slots: self.clone(), activity })
    }

    /// Has those give way that have waited for a request for `limit`. After what time to look again; `None` where nobody is connected: the
    /// server sleeps.
    pub(super) fn close_idle(&self, now: Instant, limit: Duration) -> Option<Duration> {
        let open = lock(&self.open);
        // Who is busy now can begin to wait right after this look, and is due a limit after that.
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

    /// Whether a connection gave way since the last call whose thread must be woken.
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

/// A connection's own view of its slot: says what it does. The slot is free once this is dropped.
pub(super) struct Slot {
    number: u64,
    is_owner: bool,
    slots: Arc<Slots>,
    activity: Arc<Activity>,
}

/// Whether a request that has been read is answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Works {
    /// It is, and others after it.
    On,
    /// It is. The connection gave way before that was known, and ends with the answer.
    ForTheLastTime,
    /// It must not be done: the connection is closed, and nobody would hear of it.
    NoMore,
}

impl Slot {
    /// True if the client is connected through the owner's Unix socket.
    pub(super) fn is_owner(&self) -> bool {
        self.is_owner
    }

    /// Which places its latest request gets where they are few. A proxy at the Unix socket can pass on a viewer's requests.
    pub(super) fn rank(&self) -> Rank {
        match (self.is_operator(), self.is_owner) {
            (false, _) => Rank::Viewer,
            (true, false) => Rank::Operator,
            (true, true) => Rank::Owner,
        }
    }

    /// True if the client's latest request came from an operator.
    pub(super) fn is_operator(&self) -> bool {
        self.activity.is_operator()
    }

    /// The client's latest request comes from an operator, or does not.
    pub(super) fn set_operator(&self, is_operator: bool) {
        self.activity.is_operator.store(is_operator, Ordering::Relaxed);
    }

    /// Whether no further request is taken.
    pub(super) fn is_stopping(&self) -> bool {
        self.slots.is_stopping()
    }

    /// The client is to ask. False where the connection has been closed, since its client took no answer.
    pub(super) fn waits(&self) -> bool {
        self.has_no_body();
        // One that gives way finds out when it has read what has come.
        self.activity.set(Doing::Waits(Instant::now())) != Doing::Leaves
    }

    /// What its client sends is discarded from now on. False where the connection has been closed, since its client took no answer.
    pub(super) fn yields(&self) -> bool {
        self.has_no_body();
        self.activity.set(Doing::Yields(Instant::now())) != Doing::Leaves
    }

    /// The request's body is no longer held.
    pub(super) fn has_no_body(&self) {
        self.activity.body_bytes.store(0, Ordering::SeqCst);
    }

    /// A request has been read and is to be answered.
    pub(super) fn works(&self) -> Works {
        match self.activity.set(Doing::Works) {
            Doing::Waits(_) | Doing::Works | Doing::Writes(_) | Doing::Idles(_) | Doing::Follows(_) | Doing::Yields(_) => {
                Works::On
            }
            Doing::GivesWay => Works::ForTheLastTime,
            Doing::Leaves => Works::NoMore,
        }
    }

    /// The request that is being answered waits, for news or for its turn.
    pub(super) fn idles(&self) {
        self.activity.set(Doing::Idles(Instant::now()));
    }

    /// It no longer waits. If it gave way meanwhile, that stays so.
    pub(super) fn idles_no_more(&self) {
        let mut doing = lock(&self.activity.doing);
        if matches!(*doing, Doing::Idles(_)) {
            *doing = Doing::Works;
        }
    }

    /// More is to be sent of an answer without an end, which began at `since`. False if the connection gave way.
    pub(super) fn follows(&self, since: Instant) -> bool {
        !self.activity.set(Doing::Follows(since)).gives_way()
    }

    /// Whether the answer that is to begin is its last, because others wait for a slot.
    pub(super) fn is_at_last_answer(&self) -> bool {
        self.activity.is_at_last_answer()
    }

    /// Whether it gave way: what is being answered is its last.
    pub(super) fn gives_way(&self) -> bool {
        self.activity.doing().gives_way()
    }

    /// The client is to take an answer, or its next piece, from now on. An operator's answer without an end keeps its slot meanwhile, too: on a
    /// busy machine even a client that reads can take a piece late. The limit of a write ends one that does not.
    pub(super) fn writes(&self) -> Instant {
        let now = Instant::now();
        let mut doing = lock(&self.activity.doing);
        let keeps = matches!(*doing, Doing::Follows(_)) && self.is_operator();
        // One that has given way finds out when it writes.
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
