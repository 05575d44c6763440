//! Which connections get a slot, give way, or are refused.

use std::io::{Read, Write};
use std::os::unix::net::UnixStream;

use super::giving_way::{KEPT_IN, NEWS_PATIENCE, SPARE_IN, WRITE_PATIENCE, waits_longest};
use super::*;
use crate::transport::head::Broken;
use crate::transport::limits::{
    CONNECTIONS_MAX, CONNECTIONS_MIN, DESCRIPTORS_MIN, FROM_ONE_ADDRESS_MAX, LongRequests, ONE_MORE_IN, OWN_DESCRIPTORS, Rank,
};
use crate::transport::reach::Reach;

fn peer(from: &str) -> Peer {
    Peer::at(Reach::Network, from.parse().expect("an address"))
}

fn sit(slots: &Arc<Slots>, number: u64, from: &str) -> Option<(Slot, UnixStream)> {
    sit_as(slots, number, peer(from)).ok()
}

fn sit_as(slots: &Arc<Slots>, number: u64, peer: Peer) -> Result<(Slot, UnixStream), Full> {
    let (ours, theirs) = UnixStream::pair().expect("a pair");
    let slot = slots.take(number, &Arc::new(Stream::from(std::os::fd::OwnedFd::from(ours))), peer)?;
    theirs.set_nonblocking(true).expect("ours");
    Ok((slot, theirs))
}

fn is_closed(mut stream: &UnixStream) -> bool {
    matches!(stream.read(&mut [0]), Ok(0))
}

/// Checks whether the server has shut down its side for reading.
fn takes_no_more(mut stream: &UnixStream) -> bool {
    stream.write(b"x").is_err_and(|error| error.kind() == std::io::ErrorKind::BrokenPipe)
}

impl Slots {
    /// Makes all waiting connections give way, however short their wait.
    pub(in crate::transport) fn have_waiting_give_way(&self) {
        for occupant in lock(&self.open).values() {
            let doing = occupant.activity.doing();
            if matches!(doing, Doing::Waits(_) | Doing::Idles(_) | Doing::Yields(_)) {
                occupant.give_way(doing, &self.is_hurried);
            }
        }
    }
}

#[test]
fn client_that_does_not_read_is_closed_after_its_time() {
    let slots = Arc::<Slots>::default();
    let (slot, stream) = sit(&slots, 1, "127.0.0.1").expect("room");
    assert_eq!(slot.works(), Works::On);
    let (began, patience) = (slot.writes(), WRITE_PATIENCE);
    let give_way = || {
        let open = lock(&slots.open);
        if let Some((seen, occupant)) = waits_longest(open.values(), Order::EQUAL) {
            occupant.give_way(seen, &slots.is_hurried);
        }
    };
    give_way();
    // On a slow machine, the client's time can already be over.
    assert!(!is_closed(&stream) || began.elapsed() >= patience);
    while !is_closed(&stream) {
        assert!(began.elapsed() < Duration::from_mins(1), "it never gives way");
        give_way();
    }
    assert!(began.elapsed() >= patience);
    assert!(!slot.waits(), "nothing more is read of it");
    assert_eq!(slot.works(), Works::NoMore);
}

#[test]
fn next_timeout_check_is_due_with_the_first_silent_client() {
    let (slots, limit, s) = (Arc::<Slots>::default(), Duration::from_secs(60), Duration::from_secs);
    assert_eq!(slots.close_idle(Instant::now(), limit), None);
    let (first, first_stream) = sit(&slots, 1, "127.0.0.1").expect("room");
    let (second, second_stream) = sit(&slots, 2, "127.0.0.1").expect("room");
    assert_eq!(second.works(), Works::On);
    let Doing::Waits(began) = first.activity.doing() else { panic!("it waits") };
    assert_eq!(slots.close_idle(began + s(20), limit), Some(s(40)));
    assert_eq!(slots.close_idle(began + s(60), limit), Some(limit), "the other is busy");
    assert!(takes_no_more(&first_stream) && !takes_no_more(&second_stream));
    assert!(!is_closed(&first_stream), "it can be told something yet");
    assert!(first.waits());
    assert_eq!(first.works(), Works::ForTheLastTime, "what it was asked meanwhile is answered");
    // A client that reads a response slowly has another limit.
    let writes_since = second.writes();
    assert!(slots.close_idle(writes_since + s(600), limit).is_some() && !takes_no_more(&second_stream));
    drop((first, second));
    assert_eq!(slots.close_idle(began + s(1000), limit), None);
}

