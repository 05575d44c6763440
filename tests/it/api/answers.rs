//! How the transport sends a handler's response, and what it does when a handler fails: the library's server with handlers of
//! this test.

use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex};

use crate::support::DEADLINE;
use crate::support::wire::Wire;
use autoappdev::transport::{Binding, Broken, Client, Handler, Listener, Server};
use rouille::{Request, Response, ResponseBody};
use serde_json::json;

/// A handler whose response depends on the path.
struct Desk {
    /// The source of the next stream, piece by piece. The stream ends when the sender is dropped.
    stream: Mutex<Option<Receiver<&'static [u8]>>>,
}

impl Handler for Desk {
    fn handle(&self, request: &Request, _: &Client<'_>) -> Response {
        let text = Response::text("text");
        match request.url().as_str() {
            "/panics" => panic!("on purpose"),
            "/echo" => {
                let mut body = Vec::new();
                request.data().expect("once").read_to_end(&mut body).expect("in memory");
                Response::json(
                    &json!({"length": body.len(), "text": String::from_utf8_lossy(&body), "from": request.remote_addr().ip().to_string()}),
                )
            }
            "/line-breaks" => text
                .with_additional_header("X-Value", "a\r\nX-Evil: yes")
                .with_additional_header("X-LF", "a\nX-Evil: yes")
                .with_additional_header("X-CR", "a\rX-Evil: yes")
                .with_additional_header("X-NUL", "a\0b")
                .with_additional_header("X-Name: a\r\nX-Evil", "yes")
                .with_unique_header("ETag", "\"a\"\r\nX-Evil: yes")
                .with_additional_header("X-Good", "good"),
            "/framing" => text
                .with_additional_header("Content-Length", "1")
                .with_additional_header("Transfer-Encoding", "gzip, chunked")
                .with_additional_header("Connection", "upgrade")
                .with_additional_header("Date", "long ago"),
            "/204" => text.with_status_code(204),
            "/304" => text.with_status_code(304),
            "/promises-more" => with_data(ResponseBody::from_reader_and_size(&b"abc"[..], 10)),
            "/promises-less" => with_data(ResponseBody::from_reader_and_size(&b"abcdefghij"[..], 3)),
            "/long" => with_data(ResponseBody::from_data(vec![b'x'; 1_000_000])),
            "/empty-stream" => with_data(ResponseBody::from_reader(io::empty())),
            "/stream" => {
                let pieces = self.stream.lock().expect("whole").take().expect("one at a time");
                with_data(ResponseBody::from_reader(Pieces { pieces }))
            }
            "/reader-fails" => {
                with_data(ResponseBody::from_reader((&b"first"[..]).chain(Fails(|| Err(io::Error::other("gone"))))))
            }
            "/reader-panics" => with_data(ResponseBody::from_reader((&b"first"[..]).chain(Fails(|| panic!("on purpose"))))),
            _ => text,
        }
    }

    fn refuse(&self, broken: &Broken, _request: Option<&Request>) -> Response {
        let status = if matches!(broken, Broken::Fault) { 500 } else { 400 };
        Response::json(&json!({"ok": false, "detail": broken.to_string()})).with_status_code(status)
    }
}

fn with_data(data: ResponseBody) -> Response {
    Response { data, ..Response::text("") }
}

/// A reader that returns each piece when it is sent.
struct Pieces {
    pieces: Receiver<&'static [u8]>,
}

impl Read for Pieces {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        match self.pieces.recv() {
            Ok(mut piece) => piece.read(buffer),
            Err(_) => Ok(0),
        }
    }
}

struct Fails(fn() -> io::Result<usize>);

impl Read for Fails {
    fn read(&mut self, _: &mut [u8]) -> io::Result<usize> {
        self.0()
    }
}

/// A server with that handler.
struct Running {
    server: Server,
    address: SocketAddr,
    desk: Arc<Desk>,
}

impl Running {
    fn new() -> Self {
        let desk = Arc::new(Desk { stream: Mutex::new(None) });
        let listener = Listener::tcp(SocketAddr::from(([127, 0, 0, 1], 0))).expect("a port");
        let address = listener.address().expect("bound");
        let server = Server::start(vec![Binding { listener, handler: desk.clone() }]).expect("starts");
        Self { server, address, desk }
    }

