//! The runtime directory: its secrets, `server.json`, `.gitignore`, and the check that other users cannot change it.
//!
//! Level 1.

mod birth;
mod client_dir;
mod git_ignore;
mod groups;
mod proof;
mod secrets;
mod server_info;
mod settled;
mod trusted;

pub use client_dir::ClientDir;
pub use git_ignore::{NAME as GIT_IGNORE, write_git_ignore};
pub use groups::{group_number, trust_groups};
pub use proof::{CHALLENGE_DIGITS, Prover, is_challenge};
pub use secrets::{Replaced, Secret, SecretError, Secrets};
pub use server_info::{Found, LOCK_FILE, NAME as SERVER_INFO, ServerInfo, new_identity};
pub use settled::{DATABASE_SUFFIXES, resolve_database, resolve_runtime_dir, resolve_socket};
pub use trusted::{By, Distrust, check_dir, create_dir, resolve, resolve_parent, target_of_link};
