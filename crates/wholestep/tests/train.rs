//! Training through the library: effects on weights, bits and files.

use std::path::PathBuf;
use std::time::Instant;
use wholestep::checkpoint::{Meta, Weights, latest};
use wholestep::data::loader::{Loader, Loading};
use wholestep::data::{Array, Dataset};
use wholestep::nn::{BatchNorm1dSpec, BatchNorm2dSpec, Conv2dSpec, DropoutSpec, GlobalAvgPool, Linear};
use wholestep::optim::ScheduleFreeAdamW;
use wholestep::schedule::Exponential;
use wholestep::spec::Model;
use wholestep::step::{LrSearch, Precision, SKIPPED_STEPS};
use wholestep::train::{
    Callback, Checkpoints, ClipSpec, EarlyStopping, Ended, EpochEnd, Flow, Loss, Metric, NonFinite, OptimizerSpec,
    ScheduleSpec, StopAt, Trainer, Training, newest,
};
use wholestep::{Average, Batch, Device, ErrorKind, F32, ParamGroup, Scope, Step};

/// 150 flowers, standardized.
fn iris() -> Dataset {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../../data/tables/iris.csv");
    let data = wholestep::data::sklearn_table(path).unwrap();
    wholestep::data::Standardize::fit(&data, "x").unwrap().apply(&data).unwrap()
}

fn model() -> Model {
    Model::input([4]).linear(16).relu().linear(3)
}

fn training(epochs: u32) -> Training {
    Training { epochs, batch_size: 16, seed: 3, ..Training::new(Loss::cross_entropy(), OptimizerSpec::adam(0.01)) }
}

fn cpu() -> Device {
    Device::cpu_with_threads(2)
}

#[test]
fn flowers_are_told_apart() {
    let (train, test) = iris().split_stratified(0.8, 1).unwrap();
    let mut trainer = Trainer::new(&cpu(), model(), training(30)).unwrap();
    let history = trainer.fit(&train, Some(&test), &mut []).unwrap();
    let (first, last) = (&history.epochs[0], history.epochs.last().unwrap());
    assert!(last.train_loss < 0.2 * first.train_loss, "{history:?}");
    assert_eq!((last.steps, history.ended), (30 * 8, Ended::Epochs));
    let accuracy = trainer.evaluate(&test).unwrap().numbers.accuracy.unwrap();
    assert!(accuracy >= 28.0 / 30.0, "{accuracy}");
    assert_eq!(last.validation.unwrap().accuracy, Some(accuracy));
}

/// The trainer does what a hand-written loop over steps does, to the bit: order, grouping of steps, the last short batch. And the mean of
/// an epoch is that of its rows, not of its batches.
#[test]
fn a_fit_equals_the_loop_written_by_hand() {
    let train = iris();
    let mut by_hand = Step::options()
        .seed(3)
        .compile(&cpu(), OptimizerSpec::adam(0.01), |s| {
            model().build(s).unwrap().output().cross_entropy(&s.labels("y", [Batch], wholestep::U32, 3, None))
        })
        .unwrap();
    let loading = Loading { batch_size: 16, seed: 3, ..Loading::default() };
    let mut loader = Loader::new(&train, loading).unwrap();
    let mut means = Vec::new();
    for _ in 0..12 {
        let mut sum = 0.0;
        for batch in &mut loader {
            let batch = batch.unwrap();
            by_hand.run(&batch.columns().collect::<Vec<_>>()).unwrap();
            sum += f64::from(by_hand.loss().unwrap()) * batch.rows() as f64;
        }
        means.push(sum / 150.0);
    }
    let mut trainer = Trainer::new(&cpu(), model(), training(12)).unwrap();
    let history = trainer.fit(&train, None, &mut []).unwrap();
    assert_eq!(trainer.weights().unwrap(), Weights::of(&mut by_hand).unwrap());
    for (epoch, mean) in history.epochs.iter().zip(means) {
        assert!((epoch.train_loss - mean).abs() <= 1e-12 * mean, "{} {mean}", epoch.train_loss);
    }
}

#[test]
fn the_same_seed_gives_the_same_bits_on_any_number_of_threads() {
    let net = || model().layer(BatchNorm1dSpec::new()).layer(DropoutSpec::new(0.3)).linear(3);
    let run = |threads: usize, seed: u64| {
        let settings = Training { seed, schedule: ScheduleSpec::Cosine { steps: None, min: 0.0 }, ..training(6) };
        let settings = Training { clip: Some(ClipSpec::Norm(1.0)), ..settings };
        let mut trainer = Trainer::new(&Device::cpu_with_threads(threads), net(), settings).unwrap();
        trainer.fit(&iris(), None, &mut []).unwrap();
        trainer.weights().unwrap().to_bytes(&Meta::default()).unwrap()
    };
    let first = run(1, 5);
    assert_eq!(first, run(1, 5));
    assert_eq!(first, run(2, 5));
    assert_eq!(first, run(5, 5));
    assert_ne!(first, run(1, 6));
}

/// The weights after each epoch.
#[derive(Default)]
struct Recorder {
    weights: Vec<Weights>,
    best: Option<usize>,
    stop_after: Option<usize>,
}

impl Callback for Recorder {
    fn on_epoch_end(&mut self, end: &mut EpochEnd) -> wholestep::Result<Flow> {
        if end.record.is_best {
            self.best = Some(self.weights.len());
        }
        self.weights.push(Weights::of(end.step)?);
        Ok(if self.stop_after == Some(self.weights.len()) { Flow::Stop } else { Flow::Continue })
    }
}

