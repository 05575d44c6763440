//! `GET /api/pipeline` on keep-alive connections: requests a second, latencies, and system calls.

use std::fs;
use std::io;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use crate::contenders::{self, Contender};
use crate::load::{self, Slice};
use crate::machine;
use crate::numbers::{Spread, quantile};
use crate::report;
use crate::support::{Place, signal};

/// How many connections send requests at the same time.
const CONNECTIONS: [usize; 2] = [1, 32];
/// The beginning of each slice, which is not counted: threads start and caches fill.
const WARM_UP: Duration = Duration::from_millis(100);
const SLICE: Duration = Duration::from_millis(600);

/// Measures and prints.
pub(crate) fn bench(rounds: usize) {
    println!("## `GET /api/pipeline`\n");
    let everybody = everybody().expect("every contender comes up");
    // [connections][contender][round]
    let mut slices = vec![vec![Vec::with_capacity(rounds); everybody.contenders.len()]; CONNECTIONS.len()];
    let mut cpu_s = vec![vec![0.0; everybody.contenders.len()]; CONNECTIONS.len()];
    for round in 0..rounds {
        for (at, &connections) in CONNECTIONS.iter().enumerate() {
            for place in 0..everybody.contenders.len() {
                // A contender is affected by the heat and the unfinished work of the one before it, so the order rotates.
                let who = (place + round) % everybody.contenders.len();
                let contender = &everybody.contenders[who];
                let cpu_before_s = contender.cpu_s();
                let slice = load::load(contender.address, connections, WARM_UP, SLICE);
                slices[at][who].push(slice.unwrap_or_else(|error| panic!("{}: {error}", contender.name)));
                cpu_s[at][who] += contender.cpu_s() - cpu_before_s;
            }
        }
        eprint!("\rround {} of {rounds} ", round + 1);
    }
    eprintln!();
    for (at, &connections) in CONNECTIONS.iter().enumerate() {
        print(connections, &everybody.contenders, &slices[at], &cpu_s[at]);
    }
    drop(everybody);
    count_system_calls();
}

struct Everybody {
    contenders: Vec<Contender>,
    _dir: tempfile::TempDir,
}

/// The positions of contenders in the list.
const OURS: usize = 0;
const FLOOR: usize = 1;

fn everybody() -> io::Result<Everybody> {
    let dir = tempfile::tempdir()?;
    let ours = contenders::ours();
    let answer = load::one_answer(ours.address)?;
    let body_at = answer.windows(4).position(|four| four == b"\r\n\r\n").map_or(0, |at| at + 4);
    let floor = contenders::floor(&answer)?;
    let rouille = contenders::rouille(dir.path())?;
    let mut contenders = vec![ours, floor, rouille];
    match contenders::nginx(&answer[body_at..])? {
        Some(nginx) => contenders.push(nginx),
        None => println!("nginx is not installed here and was not measured (Debian: apt install nginx-light).\n"),
    }
    println!("Answers of {} bytes, {} of them the body.\n", answer.len(), answer.len() - body_at);
    Ok(Everybody { contenders, _dir: dir })
}

fn print(connections: usize, contenders: &[Contender], slices: &[Vec<Slice>], cpu_s: &[f64]) {
    let column = |who: usize, of: fn(&Slice) -> f64| slices[who].iter().map(of).collect::<Vec<f64>>();
    let rate = |who| column(who, |slice| slice.per_second);
    let p99 = |who| column(who, |slice| slice.p99_us);
    let rows: Vec<Vec<String>> = contenders
        .iter()
        .enumerate()
        .map(|(who, contender)| {
            let answers: u32 = slices[who].iter().map(|slice| slice.answers).sum();
            let median = |values: Vec<f64>| quantile(&values, 0.5);
            vec![
                contender.name.to_owned(),
                format!("{:.0}", median(rate(who))),
                format!("{:.1}", median(column(who, |slice| slice.p50_us))),
                format!("{:.1}", median(p99(who))),
                format!("{:.1}", cpu_s[who] * 1e6 / f64::from(answers)),
                Spread::of_ratios(&rate(who), &rate(FLOOR)).text(),
                Spread::of_ratios(&p99(who), &p99(FLOOR)).text(),
                Spread::of_ratios(&rate(OURS), &rate(who)).text(),
            ]
        })
        .collect();
    let head = format!("{connections} connection{}", if connections == 1 { "" } else { "s" });
    let columns = ["requests/s", "p50 µs", "p99 µs", "CPU µs each", "rate / floor", "p99 / floor", "our rate / this"];
    report::table(&[&[head.as_str()], &columns[..]].concat(), &rows);
    for (who, contender) in contenders.iter().enumerate() {
        let broken: usize = slices[who].iter().map(|slice| slice.broken).sum();
        let unanswered: usize = slices[who].iter().map(|slice| slice.unanswered).sum();
        if broken + unanswered > 0 {
            let all = connections * slices[who].len();
            println!(
                "{}: of {all} connections {broken} were closed or refused, and {unanswered} got no answer in {SLICE:?}.\n",
                contender.name
            );
        }
    }
}

/// Sends requests for a while with strace attached to the server. That slows everything down, so nothing is timed here.
fn count_system_calls() {
    if !machine::has("strace", "-V") {
        println!("strace is not installed here: system calls were not counted (tests/system_calls.rs does so without it).\n");
        return;
    }
    match traced() {
        Ok((requests, calls)) => {
            let others: Vec<String> = calls.iter().map(|(name, count)| format!("{name} {count}")).collect();
            println!(
                "System calls of the server over {requests} requests on one connection (strace -c -f): {}.\n",
                others.join(", ")
            );
        }
        Err(error) => println!("System calls could not be counted: {error}\n"),
    }
}

fn traced() -> io::Result<(u32, Vec<(String, u64)>)> {
    let mut place = Place::new();
    place.start_server();
    let counts = place.folder().join("strace");
    let mut wire = crate::support::wire::Wire::open(place.port());
    wire.get("/api/pipeline");
    let mut strace = Command::new("strace");
    strace.args(["-c", "-f", "-o"]).arg(&counts).arg("-p").arg(place.server_pid().to_string());
    let mut strace = strace.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).spawn()?;
    // strace is ready once it traces every thread of the server.
    let deadline = Instant::now() + Duration::from_secs(10);
    while !is_traced(place.server_pid()) {
        if Instant::now() > deadline || strace.try_wait()?.is_some() {
            let _ended = strace.kill();
            strace.wait()?;
            return Err(io::Error::other("strace may not trace here"));
        }
        std::thread::sleep(Duration::from_millis(2));
    }
    let requests = 10_000;
    for _ in 0..requests {
        wire.get("/api/pipeline");
    }
    signal(strace.id(), "INT");
    strace.wait()?;
    let text = fs::read_to_string(counts)?;
    let mut calls: Vec<(String, u64)> = text
        .lines()
        .filter_map(|line| {
            let cells: Vec<&str> = line.split_whitespace().collect();
            let count = cells.get(3)?.parse().ok()?;
            Some(((*cells.last()?).to_owned(), count)).filter(|(name, _)| name != "total")
        })
        .collect();
    calls.sort_by_key(|(_, count)| std::cmp::Reverse(*count));
    Ok((requests, calls))
}

fn is_traced(pid: u32) -> bool {
    let threads = fs::read_dir(format!("/proc/{pid}/task")).into_iter().flatten().flatten();
    let mut statuses = threads.filter_map(|thread| fs::read_to_string(thread.path().join("status")).ok());
    statuses.all(|status| status.lines().any(|line| line.strip_prefix("TracerPid:").is_some_and(|pid| pid.trim() != "0")))
}
