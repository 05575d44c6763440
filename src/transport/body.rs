//! The decoder of chunked bodies (RFC 9112, section 7.1). Pure: the connection reads the bytes, this module interprets them.
//!
//! The next request begins where a body ends. If this decoder were more lenient than a proxy in front of the server, it would
//! take part of a body for a request. So each line break must be CR LF, and each line must follow the grammar.

use super::head::{BODY_BYTES_MAX, Broken, FIELDS_MAX, HEAD_BYTES_MAX};

/// The maximum length of a chunk-size line, in bytes, including its line break.
const SIZE_LINE_BYTES_MAX: usize = 8 * 1024;
/// The maximum number of bytes of chunk extensions in one body. They mean nothing here, and without a limit they could go on for
/// ever (section 7.1.1).
const EXTENSION_BYTES_MAX: usize = 16 * 1024;

/// The part of the coding that comes next.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Next {
    /// A chunk-size line.
    #[default]
    Size,
    /// This many bytes of a chunk.
    Data(usize),
    /// The line break after a chunk.
    DataEnd,
    /// The trailer section, which is read and discarded.
    Trailers,
}

/// The decoder of one chunked body.
#[derive(Debug, Default)]
pub struct Chunks {
    body: Vec<u8>,
    next: Next,
    extension_bytes: usize,
}

impl Chunks {
    /// Decodes as much as possible of the beginning of `bytes`. Returns how many bytes it used, and whether the body is complete.
    /// The caller passes the unused bytes again, followed by those that arrive next.
    pub fn take(&mut self, bytes: &[u8]) -> Result<(usize, bool), Broken> {
        let mut used = 0;
        loop {
            let rest = &bytes[used..];
            match self.next {
                Next::Size => {
                    let Some(line) = size_line(rest)? else { return Ok((used, false)) };
                    let (size, extension_bytes) = chunk_size(line)?;
                    self.extension_bytes += extension_bytes;
                    if self.extension_bytes > EXTENSION_BYTES_MAX {
                        return Err(Broken::Malformed("its chunk extensions are over 16 KiB"));
                    }
                    if size > BODY_BYTES_MAX - self.body.len() {
                        return Err(Broken::BodyTooLarge);
                    }
                    used += line.len();
                    self.next = if size == 0 { Next::Trailers } else { Next::Data(size) };
                }
                Next::Data(left) => {
                    let taken = left.min(rest.len());
                    self.body.extend_from_slice(&rest[..taken]);
                    used += taken;
                    if taken < left {
                        self.next = Next::Data(left - taken);
                        return Ok((used, false));
                    }
                    self.next = Next::DataEnd;
                }
                Next::DataEnd => {
                    if rest.len() < 2 && b"\r\n".starts_with(rest) {
                        return Ok((used, false));
                    }
                    if !rest.starts_with(b"\r\n") {
                        return Err(Broken::Malformed("a chunk does not have the length that it states"));
                    }
                    used += 2;
                    self.next = Next::Size;
                }
                Next::Trailers => {
                    let length = trailers(rest)?;
                    return Ok((used + length.unwrap_or(0), length.is_some()));
                }
            }
        }
    }

    /// Returns how many bytes of the body have been decoded.
    pub fn body_bytes(&self) -> usize {
        self.body.len()
    }

    /// Reserves memory for the longest body in one allocation, which the kernel gets back as a whole. A buffer that grows would
    /// leave its smaller predecessors to the allocator. The part that is not used occupies no memory.
    pub fn grow_no_more(&mut self) {
        self.body.reserve_exact(BODY_BYTES_MAX - self.body.len());
    }

    /// Returns the decoded body.
    pub fn into_body(self) -> Vec<u8> {
        self.body
    }
}

/// Returns the line at the beginning of `bytes`, with its line break, or `None` if it is not complete yet.
fn size_line(bytes: &[u8]) -> Result<Option<&[u8]>, Broken> {
    let near = &bytes[..bytes.len().min(SIZE_LINE_BYTES_MAX)];
    match memchr::memchr(b'\n', near) {
        Some(end) => Ok(Some(&near[..=end])),
        None if near.len() == SIZE_LINE_BYTES_MAX => Err(Broken::Malformed("the line of a chunk's size does not end")),
        None => Ok(None),
    }
}

/// Returns the size in a chunk-size line, and how many bytes of the line are extensions.
fn chunk_size(line: &[u8]) -> Result<(usize, usize), Broken> {
    let broken = Err(Broken::Malformed("a chunk's size is not a number"));
    let digits = line.iter().take_while(|byte| byte.is_ascii_hexdigit()).count();
    let Some(extension) = line[digits..].strip_suffix(b"\r\n") else { return broken };
    // The parser would read a missing number as 0, take blanks for an extension, and accept any byte in an extension.
    let is_extension = extension.is_empty() || extension.trim_ascii_start().starts_with(b";");
    let is_text = extension.iter().all(|byte| matches!(byte, b'\t' | b' '..=b'~' | 0x80..));
    if digits == 0 || !is_extension || !is_text {
        return broken;
    }
    match httparse::parse_chunk_size(line) {
        Ok(httparse::Status::Complete((length, size))) if length == line.len() => {
            // A number that does not fit is a body over the limit.
            Ok((usize::try_from(size).unwrap_or(usize::MAX), extension.len()))
        }
        Ok(_) | Err(_) => broken,
    }
}

