//! A whole connection through the real server on a real socket: bytes in, responses out.
//!
//! The first byte determines how the rest is cut on its way. The handler must receive exactly the requests that a strict parser
//! finds, unless the server refused one on the way, which it may for few reasons. Each request gets one response, well formed and
//! in order.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Duration;

use autoappdev::transport::fuzzing::{Framing, TARGET_BYTES_MAX};
use autoappdev::transport::{BODY_BYTES_MAX, Binding, Broken, Client, Handler, Listener, Server};
use rouille::{Request, Response, ResponseBody};

use super::cut::{choices, pieces};
use super::strict::{self, StrictRequest, Tail};

/// More than this would get its response before it is sent, and the response would be lost in a reset.
const INPUT_BYTES_MAX: usize = 6 * 1024;

/// A hang is a finding. On a machine that is busy otherwise, a delay is not a hang.
const PATIENCE: Duration = Duration::from_secs(40);

/// A request that the handler received, or a refusal.
#[derive(Debug)]
enum Seen {
    Handled { method: String, target: String, fields: usize, body: Vec<u8> },
    Refused(Broken),
}

struct Recorder(Arc<Mutex<Vec<Seen>>>);

impl Recorder {
    fn note(&self, seen: Seen) -> usize {
        let mut all = lock(&self.0);
        all.push(seen);
        all.len()
    }
}

impl Handler for Recorder {
    fn handle(&self, request: &Request, _: &Client<'_>) -> Response {
        let mut body = Vec::new();
        request.data().expect("nobody has taken it").read_to_end(&mut body).expect("it is in memory");
        let number = self.note(Seen::Handled {
            method: request.method().to_owned(),
            target: request.raw_url().to_owned(),
            fields: request.headers().count(),
            body,
        });
        // All ways to end a body, and a field value that tries to become a second field.
        let text = format!("answer {number}");
        let response = match number % 3 {
            0 => Response { data: ResponseBody::from_reader(std::io::Cursor::new(text)), ..Response::text("") },
            _ => Response::text(text),
        };
        response.with_additional_header("X-Echo", request.raw_url().to_owned()).with_additional_header("X-Bad", "a\r\nX-Two: b")
    }

    fn refuse(&self, broken: &Broken, _: Option<&Request>) -> Response {
        let number = self.note(Seen::Refused(broken.clone()));
        Response::text(format!("answer {number}")).with_status_code(400)
    }
}

struct Harness {
    address: SocketAddr,
    seen: Arc<Mutex<Vec<Seen>>>,
    /// Held during a connection, so that the recorded requests belong to it.
    turn: Mutex<()>,
}

fn harness() -> &'static Harness {
    static HARNESS: OnceLock<Harness> = OnceLock::new();
    HARNESS.get_or_init(|| {
        let seen = Arc::new(Mutex::new(Vec::new()));
        let listener = Listener::tcp(SocketAddr::from(([127, 0, 0, 1], 0))).expect("a port");
        let address = listener.address().expect("has one");
        let server = Server::start(vec![Binding { listener, handler: Arc::new(Recorder(seen.clone())) }]).expect("starts");
        // It serves until the process ends.
        std::mem::forget(server);
        Harness { address, seen, turn: Mutex::new(()) }
    })
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

pub fn run(bytes: &[u8]) {
    let ([how], sent) = choices::<1>(bytes);
    if sent.len() > INPUT_BYTES_MAX {
        return;
    }
    let harness = harness();
    let _turn = lock(&harness.turn);
    lock(&harness.seen).clear();
    let mut stream = TcpStream::connect(harness.address).expect("connects");
    stream.set_read_timeout(Some(PATIENCE)).expect("a time-out");
    stream.set_nodelay(true).expect("no delay");
    for piece in pieces(sent, how % 16) {
        // The server may have closed the connection already. Only what it sent until then matters.
        if stream.write_all(piece).is_err() {
            break;
        }
    }
    let _may_be_closed = stream.shutdown(std::net::Shutdown::Write);
    let mut received = Vec::new();
    if let Err(error) = stream.read_to_end(&mut received) {
        assert_eq!(error.kind(), std::io::ErrorKind::ConnectionReset, "the connection hangs: {}", sent.escape_ascii());
    }
    let seen = std::mem::take(&mut *lock(&harness.seen));
    let (wanted, tail) = strict::requests(sent);
    check_seen(&seen, &wanted, tail, sent);
    check_answers(&received, &seen, sent);
}

