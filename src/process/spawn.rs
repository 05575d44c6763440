//! Making the pipeline's leader: a child in a session of its own and, where there is one, born in its control group.
//!
//! With `memory.rs` and `pages.rs` one of the three files that hold `unsafe`: nothing safe makes a child that is in a control group from its
//! first instruction on, and to move it there later costs some milliseconds in which nobody on the machine can fork.

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
use rustix::process::Signal;

use super::{Cgroup, begin_session, lack_of, reap};
use crate::kill_point::KillPoint;

/// `CLONE_INTO_CGROUP` of `clone(2)`, Linux 5.7.
const CLONE_INTO_CGROUP: u64 = 0x2_0000_0000;

/// Where a program without a slash in its name is looked for when there is no `PATH`: `execvp(3)`.
const PATH_DEFAULT: &[u8] = b"/bin:/usr/bin";

/// What the leader becomes.
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
    /// Its standard input, output and error.
    pub stdio: [OwnedFd; 3],
}

/// A child that executes its program.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Spawned {
    /// Its process id, also its session and process group. It is ours until it is reaped.
    pub pid: u32,
    /// Whether it was born in the control group.
    pub is_in_cgroup: bool,
}

/// Spawns the leader of a new session. When this returns, the child is in it and has executed its program: an error of either comes back
/// here. Into `cgroup` if the kernel lets it; otherwise without. Only for a process with a single thread.
pub fn spawn_in_session(launch: &Launch, cgroup: Option<&Cgroup>) -> io::Result<Spawned> {
    let image = Image::of(launch)?;
    // Closed by execve(2): then the end of the stream says that it has gone well.
    let (report, mut reporter) =
        rustix::pipe::pipe_with(PipeFlags::CLOEXEC).map(|(read, write)| (File::from(read), File::from(write)))?;
    let group = cgroup.and_then(|cgroup| cgroup.open().ok());
    let (forked, is_in_cgroup) = match group.map(|group| fork(Some(&group))) {
        Some(Ok(forked)) => (forked, true),
        // Without the group there is no process, no memory and no descriptor either; and if there were, the run would have no group for it.
        Some(Err(error)) if lack_of(&error).is_some() => return Err(error),
        // An old kernel, a filter of system calls, a group that may not be joined.
        Some(Err(_)) | None => (fork(None)?, false),
    };
    let Forked::Parent(pid) = forked else {
        let Err(error) = image.become_it(launch);
        let code = error.raw_os_error().unwrap_or(libc::EIO);
        // The parent is there, and reads it.
        let _parent_reads = reporter.write_all(&code.to_ne_bytes());
        loop {
            // Not an exit, which would run what the parent has registered for its own.
            let _dies = rustix::process::kill_process(rustix::process::getpid(), Signal::KILL);
        }
    };
    drop(reporter);
    let mut said = Vec::new();
    (&report).read_to_end(&mut said)?;
    match said.try_into().map(i32::from_ne_bytes) {
        Ok(code) => {
            // It kills itself right after it has said so.
            while reap(pid)?.is_none() {
                std::thread::yield_now();
            }
            Err(io::Error::from_raw_os_error(code))
        }
        Err(_nothing_said) => Ok(Spawned { pid, is_in_cgroup }),
    }
}

enum Forked {
    Parent(u32),
    Child,
}

/// `fork(2)`, into a control group if one is given.
fn fork(group: Option<&File>) -> io::Result<Forked> {
    let args = group.map(|group| Clone3Args {
        flags: CLONE_INTO_CGROUP,
        exit_signal: u64::try_from(libc::SIGCHLD).expect("positive"),
        cgroup: u64::try_from(group.as_raw_fd()).expect("an open file's number is not negative"),
        ..Clone3Args::default()
    });
    #[expect(unsafe_code, reason = "nothing safe in std makes a child in a control group")]
    // SAFETY: without CLONE_VM both are a fork. Its one caller, the shim, has a single thread, so the child finds no lock held and may
    // allocate; it only makes system calls until it executes its program or dies. The kernel reads the structure, of the size given.
    let pid = unsafe {
        match &args {
            Some(args) => libc::syscall(libc::SYS_clone3, std::ptr::from_ref(args), size_of::<Clone3Args>()),
            None => libc::fork().into(),
        }
    };
    match u32::try_from(pid) {
        Ok(0) => Ok(Forked::Child),
        Ok(pid) => Ok(Forked::Parent(pid)),
        Err(_) => Err(io::Error::last_os_error()),
    }
}

/// `struct clone_args` of `clone(2)`: all numbers, as wide on every architecture.
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

/// A launch as the kernel takes it.
struct Image {
    /// Where the program may be, in order.
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

    /// In the child. Returns only an error.
    fn become_it(&self, launch: &Launch) -> io::Result<std::convert::Infallible> {
        begin_session()?;
        KillPoint::ShimLeaderForked.reach_as_child();
        let [stdin, stdout, stderr] = &launch.stdio;
        rustix::stdio::dup2_stdin(stdin)?;
        rustix::stdio::dup2_stdout(stdout)?;
        rustix::stdio::dup2_stderr(stderr)?;
        rustix::process::chdir(&launch.cwd)?;
        // execvp(3) would give what the kernel does not take for a program to sh: whatever that makes of it, it is not what was asked for.
        let mut error = Errno::NOENT;
        for path in &self.paths {
            error = match self.execute(path) {
                // Not here; elsewhere there may be one, or one that may be executed.
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

    use super::super::tests::write_program;
    use super::super::{kill_child, read_stat};
    use super::*;

    /// Without a control group: this process has other threads, of which only fork(3) knows.
    fn spawn(program: impl Into<PathBuf>, args: &[&str], path: Option<&Path>, cwd: &Path) -> io::Result<(Spawned, File)> {
        let (said, out) = rustix::pipe::pipe_with(PipeFlags::CLOEXEC)?;
        let null = || File::open("/dev/null").map(OwnedFd::from);
        let launch = Launch {
            program: program.into(),
            args: args.iter().map(Into::into).collect(),
            environment: path.map(|path| ("PATH".into(), path.into())).into_iter().collect(),
            cwd: cwd.to_owned(),
            stdio: [null()?, out, null()?],
        };
        Ok((spawn_in_session(&launch, None)?, File::from(said)))
    }

    fn reap_it(child: Spawned) {
        while reap(child.pid).expect("our child").is_none() {
            std::thread::yield_now();
        }
    }

    #[test]
    fn a_spawned_leader_is_in_its_own_session() {
        let (child, _) = spawn("/bin/sleep", &["600"], None, Path::new("/")).expect("spawns");
        let stat = read_stat(child.pid).expect("it lives");
        assert_eq!((stat.session, stat.ppid, child.is_in_cgroup), (child.pid, std::process::id(), false));
        kill_child(child.pid).expect("our child");
        reap_it(child);
    }

    #[test]
    fn it_gets_its_arguments_its_folder_and_its_output() {
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
    fn a_name_is_looked_up_in_its_own_path() {
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
    fn what_cannot_be_executed_is_an_error() {
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
