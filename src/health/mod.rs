//! Problems that no message reports: low disk space, removed or replaced files, a stopped shim.
//!
//! Level 2. An [`Inspector`] scans on request, [`Places`] performs one scan, and [`Upkeep`] recreates files that were removed.
//! Each finding has the code of a condition (`pipeline/condition.rs`).

mod inspector;
mod scan;
mod upkeep;
mod watch;

pub use inspector::{Inspector, ScanGuard};
pub use scan::{Findings, Places};
pub use upkeep::{Kept, Upkeep};
