//! A golden set: its cases, its tensors, and the comparison of a traced program with them.

use safetensors::tensor::TensorView;
use safetensors::{Dtype, SafeTensors};
use serde_json::Value as Json;
use std::collections::BTreeMap;
use std::path::PathBuf;
use wholestep_compiler::autodiff::gradients_or_none;
use wholestep_compiler::eval::eval;
use wholestep_compiler::ir::scope::Mode;
use wholestep_compiler::ir::{Batch, DType, Dim, Scope, Shape, Tensor};

/// The cases and tensors of one group.
pub struct Set {
    pub cases: Vec<Json>,
    tensors: BTreeMap<String, Stored>,
}

/// One stored tensor.
pub struct Stored {
    pub shape: Vec<usize>,
    pub is_float: bool,
    pub data: Vec<f64>,
}

impl Set {
    pub fn load(name: &str) -> Set {
        let folder = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../wholestep/tests/golden");
        let text = std::fs::read_to_string(folder.join(format!("{name}.json"))).expect("the golden set is there");
        let json: Json = serde_json::from_str(&text).expect("the golden set is JSON");
        let bytes = std::fs::read(folder.join(format!("{name}.safetensors"))).expect("the golden tensors are there");
        let file = SafeTensors::deserialize(&bytes).expect("the golden tensors are safetensors");
        let tensors = file.tensors().into_iter().map(|(key, view)| (key, Stored::read(&view))).collect();
        Set { cases: json["cases"].as_array().expect("a list of cases").clone(), tensors }
    }

    pub fn tensor(&self, key: &str) -> &Stored {
        self.tensors.get(key).unwrap_or_else(|| panic!("no golden tensor {key}"))
    }
}

impl Stored {
    fn read(view: &TensorView) -> Stored {
        let raw = view.data();
        let data = match view.dtype() {
            Dtype::F32 => raw.as_chunks::<4>().0.iter().map(|b| f64::from(f32::from_le_bytes(*b))).collect(),
            Dtype::I64 => raw.as_chunks::<8>().0.iter().map(|b| i64::from_le_bytes(*b) as f64).collect(),
            other => panic!("golden tensors are f32 or i64, not {other:?}"),
        };
        Stored { shape: view.shape().to_vec(), is_float: view.dtype() == Dtype::F32, data }
    }
}

/// A program being traced over golden tensors.
pub struct Trace<'a> {
    pub set: &'a Set,
    pub scope: Scope,
    /// Where the first extent of tensors is the batch size, that size.
    pub batch: Option<usize>,
    feeds: Vec<Vec<f64>>,
}

impl<'a> Trace<'a> {
    pub fn new(set: &'a Set, batch: Option<usize>) -> Trace<'a> {
        Trace { set, scope: Scope::root(Mode::Train), batch, feeds: Vec::new() }
    }

    /// The tensor `key` as an input: f32 or i64.
    pub fn input(&mut self, key: &str) -> Tensor {
        let stored = self.set.tensor(key);
        let mut shape = Shape::from(stored.shape.as_slice());
        if let (Some(b), Some(first)) = (self.batch, shape.0.first_mut())
            && *first == Dim::fixed(b)
        {
            *first = Batch;
        }
        let known = self.feeds.len();
        let dtype = if stored.is_float { DType::F32 } else { DType::I64 };
        let x = self.scope.input(key, shape, dtype);
        if self.scope.graph().borrow().inputs.len() > known {
            self.feeds.push(stored.data.clone());
        }
        x
    }

    /// As `compare`, of a scalar output whose upstream gradient is 1.
    pub fn compare_scalar(
        self,
        output: (Tensor, String),
        gradients: &[(Tensor, String)],
        tolerance: f64,
    ) -> Result<(), String> {
        let loss = output.0.clone();
        self.finish(&[output], Some(loss), gradients, tolerance)
    }

    /// Checks outputs, and the gradients of `Σ output·d_output`, against the named tensors; gives what differs.
    pub fn compare(
        mut self,
        outputs: &[(Tensor, String)],
        d_outputs: &[Option<String>],
        gradients: &[(Tensor, String)],
        tolerance: f64,
    ) -> Result<(), String> {
        let mut loss: Option<Tensor> = None;
        for ((y, _), key) in outputs.iter().zip(d_outputs) {
            let Some(key) = key else { continue };
            let d_y = self.input(key);
            let part = (y * d_y).sum(..);
            loss = Some(match loss {
                Some(sum) => sum + part,
                None => part,
            });
        }
        self.finish(outputs, loss, gradients, tolerance)
    }

    fn finish(
        self,
        outputs: &[(Tensor, String)],
        loss: Option<Tensor>,
        gradients: &[(Tensor, String)],
        tolerance: f64,
    ) -> Result<(), String> {
        let mut checks: Vec<(Tensor, String)> = outputs.to_vec();
        let mut absent = Vec::new();
        if !gradients.is_empty() {
            let loss = loss.ok_or("gradients without an upstream gradient")?;
            let wrt: Vec<Tensor> = gradients.iter().map(|(x, _)| x.clone()).collect();
            for (found, (_, key)) in gradients_or_none(&loss, &wrt).into_iter().zip(gradients) {
                match found {
                    Some(d_x) => checks.push((d_x, key.clone())),
                    None => absent.push(key.clone()),
                }
            }
        }
        let graph = self.scope.graph().borrow();
        if let Some(error) = &graph.error {
            return Err(error.to_string());
        }
        let values = eval(&graph, self.batch.unwrap_or(1), &self.feeds, &[]);
        for (x, key) in &checks {
            let (found, want) = (values.value(x.id()), self.set.tensor(key));
            if found.shape != want.shape {
                return Err(format!("{key}: shape {:?}, PyTorch {:?}", found.shape, want.shape));
            }
            for (i, (a, b)) in found.data.iter().zip(&want.data).enumerate() {
                let same = a == b || (a.is_nan() && b.is_nan()) || (*a as f32 == *b as f32);
                let near = (a - b).abs() <= tolerance * (1.0 + b.abs());
                if !same && !near {
                    return Err(format!("{key}[{i}]: {a}, PyTorch {b}"));
                }
            }
        }
        // PyTorch gives zeros where nothing flows.
        match absent.iter().find(|key| self.set.tensor(key).data.iter().any(|d| *d != 0.0)) {
            Some(key) => Err(format!("{key}: no gradient, PyTorch has one")),
            None => Ok(()),
        }
    }
}

/// Runs `check` on all cases and panics with all that failed.
pub fn report(set: &Set, check: impl Fn(&Json) -> Result<(), String>) {
    let failures: Vec<String> = set
        .cases
        .iter()
        .filter_map(|case| check(case).err().map(|e| format!("{}: {e}", case["id"].as_str().unwrap_or("?"))))
        .collect();
    assert!(failures.is_empty(), "{} of {} cases differ:\n{}", failures.len(), set.cases.len(), failures.join("\n"));
}

/// The strings of a JSON list or object, `None` for null.
pub fn keys(json: &Json) -> Vec<Option<String>> {
    let one = |v: &Json| v.as_str().map(str::to_string);
    match json {
        Json::Array(list) => list.iter().map(one).collect(),
        Json::Object(map) => map.values().map(one).collect(),
        _ => Vec::new(),
    }
}

pub fn ints(json: &Json) -> Vec<i64> {
    json.as_array().map(|list| list.iter().filter_map(Json::as_i64).collect()).unwrap_or_default()
}

pub fn sizes(json: &Json) -> Vec<usize> {
    ints(json).iter().map(|&n| n as usize).collect()
}
