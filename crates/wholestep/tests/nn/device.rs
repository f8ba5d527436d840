//! The layers of `values`, compiled: what a device computes in f32 against PyTorch's numbers, whole batches and their first rows alone. On the host's
//! threads in poisoned memory, or on the device that `WHOLESTEP_DEVICE` names.

use crate::case::run;
use crate::numbers::{Tensors, cases};
use crate::poisoned::poisoned;
use serde_json::Value;
use wholestep::optim::Sgd;
use wholestep::{Array, Batch, DType, Infer, Init, Result, Scope, Shape, Step, Tensor, gradients};
use wholestep_compiler::ir::SlotId;
use wholestep_compiler::ir::scope::slot_node;

/// Relative to 1 + |expected|, as in `values`.
const TOLERANCE: f64 = 2e-5;

fn near(what: &str, got: &Array, want: &Array) -> std::result::Result<(), String> {
    if got.shape() != want.shape() {
        return Err(format!("{what}: shape {:?} instead of {:?}", got.shape(), want.shape()));
    }
    let (got, want) = (got.slice::<f32>().expect("f32"), want.slice::<f32>().expect("f32"));
    let is_far = |(g, w): (&f32, &f32)| {
        let is_near = g == w || (g - w).abs() <= (TOLERANCE * (1.0 + f64::from(w.abs()))) as f32;
        !(is_near || g.is_nan() && w.is_nan())
    };
    match got.iter().zip(want).position(is_far) {
        Some(i) => Err(format!("{what}[{i}] is {} instead of {}", got[i], want[i])),
        None => Ok(()),
    }
}

/// A layer in a program that has its output, `y`, and the gradients of `Σ y·d_y`.
struct Case<'a> {
    json: &'a Value,
    tensors: &'a Tensors,
    is_dynamic: bool,
}

/// Training takes a step, inference does not.
enum Program {
    Step(Box<Step>),
    Infer(Box<Infer>),
}

impl Program {
    fn run(&mut self, inputs: &[(&str, &Array)]) -> Result<()> {
        match self {
            Program::Step(step) => step.run(inputs),
            Program::Infer(infer) => infer.run(inputs).map(|_| ()),
        }
    }

    fn output(&mut self, name: &str) -> Result<Array> {
        match self {
            Program::Step(step) => step.output(name),
            Program::Infer(infer) => infer.output(name),
        }
    }

    fn read(&mut self, name: &str) -> Result<Array> {
        match self {
            Program::Step(step) => step.read(name),
            Program::Infer(infer) => infer.read(name),
        }
    }

    fn write(&mut self, name: &str, value: &Array) -> Result<()> {
        match self {
            Program::Step(step) => step.write(name, value),
            Program::Infer(infer) => infer.write(name, value),
        }
    }
}

impl<'a> Case<'a> {
    fn tensor(&self, key: &Value) -> &'a Array {
        self.tensors.get(key.as_str().expect("a key"))
    }

    /// Tensors of the case by the name that the layer has for them.
    fn named(&self, field: &str) -> Vec<(String, &'a Array)> {
        let named = self.json[field].as_object().into_iter().flatten();
        named.map(|(name, key)| (name.clone(), self.tensor(key))).collect()
    }

    /// `Σ y·d_y`, with `y` and all gradients as outputs.
    fn traced(&self, s: &Scope) -> Tensor {
        let layer = self.json["layer"].as_str().expect("a layer");
        let mut shape = Shape::from(self.tensor(&self.json["input"]).shape());
        if self.is_dynamic
            && let Some(first) = shape.0.first_mut()
        {
            *first = Batch;
        }
        let x = s.input("x", shape, if layer == "Embedding" { DType::I64 } else { DType::F32 });
        let y = run(layer, &self.json["config"], &s.sub("layer"), &x);
        let loss = (&y * &s.input("d_y", y.shape(), DType::F32)).sum(..);
        s.output("y", &y);
        let mut wrt: Vec<(String, Tensor)> = Vec::new();
        for (name, _) in self.named("params") {
            let graph = s.graph().borrow();
            let Some(at) = graph.slots.iter().position(|slot| slot.name == format!("layer/{name}")) else { continue };
            let node = slot_node(&graph, SlotId(at as u32)).expect("a slot has a node");
            wrt.push((name, Tensor::from_node(s.graph().clone(), node)));
        }
        if self.json["d_input"].is_string() {
            wrt.push(("x".to_string(), x));
        }
        let tensors: Vec<Tensor> = wrt.iter().map(|(_, t)| t.clone()).collect();
        for ((name, _), g) in wrt.iter().zip(gradients(&loss, &tensors)) {
            s.output(&format!("d_{name}"), &g);
        }
        loss
    }

    fn compile(&self) -> Result<Program> {
        let rows = self.tensor(&self.json["input"]).shape().first().copied().unwrap_or(1);
        if self.json["train"] == false {
            return Ok(Program::Infer(Box::new(Infer::compile(&poisoned(), rows, |s| self.traced(s))?)));
        }
        // A step learns something, and this is what: not every layer has a parameter.
        let loss = |s: &Scope| self.traced(s) + s.param("bystander", (), Init::Const(1.0));
        Ok(Program::Step(Box::new(Step::options().max_batch(rows).compile(&poisoned(), Sgd::new(0.0), loss)?)))
    }

    /// Whether a row's output depends on the rows beside it: statistics of the batch, a softmax over it.
    fn mixes_rows(&self) -> bool {
        let (layer, config) = (self.json["layer"].as_str().expect("a layer"), &self.json["config"]);
        let rank = self.tensor(&self.json["input"]).shape().len() as i64;
        let of_batch = self.json["train"] == true || config["track_running_stats"] == false;
        layer.starts_with("BatchNorm") && of_batch || config["dim"].as_i64().is_some_and(|d| d.rem_euclid(rank) == 0)
    }

    /// How often it was compared with PyTorch; what differs goes to `faults`.
    fn check(&self, faults: &mut Vec<String>) -> Result<usize> {
        let mut program = self.compile()?;
        for (name, value) in self.named("params").into_iter().chain(self.named("buffers_before")) {
            program.write(&format!("layer/{name}"), value)?;
        }
        let [x, d_y, y] = ["input", "d_output", "output"].map(|field| self.tensor(&self.json[field]));
        let d_x = self.json["d_input"].is_string().then(|| self.tensor(&self.json["d_input"]));
        program.run(&[("x", x), ("d_y", d_y)])?;
        let mut n = 0;
        let mut check = |what: &str, got: &Array, want: &Array| {
            n += 1;
            faults.extend(near(&format!("{} {}: {what}", self.json["id"], self.is_dynamic), got, want).err());
        };
        let d_params = self.named("d_params").into_iter().map(|(name, want)| (format!("d_{name}"), want));
        for (name, want) in d_params.chain([("y".to_string(), y)]).chain(d_x.map(|want| ("d_x".to_string(), want))) {
            check(&name, &program.output(&name)?, want);
        }
        for (name, want) in self.named("buffers_after") {
            check(&name, &program.read(&format!("layer/{name}"))?, want);
        }
        if !self.mixes_rows() && self.is_dynamic && y.shape().first() == x.shape().first() {
            let first = |all: &Array| all.slice_rows(0, 1);
            program.run(&[("x", &first(x)?), ("d_y", &first(d_y)?)])?;
            check("y of a row alone", &program.output("y")?, &first(y)?);
            if let Some(want) = d_x {
                check("d_x of a row alone", &program.output("d_x")?, &first(want)?);
            }
        }
        Ok(n)
    }
}

