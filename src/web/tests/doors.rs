//! The access table: each listener with each kind of credential.

use std::fmt::Write as _;

use super::*;

/// Returns one cell of the table: the status and details.
fn cell(uid: Option<u32>, app: &App, method: &str, path: &str, fields: &[(&str, String)]) -> String {
    let fields: Vec<(&str, &str)> = fields.iter().map(|(name, value)| (*name, value.as_str())).collect();
    let response = ask_as(uid, app, PHONE, method, path, &fields, if method == "POST" { "{}" } else { "" });
    let status = response.status_code;
    let body = read(response);
    let more = match (path, status) {
        (_, 403) => format!(" {}", body["error"].as_str().expect("a code")),
        ("/api/health", 200) if body.get("db").is_some() => " all".to_owned(),
        ("/api/session", 200) => format!(" {}", body["session"]["may"].as_str().expect("a word")),
        _ => String::new(),
    };
    format!("{status}{more}")
}

/// Pausing a stopped pipeline answers 409, which shows that the request passed authorization.
#[test]
fn each_listener_and_credential_grants_expected_access() {
    let house = House::new();
    let (own, other) = (Some(own_uid()), Some(own_uid() + 1));
    let loopback = Reach::at(address(LOOPBACK));
    let doors: [(&str, Reach, bool, Option<u32>); 7] = [
        ("socket", Reach::Socket, false, own),
        ("socket, other user", Reach::Socket, true, other),
        ("loopback", loopback, false, own),
        ("loopback, other user", loopback, false, other),
        ("loopback, unknown", loopback, false, None),
        ("loopback + token", loopback, true, own),
        ("network", Reach::at(address(NETWORK)), true, own),
    ];
    let former = house.app_with(Reach::at(address(NETWORK)), true, "the-former-token");
    let former = log_in(&former, "the-former-token");
    let network = house.network();
    let (acts, looks) = (log_in(&network, TOKEN), log_in(&network, READ_TOKEN));
    let of_both = vec![acts[0].clone(), looks[1].clone()];
    let credentials: [(&str, Credentials); 12] = [
        ("nothing", vec![]),
        ("a wrong token", bearer("not-the-right-token")),
        ("no Bearer", vec![("Authorization", format!("Basic {TOKEN}"))]),
        ("the read token", bearer(READ_TOKEN)),
        ("the token", bearer(TOKEN)),
        ("a read log-in", looks),
        ("a log-in", acts.clone()),
        ("a former log-in", former),
        ("log-in, wrong token", [acts.clone(), bearer("not-the-right-token")].concat()),
        ("a cookie alone", acts[..1].to_vec()),
        ("a proof alone", acts[1..].to_vec()),
        ("of two log-ins", of_both),
    ];
    let mut table =
        String::from("door                 | with                | page file none | look act                | health  session\n");
    for (name, door, needs_token, uid) in doors {
        for (with, fields) in &credentials {
            // Each cell has its own authenticator, without previous wrong tries.
            let cell = |method: &str, path: &str| cell(uid, &house.app(door, needs_token), method, path, fields);
            let free = [cell("GET", "/"), cell("GET", "/static/app.js"), cell("GET", "/nothing")].join("  ");
            let (look, act) = (cell("GET", "/api/pipeline"), cell("POST", "/api/pipeline/pause"));
            let (health, session) = (cell("GET", "/api/health"), cell("GET", "/api/session"));
            for (method, path) in [("GET", "/api/runs"), ("GET", "/api/logs"), ("GET", "/api/version"), ("HEAD", "/api/pipeline")]
            {
                assert_eq!(cell(method, path), look, "{name}, {with}: {path} is read like the pipeline");
            }
            for path in ["/api/pipeline/start", "/api/pipeline/resume", "/api/pipeline/stop"] {
                // There is no script to start here, so a start answers 400.
                let status = cell("POST", path).replace("400", "409");
                assert_eq!(status, act, "{name}, {with}: {path} is acted on like a pause");
            }
            assert_eq!(cell("GET", "/api/nothing"), if look == "200" { "404" } else { "401" }, "{name}, {with}");
            let _never_fails = writeln!(table, "{name:20} | {with:19} | {free}  | {look}  {act:18} | {health:7} {session}");
        }
    }
    assert_eq!(table, TABLE, "the table is now:\n{table}");
}

