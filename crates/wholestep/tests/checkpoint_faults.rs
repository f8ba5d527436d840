//! Checkpoints that must not load, and disks that do not take one: a typed error that names what is wrong, and nothing half done.

#[path = "support/optimizers.rs"]
mod optimizers;

use optimizers::{OPTIMIZERS, of_kind};
use std::path::{Path, PathBuf};
use wholestep::checkpoint::{self, CHECKPOINT_FORMAT, Checkpoint, Weights, latest};
use wholestep::data::{Array, Dataset};
use wholestep::nn::{BatchNorm1d, Linear};
use wholestep::optim::{Lbfgs, Optimizer, Sgd};
use wholestep::spec::Model;
use wholestep::train::{Checkpoints, Loss, OptimizerSpec, ScheduleSpec, Trainer, Training, newest};
use wholestep::{Batch, Device, ErrorKind, F32, Step, U32};

fn step_of(hidden: usize, optimizer: OptimizerSpec) -> Step {
    Step::options()
        .seed(3)
        .compile(&Device::cpu_with_threads(1), optimizer, |s| {
            let x = Linear::new(&s.sub("fc1"), 4, hidden).forward(&s.input("x", (Batch, 4), F32));
            let x = BatchNorm1d::new(&s.sub("bn"), hidden).forward(&x).relu();
            Linear::new(&s.sub("fc2"), hidden, 3).forward(&x).cross_entropy(&s.labels("y", (Batch,), U32, 3, None))
        })
        .unwrap()
}

fn trained(hidden: usize, optimizer: OptimizerSpec) -> Step {
    let mut step = step_of(hidden, optimizer);
    let x = Array::new((0..32).map(|i| (i as f32 * 0.7).sin()).collect(), [8, 4]).unwrap();
    let y = Array::from_vec((0..8).map(|i| i % 3).collect::<Vec<u32>>());
    for _ in 0..4 {
        step.run(&[("x", &x), ("y", &y)]).unwrap();
    }
    step
}

fn saved(folder: &Path) -> PathBuf {
    let path = folder.join("step-4");
    checkpoint::save(&path, &mut trained(8, OptimizerSpec::adamw(0.01)), None).unwrap();
    path
}

/// Opens and restores, and checks that a refusal changes no bit.
fn refused(folder: &Path, mut step: Step) -> String {
    let before = step.snapshot().unwrap();
    let error = Checkpoint::open(folder).and_then(|c| step.restore(&c.snapshot)).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Checkpoint, "{error}");
    assert!(step.snapshot().unwrap() == before, "a refused checkpoint changed the step: {error}");
    error.to_string()
}

#[test]
fn a_checkpoint_of_something_else_names_each_tensor() {
    let home = tempfile::tempdir().unwrap();
    let path = saved(home.path());
    let text = refused(&path, step_of(9, OptimizerSpec::adamw(0.01)));
    assert!(
        text.starts_with("the checkpoint is of another model: 17 of its tensors do not fit, and nothing was loaded:"),
        "{text}"
    );
    assert!(text.contains("\n  fc1.weight: expected [9, 4] f32, the checkpoint has [8, 4] f32"), "{text}");
    assert!(text.ends_with("resume with what it was saved with, or load its weights alone"), "{text}");
    let text = refused(&path, step_of(8, Sgd::new(0.1).momentum(0.9).into()));
    assert!(text.starts_with("the checkpoint is of another optimizer (AdamW, the step has Sgd): "), "{text}");
    assert!(text.contains("\n  optimizer.fc1.weight.momentum_buffer [8, 4] f32 is not in the checkpoint"), "{text}");
    assert!(text.contains("\n  optimizer.fc1.bias.exp_avg [8] f32 is only in the checkpoint"), "{text}");
    let plain = refused(&path, step_of(8, OptimizerSpec::sgd(0.1)));
    assert!(
        plain.contains("12 of its tensors") && plain.contains("exp_avg_sq [8, 4] f32 is only in the checkpoint"),
        "{plain}"
    );
}