#[test]
fn stopping_slots_admit_no_connection() {
    let slots = Arc::<Slots>::default();
    assert!(sit(&slots, 1, "127.0.0.1").is_some());
    slots.begin_stop();
    assert!(sit(&slots, 2, "127.0.0.1").is_none() && sit(&slots, 3, "10.0.0.7").is_none());
}

#[test]
fn remote_address_is_limited_to_its_share_of_slots() {
    let slots = Arc::<Slots>::default();
    let (own, own_stream) = sit(&slots, 0, "127.0.0.1").expect("room");
    let (friend, friend_stream) = sit(&slots, 1, "10.0.0.7").expect("room");
    let full = FROM_ONE_ADDRESS_MAX + FROM_ONE_ADDRESS_MAX / ONE_MORE_IN;
    let crowd: Vec<_> = (10..).take(full).map_while(|number| sit(&slots, number, "10.0.0.6")).collect();
    assert_eq!(crowd.len(), full);
    let closed = crowd.iter().filter(|(_, stream)| takes_no_more(stream)).count();
    assert_eq!(closed, full - FROM_ONE_ADDRESS_MAX, "the first to come gave way to the last");
    assert!(takes_no_more(&crowd[0].1) && !takes_no_more(&crowd[full - 1].1));
    assert!(!takes_no_more(&own_stream) && !takes_no_more(&friend_stream), "nobody else did");
    // The connections that gave way have not ended, and that address gets no further slot until they do.
    assert!(sit(&slots, 1000, "10.0.0.6").is_none());
    assert!(sit(&slots, 1001, "10.0.0.8").is_some() && sit(&slots, 1002, "127.0.0.1").is_some());
    drop(crowd);
    assert!(sit(&slots, 1003, "10.0.0.6").is_some());
    drop((own, friend));
}

/// Takes slots for streams of operators, which never give way, as long as there are slots.
fn streams(slots: &Arc<Slots>, first: u64, peer: Peer) -> Vec<(Slot, UnixStream)> {
    let sit = |number| {
        sit_as(slots, number, peer).ok().filter(|(slot, _)| {
            slot.set_operator(true);
            slot.follows(Instant::now())
        })
    };
    (first..first + 10_000).map_while(sit).collect()
}

#[test]
fn streams_of_one_address_take_no_slot_of_others() {
    let slots = Arc::<Slots>::default();
    let crowd = streams(&slots, 10_000, peer("10.0.0.6"));
    assert_eq!(crowd.len(), FROM_ONE_ADDRESS_MAX + FROM_ONE_ADDRESS_MAX / ONE_MORE_IN);
    assert_eq!(sit_as(&slots, 1, peer("10.0.0.6")).err(), Some(Full { is_passing: false }), "none will leave by itself");
    for (number, other) in [(2, Peer::Owner), (3, Peer::Local), (4, peer("10.0.0.7")), (5, peer("fd00:0:0:1::1"))] {
        assert!(sit_as(&slots, number, other).is_ok(), "{other:?}");
    }
    assert!(crowd.iter().all(|(slot, _)| !slot.gives_way()), "operators' streams stay");
}

#[test]
fn long_poll_yields_slot_to_same_address_and_ends_early() {
    let slots = Arc::<Slots>::default();
    let mut crowd = streams(&slots, 10_000, peer("10.0.0.6"));
    let began = Instant::now();
    for (slot, _) in &crowd {
        slot.set_operator(true);
        slot.idles();
    }
    let gave_way = loop {
        assert!(sit(&slots, 1, "10.0.0.6").is_none(), "none has left");
        if let Some(at) = crowd.iter().position(|(slot, _)| slot.gives_way()) {
            break at;
        }
        assert!(!slots.has_hurried() && began.elapsed() < Duration::from_mins(1), "none gives way");
        std::thread::sleep(Duration::from_millis(5));
    };
    assert!(began.elapsed() >= NEWS_PATIENCE);
    assert!(slots.has_hurried() && !slots.has_hurried(), "it is woken once");
    let (slot, stream) = crowd.swap_remove(gave_way);
    assert!(takes_no_more(&stream) && !is_closed(&stream), "it can be told something yet");
    slot.idles_no_more();
    assert!(slot.gives_way(), "what it is told is its last");
    for (slot, _) in &crowd {
        slot.idles_no_more();
        assert_eq!(slot.activity.doing(), Doing::Works, "one is enough");
    }
    drop(slot);
    assert!(sit(&slots, 2, "10.0.0.6").is_some());
}

