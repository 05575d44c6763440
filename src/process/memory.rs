//! How the server's memory is given back to the kernel.
//!
//! With `spawn.rs` and `pages.rs` one of the three files that hold `unsafe`: the allocator's settings have no safe form, and its variables
//! in the environment are read before `main` and would be inherited by the pipeline.

use nix::libc;

/// What is at least this long lies in pages of its own, in bytes.
#[cfg(target_env = "gnu")]
const OWN_PAGES_BYTES: libc::c_int = 128 * 1024;

/// How many heaps the threads share. More of them only matter where many threads allocate all the time.
#[cfg(target_env = "gnu")]
const HEAPS: libc::c_int = 2;

/// What is long goes back to the kernel as soon as it is freed, and what is short is kept in few places. By default glibc raises its limit
/// for the first to the longest thing that was ever freed, up to 32 MiB, and has eight heaps for each processor, each of which keeps for the
/// next time what a page of a log took (`mallopt(3)`): a crowd that sends or asks for a megabyte each would leave its mark for ever.
pub fn give_back_what_is_long() {
    #[cfg(target_env = "gnu")]
    for (setting, value) in [(libc::M_MMAP_THRESHOLD, OWN_PAGES_BYTES), (libc::M_ARENA_MAX, HEAPS)] {
        #[expect(unsafe_code, reason = "the allocator's settings have no safe form")]
        // SAFETY: `mallopt` takes two numbers and may be called at any time (`mallopt(3)`).
        let is_taken = unsafe { libc::mallopt(setting, value) } == 1;
        if !is_taken {
            ::log::warn!("the allocator keeps its default: memory that a crowd took may stay with the server");
        }
    }
}
