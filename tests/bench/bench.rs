//! `make bench`: how fast requests and the life cycle are, compared with lower bounds and other programs that are measured in the
//! same run.
//!
//! Absolute times depend on the machine and its load; a ratio within one round is portable. So each round gives every contender a
//! short slice, the order changes from round to round, and the report contains medians over the rounds and the spread of the
//! ratios. Nothing is asserted.
//!
//! The program starts itself again for the contenders that are not separate programs: see [`contenders`].

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

/// How many rounds, unless `BENCH_ROUNDS` sets another number. Enough for medians, and the whole takes less than five minutes.
const ROUNDS: usize = 20;

fn main() {
    // Cargo adds `--bench`. The roles of the contenders are our own arguments.
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
