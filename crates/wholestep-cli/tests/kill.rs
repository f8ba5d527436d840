//! Runs that are killed at random moments, within steps and within saving: always a valid checkpoint or none yet, and in the end the bits of
//! the run that nobody disturbed. `cargo xtask kill N` asks for more kills than the tests do.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{RecvTimeoutError, channel};
use std::time::{Duration, Instant};
use wholestep::checkpoint::Checkpoint;
use wholestep::data::random::Philox;

/// How many kills are asked for by `cargo xtask kill`.
const KILLS: &str = "TEST_KILLS";
const DEFAULT_KILLS: u64 = 10;

fn config() -> String {
    let iris = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../data/tables/iris.csv").canonicalize().unwrap();
    format!(
        r#"
name = "flowers"
[data]
kind = "sklearn"
path = {iris:?}
validation = 0.2
standardize = true
[model]
layers = [
  {{ type = "linear", out_features = 64 }},
  {{ type = "batch_norm1d" }},
  {{ type = "relu" }},
  {{ type = "dropout", p = 0.2 }},
  {{ type = "linear", out_features = 3 }},
]
[loss]
kind = "cross_entropy"
[optimizer]
kind = "adamw"
lr = 0.01
[schedule]
kind = "cosine"
[train]
epochs = 6
batch_size = 8
seed = 4
early_stopping = {{ patience = 6 }}
checkpoint = {{ every_steps = 3, keep_last = 2 }}
"#
    )
}

/// `wholestep train` of the configuration in `home`; each start of a test is the same command, as a user's script would give it.
fn start(home: &Path) -> Child {
    Command::new(env!("CARGO_BIN_EXE_wholestep"))
        .args(["train", "flowers.toml", "--out", "run", "--resume"])
        .current_dir(home)
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap()
}

/// Waits for the end of `child`, or kills it after `limit`. Gives whether it ended by itself.
fn ends_within(mut child: Child, limit: Duration) -> bool {
    let mut said = child.stderr.take().unwrap();
    let (ended, end) = channel();
    // The other end of the pipe closes when the process is gone.
    let reader = std::thread::spawn(move || {
        let mut text = String::new();
        let _ = std::io::Read::read_to_string(&mut said, &mut text);
        let _ = ended.send(());
        text
    });
    let by_itself = end.recv_timeout(limit) != Err(RecvTimeoutError::Timeout);
    if !by_itself {
        child.kill().unwrap();
    }
    let status = child.wait().unwrap();
    let text = reader.join().unwrap();
    assert!(status.success() || !by_itself, "{status}: {text}");
    by_itself
}

/// Every checkpoint that has a name can be opened; half written ones have none.
fn all_valid(home: &Path) -> usize {
    let folder = home.join("run/checkpoints");
    let Ok(entries) = std::fs::read_dir(&folder) else { return 0 };
    let mut n = 0;
    for path in entries.map(|e| e.unwrap().path()) {
        if path.file_name().unwrap().to_string_lossy().starts_with("step-") {
            Checkpoint::open(&path).unwrap_or_else(|e| panic!("{e}"));
            n += 1;
        }
    }
    n
}

/// The bytes that a run leaves, without its times.
fn left(home: &Path) -> Vec<(&'static str, Vec<u8>)> {
    let read = |name: &str| std::fs::read(home.join("run").join(name)).unwrap_or_else(|e| panic!("{name}: {e}"));
    let mut files: Vec<(&'static str, Vec<u8>)> =
        ["best.safetensors", "last.safetensors", "config.toml"].map(|name| (name, read(name))).into();
    let csv = String::from_utf8(read("metrics.csv")).unwrap();
    let timeless: Vec<&str> = csv.lines().map(|line| line.rsplit_once(',').unwrap().0).collect();
    files.push(("metrics.csv", timeless.join("\n").into_bytes()));
    let last = wholestep::checkpoint::latest(home.join("run/checkpoints")).unwrap().unwrap();
    for name in ["weights.safetensors", "state.safetensors"] {
        files.push((name, std::fs::read(last.join(name)).unwrap()));
    }
    files
}

fn home() -> tempfile::TempDir {
    let home = tempfile::tempdir().unwrap();
    std::fs::write(home.path().join("flowers.toml"), config()).unwrap();
    home
}

#[test]
fn a_killed_run_resumes_to_the_same_bits() {
    let wanted = std::env::var(KILLS).map_or(DEFAULT_KILLS, |n| n.parse().unwrap());
    let whole = home();
    let began = Instant::now();
    assert!(ends_within(start(whole.path()), Duration::MAX), "nobody kills this one");
    let took = began.elapsed();
    let undisturbed = left(whole.path());
    let mut random = Philox::new(7, 0);
    let (mut kills, mut runs, mut with_checkpoint) = (0, 0, 0);
    while kills < wanted {
        let killed = home();
        loop {
            let limit = if kills < wanted { took.mul_f64(random.unit()) } else { Duration::MAX };
            if ends_within(start(killed.path()), limit) {
                break;
            }
            kills += 1;
            with_checkpoint += u64::from(all_valid(killed.path()) > 0);
        }
        runs += 1;
        for ((name, want), (_, got)) in undisturbed.iter().zip(left(killed.path())) {
            assert!(got == *want, "{name} differs after {kills} kills");
        }
    }
    println!(
        "{kills} kills in {runs} runs of {took:?}, {with_checkpoint} of them with a checkpoint there; all ended in the same bits"
    );
    assert!(with_checkpoint > 0, "no kill came after the first checkpoint, so nothing was shown");
}
