//! A request's target: its path and the numbers in its query.

use autoappdev::http::fuzzing::{query_number, route_path};

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
}
