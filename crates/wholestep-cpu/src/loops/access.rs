//! Where a block's elements lie. Takes a map and the extents of one batch size, gives runs of addresses along the block. Never touches
//! memory itself, except in the two copying functions at the end.

use super::transpose::transpose;
use wholestep_compiler::ir::Dim;
use wholestep_compiler::kernel::Map;

/// Axes that remain once neighbours are joined.
pub const MAX_AXES: usize = 10;
/// Guards of one map.
pub const MAX_GUARDS: usize = 8;

/// A list of axes with one stride each, outermost first; an axis of extent 1 is left out and neighbours that are one walk are joined.
#[derive(Clone, Copy, Debug)]
pub struct Axes {
    pub n: usize,
    pub extents: [usize; MAX_AXES],
    pub strides: [i64; MAX_AXES],
}

/// `0 <= offset + rows·index + inner·index < extent`.
#[derive(Clone, Copy, Debug)]
pub struct Bound {
    pub rows: [i64; MAX_AXES],
    pub inner: [i64; MAX_AXES],
    pub offset: i64,
    pub extent: i64,
}

/// A map over the rows and the inner positions of a loop, at one batch size.
#[derive(Clone, Copy, Debug)]
pub struct Access {
    pub rows: Axes,
    pub inner: Axes,
    pub offset: i64,
    pub guards: (u32, u32),
}

/// A block: rows `row..row + rows` at positions `at..at + len` each.
#[derive(Clone, Copy, Debug)]
pub struct Tile {
    pub row: usize,
    pub rows: usize,
    pub at: usize,
    pub len: usize,
    /// Lanes are position-major, `[len, rows]`, instead of `[rows, len]`.
    pub across: bool,
}

/// `len` lanes from `lane` on lie at `offset, offset + stride, …`; of these only `lo..hi` exist.
#[derive(Clone, Copy, Debug)]
pub struct Run {
    pub lane: usize,
    pub offset: i64,
    pub stride: i64,
    pub len: usize,
    pub lo: usize,
    pub hi: usize,
}

impl Axes {
    const NONE: Axes = Axes { n: 0, extents: [1; MAX_AXES], strides: [0; MAX_AXES] };

    /// One axis of one element, for lists that are empty.
    fn or_point(self) -> Axes {
        Axes { n: self.n.max(1), ..self }
    }

    /// The multi-index of flat position `at`.
    #[inline]
    fn decode(&self, mut at: usize) -> [usize; MAX_AXES] {
        let mut index = [0; MAX_AXES];
        for i in (1..self.n).rev() {
            index[i] = at % self.extents[i];
            at /= self.extents[i];
        }
        index[0] = at;
        index
    }

    #[inline]
    fn offset_of(&self, index: &[usize; MAX_AXES]) -> i64 {
        (0..self.n).map(|i| index[i] as i64 * self.strides[i]).sum()
    }

    /// The offset of flat position `at`.
    #[inline]
    pub fn offset_at(&self, at: usize) -> i64 {
        match self.n {
            0 => 0,
            1 => at as i64 * self.strides[0],
            _ => self.offset_of(&self.decode(at)),
        }
    }

    /// The one stride, where one stride is enough to walk all axes.
    pub fn single_stride(&self) -> Option<i64> {
        match self.n {
            0 => Some(0),
            1 => Some(self.strides[0]),
            _ => None,
        }
    }
}

impl Access {
    /// `map` over `extents` in `order`, the first `n_outer` of which are rows. Guards go to the end of `bounds`.
    pub fn new(
        map: &Map,
        extents: &[usize],
        order: &[usize],
        n_outer: usize,
        batch: usize,
        bounds: &mut Vec<Bound>,
    ) -> Access {
        let first = bounds.len();
        let offset = map.offset.at_signed(batch);
        for g in &map.guards {
            let (offset, extent) = (g.offset.at_signed(batch), g.extent.at_signed(batch));
            bounds.push(Bound { rows: [0; MAX_AXES], inner: [0; MAX_AXES], offset, extent });
        }
        let mut access =
            Access { rows: Axes::NONE, inner: Axes::NONE, offset, guards: (first as u32, map.guards.len() as u32) };
        for (at, &i) in order.iter().enumerate() {
            let (extent, stride) = (extents[i], &map.strides[i]);
            access.push_axis(map, i, extent, stride, at < n_outer, batch, &mut bounds[first..]);
        }
        access
    }

    fn push_axis(
        &mut self,
        map: &Map,
        i: usize,
        extent: usize,
        stride: &Dim,
        is_row: bool,
        batch: usize,
        bounds: &mut [Bound],
    ) {
        if extent == 1 {
            return;
        }
        let stride = stride.at_signed(batch);
        let axes = if is_row { &mut self.rows } else { &mut self.inner };
        let n = axes.n;
        let side = |b: &Bound| if is_row { b.rows } else { b.inner };
        let joins = n > 0
            && axes.strides[n - 1] == stride * extent as i64
            && bounds.iter().zip(&map.guards).all(|(b, g)| side(b)[n - 1] == g.strides[i] * extent as i64);
        let at = if joins { n - 1 } else { n };
        axes.extents[at] = if joins { axes.extents[at] * extent } else { extent };
        axes.strides[at] = stride;
        axes.n = at + 1;
        for (b, g) in bounds.iter_mut().zip(&map.guards) {
            let strides = if is_row { &mut b.rows } else { &mut b.inner };
            strides[at] = g.strides[i];
        }
    }

