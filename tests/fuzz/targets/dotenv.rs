//! The parser of a `.env` file.

use autoappdev::config::parse_dotenv;

pub fn run(bytes: &[u8]) {
    let text = String::from_utf8_lossy(bytes);
    let Ok(pairs) = parse_dotenv(&text) else {
        assert!(parse_dotenv(&format!("# a comment\n{text}")).is_err() || text.starts_with('\u{feff}'));
        return;
    };
    for (name, value) in &pairs {
        assert!(name == "PORT" || name == "DATABASE_URL" || name.starts_with("AUTOAPPDEV_"), "{name:?} is not ours");
        assert!(!value.contains('\0'));
        // In double quotes anything but what ends a line can be written. A lone CR stays what it is.
        let mut line = format!("export {name} = \"");
        for c in value.chars() {
            match c {
                '\\' | '"' | '$' => line.extend(['\\', c]),
                '\n' => line.push_str("\\n"),
                '\t' => line.push_str("\\t"),
                c => line.push(c),
            }
        }
        line.push_str("\" # as it was");
        assert_eq!(parse_dotenv(&line).expect("well formed"), [(name.clone(), value.clone())], "{line:?}");
    }
    // Line by line it says the same: nothing reaches over the end of a line.
    let text = text.strip_prefix('\u{feff}').unwrap_or(&text);
    let one_by_one: Vec<(String, String)> =
        text.split('\n').flat_map(|line| parse_dotenv(&format!("\n{line}")).expect("each line is well formed")).collect();
    assert_eq!(one_by_one, pairs);
}
