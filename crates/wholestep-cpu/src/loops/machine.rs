//! Runs bound loops. Takes code, a frame and a range of units, gives the stores. Never allocates and never chooses anything that could
//! change a result: that is binding's work.

use super::access::{Access, Bound, Tile, fill, spill};
use super::blocks::LANES;
use super::fused::MAX_POINTERS;
use super::random;
use super::steps::{ArgAt, BaseOf, Code, MAX_BASES, NO_INPUT, Pass, Place, Segment, Span, Step};
use wholestep_compiler::ir::DType;

/// Bytes of one worker's registers: point values first, then row values.
pub const POINT_BYTES: usize = 2 << 20;
pub const ROW_BYTES: usize = 512 << 10;
pub const REGISTER_BYTES: usize = POINT_BYTES + ROW_BYTES;
/// 8-byte words of partial sums that one launch may have.
pub const PARTIAL_WORDS: usize = 32 << 10;

/// What a run needs besides the code.
#[derive(Clone, Copy)]
pub struct Memory<'a> {
    /// Where this step's inputs lie.
    pub inputs: &'a [*const u8],
    pub partials: *mut u8,
}

/// One worker's view of one segment.
struct Frame<'a> {
    code: &'a Code,
    memory: &'a Memory<'a>,
    bases: [*mut u8; MAX_BASES],
}

/// Where a part of a loop's points begins and ends.
#[derive(Clone, Copy)]
pub struct Part {
    pub row: usize,
    pub rows: usize,
    pub from: usize,
    pub to: usize,
}

