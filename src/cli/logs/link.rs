//! The connection of a log reader to its server, across restarts. A request is repeated until it is answered.
//!
//! The requests change nothing, so they can be repeated. A lost and a restored connection are each reported once on stderr.

use std::thread;
use std::time::{Duration, Instant};

use super::super::client::{Answer, Client, ClientError, READ_TIMEOUT};
use super::printer::warn;

/// The waits between two tries while no server answers.
const RETRY_MIN: Duration = Duration::from_millis(100);
const RETRY_MAX: Duration = Duration::from_secs(1);
/// How long to wait for a server that accepted the first request but did not answer. It may be restarting, or overloaded.
const FIRST_PATIENCE: Duration = Duration::from_secs(5);
/// How long a server that has just come back may require a token that was not sent. It accepts requests a moment before it has
/// recorded in the runtime directory that it does, and until then the token in that directory is not sent to it.
const STRANGER_MAX: Duration = Duration::from_secs(10);

/// A server that must answer once. After that, the link waits for it when it is lost.
#[derive(Debug)]
pub(super) struct Link<'c> {
    client: &'c Client,
    /// How long to wait for the server; `None` means for ever.
    patience: Option<Duration>,
    has_answered: bool,
    was_lost: bool,
}

impl<'c> Link<'c> {
    pub(super) fn new(client: &'c Client, patience: Option<Duration>) -> Self {
        Self { client, patience, has_answered: false, was_lost: false }
    }

    pub(super) fn get(&mut self, path: &str) -> Result<Answer, ClientError> {
        self.get_waiting(&|_| path.to_owned(), None)
    }

    /// Sends a request whose answer may wait up to `wait` for news. A repeated request does not wait, so that its answer comes
    /// as soon as the server is back.
    pub(super) fn get_waiting(
        &mut self,
        path: &dyn Fn(Option<Duration>) -> String,
        wait: Option<Duration>,
    ) -> Result<Answer, ClientError> {
        let mut retry = RETRY_MIN;
        let mut lost_at = None;
        let mut stranger_at = None;
        loop {
            let wait = wait.filter(|_| lost_at.is_none());
            let result = self.client.get_within(&path(wait), wait.unwrap_or_default() + READ_TIMEOUT);
            let error = match result {
                Ok(answer) => {
                    if lost_at.is_some() {
                        warn("the server answers again");
                    }
                    self.has_answered = true;
                    return Ok(answer);
                }
                Err(error) => error,
            };
            let lost_for = lost_at.map(|at: Instant| at.elapsed());
            let is_stranger = lost_for.is_some() && matches!(error, ClientError::Failed { status: 401, .. });
            let may_pass =
                error.may_pass() || is_stranger && stranger_at.get_or_insert_with(Instant::now).elapsed() < STRANGER_MAX;
            let was_there = self.has_answered || lost_for.is_some() || !error.is_unreached();
            let patience = if self.has_answered { self.patience } else { Some(FIRST_PATIENCE) };
            let is_over = patience.is_some_and(|patience| lost_for.is_some_and(|lost_for| lost_for >= patience));
            if !was_there || !may_pass || is_over {
                return Err(error);
            }
            if lost_at.is_none() {
                match &error {
                    ClientError::Failed { detail, .. } => warn(&format!("{detail}; trying again")),
                    _ => warn("connection lost; trying again"),
                }
                lost_at = Some(Instant::now());
                self.was_lost = true;
            }
            thread::sleep(retry);
            retry = longer(retry, RETRY_MIN, RETRY_MAX);
        }
    }

    /// Checks whether the server was lost since the last call. Another server may answer now.
    pub(super) fn was_lost(&mut self) -> bool {
        std::mem::take(&mut self.was_lost)
    }
}

/// Returns one and a half times the wait, within limits.
pub(super) fn longer(wait: Duration, min: Duration, max: Duration) -> Duration {
    (wait * 3 / 2).clamp(min, max)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn retry_pause_grows_up_to_one_second() {
        let mut wait = Duration::ZERO;
        let mut waits = Vec::new();
        for _ in 0..8 {
            wait = longer(wait, RETRY_MIN, RETRY_MAX);
            waits.push(wait.as_millis());
        }
        assert_eq!(waits, [100, 150, 225, 337, 506, 759, 1000, 1000]);
    }
}
