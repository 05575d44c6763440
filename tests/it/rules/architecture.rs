//! Compares the table of modules in `ARCHITECTURE.md` with the imports. They only lead to lower levels and form no cycle, not
//! even between files.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

/// The imports between modules of the same level, and why they exist: the words of the journal contain time stamps, the contract
/// contains both, every connection to a Unix socket is opened in one place, and one place decides which owners are trusted.
const SAME_LEVEL: [(&str, &str); 8] = [
    ("pipeline", "clock"),
    ("api", "pipeline"),
    ("api", "clock"),
    ("abstract_socket", "unix_connect"),
    ("abstract_socket", "user"),
    ("socket_path", "unix_connect"),
    ("private", "user"),
    ("held_dir", "user"),
];

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// Returns the level of each module according to the table.
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

/// Returns the module that a file belongs to: the first part of its path below `src`.
fn module_of(path: &Path) -> String {
    let below = path.strip_prefix(root().join("src")).expect("in src");
    let first = below.components().next().expect("a name").as_os_str().to_string_lossy();
    first.trim_end_matches(".rs").to_owned()
}

/// Returns the modules that a text names as `crate::module` or, in the binary, `autoappdev::module`.
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

/// Returns the module path of a file of production code, such as `["web", "router"]`.
fn module_path(path: &Path) -> Vec<String> {
    let below = path.strip_prefix(root().join("src")).expect("in src").with_extension("");
    let mut parts: Vec<String> = below.iter().map(|part| part.to_string_lossy().into_owned()).collect();
    parts.pop_if(|last| last == "mod");
    parts
}

/// Returns whether a file is compiled for tests only.
fn is_for_tests(module: &[String]) -> bool {
    module.iter().any(|part| part == "tests" || part == "simulation" || part.ends_with("_tests"))
}

/// Returns the text without comments, the contents of strings, and test modules.
fn code_of(text: &str) -> String {
    let mut code = String::new();
    let mut lines = text.lines().peekable();
    while let Some(line) = lines.next() {
        if line == "#[cfg(test)]" && lines.peek().is_some_and(|next| next.contains("mod ") && next.ends_with('{')) {
            break;
        }
        if line.trim_start().starts_with("//") {
            continue;
        }
        let line = line.replace("pub(in crate::", "pub(in ");
        // Every second piece between quotes is the contents of a string. A string that continues in the next line is prose, which
        // names no path.
        code.extend(line.split('"').step_by(2));
        code.push('\n');
    }
    code
}

/// Returns every path that begins at `at`, with the lists in braces expanded: `a::{b, c::d}` becomes `a::b` and `a::c::d`.
fn paths_at(code: &str, at: usize) -> Vec<Vec<String>> {
    fn read<'c>(rest: &mut &'c str, head: &[String], found: &mut Vec<Vec<String>>) {
        let mut path = head.to_vec();
        loop {
            *rest = rest.trim_start();
            if let Some(list) = rest.strip_prefix('{') {
                *rest = list;
                while !rest.trim_start().starts_with('}') && !rest.is_empty() {
                    read(rest, &path, found);
                    *rest = rest.trim_start().trim_start_matches(',');
                    if !rest
                        .trim_start()
                        .starts_with(|next: char| next == '}' || next == '{' || next == '_' || next.is_alphabetic())
                    {
                        return;
                    }
                }
                *rest = rest.trim_start().trim_start_matches('}');
                return;
            }
            let end = rest.find(|c: char| c != '_' && !c.is_alphanumeric()).unwrap_or(rest.len());
            let (name, after): (&'c str, &'c str) = rest.split_at(end);
            path.push(name.to_owned());
            *rest = after;
            match rest.strip_prefix("::") {
                Some(next) => *rest = next,
                None => break,
            }
        }
        if let Some(renamed) = rest.strip_prefix(" as ") {
            *rest = renamed.trim_start_matches(|c: char| c == '_' || c.is_alphanumeric());
        }
        found.push(path);
    }
    let mut found = Vec::new();
    read(&mut &code[at..], &[], &mut found);
    found
}

/// Returns the files that a file uses, from its paths: `crate::…`, `super::…`, `self::…`, and the names of its own child modules.
fn uses(module: &[String], code: &str, modules: &BTreeSet<Vec<String>>) -> BTreeSet<Vec<String>> {
    let children: Vec<&String> = modules.iter().filter_map(|other| other.strip_prefix(module)?.first()).collect();
    let is_name = |c: char| c == '_' || c.is_alphanumeric();
    let mut used = BTreeSet::new();
    for (at, _) in code.match_indices("::") {
        let start = code[..at].rfind(|c: char| !is_name(c)).map_or(0, |before| before + 1);
        let first = &code[start..at];
        if code[..start].ends_with("::") || first.is_empty() {
            continue;
        }
        for path in paths_at(code, start) {
            let (mut base, mut rest) = match first {
                "crate" => (Vec::new(), &path[1..]),
                "self" => (module.to_vec(), &path[1..]),
                "super" => (module[..module.len() - 1].to_vec(), &path[1..]),
                child if children.iter().any(|known| *known == child) => (module.to_vec(), &path[..]),
                _ => continue,
            };
            while rest.first().is_some_and(|part| part == "super") {
                base.pop();
                rest = &rest[1..];
            }
            for part in rest {
                let deeper = [base.clone(), vec![part.clone()]].concat();
                if !modules.contains(&deeper) {
                    break;
                }
                base = deeper;
            }
            if modules.contains(&base) && base != module {
                used.insert(base);
            }
        }
    }
    used
}