/// Random labels: what is learned by heart makes the validation loss rise, so the best epoch is an early one.
fn noise() -> (Dataset, Dataset) {
    let mut random = wholestep::data::random::Philox::new(1, 0);
    let mut part = |n: usize| {
        let x: Vec<f32> = (0..n * 4).map(|_| random.normal() as f32).collect();
        let y: Vec<u32> = (0..n).map(|_| random.below(3) as u32).collect();
        Dataset::new([("x", Array::new(x, [n, 4]).unwrap()), ("y", Array::from_vec(y))]).unwrap()
    };
    (part(40), part(200))
}

#[test]
fn early_stopping_puts_back_exactly_the_best_weights() {
    let (train, validation) = noise();
    let stopping = EarlyStopping { patience: 4, min_delta: 1e-3, monitor: Some(Metric::Loss) };
    let settings = Training { early_stopping: Some(stopping), ..training(200) };
    let mut trainer = Trainer::new(&cpu(), model(), settings).unwrap();
    let mut recorder = Recorder::default();
    let history = trainer.fit(&train, Some(&validation), &mut [&mut recorder]).unwrap();
    assert_eq!(history.ended, Ended::Patience);
    let best = recorder.best.unwrap();
    assert_eq!((history.best_epoch, history.epochs.len()), (Some(best as u32 + 1), best + 1 + 4));
    assert_eq!(trainer.weights().unwrap(), recorder.weights[best]);
    assert_ne!(trainer.weights().unwrap(), *recorder.weights.last().unwrap());
    let losses: Vec<f64> = history.epochs.iter().map(|e| e.validation.unwrap().loss).collect();
    assert!(losses[best..].iter().all(|l| *l > losses[best] - 1e-3), "{losses:?}");
    assert_eq!(trainer.evaluate(&validation).unwrap().numbers.loss, losses[best]);
}

#[test]
fn a_target_and_a_callback_end_a_run() {
    let (train, test) = iris().split_stratified(0.8, 1).unwrap();
    let settings = Training { stop_at: Some(StopAt { metric: Metric::Accuracy, value: 0.9 }), ..training(100) };
    let mut trainer = Trainer::new(&cpu(), model(), settings).unwrap();
    let history = trainer.fit(&train, Some(&test), &mut []).unwrap();
    let reached: Vec<bool> = history.epochs.iter().map(|e| e.validation.unwrap().accuracy >= Some(0.9)).collect();
    assert_eq!(reached.iter().position(|r| *r), Some(reached.len() - 1));
    assert!(matches!(history.ended, Ended::Target { seconds } if seconds > 0.0 && seconds <= history.seconds));
    let mut recorder = Recorder { stop_after: Some(2), ..Recorder::default() };
    let mut trainer = Trainer::new(&cpu(), model(), training(100)).unwrap();
    let history = trainer.fit(&train, None, &mut [&mut recorder]).unwrap();
    assert_eq!((history.epochs.len(), history.ended), (2, Ended::Callback));
}

#[test]
fn predicting_changes_nothing_that_training_keeps() {
    let data = iris();
    let net = model().layer(BatchNorm1dSpec::new()).linear(3);
    let mut trainer = Trainer::new(&cpu(), net, training(2)).unwrap();
    trainer.fit(&data, None, &mut []).unwrap();
    let slots = |t: &mut Trainer| {
        let step = t.step().unwrap();
        let names: Vec<String> = step.slots().map(|(name, _)| name.to_string()).collect();
        names
            .iter()
            .map(|n| format!("{:?}", step.read(n).unwrap().cast::<f64>().unwrap().slice::<f64>().unwrap()))
            .collect::<Vec<_>>()
    };
    let before = slots(&mut trainer);
    let all = trainer.predict(&data).unwrap();
    trainer.evaluate(&data).unwrap();
    assert_eq!(slots(&mut trainer), before);
    assert_eq!(all.shape(), [150, 3]);
    // One sample without the batch axis: the same numbers, no batch axis.
    let row = data.column("x").unwrap().slice_rows(7, 8).unwrap().reshape([4]).unwrap();
    let one = trainer.predict_arrays(&[("x", &row)]).unwrap();
    assert_eq!((one.shape(), one.slice::<f32>().unwrap()), (&[3][..], &all.slice::<f32>().unwrap()[21..24]));
    let e = trainer.predict_arrays(&[("z", &row)]).unwrap_err().to_string();
    assert_eq!(e, "the model has no input z; it has x");
}

/// Evaluating after each epoch is predicting, too.
#[test]
fn a_validation_set_changes_nothing_of_the_training() {
    let run = |validation: Option<&Dataset>| {
        let net = model().layer(BatchNorm1dSpec::new()).layer(DropoutSpec::new(0.3)).linear(3);
        let mut trainer = Trainer::new(&cpu(), net, training(4)).unwrap();
        trainer.fit(&iris(), validation, &mut []).unwrap();
        trainer.step().unwrap().snapshot().unwrap()
    };
    assert!(run(Some(&noise().1)) == run(None));
}

#[test]
fn a_loss_that_is_not_finite_names_epoch_and_step() {
    let settings = Training { optimizer: OptimizerSpec::sgd(1e30), ..training(5) };
    let mut trainer = Trainer::new(&cpu(), model(), settings).unwrap();
    let e = trainer.fit(&iris(), None, &mut []).unwrap_err();
    assert_eq!(e.kind(), ErrorKind::Diverged);
    let text = e.to_string();
    assert!(text.starts_with("the loss is not finite in epoch 1, step ") && text.contains("; the rate is 1"), "{text}");
}

