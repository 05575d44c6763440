//! The pipeline's output: two pipes in, one log out.

use std::io::{self, PipeReader, Read};
use std::path::Path;
use std::time::Duration;

use crate::clock::{Clock, SystemClock, Timestamp};
use crate::log::{LOSS_MARK_BYTES_MAX, Limits, LineSplitter, SegmentWriter, Stream};

/// What is read from one pipe at a time, in bytes: what a pipe holds (`pipe(7)`).
const READ_BYTES: usize = 64 * 1024;

/// How often a loss that the log does not tell of yet is tried again.
const LOSS_RETRY: Duration = Duration::from_secs(1);

/// Both pipes and the log.
pub(super) struct Output {
    streams: Vec<Source>,
    log: SegmentWriter,
    /// Why the log did not take what came last.
    failure: Option<io::Error>,
    /// The stamp of what came last: those of a run never go back, even when the clock does.
    last_at: Timestamp,
    buffer: Vec<u8>,
    records: Vec<u8>,
}

struct Source {
    pipe: PipeReader,
    lines: LineSplitter,
}

impl Output {
    /// Begins the log, with no stamp before `not_before`. The pipes must not block.
    pub(super) fn create(
        dir: &Path,
        (start, not_before): (u64, Timestamp),
        limits: Limits,
        stdout: PipeReader,
        stderr: PipeReader,
    ) -> io::Result<Self> {
        let source = |pipe: PipeReader, stream| {
            rustix::fs::fcntl_setfl(&pipe, rustix::fs::OFlags::NONBLOCK)?;
            Ok::<_, io::Error>(Source { pipe, lines: LineSplitter::new(stream) })
        };
        Ok(Self {
            log: SegmentWriter::create(dir, start, limits)?,
            failure: None,
            last_at: not_before,
            streams: vec![source(stdout, Stream::Stdout)?, source(stderr, Stream::Stderr)?],
            buffer: vec![0; READ_BYTES],
            records: Vec::new(),
        })
    }

    /// The pipes that are still open.
    pub(super) fn pipes(&self) -> impl Iterator<Item = &PipeReader> {
        self.streams.iter().map(|source| &source.pipe)
    }

    /// Whether every writer has closed its end.
    pub(super) fn is_at_end(&self) -> bool {
        self.streams.is_empty()
    }

    /// The position after the log's last byte; where it has yet to say what it lost, with room for that.
    pub(super) fn end_position(&self) -> u64 {
        self.log.position() + if self.log.has_unreported_loss() { LOSS_MARK_BYTES_MAX } else { 0 }
    }

    /// Why lines are being lost, or the log does not tell yet of those that were.
    pub(super) fn failure(&self) -> Option<&io::Error> {
        self.failure.as_ref()
    }

    /// Whether the log has yet to say what it lost. One that was removed with all that it lay in says nothing to anybody.
    pub(super) fn owes_a_mark(&self) -> bool {
        self.failure.as_ref().is_some_and(|error| error.kind() != io::ErrorKind::NotFound)
    }

    /// Now, as text.
    fn stamp(&mut self) -> String {
        self.last_at = self.last_at.max(SystemClock.now());
        self.last_at.to_string()
    }

    /// When something is to be done although nothing comes.
    pub(super) fn due_at(&self, now: Duration) -> Option<Duration> {
        let retry = self.log.has_unreported_loss().then_some(now + LOSS_RETRY);
        self.streams.iter().filter_map(|source| source.lines.due_at()).chain(retry).min()
    }

    /// Reads each pipe once and writes what came, and unfinished lines that have waited for long enough. Whether anything came.
    pub(super) fn turn(&mut self, now: Duration) -> bool {
        let at = self.stamp();
        let at = at.as_bytes();
        self.records.clear();
        let mut has_read = false;
        let (buffer, records) = (&mut self.buffer, &mut self.records);
        self.streams.retain_mut(|source| match read_once(&mut source.pipe, buffer) {
            Some(0) => {
                source.lines.end(at, records);
                false
            }
            Some(count) => {
                has_read = true;
                source.lines.push(&buffer[..count], at, now, records);
                true
            }
            None => {
                source.lines.flush_if_due(at, now, records);
                true
            }
        });
        self.write(at);
        has_read
    }

    /// Takes what the pipes hold now and closes them, whoever may still have the other end: the run is over. Bounded by `deadline` against a
    /// writer outside of the tree.
    pub(super) fn close(&mut self, deadline: impl Fn() -> bool, now: Duration) {
        while self.turn(now) && !deadline() {}
        let at = self.stamp();
        self.records.clear();
        for mut source in self.streams.drain(..) {
            source.lines.end(at.as_bytes(), &mut self.records);
        }
        self.write(at.as_bytes());
    }

    fn write(&mut self, at: &[u8]) {
        let written = if self.records.is_empty() { self.log.report_loss(at) } else { self.log.write(&self.records, at) };
        // The pipeline must not stand still because a disk is full: what is lost is counted, and the log says so when it can.
        self.failure = written.err();
        // One very long burst must not keep its memory for days.
        self.records.shrink_to(4 * READ_BYTES);
    }
}

/// `Some(0)` at the end, `None` when there is nothing now.
fn read_once(pipe: &mut PipeReader, buffer: &mut [u8]) -> Option<usize> {
    loop {
        match pipe.read(buffer) {
            Ok(count) => return Some(count),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return None,
            // A pipe that cannot be read is of no more use than one that ended.
            Err(_) => return Some(0),
        }
    }
}
