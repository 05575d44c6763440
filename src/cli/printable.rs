//! Text from elsewhere, made safe to print on a terminal.

/// `text` with control characters and those that change the reading direction written as escapes.
pub(super) fn printable(text: &str) -> String {
    let turns = |c| matches!(c, '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}');
    let mut safe = String::with_capacity(text.len());
    for c in text.chars() {
        if c.is_control() || turns(c) { safe.extend(c.escape_default()) } else { safe.push(c) }
    }
    safe
}