#[test]
fn operator_connection_is_kept_while_others_yield() {
    let slots = Arc::<Slots>::default();
    let (first, first_stream) = sit(&slots, 0, "10.0.0.6").expect("room");
    first.set_operator(true);
    // More connections than there are slots for that address, each of which has waited for a shorter time than the operator's.
    let crowd: Vec<_> = (1..).map_while(|number| sit(&slots, number, "10.0.0.6")).collect();
    assert!(crowd.len() >= FROM_ONE_ADDRESS_MAX && takes_no_more(&crowd[0].1) && !takes_no_more(&first_stream));
    // It does not give way either while all others are being answered.
    for (slot, _) in &crowd {
        let _works = slot.works();
    }
    assert!(sit(&slots, 1000, "10.0.0.6").is_none() && !takes_no_more(&first_stream));
    // A connection whose latest request is no longer an operator's is treated like the others.
    drop((first, crowd));
    let (first, first_stream) = sit(&slots, 1001, "10.0.0.6").expect("room");
    first.set_operator(true);
    first.set_operator(false);
    let crowd: Vec<_> = (2000..).map_while(|number| sit(&slots, number, "10.0.0.6")).collect();
    assert!(crowd.len() >= FROM_ONE_ADDRESS_MAX && takes_no_more(&first_stream));
}

#[test]
fn viewer_at_unix_socket_does_not_rank_as_owner() {
    let slots = Arc::<Slots>::default();
    for (number, peer, of_an_operator) in [(1, Peer::Owner, Rank::Owner), (2, Peer::Local, Rank::Operator)] {
        let (slot, _stream) = sit_as(&slots, number, peer).expect("room");
        assert_eq!(slot.rank(), Rank::Viewer, "nothing was asked yet");
        slot.set_operator(true);
        assert_eq!(slot.rank(), of_an_operator);
        slot.set_operator(false);
        assert_eq!(slot.rank(), Rank::Viewer, "the latest request counts");
    }
}

#[test]
fn operators_yield_only_slots_beyond_their_share() {
    let slots = Arc::<Slots>::default();
    let Limits { shared, own, .. } = Limits::now();
    let (part, surplus) = ((shared + KINDS * own) / KEPT_IN, 10);
    let crowd: Vec<_> = (0..(part + surplus) as u64).filter_map(|number| sit(&slots, number, "127.0.0.1")).collect();
    assert_eq!(crowd.len(), part + surplus);
    for (slot, _) in &crowd {
        slot.set_operator(true);
    }
    // No thread runs meanwhile, so the connections that gave way are still open.
    for _ in 0..part {
        slots.make_room();
    }
    assert_eq!(crowd.iter().filter(|(slot, _)| slot.gives_way()).count(), surplus);
}

#[test]
fn viewer_streams_yield_last_and_operator_stream_is_kept() {
    let slots = Arc::<Slots>::default();
    let long_ago = Instant::now().checked_sub(Duration::from_mins(1)).expect("the machine runs for longer");
    let viewers: Vec<_> = (0..3).filter_map(|number| sit(&slots, number, "127.0.0.1")).collect();
    let operators = sit(&slots, 3, "127.0.0.1").expect("room");
    operators.0.set_operator(true);
    for (slot, _) in viewers[..2].iter().chain([&operators]) {
        assert!(slot.follows(long_ago));
    }
    let give_way = || {
        let open = lock(&slots.open);
        if let Some((seen, occupant)) = waits_longest(open.values(), Order::EQUAL) {
            occupant.give_way(seen, &slots.is_hurried);
        }
    };
    let who_left = || lock(&slots.open).values().map(|occupant| occupant.activity.doing().gives_way()).collect::<Vec<_>>();
    give_way();
    assert_eq!(who_left(), [false, false, true, false], "the newest, because it sends no stream");
    // Data that a client sends after its request does not keep its slot.
    (&viewers[0].1).write_all(b"x").expect("there is room");
    give_way();
    give_way();
    assert_eq!(who_left(), [true, true, true, false]);
    assert!(slots.has_hurried(), "its thread is woken");
    assert!(!viewers[0].0.follows(long_ago), "nothing more is sent");
    give_way();
    assert_eq!(who_left(), [true, true, true, false]);
}

