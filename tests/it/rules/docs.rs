//! Checks that whatever the documents name exists.

use std::fs;
use std::path::Path;

use autoappdev::cli::EXIT_CODES;
use autoappdev::kill_point::KillPoint;

/// Returns every Rust file below `dir`, as one text.
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

/// Returns the cells of a table row.
fn cells(line: &str) -> Option<Vec<&str>> {
    let row = line.trim().strip_prefix('|')?.strip_suffix('|')?;
    Some(row.split('|').map(str::trim).collect())
}

/// Returns the texts between backticks.
fn quoted(text: &str) -> Vec<&str> {
    text.split('`').skip(1).step_by(2).collect()
}

/// A row of a table whose last column names tests.
struct Proved<'a> {
    line: &'a str,
    kill_points: Vec<&'a str>,
}

/// Returns the rows of the tables whose last column is `proved by`, and checks that each named test exists.
fn proved_rows<'a>(file: &str, text: &'a str) -> Vec<Proved<'a>> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let code = sources(&root.join("tests")) + &sources(&root.join("src"));
    let (mut in_proved_table, mut points_at, mut rows) = (false, None, Vec::new());
    for line in text.lines() {
        let Some(cells) = cells(line) else {
            in_proved_table = false;
            continue;
        };
        let last = *cells.last().expect("a cell");
        if last == "proved by" {
            in_proved_table = true;
            points_at = cells.iter().position(|cell| *cell == "kill points");
        } else if in_proved_table && !last.starts_with("---") {
            let kill_points = points_at.map(|at| quoted(cells[at])).unwrap_or_default();
            let names = quoted(last);
            assert!(!names.is_empty() || !kill_points.is_empty(), "nothing proves it: {line}");
            for name in names {
                assert!(code.contains(&format!("fn {name}(")), "{name} is named in {file}, and is no test");
            }
            rows.push(Proved { line, kill_points });
        }
    }
    assert!(rows.len() >= 20, "only {} rows were found in {file}: this test reads the tables wrongly", rows.len());
    rows
}

fn document(file: &str) -> String {
    fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join(file)).expect(file)
}

#[test]
fn crash_matrix_rows_name_existing_tests_or_kill_points() {
    let matrix = document("docs/crash-matrix.md");
    let mut points: Vec<&str> =
        proved_rows("docs/crash-matrix.md", &matrix).iter().flat_map(|row| row.kill_points.clone()).collect();
    // The rows and the code have the same kill points, each once.
    points.sort_unstable();
    let mut known: Vec<&str> = KillPoint::ALL.iter().map(|point| point.name()).collect();
    known.sort_unstable();
    assert_eq!(points, known, "the kill points of docs/crash-matrix.md and of src/kill_point.rs");
}

#[test]
fn security_doc_attacks_name_existing_tests() {
    let attacks = document("docs/security.md");
    for row in proved_rows("docs/security.md", &attacks) {
        assert_eq!(cells(row.line).map(|cells| cells.len()), Some(3), "attack, what happens, proved by: {}", row.line);
    }
}

#[test]
fn readme_lists_the_exit_codes_of_the_program() {
    let readme = document("README.md");
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
