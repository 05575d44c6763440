//! The server's side of processes and files: starting a shim, communicating with it, and finding what a run left behind.
//!
//! If killed between the run's directory and the shim's start: the lock falls with this process, and the next boot finds a run
//! that never began.

use std::collections::BTreeSet;
use std::io::{self, Read, Write};
use std::net::Shutdown;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt;
use std::process::{Child, Stdio};
use std::sync::Arc;
use std::sync::mpsc::{self, Sender};
use std::thread;
use std::time::{Duration, Instant};

use rustix::process::Signal;

use super::event::Event;
use super::inherited;
use super::pulse::Pulse;
use super::settings::Settings;
use super::shims::{ConnectionNumber, Finding, Leftovers, Shims};
use super::strays::{self, Whereabouts};
use crate::abstract_socket;
use crate::held_dir::{HeldDir, has_entry};
use crate::kill_point::KillPoint;
use crate::log::{Listing, RunLogs};
use crate::pipeline::{Found, Killed};
use crate::private;
use crate::process::{self, Cgroup};
use crate::run_dir::{
    self, Command, Header, JournalError, LaunchSpec, LineReader, LockState, Message, NumberedProgress, PAUSE_FILE, ProgressError,
    Runs, to_line,
};
use crate::shell_word::quoted_path;

/// How long a shim may leave a message unread before it counts as silent.
const SEND_LIMIT: Duration = Duration::from_secs(2);

/// How long a shim may leave a connection unaccepted before it counts as silent. It accepts at once, unless it is stopped, or
/// another user floods its abstract socket. The whole life cycle is blocked meanwhile, and connects again later.
const CONNECT_LIMIT: Duration = Duration::from_millis(500);

/// The maximum length of a line from a shim, in bytes. Its facts have a few hundred bytes.
const MESSAGE_BYTES_MAX: usize = 1024 * 1024;

/// How long the leftovers of a run may take to die after the first SIGKILL before the search for them ends with a report.
const KILL_LIMIT: Duration = Duration::from_secs(5);

/// The real processes, sockets and files.
#[derive(Debug)]
pub(super) struct RealShims {
    runs: Runs,
    /// The runtime directory, in which runs are created: another directory can have its path later.
    dir: HeldDir,
    logs: RunLogs,
    stream: Option<UnixStream>,
    /// The channel to the thread that reads messages from shims. The thread exists from the start, because at the limit of
    /// processes it could not be created.
    to_reader: Sender<(UnixStream, ConnectionNumber)>,
    next_number: ConnectionNumber,
    /// The shims that this server started, to be reaped when they have exited.
    children: Vec<Child>,
    /// The variables of the environment from which this server took a setting.
    taken: Vec<&'static str>,
    keeps_env_values: bool,
    /// The runs that were alive when this server started and have this runtime directory's path, wherever their directories are.
    strays: Vec<i64>,
    pulse: Arc<Pulse>,
}

impl RealShims {
    /// Starts the reading thread. Messages from shims go to `events`.
    pub(super) fn start(
        runs: Runs,
        logs: RunLogs,
        settings: &Settings,
        events: Sender<Event>,
        pulse: Arc<Pulse>,
    ) -> io::Result<Self> {
        let (to_reader, streams) = mpsc::channel();
        // Ends once no other stream can arrive.
        let read = move || streams.iter().for_each(|(stream, number)| read_messages(stream, number, &events));
        thread::Builder::new().name("shim-reader".to_owned()).spawn(read)?;
        let strays = strays::all(&runs).unwrap_or_default();
        let dir = HeldDir::open(runs.runtime_dir())?;
        let (taken, keeps_env_values) = (settings.taken_vars.clone(), settings.keeps_env_values);
        Ok(Self {
            runs,
            dir,
            logs,
            stream: None,
            to_reader,
            next_number: 1,
            children: Vec::new(),
            taken,
            keeps_env_values,
            strays,
            pulse,
        })
    }

    /// Keeps `stream` for sending, and passes `reader`, the same stream, to the reading thread. Drops the previous stream.
    fn listen_to(&mut self, stream: UnixStream, reader: UnixStream) -> ConnectionNumber {
        self.disconnect();
        let number = self.next_number;
        self.next_number += 1;
        self.to_reader.send((reader, number)).expect("the thread that reads ends after this");
        self.stream = Some(stream);
        number
    }

