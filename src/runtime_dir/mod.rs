//! The runtime directory: its secrets, `server.json` and `.gitignore`.
//!
//! Level 1.

mod git_ignore;
mod secrets;
mod server_info;

pub use git_ignore::{NAME as GIT_IGNORE, keep_out_of_git};
pub use secrets::{Secret, SecretError, Secrets};
pub use server_info::{Found, LOCK_FILE, NAME as SERVER_INFO, ServerInfo, new_identity};