/// Asks for a cache line; any address will do.
#[inline(always)]
fn prefetch(p: *const u8) {
    #[cfg(target_arch = "x86_64")]
    // SAFETY: a prefetch reads nothing that the program can see and never faults; SSE is part of x86-64.
    unsafe {
        std::arch::x86_64::_mm_prefetch::<{ std::arch::x86_64::_MM_HINT_T0 }>(p.cast());
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _ = p;
}

fn arg_ptr(arg: &ArgAt, memory: &Memory) -> *mut u8 {
    if arg.input == NO_INPUT { arg.ptr } else { memory.inputs[arg.input as usize].cast_mut() }
}

impl Segment {
    /// Runs units `from..to` of this segment.
    ///
    /// # Safety
    /// The code was bound to memory that is still there, inputs are as long as the bound batch says, `registers` has [`REGISTER_BYTES`]
    /// that nobody else uses, and no other thread runs the same units.
    pub unsafe fn run_units(&self, code: &Code, memory: &Memory, registers: *mut u8, from: usize, to: usize) {
        // SAFETY: the caller's contract.
        unsafe {
            if self.by_blocks {
                let part = Part { row: 0, rows: 1, from: from * self.tile_len, to: (to * self.tile_len).min(self.len) };
                return self.run_part(code, memory, registers, part);
            }
            for unit in from..to {
                let (tile, split) = (unit / self.splits, unit % self.splits);
                let row = tile * self.tile_rows;
                let rows = self.tile_rows.min(self.rows - row);
                let begin = split * self.split_len;
                let part = Part { row, rows, from: begin, to: (begin + self.split_len).min(self.len) };
                if self.splits == 1 {
                    self.run_part(code, memory, registers, part);
                } else {
                    self.run_split(code, memory, registers, part, split);
                }
            }
        }
    }

    fn passes<'a>(&self, code: &'a Code) -> &'a [Pass] {
        &code.passes[self.passes.0 as usize..][..self.passes.1 as usize]
    }

    /// Runs all passes over one part.
    ///
    /// # Safety
    /// As [`Segment::run_units`].
    pub unsafe fn run_part(&self, code: &Code, memory: &Memory, registers: *mut u8, part: Part) {
        let mut frame = Frame { code, memory, bases: [std::ptr::null_mut(); MAX_BASES] };
        // SAFETY: the caller's contract.
        unsafe {
            frame.set_bases(self, registers, part.row);
            frame.run_rows(self.row_lanes, part.row, part.rows);
            for pass in self.passes(code) {
                frame.run_pass(self, pass, part);
                frame.run_rows(pass.rows, part.row, part.rows);
            }
        }
    }

    /// Runs positions `from..to` of rows `row..row + rows`, a row at a time. What all rows share is computed once, and the
    /// memory of each row is asked for while the row before it runs.
    ///
    /// # Safety
    /// As [`Segment::run_units`]; the segment's rows are alike and its tiles one row high.
    pub unsafe fn run_alike_rows(&self, code: &Code, memory: &Memory, registers: *mut u8, part: Part) {
        debug_assert!(self.rows_alike && self.tile_rows == 1 && !self.across);
        let mut frame = Frame { code, memory, bases: [std::ptr::null_mut(); MAX_BASES] };
        let Part { row: first, rows, from, to } = part;
        let pass = &self.passes(code)[0];
        // SAFETY: the caller's contract.
        unsafe {
            frame.set_bases(self, registers, first);
            frame.run_rows(self.row_lanes, first, 1);
            frame.begin_pass(self, pass, Part { rows: 1, ..part });
            if pass.any_length && frame.run_fused_rows(self, pass, part) {
                frame.run_rows(pass.rows, first, 1);
                return;
            }
            for row in first..first + rows {
                if row + 1 < first + rows {
                    frame.set_bases(self, registers, row + 1);
                    frame.prefetch(self, from, to);
                }
                frame.set_bases(self, registers, row);
                frame.run_tiles(self, pass, Part { row, rows: 1, from, to });
            }
            frame.run_rows(pass.rows, first, 1);
        }
    }

    /// Runs the one pass of a split row over one of its parts and keeps the sums.
    ///
    /// # Safety
    /// As [`Segment::run_units`].
    unsafe fn run_split(&self, code: &Code, memory: &Memory, registers: *mut u8, part: Part, split: usize) {
        let mut frame = Frame { code, memory, bases: [std::ptr::null_mut(); MAX_BASES] };
        // SAFETY: the caller's contract; each unit writes its own words of the partial sums.
        unsafe {
            frame.set_bases(self, registers, part.row);
            frame.run_rows(self.row_lanes, part.row, part.rows);
            frame.run_pass(self, &self.passes(code)[0], part);
            for (i, partial) in code.partials[self.partials.0 as usize..][..self.partials.1 as usize].iter().enumerate()
            {
                let at = self.partial_at(i, part.row, split, part.rows, partial.size);
                let to = memory.partials.add(at);
                std::ptr::copy_nonoverlapping(frame.at(partial.acc, 0), to, part.rows * partial.size as usize);
            }
        }
    }

    /// Byte offset of partial `i` of the tile at `row`, part `split`; the parts of a tile are next to each other.
    fn partial_at(&self, i: usize, row: usize, split: usize, rows: usize, size: u8) -> usize {
        let whole = self.rows * self.splits;
        (self.partial_at + i * whole) * 8 + (row * self.splits + split * rows) * size as usize
    }

    /// Joins the parts of split rows and runs what follows; tile by tile.
    ///
    /// # Safety
    /// As [`Segment::run_units`], after all units.
    pub unsafe fn finish_split(&self, code: &Code, memory: &Memory, registers: *mut u8) {
        let mut frame = Frame { code, memory, bases: [std::ptr::null_mut(); MAX_BASES] };
        for row in (0..self.rows).step_by(self.tile_rows) {
            let rows = self.tile_rows.min(self.rows - row);
            // SAFETY: the caller's contract; all partial sums are written.
            unsafe {
                frame.set_bases(self, registers, row);
                frame.run_rows(self.row_lanes, row, rows);
                let pass = &self.passes(code)[0];
                frame.run_steps(pass.begin, &Tile { row, rows, at: 0, len: 1, across: true }, rows);
                let partials = &code.partials[self.partials.0 as usize..][..self.partials.1 as usize];
                for (i, partial) in partials.iter().enumerate() {
                    let from = memory.partials.add(self.partial_at(i, row, 0, rows, partial.size));
                    (partial.join)(frame.at(partial.acc, 0), std::ptr::null_mut(), from, rows, self.splits, 0);
                }
                frame.run_rows(pass.rows, row, rows);
            }
        }
    }
}

