//! The shortener of the page's script: short names, no comments, and no spaces, line ends and semicolons that separate nothing.
//!
//! Called by `bundle.rs`, so it is compiled into build.rs too. A parser distinguishes a variable from a property of the same
//! name. A name is replaced by the same short one in every scope, so every use keeps its meaning.

use std::cmp::Reverse;
use std::collections::{HashMap, HashSet};

use tree_sitter::{Node, Parser, Tree};

/// The number of a line, counted from 0, and what is wrong with the script there.
pub(super) type Wrong = (usize, String);

/// The letters of the new names.
const LETTERS: &[u8] = b"abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ";
/// The words of the language with up to three letters. Only a script of more than 140,000 names gets names of four letters.
const WORDS: [&str; 13] = ["as", "do", "for", "get", "if", "in", "let", "new", "of", "set", "try", "use", "var"];

pub(super) fn shorten(script: &str) -> Result<String, Wrong> {
    let tree = parse(script)?;
    let short = short_names(tree.root_node(), script);
    let mut text = String::new();
    let mut end = 0;
    // Whether the last token is a semicolon that a closing brace would make unnecessary.
    let mut is_needless = false;
    walk(tree.root_node(), &mut Vec::new(), &mut |node, above| {
        if node.child_count() > 0 {
            return true;
        }
        // A comment is thus part of the gap between two tokens.
        if node.kind() == "comment" {
            return false;
        }
        let old = &script[node.byte_range()];
        let new = match (short.get(old).filter(|_| is_name(node)), node.kind(), above.last().map(Node::kind)) {
            // `let` is shorter. The source shows which names are never assigned.
            (None, "const", _) => "let".to_owned(),
            (None, ..) => old.to_owned(),
            (Some(new), "identifier", Some("export_specifier")) => format!("{new} as {old}"),
            (Some(new), "identifier", _) => new.clone(),
            (Some(new), ..) => format!("{old}:{new}"),
        };
        let gap = &script[end..node.start_byte()];
        if is_needless && new == "}" {
            text.pop();
        }
        is_needless = new == ";" && !above.last().is_some_and(|it| matches!(it.kind(), "empty_statement" | "for_statement"));
        // After these characters no line end can end a statement, and before a closing brace it does not have to.
        if gap.contains('\n') && new != "}" && !text.ends_with([';', '{', ',']) {
            text.push('\n');
        } else if !gap.is_empty() && is_apart(&text, &new) {
            text.push(' ');
        }
        text += &new;
        end = node.end_byte();
        false
    });
    Ok(text.trim_start().to_owned() + "\n")
}

/// Returns the syntax tree of a script, or the first error in it.
fn parse(script: &str) -> Result<Tree, Wrong> {
    let mut parser = Parser::new();
    parser.set_language(&tree_sitter_javascript::LANGUAGE.into()).map_err(|e| (0, e.to_string()))?;
    let tree = parser.parse(script, None).ok_or((0, "the parser gave up".to_owned()))?;
    let mut wrong = None;
    walk(tree.root_node(), &mut Vec::new(), &mut |node, _| {
        let what = match node.kind() {
            _ if node.is_error() || node.is_missing() => "this is no JavaScript that the parser knows",
            "import_statement" => "an import must stand at the start of a line",
            // Other exports would expose a new name.
            "export_statement"
                if node.named_child(0).is_none_or(|it| it.kind() != "export_clause") || node.named_child_count() > 1 =>
            {
                "an export has the form export { names };"
            }
            "export_specifier" if node.child_by_field_name("alias").is_some() => "an export cannot have another name",
            _ => return wrong.is_none(),
        };
        wrong.get_or_insert((node.start_position().row, what.to_owned()));
        false
    });
    wrong.map_or(Ok(tree), Err)
}

