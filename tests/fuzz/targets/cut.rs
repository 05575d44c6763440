//! Bytes in pieces, as they arrive from a network or a pipe.

/// Cuts `bytes` as `how` says: 0 leaves them whole, 1 makes single bytes, and any other number is the seed of uneven pieces.
pub fn pieces(bytes: &[u8], how: u8) -> Vec<&[u8]> {
    match how {
        0 => vec![bytes],
        1 => bytes.chunks(1).collect(),
        seed => {
            let mut state = u32::from(seed);
            let mut rest = bytes;
            let mut pieces = Vec::new();
            while !rest.is_empty() {
                // Knuth's multiplier. The high bits are the good ones.
                state = state.wrapping_mul(2_654_435_761).wrapping_add(12_345);
                let (piece, behind) = rest.split_at(((state >> 24) as usize % 40 + 1).min(rest.len()));
                pieces.push(piece);
                rest = behind;
            }
            pieces
        }
    }
}

/// Returns the first `N` bytes as numbers for decisions, and the rest. Missing bytes are 0.
pub fn choices<const N: usize>(bytes: &[u8]) -> ([u8; N], &[u8]) {
    let (front, rest) = bytes.split_at(bytes.len().min(N));
    let mut choices = [0; N];
    choices[..front.len()].copy_from_slice(front);
    (choices, rest)
}
