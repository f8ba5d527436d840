//! Scalar functions written so that a compiler can make vectors of them: no branches, no calls, no tables. Takes one number, gives one
//! number within about 2 units in the last place of f32 (the tests say how much). Never differs between lanes of a block and its end.
//!
//! Polynomial coefficients are near-minimax fits over the reduced ranges (weighted least squares, reweighted until the error is level).

use super::blocks::{Block, LANES};
use std::f32::consts::{LN_2, LOG2_E};

#[inline(always)]
pub fn fma<const FMA: bool>(a: f32, b: f32, c: f32) -> f32 {
    if FMA { a.mul_add(b, c) } else { a * b + c }
}

/// Adding and subtracting it rounds to a whole number, whose bits then stand at the low end.
const ROUNDER: f32 = 12_582_912.0;
/// ln 2 in two parts; the first has few bits, so that a whole number times it is exact.
const LN2_HI: f32 = 0.693_359_4;
const LN2_LO: f32 = -2.121_944_4e-4;

/// 2^n for n in -126..=127.
#[inline(always)]
fn pow2(n: i32) -> f32 {
    f32::from_bits((n.wrapping_add(127) as u32) << 23)
}

/// x = n·ln 2 + r with |r| <= ln 2 / 2; gives n and e^r - 1 - r, r.
#[inline(always)]
fn exp_parts<const FMA: bool>(x: f32) -> (i32, f32, f32) {
    let shifted = fma::<FMA>(x, LOG2_E, ROUNDER);
    let n = (shifted.to_bits() as i32).wrapping_sub(ROUNDER.to_bits() as i32);
    let whole = shifted - ROUNDER;
    let r = fma::<FMA>(whole, -LN2_LO, fma::<FMA>(whole, -LN2_HI, x));
    let p = fma::<FMA>(1.979_021_9e-4, r, 1.394_478_4e-3);
    let p = fma::<FMA>(p, r, 8.333_498e-3);
    let p = fma::<FMA>(p, r, 4.166_629e-2);
    let p = fma::<FMA>(p, r, 0.166_666_66);
    let p = fma::<FMA>(p, r, 0.5);
    (n, p * (r * r), r)
}

#[inline(always)]
pub fn exp<const FMA: bool>(x: f32) -> f32 {
    // Comparisons that are false for NaN keep it.
    let x = if x > 89.0 { 89.0 } else { x };
    let x = if x < -104.0 { -104.0 } else { x };
    let (n, p, r) = exp_parts::<FMA>(x);
    // Two factors reach the subnormal and the overflowing results.
    let half = n >> 1;
    (1.0 + (p + r)) * pow2(half) * pow2(n.wrapping_sub(half))
}

#[inline(always)]
pub fn expm1<const FMA: bool>(x: f32) -> f32 {
    let clamped = if x > 40.0 { 40.0 } else { x };
    let clamped = if clamped < -40.0 { -40.0 } else { clamped };
    let (n, p, r) = exp_parts::<FMA>(clamped);
    let scale = pow2(n);
    let small = fma::<FMA>(scale, p + r, scale - 1.0);
    let small = if n == 0 { p + r } else { small };
    let small = if x == 0.0 { x } else { small };
    if x > 30.0 { exp::<FMA>(x) } else { small }
}

/// ln(m·2^k) where m is in [sqrt(1/2), sqrt(2)) and f = m - 1.
#[inline(always)]
fn log_of<const FMA: bool>(f: f32, k: f32) -> f32 {
    let p = fma::<FMA>(6.746_638_6e-2, f, -0.116_756_51);
    let p = fma::<FMA>(p, f, 0.118_881_63);
    let p = fma::<FMA>(p, f, -0.124_055_89);
    let p = fma::<FMA>(p, f, 0.142_195_52);
    let p = fma::<FMA>(p, f, -0.166_679_96);
    let p = fma::<FMA>(p, f, 0.200_021_19);
    let p = fma::<FMA>(p, f, -0.250_000_1);
    let p = fma::<FMA>(p, f, 0.333_333_13);
    let z = f * f;
    let low = fma::<FMA>(k, LN2_LO, p * f * z);
    let low = fma::<FMA>(-0.5, z, low);
    fma::<FMA>(k, LN2_HI, f + low)
}