#[test]
fn layers_on_a_device_have_pytorchs_values_and_gradients_for_batches_and_single_rows() {
    let (tensors, all) = (Tensors::load("layers"), cases("layers"));
    let (mut faults, mut n, mut n_dynamic) = (Vec::new(), 0, 0);
    for json in &all {
        let case = |is_dynamic: bool| Case { json, tensors: &tensors, is_dynamic };
        // Not every layer can have B as its first extent: unbatched images, a norm over the first axis.
        match case(true).check(&mut faults) {
            Ok(compared) => (n, n_dynamic) = (n + compared, n_dynamic + 1),
            Err(_) => n += case(false).check(&mut faults).unwrap_or_else(|e| panic!("{}: {e}", json["id"])),
        }
    }
    println!("{} cases, {n_dynamic} of them with a batch, {n} tensors", all.len());
    assert!(faults.is_empty(), "{} differences:\n{}", faults.len(), faults.join("\n"));
    assert!(all.len() == 293 && n_dynamic >= 200 && n >= 900, "{n_dynamic} of {} with a batch, {n} tensors", all.len());
}

/// Channels whose mean is 100,000 deviations from 0, the second with a first element that lies 100 deviations from the rest. What is expected is made in f64 of
/// the same f32 inputs; sums of plain squares would have no digit left.
#[test]
fn batch_statistics_keep_their_digits_far_from_0() {
    const ROWS: usize = 600;
    let mut program = Infer::compile(&poisoned(), ROWS, |s| {
        let now = s.input("x", (Batch, 2), DType::F32).batch_statistics();
        s.output("mean", &now.mean);
        s.output("var", &now.var);
        now.normalize(None, None, 1e-12)
    })
    .unwrap();
    let wave = |i: usize| 1000.0 + 0.01 * (f64::from(i as u32) * 1.7).sin() as f32;
    let mut x: Vec<f32> = (0..2 * ROWS).map(wave).collect();
    x[1] = 1001.0;
    let y = program.run(&[("x", &Array::new(x.clone(), vec![ROWS, 2]).unwrap())]).unwrap();
    let (y, mean, var) =
        (y.slice::<f32>().unwrap().to_vec(), program.output("mean").unwrap(), program.output("var").unwrap());
    for (channel, tolerance) in [(0, 1e-5), (1, 1e-3)] {
        let of = |v: &[f32]| v.iter().skip(channel).step_by(2).map(|&v| f64::from(v)).collect::<Vec<f64>>();
        let x = of(&x);
        let m = x.iter().sum::<f64>() / ROWS as f64;
        let v = x.iter().map(|x| (x - m) * (x - m)).sum::<f64>() / ROWS as f64;
        let got = |a: &Array| f64::from(a.slice::<f32>().unwrap()[channel]);
        assert!((got(&mean) / m - 1.0).abs() < 1e-7, "channel {channel}: mean {} instead of {m}", got(&mean));
        assert!((got(&var) / v - 1.0).abs() < tolerance, "channel {channel}: variance {} instead of {v}", got(&var));
        for (i, (y, x)) in of(&y).iter().zip(&x).enumerate() {
            let want = (x - m) / v.sqrt();
            assert!(
                (y - want).abs() < tolerance * (1.0 + want.abs()),
                "channel {channel}, row {i}: {y} instead of {want}"
            );
        }
    }
}
