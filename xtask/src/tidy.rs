//! Checks of the whole repository that no compiler makes. Takes the repository's root, gives a list of `file:line: message`. Never
//! changes a file.

mod acceptance;
mod code;
mod data;
mod lengths;
mod modules;
mod words;

use std::fmt;
use std::path::{Path, PathBuf};
use std::process::Command;

/// Something that is against the house's rules.
#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Finding {
    pub path: String,
    pub line: usize,
    pub message: String,
    /// Shown, but no reason to fail.
    pub is_warning: bool,
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let level = if self.is_warning { "warning: " } else { "" };
        write!(f, "{}:{}: {level}{}", self.path, self.line, self.message)
    }
}

/// A file of the repository with its text.
pub struct Source {
    /// Relative to the root, with `/`.
    pub path: String,
    pub text: String,
}

/// A Rust file, parsed.
pub struct Rust<'a> {
    pub source: &'a Source,
    pub file: syn::File,
    /// First and last line of each piece that only tests compile.
    pub tests: Vec<(usize, usize)>,
}

impl Rust<'_> {
    pub fn finding(&self, line: usize, message: impl Into<String>) -> Finding {
        Finding { path: self.source.path.clone(), line, message: message.into(), is_warning: false }
    }

    pub fn is_test_line(&self, line: usize) -> bool {
        self.tests.iter().any(|&(first, last)| (first..=last).contains(&line))
    }

    /// Whether the whole file exists for tests.
    pub fn is_test_file(&self) -> bool {
        let path = &self.source.path;
        path.contains("/tests/") || path.contains("/benches/") || path.ends_with("/tests.rs")
    }
}

/// Prints what is found.
/// Errors: something other than a warning was found.
pub fn run(root: &Path) -> Result<(), String> {
    let findings = check(root)?;
    findings.iter().for_each(|finding| println!("{finding}"));
    match findings.iter().filter(|f| !f.is_warning).count() {
        0 => Ok(()),
        n => Err(format!("tidy: {n} findings")),
    }
}

/// Everything that is wrong, in order of files and lines.
/// Errors: a file cannot be read.
pub fn check(root: &Path) -> Result<Vec<Finding>, String> {
    let paths = files(root)?;
    let mut sources = Vec::new();
    for path in &paths {
        let bytes = std::fs::read(root.join(path)).map_err(|e| format!("{path}: {e}"))?;
        if let Ok(text) = String::from_utf8(bytes) {
            sources.push(Source { path: path.clone(), text });
        }
    }
    let mut findings = data::check(root, &paths)?;
    let mut parsed = Vec::new();
    for source in &sources {
        findings.extend(words::check(source));
        if !source.path.ends_with(".rs") {
            continue;
        }
        match syn::parse_file(&source.text) {
            Ok(file) => parsed.push(Rust { source, tests: code::test_lines(&file), file }),
            Err(e) => findings.push(Finding {
                path: source.path.clone(),
                line: e.span().start().line,
                message: format!("does not parse: {e}"),
                is_warning: false,
            }),
        }
    }
    for rust in &parsed {
        findings.extend(lengths::check(rust));
        findings.extend(code::check(rust));
    }
    findings.extend(acceptance::check(&sources, &parsed));
    findings.extend(modules::orphans(&parsed));
    findings.extend(modules::upward_imports(&parsed));
    findings.sort();
    Ok(findings)
}

/// Tracked files and new ones that git does not ignore; without git, all but build outputs.
fn files(root: &Path) -> Result<Vec<String>, String> {
    let args = ["ls-files", "-z", "--cached", "--others", "--exclude-standard"];
    let listed = Command::new("git").args(args).current_dir(root).output();
    let mut paths: Vec<String> = match listed {
        Ok(output) if output.status.success() => {
            let text = String::from_utf8_lossy(&output.stdout).into_owned();
            text.split('\0').filter(|p| !p.is_empty() && root.join(p).is_file()).map(str::to_string).collect()
        }
        Ok(_) | Err(_) => walk(root)?,
    };
    paths.sort();
    paths.dedup();
    Ok(paths)
}

fn walk(root: &Path) -> Result<Vec<String>, String> {
    let mut found = Vec::new();
    let mut open: Vec<PathBuf> = vec![root.to_path_buf()];
    while let Some(dir) = open.pop() {
        for entry in std::fs::read_dir(&dir).map_err(|e| format!("{}: {e}", dir.display()))? {
            let path = entry.map_err(|e| e.to_string())?.path();
            let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
            if path.is_dir() {
                if ![".git", "target", "runs", "__pycache__"].contains(&name.as_str()) {
                    open.push(path);
                }
            } else if let Ok(inside) = path.strip_prefix(root) {
                found.push(inside.to_string_lossy().replace('\\', "/"));
            }
        }
    }
    Ok(found)
}

#[cfg(test)]
mod tests;
