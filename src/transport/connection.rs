//! One connection, on its own thread: reads a request, has it answered, writes the response, and starts over.

use std::io::{self, Read, Write};
use std::net::SocketAddr;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use rouille::{Request, Response};
use rustix::net::Shutdown;

use super::body::Chunks;
use super::cookies;
use super::handler::{Client, Handler};
use super::head::{self, BODY_BYTES_MAX, Broken, Framing, HEAD_BYTES_MAX, Head, SMALL_BODY_BYTES};
use super::listener::Stream;
use super::slots::{Slot, Works};
use super::writer;

/// How long the client's machine may acknowledge nothing while a response of unknown length is sent.
const ACK_TIMEOUT: Duration = Duration::from_secs(30);

const READ_BYTES: usize = 4 * 1024;
/// The maximum number of bytes of a head that are read while cookies of other servers account for its length. A browser keeps up
/// to 180 cookies of 4 KiB for a host.
const TAKEN_BYTES_MAX: usize = 1024 * 1024;
/// The maximum number of bytes of empty lines before a head.
const BLANK_BYTES_MAX: usize = 64;
/// A response up to this size is sent in one write with its head. A longer one follows in pieces of this size.
const ONE_WRITE_BYTES: usize = 16 * 1024;

/// The maximum number of bytes that are discarded after the last response, within [`Terms::linger`]. The client may still be
/// sending, and earlier responses may still be on their way; closing at once would destroy them (RFC 9112, section 9.6). Three
/// megabytes of requests can be queued at a stop.
const LINGER_BYTES: usize = 16 * BODY_BYTES_MAX;

/// The reason why a connection ends.
enum End {
    /// The client has closed the connection, or reading or writing failed. No response can be sent.
    Silent,
    /// The request cannot be handled, and is refused for this reason. Contains its head if only its body was wrong.
    Refused(Broken, Option<Box<Head>>),
    /// The handler responded to the head alone, so the body is not read.
    Answered { response: Response, is_head: bool },
}

impl From<io::Error> for End {
    fn from(_: io::Error) -> Self {
        Self::Silent
    }
}

impl From<Broken> for End {
    fn from(broken: Broken) -> Self {
        Self::Refused(broken, None)
    }
}

/// The time limits of a connection. They depend on whether it has its own thread or one for which others wait.
#[derive(Clone, Copy, Debug)]
pub(super) struct Terms {
    /// How long a head may take, from its first byte, or from the beginning if the thread is lent.
    pub(super) head: Duration,
    pub(super) body: Duration,
    /// How long a client may take to receive one write, which is at most a piece of a response.
    pub(super) write: Duration,
    /// How long a whole response may take, unless it is an operator's.
    pub(super) answer: Option<Duration>,
    /// How long the server reads what a client still sends after its last response.
    pub(super) linger: Duration,
    /// True if the thread is one of the few that serve all clients. It serves one request, or one and the request that it
    /// announced.
    pub(super) is_lent: bool,
}

impl Terms {
    /// The limits of a connection with its own thread.
    pub(super) const OWN: Self = Self {
        head: Duration::from_secs(10),
        body: Duration::from_secs(30),
        write: Duration::from_secs(15),
        answer: None,
        linger: Duration::from_millis(500),
        is_lent: false,
    };
    /// The limits of a connection with a thread of the reserve, for which others wait.
    pub(super) const LENT: Self = Self {
        head: Duration::from_secs(1),
        body: Duration::from_secs(2),
        write: Duration::from_secs(2),
        answer: Some(Duration::from_secs(5)),
        linger: Duration::from_millis(50),
        is_lent: true,
    };
}

