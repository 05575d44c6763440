//! The memory for request bodies, which all connections share: which of them get it, and which of them give way for it.

use std::sync::TryLockError;
use std::sync::atomic::Ordering;
use std::thread;
use std::time::{Duration, Instant};

use super::Slot;
use super::giving_way::{Order, waits_longest};
use super::open_connection::Doing;
use crate::lock::lock;
use crate::transport::head::Broken;

/// The maximum number of bytes of bodies that all requests together may hold. When they are taken, the connection that has waited
/// longest for its body gives way.
const BODIES_BYTES_MAX: usize = 4 * 1024 * 1024;
/// The longest time that a body waits for the memory that it needs.
const BODY_ROOM_LIMIT: Duration = Duration::from_secs(2);

const BODY_ROOM_LOOK: Duration = Duration::from_millis(2);

impl Slot {
    /// Reserves memory for a body of `body_bytes` for the request that is being read.
    ///
    /// # Errors
    /// The memory has not become free in time, because the requests that hold it are being answered, or the connection has given
    /// way.
    pub(in crate::transport) fn takes(&self, body_bytes: usize) -> Result<(), Broken> {
        let (activity, deadline) = (&self.activity, Instant::now() + BODY_ROOM_LIMIT);
        // Of all connections that wait, this one has waited for the shortest time, unless it has already given way.
        if activity.set(Doing::Yields(Instant::now())).gives_way() {
            return Err(Broken::TooManyBodies);
        }
        let is_over = || Instant::now() >= deadline || activity.doing().gives_way();
        // One connection at a time, because connections that wait for memory must not keep the accepting thread from its lock.
        let _turn = loop {
            match self.slots.bodies.try_lock() {
                Ok(turn) => break turn,
                Err(TryLockError::Poisoned(turn)) => break turn.into_inner(),
                Err(TryLockError::WouldBlock) if is_over() => return Err(Broken::TooManyBodies),
                Err(TryLockError::WouldBlock) => thread::sleep(BODY_ROOM_LOOK),
            }
        };
        loop {
            let open = lock(&self.slots.open);
            let held: usize = open.values().map(|occupant| occupant.activity.body_bytes.load(Ordering::SeqCst)).sum();
            if held - activity.body_bytes.load(Ordering::SeqCst) + body_bytes <= BODIES_BYTES_MAX {
                activity.body_bytes.store(body_bytes, Ordering::SeqCst);
                // The connection waits for its client again. If it has just given way, it notices that after it has read what has
                // arrived.
                let _may_give_way = activity.set(Doing::Waits(Instant::now()));
                return Ok(());
            }
            if is_over() {
                return Err(Broken::TooManyBodies);
            }
            let others = open
                .iter()
                .filter(|(number, occupant)| **number != self.number && occupant.activity.body_bytes.load(Ordering::SeqCst) > 0)
                .map(|(_, occupant)| occupant);
            if let Some((seen, occupant)) = waits_longest(others, Order::EQUAL) {
                occupant.give_way(seen, &self.slots.is_hurried);
            }
            let _looked_at_again = self.slots.closed.wait_timeout(open, BODY_ROOM_LOOK);
        }
    }
}
