//! Random bits of a run of elements. Takes element numbers, a key, a step and a stream, gives Philox words. Never keeps a state.

use wholestep_compiler::ir::op::random::philox4x32;

/// Writes the words of elements `offset, offset + stride, …`.
///
/// # Safety
/// `dst` has room for `len` words.
pub unsafe fn fill(dst: *mut u32, len: usize, offset: i64, stride: i64, stream: u32, step: u32, key: [u32; 2]) {
    let mut held = (i64::MIN, [0u32; 4]);
    for i in 0..len {
        let element = offset + stride * i as i64;
        let block = element.div_euclid(4);
        if held.0 != block {
            held = (block, philox4x32([block as u32, stream, step, 0], key));
        }
        // SAFETY: i < len.
        unsafe { *dst.add(i) = held.1[element.rem_euclid(4) as usize] };
    }
}
