//! The pattern of a search: a text or a regular expression, which is found in a line as a person sees it.
//!
//! The expression comes from a client, so its cost is limited before the first line is read. For each byte, an engine without
//! backtracking takes at most as many steps as the expression has positions, and the work on a line cannot be interrupted. So the
//! number of positions is limited.

use std::borrow::Cow;
use std::ops::Range;

use regex::{Regex, RegexBuilder};
use regex_syntax::ParserBuilder;
use regex_syntax::hir::{Hir, HirKind};

/// The most positions of an expression once its counted repetitions are written out: `(ab){3}` has six. With this limit, the
/// longest line takes a quarter of a second in the worst case that was found, and usually less than a millisecond.
pub(super) const POSITIONS_MAX: usize = 250;

/// The most memory for the compiled expression, in bytes, and the most for the states that are made during a search. A Unicode
/// class such as `\w` takes tens of kilobytes each time it occurs.
const PROGRAM_BYTES_MAX: usize = 1024 * 1024;

/// How deeply groups can be nested.
const NEST_MAX: u32 = 50;

/// A text or an expression to search for.
#[derive(Clone, Debug)]
pub struct Pattern(Regex);

/// Why an expression is rejected.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BadPattern {
    /// It is not a valid expression.
    #[error("{reason} (at byte {at} of the expression)")]
    Syntax {
        /// The problem.
        reason: String,
        /// The offset of the problem in the expression, in bytes.
        at: usize,
    },
    /// It has too many positions.
    #[error(
        "the expression has more than {POSITIONS_MAX} characters once its counted repetitions are written out; use smaller counts"
    )]
    TooManyPositions,
    /// It needs too much memory.
    #[error("the expression needs too much memory; use fewer classes such as \\w, or (?-u:\\w), which matches only ASCII")]
    TooLarge,
}

impl Pattern {
    /// Creates a pattern for a literal text of at most 250 bytes.
    pub fn text(text: &str, counts_case: bool) -> Result<Self, BadPattern> {
        Self::expression(&regex::escape(text), counts_case)
    }

    /// Creates a pattern for an expression in the syntax of the `regex` crate.
    pub fn expression(expression: &str, counts_case: bool) -> Result<Self, BadPattern> {
        // Parsed with case, which does not change the number of positions. Finding the other cases of many large classes takes a
        // while.
        let parsed = ParserBuilder::new().nest_limit(NEST_MAX).build().parse(expression);
        if positions(&parsed.map_err(|error| bad_syntax(&error))?) > POSITIONS_MAX {
            return Err(BadPattern::TooManyPositions);
        }
        RegexBuilder::new(expression)
            .case_insensitive(!counts_case)
            .nest_limit(NEST_MAX)
            .size_limit(PROGRAM_BYTES_MAX)
            .dfa_size_limit(PROGRAM_BYTES_MAX)
            .build()
            .map(Self)
            // The syntax is valid, because it was parsed above.
            .map_err(|_| BadPattern::TooLarge)
    }

    /// Returns whether the pattern occurs in a line as [`seen`].
    pub(super) fn is_in(&self, line: &str) -> bool {
        self.0.is_match(line)
    }

    /// Returns the range of the first match in a line.
    pub(super) fn first_in(&self, line: &str) -> Option<Range<usize>> {
        self.0.find(line).map(|found| found.range())
    }
}

fn bad_syntax(error: &regex_syntax::Error) -> BadPattern {
    let (reason, at) = match error {
        regex_syntax::Error::Parse(error) => (error.kind().to_string(), error.span().start.offset),
        regex_syntax::Error::Translate(error) => (error.kind().to_string(), error.span().start.offset),
        other => (other.to_string().replace('\n', " "), 0),
    };
    BadPattern::Syntax { reason, at }
}

