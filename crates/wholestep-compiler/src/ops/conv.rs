//! Convolutions in PyTorch's order. Takes activations `[N, C, d..]` and weights `[C_out, C_in/groups, k..]`, gives `[N, C_out, out..]`: the
//! primitives are channels-last, so permutations stand around them, which passes cancel between layers. Never unfolds patches.

use super::{Traced, refuse, settle};
use crate::ir::op::{Contract, ConvGeometry};
use crate::ir::{Shape, Tensor};

/// Zeros around the input of a convolution over N spatial axes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Padding<const N: usize> {
    /// Before and after each axis.
    Explicit([(usize, usize); N]),
    /// As many as keep the extent at stride 1; an odd one goes to the end, as in PyTorch's `padding="same"`.
    Same,
}

impl<const N: usize> Padding<N> {
    /// `n` zeros at every end.
    pub fn all(n: usize) -> Padding<N> {
        Padding::Explicit([(n, n); N])
    }
}

/// Options of a convolution over N spatial axes. The default is stride 1, no padding, no dilation, one group.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ConvOptions<const N: usize> {
    /// How far the window moves, at least 1.
    pub stride: [usize; N],
    /// Zeros around the input.
    pub padding: Padding<N>,
    /// The distance between taps of the kernel, at least 1.
    pub dilation: [usize; N],
    /// Groups of channels that do not see each other; divides both channel counts.
    pub groups: usize,
}

impl<const N: usize> Default for ConvOptions<N> {
    fn default() -> ConvOptions<N> {
        ConvOptions { stride: [1; N], padding: Padding::all(0), dilation: [1; N], groups: 1 }
    }
}

/// Options of a transposed convolution over N spatial axes: `out = (in - 1)·stride - lo - hi + dilation·(k - 1) + output_padding + 1`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ConvTransposeOptions<const N: usize> {
    /// How far apart the input's elements land in the result, at least 1.
    pub stride: [usize; N],
    /// What is cut from both ends of each axis of the result.
    pub padding: [(usize, usize); N],
    /// Added to the end of each axis of the result; less than stride or dilation.
    pub output_padding: [usize; N],
    /// The distance between taps of the kernel, at least 1.
    pub dilation: [usize; N],
    /// Groups of channels that do not see each other; divides both channel counts.
    pub groups: usize,
}

impl<const N: usize> Default for ConvTransposeOptions<N> {
    fn default() -> ConvTransposeOptions<N> {
        ConvTransposeOptions {
            stride: [1; N],
            padding: [(0, 0); N],
            output_padding: [0; N],
            dilation: [1; N],
            groups: 1,
        }
    }
}

impl Tensor {
    /// Convolution: x `[N, C, L]`, w `[O, C/groups, k]`, bias `[O]` -> `[N, O, out]`. Matches PyTorch `conv1d`.
    #[track_caller]
    pub fn conv1d(&self, w: &Tensor, bias: Option<&Tensor>, options: &ConvOptions<1>) -> Tensor {
        settle(conv("conv1d", self, w, bias, options))
    }

    /// Convolution: x `[N, C, H, W]`, w `[O, C/groups, kh, kw]`, bias `[O]` -> `[N, O, out_h, out_w]`. Matches PyTorch `conv2d`.
    #[track_caller]
    pub fn conv2d(&self, w: &Tensor, bias: Option<&Tensor>, options: &ConvOptions<2>) -> Tensor {
        settle(conv("conv2d", self, w, bias, options))
    }

    /// Convolution: x `[N, C, D, H, W]`, w `[O, C/groups, kd, kh, kw]`, bias `[O]` -> `[N, O, out..]`. Matches PyTorch `conv3d`.
    #[track_caller]
    pub fn conv3d(&self, w: &Tensor, bias: Option<&Tensor>, options: &ConvOptions<3>) -> Tensor {
        settle(conv("conv3d", self, w, bias, options))
    }

    /// The adjoint of a convolution: x `[N, C, L]`, w `[C, O/groups, k]`, bias `[O]` -> `[N, O, out]`. Matches PyTorch
    /// `conv_transpose1d`.
    #[track_caller]
    pub fn conv_transpose1d(&self, w: &Tensor, bias: Option<&Tensor>, options: &ConvTransposeOptions<1>) -> Tensor {
        settle(conv_transpose("conv_transpose1d", self, w, bias, options))
    }

