//! The clients: their requests, and checks that the responses are correct.

use std::sync::Arc;
use std::sync::mpsc::Receiver;
use std::time::Duration;

use super::env::SECOND;
use super::rng::Rng;
use super::shim::NOT_EXECUTABLE;
use super::world::World;
use crate::api::pipeline::ExpectedRun;
use crate::pipeline::{Action, State};
use crate::store::RequestKey;
use crate::supervisor::{ActionError, Ask, Published, Snapshot, StartRequest};

pub(super) type Answer = Result<Arc<Published>, ActionError>;

/// A requested action, and the state of the world at that time.
pub(super) struct Asked {
    pub(super) action: Action,
    /// Some clients name the latest run that they were shown.
    pub(super) if_run: ExpectedRun,
    /// Most clients send a key, each a new one.
    pub(super) key: Option<RequestKey>,
    pub(super) waiting: Receiver<Answer>,
    /// How long the request may wait from the end of the turn that received it, the resulting deadline, and the earliest time of
    /// the answer that the action is still under way. In microseconds of boot time.
    pub(super) wait: u64,
    pub(super) until: u64,
    not_before: u64,
    is_bad: bool,
    before: Snapshot,
    was_well: bool,
    /// The latest run, and its state.
    run_id: Option<i64>,
    was_paused: bool,
    was_awake: bool,
    history: usize,
    database_faults: u64,
    folder_faults: u64,
    wires_lost: u64,
}

const NOWHERE: &str = "nowhere.sh";

/// Returns a random request, mostly one that is allowed.
pub(super) fn think_of(rng: &mut Rng, snapshot: &Snapshot) -> Ask {
    let is_sensible = rng.chance(800) && !snapshot.allowed.is_empty();
    let action = if is_sensible { rng.pick(&snapshot.allowed) } else { rng.pick(Action::ALL) };
    let grace_ms = rng.pick(&[0, 3, 100, 3_000, 20_000]);
    let grace = rng.chance(700).then(|| Duration::from_millis(grace_ms));
    match action {
        Action::Start => {
            let mut request = StartRequest { grace, ..StartRequest::default() };
            if rng.chance(60) {
                request.args.push(NOT_EXECUTABLE.to_owned());
            }
            if rng.chance(20) {
                request.script = Some(NOWHERE.to_owned());
            }
            Ask::Start(request)
        }
        Action::Pause => Ask::Pause,
        Action::Resume => Ask::Resume,
        Action::Stop => Ask::Stop { grace },
    }
}

impl Asked {
    pub(super) fn new(ask: &Ask, waiting: Receiver<Answer>, before: Snapshot, was_well: bool, world: &mut World) -> Self {
        let history = world.env.history_before_now();
        let if_run = if world.env.rng.chance(300) { ExpectedRun::Is(before.run_id) } else { ExpectedRun::Any };
        let key = world.env.rng.chance(700).then(|| RequestKey {
            key: format!("{:016x}{:016x}", world.env.rng.below(u64::MAX), world.env.rng.below(u64::MAX)),
            request: "0".repeat(64),
        });
        let run = world.runs.values().next_back();
        let wait = match ask {
            Ask::Start(_) | Ask::Pause | Ask::Resume => 10 * SECOND,
            Ask::Stop { grace } => {
                let own = run.map_or(0, |run| run.spec.grace_ms);
                grace.map_or(own, |grace| u64::try_from(grace.as_millis()).expect("some seconds")) * 1000 + 20 * SECOND
            }
        };
        Self {
            action: ask.action(),
            if_run,
            key,
            waiting,
            wait,
            until: u64::MAX,
            not_before: world.env.awake_us() + wait,
            is_bad: matches!(ask, Ask::Start(request) if request.script.as_deref() == Some(NOWHERE)),
            before,
            was_well,
            run_id: run.map(|run| run.id),
            was_paused: run.is_some_and(|run| run.pipeline.is_paused()),
            was_awake: run.is_some_and(|run| run.pipeline.leader == super::pipeline::Leader::Awake),
            history,
            database_faults: world.env.database_faults,
            folder_faults: world.env.folder_faults,
            wires_lost: world.env.wires_lost,
        }
    }

