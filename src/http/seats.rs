//! Who is connected, what each of them does, and who gives way when there are too many.
//!
//! A connection that waits for its client gives way to a newcomer, the one that has waited longest first; one whose request is being
//! answered never does. Where a request had come even so, unseen, it is answered: that is its connection's last. Only one whose client did
//! not take an answer is closed without a word, and does nothing more: nobody would hear of it.

use std::collections::BTreeMap;
use std::net::{IpAddr, Shutdown};
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use rustix::io::ioctl_fionread;
use rustix::process::{Resource, getrlimit};

use super::listener::Stream;
use super::server::Handler;

/// The most connections at once. When all are taken, the one that has waited longest for its client gives way.
const CONNECTIONS_MAX: usize = 512;
/// And the fewest, where descriptors are scarce.
const CONNECTIONS_MIN: usize = 16;
/// So many descriptors are left to the rest of the server, which cannot read a log or ask the database without one.
const OWN_DESCRIPTORS: u64 = 64;
/// Of so many connections one more is let in while those that gave way are still leaving, or all are being answered. Beyond that a
/// newcomer waits, and is turned away in the end.
const ONE_MORE_IN: usize = 8;
/// The most connections from one address of another machine. From there as from everywhere, the one that has waited longest gives way.
const FROM_ONE_ADDRESS_MAX: usize = 64;

/// How long a client that is to take an answer is not suspected of not taking it. The answer may be out all but one system call, whose
/// thread does not run just now; to be cut off there would hide what was done.
const WRITE_PATIENCE: Duration = Duration::from_millis(100);

/// What all requests together may hold of bodies, in bytes. When it is taken, the one whose body has been waited for longest gives way.
const BODIES_BYTES_MAX: usize = 4 * 1024 * 1024;
/// How long a body waits at most for the memory that it needs.
const BODY_ROOM_LIMIT: Duration = Duration::from_secs(2);

/// How long a newcomer waits at most for those that gave way to leave, or that are being answered to have their answer, and how often it
/// looks. Both are a matter of moments, but on a machine that is busy their threads may not run for a while; to wait for them is better
/// than to be turned away.
const LEAVE_LIMIT: Duration = Duration::from_secs(2);
const LEAVE_LOOK: Duration = Duration::from_millis(2);

/// The seats of a server.
pub(super) struct Seats {
    began: Instant,
    is_stopping: AtomicBool,
    open: Mutex<BTreeMap<u64, Slot>>,
    closed: Condvar,
    /// Held by the one that is given memory for a body.
    bodies: Mutex<()>,
}

/// An open connection as others see it.
struct Slot {
    stream: Arc<Stream>,
    /// The address, where it is another machine's.
    from: Option<IpAddr>,
    activity: Arc<Activity>,
}

/// What a connection does, and since when.
struct Activity {
    began: Instant,
    /// The two in one number, so that both are seen and changed together: [`Doing`] in the lowest bits, above it the milliseconds since
    /// the server began.
    packed: AtomicU64,
    /// How long the body is that is read or answered, in bytes.
    body_bytes: AtomicUsize,
}

/// What a connection does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Doing {
    /// It waits for its client to ask.
    Waits,
    /// Its request is being answered.
    Works,
    /// It waits for its client to take an answer.
    Writes,
    /// It gave way while it waited, and its thread has not noticed yet: no more comes in. What had come is answered.
    GivesWay,
    /// It gave way while its client took no answer: nothing goes out any more.
    Leaves,
}

/// The bits that [`Doing`] takes.
const DOING_BITS: u32 = 3;

const fn doing(packed: u64) -> Doing {
    match packed & ((1 << DOING_BITS) - 1) {
        0 => Doing::Waits,
        1 => Doing::Works,
        2 => Doing::Writes,
        3 => Doing::GivesWay,
        _ => Doing::Leaves,
    }
}

/// Since when, in milliseconds after the server began.
const fn since_ms(packed: u64) -> u64 {
    packed >> DOING_BITS
}

impl Activity {
    fn pack(&self, doing: Doing, now: Instant) -> u64 {
        let since_ms = u64::try_from(now.saturating_duration_since(self.began).as_millis()).unwrap_or(u64::MAX >> DOING_BITS);
        since_ms << DOING_BITS | doing as u64
    }

    fn load(&self) -> u64 {
        self.packed.load(Ordering::SeqCst)
    }

