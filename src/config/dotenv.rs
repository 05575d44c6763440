//! The `.env` file. Finds the server's settings in it, and ignores everything else, because the file belongs to the project.
//!
//! Level 0, pure: the bytes are read elsewhere. An assignment to one of our names must be well-formed and on one line, and
//! `$NAME` is not expanded. Other programs' lines can be anything: values over several lines, shell commands, other encodings.
//! Only their ends matter, because a line inside such a value is not an assignment.

use std::ffi::OsString;
use std::os::unix::ffi::OsStringExt;

use super::setting::{ConfigError, is_shared};
use super::settings::names;

/// Returns the pairs of a `.env` file whose names are ours, in the order of the file. If a name occurs more than once, the last
/// one counts.
///
/// # Errors
/// Refuses a line that begins with one of our names and is not an assignment or does not close its quotes. The error has the
/// line's number.
pub fn parse_dotenv(bytes: &[u8]) -> Result<Vec<(String, OsString)>, ConfigError> {
    let mut rest = bytes.strip_prefix(b"\xef\xbb\xbf").unwrap_or(bytes);
    let mut pairs = Vec::new();
    let mut number = 1;
    while !rest.is_empty() {
        let line = first_line(rest);
        let mut taken = line.len();
        match ours(line) {
            Some((name, after_name, is_exported)) => match value_of_ours(after_name, is_exported) {
                Ok(Some(value)) => pairs.push((name.to_owned(), OsString::from_vec(value))),
                Ok(None) => {}
                // Other programs use these names too, with other rules.
                Err(_) if is_shared(name) => taken = end_of_foreign(rest, line),
                Err(problem) => return Err(ConfigError::Dotenv { line: number, problem }),
            },
            None => taken = end_of_foreign(rest, line),
        }
        // Includes the line's end, unless the file ends there.
        let (before, after) = rest.split_at((taken + 1).min(rest.len()));
        number += memchr::memchr_iter(b'\n', before).count();
        rest = after;
    }
    Ok(pairs)
}

/// Parses a line that begins with one of our names. Returns the name, the rest, and whether `export` precedes the name.
fn ours(line: &[u8]) -> Option<(&'static str, &[u8], bool)> {
    let line = line.trim_ascii();
    let exported = line.strip_prefix(b"export").filter(|rest| rest.starts_with(b" ") || rest.starts_with(b"\t"));
    let assignment = exported.map_or(line, <[u8]>::trim_ascii_start);
    let (name, rest) = assignment.split_at(assignment.iter().take_while(|byte| is_name_byte(**byte)).count());
    names().find(|ours| ours.as_bytes() == name).map(|name| (name, rest, exported.is_some()))
}

fn is_name_byte(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"_.-".contains(&byte)
}

fn first_line(text: &[u8]) -> &[u8] {
    &text[..text.iter().position(|byte| *byte == b'\n').unwrap_or(text.len())]
}

/// Parses the value after one of our names. Returns `None` if the line only exports a variable that was set before, as in a
/// shell.
fn value_of_ours(rest: &[u8], is_exported: bool) -> Result<Option<Vec<u8>>, &'static str> {
    if rest.contains(&0) {
        return Err("contains a NUL");
    }
    let rest = rest.trim_ascii_start();
    if is_exported && (rest.is_empty() || rest[0] == b'#') {
        return Ok(None);
    }
    let value = rest.strip_prefix(b"=").ok_or("is not KEY=value")?.trim_ascii_start();
    let value = match value.first() {
        Some(b'\'') => single_quoted(&value[1..])?,
        Some(b'"') => double_quoted(&value[1..])?,
        _ => unquoted(value).to_vec(),
    };
    Ok(Some(value))
}

/// Returns a value without quotes, which ends at a `#` at its beginning or after a blank.
fn unquoted(text: &[u8]) -> &[u8] {
    let is_comment = |&at: &usize| text[at] == b'#' && (at == 0 || text[at - 1].is_ascii_whitespace());
    let end = (0..text.len()).find(is_comment).unwrap_or(text.len());
    text[..end].trim_ascii_end()
}

/// Returns the text up to the closing quote, unchanged.
fn single_quoted(text: &[u8]) -> Result<Vec<u8>, &'static str> {
    let end = text.iter().position(|byte| *byte == b'\'').ok_or("opens a quote and does not close it")?;
    nothing_follows(&text[end + 1..])?;
    Ok(text[..end].to_vec())
}

