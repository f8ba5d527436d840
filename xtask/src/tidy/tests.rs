use super::*;
use std::fs;

/// The findings in a folder that holds these files.
fn found(files: &[(&str, &str)]) -> Vec<String> {
    let dir = tempfile::tempdir().unwrap();
    for (path, text) in files {
        let path = dir.path().join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }
    check(dir.path()).unwrap().iter().map(Finding::to_string).collect()
}

#[test]
fn this_repository_is_tidy() {
    let findings = check(&crate::root()).unwrap();
    let faults: Vec<String> = findings.iter().filter(|f| !f.is_warning).map(Finding::to_string).collect();
    assert!(faults.is_empty(), "{}", faults.join("\n"));
}

#[test]
fn long_functions_and_files_are_named_and_tests_are_not_counted() {
    let body = "    x();\n".repeat(99);
    let long = format!("//! Header.\nfn long() {{\n{body}}}\n");
    assert_eq!(found(&[("a/src/lib.rs", &long)]), ["a/src/lib.rs:2: fn long has 101 lines, at most 100"]);
    let short = format!("//! Header.\nfn short() {{\n{}}}\n", "    x();\n".repeat(98));
    assert_eq!(found(&[("a/src/lib.rs", &short)]), [""; 0]);
    let in_tests = format!("//! Header.\n#[cfg(test)]\nmod tests {{\nfn long() {{\n{body}{body}}}\n}}\n");
    assert_eq!(found(&[("a/src/lib.rs", &in_tests)]), [""; 0]);
    let file = |n: usize| format!("//! Header.\n{}", "const A: () = ();\n".repeat(n));
    assert_eq!(
        found(&[("a/src/lib.rs", &file(800))]),
        ["a/src/lib.rs:1: 801 lines without tests, at most 800; split the file"]
    );
    assert_eq!(
        found(&[("a/src/lib.rs", &file(799))]),
        ["a/src/lib.rs:1: warning: 800 lines without tests, 500 are better"]
    );
    assert_eq!(found(&[("a/examples/e.rs", &file(250))]), ["a/examples/e.rs:1: 251 lines, an example has at most 250"]);
}

#[test]
fn imports_follow_the_order_of_lib_rs() {
    let lib = "//! H.\nmod ir;\nmod ops;\nmod plan;\n";
    let ir = "//! H.\nmod deep;\nuse crate::plan::Plan;\n#[cfg(test)]\nmod tests {\n    use crate::plan::Plan;\n}\n";
    let deep = "//! H.\nuse super::super::ops::a;\nuse super::Own;\n// crate::plan is only named here.\nfn f() {\n    x!(crate::{ir::y, plan});\n}\n";
    let plan = "//! H.\nuse crate::{ir, ops::b};\n";
    let home = "crates/wholestep-compiler/src/";
    let path = |name: &str| format!("{home}{name}");
    let files = [
        (path("lib.rs"), lib),
        (path("ir.rs"), ir),
        (path("ir/deep.rs"), deep),
        (path("ops.rs"), "//! H.\n"),
        (path("plan.rs"), plan),
    ];
    let files: Vec<(&str, &str)> = files.iter().map(|(p, t)| (p.as_str(), *t)).collect();
    assert_eq!(
        found(&files),
        [
            format!("{home}ir.rs:3: ir uses plan, which lib.rs lists after it"),
            format!("{home}ir/deep.rs:2: ir uses ops, which lib.rs lists after it"),
            format!("{home}ir/deep.rs:6: ir uses plan, which lib.rs lists after it"),
        ]
    );
}

#[test]
fn files_that_nothing_compiles_are_found() {
    let files = [
        ("a/src/lib.rs", "//! H.\nmod used;\nmod inline {\n    mod below;\n}\n#[path = \"odd/name.rs\"]\nmod other;\n"),
        ("a/src/used.rs", "//! H.\nmod child;\n"),
        ("a/src/used/child.rs", "//! H.\n"),
        ("a/src/inline/below.rs", "//! H.\n"),
        ("a/src/odd/name.rs", "//! H.\n"),
        ("a/src/lost.rs", "//! H.\n"),
        ("a/tests/t.rs", "mod helper;\n"),
        ("a/tests/helper.rs", ""),
        ("a/tests/deep/lost.rs", ""),
    ];
    let message = "no `mod` names this file, so nothing compiles it";
    assert_eq!(found(&files), [format!("a/src/lost.rs:1: {message}"), format!("a/tests/deep/lost.rs:1: {message}")]);
}

