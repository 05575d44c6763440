//! The progress of a run as a text for people: a bar, and the latest steps with their durations.
//!
//! Pure. It uses only ASCII and short lines, so that it fits every terminal.

use std::fmt::Write as _;
use std::time::Duration;

use super::columns::padded;
use super::duration::{between, since, took};
use crate::clock::Timestamp;
use crate::console::printable;
use crate::pipeline::Progress;

/// The maximum number of steps that are shown; the API lists more.
const STEPS_SHOWN: usize = 10;

const BAR: usize = 20;

/// Formats the progress. The text is empty if there is nothing to show.
pub(super) fn describe(progress: &Progress, now: Timestamp) -> String {
    let mut text = String::new();
    let said = progress.text.as_ref().map(|text| printable(text.as_str()));
    if let Some(percent) = progress.percent {
        let full = usize::from(percent.tenths()) * BAR / 1000;
        let line =
            format!("progress  [{}{}]  {percent} %  {}", "#".repeat(full), "-".repeat(BAR - full), said.unwrap_or_default());
        writeln!(text, "{}", line.trim_end()).expect("a String takes everything");
    }
    let hidden = progress.steps.len().saturating_sub(STEPS_SHOWN);
    let before = progress.steps_before + hidden as u64;
    if before > 0 {
        writeln!(text, "steps     {before} before these").expect("a String takes everything");
    }
    let shown = || progress.steps.iter().skip(hidden);
    let names: Vec<String> = shown().map(|step| printable(step.name.as_str())).collect();
    let width = names.iter().map(|name| name.chars().count()).max().unwrap_or(0).min(40);
    for (step, name) in shown().zip(names) {
        let length = match (step.ended_at, step.ms) {
            (_, Some(ms)) => format!("took {}", took(Duration::from_millis(ms))),
            (None, None) => format!("since {}", since(between(step.started_at, now))),
            (Some(_), None) => "its end is unknown".to_owned(),
        };
        writeln!(text, "step      {}  {length}", padded(&name, width, false)).expect("a String takes everything");
    }
    text
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn text(progress: Value) -> String {
        let now = "2026-01-31T10:03:20.000Z".parse().expect("a time");
        describe(&serde_json::from_value(progress).expect("the contract's shape"), now)
    }

    fn step(name: &str, ended: bool, ms: Option<u64>) -> Value {
        let ended_at = ended.then_some("2026-01-31T10:03:10.000Z");
        json!({"name": name, "started_at": "2026-01-31T10:03:08.000Z", "ended_at": ended_at, "ms": ms})
    }

    #[test]
    fn progress_shows_a_bar_and_steps() {
        let steps = [step("fetch", true, Some(2_150)), step("build it", true, Some(95_000)), step("test", false, None)];
        let progress =
            json!({"percent": 40.5, "text": "Building", "at": "2026-01-31T10:03:20.000Z", "steps": steps, "steps_before": 0});
        let expected = "\
progress  [########------------]  40.5 %  Building
step      fetch     took 2.2 s
step      build it  took 1 min 35 s
step      test      since 12 s
";
        assert_eq!(text(progress), expected);
    }

    #[test]
    fn missing_progress_values_are_not_shown() {
        let empty = json!({"percent": null, "text": null, "at": "2026-01-31T10:03:20.000Z", "steps": [], "steps_before": 0});
        assert_eq!(text(empty.clone()), "");
        for (percent, line) in [
            (0, "progress  [--------------------]  0 %\n"),
            (99, "progress  [###################-]  99 %\n"),
            (100, "progress  [####################]  100 %\n"),
        ] {
            let mut progress = empty.clone();
            progress["percent"] = percent.into();
            assert_eq!(text(progress), line);
        }
    }

    #[test]
    fn only_latest_steps_are_shown_with_control_characters_escaped() {
        let steps: Vec<Value> = (0..12).map(|n| step(&format!("{n}"), true, Some(0))).collect();
        let told =
            text(json!({"percent": null, "text": null, "at": "2026-01-31T10:03:20.000Z", "steps": steps, "steps_before": 5}));
        assert!(told.starts_with("steps     7 before these\nstep      2   took 0.0 s\n"), "{told}");
        assert_eq!(told.lines().count(), 11);
        let steps = [step("a\u{202e}b", true, None)];
        let told =
            text(json!({"percent": null, "text": null, "at": "2026-01-31T10:03:20.000Z", "steps": steps, "steps_before": 0}));
        assert_eq!(told, "step      a\\u{202e}b  its end is unknown\n");
    }
}