    /// Returns the run's control group, which need not exist, or the one that the journal names, if the runtime directory has
    /// been replaced since. Another directory can now have the inode number in that name, so nothing in that group is killed.
    ///
    /// The journal may come from an archive, so a path in it counts only if it can be a control group of such a run.
    fn cgroups(&self, run_id: i64, header: Option<&Header>) -> io::Result<(Option<Cgroup>, Option<Cgroup>)> {
        let Ok(name) = self.runs.cgroup_name(run_id) else { return Ok((None, None)) };
        // Without a journal the group is found by its name, which is unique: it may have been created just before the shim was
        // killed, or the run's directory was removed.
        let Some(header) = header else { return Ok((Cgroup::below_own(&name), None)) };
        Ok(match &header.cgroup {
            Some(dir) if dir.ends_with(&name) => (Cgroup::at(dir.clone())?, None),
            Some(dir)
                if Runs::is_cgroup_name(dir, run_id) && process::boot_id().is_ok_and(|boot_id| boot_id == header.boot_id) =>
            {
                (None, Cgroup::at(dir.clone())?)
            }
            Some(_) | None => (None, None),
        })
    }

    /// Reaps the shims that have exited.
    fn reap(&mut self) {
        self.children.retain_mut(|child| matches!(child.try_wait(), Ok(None)));
    }
}

impl Shims for RealShims {
    fn launch(&mut self, spec: &LaunchSpec) -> io::Result<ConnectionNumber> {
        let pulse = self.pulse.clone();
        let _noted = pulse.begin_storage();
        self.reap();
        self.dir.check_is_at(self.runs.runtime_dir())?;
        let held = Runs::new(self.dir.path().to_owned());
        let (dir, lock) = held.create(spec.run_id)?;
        KillPoint::ServerRunDirMade.reach();
        if self.keeps_env_values {
            run_dir::write_kept_env(&dir.start_path(), &spec.env)?;
            KillPoint::ServerStartKept.reach();
        }
        // Reserve the server's resources before the shim is started.
        let (ours, its) = UnixStream::pair()?;
        let reader = ours.try_clone()?;
        let shim_log = private::append(&dir.shim_log_path())?;
        // The path to which /proc/self/exe leads may have a newer binary by now; the link itself always starts this one.
        let mut command = std::process::Command::new("/proc/self/exe");
        command.arg0("autoappdev").arg("shim").arg(self.runs.run(spec.run_id).path());
        for name in inherited::not_for_pipelines(std::env::vars_os(), &self.taken) {
            command.env_remove(name);
        }
        command.stdin(OwnedFd::from(its)).stdout(lock).stderr(Stdio::from(shim_log));
        let child = command.spawn()?;
        // Dropping the command closes the server's copies of the lock and of the shim's end: from here on only the shim holds
        // them.
        drop(command);
        self.children.push(child);
        KillPoint::ServerShimSpawned.reach();
        // Done while the shim is being loaded, because it starts nothing before it gets the specification.
        held.note_latest(spec.run_id);
        let mut stream = ours;
        stream.set_write_timeout(Some(SEND_LIMIT))?;
        // A timeout has the same error number as a lack of processes.
        stream
            .write_all(&to_line(spec))
            .map_err(|error| io::Error::other(format!("it does not accept the run's specification: {error}")))?;
        KillPoint::ServerLaunchSent.reach();
        Ok(self.listen_to(stream, reader))
    }

    fn connect(&mut self, run_id: i64) -> io::Result<ConnectionNumber> {
        let dir = self.runs.run(run_id);
        let stream = dir.connect(CONNECT_LIMIT).or_else(|error| {
            let header = run_dir::read_header(&dir.journal_path()).ok();
            let socket = header.and_then(|header| header.socket).or_else(|| strays::socket_of(&self.runs, run_id).ok().flatten());
            let socket = socket.ok_or(error)?;
            let (stream, pid) = abstract_socket::connect(&socket, CONNECT_LIMIT)?;
            if strays::can_be_shim(&self.runs, run_id, &socket, pid) {
                Ok(stream)
            } else {
                Err(io::Error::other("the socket named in its journal belongs to another process"))
            }
        })?;
        stream.set_write_timeout(Some(SEND_LIMIT))?;
        let reader = stream.try_clone()?;
        Ok(self.listen_to(stream, reader))
    }

    fn send(&mut self, command: &Command) -> io::Result<()> {
        match &mut self.stream {
            Some(stream) => stream.write_all(&to_line(command)),
            None => Err(io::ErrorKind::NotConnected.into()),
        }
    }

