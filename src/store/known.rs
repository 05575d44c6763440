//! The migrations that this program contains, with the values by which refinery distinguishes them.

use std::fmt;

#[cfg(not(test))]
use refinery::Runner;

/// A migration's entry in the history, as refinery writes it.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Known {
    pub(super) version: i64,
    pub(super) name: &'static str,
    /// The checksum of name, version and SQL.
    pub(super) checksum: u64,
    pub(super) sql: &'static str,
}

/// Written by `build.rs`.
const KNOWN: &[Known] = include!(concat!(env!("OUT_DIR"), "/migrations.rs"));

mod embedded {
    refinery::embed_migrations!("migrations");
}

/// Returns all migrations, by version.
#[cfg(not(test))]
pub(super) const fn all() -> &'static [Known] {
    KNOWN
}

/// Returns a runner of the migrations. It is grouped, because by default refinery commits a migration separately from its line in
/// the history, and a kill in between would leave a file that can no longer be migrated.
#[cfg(not(test))]
pub(super) fn runner() -> Runner {
    embedded::migrations::runner().set_grouped(true)
}

#[cfg(test)]
pub(super) use later::{all, runner};

impl fmt::Display for Known {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "V{}__{}", self.version, self.name)
    }
}

/// Simulates a later version of this program with one more migration, because the first release has no older schema to migrate
/// from.
#[cfg(test)]
pub(super) mod later {
    use std::cell::Cell;

    use refinery::{Migration, Runner};

    use super::{KNOWN, Known, embedded};

    /// Adds a column to each run that only the later version has.
    const SQL: &str = "ALTER TABLE pipeline_runs ADD COLUMN mood TEXT; UPDATE pipeline_runs SET mood = status || '!'";

    /// Does the same, and then makes a change that the schema forbids.
    const FAULTY_SQL: &str =
        "ALTER TABLE pipeline_runs ADD COLUMN mood TEXT; UPDATE pipeline_runs SET mood = status || '!', log_start = -1";

    thread_local! {
        /// The migrations of the later version, while this thread simulates one.
        static LATER: Cell<Option<&'static [Known]>> = const { Cell::new(None) };
    }

    fn migration(sql: &str) -> Migration {
        Migration::unapplied(&format!("V{}__later", KNOWN.len() + 1), sql).expect("a good name")
    }

    /// Runs `act` as the later version.
    pub(in crate::store) fn as_later_version<T>(act: impl FnOnce() -> T) -> T {
        as_version_with(SQL, act)
    }

    /// Runs `act` as a later version whose migration fails at its end, if the database has runs.
    pub(in crate::store) fn as_faulty_version<T>(act: impl FnOnce() -> T) -> T {
        as_version_with(FAULTY_SQL, act)
    }

    fn as_version_with<T>(sql: &'static str, act: impl FnOnce() -> T) -> T {
        let later = migration(sql);
        let known = KNOWN.iter().map(|known| Known { ..*known });
        let later = Known { version: later.version().into(), name: "later", checksum: later.checksum(), sql };
        LATER.set(Some(known.chain([later]).collect::<Vec<_>>().leak()));
        let done = act();
        LATER.set(None);
        done
    }

    pub(in crate::store) fn all() -> &'static [Known] {
        LATER.get().unwrap_or(KNOWN)
    }

    pub(in crate::store) fn runner() -> Runner {
        let mut migrations = embedded::migrations::runner().get_migrations().clone();
        migrations.extend(LATER.get().and_then(<[_]>::last).map(|later| migration(later.sql)));
        Runner::new(&migrations).set_grouped(true)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn known_migrations_are_those_that_refinery_runs() {
        let runner = embedded::migrations::runner();
        let mut carried: Vec<_> = runner.get_migrations().iter().collect();
        carried.sort();
        assert!(!carried.is_empty());
        assert_eq!(
            KNOWN
                .iter()
                .map(|known| (known.version, known.name, known.checksum, known.to_string(), Some(known.sql)))
                .collect::<Vec<_>>(),
            carried
                .iter()
                .map(|ours| (ours.version().into(), ours.name(), ours.checksum(), ours.to_string(), ours.sql()))
                .collect::<Vec<_>>()
        );
    }
}
