//! Steps of the wall clock: what they do to sessions, codes and waits.

use super::*;

const DAY: Duration = Duration::from_secs(24 * 60 * 60);

fn is_let_in(app: &App, who: &Credentials) -> bool {
    match status(app, PHONE, "GET", "/api/pipeline", who) {
        200 => true,
        401 => false,
        other => panic!("{other}"),
    }
}

#[test]
fn clock_set_forward_suspends_a_session_and_set_back_does_not_extend_it() {
    let house = House::new();
    let app = house.network();
    let who = log_in(&app, TOKEN);
    house.clock.step(365);
    assert!(!is_let_in(&app, &who) && sessions(&app).is_empty());
    house.clock.step(-365);
    assert!(is_let_in(&app, &who), "the clock was wrong, and nobody has ended the session");
    house.clock.step(-365);
    // A server that starts now knows only the wall clock, and gives no session more time than a new one has.
    let next = house.network();
    let renewed = header(&ask(&app, PHONE, "GET", "/api/session", &fields(&who), ""), "Set-Cookie");
    assert!(renewed.is_none(), "a renewal would end it earlier than it ends now");
    house.clock.forward((30 * DAY).saturating_sub(Duration::from_secs(1)));
    assert!(is_let_in(&app, &who) && is_let_in(&next, &who));
    house.clock.forward(Duration::from_secs(1));
    assert!(!is_let_in(&app, &who) && !is_let_in(&next, &who), "30 days have passed, whatever the wall clock shows");
}

#[test]
fn clock_set_back_does_not_renew_a_session_beyond_its_age() {
    let house = House::new();
    let app = house.network();
    let who = log_in(&app, TOKEN);
    let renew = || header(&ask(&app, PHONE, "GET", "/api/session", &fields(&who), ""), "Set-Cookie").is_some();
    let mut days = 0;
    while is_let_in(&app, &who) {
        house.clock.forward(10 * DAY);
        days += 10;
        // Each time, the clock is set back by half of the time that has passed.
        house.clock.step(-5);
        renew();
        assert!(days <= 180, "90 days of the wall clock, at twice the pace");
    }
    assert!(!is_let_in(&house.network(), &who), "nor does a restart bring it back");
}

#[test]
fn used_session_is_not_evicted_after_clock_is_set_back() {
    let house = House::new();
    let app = house.network();
    let (used, unused) = (log_in(&app, TOKEN), log_in(&app, TOKEN));
    house.clock.step(-365);
    assert!(is_let_in(&app, &used));
    for _ in 0..31 {
        log_in(&app, TOKEN);
    }
    assert!(is_let_in(&app, &used), "it was used after the other");
    assert!(!is_let_in(&app, &unused), "32 have room");
}

#[test]
fn clock_step_changes_neither_code_lifetime_nor_wait() {
    for days in [365, -365] {
        let house = House::new();
        let app = house.network();
        let codes = [(); 2].map(|()| code(&app, PHONE, &bearer(TOKEN), "act"));
        let guess = || {
            let response = ask(&app, GUESSER, "GET", "/api/pipeline", &[("Authorization", "Bearer not-the-right-token")], "");
            (response.status_code, header(&response, "Retry-After"))
        };
        let waits = (0..20).map(|_| guess()).find(|answer| answer.0 == 429).expect("it has to wait");
        house.clock.step(days);
        assert_eq!(guess(), waits, "{days} days");
        assert_eq!(use_code(&app, PHONE, &codes[0], &vec![]).status_code, 200, "{days} days");
        let seconds = waits.1.expect("how long").parse().expect("a number");
        house.clock.forward(Duration::from_secs(seconds));
        assert_eq!(guess().0, 401, "{days} days: the wait is over");
        house.clock.forward(Duration::from_secs(10 * 60));
        house.clock.step(-days);
        assert_eq!(use_code(&app, PHONE, &codes[1], &vec![]).status_code, 401, "{days} days: it has expired");
    }
}

#[test]
fn stored_session_lifetime_is_capped_by_login_limits() {
    let house = House::new();
    let app = house.network();
    let (one, two) = (log_in(&app, TOKEN), log_in(&app, READ_TOKEN));
    let database = rusqlite::Connection::open(house.dir.path().join("autoappdev.db")).expect("opens");
    let changed =
        database.execute("UPDATE sessions SET expires_at = '9999-12-31T23:59:59.999Z', ends_at = '9999-12-31T23:59:59.999Z'", []);
    assert_eq!(changed.expect("changed"), 2);
    let next = house.network();
    let listed = sessions(&next);
    assert_eq!((listed.len(), listed.iter().any(|it| it.to_string().contains("9999"))), (2, false), "{listed:?}");
    // A renewal stores what the login's age allows.
    house.clock.forward(16 * DAY);
    assert!(header(&ask(&next, PHONE, "GET", "/api/session", &fields(&one), ""), "Set-Cookie").is_some());
    house.clock.forward(15 * DAY);
    assert!(is_let_in(&house.network(), &one) && !is_let_in(&house.network(), &two), "30 days without a renewal");
    house.clock.forward(60 * DAY);
    assert!(!is_let_in(&house.network(), &one), "and 90 days in any case");
}