/// The state of some has the names and shapes of another's, as Adam's and RAdam's, and means something else.
#[test]
fn the_state_of_every_other_optimizer_is_refused_by_both_names() {
    let home = tempfile::tempdir().unwrap();
    let of_kind = |kind: &str| if kind == "lbfgs" { Lbfgs::new().into() } else { of_kind(kind, 0.01) };
    let rules: Vec<OptimizerSpec> = OPTIMIZERS.iter().chain(&["lbfgs"]).map(|kind| of_kind(kind)).collect();
    let saved = rules.iter().map(|rule| {
        let path = home.path().join(rule.name());
        checkpoint::save(&path, &mut trained(8, rule.clone()), None).unwrap();
        Checkpoint::open(&path).unwrap().snapshot
    });
    let saved: Vec<_> = saved.collect();
    for own in &rules {
        let mut step = step_of(8, own.clone());
        let before = step.snapshot().unwrap();
        for (theirs, snapshot) in rules.iter().zip(&saved).filter(|(theirs, _)| *theirs != own) {
            let error = step.restore(snapshot).unwrap_err();
            let (theirs, own) = (theirs.name(), own.name());
            let want = format!("the checkpoint is of another optimizer ({theirs}, the step has {own}): ");
            assert!(error.kind() == ErrorKind::Checkpoint && error.to_string().starts_with(&want), "{error}");
            assert!(step.snapshot().unwrap() == before, "a refused checkpoint of {theirs} changed a step of {own}");
        }
    }
    let text = step_of(8, of_kind("radam")).restore(&saved[1]).unwrap_err().to_string();
    let want = "the checkpoint is of another optimizer (Adam, the step has RAdam): its tensors fit and mean something else, and nothing was \
                loaded\nresume with what it was saved with, or load its weights alone";
    assert_eq!(text, want);
}

/// Rewrites a file of a checkpoint and its checksum, as somebody would who means it.
fn rewrite(folder: &Path, name: &str, change: impl FnOnce(Vec<u8>) -> Vec<u8>) {
    let bytes = change(std::fs::read(folder.join(name)).unwrap());
    let sum = format!("{:032x}", xxhash_rust::xxh3::xxh3_128(&bytes));
    std::fs::write(folder.join(name), bytes).unwrap();
    let sums = std::fs::read_to_string(folder.join("XXH128SUMS")).unwrap();
    let line = |line: &str| if line.ends_with(name) { format!("{sum}  {name}\n") } else { format!("{line}\n") };
    std::fs::write(folder.join("XXH128SUMS"), sums.lines().map(line).collect::<String>()).unwrap();
}

