//! The built command: exit codes, whole messages, and every file it leaves.

use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use wholestep::checkpoint::Weights;
use wholestep::data::{Array, Standardize};
use wholestep::train::{Trainer, newest};

fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../..").canonicalize().unwrap()
}

/// Runs a program in `folder`. Where no desktop has set XDG_RUNTIME_DIR, Mesa's choice of a device says so on the error stream, of which tests read
/// every line.
fn run(program: &str, folder: &Path, arguments: &[&str]) -> Output {
    Command::new(program).args(arguments).current_dir(folder).env("XDG_RUNTIME_DIR", folder).output().unwrap()
}

fn wholestep(folder: &Path, arguments: &[&str]) -> Output {
    run(env!("CARGO_BIN_EXE_wholestep"), folder, arguments)
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8(bytes.to_vec()).unwrap()
}

fn config(data: &str, loss: &str, outputs: usize, train: &str) -> String {
    format!(
        "[data]\n{data}\n[model]\nlayers = [\n  {{ type = \"linear\", out_features = 8 }},\n  {{ type = \"batch_norm1d\" }},\n  \
         {{ type = \"relu\" }},\n  {{ type = \"linear\", out_features = {outputs} }},\n]\n[loss]\nkind = \"{loss}\"\n[optimizer]\n\
         kind = \"adam\"\nlr = 0.02\n[train]\n{train}\n"
    )
}

fn iris(train: &str) -> String {
    let path = root().join("data/tables/iris.csv");
    let data = format!("kind = \"sklearn\"\npath = {path:?}\nvalidation = 0.2\ntest = 0.2\nstandardize = true");
    config(&data, "cross_entropy", 3, train)
}

fn diabetes() -> String {
    let path = root().join("data/tables/diabetes.csv");
    let data = format!("kind = \"csv\"\npath = {path:?}\ntarget = \"target\"\nvalidation = 0.2\nstandardize = true");
    config(&data, "huber", 1, "epochs = 3\nbatch_size = 32")
}

fn flowers(test_target: f64) -> String {
    let target = format!("test_target = {{ metric = \"accuracy\", value = {test_target} }}");
    iris(&format!("epochs = 8\nbatch_size = 16\nseed = 4\n{target}"))
}

/// A target of the test set is told and changes nothing: not the weights, not the epochs.
#[test]
fn a_test_target_chooses_nothing() {
    let home = tempfile::tempdir().unwrap();
    let plain = iris("epochs = 8\nbatch_size = 16\nseed = 4");
    let mut all = Vec::new();
    for (name, file, says) in [
        ("plain", plain.clone(), None),
        ("near", flowers(0.4), Some("the test set's accuracy reached 0.4 (")),
        ("far", flowers(1.1), Some("the test set's accuracy reached 1.1 after no epoch")),
    ] {
        std::fs::write(home.path().join("f.toml"), file).unwrap();
        let out = wholestep(home.path(), &["train", "f.toml", "--out", name]);
        let said = text(&out.stdout);
        assert!(out.status.success(), "{}", text(&out.stderr));
        assert_eq!(said.lines().any(|l| says.is_some_and(|s| l.starts_with(s))), says.is_some(), "{said}");
        let weights = |file: &str| Weights::open(home.path().join(name).join(file)).unwrap();
        let (best, meta) = weights("best.safetensors");
        all.push((best, meta.epoch, weights("last.safetensors").0));
    }
    assert!(all[0] == all[1] && all[0] == all[2], "a target of the test set changed the run");
    let no_test = plain
        .replace("test = 0.2\n", "")
        .replace("epochs = 8", "epochs = 8\ntest_target = { metric = \"accuracy\", value = 0.9 }");
    std::fs::write(home.path().join("f.toml"), no_test).unwrap();
    let out = wholestep(home.path(), &["train", "f.toml"]);
    assert_eq!(out.status.code(), Some(2));
    assert_eq!(text(&out.stderr), "error: train: test_target: there is no test set; give [data] one: test = 0.2\n");
}