/// Checks that the handled requests are those that a strict parser finds, from the first on.
fn check_seen(seen: &[Seen], wanted: &[StrictRequest], tail: Tail, sent: &[u8]) {
    let mut handled = 0_usize;
    let mut refused = None;
    for (n, seen) in seen.iter().enumerate() {
        assert!(refused.is_none(), "something was answered behind a refusal: {}", sent.escape_ascii());
        match seen {
            Seen::Handled { method, target, fields, body } => {
                let wanted = wanted.get(n).unwrap_or_else(|| panic!("request {n} is none, {tail:?}: {}", sent.escape_ascii()));
                assert_eq!((method, target), (&wanted.head.method, &wanted.head.route()), "{}", sent.escape_ascii());
                assert_eq!((*fields, body), (wanted.head.fields.len(), &wanted.body), "{}", sent.escape_ascii());
                handled += 1;
            }
            Seen::Refused(broken) => refused = Some(broken),
        }
    }
    let Some(broken) = refused else {
        // To a client that does not know chunks, the end of the connection ends a response of unknown length.
        if handled.is_multiple_of(3) && handled.checked_sub(1).is_some_and(|last| wanted[last].head.is_http_1_0) {
            return;
        }
        assert_eq!(handled, wanted.len(), "a request was not handled, {tail:?}: {}", sent.escape_ascii());
        // After the last request, nothing had to be refused. An incomplete request may be refused later, depending on what
        // follows.
        assert!(!matches!(tail, Tail::Broken(_)), "it was not refused, {tail:?}: {}", sent.escape_ascii());
        return;
    };
    // A request that a strict parser accepts is refused only for its size or because it is not supported, and never as malformed.
    if let Some(next) = wanted.get(handled) {
        let why = may_be_refused(next);
        assert!(why, "it was refused as {broken:?}, and is good: {}", sent.escape_ascii());
    } else if tail == Tail::Closed {
        panic!("refused behind the end of the connection: {}", sent.escape_ascii());
    }
}

/// Returns whether a grammatical request may be refused: for its target, its size, an expectation, or a chunk size with too many
/// zeros.
fn may_be_refused(request: &StrictRequest) -> bool {
    let target = &request.head.target;
    let is_path = target == "*" || target.starts_with('/');
    let expects = request.head.fields.iter().any(|(name, _)| name.eq_ignore_ascii_case("expect"));
    let is_big = target.len() > TARGET_BYTES_MAX
        || request.head.fields.len() > 100
        || matches!(request.head.body, Ok(Framing::Length(length)) if length > BODY_BYTES_MAX);
    !is_path || expects || is_big || request.head.body == Ok(Framing::Chunked)
}

/// Checks that the responses are complete and in order, one for each request.
fn check_answers(received: &[u8], seen: &[Seen], sent: &[u8]) {
    let (mut rest, count) = (received, seen.len());
    for (n, seen) in seen.iter().enumerate() {
        while let Some(behind) = rest.strip_prefix(b"HTTP/1.1 100 Continue\r\n\r\n") {
            rest = behind;
        }
        let head = rest
            .windows(4)
            .position(|end| end == b"\r\n\r\n")
            .unwrap_or_else(|| panic!("answer {n} is not whole: {}", sent.escape_ascii()));
        let text = std::str::from_utf8(&rest[..head]).expect("text");
        rest = &rest[head + 4..];
        let mut lines = text.split("\r\n");
        let status = lines.next().expect("a line");
        let wanted = if matches!(seen, Seen::Refused(_)) { "HTTP/1.1 400 " } else { "HTTP/1.1 200 " };
        assert!(status.starts_with(wanted), "{status}");
        let mut length = None;
        let mut is_chunked = false;
        let mut closes = false;
        for line in lines {
            let (name, value) = line.split_once(": ").unwrap_or_else(|| panic!("{line:?} is no field"));
            assert!(!name.is_empty() && !line.contains(['\r', '\n', '\0']), "{line:?}");
            match name.to_ascii_lowercase().as_str() {
                "content-length" => assert_eq!(length.replace(value.parse::<usize>().expect("a number")), None, "two lengths"),
                "transfer-encoding" => is_chunked = true,
                "connection" => closes = value == "close",
                "x-bad" | "x-two" => panic!("data speaks as a field: {line:?}"),
                _ => {}
            }
        }
        assert!(!(is_chunked && length.is_some()));
        let is_head = matches!(seen, Seen::Handled { method, .. } if method == "HEAD");
        // The refusal of a HEAD request has no body either. The refusal does not show which method it was.
        let text = format!("answer {}", n + 1);
        let body = if is_chunked { format!("{:x}\r\n{text}\r\n0\r\n\r\n", text.len()) } else { text };
        if let (Some(length), false) = (length, is_chunked) {
            assert_eq!(length, body.len());
        }
        match rest.strip_prefix(body.as_bytes()) {
            Some(behind) if !is_head => rest = behind,
            _ => assert!(
                is_head || (matches!(seen, Seen::Refused(_)) && rest.is_empty()),
                "answer {n} has another body: {}",
                rest.escape_ascii()
            ),
        }
        if closes {
            assert_eq!(n + 1, count, "something was answered behind a close");
            assert!(rest.is_empty(), "something follows a close: {}", rest.escape_ascii());
        }
    }
    while let Some(behind) = rest.strip_prefix(b"HTTP/1.1 100 Continue\r\n\r\n") {
        rest = behind;
    }
    assert!(rest.is_empty(), "something follows the last answer: {}", rest.escape_ascii());
}
