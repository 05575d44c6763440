//! Progress: parses the two kinds of lines with which a pipeline reports its progress, and sums them up.
//!
//! `::progress <percent> [text]` and `::step <name>`, each alone on a line and beginning at its first byte. Every other line
//! is ordinary output. These lines stay in the log too, so a line printed by accident is not lost. Everything that is kept
//! has a limit, whatever the pipeline prints.

use std::collections::VecDeque;
use std::fmt;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::clock::Timestamp;

/// How many bytes at the beginning of a line decide whether it is a mark and what it says. The longest text is shorter.
pub const MARK_BYTES_MAX: usize = 1024;

/// The maximum number of characters in a text or a name; the rest is cut off.
const LABEL_CHARS_MAX: usize = 200;

/// The maximum number of listed steps. Older steps are only counted.
const STEPS_MAX: usize = 100;

/// The maximum size of the names of listed steps as JSON, in bytes, which keeps answers small.
const NAMES_BYTES_MAX: usize = 16 * 1024;

/// The completed part, in tenths of a percent. In JSON, a number from 0 to 100.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Percent(u16);

impl Percent {
    /// Parses one to three digits, at most one decimal, and an optional percent sign.
    fn parse(text: &[u8]) -> Option<Self> {
        let text = text.strip_suffix(b"%").unwrap_or(text);
        let (whole, tenth) = match text {
            [whole @ .., b'.', tenth @ b'0'..=b'9'] => (whole, u16::from(tenth - b'0')),
            whole => (whole, 0),
        };
        if whole.is_empty() || whole.len() > 3 || !whole.iter().all(u8::is_ascii_digit) {
            return None;
        }
        let tenths = whole.iter().fold(0, |sum, digit| sum * 10 + u16::from(digit - b'0')) * 10 + tenth;
        (tenths <= 1000).then_some(Self(tenths))
    }

    /// Returns tenths of a percent, from 0 to 1000.
    pub const fn tenths(self) -> u16 {
        self.0
    }
}

impl fmt::Display for Percent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (self.0 / 10, self.0 % 10) {
            (whole, 0) => write!(f, "{whole}"),
            (whole, tenth) => write!(f, "{whole}.{tenth}"),
        }
    }
}

impl Serialize for Percent {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        if self.0.is_multiple_of(10) {
            serializer.serialize_u16(self.0 / 10)
        } else {
            serializer.serialize_f64(f64::from(self.0) / 10.0)
        }
    }
}

impl<'de> Deserialize<'de> for Percent {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let number = serde_json::Number::deserialize(deserializer)?;
        Self::parse(number.to_string().as_bytes()).ok_or_else(|| {
            serde::de::Error::custom(
                "not a percentage from 0 to 100 with \
            at most one decimal",
            )
        })
    }
}

/// A text of a mark: not empty, limited in length, and without control characters. The pipeline chooses the rest, so the
/// text is never treated as markup.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String")]
pub struct Label(String);

impl Label {
    /// Makes a label from bytes of any kind; `None` if nothing is left to show.
    fn fit(bytes: &[u8]) -> Option<Self> {
        let text = String::from_utf8_lossy(bytes.trim_ascii());
        let shown = |c: char| if c.is_control() { char::REPLACEMENT_CHARACTER } else { c };
        let mut text: String = text.chars().take(LABEL_CHARS_MAX).map(shown).collect();
        text.truncate(text.trim_end().len());
        (!text.is_empty()).then_some(Self(text))
    }

    /// Returns the text.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Returns the approximate size as JSON, in bytes: quotes and backslashes take two.
    fn json_bytes(&self) -> usize {
        self.0.len() + self.0.bytes().filter(|byte| matches!(byte, b'"' | b'\\')).count()
    }
}

impl TryFrom<String> for Label {
    type Error = &'static str;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        let is_fit = !text.is_empty() && text.chars().nth(LABEL_CHARS_MAX).is_none() && !text.chars().any(char::is_control);
        if is_fit { Ok(Self(text)) } else { Err("not a valid progress text") }
    }
}

/// A line that reports progress.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Mark {
    /// `::progress <percent> [text]`.
    Progress {
        /// The completed part.
        percent: Percent,
        /// The pipeline's description of its current work.
        text: Option<Label>,
    },
    /// `::step <name>`: a step begins, and the previous one has ended.
    Step {
        /// The step's name.
        name: Label,
    },
}

