//! One binary that controls one long-running pipeline script, and reports only what is true.
//!
//! `ARCHITECTURE.md` is the map. The modules import only from levels below their own, as listed there; a test checks this.

pub mod absent;
pub mod abstract_socket;
pub mod api;
pub mod cli;
pub mod clock;
pub mod config;
pub mod console;
pub mod feed;
pub mod file_id;
pub mod gzip;
pub mod health;
pub mod held_dir;
pub mod hex;
pub mod kill_point;
pub mod latest_run;
pub mod lock;
pub mod log;
pub mod made;
pub mod path_json;
pub mod pipeline;
pub mod private;
pub mod process;
pub mod random;
pub mod real_path;
pub mod retention;
pub mod run_dir;
pub mod runtime_dir;
pub mod script;
pub mod serve;
pub mod service_manager;
pub mod shell_word;
pub mod shim;
pub mod socket_path;
pub mod store;
pub mod supervisor;
pub mod transport;
pub mod unix_connect;
pub mod user;
pub mod web;