    /// What it did before. One that has given way stays so, with the exception of one that [`Doing::GivesWay`] and begins to work.
    fn set(&self, what: Doing, now: Instant) -> Doing {
        let new = self.pack(what, now);
        let stays = |old| match doing(old) {
            Doing::Waits | Doing::Works | Doing::Writes => false,
            Doing::GivesWay => what != Doing::Works,
            Doing::Leaves => true,
        };
        let before = self.packed.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |old| (!stays(old)).then_some(new));
        doing(before.unwrap_or_else(|stayed| stayed))
    }
}

impl Slot {
    /// Has the connection end, if it still does the same since then. Its thread wakes up from reading or writing and takes its leave.
    fn give_way(&self, packed: u64) {
        // What came since it was looked at, or was read already, is answered.
        let (what, how) = match doing(packed) {
            Doing::Waits => (Doing::GivesWay, Shutdown::Read),
            Doing::Works | Doing::Writes | Doing::GivesWay | Doing::Leaves => (Doing::Leaves, Shutdown::Both),
        };
        let new = self.activity.pack(what, Instant::now());
        if self.activity.packed.compare_exchange(packed, new, Ordering::SeqCst, Ordering::SeqCst).is_ok() {
            // One that has closed meanwhile is what is wanted.
            let _closed = self.stream.shutdown(how);
        }
    }
}

impl Seats {
    pub(super) fn new() -> Self {
        Self {
            began: Instant::now(),
            is_stopping: AtomicBool::new(false),
            open: Mutex::new(BTreeMap::new()),
            closed: Condvar::new(),
            bodies: Mutex::new(()),
        }
    }

    /// Whether no further request is taken.
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
        let mut open = self.lock();
        for slot in open.values().filter(|slot| doing(slot.activity.load()) == Doing::Waits) {
            // What has arrived can still be read, and is answered. One that has closed meanwhile is what is wanted.
            let _closed = slot.stream.shutdown(Shutdown::Read);
        }
        while !open.is_empty() {
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                break;
            }
            open = self.closed.wait_timeout(open, left).unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    /// Seats a newcomer; `None` where none of the others leaves in time, and once it stops.
    pub(super) fn seat(
        self: &Arc<Self>,
        number: u64,
        stream: &Arc<Stream>,
        from: IpAddr,
        handler: &Arc<dyn Handler>,
    ) -> Option<Seat> {
        let other_machine = Some(from).filter(|ip| !ip.is_loopback());
        let of_this_address = |slot: &Slot| slot.from == other_machine;
        let mut open = match other_machine {
            Some(_) => self.await_room(self.lock(), of_this_address, FROM_ONE_ADDRESS_MAX)?,
            None => self.lock(),
        };
        open = self.await_room(open, |_| true, connections_max())?;
        let activity = Arc::new(Activity { began: self.began, packed: AtomicU64::new(0), body_bytes: AtomicUsize::new(0) });
        activity.set(Doing::Waits, Instant::now());
        open.insert(number, Slot { stream: stream.clone(), from: other_machine, activity: activity.clone() });
        Some(Seat { number, seats: self.clone(), handler: handler.clone(), activity })
    }

