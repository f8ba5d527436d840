//! Matrix products and convolutions. Takes a contraction at one batch size, gives its result and runs its epilogue on each finished part.
//! Never packs or multiplies itself where the fast kernels take the shape; what they do not take is summed plainly here.

mod widen;

pub use widen::Widening;

use crate::conv::{
    ConvSpec, Depth, conv_forward, conv_forward_scratch_elems, conv_input_grad, conv_input_grad_scratch_elems,
    conv_weight_grad, conv_weight_grad_scratch_elems,
};
use crate::matmul::{Epilogue, MatmulSpec, Rect, matmul, matmul_scratch_elems};
use crate::pool::Pool;
use crate::simd::Isa;
use std::sync::OnceLock;
use wholestep_compiler::ir::{DType, Dim};
use wholestep_compiler::kernel::{Contract, Contraction, ConvSizes, Map};

/// Batch axes that a product may have.
const MAX_BATCH_AXES: usize = 10;

/// The most threads that scratch memory is made for; pools of this crate have no more.
pub fn max_threads() -> usize {
    static COUNT: OnceLock<usize> = OnceLock::new();
    *COUNT.get_or_init(|| std::thread::available_parallelism().map_or(1, |n| n.get()).max(4))
}

/// A contraction at one batch size.
#[derive(Clone, Copy, Debug)]
pub enum Bound {
    Matmul(Batched),
    Conv(ConvSpec),
    ConvInputGrad(ConvSpec),
    ConvWeightGrad(ConvSpec),
    /// Summed plainly.
    PlainMatmul(Batched),
    PlainConv(PlainSizes, Form),
}

/// Which of a convolution's three tensors is the result.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Form {
    Output,
    Input,
    Weight,
}

/// A product for each index of the batch axes. Strides are in elements.
#[derive(Clone, Copy, Debug)]
pub struct Batched {
    pub m: usize,
    pub n: usize,
    pub k: usize,
    lhs: [i64; 2],
    rhs: [i64; 2],
    lhs_offset: i64,
    rhs_offset: i64,
    n_batch: usize,
    extents: [usize; MAX_BATCH_AXES],
    lhs_batch: [i64; MAX_BATCH_AXES],
    rhs_batch: [i64; MAX_BATCH_AXES],
}

/// A convolution of up to three spatial axes.
#[derive(Clone, Copy, Debug)]
pub struct PlainSizes {
    n: usize,
    input: [usize; 3],
    out: [usize; 3],
    kernel: [usize; 3],
    stride: [usize; 3],
    pad: [usize; 3],
    dilation: [usize; 3],
    c_in: usize,
    c_out: usize,
    groups: usize,
}

/// How a contraction runs at `batch`; `force_plain` is for tests that compare both ways.
pub fn bind(contraction: &Contraction, dtype: DType, batch: usize, force_plain: bool) -> Result<Bound, String> {
    let is_fast = dtype == DType::F32 && !force_plain;
    if !matches!(dtype, DType::F32 | DType::F64) {
        return Err(format!("contractions of {dtype}"));
    }
    let conv = |s: &ConvSizes, form: Form| match conv_spec(s, batch).filter(|_| is_fast) {
        None => Bound::PlainConv(plain_sizes(s, batch), form),
        Some(spec) => match form {
            Form::Output => Bound::Conv(spec),
            Form::Input => Bound::ConvInputGrad(spec),
            Form::Weight => Bound::ConvWeightGrad(spec),
        },
    };
    Ok(match contraction {
        Contraction::Matmul { batch: axes, m, n, k, lhs, rhs } => {
            let b = batched(axes, [*m, *n, *k], lhs, rhs, batch)?;
            if is_fast && b.lhs.iter().chain(&b.rhs).all(|&s| s >= 0) {
                Bound::Matmul(b)
            } else {
                Bound::PlainMatmul(b)
            }
        }
        Contraction::Conv(s) => conv(s, Form::Output),
        Contraction::ConvInputGrad(s) => conv(s, Form::Input),
        Contraction::ConvWeightGrad(s) => conv(s, Form::Weight),
    })
}

