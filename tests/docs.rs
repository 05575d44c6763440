//! What the documents name is there.

use std::fs;
use std::path::Path;

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

#[test]
fn every_row_of_the_crash_matrix_names_tests_that_exist_or_says_that_it_has_none() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let code = sources(&root.join("tests")) + &sources(&root.join("src"));
    let matrix = fs::read_to_string(root.join("docs/crash-matrix.md")).expect("the matrix");
    let mut in_proved_table = false;
    let mut rows = 0;
    for line in matrix.lines() {
        let Some(cells) = cells(line) else {
            in_proved_table = false;
            continue;
        };
        let last = *cells.last().expect("a cell");
        if last == "proved by" {
            in_proved_table = true;
        } else if in_proved_table && !last.starts_with("---") {
            rows += 1;
            let names: Vec<&str> = last.split('`').skip(1).step_by(2).collect();
            assert!(!names.is_empty() || last.contains("not yet tested"), "no test and no word about that: {line}");
            for name in names {
                assert!(code.contains(&format!("fn {name}()")), "{name} is named in docs/crash-matrix.md, and is no test");
            }
        }
    }
    assert!(rows >= 20, "only {rows} rows were found: this test reads the tables wrongly");
}
