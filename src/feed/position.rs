//! A position in the stream, and its text.
//!
//! The text is three numbers, `<log>-<version>-<run>.<seq>`, and a fourth if there are conditions. Progress and usage have no
//! position in the stream: they are sent anew to each client that connects.

use std::fmt;
use std::str::FromStr;

/// The position up to which a client has received everything.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Position {
    /// The position in the log.
    pub(super) log: u64,
    /// The version of the state; `None` if the client has received no state.
    pub(super) version: Option<u64>,
    /// The last event of the history: the id of the run and the number of the event.
    pub(super) event: (i64, u64),
    /// The digest of the conditions, which do not change the version; 0 if there are none.
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
    fn position_round_trips_and_other_text_is_rejected() {
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
