//! What `make bench` runs: how fast the front door and the life cycle are, beside floors and peers that are measured in the same run.
//!
//! Absolute times belong to a machine and its mood; a ratio within one round travels. So each round gives everybody a short slice, the
//! order turns from round to round, and what is reported are medians over the rounds and the spread of the ratios. Nothing is asserted.
//!
//! The program starts itself again for those contenders that are no programs of their own: see [`contenders`].

mod contenders;
mod counted;
mod cycles;
mod floor;
mod front_door;
mod load;
mod machine;
mod numbers;
mod report;
mod standstill;
#[path = "../support/mod.rs"]
mod support;

use std::env;

/// How many rounds, unless `BENCH_ROUNDS` says otherwise: enough for medians, and the whole stays below five minutes.
const ROUNDS: usize = 20;

fn main() {
    // Cargo adds `--bench`; the contenders' roles are ours.
    let arguments: Vec<String> = env::args().skip(1).filter(|argument| !argument.starts_with("--")).collect();
    match arguments.iter().map(String::as_str).collect::<Vec<_>>().as_slice() {
        ["floor"] => contenders::be_the_floor(),
        ["rouille", dir] => contenders::be_rouille(dir.as_ref()),
        [] => bench(),
        other => eprintln!("no role of the bench's: {other:?}"),
    }
}

fn bench() {
    let rounds = env::var("BENCH_ROUNDS").ok().and_then(|rounds| rounds.parse().ok()).unwrap_or(ROUNDS).max(1);
    println!("{}\n", machine::describe());
    front_door::bench(rounds);
    cycles::bench(rounds * 3);
    standstill::bench();
}
