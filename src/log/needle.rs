//! What is looked for in lines: a text, to be found in the line as it is shown.

use std::borrow::Cow;

use memchr::memmem;

/// A text to look for, as it is, capitals and all.
#[derive(Clone, Debug)]
pub struct Needle {
    text: String,
    finder: memmem::Finder<'static>,
    /// Whether it holds U+FFFD, which bad UTF-8 is shown as.
    has_replacement: bool,
}

impl Needle {
    /// Looks for this.
    pub fn new(text: String) -> Self {
        let finder = memmem::Finder::new(text.as_bytes()).into_owned();
        let has_replacement = text.contains(char::REPLACEMENT_CHARACTER);
        Self { text, finder, has_replacement }
    }

    /// Whether it is in a line of these bytes, as that is shown.
    pub fn is_in(&self, bytes: &[u8]) -> bool {
        // Whole characters are found in the bytes exactly where they are found in what is shown of them: a character's first byte is
        // none of another's, so nothing bad in front of one reaches into it.
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
    fn it_is_found_in_the_bytes_where_it_is_found_in_what_is_shown() {
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