    fn wire(&self) -> Wire {
        Wire::open(self.address.port())
    }

    /// Sends a request on a new connection, which is returned for reading.
    fn raw(&self, request: &str) -> TcpStream {
        let mut stream = TcpStream::connect(self.address).expect("it accepts");
        stream.set_read_timeout(Some(DEADLINE)).expect("a limit");
        stream.write_all(request.as_bytes()).expect("it is taken");
        stream
    }

    /// Returns the sender for the next stream.
    fn feed(&self) -> Sender<&'static [u8]> {
        let (feed, pieces) = channel();
        *self.desk.stream.lock().expect("whole") = Some(pieces);
        feed
    }
}

fn get(path: &str, version: &str) -> String {
    format!("GET {path} HTTP/{version}\r\nHost: localhost\r\n\r\n")
}

/// Reads until the bytes read so far end with `end`.
fn read_until(stream: &mut TcpStream, end: &str) -> String {
    let mut read = Vec::new();
    let mut byte = [0];
    while !read.ends_with(end.as_bytes()) {
        stream.read_exact(&mut byte).unwrap_or_else(|error| panic!("{error} after {:?}", String::from_utf8_lossy(&read)));
        read.push(byte[0]);
    }
    String::from_utf8(read).expect("text")
}

/// Reads everything up to the end of the connection.
fn read_all(stream: &mut TcpStream) -> String {
    let mut read = Vec::new();
    stream.read_to_end(&mut read).expect("a farewell");
    String::from_utf8(read).expect("text")
}

#[test]
fn handler_panic_returns_500_and_keeps_connection_open() {
    let running = Running::new();
    let mut wire = running.wire();
    for _ in 0..20 {
        let answer = wire.get("/panics");
        assert_eq!((answer.status, &answer.body["ok"]), (500, &json!(false)), "{}", answer.body);
        assert_eq!(wire.get("/").status, 200, "on the same connection");
    }
    assert_eq!(running.wire().get("/").status, 200);
}

#[test]
fn failing_body_reader_truncates_response_without_last_chunk() {
    let running = Running::new();
    for path in ["/reader-fails", "/reader-panics"] {
        let mut stream = running.raw(&get(path, "1.1"));
        let answer = read_all(&mut stream);
        assert!(answer.ends_with("\r\n\r\n5\r\nfirst\r\n"), "no last chunk: {answer:?}");
        assert_eq!(running.wire().get("/").status, 200, "the others go on");
    }
    running.server.stop();
}

#[test]
fn field_value_cannot_inject_fields() {
    let running = Running::new();
    let mut wire = running.wire();
    let answer = wire.get("/line-breaks");
    assert_eq!((answer.status, answer.header("X-Good")), (200, Some("good")));
    for (name, value) in &answer.headers {
        assert!(!name.contains("Evil") && !value.contains("Evil"), "{name}: {value}");
        assert!(!name.chars().chain(value.chars()).any(char::is_control), "{name}: {value}");
    }
    assert_eq!(wire.get("/").status, 200, "nothing was left over");
}

#[test]
fn handler_cannot_set_framing_fields() {
    let running = Running::new();
    let mut wire = running.wire();
    let answer = wire.get("/framing");
    assert_eq!(answer.body, "text");
    let told = |name: &str| answer.headers.iter().filter(|(key, _)| key.eq_ignore_ascii_case(name)).count();
    assert_eq!(["Content-Length", "Transfer-Encoding", "Connection", "Date"].map(told), [1, 0, 0, 1]);
    assert!(answer.header("Date").is_some_and(|date| date.ends_with(" GMT")), "{:?}", answer.headers);
}

