//! The cases in which we read a request differently from h11, and the section that explains each.

use super::{End, Read, Reading};

/// An intended difference.
pub(crate) struct Difference {
    /// The difference, and the reason for it.
    pub(crate) what: &'static str,
    /// How often it occurs in the generated streams.
    pub(crate) seen: usize,
    applies: fn(&Seen<'_>) -> bool,
}

/// The first request that is read differently.
struct Seen<'b> {
    /// The bytes from its beginning on.
    bytes: &'b [u8],
    ours: Option<&'b Read>,
    theirs: Option<&'b Read>,
    our_end: End,
    their_end: End,
}

impl Seen<'_> {
    /// Returns whether we refuse what h11 accepts or may still accept.
    fn we_refuse(&self) -> bool {
        self.ours.is_none() && self.our_end == End::Refused
    }

    fn they_refuse(&self) -> bool {
        self.theirs.is_none() && self.their_end == End::Refused
    }

    /// Returns whether both accept it, and `change` is the only difference.
    fn differs_in(&self, change: impl FnOnce(&mut Read, &Read)) -> bool {
        let (Some(ours), Some(theirs)) = (self.ours, self.theirs) else { return false };
        let mut changed = ours.clone();
        change(&mut changed, theirs);
        changed == *theirs
    }

    /// Returns its head, as far as it has arrived, without the empty line.
    fn head(&self) -> &[u8] {
        let ends = [&b"\n\r\n"[..], b"\n\n"].map(|end| self.bytes.windows(end.len()).position(|at| at == end));
        let end = ends.into_iter().flatten().min();
        end.map_or(self.bytes, |end| &self.bytes[..=end])
    }

    /// Returns what follows the head.
    fn behind(&self) -> &[u8] {
        let rest = &self.bytes[self.head().len()..];
        rest.strip_prefix(b"\r\n").or_else(|| rest.strip_prefix(b"\n")).unwrap_or(rest)
    }

    fn target(&self) -> &[u8] {
        self.head().split(|byte| *byte == b' ').nth(1).unwrap_or_default()
    }

    fn version(&self) -> &[u8] {
        self.head()
            .split(|byte| *byte == b'\n')
            .next()
            .unwrap_or_default()
            .trim_ascii_end()
            .rsplit(|byte| *byte == b' ')
            .next()
            .unwrap_or_default()
    }

    /// Returns the values of a field.
    fn values(&self, name: &str) -> Vec<&[u8]> {
        let lines = self.head().split(|byte| *byte == b'\n').skip(1);
        lines
            .filter_map(|line| {
                let colon = line.iter().position(|byte| *byte == b':')?;
                line[..colon].eq_ignore_ascii_case(name.as_bytes()).then(|| line[colon + 1..].trim_ascii())
            })
            .collect()
    }

    fn is_chunked(&self) -> bool {
        !self.values("transfer-encoding").is_empty()
    }

    /// Returns whether some line with a chunk size satisfies `is`.
    fn some_size(&self, is: impl FnMut(&[u8]) -> bool) -> bool {
        self.is_chunked() && coding(self.behind()).0.into_iter().any(is)
    }

    /// Returns whether some line of the trailers satisfies `is`.
    fn some_trailer(&self, is: impl FnMut(&[u8]) -> bool) -> bool {
        self.is_chunked() && coding(self.behind()).1.into_iter().any(is)
    }
}

/// Returns the lines with sizes, as far as they can be followed, and those of the trailers, including the empty one.
fn coding(mut bytes: &[u8]) -> (Vec<&[u8]>, Vec<&[u8]>) {
    let (mut sizes, mut trailers) = (Vec::new(), Vec::new());
    let mut is_over = false;
    while !bytes.is_empty() {
        let end = bytes.iter().position(|byte| *byte == b'\n').map_or(bytes.len(), |end| end + 1);
        let (line, rest) = bytes.split_at(end);
        bytes = rest;
        if is_over {
            trailers.push(line);
            if line.trim_ascii().is_empty() {
                break;
            }
            continue;
        }
        sizes.push(line);
        let digits: String = size(line).0.iter().map(|digit| char::from(*digit)).collect();
        match usize::from_str_radix(&digits, 16) {
            Ok(0) => is_over = true,
            Ok(size) => bytes = bytes.get(size.saturating_add(2)..).unwrap_or_default(),
            Err(_) => break,
        }
    }
    (sizes, trailers)
}