/// Iris with every so manieth flower so large that f16 does not hold it.
fn with_giants(every: usize) -> Dataset {
    let data = iris();
    let mut x = data.column("x").unwrap().slice::<f32>().unwrap().to_vec();
    (0..150).step_by(every).for_each(|row| x[4 * row] = 1e6);
    Dataset::new([("x", Array::new(x, vec![150, 4]).unwrap()), ("y", data.column("y").unwrap().clone())]).unwrap()
}

#[test]
fn a_step_that_overflows_in_f16_is_skipped_and_the_run_goes_on() {
    let settings = Training { precision: Precision::F16, ..training(2) };
    let mut trainer = Trainer::new(&cpu(), model(), settings.clone()).unwrap();
    let history = trainer.fit(&with_giants(150), None, &mut []).unwrap();
    let skipped = trainer.step().unwrap().read(SKIPPED_STEPS).unwrap();
    assert_eq!(skipped.slice::<u32>().unwrap(), [2], "the flower comes once in each of two epochs");
    assert!(history.epochs.iter().all(|e| e.train_loss < 1.5), "a mean over the other rows: {history:?}");
    // Where no scale helps, it comes down to 1 in 16 steps, and the run stops.
    let mut trainer = Trainer::new(&cpu(), model(), settings).unwrap();
    let e = trainer.fit(&with_giants(1), None, &mut []).unwrap_err();
    assert_eq!(e.kind(), ErrorKind::Diverged);
    assert!(e.to_string().contains("(step 17 of the run)"), "{e}");
}

/// Makes the loss infinite from the third epoch on, once the first is on disk.
struct Spoil {
    checkpoints: PathBuf,
}

impl Callback for Spoil {
    fn on_epoch_end(&mut self, end: &mut EpochEnd) -> wholestep::Result<Flow> {
        if end.record.epoch == 2 {
            let began = Instant::now();
            while latest(&self.checkpoints)?.is_none() {
                assert!(began.elapsed().as_secs() < 30, "the first checkpoint is not written");
                std::thread::yield_now();
            }
            let bias = end.step.read("2_linear/bias")?;
            end.step.write("2_linear/bias", &Array::from_vec(vec![f32::INFINITY; bias.len()]))?;
        }
        Ok(Flow::Continue)
    }
}

#[test]
fn a_run_that_may_go_on_after_a_bad_step_goes_on() {
    let folder = tempfile::tempdir().unwrap();
    let spoiled = |non_finite: NonFinite, place: &str| {
        let mut trainer = Trainer::new(&cpu(), model(), Training { non_finite, ..training(4) }).unwrap();
        let checkpoints = folder.path().join(place);
        trainer.set_checkpoints(Checkpoints::new(&checkpoints).every_epochs(1));
        let ended = trainer.fit(&iris(), None, &mut [&mut Spoil { checkpoints: checkpoints.clone() }]);
        (ended, latest(checkpoints).unwrap())
    };
    // By default it stops, and says where the last good state is: that of the first epoch, because the second was spoiled before it was
    // saved, which the weights themselves show.
    let (ended, last) = spoiled(NonFinite::Stop, "stop");
    let text = ended.unwrap_err().to_string();
    let last = last.unwrap();
    assert!(last.ends_with("step-0000000010"), "{}", last.display());
    let hint = format!("; the last good checkpoint is {}", last.display());
    let no_checkpoint = "no checkpoint was written after step 20: 2_linear.bias is not finite, first at element 0";
    assert!(text.ends_with(&hint) || text == no_checkpoint, "{text}");
    let (ended, last) = spoiled(NonFinite::Continue, "continue");
    let history = ended.unwrap();
    assert_eq!((history.epochs.len(), history.best_epoch), (4, Some(2)));
    assert!(history.epochs[2].train_loss.is_nan() && history.epochs[1].train_loss.is_finite());
    assert!(last.unwrap().ends_with("step-0000000040"));
    // What was not finite comes back from the file as such.
    let saved = newest(folder.path().join("continue")).unwrap().unwrap();
    assert!(saved.record.run.unwrap().epochs[3].train_loss.is_nan());
}

/// A closure as the model, two inputs, a regression target `[N]` for an output `[N, 1]`.
#[test]
fn a_closure_with_two_inputs_learns_a_line() {
    let mut random = wholestep::data::random::Philox::new(2, 0);
    let a: Vec<f32> = (0..400).map(|_| random.uniform(-1.0, 1.0) as f32).collect();
    let b: Vec<f32> = (0..400).map(|_| random.uniform(-1.0, 1.0) as f32).collect();
    let y: Vec<f32> = a.iter().zip(&b).map(|(a, b)| 2.0 * a - 3.0 * b + 1.0).collect();
    let column = |v: &[f32]| Array::new(v.to_vec(), [400, 1]).unwrap();
    let data = Dataset::new([("a", column(&a)), ("b", column(&b)), ("y", Array::from_vec(y))]).unwrap();
    let net = |s: &Scope| {
        let (a, b) = (s.input("a", [Batch, 1.into()], F32), s.input("b", [Batch, 1.into()], F32));
        Linear::new(&s.sub("a"), 1, 1).forward(&a) + Linear::new(&s.sub("b"), 1, 1).forward(&b)
    };
    let settings = Training { epochs: 60, ..Training::new(Loss::Mse {}, OptimizerSpec::sgd(0.1)) };
    let mut trainer = Trainer::new(&cpu(), net, settings).unwrap();
    trainer.fit(&data, None, &mut []).unwrap();
    let numbers = trainer.evaluate(&data).unwrap().numbers;
    assert!(numbers.r2.unwrap() > 0.99999 && numbers.mae.unwrap() < 1e-3, "{numbers:?}");
    let weights = trainer.weights().unwrap();
    let weight = |name: &str| weights.tensors().find(|(n, _)| *n == name).unwrap().1.slice::<f32>().unwrap()[0];
    assert!((weight("a.weight") - 2.0).abs() < 1e-3 && (weight("b.weight") + 3.0).abs() < 1e-3);
    let unused = data.with_column("c", column(&a)).unwrap();
    let e = trainer.fit(&unused, None, &mut []).unwrap_err().to_string();
    assert_eq!(e, "column \"c\" goes into no input of the model (a, b, y); leave it out");
}

