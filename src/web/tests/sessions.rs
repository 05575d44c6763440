//! Sessions: when they begin and end, and which credentials identify one.

use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};

use super::*;

const DAY: Duration = Duration::from_secs(24 * 60 * 60);

#[test]
fn session_is_renewed_by_use_up_to_90_days() {
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
    // The next server loads the same sessions.
    let next = house.network();
    house.clock.forward((10 * DAY).saturating_sub(Duration::from_secs(1)));
    assert_eq!(status(&next, PHONE, "GET", "/api/pipeline", &who), 200);
    house.clock.forward(Duration::from_secs(1));
    for app in [&app, &next, &house.network()] {
        assert_eq!(status(app, PHONE, "GET", "/api/pipeline", &who), 401, "90 days are over");
    }
}

#[test]
fn unused_session_expires() {
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
fn changed_token_ends_its_sessions_for_good() {
    let house = House::new();
    let first = house.network();
    let (acts, looks) = (log_in(&first, TOKEN), log_in(&first, READ_TOKEN));
    let by_code = credentials_of(use_code(&first, PHONE, &code(&first, PHONE, &bearer(TOKEN), "act"), &vec![]));
    let changed = house.app_with(Reach::at(address(NETWORK)), true, "another-token-that-acts");
    let at = |app: &App| [&acts, &by_code, &looks].map(|who| status(app, PHONE, "GET", "/api/pipeline", who));
    assert_eq!(at(&changed), [401, 401, 200]);
    assert_eq!(at(&house.network()), [401, 401, 200], "the former token does not bring them back");
}

#[test]
fn logout_ends_one_session_and_needs_cookie_and_proof() {
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
fn operator_lists_and_ends_sessions_and_viewer_cannot() {
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
fn ending_all_sessions_leaves_no_row() {
    let house = House::new();
    let app = house.network();
    let (_unreadable, who) = (log_in(&app, READ_TOKEN), log_in(&app, TOKEN));
    let database = rusqlite::Connection::open(house.dir.path().join("autoappdev.db")).expect("opens");
    // A later version may write such a row.
    database.execute_batch("UPDATE sessions SET role = 'owner' WHERE role = 'look'").expect("the form is no rule");
    let next = house.network();
    assert_eq!(sessions(&next).len(), 1);
    assert_eq!(status(&next, PHONE, "GET", "/api/pipeline", &who), 200);
    let end = ask(&next, PHONE, "POST", "/api/sessions/end", &fields(&who), r#"{"all":true}"#);
    assert_eq!(read(end), json!({"ok": true, "ended": 1}));
    let rows: i64 = database.query_row("SELECT count(*) FROM sessions", (), |row| row.get(0)).expect("reads");
    assert_eq!(rows, 0);
}

#[test]
fn sessions_are_limited_per_role_and_longest_unused_is_removed() {
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
fn login_of_same_browser_replaces_previous_session() {
    let house = House::new();
    let app = house.network();
    let viewer = log_in(&app, READ_TOKEN);
    let operator = credentials_of(use_code(&app, PHONE, &code(&app, PHONE, &bearer(TOKEN), "act"), &viewer));
    assert_eq!([&viewer, &operator].map(|who| status(&app, PHONE, "GET", "/api/pipeline", who)), [401, 200]);
    assert_eq!(sessions(&app).len(), 1);
}

#[test]
fn injected_cookies_do_not_hide_the_valid_one() {
    let house = House::new();
    let app = house.network();
    let who = log_in(&app, TOKEN);
    let (name, value) = who[0].1.split_once('=').expect("a pair");
    let (id, _) = value.split_once('.').expect("its id");
    // A server on another port knows the id from the cookie that the browser sent it.
    let tossed: Vec<String> = (0..400).map(|number| format!("{name}={id}.{number}")).collect();
    let cookies = format!("{name}; {name}=; {name}=.; {}; {name}={value}; {name}=\u{e9}", tossed.join("; "));
    let all: Credentials = vec![("Cookie", cookies), who[1].clone()];
    assert_eq!(status(&app, PHONE, "GET", "/api/pipeline", &all), 200);
}

#[test]
fn download_proof_opens_only_a_run_log() {
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
fn concurrent_viewer_logins_are_stored_one_at_a_time() {
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
