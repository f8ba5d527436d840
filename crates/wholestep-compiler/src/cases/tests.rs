use super::*;
use crate::eval::eval;
use crate::ir::Op;
use crate::ir::op::*;
use crate::ir::verify::verify;
use std::collections::BTreeSet;

/// Batch sizes at which a row is run.
fn batches(case: &Case) -> &'static [usize] {
    let graph = case.trace(DType::F64);
    let symbolic = graph.nodes.iter().any(|n| n.shape.0.iter().any(|d| d.batch != 0));
    if symbolic { &[1, 3, 5] } else { &[1] }
}

/// Runs `check` on every row and reports all that fail.
fn each_row(check: impl Fn(&Case) -> Result<(), String>) {
    let failures: Vec<String> =
        all().iter().filter_map(|case| check(case).err().map(|e| format!("{}: {e}", case.title()))).collect();
    assert!(failures.is_empty(), "{} rows fail:\n{}", failures.len(), failures.join("\n"));
}

fn valid(graph: &Graph) -> Result<(), String> {
    match &graph.error {
        Some(error) => Err(error.to_string()),
        None => verify(graph),
    }
}

#[test]
fn every_row_traces_and_evaluates_to_its_inferred_shape() {
    each_row(|case| {
        for float in [DType::F64, DType::F32] {
            let graph = case.trace(float);
            valid(&graph)?;
            if !graph.nodes.iter().any(|n| n.op.name() == case.op) {
                return Err(format!("the row has no {}", case.op));
            }
            for &batch in batches(case) {
                let inputs = case.inputs(batch, 1);
                let run = eval(&graph, batch, &inputs[..case.operands.len()], &initial_slots(&graph));
                let y = run.value(graph.outputs[0].node);
                if y.data.len() != graph.node(graph.outputs[0].node).shape.numel_at(batch) {
                    return Err(format!("{} elements at B = {batch}", y.data.len()));
                }
                if y.data.iter().any(|v| v.is_nan()) {
                    return Err(format!("NaN at B = {batch}"));
                }
            }
        }
        Ok(())
    });
}

/// Which elements of an operand are moved: all of a small one, a spread of a large one.
fn probes(n: usize) -> impl Iterator<Item = usize> {
    (0..n).step_by(n.div_ceil(40).max(1))
}

fn dot(a: &[f64], b: &[f64]) -> f64 {
    a.iter().zip(b).map(|(a, b)| a * b).sum()
}

/// Compares `gradient` of operand `at` with central differences of `f`.
fn compare(
    what: &str,
    inputs: &[Vec<f64>],
    at: usize,
    gradient: &[f64],
    f: impl Fn(&[Vec<f64>]) -> f64,
) -> Result<(), String> {
    for i in probes(gradient.len()) {
        let step = 1e-5;
        let moved = |by: f64| {
            let mut inputs = inputs.to_vec();
            inputs[at][i] += by;
            f(&inputs)
        };
        // Four points: the error of the difference falls with the fourth power of the step, and a larger one rounds less.
        let near = (moved(step * 10.0) - moved(-step * 10.0)) / (step * 20.0);
        let far = (moved(step * 20.0) - moved(-step * 20.0)) / (step * 40.0);
        let expected = (4.0 * near - far) / 3.0;
        let scale = 1.0_f64.max(expected.abs()).max(gradient[i].abs());
        if (gradient[i] - expected).abs() > 1e-6 * scale || gradient[i].is_nan() {
            return Err(format!("{what}[{i}]: differences give {expected}, the gradient is {}", gradient[i]));
        }
    }
    Ok(())
}

#[test]
fn gradients_agree_with_central_differences() {
    each_row(|case| {
        let plain = case.trace(DType::F64);
        let Some(graph) = case.trace_gradients(DType::F64) else { return Ok(()) };
        valid(&graph)?;
        let n = case.operands.len();
        let mut compared = 0;
        for &batch in batches(case) {
            let inputs = case.inputs(batch, 1);
            let run = eval(&graph, batch, &inputs, &initial_slots(&graph));
            for (output, gradient) in graph.outputs.iter().zip(&run.outputs).skip(1) {
                let at: usize = output.name["d_x".len()..].parse().expect("bug: output name");
                let f = |x: &[Vec<f64>]| dot(&eval(&plain, batch, &x[..n], &initial_slots(&plain)).outputs[0], &x[n]);
                compare(&format!("B = {batch}: {}", output.name), &inputs, at, gradient, f)?;
                compared += 1;
            }
        }
        if compared == 0 { Err("no operand has a gradient".to_string()) } else { Ok(()) }
    });
}

