//! Rows of windows, many lanes at a time. Takes a range of the result's rows, writes them. Never adds two windows' parts in another order
//! than that of the windows.

use super::{Pointers, Sizes};
use crate::loops::level::Level;
use std::marker::PhantomData;
use std::ops::Range;
use wholestep_compiler::kernel::WindowOp;

/// Elements that windows compare.
pub trait Element: Copy + PartialOrd + Send + Sync + 'static {
    const ZERO: Self;
    const LEAST: Self;
    /// The function that writes rows of `op`'s result.
    fn rows(op: WindowOp, level: Level) -> RowsFn<Self>;
}

/// Elements that windows add as they are.
pub trait Number: Element {
    fn plus(self, other: Self) -> Self;
}

impl Element for f32 {
    const ZERO: f32 = 0.0;
    const LEAST: f32 = f32::NEG_INFINITY;
    fn rows(op: WindowOp, level: Level) -> RowsFn<f32> {
        rows(op, level)
    }
}

impl Number for f32 {
    #[inline(always)]
    fn plus(self, other: f32) -> f32 {
        self + other
    }
}

impl Element for f64 {
    const ZERO: f64 = 0.0;
    const LEAST: f64 = f64::NEG_INFINITY;
    fn rows(op: WindowOp, level: Level) -> RowsFn<f64> {
        rows(op, level)
    }
}

impl Number for f64 {
    #[inline(always)]
    fn plus(self, other: f64) -> f64 {
        self + other
    }
}

/// Lanes that are worked on together.
pub(super) const LANES: usize = 16;
/// Elements of a task's room on the stack, where pixels of few channels are packed.
const ROOM: usize = 2048;

/// Writes a range of the result's rows.
pub type RowsFn<T> = unsafe fn(&Sizes, &Pointers<T>, Range<usize>);

