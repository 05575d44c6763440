//! Bodies of requests: a JSON object whose keys are all known, or nothing at all.

use serde::Deserialize;
use serde::de::value::Error as FieldsError;
use serde::de::{DeserializeOwned, Deserializer, Error as _, Visitor};
use serde_json::{Map, Value};

use super::nearest::unknown_key;

/// Why a body is not the one that the route takes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum BadBody {
    /// It is not JSON.
    NotJson(String),
    /// It is JSON, but a value or a key is wrong.
    Wrong {
        /// The key with the wrong value, if there is one.
        key: Option<String>,
        /// What is wrong, for people.
        detail: String,
    },
}

/// Reads a body. An empty one is `{}`.
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
    let known = keys::<T>();
    if let Some(key) = object.keys().find(|key| !known.contains(&key.as_str())) {
        return Err(wrong(None, unknown_key(key, known)));
    }
    // By reference: the object is still needed to find the key with the wrong value.
    T::deserialize(&object).map_err(|error| {
        let is_wrong = |key: &&String| {
            let alone = Map::from_iter([((*key).clone(), object[*key].clone())]);
            T::deserialize(&alone).is_err_and(|alone| alone.to_string() == error.to_string())
        };
        let detail = in_json_words(&error.to_string());
        match object.keys().find(is_wrong) {
            Some(key) => wrong(Some(key.clone()), format!("{key}: {detail}")),
            None => wrong(None, detail),
        }
    })
}

/// A sentence of serde's with JSON's names for types, and without the value, which can be long.
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
        "a map" => "an object of strings",
        other => other,
    };
    format!("expected {expected}, not {found}")
}

/// The keys of a struct, as its `Deserialize` names them.
pub(crate) fn keys<'de, T: Deserialize<'de>>() -> &'static [&'static str] {
    let mut found: &'static [&'static str] = &[];
    // It fails by design: the names are all that is wanted.
    let _names_only = T::deserialize(Keys(&mut found));
    found
}

/// Takes the names of the fields, and gives no values.
struct Keys<'k>(&'k mut &'static [&'static str]);

impl<'de> Deserializer<'de> for Keys<'_> {
    type Error = FieldsError;

    fn deserialize_struct<V: Visitor<'de>>(
        self,
        _name: &'static str,
        fields: &'static [&'static str],
        _visitor: V,
    ) -> Result<V::Value, FieldsError> {
        *self.0 = fields;
        Err(FieldsError::custom("only the names"))
    }

    fn deserialize_any<V: Visitor<'de>>(self, _visitor: V) -> Result<V::Value, FieldsError> {
        Err(FieldsError::custom("no struct"))
    }

    serde::forward_to_deserialize_any! {
        bool i8 i16 i32 i64 i128 u8 u16 u32 u64 u128 f32 f64 char str string bytes byte_buf option unit unit_struct newtype_struct
        seq tuple tuple_struct map enum identifier ignored_any
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, Default, PartialEq, Deserialize)]
    #[serde(default)]
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
        assert_eq!(detail(r#"{"nmae":1}"#), (None, "\"nmae\" is not known here; did you mean \"name\"?".into()));
        let (key, sentence) = detail(r#"{"name":"x","count":"many"}"#);
        assert_eq!((key.as_deref(), &*sentence), (Some("count"), "count: expected u32, not a string"));
    }

    #[test]
    fn wrong_types_have_their_json_names_and_no_value() {
        use crate::api::pipeline::StartRequest;
        use crate::api::session::LoginRequest;
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
        ] {
            assert_eq!(sentence(read::<StartRequest>(text.as_bytes()).map(drop)), wanted, "{text}");
        }
        for (text, wanted) in [("", "token is missing"), (r#"{"token":7}"#, "token: expected a string, not a number")] {
            assert_eq!(sentence(read::<LoginRequest>(text.as_bytes()).map(drop)), wanted, "{text}");
        }
    }

    #[test]
    fn keys_are_those_of_the_struct() {
        assert_eq!(keys::<Body>(), ["name", "count"]);
        assert!(keys::<Vec<u8>>().is_empty());
    }
}
