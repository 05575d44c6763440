//! The event stream: state, history and log, merged at one position, and the waker of its followers.
//!
//! Level 3. A server has one [`Streams`]. It opens an [`EventStream`], which writes events, and waits for lines on behalf of a
//! request.

mod lines;
mod log_watch;
mod position;
mod slots;
mod stream;
mod streams;
mod text;
mod waker;

pub use lines::Found;
pub use stream::{Begin, EventStream};
pub use streams::Streams;
pub use text::EventText;
