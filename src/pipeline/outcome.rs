//! How a run ended, in a form that a client can show without any rules.

use nix::sys::signal::Signal;
use serde::{Deserialize, Serialize};

use super::exit::{Exit, signal_name};
use super::origin::Origin;
use super::status::RunStatus;
use super::words::words;
use crate::clock::Timestamp;

words! {
    /// The kind of a run's end.
    OutcomeKind {
        /// The leader exited with code 0.
        Completed = "completed",
        /// The leader exited with another code, or was ended by a signal that a process causes itself.
        Failed = "failed",
        /// The run ended on request, whatever the exit.
        Stopped = "stopped",
        /// A signal from outside ended the leader, without a stop.
        Killed = "killed",
        /// The run could not be started.
        NotStarted = "not_started",
        /// How it ended cannot be known.
        Lost = "lost",
    }
}

impl OutcomeKind {
    /// Returns the kind of a run's end; `None` while the run is alive.
    pub fn of(status: RunStatus, exit_code: Option<i32>, signal: Option<i32>) -> Option<Self> {
        match status {
            RunStatus::Starting | RunStatus::Running | RunStatus::Paused => None,
            RunStatus::Completed => Some(Self::Completed),
            RunStatus::Failed => Some(match (exit_code, signal) {
                (Some(_), _) => Self::Failed,
                (None, Some(signal)) if Exit::Signal(signal).is_from_outside() => Self::Killed,
                (None, Some(_)) => Self::Failed,
                (None, None) => Self::NotStarted,
            }),
            RunStatus::Stopped => Some(Self::Stopped),
            RunStatus::Lost => Some(Self::Lost),
        }
    }
}

/// The recorded facts about a run that [`Outcome::of`] needs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ending {
    /// Its status.
    pub status: RunStatus,
    /// The leader's exit code.
    pub exit_code: Option<i32>,
    /// The signal that ended the leader.
    pub signal: Option<i32>,
    /// The origin of its stop.
    pub stopped_by: Option<Origin>,
    /// When it was first seen running.
    pub started_at: Option<Timestamp>,
    /// When it was seen to have ended, or was given up.
    pub stopped_at: Option<Timestamp>,
}

/// How a run ended.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Outcome {
    /// The kind of its end.
    pub kind: OutcomeKind,
    /// The leader's exit code.
    pub exit_code: Option<i32>,
    /// The signal that ended the leader.
    pub signal: Option<i32>,
    /// That signal's name, such as `SIGKILL`, if it has one.
    pub signal_name: Option<String>,
    /// The origin of the stop that ended it. `None` if no stop did, or if the origin is unknown.
    #[serde(default, deserialize_with = "Origin::read_if_any")]
    pub by: Option<Origin>,
    /// Whether the kind is `stopped` and KILL ended the leader.
    pub forced: bool,
    /// Milliseconds from its start to its end, including pauses; `None` if either is unknown.
    pub took_ms: Option<u64>,
}

impl Outcome {
    /// Returns the outcome of a run; `None` while the run is alive.
    pub fn of(ending: Ending) -> Option<Self> {
        let Ending { status, exit_code, signal, stopped_by, started_at, stopped_at } = ending;
        let kind = OutcomeKind::of(status, exit_code, signal)?;
        let is_stop = kind == OutcomeKind::Stopped;
        Some(Self {
            kind,
            exit_code,
            signal,
            signal_name: signal.and_then(signal_name).map(str::to_owned),
            by: stopped_by.filter(|_| is_stop),
            forced: is_stop && signal == Some(Signal::SIGKILL as i32),
            took_ms: started_at.zip(stopped_at).map(|(started, stopped)| took_ms(started, stopped)),
        })
    }
}

/// Returns the milliseconds from a start to an end; 0 if the clock was set back in between.
pub fn took_ms(started_at: Timestamp, stopped_at: Timestamp) -> u64 {
    u64::try_from(stopped_at.unix_ms().saturating_sub(started_at.unix_ms())).unwrap_or(0)
}

