//! The event stream: state, history and log, merged at a position, and the waking of whoever follows.
//!
//! Level 3.

mod log_watch;
mod stream;

pub use stream::{Begin, Look, Streams};
