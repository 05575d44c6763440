//! The prose reads as a native technical writer would write it, as far as expressions can tell: `prose.txt` lists them.

use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};

use regex::Regex;

/// An entry of `prose.txt`.
struct Expression {
    pattern: Regex,
    /// A use of it that is fine.
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

/// The sentences of a Markdown file, each with the number of its line. Code, headings and addresses of links are left out.
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

/// Every Markdown file of the repository.
fn documents(root: &Path) -> Vec<PathBuf> {
    let mut documents = Vec::new();
    for folder in ["", "docs", "examples"] {
        let entries = fs::read_dir(root.join(folder)).expect("there").map(|entry| entry.expect("there").path());
        documents.extend(entries.filter(|path| path.extension().is_some_and(|extension| extension == "md")));
    }
    documents.sort();
    documents
}

#[test]
fn each_expression_finds_its_bad_sentence_and_not_the_good_one() {
    for expression in expressions() {
        let Expression { pattern, not, but, .. } = &expression;
        assert!(expression.is_in(not), "{pattern} does not find: {not}");
        assert!(!expression.is_in(but), "{pattern} finds: {but}");
    }
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
        for (number, sentence) in sentences.iter().filter(|(_, sentence)| !is_question(sentence)) {
            for expression in expressions.iter().filter(|expression| expression.is_in(sentence)) {
                let name = path.strip_prefix(root).expect("below").display();
                writeln!(found, "{name}:{number}: {sentence}\n    ({}; write as in: {})", expression.pattern, expression.but)
                    .expect("a string");
            }
        }
    }
    assert!(found.is_empty(), "{found}{} in all (tests/it/rules/prose.txt)", found.lines().count() / 2);
}
