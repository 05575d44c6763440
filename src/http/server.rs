//! Who is connected: accepting, the cap on connections, and a stop that ends under load.
//!
//! A thread for each connection reads, calls the handler and answers; nobody hands a request from thread to thread. The rest of the
//! program sees [`Handler`] and rouille's types only.

use std::collections::BTreeMap;
use std::io::{self, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::os::unix::net::UnixStream;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use rouille::{Request, Response};
use rustix::event::{PollFd, PollFlags};
use rustix::io::ioctl_fionread;
use rustix::process::{Resource, getrlimit};

use super::connection;
use super::head::Broken;

/// The most connections at once. When all are taken, the one that has waited longest for its next request gives way.
const CONNECTIONS_MAX: usize = 512;

/// And the fewest, where descriptors are scarce.
const CONNECTIONS_MIN: usize = 16;

/// So many descriptors are left to the rest of the server, which cannot read a log or ask the database without one.
const OWN_DESCRIPTORS: u64 = 64;

/// Of so many connections one more is let in while all are busy, with long polls for instance, or those that gave way are still leaving.
/// Beyond that a newcomer is turned away.
const ONE_MORE_IN: usize = 8;

/// What all requests together may hold of bodies, in bytes. When it is taken, the one whose body has been waited for longest gives way.
const BODIES_BYTES_MAX: usize = 4 * 1024 * 1024;

/// How many may be at the door while the accepting thread does not run. Beyond that the kernel lets a newcomer try again after a second.
const BACKLOG: i32 = 1024;

/// How long a stop waits for requests that are being answered.
const STOP_LIMIT: Duration = Duration::from_millis(700);

/// How long accepting rests after it failed for want of descriptors or memory, unless a connection ends before that.
const ACCEPT_REST: Duration = Duration::from_millis(20);

/// How long a newcomer waits at most for those that gave way to leave.
const LEAVE_LIMIT: Duration = Duration::from_millis(250);
const LEAVE_LOOK: Duration = Duration::from_millis(2);
/// How long a body waits at most for the memory that it needs.
const BODY_ROOM_LIMIT: Duration = Duration::from_secs(2);

/// How often failing to accept is written to the log: it comes a thousand times a second while a crowd is at the door.
const WARN_EVERY: Duration = Duration::from_secs(1);

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
    open: Mutex<BTreeMap<u64, Slot>>,
    closed: Condvar,
    /// Held by the one that is given memory for a body.
    bodies: Mutex<()>,
}

/// An open connection as others see it.
struct Slot {
    stream: Arc<TcpStream>,
    state: Arc<SlotState>,
}

/// Since when a connection waits for its next request, in milliseconds since the server began; [`BUSY`] while one is answered,
/// [`LEAVING`] once it has given way.
struct SlotState {
    began: Instant,
    waits_since_ms: AtomicU64,
    /// How long the body is that is read or answered, in bytes.
    body_bytes: AtomicUsize,
}

const BUSY: u64 = u64::MAX;
const LEAVING: u64 = u64::MAX - 1;

