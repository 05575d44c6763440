//! The bundler of the page's files: all scripts in one file, all styles in one, without what only their authors need.
//!
//! Compiled into build.rs, which packs the result; the program itself does not use it. The scripts are ES modules that a browser
//! could load one by one. Their top-level names differ, so that they can share one scope, and an import never renames anything.
//! So the modules can simply be concatenated. The result is shortened (`shorten.rs`).

use std::collections::{BTreeMap, HashMap};

#[path = "shorten.rs"]
mod shorten;

/// The first module, which imports the others.
const ENTRY: &str = "app.js";
/// The style sheet that the page links.
const STYLE: &str = "style.css";

/// Bundles the page's sources. Both maps lead from a file's name to its text.
///
/// # Errors
/// The name of a source, the line if it is a script, and what is wrong.
pub(crate) fn bundle(sources: &BTreeMap<String, String>) -> Result<BTreeMap<String, String>, String> {
    let of = |ending: &'static str| sources.iter().filter(move |(name, _)| name.ends_with(ending));
    let mut sent = BTreeMap::new();
    for (name, text) in of(".svg") {
        sent.insert(name.clone(), lean(&without(text, "<!--", "-->")));
    }
    let mut page = Page::default();
    for (name, text) in of(".html") {
        sent.insert(name.clone(), lean(&without(&page.take_links(text, sources)?, "<!--", "-->")));
    }
    if let Some((name, _)) = of(".css").find(|(name, _)| !page.linked.contains(name)) {
        return Err(format!("{name}: no page links it"));
    }
    sent.insert(STYLE.to_owned(), page.style);
    let mut script = Script { sources, text: String::new(), places: Vec::new(), names: HashMap::new(), visited: Vec::new() };
    script.add(ENTRY)?;
    if let Some((name, _)) = of(".js").find(|(name, _)| !script.visited.contains(*name)) {
        return Err(format!("{name}: {ENTRY} does not import it"));
    }
    sent.insert(ENTRY.to_owned(), script.shortened()?);
    Ok(sent)
}

/// The style sheets that the markup links.
#[derive(Default)]
struct Page {
    linked: Vec<String>,
    style: String,
}

impl Page {
    /// Concatenates the style sheets in the order of their links. Returns the markup with only the link to [`STYLE`].
    fn take_links(&mut self, markup: &str, sources: &BTreeMap<String, String>) -> Result<String, String> {
        let mut kept = String::new();
        for line in markup.lines() {
            if let Some(name) =
                line.strip_prefix("<link rel=\"stylesheet\" href=\"static/").and_then(|rest| rest.strip_suffix("\">"))
            {
                let text = sources.get(name).ok_or_else(|| format!("{name}: a page links it, and it does not exist"))?;
                self.style += &lean_style(&without(text, "/*", "*/"));
                self.linked.push(name.to_owned());
                if name != STYLE {
                    continue;
                }
            }
            kept = kept + line + "\n";
        }
        Ok(kept)
    }
}

/// The concatenated scripts.
struct Script<'a> {
    sources: &'a BTreeMap<String, String>,
    text: String,
    /// The module and the line number from which each line of the text comes.
    places: Vec<(&'a str, usize)>,
    /// Each top-level name and its module.
    names: HashMap<&'a str, &'a str>,
    visited: Vec<String>,
}

impl<'a> Script<'a> {
    /// Adds a module after the modules that it imports, in the order in which a browser runs them.
    fn add(&mut self, module: &'a str) -> Result<(), String> {
        self.visited.push(module.to_owned());
        let source = self.sources.get(module).ok_or_else(|| format!("{module}: a module imports it, and it does not exist"))?;
        let mut own = Vec::new();
        let mut lines = source.lines().enumerate();
        while let Some((n, line)) = lines.next() {
            let wrong = |what: &str| Err(format!("{module}:{}: {what}", n + 1));
            if line.trim_start().starts_with("//") {
                continue;
            }
            if line.matches('`').count() % 2 != line.matches("\\`").count() % 2 || line.contains("/*") {
                return wrong("a text or a comment spans lines, which would lose its indentation");
            }
            if let Some(import) = line.strip_prefix("import ") {
                let mut import = import.to_owned();
                while !import.ends_with(';') {
                    let Some((_, line)) = lines.next() else { return wrong("the import has no end") };
                    import += line;
                }
                let from = import.split_once("} from './").and_then(|(names, from)| Some((names, from.strip_suffix("';")?)));
                let Some((names, from)) = from.filter(|(names, _)| names.starts_with('{')) else {
                    return wrong("an import has the form import { names } from './module.js';");
                };
                if names.contains(" as ") {
                    return wrong("all modules are in one scope, so an import cannot have another name");
                }
                let Some((from, _)) = self.sources.get_key_value(from) else { return wrong("there is no such module") };
                if !self.visited.contains(from) {
                    self.add(from)?;
                }
                continue;
            }
            let line = line.strip_prefix("export ").filter(|rest| !rest.starts_with('{')).unwrap_or(line);
            if let Some(other) = declared(line).and_then(|name| self.names.insert(name, module)) {
                return wrong(&format!("{other} has this name as well, and all modules are in one scope"));
            }
            own.push((line, n + 1));
        }
        for (line, n) in own {
            let line = lean(line);
            self.places.extend(line.lines().map(|_| (module, n)));
            self.text += &line;
        }
        Ok(())
    }

