//! The event stream: state, history and log, merged at a position, and the wake-up of its followers.
//!
//! Level 3. [`Streams`] is what a server has one of: it opens an [`EventStream`], which hands out events, and waits for lines on behalf of
//! a request. How an event is written is a matter of the one who asks.

mod event;
mod lines;
mod log_watch;
mod position;
mod slots;
mod sources;
mod stream;
mod streams;
mod waker;

pub use event::{Event, Sink};
pub use lines::Found;
pub use position::Position;
pub use stream::EventStream;
pub use streams::{Begin, Streams};
