//! Products of matrices as a library makes them. Takes a contraction and a batch size, gives sizes, strides and where operands and result lie, if
//! the library can say it. Never calls the library.

use wholestep_compiler::ir::{DType, Dim};
use wholestep_compiler::kernel::{Contract, Contraction, ConvSizes, Instr, Loop, Map};

/// `result[o, b, i, j] = Σₖ lhs[o, b, i, k]·rhs[o, b, k, j]`; columns of the result are neighbours. Attention's heads lie between the rows of its batch, so
/// that two distances lead from matrix to matrix: a library takes one of them, and the other is that from call to call.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Product {
    /// How many calls it takes, unless the library is given the address of each matrix.
    pub outer: u64,
    /// Products of one call.
    pub batch: u64,
    pub m: u64,
    pub n: u64,
    pub k: u64,
    pub lhs: Matrix,
    pub rhs: Matrix,
    pub result: DType,
    /// From one result to the next, in elements: along `outer` and along `batch`.
    pub result_strides: [u64; 2],
    /// From one row of a result to the next.
    pub row_stride: u64,
    pub epilogue: Epilogue,
    /// Whether there are lists of the addresses of all matrices, so that it is one call.
    pub listed: bool,
    /// Whether operands of f32 may be rounded to 19 bits.
    pub tf32: bool,
}

/// What the library does with each sum before it rounds it. A bias has a number for each column, of the result's dtype.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Epilogue {
    None,
    Bias,
    /// The larger one of the sum with its bias and 0.
    BiasRelu,
    /// GELU of it by its tanh formula.
    BiasGelu,
    /// The same, and the sum with its bias is a result too.
    BiasGeluAux,
}

/// How an operand lies, in elements.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Matrix {
    pub dtype: DType,
    pub offset: u64,
    pub outer_stride: u64,
    pub batch_stride: u64,
    /// From one row to the next, or from one column to the next where `by_columns`.
    pub stride: u64,
    pub by_columns: bool,
}

/// Where the product of a contraction goes, and whether the epilogue has anything left to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Target {
    /// The argument that gets the result; `None` for sums that only the epilogue reads.
    pub arg: Option<usize>,
    pub dtype: DType,
    pub has_epilogue: bool,
}

/// What kernels of the library read at once.
const VECTOR_BYTES: u64 = 16;

/// Whether the library multiplies numbers of a dtype.
fn is_float(dtype: DType) -> bool {
    match dtype {
        DType::F32 | DType::F64 | DType::F16 | DType::BF16 => true,
        DType::I64 | DType::I32 | DType::U32 | DType::U8 | DType::Bool => false,
    }
}

impl Product {
    /// The product that a contraction is at a batch size; `None` where strides are not those of matrices.
    pub fn of(k: &Contract, batch: usize, tf32: bool) -> Option<Product> {
        let dtypes = [k.args[0].dtype, k.args[1].dtype];
        let (sums, result) = (k.dtype, target(k).dtype);
        let is_half = matches!(dtypes[0], DType::F16 | DType::BF16);
        let pairs = dtypes[0] == dtypes[1] && (dtypes[0] == sums || (is_half && sums == DType::F32));
        if !pairs || !is_float(sums) || (result != sums && result != dtypes[0]) {
            return None;
        }
        let (lead, extents, lhs, rhs) = match &k.contraction {
            Contraction::Matmul { batch, m, n, k, lhs, rhs } => (batch.clone(), [*m, *n, *k], lhs.clone(), rhs.clone()),
            Contraction::Conv(s) => pointwise(s, |x, y, pixels| ([pixels, y, x], [x, Dim::ONE], [y, Dim::ONE]))?,
            Contraction::ConvInputGrad(s) => {
                pointwise(s, |x, y, pixels| ([pixels, x, y], [y, Dim::ONE], [Dim::ONE, y]))?
            }
            Contraction::ConvWeightGrad(s) => {
                pointwise(s, |x, y, pixels| ([x, y, pixels], [Dim::ONE, x], [y, Dim::ONE]))?
            }
        };
        let [m, n, depth] = extents.map(|d| d.at(batch) as u64);
        let lead: Vec<u64> = lead.iter().map(|d| d.at(batch) as u64).collect();
        if lead.iter().chain([&m, &n, &depth]).any(|&d| d == 0) {
            return None;
        }
        let mut lhs = matrix(&lhs, lead.len(), [m, depth], batch, dtypes[0])?;
        let mut rhs = matrix(&rhs, lead.len(), [depth, n], batch, dtypes[1])?;
        let [outer, batch] = leading(&lead, &lhs.1, &rhs.1, m * n)?;
        for (i, operand) in [&mut lhs, &mut rhs].into_iter().enumerate() {
            (operand.0.outer_stride, operand.0.batch_stride) = (outer.strides[i], batch.strides[i]);
        }
        let tf32 = tf32 && sums == DType::F32 && !is_half;
        let result_strides = [outer.strides[2], batch.strides[2]];
        let (outer, batch) = (outer.count, batch.count);
        let (row_stride, epilogue) = (n, Epilogue::None);
        let (lhs, rhs, k) = (lhs.0, rhs.0, depth);
        let listed = false;
        Some(Product { outer, batch, m, n, k, lhs, rhs, result, result_strides, row_stride, epilogue, listed, tf32 })
    }

