//! Parts of a model: a layer's weight by its name, for a penalty, a gradient or another layer; and a part that stays as in inference while the
//! rest trains. The numbers are worked out by hand.

use wholestep::nn::{BatchNorm1d, Dropout, Embedding, InstanceNorm2d, InstanceNorm2dSpec, Linear};
use wholestep::optim::Sgd;
use wholestep::{Array, Batch, Device, F32, Infer, Init, ParamGroup, Scope, Step, Tensor, U32, gradients};
use wholestep_compiler::ir::SlotKind;

fn device() -> Device {
    Device::cpu_with_threads(1)
}

fn floats(array: &Array) -> Vec<f64> {
    array.slice::<f32>().unwrap().iter().map(|&x| f64::from(x)).collect()
}

#[track_caller]
fn assert_near(got: &[f64], want: &[f64]) {
    assert_eq!(got.len(), want.len());
    for (got, want) in got.iter().zip(want) {
        assert!((got - want).abs() <= 1e-5 * want.abs().max(1.0), "{got} is not {want}");
    }
}

#[test]
fn a_penalty_on_a_layers_weight_is_in_its_gradient() {
    const PENALTY: f64 = 0.25;
    let mut step = Step::compile(&device(), Sgd::new(0.5), |s| {
        let y = Linear::new(&s.sub("net").sub("fc1"), 3, 2).forward(&s.input("x", (Batch, 3), F32));
        // From this place or from the root, and as PyTorch writes it.
        let [w, same, bias] = [
            s.sub("net").get_parameter("fc1/weight"),
            s.get_parameter("net.fc1.weight"),
            s.sub("net/fc1").get_parameter("bias"),
        ];
        assert_eq!((w.id(), w.shape()), (same.id(), [2usize, 3].into()));
        let loss = y.square().mean(..) + w.abs().sum(..) * PENALTY;
        let all = gradients(&loss, &[w, bias]);
        s.output("of weight", &all[0]);
        s.output("of bias", &all[1]);
        loss
    })
    .unwrap();
    let (w, x) = ([0.5, -1.0, 0.25, 2.0, -0.125, 1.5], [1.0, 2.0, -1.0, 0.5, -3.0, 4.0]);
    let narrow = |all: &[f64]| all.iter().map(|&x| x as f32).collect::<Vec<f32>>();
    step.write("net/fc1/weight", &Array::new(narrow(&w), [2, 3]).unwrap()).unwrap();
    step.write("net/fc1/bias", &Array::new(vec![0.0_f32; 2], [2]).unwrap()).unwrap();
    step.run(&[("x", &Array::new(narrow(&x), [2, 3]).unwrap())]).unwrap();

    let y = |b: usize, o: usize| (0..3).map(|i| w[3 * o + i] * x[3 * b + i]).sum::<f64>();
    let of_weight: Vec<f64> = (0..6)
        .map(|k| {
            let (o, i) = (k / 3, k % 3);
            (0..2).map(|b| 2.0 * y(b, o) * x[3 * b + i] / 4.0).sum::<f64>() + PENALTY * w[k].signum()
        })
        .collect();
    let of_bias: Vec<f64> = (0..2).map(|o| (y(0, o) + y(1, o)) / 2.0).collect();
    assert_near(&floats(&step.output("of weight").unwrap()), &of_weight);
    assert_near(&floats(&step.output("of bias").unwrap()), &of_bias);
    let next: Vec<f64> = w.iter().zip(&of_weight).map(|(w, g)| w - 0.5 * g).collect();
    assert_near(&floats(&step.read("net/fc1/weight").unwrap()), &next);
}

/// Words of a ring of 6, each followed by the next: the loss, with the table as the head's weight or with a weight of its own.
fn ring(s: &Scope, is_tied: bool) -> Tensor {
    let word = s.labels("word", (Batch,), U32, 6, None);
    let next = s.labels("next", (Batch,), U32, 6, None);
    let mix = Linear::new(&s.sub("mix"), 4, 4);
    let h = mix.forward(&Embedding::new(&s.sub("table"), 6, 4).forward(&word)).tanh();
    let head = match is_tied {
        true => s.get_parameter("table/weight"),
        false => s.param("head", [6, 4], Init::Const(0.0)),
    };
    h.linear(&head, None).cross_entropy(&next)
}

#[test]
fn a_tied_weight_is_one_parameter_with_both_gradients_and_learns() {
    const RATE: f64 = 0.5;
    let [mut tied, mut apart] =
        [true, false].map(|is_tied| Step::compile(&device(), Sgd::new(RATE), |s| ring(s, is_tied)).unwrap());
    let params: Vec<String> =
        tied.slots().filter(|(_, k)| matches!(k, SlotKind::Param { .. })).map(|(n, _)| n.to_string()).collect();
    assert_eq!(params, ["mix/weight", "mix/bias", "table/weight"]);
    for name in &params {
        apart.write(name, &tied.read(name).unwrap()).unwrap();
    }
    let table = tied.read("table/weight").unwrap();
    apart.write("head", &table).unwrap();
    let [word, next] = [0, 1].map(|k| Array::from_vec((0..6).map(|i| (i + k) % 6).collect::<Vec<u32>>()));
    let batch = [("word", &word), ("next", &next)];
    tied.run(&batch).unwrap();
    apart.run(&batch).unwrap();
    let moved = |step: &mut Step, name: &str| -> Vec<f64> {
        let (before, after) = (floats(&table), floats(&step.read(name).unwrap()));
        after.iter().zip(&before).map(|(a, b)| a - b).collect()
    };
    let [as_table, as_head] = ["table/weight", "head"].map(|name| moved(&mut apart, name));
    let both: Vec<f64> = as_table.iter().zip(&as_head).map(|(a, b)| a + b).collect();
    assert_near(&moved(&mut tied, "table/weight"), &both);
    assert!([as_table, as_head].iter().all(|part| part.iter().any(|d| d.abs() > 1e-3)), "both parts have a gradient");
    let before = tied.loss().unwrap();
    for _ in 0..200 {
        tied.run(&batch).unwrap();
    }
    assert!(before > 1.0 && tied.loss().unwrap() < 0.05, "from {before} to {}", tied.loss().unwrap());
}

