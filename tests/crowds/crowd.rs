//! The crowds: many connections that stay open, or one that sends many requests. Each crowd exists until it is dropped.

use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use rustix::net::{AddressFamily, SocketType};

use crate::support::footprint::Footprint;
use crate::support::wire::Wire;
use crate::support::{DEADLINE, until_true};

const START: &str =
    "POST /api/pipeline/start HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: 100\r\n\r\n{";
const ENDLESS_HEAD: &[u8] = b"GET /api/pipeline HTTP/1.1\r\nHost: localhost\r\nX: ";
/// The request for a page of more than 1 MB of log.
const PAGE: &str = "GET /api/logs?since=0&limit=5000 HTTP/1.1\r\nHost: localhost\r\n\r\n";

/// The time between two bytes of a slow client.
const BYTE_EVERY: Duration = Duration::from_secs(1);
/// How often the crowd's thread checks whether the crowd must end.
const LOOK: Duration = Duration::from_millis(10);

/// A crowd.
pub(crate) struct Crowd {
    /// Connections that do nothing more.
    idle: Vec<TcpStream>,
    hand: Option<JoinHandle<()>>,
    is_over: Arc<AtomicBool>,
    /// The minimum number of server threads while the crowd exists.
    threads_min: u64,
    /// Whether the crowd requests more pages of a log than the server prepares and holds. Then another such request may be
    /// refused or cut off.
    wants_pages: bool,
    /// The part of a response that was cut off.
    torn: Arc<Mutex<Option<String>>>,
}

impl Crowd {
    fn of(idle: Vec<TcpStream>, threads_min: u64) -> Self {
        Self { idle, hand: None, is_over: Arc::default(), threads_min, wants_pages: false, torn: Arc::default() }
    }

    /// Creates a crowd with a thread that acts for its members now and then.
    fn with_hand(threads_min: u64, hand: impl FnOnce(&AtomicBool) + Send + 'static) -> Self {
        let is_over = Arc::new(AtomicBool::new(false));
        let over = is_over.clone();
        let hand = Some(thread::spawn(move || hand(&over)));
        Self { idle: Vec::new(), hand, is_over, threads_min, wants_pages: false, torn: Arc::default() }
    }

    pub(crate) fn wants_pages(&self) -> bool {
        self.wants_pages
    }

    /// Waits until everything that was sent has been read. Returns the received part of a response that was cut off.
    pub(crate) fn torn(&mut self) -> Option<String> {
        self.end();
        self.torn.lock().unwrap_or_else(PoisonError::into_inner).take()
    }

    fn end(&mut self) {
        self.is_over.store(true, Ordering::SeqCst);
        self.idle.clear();
        if let Some(Err(panic)) = self.hand.take().map(JoinHandle::join)
            && !thread::panicking()
        {
            std::panic::resume_unwind(panic);
        }
    }

    /// Waits for a crowd that ends by itself.
    pub(crate) fn until_answered(mut self) -> Self {
        if let Some(hand) = self.hand.take() {
            hand.join().expect("it was answered");
        }
        assert_eq!(self.torn(), None, "half an answer");
        self
    }

    /// Joins two crowds.
    pub(crate) fn and(mut self, mut other: Self) -> Self {
        other.idle.append(&mut self.idle);
        other.wants_pages |= self.wants_pages;
        assert!(self.hand.is_none(), "only the other one's hand is kept");
        other
    }

    /// Waits until the server serves the crowd: a crowd that was refused would prove nothing. Must be called as soon as the crowd
    /// has gathered, because stalled connections are closed after some seconds, however slow the machine is.
    pub(crate) fn until_there(&self, footprint: impl Fn() -> Footprint) {
        let wanted = self.threads_min;
        until_true(&format!("the server has the {wanted} threads that the crowd needs"), || footprint().threads >= wanted);
    }
}

impl Drop for Crowd {
    fn drop(&mut self) {
        self.end();
    }
}

fn connect(address: SocketAddr) -> TcpStream {
    let stream = TcpStream::connect_timeout(&address, DEADLINE).expect("the server accepts");
    stream.set_write_timeout(Some(DEADLINE)).expect("a limit");
    stream
}

