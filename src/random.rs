//! Random bytes from the kernel (`getrandom(2)`).
//!
//! Level 0.

use std::io;

use rustix::rand::GetRandomFlags;

/// Returns a random id: 32 lowercase hexadecimal digits.
pub fn id() -> io::Result<String> {
    Ok(format!("{:032x}", u128::from_ne_bytes(bytes()?)))
}

/// Returns random bytes. Early after a boot, waits until the kernel has enough randomness.
pub fn bytes<const COUNT: usize>() -> io::Result<[u8; COUNT]> {
    let mut bytes = [0; COUNT];
    let mut filled = 0;
    while filled < COUNT {
        filled += rustix::rand::getrandom(&mut bytes[filled..], GetRandomFlags::empty())?;
    }
    Ok(bytes)
}
