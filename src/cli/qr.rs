//! A QR code in a terminal.

use qrcodegen::{QrCode, QrCodeEcc};

/// The light border that a scanner needs around the code, in modules. The standard requires 4, but phones manage with 2, and
/// the code must fit into 80 columns.
const QUIET: i32 = 2;

/// The abilities of the output.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Screen {
    /// True if half blocks can be shown, so that a character holds two modules.
    pub(super) is_utf8: bool,
    /// True for a terminal, whose colours can be set. Without one, light text on a dark background is assumed.
    pub(super) is_terminal: bool,
}

/// Draws the code of a text, with one or two rows of modules a line. Returns `None` if the text is too long for a QR code.
pub(super) fn code(text: &str, screen: Screen) -> Option<String> {
    let code = QrCode::encode_text(text, QrCodeEcc::Low).ok()?;
    let is_light = |x: i32, y: i32| !code.get_module(x, y);
    let columns = -QUIET..code.size() + QUIET;
    let mut out = String::new();
    for y in (-QUIET..code.size() + QUIET).step_by(if screen.is_utf8 { 2 } else { 1 }) {
        // Draws white on black, in the bright shades that colour schemes do not change.
        if screen.is_terminal && screen.is_utf8 {
            out.push_str("\x1b[97;40m");
        }
        for x in columns.clone() {
            // The half row below the last row must be as light as the border.
            let lower_is_light = y + 1 >= code.size() || is_light(x, y + 1);
            out.push_str(match (screen.is_utf8, screen.is_terminal, is_light(x, y), lower_is_light) {
                (true, _, true, true) => "█",
                (true, _, true, false) => "▀",
                (true, _, false, true) => "▄",
                (true, _, false, false) => " ",
                (false, true, true, _) => "\x1b[107m  ",
                (false, true, false, _) => "\x1b[40m  ",
                (false, false, true, _) => "##",
                (false, false, false, _) => "  ",
            });
        }
        if screen.is_terminal {
            out.push_str("\x1b[0m");
        }
        out.push('\n');
    }
    Some(out)
}

/// Checks whether the locale uses UTF-8 (`locale(7)`). If no locale is set, as in a container or a service, the terminal most
/// likely uses UTF-8 anyway.
pub(super) fn is_utf8(env: impl Fn(&str) -> Option<String>) -> bool {
    let locale = ["LC_ALL", "LC_CTYPE", "LANG"].iter().find_map(|name| env(name).filter(|value| !value.is_empty()));
    locale.is_none_or(|locale| {
        let locale = locale.to_ascii_lowercase();
        locale.contains("utf-8") || locale.contains("utf8")
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const LINK: &str = "http://192.168.100.200:8788/#code=abcd-efgh-ijkm-npqr-stuv-wxyz";

    /// Parses a drawing back into modules; true is light.
    fn read(drawn: &str, is_utf8: bool) -> Vec<Vec<bool>> {
        let mut rows = Vec::new();
        for line in drawn.lines() {
            if is_utf8 {
                rows.push(line.chars().map(|c| "█▀".contains(c)).collect());
                rows.push(line.chars().map(|c| "█▄".contains(c)).collect());
            } else {
                rows.push(line.as_bytes().chunks(2).map(|pair| pair == b"##").collect());
            }
        }
        rows
    }

    #[test]
    fn every_drawing_mode_shows_the_code_with_a_light_border() {
        let code = QrCode::encode_text(LINK, QrCodeEcc::Low).expect("fits");
        let plain = |is_utf8| self::code(LINK, Screen { is_utf8, is_terminal: false }).expect("fits");
        for is_utf8 in [true, false] {
            let rows = read(&plain(is_utf8), is_utf8);
            let size = usize::try_from(code.size() + 2 * QUIET).expect("small");
            assert!(rows.len() == size || rows.len() == size + 1, "{} rows", rows.len());
            for (y, row) in (-QUIET..).zip(&rows) {
                assert_eq!(row.len(), size);
                for (x, is_light) in (-QUIET..).zip(row) {
                    assert_eq!(*is_light, !code.get_module(x, y), "at {x}, {y}");
                }
            }
        }
        let widest = plain(false).lines().map(str::len).max();
        assert!(widest.is_some_and(|columns| columns <= 80), "{widest:?}");
        // In a terminal, the code sets its own colours, and the drawing is the same.
        let coloured = self::code(LINK, Screen { is_utf8: true, is_terminal: true }).expect("fits");
        assert_eq!(coloured.replace("\x1b[97;40m", "").replace("\x1b[0m", ""), plain(true));
        let ascii = self::code(LINK, Screen { is_utf8: false, is_terminal: true }).expect("fits");
        assert!(ascii.is_ascii());
        assert_eq!(ascii.replace("\x1b[107m  ", "##").replace("\x1b[40m", "").replace("\x1b[0m", ""), plain(false));
        assert_eq!(self::code(&"x".repeat(3000), Screen { is_utf8: true, is_terminal: true }), None);
    }

    #[test]
    fn utf_8_output_follows_the_locale() {
        let shows = |pairs: &[(&str, &str)]| {
            is_utf8(|name| pairs.iter().find(|(key, _)| *key == name).map(|(_, value)| (*value).to_owned()))
        };
        assert!(shows(&[]) && shows(&[("LANG", "de_DE.UTF-8")]) && shows(&[("LANG", "C.utf8")]));
        assert!(shows(&[("LC_ALL", ""), ("LC_CTYPE", "C.UTF-8"), ("LANG", "C")]));
        assert!(!shows(&[("LANG", "C")]) && !shows(&[("LC_ALL", "POSIX"), ("LANG", "en_US.UTF-8")]));
        assert!(!shows(&[("LANG", "de_DE.ISO-8859-1")]));
    }
}
