//! `GET /api/pipeline`, while the pipeline is quiet and during a flood of output, compared with a responder that does nothing
//! else.
//!
//! The effect of a flood on a response is mostly the machine's: the pipeline and the reader of its output keep two processors
//! busy. So requests go to the bare responder and the server in turns, during the same flood, and to the bare responder during a
//! flood into `cat > file`.

use std::fs::{self, File};
use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{Ipv4Addr, TcpListener};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use crate::numbers::{Spread, quantile};
use crate::support::Place;
use crate::support::wire::Wire;
use crate::{LINE_BYTES, flood, floor, report};

/// The number of requests in a slice.
const QUESTIONS: usize = 700;

/// Measures and prints.
pub(crate) fn bench(rounds: usize) {
    println!("## An answer beside a flood\n");
    for (name, block) in [("64 KiB writes", 65_500), ("one write a line", LINE_BYTES)] {
        // The measurements of one round: ours and the floor while quiet, both during our capture, and the floor during cat.
        let mut p99s: [Vec<f64>; 5] = Default::default();
        let mut p50s: [Vec<f64>; 5] = Default::default();
        for round in 0..rounds {
            eprintln!("beside: {name}, round {}", round + 1);
            let place = Place::serving("sleep.sh");
            let mut ours = place.wire();
            let body = ours.get("/api/pipeline").ok().to_string();
            let bare = Owned::floor(&body);
            let mut bare_wire = Wire::open(bare.port);
            let mut keep = |n: usize, (p50, p99)| {
                p50s[n].push(p50);
                p99s[n].push(p99);
            };
            keep(0, ask(&mut ours));
            keep(1, ask(&mut bare_wire));
            {
                let flooded = flood(block);
                keep(2, ask(&mut flooded.wire()));
                keep(3, ask(&mut bare_wire));
            }
            let _flood = Owned::flood_into_cat(block);
            keep(4, ask(&mut bare_wire));
        }
        let row = |who: &str, beside: &str, n: usize, quiet: usize| {
            let times = [&p50s[n], &p99s[n]].map(|values| format!("{:.3}", quantile(values, 0.5)));
            let ratio = Spread::of_ratios(&p99s[n], &p99s[quiet]).text();
            [&[who.to_owned(), beside.to_owned()], &times[..], &[ratio]].concat()
        };
        let rows = [
            row("autoappdev", "nothing", 0, 0),
            row("autoappdev", "its own capture", 2, 0),
            row("bare responder", "nothing", 1, 1),
            row("bare responder", "our capture", 3, 1),
            row("bare responder", "cat > file", 4, 1),
        ];
        report::table(&[name, "beside", "p50 ms", "p99 ms", "p99 / its quiet p99"], &rows);
    }
}

/// Returns the median and the 99th percentile of a slice, in milliseconds.
fn ask(wire: &mut Wire) -> (f64, f64) {
    let mut took = Vec::with_capacity(QUESTIONS);
    for _ in 0..QUESTIONS {
        thread::sleep(Duration::from_millis(1));
        let began = Instant::now();
        let answer = wire.get("/api/pipeline");
        took.push(began.elapsed().as_secs_f64() * 1e3);
        assert_eq!(answer.status, 200);
    }
    (quantile(&took, 0.5), quantile(&took, 0.99))
}

/// The role of the bare responder: sends what it has read on its standard input, and prints its port.
pub(crate) fn be_the_floor() -> io::Result<()> {
    let mut body = String::new();
    io::stdin().read_to_string(&mut body)?;
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
    println!("{}", listener.local_addr()?.port());
    let length = body.len();
    let answer = format!("HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: {length}\r\n\r\n{body}");
    floor::serve(&listener, answer.into_bytes())
}

/// Children that end with their owner.
struct Owned {
    children: Vec<Child>,
    port: u16,
    _dir: Option<tempfile::TempDir>,
}

impl Drop for Owned {
    fn drop(&mut self) {
        for child in &mut self.children {
            let _ended = child.kill();
            let _ended = child.wait();
        }
    }
}

impl Owned {
    fn floor(body: &str) -> Self {
        let mut command = Command::new(std::env::current_exe().expect("it runs"));
        let mut child = command.arg("floor").stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().expect("spawns");
        child.stdin.take().expect("piped").write_all(body.as_bytes()).expect("it reads");
        let mut port = String::new();
        BufReader::new(child.stdout.take().expect("piped")).read_line(&mut port).expect("a port");
        Self { children: vec![child], port: port.trim().parse().expect("a port"), _dir: None }
    }

    fn flood_into_cat(block: u64) -> Self {
        let dir = tempfile::tempdir().expect("a temp folder");
        let began: &Path = &dir.path().join("began");
        fs::write(began.with_extension("go"), "").expect("writes");
        let mut producer = Command::new(std::env::current_exe().expect("it runs"));
        // Ended long before it has printed everything.
        let producer = producer.args(["produce", &block.to_string(), "10000"]).arg(began).stderr(Stdio::null());
        let mut producer = producer.stdout(Stdio::piped()).spawn().expect("spawns");
        let out = File::create(dir.path().join("out")).expect("creates");
        let cat = Command::new("cat").stdin(producer.stdout.take().expect("piped")).stdout(out).spawn().expect("spawns");
        Self { children: vec![producer, cat], port: 0, _dir: Some(dir) }
    }
}