    /// Whether each call finds its matrices where the library's fast kernels can read them: it is not told where they begin, and takes them to be aligned.
    /// Only its kernels for plain f32 take any address.
    pub fn is_aligned(&self) -> bool {
        let is_whole =
            |dtype: DType, distance: u64| (distance * dtype.size_bytes() as u64).is_multiple_of(VECTOR_BYTES);
        let operands = [&self.lhs, &self.rhs].map(|m| (m.dtype, m.offset, [m.outer_stride, m.batch_stride]));
        let result = (self.result, 0, self.result_strides);
        (self.lhs.dtype == DType::F32 && !self.tf32)
            || operands.into_iter().chain([result]).all(|(dtype, offset, strides)| {
                is_whole(dtype, offset) && (self.outer == 1 || strides.iter().all(|&s| is_whole(dtype, s)))
            })
    }

    /// How many sums there are.
    pub fn n_sums(&self) -> u64 {
        self.outer * self.batch * self.m * self.n
    }

    /// The addresses of all matrices, where those of operands and result begin as given.
    pub fn addresses(&self, [lhs, rhs, result]: [u64; 3]) -> Vec<u64> {
        let operand = |m: &Matrix| (m.outer_stride, m.batch_stride, m.dtype);
        let [outer, batch] = self.result_strides;
        let each = [(lhs, operand(&self.lhs)), (rhs, operand(&self.rhs)), (result, (outer, batch, self.result))];
        let list = |(at, (outer, batch, dtype)): (u64, (u64, u64, DType))| {
            let of = move |o: u64, b: u64| at + (o * outer + b * batch) * dtype.size_bytes() as u64;
            (0..self.outer).flat_map(move |o| (0..self.batch).map(move |b| of(o, b)))
        };
        each.into_iter().flat_map(list).collect()
    }

    /// Elements of the operands from their first one on.
    pub fn reach(&self) -> [u64; 2] {
        let of = |m: &Matrix, [rows, columns]: [u64; 2]| {
            let (lines, length) = if m.by_columns { (columns, rows) } else { (rows, columns) };
            let before = (self.outer - 1) * m.outer_stride + (self.batch - 1) * m.batch_stride;
            before + (lines - 1) * m.stride + length
        };
        [of(&self.lhs, [self.m, self.k]), of(&self.rhs, [self.k, self.n])]
    }

    /// Bytes of the bias that its epilogue adds.
    pub fn bias_bytes(&self) -> u64 {
        let has_bias = self.epilogue != Epilogue::None;
        if has_bias { self.n * self.result.size_bytes() as u64 } else { 0 }
    }

    /// Multiply-adds.
    pub fn work(&self) -> f64 {
        self.n_sums() as f64 * self.k as f64
    }
}

/// A convolution that looks at single pixels, as the product over all of them; `of` gives extents and the strides of both operands.
fn pointwise(
    s: &ConvSizes,
    of: impl Fn(Dim, Dim, Dim) -> ([Dim; 3], [Dim; 2], [Dim; 2]),
) -> Option<(Vec<Dim>, [Dim; 3], Map, Map)> {
    if s.kernel.iter().any(|&n| n != 1)
        || s.input != s.out
        || s.geometry.groups != 1
        || s.geometry.pad_lo.iter().any(|&n| n > 0)
    {
        return None;
    }
    let pixels = s.n.times(Dim::fixed(s.input.iter().product()))?;
    let (extents, lhs, rhs) = of(Dim::fixed(s.c_in), Dim::fixed(s.c_out), pixels);
    let map = |strides: [Dim; 2]| Map { strides: strides.to_vec(), offset: Dim::ZERO, guards: Vec::new() };
    Some((Vec::new(), extents, map(lhs), map(rhs)))
}

