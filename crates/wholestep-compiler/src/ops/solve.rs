//! Linear systems whose matrix is known by what it does to a vector. Takes that as a closure, gives the solution, with a loop on the device.
//! Never forms a matrix: with the product of a Hessian and a vector, a gradient's gradient, this is a Newton step.

use super::control::while_loop;
use crate::ir::Tensor;

/// x with `A·x = b`, for a symmetric positive definite A that `apply` multiplies a vector with; vectors may be lists of tensors, as parameters are.
///
/// Ends where `|b - A·x| <= tolerance·|b|`, after `max_trips` products, or where the curvature along a direction is not positive, with what was
/// reached until then. No gradient passes. Paper: Hestenes, Stiefel 1952, "Methods of conjugate gradients for solving linear systems".
#[track_caller]
pub fn conjugate_gradient(
    apply: impl Fn(&[Tensor]) -> Vec<Tensor>,
    b: &[Tensor],
    max_trips: u32,
    tolerance: f64,
) -> Vec<Tensor> {
    let n = b.len();
    let dot = |a: &[Tensor], b: &[Tensor]| a.iter().zip(b).map(|(a, b)| (a * b).sum(..)).reduce(|a, b| a + b);
    let Some(squares) = dot(b, b) else { return Vec::new() };
    let enough = &squares * (tolerance * tolerance);
    let goes_on = squares.greater(&enough);
    // x, what is left of b, the direction; the square of what is left, and whether to go on.
    let zeros = b.iter().map(|b| b.full_like(0.0));
    let first = zeros.chain(b.iter().cloned()).chain(b.iter().cloned()).chain([squares, goes_on]);
    let ends = while_loop(
        max_trips,
        &first.collect::<Vec<_>>(),
        |v| v[3 * n + 1].clone(),
        |v| {
            let (x, left, along) = (&v[..n], &v[n..2 * n], &v[2 * n..3 * n]);
            let squares = &v[3 * n];
            let product = apply(along);
            let Some(curvature) = dot(along, &product) else { return v.to_vec() };
            let is_positive = curvature.greater(0.0);
            let step = is_positive.select(&(squares / &curvature), 0.0);
            let moved = |from: &[Tensor], by: &[Tensor], step: &Tensor| -> Vec<Tensor> {
                from.iter().zip(by).map(|(from, by)| from + &(by * step)).collect()
            };
            let (x, left) = (moved(x, along, &step), moved(left, &product, &-&step));
            let Some(next) = dot(&left, &left) else { return v.to_vec() };
            let along = moved(&left, along, &(&next / squares));
            let goes_on = next.greater(&enough) & is_positive;
            x.into_iter().chain(left).chain(along).chain([next, goes_on]).collect()
        },
    );
    ends[..n].to_vec()
}
