//! Promises and the tests that hold us to them. Takes the tables of docs/acceptance.md and of MUTATIONS.md files, gives names of tests that
//! are not in the tree and promises without a test. Never judges whether a test keeps its promise: mutations do.

use super::{Finding, Rust, Source};
use proc_macro2::{TokenStream, TokenTree};
use std::str::FromStr;

/// What stands in the place of a test that there is none of.
const NOT_YET: &str = "not yet";

pub fn check(sources: &[Source], parsed: &[Rust]) -> Vec<Finding> {
    let is_table = |path: &str| path == "docs/acceptance.md" || path.ends_with("/MUTATIONS.md");
    sources.iter().filter(|s| is_table(&s.path)).flat_map(|source| check_file(source, parsed)).collect()
}

fn check_file(source: &Source, parsed: &[Rust]) -> Vec<Finding> {
    let mut findings = Vec::new();
    for (i, line) in source.text.lines().enumerate() {
        let mut report = |message: String| {
            findings.push(Finding { path: source.path.clone(), line: i + 1, message, is_warning: false });
        };
        let named: Vec<(&str, &str)> = line.split('`').skip(1).step_by(2).filter_map(test_name).collect();
        for (path, name) in &named {
            match parsed.iter().find(|rust| rust.source.path == *path) {
                None => report(format!("{path} is not in the tree")),
                Some(rust) if !tests_of(rust).iter().any(|test| test == name) => {
                    report(format!("{path} has no test called {name}"));
                }
                Some(_) => {}
            }
        }
        let is_row = line.starts_with("| ") && !line.starts_with("| ---") && !line.starts_with("| concern");
        if source.path.starts_with("docs/") && is_row && named.is_empty() && !line.contains(NOT_YET) {
            report(format!("a promise without a test; name one or write \"{NOT_YET}\""));
        }
    }
    findings
}

/// "crates/a/tests/b.rs::name" in its two parts.
fn test_name(code: &str) -> Option<(&str, &str)> {
    code.split_once("::").filter(|(path, _)| path.ends_with(".rs"))
}

/// The functions of a file that carry `#[test]`, those inside of macros too.
fn tests_of(rust: &Rust) -> Vec<String> {
    let tokens = TokenStream::from_str(&rust.source.text).expect("bug: a parsed file has tokens");
    let mut names = Vec::new();
    collect(tokens, &mut names);
    names
}

fn collect(tokens: TokenStream, names: &mut Vec<String>) {
    let trees: Vec<TokenTree> = tokens.into_iter().collect();
    let mut is_test = false;
    for (i, tree) in trees.iter().enumerate() {
        match tree {
            TokenTree::Group(group) if group.stream().to_string() == "test" => is_test = true,
            TokenTree::Group(group) => collect(group.stream(), names),
            TokenTree::Ident(word) if word == "fn" => {
                let name = trees.get(i + 1).map(TokenTree::to_string);
                names.extend(name.filter(|_| is_test));
                is_test = false;
            }
            TokenTree::Ident(_) | TokenTree::Punct(_) | TokenTree::Literal(_) => {}
        }
    }
}
