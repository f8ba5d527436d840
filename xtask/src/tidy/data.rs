//! The data kept in the repository. Takes the tracked files, gives files whose sum differs from the list in data/README.md, files that are
//! not in it, and too many bytes. Never reads the network.

use super::Finding;
use sha2::{Digest, Sha256};
use std::collections::BTreeMap;
use std::path::Path;

const DATA_BYTES: u64 = 15 << 20;
/// Files that describe the others.
const DESCRIBE: &[&str] = &["data/README.md", "data/.gitattributes"];

pub fn check(root: &Path, paths: &[String]) -> Result<Vec<Finding>, String> {
    let list = "data/README.md";
    let Ok(readme) = std::fs::read_to_string(root.join(list)) else { return Ok(Vec::new()) };
    let finding =
        |path: &str, line: usize, message: String| Finding { path: path.into(), line, message, is_warning: false };
    let mut listed: BTreeMap<String, (String, usize)> = BTreeMap::new();
    for (i, line) in readme.lines().enumerate() {
        let is_sum = |word: &str| word.len() == 64 && word.bytes().all(|b| b.is_ascii_hexdigit());
        if let Some((sum, name)) = line.split_once("  ").filter(|(sum, _)| is_sum(sum)) {
            listed.insert(format!("data/{}", name.trim()), (sum.to_string(), i + 1));
        }
    }
    let mut findings = Vec::new();
    let mut total = 0;
    for path in paths.iter().filter(|p| p.starts_with("data/") && !DESCRIBE.contains(&p.as_str())) {
        let bytes = std::fs::read(root.join(path)).map_err(|e| format!("{path}: {e}"))?;
        total += bytes.len() as u64;
        let sum: String = Sha256::digest(&bytes).iter().map(|byte| format!("{byte:02x}")).collect();
        match listed.remove(path) {
            Some((expected, _)) if expected == sum => {}
            Some((_, line)) => findings.push(finding(list, line, format!("{path} has sha256 {sum}"))),
            None => findings.push(finding(path, 1, format!("is not in the list of {list}; its sha256 is {sum}"))),
        }
    }
    for (path, (_, line)) in listed {
        findings.push(finding(list, line, format!("{path} is not there")));
    }
    if total > DATA_BYTES {
        findings.push(finding(list, 1, format!("{total} bytes of data, at most {DATA_BYTES}")));
    }
    Ok(findings)
}
