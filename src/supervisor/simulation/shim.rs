//! A simulated shim: the steps of `src/shim/`, in their order, on simulated processes. Each turn of its loop is a step of the
//! world, so anything can happen between two turns, even its death.

pub(super) mod signs;
mod steps;

use self::signs::Board;
use super::env::{Due, Env, MS, SECOND};
use super::pipeline::Leader;
use super::run::Run;
use super::wires::Down;
use crate::pipeline::{Containment, Exit, Fact, Killed, Origin};
use crate::run_dir::{Command, FORMAT, Header, Message, Reply, ReplyError};

const RETRY: u64 = SECOND;

/// The minimum time between two reports of trouble.
const SAID_EVERY: u64 = SECOND;

/// An argument that makes the script impossible to execute.
pub(super) const NOT_EXECUTABLE: &str = "not-executable";

/// The stage of its life.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    Reading,
    Opening,
    Beginning,
    Spawning,
    Telling,
    Going,
    Finishing,
    Flushing,
    Reaping,
    Leaving,
}

type Asker = (u64, u64);

#[derive(Clone, Copy, Debug)]
enum Frozen {
    Tell(Option<Origin>),
    Keep,
}

#[derive(Clone, Copy, Debug)]
enum Thawed {
    Tell(Option<Origin>),
    Keep { spares_leader: bool },
    GiveUp,
}

#[derive(Clone, Copy, Debug)]
enum Phase {
    Running,
    Freezing { since: u64, done_at: u64, then: Frozen, asker: Option<Asker> },
    Paused,
    Thawing { since: u64, done_at: u64, then: Thawed, asker: Option<Asker> },
    Stopping { kill_at: u64 },
    Killing,
}

/// The shim's memory. Times are on the boot-time clock, in microseconds.
pub(super) struct Shim {
    first_wire: u64,
    stage: Stage,
    pub(super) is_suspended: bool,
    pub(super) looks_at_leader: bool,
    pub(super) got_term: bool,
    /// Whether it is of a newer version and has a message that the server does not know.
    pub(super) sees_what_is_unknown: bool,
    /// Whether another process has continued a process of the paused tree, which must be checked.
    pub(super) looks_at_helpers: bool,
    phase: Phase,
    restops: u32,
    board: Board,
    look_at: Option<u64>,
    timer: Option<u64>,
    stopped_by: Option<Origin>,
    /// How the leader ended, and when the remaining processes are killed.
    leader_end: Option<(Exit, u64)>,
    paused_since: Option<u64>,
    paused_in_all: u64,
    /// The processes that it has killed.
    killed: Killed,
    /// The messages that are sent at the end.
    last: Vec<Message>,
    /// Whether it dies in the middle of its current step.
    pub(super) is_struck: bool,
}

impl Phase {
    const fn name(&self) -> &'static str {
        match self {
            Self::Running => "running",
            Self::Freezing { .. } => "freezing",
            Self::Paused => "paused",
            Self::Thawing { .. } => "thawing",
            Self::Stopping { .. } => "stopping",
            Self::Killing => "killing",
        }
    }
}

impl Shim {
    pub(super) fn new(first_wire: u64) -> Self {
        Self {
            first_wire,
            stage: Stage::Reading,
            is_suspended: false,
            looks_at_leader: true,
            got_term: false,
            sees_what_is_unknown: false,
            looks_at_helpers: false,
            restops: 0,
            board: Board::default(),
            phase: Phase::Running,
            look_at: None,
            timer: None,
            stopped_by: None,
            leader_end: None,
            paused_since: None,
            paused_in_all: 0,
            killed: Killed::default(),
            last: Vec::new(),
            is_struck: false,
        }
    }

    /// Returns the note about the state.
    pub(super) fn note(&self) -> Option<String> {
        self.board.note().map(str::to_owned)
    }

    /// Checks whether nothing is under way, for the end of a simulation.
    pub(super) fn is_at_rest(&self) -> bool {
        self.stage == Stage::Going && matches!(self.phase, Phase::Running | Phase::Paused)
    }

    /// Checks whether it has forked the leader but not recorded that yet.
    pub(super) fn is_spawning(&self) -> bool {
        self.stage == Stage::Spawning
    }

