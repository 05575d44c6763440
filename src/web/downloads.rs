//! A limit on the logs that are being sent as text.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use super::error::ApiError;

/// The most of them at once: each keeps a thread, a descriptor, and some hundred KiB.
const DOWNLOADS_MAX: usize = 16;

/// How many of them are on their way.
#[derive(Debug, Default)]
pub(super) struct Downloads(Arc<AtomicUsize>);

/// One of them.
pub(super) struct Place(Arc<AtomicUsize>);

impl Downloads {
    pub(super) fn take_place(&self) -> Result<Place, ApiError> {
        let place = Place(self.0.clone());
        if place.0.fetch_add(1, Ordering::SeqCst) >= DOWNLOADS_MAX { Err(ApiError::TooManyDownloads) } else { Ok(place) }
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::SeqCst);
    }
}
