//! Request bodies: a JSON object in which every key is known, or nothing at all.

use serde::de::DeserializeOwned;
use serde_json::{Map, Value};

use super::nearest::unknown_key;
use super::repeated::Repeated;

/// Why a body was rejected.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum BadBody {
    /// The body is not JSON.
    NotJson(String),
    /// The body is JSON, but a value or a key is wrong.
    Wrong {
        /// The key with the wrong value, if there is one.
        key: Option<String>,
        /// A sentence for people about the problem.
        detail: String,
    },
}

/// Reads a body of a type that denies unknown fields. An empty body counts as `{}`. A repeated key is an error, because the client may
/// mean either value.
pub fn read<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, BadBody> {
    let wrong = |key: Option<String>, detail: String| BadBody::Wrong { key, detail };
    let object: Map<String, Value> = if bytes.trim_ascii().is_empty() {
        Map::new()
    } else {
        match serde_json::from_slice(bytes) {
            Ok(Value::Object(object)) => object,
            Ok(_) => return Err(wrong(None, "the body must be a JSON object such as {}".to_owned())),
            Err(error) => return Err(BadBody::NotJson(error.to_string())),
        }
    };
    // An empty body has no key. Any other was read above, so it can be read again.
    if let Some(path) = serde_json::from_slice::<Repeated>(bytes).ok().and_then(|repeated| repeated.0) {
        let detail = format!("{} is given twice", path.join(": "));
        return Err(wrong(None, detail));
    }
    // By reference, because the object is needed again to find the wrong key.
    T::deserialize(&object).map_err(|error| {
        let error_of = |key: &String, value: &Value| {
            let alone = Map::from_iter([(key.clone(), value.clone())]);
            T::deserialize(&alone).err().map(|error| error.to_string())
        };
        if let Some(unknown) = object.keys().find_map(|key| about_unknown(key, &error_of(key, &Value::Null)?)) {
            return wrong(None, unknown);
        }
        let detail = in_json_words(&error.to_string());
        match object.iter().find(|(key, value)| error_of(key, value).is_some_and(|alone| alone == error.to_string())) {
            Some((key, _)) => wrong(Some(key.clone()), format!("{key}: {detail}")),
            None => wrong(None, detail),
        }
    })
}

/// Rewords serde's message about an unknown key. Returns `None` if the message is about something else.
fn about_unknown(key: &str, sentence: &str) -> Option<String> {
    // The message continues with the known keys: "`, expected one of `a`, `b`".
    let known = sentence.strip_prefix("unknown field `")?.strip_prefix(key)?.split('`').skip(2).step_by(2);
    Some(unknown_key(key, &known.collect::<Vec<_>>()))
}

/// Rewords serde's message with JSON's names for types, and leaves out the value, which can be long.
fn in_json_words(sentence: &str) -> String {
    if let Some(key) = sentence.strip_prefix("missing field `").and_then(|rest| rest.strip_suffix('`')) {
        return format!("{key} is missing");
    }
    let types = sentence.strip_prefix("invalid type: ").and_then(|rest| rest.rsplit_once(", expected "));
    let Some((found, expected)) = types else { return sentence.to_owned() };
    let found = match found.split(' ').next() {
        Some("string") => "a string",
        Some("integer" | "floating") => "a number",
        Some("boolean") => "a boolean",
        Some("sequence") => "a list",
        Some("map") => "an object",
        Some(_) | None => found,
    };
    let expected = match expected {
        "f64" => "a number",
        "i64" | "u64" | "u32" | "u16" | "u8" => "a whole number",
        "a map" => "an object of strings",
        other => other,
    };
    format!("expected {expected}, not {found}")
}

#[cfg(test)]
mod tests {
    use serde::Deserialize;

    use super::*;

    #[derive(Debug, Default, PartialEq, Deserialize)]
    #[serde(default, deny_unknown_fields)]
    struct Body {
        name: Option<String>,
        count: u32,
    }

    fn detail(text: &str) -> (Option<String>, String) {
        match read::<Body>(text.as_bytes()) {
            Err(BadBody::Wrong { key, detail }) => (key, detail),
            other => panic!("{text}: {other:?}"),
        }
    }

    #[test]
    fn empty_body_is_an_empty_object() {
        for text in ["", " \r\n\t", "{}", r#"{"name":null}"#] {
            assert_eq!(read::<Body>(text.as_bytes()), Ok(Body::default()), "{text:?}");
        }
        assert_eq!(read::<Body>(br#"{"count":2,"name":"x"}"#), Ok(Body { name: Some("x".into()), count: 2 }));
    }

    #[test]
    fn bad_body_names_the_key_and_the_reason() {
        assert!(matches!(read::<Body>(b"{"), Err(BadBody::NotJson(_))));
        assert_eq!(detail("[]").1, "the body must be a JSON object such as {}");
        assert_eq!(detail(r#"{"nmae":1}"#), (None, "\"nmae\" is unknown; did you mean \"name\"?".into()));
        assert_eq!(detail(r#"{"name":"x","count":1,"name":"y"}"#), (None, "name is given twice".into()));
        let given_twice = |keys: &str| (None, format!("{keys} is given twice"));
        // Also if an earlier value has a wrong type, so that reading it fails before the repeat.
        for text in [r#"{"count":"x","count":1}"#, r#"{"name":5,"count":1,"count":2}"#, r#"{"count":[{}],"co\u0075nt":1}"#] {
            assert_eq!(detail(text), given_twice("count"), "{text}");
        }
        assert_eq!(detail(r#"{"name":{"A":1,"B":[{"C":1,"C":1.5}]}}"#), given_twice("name: B: C"));
        assert_eq!(read::<Body>(br#"{"name":{"A":1,"A":2,}}"#).map_err(|bad| matches!(bad, BadBody::NotJson(_))), Err(true));
        let (key, sentence) = detail(r#"{"name":"x","count":"many"}"#);
        assert_eq!((key.as_deref(), &*sentence), (Some("count"), "count: expected a whole number, not a string"));
    }

    #[test]
    fn type_error_names_json_types_without_the_value() {
        use crate::api::pipeline::StartRequest;
        // A body with a required field. The contract has no such body.
        #[derive(Deserialize)]
        struct Needs {
            #[expect(dead_code, reason = "only whether it is there matters")]
            token: String,
        }
        let sentence = |body: Result<(), BadBody>| match body {
            Err(BadBody::Wrong { detail, .. }) => detail,
            other => panic!("{other:?}"),
        };
        for (text, wanted) in [
            (r#"{"script":1.5}"#, "script: expected a string, not a number"),
            (r#"{"cwd":["a, expected b"]}"#, "cwd: expected a string, not a list"),
            (r#"{"env":null}"#, "env: expected an object of strings, not null"),
            (r#"{"env":{"A":{}}}"#, "env: expected a string, not an object"),
            (r#"{"grace_s":"1, expected 2"}"#, "grace_s: expected a number, not a string"),
            (r#"{"grace_s":true}"#, "grace_s: expected a number, not a boolean"),
            (r#"{"again":"7"}"#, "again: expected a whole number, not a string"),
            (r#"{"if_run_id":[7]}"#, "if_run_id: expected a whole number, not a list"),
        ] {
            assert_eq!(sentence(read::<StartRequest>(text.as_bytes()).map(drop)), wanted, "{text}");
        }
        for (text, wanted) in [("", "token is missing"), (r#"{"token":7}"#, "token: expected a string, not a number")] {
            assert_eq!(sentence(read::<Needs>(text.as_bytes()).map(drop)), wanted, "{text}");
        }
    }
}
