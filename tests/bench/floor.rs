//! The bare responder: this program's thread model and nothing else. A thread for each connection reads until a blank line and
//! writes fixed bytes, with one system call each. The rest of a real response's cost is the cost of our code.

use std::io::{self, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::Arc;
use std::thread;

/// Sends `bytes` in response to every request, for as long as the process lives.
pub(crate) fn serve(listener: &TcpListener, bytes: Vec<u8>) -> io::Result<()> {
    let bytes: Arc<[u8]> = bytes.into();
    loop {
        let (stream, _) = listener.accept()?;
        stream.set_nodelay(true)?;
        let bytes = bytes.clone();
        thread::Builder::new().stack_size(512 * 1024).spawn(move || answer(&stream, &bytes))?;
    }
}

/// Serves one connection, until either side ends it.
fn answer(mut stream: &TcpStream, bytes: &[u8]) -> io::Result<()> {
    let mut buffer = [0; 8 * 1024];
    let mut filled = 0;
    loop {
        let count = stream.read(&mut buffer[filled..])?;
        if count == 0 {
            return Ok(());
        }
        filled += count;
        if buffer[..filled].ends_with(b"\r\n\r\n") {
            filled = 0;
            stream.write_all(bytes)?;
        }
    }
}
