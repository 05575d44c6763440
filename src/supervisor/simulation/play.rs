//! Plays one seed: a server is killed and restarted in the middle of everything, until the faults stop and the state must be
//! correct.

mod checks;

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::PathBuf;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::mpsc::sync_channel;
use std::time::Duration;

use super::clients::{self, Asked};
use super::env::{Due, Env, MS, SECOND};
use super::origins::Origins;
use super::records::{Database, SharedDatabase, SimRecords};
use super::shims::{Killed, SimClock, SimShims};
use super::wires::Input;
use super::world::{Shared, World};
use crate::pipeline::{Action, ConditionCode};
use crate::run_dir::{Message, NumberedSigns};
use crate::store::Store;
use crate::supervisor::conductor::Conductor;
use crate::supervisor::{Ask, Looking, Settings, Watch};

type Server = Conductor<SimRecords, SimShims, SimClock>;

/// The result of a seed.
pub(super) struct Outcome {
    pub(super) violation: Option<String>,
    pub(super) trace: Vec<String>,
    pub(super) coverage: BTreeMap<String, u64>,
    pub(super) steps: u64,
    pub(super) kills: u64,
    pub(super) store: Store,
}

/// A seed in progress, see the module.
pub(super) struct Play {
    pub(super) world: Shared,
    pub(super) database: SharedDatabase,
    pub(super) origins: Origins,
    settings: Settings,
    server: Option<(Box<Server>, Arc<Watch>)>,
    /// The time at which the server's thread wakes by itself, and how often it did so without any work.
    wake_at: Option<u64>,
    idle_turns: u32,
    boot_at: u64,
    ask_at: u64,
    ask_every: u64,
    are_kills: bool,
    asked: Vec<Asked>,
    /// A client that follows the resource usage.
    looking: Option<Looking>,
    /// The highest version that any client was shown.
    seen: u64,
    /// The run whose progress this server has shown, and how far that was.
    seen_progress: (Option<i64>, u64),
    steps: u64,
    kills: u64,
}

impl Play {
    pub(super) fn new(seed: u64, store: Store, root: PathBuf, is_traced: bool) -> Self {
        let mut env = Env::new(seed, is_traced);
        let rng = &mut env.rng;
        // Not all faults at once: a rare one shows only if little else happens.
        let mut sometimes = |often, per_mille: &[u64]| if rng.chance(often) { rng.pick(per_mille) } else { 0 };
        let (database, shims) = (sometimes(250, &[5, 30, 150]), sometimes(250, &[5, 30, 150]));
        let (slowness, torn_telling) = (sometimes(500, &[10, 100, 300]), sometimes(150, &[50, 200]));
        let (frailty, cuts) = (sometimes(150, &[5, 20, 60]), sometimes(200, &[30, 200]));
        let kept_errors = sometimes(150, &[20, 150]);
        let every = sometimes(800, &[5 * MS, 200 * MS, 2 * SECOND, 20 * SECOND]);
        env.temper.database = database;
        env.temper.kept_errors = kept_errors;
        env.temper.shims = shims;
        env.temper.slowness = slowness;
        env.temper.torn_telling = torn_telling;
        env.temper.frailty = frailty;
        env.temper.cuts = cuts;
        env.temper.strike_every = (every > 0).then_some(every);
        env.temper.strikes = env.rng.draw() | env.rng.draw();
        let are_kills = env.rng.chance(700);
        let ask_every = env.rng.pick(&[MS, 50 * MS, SECOND, 6 * SECOND]);
        if env.temper.strike_every.is_some() {
            env.soon(Due::Strikes);
        }
        let settings = Settings {
            runtime_dir: root.clone(),
            root,
            default_script: Some("a.sh".to_owned()),
            grace: Duration::from_secs(10),
            uses_cgroups: true,
            keeps_env_values: false,
            usage_every: Duration::from_secs(10),
            core_bytes_max: None,
            taken_vars: Vec::new(),
            log_segment_bytes: 1 << 20,
            log_run_bytes: 1 << 24,
        };
        Self {
            world: Rc::new(RefCell::new(World { env, runs: BTreeMap::new() })),
            database: Rc::new(RefCell::new(Database::new(store))),
            origins: Origins::default(),
            settings,
            server: None,
            wake_at: None,
            idle_turns: 0,
            boot_at: 0,
            ask_at: 0,
            ask_every,
            are_kills,
            asked: Vec::new(),
            looking: None,
            seen: 0,
            seen_progress: (None, 0),
            steps: 0,
            kills: 0,
        }
    }

