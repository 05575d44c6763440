//! Spawns the pipeline's leader: a child in a session that has no leader, created in its control group if there is one.
//!
//! The first terminal that a session leader opens becomes its controlling terminal (`tty_ioctl(4)`, `credentials(7)`). From then
//! on a byte 3 on a serial line is a SIGINT, and a cable that is pulled out is a SIGHUP. So a separate process, the founder,
//! creates the session, creates the pipeline's leader as its sibling (`CLONE_PARENT`), and exits. No other process can become
//! the session's leader.
//!
//! This is one of the three files that contain `unsafe`, with `memory.rs` and `pages.rs`: there is no safe way to create a
//! sibling, or a child that is in a control group from its first instruction on. Moving the child there later would block every
//! fork on the machine for some milliseconds.

use std::collections::BTreeMap;
use std::ffi::{CStr, CString, OsStr, OsString};
use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;

use nix::libc;
use rustix::io::Errno;
use rustix::pipe::PipeFlags;
use rustix::process::{Resource, Rlimit, Signal, getrlimit};

use super::cgroup::Cgroup;
use super::children::wait_for_end;
use super::own::begin_session;
use super::shortage::shortage_of;
use super::stat::{Identity, read_stat};
use crate::kill_point::KillPoint;
use crate::pipeline::Containment;

/// `CLONE_INTO_CGROUP` of `clone(2)`, Linux 5.7.
const CLONE_INTO_CGROUP: u64 = 0x2_0000_0000;

/// The search path for a program without a slash in its name if there is no `PATH`: `execvp(3)`.
const PATH_DEFAULT: &[u8] = b"/bin:/usr/bin";

/// The program that the leader executes, and its settings.
#[derive(Debug)]
pub struct Launch {
    /// A path with a slash in it, or a name that is looked up in the new environment's `PATH`.
    pub program: PathBuf,
    /// The arguments after the program's name.
    pub args: Vec<OsString>,
    /// The whole environment.
    pub environment: BTreeMap<OsString, OsString>,
    /// The working directory.
    pub cwd: PathBuf,
    /// The core dump limit of the new process, in bytes; `None` means unlimited. This process has lowered its own
    /// ([`super::disable_core_dumps`]).
    pub core_bytes_max: Option<u64>,
    /// Its standard input, output and error.
    pub stdio: [OwnedFd; 3],
}

/// Spawns a leader in a new session.
///
/// When this returns, the child is in the session and has executed its program; an error in either step is returned. The child
/// is created in `cgroup` if the kernel allows it, otherwise without a group. Only for a process with a single thread. The
/// leader's process id is also its process group, and stays reserved until we reap it.
pub fn spawn_in_session(launch: &Launch, cgroup: Option<&Cgroup>) -> io::Result<(Identity, Containment)> {
    let image = Image::of(launch)?;
    // execve(2) closes it, so the end of the stream without an error means success.
    let (mut report, reporter) =
        rustix::pipe::pipe_with(PipeFlags::CLOEXEC).map(|(read, write)| (File::from(read), File::from(write)))?;
    let group = cgroup.and_then(|cgroup| File::open(cgroup.path()).ok());
    let Some(founder) = fork(&Fork::Child)? else { found_session(&image, launch, group.as_ref(), &reporter) };
    drop(reporter);
    let mut said = Vec::new();
    let read = report.read_to_end(&mut said);
    wait_for_end(founder)?;
    read?;
    let said: Vec<u64> = said.as_chunks().0.iter().map(|word| u64::from_ne_bytes(*word)).collect();
    match said[..] {
        [pid, start_ticks, is_in_cgroup] => {
            let containment = if is_in_cgroup == 0 { Containment::Tree } else { Containment::Cgroup };
            Ok((Identity { pid: word_to(pid)?, start_ticks }, containment))
        }
        [pid, _, _, error] => {
            // It kills itself right after this report.
            wait_for_end(word_to(pid)?)?;
            Err(io::Error::from_raw_os_error(word_to(error)?))
        }
        [error] => Err(io::Error::from_raw_os_error(word_to(error)?)),
        _ => Err(io::Error::other("the process was killed before it executed the program")),
    }
}

fn word_to<T: TryFrom<u64>>(word: u64) -> io::Result<T> {
    T::try_from(word).map_err(|_| io::ErrorKind::InvalidData.into())
}

