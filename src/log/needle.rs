//! The text of a search, which is found in a line as it is shown.

use std::borrow::Cow;

use memchr::memmem;

/// A text to search for, literally and with case.
#[derive(Clone, Debug)]
pub struct Needle {
    text: String,
    finder: memmem::Finder<'static>,
    /// Whether the text contains U+FFFD, which replaces invalid UTF-8 in a line that is shown.
    has_replacement: bool,
}

impl Needle {
    /// Creates a search for this text.
    pub fn new(text: String) -> Self {
        let finder = memmem::Finder::new(text.as_bytes()).into_owned();
        let has_replacement = text.contains(char::REPLACEMENT_CHARACTER);
        Self { text, finder, has_replacement }
    }

    /// Returns whether the text is in a line of these bytes, as the line is shown.
    pub fn is_in(&self, bytes: &[u8]) -> bool {
        // Whole characters are found in the bytes exactly where they are found in the line that is shown: the first byte of a
        // character never continues another character, so invalid bytes before it do not reach into it.
        if !self.has_replacement {
            return self.finder.find(bytes).is_some();
        }
        match String::from_utf8_lossy(bytes) {
            Cow::Borrowed(text) => self.finder.find(text.as_bytes()).is_some(),
            Cow::Owned(text) => text.contains(&self.text),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn needle_search_in_bytes_equals_search_in_displayed_text() {
        let pieces: [&[u8]; 12] = [
            b"a",
            b"\xc3",
            b"\xa9",
            b"\xc3\xa9",
            b"\xe2\x98",
            b"\x83",
            b"\xe2\x98\x83",
            b"\xff",
            b"\0",
            b"\xe0",
            b"\xc2\x80",
            b"\xef\xbf\xbd",
        ];
        let needles = ["a", "\u{e9}", "\u{2603}", "\u{80}", "\u{fffd}", "a\u{fffd}", "\u{fffd}\u{fffd}", "\0", "\u{e9}a"];
        let needles = needles.map(|text| (text, Needle::new(text.to_owned())));
        let mut found = 0;
        for n in 0..pieces.len().pow(4) {
            let picks = [n % 12, n / 12 % 12, n / 144 % 12, n / 1728];
            let bytes = picks.map(|pick| pieces[pick]).concat();
            let shown = String::from_utf8_lossy(&bytes);
            for (text, needle) in &needles {
                assert_eq!(needle.is_in(&bytes), shown.contains(text), "{text:?} in {bytes:?}");
                found += usize::from(shown.contains(text));
            }
        }
        assert!(found > 10_000);
    }
}