/// The most calls of one product: each is a launch.
const MOST_CALLS: u64 = 64;

/// Products that lie at equal distances, with the distances of both operands and of the result.
#[derive(Clone, Copy)]
struct Axis {
    count: u64,
    strides: [u64; 3],
}

/// `lead` as the calls of a product and the products of a call; `None` where there are more distances than two. `size` is that of one result.
fn leading(lead: &[u64], lhs: &[u64], rhs: &[u64], size: u64) -> Option<[Axis; 2]> {
    let mut axes: Vec<Axis> = Vec::new();
    let mut size = size;
    for (i, &count) in lead.iter().enumerate().rev().filter(|(_, n)| **n > 1) {
        let strides = [lhs[i], rhs[i], size];
        size *= count;
        match axes.last_mut() {
            // An axis that spans the one inside of it is part of it.
            Some(inner) if inner.strides.map(|s| s * inner.count) == strides => inner.count *= count,
            _ => axes.push(Axis { count, strides }),
        }
    }
    axes.sort_by_key(|a| a.count);
    axes.reverse();
    let one = Axis { count: 1, strides: [0; 3] };
    match axes[..] {
        [] => Some([one, one]),
        [batch] => Some([one, batch]),
        [batch, outer] if outer.count <= MOST_CALLS => Some([outer, batch]),
        _ => None,
    }
}

/// An operand over `n_lead` axes and `[rows, columns]`, and its strides along those.
fn matrix(
    map: &Map,
    n_lead: usize,
    [rows, columns]: [u64; 2],
    batch: usize,
    dtype: DType,
) -> Option<(Matrix, Vec<u64>)> {
    let strides: Vec<i64> = map.strides.iter().map(|d| d.at_signed(batch)).collect();
    let mut strides: Vec<u64> = strides.into_iter().map(u64::try_from).collect::<Result<_, _>>().ok()?;
    let (row, column) = (strides[n_lead], strides[n_lead + 1]);
    let is_row = |stride: u64, extent: u64| stride == 1 || extent == 1;
    let (by_columns, stride) = if is_row(column, columns) {
        (false, if rows == 1 { columns } else { row })
    } else if is_row(row, rows) {
        (true, if columns == 1 { rows } else { column })
    } else {
        return None;
    };
    let least = if by_columns { rows } else { columns };
    let offset = u64::try_from(map.offset.at_signed(batch)).ok()?;
    strides.truncate(n_lead);
    let matrix = Matrix { dtype, offset, outer_stride: 0, batch_stride: 0, stride, by_columns };
    (stride >= least).then_some((matrix, strides))
}

/// Where the library puts the result.
pub fn target(k: &Contract) -> Target {
    let sums = k.args[2].dtype;
    match &k.epilogue {
        None => Target { arg: Some(2), dtype: sums, has_epilogue: false },
        Some(_) if k.keeps_sums() => Target { arg: Some(2), dtype: sums, has_epilogue: true },
        Some(epilogue) => match rounded(epilogue) {
            Some(arg) => Target { arg: Some(arg), dtype: k.args[arg].dtype, has_epilogue: false },
            None => Target { arg: None, dtype: sums, has_epilogue: true },
        },
    }
}

/// The argument to which an epilogue does nothing but round the sums.
fn rounded(k: &Loop) -> Option<usize> {
    let ([Instr::Load { arg: 2, map, .. }, Instr::Cast { x, .. }], [store]) = (&k.instrs[..], &k.stores[..]) else {
        return None;
    };
    let is_whole = map.is_row_major(&k.axes) && store.map.is_row_major(&k.axes);
    (is_whole && x.0 == 0 && store.value.0 == 1).then_some(store.arg as usize)
}

#[cfg(test)]
mod tests {
    use super::{Matrix, Product};
    use wholestep_compiler::ir::{DType, Dim};
    use wholestep_compiler::kernel::{Access, Arg, Contract, Contraction, Map};

    fn map(strides: &[i64]) -> Map {
        let dim = |&n: &i64| Dim { fixed: n, batch: 0 };
        Map { strides: strides.iter().map(dim).collect(), offset: Dim::ZERO, guards: Vec::new() }
    }

