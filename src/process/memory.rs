//! Settings of the allocator that return the server's memory to the kernel.
//!
//! This is one of the three files that contain `unsafe`, with `spawn.rs` and `pages.rs`: the allocator's settings have no safe
//! form. Its environment variables are no alternative, because they are read before `main`, and the pipeline would inherit them.

use nix::libc;

/// Allocations of at least this many bytes get their own pages.
#[cfg(target_env = "gnu")]
const OWN_PAGES_BYTES: libc::c_int = 128 * 1024;

/// How many heaps the threads share. More heaps help only if many threads allocate all the time.
#[cfg(target_env = "gnu")]
const HEAPS: libc::c_int = 2;

/// Makes the allocator return long allocations to the kernel as soon as they are freed, and keep short ones in few heaps.
///
/// By default glibc raises the threshold for the former to the size of the longest allocation that was ever freed, up to 32 MiB.
/// It also has eight heaps for each processor, each of which keeps memory of the size of a log page for later (`mallopt(3)`).
/// After a crowd of clients that each send or request a megabyte, the server would never shrink again.
pub fn return_large_allocations() {
    #[cfg(target_env = "gnu")]
    for (setting, value) in [(libc::M_MMAP_THRESHOLD, OWN_PAGES_BYTES), (libc::M_ARENA_MAX, HEAPS)] {
        #[expect(unsafe_code, reason = "the allocator's settings have no safe form")]
        // SAFETY: `mallopt` takes two numbers and may be called at any time (`mallopt(3)`).
        let is_taken = unsafe { libc::mallopt(setting, value) } == 1;
        if !is_taken {
            ::log::warn!("mallopt failed: the server may keep the memory of many clients after they have disconnected");
        }
    }
}
