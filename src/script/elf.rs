//! The parts of an ELF program that explain why it cannot be run: its processor, and the loader that it requests (`elf(5)`).
//!
//! The input is untrusted: each offset is checked, and nothing is read beyond a limit.

use std::ffi::OsString;
use std::fs::File;
use std::os::unix::ffi::OsStringExt;
use std::os::unix::fs::FileExt;
use std::path::PathBuf;

/// The longest program header table and the longest loader's path that are read, in bytes.
const TABLE_BYTES_MAX: u64 = 64 * 1024;
const LOADER_BYTES_MAX: u64 = 4096;

const PT_INTERP: u64 = 3;

/// The header data of a program.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Elf {
    /// The number of its processor, with 32 or 64 bits.
    machine: u64,
    is_64_bit: bool,
    /// The loader with which the kernel runs it; none if it is static.
    pub(super) loader: Option<PathBuf>,
}

impl Elf {
    /// Reads it; `None` if it is damaged.
    pub(super) fn read(file: &File) -> Option<Self> {
        let mut head = [0; 64];
        // A program of 32 bits may be shorter than the header of one of 64.
        let count = read_at(file, &mut head, 0)?;
        let is_64_bit = match head[4] {
            1 => false,
            2 => true,
            _ => return None,
        };
        let is_big_endian = head[5] == 2;
        let number = |bytes: &[u8], at: usize, len: usize| -> Option<u64> {
            let bytes = bytes.get(at..at.checked_add(len)?)?;
            let add = |sum: u64, byte: &u8| (sum << 8) | u64::from(*byte);
            Some(if is_big_endian { bytes.iter().fold(0, add) } else { bytes.iter().rev().fold(0, add) })
        };
        let head = &head[..count];
        let machine = number(head, 18, 2)?;
        let (table_at, entry_len, entries) = if is_64_bit {
            (number(head, 32, 8)?, number(head, 54, 2)?, number(head, 56, 2)?)
        } else {
            (number(head, 28, 4)?, number(head, 42, 2)?, number(head, 44, 2)?)
        };
        let table_len = entry_len * entries;
        if table_len > TABLE_BYTES_MAX {
            return None;
        }
        let mut table = vec![0; usize::try_from(table_len).ok()?];
        file.read_exact_at(&mut table, table_at).ok()?;
        let mut loader = None;
        for entry in table.chunks_exact(usize::try_from(entry_len.max(1)).ok()?) {
            if number(entry, 0, 4)? == PT_INTERP {
                let (at, len) = if is_64_bit {
                    (number(entry, 8, 8)?, number(entry, 32, 8)?)
                } else {
                    (number(entry, 4, 4)?, number(entry, 16, 4)?)
                };
                let mut path = vec![0; usize::try_from(len.min(LOADER_BYTES_MAX)).ok()?];
                file.read_exact_at(&mut path, at).ok()?;
                path.truncate(path.iter().position(|&byte| byte == 0).unwrap_or(path.len()));
                loader = Some(OsString::from_vec(path).into());
            }
        }
        Some(Self { machine, is_64_bit, loader })
    }

    /// Whether it is for the processor that this program was built for.
    pub(super) fn is_native(&self) -> bool {
        let ours = MACHINES.iter().find(|(_, name)| *name == std::env::consts::ARCH).map(|(number, _)| *number);
        ours == Some(self.machine) && self.is_64_bit == cfg!(target_pointer_width = "64")
    }

    /// The name of its processor, as Rust and `uname -m` call it.
    pub(super) fn machine(&self) -> String {
        let known = MACHINES.iter().find(|(number, _)| *number == self.machine);
        known.map_or_else(|| format!("processor type {}", self.machine), |(_, name)| (*name).to_owned())
    }
}

/// `e_machine` of `elf(5)` and the name in [`std::env::consts::ARCH`].
const MACHINES: [(u64, &str); 12] = [
    (2, "sparc"),
    (3, "x86"),
    (8, "mips"),
    (20, "powerpc"),
    (21, "powerpc64"),
    (22, "s390x"),
    (40, "arm"),
    (43, "sparc64"),
    (62, "x86_64"),
    (183, "aarch64"),
    (243, "riscv64"),
    (258, "loongarch64"),
];

/// As much as there is.
fn read_at(file: &File, buffer: &mut [u8], at: u64) -> Option<usize> {
    let mut read = 0;
    while read < buffer.len() {
        match file.read_at(&mut buffer[read..], at + read as u64) {
            Ok(0) => break,
            Ok(count) => read += count,
            Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
            Err(_) => return None,
        }
    }
    Some(read)
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::io::Write;

    use super::*;

    fn file_of(bytes: &[u8]) -> File {
        let mut file = tempfile::tempfile().expect("a temporary file");
        file.write_all(bytes).expect("writes");
        file
    }

    #[test]
    fn own_binary_is_native_and_has_its_loader() {
        let exe = File::open("/proc/self/exe").expect("it runs");
        let elf = Elf::read(&exe).expect("it is one");
        assert!(elf.is_native(), "{elf:?}");
        assert_eq!(elf.machine(), std::env::consts::ARCH);
        assert!(elf.loader.is_none_or(|loader| loader.exists()));
    }

    #[test]
    fn damaged_elf_file_is_rejected_without_a_panic() {
        let whole = fs::read("/proc/self/exe").expect("it runs");
        let head = &whole[..1024];
        for len in 0..130 {
            let _any = Elf::read(&file_of(&head[..len]));
        }
        for at in 0..64 {
            for value in [0, 1, 0x7f, 0xff] {
                let mut damaged = head.to_vec();
                damaged[at] = value;
                let _any = Elf::read(&file_of(&damaged));
                damaged[at..(at + 8).min(64)].fill(value);
                let _any = Elf::read(&file_of(&damaged));
            }
        }
        assert_eq!(Elf::read(&file_of(&head[..20])), None);
    }
}
