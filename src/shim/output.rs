//! The pipeline's output: two pipes in, one log out.

use std::io::{self, PipeReader, Read};
use std::path::Path;
use std::time::Duration;

use super::progress::ProgressKeeper;
use super::signs::SignBoard;
use crate::clock::{Clock, SystemClock, Timestamp};
use crate::log::{LOSS_MARK_BYTES_MAX, Limits, LineSplitter, RECORDS_ENOUGH, SegmentWriter, Stream};

/// The requested size of a pipe, in bytes (`pipe(7)`). With a larger one the pipeline has to wait less often. But if it never
/// has to wait, it and this process occupy two processors, and the server's answers are delayed.
const PIPE_BYTES: usize = 256 * 1024;

/// How much is read from one pipe at a time, in bytes: it fits into a processor's nearer cache together with the records made of
/// it.
const READ_BYTES: usize = 64 * 1024;

/// How often a pipe that fills the buffer is read before anything else gets its turn.
const READS_MAX: usize = PIPE_BYTES / READ_BYTES;

/// How long the pipes are not polled in the middle of a burst of small writes: a wake-up for each write would hold up the
/// pipeline more than all the rest of the work. Output after a silence is read at once. Shorter than the fastest writer needs to
/// fill a pipe.
const BURST_REST: Duration = Duration::from_micros(250);

/// Output that arrives within this time of the previous output is a burst.
const BURST_GAP: Duration = Duration::from_millis(2);

/// How often the shim retries to write the mark of a loss into the log.
const LOSS_RETRY: Duration = Duration::from_secs(1);

pub(super) struct Output {
    streams: Vec<Source>,
    log: SegmentWriter,
    /// Why the log did not take the latest output.
    failure: Option<io::Error>,
    /// The stamp of the latest output. Stamps of a run never go back, even if the clock does.
    last_at: Timestamp,
    progress: ProgressKeeper,
    /// How long the run had run without its pauses at the latest turn.
    ran: Duration,
    /// When the latest output arrived, and until when the pipes are not polled; in awake time.
    last_came: Duration,
    rest_until: Duration,
    buffer: Vec<u8>,
    records: Vec<u8>,
}

struct Source {
    pipe: PipeReader,
    lines: LineSplitter,
}

impl Output {
    /// Begins the log in `dir`, with no stamp before `not_before`. Makes the pipes non-blocking.
    pub(super) fn create(
        dir: &Path,
        progress: ProgressKeeper,
        (start, not_before): (u64, Timestamp),
        limits: Limits,
        stdout: PipeReader,
        stderr: PipeReader,
    ) -> io::Result<Self> {
        let source = |pipe: PipeReader, stream| {
            rustix::fs::fcntl_setfl(&pipe, rustix::fs::OFlags::NONBLOCK)?;
            // For a user with very many pipes the kernel refuses; then the pipe keeps its usual size.
            let _less_room = rustix::pipe::fcntl_setpipe_size(&pipe, PIPE_BYTES);
            Ok::<_, io::Error>(Source { pipe, lines: LineSplitter::new(stream) })
        };
        Ok(Self {
            log: SegmentWriter::create(dir, start, limits)?,
            failure: None,
            last_at: not_before,
            progress,
            ran: Duration::ZERO,
            last_came: Duration::ZERO,
            rest_until: Duration::ZERO,
            streams: vec![source(stdout, Stream::Stdout)?, source(stderr, Stream::Stderr)?],
            buffer: vec![0; READ_BYTES],
            records: Vec::new(),
        })
    }

    /// Returns the pipes to poll now: those that are still open, or none in the middle of a burst.
    pub(super) fn pipes(&self, now: Duration) -> impl Iterator<Item = &PipeReader> {
        self.streams.iter().filter(move |_| self.rest_until <= now).map(|source| &source.pipe)
    }

    /// Returns whether every writer has closed its end.
    pub(super) fn is_at_end(&self) -> bool {
        self.streams.is_empty()
    }

    /// Continues the log in `dir`, a copy of the previous one.
    pub(super) fn move_to(&mut self, dir: &Path) -> io::Result<()> {
        self.log.move_to(dir)
    }

    /// Returns the position after the log's last byte. Includes room for a loss mark that is not written yet.
    pub(super) fn end_position(&self) -> u64 {
        self.log.position() + if self.log.has_unreported_loss() { LOSS_MARK_BYTES_MAX } else { 0 }
    }

    /// Returns the end of the log if it has begun another segment since the previous call.
    pub(super) fn take_rotated(&mut self) -> Option<u64> {
        self.log.take_rotated().then(|| self.log.position())
    }

