//! Text in columns.
//!
//! Pure. The cells can come from a server that is not ours, so the width of a column has a limit. The width is never passed to
//! the formatter, which panics above 65,535.

/// The maximum width of a cell before the last column, in characters. A longer cell is cut, so that one row does not push the
/// others off the screen; `--json` prints all of it.
const CELL_CHARS_MAX: usize = 200;

/// Formats rows of equal length as lines. Columns in `to_the_right` are right-aligned; the last column has no fixed width and
/// is not cut.
pub(super) fn table<const N: usize>(rows: &[[String; N]], to_the_right: &[usize]) -> String {
    let widths: [usize; N] =
        std::array::from_fn(|column| rows.iter().map(|row| row[column].chars().count()).max().unwrap_or(0).min(CELL_CHARS_MAX));
    let mut text = String::new();
    for row in rows {
        for (column, cell) in row.iter().enumerate() {
            if column + 1 == N {
                text.push_str(cell);
            } else {
                text.push_str(&padded(&cut(cell), widths[column], to_the_right.contains(&column)));
                text.push_str("  ");
            }
        }
        text.push('\n');
    }
    text
}

/// Pads a cell with spaces to `width` characters.
pub(super) fn padded(cell: &str, width: usize, is_to_the_right: bool) -> String {
    let fill = " ".repeat(width.saturating_sub(cell.chars().count()));
    if is_to_the_right { fill + cell } else { cell.to_owned() + &fill }
}

fn cut(cell: &str) -> String {
    if cell.chars().count() <= CELL_CHARS_MAX {
        return cell.to_owned();
    }
    cell.chars().take(CELL_CHARS_MAX - 3).collect::<String>() + "..."
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn table_cells_are_aligned_and_truncated() {
        let rows = [["a", "1", "x"], ["bbb", "22", "yyyy"]].map(|row| row.map(str::to_owned));
        assert_eq!(table(&rows, &[1]), "a     1  x\nbbb  22  yyyy\n");
        let long = "é".repeat(70_000);
        let text = table(&[["id".to_owned(), "x".to_owned()], [long.clone(), long.clone()]], &[0]);
        let lines: Vec<&str> = text.lines().collect();
        assert_eq!(lines[0], format!("{}id  x", " ".repeat(198)));
        assert_eq!(lines[1], format!("{}...  {long}", "é".repeat(197)));
    }
}