/// The bits of sqrt(1/2): subtracting them makes the exponent change there.
const SQRT_HALF_BITS: i32 = 0x3f35_04f3;

#[inline(always)]
fn split(x: f32) -> (f32, i32) {
    let i = (x.to_bits() as i32).wrapping_sub(SQRT_HALF_BITS);
    (f32::from_bits((i & 0x007f_ffff).wrapping_add(SQRT_HALF_BITS) as u32), i >> 23)
}

#[inline(always)]
pub fn log<const FMA: bool>(x: f32) -> f32 {
    let is_subnormal = x < f32::MIN_POSITIVE;
    let scaled = if is_subnormal { x * 8_388_608.0 } else { x };
    let (m, k) = split(scaled);
    let k = k as f32 - if is_subnormal { 23.0 } else { 0.0 };
    let y = log_of::<FMA>(m - 1.0, k);
    let y = if x == f32::INFINITY { x } else { y };
    let y = if x == 0.0 { f32::NEG_INFINITY } else { y };
    if x >= 0.0 { y } else { f32::NAN }
}

#[inline(always)]
pub fn log1p<const FMA: bool>(x: f32) -> f32 {
    let u = 1.0 + x;
    let (m, k) = split(u);
    // What the sum lost, to first order. For u >= 2 the larger term is x.
    let lost = if x >= 1.0 { 1.0 - (u - x) } else { x - (u - 1.0) };
    let y = log_of::<FMA>(m - 1.0, k as f32) + lost / u;
    // Below 1/4 the reduced argument is x itself, which keeps small results exact.
    let y = if x.abs() < 0.25 { log_of::<FMA>(x, 0.0) } else { y };
    let y = if x == 0.0 || x == f32::INFINITY { x } else { y };
    let y = if x == -1.0 { f32::NEG_INFINITY } else { y };
    if x >= -1.0 { y } else { f32::NAN }
}

#[inline(always)]
pub fn sign(x: f32) -> f32 {
    if x == 0.0 || x.is_nan() { x } else { 1f32.copysign(x) }
}

#[inline(always)]
pub fn tanh<const FMA: bool>(x: f32) -> f32 {
    let t = x.abs();
    let z = x * x;
    let p = fma::<FMA>(-5.602_74e-3, z, 2.053_993_8e-2);
    let p = fma::<FMA>(p, z, -5.370_532e-2);
    let p = fma::<FMA>(p, z, 0.133_309_32);
    let p = fma::<FMA>(p, z, -0.333_332_5);
    let small = fma::<FMA>(p * z, x, x);
    let capped = if t > 10.0 { 10.0 } else { t };
    let large = (1.0 - 2.0 / (exp::<FMA>(2.0 * capped) + 1.0)).copysign(x);
    if t < 0.625 { small } else { large }
}

#[inline(always)]
pub fn sigmoid<const FMA: bool>(x: f32) -> f32 {
    // e^-|x| never overflows, and the small results of large negative x keep their precision.
    let e = exp::<FMA>(-x.abs());
    let top = if x < 0.0 { e } else { 1.0 };
    let y = top / (1.0 + e);
    if x.is_nan() { x } else { y }
}

