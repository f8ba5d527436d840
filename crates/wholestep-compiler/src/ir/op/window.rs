//! Sliding windows without weights: the parts that pooling is made of. Channels-last, `[N, spatial.., C]`, like convolutions.
//!
//! Each op is linear in its float operand and its gradient is another op of this family, so gradients of gradients work:
//! max pooling is `Take(x, ArgMax(x))`, its gradient `Put`; average pooling is `Sum`, its gradient `Spread`.

use super::{RuleError, Type, Vjp};
use crate::ir::value::{each_index, strides, wrap_all};
use crate::ir::{DType, Dim, EvalSite, Shape, Tensor, Value};

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
        if x.shape.0[n + 1].batch != 0 {
            return Err(RuleError::new(format!("need a fixed number of channels, got {}", x.shape))
                .help("the batch belongs on the first axis: [B, C, ..]"));
        }
        let (input, out_extents) = match self {
            Window::Put { .. } | Window::Spread { .. } if extents != g.out => {
                return Err(RuleError::new(format!(
                    "need one gradient for each of {:?} windows, got {}",
                    g.out, x.shape
                )));
            }
            Window::Put { input, .. } | Window::Spread { input, .. } => (input.clone(), input.clone()),
            Window::ArgMax(_) | Window::Take(_) | Window::Sum(_) => (extents, g.out.clone()),
        };
        for (i, &extent) in input.iter().enumerate().take(n) {
            let last_start = g.out[i].saturating_sub(1) * g.stride[i];
            if g.size[i] == 0 || g.stride[i] == 0 || g.out[i] == 0 || last_start >= extent + g.pad_lo[i] {
                return Err(RuleError::new(format!(
                    "{} windows of {} with stride {} do not fit spatial axis {i} of {} elements",
                    g.out[i], g.size[i], g.stride[i], extent
                )));
            }
        }
        let mut shape = x.shape.clone();
        out_extents.iter().enumerate().for_each(|(i, &e)| shape.0[i + 1] = Dim::fixed(e));
        if let Some(place) = operands.get(1) {
            let windows = if matches!(self, Window::Put { .. }) { &x.shape } else { &shape };
            if place.dtype != DType::I32 || place.shape != *windows {
                return Err(RuleError::new(format!("need places i32 {windows}, got {} {}", place.dtype, place.shape)));
            }
        }
        let dtype = if matches!(self, Window::ArgMax(_)) { DType::I32 } else { x.dtype };
        Ok(Type { dtype, shape })
    }

    pub fn eval(&self, operands: &[&Value], site: &EvalSite) -> Vec<f64> {
        let x = operands[0];
        let mut out = vec![0.0; site.shape.iter().product()];
        match self {
            Window::ArgMax(g) => {
                let mut best: Vec<Option<f64>> = vec![None; out.len()];
                each_place(g, &x.shape, &site.shape, |from, y, place| {
                    let v = x.data[from];
                    if best[y].is_none_or(|b| v > b || (v.is_nan() && !b.is_nan())) {
                        (best[y], out[y]) = (Some(v), place as f64);
                    }
                });
            }
            Window::Take(g) => each_place(g, &x.shape, &site.shape, |from, y, place| {
                if operands[1].data[y] == place as f64 {
                    out[y] = x.data[from];
                }
            }),
            Window::Put { geometry, .. } => each_place(geometry, &site.shape, &x.shape, |to, y, place| {
                if operands[1].data[y] == place as f64 {
                    out[to] += x.data[y];
                }
            }),
            Window::Sum(g) => each_place(g, &x.shape, &site.shape, |from, y, _| out[y] += x.data[from]),
            Window::Spread { geometry, .. } => {
                each_place(geometry, &site.shape, &x.shape, |to, y, _| out[to] += x.data[y]);
            }
        }
        wrap_all(site.dtype, out)
    }

    pub fn vjp(&self, x: &[Tensor], d_y: &Tensor) -> Vjp {
        let input = || -> Vec<usize> {
            let shape = x[0].shape();
            let fixed = shape.0[1..shape.rank() - 1].iter().map(|d| d.as_fixed());
            fixed.collect::<Option<_>>().expect("bug: window extents depend on the batch size")
        };
        Vjp::Grads(match self {
            Window::Take(g) => {
                vec![Some(d_y.apply(Window::Put { geometry: g.clone(), input: input() }, &[&x[1]])), None]
            }
            Window::Put { geometry, .. } => vec![Some(d_y.apply(Window::Take(geometry.clone()), &[&x[1]])), None],
            Window::Sum(g) => vec![Some(d_y.apply(Window::Spread { geometry: g.clone(), input: input() }, &[]))],
            Window::Spread { geometry, .. } => vec![Some(d_y.apply(Window::Sum(geometry.clone()), &[]))],
            Window::ArgMax(_) => return Vjp::NotDifferentiable,
        })
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

/// Calls `visit` with a place in `[N, in.., C]`, the window's place in `[N, out.., C]` and the place within the window, for each element
/// of each window, padding left out.
fn each_place(g: &WindowGeometry, x: &[usize], y: &[usize], mut visit: impl FnMut(usize, usize, usize)) {
    let n = g.size.len();
    let x_steps = strides(x);
    each_index(y, |y_place, y_index| {
        each_index(&g.size, |place, k| {
            let mut x_place = y_index[0] * x_steps[0] + y_index[n + 1];
            for i in 0..n {
                match (y_index[i + 1] * g.stride[i] + k[i] * g.dilation[i]).checked_sub(g.pad_lo[i]) {
                    Some(at) if at < x[i + 1] => x_place += at * x_steps[i + 1],
                    _ => return,
                }
            }
            visit(x_place, y_place, place);
        });
    });
}

/// The rows that test this family: see [`crate::cases`].
#[cfg(any(test, feature = "cases"))]
pub(crate) fn cases() -> Vec<crate::ir::case::Case> {
    use crate::ir::Batch;
    use crate::ir::case::{distinct, floats, flows, stops, ties};
    use crate::ir::prim::mul;
    /// 3x2 windows, overlapping along the first axis, padded, the last one hanging over the end of the second.
    fn overlapping() -> WindowGeometry {
        geometry([3, 2], [2, 2], [1, 0], [3, 3], [1, 1])
    }
    fn dilated() -> WindowGeometry {
        geometry([2, 2], [1, 1], [0, 1], [3, 4], [2, 2])
    }
    fn geometry(
        size: [usize; 2],
        stride: [usize; 2],
        pad_lo: [usize; 2],
        out: [usize; 2],
        dilation: [usize; 2],
    ) -> WindowGeometry {
        let [size, stride, pad_lo, out, dilation] = [size, stride, pad_lo, out, dilation].map(|a| a.to_vec());
        WindowGeometry { size, stride, pad_lo, out, dilation }
    }
    fn square(x: &Tensor) -> Tensor {
        mul(x, x)
    }
    vec![
        stops("window_argmax", "overlapping", [distinct((Batch, 5, 5, 2))], |_, x| {
            x[0].apply(Window::ArgMax(overlapping()), &[])
        }),
        stops("window_argmax", "ties", [ties((Batch, 5, 5, 2))], |_, x| x[0].apply(Window::ArgMax(dilated()), &[])),
        flows("window_take", "max pooling", [distinct((Batch, 5, 5, 2))], |_, x| {
            let place = x[0].apply(Window::ArgMax(overlapping()), &[]);
            square(&x[0].apply(Window::Take(overlapping()), &[&place]))
        }),
        flows(
            "window_take",
            "dilated, by another's places",
            [floats((Batch, 5, 5, 2)), distinct((Batch, 5, 5, 2))],
            |_, x| {
                let place = x[1].apply(Window::ArgMax(dilated()), &[]);
                square(&x[0].apply(Window::Take(dilated()), &[&place]))
            },
        ),
        flows("window_put", "overlapping", [floats((Batch, 3, 3, 2)), distinct((Batch, 5, 5, 2))], |_, x| {
            let place = x[1].apply(Window::ArgMax(overlapping()), &[]);
            square(&x[0].apply(Window::Put { geometry: overlapping(), input: vec![5, 5] }, &[&place]))
        }),
        flows("window_take", "alone", [distinct((Batch, 5, 5, 19))], |_, x| {
            let place = x[0].apply(Window::ArgMax(overlapping()), &[]);
            x[0].apply(Window::Take(overlapping()), &[&place])
        }),
        flows("window_put", "alone", [floats((Batch, 3, 3, 19)), distinct((Batch, 5, 5, 19))], |_, x| {
            let place = x[1].apply(Window::ArgMax(overlapping()), &[]);
            x[0].apply(Window::Put { geometry: overlapping(), input: vec![5, 5] }, &[&place])
        }),
        flows("window_sum", "overlapping", [floats((Batch, 5, 5, 2))], |_, x| {
            square(&x[0].apply(Window::Sum(overlapping()), &[]))
        }),
        flows("window_sum", "dilated", [floats((Batch, 5, 5, 1))], |_, x| {
            square(&x[0].apply(Window::Sum(dilated()), &[]))
        }),
        flows("window_spread", "overlapping", [floats((Batch, 3, 3, 2))], |_, x| {
            square(&x[0].apply(Window::Spread { geometry: overlapping(), input: vec![5, 5] }, &[]))
        }),
    ]
}
