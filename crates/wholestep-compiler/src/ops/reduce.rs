//! Reductions and scans. Takes a tensor and axes, gives a tensor without those axes (or, with `_keepdim`, with extent 1 there).
//! Never assumes a fixed batch: a mean over it divides by its symbolic extent.

use super::{Axes, Traced, as_declared, one_axis_more, refuse, settle};
use crate::ir::op::{Movement, Op, Reduce};
use crate::ir::{DType, Dim, Graph, NodeId, Shape, Tensor};
use std::collections::BTreeSet;

// `name` drops the reduced axes, `name_keepdim` keeps them with extent 1; `inner` computes the latter from checked axes.
macro_rules! reductions {
    ($($(#[$doc:meta])* $name:ident, $keepdim:ident, $inner:ident $(, $arg:ident: $ty:ty)*;)+) => {
        impl Tensor {
            $($(#[$doc])*
            #[track_caller]
            pub fn $name(&self, axes: impl Into<Axes> $(, $arg: $ty)*) -> Tensor {
                match self.axes_of(stringify!($name), axes.into()) {
                    Ok(axes) => settle($inner(self, &axes $(, $arg)*)).without(&axes),
                    Err(placeholder) => placeholder,
                }
            }

            #[doc = concat!("[`Tensor::", stringify!($name), "`] whose reduced axes stay with extent 1.")]
            #[track_caller]
            pub fn $keepdim(&self, axes: impl Into<Axes> $(, $arg: $ty)*) -> Tensor {
                match self.axes_of(stringify!($name), axes.into()) {
                    Ok(axes) => settle($inner(self, &axes $(, $arg)*)),
                    Err(placeholder) => placeholder,
                }
            })+
        }
    };
}
reductions! {
    /// `Σ x` over `axes`, which are dropped. Matches PyTorch `sum`.
    sum, sum_keepdim, sum_of;
    /// `Σ x / n` over `axes`, which are dropped; n may depend on the batch size. Matches PyTorch `mean`.
    mean, mean_keepdim, mean_of;
    /// The largest element over `axes`, which are dropped; NaN if any is; ties share the gradient. Matches PyTorch `amax`.
    max, max_keepdim, max_of;
    /// The smallest element over `axes`, which are dropped; NaN if any is; ties share the gradient. Matches PyTorch `amin`.
    min, min_keepdim, min_of;
    /// The i32 position of the first largest element along one axis, or in row-major order over all (`..`). Matches PyTorch `argmax`.
    argmax, argmax_keepdim, argmax_of;
    /// The i32 position of the first smallest element along one axis, or in row-major order over all (`..`). Matches PyTorch `argmin`.
    argmin, argmin_keepdim, argmin_of;
    /// `Σ (x - mean)² / (n - correction)` over `axes`, which are dropped. Matches PyTorch `var` (whose default correction is 1).
    var, var_keepdim, var_of, correction: usize;
    /// `√var`, with gradient 0 where it is 0. Matches PyTorch `std` (whose default correction is 1).
    std, std_keepdim, std_of, correction: usize;
    /// `ln Σ e^x` over `axes`, which are dropped, without overflow. Matches PyTorch `logsumexp`.
    logsumexp, logsumexp_keepdim, logsumexp_of;
    /// `√(Σ x²)` over `axes`, which are dropped, with gradient 0 where it is 0. Matches PyTorch `linalg.vector_norm`.
    norm, norm_keepdim, norm_of;
    /// `(Σ |x|^p)^(1/p)` over `axes`, which are dropped; `p` may be infinite. Matches PyTorch `linalg.vector_norm(ord=p)`.
    norm_p, norm_p_keepdim, norm_p_of, p: f64;
    /// `Π x` over fixed `axes`, which are dropped; the gradient is right at zeros. Matches PyTorch `prod`.
    prod, prod_keepdim, prod_of;
    /// Whether any bool is true over `axes`, which are dropped. Matches PyTorch `any`.
    any, any_keepdim, any_of;
    /// Whether all bools are true over `axes`, which are dropped. Matches PyTorch `all`.
    all, all_keepdim, all_of;
}

impl Tensor {
    /// Running sum along `axis`; the shape stays. Matches PyTorch `cumsum`.
    #[track_caller]
    pub fn cumsum(&self, axis: i64) -> Tensor {
        match self.axis_of("cumsum", axis) {
            Ok(axis) => self.apply(Reduce::CumSum { axis, reverse: false }, &[]),
            Err(placeholder) => placeholder,
        }
    }

    /// Running product along a fixed `axis`; the shape stays; the gradient is right at zeros. Matches PyTorch `cumprod`.
    #[track_caller]
    pub fn cumprod(&self, axis: i64) -> Tensor {
        settle(self.cumprod_of(axis))
    }

    #[track_caller]
    fn cumprod_of(&self, axis: i64) -> Traced {
        let axis = self.axis_of("cumprod", axis)?;
        let len = self.fixed_extent("cumprod", axis)?;
        // Doubling: after round k each element is the product of the 2^k elements that end at it. Products alone, never a division, so
        // zeros need no special case.
        let (mut product, mut reach) = (self.clone(), 1);
        while reach < len {
            let earlier = product.narrowed(axis, Dim::ZERO, Dim::fixed(len - reach)).padded(axis, reach, 0, 1.0);
            product = product * earlier;
            reach *= 2;
        }
        Ok(product)
    }

    /// This tensor without `axes` (ascending), each of which has extent 1.
    #[track_caller]
    pub(crate) fn without(&self, axes: &[usize]) -> Tensor {
        let shape = self.shape();
        let left = shape.0.iter().enumerate().filter(|(i, _)| !axes.contains(i)).map(|(_, d)| *d);
        self.reshaped(&Shape(left.collect()))
    }

    /// How many elements `axes` hold together.
    #[track_caller]
    pub(crate) fn count(&self, what: &str, axes: &[usize]) -> Result<Dim, Tensor> {
        let shape = self.shape();
        let count = axes.iter().try_fold(Dim::ONE, |n, &axis| n.times(shape.0[axis]));
        match count {
            Some(count) => Ok(count),
            None => {
                let way = "reduce one batch axis after the other, or ask for a fixed batch size";
                let help = match rows_beside_column(self) {
                    Some(met) => format!("{met}; if all pairs are meant, {way}"),
                    None => way.to_string(),
                };
                let message = format!("the axes {axes:?} of {shape} hold B² elements, and a count can only be a·B + b");
                Err(refuse(what, &[self], message, Some(help)))
            }
        }
    }

    /// The extent of an axis that must not depend on the batch size.
    #[track_caller]
    pub(crate) fn fixed_extent(&self, what: &str, axis: usize) -> Result<usize, Tensor> {
        let shape = self.shape();
        match shape.0.get(axis).and_then(|d| d.as_fixed()) {
            Some(n) => Ok(n),
            None => {
                let message = format!("need a fixed extent at axis {axis}, got {shape}");
                let help = "ask for a fixed batch size, or move the batch to another axis".to_string();
                Err(refuse(what, &[self], message, Some(help)))
            }
        }
    }
}

/// "did [B, 1] meet [B]? …" where x is made of two values that broadcasting paired, each row of one with each row of the other.
fn rows_beside_column(x: &Tensor) -> Option<String> {
    let graph = x.graph().borrow();
    let paired = &graph.node(x.id()).shape;
    let (mut next, mut seen) = (vec![x.id()], BTreeSet::new());
    while let Some(id) = next.pop() {
        let node = graph.node(id);
        if node.shape != *paired || !matches!(node.op, Op::Elementwise(_)) || !seen.insert(id) {
            continue;
        }
        let operands: Vec<&Shape> = node.inputs.iter().map(|&id| before_broadcast(&graph, id)).collect();
        for (column, rows) in operands.iter().flat_map(|a| operands.iter().map(move |b| (*a, *b))) {
            if let Some(axis) = one_axis_more(column, rows).filter(|_| column != paired && rows != paired) {
                let (op, at) = (node.op.name(), graph.position(node.scope, node.loc));
                let declared = as_declared(column);
                let way = format!("declare the target {declared}, or take the axis off the other by .squeeze({axis})");
                return Some(format!("did {column} meet {rows}? {op} at {at} paired their rows: {way}"));
            }
        }
        next.extend(&node.inputs);
    }
    None
}

/// The shape of a value before it was broadcast.
fn before_broadcast(graph: &Graph, id: NodeId) -> &Shape {
    let behind = |id: NodeId, is_one: fn(&Op) -> bool| {
        let node = graph.node(id);
        if is_one(&node.op) { node.inputs[0] } else { id }
    };
    let narrow = behind(id, |op| matches!(op, Op::Movement(Movement::Broadcast { .. })));
    let own = behind(narrow, |op| matches!(op, Op::Movement(Movement::Reshape { .. })));
    let (wide, own) = (&graph.node(narrow).shape, &graph.node(own).shape);
    // Broadcasting puts axes of extent 1 in front.
    let is_lifted = wide.0.strip_suffix(own.dims()).is_some_and(|ones| ones.iter().all(|d| *d == Dim::ONE));
    if is_lifted && narrow != id { own } else { wide }
}

#[track_caller]
fn sum_of(x: &Tensor, axes: &[usize]) -> Traced {
    Ok(if axes.is_empty() { x.clone() } else { x.apply(Reduce::Sum { axes: axes.to_vec() }, &[]) })
}

#[track_caller]
fn mean_of(x: &Tensor, axes: &[usize]) -> Traced {
    x.float_or("mean")?;
    let count = x.count("mean", axes)?;
    Ok(sum_of(x, axes)? / x.extent_beside(count))
}

#[track_caller]
fn max_of(x: &Tensor, axes: &[usize]) -> Traced {
    Ok(if axes.is_empty() { x.clone() } else { x.apply(Reduce::Max { axes: axes.to_vec() }, &[]) })
}

#[track_caller]
fn min_of(x: &Tensor, axes: &[usize]) -> Traced {
    Ok(if axes.is_empty() { x.clone() } else { x.apply(Reduce::Min { axes: axes.to_vec() }, &[]) })
}

#[track_caller]
fn argmax_of(x: &Tensor, axes: &[usize]) -> Traced {
    if let [axis] = axes {
        return Ok(x.apply(Reduce::ArgMax { axis: *axis }, &[]));
    }
    if axes.len() != x.rank() {
        let help = "name one axis, or all with `..`".to_string();
        return Err(refuse("argmax", &[x], format!("need one axis or all, got {axes:?}"), Some(help)));
    }
    let count = x.count("argmax", axes)?;
    let flat = x.reshaped(&Shape(vec![count])).apply(Reduce::ArgMax { axis: 0 }, &[]);
    Ok(flat.reshaped(&Shape(vec![Dim::ONE; axes.len()])))
}

#[track_caller]
fn argmin_of(x: &Tensor, axes: &[usize]) -> Traced {
    let all_ones = match x.dtype() {
        DType::F64 | DType::F32 | DType::F16 | DType::BF16 | DType::Bool => return argmax_of(&-x, axes),
        DType::I64 | DType::I32 => -1.0,
        DType::U32 => f64::from(u32::MAX),
        DType::U8 => 255.0,
    };
    // Flipping all bits reverses the order of whole numbers without the overflow that negating the smallest one has.
    argmax_of(&x.xor(all_ones), axes)
}

#[track_caller]
fn var_of(x: &Tensor, axes: &[usize], correction: usize) -> Traced {
    x.float_or("var")?;
    let count = x.count("var", axes)?;
    let centered = x - mean_of(x, axes)?;
    Ok(sum_of(&centered.square(), axes)? / x.extent_beside(count - Dim::fixed(correction)))
}

#[track_caller]
fn std_of(x: &Tensor, axes: &[usize], correction: usize) -> Traced {
    Ok(root(&var_of(x, axes, correction)?))
}

/// `√x` whose gradient at 0 is 0: the inner select keeps the infinite slope out of the gradient, the outer one gives the value.
#[track_caller]
fn root(x: &Tensor) -> Tensor {
    let zero = x.equal(0.0);
    zero.select(0.0, zero.select(1.0, x).sqrt())
}

#[track_caller]
fn logsumexp_of(x: &Tensor, axes: &[usize]) -> Traced {
    x.float_or("logsumexp")?;
    let peak = max_of(x, axes)?.detach();
    // An infinite peak is not subtracted: inf - inf would turn a row of -inf into NaN.
    let limit = match x.dtype() {
        DType::F64 => f64::MAX,
        DType::F16 => 65504.0,
        DType::BF16 => f64::from_bits(0x47EF_E000_0000_0000), // (2 - 2^-7)·2^127
        DType::F32 | DType::I64 | DType::I32 | DType::U32 | DType::U8 | DType::Bool => f64::from(f32::MAX),
    };
    let shift = peak.abs().less_equal(limit).select(&peak, 0.0);
    Ok(sum_of(&(x - &shift).exp(), axes)?.log() + shift)
}

#[track_caller]
fn norm_of(x: &Tensor, axes: &[usize]) -> Traced {
    x.float_or("norm")?;
    Ok(root(&sum_of(&x.square(), axes)?))
}

#[track_caller]
fn norm_p_of(x: &Tensor, axes: &[usize], p: f64) -> Traced {
    x.float_or("norm_p")?;
    if p == 2.0 {
        return norm_of(x, axes);
    }
    if p == 1.0 {
        return sum_of(&x.abs(), axes);
    }
    if p == f64::INFINITY {
        return max_of(&x.abs(), axes);
    }
    if p <= 0.0 || p.is_nan() {
        let help = "the count of non-zeros is x.not_equal(0.0).cast(DType::F32).sum(..)".to_string();
        return Err(refuse("norm_p", &[x], format!("need p > 0, got {p}"), Some(help)));
    }
    let total = sum_of(&x.abs().pow(p), axes)?;
    let zero = total.equal(0.0);
    Ok(zero.select(0.0, zero.select(1.0, &total).pow(1.0 / p)))
}

#[track_caller]
fn prod_of(x: &Tensor, axes: &[usize]) -> Traced {
    let mut product = x.clone();
    for &axis in axes {
        let mut len = x.fixed_extent("prod", axis)?;
        if len == 0 {
            let message = format!("axis {axis} of {} has no elements", x.shape());
            return Err(refuse("prod", &[x], message, None));
        }
        // A tree of products: no division, so zeros need no special case.
        while len > 1 {
            let half = len / 2;
            let low = product.narrowed(axis, Dim::ZERO, Dim::fixed(half));
            let high = product.narrowed(axis, Dim::fixed(len - half), Dim::fixed(half));
            let joined = low * high;
            product = match len % 2 {
                0 => joined,
                _ => {
                    let middle = product.narrowed(axis, Dim::fixed(half), Dim::ONE);
                    joined.padded(axis, 0, 1, 1.0) * middle.padded(axis, half, 0, 1.0)
                }
            };
            len -= half;
        }
    }
    Ok(product)
}

#[track_caller]
fn any_of(x: &Tensor, axes: &[usize]) -> Traced {
    Ok(max_of(&x.cast(DType::I32), axes)?.not_equal(0.0))
}

#[track_caller]
fn all_of(x: &Tensor, axes: &[usize]) -> Traced {
    Ok(min_of(&x.not_equal(0.0).cast(DType::I32), axes)?.not_equal(0.0))
}
