//! HTTP by hand: bytes out, answers in, on a raw socket. For what no well-behaved client sends.

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

    /// One from another of loopback's addresses.
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

    /// A connection on which something was sent already.
    pub fn of(stream: TcpStream) -> Self {
        stream.set_read_timeout(Some(DEADLINE)).expect("a limit");
        Self { stream, unread: Vec::new() }
    }

    /// For an answer that must come earlier than anything that would come by itself.
    pub fn read_within(&mut self, limit: Duration) {
        self.stream.set_read_timeout(Some(limit)).expect("a limit");
    }

    /// Sends bytes as they are. The other side may have closed: what it said before that is what counts.
    pub fn send(&mut self, bytes: impl AsRef<[u8]>) {
        let _closed_already = self.stream.write_all(bytes.as_ref());
    }

    /// Whether the other side still takes bytes.
    pub fn try_send(&mut self, bytes: impl AsRef<[u8]>) -> io::Result<()> {
        self.stream.write_all(bytes.as_ref())
    }

    /// Asks with the one header that must be there.
    pub fn ask(&mut self, method: &str, path: &str) {
        self.send(format!("{method} {path} HTTP/1.1\r\nHost: localhost\r\n\r\n"));
    }

    /// One request on its own, answered.
    pub fn get(&mut self, path: &str) -> Answer {
        self.ask("GET", path);
        self.answer()
    }

    /// Whether something has come that is not read yet, or the end.
    pub fn has_answer(&self) -> bool {
        self.stream.set_nonblocking(true).expect("an option");
        let has_come = self.stream.peek(&mut [0]).map_or_else(|error| error.kind() != io::ErrorKind::WouldBlock, |_| true);
        self.stream.set_nonblocking(false).expect("an option");
        has_come
    }

    /// The next answer.
    pub fn answer(&mut self) -> Answer {
        self.try_answer(false).expect("an answer")
    }

    /// The next answer, to a HEAD.
    pub fn answer_to_head(&mut self) -> Answer {
        self.try_answer(true).expect("an answer")
    }

    /// The next answer, or why there is none.
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

    /// Waits for the end of the connection; whether nothing came before it.
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

    /// Puts back what was read by another hand.
    pub fn unread(&mut self, bytes: &[u8]) {
        self.unread.extend_from_slice(bytes);
    }

    /// A second hand on the same connection, for a thread that only writes.
    pub fn writer(&self) -> TcpStream {
        self.stream.try_clone().expect("a descriptor")
    }

    /// Says that nothing more will be sent.
    pub fn finish(&mut self) {
        self.stream.shutdown(Shutdown::Write).expect("open");
    }

    /// The same, on one that may have ended.
    pub fn finish_quietly(self) {
        let _ended_already = self.stream.shutdown(Shutdown::Both);
    }

    /// Ends the connection by a reset, not by a farewell.
    pub fn reset(self) {
        rustix::net::sockopt::set_socket_linger(&self.stream, Some(Duration::ZERO)).expect("an option");
    }

    fn more(&mut self) -> io::Result<()> {
        let mut buffer = vec![0; 64 * 1024];
        loop {
            match self.stream.read(&mut buffer) {
                // With a time-out set a read does not go on by itself where the machine, or this process, was suspended (signal(7)).
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