    /// The adjoint of a convolution: x `[N, C, H, W]`, w `[C, O/groups, kh, kw]`, bias `[O]` -> `[N, O, out_h, out_w]`. Matches PyTorch
    /// `conv_transpose2d`.
    #[track_caller]
    pub fn conv_transpose2d(&self, w: &Tensor, bias: Option<&Tensor>, options: &ConvTransposeOptions<2>) -> Tensor {
        settle(conv_transpose("conv_transpose2d", self, w, bias, options))
    }

    /// The adjoint of a convolution: x `[N, C, D, H, W]`, w `[C, O/groups, k..]`, bias `[O]` -> `[N, O, out..]`. Matches PyTorch
    /// `conv_transpose3d`.
    #[track_caller]
    pub fn conv_transpose3d(&self, w: &Tensor, bias: Option<&Tensor>, options: &ConvTransposeOptions<3>) -> Tensor {
        settle(conv_transpose("conv_transpose3d", self, w, bias, options))
    }

    /// `[N, C, d..]` as `[N, d.., C]`.
    #[track_caller]
    pub(crate) fn channels_last(&self) -> Tensor {
        let rank = self.rank();
        if rank < 3 {
            return self.clone();
        }
        let mut perm: Vec<usize> = (0..rank).filter(|&axis| axis != 1).collect();
        perm.push(1);
        self.permuted(perm)
    }

    /// `[N, d.., C]` as `[N, C, d..]`.
    #[track_caller]
    pub(crate) fn channels_second(&self) -> Tensor {
        let rank = self.rank();
        if rank < 3 {
            return self.clone();
        }
        let mut perm = vec![0, rank - 1];
        perm.extend(1..rank - 1);
        self.permuted(perm)
    }
}

/// The weight's extents `[first, second, k..]`, once x and w have the ranks of a convolution over N axes.
#[track_caller]
fn weight_extents<const N: usize>(what: &str, x: &Tensor, w: &Tensor, order: &str) -> Result<Vec<usize>, Tensor> {
    let extents = w.shape().as_fixed().filter(|e| e.len() == N + 2 && x.rank() == N + 2);
    match extents {
        Some(extents) => Ok(extents),
        None => {
            let message =
                format!("need x [N, C, ..] and w {order}, both of rank {}, got {} and {}", N + 2, x.shape(), w.shape());
            Err(refuse(what, &[x, w], message, None))
        }
    }
}

/// Refuses options that no convolution can have.
#[track_caller]
fn check_steps<const N: usize>(
    what: &str,
    x: &Tensor,
    stride: [usize; N],
    dilation: [usize; N],
    groups: usize,
) -> Result<(), Tensor> {
    if groups > 0 && stride.iter().chain(&dilation).all(|&n| n > 0) {
        return Ok(());
    }
    let message = format!("need stride, dilation and groups of at least 1, got {stride:?}, {dilation:?} and {groups}");
    Err(refuse(what, &[x], message, None))
}

#[track_caller]
fn conv<const N: usize>(what: &str, x: &Tensor, w: &Tensor, bias: Option<&Tensor>, o: &ConvOptions<N>) -> Traced {
    let extents = weight_extents::<N>(what, x, w, "[C_out, C_in/groups, k..]")?;
    check_steps(what, x, o.stride, o.dilation, o.groups)?;
    let (c_out, c_in) = (extents[0], extents[1] * o.groups);
    let c = x.shape().0[1];
    if c.as_fixed() != Some(c_in) || !c_out.is_multiple_of(o.groups) {
        let message = format!(
            "need {c_in} input channels ({} per group, groups: {}) and output channels that the groups divide, got {c} and {c_out}",
            extents[1], o.groups
        );
        let last = x.shape().0[N + 1].as_fixed() == Some(c_in);
        let help = last.then(|| "x is [N, C, ..]; channels that come last are moved with .permute(…)".to_string());
        return Err(refuse(what, &[x, w], message, help));
    }
    let padding = match o.padding {
        Padding::Explicit(padding) => padding,
        Padding::Same if o.stride.iter().any(|&s| s != 1) => {
            let help = "give the padding of each axis".to_string();
            let message = format!("`same` padding needs stride 1, got {:?}", o.stride);
            return Err(refuse(what, &[x, w], message, Some(help)));
        }
        Padding::Same => std::array::from_fn(|i| {
            let total = o.dilation[i] * extents[i + 2].saturating_sub(1);
            (total / 2, total - total / 2)
        }),
    };
    let geometry = ConvGeometry {
        stride: o.stride.to_vec(),
        pad_lo: padding.iter().map(|p| p.0).collect(),
        pad_hi: padding.iter().map(|p| p.1).collect(),
        dilation: o.dilation.to_vec(),
        groups: o.groups,
    };
    // [O, I, k..] -> [k.., I, O]
    let mut perm: Vec<usize> = (2..N + 2).collect();
    perm.extend([1, 0]);
    let y = x.channels_last().apply(Contract::Conv(geometry), &[&w.permuted(perm)]);
    Ok(biased(what, y, bias, c_out)?.channels_second())
}