#[test]
fn a_run_leaves_whole_files_that_agree() {
    let home = tempfile::tempdir().unwrap();
    std::fs::write(home.path().join("flowers.toml"), flowers(0.6)).unwrap();
    let out = wholestep(home.path(), &["train", "flowers.toml"]);
    assert!(out.status.success(), "{}", text(&out.stderr));
    let run = home.path().join("runs/flowers-001");
    let mut files: Vec<String> =
        std::fs::read_dir(&run).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
    files.sort();
    assert_eq!(
        files,
        [
            "best.safetensors",
            "checkpoints",
            "config.toml",
            "last.safetensors",
            "metrics.csv",
            "metrics.jsonl",
            "report.html",
            "test_target.json"
        ]
    );
    let said = text(&out.stdout);
    let reached = said
        .lines()
        .find(|l| l.starts_with("the test set's accuracy reached 0.6 ("))
        .unwrap_or_else(|| panic!("{said}"));
    assert!(reached.contains(" after epoch ") && reached.ends_with(" s from the start"), "{reached}");
    assert!(
        ["writing runs/flowers-001; ", "test set, 30 rows", "report.html are in runs/flowers-001"]
            .iter()
            .all(|what| said.contains(what)),
        "{said}"
    );
    let csv = std::fs::read_to_string(run.join("metrics.csv")).unwrap();
    assert_eq!(csv.lines().count(), 9, "{csv}");
    let header: Vec<&str> = csv.lines().next().unwrap().split(',').collect();
    assert!(csv.lines().all(|line| line.split(',').count() == header.len()));
    let at = header.iter().position(|h| *h == "val_loss").unwrap();
    let losses: Vec<f64> = csv.lines().skip(1).map(|line| line.split(',').nth(at).unwrap().parse().unwrap()).collect();
    let lines = std::fs::read_to_string(run.join("metrics.jsonl")).unwrap();
    let best = 1 + (0..8).min_by(|a, b| losses[*a].total_cmp(&losses[*b])).unwrap() as u32;
    for (line, loss) in lines.lines().zip(&losses) {
        let epoch: wholestep::train::Epoch = serde_json::from_str(line).unwrap();
        assert_eq!(epoch.validation.unwrap().loss, *loss);
    }
    let (_, meta) = Weights::open(run.join("best.safetensors")).unwrap();
    assert_eq!((meta.epoch, meta.class_names.len()), (Some(best), 3));
    assert_eq!(Weights::open(run.join("last.safetensors")).unwrap().1.epoch, Some(8));
    let page = std::fs::read_to_string(run.join("report.html")).unwrap();
    assert!(page.contains("virginica") && page.ends_with("</html>\n"));
    // The configuration as resolved gives the same bits again, under the next number.
    std::fs::copy(run.join("config.toml"), home.path().join("again.toml")).unwrap();
    let out = wholestep(home.path(), &["train", "again.toml"]);
    assert!(out.status.success(), "{}", text(&out.stderr));
    let bytes = |run: &str| Weights::open(home.path().join(run).join("best.safetensors")).unwrap().0;
    assert_eq!(bytes("runs/flowers-001"), bytes("runs/flowers-002"));
    let out = wholestep(home.path(), &["eval", "runs/flowers-001"]);
    let tested = said.lines().find(|l| l.starts_with("test set")).unwrap().split(": ").nth(1).unwrap().to_string();
    assert!(text(&out.stdout).contains(&tested), "{} {tested}", text(&out.stdout));
}

