//! Makes text from outside safe to print: nothing in it can control a terminal or change the reading direction.
//!
//! Use these functions for names, sentences and JSON. For a script's output use `terminal_line.rs`, which keeps colours.

use std::fmt::Write as _;

/// Returns `text` with every character that acts on a terminal escaped, such as `\u{1b}`, including line breaks and tabs.
pub fn printable(text: &str) -> String {
    let mut safe = String::with_capacity(text.len());
    text.chars().for_each(|c| push_printable(&mut safe, c));
    safe
}

/// Like [`printable`], but keeps line breaks.
pub fn printable_lines(text: &str) -> String {
    text.split('\n').map(printable).collect::<Vec<_>>().join("\n")
}

/// Returns an equivalent JSON document on one line, without characters that act on a terminal. Line breaks are removed, because
/// in JSON they can only be between tokens. Other such characters can only be in strings, where an escape denotes the same
/// character (RFC 8259, section 7).
pub fn json_line(json: &str) -> String {
    let mut safe = String::with_capacity(json.len());
    for c in json.chars() {
        match c {
            '\n' | '\r' => {}
            '\t' => safe.push(' '),
            c if acts(c) => write!(safe, "\\u{:04x}", u32::from(c)).expect("a String takes everything"),
            c => safe.push(c),
        }
    }
    safe
}

/// Checks whether a character acts on a terminal: a control character (C0, DEL or C1), one that changes the reading direction
/// (`UAX #9`), or one that begins a new line.
pub(super) fn acts(c: char) -> bool {
    c.is_control() || matches!(c, '\u{61c}' | '\u{200e}' | '\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

pub(super) fn push_printable(text: &mut String, c: char) {
    if acts(c) { text.extend(c.escape_default()) } else { text.push(c) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_control_character_is_escaped() {
        let text = "a\u{1b}[2J\u{9b}H\u{7f}\r\n\t\u{202e}b\u{2066}\u{200f}\u{61c}\u{2028}\0ä☃";
        let safe = r"a\u{1b}[2J\u{9b}H\u{7f}\r\n\t\u{202e}b\u{2066}\u{200f}\u{61c}\u{2028}\u{0}ä☃";
        assert_eq!(printable(text), safe);
        assert_eq!(printable_lines("a\n\rb\n"), "a\n\\rb\n");
        for c in (0..=0x20ff).filter_map(char::from_u32) {
            assert!(!printable(&c.to_string()).chars().any(acts), "{c:?}");
        }
    }

    #[test]
    fn json_line_keeps_its_meaning_without_control_characters() {
        let texts: Vec<String> = (0..=0x20ff).filter_map(char::from_u32).map(|c| format!("x{c}y")).collect();
        let json = serde_json::to_string_pretty(&texts).expect("plain data").replace("  ", "\t");
        let line = json_line(&json);
        assert!(!line.chars().any(acts), "{line}");
        assert_eq!(serde_json::from_str::<Vec<String>>(&line).expect("still JSON"), texts);
    }
}
