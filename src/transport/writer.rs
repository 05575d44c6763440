//! The head of an answer, and short answers as a whole, from rouille's `Response` to bytes.

use std::borrow::Cow;
use std::io::{self, Read, Write};
use std::time::{SystemTime, UNIX_EPOCH};

use rouille::Response;
use time::OffsetDateTime;
use time::macros::format_description;

/// How a client knows where an answer's body ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Framed {
    /// The status has none.
    WithoutBody,
    /// It has this many bytes.
    Length(usize),
    /// It is sent in chunks.
    Chunked,
    /// By the end of the connection.
    ByItsEnd,
}

/// What the head says about the connection after this answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Persistence {
    /// It stays open, as HTTP/1.1 does by default.
    Default,
    /// It stays open, which an HTTP/1.0 client has to be told.
    KeepAlive,
    /// This was the last answer.
    Close,
}

/// Appends the head of an answer with its empty line.
pub(super) fn put_head(
    out: &mut Vec<u8>,
    status: u16,
    fields: &[(Cow<'static, str>, Cow<'static, str>)],
    framed: Framed,
    persistence: Persistence,
) {
    put(out, &["HTTP/1.1 "]);
    put_status(out, status);
    put(out, &["\r\nDate: "]);
    put_date(out);
    put_fields(out, fields);
    match framed {
        Framed::WithoutBody | Framed::ByItsEnd => {}
        Framed::Length(length) => write!(out, "\r\nContent-Length: {length}").expect("a vector takes all"),
        Framed::Chunked => put(out, &["\r\nTransfer-Encoding: chunked"]),
    }
    let connection = match persistence {
        Persistence::Default => "",
        Persistence::KeepAlive => "\r\nConnection: keep-alive",
        Persistence::Close => "\r\nConnection: close",
    };
    put(out, &[connection, "\r\n\r\n"]);
}

/// A short answer as a whole, the last one of its connection.
pub(super) fn last_answer(response: Response) -> io::Result<Vec<u8>> {
    let Response { status_code, headers, data, .. } = response;
    let mut body = Vec::new();
    data.into_reader_and_size().0.read_to_end(&mut body)?;
    let mut out = Vec::with_capacity(512 + body.len());
    put_head(&mut out, status_code, &headers, Framed::Length(body.len()), Persistence::Close);
    out.extend_from_slice(&body);
    Ok(out)
}

/// Appends the fields that a handler may say, each after a line break.
fn put_fields(out: &mut Vec<u8>, fields: &[(Cow<'static, str>, Cow<'static, str>)]) {
    for (name, value) in fields {
        // These are the connection's own to say.
        let is_framing = ["content-length", "transfer-encoding", "connection", "date"]
            .iter()
            .any(|framing| name.eq_ignore_ascii_case(framing));
        // A line break in a value would let data speak as headers.
        // All of it is looked at, also after a find: without a way out the compiler takes many bytes at a time.
        let breaks = |text: &str| text.bytes().fold(false, |found, byte| found | matches!(byte, b'\r' | b'\n' | 0));
        if !is_framing && !breaks(name) && !breaks(value) {
            put(out, &["\r\n", name, ": ", value]);
        }
    }
}

/// Appends texts as they are: an answer's head is a dozen of them, and formatting each costs several times as much.
fn put(out: &mut Vec<u8>, texts: &[&str]) {
    for text in texts {
        out.extend_from_slice(text.as_bytes());
    }
}

/// Appends the time as HTTP writes it (RFC 9110, section 5.6.7), made once a second for each thread.
fn put_date(out: &mut Vec<u8>) {
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
        put(out, &[text]);
    });
}

/// Appends a status with its words, which are for people only (RFC 9112, section 4).
fn put_status(out: &mut Vec<u8>, status: u16) {
    let text = match status {
        200 => "200 OK",
        204 => "204 No Content",
        304 => "304 Not Modified",
        400 => "400 Bad Request",
        401 => "401 Unauthorized",
        403 => "403 Forbidden",
        404 => "404 Not Found",
        405 => "405 Method Not Allowed",
        408 => "408 Request Timeout",
        409 => "409 Conflict",
        413 => "413 Content Too Large",
        414 => "414 URI Too Long",
        415 => "415 Unsupported Media Type",
        421 => "421 Misdirected Request",
        422 => "422 Unprocessable Content",
        429 => "429 Too Many Requests",
        431 => "431 Request Header Fields Too Large",
        500 => "500 Internal Server Error",
        501 => "501 Not Implemented",
        503 => "503 Service Unavailable",
        507 => "507 Insufficient Storage",
        _ => return put(out, &[&status.to_string(), " "]),
    };
    put(out, &[text]);
}
