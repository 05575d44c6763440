//! How many connections there may be: in all, of each kind of client, and from one address.

use std::net::IpAddr;

use rustix::process::{Resource, getrlimit};

use super::reach::{Reach, network_of};

/// The most connections at once. When all are taken, the one that has waited longest for its client gives way.
pub(super) const CONNECTIONS_MAX: usize = 512;
/// The fewest, if descriptors are scarce.
pub(super) const CONNECTIONS_MIN: usize = 16;
/// One in this many is kept for the owner's socket, one for this machine, and one for all others: no other kind of client can take those.
const OWN_PLACE_IN: usize = 64;
/// The minimum number of each: an owner who follows the log at the Unix socket can still read and act there.
const OWN_MIN: usize = 4;
/// One descriptor in this many is for files that clients read for a long time: for streams, waits for log lines, and downloads.
const FILE_IN: usize = 5;
const FILES_MIN: usize = 16;
const FILES_MAX: usize = 160;
/// The descriptors that are left for the rest of the server, which needs them to read logs and the database.
pub(super) const OWN_DESCRIPTORS: u64 = 64;
/// With fewer descriptors than this, the limits here do not hold: connections alone may take them all.
pub const DESCRIPTORS_MIN: u64 = 128;
/// One more for each this many connections is admitted while those that gave way are still ending, or all are being answered. Beyond that a
/// new connection waits, and is refused in the end.
pub(super) const ONE_MORE_IN: usize = 8;
/// The most connections from one address of another machine, normally and if descriptors are scarce. As everywhere, the one that
/// has waited longest gives way.
pub(super) const FROM_ONE_ADDRESS_MAX: usize = 64;
const FROM_ONE_ADDRESS_MIN: usize = 8;

/// The clients that share a limit of connections.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Peer {
    /// The owner of this server, at a socket that no other user can open.
    Owner,
    /// A program on this machine.
    Local,
    /// Another machine, by what counts as one address ([`network_of`]).
    Remote(IpAddr),
}

impl Peer {
    pub(super) fn at(reach: Reach, from: IpAddr) -> Self {
        match reach {
            Reach::Socket => Self::Owner,
            Reach::Loopback | Reach::Network if from.is_loopback() => Self::Local,
            Reach::Loopback | Reach::Network => Self::Remote(network_of(from)),
        }
    }

    /// Each kind has slots that no other kind can take.
    pub(super) const fn kind(self) -> usize {
        match self {
            Self::Owner => 0,
            Self::Local => 1,
            Self::Remote(_) => 2,
        }
    }
}

pub(super) const KINDS: usize = 3;

/// How many connections there may be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Limits {
    /// Of any kind, beside the limits of their own.
    pub(super) shared: usize,
    pub(super) own: usize,
    pub(super) of_one_address: usize,
}

impl Limits {
    /// The limit of descriptors may change while the server runs (`prlimit(1)`).
    pub(super) fn now() -> Self {
        Self::of(getrlimit(Resource::Nofile).current.unwrap_or(u64::MAX))
    }

    pub(super) fn of(descriptors: u64) -> Self {
        let rest = OWN_DESCRIPTORS + files_of(descriptors) as u64;
        let descriptors = usize::try_from(descriptors.saturating_sub(rest)).unwrap_or(usize::MAX);
        // Besides the slots there are connections admitted beyond them, and waiting connections of each kind: an eighth of that each.
        let all = (descriptors - descriptors / 3).clamp(CONNECTIONS_MIN, CONNECTIONS_MAX);
        let own = (all / OWN_PLACE_IN).max(OWN_MIN);
        let of_one_address = (all / ONE_MORE_IN).clamp(FROM_ONE_ADDRESS_MIN, FROM_ONE_ADDRESS_MAX);
        Self { shared: all - KINDS * own, own, of_one_address }
    }

    /// How many new connections may wait for a slot: of the same address, and of the same kind.
    pub(super) fn waiting(self, peer: Peer) -> (usize, usize) {
        let of_a_kind = (self.shared / ONE_MORE_IN).max(1);
        match peer {
            Peer::Owner | Peer::Local => (of_a_kind, of_a_kind),
            Peer::Remote(_) => ((self.of_one_address / ONE_MORE_IN).max(1), of_a_kind),
        }
    }
}

/// The limit of descriptors, if it is below [`DESCRIPTORS_MIN`].
pub fn scarce_descriptors() -> Option<u64> {
    getrlimit(Resource::Nofile).current.filter(|limit| *limit < DESCRIPTORS_MIN)
}

/// How many descriptors are for files that clients read for a long time.
fn files_of(descriptors: u64) -> usize {
    usize::try_from(descriptors).unwrap_or(usize::MAX).div_euclid(FILE_IN).clamp(FILES_MIN, FILES_MAX)
}

/// The maximum numbers of concurrent requests that occupy a connection and a file for a long time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LongRequests {
    /// Event streams.
    pub streams: usize,
    /// Requests that wait for lines of the log.
    pub waits: usize,
    /// Logs sent as text.
    pub downloads: usize,
}

/// Whose request it is, where places are few.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rank {
    /// A client that is no operator.
    Viewer,
    /// An operator.
    Operator,
    /// The owner at the Unix socket.
    Owner,
}

impl LongRequests {
    /// Returns how many of all clients' requests there may be for one of this rank to be admitted: viewers leave operators some
    /// places, and operators leave the owner some.
    pub fn now(rank: Rank) -> Self {
        Self::of(getrlimit(Resource::Nofile).current.unwrap_or(u64::MAX), rank)
    }

    pub(super) fn of(descriptors: u64, rank: Rank) -> Self {
        let files = files_of(descriptors);
        let Limits { shared, own, .. } = Limits::of(descriptors);
        // The slots available to one kind of client. Long requests get part of them, so that a new client finds a slot that gives
        // way.
        let of_one_kind = shared + own;
        let part = |files: usize, slots: usize| {
            let all = files.min(slots).max(2);
            let some = (all / ONE_MORE_IN).max(1);
            match rank {
                Rank::Viewer => all - some,
                Rank::Operator => all,
                Rank::Owner => all + some,
            }
        };
        Self {
            streams: part(files * 2 / 5, of_one_kind / 2),
            waits: part(files * 2 / 5, usize::MAX),
            downloads: part(files / 10, of_one_kind / 4),
        }
    }
}
