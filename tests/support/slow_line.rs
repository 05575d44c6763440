//! A slow line to a server on loopback. Bytes wait until the line is free, and then travel for a while. A browser's own emulation
//! of a slow network delays the beginning of a response, but not what an event stream sends later.

use std::io::{self, Read, Write};
use std::net::{Ipv4Addr, Shutdown, TcpListener, TcpStream};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError, mpsc};
use std::thread;
use std::time::{Duration, Instant};

/// 400 kbit/s in each direction.
const BYTES_PER_S: u32 = 50_000;
/// 400 ms there and back.
const ONE_WAY: Duration = Duration::from_millis(200);

/// The state that all connections share in one direction.
struct Direction {
    state: Mutex<State>,
    changed: Condvar,
}

struct State {
    /// When the line will have sent everything that it was given so far.
    free_at: Instant,
    /// The number of bytes that have arrived.
    arrived: u64,
    is_cut: bool,
}

/// A listener that connects its clients to a server over the line. Its threads end with the test process, or with their
/// connection.
pub struct SlowLine {
    port: u16,
    up: Arc<Direction>,
    down: Arc<Direction>,
}

impl SlowLine {
    /// Creates a line to the server on this port.
    pub fn to(server: u16) -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("binds");
        let port = listener.local_addr().expect("bound").port();
        let this = Self { port, up: Arc::new(Direction::new()), down: Arc::new(Direction::new()) };
        let (up, down) = (Arc::clone(&this.up), Arc::clone(&this.down));
        thread::spawn(move || {
            for client in listener.incoming().flatten() {
                // If the server has ended, it refuses the connection, and so does the line.
                let Ok(server) = TcpStream::connect((Ipv4Addr::LOCALHOST, server)) else { continue };
                carry(&client, &server, &up).expect("a new connection has descriptors");
                carry(&server, &client, &down).expect("a new connection has descriptors");
            }
        });
        this
    }

    /// Returns the port on which the near end of the line listens.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// Holds back everything that clients send from now on, until `mend_up` is called.
    pub fn cut_up(&self) {
        self.up.lock().is_cut = true;
    }

    pub fn mend_up(&self) {
        self.up.lock().is_cut = false;
        self.up.changed.notify_all();
    }

    /// Returns the number of bytes that clients have received.
    pub fn received(&self) -> u64 {
        self.down.lock().arrived
    }
}

impl Direction {
    fn new() -> Self {
        let state = State { free_at: Instant::now(), arrived: 0, is_cut: false };
        Self { state: Mutex::new(state), changed: Condvar::new() }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Returns when `bytes` bytes arrive that are sent now.
    fn arrival_of(&self, bytes: usize) -> Instant {
        let mut state = self.lock();
        let takes = Duration::from_secs(bytes as u64) / BYTES_PER_S;
        state.free_at = state.free_at.max(Instant::now()) + takes;
        state.free_at + ONE_WAY
    }

    /// Waits until the line is not cut, and counts `bytes` as arrived.
    fn arrive(&self, bytes: usize) {
        let whole = self.changed.wait_while(self.lock(), |state| state.is_cut);
        whole.unwrap_or_else(PoisonError::into_inner).arrived += bytes as u64;
    }
}

/// Carries one direction of a connection, in two threads, so that bytes on their way do not delay later ones.
fn carry(from: &TcpStream, to: &TcpStream, direction: &Arc<Direction>) -> io::Result<()> {
    let (mut from, mut to, direction) = (from.try_clone()?, to.try_clone()?, Arc::clone(direction));
    to.set_nodelay(true)?;
    let (sender, travelling) = mpsc::channel::<(Instant, Vec<u8>)>();
    let way = Arc::clone(&direction);
    thread::spawn(move || {
        let mut buffer = [0; 1400];
        while let Ok(count @ 1..) = from.read(&mut buffer) {
            if sender.send((way.arrival_of(count), buffer[..count].to_vec())).is_err() {
                break;
            }
        }
    });
    thread::spawn(move || {
        for (at, bytes) in travelling {
            thread::sleep(at.saturating_duration_since(Instant::now()));
            direction.arrive(bytes.len());
            if to.write_all(&bytes).is_err() {
                break;
            }
        }
        // Either end may have closed it already.
        let _ = to.shutdown(Shutdown::Both);
    });
    Ok(())
}