const TABLE: &str = "\
door                 | with                | page file none | look act                | health  session
socket               | nothing             | 200  200  404  | 200  409                | 200 all 200 act
socket               | a wrong token       | 200  200  404  | 200  409                | 200 all 200 act
socket               | no Bearer           | 200  200  404  | 200  409                | 200 all 200 act
socket               | the read token      | 200  200  404  | 200  409                | 200 all 200 act
socket               | the token           | 200  200  404  | 200  409                | 200 all 200 act
socket               | a read log-in       | 200  200  404  | 200  409                | 200 all 200 act
socket               | a log-in            | 200  200  404  | 200  409                | 200 all 200 act
socket               | a former log-in     | 200  200  404  | 200  409                | 200 all 200 act
socket               | log-in, wrong token | 200  200  404  | 200  409                | 200 all 200 act
socket               | a cookie alone      | 200  200  404  | 200  409                | 200 all 200 act
socket               | a proof alone       | 200  200  404  | 200  409                | 200 all 200 act
socket               | of two log-ins      | 200  200  404  | 200  409                | 200 all 200 act
socket, other user   | nothing             | 200  200  404  | 401  401                | 200     401
socket, other user   | a wrong token       | 200  200  404  | 401  401                | 401     401
socket, other user   | no Bearer           | 200  200  404  | 401  401                | 200     401
socket, other user   | the read token      | 200  200  404  | 200  403 read_only      | 200 all 200 look
socket, other user   | the token           | 200  200  404  | 200  409                | 200 all 200 act
socket, other user   | a read log-in       | 200  200  404  | 200  403 read_only      | 200 all 200 look
socket, other user   | a log-in            | 200  200  404  | 200  409                | 200 all 200 act
socket, other user   | a former log-in     | 200  200  404  | 401  401                | 200     401
socket, other user   | log-in, wrong token | 200  200  404  | 401  401                | 401     401
socket, other user   | a cookie alone      | 200  200  404  | 401  401                | 200     401
socket, other user   | a proof alone       | 200  200  404  | 401  401                | 200     401
socket, other user   | of two log-ins      | 200  200  404  | 401  401                | 200     401
loopback             | nothing             | 200  200  404  | 200  409                | 200 all 200 act
loopback             | a wrong token       | 200  200  404  | 200  409                | 200 all 200 act
loopback             | no Bearer           | 200  200  404  | 200  409                | 200 all 200 act
loopback             | the read token      | 200  200  404  | 200  409                | 200 all 200 act
loopback             | the token           | 200  200  404  | 200  409                | 200 all 200 act
loopback             | a read log-in       | 200  200  404  | 200  409                | 200 all 200 act
loopback             | a log-in            | 200  200  404  | 200  409                | 200 all 200 act
loopback             | a former log-in     | 200  200  404  | 200  409                | 200 all 200 act
loopback             | log-in, wrong token | 200  200  404  | 200  409                | 200 all 200 act
loopback             | a cookie alone      | 200  200  404  | 200  409                | 200 all 200 act
loopback             | a proof alone       | 200  200  404  | 200  409                | 200 all 200 act
loopback             | of two log-ins      | 200  200  404  | 200  409                | 200 all 200 act
loopback, other user | nothing             | 200  200  404  | 401  401                | 200     401
loopback, other user | a wrong token       | 200  200  404  | 401  401                | 401     401
loopback, other user | no Bearer           | 200  200  404  | 401  401                | 200     401
loopback, other user | the read token      | 200  200  404  | 200  403 read_only      | 200 all 200 look
loopback, other user | the token           | 200  200  404  | 200  409                | 200 all 200 act
loopback, other user | a read log-in       | 200  200  404  | 200  403 read_only      | 200 all 200 look
loopback, other user | a log-in            | 200  200  404  | 200  409                | 200 all 200 act
loopback, other user | a former log-in     | 200  200  404  | 401  401                | 200     401
loopback, other user | log-in, wrong token | 200  200  404  | 401  401                | 401     401
loopback, other user | a cookie alone      | 200  200  404  | 401  401                | 200     401
loopback, other user | a proof alone       | 200  200  404  | 401  401                | 200     401
loopback, other user | of two log-ins      | 200  200  404  | 401  401                | 200     401
loopback, unknown    | nothing             | 200  200  404  | 401  401                | 200     401
loopback, unknown    | a wrong token       | 200  200  404  | 401  401                | 401     401
loopback, unknown    | no Bearer           | 200  200  404  | 401  401                | 200     401
loopback, unknown    | the read token      | 200  200  404  | 200  403 read_only      | 200 all 200 look
loopback, unknown    | the token           | 200  200  404  | 200  409                | 200 all 200 act
loopback, unknown    | a read log-in       | 200  200  404  | 200  403 read_only      | 200 all 200 look
loopback, unknown    | a log-in            | 200  200  404  | 200  409                | 200 all 200 act
loopback, unknown    | a former log-in     | 200  200  404  | 401  401                | 200     401
loopback, unknown    | log-in, wrong token | 200  200  404  | 401  401                | 401     401
loopback, unknown    | a cookie alone      | 200  200  404  | 401  401                | 200     401
loopback, unknown    | a proof alone       | 200  200  404  | 401  401                | 200     401
loopback, unknown    | of two log-ins      | 200  200  404  | 401  401                | 200     401
loopback + token     | nothing             | 200  200  404  | 401  401                | 200     401
loopback + token     | a wrong token       | 200  200  404  | 401  401                | 401     401
loopback + token     | no Bearer           | 200  200  404  | 401  401                | 200     401
loopback + token     | the read token      | 200  200  404  | 200  403 read_only      | 200 all 200 look
loopback + token     | the token           | 200  200  404  | 200  409                | 200 all 200 act
loopback + token     | a read log-in       | 200  200  404  | 200  403 read_only      | 200 all 200 look
loopback + token     | a log-in            | 200  200  404  | 200  409                | 200 all 200 act
loopback + token     | a former log-in     | 200  200  404  | 401  401                | 200     401
loopback + token     | log-in, wrong token | 200  200  404  | 401  401                | 401     401
loopback + token     | a cookie alone      | 200  200  404  | 401  401                | 200     401
loopback + token     | a proof alone       | 200  200  404  | 401  401                | 200     401
loopback + token     | of two log-ins      | 200  200  404  | 401  401                | 200     401
network              | nothing             | 200  200  404  | 401  401                | 200     401
network              | a wrong token       | 200  200  404  | 401  401                | 401     401
network              | no Bearer           | 200  200  404  | 401  401                | 200     401
network              | the read token      | 200  200  404  | 200  403 read_only      | 200 all 200 look
network              | the token           | 200  200  404  | 200  409                | 200 all 200 act
network              | a read log-in       | 200  200  404  | 200  403 read_only      | 200 all 200 look
network              | a log-in            | 200  200  404  | 200  409                | 200 all 200 act
network              | a former log-in     | 200  200  404  | 401  401                | 200     401
network              | log-in, wrong token | 200  200  404  | 401  401                | 401     401
network              | a cookie alone      | 200  200  404  | 401  401                | 200     401
network              | a proof alone       | 200  200  404  | 401  401                | 200     401
network              | of two log-ins      | 200  200  404  | 401  401                | 200     401
";
