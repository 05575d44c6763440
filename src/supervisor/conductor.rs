//! The life cycle: takes actions and facts, applies the rules, commits, publishes and answers. Contains no thread, process or
//! clock, so that a test can simulate everything around it.
//!
//! Each part owns its fields: `ledger` (the recorded state), `shim_link` (the connection to the shim), `in_flight` (the action
//! under way), and `signs` (what the shim reports besides facts). The other files define what is done with them, and when:
//!
//! | input | goes through |
//! |---|---|
//! | a pause, resume or stop | `actions`: `decide` → `shim_link` sends it → `in_flight` keeps clients → published as pending |
//! | its fact | `messages` → `record`: `ledger` commits → `in_flight` determines the result → published → answered |
//! | a start | `actions`: `ledger` commits the run → `shim_link` launches its shim; then its first fact as above |
//! | a repeat of an action that was begun under a key | `repeats`: answers with the result, or does it if it had no effect |
//! | a sign | `messages` → `signs` → published |
//! | a broken connection, a boot | `recovery`: what is found of the run, and what follows |
//! | a client that follows the resource usage | `watching`: notifies the shim |
//! | time | `deadlines` |
//!
//! If killed here: the next boot finds what was committed, and adds what the shim wrote down. Only the waiting clients are kept
//! in memory alone: facts that the database refuses are in the journal or kept by the shim.

mod actions;
mod boot;
mod deadlines;
mod in_flight;
mod ledger;
mod messages;
mod parts;
mod record;
mod recovery;
mod repeats;
mod shim_link;
mod signs;
mod watching;

pub(super) use parts::Conductor;
