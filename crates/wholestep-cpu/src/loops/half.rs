//! 16-bit floats as bits. Takes bits of one type, gives those of the other; rounds to nearest, ties to even, as IEEE 754 and PyTorch do, with
//! subnormals, infinities and NaN. Never branches, so that a compiler makes vectors of it at every level.

/// A bf16 in f32, exactly.
#[inline(always)]
pub fn bf16_to_f32(h: u16) -> f32 {
    f32::from_bits(u32::from(h) << 16)
}

/// The bf16 nearest to `x`. NaN stays NaN, quiet, with its sign.
#[inline(always)]
pub fn f32_to_bf16(x: f32) -> u16 {
    let bits = x.to_bits();
    let rounded = bits.wrapping_add(0x7fff + ((bits >> 16) & 1)) >> 16;
    let quiet = (bits >> 16) | 0x40;
    let is_nan = bits & 0x7fff_ffff > 0x7f80_0000;
    (if is_nan { quiet } else { rounded }) as u16
}

/// An f16 in f32, exactly.
#[inline(always)]
pub fn f16_to_f32(h: u16) -> f32 {
    let sign = u32::from(h & 0x8000) << 16;
    let rest = u32::from(h & 0x7fff) << 13;
    // The exponent's bias differs by 112; the product is exact for subnormals too.
    let finite = (f32::from_bits(rest) * f32::from_bits(0x7780_0000)).to_bits();
    let special = rest | 0x7f80_0000;
    f32::from_bits(sign | if rest >= 0x0f80_0000 { special } else { finite })
}

/// The f16 nearest to `x`: infinite from 65520 on. NaN stays NaN, quiet, with its sign.
#[inline(always)]
pub fn f32_to_f16(x: f32) -> u16 {
    let bits = x.to_bits();
    let sign = (bits >> 16) & 0x8000;
    let size = bits & 0x7fff_ffff;
    let normal = size.wrapping_sub(0x3800_0000).wrapping_add(0xfff + ((size >> 13) & 1)) >> 13;
    // Adding 1/2 rounds at 2^-24, the step of subnormals: their bits then stand at the low end.
    let subnormal = (f32::from_bits(size) + 0.5).to_bits().wrapping_sub(0x3f00_0000);
    let small = if size < 0x3880_0000 { subnormal } else { normal };
    let finite = if size >= 0x4780_0000 { 0x7c00 } else { small };
    let is_nan = size > 0x7f80_0000;
    (sign | if is_nan { 0x7e00 | ((size >> 13) & 0x3ff) } else { finite }) as u16
}