/// What `Caps::contract_scratch_bytes` asks: enough for f32 at this batch size on any pool of this crate, for operands of 16 bits
/// in f32, and for sums that are not kept.
pub fn scratch_bytes(kernel: &Contract, batch: usize) -> usize {
    sums_at_bytes(kernel, batch) + sums_bytes(kernel, batch)
}

/// Where in scratch memory sums are that are not kept.
pub fn sums_at_bytes(kernel: &Contract, batch: usize) -> usize {
    let widened = widen::spans(kernel, batch).iter().flatten().map(widen::Span::bytes).sum::<usize>();
    own_scratch_bytes(&kernel.contraction, batch) + widened
}

/// Bytes of sums that are not kept.
pub fn sums_bytes(kernel: &Contract, batch: usize) -> usize {
    let bound = if kernel.keeps_sums() { None } else { bind(&kernel.contraction, kernel.dtype, batch, false).ok() };
    bound.map_or(0, |b| b.result().0 * b.result().1 * kernel.dtype.size_bytes())
}

/// What a contraction of f32 operands takes.
pub fn own_scratch_bytes(contraction: &Contraction, batch: usize) -> usize {
    let threads = max_threads();
    let elems = match bind(contraction, DType::F32, batch, false) {
        Ok(Bound::Matmul(b)) => {
            let spec = b.spec();
            let one = matmul_scratch_elems(&spec, threads);
            if b.is_wide() { one * threads } else { one }
        }
        Ok(Bound::Conv(s)) => conv_forward_scratch_elems(&s, threads),
        Ok(Bound::ConvInputGrad(s)) => conv_input_grad_scratch_elems(&s, threads),
        Ok(Bound::ConvWeightGrad(s)) => conv_weight_grad_scratch_elems(&s, threads),
        Ok(Bound::PlainMatmul(_) | Bound::PlainConv(..)) | Err(_) => 0,
    };
    (elems * 4).next_multiple_of(widen::ALIGN_BYTES)
}

fn batched(axes: &[Dim], sizes: [Dim; 3], lhs: &Map, rhs: &Map, batch: usize) -> Result<Batched, String> {
    let r = axes.len();
    if r > MAX_BATCH_AXES {
        return Err(format!("matrix products with {r} batch axes"));
    }
    let at = |d: &Dim| d.at_signed(batch);
    let [m, n, k] = sizes.map(|d| d.at(batch));
    let mut b = Batched {
        m,
        n,
        k,
        lhs: [at(&lhs.strides[r]), at(&lhs.strides[r + 1])],
        rhs: [at(&rhs.strides[r]), at(&rhs.strides[r + 1])],
        lhs_offset: at(&lhs.offset),
        rhs_offset: at(&rhs.offset),
        n_batch: r,
        extents: [1; MAX_BATCH_AXES],
        lhs_batch: [0; MAX_BATCH_AXES],
        rhs_batch: [0; MAX_BATCH_AXES],
    };
    for (i, axis) in axes.iter().enumerate() {
        b.extents[i] = axis.at(batch);
        b.lhs_batch[i] = at(&lhs.strides[i]);
        b.rhs_batch[i] = at(&rhs.strides[i]);
    }
    b.drop_strides_of_ones();
    b.join_batch();
    Ok(b)
}

impl Batched {
    /// An axis of one element has no use for its stride, and a 0 or 1 there may allow a better kernel.
    fn drop_strides_of_ones(&mut self) {
        if self.m == 1 {
            self.lhs[0] = self.k as i64;
        }
        if self.k == 1 {
            (self.lhs[1], self.rhs[0]) = (1, self.n as i64);
        }
        if self.n == 1 {
            self.rhs[1] = 1;
        }
    }

