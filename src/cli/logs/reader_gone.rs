//! The end of a command that prints whose reader has gone: `logs -f | head -1` must not stay for a line that never comes.

use std::io;
use std::thread;

use rustix::event::{PollFd, PollFlags, poll};
use rustix::io::Errno;

/// Ends the process with 0 as soon as nobody can read its standard output any more, wherever it is: while it waits for an answer as well
/// as between two. What was not read by then is nobody's.
pub(super) fn end_without_a_reader() {
    let watch = || {
        let stdout = io::stdout();
        loop {
            let mut reader = [PollFd::new(&stdout, PollFlags::empty())];
            match poll(&mut reader, None) {
                // Errors and hang-ups are told without being asked for, a pipe's last reader as an error (`poll(2)`). A file has neither.
                Ok(_) if reader[0].revents().intersects(PollFlags::ERR | PollFlags::HUP) => signal_hook::low_level::exit(0),
                Err(Errno::INTR) => {}
                Ok(_) | Err(_) => return,
            }
        }
    };
    // Without the watch the next line tells.
    let _ = thread::Builder::new().name("reader".to_owned()).spawn(watch);
}
