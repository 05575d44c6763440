//! The format of a packed segment: gzip (RFC 1952), so that `zcat` and `zgrep` read it too.
//!
//! Each [`FRAME_BYTES`] of the text are a separate gzip member, so that a reader of one line unpacks only the frame that the line
//! is in. The last member is empty, and its extra field holds the lengths of all other members.

use std::fs::File;
use std::io::{self, Read, Write};
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::path::Path;

use flate2::bufread::GzDecoder;
use flate2::write::GzEncoder;
use flate2::{Compression, GzBuilder};

use crate::private;

/// The length of the text in a frame, in bytes. Only the last frame can be shorter.
pub(super) const FRAME_BYTES: u64 = 128 * 1024;

/// The compression level. Measured on build and training logs: 5.5 to 9 times smaller, at twice the speed of level 6, which is a
/// tenth smaller.
const LEVEL: u32 = 3;

/// The extra field's one subfield (RFC 1952, section 2.3.1.1): its name, and the size of its head, which
/// is the name and a length.
const SUBFIELD: [u8; 2] = *b"AD";
const EXTRA_HEAD: usize = 4;

/// The length of a member's head up to the first byte of its extra field, and an empty text followed by its check.
const HEAD_LEN: usize = 12;
const EMPTY: [u8; 10] = [3, 0, 0, 0, 0, 0, 0, 0, 0, 0];

/// The longest text that can be packed, in bytes. The limit is the size of an extra field, 64 KiB.
pub(super) const TEXT_BYTES_MAX: u64 = FRAME_BYTES * 16_000;

/// Writes the packed form of the first `len` bytes of the file `from` to `to`, and syncs it. Returns false if `goes_on` returned
/// false.
pub(super) fn write_packed(from: &Path, len: u64, to: &Path, goes_on: &mut impl FnMut() -> bool) -> io::Result<bool> {
    let plain = private::open(from)?;
    let mut out = private::create_anew(to)?;
    let (mut text, mut table) = (Vec::new(), Vec::new());
    let mut at = 0;
    while at < len {
        if !goes_on() {
            return Ok(false);
        }
        text.resize(usize::try_from(FRAME_BYTES.min(len - at)).expect("a frame"), 0);
        plain.read_exact_at(&mut text, at)?;
        at += text.len() as u64;
        let mut encoder = GzEncoder::new(Vec::new(), Compression::new(LEVEL));
        encoder.write_all(&text)?;
        let frame = encoder.finish()?;
        table.extend_from_slice(&u32::try_from(frame.len()).expect("a frame is never much longer than its text").to_le_bytes());
        out.write_all(&frame)?;
    }
    let mut extra = Vec::with_capacity(EXTRA_HEAD + table.len());
    extra.extend_from_slice(&SUBFIELD);
    extra.extend_from_slice(&u16::try_from(table.len()).expect("at most 16,000 frames").to_le_bytes());
    extra.extend_from_slice(&table);
    let last = GzBuilder::new().extra(extra).write(Vec::new(), Compression::new(LEVEL)).finish()?;
    out.write_all(&last)?;
    out.sync_all()?;
    Ok(true)
}

#[derive(Debug)]
pub(super) struct PackedFile {
    file: File,
    len: u64,
    /// The offsets in the file at which the frames begin, and the end of the last frame. Empty until they are needed.
    frames: Vec<u64>,
    /// The frame that was last unpacked, and its text.
    current: Option<(usize, Vec<u8>)>,
}

impl PackedFile {
    /// Takes a packed file. `len` is the length of the text according to the file's name.
    pub(super) fn new(file: File, len: u64) -> Self {
        Self { file, len, frames: Vec::new(), current: None }
    }

    pub(super) fn len(&self) -> u64 {
        self.len
    }

    /// Returns the range of the text in the frame at this offset.
    pub(super) fn frame_at(&self, offset: u64) -> Range<u64> {
        let start = offset / FRAME_BYTES * FRAME_BYTES;
        start..(start + FRAME_BYTES).min(self.len)
    }

    pub(super) fn read_at(&mut self, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
        if offset >= self.len || buffer.is_empty() {
            return Ok(0);
        }
        let n = usize::try_from(offset / FRAME_BYTES).map_err(|_| damaged("a position is out of range"))?;
        if self.current.as_ref().is_none_or(|(current, _)| *current != n) {
            self.current = Some((n, self.unpack(n)?));
        }
        let Some((_, text)) = &self.current else { return Err(damaged("no frame")) };
        let within = usize::try_from(offset % FRAME_BYTES).expect("a frame");
        let rest = text.get(within..).unwrap_or_default();
        let count = rest.len().min(buffer.len());
        buffer[..count].copy_from_slice(&rest[..count]);
        Ok(count)
    }

    fn unpack(&mut self, n: usize) -> io::Result<Vec<u8>> {
        if self.frames.is_empty() {
            self.frames = self.read_table()?;
        }
        let begin = n as u64 * FRAME_BYTES;
        let wanted = usize::try_from(FRAME_BYTES.min(self.len - begin)).expect("a frame");
        let (Some(&from), Some(&to)) = (self.frames.get(n), self.frames.get(n + 1)) else { return Err(damaged("its table")) };
        // No frame is longer than this, so a damaged table cannot make the server allocate more.
        let len = usize::try_from(to - from).ok().filter(|&len| len <= 2 * wanted + 1024).ok_or_else(|| damaged("its table"))?;
        let mut frame = vec![0; len];
        self.file.read_exact_at(&mut frame, from).map_err(|error| match error.kind() {
            io::ErrorKind::UnexpectedEof => damaged("its end is missing"),
            _ => error,
        })?;
        let mut text = Vec::with_capacity(wanted);
        GzDecoder::new(&frame[..]).take(wanted as u64 + 1).read_to_end(&mut text).map_err(|error| damaged(&error.to_string()))?;
        if text.len() == wanted { Ok(text) } else { Err(damaged("a frame has the wrong length")) }
    }

    fn read_table(&self) -> io::Result<Vec<u64>> {
        // The length comes from the file's name, which may be any name.
        let count = Some(self.len).filter(|&len| len <= TEXT_BYTES_MAX).map(|len| len.div_ceil(FRAME_BYTES));
        let count = count.and_then(|count| usize::try_from(count).ok()).ok_or_else(|| damaged("its name"))?;
        let last_len = HEAD_LEN + EXTRA_HEAD + 4 * count + EMPTY.len();
        let file_len = self.file.metadata()?.len();
        let from = file_len.checked_sub(last_len as u64).ok_or_else(|| damaged("its end is missing"))?;
        let mut last = vec![0; last_len];
        self.file.read_exact_at(&mut last, from)?;
        let is_ours = last.starts_with(&[0x1f, 0x8b, 8, 4])
            && last[HEAD_LEN..HEAD_LEN + 2] == SUBFIELD
            && usize::from(u16::from_le_bytes([last[HEAD_LEN + 2], last[HEAD_LEN + 3]])) == 4 * count
            && last.ends_with(&EMPTY);
        if !is_ours {
            return Err(damaged("it has no frame table at its end"));
        }
        let mut frames = vec![0];
        let mut at = 0;
        for entry in last[HEAD_LEN + EXTRA_HEAD..][..4 * count].chunks_exact(4) {
            at += u64::from(u32::from_le_bytes(entry.try_into().expect("four bytes")));
            frames.push(at);
        }
        if at == from { Ok(frames) } else { Err(damaged("its table")) }
    }
}

fn damaged(what: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, format!("a packed log segment is damaged: {what}"))
}