/// Returns whether a byte is a control character that no line may contain.
fn is_control(byte: u8) -> bool {
    byte.is_ascii_control() && !matches!(byte, b'\t' | b'\r' | b'\n')
}

/// Returns whether a number, decimal or hexadecimal, is over 1 MiB.
fn is_beyond(digits: &[u8], radix: u32) -> bool {
    let text: String = digits.iter().map(|digit| char::from(*digit)).take_while(|digit| digit.is_digit(radix)).collect();
    !text.is_empty() && u128::from_str_radix(&text, radix).unwrap_or(u128::MAX) > 1024 * 1024
}

/// Splits a line into the digits of a chunk size and what follows them.
fn size(line: &[u8]) -> (&[u8], &[u8]) {
    line.split_at(line.iter().take_while(|byte| byte.is_ascii_hexdigit()).count())
}

pub(crate) const LIST: &[Difference] = &[
    Difference {
        what: "an absolute target is routed by its path (RFC 9112, section 3.2.2)",
        seen: 61,
        applies: |seen| seen.target().starts_with(b"http") && seen.differs_in(|ours, theirs| ours.target = theirs.target),
    },
    Difference {
        what: "a target that is no path of this host is refused (RFC 9112, sections 3.2 and 3.2.2; nothing here is a proxy)",
        seen: 127,
        applies: |seen| seen.we_refuse() && seen.theirs.is_some() && !seen.target().starts_with(b"/") && seen.target() != b"*",
    },
    Difference {
        what: "empty lines in front of a request are skipped (RFC 9112, section 2.2)",
        seen: 66,
        applies: |seen| {
            !seen.we_refuse() && seen.they_refuse() && (seen.bytes.starts_with(b"\r\n") || seen.bytes.starts_with(b"\n"))
        },
    },
    Difference {
        what: "a folded field is refused, not unfolded (RFC 9112, section 5.2, leaves either)",
        seen: 62,
        applies: |seen| {
            let is_folded = seen.head().windows(2).any(|pair| pair == b"\n " || pair == b"\n\t");
            seen.we_refuse() && (is_folded || seen.some_trailer(|line| line.starts_with(b" ")))
        },
    },
    Difference {
        what: "a control in a field is refused (RFC 9110, section 5.5)",
        seen: 59,
        applies: |seen| seen.we_refuse() && seen.head().iter().any(|byte| is_control(*byte)),
    },
    Difference {
        what: "a length that is said twice is refused, also where both say the same (RFC 9110, section 8.6, leaves either)",
        seen: 36,
        applies: |seen| {
            let lengths = seen.values("content-length");
            seen.we_refuse() && (lengths.len() > 1 || lengths.iter().any(|length| length.contains(&b',')))
        },
    },
    Difference {
        what: "a length beside an encoding is refused (RFC 9112, section 6.3: ought to be handled as an error)",
        seen: 60,
        applies: |seen| seen.we_refuse() && !seen.values("content-length").is_empty() && seen.is_chunked(),
    },
    Difference {
        what: "an encoding in HTTP/1.0 is refused (RFC 9112, section 6.1: must be treated as faulty)",
        seen: 94,
        applies: |seen| seen.we_refuse() && seen.version() == b"HTTP/1.0" && seen.is_chunked(),
    },
    Difference {
        what: "another version than 1.0 and 1.1 is refused (RFC 9112, section 2.3; RFC 9110, section 2.5)",
        seen: 52,
        applies: |seen| seen.we_refuse() && !matches!(seen.version(), b"HTTP/1.0" | b"HTTP/1.1"),
    },
    Difference {
        what: "a client of 1.0 that asks for it keeps its connection (RFC 9112, section 9.3)",
        seen: 15,
        applies: |seen| {
            seen.version() == b"HTTP/1.0"
                && !seen.values("connection").is_empty()
                && seen.differs_in(|ours, theirs| ours.goes_on = theirs.goes_on)
        },
    },
    Difference {
        what: "another expectation than 100-continue is refused (RFC 9110, section 10.1.1)",
        seen: 40,
        applies: |seen| seen.we_refuse() && !seen.values("expect").is_empty(),
    },
    Difference {
        what: "a body over 1 MiB is refused at once (RFC 9110, section 15.5.14)",
        seen: 110,
        applies: |seen| {
            let is_long = seen.values("content-length").iter().any(|length| is_beyond(length, 10));
            seen.we_refuse() && (is_long || seen.some_size(|line| is_beyond(line, 16)))
        },
    },
    Difference {
        what: "a target over 8 KiB, a head over 16 KiB or with over 100 fields is refused (RFC 9112, section 3; RFC 6585, section 5)",
        seen: 109,
        applies: |seen| {
            let is_large = seen.target().len() > 8 * 1024 || seen.head().len() > 16 * 1024 - 2;
            seen.we_refuse() && (is_large || seen.head().split(|byte| *byte == b'\n').count() > 102)
        },
    },
    Difference {
        what: "blanks in front of a chunk's extension are skipped (RFC 9112, section 7.1.1: a recipient must parse bad whitespace)",
        seen: 36,
        applies: |seen| {
            let has_blank = |line: &[u8]| matches!(size(line), ([_, ..], [b' ' | b'\t', rest @ ..]) if rest.trim_ascii_start().starts_with(b";"));
            !seen.we_refuse() && seen.they_refuse() && seen.some_size(has_blank)
        },
    },
    Difference {
        what: "a chunk's size is digits and extensions, without controls, with no blanks behind it alone (RFC 9112, sections 7.1 and 7.1.1)",
        seen: 21,
        applies: |seen| {
            let is_odd = |line: &[u8]| {
                let (digits, rest) = size(line);
                let is_blank = !rest.starts_with(b"\r") && rest.trim_ascii().is_empty();
                !digits.is_empty()
                    && (is_blank
                        || rest.iter().any(|byte| is_control(*byte))
                        || rest.windows(2).any(|two| two[0] == b'\r' && two[1] != b'\n'))
            };
            seen.we_refuse() && seen.theirs.is_some() && seen.some_size(is_odd)
        },
    },
    Difference {
        what: "a chunk's size has 16 digits at most (RFC 9112, section 7.1: overflows are to be prevented)",
        seen: 22,
        applies: |seen| seen.we_refuse() && seen.some_size(|line| size(line).0.len() > 16),
    },
    Difference {
        what: "a line of the trailers ends in CR LF and holds no control (RFC 9112, sections 2.2 and 7.1.2; a lone LF may be refused)",
        seen: 42,
        applies: |seen| {
            let is_odd = |line: &[u8]| {
                !line.ends_with(b"\r\n") || line.iter().any(|byte| is_control(*byte)) || line[..line.len() - 2].contains(&b'\r')
            };
            seen.we_refuse() && seen.theirs.is_some() && seen.some_trailer(is_odd)
        },
    },
    Difference {
        what: "leading zeros make a length no other number, however many (RFC 9110, section 8.6: 1*DIGIT)",
        seen: 12,
        applies: |seen| {
            !seen.we_refuse() && seen.they_refuse() && seen.values("content-length").iter().any(|length| length.len() > 20)
        },
    },
    Difference {
        what: "what can not become a request any more is refused without waiting for its end (RFC 9112, section 3, asks for a 400 and for no wait)",
        seen: 29,
        applies: |seen| seen.we_refuse() && seen.theirs.is_none() && seen.their_end == End::WaitsForMore,
    },
];

/// Returns the row for the first request that is read differently, `None` if there is none, or an error if there is no row for
/// it.
pub(crate) fn explain(bytes: &[u8], ours: &Reading, theirs: &Reading) -> Result<Option<&'static str>, String> {
    if ours == theirs {
        return Ok(None);
    }
    let alike = ours.requests.iter().zip(&theirs.requests).take_while(|(ours, theirs)| ours == theirs).count();
    let begin = alike.checked_sub(1).map_or(0, |last| ours.requests[last].next);
    let seen = Seen {
        bytes: &bytes[begin..],
        ours: ours.requests.get(alike),
        theirs: theirs.requests.get(alike),
        our_end: ours.end,
        their_end: theirs.end,
    };
    match LIST.iter().find(|row| (row.applies)(&seen)) {
        Some(row) => Ok(Some(row.what)),
        None => Err(format!("at {begin} ours {:?} {:?}, theirs {:?} {:?}", seen.ours, seen.our_end, seen.theirs, seen.their_end)),
    }
}