    /// Batch axes over which the right operand stays the same are rows of one larger product.
    fn join_batch(&mut self) {
        while self.n_batch > 0 {
            let last = self.n_batch - 1;
            let is_one = self.extents[last] == 1;
            let joins = self.rhs_batch[last] == 0 && self.lhs_batch[last] == self.lhs[0] * self.m as i64;
            if !is_one && !joins {
                return;
            }
            if !is_one {
                self.m *= self.extents[last];
            }
            self.n_batch -= 1;
        }
    }

    fn count(&self) -> usize {
        self.extents[..self.n_batch].iter().product()
    }

    /// Whether the products of the batch are worth a thread each.
    fn is_wide(&self) -> bool {
        self.n_batch > 0
    }

    fn spec(&self) -> MatmulSpec {
        let [a_rs, a_cs] = self.lhs.map(|s| s as usize);
        let [b_rs, b_cs] = self.rhs.map(|s| s as usize);
        MatmulSpec { m: self.m, n: self.n, k: self.k, a_rs, a_cs, b_rs, b_cs, ldc: self.n, accumulate: false }
    }

    /// Offsets of both operands for product `i`.
    fn offsets(&self, mut i: usize) -> (isize, isize) {
        let (mut lhs, mut rhs) = (self.lhs_offset, self.rhs_offset);
        for axis in (0..self.n_batch).rev() {
            let index = (i % self.extents[axis]) as i64;
            i /= self.extents[axis];
            lhs += index * self.lhs_batch[axis];
            rhs += index * self.rhs_batch[axis];
        }
        (lhs as isize, rhs as isize)
    }
}

fn conv_spec(s: &ConvSizes, batch: usize) -> Option<ConvSpec> {
    if s.input.len() > 3 {
        return None;
    }
    let g = &s.geometry;
    let ([d, h, w], [od, oh, ow], [kd, kh, kw]) = (three(&s.input, 1), three(&s.out, 1), three(&s.kernel, 1));
    let ([sz, sy, sx], [dz, dy, dx], [pz, py, px]) = (three(&g.stride, 1), three(&g.dilation, 1), three(&g.pad_lo, 0));
    Some(ConvSpec {
        n: s.n.at(batch),
        h,
        w,
        ci: s.c_in,
        oh,
        ow,
        co: s.c_out,
        kh,
        kw,
        stride: [sy, sx],
        dilation: [dy, dx],
        pad: [py, px],
        groups: g.groups,
        depth: Depth { d, od, kd, stride: sz, dilation: dz, pad: pz },
        accumulate: false,
    })
}

/// Values of up to three axes, with `fill` for those that are not there, outermost first.
fn three(v: &[usize], fill: usize) -> [usize; 3] {
    let mut out = [fill; 3];
    out[3 - v.len()..].copy_from_slice(v);
    out
}

fn plain_sizes(s: &ConvSizes, batch: usize) -> PlainSizes {
    let g = &s.geometry;
    PlainSizes {
        n: s.n.at(batch),
        input: three(&s.input, 1),
        out: three(&s.out, 1),
        kernel: three(&s.kernel, 1),
        stride: three(&g.stride, 1),
        pad: three(&g.pad_lo, 0),
        dilation: three(&g.dilation, 1),
        c_in: s.c_in,
        c_out: s.c_out,
        groups: g.groups,
    }
}

