//! Bounds and numbers of the gradient before the update. Takes gradients, gives bounded ones, their norm and their noise. Never reads anything
//! back: each number is an output that costs nothing until it is asked for.

use super::accumulate::Accumulation;
use crate::Result;
use crate::error::need;
use wholestep_compiler::ir::{Batch, DType, Init, Scope, Shape, SlotKind, Tensor};

/// The 2-norm of all gradients before clipping.
pub const GRAD_NORM: &str = "grad_norm";
/// The batch size beyond which larger batches stop paying.
pub const NOISE_SCALE: &str = "gradient_noise_scale";
/// How much of the old averages of the noise stays at each update.
const NOISE_DECAY: f64 = 0.99;

/// What bounds the gradient before the update.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Clip {
    /// Scales all gradients by `max_norm / (norm + 1e-6)` where their joint 2-norm is larger. Matches PyTorch `clip_grad_norm_`.
    GlobalNorm(f64),
    /// Clamps each element to `[-limit, limit]`. Matches PyTorch `clip_grad_value_`.
    Value(f64),
}

impl Clip {
    /// Errors (`ErrorKind::Config`): a limit that is not a finite number > 0.
    pub(crate) fn check(self) -> Result<()> {
        let (Clip::GlobalNorm(limit) | Clip::Value(limit)) = self;
        need(limit > 0.0 && limit.is_finite(), "clip", "a finite number > 0", &limit)
    }
}

/// `Σ g²` over all gradients.
pub fn squares(grads: &[Tensor]) -> Tensor {
    let squares = grads.iter().map(|g| g.square().sum(..)).reduce(|a, b| &a + &b);
    squares.expect("bug: a step has gradients")
}

/// Clips, and makes the norm an output where clipping needs it or `wants_norm`.
pub fn clip(scope: &Scope, grads: &mut [Tensor], clip: Option<Clip>, wants_norm: bool) {
    if !wants_norm && !matches!(clip, Some(Clip::GlobalNorm(_))) {
        if let Some(Clip::Value(limit)) = clip {
            grads.iter_mut().for_each(|g| *g = g.clamp(-limit, limit));
        }
        return;
    }
    let norm = squares(grads).sqrt();
    scope.output(GRAD_NORM, &norm);
    match clip {
        None => {}
        Some(Clip::Value(limit)) => grads.iter_mut().for_each(|g| *g = g.clamp(-limit, limit)),
        Some(Clip::GlobalNorm(max_norm)) => {
            let one = scope.constant(1.0, DType::F32);
            let scale = (scope.constant(max_norm, DType::F32) / (&norm + 1e-6)).minimum(&one);
            grads.iter_mut().for_each(|g| *g = &*g * &scale);
        }
    }
}

/// The simple noise scale `tr(Σ)/|G|²` of McCandlish, Kaplan, Amodei and others 2018, arXiv:1812.06162, appendix A.1.
///
/// From the mean square norm of the micro-batches' gradients and that of their mean come unbiased estimates of both parts, which are
/// averaged over updates in two slots; the output is their ratio, in rows, NaN before the first update. It takes micro-batches of one size;
/// an update from fewer of them, at the end of an epoch, is left out.
pub fn noise_scale(scope: &Scope, micro: &[Tensor], mean: &[Tensor], accumulation: &Accumulation) {
    let home = scope.sub("noise");
    let slot = |name: &str| home.slot(name, SlotKind::State, DType::F32, Shape::scalar(), Init::Const(0.0));
    let k = f64::from(accumulation.every);
    let sum = slot("micro_squares");
    let total = &sum + &squares(micro);
    let (small, big) = (&total / k, squares(mean));
    let rows = scope.extent(Batch, DType::F32); // of one micro-batch; k of them are one update's
    // (B·|g_B|² - b·|g_b|²)/(B - b) and (|g_b|² - |g_B|²)/(1/b - 1/B) with B = k·b.
    let signal = &(&(&big * k) - &small) / (k - 1.0);
    let noise = &(&(&small - &big) * &rows) / (1.0 - 1.0 / k);
    let next = ["signal", "noise"].map(&slot).into_iter().zip([signal, noise]).map(|(old, new)| {
        let mixed = accumulation.kept_where_full(&(&(&old * NOISE_DECAY) + &(&new * (1.0 - NOISE_DECAY))), &old);
        home.update(&old, &mixed);
        mixed
    });
    let next: Vec<Tensor> = next.collect();
    home.update(&sum, &accumulation.emptied(&total));
    scope.output(NOISE_SCALE, &(&next[1] / &next[0]));
}
