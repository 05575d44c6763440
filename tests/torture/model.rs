//! What the driver knows: which run is live, what was done to it, and therefore which states and ends are possible.

use std::collections::BTreeSet;

use serde_json::{Value, json};

use super::dice::Dice;
use super::kernel::Identity;

/// The end of a run, in the words of the history.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum End {
    /// By itself, with this code.
    Code(i64),
    /// By a signal that the server was not asked to send.
    Signal(i64),
    /// Because a stop was requested.
    Asked,
    /// It cannot be known.
    Lost,
    /// The run never began.
    NeverBegan,
}

impl End {
    /// Returns the end that a run's JSON reports, or an error if its fields contradict each other.
    pub(crate) fn of(run: &Value) -> Result<Self, String> {
        let (code, signal) = (run["exit_code"].as_i64(), run["signal"].as_i64());
        match (run["status"].as_str().unwrap_or_default(), code, signal) {
            ("completed", Some(0), None) => Ok(Self::Code(0)),
            ("failed", Some(code), None) if code != 0 => Ok(Self::Code(code)),
            ("failed", None, Some(signal)) => Ok(Self::Signal(signal)),
            ("failed", None, None) if run["started_at"].is_null() && run["error"].is_string() => Ok(Self::NeverBegan),
            ("stopped", Some(_), None) | ("stopped", None, Some(_)) => Ok(Self::Asked),
            ("lost", None, None) if run["error"].is_string() => Ok(Self::Lost),
            _ => Err(format!("no end looks like this: {run}")),
        }
    }
}

impl End {
    /// Returns how the leader ended, whatever the cause.
    pub(crate) fn of_leader(run: &Value) -> Option<Self> {
        run["exit_code"].as_i64().map(Self::Code).or_else(|| run["signal"].as_i64().map(Self::Signal))
    }
}

/// A script that the driver runs, and what it does when it is told to end.
#[derive(Clone, Debug)]
pub(crate) struct Script {
    pub(crate) name: &'static str,
    pub(crate) args: Vec<String>,
    /// The end that a TERM brings to the leader, or `None` if a TERM has no effect.
    pub(crate) on_term: Option<End>,
    /// The end that a USR1 brings to the leader.
    pub on_usr1: End,
    /// The end to which the script comes by itself, if any.
    pub(crate) by_itself: Option<End>,
    /// Whether none of its processes ignores TERM.
    pub(crate) obeys: bool,
    /// Whether it keeps a tally (`tests/programs/victim.c`), which also reports when it is ready.
    pub(crate) has_tally: bool,
}

const SIGUSR1: i64 = 10;
pub(crate) const SIGKILL: i64 = 9;
const SIGTERM: i64 = 15;

impl Script {
    fn plain(name: &'static str) -> Self {
        Self {
            name,
            args: Vec::new(),
            on_term: Some(End::Signal(SIGTERM)),
            on_usr1: End::Signal(SIGUSR1),
            by_itself: None,
            obeys: false,
            has_tally: false,
        }
    }

    /// Returns the end of a program without handlers after a TERM or else a USR1.
    pub(crate) fn of_a_plain_program(is_term: bool) -> End {
        End::Signal(if is_term { SIGTERM } else { SIGUSR1 })
    }

    pub(crate) fn random(dice: &mut Dice) -> Self {
        let act = |words: &[&str]| Self { args: words.iter().map(|&word| word.to_owned()).collect(), ..Self::plain("actor") };
        match dice.roll(24) {
            0 => Self::plain("sleep.sh"),
            1 => Self::plain("tree.sh"),
            2 => Self::plain("count.sh"),
            3 => act(&["fork-storm", "2"]),
            4 => act(&["vfork-storm", "1"]),
            5 => {
                let code = *dice.pick(&[0, 0, 1, 7, 255]);
                Self { args: vec![code.to_string()], by_itself: Some(End::Code(code)), ..Self::plain("exit.sh") }
            }
            _ => Self::victim(dice),
        }
    }

    fn victim(dice: &mut Dice) -> Self {
        let mut words: Vec<String> = vec![format!("every={}", dice.pick(&[500, 2000, 10_000, 50_000]))];
        let code = *dice.pick(&[0, 0, 1, 3, 42, 255]);
        words.push(format!("exit={code}"));
        if dice.chance(20) {
            words.push(format!("burst={}", dice.pick(&[100, 2000, 20_000])));
        }
        if dice.chance(40) {
            words.push(format!("last={}", dice.pick(&[100, 10_000])));
        }
        if dice.chance(40) {
            words.push(format!("kids={}", 1 + dice.roll(4)));
        }
        for (word, percent) in [("setsid", 30), ("daemon", 40), ("deaf", 20), ("bare", 15)] {
            if dice.chance(percent) {
                words.push(word.to_owned());
            }
        }
        if dice.chance(15) {
            words.push(format!("forks={}", dice.pick(&[1000, 5000])));
        }
        let on_term = match dice.roll(10) {
            0..=5 => Some(End::Signal(SIGTERM)),
            6 | 7 => {
                words.push("term=ignore".to_owned());
                None
            }
            8 => {
                words.push("term=5".to_owned());
                Some(End::Code(5))
            }
            _ => {
                words.push("term=late".to_owned());
                Some(End::Code(0))
            }
        };
        let by_itself = dice.chance(12).then(|| {
            words.push(format!("after={}", 1 + dice.roll(400)));
            End::Code(code)
        });
        let on_usr1 = End::Code(code);
        let obeys = on_term.is_some() && !words.iter().any(|word| word == "deaf");
        Self { name: "victim", args: words, on_term, on_usr1, by_itself, obeys, has_tally: true }
    }

    pub(crate) fn body(&self, grace_s: f64) -> Value {
        json!({"script": self.name, "args": self.args, "grace_s": grace_s})
    }
}

/// The state of the live run, as far as the driver can know.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Stands {
    Running,
    Paused,
    /// Two acts raced, so either state is possible.
    Either,
}

/// The live run.
#[derive(Clone, Debug)]
pub(crate) struct Live {
    pub(crate) run_id: i64,
    pub(crate) pid: u32,
    pub(crate) script: Script,
    pub(crate) stands: Stands,
    /// The ends that are possible after what was done to it. While this is empty it must live.
    pub(crate) may: BTreeSet<End>,
    /// Whether something was done that must end it.
    pub(crate) must_end: bool,
    /// Every process that was ever seen to belong to it.
    pub(crate) kin: BTreeSet<Identity>,
    /// The end that a TERM brings if the run gets all the time that it needs.
    pub(crate) patient_end: Option<End>,
    /// The number of its events that were seen.
    pub(crate) events: usize,
    /// How often one of its processes other than the leader was killed.
    pub(crate) kin_killed: usize,
}

impl Live {
    pub(crate) fn new(run_id: i64, pid: u32, script: Script) -> Self {
        let may = script.by_itself.into_iter().collect();
        Self {
            run_id,
            pid,
            script,
            stands: Stands::Running,
            may,
            must_end: false,
            patient_end: None,
            kin: BTreeSet::new(),
            events: 0,
            kin_killed: 0,
        }
    }

    /// Returns whether something that the driver does not control may still happen to it.
    pub(crate) fn is_fated(&self) -> bool {
        !self.may.is_empty()
    }
}
