//! Releases memory that a long-lived process needed only for its start.
//!
//! This is one of the three files that contain `unsafe`, with `spawn.rs` and `memory.rs`: advice about pages has no safe form.
//! Called by the shim, which must use next to no memory because there is one for each run.

use std::fs::File;
use std::io::{self, Read};
use std::ops::Range;

use nix::libc;

/// The initial size of the buffer for `/proc/self/smaps`, in bytes: enough to read it at once, because a start waits for it. A
/// longer text is read in more steps.
const SMAPS_BYTES: usize = 32 * 1024;

/// Releases the pages of the program and its libraries that are unchanged from their files.
///
/// A page that is needed again comes from the kernel's page cache, within a microsecond. Most of these pages were needed only by
/// the loader, or were mapped together with a neighbour, sixteen at a time. Pages that were written to, even if only by the
/// loader, stay.
pub fn release_clean_pages() -> io::Result<()> {
    let mut smaps = String::with_capacity(SMAPS_BYTES);
    File::open("/proc/self/smaps")?.read_to_string(&mut smaps)?;
    for range in unchanged(&smaps) {
        let start = std::ptr::without_provenance_mut(range.start);
        #[expect(unsafe_code, reason = "advice about pages has no safe form")]
        // SAFETY: this is a private, read-only mapping of a file, and the kernel reports that none of its pages was changed. So
        // the next read there returns what the previous one did (`madvise(2)`).
        let result = unsafe { libc::madvise(start, range.len(), libc::MADV_DONTNEED) };
        if result != 0 {
            return Err(io::Error::last_os_error());
        }
    }
    Ok(())
}

/// Returns the address ranges of file mappings that can only be read or executed, and in which no page was changed. A debugger's
/// breakpoint is a change, and so is an address that the loader filled in. `smaps` is the text of `/proc/<pid>/smaps`
/// (`proc_pid_smaps(5)`).
fn unchanged(smaps: &str) -> Vec<Range<usize>> {
    let mut candidate = None;
    let mut found = Vec::new();
    // All other lines about a mapping also begin with a capital letter, and there are many of them.
    let matters = |line: &&str| {
        !line.starts_with(|first: char| first.is_ascii_uppercase()) || line.starts_with("Anonymous:") || line.starts_with("Swap:")
    };
    for line in smaps.lines().filter(matters) {
        let mut words = line.split_ascii_whitespace();
        match (words.next(), words.next()) {
            (Some("Anonymous:"), size) => candidate = candidate.filter(|_| size == Some("0")),
            // `Swap:` comes after `Anonymous:`. A changed page that was swapped out counts only here, and releasing it would
            // lose it.
            (Some("Swap:"), Some("0")) => found.extend(candidate.take()),
            // The lines about a mapping follow its first line, and begin with a name and a colon.
            (Some(key), _) if key.ends_with(':') => {}
            (Some(range), Some("r--p" | "r-xp")) if words.nth(3).is_some_and(|path| path.starts_with('/')) => {
                let address = |text| usize::from_str_radix(text, 16).ok();
                candidate = range.split_once('-').and_then(|(start, end)| Some(address(start)?..address(end)?));
            }
            _ => candidate = None,
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    /// Returns how many KiB of file pages this process has mapped.
    fn of_files_kb() -> u64 {
        let status = fs::read_to_string("/proc/self/status").expect("ours");
        let line = status.lines().find_map(|line| line.strip_prefix("RssFile:")).expect("the kernel tells");
        line.trim().trim_end_matches(" kB").parse().expect("a number")
    }

    #[test]
    fn unchanged_file_pages_are_released_and_reloaded() {
        // Other tests in this process can map pages at the same time.
        let deadline = std::time::Instant::now() + std::time::Duration::from_secs(30);
        loop {
            let before = of_files_kb();
            release_clean_pages().expect("the kernel takes advice");
            let after = of_files_kb();
            if after < before / 2 {
                break;
            }
            assert!(std::time::Instant::now() < deadline, "{before} KiB before, {after} after");
        }
        // Code and constants have not changed.
        assert_eq!(format!("{:>8.3}", std::f64::consts::PI), "   3.142");
    }

    #[test]
    fn only_unmodified_read_only_private_mappings_are_listed() {
        let swapped = |head: &str, anonymous: u32, swap: u32| {
            format!(
                "{head}\nSize: 4 kB\nAnonymous:     {anonymous} kB\nSwap:     {swap} kB\nSwapPss: 0 kB\nVmFlags: rd mr mw me\n"
            )
        };
        let mapping = |head, anonymous| swapped(head, anonymous, 0);
        let smaps = [
            mapping("1000-2000 r--p 00000000 fe:00 77      /usr/bin/with a space", 0),
            mapping("2000-4000 r-xp 00001000 fe:00 77      /usr/bin/with a space", 0),
            mapping("4000-5000 r-xp 00003000 fe:00 77      /changed/by/a/debugger", 4),
            mapping("5000-6000 rw-p 00004000 fe:00 77      /may/be/written", 0),
            mapping("6000-7000 r--s 00000000 fe:00 78      /is/shared", 0),
            mapping("7000-8000 r--p 00000000 00:00 0", 0),
            mapping("8000-9000 r-xp 00000000 00:00 0       [vdso]", 0),
            swapped("8000-9000 r--p 00000000 fe:00 77      /changed/and/swapped/out", 0, 4),
            "9000-a000 r--p 00000000 fe:00 77      /of/which/nothing/is/told\nSize: 4 kB\n".to_owned(),
            mapping("ffff7fe00000-ffff7fe01000 r--p 00000000 fe:00 79 /lib/libc.so.6", 0),
        ];
        assert_eq!(unchanged(&smaps.concat()), [0x1000..0x2000, 0x2000..0x4000, 0xffff_7fe0_0000..0xffff_7fe0_1000]);
        assert!(unchanged("").is_empty());
    }
}
