//! The accepting thread: accepts connections, gives each a slot and a thread, and refuses those that cannot get both in time.
//!
//! If this thread blocked, it would delay every client of every listener. So it waits only in poll(2), for a new connection or
//! until the next check. Meanwhile, a new connection without a slot or a thread waits in a list.

use std::io::{self, Read, Write};
use std::net::{Ipv4Addr, SocketAddr};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec};
use rustix::io::{Errno, ioctl_fionread};

use super::handler::{Binding, Handler};
use super::head::Broken;
use super::limits::{Limits, Peer};
use super::listener::Stream;
use super::slots::{Full, Slots};
use super::workers::{Job, Task, Workers};
use super::writer::last_answer;

/// How many connections are accepted at one listener before the next listener gets its turn.
const ACCEPTED_IN_A_TURN: usize = 64;

/// The longest time that a new connection waits for a slot, or a connection for a thread. Both are usually free at once, but on a
/// busy machine the threads that hold them may not run for a while, and waiting is better than a refusal.
const WAIT_LIMIT: Duration = Duration::from_secs(2);
/// How often waiting connections are checked. While all slots are taken, this limits how many new connections can be served per
/// second.
const LOOK_EVERY: Duration = Duration::from_millis(1);

/// The pause after accept(2) has failed for lack of descriptors or memory. Doubles with each failure.
const REST: Duration = Duration::from_millis(2);
const REST_MAX: Duration = Duration::from_millis(20);

/// The shortest time between two log messages about a shortage. With many clients, a shortage can occur a thousand times a
/// second.
const WARN_EVERY: Duration = Duration::from_secs(1);

/// How many bytes from a refused client are read and discarded. If any were left unread at the close, the response could be lost
/// on its way (RFC 9112, section 9.6).
const UNREAD_BYTES: usize = 16 * 1024;

/// A new connection that has no slot yet.
struct Newcomer<'a> {
    number: u64,
    stream: Arc<Stream>,
    from: SocketAddr,
    peer: Peer,
    handler: &'a Arc<dyn Handler>,
    until: Instant,
}

struct Acceptor<'a> {
    slots: &'a Arc<Slots>,
    workers: &'a Workers,
    waiting: Vec<Newcomer<'a>>,
    /// Connections that have a slot but no thread, and whose request has not arrived yet.
    silent: Vec<Job>,
    /// Connections that have a slot but no thread, and whose request has arrived. Each is refused at the time beside it.
    parked: Vec<(Job, Instant)>,
    /// The clients of this machine from which nothing is accepted until the next check. More of them can arrive at once than may
    /// wait here. Slots will become free for them, so the others wait in the kernel.
    held_back: Vec<Peer>,
    rest_until: Option<Instant>,
    rest: Duration,
    warned: Option<Instant>,
    number: u64,
}

/// Accepts connections until the server stops; `woken` then becomes readable.
pub(super) fn accept(slots: &Arc<Slots>, workers: &Workers, entrances: &[Binding], woken: &UnixStream, idle_limit: Duration) {
    let mut acceptor = Acceptor::new(slots, workers);
    while !slots.is_stopping() {
        let idle = slots.close_idle(Instant::now(), idle_limit);
        acceptor.look();
        // Before this thread sleeps, because the next connection may not arrive for a long time.
        if slots.has_hurried() {
            for entrance in entrances {
                entrance.handler.hurry();
            }
        }
        for entrance in acceptor.poll(entrances, woken, idle) {
            acceptor.accept_at(entrance);
        }
    }
}

impl<'a> Acceptor<'a> {
    fn new(slots: &'a Arc<Slots>, workers: &'a Workers) -> Self {
        Self {
            slots,
            workers,
            waiting: Vec::new(),
            silent: Vec::new(),
            parked: Vec::new(),
            held_back: Vec::new(),
            rest_until: None,
            rest: REST,
            warned: None,
            number: 0,
        }
    }

