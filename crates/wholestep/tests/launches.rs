//! How many launches an update takes: as many for many tensors as for few, and as many for many shapes, as planned for the cpu and for GPUs, none
//! of which is needed for that.

#[path = "support/optimizers.rs"]
mod optimizers;
#[path = "support/planner.rs"]
mod planner;

use optimizers::{OPTIMIZERS, of_kind};
use planner::planner;
use wholestep::optim::Optimizer;
use wholestep::step::StepOptions;
use wholestep::train::OptimizerSpec;
use wholestep::{Average, Batch, Clip, Device, F32, Init, Precision, Scope, Shape, Step, Tensor};
use wholestep_compiler::caps::Caps;
use wholestep_wgpu::translate::Driver;

fn planners() -> Vec<Device> {
    vec![
        planner("cuda", wholestep_cuda::translate::usual_caps()),
        planner("vulkan", Driver::Vulkan.caps()),
        Device::cpu_with_threads(1),
    ]
}

/// Shapes that agree in what segments of one launch must agree in: whether extents are multiples of four, within a factor of eight how long a row
/// is, and whether a loop may pass over all elements again, of which there are at most 16384.
#[derive(Clone, Copy, Debug)]
enum Kind {
    Matrix,
    MatrixOfFours,
    Vector,
    Filter,
}

const KINDS: [Kind; 4] = [Kind::Matrix, Kind::MatrixOfFours, Kind::Vector, Kind::Filter];

impl Kind {
    /// One of 24 shapes.
    fn shape(self, i: usize) -> Vec<usize> {
        match self {
            Kind::Matrix => vec![65 + 2 * i, 67 + 2 * i],
            Kind::MatrixOfFours => vec![64 + 4 * (i % 12), 68 + 4 * (i / 2)],
            Kind::Vector => vec![65 + 2 * i],
            Kind::Filter => vec![8 + i, 9 + i, 3, 3],
        }
    }
}

/// Parameters of these shapes whose gradients are inputs.
fn with_gradients(s: &Scope, shapes: &[Vec<usize>]) -> Tensor {
    let term = |(i, dims): (usize, &Vec<usize>)| {
        let shape = Shape(dims.iter().map(|&n| n.into()).collect());
        (s.param(&format!("p{i}"), shape.clone(), Init::Const(0.5)) * s.input(&format!("g{i}"), shape, F32)).sum(..)
    };
    let loss = shapes.iter().enumerate().map(term).reduce(|a, b| a + b).expect("there are shapes");
    loss + s.input("x", (Batch,), F32).mean(..)
}

fn launches(device: &Device, options: StepOptions, rule: &OptimizerSpec, shapes: &[Vec<usize>]) -> usize {
    let built = options.max_batch(8).compile(device, rule.clone(), |s| with_gradients(s, shapes));
    built.unwrap_or_else(|e| panic!("{rule:?}: {e}")).costs().len()
}

/// What stands between gradients and updates, each with what it adds of reductions.
fn options_for(rule: &OptimizerSpec) -> Vec<(&'static str, StepOptions<'static>)> {
    let mut all = vec![
        ("plain", Step::options()),
        ("clipped by norm", Step::options().clip(Clip::GlobalNorm(1.0))),
        ("clipped by value, with its norm", Step::options().clip(Clip::Value(1.0)).grad_norm()),
        ("in f16", Step::options().precision(Precision::F16)),
        ("accumulated, with noise scale", Step::options().accumulate(2).noise_scale()),
    ];
    if rule.averaged().is_none() {
        let averaged = Step::options().average(Average::Ema { decay: 0.99 }).accumulate(2).clip(Clip::GlobalNorm(1.0));
        all.push(("averaged, accumulated and clipped", averaged));
    }
    all
}

/// From four tensors on, below which sums are added one to the other (`passes/total.rs`), to more than fusion looks back at (`fuse/candidates.rs`). Larger
/// programs are those of the next test, for all optimizers.
#[test]
fn an_update_takes_as_many_launches_for_many_shapes_as_for_few() {
    let (mut faults, mut n_counted) = (Vec::new(), 0);
    for device in planners() {
        for name in ["adafactor", "lamb", "adamw"] {
            let rule = of_kind(name, 0.01);
            for (what, _) in options_for(&rule) {
                for kind in KINDS {
                    let count = |n_shapes: usize| {
                        let options = options_for(&rule).into_iter().find(|(w, _)| *w == what).expect("it is there").1;
                        let shapes: Vec<Vec<usize>> = (0..2 * n_shapes).map(|i| kind.shape(i % n_shapes)).collect();
                        launches(&device, options, &rule, &shapes)
                    };
                    let counts = [2, 13].map(count);
                    n_counted += 1;
                    if counts.iter().any(|n| *n != counts[0]) {
                        faults.push(format!("{}, {name} {what}, {kind:?}: {counts:?}", device.name()));
                    }
                }
            }
        }
    }
    println!("{n_counted} cases");
    assert!(faults.is_empty(), "launches for 2 and 13 shapes:\n{}", faults.join("\n"));
}