    /// Plays the seed to the end.
    pub(super) fn run(mut self) -> Outcome {
        let steps = self.with_env(|env| env.rng.pick(&[40, 120, 250]));
        let mut result = Ok(());
        while result.is_ok() && self.steps < steps {
            result = self.step();
        }
        let result = result.and_then(|()| self.end_in_peace());
        drop(self.server.take());
        let Self { world, database, steps, kills, .. } = self;
        let env = &mut world.borrow_mut().env;
        let violation = result.err();
        if let Some(violation) = &violation {
            env.violate(|| violation.clone());
        }
        let store = Rc::into_inner(database).expect("the server is gone").into_inner().store;
        Outcome { violation, trace: env.take_trace(), coverage: std::mem::take(&mut env.coverage), steps, kills, store }
    }

    pub(super) fn with_env<T>(&self, act: impl FnOnce(&mut Env) -> T) -> T {
        act(&mut self.world.borrow_mut().env)
    }

    pub(super) fn watch(&self) -> Option<&Arc<Watch>> {
        self.server.as_ref().map(|(_, watch)| watch)
    }

    /// Ends following the resource usage.
    pub(super) fn stop_looking(&mut self) {
        self.looking = None;
    }

    pub(super) fn is_answered(&self) -> bool {
        self.asked.is_empty()
    }

    // ---- one step

    /// Runs whatever is due first: an event of the world, a turn or the start of the server, or a request.
    pub(super) fn step(&mut self) -> Result<(), String> {
        self.steps += 1;
        let is_up = self.server.is_some();
        let (now, world_at, input_at, is_calm) = self.with_env(|env| {
            let input_at = env.inbox.front().map(|(ready, _)| *ready);
            (env.now, env.next_due_at(), input_at, env.is_calm)
        });
        let server_at = [input_at, self.wake_at].into_iter().flatten().min().filter(|_| is_up);
        let boot_at = (!is_up).then_some(self.boot_at);
        let ask_at = (!is_calm).then_some(self.ask_at);
        let first = [world_at, server_at, boot_at, ask_at].into_iter().flatten().min().unwrap_or(now + SECOND);
        self.with_env(|env| env.now = env.now.max(first));
        if boot_at == Some(first) {
            self.boot()?;
        } else if server_at == Some(first) {
            let is_input = input_at.is_some_and(|at| at <= first);
            let input = if is_input { self.with_env(|env| env.inbox.pop_front()) } else { None };
            self.serve(input.map(|(_, input)| input))?;
        } else if ask_at == Some(first) {
            let every = self.ask_every;
            self.ask_at = first + self.with_env(|env| env.rng.below(2 * every));
            if let Some((_, watch)) = &self.server {
                let snapshot = watch.get().snapshot.clone();
                let ask = self.with_env(|env| clients::think_of(&mut env.rng, &snapshot));
                self.ask(ask)?;
            }
        } else {
            self.world.borrow_mut().step(first);
        }
        if self.are_kills && self.server.is_some() && self.with_env(|env| env.mishap(4)) {
            self.with_env(|env| {
                env.note(|| "the server is killed between two events".to_owned());
                env.cover("server killed between two events");
            });
            self.bury_server();
        }
        self.check()
    }

    // ---- the server

