//! The process that outlives the server. There is one for each run: the pipeline's parent, which also inherits all processes
//! that the pipeline leaves behind.
//!
//! Level 2. It has one thread with one loop around poll(2), and sleeps unless there is output or something to do. Only the shim
//! signals and reaps the pipeline. It writes facts and sends them up, and never decides what a fact means. It never needs a
//! server to finish a request: a stop continues to its end without one.
//!
//! If killed here: the lock is released and the control connections break. The pipeline continues without a parent until a
//! server scans the run. The server kills the processes that are in the run's control group or carry its cookie, and the run is
//! lost.

mod beginning;
mod chore;
mod connections;
mod ending;
mod failure;
mod kill_points;
mod output;
mod pause_file;
mod phase;
mod place;
mod progress;
mod run;
mod signals;
mod signs;
mod steps;
mod tree;
mod trouble;
mod usage;

use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::ExitCode;
use std::time::Duration;

use self::failure::{InStep, ShimError, complain};
use self::signals::signals;
use crate::file_id::FileId;
use crate::kill_point::KillPoint;
use crate::process::{self, is_disk_full};
use crate::run_dir::{LaunchSpec, LineReader, NumberedSigns, RunDir, Signs, Trouble, from_line, to_line};

/// How long the server may take to send the launch specification. It sends it before anything else, so a longer silence means
/// that it died.
const SPEC_WAIT: Duration = Duration::from_secs(10);

/// The longest launch specification, in bytes: a request body and some paths.
const SPEC_BYTES_MAX: usize = 8 * 1024 * 1024;

/// Runs a shim for the run directory `dir` (absolute) until its end. Standard input is a stream socket to the server that
/// started it. Standard output is the run's lock, which is already held; it stays open and untouched until the end of this
/// process.
pub fn run(dir: &Path) -> ExitCode {
    match live(dir) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            complain(format_args!("{error}"));
            ExitCode::FAILURE
        }
    }
}

fn live(dir: &Path) -> Result<(), ShimError> {
    KillPoint::ShimBorn.reach();
    // The loader touches more pages of the program than the shim ever does. Without this the peak would be half as high again.
    let _saves_memory_only = process::release_clean_pages();
    // Descriptors that the server's parent left open must not reach the pipeline.
    close_fds::set_fds_cloexec(3, &[]);
    process::unblock_signals().in_step("unblock signals")?;
    process::begin_session().in_step("leave the server's session")?;
    // All files of the run are reached from here, so that they belong to this directory even if another one now has its path.
    std::env::set_current_dir(dir).in_step("enter the run directory")?;
    // Only a name for `ps`; nothing depends on it.
    let _cosmetic = rustix::thread::set_name(c"autoappdev-shim");
    process::become_subreaper().in_step("become the subreaper")?;
    let events = signals().in_step("catch signals")?;

    // Another descriptor of the lock, which execve(2) closes. The leader has it too, from its fork until it executes the script.
    // If this process is killed in between, no server finds the lock free before the leader carries the run's cookie.
    let lock = File::from(io::stdout().as_fd().try_clone_to_owned().in_step("keep the lock")?);
    check_place(&lock).in_step("find the run's lock")?;
    let stdin = io::stdin().as_fd().try_clone_to_owned().in_step("take over standard input")?;
    let (spec, server, early) = read_spec(stdin)?;
    KillPoint::ShimSpecRead.reach();
    let to_server = server.try_clone();
    match run::Run::begin(RunDir::at(".".into()), spec, events, server, &early) {
        Ok(run) => {
            drop(to_server);
            run.go_on_until_the_end();
            Ok(())
        }
        Err(error) => {
            let advice = process::shortage_advice(&error.cause);
            let text = format!("the run's own process (the shim) failed before the run began: {error}{advice}");
            let trouble = Trouble::last_words(text, is_disk_full(&error.cause), process::shortage_of(&error.cause));
            let signs = Signs { trouble: vec![trouble], ..Signs::default() };
            let last_words = to_line(&NumberedSigns { signs, number: 1 });
            // A server that is gone learns this from `shim.log`, or finds no journal.
            let _best_effort = to_server.and_then(|mut server| server.write_all(&last_words));
            Err(error)
        }
    }
}

/// Refuses a directory without the lock that the server has taken: another directory has replaced the run's.
fn check_place(lock: &File) -> io::Result<()> {
    if FileId::of_name(&RunDir::at(".".into()).lock_path())? == FileId::from(&lock.metadata()?) {
        return Ok(());
    }
    Err(io::Error::other("the run directory was replaced by another one; start the run again"))
}

/// Reads the first line. Also returns the bytes after it, which are commands.
fn read_spec(stdin: OwnedFd) -> Result<(LaunchSpec, UnixStream, Vec<u8>), ShimError> {
    let mut stream = UnixStream::from(stdin);
    stream.set_read_timeout(Some(SPEC_WAIT)).in_step("set a time-out")?;
    let mut lines = LineReader::new(SPEC_BYTES_MAX);
    let mut buffer = vec![0; 64 * 1024];
    loop {
        let count = match stream.read(&mut buffer) {
            // With a timeout, a read does not continue by itself after SIGSTOP and SIGCONT (signal(7)), such as when a machine
            // is suspended.
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            other => other.in_step("read the launch specification")?,
        };
        lines.push(&buffer[..count]);
        if let Some(line) = lines.next_line() {
            let spec = from_line(&line).in_step("parse the launch specification")?;
            return Ok((spec, stream, lines.into_rest()));
        }
        if count == 0 || lines.is_over_limit() {
            return Err(io::Error::other("no complete specification was received")).in_step("read the launch specification");
        }
    }
}
