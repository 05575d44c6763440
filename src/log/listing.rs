//! The segments of a log: the oldest, the newest, the one at a position, and its neighbours.
//!
//! A reader asks for one segment after another, so its cost depends on what it reads, not on the size of the log.

use std::io;
use std::path::PathBuf;
use std::sync::Arc;

use super::segment::{Place, Segment, segments_in};

/// Segments in the order of their positions.
pub type SegmentList = Arc<[Segment]>;

/// The source of a reader. Each result is a snapshot.
pub trait Listing {
    /// Returns the oldest segment.
    fn oldest(&self) -> io::Result<Option<Segment>>;
    /// Returns the last segment that begins at or before `position`, or else the oldest.
    fn holding(&self, position: u64) -> io::Result<Option<Segment>>;
    /// Returns the segment after this place.
    fn after(&self, place: Place) -> io::Result<Option<Segment>>;
    /// Returns the segment before this place.
    fn before(&self, place: Place) -> io::Result<Option<Segment>>;
    /// Drops cached results, because one was outdated.
    fn look_again(&self) {}

    /// Returns the newest segment.
    fn newest(&self) -> io::Result<Option<Segment>> {
        self.holding(u64::MAX)
    }

    /// Returns the position after the last byte; 0 for an empty log.
    fn end(&self) -> io::Result<u64> {
        self.newest()?.map_or(Ok(0), |newest| newest.end())
    }
}

/// A log with few segments, all of which are listed each time.
pub trait ShortLog {
    /// Returns all segments, in order.
    fn segments(&self) -> io::Result<SegmentList>;
}

impl<L: ShortLog> Listing for L {
    fn oldest(&self) -> io::Result<Option<Segment>> {
        Ok(self.segments()?.first().cloned())
    }

    fn holding(&self, position: u64) -> io::Result<Option<Segment>> {
        Ok(holding(&self.segments()?, position).cloned())
    }

    fn after(&self, place: Place) -> io::Result<Option<Segment>> {
        let list = self.segments()?;
        Ok(list.get(list.partition_point(|segment| segment.place() <= place)).cloned())
    }

    fn before(&self, place: Place) -> io::Result<Option<Segment>> {
        let list = self.segments()?;
        Ok(list[..list.partition_point(|segment| segment.place() < place)].last().cloned())
    }
}

impl ShortLog for SegmentList {
    fn segments(&self) -> io::Result<SegmentList> {
        Ok(self.clone())
    }
}

/// See [`Listing::holding`].
pub(super) fn holding(list: &[Segment], position: u64) -> Option<&Segment> {
    list.get(list.partition_point(|segment| segment.start <= position).saturating_sub(1))
}

/// The log of one run.
#[derive(Clone, Debug)]
pub struct RunLog {
    pub(super) run_id: i64,
    pub(super) dir: PathBuf,
}

impl ShortLog for RunLog {
    fn segments(&self) -> io::Result<SegmentList> {
        Ok(segments_in(&self.dir, Some(self.run_id))?.into())
    }
}
