//! A place's server as its clients see it: requests, responses, and what the API reports about the pipeline.

use std::time::Duration;

use autoappdev::api::query::NoQuery;
use autoappdev::api::routes::{Access, Method, Route};
use serde_json::{Value, json};

use super::{DEADLINE, Place, until, until_true, wire};

/// Returns an example of the route's path: the first run, a file of the page, a text to search for.
pub fn example(route: Route) -> String {
    let path = route.url(if route == Route::PageFile { "app.js" } else { "1" }, &NoQuery {});
    // A search needs a text.
    if route == Route::RunLogSearch { path + "?text=a" } else { path }
}

/// Returns every path that is read, apart from the events, whose response does not end.
pub fn reads() -> Vec<String> {
    let reads = Route::ALL.iter().filter(|&&route| route.spec().method == Method::Get && route != Route::Events);
    reads.map(|&route| example(route)).collect()
}

/// Returns every path that acts: on the pipeline, on sessions, or by creating a code.
pub fn acts() -> Vec<String> {
    let acts = Route::ALL.iter().filter(|route| route.spec().access == Access::Operator && route.spec().method == Method::Post);
    acts.map(|&route| example(route)).collect()
}

/// A response: the status code and the JSON.
#[derive(Clone, Debug)]
pub struct Answer {
    pub status: u16,
    pub body: Value,
    pub headers: Vec<(String, String)>,
}

impl Answer {
    /// Returns the body, and panics if the status is not 200.
    pub fn ok(self) -> Value {
        assert_eq!(self.status, 200, "{}", self.body);
        self.body
    }

    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(key, _)| key.eq_ignore_ascii_case(name)).map(|(_, value)| value.as_str())
    }

    /// Returns the stable code of an error.
    pub fn error(&self) -> &str {
        self.body["error"].as_str().unwrap_or_default()
    }
}

impl Place {
    /// Sends a request with any method, headers and body.
    pub fn request(&self, method: &str, path: &str, headers: &[(&str, &str)], body: Option<&str>) -> Answer {
        self.try_request(method, path, headers, body).expect("an answer")
    }

    /// Like [`Self::request`]; returns `None` if the server has ended or ends during the request.
    pub fn try_request(&self, method: &str, path: &str, headers: &[(&str, &str)], body: Option<&str>) -> Option<Answer> {
        let mut request = ureq::http::Request::builder().method(method).uri(format!("http://127.0.0.1:{}{path}", self.port()));
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let brings_one = headers.iter().any(|(name, _)| name.eq_ignore_ascii_case("Authorization"));
        if let Some(bearer) = self.bearer.as_ref().filter(|_| !brings_one) {
            request = request.header("Authorization", bearer);
        }
        let config = ureq::Agent::config_builder()
            .http_status_as_error(false)
            .proxy(None)
            .timeout_global(Some(DEADLINE + Duration::from_secs(30)))
            .build();
        let agent = ureq::Agent::new_with_config(config);
        let request = request.body(body.unwrap_or_default().to_owned()).expect("a request");
        let mut response = agent.run(request).ok()?;
        let headers = response
            .headers()
            .iter()
            .map(|(name, value)| (name.to_string(), String::from_utf8_lossy(value.as_bytes()).into_owned()))
            .collect();
        let status = response.status().as_u16();
        let text = response.body_mut().with_config().limit(64 << 20).read_to_string().ok()?;
        let body = serde_json::from_str(&text).unwrap_or(Value::String(text));
        Some(Answer { status, body, headers })
    }

    pub fn get(&self, path: &str) -> Answer {
        self.request("GET", path, &[], None)
    }

    /// Sends a POST with a JSON body.
    ///
    /// If an action exceeds the server's time limit for responses on a slow machine, waits until the action is done and builds
    /// the response from the state. If the state is not the requested one, the server's response is returned unchanged.
    #[expect(clippy::needless_pass_by_value, reason = "a literal reads better than a borrowed one")]
    pub fn post(&self, path: &str, body: Value) -> Answer {
        let answer = self.request("POST", path, &[("Content-Type", "application/json")], Some(&body.to_string()));
        if answer.error() != "still_under_way" {
            return answer;
        }
        let mut done =
            until(&format!("{path} is done"), || Some(self.pipeline()).filter(|pipeline| pipeline["pending"].is_null()));
        let state = done["state"].as_str().unwrap_or_default();
        let is_done = match path.rsplit('/').next() {
            Some("pause") => state == "paused",
            Some("resume") => state != "paused",
            Some("stop") => state == "stopped",
            _ => true,
        };
        if !is_done {
            return answer;
        }
        done["ok"] = json!(true);
        Answer { status: 200, body: done, headers: Vec::new() }
    }

    pub fn act(&self, action: &str) -> Answer {
        self.post(&format!("/api/pipeline/{action}"), json!({}))
    }

