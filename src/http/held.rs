//! Long answers on their way: a limit on how many are made at once, and on what of them waits in memory for a client to read it.
//!
//! A page of a log is a megabyte and more. Whoever asks for it on many connections and does not read would otherwise have the server keep
//! all of them. The newest answer is always kept; the one that nobody has read from for longest gives way, and its connection ends before
//! the length that was promised, which every client can tell from a whole answer.

use std::collections::BTreeMap;
use std::io::{self, Read};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

use rouille::{Response, ResponseBody};

/// What all unread answers may hold, in bytes; one alone may hold more.
const HELD_BYTES_MAX: usize = 4 * 1024 * 1024;
/// An answer up to this size is written at once, and not counted.
const SHORT_BYTES_MAX: usize = 32 * 1024;
/// How many long answers are made at a time. To make one takes several times its size.
const MAKERS_MAX: usize = 2;

/// The long answers of one server.
#[derive(Debug, Default)]
pub struct Answers {
    held: Arc<Mutex<Held>>,
    makers: Mutex<usize>,
    made: Condvar,
}

#[derive(Debug, Default)]
struct Held {
    answers: BTreeMap<u64, Answer>,
    bytes: usize,
    /// Numbers answers, and looks at them, in their order.
    clock: u64,
}

#[derive(Debug)]
struct Answer {
    bytes: Vec<u8>,
    read: usize,
    read_at: u64,
}

impl Answers {
    /// Waits for a turn to make a long answer, and makes it.
    pub(super) fn make<T>(&self, make: impl FnOnce() -> T) -> T {
        let makers = self.makers.lock().unwrap_or_else(PoisonError::into_inner);
        let mut makers = self.made.wait_while(makers, |makers| *makers >= MAKERS_MAX).unwrap_or_else(PoisonError::into_inner);
        *makers += 1;
        drop(makers);
        let _turn = Turn(self);
        make()
    }

    /// A JSON answer of these bytes.
    pub(super) fn json(&self, bytes: Vec<u8>) -> Response {
        let response = Response::from_data("application/json", Vec::new());
        let length = bytes.len();
        let data = if length <= SHORT_BYTES_MAX {
            ResponseBody::from_data(bytes)
        } else {
            let number = lock(&self.held).take_in(bytes);
            ResponseBody::from_reader_and_size(Reader { number, held: self.held.clone() }, length)
        };
        Response { data, ..response }
    }
}

/// Ends also where making it panics.
struct Turn<'a>(&'a Answers);

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        *self.0.makers.lock().unwrap_or_else(PoisonError::into_inner) -= 1;
        self.0.made.notify_one();
    }
}

impl Held {
    fn tick(&mut self) -> u64 {
        self.clock += 1;
        self.clock
    }

    fn take_in(&mut self, bytes: Vec<u8>) -> u64 {
        self.bytes += bytes.len();
        while self.bytes > HELD_BYTES_MAX
            && let Some(longest) = self.answers.iter().min_by_key(|(_, answer)| answer.read_at).map(|(number, _)| *number)
        {
            self.let_go(longest);
        }
        let number = self.tick();
        self.answers.insert(number, Answer { bytes, read: 0, read_at: number });
        number
    }

    fn let_go(&mut self, number: u64) {
        if let Some(answer) = self.answers.remove(&number) {
            self.bytes -= answer.bytes.len();
        }
    }
}

/// Reads an answer that may have given way.
struct Reader {
    number: u64,
    held: Arc<Mutex<Held>>,
}

impl Read for Reader {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let mut held = lock(&self.held);
        let now = held.tick();
        let gave_way = || io::Error::other("an answer that nobody read gave way to a newer one");
        let answer = held.answers.get_mut(&self.number).ok_or_else(gave_way)?;
        answer.read_at = now;
        let count = (&answer.bytes[answer.read..]).read(buffer)?;
        answer.read += count;
        Ok(count)
    }
}

impl Drop for Reader {
    fn drop(&mut self) {
        lock(&self.held).let_go(self.number);
    }
}

/// Nothing under this lock can panic half-way through a change.
fn lock(held: &Mutex<Held>) -> MutexGuard<'_, Held> {
    held.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn body(response: Response) -> (Box<dyn Read + Send>, usize) {
        let (reader, length) = response.data.into_reader_and_size();
        (reader, length.expect("a length"))
    }

    #[test]
    fn what_nobody_reads_gives_way_and_what_is_read_stays() {
        let answers = Answers::default();
        let long = |byte: u8| body(answers.json(vec![byte; HELD_BYTES_MAX / 4]));
        let (mut unread, _) = long(b'a');
        let (mut being_read, length) = long(b'b');
        let mut rest: Vec<_> = (0..2).map(|_| long(b'c')).collect();
        let mut read = vec![0; 1000];
        being_read.read_exact(&mut read).expect("held");
        // One more than there is room for.
        let (mut newest, _) = long(b'd');
        assert!(unread.read(&mut read).is_err(), "the one that nobody has read from for longest gave way");
        assert_eq!(lock(&answers.held).bytes, HELD_BYTES_MAX);
        for reader in rest.iter_mut().map(|(reader, _)| reader).chain([&mut newest]) {
            reader.read_exact(&mut read).expect("held");
        }
        let mut whole = Vec::new();
        being_read.read_to_end(&mut whole).expect("held");
        assert!(whole.len() == length - 1000 && whole.iter().all(|&byte| byte == b'b'));
        drop((unread, being_read, rest, newest));
        let held = lock(&answers.held);
        assert!(held.bytes == 0 && held.answers.is_empty(), "nothing is kept");
    }

    #[test]
    fn an_answer_longer_than_all_may_hold_is_still_given() {
        let answers = Answers::default();
        let (mut reader, length) = body(answers.json(vec![b'x'; HELD_BYTES_MAX + 1]));
        let mut whole = Vec::new();
        assert_eq!(reader.read_to_end(&mut whole).expect("held"), length);
    }

    #[test]
    fn a_turn_ends_with_a_panic_too() {
        let answers = Answers::default();
        for _ in 0..MAKERS_MAX + 1 {
            let panics = std::panic::AssertUnwindSafe(|| answers.make(|| panic!("on purpose")));
            assert!(std::panic::catch_unwind(panics).is_err());
        }
        assert_eq!(answers.make(|| 1), 1);
    }
}
