//! Signals to the shim, as bytes in pipes.

use std::io::{self, Read};
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use signal_hook::consts::signal;

/// The signals that are not caught: two that cannot be, and those by which a fault of this process must end it.
const LEFT_ALONE: [i32; 6] = [signal::SIGKILL, signal::SIGSTOP, signal::SIGILL, signal::SIGBUS, signal::SIGFPE, signal::SIGSEGV];

/// The streams through which signal handlers wake the loop.
pub(super) struct Signals {
    /// A byte for each SIGCHLD.
    pub(super) children: UnixStream,
    /// A byte for each SIGTERM.
    pub(super) terminate: UnixStream,
}

pub(super) fn signals() -> io::Result<Signals> {
    // A server that was started in the background, or by another program, may have inherited ignored signals. A signal that is
    // caught here has its default action in programs that are executed (`execve(2)`); an ignored one would stay ignored.
    let ours = [signal::SIGCHLD, signal::SIGTERM];
    for number in (1..=31).filter(|number| !LEFT_ALONE.contains(number) && !ours.contains(number)) {
        signal_hook::flag::register(number, Arc::new(AtomicBool::new(false)))?;
    }
    let pipe_for = |number| {
        let (reader, writer) = UnixStream::pair()?;
        reader.set_nonblocking(true)?;
        signal_hook::low_level::pipe::register(number, writer)?;
        Ok::<_, io::Error>(reader)
    };
    Ok(Signals { children: pipe_for(signal::SIGCHLD)?, terminate: pipe_for(signal::SIGTERM)? })
}

/// Empties a signal pipe. Returns whether anything was in it.
pub(super) fn drain(stream: &UnixStream) -> bool {
    let mut buffer = [0; 64];
    let mut any = false;
    while let Ok(count) = Read::read(&mut &*stream, &mut buffer) {
        any |= count > 0;
        if count < buffer.len() {
            break;
        }
    }
    any
}
