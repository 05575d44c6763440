//! The server's output on standard output and standard error. Writing never waits for the reader.
//!
//! Level 0. The reader may have stopped: a terminal after Ctrl-S, a hanging connection to another machine, or a pager. A
//! blocking write would block its thread, and no stop or other action would ever complete. So a line for which there is no room
//! is dropped and counted. `backend.log` contains the log in any case.
//!
//! Text from outside may contain control sequences, and a path can contain line breaks. Everything printed here is made
//! printable and stays on one line, and client commands use the same functions for everything that they print.

mod printable;
mod terminal_line;

use std::fs::File;
use std::io::{self, ErrorKind, IsTerminal, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::sync::{LazyLock, Mutex, PoisonError};

use rustix::event::{PollFd, PollFlags, Timespec};
use rustix::fs::{FileType, Mode, OFlags};

pub use self::printable::{json_line, printable, printable_lines};
pub use self::terminal_line::{Shown, TerminalLine};

/// The number of bytes for which a pipe has room if it has any room (`pipe(7)`, `PIPE_BUF`).
const AT_ONCE_BYTES: usize = 4096;

static OUT: LazyLock<Mutex<Console>> = LazyLock::new(|| Mutex::new(Console::on(io::stdout(), "/proc/self/fd/1")));
static ERR: LazyLock<Mutex<Console>> = LazyLock::new(|| Mutex::new(Console::on(io::stderr(), "/proc/self/fd/2")));

/// Prints `text` as one line on standard output.
pub fn say(text: &str) {
    OUT.lock().unwrap_or_else(PoisonError::into_inner).say(text);
}

/// Prints `text` as one line on standard error.
pub fn complain(text: &str) {
    ERR.lock().unwrap_or_else(PoisonError::into_inner).say(text);
}

/// Checks whether standard output and standard error are the same terminal, so that a person reads both.
pub fn is_one_terminal() -> bool {
    let device = |stream: &dyn AsFd| rustix::fs::fstat(stream).map(|found| found.st_rdev).ok();
    let (out, error) = (io::stdout(), io::stderr());
    out.is_terminal() && error.is_terminal() && device(&out) == device(&error)
}

/// Standard output or standard error.
struct Console {
    /// The stream; `None` if it is closed. The server works without it.
    to: Option<File>,
    /// The number of lines that were dropped since the last line that was written.
    left_out: u64,
    /// Whether only a part of the last line was written.
    is_torn: bool,
}

impl Console {
    /// Creates a console for a stream. `name` is a path of the same stream.
    fn on(stream: impl AsFd, name: &str) -> Self {
        Self { to: own(stream, name).ok().map(File::from), left_out: 0, is_torn: false }
    }

    fn say(&mut self, text: &str) {
        let mut line = Vec::with_capacity(text.len() + 1);
        if self.is_torn {
            line.push(b'\n');
        }
        if self.left_out > 0 {
            let _memory_takes_it =
                writeln!(line, "[autoappdev: {} lines are missing here, because the output was not read]", self.left_out);
        }
        line.extend_from_slice(printable(text).as_bytes());
        line.push(b'\n');
        match self.write(&line) {
            0 => self.left_out += 1,
            written => (self.left_out, self.is_torn) = (0, written < line.len()),
        }
    }

    /// Writes as much as there is room for, and returns the number of bytes. After an error other than a lack of room, the
    /// stream is no longer used, because the error could not be reported anywhere.
    fn write(&mut self, bytes: &[u8]) -> usize {
        let mut written = 0;
        while let Some(to) = self.to.as_mut().filter(|_| written < bytes.len()) {
            let piece = &bytes[written..bytes.len().min(written + AT_ONCE_BYTES)];
            if !has_room(to) {
                break;
            }
            match to.write(piece) {
                Ok(count) => written += count,
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::StorageFull) => break,
                Err(_) => self.to = None,
            }
        }
        written
    }
}

/// Returns a descriptor whose writes do not block.
///
/// A write also waits if a terminal has some room, but not enough. So the stream is opened once more, in non-blocking mode. The
/// mode of the existing descriptor cannot be changed, because other processes share it, such as the shell.
fn own(stream: impl AsFd, name: &str) -> io::Result<OwnedFd> {
    let stream = stream.as_fd();
    let kind = FileType::from_raw_mode(rustix::fs::fstat(stream)?.st_mode);
    if matches!(kind, FileType::CharacterDevice | FileType::Fifo) {
        let flags = OFlags::WRONLY | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
        if let Ok(again) = rustix::fs::open(name, flags, Mode::empty()) {
            return Ok(again);
        }
    }
    // This is a file, which never blocks, or a socket or another user's terminal, which `has_room` polls first.
    Ok(rustix::io::fcntl_dupfd_cloexec(stream, 3)?)
}

