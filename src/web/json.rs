//! JSON answers.

use rouille::Response;
use serde::Serialize;

/// More than most pages of a log take, in bytes.
const LONG_BYTES: usize = 2 * 1024 * 1024;

/// A JSON answer.
pub(super) fn json(value: &impl Serialize) -> Response {
    Response::from_data("application/json", serde_json::to_vec(value).expect("answers are plain data"))
}

/// The same for what can be long, written in one piece, which the kernel gets back whole. What is not used of it is not there.
pub(super) fn long_bytes(value: &impl Serialize) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(LONG_BYTES);
    serde_json::to_writer(&mut bytes, value).expect("answers are plain data");
    bytes
}
