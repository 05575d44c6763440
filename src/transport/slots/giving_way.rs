//! Which connection gives way to a new one, and when a new connection gets no slot.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use super::open_connection::{Doing, OpenConnection};
use crate::transport::limits::{KINDS, Limits, ONE_MORE_IN, Peer};

/// How long a client may take to receive a response before its connection can be made to give way. Perhaps only the last system
/// call of the response is missing, because its thread is not running at this moment. A client that was cut off there would not
/// learn what was done.
pub(super) const WRITE_PATIENCE: Duration = Duration::from_millis(100);

/// The shortest time for which a waiting request keeps its slot. A client whose wait ends early asks again at once, and would
/// then displace another client.
pub(super) const NEWS_PATIENCE: Duration = Duration::from_secs(1);

/// Operators keep up to one in this many slots, even while they send no requests. On a server with few slots, this share must
/// still be enough for a page in a browser, which uses several connections.
pub(super) const KEPT_IN: usize = 2;

/// One in this many slots, and at least [`SPARE_MIN`], is left for new connections. If fewer are left, connections of clients
/// other than operators give way after [`CROWDED_PATIENCE`]. A new connection needs a slot before it can turn out to be an
/// operator's.
pub(super) const SPARE_IN: usize = 8;
const SPARE_MIN: usize = 2;

/// How long a waiting request, or a client that does not receive its response, keeps its slot while few slots are left for new
/// connections. It does not apply to operators.
const CROWDED_PATIENCE: Duration = Duration::from_millis(10);

/// No slot is free for a new connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::transport) struct Full {
    /// Whether a slot becomes free soon, because connections end, or can be ended, as soon as their threads have run.
    pub(in crate::transport) is_passing: bool,
}

/// Which connections of a group may be asked to give way.
#[derive(Clone, Copy, Debug)]
pub(super) struct Order {
    /// Whether operators keep their connections, because they have no more than their share of the slots.
    keeps_operators: bool,
    /// Whether connections of clients other than operators must give way soon, because too few slots are left for new
    /// connections, which may be an operator's.
    pub(super) is_crowded: bool,
}

impl Order {
    /// The order that treats all connections alike.
    pub(super) const EQUAL: Self = Self { keeps_operators: false, is_crowded: false };

    pub(super) fn among<'a, I: Iterator<Item = &'a OpenConnection>>(occupants: impl Fn() -> I, slots: usize) -> Self {
        // Connections that gave way are not counted; otherwise more than the surplus would be made to give way.
        let is_operators = |occupant: &&OpenConnection| occupant.activity.is_operator() && !occupant.activity.doing().gives_way();
        let mut operators = occupants().filter(is_operators).count();
        let part = slots / KEPT_IN;
        if operators > part {
            // Connections that end as soon as their threads run are not counted either. On a busy machine, a few of them can fill
            // the operators' share of a small server.
            operators = occupants().filter(is_operators).filter(|occupant| !occupant.ends()).count();
        }
        let kept = operators.min(part);
        let is_busy = |occupant: &&OpenConnection| {
            let doing = occupant.activity.doing();
            let is_busy = matches!(doing, Doing::Works | Doing::Writes(_) | Doing::Idles(_) | Doing::Follows(_));
            is_busy && !occupant.activity.is_operator()
        };
        let is_crowded = occupants().filter(is_busy).count() + kept + (slots / SPARE_IN).max(SPARE_MIN) > slots;
        Self { keeps_operators: operators == kept, is_crowded }
    }

    fn is_kept(self, occupant: &OpenConnection) -> bool {
        self.keeps_operators && occupant.activity.is_operator()
    }

    fn hurries(self, occupant: &OpenConnection) -> bool {
        self.is_crowded && !occupant.activity.is_operator()
    }
}