#[test]
fn a_new_process_predicts_the_same_bits() {
    let home = tempfile::tempdir().unwrap();
    std::fs::write(home.path().join("d.toml"), diabetes()).unwrap();
    let out = wholestep(home.path(), &["train", "d.toml", "--out", "run"]);
    assert!(out.status.success(), "{}", text(&out.stderr));
    let table = root().join("data/tables/diabetes.csv");
    let out = wholestep(home.path(), &["predict", "run", table.to_str().unwrap(), "--out", "p.csv"]);
    assert!(out.status.success(), "{}", text(&out.stderr));
    let written = std::fs::read_to_string(home.path().join("p.csv")).unwrap();
    let there: Vec<f32> = written.lines().skip(1).map(|line| line.parse().unwrap()).collect();
    let (weights, meta) = Weights::open(home.path().join("run/best.safetensors")).unwrap();
    let settings =
        wholestep::train::Training::new(meta.loss.clone().unwrap(), wholestep::train::OptimizerSpec::sgd(1.0));
    let mut trainer =
        Trainer::new(&wholestep::Device::cpu_with_threads(1), meta.model.clone().unwrap(), settings).unwrap();
    trainer.set_weights(weights).unwrap();
    let data = wholestep::data::csv::Csv::new().target("target").read(&table).unwrap().into_dataset().unwrap();
    let data = Standardize::from(meta.scalings[0].clone()).apply(&data).unwrap();
    // That of the training rows, which are most.
    let x = data.column("x").unwrap();
    let (rows, n) = (x.slice::<f32>().unwrap(), x.rows() as f32);
    for column in 0..x.shape()[1] {
        let values = || rows.iter().skip(column).step_by(x.shape()[1]);
        let mean = values().sum::<f32>() / n;
        let deviation = (values().map(|v| (v - mean).powi(2)).sum::<f32>() / n).sqrt();
        assert!(mean.abs() < 0.2 && (0.8..1.25).contains(&deviation), "column {column}: {mean} and {deviation}");
    }
    let here: Array = trainer.predict(&data).unwrap();
    assert_eq!(here.slice::<f32>().unwrap(), there);
}

/// The target of a table is found behind a byte-order mark, in quotes, and in a packed table with tabs: the model does not take it for a feature.
#[cfg(unix)]
#[test]
fn a_table_to_predict_may_hold_its_target() {
    let home = tempfile::tempdir().unwrap();
    let config = diabetes().replace("target = \"target\"", "target = \"y, later\"");
    let rows = std::fs::read_to_string(root().join("data/tables/diabetes.csv")).unwrap();
    let (header, rows) = rows.split_once('\n').unwrap();
    let names: Vec<&str> = header.trim().split(',').filter(|name| *name != "target").collect();
    let line = |row: &str| {
        let mut cells: Vec<&str> = row.trim().split(',').collect();
        cells.rotate_right(1);
        cells.join(",")
    };
    let rows: Vec<String> = rows.lines().map(line).collect();
    let with_target = format!("\u{feff}\"y, later\",{}\n{}\n", names.join(","), rows.join("\n"));
    std::fs::write(home.path().join("t.csv"), &with_target).unwrap();
    let path = root().join("data/tables/diabetes.csv");
    std::fs::write(home.path().join("d.toml"), config.replace(path.to_str().unwrap(), "t.csv")).unwrap();
    let out = wholestep(home.path(), &["train", "d.toml", "--out", "run", "--epochs", "1"]);
    assert!(out.status.success(), "{}", text(&out.stderr));
    let with = wholestep(home.path(), &["predict", "run", "t.csv"]);
    assert!(with.status.success(), "{}", text(&with.stderr));
    let tabs = rows.iter().map(|row| row.split_once(',').unwrap().1.replace(',', "\t"));
    let without = format!("{}\n{}\n", names.join("\t"), tabs.collect::<Vec<_>>().join("\n"));
    std::fs::write(home.path().join("w.tsv"), without).unwrap();
    assert!(Command::new("gzip").arg("w.tsv").current_dir(home.path()).status().unwrap().success());
    let packed = wholestep(home.path(), &["predict", "run", "w.tsv.gz"]);
    assert!(packed.status.success(), "{}", text(&packed.stderr));
    assert_eq!((text(&packed.stdout).lines().count(), with.stdout), (443, packed.stdout));
}