    /// Makes room for one more of a `kind`. Those that gave way, and those whose request has come but not been read, are there until their
    /// threads have run.
    fn await_room<'a>(
        &'a self,
        mut open: MutexGuard<'a, BTreeMap<u64, Slot>>,
        kind: impl Fn(&Slot) -> bool,
        limit: usize,
    ) -> Option<MutexGuard<'a, BTreeMap<u64, Slot>>> {
        let full = limit + limit / ONE_MORE_IN;
        let deadline = Instant::now() + LEAVE_LIMIT;
        loop {
            // A stop waits for the accepting thread, which waits here.
            if self.is_stopping() {
                return None;
            }
            if open.len() < limit {
                return Some(open);
            }
            let count = open.values().filter(|slot| kind(slot)).count();
            if count < limit {
                return Some(open);
            }
            if let Some((packed, slot)) = waits_longest(open.values().filter(|slot| kind(slot))) {
                slot.give_way(packed);
            }
            if count < full {
                return Some(open);
            }
            // Also where all are being answered: most of that takes no time, and what may take long has few places.
            if Instant::now() >= deadline {
                return None;
            }
            open = self.closed.wait_timeout(open, LEAVE_LOOK).unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    /// Has those give way that have waited for a request for `limit`. After what time to look again; `None` where nobody is connected: the
    /// server sleeps.
    pub(super) fn close_idle(&self, limit: Duration) -> Option<Duration> {
        self.close_idle_at(self.began.elapsed(), limit)
    }

    fn close_idle_at(&self, now: Duration, limit: Duration) -> Option<Duration> {
        let open = self.lock();
        // Who is busy now can begin to wait right after this look, and is due a limit after that.
        let mut next = (!open.is_empty()).then_some(limit)?;
        for slot in open.values() {
            let packed = slot.activity.load();
            if doing(packed) != Doing::Waits {
                continue;
            }
            let waited = now.saturating_sub(Duration::from_millis(since_ms(packed)));
            if waited >= limit {
                slot.give_way(packed);
            } else {
                next = next.min(limit.saturating_sub(waited));
            }
        }
        // Stamps are whole milliseconds: not a moment before.
        Some(next + Duration::from_millis(1))
    }

    /// Has the one that has waited longest give way, and waits up to `rest` for somebody to leave.
    pub(super) fn make_room(&self, rest: Duration) {
        let open = self.lock();
        if let Some((packed, slot)) = waits_longest(open.values()) {
            slot.give_way(packed);
        }
        let before = open.len();
        let _it_is_tried_again = self.closed.wait_timeout_while(open, rest, |open| open.len() >= before);
    }

    /// Nothing under this lock can panic half-way through a change.
    fn lock(&self) -> MutexGuard<'_, BTreeMap<u64, Slot>> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// How many connections there may be. The limit of descriptors may change while the server runs (`prlimit(1)`).
fn connections_max() -> usize {
    let descriptors = getrlimit(Resource::Nofile).current.unwrap_or(u64::MAX).saturating_sub(OWN_DESCRIPTORS);
    let descriptors = usize::try_from(descriptors).unwrap_or(usize::MAX);
    (descriptors - descriptors / (ONE_MORE_IN + 1)).clamp(CONNECTIONS_MIN, CONNECTIONS_MAX)
}

/// The connection whose client has kept us waiting for longest, and what it does. Where a request lies there unread it is not the
/// client's fault: its thread has not run yet.
fn waits_longest<'a>(slots: impl Iterator<Item = &'a Slot>) -> Option<(u64, &'a Slot)> {
    let is_waited_for = |packed: u64, slot: &Slot| match doing(packed) {
        Doing::Waits => true,
        Doing::Writes => slot.activity.began.elapsed() >= Duration::from_millis(since_ms(packed)) + WRITE_PATIENCE,
        Doing::Works | Doing::GivesWay | Doing::Leaves => false,
    };
    let waiting = slots.map(|slot| (slot.activity.load(), slot));
    let mut waiting: Vec<_> = waiting.filter(|(packed, slot)| is_waited_for(*packed, slot)).collect();
    waiting.sort_unstable_by_key(|(packed, _)| since_ms(*packed));
    waiting
        .into_iter()
        .find(|(packed, slot)| doing(*packed) == Doing::Writes || ioctl_fionread(&*slot.stream).is_ok_and(|bytes| bytes == 0))
}

/// A connection's own view of its slot: says what it does. The slot is free once this is dropped.
pub(super) struct Seat {
    number: u64,
    seats: Arc<Seats>,
    handler: Arc<dyn Handler>,
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

impl Seat {
    /// Who answers.
    pub(super) fn handler(&self) -> &dyn Handler {
        &*self.handler
    }

    /// Whether no further request is taken.
    pub(super) fn is_stopping(&self) -> bool {
        self.seats.is_stopping()
    }

    /// The client is to ask. False where the connection has been closed, since its client took no answer.
    pub(super) fn waits(&self) -> bool {
        self.has_no_body();
        // One that gives way finds out when it has read what has come.
        self.activity.set(Doing::Waits, Instant::now()) != Doing::Leaves
    }

    /// The request's body is no longer held.
    pub(super) fn has_no_body(&self) {
        self.activity.body_bytes.store(0, Ordering::SeqCst);
    }

    /// A request has been read and is to be answered.
    pub(super) fn works(&self) -> Works {
        // Since when it works is nobody's business, so no clock is read.
        match self.activity.set(Doing::Works, self.activity.began) {
            Doing::Waits | Doing::Works | Doing::Writes => Works::On,
            Doing::GivesWay => Works::ForTheLastTime,
            Doing::Leaves => Works::NoMore,
        }
    }

