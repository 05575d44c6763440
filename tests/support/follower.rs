//! A client command that keeps running: its lines as they arrive, and its end.

use std::io::{BufRead, BufReader, Read};
use std::process::{Child, ChildStdout, Command, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::thread;

use super::{DEADLINE, until};

/// A command and its output. It is killed on drop.
pub struct Follower {
    pub child: Child,
    lines: Receiver<String>,
    warnings: Receiver<String>,
}

impl Follower {
    pub fn start(mut command: Command, args: &[&str]) -> Self {
        let mut child =
            command.args(args).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("it runs");
        let lines = received(child.stdout.take().expect("piped"));
        let warnings = received(child.stderr.take().expect("piped"));
        Self { child, lines, warnings }
    }

    /// Returns the next line of standard output.
    pub fn next(&self) -> String {
        self.lines.recv_timeout(DEADLINE).expect("a line")
    }

    /// Returns the next line of standard error.
    pub fn warning(&self) -> String {
        self.warnings.recv_timeout(DEADLINE).expect("a sentence")
    }

    /// Waits for the end of the command. Returns its exit code, and the lines of both streams that were not read yet.
    pub fn end(&mut self) -> (Option<i32>, Vec<String>, Vec<String>) {
        let code = until("it ends", || self.child.try_wait().expect("ours")).code();
        (code, rest(&self.lines), rest(&self.warnings))
    }
}

impl Drop for Follower {
    fn drop(&mut self) {
        let _ended_already = self.child.kill();
        let _reaped = self.child.wait();
    }
}

fn received(stream: impl Read + Send + 'static) -> Receiver<String> {
    let (send, lines) = channel();
    thread::spawn(move || BufReader::new(stream).lines().map_while(Result::ok).try_for_each(|line| send.send(line)));
    lines
}

fn rest(lines: &Receiver<String>) -> Vec<String> {
    let mut rest = Vec::new();
    loop {
        match lines.recv_timeout(DEADLINE) {
            Ok(line) => rest.push(line),
            Err(RecvTimeoutError::Disconnected) => return rest,
            Err(RecvTimeoutError::Timeout) => panic!("somebody else still has its output"),
        }
    }
}

/// Starts a command whose standard output the test reads itself.
pub fn piped(mut command: Command, args: &[&str]) -> (Child, BufReader<ChildStdout>) {
    let mut child =
        command.args(args).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::null()).spawn().expect("it runs");
    let out = BufReader::new(child.stdout.take().expect("piped"));
    (child, out)
}
