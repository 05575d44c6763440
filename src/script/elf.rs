//! The parts of an ELF program that explain why it cannot be run: its processor, and the loader that it requests (`elf(5)`).
//!
//! The input is untrusted: each offset is checked, and nothing is read beyond a limit.

use std::ffi::OsString;
use std::fs::File;
use std::os::unix::ffi::OsStringExt;
use std::os::unix::fs::FileExt;
use std::path::PathBuf;

/// The maximum size of the program header table and of the loader's path that are read, in bytes.
const TABLE_BYTES_MAX: u64 = 64 * 1024;
const LOADER_BYTES_MAX: u64 = 4096;

const PT_INTERP: u64 = 3;

/// The header data of a program.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Elf {
    /// The number of its processor's architecture.
    machine: u64,
    is_64_bit: bool,
    /// The loader with which the kernel runs the program; `None` if it is static.
    pub(super) loader: Option<PathBuf>,
}

impl Elf {
    /// Parses the header data, given the beginning of the file. Returns `None` if the file is damaged.
    pub(super) fn read(head: &[u8], file: &File) -> Option<Self> {
        let is_64_bit = match head.get(4)? {
            1 => false,
            2 => true,
            _ => return None,
        };
        let is_big_endian = *head.get(5)? == 2;
        let number = |bytes: &[u8], at: usize, len: usize| -> Option<u64> {
            let bytes = bytes.get(at..at.checked_add(len)?)?;
            let add = |sum: u64, byte: &u8| (sum << 8) | u64::from(*byte);
            Some(if is_big_endian { bytes.iter().fold(0, add) } else { bytes.iter().rev().fold(0, add) })
        };
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

    /// Checks whether the program is for the processor that this binary was built for.
    pub(super) fn is_native(&self) -> bool {
        let ours = MACHINES.iter().find(|(_, name)| *name == std::env::consts::ARCH).map(|(number, _)| *number);
        ours == Some(self.machine) && self.is_64_bit == cfg!(target_pointer_width = "64")
    }

    /// Returns the name of its processor, as in Rust and `uname -m`.
    pub(super) fn machine(&self) -> String {
        let known = MACHINES.iter().find(|(number, _)| *number == self.machine);
        known.map_or_else(|| format!("processor type {}", self.machine), |(_, name)| (*name).to_owned())
    }
}

/// The values of `e_machine` (`elf(5)`), with the names in [`std::env::consts::ARCH`].
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

#[cfg(test)]
mod tests {
    use std::fs;
    use std::io::Write;

    use super::*;

    fn read(bytes: &[u8]) -> Option<Elf> {
        let mut file = tempfile::tempfile().expect("a temporary file");
        file.write_all(bytes).expect("writes");
        Elf::read(&bytes[..bytes.len().min(256)], &file)
    }

    #[test]
    fn own_binary_is_native_and_has_its_loader() {
        let exe = File::open("/proc/self/exe").expect("it runs");
        let mut head = [0; 64];
        exe.read_exact_at(&mut head, 0).expect("it has a head");
        let elf = Elf::read(&head, &exe).expect("it is one");
        assert!(elf.is_native(), "{elf:?}");
        assert_eq!(elf.machine(), std::env::consts::ARCH);
        assert!(elf.loader.is_none_or(|loader| loader.exists()));
    }

    #[test]
    fn damaged_elf_file_is_rejected_without_a_panic() {
        let whole = fs::read("/proc/self/exe").expect("it runs");
        let head = &whole[..1024];
        for len in 0..130 {
            let _any = read(&head[..len]);
        }
        for at in 0..64 {
            for value in [0, 1, 0x7f, 0xff] {
                let mut damaged = head.to_vec();
                damaged[at] = value;
                let _any = read(&damaged);
                damaged[at..(at + 8).min(64)].fill(value);
                let _any = read(&damaged);
            }
        }
        assert_eq!(read(&head[..20]), None);
    }
}
