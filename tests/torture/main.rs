//! The torture test: the real binary and real processes, disturbed at random moments, round after round. After each round the
//! API, the database, the journal and the kernel must agree within two seconds, and the history must show what was really done.
//!
//! `make torture N=1000` runs it against the release build. `AUTOAPPDEV_TORTURE_ROUNDS` sets the number of rounds (100 in
//! `make test`), and `AUTOAPPDEV_TORTURE_SEED` repeats the decisions of an earlier test. It repeats only the decisions: a seed
//! does not determine when the kernel runs a process, and a decision that depends on the result of a race can differ.

#[path = "../support/mod.rs"]
mod support;

mod acts;
mod agreement;
mod dice;
mod kernel;
mod ledger;
mod model;
mod rounds;
mod tally;

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use dice::Dice;
use rounds::Torture;
use tally::Tally;

/// The number of violations after which the test ends, because more would add nothing.
const VIOLATIONS_MAX: usize = 5;

/// The number of rounds between two lines of progress.
const PROGRESS: u32 = 50;

fn number(variable: &str) -> Option<u64> {
    let text = std::env::var(variable).ok().filter(|text| !text.is_empty())?;
    Some(text.parse().unwrap_or_else(|_| panic!("{variable} is no number: {text:?}")))
}

#[test]
fn all_sources_agree_after_each_round() {
    let rounds = number("AUTOAPPDEV_TORTURE_ROUNDS").map_or(100, |rounds| u32::try_from(rounds).expect("rounds are fewer"));
    let seed = number("AUTOAPPDEV_TORTURE_SEED").unwrap_or_else(|| {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).expect("after 1970");
        u64::from(now.subsec_nanos()) ^ now.as_secs()
    });
    println!("torture: {rounds} rounds, seed {seed}");
    // Orphans become children of this process, which reaps them, because the first process of a container often does not.
    autoappdev::process::become_subreaper().expect("a subreaper");

    let mut tally = Tally::new();
    let mut torture = Torture::new();
    for round in 1..=rounds {
        // Each round has its own dice, so that a round with another course does not change all later ones.
        let dice = Dice::new(seed ^ u64::from(round).wrapping_mul(0x9E37_79B9_7F4A_7C15));
        let outcome = catch_unwind(AssertUnwindSafe(|| torture.round(round, dice, &mut tally)));
        let violation = match outcome {
            Ok(Ok(())) => None,
            Ok(Err(violation)) => Some(violation),
            Err(panic) => Some(kernel::panic_text(panic.as_ref())),
        };
        if let Some(violation) = violation {
            println!("\n=== VIOLATION in round {round} of seed {seed}: {violation}\n{}", torture.context());
            tally.violation(round, &violation);
            if tally.violations() >= VIOLATIONS_MAX {
                break;
            }
            // The earlier state is no longer known, so the test continues in a new place.
            torture = Torture::new();
        }
        if round % PROGRESS == 0 {
            tally.progress(round);
        }
    }
    if let Err(violation) = torture.finish(&mut tally) {
        println!("\n=== VIOLATION at the end of seed {seed}: {violation}\n{}", torture.context());
        tally.violation(rounds, &violation);
    }
    drop(torture);
    kernel::end_orphans();
    tally.print(seed);
    assert_eq!(tally.violations(), 0, "seed {seed}; see above");
    assert!(tally.elapsed() > Duration::ZERO && (rounds == 0 || tally.runs() > 0), "a torture that does nothing proves nothing");
}
