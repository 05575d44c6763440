//! Ends a command whose output has lost its reader: `logs -f | head -1` must not wait for a line that may never come.

use std::io;
use std::thread;

use rustix::event::{PollFd, PollFlags, poll};
use rustix::io::Errno;

/// Ends the process with 0 as soon as its standard output has no reader: while it waits for an answer, and between two answers.
/// Output that was not read by then is lost.
pub(super) fn end_without_a_reader() {
    let watch = || {
        let stdout = io::stdout();
        loop {
            let mut reader = [PollFd::new(&stdout, PollFlags::empty())];
            match poll(&mut reader, None) {
                // `poll(2)` reports errors and hang-ups without a request, and the exit of a pipe's last reader as an error. A
                // file has neither.
                Ok(_) if reader[0].revents().intersects(PollFlags::ERR | PollFlags::HUP) => signal_hook::low_level::exit(0),
                Err(Errno::INTR) => {}
                Ok(_) | Err(_) => return,
            }
        }
    };
    // Without this thread, the next write fails instead.
    let _ = thread::Builder::new().name("reader".to_owned()).spawn(watch);
}
