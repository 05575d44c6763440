//! The health check.

use serde::{Deserialize, Serialize};

use crate::pipeline::Conditions;

/// The response to `GET /api/health`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct HealthResponse {
    /// Whether the server works.
    pub ok: bool,
    /// The name of the service that answers.
    pub service: String,
    /// The problems. Absent for clients without a token, because their sentences name paths.
    #[serde(flatten)]
    pub details: Option<Details>,
}

/// The current problems.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Details {
    /// The database.
    pub db: Database,
    /// All conditions as one sentence; `None` if nothing is wrong.
    pub degraded: Option<String>,
    /// The current conditions.
    pub conditions: Conditions,
}

/// The state of the database.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Database {
    /// Whether the database answers and is the file that the server opened.
    pub ok: bool,
    /// The time that the database reports.
    pub time: Option<String>,
}
