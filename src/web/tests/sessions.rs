//! Sessions, one-time codes, and who waits for whose guesses.

use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use std::sync::mpsc::{Receiver, Sender, channel};

use super::*;

const DAY: Duration = Duration::from_secs(24 * 60 * 60);
const GUESSER: &str = "203.0.113.7:5000";
const OTHER: &str = "203.0.113.8:5000";

fn status(app: &App, from: &str, method: &str, path: &str, who: &Credentials) -> u16 {
    ask(app, from, method, path, &fields(who), if method == "POST" { "{}" } else { "" }).status_code
}

fn code(app: &App, may: &str) -> String {
    let with = format!("Bearer {TOKEN}");
    let response = ask(app, PHONE, "POST", "/api/pair", &[("Authorization", &with)], &format!(r#"{{"may":"{may}"}}"#));
    assert_eq!(response.status_code, 200);
    let answer = read(response);
    assert_eq!((&answer["ok"], &answer["may"]), (&json!(true), &json!(may)));
    answer["code"].as_str().expect("a code").to_owned()
}

fn use_code(app: &App, from: &str, code: &str, who: &Credentials) -> Response {
    ask(app, from, "POST", "/api/login", &fields(who), &json!({ "code": code }).to_string())
}

fn sessions(app: &App) -> Vec<Value> {
    let with = format!("Bearer {TOKEN}");
    let answer = read(ask(app, PHONE, "GET", "/api/sessions", &[("Authorization", &with)], ""));
    answer["sessions"].as_array().expect("a list").clone()
}

/// Five wrong tokens, after which the source has to wait.
fn guess(app: &App, from: &str, who: &Credentials) {
    let with = [who.clone(), bearer("not-the-right-token")].concat();
    for _ in 0..5 {
        assert_eq!(status(app, from, "GET", "/api/pipeline", &with), 401);
    }
    assert_eq!(status(app, from, "GET", "/api/pipeline", &with), 429);
}

#[test]
fn page_that_is_open_now_and_then_stays_logged_in_until_its_age_ends() {
    let house = House::new();
    let app = house.network();
    let who = log_in(&app, TOKEN);
    let look = |who: &Credentials| {
        let response = ask(&app, PHONE, "GET", "/api/session", &fields(who), "");
        (response.status_code, header(&response, "Set-Cookie"), header(&response, "Cache-Control"))
    };
    assert_eq!(look(&who).1, None, "it has hardly begun");
    assert_eq!(
        ask(&app, PHONE, "GET", "/", &fields(&who), "").headers.iter().filter(|(name, _)| name == "Set-Cookie").count(),
        0
    );
    let mut lifetimes = Vec::new();
    for _ in 0..5 {
        house.clock.forward(16 * DAY);
        let (status, cookie, caching) = look(&who);
        assert_eq!((status, caching.as_deref()), (200, Some("no-store")), "no cache keeps a session");
        let cookie = cookie.unwrap_or_default();
        assert!(cookie.is_empty() || cookie.starts_with(&who[0].1), "it stays the same: {cookie}");
        lifetimes.push(
            cookie.split("Max-Age=").nth(1).and_then(|rest| rest.split(';').next()?.parse::<u64>().ok()).map(|s| s / 86400),
        );
    }
    assert_eq!(lifetimes, [Some(30), Some(30), Some(30), Some(26), None], "it cannot last longer than 90 days");
    // The next server knows the same.
    let next = house.network();
    house.clock.forward((10 * DAY).saturating_sub(Duration::from_secs(1)));
    assert_eq!(status(&next, PHONE, "GET", "/api/pipeline", &who), 200);
    house.clock.forward(Duration::from_secs(1));
    for app in [&app, &next, &house.network()] {
        assert_eq!(status(app, PHONE, "GET", "/api/pipeline", &who), 401, "90 days are over");
    }
}

#[test]
fn session_that_is_not_used_expires() {
    let house = House::new();
    let app = house.network();
    let who = log_in(&app, TOKEN);
    house.clock.forward((30 * DAY).saturating_sub(Duration::from_secs(1)));
    assert_eq!(status(&app, PHONE, "GET", "/api/pipeline", &who), 200);
    house.clock.forward(Duration::from_secs(1));
    assert_eq!(status(&app, PHONE, "GET", "/api/pipeline", &who), 401);
    assert!(sessions(&app).is_empty());
    assert_eq!(look_for_cookie(&app, &who), None, "one that is over is not renewed");
}

fn look_for_cookie(app: &App, who: &Credentials) -> Option<String> {
    header(&ask(app, PHONE, "GET", "/api/session", &fields(who), ""), "Set-Cookie")
}

#[test]
fn token_that_changes_ends_the_sessions_made_with_it_for_good() {
    let house = House::new();
    let first = house.network();
    let (acts, looks) = (log_in(&first, TOKEN), log_in(&first, READ_TOKEN));
    let by_code = credentials_of(use_code(&first, PHONE, &code(&first, "act"), &vec![]));
    let changed = house.app_with(Reach::at(address(NETWORK)), true, "another-token-that-acts");
    let at = |app: &App| [&acts, &by_code, &looks].map(|who| status(app, PHONE, "GET", "/api/pipeline", who));
    assert_eq!(at(&changed), [401, 401, 200]);
    assert_eq!(at(&house.network()), [401, 401, 200], "the former token does not bring them back");
}

#[test]
fn log_out_ends_one_session_and_needs_both_halves() {
    let house = House::new();
    let app = house.network();
    let (mine, other) = (log_in(&app, TOKEN), log_in(&app, TOKEN));
    for half in [mine[..1].to_vec(), mine[1..].to_vec(), vec![mine[0].clone(), other[1].clone()]] {
        let response = ask(&app, PHONE, "POST", "/api/logout", &fields(&half), "{}");
        assert!(header(&response, "Set-Cookie").is_some_and(|cookie| cookie.contains("Max-Age=0")), "that browser's is gone");
        assert_eq!(status(&app, PHONE, "GET", "/api/pipeline", &mine), 200, "and nothing has ended");
    }
    assert_eq!(status(&app, PHONE, "POST", "/api/logout", &mine), 200);
    assert_eq!([&mine, &other].map(|who| status(&app, PHONE, "GET", "/api/pipeline", who)), [401, 200]);
    assert_eq!([&mine, &other].map(|who| status(&house.network(), PHONE, "GET", "/api/pipeline", who)), [401, 200]);
}

#[test]
fn operator_lists_and_ends_sessions_and_a_viewer_does_neither() {
    let house = House::new();
    let app = house.network();
    let fields_of_login = [("User-Agent", "Fox\u{e9}\u{1b}[2J / 1.0")];
    let response =
        ask(&app, "[2001:db8::7]:5000", "POST", "/api/login", &fields_of_login, &json!({ "token": TOKEN }).to_string());
    let owner = credentials_of(response);
    house.clock.forward(Duration::from_secs(60));
    let viewer = log_in(&app, READ_TOKEN);
    let listed = read(ask(&app, PHONE, "GET", "/api/sessions", &fields(&owner), ""));
    let listed = listed["sessions"].as_array().expect("a list");
    let told = |key: &str| listed.iter().map(|session| session[key].clone()).collect::<Vec<_>>();
    assert_eq!(told("may"), ["act", "look"]);
    assert_eq!(told("is_own"), [true, false]);
    assert_eq!(told("address"), ["2001:db8::7", "10.9.9.9"]);
    assert_eq!(told("user_agent"), ["Fox??[2J / 1.0", ""]);
    assert_eq!(told("created_at"), ["2027-01-15T08:00:00.000Z", "2027-01-15T08:01:00.000Z"]);
    assert!(!listed.iter().any(|session| owner.iter().any(|(_, secret)| session.to_string().contains(secret.as_str()))));
    for (method, path) in [("GET", "/api/sessions"), ("POST", "/api/sessions/end"), ("POST", "/api/pair")] {
        assert_eq!(status(&app, PHONE, method, path, &viewer), 403, "{path}");
        assert_eq!(status(&app, PHONE, method, path, &vec![]), 401, "{path}");
    }
    let end = |body: Value| {
        let response = ask(&app, PHONE, "POST", "/api/sessions/end", &fields(&owner), &body.to_string());
        (response.status_code, read(response))
    };
    for body in [json!({}), json!({"all": false}), json!({"id": "x", "all": true}), json!({"id": 7}), json!({"ids": []})] {
        assert_eq!(end(body.clone()).0, 400, "{body}");
    }
    let (missing, answer) = end(json!({"id": "abcd-efgh"}));
    assert_eq!((missing, &answer["error"]), (404, &json!("not_found")));
    assert_eq!(end(json!({"id": listed[1]["id"]})).1, json!({"ok": true, "ended": 1}));
    assert_eq!([&owner, &viewer].map(|who| status(&app, PHONE, "GET", "/api/pipeline", who)), [200, 401]);
    log_in(&app, READ_TOKEN);
    assert_eq!(end(json!({"all": true})).1, json!({"ok": true, "ended": 2}));
    assert_eq!(status(&app, PHONE, "GET", "/api/pipeline", &owner), 401, "its own, too");
    assert!(sessions(&house.network()).is_empty(), "nothing of it is stored");
}

#[test]
fn sessions_have_a_bound_for_each_role_and_the_one_unused_longest_goes() {
    let house = House::new();
    let app = house.network();
    let owner = log_in(&app, TOKEN);
    let (kept, forgotten) = (log_in(&app, READ_TOKEN), log_in(&app, READ_TOKEN));
    for _ in 0..31 {
        house.clock.forward(Duration::from_secs(120));
        assert_eq!(status(&app, PHONE, "GET", "/api/pipeline", &kept), 200);
        log_in(&app, READ_TOKEN);
    }
    let at = |app: &App| [&owner, &kept, &forgotten].map(|who| status(app, PHONE, "GET", "/api/pipeline", who));
    assert_eq!(at(&app), [200, 200, 401], "viewers take no place from operators");
    assert_eq!((sessions(&app).len(), at(&house.network())), (33, [200, 200, 401]));
}

#[test]
fn log_in_of_the_same_browser_takes_the_place_of_the_one_before() {
    let house = House::new();
    let app = house.network();
    let viewer = log_in(&app, READ_TOKEN);
    let operator = credentials_of(use_code(&app, PHONE, &code(&app, "act"), &viewer));
    assert_eq!([&viewer, &operator].map(|who| status(&app, PHONE, "GET", "/api/pipeline", who)), [401, 200]);
    assert_eq!(sessions(&app).len(), 1);
}

#[test]
fn tossed_cookies_do_not_hide_the_right_one() {
    let house = House::new();
    let app = house.network();
    let who = log_in(&app, TOKEN);
    let (name, value) = who[0].1.split_once('=').expect("a pair");
    let (id, _) = value.split_once('.').expect("its id");
    // A neighbour's server knows the id from the cookie that it was sent.
    let tossed: Vec<String> = (0..400).map(|number| format!("{name}={id}.{number}")).collect();
    let cookies = format!("{name}; {name}=; {name}=.; {}; {name}={value}; {name}=\u{e9}", tossed.join("; "));
    let all: Credentials = vec![("Cookie", cookies), who[1].clone()];
    assert_eq!(status(&app, PHONE, "GET", "/api/pipeline", &all), 200);
}

#[test]
fn proof_of_a_link_opens_the_log_of_a_run_and_nothing_else() {
    let house = House::new();
    let app = house.network();
    let response = ask(&app, PHONE, "POST", "/api/login", &[], &json!({ "token": TOKEN }).to_string());
    let cookie = header(&response, "Set-Cookie").expect("a cookie").split(';').next().expect("a pair").to_owned();
    let answer = read(response);
    let [proof, link] = ["proof", "download_proof"].map(|key| answer[key].as_str().expect("text").to_owned());
    let at = |path: String, fields: &[(&str, &str)]| ask(&app, PHONE, "GET", &path, fields, "").status_code;
    let cookie = ("Cookie", cookie.as_str());
    assert_eq!(at(format!("/api/runs/7/log?proof={link}"), &[cookie]), 404, "it is let in, and there is no run");
    assert_eq!(at(format!("/api/runs/7/log?download=1&proof={link}"), &[cookie]), 404);
    assert_eq!(at(format!("/api/runs/7/log?proof={proof}"), &[cookie]), 401, "the other one stands in no address");
    assert_eq!(at(format!("/api/runs/7/log?proof={link}"), &[]), 401);
    assert_eq!(at("/api/runs/7/log".to_owned(), &[cookie, ("X-AutoAppDev-Proof", &link)]), 401);
    for path in ["/api/pipeline", "/api/logs", "/api/runs/7", "/api/session", "/api/events"] {
        assert_eq!(at(format!("{path}?proof={link}"), &[cookie]), 401, "{path}");
        assert_eq!(
            at(format!("{path}?proof={link}"), &[cookie, ("X-AutoAppDev-Proof", &proof)]),
            400,
            "{path} takes no such key"
        );
    }
}

#[test]
fn code_logs_in_once_and_a_wrong_one_has_one_error() {
    let house = House::new();
    let app = house.network();
    let (first, second) = (code(&app, "look"), code(&app, "act"));
    let who = credentials_of(use_code(&app, PHONE, &first, &vec![]));
    assert_eq!(read(ask(&app, PHONE, "GET", "/api/session", &fields(&who), ""))["session"]["may"], "look");
    house.clock.forward(Duration::from_secs(10 * 60));
    let refused = [first.as_str(), second.as_str(), "never-made", ""].map(|code| {
        let response = use_code(&app, GUESSER, code, &vec![]);
        (response.status_code, read(response))
    });
    assert!(refused.iter().all(|answer| *answer == refused[0]), "used, expired and wrong are told alike: {refused:?}");
    assert_eq!((refused[0].0, &refused[0].1["error"]), (401, &json!("invalid_code")));
    for body in ["{}", r#"{"token":"x","code":"y"}"#, r#"{"code":7}"#] {
        assert_eq!(ask(&app, PHONE, "POST", "/api/login", &[], body).status_code, 400, "{body}");
    }
    // A client that is trusted does not use it up.
    let loopback = house.app(Reach::at(address(LOOPBACK)), false);
    let trusted = App { authenticator: app.authenticator.clone(), ..loopback };
    let third = code(&app, "act");
    assert_eq!(read(use_code(&trusted, "127.0.0.1:1", &third, &vec![])), json!({"ok": true, "may": "act"}));
    assert_eq!(use_code(&app, PHONE, &third, &vec![]).status_code, 200);
}

#[test]
fn wrong_link_costs_a_stranger_and_nobody_who_is_signed_in() {
    let house = House::new();
    let app = house.network();
    let (owner, viewer) = (log_in(&app, TOKEN), log_in(&app, READ_TOKEN));
    for _ in 0..20 {
        assert_eq!(use_code(&app, GUESSER, "never-made", &owner).status_code, 401);
    }
    assert_eq!(use_code(&app, GUESSER, "never-made", &vec![]).status_code, 401, "none of them was counted");
    let answers: Vec<u16> = (0..8).map(|_| use_code(&app, GUESSER, "never-made", &vec![]).status_code).collect();
    assert_eq!(answers, [401, 401, 401, 401, 429, 429, 429, 429]);
    // A right one is let in all the same: that is the owner's way in, whatever the neighbours do.
    assert_eq!(use_code(&app, GUESSER, &code(&app, "act"), &vec![]).status_code, 200);
    // A viewer's guesses are counted like a stranger's, and cost nothing but guesses.
    guess(&app, OTHER, &viewer);
    assert_eq!(use_code(&app, OTHER, "never-made", &viewer).status_code, 429);
    assert_eq!(status(&app, OTHER, "GET", "/api/pipeline", &viewer), 200);
    for who in [vec![], log_in(&app, READ_TOKEN)] {
        let with = [who, bearer(TOKEN)].concat();
        assert_eq!(status(&app, OTHER, "GET", "/api/pipeline", &with), 429, "neither without the session nor with a new one");
    }
    assert_eq!(status(&app, PHONE, "GET", "/api/pipeline", &bearer(TOKEN)), 200, "another address never waits");
}

#[test]
fn guesses_of_one_user_of_the_machine_cost_no_other() {
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
fn guesses_of_a_whole_network_cost_neither_sessions_nor_known_addresses_nor_links() {
    let house = House::new();
    let app = house.network();
    let owner = log_in(&app, TOKEN);
    let home = "[2001:db8:0:1::5]:5";
    assert_eq!(status(&app, home, "GET", "/api/pipeline", &bearer(TOKEN)), 200);
    // Neighbours in the owner's /64, and as many other networks as there may be.
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
    let made = house_code(&app);
    assert_eq!(use_code(&app, stranger, &made, &vec![]).status_code, 200);
    assert_eq!(status(&app, stranger, "GET", "/api/pipeline", &bearer(TOKEN)), 200, "and so it is known");
    house.clock.forward(Duration::from_secs(6));
    assert_eq!(status(&app, "198.51.100.9:5", "GET", "/api/pipeline", &bearer(TOKEN)), 200, "the wait has an end");
}

/// A code that the owner makes from where the owner is known.
fn house_code(app: &App) -> String {
    let with = format!("Bearer {TOKEN}");
    let answer = read(ask(app, "10.9.9.9:7", "POST", "/api/pair", &[("Authorization", &with)], "{}"));
    answer["code"].as_str().expect("a code").to_owned()
}

/// A code that these credentials make.
fn code_of(app: &App, who: &Credentials) -> String {
    let answer = read(ask(app, PHONE, "POST", "/api/pair", &fields(who), r#"{"may":"act"}"#));
    answer["code"].as_str().expect("a code").to_owned()
}

fn end_sessions(app: &App, body: &Value) {
    let with = format!("Bearer {TOKEN}");
    let response = ask(app, PHONE, "POST", "/api/sessions/end", &[("Authorization", &with)], &body.to_string());
    assert_eq!(response.status_code, 200);
}

#[test]
fn codes_end_with_the_session_that_made_them_and_with_all() {
    let house = House::new();
    let app = house.network();
    let (revoked, leaves, stays) = (log_in(&app, TOKEN), log_in(&app, TOKEN), log_in(&app, TOKEN));
    let [of_revoked, of_leaves, of_stays] = [&revoked, &leaves, &stays].map(|who| code_of(&app, who));
    let id = revoked[0].1.split_once('=').and_then(|(_, value)| value.split_once('.')).expect("an id").0;
    end_sessions(&app, &json!({ "id": id }));
    assert_eq!(status(&app, PHONE, "POST", "/api/logout", &leaves), 200);
    let at = |code: &str| use_code(&app, PHONE, code, &vec![]).status_code;
    assert_eq!([&of_revoked, &of_leaves, &of_stays].map(|code| at(code)), [401, 401, 200]);
    let (of_session, of_token) = (code_of(&app, &stays), code_of(&app, &bearer(TOKEN)));
    end_sessions(&app, &json!({ "all": true }));
    assert_eq!([&of_session, &of_token].map(|code| at(code)), [401, 401]);
    assert!(sessions(&app).is_empty());
    assert_eq!(at(&code_of(&app, &bearer(TOKEN))), 200, "a new one is good");
}

/// The usual writer, which calls this before it hands a change on.
fn writer_with(house: &House, before: impl Fn() + Send + Sync + 'static) -> Writer {
    let writer = house.supervisor.as_ref().expect("it runs").handle().writer().clone();
    Writer::new(move |mut work| {
        before();
        let change = move |store: &mut Store| {
            let done = work.run(store);
            work.answer(done);
            Ok(())
        };
        writer.begin(change).is_ok()
    })
}

#[test]
fn log_in_that_is_being_stored_while_all_are_ended_is_ended_too() {
    let house = House::new();
    let (usual, ends_all) = (house.network(), Arc::new(Mutex::new(None::<Arc<Authenticator>>)));
    let writer = writer_with(&house, {
        let ends_all = ends_all.clone();
        // Once: the end of all writes, too.
        move || {
            let authenticator = ends_all.lock().expect("never poisoned").take();
            if let Some(authenticator) = authenticator {
                authenticator.end(None).expect("ended");
            }
        }
    });
    let app = App { authenticator: house.authenticator_with(TOKEN, writer), ..usual };
    let of_token = code_of(&app, &bearer(TOKEN));
    *ends_all.lock().expect("never poisoned") = Some(app.authenticator.clone());
    assert_eq!(use_code(&app, PHONE, &of_token, &vec![]).status_code, 401);
    assert!(sessions(&app).is_empty() && sessions(&house.network()).is_empty(), "nothing of it is stored");
    assert!(ends_all.lock().expect("never poisoned").is_none(), "all were ended meanwhile");
}

#[test]
fn flood_of_a_viewers_log_ins_is_one_write_at_a_time() {
    let house = House::new();
    let usual = house.network();
    let [begun, under_way, most] = [(); 3].map(|()| Arc::new(AtomicUsize::new(0)));
    let real = house.supervisor.as_ref().expect("it runs").handle().writer().clone();
    let writer = Writer::new({
        let (begun, most) = (begun.clone(), most.clone());
        move |mut work| {
            begun.fetch_add(1, SeqCst);
            most.fetch_max(under_way.fetch_add(1, SeqCst) + 1, SeqCst);
            let under_way = under_way.clone();
            let change = move |store: &mut Store| {
                let done = work.run(store);
                under_way.fetch_sub(1, SeqCst);
                work.answer(done);
                Ok(())
            };
            real.begin(change).is_ok()
        }
    });
    let app = App { authenticator: house.authenticator_with(TOKEN, writer), ..usual };
    let by_start = begun.load(SeqCst);
    let log_in = |number: usize| {
        let body = json!({ "token": READ_TOKEN }).to_string();
        ask(&app, &format!("10.1.1.{number}:5"), "POST", "/api/login", &[], &body).status_code
    };
    std::thread::scope(|scope| {
        let log_in = &log_in;
        let crowd: Vec<_> = (0..40).map(|number| scope.spawn(move || log_in(number))).collect();
        let answers: Vec<u16> = crowd.into_iter().map(|one| one.join().expect("it is answered")).collect();
        assert!(answers.contains(&200) && answers.iter().all(|status| matches!(status, 200 | 503)), "{answers:?}");
        let stored = answers.iter().filter(|&&status| status == 200).count();
        assert_eq!(begun.load(SeqCst) - by_start, stored, "also where a session makes room");
    });
    assert_eq!(most.load(SeqCst), 1);
}

#[test]
fn viewer_who_logs_in_again_and_again_ends_no_other_viewers_session() {
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

/// Where the log's lines about the guesser go: whoever takes them answers once it has asked the server.
static TOLD: Mutex<Option<(Sender<()>, Receiver<()>)>> = Mutex::new(None);

struct SlowLog;

impl log::Log for SlowLog {
    fn enabled(&self, _: &log::Metadata<'_>) -> bool {
        true
    }

    fn log(&self, record: &log::Record<'_>) {
        if record.args().to_string().contains("203.0.113.7") {
            let told = TOLD.lock().expect("never poisoned");
            let (tell, asked) = told.as_ref().expect("it is set");
            tell.send(()).expect("it waits");
            asked.recv_timeout(Duration::from_secs(60)).expect("the log is written while others are checked");
        }
    }

    fn flush(&self) {}
}

#[test]
fn line_about_a_guesser_holds_up_no_other_client() {
    let house = House::new();
    let app = house.network();
    let ((tell, told), (asked, is_asked)) = (channel(), channel());
    *TOLD.lock().expect("never poisoned") = Some((tell, is_asked));
    log::set_logger(&SlowLog).expect("the only one");
    log::set_max_level(log::LevelFilter::Warn);
    std::thread::scope(|scope| {
        let guesser =
            scope.spawn(|| (0..5).map(|_| status(&app, GUESSER, "GET", "/api/pipeline", &bearer("no"))).collect::<Vec<_>>());
        told.recv_timeout(Duration::from_secs(60)).expect("a line");
        assert_eq!(status(&app, OTHER, "GET", "/api/pipeline", &bearer(TOKEN)), 200);
        asked.send(()).expect("it waits");
        assert_eq!(guesser.join().expect("it was told"), [401; 5]);
    });
}

#[test]
fn viewers_and_guesses_of_many_addresses_do_not_make_the_owner_wait() {
    let house = House::new();
    let app = house.app(Reach::at(address("[::]:8788")), true);
    let (home, another) = ("198.51.100.1:5", own_uid() + 1);
    let at = |uid, from: &str, token| {
        ask_as(Some(uid), &app, from, "GET", "/api/pipeline", &[("Authorization", &format!("Bearer {token}"))], "").status_code
    };
    // While nobody guesses, as it is nearly always. The second one is a relay to which the owner sends the token.
    assert_eq!((at(own_uid(), home, TOKEN), at(another, "127.0.0.1:5", TOKEN)), (200, 200));
    for number in 0..70 {
        assert_eq!(at(own_uid(), &format!("203.0.113.{number}:5"), READ_TOKEN), 200);
    }
    let viewer = "203.0.113.70:5";
    assert_eq!(use_code(&app, viewer, &code(&app, "look"), &vec![]).status_code, 200);
    for number in 0..100 {
        assert_eq!(at(own_uid(), &format!("192.0.2.{number}:5"), "not-the-right-token"), 401);
    }
    assert_eq!(at(own_uid(), "192.0.2.100:5", "not-the-right-token"), 429, "the budget is spent");
    assert_eq!([home, "127.0.0.1:6", "127.0.0.9:6"].map(|from| at(own_uid(), from, TOKEN)), [200; 3]);
    assert_eq!(at(another, "127.0.0.1:7", TOKEN), 200, "it has sent the right one");
    assert_eq!((at(another + 1, "127.0.0.1:7", TOKEN), at(own_uid(), viewer, READ_TOKEN)), (429, 429));
    // The own user's guesses are counted all the same.
    for _ in 0..5 {
        assert_eq!(at(own_uid(), "127.0.0.1:6", "not-the-right-token"), 401);
    }
    assert_eq!(at(own_uid(), "127.0.0.1:6", TOKEN), 429);
}
