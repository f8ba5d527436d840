//! The oracle against numbers that PyTorch made in f64 (golden/make.py): values, and gradients with PyTorch's choices at ties and kinks.

use super::eval;
use crate::autodiff::gradients_or_none;
use crate::ir::op::*;
use crate::ir::prim::{mul, reshape, sum};
use crate::ir::scope::Mode;
use crate::ir::{DType, Op, Scope, Shape, Tensor};
use DType::{F64, I32, I64, U8};
use std::collections::BTreeMap;

type Golden = (Vec<usize>, Vec<f64>);

/// By case, then by tensor name.
fn goldens() -> BTreeMap<&'static str, BTreeMap<&'static str, Golden>> {
    let mut cases: BTreeMap<_, BTreeMap<_, _>> = BTreeMap::new();
    for line in include_str!("golden/oracle.txt").lines() {
        let (head, values) = line.split_once(" : ").expect("a golden line has a colon");
        let (key, dims) = head.split_once(' ').expect("a golden line has dims");
        let (case, tensor) = key.split_once('/').expect("a golden key has a slash");
        let dims = dims.split(',').filter(|d| !d.is_empty()).map(|d| d.parse().unwrap()).collect();
        let values = values.split(' ').map(|v| v.parse().unwrap()).collect();
        cases.entry(case).or_default().insert(tensor, (dims, values));
    }
    cases
}

fn one(op: impl Into<Op>) -> Box<dyn Fn(&[Tensor]) -> Tensor> {
    let op = op.into();
    Box::new(move |x| x[0].apply(op.clone(), &x[1..].iter().collect::<Vec<_>>()))
}

fn conv<const N: usize>(
    stride: [usize; N],
    pad: [usize; N],
    dilation: [usize; N],
    groups: usize,
) -> Box<dyn Fn(&[Tensor]) -> Tensor> {
    let (pad_lo, pad_hi) = (pad.to_vec(), pad.to_vec());
    one(Contract::Conv(ConvGeometry { stride: stride.to_vec(), pad_lo, pad_hi, dilation: dilation.to_vec(), groups }))
}

fn pool<const N: usize>(
    size: [usize; N],
    stride: [usize; N],
    pad: [usize; N],
    out: [usize; N],
    dilation: [usize; N],
) -> WindowGeometry {
    let [size, stride, pad_lo, out, dilation] = [size, stride, pad, out, dilation].map(|a| a.to_vec());
    WindowGeometry { size, stride, pad_lo, out, dilation }
}

fn max_pool(g: WindowGeometry) -> Box<dyn Fn(&[Tensor]) -> Tensor> {
    Box::new(move |x| {
        let place = x[0].apply(Window::ArgMax(g.clone()), &[]);
        x[0].apply(Window::Take(g.clone()), &[&place])
    })
}