    fn disconnect(&mut self) {
        if let Some(stream) = self.stream.take() {
            // Also ends the reading thread. An error means that the other side closed first.
            let _already_closed = stream.shutdown(Shutdown::Both);
        }
        self.reap();
    }

    fn find(&self, run_id: i64) -> io::Result<Finding> {
        let _noted = self.pulse.begin_storage();
        let dir = self.runs.run(run_id);
        // The lock first: a journal that is read after the lock was seen free does not grow any more.
        let lock = match dir.lock_state()? {
            // Another user opened and locked it before this server's user made the directory private. Only a live shim listens in
            // the directory.
            LockState::Held if process::is_locked_by_other_user(&dir.lock_path()) && !dir.is_listened_to() => LockState::Free,
            state => state,
        };
        let (journal, mut damage) = match run_dir::read_journal(&dir.journal_path()) {
            Ok(journal) => (Some(journal), None),
            Err(JournalError::Absent) => (None, None),
            // The lack is temporary, so a run whose journal may record its end is not given up for it.
            Err(JournalError::Io(error)) if process::is_shortage(&error) => return Err(error),
            Err(error @ (JournalError::Damaged(_) | JournalError::Newer { .. } | JournalError::Io(_))) => {
                (None, Some(error.to_string()))
            }
        };
        let found = match (lock, &journal) {
            (LockState::Held, _) => Found::ShimAlive,
            // Its directory may have been emptied or removed while it runs.
            (LockState::Free, None) if strays::socket_of(&self.runs, run_id)?.is_some() => Found::ShimAlive,
            (LockState::Free, None) if damage.is_none() => Found::NeverBegan,
            // The journal is unreadable, so search for leftovers. That is harmless if there are none.
            (LockState::Free, None) => Found::Vanished { same_boot: true },
            (LockState::Free, Some(journal)) if journal.entries.iter().any(|entry| entry.fact.is_end()) => Found::Ended,
            (LockState::Free, Some(journal)) if journal.header.boot_id != process::boot_id()? => {
                Found::Vanished { same_boot: false }
            }
            // The lock may be a copy, or have been recreated.
            (LockState::Free, Some(journal)) => match strays::whereabouts_of_shim(&journal.header, dir.path())? {
                // The peer at the socket is the shim, in whatever namespace. A dying shim closes its lock before its socket.
                Whereabouts::Unseen if dir.is_listened_to() => Found::ShimAlive,
                // The directory of a later run with this number was removed and replaced by a backup. The later run is alive.
                Whereabouts::Dead | Whereabouts::Unseen
                    if strays::socket_of(&self.runs, run_id)?.is_some_and(|other| journal.header.socket != Some(other)) =>
                {
                    Found::ShimAlive
                }
                Whereabouts::Dead | Whereabouts::Unseen => Found::Vanished { same_boot: true },
                Whereabouts::Here => Found::ShimAlive,
                Whereabouts::Elsewhere(place) => {
                    let place = place.display();
                    damage =
                        Some(format!("this runtime directory is a copy, and the run continues in its own directory, {place}"));
                    Found::Elsewhere
                }
            },
        };
        Ok(Finding { found, journal, damage })
    }

    fn advice_on_silence(&self, run_id: i64) -> String {
        let _noted = self.pulse.begin_storage();
        let dir = self.runs.run(run_id);
        let header = run_dir::read_header(&dir.journal_path()).ok();
        // A journal can name any process, which users must not be told to end.
        let seen = header.filter(|header| matches!(strays::whereabouts_of_shim(header, dir.path()), Ok(Whereabouts::Here)));
        if let Some(header) = seen {
            return format!("a TERM to the `shim_pid` in its journal.jsonl ({}) ends the run as a stop does", header.shim_pid);
        }
        let (path, dir) = (dir.lock_path(), dir.path().display());
        let lock = path.display();
        format!(
            "its shim cannot be identified from here: unless the run is in a container, end the process that has locked {lock} \
                (`fuser {}` as root finds it), or move {dir} away; this server then records that the run has ended",
            quoted_path(&path)
        )
    }

    fn progress(&self, run_id: i64) -> Result<Option<NumberedProgress>, ProgressError> {
        let _noted = self.pulse.begin_storage();
        run_dir::read_progress(&self.runs.run(run_id).progress_path())
    }

