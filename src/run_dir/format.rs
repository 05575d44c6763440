//! The version of all formats in a run directory.

use serde::Deserialize;

use super::lines::from_line;

/// The version that this program writes. Readers refuse every later version.
pub const FORMAT: u32 = 1;

/// Reads the version that a file names in its first line.
pub(super) fn format_of(line: &[u8]) -> Result<u32, serde_json::Error> {
    #[derive(Deserialize)]
    struct FormatOnly {
        format: u32,
    }
    from_line(line).map(|FormatOnly { format }| format)
}
