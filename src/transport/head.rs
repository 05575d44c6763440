//! The parser of request heads. Refuses what RFC 9112 requires to be refused.

use std::mem::MaybeUninit;
use std::net::SocketAddr;

use rouille::Request;

/// The maximum length of a head, in bytes.
pub const HEAD_BYTES_MAX: usize = 16 * 1024;
/// The maximum number of header fields.
pub const FIELDS_MAX: usize = 100;
/// The maximum length of a request target, in bytes.
pub const TARGET_BYTES_MAX: usize = 8 * 1024;
/// The maximum length of a body, in bytes.
pub const BODY_BYTES_MAX: usize = 1024 * 1024;

/// The size up to which a body is read from every client and not counted, in bytes. A chunked body is counted anew each time that
/// it has grown by this much.
pub const SMALL_BODY_BYTES: usize = 16 * 1024;

/// The reason why the handler does not answer a request.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Broken {
    /// The request is not HTTP, or does not follow RFC 9112.
    #[error("the request is broken: {0}")]
    Malformed(&'static str),
    /// The head is too long or has too many fields.
    #[error("the request's head is over 16 KiB or has over 100 fields")]
    HeadTooLarge,
    /// The target is too long.
    #[error("the request's target is over 8 KiB")]
    TargetTooLong,
    /// The body is too long. It was not read.
    #[error("the request's body is over 1 MiB")]
    BodyTooLarge,
    /// The body is longer than [`SMALL_BODY_BYTES`], and no request to this path needs that. It was not read.
    #[error("the request's body is over 16 KiB, the limit for this path")]
    LongBody,
    /// The request did not arrive in time.
    #[error("the request did not arrive in time")]
    TimedOut,
    /// Too many other clients send long bodies at the same time.
    #[error("too many long requests at once; try again")]
    TooManyBodies,
    /// All connection slots are taken.
    #[error("too many connections; try again")]
    TooManyConnections,
    /// No thread can be created for the connection, and the threads in reserve are busy.
    #[error(
        "the server cannot create another thread: this user or service is at its limit of processes; end some, or raise it \
            (ulimit -u, TasksMax=)"
    )]
    NoThread,
    /// The request has an encoding or an expectation that is not supported.
    #[error("{0} is not supported")]
    Unsupported(&'static str),
    /// The handler panicked, which is a bug in this program.
    #[error("internal error; see the server's log (backend.log)")]
    Fault,
}

/// How the end of a body is determined (RFC 9112, section 6).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Framing {
    /// This many bytes; 0 if the head does not mention a body.
    Length(usize),
    /// Chunked transfer coding.
    Chunked,
}

/// A complete request head.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Head {
    /// Its length in bytes.
    pub length: usize,
    /// The method, as sent.
    pub method: String,
    /// The target, as it is routed.
    pub target: String,
    /// The fields, in their order.
    pub fields: Vec<(String, String)>,
    /// How the end of its body is determined, or why no body is read.
    pub framing: Result<Framing, Broken>,
    /// Whether the client waits for a `100 Continue` before it sends the body.
    pub expects_continue: bool,
    /// Whether the client lets the connection stay open.
    pub keep_alive: bool,
    /// Whether the client speaks HTTP/1.0, and so does not understand chunked coding.
    pub is_http_1_0: bool,
}

impl Head {
    /// Returns the request in the form that the handler receives.
    pub(super) fn into_request(self, from: SocketAddr, body: Vec<u8>) -> Request {
        Request::fake_http_from(from, self.method, self.target, self.fields, body)
    }
}

