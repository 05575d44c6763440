//! The beginning of a file, parsed as the kernel parses it: `#!`, an interpreter, and at most one argument.
//!
//! Pure. The rules are those of `fs/binfmt_script.c` in Linux 5.1 and later; see `execve(2)`, "Interpreter scripts".

/// The number of bytes that the kernel reads from a file (`BINPRM_BUF_SIZE`).
pub(super) const HEAD_BYTES: usize = 256;

/// The byte order mark of UTF-8, which editors on Windows put at the beginning of a text.
const BYTE_ORDER_MARK: &[u8] = b"\xef\xbb\xbf";

/// The beginning of a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Beginning<'h> {
    /// A first line that names an interpreter, and at most one argument, including the blanks within it.
    Interpreter { path: &'h [u8], argument: Option<&'h [u8]> },
    /// `#!` without a name.
    NoInterpreter,
    /// The interpreter's name does not end within the part that the kernel reads.
    LongInterpreter,
    /// Text without `#!`; `is_empty` if the file is empty.
    Text { is_empty: bool },
    /// A line that ends with CR LF.
    WindowsLine,
    /// A byte order mark of UTF-8.
    ByteOrderMark,
    /// Text in UTF-16, which neither the kernel nor a shell can read.
    Utf16,
    /// A program in the ELF format.
    Elf,
    /// Other binary data.
    Binary,
}

/// Parses the first [`HEAD_BYTES`] of a file, or fewer if it is shorter.
pub(super) fn beginning(head: &[u8]) -> Beginning<'_> {
    let head = &head[..head.len().min(HEAD_BYTES)];
    if head.starts_with(b"\x7fELF") {
        return Beginning::Elf;
    }
    if head.starts_with(BYTE_ORDER_MARK) {
        return Beginning::ByteOrderMark;
    }
    if head.starts_with(b"\xff\xfe") || head.starts_with(b"\xfe\xff") {
        return Beginning::Utf16;
    }
    let newline = memchr::memchr(b'\n', head);
    let line = &head[..newline.unwrap_or(head.len())];
    let ends_with_cr = newline.is_some() && line.ends_with(b"\r");
    let Some(named) = line.strip_prefix(b"#!") else {
        // Like bash: a NUL in the first line marks a binary file.
        return if line.contains(&0) {
            Beginning::Binary
        } else if ends_with_cr {
            Beginning::WindowsLine
        } else {
            Beginning::Text { is_empty: head.is_empty() }
        };
    };
    if ends_with_cr {
        return Beginning::WindowsLine;
    }
    interpreter(named, newline.is_none() && head.len() == HEAD_BYTES)
}

/// Parses the part after `#!`. If the line is longer than the part that the kernel reads, only a name that ends within that
/// part is valid.
fn interpreter(named: &[u8], is_cut: bool) -> Beginning<'_> {
    let named = trim_blanks(named);
    let end = named.iter().position(|&byte| is_blank(byte) || byte == 0);
    let path = &named[..end.unwrap_or(named.len())];
    if is_cut && end.is_none() {
        return Beginning::LongInterpreter;
    }
    if path.is_empty() {
        return Beginning::NoInterpreter;
    }
    // For the kernel, a NUL ends the text.
    let rest = end.filter(|&end| named[end] != 0).map(|end| &named[end..]);
    let argument = rest.map(|rest| trim_blanks(rest.split(|&byte| byte == 0).next().unwrap_or(rest)));
    Beginning::Interpreter { path, argument: argument.filter(|argument| !argument.is_empty()) }
}

const fn is_blank(byte: u8) -> bool {
    matches!(byte, b' ' | b'\t')
}

fn trim_blanks(text: &[u8]) -> &[u8] {
    let from = text.iter().position(|&byte| !is_blank(byte)).unwrap_or(text.len());
    let to = text.iter().rposition(|&byte| !is_blank(byte)).map_or(from, |last| last + 1);
    &text[from..to]
}

#[cfg(test)]
mod tests {
    use super::*;

    fn interpreter<'h>(path: &'h [u8], argument: Option<&'h [u8]>) -> Beginning<'h> {
        Beginning::Interpreter { path, argument }
    }

    #[test]
    fn first_line_is_parsed_like_the_kernel_parses_it() {
        for (head, read_as) in [
            (&b"#!/bin/bash\necho"[..], interpreter(b"/bin/bash", None)),
            (b"#!/bin/sh", interpreter(b"/bin/sh", None)),
            (b"#! \t/usr/bin/env \t python3  \t\n", interpreter(b"/usr/bin/env", Some(b"python3"))),
            (b"#!/usr/bin/env -S python3 -u\n", interpreter(b"/usr/bin/env", Some(b"-S python3 -u"))),
            (b"#!sh\n", interpreter(b"sh", None)),
            (b"#!/bin/sh\0 x\n", interpreter(b"/bin/sh", None)),
            (b"#!/bin/sh a\0b\n", interpreter(b"/bin/sh", Some(b"a"))),
            (b"#!/\xff\n", interpreter(b"/\xff", None)),
            (b"#!", Beginning::NoInterpreter),
            (b"#!\n/bin/sh\n", Beginning::NoInterpreter),
            (b"#! \t \n", Beginning::NoInterpreter),
            (b"#!\0", Beginning::NoInterpreter),
            (b"#!/bin/bash\r\n", Beginning::WindowsLine),
            (b"#!/usr/bin/env bash\r\n", Beginning::WindowsLine),
            (b"echo hi\r\necho\r\n", Beginning::WindowsLine),
            (b"\r\n", Beginning::WindowsLine),
            (b"echo hi\r", Beginning::Text { is_empty: false }),
            (b"\xef\xbb\xbf#!/bin/sh\n", Beginning::ByteOrderMark),
            (b"\xff\xfe#\0!\0", Beginning::Utf16),
            (b"\x7fELF\x02", Beginning::Elf),
            (b"MZ\0\x01\n", Beginning::Binary),
            (b"echo\n\0\0", Beginning::Text { is_empty: false }),
            (b"", Beginning::Text { is_empty: true }),
            (b" #!/bin/sh\n", Beginning::Text { is_empty: false }),
        ] {
            assert_eq!(beginning(head), read_as, "{}", head.escape_ascii());
        }
    }

    #[test]
    fn truncated_interpreter_name_is_rejected() {
        let long = [b"#!/".as_slice(), &[b'x'; 300], b"\n"].concat();
        assert_eq!(beginning(&long), Beginning::LongInterpreter);
        let cut_argument = [b"#!/bin/sh ".as_slice(), &[b'x'; 300], b"\n"].concat();
        assert_eq!(beginning(&cut_argument), interpreter(b"/bin/sh", Some(&[b'x'; HEAD_BYTES - 10])));
        let blanks = [b"#!".as_slice(), &[b' '; 300], b"/bin/sh\n"].concat();
        assert_eq!(beginning(&blanks), Beginning::LongInterpreter);
    }

    #[test]
    fn first_line_parser_never_reads_beyond_its_input() {
        let bytes = b"#!\n\0 \t\r/\xef\xbb\xbfx\x7fELF\xff\xfe";
        for from in 0..bytes.len() {
            for to in from..=bytes.len() {
                let _any = beginning(&bytes[from..to]);
                let _any = beginning(&[b"#!", &bytes[from..to]].concat());
            }
        }
    }
}
