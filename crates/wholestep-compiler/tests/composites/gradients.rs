//! Gradients against central differences in f64, at two batch sizes of one trace, and behaviour after an error.

use super::cases::{Case, all};
use wholestep_compiler::autodiff::gradients_or_none;
use wholestep_compiler::eval::eval;
use wholestep_compiler::ir::scope::Mode;
use wholestep_compiler::ir::verify::verify;
use wholestep_compiler::ir::{Batch, DType, Op, Scope, Tensor};

/// Distinct numbers in (0.2, 2), far enough apart that a step of a difference exchanges no two.
fn spread(n: usize, seed: usize) -> Vec<f64> {
    (0..n).map(|i| 0.2 + 1.8 * ((i * 7919 + seed * 104_729 + 13) % 10_007) as f64 / 10_007.0).collect()
}

/// Traces `Σ y·c`, where c are fixed numbers, and its gradients.
fn check(case: &Case, batches: &[usize]) -> Result<(), String> {
    let s = Scope::root(Mode::Train);
    let inputs: Vec<Tensor> =
        case.shapes.iter().enumerate().map(|(i, shape)| s.input(&format!("x{i}"), shape, DType::F64)).collect();
    let y = (case.maths)(&s, &inputs);
    let c = (0..y.rank() as i64)
        .fold(s.constant(0.3, DType::F64), |c, axis| c + (y.positions(axis, DType::F64) * (1.7 + axis as f64)).cos());
    let loss = (&y * c).sum(..);
    let found = gradients_or_none(&loss, &inputs);
    let graph = s.graph().borrow().clone();
    if let Some(error) = graph.error {
        return Err(error.to_string());
    }
    verify(&graph)?;
    // An error message names the user's line, which here is one of these files; autodiff keeps the line of what it differentiates.
    if let Some(node) = graph.nodes.iter().find(|node| !node.loc.file.contains("tests/composites")) {
        return Err(format!("{} is traced at {}:{}", node.op.name(), node.loc.file, node.loc.line));
    }
    for &batch in batches {
        let data: Vec<Vec<f64>> =
            case.shapes.iter().enumerate().map(|(i, shape)| spread(shape.numel_at(batch), i)).collect();
        let values = eval(&graph, batch, &data, &[]);
        for (i, d_x) in found.iter().enumerate() {
            let d_x = d_x.as_ref().map(|d| values.value(d.id()).data.clone());
            let d_x = d_x.unwrap_or_else(|| vec![0.0; data[i].len()]);
            for j in 0..data[i].len() {
                let at = |step: f64| {
                    let mut data = data.clone();
                    data[i][j] += step;
                    eval(&graph, batch, &data, &[]).value(loss.id()).data[0]
                };
                let h = 1e-5;
                let want = (at(h) - at(-h)) / (2.0 * h);
                let near = (d_x[j] - want).abs() <= 2e-6 * (1.0 + want.abs());
                if !near {
                    return Err(format!("B = {batch}: d x{i}[{j}] is {}, differences say {want}", d_x[j]));
                }
            }
        }
    }
    Ok(())
}

#[test]
fn gradients_agree_with_central_differences_at_several_batch_sizes() {
    let cases = all();
    let failures: Vec<String> =
        cases.iter().filter_map(|c| check(c, &[2, 3]).err().map(|e| format!("{}: {e}", c.name))).collect();
    assert!(failures.is_empty(), "{} of {} composites:\n{}", failures.len(), cases.len(), failures.join("\n"));
}

#[test]
fn cross_entropy_on_labels_neither_gathers_nor_scatters() {
    let s = Scope::root(Mode::Train);
    let x = s.input("x", (Batch, 10), DType::F32);
    let loss = x.cross_entropy(&s.input("y", (Batch,), DType::U32));
    gradients_or_none(&loss, &[x]);
    let graph = s.graph().borrow();
    assert_eq!(graph.error, None);
    assert!(graph.nodes.iter().all(|node| !matches!(node.op, Op::Index(_))), "{graph}");
}

#[test]
fn after_an_error_composites_give_placeholders_and_keep_the_first_error() {
    for case in all() {
        let s = Scope::root(Mode::Train);
        let inputs: Vec<Tensor> =
            case.shapes.iter().enumerate().map(|(i, shape)| s.input(&format!("x{i}"), shape, DType::F64)).collect();
        let lost = s.input("a", [2usize], DType::F64) + s.input("b", [3usize], DType::F64);
        let first = s.graph().borrow().error.clone();
        assert!(first.is_some(), "vectors of 2 and 3 do not broadcast");
        let _ = (case.maths)(&s, &inputs);
        let _ = (case.maths)(&s, &vec![lost; case.shapes.len()]);
        assert_eq!(s.graph().borrow().error, first, "{}", case.name);
    }
}
