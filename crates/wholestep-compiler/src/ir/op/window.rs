//! Sliding windows without weights: the parts that pooling is made of. Channels-last, `[N, spatial.., C]`, like convolutions.
//!
//! Each op is linear in its float operand and its gradient is another op of this family, so gradients of gradients work:
//! max pooling is `Take(x, ArgMax(x))`, its gradient `Put`; average pooling is `Sum`, its gradient `Spread`.

use super::{RuleError, Type};
use crate::ir::{DType, Dim, Shape};

/// How the window moves. One entry per spatial axis. Padding holds no elements: it is never chosen and adds nothing.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct WindowGeometry {
    pub size: Vec<usize>,
    pub stride: Vec<usize>,
    pub pad_lo: Vec<usize>,
    /// How many windows: given, not derived, because PyTorch's `ceil_mode` lets the last one hang over.
    pub out: Vec<usize>,
    pub dilation: Vec<usize>,
}

/// A window op.
#[derive(Clone, Debug, PartialEq)]
pub enum Window {
    /// Operand x `[N, in.., C]`; result i32 `[N, out.., C]`: the place in its window (row-major) of the first largest element, NaN largest.
    /// Not differentiable.
    ArgMax(WindowGeometry),
    /// Operands x, place (from `ArgMax`); result `[N, out.., C]`: the element at that place.
    Take(WindowGeometry),
    /// Operands d_y `[N, out.., C]`, place; result `[N, input.., C]`: each d_y added at its place. The adjoint of `Take`.
    Put { geometry: WindowGeometry, input: Vec<usize> },
    /// Operand x; result `[N, out.., C]`: the sum over each window.
    Sum(WindowGeometry),
    /// Operand d_y; result `[N, input.., C]`: each d_y added to every element of its window. The adjoint of `Sum`.
    Spread { geometry: WindowGeometry, input: Vec<usize> },
}

impl Window {
    pub fn geometry(&self) -> &WindowGeometry {
        match self {
            Window::ArgMax(g) | Window::Take(g) | Window::Sum(g) => g,
            Window::Put { geometry, .. } | Window::Spread { geometry, .. } => geometry,
        }
    }

    pub fn infer(&self, operands: &[Type]) -> Result<Type, RuleError> {
        let x = &operands[0];
        let g = self.geometry();
        let n = g.size.len();
        if x.shape.rank() != n + 2 {
            return Err(RuleError::new(format!("need an input of rank {}, got {}", n + 2, x.shape)));
        }
        let extents = Shape(x.shape.0[1..=n].to_vec()).as_fixed();
        let extents = extents.ok_or_else(|| RuleError::new(format!("need fixed spatial extents, got {}", x.shape)))?;
        let (input, out_extents) = match self {
            Window::Put { input, .. } | Window::Spread { input, .. } => (input.clone(), input.clone()),
            Window::ArgMax(_) | Window::Take(_) | Window::Sum(_) => (extents, g.out.clone()),
        };
        for i in 0..n {
            let last_start = (g.out[i] - 1) * g.stride[i];
            if g.size[i] == 0 || g.stride[i] == 0 || g.out[i] == 0 || last_start >= input[i] + g.pad_lo[i] {
                return Err(RuleError::new(format!(
                    "{} windows of {} with stride {} do not fit spatial axis {i} of {} elements",
                    g.out[i], g.size[i], g.stride[i], input[i]
                )));
            }
        }
        let mut shape = x.shape.clone();
        out_extents.iter().enumerate().for_each(|(i, &e)| shape.0[i + 1] = Dim::fixed(e));
        let dtype = if matches!(self, Window::ArgMax(_)) { DType::I32 } else { x.dtype };
        Ok(Type { dtype, shape })
    }

    pub fn name(&self) -> &'static str {
        match self {
            Window::ArgMax(_) => "window_argmax",
            Window::Take(_) => "window_take",
            Window::Put { .. } => "window_put",
            Window::Sum(_) => "window_sum",
            Window::Spread { .. } => "window_spread",
        }
    }
}
