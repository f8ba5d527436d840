//! The report of a run. Takes what training left behind, gives report.html. Never changes weights that are saved: it runs a few more steps
//! for the table of costs only after everything else is written.

use crate::config::{Config, Loaded};
use crate::report::{self, ClassRow, CostRow, EpochRow, LayerRow, Mistake, Picture, Regression, Report, Totals};
use crate::run::RunFolder;
use crate::train::Tested;
use wholestep::data::{Array, Dataset};
use wholestep::train::{Ended, History, Task, Trainer};
use wholestep::{Result, Step};

/// Wrong rows shown.
const MISTAKES: usize = 24;
/// Steps that are timed launch by launch.
const PROFILED: usize = 5;

pub fn write(
    trainer: &mut Trainer,
    config: &Config,
    data: &Loaded,
    history: &History,
    epochs: Vec<EpochRow>,
    tested: &Tested,
    folder: &RunFolder,
) -> Result<()> {
    let output = trainer.predict(tested.data)?;
    let summary = config.model.summary()?;
    let rows: u64 = history.epochs.len() as u64 * data.train.rows() as u64;
    let spent: f64 = history.epochs.iter().map(|e| e.seconds).sum();
    let steps = history.epochs.last().map_or(0, |e| e.steps);
    let (regression, mistakes) = match config.loss.task() {
        Task::Values => (Some(values(tested, &output)?), Vec::new()),
        Task::Classes => (None, mistakes(tested.data, &output, data)?),
        Task::Binary => (None, Vec::new()),
    };
    let confusion = tested.evaluation.confusion.as_ref();
    let class_row = |s: wholestep::metrics::ClassScores| ClassRow {
        precision: s.precision,
        recall: s.recall,
        f1: s.f1,
        support: s.support,
    };
    let mut report = Report {
        title: config.name.clone(),
        command: std::env::args().collect::<Vec<_>>().join(" "),
        device: format!("{:?}", trainer.device()),
        layers: summary
            .rows
            .iter()
            .map(|r| LayerRow {
                layer: format!("{}{}: {}", "  ".repeat(r.depth), r.name, r.kind),
                output_shape: r.output.to_string(),
                params: r.n_params as u64,
            })
            .collect(),
        totals: Totals {
            params: Some(summary.n_params as u64),
            seconds_to_target: match history.ended {
                Ended::Target { seconds } => Some(seconds),
                Ended::Epochs | Ended::Patience | Ended::Callback => None,
            },
            step_ms: (steps > 0).then(|| spent * 1e3 / steps as f64),
            samples_per_s: (spent > 0.0).then(|| rows as f64 / spent),
            ..Totals::default()
        },
        epochs,
        class_names: tested.data.class_names().to_vec(),
        confusion: confusion.map_or(Vec::new(), |c| c.counts().to_vec()),
        classes: confusion.map_or(Vec::new(), |c| c.per_class().into_iter().map(class_row).collect()),
        mistakes,
        regression,
        config_toml: config.to_toml()?,
        ..Report::default()
    };
    let head = trainer.fitted(&data.train.head(config.train.batch_size)?)?;
    if let Some(step) = trainer.step() {
        report.totals.planned_bytes =
            Some((step.memory_bytes().persistent_bytes + step.memory_bytes().transient_bytes) as u64);
        report.costs = costs(step, &head)?;
        report.plan_summary = step.explain();
    }
    report::write(&report, &folder.file("report.html"))
}

/// What each launch of a step takes, the costliest first.
fn costs(step: &mut Step, batch: &Dataset) -> Result<Vec<CostRow>> {
    let inputs: Vec<(&str, &Array)> = batch.columns().collect();
    step.set_profiling(true);
    for _ in 0..PROFILED {
        step.run(&inputs)?;
    }
    let mut costs = step.costs();
    step.set_profiling(false);
    costs.sort_by(|a, b| b.ns_per_step.total_cmp(&a.ns_per_step));
    let total: f64 = costs.iter().map(|c| c.ns_per_step).sum();
    let row = |c: wholestep::step::Cost| CostRow {
        kernel: format!("{} {}", c.kind, c.ops),
        scope: c.scope.clone(),
        time_us: c.ns_per_step / 1e3,
        share: c.ns_per_step / total.max(1.0),
        gflops: (c.flops > 0.0 && c.ns_per_step > 0.0).then(|| c.flops / c.ns_per_step),
        gb_per_s: (c.ns_per_step > 0.0).then(|| c.bytes / c.ns_per_step),
    };
    Ok(costs.into_iter().map(row).collect())
}

fn values(tested: &Tested, output: &Array) -> Result<Regression> {
    let n = &tested.evaluation.numbers;
    let truth = tested.data.column("y")?.cast::<f32>()?;
    Ok(Regression {
        truth: truth.slice::<f32>()?.to_vec(),
        predicted: output.slice::<f32>()?.to_vec(),
        mae: n.mae,
        rmse: n.rmse,
        r2: n.r2,
        unit: None,
    })
}

/// The rows that the model got wrong and was surest about.
fn mistakes(data: &Dataset, output: &Array, loaded: &Loaded) -> Result<Vec<Mistake>> {
    let [_, n_classes] = *output.shape() else { return Ok(Vec::new()) };
    let labels = data.column("y")?.cast::<i64>()?;
    let scores = output.slice::<f32>()?;
    let mut wrong = Vec::new();
    for (row, (scores, &label)) in scores.chunks(n_classes).zip(labels.slice::<i64>()?).enumerate() {
        let (class, confidence) = likeliest(scores);
        if label >= 0 && class as i64 != label {
            let index = row as u64;
            wrong.push(Mistake { index, label: label as u32, predicted: class as u32, confidence, image: None });
        }
    }
    wrong.sort_by(|a, b| b.confidence.total_cmp(&a.confidence).then(a.index.cmp(&b.index)));
    wrong.truncate(MISTAKES);
    for mistake in &mut wrong {
        mistake.image = picture(data, mistake.index as usize, loaded)?;
    }
    Ok(wrong)
}

/// The class with the largest score and its share of the softmax.
pub fn likeliest(scores: &[f32]) -> (usize, f32) {
    let best = (1..scores.len()).fold(0, |best, i| if scores[i] > scores[best] { i } else { best });
    let sum: f32 = scores.iter().map(|s| (s - scores[best]).exp()).sum();
    (best, 1.0 / sum)
}

/// Row `row` of the input as a picture, if it is one: `[1 or 3, H, W]`.
fn picture(data: &Dataset, row: usize, loaded: &Loaded) -> Result<Option<Picture>> {
    let x = data.column("x")?.slice_rows(row, row + 1)?;
    let [_, channels @ (1 | 3), height, width] = *x.shape() else { return Ok(None) };
    let x = match &loaded.scaling {
        Some(scaling) => scaling.invert(&x)?,
        None => x.cast::<f32>()?,
    };
    let x = x.slice::<f32>()?;
    let n = height * width;
    let byte = |v: f32| (v * 255.0).round().clamp(0.0, 255.0) as u8;
    let pixels = (0..n).flat_map(|at| (0..channels).map(move |c| byte(x[c * n + at]))).collect();
    Ok(Some(Picture { width: width as u32, height: height as u32, channels: channels as u32, pixels }))
}