/// Returns the text up to the closing quote, with `\\`, `\"`, `\$`, `\n` and `\t` replaced.
fn double_quoted(text: &[u8]) -> Result<Vec<u8>, &'static str> {
    let mut value = Vec::new();
    let mut bytes = text.iter().copied().enumerate();
    while let Some((at, byte)) = bytes.next() {
        match byte {
            b'"' => {
                nothing_follows(&text[at + 1..])?;
                return Ok(value);
            }
            b'\\' => match bytes.next() {
                Some((_, escaped @ (b'\\' | b'"' | b'$'))) => value.push(escaped),
                Some((_, b'n')) => value.push(b'\n'),
                Some((_, b't')) => value.push(b'\t'),
                Some((_, other)) => value.extend([b'\\', other]),
                None => break,
            },
            byte => value.push(byte),
        }
    }
    Err("opens a quote and does not close it")
}

/// Checks that only a comment follows a closing quote.
fn nothing_follows(rest: &[u8]) -> Result<(), &'static str> {
    let after = rest.trim_ascii_start();
    let is_comment = after.starts_with(b"#") && after.len() < rest.len();
    if after.is_empty() || is_comment { Ok(()) } else { Err("has text after the closing quote") }
}

/// Returns where another program's line ends, or its assignment that begins with `line`, at the end of the line that closes its
/// quote.
///
/// A quote counts as closed only if nothing but a comment follows, as in programs that read such values. Otherwise the value is
/// this line.
fn end_of_foreign(text: &[u8], line: &[u8]) -> usize {
    // Some programs also read `KEY: value`.
    let separator = line
        .iter()
        .enumerate()
        .find(|&(at, byte)| *byte == b'=' || (*byte == b':' && line.get(at + 1).is_some_and(u8::is_ascii_whitespace)));
    let Some((separator, _)) = separator.filter(|_| !line.trim_ascii_start().starts_with(b"#")) else { return line.len() };
    let blanks = line[separator + 1..].iter().take_while(|byte| byte.is_ascii_whitespace()).count();
    let begin = separator + 1 + blanks;
    let Some(&quote) = line.get(begin).filter(|byte| b"'\"`".contains(byte)) else { return line.len() };
    // Programs differ in whether a backslash escapes a quote.
    let has_escapes = quote == b'"';
    let after_quote = &text[begin + 1..];
    let end = end_of_quoted(after_quote, quote, has_escapes).or_else(|| end_of_quoted(after_quote, quote, !has_escapes));
    end.map_or(line.len(), |end| begin + 1 + end)
}

/// Returns the end of the line on which the quote is closed.
fn end_of_quoted(text: &[u8], quote: u8, has_escapes: bool) -> Option<usize> {
    let mut at = 0;
    while let Some(&byte) = text.get(at) {
        if byte == quote {
            let rest = first_line(&text[at + 1..]);
            return nothing_follows(rest).ok().map(|()| at + 1 + rest.len());
        }
        at += if byte == b'\\' && has_escapes { 2 } else { 1 };
    }
    None
}

#[cfg(test)]
mod tests {
    use std::ffi::OsStr;
    use std::os::unix::ffi::OsStrExt;

    use super::*;

    const PORT: &str = "AUTOAPPDEV_PORT";

    fn read(bytes: &[u8]) -> Vec<(String, OsString)> {
        parse_dotenv(bytes).unwrap_or_else(|error| panic!("{}: {error}", String::from_utf8_lossy(bytes)))
    }

    fn port(line: &str) -> Option<String> {
        let value = read(line.as_bytes()).into_iter().next().map(|(_, value)| value);
        value.map(|value| value.into_string().expect("text"))
    }

