//! The load generator: one thread with an epoll loop, and some keep-alive connections with one pending request each.
//!
//! It has one thread, because a thread for each of 32 connections would compete with the server for two cores and be measured
//! itself. Every latency is kept and sorted, instead of a histogram that rounds.

use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use rustix::buffer::spare_capacity;
use rustix::event::{Timespec, epoll};

/// The time limit for a response before the measurement begins, and for opening a connection.
const PATIENCE: Duration = Duration::from_secs(10);

/// The result of one slice of time.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Slice {
    pub(crate) per_second: f64,
    pub(crate) p50_us: f64,
    pub(crate) p99_us: f64,
    /// The number of responses, including the unmeasured ones.
    pub(crate) answers: u32,
    /// Connections that were closed, or got a response with another status than 200.
    pub(crate) broken: usize,
    /// Connections that got no response during the slice.
    pub(crate) unanswered: usize,
}

struct Connection {
    stream: TcpStream,
    received: usize,
    asked_at: Instant,
    is_broken: bool,
}

/// Returns the request that every contender serves.
fn request(address: SocketAddr) -> Vec<u8> {
    format!("GET /api/pipeline HTTP/1.1\r\nHost: {address}\r\n\r\n").into_bytes()
}

/// Returns one response, head and body.
pub(crate) fn one_answer(address: SocketAddr) -> io::Result<Vec<u8>> {
    let mut stream = TcpStream::connect_timeout(&address, PATIENCE)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.write_all(&request(address))?;
    let mut answer = Vec::new();
    let mut piece = [0; 4096];
    loop {
        let count = stream.read(&mut piece)?;
        if count == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        answer.extend_from_slice(&piece[..count]);
        if whole_length(&answer) == Some(answer.len()) {
            return Ok(answer);
        }
    }
}

/// Returns the length of a response according to its head.
fn whole_length(answer: &[u8]) -> Option<usize> {
    let head_ends = answer.windows(4).position(|four| four == b"\r\n\r\n")? + 4;
    let head = std::str::from_utf8(&answer[..head_ends]).ok()?;
    let field =
        head.lines().filter_map(|line| line.split_once(':')).find(|(name, _)| name.eq_ignore_ascii_case("Content-Length"))?;
    Some(head_ends + field.1.trim().parse::<usize>().ok()?)
}

/// Sends requests continuously on `connections` connections: first unmeasured for `warm_up`, then for `slice`.
pub(crate) fn load(address: SocketAddr, connections: usize, warm_up: Duration, slice: Duration) -> io::Result<Slice> {
    let request = request(address);
    // Every response here is as long as the first.
    let length = one_answer(address)?.len();
    let poll = epoll::create(epoll::CreateFlags::CLOEXEC)?;
    let mut open = Vec::with_capacity(connections);
    for number in 0..connections {
        let mut stream = TcpStream::connect_timeout(&address, PATIENCE)?;
        stream.set_nodelay(true)?;
        stream.set_nonblocking(true)?;
        epoll::add(&poll, &stream, epoll::EventData::new_u64(number as u64), epoll::EventFlags::IN)?;
        let asked_at = Instant::now();
        stream.write_all(&request)?;
        open.push(Connection { stream, received: 0, asked_at, is_broken: false });
    }
    let mut latencies_us = Vec::with_capacity(200_000);
    let mut events = Vec::with_capacity(connections);
    let mut piece = [0; 4096];
    let begins = Instant::now() + warm_up;
    let ends = begins + slice;
    let mut answers = 0;
    loop {
        let now = Instant::now();
        if now >= ends {
            break;
        }
        events.clear();
        let limit = Timespec::try_from(ends - now).map_err(io::Error::other)?;
        epoll::wait(&poll, spare_capacity(&mut events), Some(&limit))?;
        for event in &events {
            let number = usize::try_from(event.data.u64()).map_err(io::Error::other)?;
            let connection = &mut open[number];
            let count = match connection.stream.read(&mut piece) {
                Ok(count) => count,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => continue,
                Err(_) => 0,
            };
            let is_ours = connection.received > 0 || piece.starts_with(b"HTTP/1.1 200 ");
            connection.received += count;
            if count == 0 || !is_ours || connection.received > length {
                connection.is_broken = true;
                epoll::delete(&poll, &connection.stream)?;
            } else if connection.received == length {
                let now = Instant::now();
                answers += 1;
                if now >= begins && now < ends {
                    latencies_us.push((now - connection.asked_at).as_secs_f64() * 1e6);
                }
                connection.received = 0;
                connection.asked_at = now;
                connection.is_broken = connection.stream.write_all(&request).is_err();
            }
        }
    }
    latencies_us.sort_by(f64::total_cmp);
    let rank = |share: usize| latencies_us.get(latencies_us.len() * share / 100).copied().unwrap_or(f64::NAN);
    let broken = open.iter().filter(|connection| connection.is_broken).count();
    let unanswered = open.iter().filter(|connection| !connection.is_broken && connection.asked_at + slice < ends).count();
    #[expect(clippy::cast_precision_loss, reason = "a count of requests")]
    let per_second = latencies_us.len() as f64 / slice.as_secs_f64();
    Ok(Slice { per_second, p50_us: rank(50), p99_us: rank(99), answers, broken, unanswered })
}