#[test]
fn file_imports_form_no_cycle() {
    let files: BTreeMap<Vec<String>, String> = sources(&root().join("src"))
        .iter()
        .map(|path| (module_path(path), code_of(&fs::read_to_string(path).expect("text"))))
        .filter(|(module, _)| !is_for_tests(module) && module != &["lib"] && module != &["main"])
        .collect();
    let modules: BTreeSet<Vec<String>> = files.keys().cloned().collect();
    let graph: BTreeMap<&Vec<String>, BTreeSet<Vec<String>>> =
        files.iter().map(|(module, code)| (module, uses(module, code, &modules))).collect();
    assert!(graph.values().map(BTreeSet::len).sum::<usize>() > 300, "few imports were found: does this test still see them?");
    let reaches = |from: &Vec<String>, to: &Vec<String>| {
        let (mut seen, mut open) = (BTreeSet::new(), vec![from]);
        while let Some(next) = open.pop() {
            for used in &graph[next] {
                if used == to {
                    return true;
                }
                if seen.insert(used) {
                    open.push(used);
                }
            }
        }
        false
    };
    let mut circles = Vec::new();
    for (module, used) in &graph {
        for other in used.iter().filter(|other| reaches(other, module)) {
            circles.push(format!("{} uses {}, which uses it", module.join("::"), other.join("::")));
        }
    }
    assert!(circles.is_empty(), "{} imports are part of a circle:\n{}", circles.len(), circles.join("\n"));
}

#[test]
fn use_paths_are_parsed_in_every_form() {
    let modules: BTreeSet<Vec<String>> = ["web", "web::app", "web::auth", "web::auth::role", "store"]
        .iter()
        .map(|path| path.split("::").map(str::to_owned).collect())
        .collect();
    let found = |module: &str, code: &str| -> Vec<String> {
        let module: Vec<String> = module.split("::").map(str::to_owned).collect();
        uses(&module, code, &modules).iter().map(|path| path.join("::")).collect()
    };
    assert_eq!(found("web::auth", "use crate::web::app::App;"), ["web::app"]);
    assert_eq!(found("web::auth::role", "let x = super::super::app::App::new();"), ["web::app"]);
    assert_eq!(found("web::auth::role", "use super::{check, super::app};"), ["web::app", "web::auth"]);
    assert_eq!(
        found("web", "use app::App;\nuse self::auth::{role::{self, Role}, Caller};\nstd::app::f();"),
        ["web::app", "web::auth", "web::auth::role"]
    );
    assert_eq!(found("store", "use crate::{web::{\n    app::App as Page,\n    auth,\n}, store};"), ["web::app", "web::auth"]);
    assert_eq!(code_of("a // b\n// c\nd(\"crate::e\")\n#[cfg(test)]\nmod tests {\nf"), "a // b\nd()\n");
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
fn imports_lead_only_to_lower_levels() {
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
            // The command line is called by `main`, which is on the same, highest level.
            let is_main = module == "main";
            assert!(to < &table[&module] || is_allowed || is_main, "{} imports {import}, which is not below it", path.display());
            seen += 1;
        }
    }
    assert!(seen > 50, "only {seen} imports were found: does this test still see them?");
}

#[test]
fn unsafe_occurs_in_three_files_only() {
    for path in sources(&root().join("src")) {
        let text = fs::read_to_string(&path).expect("text");
        let blocks = text.lines().filter(|line| !line.trim_start().starts_with("//") && line.contains("unsafe {")).count();
        let may = ["spawn.rs", "memory.rs", "pages.rs"].map(|name| Path::new("src/process").join(name));
        let allowed = usize::from(may.iter().any(|may| path.ends_with(may)));
        assert_eq!(blocks, allowed, "{}", path.display());
    }
}

/// For Rust, rustfmt checks this.
#[test]
fn page_has_no_line_over_150_characters() {
    let (mut long, mut seen) = (Vec::new(), 0);
    for entry in fs::read_dir(root().join("static")).expect("static/ is there") {
        let path = entry.expect("it is read").path();
        // An icon is one drawing on one line.
        if path.extension().is_some_and(|ending| ending == "svg") {
            continue;
        }
        for (n, line) in fs::read_to_string(&path).expect("text").lines().enumerate() {
            seen += 1;
            if line.chars().count() > 150 {
                long.push(format!("{}:{}", path.display(), n + 1));
            }
        }
    }
    assert!(long.is_empty(), "lines over 150 characters: {long:?}");
    assert!(seen > 1000, "only {seen} lines were seen: does this test still find the page?");
}

#[test]
fn imports_are_found_in_every_form() {
    assert_eq!(imports("use crate::clock::Clock;"), ["clock"]);
    assert_eq!(imports("use crate::{store, shim::run};"), ["store", "shim"]);
    assert_eq!(imports("    let x = crate::log::read();"), ["log"]);
    assert_eq!(imports("use autoappdev::cli::{self, Modes};"), ["cli"]);
    assert!(imports("// use crate::shim;").is_empty());
}
