//! The connection to the live run's shim: whether it exists, when it is tried again, and for how long nothing was received on it.

use std::io;
use std::time::Duration;

use crate::run_dir::{Command, LaunchSpec};
use crate::supervisor::shims::{ConnectionNumber, Shims};

/// How long a shim that holds its lock may be silent before health reports it.
const SILENCE_LIMIT: Duration = Duration::from_secs(5);

/// The text for health, before the advice for that run.
const SILENT_SHIM: &str = "the live run's own process (the shim) does not answer; the state shown is the last one that it \
    reported, and no other run can start; see shim.log in its run directory";

/// The interval between attempts to reach a shim that does not answer: short while it may just be exiting or starting, long
/// later.
const RETRY_SOON: Duration = Duration::from_millis(5);
const RETRY_LATER: Duration = Duration::from_secs(1);

/// The maximum pause before a run's directory that cannot be read is examined again.
const LOOK_AGAIN_MAX: Duration = Duration::from_mins(1);

/// The state of the connection to the live run's shim.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Link {
    /// There is no live run.
    Idle,
    /// The shim is connected.
    Connected { number: ConnectionNumber },
    /// The shim is alive and does not answer: since when, and when it is tried again.
    Silent { since: Duration, retry_at: Duration },
}

/// The connection, see the module. All times are in awake time.
pub(super) struct ShimLink<S> {
    /// The interface to processes and files. Other parts examine runs, and clean up after them, without a connection.
    pub(super) shims: S,
    link: Link,
    /// Since when a message of the shim is due: something was sent to it, and nothing was received since.
    unheard_since: Option<Duration>,
    /// Whether health reports that the shim does not answer.
    is_called_silent: bool,
    /// Whether the latest run has ended, and its shim has not exited yet.
    is_awaited: bool,
}

impl<S: Shims> ShimLink<S> {
    pub(super) fn new(shims: S) -> Self {
        Self { shims, link: Link::Idle, unheard_since: None, is_called_silent: false, is_awaited: false }
    }

    pub(super) fn is_connected(&self) -> bool {
        self.connection().is_some()
    }

    /// Returns the number of the current connection.
    pub(super) fn connection(&self) -> Option<ConnectionNumber> {
        match self.link {
            Link::Connected { number } => Some(number),
            Link::Idle | Link::Silent { .. } => None,
        }
    }

    /// Checks whether this is the current connection. Messages of an earlier one are ignored.
    pub(super) fn is_connection(&self, number: ConnectionNumber) -> bool {
        self.connection() == Some(number)
    }

    /// Returns the text for health. `run_id` is the live run, if any.
    pub(super) fn silence(&self, run_id: Option<i64>) -> Option<String> {
        let advice = |run_id| format!("; {}", self.shims.advice_on_silence(run_id));
        self.is_called_silent.then(|| format!("{SILENT_SHIM}{}", run_id.map(advice).unwrap_or_default()))
    }

    // ---- sending and receiving

    /// Starts a shim, from which a message is due from now on.
    pub(super) fn launch(&mut self, spec: &LaunchSpec, now: Duration) -> io::Result<()> {
        match self.shims.launch(spec) {
            Ok(number) => {
                self.link = Link::Connected { number };
                // It concerned the previous run.
                self.is_called_silent = false;
                self.expect_to_hear(now);
                Ok(())
            }
            Err(error) => {
                self.shims.disconnect();
                Err(error)
            }
        }
    }

    /// Connects to the shim of a run and sends `commands`.
    pub(super) fn attach(&mut self, run_id: i64, commands: &[Command]) -> io::Result<()> {
        let connected = self.shims.connect(run_id).and_then(|number| {
            commands.iter().try_for_each(|command| self.shims.send(command))?;
            Ok(number)
        });
        match connected {
            Ok(number) => self.link = Link::Connected { number },
            Err(_) => self.shims.disconnect(),
        }
        connected.map(drop)
    }

    /// Expects a message from the attached shim, whose run continues.
    pub(super) fn adopt(&mut self, now: Duration) {
        self.is_called_silent = false;
        self.expect_to_hear(now);
    }