/// The loss over a set does not depend on how it is cut, with weights and ignored labels, too.
#[test]
fn an_evaluation_is_that_of_the_set_as_one_piece() {
    let loss =
        Loss::CrossEntropy { label_smoothing: 0.1, class_weights: Some(vec![0.5, 2.0, 1.0]), ignore_index: Some(1) };
    let data = iris();
    let evaluate = |batch_size: usize| {
        let net = model();
        let settings = Training { batch_size, ..Training::new(loss.clone(), OptimizerSpec::sgd(0.1)) };
        let mut trainer = Trainer::new(&cpu(), net, settings).unwrap();
        trainer.prepare(150).unwrap();
        trainer.evaluate(&data.take_rows(&(0..150).map(|i| i * 7 % 150).collect::<Vec<_>>()).unwrap()).unwrap()
    };
    // 256 rows at least go into one batch; repeating the rows makes several.
    let whole = evaluate(1000);
    let twice: Vec<usize> = (0..600).map(|i| i * 7 % 150).collect();
    let settings = Training { batch_size: 7, ..Training::new(loss.clone(), OptimizerSpec::sgd(0.1)) };
    let mut trainer = Trainer::new(&cpu(), model(), settings).unwrap();
    trainer.prepare(150).unwrap();
    let cut = trainer.evaluate(&data.take_rows(&twice).unwrap()).unwrap();
    assert!((whole.numbers.loss - cut.numbers.loss).abs() < 1e-6, "{} {}", whole.numbers.loss, cut.numbers.loss);
    assert_eq!(whole.numbers.accuracy, cut.numbers.accuracy);
    assert_eq!(whole.confusion.unwrap().rows(), 100);
}

/// Found before the first step, not at the end of the first epoch.
#[test]
fn a_last_batch_that_is_too_small_for_batch_statistics_is_refused_at_once() {
    let net = || model().layer(BatchNorm1dSpec::new()).linear(3);
    let settings = |drop_last| Training { batch_size: 149, drop_last, ..training(1) };
    let mut recorder = Recorder::default();
    let mut trainer = Trainer::new(&cpu(), net(), settings(false)).unwrap();
    let e = trainer.fit(&iris(), None, &mut [&mut recorder]).unwrap_err();
    assert_eq!(e.kind(), ErrorKind::Config);
    let text = e.to_string();
    assert!(text.starts_with("150 rows in batches of 149: a batch of 1 is too small: BatchNorm1d needs"), "{text}");
    assert!(text.ends_with("(drop_last), or change batch_size"), "{text}");
    assert!(recorder.weights.is_empty(), "nothing was trained");
    let history = Trainer::new(&cpu(), net(), settings(true)).unwrap().fit(&iris(), None, &mut []).unwrap();
    assert_eq!(history.epochs[0].steps, 1);
}

#[test]
fn data_that_the_model_cannot_learn_from_are_named_by_row() {
    let data = iris();
    let fault = |data: &Dataset, outputs: usize| {
        let net = Model::input([4]).linear(outputs);
        Trainer::new(&cpu(), net, training(1)).unwrap().fit(data, None, &mut []).unwrap_err().to_string()
    };
    assert_eq!(
        fault(&data, 2),
        "column \"y\": row 100 is class 2 (virginica), the model tells 0 to 1 apart; its last layer needs at least 3 outputs"
    );
    let with = |labels: Array| Dataset::new([("x", data.column("x").unwrap().clone()), ("y", labels)]).unwrap();
    let labels = |f: fn(usize) -> f32| with(Array::from_vec((0..150).map(f).collect::<Vec<f32>>()));
    assert_eq!(
        fault(&labels(|i| if i == 7 { -1.0 } else { 0.0 }), 3),
        "column \"y\": row 7 is class -1, the model tells 0 to 2 apart"
    );
    assert_eq!(
        fault(&labels(|i| i as f32 / 4.0), 3),
        "column \"y\": row 1 is 0.2500, which is no class: the loss takes whole numbers from 0 to 2; for quantities take mse, mae or huber"
    );
    let mut x = data.column("x").unwrap().slice::<f32>().unwrap().to_vec();
    x[4 * 30 + 2] = f32::NAN;
    let nan =
        Dataset::new([("x", Array::new(x, [150, 4]).unwrap()), ("y", data.column("y").unwrap().clone())]).unwrap();
    assert_eq!(fault(&nan, 3), "column \"x\": row 30, element [2] is NaN; leave the row out or fill the value in");
}

