//! Signs: the latest value of everything about a run that changes often and may be lost. A new kind of sign is a field of [`Signs`].
//!
//! Nothing is recorded of them, and no transition waits for one. What must not be lost is a fact.

use serde::{Deserialize, Serialize};

use crate::pipeline::{ConditionCode, Lack, Progress, Usage};

/// All signs of a run. A key that is missing says the same as null or an empty list.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Signs {
    /// How far the pipeline says it is, if it says so.
    pub progress: Option<Progress>,
    /// What its processes use; none while they are paused, and before the first look.
    pub usage: Option<Usage>,
    /// A sentence about the state for people, such as a pause that does not hold.
    pub note: Option<String>,
    /// What the shim cannot do as it should.
    pub trouble: Vec<Trouble>,
}

/// Signs as a line that comes up.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct NumberedSigns {
    /// The key tells this line from others.
    pub signs: Signs,
    /// Counts changes in this run: of two messages the one with the higher number is the later.
    pub number: u64,
}

/// One of the shim's problems.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Trouble {
    /// A condition's code. One that the server does not know is from a newer shim.
    pub code: String,
    /// A sentence for people.
    pub detail: String,
    /// Whether that is for want of room on the disk.
    #[serde(default)]
    pub is_disk_full: bool,
    /// The resource whose lack kept a run from beginning, if any.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lack: Option<Lack>,
}

impl Trouble {
    /// Why a run did not begin.
    pub fn last_words(detail: String, is_disk_full: bool, lack: Option<Lack>) -> Self {
        Self { code: ConditionCode::ShimTrouble.to_string(), detail, is_disk_full, lack }
    }
}