impl Mark {
    /// Parses a line without its newline; its first [`MARK_BYTES_MAX`] bytes are enough.
    pub fn parse(line: &[u8]) -> Option<Self> {
        let line = &line[..line.len().min(MARK_BYTES_MAX)];
        let said = line.strip_prefix(b"::")?;
        let said = said.strip_suffix(b"\r").unwrap_or(said);
        if let Some(rest) = said.strip_prefix(b"progress") {
            let rest = behind_blanks(rest)?;
            let (percent, text) = rest.split_at(rest.iter().position(|&byte| is_blank(byte)).unwrap_or(rest.len()));
            return Some(Self::Progress { percent: Percent::parse(percent)?, text: Label::fit(text) });
        }
        let name = Label::fit(behind_blanks(said.strip_prefix(b"step")?)?)?;
        Some(Self::Step { name })
    }
}

const fn is_blank(byte: u8) -> bool {
    matches!(byte, b' ' | b'\t')
}

/// Returns what follows at least one blank.
fn behind_blanks(rest: &[u8]) -> Option<&[u8]> {
    let blanks = rest.iter().take_while(|&&byte| is_blank(byte)).count();
    (blanks > 0).then(|| &rest[blanks..])
}

/// A step of the pipeline's work. The last listed step is running, unless it has an end or its run has ended.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct WorkStep {
    /// The pipeline's name for it.
    pub name: Label,
    /// When its line was read.
    pub started_at: Timestamp,
    /// When the line of the next step was read, or when the run ended.
    pub ended_at: Option<Timestamp>,
    /// How long it ran in milliseconds, without pauses. `None` while it runs, and if its end was not seen.
    pub ms: Option<u64>,
}

/// The progress of a run, as reported by its pipeline. In JSON, the `progress` of the API.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Progress {
    /// The completed part, if it was reported.
    pub percent: Option<Percent>,
    /// The text of the latest `::progress` line, if it had one.
    pub text: Option<Label>,
    /// When the latest mark was read.
    pub at: Timestamp,
    /// The latest steps, oldest first.
    #[serde(deserialize_with = "as_many_as_are_listed")]
    pub steps: VecDeque<WorkStep>,
    /// The number of steps before those.
    pub steps_before: u64,
}

impl Progress {
    /// Creates a progress that contains only the time.
    pub const fn new(at: Timestamp) -> Self {
        Self { percent: None, text: None, at, steps: VecDeque::new(), steps_before: 0 }
    }

    /// Applies a mark that was read at `at`, when the latest step had run for `step_ms`.
    pub fn take(&mut self, mark: Mark, at: Timestamp, step_ms: u64) {
        self.at = at;
        match mark {
            Mark::Progress { percent, text } => (self.percent, self.text) = (Some(percent), text),
            Mark::Step { name } => {
                if let Some(step) = self.steps.back_mut() {
                    (step.ended_at, step.ms) = (Some(at), Some(step_ms));
                }
                self.steps.push_back(WorkStep { name, started_at: at, ended_at: None, ms: None });
                while self.steps.len() > STEPS_MAX || self.names_bytes() > NAMES_BYTES_MAX {
                    self.steps.pop_front();
                    self.steps_before += 1;
                }
            }
        }
    }

    /// Ends the latest step, which had run for `step_ms`, together with the run. [`Self::shown`] adds the time of the end.
    pub fn end(&mut self, step_ms: u64) {
        if let Some(step) = self.steps.back_mut() {
            step.ms.get_or_insert(step_ms);
        }
    }

    /// Returns the progress as shown for a run that ended at `run_ended_at`, or that has not ended. A step that was running
    /// at the run's end ended with it.
    #[must_use]
    pub fn shown(&self, run_ended_at: Option<Timestamp>) -> Self {
        let mut shown = self.clone();
        if let Some(step) = shown.steps.back_mut()
            && step.ended_at.is_none()
        {
            // If the clock was set back, the step must not end before it began.
            step.ended_at = run_ended_at.map(|at| at.max(step.started_at));
            step.ms = step.ms.filter(|_| run_ended_at.is_some());
        }
        shown
    }

    fn names_bytes(&self) -> usize {
        self.steps.iter().map(|step| step.name.json_bytes()).sum()
    }
}

