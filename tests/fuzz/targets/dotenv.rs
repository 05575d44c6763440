//! The parser of a `.env` file.

use std::os::unix::ffi::OsStrExt;

use autoappdev::config::parse_dotenv;

pub fn run(bytes: &[u8]) {
    let without_mark = bytes.strip_prefix(b"\xef\xbb\xbf").unwrap_or(bytes);
    let Ok(pairs) = parse_dotenv(bytes) else {
        assert!(parse_dotenv(&[b"# a comment\n", without_mark].concat()).is_err());
        let text = String::from_utf8_lossy(bytes);
        assert!(text.contains("AUTOAPPDEV_"), "only a line that is plainly ours is refused");
        return;
    };
    for (name, value) in &pairs {
        assert!(name == "PORT" || name == "DATABASE_URL" || name.starts_with("AUTOAPPDEV_"), "{name:?} is not ours");
        assert!(!value.as_bytes().contains(&0));
        // Double quotes can contain anything except the end of a line. A lone CR is unchanged.
        let mut line = format!("export {name} = \"").into_bytes();
        for &byte in value.as_bytes() {
            match byte {
                b'\\' | b'"' | b'$' => line.extend([b'\\', byte]),
                b'\n' => line.extend(b"\\n"),
                b'\t' => line.extend(b"\\t"),
                byte => line.push(byte),
            }
        }
        line.extend(b"\" # as it was");
        assert_eq!(parse_dotenv(&line).expect("well formed"), [(name.clone(), value.clone())], "{line:?}");
    }
    // Each of our values is on one line. No line yields more than it does alone, whatever the other values span.
    let alone = without_mark.split(|byte| *byte == b'\n').filter_map(|line| parse_dotenv(&[b"\n", line].concat()).ok()).flatten();
    let mut alone = alone.collect::<Vec<_>>().into_iter();
    assert!(pairs.iter().all(|pair| alone.any(|other| other == *pair)), "{pairs:?} are not all there line by line");
}
