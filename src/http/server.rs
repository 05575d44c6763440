//! Who is connected: accepting, the cap on connections, and a stop that ends under load.
//!
//! A thread for each connection reads, calls the handler and answers; nobody hands a request from thread to thread. The rest of the
//! program sees [`Handler`] and rouille's types only.

use std::collections::BTreeMap;
use std::io::{self, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::os::unix::net::UnixStream;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use rouille::{Request, Response};
use rustix::event::{PollFd, PollFlags, Timespec};

use super::connection;
use super::head::Broken;

/// The most connections at once. When all are taken, the one that has waited longest for its next request gives way.
const CONNECTIONS_MAX: usize = 512;

/// Above this many a newcomer is turned away: all are busy, with long polls for instance, and those that gave way are still leaving.
const CONNECTIONS_CEILING: usize = CONNECTIONS_MAX + 64;

/// How long a connection may wait for its next request. From the first byte of one on it has the limits of a head and of a body, which
/// are over before this is.
const IDLE_LIMIT: Duration = Duration::from_mins(1);
const _: () = assert!(IDLE_LIMIT.as_secs() > connection::HEAD_LIMIT.as_secs() + connection::BODY_LIMIT.as_secs());

/// How long a stop waits for requests that are being answered.
const STOP_LIMIT: Duration = Duration::from_millis(700);

/// How long accepting rests after it failed for want of descriptors or memory.
const ACCEPT_REST: Duration = Duration::from_millis(20);

/// The stack of a connection's thread, in bytes: what the deepest JSON and a page of log lines need, many times over.
const STACK_BYTES: usize = 512 * 1024;

/// What answers requests. The one seam between the sockets and the rest.
pub trait Handler: Send + Sync + 'static {
    /// Answers a request. May wait, may panic.
    fn handle(&self, request: &Request) -> Response;
    /// Answers what is no request that [`Handler::handle`] may see. `request` is its head where that could be read.
    fn refuse(&self, broken: &Broken, request: Option<&Request>) -> Response;
}

/// A server on a listening socket.
pub struct Server {
    address: SocketAddr,
    shared: Arc<Shared>,
    wake: UnixStream,
    thread: JoinHandle<()>,
}

/// What the accepting thread and the connections' threads share.
pub(super) struct Shared {
    pub(super) handler: Box<dyn Handler>,
    is_stopping: AtomicBool,
    idle_limit: Duration,
    open: Mutex<BTreeMap<u64, Slot>>,
    closed: Condvar,
}

/// An open connection as others see it.
struct Slot {
    stream: Arc<TcpStream>,
    state: Arc<SlotState>,
}

/// Since when a connection waits for its next request, in milliseconds since the server began; [`BUSY`] while one is answered.
struct SlotState {
    began: Instant,
    waits_since_ms: AtomicU64,
}

const BUSY: u64 = u64::MAX;

impl Server {
    /// Begins to accept on `listener`.
    pub fn start(listener: TcpListener, handler: Box<dyn Handler>) -> io::Result<Self> {
        Self::start_with(listener, handler, IDLE_LIMIT)
    }

    fn start_with(listener: TcpListener, handler: Box<dyn Handler>, idle_limit: Duration) -> io::Result<Self> {
        let address = listener.local_addr()?;
        listener.set_nonblocking(true)?;
        let (wake, woken) = UnixStream::pair()?;
        let shared = Arc::new(Shared {
            handler,
            is_stopping: AtomicBool::new(false),
            idle_limit,
            open: Mutex::new(BTreeMap::new()),
            closed: Condvar::new(),
        });
        let accepting = shared.clone();
        let thread = thread::Builder::new().name("accept".to_owned()).spawn(move || accept(&accepting, &listener, &woken))?;
        Ok(Self { address, shared, wake, thread })
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Stops: nothing is accepted any more, who waits is let go, and what is being answered gets a moment to end.
    pub fn stop(self) {
        self.shared.is_stopping.store(true, Ordering::SeqCst);
        drop(self.wake);
        // It has nothing to do but to notice.
        let _ended = self.thread.join();
        let deadline = Instant::now() + STOP_LIMIT;
        let mut open = self.shared.lock();
        for slot in open.values().filter(|slot| slot.state.waits_since_ms.load(Ordering::SeqCst) != BUSY) {
            // One that has closed meanwhile is what is wanted.
            let _closed = slot.stream.shutdown(Shutdown::Both);
        }
        while !open.is_empty() {
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                break;
            }
            open = self.shared.closed.wait_timeout(open, left).unwrap_or_else(PoisonError::into_inner).0;
        }
    }
}

impl Shared {
    /// Whether no further request is taken.
    pub(super) fn is_stopping(&self) -> bool {
        self.is_stopping.load(Ordering::SeqCst)
    }