fn as_many_as_are_listed<'de, D: Deserializer<'de>>(deserializer: D) -> Result<VecDeque<WorkStep>, D::Error> {
    let steps = VecDeque::<WorkStep>::deserialize(deserializer)?;
    if steps.len() <= STEPS_MAX { Ok(steps) } else { Err(serde::de::Error::custom("too many steps")) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(line: &[u8]) -> Option<String> {
        Mark::parse(line).map(|mark| match mark {
            Mark::Progress { percent, text: None } => format!("{percent}"),
            Mark::Progress { percent, text: Some(text) } => format!("{percent} {}", text.as_str()),
            Mark::Step { name } => format!("step {}", name.as_str()),
        })
    }

    #[test]
    fn progress_and_step_lines_are_parsed() {
        for (line, read_as) in [
            (&b"::progress 40 Building"[..], "40 Building"),
            (b"::progress 40", "40"),
            (b"::progress 0", "0"),
            (b"::progress 100", "100"),
            (b"::progress 007", "7"),
            (b"::progress 40%", "40"),
            (b"::progress 40.5% half a step", "40.5 half a step"),
            (b"::progress 40.0", "40"),
            (b"::progress 100.0", "100"),
            (b"::progress\t40\tBuilding", "40 Building"),
            (b"::progress   40   Building all  ", "40 Building all"),
            (b"::progress 40\r", "40"),
            (b"::progress 40 Building\r", "40 Building"),
            (b"::progress 40   \r", "40"),
            ("::progress 40 größer ☃".as_bytes(), "40 größer ☃"),
            (b"::progress 40 a\x1b[31mb\0c\xff", "40 a\u{fffd}[31mb\u{fffd}c\u{fffd}"),
            (b"::progress 40 50", "40 50"),
            (b"::progress 1 <b>::step x</b>", "1 <b>::step x</b>"),
            (b"::step Tests", "step Tests"),
            (b"::step  Tests and more \r", "step Tests and more"),
            (b"::step a\rb", "step a\u{fffd}b"),
            (b"::step 40", "step 40"),
            (b"::step ::step", "step ::step"),
        ] {
            assert_eq!(read(line).as_deref(), Some(read_as), "{:?}", String::from_utf8_lossy(line));
        }
    }

    #[test]
    fn malformed_progress_and_step_lines_are_ignored() {
        for line in [
            &b""[..],
            b":",
            b"::",
            b"::progress",
            b"::progress ",
            b"::progress\r",
            b"::progress140",
            b"::progress 140",
            b"::progress 100.1",
            b"::progress 40.55",
            b"::progress 40.",
            b"::progress .5",
            b"::progress -1",
            b"::progress +1",
            b"::progress 1e1",
            b"::progress 0040",
            b"::progress 99999999999999999999",
            b"::progress 40%%",
            b"::progress %",
            b"::progress 40,5",
            b"::progress forty",
            b"::progress 40\r::progress 50",
            b"::progress 40\x0b",
            b"::Progress 40",
            b"::progress\xc2\xa040",
            b"::step",
            b"::step ",
            b"::step \t \r",
            b"::steps",
            b"::stepTests",
            b"::STEP x",
            b" ::step x",
            b"\r::step x",
            b"x::step y",
            b":::step x",
            b":step x",
            b"::group::x",
            b"::warning file=a::b",
        ] {
            assert_eq!(read(line), None, "{:?}", String::from_utf8_lossy(line));
        }
    }

    #[test]
    fn long_label_is_truncated_at_a_character() {
        for c in ["x", "é", "☃", "💡", "\u{1}", "\""] {
            let name = format!("::step {}", c.repeat(100_000));
            let Some(Mark::Step { name: label }) = Mark::parse(name.as_bytes()) else { panic!("a step") };
            let shown = if c == "\u{1}" { "\u{fffd}" } else { c };
            assert_eq!(label.as_str(), shown.repeat(LABEL_CHARS_MAX));
            assert_eq!(Mark::parse(&name.as_bytes()[..MARK_BYTES_MAX]), Some(Mark::Step { name: label }));
        }
        let Some(Mark::Step { name }) = Mark::parse(&[&b"::step "[..], &[0xff; 5000]].concat()) else { panic!("a step") };
        assert_eq!(name.as_str(), "\u{fffd}".repeat(LABEL_CHARS_MAX));
    }

    fn at(ms: i64) -> Timestamp {
        Timestamp::from_unix_ms(1_700_000_000_000 + ms)
    }

    fn mark(line: &str) -> Mark {
        Mark::parse(line.as_bytes()).expect("a mark")
    }

    #[test]
    fn marks_build_progress_with_steps() {
        let mut progress = Progress::new(at(0));
        progress.take(mark("::step fetch"), at(1), 0);
        progress.take(mark("::progress 40.5 sources"), at(2), 1);
        progress.take(mark("::step build"), at(3), 2);
        progress.take(mark("::progress 41"), at(4), 1);
        let text = r#"{"percent":41,"text":null,"at":"2023-11-14T22:13:20.004Z","steps":[
            {"name":"fetch","started_at":"2023-11-14T22:13:20.001Z","ended_at":"2023-11-14T22:13:20.003Z","ms":2},
            {"name":"build","started_at":"2023-11-14T22:13:20.003Z","ended_at":null,"ms":null}],"steps_before":0}"#;
        let json = serde_json::to_value(progress.shown(None)).expect("plain data");
        assert_eq!(json, serde_json::from_str::<serde_json::Value>(text).expect("JSON"));
        assert_eq!(serde_json::from_value::<Progress>(json).expect("its own"), progress);

        assert_eq!(progress.shown(Some(at(9))).steps[1].ms, None, "nobody saw how long it ran");
        progress.end(5);
        assert_eq!(progress.shown(None).steps[1].ms, None, "the run's end is not on record yet");
        let last = &progress.shown(Some(at(9))).steps[1];
        assert_eq!((last.ended_at, last.ms), (Some(at(9)), Some(5)));
        let last = &progress.shown(Some(at(0))).steps[1];
        assert_eq!(last.ended_at, Some(last.started_at), "a clock that was set back");
    }

    #[test]
    fn progress_is_bounded_in_steps_and_bytes() {
        let mut progress = Progress::new(at(0));
        for n in 0..1000 {
            progress.take(mark(&format!("::step {n}")), at(n), 0);
        }
        assert_eq!((progress.steps.len(), progress.steps_before), (STEPS_MAX, 900));
        assert_eq!(progress.steps[0].name.as_str(), "900");
        for c in ["💡", "\"", "\\", "\u{1}", "x"] {
            for n in 0..200 {
                progress.take(mark(&format!("::step {}", c.repeat(300))), at(1000 + n), 0);
            }
            let json = serde_json::to_string(&progress).expect("plain data");
            assert!(json.len() < 30 * 1024, "{} bytes", json.len());
            assert!(progress.steps.len() > 10);
            assert_eq!(serde_json::from_str::<Progress>(&json).expect("its own"), progress);
        }
        assert_eq!(progress.steps_before + progress.steps.len() as u64, 2000);
    }

    #[test]
    fn impossible_progress_values_are_rejected() {
        let good = r#"{"percent":40.5,"text":"x","at":"2023-11-14T22:13:20.004Z","steps":[],"steps_before":0}"#;
        let read = |from: &str, to: &str| serde_json::from_str::<Progress>(&good.replace(from, to)).is_ok();
        assert!(read("", "") && read("40.5", "null") && read("40.5", "100.0") && read("\"x\"", "null"));
        for (from, to) in [
            ("40.5", "101"),
            ("40.5", "-1"),
            ("40.5", "\"40\""),
            ("40.5", "40.55"),
            ("\"x\"", "\"\""),
            ("\"x\"", "\"a\\nb\""),
            ("\"x\"", "\"a\\u001bb\""),
            ("2023", "20230"),
            ("[]", "[{}]"),
            ("[]", "null"),
        ] {
            assert!(!read(from, to), "{to}");
        }
        assert!(!read("\"x\"", &format!("\"{}\"", "x".repeat(LABEL_CHARS_MAX + 1))));
        let step = r#"{"name":"x","started_at":"2023-11-14T22:13:20.004Z","ended_at":null,"ms":null}"#;
        assert!(read("[]", &format!("[{}]", vec![step; STEPS_MAX].join(","))));
        assert!(!read("[]", &format!("[{}]", vec![step; STEPS_MAX + 1].join(","))));
    }
}
