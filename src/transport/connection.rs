//! One connection, on its own thread: read a request, have it answered, write the answer, again.

use std::io::{self, Read, Write};
use std::net::SocketAddr;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicBool, Ordering};
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

/// How long the machine of one that is sent what happens may be out of reach.
const UNHEARD_LIMIT: Duration = Duration::from_secs(30);

const READ_BYTES: usize = 4 * 1024;
/// How much of a head is read while other servers' cookies account for its length. A browser keeps up to 180 cookies of 4 KiB for
/// a host.
const TAKEN_BYTES_MAX: usize = 1024 * 1024;
/// How many bytes of empty lines can come before a head.
const BLANK_BYTES_MAX: usize = 64;
/// An answer up to this size goes out in one write with its head; a longer one follows in pieces of this size.
const ONE_WRITE_BYTES: usize = 16 * 1024;

/// After the last answer the client may still be sending, and those before it may be on their way; closing at once would destroy them
/// (RFC 9112, section 9.6). At most this many bytes are discarded, for [`Terms::linger`]: three megabytes of requests can be queued at a stop.
const LINGER_BYTES: usize = 16 * BODY_BYTES_MAX;

/// Why a connection ends.
enum End {
    /// The other side closed, or reading or writing failed: there is nobody to tell.
    Silent,
    /// The request was not one that can be answered; this can. With its head if only its body went wrong.
    Refused(Broken, Option<Box<Head>>),
    /// The handler answered by the head alone, instead of having the body read.
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

/// How long things may take on a connection: by a thread of its own, and by one that others wait for.
#[derive(Clone, Copy, Debug)]
pub(super) struct Terms {
    /// How long a head may take: from its first byte on, or from the beginning where the thread is lent.
    pub(super) head: Duration,
    pub(super) body: Duration,
    /// How long a client may take to read what is written at once, a piece of an answer at most.
    pub(super) write: Duration,
    /// How long the whole of an answer may take, unless it is an operator's.
    pub(super) answer: Option<Duration>,
    /// How long what a client still sends is read after its last answer.
    pub(super) linger: Duration,
    /// The thread is one of few that serve everybody, and serves one request, or one and the one that it announced.
    pub(super) is_lent: bool,
}

impl Terms {
    /// By a thread of its own.
    pub(super) const OWN: Self = Self {
        head: Duration::from_secs(10),
        body: Duration::from_secs(30),
        write: Duration::from_secs(15),
        answer: None,
        linger: Duration::from_millis(500),
        is_lent: false,
    };
    /// By one of the reserve: others wait for it.
    pub(super) const LENT: Self = Self {
        head: Duration::from_secs(1),
        body: Duration::from_secs(2),
        write: Duration::from_secs(2),
        answer: Some(Duration::from_secs(5)),
        linger: Duration::from_millis(50),
        is_lent: true,
    };
}

/// Serves until either side ends it.
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
        // What has arrived is answered even so, also where this thread runs only now; nothing more is waited for.
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
        // An answer that goes on for hours does not keep what was asked.
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
            Ok(true) => {}
            Ok(false) => {
                wire.linger();
                return;
            }
            Err(_) => return,
        }
    }
}

/// Calls the handler. A panic in it is an answer too, and does not end the thread.
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

/// A stream with what was read from it too early.
struct Wire<'a> {
    stream: &'a Stream,
    from: SocketAddr,
    slot: &'a Slot,
    handler: &'a dyn Handler,
    terms: &'a Terms,
    unread: Vec<u8>,
    /// The read time-out that is set, so that it is set again only when another is wanted: it costs a system call. None while the next
    /// request is waited for, which the accepting thread bounds: a timer for each read costs a fourteenth of all that a small request does.
    limit: Option<Duration>,
    /// When the answer must have been written, if there is a limit.
    written_by: Option<Instant>,
    /// Where reading reads to. Kept, for to clear it anew for each read costs more than all else that is done for a small request.
    buffer: Vec<u8>,
}

