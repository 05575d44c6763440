//! The bare responder: this program's thread model and nothing else. A thread for each connection reads until a blank line and writes fixed
//! bytes, one system call each. What a real answer costs beyond that is what our code costs.

use std::io::{self, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::Arc;
use std::thread;

/// Answers `bytes` to whatever asks, for as long as the process lives.
pub(crate) fn serve(listener: &TcpListener, bytes: Vec<u8>) -> io::Result<()> {
    let bytes: Arc<[u8]> = bytes.into();
    loop {
        let (stream, _) = listener.accept()?;
        stream.set_nodelay(true)?;
        let bytes = bytes.clone();
        thread::Builder::new().stack_size(512 * 1024).spawn(move || answer(&stream, &bytes))?;
    }
}

/// Ends with the connection, whoever ends that.
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