/// Returns how long a script usually takes: the median of these durations, which for an even number is the mean of the two
/// in the middle. `None` if there are none.
pub fn usual_ms(mut lengths_ms: Vec<u64>) -> Option<u64> {
    lengths_ms.sort_unstable();
    let above = *lengths_ms.get(lengths_ms.len() / 2)?;
    let below = lengths_ms[(lengths_ms.len() - 1) / 2];
    Some(below.midpoint(above))
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;
    use crate::pipeline::Peer;

    const CLIENT: Origin = Origin::operator(Peer::Uid(1000));

    /// The signals that a process causes itself, in the order of their numbers (`signal(7)`).
    const OWN: [&str; 13] = [
        "SIGILL",
        "SIGTRAP",
        "SIGABRT",
        "SIGBUS",
        "SIGFPE",
        "SIGSEGV",
        "SIGPIPE",
        "SIGALRM",
        "SIGXCPU",
        "SIGXFSZ",
        "SIGVTALRM",
        "SIGPROF",
        "SIGSYS",
    ];

    fn at(ms: i64) -> Timestamp {
        Timestamp::from_unix_ms(ms)
    }

    /// Returns every status with every way in which a leader can end, with and without a known stop.
    fn endings() -> Vec<Ending> {
        let codes = [0, 1, 255].map(|code| (Some(code), None));
        let signals = (1..=64).map(|signal| (None, Some(signal)));
        let exits: Vec<_> = codes.into_iter().chain(signals).chain([(None, None)]).collect();
        let of_status = |status: &RunStatus| {
            let status = *status;
            let with_exit = move |(exit_code, signal)| {
                [None, Some(CLIENT), Some(Origin::Unknown)].map(|stopped_by| Ending {
                    status,
                    exit_code,
                    signal,
                    stopped_by,
                    started_at: Some(at(1000)),
                    stopped_at: Some(at(3500)),
                })
            };
            exits.clone().into_iter().flat_map(with_exit)
        };
        RunStatus::ALL.iter().flat_map(of_status).collect()
    }

    #[test]
    fn every_status_and_exit_has_one_outcome() {
        for ending in endings() {
            let Ending { status, exit_code, signal, stopped_by, .. } = ending;
            let outcome = Outcome::of(ending);
            assert_eq!(outcome.is_none(), status.is_live(), "{ending:?}");
            let Some(outcome) = outcome else { continue };
            let name = signal.and_then(signal_name);
            let kind = match (status.as_str(), exit_code, signal) {
                ("failed", Some(_), _) => "failed",
                ("failed", None, Some(_)) if name.is_some_and(|name| OWN.contains(&name)) => "failed",
                ("failed", None, Some(_)) => "killed",
                ("failed", None, None) => "not_started",
                (same, _, _) => same,
            };
            let is_stop = status == RunStatus::Stopped;
            let expected = json!({
                "kind": kind, "exit_code": exit_code, "signal": signal, "signal_name": name,
                "by": stopped_by.filter(|_| is_stop), "forced": is_stop && signal == Some(9), "took_ms": 2500,
            });
            assert_eq!(serde_json::to_value(&outcome).expect("plain data"), expected, "{ending:?}");
            assert_eq!(serde_json::from_value::<Outcome>(expected).expect("its own form"), outcome);
            assert_eq!(OutcomeKind::of(status, exit_code, signal), Some(outcome.kind));
        }
    }

    #[test]
    fn only_the_signals_that_a_process_causes_itself_are_failures() {
        let of_signal = |signal: &i32| OutcomeKind::of(RunStatus::Failed, None, Some(*signal)) == Some(OutcomeKind::Failed);
        let own: Vec<_> = (1..=64).filter(of_signal).map(|signal| signal_name(signal).expect("it has a name")).collect();
        assert_eq!(own, OWN);
    }

    #[test]
    fn outcome_duration_needs_both_times_and_is_never_negative() {
        let took = |started_at: Option<i64>, stopped_at: Option<i64>| {
            let [started_at, stopped_at] = [started_at, stopped_at].map(|ms| ms.map(at));
            let (status, exit_code) = (RunStatus::Completed, Some(0));
            let ending = Ending { status, exit_code, signal: None, stopped_by: None, started_at, stopped_at };
            Outcome::of(ending).expect("it has ended").took_ms
        };
        assert_eq!(took(Some(1000), Some(1000)), Some(0));
        assert_eq!(took(Some(1000), Some(900)), Some(0));
        assert_eq!(took(None, Some(900)), None);
        assert_eq!(took(Some(900), None), None);
        assert_eq!(took(Some(0), Some(253_402_300_799_999)), Some(253_402_300_799_999), "from the epoch to the last year");
    }

    #[test]
    fn origin_from_a_newer_version_does_not_make_an_outcome_unreadable() {
        let form = json!({"kind": "stopped", "exit_code": 0, "signal": null, "signal_name": null, "by": {"by": "weather"},
            "forced": false, "took_ms": 1, "mood": "good"});
        assert_eq!(serde_json::from_value::<Outcome>(form).expect("it reads").by, Some(Origin::Unknown));
        assert_eq!(serde_json::to_value(OutcomeKind::NotStarted).expect("a word"), Value::from("not_started"));
    }

    #[test]
    fn usual_length_is_the_median() {
        assert_eq!(usual_ms(vec![]), None);
        assert_eq!(usual_ms(vec![7]), Some(7));
        assert_eq!(usual_ms(vec![9, 2]), Some(5));
        assert_eq!(usual_ms(vec![900, 10, 20, 30, 0]), Some(20));
        assert_eq!(usual_ms(vec![u64::MAX, u64::MAX]), Some(u64::MAX));
    }
}
