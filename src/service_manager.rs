//! Notifies the service manager that started this server: that it is ready, that it is stopping, and that it is alive.
//!
//! Level 1. If no service manager requests this (`NOTIFY_SOCKET`, `WATCHDOG_USEC`; `sd_notify(3)`), nothing is done and no
//! thread wakes up.

use std::io;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::sync::mpsc::{self, Receiver, RecvTimeoutError, Sender, TryRecvError};
use std::thread;
use std::time::Duration;

use crate::console::printable;

/// The shortest watchdog interval that is respected. A user can set a shorter one by hand, with which the server would only send
/// notifications.
const WATCHDOG_MIN: Duration = Duration::from_millis(100);

/// The longest pause between two checks if the first one was not answered.
const REST_MAX: Duration = Duration::from_millis(500);

/// The longest wait for a service manager that does not receive. A busy one still learns that the server is ready.
const NOTIFY_TIMEOUT: Duration = Duration::from_secs(2);

/// Reports that the server answers requests. Line breaks in `status`, such as from a path, are escaped, because they would begin
/// another assignment.
pub fn notify_ready(status: &str) {
    tell(&format!("READY=1\nSTATUS={}", printable(status)));
}

/// Reports that the server has begun to stop.
pub fn notify_stopping() {
    tell("STOPPING=1");
}

fn tell(what: &str) {
    let Some(path) = std::env::var_os("NOTIFY_SOCKET").filter(|path| !path.is_empty()) else { return };
    let address = match path.as_bytes().strip_prefix(b"@") {
        Some(name) => SocketAddr::from_abstract_name(name),
        None => SocketAddr::from_pathname(&path),
    };
    let told = address.and_then(|address| {
        let socket = UnixDatagram::unbound()?;
        // `send(2)` waits while the receiver's queue is full.
        socket.set_write_timeout(Some(NOTIFY_TIMEOUT))?;
        socket.send_to_addr(what.as_bytes(), &address)
    });
    // The service manager notices the same by itself: a process has ended, or a watchdog was not notified.
    if let Err(error) = told {
        ::log::warn!("cannot notify the service manager: {error}");
    }
}

/// Notifies the service manager's watchdog for as long as this value lives.
#[derive(Debug)]
pub struct Watchdog {
    /// The thread ends once this is dropped.
    _end: Sender<()>,
}

impl Watchdog {
    /// Starts the notifications, if there is a watchdog. Before each one, `answers` must report whether the server answers; its
    /// argument is the time that it may take.
    ///
    /// One slow moment must not end the server. So a late answer is followed by another check at once, and the watchdog of a
    /// server that answers again is notified in time.
    pub fn start(answers: impl Fn(Duration) -> bool + Send + 'static) -> io::Result<Option<Self>> {
        // Zero means that there is no watchdog (`sd_watchdog_enabled(3)`).
        let Some(limit) = sd_notify::watchdog_enabled().filter(|limit| !limit.is_zero()) else { return Ok(None) };
        let limit = limit.max(WATCHDOG_MIN);
        let (end, ended) = mpsc::channel();
        let feed = move || feed_while(limit, answers, || tell("WATCHDOG=1"), &ended);
        // The thread is not joined at the end: it may be in the middle of a check, and nothing depends on it.
        thread::Builder::new().name("watchdog".to_owned()).spawn(feed)?;
        Ok(Some(Self { _end: end }))
    }
}

/// Checks and notifies until the other end of `ended` is dropped.
fn feed_while(limit: Duration, answers: impl Fn(Duration) -> bool, feed: impl Fn(), ended: &Receiver<()>) {
    let mut was_fed = true;
    loop {
        // `sd_watchdog_enabled(3)` recommends half of the interval; the check gets half of that.
        let is_fed = answers(limit / 4);
        // A server that is stopping answers less and less.
        if ended.try_recv() == Err(TryRecvError::Disconnected) {
            break;
        }
        if is_fed {
            feed();
        } else if was_fed {
            ::log::error!(
                "a listener or the supervisor does not answer the server's own check; the watchdog is not notified until it does, and the service manager restarts this server if that takes too long"
            );
        }
        was_fed = is_fed;
        // A check that is refused at once must not be repeated in a busy loop.
        let rest = if is_fed { limit / 2 } else { (limit / 40).min(REST_MAX) };
        if ended.recv_timeout(rest) != Err(RecvTimeoutError::Timeout) {
            break;
        }
    }
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use super::*;

    #[test]
    fn watchdog_rechecks_at_once_after_a_late_response() {
        // Half of this is longer than this test waits.
        let limit = Duration::from_hours(1);
        let (done, is_done) = mpsc::channel();
        thread::spawn(move || {
            let (end, ended) = mpsc::channel();
            let (questions, end) = (Cell::new(0), Cell::new(Some(end)));
            let feedings = Cell::new(0);
            let answers = |_| {
                questions.set(questions.get() + 1);
                questions.get() == 3
            };
            let feed = || {
                feedings.set(feedings.get() + 1);
                drop(end.take());
            };
            feed_while(limit, answers, feed, &ended);
            done.send((questions.get(), feedings.get())).expect("it is waited for");
        });
        assert_eq!(is_done.recv_timeout(Duration::from_mins(1)), Ok((3, 1)), "it rests as if it had been fed");
    }
}
