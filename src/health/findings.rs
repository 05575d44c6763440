//! What a scan hands on.

use crate::pipeline::ConditionCode;

/// The problems that a scan has found, each with its sentence.
pub type Findings = Vec<(ConditionCode, String)>;
