//! The decoder of a chunked body. The first byte determines how the rest is cut.

use autoappdev::transport::BODY_BYTES_MAX;
use autoappdev::transport::fuzzing::Chunks;

use super::cut::{choices, pieces};
use super::strict;

pub fn run(bytes: &[u8]) {
    let ([how], coded) = choices::<1>(bytes);
    let whole = decode(&[coded]);
    for how in [1, how] {
        assert_eq!(decode(&pieces(coded, how)), whole, "another result when it comes in pieces");
    }
    let strict = strict::chunks(coded);
    match (&whole, &strict) {
        (Some(Some(ours)), Ok(strict)) => {
            assert!(ours.0.len() <= BODY_BYTES_MAX);
            assert_eq!(ours, strict);
        }
        (Some(Some(ours)), Err(why)) => panic!("a strict reading refuses it, {why}; here it is {ours:?}"),
        (None | Some(None), _) => {}
    }
    // Any bytes can be encoded and decoded again.
    let mut recoded = Vec::new();
    for piece in pieces(coded, how) {
        if !piece.is_empty() {
            recoded.extend(format!("{:x}\r\n", piece.len()).into_bytes());
            recoded.extend_from_slice(piece);
            recoded.extend(b"\r\n");
        }
    }
    recoded.extend(b"0\r\n\r\n");
    let length = recoded.len();
    recoded.extend(b"GET / HTTP/1.1\r\n");
    if coded.len() <= BODY_BYTES_MAX {
        assert_eq!(decode(&pieces(&recoded, how)), Some(Some((coded.to_vec(), length))));
    }
}

/// Returns the body and the number of encoded bytes. The inner value is `None` while the body is incomplete, and the outer one if
/// it is refused.
#[expect(clippy::option_option, reason = "three answers, and each is compared with another reading's")]
fn decode(pieces: &[&[u8]]) -> Option<Option<(Vec<u8>, usize)>> {
    let mut chunks = Chunks::default();
    let (mut waiting, mut taken) = (Vec::new(), 0);
    for piece in pieces {
        waiting.extend_from_slice(piece);
        let (used, is_whole) = chunks.take(&waiting).ok()?;
        assert!(used <= waiting.len());
        waiting.drain(..used);
        taken += used;
        if is_whole {
            return Some(Some((chunks.into_body(), taken)));
        }
    }
    Some(None)
}