    fn boot(&mut self) -> Result<(), String> {
        let lives = self.are_kills;
        self.with_env(|env| {
            env.note(|| "a server boots".to_owned());
            env.inbox.clear();
            env.calls_to_live = None;
            if lives && !env.is_calm && env.rng.chance(700) {
                let most = env.rng.pick(&[8, 30, 120, 400]);
                env.calls_to_live = Some(1 + env.rng.below(most));
            }
        });
        let records = SimRecords::new(self.world.clone(), self.database.clone());
        let (shims, clock) = (SimShims::new(self.world.clone()), SimClock(self.world.clone()));
        let settings = self.settings.clone();
        match catch_unwind(AssertUnwindSafe(|| Conductor::boot(records, shims, clock, settings))) {
            Ok(Ok(conductor)) => {
                let watch = conductor.watch.clone();
                self.server = Some((Box::new(conductor), watch));
                self.rest();
                Ok(())
            }
            Ok(Err(error)) => {
                self.with_env(|env| {
                    env.note(|| format!("the server does not boot: {error}"));
                    env.cover("a server did not boot");
                });
                self.bury_server();
                Ok(())
            }
            Err(payload) => self.fall(&*payload),
        }
    }

    /// Runs a turn of the server's thread, with an input or because its time has come.
    fn serve(&mut self, input: Option<Input>) -> Result<(), String> {
        self.may_be_killed(if matches!(input, Some(Input::Gone { .. })) { 100 } else { 15 });
        let Some((conductor, _)) = &mut self.server else { return Ok(()) };
        let began = self.world.borrow().env.awake_us();
        let is_event = input.is_some();
        let heard = if let Some(Input::Heard { number, .. }) = &input { Some(*number) } else { None };
        let world = self.world.clone();
        let done = catch_unwind(AssertUnwindSafe(|| {
            match input {
                Some(Input::Heard { number, messages }) => {
                    hears(&world, number, &messages, conductor);
                    conductor.hear(number, messages);
                }
                Some(Input::Gone { number }) => conductor.lose_shim(number),
                None => {}
            }
            conductor.tick();
        }));
        if let Err(payload) = done {
            return self.fall(&*payload);
        }
        self.rest();
        if let Some(number) = heard {
            self.check_stop(number)?;
        }
        self.check_time(began, is_event)
    }

    pub(super) fn ask(&mut self, ask: Ask) -> Result<(), String> {
        self.may_be_killed(15);
        let origin = self.origins.of_new(ask.action());
        let is_looked_at = self.with_env(|env| !env.is_calm && env.rng.chance(300));
        let (reply_to, waiting) = sync_channel(1);
        let Some((conductor, watch)) = &mut self.server else { return Ok(()) };
        self.looking = is_looked_at.then(|| conductor.usage_followers.follow());
        let (before, was_well) = (watch.get().snapshot.clone(), what_is_wrong(watch).is_none());
        let mut asked = Asked::new(&ask, waiting, before, was_well, &mut self.world.borrow_mut());
        let (if_run, key) = (asked.if_run, asked.key.clone());
        let began = {
            let World { env, runs } = &mut *self.world.borrow_mut();
            if let (Action::Stop, Some(id)) = (asked.action, runs.keys().next_back()) {
                env.happens(*id, "stop asked");
            }
            env.note(|| format!("a client asks: {ask:?}, {if_run:?}, {origin}"));
            env.awake_us()
        };
        let done = catch_unwind(AssertUnwindSafe(|| {
            conductor.act(ask, if_run, key.as_ref(), origin, &reply_to);
            conductor.tick();
        }));
        drop(reply_to);
        asked.until = self.with_env(|env| env.awake_us()) + asked.wait;
        self.asked.push(asked);
        if let Err(payload) = done {
            return self.fall(&*payload);
        }
        self.take_answers(true)?;
        self.rest();
        self.check_time(began, true)
    }

    /// Decides whether the server is killed in this turn, and after how many calls.
    fn may_be_killed(&self, per_mille: u64) {
        let may = self.are_kills;
        self.with_env(|env| {
            if may && env.calls_to_live.is_none_or(|left| left > 20) && env.mishap(per_mille) {
                env.calls_to_live = Some(1 + env.rng.below(14));
            }
        });
    }

    /// Sets the time at which the thread wakes if no event comes: its deadline.
    fn rest(&mut self) {
        let Some((conductor, _)) = &self.server else { return };
        let deadline = conductor.deadline();
        let env = &mut self.world.borrow_mut().env;
        env.end_turn();
        self.wake_at = deadline.map(|at| {
            let wait = at.saturating_sub(Duration::from_micros(env.awake_us()));
            // A thread may wake a little late.
            let late = env.rng.pick(&[0, 0, 100, 5_000]);
            env.now + u64::try_from(wait.as_micros()).expect("some days") + env.rng.below(late)
        });
    }

