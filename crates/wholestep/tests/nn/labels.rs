//! Labels that name no class: the rows that have one do not count, wherever the labels were declared so.

use wholestep::ops::{CrossEntropy, Nll};
use wholestep::{Array, Batch, DType, Device, F32, I32, I64, Infer, Reduction, Scope, Tensor};

const SCORES: [f64; 12] = [1.0, -0.5, 0.25, 0.0, 2.0, -1.0, 0.5, 0.5, -2.0, 1.5, 0.75, -0.25];
const LABELS: [i32; 4] = [2, -100, 0, -100];

/// `-ln softmax` of each row at its label.
fn by_hand() -> Vec<f64> {
    let row = |i: usize| &SCORES[3 * i..3 * i + 3];
    let one = |i: usize| row(i).iter().map(|x| x.exp()).sum::<f64>().ln() - row(i)[LABELS[i] as usize];
    (0..4).map(|i| if LABELS[i] < 0 { 0.0 } else { one(i) }).collect()
}

fn losses(declare: fn(&Scope) -> Tensor, loss: fn(&Tensor, &Tensor) -> Tensor) -> Vec<f64> {
    let mut infer = Infer::compile(&Device::cpu_with_threads(1), 4, |s| {
        let y = declare(s);
        loss(&s.input("x", (Batch, 3), F32), &y)
    })
    .unwrap();
    let x = Array::new(SCORES.map(|x| x as f32).to_vec(), [4, 3]).unwrap();
    let loss = infer.run(&[("x", &x), ("y", &Array::from_vec(LABELS.to_vec()))]).unwrap();
    loss.slice::<f32>().unwrap().iter().map(|&x| f64::from(x)).collect()
}

#[track_caller]
fn assert_near(got: &[f64], want: &[f64]) {
    let is_near = got.len() == want.len() && got.iter().zip(want).all(|(a, b)| (a - b).abs() < 1e-5);
    assert!(is_near, "{got:?} is not {want:?}");
}

#[test]
fn rows_that_labels_are_declared_to_ignore_do_not_count() {
    let rows = by_hand();
    let mean = rows.iter().sum::<f64>() / 2.0;
    let declared: fn(&Scope) -> Tensor = |s| s.labels("y", (Batch,), I32, 3, Some(-100));
    assert_near(&losses(declared, |x, y| x.cross_entropy(y)), &[mean]);
    assert_near(&losses(declared, |x, y| x.log_softmax(1).nll_loss(y)), &[mean]);
    let each: fn(&Tensor, &Tensor) -> Tensor =
        |x, y| x.cross_entropy_with(y, &CrossEntropy { reduction: Reduction::None, ..CrossEntropy::default() });
    assert_near(&losses(declared, each), &rows);
    // The same labels as another type and at other places.
    assert_near(&losses(declared, |x, y| x.cross_entropy(&y.cast(I64).unsqueeze(0).squeeze(0).detach())), &[mean]);
    assert_near(&losses(declared, |x, y| x.slice(0, 1..).cross_entropy(&y.slice(0, 1..))), &[rows[2]]);
    assert_near(&losses(declared, |x, y| x.flip(0).cross_entropy(&y.flip(0).repeat(&[1]))), &[mean]);
    // Labels of a plain input, and what is asked for twice.
    let plain: fn(&Scope) -> Tensor = |s| s.input("y", (Batch,), DType::I32);
    let asked: fn(&Tensor, &Tensor) -> Tensor =
        |x, y| x.cross_entropy_with(y, &CrossEntropy { ignore_index: Some(-100), ..CrossEntropy::default() });
    assert_near(&losses(plain, asked), &[mean]);
    assert_near(&losses(declared, asked), &[mean]);
    let asked: fn(&Tensor, &Tensor) -> Tensor =
        |x, y| x.log_softmax(1).nll_loss_with(y, &Nll { ignore_index: Some(-100), ..Nll::default() });
    assert_near(&losses(plain, asked), &[mean]);
}