fn has_room(to: &File) -> bool {
    let mut fd = [PollFd::new(to, PollFlags::OUT)];
    // The following write reports an error, or that the other end was closed.
    rustix::event::poll(&mut fd, Some(&Timespec { tv_sec: 0, tv_nsec: 0 })).map_or(true, |ready| ready > 0)
}

#[cfg(test)]
mod tests {
    use std::io::Read;
    use std::os::fd::AsRawFd;
    use std::os::unix::net::UnixStream;
    use std::time::Duration;

    use rustix::pipe::PipeFlags;

    use super::*;

    /// Creates a console for a path in `/proc`, like those of the process.
    fn on(stream: &OwnedFd) -> Console {
        Console::on(stream, &format!("/proc/self/fd/{}", stream.as_raw_fd()))
    }

    fn pipe() -> [OwnedFd; 2] {
        rustix::pipe::pipe_with(PipeFlags::CLOEXEC).map(Into::into).expect("a pipe")
    }

    /// Returns both ends of a terminal.
    fn terminal() -> [OwnedFd; 2] {
        let pair = nix::pty::openpty(None, None).expect("a terminal");
        [pair.master, pair.slave]
    }

    fn sockets() -> [OwnedFd; 2] {
        let (read, write) = UnixStream::pair().expect("a pair");
        [read.into(), write.into()]
    }

    /// Reads until a line is `last`.
    fn lines_until(read: OwnedFd, last: &str) -> Vec<String> {
        let (mut read, mut text) = (File::from(read), Vec::new());
        loop {
            let mut piece = [0; 4096];
            let count = read.read(&mut piece).expect("more comes");
            text.extend_from_slice(&piece[..count]);
            let lines: Vec<String> = String::from_utf8_lossy(&text).lines().map(|line| line.trim_end().to_owned()).collect();
            if lines.last().is_some_and(|line| line == last) {
                return lines;
            }
        }
    }

    #[test]
    fn unread_console_does_not_block_and_counts_dropped_lines() {
        for (what, [read, write]) in [("a pipe", pipe()), ("a terminal", terminal()), ("a socket", sockets())] {
            let (line, said) = ("x".repeat(150), 20_000);
            let (done, is_done) = std::sync::mpsc::channel();
            let mut console = on(&write);
            let text = line.clone();
            std::thread::spawn(move || {
                // This is more than any of them can hold.
                (0..said).for_each(|_| console.say(&text));
                done.send(console)
            });
            let mut console = is_done.recv_timeout(Duration::from_mins(1)).expect("it does not wait for who reads");
            assert!(console.left_out > 0, "{what}");
            // The reader continues in another thread, because there is no room until it has read something.
            let reader = std::thread::spawn(move || lines_until(read, "last"));
            while console.left_out > 0 {
                console.say("again");
                std::thread::yield_now();
            }
            while !reader.is_finished() {
                console.say("last");
                std::thread::yield_now();
            }
            let lines = reader.join().expect("reads");
            let whole = lines.iter().filter(|&text| *text == line).count();
            let left_out: usize = lines
                .iter()
                .filter_map(|line| line.strip_prefix("[autoappdev: ")?.split(' ').next()?.parse::<usize>().ok())
                .sum();
            let shown = lines.iter().filter(|text| ["again", "last"].contains(&text.as_str())).count();
            assert!(whole > 0 && whole < said && left_out > 0 && shown > 0, "{what}: {whole} whole, {left_out} left out");
            assert!(whole + left_out + 1 >= said, "each is there or counted, and one may have broken off: {what}");
            drop(write);
        }
    }

    #[test]
    fn printed_text_is_one_line_with_control_characters_escaped() {
        let [read, write] = pipe();
        let mut console = on(&write);
        console.say("root \u{1b}]52;c;x\u{7} \u{9b}2J\nautoappdev listens on http://evil/");
        console.say("last");
        let shown = r"root \u{1b}]52;c;x\u{7} \u{9b}2J\nautoappdev listens on http://evil/";
        assert_eq!(lines_until(read, "last"), [shown, "last"]);
    }

    #[test]
    fn console_appends_to_file_and_stops_on_closed_pipe() {
        let mut file = tempfile::tempfile().expect("a file");
        file.write_all(b"before\n").expect("writes");
        let mut console = on(&file.try_clone().expect("the same").into());
        console.say("after");
        let mut text = String::new();
        io::Seek::rewind(&mut file).and_then(|()| file.read_to_string(&mut text)).expect("reads");
        assert_eq!(text, "before\nafter\n");
        let [read, write] = pipe();
        let mut console = on(&write);
        drop((read, write));
        console.say("to nobody");
        assert!(console.to.is_none());
    }
}
