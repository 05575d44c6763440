//! Connects to Unix sockets within a time limit.
//!
//! Level 0. `connect(2)` waits for as long as the listener's queue is full. Any user can listen at an abstract name or in a
//! shared directory, and never accept. So every connection of this program to a Unix socket is made here.

use std::io;
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType, sockopt};

/// Connects to the socket at `address`. The limit applies only to connecting, not to later reads and writes.
///
/// # Errors
/// [`io::ErrorKind::TimedOut`] if there is a listener that accepts no connection within `limit`. With a limit of zero this never
/// waits.
pub fn connect_within(address: &SocketAddrUnix, limit: Duration) -> io::Result<UnixStream> {
    let deadline = Instant::now() + limit;
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let socket = rustix::net::socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None)?;
    loop {
        match rustix::net::connect(&socket, address) {
            Ok(()) => break,
            // The queue is full, or a signal has interrupted the wait. No connection was made, so it can be tried again.
            Err(Errno::AGAIN | Errno::INTR) => {
                let left = deadline.saturating_duration_since(Instant::now());
                if left.is_zero() {
                    // Without the system's error number, which for other calls means a shortage of processes.
                    return Err(io::Error::new(io::ErrorKind::TimedOut, "the process that listens there accepts no connection"));
                }
                // The send timeout also limits the wait of `connect(2)` (`socket(7)`), during which the kernel wakes this thread
                // as soon as there is room.
                sockopt::set_socket_timeout(&socket, sockopt::Timeout::Send, Some(left))?;
                rustix::io::ioctl_fionbio(&socket, false)?;
            }
            Err(error) => return Err(error.into()),
        }
    }
    sockopt::set_socket_timeout(&socket, sockopt::Timeout::Send, None)?;
    let stream = UnixStream::from(socket);
    stream.set_nonblocking(false)?;
    Ok(stream)
}

#[cfg(test)]
mod tests {
    use std::os::fd::OwnedFd;
    use std::sync::mpsc;
    use std::thread;

    use super::*;

    /// Waits end long before this limit unless a test fails.
    const DEADLINE: Duration = Duration::from_mins(1);

    /// Returns a listener whose queue is full, the connection in it, and the address.
    fn full(name: &str) -> (OwnedFd, UnixStream, SocketAddrUnix) {
        let name = format!("autoappdev-test-{name}-{}", std::process::id());
        let address = SocketAddrUnix::new_abstract_name(name.as_bytes()).expect("short");
        let socket = rustix::net::socket(AddressFamily::UNIX, SocketType::STREAM, None).expect("a socket");
        rustix::net::bind(&socket, &address).expect("binds");
        rustix::net::listen(&socket, 0).expect("listens");
        let first = connect_within(&address, Duration::ZERO).expect("there is room for one");
        (socket, first, address)
    }

    /// Connects in a separate thread, so that an endless wait fails the test.
    fn connected(address: &SocketAddrUnix, limit: Duration) -> mpsc::Receiver<io::Result<UnixStream>> {
        let (done, ends) = mpsc::channel();
        let address = address.clone();
        thread::spawn(move || {
            let _test_has_ended = done.send(connect_within(&address, limit));
        });
        ends
    }

    #[test]
    fn connect_waits_for_a_full_listener_queue_until_its_limit() {
        let (_listener, _first, address) = full("limit");
        for limit in [Duration::ZERO, Duration::from_millis(20)] {
            let began = Instant::now();
            let error = connected(&address, limit).recv_timeout(DEADLINE).expect("it ends").expect_err("nobody accepts");
            assert_eq!((error.kind(), error.raw_os_error()), (io::ErrorKind::TimedOut, None));
            assert!(began.elapsed() >= limit, "it was tried again until then");
        }
    }

    #[test]
    fn connect_succeeds_once_the_listener_queue_has_room() {
        let (listener, _first, address) = full("busy");
        let ends = connected(&address, DEADLINE);
        rustix::net::accept(&listener).expect("the first");
        let stream = ends.recv_timeout(DEADLINE).expect("it ends").expect("there is room");
        assert_eq!(stream.write_timeout().expect("a socket"), None, "the limit was for the connection");
        let flags = rustix::fs::fcntl_getfl(&stream).expect("a socket");
        assert!(!flags.contains(rustix::fs::OFlags::NONBLOCK), "{flags:?}");
    }
}
