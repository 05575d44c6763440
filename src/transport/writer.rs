//! The writer of response heads, and of whole responses if they are short: from rouille's `Response` to bytes.

use std::borrow::Cow;
use std::io::{self, Read, Write};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use http::StatusCode;
use rouille::Response;

type Fields = [(Cow<'static, str>, Cow<'static, str>)];

/// Appends the head of a response, with the empty line. `own` are fields about the connection, each with a line break in front.
pub(super) fn put_head(out: &mut Vec<u8>, status: u16, fields: &Fields, length: Option<usize>, own: &[&str]) {
    put(out, &["HTTP/1.1 "]);
    put_status(out, status);
    put(out, &["\r\nDate: "]);
    put_date(out);
    put_fields(out, fields);
    if let Some(length) = length {
        write!(out, "\r\nContent-Length: {length}").expect("a vector takes all");
    }
    put(out, own);
    put(out, &["\r\n\r\n"]);
}

/// Returns a short response as a whole, which is the last one of its connection.
pub(super) fn last_answer(response: Response) -> io::Result<Vec<u8>> {
    let Response { status_code, headers, data, .. } = response;
    let mut body = Vec::new();
    data.into_reader_and_size().0.read_to_end(&mut body)?;
    let mut out = Vec::with_capacity(512 + body.len());
    put_head(&mut out, status_code, &headers, Some(body.len()), &["\r\nConnection: close"]);
    out.extend_from_slice(&body);
    Ok(out)
}

/// Appends the fields that a handler may set, each after a line break.
fn put_fields(out: &mut Vec<u8>, fields: &Fields) {
    for (name, value) in fields {
        // Only the connection itself sets these.
        let is_framing = ["content-length", "transfer-encoding", "connection", "date"]
            .iter()
            .any(|framing| name.eq_ignore_ascii_case(framing));
        // A line break in a value would let data pass as header fields. The fold does not stop at a match, because without an
        // early exit the compiler checks many bytes at a time.
        let breaks = |text: &str| text.bytes().fold(false, |found, byte| found | matches!(byte, b'\r' | b'\n' | 0));
        if !is_framing && !breaks(name) && !breaks(value) {
            put(out, &["\r\n", name, ": ", value]);
        }
    }
}

/// Appends texts unchanged. The head of a response consists of a dozen of them, and formatting each costs several times as much.
fn put(out: &mut Vec<u8>, texts: &[&str]) {
    for text in texts {
        out.extend_from_slice(text.as_bytes());
    }
}

/// The last second of the year 9999, after which HTTP has no dates, in Unix time.
const LAST_SECOND: u64 = 253_402_300_799;

/// Appends the current time in HTTP's format (RFC 9110, section 5.6.7). Each thread formats it once a second.
fn put_date(out: &mut Vec<u8>) {
    use std::cell::RefCell;
    thread_local! {
        static LAST: RefCell<(u64, String)> = const { RefCell::new((u64::MAX, String::new())) };
    }
    let second = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs().min(LAST_SECOND));
    LAST.with_borrow_mut(|(at, text)| {
        if *at != second {
            *text = httpdate::fmt_http_date(UNIX_EPOCH + Duration::from_secs(second));
            *at = second;
        }
        put(out, &[text]);
    });
}

/// Appends a status code with its reason phrase, which is only for people (RFC 9112, section 4).
fn put_status(out: &mut Vec<u8>, status: u16) {
    match StatusCode::from_u16(status) {
        Ok(status) => put(out, &[status.as_str(), " ", status.canonical_reason().unwrap_or_default()]),
        Err(_) => put(out, &[&status.to_string(), " "]),
    }
}
