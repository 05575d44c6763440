//! The `.env` file: `KEY=value` lines, comments, quotes. Only our own names are kept.
//!
//! Level 0, pure: the text is read elsewhere. There is no expansion of `$NAME` and no value over several lines, so that a file
//! that another program reads differently is not half understood here.

use super::{ConfigError, NAMES};

/// The pairs of a `.env` file whose names are ours, in the order of the file; where a name stands twice, the later one counts.
///
/// # Errors
/// A line that is no assignment, or whose quotes do not close, is refused with its number, whosever name it is.
pub fn parse_dotenv(text: &str) -> Result<Vec<(String, String)>, ConfigError> {
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    let mut pairs = Vec::new();
    for (index, line) in text.lines().enumerate() {
        let pair = parse_line(line.trim()).map_err(|problem| ConfigError::Dotenv { line: index + 1, problem })?;
        pairs.extend(pair.filter(|(name, _)| NAMES.contains(&name.as_str())));
    }
    Ok(pairs)
}

/// The pair on a line, `None` for an empty line or a comment.
fn parse_line(line: &str) -> Result<Option<(String, String)>, &'static str> {
    if line.is_empty() || line.starts_with('#') {
        return Ok(None);
    }
    if line.contains('\0') {
        return Err("holds a NUL");
    }
    let assignment = match line.strip_prefix("export") {
        Some(rest) if rest.starts_with([' ', '\t']) => rest.trim_start(),
        _ => line,
    };
    let (name, value) = assignment.split_once('=').ok_or("is no KEY=value")?;
    let name = name.trim_end();
    let is_name = name.starts_with(|first: char| first.is_ascii_alphabetic() || first == '_')
        && name.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '_' | '.' | '-'));
    if !is_name {
        return Err("has no name before the =");
    }
    let value = value.trim_start();
    let value = match value.chars().next() {
        Some('\'') => single_quoted(&value[1..])?,
        Some('"') => double_quoted(&value[1..])?,
        _ => unquoted(value),
    };
    Ok(Some((name.to_owned(), value)))
}

/// A value without quotes ends at a `#` that stands at its beginning or after a blank.
fn unquoted(text: &str) -> String {
    let comment = text
        .char_indices()
        .find(|&(at, c)| c == '#' && text[..at].chars().next_back().is_none_or(char::is_whitespace))
        .map_or(text.len(), |(at, _)| at);
    text[..comment].trim_end().to_owned()
}

/// The text up to the closing quote, as it stands.
fn single_quoted(text: &str) -> Result<String, &'static str> {
    let (value, rest) = text.split_once('\'').ok_or("opens a quote and does not close it")?;
    nothing_follows(rest)?;
    Ok(value.to_owned())
}

/// The text up to the closing quote, with `\\`, `\"`, `\$`, `\n` and `\t` replaced.
fn double_quoted(text: &str) -> Result<String, &'static str> {
    let mut value = String::new();
    let mut chars = text.chars();
    while let Some(c) = chars.next() {
        match c {
            '"' => {
                nothing_follows(chars.as_str())?;
                return Ok(value);
            }
            '\\' => match chars.next() {
                Some(escaped @ ('\\' | '"' | '$')) => value.push(escaped),
                Some('n') => value.push('\n'),
                Some('t') => value.push('\t'),
                Some(other) => value.extend(['\\', other]),
                None => break,
            },
            c => value.push(c),
        }
    }
    Err("opens a quote and does not close it")
}

/// After a closing quote only a comment may stand.
fn nothing_follows(rest: &str) -> Result<(), &'static str> {
    let after = rest.trim_start();
    let is_comment = after.starts_with('#') && after.len() < rest.len();
    if after.is_empty() || is_comment { Ok(()) } else { Err("goes on after the closing quote") }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn port(line: &str) -> Option<String> {
        let pairs = parse_dotenv(line).unwrap_or_else(|error| panic!("{line:?}: {error}"));
        pairs.into_iter().next().map(|(_, value)| value)
    }

    #[test]
    fn a_value_is_read_as_a_shell_would() {
        for (line, value) in [
            ("PORT=1", "1"),
            ("export PORT=1", "1"),
            ("export\tPORT=1", "1"),
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
    }

    #[test]
    fn comments_empty_lines_and_names_of_others_are_skipped() {
        let text = "# PORT=1\n\n   \nNODE_ENV=dev\nmy.own-key=x\nexported=1\nPORT=2\nPORT=3\n";
        let pairs = parse_dotenv(text).expect("well formed");
        assert_eq!(pairs, [("PORT".to_owned(), "2".to_owned()), ("PORT".to_owned(), "3".to_owned())]);
    }

    #[test]
    fn a_malformed_line_is_refused_with_its_number() {
        for (line, problem) in [
            ("PORT", "is no KEY=value"),
            ("export PORT", "is no KEY=value"),
            ("=1", "has no name before the ="),
            ("1PORT=1", "has no name before the ="),
            ("MY PORT=1", "has no name before the ="),
            ("OTHER='a", "opens a quote and does not close it"),
            ("OTHER=\"a\\\"", "opens a quote and does not close it"),
            ("OTHER=\"a\\", "opens a quote and does not close it"),
            ("PORT='a'b", "goes on after the closing quote"),
            ("PORT='a'#b", "goes on after the closing quote"),
            ("PORT=a\0b", "holds a NUL"),
        ] {
            let error = parse_dotenv(&format!("# first\nPORT=1\n{line}\n")).expect_err(line);
            assert_eq!(error.to_string(), format!("line 3 of .env {problem}"), "{line:?}");
        }
    }
}
