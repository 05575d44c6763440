//! Which connections give way sooner than usual, because few slots are left for new ones.

use super::*;

/// Fills the slots of one address with `viewers` viewers and, for the rest, operators, all of which have waited for a change
/// since `since`. Returns how many viewers and how many operators give way.
fn crowd(viewers: usize, since: Instant) -> [usize; 2] {
    let slots = Arc::<Slots>::default();
    let limit = FROM_ONE_ADDRESS_MAX;
    let crowd: Vec<_> = (0..limit as u64).filter_map(|number| sit(&slots, number, "10.0.0.6")).collect();
    for (at, (slot, _)) in crowd.iter().enumerate() {
        slot.set_operator(at >= viewers);
        slot.activity.set(Doing::Idles(since));
    }
    let open = lock(&slots.open);
    let order = Order::among(|| open.values(), limit);
    while let Some((seen, occupant)) = waits_longest(open.values(), order) {
        occupant.give_way(seen, &slots.is_hurried);
    }
    drop(open);
    let leave = |is_operator| crowd.iter().filter(|(slot, _)| slot.is_operator() == is_operator && slot.gives_way()).count();
    [leave(false), leave(true)]
}

#[test]
fn only_viewer_connections_are_hurried_when_slots_are_few() {
    let limit = FROM_ONE_ADDRESS_MAX;
    // The operators have more than their share, so none of their connections is kept for them.
    let most = limit - limit / KEPT_IN - limit / SPARE_IN;
    // On a slow machine, the usual time can be over before all connections have been checked.
    let in_time = |viewers| loop {
        let since = Instant::now().checked_sub(NEWS_PATIENCE / 2).expect("the machine runs for longer");
        let outcome = crowd(viewers, since);
        if since.elapsed() < NEWS_PATIENCE {
            return outcome;
        }
    };
    assert_eq!(in_time(most), [0, 0]);
    assert_eq!(in_time(most + 1), [most + 1, 0]);
}

/// While only polls of clients other than operators have the slots, one slot becomes free soon, even though none of them can give
/// way at this moment.
#[test]
fn new_connection_waits_for_viewer_polls_but_not_operators() {
    for is_operator in [false, true] {
        let slots = Arc::<Slots>::default();
        let mut crowd = Vec::new();
        let full = loop {
            match sit_as(&slots, crowd.len() as u64, peer("10.0.0.6")) {
                Ok((slot, stream)) => {
                    slot.set_operator(is_operator);
                    // Its wait begins in the future, so it cannot give way yet.
                    slot.activity.set(Doing::Idles(Instant::now() + Duration::from_hours(1)));
                    crowd.push((slot, stream));
                }
                Err(full) => break full,
            }
        };
        assert_eq!(full, Full { is_passing: !is_operator });
        assert!(crowd.iter().all(|(slot, _)| !slot.gives_way()));
    }
}