/// Writes numbers to the parent, which waits for them.
fn report(mut reporter: &File, words: &[u64]) {
    let bytes: Vec<u8> = words.iter().flat_map(|word| word.to_ne_bytes()).collect();
    // A parent that has exited does not need the result.
    let _parent_reads = reporter.write_all(&bytes);
}

fn error_word(error: &io::Error) -> u64 {
    error.raw_os_error().and_then(|code| u64::try_from(code).ok()).unwrap_or(Errno::IO.raw_os_error().unsigned_abs().into())
}

/// Kills this process. An exit would run the handlers that the parent has registered for its own exit.
fn die() -> ! {
    loop {
        let _dies = rustix::process::kill_process(rustix::process::getpid(), Signal::KILL);
    }
}

/// Runs in the founder: creates the session, and the leader in it.
fn found_session(image: &Image, launch: &Launch, group: Option<&File>, reporter: &File) -> ! {
    let born = begin_session().and_then(|()| match group.map(|group| fork(&Fork::Sibling(Some(group)))) {
        Some(Ok(forked)) => Ok((forked, true)),
        // A shortage of processes, memory or descriptors is not the group's fault: without the group the fork would fail too, or
        // the run would lose its group for no reason.
        Some(Err(error)) if shortage_of(&error).is_some() => Err(error),
        // An old kernel, a filter for system calls, or a group that this process may not join.
        Some(Err(_)) | None => Ok((fork(&Fork::Sibling(None))?, false)),
    });
    match born {
        Ok((Some(_leader), _)) => {}
        Ok((None, is_in_cgroup)) => {
            let Err(error) = image.become_it(launch, is_in_cgroup, reporter);
            report(reporter, &[error_word(&error)]);
        }
        Err(error) => report(reporter, &[error_word(&error)]),
    }
    die()
}

enum Fork<'a> {
    /// As with `fork(2)`.
    Child,
    /// As a sibling of the caller, in a control group if one is given.
    Sibling(Option<&'a File>),
}

/// Creates a process, and returns its id; `None` in the new process.
fn fork(how: &Fork<'_>) -> io::Result<Option<u32>> {
    let into_group = |group: &File| Clone3Args {
        // The signal at its end is that of the caller: `clone(2)`.
        flags: u64::try_from(libc::CLONE_PARENT).expect("a flag is positive") | CLONE_INTO_CGROUP,
        cgroup: u64::try_from(group.as_raw_fd()).expect("an open file's number is not negative"),
        ..Clone3Args::default()
    };
    #[expect(unsafe_code, reason = "nothing safe in std forks, makes a sibling, or a child in a control group")]
    // SAFETY: without CLONE_VM each of the three calls is a fork. The callers are the shim and the founder that it created,
    // which each have a single thread. So the new process finds no lock held and may allocate, and it only makes system calls
    // until it dies or executes a program. For clone3 the kernel reads the structure, whose size is passed. For clone it reads
    // the flags, which come first, and zeros.
    let pid = unsafe {
        match how {
            Fork::Child => libc::fork().into(),
            Fork::Sibling(Some(group)) => {
                libc::syscall(libc::SYS_clone3, std::ptr::from_ref(&into_group(group)), size_of::<Clone3Args>())
            }
            Fork::Sibling(None) => {
                libc::syscall(libc::SYS_clone, libc::c_long::from(libc::CLONE_PARENT | libc::SIGCHLD), 0, 0, 0, 0)
            }
        }
    };
    match u32::try_from(pid) {
        Ok(pid) => Ok((pid != 0).then_some(pid)),
        Err(_) => Err(io::Error::last_os_error()),
    }
}

/// `struct clone_args` of `clone(2)`: only numbers, of the same size on every architecture.
#[repr(C)]
#[derive(Debug, Default)]
struct Clone3Args {
    flags: u64,
    pidfd: u64,
    child_tid: u64,
    parent_tid: u64,
    exit_signal: u64,
    stack: u64,
    stack_size: u64,
    tls: u64,
    set_tid: u64,
    set_tid_size: u64,
    cgroup: u64,
}

/// A launch in the form that the kernel takes.
struct Image {
    /// The paths at which the program can be, in order.
    paths: Vec<CString>,
    args: Vec<CString>,
    environment: Vec<CString>,
}

