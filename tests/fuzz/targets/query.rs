//! A request's target: its path and the numbers and texts in its query.

use autoappdev::web::fuzzing::{query_number, query_text, route_path};

pub fn run(bytes: &[u8]) {
    // The head's parser lets nothing else through.
    let text: String = bytes.iter().filter(|byte| byte.is_ascii_graphic()).map(|byte| char::from(*byte)).collect();
    let target = format!("/{text}");
    let path = route_path(&target);
    assert!(path.starts_with('/'), "{path:?}");
    for name in ["limit", "since"] {
        let read = query_number(&target, name, 1, 5000);
        // By hand: what stands between the first `?` and a `#` is the query; the first pair of that name counts.
        let query = target.split_once('?').map_or("", |(_, query)| query);
        let value = query.split('&').find_map(|pair| match pair.strip_prefix(name)? {
            "" => Some(""),
            rest => rest.strip_prefix('='),
        });
        match (read, value) {
            (Ok(None), None) => {}
            (Ok(Some(number)), Some(value)) => {
                assert!((1..=5000).contains(&number));
                assert_eq!(value.trim_start_matches('0'), number.to_string(), "{target}");
            }
            (Err(refusal), Some(value)) => {
                assert_eq!(refusal.status_code, 400);
                let is_number = !value.is_empty() && value.bytes().all(|byte| byte.is_ascii_digit());
                let in_range = value.trim_start_matches('0').parse::<u64>().is_ok_and(|number| (1..=5000).contains(&number));
                assert!(!is_number || !in_range, "{target}: {value:?} is good");
            }
            (read, value) => panic!("{target}: {value:?} reads as {:?}", read.ok()),
        }
    }
    look_at_text(&target);
}

/// The text to look for: by hand, byte by byte.
fn look_at_text(target: &str) {
    let query = target.split_once('?').map_or("", |(_, query)| query);
    let value = query.split('&').find_map(|pair| match pair.strip_prefix("grep")? {
        "" => Some(""),
        rest => rest.strip_prefix('='),
    });
    let wanted = value.map(|value| {
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
        String::from_utf8(bytes).ok().filter(|text| (1..=20).contains(&text.len()))
    });
    match query_text(target, "grep", 20) {
        Ok(read) => assert_eq!(wanted, read.map(Some), "{target}"),
        Err(refusal) => assert!(refusal.status_code == 400 && wanted == Some(None), "{target}: {wanted:?} was refused"),
    }
}
