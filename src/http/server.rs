//! Who is connected: accepting, the cap on connections, and a stop that ends under load.
//!
//! A thread for each connection reads, calls the handler and answers; nobody hands a request from thread to thread. The rest of the
//! program sees [`Handler`] and rouille's types only.

use std::collections::BTreeMap;
use std::fmt;
use std::io::{self, Read, Write};
use std::net::{IpAddr, Shutdown, SocketAddr};
use std::os::unix::net::UnixStream;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use rouille::{Request, Response};
use rustix::event::{PollFd, PollFlags};

use super::connection;
use super::head::Broken;
use super::listener::{Listener, Stream, WayIn};

/// The most connections at once. When all are taken, the one that has waited longest for its client gives way.
const CONNECTIONS_MAX: usize = 512;

/// How many may be there besides that gave way and are still leaving. Above it a newcomer is kept waiting for one of them.
const LEAVING_MAX: usize = 64;

/// How long it is kept waiting at most.
const LEAVING_LIMIT: Duration = Duration::from_millis(200);

/// The most connections from one address of another machine. From there as from everywhere, the one that has waited longest gives way.
const FROM_ONE_ADDRESS_MAX: usize = 64;

/// How many are accepted at one listener before the others get their turn.
const ACCEPTED_IN_A_TURN: usize = 64;

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

/// A listener, and who answers what comes in there: so the handler knows by which way a request came.
pub struct Entrance {
    /// Where clients connect.
    pub listener: Listener,
    /// Answers them.
    pub handler: Arc<dyn Handler>,
}

/// A server on its listening sockets.
pub struct Server {
    addresses: Vec<SocketAddr>,
    probe: Probe,
    shared: Arc<Shared>,
    wake: UnixStream,
    thread: JoinHandle<()>,
}

/// What the accepting thread and the connections' threads share.
struct Shared {
    is_stopping: AtomicBool,
    open: Mutex<BTreeMap<u64, Slot>>,
    closed: Condvar,
}

/// An open connection as others see it.
struct Slot {
    stream: Arc<Stream>,
    /// The address, where it is another machine's.
    from: Option<IpAddr>,
    activity: Arc<Activity>,
}

/// What a connection does, and since when, in milliseconds since the server began: one number, so that both are seen together.
struct Activity {
    began: Instant,
    packed: AtomicU64,
}

/// What a connection does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Doing {
    /// It waits for its client to ask.
    Waits,
    /// Its request is being answered.
    Works,
    /// It waits for its client to take an answer.
    Writes,
    /// It was closed, and its thread has not noticed yet.
    Leaves,
}

impl Activity {
    fn set(&self, doing: Doing) {
        if self.get().0 == Doing::Leaves {
            return;
        }
        let since_ms = u64::try_from(self.began.elapsed().as_millis()).unwrap_or(u64::MAX >> 2);
        self.packed.store(since_ms << 2 | doing as u64, Ordering::SeqCst);
    }

    fn get(&self) -> (Doing, u64) {
        let packed = self.packed.load(Ordering::SeqCst);
        let doing = match packed & 3 {
            0 => Doing::Waits,
            1 => Doing::Works,
            2 => Doing::Writes,
            _ => Doing::Leaves,
        };
        (doing, packed >> 2)
    }
}

impl Server {
    /// Begins to accept.
    pub fn start(entrances: Vec<Entrance>) -> io::Result<Self> {
        let addresses = entrances.iter().filter_map(|entrance| entrance.listener.address()).collect();
        let probe = Probe { ways_in: entrances.iter().map(|entrance| entrance.listener.way_in()).collect::<io::Result<_>>()? };
        let (wake, woken) = UnixStream::pair()?;
        let shared =
            Arc::new(Shared { is_stopping: AtomicBool::new(false), open: Mutex::new(BTreeMap::new()), closed: Condvar::new() });
        let accepting = shared.clone();
        let thread = thread::Builder::new().name("accept".to_owned()).spawn(move || accept(&accepting, &entrances, &woken))?;
        Ok(Self { addresses, probe, shared, wake, thread })
    }

