//! What may not be written in Rust files. Takes a parsed file, gives unfinished work, `unsafe` outside of its crate, tests that do not run,
//! untyped values, wildcards over the ops and layers, and modules without a header. Never looks into comments.

use super::{Finding, Rust};
use proc_macro2::{TokenStream, TokenTree};
use std::str::FromStr;
use syn::spanned::Spanned;
use syn::visit::Visit;

/// Where `unsafe` may be: backends, and a peer of the benchmarks that asks the system for its memory.
const UNSAFE_ALLOWED: &[&str] = &[
    "crates/wholestep-cpu/",
    "crates/wholestep-cuda/",
    "crates/wholestep-wgpu/",
    "bench/peers/",
    "crates/wholestep/tests/allocations.rs",
];

/// Enums of which no variant may be forgotten.
const CLOSED: &[&str] = &[
    "Op",
    "Leaf",
    "Elementwise",
    "Movement",
    "Reduce",
    "Contract",
    "Window",
    "Index",
    "Random",
    "Unary",
    "Binary",
    "Kernel",
    "Layer",
    "LayerSpec",
];

/// A line that says why a wildcard is right there, placed right above it.
const ALLOW_WILDCARD: &str = "// tidy: wildcard, ";

pub fn check(rust: &Rust) -> Vec<Finding> {
    let mut findings = header(rust);
    let tokens = TokenStream::from_str(&rust.source.text).expect("bug: a parsed file has tokens");
    let mut flat = Vec::new();
    flatten(tokens, &mut flat);
    findings.extend(forbidden(rust, &flat));
    if matches_on_ops_or_layers(&rust.source.path) && !rust.is_test_file() {
        let mut wildcards = Wildcards { rust, findings: Vec::new() };
        wildcards.visit_file(&rust.file);
        findings.extend(wildcards.findings);
    }
    findings
}

/// A token's text with its line; groups are opened.
pub type Token = (String, usize);

/// All tokens in order, with the brackets of groups as tokens of their own.
pub fn flatten(tokens: TokenStream, out: &mut Vec<Token>) {
    for tree in tokens {
        match tree {
            TokenTree::Group(group) => {
                let (open, close) = match group.delimiter() {
                    proc_macro2::Delimiter::Parenthesis => ("(", ")"),
                    proc_macro2::Delimiter::Brace => ("{", "}"),
                    proc_macro2::Delimiter::Bracket => ("[", "]"),
                    proc_macro2::Delimiter::None => ("", ""),
                };
                out.push((open.to_string(), group.span_open().start().line));
                flatten(group.stream(), out);
                out.push((close.to_string(), group.span_close().start().line));
            }
            tree => out.push((tree.to_string(), tree.span().start().line)),
        }
    }
}

fn header(rust: &Rust) -> Vec<Finding> {
    let has_header =
        rust.file.attrs.iter().any(|a| matches!(a.style, syn::AttrStyle::Inner(_)) && a.path().is_ident("doc"));
    let needs_header =
        !rust.is_test_file() && !["bench/", "fuzz/"].iter().any(|folder| rust.source.path.starts_with(folder));
    if has_header || !needs_header {
        return Vec::new();
    }
    vec![rust.finding(1, "no module header: `//!` says what the module takes, gives and never does")]
}

fn forbidden(rust: &Rust, tokens: &[Token]) -> Vec<Finding> {
    let is = |at: usize, text: &str| tokens.get(at).is_some_and(|t| t.0 == text);
    let may_be_unsafe = UNSAFE_ALLOWED.iter().any(|allowed| rust.source.path.starts_with(allowed));
    let mut findings = Vec::new();
    for (at, (text, line)) in tokens.iter().enumerate() {
        let message = match text.as_str() {
            "todo" | "unimplemented" if is(at + 1, "!") => format!("{text}!: finish it or take it out"),
            "unsafe" if !may_be_unsafe => format!("unsafe outside of {}", UNSAFE_ALLOWED[0]),
            "ignore" if at >= 2 && is(at - 1, "[") && is(at - 2, "#") => "a test that does not run".to_string(),
            // What a caught panic carries is std's `dyn Any + Send`; there is no other way to say it.
            "dyn" if is(at + 1, "Any") && !(is(at + 2, "+") && is(at + 3, "Send")) => {
                "a value without a type; say which types there are".to_string()
            }
            _ => continue,
        };
        findings.push(rust.finding(*line, message));
    }
    findings
}