    /// Returns a text for its stage.
    pub(super) fn occupation(&self) -> String {
        match self.stage {
            Stage::Going => format!("Going, {}", self.phase.name()),
            stage => format!("{stage:?}"),
        }
    }

    /// Runs one turn of the loop. Returns whether the shim continues.
    pub(super) fn turn(&mut self, run: &mut Run, env: &mut Env) -> bool {
        match self.stage {
            Stage::Reading => {
                // Messages after the specification are taken later.
                let begins = env.take_spec(self.first_wire);
                if !begins && env.has_ended(self.first_wire) {
                    env.cover("a shim got no launch specification");
                    return false;
                }
                if begins {
                    self.go_to(Stage::Opening, run, env);
                }
            }
            Stage::Opening => {
                run.is_listening = true;
                self.go_to(Stage::Beginning, run, env);
            }
            Stage::Beginning => {
                if env.disk.journal_is_full {
                    env.cover("a journal could not be begun");
                    return false;
                }
                run.journal.header = Some(header(run));
                env.pause_file = false;
                self.go_to(Stage::Spawning, run, env);
            }
            Stage::Spawning => {
                if !run.spec.args.iter().any(|arg| arg == NOT_EXECUTABLE) {
                    run.bear_leader(env);
                }
                self.go_to(Stage::Telling, run, env);
            }
            Stage::Telling => {
                if run.pipeline.leader == Leader::Unborn {
                    let failed = Fact::SpawnFailed { error: "no such interpreter".to_owned(), lack: None };
                    self.record(failed, Some(run.spec.origin), true, run, env);
                    self.phase = Phase::Killing;
                    self.go_to(if run.journal.is_behind() { Stage::Flushing } else { Stage::Leaving }, run, env);
                } else {
                    let spawned = Fact::Spawned { pid: run.pipeline.pid, start_ticks: 7, containment: Containment::Tree };
                    self.record(spawned, Some(run.spec.origin), true, run, env);
                    self.go_to(Stage::Going, run, env);
                }
            }
            Stage::Going => {
                self.take_commands(run, env);
                self.listen(run, env);
                self.advance(run, env);
                if self.leader_end.is_some() && !run.pipeline.is_alive() {
                    self.go_to(Stage::Finishing, run, env);
                }
            }
            Stage::Finishing => {
                self.end_signs(run, env);
                self.count_pause(env);
                env.pause_file = false;
                let exit = self.leader_end.map_or(Exit::Code(0), |(exit, _)| exit);
                let log_end = run.spec.log_start + env.rng.below(1000);
                let paused_ms = self.paused_in_all / MS;
                let killed = std::mem::take(&mut self.killed);
                if !killed.is_empty() {
                    env.cover("an end named what was killed");
                }
                let fact = Fact::Exited { exit, asked: self.stopped_by.is_some(), paused_ms, log_end, killed, oom_kills: None };
                self.last.push(write_down(fact, self.stopped_by, true, run, env));
                self.stage = Stage::Reaping;
                if run.journal.is_behind() {
                    env.cover("the end waited for room on the disk");
                    env.tell_all(run.id, &std::mem::take(&mut self.last));
                    self.phase = Phase::Killing;
                    self.stage = Stage::Flushing;
                }
                env.soon(Due::Turn(run.id));
            }
            Stage::Flushing => {
                self.take_commands(run, env);
                let is_written = run.journal.flush(env);
                self.tell_signs(run, env);
                if is_written {
                    let has_lived = run.pipeline.leader != Leader::Unborn;
                    self.go_to(if has_lived { Stage::Reaping } else { Stage::Leaving }, run, env);
                } else {
                    self.set_timer(env.awake_us() + RETRY, run.id, env);
                }
            }
            Stage::Reaping => {
                let usage = Fact::Usage { cpu_user_ms: 1, cpu_system_ms: 1, max_rss_kb: 1, memory_peak_bytes: None };
                self.last.push(write_down(usage, None, false, run, env));
                if env.mishap(env.temper.torn_telling) {
                    env.cover("a shim was killed before it told its end");
                    self.is_struck = true;
                    return false;
                }
                env.tell_all(run.id, &std::mem::take(&mut self.last));
                self.go_to(Stage::Leaving, run, env);
            }
            Stage::Leaving => {
                self.phase = Phase::Killing;
                self.take_commands(run, env);
                if self.has_stored(run, env) {
                    return false;
                }
                self.set_timer(env.awake_us() + RETRY, run.id, env);
            }
        }
        true
    }