    /// Calls `f` on each run of the tile.
    #[inline(always)]
    pub fn for_each_run(&self, bounds: &[Bound], tile: &Tile, mut f: impl FnMut(Run)) {
        let bounds = &bounds[self.guards.0 as usize..][..self.guards.1 as usize];
        let (major, minor) = if tile.across { (&self.inner, &self.rows) } else { (&self.rows, &self.inner) };
        let (major, minor) = (major.or_point(), minor.or_point());
        let (m0, n_major, s0, n_minor) = if tile.across {
            (tile.at, tile.len, tile.row, tile.rows)
        } else {
            (tile.row, tile.rows, tile.at, tile.len)
        };
        if n_minor == 0 {
            return;
        }
        let last = minor.n - 1;
        // A list without axes has one position, however many lanes ask for it.
        let last_extent = if minor.n == 1 { usize::MAX } else { minor.extents[last] };
        let stride = minor.strides[last];
        let start = minor.decode(s0);
        let mut at_major = major.decode(m0);
        for m in 0..n_major {
            let major_offset = self.offset + major.offset_of(&at_major);
            let mut index = start;
            let mut done = 0;
            while done < n_minor {
                let len = (n_minor - done).min(last_extent - index[last]);
                let (mut lo, mut hi) = (0, len);
                for b in bounds {
                    let (gm, gs) = if tile.across { (&b.inner, &b.rows) } else { (&b.rows, &b.inner) };
                    let mut v = b.offset;
                    (0..major.n).for_each(|i| v += gm[i] * at_major[i] as i64);
                    (0..minor.n).for_each(|i| v += gs[i] * index[i] as i64);
                    clip(v, gs[last], b.extent, len, &mut lo, &mut hi);
                }
                let offset = major_offset + minor.offset_of(&index);
                f(Run { lane: m * n_minor + done, offset, stride, len, lo: lo.min(hi), hi });
                done += len;
                index[last] += len;
                carry(&minor, &mut index);
            }
            at_major[major.n - 1] += 1;
            carry(&major, &mut at_major);
        }
    }
}

/// Moves whole turns of the last axis to the axes before it.
#[inline]
fn carry(axes: &Axes, index: &mut [usize; MAX_AXES]) {
    let mut i = axes.n - 1;
    while i > 0 && index[i] >= axes.extents[i] {
        index[i] = 0;
        i -= 1;
        index[i] += 1;
    }
}

/// Narrows `lo..hi` to where `0 <= v + s·i < extent`.
#[inline]
fn clip(v: i64, s: i64, extent: i64, len: usize, lo: &mut usize, hi: &mut usize) {
    if s == 0 {
        if v < 0 || v >= extent {
            *hi = 0;
        }
        return;
    }
    // First i with v + s·i >= 0 and first with >= extent, for s > 0; mirrored otherwise.
    let (from, to) = if s > 0 { (-v, extent - v) } else { (v - extent + 1, v + 1) };
    let s = s.abs();
    let first = |x: i64| x.max(0).div_euclid(s) + i64::from(x.max(0).rem_euclid(s) != 0);
    *lo = (*lo).max(first(from).min(len as i64) as usize);
    *hi = (*hi).min(first(to).min(len as i64) as usize);
}

/// Copies a tile's elements to consecutive lanes; those that do not exist become `fill`.
///
/// # Safety
/// `src` is readable at every offset of the access that exists, `dst` writable for all lanes of the tile; they do not overlap.
pub unsafe fn fill<T: Copy>(access: &Access, bounds: &[Bound], tile: &Tile, src: *const T, dst: *mut T, fill: T) {
    if let Some(p) = plane(access, tile) {
        // SAFETY: as the caller's contract; a plane without guards exists everywhere.
        unsafe {
            if let Some([outer, inner, stride]) = turned::<T>(&p, tile)
                && transpose(src.offset(p.base as isize).cast(), stride, [inner, outer], dst.cast(), inner)
            {
                return;
            }
            copy_plane(&p, tile, |lane, offset| *dst.add(lane) = *src.offset(offset));
        }
        return;
    }
    access.for_each_run(bounds, tile, |run| {
        // SAFETY: lo..hi exist, the others are not read; lanes are inside the tile.
        unsafe {
            let d = dst.add(run.lane);
            (0..run.lo).for_each(|i| *d.add(i) = fill);
            if run.stride == 1 {
                let s = src.offset((run.offset + run.lo as i64) as isize);
                std::ptr::copy_nonoverlapping(s, d.add(run.lo), run.hi - run.lo);
            } else if run.stride == 0 {
                if run.lo < run.hi {
                    let v = *src.offset(run.offset as isize);
                    (run.lo..run.hi).for_each(|i| *d.add(i) = v);
                }
            } else {
                for i in run.lo..run.hi {
                    *d.add(i) = *src.offset((run.offset + run.stride * i as i64) as isize);
                }
            }
            (run.hi..run.len).for_each(|i| *d.add(i) = fill);
        }
    });
}

