//! A place in the stream, and its text.
//!
//! The text is three numbers, `<log>-<version>-<run>.<seq>`, and a fourth where something is wrong. How far the run is has no place in the
//! stream: that is sent anew to each client that comes.

use std::fmt;
use std::str::FromStr;

/// How far a client has everything.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Position {
    /// The log's cursor.
    pub(super) log: u64,
    /// The version of the state; `None` when it has seen none.
    pub(super) version: Option<u64>,
    /// The last event of the history: run and number.
    pub(super) event: (i64, u64),
    /// The digest of the conditions, which no version counts; 0 if there were none.
    pub(super) wrong: u64,
}

impl fmt::Display for Position {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { log, version, event: (run_id, seq), wrong } = self;
        match version {
            Some(version) => write!(formatter, "{log}-{version}-{run_id}.{seq}"),
            None => write!(formatter, "{log}--{run_id}.{seq}"),
        }?;
        if *wrong == 0 { Ok(()) } else { write!(formatter, "-{wrong}") }
    }
}

impl FromStr for Position {
    type Err = ();

    fn from_str(text: &str) -> Result<Self, ()> {
        fn number<N: FromStr>(text: &str) -> Result<N, ()> {
            if text.bytes().all(|byte| byte.is_ascii_digit()) { text.parse().map_err(|_| ()) } else { Err(()) }
        }
        let mut parts = text.splitn(4, '-');
        let mut part = || parts.next().ok_or(());
        let (log, version, event) = (part()?, part()?, part()?);
        let wrong = parts.next();
        let (run_id, seq) = event.split_once('.').ok_or(())?;
        Ok(Self {
            log: number(log)?,
            version: if version.is_empty() { None } else { Some(number(version)?) },
            event: (number(run_id)?, number(seq)?),
            wrong: wrong.map_or(Ok(0), number)?,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_position_reads_as_it_was_written_and_nothing_else_does() {
        for position in [
            Position { log: 0, version: None, event: (0, 0), wrong: 0 },
            Position { log: u64::MAX, version: Some(u64::MAX), event: (i64::MAX, u64::MAX), wrong: u64::MAX },
            Position { log: 52_017, version: Some(15), event: (3, 4), wrong: 0 },
        ] {
            assert_eq!(position.to_string().parse(), Ok(position));
        }
        for text in [
            "",
            "1",
            "1-2",
            "1-2-3",
            "1-2-3.",
            "-2-3.4",
            "1-2-.4",
            "+1-2-3.4",
            "1--2-3.4",
            "1-2-3.4.5",
            "1-2-3.4-",
            "1-2-3.4-5-6",
            "1-2-3.4\n",
            "1-x-3.4",
            "99999999999999999999-1-1.1",
        ] {
            assert_eq!(text.parse::<Position>(), Err(()), "{text:?}");
        }
    }
}
