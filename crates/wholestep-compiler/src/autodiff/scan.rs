//! A loop of a fixed count with a gradient. Takes values, constants and a body, gives the values after the last trip; its backward pass is a loop
//! too, which goes back over the values that the forward one kept. Never unrolls: programs do not grow with the count.

use super::gradients_or_none;
use crate::ir::prim::full;
use crate::ir::{DType, Shape, Tensor};
use crate::ops::control::while_loop;
use std::cell::RefCell;

/// `values` after `n` times `body(values, constants)`, with gradients by both: what `body` captures beside them gets none.
///
/// All are floats; `body` gives each value anew in its own shape and dtype, and is traced once forward and once backward. The values before each
/// trip are kept for the backward pass. No gradient passes the gradient. Errors: as `while_loop` and `custom_vjp`.
#[track_caller]
pub fn scan(
    n: u32,
    values: &[Tensor],
    constants: &[Tensor],
    body: impl Fn(&[Tensor], &[Tensor]) -> Vec<Tensor>,
) -> Vec<Tensor> {
    let Some(first) = values.first() else { return Vec::new() };
    let others: Vec<&Tensor> = values[1..].iter().chain(constants).collect();
    let kept: RefCell<Vec<Tensor>> = RefCell::new(Vec::new());
    let n_values = values.len();
    let forward = |inputs: &[Tensor]| {
        let (values, constants) = inputs.split_at(n_values);
        let lists = values.iter().map(|v| full(v, 0.0, v.dtype(), &list_of(n, v)));
        let all: Vec<Tensor> = [counter(first, 0)].into_iter().chain(values.iter().cloned()).chain(lists).collect();
        let ends = while_loop(
            n,
            &all,
            |v| v[0].less(f64::from(n)),
            |v| {
                let (now, lists) = v[1..].split_at(n_values);
                let next = body(now, constants);
                if next.len() != n_values {
                    return next; // the loop says what is wrong
                }
                let lists = lists.iter().zip(now).map(|(list, now)| list.put(0, &v[0], now));
                [&v[0] + 1.0].into_iter().chain(next).chain(lists).collect()
            },
        );
        let (_, ends) = ends.split_at(1.min(ends.len()));
        let (ends, lists) = ends.split_at(n_values.min(ends.len()));
        *kept.borrow_mut() = lists.to_vec();
        ends.to_vec()
    };
    let backward = |inputs: &[Tensor], _: &[Tensor], d_ends: &[Tensor]| {
        let constants = &inputs[n_values..];
        let lists = kept.borrow();
        let zeros = constants.iter().map(|c| full(c, 0.0, c.dtype(), &c.shape()));
        let last = counter(first, i64::from(n) - 1);
        let all: Vec<Tensor> = [last].into_iter().chain(d_ends.iter().cloned()).chain(zeros).collect();
        let d = while_loop(
            n,
            &all,
            |v| v[0].greater_equal(0.0),
            |v| {
                let (d_next, d_constants) = v[1..].split_at(n_values);
                let now: Vec<Tensor> = lists.iter().map(|list| list.take(0, &v[0])).collect();
                let next = body(&now, constants);
                let total = next.iter().zip(d_next).map(|(y, d)| (y * d).sum(..)).reduce(|a, b| a + b);
                let wrt: Vec<Tensor> = now.iter().chain(constants).cloned().collect();
                let found = total.map_or_else(|| vec![None; wrt.len()], |total| gradients_or_none(&total, &wrt));
                let mut d = found.into_iter().zip(&wrt).map(|(d, x)| d.unwrap_or_else(|| x.full_like(0.0)));
                let d_now: Vec<Tensor> = d.by_ref().take(n_values).collect();
                let d_constants = d.zip(d_constants).map(|(d, sum)| sum + &d);
                [&v[0] - 1.0].into_iter().chain(d_now).chain(d_constants).collect()
            },
        );
        d[1..].iter().cloned().map(Some).collect()
    };
    first.custom_vjp(&others, forward, backward)
}

fn counter(near: &Tensor, at: i64) -> Tensor {
    full(near, at as f64, DType::I32, &Shape::scalar())
}

fn list_of(n: u32, x: &Tensor) -> Shape {
    let mut shape = x.shape();
    shape.0.insert(0, (n as usize).into());
    shape
}
