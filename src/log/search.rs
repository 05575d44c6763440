//! A search through one run's log, from a position on: the first matching lines, and the number of all matching lines.
//!
//! Each call searches a limited part and returns where the next one must begin, so that a client can search the whole log in
//! several calls and other requests do not have to wait for it.

use std::io;
use std::time::{Duration, Instant};

use super::cursor::{Cursor, Item, RawLine};
use super::listing::Listing;
use super::pattern::{Pattern, seen};
use super::record::{HEAD_LEN, Stream};
use crate::api::logs::Match;

/// The longest line that is listed, in characters. Of a longer line, the part around the first hit is listed.
const LISTED_CHARS_MAX: usize = 500;

/// The limits of one call. It stops after the line with which it reaches one of them.
#[derive(Clone, Copy, Debug)]
pub struct Turn {
    /// How much of the log it reads, in bytes.
    pub bytes: u64,
    /// How long it runs.
    pub time: Duration,
}

/// The limits of the search for one response.
pub const SEARCH_TURN: Turn = Turn { bytes: 16 * 1024 * 1024, time: Duration::from_millis(300) };

/// The parameters of a search.
#[derive(Clone, Copy, Debug)]
pub struct Search<'p> {
    /// Only lines with an id above this one.
    pub since: u64,
    /// The end of the log, if nothing will be added to it.
    pub end: Option<u64>,
    /// Only lines of this stream.
    pub stream: Option<Stream>,
    /// The pattern that a line must match.
    pub pattern: &'p Pattern,
    /// The most matches to list. All are counted.
    pub limit: usize,
}

/// The result of one call.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Found {
    /// The first matching lines, oldest first.
    pub matches: Vec<Match>,
    /// How many lines match.
    pub count: u64,
    /// How many lines were searched.
    pub lines: u64,
    /// The `since` of the next call.
    pub next: u64,
    /// Whether the log was searched to its current end.
    pub is_at_end: bool,
}

impl Search<'_> {
    /// Searches for one turn, but at least one line.
    pub fn run(&self, log: &dyn Listing, turn: Turn) -> io::Result<Found> {
        let began = Instant::now();
        let mut cursor = Cursor::until(log, self.since, self.end);
        let mut found = Found { next: self.since, ..Found::default() };
        let mut bytes = 0;
        while bytes < turn.bytes && (found.next == self.since || began.elapsed() < turn.time) {
            match cursor.next()? {
                Some(Item::Line(line)) => {
                    found.next = line.id;
                    bytes += (HEAD_LEN + line.text.len() + 1) as u64;
                    if line.is_of(self.stream) {
                        self.look(&line, &mut found);
                    }
                }
                Some(Item::Gone { to, .. }) => found.next = to,
                None => {
                    found.next = cursor.position();
                    found.is_at_end = true;
                    break;
                }
            }
        }
        Ok(found)
    }

    fn look(&self, line: &RawLine<'_>, found: &mut Found) {
        found.lines += 1;
        let text = seen(line.text);
        if found.matches.len() >= self.limit {
            found.count += u64::from(self.pattern.is_in(&text));
        } else if let Some(hit) = self.pattern.first_in(&text) {
            found.count += 1;
            found.matches.push(Match {
                id: line.id,
                at: line.head.map(|(at, _)| at),
                stream: line.head.and_then(|(_, stream)| stream.name()),
                line: around(&text, hit.start, text[hit].chars().count()).to_owned(),
                partial: line.goes_on,
            });
        }
    }
}

/// Returns the part of a text around a hit that begins at byte `at` and has `hit_chars` characters. The hit is in the middle, or
/// at the beginning if it is too long.
fn around(text: &str, at: usize, hit_chars: usize) -> &str {
    let room = LISTED_CHARS_MAX.saturating_sub(hit_chars) / 2;
    let chars_before =
        |end: usize, count: usize| text[..end].char_indices().rev().take(count).last().map_or(end, |(start, _)| start);
    let chars_behind = |start: usize| text[start..].char_indices().nth(LISTED_CHARS_MAX).map(|(len, _)| start + len);
    let start = chars_before(at, room);
    match chars_behind(start) {
        Some(end) => &text[start..end],
        // The text ends earlier, so there is more room before the hit.
        None => &text[chars_before(text.len(), LISTED_CHARS_MAX)..],
    }
}
