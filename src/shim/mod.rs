//! The process that outlives the server: one for each run, the pipeline's parent and the inheritor of all it leaves behind.
//!
//! Level 2. One thread, one loop around poll(2), asleep unless there is output or something to do. It alone signals and reaps the
//! pipeline. It writes facts and sends them up; it never decides what a fact means, and it never needs a server to finish what it
//! was asked: a stop goes on to its end by itself.
//!
//! If killed here: the lock falls, the control connections break. The pipeline goes on without a parent until the next look of
//! a server, which kills what is in the run's control group or carries its cookie, and calls the run lost.

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

/// How long the server may take to say what to run. It wrote that before it looked at anything else, so a longer silence means that it died.
const SPEC_WAIT: Duration = Duration::from_secs(10);

/// The longest launch specification, in bytes: a request body and some paths.
const SPEC_BYTES_MAX: usize = 8 * 1024 * 1024;

/// The whole life of a shim for the run directory `dir` (absolute). Standard input is a stream socket to the server that asked, standard
/// output the run's lock, already held; it stays open, untouched, until the end of this process.
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
    // The loader touches more of the program than all that the shim does with it. Without this the peak would be half as high again.
    let _saves_memory_only = process::let_go_of_unchanged_pages();
    // What the server's own parent left open must not reach the pipeline.
    close_fds::set_fds_cloexec(3, &[]);
    process::unblock_signals().in_step("unblock signals")?;
    process::begin_session().in_step("leave the server's session")?;
    // All files of the run are reached from here, so that they belong to this directory even if another one now has its path.
    std::env::set_current_dir(dir).in_step("enter the run directory")?;
    // Only a name for `ps`; nothing depends on it.
    let _cosmetic = rustix::thread::set_name(c"autoappdev-shim");
    process::adopt_orphans().in_step("become the subreaper")?;
    let events = signals().in_step("catch signals")?;

    // One more descriptor of the lock, which execve(2) closes: the leader has it too from its fork on until it executes the script. If
    // this process is killed in between, nobody finds the lock free before the leader carries the run's cookie.
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
            let advice = process::advice_for(&error.cause);
            let text = format!("the run's own process (the shim) failed before the run began: {error}{advice}");
            let trouble = Trouble::last_words(text, is_disk_full(&error.cause), process::lack_of(&error.cause));
            let signs = Signs { trouble: vec![trouble], ..Signs::default() };
            let last_words = to_line(&NumberedSigns { signs, number: 1 });
            // Who is gone learns of it from `shim.log`, or finds no journal.
            let _best_effort = to_server.and_then(|mut server| server.write_all(&last_words));
            Err(error)
        }
    }
}

/// Refuses a directory that does not have the lock that the server has taken: another one was put in the place of the run's.
fn check_place(lock: &File) -> io::Result<()> {
    if FileId::of_name(&RunDir::at(".".into()).lock_path())? == FileId::from(&lock.metadata()?) {
        return Ok(());
    }
    Err(io::Error::other("the run directory was replaced by another one; start the run again"))
}

/// Reads the first line, and hands back what followed it: commands.
fn read_spec(stdin: OwnedFd) -> Result<(LaunchSpec, UnixStream, Vec<u8>), ShimError> {
    let mut stream = UnixStream::from(stdin);
    stream.set_read_timeout(Some(SPEC_WAIT)).in_step("set a time-out")?;
    let mut lines = LineReader::new(SPEC_BYTES_MAX);
    let mut buffer = vec![0; 64 * 1024];
    loop {
        let count = match stream.read(&mut buffer) {
            // With a time-out set a read does not go on by itself after SIGSTOP and SIGCONT (signal(7)), as when a machine is suspended.
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            other => other.in_step("read the launch specification")?,
        };
        lines.push(&buffer[..count]);
        if let Some(line) = lines.next_line() {
            let spec = from_line(&line).in_step("understand the launch specification")?;
            return Ok((spec, stream, lines.into_rest()));
        }
        if count == 0 || lines.is_over_limit() {
            return Err(io::Error::other("no whole one came")).in_step("read the launch specification");
        }
    }
}
