//! Paths in JSON: text if the path is UTF-8, otherwise a list of its bytes.
//!
//! Level 0. A file name on Linux can contain any bytes except NUL and `/`, and serde refuses a path that is not UTF-8. Use this
//! with `#[serde(with = "…")]` on a field: this module for one path, [`option`] or [`list`] for the others.

use std::ffi::OsString;
use std::os::unix::ffi::OsStringExt;
use std::path::PathBuf;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// A path in its written form.
#[derive(Serialize, Deserialize)]
#[serde(untagged)]
enum Written {
    Text(String),
    Bytes(Vec<u8>),
}

impl From<&PathBuf> for Written {
    fn from(path: &PathBuf) -> Self {
        path.clone().into_os_string().into_string().map_or_else(|odd| Self::Bytes(odd.into_vec()), Self::Text)
    }
}

impl From<Written> for PathBuf {
    fn from(written: Written) -> Self {
        match written {
            Written::Text(text) => text.into(),
            Written::Bytes(bytes) => OsString::from_vec(bytes).into(),
        }
    }
}

/// Writes a path.
pub fn serialize<S: Serializer>(path: &PathBuf, serializer: S) -> Result<S::Ok, S::Error> {
    Written::from(path).serialize(serializer)
}

/// Reads a path.
pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<PathBuf, D::Error> {
    Written::deserialize(deserializer).map(Into::into)
}

/// A path that may be absent.
pub mod option {
    use super::{Deserialize, Deserializer, PathBuf, Serialize, Serializer, Written};

    /// Writes the path, or null.
    pub fn serialize<S: Serializer>(path: &Option<PathBuf>, serializer: S) -> Result<S::Ok, S::Error> {
        path.as_ref().map(Written::from).serialize(serializer)
    }

    /// Reads the path, or null.
    pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<PathBuf>, D::Error> {
        Ok(Option::<Written>::deserialize(deserializer)?.map(Into::into))
    }
}

/// Several paths.
pub mod list {
    use super::{Deserialize, Deserializer, PathBuf, Serializer, Written};

    /// Writes the paths in order.
    pub fn serialize<S: Serializer>(paths: &[PathBuf], serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_seq(paths.iter().map(Written::from))
    }

    /// Reads the paths.
    pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<PathBuf>, D::Error> {
        Ok(Vec::<Written>::deserialize(deserializer)?.into_iter().map(Into::into).collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
    struct Paths {
        #[serde(with = "super")]
        one: PathBuf,
        #[serde(with = "super::option", default, skip_serializing_if = "Option::is_none")]
        maybe: Option<PathBuf>,
        #[serde(with = "super::list")]
        several: Vec<PathBuf>,
    }

    fn path(bytes: &[u8]) -> PathBuf {
        OsString::from_vec(bytes.to_vec()).into()
    }

    #[test]
    fn path_json_round_trips_every_path() {
        for bytes in [&b"/srv/x.sh"[..], "/srv/größer ☃".as_bytes(), b"/srv/\xff\xfe.sh", b"\x80", b"", b"/a\nb\"c\\"] {
            for maybe in [None, Some(path(bytes))] {
                let paths = Paths { one: path(bytes), maybe, several: vec![path(b"/plain"), path(bytes)] };
                let text = serde_json::to_string(&paths).expect("every path is JSON");
                assert_eq!(serde_json::from_str::<Paths>(&text).expect("reads"), paths, "{text}");
            }
        }
    }

    #[test]
    fn utf_8_path_is_written_as_a_string() {
        let paths = Paths { one: "/a".into(), maybe: None, several: vec!["/b".into()] };
        assert_eq!(serde_json::to_string(&paths).expect("JSON"), r#"{"one":"/a","several":["/b"]}"#);
    }
}