#[test]
fn options_out_of_range_are_named() {
    let text = |t: Training| t.check().unwrap_err().to_string();
    assert_eq!(
        text(Training { optimizer: OptimizerSpec::adam(-1.0), ..training(1) }),
        "optimizer: lr: need a finite number >= 0, got -1"
    );
    assert_eq!(text(Training { batch_size: 0, ..training(1) }), "train: batch_size: need 1 to 16777216, got 0");
    assert_eq!(
        text(Training { clip: Some(ClipSpec::Value(f64::NAN)), ..training(1) }),
        "train: clip: need a finite number > 0, got NaN"
    );
    let never = Training { stop_at: Some(StopAt { metric: Metric::Rmse, value: 0.1 }), ..training(1) };
    assert_eq!(
        text(never),
        "train: stop_at: a loss over classes has no rmse; it has loss, accuracy, top5, macro_f1, train_loss, train_accuracy"
    );
    let monitor = EarlyStopping { monitor: Some(Metric::Accuracy), ..EarlyStopping::new(3) };
    assert_eq!(
        text(Training { early_stopping: Some(monitor), loss: Loss::Mse {}, ..training(1) }),
        "train: early_stopping.monitor: a loss over quantities has no accuracy; it has loss, mae, rmse, r2, train_loss"
    );
    let settings = Training { stop_at: Some(StopAt { metric: Metric::Accuracy, value: 0.9 }), ..training(1) };
    let e = Trainer::new(&cpu(), model(), settings).unwrap().fit(&iris(), None, &mut []).unwrap_err().to_string();
    assert_eq!(e, "accuracy is a number of the validation set, and there is none");
    let net = Model::input([5]).linear(3);
    let e = Trainer::new(&cpu(), net, training(1)).unwrap().fit(&iris(), None, &mut []).unwrap_err().to_string();
    assert_eq!(e, "column \"x\": the model takes rows of [5], rows of [4] came");
}

#[test]
fn a_plateau_lowers_the_rate_by_the_number_of_the_epoch() {
    let plateau = |metric: &str| -> ScheduleSpec {
        let json = format!(
            r#"{{"type": "plateau", "metric": "{metric}", "factor": 0.5, "patience": 1, "threshold": {{"abs": 1e9}}}}"#
        );
        serde_json::from_str(&json).unwrap()
    };
    // Nothing improves by a thousand million, so that each second epoch after the first lowers the rate.
    let settings = Training { schedule: plateau("train_loss"), ..training(7) };
    let mut trainer = Trainer::new(&cpu(), model(), settings).unwrap();
    let rates: Vec<f64> = trainer.fit(&iris(), None, &mut []).unwrap().epochs.iter().map(|e| e.lr).collect();
    let want = [0.01, 0.01, 0.01, 0.005, 0.005, 0.0025, 0.0025];
    assert!(rates.iter().zip(want).all(|(got, want)| (got - want).abs() < 1e-9), "{rates:?}");
    let settings = Training { schedule: plateau("accuracy"), ..training(2) };
    let error = Trainer::new(&cpu(), model(), settings).unwrap().fit(&iris(), None, &mut []).unwrap_err();
    assert_eq!(error.to_string(), "the schedule watches accuracy, which this run does not have");
}

#[test]
fn a_run_accumulates_averages_and_freezes_as_it_is_told() {
    let (train, test) = iris().split_stratified(0.8, 1).unwrap();
    let groups = vec![ParamGroup::new("0_linear/*").frozen()];
    let average = Some(Average::Ema { decay: 0.9 });
    let settings = Training { accumulate: 3, average, groups, ..training(5) };
    let mut trainer = Trainer::new(&cpu(), model(), settings).unwrap();
    let start = {
        trainer.prepare(train.rows()).unwrap();
        trainer.weights().unwrap()
    };
    let history = trainer.fit(&train, Some(&test), &mut []).unwrap();
    let tensor = |w: &Weights, name: &str| w.tensors().find(|(n, _)| *n == name).unwrap().1.clone();
    let end = trainer.weights().unwrap();
    let names: Vec<&str> = end.tensors().map(|(n, _)| n).collect();
    assert_eq!(tensor(&start, names[0]), tensor(&end, names[0]), "{names:?}");
    assert_ne!(tensor(&start, names[2]), tensor(&end, names[2]));
    // Evaluation is that of the average: the same numbers come from its file.
    let step = trainer.step().unwrap();
    assert_eq!(step.steps().unwrap(), 40);
    let raw = step.read(&names[2].replace('.', "/")).unwrap();
    assert_ne!(raw, tensor(&end, names[2]));
    let mut other = Trainer::new(&cpu(), model(), training(1)).unwrap();
    other.set_weights(end).unwrap();
    let numbers = other.evaluate(&test).unwrap().numbers;
    assert_eq!(history.epochs.last().unwrap().validation, Some(numbers));
}