    /// The client is to take an answer, or its next piece, from now on.
    pub(super) fn writes(&self) -> Instant {
        let now = Instant::now();
        // One that has given way finds out when it writes.
        let _has_given_way = self.activity.set(Doing::Writes, now);
        now
    }

    /// The request that is being read has a body of so many bytes. False where there is no room for that: all that is held belongs to
    /// requests that are being answered.
    pub(super) fn takes(&self, body_bytes: usize) -> bool {
        let (activity, deadline) = (&self.activity, Instant::now() + BODY_ROOM_LIMIT);
        // It is the newest of those that are waited for, unless it has given way already.
        if matches!(activity.set(Doing::Waits, Instant::now()), Doing::GivesWay | Doing::Leaves) {
            return false;
        }
        // One at a time: those that wait for memory must not keep the accepting thread from its lock.
        let _turn = self.seats.bodies.lock().unwrap_or_else(PoisonError::into_inner);
        loop {
            let open = self.seats.lock();
            let held: usize = open.values().map(|slot| slot.activity.body_bytes.load(Ordering::SeqCst)).sum();
            if held - activity.body_bytes.load(Ordering::SeqCst) + body_bytes <= BODIES_BYTES_MAX {
                activity.body_bytes.store(body_bytes, Ordering::SeqCst);
                return true;
            }
            if Instant::now() >= deadline || matches!(doing(activity.load()), Doing::GivesWay | Doing::Leaves) {
                return false;
            }
            let others = open
                .iter()
                .filter(|(number, slot)| **number != self.number && slot.activity.body_bytes.load(Ordering::SeqCst) > 0)
                .map(|(_, slot)| slot);
            if let Some((packed, slot)) = waits_longest(others) {
                slot.give_way(packed);
            }
            let _looked_at_again = self.seats.closed.wait_timeout(open, LEAVE_LOOK);
        }
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        self.seats.lock().remove(&self.number);
        self.seats.closed.notify_all();
    }
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};
    use std::os::unix::net::UnixStream;

    use rouille::{Request, Response};

    use super::*;
    use crate::http::Broken;

    struct Nobody;

    impl Handler for Nobody {
        fn handle(&self, _: &Request) -> Response {
            Response::empty_404()
        }

        fn refuse(&self, _: &Broken, _: Option<&Request>) -> Response {
            Response::empty_404()
        }
    }

    fn sit(seats: &Arc<Seats>, number: u64, from: &str) -> Option<(Seat, UnixStream)> {
        let (ours, theirs) = UnixStream::pair().expect("a pair");
        let handler: Arc<dyn Handler> = Arc::new(Nobody);
        let seat = seats.seat(number, &Arc::new(Stream::Unix(ours)), from.parse().expect("an address"), &handler)?;
        theirs.set_nonblocking(true).expect("ours");
        Some((seat, theirs))
    }

    fn is_closed(mut stream: &UnixStream) -> bool {
        matches!(stream.read(&mut [0]), Ok(0))
    }

    /// Whether the server has closed its side for reading.
    fn takes_no_more(mut stream: &UnixStream) -> bool {
        stream.write(b"x").is_err_and(|error| error.kind() == std::io::ErrorKind::BrokenPipe)
    }

    #[test]
    fn who_does_not_take_an_answer_is_closed_and_not_before_it_had_the_time() {
        let seats = Arc::new(Seats::new());
        let (seat, stream) = sit(&seats, 1, "127.0.0.1").expect("room");
        assert_eq!(seat.works(), Works::On);
        // Stamps are whole milliseconds.
        let (began, patience) = (seat.writes(), WRITE_PATIENCE.saturating_sub(Duration::from_millis(1)));
        let give_way = || {
            let open = seats.lock();
            if let Some((packed, slot)) = waits_longest(open.values()) {
                slot.give_way(packed);
            }
        };
        give_way();
        // On a machine that is slow enough it has had its time.
        assert!(!is_closed(&stream) || began.elapsed() >= patience);
        while !is_closed(&stream) {
            assert!(began.elapsed() < Duration::from_mins(1), "it never gives way");
            give_way();
        }
        assert!(began.elapsed() >= patience);
        assert!(!seat.waits(), "nothing more is read of it");
        assert_eq!(seat.works(), Works::NoMore);
    }

