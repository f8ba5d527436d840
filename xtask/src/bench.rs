//! Our program beside the peers. Takes workloads and repeats, builds a release, gives the table of medians and ratios. Never compares runs of
//! different sittings: ours and the peers' are interleaved by bench/peers/run_all.py.

use crate::{call, cargo, target};
use std::path::Path;
use std::process::Command;

/// What our program trains today.
const WORKLOADS: &str = "tiny_b8,mlp_b64,mlp_b512,cnn_b64,resnet18_b32";

const USAGE: &str = "\
cargo xtask bench [--only PEERS] [--workloads NAMES] [--repeats N] [--out FILE]
  --only       comma-separated peers of bench/peers/run_all.py; \"\" for none (default: \"torch eager,torch.compile\")
  --workloads  default: tiny_b8,mlp_b64,mlp_b512,cnn_b64,resnet18_b32
  --repeats    default: 3
  --out        lines of JSON are appended here (default: target/bench.jsonl, made anew)";

pub fn run(root: &Path, args: &[String]) -> Result<(), String> {
    let mut only = "torch eager,torch.compile".to_string();
    let mut workloads = WORKLOADS.to_string();
    let mut repeats = "3".to_string();
    let mut out = None;
    let mut rest = args.iter();
    while let Some(option) = rest.next() {
        if option == "--help" {
            println!("{USAGE}");
            return Ok(());
        }
        let value = rest.next().ok_or_else(|| format!("{option} needs a value\n{USAGE}"))?.clone();
        match option.as_str() {
            "--only" => only = value,
            "--workloads" => workloads = value,
            "--repeats" => repeats = value,
            "--out" => out = Some(value),
            _ => return Err(format!("{option} is no option\n{USAGE}")),
        }
    }
    call(root, &cargo(), &["build", "--release", "--locked", "--package", "wholestep-cli"])?;
    let lines = match out {
        Some(out) => root.join(out),
        None => {
            let lines = target(root).join("bench.jsonl");
            std::fs::write(&lines, "").map_err(|e| format!("{}: {e}", lines.display()))?;
            lines
        }
    };
    let program = target(root).join("release/wholestep");
    let ours = format!("ours={} bench --mode step", program.display());
    let many = format!("ours-many={} bench --mode many", program.display());
    let script = root.join("bench/peers/run_all.py");
    let (script, lines) = (script.to_string_lossy(), lines.to_string_lossy());
    let options = ["--only", &only, "--workloads", &workloads, "--repeats", &repeats];
    let first = [&script, "--out", &lines, "--ours", &ours, "--ours", &many];
    call(root, "python3", &[first.as_slice(), options.as_slice()].concat())?;
    let table = Command::new("python3")
        .args([&*script, "--out", &lines, "--table"])
        .output()
        .map_err(|e| format!("python3: {e}"))?;
    println!("{}", ratios(&String::from_utf8_lossy(&table.stdout)));
    Ok(())
}

/// The table of run_all.py with one more column: the median over ours.
fn ratios(table: &str) -> String {
    let mut out = String::new();
    for section in table.split("\n### ").filter(|s| s.contains("| ours ") || s.contains("| ours (noisy)")) {
        let mut lines = section.lines();
        out.push_str(&format!(
            "\n### {}\n\n| peer | median ms | of ours |\n|---|---|---|\n",
            lines.next().unwrap_or("")
        ));
        let cells = |line: &str| -> Option<(String, f64)> {
            let mut cells = line.trim_matches('|').split('|').map(str::trim);
            let name = cells.next()?.to_string();
            Some((name, cells.next()?.parse().ok()?))
        };
        let rows: Vec<(String, f64)> = lines.filter_map(cells).collect();
        let ours = rows.iter().find(|(name, _)| name == "ours" || name.starts_with("ours (")).map(|(_, ms)| *ms);
        for (name, ms) in &rows {
            let ratio = ours.map_or("-".to_string(), |ours| format!("{:.2}", ms / ours));
            out.push_str(&format!("| {name} | {ms} | {ratio} |\n"));
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::ratios;

    #[test]
    fn each_row_is_compared_with_ours() {
        let table = "\n### mlp_b64\n\n| peer | median ms | min ms |\n|---|---|---|\n| ours | 2.5 | 2 |\n| torch eager | 5 | 4 |\n\
                     \n### gpt_b16\n\n| peer | median ms |\n|---|---|\n| torch eager | 9 |\n";
        assert_eq!(
            ratios(table),
            "\n### mlp_b64\n\n| peer | median ms | of ours |\n|---|---|---|\n| ours | 2.5 | 1.00 |\n| torch eager | 5 | 2.00 |\n"
        );
    }
}