/// Returns how many characters, classes and anchors an expression has once its repetitions are written out. A repetition without
/// a maximum counts with its minimum, at least once.
fn positions(part: &Hir) -> usize {
    match part.kind() {
        HirKind::Empty | HirKind::Class(_) | HirKind::Look(_) => 1,
        HirKind::Literal(text) => text.0.len(),
        HirKind::Repetition(repeated) => {
            let times = repeated.max.unwrap_or(repeated.min).max(1);
            positions(&repeated.sub).saturating_mul(usize::try_from(times).unwrap_or(usize::MAX))
        }
        HirKind::Capture(group) => positions(&group.sub),
        HirKind::Concat(parts) | HirKind::Alternation(parts) => parts.iter().map(positions).fold(0, usize::saturating_add),
    }
}

/// Returns a line as a person sees it: with invalid UTF-8 replaced, and without escape sequences (colours, links, cursor
/// movements) and a carriage return at the end.
pub(super) fn seen(bytes: &[u8]) -> Cow<'_, str> {
    let text = String::from_utf8_lossy(bytes.strip_suffix(b"\r").unwrap_or(bytes));
    if memchr::memchr(ESC, text.as_bytes()).is_none() {
        return text;
    }
    let (mut kept, mut rest) = (String::with_capacity(text.len()), &*text);
    while let Some(at) = memchr::memchr(ESC, rest.as_bytes()) {
        kept.push_str(&rest[..at]);
        rest = &rest[at + sequence_len(&rest.as_bytes()[at..])..];
    }
    kept.push_str(rest);
    Cow::Owned(kept)
}

const ESC: u8 = 0x1b;