/// Visits a node with all its ancestors, and then its children if the visitor returns true.
fn walk<'t>(node: Node<'t>, above: &mut Vec<Node<'t>>, visit: &mut impl FnMut(Node<'t>, &[Node<'t>]) -> bool) {
    if visit(node, above) {
        above.push(node);
        for child in node.children(&mut node.walk()) {
            walk(child, above, visit);
        }
        above.pop();
    }
}

/// Returns the new name of each name that is declared wherever it is used.
///
/// A name that is used without a declaration is the browser's. It is kept, even where the script declares it, and no other name
/// may become it.
fn short_names<'s>(root: Node<'_>, script: &'s str) -> HashMap<&'s str, String> {
    let mut declared = HashSet::new();
    walk(root, &mut Vec::new(), &mut |node, above| {
        let (scope, names) = declares(node, above);
        for name in names.map(|names| bound(names, script)).unwrap_or_default() {
            declared.insert((scope, name));
        }
        true
    });
    let mut uses: HashMap<&str, (usize, usize)> = HashMap::new();
    let mut kept: HashSet<&str> = WORDS.into();
    walk(root, &mut Vec::new(), &mut |node, above| {
        if is_name(node) {
            let name = &script[node.byte_range()];
            uses.entry(name).or_insert((0, node.start_byte())).0 += 1;
            // The parameters of a method are not known to an expression that computes its name.
            let scopes = above.iter().enumerate().filter(|(n, scope)| {
                scope.kind() != "method_definition"
                    || above.get(n + 1).is_none_or(|below| below.kind() != "computed_property_name")
            });
            if !scopes.into_iter().any(|(_, scope)| declared.contains(&(scope.id(), name))) {
                kept.insert(name);
            }
        }
        true
    });
    let mut names: Vec<_> = uses.into_iter().filter(|(name, _)| !kept.contains(name)).collect();
    names.sort_by_key(|(_, (count, first))| (Reverse(*count), *first));
    let free = (0..).map(name_of_number).filter(|name| !kept.contains(name.as_str()));
    names.into_iter().map(|(name, _)| name).zip(free).collect()
}

/// Checks whether a node is the name of a variable, a function, a class or a parameter, where it is declared or used.
fn is_name(node: Node<'_>) -> bool {
    matches!(node.kind(), "identifier" | "shorthand_property_identifier" | "shorthand_property_identifier_pattern")
}

/// Returns the scope in which a node declares names, and the pattern that contains them.
///
/// A `var` counts only within its block. If it is used outside, it is taken for a name of the browser's and kept, which does no
/// harm.
fn declares<'t>(node: Node<'t>, above: &[Node<'t>]) -> (usize, Option<Node<'t>>) {
    let outside = || above.iter().rev().find(|scope| is_scope(scope.kind())).map_or(0, Node::id);
    match node.kind() {
        "variable_declarator" | "function_declaration" | "generator_function_declaration" | "class_declaration" => {
            (outside(), node.child_by_field_name("name"))
        }
        "function_expression" | "generator_function" | "class" => (node.id(), node.child_by_field_name("name")),
        "arrow_function" | "catch_clause" => (node.id(), node.child_by_field_name("parameter")),
        "for_in_statement" => (node.id(), node.child_by_field_name("kind").and(node.child_by_field_name("left"))),
        "formal_parameters" => (outside(), Some(node)),
        _ => (0, None),
    }
}

fn is_scope(kind: &str) -> bool {
    let is_function = kind.contains("function") || kind == "method_definition";
    is_function
        || matches!(
            kind,
            "program" | "statement_block" | "switch_body" | "class" | "for_statement" | "for_in_statement" | "catch_clause"
        )
}

/// Returns the names in a pattern, without those in its default values.
fn bound<'s>(pattern: Node<'_>, script: &'s str) -> Vec<&'s str> {
    let inside = match pattern.kind() {
        "identifier" | "shorthand_property_identifier_pattern" => return vec![&script[pattern.byte_range()]],
        "assignment_pattern" | "object_assignment_pattern" => pattern.child_by_field_name("left").into_iter().collect(),
        "pair_pattern" => pattern.child_by_field_name("value").into_iter().collect(),
        "array_pattern" | "object_pattern" | "rest_pattern" | "formal_parameters" => {
            pattern.named_children(&mut pattern.walk()).collect()
        }
        _ => Vec::new(),
    };
    inside.into_iter().flat_map(|pattern| bound(pattern, script)).collect()
}