/// A step that was compiled and not run has its first weights, for whatever comes next: a search for a rate, and a run over other rows.
#[test]
fn what_was_prepared_is_where_a_run_begins_where_averages_are_kept() {
    let average = |average| Training { average: Some(average), ..training(2) };
    let of_rule = Training { optimizer: OptimizerSpec::from(ScheduleFreeAdamW::new(0.01)), ..training(2) };
    let settings = [average(Average::Ema { decay: 0.9 }), average(Average::Swa { start: 0, every: 2 }), of_rule];
    let (part, _) = iris().split_stratified(0.8, 1).unwrap();
    for settings in settings {
        let trainer = || Trainer::new(&cpu(), model(), settings.clone()).unwrap();
        let mut fresh = trainer();
        let mut prepared = trainer();
        prepared.prepare(iris().rows()).unwrap();
        let first = prepared.weights().unwrap();
        let step = prepared.step().unwrap();
        assert_eq!(*first.tensors().next().unwrap().1, step.read("0_linear/weight").unwrap());
        assert!(first.tensors().any(|(_, value)| value.slice::<f32>().unwrap().iter().any(|x| *x != 0.0)));
        let search = LrSearch { points: 10, ..LrSearch::default() };
        assert_eq!(prepared.find_lr(&iris(), &search).unwrap(), fresh.find_lr(&iris(), &search).unwrap());
        assert_eq!(prepared.weights().unwrap(), first);
        let numbers = prepared.evaluate(&iris()).unwrap().numbers;
        let [a, b] = [&mut prepared, &mut fresh].map(|trainer| {
            trainer.fit(&part, None, &mut []).unwrap();
            trainer.weights().unwrap()
        });
        assert_eq!(a, b, "a run over other rows than those that were prepared begins at the same weights");
        assert_ne!(a, first);
        // The same weights are evaluated as those of a trainer that keeps no average.
        let mut plain = Trainer::new(&cpu(), model(), training(2)).unwrap();
        plain.set_weights(first).unwrap();
        assert_eq!(plain.evaluate(&iris()).unwrap().numbers, numbers);
    }
}

/// An epoch of a schedule is one of the data, however many batches make an update.
#[test]
fn epochs_of_a_schedule_are_those_of_the_data_where_batches_make_one_update() {
    let rates = |schedule: ScheduleSpec, batch_size: usize, accumulate: u32| -> Vec<f64> {
        let schedule = ScheduleSpec::PerEpoch { schedule: Box::new(schedule) };
        let settings = Training { schedule, batch_size, accumulate, ..training(4) };
        let mut trainer = Trainer::new(&cpu(), model(), settings).unwrap();
        trainer.fit(&iris(), None, &mut []).unwrap().epochs.iter().map(|e| e.lr).collect()
    };
    let halved = ScheduleSpec::Exponential(Exponential { gamma: 0.5 });
    // A half cosine over the four epochs of the run.
    let cosine = ScheduleSpec::Cosine { steps: None, min: 0.0 };
    let cosines: Vec<f64> = (0..4).map(|e| 0.005 * (1.0 + (std::f64::consts::PI * f64::from(e) / 4.0).cos())).collect();
    for (schedule, want) in [(halved, vec![0.01, 0.005, 0.0025, 0.00125]), (cosine, cosines)] {
        // Six batches an epoch: updates of two of them, of all, or of four and of the two that are left. Three: as many updates, or two.
        for (batch_size, accumulate) in [(25, 2), (25, 6), (25, 4), (50, 1), (50, 2)] {
            let rates = rates(schedule.clone(), batch_size, accumulate);
            let is_near = rates.iter().zip(&want).all(|(got, want)| (got - want).abs() < 1e-8);
            assert!(is_near && rates.len() == 4, "{accumulate} batches of {batch_size}: {rates:?} for {want:?}");
        }
    }
}

/// Weights after each epoch.
#[derive(Default)]
struct Path(Vec<Vec<f32>>);

impl Callback for Path {
    fn on_epoch_end(&mut self, end: &mut EpochEnd) -> wholestep::Result<Flow> {
        let weights = Weights::of(end.step)?;
        self.0.push(weights.tensors().flat_map(|(_, t)| t.slice::<f32>().unwrap().to_vec()).collect());
        Ok(Flow::Continue)
    }
}

#[test]
fn norm_and_noise_of_the_gradient_are_noted_when_asked() {
    let of = |accumulate: u32, batch_size: usize, noise_scale: bool| Training {
        accumulate,
        grad_norm: true,
        noise_scale,
        clip: Some(ClipSpec::Value(100.0)),
        batch_size,
        ..Training { optimizer: OptimizerSpec::sgd(0.5), ..training(3) }
    };
    // One step an epoch, so that a step of descent is the rate times the gradient.
    let mut trainer = Trainer::new(&cpu(), model(), of(1, 150, false)).unwrap();
    let mut path = Path::default();
    let history = trainer.fit(&iris(), None, &mut [&mut path]).unwrap();
    for (epoch, pair) in history.epochs[1..].iter().zip(path.0.windows(2)) {
        let squares = pair[0].iter().zip(&pair[1]).map(|(a, b)| f64::from(a - b).powi(2)).sum::<f64>();
        let (want, got) = (squares.sqrt() / 0.5, epoch.grad_norm.unwrap());
        assert!((got / want - 1.0).abs() < 1e-4, "epoch {}: {got}, the weights moved by {want}", epoch.epoch);
        assert_eq!(epoch.noise_scale, None);
    }
    let mut trainer = Trainer::new(&cpu(), model(), of(3, 25, true)).unwrap();
    let history = trainer.fit(&iris(), None, &mut []).unwrap();
    let noise = history.epochs[2].noise_scale.unwrap();
    let output = trainer.step().unwrap().output("gradient_noise_scale").unwrap();
    assert_eq!(noise, f64::from(output.slice::<f32>().unwrap()[0]));
    assert!(history.epochs.iter().all(|e| e.grad_norm.is_some()), "{history:?}");
    // Without being asked there is neither.
    let mut trainer = Trainer::new(&cpu(), model(), training(1)).unwrap();
    let history = trainer.fit(&iris(), None, &mut []).unwrap();
    assert_eq!((history.epochs[0].grad_norm, history.epochs[0].noise_scale), (None, None));
    assert!(trainer.step().unwrap().output("grad_norm").is_err());
    let mut alone = Trainer::new(&cpu(), model(), of(1, 150, true)).unwrap();
    let error = alone.fit(&iris(), None, &mut []).unwrap_err().to_string();
    assert!(error.contains("need accumulate >= 2"), "{error}");
}

