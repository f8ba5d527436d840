//! Runs that go on in another process: the same bits as if they had never ended. On the host's threads, or on the device that `WHOLESTEP_DEVICE` names.

#[path = "support/devices.rs"]
mod devices;
#[path = "support/process.rs"]
mod process;

use devices::chosen;
use process::{command, in_child};
use std::fmt::Write;
use std::path::{Path, PathBuf};
use std::time::Instant;
use wholestep::checkpoint::{self, Checkpoint, Keep, Meta, Weights, latest};
use wholestep::data::loader::Loading;
use wholestep::data::random::Philox;
use wholestep::data::{Array, Dataset, Loader};
use wholestep::nn::{BatchNorm1d, BatchNorm1dSpec, Dropout, DropoutSpec, Linear};
use wholestep::optim::{
    Adadelta, Adafactor, Adagrad, Adam, AdamW, Adamax, Lamb, Lbfgs, Lion, Muon, NAdam, RAdam, RmsProp,
    ScheduleFreeAdamW, Sgd,
};
use wholestep::schedule::{Anneal, CosineAnnealing, Threshold};
use wholestep::spec::Model;
use wholestep::step::{Average, LOSS_SCALE, ParamGroup, SKIPPED_STEPS, Snapshot};
use wholestep::train::{
    Callback, Checkpoints, ClipSpec, EarlyStopping, EpochEnd, Flow, History, Loss, OptimizerSpec, ScheduleSpec,
    Trainer, Training, newest,
};
use wholestep::{Batch, Clip, ErrorKind, F32, Precision, Scope, Step, Tensor, U32};

/// Every optimizer with all combinations of its options on and off. The match has no wildcard: a new optimizer does not compile until it is here.
fn every_optimizer() -> Vec<OptimizerSpec> {
    let plain: [OptimizerSpec; 15] = [
        Sgd::new(0.05).into(),
        Adam::new(0.01).into(),
        AdamW::new(0.01).into(),
        RmsProp::new(0.01).into(),
        Adagrad::new(0.05).into(),
        Adadelta::new(1.0).into(),
        NAdam::new(0.01).into(),
        RAdam::new(0.01).into(),
        Adamax::new(0.01).into(),
        Lion::new(0.001).into(),
        Muon::new(0.01).into(),
        Lamb::new(0.01).into(),
        Adafactor::new(0.01).into(),
        ScheduleFreeAdamW::new(0.01).into(),
        Lbfgs::new().max_iter(2).history_size(5).into(),
    ];
    let decayed = |spec: OptimizerSpec| [0.0, 0.01].map(|decay| with_decay(spec.clone(), decay));
    plain.into_iter().flat_map(options_of).flat_map(decayed).collect()
}

fn options_of(spec: OptimizerSpec) -> Vec<OptimizerSpec> {
    const SWITCH: [bool; 2] = [false, true];
    match spec {
        OptimizerSpec::Sgd(o) => {
            let with = o.clone().momentum(0.9);
            vec![o.into(), with.clone().into(), with.clone().nesterov().into(), with.dampening(0.5).into()]
        }
        OptimizerSpec::Adam(o) => SWITCH.map(|amsgrad| Adam { amsgrad, ..o.clone() }.into()).to_vec(),
        OptimizerSpec::AdamW(o) => SWITCH.map(|amsgrad| AdamW { amsgrad, ..o.clone() }.into()).to_vec(),
        OptimizerSpec::RmsProp(o) => {
            let of = |momentum: f64| SWITCH.map(|centered| RmsProp { momentum, centered, ..o.clone() }.into());
            [of(0.0), of(0.9)].concat()
        }
        OptimizerSpec::Adagrad(o) => {
            let of = |lr_decay: f64| {
                [0.0, 0.1].map(|sum| Adagrad { lr_decay, initial_accumulator_value: sum, ..o.clone() }.into())
            };
            [of(0.0), of(0.1)].concat()
        }
        OptimizerSpec::NAdam(o) => SWITCH.map(|on| NAdam { decoupled_weight_decay: on, ..o.clone() }.into()).to_vec(),
        OptimizerSpec::RAdam(o) => SWITCH.map(|on| RAdam { decoupled_weight_decay: on, ..o.clone() }.into()).to_vec(),
        OptimizerSpec::Muon(o) => SWITCH.map(|nesterov| Muon { nesterov, ..o.clone() }.into()).to_vec(),
        OptimizerSpec::Lbfgs(o) => vec![o.clone().into(), o.fixed(0.1).into()],
        OptimizerSpec::Adadelta(_)
        | OptimizerSpec::Adamax(_)
        | OptimizerSpec::Lion(_)
        | OptimizerSpec::Lamb(_)
        | OptimizerSpec::Adafactor(_)
        | OptimizerSpec::ScheduleFreeAdamW(_) => vec![spec],
    }
}