/// Rows are neither lost to a full disk nor taken for names.
#[cfg(target_os = "linux")]
#[test]
fn predictions_that_cannot_be_had_or_written_are_errors() {
    let home = tempfile::tempdir().unwrap();
    std::fs::write(home.path().join("f.toml"), iris("epochs = 1")).unwrap();
    assert!(wholestep(home.path(), &["train", "f.toml", "--out", "run"]).status.success());
    std::fs::write(home.path().join("rows.csv"), "a,b,c,d\n5.1,3.5,1.4,0.2\n6,3,5,2\n").unwrap();
    let good = wholestep(home.path(), &["predict", "run", "rows.csv"]);
    assert_eq!((good.status.code(), text(&good.stdout).lines().count()), (Some(0), 3));
    let script = format!("exec {:?} predict run rows.csv > /dev/full", env!("CARGO_BIN_EXE_wholestep"));
    let full = run("sh", home.path(), &["-c", &script]);
    assert_eq!(
        (full.status.code(), text(&full.stderr)),
        (Some(1), "error: cannot write standard output: No space left on device (os error 28)\n".to_string())
    );
    std::fs::write(home.path().join("bare.csv"), "5.1,3.5,1.4,0.2\n6,3,5,2\n").unwrap();
    let bare = wholestep(home.path(), &["predict", "run", "bare.csv"]);
    assert_eq!(bare.status.code(), Some(1));
    assert_eq!(
        text(&bare.stderr),
        "error: bare.csv: the first line holds numbers, \"5.1,3.5,1.4,0.2\", where the names of the columns are expected; give the table a \
         first line of names\n"
    );
}

#[test]
fn what_is_wrong_is_said_whole_and_nothing_is_left() {
    let home = tempfile::tempdir().unwrap();
    let good = iris("epochs = 1");
    let cases = [
        (
            good.replace("lr = 0.02", "lerning_rate = 0.02"),
            2,
            "error: c.toml: unknown key `lerning_rate` in [optimizer] at line 18; did you mean `lr`?\n",
        ),
        (good.replace("iris.csv", "none.csv"), 1, "none.csv: No such file or directory (os error 2)\n"),
        (
            good.replace("validation = 0.2", "validation = 1.0"),
            2,
            "error: c.toml: data: validation: need a share of the rows from 0 to below 1, got 1\n",
        ),
        (
            good.replace("epochs = 1", "epochs = 1\ndevice = \"tpu\""),
            1,
            "error: no device is called tpu; this build has: cpu, cuda, cuda:1 .., wgpu, wgpu:1 ..\n",
        ),
        (
            good.replace("relu", "conv2d\", kernel = 3, out_channels = \"4"),
            2,
            "invalid type: string \"4\", expected usize\n",
        ),
        (
            good.replace("out_features = 3", "out_features = 2"),
            1,
            "(virginica), the model tells 0 to 1 apart; its last layer needs at least 3 outputs\n",
        ),
        (good.replace("out_features = 8", "out_features = 0"), 1, "help: check out_features where the layer is made\n"),
        (
            good.replace("validation = 0.2", "validation = 0.999"),
            1,
            "error: [data] validation = 0.999: split: 0.001 of 120 rows leaves 0 and 120; both parts need a row, so give more rows or \
             another fraction\n",
        ),
    ];
    for (config, code, want) in cases {
        std::fs::write(home.path().join("c.toml"), config).unwrap();
        let out = wholestep(home.path(), &["train", "c.toml"]);
        let said = text(&out.stderr);
        assert_eq!(out.status.code(), Some(code), "{said}");
        assert!(said == want || (!want.starts_with("error") && said.ends_with(want)), "{said}");
        assert!(!home.path().join("runs").exists(), "{said}");
    }
    std::fs::write(home.path().join("c.toml"), &good).unwrap();
    std::fs::create_dir(home.path().join("taken")).unwrap();
    let out = wholestep(home.path(), &["train", "c.toml", "--out", "taken"]);
    assert_eq!(
        (out.status.code(), text(&out.stderr)),
        (Some(2), "error: --out taken: it exists already; a run needs a folder of its own\n".into())
    );
    let out = wholestep(home.path(), &["train", "c.toml", "--out", "c.toml/run"]);
    assert_eq!(out.status.code(), Some(1));
    assert!(text(&out.stderr).starts_with("error: cannot make the folder c.toml"), "{}", text(&out.stderr));
}