#[test]
fn operator_stream_with_slow_client_does_not_yield() {
    for is_stream in [true, false] {
        let slots = Arc::<Slots>::default();
        let Limits { shared, own, .. } = Limits::now();
        let crowd: Vec<_> = (0..=((shared + KINDS * own) / KEPT_IN) as u64)
            .filter_map(|number| sit(&slots, number, "127.0.0.1"))
            .inspect(|(slot, _)| slot.set_operator(true))
            .collect();
        let first = &crowd[0].0;
        assert!(first.works() == Works::On && (!is_stream || first.follows(Instant::now())));
        let writes_since = first.writes();
        // The others have waited for a shorter time.
        for (slot, _) in &crowd[1..] {
            slot.waits();
        }
        while writes_since.elapsed() < WRITE_PATIENCE {
            std::thread::yield_now();
        }
        slots.make_room();
        assert_eq!(first.gives_way(), !is_stream);
        assert_eq!(crowd.iter().filter(|(slot, _)| slot.gives_way()).count(), 1, "they have one more than their part");
    }
}

#[test]
fn closed_operator_clients_do_not_count_toward_operators_share() {
    let slots = Arc::<Slots>::default();
    let Limits { shared, own, .. } = Limits::now();
    let part = (shared + KINDS * own) / KEPT_IN;
    let mut crowd: Vec<_> = (0..part as u64 + 10).filter_map(|number| sit(&slots, number, "127.0.0.1")).collect();
    for (slot, _) in &crowd {
        slot.set_operator(true);
    }
    // No thread runs meanwhile, so the connections whose clients disconnect are still open.
    let left: Vec<_> = crowd.drain(part..).map(|(slot, _left)| slot).collect();
    slots.make_room();
    assert!(crowd.iter().all(|(slot, _)| !slot.gives_way()));
    drop(left);
}

#[test]
fn operators_beyond_their_share_yield_to_each_other() {
    let slots = Arc::<Slots>::default();
    let sit_as_operator = |number| sit(&slots, number, "10.0.0.6").inspect(|(slot, _)| slot.set_operator(true));
    let crowd: Vec<_> = (0..).map_while(sit_as_operator).collect();
    assert!(crowd.len() > FROM_ONE_ADDRESS_MAX && takes_no_more(&crowd[0].1));
    assert!(sit_as_operator(1000).is_none());
}

#[test]
fn slots_are_crowded_if_few_remain_beside_viewer_long_polls() {
    let slots = Arc::<Slots>::default();
    let limit = FROM_ONE_ADDRESS_MAX;
    let crowd: Vec<_> = (0..limit as u64).filter_map(|number| sit(&slots, number, "10.0.0.6")).collect();
    let is_crowded = || {
        let open = lock(&slots.open);
        Order::among(|| open.values(), limit).is_crowded
    };
    for (slot, _) in &crowd[..limit - limit / SPARE_IN] {
        slot.idles();
    }
    assert!(!is_crowded());
    crowd[limit - 1].0.idles();
    assert!(is_crowded());
    // An operator's poll is not counted with the others, but its slot is not left for new connections either.
    crowd[0].0.set_operator(true);
    assert!(is_crowded());
    crowd[1].0.waits();
    assert!(!is_crowded());
    assert_eq!(sit_as(&slots, 1000, peer("10.0.0.6")).err(), None);
    // While few slots are left, the polls of clients other than operators keep theirs for a shorter time than usual.
    for (slot, _) in &crowd[1..] {
        slot.activity.set(Doing::Idles(Instant::now().checked_sub(NEWS_PATIENCE / 2).expect("the machine runs")));
    }
    assert!(is_crowded());
    assert_eq!(sit_as(&slots, 1001, peer("10.0.0.6")).err(), None);
    assert!(crowd[2..].iter().any(|(slot, _)| slot.gives_way()) && !crowd[0].0.gives_way());
}