/// Returns the new name with this number. All names of one letter come first, then all names of two.
fn name_of_number(number: usize) -> String {
    let letter = char::from(LETTERS[number % LETTERS.len()]);
    let rest = (number / LETTERS.len()).checked_sub(1).map(name_of_number).unwrap_or_default();
    rest + &letter.to_string()
}

/// Checks whether a text and a token would be parsed differently without a space between them.
fn is_apart(before: &str, token: &str) -> bool {
    let (Some(last), Some(first)) = (before.chars().next_back(), token.chars().next()) else { return false };
    let in_word = |c: char| c.is_alphanumeric() || !c.is_ascii() || matches!(c, '_' | '$' | '#' | '\\');
    match (last, first) {
        // Also `/x/ in y` and `1. in y`.
        (a, b) if in_word(b) => in_word(a) || matches!(a, '/' | '.'),
        // `1 .x`, `a ? .5 : 1`
        (a, '.') => in_word(a) || a == '?',
        ('+', '+') | ('-', '-') | ('/' | '<', '/' | '!') => true,
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::fs;
    use std::path::Path;

    use super::super::{ENTRY, Script};
    use super::*;

    fn become_short(cases: &[(&str, &str)]) {
        for (long, short) in cases {
            assert_eq!(shorten(long).expect(long), format!("{short}\n"), "{long}");
        }
    }

    #[test]
    fn shortened_names_keep_their_meaning() {
        become_short(&[
            ("const long = 1;\nf({ long, other: long, long: 2 }, o.long);", "let a=1;f({long:a,other:a,long:2},o.long);"),
            (
                "const { name, size = name, at: [, it, ...rest], deep: { id: inner = it } = {} } = o;",
                "let{name:a,size:c=a,at:[,b,...d],deep:{id:e=b}={}}=o;",
            ),
            ("let x, y;\n({ x, y = x } = o);\n[x, y] = [y, x];", "let a,b;({x:a,y:b=a}=o);[a,b]=[b,a];"),
            (
                "const long = 1;\nf(`  ${ long } long  \\` ${`${long} ` + ' long '}  \n ${long}\n`);",
                "let a=1;f(`  ${a} long  \\` ${`${a} `+' long '}  \n ${a}\n`);",
            ),
            ("const long = 4;\nf(/long [/ ]'/g in o, long / 2 / long);", "let a=4;f(/long [/ ]'/g in o,a/ 2/ a);"),
            (
                "class Long extends Base {\n  #at = at; static long = Long;\n  at() { return this.#at; }\n  get [long]() {}\n}\nlet at, long;",
                "class a extends Base{#at=b;static long=a;at(){return this.#at}\nget[c](){}}\nlet b,c;",
            ),
            (
                "f({ long() {}, get it() { return 1; }, async *all(it) { yield it; } });",
                "f({long(){},get it(){return 1},async*all(a){yield a}});",
            ),
            ("long: for (const long of o) { if (long) continue long; }", "long:for(let a of o){if(a)continue long}"),
            ("f(one => one, async (two, { three }) => two + three);", "f(a=>a,async(b,{three:c})=>b+c);"),
            (
                "try { f(); } catch { g(); }\ntry { f(); } catch ({ message }) { g(message); }",
                "try{f()}catch{g()}\ntry{f()}catch({message:a}){g(a)}",
            ),
            (
                "const f = function self(n) { return n && self(n); };\nexport { f };",
                "let b=function c(a){return a&&c(a)};export{b as f};",
            ),
            // Comments.
            ("// One\nlet one; // 1\n/* two */ let/**/two;\n", "let a;let b;"),
        ]);
    }

    #[test]
    fn names_used_from_the_browser_are_not_renamed() {
        become_short(&[
            // The first is the window's, and no name may become `a` while the script uses the browser's.
            ("f(name);\n{ const name = 1, b = name + a; }", "f(name);{let name=1,b=name+a}"),
            ("function open() {}\nopen();", "function a(){}\na();"),
            ("{ function open() {} }\nopen();", "{function open(){}}\nopen();"),
            ("f((top) => top, top);", "f((top)=>top,top);"),
            ("for (const top of o) f(top);\nf(top);", "for(let top of o)f(top);f(top);"),
            ("for (let top = 0; top;) f(top);\nf(top);", "for(let top=0;top;)f(top);f(top);"),
            ("try {} catch (event) { f(event); }\nf(event);", "try{}catch(event){f(event)}\nf(event);"),
            ("f(class top {}, top);", "f(class top{},top);"),
            ("f(function top() {}, top);", "f(function top(){},top);"),
            ("f({ [top](top) {} });", "f({[top](top){}});"),
            ("f((one = open) => { const open = one; });", "f((a=open)=>{let open=a});"),
            ("switch (top) { case 1: let top; }", "switch(top){case 1:let top}"),
            ("f({ top });\n{ let top; }", "f({top});{let top}"),
        ]);
    }

    #[test]
    fn spaces_stay_where_they_separate() {
        become_short(&[
            ("f(x + +y, x - --y, x++ + y, x + -y);", "f(x+ +y,x- --y,x++ +y,x+-y);"),
            ("f(1 .x, x ? .5 : 1, x / /y/.z, /x/ in y, 1. in y, x < !y);", "f(1 .x,x? .5:1,x/ /y/.z,/x/ in y,1. in y,x< !y);"),
            ("f(typeof x, typeof 'x', new (x), async () => {}, () => `x`);", "f(typeof x,typeof'x',new(x),async()=>{},()=>`x`);"),
            ("for (x of [y]) if (x) f(); else g(ä in x, $ in x);", "for(x of[y])if(x)f();else g(ä in x,$ in x);"),
        ]);
    }

    #[test]
    fn line_ends_and_semicolons_stay_where_they_separate() {
        become_short(&[
            ("f = () => {}\ng()\n\nh\n(x)", "f=()=>{}\ng()\nh\n(x)"),
            ("{\n  f(x,\n    y);\n  return;\n}", "{f(x,y);return}"),
            ("{ while (f()) ; }", "{while(f());}"),
            ("{ if (x) ; else ; }", "{if(x);else;}"),
            ("{ for (;;) ; }\n{ for (; x;) { y } }", "{for(;;);}\n{for(;x;){y}}"),
            ("f(';}', `,\\n;}${x}`);", "f(';}',`,\\n;}${x}`);"),
            ("class A { x = 1; static { f(); } }", "class a{x=1;static{f()}}"),
        ]);
    }

    #[test]
    fn unsupported_javascript_is_refused_with_its_line() {
        for (script, line, wrong) in [
            ("let x;\nlet y = ;", 1, "this is no JavaScript that the parser knows"),
            ("let x;\nf(", 1, "this is no JavaScript that the parser knows"),
            ("f(x);\n{\nf(x);\n", 2, "this is no JavaScript that the parser knows"),
            ("let x;\nif (x) { f(\"x); }", 1, "this is no JavaScript that the parser knows"),
            ("\nexport const x = 1;", 1, "an export has the form export { names };"),
            ("\n\nexport default x;", 2, "an export has the form export { names };"),
            ("export * from './x.js';", 0, "an export has the form export { names };"),
            ("export { x } from './x.js';", 0, "an export has the form export { names };"),
            ("let x;\nexport { x as y };", 1, "an export cannot have another name"),
            ("f(); import { x } from './x.js';", 0, "an import must stand at the start of a line"),
        ] {
            assert_eq!(shorten(script).expect_err(script), (line, wrong.to_owned()), "{script}");
        }
    }

    #[test]
    fn new_names_are_short_and_differ_from_words_and_each_other() {
        let names = (0..4000).map(|n| format!("name_{n}")).collect::<Vec<_>>();
        let text = shorten(&format!("let {};", names.join(","))).expect("whole");
        let list = text.trim_end().strip_prefix("let ").and_then(|list| list.strip_suffix(';')).expect("as it was");
        let new: HashSet<_> = list.split(',').collect();
        assert_eq!(new.len(), names.len());
        assert!(new.iter().all(|name| name.len() <= 3 && !WORDS.contains(name)), "{list}");
        assert!(new.contains("a") && new.contains("aa") && new.contains("aaa"), "{list}");
    }

    /// Returns the tokens of a script, and whether each is a name. Leaves out semicolons before a brace, and uses one word for
    /// declarations.
    fn tokens(script: &str) -> Vec<(bool, &str)> {
        let tree = parse(script).expect("it has no error");
        let mut tokens = Vec::new();
        walk(tree.root_node(), &mut Vec::new(), &mut |node, _| {
            let text = &script[node.byte_range()];
            match node.kind() {
                "comment" => {}
                "shorthand_property_identifier" | "shorthand_property_identifier_pattern" => {
                    tokens.extend([(false, text), (false, ":"), (true, text)]);
                }
                "string" | "regex" => tokens.push((false, text)),
                "const" => tokens.push((false, "let")),
                kind if node.child_count() == 0 => tokens.push((kind == "identifier", text)),
                _ => return true,
            }
            false
        });
        let next = tokens.clone().into_iter().skip(1).chain([(false, "")]);
        let is_needless = |(at, next): &((bool, &str), (bool, &str))| at.1 == ";" && next.1 == "}";
        tokens.into_iter().zip(next).filter(|pair| !is_needless(pair)).map(|(token, _)| token).collect()
    }

    #[test]
    fn bundled_page_differs_from_source_only_in_names() {
        let files = fs::read_dir(Path::new(env!("CARGO_MANIFEST_DIR")).join("static"))
            .expect("it is there")
            .map(|file| file.expect("it is read"));
        let read =
            |file: fs::DirEntry| (file.file_name().into_string().expect("text"), fs::read_to_string(file.path()).expect("text"));
        let sources: BTreeMap<_, _> = files.map(read).collect();
        let mut script =
            Script { sources: &sources, text: String::new(), places: Vec::new(), names: HashMap::new(), visited: Vec::new() };
        script.add(ENTRY).expect("whole");
        let short = shorten(&script.text).expect("whole");
        let (before, exported) = script.text.split_once("\nexport {").expect("app.js ends with an export");
        let (after, exported_after) = short.split_once("export{").expect("its export stays");
        let (before, after) = (tokens(before), tokens(after));
        assert_eq!(before.len(), after.len());
        let (mut new, mut old) = (HashMap::new(), HashMap::new());
        for ((is_name, before), (is_still_name, after)) in before.into_iter().zip(after) {
            assert_eq!(is_name, is_still_name, "{before} {after}");
            assert_eq!(*new.entry((is_name, before)).or_insert(after), after, "{before} got two names");
            assert_eq!(*old.entry((is_name, after)).or_insert(before), before, "two names became {after}");
            assert!(is_name || before == after, "{before} became {after}");
        }
        let names = exported.trim_end().trim_end_matches("};").split(',').map(str::trim);
        let expected: Vec<_> = names.map(|name| format!("{} as {name}", new[&(true, name)])).collect();
        assert_eq!(exported_after.trim_end(), expected.join(",") + "};");
        for name in ["document", "fetch", "location", "localStorage", "Math", "JSON", "undefined"] {
            assert_eq!(new.get(&(true, name)).copied().unwrap_or(name), name);
        }
        assert!(short.len() * 4 < script.text.len() * 3, "{} of {} bytes are left", short.len(), script.text.len());
    }
}
