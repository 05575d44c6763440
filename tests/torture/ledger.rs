//! What must always be true: each run's history, and each line of its output, read once through a cursor that outlives every
//! server.

use std::collections::BTreeMap;
use std::fs;

use serde_json::Value;

use super::agreement::{ask, same};
use super::support::Place;
use super::tally::Tally;

/// The tolerance for times in pause: clocks are read a moment before and after what they time, and a process can be preempted in
/// between.
const PAUSED_SLACK_MS: u64 = 500;

/// The position in the log, and the runs that have ended.
#[derive(Default)]
pub(crate) struct Ledger {
    /// The position after the last line that was read.
    cursor: u64,
    /// The run whose lines are being read.
    run_in_log: i64,
    /// The number that a run's next line on a stream must have.
    next: BTreeMap<(i64, String), u64>,
    /// The runs that have ended, as they were at their end.
    ended: BTreeMap<i64, Value>,
}

impl Ledger {
    /// Continues to read the log, and compares each numbered line with the one before.
    pub(crate) fn follow_the_log(&mut self, place: &Place, tally: &mut Tally) -> Result<(), String> {
        loop {
            let page = ask(place, &format!("/api/logs?since={}&limit=5000", self.cursor))?;
            let lines = page["lines"].as_array().ok_or("a page has lines")?;
            if lines.is_empty() {
                return Ok(());
            }
            for line in lines {
                let id = line["id"].as_u64().unwrap_or(0);
                if id <= self.cursor {
                    return Err(format!("a line comes again, after {}: {line}", self.cursor));
                }
                self.cursor = id;
                self.take(line, tally)?;
            }
            same("the next cursor and the last line", &page["next"].as_u64(), &Some(self.cursor))?;
        }
    }

    fn take(&mut self, line: &Value, tally: &mut Tally) -> Result<(), String> {
        let run_id = line["run_id"].as_i64().unwrap_or(0);
        if run_id < self.run_in_log {
            return Err(format!("a line of run {run_id} after one of run {}: {line}", self.run_in_log));
        }
        self.run_in_log = run_id;
        if line["ts"].is_null() || line["partial"] != false {
            return Err(format!("a line is damaged or in pieces: {line}"));
        }
        let (text, stream) = (line["line"].as_str().unwrap_or_default(), line["stream"].as_str().unwrap_or_default());
        let number = match text.split_once(' ') {
            Some(("line", number)) if stream == "stdout" => number,
            Some(("oops", number)) if stream == "stderr" => number,
            _ if text == "ready" || text == "stubborn" => return Ok(()),
            // A shell reports the kill of its child.
            _ if stream == "stderr" && text.contains(": line ") && text.contains("Killed") => return Ok(()),
            _ => return Err(format!("nobody wrote this: {line}")),
        };
        let expected = self.next.entry((run_id, stream.to_owned())).or_default();
        if number.parse() != Ok(*expected) {
            return Err(format!("a gap or a repeat in the log: number {expected} was to come, and this came: {line}"));
        }
        *expected += 1;
        tally.read_lines(1);
        Ok(())
    }

    /// Compares the log with the run's own count, after an end that was seen. The log can have at most one more line: the one at
    /// which the run was killed.
    pub(crate) fn compare_with_tally(&self, place: &Place, run_id: i64) -> Result<(), String> {
        let Some([_, lines, oopses]) = read_tally(place, run_id) else { return Ok(()) };
        for (stream, counted) in [("stdout", lines), ("stderr", oopses)] {
            let read = self.next.get(&(run_id, stream.to_owned())).copied().unwrap_or(0);
            if !(counted..=counted + 1).contains(&read) {
                return Err(format!("run {run_id} wrote {counted} lines to {stream}, and {read} are in the log"));
            }
        }
        Ok(())
    }

    /// Keeps a run that has ended.
    pub(crate) fn close(&mut self, place: &Place, run: &Value) {
        let run_id = run["id"].as_i64().unwrap_or(0);
        self.ended.insert(run_id, run.clone());
        // The run may have no tally.
        let _none = fs::remove_file(place.root().join(format!("tally.{run_id}")));
    }