/// Opens connections that send nothing.
pub(crate) fn idle(address: SocketAddr, count: usize) -> Crowd {
    let threads_min = if count >= 512 { 500 } else { 0 };
    Crowd::of((0..count).map(|_| connect(address)).collect(), threads_min)
}

/// Opens connections that send a little and then nothing.
pub(crate) fn stalled_bodies(address: SocketAddr, count: usize) -> Crowd {
    let stall = |_| {
        let mut stream = connect(address);
        stream.write_all(START.as_bytes()).expect("it is taken");
        stream
    };
    Crowd::of((0..count).map(stall).collect(), count as u64 - 20)
}

/// Opens connections that send as much as allowed, and then stay open: every other one all but the last byte of a body, the
/// others all of it.
pub(crate) fn heavy_bodies(address: SocketAddr, count: usize) -> Crowd {
    const BODY_BYTES: usize = 1024 * 1024;
    let request = format!(
        "POST /api/version HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: {BODY_BYTES}\r\n\r\n{}",
        " ".repeat(BODY_BYTES)
    );
    let send = |n: usize| {
        let mut stream = connect(address);
        // A connection that has to give up its slot is cut off.
        let _cut_off = stream.write_all(&request.as_bytes()[..request.len() - n % 2]);
        stream
    };
    Crowd::of((0..count).map(send).collect(), count as u64 / 3)
}

/// Opens connections that wait for a change of `version`.
pub(crate) fn long_polls(address: SocketAddr, count: usize, version: u64) -> Crowd {
    let poll = |_| {
        let mut stream = connect(address);
        let request = format!("GET /api/pipeline?after={version}&wait=60 HTTP/1.1\r\nHost: localhost\r\n\r\n");
        stream.write_all(request.as_bytes()).expect("it is taken");
        stream
    };
    Crowd::of((0..count).map(poll).collect(), 0)
}

/// Opens connections that send one byte of a head each second. A connection that the server closes is replaced.
pub(crate) fn slow_heads(address: SocketAddr, count: usize) -> Crowd {
    let begin = move || {
        let mut stream = connect(address);
        stream.write_all(ENDLESS_HEAD).expect("it is taken");
        stream
    };
    let mut heads: Vec<TcpStream> = (0..count).map(|_| begin()).collect();
    Crowd::with_hand(count as u64 - 20, move |is_over| {
        each_second(is_over, || {
            for head in &mut heads {
                if head.write_all(b"y").is_err() && !is_over.load(Ordering::SeqCst) {
                    // The server may stop meanwhile.
                    let Ok(next) = TcpStream::connect(address) else { return };
                    *head = next;
                    let _ends_again = head.write_all(ENDLESS_HEAD);
                }
            }
        });
    })
}

/// Opens connections that request a long response and read nothing of it, or a byte a second.
pub(crate) fn slow_readers(address: SocketAddr, count: usize) -> Crowd {
    let mut readers: Vec<TcpStream> = (0..count)
        .map(|_| {
            let mut stream = connect_narrow(address);
            // More than the kernel buffers on its way, which is 4 MiB by default.
            stream.write_all(PAGE.repeat(5).as_bytes()).expect("it is taken");
            stream
        })
        .collect();
    // A connection is a slow reader only once its response has begun.
    for reader in &readers {
        let _it_may_give_way = reader.peek(&mut [0]);
    }
    let mut crowd = Crowd::with_hand(0, move |is_over| {
        each_second(is_over, || {
            for reader in readers.iter_mut().step_by(2) {
                let _it_may_have_given_way = reader.read(&mut [0]);
            }
        });
    });
    crowd.wants_pages = true;
    crowd
}

/// Opens a connection with a small receive buffer, so that the response waits on the server's side.
fn connect_narrow(address: SocketAddr) -> TcpStream {
    let socket = rustix::net::socket(AddressFamily::INET, SocketType::STREAM, None).expect("a socket");
    rustix::net::sockopt::set_socket_recv_buffer_size(&socket, 4096).expect("an option");
    rustix::net::connect(&socket, &address).expect("the server accepts");
    let stream = TcpStream::from(socket);
    stream.set_read_timeout(Some(DEADLINE)).expect("a limit");
    stream
}

