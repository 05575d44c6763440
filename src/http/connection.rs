//! One connection, on its own thread: read a request, have it answered, write the answer, again.

use std::fmt::Write as _;
use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use rouille::{Request, Response};
use time::OffsetDateTime;
use time::macros::format_description;

use super::head::{self, BODY_BYTES_MAX, Broken, Framing, Head};
use super::server::Seat;

/// How long a connection may wait for its next request.
const IDLE_LIMIT: Duration = Duration::from_mins(1);
/// How long a head may take from its first byte on.
const HEAD_LIMIT: Duration = Duration::from_secs(10);
/// How long a body may take.
const BODY_LIMIT: Duration = Duration::from_secs(30);
/// How long a client may not read what is written to it.
const WRITE_LIMIT: Duration = Duration::from_secs(15);

/// A body up to this size is not counted; a chunked one is counted anew each time that it has grown by so much.
const SMALL_BODY_BYTES: usize = 16 * 1024;

/// What is read at a time, in bytes.
const READ_BYTES: usize = 8 * 1024;
/// An answer up to this size goes out in one write with its head; a longer one follows in pieces of this size.
const ONE_WRITE_BYTES: usize = 32 * 1024;

/// After a refusal the client may still be sending; closing at once would destroy the answer on its way (RFC 9112, section 9.6). So much and
/// so long is read and thrown away.
const LINGER_LIMIT: Duration = Duration::from_millis(500);
const LINGER_BYTES: usize = 2 * BODY_BYTES_MAX;

/// Why a connection ends.
enum End {
    /// The other side closed, or reading or writing failed: there is nobody to tell.
    Silent,
    /// The request was not one that can be answered; this can.
    Refused(Broken, Option<Box<Head>>),
}

impl From<io::Error> for End {
    fn from(_: io::Error) -> Self {
        Self::Silent
    }
}

/// Serves until either side ends it.
pub(super) fn serve(stream: &TcpStream, from: SocketAddr, seat: &Seat) {
    let mut wire = Wire { stream, unread: Vec::new(), limit: None };
    if stream.set_write_timeout(Some(WRITE_LIMIT)).is_err() {
        return;
    }
    loop {
        seat.waits();
        if seat.shared().is_stopping() {
            return;
        }
        let read = wire.read_request(seat);
        if !seat.works() {
            return;
        }
        let (head, body) = match read {
            Ok(read) => read,
            Err(End::Silent) => return,
            Err(End::Refused(broken, head)) => {
                let method = head.as_ref().map(|head| head.method.clone());
                let request = head.map(|head| head.into_request(from, Vec::new()));
                let response = seat.shared().handler.refuse(&broken, request.as_ref());
                if wire.write(response, method.as_deref() == Some("HEAD"), false, false).is_ok() {
                    // Gives way to a newcomer like any other that nothing is done for.
                    seat.waits();
                    wire.linger();
                }
                return;
            }
        };
        let (is_head, is_http_1_0, keep_alive) = (head.method == "HEAD", head.is_http_1_0, head.keep_alive);
        let request = head.into_request(from, body);
        let response = answer(seat, &request);
        let keep_alive = keep_alive && !seat.shared().is_stopping();
        match wire.write(response, is_head, is_http_1_0, keep_alive) {
            Ok(true) => {}
            Ok(false) | Err(_) => return,
        }
    }
}

/// Calls the handler. A panic in it is an answer too, and the connection goes on.
fn answer(seat: &Seat, request: &Request) -> Response {
    let handler = &seat.shared().handler;
    catch_unwind(AssertUnwindSafe(|| handler.handle(request))).unwrap_or_else(|_| {
        ::log::error!("a fault of ours: {} {} panicked", request.method(), request.raw_url());
        handler.refuse(&Broken::Fault, Some(request))
    })
}

/// A stream with what was read from it too early.
struct Wire<'a> {
    stream: &'a TcpStream,
    unread: Vec<u8>,
    /// The read time-out that is set, so that it is set again only when another is wanted: it costs a system call.
    limit: Option<Duration>,
}

