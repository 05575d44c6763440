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

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::{Duration, Instant};

use rustix::io::ioctl_fionread;
use rustix::net::Shutdown;

use super::limits::{KINDS, Limits, ONE_MORE_IN, Peer, Rank};
use super::listener::Stream;
use crate::lock::lock;

/// How long a client that is to take an answer is not suspected of not taking it. The answer may be out all but one system call, whose
/// thread does not run just now; to be cut off there would hide what was done.
const WRITE_PATIENCE: Duration = Duration::from_millis(100);

/// How long a request that waits keeps its slot at least. A client whose wait ends early asks again at once, and would then displace another
/// one.
const NEWS_PATIENCE: Duration = Duration::from_secs(1);

/// Operators keep up to one in this many slots, even while they ask nothing. With few slots that must still suffice for a page in a browser,
/// which uses several connections.
const KEPT_IN: usize = 2;

/// One in this many slots, at least [`SPARE_MIN`], is left for new connections: where fewer are left, whoever is no operator has
/// [`CROWDED_PATIENCE`], for only a connection that has been read can turn out to be an operator's.
const SPARE_IN: usize = 8;
const SPARE_MIN: usize = 2;

/// How long a request that waits, or a client that takes no answer, keeps its slot while few are left for new connections, unless it is an operator's.
const CROWDED_PATIENCE: Duration = Duration::from_millis(10);

/// There is no slot for a new connection now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Full {
    /// Some connections end, or can be ended, as soon as their threads have run, so a slot becomes free soon.
    pub(super) is_passing: bool,
}

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

/// An open connection as others see it.
struct Occupant {
    stream: Arc<Stream>,
    peer: Peer,
    activity: Arc<Activity>,
}

/// What a connection does, and what it holds.
struct Activity {
    doing: Mutex<Doing>,
    /// Its latest request came from an operator.
    is_operator: AtomicBool,
    /// How long the body is that is read or answered, in bytes.
    body_bytes: AtomicUsize,
    /// The next answer that begins is its last, because others wait for a slot.
    is_at_last_answer: AtomicBool,
}

/// What a connection does, and since when, where that matters.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Doing {
    /// It waits for its client to ask.
    Waits(Instant),
    /// Its request is being answered.
    Works,
    /// It waits for its client to take an answer.
    Writes(Instant),
    /// It gave way while it waited, and its thread has not noticed yet: no more comes in. What had come is answered.
    GivesWay,
    /// It gave way while its client took no answer: nothing goes out any more.
    Leaves,
    /// Its request waits, for news or for its turn, and can be answered at any time with the unchanged state or a refusal.
    Idles(Instant),
    /// It sends an answer without an end since then, and waits for more to send.
    Follows(Instant),
    /// It waits for memory for a body, or discards what follows its last answer. It gives way even if more has come from its client.
    Yields(Instant),
}

impl Doing {
    fn gives_way(self) -> bool {
        matches!(self, Self::GivesWay | Self::Leaves)
    }
}

impl Activity {
    fn is_operator(&self) -> bool {
        self.is_operator.load(Ordering::Relaxed)
    }

    fn doing(&self) -> Doing {
        *lock(&self.doing)
    }

    fn is_at_last_answer(&self) -> bool {
        self.is_at_last_answer.load(Ordering::Relaxed)
    }

    /// What it did before. One that has given way stays so, with the exception of one that [`Doing::GivesWay`] and begins to work.
    fn set(&self, new: Doing) -> Doing {
        let mut doing = lock(&self.doing);
        let before = *doing;
        let stays = match before {
            Doing::Waits(_) | Doing::Works | Doing::Writes(_) | Doing::Idles(_) | Doing::Follows(_) | Doing::Yields(_) => false,
            Doing::GivesWay => new != Doing::Works,
            Doing::Leaves => true,
        };
        if !stays {
            *doing = new;
        }
        before
    }
}

impl Occupant {
    /// Its client has left, and its thread has nothing else to do than to notice that.
    fn ends(&self) -> bool {
        matches!(self.activity.doing(), Doing::Waits(_) | Doing::Yields(_)) && self.stream.is_left()
    }

    /// Bytes from its client wait to be read.
    fn has_unread(&self) -> bool {
        ioctl_fionread(&*self.stream).is_ok_and(|bytes| bytes > 0)
    }

