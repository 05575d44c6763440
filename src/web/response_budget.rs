//! Limits on long responses: on how many are made at the same time, and on how many of their bytes wait in memory for clients.
//!
//! A page of a log is a megabyte or more. A client that requested it on many connections and did not read would otherwise make
//! the server keep all of them. The newest response is always kept. The one from which nothing has been read for the longest time
//! gives way: its connection ends before the announced length, so that every client can tell it from a complete response.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{self, Read};
use std::sync::{Arc, Condvar, Mutex, PoisonError};

use rouille::{Request, Response, ResponseBody};

use super::coding::Coding;
use super::error::ApiError;
use crate::gzip;
use crate::lock::lock;
use crate::transport::{Client, LongRequests, Rank};

/// The maximum size of all unread responses together, in bytes. A single response may be larger.
const HELD_BYTES_MAX: usize = 4 * 1024 * 1024;
/// The maximum size of a response that is written at once and not counted, in bytes.
const SHORT_BYTES_MAX: usize = 32 * 1024;
/// How many long responses are made at the same time. Making one takes several times its size in memory.
const PRODUCERS_MAX: usize = 2;
/// The maximum number of requests that wait for their turn. Beyond that, the one that has waited longest is refused.
const WAITING_MAX: usize = 64;

/// The limits on the long responses of one server.
#[derive(Debug, Default)]
pub struct ResponseBudget {
    held: Arc<Mutex<Held>>,
    makers: Mutex<Producers>,
    made: Condvar,
    /// One reference for each log that is being sent as text, and this one.
    downloads: Mutex<Arc<()>>,
}

#[derive(Debug, Default)]
struct Producers {
    at_work: usize,
    /// The requests that wait for a turn, those of operators first, in the order of their arrival:
    /// `(is not an operator's, number)`.
    waiting: BTreeSet<(bool, u64)>,
    next: u64,
}

#[derive(Debug, Default)]
struct Held {
    answers: BTreeMap<u64, Answer>,
    bytes: usize,
    /// A counter that numbers the responses and the reads from them, in order.
    clock: u64,
}

#[derive(Debug)]
struct Answer {
    bytes: Vec<u8>,
    read: usize,
    read_at: u64,
}

impl ResponseBudget {
    /// Reserves a place for a log sent as text, which is too long to be held in memory. Each one occupies a thread, a descriptor,
    /// and several hundred KiB.
    pub(super) fn begin_download(&self, client: &Client<'_>) -> Result<Arc<()>, ApiError> {
        if !keeps_thread(client) {
            return Err(ApiError::TooManyDownloads);
        }
        let most = LongRequests::now(client.rank()).downloads;
        // The lock makes counting and taking one step, so that only one of two concurrent requests gets the last place.
        let places = lock(&self.downloads);
        if Arc::strong_count(&places) > most { Err(ApiError::TooManyDownloads) } else { Ok(places.clone()) }
    }

    /// Waits for a turn to make a long response, and makes it. When too many requests wait, the one that has waited longest is
    /// refused, an operator's only if there are no others, because each occupies a connection. Operators are always next. While a
    /// request waits, its connection gives way to new ones, and the request is then refused. A viewer's request that would have
    /// to wait on a thread of the reserve is refused too.
    pub(super) fn make<T>(&self, client: &Client<'_>, make: impl FnOnce() -> Result<T, ApiError>) -> Result<T, ApiError> {
        let ends = || client.gives_way() || !keeps_thread(client);
        let _turn = client.idle(|| self.turn(client.rank() != Rank::Viewer, &ends))?;
        make()
    }

    /// Wakes the requests that wait for a turn, because a connection gives way.
    pub(super) fn hurry(&self) {
        // A waiting thread holds the lock from its check until it waits, so it cannot miss this call.
        drop(lock(&self.makers));
        self.made.notify_all();
    }

