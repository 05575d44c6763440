//! JSON responses.

use rouille::Response;
use serde::Serialize;

/// The initial capacity for a long response, in bytes. Most pages of a log are shorter.
const LONG_BYTES: usize = 2 * 1024 * 1024;

/// Creates a JSON response.
pub(super) fn json(value: &impl Serialize) -> Response {
    Response::from_data("application/json", serde_json::to_vec(value).expect("answers are plain data"))
}

/// Serializes a value that can be long into one large allocation, which the kernel gets back as a whole. The part that is not
/// used occupies no memory.
pub(super) fn long_bytes(value: &impl Serialize) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(LONG_BYTES);
    serde_json::to_writer(&mut bytes, value).expect("answers are plain data");
    bytes
}
