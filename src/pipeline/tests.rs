//! The rules as complete tables, and invariants that hold after every random walk through them.

use std::fmt::Write as _;

use super::*;

const AT: Duration = Duration::from_secs(100);

fn pendings() -> Vec<Option<Pending>> {
    let stop = Pending::Stop { kill_at: AT };
    vec![None, Some(Pending::Start), Some(Pending::Pause), Some(Pending::Resume), Some(stop)]
}

fn facts() -> Vec<Fact> {
    let exited = |exit, asked| Fact::Exited { exit, asked, paused_ms: 0, log_end: 0, killed: Killed::default(), oom_kills: None };
    vec![
        Fact::Spawned { pid: 1, start_ticks: 1, containment: Containment::Tree },
        Fact::SpawnFailed { error: "no".into(), lack: None },
        Fact::Paused { cause: Cause::Request },
        Fact::Paused { cause: Cause::Outside },
        Fact::Resumed { cause: Cause::Request, paused_ms: 0, detail: None },
        Fact::Resumed { cause: Cause::Outside, paused_ms: 0, detail: None },
        Fact::Stopping { grace_ms: 0 },
        exited(Exit::Code(0), false),
        exited(Exit::Code(3), false),
        exited(Exit::Signal(9), false),
        exited(Exit::Signal(11), false),
        exited(Exit::Code(0), true),
        exited(Exit::Signal(15), true),
        Fact::Usage { cpu_user_ms: 0, cpu_system_ms: 0, max_rss_kb: 0, memory_peak_bytes: None },
        Fact::Unknown,
    ]
}

fn fact_name(fact: &Fact) -> String {
    match fact {
        Fact::Paused { cause } | Fact::Resumed { cause, .. } => format!("{} ({cause})", fact.kind()),
        Fact::Exited { exit, asked, .. } => {
            let exit = match exit {
                Exit::Code(code) => format!("code {code}"),
                Exit::Signal(signal) => format!("signal {signal}"),
            };
            format!("exited ({exit}{})", if *asked { ", asked" } else { "" })
        }
        Fact::Spawned { .. } | Fact::SpawnFailed { .. } | Fact::Stopping { .. } | Fact::Usage { .. } | Fact::Unknown => {
            fact.kind().to_owned()
        }
    }
}

/// The expected table of state × action under way × action.
const DECISIONS: &str = "\
stopped -       start: yes
stopped -       pause: cannot pause when stopped
stopped -       resume: cannot resume when stopped
stopped -       stop: cannot stop when stopped
stopped start   start: cannot start while start is under way
stopped start   pause: cannot pause while start is under way
stopped start   resume: cannot resume while start is under way
stopped start   stop: cannot stop while start is under way
running -       start: cannot start when running
running -       pause: yes
running -       resume: cannot resume when running
running -       stop: yes
running pause   start: cannot start while pause is under way
running pause   pause: cannot pause while pause is under way
running pause   resume: cannot resume while pause is under way
running pause   stop: yes
running stop    start: cannot start while stop is under way
running stop    pause: cannot pause while stop is under way
running stop    resume: cannot resume while stop is under way
running stop    stop: yes
paused  -       start: cannot start when paused
paused  -       pause: cannot pause when paused
paused  -       resume: yes
paused  -       stop: yes
paused  resume  start: cannot start while resume is under way
paused  resume  pause: cannot pause while resume is under way
paused  resume  resume: cannot resume while resume is under way
paused  resume  stop: yes
paused  stop    start: cannot start while stop is under way
paused  stop    pause: cannot pause while stop is under way
paused  stop    resume: cannot resume while stop is under way
paused  stop    stop: yes
";

