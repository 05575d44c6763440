//! The connected servers: usually one, none after its death, and two for a moment.

use std::io::{self, Read, Write};
use std::net::Shutdown;
use std::os::unix::net::{UnixListener, UnixStream};

use serde::Serialize;

use crate::abstract_socket;
use crate::run_dir::{Command, LineReader, Reply, ReplyError, from_line, to_line};

/// The maximum number of connections. More of them do not come from our servers, so the oldest one is closed.
const CONNECTIONS_MAX: usize = 4;

/// How many connections of a listener are accepted before the shim does something else, because another user can connect to the
/// second one without end. The others keep waiting, and wake the shim at once.
const ACCEPTED_MAX: usize = 64;

/// The longest command, in bytes.
const COMMAND_BYTES_MAX: usize = 4096;

/// The maximum number of unread bytes of a server. Beyond it the connection is closed; the server finds everything in the
/// journal.
const UNREAD_BYTES_MAX: usize = 4 * 1024 * 1024;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct ConnectionId(u64);

struct Connection {
    id: ConnectionId,
    stream: UnixStream,
    lines: LineReader,
    unsent: Vec<u8>,
    /// The message to send once all of `unsent` was taken. A newer one replaces it.
    latest: Vec<u8>,
    /// Whether the server asked for facts.
    is_attached: bool,
    is_broken: bool,
}

/// All connections, and the sockets that accept new ones.
pub(super) struct Connections {
    /// The listener in the run's directory.
    listener: UnixListener,
    /// The listener with an abstract name, which checks its peers.
    second: Option<UnixListener>,
    open: Vec<Connection>,
    next_id: u64,
}

impl Connections {
    /// `first` is the stream that this process was started with, which gets every fact from the first one on. `early` contains
    /// the bytes that were already read from it.
    pub(super) fn new(listener: UnixListener, second: Option<UnixListener>, first: UnixStream, early: &[u8]) -> io::Result<Self> {
        let mut connections = Self { listener, second, open: Vec::new(), next_id: 0 };
        connections.add(first)?;
        let first = &mut connections.open[0];
        first.lines.push(early);
        first.is_attached = true;
        Ok(connections)
    }

    pub(super) fn listeners(&self) -> impl Iterator<Item = &UnixListener> {
        std::iter::once(&self.listener).chain(&self.second)
    }

    pub(super) fn listen_at(&mut self, listener: UnixListener) {
        self.listener = listener;
    }

    /// Returns the connections' streams, and whether each has bytes to send.
    pub(super) fn streams(&self) -> impl Iterator<Item = (&UnixStream, bool)> {
        self.open.iter().map(|connection| (&connection.stream, !connection.unsent.is_empty()))
    }

    /// Accepts, reads, sends and cleans up, without ever waiting. Returns the commands that arrived.
    pub(super) fn turn(&mut self) -> Vec<(ConnectionId, Command)> {
        // On a shortage of descriptors or memory, the client tries again, and so does the shim at the next event.
        for _ in 0..ACCEPTED_MAX {
            let Ok((stream, _)) = self.listener.accept() else { break };
            let _broken_at_once = self.add(stream);
        }
        for _ in 0..ACCEPTED_MAX {
            let Some(Ok((stream, _))) = self.second.as_ref().map(UnixListener::accept) else { break };
            let _strangers_are_hung_up = abstract_socket::peer(&stream).and_then(|_| self.add(stream));
        }
        let mut commands = Vec::new();
        for connection in &mut self.open {
            connection.read(&mut commands);
            connection.send();
        }
        for broken in self.open.extract_if(.., |connection| connection.is_broken) {
            broken.hang_up();
        }
        commands
    }

    pub(super) fn tell(&mut self, id: ConnectionId, message: &impl Serialize) {
        if let Some(connection) = self.open.iter_mut().find(|connection| connection.id == id) {
            connection.push(&to_line(message));
        }
    }

    /// Sends to every connection that asked for facts. Messages that are sent together arrive together.
    pub(super) fn tell_all(&mut self, messages: &[impl Serialize]) {
        let lines: Vec<u8> = messages.iter().flat_map(to_line).collect();
        for connection in self.open.iter_mut().filter(|connection| connection.is_attached) {
            connection.push(&lines);
        }
    }

    /// Sends the latest values to every connection that asked for facts. A server that does not read gets only the last message.
    pub(super) fn tell_latest(&mut self, latest: &impl Serialize) {
        let line = to_line(latest);
        for connection in self.open.iter_mut().filter(|connection| connection.is_attached) {
            connection.latest.clone_from(&line);
            connection.send();
        }
    }

    pub(super) fn attach(&mut self, id: ConnectionId) {
        if let Some(connection) = self.open.iter_mut().find(|connection| connection.id == id) {
            connection.is_attached = true;
        }
    }