impl Frame<'_> {
    /// # Safety
    /// As [`Segment::run_units`].
    #[inline]
    unsafe fn set_bases(&mut self, segment: &Segment, registers: *mut u8, row: usize) {
        self.bases[0] = registers;
        let bases = &self.code.bases[segment.bases.0 as usize..][..segment.bases.1 as usize];
        for (i, base) in bases.iter().enumerate() {
            let access = &self.code.accesses[base.access as usize];
            let offset = (access.offset + access.rows.offset_at(row)) * i64::from(base.size);
            let ptr = arg_ptr(&self.code.args[base.arg as usize], self.memory);
            self.bases[i + 1] = ptr.wrapping_offset(offset as isize);
        }
    }

    #[inline(always)]
    fn at(&self, place: Place, at: usize) -> *mut u8 {
        self.bases[place.base as usize].wrapping_add(place.off as usize + at * place.scale as usize)
    }

    /// # Safety
    /// As [`Segment::run_units`].
    #[inline]
    unsafe fn run_rows(&self, span: Span, row: usize, rows: usize) {
        if span.from == span.to {
            return;
        }
        // SAFETY: the caller's contract.
        unsafe { self.run_steps(span, &Tile { row, rows, at: 0, len: 1, across: true }, rows) }
    }

    /// # Safety
    /// As [`Segment::run_units`].
    unsafe fn run_pass(&self, segment: &Segment, pass: &Pass, part: Part) {
        // SAFETY: the caller's contract.
        unsafe {
            self.begin_pass(segment, pass, part);
            self.run_tiles(segment, pass, part);
        }
    }

    /// What a pass does once for its rows.
    ///
    /// # Safety
    /// As [`Segment::run_units`].
    #[inline]
    unsafe fn begin_pass(&self, segment: &Segment, pass: &Pass, part: Part) {
        let Part { row, rows, from, to } = part;
        let first = segment.tile_len.min(to.saturating_sub(from));
        let tile = Tile { row, rows, at: from, len: first, across: segment.across };
        let ragged = usize::from(!pass.any_length && !(first * rows).is_multiple_of(LANES));
        // SAFETY: the caller's contract.
        unsafe {
            self.run_rows(pass.begin, row, rows);
            self.run_steps(pass.prologue[ragged], &tile, first * rows);
        }
    }

    /// What a pass does for each tile.
    ///
    /// # Safety
    /// As [`Segment::run_units`], after `begin_pass`.
    #[inline]
    unsafe fn run_tiles(&self, segment: &Segment, pass: &Pass, part: Part) {
        let Part { row, rows, from, to } = part;
        let mut tile = Tile { row, rows, at: from, len: 1, across: segment.across };
        // One step from memory to memory leaves nothing in registers, so that it need not stop at the end of a block.
        let is_alone = pass.any_length && rows == 1 && pass.body[0].to - pass.body[0].from == 1;
        let most = if is_alone { to.saturating_sub(from) } else { segment.tile_len };
        while tile.at < to {
            tile.len = most.min(to - tile.at);
            let n = tile.len * rows;
            let ragged = usize::from(!pass.any_length && !n.is_multiple_of(LANES));
            // SAFETY: the caller's contract.
            unsafe { self.run_steps(pass.body[ragged], &tile, n) };
            tile.at += tile.len;
        }
    }

    /// Runs a pass that is nothing but fused steps on all rows, a step at a time; false where its rows are not equally far apart.
    ///
    /// # Safety
    /// As [`Segment::run_units`], with the bases of the first row.
    unsafe fn run_fused_rows(&self, segment: &Segment, pass: &Pass, part: Part) -> bool {
        let bases = &self.code.bases[segment.bases.0 as usize..][..segment.bases.1 as usize];
        let stride_of = |base: &BaseOf| {
            let stride = self.code.accesses[base.access as usize].rows.single_stride();
            stride.map(|s| s as isize * base.size as isize)
        };
        if !bases.iter().all(|base| stride_of(base).is_some()) {
            return false;
        }
        for step in &self.code.steps[pass.body[0].from as usize..pass.body[0].to as usize] {
            let Step::Fused { kernel, args, n_args, .. } = *step else { return false };
            let mut table = self.table(args, n_args, part.from);
            let mut strides = [0; MAX_POINTERS];
            for (stride, place) in strides.iter_mut().zip(&self.code.fused_args[args as usize..][..n_args as usize]) {
                if let Some(base) = (place.base as usize).checked_sub(1) {
                    *stride = stride_of(&bases[base]).unwrap_or(0);
                }
            }
            // SAFETY: the caller's contract; the pass works on memory alone, so any number of lanes will do.
            unsafe {
                let run = self.code.chains.function(kernel);
                run(table.as_mut_ptr(), part.to - part.from, strides.as_ptr(), part.rows);
            }
        }
        true
    }

    /// Asks for positions `from..to` of the memory that is read or written in place.
    fn prefetch(&self, segment: &Segment, from: usize, to: usize) {
        let bases = &self.code.bases[segment.bases.0 as usize..][..segment.bases.1 as usize];
        for (base, ptr) in bases.iter().zip(&self.bases[1..]) {
            let size = base.size as usize;
            for at in (from * size..to * size).step_by(64) {
                prefetch(ptr.wrapping_add(at));
            }
        }
    }

    /// The addresses of a fused step's arguments.
    #[inline(always)]
    fn table(&self, args: u32, n_args: u8, at: usize) -> [*mut u8; MAX_POINTERS] {
        let mut table = [std::ptr::null_mut(); MAX_POINTERS];
        for (to, place) in table.iter_mut().zip(&self.code.fused_args[args as usize..][..n_args as usize]) {
            *to = self.at(*place, at);
        }
        table
    }

    /// Runs a span over the `n` lanes of a tile.
    ///
    /// # Safety
    /// As [`Segment::run_units`].
    unsafe fn run_steps(&self, span: Span, tile: &Tile, n: usize) {
        let padded = n.next_multiple_of(LANES);
        let steps = &self.code.steps[span.from as usize..span.to as usize];
        for step in steps {
            match *step {
                // SAFETY: binding placed operands and results in registers of enough lanes or in memory of exactly n.
                Step::Block { f, dst, x: [a, b, c], .. } => unsafe {
                    let at = tile.at;
                    f(self.at(dst, at), self.at(a, at), self.at(b, at), self.at(c, at), padded)
                },
                // SAFETY: as above; what works on memory alone also takes other numbers of lanes.
                Step::Fused { kernel, args, n_args, .. } => unsafe {
                    let mut table = self.table(args, n_args, tile.at);
                    self.code.chains.function(kernel)(table.as_mut_ptr(), n, std::ptr::null(), 1)
                },
                // SAFETY: the caller's contract.
                _ => unsafe { self.run_other(step, tile, n, padded) },
            }
        }
    }

    /// # Safety
    /// As [`Segment::run_units`].
    unsafe fn run_other(&self, step: &Step, tile: &Tile, n: usize, padded: usize) {
        let code = self.code;
        // SAFETY: accesses stay inside their args for every point of the loop, lanes inside their registers.
        unsafe {
            match *step {
                Step::Block { .. } | Step::Fused { .. } => {}
                Step::Fill { access, arg, size, dst, bits } => {
                    let access = &code.accesses[access as usize];
                    let src = arg_ptr(&code.args[arg as usize], self.memory);
                    let dst = self.at(dst, tile.at);
                    match size {
                        8 => fill::<u64>(access, &code.bounds, tile, src.cast(), dst.cast(), bits),
                        4 => fill::<u32>(access, &code.bounds, tile, src.cast(), dst.cast(), bits as u32),
                        2 => fill::<u16>(access, &code.bounds, tile, src.cast(), dst.cast(), bits as u16),
                        _ => fill::<u8>(access, &code.bounds, tile, src, dst, bits as u8),
                    }
                }
                Step::Spill { access, arg, size, src } => {
                    let access = &code.accesses[access as usize];
                    let dst = arg_ptr(&code.args[arg as usize], self.memory);
                    let src = self.at(src, tile.at);
                    match size {
                        8 => spill::<u64>(access, &code.bounds, tile, src.cast(), dst.cast()),
                        4 => spill::<u32>(access, &code.bounds, tile, src.cast(), dst.cast()),
                        2 => spill::<u16>(access, &code.bounds, tile, src.cast(), dst.cast()),
                        _ => spill::<u8>(access, &code.bounds, tile, src, dst),
                    }
                }
                Step::Splat { size, src, dst } => {
                    let (src, dst) = (self.at(src, tile.at), self.at(dst, tile.at));
                    match size {
                        8 => splat::<u64>(tile, padded, src.cast(), dst.cast()),
                        4 => splat::<u32>(tile, padded, src.cast(), dst.cast()),
                        2 => splat::<u16>(tile, padded, src.cast(), dst.cast()),
                        _ => splat::<u8>(tile, padded, src, dst),
                    }
                }
                Step::Bits { size, dst, bits } => {
                    let dst = self.at(dst, tile.at);
                    match size {
                        8 => put_all::<u64>(dst.cast(), padded, bits),
                        4 => put_all::<u32>(dst.cast(), padded, bits as u32),
                        2 => put_all::<u16>(dst.cast(), padded, bits as u16),
                        _ => put_all::<u8>(dst, padded, bits as u8),
                    }
                }
                Step::Numbers { access, dtype, dst } => self.numbers(access, dtype, self.at(dst, tile.at), tile),
                Step::Random { f, access, stream, key, step, dst } => {
                    let key = arg_ptr(&code.args[key as usize], self.memory).cast::<[u32; 2]>().read_unaligned();
                    let step = arg_ptr(&code.args[step as usize], self.memory).cast::<u32>().read_unaligned();
                    let dst = self.at(dst, tile.at).cast::<u32>();
                    code.accesses[access as usize].for_each_run(&code.bounds, tile, |run| {
                        random::fill(f, dst.add(run.lane), run.len, run.offset, run.stride, stream, step, key);
                    });
                }
                Step::Gather { .. } => self.gather(step, tile),
                Step::Join { f, acc, places, x } => {
                    let (acc, places) = (self.at(acc, 0), self.at(places, 0).cast());
                    debug_assert_eq!(n, tile.rows * tile.len);
                    f(acc, places, self.at(x, tile.at), tile.rows, tile.len, tile.at)
                }
            }
        }
    }

    /// # Safety
    /// `dst` has room for the tile's lanes.
    unsafe fn numbers(&self, access: u32, dtype: DType, dst: *mut u8, tile: &Tile) {
        let access = &self.code.accesses[access as usize];
        macro_rules! write {
            ($t:ty) => {
                access.for_each_run(&self.code.bounds, tile, |run| {
                    for i in 0..run.len {
                        let number = run.offset + run.stride * i as i64;
                        // SAFETY: runs stay inside the tile's lanes.
                        unsafe { *dst.cast::<$t>().add(run.lane + i) = number as $t };
                    }
                })
            };
        }
        // Whole numbers wrap, so that 32 bits of offset and stride are enough, and vectors of them are made at once.
        macro_rules! write_short {
            ($t:ty) => {
                access.for_each_run(&self.code.bounds, tile, |run| {
                    let (offset, stride) = (run.offset as i32, run.stride as i32);
                    // SAFETY: runs stay inside the tile's lanes.
                    let lanes = unsafe { std::slice::from_raw_parts_mut(dst.cast::<$t>().add(run.lane), run.len) };
                    for (i, lane) in lanes.iter_mut().enumerate() {
                        *lane = offset.wrapping_add(stride.wrapping_mul(i as i32)) as $t;
                    }
                })
            };
        }
        match dtype {
            DType::F64 => write!(f64),
            DType::F32 => write!(f32),
            DType::I64 => write!(i64),
            DType::I32 => write_short!(i32),
            DType::U32 => write_short!(u32),
            DType::U8 => write!(u8),
            DType::Bool => access.for_each_run(&self.code.bounds, tile, |run| {
                for i in 0..run.len {
                    // SAFETY: as above.
                    unsafe { *dst.add(run.lane + i) = u8::from(run.offset + run.stride * i as i64 != 0) };
                }
            }),
            DType::F16 | DType::BF16 => panic!("bug: numbers of {dtype} reached the cpu"),
        }
    }

    /// # Safety
    /// As [`Segment::run_units`].
    unsafe fn gather(&self, step: &Step, tile: &Tile) {
        let Step::Gather { access, arg, size, index, index_dtype, stride, len, dst } = *step else { return };
        let access = &self.code.accesses[access as usize];
        let (src, dst) = (arg_ptr(&self.code.args[arg as usize], self.memory), self.at(dst, tile.at));
        let index = self.at(index, tile.at);
        let (size, bounds) = (size as usize, &self.code.bounds);
        // SAFETY: indices lie in their register; they are clamped to the axis, so every element is inside the arg.
        unsafe {
            match index_dtype {
                DType::I64 => gather(access, bounds, tile, index.cast::<i64>(), [stride, len], src, dst, size),
                DType::U32 => gather(access, bounds, tile, index.cast::<u32>(), [stride, len], src, dst, size),
                _ => gather(access, bounds, tile, index.cast::<i32>(), [stride, len], src, dst, size),
            }
        }
    }
}