#[test]
fn three_batches_of_a_third_are_one_batch() {
    let weights = |batch_size: usize, accumulate: u32| {
        let loss = Loss::cross_entropy();
        let settings = Training { epochs: 4, batch_size, accumulate, ..Training::new(loss, OptimizerSpec::sgd(0.5)) };
        let mut trainer = Trainer::new(&cpu(), model(), settings).unwrap();
        trainer.fit(&iris(), None, &mut []).unwrap();
        let weights = trainer.weights().unwrap();
        weights.tensors().flat_map(|(_, t)| t.slice::<f32>().unwrap().to_vec()).collect::<Vec<f32>>()
    };
    let apart = |a: &[f32], b: &[f32]| a.iter().zip(b).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
    let (whole, thirds, more) = (weights(150, 1), weights(50, 3), weights(50, 1));
    assert!(apart(&whole, &thirds) < 1e-5, "{}", apart(&whole, &thirds));
    // An update takes no batch of the next epoch.
    let no_more = weights(50, 7);
    assert!(apart(&whole, &no_more) < 1e-5, "{}", apart(&whole, &no_more));
    assert!(apart(&whole, &more) > 1e-2, "{}", apart(&whole, &more));
}

#[test]
fn a_search_for_the_rate_leaves_the_trainer_as_it_was() {
    let mut trainer = Trainer::new(&cpu(), model(), training(2)).unwrap();
    trainer.fit(&iris(), None, &mut []).unwrap();
    let before = trainer.weights().unwrap();
    let curve = trainer.find_lr(&iris(), &LrSearch::default()).unwrap();
    assert_eq!(trainer.weights().unwrap(), before);
    let lr = curve.suggestion.unwrap();
    assert!((1e-5..1.0).contains(&lr), "{lr}");
    assert!(curve.points[0].loss < 1.2 && curve.points.last().unwrap().loss > curve.points[0].loss, "{curve:?}");
}

/// The row that is left of an epoch is too few for batch normalization, and training leaves it out: so does the search.
#[test]
fn a_search_for_the_rate_leaves_out_what_training_does() {
    let net = || model().layer(BatchNorm1dSpec::new()).linear(3);
    let of = |drop_last: bool| Training { batch_size: 149, drop_last, ..training(2) };
    let curve = Trainer::new(&cpu(), net(), of(true)).unwrap().find_lr(&iris(), &LrSearch::default()).unwrap();
    assert!(curve.points.len() > 10 && curve.suggestion.is_some(), "{curve:?}");
    let error = Trainer::new(&cpu(), net(), of(false)).unwrap().find_lr(&iris(), &LrSearch::default()).unwrap_err();
    assert!(error.to_string().contains("a batch of 1 is too small"), "{error}");
    let few = Training { batch_size: 151, ..of(true) };
    let error = Trainer::new(&cpu(), net(), few).unwrap().find_lr(&iris(), &LrSearch::default()).unwrap_err();
    assert!(error.to_string().starts_with("150 rows make no batch of 151 with drop_last"), "{error}");
}

/// A network that nowhere depends on the size of an image takes images of another, with the same weights. Convolutions of one pixel and a mean
/// do not tell an image from two of it side by side.
#[test]
fn images_of_another_size_are_taken_with_the_same_weights() {
    let net = || Model::input([2, 6, 5]).layer(Conv2dSpec::new(5, 1)).layer(BatchNorm2dSpec::new()).relu();
    let image = |i: usize| (0..60).map(move |j| ((i * 31 + j * 17) % 23) as f32 / 11.0 - 1.0).collect::<Vec<f32>>();
    let twice = |i: usize| image(i).chunks(5).flat_map(|line| [line, line].concat()).collect::<Vec<f32>>();
    let data = |x: Vec<f32>, width: usize| {
        let y = Array::from_vec((0..32u32).map(|i| i % 3).collect::<Vec<u32>>());
        Dataset::new([("x", Array::new(x, [32, 2, 6, width]).unwrap()), ("y", y)]).unwrap()
    };
    let (narrow, wide) = (data((0..32).flat_map(image).collect(), 5), data((0..32).flat_map(twice).collect(), 10));
    let mut trainer = Trainer::new(&cpu(), net().layer(GlobalAvgPool::new()).linear(3), training(3)).unwrap();
    trainer.fit(&narrow, None, &mut []).unwrap();
    let (weights, before) = (trainer.weights().unwrap(), trainer.predict(&narrow).unwrap());
    let loss = trainer.evaluate(&narrow).unwrap().numbers.loss;
    assert_eq!(trainer.predict(&wide).unwrap_err().kind(), ErrorKind::Input, "never silently");
    trainer.set_input_shape("x", [2, 6, 10]).unwrap();
    let after = trainer.predict(&wide).unwrap();
    let pairs = after.slice::<f32>().unwrap().iter().zip(before.slice::<f32>().unwrap());
    assert!(pairs.clone().all(|(a, b)| (a - b).abs() <= 1e-6 * (1.0 + b.abs())), "{after:?} {before:?}");
    assert!((trainer.evaluate(&wide).unwrap().numbers.loss - loss).abs() < 1e-6);
    assert_eq!(trainer.predict(&narrow).unwrap_err().kind(), ErrorKind::Input);
    assert!(trainer.weights().unwrap() == weights);
    // Training goes on from there.
    let history = trainer.fit(&wide, None, &mut []).unwrap();
    assert!(history.epochs[0].train_loss < loss + 0.05 && trainer.weights().unwrap() != weights);

    let mut fixed = Trainer::new(&cpu(), net().flatten().linear(3), training(1)).unwrap();
    fixed.fit(&narrow, None, &mut []).unwrap();
    let before = fixed.predict(&narrow).unwrap();
    let error = fixed.set_input_shape("x", [2, 6, 10]).unwrap_err().to_string();
    assert!(error.contains("4_linear.weight: expected [3, 300] f32, got [3, 150] f32"), "{error}");
    assert_eq!(fixed.set_input_shape("image", [1]).unwrap_err().to_string(), "the model has no input image; it has x");
    assert!(fixed.set_input_shape("x", [2, 6]).is_err(), "a convolution takes images");
    assert!(fixed.predict(&narrow).unwrap() == before);
}

