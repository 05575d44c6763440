//! The scripts that can be started.

use serde::{Deserialize, Serialize};

use super::query::{Kind, query};
use crate::clock::Timestamp;

/// The longest text that is looked for, in bytes.
pub const FIND_BYTES_MAX: usize = 200;

query! {
    /// The query of `GET /api/pipeline/scripts`.
    ScriptsQuery {
        /// Only paths that contain this text, in upper or lower case.
        find: String = Kind::Text(FIND_BYTES_MAX),
    }
}

/// The answer of `GET /api/pipeline/scripts`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ScriptsResponse {
    /// The pipeline's root, with every link resolved.
    pub root: String,
    /// Those that ran, the latest first; then the others, the latest changed first.
    pub scripts: Vec<Script>,
    /// Whether there may be more: a limit ended the look.
    pub truncated: bool,
}

/// A script.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Script {
    /// Relative to the root: the `script` of a start.
    pub path: String,
    /// Its size, in bytes.
    pub size: u64,
    /// When its contents last changed.
    pub modified_at: Timestamp,
    /// The name of the interpreter that runs it, such as `bash`, or `itself`.
    pub run_by: String,
    /// How many of the latest runs were of this script.
    pub runs: u64,
    /// How long it usually takes without its pauses, in milliseconds: the median of its latest completed runs.
    pub usual_ms: Option<u64>,
    /// The latest run of this script.
    pub last_run_id: Option<i64>,
}
