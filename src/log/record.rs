//! One record of a log, as bytes and parsed.

use crate::api::logs::StreamName;
use crate::clock::{TIMESTAMP_LEN, Timestamp};

/// The most text that one record holds, in bytes.
pub const TEXT_MAX: usize = 64 * 1024;

/// The length of a record before its text, in bytes.
pub(super) const HEAD_LEN: usize = TIMESTAMP_LEN + 4;

/// The most bytes of a record, including the newline.
pub(super) const RECORD_MAX: usize = HEAD_LEN + TEXT_MAX + 1;

/// The origin of a line, which is a letter in the record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Stream {
    /// The pipeline's standard output.
    Stdout = b'o',
    /// The pipeline's standard error.
    Stderr = b'e',
    /// The server itself.
    Backend = b'b',
}

impl Stream {
    /// Returns the name of a stream of the pipeline; `None` for the server's own log.
    pub(super) const fn name(self) -> Option<StreamName> {
        match self {
            Self::Stdout => Some(StreamName::Stdout),
            Self::Stderr => Some(StreamName::Stderr),
            Self::Backend => None,
        }
    }
}

impl From<StreamName> for Stream {
    fn from(name: StreamName) -> Self {
        match name {
            StreamName::Stdout => Self::Stdout,
            StreamName::Stderr => Self::Stderr,
        }
    }
}

/// Appends one record. `text` has no newline and at most [`TEXT_MAX`] bytes. `at` is a [`Timestamp`] as text.
pub(super) fn push_record(out: &mut Vec<u8>, at: &[u8], stream: Stream, goes_on: bool, text: &[u8]) {
    out.extend_from_slice(&record_head(at, stream, goes_on));
    out.extend_from_slice(text);
    out.push(b'\n');
}

pub(super) fn record_head(at: &[u8], stream: Stream, goes_on: bool) -> [u8; HEAD_LEN] {
    let mut head = [b' '; HEAD_LEN];
    head[..TIMESTAMP_LEN].copy_from_slice(at);
    head[TIMESTAMP_LEN + 1] = stream as u8;
    head[TIMESTAMP_LEN + 2] = if goes_on { b'+' } else { b'.' };
    head
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Record<'a> {
    pub(super) at: Timestamp,
    pub(super) stream: Stream,
    pub(super) goes_on: bool,
    pub(super) text: &'a [u8],
}

/// Parses a record without its newline; `None` if it is not a record, because the file was damaged or written by another program.
pub(super) fn parse_record(line: &[u8]) -> Option<Record<'_>> {
    let (head, text) = line.split_at_checked(HEAD_LEN)?;
    let at = std::str::from_utf8(&head[..TIMESTAMP_LEN]).ok()?.parse().ok()?;
    let [b' ', mark, end, b' '] = head[TIMESTAMP_LEN..] else { return None };
    let goes_on = match end {
        b'+' => true,
        b'.' => false,
        _ => return None,
    };
    let stream = [Stream::Stdout, Stream::Stderr, Stream::Backend].into_iter().find(|stream| *stream as u8 == mark)?;
    Some(Record { at, stream, goes_on, text })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn record_with_any_bytes_round_trips() {
        let at = Timestamp::from_unix_ms(1_700_000_000_007);
        for stream in [Stream::Stdout, Stream::Stderr, Stream::Backend] {
            for goes_on in [false, true] {
                for text in [&b""[..], b"hello", b" o. ", b"a\0b\rc\x0c\xff\xfe", "h\u{e9}".as_bytes()] {
                    let mut out = Vec::new();
                    push_record(&mut out, at.to_string().as_bytes(), stream, goes_on, text);
                    let line = out.strip_suffix(b"\n").expect("ends with a newline");
                    assert_eq!(parse_record(line), Some(Record { at, stream, goes_on, text }));
                }
            }
        }
    }

    #[test]
    fn malformed_record_is_rejected() {
        for line in [
            &b""[..],
            b"hello",
            b"2023-11-14T22:13:20.007Z",
            b"2023-11-14T22:13:20.007Z x. hi",
            b"2023-11-14T22:13:20.007Z o? hi",
        ] {
            assert_eq!(parse_record(line), None);
        }
    }
}
