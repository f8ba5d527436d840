//! Lengths of files and functions. Takes a parsed file, gives what is too long. Never counts tests.

use super::{Finding, Rust};
use syn::spanned::Spanned;
use syn::visit::Visit;

const FILE_LINES: usize = 800;
const FILE_LINES_GOOD: usize = 500;
const EXAMPLE_LINES: usize = 250;
const FN_LINES: usize = 100;

pub fn check(rust: &Rust) -> Vec<Finding> {
    if rust.is_test_file() {
        return Vec::new();
    }
    let all = rust.source.text.lines().count();
    let tests: usize = rust.tests.iter().map(|(first, last)| last - first + 1).sum();
    let lines = all.saturating_sub(tests);
    let mut findings = Vec::new();
    if rust.source.path.contains("/examples/") && lines > EXAMPLE_LINES {
        findings.push(rust.finding(1, format!("{lines} lines, an example has at most {EXAMPLE_LINES}")));
    } else if lines > FILE_LINES {
        findings.push(rust.finding(1, format!("{lines} lines without tests, at most {FILE_LINES}; split the file")));
    } else if lines > FILE_LINES_GOOD {
        let message = format!("{lines} lines without tests, {FILE_LINES_GOOD} are better");
        findings.push(Finding { is_warning: true, ..rust.finding(1, message) });
    }
    let mut functions = Functions { rust, findings };
    functions.visit_file(&rust.file);
    functions.findings
}

struct Functions<'a> {
    rust: &'a Rust<'a>,
    findings: Vec<Finding>,
}

impl Functions<'_> {
    fn measure(&mut self, signature: &syn::Signature, block: &syn::Block) {
        let (first, last) = (signature.span().start().line, block.span().end().line);
        let lines = last - first + 1;
        if lines > FN_LINES && !self.rust.is_test_line(first) {
            let message = format!("fn {} has {lines} lines, at most {FN_LINES}", signature.ident);
            self.findings.push(self.rust.finding(first, message));
        }
    }
}

impl<'ast> Visit<'ast> for Functions<'_> {
    fn visit_item_fn(&mut self, item: &'ast syn::ItemFn) {
        self.measure(&item.sig, &item.block);
        syn::visit::visit_item_fn(self, item);
    }

    fn visit_impl_item_fn(&mut self, item: &'ast syn::ImplItemFn) {
        self.measure(&item.sig, &item.block);
        syn::visit::visit_impl_item_fn(self, item);
    }

    fn visit_trait_item_fn(&mut self, item: &'ast syn::TraitItemFn) {
        if let Some(block) = &item.default {
            self.measure(&item.sig, block);
        }
        syn::visit::visit_trait_item_fn(self, item);
    }
}
