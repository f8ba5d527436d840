//! Random bits of a run of elements. Takes element numbers, a key, a step and a stream, gives Philox words. Never keeps a state.

use super::level::Level;
use wholestep_compiler::ir::op::random::philox4x32;

/// Writes the words of blocks `first..first + n`, four each.
pub type BlocksFn = unsafe fn(dst: *mut u32, first: u32, n: usize, stream: u32, step: u32, key: [u32; 2]);

/// Counters that run side by side.
const WIDE: usize = 16;

#[inline(always)]
unsafe fn blocks_body(dst: *mut u32, first: u32, n: usize, stream: u32, step: u32, key: [u32; 2]) {
    const MUL: [u64; 2] = [0xD251_1F53, 0xCD9E_8D57];
    const WEYL: [u32; 2] = [0x9E37_79B9, 0xBB67_AE85];
    for at in (0..n).step_by(WIDE) {
        let mut c0: [u32; WIDE] = std::array::from_fn(|i| first.wrapping_add((at + i) as u32));
        let (mut c1, mut c2, mut c3) = ([stream; WIDE], [step; WIDE], [0u32; WIDE]);
        let [mut k0, mut k1] = key;
        for _ in 0..10 {
            for i in 0..WIDE {
                let (p0, p1) = (MUL[0] * u64::from(c0[i]), MUL[1] * u64::from(c2[i]));
                c0[i] = (p1 >> 32) as u32 ^ c1[i] ^ k0;
                c2[i] = (p0 >> 32) as u32 ^ c3[i] ^ k1;
                (c1[i], c3[i]) = (p1 as u32, p0 as u32);
            }
            (k0, k1) = (k0.wrapping_add(WEYL[0]), k1.wrapping_add(WEYL[1]));
        }
        for i in 0..WIDE.min(n - at) {
            let words = [c0[i], c1[i], c2[i], c3[i]];
            // SAFETY: dst has room for 4·n words.
            unsafe { dst.add((at + i) * 4).cast::<[u32; 4]>().write_unaligned(words) };
        }
    }
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx2,fma")]
unsafe fn at_avx512(dst: *mut u32, first: u32, n: usize, stream: u32, step: u32, key: [u32; 2]) {
    // SAFETY: the caller's contract.
    unsafe { blocks_body(dst, first, n, stream, step, key) }
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2,fma")]
unsafe fn at_avx2(dst: *mut u32, first: u32, n: usize, stream: u32, step: u32, key: [u32; 2]) {
    // SAFETY: the caller's contract.
    unsafe { blocks_body(dst, first, n, stream, step, key) }
}

unsafe fn at_baseline(dst: *mut u32, first: u32, n: usize, stream: u32, step: u32, key: [u32; 2]) {
    // SAFETY: the caller's contract.
    unsafe { blocks_body(dst, first, n, stream, step, key) }
}

/// The function for a level.
pub fn blocks(level: Level) -> BlocksFn {
    match level {
        Level::Baseline => at_baseline,
        #[cfg(target_arch = "x86_64")]
        Level::Avx2 => at_avx2,
        #[cfg(target_arch = "x86_64")]
        Level::Avx512 => at_avx512,
        #[cfg(not(target_arch = "x86_64"))]
        Level::Avx2 | Level::Avx512 => at_baseline,
    }
}

/// Writes the words of elements `offset, offset + stride, …`.
///
/// # Safety
/// `dst` has room for `len` words.
pub unsafe fn fill(
    blocks: BlocksFn,
    dst: *mut u32,
    len: usize,
    offset: i64,
    stride: i64,
    stream: u32,
    step: u32,
    key: [u32; 2],
) {
    let one = |element: i64| {
        let words = philox4x32([element.div_euclid(4) as u32, stream, step, 0], key);
        words[element.rem_euclid(4) as usize]
    };
    // Whole blocks of a run of neighbours side by side, the ends one by one.
    let is_run = stride == 1 && offset >= 0;
    let head = if is_run { ((-offset).rem_euclid(4) as usize).min(len) } else { len };
    let n = (len - head) / 4;
    // SAFETY: all indices are below len.
    unsafe {
        (0..head).for_each(|i| *dst.add(i) = one(offset + stride * i as i64));
        blocks(dst.add(head), ((offset + head as i64) / 4) as u32, n, stream, step, key);
        (head + 4 * n..len).for_each(|i| *dst.add(i) = one(offset + i as i64));
    }
}
