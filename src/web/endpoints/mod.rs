//! The endpoints, one file per resource. Each is a method of [`App`](super::app::App), which the router calls.

mod events;
mod health;
mod log_search;
mod log_text;
mod logs;
mod once;
mod pipeline;
mod runs;
mod scripts;
mod session;
mod version;
