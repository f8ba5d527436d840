//! Operands of 16 bits made f32 before a contraction packs them. Takes the operand's memory, gives an address from which the contraction reads
//! the same elements in f32, in its scratch memory. Never widens more than the span that is read.

use crate::loops::blocks::{BlockFn, LANES, cast};
use crate::loops::level::Level;
use crate::pool::Pool;
use wholestep_compiler::ir::{DType, Dim};
use wholestep_compiler::kernel::{Contract, Contraction, ConvSizes, Map};

/// Parts of scratch memory begin at multiples of this.
pub const ALIGN_BYTES: usize = 64;
/// Elements that one task widens.
const PART: usize = 16 * 1024;

/// The elements `from..to` of an operand: all that are read, in its memory's order.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Span {
    from: i64,
    to: i64,
}

impl Span {
    fn len(&self) -> usize {
        (self.to - self.from) as usize
    }

    /// Bytes in f32.
    pub fn bytes(&self) -> usize {
        (self.len() * 4).next_multiple_of(ALIGN_BYTES)
    }
}

/// What each operand of 16 bits spans at a batch size; `None` for operands that are read as they are.
pub fn spans(kernel: &Contract, batch: usize) -> [Option<Span>; 2] {
    let is_16_bit = |k: usize| matches!(kernel.args[k].dtype, DType::F16 | DType::BF16);
    [0, 1].map(|k| is_16_bit(k).then(|| span(&kernel.contraction, k, batch)))
}

fn span(contraction: &Contraction, k: usize, batch: usize) -> Span {
    let whole = |n: usize| Span { from: 0, to: n as i64 };
    let product = |v: &[usize]| v.iter().product::<usize>();
    let x = |s: &ConvSizes| whole(s.n.at(batch) * product(&s.input) * s.c_in);
    let y = |s: &ConvSizes| whole(s.n.at(batch) * product(&s.out) * s.c_out);
    let w = |s: &ConvSizes| whole(product(&s.kernel) * (s.c_in / s.geometry.groups) * s.c_out);
    match (contraction, k) {
        (Contraction::Matmul { batch: axes, m, k: depth, lhs, .. }, 0) => of_map(lhs, axes, [*m, *depth], batch),
        (Contraction::Matmul { batch: axes, n, k: depth, rhs, .. }, _) => of_map(rhs, axes, [*depth, *n], batch),
        (Contraction::Conv(s) | Contraction::ConvWeightGrad(s), 0) => x(s),
        (Contraction::ConvInputGrad(s), 0) | (Contraction::ConvWeightGrad(s), _) => y(s),
        (Contraction::Conv(s) | Contraction::ConvInputGrad(s), _) => w(s),
    }
}

fn of_map(map: &Map, axes: &[Dim], last: [Dim; 2], batch: usize) -> Span {
    let (mut from, mut to) = (map.offset.at_signed(batch), map.offset.at_signed(batch));
    for (axis, stride) in axes.iter().chain(&last).zip(&map.strides) {
        let extent = axis.at_signed(batch);
        if extent == 0 {
            return Span { from: 0, to: 0 };
        }
        let step = stride.at_signed(batch) * (extent - 1);
        (from, to) = (from + step.min(0), to + step.max(0));
    }
    Span { from, to: to + 1 }
}

/// Widens one operand.
#[derive(Clone, Copy, Debug)]
pub struct Widening {
    span: Span,
    f: BlockFn,
    /// Where in scratch memory it goes.
    at_bytes: usize,
}

impl Widening {
    /// What the operands of `kernel` need at `batch`; the contraction's own scratch memory is `own_bytes` long.
    pub fn of(
        kernel: &Contract,
        batch: usize,
        own_bytes: usize,
        level: Level,
    ) -> Result<[Option<Widening>; 2], String> {
        let mut at_bytes = own_bytes;
        let mut out = [None; 2];
        for (k, span) in spans(kernel, batch).into_iter().enumerate() {
            let Some(span) = span else { continue };
            let from = kernel.args[k].dtype;
            let f = cast(from, kernel.dtype, level).ok_or_else(|| format!("products of {from} in {}", kernel.dtype))?;
            out[k] = Some(Widening { span, f, at_bytes });
            at_bytes += span.bytes();
        }
        Ok(out)
    }

    /// Widens the operand at `from` into `scratch`; gives the address that stands for `from`.
    ///
    /// # Safety
    /// `from` holds the span, `scratch` as many bytes as [`super::scratch_bytes`] says; they do not overlap.
    pub unsafe fn run(&self, pool: &Pool, from: *const u8, scratch: *mut u8) -> *mut u8 {
        let to = scratch.wrapping_add(self.at_bytes);
        let shared = Shared(from.wrapping_offset(self.span.from as isize * 2), to);
        let (n, f) = (self.span.len(), self.f);
        pool.run(n.div_ceil(PART), &|i| {
            let Shared(from, to) = { shared };
            let (begin, end) = (i * PART, ((i + 1) * PART).min(n));
            // SAFETY: parts are disjoint and inside the span.
            unsafe { widen(f, from.add(begin * 2), to.add(begin * 4), end - begin) };
        });
        to.wrapping_offset(-(self.span.from as isize) * 4)
    }
}

#[derive(Clone, Copy)]
struct Shared(*const u8, *mut u8);
// SAFETY: tasks read the first and write disjoint parts of the second.
unsafe impl Sync for Shared {}

/// # Safety
/// `from` holds `n` elements of 2 bytes, `to` has room for `n` of 4.
unsafe fn widen(f: BlockFn, from: *const u8, to: *mut u8, n: usize) {
    let whole = n / LANES * LANES;
    let none = std::ptr::null();
    // SAFETY: the caller's contract; the rest goes through buffers of one block.
    unsafe {
        f(to, from, none, none, whole);
        if whole < n {
            let (mut narrow, mut wide) = ([0_u16; LANES], [0_f32; LANES]);
            std::ptr::copy_nonoverlapping(from.add(whole * 2), narrow.as_mut_ptr().cast(), (n - whole) * 2);
            f(wide.as_mut_ptr().cast(), narrow.as_ptr().cast(), none, none, LANES);
            std::ptr::copy_nonoverlapping(wide.as_ptr().cast(), to.add(whole * 4), (n - whole) * 4);
        }
    }
}