/// A way to write rows; inlined into one function for each level.
pub(super) trait Rows<T> {
    /// # Safety
    /// The pointers are operands and result of these sizes, and nobody else writes the rows.
    unsafe fn run(s: &Sizes, p: &Pointers<T>, rows: Range<usize>);
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx2,fma")]
unsafe fn at_avx512<T, R: Rows<T>>(s: &Sizes, p: &Pointers<T>, rows: Range<usize>) {
    // SAFETY: the caller's contract.
    unsafe { R::run(s, p, rows) }
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2,fma")]
unsafe fn at_avx2<T, R: Rows<T>>(s: &Sizes, p: &Pointers<T>, rows: Range<usize>) {
    // SAFETY: the caller's contract.
    unsafe { R::run(s, p, rows) }
}

unsafe fn at_baseline<T, R: Rows<T>>(s: &Sizes, p: &Pointers<T>, rows: Range<usize>) {
    // SAFETY: the caller's contract.
    unsafe { R::run(s, p, rows) }
}

pub(super) fn pick<T, R: Rows<T>>(level: Level) -> RowsFn<T> {
    match level {
        Level::Baseline => at_baseline::<T, R>,
        #[cfg(target_arch = "x86_64")]
        Level::Avx2 => at_avx2::<T, R>,
        #[cfg(target_arch = "x86_64")]
        Level::Avx512 => at_avx512::<T, R>,
        #[cfg(not(target_arch = "x86_64"))]
        Level::Avx2 | Level::Avx512 => at_baseline::<T, R>,
    }
}

fn rows<T: Number>(op: WindowOp, level: Level) -> RowsFn<T> {
    match op {
        WindowOp::ArgMax => pick::<T, Forward<ArgMax>>(level),
        WindowOp::Take => pick::<T, Forward<Take>>(level),
        WindowOp::Sum => pick::<T, Forward<Sum>>(level),
        WindowOp::Put => pick::<T, Adjoint<true>>(level),
        WindowOp::Spread => pick::<T, Adjoint<false>>(level),
    }
}

// ---- each window to one element -------------------------------------------------------------------------------------------------------

/// What becomes of a window's elements, `W` windows side by side.
pub(super) trait Fold<T: Element> {
    type Out: Copy;
    type State<const W: usize>;
    fn result(p: &Pointers<T>) -> *mut Self::Out;
    /// `first` is the window's first place that exists; `at` the result's element.
    ///
    /// # Safety
    /// Operands have `W` elements at `at`.
    unsafe fn begin<const W: usize>(p: &Pointers<T>, at: usize, first: i32) -> Self::State<W>;
    fn step<const W: usize>(state: &mut Self::State<W>, x: &[T; W], place: i32);
    fn end<const W: usize>(state: Self::State<W>) -> [Self::Out; W];
}

pub(super) struct ArgMax;
pub(super) struct Take;
struct Sum;

impl<T: Element> Fold<T> for ArgMax {
    type Out = i32;
    type State<const W: usize> = ([T; W], [i32; W]);

    fn result(p: &Pointers<T>) -> *mut i32 {
        p.place
    }

    #[inline(always)]
    unsafe fn begin<const W: usize>(_: &Pointers<T>, _: usize, first: i32) -> Self::State<W> {
        ([T::LEAST; W], [first; W])
    }

    #[inline(always)]
    #[allow(clippy::eq_op, clippy::neg_cmp_op_on_partial_ord)]
    fn step<const W: usize>((best, at): &mut Self::State<W>, x: &[T; W], place: i32) {
        for l in 0..W {
            // Larger or NaN, unless a NaN is held: a value that does not equal itself.
            let wins = !(x[l] <= best[l]) & (best[l] == best[l]);
            best[l] = if wins { x[l] } else { best[l] };
            at[l] = if wins { place } else { at[l] };
        }
    }

    #[inline(always)]
    fn end<const W: usize>((_, at): Self::State<W>) -> [i32; W] {
        at
    }
}

impl<T: Element> Fold<T> for Take {
    type Out = T;
    type State<const W: usize> = ([T; W], [i32; W]);

    fn result(p: &Pointers<T>) -> *mut T {
        p.y
    }

    #[inline(always)]
    unsafe fn begin<const W: usize>(p: &Pointers<T>, at: usize, _: i32) -> Self::State<W> {
        // SAFETY: the caller's contract.
        ([T::ZERO; W], unsafe { p.place.add(at).cast::<[i32; W]>().read_unaligned() })
    }

    #[inline(always)]
    fn step<const W: usize>((y, at): &mut Self::State<W>, x: &[T; W], place: i32) {
        for l in 0..W {
            y[l] = if at[l] == place { x[l] } else { y[l] };
        }
    }

    #[inline(always)]
    fn end<const W: usize>((y, _): Self::State<W>) -> [T; W] {
        y
    }
}

impl<T: Number> Fold<T> for Sum {
    type Out = T;
    type State<const W: usize> = [T; W];

    fn result(p: &Pointers<T>) -> *mut T {
        p.y
    }

    #[inline(always)]
    unsafe fn begin<const W: usize>(_: &Pointers<T>, _: usize, _: i32) -> [T; W] {
        [T::ZERO; W]
    }

    #[inline(always)]
    fn step<const W: usize>(y: &mut [T; W], x: &[T; W], _: i32) {
        for l in 0..W {
            y[l] = y[l].plus(x[l]);
        }
    }

    #[inline(always)]
    fn end<const W: usize>(y: [T; W]) -> [T; W] {
        y
    }
}

/// The places of a window that exist: how many along each axis, elements and places from one to the next.
#[derive(Clone, Copy)]
struct Window {
    n: [usize; 3],
    step: [usize; 3],
    place: i32,
    place_step: [i32; 3],
}

pub(super) struct Forward<F>(PhantomData<F>);

impl<T: Element, F: Fold<T>> Rows<T> for Forward<F> {
    #[inline(always)]
    unsafe fn run(s: &Sizes, p: &Pointers<T>, rows: Range<usize>) {
        let (c, [_, b_in, w_in]) = (s.channels, s.input);
        let mut room = [T::ZERO; ROOM];
        let steps = [s.dilation[0] * b_in * w_in * c, s.dilation[1] * w_in * c, s.dilation[2] * c];
        let place_steps = [s.size[1] * s.size[2], s.size[2], 1];
        // Windows whose last axis is whole.
        let whole = s.outputs(2, 0).start..s.outputs(2, s.size[2] - 1).end;
        for row in rows {
            let (image, a, b) = (row / (s.out[0] * s.out[1]), row / s.out[1] % s.out[0], row % s.out[1]);
            let (pa, pb) = (s.places(0, a), s.places(1, b));
            let is_empty = pa.is_empty() || pb.is_empty();
            // The first element under places pa.start, pb.start of an output's window, and the window.
            let at = |o: usize| {
                let pc = s.places(2, o);
                let n = if is_empty { [0; 3] } else { [pa.len(), pb.len(), pc.len()] };
                let first = [pa.start, pb.start, pc.start];
                let is_empty = n.contains(&0);
                let place = if is_empty { 0 } else { (0..3).map(|i| first[i] * place_steps[i]).sum() };
                let w = Window { n, step: steps, place: place as i32, place_step: place_steps.map(|v| v as i32) };
                if is_empty {
                    return (0, w);
                }
                let pixel = [s.position(0, a, pa.start), s.position(1, b, pb.start), s.position(2, o, pc.start)];
                (image * s.in_elems() + ((pixel[0] * b_in + pixel[1]) * w_in + pixel[2]) * c, w)
            };
            let mut o = 0;
            while o < s.out[2] {
                let (from, w) = at(o);
                let result = (row * s.out[2] + o) * c;
                let left = whole.end.saturating_sub(o);
                let is_whole = whole.contains(&o) && !w.n.contains(&0);
                // SAFETY: the window exists in x; results are this row's; the room holds all that is packed.
                unsafe {
                    let x = p.x.add(from);
                    let room_for = ROOM / (w.n.iter().product::<usize>() * c).max(1);
                    if is_whole && s.stride[2] == 1 {
                        fold_all::<T, F>(p, x, &w, result, left * c);
                        o += left;
                    } else if is_whole && c < LANES && room_for.min(left) > 1 {
                        let n = room_for.min(left);
                        let packed = pack(x, &w, c, s.stride[2] * c, n, &mut room);
                        fold_all::<T, F>(p, room.as_ptr(), &packed, result, n * c);
                        o += n;
                    } else {
                        fold_all::<T, F>(p, x, &w, result, c);
                        o += 1;
                    }
                }
            }
        }
    }
}

/// Copies each place's pixels of `n` windows next to each other.
///
/// # Safety
/// The windows, whose pixels of `c` elements are `stride` apart, exist at `x`; `room` is large enough.
#[inline(always)]
unsafe fn pack<T: Element>(x: *const T, w: &Window, c: usize, stride: usize, n: usize, room: &mut [T; ROOM]) -> Window {
    let mut to = room.as_mut_ptr();
    for i in 0..w.n[0] {
        for j in 0..w.n[1] {
            for k in 0..w.n[2] {
                // SAFETY: the caller's contract.
                unsafe {
                    let from = x.add(i * w.step[0] + j * w.step[1] + k * w.step[2]);
                    copy_pixels(from, stride, c, n, to);
                    to = to.add(n * c);
                }
            }
        }
    }
    let step = [w.n[1] * w.n[2] * n * c, w.n[2] * n * c, n * c];
    Window { step, ..*w }
}

/// # Safety
/// `n` pixels of `c` elements are at `from`, `stride` apart, and have room at `to`.
#[inline(always)]
unsafe fn copy_pixels<T: Element>(from: *const T, stride: usize, c: usize, n: usize, to: *mut T) {
    // SAFETY: the caller's contract.
    unsafe {
        match c {
            1 => (0..n).for_each(|i| *to.add(i) = *from.add(i * stride)),
            2 => copy_short::<T, 2>(from, stride, n, to),
            3 => copy_short::<T, 3>(from, stride, n, to),
            4 => copy_short::<T, 4>(from, stride, n, to),
            6 => copy_short::<T, 6>(from, stride, n, to),
            8 => copy_short::<T, 8>(from, stride, n, to),
            _ => (0..n).for_each(|i| std::ptr::copy_nonoverlapping(from.add(i * stride), to.add(i * c), c)),
        }
    }
}

/// # Safety
/// As [`copy_pixels`].
#[inline(always)]
unsafe fn copy_short<T: Element, const C: usize>(from: *const T, stride: usize, n: usize, to: *mut T) {
    for i in 0..n {
        // SAFETY: the caller's contract.
        unsafe { *to.add(i * C).cast::<[T; C]>() = *from.add(i * stride).cast::<[T; C]>() };
    }
}

/// Folds `n` windows whose elements lie side by side.
///
/// # Safety
/// All their elements exist at `x`, and `n` results at `at`.
#[inline(always)]
unsafe fn fold_all<T: Element, F: Fold<T>>(p: &Pointers<T>, x: *const T, w: &Window, at: usize, n: usize) {
    // SAFETY: the caller's contract. The last lanes may overlap those before them, which get the same values again.
    unsafe {
        if n >= LANES {
            fold_by::<T, F, LANES>(p, x, w, at, n);
        } else if n >= 4 {
            fold_by::<T, F, 4>(p, x, w, at, n);
        } else {
            fold_by::<T, F, 1>(p, x, w, at, n);
        }
    }
}

/// # Safety
/// As [`fold_all`]; `n` is at least `W`, or 0.
#[inline(always)]
unsafe fn fold_by<T: Element, F: Fold<T>, const W: usize>(
    p: &Pointers<T>,
    x: *const T,
    w: &Window,
    at: usize,
    n: usize,
) {
    for l in (0..n).step_by(W) {
        let from = l.min(n - W);
        // SAFETY: the caller's contract.
        unsafe { fold::<T, F, W>(p, x.add(from), w, at + from) };
    }
}

/// # Safety
/// As [`fold_all`], of `W` windows.
#[inline(always)]
unsafe fn fold<T: Element, F: Fold<T>, const W: usize>(p: &Pointers<T>, x: *const T, w: &Window, at: usize) {
    // SAFETY: the caller's contract.
    unsafe {
        let mut state = F::begin::<W>(p, at, w.place);
        for i in 0..w.n[0] {
            for j in 0..w.n[1] {
                let from = x.add(i * w.step[0] + j * w.step[1]);
                let place = w.place + i as i32 * w.place_step[0] + j as i32 * w.place_step[1];
                for k in 0..w.n[2] {
                    let x = from.add(k * w.step[2]).cast::<[T; W]>().read_unaligned();
                    F::step(&mut state, &x, place + k as i32 * w.place_step[2]);
                }
            }
        }
        F::result(p).add(at).cast::<[F::Out; W]>().write_unaligned(F::end(state));
    }
}

// ---- each window's value back to its elements ---------------------------------------------------------------------------------------------

/// Adds each window's value at its place, or (not `AT_PLACE`) at all its places.
struct Adjoint<const AT_PLACE: bool>;

impl<T: Number, const AT_PLACE: bool> Rows<T> for Adjoint<AT_PLACE> {
    #[inline(always)]
    unsafe fn run(s: &Sizes, p: &Pointers<T>, rows: Range<usize>) {
        let (c, [a_out, b_out, w_out]) = (s.channels, s.out);
        let n = s.input[2] * c;
        let mut room = [T::ZERO; ROOM];
        for row in rows {
            let image = row / (s.input[0] * s.input[1]);
            // SAFETY: the row is this task's.
            let y = unsafe { std::slice::from_raw_parts_mut(p.y.add(row * n), n) };
            y.fill(T::ZERO);
            let y = y.as_mut_ptr();
            for (a, i) in s.covering(0, row / s.input[1] % s.input[0]) {
                for (b, j) in s.covering(1, row % s.input[1]) {
                    let windows = ((image * a_out + a) * b_out + b) * w_out;
                    // Later places of earlier windows come first: a pixel gets its windows in their order.
                    for k in (0..s.size[2]).rev() {
                        let outputs = s.outputs(2, k);
                        if outputs.is_empty() {
                            continue;
                        }
                        let place = ((i * s.size[1] + j) * s.size[2] + k) as i32;
                        let (from, n) = ((windows + outputs.start) * c, outputs.len());
                        // SAFETY: these windows' values exist, and their place k is inside the row.
                        unsafe {
                            let y = y.add(s.position(2, outputs.start, k) * c);
                            add_row::<T, AT_PLACE>(p, from, y, place, [c, s.stride[2], n], &mut room);
                        }
                    }
                }
            }
        }
    }
}

/// Adds the values of `n` windows of `c` channels, from element `from` on, to pixels `stride` apart.
///
/// # Safety
/// The values exist at `from` and the pixels at `y`.
#[inline(always)]
unsafe fn add_row<T: Number, const AT_PLACE: bool>(
    p: &Pointers<T>,
    from: usize,
    y: *mut T,
    place: i32,
    [c, stride, n]: [usize; 3],
    room: &mut [T; ROOM],
) {
    // SAFETY: the caller's contract.
    unsafe {
        if stride == 1 {
            return add_all::<T, AT_PLACE, true>(p, from, y, place, n * c);
        }
        if c == LANES || c == 2 * LANES {
            // No loop over the channels: it would cost as much as its work.
            for o in 0..n {
                let y = y.add(o * stride * c);
                add::<T, AT_PLACE, true, LANES>(p, from + o * c, y, place);
                if c > LANES {
                    add::<T, AT_PLACE, true, LANES>(p, from + o * c + LANES, y.add(LANES), place);
                }
            }
            return;
        }
        if c >= LANES {
            return (0..n).for_each(|o| {
                add_all::<T, AT_PLACE, true>(p, from + o * c, y.add(o * stride * c), place, c);
            });
        }
        if c == 1 {
            return (0..n).for_each(|o| add::<T, AT_PLACE, true, 1>(p, from + o, y.add(o * stride), place));
        }
        let most = ROOM / c;
        for o in (0..n).step_by(most) {
            let n = most.min(n - o);
            add_all::<T, AT_PLACE, false>(p, from + o * c, room.as_mut_ptr(), place, n * c);
            add_pixels(room.as_ptr(), y.add(o * stride * c), stride * c, c, n);
        }
    }
}

/// Adds to `y` (or, not `ADD`, writes to it) `n` values, 0 for those whose place is another.
///
/// # Safety
/// As [`add_row`].
#[inline(always)]
unsafe fn add_all<T: Number, const AT_PLACE: bool, const ADD: bool>(
    p: &Pointers<T>,
    from: usize,
    y: *mut T,
    place: i32,
    n: usize,
) {
    // SAFETY: the caller's contract.
    unsafe {
        let mut l = 0;
        while l + LANES <= n {
            add::<T, AT_PLACE, ADD, LANES>(p, from + l, y.add(l), place);
            l += LANES;
        }
        while l + 4 <= n {
            add::<T, AT_PLACE, ADD, 4>(p, from + l, y.add(l), place);
            l += 4;
        }
        (l..n).for_each(|l| add::<T, AT_PLACE, ADD, 1>(p, from + l, y.add(l), place));
    }
}

/// # Safety
/// As [`add_all`], of `W` values.
#[inline(always)]
unsafe fn add<T: Number, const AT_PLACE: bool, const ADD: bool, const W: usize>(
    p: &Pointers<T>,
    from: usize,
    y: *mut T,
    place: i32,
) {
    // SAFETY: the caller's contract.
    unsafe {
        let mut d = p.x.add(from).cast::<[T; W]>().read_unaligned();
        if AT_PLACE {
            let at = p.place.add(from).cast::<[i32; W]>().read_unaligned();
            for l in 0..W {
                d[l] = if at[l] == place { d[l] } else { T::ZERO };
            }
        }
        let y = y.cast::<[T; W]>();
        if ADD {
            let held = y.read_unaligned();
            for l in 0..W {
                d[l] = held[l].plus(d[l]);
            }
        }
        y.write_unaligned(d);
    }
}

/// Adds `n` packed pixels of `c` elements to pixels `stride` elements apart.
///
/// # Safety
/// Both exist.
#[inline(always)]
unsafe fn add_pixels<T: Number>(from: *const T, y: *mut T, stride: usize, c: usize, n: usize) {
    // SAFETY: the caller's contract.
    unsafe {
        match c {
            1 => add_short::<T, 1>(from, y, stride, n),
            2 => add_short::<T, 2>(from, y, stride, n),
            3 => add_short::<T, 3>(from, y, stride, n),
            4 => add_short::<T, 4>(from, y, stride, n),
            6 => add_short::<T, 6>(from, y, stride, n),
            8 => add_short::<T, 8>(from, y, stride, n),
            _ => {
                for i in 0..n {
                    for l in 0..c {
                        let y = y.add(i * stride + l);
                        *y = (*y).plus(*from.add(i * c + l));
                    }
                }
            }
        }
    }
}

/// # Safety
/// As [`add_pixels`].
#[inline(always)]
unsafe fn add_short<T: Number, const C: usize>(from: *const T, y: *mut T, stride: usize, n: usize) {
    for i in 0..n {
        // SAFETY: the caller's contract.
        unsafe {
            let (d, y) = (*from.add(i * C).cast::<[T; C]>(), y.add(i * stride).cast::<[T; C]>());
            let mut held = *y;
            for l in 0..C {
                held[l] = held[l].plus(d[l]);
            }
            *y = held;
        }
    }
}
