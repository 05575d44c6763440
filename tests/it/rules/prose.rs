//! The prose reads as a native technical writer would write it, as far as expressions can tell: `prose.txt` lists them.

use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};

use regex::Regex;

/// An entry of `prose.txt`.
struct Expression {
    pattern: Regex,
    /// A permitted use of the expression.
    except: Option<Regex>,
    not: String,
    but: String,
}

fn expressions() -> Vec<Expression> {
    let mut expressions = Vec::new();
    for block in include_str!("prose.txt").split("\n\n").filter(|block| !block.starts_with('#')) {
        let lines: Vec<&str> = block.trim_end().lines().map(str::trim).collect();
        let labelled = |label| lines.iter().find_map(|line| line.strip_prefix(label)).map(str::trim);
        let sentence = |label| labelled(label).unwrap_or_else(|| panic!("no {label} {block}")).to_owned();
        let regex = |text: &str| Regex::new(text).unwrap_or_else(|error| panic!("{error}"));
        let except = labelled("except:").map(regex);
        expressions.push(Expression { pattern: regex(lines[0]), except, not: sentence("not:"), but: sentence("but:") });
    }
    expressions
}

impl Expression {
    fn is_in(&self, sentence: &str) -> bool {
        let rest = self.except.as_ref().map_or(sentence.into(), |except| except.replace_all(sentence, ""));
        self.pattern.is_match(&rest)
    }
}

/// Returns the sentences of a Markdown file, each with its line number, without code, headings and link targets.
fn sentences_of_markdown(text: &str) -> Vec<(usize, String)> {
    let (mut sentences, mut in_code) = (Vec::new(), false);
    for (number, line) in (1..).zip(text.lines()) {
        let line = line.trim();
        if line.starts_with("```") {
            in_code = !in_code;
        }
        if in_code || line.starts_with('#') || line.starts_with("```") {
            continue;
        }
        for cell in line.split('|') {
            let start = cell.trim_start_matches(|c: char| c.is_whitespace() || "-*>".contains(c));
            for sentence in split_sentences(&without_code(start)) {
                sentences.push((number, sentence));
            }
        }
    }
    sentences
}

/// The sentences of a file's comments, each with the number of the line where its paragraph begins. Consecutive comment lines
/// are one
/// paragraph, unless a line is empty or begins an item of a list.
fn sentences_of_comments(text: &str, marker: &Regex) -> Vec<(usize, String)> {
    let (mut paragraphs, mut is_open, mut in_code) = (Vec::<(usize, String)>::new(), false, false);
    for (number, line) in (1..).zip(text.lines()) {
        let Some(comment) = marker.captures(line).and_then(|found| found.get(1)) else {
            is_open = false;
            continue;
        };
        let comment = comment.as_str().trim();
        if comment.starts_with("```") {
            in_code = !in_code;
        }
        if in_code || comment.is_empty() || comment.starts_with(['#', '|', '`']) && comment.ends_with("```") {
            is_open = false;
            continue;
        }
        let is_item = comment.starts_with("- ") || comment.starts_with("* ");
        match paragraphs.last_mut().filter(|_| is_open && !is_item) {
            Some((_, paragraph)) => *paragraph = format!("{paragraph} {comment}"),
            None => paragraphs.push((number, comment.trim_start_matches(['-', '*', ' ']).to_owned())),
        }
        is_open = true;
    }
    let sentences = |(number, paragraph): (usize, String)| {
        split_sentences(&without_code(&paragraph)).into_iter().map(move |sentence| (number, sentence)).collect::<Vec<_>>()
    };
    paragraphs.into_iter().flat_map(sentences).collect()
}

/// Replaces code spans and emphasis, so that only the words of the prose remain.
fn without_code(text: &str) -> String {
    let parts = text.split('`').enumerate().map(|(n, part)| if n % 2 == 0 { part.to_owned() } else { "CODE".to_owned() });
    parts.collect::<String>().replace("**", "")
}

