//! Words of a shell command.
//!
//! Level 0. Every name in a command that a message advises is quoted, because a cloned folder can contain any name, and users
//! paste such commands.

use std::path::Path;

/// Quotes a path for a shell as one word.
pub fn quoted_path(path: &Path) -> String {
    quoted(&path.display().to_string())
}

/// Quotes a name for a shell as one word.
pub fn quoted(name: &str) -> String {
    let is_plain = |c: char| c.is_alphanumeric() || "_./+,:@%-".contains(c);
    if !name.is_empty() && name.chars().all(is_plain) {
        return name.to_owned();
    }
    format!("'{}'", name.replace('\'', "'\\''"))
}