    fn fall(&mut self, payload: &(dyn std::any::Any + Send)) -> Result<(), String> {
        if !payload.is::<Killed>() {
            let said = payload.downcast_ref::<String>().map(String::as_str).or(payload.downcast_ref::<&str>().copied());
            return Err(format!("the conductor panicked: {}", said.unwrap_or("?")));
        }
        self.bury_server();
        Ok(())
    }

    /// Removes the dead server and its waiting clients. Sometimes also reboots the machine or removes the database.
    fn bury_server(&mut self) {
        self.kills += 1;
        self.server = None;
        self.seen_progress = (None, 0);
        self.asked.clear();
        self.looking = None;
        self.wake_at = None;
        if let Err(violation) = self.database.borrow_mut().audit(&self.origins) {
            self.with_env(|env| env.violate(|| violation));
        }
        let world = &mut *self.world.borrow_mut();
        world.server_dies();
        let longest = world.env.rng.pick(&[MS, 100 * MS, 10 * SECOND]);
        if world.env.mishap(100) {
            world.env.note(|| "the power fails".to_owned());
            world.env.cover("the power failed");
            self.database.borrow_mut().lose_power(world);
            world.reboot();
            // After a power cut, no client waits for the versions that the database has lost.
            self.seen = self.database.borrow().version;
        } else if world.env.mishap(80) {
            world.env.note(|| "the latest shim is killed with it".to_owned());
            if let Some(run) = world.runs.values_mut().next_back() {
                run.kill_shim(&mut world.env);
            }
        }
        if world.env.mishap(50) {
            world.env.note(|| "somebody removes the database".to_owned());
            world.env.cover("the database was removed");
            self.database.borrow_mut().remove();
            self.seen = 0;
        }
        self.boot_at = world.env.now + world.env.rng.below(longest);
    }
}

/// Returns a reported condition, except for a pause that is not holding: then the pipeline's processes are at fault, and the
/// server knows everything.
pub(super) fn what_is_wrong(watch: &Watch) -> Option<String> {
    let published = watch.get();
    let wrong = published.snapshot.conditions.list().iter();
    wrong.filter(|condition| condition.code != ConditionCode::PauseNotHolding).map(|condition| condition.detail.clone()).next()
}

/// Counts noteworthy messages that the server is about to receive.
fn hears(world: &Shared, number: u64, messages: &[Message], conductor: &Server) {
    let env = &mut world.borrow_mut().env;
    let snapshot = conductor.watch.get().snapshot.clone();
    for message in messages {
        env.note(|| format!("the server hears on connection {number}: {message:?}"));
        if let Message::Fact(entry) = message {
            let pending = snapshot.pending.map_or("nothing", Action::as_str);
            env.cover(&format!("heard {} while {pending} is pending", entry.fact.kind()));
        }
        match message {
            Message::Signs(NumberedSigns { signs, .. }) => {
                let had_trouble = snapshot.conditions.list().iter().any(|one| one.code == ConditionCode::JournalUnwritable);
                let heard = [
                    ("heard a note", signs.note.is_some()),
                    ("heard that a note is over", signs.note.is_none() && snapshot.detail.is_some()),
                    ("heard of trouble", !signs.trouble.is_empty()),
                    ("heard that trouble is over", signs.trouble.is_empty() && had_trouble),
                    ("heard of progress", signs.progress.is_some()),
                    ("heard of usage", signs.usage.is_some()),
                ];
                heard.into_iter().filter(|(_, is_so)| *is_so).for_each(|(what, _)| env.cover(what));
            }
            Message::Fact(_) | Message::Reply(_) | Message::Rotated(_) => {}
        }
    }
    if env.wires.get(&number).is_some_and(|wire| wire.server_is_there) {
        env.is_quit();
    } else {
        env.cover("an old connection was heard");
    }
}