/// The shell's limit on file sizes stands for a full disk: files up to it are whole, the rest is an error and not there.
#[cfg(target_os = "linux")]
#[test]
fn a_full_disk_leaves_no_half_file() {
    let home = tempfile::tempdir().unwrap();
    let wide = iris("epochs = 2").replace("out_features = 8", "out_features = 4000");
    std::fs::write(home.path().join("c.toml"), wide).unwrap();
    let script =
        format!("trap '' XFSZ; ulimit -f 32; exec {:?} train c.toml --out run", env!("CARGO_BIN_EXE_wholestep"));
    let out = run("sh", home.path(), &["-c", &script]);
    let said = text(&out.stderr);
    assert_eq!(out.status.code(), Some(1), "{said}");
    assert!(said.contains("error: cannot write run/best.safetensors: File too large (os error 27)"), "{said}");
    let mut files: Vec<_> =
        std::fs::read_dir(home.path().join("run")).unwrap().map(|e| e.unwrap().file_name()).collect();
    files.sort();
    assert_eq!(files, ["checkpoints", "config.toml", "metrics.csv", "metrics.jsonl"]);
    assert_eq!(checkpoints(home.path()), [""; 0]);
}

/// Names in the folder of checkpoints of "run".
fn checkpoints(home: &Path) -> Vec<String> {
    let entries = std::fs::read_dir(home.join("run/checkpoints")).unwrap();
    let mut names: Vec<String> = entries.map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
    names.retain(|name| name != ".lock");
    names.sort();
    names
}

/// A disk on which the weights have room and the optimizer's state has not: the run ends, says which file, and the checkpoint is not there.
#[cfg(target_os = "linux")]
#[test]
fn a_disk_that_fills_up_while_a_checkpoint_is_written_leaves_none_and_ends_the_run() {
    let home = tempfile::tempdir().unwrap();
    let sh = |script: &str| run("sh", home.path(), &["-c", script]);
    // Shells count in blocks of 512 or of 1024 bytes.
    sh("trap '' XFSZ; ulimit -f 1; head -c 2000 /dev/zero > unit");
    let unit = std::fs::metadata(home.path().join("unit")).unwrap().len();
    let wide = iris("epochs = 40\nbatch_size = 8").replace("out_features = 8", "out_features = 500");
    std::fs::write(home.path().join("c.toml"), wide).unwrap();
    let limit = 32 * 1024 / unit;
    let out = sh(&format!(
        "trap '' XFSZ; ulimit -f {limit}; exec {:?} train c.toml --out run",
        env!("CARGO_BIN_EXE_wholestep")
    ));
    let said = text(&out.stderr);
    assert_eq!(out.status.code(), Some(1), "{said}");
    assert!(said.contains("/state.safetensors: File too large (os error 27)"), "{said}");
    assert_eq!(checkpoints(home.path()), [""; 0], "nothing half written is left");
    assert!(home.path().join("run/best.safetensors").exists());
    // With room again the run is resumed, from its beginning because there is no checkpoint, and ends.
    let out = wholestep(home.path(), &["train", "run", "--resume", "--epochs", "2"]);
    assert!(out.status.success(), "{}", text(&out.stderr));
    assert!(
        text(&out.stdout).starts_with("run has no checkpoint yet: starting at its beginning"),
        "{}",
        text(&out.stdout)
    );
    // Where the disk is slow the first epoch's gives way to it.
    assert_eq!(checkpoints(home.path()).last().map(String::as_str), Some("step-0000000024"));
}

