//! Products of matrices and vectors. Takes tensors of any rank, gives what NumPy and PyTorch give. Never writes a product as
//! multiply-and-sum where a contraction does it.

mod einsum;

use super::{Traced, broadcast_shape, refuse, settle};
use crate::ir::op::Contract;
use crate::ir::{Dim, Shape, Tensor};

impl Tensor {
    /// Matrix product `[.., M, K]·[.., K, N] -> [.., M, N]`; leading axes broadcast, vectors are rows or columns. Matches PyTorch `matmul`.
    #[track_caller]
    pub fn matmul(&self, rhs: &Tensor) -> Tensor {
        settle(matmul(self, rhs))
    }

    /// `x·wᵀ + b`: `x [.., I]`, `w [O, I]`, `b [O]` -> `[.., O]`. Matches PyTorch `nn.functional.linear`.
    #[track_caller]
    pub fn linear(&self, w: &Tensor, b: Option<&Tensor>) -> Tensor {
        if w.rank() != 2 {
            let message = format!("need a weight [out, in], got {}", w.shape());
            return refuse("linear", &[self, w], message, None);
        }
        let (x, w_shape) = (self.shape(), w.shape());
        if x.0.last() != Some(&w_shape.0[1]) {
            let got = x.0.last().map_or("a scalar".to_string(), |d| d.to_string());
            let message = format!("need x.dim(-1) == w.dim(1), got {got} and {}", w_shape.0[1]);
            let help = format!("the weight {w_shape} is [out, in]");
            return refuse("linear", &[self, w], message, Some(help));
        }
        let y = self.matmul(&w.t());
        match b {
            Some(b) => y + b,
            None => y,
        }
    }

    /// `Σ x·y` of two vectors `[N]` -> scalar. Matches PyTorch `dot`.
    #[track_caller]
    pub fn dot(&self, rhs: &Tensor) -> Tensor {
        if self.rank() != 1 || rhs.rank() != 1 || self.shape() != rhs.shape() {
            let message = format!("need two vectors of one length, got {} and {}", self.shape(), rhs.shape());
            return refuse("dot", &[self, rhs], message, None);
        }
        (self * rhs).sum(0)
    }

    /// All products of the elements of two vectors: `[M]`, `[N]` -> `[M, N]`. Matches PyTorch `outer`.
    #[track_caller]
    pub fn outer(&self, rhs: &Tensor) -> Tensor {
        if self.rank() != 1 || rhs.rank() != 1 {
            let message = format!("need two vectors, got {} and {}", self.shape(), rhs.shape());
            return refuse("outer", &[self, rhs], message, None);
        }
        self.unsqueeze(1) * rhs.unsqueeze(0)
    }
}

#[track_caller]
fn matmul(a: &Tensor, b: &Tensor) -> Traced {
    let (ra, rb) = (a.rank(), b.rank());
    let (sa, sb) = (a.shape(), b.shape());
    if ra == 0 || rb == 0 {
        let help = "a scalar multiplies with `*`".to_string();
        return Err(refuse("matmul", &[a, b], format!("need vectors or matrices, got {sa} and {sb}"), Some(help)));
    }
    let (k_a, k_b) = (sa.0[ra - 1], sb.0[rb.saturating_sub(2)]);
    if k_a != k_b {
        let axis = if rb == 1 { "0" } else { "-2" };
        let message = format!("need lhs.dim(-1) == rhs.dim({axis}), got {k_a} and {k_b}");
        return Err(refuse("matmul", &[a, b], message, matmul_help(a, b)));
    }
    match (ra, rb) {
        (1, 1) => Ok((a * b).sum(0)),
        (1, _) => Ok(product(&a.unsqueeze(0), b)?.squeeze(-2)),
        (_, 1) => Ok(product(a, &b.unsqueeze(1))?.squeeze(-1)),
        (_, _) => product(a, b),
    }
}

/// What would make the inner extents agree, where one thing alone does.
fn matmul_help(a: &Tensor, b: &Tensor) -> Option<String> {
    let (sa, sb) = (a.shape(), b.shape());
    let last = sa.0.last();
    (b.rank() >= 2 && last == sb.0.last())
        .then(|| format!("rhs.transpose(-1, -2) fits; x.linear(&w, None) takes a weight [out, in] like {sb}"))
}

/// The product of two operands of rank 2 or more whose inner extents agree.
#[track_caller]
fn product(a: &Tensor, b: &Tensor) -> Traced {
    let (sa, sb) = (a.shape(), b.shape());
    if sa.rank() < 2 || sb.rank() < 2 {
        return Err(a.clone()); // the placeholder of an earlier error
    }
    let (la, lb) = (&sa.0[..sa.rank() - 2], &sb.0[..sb.rank() - 2]);
    if lb.is_empty() && !la.is_empty() {
        // One matrix for all rows: the leading axes join M, so that a Linear on [B, T, C] is one product.
        let rows = Shape(sa.0[..sa.rank() - 1].to_vec());
        if let Some(m) = rows.numel() {
            let (k, n) = (sb.0[0], sb.0[1]);
            let flat = a.reshaped(&Shape(vec![m, k])).apply(Contract::Matmul, &[b]);
            let mut shape = rows;
            shape.0.push(n);
            return Ok(flat.reshaped(&shape));
        }
    }
    let Some(leading) = broadcast_shape(&Shape(la.to_vec()), &Shape(lb.to_vec())) else {
        let message = format!("cannot broadcast the leading axes of {sa} with those of {sb}");
        let help = "aligned from the right, extents must be equal or 1".to_string();
        return Err(refuse("matmul", &[a, b], message, Some(help)));
    };
    let with = |leading: &Shape, own: &Shape| -> Shape {
        let matrix: &[Dim] = &own.0[own.rank() - 2..];
        Shape([leading.dims(), matrix].concat())
    };
    let (a, b) = (a.expanded(&with(&leading, &sa)), b.expanded(&with(&leading, &sb)));
    Ok(a.apply(Contract::Matmul, &[&b]))
}
