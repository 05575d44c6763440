//! A second parser of requests, which follows the grammar of RFC 9112 and nothing else. It is slow and simple, and shares no code
//! with the program. It accepts everything that the RFC allows a server to accept, so whatever the server accepts must be
//! accepted here too.

use autoappdev::transport::fuzzing::Framing;

/// A head, parsed by the grammar.
#[derive(Debug)]
pub struct StrictHead {
    pub length: usize,
    pub method: String,
    pub target: String,
    pub is_http_1_0: bool,
    pub fields: Vec<(String, Vec<u8>)>,
    pub body: Result<Framing, &'static str>,
}

impl StrictHead {
    /// Returns the target as an origin server routes it (section 3.2.2).
    pub fn route(&self) -> String {
        let Some((_, address)) = self.target.split_once("://").filter(|(scheme, _)| matches!(*scheme, "http" | "https")) else {
            return self.target.clone();
        };
        let path: String = address.chars().skip_while(|c| !"/?#".contains(*c)).collect();
        if path.starts_with('/') { path } else { format!("/{path}") }
    }
}

/// A complete request.
#[derive(Debug)]
pub struct StrictRequest {
    pub head: StrictHead,
    pub body: Vec<u8>,
}

/// The bytes after the last request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Tail {
    /// Nothing, or the beginning of a request.
    Open,
    /// Bytes that are not a request, and the reason.
    Broken(&'static str),
    /// Anything, because the last request ended the connection.
    Closed,
}

const INCOMPLETE: &str = "it is not all there";

/// Returns the requests in everything that a client sent.
pub fn requests(mut bytes: &[u8]) -> (Vec<StrictRequest>, Tail) {
    let mut requests = Vec::new();
    let tail = |why| if why == INCOMPLETE { Tail::Open } else { Tail::Broken(why) };
    loop {
        // Section 2.2: empty lines before a request are not part of it.
        while let Some(rest) = bytes.strip_prefix(b"\r\n").or_else(|| bytes.strip_prefix(b"\n")) {
            bytes = rest;
        }
        let head = match head(bytes) {
            Ok(head) => head,
            Err(why) => return (requests, tail(why)),
        };
        let behind = &bytes[head.length..];
        let (body, used) = match head.body {
            Ok(Framing::Length(length)) if behind.len() < length => return (requests, Tail::Open),
            Ok(Framing::Length(length)) => (behind[..length].to_vec(), length),
            Ok(Framing::Chunked) => match chunks(behind) {
                Ok(read) => read,
                Err(why) => return (requests, tail(why)),
            },
            Err(why) => return (requests, Tail::Broken(why)),
        };
        bytes = &behind[used..];
        let keeps_alive =
            keeps_alive(head.fields.iter().map(|(name, value)| (name.as_str(), value.as_slice())), head.is_http_1_0);
        requests.push(StrictRequest { head, body });
        if !keeps_alive {
            return (requests, Tail::Closed);
        }
    }
}

/// Returns whether the connection stays open (section 9.3).
pub fn keeps_alive<'f>(fields: impl Iterator<Item = (&'f str, &'f [u8])>, is_http_1_0: bool) -> bool {
    let (mut close, mut keep) = (false, false);
    for (_, value) in fields.filter(|(name, _)| name.eq_ignore_ascii_case("connection")) {
        for option in value.split(|byte| *byte == b',').map(blanks_off) {
            close |= option.eq_ignore_ascii_case(b"close");
            keep |= option.eq_ignore_ascii_case(b"keep-alive");
        }
    }
    !close && (keep || !is_http_1_0)
}

/// Parses a head (sections 2 to 6).
pub fn head(bytes: &[u8]) -> Result<StrictHead, &'static str> {
    let mut at = 0;
    let mut line = || -> Result<&[u8], &'static str> {
        let rest = &bytes[at..];
        let end = rest.iter().position(|byte| *byte == b'\n').ok_or(INCOMPLETE)?;
        at += end + 1;
        // Section 2.2 allows a lone LF to end a line.
        let line = rest[..end].strip_suffix(b"\r").unwrap_or(&rest[..end]);
        if line.iter().all(|byte| is_text(*byte)) { Ok(line) } else { Err("a control stands in a line") }
    };
    let first = line()?;
    let mut words = first.split(|byte| *byte == b' ');
    let (Some(method), Some(target), Some(version), None) = (words.next(), words.next(), words.next(), words.next()) else {
        return Err("its first line has no three words");
    };
    let is_http_1_0 = match version {
        b"HTTP/1.0" => true,
        b"HTTP/1.1" => false,
        _ => return Err("it has another version"),
    };
    if !is_token(method) || target.is_empty() || !target.iter().all(u8::is_ascii_graphic) {
        return Err("its method or its target is none");
    }
    let mut fields = Vec::new();
    loop {
        let line = line()?;
        if line.is_empty() {
            break;
        }
        let colon = line.iter().position(|byte| *byte == b':').ok_or("a field has no colon")?;
        if !is_token(&line[..colon]) {
            return Err("a field has no name");
        }
        fields.push((text(&line[..colon]), blanks_off(&line[colon + 1..]).to_vec()));
    }
    let named = |wanted: &str| fields.iter().filter(|(name, _)| name.eq_ignore_ascii_case(wanted)).count();
    if named("host") > 1 || (named("host") == 0 && !is_http_1_0) {
        return Err("it needs one Host");
    }
    let body = body_end(&fields, is_http_1_0);
    Ok(StrictHead { length: at, method: text(method), target: text(target), is_http_1_0, fields, body })
}