    fn add(&mut self, stream: UnixStream) -> io::Result<()> {
        stream.set_nonblocking(true)?;
        if self.open.len() >= CONNECTIONS_MAX {
            self.open.remove(0).hang_up();
        }
        let id = ConnectionId(self.next_id);
        self.next_id += 1;
        let lines = LineReader::new(COMMAND_BYTES_MAX);
        self.open.push(Connection {
            id,
            stream,
            lines,
            unsent: Vec::new(),
            latest: Vec::new(),
            is_attached: false,
            is_broken: false,
        });
        Ok(())
    }
}

impl Connection {
    fn read(&mut self, commands: &mut Vec<(ConnectionId, Command)>) {
        let mut buffer = [0; COMMAND_BYTES_MAX];
        loop {
            match self.stream.read(&mut buffer) {
                Ok(0) => break self.is_broken = true,
                Ok(count) => self.lines.push(&buffer[..count]),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(_) => break self.is_broken = true,
            }
            // Lines are taken before more is read: an endless line must not become an endless buffer.
            self.take_lines(commands);
        }
        self.take_lines(commands);
    }

    fn take_lines(&mut self, commands: &mut Vec<(ConnectionId, Command)>) {
        while let Some(line) = self.lines.next_line() {
            match from_line(&line) {
                Ok(Command::Unknown) => self.refuse_unknown(&line),
                Ok(command) => commands.push((self.id, command)),
                // A line that is not a command has no tag to answer to.
                Err(_) => {}
            }
        }
        self.is_broken |= self.lines.is_over_limit();
    }

    /// Answers an unknown command, because a newer server must not wait for it.
    fn refuse_unknown(&mut self, line: &[u8]) {
        #[derive(serde::Deserialize)]
        struct Tagged {
            tag: u64,
        }
        if let Ok(Tagged { tag }) = from_line(line) {
            let detail = Some(
                "the run's own process (the shim) is older than the server and does not know this \
                request"
                    .to_owned(),
            );
            self.push(&to_line(&Reply { reply: tag, error: Some(ReplyError::UnknownCommand), detail }));
        }
    }

    /// Shuts the connection down. Closing it is not enough, because standard input is another descriptor of the first
    /// connection.
    fn hang_up(self) {
        let _already_closed = self.stream.shutdown(Shutdown::Both);
    }

    fn push(&mut self, line: &[u8]) {
        self.unsent.extend_from_slice(line);
        self.is_broken |= self.unsent.len() > UNREAD_BYTES_MAX;
        self.send();
    }

    fn send(&mut self) {
        while !self.is_broken {
            if self.unsent.is_empty() {
                self.unsent = std::mem::take(&mut self.latest);
            }
            if self.unsent.is_empty() {
                break;
            }
            match self.stream.write(&self.unsent) {
                Ok(0) => self.is_broken = true,
                Ok(count) => drop(self.unsent.drain(..count)),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(_) => self.is_broken = true,
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::run_dir::{Message, NumberedSigns, Rotated, Signs};

    #[test]
    fn slow_server_gets_latest_signs_and_every_other_message() {
        let dir = tempfile::tempdir().expect("a temp folder");
        let listener = UnixListener::bind(dir.path().join("s")).expect("binds");
        listener.set_nonblocking(true).expect("a socket");
        let (ours, its) = UnixStream::pair().expect("a pair");
        let mut connections = Connections::new(listener, None, ours, b"").expect("begins");
        for number in 1..=100_000 {
            connections.tell_latest(&NumberedSigns { signs: Signs { note: Some("x".repeat(40)), ..Signs::default() }, number });
            if number % 1000 == 0 {
                connections.tell_all(&[Rotated { rotated: number }]);
            }
        }
        assert!(connections.open[0].unsent.len() < 64 * 1024 && !connections.open[0].is_broken);
        let (mut lines, mut numbers, mut rotated) = (LineReader::new(4096), Vec::new(), Vec::new());
        its.set_nonblocking(true).expect("a socket");
        let mut buffer = [0; 4096];
        while numbers.last() != Some(&100_000) {
            connections.turn();
            let count = (&its).read(&mut buffer).expect("there is more");
            lines.push(&buffer[..count]);
            while let Some(line) = lines.next_line() {
                match from_line(&line).expect("a message") {
                    Message::Signs(NumberedSigns { number, .. }) => numbers.push(number),
                    Message::Rotated(Rotated { rotated: number }) => rotated.push(number),
                    other => panic!("{other:?}"),
                }
            }
        }
        assert!(numbers.is_sorted() && numbers.len() < 10_000, "{} of 100,000", numbers.len());
        assert_eq!(rotated, (1..=100).map(|n| n * 1000).collect::<Vec<_>>(), "none of these is left out");
    }
}