#[inline(always)]
pub fn erf<const FMA: bool>(x: f32) -> f32 {
    let t = x.abs();
    let z = x * x;
    let p = fma::<FMA>(8.193_78e-5, z, -8.099_878e-4);
    let p = fma::<FMA>(p, z, 5.197_155e-3);
    let p = fma::<FMA>(p, z, -2.685_779_1e-2);
    let p = fma::<FMA>(p, z, 0.112_836_66);
    let p = fma::<FMA>(p, z, -0.376_126_32);
    let p = fma::<FMA>(p, z, 0.128_379_17);
    let small = fma::<FMA>(p, x, x);
    // Above, 1 - e^(-t·q(t)); from 3.92 on that is 1 in f32.
    let t = if t > 3.95 { 3.95 } else { t };
    let q = fma::<FMA>(4.593_879e-6, t, -4.136_065e-5);
    let q = fma::<FMA>(q, t, -7.123_641e-5);
    let q = fma::<FMA>(q, t, 2.990_417_4e-3);
    let q = fma::<FMA>(q, t, -2.277_246_5e-2);
    let q = fma::<FMA>(q, t, 0.105_356_8);
    let q = fma::<FMA>(q, t, 0.635_576_37);
    let q = fma::<FMA>(q, t, 1.128_562_5);
    let large = (1.0 - exp::<FMA>(-t * q)).copysign(x);
    let y = if x.abs() < 0.94 { small } else { large };
    if x.is_nan() { x } else { y }
}

/// Quadrant (of pi/2) and the rest, by f64 arithmetic: exact enough for |x| < 10^6.
#[inline(always)]
fn quadrant(x: f32) -> (i32, f32) {
    const ROUND64: f64 = 6_755_399_441_055_744.0;
    let x = f64::from(x);
    let shifted = x * std::f64::consts::FRAC_2_PI + ROUND64;
    let n = shifted - ROUND64;
    // pi/2 in two parts; the first has 33 bits, so that n times it is exact.
    let r = (x - n * 1.570_796_326_734_125_6) - n * 6.077_100_506_506_192e-11;
    (shifted.to_bits() as i32, r as f32)
}

#[inline(always)]
fn sin_cos<const FMA: bool>(x: f32, turn: i32) -> f32 {
    let (n, r) = quadrant(x);
    let n = n.wrapping_add(turn);
    let z = r * r;
    let s = fma::<FMA>(-1.951_565_8e-4, z, 8.332_167e-3);
    let s = fma::<FMA>(s, z, -0.166_666_55);
    let s = fma::<FMA>(s * z, r, r);
    let c = fma::<FMA>(2.443_661_1e-5, z, -1.388_735_3e-3);
    let c = fma::<FMA>(c, z, 4.166_664_6e-2);
    let c = fma::<FMA>(c, z * z, fma::<FMA>(-0.5, z, 1.0));
    let y = if n & 1 == 0 { s } else { c };
    let y = if n & 2 == 0 { y } else { -y };
    if x == 0.0 && turn == 0 { x } else { y }
}

/// Above this the quadrant needs more bits of pi, which the standard library has.
const LARGE_ANGLE: f32 = 1e6;

pub(super) struct SinBlock;
pub(super) struct CosBlock;

/// # Safety
/// `dst` and `a` have `n` valid lanes and do not overlap.
#[inline(always)]
unsafe fn angle_block<const FMA: bool>(dst: *mut u8, a: *const u8, n: usize, turn: i32, large: fn(f32) -> f32) {
    let n = n / LANES * LANES;
    // SAFETY: the caller's contract.
    let (d, a) = unsafe {
        (std::slice::from_raw_parts_mut(dst.cast::<f32>(), n), std::slice::from_raw_parts(a.cast::<f32>(), n))
    };
    let mut is_large = false;
    for (d, &a) in d.iter_mut().zip(a) {
        *d = sin_cos::<FMA>(a, turn);
        is_large |= a.abs() > LARGE_ANGLE;
    }
    if is_large {
        for (d, &a) in d.iter_mut().zip(a) {
            if a.abs() > LARGE_ANGLE {
                *d = large(a);
            }
        }
    }
}

impl Block for SinBlock {
    #[inline(always)]
    unsafe fn run<const FMA: bool>(dst: *mut u8, a: *const u8, _: *const u8, _: *const u8, n: usize) {
        // SAFETY: the caller's contract.
        unsafe { angle_block::<FMA>(dst, a, n, 0, f32::sin) }
    }
}

impl Block for CosBlock {
    #[inline(always)]
    unsafe fn run<const FMA: bool>(dst: *mut u8, a: *const u8, _: *const u8, _: *const u8, n: usize) {
        // SAFETY: the caller's contract.
        unsafe { angle_block::<FMA>(dst, a, n, 1, f32::cos) }
    }
}

