//! What the documents name is there.

use std::fs;
use std::path::Path;

use autoappdev::cli::EXIT_CODES;
use autoappdev::kill_point::KillPoint;

/// Every Rust file below `dir`, as one text.
fn sources(dir: &Path) -> String {
    let mut text = String::new();
    for entry in fs::read_dir(dir).expect("there") {
        let path = entry.expect("there").path();
        if path.is_dir() {
            text.push_str(&sources(&path));
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            text.push_str(&fs::read_to_string(&path).expect("text"));
        }
    }
    text
}

/// The cells of a table's row.
fn cells(line: &str) -> Option<Vec<&str>> {
    let row = line.trim().strip_prefix('|')?.strip_suffix('|')?;
    Some(row.split('|').map(str::trim).collect())
}

/// What stands between backticks.
fn quoted(text: &str) -> Vec<&str> {
    text.split('`').skip(1).step_by(2).collect()
}

#[test]
fn every_row_of_the_crash_matrix_names_tests_that_exist_or_kill_points() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let code = sources(&root.join("tests")) + &sources(&root.join("src"));
    let matrix = fs::read_to_string(root.join("docs/crash-matrix.md")).expect("the matrix");
    let mut in_proved_table = false;
    let mut points_at = None;
    let mut points: Vec<&str> = Vec::new();
    let mut rows = 0;
    for line in matrix.lines() {
        let Some(cells) = cells(line) else {
            in_proved_table = false;
            continue;
        };
        let last = *cells.last().expect("a cell");
        if last == "proved by" {
            in_proved_table = true;
            points_at = cells.iter().position(|cell| *cell == "kill points");
        } else if in_proved_table && !last.starts_with("---") {
            rows += 1;
            let points_here = points_at.map(|at| quoted(cells[at])).unwrap_or_default();
            let names = quoted(last);
            assert!(!names.is_empty() || !points_here.is_empty(), "nothing proves it: {line}");
            points.extend(points_here);
            for name in names {
                assert!(code.contains(&format!("fn {name}(")), "{name} is named in docs/crash-matrix.md, and is no test");
            }
        }
    }
    // The points of the rows and those of the code are the same, each once.
    points.sort_unstable();
    let mut known: Vec<&str> = KillPoint::ALL.iter().map(|point| point.name()).collect();
    known.sort_unstable();
    assert_eq!(points, known, "the kill points of docs/crash-matrix.md and of src/kill_point.rs");
    assert!(rows >= 20, "only {rows} rows were found: this test reads the tables wrongly");
}

#[test]
fn readme_lists_the_exit_codes_of_the_program() {
    let readme = fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("README.md")).expect("the README");
    let rows: Vec<(u8, &str)> = readme
        .lines()
        .skip_while(|line| !line.starts_with("| exit code |"))
        .skip(2)
        .map_while(|line| {
            let cells = cells(line)?;
            Some((cells[0].parse().expect("a code"), cells[1]))
        })
        .collect();
    assert_eq!(rows, EXIT_CODES);
}
