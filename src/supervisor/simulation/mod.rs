//! Tests of the supervisor's decisions in a simulated world: shims, disks, clocks, clients, and a server that is killed at any of
//! its calls.
//!
//! A seed decides everything. The invariants are checked after each step ([`play`], [`world`], [`records`], [`clients`]). Once
//! the faults have stopped, the state must be correct and every action must work ([`peace`]). `make simulate` plays very many
//! seeds, `make simulate SEED=1234` plays one and prints its trace. The real parts are the conductor, its recovery, the rules,
//! and the store on `SQLite` in memory.

#![expect(clippy::struct_excessive_bools, reason = "each is something that is so or not in the world")]

mod clients;
mod coverage;
mod env;
mod journal;
mod origins;
mod peace;
mod pipeline;
mod play;
mod records;
mod rng;
mod run;
mod shim;
mod shims;
mod wires;
mod world;

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Instant;

use crate::store::Store;
use play::{Outcome, Play};

/// The number of seeds that `make test` plays.
const SEEDS: u64 = 2_000;

/// The combined result of many seeds.
#[derive(Default)]
struct Sum {
    seeds: u64,
    steps: u64,
    kills: u64,
    coverage: BTreeMap<String, u64>,
    failed: BTreeMap<u64, String>,
}

fn number(name: &str) -> Option<u64> {
    std::env::var(name).ok().filter(|text| !text.is_empty()).map(|text| text.parse().expect("a number"))
}

fn play(seed: u64, store: Store, root: &Path, is_traced: bool) -> Outcome {
    Play::new(seed, store, root.to_owned(), is_traced).run()
}

/// Makes a folder with the script that every start names.
fn root() -> tempfile::TempDir {
    let dir = tempfile::tempdir().expect("a temp folder");
    std::fs::write(dir.path().join("a.sh"), "echo hi\n").expect("writes");
    dir
}

fn play_all(first: u64, count: u64, threads: u64, is_loud: bool) -> Sum {
    let dir = root();
    let root = dir.path().canonicalize().expect("there");
    let (next, failed) = (AtomicU64::new(first), AtomicBool::new(false));
    let sum = Mutex::new(Sum::default());
    let began = Instant::now();
    std::thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| {
                let mut store = Store::in_memory();
                let mut mine = Sum::default();
                loop {
                    let seed = next.fetch_add(1, Ordering::Relaxed);
                    if seed >= first + count || failed.load(Ordering::Relaxed) {
                        break;
                    }
                    let outcome = play(seed, store, &root, false);
                    store = outcome.store;
                    mine.seeds += 1;
                    mine.steps += outcome.steps;
                    mine.kills += outcome.kills;
                    for (what, times) in outcome.coverage {
                        *mine.coverage.entry(what).or_default() += times;
                    }
                    if let Some(violation) = outcome.violation {
                        failed.store(true, Ordering::Relaxed);
                        mine.failed.insert(seed, violation);
                    }
                    if is_loud && (seed + 1).is_multiple_of(10_000) {
                        println!("seed {seed}, {:.0} s", began.elapsed().as_secs_f64());
                    }
                }
                let mut sum = sum.lock().expect("nobody panics with it");
                sum.seeds += mine.seeds;
                sum.steps += mine.steps;
                sum.kills += mine.kills;
                sum.failed.extend(mine.failed);
                for (what, times) in mine.coverage {
                    *sum.coverage.entry(what).or_default() += times;
                }
            });
        }
    });
    sum.into_inner().expect("nobody panics with it")
}

/// Prints what happened in a seed, and how to repeat it.
fn tell(seed: u64, dir: &Path) -> Option<String> {
    let again = play(seed, Store::in_memory(), &dir.canonicalize().expect("there"), true);
    println!("seed {seed}:");
    for line in &again.trace {
        println!("{line}");
    }
    match &again.violation {
        Some(violation) => println!("seed {seed} violates: {violation}\nto play it again: make simulate SEED={seed}"),
        None => println!("seed {seed}: 0 violations"),
    }
    again.violation
}

#[test]
fn simulated_failures_violate_no_invariant() {
    if let Some(seed) = number("SIMULATE_SEED") {
        let dir = root();
        let violation = tell(seed, dir.path());
        assert!(violation.is_none(), "seed {seed} violates: {violation:?}");
        return;
    }
    let count = number("SIMULATE_SEEDS");
    let first = number("SIMULATE_FIRST").unwrap_or(0);
    let threads = std::thread::available_parallelism().map_or(1, |threads| threads.get() as u64);
    let began = Instant::now();
    let sum = play_all(first, count.unwrap_or(SEEDS), threads, count.is_some());
    if count.is_some() {
        for (what, times) in &sum.coverage {
            println!("{times:>10}  {what}");
        }
    }
    println!(
        "{} seeds, {} steps, {} servers killed, {:.1} s: {} violations",
        sum.seeds,
        sum.steps,
        sum.kills,
        began.elapsed().as_secs_f64(),
        sum.failed.len()
    );
    if let Some((&seed, violation)) = sum.failed.first_key_value() {
        let dir = root();
        tell(seed, dir.path());
        panic!("seed {seed} violates: {violation}");
    }
    let rarest = if sum.seeds >= coverage::MANY { coverage::RARELY_OCCURS } else { &[] };
    let missed: Vec<&str> =
        coverage::MUST_OCCUR.iter().chain(rarest).copied().filter(|what| !sum.coverage.contains_key(*what)).collect();
    // A run with few seeds, for debugging, cannot cover everything.
    assert!(missed.is_empty() || sum.seeds < SEEDS, "never occurred, so the simulation says nothing about them: {missed:#?}");
}

#[test]
fn same_seed_gives_the_same_trace() {
    let dir = root();
    let root = dir.path().canonicalize().expect("there");
    for seed in 0..20 {
        let first = play(seed, Store::in_memory(), &root, true);
        let second = play(seed, first.store, &root, true);
        assert_eq!(first.trace, second.trace, "seed {seed}");
    }
}
