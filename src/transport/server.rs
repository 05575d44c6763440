//! A server on its listening sockets: its start, and a stop that ends in time even under load.
//!
//! Each connection has a thread that reads requests, calls the handler and writes the responses. No request passes from one
//! thread to another.

use std::io::{self, Read, Write};
use std::net::{Shutdown, SocketAddr};
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use super::accept;
use super::connection::Terms;
use super::handler::Binding;
use super::listener::ConnectAddress;
use super::slots::Slots;
use super::workers::Workers;

/// How long a connection may wait for its next request. From the first byte of a request, the limits of a head and of a body
/// apply, which end before this one does.
const IDLE_LIMIT: Duration = Duration::from_mins(1);
const _: () = assert!(IDLE_LIMIT.as_secs() > Terms::OWN.head.as_secs() + Terms::OWN.body.as_secs());

/// How long a stop waits for requests that are being answered.
const STOP_LIMIT: Duration = Duration::from_millis(700);

/// A server on its listening sockets.
pub struct Server {
    addresses: Vec<SocketAddr>,
    probe: Probe,
    slots: Arc<Slots>,
    workers: Arc<Workers>,
    wake: UnixStream,
    thread: JoinHandle<()>,
}

impl Server {
    /// Begins to accept connections.
    ///
    /// # Errors
    /// A thread, or the socket that wakes the accepting thread, could not be created.
    pub fn start(entrances: Vec<Binding>) -> io::Result<Self> {
        Self::start_with(entrances, IDLE_LIMIT)
    }

    fn start_with(entrances: Vec<Binding>, idle_limit: Duration) -> io::Result<Self> {
        let addresses = entrances.iter().filter_map(|entrance| entrance.listener.address()).collect();
        let probe =
            Probe { connect_addresses: entrances.iter().map(|entrance| entrance.listener.connect_address_of.clone()).collect() };
        let (wake, woken) = UnixStream::pair()?;
        let slots = Arc::<Slots>::default();
        let workers = Arc::<Workers>::default();
        let (accepting, serving) = (slots.clone(), workers.clone());
        let accept = move || accept::accept(&accepting, &serving, &entrances, &woken, idle_limit);
        let thread = thread::Builder::new().name("accept".to_owned()).spawn(accept)?;
        let server = Self { addresses, probe, slots, workers, wake, thread };
        // Created last, so that the first clients do not wait until all of these threads exist.
        if let Err(error) = server.workers.start_reserve() {
            server.stop();
            return Err(error);
        }
        Ok(server)
    }

    /// Returns the addresses of the listeners that have one.
    pub fn addresses(&self) -> &[SocketAddr] {
        &self.addresses
    }

    /// Returns a probe, which checks from inside the program whether this server answers.
    pub fn probe(&self) -> Probe {
        self.probe.clone()
    }

    /// Begins to stop. No further connection is accepted, and each response from now on announces that its connection ends.
    pub fn begin_stop(&self) {
        self.slots.begin_stop();
        // The accepting thread only polls the other end.
        let _closed_already = self.wake.shutdown(Shutdown::Both);
    }

    /// Stops the server. Calls [`Server::begin_stop`], ends waiting connections, and gives requests that are being answered a
    /// moment to end.
    pub fn stop(self) {
        self.begin_stop();
        // The thread only has to notice the stop.
        let _ended = self.thread.join();
        self.slots.stop(STOP_LIMIT);
        self.workers.end();
    }
}

/// A check of whether a server answers, which uses the same listeners as its clients.
#[derive(Clone, Debug)]
pub struct Probe {
    connect_addresses: Vec<ConnectAddress>,
}

impl Probe {
    /// Checks whether each listener returns a response, whatever it is, all of them within `limit`. A listener whose connection
    /// error says nothing about this server counts as well.
    pub fn is_answered(&self, limit: Duration) -> bool {
        let deadline = Instant::now() + limit;
        self.connect_addresses.iter().all(|connect_address_of| Self::ask(connect_address_of, deadline).unwrap_or(false))
    }

    fn ask(connect_address_of: &ConnectAddress, deadline: Instant) -> io::Result<bool> {
        let left = || {
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() { Err(io::ErrorKind::TimedOut) } else { Ok(left) }
        };
        let stream = match connect_address_of.connect(left()?) {
            Err(error) if connect_address_of.is_for_others(&error) => return Ok(true),
            other => other?,
        };
        stream.set_write_timeout(left()?)?;
        let mut stream = &stream;
        stream.write_all(b"OPTIONS * HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")?;
        stream.set_read_timeout(Some(left()?))?;
        let mut answer = [0; 9];
        stream.read_exact(&mut answer)?;
        Ok(&answer == b"HTTP/1.1 ")
    }
}