    /// Waits for a new connection, at most until the next check. Returns the listeners that have one.
    fn poll<'e>(&mut self, entrances: &'e [Binding], woken: &UnixStream, idle: Option<Duration>) -> Vec<&'e Binding> {
        let now = Instant::now();
        let rest = self.rest_until.map(|until| until.saturating_duration_since(now)).filter(|rest| !rest.is_zero());
        let is_tried_again = !self.waiting.is_empty() || !self.parked.is_empty();
        let limit = [idle, rest, is_tried_again.then_some(LOOK_EVERY)].into_iter().flatten().min();
        let limit = limit.and_then(|limit| Timespec::try_from(limit).ok());
        let takes_from = |entrance: &&Binding| rest.is_none() && !self.is_held_back(entrance);
        let open: Vec<&Binding> = entrances.iter().filter(takes_from).collect();
        let awaited: Vec<Arc<OwnedFd>> = open.iter().map(|entrance| entrance.listener.latest()).collect();
        let mut fds: Vec<PollFd<'_>> = awaited.iter().map(|socket| PollFd::new(socket, PollFlags::IN)).collect();
        fds.extend(self.silent.iter().map(|job| PollFd::new(&*job.stream, PollFlags::IN)));
        fds.push(PollFd::new(woken, PollFlags::IN));
        if rustix::event::poll(&mut fds, limit.as_ref()).is_err() {
            return Vec::new();
        }
        let is_ready: Vec<bool> = fds.iter().map(|fd| !fd.revents().is_empty()).collect();
        let (at_listeners, of_silent) = is_ready.split_at(open.len());
        let (mut of_silent, until) = (of_silent.iter(), Instant::now() + WAIT_LIMIT);
        self.parked.extend(self.silent.extract_if(.., |_| of_silent.next() == Some(&true)).map(|job| (job, until)));
        open.into_iter().zip(at_listeners).filter(|(_, is_ready)| **is_ready).map(|(entrance, _)| entrance).collect()
    }

    fn accept_at(&mut self, entrance: &'a Binding) {
        for _ in 0..ACCEPTED_IN_A_TURN {
            if self.slots.is_stopping() || self.is_held_back(entrance) {
                return;
            }
            match entrance.listener.accept() {
                Ok((stream, from)) => {
                    self.number += 1;
                    self.rest = REST;
                    let peer = Peer::at(entrance.listener.reach(), from.ip());
                    let until = Instant::now() + WAIT_LIMIT;
                    let (number, stream, handler) = (self.number, Arc::new(stream), &entrance.handler);
                    self.take(Newcomer { number, stream, from, peer, handler, until });
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return,
                Err(error) if is_shortage(&error) => {
                    self.warn(format!("failed to accept a connection: {error}; closing the connection that has waited longest"));
                    self.slots.make_room();
                    self.rest_until = Some(Instant::now() + self.rest);
                    self.rest = (self.rest * 2).min(REST_MAX);
                    return;
                }
                // The client or its network closed the connection before it was accepted (`accept(2)`, "Error handling").
                Err(_) => {}
            }
        }
    }

    /// Gives a new connection a slot, makes it wait behind others of the same peer, or refuses it.
    fn take(&mut self, newcomer: Newcomer<'a>) {
        if has_left_unheard(&newcomer.stream) {
            return;
        }
        let peer = newcomer.peer;
        // Only connections of the same peer are ahead of it: other remote addresses can still get a slot.
        let is_behind = self.waiting.iter().any(|other| other.peer == peer);
        let tried = if is_behind { Err((newcomer, Full { is_passing: true })) } else { self.slot(newcomer) };
        let Err((newcomer, Full { is_passing })) = tried else { return };
        let (of_address_max, of_kind_max) = Limits::now().waiting(peer);
        let of_address = self.waiting.iter().filter(|other| other.peer == peer).count();
        let of_kind = self.waiting_of_kind(peer);
        if of_address < of_address_max && of_kind < of_kind_max {
            self.waiting.push(newcomer);
            // This is the last one of its kind that may wait. The next check shows whether there will be a slot.
            if is_passing && of_kind + 1 == of_kind_max {
                self.hold_back(peer);
            }
        } else {
            turn_away(&newcomer.stream, &**newcomer.handler, &Broken::TooManyConnections);
        }
    }

    fn waiting_of_kind(&self, peer: Peer) -> usize {
        self.waiting.iter().filter(|other| other.peer.kind() == peer.kind()).count()
    }

    /// Stops accepting from clients of this machine, whose kind has its own slots, until the next check. Does nothing for a
    /// remote peer: one of many addresses must not make the others wait.
    fn hold_back(&mut self, peer: Peer) {
        if !matches!(peer, Peer::Remote(_)) {
            self.held_back.push(peer);
        }
    }

    /// Checks whether the clients of this machine at a listener are held back. If so, all other clients of that listener are held
    /// back too.
    fn is_held_back(&self, entrance: &Binding) -> bool {
        self.held_back.contains(&Peer::at(entrance.listener.reach(), Ipv4Addr::LOCALHOST.into()))
    }

    fn look(&mut self) {
        self.held_back.clear();
        self.rest_until.take_if(|until| *until <= Instant::now());
        let mut still_full: Vec<(Peer, Full)> = Vec::new();
        for newcomer in std::mem::take(&mut self.waiting).into_iter().filter(|newcomer| !has_left_unheard(&newcomer.stream)) {
            let peer = newcomer.peer;
            let newcomer = if still_full.iter().any(|(other, _)| *other == peer) {
                newcomer
            } else {
                let Err((newcomer, full)) = self.slot(newcomer) else { continue };
                still_full.push((peer, full));
                newcomer
            };
            if newcomer.until <= Instant::now() {
                turn_away(&newcomer.stream, &**newcomer.handler, &Broken::TooManyConnections);
            } else {
                self.waiting.push(newcomer);
            }
        }
        for (peer, _) in still_full.into_iter().filter(|(_, full)| full.is_passing) {
            if self.waiting_of_kind(peer) >= Limits::now().waiting(peer).1 {
                self.hold_back(peer);
            }
        }
        // First come, first served, except that the owner's connections do not wait for others.
        let (mut is_busy, mut is_busy_for_owner) = (false, false);
        for (job, until) in std::mem::take(&mut self.parked) {
            let is_busy = if job.slot.is_owner() { &mut is_busy_for_owner } else { &mut is_busy };
            let job = if *is_busy {
                job
            } else {
                let Err(Task::Serve(job)) = self.workers.hand_over(Task::Serve(job)) else { continue };
                job
            };
            *is_busy = true;
            if until <= Instant::now() {
                turn_away(&job.stream, &*job.handler, &Broken::NoThread);
            } else {
                self.parked.push((job, until));
            }
        }
    }

    /// Gives a new connection a slot and, if possible, a thread.
    fn slot(&mut self, newcomer: Newcomer<'a>) -> Result<(), (Newcomer<'a>, Full)> {
        let Newcomer { number, ref stream, from, peer, handler, .. } = newcomer;
        let slot = match self.slots.take(number, stream, peer) {
            Ok(slot) => Arc::new(slot),
            Err(full) => return Err((newcomer, full)),
        };
        let job = Job { number, stream: newcomer.stream, from, slot, handler: handler.clone() };
        if let Err((job, error)) = Workers::serve(job) {
            self.warn(format!(
                "no thread can be created for a connection: {error}; a few in reserve serve until one can. This user or this \
                    service is at its limit \
                 of processes: end some, or raise it (ulimit -u, TasksMax=)"
            ));
            self.silent.push(job);
        }
        Ok(())
    }

    fn warn(&mut self, what: String) {
        if self.warned.is_none_or(|at| at.elapsed() >= WARN_EVERY) {
            self.warned = Some(Instant::now());
            // If all threads of the reserve are busy, the message is dropped. One becomes free within a second.
            let _all_are_at_work = self.workers.hand_over(Task::Warn(what));
        }
    }
}

