//! HTTP by hand on a raw socket, for requests that no well-behaved client sends.

use std::io::{self, Read, Write};
use std::net::{Shutdown, TcpStream};
use std::time::Duration;

use serde_json::Value;

use super::{Answer, DEADLINE};

/// One connection.
pub struct Wire {
    stream: TcpStream,
    unread: Vec<u8>,
}

impl Wire {
    pub fn open(port: u16) -> Self {
        Self::try_open(port).expect("the server accepts")
    }

    pub fn try_open(port: u16) -> io::Result<Self> {
        let stream = TcpStream::connect(("127.0.0.1", port))?;
        stream.set_read_timeout(Some(DEADLINE))?;
        stream.set_write_timeout(Some(DEADLINE))?;
        stream.set_nodelay(true)?;
        Ok(Self { stream, unread: Vec::new() })
    }

    /// Opens a connection from another loopback address.
    pub fn open_from(source: &str, port: u16) -> Self {
        use rustix::net::{AddressFamily, SocketType, bind, connect, socket};
        let socket = socket(AddressFamily::INET, SocketType::STREAM, None).expect("a socket");
        let at = |ip: &str, port| std::net::SocketAddr::new(ip.parse().expect("a number"), port);
        bind(&socket, &at(source, 0)).expect("all of 127.0.0.0/8 is this machine's");
        connect(&socket, &at("127.0.0.1", port)).expect("the server accepts");
        Self::of(socket.into())
    }

    /// Opens a connection of another user: the kernel records who created the socket. Requires root.
    pub fn open_as(uid: u32, port: u16) -> Self {
        let open = move || {
            // Affects only this thread, which ends afterwards.
            nix::unistd::setfsuid(uid.into());
            Self::open(port)
        };
        std::thread::spawn(open).join().expect("the server accepts")
    }

    /// Wraps a connection on which something was already sent.
    pub fn of(stream: TcpStream) -> Self {
        stream.set_read_timeout(Some(DEADLINE)).expect("a limit");
        Self { stream, unread: Vec::new() }
    }

    /// Sets the time limit for reads, for a response that must arrive before anything that the server sends by itself.
    pub fn read_within(&mut self, limit: Duration) {
        self.stream.set_read_timeout(Some(limit)).expect("a limit");
    }

    /// Sends bytes unchanged. The other side may have closed the connection: only what it sent before that matters.
    pub fn send(&mut self, bytes: impl AsRef<[u8]>) {
        let _closed_already = self.stream.write_all(bytes.as_ref());
    }

    /// Returns an error if the other side no longer accepts bytes.
    pub fn try_send(&mut self, bytes: impl AsRef<[u8]>) -> io::Result<()> {
        self.stream.write_all(bytes.as_ref())
    }

    /// Sends a request with only the required header field.
    pub fn ask(&mut self, method: &str, path: &str) {
        self.send(format!("{method} {path} HTTP/1.1\r\nHost: localhost\r\n\r\n"));
    }

    /// Sends one request and returns its response.
    pub fn get(&mut self, path: &str) -> Answer {
        self.ask("GET", path);
        self.answer()
    }

    /// Returns whether unread data or the end of the connection has arrived.
    pub fn has_answer(&self) -> bool {
        self.stream.set_nonblocking(true).expect("an option");
        let has_come = self.stream.peek(&mut [0]).map_or_else(|error| error.kind() != io::ErrorKind::WouldBlock, |_| true);
        self.stream.set_nonblocking(false).expect("an option");
        has_come
    }

    /// Returns the next response.
    pub fn answer(&mut self) -> Answer {
        self.try_answer(false).expect("an answer")
    }

    /// Returns the next response, which is to a HEAD.
    pub fn answer_to_head(&mut self) -> Answer {
        self.try_answer(true).expect("an answer")
    }

    /// Returns the next response, or the reason why none arrived.
    pub fn try_answer(&mut self, to_head: bool) -> io::Result<Answer> {
        let head_ends = loop {
            if let Some(at) = self.unread.windows(4).position(|four| four == b"\r\n\r\n") {
                break at + 4;
            }
            self.more()?;
        };
        let head: Vec<u8> = self.unread.drain(..head_ends).collect();
        let head = String::from_utf8(head).expect("a head is text");
        let mut lines = head.trim_end().split("\r\n");
        let first = lines.next().expect("a first line");
        let status = first.strip_prefix("HTTP/1.1 ").and_then(|rest| rest.get(..3)?.parse().ok());
        let status: u16 = status.unwrap_or_else(|| panic!("no status line: {first:?}"));
        let headers: Vec<(String, String)> = lines
            .map(|line| line.split_once(": ").unwrap_or_else(|| panic!("no header: {line:?}")))
            .map(|(name, value)| (name.to_owned(), value.to_owned()))
            .collect();
        let mut answer = Answer { status, body: Value::Null, headers };
        if to_head || matches!(status, 100..=199 | 204 | 304) {
            return Ok(answer);
        }
        let length = answer.header("Content-Length").and_then(|length| length.parse::<usize>().ok());
        let length = length.expect("every answer here tells its length");
        while self.unread.len() < length {
            self.more()?;
        }
        let text = String::from_utf8(self.unread.drain(..length).collect()).expect("text");
        answer.body = serde_json::from_str(&text).unwrap_or(Value::String(text));
        Ok(answer)
    }

    /// Waits for the end of the connection. Returns whether nothing arrived before it.
    pub fn ends_silently(&mut self) -> bool {
        loop {
            match self.more() {
                Ok(()) => {}
                Err(error) if matches!(error.kind(), io::ErrorKind::UnexpectedEof | io::ErrorKind::ConnectionReset) => {
                    return self.unread.is_empty();
                }
                Err(error) => panic!("the connection stays open: {error}"),
            }
        }
    }

    /// Puts back bytes that were read from the connection elsewhere.
    pub fn unread(&mut self, bytes: &[u8]) {
        self.unread.extend_from_slice(bytes);
    }

    /// Returns a second handle of the connection, for a thread that only writes.
    pub fn writer(&self) -> TcpStream {
        self.stream.try_clone().expect("a descriptor")
    }

    /// Shuts down the sending side.
    pub fn finish(&mut self) {
        self.stream.shutdown(Shutdown::Write).expect("open");
    }

    /// Shuts down both sides of a connection that may already have ended.
    pub fn finish_quietly(self) {
        let _ended_already = self.stream.shutdown(Shutdown::Both);
    }

    /// Ends the connection with a reset instead of an orderly close.
    pub fn reset(self) {
        rustix::net::sockopt::set_socket_linger(&self.stream, Some(Duration::ZERO)).expect("an option");
    }

    fn more(&mut self) -> io::Result<()> {
        let mut buffer = vec![0; 64 * 1024];
        loop {
            match self.stream.read(&mut buffer) {
                // With a time-out, the kernel does not restart a read after the machine or this process was suspended
                // (signal(7)).
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
                Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
                Ok(count) => {
                    self.unread.extend_from_slice(&buffer[..count]);
                    return Ok(());
                }
            }
        }
    }
}