/// A description has no lines, and those of this library help nobody.
#[test]
fn a_layer_that_does_not_fit_is_named_without_a_line_of_this_library() {
    let net = Model::input([16]).linear(8).layer(Conv2dSpec::new(3, 3));
    let error = Trainer::new(&cpu(), net, training(1)).unwrap().prepare(32).map(|_| ()).unwrap_err().to_string();
    assert!(
        error.contains("need x [N, 1, H, W], got [B, 8]\n  --> in 1_conv2d\n  x [B, 8] f32  from add in 0_linear\n"),
        "{error}"
    );
    assert!(!error.contains(".rs"), "{error}");
}

/// With a rate of 0 an epoch sees the weights that the evaluation sees, so that both say the same of the same rows.
#[test]
fn an_epochs_numbers_are_those_of_the_labels_that_count() {
    let data = iris();
    let (weights, ignored) = (Some(vec![1.0, 4.0, 0.5]), Some(1));
    for (class_weights, ignore_index) in [(None, ignored), (weights.clone(), None), (weights, ignored)] {
        let loss = Loss::CrossEntropy { label_smoothing: 0.0, class_weights, ignore_index };
        let settings = Training { loss, optimizer: OptimizerSpec::sgd(0.0), ..training(2) };
        let mut trainer = Trainer::new(&cpu(), model(), settings).unwrap();
        for epoch in trainer.fit(&data, Some(&data), &mut []).unwrap().epochs {
            let seen = epoch.validation.unwrap();
            assert!((epoch.train_loss - seen.loss).abs() < 1e-6, "{epoch:?}");
            assert_eq!(epoch.train_accuracy, seen.accuracy);
        }
    }
}

#[test]
fn what_would_train_and_mean_nothing_is_refused() {
    let data = iris();
    let fault = |net: Model, settings: Training| {
        let error = Trainer::new(&cpu(), net, settings).unwrap().fit(&data, None, &mut []).unwrap_err();
        error.to_string()
    };
    let of = |loss: Loss| Training { loss, ..training(1) };
    assert_eq!(
        fault(Model::input([4]).linear(1), of(Loss::Mse {})),
        "column \"y\": it holds classes (setosa, versicolor, virginica), and the loss takes quantities; classes go with cross_entropy"
    );
    assert_eq!(
        fault(Model::input([4]).linear(1), of(Loss::BceWithLogits { pos_weight: None })),
        "column \"y\": row 100 is 2, and bce_with_logits takes targets from 0 (no) to 1 (yes); more classes than two go with cross_entropy"
    );
    assert_eq!(
        fault(model(), Training { batch_size: 151, drop_last: true, ..training(3) }),
        "150 rows make no batch of 151 with drop_last; give more rows or a smaller batch"
    );
    // What an epoch would end with is said before it begins.
    let other = Dataset::new([("x", data.column("x").unwrap().clone())]).unwrap();
    let mut trainer = Trainer::new(&cpu(), model(), training(3)).unwrap();
    let error = trainer.fit(&data, Some(&other), &mut []).unwrap_err().to_string();
    assert_eq!(error, "validation: data set: no column \"y\"; the columns are [\"x\"]");
    assert_eq!(trainer.step().unwrap().counters().steps, 0);
    // A loss written into the model, and a batch that is a number.
    let linear =
        |s: &Scope, rows: wholestep::Dim| Linear::new(&s.sub("l"), 4, 3).forward(&s.input("x", (rows, 4), F32));
    let scalar = move |s: &Scope| linear(s, Batch).mean(..);
    let fixed = move |s: &Scope| linear(s, 50.into());
    for (mut trainer, shape) in [
        (Trainer::new(&cpu(), scalar, training(1)).unwrap(), "[]"),
        (Trainer::new(&cpu(), fixed, training(1)).unwrap(), "[50, 3]"),
    ] {
        let error = trainer.fit(&data, None, &mut []).unwrap_err();
        let want = format!("the model gives {shape}; a trainer needs an output with one row per sample, [B, ..]");
        assert_eq!((error.kind(), error.to_string()), (ErrorKind::Build, want));
    }
}