    /// Returns why lines are being lost, or why the mark of a loss could not be written yet.
    pub(super) fn failure(&self) -> Option<&io::Error> {
        self.failure.as_ref()
    }

    /// Returns whether the log still needs a loss mark. A log that was removed with its directory needs none.
    pub(super) fn owes_a_mark(&self) -> bool {
        self.failure.as_ref().is_some_and(|error| error.kind() != io::ErrorKind::NotFound)
    }

    pub(super) fn progress(&mut self) -> &mut ProgressKeeper {
        &mut self.progress
    }

    fn stamp(&mut self) -> String {
        self.last_at = self.last_at.max(SystemClock.now());
        self.last_at.to_string()
    }

    /// Returns when there is something to do even if no output arrives.
    pub(super) fn due_at(&self, now: Duration) -> Option<Duration> {
        let retry = self.log.has_unreported_loss().then_some(now + LOSS_RETRY);
        let rested = Some(self.rest_until).filter(|&until| until > now);
        self.streams.iter().filter_map(|source| source.lines.due_at()).chain(retry).chain(rested).min()
    }

    /// Reads and writes the output that has arrived, and unfinished lines that have waited for long enough. `ran` is how long
    /// the run has run by now, without its pauses. Returns whether any output arrived.
    pub(super) fn turn(&mut self, now: Duration, ran: Duration, board: &mut SignBoard) -> bool {
        self.ran = ran;
        let at = self.stamp();
        let at = at.as_bytes();
        self.records.clear();
        let mut has_read = false;
        let mut is_full = true;
        // Alternates, so that neither stream gets far ahead of the other.
        for _ in 0..READS_MAX {
            if !std::mem::take(&mut is_full) {
                break;
            }
            let mut n = 0;
            while let Some(source) = self.streams.get_mut(n) {
                match read_once(&mut source.pipe, &mut self.buffer) {
                    Some(0) => {
                        source.lines.end(at, &mut self.records);
                        self.streams.remove(n);
                        continue;
                    }
                    Some(count) => {
                        has_read = true;
                        is_full |= count == self.buffer.len();
                        self.take(n, count, at, now, board);
                    }
                    None => {}
                }
                self.streams[n].lines.flush_if_due(at, now, &mut self.records);
                n += 1;
            }
        }
        self.write(at);
        if has_read {
            let is_burst = !is_full && now.saturating_sub(self.last_came) < BURST_GAP;
            self.rest_until = if is_burst { now + BURST_REST } else { Duration::ZERO };
            self.last_came = now;
        }
        // One very long burst must not keep its memory for days.
        self.records.shrink_to(RECORDS_ENOUGH);
        has_read
    }

    /// Makes records of the first `count` bytes of the buffer, which stream `n` brought. Writes them if there are many.
    fn take(&mut self, n: usize, count: usize, at: &[u8], now: Duration, board: &mut SignBoard) {
        let mut used = 0;
        while used < count {
            used += self.streams[n].lines.push(&self.buffer[used..count], at, now, &mut self.records);
            self.progress.take(self.streams[n].lines.take_marks(), self.last_at, self.ran, board);
            if self.records.len() >= RECORDS_ENOUGH {
                self.write(at);
                self.records.clear();
            }
        }
    }

    /// Reads what the pipes contain now and closes them, even if another process has the other end: the run is over. `deadline`
    /// is the limit for writers outside the tree.
    pub(super) fn close(&mut self, deadline: impl Fn() -> bool, now: Duration, ran: Duration, board: &mut SignBoard) {
        while self.turn(now, ran, board) && !deadline() {}
        let at = self.stamp();
        self.records.clear();
        for mut source in self.streams.drain(..) {
            source.lines.end(at.as_bytes(), &mut self.records);
        }
        self.write(at.as_bytes());
    }

    fn write(&mut self, at: &[u8]) {
        let written = if self.records.is_empty() { self.log.report_loss(at) } else { self.log.write(&self.records, at) };
        // The pipeline must not stand still because a disk is full. Lost bytes are counted, and the log reports them when it
        // can.
        self.failure = written.err();
    }
}

/// Reads once: `Some(0)` at the end, `None` if there is nothing to read now.
fn read_once(pipe: &mut PipeReader, buffer: &mut [u8]) -> Option<usize> {
    loop {
        match pipe.read(buffer) {
            Ok(count) => return Some(count),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return None,
            // A pipe that cannot be read is of no more use than one that has ended.
            Err(_) => return Some(0),
        }
    }
}