    fn turn(&self, is_preferred: bool, ends: &dyn Fn() -> bool) -> Result<Turn<'_>, ApiError> {
        let mut makers = lock(&self.makers);
        let number = (!is_preferred, makers.next);
        makers.next += 1;
        makers.waiting.insert(number);
        if makers.waiting.len() > WAITING_MAX {
            let longest = makers.waiting.iter().find(|(is_other, _)| *is_other).or(makers.waiting.first()).copied();
            longest.map(|longest| makers.waiting.remove(&longest));
            self.made.notify_all();
        }
        // In order, because otherwise a new request would overtake those that wait.
        let is_next = |makers: &Producers| makers.at_work < PRODUCERS_MAX && makers.waiting.first() == Some(&number);
        let awaits = |makers: &mut Producers| makers.waiting.contains(&number) && !is_next(makers) && !ends();
        makers = self.made.wait_while(makers, awaits).unwrap_or_else(PoisonError::into_inner);
        let is_turn = is_next(&makers);
        makers.waiting.remove(&number);
        if !is_turn {
            // The request after this one may be next.
            self.made.notify_all();
            return Err(ApiError::TooManyReads);
        }
        makers.at_work += 1;
        Ok(Turn(self))
    }

    /// Creates a JSON response with these bytes, which must contain no secret. They are packed if the client accepts that, and
    /// counted as they are sent.
    pub(super) fn json(&self, request: &Request, bytes: Vec<u8>) -> Response {
        let mut response = Response::from_data("application/json", Vec::new());
        let coding = Coding::of(request, bytes.len());
        response.headers.extend(coding.vary().into_iter().chain(coding.content_encoding()));
        let bytes = if coding == Coding::Gzip { gzip::pack_fast(&bytes) } else { bytes };
        Response { data: self.hold(bytes), ..response }
    }

    /// Creates a JSON response with these bytes, which contain a secret. They are never packed, because the length of a packed
    /// response reveals something about its contents.
    pub(super) fn secret_json(&self, bytes: Vec<u8>) -> Response {
        let response = Response::from_data("application/json", Vec::new());
        Response { data: self.hold(bytes), ..response }
    }

    /// Creates a body with these bytes. If there are more than [`SHORT_BYTES_MAX`], they are counted while they wait to be read.
    fn hold(&self, bytes: Vec<u8>) -> ResponseBody {
        let length = bytes.len();
        if length <= SHORT_BYTES_MAX {
            ResponseBody::from_data(bytes)
        } else {
            let number = lock(&self.held).take_in(bytes);
            ResponseBody::from_reader_and_size(Reader { number, held: self.held.clone() }, length)
        }
    }
}

/// Checks whether the client may keep its thread for a long time. Of the threads in reserve, which serve all clients, only
/// operators may.
fn keeps_thread(client: &Client<'_>) -> bool {
    client.has_thread() || client.rank() != Rank::Viewer
}

/// A turn, which ends when this is dropped, even if making the response panics.
struct Turn<'a>(&'a ResponseBudget);

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        lock(&self.0.makers).at_work -= 1;
        self.0.made.notify_all();
    }
}

impl Held {
    fn tick(&mut self) -> u64 {
        self.clock += 1;
        self.clock
    }

