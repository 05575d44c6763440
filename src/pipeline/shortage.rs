//! The limited resources of the machine whose shortage can make a start fail, possibly only for a moment.

use serde::{Deserialize, Serialize};

/// A limited resource.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Shortage {
    /// A process or a thread.
    Processes,
    /// A file descriptor.
    Descriptors,
    /// Memory.
    Memory,
    /// A resource that only a newer version knows.
    #[serde(other)]
    Unknown,
}

impl Shortage {
    /// Returns advice about the shortage, as a clause that follows a semicolon.
    pub const fn advice(self) -> &'static str {
        match self {
            Self::Processes => {
                "this user or this service is at its limit of processes and threads: end some, or raise the limit (`ulimit -u`, `TasksMax=`)"
            }
            Self::Descriptors => "too many files are open: raise the limit (`ulimit -n`, `LimitNOFILE=`)",
            Self::Memory => "there is not enough memory: end other programs, or raise the limit (`MemoryMax=`)",
            Self::Unknown => "a resource of this machine is exhausted",
        }
    }
}