/// log2 of a finite positive f32 in f64, to about 1e-11.
#[inline(always)]
fn log2_f64(x: f32) -> f64 {
    let is_subnormal = x < f32::MIN_POSITIVE;
    let (m, k) = split(if is_subnormal { x * 8_388_608.0 } else { x });
    let k = f64::from(k) - if is_subnormal { 23.0 } else { 0.0 };
    let m = f64::from(m);
    // ln m = 2 artanh(s), whose series ends early because |s| < 0.172.
    let s = (m - 1.0) / (m + 1.0);
    let z = s * s;
    let p = 1.0 / 13.0 + z * (1.0 / 15.0);
    let p = 1.0 / 7.0 + z * (1.0 / 9.0 + z * (1.0 / 11.0 + z * p));
    let p = 1.0 + z * (1.0 / 3.0 + z * (1.0 / 5.0 + z * p));
    k + s * p * (2.0 * std::f64::consts::LOG2_E)
}

/// 2^t in f64, to about 1e-10; t outside of what f32 can hold gives 0 or infinity once it is narrowed.
#[inline(always)]
fn exp2_f64(t: f64) -> f64 {
    const ROUND64: f64 = 6_755_399_441_055_744.0;
    let t = if t > 200.0 { 200.0 } else { t };
    let t = if t < -200.0 { -200.0 } else { t };
    let shifted = t + ROUND64;
    let r = (t - (shifted - ROUND64)) * std::f64::consts::LN_2;
    let p = 1.0 / 40_320.0 + r * (1.0 / 362_880.0);
    let p = 1.0 / 120.0 + r * (1.0 / 720.0 + r * (1.0 / 5_040.0 + r * p));
    let p = 1.0 + r * (1.0 + r * (0.5 + r * (1.0 / 6.0 + r * (1.0 / 24.0 + r * p))));
    let n = shifted.to_bits() as i32;
    p * f64::from_bits(((i64::from(n) + 1023) as u64) << 52)
}

/// x^y with the special cases of C's `pow`.
#[inline(always)]
pub fn pow(x: f32, y: f32) -> f32 {
    let a = x.abs();
    let log = log2_f64(a);
    let log = if a == 0.0 { f64::NEG_INFINITY } else { log };
    let log = if a == f32::INFINITY { f64::INFINITY } else { log };
    let r = exp2_f64(f64::from(y) * log) as f32;
    let whole = y.floor() == y;
    let half = y * 0.5;
    let odd = whole && half.floor() != half;
    let is_negative = x.to_bits() >> 31 != 0;
    let r = if is_negative && odd { -r } else { r };
    let r = if x < 0.0 && !whole && a != f32::INFINITY { f32::NAN } else { r };
    let r = if a == 1.0 && y.abs() == f32::INFINITY { 1.0 } else { r };
    let r = if x.is_nan() || y.is_nan() { f32::NAN } else { r };
    if x == 1.0 || y == 0.0 { 1.0 } else { r }
}

/// Remainder with the divisor's sign.
#[inline(always)]
pub fn remainder(x: f32, y: f32) -> f32 {
    let r = x % y;
    if r != 0.0 && (r < 0.0) != (y < 0.0) { r + y } else { r }
}

#[inline(always)]
pub fn remainder_f64(x: f64, y: f64) -> f64 {
    let r = x % y;
    if r != 0.0 && (r < 0.0) != (y < 0.0) { r + y } else { r }
}

#[inline(always)]
pub fn sigmoid_f64(x: f64) -> f64 {
    let e = (-x.abs()).exp();
    if x < 0.0 { e / (1.0 + e) } else { 1.0 / (1.0 + e) }
}

/// The Gauss error function in f64.
pub fn erf_f64(x: f64) -> f64 {
    libm::erf(x)
}

const _: () = assert!(LN_2 > LN2_HI - 1e-3 && LANES == 16);
