//! The HTTP API and the page: the router, access checks and endpoints.
//!
//! Level 4. No endpoint holds a lock across I/O, chooses the status code of an error, or knows a rule of the life cycle.

mod app;
mod auth;
#[cfg(test)]
mod bundle;
mod coding;
mod common_fields;
mod endpoints;
mod error;
mod etag;
#[cfg(feature = "fuzzing")]
#[doc(hidden)]
pub mod fuzzing;
mod guard;
mod idempotency;
mod input;
mod json;
mod long_poll;
mod page;
mod pair_links;
mod response_budget;
mod router;
#[cfg(test)]
mod tests;
mod while_logged_in;

pub use app::App;
pub use auth::{Authenticator, Trust};
pub use guard::Guard;
pub use idempotency::KeysInUse;
pub use response_budget::ResponseBudget;
