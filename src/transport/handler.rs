//! The interface between the sockets and the rest of the program.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use rouille::{Request, Response};

use super::head::Broken;
use super::limits::Rank;
use super::listener::{Listener, Stream};
use super::slots::Slot;

/// The part of the program that answers requests.
pub trait Handler: Send + Sync + 'static {
    /// Answers a request. May wait and may panic. If the client has disconnected, long work can be abandoned or skipped.
    fn handle(&self, request: &Request, client: &Client<'_>) -> Response;
    /// Checks whether a cookie, `name=value`, may belong to this server. All others are removed from a long head.
    fn takes_cookie(&self, _cookie: &[u8]) -> bool {
        true
    }
    /// Answers a request with a body over [`SMALL_BODY_BYTES`](super::SMALL_BODY_BYTES) by its head alone, so that its body is
    /// not read. Returns `None` to have the body read; it then takes up memory that all clients share. May panic, must not wait.
    fn refuse_long_body(&self, _request: &Request, _client: &Client<'_>) -> Option<Response> {
        None
    }
    /// Wakes requests that wait and responses that wait for more to send, because one of them has to give way
    /// ([`Client::gives_way`]). Never waits.
    fn hurry(&self) {}
    /// Answers a request that [`Handler::handle`] must not see. `request` is its head, if that could be read. Called on the
    /// accepting thread for [`Broken::TooManyConnections`] and [`Broken::NoThread`], so it must not wait.
    fn refuse(&self, broken: &Broken, request: Option<&Request>) -> Response;
}

/// A client whose request is being answered.
#[derive(Clone, Copy)]
pub struct Client<'a> {
    connection: Option<(&'a Stream, &'a Slot)>,
    has_thread: bool,
    /// Set if another request is to follow on this connection.
    announced: Option<&'a AtomicBool>,
    /// The user of a client without a connection.
    uid: Option<u32>,
}

impl<'a> Client<'a> {
    /// Creates a client of this user that stays connected and has its own thread.
    pub const fn patient(uid: Option<u32>) -> Self {
        Self { connection: None, has_thread: true, announced: None, uid }
    }

    pub(super) fn new(stream: &'a Stream, slot: &'a Slot, has_thread: bool, announced: &'a AtomicBool) -> Self {
        Self { connection: Some((stream, slot)), has_thread, announced: Some(announced), uid: None }
    }

    /// Returns the user whose process is at the other end, if it is on this machine and the kernel can identify it.
    pub fn uid(&self) -> Option<u32> {
        self.connection.map_or(self.uid, |(stream, _)| stream.uid())
    }

    /// Checks whether the client has an address of this machine, loopback or not, and its socket is on this machine. Never a
    /// reason to trust the client. Asks the kernel at most once per connection.
    pub fn is_on_this_machine(&self) -> bool {
        self.connection.is_some_and(|(stream, _)| stream.is_on_this_machine())
    }

    /// Returns the address that the client has connected to, which is the server's end of the connection, or `None` on a Unix
    /// socket.
    pub fn reached_address(&self) -> Option<SocketAddr> {
        self.connection.and_then(|(stream, _)| stream.local_address())
    }

    /// Returns the rank of the client, which decides whether it gets one of the last places for long requests.
    pub fn rank(&self) -> Rank {
        self.connection.map_or(Rank::Viewer, |(_, slot)| slot.rank())
    }

    /// Records whether the client's latest request comes from an operator, whose connection does not give way to those of others.
    pub fn set_operator(&self, is_operator: bool) {
        if let Some((_, slot)) = self.connection {
            slot.set_operator(is_operator);
        }
    }

    /// Checks whether the client has disconnected.
    pub fn is_left(&self) -> bool {
        self.connection.is_some_and(|(stream, _)| stream.is_left())
    }

    /// Calls `wait`, which waits for a change or a turn on the client's behalf. The client can be made to give way meanwhile;
    /// [`Handler::hurry`] is then called.
    pub fn idle<T>(&self, wait: impl FnOnce() -> T) -> T {
        let Some((_, slot)) = self.connection else { return wait() };
        slot.idles();
        let outcome = wait();
        slot.idles_no_more();
        outcome
    }

    /// Checks whether a new connection needs this client's slot. The request is then answered at once.
    pub fn gives_way(&self) -> bool {
        self.connection.is_some_and(|(_, slot)| slot.gives_way())
    }

    /// Checks whether the thread serves this client alone. Otherwise it is one of the few in reserve, because no other can be
    /// created, and must not wait for long.
    pub const fn has_thread(&self) -> bool {
        self.has_thread
    }

    /// Announces that this request only prepares another one on the same connection. The connection then stays open for that one,
    /// even if its thread is one of the reserve.
    pub fn announce_request(&self) {
        if let Some(announced) = self.announced {
            announced.store(true, Ordering::Relaxed);
        }
    }
}

#[cfg(test)]
impl Client<'_> {
    /// Calls `act` with a client on a connection, and with a function that makes that connection give way if its request waits.
    pub fn with_connection<T>(act: impl FnOnce(&Client<'_>, &(dyn Fn() + Sync)) -> T) -> T {
        let slots = Arc::<super::slots::Slots>::default();
        let (ours, _theirs) = std::os::unix::net::UnixStream::pair().expect("a pair");
        let stream = Arc::new(Stream::from(std::os::fd::OwnedFd::from(ours)));
        let slot = slots.take(1, &stream, super::limits::Peer::Owner).expect("there is room");
        assert_eq!(slot.works(), super::slots::Works::On);
        act(&Client::new(&stream, &slot, true, &AtomicBool::new(false)), &|| slots.have_waiting_give_way())
    }
}

/// A listener, and the handler of the requests that arrive there. A handler thus knows by which listener a request came.
pub struct Binding {
    /// The listener to which clients connect.
    pub listener: Listener,
    /// The handler that answers them.
    pub handler: Arc<dyn Handler>,
}
