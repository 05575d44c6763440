//! The limits on connections: in all, per kind of client, and per address.

use std::net::IpAddr;

use rustix::process::{Resource, getrlimit};

use super::reach::{Reach, network_of};

/// The maximum number of connections. When all slots are taken, the connection that has waited longest for its client gives way.
pub(super) const CONNECTIONS_MAX: usize = 512;
/// The minimum of that number, if descriptors are scarce.
pub(super) const CONNECTIONS_MIN: usize = 16;
/// One in this many slots is reserved for the owner's socket, one for this machine, and one for all others. No other kind of
/// client can take these slots.
const OWN_PLACE_IN: usize = 64;
/// The minimum number of slots that are reserved for each kind. An owner who follows the log at the Unix socket can still read
/// and act there.
const OWN_MIN: usize = 4;
/// One in this many descriptors is for files that clients read for a long time: for streams, waits for log lines, and downloads.
const FILE_IN: usize = 5;
const FILES_MIN: usize = 16;
const FILES_MAX: usize = 160;
/// The descriptors that are left for the rest of the server, which needs them to read logs and the database.
pub(super) const OWN_DESCRIPTORS: u64 = 64;
/// With fewer descriptors than this, the limits in this module do not hold: connections alone may take them all.
pub const DESCRIPTORS_MIN: u64 = 128;
/// For each group of this many connections, one more is admitted while those that gave way are still ending, or while all are
/// being answered. Beyond that, a new connection waits, and is refused if no slot becomes free.
pub(super) const ONE_MORE_IN: usize = 8;
/// The maximum number of connections from one address of another machine, normally and if descriptors are scarce. Here too, the
/// one that has waited longest gives way.
pub(super) const FROM_ONE_ADDRESS_MAX: usize = 64;
const FROM_ONE_ADDRESS_MIN: usize = 8;

/// A group of clients that share a limit on connections.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Peer {
    /// The owner of this server, at a socket that no other user can open.
    Owner,
    /// A program on this machine.
    Local,
    /// Another machine, identified by the part of its address that counts as one client ([`network_of`]).
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

    /// Returns the number of the client's kind, from 0. Each kind has slots that no other kind can take.
    pub(super) const fn kind(self) -> usize {
        match self {
            Self::Owner => 0,
            Self::Local => 1,
            Self::Remote(_) => 2,
        }
    }
}

pub(super) const KINDS: usize = 3;

/// The limits on the number of connections.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Limits {
    /// Slots for any kind of client, in addition to the reserved ones.
    pub(super) shared: usize,
    pub(super) own: usize,
    pub(super) of_one_address: usize,
}

impl Limits {
    /// Returns the current limits. The limit on descriptors can change while the server runs (`prlimit(1)`).
    pub(super) fn now() -> Self {
        Self::of(getrlimit(Resource::Nofile).current.unwrap_or(u64::MAX))
    }

    pub(super) fn of(descriptors: u64) -> Self {
        let rest = OWN_DESCRIPTORS + files_of(descriptors) as u64;
        let descriptors = usize::try_from(descriptors.saturating_sub(rest)).unwrap_or(usize::MAX);
        // Besides the slots, there are connections admitted beyond them, and waiting connections of each kind: an eighth of the
        // slots each.
        let all = (descriptors - descriptors / 3).clamp(CONNECTIONS_MIN, CONNECTIONS_MAX);
        let own = (all / OWN_PLACE_IN).max(OWN_MIN);
        let of_one_address = (all / ONE_MORE_IN).clamp(FROM_ONE_ADDRESS_MIN, FROM_ONE_ADDRESS_MAX);
        Self { shared: all - KINDS * own, own, of_one_address }
    }

    /// Returns how many new connections may wait for a slot: from the same address, and of the same kind.
    pub(super) fn waiting(self, peer: Peer) -> (usize, usize) {
        let of_a_kind = (self.shared / ONE_MORE_IN).max(1);
        match peer {
            Peer::Owner | Peer::Local => (of_a_kind, of_a_kind),
            Peer::Remote(_) => ((self.of_one_address / ONE_MORE_IN).max(1), of_a_kind),
        }
    }
}

/// Returns the limit on descriptors, if it is below [`DESCRIPTORS_MIN`].
pub fn scarce_descriptors() -> Option<u64> {
    getrlimit(Resource::Nofile).current.filter(|limit| *limit < DESCRIPTORS_MIN)
}

/// Returns how many descriptors are for files that clients read for a long time.
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

/// The rank of a client, which decides whether it gets one of the last places for long requests.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rank {
    /// A client that is not an operator.
    Viewer,
    /// An operator.
    Operator,
    /// The owner at the Unix socket.
    Owner,
}

impl LongRequests {
    /// Returns how many long requests of all clients there may be when one of this rank is admitted. Viewers leave some places to
    /// operators, and operators leave some to the owner.
    pub fn now(rank: Rank) -> Self {
        Self::of(getrlimit(Resource::Nofile).current.unwrap_or(u64::MAX), rank)
    }

    pub(super) fn of(descriptors: u64, rank: Rank) -> Self {
        let files = files_of(descriptors);
        let Limits { shared, own, .. } = Limits::of(descriptors);
        // The slots available to one kind of client. Long requests get only part of them, so that for a new client there is
        // always a connection that gives way.
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