impl Bound {
    /// Rows and columns of the result, as its epilogue sees them.
    pub fn result(&self) -> (usize, usize) {
        match self {
            Bound::Matmul(b) | Bound::PlainMatmul(b) => (b.count() * b.m, b.n),
            Bound::Conv(s) => (s.n * s.depth.od * s.oh * s.ow, s.co),
            Bound::ConvInputGrad(s) => (s.n * s.depth.d * s.h * s.w, s.ci),
            Bound::ConvWeightGrad(s) => (s.depth.kd * s.kh * s.kw * (s.ci / s.groups), s.co),
            Bound::PlainConv(s, form) => {
                let product = |v: &[usize; 3]| v.iter().product::<usize>();
                match form {
                    Form::Output => (s.n * product(&s.out), s.c_out),
                    Form::Input => (s.n * product(&s.input), s.c_in),
                    Form::Weight => (product(&s.kernel) * (s.c_in / s.groups), s.c_out),
                }
            }
        }
    }

    /// Runs the contraction; `epilogue` sees each part of the result once, when it is finished.
    ///
    /// # Safety
    /// `args` are both operands, the result and scratch as the kernel says; the result overlaps no other.
    pub unsafe fn run(&self, pool: &Pool, isa: Isa, dtype: DType, args: &[*mut u8], epilogue: Epilogue<'_>) {
        let (a, b, c) = (args[0].cast::<f32>(), args[1].cast::<f32>(), args[2].cast::<f32>());
        let scratch = args.get(3).map_or(std::ptr::null_mut(), |p| p.cast::<f32>());
        // SAFETY: the caller's contract is that of the kernels.
        unsafe {
            match self {
                Bound::Matmul(s) => run_matmul(s, pool, isa, [a, b, c, scratch], epilogue),
                Bound::Conv(s) => conv_forward(pool, isa, s, a, b, c, scratch, epilogue),
                Bound::ConvInputGrad(s) => conv_input_grad(pool, isa, s, a, b, c, scratch, epilogue),
                Bound::ConvWeightGrad(s) => {
                    conv_weight_grad(pool, isa, s, a, b, c, scratch);
                    self.finish(epilogue);
                }
                Bound::PlainMatmul(s) => {
                    match dtype {
                        DType::F64 => plain_matmul::<f64>(s, pool, args),
                        _ => plain_matmul::<f32>(s, pool, args),
                    }
                    self.finish(epilogue);
                }
                Bound::PlainConv(s, form) => {
                    match dtype {
                        DType::F64 => plain_conv::<f64>(s, *form, pool, args),
                        _ => plain_conv::<f32>(s, *form, pool, args),
                    }
                    self.finish(epilogue);
                }
            }
        }
    }

    /// Hands the whole result to the epilogue.
    fn finish(&self, epilogue: Epilogue<'_>) {
        let (rows, cols) = self.result();
        if let Some(epilogue) = epilogue {
            epilogue(Rect { row0: 0, rows, col0: 0, cols });
        }
    }
}

/// Addresses that tasks share.
#[derive(Clone, Copy)]
struct Shared([*mut f32; 4]);
// SAFETY: tasks read the operands and write their own parts of the result and of the scratch memory.
unsafe impl Sync for Shared {}

/// # Safety
/// As [`Bound::run`].
unsafe fn run_matmul(s: &Batched, pool: &Pool, isa: Isa, p: [*mut f32; 4], epilogue: Epilogue<'_>) {
    let (spec, count) = (s.spec(), s.count());
    let one = |i: usize, scratch: *mut f32, p: &[*mut f32; 4]| {
        let (lhs, rhs) = s.offsets(i);
        let shifted = epilogue.map(|f| move |r: Rect| f(Rect { row0: r.row0 + i * s.m, ..r }));
        let shifted: Epilogue = shifted.as_ref().map(|f| f as &(dyn Fn(Rect) + Sync));
        // SAFETY: the maps stay inside the operands; products write disjoint parts of the result.
        unsafe {
            let c = p[2].add(i * s.m * s.n);
            matmul(pool, isa, &spec, p[0].offset(lhs), p[1].offset(rhs), c, scratch, shifted);
        }
    };
    if count == 1 || s.m * s.n * s.k > 4_000_000 {
        (0..count).for_each(|i| one(i, p[3], &p));
        return;
    }
    let scratch_elems = matmul_scratch_elems(&spec, max_threads());
    let flops = 2 * s.m * s.n * s.k * count;
    // A task is some ten microseconds of work.
    let n_tasks = if flops < 1_000_000 { 1 } else { count.min((flops / 500_000).clamp(2, 64)) };
    let shared = Shared(p);
    pool.run_indexed(n_tasks, &|t, worker| {
        let shared = &shared;
        for i in count * t / n_tasks..count * (t + 1) / n_tasks {
            one(i, shared.0[3].wrapping_add(worker * scratch_elems), &shared.0);
        }
    });
}

