//! JSON with one object per line, on the socket and in the files of a run.

use serde::Serialize;
use serde::de::DeserializeOwned;

/// Serialises a value as one line.
pub fn to_line(value: &impl Serialize) -> Vec<u8> {
    // Paths go through `path_json`, because serde refuses paths that are not UTF-8.
    let mut line = serde_json::to_vec(value).expect("protocol values are plain data with text keys");
    line.push(b'\n');
    line
}

/// Parses a line, which must be an object. serde would take a list for the fields of a struct in their order, and so misread a
/// line of another version.
pub fn from_line<T: DeserializeOwned>(line: &[u8]) -> Result<T, serde_json::Error> {
    if line.trim_ascii_start().starts_with(b"[") {
        return Err(serde::de::Error::custom("expected an object, found a list"));
    }
    serde_json::from_slice(line)
}

/// A reader that splits a byte stream into lines of limited length.
#[derive(Debug)]
pub struct LineReader {
    buffer: Vec<u8>,
    limit: usize,
}

impl LineReader {
    /// Creates a reader for lines of up to `limit` bytes.
    pub fn new(limit: usize) -> Self {
        Self { buffer: Vec::new(), limit }
    }

    /// Adds bytes from the stream.
    pub fn push(&mut self, bytes: &[u8]) {
        self.buffer.extend_from_slice(bytes);
    }

    /// Returns the next complete line, without its newline.
    pub fn next_line(&mut self) -> Option<Vec<u8>> {
        let end = memchr::memchr(b'\n', &self.buffer)?;
        let rest = self.buffer.split_off(end + 1);
        let mut line = std::mem::replace(&mut self.buffer, rest);
        line.pop();
        Some(line)
    }

    /// Returns the bytes after the last complete line.
    pub fn into_rest(self) -> Vec<u8> {
        self.buffer
    }

    /// Returns whether the other side has sent more than the limit without a newline. Then the other side is not this program.
    pub fn is_over_limit(&self) -> bool {
        self.buffer.len() > self.limit
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_complete_for_any_chunk_size() {
        let stream = b"one\ntwo\n\nthree";
        for chunk in 1..=stream.len() {
            let mut reader = LineReader::new(100);
            let mut lines = Vec::new();
            for part in stream.chunks(chunk) {
                reader.push(part);
                while let Some(line) = reader.next_line() {
                    lines.push(String::from_utf8(line).expect("ascii"));
                }
            }
            assert_eq!(lines, ["one", "two", ""], "in chunks of {chunk}");
            assert!(!reader.is_over_limit());
        }
        let mut reader = LineReader::new(3);
        reader.push(b"four");
        assert!(reader.is_over_limit());
    }
}
