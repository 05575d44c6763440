//! The origins of the simulated requests. Each request has its own, and the history must name the right one everywhere.

use crate::pipeline::{Action, Origin, Peer};

/// The requested actions. The user id of the origin stands for the request.
#[derive(Default)]
pub(super) struct Origins(Vec<Action>);

impl Origins {
    /// Returns the origin of a new request.
    pub(super) fn of_new(&mut self, action: Action) -> Origin {
        self.0.push(action);
        Origin::operator(Peer::Uid(u32::try_from(self.0.len()).expect("few requests")))
    }

    /// Checks whether a recorded event can have the origin that it names: `who` is a user id, the word of another origin, or `-`.
    pub(super) fn judge(&self, kind: &str, cause: &str, who: &str) -> Result<(), String> {
        let asked = who.parse().ok().and_then(|uid: usize| self.0.get(uid.checked_sub(1)?));
        let is_right = match (kind, cause) {
            ("starting", "request") | ("spawned", _) => asked == Some(&Action::Start),
            ("paused", "request") => asked == Some(&Action::Pause),
            // A stop also continues a paused run.
            ("resumed", "request") => matches!(asked, Some(Action::Resume | Action::Stop)) || who == "signal",
            ("stopping", _) | ("exited", "request") => asked == Some(&Action::Stop) || who == "signal",
            // Reported by the shim, or found by a server.
            ("spawn_failed", _) => asked == Some(&Action::Start) || who == "-",
            // A fact after the end that a server had recorded for a lost run changes nothing, so it has no cause.
            ("exited" | "paused" | "resumed", "-") => true,
            (_, _) => who == "-",
        };
        if is_right {
            Ok(())
        } else {
            Err(format!("{kind} because of {cause} is said to be wanted by {who}, who wanted {asked:?}"))
        }
    }
}