/// # Safety
/// `index` and `dst` have the tile's lanes; elements of `size` bytes at `map + stride·clamp(index, 0, len - 1)` are inside `src`.
#[allow(clippy::too_many_arguments)]
unsafe fn gather<I: Copy + PartialEq + TryInto<i64>>(
    access: &Access,
    bounds: &[Bound],
    tile: &Tile,
    index: *const I,
    [stride, len]: [i64; 2],
    src: *const u8,
    dst: *mut u8,
    size: usize,
) {
    access.for_each_run(bounds, tile, |run| {
        // SAFETY: the caller's contract.
        let (index, to) =
            unsafe { (std::slice::from_raw_parts(index.add(run.lane), run.len), dst.add(run.lane * size)) };
        let is_whole = run.stride == 1 && run.lo == 0 && run.hi == run.len;
        let mut i = 0;
        while i < run.len {
            // Lanes that read neighbours of one row (an embedding's) are copied together.
            let n = if is_whole { same(&index[i..]) } else { 1 };
            let row = index[i].try_into().unwrap_or(0).clamp(0, len.max(1) - 1);
            let from = run.offset + run.stride * i as i64 + row * stride;
            // SAFETY: the caller's contract.
            unsafe {
                let to = to.add(i * size);
                if i >= run.lo && i < run.hi && len > 0 {
                    let from = src.offset(from as isize * size as isize);
                    match n * size {
                        4 => to.cast::<u32>().write_unaligned(from.cast::<u32>().read_unaligned()),
                        8 => to.cast::<u64>().write_unaligned(from.cast::<u64>().read_unaligned()),
                        bytes => std::ptr::copy_nonoverlapping(from, to, bytes),
                    }
                } else {
                    std::ptr::write_bytes(to, 0, n * size);
                }
            }
            i += n;
        }
    });
}