/// Elements that are multiplied and summed in f64.
trait Number: Copy + Send + Sync {
    fn wide(self) -> f64;
    fn narrow(v: f64) -> Self;
}

impl Number for f32 {
    fn wide(self) -> f64 {
        f64::from(self)
    }
    fn narrow(v: f64) -> f32 {
        v as f32
    }
}

impl Number for f64 {
    fn wide(self) -> f64 {
        self
    }
    fn narrow(v: f64) -> f64 {
        v
    }
}

struct Operands<T> {
    a: *const T,
    b: *const T,
    c: *mut T,
}
// SAFETY: tasks read the operands and write their own rows of the result.
unsafe impl<T> Sync for Operands<T> {}

impl<T> Operands<T> {
    fn new(args: &[*mut u8]) -> Operands<T> {
        Operands { a: args[0].cast(), b: args[1].cast(), c: args[2].cast() }
    }
}

/// # Safety
/// As [`Bound::run`], with elements `T`.
unsafe fn plain_matmul<T: Number>(s: &Batched, pool: &Pool, args: &[*mut u8]) {
    let p = Operands::<T>::new(args);
    let rows = s.count() * s.m;
    let n_tasks = if rows * s.n * s.k < 20_000 { 1 } else { rows.min(64) };
    pool.run(n_tasks, &|t| {
        let p = &p;
        for row in rows * t / n_tasks..rows * (t + 1) / n_tasks {
            let (lhs, rhs) = s.offsets(row / s.m.max(1));
            let at = (row % s.m.max(1)) as i64;
            for j in 0..s.n {
                let mut sum = 0.0;
                for k in 0..s.k as i64 {
                    let l = lhs + (at * s.lhs[0] + k * s.lhs[1]) as isize;
                    let r = rhs + (k * s.rhs[0] + j as i64 * s.rhs[1]) as isize;
                    // SAFETY: the maps stay inside the operands.
                    sum += unsafe { (*p.a.offset(l)).wide() * (*p.b.offset(r)).wide() };
                }
                // SAFETY: this task's row of the result.
                unsafe { *p.c.add(row * s.n + j) = T::narrow(sum) };
            }
        }
    });
}

/// # Safety
/// As [`Bound::run`], with elements `T`.
unsafe fn plain_conv<T: Number>(s: &PlainSizes, form: Form, pool: &Pool, args: &[*mut u8]) {
    let p = Operands::<T>::new(args);
    let (rows, cols) = Bound::PlainConv(*s, form).result();
    let n_tasks = if rows * cols < 256 { 1 } else { rows.min(64) };
    pool.run(n_tasks, &|t| {
        let p = &p;
        for row in rows * t / n_tasks..rows * (t + 1) / n_tasks {
            for col in 0..cols {
                // SAFETY: this task's row of the result.
                unsafe {
                    let v = match form {
                        Form::Output => s.output_at(p, row, col),
                        Form::Input => s.input_at(p, row, col),
                        Form::Weight => s.weight_at(p, row, col),
                    };
                    *p.c.add(row * cols + col) = T::narrow(v);
                }
            }
        }
    });
}

fn unflatten(at: usize, extents: &[usize; 3]) -> (usize, [usize; 3]) {
    let (z, rest) = (at % extents[2], at / extents[2]);
    (rest / extents[1] / extents[0], [rest / extents[1] % extents[0], rest % extents[1], z])
}