#[test]
fn a_run_is_resumed_by_its_folder_or_its_name_and_not_by_other_settings() {
    let home = tempfile::tempdir().unwrap();
    std::fs::write(home.path().join("flowers.toml"), iris("epochs = 3\nbatch_size = 16\nseed = 4")).unwrap();
    let out = wholestep(home.path(), &["train", "flowers.toml", "--resume"]);
    assert!(out.status.success(), "{}", text(&out.stderr));
    assert!(text(&out.stdout).starts_with("no run to resume: starting a new one\n"), "{}", text(&out.stdout));
    let run = home.path().join("runs/flowers-001");
    let of = |name: &str| std::fs::read(run.join(name)).unwrap();
    let (weights, numbers) = (of("last.safetensors"), of("metrics.csv"));
    // It has ended: only the report is made again.
    let out = wholestep(home.path(), &["train", "runs/flowers-001", "--resume"]);
    assert!(out.status.success(), "{}", text(&out.stderr));
    assert!(
        text(&out.stdout).starts_with("resuming runs/flowers-001 after step 18, 3 epochs ended\n"),
        "{}",
        text(&out.stdout)
    );
    assert_eq!((of("last.safetensors"), of("metrics.csv")), (weights, numbers));
    // More epochs give what a longer run gives.
    let out = wholestep(home.path(), &["train", "flowers.toml", "--resume", "--epochs", "5"]);
    assert!(out.status.success(), "{}", text(&out.stderr));
    let out = wholestep(home.path(), &["train", "flowers.toml", "--epochs", "5", "--out", "long"]);
    assert!(out.status.success(), "{}", text(&out.stderr));
    let long = std::fs::read(home.path().join("long/last.safetensors")).unwrap();
    assert_eq!(of("last.safetensors"), long);
    let out = wholestep(home.path(), &["train", "flowers.toml", "--resume", "--seed", "9"]);
    assert_eq!(out.status.code(), Some(1));
    let said = text(&out.stderr);
    assert!(said.contains("it was trained with other settings:") && said.contains("\n  seed was 4, now 9"), "{said}");
    assert_eq!(of("last.safetensors"), long, "a refused resume changes nothing");
    for (words, says) in [
        (&["train", "runs/flowers-001"][..], "runs/flowers-001 is a folder; with --resume its run goes on"),
        (&["train", "runs", "--resume"], "runs is not the folder of a run: it has no config.toml"),
    ] {
        let out = wholestep(home.path(), words);
        assert_eq!(out.status.code(), Some(2));
        assert_eq!(text(&out.stderr), format!("error: {says}\n"));
    }
    // A number that cannot be is said, and not taken for an option.
    let out = wholestep(home.path(), &["train", "flowers.toml", "--seed", "-1"]);
    let said = text(&out.stderr);
    assert!(said.starts_with("error: invalid value '-1' for '--seed <SEED>'"), "{said}");
}

/// The seconds until a target of the test set was reached are those of the whole run, and what was reached before stays known.
#[test]
fn a_resumed_run_counts_from_its_start_until_the_test_target() {
    let home = tempfile::tempdir().unwrap();
    let start = |target: f64, epochs: &str| {
        std::fs::write(home.path().join("f.toml"), flowers(target)).unwrap();
        let out = wholestep(home.path(), &["train", "f.toml", "--out", "run", "--resume", "--epochs", epochs]);
        assert!(out.status.success(), "{}", text(&out.stderr));
        text(&out.stdout).lines().find(|l| l.starts_with("the test set's")).unwrap().to_string()
    };
    assert_eq!(start(1.1, "1"), "the test set's accuracy reached 1.1 after no epoch");
    // As if the first epoch had taken an hour.
    let mut saved = newest(home.path().join("run/checkpoints")).unwrap().unwrap();
    saved.record.run.as_mut().unwrap().seconds = 3600.0;
    std::fs::remove_dir_all(&saved.folder).unwrap();
    wholestep::checkpoint::write(&saved.folder, &saved.snapshot, &saved.record).unwrap();
    let told = start(0.4, "2");
    assert!(told.contains(") after epoch 2, 360"), "{told}");
    // The run is over, so no epoch looks again.
    assert_eq!(start(0.4, "2"), told);
    // What an epoch reached that is to run again is not reached yet.
    std::fs::remove_dir_all(home.path().join("run/checkpoints/step-0000000012")).unwrap();
    assert!(start(0.4, "2").contains(") after epoch 2, 360"));
    assert_eq!(start(1.1, "2"), "the test set's accuracy reached 1.1 after no epoch");
}

