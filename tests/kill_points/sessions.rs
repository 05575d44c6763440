//! Sessions: what was answered before the kill is still true, and everything else was done completely or not at all.

use autoappdev::kill_point::KillPoint;
use serde_json::{Value, json};

use super::Case;
use super::plan::Scene;
use crate::support::Place;
use crate::support::login::LogIn;

const TOKEN: &str = "a-token-of-this-test";

/// Browsers whose logins were answered before the server was first killed.
pub(crate) struct LogIns {
    /// Its session does not end, except with the end of all sessions.
    stays: LogIn,
    /// Its session is ended or renewed when the server is killed.
    chosen: LogIn,
    /// Its session was ended, and the request was answered.
    ended: LogIn,
    /// When the chosen session expires.
    expires_at: Value,
}

impl Case {
    /// Logs in, restarts the server so that it dies at the point, and sends the request that leads there.
    pub(crate) fn lead_to_sessions(&mut self) {
        self.place.use_token(TOKEN);
        self.place.start_server();
        let [stays, chosen, ended] = [(); 3].map(|()| LogIn::of(&self.place.post("/api/login", json!({"token": TOKEN}))));
        self.place.post("/api/sessions/end", json!({"id": ended.id()})).ok();
        self.place.kill_server();
        if self.plan.scene == Scene::Renewal {
            let soon = "strftime('%Y-%m-%dT%H:%M:%fZ', 'now', '+1 hour')";
            self.place.edit_database(&format!("UPDATE sessions SET expires_at = {soon} WHERE id = '{}'", chosen.id()));
        }
        self.serve_armed();
        let expires_at = expiry(&self.place, chosen.id()).expect("it is logged in");
        let bearer = [("Authorization", format!("Bearer {TOKEN}"))];
        let by_token = bearer.each_ref().map(|(name, value)| (*name, value.as_str()));
        let (method, path, fields, body) = match self.plan.scene {
            Scene::LogIn => ("POST", "/api/login", &[][..], json!({"token": TOKEN})),
            Scene::LogOut => ("POST", "/api/logout", &chosen.fields()[..], json!({})),
            Scene::EndAll => ("POST", "/api/sessions/end", &by_token[..], json!({"all": true})),
            Scene::Renewal => ("GET", "/api/session", &chosen.fields()[..], Value::Null),
            other => panic!("{other:?} is not about sessions"),
        };
        let fields = fields.iter().map(|(name, value)| format!("{name}: {value}\r\n")).collect::<Vec<_>>().concat();
        let body = if body.is_null() { String::new() } else { body.to_string() };
        let mut wire = self.place.wire();
        let framing = format!("Content-Type: application/json\r\nContent-Length: {}\r\n", body.len());
        wire.send(format!("{method} {path} HTTP/1.1\r\nHost: localhost\r\n{fields}{framing}\r\n{body}"));
        self.asked = Some(wire.writer());
        self.log_ins = Some(LogIns { stays, chosen, ended, expires_at });
    }

    /// Compares the sessions of the next server with the responses. Does nothing if the point is about something else.
    pub(crate) fn compare_sessions(&self) {
        use KillPoint as P;
        let Some(LogIns { stays, chosen, ended, expires_at }) = &self.log_ins else { return };
        let place = &self.place;
        let (stays_in, chosen_in, listed) = match self.point {
            P::ServerLogInHeard | P::ServerLogOutHeard | P::ServerEndAllHeard => (true, true, 2),
            P::ServerRenewalHeard | P::ServerRenewalCommitted => (true, true, 2),
            P::ServerLogInCommitted => (true, true, 3),
            P::ServerLogOutCommitted => (true, false, 1),
            P::ServerEndAllCommitted => (false, false, 0),
            other => panic!("{} is not about sessions", other.name()),
        };
        assert_eq!(sessions(place).len(), listed);
        let rows: i64 = place.sql().query_row("SELECT count(*) FROM sessions", [], |row| row.get(0)).expect("reads");
        assert_eq!(usize::try_from(rows).ok(), Some(listed), "nothing else is stored");
        assert_eq!([stays, chosen, ended].map(|it| is_let_in(place, it)), [stays_in, chosen_in, false]);
        if self.plan.scene == Scene::Renewal {
            let now = expiry(place, chosen.id()).expect("listed");
            let is_renewed = now.as_str() > expires_at.as_str();
            assert_eq!(is_renewed, self.point == P::ServerRenewalCommitted, "{expires_at} before, {now} now");
        }
    }
}

fn is_let_in(place: &Place, log_in: &LogIn) -> bool {
    let fields = log_in.fields().map(|(name, value)| format!("{name}: {value}\r\n")).concat();
    let mut wire = place.wire();
    wire.send(format!("GET /api/pipeline HTTP/1.1\r\nHost: localhost\r\n{fields}\r\n"));
    match wire.answer().status {
        200 => true,
        401 => false,
        other => panic!("answered {other}"),
    }
}

fn sessions(place: &Place) -> Vec<Value> {
    place.get("/api/sessions").ok()["sessions"].as_array().expect("a list").clone()
}

fn expiry(place: &Place, id: &str) -> Option<Value> {
    sessions(place).into_iter().find(|session| session["id"] == id).map(|session| session["expires_at"].clone())
}