#[test]
fn response_without_length_is_sent_in_chunks_without_delay() {
    let running = Running::new();
    let feed = running.feed();
    let mut stream = running.raw(&(get("/stream", "1.1") + &get("/echo", "1.1")));
    let head = read_until(&mut stream, "\r\n\r\n");
    assert!(head.contains("\r\nTransfer-Encoding: chunked\r\n") && !head.contains("Content-Length"), "{head}");
    // The next piece is sent only after the one before has arrived. A server that waited for more data would wait forever.
    for piece in ["a", "data: one\n\n", "0123456789abcdef"] {
        feed.send(piece.as_bytes()).expect("it is read");
        assert_eq!(read_until(&mut stream, &format!("{piece}\r\n")), format!("{:x}\r\n{piece}\r\n", piece.len()));
    }
    drop(feed);
    assert_eq!(read_until(&mut stream, "\r\n\r\n"), "0\r\n\r\n");
    assert!(read_until(&mut stream, "\r\n\r\n").starts_with("HTTP/1.1 200 OK\r\n"), "the connection goes on");
    let mut stream = running.raw(&get("/empty-stream", "1.1"));
    assert!(read_until(&mut stream, "\r\n0\r\n\r\n").contains("chunked"));
}

/// Returns the socket option that limits how long the other machine may be out of reach, from the server's end of the connection.
/// That end is in this process too.
fn unheard_limit(client: &TcpStream) -> u32 {
    use rustix::process::{PidfdFlags, PidfdGetfdFlags, getpid, pidfd_getfd, pidfd_open};
    let (client, me) = (client.local_addr().expect("connected"), pidfd_open(getpid(), PidfdFlags::empty()).expect("alive"));
    let numbers =
        std::fs::read_dir("/proc/self/fd").expect("there").filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok());
    let theirs = numbers
        .filter_map(|number| pidfd_getfd(&me, number, PidfdGetfdFlags::empty()).ok().map(TcpStream::from))
        .find(|stream| stream.peer_addr().is_ok_and(|address| address == client));
    rustix::net::sockopt::tcp_user_timeout(theirs.expect("it is connected")).expect("an option of TCP's")
}

#[test]
fn stream_connection_has_tcp_user_timeout_of_30_seconds() {
    let running = Running::new();
    let feed = running.feed();
    let mut stream = running.raw(&get("/stream", "1.1"));
    feed.send(b"a").expect("it is read");
    assert!(read_until(&mut stream, "\r\na\r\n").contains("chunked"));
    assert_eq!(unheard_limit(&stream), 30_000);
}

#[test]
fn http_1_0_stream_ends_with_close_or_reset_on_error() {
    let running = Running::new();
    let feed = running.feed();
    let keep = "GET /stream HTTP/1.0\r\nConnection: keep-alive\r\n\r\n";
    let mut stream = running.raw(keep);
    let head = read_until(&mut stream, "\r\n\r\n");
    assert!(!head.contains("Transfer-Encoding") && head.contains("\r\nConnection: close\r\n"), "{head}");
    feed.send(b"one").expect("it is read");
    assert_eq!(read_until(&mut stream, "one"), "one");
    drop(feed);
    assert_eq!(read_all(&mut stream), "");

    // A response whose reader fails halfway must not look complete.
    let mut stream = running.raw("GET /reader-fails HTTP/1.0\r\n\r\n");
    let error = stream.read_to_end(&mut Vec::new()).expect_err("no orderly end");
    assert_eq!(error.kind(), io::ErrorKind::ConnectionReset);
}

#[test]
fn responses_to_head_and_204_and_304_have_no_body() {
    let running = Running::new();
    for (path, status) in [("/204", "204 No Content"), ("/304", "304 Not Modified")] {
        let mut stream = running.raw(&(get(path, "1.1") + &get("/echo", "1.1")));
        let head = read_until(&mut stream, "\r\n\r\n");
        assert!(head.starts_with(&format!("HTTP/1.1 {status}\r\n")), "{head}");
        // RFC 9110, section 8.6: no Content-Length with a 204; with a 304 only the length that a 200 would have had.
        assert!(!head.contains("Content-Length") && !head.contains("Transfer-Encoding"), "{head}");
        assert!(read_until(&mut stream, "\r\n\r\n").starts_with("HTTP/1.1 200 OK\r\n"), "the next answer follows at once");
    }
    // A HEAD response has the header fields of a GET and no body (RFC 9110, section 9.3.2). A stream is not even read.
    for path in ["/", "/long", "/stream"] {
        let _feed = running.feed();
        let mut stream = running.raw(&(format!("HEAD {path} HTTP/1.1\r\nHost: localhost\r\n\r\n") + &get("/echo", "1.1")));
        let head = read_until(&mut stream, "\r\n\r\n");
        let framing = match path {
            "/" => "Content-Length: 4\r\n",
            "/long" => "Content-Length: 1000000\r\n",
            _ => "Transfer-Encoding: chunked\r\n",
        };
        assert!(head.contains(framing), "{path}: {head}");
        assert!(read_until(&mut stream, "\r\n\r\n").starts_with("HTTP/1.1 200 OK\r\n"), "{path}");
    }
}