impl Server {
    /// Begins to accept on `listener`.
    pub fn start(listener: TcpListener, handler: Box<dyn Handler>) -> io::Result<Self> {
        let address = listener.local_addr()?;
        listener.set_nonblocking(true)?;
        // Once more, for a longer queue than the library's 128.
        rustix::net::listen(&listener, BACKLOG)?;
        let (wake, woken) = UnixStream::pair()?;
        let shared = Arc::new(Shared {
            handler,
            is_stopping: AtomicBool::new(false),
            open: Mutex::new(BTreeMap::new()),
            closed: Condvar::new(),
            bodies: Mutex::new(()),
        });
        let accepting = shared.clone();
        let thread = thread::Builder::new().name("accept".to_owned()).spawn(move || accept(&accepting, &listener, &woken))?;
        Ok(Self { address, shared, wake, thread })
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Nothing is accepted any more, and every answer from here on says that it is its connection's last.
    pub fn begin_stop(&self) {
        self.shared.is_stopping.store(true, Ordering::SeqCst);
        // The other end is only looked at.
        let _closed_already = self.wake.shutdown(Shutdown::Both);
    }

    /// Stops: as [`Server::begin_stop`], then who waits is let go, and what is being answered gets a moment to end.
    pub fn stop(self) {
        self.begin_stop();
        // It has nothing to do but to notice.
        let _ended = self.thread.join();
        let deadline = Instant::now() + STOP_LIMIT;
        let mut open = self.shared.lock();
        for slot in open.values() {
            slot.give_way(slot.state.waits_since_ms.load(Ordering::SeqCst));
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
        self.state.body_bytes.store(0, Ordering::SeqCst);
        self.state.waits_since_ms.store(self.state.now_ms(), Ordering::SeqCst);
    }

    /// The request that is being read has a body of so many bytes. False where there is no room for that: all that is held belongs to
    /// requests that are being answered.
    pub(super) fn takes(&self, body_bytes: usize) -> bool {
        let (state, deadline) = (&self.state, Instant::now() + BODY_ROOM_LIMIT);
        let since = state.waits_since_ms.load(Ordering::SeqCst);
        // It is the newest of those that are waited for, unless it has given way already.
        let now_ms = state.now_ms();
        let _given_way =
            state.waits_since_ms.compare_exchange(since.min(LEAVING - 1), now_ms, Ordering::SeqCst, Ordering::SeqCst);
        // One at a time: those that wait for memory must not keep the accepting thread from its lock.
        let _turn = self.shared.bodies.lock().unwrap_or_else(PoisonError::into_inner);
        loop {
            let open = self.shared.lock();
            let held: usize = open.values().map(|slot| slot.state.body_bytes.load(Ordering::SeqCst)).sum();
            if held - state.body_bytes.load(Ordering::SeqCst) + body_bytes <= BODIES_BYTES_MAX {
                state.body_bytes.store(body_bytes, Ordering::SeqCst);
                return true;
            }
            if Instant::now() >= deadline || state.waits_since_ms.load(Ordering::SeqCst) == LEAVING {
                return false;
            }
            let others =
                open.iter().filter(|(number, slot)| **number != self.number && slot.state.body_bytes.load(Ordering::SeqCst) > 0);
            let others = others.map(|(_, slot)| slot);
            if let Some((since, slot)) = waits_longest(others) {
                slot.give_way(since);
            }
            let _looked_at_again = self.shared.closed.wait_timeout(open, LEAVE_LOOK);
        }
    }

    /// A request has been read and is to be answered. False where the connection has given way meanwhile: then its request must not be
    /// done, since nobody would hear of it.
    pub(super) fn works(&self) -> bool {
        self.state.waits_since_ms.swap(BUSY, Ordering::SeqCst) != LEAVING
    }
}

impl SlotState {
    fn now_ms(&self) -> u64 {
        u64::try_from(self.began.elapsed().as_millis()).unwrap_or(LEAVING - 1)
    }
}

impl Slot {
    /// Closes the connection, if it still waits since then. Its thread wakes up from reading and takes its leave.
    fn give_way(&self, since: u64) {
        let waits = &self.state.waits_since_ms;
        if since < LEAVING && waits.compare_exchange(since, LEAVING, Ordering::SeqCst, Ordering::SeqCst).is_ok() {
            // One that has closed meanwhile is what is wanted.
            let _closed = self.stream.shutdown(Shutdown::Both);
        }
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
    let mut warned = None;
    // Which way it failed, and room for another try.
    let mut fail = |what: String| {
        if warned.is_none_or(|at: Instant| at.elapsed() >= WARN_EVERY) {
            warned = Some(Instant::now());
            ::log::warn!("{what}; the connection that has waited longest is closed");
        }
        let before = make_room(shared, 0);
        let _it_is_tried_again = shared.closed.wait_timeout_while(shared.lock(), ACCEPT_REST, |open| open.len() >= before);
    };
    while !shared.is_stopping() {
        let mut fds = [PollFd::new(listener, PollFlags::IN), PollFd::new(woken, PollFlags::IN)];
        if rustix::event::poll(&mut fds, None).is_err() {
            continue;
        }
        loop {
            match listener.accept() {
                Ok((stream, from)) => {
                    number += 1;
                    if let Err(error) = seat(shared, number, stream, from, began) {
                        fail(format!("a connection could not be served: {error}"));
                    }
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                // The client has gone before we could greet it.
                Err(error) if matches!(error.kind(), io::ErrorKind::ConnectionAborted | io::ErrorKind::Interrupted) => {}
                Err(error) => {
                    fail(format!("failed to accept a connection: {error}"));
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
    let connections_max = connections_max();
    if !await_room(shared, connections_max) {
        // All are being answered. Best effort: who does not take it sees the end of the connection.
        let _gone = (&stream).write_all(b"HTTP/1.1 503 Service Unavailable\r\nContent-Type: application/json\r\nContent-Length: 70\r\nConnection: close\r\n\r\n{\"ok\":false,\"error\":\"busy\",\"detail\":\"too many connections; try again\"}");
        return Ok(());
    }
    let stream = Arc::new(stream);
    let state = Arc::new(SlotState { began, waits_since_ms: AtomicU64::new(0), body_bytes: AtomicUsize::new(0) });
    let seat = Seat { number, shared: shared.clone(), state: state.clone() };
    seat.waits();
    shared.lock().insert(number, Slot { stream: stream.clone(), state });
    // Where the thread cannot be started the closure is dropped, and with it the seat.
    thread::Builder::new()
        .name(format!("http-{number}"))
        .stack_size(STACK_BYTES)
        .spawn(move || {
            connection::serve(&stream, from, &seat);
            // The descriptor is free before the seat is: who waits for that one needs the other.
            drop(stream);
            drop(seat);
        })
        .map(drop)
}

/// Makes room for a newcomer. Those that gave way, and those whose request has come but not been read, are there until their threads have
/// run. False where all are being answered.
fn await_room(shared: &Shared, connections_max: usize) -> bool {
    let deadline = Instant::now() + LEAVE_LIMIT;
    loop {
        let full = connections_max + connections_max / ONE_MORE_IN;
        if make_room(shared, connections_max) < full {
            return true;
        }
        let open = shared.lock();
        let moves = open.values().any(|slot| slot.state.waits_since_ms.load(Ordering::SeqCst) != BUSY);
        if !moves || Instant::now() >= deadline {
            return open.len() < full;
        }
        let _looked_at_again = shared.closed.wait_timeout(open, LEAVE_LOOK);
    }
}

/// How many connections there may be. The limit of descriptors may change while the server runs (`prlimit(1)`).
fn connections_max() -> usize {
    let descriptors = getrlimit(Resource::Nofile).current.unwrap_or(u64::MAX).saturating_sub(OWN_DESCRIPTORS);
    let descriptors = usize::try_from(descriptors).unwrap_or(usize::MAX);
    (descriptors - descriptors / (ONE_MORE_IN + 1)).clamp(CONNECTIONS_MIN, CONNECTIONS_MAX)
}

/// Closes the connection that has waited longest, when `limit` or more are open. How many those are.
fn make_room(shared: &Shared, limit: usize) -> usize {
    let open = shared.lock();
    if open.len() >= limit {
        if let Some((since, slot)) = waits_longest(open.values()) {
            slot.give_way(since);
        }
    }
    open.len()
}

/// The connection whose client has kept us waiting for longest, and since when. Where something lies there unread it is not the client's
/// fault: its thread has not run yet.
fn waits_longest<'a>(slots: impl Iterator<Item = &'a Slot>) -> Option<(u64, &'a Slot)> {
    let waiting = slots.map(|slot| (slot.state.waits_since_ms.load(Ordering::SeqCst), slot));
    let mut waiting: Vec<_> = waiting.filter(|(since, _)| *since < LEAVING).collect();
    waiting.sort_unstable_by_key(|(since, _)| *since);
    waiting.into_iter().find(|(_, slot)| ioctl_fionread(&slot.stream).is_ok_and(|bytes| bytes == 0))
}