/// Returns the length of the trailer section at the beginning of `bytes`, or `None` if it is not complete yet.
fn trailers(bytes: &[u8]) -> Result<Option<usize>, Broken> {
    let mut fields = [httparse::EMPTY_HEADER; FIELDS_MAX];
    let length = match httparse::parse_headers(bytes, &mut fields) {
        Ok(httparse::Status::Complete((length, _))) if length <= HEAD_BYTES_MAX => Some(length),
        Ok(httparse::Status::Partial) if bytes.len() < HEAD_BYTES_MAX => None,
        Ok(_) | Err(httparse::Error::TooManyHeaders) => return Err(Broken::HeadTooLarge),
        Err(_) => return Err(Broken::Malformed("its trailers are not fields")),
    };
    // The parser accepts a lone LF. A section that is already wrong is refused without waiting for its rest.
    let section = &bytes[..length.unwrap_or(bytes.len())];
    let is_lone_lf = |at: usize| at.checked_sub(1).is_none_or(|before| section[before] != b'\r');
    let is_lone_cr = |at: usize| section.get(at + 1).is_some_and(|behind| *behind != b'\n');
    if memchr::memchr_iter(b'\n', section).any(is_lone_lf) || memchr::memchr_iter(b'\r', section).any(is_lone_cr) {
        return Err(Broken::Malformed("its trailers are not fields"));
    }
    Ok(length)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Returns the body and the number of bytes that follow it, or `None` if the body is not complete.
    fn decode(bytes: &[u8]) -> Result<Option<(Vec<u8>, usize)>, Broken> {
        let mut chunks = Chunks::default();
        let (used, is_whole) = chunks.take(bytes)?;
        Ok(is_whole.then(|| (chunks.into_body(), bytes.len() - used)))
    }

    #[test]
    fn chunked_body_is_decoded_in_any_pieces() {
        for (coded, body) in [
            (&b"0\r\n\r\n"[..], &b""[..]),
            (b"3\r\nabc\r\n0\r\n\r\n", b"abc"),
            (b"1;x\r\na\r\n02 ; y=\"z\" \r\n\r\n\r\n000\r\nA: b\r\nContent-Length: 7\r\n\r\n", b"a\r\n"),
            (b"A\r\n0123456789\r\na\r\n0123456789\r\n0\r\n\r\n", b"01234567890123456789"),
        ] {
            assert_eq!(decode(&[coded, b"GET"].concat()), Ok(Some((body.to_vec(), 3))), "{}", coded.escape_ascii());
            for cut in 0..coded.len() {
                assert_eq!(decode(&coded[..cut]), Ok(None), "{} cut at {cut}", coded.escape_ascii());
            }
            let mut bytewise = Chunks::default();
            let (mut waiting, mut ended_at) = (Vec::new(), None);
            for (at, byte) in coded.iter().enumerate() {
                waiting.push(*byte);
                let (used, is_whole) = bytewise.take(&waiting).expect("good");
                waiting.drain(..used);
                ended_at = ended_at.or(is_whole.then_some(at + 1));
            }
            assert_eq!((ended_at, bytewise.into_body()), (Some(coded.len()), body.to_vec()), "{}", coded.escape_ascii());
        }
    }

    #[test]
    fn malformed_chunk_is_refused() {
        for coded in [
            "\r\n",
            "x\r\n",
            "-1\r\n",
            "+1\r\n",
            "0x1\r\n",
            ";x\r\n",
            " 1\r\n",
            "1 \r\n",
            "1 1\r\n",
            "1\n",
            "1;x\n",
            "1;\0\r\n",
            "1;a\rb\r\n",
            "1\r\r\n",
            "00000000000000001\r\n",
            "1\r\nab",
            "1\r\na\n",
            "1\r\na\r\r",
        ] {
            assert!(matches!(decode(coded.as_bytes()), Err(Broken::Malformed(_))), "{}", coded.escape_default());
        }
    }

    #[test]
    fn malformed_or_oversized_trailers_are_refused() {
        for trailers in
            ["X\r\n\r\n", "X : y\r\n\r\n", "X: y\r\n z\r\n\r\n", "X: y\n\r\n", "X: y\r\n\n", "\n", "X: a\rb\r\n\r\n", " \r\n\r\n"]
        {
            let coded = format!("0\r\n{trailers}");
            assert!(matches!(decode(coded.as_bytes()), Err(Broken::Malformed(_))), "{}", coded.escape_default());
        }
        assert!(decode(b"0\r\nX: y\nZ").is_err(), "what is wrong already is not waited for");
        assert_eq!(decode(format!("0\r\n{}\r\n", "X: y\r\n".repeat(FIELDS_MAX + 1)).as_bytes()), Err(Broken::HeadTooLarge));
        assert_eq!(decode(format!("0\r\nX: {}\r\n\r\n", "y".repeat(HEAD_BYTES_MAX)).as_bytes()), Err(Broken::HeadTooLarge));
    }

    #[test]
    fn chunked_body_is_limited_in_size() {
        let big = format!("{:x}\r\n{}\r\n", BODY_BYTES_MAX, "x".repeat(BODY_BYTES_MAX));
        assert_eq!(decode(format!("{big}0\r\n\r\n").as_bytes()).expect("good").expect("whole").0.len(), BODY_BYTES_MAX);
        assert_eq!(decode(format!("{big}1\r\n").as_bytes()), Err(Broken::BodyTooLarge));
        assert_eq!(decode(b"ffffffffffffffff\r\n"), Err(Broken::BodyTooLarge));
        assert!(matches!(decode("1".repeat(SIZE_LINE_BYTES_MAX).as_bytes()), Err(Broken::Malformed(_))));
        let extended = format!("1;{}\r\na\r\n", "x".repeat(6_000));
        assert!(matches!(decode(extended.repeat(3).as_bytes()), Err(Broken::Malformed(_))));
        assert_eq!(decode(extended.repeat(2).as_bytes()), Ok(None));
    }
}