impl Image {
    fn of(launch: &Launch) -> io::Result<Self> {
        let text = |text: &OsStr| CString::new(text.as_bytes());
        let entry = |(name, value): (&OsString, &OsString)| CString::new([name.as_bytes(), b"=", value.as_bytes()].concat());
        let name = launch.program.as_os_str();
        let paths = if name.as_bytes().contains(&b'/') {
            vec![text(name)?]
        } else {
            let path = launch.environment.get(OsStr::new("PATH")).map_or(PATH_DEFAULT, |path| path.as_bytes());
            let in_folder = |folder: &[u8]| CString::new([folder, b"/", name.as_bytes()].concat());
            path.split(|&byte| byte == b':').filter(|folder| !folder.is_empty()).map(in_folder).collect::<Result<_, _>>()?
        };
        Ok(Self {
            paths,
            args: std::iter::once(name).chain(launch.args.iter().map(OsString::as_os_str)).map(text).collect::<Result<_, _>>()?,
            environment: launch.environment.iter().map(entry).collect::<Result<_, _>>()?,
        })
    }

    /// Runs in the child: executes the program. Reports the child's identity first, because `/proc` may hide it from its parent
    /// once it runs as another user. Returns only an error.
    fn become_it(&self, launch: &Launch, is_in_cgroup: bool, reporter: &File) -> io::Result<std::convert::Infallible> {
        let Identity { pid, start_ticks } = read_stat(std::process::id())?.identity;
        report(reporter, &[pid.into(), start_ticks, is_in_cgroup.into()]);
        rustix::process::setpgid(None, None)?;
        KillPoint::ShimLeaderForked.reach_as_child();
        let [stdin, stdout, stderr] = &launch.stdio;
        rustix::stdio::dup2_stdin(stdin)?;
        rustix::stdio::dup2_stdout(stdout)?;
        rustix::stdio::dup2_stderr(stderr)?;
        rustix::process::chdir(&launch.cwd)?;
        let core = Rlimit { current: launch.core_bytes_max, ..getrlimit(Resource::Core) };
        rustix::process::setrlimit(Resource::Core, core)?;
        // execvp(3) would run a file that the kernel does not execute with sh, which is not the requested program.
        let mut error = Errno::NOENT;
        for path in &self.paths {
            error = match self.execute(path) {
                // Not found here. A later directory can contain it, or an executable file of that name.
                Errno::NOENT | Errno::NOTDIR => error,
                other => other,
            };
            if !matches!(error, Errno::NOENT | Errno::ACCESS) {
                break;
            }
        }
        Err(error.into())
    }