impl Wire<'_> {
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
            // Some clients send an empty line after a body (RFC 9112, section 2.2). With many, they would hold the slot without a request.
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
                    // It has begun to speak: from here on it has the limits of a head and of a body, and no more those of who is silent.
                    self.slot.waits();
                    deadline = Some(Instant::now() + self.terms.head);
                }
            }
            // A head that other servers' cookies make long is read only while its slot is not wanted.
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

    /// Has the handler decide by the head whether more of the body is read than is read of every client.
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
            // In one piece, which the kernel gets back whole: one that grows leaves its smaller selves to the allocator.
            self.unread.reserve_exact(length.saturating_sub(self.unread.len()) + READ_BYTES);
        }
        let deadline = Instant::now() + self.terms.body;
        while self.unread.len() < length {
            self.read_more(Some(left_until(deadline)?))?;
        }
        // The connection does not keep the room that a long body took.
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

    /// Reads what there is, waiting at most `limit` for the first of it, where there is one. How many bytes that was.
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

    /// Writes the answer that ends the connection.
    fn write_last(&mut self, response: Response, is_head: bool) {
        if self.write(response, is_head, false, false).is_ok() {
            self.linger();
        }
    }

    /// Writes an answer. Whether the connection can go on after it.
    fn write(&mut self, response: Response, is_head: bool, is_http_1_0: bool, keep_alive: bool) -> io::Result<bool> {
        self.written_by = self.terms.answer.filter(|_| !self.slot.is_operator()).map(|limit| Instant::now() + limit);
        let Response { status_code, headers, data, .. } = response;
        let (mut reader, length) = data.into_reader_and_size();
        let has_body = !matches!(status_code, 100..=199 | 204 | 304);
        // Without a length the end is told by chunks, or by the end of the connection where the client knows no chunks.
        let is_chunked = has_body && length.is_none() && !is_http_1_0;
        let keep_alive = keep_alive && (length.is_some() || is_chunked || !has_body);
        let framing = if is_chunked { "\r\nTransfer-Encoding: chunked" } else { "" };
        let persistence = match (keep_alive, is_http_1_0) {
            (false, _) => "\r\nConnection: close",
            // HTTP/1.1 stays open by default; an HTTP/1.0 client has to be told.
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
                    // Less than was promised: only the end of the connection can say so.
                    return Ok(false);
                }
            }
        } else {
            let began = Instant::now();
            self.stream.end_when_unheard(UNHEARD_LIMIT)?;
            // Where no chunk tells the answer's end, the connection's end does: one that comes before that, of a killed server too, is no end.
            self.stream.set_broken_at_end(!is_chunked)?;
            // If it gave way, the head goes out all the same: so the client learns that the answer is not whole.
            let _gave_way = self.slot.follows(began);
            self.send(&out)?;
            let mut piece = vec![0; ONE_WRITE_BYTES];
            loop {
                // A client that is sent what happens waits for that. The end is missing, so that no client takes a part for the whole.
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
            self.stream.set_broken_at_end(false)?;
        }
        Ok(keep_alive)
    }

    /// Writes all of it, or fails once the client has not taken it in time.
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
            // The kernel's time-out is one of a call: who takes a byte now and then would never meet it.
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
        // All of this is best effort: the answer is out, the rest is courtesy. It gives way like any other that nothing is done for.
        if !self.slot.yields() || rustix::net::shutdown(self.stream, Shutdown::Write).is_err() {
            return;
        }
        let deadline = Instant::now() + self.terms.linger;
        let mut thrown_away = 0;
        while let Ok(limit) = left_until(deadline) {
            self.unread.clear();
            match self.read_more(Some(limit)) {
                // Where it gives way, what had come is discarded, and no more is waited for.
                Ok(count) if thrown_away < if self.slot.gives_way() { SMALL_BODY_BYTES } else { LINGER_BYTES } => {
                    thrown_away += count;
                }
                Ok(_) | Err(_) => return,
            }
        }
    }
}

/// The length of the empty lines at the beginning.
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
