//! Words that no committed text may hold. Takes a text file, gives lines with unfinished work, paths of one machine, hosts of one network or
//! secrets. Never knows any secret: it knows their forms.

use super::{Finding, Source};

/// Unfinished work, where code or configuration says it. Written in halves, so that this file passes.
const UNFINISHED: &[&str] = &[concat!("TO", "DO"), concat!("FIX", "ME"), concat!("XX", "X:")];

/// Folders that exist on one machine only.
const MACHINE: &[&str] =
    &[concat!("/wo", "rk/"), concat!("/ro", "ot/"), concat!("/Us", "ers/"), concat!("bash_", "jobs")];

/// Ways to name a package registry other than the ecosystem's own.
const REGISTRY: &[&str] = &[
    concat!("replace", "-with"),
    concat!("sparse", "+http"),
    concat!("index", "-url"),
    concat!("trusted", "-host"),
    concat!("regi", "stry=http"),
];

/// How secrets begin.
const SECRET: &[&str] = &[
    concat!("PRIVATE ", "KEY-----"),
    concat!("AK", "IA"),
    concat!("gh", "p_"),
    concat!("github_", "pat_"),
    concat!("xox", "b-"),
    concat!("sk-", "ant-"),
    concat!("_auth", "Token"),
];

/// The only source of packages that a lock file names.
const LOCK_SOURCE: &str = "source = \"registry+https://github.com/rust-lang/crates.io-index\"";

pub fn check(source: &Source) -> Vec<Finding> {
    let mut findings = Vec::new();
    let is_code = [".rs", ".py", ".toml", ".yml", ".sh", ".wgsl", ".js"].iter().any(|end| source.path.ends_with(end));
    let is_lock = source.path.ends_with(".lock");
    for (i, line) in source.text.lines().enumerate() {
        let mut report = |message: String| {
            findings.push(Finding { path: source.path.clone(), line: i + 1, message, is_warning: false });
        };
        if is_lock {
            if line.starts_with("source = ") && line != LOCK_SOURCE {
                report("a package from an unknown place".to_string());
            }
            continue;
        }
        if let Some(word) = UNFINISHED.iter().find(|word| is_code && line.contains(**word)) {
            report(format!("{word}: finish it or take it out"));
        }
        if let Some(path) = MACHINE.iter().find(|path| line.contains(**path)) {
            report(format!("{path} exists on one machine only"));
        }
        if let Some(word) = REGISTRY.iter().find(|word| line.contains(**word)) {
            report(format!("{word}: names a registry; each machine has its own settings"));
        }
        if let Some(word) = SECRET.iter().find(|word| line.contains(**word)) {
            report(format!("{word}: looks like a secret"));
        }
        if let Some(host) = inner_host(line) {
            report(format!("{host} is a host of one network"));
        }
    }
    findings
}

/// The host of an URL in `line` that nobody outside can reach.
fn inner_host(line: &str) -> Option<&str> {
    for (at, _) in line.match_indices("://") {
        let rest = &line[at + 3..];
        let end = rest.find(|c: char| !(c.is_ascii_alphanumeric() || ".-_@".contains(c))).unwrap_or(rest.len());
        let host = &rest[..end];
        let inner = [".internal", ".local", ".corp", ".lan", ".intranet"].iter().any(|zone| host.ends_with(zone));
        let number = !host.is_empty() && host.chars().all(|c| c.is_ascii_digit() || c == '.');
        let loopback = host == "127.0.0.1";
        if (inner || number || host.contains('@')) && !loopback {
            return Some(host);
        }
    }
    None
}
