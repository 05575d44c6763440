//! A client of `GET /api/events`: the head, the chunks, and the events exactly as they were sent.

use std::io::{self, Read, Write};
use std::net::{Shutdown, TcpStream};
use std::time::{Duration, Instant};

use serde_json::Value;

use super::DEADLINE;

/// One event.
#[derive(Clone, Debug, PartialEq)]
pub struct Event {
    pub id: String,
    pub kind: String,
    pub data: Value,
}

/// An open stream.
pub struct EventStream {
    stream: TcpStream,
    /// The bytes that were read and not parsed yet: of the chunked coding, and of the events in it.
    coded: Vec<u8>,
    text: Vec<u8>,
    /// The id of the last event that had one. As in a browser, an event without an id takes it over.
    last_id: String,
    /// The latest value of `retry:`, in milliseconds.
    pub retry_ms: Option<u64>,
    pub comments: usize,
    /// Whether the stream ended in an orderly way, with the empty chunk.
    pub is_ended: bool,
}

impl EventStream {
    /// Opens a stream. `query` begins with a question mark or is empty.
    pub fn open(port: u16, query: &str, last_id: Option<&str>) -> Self {
        Self::try_open(port, query, last_id).expect("a stream").unwrap_or_else(|refusal| panic!("refused: {refusal}"))
    }

    /// Like [`Self::open`]. The inner error is the whole response, if it is not a stream.
    pub fn try_open(port: u16, query: &str, last_id: Option<&str>) -> io::Result<Result<Self, String>> {
        let mut stream = TcpStream::connect(("127.0.0.1", port))?;
        stream.set_read_timeout(Some(DEADLINE))?;
        let field = last_id.map(|id| format!("Last-Event-ID: {id}\r\n")).unwrap_or_default();
        write!(stream, "GET /api/events{query} HTTP/1.1\r\nHost: localhost\r\nAccept: text/event-stream\r\n{field}\r\n")?;
        let last_id = last_id.map(str::to_owned);
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            let mut byte = [0];
            stream.read_exact(&mut byte)?;
            head.push(byte[0]);
        }
        let head = String::from_utf8(head).expect("text");
        if !head.starts_with("HTTP/1.1 200 ") {
            stream.set_read_timeout(Some(Duration::from_millis(100)))?;
            let mut body = Vec::new();
            // The connection stays open after an error: its body is what arrives within a moment.
            let _stays_open = stream.read_to_end(&mut body);
            return Ok(Err(format!("{head}{}", String::from_utf8_lossy(&body))));
        }
        assert!(head.contains("Content-Type: text/event-stream\r\n"), "{head}");
        assert!(head.contains("Cache-Control: no-store\r\n"), "{head}");
        Ok(Ok(Self {
            stream,
            coded: Vec::new(),
            text: Vec::new(),
            last_id: last_id.unwrap_or_default(),
            retry_ms: None,
            comments: 0,
            is_ended: false,
        }))
    }

    /// Returns the next event, or `None` at the end, however the stream ended.
    pub fn next(&mut self) -> Option<Event> {
        self.next_while(|| true)
    }

    /// Like [`Self::next`], but also returns `None` if `goes_on` returns false. It is called before each wait, because a stream
    /// without events still sends comments.
    fn next_while(&mut self, goes_on: impl Fn() -> bool) -> Option<Event> {
        loop {
            if let Some(end) = self.text.windows(2).position(|two| two == b"\n\n") {
                let block: Vec<u8> = self.text.drain(..end + 2).collect();
                if let Some(event) = self.understand(&String::from_utf8(block).expect("text")) {
                    return Some(event);
                }
                continue;
            }
            if !goes_on() || !self.read_chunk() {
                return None;
            }
        }
    }

    /// Reads on until the next comment, which must come before any event.
    pub fn until_comment(&mut self) {
        let before = self.comments;
        while self.comments == before {
            if let Some(end) = self.text.windows(2).position(|two| two == b"\n\n") {
                let block: Vec<u8> = self.text.drain(..end + 2).collect();
                let event = self.understand(&String::from_utf8(block).expect("text"));
                assert!(event.is_none(), "it was told {event:?}");
            } else {
                assert!(self.read_chunk(), "the stream ended before a comment");
            }
        }
    }

    /// Reads on until an event fits. Returns all events up to it.
    pub fn until(&mut self, what: &str, fits: impl Fn(&Event) -> bool) -> Vec<Event> {
        let mut seen = Vec::new();
        // The deadline applies to each event.
        let next = |stream: &mut Self| {
            let deadline = Instant::now() + DEADLINE;
            stream.next_while(|| Instant::now() < deadline)
        };
        while let Some(event) = next(self) {
            let is_it = fits(&event);
            seen.push(event);
            if is_it {
                return seen;
            }
        }
        panic!("the stream ended, or was without news, before {what}; it said {} events, the last {:?}", seen.len(), seen.last());
    }

    /// Closes the connection.
    pub fn cut(self) {
        let _gone = self.stream.shutdown(Shutdown::Both);
    }

    fn understand(&mut self, block: &str) -> Option<Event> {
        let mut event = Event { id: self.last_id.clone(), kind: String::new(), data: Value::Null };
        for line in block.lines().filter(|line| !line.is_empty()) {
            match line.split_once(": ").unwrap_or((line, "")) {
                ("id", id) => id.clone_into(&mut event.id),
                ("event", kind) => kind.clone_into(&mut event.kind),
                ("data", data) => event.data = serde_json::from_str(data).expect("JSON"),
                ("retry", ms) => self.retry_ms = Some(ms.parse().expect("a number")),
                (":", _) => self.comments += 1,
                other => panic!("what is {other:?} in {block:?}?"),
            }
        }
        self.last_id.clone_from(&event.id);
        (!event.kind.is_empty()).then_some(event)
    }

    /// Reads one chunk. Returns whether it contained bytes.
    fn read_chunk(&mut self) -> bool {
        loop {
            if let Some(end) = self.coded.windows(2).position(|two| two == b"\r\n") {
                let size = std::str::from_utf8(&self.coded[..end]).ok().and_then(|size| usize::from_str_radix(size, 16).ok());
                let size = size.unwrap_or_else(|| panic!("no chunk: {:?}", String::from_utf8_lossy(&self.coded)));
                if self.coded.len() >= end + 2 + size + 2 {
                    self.text.extend(&self.coded[end + 2..end + 2 + size]);
                    self.coded.drain(..end + 2 + size + 2);
                    self.is_ended = size == 0;
                    return size > 0;
                }
            }
            let mut buffer = [0; 16 * 1024];
            match self.stream.read(&mut buffer) {
                Ok(count) if count > 0 => self.coded.extend_from_slice(&buffer[..count]),
                // With a time-out, the kernel does not restart a read after the machine or this process was suspended
                // (signal(7)).
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Ok(_) | Err(_) => return false,
            }
        }
    }
}
