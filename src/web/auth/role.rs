//! The two roles.

/// What a client may do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::web) enum Role {
    /// Everything.
    Operator,
    /// Only what changes nothing.
    Viewer,
}

impl Role {
    /// The word in cookies and in the API.
    pub(in crate::web) const fn as_str(self) -> &'static str {
        match self {
            Self::Operator => "act",
            Self::Viewer => "look",
        }
    }
}
