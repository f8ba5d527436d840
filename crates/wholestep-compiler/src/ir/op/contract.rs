//! Contractions: batched matrix products and convolutions with both of their gradients. They are nodes of their own, because a weight
//! gradient said as multiply-and-reduce costs tens of times more.
//!
//! Convolutions are channels-last: activations `[N, spatial.., C]`, weights `[kernel.., C_in/groups, C_out]`. User-facing layers
//! with PyTorch's order wrap them in permutations that passes cancel.

use super::{RuleError, Type, Vjp};
use crate::ir::prim::{matmul, transpose};
use crate::ir::value::{each_index, strides};
use crate::ir::{Dim, EvalSite, Shape, Tensor, Value};

/// How a convolution's window moves. One entry per spatial axis (1 to 3).
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct ConvGeometry {
    pub stride: Vec<usize>,
    /// Zeros before and after each spatial axis.
    pub pad_lo: Vec<usize>,
    pub pad_hi: Vec<usize>,
    pub dilation: Vec<usize>,
    pub groups: usize,
}

impl ConvGeometry {
    /// Output extent along spatial axis `i`, or `None` where the window does not fit.
    pub fn out_extent(&self, i: usize, input: usize, kernel: usize) -> Option<usize> {
        let span = self.dilation[i].checked_mul(kernel.checked_sub(1)?)?.checked_add(1)?;
        let padded = input.checked_add(self.pad_lo[i])?.checked_add(self.pad_hi[i])?;
        Some(padded.checked_sub(span)? / self.stride[i] + 1)
    }
}

/// A contraction.
#[derive(Clone, Debug, PartialEq)]
pub enum Contract {
    /// Operands `[.., M, K]` and `[.., K, N]` with equal leading axes; result `[.., M, N]`.
    Matmul,
    /// Operands x `[N, in.., C_in]`, w `[k.., C_in/groups, C_out]`; result `[N, out.., C_out]`.
    Conv(ConvGeometry),
    /// Operands d_y `[N, out.., C_out]`, w; result d_x `[N, input.., C_in]`, the adjoint of `Conv` in x.
    ConvInputGrad { geometry: ConvGeometry, input: Vec<usize> },
    /// Operands x, d_y; result d_w `[kernel.., C_in/groups, C_out]`, the adjoint of `Conv` in w.
    ConvWeightGrad { geometry: ConvGeometry, kernel: Vec<usize> },
}

impl Contract {
    pub fn infer(&self, operands: &[Type]) -> Result<Type, RuleError> {
        let [a, b] = operands else { panic!("bug: a contraction has 2 operands") };
        if a.dtype != b.dtype || !a.dtype.is_float() {
            return Err(RuleError::new(format!(
                "need two operands of one float dtype, got {} and {}",
                a.dtype, b.dtype
            )));
        }
        let shape = match self {
            Contract::Matmul => infer_matmul(&a.shape, &b.shape)?,
            Contract::Conv(g) => infer_conv(g, &a.shape, &b.shape)?,
            Contract::ConvInputGrad { geometry, input } => infer_input_grad(geometry, input, &a.shape, &b.shape)?,
            Contract::ConvWeightGrad { geometry, kernel } => infer_weight_grad(geometry, kernel, &a.shape, &b.shape)?,
        };
        Ok(Type { dtype: a.dtype, shape })
    }

    /// Multiplications and additions.
    pub fn flops(&self, operands: [&Shape; 2], result: &Shape, batch: usize) -> f64 {
        let elements = |shape: &Shape| shape.numel_at(batch) as f64;
        let last = |shape: &Shape| shape.0[shape.rank() - 1].at(batch) as f64;
        let (y, w) = match self {
            Contract::Matmul => return 2.0 * elements(result) * last(operands[0]),
            Contract::Conv(_) => (result, operands[1]),
            Contract::ConvInputGrad { .. } => (operands[0], operands[1]),
            Contract::ConvWeightGrad { .. } => (operands[1], result),
        };
        // Each element of y is joined with the taps of its own output channel.
        2.0 * elements(y) * elements(w) / last(w)
    }

    pub fn eval(&self, operands: &[&Value], site: &EvalSite) -> Vec<f64> {
        let (a, b) = (operands[0], operands[1]);
        let mut out = vec![0.0; site.shape.iter().product()];
        match self {
            Contract::Matmul => eval_matmul(a, b, &mut out),
            Contract::Conv(g) => {
                each_tap(g, [&a.shape, &b.shape, &site.shape], |x, w, y| out[y] += a.data[x] * b.data[w]);
            }
            Contract::ConvInputGrad { geometry, .. } => {
                each_tap(geometry, [&site.shape, &b.shape, &a.shape], |x, w, y| out[x] += a.data[y] * b.data[w]);
            }
            Contract::ConvWeightGrad { geometry, .. } => {
                each_tap(geometry, [&a.shape, &site.shape, &b.shape], |x, w, y| out[w] += a.data[x] * b.data[y]);
            }
        }
        out
    }