#[test]
fn wrong_content_length_does_not_corrupt_next_response() {
    let running = Running::new();
    let mut stream = running.raw(&(get("/promises-more", "1.1") + &get("/echo", "1.1")));
    let answer = read_all(&mut stream);
    assert!(answer.contains("Content-Length: 10\r\n") && answer.ends_with("\r\n\r\nabc"), "cut off, and closed: {answer:?}");
    let mut wire = running.wire();
    assert_eq!(wire.get("/promises-less").body, "abc");
    assert_eq!(wire.get("/").body, "text");
}

#[test]
fn handler_receives_complete_body_in_any_framing() {
    let running = Running::new();
    let mut wire = running.wire();
    let long = "x".repeat(1024 * 1024);
    let chunked = "Transfer-Encoding: chunked\r\n";
    for (what, fields, body, text) in [
        ("none", "", String::new(), ""),
        ("a length", "Content-Length: 3\r\n", "abc".to_owned(), "abc"),
        ("a length with zeros in front", "Content-Length: 003\r\n", "abc".to_owned(), "abc"),
        ("a length and blanks", "Content-Length: \t 3 \t\r\n", "abc".to_owned(), "abc"),
        ("one chunk", chunked, "3\r\nabc\r\n0\r\n\r\n".to_owned(), "abc"),
        ("no chunk", chunked, "0\r\n\r\n".to_owned(), ""),
        ("capital digits", chunked, "A\r\n0123456789\r\n0\r\n\r\n".to_owned(), "0123456789"),
        ("zeros in front", chunked, "0003\r\nabc\r\n000\r\n\r\n".to_owned(), "abc"),
        ("extensions", chunked, "1;a\r\na\r\n2 ; b=\"c;d\"\r\nbc\r\n0;e=f\r\n\r\n".to_owned(), "abc"),
        ("trailers", chunked, "3\r\nabc\r\n0\r\nX: y\r\nContent-Length: 9\r\n\r\n".to_owned(), "abc"),
        ("CR LF as data", chunked, "4\r\n\r\n\r\n\r\n0\r\n\r\n".to_owned(), "\r\n\r\n"),
        ("the longest", "Content-Length: 1048576\r\n", long.clone(), &long),
        ("the longest in one chunk", chunked, format!("100000\r\n{long}\r\n0\r\n\r\n"), &long),
    ] {
        wire.send(format!("POST /echo HTTP/1.1\r\nHost: localhost\r\n{fields}\r\n{body}"));
        let answer = wire.answer();
        assert_eq!((answer.status, &answer.body["length"]), (200, &json!(text.len())), "{what}");
        assert!(answer.body["text"] == text, "{what}");
        assert_eq!(answer.body["from"], "127.0.0.1");
    }
    // One byte over the limit, in chunks that are each short enough.
    let mut wire = running.wire();
    wire.send(format!("POST /echo HTTP/1.1\r\nHost: localhost\r\n{chunked}\r\n100000\r\n{long}\r\n1\r\n"));
    assert_eq!(wire.answer().status, 400, "refused");
}

#[test]
fn server_stop_completes_during_endless_stream() {
    let running = Running::new();
    let feed = running.feed();
    let mut stream = running.raw(&get("/stream", "1.1"));
    feed.send(b"one").expect("it is read");
    read_until(&mut stream, "one\r\n");
    // One connection that waits for its next request, and one in the middle of a head.
    let mut idle = running.wire();
    assert_eq!(idle.get("/").status, 200);
    let mut begun = running.wire();
    // The response shows that the connection has a slot. A connection that is still in the listener's queue would be reset when
    // the server stops.
    assert_eq!(begun.get("/").status, 200);
    begun.send("GET /echo HT");
    running.server.stop();
    assert!(idle.ends_silently() && begun.ends_silently());
    let refused = TcpStream::connect(running.address).expect_err("nobody listens");
    assert_eq!(refused.kind(), io::ErrorKind::ConnectionRefused);
}