/// The op behind a golden case and the dtypes of its operands.
fn op_of(case: &str) -> (Vec<DType>, Box<dyn Fn(&[Tensor]) -> Tensor>) {
    let (family, name) = case.split_once('.').expect("a case has a family");
    let axes = vec![1];
    match family {
        "unary" => (vec![F64], one(Elementwise::Unary(unary_named(name)))),
        "binary" | "compare" | "nan" => (vec![F64, F64], one(Elementwise::Binary(binary_named(name)))),
        "i32" => (vec![I32, I32], one(Elementwise::Binary(binary_named(name)))),
        "cast" if name == "f64_i32" => (vec![F64], one(Elementwise::Cast(I32))),
        "cast" => (vec![I32], one(Elementwise::Cast(U8))),
        "reduce" => {
            let op = match name {
                "sum" => Reduce::Sum { axes: vec![0, 2] },
                "max" | "nan_max" => Reduce::Max { axes },
                "min" | "nan_min" => Reduce::Min { axes },
                "argmax" => Reduce::ArgMax { axis: 1 },
                "cumsum" => Reduce::CumSum { axis: 1, reverse: false },
                "cumsum_reverse" => Reduce::CumSum { axis: 1, reverse: true },
                other => panic!("no reduction {other}"),
            };
            (vec![F64], one(op))
        }
        "index" => {
            let op = match name {
                "argsort" => Index::ArgSort { axis: 1, descending: false },
                "argsort_down" => Index::ArgSort { axis: 1, descending: true },
                "take" => Index::Take { axis: 1 },
                "gather" => Index::TakeAlong { axis: 1 },
                "scatter_add" => Index::TakeAlongGrad { axis: 1, len: 5.into() },
                other => panic!("no index op {other}"),
            };
            (vec![F64, I64], one(op))
        }
        "move" => (vec![F64, F64], one(movement_named(name))),
        "contract" => {
            let f = match name {
                "matmul" => one(Contract::Matmul),
                "conv1" => conv([2], [2], [2], 1),
                "conv2" => conv([2, 1], [1, 0], [1, 2], 2),
                "conv2_depthwise" => conv([1, 1], [1, 1], [1, 1], 3),
                "conv3" => conv([1, 2, 1], [0, 1, 1], [1, 1, 1], 1),
                other => panic!("no contraction {other}"),
            };
            (vec![F64, F64], f)
        }
        "window" => {
            let f = match name {
                "max" => max_pool(pool([3, 2], [2, 2], [1, 0], [4, 3], [1, 2])),
                "max_ties" => max_pool(pool([2, 2], [1, 1], [0, 0], [3, 3], [1, 1])),
                "sum" => one(Window::Sum(pool([3, 2], [2, 2], [1, 0], [4, 4], [1, 1]))),
                other => panic!("no window op {other}"),
            };
            (vec![F64], f)
        }
        other => panic!("no family {other}"),
    }
}

fn movement_named(name: &str) -> Movement {
    let part = |start: usize, len: usize, step| SliceAxis { start: start.into(), len: len.into(), step };
    match name {
        "pad" => Movement::Pad { lo: vec![0, 1], hi: vec![3, 2], value: 0.5 },
        "slice" => Movement::Slice { axes: vec![part(1, 2, 3), part(2, 4, 2)] },
        "permute" => Movement::Permute { perm: vec![2, 0, 1] },
        "concat" => Movement::Concat { axis: 1 },
        "flip" => Movement::Flip { axes: vec![0, 2] },
        other => panic!("no movement {other}"),
    }
}

fn unary_named(name: &str) -> Unary {
    use Unary::*;
    let all = [
        Neg, Abs, Sign, Exp, Expm1, Log, Log1p, Sqrt, Rsqrt, Recip, Sin, Cos, Tanh, Asin, Acos, Atan, Asinh, Sigmoid,
        Erf, Floor, Ceil, Round,
    ];
    all.into_iter().find(|op| op.name() == name).unwrap_or_else(|| panic!("no unary {name}"))
}

fn binary_named(name: &str) -> Binary {
    use Binary::*;
    let all = [Add, Sub, Mul, Div, Rem, Pow, Atan2, Max, Min, Eq, Ne, Lt, Le, Gt, Ge, And, Or, Xor, Shl, Shr];
    all.into_iter().find(|op| op.name() == name).unwrap_or_else(|| panic!("no binary {name}"))
}

/// The first place where two lists differ by more than 2e-14 relative; NaN equals NaN.
fn difference(found: &[f64], expected: &[f64]) -> Option<String> {
    if found.len() != expected.len() {
        return Some(format!("{} elements, expected {}", found.len(), expected.len()));
    }
    let close = |a: f64, b: f64| a == b || (a.is_nan() && b.is_nan()) || (a - b).abs() <= 2e-14 * a.abs().max(b.abs());
    // Sums of a few numbers of size 10 cancel to rounding errors of this size.
    let differs = |(a, b): (&f64, &f64)| !close(*a, *b) && (a - b).abs() > 2e-15;
    let at = found.iter().zip(expected).position(differs)?;
    Some(format!("element {at} is {:e}, expected {:e}", found[at], expected[at]))
}