    /// A convolution is the trilinear form `Σ x·w·y` over its taps, and each of the three ops is its derivative in one factor, so each
    /// gradient is one of the three again.
    pub fn vjp(&self, x: &[Tensor], d_y: &Tensor, wanted: &[bool]) -> Vjp {
        let (a, b) = (&x[0], &x[1]);
        let extents = |t: &Tensor, first: usize| -> Vec<usize> {
            let shape = t.shape();
            let fixed = shape.0[first..first + shape.rank() - 2].iter().map(|d| d.as_fixed());
            fixed.collect::<Option<_>>().expect("bug: convolution extents depend on the batch size")
        };
        let conv = |g: &ConvGeometry, x: &Tensor, w: &Tensor| x.apply(Contract::Conv(g.clone()), &[w]);
        let input_grad = |g: &ConvGeometry, input: Vec<usize>, y: &Tensor, w: &Tensor| {
            y.apply(Contract::ConvInputGrad { geometry: g.clone(), input }, &[w])
        };
        let weight_grad = |g: &ConvGeometry, kernel: Vec<usize>, x: &Tensor, y: &Tensor| {
            x.apply(Contract::ConvWeightGrad { geometry: g.clone(), kernel }, &[y])
        };
        Vjp::Grads(match self {
            Contract::Matmul => {
                vec![wanted[0].then(|| matmul(d_y, &transpose(b))), wanted[1].then(|| matmul(&transpose(a), d_y))]
            }
            Contract::Conv(g) => vec![
                wanted[0].then(|| input_grad(g, extents(a, 1), d_y, b)),
                wanted[1].then(|| weight_grad(g, extents(b, 0), a, d_y)),
            ],
            Contract::ConvInputGrad { geometry: g, .. } => {
                vec![wanted[0].then(|| conv(g, d_y, b)), wanted[1].then(|| weight_grad(g, extents(b, 0), d_y, a))]
            }
            Contract::ConvWeightGrad { geometry: g, .. } => {
                vec![wanted[0].then(|| input_grad(g, extents(a, 1), b, d_y)), wanted[1].then(|| conv(g, a, d_y))]
            }
        })
    }

    pub fn name(&self) -> &'static str {
        match self {
            Contract::Matmul => "matmul",
            Contract::Conv(_) => "conv",
            Contract::ConvInputGrad { .. } => "conv_input_grad",
            Contract::ConvWeightGrad { .. } => "conv_weight_grad",
        }
    }
}

fn infer_matmul(a: &Shape, b: &Shape) -> Result<Shape, RuleError> {
    let r = a.rank();
    if r < 2 || b.rank() != r {
        return Err(RuleError::new(format!("need two matrices of equal rank, got {a} and {b}")));
    }
    let (k, k2) = (a.0[r - 1], b.0[r - 2]);
    if k != k2 {
        return Err(RuleError::new(format!("need lhs.dim(-1) == rhs.dim(-2), got {k} and {k2}")));
    }
    if a.0[..r - 2] != b.0[..r - 2] {
        return Err(RuleError::new(format!("need equal leading axes, got {a} and {b}")));
    }
    let mut shape = a.clone();
    shape.0[r - 1] = b.0[r - 1];
    Ok(shape)
}

/// The fixed extents of all axes but the first, which may be the batch.
fn spatial_and_channels(what: &str, shape: &Shape, n_spatial: usize) -> Result<Vec<usize>, RuleError> {
    if shape.rank() != n_spatial + 2 {
        return Err(RuleError::new(format!("need {what} of rank {}, got {shape}", n_spatial + 2)));
    }
    Shape(shape.0[1..].to_vec()).as_fixed().ok_or_else(|| {
        RuleError::new(format!("need fixed spatial and channel extents in {what}, got {shape}"))
            .help("only the first axis of a convolution's input may depend on the batch size")
    })
}

