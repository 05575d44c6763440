//! One-time codes: each logs in once, unless something invalidates it first.

use super::*;

fn end_sessions(app: &App, body: &Value) {
    let with = format!("Bearer {TOKEN}");
    let response = ask(app, PHONE, "POST", "/api/sessions/end", &[("Authorization", &with)], &body.to_string());
    assert_eq!(response.status_code, 200);
}

#[test]
fn one_time_code_works_once_and_bad_codes_fail_alike() {
    let house = House::new();
    let app = house.network();
    let (first, second) = (code(&app, PHONE, &bearer(TOKEN), "look"), code(&app, PHONE, &bearer(TOKEN), "act"));
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
    // A trusted client does not use the code up.
    let loopback = house.app(Reach::at(address(LOOPBACK)), false);
    let trusted = App { authenticator: app.authenticator.clone(), ..loopback };
    let third = code(&app, PHONE, &bearer(TOKEN), "act");
    assert_eq!(read(use_code(&trusted, "127.0.0.1:1", &third, &vec![])), json!({"ok": true, "may": "act"}));
    assert_eq!(use_code(&app, PHONE, &third, &vec![]).status_code, 200);
}

#[test]
fn codes_end_with_their_session_and_with_all_sessions() {
    let house = House::new();
    let app = house.network();
    let (revoked, leaves, stays) = (log_in(&app, TOKEN), log_in(&app, TOKEN), log_in(&app, TOKEN));
    let [of_revoked, of_leaves, of_stays] = [&revoked, &leaves, &stays].map(|who| code(&app, PHONE, who, "act"));
    let id = revoked[0].1.split_once('=').and_then(|(_, value)| value.split_once('.')).expect("an id").0;
    end_sessions(&app, &json!({ "id": id }));
    assert_eq!(status(&app, PHONE, "POST", "/api/logout", &leaves), 200);
    let at = |code: &str| use_code(&app, PHONE, code, &vec![]).status_code;
    assert_eq!([&of_revoked, &of_leaves, &of_stays].map(|code| at(code)), [401, 401, 200]);
    let (of_session, of_token) = (code(&app, PHONE, &stays, "act"), code(&app, PHONE, &bearer(TOKEN), "act"));
    end_sessions(&app, &json!({ "all": true }));
    assert_eq!([&of_session, &of_token].map(|code| at(code)), [401, 401]);
    assert!(sessions(&app).is_empty());
    assert_eq!(at(&code(&app, PHONE, &bearer(TOKEN), "act")), 200, "a new one is good");
}

/// Returns the default writer, which calls `before` before it passes a change on.
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
fn login_stored_while_all_sessions_end_is_ended_too() {
    let house = House::new();
    let (usual, ends_all) = (house.network(), Arc::new(Mutex::new(None::<Arc<Authenticator>>)));
    let writer = writer_with(&house, {
        let ends_all = ends_all.clone();
        // Only once, because ending all sessions writes too.
        move || {
            let authenticator = ends_all.lock().expect("never poisoned").take();
            if let Some(authenticator) = authenticator {
                authenticator.end(None).expect("ended");
            }
        }
    });
    let app = App { authenticator: house.authenticator_with(TOKEN, writer), ..usual };
    let of_token = code(&app, PHONE, &bearer(TOKEN), "act");
    *ends_all.lock().expect("never poisoned") = Some(app.authenticator.clone());
    assert_eq!(use_code(&app, PHONE, &of_token, &vec![]).status_code, 401);
    assert!(sessions(&app).is_empty() && sessions(&house.network()).is_empty(), "nothing of it is stored");
    assert!(ends_all.lock().expect("never poisoned").is_none(), "all were ended meanwhile");
}