/// Makes room for one more connection. Connections that gave way, and those with an unread request, stay open until their threads
/// have run.
pub(super) fn make_way_for(
    peer: Peer,
    open: &BTreeMap<u64, OpenConnection>,
    limits: Limits,
    is_hurried: &AtomicBool,
) -> Result<(), Full> {
    // The usual case: there are too few connections for any limit.
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
    // A kind that uses no more than its own slots gives up none of them.
    let has_shared = || open.values().filter(|occupant| counts[occupant.peer.kind()] > limits.own);
    make_way(has_shared, shared, limits.shared, is_hurried)
}

/// Makes one of these connections give way if there are `limit` or more. A new connection is still admitted while the excess over
/// `limit` is less than one in [`ONE_MORE_IN`].
fn make_way<'a, I: Iterator<Item = &'a OpenConnection>>(
    occupants: impl Fn() -> I,
    count: usize,
    limit: usize,
    is_hurried: &AtomicBool,
) -> Result<(), Full> {
    if count < limit {
        return Ok(());
    }
    // `limit` and `count` leave out the reserved slots of each kind, so their connections are added here.
    let order = Order::among(&occupants, limit + occupants().count() - count);
    let is_leaving = |occupant: &&OpenConnection| match occupant.activity.doing() {
        Doing::GivesWay | Doing::Leaves => true,
        Doing::Works => occupant.activity.is_at_last_answer(),
        // If it has no unread bytes, it may be waiting for the rest of a request, and can be made to give way instead.
        Doing::Waits(_) => occupant.activity.is_at_last_answer() && occupant.stream.has_unread(),
        // Its last response can take hours.
        Doing::Writes(_) | Doing::Idles(_) | Doing::Follows(_) | Doing::Yields(_) => false,
    };
    let leaving = occupants().filter(is_leaving).count();
    if leaving <= count - limit {
        make_one_leave(&occupants, order, is_hurried);
    }
    if count < limit + (limit / ONE_MORE_IN).max(1) {
        return Ok(());
    }
    // A connection that waits and was not made to give way has an unread request. A connection that works waits afterwards.
    let leaves_soon = |occupant: &OpenConnection| match occupant.activity.doing() {
        Doing::Waits(_) | Doing::Yields(_) => !order.is_kept(occupant),
        Doing::Writes(_) | Doing::Idles(_) | Doing::Follows(_) => order.hurries(occupant),
        Doing::Works => true,
        Doing::GivesWay | Doing::Leaves => false,
    };
    Err(Full { is_passing: occupants().any(|occupant| is_leaving(&occupant) || leaves_soon(occupant)) })
}

/// Makes the connection that has waited longest give way. If none is waiting, the oldest connection gets one more response and is
/// then closed. Otherwise, clients that always have a request in progress would keep their slots for ever.
pub(super) fn make_one_leave<'a, I: Iterator<Item = &'a OpenConnection>>(
    occupants: impl Fn() -> I,
    order: Order,
    is_hurried: &AtomicBool,
) {
    if let Some((seen, occupant)) = waits_longest(occupants(), order) {
        occupant.give_way(seen, is_hurried);
        return;
    }
    let goes_on = |occupant: &&OpenConnection| {
        let is_busy = matches!(occupant.activity.doing(), Doing::Works | Doing::Waits(_));
        is_busy && !order.is_kept(occupant) && !occupant.activity.is_at_last_answer()
    };
    if let Some(occupant) = occupants().find(goes_on) {
        occupant.activity.is_at_last_answer.store(true, Ordering::Relaxed);
    }
}

/// Returns the connection that has waited longest, and what it is doing. Responses of unknown length come last. A connection
/// whose request has arrived but has not been read is left out, because its thread has not run yet. Unread bytes after a request
/// that is being answered do not keep the slot.
pub(super) fn waits_longest<'a>(
    occupants: impl Iterator<Item = &'a OpenConnection>,
    order: Order,
) -> Option<(Doing, &'a OpenConnection)> {
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
        waiting.into_iter().find(|(_, doing, occupant)| !matches!(doing, Doing::Waits(_)) || !occupant.stream.has_unread())?;
    Some((doing, occupant))
}