#[test]
fn no_optimizer_takes_more_launches_for_more_tensors() {
    let mut faults = Vec::new();
    for device in planners() {
        for name in OPTIMIZERS {
            let rule = of_kind(name, 0.01);
            // Muon's products are kernels for each shape.
            let kinds: &[Kind] = if name == "muon" { &[Kind::Vector, Kind::Filter] } else { &KINDS };
            for clip in [None, Some(Clip::GlobalNorm(1.0))] {
                let counts = [8, 24, 60].map(|n| {
                    let options = clip.into_iter().fold(Step::options(), |options, clip| options.clip(clip));
                    let shapes: Vec<Vec<usize>> = (0..n).map(|i| kinds[i % kinds.len()].shape(i % 24)).collect();
                    launches(&device, options, &rule, &shapes)
                });
                println!("{}: {name} with {clip:?} takes {counts:?}", device.name());
                if counts.iter().any(|n| *n != counts[0]) {
                    faults.push(format!("{}, {name} with {clip:?}: {counts:?}", device.name()));
                }
            }
        }
    }
    assert!(faults.is_empty(), "launches for 8, 24, 60 tensors:\n{}", faults.join("\n"));
}

/// A device with eight bindings cuts updates that take more arguments, and what is cut takes launches for each tensor: LAMB's with decay, AMSGrad's
/// when clipped by norm, schedule-free AdamW's. Those that fit do not.
#[test]
fn where_few_arguments_are_bound_updates_that_fit_take_no_more() {
    let device = planner("vulkan with eight bindings", Caps { max_args: 8, ..Driver::Vulkan.caps() });
    for name in ["sgd", "adamw", "adafactor"] {
        let counts = [8, 24, 60].map(|n| {
            let shapes: Vec<Vec<usize>> = (0..n).map(|i| KINDS[i % 4].shape(i % 24)).collect();
            launches(&device, Step::options().clip(Clip::GlobalNorm(1.0)), &of_kind(name, 0.01), &shapes)
        });
        assert!(counts.iter().all(|n| *n == counts[0]), "{name}: {counts:?} launches for 8, 24, 60 tensors");
    }
}

/// Muon's matrices: none for a matrix more of a shape, and the same for each shape.
#[test]
fn muon_takes_launches_by_distinct_shapes_of_matrices() {
    for device in planners() {
        let count = |n_tensors: usize, n_shapes: usize| {
            let shapes: Vec<Vec<usize>> = (0..n_tensors).map(|i| Kind::Matrix.shape(i % n_shapes)).collect();
            let options = Step::options().clip(Clip::GlobalNorm(1.0));
            launches(&device, options, &of_kind("muon", 0.01), &shapes)
        };
        let alike = [4, 12, 24].map(|n| count(n, 1));
        let [four, six, eight] = [4, 6, 8].map(|n| count(2 * n, n));
        println!(
            "{}: {alike:?} for 4, 12, 24 matrices of one shape, {four}, {six}, {eight} for 4, 6, 8 shapes",
            device.name()
        );
        assert!(alike[0] == alike[1] && alike[1] == alike[2], "{}: {alike:?}", device.name());
        assert_eq!(six - four, eight - six, "{}: {four}, {six}, {eight}", device.name());
    }
}

/// What segments must agree in decides how many launches there are, and not how many shapes: the whole range of lengths takes at most one more of
/// each loop for each class of lengths.
#[test]
fn shapes_of_all_lengths_take_launches_by_class() {
    let rule = of_kind("adafactor", 0.01);
    let shape = |i: usize| vec![5 + 2 * (i * i % 251), 7 + 2 * (i * i * i % 257)];
    for device in planners() {
        let counts = [24, 48, 96].map(|n| {
            let shapes: Vec<Vec<usize>> = (0..n).map(shape).collect();
            launches(&device, Step::options(), &rule, &shapes)
        });
        println!("{}: {counts:?} launches for 24, 48, 96 shapes of all lengths", device.name());
        assert!(counts[2] <= counts[0] + 4 && counts[2] <= 30, "{}: {counts:?}", device.name());
    }
}
