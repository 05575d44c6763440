//! Wrong tokens, wrong codes, floods of right tokens, and which sources have to wait.

use std::sync::mpsc::{Receiver, Sender, channel};

use super::*;

const OTHER: &str = "203.0.113.8:5000";

/// Sends five wrong tokens, after which the source has to wait.
fn guess(app: &App, from: &str, who: &Credentials) {
    let with = [who.clone(), bearer("not-the-right-token")].concat();
    for _ in 0..5 {
        assert_eq!(status(app, from, "GET", "/api/pipeline", &with), 401);
    }
    assert_eq!(status(app, from, "GET", "/api/pipeline", &with), 429);
}

/// Any page can lead the owner's browser to links with wrong codes, so these must not make the right token wait.
#[test]
fn wrong_codes_delay_neither_the_right_token_nor_each_other() {
    let house = House::new();
    let app = house.network();
    let (owner, viewer) = (log_in(&app, TOKEN), log_in(&app, READ_TOKEN));
    for number in 0..300 {
        let text = ["never-made", "", "abcd-efgh-ijkm-npqr-stuv-wxyz"][number % 3];
        let who = [vec![], owner.clone(), viewer.clone()][number % 3].clone();
        assert_eq!(use_code(&app, OTHER, text, &who).status_code, 401, "{number}");
    }
    assert_eq!(status(&app, OTHER, "GET", "/api/pipeline", &bearer(TOKEN)), 200);
    // The waits for wrong tokens do not apply to codes either.
    guess(&app, GUESSER, &vec![]);
    assert_eq!(use_code(&app, GUESSER, "never-made", &vec![]).status_code, 401);
    assert_eq!(use_code(&app, GUESSER, &code(&app, PHONE, &bearer(TOKEN), "act"), &vec![]).status_code, 200);
}

#[test]
fn guesses_of_a_viewer_are_counted_and_its_session_never_waits() {
    let house = House::new();
    let app = house.network();
    let viewer = log_in(&app, READ_TOKEN);
    // A viewer's guesses are counted like those of any other client, and only its tokens have to wait.
    guess(&app, OTHER, &viewer);
    assert_eq!(status(&app, OTHER, "GET", "/api/pipeline", &viewer), 200);
    for who in [vec![], log_in(&app, READ_TOKEN)] {
        let with = [who, bearer(TOKEN)].concat();
        assert_eq!(status(&app, OTHER, "GET", "/api/pipeline", &with), 429, "neither without the session nor with a new one");
    }
    assert_eq!(status(&app, PHONE, "GET", "/api/pipeline", &bearer(TOKEN)), 200, "another address never waits");
}

#[test]
fn guesses_of_one_local_user_delay_no_other_user() {
    let house = House::new();
    let app = house.app(Reach::at(address(LOOPBACK)), true);
    let (own, stranger, third) = (own_uid(), own_uid() + 1, own_uid() + 2);
    let look = |uid: Option<u32>, from: &str, token: &str| {
        ask_as(uid, &app, from, "GET", "/api/pipeline", &[("Authorization", &format!("Bearer {token}"))], "").status_code
    };
    for number in 0..5 {
        let from = format!("127.0.0.{}:5", 2 + number);
        assert_eq!(look(Some(stranger), &from, "not-the-right-token"), 401);
    }
    assert_eq!(look(Some(stranger), "127.9.9.9:5", TOKEN), 429, "another address of loopback is no way out");
    assert_eq!([own, third].map(|uid| look(Some(uid), "127.0.0.2:5", TOKEN)), [200, 200]);
    for number in 0..5 {
        assert_eq!(look(None, &format!("127.0.1.{number}:5"), "not-the-right-token"), 401);
    }
    assert_eq!((look(None, "127.0.2.1:5", TOKEN), look(Some(own), "127.0.0.1:5", TOKEN)), (429, 200));
}

#[test]
fn guesses_of_a_network_delay_no_known_client_or_link() {
    let house = House::new();
    let app = house.network();
    let owner = log_in(&app, TOKEN);
    let home = "[2001:db8:0:1::5]:5";
    assert_eq!(status(&app, home, "GET", "/api/pipeline", &bearer(TOKEN)), 200);
    // Neighbours in the owner's /64, then other networks until the shared budget is spent.
    guess(&app, "[2001:db8:0:1::6]:5", &vec![]);
    assert_eq!(status(&app, home, "GET", "/api/pipeline", &bearer(TOKEN)), 429, "a /64 is one household");
    assert_eq!(status(&app, home, "GET", "/api/pipeline", &owner), 200, "whose owner's session is not asked");
    let from = |number: u32| format!("[2001:db8:{number:x}::1]:5");
    let spent =
        (10..1000).find(|&number| status(&app, &from(number), "GET", "/api/pipeline", &bearer("not-the-right-token")) == 429);
    assert_eq!(spent, Some(10 + 95), "a hundred in all");
    let stranger = "198.51.100.1:5";
    let refused = ask(&app, stranger, "GET", "/api/pipeline", &[("Authorization", &format!("Bearer {TOKEN}"))], "");
    assert_eq!((refused.status_code, header(&refused, "Retry-After").as_deref()), (429, Some("6")));
    assert!(
        read(refused)["detail"].as_str().is_some_and(|text| text.contains("many addresses") && text.contains("autoappdev pair"))
    );
    assert_eq!(status(&app, "10.9.9.9:7", "GET", "/api/pipeline", &bearer(TOKEN)), 200, "the owner has logged in from there");
    let made = code(&app, "10.9.9.9:7", &bearer(TOKEN), "act");
    assert_eq!(use_code(&app, stranger, &made, &vec![]).status_code, 200);
    assert_eq!(status(&app, stranger, "GET", "/api/pipeline", &bearer(TOKEN)), 200, "and so it is known");
    house.clock.forward(Duration::from_secs(6));
    assert_eq!(status(&app, "198.51.100.9:5", "GET", "/api/pipeline", &bearer(TOKEN)), 200, "the wait has an end");
}