    /// Checks that every run that has ever ended is as it was at its end, and that there is no other run.
    pub(crate) fn compare_with_history(&self, place: &Place) -> Result<(), String> {
        let mut told = Vec::new();
        let mut path = "/api/runs?limit=500".to_owned();
        loop {
            let page = ask(place, &path)?;
            told.extend(page["runs"].as_array().ok_or("a page has runs")?.iter().filter_map(|run| run["id"].as_i64()));
            let Some(before) = page["next_before"].as_i64() else { break };
            path = format!("/api/runs?limit=500&before={before}");
        }
        told.reverse();
        same("runs", &told, &self.ended.keys().copied().collect())?;
        for (run_id, as_it_was) in &self.ended {
            same(&format!("run {run_id} then and now"), as_it_was, &ask(place, &format!("/api/runs/{run_id}"))?["run"])?;
        }
        let sql = place.sql();
        let integrity: String =
            sql.query_row("PRAGMA integrity_check", [], |row| row.get(0)).map_err(|error| error.to_string())?;
        same("the database's integrity", &"ok", &integrity.as_str())
    }
}

/// Returns the three numbers that `tests/programs/victim.c` keeps: ready, lines, oopses.
pub(crate) fn read_tally(place: &Place, run_id: i64) -> Option<[u64; 3]> {
    let bytes = fs::read(place.root().join(format!("tally.{run_id}"))).ok()?;
    let mut numbers = bytes.chunks_exact(8).map(|eight| u64::from_ne_bytes(eight.try_into().expect("eight")));
    Some([numbers.next()?, numbers.next()?, numbers.next()?])
}

/// Checks that a run's events are consistent with each other and with the run's fields.
pub(crate) fn check_story(place: &Place, run: &Value) -> Result<(), String> {
    let events = run["events"].as_array().ok_or("a run has events")?;
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let mut state = "stopped".to_owned();
    let mut last_at = text(&run["created_at"]);
    let mut end = None;
    for (seq, event) in events.iter().enumerate() {
        same("the number of an event", &event["seq"].as_u64(), &u64::try_from(seq).ok())?;
        let at = text(&event["at"]);
        if at < last_at {
            return Err(format!("time goes back from {last_at}: {event}"));
        }
        last_at = at;
        if end.is_some() && event["kind"] != "usage" {
            return Err(format!("something after the end: {event}"));
        }
        if !event["to_state"].is_null() {
            same("from the state before", &text(&event["from_state"]), &state)?;
            state = text(&event["to_state"]);
        }
        match text(&event["kind"]).as_str() {
            "starting" => same("the first event", &seq, &0)?,
            "spawned" => same("started_at", &run["started_at"], &event["at"])?,
            "exited" | "lost" | "spawn_failed" => {
                same("stopped_at", &run["stopped_at"], &event["at"])?;
                same("after an end", &state.as_str(), &"stopped")?;
                end = Some(text(&event["kind"]));
            }
            _ => {}
        }
    }
    let status = text(&run["status"]);
    let is_live = matches!(status.as_str(), "starting" | "running" | "paused");
    same("a live run has no end", &is_live, &end.is_none())?;
    if is_live {
        same("status and state", &status, &state)?;
    }
    same("lost and its event", &(status == "lost"), &(end.as_deref() == Some("lost")))?;
    if end.as_deref() == Some("exited") {
        let cause = events.iter().rfind(|event| event["kind"] == "exited").map(|event| text(&event["cause"]));
        // The victims never end themselves with a signal.
        let expected = match (status.as_str(), run["signal"].is_null()) {
            ("stopped", _) => "request",
            (_, false) => "outside",
            (_, true) => "exit",
        };
        same("who ended it", &cause.as_deref(), &Some(expected))?;
    }
    if end.as_deref() == Some("exited") {
        check_paused_ms(place, run)?;
    }
    Ok(())
}

/// Checks the time in pause against the clock of the journal.
fn check_paused_ms(place: &Place, run: &Value) -> Result<(), String> {
    let mut since = None;
    let mut paused_ms = 0;
    for line in place.journal(run["id"].as_i64().unwrap_or(0)) {
        let at = line["boot_ms"].as_u64().unwrap_or(0);
        match line["fact"].as_str() {
            Some("paused") => since = Some(at),
            Some("resumed" | "exited") => paused_ms += since.take().map_or(0, |since| at - since),
            _ => {}
        }
    }
    let told = run["paused_ms"].as_u64().unwrap_or(0);
    if told.abs_diff(paused_ms) > PAUSED_SLACK_MS || (told == 0) != (paused_ms == 0) && paused_ms.max(told) > 5 {
        return Err(format!("run {} was paused for {paused_ms} ms, and says {told}", run["id"]));
    }
    Ok(())
}