const STATISTICS: [&str; 4] =
    ["backbone/bn/running_mean", "backbone/bn/running_var", "backbone/in/running_mean", "backbone/in/running_var"];

/// A part with all that is different in training: statistics of batches and of images, and dropout.
fn backbone(s: &Scope, x: &Tensor) -> Tensor {
    let h = Linear::new(&s.sub("fc"), 3, 8).forward(x);
    let h = BatchNorm1d::new(&s.sub("bn"), 8).forward(&h);
    let h = Dropout::new(&s.sub("drop"), 0.5).forward(&h).reshape((Batch, 2, 2, 2));
    let spec = InstanceNorm2dSpec::new().track_running_stats(true);
    InstanceNorm2d::with(&s.sub("in"), 2, &spec).forward(&h).flatten(1, -1)
}

fn batch() -> Array {
    Array::new((0..12).map(|i| (i * i % 7) as f32 / 3.0 - 1.0).collect::<Vec<f32>>(), [4, 3]).unwrap()
}

/// A step that trains a head on the backbone, frozen; its statistics are not those of a new layer.
fn headed(is_eval: bool) -> Step {
    let options = Step::options().seed(3).groups([ParamGroup::new("backbone/*").frozen()]);
    let built = options.compile(&device(), Sgd::new(0.1), |s| {
        let place = s.sub("backbone");
        let place = if is_eval { place.eval() } else { place };
        let h = backbone(&place, &s.input("x", (Batch, 3), F32));
        s.output("h", &h);
        assert!(s.is_training());
        Linear::new(&s.sub("head"), 8, 1).forward(&h).square().mean(..)
    });
    let mut step = built.unwrap();
    for (k, name) in STATISTICS.iter().enumerate() {
        let n = step.read(name).unwrap().shape()[0];
        let values = (0..n).map(|i| 0.25 + (i + k) as f32 / 8.0).collect::<Vec<f32>>();
        step.write(name, &Array::from_vec(values)).unwrap();
    }
    step
}

#[test]
fn a_part_in_eval_is_that_of_inference_and_keeps_its_statistics() {
    let mut infer =
        Infer::compile(&device(), 4, |s| backbone(&s.sub("backbone"), &s.input("x", (Batch, 3), F32))).unwrap();
    let bits = |step: &mut Step| -> Vec<Vec<u32>> {
        let one = |name: &&str| step.read(name).unwrap().slice::<f32>().unwrap().iter().map(|x| x.to_bits()).collect();
        STATISTICS.iter().map(one).collect()
    };
    for is_eval in [true, false] {
        let mut step = headed(is_eval);
        let (before, head) = (bits(&mut step), step.read("head/weight").unwrap());
        infer.copy_from(&mut step).unwrap();
        let want = floats(&infer.run(&[("x", &batch())]).unwrap());
        for _ in 0..3 {
            step.run(&[("x", &batch())]).unwrap();
        }
        assert_ne!(step.read("head/weight").unwrap(), head, "the head learns");
        let got = floats(&step.output("h").unwrap());
        let is_near = got.iter().zip(&want).all(|(a, b)| (a - b).abs() < 1e-5);
        // Frozen parameters alone stop neither, as in PyTorch.
        assert_eq!((bits(&mut step) == before, is_near), (is_eval, is_eval));
    }
}

#[test]
fn gradients_go_through_a_part_in_eval() {
    let mut step = Step::compile(&device(), Sgd::new(1.0), |s| {
        let part = s.sub("part").eval();
        let h = Linear::new(&part.sub("fc"), 3, 2).forward(&s.input("x", (Batch, 3), F32));
        BatchNorm1d::new(&part.sub("bn"), 2).forward(&h).mean(..)
    })
    .unwrap();
    step.write("part/bn/running_var", &Array::from_vec(vec![4.0_f32, 0.25])).unwrap();
    let before = floats(&step.read("part/fc/weight").unwrap());
    let x = floats(&batch());
    step.run(&[("x", &batch())]).unwrap();
    // Of the mean of 8 values (x·w - mean) / sqrt(var); with the batch's statistics it would be 0 throughout.
    let want = (0..6).map(|k| {
        let (o, i) = (k / 3, k % 3);
        let deviation = ([4.0, 0.25][o] + 1e-5_f64).sqrt();
        before[k] - (0..4).map(|b| x[3 * b + i]).sum::<f64>() / 8.0 / deviation
    });
    assert_near(&floats(&step.read("part/fc/weight").unwrap()), &want.collect::<Vec<f64>>());
}