#[test]
fn repeated_viewer_logins_end_no_other_viewers_session() {
    let house = House::new();
    let app = house.network();
    let other = log_in(&app, READ_TOKEN);
    let with = |token| ask(&app, GUESSER, "POST", "/api/login", &[], &json!({ "token": token }).to_string());
    let answers: Vec<u16> = (0..40).map(|_| with(READ_TOKEN).status_code).collect();
    assert_eq!((answers[..30].to_vec(), answers[30..].to_vec()), (vec![200; 30], vec![429; 10]));
    assert_eq!(status(&app, PHONE, "GET", "/api/pipeline", &other), 200);
    let refused = with(READ_TOKEN);
    assert_eq!(header(&refused, "Retry-After").as_deref(), Some("120"));
    assert_eq!(read(refused)["error"], "too_many_tries");
    assert_eq!(with(TOKEN).status_code, 200, "an operator is no viewer");
    house.clock.forward(Duration::from_secs(120));
    assert_eq!(with(READ_TOKEN).status_code, 200);
}

/// An address about which no other test of this process causes log lines. All tests share the log.
const TOLD_OF: &str = "203.0.113.99";

/// Receives the log lines about that address. Each line blocks until the test has sent its request to the server.
static TOLD: Mutex<Option<(Sender<()>, Receiver<()>)>> = Mutex::new(None);

struct SlowLog;

impl log::Log for SlowLog {
    fn enabled(&self, _: &log::Metadata<'_>) -> bool {
        true
    }

    fn log(&self, record: &log::Record<'_>) {
        if record.args().to_string().contains(TOLD_OF) {
            let told = TOLD.lock().expect("never poisoned");
            let (tell, asked) = told.as_ref().expect("it is set");
            tell.send(()).expect("it waits");
            asked.recv_timeout(Duration::from_secs(60)).expect("the log is written while others are checked");
        }
    }

    fn flush(&self) {}
}

#[test]
fn slow_log_write_about_guesses_delays_no_other_client() {
    let house = House::new();
    let app = house.network();
    let ((tell, told), (asked, is_asked)) = (channel(), channel());
    *TOLD.lock().expect("never poisoned") = Some((tell, is_asked));
    log::set_logger(&SlowLog).expect("the only one");
    log::set_max_level(log::LevelFilter::Warn);
    std::thread::scope(|scope| {
        let guesser = scope.spawn(|| {
            (0..5).map(|_| status(&app, &format!("{TOLD_OF}:5000"), "GET", "/api/pipeline", &bearer("no"))).collect::<Vec<_>>()
        });
        told.recv_timeout(Duration::from_secs(60)).expect("a line");
        assert_eq!(status(&app, OTHER, "GET", "/api/pipeline", &bearer(TOKEN)), 200);
        asked.send(()).expect("it waits");
        assert_eq!(guesser.join().expect("it was told"), [401; 5]);
    });
}

#[test]
fn viewers_and_guesses_of_many_addresses_do_not_delay_owner() {
    let house = House::new();
    let app = house.app(Reach::at(address("[::]:8788")), true);
    let (home, another) = ("198.51.100.1:5", own_uid() + 1);
    let at = |uid, from: &str, token| {
        ask_as(Some(uid), &app, from, "GET", "/api/pipeline", &[("Authorization", &format!("Bearer {token}"))], "").status_code
    };
    // Before anyone guesses, which is the usual case. The second client is a relay to which the owner sends the token.
    assert_eq!((at(own_uid(), home, TOKEN), at(another, "127.0.0.1:5", TOKEN)), (200, 200));
    for number in 0..70 {
        assert_eq!(at(own_uid(), &format!("203.0.113.{number}:5"), READ_TOKEN), 200);
    }
    let viewer = "203.0.113.70:5";
    assert_eq!(use_code(&app, viewer, &code(&app, PHONE, &bearer(TOKEN), "look"), &vec![]).status_code, 200);
    for number in 0..100 {
        assert_eq!(at(own_uid(), &format!("192.0.2.{number}:5"), "not-the-right-token"), 401);
    }
    assert_eq!(at(own_uid(), "192.0.2.100:5", "not-the-right-token"), 429, "the budget is spent");
    assert_eq!([home, "127.0.0.1:6", "127.0.0.9:6"].map(|from| at(own_uid(), from, TOKEN)), [200; 3]);
    assert_eq!(at(another, "127.0.0.1:7", TOKEN), 200, "it has sent the right one");
    assert_eq!((at(another + 1, "127.0.0.1:7", TOKEN), at(own_uid(), viewer, READ_TOKEN)), (429, 429));
    // Guesses by the server's own user are counted as well.
    for _ in 0..5 {
        assert_eq!(at(own_uid(), "127.0.0.1:6", "not-the-right-token"), 401);
    }
    assert_eq!(at(own_uid(), "127.0.0.1:6", TOKEN), 429);
}