    fn take_in(&mut self, bytes: Vec<u8>) -> u64 {
        self.bytes += bytes.len();
        // A response from which nothing has been read is not delayed by its client: the thread that is to send it has not run
        // yet.
        let stands_still = |(_, answer): &(&u64, &Answer)| (answer.read == 0, answer.read_at);
        while self.bytes > HELD_BYTES_MAX
            && let Some(longest) = self.answers.iter().min_by_key(stands_still).map(|(number, _)| *number)
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

/// The reader of a response that may have given way.
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

#[cfg(test)]
mod tests {
    use super::*;

    fn make<T>(answers: &ResponseBudget, is_preferred: bool, make: impl FnOnce() -> T) -> Result<T, ApiError> {
        let _turn = answers.turn(is_preferred, &|| false)?;
        Ok(make())
    }

    fn json(answers: &ResponseBudget, bytes: Vec<u8>) -> Response {
        answers.json(&Request::fake_http("GET", "/", vec![], vec![]), bytes)
    }

    fn body(response: Response) -> (Box<dyn Read + Send>, usize) {
        let (reader, length) = response.data.into_reader_and_size();
        (reader, length.expect("a length"))
    }

    #[test]
    fn longest_unread_response_is_evicted_when_memory_is_full() {
        let answers = ResponseBudget::default();
        let long = |byte: u8| body(json(&answers, vec![byte; HELD_BYTES_MAX / 4]));
        let (mut unread, _) = long(b'a');
        unread.read_exact(&mut [0]).expect("held");
        let (mut being_read, length) = long(b'b');
        let mut rest: Vec<_> = (0..2).map(|_| long(b'c')).collect();
        let mut read = vec![0; 1000];
        being_read.read_exact(&mut read).expect("held");
        // One response more than there is memory for.
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
    fn waiting_request_that_yields_is_refused_at_once() {
        let answers = ResponseBudget::default();
        let turns: Vec<_> = (0..PRODUCERS_MAX).map(|_| answers.turn(false, &|| false).expect("a turn")).collect();
        let gives_way = std::sync::atomic::AtomicBool::new(false);
        std::thread::scope(|scope| {
            let is_refused = || answers.turn(false, &|| gives_way.load(std::sync::atomic::Ordering::SeqCst)).is_err();
            let waits = scope.spawn(is_refused);
            while lock(&answers.makers).waiting.is_empty() {
                std::thread::yield_now();
            }
            gives_way.store(true, std::sync::atomic::Ordering::SeqCst);
            answers.hurry();
            assert!(waits.join().expect("no panic"), "no turn was free");
        });
        assert!(lock(&answers.makers).waiting.is_empty());
        drop(turns);
        assert!(answers.turn(false, &|| false).is_ok());
    }

    #[test]
    fn response_over_the_memory_limit_is_still_sent() {
        let answers = ResponseBudget::default();
        let (mut reader, length) = body(json(&answers, vec![b'x'; HELD_BYTES_MAX + 1]));
        let mut whole = Vec::new();
        assert_eq!(reader.read_to_end(&mut whole).expect("held"), length);
    }

    #[test]
    fn gzipped_response_counts_with_its_compressed_size() {
        let answers = ResponseBudget::default();
        let takes_gzip = Request::fake_http("GET", "/", vec![("Accept-Encoding".to_owned(), "gzip".to_owned())], vec![]);
        // Digits of a simple generator. Packed, they shrink by half, and are still longer than a short response.
        let digits = std::iter::successors(Some(1_u32), |last| Some(last.wrapping_mul(1_664_525).wrapping_add(1_013_904_223)));
        let text: Vec<u8> = digits.take(HELD_BYTES_MAX / 8).map(|digit| b'0' + (digit >> 28) as u8 % 10).collect();
        let (mut reader, length) = body(answers.json(&takes_gzip, text.clone()));
        assert!(length > SHORT_BYTES_MAX && length < text.len() * 3 / 4, "{length}");
        assert_eq!(lock(&answers.held).bytes, length);
        let (mut packed, mut unpacked) = (Vec::new(), Vec::new());
        reader.read_to_end(&mut packed).expect("held");
        flate2::read::GzDecoder::new(packed.as_slice()).read_to_end(&mut unpacked).expect("gzip");
        assert!(unpacked == text);
    }

    #[test]
    fn panic_releases_its_turn() {
        let answers = ResponseBudget::default();
        for _ in 0..=PRODUCERS_MAX {
            let panics = std::panic::AssertUnwindSafe(|| make::<()>(&answers, false, || panic!("on purpose")));
            assert!(std::panic::catch_unwind(panics).is_err());
        }
        assert_eq!(make(&answers, false, || 1).expect("a turn"), 1);
    }

    #[test]
    fn turns_are_served_in_order_and_excess_refused_oldest_first() {
        let answers = ResponseBudget::default();
        let (open, is_open) = (Mutex::new(false), Condvar::new());
        let hold = || *is_open.wait_while(open.lock().expect("whole"), |open| !*open).expect("whole");
        let until = |what: &dyn Fn(&Producers) -> bool| {
            let deadline = std::time::Instant::now() + std::time::Duration::from_mins(1);
            while !what(&answers.makers.lock().expect("whole")) {
                assert!(std::time::Instant::now() < deadline);
                std::thread::yield_now();
            }
        };
        std::thread::scope(|scope| {
            let working: Vec<_> = (0..PRODUCERS_MAX).map(|_| scope.spawn(|| make(&answers, false, hold).is_ok())).collect();
            until(&|makers| makers.at_work == PRODUCERS_MAX);
            let waiting: Vec<_> = (0..WAITING_MAX + 2)
                .map(|n| {
                    let waits = scope.spawn(|| make(&answers, false, || ()).is_ok());
                    until(&|makers| makers.next == (PRODUCERS_MAX + n + 1) as u64);
                    waits
                })
                .collect();
            until(&|makers| makers.waiting.len() == WAITING_MAX);
            // The operator arrives last and is served next. Another request is refused: the one that has waited longest.
            let operator = scope.spawn(|| {
                let first = || answers.makers.lock().expect("whole").waiting.len();
                make(&answers, true, first).expect("a turn")
            });
            until(&|makers| makers.waiting.first().is_some_and(|(is_other, _)| !is_other));
            *open.lock().expect("whole") = true;
            is_open.notify_all();
            assert!(working.into_iter().all(|thread| thread.join().expect("no panic")));
            let served: Vec<bool> = waiting.into_iter().map(|thread| thread.join().expect("no panic")).collect();
            assert!(served[..3].iter().all(|&is| !is) && served[3..].iter().all(|&is| is), "{served:?}");
            let waiting_behind = operator.join().expect("no panic");
            assert!(waiting_behind >= WAITING_MAX - PRODUCERS_MAX, "{waiting_behind} waited behind the operator");
        });
    }
}