fn split_sentences(text: &str) -> Vec<String> {
    let mut sentences = Vec::new();
    let mut rest = text.trim();
    while !rest.is_empty() {
        let end = [". ", "? ", ": ", "! "].iter().filter_map(|mark| rest.find(mark)).min().map_or(rest.len(), |at| at + 1);
        let (sentence, next) = rest.split_at(end);
        sentences.push(sentence.trim().to_owned());
        rest = next.trim_start();
    }
    sentences
}

fn is_question(sentence: &str) -> bool {
    sentence.ends_with('?')
}

/// Returns every Markdown file of the repository.
fn documents(root: &Path) -> Vec<PathBuf> {
    let mut documents = Vec::new();
    for folder in ["", "docs", "examples"] {
        let entries = fs::read_dir(root.join(folder)).expect("there").map(|entry| entry.expect("there").path());
        documents.extend(entries.filter(|path| path.extension().is_some_and(|extension| extension == "md")));
    }
    documents.sort();
    documents
}

/// Every file with this extension in the repository, outside the folders that builds make.
fn files_of_kind(root: &Path, extension: &str) -> Vec<PathBuf> {
    let (mut files, mut folders) = (Vec::new(), vec![root.to_owned()]);
    while let Some(folder) = folders.pop() {
        for path in fs::read_dir(folder).expect("a folder").map(|entry| entry.expect("an entry").path()) {
            let name = path.file_name().expect("a name").to_string_lossy().into_owned();
            if path.is_dir() && !path.is_symlink() && name != "target" && (!name.starts_with('.') || name == ".config") {
                folders.push(path);
            } else if path.extension().is_some_and(|found| found == extension) {
                files.push(path);
            }
        }
    }
    files.sort();
    files
}

#[test]
fn each_expression_matches_only_its_bad_sentence() {
    for expression in expressions() {
        let Expression { pattern, not, but, .. } = &expression;
        assert!(expression.is_in(not), "{pattern} does not find: {not}");
        assert!(!expression.is_in(but), "{pattern} finds: {but}");
    }
}

/// Returns the findings in the sentences of a file, as text.
fn findings(expressions: &[Expression], name: &str, sentences: &[(usize, String)]) -> String {
    let mut found = String::new();
    for (number, sentence) in sentences.iter().filter(|(_, sentence)| !is_question(sentence)) {
        for expression in expressions.iter().filter(|expression| expression.is_in(sentence)) {
            let Expression { pattern, but, .. } = expression;
            writeln!(found, "{name}:{number}: {sentence}\n    ({pattern}; write as in: {but})").expect("a string");
        }
    }
    found
}

fn assert_nothing_found(found: &str) {
    assert!(found.is_empty(), "{found}{} in all (tests/it/rules/prose.txt)", found.lines().count() / 2);
}

#[test]
fn documents_are_in_plain_english() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let (expressions, mut found) = (expressions(), String::new());
    let documents = documents(root);
    assert!(documents.len() >= 8, "{documents:?}");
    for path in documents {
        let text = fs::read_to_string(&path).expect("text");
        let sentences = sentences_of_markdown(&text);
        assert!(!sentences.is_empty(), "{}", path.display());
        found += &findings(&expressions, &path.strip_prefix(root).expect("below").display().to_string(), &sentences);
    }
    assert_nothing_found(&found);
}

#[test]
fn comments_are_in_plain_english() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let (expressions, mut found) = (expressions(), String::new());
    let (slashes, hash, block) = (r"^\s*//[/!]?(?: (.*))?$", r"^\s*#(?: (.*))?$", r"^\s*(?:/\*|<!--)(.*?)(?:\*/|-->)?$");
    // The text of a migration is part of its checksum, so its comments stay as they are.
    let kinds = [("rs", slashes), ("js", slashes), ("css", block), ("html", block), ("toml", hash), ("sh", hash)];
    for (extension, marker) in kinds {
        let marker = Regex::new(marker).expect("an expression");
        let files = files_of_kind(root, extension);
        assert!(!files.is_empty(), "{extension}");
        for path in files {
            let text = fs::read_to_string(&path).expect("text");
            let name = path.strip_prefix(root).expect("below").display().to_string();
            found += &findings(&expressions, &name, &sentences_of_comments(&text, &marker));
        }
    }
    assert_nothing_found(&found);
}
