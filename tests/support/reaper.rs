//! Ends what a killed test leaves behind. Shims outlive their server by design, and a test that is killed never drops its
//! [`Place`](super::Place).
//!
//! A shell beside each test process reads from a pipe which folders are in use. However the test process ends, the kernel closes
//! its end of the pipe. Then the shell kills all processes whose working directory is in one of the folders, or whose environment
//! contains a path in one.

use std::io::{PipeWriter, Write};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::OnceLock;

/// The script of the shell. It reads a line `+ FOLDER` when a folder comes into use, and `-` when a folder is no longer in use.
/// If none is in use at the end, every test has cleaned up, and nothing is searched.
///
/// The folders become the patterns `=FOLDER/`, which match both in an environment and in the list of working directories. Without
/// a folder there would be an empty pattern, which matches every process: then the shell must end.
///
/// Two searches in a row must find nothing, because a process that is being created has no environment for a moment. The number
/// of searches is limited, so that the shell ends even if a process cannot be killed.
const REAPER: &str = r#"
trap '' HUP INT TERM
patterns= in_use=0
while read -r sign folder; do
    case $sign in
    +) in_use=$((in_use + 1)) patterns="${patterns:+$patterns
}=$folder/" ;;
    -) in_use=$((in_use - 1)) ;;
    esac
done
[ "$in_use" -gt 0 ] && [ -n "$patterns" ] || exit 0

found() {
    grep -lzF -e "$patterns" /proc/[0-9]*/environ
    find /proc/[0-9]*/cwd -maxdepth 0 -printf '%p=%l/\n' | grep -F -e "$patterns"
}
quiet=0 searches=0
while [ "$quiet" -lt 2 ] && [ "$searches" -lt 1000 ]; do
    pids=$(found | cut -d / -f 3)
    searches=$((searches + 1))
    if [ -z "$pids" ]; then
        quiet=$((quiet + 1))
        sleep 0.05
    else
        quiet=0
        kill -KILL $pids
    fi
done
"#;

/// Makes the processes of this folder end with the test process. The name of the folder must be random, so that no process of
/// another test has its path.
pub(super) fn watch(folder: &Path) {
    let path = folder.canonicalize().expect("the folder exists");
    let path = path.to_str().expect("temp folders have names in UTF-8");
    assert!(path.starts_with('/') && path.len() > 1 && !path.contains('\n'), "{path:?} would match other processes");
    say(&format!("+ {path}\n"));
}

/// Reports that one of the folders is no longer in use, because its test has ended its processes itself.
pub(super) fn release() {
    say("-\n");
}

/// Sends a line to the shell. A line is shorter than `PIPE_BUF`, so lines of several threads do not mix.
fn say(line: &str) {
    // The shell is never waited for: it outlives this process.
    static STARTED: OnceLock<(PipeWriter, Child)> = OnceLock::new();
    let mut pipe = &STARTED.get_or_init(start).0;
    // A reaper that was killed must not fail a test.
    let _written = pipe.write_all(line.as_bytes());
}

/// Starts the shell. It has its own process group, because a runner kills the test's group. It does not keep the test's streams
/// open, because a runner waits for their end. Nothing in its environment or working directory matches a pattern of another
/// reaper.
fn start() -> (PipeWriter, Child) {
    let (reads, writes) = std::io::pipe().expect("a pipe");
    let mut command = Command::new("/bin/sh");
    command.args(["-c", REAPER]).current_dir("/").env_clear().env("PATH", "/usr/local/bin:/usr/bin:/bin").process_group(0);
    let shell = command.stdin(reads).stdout(Stdio::null()).stderr(Stdio::null()).spawn();
    (writes, shell.expect("/bin/sh is there"))
}
