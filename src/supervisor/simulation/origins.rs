//! Who wants what: each simulated request has an origin of its own, and the history must name the right one everywhere.

use crate::pipeline::{Action, Origin, Peer};

/// What was asked for, by the user id that stands for the request.
#[derive(Default)]
pub(super) struct Origins(Vec<Action>);

impl Origins {
    /// The origin of a new request.
    pub(super) fn of_new(&mut self, action: Action) -> Origin {
        self.0.push(action);
        Origin::operator(Peer::Uid(u32::try_from(self.0.len()).expect("few requests")))
    }

    /// Whether a recorded event can have come from whom it names: `who` is a user id, the word of another origin, or `-`.
    pub(super) fn judge(&self, kind: &str, cause: &str, who: &str) -> Result<(), String> {
        let asked = who.parse().ok().and_then(|uid: usize| self.0.get(uid.checked_sub(1)?));
        let is_right = match (kind, cause) {
            ("starting", "request") | ("spawned", _) => asked == Some(&Action::Start),
            ("paused", "request") => asked == Some(&Action::Pause),
            // A stop lets a paused run go on.
            ("resumed", "request") => matches!(asked, Some(Action::Resume | Action::Stop)) || who == "signal",
            ("stopping", _) | ("exited", "request") => asked == Some(&Action::Stop) || who == "signal",
            // From the shim, or found out by a server.
            ("spawn_failed", _) => asked == Some(&Action::Start) || who == "-",
            // A fact that a server found behind the end that it had given up to changes nothing, so it has no cause.
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