    fn run_ids(&self) -> io::Result<Vec<i64>> {
        let _noted = self.pulse.begin_storage();
        let mut ids = self.runs.ids()?;
        ids.extend(&self.strays);
        ids.sort_unstable();
        ids.dedup();
        Ok(ids)
    }

    fn has_run(&self, run_id: i64) -> bool {
        let _noted = self.pulse.begin_storage();
        has_entry(self.runs.run(run_id).path()) || self.strays.contains(&run_id)
    }

    fn latest_run_id(&self) -> io::Result<Option<i64>> {
        let _noted = self.pulse.begin_storage();
        Ok(self.runs.latest_id()?.max(self.strays.iter().max().copied()))
    }

    fn log_end(&self) -> io::Result<u64> {
        let _noted = self.pulse.begin_storage();
        // Positions grow from run to run, so the newest run with a log has the end.
        self.logs.end()
    }

    fn kill_leftovers(&self, run_id: i64) -> io::Result<Leftovers> {
        // The runtime directory as the run was given it; it may have been moved since.
        let header = run_dir::read_header(&self.runs.run(run_id).journal_path()).ok();
        let given = header.as_ref().map_or_else(|| self.runs.clone(), |header| Runs::new(header.runtime_dir.clone()));
        let socket = header.as_ref().and_then(|header| header.socket.as_deref());
        let is_elsewhere = given.runtime_dir() != self.runs.runtime_dir();
        let has_mark = header.as_ref().is_some_and(|header| header.mark.is_some());
        let cookie = cookie(&given, run_id, header.as_ref(), is_elsewhere)?;
        // The copy of a directory names the path of the original, where the numbers may have started again since.
        if !cookie.is_empty() && strays::has_namesake(&given, run_id, socket, has_mark)? {
            let given = given.runtime_dir().display();
            return Err(io::Error::other(format!(
                "a later run {run_id} of {given} is alive, and its processes cannot be \
                distinguished"
            )));
        }
        let (cgroup, former) = self.cgroups(run_id, header.as_ref())?;
        let mut search = strays::search_for_run(cookie, &given, run_id, has_mark, is_elsewhere);
        let mut deadline = None;
        let mut spared;
        let mut pause = Duration::from_micros(200);
        // In the order in which they were found, the first of them with their names.
        let mut found: Vec<(u32, Option<String>)> = Vec::new();
        let mut known = BTreeSet::new();
        // A process that was found counts until it is dead, although its environment becomes unreadable before that.
        let mut carriers = BTreeSet::new();
        let (alive, is_group_populated) = loop {
            // Before any signal: a dead process has no name.
            let mut name = |pid| {
                if known.insert(pid) {
                    let name = (found.len() < 2 * Killed::NAMED_MAX).then(|| process::name_of(pid)).flatten();
                    found.push((pid, name));
                }
            };
            let is_group_populated = match &cgroup {
                Some(cgroup) if is_populated(cgroup)? => {
                    cgroup.members().unwrap_or_default().into_iter().for_each(&mut name);
                    // A process that cannot be killed this way is still a member, and is counted.
                    let _found_again = cgroup.kill();
                    true
                }
                Some(_) | None => false,
            };
            let found_now = search.scan()?;
            spared = search.spared();
            // No two runs have the same mark. If one process sees that the run's lock is held, the run is alive, and so are its
            // other processes.
            if has_mark && spared > 0 {
                spared += found_now.len();
            } else {
                carriers.extend(found_now);
            }
            carriers.retain(process::is_alive);
            carriers.iter().map(|carrier| carrier.pid).for_each(&mut name);
            if !is_group_populated && carriers.is_empty() {
                break (BTreeSet::new(), false);
            }
            // Stopped first, so that they create no more children while the others are being killed.
            for signal in [Signal::STOP, Signal::KILL] {
                for &carrier in &carriers {
                    match process::signal(carrier, signal) {
                        Err(error) if process::is_shortage(&error) => return Err(error),
                        // A process that cannot be signalled is found again, and counted at the end.
                        Ok(_) | Err(_) => {}
                    }
                }
            }
            thread::sleep(pause);
            pause = (pause * 2).min(Duration::from_millis(50));
            // From the first signal on, and checked after each round: however long a search takes, all processes that it found
            // were signalled.
            if Instant::now() > *deadline.get_or_insert_with(|| Instant::now() + KILL_LIMIT) {
                let mut alive: BTreeSet<u32> =
                    carriers.iter().filter(|carrier| process::is_alive(carrier)).map(|carrier| carrier.pid).collect();
                let populated = match &cgroup {
                    Some(cgroup) if is_populated(cgroup)? => Some(cgroup),
                    Some(_) | None => None,
                };
                alive.extend(populated.and_then(|cgroup| cgroup.members().ok()).unwrap_or_default());
                break (alive, populated.is_some());
            }
        };
        let mut killed = Killed::default();
        for (pid, name) in found.into_iter().filter(|(pid, _)| !alive.contains(pid)) {
            killed.add(pid, || name);
        }
        // Not every group below is listed, so a group that still has processes counts as at least one.
        let alive = alive.len().max(usize::from(is_group_populated));
        let mut leftovers = Leftovers { killed, alive, unread: search.unread(), spared };
        KillPoint::ServerLeftoversKilled.reach();
        if let (Some(cgroup), 0) = (cgroup, leftovers.alive)
            && let Err(error) = cgroup.remove()
        {
            // An empty group blocks nothing.
            ::log::warn!("run {run_id}: failed to remove its control group {}: {error}", cgroup.path().display());
        }
        if let Some(former) = former {
            if is_populated(&former)? {
                // Without the run's id in their environment, its processes cannot be distinguished from others.
                leftovers.alive += former.members().map_or(1, |members| members.len().max(1));
            } else {
                // The group still has processes of another user, or was removed already: no obstacle.
                let _not_ours = former.remove();
            }
        }
        KillPoint::ServerLeftoversCgroupRemoved.reach();
        Ok(leftovers)
    }