/// Parses the head at the beginning of `bytes`. Returns `Ok(None)` if it is not complete yet.
pub fn parse(bytes: &[u8]) -> Result<Option<Head>, Broken> {
    // Uninitialized, because clearing memory for a hundred fields costs more than parsing the few that are sent.
    let mut fields = [const { MaybeUninit::uninit() }; FIELDS_MAX];
    let mut request = httparse::Request::new(&mut []);
    let length = match request.parse_with_uninit_headers(bytes, &mut fields) {
        Ok(httparse::Status::Complete(length)) if length <= HEAD_BYTES_MAX => length,
        Ok(httparse::Status::Partial) if bytes.len() < HEAD_BYTES_MAX => return Ok(None),
        Ok(httparse::Status::Complete(_) | httparse::Status::Partial) => {
            let first_line_ends = memchr::memchr(b'\n', bytes).is_some_and(|end| end <= TARGET_BYTES_MAX);
            return Err(if first_line_ends { Broken::HeadTooLarge } else { Broken::TargetTooLong });
        }
        Err(httparse::Error::TooManyHeaders) => return Err(Broken::HeadTooLarge),
        Err(httparse::Error::Version) => return Err(Broken::Malformed("its version is neither HTTP/1.0 nor HTTP/1.1")),
        Err(_) => return Err(Broken::Malformed("its head does not follow RFC 9112")),
    };
    // A bare CR ends a line for some parsers and not for others. If two of them differ, requests can be smuggled.
    let head = &bytes[..length];
    if memchr::memchr_iter(b'\r', head).any(|at| head.get(at + 1) != Some(&b'\n')) {
        return Err(Broken::Malformed("a CR has no LF after it"));
    }
    let target = request.path.expect("a complete head has a target");
    if target.len() > TARGET_BYTES_MAX {
        return Err(Broken::TargetTooLong);
    }
    // The parser accepts any text as a target, but a URI consists of visible ASCII (RFC 9112, section 3.2; RFC 3986, section 2).
    if !target.bytes().all(|byte| byte.is_ascii_graphic()) {
        return Err(Broken::Malformed("its target is not a URI"));
    }
    let is_http_1_0 = request.version == Some(0);
    let mut read = Fields::default();
    let mut kept = Vec::with_capacity(request.headers.len());
    for field in request.headers.iter() {
        read.note(field.name, field.value)?;
        kept.push((field.name.to_owned(), text(field.value)));
    }
    let head = Head {
        length,
        method: request.method.expect("a complete head has a method").to_owned(),
        target: origin_form(target, read.host)?,
        fields: kept,
        framing: read.framing(is_http_1_0),
        expects_continue: read.expects_continue == Some(true) && !is_http_1_0,
        keep_alive: read.keep_alive.unwrap_or(!is_http_1_0),
        is_http_1_0,
    };
    if read.hosts > 1 || (read.hosts == 0 && !is_http_1_0) {
        return Err(Broken::Malformed("it needs exactly one Host"));
    }
    Ok(Some(head))
}

/// Returns a value as text. Nearly all values are ASCII, for which this is one scan and one copy.
fn text(value: &[u8]) -> String {
    std::str::from_utf8(value).map_or_else(|_| String::from_utf8_lossy(value).into_owned(), str::to_owned)
}

/// Returns a target in the form in which this server routes it. The form for proxies has the scheme and the host in front (RFC
/// 9112, section 3.2.2).
fn origin_form(target: &str, host: &[u8]) -> Result<String, Broken> {
    let no_target = Broken::Malformed("its target is not a path");
    let Some(address) = target.strip_prefix("http://").or_else(|| target.strip_prefix("https://")) else {
        return if target.starts_with('/') || target == "*" { Ok(target.to_owned()) } else { Err(no_target) };
    };
    let (authority, path) = address.split_at(address.find(['/', '?', '#']).unwrap_or(address.len()));
    // The request is for the target's host, but the checks use the `Host` field. So the two must be equal.
    if !authority.as_bytes().eq_ignore_ascii_case(host) {
        return Err(Broken::Malformed("its target and its Host name different hosts"));
    }
    Ok(if path.starts_with('/') { path.to_owned() } else { format!("/{path}") })
}

