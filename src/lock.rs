//! Locking a mutex.
//!
//! Level 0.

use std::sync::{Mutex, MutexGuard, PoisonError};

/// Locks it, even if a thread panicked while it held it. For values that are changed by calls that cannot panic half-way through a change.
pub fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
