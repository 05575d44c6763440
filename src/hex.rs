//! Conversion between bytes and hexadecimal digits.
//!
//! Level 0.

use std::fmt::Write as _;

/// Returns two lowercase digits for each byte.
pub fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::with_capacity(bytes.len() * 2), |mut text, byte| {
        let _never_fails = write!(text, "{byte:02x}");
        text
    })
}

/// Parses hexadecimal digits in either case. Returns `None` for any other text.
pub fn unhex(text: &str) -> Option<Vec<u8>> {
    if !text.bytes().all(|byte| byte.is_ascii_hexdigit()) || !text.len().is_multiple_of(2) {
        return None;
    }
    (0..text.len()).step_by(2).map(|at| u8::from_str_radix(&text[at..at + 2], 16).ok()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hex_round_trips_and_rejects_other_text() {
        assert_eq!((hex(&[0, 10, 255]).as_str(), hex(&[]).as_str()), ("000aff", ""));
        assert_eq!((unhex("000aFf"), unhex("")), (Some(vec![0, 10, 255]), Some(vec![])));
        for other in ["0", "0g", "+1", "é", "0x", " 1"] {
            assert_eq!(unhex(other), None, "{other}");
        }
    }
}