    /// Nothing under this lock can panic half-way through a change.
    fn lock(&self) -> MutexGuard<'_, BTreeMap<u64, Slot>> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A connection's own view of its slot: says whether it waits or works.
pub(super) struct Seat {
    number: u64,
    shared: Arc<Shared>,
    state: Arc<SlotState>,
}

impl Seat {
    /// The server.
    pub(super) fn shared(&self) -> &Shared {
        &self.shared
    }

    /// The next request is waited for.
    pub(super) fn waits(&self) {
        let since = u64::try_from(self.state.began.elapsed().as_millis()).unwrap_or(BUSY - 1);
        self.state.waits_since_ms.store(since, Ordering::SeqCst);
    }

    /// A request has been read and is being answered.
    pub(super) fn works(&self) {
        self.state.waits_since_ms.store(BUSY, Ordering::SeqCst);
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        self.shared.lock().remove(&self.number);
        self.shared.closed.notify_all();
    }
}

fn accept(shared: &Arc<Shared>, listener: &TcpListener, woken: &UnixStream) {
    let began = Instant::now();
    let mut number = 0;
    while !shared.is_stopping() {
        let mut fds = [PollFd::new(listener, PollFlags::IN), PollFd::new(woken, PollFlags::IN)];
        let limit = close_idle(shared, began).and_then(|wait| Timespec::try_from(wait).ok());
        if rustix::event::poll(&mut fds, limit.as_ref()).is_err() {
            continue;
        }
        loop {
            match listener.accept() {
                Ok((stream, from)) => {
                    number += 1;
                    if let Err(error) = seat(shared, number, stream, from, began) {
                        ::log::warn!("a connection could not be served: {error}");
                        make_room(shared, 0);
                        thread::sleep(ACCEPT_REST);
                    }
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                // The client has gone before we could greet it.
                Err(error) if matches!(error.kind(), io::ErrorKind::ConnectionAborted | io::ErrorKind::Interrupted) => {}
                Err(error) => {
                    ::log::warn!("failed to accept a connection: {error}; the one that has waited longest is closed");
                    make_room(shared, 0);
                    thread::sleep(ACCEPT_REST);
                    break;
                }
            }
            if shared.is_stopping() {
                return;
            }
        }
    }
}

fn seat(shared: &Arc<Shared>, number: u64, stream: TcpStream, from: SocketAddr, began: Instant) -> io::Result<()> {
    stream.set_nonblocking(false)?;
    // An answer is one write; waiting for more to send would only delay it.
    stream.set_nodelay(true)?;
    make_room(shared, CONNECTIONS_MAX);
    if shared.lock().len() >= CONNECTIONS_CEILING {
        // All are being answered. Best effort: who does not take it sees the end of the connection.
        let _gone = (&stream).write_all(b"HTTP/1.1 503 Service Unavailable\r\nContent-Type: application/json\r\nContent-Length: 70\r\nConnection: close\r\n\r\n{\"ok\":false,\"error\":\"busy\",\"detail\":\"too many connections; try again\"}");
        return Ok(());
    }
    let stream = Arc::new(stream);
    let state = Arc::new(SlotState { began, waits_since_ms: AtomicU64::new(0) });
    let seat = Seat { number, shared: shared.clone(), state: state.clone() };
    seat.waits();
    shared.lock().insert(number, Slot { stream: stream.clone(), state });
    // Where the thread cannot be started the closure is dropped, and with it the seat.
    thread::Builder::new()
        .name(format!("http-{number}"))
        .stack_size(STACK_BYTES)
        .spawn(move || connection::serve(&stream, from, &seat))
        .map(drop)
}

/// Closes the connections that have waited for too long. After what time to look again; none where nobody is connected: the server sleeps.
fn close_idle(shared: &Shared, began: Instant) -> Option<Duration> {
    let limit = shared.idle_limit;
    let open = shared.lock();
    let now = began.elapsed();
    // Who is busy now can begin to wait right after this look, and is due a limit after that.
    let mut next = (!open.is_empty()).then_some(limit)?;
    for slot in open.values() {
        let since = slot.state.waits_since_ms.load(Ordering::SeqCst);
        if since == BUSY {
            continue;
        }
        let waited = now.saturating_sub(Duration::from_millis(since));
        if waited >= limit {
            give_way(slot);
        } else {
            next = next.min(limit.saturating_sub(waited));
        }
    }
    // Stamps are whole milliseconds: not a moment before.
    Some(next + Duration::from_millis(1))
}

/// Closes the connection that has waited longest, when `limit` or more are open.
fn make_room(shared: &Shared, limit: usize) {
    let open = shared.lock();
    if open.len() < limit {
        return;
    }
    let longest = open
        .values()
        .map(|slot| (slot.state.waits_since_ms.load(Ordering::SeqCst), slot))
        .filter(|(since, _)| *since != BUSY)
        .min_by_key(|(since, _)| *since);
    if let Some((_, slot)) = longest {
        give_way(slot);
    }
}

/// Its thread wakes up from reading and takes its leave; from here on it does not count as waiting.
fn give_way(slot: &Slot) {
    slot.state.waits_since_ms.store(BUSY, Ordering::SeqCst);
    let _already_closed = slot.stream.shutdown(Shutdown::Both);
}

#[cfg(test)]
mod tests {
    use std::io::Read;

    use super::*;

    /// Nothing waits that long unless it fails.
    const DEADLINE: Duration = Duration::from_mins(1);

    struct Hello;

    impl Handler for Hello {
        fn handle(&self, _: &Request) -> Response {
            Response::text("hello")
        }

        fn refuse(&self, broken: &Broken, _: Option<&Request>) -> Response {
            Response::text(broken.to_string())
        }
    }

    fn client(server: &Server) -> TcpStream {
        let stream = TcpStream::connect(server.address()).expect("it listens");
        stream.set_read_timeout(Some(DEADLINE)).expect("a limit");
        stream
    }

    /// Whether it was answered before it was closed.
    fn is_answered(mut stream: &TcpStream) -> bool {
        // Who is closed already may hear it here or while reading.
        let _closed_already = stream.write_all(b"GET / HTTP/1.1\r\nHost: h\r\n\r\n");
        let mut answer = Vec::new();
        while !answer.ends_with(b"hello") {
            let mut piece = [0; 512];
            match stream.read(&mut piece) {
                Ok(count) if count > 0 => answer.extend_from_slice(&piece[..count]),
                Ok(_) | Err(_) => return false,
            }
        }
        true
    }

    #[test]
    fn who_is_silent_for_too_long_is_let_go_and_the_others_stay() {
        let listen = || TcpListener::bind("127.0.0.1:0").expect("a port");
        let strict = Server::start_with(listen(), Box::new(Hello), Duration::from_millis(200)).expect("serves");
        let patient = Server::start(listen(), Box::new(Hello)).expect("serves");
        let (never_spoke, stays) = (client(&strict), client(&patient));
        // On a machine that is slow enough it is over before the first word.
        let began = Instant::now();
        let has_spoken = loop {
            let stream = client(&strict);
            if is_answered(&stream) {
                break stream;
            }
            assert!(began.elapsed() < DEADLINE, "nobody is answered");
        };
        for mut silent in [never_spoke, has_spoken] {
            assert_eq!(silent.read(&mut [0; 8]).expect("it ends within the deadline, and not by an error"), 0);
        }
        assert!(is_answered(&stays));
        strict.stop();
        patient.stop();
    }

    #[test]
    fn the_next_look_at_the_silent_is_due_with_the_first_of_them_and_never_while_nobody_is_connected() {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let server = Server::start(listener, Box::new(Hello)).expect("serves");
        let long_ago = Instant::now().checked_sub(Duration::from_secs(50)).expect("this machine runs for longer");
        assert_eq!(close_idle(&server.shared, long_ago), None);
        let stream = client(&server);
        // Answered, and known to wait again: from here on nobody but this test changes since when.
        let asked = || {
            assert!(is_answered(&stream));
            let began = Instant::now();
            while server.shared.lock().values().any(|slot| slot.state.waits_since_ms.load(Ordering::SeqCst) == BUSY) {
                assert!(began.elapsed() < DEADLINE, "it never waits again");
                thread::yield_now();
            }
        };
        asked();
        let slot = |waits_since_ms: u64| {
            for slot in server.shared.lock().values() {
                slot.state.waits_since_ms.store(waits_since_ms, Ordering::SeqCst);
            }
        };
        slot(BUSY);
        assert_eq!(close_idle(&server.shared, long_ago), Some(IDLE_LIMIT + Duration::from_millis(1)));
        // Silent since 30 s of 60 s.
        slot(20_000);
        let next = close_idle(&server.shared, long_ago).expect("somebody is connected");
        assert!(next <= Duration::from_millis(30_001) && !next.is_zero(), "{next:?}");
        asked();
        // With its first byte a request is no silence any more.
        slot(1);
        (&stream).write_all(b"GET / HTTP/1.1\r\n").expect("it is open");
        let sent = Instant::now();
        while server.shared.lock().values().any(|slot| slot.state.waits_since_ms.load(Ordering::SeqCst) == 1) {
            assert!(sent.elapsed() < DEADLINE, "a slow request counts as silence from its beginning on");
            thread::yield_now();
        }
        let longer_ago = Instant::now().checked_sub(Duration::from_secs(70)).expect("this machine runs for longer");
        slot(0);
        assert_eq!(close_idle(&server.shared, longer_ago), Some(IDLE_LIMIT + Duration::from_millis(1)));
        assert_eq!((&stream).read(&mut [0; 8]).expect("it ends, and not by an error"), 0);
        server.stop();
    }
}
