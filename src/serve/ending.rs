//! The end of a server: the signals that request it, and the stop of the run if the end of the server would kill all processes
//! around it.
//!
//! When process 1 of a PID namespace ends, the kernel kills all others (`pid_namespaces(7)`), and a small init as process 1
//! ends with its only child. In these cases the run is stopped first, as for a client, while the server keeps serving.

use std::io::{self, ErrorKind, Read, Write};
use std::os::unix::net::UnixStream;
use std::panic::{self, AssertUnwindSafe};
use std::path::Path;
use std::sync::mpsc::TryRecvError;
use std::thread;
use std::time::{Duration, Instant};

use rustix::process::Pid;
use signal_hook::consts::signal::{SIGCHLD, SIGHUP, SIGINT, SIGQUIT, SIGTERM};

use crate::api::pipeline::ExpectedRun;
use crate::config::OnTerm;
use crate::pipeline::{Action, Origin, State};
use crate::process;
use crate::run_dir::{Runs, read_header};
use crate::supervisor::{ActionError, Ask, Handle, Snapshot};

/// The longest grace of a run that is stopped without a request. Container engines kill all remaining processes after 10
/// seconds.
const GRACE_MAX: Duration = Duration::from_secs(8);

/// How often to check a stop that is under way, and a run that cannot be stopped yet, because it is just being started.
const LOOK: Duration = Duration::from_millis(20);

/// How long to try to stop the run, in addition to its grace.
const PATIENCE: Duration = Duration::from_secs(20);

/// Inits that start one program, pass signals on to it, and end when it does: those of Docker, Podman and others, as `ps` names
/// them.
const SMALL_INITS: [&str; 5] = ["tini", "tini-static", "docker-init", "dumb-init", "catatonit"];

/// How long the opening of the database, or the recovery, may take after a signal.
const BOOT_PATIENCE: Duration = Duration::from_secs(2);

/// The byte that reports the end of the supervisor, or before that of a part of the start. A signal writes another byte.
pub(super) const ENDED: u8 = b'!';

/// The byte that `signal-hook` writes. Any byte other than [`ENDED`] stands for a signal.
const SIGNALLED: u8 = b'X';

/// The event that woke the alarm.
pub(super) enum WakeReason {
    /// A signal asked the server to exit.
    Signal,
    /// The supervisor has ended by itself, or a part of the start has ended.
    Ended,
    /// No event, within the limit of the wait.
    Nothing,
}

/// Sleeps until a signal arrives or a byte is written to the bell.
pub(super) struct Alarm(UnixStream);

impl Alarm {
    /// Catches the signals from now on, and returns the bell for other threads to write to.
    ///
    /// A closing terminal and Ctrl-\ also request the end, unless these signals were ignored from the start (`nohup(1)`).
    pub(super) fn set() -> io::Result<(Self, UnixStream)> {
        let (stream, bell) = UnixStream::pair()?;
        for number in [SIGTERM, SIGINT, SIGHUP, SIGQUIT] {
            if [SIGTERM, SIGINT].contains(&number) || !process::is_ignored(number) {
                signal_hook::low_level::pipe::register(number, bell.try_clone()?)?;
            }
        }
        Ok((Self(stream), bell))
    }

    /// Waits for an event, for at most `limit`.
    pub(super) fn wait(&self, limit: Option<Duration>) -> WakeReason {
        self.0.set_read_timeout(limit).expect("no limit is zero");
        let mut byte = [0];
        // The pair does not break, because the signal handlers hold the other end for as long as the process lives.
        match (&self.0).read_exact(&mut byte) {
            Err(error) if error.kind() == ErrorKind::WouldBlock => WakeReason::Nothing,
            Ok(()) if byte != [ENDED] => WakeReason::Signal,
            Ok(()) | Err(_) => WakeReason::Ended,
        }
    }
}

/// Runs a part of the start in a thread, so that a signal ends the server even if that part takes long, such as the rollback of
/// a large transaction or the reading of a long journal.
///
/// Returns `None` if a signal ended the wait. The thread then ends with the process, which does as little harm as a kill. If
/// the part ends soon after the signal, its result counts, and the alarm reports that signal again. The supervisor's thread can
/// end and write to the bell before its start has returned. The bell then has two bytes, and this function reads one of them.
pub(super) fn unless_told_to_end<T: Send + 'static>(
    alarm: &Alarm,
    bell: &UnixStream,
    part: impl FnOnce() -> T + Send + 'static,
) -> io::Result<Option<T>> {
    let ring = |bell: &UnixStream, byte| {
        let mut bell = bell;
        bell.write_all(&[byte]).expect("the alarm is the other end and lives");
    };
    let done = bell.try_clone()?;
    let starter = thread::Builder::new().name("starter".to_owned()).spawn(move || {
        let result = panic::catch_unwind(AssertUnwindSafe(part));
        ring(&done, ENDED);
        result
    })?;
    let mut is_told = false;
    loop {
        match alarm.wait(is_told.then_some(BOOT_PATIENCE)) {
            WakeReason::Signal if !is_told => is_told = true,
            WakeReason::Signal | WakeReason::Nothing => return Ok(None),
            WakeReason::Ended => break,
        }
    }
    if is_told {
        ring(bell, SIGNALLED);
    }
    let result = starter.join().expect("its panic was caught");
    Ok(Some(result.unwrap_or_else(|payload| panic::resume_unwind(payload))))
}

/// The reason why this server stops the run when it is asked to exit.
pub(super) struct StopsRun {
    /// The reason, as a clause that follows "because".
    why: &'static str,
    /// The longest grace, if the setting did not request the stop.
    grace_max: Option<Duration>,
}