/// The parts of the header fields that concern the connection and the body.
#[derive(Default)]
struct Fields<'h> {
    length: Option<usize>,
    is_chunked: bool,
    has_encoding: bool,
    /// `Some(false)` if the client expects anything else.
    expects_continue: Option<bool>,
    keep_alive: Option<bool>,
    hosts: usize,
    host: &'h [u8],
}

impl<'h> Fields<'h> {
    fn note(&mut self, name: &str, value: &'h [u8]) -> Result<(), Broken> {
        let value = value.trim_ascii();
        if name.eq_ignore_ascii_case("content-length") {
            // Only digits: no sign, and no list (RFC 9112, section 6.3).
            let text = std::str::from_utf8(value).unwrap_or_default();
            let is_number = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
            if !is_number || self.length.is_some() {
                return Err(Broken::Malformed("its Content-Length is not a single number"));
            }
            // A number that does not fit is a body over the limit.
            self.length = Some(text.parse().unwrap_or(usize::MAX));
        } else if name.eq_ignore_ascii_case("transfer-encoding") {
            if self.has_encoding {
                return Err(Broken::Malformed("it has several Transfer-Encodings"));
            }
            self.has_encoding = true;
            self.is_chunked = value.eq_ignore_ascii_case(b"chunked");
        } else if name.eq_ignore_ascii_case("expect") {
            self.expects_continue = Some(self.expects_continue != Some(false) && value.eq_ignore_ascii_case(b"100-continue"));
        } else if name.eq_ignore_ascii_case("connection") {
            for option in value.split(|&byte| byte == b',').map(<[u8]>::trim_ascii) {
                if option.eq_ignore_ascii_case(b"close") {
                    self.keep_alive = Some(false);
                } else if option.eq_ignore_ascii_case(b"keep-alive") {
                    self.keep_alive = self.keep_alive.or(Some(true));
                }
            }
        } else if name.eq_ignore_ascii_case("host") {
            self.hosts += 1;
            self.host = value;
        }
        Ok(())
    }