#[test]
fn decisions_match_snapshot_for_every_state_and_action() {
    let mut table = String::new();
    for &state in State::ALL {
        for pending in pendings() {
            let can_be = match pending.map(Pending::action) {
                None => true,
                Some(Action::Start) => state == State::Stopped,
                Some(Action::Pause) => state == State::Running,
                Some(Action::Resume) => state == State::Paused,
                Some(Action::Stop) => state != State::Stopped,
            };
            for &action in Action::ALL.iter().filter(|_| can_be) {
                let decision = match decide(state, pending, action, AT.saturating_sub(Duration::from_secs(1))) {
                    Ok(()) => "yes".to_owned(),
                    Err(refusal) => refusal.to_string(),
                };
                let pending = pending.map_or("-", |pending| pending.action().as_str());
                writeln!(table, "{state:7} {pending:7} {action}: {decision}").expect("a string takes it");
            }
        }
    }
    assert_eq!(table, DECISIONS);
}

#[test]
fn second_stop_is_accepted_only_with_earlier_kill_time() {
    let pending = Some(Pending::Stop { kill_at: AT });
    let stop = |kill_at| decide(State::Running, pending, Action::Stop, kill_at);
    assert_eq!(stop(AT.saturating_sub(Duration::from_millis(1))), Ok(()));
    for not_sooner in [AT, AT + Duration::from_millis(1)] {
        let refusal = stop(not_sooner).expect_err("no longer grace than before");
        assert_eq!(refusal, Refusal { from: State::Running, action: Action::Stop, pending: Some(Action::Stop) });
    }
}

#[test]
fn allowed_actions_follow_from_state_and_pending_action() {
    use Action::{Pause, Resume, Start, Stop};
    assert_eq!(allowed(State::Stopped, None), [Start]);
    assert_eq!(allowed(State::Running, None), [Pause, Stop]);
    assert_eq!(allowed(State::Paused, None), [Resume, Stop]);
    assert_eq!(allowed(State::Stopped, Some(Pending::Start)), []);
    assert_eq!(allowed(State::Running, Some(Pending::Pause)), [Stop]);
    assert_eq!(allowed(State::Running, Some(Pending::Stop { kill_at: AT })), [Stop]);
}

/// The expected table of state × fact. A dash means that the fact only belongs to the history.
const OBSERVATIONS: &str = "\
stopped spawned: running, run running, request
stopped spawn_failed: stopped, run failed, request
stopped paused (request): -
stopped paused (outside): -
stopped resumed (request): -
stopped resumed (outside): -
stopped stopping: -
stopped exited (code 0): -
stopped exited (code 3): -
stopped exited (signal 9): -
stopped exited (signal 11): -
stopped exited (code 0, asked): -
stopped exited (signal 15, asked): -
stopped usage: -
stopped unknown: -
running spawned: -
running spawn_failed: -
running paused (request): paused, run paused, request
running paused (outside): paused, run paused, outside
running resumed (request): -
running resumed (outside): -
running stopping: -
running exited (code 0): stopped, run completed, exit
running exited (code 3): stopped, run failed, exit
running exited (signal 9): stopped, run failed, outside
running exited (signal 11): stopped, run failed, exit
running exited (code 0, asked): stopped, run stopped, request
running exited (signal 15, asked): stopped, run stopped, request
running usage: -
running unknown: -
paused  spawned: -
paused  spawn_failed: -
paused  paused (request): -
paused  paused (outside): -
paused  resumed (request): running, run running, request
paused  resumed (outside): running, run running, outside
paused  stopping: -
paused  exited (code 0): stopped, run completed, exit
paused  exited (code 3): stopped, run failed, exit
paused  exited (signal 9): stopped, run failed, outside
paused  exited (signal 11): stopped, run failed, exit
paused  exited (code 0, asked): stopped, run stopped, request
paused  exited (signal 15, asked): stopped, run stopped, request
paused  usage: -
paused  unknown: -
";

#[test]
fn observations_match_snapshot_for_every_state_and_fact() {
    let mut table = String::new();
    for &state in State::ALL {
        for fact in facts() {
            let seen = observe(state, &fact).map_or("-".to_owned(), |transition| {
                assert_eq!(transition.from, state);
                format!("{}, run {}, {}", transition.to, transition.status, transition.cause)
            });
            writeln!(table, "{state:7} {}: {seen}", fact_name(&fact)).expect("a string takes it");
        }
    }
    assert_eq!(table, OBSERVATIONS);
}