    /// Checks whether the response is correct for what happened between the request and now.
    pub(super) fn judge(&self, answer: &Answer, is_at_once: bool, world: &World) -> Result<(), String> {
        let happened = |run_id: i64, what: &'static str| world.env.has_happened(self.history, run_id, what);
        let ran = self.run_id.and_then(|id| world.runs.get(&id));
        let refuse = |why: &str| Err(format!("{} was answered {}: {why}", self.action, brief(answer)));
        match answer {
            Ok(published) => {
                let Some(run_id) = published.snapshot.run_id else { return refuse("no run") };
                let Some(run) = world.runs.get(&run_id) else { return refuse("no such run") };
                match self.action {
                    Action::Start if self.run_id.is_some_and(|before| run_id <= before) => refuse("it was there before"),
                    Action::Start if !happened(run_id, "spawned") => refuse("it was not spawned since"),
                    Action::Start if published.snapshot.run_pid != Some(run.pipeline.pid) => refuse("its pid is another"),
                    Action::Pause | Action::Resume | Action::Stop if self.run_id != Some(run_id) => refuse("another run"),
                    Action::Pause if published.snapshot.paused_at.is_none() => refuse("no pause is recorded"),
                    Action::Resume if published.snapshot.resumed_at.is_none() => refuse("no resume is recorded"),
                    Action::Pause if self.was_paused || run.pipeline.is_paused() => Ok(()),
                    Action::Pause if !happened(run_id, "paused") => refuse("it was at no moment paused"),
                    Action::Resume if self.was_awake || run.pipeline.leader == super::pipeline::Leader::Awake => Ok(()),
                    Action::Resume if !happened(run_id, "resumed") => refuse("it was at no moment awake"),
                    Action::Stop if published.snapshot.state != State::Stopped => refuse("it says another state"),
                    Action::Stop if run.status.is_live() => refuse("the run is not recorded as ended"),
                    Action::Stop if run.pipeline.is_alive() && !run.pipeline.is_given_up => refuse("it is alive"),
                    Action::Start | Action::Pause | Action::Resume | Action::Stop => Ok(()),
                }
            }
            Err(ActionError::Refused(_)) if is_at_once => {
                let is_allowed = self.before.allowed.contains(&self.action);
                let is_no_shorter = self.action == Action::Stop && self.before.pending == Some(Action::Stop);
                let has_ended = ran.is_some_and(|run| !run.status.is_live());
                if is_allowed && self.was_well && !is_no_shorter && (self.action == Action::Start || !has_ended) {
                    return refuse("it was said to be allowed");
                }
                Ok(())
            }
            // A stop, the end, or something that the shim already knew came first.
            Err(ActionError::Refused(_)) => {
                // The shim may already have known of a stop that the server did not know yet.
                let is_stopping = ran.is_some_and(|run| run.journal.entries.iter().any(|entry| entry.fact.kind() == "stopping"));
                let is_overtaken =
                    is_stopping || ["stop asked", "not now"].iter().any(|what| ran.is_some_and(|run| happened(run.id, what)));
                // An end counts from when it was received, even while the database refuses it.
                let has_ended = |run: &super::run::Run| run.journal.entries.iter().any(|entry| entry.fact.is_end());
                if is_overtaken || ran.is_some_and(|run| !run.status.is_live() || has_ended(run)) {
                    Ok(())
                } else {
                    refuse("nothing came between")
                }
            }
            Err(ActionError::RunChanged { latest }) if is_at_once => {
                // A run that was committed and could not be started is the latest, too.
                let is_latest = *latest >= world.runs.keys().next_back().copied();
                if self.if_run == ExpectedRun::Any || self.if_run == ExpectedRun::Is(*latest) || !is_latest {
                    return refuse("the run that it means is the latest");
                }
                Ok(())
            }
            Err(ActionError::ShimSilent) if is_at_once || world.env.wires_lost > self.wires_lost => Ok(()),
            Err(ActionError::Script(_)) if self.is_bad => Ok(()),
            Err(ActionError::SpawnFailed { run_id, .. }) if self.run_id.is_some_and(|before| *run_id <= before) => {
                refuse("it was there before")
            }
            Err(ActionError::SpawnFailed { run_id, .. }) => match world.runs.get(run_id) {
                Some(run) if run.status.is_live() => refuse("the run is not recorded as ended"),
                Some(run) if run.pipeline.is_alive() && !run.pipeline.is_given_up => refuse("it is alive"),
                _ => Ok(()),
            },
            // Each stop is accepted, and waits for the same end.
            Err(ActionError::TooManyWaiting(Action::Stop)) if self.action == Action::Stop => Ok(()),
            Err(ActionError::PauseTimeout(_)) if self.run_id.is_some_and(|id| happened(id, "pause_timeout")) => Ok(()),
            Err(ActionError::ResumeFailed(_)) if self.run_id.is_some_and(|id| happened(id, "resume_failed")) => Ok(()),
            Err(ActionError::StillUnderWay(_)) if world.env.awake_us() >= self.not_before => Ok(()),
            Err(ActionError::DiskFull | ActionError::DatabaseLocked | ActionError::Store(_))
                if world.env.database_faults > self.database_faults =>
            {
                Ok(())
            }
            Err(ActionError::Io(_)) if world.env.folder_faults > self.folder_faults => Ok(()),
            // The action was done all the same: judged like a success, but without the record.
            Err(ActionError::Unrecorded { .. }) if world.env.database_faults > self.database_faults => {
                let latest = world.runs.keys().next_back().copied().unwrap_or(0);
                match self.action {
                    Action::Start if self.run_id.is_some_and(|before| latest <= before) => refuse("there is no new run"),
                    Action::Start if !happened(latest, "spawned") => refuse("it was not spawned since"),
                    Action::Pause if !happened(latest, "paused") && !self.was_paused => refuse("it was at no moment paused"),
                    Action::Resume if !happened(latest, "resumed") && !self.was_awake => refuse("it was at no moment awake"),
                    Action::Stop if ran.is_some_and(|run| run.pipeline.is_alive() && !run.pipeline.is_given_up) => {
                        refuse("it is alive")
                    }
                    Action::Start | Action::Pause | Action::Resume | Action::Stop => Ok(()),
                }
            }
            Err(_) => refuse("nothing of the kind has happened"),
        }
    }
}

/// Returns a short text about a response.
pub(super) fn brief(answer: &Answer) -> String {
    match answer {
        Ok(published) => format!("ok, {} at version {}", published.snapshot.state, published.snapshot.version),
        Err(error) => kind(error).to_owned(),
    }
}

/// Returns an error's name.
pub(super) fn kind(error: &ActionError) -> &'static str {
    match error {
        ActionError::Refused(_) => "refused",
        ActionError::RunChanged { .. } => "run changed",
        ActionError::KeyReused => "key reused",
        ActionError::Script(_) => "bad script",
        ActionError::SpawnFailed { .. } => "spawn failed",
        ActionError::PauseTimeout(_) => "pause timeout",
        ActionError::ResumeFailed(_) => "resume failed",
        ActionError::Shim(_) => "shim",
        ActionError::ShimSilent => "shim silent",
        ActionError::StillUnderWay(_) => "still under way",
        ActionError::TooManyWaiting(_) => "too many waiting",
        ActionError::DiskFull => "disk full",
        ActionError::Unrecorded { .. } => "unrecorded",
        ActionError::Store(_) => "store",
        ActionError::DatabaseLocked => "locked",
        ActionError::Io(_) => "io",
        ActionError::Stopping => "stopping",
    }
}
