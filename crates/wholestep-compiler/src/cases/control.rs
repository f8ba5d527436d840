//! The rows that test loops. They stand here and not beside the op, since they are said in the maths that users write.

use super::Case;
use crate::ir::case::{floats, floats_in, stops, whole};
use crate::ir::{Batch, DType, Tensor};
use crate::ops::control::{run_if, while_loop};

fn sum(x: &Tensor) -> Tensor {
    x.sum(..)
}

pub fn cases() -> Vec<Case> {
    vec![
        stops("while_loop", "until a sum is large", [floats_in((Batch, 3), 0.1, 1.0)], |_, x| {
            let ends = while_loop(40, &[x[0].clone()], |v| sum(&v[0]).less(50.0), |v| vec![&v[0] * 1.5]);
            ends[0].clone()
        }),
        stops("while_loop", "no trip", [floats((Batch, 3))], |_, x| {
            let ends = while_loop(5, &[x[0].clone()], |v| sum(&v[0]).less(-1e9), |v| vec![&v[0] * 2.0]);
            ends[0].clone()
        }),
        stops("while_loop", "the bound ends it, values change places", [floats([4]), floats([4])], |_, x| {
            let always = |v: &[Tensor]| sum(&v[0]).less(1e9);
            let swap = |v: &[Tensor]| vec![&v[1] * 1.0, v[0].clone(), v[1].clone(), &v[3] + &v[0]];
            let first = [x[0].clone(), x[1].clone(), x[0].clone(), x[1].clone()];
            let ends = while_loop(3, &first, always, swap);
            ends[0].stack(&ends[1..], 0)
        }),
        stops("while_loop", "one in another", [floats_in([2, 3], 0.5, 1.0), whole(DType::I32, [1], 2, 4)], |s, x| {
            let (one, n) = (s.constant(1.0, DType::I32), x[1].sum(..));
            let zero = s.constant(0.0, DType::I32);
            let outer = while_loop(
                6,
                &[zero.clone(), x[0].clone()],
                |v| v[0].less(&n),
                |v| {
                    // The inner loop begins with the same number each time.
                    let inner = while_loop(
                        9,
                        &[zero.clone(), v[1].clone()],
                        |w| w[0].less_equal(&v[0]),
                        |w| vec![&w[0] + &one, &w[1] * &x[0]],
                    );
                    vec![&v[0] + &one, &inner[1] + &x[0]]
                },
            );
            outer[1].clone()
        }),
        stops("while_loop", "a product in each trip", [floats_in([3, 3], -0.5, 0.5), floats((Batch, 3))], |_, x| {
            let few = |v: &[Tensor]| sum(&v[1]).less(4.0);
            let first = [x[1].clone(), x[0].index(0, 0).sum(..).full_like(0.0)];
            while_loop(9, &first, few, |v| vec![&v[0].matmul(&x[0]).tanh() + &v[0], &v[1] + 1.0])[0].clone()
        }),
        stops("while_loop", "a list that is filled", [floats((3, Batch, 2)), floats((Batch, 2))], |s, x| {
            let zero = s.constant(0.0, DType::I32);
            let first = [zero, x[0].clone(), x[1].clone()];
            let ends = while_loop(
                8,
                &first,
                |v| v[0].less(2.0),
                |v| vec![&v[0] + 1.0, v[1].put(0, &v[0], &v[2]), &v[2] * 2.0],
            );
            ends[1].clone()
        }),
        stops("while_loop", "only if", [floats((Batch, 2)), whole(DType::I32, [1], 0, 1)], |_, x| {
            let values = [x[0].clone(), x[0].sum([0])];
            let done = run_if(&x[1].sum(..).greater(0.0), &values, |v| vec![&v[0] * 3.0, v[0].max([0])]);
            &done[0] + &done[1]
        }),
    ]
}