/// Checks whether the client has closed the connection without sending a request. Such a connection would use a slot and a thread
/// for nothing, and a flood of them would keep the others in the kernel's queue, or out of it.
fn has_left_unheard(stream: &Stream) -> bool {
    stream.is_left() && ioctl_fionread(stream).is_ok_and(|bytes| bytes == 0)
}

/// Checks whether accept(2) failed because this machine has run out of a resource. A socket can lack buffers as well
/// (`accept(2)`).
fn is_shortage(error: &io::Error) -> bool {
    let shortages = [Errno::MFILE, Errno::NFILE, Errno::NOMEM, Errno::NOBUFS];
    Errno::from_io_error(error).is_some_and(|errno| shortages.contains(&errno))
}

/// Sends a refusal to a client. Best effort, and never waits: a client that does not read it still sees the connection close.
fn turn_away(mut stream: &Stream, handler: &dyn Handler, broken: &Broken) {
    let response = handler.refuse(broken, None);
    if rustix::io::ioctl_fionbio(stream, true).is_ok() {
        let _not_taken = last_answer(response).and_then(|answer| stream.write_all(&answer));
        let mut unread = [0; UNREAD_BYTES];
        let _thrown_away = stream.read(&mut unread);
    }
}

#[cfg(test)]
mod tests {
    use std::net::{Shutdown, TcpListener, TcpStream};

