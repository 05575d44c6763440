//! The memory for request bodies, which all connections share: who gets it, and who gives way for it.

use std::sync::TryLockError;
use std::sync::atomic::Ordering;
use std::thread;
use std::time::{Duration, Instant};

use super::Slot;
use super::giving_way::{Order, waits_longest};
use super::occupant::Doing;
use crate::lock::lock;
use crate::transport::head::Broken;

/// What all requests together may hold of bodies, in bytes. When it is taken, the one whose body has been waited for longest gives way.
const BODIES_BYTES_MAX: usize = 4 * 1024 * 1024;
/// How long a body waits at most for the memory that it needs.
const BODY_ROOM_LIMIT: Duration = Duration::from_secs(2);

const BODY_ROOM_LOOK: Duration = Duration::from_millis(2);

impl Slot {
    /// The request that is being read has a body of so many bytes.
    ///
    /// # Errors
    /// There is no room for that: all that is held belongs to requests that are being answered.
    pub(in crate::transport) fn takes(&self, body_bytes: usize) -> Result<(), Broken> {
        let (activity, deadline) = (&self.activity, Instant::now() + BODY_ROOM_LIMIT);
        // It is the newest of those that are waited for, unless it has given way already.
        if activity.set(Doing::Yields(Instant::now())).gives_way() {
            return Err(Broken::TooManyBodies);
        }
        let is_over = || Instant::now() >= deadline || activity.doing().gives_way();
        // One at a time: those that wait for memory must not keep the accepting thread from its lock.
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
                // Its client is waited for again. If it has given way just now, it finds out when it has read what has come.
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