/// Opens one connection that sends `count` requests as fast as the server accepts them, and reads every response.
pub(crate) fn pipelined(address: SocketAddr, count: usize) -> Crowd {
    const AT_ONCE: usize = 100;
    let torn: Arc<Mutex<Option<String>>> = Arc::default();
    let noted = torn.clone();
    let mut crowd = Crowd::with_hand(0, move |is_over| {
        let mut reader = connect(address);
        reader.set_read_timeout(Some(DEADLINE)).expect("a limit");
        let mut writer = reader.try_clone().expect("a descriptor");
        thread::scope(|scope| {
            scope.spawn(move || {
                let requests = "GET /api/pipeline HTTP/1.1\r\nHost: localhost\r\n\r\n".repeat(AT_ONCE);
                for _ in 0..count / AT_ONCE {
                    if writer.write_all(requests.as_bytes()).is_err() {
                        return;
                    }
                }
            });
            let mut bytes = Vec::new();
            let mut buffer = vec![0; 64 * 1024];
            let mut answered = 0;
            while answered < count {
                match reader.read(&mut buffer) {
                    Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                    Ok(0) | Err(_) => break,
                    Ok(read) => bytes.extend_from_slice(&buffer[..read]),
                }
                answered += take_answers(&mut bytes);
            }
            // A stop may come before the last response, but not in the middle of one, unless this reader was slower than a stop
            // can wait.
            if !bytes.is_empty() {
                *noted.lock().unwrap_or_else(PoisonError::into_inner) = Some(String::from_utf8_lossy(&bytes).into_owned());
            }
            // The listener closes a moment after the last response.
            until_true(&format!("{answered} answers are all, or the server stops"), || {
                answered == count || is_over.load(Ordering::SeqCst) || TcpStream::connect(address).is_err()
            });
        });
    });
    crowd.torn = torn;
    crowd
}

/// Removes complete responses from the front. Returns their number.
fn take_answers(bytes: &mut Vec<u8>) -> usize {
    let (mut taken, mut answers) = (0, 0);
    while let Some(head) = memchr::memmem::find(&bytes[taken..], b"\r\n\r\n") {
        let text = std::str::from_utf8(&bytes[taken..taken + head]).expect("a head is text");
        assert!(text.starts_with("HTTP/1.1 200 OK\r\n"), "{text}");
        let length = text.lines().find_map(|line| line.strip_prefix("Content-Length: ")).expect("a length");
        let whole = taken + head + 4 + length.parse::<usize>().expect("a number");
        if whole > bytes.len() {
            break;
        }
        (taken, answers) = (whole, answers + 1);
    }
    bytes.drain(..taken);
    answers
}

/// Opens connections that send a request, nothing or half a request, and end with a reset.
pub(crate) fn resets(address: SocketAddr, count: usize) -> Crowd {
    let came = Arc::new(AtomicUsize::new(0));
    let so_far = came.clone();
    let crowd = Crowd::with_hand(0, move |is_over| {
        for n in 0..count {
            let Ok(mut wire) = Wire::try_open(address.port()) else {
                // The server has stopped.
                return;
            };
            match n % 4 {
                0 => {}
                1 => wire.send("GET /api/pi"),
                2 => wire.ask("GET", "/api/pipeline"),
                _ => wire.send(START),
            }
            wire.reset();
            so_far.fetch_add(1, Ordering::SeqCst);
            if is_over.load(Ordering::SeqCst) {
                return;
            }
        }
    });
    until_true("they come", || came.load(Ordering::SeqCst) > count / 100);
    crowd
}

/// Calls `act` each second until the crowd ends.
fn each_second(is_over: &AtomicBool, mut act: impl FnMut()) {
    loop {
        act();
        let mut rested = Duration::ZERO;
        while rested < BYTE_EVERY {
            if is_over.load(Ordering::SeqCst) {
                return;
            }
            thread::sleep(LOOK);
            rested += LOOK;
        }
    }
}