    fn go_to(&mut self, stage: Stage, run: &Run, env: &mut Env) {
        self.stage = stage;
        env.soon(Due::Turn(run.id));
    }

    /// Checks whether this is the current timer, and removes it.
    pub(super) fn is_timer(&mut self, at: u64) -> bool {
        self.timer.take_if(|timer| *timer == at).is_some()
    }

    /// Schedules the next turn at `at` in awake time, as poll(2) does.
    fn set_timer(&mut self, at: u64, run_id: i64, env: &mut Env) {
        let wait = at.saturating_sub(env.awake_us());
        let due = env.now + wait;
        if self.timer != Some(due) {
            self.timer = Some(due);
            env.after(wait, Due::Timer(run_id, due));
        }
    }

    // ---- commands

    fn take_commands(&mut self, run: &mut Run, env: &mut Env) {
        if std::mem::take(&mut self.sees_what_is_unknown) {
            self.record(Fact::Unknown, None, false, run, env);
        }
        if std::mem::take(&mut self.got_term) {
            self.stop(run.spec.grace_ms * MS, Origin::Signal, run, env);
        }
        for (number, what) in env.take_down(run.id) {
            let Down::Command(command) = what else { continue };
            env.note(|| format!("run {}: its shim takes {command:?} from connection {number}", run.id));
            self.obey(number, command, run, env);
        }
    }

    fn obey(&mut self, number: u64, command: Command, run: &mut Run, env: &mut Env) {
        let now = env.awake_us();
        match command {
            Command::Attach { tag, after } => {
                // The facts in the file, and those for which it has no room yet.
                let missed = run.journal.entries.iter().filter(|entry| entry.seq > after);
                let missed: Vec<Message> = missed.map(|entry| Message::Fact(entry.clone())).collect();
                for message in missed {
                    env.tell(number, &[message]);
                }
                env.attach(number);
                env.tell(number, &[self.board.message()]);
                answer((number, tag), None, env);
            }
            Command::Pause { tag, origin } => match &mut self.phase {
                Phase::Running | Phase::Thawing { then: Thawed::Keep { .. }, .. } if self.leader_end.is_none() => {
                    self.freeze(Frozen::Tell(Some(origin)), Some((number, tag)), now, run, env);
                }
                Phase::Freezing { asker: asker @ None, then: Frozen::Tell(_), .. } => *asker = Some((number, tag)),
                _ => not_now((number, tag), run, env),
            },
            Command::Resume { tag, origin } => match self.phase {
                Phase::Paused | Phase::Freezing { then: Frozen::Keep, asker: None, .. } if self.leader_end.is_none() => {
                    self.thaw(Thawed::Tell(Some(origin)), Some((number, tag)), now, run, env);
                }
                _ => not_now((number, tag), run, env),
            },
            Command::Stop { tag, grace_ms, origin } => {
                self.stop(grace_ms.unwrap_or(run.spec.grace_ms) * MS, origin, run, env);
                answer((number, tag), None, env);
            }
            Command::Watch { tag } => {
                env.cover("a shim was told that somebody watches");
                self.look_at_usage(run, env);
                answer((number, tag), None, env);
            }
            Command::Unknown => {}
        }
    }

    fn freeze(&mut self, then: Frozen, asker: Option<Asker>, now: u64, run: &mut Run, env: &mut Env) {
        run.may_stick(env);
        let done_at = now + env.rng.delay() + env.rng.delay();
        self.phase = Phase::Freezing { since: now, done_at, then, asker };
        self.look_at = Some(done_at);
        self.set_timer(done_at, run.id, env);
    }

    fn thaw(&mut self, then: Thawed, asker: Option<Asker>, now: u64, run: &mut Run, env: &mut Env) {
        run.may_stick(env);
        env.pause_file = false;
        let done_at = now + env.rng.delay() + env.rng.delay();
        self.phase = Phase::Thawing { since: now, done_at, then, asker };
        self.look_at = Some(done_at);
        self.set_timer(done_at, run.id, env);
    }