/// Serves a connection until either side ends it.
pub(super) fn serve(stream: &Stream, from: SocketAddr, slot: &Slot, handler: &dyn Handler, terms: &Terms) {
    let mut wire = Wire {
        stream,
        from,
        slot,
        handler,
        terms,
        unread: Vec::new(),
        limit: None,
        written_by: None,
        buffer: vec![0; READ_BYTES],
    };
    if stream.set_write_timeout(terms.write).is_err() {
        return;
    }
    let mut is_first = true;
    loop {
        if !slot.waits() {
            return;
        }
        // A stopping server still answers a request that has arrived, even if this thread starts only now. It waits for no
        // further data.
        if slot.is_stopping() && rustix::net::shutdown(stream, Shutdown::Read).is_err() {
            return;
        }
        let read = wire.read_request();
        let works = slot.works();
        if works == Works::NoMore {
            return;
        }
        let (head, body) = match read {
            Ok(read) => read,
            Err(End::Silent) => return,
            Err(End::Refused(broken, head)) => {
                let is_head = head.as_ref().is_some_and(|head| head.method == "HEAD");
                let request = head.map(|head| head.into_request(from, Vec::new()));
                wire.write_last(handler.refuse(&broken, request.as_ref()), is_head);
                return;
            }
            Err(End::Answered { response, is_head }) => {
                wire.write_last(response, is_head);
                return;
            }
        };
        let (is_head, is_http_1_0, keep_alive) = (head.method == "HEAD", head.is_http_1_0, head.keep_alive);
        let request = head.into_request(from, body);
        let announced = AtomicBool::new(false);
        let client = Client::new(stream, slot, !terms.is_lent, &announced);
        let response = caught(handler, &request, || handler.handle(&request, &client)).unwrap_or_else(|fault| fault);
        // The request is freed first, because a response can go on for hours.
        drop(request);
        slot.has_no_body();
        let keeps_thread = !terms.is_lent || is_first && announced.load(Ordering::Relaxed);
        is_first = false;
        let keep_alive = keep_alive
            && works == Works::On
            && !slot.is_stopping()
            && keeps_thread
            && !slot.gives_way()
            && !slot.is_at_last_answer();
        match wire.write(response, is_head, is_http_1_0, keep_alive) {
            Ok(true) => wire.wait_for_turn(),
            Ok(false) => {
                wire.linger();
                return;
            }
            Err(_) => return,
        }
    }
}

/// Calls the handler. A panic in it produces a response too, and does not end the thread.
fn caught<T>(handler: &dyn Handler, request: &Request, call: impl FnOnce() -> T) -> Result<T, Response> {
    catch_unwind(AssertUnwindSafe(call)).map_err(|_| {
        // Logged without the query, which may contain the proof of a session.
        ::log::error!(
            "a fault of ours: {} {} panicked",
            request.method(),
            request.raw_url().split('?').next().unwrap_or_default()
        );
        handler.refuse(&Broken::Fault, Some(request))
    })
}

/// A stream, with the bytes that were read from it ahead of time.
struct Wire<'a> {
    stream: &'a Stream,
    from: SocketAddr,
    slot: &'a Slot,
    handler: &'a dyn Handler,
    terms: &'a Terms,
    unread: Vec<u8>,
    /// The current read timeout. It is set again only if it changes, because that costs a system call. `None` while the
    /// connection waits for the next request: the accepting thread limits that wait, because a timer for each read would cost a
    /// fourteenth of everything that a small request costs.
    limit: Option<Duration>,
    /// The time by which the response must have been written, if there is a limit.
    written_by: Option<Instant>,
    /// The buffer for reading. It is kept, because clearing it again for each read costs more than everything else that is done
    /// for a small request.
    buffer: Vec<u8>,
}