#[test]
fn recovery_plans_match_table_for_every_status() {
    let found = [
        Found::ShimAlive,
        Found::NeverBegan,
        Found::Ended,
        Found::Vanished { same_boot: true },
        Found::Vanished { same_boot: false },
        Found::Elsewhere,
    ];
    for &status in RunStatus::ALL {
        let plans = found.map(|found| recover(status, found));
        let meant = match status {
            RunStatus::Starting => [Plan::Adopt, Plan::FailSpawn, Plan::RecordEnd, Plan::KillAndLose, Plan::Lose, Plan::Disown],
            RunStatus::Running | RunStatus::Paused => {
                [Plan::Adopt, Plan::KillAndLose, Plan::RecordEnd, Plan::KillAndLose, Plan::Lose, Plan::Disown]
            }
            RunStatus::Completed | RunStatus::Failed | RunStatus::Stopped | RunStatus::Lost => [Plan::Nothing; 6],
        };
        assert_eq!(plans, meant, "{status}");
    }
}

#[test]
fn state_action_status_and_cause_texts_round_trip() {
    fn round_trip<W>(all: &[W], text: impl Fn(W) -> &'static str)
    where
        W: Copy + std::fmt::Debug + PartialEq + std::str::FromStr + Serialize + for<'de> Deserialize<'de>,
        W::Err: std::fmt::Debug,
    {
        for &word in all {
            assert_eq!(text(word).parse::<W>().expect("its own text"), word);
            let json = serde_json::to_string(&word).expect("plain");
            assert_eq!(json, format!("\"{}\"", text(word)), "stored and sent alike");
            assert_eq!(serde_json::from_str::<W>(&json).expect("its own text"), word);
        }
        assert!("".parse::<W>().is_err() && "Running".parse::<W>().is_err());
    }
    round_trip(State::ALL, State::as_str);
    round_trip(Action::ALL, Action::as_str);
    round_trip(RunStatus::ALL, RunStatus::as_str);
    round_trip(Cause::ALL, Cause::as_str);
    let error = "flying".parse::<State>().expect_err("no state");
    assert!(error.to_string().contains("newer version"), "it says what may have happened: {error}");
}

#[test]
fn fact_kind_matches_its_journal_name() {
    for fact in facts().into_iter().filter(|fact| *fact != Fact::Unknown) {
        let json = serde_json::to_value(&fact).expect("plain");
        assert_eq!(json["fact"], fact.kind());
        assert_eq!(serde_json::from_value::<Fact>(json).expect("its own text"), fact);
    }
}

/// A small generator, so that the walk is the same each time.
struct Dice(u64);

impl Dice {
    fn roll(&mut self, sides: usize) -> usize {
        // Knuth's MMIX constants.
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        usize::try_from(self.0 >> 33).expect("31 bits") % sides
    }
}

#[test]
fn random_walks_keep_state_and_status_consistent() {
    for seed in 0..200 {
        let mut dice = Dice(seed);
        let mut state = State::Stopped;
        let mut status = None;
        for _ in 0..200 {
            let facts = facts();
            let fact = &facts[dice.roll(facts.len())];
            if let Some(transition) = observe(state, fact) {
                assert_eq!(transition.from, state);
                state = transition.to;
                status = Some(transition.status);
                assert_eq!(fact.is_end(), state == State::Stopped, "only an end stops, and every end does");
            }
            let fits = match state {
                State::Stopped => status.is_none_or(|status| !status.is_live()),
                State::Running => status == Some(RunStatus::Running),
                State::Paused => status == Some(RunStatus::Paused),
            };
            assert!(fits, "{state} with {status:?}");
            assert!(!allowed(state, None).is_empty(), "there is always something to do");
        }
    }
}
