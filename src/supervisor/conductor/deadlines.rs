//! What is due although nobody said anything: waiters that have waited long enough, a silent shim, a database that is to be tried again.

use std::time::Duration;

use super::{Conductor, Link, SILENCE_LIMIT, SILENT_SHIM, answer};
use crate::clock::Clock;
use crate::pipeline::ConditionCode;
use crate::supervisor::ActionError;
use crate::supervisor::records::Records;
use crate::supervisor::shims::Shims;

impl<R: Records, S: Shims, C: Clock> Conductor<R, S, C> {
    /// When [`Conductor::tick`] has something to do.
    pub(in crate::supervisor) fn deadline(&self) -> Option<Duration> {
        let retry = match self.link {
            Link::Silent { retry_at, .. } => Some(retry_at),
            Link::Idle | Link::Connected { .. } => None,
        };
        let retry = retry
            .into_iter()
            .chain(self.store_retry_at)
            .chain(self.pause_file_retry_at)
            .chain(self.unread_progress.as_ref().and_then(|unread| unread.retry_at));
        let waiters = self.under_way.iter().flat_map(|under_way| under_way.waiters.iter().map(|waiter| waiter.until));
        let silence = self.unheard_since.filter(|_| !self.is_known_silent).map(|since| since + SILENCE_LIMIT);
        waiters.chain(retry).chain(silence).min()
    }

    /// Does what is due.
    pub(in crate::supervisor) fn tick(&mut self) {
        let now = self.clock.awake();
        if let Link::Silent { retry_at, .. } = self.link
            && retry_at <= now
        {
            if let Err(error) = self.look_at_run() {
                self.forget_and_retry(&error);
            } else {
                if self.live_run().is_none() {
                    // Unless what has ended is heard out or awaited.
                    if !self.is_awaited && matches!(self.link, Link::Silent { .. }) {
                        self.link = Link::Idle;
                    }
                    self.set_condition(ConditionCode::ShimSilent, None);
                }
                // Also where nothing was new: what was committed before a read failed has not been published.
                self.publish();
            }
        }
        if self.pause_file_retry_at.is_some_and(|at| at <= now) {
            self.take_pause_file_away();
        }
        self.look_at_unread_progress(now);
        if self.store_retry_at.is_some_and(|at| at <= now) {
            self.try_store_again();
        }
        if !self.is_known_silent && self.unheard_since.is_some_and(|since| now.saturating_sub(since) >= SILENCE_LIMIT) {
            self.is_known_silent = true;
            self.set_condition(ConditionCode::ShimSilent, Some(SILENT_SHIM.to_owned()));
        }
        if let Some(under_way) = &mut self.under_way {
            let action = under_way.pending.action();
            under_way.waiters.retain(|waiter| {
                let is_late = waiter.until <= now;
                if is_late {
                    answer(&waiter.reply_to, Err(ActionError::StillUnderWay(action)));
                }
                !is_late
            });
        }
    }
}