#[test]
fn values_and_gradients_are_pytorchs() {
    let mut failures = Vec::new();
    let mut n_gradients = 0;
    for (case, tensors) in goldens() {
        let (dtypes, f) = op_of(case);
        let scope = Scope::root(Mode::Train);
        let mut inputs = Vec::new();
        let mut x = Vec::new();
        for (i, dtype) in dtypes.iter().enumerate() {
            let Some((dims, data)) = tensors.get(format!("x{i}").as_str()) else { break };
            x.push(scope.input(&format!("x{i}"), dims.as_slice(), *dtype));
            inputs.push(data.clone());
        }
        let y = f(&x);
        scope.output("y", &y);
        let mut expected = vec![("y", &tensors["y"])];
        if let Some((dims, data)) = tensors.get("v") {
            let v = scope.input("v", dims.as_slice(), F64);
            inputs.push(data.clone());
            let weighted = mul(&y, &v);
            let loss = reshape(&sum(&weighted, (0..weighted.rank()).collect()), &Shape::scalar());
            let floats: Vec<Tensor> = x.iter().filter(|x| x.dtype() == F64).cloned().collect();
            for (i, d) in gradients_or_none(&loss, &floats).into_iter().enumerate() {
                let name = ["d_x0", "d_x1"][i];
                match (d, tensors.get(name)) {
                    (Some(d), Some(golden)) => {
                        scope.output(name, &d);
                        expected.push((name, golden));
                        n_gradients += 1;
                    }
                    (None, Some((_, zeros))) if zeros.iter().all(|&v| v == 0.0) => {}
                    (d, golden) => failures.push(format!("{case}/{name}: {} here, {}", d.is_some(), golden.is_some())),
                }
            }
        }
        let graph = scope.graph().borrow().clone();
        if let Some(error) = &graph.error {
            failures.push(format!("{case}: {error}"));
            continue;
        }
        let run = eval(&graph, 1, &inputs, &[]);
        for ((name, (dims, data)), found) in expected.iter().zip(&run.outputs) {
            if *name == "y" && *dims != run.value(graph.outputs[0].node).shape {
                failures.push(format!("{case}: shape {:?}", run.value(graph.outputs[0].node).shape));
            }
            failures.extend(difference(found, data).map(|d| format!("{case}/{name}: {d}")));
        }
    }
    assert!(failures.is_empty(), "{} differ:\n{}", failures.len(), failures.join("\n"));
    assert!(n_gradients > 40, "only {n_gradients} gradients were compared");
}

#[test]
fn a_step_updates_its_slots_and_draws_new_bits() {
    use crate::ir::{Batch, Init};
    let scope = Scope::root(Mode::Train);
    let x = scope.input("x", [Batch], DType::F32);
    let w = scope.param("w", [2usize], Init::Const(1.0));
    let bits = scope.random_bits([6]);
    let step = scope.step();
    scope.update(&step, &step.apply(Elementwise::Binary(Binary::Add), &[&scope.constant(1.0, DType::U32)]));
    scope.output("n", &sum(&x, vec![0]));
    scope.output("bits", &bits);
    let graph = scope.graph().borrow().clone();
    assert_eq!(graph.error, None);
    let names: Vec<&str> = graph.slots.iter().map(|s| s.name.as_str()).collect();
    assert_eq!(names, ["w", "key", "step"]);
    let first = eval(&graph, 3, &[vec![1.0, 2.0, 4.0]], &[vec![5.0, 6.0], vec![7.0, 9.0], vec![0.0]]);
    assert_eq!(first.outputs[0], [7.0]);
    assert_eq!(first.slots, [vec![5.0, 6.0], vec![7.0, 9.0], vec![1.0]]);
    // Words 0..6 of stream 0: counters (0, 0, step, 0) and (1, 0, step, 0).
    let words = |step| -> Vec<f64> {
        let blocks = [0, 1].map(|block| random::philox4x32([block, 0, step, 0], [7, 9]));
        blocks.concat().into_iter().take(6).map(f64::from).collect()
    };
    assert_eq!(first.outputs[1], words(0));
    let second = eval(&graph, 1, &[vec![3.0]], &first.slots);
    assert_eq!((&second.outputs[0], &second.outputs[1]), (&vec![3.0], &words(1)));
    assert_eq!(w.rank(), 1);
}