#[test]
fn weights_of_another_model_begin_a_run_and_what_did_not_fit_is_said() {
    let home = tempfile::tempdir().unwrap();
    std::fs::write(home.path().join("a.toml"), iris("epochs = 2\nbatch_size = 16")).unwrap();
    assert!(wholestep(home.path(), &["train", "a.toml", "--out", "a"]).status.success());
    // A third layer's size differs, and there is one more.
    let more = "{ type = \"linear\", out_features = 5 },\n  { type = \"relu\" },\n  { type = \"linear\", out_features = 3 },\n]";
    let other = iris("epochs = 1\nbatch_size = 16").replace("{ type = \"linear\", out_features = 3 },\n]", more);
    std::fs::write(home.path().join("b.toml"), other).unwrap();
    let out = wholestep(home.path(), &["train", "b.toml", "--out", "b", "--init-from", "a/best.safetensors"]);
    assert!(out.status.success(), "{}", text(&out.stderr));
    let said = text(&out.stdout);
    let want = [
        "a/best.safetensors: 6 tensors loaded, 2 of the file skipped, 4 of the model keep their values",
        "  loaded  0_linear.weight",
        "  skipped 3_linear.weight: the model has [5, 8] f32, the file [3, 8] f32",
        "  missing 5_linear.bias",
    ];
    for line in want {
        assert!(said.lines().any(|l| l == line), "{line}\n{said}");
    }
    let out = wholestep(home.path(), &["train", "b.toml", "--out", "c", "--init-from", "b.toml"]);
    assert_eq!(out.status.code(), Some(1));
    assert!(!home.path().join("c").exists());
}

#[test]
fn a_run_that_diverges_says_so_and_keeps_what_it_had() {
    let home = tempfile::tempdir().unwrap();
    let config = iris("epochs = 2").replace("kind = \"adam\"\nlr = 0.02", "kind = \"sgd\"\nlr = 1e30");
    std::fs::write(home.path().join("c.toml"), config).unwrap();
    let out = wholestep(home.path(), &["train", "c.toml", "--out", "run"]);
    assert_eq!(out.status.code(), Some(1));
    assert!(text(&out.stderr).contains("error: the loss is not finite in epoch 1, step "), "{}", text(&out.stderr));
    assert!(!home.path().join("run/best.safetensors").exists() && home.path().join("run/config.toml").exists());
}

#[test]
fn help_teaches_and_inspect_trains_nothing() {
    let home = tempfile::tempdir().unwrap();
    let help = text(&wholestep(home.path(), &["--help"]).stdout);
    // The configuration in the help is a good one.
    let from = help.find("  [data]").unwrap();
    let example: String =
        help[from..help.find("\nEnvironment").unwrap()].lines().map(|l| format!("{}\n", l.trim_start())).collect();
    let path = root().join("data/tables/iris.csv");
    std::fs::write(home.path().join("c.toml"), example.replace("\"iris.csv\"", &format!("{path:?}"))).unwrap();
    let out = wholestep(home.path(), &["inspect", "c.toml"]);
    assert!(out.status.success(), "{}", text(&out.stderr));
    let said = text(&out.stdout);
    assert!(said.contains("131 parameters") && said.contains("launches") && said.contains("fusions refused"), "{said}");
    assert_eq!(std::fs::read_dir(home.path()).unwrap().count(), 1);
}

#[test]
fn a_search_for_the_rate_writes_its_curve_and_nothing_else() {
    let home = tempfile::tempdir().unwrap();
    std::fs::write(home.path().join("flowers.toml"), iris("epochs = 8\nbatch_size = 16\nseed = 4")).unwrap();
    let out = wholestep(home.path(), &["lr", "flowers.toml", "--points", "40", "--out", "curve.csv"]);
    assert!(out.status.success(), "{}", text(&out.stderr));
    let said = text(&out.stdout);
    let lr = said.split("suggested: lr = ").nth(1).and_then(|s| s.split(',').next()).expect("a suggestion");
    assert!((1e-6..1.0).contains(&lr.parse::<f64>().unwrap()), "{said}");
    let csv = std::fs::read_to_string(home.path().join("curve.csv")).unwrap();
    assert!(csv.starts_with("lr,loss,smoothed\n1.0000000116860974e-7,") && csv.lines().count() > 20, "{csv}");
    let mut files: Vec<_> = std::fs::read_dir(home.path()).unwrap().map(|e| e.unwrap().file_name()).collect();
    files.sort();
    assert_eq!(files, ["curve.csv", "flowers.toml"]);
    let out = wholestep(home.path(), &["lr", "flowers.toml", "--from", "1", "--to", "0.1"]);
    assert_eq!(out.status.code(), Some(2));
    assert_eq!(text(&out.stderr), "error: to: need a finite number above the first rate, got 0.1\n");
}