#[test]
fn tensors_that_are_missing_extra_or_of_another_type_are_named() {
    let home = tempfile::tempdir().unwrap();
    let path = saved(home.path());
    let replace = |from: &'static str, to: &'static str| {
        move |bytes: Vec<u8>| {
            assert_eq!(from.len(), to.len());
            let at = bytes.windows(from.len()).position(|w| w == from.as_bytes()).expect("it is in the header");
            [&bytes[..at], to.as_bytes(), &bytes[at + from.len()..]].concat()
        }
    };
    let fresh = || step_of(8, OptimizerSpec::adamw(0.01));
    rewrite(&path, "weights.safetensors", replace("bn.running_mean", "bn.running_meen"));
    let text = refused(&path, fresh());
    assert!(text.contains("\n  bn.running_mean [8] f32 is not in the checkpoint"), "{text}");
    assert!(text.contains("\n  bn.running_meen [8] f32 is only in the checkpoint"), "{text}");
    rewrite(&path, "weights.safetensors", replace("bn.running_meen", "bn.running_mean"));
    let of_key = |name: &str, dtype: &str| format!(r#""{name}":{{"data_offsets":[0,4],"dtype":"{dtype}""#);
    let state = String::from_utf8_lossy(&std::fs::read(path.join("state.safetensors")).unwrap()).into_owned();
    assert!(state.contains(&of_key("step", "U32")), "{state}");
    rewrite(
        &path,
        "state.safetensors",
        replace(r#""step":{"data_offsets":[0,4],"dtype":"U32""#, r#""step":{"data_offsets":[0,4],"dtype":"F32""#),
    );
    let text = refused(&path, fresh());
    assert!(text.contains("\n  step: expected [] u32, the checkpoint has [] f32"), "{text}");
    rewrite(&path, "checkpoint.json", replace("\"format\": 2", "\"format\": 9"));
    let text = refused(&path, fresh());
    assert!(text.ends_with(&format!("checkpoint.json: the checkpoint has format version 9, this library reads {CHECKPOINT_FORMAT}; resume with the version that wrote it")), "{text}");
}

#[test]
fn every_cut_and_every_changed_byte_is_found_and_the_file_named() {
    let home = tempfile::tempdir().unwrap();
    let path = saved(home.path());
    let whole = Checkpoint::open(&path).unwrap();
    for name in ["weights.safetensors", "state.safetensors", "checkpoint.json", "XXH128SUMS"] {
        let file = path.join(name);
        let bytes = std::fs::read(&file).unwrap();
        let check = |damaged: &[u8], what: String| {
            std::fs::write(&file, damaged).unwrap();
            match Checkpoint::open(&path) {
                Err(e) => assert!(e.to_string().contains(name) || e.to_string().contains("XXH128SUMS"), "{what}: {e}"),
                // A change of a checksum's unused end leaves nothing to find fault with.
                Ok(read) => assert!(name == "XXH128SUMS" && read == whole, "{what} passed"),
            }
        };
        for cut in (0..bytes.len()).step_by(bytes.len() / 23 + 1) {
            check(&bytes[..cut], format!("{name} cut after {cut}"));
        }
        for at in (0..bytes.len()).step_by(bytes.len() / 97 + 1) {
            let mut damaged = bytes.clone();
            damaged[at] ^= 4;
            check(&damaged, format!("{name} with byte {at} changed"));
        }
        std::fs::remove_file(&file).unwrap();
        let text = Checkpoint::open(&path).unwrap_err().to_string();
        assert!(text.contains(&format!("{name} is missing: the checkpoint is not whole")), "{text}");
        std::fs::write(&file, &bytes).unwrap();
    }
    assert_eq!(Checkpoint::open(&path).unwrap(), whole);
}

#[test]
fn a_checkpoint_is_never_overwritten_and_its_weights_open_alone() {
    let home = tempfile::tempdir().unwrap();
    let path = saved(home.path());
    let e = checkpoint::save(&path, &mut step_of(8, OptimizerSpec::adamw(0.01)), None).unwrap_err();
    assert_eq!(e.kind(), ErrorKind::Io);
    assert!(e.to_string().ends_with("it is there already; a checkpoint is never overwritten"), "{e}");
    let (weights, _) = Weights::open(path.join("weights.safetensors")).unwrap();
    let mut fresh = step_of(8, OptimizerSpec::sgd(0.1));
    weights.load_into(&mut fresh).unwrap();
    let there = trained(8, OptimizerSpec::adamw(0.01)).read("fc1/weight").unwrap();
    assert_eq!(fresh.read("fc1/weight").unwrap(), there);
    let names: Vec<_> = std::fs::read_dir(home.path()).unwrap().map(|e| e.unwrap().file_name()).collect();
    assert_eq!(names, ["step-4"], "nothing half written is left");
}

fn data() -> Dataset {
    let x = Array::new((0..160).map(|i| (i as f32 * 0.37).sin()).collect(), [40, 4]).unwrap();
    Dataset::new([("x", x), ("y", Array::from_vec((0..40).map(|i| i % 3).collect::<Vec<u32>>()))]).unwrap()
}

fn trainer(training: Training, hidden: usize, folder: &Path) -> Trainer {
    let model = Model::input([4]).linear(hidden).relu().linear(3);
    let mut trainer = Trainer::new(&Device::cpu_with_threads(1), model, training).unwrap();
    trainer.set_checkpoints(Checkpoints::new(folder));
    trainer
}

fn training() -> Training {
    Training { epochs: 2, batch_size: 8, ..Training::new(Loss::cross_entropy(), OptimizerSpec::adam(0.01)) }
}

#[test]
fn a_run_of_other_settings_is_refused_by_name() {
    let home = tempfile::tempdir().unwrap();
    trainer(training(), 8, home.path()).fit(&data(), None, &mut []).unwrap();
    let refused = |training: Training, hidden: usize| {
        let saved = newest(home.path()).unwrap().unwrap();
        let e = trainer(training, hidden, home.path()).resume(saved).unwrap_err();
        assert_eq!(e.kind(), ErrorKind::Checkpoint);
        e.to_string()
    };
    let text = refused(Training { batch_size: 4, seed: 8, ..training() }, 8);
    assert!(
        text.ends_with("it was trained with other settings:\n  batch_size was 8, now 4\n  seed was 0, now 8\n  a run goes on with its own; with \
             others, begin a new one from its weights"),
        "{text}"
    );
    let text = refused(Training { optimizer: OptimizerSpec::adam(0.02), ..training() }, 8);
    assert!(text.contains("\n  optimizer was {") && text.contains("0.02"), "{text}");
    let text = refused(training(), 9);
    assert!(text.ends_with("it is of another model than the one that is to go on"), "{text}");
    // A schedule that was laid over the whole run is not stretched without a word.
    let cosine = Training { schedule: ScheduleSpec::Cosine { steps: None, min: 0.0 }, ..training() };
    let other = tempfile::tempdir().unwrap();
    trainer(cosine.clone(), 8, other.path()).fit(&data(), None, &mut []).unwrap();
    let saved = newest(other.path()).unwrap().unwrap();
    let e = trainer(Training { epochs: 3, ..cosine }, 8, other.path()).resume(saved).unwrap_err();
    assert!(e.to_string().contains("\n  epochs was 2, now 3\n"), "{e}");
    // Other data of another length: the position says so, and nothing was loaded.
    let saved = newest(home.path()).unwrap().unwrap();
    let mut resumed = trainer(training(), 8, home.path());
    resumed.resume(saved).unwrap();
    let (short, _) = data().split(0.5, 0).unwrap();
    let e = resumed.fit(&short, None, &mut []).unwrap_err().to_string();
    assert!(e.contains("resume with the same data, batch size, seed and order"), "{e}");
}

#[test]
fn two_processes_do_not_write_to_one_folder_and_leftovers_go() {
    let home = tempfile::tempdir().unwrap();
    let half = home.path().join(".step-0000000009.77.part");
    std::fs::create_dir(&half).unwrap();
    std::fs::write(half.join("weights.safetensors"), "half").unwrap();
    assert_eq!(latest(home.path()).unwrap(), None, "what is half written is no checkpoint");
    let lock = std::fs::File::create(home.path().join(".lock")).unwrap();
    lock.lock().unwrap();
    let e = trainer(training(), 8, home.path()).fit(&data(), None, &mut []).unwrap_err().to_string();
    assert!(e.ends_with("another process writes checkpoints here; wait for it or end it"), "{e}");
    assert!(half.exists());
    lock.unlock().unwrap();
    trainer(training(), 8, home.path()).fit(&data(), None, &mut []).unwrap();
    assert!(!half.exists(), "what a killed process left is removed");
}

/// A file in the place of the folder stands for every disk that cannot be written to; see the command's tests for a full one.
#[test]
fn a_disk_that_cannot_be_written_to_ends_the_run_with_the_path_and_keeps_the_weights() {
    let home = tempfile::tempdir().unwrap();
    let taken = home.path().join("taken");
    std::fs::write(&taken, "a file").unwrap();
    let mut run = trainer(training(), 8, &taken);
    let e = run.fit(&data(), None, &mut []).unwrap_err();
    assert_eq!(e.kind(), ErrorKind::Io);
    assert!(e.to_string().contains("taken"), "{e}");
    assert!(run.weights().is_ok());
    let path = home.path().join("taken/step-1");
    let e = checkpoint::save(&path, &mut step_of(8, OptimizerSpec::sgd(0.1)), None).unwrap_err();
    assert_eq!(e.kind(), ErrorKind::Io);
    assert_eq!(std::fs::read_to_string(&taken).unwrap(), "a file");
}

/// A checkpoint says that epochs are done, so what callbacks wrote by then is on disk first: here is one that no disk takes.
#[cfg(target_os = "linux")]
#[test]
fn no_checkpoint_is_there_before_the_files_beside_it_are_on_disk() {
    let home = tempfile::tempdir().unwrap();
    let mut run = trainer(training(), 8, home.path());
    let beside = |files: &[&str]| Checkpoints {
        beside: files.iter().map(|f| home.path().join(f)).collect(),
        ..Checkpoints::new(home.path())
    };
    run.set_checkpoints(beside(&["not-written-yet", "/dev/null"]));
    let e = run.fit(&data(), None, &mut []).unwrap_err();
    assert!(e.kind() == ErrorKind::Io && e.to_string().contains("/dev/null"), "{e}");
    assert_eq!(latest(home.path()).unwrap(), None);
    let mut run = trainer(training(), 8, home.path());
    run.set_checkpoints(beside(&["not-written-yet"]));
    run.fit(&data(), None, &mut []).unwrap();
    assert!(latest(home.path()).unwrap().is_some());
}