    fn product(batch: &[usize], lhs: &[i64], rhs: &[i64]) -> Option<Product> {
        let [m, n, k] = [4, 5, 6].map(Dim::fixed);
        let batch = batch.iter().map(|&n| Dim::fixed(n)).collect();
        let arg = |access| Arg { dtype: DType::F32, access };
        let args = vec![arg(Access::Read), arg(Access::Read), arg(Access::Write)];
        let contraction = Contraction::Matmul { batch, m, n, k, lhs: map(lhs), rhs: map(rhs) };
        Product::of(&Contract { contraction, dtype: DType::F32, args, epilogue: None, triangle: None }, 1, false)
    }

    fn matrix(batch_stride: u64, stride: u64, by_columns: bool) -> Option<Matrix> {
        Some(Matrix { dtype: DType::F32, offset: 0, outer_stride: 0, batch_stride, stride, by_columns })
    }

    #[test]
    fn rows_columns_and_batches_are_told_apart() {
        let of = |batch: &[usize], lhs: &[i64], rhs: &[i64]| {
            let p = product(batch, lhs, rhs);
            p.map(|p| (p.batch, Some(p.lhs), Some(p.rhs)))
        };
        // Plain, transposed, and parts of wider rows.
        assert_eq!(of(&[], &[6, 1], &[5, 1]), Some((1, matrix(0, 6, false), matrix(0, 5, false))));
        assert_eq!(of(&[], &[1, 4], &[1, 6]), Some((1, matrix(0, 4, true), matrix(0, 6, true))));
        assert_eq!(of(&[], &[60, 1], &[1, 70]), Some((1, matrix(0, 60, false), matrix(0, 70, true))));
        // Two axes of batches that are one, and one operand for all.
        let both = of(&[2, 3], &[72, 24, 6, 1], &[0, 0, 5, 1]);
        assert_eq!(both, Some((6, matrix(24, 6, false), matrix(0, 5, false))));
        // No neighbours, and rows that overlap.
        assert_eq!(of(&[], &[12, 2], &[5, 1]), None);
        assert_eq!(of(&[], &[0, 1], &[5, 1]), None);
    }

    #[test]
    fn what_begins_between_vectors_is_for_the_librarys_plain_kernels_alone() {
        let aligned = product(&[], &[72, 1], &[5, 1]).unwrap();
        let of = |dtype, tf32, offset, outer_stride| {
            let lhs = Matrix { dtype, offset, outer_stride, ..aligned.lhs.clone() };
            let rhs = Matrix { dtype, ..aligned.rhs.clone() };
            let outer = if outer_stride == 0 { 1 } else { 2 };
            Product { lhs, rhs, result: dtype, outer, tf32, ..aligned.clone() }.is_aligned()
        };
        // 16 bytes are 8 elements of 16 bits, 4 of 32 and 2 of 64.
        assert!(of(DType::BF16, false, 8, 0) && of(DType::F32, true, 4, 0) && of(DType::F64, false, 2, 0));
        assert!(!of(DType::BF16, false, 4, 0) && !of(DType::F32, true, 1, 0) && !of(DType::F64, false, 1, 0));
        assert!(of(DType::F32, false, 1, 0) && of(DType::F16, false, 0, 16) && !of(DType::F16, false, 0, 20));
    }

    #[test]
    fn two_distances_are_calls_of_batches() {
        // Two heads between the rows of a batch of three: a call for each head.
        let p = product(&[3, 2], &[48, 6, 12, 1], &[30, 30, 5, 1]).unwrap();
        assert_eq!((p.outer, p.batch, p.result_strides), (2, 3, [20, 40]));
        assert_eq!((p.lhs.outer_stride, p.lhs.batch_stride, p.lhs.stride), (6, 48, 12));
        assert_eq!((p.rhs.outer_stride, p.rhs.batch_stride), (30, 30));
        // The last element of the third batch's second head.
        assert_eq!((p.n_sums(), p.reach()), (120, [6 + 2 * 48 + 3 * 12 + 6, 30 + 60 + 30]));
        // One operand for all of a batch.
        let p = product(&[2, 3], &[24, 0, 6, 1], &[90, 30, 5, 1]).unwrap();
        assert_eq!((p.outer, p.batch, p.lhs.outer_stride, p.rhs.outer_stride), (2, 3, 24, 90));
        // Three distances, and more calls than are worth it.
        assert_eq!(product(&[2, 3, 4], &[6, 36, 300, 18, 1], &[0, 0, 0, 5, 1]), None);
        assert_eq!(product(&[65, 66], &[6, 2000, 400, 1], &[0, 0, 5, 1]), None);
    }
}