    #[test]
    fn dotenv_values_are_parsed_like_a_shell() {
        for (line, value) in [
            ("PORT=1", "1"),
            ("export PORT=1", "1"),
            ("export\tPORT=1", "1"),
            ("export   AUTOAPPDEV_PORT=1 # ours", "1"),
            ("  PORT = 1  ", "1"),
            ("PORT='a # b' # comment", "a # b"),
            ("PORT='a\\n'", "a\\n"),
            (r#"PORT="a \"b\" \\ \$c\t\n\x" # comment"#, "a \"b\" \\ $c\t\n\\x"),
            ("PORT=a#b # comment", "a#b"),
            ("PORT=# comment", ""),
            ("PORT=a b", "a b"),
            ("PORT=a=b", "a=b"),
            ("PORT=", ""),
            ("PORT=''", ""),
            ("PORT=1\r", "1"),
            ("\u{feff}PORT=1", "1"),
            ("PORT=größe #ä", "größe"),
        ] {
            assert_eq!(port(line).as_deref(), Some(value), "{line:?}");
        }
        let path = read(b"AUTOAPPDEV_RUNTIME_DIR=/srv/caf\xe9\n");
        assert_eq!(path[0].1, OsStr::from_bytes(b"/srv/caf\xe9"), "a folder's name need not be UTF-8");
    }

    #[test]
    fn comments_blank_lines_and_foreign_names_are_skipped() {
        let text = "# PORT=1\n\n   \nNODE_ENV=dev\nmy.own-key=x\nexported=1\nPORT=2\nPORT=3\n";
        let pair = |value: &str| ("PORT".to_owned(), OsString::from(value));
        assert_eq!(read(text.as_bytes()), [pair("2"), pair("3")]);
    }

    #[test]
    fn dotenv_ignores_lines_of_other_programs() {
        let key = "KEY=\"-----BEGIN KEY-----\nAUTOAPPDEV_PORT=1\n-----END KEY-----\"";
        for foreign in [
            key,
            &format!("export {key} # a comment"),
            &key.replace("KEY=\"", "KEY = \"").replace('\n', "\r\n"),
            &key.replace('"', "'"),
            &key.replace('"', "`"),
            &key.replace("KEY=", "KEY: "),
            &key.replace("BEGIN KEY", "BEGIN \\\"KEY\\\""),
            "JSON='{\n  \"it\\'s\": 1,\nAUTOAPPDEV_PORT=1\n}'",
            "EMPTY=\"\nAUTOAPPDEV_PORT=1\n\"",
            "MY KEY=\"\nAUTOAPPDEV_PORT=1\n\"",
            // These open a quote that is never closed, so the value is the line.
            "NAME=\"it",
            "NAME='it's",
            "DIR=\"C:\\dir\\\"",
            "DIR='C:\\dir\\'",
            "QUOTE=\"",
            // These are not assignments.
            "nonsense",
            "export NAME",
            "export",
            "export AUTOAPPDEV_PORT",
            "export AUTOAPPDEV_PORT # was set before",
            "set -a",
            "source ./other.env",
            "if [ -z \"$X\" ]; then X=1; fi",
            "=1",
            "1NAME=1",
            "NAME=a\0b",
            "AUTOAPPDEV_PORTS=x",
            "MY_AUTOAPPDEV_PORT=x",
            // These only have the same name as ours.
            "PORT",
            "PORT='a",
            "PORT: 3000",
            "DATABASE_URL=\"postgres://h/d\nAUTOAPPDEV_PORT=1\n\"",
            "DATABASE_URL=\"postgres://h/d\"?x=1",
        ] {
            for rest in ["AUTOAPPDEV_PORT=2", "export AUTOAPPDEV_PORT=\"2\""] {
                let text = format!("{foreign}\n{rest}\n# the end\n");
                assert_eq!(read(text.as_bytes()), [(PORT.to_owned(), OsString::from("2"))], "{text}");
            }
        }
        assert_eq!(read(b"NAME=Jos\xe9 M\xfcller\nAUTOAPPDEV_PORT=2"), [(PORT.to_owned(), OsString::from("2"))]);
        assert!(read(b"\xff\xfeN\0A\0M\0E\0=\0x\0\n\0").is_empty(), "another encoding");
    }

    #[test]
    fn malformed_setting_line_is_refused_with_its_number() {
        for (line, problem) in [
            ("AUTOAPPDEV_PORT", "is not KEY=value"),
            ("AUTOAPPDEV_PORT: 1", "is not KEY=value"),
            ("AUTOAPPDEV_PORT 1", "is not KEY=value"),
            ("export AUTOAPPDEV_PORT 1", "is not KEY=value"),
            ("AUTOAPPDEV_HOST='a", "opens a quote and does not close it"),
            ("AUTOAPPDEV_HOST='a\n'", "opens a quote and does not close it"),
            ("AUTOAPPDEV_HOST=\"a\\\"", "opens a quote and does not close it"),
            ("AUTOAPPDEV_HOST=\"a\\", "opens a quote and does not close it"),
            ("AUTOAPPDEV_PORT='a'b", "has text after the closing quote"),
            ("AUTOAPPDEV_PORT='a'#b", "has text after the closing quote"),
            ("AUTOAPPDEV_PORT=a\0b", "contains a NUL"),
        ] {
            let error = parse_dotenv(format!("# first\nKEY='1\n2'\n{line}\n").as_bytes()).expect_err(line);
            assert_eq!(error.to_string(), format!("line 4 of .env {problem}"), "{line:?}");
        }
    }
}
