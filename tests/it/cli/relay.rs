//! A process between a client and its server that passes everything on.

use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Mutex};
use std::thread;

/// Forwards everything it receives to a server, and records it.
pub(super) struct Relay {
    pub(super) address: SocketAddr,
    heard: Arc<Mutex<Vec<u8>>>,
}

impl Relay {
    /// Listens at `ip`, on a port that the kernel picks.
    pub(super) fn to(server: SocketAddr, ip: &str) -> Self {
        Self::at((ip, 0), move || TcpStream::connect(server).expect("it listens"))
    }

    /// Listens at `place`, and reaches the server through `connect`.
    pub(super) fn at(place: (&str, u16), connect: impl Fn() -> TcpStream + Clone + Send + 'static) -> Self {
        let listener = TcpListener::bind(place).expect("loopback has this address");
        let address = listener.local_addr().expect("bound");
        let heard = Arc::new(Mutex::new(Vec::new()));
        thread::spawn({
            let heard = Arc::clone(&heard);
            move || {
                for client in listener.incoming().flatten() {
                    let (heard, connect) = (Arc::clone(&heard), connect.clone());
                    thread::spawn(move || pass_on(&client, &connect(), &heard));
                }
            }
        });
        Self { address, heard }
    }

    pub(super) fn heard(&self) -> String {
        String::from_utf8_lossy(&self.heard.lock().expect("never poisoned")).into_owned()
    }
}

fn pass_on(client: &TcpStream, mut server: &TcpStream, heard: &Mutex<Vec<u8>>) {
    let back = thread::spawn({
        let (mut from, mut to) = (server.try_clone().expect("one more"), client.try_clone().expect("one more"));
        move || {
            let _ended = std::io::copy(&mut from, &mut to);
            let _left = to.shutdown(Shutdown::Write);
        }
    });
    let mut part = [0; 4096];
    while let Ok(count @ 1..) = (&mut &*client).read(&mut part) {
        heard.lock().expect("never poisoned").extend(&part[..count]);
        if server.write_all(&part[..count]).is_err() {
            break;
        }
    }
    let _left = server.shutdown(Shutdown::Write);
    let _ended = back.join();
}
