//! Makes a line of a script's output safe for a terminal: only text, tabs and colours remain.
//!
//! A terminal obeys control sequences: they can move the cursor to lines printed earlier, set the title or the clipboard, or make
//! the terminal reply as if the user had typed. So no sequence is passed on. Colours and styles (SGR of ECMA-48, 8.3.117) are
//! parsed and generated anew, and reset at the end of each part of a line. Carriage returns and line erasures (EL) are applied
//! here, so that only the last state of a progress bar is shown. Every other control character is shown as an escape, and what
//! follows it as text.

use std::borrow::Cow;
use std::fmt::Write as _;

use super::printable::{acts, push_printable};

/// The longest sequence that is parsed, in bytes; a longer one is shown as text. All colours and styles at once need less.
const SEQUENCE_BYTES_MAX: usize = 96;

/// The state of one line, which may arrive in parts.
#[derive(Debug, Default)]
pub struct TerminalLine {
    style: Style,
    /// An incomplete sequence, which the next part may complete.
    unfinished: String,
    /// True if a part of the line was shown.
    is_shown: bool,
    /// True if the cursor has returned to the start of the line, so that the next character replaces what was shown.
    is_returned: bool,
}

/// The output for one part of a line.
#[derive(Debug, PartialEq, Eq)]
pub struct Shown<'a> {
    /// True if the text replaces the part of the line that was shown before, and needs its own row.
    pub replaces: bool,
    /// The text, which contains no control characters except tabs and SGR sequences.
    pub text: Cow<'a, str>,
}

/// A character and its style.
type Cell = (char, Style);

impl TerminalLine {
    /// Converts the next part of the line; `goes_on` is true if another part follows.
    pub fn part<'a>(&mut self, text: &'a str, goes_on: bool) -> Shown<'a> {
        if self.unfinished.is_empty() && !self.is_returned && self.style == Style::default() && !text.chars().any(acts) {
            self.is_shown |= !text.is_empty();
            return Shown { replaces: false, text: Cow::Borrowed(text) };
        }
        let joined = std::mem::take(&mut self.unfinished) + text;
        let mut row = Row { cells: Vec::with_capacity(joined.len()), column: 0, is_replaced: false };
        let mut rest = joined.as_str();
        while let Some(c) = rest.chars().next() {
            let sequence = Sequence::at(rest);
            match (c, sequence) {
                ('\r', _) => {
                    row.column = 0;
                    self.is_returned = true;
                }
                (_, Some(Sequence::Sgr(len))) => {
                    self.style.obey(&rest[2..len - 1]);
                    rest = &rest[len..];
                    continue;
                }
                (_, Some(Sequence::Erase { len, is_whole })) => {
                    if is_whole || self.is_returned {
                        row.cells.clear();
                        row.column = 0;
                        self.is_returned = true;
                    } else {
                        row.cells.truncate(row.column);
                    }
                    rest = &rest[len..];
                    continue;
                }
                (_, Some(Sequence::Unfinished)) if goes_on => {
                    rest.clone_into(&mut self.unfinished);
                    break;
                }
                ('\t', _) => row.put(self, '\t'),
                (c, _) => {
                    let mut shown = String::new();
                    push_printable(&mut shown, c);
                    shown.chars().for_each(|c| row.put(self, c));
                }
            }
            rest = &rest[c.len_utf8()..];
        }
        let is_empty = row.cells.is_empty();
        self.is_shown |= !is_empty;
        Shown { replaces: row.is_replaced && !is_empty, text: Cow::Owned(row.text()) }
    }

    /// Returns the remaining output if no other part follows.
    pub fn end(&mut self) -> String {
        self.part("", false).text.into_owned()
    }
}

/// The cells that a part shows.
struct Row {
    cells: Vec<Cell>,
    column: usize,
    is_replaced: bool,
}

impl Row {
    fn put(&mut self, line: &mut TerminalLine, c: char) {
        if std::mem::take(&mut line.is_returned) {
            self.is_replaced |= line.is_shown;
        }
        let cell = (c, line.style);
        match self.cells.get_mut(self.column) {
            Some(old) => *old = cell,
            None => self.cells.push(cell),
        }
        self.column += 1;
    }

    fn text(&self) -> String {
        let (mut text, mut style) = (String::with_capacity(self.cells.len()), Style::default());
        for &(c, its_style) in &self.cells {
            if its_style != style {
                style = its_style;
                text.push_str(&style.sequence());
            }
            text.push(c);
        }
        if style != Style::default() {
            text.push_str(&Style::default().sequence());
        }
        text
    }
}