    /// Returns the script that is sent.
    fn shortened(&self) -> Result<String, String> {
        shorten::shorten(&self.text).map_err(|(line, what)| {
            let (module, line) = self.places.get(line).or(self.places.last()).unwrap_or(&(ENTRY, 1));
            format!("{module}:{line}: {what}")
        })
    }
}

/// Returns the first name that a line declares at the top level of a module.
fn declared(line: &str) -> Option<&str> {
    let line = line.strip_prefix("async ").unwrap_or(line);
    let rest = ["const ", "let ", "function ", "class "].iter().find_map(|word| line.strip_prefix(word))?;
    let end = rest.find(|c: char| !c.is_alphanumeric() && c != '_' && c != '$').unwrap_or(rest.len());
    Some(&rest[..end]).filter(|name| !name.is_empty())
}

/// Returns a text without indentation and empty lines.
fn lean(text: &str) -> String {
    text.lines().map(str::trim_start).filter(|line| !line.is_empty()).flat_map(|line| [line, "\n"]).collect()
}

/// Returns a style sheet without indentation, and without spaces, line ends and semicolons that separate nothing. Quoted text
/// does not change.
fn lean_style(text: &str) -> String {
    let pieces = lean(text).split('"').map(str::to_owned).collect::<Vec<_>>();
    let tight = pieces.iter().enumerate().map(|(n, piece)| {
        if n % 2 == 1 {
            return piece.clone();
        }
        let pairs = [" {", "{ ", "{\n", " }", "}\n", "; ", ";\n", ": ", ", ", ",\n", " > "];
        pairs.iter().fold(piece.clone(), |text, pair| text.replace(pair, pair.trim())).replace(";}", "}")
    });
    tight.collect::<Vec<_>>().join("\"")
}

/// Returns a text without these marks and everything between them.
fn without(text: &str, from: &str, to: &str) -> String {
    let mut rest = text;
    let mut kept = String::new();
    while let Some((before, comment)) = rest.split_once(from) {
        kept.push_str(before);
        rest = comment.split_once(to).map_or("", |(_, after)| after);
    }
    kept + rest
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sources(files: &[(&str, &str)]) -> BTreeMap<String, String> {
        files.iter().map(|(name, text)| ((*name).to_owned(), (*text).to_owned())).collect()
    }

    #[test]
    fn modules_and_styles_become_one_file_each() {
        let page = sources(&[
            (
                "index.html",
                "<head>\n<!-- Of the\n page. -->\n  <link rel=\"icon\" href=\"x\">\n<link rel=\"stylesheet\" href=\"static/style.css\">\n\
              <link rel=\"stylesheet\" href=\"static/more.css\">\n</head>\n",
            ),
            ("style.css", "/* First */\na {\n  b: c;\n}\n"),
            ("more.css", "d { e: f; } /* Second */\n"),
            (
                "app.js",
                "// The entry.\nimport { two } from './two.js';\nimport {\n  one,\n} from './one.js';\n\nconst app = one + two;\n\nexport { app };\n",
            ),
            // A cycle of imports, as between the log and its rows.
            (
                "one.js",
                "import { two } from './two.js';\nexport const one = 1;\n  // Why.\nexport function three() {\n  return two;\n}\n",
            ),
            ("two.js", "import { one } from './one.js';\nexport let two = 2, four = 4;\n"),
            ("icon.svg", "<svg>\n  <!-- A shape -->\n  <path/>\n</svg>\n"),
        ]);
        let sent = bundle(&page).expect("whole");
        assert_eq!(sent["app.js"], "let b=1;function d(){return a}\nlet a=2,e=4;let c=b+a;export{c as app};\n");
        assert_eq!(sent["style.css"], "a{b:c}d{e:f} \n");
        assert_eq!(
            sent["index.html"],
            "<head>\n<link rel=\"icon\" href=\"x\">\n<link rel=\"stylesheet\" href=\"static/style.css\">\n</head>\n"
        );
        assert_eq!(sent["icon.svg"], "<svg>\n<path/>\n</svg>\n");
        assert_eq!(sent.keys().collect::<Vec<_>>(), ["app.js", "icon.svg", "index.html", "style.css"]);
    }

    #[test]
    fn bundle_error_names_file_and_reason() {
        for (app, other, wrong) in [
            ("import { a as b } from './b.js';", "", "app.js:1: all modules are in one scope"),
            ("import * as b from './b.js';", "", "app.js:1: an import has the form"),
            ("import b from './b.js';", "", "app.js:1: an import has the form"),
            ("\nimport { a } from './c.js';", "", "app.js:2: there is no such module"),
            ("import { a } from './b.js';\nconst x = 1;", "\nasync function x() {}", "app.js:2: b.js has this name as well"),
            ("import { a } from './b.js';\nconst x = `\n  y`;", "", "app.js:2: a text or a comment spans lines"),
            ("import { a } from './b.js';\nlet x; /* y */", "", "app.js:2: a text or a comment spans lines"),
            ("const x = 1;", "", "b.js: app.js does not import it"),
            ("import { a } from './b.js';\n\n// Why.\n  let y = ;", "", "app.js:4: this is no JavaScript"),
            ("import { a } from './b.js';\nlet y;", "// Why.\n\nlet x = ;\n", "b.js:3: this is no JavaScript"),
        ] {
            let error = bundle(&sources(&[("app.js", app), ("b.js", other)])).expect_err(app);
            assert!(error.starts_with(wrong), "{app}: {error}");
        }
        let error = bundle(&sources(&[("app.js", ""), ("x.css", "")])).expect_err("no link");
        assert_eq!(error, "x.css: no page links it");
    }
}