/// Returns the length of the escape sequence at the start of `text` (ECMA-48, sections 5.3 to 5.6). If the sequence has no end,
/// only the escape character counts, as on the page, so that nothing else of the line is hidden.
fn sequence_len(text: &[u8]) -> usize {
    const ALONE: usize = 1;
    let behind = |from: usize, is_part: fn(&u8) -> bool| from + text[from..].iter().take_while(|byte| is_part(byte)).count();
    let end = |at: usize, is_final: fn(&u8) -> bool| if text.get(at).is_some_and(is_final) { at + 1 } else { ALONE };
    let is_intermediate: fn(&u8) -> bool = |byte| matches!(byte, 0x20..=0x2f);
    match text.get(1) {
        Some(b'[') => {
            let parameters_end = behind(2, |byte| matches!(byte, 0x30..=0x3f));
            end(behind(parameters_end, is_intermediate), |byte| matches!(byte, 0x40..=0x7e))
        }
        // A string, such as a link or a title, which ends with BEL or ESC \.
        Some(b']' | b'P' | b'X' | b'^' | b'_') => match memchr::memchr2(0x07, ESC, &text[2..]).map(|at| at + 2) {
            Some(at) if text[at] == 0x07 => at + 1,
            Some(at) if text.get(at + 1) == Some(&b'\\') => at + 2,
            Some(_) | None => ALONE,
        },
        Some(_) => end(behind(1, is_intermediate), |byte| matches!(byte, 0x30..=0x7e)),
        None => ALONE,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn is_in(expression: &str, line: &str) -> bool {
        Pattern::expression(expression, false).expect(expression).is_in(line)
    }

    #[test]
    fn text_pattern_matches_literally_with_and_without_case() {
        let text = |text: &str, counts_case| Pattern::text(text, counts_case).expect(text);
        for (wanted, line, is_found, is_found_by_case) in [
            ("error", "an ERROR here", true, false),
            ("Error", "an Error here", true, true),
            ("a.b", "axb", false, false),
            ("(x+)?[", "f(x+)?[", true, true),
            ("straße", "STRASSE", false, false),
            ("\u{e4}RGER", "\u{c4}rger", true, false),
            ("kelvin", "\u{212a}elvin", true, false),
            ("a\u{fffd}", "a\u{fffd}b", true, true),
        ] {
            assert_eq!(text(wanted, false).is_in(line), is_found, "{wanted} in {line}");
            assert_eq!(text(wanted, true).is_in(line), is_found_by_case, "{wanted} in {line}");
        }
        // No text of the greatest length is rejected, whatever its letters are in other cases.
        for letter in ["k", "s", "\u{df}", "\u{1e9e}", "\u{1c6}", "\u{1c80}", "\u{1f600}", "\0", "\\", "{"] {
            let longest = letter.repeat(200 / letter.len());
            assert!(text(&longest, false).is_in(&longest) && text(&longest, true).is_in(&longest), "{letter:?}");
        }
    }

    #[test]
    fn regex_pattern_supports_anchors_classes_and_flags() {
        assert!(is_in(r"^step \d+/\d+$", "Step 3/40") && !is_in(r"^step \d+$", "a step 3"));
        assert!(is_in(r"\bfail(ed|ure)?\b", "it FAILED") && !is_in(r"\bfail\b", "failing"));
        assert!(is_in(r"\w+@\w+\.\w+", "mail to j\u{f6}rg@example.org now") && is_in("(?-i)x|Y", "Y") && !is_in("(?-i)x", "X"));
        assert_eq!(Pattern::expression("b+", true).expect("good").first_in("abbb"), Some(1..4));
    }

    #[test]
    fn invalid_or_too_large_regex_is_refused_with_reason() {
        let refusal = |expression: &str| Pattern::expression(expression, false).expect_err(expression);
        for (expression, reason, at) in [
            ("(a", "unclosed group", 0),
            ("a\n)b", "unopened group", 2),
            ("[z-a]", "invalid character class range", 1),
            (r"x\p{nonsense}", "Unicode property not found", 1),
            (r"(a)\1", "backreferences are not supported", 3),
            ("(?=a)", "look-around", 0),
            (&"(".repeat(60), "", 0),
            (&format!("{}a{}", "(".repeat(60), ")".repeat(60)), "exceed the maximum number", 0),
        ] {
            let BadPattern::Syntax { reason: said, at: place } = refusal(expression) else { panic!("{expression}") };
            assert!(said.contains(reason) && (at == 0 || place == at), "{expression}: {said}, at {place}");
            assert!(!refusal(expression).to_string().contains('\n'), "{expression}");
        }
        for hostile in [
            "(x{1,50}){1,50}",
            "(a{1,16}){1,16}b",
            "(((a{9}){9}){9}){9}",
            ".{251}",
            "(a|){126,}",
            "a{4294967295}",
            r"(^|$|a){90}",
        ] {
            assert_eq!(refusal(hostile), BadPattern::TooManyPositions, "{hostile}");
        }
        assert_eq!(refusal(r"\w{1,100}"), BadPattern::TooLarge);
        for good in ["(a*)*b", ".{250}", "a{125}b{125}", &"a|".repeat(100), r"(\w+\s+){3}\S+$", r"(?-u:\w){1,200}", "x{1,}"] {
            assert!(Pattern::expression(good, false).is_ok(), "{good}");
        }
    }

    #[test]
    fn terminal_escape_sequences_are_removed_for_search() {
        for (bytes, wanted) in [
            (&b"\x1b[1;31merr\x1b[0mor"[..], "error"),
            (b"\x1b[01m\x1b[Kfile.c:\x1b[m\x1b[K 1", "file.c: 1"),
            (b"\x1b[38:2::1:2:3mx\x1b[?25ly\x1b[ q", "xy"),
            (b"\x1b]8;;http://x\x1b\\link\x1b]8;;\x07", "link"),
            (b"\x1b(Btext\x1b=\x1bM", "text"),
            // Sequences without an end hide nothing.
            (b"\x1b]0;title", "]0;title"),
            (b"\x1b]0;a\x1b[mb", "]0;ab"),
            (b"a\x1b[31", "a[31"),
            (b"a\x1b[3\xffm", "a[3\u{fffd}m"),
            (b"a\x1b", "a"),
            (b"\x1b\x1b[mb", "b"),
            (b"\xc3\x1b[m\xa9\xff", "\u{fffd}\u{fffd}\u{fffd}"),
            (b"dos\r", "dos"),
            (b"10%\r20%\r\r", "10%\r20%\r"),
            (b"", ""),
        ] {
            assert_eq!(seen(bytes), wanted, "{bytes:?}");
        }
    }
}
