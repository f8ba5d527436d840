//! Tensor maths without any training: each closure is compiled and run for its value. Takes small numbers, gives results that can be checked by
//! hand. Never prints a number that it does not compare with the expected one.
#[path = "shared/run.rs"]
pub mod run;

use run::Run;
use std::process::ExitCode;
use wholestep::{F32, I32, Result, Scope, Tensor, eval};

/// 0, 1, 2 … in the given shape.
fn count(s: &Scope, shape: [usize; 2]) -> Tensor {
    let n = shape[0] * shape[1];
    s.constant(1.0, F32).broadcast_to([n]).cumsum(0).reshape(shape) - 1.0
}

type Maths = fn(&Scope) -> Tensor;

/// What is computed, how it is written, what it gives.
const TABLE: &[(&str, Maths, &[f64])] = &[
    ("arithmetic: (1 + 2)·3 - 1/2", |s| (s.constant(1.0, F32) + 2.0) * 3.0 - 0.5, &[8.5]),
    (
        "broadcasting: column [2, 1] + row [1, 3]",
        |s| count(s, [2, 1]) * 10.0 + count(s, [1, 3]),
        &[0.0, 1.0, 2.0, 10.0, 11.0, 12.0],
    ),
    ("matmul: [2, 3]·[3, 2]", |s| count(s, [2, 3]).matmul(&count(s, [3, 2])), &[10.0, 13.0, 28.0, 40.0]),
    ("transpose: [2, 3] -> [3, 2]", |s| count(s, [2, 3]).t(), &[0.0, 3.0, 1.0, 4.0, 2.0, 5.0]),
    ("sum over rows drops the axis", |s| count(s, [2, 3]).sum(0), &[3.0, 5.0, 7.0]),
    ("mean over the last axis", |s| count(s, [2, 3]).mean(-1), &[1.0, 4.0]),
    ("max of each row", |s| count(s, [2, 3]).max(-1), &[2.0, 5.0]),
    ("softmax of equal scores", |s| (count(s, [1, 4]) * 0.0).softmax(-1), &[0.25; 4]),
    ("slice of columns 1 to 3", |s| count(s, [2, 4]).slice(1, 1..3), &[1.0, 2.0, 5.0, 6.0]),
    ("concat along axis 0", |s| count(s, [1, 2]).concat(&[count(s, [1, 2]) + 5.0], 0), &[0.0, 1.0, 5.0, 6.0]),
    ("flip of the columns", |s| count(s, [1, 3]).flip(1), &[2.0, 1.0, 0.0]),
    ("einsum: trace of a product, \"ij,ji->\"", |s| count(s, [2, 2]).einsum("ij,ji->", &[&count(s, [2, 2])]), &[13.0]),
    (
        "select: x where x > 1, else -1",
        |s| {
            let x = count(s, [1, 4]);
            x.greater(1.0).select(&x, -1.0)
        },
        &[-1.0, -1.0, 2.0, 3.0],
    ),
    (
        "one-hot rows of 2 and 0",
        |s| (count(s, [1, 2]) * -2.0 + 2.0).cast(I32).reshape([2]).one_hot(3, F32),
        &[0.0, 0.0, 1.0, 1.0, 0.0, 0.0],
    ),
    (
        "cross-entropy of equal scores: ln 4",
        |s| {
            let labels = s.constant(1.0, I32).broadcast_to([2]);
            (count(s, [2, 4]) * 0.0).cross_entropy(&labels)
        },
        &[1.386_294_361],
    ),
    (
        "ReLU, square root, exponential",
        |s| (count(s, [1, 3]) - 1.0).relu().sqrt().exp(),
        &[1.0, 1.0, std::f64::consts::E],
    ),
];

fn main() -> Result<ExitCode> {
    example(Run::from_args()?)
}

pub fn example(mut run: Run) -> Result<ExitCode> {
    let mut worst: f64 = 0.0;
    for (what, maths, expected) in TABLE {
        let value = eval(&run.device, maths)?;
        let got = value.slice::<f32>()?;
        println!("{what}\n    {:?} {got:?}", value.shape());
        if got.len() != expected.len() {
            worst = f64::INFINITY;
        }
        for (got, expected) in got.iter().zip(*expected) {
            worst = worst.max((f64::from(*got) - expected).abs());
        }
    }
    run.bar("largest difference from the values worked out by hand", worst, "<= 1e-5", worst <= 1e-5);

    // A mistake does not panic: the first one is recorded with its line and comes out of the compilation.
    let fault = eval(&run.device, |s| count(s, [2, 3]).matmul(&count(s, [2, 3]))).err();
    println!("\nA product that does not fit:\n{}", fault.as_ref().map_or(String::new(), ToString::to_string));
    run.bar("faults reported", f64::from(u8::from(fault.is_some())), "1", fault.is_some());
    Ok(run.verdict())
}
