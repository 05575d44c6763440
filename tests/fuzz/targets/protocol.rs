//! The messages between server and shim. The first byte determines how the rest is cut.

use std::fmt::Debug;

use autoappdev::run_dir::{Command, LaunchSpec, LineReader, Message, from_line, to_line};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::Value;

use super::cut::{choices, pieces};

pub fn run(bytes: &[u8]) {
    let ([how], stream) = choices::<1>(bytes);
    let (lines, rest) = cut(&[stream]);
    let mut joined = Vec::new();
    for line in &lines {
        assert!(!line.contains(&b'\n'));
        joined.extend_from_slice(line);
        joined.push(b'\n');
    }
    joined.extend_from_slice(&rest);
    assert_eq!(joined, stream, "bytes were lost or made up");
    assert_eq!(cut(&pieces(stream, how)), (lines.clone(), rest), "other lines when they come in pieces");
    for line in &lines {
        said_again::<Command>(line);
        said_again::<Message>(line);
        said_again::<LaunchSpec>(line);
        tells_what_it_is(line);
    }
}

/// Checks that a message contains the key of its kind: an unknown message is not taken for a known one.
fn tells_what_it_is(line: &[u8]) {
    let Ok(message) = from_line::<Message>(line) else { return };
    let Ok(Value::Object(said)) = serde_json::from_slice(line) else { panic!("a message is no object") };
    let key = match message {
        Message::Fact(_) => "fact",
        Message::Reply(_) => "reply",
        Message::Signs(_) => "signs",
        Message::Rotated(_) => "rotated",
    };
    assert!(said.contains_key(key), "{said:?} was taken for a {key}");
}

fn cut(pieces: &[&[u8]]) -> (Vec<Vec<u8>>, Vec<u8>) {
    let mut reader = LineReader::new(1 << 20);
    let mut lines = Vec::new();
    for piece in pieces {
        reader.push(piece);
        while let Some(line) = reader.next_line() {
            lines.push(line);
        }
    }
    assert!(!reader.is_over_limit());
    (lines, reader.into_rest())
}

/// Checks that a parsed message is one line again, with the same meaning.
fn said_again<T: DeserializeOwned + Serialize + PartialEq + Debug>(line: &[u8]) {
    let Ok(said) = from_line::<T>(line) else { return };
    let again = to_line(&said);
    assert_eq!(again.iter().position(|byte| *byte == b'\n'), Some(again.len() - 1));
    assert_eq!(from_line::<T>(again.trim_ascii_end()).expect("reads"), said);
}
