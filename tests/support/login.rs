//! Logins as the page makes them: with the cookie and the matching proof.

use serde_json::json;

use super::{Answer, Place};

/// The cookie and the proof that a browser keeps after a login.
#[derive(Clone, Debug)]
pub struct LogIn {
    /// `name=value`.
    pub cookie: String,
    pub proof: String,
    pub download_proof: String,
}

impl LogIn {
    /// Takes the login from the response to `POST /api/login`.
    pub fn of(answer: &Answer) -> Self {
        assert_eq!(answer.status, 200, "{}", answer.body);
        let cookie = answer.header("Set-Cookie").expect("a cookie");
        for part in ["; HttpOnly", "; SameSite=Strict", "; Path=/", "; Max-Age=2592000", "; Priority=High"] {
            assert!(cookie.contains(part), "{cookie}");
        }
        let [proof, download_proof] =
            ["proof", "download_proof"].map(|key| answer.body[key].as_str().expect("a proof").to_owned());
        Self { cookie: cookie.split(';').next().expect("a pair").to_owned(), proof, download_proof }
    }

    /// Returns the session's id, as `GET /api/sessions` lists it.
    pub fn id(&self) -> &str {
        self.cookie.split_once('=').and_then(|(_, value)| value.split_once('.')).expect("an id").0
    }

    /// Returns the header fields that the page sends once it is logged in.
    pub fn fields(&self) -> [(&str, &str); 2] {
        [("Cookie", &self.cookie), ("X-AutoAppDev-Proof", &self.proof)]
    }
}

impl Place {
    /// Returns a link that logs one browser in, at the address that the server listens on.
    pub fn login_link(&self) -> String {
        let code = self.post("/api/pair", json!({})).ok()["code"].as_str().expect("a code").to_owned();
        format!("http://127.0.0.1:{}/#code={code}", self.port())
    }
}
