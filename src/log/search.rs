//! A search through one run's log, from a position on: the first lines that match, and how many there are.
//!
//! Each call searches a limited part and says where the next one must begin, so that a client can search the whole log in several calls and
//! other requests do not have to wait for it.

use std::io;
use std::time::{Duration, Instant};

use super::cursor::{Cursor, Item, RawLine};
use super::listing::Listing;
use super::pattern::{Pattern, seen};
use super::record::{HEAD_LEN, Stream};
use crate::api::logs::Match;

/// The longest line that is listed, in characters; of a longer one, the part around the first hit is.
const LISTED_CHARS_MAX: usize = 500;

/// How much one call does. It stops behind the line with which it has done either.
#[derive(Clone, Copy, Debug)]
pub struct Turn {
    /// How much of the log it reads, in bytes.
    pub bytes: u64,
    /// How long it works.
    pub time: Duration,
}

/// The turn of one answer.
pub const SEARCH_TURN: Turn = Turn { bytes: 16 * 1024 * 1024, time: Duration::from_millis(300) };

/// What is searched for, and where.
#[derive(Clone, Copy, Debug)]
pub struct Search<'p> {
    /// In lines with an id above this.
    pub since: u64,
    /// Where the log ends, if nothing is added to it any more.
    pub end: Option<u64>,
    /// Only in lines of this stream.
    pub stream: Option<Stream>,
    /// What a line must match.
    pub pattern: &'p Pattern,
    /// The most matches to list. All are counted.
    pub limit: usize,
}

/// What one call has found.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Found {
    /// The first lines that match, oldest first.
    pub matches: Vec<Match>,
    /// How many lines match.
    pub count: u64,
    /// How many lines were searched.
    pub lines: u64,
    /// The `since` that goes on.
    pub next: u64,
    /// Whether the log was searched to its present end.
    pub is_at_end: bool,
}

impl Search<'_> {
    /// Searches for one turn: at least one line.
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

/// The part of a text around a hit, which begins at byte `at` and has so many characters: the hit is in the middle, or, where it is too long, at
/// the beginning.
fn around(text: &str, at: usize, hit_chars: usize) -> &str {
    let room = LISTED_CHARS_MAX.saturating_sub(hit_chars) / 2;
    let chars_before =
        |end: usize, count: usize| text[..end].char_indices().rev().take(count).last().map_or(end, |(start, _)| start);
    let chars_behind = |start: usize| text[start..].char_indices().nth(LISTED_CHARS_MAX).map(|(len, _)| start + len);
    let start = chars_before(at, room);
    match chars_behind(start) {
        Some(end) => &text[start..end],
        // The text ends before that, so there is more room in front.
        None => &text[chars_before(text.len(), LISTED_CHARS_MAX)..],
    }
}