impl Wire<'_> {
    /// Makes a client wait that has sent its next request before it could read the answer to this one. Its slot goes to any other client
    /// meanwhile.
    fn wait_for_turn(&self) {
        let Some(turn) = self.slot.turn() else { return };
        if !self.unread.is_empty() || self.stream.has_unread() {
            self.slot.yields();
            thread::sleep(turn);
        }
    }

    fn read_request(&mut self) -> Result<(Head, Vec<u8>), End> {
        self.written_by = None;
        let head = self.read_head()?;
        match self.read_body(&head) {
            Ok(body) => Ok((head, body)),
            Err(End::Refused(broken, _)) => Err(End::Refused(broken, Some(Box::new(head)))),
            Err(end) => Err(end),
        }
    }

    fn read_head(&mut self) -> Result<Head, End> {
        let mut deadline = self.terms.is_lent.then(|| Instant::now() + self.terms.head);
        let (mut taken, mut blank) = (0, 0);
        loop {
            // Some clients send an empty line after a body (RFC 9112, section 2.2). With many of them, a client could hold the
            // slot without a request.
            let lines = blank_lines(&self.unread);
            self.unread.drain(..lines);
            blank += lines;
            if blank > BLANK_BYTES_MAX {
                return Err(Broken::Malformed("empty lines come before it").into());
            }
            if self.unread.len() > cookies::THIN_FROM && taken <= TAKEN_BYTES_MAX {
                let handler = self.handler;
                cookies::thin_out(&mut self.unread, &|cookie| handler.takes_cookie(cookie));
            }
            if !self.unread.is_empty() {
                if let Some(head) = head::parse(&self.unread)? {
                    self.unread.drain(..head.length);
                    return Ok(head);
                }
                if deadline.is_none() {
                    // The request has begun. The idle time is counted anew, so from here on the shorter limits of a head and of a
                    // body apply.
                    self.slot.waits();
                    deadline = Some(Instant::now() + self.terms.head);
                }
            }
            // A head that is long because of other servers' cookies is read only while no other connection needs its slot.
            if taken > HEAD_BYTES_MAX && self.slot.is_at_last_answer() && !self.slot.is_operator() {
                return Err(Broken::TooManyConnections.into());
            }
            let limit = deadline.map(left_until).transpose()?;
            taken += self.read_more(limit)?;
        }
    }

    fn read_body(&mut self, head: &Head) -> Result<Vec<u8>, End> {
        let framing = head.framing.clone()?;
        if framing == Framing::Length(0) {
            return Ok(Vec::new());
        }
        if matches!(framing, Framing::Length(length) if length > SMALL_BODY_BYTES) {
            self.admit_long_body(head)?;
        }
        if head.expects_continue && self.unread.is_empty() {
            self.send(b"HTTP/1.1 100 Continue\r\n\r\n")?;
            self.slot.waits();
        }
        match framing {
            Framing::Length(length) => self.read_length(length),
            Framing::Chunked => self.read_chunks(head),
        }
    }

    /// Lets the handler decide by the head whether a body over [`SMALL_BODY_BYTES`] is read.
    fn admit_long_body(&self, head: &Head) -> Result<(), End> {
        let request = head.clone().into_request(self.from, Vec::new());
        let announced = AtomicBool::new(false);
        let client = Client::new(self.stream, self.slot, !self.terms.is_lent, &announced);
        match caught(self.handler, &request, || self.handler.refuse_long_body(&request, &client)) {
            Ok(None) => Ok(()),
            Ok(Some(response)) | Err(response) => Err(End::Answered { response, is_head: head.method == "HEAD" }),
        }
    }

    fn read_length(&mut self, length: usize) -> Result<Vec<u8>, End> {
        if length > SMALL_BODY_BYTES {
            self.slot.takes(length)?;
            // In one allocation, which the kernel gets back as a whole. A buffer that grows would leave its smaller predecessors
            // to the allocator.
            self.unread.reserve_exact(length.saturating_sub(self.unread.len()) + READ_BYTES);
        }
        let deadline = Instant::now() + self.terms.body;
        while self.unread.len() < length {
            self.read_more(Some(left_until(deadline)?))?;
        }
        // The connection does not keep the memory of a long body.
        let rest = self.unread.split_off(length);
        Ok(std::mem::replace(&mut self.unread, rest))
    }

    fn read_chunks(&mut self, head: &Head) -> Result<Vec<u8>, End> {
        let deadline = Instant::now() + self.terms.body;
        let mut chunks = Chunks::default();
        let mut counted = SMALL_BODY_BYTES;
        loop {
            let (used, is_whole) = chunks.take(&self.unread)?;
            self.unread.drain(..used);
            if chunks.body_bytes() > counted && counted == SMALL_BODY_BYTES {
                self.admit_long_body(head)?;
            }
            if is_whole {
                self.unread.shrink_to(READ_BYTES);
                return Ok(chunks.into_body());
            }
            if chunks.body_bytes() > counted {
                counted = chunks.body_bytes() + SMALL_BODY_BYTES;
                self.slot.takes(counted)?;
                chunks.grow_no_more();
            }
            self.read_more(Some(left_until(deadline)?))?;
        }
    }

    /// Reads the available bytes, and waits for the first of them, at most for `limit` if there is one. Returns how many bytes it
    /// read.
    fn read_more(&mut self, limit: Option<Duration>) -> Result<usize, End> {
        if self.limit != limit {
            self.stream.set_read_timeout(limit)?;
            self.limit = limit;
        }
        loop {
            match self.stream.read(&mut self.buffer) {
                Ok(0) => return Err(End::Silent),
                Ok(count) => {
                    self.unread.extend_from_slice(&self.buffer[..count]);
                    return Ok(count);
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) if matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut) => {
                    return Err(Broken::TimedOut.into());
                }
                Err(_) => return Err(End::Silent),
            }
        }
    }

    /// Writes the response that ends the connection.
    fn write_last(&mut self, response: Response, is_head: bool) {
        if self.write(response, is_head, false, false).is_ok() {
            self.linger();
        }
    }

    /// Writes a response. Returns whether the connection can continue after it.
    fn write(&mut self, response: Response, is_head: bool, is_http_1_0: bool, keep_alive: bool) -> io::Result<bool> {
        self.written_by = self.terms.answer.filter(|_| !self.slot.is_operator()).map(|limit| Instant::now() + limit);
        let Response { status_code, headers, data, .. } = response;
        let (mut reader, length) = data.into_reader_and_size();
        let has_body = !matches!(status_code, 100..=199 | 204 | 304);
        // Without a length, the last chunk marks the end of the response. For a client that does not know chunks, the end of the
        // connection does.
        let is_chunked = has_body && length.is_none() && !is_http_1_0;
        let keep_alive = keep_alive && (length.is_some() || is_chunked || !has_body);
        let framing = if is_chunked { "\r\nTransfer-Encoding: chunked" } else { "" };
        let persistence = match (keep_alive, is_http_1_0) {
            (false, _) => "\r\nConnection: close",
            // HTTP/1.1 connections stay open by default. An HTTP/1.0 client needs the field.
            (true, true) => "\r\nConnection: keep-alive",
            (true, false) => "",
        };
        let mut out = Vec::with_capacity(512 + length.unwrap_or(0).min(ONE_WRITE_BYTES));
        writer::put_head(&mut out, status_code, &headers, length.filter(|_| has_body), &[framing, persistence]);

        if !has_body || is_head {
            self.send(&out)?;
        } else if let Some(length) = length {
            let mut left = length;
            loop {
                let wanted = left.min(ONE_WRITE_BYTES.saturating_sub(out.len()).max(READ_BYTES));
                let read = reader.by_ref().take(wanted as u64).read_to_end(&mut out)?;
                left -= read;
                self.send(&out)?;
                out.clear();
                if left == 0 {
                    break;
                }
                if read == 0 {
                    // The body is shorter than its announced length. Only the end of the connection can say so.
                    return Ok(false);
                }
            }
        } else {
            let began = Instant::now();
            self.stream.set_ack_timeout(ACK_TIMEOUT)?;
            // Without chunks, the end of the connection marks the end of the response. A connection that ends earlier is reset,
            // even if the server is killed, so that the client does not take that for the end of the response.
            self.stream.set_reset_on_close(!is_chunked)?;
            // The head is sent even if the connection has given way, so that the client learns that the response is not complete.
            let _gave_way = self.slot.follows(began);
            self.send(&out)?;
            let mut piece = vec![0; ONE_WRITE_BYTES];
            loop {
                // The connection may have to give way while it waits for more to send. The last chunk is then missing, so that no
                // client takes a part of the response for the whole.
                if !self.slot.follows(began) {
                    return Ok(false);
                }
                let count = match reader.read(&mut piece) {
                    Err(error) if error.kind() == io::ErrorKind::Interrupted => {
                        if self.stream.is_left() {
                            return Ok(false);
                        }
                        continue;
                    }
                    other => other?,
                };
                if is_chunked {
                    self.send(&[format!("{count:x}\r\n").as_bytes(), &piece[..count], b"\r\n"].concat())?;
                } else {
                    self.send(&piece[..count])?;
                }
                if count == 0 {
                    break;
                }
            }
            self.stream.set_reset_on_close(false)?;
        }
        Ok(keep_alive)
    }

    /// Writes all bytes, or fails if the client does not receive them in time.
    fn send(&self, mut bytes: &[u8]) -> io::Result<()> {
        let now = self.slot.writes();
        let deadline = self.written_by.map_or(now + self.terms.write, |by| by.min(now + self.terms.write));
        if now >= deadline {
            return Err(io::ErrorKind::TimedOut.into());
        }
        let mut stream = self.stream;
        let mut is_slow = false;
        while !bytes.is_empty() {
            match stream.write(bytes) {
                Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
                Ok(count) => bytes = &bytes[count..],
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
            // The kernel's timeout applies to one call. A client that receives a byte now and then would never reach it.
            if !bytes.is_empty() {
                let left = deadline.saturating_duration_since(Instant::now());
                if left.is_zero() {
                    return Err(io::ErrorKind::TimedOut.into());
                }
                stream.set_write_timeout(left)?;
                is_slow = true;
            }
        }
        if is_slow { stream.set_write_timeout(self.terms.write) } else { Ok(()) }
    }

    fn linger(&mut self) {
        // All of this is best effort, because the response has been sent. The connection gives way like any other that does no
        // work.
        if !self.slot.yields() || rustix::net::shutdown(self.stream, Shutdown::Write).is_err() {
            return;
        }
        let deadline = Instant::now() + self.terms.linger;
        let mut thrown_away = 0;
        while let Ok(limit) = left_until(deadline) {
            self.unread.clear();
            match self.read_more(Some(limit)) {
                // Once the connection gives way, no further data is waited for, and only a little of what has arrived is
                // discarded.
                Ok(count) if thrown_away < if self.slot.gives_way() { SMALL_BODY_BYTES } else { LINGER_BYTES } => {
                    thrown_away += count;
                }
                Ok(_) | Err(_) => return,
            }
        }
    }
}

/// Returns the length of the empty lines at the beginning, in bytes.
fn blank_lines(bytes: &[u8]) -> usize {
    let mut rest = bytes;
    while let Some(after) = rest.strip_prefix(b"\r\n").or_else(|| rest.strip_prefix(b"\n")) {
        rest = after;
    }
    bytes.len() - rest.len()
}

fn left_until(deadline: Instant) -> Result<Duration, Broken> {
    let left = deadline.saturating_duration_since(Instant::now());
    if left.is_zero() { Err(Broken::TimedOut) } else { Ok(left) }
}