/// Returns where the body ends (section 6.3).
fn body_end(fields: &[(String, Vec<u8>)], is_http_1_0: bool) -> Result<Framing, &'static str> {
    let all = |wanted: &str| -> Vec<&[u8]> {
        fields.iter().filter(|(name, _)| name.eq_ignore_ascii_case(wanted)).map(|(_, value)| value.as_slice()).collect()
    };
    match (all("transfer-encoding").as_slice(), all("content-length").as_slice()) {
        ([], []) => Ok(Framing::Length(0)),
        ([], [length]) if !length.is_empty() && length.iter().all(u8::is_ascii_digit) => {
            text(length).parse().map(Framing::Length).map_err(|_| "its length is beyond counting")
        }
        ([], _) => Err("its length is no number"),
        ([coding], []) if coding.eq_ignore_ascii_case(b"chunked") && !is_http_1_0 => Ok(Framing::Chunked),
        _ => Err("its transfer coding is not chunked alone"),
    }
}

/// Decodes chunks (section 7.1). Returns their data and the number of encoded bytes.
pub fn chunks(bytes: &[u8]) -> Result<(Vec<u8>, usize), &'static str> {
    let mut at = 0;
    let line = |at: &mut usize| -> Result<&[u8], &'static str> {
        let rest = &bytes[*at..];
        let end = rest.iter().position(|byte| *byte == b'\n').ok_or(INCOMPLETE)?;
        *at += end + 1;
        let line = rest[..end].strip_suffix(b"\r").ok_or("a line of the coding ends in a lone LF")?;
        if line.iter().all(|byte| is_text(*byte)) { Ok(line) } else { Err("a control stands in the coding") }
    };
    let mut body = Vec::new();
    loop {
        let size = line(&mut at)?;
        let digits = size.iter().take_while(|byte| byte.is_ascii_hexdigit()).count();
        let extension = blanks_off(&size[digits..]);
        if digits == 0 || (!size[digits..].is_empty() && !extension.starts_with(b";")) {
            return Err("a chunk has no size");
        }
        let size = u64::from_str_radix(&text(&size[..digits]), 16).map_err(|_| "a chunk's size is beyond counting")?;
        let size = usize::try_from(size).map_err(|_| "a chunk's size is beyond counting")?;
        if size == 0 {
            break;
        }
        let rest = &bytes[at..];
        if rest.len() < size.saturating_add(2) {
            // The part of the line break after the chunk that has arrived may already be wrong.
            let is_wrong = rest.get(size).is_some_and(|byte| *byte != b'\r');
            return Err(if is_wrong { "a chunk does not have the length that it states" } else { INCOMPLETE });
        }
        if &rest[size..size + 2] != b"\r\n" {
            return Err("a chunk does not have the length that it states");
        }
        body.extend_from_slice(&rest[..size]);
        at += size + 2;
    }
    loop {
        let trailer = line(&mut at)?;
        if trailer.is_empty() {
            return Ok((body, at));
        }
        let colon = trailer.iter().position(|byte| *byte == b':').ok_or("a trailer has no colon")?;
        if !is_token(&trailer[..colon]) {
            return Err("a trailer has no name");
        }
    }
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

fn blanks_off(bytes: &[u8]) -> &[u8] {
    let blank = |byte: &u8| matches!(*byte, b' ' | b'\t');
    let begin = bytes.iter().position(|byte| !blank(byte)).unwrap_or(bytes.len());
    let end = bytes.iter().rposition(|byte| !blank(byte)).map_or(begin, |last| last + 1);
    &bytes[begin..end]
}

/// Returns whether a field may contain this byte: a visible character, a blank, or not ASCII (RFC 9110, section 5.5).
fn is_text(byte: u8) -> bool {
    byte == b'\t' || (byte >= b' ' && byte != 0x7f)
}

/// Returns whether these bytes are a token (RFC 9110, section 5.6.2).
fn is_token(bytes: &[u8]) -> bool {
    !bytes.is_empty() && bytes.iter().all(|byte| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(byte))
}