    fn execute(&self, path: &CStr) -> Errno {
        let Err(error) = nix::unistd::execve(path, &self.args, &self.environment);
        Errno::from_raw_os_error(error as i32)
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::PermissionsExt;
    use std::path::Path;

    use super::super::signal::raw_pid;
    use super::super::signal_child;
    use super::super::tests::write_program;
    use super::*;

    /// Spawns a leader without a control group, because this process has other threads, which only fork(3) takes into account.
    fn spawn(program: impl Into<PathBuf>, args: &[&str], path: Option<&Path>, cwd: &Path) -> io::Result<(Identity, File)> {
        let (said, out) = rustix::pipe::pipe_with(PipeFlags::CLOEXEC)?;
        let null = || File::open("/dev/null").map(OwnedFd::from);
        let launch = Launch {
            program: program.into(),
            args: args.iter().map(Into::into).collect(),
            environment: path.map(|path| ("PATH".into(), path.into())).into_iter().collect(),
            cwd: cwd.to_owned(),
            core_bytes_max: getrlimit(Resource::Core).current,
            stdio: [null()?, out, null()?],
        };
        let (leader, containment) = spawn_in_session(&launch, None)?;
        assert_eq!(containment, Containment::Tree);
        Ok((leader, File::from(said)))
    }

    fn reap_it(child: Identity) {
        wait_for_end(child.pid).expect("our child");
    }

    #[test]
    fn spawned_leader_is_a_child_in_a_session_without_a_leader() {
        let (child, _) = spawn("/bin/sleep", &["600"], None, Path::new("/")).expect("spawns");
        let stat = read_stat(child.pid).expect("it lives");
        assert_eq!((stat.identity, stat.ppid), (child, std::process::id()));
        let group = rustix::process::getpgid(raw_pid(child.pid).ok()).expect("it lives");
        assert_eq!(u32::try_from(group.as_raw_nonzero().get()), Ok(child.pid), "it leads its process group");
        // nix is used because this process's session leader can be outside of its PID namespace, and rustix cannot represent
        // that session's id.
        let session_of = |pid: u32| {
            let session = nix::unistd::getsid(i32::try_from(pid).ok().map(nix::unistd::Pid::from_raw)).expect("it lives");
            session.as_raw().unsigned_abs()
        };
        let session = session_of(child.pid);
        assert_ne!(session, session_of(std::process::id()), "the session is a new one");
        assert_eq!(read_stat(session).expect_err("the session's leader has ended").kind(), io::ErrorKind::NotFound);
        signal_child(child.pid, Signal::KILL).expect("our child");
        reap_it(child);
    }

    #[test]
    fn spawned_program_gets_arguments_folder_and_output() {
        let dir = tempfile::tempdir().expect("a temp folder");
        let script = "echo \"$0|$1|$(pwd)\"; readlink /proc/$$/fd/0";
        let (child, mut said) = spawn("/bin/sh", &["-c", script, "zero", "one two"], None, dir.path()).expect("spawns");
        let mut text = String::new();
        said.read_to_string(&mut text).expect("text");
        let dir = dir.path().canonicalize().expect("there");
        assert_eq!(text, format!("zero|one two|{}\n/dev/null\n", dir.display()));
        reap_it(child);
    }

    #[test]
    fn program_name_is_searched_in_the_given_path() {
        let dir = tempfile::tempdir().expect("a temp folder");
        let folders = ["empty", "forbidden", "good"].map(|name| dir.path().join(name));
        for folder in &folders {
            fs::create_dir(folder).expect("creates");
        }
        let path: PathBuf = std::env::join_paths(&folders).expect("no colons").into();
        let tool = |folder: &Path, mode| {
            write_program(&folder.join("tool"), "#!/bin/sh\necho found\n");
            fs::set_permissions(folder.join("tool"), fs::Permissions::from_mode(mode)).expect("ours");
        };
        let look = || spawn("tool", &[], Some(&path), Path::new("/"));
        assert_eq!(look().expect_err("nowhere").kind(), io::ErrorKind::NotFound);
        tool(&folders[1], 0o644);
        assert_eq!(look().expect_err("it may not be executed").kind(), io::ErrorKind::PermissionDenied);
        tool(&folders[2], 0o755);
        let (child, mut said) = look().expect("further on there is one");
        let mut text = String::new();
        said.read_to_string(&mut text).expect("text");
        assert_eq!(text, "found\n");
        reap_it(child);
        let (child, _) = spawn("sh", &["-c", "exit 0"], None, Path::new("/")).expect("without PATH there is a default");
        reap_it(child);
    }

    #[test]
    fn unexecutable_program_or_missing_folder_is_an_error() {
        let dir = tempfile::tempdir().expect("a temp folder");
        let file = |name: &str, text: &str| {
            write_program(&dir.path().join(name), text);
            dir.path().join(name)
        };
        let missing = dir.path().join("missing");
        for (program, cwd, expected) in [
            (missing.clone(), dir.path(), Errno::NOENT),
            (dir.path().to_owned(), dir.path(), Errno::ACCESS),
            (file("plain", "just text"), dir.path(), Errno::NOEXEC),
            (file("empty", ""), dir.path(), Errno::NOEXEC),
            (file("dangling", "#!/nonexistent/interpreter\n"), dir.path(), Errno::NOENT),
            ("/bin/sleep".into(), missing.as_path(), Errno::NOENT),
            ("/bin/sleep".into(), Path::new("/bin/sleep"), Errno::NOTDIR),
        ] {
            let error = spawn(&program, &[], None, cwd).expect_err("no program");
            assert_eq!(error.raw_os_error(), Some(expected.raw_os_error()), "{} in {}", program.display(), cwd.display());
        }
        let nul = spawn("/bin/sleep", &["6\0"], None, dir.path()).expect_err("the kernel could not take it");
        assert_eq!(nul.kind(), io::ErrorKind::InvalidInput);
    }
}