    fn remove_pause_file(&self) -> io::Result<()> {
        let _noted = self.pulse.begin_storage();
        match std::fs::remove_file(self.dir.path().join(PAUSE_FILE)) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
            Ok(()) | Err(_) => Ok(()),
        }
    }
}

/// Returns the entries that the processes of a run have in their environment, according to its journal; empty if none of the
/// processes can be alive.
///
/// The journal may come from an archive, and the path in it can be that of another server's run. Only the mark, which no author
/// of an archive knows, proves that the run is meant. Earlier versions wrote no mark: then only this server's own path counts.
fn cookie(given: &Runs, run_id: i64, header: Option<&Header>, is_elsewhere: bool) -> io::Result<Vec<Vec<u8>>> {
    if let Some(header) = header
        && header.boot_id != process::boot_id()?
    {
        return Ok(Vec::new());
    }
    let mark = header.and_then(|header| header.mark.as_deref());
    if mark.is_none() && is_elsewhere {
        let given = given.runtime_dir().display();
        return Err(io::Error::other(format!(
            "its journal names another runtime directory, {given}, and no mark, so its processes cannot be distinguished from \
                those of other runs"
        )));
    }
    Ok(given.cookie(run_id, mark).iter().map(|(name, value)| process::environment_entry(name, value)).collect())
}

/// Checks whether a group has processes. A missing group is empty. After a lack of resources the result is unknown: an error.
fn is_populated(cgroup: &Cgroup) -> io::Result<bool> {
    match cgroup.is_populated() {
        Err(error) if !process::is_shortage(&error) => Ok(false),
        other => other,
    }
}

fn read_messages(mut stream: UnixStream, number: ConnectionNumber, events: &Sender<Event>) {
    let mut lines = LineReader::new(MESSAGE_BYTES_MAX);
    let mut buffer = vec![0; 16 * 1024];
    let mut understands_all = true;
    loop {
        let count = match stream.read(&mut buffer) {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Ok(0) | Err(_) => break,
            Ok(count) => count,
        };
        lines.push(&buffer[..count]);
        let mut messages: Vec<Message> = Vec::new();
        while let Some(line) = lines.next_line() {
            match run_dir::from_line(&line) {
                Ok(message) => messages.push(message),
                // Logged only once, because a newer shim may send such a message several times a second.
                Err(error) if std::mem::take(&mut understands_all) => {
                    ::log::warn!("the shim sent a message that this version does not understand: {error}");
                }
                Err(_) => {}
            }
        }
        // Messages that arrive together are recorded together.
        if lines.is_over_limit() || events.send(Event::FromShim { number, messages }).is_err() {
            break;
        }
    }
    // Fails only if the supervisor has ended.
    let _nobody_left = events.send(Event::ShimGone { number });
}