/// Copies lanes to the elements of a tile that exist.
///
/// # Safety
/// As [`fill`], with reading and writing exchanged.
pub unsafe fn spill<T: Copy>(access: &Access, bounds: &[Bound], tile: &Tile, src: *const T, dst: *mut T) {
    if let Some(p) = plane(access, tile) {
        // SAFETY: as the caller's contract; a plane without guards exists everywhere.
        unsafe {
            if let Some([outer, inner, stride]) = turned::<T>(&p, tile)
                && transpose(src.cast(), inner, [outer, inner], dst.offset(p.base as isize).cast(), stride)
            {
                return;
            }
            copy_plane(&p, tile, |lane, offset| *dst.offset(offset) = *src.add(lane));
        }
        return;
    }
    access.for_each_run(bounds, tile, |run| {
        // SAFETY: lo..hi exist; lanes are inside the tile.
        unsafe {
            let s = src.add(run.lane);
            if run.stride == 1 {
                let d = dst.offset((run.offset + run.lo as i64) as isize);
                std::ptr::copy_nonoverlapping(s.add(run.lo), d, run.hi - run.lo);
            } else {
                for i in run.lo..run.hi {
                    *dst.offset((run.offset + run.stride * i as i64) as isize) = *s.add(i);
                }
            }
        }
    });
}

/// A tile that is a plane: first offset, stride from row to row and from position to position.
struct Plane {
    base: i64,
    row_stride: i64,
    stride: i64,
}

/// The tile as a plane, if it has no guards and stays inside one turn of the last axis of each kind.
#[inline]
fn plane(access: &Access, tile: &Tile) -> Option<Plane> {
    if access.guards.1 > 0 {
        return None;
    }
    let (rows, row_stride) = stretch(&access.rows, tile.row, tile.rows)?;
    let (at, stride) = stretch(&access.inner, tile.at, tile.len)?;
    Some(Plane { base: access.offset + rows + at, row_stride, stride })
}

/// Offset of `at` and the stride of the `len` positions from there, if they are inside one turn of the last axis.
#[inline]
fn stretch(axes: &Axes, at: usize, len: usize) -> Option<(i64, i64)> {
    if axes.n <= 1 {
        return Some((at as i64 * axes.strides[0], axes.strides[0]));
    }
    let last = axes.n - 1;
    (at % axes.extents[last] + len <= axes.extents[last]).then(|| (axes.offset_at(at), axes.strides[last]))
}

/// Outer and inner extent of a tile whose lanes are a transpose of memory in 4-byte elements, and the stride of the memory's lines.
#[inline]
fn turned<T>(p: &Plane, tile: &Tile) -> Option<[usize; 3]> {
    let (outer, inner) = if tile.across { (tile.len, tile.rows) } else { (tile.rows, tile.len) };
    let (along, stride) = if tile.across { (p.stride, p.row_stride) } else { (p.row_stride, p.stride) };
    // Lines that overlap would be written in another order.
    (size_of::<T>() == 4 && along == 1 && stride >= outer as i64 && stride > 1).then_some([
        outer,
        inner,
        stride as usize,
    ])
}

/// # Safety
/// `put` may be called for every lane of the tile with its offset.
#[inline(always)]
unsafe fn copy_plane(p: &Plane, tile: &Tile, put: impl Fn(usize, isize)) {
    let (outer, inner) = if tile.across { (tile.len, tile.rows) } else { (tile.rows, tile.len) };
    let (outer_stride, inner_stride) = if tile.across { (p.stride, p.row_stride) } else { (p.row_stride, p.stride) };
    if inner_stride == 1 {
        for o in 0..outer {
            let from = p.base + o as i64 * outer_stride;
            (0..inner).for_each(|i| put(o * inner + i, (from + i as i64) as isize));
        }
    } else if outer_stride == 1 && inner_stride.abs() >= FAR {
        // Lanes far apart in memory: take what lies next to each other together, so that no cache line is fetched twice.
        for i in 0..inner {
            let from = p.base + i as i64 * inner_stride;
            (0..outer).for_each(|o| put(o * inner + i, (from + o as i64) as isize));
        }
    } else {
        for o in 0..outer {
            let from = p.base + o as i64 * outer_stride;
            (0..inner).for_each(|i| put(o * inner + i, (from + i as i64 * inner_stride) as isize));
        }
    }
}

/// Elements apart from which the lanes of a tile do not stay in the first cache until the next position.
const FAR: i64 = 64;