    /// Ends the connection, if it still does what was `seen`. Its thread wakes up from reading or writing and ends; one that
    /// waits for something else must be woken ([`Slots::has_hurried`]).
    fn give_way(&self, seen: Doing, is_hurried: &AtomicBool) {
        // What came since it was looked at, or was read already, is answered.
        let (new, how) = match seen {
            Doing::Waits(_) | Doing::Idles(_) | Doing::Follows(_) | Doing::Yields(_) => (Doing::GivesWay, Shutdown::Read),
            Doing::Works | Doing::Writes(_) | Doing::GivesWay | Doing::Leaves => (Doing::Leaves, Shutdown::Both),
        };
        let mut doing = lock(&self.activity.doing);
        if *doing != seen {
            return;
        }
        *doing = new;
        drop(doing);
        // If the client has closed the connection meanwhile, nothing is left to do.
        let _closed = rustix::net::shutdown(&self.stream, how);
        if matches!(seen, Doing::Idles(_) | Doing::Follows(_)) {
            is_hurried.store(true, Ordering::SeqCst);
        }
    }
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

/// Which connections of a group may be asked to give way.
#[derive(Clone, Copy, Debug)]
struct Order {
    /// Operators keep theirs, because they have no more than their part of the slots.
    keeps_operators: bool,
    /// The connections that are not an operator's must become free soon: too few are left for new ones, which may be an operator's.
    is_crowded: bool,
}

impl Order {
    /// All connections are treated alike.
    const EQUAL: Self = Self { keeps_operators: false, is_crowded: false };

    fn among<'a, I: Iterator<Item = &'a Occupant>>(occupants: impl Fn() -> I, slots: usize) -> Self {
        // Without those that have given way: else more would follow than the surplus.
        let is_operators = |occupant: &&Occupant| occupant.activity.is_operator() && !occupant.activity.doing().gives_way();
        let mut operators = occupants().filter(is_operators).count();
        let part = slots / KEPT_IN;
        if operators > part {
            // Without those that end as soon as their threads run, too. On a busy machine a few of them take up the part of a small server.
            operators = occupants().filter(is_operators).filter(|occupant| !occupant.ends()).count();
        }
        let kept = operators.min(part);
        let is_busy = |occupant: &&Occupant| {
            let doing = occupant.activity.doing();
            let is_busy = matches!(doing, Doing::Works | Doing::Writes(_) | Doing::Idles(_) | Doing::Follows(_));
            is_busy && !occupant.activity.is_operator()
        };
        let is_crowded = occupants().filter(is_busy).count() + kept + (slots / SPARE_IN).max(SPARE_MIN) > slots;
        Self { keeps_operators: operators == kept, is_crowded }
    }

    fn is_kept(self, occupant: &Occupant) -> bool {
        self.keeps_operators && occupant.activity.is_operator()
    }

