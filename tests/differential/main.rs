//! Compares how this parser and h11 read requests. `record_h11.py` has written h11's verdicts on the same bytes to `h11.txt`.
//!
//! For each request of a stream, the comparison covers whether it is accepted, its method, target, fields and body, whether the
//! connection stays open, and where the next request begins. If two readers of one connection disagree about the last, requests
//! can be smuggled. Each difference from h11 has a row in [`differences::LIST`] with the section that explains it. A difference
//! without a row fails the test, and so does a row without a difference.

mod differences;
mod draft;
mod generate;

use std::collections::BTreeMap;
use std::fs;
use std::io::Write;
use std::path::Path;

use autoappdev::transport::BODY_BYTES_MAX;
use autoappdev::transport::fuzzing::{Chunks, Framing, parse};

/// One request as a parser read it. Parts that are only compared are stored as hashes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Read {
    pub(crate) method: u16,
    pub(crate) target: u16,
    pub(crate) fields: u16,
    pub(crate) body: u16,
    pub(crate) goes_on: bool,
    /// The position at which the next request begins.
    pub(crate) next: usize,
}

/// The end of the reading, after the last request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum End {
    Refused,
    WaitsForMore,
    Closed,
}

/// The reading of everything that arrived on a connection.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Reading {
    pub(crate) requests: Vec<Read>,
    pub(crate) end: End,
}

/// FNV-1a, folded to 16 bits, as in `record_h11.py`.
fn fnv(bytes: &[u8]) -> u16 {
    let value = bytes.iter().fold(0x811c_9dc5_u32, |value, byte| (value ^ u32::from(*byte)).wrapping_mul(0x0100_0193));
    u16::try_from((value >> 16) ^ (value & 0xffff)).expect("sixteen bits")
}

/// Reads the bytes with our parser and decoder, as a connection calls them.
fn ours(bytes: &[u8]) -> Reading {
    let mut requests = Vec::new();
    let mut at = 0;
    let end = loop {
        while let Some(blank) = [&b"\r\n"[..], b"\n"].into_iter().find(|blank| bytes[at..].starts_with(blank)) {
            at += blank.len();
        }
        let head = match parse(&bytes[at..]) {
            Ok(Some(head)) => head,
            Ok(None) => break End::WaitsForMore,
            Err(_) => break End::Refused,
        };
        at += head.length;
        let body = match head.framing {
            Ok(Framing::Length(length)) if bytes.len() - at < length => break End::WaitsForMore,
            Ok(Framing::Length(length)) => {
                at += length;
                bytes[at - length..at].to_vec()
            }
            Ok(Framing::Chunked) => {
                let mut chunks = Chunks::default();
                match chunks.take(&bytes[at..]) {
                    Ok((used, true)) => {
                        at += used;
                        chunks.into_body()
                    }
                    Ok((_, false)) => break End::WaitsForMore,
                    Err(_) => break End::Refused,
                }
            }
            Err(_) => break End::Refused,
        };
        assert!(body.len() <= BODY_BYTES_MAX);
        let fields: String = head
            .fields
            .iter()
            .map(|(name, value)| (name.to_ascii_lowercase(), value))
            .map(|(name, value)| match name.as_str() {
                "transfer-encoding" => format!("{name}: {}\n", value.to_ascii_lowercase()),
                _ => format!("{name}: {value}\n"),
            })
            .collect();
        requests.push(Read {
            method: fnv(head.method.as_bytes()),
            target: fnv(head.target.as_bytes()),
            fields: fnv(fields.as_bytes()),
            body: fnv(&body),
            goes_on: head.keep_alive,
            next: at,
        });
        if !head.keep_alive {
            break End::Closed;
        }
    };
    Reading { requests, end }
}

/// Parses a line of `h11.txt`.
fn recorded(line: &str) -> Reading {
    let number = |text: &str| u16::from_str_radix(text, 16).expect("four digits");
    let mut words: Vec<&str> = line.split(' ').collect();
    let end = match words.pop() {
        Some("x") => End::Refused,
        Some("o") => End::WaitsForMore,
        Some("c") => End::Closed,
        other => panic!("{other:?} is no end"),
    };
    let read = |word: &str| Read {
        method: number(&word[..4]),
        target: number(&word[4..8]),
        fields: number(&word[8..12]),
        body: number(&word[12..16]),
        goes_on: word[16..].starts_with('k'),
        next: word[17..].parse().expect("a position"),
    };
    Reading { requests: words.into_iter().map(read).collect(), end }
}

/// Returns all cases as one sequence of bytes, each preceded by its length.
fn all_bytes(cases: &[generate::Case]) -> Vec<u8> {
    let mut all = Vec::new();
    for case in cases {
        all.extend(u32::try_from(case.bytes.len()).expect("short").to_le_bytes());
        all.extend(&case.bytes);
    }
    all
}

#[test]
fn differences_from_h11_are_listed() {
    let cases = generate::cases();
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/differential/h11.txt");
    let text = fs::read_to_string(path).expect("the recorded verdicts");
    let (first, verdicts) = text.split_once('\n').expect("a first line");
    let checksum = all_bytes(&cases)
        .iter()
        .fold(0xcbf2_9ce4_8422_2325_u64, |value, byte| (value ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3));
    assert!(
        first.contains(&format!("{} cases with checksum {checksum:016x}", cases.len())),
        "the recorded verdicts are on other requests: run python3 tests/differential/record_h11.py (checksum here: {checksum:016x})"
    );
    let verdicts: Vec<Reading> = verdicts.lines().map(recorded).collect();
    assert_eq!(verdicts.len(), cases.len());

    let mut counts: BTreeMap<&str, usize> = BTreeMap::new();
    let mut unlisted = Vec::new();
    let (mut agreed, mut taken, mut refused) = (0, 0, 0);
    for (n, (case, theirs)) in cases.iter().zip(&verdicts).enumerate() {
        let ours = ours(&case.bytes);
        taken += ours.requests.len();
        refused += usize::from(ours.end == End::Refused);
        match differences::explain(&case.bytes, &ours, theirs) {
            Ok(None) => agreed += 1,
            Ok(Some(row)) => *counts.entry(row).or_default() += 1,
            Err(why) => unlisted.push(format!("case {n} ({}), {why}: {}", case.mutation, case.bytes.escape_ascii())),
        }
    }
    println!("{agreed} of {} streams are read alike; {taken} requests taken, {refused} streams refused", cases.len());
    for (row, count) in &counts {
        println!("{count:5}  {row}");
    }
    let shown = unlisted[..unlisted.len().min(12)].join("\n  ");
    assert!(unlisted.is_empty(), "{} differences have no row (`record_h11.py --show N` says more):\n  {shown}", unlisted.len());
    let listed: BTreeMap<&str, usize> = differences::LIST.iter().map(|row| (row.what, row.seen)).collect();
    assert_eq!(counts, listed, "what was seen, and what the list says");
    // The test is not vacuous: most requests are read alike, and there are enough of both kinds.
    assert!(agreed * 2 > cases.len() && taken > cases.len() / 2 && refused > cases.len() / 4);
}

#[test]
fn generated_requests_are_deterministic() {
    assert_eq!(all_bytes(&generate::cases()), all_bytes(&generate::cases()));
}

/// Writes the input of `record_h11.py`.
#[test]
#[ignore = "writes the requests for record_h11.py"]
fn write_generated_requests_for_h11() {
    let path = std::env::var_os("DIFFERENTIAL_OUT").expect("DIFFERENTIAL_OUT names the file");
    fs::File::create(path).expect("creates").write_all(&all_bytes(&generate::cases())).expect("writes");
}
