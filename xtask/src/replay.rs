//! What a change does to generated code. Takes a revision, gives the difference between its plans and kernels and this tree's, for the
//! models of `wholestep-compiler`'s example `plans`. Never leaves its checkout behind.

use crate::{call, cargo, target};
use std::path::Path;
use std::process::Command;

pub fn run(root: &Path, args: &[String]) -> Result<(), String> {
    let [rev] = args else { return Err("cargo xtask replay REV: needs one revision".to_string()) };
    let folder = target(root).join("replay");
    let old = folder.join("tree");
    let old_text = old.to_string_lossy();
    // A checkout that an interrupted run left.
    let _ = Command::new("git").args(["worktree", "remove", "--force", &old_text]).current_dir(root).output();
    std::fs::create_dir_all(&folder).map_err(|e| format!("{}: {e}", folder.display()))?;
    call(root, "git", &["worktree", "add", "--detach", &old_text, rev])?;
    let compared = compare(root, &old, &folder);
    call(root, "git", &["worktree", "remove", "--force", &old_text])?;
    compared
}

fn compare(root: &Path, old: &Path, folder: &Path) -> Result<(), String> {
    let before = plans(old, &folder.join("target"))?;
    let after = plans(root, &target(root))?;
    let (a, b) = (folder.join("before.txt"), folder.join("after.txt"));
    for (path, text) in [(&a, &before), (&b, &after)] {
        std::fs::write(path, text).map_err(|e| format!("{}: {e}", path.display()))?;
    }
    if before == after {
        println!("no difference in {} lines", after.lines().count());
        return Ok(());
    }
    // git diff ends with 1 where files differ, which is an answer and no failure.
    let _ = call(
        root,
        "git",
        &["--no-pager", "diff", "--no-index", "--stat", "-p", &a.to_string_lossy(), &b.to_string_lossy()],
    );
    Ok(())
}

/// Graph, plan and kernels of the standard models, as the tree at `root` makes them.
fn plans(root: &Path, target: &Path) -> Result<String, String> {
    let args = ["run", "--quiet", "--locked", "--package", "wholestep-compiler", "--example", "plans"];
    let output = Command::new(cargo())
        .args(args)
        .current_dir(root)
        .env("CARGO_TARGET_DIR", target)
        .output()
        .map_err(|e| format!("cargo: {e}"))?;
    if !output.status.success() {
        return Err(format!("{}: {}", root.display(), String::from_utf8_lossy(&output.stderr)));
    }
    String::from_utf8(output.stdout).map_err(|e| e.to_string())
}
