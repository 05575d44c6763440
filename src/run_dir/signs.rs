//! Signs: the latest values of everything about a run that changes often and may be lost. A new kind of sign is a field of
//! [`Signs`].
//!
//! They are not recorded, and no transition waits for them. Anything that must not be lost is a fact.

use serde::{Deserialize, Serialize};

use crate::pipeline::{ConditionCode, Progress, Shortage, Usage};

/// All signs of a run. A missing key means the same as null or an empty list.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Signs {
    /// The progress, if the pipeline reports any.
    pub progress: Option<Progress>,
    /// The current usage; `None` while the run is paused, and before the first measurement.
    pub usage: Option<Usage>,
    /// A sentence about the state for users, such as a pause that does not hold.
    pub note: Option<String>,
    /// The problems of the shim.
    pub trouble: Vec<Trouble>,
}

/// The signs as a line from the shim.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct NumberedSigns {
    /// The signs. This key distinguishes the line from others.
    pub signs: Signs,
    /// The number of changes in this run: of two messages, the one with the higher number is the later one.
    pub number: u64,
}

/// One problem of the shim.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Trouble {
    /// The code of a condition. A code that the server does not know comes from a newer shim.
    pub code: String,
    /// A sentence for users.
    pub detail: String,
    /// Whether the cause is a full disk.
    #[serde(default)]
    pub is_disk_full: bool,
    /// The resource whose shortage prevented the run from beginning, if any.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lack: Option<Shortage>,
}

impl Trouble {
    /// Creates the problem that prevented a run from beginning.
    pub fn last_words(detail: String, is_disk_full: bool, lack: Option<Shortage>) -> Self {
        Self { code: ConditionCode::ShimTrouble.to_string(), detail, is_disk_full, lack }
    }
}