#[test]
fn addresses_of_one_ipv6_network_count_as_one() {
    let slots = Arc::<Slots>::default();
    let mut crowd = Vec::new();
    for n in 0..200 {
        crowd.extend(sit(&slots, n, &format!("2001:db8:0:1::{n:x}")).filter(|(slot, _)| slot.works() == Works::On));
    }
    assert_eq!(crowd.len(), FROM_ONE_ADDRESS_MAX + FROM_ONE_ADDRESS_MAX / ONE_MORE_IN);
    assert!(sit(&slots, 1000, "2001:db8:0:2::1").is_some(), "the neighbour's");
}

#[test]
fn each_kind_of_client_has_reserved_slots() {
    let many = (0..100).map(|n| peer(&format!("10.0.0.{n}"))).collect::<Vec<_>>();
    let limits = Limits::now();
    for greedy in [vec![Peer::Owner], vec![Peer::Local], many] {
        let slots = Arc::<Slots>::default();
        let crowd: Vec<_> = greedy.iter().zip(1..).flat_map(|(&peer, n)| streams(&slots, n * 10_000, peer)).collect();
        assert!(crowd.len() >= limits.shared, "{}", crowd.len());
        for other in [Peer::Owner, Peer::Local, peer("192.168.1.1")].into_iter().filter(|other| other.kind() != greedy[0].kind())
        {
            assert_eq!(streams(&slots, 1 << 40, other).len(), limits.own, "{other:?} beside {:?}", greedy[0]);
        }
    }
}

#[test]
fn refusal_reports_whether_a_slot_will_become_free() {
    let slots = Arc::<Slots>::default();
    let mut crowd = streams(&slots, 1, peer("10.0.0.6"));
    assert_eq!(sit_as(&slots, 1000, peer("10.0.0.6")).err(), Some(Full { is_passing: false }));
    // One connection has sent its response and waits for the next request. It gives way at once, but stays open until its thread
    // has run.
    crowd[5].0.waits();
    assert_eq!(sit_as(&slots, 1001, peer("10.0.0.6")).err(), Some(Full { is_passing: true }));
    assert!(takes_no_more(&crowd[5].1));
    crowd.remove(5);
    let newest = sit(&slots, 1002, "10.0.0.6");
    assert!(newest.is_some());
    assert!(sit(&slots, 1003, "10.0.0.6").is_none());
}

#[test]
fn slots_leave_enough_descriptors_for_the_rest() {
    for descriptors in [0, 64, 80, 100, DESCRIPTORS_MIN, 160, 256, 512, 1024, 4096, 1 << 40] {
        let limits = Limits::of(descriptors);
        let all = limits.shared + KINDS * limits.own;
        assert!((CONNECTIONS_MIN..=CONNECTIONS_MAX).contains(&all), "{limits:?} of {descriptors}");
        let waiting = KINDS * limits.waiting(Peer::Local).1;
        let is_within = (all + limits.shared / ONE_MORE_IN + waiting) as u64 + OWN_DESCRIPTORS <= descriptors;
        assert!(is_within || descriptors < DESCRIPTORS_MIN, "{limits:?} of {descriptors}");
    }
    assert_eq!(Limits::of(1024), Limits { shared: 488, own: 8, of_one_address: 64 });
}

