//! The HTTP contract: every request, response, event and error as a type, and the one table of routes.
//!
//! Level 0, no I/O. The server writes responses and reads requests, and the client commands do the reverse, so each type
//! serialises both ways. `docs/api-contracts.md` describes the contract for people; a test compares its tables with this code.

pub mod body;
pub mod error;
pub mod events;
pub mod health;
pub mod logs;
mod nearest;
pub mod pipeline;
pub mod query;
mod repeated;
pub mod routes;
pub mod runs;
pub mod scripts;
pub mod session;
pub mod version;
