//! A request's target: its path, and the numbers and texts in its query.

use autoappdev::api::logs::StreamName;
use autoappdev::web::fuzzing::{logs_query, route_path};

pub fn run(bytes: &[u8]) {
    // The parser of the head accepts nothing else.
    let text: String = bytes.iter().filter(|byte| byte.is_ascii_graphic()).map(|byte| char::from(*byte)).collect();
    let target = format!("/{text}");
    let path = route_path(&target);
    assert!(path.starts_with('/'), "{path:?}");
    // Parsed by hand: the query is between the first `?` and a `#`, and the first pair of each name counts.
    let query = target.split_once('?').map_or("", |(_, query)| query);
    let pairs = query.split('&').filter(|pair| !pair.is_empty()).map(|pair| pair.split_once('=').unwrap_or((pair, "")));
    let first = |name: &str| pairs.clone().find(|(key, _)| *key == name).map(|(_, value)| value);
    let is_known = |name: &str| ["source", "since", "at", "limit", "wait", "run", "grep", "stream"].contains(&name);
    let is_stream = |value: &str| ["stdout", "stderr"].contains(&value);
    match logs_query(&target) {
        Ok(read) => {
            assert!(pairs.clone().all(|(name, _)| is_known(name)), "{target} has an unknown key");
            for (number, name, most) in [(read.limit, "limit", 5000), (read.since, "since", u64::MAX), (read.wait, "wait", 60)] {
                assert_eq!(number.is_some(), first(name).is_some(), "{target}");
                if let (Some(number), Some(value)) = (number, first(name)) {
                    assert!(number <= most && !value.is_empty() && value.bytes().all(|byte| byte.is_ascii_digit()), "{target}");
                    assert_eq!(value.trim_start_matches('0'), number.to_string().trim_start_matches('0'), "{target}");
                }
            }
            assert!(read.limit != Some(0), "{target}");
            assert_eq!(read.stream.map(StreamName::as_str), first("stream"), "{target}");
            assert_eq!(read.grep, first("grep").map(|value| decoded(value).expect("it was read")), "{target}");
        }
        Err(refusal) => {
            assert_eq!(refusal.status_code, 400, "{target}");
            let is_number = |name: &str, at_least, at_most| {
                first(name).is_none_or(|value| {
                    let is_whole = !value.is_empty() && value.bytes().all(|byte| byte.is_ascii_digit());
                    is_whole && value.parse::<u64>().is_ok_and(|number| (at_least..=at_most).contains(&number))
                })
            };
            let is_good = pairs.clone().all(|(name, _)| is_known(name))
                && is_number("limit", 1, 5000)
                && is_number("since", 0, u64::MAX)
                && is_number("wait", 0, 60)
                && first("stream").is_none_or(is_stream)
                && first("grep").is_none_or(|value| decoded(value).is_some());
            // The only other reasons for a refusal are the keys that are not parsed by hand here.
            assert!(!is_good || ["source", "at", "run"].iter().any(|name| first(name).is_some()), "{target} was refused");
        }
    }
}

/// Decodes the text to search for by hand, byte by byte.
fn decoded(value: &str) -> Option<String> {
    let (mut bytes, mut rest) = (Vec::new(), value.chars());
    while let Some(next) = rest.next() {
        match next {
            '+' => bytes.push(b' '),
            '%' => {
                let digit = |next: Option<char>| next.and_then(|next| next.to_digit(16));
                let byte = digit(rest.next())? * 16 + digit(rest.next())?;
                bytes.push(u8::try_from(byte).expect("two digits"));
            }
            other => bytes.push(u8::try_from(other).expect("ASCII")),
        }
    }
    String::from_utf8(bytes).ok().filter(|text| (1..=200).contains(&text.len()))
}
