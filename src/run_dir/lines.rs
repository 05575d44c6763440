//! JSON, one object a line: as it goes over the socket, and as it stands in the files of a run.

use serde::Serialize;
use serde::de::DeserializeOwned;

/// A value as one line.
pub fn to_line(value: &impl Serialize) -> Vec<u8> {
    // Paths go through `path_json`: serde itself refuses one that is not UTF-8.
    let mut line = serde_json::to_vec(value).expect("protocol values are plain data with text keys");
    line.push(b'\n');
    line
}

/// A line as the value that it says. Only an object is one: serde takes a list for a struct's fields in order, so that words of some other
/// version would be understood, and wrongly.
pub fn from_line<T: DeserializeOwned>(line: &[u8]) -> Result<T, serde_json::Error> {
    if line.trim_ascii_start().starts_with(b"[") {
        return Err(serde::de::Error::custom("it is a list, and no object"));
    }
    serde_json::from_slice(line)
}

/// Cuts a byte stream into lines, with a limit.
#[derive(Debug)]
pub struct LineReader {
    buffer: Vec<u8>,
    limit: usize,
}

impl LineReader {
    /// Lines of up to `limit` bytes.
    pub fn new(limit: usize) -> Self {
        Self { buffer: Vec::new(), limit }
    }

    /// Takes bytes as they came.
    pub fn push(&mut self, bytes: &[u8]) {
        self.buffer.extend_from_slice(bytes);
    }

    /// The next whole line without its newline.
    pub fn next_line(&mut self) -> Option<Vec<u8>> {
        let end = memchr::memchr(b'\n', &self.buffer)?;
        let rest = self.buffer.split_off(end + 1);
        let mut line = std::mem::replace(&mut self.buffer, rest);
        line.pop();
        Some(line)
    }

    /// What came after the last whole line.
    pub fn into_rest(self) -> Vec<u8> {
        self.buffer
    }

    /// Whether the other side sent more than the limit without a newline: it is not one of ours.
    pub fn is_over_limit(&self) -> bool {
        self.buffer.len() > self.limit
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_come_out_whole_however_the_bytes_came() {
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