/// Files in which a forgotten variant would be a silent fault.
fn matches_on_ops_or_layers(path: &str) -> bool {
    let places =
        ["crates/wholestep-compiler/src/ir/op.rs", "crates/wholestep-compiler/src/ir/op/", "crates/wholestep/src/spec"];
    places.iter().any(|place| path.starts_with(place))
}

struct Wildcards<'a> {
    rust: &'a Rust<'a>,
    findings: Vec<Finding>,
}

impl<'ast> Visit<'ast> for Wildcards<'_> {
    fn visit_expr_match(&mut self, expr: &'ast syn::ExprMatch) {
        let over = expr.arms.iter().find_map(|arm| closed_enum(&arm.pat));
        let wild = expr.arms.iter().find(|arm| matches!(arm.pat, syn::Pat::Wild(_)) && arm.guard.is_none());
        if let (Some(name), Some(arm)) = (over, wild) {
            let line = arm.pat.span().start().line;
            let above = line.checked_sub(2).and_then(|i| self.rust.source.text.lines().nth(i)).unwrap_or("");
            if !self.rust.is_test_line(line) && !above.trim().starts_with(ALLOW_WILDCARD) {
                let message = format!("`_ =>` over {name}: name the variants, so that a new one is not forgotten");
                self.findings.push(self.rust.finding(line, message));
            }
        }
        syn::visit::visit_expr_match(self, expr);
    }
}

/// The closed enum that a pattern names at its top, if one.
fn closed_enum(pattern: &syn::Pat) -> Option<&'static str> {
    let path = match pattern {
        syn::Pat::Path(p) => &p.path,
        syn::Pat::TupleStruct(p) => &p.path,
        syn::Pat::Struct(p) => &p.path,
        syn::Pat::Or(p) => return p.cases.iter().find_map(closed_enum),
        syn::Pat::Reference(p) => return closed_enum(&p.pat),
        _ => return None,
    };
    let owner = path.segments.iter().rev().nth(1)?;
    CLOSED.iter().find(|name| owner.ident == **name).copied()
}

/// First and last line of every item under `#[test]`, `#[cfg(test)]` or `#[cfg(any(test, ..))]`.
pub fn test_lines(file: &syn::File) -> Vec<(usize, usize)> {
    let mut found = TestItems(Vec::new());
    found.visit_file(file);
    found.0
}

struct TestItems(Vec<(usize, usize)>);

impl<'ast> Visit<'ast> for TestItems {
    fn visit_item(&mut self, item: &'ast syn::Item) {
        let attrs: &[syn::Attribute] = match item {
            syn::Item::Mod(i) => &i.attrs,
            syn::Item::Fn(i) => &i.attrs,
            syn::Item::Impl(i) => &i.attrs,
            syn::Item::Use(i) => &i.attrs,
            syn::Item::Const(i) => &i.attrs,
            syn::Item::Static(i) => &i.attrs,
            syn::Item::Struct(i) => &i.attrs,
            syn::Item::Macro(i) => &i.attrs,
            _ => &[],
        };
        if attrs.iter().any(is_test_attr) {
            let span = item.span();
            self.0.push((span.start().line, span.end().line));
        } else {
            syn::visit::visit_item(self, item);
        }
    }
}

fn is_test_attr(attr: &syn::Attribute) -> bool {
    match &attr.meta {
        syn::Meta::Path(path) => path.is_ident("test"),
        syn::Meta::List(list) => {
            let condition = list.tokens.to_string();
            list.path.is_ident("cfg") && (condition == "test" || condition.replace(' ', "").starts_with("any(test,"))
        }
        syn::Meta::NameValue(_) => false,
    }
}