/// How many of the first elements are the same; at least one.
#[inline]
fn same<I: Copy + PartialEq>(v: &[I]) -> usize {
    let first = v[0];
    let chunks = v.chunks_exact(LANES).take_while(|c| c.iter().fold(true, |all, &x| all & (x == first))).count();
    let whole = chunks * LANES;
    whole + v[whole..].iter().take_while(|&&x| x == first).count()
}

/// # Safety
/// `dst` has room for the padded lanes; `src` has the tile's rows.
#[inline]
unsafe fn splat<T: Copy>(tile: &Tile, padded: usize, src: *const T, dst: *mut T) {
    // SAFETY: the caller's contract.
    unsafe {
        if tile.rows == 1 {
            put_all(dst, padded, *src);
        } else if tile.across {
            for j in 0..tile.len {
                std::ptr::copy_nonoverlapping(src, dst.add(j * tile.rows), tile.rows);
            }
        } else {
            for l in 0..tile.rows {
                put_all(dst.add(l * tile.len), tile.len, *src.add(l));
            }
        }
    }
}

/// # Safety
/// `dst` has room for `n` values.
#[inline]
unsafe fn put_all<T: Copy>(dst: *mut T, n: usize, v: T) {
    // SAFETY: the caller's contract.
    unsafe { std::slice::from_raw_parts_mut(dst, n) }.fill(v);
}