fn infer_conv(g: &ConvGeometry, x: &Shape, w: &Shape) -> Result<Shape, RuleError> {
    let n = g.stride.len();
    let x_ext = spatial_and_channels("the input", x, n)?;
    let w_ext = w.as_fixed().filter(|e| e.len() == n + 2);
    let w_ext = w_ext.ok_or_else(|| RuleError::new(format!("need a weight of rank {}, got {w}", n + 2)))?;
    let (c_in, c_out) = (x_ext[n], w_ext[n + 1]);
    if g.groups == 0 || w_ext[n] * g.groups != c_in || !c_out.is_multiple_of(g.groups) {
        return Err(RuleError::new(format!(
            "need {} input channels ({} per group in {} groups), got {c_in}",
            w_ext[n] * g.groups,
            w_ext[n],
            g.groups
        )));
    }
    let mut shape = vec![x.0[0]];
    for i in 0..n {
        let out = g.out_extent(i, x_ext[i], w_ext[i]).ok_or_else(|| {
            RuleError::new(format!(
                "a window of {} with dilation {} does not fit spatial axis {i}: {} elements and {} of padding",
                w_ext[i],
                g.dilation[i],
                x_ext[i],
                g.pad_lo[i] + g.pad_hi[i]
            ))
        })?;
        shape.push(Dim::fixed(out));
    }
    shape.push(Dim::fixed(c_out));
    Ok(Shape(shape))
}

fn infer_input_grad(g: &ConvGeometry, input: &[usize], d_y: &Shape, w: &Shape) -> Result<Shape, RuleError> {
    let n = g.stride.len();
    let y_ext = spatial_and_channels("the output gradient", d_y, n)?;
    let w_ext = w.as_fixed().filter(|e| e.len() == n + 2);
    let w_ext = w_ext.ok_or_else(|| RuleError::new(format!("need a weight of rank {}, got {w}", n + 2)))?;
    let fits = (0..n).all(|i| g.out_extent(i, input[i], w_ext[i]) == Some(y_ext[i])) && y_ext[n] == w_ext[n + 1];
    if !fits {
        return Err(RuleError::new(format!(
            "the output gradient {d_y} does not belong to input {input:?} and weight {w}"
        )));
    }
    let mut shape = vec![d_y.0[0]];
    shape.extend(input.iter().map(|&e| Dim::fixed(e)));
    shape.push(Dim::fixed(w_ext[n] * g.groups));
    Ok(Shape(shape))
}

fn infer_weight_grad(g: &ConvGeometry, kernel: &[usize], x: &Shape, d_y: &Shape) -> Result<Shape, RuleError> {
    let n = g.stride.len();
    let x_ext = spatial_and_channels("the input", x, n)?;
    let y_ext = spatial_and_channels("the output gradient", d_y, n)?;
    let fits = (0..n).all(|i| g.out_extent(i, x_ext[i], kernel[i]) == Some(y_ext[i])) && x.0[0] == d_y.0[0];
    if !fits {
        return Err(RuleError::new(format!(
            "the output gradient {d_y} does not belong to input {x} and kernel {kernel:?}"
        )));
    }
    let mut shape: Vec<Dim> = kernel.iter().map(|&e| Dim::fixed(e)).collect();
    shape.extend([Dim::fixed(x_ext[n] / g.groups), Dim::fixed(y_ext[n])]);
    Ok(Shape(shape))
}

fn eval_matmul(a: &Value, b: &Value, out: &mut [f64]) {
    let r = a.shape.len();
    let (m, k, n) = (a.shape[r - 2], a.shape[r - 1], b.shape[r - 1]);
    let batch: usize = a.shape[..r - 2].iter().product();
    for row in 0..batch * m {
        for col in 0..n {
            let rhs = (row / m) * k * n + col;
            out[row * n + col] = (0..k).map(|i| a.data[row * k + i] * b.data[rhs + i * n]).sum();
        }
    }
}

/// Calls `visit` with the places in x, w and y of each product that a convolution adds: `y += x·w`. Shapes as in [`Contract::Conv`].
fn each_tap(g: &ConvGeometry, [x, w, y]: [&[usize]; 3], mut visit: impl FnMut(usize, usize, usize)) {
    let n = g.stride.len();
    let (c_group, c_out) = (w[n], w[n + 1]);
    let x_steps = strides(x);
    each_index(y, |y_place, y_index| {
        let group = y_index[n + 1] / (c_out / g.groups);
        each_index(&w[..=n], |w_row, w_index| {
            let mut x_place = y_index[0] * x_steps[0] + group * c_group + w_index[n];
            for i in 0..n {
                let padded = y_index[i + 1] * g.stride[i] + w_index[i] * g.dilation[i];
                match padded.checked_sub(g.pad_lo[i]) {
                    Some(at) if at < x[i + 1] => x_place += at * x_steps[i + 1],
                    _ => return,
                }
            }
            visit(x_place, w_row * c_out + y_index[n + 1], y_place);
        });
    });
}

