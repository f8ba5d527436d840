//! Block functions: one instruction over a whole block of lanes. Takes an op, a dtype and a level, gives a function over raw lanes.
//! Never sees an index or a stride.

use super::level::Level;
use super::{half, math};
use std::marker::PhantomData;
use wholestep_compiler::ir::DType;
use wholestep_compiler::ir::op::{Binary, Unary};

/// Lanes that every block function works in: block lengths are multiples of it.
pub const LANES: usize = 16;

/// `dst[i] = f(a[i], b[i], c[i])` for `i < n`; `n` is a multiple of [`LANES`]. `dst` overlaps no operand. Unused operands are any address.
pub type BlockFn = unsafe fn(*mut u8, *const u8, *const u8, *const u8, usize);

/// A block function's body; inlined into one function for each level.
pub(super) trait Block {
    /// # Safety
    /// As [`BlockFn`].
    unsafe fn run<const FMA: bool>(dst: *mut u8, a: *const u8, b: *const u8, c: *const u8, n: usize);
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx2,fma")]
unsafe fn at_avx512<K: Block>(dst: *mut u8, a: *const u8, b: *const u8, c: *const u8, n: usize) {
    // SAFETY: the caller's contract.
    unsafe { K::run::<true>(dst, a, b, c, n) }
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2,fma")]
unsafe fn at_avx2<K: Block>(dst: *mut u8, a: *const u8, b: *const u8, c: *const u8, n: usize) {
    // SAFETY: the caller's contract.
    unsafe { K::run::<true>(dst, a, b, c, n) }
}

unsafe fn at_baseline<K: Block>(dst: *mut u8, a: *const u8, b: *const u8, c: *const u8, n: usize) {
    // SAFETY: the caller's contract.
    unsafe { K::run::<{ cfg!(target_arch = "aarch64") }>(dst, a, b, c, n) }
}

pub(super) fn pick<K: Block>(level: Level) -> BlockFn {
    match level {
        Level::Baseline => at_baseline::<K>,
        #[cfg(target_arch = "x86_64")]
        Level::Avx2 => at_avx2::<K>,
        #[cfg(target_arch = "x86_64")]
        Level::Avx512 => at_avx512::<K>,
        #[cfg(not(target_arch = "x86_64"))]
        Level::Avx2 | Level::Avx512 => at_baseline::<K>,
    }
}

trait Op1 {
    type In: Copy;
    type Out: Copy;
    fn f<const FMA: bool>(x: Self::In) -> Self::Out;
}

trait Op2 {
    type In: Copy;
    type Out: Copy;
    fn f<const FMA: bool>(x: Self::In, y: Self::In) -> Self::Out;
}

trait Op3 {
    type A: Copy;
    type B: Copy;
    fn f<const FMA: bool>(a: Self::A, b: Self::B, c: Self::B) -> Self::B;
}

struct Map1<O>(PhantomData<O>);
struct Map2<O>(PhantomData<O>);
struct Map3<O>(PhantomData<O>);

impl<O: Op1> Block for Map1<O> {
    #[inline(always)]
    unsafe fn run<const FMA: bool>(dst: *mut u8, a: *const u8, _: *const u8, _: *const u8, n: usize) {
        let n = n / LANES * LANES;
        // SAFETY: the caller gives n valid lanes in each, and dst overlaps no operand.
        let (d, a) = unsafe {
            (std::slice::from_raw_parts_mut(dst.cast::<O::Out>(), n), std::slice::from_raw_parts(a.cast::<O::In>(), n))
        };
        for (d, a) in d.iter_mut().zip(a) {
            *d = O::f::<FMA>(*a);
        }
    }
}

impl<O: Op2> Block for Map2<O> {
    #[inline(always)]
    unsafe fn run<const FMA: bool>(dst: *mut u8, a: *const u8, b: *const u8, _: *const u8, n: usize) {
        let n = n / LANES * LANES;
        // SAFETY: as above.
        let (d, a, b) = unsafe {
            (
                std::slice::from_raw_parts_mut(dst.cast::<O::Out>(), n),
                std::slice::from_raw_parts(a.cast::<O::In>(), n),
                std::slice::from_raw_parts(b.cast::<O::In>(), n),
            )
        };
        for ((d, a), b) in d.iter_mut().zip(a).zip(b) {
            *d = O::f::<FMA>(*a, *b);
        }
    }
}

impl<O: Op3> Block for Map3<O> {
    #[inline(always)]
    unsafe fn run<const FMA: bool>(dst: *mut u8, a: *const u8, b: *const u8, c: *const u8, n: usize) {
        let n = n / LANES * LANES;
        // SAFETY: as above.
        let (d, a, b, c) = unsafe {
            (
                std::slice::from_raw_parts_mut(dst.cast::<O::B>(), n),
                std::slice::from_raw_parts(a.cast::<O::A>(), n),
                std::slice::from_raw_parts(b.cast::<O::B>(), n),
                std::slice::from_raw_parts(c.cast::<O::B>(), n),
            )
        };
        for (((d, a), b), c) in d.iter_mut().zip(a).zip(b).zip(c) {
            *d = O::f::<FMA>(*a, *b, *c);
        }
    }
}

macro_rules! one {
    ($level:expr, $in:ty => $out:ty, |$x:ident| $e:expr) => {{
        struct K;
        impl Op1 for K {
            type In = $in;
            type Out = $out;
            #[inline(always)]
            fn f<const FMA: bool>($x: $in) -> $out {
                $e
            }
        }
        pick::<Map1<K>>($level)
    }};
}

macro_rules! two {
    ($level:expr, $in:ty => $out:ty, |$x:ident, $y:ident| $e:expr) => {{
        struct K;
        impl Op2 for K {
            type In = $in;
            type Out = $out;
            #[inline(always)]
            fn f<const FMA: bool>($x: $in, $y: $in) -> $out {
                $e
            }
        }
        pick::<Map2<K>>($level)
    }};
}

macro_rules! three {
    ($level:expr, $a:ty, $b:ty, |$x:ident, $y:ident, $z:ident| $e:expr) => {{
        struct K;
        impl Op3 for K {
            type A = $a;
            type B = $b;
            #[inline(always)]
            fn f<const FMA: bool>($x: $a, $y: $b, $z: $b) -> $b {
                $e
            }
        }
        pick::<Map3<K>>($level)
    }};
}

/// The block function of a unary op, or `None` where the op does not take the dtype.
pub fn unary(op: Unary, dtype: DType, level: Level) -> Option<BlockFn> {
    match dtype {
        DType::F32 => unary_f32(op, level),
        DType::F64 => unary_f64(op, level),
        DType::I32 => unary_i32(op, level),
        DType::I64 => unary_i64(op, level),
        DType::U32 => unary_u32(op, level),
        DType::U8 => unary_u8(op, level),
        DType::Bool => match op {
            Unary::Not => Some(one!(level, u8 => u8, |x| (x == 0) as u8)),
            Unary::Detach => Some(copy(DType::Bool, level)),
            _ => None,
        },
        DType::F16 | DType::BF16 => None,
    }
}

fn unary_f32(op: Unary, level: Level) -> Option<BlockFn> {
    Some(match op {
        Unary::Neg => one!(level, f32 => f32, |x| -x),
        Unary::Abs => one!(level, f32 => f32, |x| x.abs()),
        Unary::Sign => one!(level, f32 => f32, |x| math::sign(x)),
        Unary::Not => return None,
        Unary::Exp => one!(level, f32 => f32, |x| math::exp::<FMA>(x)),
        Unary::Expm1 => one!(level, f32 => f32, |x| math::expm1::<FMA>(x)),
        Unary::Log => one!(level, f32 => f32, |x| math::log::<FMA>(x)),
        Unary::Log1p => one!(level, f32 => f32, |x| math::log1p::<FMA>(x)),
        Unary::Sqrt => one!(level, f32 => f32, |x| x.sqrt()),
        Unary::Rsqrt => one!(level, f32 => f32, |x| 1.0 / x.sqrt()),
        Unary::Recip => one!(level, f32 => f32, |x| 1.0 / x),
        Unary::Sin => pick::<math::SinBlock>(level),
        Unary::Cos => pick::<math::CosBlock>(level),
        Unary::Tanh => one!(level, f32 => f32, |x| math::tanh::<FMA>(x)),
        // Rare in networks: the standard library's, one element after the other.
        Unary::Asin => one!(level, f32 => f32, |x| x.asin()),
        Unary::Acos => one!(level, f32 => f32, |x| x.acos()),
        Unary::Atan => one!(level, f32 => f32, |x| x.atan()),
        // In f32 the largest numbers would overflow on the way.
        Unary::Asinh => one!(level, f32 => f32, |x| f64::from(x).asinh() as f32),
        Unary::Sigmoid => one!(level, f32 => f32, |x| math::sigmoid::<FMA>(x)),
        Unary::Erf => one!(level, f32 => f32, |x| math::erf::<FMA>(x)),
        Unary::Floor => one!(level, f32 => f32, |x| x.floor()),
        Unary::Ceil => one!(level, f32 => f32, |x| x.ceil()),
        Unary::Round => one!(level, f32 => f32, |x| x.round_ties_even()),
        Unary::Detach => copy(DType::F32, level),
    })
}

fn unary_f64(op: Unary, level: Level) -> Option<BlockFn> {
    Some(match op {
        Unary::Neg => one!(level, f64 => f64, |x| -x),
        Unary::Abs => one!(level, f64 => f64, |x| x.abs()),
        Unary::Sign => one!(level, f64 => f64, |x| if x == 0.0 || x.is_nan() { x } else { 1f64.copysign(x) }),
        Unary::Not => return None,
        Unary::Exp => one!(level, f64 => f64, |x| x.exp()),
        Unary::Expm1 => one!(level, f64 => f64, |x| x.exp_m1()),
        Unary::Log => one!(level, f64 => f64, |x| x.ln()),
        Unary::Log1p => one!(level, f64 => f64, |x| x.ln_1p()),
        Unary::Sqrt => one!(level, f64 => f64, |x| x.sqrt()),
        Unary::Rsqrt => one!(level, f64 => f64, |x| 1.0 / x.sqrt()),
        Unary::Recip => one!(level, f64 => f64, |x| 1.0 / x),
        Unary::Sin => one!(level, f64 => f64, |x| x.sin()),
        Unary::Cos => one!(level, f64 => f64, |x| x.cos()),
        Unary::Tanh => one!(level, f64 => f64, |x| x.tanh()),
        Unary::Asin => one!(level, f64 => f64, |x| x.asin()),
        Unary::Acos => one!(level, f64 => f64, |x| x.acos()),
        Unary::Atan => one!(level, f64 => f64, |x| x.atan()),
        Unary::Asinh => one!(level, f64 => f64, |x| x.asinh()),
        Unary::Sigmoid => one!(level, f64 => f64, |x| math::sigmoid_f64(x)),
        Unary::Erf => one!(level, f64 => f64, |x| math::erf_f64(x)),
        Unary::Floor => one!(level, f64 => f64, |x| x.floor()),
        Unary::Ceil => one!(level, f64 => f64, |x| x.ceil()),
        Unary::Round => one!(level, f64 => f64, |x| x.round_ties_even()),
        Unary::Detach => copy(DType::F64, level),
    })
}

macro_rules! unary_whole {
    ($name:ident, $t:ty, $dtype:expr, |$x:ident| $neg:expr, $abs:expr, $sign:expr) => {
        fn $name(op: Unary, level: Level) -> Option<BlockFn> {
            match op {
                Unary::Neg => Some(one!(level, $t => $t, |$x| $neg)),
                Unary::Abs => Some(one!(level, $t => $t, |$x| $abs)),
                Unary::Sign => Some(one!(level, $t => $t, |$x| $sign)),
                Unary::Detach => Some(copy($dtype, level)),
                _ => None,
            }
        }
    };
}
unary_whole!(unary_i32, i32, DType::I32, |x| x.wrapping_neg(), x.wrapping_abs(), x.signum());
unary_whole!(unary_i64, i64, DType::I64, |x| x.wrapping_neg(), x.wrapping_abs(), x.signum());
unary_whole!(unary_u32, u32, DType::U32, |x| x.wrapping_neg(), x, (x > 0) as u32);
unary_whole!(unary_u8, u8, DType::U8, |x| x.wrapping_neg(), x, (x > 0) as u8);

/// The block function of a binary op, or `None` where the op does not take the dtype.
pub fn binary(op: Binary, dtype: DType, level: Level) -> Option<BlockFn> {
    match dtype {
        DType::F32 => binary_f32(op, level),
        DType::F64 => binary_f64(op, level),
        DType::I32 => binary_i32(op, level),
        DType::I64 => binary_i64(op, level),
        DType::U32 => binary_u32(op, level),
        DType::U8 => binary_u8(op, level),
        DType::Bool => match op {
            Binary::Shl | Binary::Shr | Binary::Add | Binary::Sub | Binary::Mul | Binary::Div => None,
            Binary::Rem | Binary::Pow | Binary::Atan2 | Binary::Max | Binary::Min => None,
            Binary::Eq | Binary::Ne | Binary::Lt | Binary::Le | Binary::Gt | Binary::Ge => binary_u8(op, level),
            Binary::And | Binary::Or | Binary::Xor => binary_u8(op, level),
        },
        DType::F16 | DType::BF16 => None,
    }
}

macro_rules! binary_float {
    ($name:ident, $t:ty, $pow:expr, $rem:expr) => {
        fn $name(op: Binary, level: Level) -> Option<BlockFn> {
            Some(match op {
                Binary::Add => two!(level, $t => $t, |x, y| x + y),
                Binary::Sub => two!(level, $t => $t, |x, y| x - y),
                Binary::Mul => two!(level, $t => $t, |x, y| x * y),
                Binary::Div => two!(level, $t => $t, |x, y| x / y),
                Binary::Rem => two!(level, $t => $t, |x, y| $rem(x, y)),
                Binary::Pow => two!(level, $t => $t, |x, y| $pow(x, y)),
                Binary::Atan2 => two!(level, $t => $t, |x, y| x.atan2(y)),
                Binary::Max => two!(level, $t => $t, |x, y| if x > y || x.is_nan() { x } else { y }),
                Binary::Min => two!(level, $t => $t, |x, y| if x < y || x.is_nan() { x } else { y }),
                Binary::Eq => two!(level, $t => u8, |x, y| (x == y) as u8),
                Binary::Ne => two!(level, $t => u8, |x, y| (x != y) as u8),
                Binary::Lt => two!(level, $t => u8, |x, y| (x < y) as u8),
                Binary::Le => two!(level, $t => u8, |x, y| (x <= y) as u8),
                Binary::Gt => two!(level, $t => u8, |x, y| (x > y) as u8),
                Binary::Ge => two!(level, $t => u8, |x, y| (x >= y) as u8),
                Binary::And | Binary::Or | Binary::Xor | Binary::Shl | Binary::Shr => return None,
            })
        }
    };
}
binary_float!(binary_f32, f32, math::pow, math::remainder);
binary_float!(binary_f64, f64, f64::powf, math::remainder_f64);

macro_rules! binary_whole {
    ($name:ident, $t:ty, |$x:ident, $y:ident| $rem:expr) => {
        fn $name(op: Binary, level: Level) -> Option<BlockFn> {
            Some(match op {
                Binary::Add => two!(level, $t => $t, |x, y| x.wrapping_add(y)),
                Binary::Sub => two!(level, $t => $t, |x, y| x.wrapping_sub(y)),
                Binary::Mul => two!(level, $t => $t, |x, y| x.wrapping_mul(y)),
                Binary::Div => two!(level, $t => $t, |x, y| if y == 0 { 0 } else { x.wrapping_div(y) }),
                Binary::Rem => two!(level, $t => $t, |$x, $y| if $y == 0 { 0 } else { $rem }),
                Binary::Pow | Binary::Atan2 => return None,
                Binary::Max => two!(level, $t => $t, |x, y| x.max(y)),
                Binary::Min => two!(level, $t => $t, |x, y| x.min(y)),
                Binary::Eq => two!(level, $t => u8, |x, y| (x == y) as u8),
                Binary::Ne => two!(level, $t => u8, |x, y| (x != y) as u8),
                Binary::Lt => two!(level, $t => u8, |x, y| (x < y) as u8),
                Binary::Le => two!(level, $t => u8, |x, y| (x <= y) as u8),
                Binary::Gt => two!(level, $t => u8, |x, y| (x > y) as u8),
                Binary::Ge => two!(level, $t => u8, |x, y| (x >= y) as u8),
                Binary::And => two!(level, $t => $t, |x, y| x & y),
                Binary::Or => two!(level, $t => $t, |x, y| x | y),
                Binary::Xor => two!(level, $t => $t, |x, y| x ^ y),
                // The count is taken modulo the width.
                Binary::Shl => two!(level, $t => $t, |x, y| x.wrapping_shl(y as u32)),
                Binary::Shr => two!(level, $t => $t, |x, y| x.wrapping_shr(y as u32)),
            })
        }
    };
}

binary_whole!(binary_i32, i32, |x, y| {
    let r = x.wrapping_rem(y);
    if r != 0 && (r < 0) != (y < 0) { r.wrapping_add(y) } else { r }
});
binary_whole!(binary_i64, i64, |x, y| {
    let r = x.wrapping_rem(y);
    if r != 0 && (r < 0) != (y < 0) { r.wrapping_add(y) } else { r }
});
binary_whole!(binary_u32, u32, |x, y| x % y);
binary_whole!(binary_u8, u8, |x, y| x % y);

/// `c ? a : b` with operands cond, yes, no.
pub fn select(dtype: DType, level: Level) -> BlockFn {
    match dtype.size_bytes() {
        8 => three!(level, u8, u64, |c, x, y| if c != 0 { x } else { y }),
        4 => three!(level, u8, u32, |c, x, y| if c != 0 { x } else { y }),
        2 => three!(level, u8, u16, |c, x, y| if c != 0 { x } else { y }),
        _ => three!(level, u8, u8, |c, x, y| if c != 0 { x } else { y }),
    }
}

/// `a·b + c` in f32, rounded once where the level can.
pub fn mul_add(level: Level) -> BlockFn {
    three!(level, f32, f32, |a, b, c| math::fma::<FMA>(a, b, c))
}

/// `a·b - c`.
pub fn mul_sub(level: Level) -> BlockFn {
    three!(level, f32, f32, |a, b, c| math::fma::<FMA>(a, b, -c))
}

/// `c - a·b`.
pub fn neg_mul_add(level: Level) -> BlockFn {
    three!(level, f32, f32, |a, b, c| math::fma::<FMA>(-a, b, c))
}

/// The lanes themselves.
pub fn copy(dtype: DType, level: Level) -> BlockFn {
    match dtype.size_bytes() {
        8 => one!(level, u64 => u64, |x| x),
        4 => one!(level, u32 => u32, |x| x),
        2 => one!(level, u16 => u16, |x| x),
        _ => one!(level, u8 => u8, |x| x),
    }
}

macro_rules! cast_from {
    ($t:ty, $to:expr, $level:expr) => {
        match $to {
            DType::F64 => Some(one!($level, $t => f64, |x| x as f64)),
            DType::F32 => Some(one!($level, $t => f32, |x| x as f32)),
            DType::I64 => Some(one!($level, $t => i64, |x| x as i64)),
            DType::I32 => Some(one!($level, $t => i32, |x| x as i32)),
            DType::U32 => Some(one!($level, $t => u32, |x| x as u32)),
            DType::U8 => Some(one!($level, $t => u8, |x| x as u8)),
            DType::Bool => Some(one!($level, $t => u8, |x| (x != (0 as $t)) as u8)),
            DType::F16 | DType::BF16 => None,
        }
    };
}

/// The block function that converts `from` to `to`, as [`wholestep_compiler::ir::op::Elementwise::Cast`] says. Floats of 16 bits convert to and
/// from f32 alone.
pub fn cast(from: DType, to: DType, level: Level) -> Option<BlockFn> {
    match (from, to) {
        (DType::F32, DType::F16) => Some(one!(level, f32 => u16, |x| half::f32_to_f16(x))),
        (DType::F32, DType::BF16) => Some(one!(level, f32 => u16, |x| half::f32_to_bf16(x))),
        (DType::F16, DType::F32) => Some(one!(level, u16 => f32, |x| half::f16_to_f32(x))),
        (DType::BF16, DType::F32) => Some(one!(level, u16 => f32, |x| half::bf16_to_f32(x))),
        (DType::F64, _) => cast_from!(f64, to, level),
        (DType::F32, _) => cast_from!(f32, to, level),
        (DType::I64, _) => cast_from!(i64, to, level),
        (DType::I32, _) => cast_from!(i32, to, level),
        (DType::U32, _) => cast_from!(u32, to, level),
        (DType::U8 | DType::Bool, _) => cast_from!(u8, to, level),
        (DType::F16 | DType::BF16, _) => None,
    }
}