    fn framing(&self, is_http_1_0: bool) -> Result<Framing, Broken> {
        match (self.has_encoding, self.length) {
            _ if self.expects_continue == Some(false) => Err(Broken::Unsupported("that expectation")),
            (true, Some(_)) => Err(Broken::Malformed("it has both a Content-Length and a Transfer-Encoding")),
            (true, None) if is_http_1_0 => Err(Broken::Malformed("HTTP/1.0 has no Transfer-Encoding")),
            (true, None) if !self.is_chunked => Err(Broken::Unsupported("that transfer encoding")),
            (true, None) => Ok(Framing::Chunked),
            (false, Some(length)) if length > BODY_BYTES_MAX => Err(Broken::BodyTooLarge),
            (false, length) => Ok(Framing::Length(length.unwrap_or(0))),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn head(text: &str) -> Result<Head, Broken> {
        parse(text.as_bytes()).map(|parsed| parsed.expect("all there"))
    }

    fn framing(text: &str) -> Result<Framing, Broken> {
        head(text).and_then(|head| head.framing)
    }

    #[test]
    fn request_head_is_parsed() {
        let read =
            head("POST /api/x?a=b HTTP/1.1\r\nHost: h\r\nContent-Length: 5\r\nExpect: 100-continue\r\n\r\n").expect("reads");
        assert_eq!((read.method.as_str(), read.target.as_str()), ("POST", "/api/x?a=b"));
        assert_eq!(read.framing, Ok(Framing::Length(5)));
        assert!(read.keep_alive && read.expects_continue && !read.is_http_1_0);
        assert_eq!(read.fields[0], ("Host".to_owned(), "h".to_owned()));
        assert!(!head("GET / HTTP/1.1\r\nHost: h\r\nConnection: x, Close\r\n\r\n").expect("reads").keep_alive);
        assert!(!head("GET / HTTP/1.0\r\n\r\n").expect("reads").keep_alive);
        assert!(head("GET / HTTP/1.0\r\nConnection: keep-alive\r\n\r\n").expect("reads").keep_alive);
        assert_eq!(head("GET http://h:1/x?y HTTP/1.1\r\nHost: h:1\r\n\r\n").expect("reads").target, "/x?y");
        assert_eq!(head("GET http://h?x=/y HTTP/1.1\r\nHost: H\r\n\r\n").expect("reads").target, "/?x=/y");
    }

    #[test]
    fn incomplete_head_is_waited_for() {
        let text = b"GET / HTTP/1.1\r\nHost: h\r\n\r\nrest";
        for cut in 0..text.len() - 4 {
            assert_eq!(parse(&text[..cut]), Ok(None), "cut at {cut}");
        }
        assert_eq!(parse(text).expect("reads").expect("whole").length, text.len() - 4);
    }

    #[test]
    fn malformed_or_unsupported_head_is_refused() {
        for (what, fields) in [
            ("two lengths", "Host: h\r\nContent-Length: 1\r\nContent-Length: 1\r\n"),
            ("a list of lengths", "Host: h\r\nContent-Length: 1, 1\r\n"),
            ("a signed length", "Host: h\r\nContent-Length: +1\r\n"),
            ("length and encoding", "Host: h\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n"),
            ("two encodings", "Host: h\r\nTransfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n"),
            ("no host", "X: y\r\n"),
            ("two hosts", "Host: h\r\nHost: h\r\n"),
            ("a folded line", "Host: h\r\nX: y\r\n z\r\n"),
            ("a space before the colon", "Host : h\r\n"),
            ("a bare CR", "Host: h\r\nX: a\rb\r\n"),
        ] {
            let refused = framing(&format!("GET / HTTP/1.1\r\n{fields}\r\n"));
            assert!(matches!(refused, Err(Broken::Malformed(_))), "{what}");
        }
        assert!(matches!(head("GET /gr\u{f6}\u{df}e HTTP/1.1\r\nHost: h\r\n\r\n"), Err(Broken::Malformed(_))));
        assert!(matches!(head("GET / HTTP/2.0\r\nHost: h\r\n\r\n"), Err(Broken::Malformed(_))));
        assert!(matches!(head("PRI * HTTP/2.0\r\n\r\n"), Err(Broken::Malformed(_))));
        assert!(matches!(head("GET x HTTP/1.1\r\nHost: h\r\n\r\n"), Err(Broken::Malformed(_))));
        assert!(matches!(framing("GET / HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: gzip\r\n\r\n"), Err(Broken::Unsupported(_))));
        assert!(matches!(framing("GET / HTTP/1.1\r\nHost: h\r\nExpect: tea\r\n\r\n"), Err(Broken::Unsupported(_))));
    }

    #[test]
    fn head_and_body_limits_have_their_own_errors() {
        let with = |fields: String| framing(&format!("GET / HTTP/1.1\r\nHost: h\r\n{fields}\r\n"));
        assert_eq!(with("Content-Length: 100000000000\r\n".into()), Err(Broken::BodyTooLarge));
        assert_eq!(with(format!("Content-Length: {}\r\n", "9".repeat(40))), Err(Broken::BodyTooLarge));
        assert_eq!(with("X: y\r\n".repeat(FIELDS_MAX)), Err(Broken::HeadTooLarge));
        assert_eq!(with(format!("X: {}\r\n", "y".repeat(HEAD_BYTES_MAX))), Err(Broken::HeadTooLarge));
        assert_eq!(parse(&[b'x'; HEAD_BYTES_MAX]), Err(Broken::TargetTooLong));
        assert_eq!(head(&format!("GET /{} HTTP/1.1\r\nHost: h\r\n\r\n", "x".repeat(9_000))), Err(Broken::TargetTooLong));
    }
}