/// A control sequence that is applied, with its length in bytes.
enum Sequence {
    Sgr(usize),
    /// Erases to the end of the line, or the whole line.
    Erase {
        len: usize,
        is_whole: bool,
    },
    /// The text ends within a sequence.
    Unfinished,
}

impl Sequence {
    /// Parses the control sequence at the start of a text. The 8-bit form of CSI is not recognised, because few terminals obey
    /// it; it is shown as an escape.
    fn at(text: &str) -> Option<Self> {
        let after = text.strip_prefix('\u{1b}')?;
        if after.is_empty() {
            return Some(Self::Unfinished);
        }
        let params = after.strip_prefix('[')?;
        let end = params.bytes().take(SEQUENCE_BYTES_MAX).position(|byte| !matches!(byte, b'0'..=b'9' | b';' | b':'));
        let Some(end) = end else { return (params.len() < SEQUENCE_BYTES_MAX).then_some(Self::Unfinished) };
        let len = 2 + end + 1;
        match (&params[..end], params.as_bytes()[end]) {
            (_, b'm') => Some(Self::Sgr(len)),
            ("" | "0", b'K') => Some(Self::Erase { len, is_whole: false }),
            ("2", b'K') => Some(Self::Erase { len, is_whole: true }),
            _ => None,
        }
    }
}

/// How characters are shown. A style cannot hide text: conceal and blinking are not supported, and a background in the
/// text's colour is dropped.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Style {
    /// One bit for each of [`STYLES`].
    styles: u8,
    ink: Option<Colour>,
    ground: Option<Colour>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Colour {
    Indexed(u8),
    Rgb(u8, u8, u8),
}

/// Bold, faint, italic, underlined, reversed, crossed out: the codes that turn each on and off.
const STYLES: [(u32, u32); 6] = [(1, 22), (2, 22), (3, 23), (4, 24), (7, 27), (9, 29)];

impl Style {
    fn obey(&mut self, params: &str) {
        let mut codes = params.split(';');
        while let Some(code) = codes.next() {
            let mut parts = code.split(':').map(number);
            let code = parts.next().flatten();
            let sub: Vec<Option<u32>> = parts.collect();
            match code {
                None | Some(0) => *self = Self::default(),
                Some(code @ (38 | 48 | 58)) => {
                    let colour = if sub.is_empty() { semicolons(&mut codes) } else { colons(&sub) };
                    match (code, colour) {
                        (38, Some(_)) => self.ink = colour,
                        (48, Some(_)) => self.ground = colour,
                        // The underline colour is ignored.
                        _ => {}
                    }
                }
                Some(39) => self.ink = None,
                Some(49) => self.ground = None,
                Some(4) if sub.first() == Some(&Some(0)) => self.end(24),
                Some(code) => match code {
                    30..=37 => self.ink = indexed(code - 30),
                    40..=47 => self.ground = indexed(code - 40),
                    90..=97 => self.ink = indexed(code - 82),
                    100..=107 => self.ground = indexed(code - 92),
                    code => match STYLES.iter().position(|(begin, _)| *begin == code) {
                        Some(bit) => self.styles |= 1 << bit,
                        None => self.end(code),
                    },
                },
            }
        }
    }

    fn end(&mut self, code: u32) {
        for bit in (0..STYLES.len()).filter(|bit| STYLES[*bit].1 == code) {
            self.styles &= !(1 << bit);
        }
    }

    /// Returns the sequence that sets exactly this style.
    fn sequence(self) -> String {
        let mut text = "\u{1b}[0".to_owned();
        let mut code = |code: std::fmt::Arguments<'_>| write!(text, ";{code}").expect("a String takes everything");
        for (bit, (begin, _)) in STYLES.iter().enumerate() {
            if self.styles & 1 << bit != 0 {
                code(format_args!("{begin}"));
            }
        }
        let ground = self.ground.filter(|ground| Some(*ground) != self.ink);
        for (colour, base) in [(self.ink, 30), (ground, 40)] {
            match colour {
                None => {}
                Some(Colour::Indexed(n @ 0..=7)) => code(format_args!("{}", base + u32::from(n))),
                Some(Colour::Indexed(n @ 8..=15)) => code(format_args!("{}", base + 52 + u32::from(n))),
                Some(Colour::Indexed(n)) => code(format_args!("{};5;{n}", base + 8)),
                Some(Colour::Rgb(r, g, b)) => code(format_args!("{};2;{r};{g};{b}", base + 8)),
            }
        }
        text + "m"
    }
}