/// h = Σ d_x·u over all gradients, differentiated by the operands and by v: what a gradient penalty does.
#[test]
fn gradients_of_gradients_agree_with_central_differences() {
    each_row(|case| {
        let Some(first) = case.trace_gradients(DType::F64) else { return Ok(()) };
        let (scope, operands, y) = case.traced(DType::F64.into());
        let grads = case.differentiate(&scope, &operands, &y, DType::F64.into());
        let weights: Vec<Tensor> =
            grads.iter().map(|(i, g)| scope.input(&format!("u{i}"), g.shape(), DType::F64)).collect();
        let terms = grads.iter().zip(&weights).map(|((_, g), u)| total(&mul(g, u)));
        let h = terms.reduce(|a, b| crate::ir::prim::add(&a, &b)).expect("bug: a row without gradients");
        let mut wrt: Vec<(usize, Tensor)> = operands.iter().cloned().enumerate().collect();
        wrt.retain(|(_, x)| x.dtype().is_float());
        wrt.push((operands.len(), scope.input("v", y.shape(), DType::F64)));
        let tensors: Vec<Tensor> = wrt.iter().map(|(_, x)| x.clone()).collect();
        let found = gradients_or_none(&h, &tensors);
        for ((at, _), d) in wrt.iter().zip(&found) {
            if let Some(d) = d {
                scope.output(&format!("{at}"), d);
            }
        }
        let graph = scope.graph().borrow().clone();
        valid(&graph)?;
        for &batch in batches(case) {
            let mut inputs = case.inputs(batch, 1);
            let u: Vec<Vec<f64>> = weights
                .iter()
                .enumerate()
                .map(|(i, w)| {
                    let values = Values::AwayFromZero { lo: 0.5, hi: 1.5 };
                    Operand { shape: w.shape(), values }.draw(batch, 77 + i as u32)
                })
                .collect();
            let f = |x: &[Vec<f64>]| {
                let run = eval(&first, batch, &x[..case.operands.len() + 1], &initial_slots(&first));
                run.outputs[1..].iter().zip(&u).map(|(g, u)| dot(g, u)).sum::<f64>()
            };
            let given: Vec<Vec<f64>> = inputs.iter().chain(&u).cloned().collect();
            let run = eval(&graph, batch, &given, &initial_slots(&graph));
            inputs.truncate(case.operands.len() + 1);
            for (at, _) in &wrt {
                let zeros = vec![0.0; inputs[*at].len()];
                let found = graph.outputs.iter().position(|o| o.name == at.to_string());
                let gradient = found.map_or(&zeros, |i| &run.outputs[i]);
                compare(&format!("B = {batch}: by operand {at}"), &inputs, *at, gradient, f)?;
            }
        }
        Ok(())
    });
}

#[test]
fn rows_that_stop_gradients_give_none() {
    each_row(|case| {
        let (_, operands, y) = case.traced(DType::F64.into());
        let floats: Vec<Tensor> = operands.into_iter().filter(|x| x.dtype().is_float()).collect();
        if case.gradient == Gradient::Flows || !y.dtype().is_float() || floats.is_empty() {
            return Ok(());
        }
        let found = gradients_or_none(&total(&y), &floats);
        valid(&y.graph().borrow())?;
        if found.iter().any(Option::is_some) { Err("a gradient flows".to_string()) } else { Ok(()) }
    });
}

/// From one list of variants: their names, and a match without a wildcard, so that a new variant does not compile until it is listed, and
/// does not pass until it has a row.
macro_rules! variants {
    ($names:ident, $name_of:ident, $ty:ident: $($variant:ident)+) => {
        const $names: &[&str] = &[$(concat!(stringify!($ty), "::", stringify!($variant))),+];
        fn $name_of(op: &$ty) -> &'static str {
            match op {
                $($ty::$variant { .. } => concat!(stringify!($ty), "::", stringify!($variant)),)+
            }
        }
    };
}
variants!(LEAVES, leaf_name, Leaf: Input Slot Const Extent Iota);
variants!(UNARIES, unary_name, Unary: Neg Abs Sign Not Exp Expm1 Log Log1p Sqrt Rsqrt Recip Sin Cos Tanh Asin Acos Atan Asinh Sigmoid Erf Floor Ceil Round Detach);
variants!(BINARIES, binary_name, Binary: Add Sub Mul Div Rem Pow Atan2 Max Min Eq Ne Lt Le Gt Ge And Or Xor Shl Shr);
variants!(MOVEMENTS, movement_name, Movement: Reshape Permute Broadcast Slice Pad Flip Concat);
variants!(REDUCES, reduce_name, Reduce: Sum Max Min ArgMax CumSum);
variants!(CONTRACTS, contract_name, Contract: Matmul Conv ConvInputGrad ConvWeightGrad);
variants!(WINDOWS, window_name, Window: ArgMax Take Put Sum Spread);
variants!(INDICES, index_name, Index: Take TakeGrad TakeAlong TakeAlongGrad Put ArgSort);

variants!(CONTROLS, control_name, Control: Carry Result);

fn variant_of(op: &Op) -> &'static str {
    match op {
        Op::Leaf(op) => leaf_name(op),
        Op::Elementwise(Elementwise::Unary(op)) => unary_name(op),
        Op::Elementwise(Elementwise::Binary(op)) => binary_name(op),
        Op::Elementwise(Elementwise::Select) => "Select",
        Op::Elementwise(Elementwise::Cast(_)) => "Cast",
        Op::Movement(op) => movement_name(op),
        Op::Reduce(op) => reduce_name(op),
        Op::Contract(op) => contract_name(op),
        Op::Window(op) => window_name(op),
        Op::Index(op) => index_name(op),
        Op::Random(_) => "Random",
        Op::Control(op) => control_name(op),
    }
}

#[test]
fn every_op_has_a_row() {
    let mut tested = BTreeSet::new();
    for case in all() {
        let graph = case.trace(DType::F32);
        tested.extend(graph.nodes.iter().filter(|n| n.op.name() == case.op).map(|n| variant_of(&n.op)));
    }
    let families = [LEAVES, UNARIES, BINARIES, MOVEMENTS, REDUCES, CONTRACTS, WINDOWS, INDICES, CONTROLS];
    let every = families.concat().into_iter().chain(["Select", "Cast", "Random"]);
    let missing: Vec<&str> = every.filter(|name| !tested.contains(name)).collect();
    assert!(missing.is_empty(), "no row tests {missing:?}");
}

#[test]
fn titles_are_unique() {
    let cases = all();
    let titles: BTreeSet<String> = cases.iter().map(Case::title).collect();
    assert_eq!(titles.len(), cases.len());
}
