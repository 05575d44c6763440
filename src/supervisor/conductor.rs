//! The life cycle: takes actions and facts, asks the rules, commits, publishes, answers. Knows no thread, no process and no clock of its
//! own, so that a test can be the whole world around it.
//!
//! Each part owns its fields: `ledger` (what is on record), `shim_link` (the connection to the shim), `in_flight` (the action under way),
//! and `signs` (what the shim says beside the facts). The other files say what is done with them, and when:
//!
//! | what comes | goes through |
//! |---|---|
//! | a pause, resume or stop | `actions`: `decide` → `shim_link` sends the command → `in_flight` keeps who waits → published as under way |
//! | its fact | `messages` → `record`: `ledger` commits → `in_flight` says what came of it → published → answered |
//! | a start | `actions`: `ledger` commits the run → `shim_link` launches its shim; then its first fact as above |
//! | a repeat of an action that was begun under a key | `repeats`: what came of it is told, or it is done if nothing did |
//! | a sign | `messages` → `signs` → published |
//! | a connection that breaks, a boot | `recovery`: what is found of the run, and what is made of it |
//! | a client that follows what the run uses | `watching`: the shim is told so |
//! | time | `deadlines` |
//!
//! If killed here: what was committed is what the next boot finds, what the shim wrote down is what it adds. Nothing is kept in
//! memory only, but who waits for an answer: what the database does not take is in the journal or kept by the shim.

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