    /// Sends a command to the shim. Returns whether it was sent.
    pub(super) fn send(&mut self, command: &Command, now: Duration) -> bool {
        let is_sent = self.is_connected() && self.shims.send(command).is_ok();
        if is_sent {
            self.expect_to_hear(now);
        }
        is_sent
    }

    fn expect_to_hear(&mut self, now: Duration) {
        self.unheard_since.get_or_insert(now);
    }

    /// Notes that a message was received.
    pub(super) fn hear(&mut self) {
        self.unheard_since = None;
        self.is_called_silent = false;
    }

    // ---- disconnecting

    /// Drops the connection, if any.
    pub(super) fn let_go(&mut self) {
        self.shims.disconnect();
        self.link = Link::Idle;
        self.hear();
    }

    /// Drops the connection, which is tried again at `retry_at`.
    pub(super) fn be_silent(&mut self, since: Duration, retry_at: Duration) {
        self.shims.disconnect();
        self.unheard_since = None;
        self.link = Link::Silent { since, retry_at };
    }

    fn silent_since(&self) -> Option<Duration> {
        match self.link {
            Link::Silent { since, .. } => Some(since),
            Link::Idle | Link::Connected { .. } => None,
        }
    }

    /// Notes that the shim holds its lock and cannot be reached. It is tried again soon, and less often later.
    pub(super) fn fall_silent(&mut self, now: Duration, is_live: bool) {
        let since = self.silent_since().unwrap_or(now);
        let is_long = now.saturating_sub(since) >= SILENCE_LIMIT;
        self.be_silent(since, now + if is_long { RETRY_LATER } else { RETRY_SOON });
        self.is_called_silent |= is_long && is_live;
    }

    /// Notes that the run's directory cannot be read. It is examined again after a pause, which grows with the time since the
    /// first failure. Returns whether this is the first one.
    pub(super) fn look_again_later(&mut self, now: Duration, is_live: bool) -> bool {
        let before = self.silent_since();
        self.fall_silent(now, is_live);
        let failing_for = now.saturating_sub(before.unwrap_or(now));
        self.be_silent(before.unwrap_or(now), now + (failing_for / 2).clamp(RETRY_LATER, LOOK_AGAIN_MAX));
        self.is_awaited |= !is_live;
        before.is_none()
    }

    /// Notes that the run has ended and its shim still holds the lock. It is examined again shortly.
    pub(super) fn await_leave(&mut self, now: Duration) {
        self.fall_silent(now, false);
        self.is_awaited = true;
    }

    /// Notes that nothing more is expected from an earlier run.
    pub(super) fn await_nothing(&mut self) {
        self.is_awaited = false;
    }

    /// Notes that there is no shim to connect to.
    pub(super) fn be_idle(&mut self) {
        self.link = Link::Idle;
    }

    /// Called after a check that found no live run. The shim of a run that has ended may still be connected or awaited.
    pub(super) fn rest(&mut self) {
        if !self.is_awaited && matches!(self.link, Link::Silent { .. }) {
            self.be_idle();
        }
        self.forgive_silence();
    }

    /// Clears the silence, because without a live run it does not matter.
    pub(super) fn forgive_silence(&mut self) {
        self.is_called_silent = false;
    }

    // ---- deadlines

    pub(super) fn deadline(&self) -> Option<Duration> {
        let silence = self.unheard_since.filter(|_| !self.is_called_silent).map(|since| since + SILENCE_LIMIT);
        [self.retry_at(), silence].into_iter().flatten().min()
    }

    /// Returns when the shim that does not answer is tried again.
    pub(super) fn retry_at(&self) -> Option<Duration> {
        match self.link {
            Link::Silent { retry_at, .. } => Some(retry_at),
            Link::Idle | Link::Connected { .. } => None,
        }
    }

    /// Notes that a connected shim has been silent for too long.
    pub(super) fn note_silence(&mut self, now: Duration) {
        self.is_called_silent |= self.unheard_since.is_some_and(|since| now.saturating_sub(since) >= SILENCE_LIMIT);
    }
}
