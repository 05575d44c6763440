//! Queries: the keys that a route takes, the type and range of their values, and how they are read and written.

use std::fmt::Write as _;

use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, percent_decode_str, utf8_percent_encode};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::{Map, Value};

use super::nearest::unknown_key;
use crate::clock::Timestamp;

/// The highest run id that the database can store.
pub const RUN_ID_MAX: u64 = i64::MAX as u64;

/// A key of a query.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Key {
    /// Its name.
    pub name: &'static str,
    /// Its values.
    pub kind: Kind,
}

/// The values that a key can have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A whole number in this range, inclusive.
    Number(u64, u64),
    /// One of these words.
    Word(&'static [&'static str]),
    /// One or more of these words, separated by commas.
    Words(&'static [&'static str]),
    /// A text of 1 to this many bytes.
    Text(usize),
    /// An RFC 3339 time.
    Time,
    /// `1` for yes, `0` for no.
    Switch,
}

/// The query of a route.
pub trait Query: Default + Serialize + DeserializeOwned {
    /// The keys that the query can have.
    const KEYS: &'static [Key];
}

/// Declares the query of a route: a struct of optional values, and for each value the texts that it can have.
macro_rules! query {
    ($(#[$meta:meta])* $query:ident { $($(#[$doc:meta])* $key:ident: $value:ty = $kind:expr,)* }) => {
        $(#[$meta])*
        #[derive(Clone, Debug, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
        #[serde(default)]
        pub struct $query { $($(#[$doc])* pub $key: Option<$value>),* }

        impl $crate::api::query::Query for $query {
            const KEYS: &'static [$crate::api::query::Key] =
                &[$($crate::api::query::Key { name: stringify!($key), kind: $kind }),*];
        }
    };
}
pub(super) use query;

query! {
    /// The query of a route that takes no keys.
    NoQuery {}
}

/// An unknown key, or a value that its key cannot have, with a sentence for people.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BadQuery {
    /// The key.
    pub key: String,
    /// A sentence for people about the problem.
    pub detail: String,
}

/// Reads the part of a request target after the `?`. If a key occurs twice, the first value counts.
pub fn read<Q: Query>(raw: &str) -> Result<Q, BadQuery> {
    // Most requests have no query.
    if raw.is_empty() {
        return Ok(Q::default());
    }
    let mut values = Map::new();
    for pair in raw.split('&').filter(|pair| !pair.is_empty()) {
        let (name, text) = pair.split_once('=').unwrap_or((pair, ""));
        let bad = |detail: String| BadQuery { key: name.to_owned(), detail };
        let Some(key) = Q::KEYS.iter().find(|key| key.name == name) else {
            let known: Vec<&str> = Q::KEYS.iter().map(|key| key.name).collect();
            // Names the key as it was sent, because the decoded key could be a known one.
            return Err(bad(unknown_key(name, &known)));
        };
        if !values.contains_key(name) {
            let value = key.kind.read(text).ok_or_else(|| bad(key.kind.refusal(name, text)))?;
            values.insert(name.to_owned(), value);
        }
    }
    let bad = |error: serde_json::Error| BadQuery { key: String::new(), detail: error.to_string() };
    serde_json::from_value(Value::Object(values)).map_err(bad)
}

/// Appends a query to a path, beginning with `?`. Leaves out values that are not set.
pub fn write<Q: Query>(path: &mut String, query: &Q) {
    /// Percent encoding leaves the unreserved characters (RFC 3986, section 2.3) and `:`.
    const ENCODED: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'~').remove(b':');
    let values = serde_json::to_value(query).expect("a query is plain data");
    let mut separator = '?';
    for key in Q::KEYS {
        let text = match &values[key.name] {
            Value::Null => continue,
            Value::String(text) => text.clone(),
            Value::Bool(is_on) => u8::from(*is_on).to_string(),
            Value::Array(words) => words.iter().filter_map(Value::as_str).collect::<Vec<_>>().join(","),
            other => other.to_string(),
        };
        write!(path, "{separator}{}={}", key.name, utf8_percent_encode(&text, ENCODED)).expect("a string takes everything");
        separator = '&';
    }
}

impl Kind {
    /// Parses a value; `None` if the text is not valid.
    fn read(self, text: &str) -> Option<Value> {
        match self {
            Self::Number(at_least, at_most) => {
                let number = text.parse().ok().filter(|number| (at_least..=at_most).contains(number))?;
                text.bytes().all(|byte| byte.is_ascii_digit()).then_some(Value::from(number))
            }
            Self::Word(words) => words.contains(&text).then(|| Value::from(text)),
            // The comma can be literal or percent-encoded.
            Self::Words(known) => {
                let text = decoded(text)?;
                let words = text.split(',').map(|word| known.contains(&word).then(|| Value::from(word)));
                words.collect::<Option<Vec<_>>>().map(Value::Array)
            }
            // `+` means a space, as in a submitted form.
            Self::Text(bytes_max) => {
                let text = decoded(&text.replace('+', " "))?;
                (1..=bytes_max).contains(&text.len()).then_some(Value::String(text))
            }
            // The sign of an offset can be literal or percent-encoded. A `+` is not read as a space here, because no time
            // contains one.
            Self::Time => decoded(text).and_then(|text| Timestamp::from_rfc3339(&text).ok()).map(|at| at.to_string().into()),
            Self::Switch => ["0", "1"].contains(&text).then(|| Value::from(text == "1")),
        }
    }

    /// Returns the reason why this text cannot be the key's value, for people.
    fn refusal(self, name: &str, text: &str) -> String {
        if let Self::Words(known) = self
            && let Some(text) = decoded(text)
            && let Some(word) = text.split(',').find(|word| !word.is_empty() && !known.contains(word))
        {
            return format!("{name}: {}", unknown_key(word, known));
        }
        format!("{name} must be {}", self.wanted())
    }

    /// Returns a description of the valid values, for people.
    pub fn wanted(self) -> String {
        match self {
            Self::Number(at_least, at_most) => format!("a whole number from {at_least} to {at_most}"),
            Self::Word(words) => words.join(" or "),
            Self::Words(words) => format!("one or more of {}, separated by commas", words.join(", ")),
            Self::Text(bytes_max) => {
                format!("a text of 1 to {bytes_max} bytes, UTF-8 in percent encoding (curl -G --data-urlencode)")
            }
            Self::Time => "an RFC 3339 time such as 2026-01-31T10:00:00Z or 2026-01-31T11:00:00.5+01:00".to_owned(),
            Self::Switch => "0 or 1".to_owned(),
        }
    }
}

/// Decodes percent encoding (RFC 3986, section 2.1). Returns `None` if it is malformed or if the result is not UTF-8.
fn decoded(text: &str) -> Option<String> {
    let is_digit = |byte: Option<&u8>| byte.is_some_and(u8::is_ascii_hexdigit);
    let bytes = text.as_bytes();
    let is_whole = memchr::memchr_iter(b'%', bytes).all(|at| is_digit(bytes.get(at + 1)) && is_digit(bytes.get(at + 2)));
    is_whole.then(|| percent_decode_str(text).decode_utf8().ok().map(Into::into)).flatten()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::logs::{LogTextQuery, LogsQuery, Source, StreamName, TailQuery};
    use crate::api::runs::{OutcomeFilter, RunsQuery};

    fn refusal(raw: &str) -> String {
        read::<LogsQuery>(raw).expect_err(raw).detail
    }

    #[test]
    fn query_numbers_are_whole_and_in_range() {
        let limit = |raw: &str| read::<LogsQuery>(raw).map(|query| query.limit);
        assert_eq!(limit("since=5&limit=7"), Ok(Some(7)));
        assert_eq!(limit("since=18446744073709551615&limit=0005"), Ok(Some(5)));
        assert_eq!(limit("limit=7&limit=x"), Ok(Some(7)), "the first counts");
        assert_eq!((limit(""), limit("&")), (Ok(None), Ok(None)));
        for bad in
            "limit= limit limit=x limit=0 limit=5001 limit=-1 limit=+5 limit=5=5 limit=99999999999999999999 limit=%35".split(' ')
        {
            assert_eq!(refusal(bad), "limit must be a whole number from 1 to 5000", "{bad}");
        }
    }

    #[test]
    fn query_texts_are_decoded_and_bounded() {
        let text = |raw: &str| read::<LogsQuery>(raw).map(|query| query.grep);
        let longest = "x".repeat(200);
        for (raw, wanted) in [
            ("grep=a", "a"),
            ("grep=a+b%2B%25", "a b+%"),
            ("grep=%C3%A9&grep=x", "\u{e9}"),
            ("since=1&grep==%3d=", "==="),
            ("grep=%00", "\0"),
            (&format!("grep={longest}"), &longest),
        ] {
            assert_eq!(text(raw), Ok(Some(wanted.to_owned())), "{raw}");
        }
        for bad in
            ["grep", "grep=", "grep=%", "grep=%4", "grep=%g1", "grep=%+1", "grep=%ff", "grep=%C3", &format!("grep=x{longest}")]
        {
            assert!(refusal(bad).starts_with("grep must be a text of 1 to 200 bytes"), "{bad}");
        }
    }

    #[test]
    fn query_times_and_words_are_checked() {
        for good in ["2026-01-31T10:00:00Z", "2026-01-31T11:00:00+01:00", "2026-01-31T11%3A00:00.000%2B01:00"] {
            let query: LogsQuery = read(&format!("at={good}")).expect(good);
            assert_eq!(query.at.expect("there").to_string(), "2026-01-31T10:00:00.000Z");
        }
        for bad in ["at=", "at=now", "at=2026-01-31"] {
            assert!(refusal(bad).starts_with("at must be an RFC 3339 time"), "{bad}");
        }
        assert_eq!(read("source=backend"), Ok(LogsQuery { source: Some(Source::Backend), ..LogsQuery::default() }));
        for bad in ["source", "source=", "source=Pipeline", "source=../etc"] {
            assert_eq!(refusal(bad), "source must be pipeline or backend", "{bad}");
        }
        let text: LogTextQuery = read("timestamps=0&stream=stderr&download=1").expect("good");
        assert_eq!(
            text,
            LogTextQuery { timestamps: Some(false), stream: Some(StreamName::Stderr), download: Some(true), proof: None }
        );
        assert!(read::<LogTextQuery>("download=yes").is_err() && read::<LogTextQuery>("stream=").is_err());
    }

    #[test]
    fn query_lists_are_comma_separated_words() {
        let words = |raw: &str| read::<RunsQuery>(raw).map(|query| query.outcome);
        let all = Some(OutcomeFilter::ALL.to_vec());
        for raw in [
            "outcome=live,completed,failed,stopped,killed,not_started,lost",
            "outcome=live%2ccompleted%2Cfailed,stopped,killed,not%5fstarted,lost",
        ] {
            assert_eq!(words(raw), Ok(all.clone()), "{raw}");
        }
        let mut path = String::new();
        write(&mut path, &RunsQuery { outcome: all.clone(), ..RunsQuery::default() });
        assert_eq!(read(&path[1..]), Ok(RunsQuery { outcome: all, ..RunsQuery::default() }));
        for (bad, detail) in [
            ("outcome=compleeted", "outcome: \"compleeted\" is unknown; did you mean \"completed\"?"),
            ("outcome=live,x", "outcome: \"x\" is unknown; expected live, completed,"),
            ("outcome=live;lost", "outcome: \"live;lost\""),
            ("outcome", "outcome must be one or more of live, completed,"),
            ("outcome=,", "outcome must be one or more of"),
            ("outcome=live,,lost", "outcome must be one or more of"),
            ("outcome=%", "outcome must be one or more of"),
        ] {
            let refusal = words(bad).expect_err(bad).detail;
            assert!(refusal.starts_with(detail), "{refusal}");
        }
    }

    #[test]
    fn unknown_query_key_is_refused_with_the_nearest_known_one() {
        assert_eq!(refusal("sinse=5"), "\"sinse\" is unknown; did you mean \"since\"?");
        assert_eq!(refusal("limit=5&Limit=5"), "\"Limit\" is unknown; did you mean \"limit\"?");
        assert!(refusal("%67rep=x").starts_with("\"%67rep\" is unknown; expected source,"), "names are not decoded");
        assert_eq!(read::<NoQuery>("_=1").expect_err("unknown").detail, "\"_\" is unknown; nothing is expected here");
        assert_eq!(read::<NoQuery>(""), Ok(NoQuery {}));
    }

    #[test]
    fn query_round_trips() {
        let at = "2026-01-31T10:00:00.123Z".parse().expect("a time");
        let all = TailQuery {
            source: Some(Source::Pipeline),
            limit: Some(2),
            before: Some(52),
            at: Some(at),
            run: Some(7),
            grep: Some("50% & \u{e4}\n#a+b=c".to_owned()),
            stream: Some(StreamName::Stderr),
            name: None,
            lines: None,
        };
        let mut path = "/api/logs/tail".to_owned();
        write(&mut path, &all);
        let grep = "50%25%20%26%20%C3%A4%0A%23a%2Bb%3Dc";
        assert_eq!(
            path,
            format!(
                "/api/logs/tail?source=pipeline&limit=2&at=2026-01-31T10:00:00.123Z&before=52&run=7&grep={grep}&stream=stderr"
            )
        );
        assert_eq!(read(path.split_once('?').expect("a query").1), Ok(all));
        let switches = LogTextQuery { timestamps: Some(false), stream: None, download: Some(true), proof: None };
        let mut path = String::new();
        write(&mut path, &switches);
        assert_eq!((path.as_str(), read(&path[1..])), ("?timestamps=0&download=1", Ok(switches)));
        let mut path = "/".to_owned();
        write(&mut path, &NoQuery {});
        assert_eq!(path, "/");
    }
}