    use rouille::{Request, Response};

    use super::super::handler::Client;
    use super::super::slots::Works;
    use super::*;

    struct Silent;

    impl Handler for Silent {
        fn handle(&self, _: &Request, _: &Client<'_>) -> Response {
            Response::text("")
        }

        fn refuse(&self, _: &Broken, _: Option<&Request>) -> Response {
            Response::text("")
        }
    }

    /// Opens a connection on loopback. Returns the server's end and the client's end.
    fn connection(listener: &TcpListener) -> (Arc<Stream>, TcpStream) {
        let client = TcpStream::connect(listener.local_addr().expect("it is bound")).expect("it listens");
        (Arc::new(OwnedFd::from(listener.accept().expect("a client has connected").0).into()), client)
    }

    #[test]
    fn closed_client_without_a_request_takes_no_slot() {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let (slots, workers, handler) = (Arc::<Slots>::default(), Workers::default(), Arc::new(Silent) as Arc<dyn Handler>);
        let (served, _client) = connection(&listener);
        let take = |number| slots.take(number, &served, Peer::Local).ok().filter(|slot| slot.works() == Works::On);
        let _all: Vec<_> = (0..).map_while(take).collect();
        let mut acceptor = Acceptor::new(&slots, &workers);
        let newcomer = |stream| {
            let until = Instant::now() + Duration::from_hours(1);
            Newcomer {
                number: 1 << 40,
                stream,
                from: SocketAddr::from(([127, 0, 0, 1], 1)),
                peer: Peer::Local,
                handler: &handler,
                until,
            }
        };
        let leave = |client: TcpStream, server: &Stream| {
            drop(client);
            // On loopback the end arrives at once, but another thread of the kernel delivers it.
            while !server.is_left() {
                std::thread::yield_now();
            }
        };
        let (left, client) = connection(&listener);
        leave(client, &left);
        acceptor.take(newcomer(left));
        assert_eq!(acceptor.waiting.len(), 0, "it has left before it was accepted");
        let ((silent, silent_client), (asks, mut asking)) = (connection(&listener), connection(&listener));
        asking.write_all(b"GET / HTTP/1.1\r\n\r\n").and_then(|()| asking.shutdown(Shutdown::Write)).expect("it is open");
        while !asks.is_left() {
            std::thread::yield_now();
        }
        acceptor.take(newcomer(silent.clone()));
        acceptor.take(newcomer(asks.clone()));
        assert_eq!(acceptor.waiting.len(), 2, "who has asked reads the answer, and who is silent can ask yet");
        leave(silent_client, &silent);
        acceptor.look();
        assert!(matches!(&acceptor.waiting[..], [waits] if Arc::ptr_eq(&waits.stream, &asks)), "it has left while it waited");
    }
}
