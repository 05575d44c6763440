//! The open connections: what each one is doing and what it holds, and how a connection is made to give way.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Instant;

use rustix::net::Shutdown;

use crate::lock::lock;
use crate::transport::limits::Peer;
use crate::transport::listener::Stream;

/// An open connection, as the other threads see it.
pub(super) struct OpenConnection {
    pub(super) stream: Arc<Stream>,
    pub(super) peer: Peer,
    pub(super) activity: Arc<Activity>,
}

/// The activity of a connection, and what it holds.
pub(super) struct Activity {
    pub(super) doing: Mutex<Doing>,
    /// Whether its latest request came from an operator.
    pub(super) is_operator: AtomicBool,
    /// The size of the request body for which the connection holds memory, in bytes.
    pub(super) body_bytes: AtomicUsize,
    /// Whether the next response is its last, because other clients wait for a slot.
    pub(super) is_at_last_answer: AtomicBool,
}

/// The activity of a connection and, where it matters, since when.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Doing {
    /// It waits for a request.
    Waits(Instant),
    /// Its request is being answered.
    Works,
    /// It waits for its client to receive a response.
    Writes(Instant),
    /// It was made to give way while it waited, and its thread has not noticed yet. Nothing more is received; a request that has
    /// already arrived is answered.
    GivesWay,
    /// It was made to give way while its client received nothing. Nothing more is sent.
    Leaves,
    /// Its request waits for a change or for its turn. It can be answered at any time, with the unchanged state or a refusal.
    Idles(Instant),
    /// It sends a response of unknown length, such as an event stream, which began at this time, and waits for more to send.
    Follows(Instant),
    /// It waits for memory for a body, or discards what the client sends after the last response. It gives way even if unread
    /// bytes have arrived.
    Yields(Instant),
}

impl Doing {
    pub(super) fn gives_way(self) -> bool {
        matches!(self, Self::GivesWay | Self::Leaves)
    }
}

impl Activity {
    pub(super) fn is_operator(&self) -> bool {
        self.is_operator.load(Ordering::Relaxed)
    }

    pub(super) fn doing(&self) -> Doing {
        *lock(&self.doing)
    }

    pub(super) fn is_at_last_answer(&self) -> bool {
        self.is_at_last_answer.load(Ordering::Relaxed)
    }

    /// Changes what it is doing, and returns what it was doing before. A connection that gave way keeps that state; only
    /// [`Doing::GivesWay`] can become [`Doing::Works`].
    pub(super) fn set(&self, new: Doing) -> Doing {
        let mut doing = lock(&self.doing);
        let before = *doing;
        let stays = match before {
            Doing::Waits(_) | Doing::Works | Doing::Writes(_) | Doing::Idles(_) | Doing::Follows(_) | Doing::Yields(_) => false,
            Doing::GivesWay => new != Doing::Works,
            Doing::Leaves => true,
        };
        if !stays {
            *doing = new;
        }
        before
    }
}

impl OpenConnection {
    /// Checks whether its client has disconnected and its thread only has to notice that.
    pub(super) fn ends(&self) -> bool {
        matches!(self.activity.doing(), Doing::Waits(_) | Doing::Yields(_)) && self.stream.is_left()
    }

    /// Ends the connection if it is still doing what was `seen`. A thread that is reading or writing wakes up and ends; a thread
    /// that waits for something else must be woken ([`Slots::has_hurried`](super::Slots::has_hurried)).
    pub(super) fn give_way(&self, seen: Doing, is_hurried: &AtomicBool) {
        // A request that has already been read, or has arrived since `seen` was read, is still answered.
        let (new, how) = match seen {
            Doing::Waits(_) | Doing::Idles(_) | Doing::Follows(_) | Doing::Yields(_) => (Doing::GivesWay, Shutdown::Read),
            Doing::Works | Doing::Writes(_) | Doing::GivesWay | Doing::Leaves => (Doing::Leaves, Shutdown::Both),
        };
        let mut doing = lock(&self.activity.doing);
        if *doing != seen {
            return;
        }
        *doing = new;
        drop(doing);
        // This fails if the client has closed the connection in the meantime; then there is nothing left to do.
        let _closed = rustix::net::shutdown(&self.stream, how);
        if matches!(seen, Doing::Idles(_) | Doing::Follows(_)) {
            is_hurried.store(true, Ordering::SeqCst);
        }
    }
}
