//! Where modules lie and what they use. Takes all parsed files, gives files that no `mod` names and imports in the compiler that run against
//! the order in which its lib.rs lists the modules. Never looks at tests for the order.

use super::code::{Token, flatten};
use super::{Finding, Rust};
use proc_macro2::TokenStream;
use std::collections::{BTreeMap, BTreeSet};
use std::str::FromStr;

const COMPILER: &str = "crates/wholestep-compiler/src/";

/// Rust files of a crate that nothing reaches.
pub fn orphans(files: &[Rust]) -> Vec<Finding> {
    let by_path: BTreeMap<&str, &Rust> = files.iter().map(|r| (r.source.path.as_str(), r)).collect();
    let mut reached = BTreeSet::new();
    let mut open: Vec<String> = by_path.keys().filter(|p| is_root(p)).map(|p| p.to_string()).collect();
    while let Some(path) = open.pop() {
        let Some(rust) = by_path.get(path.as_str()) else { continue };
        if !reached.insert(path.clone()) {
            continue;
        }
        let (dir, name) = path.rsplit_once('/').unwrap_or(("", &path));
        let home = match name {
            _ if is_root(&path) => dir.to_string(),
            "mod.rs" => dir.to_string(),
            name => format!("{dir}/{}", name.trim_end_matches(".rs")),
        };
        children(&rust.file.items, dir, &home, &mut open);
    }
    let unreached = files.iter().filter(|r| !reached.contains(&r.source.path));
    unreached.map(|r| r.finding(1, "no `mod` names this file, so nothing compiles it")).collect()
}

/// Whether cargo starts a crate at this file.
fn is_root(path: &str) -> bool {
    let (dir, name) = path.rsplit_once('/').unwrap_or(("", path));
    let ends = |folder: &str| dir == folder || dir.ends_with(&format!("/{folder}"));
    match name {
        "build.rs" => true,
        "lib.rs" => ends("src"),
        "main.rs" => ends("src") || dir.contains("/examples/") || dir.contains("/tests/"),
        _ => ["tests", "examples", "benches", "bin", "fuzz_targets"].iter().any(|folder| ends(folder)),
    }
}

/// Files that the `mod` items of one file name, all of the places where they may lie.
fn children(items: &[syn::Item], dir: &str, home: &str, out: &mut Vec<String>) {
    for item in items {
        let syn::Item::Mod(module) = item else { continue };
        let name = module.ident.to_string();
        if let Some((_, inside)) = &module.content {
            children(inside, dir, &format!("{home}/{name}"), out);
            continue;
        }
        match path_attr(module) {
            Some(path) => out.push(join(dir, &path)),
            None => out.extend([format!("{home}/{name}.rs"), format!("{home}/{name}/mod.rs")]),
        }
    }
}

/// `path` below `dir`, with each `..` taken away.
fn join(dir: &str, path: &str) -> String {
    let mut parts: Vec<&str> = dir.split('/').filter(|part| !part.is_empty()).collect();
    for part in path.split('/') {
        match part {
            ".." => drop(parts.pop()),
            "." => {}
            part => parts.push(part),
        }
    }
    parts.join("/")
}

fn path_attr(module: &syn::ItemMod) -> Option<String> {
    module.attrs.iter().find(|a| a.path().is_ident("path")).and_then(|a| match &a.meta {
        syn::Meta::NameValue(syn::MetaNameValue {
            value: syn::Expr::Lit(syn::ExprLit { lit: syn::Lit::Str(path), .. }),
            ..
        }) => Some(path.value()),
        _ => None,
    })
}

/// Uses of a module that the compiler's lib.rs lists after the user's own.
pub fn upward_imports(files: &[Rust]) -> Vec<Finding> {
    let Some(lib) = files.iter().find(|r| r.source.path == format!("{COMPILER}lib.rs")) else { return Vec::new() };
    let order: Vec<String> = lib.file.items.iter().filter_map(module_name).collect();
    let mut findings = Vec::new();
    for rust in files {
        let Some(inside) = rust.source.path.strip_prefix(COMPILER) else { continue };
        let modules: Vec<&str> = inside.trim_end_matches(".rs").split('/').collect();
        // A test may compare anything with anything.
        let Some(own) = order.iter().position(|m| m == modules[0]) else { continue };
        if rust.is_test_file() {
            continue;
        }
        let mut tokens = Vec::new();
        flatten(TokenStream::from_str(&rust.source.text).expect("bug: a parsed file has tokens"), &mut tokens);
        for (name, line) in uses(&tokens, modules.len()) {
            let later = order.iter().position(|m| *m == name).is_some_and(|used| used > own);
            if later && !rust.is_test_line(line) {
                let message = format!("{} uses {name}, which lib.rs lists after it", modules[0]);
                findings.push(rust.finding(line, message));
            }
        }
    }
    findings
}

fn module_name(item: &syn::Item) -> Option<String> {
    match item {
        syn::Item::Mod(module) => Some(module.ident.to_string()),
        _ => None,
    }
}

/// Names right below the crate's root that the tokens of a module `depth` levels deep mention: `crate::x`, `crate::{x, y}`, `super::x`.
fn uses(tokens: &[Token], depth: usize) -> Vec<Token> {
    let text = |at: usize| tokens.get(at).map_or("", |t| t.0.as_str());
    let mut found = Vec::new();
    for at in 0..tokens.len() {
        let mut next = at;
        if text(at) == "crate" && text(at + 1) == ":" {
            next = at + 3;
        } else if text(at) == "super" && (at < 3 || text(at - 3) != "super") {
            let mut ups = 0;
            while text(next) == "super" {
                ups += 1;
                next += 3;
            }
            if ups < depth {
                continue;
            }
        } else {
            continue;
        }
        if text(next) == "{" {
            found.extend(group_heads(&tokens[next..]));
        } else if let Some(token) = tokens.get(next) {
            found.push(token.clone());
        }
    }
    found
}

/// The first name of each path in `{a::b, c::{d, e}, f}`.
fn group_heads(tokens: &[Token]) -> Vec<Token> {
    let mut level = 0;
    let mut heads = Vec::new();
    for (at, (text, _)) in tokens.iter().enumerate() {
        match text.as_str() {
            "{" => level += 1,
            "}" => level -= 1,
            _ => {}
        }
        if level == 0 {
            break;
        }
        if level == 1 && (text == "{" || text == ",") {
            heads.extend(tokens.get(at + 1).cloned());
        }
    }
    heads
}
