//! Least squares of functions that are not linear. Takes residuals as a closure, gives the parameters where the sum of their squares is least, with a
//! loop on the device. Never forms a Jacobian: it is multiplied with vectors, forward by the gradient of a gradient.

use super::gradients;
use crate::ir::{DType, Tensor};
use crate::ops::control::while_loop;
use crate::ops::solve::conjugate_gradient;

/// When a fit ends.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct LeastSquares {
    /// The most steps that are tried.
    pub max_trips: u32,
    /// It ends where no element of the gradient, Jᵀ·r, is larger.
    pub tolerance_grad: f64,
    /// It ends where a step is shorter than this, beside the parameters' length.
    pub tolerance_change: f64,
}

impl Default for LeastSquares {
    /// 100 steps, 1e-8 and 1e-10.
    fn default() -> LeastSquares {
        LeastSquares { max_trips: 100, tolerance_grad: 1e-8, tolerance_change: 1e-10 }
    }
}

/// What a fit found.
#[derive(Clone, Debug)]
pub struct Fitted {
    /// The best parameters that were found, `[n]` as the start.
    pub x: Tensor,
    /// Half the sum of the squares there.
    pub cost: Tensor,
    /// The steps that were tried.
    pub trips: Tensor,
}

/// How much is added to the diagonal at first, beside how large `JᵀJ` is.
const FIRST_DAMPING: f64 = 1e-3;
/// How well each step's system is solved.
const SOLVED: f64 = 1e-12;

/// The x near `start`, a vector, at which `Σ r²` of the residuals is least: Levenberg and Marquardt's steps, which are those of Gauss and Newton where
/// the damping is small. Each is solved by conjugate gradients in twice as many products as there are parameters: this is for a few of them.
///
/// `residuals` is traced several times and must give the same each time. No gradient passes. Papers: Marquardt 1963, "An algorithm for least-squares
/// estimation of nonlinear parameters"; the damping: Nielsen 1999, "Damping parameter in Marquardt's method".
///
/// Errors: `start` is no vector of floats of a known length; residuals that do not depend on it.
#[track_caller]
pub fn levenberg_marquardt(residuals: impl Fn(&Tensor) -> Tensor, start: &Tensor, options: &LeastSquares) -> Fitted {
    let at = |x: &Tensor| {
        let r = residuals(x);
        let g = transposed_times(&r, &r.detach(), x);
        (r.square().sum(..) * 0.5, g)
    };
    let n = start.shape().0.first().map_or(1, |d| d.at(1)) as u32;
    let (cost, g) = at(start);
    let goes_on = g.abs().max(..).greater(options.tolerance_grad);
    // How large JᵀJ is along the gradient.
    let (along, squares) = (times(&residuals(start), &g, start), g.square().sum(..));
    let scale = squares.greater(0.0).select(&along.square().sum(..) / &squares, 1.0);
    let one = scale.full_like(1.0);
    let first = [start.clone(), cost, g, scale * FIRST_DAMPING, &one * 2.0, one.full_like(0.0), goes_on];
    let ends = while_loop(
        options.max_trips,
        &first,
        |v| v[6].clone(),
        |v| {
            let (x, cost, g, damping, growth) = (&v[0], &v[1], &v[2], &v[3], &v[4]);
            let r = residuals(x);
            let apply = |v: &[Tensor]| vec![&transposed_times(&r, &times(&r, &v[0], x), x) + &(&v[0] * damping)];
            let step = conjugate_gradient(apply, &[-g], 2 * n, SOLVED).remove(0);
            let tried = x + &step;
            let (new_cost, new_g) = at(&tried);
            // By how much less it would be if residuals were linear.
            let promised = (&step * &(&(&step * damping) - g)).sum(..) * 0.5;
            let gain = &(cost - &new_cost) / &promised;
            let is_better = new_cost.less(cost) & gain.greater(0.0);
            let surplus = &gain * 2.0 - 1.0;
            let eased = (1.0 - &(&surplus.square() * &surplus)).maximum(1.0 / 3.0);
            let x_next = is_better.select(&tried, x);
            let g_next = is_better.select(&new_g, g);
            let is_flat = g_next.abs().max(..).less_equal(options.tolerance_grad);
            let length = |x: &Tensor| x.square().sum(..).sqrt();
            let short = &(length(x) + options.tolerance_change) * options.tolerance_change;
            let is_short = length(&step).less_equal(&short);
            vec![
                x_next,
                is_better.select(&new_cost, cost),
                g_next,
                damping * &is_better.select(&eased, growth),
                is_better.select(2.0, &(growth * 2.0)),
                &v[5] + 1.0,
                !&(is_flat | is_short),
            ]
        },
    );
    Fitted { x: ends[0].clone(), cost: ends[1].clone(), trips: ends[5].cast(DType::I32) }
}

/// `Jᵀ·u` of residuals `r` at `x`.
fn transposed_times(r: &Tensor, u: &Tensor, x: &Tensor) -> Tensor {
    gradients(&(r * u).sum(..), std::slice::from_ref(x)).remove(0)
}

/// `J·v`: `Jᵀ·u` is linear in u, and this is the gradient by u of its product with v. Any u will do.
fn times(r: &Tensor, v: &Tensor, x: &Tensor) -> Tensor {
    let u = r.full_like(1.0);
    let transposed = transposed_times(r, &u, x);
    gradients(&(&transposed * v).sum(..), &[u]).remove(0)
}