    fn hurries(self, occupant: &Occupant) -> bool {
        self.is_crowded && !occupant.activity.is_operator()
    }
}

/// Makes room for one more. Those that gave way, and those whose request has come but not been read, are there until their threads have run.
fn make_way_for(peer: Peer, open: &BTreeMap<u64, Occupant>, limits: Limits, is_hurried: &AtomicBool) -> Result<(), Full> {
    // The usual case: not even one address has all that it may have.
    if open.len() < limits.of_one_address.min(limits.shared) {
        return Ok(());
    }
    if let Peer::Remote(_) = peer {
        let of_this_address = || open.values().filter(|occupant| occupant.peer == peer);
        make_way(of_this_address, of_this_address().count(), limits.of_one_address, is_hurried)?;
    }
    let mut counts = [0; KINDS];
    for occupant in open.values() {
        counts[occupant.peer.kind()] += 1;
    }
    if counts[peer.kind()] < limits.own {
        return Ok(());
    }
    let shared = counts.iter().map(|count: &usize| count.saturating_sub(limits.own)).sum();
    // A kind that has no more than its own slots gives none of them up.
    let has_shared = || open.values().filter(|occupant| counts[occupant.peer.kind()] > limits.own);
    make_way(has_shared, shared, limits.shared, is_hurried)
}

/// Makes one of these give way if there are `limit` or more. Admits one more while the excess over `limit` is below one in [`ONE_MORE_IN`].
fn make_way<'a, I: Iterator<Item = &'a Occupant>>(
    occupants: impl Fn() -> I,
    count: usize,
    limit: usize,
    is_hurried: &AtomicBool,
) -> Result<(), Full> {
    if count < limit {
        return Ok(());
    }
    // The slots that a kind has of its own are not counted.
    let order = Order::among(&occupants, limit + occupants().count() - count);
    let is_leaving = |occupant: &&Occupant| match occupant.activity.doing() {
        Doing::GivesWay | Doing::Leaves => true,
        Doing::Works => occupant.activity.is_at_last_answer(),
        // Without unread bytes it may wait for the rest of a request, and can give way instead.
        Doing::Waits(_) => occupant.activity.is_at_last_answer() && occupant.has_unread(),
        // Its last answer can go on for hours.
        Doing::Writes(_) | Doing::Idles(_) | Doing::Follows(_) | Doing::Yields(_) => false,
    };
    let leaving = occupants().filter(is_leaving).count();
    if leaving <= count - limit {
        make_one_leave(&occupants, order, is_hurried);
    }
    if count < limit + (limit / ONE_MORE_IN).max(1) {
        return Ok(());
    }
    // One that waits and cannot give way has a request that lies there unread. One whose request is being answered waits after that.
    let leaves_soon = |occupant: &Occupant| match occupant.activity.doing() {
        Doing::Waits(_) | Doing::Yields(_) => !order.is_kept(occupant),
        Doing::Writes(_) | Doing::Idles(_) | Doing::Follows(_) => order.hurries(occupant),
        Doing::Works => true,
        Doing::GivesWay | Doing::Leaves => false,
    };
    Err(Full { is_passing: occupants().any(|occupant| is_leaving(&occupant) || leaves_soon(occupant)) })
}

/// Has the connection that has waited for longest give way. If none waits, the oldest one gets no more than one further answer: otherwise
/// clients that always have another request under way would keep their slots for ever.
fn make_one_leave<'a, I: Iterator<Item = &'a Occupant>>(occupants: impl Fn() -> I, order: Order, is_hurried: &AtomicBool) {
    if let Some((seen, occupant)) = waits_longest(occupants(), order) {
        occupant.give_way(seen, is_hurried);
        return;
    }
    let goes_on = |occupant: &&Occupant| {
        let is_busy = matches!(occupant.activity.doing(), Doing::Works | Doing::Waits(_));
        is_busy && !order.is_kept(occupant) && !occupant.activity.is_at_last_answer()
    };
    if let Some(occupant) = occupants().find(goes_on) {
        occupant.activity.is_at_last_answer.store(true, Ordering::Relaxed);
    }
}

/// The connection that has waited for longest, and what it does; answers without an end come last. If the next request of a client that
/// is waited for lies there unread, its thread has not run yet. Behind a request that is being answered, it keeps no slot.
fn waits_longest<'a>(occupants: impl Iterator<Item = &'a Occupant>, order: Order) -> Option<(Doing, &'a Occupant)> {
    let mut waiting: Vec<_> = occupants
        .filter(|occupant| !order.is_kept(occupant))
        .filter_map(|occupant| {
            let doing = occupant.activity.doing();
            let (since, patience) = match doing {
                Doing::Waits(since) | Doing::Yields(since) => (since, Duration::ZERO),
                Doing::Writes(since) => (since, WRITE_PATIENCE),
                Doing::Idles(since) => (since, NEWS_PATIENCE),
                Doing::Follows(since) if !occupant.activity.is_operator() => (since, NEWS_PATIENCE),
                Doing::Follows(_) | Doing::Works | Doing::GivesWay | Doing::Leaves => return None,
            };
            let patience = if order.hurries(occupant) { patience.min(CROWDED_PATIENCE) } else { patience };
            (since.elapsed() >= patience).then_some((since, doing, occupant))
        })
        .collect();
    waiting.sort_unstable_by_key(|(since, doing, _)| (matches!(doing, Doing::Follows(_)), *since));
    let (_, doing, occupant) =
        waiting.into_iter().find(|(_, doing, occupant)| !matches!(doing, Doing::Waits(_)) || !occupant.has_unread())?;
    Some((doing, occupant))
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

mod bodies;
#[cfg(test)]
mod tests;
