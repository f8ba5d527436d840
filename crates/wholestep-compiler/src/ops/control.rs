//! Loops whose end is decided on the device. Takes values, a condition and a body as closures, traces each once, gives the values after the
//! last trip. Never unrolls and never waits for the host.

use super::refuse;
use crate::ir::Tensor;
use crate::ir::op::Control;

/// Runs `body` on `values` while `cond` holds of them, at most `max_trips` times, and gives what is left.
///
/// `cond` gives a bool scalar; `body` gives each value anew, in its own shape and dtype. What neither of them changes is computed once, before
/// the loop, random bits too: each trip sees the same. Updates and outputs belong outside.
///
/// No gradient passes. Errors: a condition that is no bool scalar; values that change shape or dtype.
#[track_caller]
pub fn while_loop(
    max_trips: u32,
    values: &[Tensor],
    cond: impl Fn(&[Tensor]) -> Tensor,
    body: impl FnOnce(&[Tensor]) -> Vec<Tensor>,
) -> Vec<Tensor> {
    if values.is_empty() {
        return Vec::new(); // it would leave nothing
    }
    let first = cond(values);
    traced(max_trips, &first, values, body, cond)
}

/// `body` of `values` where `cond` (a bool scalar) holds, else the values as they are. Unlike `select`, it does not compute what it does not
/// take.
///
/// No gradient passes. Errors: as [`while_loop`].
#[track_caller]
pub fn run_if(cond: &Tensor, values: &[Tensor], body: impl FnOnce(&[Tensor]) -> Vec<Tensor>) -> Vec<Tensor> {
    if values.is_empty() {
        return Vec::new();
    }
    traced(1, cond, values, body, |_| cond.clone())
}

#[track_caller]
fn traced(
    max_trips: u32,
    first: &Tensor,
    values: &[Tensor],
    body: impl FnOnce(&[Tensor]) -> Vec<Tensor>,
    again: impl Fn(&[Tensor]) -> Tensor,
) -> Vec<Tensor> {
    let graph = values[0].graph();
    let of = {
        let mut graph = graph.borrow_mut();
        graph.n_loops += 1;
        graph.n_loops - 1
    };
    let mut carried = Vec::with_capacity(values.len() + 1);
    for (index, value) in std::iter::once(first).chain(values).enumerate() {
        carried.push(value.apply(Control::Carry { of, index: index as u32 }, &[]));
    }
    let next = body(&carried[1..]);
    if next.len() != values.len() {
        let message = format!("the body works on {} values and gives {}", values.len(), next.len());
        let placeholder = refuse("while_loop", &[&values[0]], message, None);
        return vec![placeholder; values.len()];
    }
    // After a single trip nobody asks again.
    let again = if max_trips == 1 { carried[0].clone() } else { again(&next) };
    let ends: Vec<&Tensor> = carried[1..].iter().chain([&again]).chain(&next).collect();
    let mut results = Vec::with_capacity(values.len());
    for index in 1..=values.len() as u32 {
        results.push(carried[0].apply(Control::Result { index, max_trips }, &ends));
    }
    results
}
