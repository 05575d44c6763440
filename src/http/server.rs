//! Accepting: from listeners to threads, and a stop that ends under load.
//!
//! A thread for each connection reads, calls the handler and answers; nobody hands a request from thread to thread. The rest of the
//! program sees [`Handler`] and rouille's types only. Who is there and who gives way is in `seats`.

use std::fmt;
use std::io::{self, Read, Write};
use std::net::{Shutdown, SocketAddr};
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use rouille::{Request, Response};
use rustix::event::{PollFd, PollFlags};

use super::connection;
use super::head::Broken;
use super::listener::{Listener, Stream, WayIn};
use super::seats::Seats;

/// How many are accepted at one listener before the others get their turn.
const ACCEPTED_IN_A_TURN: usize = 64;

/// How long a stop waits for requests that are being answered.
const STOP_LIMIT: Duration = Duration::from_millis(700);

/// How long accepting rests after it failed for want of descriptors or memory, unless a connection ends before that.
const ACCEPT_REST: Duration = Duration::from_millis(20);

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
    seats: Arc<Seats>,
    wake: UnixStream,
    thread: JoinHandle<()>,
}

impl Server {
    /// Begins to accept.
    pub fn start(entrances: Vec<Entrance>) -> io::Result<Self> {
        let addresses = entrances.iter().filter_map(|entrance| entrance.listener.address()).collect();
        let probe = Probe { ways_in: entrances.iter().map(|entrance| entrance.listener.way_in()).collect::<io::Result<_>>()? };
        let (wake, woken) = UnixStream::pair()?;
        let seats = Arc::new(Seats::new());
        let accepting = seats.clone();
        let thread = thread::Builder::new().name("accept".to_owned()).spawn(move || accept(&accepting, &entrances, &woken))?;
        Ok(Self { addresses, probe, seats, wake, thread })
    }

    /// Where it listens, as far as that has an address.
    pub fn addresses(&self) -> &[SocketAddr] {
        &self.addresses
    }

    /// What asks this server from within.
    pub fn probe(&self) -> Probe {
        self.probe.clone()
    }

    /// Nothing is accepted any more, and every answer from here on says that it is its connection's last.
    pub fn begin_stop(&self) {
        self.seats.begin_stop();
        // The other end is only looked at.
        let _closed_already = self.wake.shutdown(Shutdown::Both);
    }

    /// Stops: as [`Server::begin_stop`], then who waits is let go, and what is being answered gets a moment to end.
    pub fn stop(self) {
        self.begin_stop();
        // It has nothing to do but to notice.
        let _ended = self.thread.join();
        self.seats.stop(STOP_LIMIT);
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

fn accept(seats: &Arc<Seats>, entrances: &[Entrance], woken: &UnixStream) {
    let mut number = 0;
    let mut warned = None;
    // Which way it failed, and room for another try.
    let mut fail = |what: String| {
        if warned.is_none_or(|at: Instant| at.elapsed() >= WARN_EVERY) {
            warned = Some(Instant::now());
            ::log::warn!("{what}; the connection that has waited longest is closed");
        }
        seats.make_room(ACCEPT_REST);
    };
    let mut fds: Vec<PollFd<'_>> = entrances.iter().map(|entrance| PollFd::new(&entrance.listener, PollFlags::IN)).collect();
    fds.push(PollFd::new(woken, PollFlags::IN));
    while !seats.is_stopping() {
        if rustix::event::poll(&mut fds, None).is_err() {
            continue;
        }
        let ready = entrances.iter().zip(&fds).filter(|(_, fd)| !fd.revents().is_empty());
        for (entrance, _) in ready {
            for _ in 0..ACCEPTED_IN_A_TURN {
                if seats.is_stopping() {
                    return;
                }
                match entrance.listener.accept() {
                    Ok((stream, from)) => {
                        number += 1;
                        if let Err(error) = seat(seats, entrance, number, stream, from) {
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
            }
        }
    }
}

fn seat(seats: &Arc<Seats>, entrance: &Entrance, number: u64, stream: Stream, from: SocketAddr) -> io::Result<()> {
    let stream = Arc::new(stream);
    let Some(seat) = seats.seat(number, &stream, from.ip(), &entrance.handler) else {
        // Best effort: who does not take it sees the end of the connection.
        let _gone = (&*stream).write_all(TOO_MANY);
        return Ok(());
    };
    let seat = Arc::new(seat);
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

/// The answer where there is no thread to make one.
const TOO_MANY: &[u8] =
    b"HTTP/1.1 503 Service Unavailable\r\nContent-Type: application/json\r\nContent-Length: 70\r\nRetry-After: 1\r\n\
    Connection: close\r\n\r\n{\"ok\":false,\"error\":\"busy\",\"detail\":\"too many connections; try again\"}";