#[cfg(test)]
mod tests {
    use std::net::{TcpListener, TcpStream};

    use rouille::{Request, Response};

    use super::*;
    use crate::transport::connection;
    use crate::transport::handler::{Client, Handler};
    use crate::transport::head::Broken;
    use crate::transport::limits::Peer;
    use crate::transport::listener::{Listener, Stream};

    /// A limit that only a failing test reaches.
    const DEADLINE: Duration = Duration::from_mins(1);

    struct Hello;

    impl Handler for Hello {
        fn handle(&self, _: &Request, _: &Client<'_>) -> Response {
            Response::text("hello")
        }

        fn refuse(&self, broken: &Broken, _: Option<&Request>) -> Response {
            Response::text(broken.to_string())
        }
    }

    fn client(server: &Server) -> TcpStream {
        let stream = TcpStream::connect(server.addresses()[0]).expect("it listens");
        stream.set_read_timeout(Some(DEADLINE)).expect("a limit");
        stream
    }

    /// Checks whether a request is answered before the connection is closed.
    fn is_answered(mut stream: &TcpStream) -> bool {
        // On a closed connection, either this or the read below fails.
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
    fn silent_connections_are_closed_after_the_time_limit() {
        let entrance = || {
            let listener = Listener::tcp(SocketAddr::from(([127, 0, 0, 1], 0))).expect("a port");
            vec![Binding { listener, handler: Arc::new(Hello) }]
        };
        let strict = Server::start_with(entrance(), Duration::from_millis(200)).expect("serves");
        let patient = Server::start(entrance()).expect("serves");
        let (never_spoke, stays) = (client(&strict), client(&patient));
        // On a slow machine, the connection can end before its first request.
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
    fn request_received_before_stop_is_answered() {
        let from = SocketAddr::from(([127, 0, 0, 1], 0));
        for (came, answered) in [("GET / HTTP/1.1\r\nHost: h\r\n\r\n", true), ("GET / HTTP/1.1\r\nHo", false), ("", false)] {
            let (ours, mut theirs) = UnixStream::pair().expect("a pair");
            theirs.write_all(came.as_bytes()).expect("there is room");
            let (slots, stream) = (Arc::<Slots>::default(), Arc::new(Stream::from(std::os::fd::OwnedFd::from(ours))));
            let handler: Arc<dyn Handler> = Arc::new(Hello);
            let slot = Arc::new(slots.take(1, &stream, Peer::Local).expect("room"));
            slots.begin_stop();
            connection::serve(&stream, from, &slot, &*handler, &Terms::OWN);
            drop((stream, slot));
            let mut answer = String::new();
            theirs.read_to_string(&mut answer).expect("it ends in order");
            assert_eq!(answer.ends_with("\r\nConnection: close\r\n\r\nhello"), answered, "{came:?}: {answer:?}");
        }
    }

    #[test]
    fn request_received_while_connection_yields_is_answered_as_the_last() {
        let request = "GET / HTTP/1.1\r\nHost: h\r\n\r\n";
        for (came, answers) in [(request, 1), (&request.repeat(2), 1), (&request[..20], 0), ("", 0)] {
            let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
            let mut theirs = TcpStream::connect(listener.local_addr().expect("bound")).expect("it listens");
            let (ours, from) = listener.accept().expect("somebody is there");
            let (slots, stream) = (Arc::<Slots>::default(), Arc::new(Stream::from(std::os::fd::OwnedFd::from(ours))));
            let handler: Arc<dyn Handler> = Arc::new(Hello);
            let slot = Arc::new(slots.take(1, &stream, Peer::Local).expect("room"));
            // Nothing has arrived yet.
            slots.make_room();
            theirs.write_all(came.as_bytes()).expect("there is room");
            let began = Instant::now();
            while rustix::io::ioctl_fionread(&*stream).expect("a socket") < came.len() as u64 {
                assert!(began.elapsed() < DEADLINE, "it does not arrive");
                thread::sleep(Duration::from_millis(1));
            }
            connection::serve(&stream, from, &slot, &*handler, &Terms::OWN);
            drop((stream, slot));
            let mut answer = String::new();
            // The kernel answers unread data with a reset, which arrives after the response.
            let _reset = theirs.read_to_string(&mut answer);
            assert_eq!(answer.matches("\r\nConnection: close\r\n\r\nhello").count(), answers, "{came:?}: {answer:?}");
            assert_eq!(answer.matches("HTTP/1.1").count(), answers, "{came:?}: {answer:?}");
        }
    }
}