#[test]
fn unfinished_unsafe_untyped_and_silent_code_is_found() {
    let text = [
        concat!("fn f() { to", "do!() }"),
        concat!("fn g() { un", "safe {} }"),
        concat!("#[ig", "nore]"),
        concat!("fn h(x: &dyn A", "ny) {}"),
        concat!("// TO", "DO later"),
    ];
    let text = text.join("\n");
    assert_eq!(
        found(&[("a/src/lib.rs", &text)]),
        [
            "a/src/lib.rs:1: no module header: `//!` says what the module takes, gives and never does".to_string(),
            format!("a/src/lib.rs:1: {}: finish it or take it out", concat!("to", "do!")),
            "a/src/lib.rs:2: unsafe outside of crates/wholestep-cpu/".to_string(),
            "a/src/lib.rs:3: a test that does not run".to_string(),
            "a/src/lib.rs:4: a value without a type; say which types there are".to_string(),
            format!("a/src/lib.rs:5: {}: finish it or take it out", concat!("TO", "DO")),
        ]
    );
    assert_eq!(found(&[("crates/wholestep-cpu/src/lib.rs", "//! H.\nfn g() { unsafe {} }\n")]), [""; 0]);
}

#[test]
fn wildcards_over_ops_are_found_unless_a_line_says_why() {
    let file = |comment: &str| {
        format!(
            "//! H.\nfn f(op: &Op) {{\n    match op {{\n        Op::Leaf(_) => 1,\n{comment}        _ => 2,\n    }};\n    match n {{ 1 => 1, _ => 2 }};\n}}\n"
        )
    };
    let path = "crates/wholestep-compiler/src/ir/op.rs";
    let lib = [
        ("crates/wholestep-compiler/src/lib.rs", "//! H.\nmod ir;\n"),
        ("crates/wholestep-compiler/src/ir.rs", "//! H.\nmod op;\n"),
    ];
    let bad = file("");
    let expected = format!("{path}:5: `_ =>` over Op: name the variants, so that a new one is not forgotten");
    assert_eq!(found(&[lib[0], lib[1], (path, &bad)]), [expected]);
    let allowed = file("        // tidy: wildcard, all others are elementwise\n");
    assert_eq!(found(&[lib[0], lib[1], (path, &allowed)]), [""; 0]);
}

#[test]
fn paths_of_a_machine_hosts_of_a_network_and_secrets_are_found() {
    let text = [
        concat!("see /wo", "rk/x"),
        concat!("get http://mirror.int", "ernal/simple"),
        "https://doc.rust-lang.org is fine",
        concat!("key gh", "p_123"),
        concat!("http:/", "/10.0.0.7:80/"),
    ];
    let text = text.join("\n");
    assert_eq!(
        found(&[("a.md", &text)]),
        [
            format!("a.md:1: {} exists on one machine only", concat!("/wo", "rk/")),
            concat!("a.md:2: mirror.int", "ernal is a host of one network").to_string(),
            format!("a.md:4: {}: looks like a secret", concat!("gh", "p_")),
            concat!("a.md:5: 10.0", ".0.7 is a host of one network").to_string(),
        ]
    );
}

#[test]
fn data_has_the_sums_that_its_list_says() {
    // sha256 of "abc", FIPS 180-2 appendix B.1.
    let sum = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";
    let readme = format!("{sum}  a.bin\n{sum}  b.bin\n{sum}  gone.bin\n");
    let files =
        [("data/README.md", readme.as_str()), ("data/a.bin", "abc"), ("data/b.bin", "abd"), ("data/new.bin", "abc")];
    let findings = found(&files);
    assert_eq!(findings.len(), 3, "{findings:?}");
    assert!(findings[0].starts_with("data/README.md:2: data/b.bin has sha256 a52d159f262b2c6d"), "{findings:?}");
    assert_eq!(findings[1], "data/README.md:3: data/gone.bin is not there");
    assert!(findings[2].starts_with("data/new.bin:1: is not in the list"), "{findings:?}");
}

#[test]
fn promises_name_tests_that_are_there() {
    let test = "#[cfg(test)]\nmod tests {\n    #[test]\n    fn holds() {}\n    fn helper() {}\n}\n";
    let table = "| concern | promise | tests |\n| --- | --- | --- |\n| 1a | kept | `a/src/lib.rs::holds` |\n| 1b | later | not yet |\n\
                 | 1c | no test at all | |\n| 1d | a helper is no test | `a/src/lib.rs::helper` |\n\
                 | 1e | renamed | `a/src/lib.rs::held` |\n| 1f | moved | `a/src/gone.rs::holds` |\n";
    let lib = format!("//! H.\n{test}");
    assert_eq!(
        found(&[
            ("a/src/lib.rs", &lib),
            ("docs/acceptance.md", table),
            ("a/tests/MUTATIONS.md", "`a/src/lib.rs::lost`\n")
        ]),
        [
            "a/tests/MUTATIONS.md:1: a/src/lib.rs has no test called lost",
            "docs/acceptance.md:5: a promise without a test; name one or write \"not yet\"",
            "docs/acceptance.md:6: a/src/lib.rs has no test called helper",
            "docs/acceptance.md:7: a/src/lib.rs has no test called held",
            "docs/acceptance.md:8: a/src/gone.rs is not in the tree",
        ]
    );
}
