//! Handles the clients' actions: each is decided by the rules, committed or sent to the shim, and answered when its fact arrives.
//!
//! If killed here: the client gets no response. The next boot ends a run that was committed and not launched; the shim still does
//! a command that was sent. A repeat finds an action that was begun under a key (`repeats`).

use std::time::Duration;

use super::in_flight::Waiter;
use super::parts::Conductor;
use super::repeats::Earlier;
use crate::api::pipeline::ExpectedRun;
use crate::clock::{Clock, Timestamp, whole_ms};
use crate::log::RUN_START_MAX;
use crate::pipeline::{Action, Origin, Pending, Refusal, decide};
use crate::process::{explain_shortage, is_disk_full, shortage_of};
use crate::run_dir::{Command, FORMAT, LaunchSpec, Trouble};
use crate::script::{self, Attempt, ScriptError};
use crate::store::{NewRun, RequestKey, StoreError};
use crate::supervisor::ask::{Ask, ReplyTo, StartRequest, answer};
use crate::supervisor::error::ActionError;
use crate::supervisor::kill_points;
use crate::supervisor::records::Records;
use crate::supervisor::shims::Shims;

/// How long a client waits for a start, a pause or a resume before the server answers that it is still under way. The shim gives
/// up a pause earlier.
const ANSWER_LIMIT: Duration = Duration::from_secs(10);

/// How long a client waits for a stop in addition to the grace.
const STOP_ANSWER_LIMIT: Duration = Duration::from_secs(20);

impl<R: Records, S: Shims, C: Clock> Conductor<R, S, C> {
    /// Handles an action that `origin` requested, if `if_run` is the latest run. It is answered when it is done, or at once if it
    /// cannot be done. The action is done only once for each `key`.
    pub(in crate::supervisor) fn act(
        &mut self,
        ask: Ask,
        if_run: ExpectedRun,
        key: Option<&RequestKey>,
        origin: Origin,
        reply_to: &ReplyTo,
    ) {
        let now = self.clock.awake();
        let action = ask.action();
        let grace = match &ask {
            Ask::Stop { grace } => grace.unwrap_or(self.grace),
            Ask::Start(_) | Ask::Pause | Ask::Resume => Duration::ZERO,
        };
        // The disk may have room by now.
        let unrecorded = self.record_unrecorded();
        // The response must come from the stored state, but a live run can be controlled without it.
        if let Err(error) = self.catch_up() {
            self.note_store_failure(&error);
            if action == Action::Start || self.live_run().is_none() {
                return answer(reply_to, Err(error.into()));
            }
        }
        let limit = match &ask {
            Ask::Stop { .. } => grace + STOP_ANSWER_LIMIT,
            Ask::Start(_) | Ask::Pause | Ask::Resume => ANSWER_LIMIT,
        };
        let waiter = Waiter { reply_to: reply_to.clone(), until: now + limit };
        let mut new_key = key;
        let begun = match key.map_or(Ok(None), |key| self.begun_under(key)) {
            Ok(begun) => begun,
            Err(error) => return answer(reply_to, Err(error)),
        };
        if let Some(begun) = begun {
            match self.look_back(action, begun, &unrecorded) {
                Ok(Earlier::Over(result)) => return answer(reply_to, result),
                Ok(Earlier::UnderWay) => return self.in_flight.join(waiter),
                Ok(Earlier::ToDo) => new_key = None,
                Err(error) => {
                    self.note_store_failure(&error);
                    return answer(reply_to, Err(error.into()));
                }
            }
        }
        let kill_by = if origin.can_prolong() { Duration::ZERO } else { now + grace };
        let latest = self.ledger.row.run_id;
        if let ExpectedRun::Is(meant) = if_run
            && meant != latest
        {
            return answer(reply_to, Err(ActionError::RunChanged { latest }));
        }
        if let Err(refusal) = decide(self.ledger.known_state(), self.in_flight.pending(), action, kill_by) {
            return answer(reply_to, Err(ActionError::Refused(refusal)));
        }
        if let Some(key) = new_key.filter(|_| action != Action::Start) {
            self.ledger.begin_keyed(key);
        }
        let tag = self.in_flight.new_tag();
        match ask {
            Ask::Start(request) => match unrecorded {
                Ok(()) => self.launch(&request, new_key, origin, waiter),
                // The end of the previous run must be recorded first.
                Err(error) => answer(reply_to, Err(error.into())),
            },
            Ask::Pause => {
                self.command(Command::Pause { tag, origin }, (tag, origin), Pending::Pause, waiter);
            }
            Ask::Resume => {
                self.command(Command::Resume { tag, origin }, (tag, origin), Pending::Resume, waiter);
            }
            Ask::Stop { .. } => {
                let command = Command::Stop { tag, grace_ms: Some(whole_ms(grace)), origin };
                let pending = Pending::Stop { kill_at: now + grace };
                self.command(command, (tag, origin), pending, waiter);
            }
        }
        // After the command, which does not wait for the database.
        if let Err(error) = self.ledger.record_keys() {
            self.note_store_failure(&error);
        }
    }