#[track_caller]
fn conv_transpose<const N: usize>(
    what: &str,
    x: &Tensor,
    w: &Tensor,
    bias: Option<&Tensor>,
    o: &ConvTransposeOptions<N>,
) -> Traced {
    let extents = weight_extents::<N>(what, x, w, "[C_in, C_out/groups, k..]")?;
    check_steps(what, x, o.stride, o.dilation, o.groups)?;
    let shape = x.shape();
    let (c_in, c_out) = (extents[0], extents[1] * o.groups);
    if shape.0[1].as_fixed() != Some(c_in) || !c_in.is_multiple_of(o.groups) {
        let message = format!("need {c_in} input channels that divide into {} groups, got {}", o.groups, shape.0[1]);
        return Err(refuse(what, &[x, w], message, None));
    }
    let Some(input) = Shape(shape.0[2..].to_vec()).as_fixed() else {
        let message = format!("need fixed spatial extents, got {shape}");
        let help = "only the first axis of a convolution's input may depend on the batch size".to_string();
        return Err(refuse(what, &[x, w], message, Some(help)));
    };
    let (mut pad_hi, mut beyond, mut out) = (vec![0; N], vec![0; N], vec![0; N]);
    for i in 0..N {
        let ((lo, hi), extra) = (o.padding[i], o.output_padding[i]);
        if extra >= o.stride[i].max(o.dilation[i]) {
            let message = format!("need output padding less than stride or dilation, got {extra} at spatial axis {i}");
            return Err(refuse(what, &[x, w], message, None));
        }
        // Output padding takes back what the padding cut from the end; what it adds beyond that is zeros.
        pad_hi[i] = hi.saturating_sub(extra);
        beyond[i] = extra.saturating_sub(hi);
        let span = o.dilation[i] * extents[i + 2].saturating_sub(1) + 1;
        let full = input[i].saturating_sub(1) * o.stride[i] + span;
        match full.checked_sub(lo + pad_hi[i]).filter(|&n| n > 0 && input[i] > 0) {
            Some(n) => out[i] = n,
            None => {
                let message = format!("a padding of {lo} and {hi} leaves nothing of the {full} elements of axis {i}");
                return Err(refuse(what, &[x, w], message, None));
            }
        }
    }
    let geometry = ConvGeometry {
        stride: o.stride.to_vec(),
        pad_lo: o.padding.iter().map(|p| p.0).collect(),
        pad_hi,
        dilation: o.dilation.to_vec(),
        groups: o.groups,
    };
    // [C_in, C_out/groups, k..] -> [k.., C_out/groups, C_in]: the weight of the convolution from the result to x.
    let mut perm: Vec<usize> = (2..N + 2).collect();
    perm.extend([1, 0]);
    let op = Contract::ConvInputGrad { geometry, input: out };
    let y = x.channels_last().apply(op, &[&w.permuted(perm)]);
    let mut pairs: Vec<(usize, usize)> = beyond.iter().map(|&n| (0, n)).collect();
    pairs.push((0, 0));
    Ok(biased(what, y.pad(&pairs, 0.0), bias, c_out)?.channels_second())
}

/// y `[N, out.., C]` plus a bias `[C]`, added while channels are last: an epilogue of the contraction.
#[track_caller]
fn biased(what: &str, y: Tensor, bias: Option<&Tensor>, c: usize) -> Traced {
    let Some(bias) = bias else { return Ok(y) };
    if bias.shape() != Shape::from([c]) {
        let message = format!("need a bias [{c}], got {}", bias.shape());
        return Err(refuse(what, &[&y, bias], message, None));
    }
    Ok(y + bias)
}