#[test]
fn long_requests_leave_slots_to_others_operators_and_owner() {
    for descriptors in [0, 64, 80, 100, 128, 256, 400, 512, 1024, 4096, 1 << 40] {
        let Limits { shared, own, .. } = Limits::of(descriptors);
        let [of_viewers, all, of_owner] =
            [Rank::Viewer, Rank::Operator, Rank::Owner].map(|rank| LongRequests::of(descriptors, rank));
        // The slots available to one kind of client.
        assert!(all.streams + all.downloads < shared + own, "{all:?} of {shared} and {own} with {descriptors}");
        let counts = |of: LongRequests| [of.streams, of.waits, of.downloads];
        for ((viewers, all), owner) in counts(of_viewers).into_iter().zip(counts(all)).zip(counts(of_owner)) {
            assert!(0 < viewers && viewers < all && all < owner, "{viewers}, {all} and {owner} with {descriptors}");
        }
    }
    assert_eq!(LongRequests::of(1024, Rank::Operator), LongRequests { streams: 64, waits: 64, downloads: 16 });
}

#[test]
fn discarding_or_memory_waiting_connection_yields_despite_input() {
    let slots = Arc::<Slots>::default();
    let mut crowd = streams(&slots, 1, peer("10.0.0.6"));
    (&crowd[5].1).write_all(b"more").expect("sent");
    assert!(crowd[5].0.waits());
    assert_eq!(sit_as(&slots, 1000, peer("10.0.0.6")).err(), Some(Full { is_passing: true }));
    assert!(!takes_no_more(&crowd[5].1), "what has come of a request is read");
    assert!(crowd[5].0.yields());
    assert_eq!(sit_as(&slots, 1001, peer("10.0.0.6")).err(), Some(Full { is_passing: true }));
    assert!(takes_no_more(&crowd[5].1));
    crowd.remove(5);
    assert!(sit(&slots, 1002, "10.0.0.6").is_some());
}

/// Another connection has the turn all the time.
#[test]
fn body_waiting_for_its_turn_yields_or_times_out() {
    let slots = Arc::<Slots>::default();
    let _turn = lock(&slots.bodies);
    let refused = |gives_way: bool| {
        let (slot, stream) = sit(&slots, 1, "127.0.0.1").expect("room");
        (&stream).write_all(b"more").expect("sent");
        let began = Instant::now();
        std::thread::scope(|scope| {
            let body = scope.spawn(|| slot.takes(1024 * 1024));
            while gives_way && !body.is_finished() {
                if matches!(slot.activity.doing(), Doing::Yields(_)) {
                    slots.have_waiting_give_way();
                }
                std::thread::yield_now();
            }
            assert_eq!(body.join().expect("no panic"), Err(Broken::TooManyBodies));
        });
        slot.gives_way() && began.elapsed() < Duration::from_secs(2)
    };
    assert!(!refused(false));
    // On a slow machine, its time can be over first.
    assert!((0..5).any(|_| refused(true)), "it does not give way");
}

#[test]
fn busy_connections_get_their_last_response_when_others_wait() {
    let slots = Arc::<Slots>::default();
    let sit_busy = |number| {
        let (slot, stream) = sit(&slots, number, "127.0.0.1")?;
        slot.set_operator(number % 4 == 0);
        assert_eq!(slot.works(), Works::On);
        Some((slot, stream))
    };
    let mut crowd: Vec<_> = (0..).map_while(sit_busy).collect();
    let leaving = |crowd: &[(Slot, UnixStream)]| crowd.iter().filter(|(slot, _)| slot.is_at_last_answer()).count();
    // However often a waiting connection tries to get a slot, no more connections leave than are needed.
    let before = leaving(&crowd);
    for _ in 0..5 {
        assert_eq!(sit_as(&slots, 1000, Peer::Local).err(), Some(Full { is_passing: true }));
    }
    assert!(before > 0 && leaving(&crowd) <= before + 1, "{before} {}", leaving(&crowd));
    assert!(crowd[1].0.is_at_last_answer(), "the oldest that is not an operator's");
    // Its last response turns out to have no known length, so another connection leaves.
    assert!(crowd[1].0.follows(Instant::now()));
    let before = leaving(&crowd);
    sit_as(&slots, 1000, Peer::Local).err().expect("full");
    assert_eq!(leaving(&crowd), before + 1);
    assert!(crowd.iter().all(|(slot, _)| !slot.is_operator() || !slot.is_at_last_answer()), "operators keep theirs");
    crowd.retain(|(slot, _)| !slot.is_at_last_answer());
    assert!(sit_as(&slots, 1000, Peer::Local).is_ok());
}

mod hurry;
mod yielding;
