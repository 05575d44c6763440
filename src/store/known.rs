//! The migrations that this program carries, as refinery tells them apart.

use std::fmt;

/// A migration's entry in the history, as refinery writes it.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Known {
    pub(super) version: i64,
    pub(super) name: &'static str,
    /// Of name, version and SQL.
    pub(super) checksum: u64,
}

/// All of them, by version. Written by `build.rs`.
pub(super) const KNOWN: &[Known] = include!(concat!(env!("OUT_DIR"), "/migrations.rs"));

impl fmt::Display for Known {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "V{}__{}", self.version, self.name)
    }
}

#[cfg(test)]
mod tests {
    use super::super::open;
    use super::*;

    #[test]
    fn known_migrations_are_those_that_refinery_runs() {
        let runner = open::runner();
        let mut carried: Vec<_> = runner.get_migrations().iter().collect();
        carried.sort();
        assert!(!carried.is_empty());
        assert_eq!(
            KNOWN.iter().map(|known| (known.version, known.name, known.checksum, known.to_string())).collect::<Vec<_>>(),
            carried
                .iter()
                .map(|ours| (ours.version().into(), ours.name(), ours.checksum(), ours.to_string()))
                .collect::<Vec<_>>()
        );
    }
}