/// The rows that test this family: see [`crate::cases`].
#[cfg(any(test, feature = "cases"))]
pub(crate) fn cases() -> Vec<crate::ir::case::Case> {
    use crate::ir::Batch;
    use crate::ir::case::{floats, flows};
    fn strided() -> ConvGeometry {
        geometry([2, 2], [1, 1], [1, 0], [1, 1], 1)
    }
    fn dilated_groups() -> ConvGeometry {
        geometry([1, 2], [2, 1], [1, 1], [2, 1], 2)
    }
    fn geometry<const N: usize>(
        stride: [usize; N],
        pad_lo: [usize; N],
        pad_hi: [usize; N],
        dilation: [usize; N],
        groups: usize,
    ) -> ConvGeometry {
        let [stride, pad_lo, pad_hi, dilation] = [stride, pad_lo, pad_hi, dilation].map(|a| a.to_vec());
        ConvGeometry { stride, pad_lo, pad_hi, dilation, groups }
    }
    vec![
        flows("matmul", "dense layer", [floats((Batch, 4)), floats([4, 3])], |_, x| matmul(&x[0], &x[1])),
        flows("matmul", "batch is k", [floats((2, Batch)), floats((Batch, 3))], |_, x| matmul(&x[0], &x[1])),
        flows("matmul", "transposed operands", [floats([4, 3]), floats((Batch, 4))], |_, x| {
            matmul(&transpose(&x[0]), &transpose(&x[1]))
        }),
        flows("matmul", "heads", [floats((Batch, 2, 3, 4)), floats((Batch, 2, 4, 2))], |_, x| matmul(&x[0], &x[1])),
        flows("matmul", "larger than a tile", [floats([21, 35]), floats([35, 18])], |_, x| matmul(&x[0], &x[1])),
        flows("conv", "1x1", [floats((Batch, 2, 2, 3)), floats([1, 1, 3, 4])], |_, x| {
            x[0].apply(Contract::Conv(geometry([1, 1], [0, 0], [0, 0], [1, 1], 1)), &[&x[1]])
        }),
        flows("conv", "3x3, stride 2, uneven padding", [floats((Batch, 5, 6, 2)), floats([3, 3, 2, 3])], |_, x| {
            x[0].apply(Contract::Conv(strided()), &[&x[1]])
        }),
        flows("conv", "dilation, two groups", [floats((Batch, 5, 4, 4)), floats([2, 3, 2, 4])], |_, x| {
            x[0].apply(Contract::Conv(dilated_groups()), &[&x[1]])
        }),
        flows("conv", "depthwise", [floats((Batch, 4, 4, 3)), floats([3, 3, 1, 3])], |_, x| {
            x[0].apply(Contract::Conv(geometry([1, 1], [1, 1], [1, 1], [1, 1], 3)), &[&x[1]])
        }),
        flows("conv", "one axis", [floats((Batch, 9, 2)), floats([3, 2, 2])], |_, x| {
            x[0].apply(Contract::Conv(geometry([2], [2], [1], [2], 1)), &[&x[1]])
        }),
        flows("conv", "three axes", [floats((Batch, 3, 3, 4, 2)), floats([2, 2, 3, 2, 2])], |_, x| {
            x[0].apply(Contract::Conv(geometry([1, 2, 1], [0, 1, 1], [0, 0, 1], [1, 1, 1], 1)), &[&x[1]])
        }),
        // The last row and column of the input are under no window: their gradient is zero.
        flows("conv", "stride leaves a rest", [floats((Batch, 6, 6, 1)), floats([3, 3, 1, 2])], |_, x| {
            x[0].apply(Contract::Conv(geometry([2, 2], [0, 0], [0, 0], [1, 1], 1)), &[&x[1]])
        }),
        flows("conv_input_grad", "stride 2", [floats((Batch, 3, 3, 3)), floats([3, 3, 2, 3])], |_, x| {
            x[0].apply(Contract::ConvInputGrad { geometry: strided(), input: vec![5, 6] }, &[&x[1]])
        }),
        flows("conv_input_grad", "dilation, two groups", [floats((Batch, 6, 2, 4)), floats([2, 3, 2, 4])], |_, x| {
            x[0].apply(Contract::ConvInputGrad { geometry: dilated_groups(), input: vec![5, 4] }, &[&x[1]])
        }),
        flows("conv_weight_grad", "stride 2", [floats((Batch, 5, 6, 2)), floats((Batch, 3, 3, 3))], |_, x| {
            x[0].apply(Contract::ConvWeightGrad { geometry: strided(), kernel: vec![3, 3] }, &[&x[1]])
        }),
        flows(
            "conv_weight_grad",
            "dilation, two groups",
            [floats((Batch, 5, 4, 4)), floats((Batch, 6, 2, 4))],
            |_, x| x[0].apply(Contract::ConvWeightGrad { geometry: dilated_groups(), kernel: vec![2, 3] }, &[&x[1]]),
        ),
    ]
}