#[test]
fn a_run_takes_groups_averages_and_schedules_from_its_file() {
    let home = tempfile::tempdir().unwrap();
    let train = "epochs = 3\nbatch_size = 16\naccumulate = 2\ngrad_norm = true\nnoise_scale = true\naverage = { kind = \"ema\", decay = 0.9 }\n\
                 groups = [{ params = \"0_linear/*\", lr_scale = 0.5 }]\n[schedule]\nkind = \"warmup\"\nsteps = 2\nthen = { kind = \"cosine\" }";
    std::fs::write(home.path().join("flowers.toml"), iris(train)).unwrap();
    let out = wholestep(home.path(), &["train", "flowers.toml"]);
    assert!(out.status.success(), "{}", text(&out.stderr));
    let said = text(&out.stderr);
    assert!(said.contains("  norm ") && said.contains("  noise "), "{said}");
    let numbers = std::fs::read_to_string(home.path().join("runs/flowers-001/metrics.jsonl")).unwrap();
    for line in numbers.lines() {
        let epoch: serde_json::Value = serde_json::from_str(line).unwrap();
        assert!(epoch["grad_norm"].as_f64().unwrap() > 0.0 && epoch["noise_scale"].is_number(), "{line}");
    }
    let wrong = iris(&train.replace("0_linear/*", "encoder/*"));
    std::fs::write(home.path().join("wrong.toml"), wrong).unwrap();
    let out = wholestep(home.path(), &["train", "wrong.toml"]);
    assert_eq!(out.status.code(), Some(2));
    let said = text(&out.stderr);
    assert!(
        said.starts_with("error: the group encoder/*: it matches no parameter; there are 0_linear/weight"),
        "{said}"
    );
    assert!(!home.path().join("runs/wrong-001").exists());
}

/// The cpu is always there. Of the rest each part is there with its version, or says how to get it.
#[test]
fn devices_are_listed_with_what_is_missing() {
    let home = tempfile::tempdir().unwrap();
    let run = |device: &str| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_wholestep"));
        command.arg("devices").current_dir(home.path()).env("WHOLESTEP_DEVICE", device).env("WHOLESTEP_THREADS", "2");
        command.output().unwrap()
    };
    let out = run("cpu");
    assert!(out.status.success(), "{}", text(&out.stderr));
    let said = text(&out.stdout);
    assert!(said.starts_with("cpu       2 threads, "), "{said}");
    assert!(said.contains("A step runs on: cpu, 2 threads"), "{said}");
    for library in ["driver", "NVRTC", "cuBLASLt", "cuDNN", "NCCL"] {
        let what =
            said.lines().find_map(|l| l.strip_prefix(&format!("{library:9} "))).unwrap_or_else(|| panic!("{said}"));
        let is_there = what.starts_with(|c: char| c.is_ascii_digit());
        assert!(is_there || (what.starts_with("not there: ") && what.contains("install")), "{library}: {what}");
        if library == "NVRTC" && std::env::var_os("REQUIRE_NVRTC").is_some() {
            assert!(is_there, "{what}");
        }
    }
    let wgpu = said.lines().find_map(|l| l.strip_prefix("wgpu      ")).unwrap_or_else(|| panic!("{said}"));
    assert!(wgpu.contains("Vulkan") || wgpu.contains("install the GPU's driver"), "{wgpu}");
    let out = run("tpu");
    assert_eq!(out.status.code(), Some(1));
    assert!(text(&out.stderr).contains("error: no device is called tpu"), "{}", text(&out.stderr));
}
