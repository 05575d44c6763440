//! The parser of a request's head.

use autoappdev::transport::BODY_BYTES_MAX;
use autoappdev::transport::fuzzing::{FIELDS_MAX, Framing, HEAD_BYTES_MAX, Head, TARGET_BYTES_MAX, parse};

use super::strict;

/// The maximum length of a head for which every cut is tried. For a longer one, some cuts are.
const EVERY_CUT_BYTES: usize = 400;

pub fn run(bytes: &[u8]) {
    let whole = parse(bytes);
    let step = 1 + bytes.len() / EVERY_CUT_BYTES;
    let decided = (0..bytes.len()).step_by(step).find_map(|cut| parse(&bytes[..cut]).transpose().map(|read| (cut, read)));
    match (&whole, decided) {
        (Ok(Some(head)), Some((_, early))) => assert_eq!(Ok(head), early.as_ref(), "what comes behind a head changes it"),
        (Ok(Some(head)), None) => assert!(head.length + step > bytes.len(), "a head was whole, and not seen to be"),
        (Err(_), Some((cut, Ok(early)))) => panic!("accepted at {cut}, and refused with more behind it: {early:?}"),
        (Err(_), Some((_, Err(_))) | None) | (Ok(None), None) => {}
        (Ok(None), Some((cut, early))) => panic!("decided at {cut}, and waited for with more behind it: {early:?}"),
    }
    if let Ok(Some(head)) = whole {
        check(&bytes[..head.length], &head);
        assert_eq!(parse(&bytes[..head.length]), Ok(Some(head.clone())));
        assert_eq!(parse(&[&bytes[..head.length], b"\0 anything \r\n\r\n"].concat()), Ok(Some(head.clone())));
        written_again(&head);
    }
}

/// Checks that an accepted head is within the limits, and that a strict parser reads the same.
fn check(bytes: &[u8], head: &Head) {
    assert!(head.length <= HEAD_BYTES_MAX && head.fields.len() <= FIELDS_MAX && head.target.len() <= TARGET_BYTES_MAX + 1);
    assert!(head.target == "*" || head.target.starts_with('/'), "{:?}", head.target);
    // The connection removes empty lines. The parser removes those that remain.
    let blanks = bytes.iter().take_while(|byte| matches!(byte, b'\r' | b'\n')).count();
    let strict = strict::head(&bytes[blanks..])
        .unwrap_or_else(|why| panic!("a strict reading refuses it, {why}: {}", bytes.escape_ascii()));
    assert_eq!(blanks + strict.length, head.length);
    assert_eq!((strict.method.as_str(), strict.is_http_1_0), (head.method.as_str(), head.is_http_1_0));
    assert_eq!(strict.route(), head.target);
    let fields: Vec<(String, String)> =
        strict.fields.iter().map(|(name, value)| (name.clone(), String::from_utf8_lossy(value).into_owned())).collect();
    assert_eq!(fields, head.fields);
    match (&strict.body, &head.framing) {
        (Ok(strict), Ok(ours)) => {
            assert_eq!(strict, ours);
            assert!(!matches!(ours, Framing::Length(length) if *length > BODY_BYTES_MAX));
            assert_eq!(strict::keeps_alive(strict_fields(&fields), head.is_http_1_0), head.keep_alive);
        }
        (Err(why), Ok(ours)) => panic!("a strict reading knows no end of its body, {why}; here it is {ours:?}"),
        // Refusing is always allowed here. The target `connection` checks what must not be refused.
        (_, Err(_)) => {}
    }
}

fn strict_fields(fields: &[(String, String)]) -> impl Iterator<Item = (&str, &[u8])> {
    fields.iter().map(|(name, value)| (name.as_str(), value.as_bytes()))
}

/// Checks that a head that is written from the parsed one is parsed as the same.
fn written_again(head: &Head) {
    let mut text = format!("{} {} HTTP/1.{}\r\n", head.method, head.target, u8::from(!head.is_http_1_0));
    for (name, value) in &head.fields {
        text.extend([name, ": ", value, "\r\n"]);
    }
    text.push_str("\r\n");
    // With blanks that the original omitted, the head may be too long now.
    if text.len() <= HEAD_BYTES_MAX && head.target.len() <= TARGET_BYTES_MAX {
        assert_eq!(parse(text.as_bytes()), Ok(Some(Head { length: text.len(), ..head.clone() })), "{text:?}");
    }
}
