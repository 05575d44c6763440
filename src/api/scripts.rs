//! The scripts that can be started.

use serde::{Deserialize, Serialize};

use super::query::{Kind, query};
use crate::clock::Timestamp;

/// The longest text to search for, in bytes.
pub const FIND_BYTES_MAX: usize = 200;

query! {
    /// The query of `GET /api/pipeline/scripts`.
    ScriptsQuery {
        /// Only paths that contain this text; case is ignored.
        find: String = Kind::Text(FIND_BYTES_MAX),
    }
}

/// The response to `GET /api/pipeline/scripts`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ScriptsResponse {
    /// The pipeline's root, with every link resolved.
    pub root: String,
    /// The scripts that have run, the most recently run first; then the others, the most recently changed first.
    pub scripts: Vec<Script>,
    /// Whether there may be more scripts, because a limit ended the search.
    pub truncated: bool,
}

/// A script.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Script {
    /// The path relative to the root, as `script` of a start takes it.
    pub path: String,
    /// The size, in bytes.
    pub size: u64,
    /// When the contents last changed.
    pub modified_at: Timestamp,
    /// The name of the interpreter that runs it, such as `bash`, or `itself`.
    pub run_by: String,
    /// How many of the latest runs were runs of this script.
    pub runs: u64,
    /// The usual duration without pauses, in milliseconds: the median of the latest completed runs of this script.
    pub usual_ms: Option<u64>,
    /// The latest run of this script.
    pub last_run_id: Option<i64>,
}