impl StopsRun {
    /// Returns `None` if the run keeps running.
    pub(super) fn of(on_term: OnTerm) -> Option<Self> {
        let by_itself = |why| Some(Self { why, grace_max: Some(GRACE_MAX) });
        match on_term {
            OnTerm::Leave => None,
            OnTerm::Stop => Some(Self { why: "AUTOAPPDEV_ON_TERM is stop", grace_max: None }),
            OnTerm::Auto if std::process::id() == 1 => by_itself("the end of process 1 kills every process"),
            OnTerm::Auto if is_below_small_init() => by_itself("process 1 ends with this server, which kills every process"),
            OnTerm::Auto => None,
        }
    }

    /// Stops the run, and returns it with the reason. Another signal shortens the grace to zero. A run that could not be
    /// stopped keeps running.
    pub(super) fn stop(&self, alarm: &Alarm, supervisor: &Handle, runtime_dir: &Path) -> Option<(i64, &'static str)> {
        let mut stopped = None;
        let mut patience_until = None;
        loop {
            let snapshot = supervisor.watch().get().snapshot.clone();
            if snapshot.state == State::Stopped && snapshot.pending.is_none() {
                return stopped.zip(Some(self.why));
            }
            let grace = self.grace(&snapshot, runtime_dir);
            let until = *patience_until.get_or_insert_with(|| Instant::now() + grace.unwrap_or_default() + PATIENCE);
            if snapshot.allowed.contains(&Action::Stop) {
                stopped = stopped.or(snapshot.run_id);
                ::log::info!("asked to exit; stopping the run first, because {}", self.why);
                match ask(alarm, supervisor, grace) {
                    Ok(()) | Err(ActionError::Refused(_)) => {}
                    Err(error) => {
                        ::log::error!("the run could not be stopped: {error}");
                        return None;
                    }
                }
            } else if Instant::now() > until {
                ::log::error!("the run could not be stopped in time");
                return None;
            } else if let WakeReason::Ended = alarm.wait(Some(LOOK)) {
                return None;
            }
        }
    }

    /// Returns the grace to ask for; `None` means the run's own.
    fn grace(&self, snapshot: &Snapshot, runtime_dir: &Path) -> Option<Duration> {
        let longest = self.grace_max?;
        let journal = Runs::new(runtime_dir.to_owned()).run(snapshot.run_id?).journal_path();
        let own = read_header(&journal).map_or(longest, |header| Duration::from_millis(header.grace_ms));
        Some(own.min(longest))
    }
}

/// Requests the stop and waits for its answer. Needs no thread, because the run may have used up the limit of processes.
fn ask(alarm: &Alarm, supervisor: &Handle, grace: Option<Duration>) -> Result<(), ActionError> {
    let begin = |grace| supervisor.begin(Ask::Stop { grace }, ExpectedRun::Any, None, Origin::Shutdown);
    let answer = begin(grace)?;
    loop {
        match answer.try_recv() {
            Ok(answer) => return answer.map(drop),
            Err(TryRecvError::Disconnected) => return Err(ActionError::Stopping),
            Err(TryRecvError::Empty) => {}
        }
        match alarm.wait(Some(LOOK)) {
            // Its answer is dropped, because the first request is answered when the run has ended.
            WakeReason::Signal => drop(begin(Some(Duration::ZERO))),
            WakeReason::Nothing => {}
            WakeReason::Ended => return Err(ActionError::Stopping),
        }
    }
}

fn is_below_small_init() -> bool {
    let parent = rustix::process::getppid();
    parent.is_some_and(Pid::is_init) && process::name_of(1).is_some_and(|name| SMALL_INITS.contains(&name.as_str()))
}

/// As process 1, reaps the orphans of the whole namespace.
pub(super) fn reap_orphans() -> io::Result<()> {
    if std::process::id() != 1 {
        return Ok(());
    }
    let (mut children, bell) = UnixStream::pair()?;
    signal_hook::low_level::pipe::register(SIGCHLD, bell)?;
    thread::Builder::new().name("reaper".to_owned()).spawn(move || {
        // Some orphans may have ended before the handler was registered.
        process::reap_all_but(None);
        let mut bytes = [0; 64];
        while children.read(&mut bytes).is_ok_and(|count| count > 0) {
            process::reap_all_but(None);
        }
    })?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;

    use super::*;

    #[test]
    fn signal_aborts_an_endless_database_opening() {
        let (alarm, bell) = Alarm::set().expect("signals can be caught");
        let (_keeps_it_open, never) = mpsc::channel::<()>();
        signal_hook::low_level::raise(SIGTERM).expect("our own process");
        let opened = unless_told_to_end(&alarm, &bell, move || never.recv()).expect("a thread");
        assert!(opened.is_none());
    }

    #[test]
    fn database_opened_after_a_signal_is_returned() {
        let (alarm, bell) = Alarm::set().expect("signals can be caught");
        signal_hook::low_level::raise(SIGTERM).expect("our own process");
        let opened = unless_told_to_end(&alarm, &bell, || 7).expect("a thread");
        assert_eq!(opened, Some(7));
        assert!(matches!(alarm.wait(None), WakeReason::Signal));
    }

    #[test]
    fn panic_while_opening_propagates_to_the_server() {
        let (alarm, bell) = Alarm::set().expect("signals can be caught");
        let opening = panic::catch_unwind(AssertUnwindSafe(|| unless_told_to_end(&alarm, &bell, || panic!("on purpose"))));
        assert!(opening.is_err());
    }
}
