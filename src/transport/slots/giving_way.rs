//! Which connection gives way to a new one, and when a new one gets no slot.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use super::occupant::{Doing, Occupant};
use crate::transport::limits::{KINDS, Limits, ONE_MORE_IN, Peer};

/// How long a client that is to take an answer is not suspected of not taking it. The answer may be out all but one system call, whose
/// thread does not run just now; to be cut off there would hide what was done.
pub(super) const WRITE_PATIENCE: Duration = Duration::from_millis(100);

/// How long a request that waits keeps its slot at least. A client whose wait ends early asks again at once, and would then displace another
/// one.
pub(super) const NEWS_PATIENCE: Duration = Duration::from_secs(1);

/// Operators keep up to one in this many slots, even while they ask nothing. With few slots that must still suffice for a page in a browser,
/// which uses several connections.
pub(super) const KEPT_IN: usize = 2;

/// One in this many slots, at least [`SPARE_MIN`], is left for new connections: where fewer are left, whoever is no operator has
/// [`CROWDED_PATIENCE`], for only a connection that has been read can turn out to be an operator's.
pub(super) const SPARE_IN: usize = 8;
const SPARE_MIN: usize = 2;

/// How long a request that waits, or a client that takes no answer, keeps its slot while few are left for new connections, unless it is an operator's.
const CROWDED_PATIENCE: Duration = Duration::from_millis(10);

/// There is no slot for a new connection now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::transport) struct Full {
    /// Some connections end, or can be ended, as soon as their threads have run, so a slot becomes free soon.
    pub(in crate::transport) is_passing: bool,
}

/// Which connections of a group may be asked to give way.
#[derive(Clone, Copy, Debug)]
pub(super) struct Order {
    /// Operators keep theirs, because they have no more than their part of the slots.
    keeps_operators: bool,
    /// The connections that are not an operator's must become free soon: too few are left for new ones, which may be an operator's.
    pub(super) is_crowded: bool,
}

impl Order {
    /// All connections are treated alike.
    pub(super) const EQUAL: Self = Self { keeps_operators: false, is_crowded: false };

    pub(super) fn among<'a, I: Iterator<Item = &'a Occupant>>(occupants: impl Fn() -> I, slots: usize) -> Self {
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
pub(super) fn make_way_for(
    peer: Peer,
    open: &BTreeMap<u64, Occupant>,
    limits: Limits,
    is_hurried: &AtomicBool,
) -> Result<(), Full> {
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
pub(super) fn make_one_leave<'a, I: Iterator<Item = &'a Occupant>>(
    occupants: impl Fn() -> I,
    order: Order,
    is_hurried: &AtomicBool,
) {
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
pub(super) fn waits_longest<'a>(occupants: impl Iterator<Item = &'a Occupant>, order: Order) -> Option<(Doing, &'a Occupant)> {
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
