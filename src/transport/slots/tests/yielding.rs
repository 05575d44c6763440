//! Connections that give way while they discard what their clients send, or hold memory for a body.

use std::thread;

use rouille::{Request, Response};
use rustix::io::ioctl_fionread;

use super::*;
use crate::transport::connection::{self, Terms};
use crate::transport::handler::{Client, Handler};
use crate::transport::head::{HEAD_BYTES_MAX, SMALL_BODY_BYTES};

const REQUEST: &[u8] = b"GET / HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n";
const MIB: usize = 1024 * 1024;

/// A handler that answers all requests.
struct Answers {
    slots: Arc<Slots>,
    /// Whether the connection gives way while its request is answered.
    gives_way: bool,
}

impl Handler for Answers {
    fn handle(&self, _request: &Request, client: &Client<'_>) -> Response {
        if self.gives_way {
            client.idle(|| self.slots.have_waiting_give_way());
        }
        Response::text("the answer")
    }

    /// Treats all cookies as those of other servers.
    fn takes_cookie(&self, _cookie: &[u8]) -> bool {
        false
    }

    fn refuse(&self, broken: &Broken, _request: Option<&Request>) -> Response {
        Response::text(format!("{broken:?}"))
    }
}

/// Serves a connection on which `sent` has arrived, and discards what follows for an hour. Meanwhile, calls `act` with the
/// client's end. Returns what `act` returned, and how many bytes were not read.
fn served<T>(sent: &[u8], gives_way: bool, act: impl FnOnce(&Slot, UnixStream) -> T) -> (T, u64) {
    let slots = Arc::<Slots>::default();
    let (ours, theirs) = UnixStream::pair().expect("a pair");
    let stream = Arc::new(Stream::from(std::os::fd::OwnedFd::from(ours)));
    let slot = slots.take(1, &stream, peer("127.0.0.1")).expect("room");
    (&theirs).write_all(sent).expect("the kernel takes it");
    let handler = Answers { slots: slots.clone(), gives_way };
    let terms = Terms { linger: Duration::from_hours(1), ..Terms::OWN };
    let from = std::net::SocketAddr::from(([127, 0, 0, 1], 1));
    thread::scope(|scope| {
        let connection = scope.spawn(|| connection::serve(&stream, from, &slot, &handler, &terms));
        let outcome = act(&slot, theirs);
        slots.have_waiting_give_way();
        connection.join().expect("no panic");
        (outcome, ioctl_fionread(&*stream).expect("a socket"))
    })
}

#[test]
fn connection_yields_while_discarding_input_after_last_response() {
    let ((answer, doing), _) = served(REQUEST, false, |slot, mut client| {
        let mut answer = String::new();
        // The response ends when the connection begins to discard.
        client.read_to_string(&mut answer).expect("text");
        (answer, slot.activity.doing())
    });
    assert!(answer.ends_with("the answer") && matches!(doing, Doing::Yields(_)), "{doing:?}: {answer}");
}

#[test]
fn yielding_connection_discards_only_limited_input() {
    let sent = [REQUEST, &vec![b'x'; 4 * SMALL_BODY_BYTES]].concat();
    let (answer, unread) = served(&sent, true, |_, mut client| {
        let mut answer = String::new();
        client.read_to_string(&mut answer).expect("text");
        answer
    });
    assert!(answer.ends_with("the answer") && unread > 0, "{answer}");
}

#[test]
fn body_needing_memory_takes_it_from_a_waiting_body() {
    // On a slow machine, its time can be over first.
    let gets_it = || {
        let slots = Arc::<Slots>::default();
        let [(holder, _theirs), (other, _others)] = [1, 2].map(|number| sit(&slots, number, "127.0.0.1").expect("room"));
        holder.takes(3 * MIB).expect("the memory is free");
        thread::scope(|scope| {
            let body = scope.spawn(|| other.takes(3 * MIB));
            while !holder.gives_way() && !body.is_finished() {
                thread::yield_now();
            }
            drop(holder);
            body.join().expect("no panic").is_ok()
        })
    };
    assert!((0..5).any(|_| gets_it()), "no body gives way");
}

/// Cookies of other servers can make a head as long as a megabyte. While others wait for a slot, such a head is read only from
/// operators.
#[test]
fn head_with_long_cookies_is_read_unless_slot_is_wanted() {
    let cookie = format!("Cookie: others={}", "x".repeat(2 * HEAD_BYTES_MAX));
    let beginning = [b"GET / HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n", cookie.as_bytes()].concat();
    for (is_wanted, is_operator, is_short, answer) in [
        (false, false, false, "the answer"),
        (true, true, false, "the answer"),
        (true, false, false, "TooManyConnections"),
        // The rule applies to long heads only: another request is answered, as the last one of its connection.
        (true, false, true, "the answer"),
    ] {
        let slots = Arc::<Slots>::default();
        let (ours, mut client) = UnixStream::pair().expect("a pair");
        let stream = Arc::new(Stream::from(std::os::fd::OwnedFd::from(ours)));
        let slot = slots.take(1, &stream, peer("127.0.0.1")).expect("room");
        slot.set_operator(is_operator);
        slot.activity.is_at_last_answer.store(is_wanted, Ordering::Relaxed);
        let handler = Answers { slots: slots.clone(), gives_way: false };
        let from = std::net::SocketAddr::from(([127, 0, 0, 1], 1));
        let said = thread::scope(|scope| {
            scope.spawn(|| connection::serve(&stream, from, &slot, &handler, &Terms::OWN));
            let begun = if is_short { &beginning[..HEAD_BYTES_MAX / 2] } else { &beginning[..] };
            client.write_all(begun).expect("it is read");
            // The end of the head follows once everything before it has been read.
            while ioctl_fionread(&*stream).expect("a socket") > 0 {
                thread::yield_now();
            }
            // The head may have been refused.
            let _sent = client.write_all(b"\r\n\r\n");
            let mut said = Vec::new();
            // A connection with unread bytes is reset.
            let _end = client.read_to_end(&mut said);
            drop(client);
            String::from_utf8(said).expect("text")
        });
        assert!(said.ends_with(answer), "{is_wanted} {is_operator} {is_short}: {said}");
    }
}

#[test]
fn client_that_queues_requests_waits_for_its_turn_in_a_crowd_unless_it_is_an_operator() {
    let slots = Arc::<Slots>::default();
    let (first, _stream) = sit(&slots, 0, "127.0.0.1").expect("room");
    assert_eq!(first.turn(), None, "there is no crowd");
    let crowd: Vec<_> = (1..2 * CROWD as u64).map(|number| sit(&slots, number, "127.0.0.1").expect("room")).collect();
    assert_eq!(first.turn(), Some(Duration::from_millis(2 * CROWD as u64)));
    first.set_operator(true);
    assert_eq!(first.turn(), None);
    first.set_operator(false);
    slots.begin_stop();
    assert_eq!(first.turn(), None, "what is queued is answered before the end");
    drop(crowd);
}