    /// Opens a raw connection to the server.
    pub fn wire(&self) -> wire::Wire {
        wire::Wire::open(self.port())
    }

    /// Returns the `pipeline` of `GET /api/pipeline`.
    pub fn pipeline(&self) -> Value {
        self.get("/api/pipeline").ok()["pipeline"].take()
    }

    pub fn state(&self) -> String {
        self.pipeline()["state"].as_str().expect("a word").to_owned()
    }

    /// Starts the default script. Returns the leader's pid and the run.
    pub fn start(&self) -> (u32, i64) {
        self.start_with(json!({}))
    }

    pub fn start_with(&self, body: Value) -> (u32, i64) {
        let answer = self.post("/api/pipeline/start", body).ok();
        let pid = answer["pid"].as_u64().and_then(|pid| u32::try_from(pid).ok()).expect("a pid");
        (pid, answer["run_id"].as_i64().expect("an id"))
    }

    pub fn until_state(&self, state: &str) -> Value {
        until(&format!("the state is {state}"), || Some(self.pipeline()).filter(|pipeline| pipeline["state"] == state))
    }

    /// Returns the run with its events, as the API reports it.
    pub fn run(&self, run_id: i64) -> Value {
        self.get(&format!("/api/runs/{run_id}")).ok()["run"].take()
    }

    /// Returns the text of every line of the pipeline's log.
    pub fn lines(&self) -> Vec<String> {
        self.lines_since(&mut 0)
    }

    /// Returns the text of every line after the cursor `since`, and advances the cursor.
    pub fn lines_since(&self, since: &mut u64) -> Vec<String> {
        let mut lines = Vec::new();
        loop {
            let page = self.get(&format!("/api/logs?since={since}&limit=5000")).ok();
            let new = page["lines"].as_array().expect("a list");
            if new.is_empty() {
                return lines;
            }
            lines.extend(new.iter().map(|line| line["line"].as_str().expect("text").to_owned()));
            *since = page["next"].as_u64().expect("a number");
        }
    }

    pub fn until_line(&self, text: &str) {
        until_true(&format!("the log says {text:?}"), || self.lines().iter().any(|line| line == text));
    }

    /// Returns every line of the log as the API reports it, with the records of one line joined.
    pub fn records(&self) -> Vec<Value> {
        let mut records: Vec<Value> = Vec::new();
        let mut since = 0;
        loop {
            let mut page = self.get(&format!("/api/logs?since={since}&limit=5000")).ok();
            let Value::Array(new) = page["lines"].take() else { panic!("a list") };
            if new.is_empty() {
                return records;
            }
            for record in new {
                let goes_on = |before: &&mut Value| {
                    before["partial"] == true && before["stream"] == record["stream"] && before["run_id"] == record["run_id"]
                };
                if let Some(before) = records.iter_mut().rev().find(|before| before["stream"] == record["stream"]).filter(goes_on)
                {
                    let text = |record: &Value| record["line"].as_str().expect("text").to_owned();
                    before["line"] = (text(before) + &text(&record)).into();
                    before["partial"] = record["partial"].clone();
                } else {
                    records.push(record);
                }
            }
            since = page["next"].as_u64().expect("a number");
        }
    }

    /// Returns the complete lines that one run wrote to one stream.
    pub fn said(&self, run_id: i64, stream: &str) -> Vec<String> {
        let records = self.records().into_iter().filter(|record| record["run_id"] == run_id && record["stream"] == stream);
        records.map(|record| record["line"].as_str().expect("text").to_owned()).collect()
    }

    /// Returns the events of a run: kind, cause and resulting state, with `-` for a missing one.
    pub fn history(&self, run_id: i64) -> Vec<String> {
        let word = |value: &Value| value.as_str().unwrap_or("-").to_owned();
        let run = self.run(run_id);
        let events = run["events"].as_array().expect("a list");
        events
            .iter()
            .map(|event| format!("{} {} {}", word(&event["kind"]), word(&event["cause"]), word(&event["to_state"])))
            .collect()
    }

    /// Waits for the last thing that is recorded of a run: its usage, which is recorded after its end.
    pub fn until_settled(&self, run_id: i64) {
        until_true("the run is over and its use recorded", || self.run(run_id)["cpu_user_ms"].is_u64());
    }

    /// Waits until a run has ended and all its figures are recorded.
    pub fn until_ended(&self, run_id: i64) -> Value {
        let ended = until(&format!("run {run_id} has ended and its figures are there"), || {
            Some(self.run(run_id)).filter(|run| !run["stopped_at"].is_null() && !run["max_rss_kb"].is_null())
        });
        // The run comes from the database. The state follows a moment later, once it is committed.
        until_true("the state knows it too", || {
            let pipeline = self.pipeline();
            pipeline["run_id"] != run_id || pipeline["state"] == "stopped"
        });
        ended
    }
}