impl Wire<'_> {
    fn read_request(&mut self, seat: &Seat) -> Result<(Head, Vec<u8>), End> {
        let head = self.read_head()?;
        let framing = head.framing.clone().map_err(|broken| End::Refused(broken, None).with(&head))?;
        let body = match framing {
            Framing::Length(0) => Vec::new(),
            Framing::Length(length) => {
                self.say_continue(&head)?;
                self.read_body(length, seat).map_err(|end| end.with(&head))?
            }
            Framing::Chunked => {
                self.say_continue(&head)?;
                self.read_chunks(seat).map_err(|end| end.with(&head))?
            }
        };
        Ok((head, body))
    }

    fn read_head(&mut self) -> Result<Head, End> {
        let mut deadline = None;
        loop {
            // Some clients send an empty line after a body (RFC 9112, section 2.2).
            while let Some(blank) = [&b"\r\n"[..], b"\n"].into_iter().find(|blank| self.unread.starts_with(blank)) {
                self.unread.drain(..blank.len());
            }
            if !self.unread.is_empty() {
                if let Some((length, head)) = head::parse(&self.unread).map_err(|broken| End::Refused(broken, None))? {
                    self.unread.drain(..length);
                    return Ok(head);
                }
                deadline.get_or_insert_with(|| Instant::now() + HEAD_LIMIT);
            }
            let limit = match deadline {
                None => IDLE_LIMIT,
                Some(deadline) => left_until(deadline)?,
            };
            match self.read_more(limit) {
                Ok(0) => return Err(End::Silent),
                Ok(_) => {}
                // Nobody spoke: nobody is to be told.
                Err(End::Refused(Broken::TimedOut, _)) if self.unread.is_empty() => return Err(End::Silent),
                Err(end) => return Err(end),
            }
        }
    }

    fn say_continue(&mut self, head: &Head) -> io::Result<()> {
        if head.expects_continue && self.unread.is_empty() {
            self.stream.write_all(b"HTTP/1.1 100 Continue\r\n\r\n")?;
        }
        Ok(())
    }

    fn read_body(&mut self, length: usize, seat: &Seat) -> Result<Vec<u8>, End> {
        if length > SMALL_BODY_BYTES {
            if !seat.takes(length) {
                return Err(End::Refused(Broken::Busy, None));
            }
            // In one piece, which the kernel gets back whole: one that grows leaves its smaller selves to the allocator.
            self.unread.reserve_exact(length.saturating_sub(self.unread.len()) + READ_BYTES);
        }
        let deadline = Instant::now() + BODY_LIMIT;
        while self.unread.len() < length {
            if self.read_more(left_until(deadline)?)? == 0 {
                return Err(End::Silent);
            }
        }
        // The connection does not keep the room that a long body took.
        let rest = self.unread.split_off(length);
        Ok(std::mem::replace(&mut self.unread, rest))
    }

    /// Undoes the chunked coding (RFC 9112, section 7.1). Trailers are read and thrown away.
    fn read_chunks(&mut self, seat: &Seat) -> Result<Vec<u8>, End> {
        let deadline = Instant::now() + BODY_LIMIT;
        let broken = |why| End::Refused(Broken::Malformed(why), None);
        let mut body = Vec::new();
        let mut counted = SMALL_BODY_BYTES;
        loop {
            let line = self.read_line(deadline)?;
            // The parser takes no digit at all for a 0, and with it what follows for the next request.
            if !line.first().is_some_and(u8::is_ascii_hexdigit) {
                return Err(broken("a chunk's size is no number"));
            }
            let (_, size) = match httparse::parse_chunk_size(&line) {
                Ok(httparse::Status::Complete(parsed)) => parsed,
                Ok(httparse::Status::Partial) | Err(_) => return Err(broken("a chunk's size is no number")),
            };
            let size = usize::try_from(size).unwrap_or(usize::MAX);
            if size == 0 {
                break;
            }
            if size > BODY_BYTES_MAX - body.len() {
                return Err(End::Refused(Broken::BodyTooLarge, None));
            }
            if body.len() + size > counted {
                counted = body.len() + size + SMALL_BODY_BYTES;
                if !seat.takes(counted) {
                    return Err(End::Refused(Broken::Busy, None));
                }
                // As above; what is not used of it is not there.
                body.reserve_exact(BODY_BYTES_MAX + READ_BYTES - body.len());
            }
            while self.unread.len() < size + 2 {
                if self.read_more(left_until(deadline)?)? == 0 {
                    return Err(End::Silent);
                }
            }
            body.extend(self.unread.drain(..size));
            let end: Vec<u8> = self.unread.drain(..2).collect();
            if end != b"\r\n" {
                return Err(broken("a chunk does not end where it says"));
            }
        }
        let mut trailer_bytes = 0;
        loop {
            let line = self.read_line(deadline)?;
            if line == b"\r\n" {
                self.unread.shrink_to(READ_BYTES);
                return Ok(body);
            }
            trailer_bytes += line.len();
            if trailer_bytes > head::HEAD_BYTES_MAX {
                return Err(End::Refused(Broken::HeadTooLarge, None));
            }
        }
    }

    fn read_line(&mut self, deadline: Instant) -> Result<Vec<u8>, End> {
        loop {
            if let Some(end) = memchr::memchr(b'\n', &self.unread) {
                return Ok(self.unread.drain(..=end).collect());
            }
            if self.unread.len() > READ_BYTES {
                return Err(End::Refused(Broken::Malformed("a line of a chunked body does not end"), None));
            }
            if self.read_more(left_until(deadline)?)? == 0 {
                return Err(End::Silent);
            }
        }
    }

    /// Reads what there is, waiting at most `limit` for the first of it. 0 at the end.
    fn read_more(&mut self, limit: Duration) -> Result<usize, End> {
        if self.limit != Some(limit) {
            self.stream.set_read_timeout(Some(limit))?;
            self.limit = Some(limit);
        }
        let mut buffer = [0; READ_BYTES];
        loop {
            match self.stream.read(&mut buffer) {
                Ok(count) => {
                    self.unread.extend_from_slice(&buffer[..count]);
                    return Ok(count);
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) if matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut) => {
                    return Err(End::Refused(Broken::TimedOut, None));
                }
                Err(_) => return Err(End::Silent),
            }
        }
    }

    /// Writes an answer. Whether the connection can go on after it.
    fn write(&mut self, response: Response, is_head: bool, is_http_1_0: bool, keep_alive: bool) -> io::Result<bool> {
        let Response { status_code, headers, data, .. } = response;
        let (mut reader, length) = data.into_reader_and_size();
        let has_body = !matches!(status_code, 100..=199 | 204 | 304);
        // Without a length the end is told by chunks, or by the end of the connection where the client knows no chunks.
        let is_chunked = has_body && length.is_none() && !is_http_1_0;
        let keep_alive = keep_alive && (length.is_some() || is_chunked || !has_body);

        let mut out = Vec::with_capacity(512 + length.unwrap_or(0).min(ONE_WRITE_BYTES));
        let mut text = String::with_capacity(512);
        let _never_fails = write!(text, "HTTP/1.1 {status_code} {}\r\nDate: {}\r\n", reason(status_code), date());
        for (name, value) in &headers {
            // These are this function's own to say.
            let is_framing = ["content-length", "transfer-encoding", "connection", "date"]
                .iter()
                .any(|framing| name.eq_ignore_ascii_case(framing));
            // A line break in a value would let data speak as headers.
            if !is_framing && !name.bytes().chain(value.bytes()).any(|byte| matches!(byte, b'\r' | b'\n' | 0)) {
                let _never_fails = write!(text, "{name}: {value}\r\n");
            }
        }
        if let (true, Some(length)) = (has_body, length) {
            let _never_fails = write!(text, "Content-Length: {length}\r\n");
        } else if is_chunked {
            text.push_str("Transfer-Encoding: chunked\r\n");
        }
        match (keep_alive, is_http_1_0) {
            (false, _) => text.push_str("Connection: close\r\n"),
            (true, true) => text.push_str("Connection: keep-alive\r\n"),
            (true, false) => {}
        }
        text.push_str("\r\n");
        out.extend_from_slice(text.as_bytes());

        if !has_body || is_head {
            self.stream.write_all(&out)?;
        } else if let Some(length) = length {
            let mut left = length;
            loop {
                let wanted = left.min(ONE_WRITE_BYTES.saturating_sub(out.len()).max(READ_BYTES));
                let read = reader.by_ref().take(wanted as u64).read_to_end(&mut out)?;
                left -= read;
                self.stream.write_all(&out)?;
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
            self.stream.write_all(&out)?;
            let mut piece = vec![0; READ_BYTES];
            loop {
                let count = reader.read(&mut piece)?;
                if is_chunked {
                    let mut chunk = format!("{count:x}\r\n").into_bytes();
                    chunk.extend_from_slice(&piece[..count]);
                    chunk.extend_from_slice(b"\r\n");
                    self.stream.write_all(&chunk)?;
                } else {
                    self.stream.write_all(&piece[..count])?;
                }
                if count == 0 {
                    break;
                }
            }
        }
        Ok(keep_alive)
    }

    fn linger(&mut self) {
        // All of this is best effort: the answer is out, the rest is courtesy.
        if self.stream.shutdown(std::net::Shutdown::Write).is_err() {
            return;
        }
        let deadline = Instant::now() + LINGER_LIMIT;
        let mut thrown_away = 0;
        while let Ok(limit) = left_until(deadline) {
            self.unread.clear();
            match self.read_more(limit) {
                Ok(count) if count > 0 && thrown_away < LINGER_BYTES => thrown_away += count,
                Ok(_) | Err(_) => return,
            }
        }
    }
}

