//! The table of modules in `ARCHITECTURE.md`, held against the `use` lines: imports go down only.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

/// The one import between files of the same level: the journal's words carry time stamps.
const SAME_LEVEL: [(&str, &str); 1] = [("pipeline", "clock")];

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// Module to level, as the table says.
fn table() -> BTreeMap<String, u32> {
    let text = fs::read_to_string(root().join("ARCHITECTURE.md")).expect("there");
    let mut levels = BTreeMap::new();
    for row in text.lines().filter(|line| line.starts_with("| ")) {
        let cells: Vec<&str> = row.trim_matches('|').split('|').map(str::trim).collect();
        let Some(level) = cells.first().and_then(|cell| cell.parse::<u32>().ok()) else { continue };
        for name in cells.get(1).unwrap_or(&"").split('`').skip(1).step_by(2) {
            levels.insert(name.trim_end_matches('/').trim_end_matches(".rs").to_owned(), level);
        }
    }
    levels
}

fn sources(dir: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(dir).expect("there") {
        let path = entry.expect("there").path();
        if path.is_dir() {
            found.extend(sources(&path));
        } else if path.extension().is_some_and(|ending| ending == "rs") {
            found.push(path);
        }
    }
    found
}

/// The first part of a path below `src`: the module that a file belongs to.
fn module_of(path: &Path) -> String {
    let below = path.strip_prefix(root().join("src")).expect("in src");
    let first = below.components().next().expect("a name").as_os_str().to_string_lossy();
    first.trim_end_matches(".rs").to_owned()
}

/// The modules that a text names as `crate::module` or, in the binary, `autoappdev::module`.
fn imports(text: &str) -> Vec<String> {
    let mut found = Vec::new();
    for line in text.lines().filter(|line| !line.trim_start().starts_with("//")) {
        for root in ["crate::", "autoappdev::"] {
            for (at, _) in line.match_indices(root) {
                let rest = &line[at + root.len()..];
                let names = rest.strip_prefix('{').map_or(rest, |list| list.split('}').next().unwrap_or(list));
                let is_list = rest.starts_with('{');
                for name in names.split(',').take(if is_list { usize::MAX } else { 1 }) {
                    let name: String = name.trim().chars().take_while(|c| c.is_ascii_lowercase() || *c == '_').collect();
                    found.push(name);
                }
            }
        }
    }
    found.retain(|name| !name.is_empty());
    found
}

#[test]
fn every_module_has_a_level() {
    let table = table();
    for path in sources(&root().join("src")) {
        let module = module_of(&path);
        assert!(module == "lib" || table.contains_key(&module), "{module} is missing in the table of ARCHITECTURE.md");
    }
    for name in table.keys() {
        let is_there = root().join("src").join(name).is_dir() || root().join("src").join(format!("{name}.rs")).is_file();
        assert!(is_there, "the table names {name}, which is not there");
    }
}

#[test]
fn imports_go_down_only() {
    let table = table();
    let mut seen = 0;
    for path in sources(&root().join("src")) {
        let module = module_of(&path);
        if module == "lib" {
            continue;
        }
        for import in imports(&fs::read_to_string(&path).expect("text")) {
            if import == module {
                continue;
            }
            let to = table.get(&import).unwrap_or_else(|| panic!("{}: {import} has no level", path.display()));
            let is_allowed = SAME_LEVEL.contains(&(module.as_str(), import.as_str()));
            // The command line is called by `main`, which stands with it on the highest level.
            let is_main = module == "main";
            assert!(to < &table[&module] || is_allowed || is_main, "{} imports {import}, which is not below it", path.display());
            seen += 1;
        }
    }
    assert!(seen > 50, "only {seen} imports were found: does this test still see them?");
}

#[test]
fn unsafe_stands_in_three_files_only() {
    for path in sources(&root().join("src")) {
        let text = fs::read_to_string(&path).expect("text");
        let blocks = text.lines().filter(|line| !line.trim_start().starts_with("//") && line.contains("unsafe {")).count();
        let may = ["spawn.rs", "memory.rs", "pages.rs"].map(|name| Path::new("src/process").join(name));
        let allowed = usize::from(may.iter().any(|may| path.ends_with(may)));
        assert_eq!(blocks, allowed, "{}", path.display());
    }
}

#[test]
fn an_import_is_seen_in_each_of_its_forms() {
    assert_eq!(imports("use crate::clock::Clock;"), ["clock"]);
    assert_eq!(imports("use crate::{store, shim::run};"), ["store", "shim"]);
    assert_eq!(imports("    let x = crate::log::read();"), ["log"]);
    assert_eq!(imports("use autoappdev::cli::{self, Modes};"), ["cli"]);
    assert!(imports("// use crate::shim;").is_empty());
}