    fn stop(&mut self, grace: u64, origin: Origin, run: &mut Run, env: &mut Env) {
        let now = env.awake_us();
        self.watch_leader(now, run, env);
        let mut kill_at = now + grace;
        let is_first = !matches!(self.phase, Phase::Stopping { .. });
        match self.phase {
            Phase::Killing => return,
            Phase::Stopping { kill_at: before } if before <= kill_at && !origin.can_prolong() => return,
            Phase::Stopping { .. } | Phase::Running | Phase::Paused | Phase::Freezing { .. } | Phase::Thawing { .. } => {}
        }
        if self.leader_end.is_some() && self.stopped_by.is_none() {
            kill_at = now;
        }
        if self.leader_end.is_none() {
            self.stopped_by.get_or_insert(origin);
        }
        if run.pipeline.leader_is_alive() {
            run.stopped_by.get_or_insert(origin);
        }
        env.pause_file = false;
        self.phase = Phase::Stopping { kill_at };
        if kill_at > now {
            self.record(Fact::Stopping { grace_ms: grace / MS }, Some(origin), false, run, env);
            if is_first {
                self.terminate(run, env);
            }
        }
        self.look_at = Some(kill_at);
        self.set_timer(kill_at, run.id, env);
    }

    /// Sends TERM, then CONT.
    fn terminate(&mut self, run: &mut Run, env: &mut Env) {
        if !run.pipeline.ignores_term {
            let longest = env.rng.pick(&[MS, 100 * MS, 8 * SECOND]);
            let delay = env.rng.below(longest);
            let exit = env.rng.pick(&[Exit::Signal(15), Exit::Code(0), Exit::Code(143)]);
            env.after(delay, Due::Ends(run.id, exit));
        }
        run.pipeline.helpers_are_stopped = false;
        if run.pipeline.leader == Leader::Stopped {
            run.pipeline.leader = Leader::Awake;
            run.do_what_is_due(env);
        }
        // The leader continues, and the kernel notifies its parent.
        self.looks_at_leader = true;
        env.soon(Due::Turn(run.id));
    }

    // ---- visible results

    fn record(&mut self, fact: Fact, origin: Option<Origin>, durable: bool, run: &mut Run, env: &mut Env) {
        let message = write_down(fact, origin, durable, run, env);
        if env.mishap(env.temper.torn_telling) {
            env.cover("a shim was killed between a fact and its telling");
            self.is_struck = true;
        }
        if !self.is_struck {
            env.tell_all(run.id, &[message]);
        }
    }
}

fn write_down(fact: Fact, origin: Option<Origin>, durable: bool, run: &mut Run, env: &mut Env) -> Message {
    env.happens(run.id, fact.kind());
    let entry = run.journal.append(env, run.spec.created_at, fact, origin, durable);
    if run.journal.is_behind() {
        env.cover("a fact waited for room on the disk");
    }
    env.note(|| format!("run {}: its shim sees {:?}, number {}", run.id, entry.fact, entry.seq));
    Message::Fact(entry)
}

fn answer((number, tag): Asker, error: Option<ReplyError>, env: &mut Env) {
    let detail = error.map(|_| "a reason".to_owned());
    env.tell(number, &[Message::Reply(Reply { reply: tag, error, detail })]);
}

fn not_now(asker: Asker, run: &Run, env: &mut Env) {
    env.happens(run.id, "not now");
    answer(asker, Some(ReplyError::NotNow), env);
}

fn header(run: &Run) -> Header {
    Header {
        shim_start_ticks: 1,
        socket: None,
        mark: None,
        runtime_dir: "/r".into(),
        cgroup: None,
        format: FORMAT,
        run_id: run.id,
        boot_id: run.boot.to_string(),
        shim_pid: 1,
        created_at: run.spec.created_at,
        script: run.spec.script.clone(),
        args: run.spec.args.clone(),
        cwd: run.spec.cwd.display().to_string(),
        env_names: run.spec.env.keys().cloned().collect(),
        grace_ms: run.spec.grace_ms,
        log_start: run.spec.log_start,
    }
}