fn number(text: &str) -> Option<u32> {
    text.parse().ok()
}

fn indexed(n: u32) -> Option<Colour> {
    u8::try_from(n).ok().map(Colour::Indexed)
}

fn rgb(parts: &[Option<u32>]) -> Option<Colour> {
    let part = |n: usize| u8::try_from(*parts.get(n)?.as_ref()?).ok();
    Some(Colour::Rgb(part(0)?, part(1)?, part(2)?))
}

/// Parses `5;N` or `2;R;G;B`.
fn semicolons<'a>(codes: &mut impl Iterator<Item = &'a str>) -> Option<Colour> {
    match number(codes.next()?)? {
        5 => indexed(number(codes.next()?)?),
        2 => rgb(&codes.take(3).map(number).collect::<Vec<_>>()),
        _ => None,
    }
}

/// Parses `5:N`, `2:R:G:B` or `2:SPACE:R:G:B`.
fn colons(sub: &[Option<u32>]) -> Option<Colour> {
    match sub {
        [Some(5), Some(n), ..] => indexed(*n),
        [Some(2), parts @ ..] if parts.len() >= 3 => rgb(&parts[usize::from(parts.len() > 3)..]),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shown(text: &str) -> String {
        let shown = TerminalLine::default().part(text, false);
        assert!(!shown.replaces, "nothing was there before");
        shown.text.into_owned()
    }

    /// Checks whether the only control characters are tabs and SGR sequences of digits and semicolons, the last of which is a
    /// reset.
    fn is_harmless(text: &str) -> bool {
        let (mut rest, mut is_styled) = (text, false);
        while let Some(c) = rest.chars().next() {
            rest = &rest[c.len_utf8()..];
            if c == '\u{1b}' {
                let Some((params, after)) = rest.strip_prefix('[').and_then(|rest| rest.split_once('m')) else { return false };
                let is_sgr = params.bytes().all(|byte| byte.is_ascii_digit() || byte == b';');
                let hides = params.split(';').any(|code| code == "8") && !params.contains("38;") && !params.contains("48;");
                if !is_sgr || hides || params.len() > 60 {
                    return false;
                }
                is_styled = params != "0";
                rest = after;
            } else if c != '\t' && (c.is_control() || ('\u{202a}'..='\u{202e}').contains(&c)) {
                return false;
            }
        }
        !is_styled
    }

    #[test]
    fn only_text_tabs_and_colours_reach_a_terminal() {
        for (text, safe) in [
            ("plain\tä☃", "plain\tä☃"),
            ("\u{1b}[31mred", "\u{1b}[0;31mred\u{1b}[0m"),
            ("\u{1b}[1;38;5;200mx\u{1b}[my", "\u{1b}[0;1;38;5;200mx\u{1b}[0my"),
            ("\u{1b}[38:2::1:2:3;48;2;4;5;6mx", "\u{1b}[0;38;2;1;2;3;48;2;4;5;6mx\u{1b}[0m"),
            ("\u{1b}[97;104;4:3mx\u{1b}[4:0;39;49my", "\u{1b}[0;4;97;104mx\u{1b}[0my"),
            // Clipboard, title, replies as if typed, other lines, other screens.
            ("\u{1b}]52;c;cm0gLXJmIH4=\u{7}", r"\u{1b}]52;c;cm0gLXJmIH4=\u{7}"),
            ("\u{1b}]0;title\u{1b}\\", r"\u{1b}]0;title\u{1b}\"),
            ("\u{1b}[c\u{1b}[6n\u{1b}[21t\u{1b}P$qm\u{1b}\\", r"\u{1b}[c\u{1b}[6n\u{1b}[21t\u{1b}P$qm\u{1b}\"),
            ("\u{1b}[A\u{1b}[5;1H\u{1b}[2J\u{1b}[1K\u{8}\u{b}", r"\u{1b}[A\u{1b}[5;1H\u{1b}[2J\u{1b}[1K\u{8}\u{b}"),
            ("\u{1b}[?1049h\u{1b}c\u{1b}#8\u{1b}(0", r"\u{1b}[?1049h\u{1b}c\u{1b}#8\u{1b}(0"),
            ("\u{9b}31mx\u{9d}0;t\u{9c}\u{85}\u{90}", r"\u{9b}31mx\u{9d}0;t\u{9c}\u{85}\u{90}"),
            // Almost SGR.
            ("\u{1b}[>4;1m\u{1b}[?1m\u{1b}[1 m", r"\u{1b}[>4;1m\u{1b}[?1m\u{1b}[1 m"),
            ("\u{1b}[31", r"\u{1b}[31"),
            ("x\u{1b}", r"x\u{1b}"),
            // Hidden text: concealed, blinking, text in the background's colour.
            ("\u{1b}[8;5mx\u{1b}[30;40my", "x\u{1b}[0;30my\u{1b}[0m"),
            ("\u{1b}[38;5;9;101mx", "\u{1b}[0;91mx\u{1b}[0m"),
            // Only the last state of a line is shown.
            ("10%\r50%", "50%"),
            ("long text\rshort", "shorttext"),
            ("long text\r\u{1b}[Kshort", "short"),
            ("long text\u{1b}[2K\rshort", "short"),
            ("done\r", "done"),
            ("a\nb\u{202e}c", r"a\nb\u{202e}c"),
        ] {
            assert_eq!(shown(text), safe, "{text:?}");
            assert!(is_harmless(&shown(text)), "{text:?}");
        }
        let long = format!("\u{1b}[{}m", "1;".repeat(100));
        assert_eq!(shown(&long), long.replace('\u{1b}', r"\u{1b}"), "it is longer than any colour");
    }

    #[test]
    fn sequences_are_joined_across_parts_and_colours_end_with_each() {
        let mut line = TerminalLine::default();
        let mut parts = |parts: &[(&str, bool)]| -> Vec<(bool, String)> {
            line = TerminalLine::default();
            let shown = |&(text, goes_on)| {
                let shown = line.part(text, goes_on);
                (shown.replaces, shown.text.into_owned())
            };
            parts.iter().map(shown).collect()
        };
        let same = |text: &str| (false, text.to_owned());
        let other = |text: &str| (true, text.to_owned());
        assert_eq!(
            parts(&[("a\u{1b}", true), ("[3", true), ("1mb", true), ("c", false)]),
            [same("a"), same(""), same("\u{1b}[0;31mb\u{1b}[0m"), same("\u{1b}[0;31mc\u{1b}[0m")]
        );
        assert_eq!(parts(&[("a\u{1b}", true), ("]0;x", false)]), [same("a"), same(r"\u{1b}]0;x")]);
        assert_eq!(parts(&[("a\u{1b}[", true), ("", false)]), [same("a"), same(r"\u{1b}[")]);
        // A state that replaces a shown one gets its own row.
        assert_eq!(
            parts(&[("10%\r", true), ("20%", true), ("\r30%\r", true), ("", false)]),
            [same("10%"), other("20%"), other("30%"), same("")]
        );
        assert_eq!(parts(&[("10%", true), ("\u{1b}[2K\r20%", false)]), [same("10%"), other("20%")]);
        assert_eq!(parts(&[("\r", true), ("x", false)]), [same(""), same("x")]);
        assert_eq!(TerminalLine { unfinished: "\u{1b}[3".to_owned(), ..TerminalLine::default() }.end(), r"\u{1b}[3");
    }

    /// Uses random bytes, mostly pieces of sequences, cut into parts at random.
    #[test]
    fn random_bytes_become_harmless_terminal_output() {
        const PIECES: [&[u8]; 22] = [
            b"\x1b",
            b"[",
            b"]",
            b"m",
            b"K",
            b";",
            b":",
            b"38",
            b"2",
            b"5",
            b"8",
            b"0",
            b"\r",
            b"\x08",
            b"\x9b",
            b"\xc2\x9b",
            b"\xe2\x80\xae",
            b"\x1b[31m",
            b"\x07",
            b"x",
            b"\xc0\x9b",
            b"\xe0\x82\x9b",
        ];
        let mut state = 0x9e37_79b9_7f4a_7c15_u64;
        let mut random = move |below: usize| {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            usize::try_from(state % 1_000_003).expect("small") % below
        };
        for _ in 0..20_000 {
            let mut line = TerminalLine::default();
            let count = random(6);
            for part in 0..=count {
                let mut bytes = Vec::new();
                for _ in 0..random(12) {
                    match random(8) {
                        0 => bytes.push(u8::try_from(random(256)).expect("a byte")),
                        _ => bytes.extend_from_slice(PIECES[random(PIECES.len())]),
                    }
                }
                let text = String::from_utf8_lossy(&bytes).into_owned();
                let shown = line.part(&text, part < count).text;
                assert!(is_harmless(&shown), "{text:?} became {shown:?}");
            }
            assert_eq!(line.end(), "", "nothing is kept back behind the end");
        }
    }
}