fn with_decay(spec: OptimizerSpec, weight_decay: f64) -> OptimizerSpec {
    match spec {
        OptimizerSpec::Sgd(o) => Sgd { weight_decay, ..o }.into(),
        OptimizerSpec::Adam(o) => Adam { weight_decay, ..o }.into(),
        OptimizerSpec::AdamW(o) => AdamW { weight_decay, ..o }.into(),
        OptimizerSpec::RmsProp(o) => RmsProp { weight_decay, ..o }.into(),
        OptimizerSpec::Adagrad(o) => Adagrad { weight_decay, ..o }.into(),
        OptimizerSpec::Adadelta(o) => Adadelta { weight_decay, ..o }.into(),
        OptimizerSpec::NAdam(o) => NAdam { weight_decay, ..o }.into(),
        OptimizerSpec::RAdam(o) => RAdam { weight_decay, ..o }.into(),
        OptimizerSpec::Adamax(o) => Adamax { weight_decay, ..o }.into(),
        OptimizerSpec::Lion(o) => Lion { weight_decay, ..o }.into(),
        OptimizerSpec::Muon(o) => Muon { weight_decay, ..o }.into(),
        OptimizerSpec::Lamb(o) => Lamb { weight_decay, ..o }.into(),
        OptimizerSpec::Adafactor(o) => Adafactor { weight_decay, ..o }.into(),
        OptimizerSpec::ScheduleFreeAdamW(o) => ScheduleFreeAdamW { weight_decay, ..o }.into(),
        OptimizerSpec::Lbfgs(o) => Lbfgs { weight_decay, ..o }.into(),
    }
}

fn data(rows: usize) -> Dataset {
    let mut random = Philox::new(11, 0);
    let x: Vec<f32> = (0..rows * 6).map(|_| random.normal() as f32).collect();
    let y: Vec<u32> = (0..rows).map(|_| random.below(4) as u32).collect();
    Dataset::new([("x", Array::new(x, [rows, 6]).unwrap()), ("y", Array::from_vec(y))]).unwrap()
}

fn network(s: &Scope) -> Tensor {
    let x = s.input("x", (Batch, 6), F32);
    let hidden = Linear::new(&s.sub("fc1"), 6, 20).forward(&x);
    let hidden = BatchNorm1d::new(&s.sub("bn"), 20).forward(&hidden).relu();
    let hidden = Dropout::new(&s.sub("drop"), 0.3).forward(&hidden);
    Linear::new(&s.sub("fc2"), 20, 4).forward(&hidden)
}

/// A step with a schedule, clipping, dropout and running statistics, and its loader.
fn step_and_loader(spec: &OptimizerSpec) -> (Step, Loader) {
    let clip = match spec {
        OptimizerSpec::Lbfgs(_) => None, // it searches along the gradient as it is
        _ => Some(Clip::GlobalNorm(0.5)),
    };
    let options = Step::options().seed(5);
    let options = clip.into_iter().fold(options, |options, clip| options.clip(clip));
    let step = options
        .schedule(&CosineAnnealing::new(40))
        .compile(&chosen(2), spec.clone(), |s| network(s).cross_entropy(&s.labels("y", (Batch,), U32, 4, None)))
        .unwrap();
    let loading = Loading { batch_size: 16, seed: 5, ..Loading::default() };
    (step, Loader::new(&data(50), loading).unwrap())
}