    fn launch(&mut self, request: &StartRequest, key: Option<&RequestKey>, origin: Origin, waiter: Waiter) {
        let spec = match self.prepare(request, key, origin) {
            Ok(spec) => spec,
            Err(error) => return answer(&waiter.reply_to, Err(error)),
        };
        let run_id = spec.run_id;
        self.grace = Duration::from_millis(spec.grace_ms);
        // Its shim removes the file that another run left.
        self.pause_file = None;
        self.in_flight.take_over(Pending::Start, Some(origin), vec![waiter]);
        self.publish();
        match self.link.launch(&spec, self.clock.awake()) {
            Ok(()) => self.show_conditions(),
            Err(error) => {
                // Checking the run shows whether a shim was started before the error.
                ::log::error!("run {run_id}: its shim could not be started: {error}");
                let detail = explain_shortage("the run's own process could not be started", &error);
                self.signs.note_last_words(Trouble::last_words(detail.clone(), is_disk_full(&error), shortage_of(&error)));
                if let Err(error) = self.settle(&detail) {
                    self.forget_and_retry(&error);
                    self.publish();
                }
            }
        }
    }

    /// Checks the request and commits the run. A refused request changes nothing.
    fn prepare(&mut self, request: &StartRequest, key: Option<&RequestKey>, origin: Origin) -> Result<LaunchSpec, ActionError> {
        let name = request.script.as_deref().or(self.settings.default_script.as_deref());
        let script_name = name.ok_or(ScriptError::Unnamed)?.to_owned();
        let root = script::find_root(&self.settings.root)?;
        let file = script::find_script(&root, &script_name, &request.args)?;
        let cwd = match &request.cwd {
            Some(name) => script::find_cwd(&root, name)?,
            None => root,
        };
        let search_path = std::env::var_os("PATH");
        let has_own_path = request.env.keys().any(|name| script::decides_what_env_runs(name));
        let attempt = Attempt { file: &file, name: &script_name, cwd: &cwd, search_path: search_path.as_deref(), has_own_path };
        let program = attempt.program().map_err(ScriptError::from)?;
        let log_end = self.link.shims.log_end().map_err(ActionError::Io)?;
        let recorded = self.ledger.store.read("log_position_max", |store| store.log_position_max(RUN_START_MAX))?;
        let log_start = if log_end <= RUN_START_MAX { log_end.max(recorded) } else { recorded };
        let at = self.clock.now();
        let new = NewRun {
            script: script_name,
            cwd: cwd.display().to_string(),
            args: request.args.clone(),
            log_start,
            origin: Some(origin),
            start_cwd: request.cwd.clone(),
            env_names: request.env.keys().cloned().collect(),
            grace_ms: request.grace.map(whole_ms),
        };
        let run_id = self.begin_run(&new, key, at).inspect_err(|error| self.forget_and_retry(error))?;
        Ok(LaunchSpec {
            format: FORMAT,
            run_id,
            runtime_dir: self.settings.runtime_dir.clone(),
            created_at: at,
            origin,
            script: new.script,
            program: program.program,
            program_args: program.args,
            args: new.args,
            cwd,
            env: request.env.clone(),
            grace_ms: whole_ms(request.grace.unwrap_or(self.settings.grace)),
            log_start,
            log_segment_bytes: self.settings.log_segment_bytes,
            log_run_bytes: self.settings.log_run_bytes,
            uses_cgroups: self.settings.uses_cgroups,
            core_bytes_max: self.settings.core_bytes_max,
            usage_ms: whole_ms(self.settings.usage_every),
        })
    }

    /// Commits the run. If this fails, the run may be stored all the same and never launched. Then the next check of the run ends
    /// it.
    fn begin_run(&mut self, new: &NewRun, key: Option<&RequestKey>, at: Timestamp) -> Result<i64, StoreError> {
        self.skip_taken_ids()?;
        let run_id = self.ledger.begin_run(new, key, at)?;
        self.link.await_nothing();
        self.signs.begin_run();
        self.in_flight.begin_run();
        self.ledger.enter()?;
        self.ledger.note_success();
        Ok(run_id)
    }

    /// Reserves the ids that have an entry in `runs/`, up to the first free one. A directory from another machine would make the
    /// start fail, and its journal would be mistaken for the run's. Only consecutive ids are skipped, because a directory can
    /// have any name.
    fn skip_taken_ids(&mut self) -> Result<(), StoreError> {
        let next = self.ledger.next_run_id()?;
        let free = (next..i64::MAX).find(|&id| !self.link.shims.has_run(id)).unwrap_or(i64::MAX);
        if free > next { self.ledger.reserve_run_ids(free - 1) } else { Ok(()) }
    }

    /// Sends a command to the shim, and records that its fact is awaited.
    fn command(&mut self, command: Command, (tag, origin): (u64, Origin), pending: Pending, waiter: Waiter) {
        let asked_ms = whole_ms(self.clock.since_boot());
        if !self.link.send(&command, self.clock.awake()) {
            // The shim may have exited after an end that has not arrived here yet, but is in its journal.
            if self.link.is_connected() {
                self.let_go_and_look();
            }
            let (from, other) = (self.ledger.known_state(), self.in_flight.pending());
            let refusal = Refusal { from, action: pending.action(), pending: other.map(Pending::action) };
            let has_ended = self.live_run().is_none();
            let error = if has_ended { ActionError::Refused(refusal) } else { ActionError::ShimSilent };
            return answer(&waiter.reply_to, Err(error));
        }
        kill_points::sent(&command);
        self.in_flight.sent(pending, origin, (tag, asked_ms, command), waiter, self.ledger.known_state());
        // The shim is already working, so notify the clients that something is under way.
        self.tell_that_something_changed();
    }
}