fn flatten(n: usize, at: [usize; 3], extents: &[usize; 3]) -> usize {
    ((n * extents[0] + at[0]) * extents[1] + at[1]) * extents[2] + at[2]
}

impl PlainSizes {
    /// The input pixel that output pixel `o` meets with filter place `k`, if it is no padding.
    fn pixel(&self, o: [usize; 3], k: [usize; 3]) -> Option<[usize; 3]> {
        let mut x = [0; 3];
        for i in 0..3 {
            x[i] = (o[i] * self.stride[i] + k[i] * self.dilation[i]).checked_sub(self.pad[i])?;
            if x[i] >= self.input[i] {
                return None;
            }
        }
        Some(x)
    }

    fn places(&self) -> usize {
        self.kernel.iter().product()
    }

    /// # Safety
    /// `p` are x, w, y.
    unsafe fn output_at<T: Number>(&self, p: &Operands<T>, row: usize, co: usize) -> f64 {
        let (ci_g, co_g) = (self.c_in / self.groups, self.c_out / self.groups);
        let ((n, o), group) = (unflatten(row, &self.out), co / co_g);
        let mut sum = 0.0;
        for k in 0..self.places() {
            let Some(x) = self.pixel(o, unflatten(k, &self.kernel).1) else { continue };
            for c in 0..ci_g {
                // SAFETY: all indices are inside their extents.
                sum += unsafe {
                    (*p.a.add(flatten(n, x, &self.input) * self.c_in + group * ci_g + c)).wide()
                        * (*p.b.add((k * ci_g + c) * self.c_out + co)).wide()
                };
            }
        }
        sum
    }

    /// # Safety
    /// `p` are d_y, w, d_x.
    unsafe fn input_at<T: Number>(&self, p: &Operands<T>, row: usize, ci: usize) -> f64 {
        let (ci_g, co_g) = (self.c_in / self.groups, self.c_out / self.groups);
        let ((n, x), group) = (unflatten(row, &self.input), ci / ci_g);
        let mut sum = 0.0;
        'places: for k in 0..self.places() {
            let at = unflatten(k, &self.kernel).1;
            let mut o = [0; 3];
            for i in 0..3 {
                let Some(d) = (x[i] + self.pad[i]).checked_sub(at[i] * self.dilation[i]) else { continue 'places };
                if !d.is_multiple_of(self.stride[i]) || d / self.stride[i] >= self.out[i] {
                    continue 'places;
                }
                o[i] = d / self.stride[i];
            }
            for c in 0..co_g {
                let co = group * co_g + c;
                // SAFETY: all indices are inside their extents.
                sum += unsafe {
                    (*p.a.add(flatten(n, o, &self.out) * self.c_out + co)).wide()
                        * (*p.b.add((k * ci_g + ci % ci_g) * self.c_out + co)).wide()
                };
            }
        }
        sum
    }

    /// # Safety
    /// `p` are x, d_y, d_w.
    unsafe fn weight_at<T: Number>(&self, p: &Operands<T>, row: usize, co: usize) -> f64 {
        let (ci_g, co_g) = (self.c_in / self.groups, self.c_out / self.groups);
        let (k, c) = (row / ci_g, row % ci_g);
        let (at, ci) = (unflatten(k, &self.kernel).1, co / co_g * ci_g + c);
        let mut sum = 0.0;
        for pixel in 0..self.n * self.out.iter().product::<usize>() {
            let (n, o) = unflatten(pixel, &self.out);
            let Some(x) = self.pixel(o, at) else { continue };
            // SAFETY: all indices are inside their extents.
            sum += unsafe {
                (*p.a.add(flatten(n, x, &self.input) * self.c_in + ci)).wide()
                    * (*p.b.add(pixel * self.c_out + co)).wide()
            };
        }
        sum
    }
}
