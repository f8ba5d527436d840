//! Takes images of very few channels. Gives a copy with the padding written out, so that a line of a filter meets one
//! contiguous run of numbers. Never copies images of more channels: their taps are long enough as they are.

use super::{ConvSpec, Depth};
use crate::matmul::tile::cut;
use crate::matmul::{ALIGN_ELEMS, align};
use crate::pool::Pool;

/// Images of up to this many channels are copied.
const MAX_CHANNELS: usize = 4;

/// Where the pixels are that a filter meets: in a padded copy, or in the images themselves.
pub(super) struct Padded {
    /// Whether there is a copy; a filter is then `kh` taps of `kw * ci` numbers.
    pub copied: bool,
    /// Height and width of the padded copy, of which nothing is outside.
    pub h: usize,
    pub w: usize,
    elems: usize,
}

impl Padded {
    pub fn new(s: &ConvSpec) -> Padded {
        let h = (s.oh.max(1) - 1) * s.stride[0] + (s.kh.max(1) - 1) * s.dilation[0] + 1;
        let w = (s.ow.max(1) - 1) * s.stride[1] + s.kw.max(1);
        let is_image = s.depth == Depth::FLAT;
        let copied = is_image && s.groups == 1 && s.ci <= MAX_CHANNELS && s.kw > 1 && s.dilation[1] == 1;
        Padded { copied, h, w, elems: if copied { s.n * h * w * s.ci } else { 0 } }
    }

    pub fn scratch_elems(&self) -> usize {
        if self.copied { self.elems + ALIGN_ELEMS } else { 0 }
    }

    /// Makes the copy if there is one. Gives where the pixels are, and the scratch memory that is left.
    ///
    /// # Safety
    /// `x` is as the spec says and `scratch` has `scratch_elems` elements.
    pub unsafe fn fill(&self, pool: &Pool, s: &ConvSpec, x: *const f32, scratch: *mut f32) -> (*const f32, *mut f32) {
        if !self.copied {
            return (x, scratch);
        }
        let to = align(scratch);
        let (to_addr, x_addr) = (Shared(to), Shared(x.cast_mut()));
        let n_lines = s.n * self.h;
        let n_tasks = (self.elems >> 15).clamp(1, 32).min(n_lines.max(1));
        pool.run(n_tasks, &|i| {
            let (begin, end) = cut(n_lines, n_tasks, i);
            for line in begin..end {
                // SAFETY: each line of the copy is written by one task; lines and columns are inside both buffers.
                unsafe { self.fill_line(s, x_addr.get(), to_addr.get(), line) };
            }
        });
        (to, to.wrapping_add(self.elems))
    }

    /// # Safety
    /// As `fill`; nobody else touches this line of the copy.
    unsafe fn fill_line(&self, s: &ConvSpec, x: *mut f32, to: *mut f32, line: usize) {
        let (image, y) = (line / self.h, line % self.h);
        let to_line = to.wrapping_add(line * self.w * s.ci);
        let inside = y >= s.pad[0] && y - s.pad[0] < s.h;
        let left = s.pad[1].min(self.w);
        let columns = if inside { s.w.min(self.w - left) } else { 0 };
        // SAFETY: left + columns <= w, and the source line has at least `columns` pixels.
        unsafe {
            std::ptr::write_bytes(to_line, 0, left * s.ci);
            if inside {
                let from = x.add(((image * s.h + y - s.pad[0]) * s.w) * s.ci);
                std::ptr::copy_nonoverlapping(from, to_line.add(left * s.ci), columns * s.ci);
            }
            std::ptr::write_bytes(to_line.add((left + columns) * s.ci), 0, (self.w - left - columns) * s.ci);
        }
    }
}

/// A pointer that tasks share; each task touches its own part.
#[derive(Clone, Copy)]
pub(super) struct Shared(pub *mut f32);

// SAFETY: whoever follows the pointer vouches for the part it touches.
unsafe impl Sync for Shared {}

impl Shared {
    pub fn get(&self) -> *mut f32 {
        self.0
    }
}