    /// Where it listens, as far as that has an address.
    pub fn addresses(&self) -> &[SocketAddr] {
        &self.addresses
    }

    /// What asks this server from within.
    pub fn probe(&self) -> Probe {
        self.probe.clone()
    }

    /// Stops: nothing is accepted any more, who waits is let go, and what is being answered gets a moment to end.
    pub fn stop(self) {
        self.shared.is_stopping.store(true, Ordering::SeqCst);
        drop(self.wake);
        // It has nothing to do but to notice.
        let _ended = self.thread.join();
        let deadline = Instant::now() + STOP_LIMIT;
        let mut open = self.shared.lock();
        for slot in open.values().filter(|slot| slot.activity.get().0 == Doing::Waits) {
            // What has arrived can still be read, and is answered. One that has closed meanwhile is what is wanted.
            let _closed = slot.stream.shutdown(Shutdown::Read);
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

/// Asks a server whether it answers, by the way that its clients take.
#[derive(Clone, Debug)]
pub struct Probe {
    ways_in: Vec<WayIn>,
}

impl Probe {
    /// Whether each listener leads to an answer, whatever it is, within `limit` each time something is waited for.
    pub fn is_answered(&self, limit: Duration) -> bool {
        self.ways_in.iter().all(|way_in| Self::ask(way_in, limit).unwrap_or(false))
    }

    fn ask(way_in: &WayIn, limit: Duration) -> io::Result<bool> {
        let stream = way_in.connect(limit)?;
        stream.set_read_timeout(limit)?;
        stream.set_write_timeout(limit)?;
        let mut stream = &stream;
        stream.write_all(b"GET /api/pipeline HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")?;
        let mut answer = [0; 9];
        stream.read_exact(&mut answer)?;
        Ok(&answer == b"HTTP/1.1 ")
    }
}

impl fmt::Debug for Server {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("Server").field("addresses", &self.addresses).finish_non_exhaustive()
    }
}

impl Shared {
    fn is_stopping(&self) -> bool {
        self.is_stopping.load(Ordering::SeqCst)
    }

    /// Nothing under this lock can panic half-way through a change.
    fn lock(&self) -> MutexGuard<'_, BTreeMap<u64, Slot>> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A connection's own view of its slot: says what it does. The slot is free once this is dropped.
pub(super) struct Seat {
    number: u64,
    shared: Arc<Shared>,
    handler: Arc<dyn Handler>,
    activity: Arc<Activity>,
}

impl Seat {
    /// Who answers.
    pub(super) fn handler(&self) -> &dyn Handler {
        &*self.handler
    }

    /// Whether no further request is taken.
    pub(super) fn is_stopping(&self) -> bool {
        self.shared.is_stopping()
    }

    /// The client is to ask.
    pub(super) fn waits(&self) {
        self.activity.set(Doing::Waits);
    }

    /// A request has been read and is being answered.
    pub(super) fn works(&self) {
        self.activity.set(Doing::Works);
    }

    /// The client is to take an answer, or its next piece.
    pub(super) fn writes(&self) {
        self.activity.set(Doing::Writes);
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        self.shared.lock().remove(&self.number);
        self.shared.closed.notify_all();
    }
}

fn accept(shared: &Arc<Shared>, entrances: &[Entrance], woken: &UnixStream) {
    let began = Instant::now();
    let mut number = 0;
    let mut fds: Vec<PollFd<'_>> = entrances.iter().map(|entrance| PollFd::new(&entrance.listener, PollFlags::IN)).collect();
    fds.push(PollFd::new(woken, PollFlags::IN));
    while !shared.is_stopping() {
        if rustix::event::poll(&mut fds, None).is_err() {
            continue;
        }
        let ready = entrances.iter().zip(&fds).filter(|(_, fd)| !fd.revents().is_empty());
        for (entrance, _) in ready {
            for _ in 0..ACCEPTED_IN_A_TURN {
                if shared.is_stopping() {
                    return;
                }
                match entrance.listener.accept() {
                    Ok((stream, from)) => {
                        number += 1;
                        if let Err(error) = seat(shared, &entrance.handler, number, stream, from, began) {
                            ::log::warn!("a connection could not be served: {error}");
                            make_room(&shared.lock(), |_| true, 0);
                            thread::sleep(ACCEPT_REST);
                        }
                    }
                    Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                    // The client has gone before we could greet it.
                    Err(error) if matches!(error.kind(), io::ErrorKind::ConnectionAborted | io::ErrorKind::Interrupted) => {}
                    Err(error) => {
                        ::log::warn!("failed to accept a connection: {error}; the one that has waited longest is closed");
                        make_room(&shared.lock(), |_| true, 0);
                        thread::sleep(ACCEPT_REST);
                        break;
                    }
                }
            }
        }
    }
}

fn seat(
    shared: &Arc<Shared>,
    handler: &Arc<dyn Handler>,
    number: u64,
    stream: Stream,
    from: SocketAddr,
    began: Instant,
) -> io::Result<()> {
    let other_machine = Some(from.ip()).filter(|ip| !ip.is_loopback());
    let stream = Arc::new(stream);
    let activity = Arc::new(Activity { began, packed: AtomicU64::new(0) });
    activity.set(Doing::Waits);
    {
        let mut open = shared.lock();
        let has_room = other_machine.is_none_or(|_| make_room(&open, |slot| slot.from == other_machine, FROM_ONE_ADDRESS_MAX))
            && make_room(&open, |_| true, CONNECTIONS_MAX);
        if !has_room {
            drop(open);
            // All are being answered. Best effort: who does not take it sees the end of the connection.
            let _gone = (&*stream).write_all(TOO_MANY);
            return Ok(());
        }
        let deadline = Instant::now() + LEAVING_LIMIT;
        while open.len() >= CONNECTIONS_MAX + LEAVING_MAX {
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Err(io::Error::other("the connections that gave way do not leave"));
            }
            open = shared.closed.wait_timeout(open, left).unwrap_or_else(PoisonError::into_inner).0;
        }
        open.insert(number, Slot { stream: stream.clone(), from: other_machine, activity: activity.clone() });
    }
    let seat = Arc::new(Seat { number, shared: shared.clone(), handler: handler.clone(), activity });
    // Where the thread cannot be started the closure is dropped, and with it the seat.
    thread::Builder::new()
        .name(format!("http-{number}"))
        .stack_size(STACK_BYTES)
        .spawn(move || connection::serve(&stream, from, &seat))
        .map(drop)
}

/// The answer where there is no thread to make one.
const TOO_MANY: &[u8] =
    b"HTTP/1.1 503 Service Unavailable\r\nContent-Type: application/json\r\nContent-Length: 70\r\nRetry-After: 1\r\n\
    Connection: close\r\n\r\n{\"ok\":false,\"error\":\"busy\",\"detail\":\"too many connections; try again\"}";

/// Closes the connection that has waited longest for its client, when `limit` or more of a `kind` are open. Whether there is room then:
/// there is none where all of them are being answered.
fn make_room(open: &BTreeMap<u64, Slot>, kind: impl Fn(&Slot) -> bool, limit: usize) -> bool {
    if open.len() < limit {
        return true;
    }
    let (mut count, mut longest) = (0, None);
    for slot in open.values().filter(|slot| kind(slot)) {
        let (doing, since) = slot.activity.get();
        match doing {
            Doing::Leaves => {}
            Doing::Works => count += 1,
            Doing::Waits | Doing::Writes => {
                count += 1;
                if longest.is_none_or(|(longest_since, _)| since < longest_since) {
                    longest = Some((since, slot));
                }
            }
        }
    }
    if count < limit {
        return true;
    }
    if let Some((_, slot)) = longest {
        slot.activity.set(Doing::Leaves);
        // Its thread wakes up from reading or writing, and takes its leave.
        let _already_closed = slot.stream.shutdown(Shutdown::Both);
    }
    longest.is_some()
}
