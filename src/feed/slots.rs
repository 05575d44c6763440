//! The limits on streams and waiting requests, and how the slots of clients that have left become free.
//!
//! A closed page keeps its slot until something is written to it. So if all slots are taken, every follower is asked to check
//! whether its client is still connected.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::Duration;

use super::waker::Waker;
use crate::lock::lock;
use crate::transport::{Client, LongRequests};

/// How long a new stream waits for a slot if all are taken. In this time followers check their clients.
const SLOT_LIMIT: Duration = Duration::from_millis(500);

/// The slots of a server.
#[derive(Debug)]
pub(super) struct Slots {
    waker: Arc<Waker>,
    streams: Mutex<usize>,
    /// Notified when a stream has ended.
    freed: Condvar,
    /// Its reference count is one more than the number of requests that wait.
    waiting: Mutex<Arc<()>>,
    /// How often followers were asked to check their clients.
    checks: AtomicU64,
}

/// The slot of a stream.
#[derive(Debug)]
pub(super) struct StreamSlot(Arc<Slots>);

/// The checks that a follower has made.
#[derive(Debug)]
pub(super) struct Checked(u64);

impl Slots {
    pub(super) fn new(waker: Arc<Waker>) -> Self {
        Self { waker, streams: Mutex::new(0), freed: Condvar::new(), waiting: Mutex::default(), checks: AtomicU64::new(0) }
    }

    /// Takes a slot for a stream; `None` if all are taken. If no slot is free, the other streams first check whether their
    /// clients have left. Some slots are reserved for operators. While a request waits, its connection gives way to new ones.
    pub(super) fn take(self: &Arc<Self>, client: &Client<'_>) -> Option<StreamSlot> {
        self.take_of(LongRequests::now(client.rank()).streams, client)
    }

    fn take_of(self: &Arc<Self>, most: usize, client: &Client<'_>) -> Option<StreamSlot> {
        let mut streams = lock(&self.streams);
        if *streams >= most {
            self.ask_for_checks();
            let awaits = |streams: &mut usize| *streams >= most && !client.gives_way();
            let wait = || self.freed.wait_timeout_while(streams, SLOT_LIMIT, awaits).unwrap_or_else(PoisonError::into_inner).0;
            streams = client.idle(wait);
        }
        if *streams >= most {
            return None;
        }
        *streams += 1;
        Some(StreamSlot(self.clone()))
    }

    /// Returns a slot for a request that waits, and whether more requests wait than the limit allows.
    pub(super) fn begin_to_wait(&self, client: &Client<'_>) -> (Arc<()>, bool) {
        // Counted and taken under the lock, so that only one of two simultaneous requests gets the last slot.
        let (slot, is_crowded) = {
            let waiting = lock(&self.waiting);
            (waiting.clone(), Arc::strong_count(&waiting) > 1 + LongRequests::now(client.rank()).waits)
        };
        if is_crowded {
            self.ask_for_checks();
        }
        (slot, is_crowded)
    }

    /// Returns the checks that were requested so far.
    pub(super) fn checked(&self) -> Checked {
        Checked(self.checks.load(Ordering::SeqCst))
    }

    /// Returns whether a check was requested since `checked`, and counts it as made.
    pub(super) fn is_check_due(&self, checked: &mut Checked) -> bool {
        let now = self.checked();
        std::mem::replace(&mut checked.0, now.0) != now.0
    }

    /// Wakes the streams that wait for a slot, because a connection gives way.
    pub(super) fn hurry(&self) {
        // A waiter holds the lock from its check until it waits, so it cannot miss the notification.
        drop(lock(&self.streams));
        self.freed.notify_all();
    }

    pub(super) fn ask_for_checks(&self) {
        self.checks.fetch_add(1, Ordering::SeqCst);
        self.waker.wake();
    }
}

impl Drop for StreamSlot {
    fn drop(&mut self) {
        *lock(&self.0.streams) -= 1;
        self.0.freed.notify_one();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::transport::Rank;

    #[test]
    fn stream_without_a_slot_wakes_the_others_to_check_their_clients() {
        let waker = Arc::new(Waker::default());
        let slots = Arc::new(Slots::new(waker.clone()));
        let mut taken: Vec<_> = (0..LongRequests::now(Rank::Viewer).streams)
            .map(|_| slots.take(&Client::patient(None)).expect("there are as many"))
            .collect();
        let (mut checked, seen) = (slots.checked(), waker.seen());
        assert!(slots.take(&Client::patient(None)).is_none());
        assert!(slots.is_check_due(&mut checked) && !slots.is_check_due(&mut checked), "each follower checks once");
        assert_ne!(waker.seen(), seen, "or they would sleep on");
        let of_operators = LongRequests::now(Rank::Operator).streams;
        assert!(slots.take_of(of_operators, &Client::patient(None)).is_some(), "some are operators' alone");
        taken.pop();
        assert!(slots.take(&Client::patient(None)).is_some(), "a slot that became free");
    }

    #[test]
    fn stream_gets_the_slot_that_becomes_free_while_it_waits() {
        let slots = Arc::new(Slots::new(Arc::new(Waker::default())));
        let take = || slots.take_of(1, &Client::patient(None));
        let gets_it = || {
            let taken = take().expect("none is taken");
            let mut checked = slots.checked();
            std::thread::scope(|scope| {
                let waits = scope.spawn(take);
                // Requested while the stream holds the lock, which is free once the stream waits.
                while !slots.is_check_due(&mut checked) {
                    std::thread::yield_now();
                }
                drop(taken);
                waits.join().expect("it only waits").is_some()
            })
        };
        // On a slow machine the stream can stop waiting first.
        assert!((0..100).any(|_| gets_it()), "it does not wait");
    }

    #[test]
    fn stream_waiting_for_a_slot_yields_its_connection() {
        let slots = Arc::new(Slots::new(Arc::new(Waker::default())));
        let _taken = slots.take_of(1, &Client::patient(None)).expect("none is taken");
        let gives_way = || {
            Client::with_connection(|client, have_it_give_way| {
                std::thread::scope(|scope| {
                    let waits = scope.spawn(|| slots.take_of(1, client).is_none());
                    while !waits.is_finished() {
                        have_it_give_way();
                        slots.hurry();
                        std::thread::yield_now();
                    }
                    assert!(waits.join().expect("it only waits"), "it has no slot");
                });
                client.gives_way()
            })
        };
        // On a slow machine the stream can stop waiting first.
        assert!((0..20).any(|_| gives_way()), "it keeps its connection's slot");
    }
}
