//! Whether the server works.

use serde::{Deserialize, Serialize};

use crate::pipeline::Conditions;

/// The answer of `GET /api/health`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct HealthResponse {
    /// Whether the server works.
    pub ok: bool,
    /// Which service answers.
    pub service: String,
    /// What is wrong; absent for clients without a token, because it names paths.
    #[serde(flatten)]
    pub details: Option<Details>,
}

/// What is wrong.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Details {
    /// The database.
    pub db: Database,
    /// All conditions as one sentence; none if nothing is wrong.
    pub degraded: Option<String>,
    /// The current conditions.
    pub conditions: Conditions,
}

/// Whether the database works.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Database {
    /// Whether it answers, and is the one that the server opened.
    pub ok: bool,
    /// What time it says it is.
    pub time: Option<String>,
}