impl End {
    /// Adds the head that was read before the body went wrong.
    fn with(self, head: &Head) -> Self {
        match self {
            Self::Silent => Self::Silent,
            Self::Refused(broken, _) => Self::Refused(broken, Some(Box::new(head.clone()))),
        }
    }
}

fn left_until(deadline: Instant) -> Result<Duration, End> {
    let left = deadline.saturating_duration_since(Instant::now());
    if left.is_zero() { Err(End::Refused(Broken::TimedOut, None)) } else { Ok(left) }
}

/// The time as HTTP writes it (RFC 9110, section 5.6.7), made once a second for each thread.
fn date() -> String {
    use std::cell::RefCell;
    thread_local! {
        static LAST: RefCell<(u64, String)> = const { RefCell::new((u64::MAX, String::new())) };
    }
    let second = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
    LAST.with_borrow_mut(|(at, text)| {
        if *at != second {
            let format =
                format_description!("[weekday repr:short], [day] [month repr:short] [year] [hour]:[minute]:[second] GMT");
            let now =
                OffsetDateTime::from_unix_timestamp(i64::try_from(second).unwrap_or(0)).unwrap_or(OffsetDateTime::UNIX_EPOCH);
            *text = now.format(format).unwrap_or_default();
            *at = second;
        }
        text.clone()
    })
}

/// The words for a status; for people only (RFC 9112, section 4).
fn reason(status: u16) -> &'static str {
    match status {
        200 => "OK",
        204 => "No Content",
        304 => "Not Modified",
        400 => "Bad Request",
        401 => "Unauthorized",
        403 => "Forbidden",
        404 => "Not Found",
        405 => "Method Not Allowed",
        408 => "Request Timeout",
        409 => "Conflict",
        413 => "Content Too Large",
        414 => "URI Too Long",
        415 => "Unsupported Media Type",
        421 => "Misdirected Request",
        422 => "Unprocessable Content",
        431 => "Request Header Fields Too Large",
        500 => "Internal Server Error",
        501 => "Not Implemented",
        503 => "Service Unavailable",
        507 => "Insufficient Storage",
        _ => "",
    }
}