    #[test]
    fn the_next_look_at_the_silent_is_due_with_the_first_of_them_and_never_while_nobody_is_connected() {
        let (seats, limit, s) = (Arc::new(Seats::new()), Duration::from_secs(60), Duration::from_secs);
        let since = |seat: &Seat| Duration::from_millis(since_ms(seat.activity.load()));
        assert_eq!(seats.close_idle_at(s(1000), limit), None);
        let (first, first_stream) = sit(&seats, 1, "127.0.0.1").expect("room");
        let (second, second_stream) = sit(&seats, 2, "127.0.0.1").expect("room");
        assert_eq!(second.works(), Works::On);
        let began = since(&first);
        assert_eq!(seats.close_idle_at(began + s(20), limit), Some(s(40) + Duration::from_millis(1)));
        assert_eq!(seats.close_idle_at(began + s(60), limit), Some(limit + Duration::from_millis(1)), "the other is busy");
        assert!(takes_no_more(&first_stream) && !takes_no_more(&second_stream));
        assert!(!is_closed(&first_stream), "it can be told something yet");
        assert!(first.waits());
        assert_eq!(first.works(), Works::ForTheLastTime, "what it was asked meanwhile is answered");
        // Who takes an answer slowly has another limit.
        second.writes();
        assert!(seats.close_idle_at(since(&second) + s(600), limit).is_some() && !takes_no_more(&second_stream));
        drop((first, second));
        assert_eq!(seats.close_idle_at(s(1000), limit), None);
    }

    #[test]
    fn nobody_is_seated_any_more_nor_kept_waiting_once_it_stops() {
        let seats = Arc::new(Seats::new());
        assert!(sit(&seats, 1, "127.0.0.1").is_some());
        seats.begin_stop();
        assert!(sit(&seats, 2, "127.0.0.1").is_none() && sit(&seats, 3, "10.0.0.7").is_none());
    }

    #[test]
    fn another_machines_address_has_so_many_seats_and_takes_its_own() {
        let seats = Arc::new(Seats::new());
        let (own, own_stream) = sit(&seats, 0, "127.0.0.1").expect("room");
        let (friend, friend_stream) = sit(&seats, 1, "10.0.0.7").expect("room");
        let full = FROM_ONE_ADDRESS_MAX + FROM_ONE_ADDRESS_MAX / ONE_MORE_IN;
        let crowd: Vec<_> = (10..).take(full).map_while(|number| sit(&seats, number, "10.0.0.6")).collect();
        assert_eq!(crowd.len(), full);
        let closed = crowd.iter().filter(|(_, stream)| takes_no_more(stream)).count();
        assert_eq!(closed, full - FROM_ONE_ADDRESS_MAX, "the first to come gave way to the last");
        assert!(takes_no_more(&crowd[0].1) && !takes_no_more(&crowd[full - 1].1));
        assert!(!takes_no_more(&own_stream) && !takes_no_more(&friend_stream), "nobody else did");
        // Those that gave way have not left: no more of that address until they do.
        assert!(sit(&seats, 1000, "10.0.0.6").is_none());
        assert!(sit(&seats, 1001, "10.0.0.8").is_some() && sit(&seats, 1002, "127.0.0.1").is_some());
        drop(crowd);
        assert!(sit(&seats, 1003, "10.0.0.6").is_some());
        drop((own, friend));
    }

    #[test]
    fn where_all_are_being_answered_a_newcomer_waits_for_the_first_to_have_it() {
        let seats = Arc::new(Seats::new());
        let full = FROM_ONE_ADDRESS_MAX + FROM_ONE_ADDRESS_MAX / ONE_MORE_IN;
        let sit = |number| sit(&seats, number, "10.0.0.6").filter(|(seat, _)| seat.works() == Works::On);
        let mut crowd: Vec<_> = (0..full as u64).map_while(sit).collect();
        assert_eq!(crowd.len(), full);
        let answered = crowd.pop();
        std::thread::scope(|scope| {
            // Later than the newcomer has looked; one that comes first makes the test say less.
            scope.spawn(move || {
                std::thread::sleep(Duration::from_millis(100));
                drop(answered);
            });
            assert!(sit(1000).is_some(), "it was not turned away");
        });
    }
}