/// Runs `n` steps and gives the bits of each loss.
fn run(step: &mut Step, loader: &mut Loader, n: usize) -> String {
    let mut losses = String::new();
    for _ in 0..n {
        let batch = loader.next().or_else(|| loader.next()).unwrap().unwrap();
        step.run(&batch.columns().collect::<Vec<_>>()).unwrap();
        let _ = writeln!(losses, "{:08x}", step.loss().unwrap().to_bits());
    }
    losses
}

const BEFORE: usize = 9;
const AFTER: usize = 12;

#[test]
fn every_optimizer_goes_on_in_a_new_process_to_the_bit() {
    if let Some(folder) = in_child("first part") {
        for (i, spec) in every_optimizer().iter().enumerate() {
            let (mut step, mut loader) = step_and_loader(spec);
            run(&mut step, &mut loader, BEFORE);
            checkpoint::save(folder.join(format!("{i}")), &mut step, Some(loader.current_position())).unwrap();
        }
        return;
    }
    if let Some(folder) = in_child("second part") {
        for (i, spec) in every_optimizer().iter().enumerate() {
            let (mut step, mut loader) = step_and_loader(spec);
            let saved = Checkpoint::open(folder.join(format!("{i}"))).unwrap();
            step.restore(&saved.snapshot).unwrap();
            loader.seek(&saved.record.position.unwrap()).unwrap();
            let losses = run(&mut step, &mut loader, AFTER);
            std::fs::write(folder.join(format!("{i}.losses")), losses).unwrap();
            checkpoint::save(folder.join(format!("{i}-end")), &mut step, Some(loader.current_position())).unwrap();
        }
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    for part in ["first part", "second part"] {
        let ended =
            command("every_optimizer_goes_on_in_a_new_process_to_the_bit", part, folder.path()).status().unwrap();
        assert!(ended.success(), "{part}: {ended}");
    }
    for (i, spec) in every_optimizer().iter().enumerate() {
        let (mut step, mut loader) = step_and_loader(spec);
        run(&mut step, &mut loader, BEFORE);
        let half = Checkpoint::open(folder.path().join(format!("{i}"))).unwrap();
        assert!(half.snapshot == step.snapshot().unwrap(), "{spec:?}: what was saved is not what was there");
        let losses = run(&mut step, &mut loader, AFTER);
        let read = std::fs::read_to_string(folder.path().join(format!("{i}.losses"))).unwrap();
        assert_eq!(read, losses, "{spec:?}");
        let end = Checkpoint::open(folder.path().join(format!("{i}-end"))).unwrap();
        assert!(end.snapshot == step.snapshot().unwrap(), "{spec:?}: parameters or state differ after resuming");
        assert_eq!(end.record.position, Some(loader.current_position()), "{spec:?}");
        // A guard against saving what was never trained: all state of an optimizer has moved.
        for slot in half.snapshot.slots().iter().filter(|s| s.name.starts_with("optimizer.")) {
            assert!(half.snapshot.bytes(slot).iter().any(|b| *b != 0), "{spec:?}: {} is all zero", slot.name);
        }
    }
}

/// Runs that have everything on between them: batch normalization, dropout, shuffling, validation and early stopping in all; schedules
/// that know the step and one that watches, clipping, both averages, accumulation, groups with settings of their own, all precisions.
fn everything() -> [(&'static str, Training); 3] {
    let all = |optimizer: OptimizerSpec| Training {
        epochs: 12,
        batch_size: 16,
        seed: 21,
        early_stopping: Some(EarlyStopping::new(9)),
        ..Training::new(Loss::cross_entropy(), optimizer)
    };
    let cosine = Training {
        schedule: ScheduleSpec::Cosine { steps: None, min: 1e-4 },
        clip: Some(ClipSpec::Norm(0.7)),
        ..all(OptimizerSpec::adamw(0.02))
    };
    let plateau = ScheduleSpec::Plateau {
        metric: None,
        factor: 0.5,
        patience: 0,
        threshold: Threshold::Rel(0.1),
        cooldown: 1,
        min: 1e-4,
        eps: 1e-8,
    };
    let scaled = Training {
        schedule: plateau,
        clip: Some(ClipSpec::Value(0.5)),
        precision: Precision::F16,
        groups: vec![ParamGroup::new("*/bias").lr(0.01), ParamGroup::new("0_linear/*").lr_scale(0.5).weight_decay(0.0)],
        accumulate: 2,
        average: Some(Average::Ema { decay: 0.9 }),
        ..all(OptimizerSpec::adamw(0.02))
    };
    let cycle = ScheduleSpec::OneCycle {
        steps: None,
        pct_start: 0.3,
        anneal: Anneal::Cos,
        momentum: Some((0.8, 0.95)),
        div_factor: 25.0,
        final_div_factor: 1e4,
        three_phase: false,
    };
    let averaged = Training {
        schedule: cycle,
        precision: Precision::Bf16,
        groups: vec![ParamGroup::new("0_linear/*").frozen()],
        average: Some(Average::Swa { start: 10, every: 3 }),
        ..all(Sgd::new(0.1).momentum(0.9).nesterov().into())
    };
    [("cosine", cosine), ("scaled", scaled), ("averaged", averaged)]
}

fn trainer(folder: &Path, every_steps: u64, training: &Training) -> Trainer {
    let model =
        Model::input([6]).linear(20).layer(BatchNorm1dSpec::new()).relu().layer(DropoutSpec::new(0.3)).linear(4);
    let mut trainer = Trainer::new(&chosen(2), model, training.clone()).unwrap();
    let keep = Keep { last: 3, best: true };
    trainer.set_checkpoints(Checkpoints::new(folder.join("checkpoints")).every_steps(every_steps).keep(keep));
    trainer
}

/// The last step that is saved before the process dies: within epoch 3, between the two batches of an update where two make one.
const SAVED: u64 = 21;

/// Ends the process, as a power cut does, after so many rows and as soon as the checkpoint of step [`SAVED`] is on disk.
struct Abort {
    after: u64,
    seen: u64,
    checkpoints: PathBuf,
}

impl Callback for Abort {
    fn on_rows(&mut self, rows: u64, _loss: Option<f64>) {
        self.seen += rows;
        let step =
            |path: PathBuf| path.file_name().unwrap().to_str().unwrap().trim_start_matches("step-").parse().unwrap();
        if self.seen <= self.after {
            return;
        }
        let began = Instant::now();
        loop {
            if latest(&self.checkpoints).unwrap().map(step) == Some(SAVED) {
                std::process::abort();
            }
            assert!(began.elapsed().as_secs() < 60, "the checkpoint of step {SAVED} is not written");
            std::thread::yield_now();
        }
    }
}

fn fit(trainer: &mut Trainer, callbacks: &mut [&mut dyn Callback]) -> History {
    let (train, validation) = data(200).split(0.7, 3).unwrap();
    trainer.fit(&train, Some(&validation), callbacks).unwrap()
}

/// A history without its times.
fn numbers(history: &History) -> Vec<wholestep::train::Epoch> {
    let timeless =
        |e: &wholestep::train::Epoch| wholestep::train::Epoch { seconds: 0.0, elapsed_seconds: 0.0, ..e.clone() };
    history.epochs.iter().map(timeless).collect()
}

/// Makes the scale of an f16 run so large after the first epoch that the gradients of several steps overflow.
struct Overflow;

impl Callback for Overflow {
    fn on_epoch_end(&mut self, end: &mut EpochEnd) -> wholestep::Result<Flow> {
        if end.record.epoch == 1 && end.step.read(LOSS_SCALE).is_ok() {
            end.step.write(LOSS_SCALE, &Array::scalar(2f32.powi(40)))?;
        }
        Ok(Flow::Continue)
    }
}

/// That what is on in a run has left its mark in what was saved.
fn assert_all_parts_worked(name: &str, saved: &Snapshot) {
    let bytes = |slot: &str| {
        let slot = saved.find(slot).unwrap_or_else(|| panic!("{name}: there is no {slot}"));
        saved.bytes(slot)
    };
    let not_zero = |slot: &str| assert!(bytes(slot).iter().any(|b| *b != 0), "{name}: {slot} is zero");
    let differ = |a: &str, b: &str| assert!(bytes(a) != bytes(b), "{name}: {a} is {b}");
    not_zero("1_batch_norm1d/running_mean");
    match name {
        "cosine" => {}
        "scaled" => {
            [SKIPPED_STEPS, "plateau/reported", "accumulated_rows"].into_iter().for_each(not_zero);
            differ("4_linear/weight", "average/4_linear/weight");
        }
        "averaged" => {
            not_zero("optimizer/4_linear/weight/momentum_buffer");
            differ("4_linear/weight", "average/4_linear/weight");
            assert!(saved.find("optimizer/0_linear/weight/momentum_buffer").is_none(), "a frozen weight has no state");
        }
        other => panic!("there is no run {other}"),
    }
}

#[test]
fn a_run_with_everything_on_that_dies_within_an_epoch_ends_in_the_same_bits() {
    let of = |folder: &Path| {
        let name = folder.file_name().unwrap().to_str().unwrap();
        everything().into_iter().find(|(n, _)| *n == name).unwrap().1
    };
    if let Some(folder) = in_child("run") {
        // 140 rows an epoch, 9 steps: the process dies after step 23. Later on a submission may hold a whole epoch, so that nothing would be
        // saved within one.
        let checkpoints = folder.join("checkpoints");
        let abort = &mut Abort { after: 2 * 140 + 4 * 16, seen: 0, checkpoints };
        fit(&mut trainer(&folder, 3, &of(&folder)), &mut [&mut Overflow, abort]);
        return;
    }
    if let Some(folder) = in_child("resume") {
        let mut trainer = trainer(&folder, 3, &of(&folder));
        let saved = newest(folder.join("checkpoints")).unwrap().unwrap();
        std::fs::write(folder.join("from"), format!("{}", saved.record.step)).unwrap();
        trainer.resume(saved).unwrap();
        let history = fit(&mut trainer, &mut []);
        std::fs::write(folder.join("history"), format!("{:?} {:?}", numbers(&history), history.ended)).unwrap();
        checkpoint::save(folder.join("end"), trainer.step().unwrap(), None).unwrap();
        return;
    }
    let test = "a_run_with_everything_on_that_dies_within_an_epoch_ends_in_the_same_bits";
    let home = tempfile::tempdir().unwrap();
    for (name, training) in everything() {
        let folder = home.path().join(name);
        std::fs::create_dir(&folder).unwrap();
        assert!(!command(test, "run", &folder).status().unwrap().success(), "{name}: the first process was to die");
        let half = newest(folder.join("checkpoints")).unwrap().unwrap();
        assert_all_parts_worked(name, &half.snapshot);
        assert!(command(test, "resume", &folder).status().unwrap().success(), "{name}");
        let other = tempfile::tempdir().unwrap();
        let mut whole = trainer(other.path(), 1_000_000, &training);
        let history = fit(&mut whole, &mut [&mut Overflow]);
        let read = std::fs::read_to_string(folder.join("history")).unwrap();
        assert_eq!(read, format!("{:?} {:?}", numbers(&history), history.ended), "{name}");
        let end = Checkpoint::open(folder.join("end")).unwrap();
        assert!(end.snapshot == whole.step().unwrap().snapshot().unwrap(), "{name}: slots differ after resuming");
        let from: u64 = std::fs::read_to_string(folder.join("from")).unwrap().parse().unwrap();
        assert_eq!(from, SAVED, "{name}");
    }
}

/// A run goes on with the data that it began with: other values in as many rows are another run.
#[test]
fn other_data_of_the_same_size_are_refused_by_column() {
    let folder = tempfile::tempdir().unwrap();
    let (train, validation) = data(200).split(0.7, 3).unwrap();
    fit(&mut plain(folder.path(), 3), &mut []);
    let found = steps_in(folder.path());
    let changed = |set: &Dataset, name: &str| {
        let mut x = set.column(name).unwrap().clone();
        // One bit of one value, in the middle.
        match x.as_mut_slice::<f32>() {
            Some(x) => x[x.len() / 2] = f32::from_bits(x[x.len() / 2].to_bits() ^ 1),
            None => x.as_mut_slice::<u32>().unwrap()[5] ^= 1,
        }
        set.clone().with_column(name, x).unwrap()
    };
    let resume = |train: &Dataset, validation: Option<&Dataset>| {
        let mut trainer = plain(folder.path(), 5);
        trainer.resume(newest(folder.path().join("checkpoints")).unwrap().unwrap()).unwrap();
        let error = trainer.fit(train, validation, &mut []).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Checkpoint);
        let mut fresh = plain(folder.path(), 5);
        fresh.prepare(train.rows()).unwrap();
        assert_eq!(trainer.weights().unwrap(), fresh.weights().unwrap(), "nothing was loaded");
        error.to_string()
    };
    for (set, name, train, validation) in [
        ("training", "x", changed(&train, "x"), Some(validation.clone())),
        ("training", "y", changed(&train, "y"), Some(validation.clone())),
        ("validation", "x", train.clone(), Some(changed(&validation, "x"))),
    ] {
        let error = resume(&train, validation.as_ref());
        let says = format!(
            "the {set} data are not those that the run began with: column {name:?} holds other values or another type; resume it with \
             the same data"
        );
        assert!(error.ends_with(&says), "{error}");
    }
    let error = resume(&train, None);
    assert!(error.contains("the validation data are not") && error.contains("column \"x\" is missing"), "{error}");
    assert_eq!(steps_in(folder.path()), found, "a refused run removes no checkpoint");
    // The same data go on.
    let mut trainer = plain(folder.path(), 5);
    trainer.resume(newest(folder.path().join("checkpoints")).unwrap().unwrap()).unwrap();
    assert_eq!(trainer.fit(&train, Some(&validation), &mut []).unwrap().epochs.len(), 5);
}

/// What is on disk after each kind of end.
fn steps_in(folder: &Path) -> Vec<String> {
    let mut names: Vec<String> = std::fs::read_dir(folder.join("checkpoints"))
        .unwrap()
        .map(|e| e.unwrap().file_name().into_string().unwrap())
        .filter(|n| n != ".lock")
        .collect();
    names.sort();
    names
}

/// A run that is best early and goes on for 12 epochs, saved as `how` says. Labels are random here, so a network that is large and fast
/// learns by heart from its best epoch on.
fn by_heart(folder: &Path, how: impl FnOnce(Checkpoints) -> Checkpoints) -> Trainer {
    let settings = Training {
        epochs: 12,
        batch_size: 16,
        early_stopping: Some(EarlyStopping::new(12)),
        ..Training::new(Loss::cross_entropy(), OptimizerSpec::adam(0.03))
    };
    let model = Model::input([6]).linear(64).relu().linear(4);
    let mut trainer = Trainer::new(&chosen(1), model, settings).unwrap();
    trainer.set_checkpoints(how(Checkpoints::new(folder.join("checkpoints"))));
    trainer
}

/// The folder of the checkpoint after an epoch of 9 batches.
fn after(epoch: u32) -> String {
    format!("step-{:010}", 9 * epoch)
}

#[test]
fn the_last_checkpoints_and_the_best_stay() {
    let folder = tempfile::tempdir().unwrap();
    let mut trainer = by_heart(folder.path(), |checkpoints| checkpoints.keep(Keep { last: 1, best: true }));
    let history = fit(&mut trainer, &mut []);
    let (best, last) = (history.best_epoch.unwrap(), history.epochs.len() as u32);
    assert!(last == 12 && best < 6, "the best epoch was {best} of {last}");
    let found = steps_in(folder.path());
    assert_eq!(found, [after(best), after(last)], "the best and the last");
    let kept = Checkpoint::open(folder.path().join("checkpoints").join(after(best))).unwrap();
    let bytes = |weights: &Weights| weights.to_bytes(&Meta::default()).unwrap();
    let best = kept.best_weights.expect("a run that puts the best weights back saves them");
    assert_eq!(bytes(&best), bytes(&trainer.weights().unwrap()), "early stopping put the best weights back");
    // A run never mixes its checkpoints with another's.
    let error = {
        let (train, validation) = data(200).split(0.7, 3).unwrap();
        trainer.fit(&train, Some(&validation), &mut []).unwrap_err().to_string()
    };
    assert!(error.ends_with("is of another run; resume it, or use a folder without checkpoints"), "{error}");
}

/// An epoch that is the best so far is on disk whatever epoch's turn it is, where the best is to be kept, and only there.
#[test]
fn the_best_epoch_is_saved_out_of_turn() {
    let run = |best: bool| {
        let folder = tempfile::tempdir().unwrap();
        // Nothing is thrown away that was written, and no epoch of the 12 has its turn.
        let keep = Keep { last: 20, best };
        let history = fit(&mut by_heart(folder.path(), |c| c.every_epochs(100).keep(keep)), &mut []);
        (history.best_epoch.unwrap(), steps_in(folder.path()))
    };
    let (best, found) = run(true);
    assert!(best < 6, "the best epoch was {best}");
    let [.., second, last] = &found[..] else { panic!("{found:?} are not the best and the last") };
    assert_eq!((second, last), (&after(best), &after(12)), "after the best epoch only the end is saved");
    assert_eq!(run(false), (best, vec![after(12)]), "without the best only the end is saved");
}

/// A run that nothing ends early, saved after each epoch.
fn plain(folder: &Path, epochs: u32) -> Trainer {
    let model = Model::input([6]).linear(8).relu().linear(4);
    let rule = OptimizerSpec::adam(0.01);
    let settings = Training { epochs, batch_size: 16, ..Training::new(Loss::cross_entropy(), rule) };
    let mut trainer = Trainer::new(&chosen(1), model, settings).unwrap();
    trainer.set_checkpoints(Checkpoints::new(folder.join("checkpoints")));
    trainer
}

#[test]
fn a_run_that_has_ended_trains_no_more_and_one_with_more_epochs_goes_on() {
    let folder = tempfile::tempdir().unwrap();
    let plain = |epochs: u32| plain(folder.path(), epochs);
    let saved = || newest(folder.path().join("checkpoints")).unwrap().unwrap();
    let first = fit(&mut plain(3), &mut []);
    let mut again = plain(3);
    again.resume(saved()).unwrap();
    let history = fit(&mut again, &mut []);
    assert_eq!((numbers(&history), history.ended), (numbers(&first), first.ended));
    let mut longer = plain(5);
    longer.resume(saved()).unwrap();
    fit(&mut longer, &mut []);
    let mut whole = Trainer::new(&chosen(1), longer.model().unwrap().clone(), longer.training().clone()).unwrap();
    fit(&mut whole, &mut []);
    assert_eq!(longer.weights().unwrap(), whole.weights().unwrap());
}

/// Notes what is on disk as each epoch begins.
struct Found {
    folder: PathBuf,
    before: Vec<Vec<String>>,
}

impl Callback for Found {
    fn on_epoch_start(&mut self, _epoch: u32, _rows: u64) {
        self.before.push(steps_in(&self.folder));
    }
}

/// Else the newest checkpoint would be that of the way which the run left.
#[test]
fn a_run_that_goes_on_from_an_older_checkpoint_removes_the_newer_ones() {
    let home = tempfile::tempdir().unwrap();
    let folder = home.path();
    let checkpoints = folder.join("checkpoints");
    // Saved where a run ends: one that is faster than the disk leaves out others.
    let until = |epoch: u32, from: Option<Checkpoint>| {
        let mut trainer = plain(folder, epoch);
        let keep = Keep { last: 20, best: false };
        trainer.set_checkpoints(Checkpoints::new(&checkpoints).every_epochs(100).keep(keep));
        from.map_or(Ok(()), |from| trainer.resume(from)).unwrap();
        trainer
    };
    for epoch in [2, 4, 6] {
        fit(&mut until(epoch, newest(&checkpoints).unwrap()), &mut []);
    }
    assert_eq!(steps_in(folder), [2, 4, 6].map(after));
    let of = |epoch: u32| Checkpoint::open(checkpoints.join(after(epoch))).unwrap();
    let fourth = of(4).snapshot;
    let mut again = until(4, Some(of(2)));
    assert_eq!(steps_in(folder).len(), 3, "nothing goes before the run does");
    let mut found = Found { folder: folder.to_path_buf(), before: Vec::new() };
    fit(&mut again, &mut [&mut found]);
    assert_eq!(found.before, [[after(2)], [after(2)]], "the newer ones go before the first step");
    assert_eq!(steps_in(folder), [2, 4].map(after));
    assert!(newest(&checkpoints).unwrap().unwrap().snapshot == fourth, "it is written anew with the same bits");
}

/// Counts what it is told.
#[derive(Default)]
struct Counter {
    epochs: Vec<u32>,
    rows: u64,
}

impl Callback for Counter {
    fn on_epoch_start(&mut self, epoch: u32, _rows: u64) {
        self.epochs.push(epoch);
        self.rows = 0;
    }

    fn on_rows(&mut self, rows: u64, _loss: Option<f64>) {
        self.rows += rows;
    }

    fn on_epoch_end(&mut self, end: &mut EpochEnd) -> wholestep::Result<Flow> {
        assert_eq!(self.rows, 140, "progress of epoch {} adds up", end.record.epoch);
        Ok(Flow::Continue)
    }
}

#[test]
fn progress_of_a_resumed_epoch_adds_up() {
    let folder = tempfile::tempdir().unwrap();
    fit(&mut plain(folder.path(), 4), &mut []);
    let mut saved = newest(folder.path().join("checkpoints")).unwrap().unwrap();
    // As if it had been written within the third epoch: what is counted here are rows, not bits.
    let (position, run) = (saved.record.position.as_mut().unwrap(), saved.record.run.as_mut().unwrap());
    (position.epoch, position.batch) = (2, 4);
    run.epochs.truncate(2);
    let other = tempfile::tempdir().unwrap();
    let mut resumed = plain(other.path(), 4);
    resumed.resume(saved).unwrap();
    let mut counter = Counter::default();
    fit(&mut resumed, &mut [&mut counter]);
    assert_eq!(counter.epochs, [3, 4]);
}

/// After each step that was followed by saving, whether that checkpoint was on disk when the next step was done.
struct Behind {
    checkpoints: PathBuf,
    every: u64,
    steps: u64,
    were_there: Vec<bool>,
}

impl Callback for Behind {
    fn on_rows(&mut self, rows: u64, _loss: Option<f64>) {
        let saved = self.steps;
        self.steps += rows;
        if saved > 0 && saved.is_multiple_of(self.every) {
            self.were_there.push(self.checkpoints.join(format!("step-{saved:010}")).exists());
        }
    }
}

/// A step is done while the one before is being written: writing tens of megabytes takes longer than a step does, so that a run that waited for
/// the disk would find each of its checkpoints there.
#[test]
fn training_goes_on_while_a_checkpoint_is_written() {
    const WIDTH: usize = 2500;
    const EVERY: u64 = 3;
    let folder = tempfile::tempdir().unwrap();
    let values = |seed: f32| (0..13 * WIDTH).map(|i| (i as f32 * seed).sin()).collect::<Vec<f32>>();
    let of = |seed| Array::new(values(seed), [13, WIDTH]).unwrap();
    let data = Dataset::new([("x", of(1.0)), ("y", of(0.7))]).unwrap();
    let training = Training {
        batch_size: 1,
        // The weight is only read, which is quick; what is saved is large all the same.
        groups: vec![ParamGroup::new("*/weight").frozen()],
        ..Training::new(Loss::Mse {}, OptimizerSpec::adam(1e-3))
    };
    let mut trainer = Trainer::new(&chosen(1), Model::input([WIDTH]).linear(WIDTH), training).unwrap();
    let checkpoints = folder.path().join("checkpoints");
    trainer.set_checkpoints(Checkpoints::new(&checkpoints).every_steps(EVERY).keep(Keep { last: 10, best: true }));
    let mut behind = Behind { checkpoints: checkpoints.clone(), every: EVERY, steps: 0, were_there: Vec::new() };
    trainer.fit(&data, None, &mut [&mut behind]).unwrap();
    println!("on disk after the next step: {:?}", behind.were_there);
    assert!(behind.were_there.len() >= 3, "single steps were counted: {:?}", behind.were_there);
    assert!(behind.were_there.contains(&false), "training waited for each checkpoint");
    assert!(Checkpoint::open(latest(&checkpoints).unwrap().unwrap()).is_ok());
}
