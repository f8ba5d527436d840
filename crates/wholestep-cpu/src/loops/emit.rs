//! Writes a loop's code for one batch size. Takes a program, the arguments' places and a schedule, gives a [`Segment`] and its steps.
//! Never allocates once its lists have grown to their size.

use super::access::{Access, Axes};
use super::blocks::{self, LANES};
use super::joins;
use super::level::Level;
use super::machine::{POINT_BYTES, REGISTER_BYTES, ROW_BYTES};
use super::program::{Op, Program, bits_of};
use super::random;
use super::schedule::{Schedule, choose};
use super::steps::{ArgAt, BaseOf, Code, MAX_BASES, NO_INPUT, Partial, Pass, Place, Segment, Span, Step};
use wholestep_compiler::ir::{DType, Dim};
use wholestep_compiler::kernel::{Instr, ReduceOp};

const NONE: u32 = u32::MAX;

/// Lists that binding works in; kept so that binding again allocates nothing.
#[derive(Default)]
pub struct Desk {
    extents: Vec<usize>,
    /// The axes as they are walked.
    order: Vec<usize>,
    of_value: Vec<u32>,
    of_store: Vec<u32>,
    base_of_value: Vec<u32>,
    base_of_store: Vec<u32>,
    /// Where a row value's register and a reduction's accumulator are.
    row_place: Vec<Place>,
    acc_place: Vec<Place>,
    /// Where a point value's lanes are now.
    place: Vec<Option<Place>>,
    owns: Vec<Option<(u32, u8)>>,
    wanted: Vec<bool>,
    done: Vec<bool>,
    store_pass: Vec<u32>,
    stored: Vec<bool>,
    events: Vec<Event>,
    free: [Vec<u32>; 9],
}

#[derive(Clone, Copy, Debug)]
struct Event {
    pass: u32,
    /// Once a tile, not once a block.
    is_prologue: bool,
    what: What,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum What {
    Value(u32),
    Splat(u32),
    Join(u32),
    Store(u32),
}

/// What is to be bound.
pub struct Request<'a> {
    pub program: &'a Program,
    /// Empty: the program's own axes.
    pub axes: &'a [Dim],
    /// Range of the segment's args in `Code::args`.
    pub args: (usize, usize),
    pub batch: usize,
    pub level: Level,
    /// For an epilogue, what it will run on.
    pub result: Option<Part>,
}

/// Parts of a contraction's result that an epilogue runs on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Part {
    /// Any rows and columns.
    Rectangles { rows: usize, cols: usize },
    /// Whole rows.
    Rows { cols: usize },
}

struct Emitter<'a> {
    request: &'a Request<'a>,
    desk: &'a mut Desk,
    code: &'a mut Code,
    schedule: Schedule,
    bases: (u32, u32),
    next_row: u32,
    next_point: u32,
    last_pass: u32,
}

/// Binds one segment; its partial sums begin at word `partial_at`.
pub fn bind(request: &Request, desk: &mut Desk, code: &mut Code, partial_at: usize) -> (Segment, Schedule) {
    let program = request.program;
    let axes = if request.axes.is_empty() { &program.source.axes } else { request.axes };
    desk.extents.clear();
    desk.extents.extend(axes.iter().map(|d| d.at(request.batch)));
    desk.order.clear();
    desk.order.extend(0..axes.len());
    let is_tiled = request.result.is_none() && put_transposed_axis_before_last(request, desk);
    let n_outer = match request.result {
        Some(Part::Rectangles { .. }) => axes.len().saturating_sub(1),
        _ if is_tiled => axes.len() - 1,
        Some(Part::Rows { .. }) | None => program.n_outer,
    };
    let rows: usize = desk.order[..n_outer].iter().map(|&i| desk.extents[i]).product();
    let len: usize = desk.order[n_outer..].iter().map(|&i| desk.extents[i]).product();
    add_accesses(request, desk, code, n_outer);
    let schedule = match request.result {
        Some(Part::Rectangles { rows, cols }) => rect_schedule(program, rows, cols),
        _ if is_tiled => tiled(program, rows, len),
        Some(Part::Rows { .. }) | None => choose(program, rows, len, &code.accesses, &desk.of_value, &desk.of_store),
    };
    let (first_pass, first_base, first_partial) = (code.passes.len(), code.bases.len(), code.partials.len());
    let mut e = Emitter {
        request,
        desk,
        code,
        schedule,
        bases: (first_base as u32, 0),
        next_row: POINT_BYTES as u32,
        next_point: 0,
        last_pass: program.n_passes.saturating_sub(1),
    };
    e.place_rows();
    e.add_bases();
    let row_lanes = e.row_stage(0);
    for pass in 0..program.n_passes {
        let begin = e.begin_pass(pass);
        let rows = e.row_stage(pass + 1);
        e.code.passes.push(Pass { begin, rows, ..Pass::default() });
    }
    e.plan_stores();
    for ragged in 0..2 {
        e.emit_points(first_pass, ragged);
    }
    let bases = e.bases;
    e.add_partials();
    let s = schedule;
    let segment = Segment {
        rows: s.rows,
        len: s.len,
        across: s.across,
        by_blocks: s.by_blocks,
        rows_alike: program.n_outer == 0 && program.n_passes == 1,
        tile_rows: s.tile_rows.max(1),
        tile_len: s.tile_len.max(1),
        splits: s.splits,
        split_len: s.split_len,
        row_lanes,
        passes: (first_pass as u32, program.n_passes),
        bases,
        partials: (first_partial as u32, (code.partials.len() - first_partial) as u32),
        partial_at,
        units: if s.rows == 0 || (s.by_blocks && s.len == 0) { 0 } else { s.units },
    };
    (segment, schedule)
}

/// One row at a time, blocks of columns: rectangles may begin and end anywhere.
fn rect_schedule(program: &Program, rows: usize, cols: usize) -> Schedule {
    let room = POINT_BYTES / program.point_lane_bytes / 2;
    Schedule {
        rows,
        len: cols,
        across: false,
        by_blocks: false,
        tile_rows: 1,
        tile_len: room.min(1024) / 64 * 64,
        resident: false,
        splits: 1,
        split_len: cols,
        units: rows,
        cost_ns: 0,
    }
}

/// Elementwise loops that read or write along an axis other than the last are walked in tiles of that axis and the last, so that no cache
/// line is fetched for one element. Puts that axis before the last; tells whether there is one.
fn put_transposed_axis_before_last(request: &Request, desk: &mut Desk) -> bool {
    let program = request.program;
    let rank = desk.extents.len();
    if program.n_outer > 0 || rank < 2 || program.n_passes != 1 || program.stores.iter().any(|s| s.is_row) {
        return false;
    }
    if desk.extents.iter().product::<usize>() < MIN_TILED || desk.extents[rank - 1] < 2 {
        return false;
    }
    let maps = (0..program.values.len() as u32)
        .filter(|&v| program.values[v as usize].is_needed)
        .filter_map(|v| program.map(v))
        .chain(program.source.stores.iter().map(|s| &s.map));
    for map in maps {
        let stride = |i: usize| map.strides[i].at_signed(request.batch).abs();
        if stride(rank - 1) >= 8 {
            let found = (0..rank - 1).find(|&i| stride(i) == 1 && desk.extents[i] >= 8);
            if let Some(axis) = found {
                desk.order.remove(axis);
                desk.order.insert(rank - 2, axis);
                return true;
            }
        }
    }
    false
}

/// Points below which tiles are not worth their overhead.
const MIN_TILED: usize = 2048;

fn tiled(program: &Program, rows: usize, len: usize) -> Schedule {
    let tile_len = len.min(32);
    let room = (POINT_BYTES / program.point_lane_bytes / 2).min(1024);
    let most_rows = (ROW_BYTES / program.row_lane_bytes / 2).max(16);
    let tile_rows = (room / tile_len).min(most_rows).clamp(1, rows.max(1));
    let n_values = program.values.iter().filter(|v| v.is_needed).count();
    Schedule {
        rows,
        len,
        across: false,
        by_blocks: false,
        tile_rows,
        tile_len,
        resident: false,
        splits: 1,
        split_len: len,
        units: rows.div_ceil(tile_rows.max(1)),
        cost_ns: (rows * len * (n_values + 8) / 10) as u64,
    }
}

fn add_accesses(request: &Request, desk: &mut Desk, code: &mut Code, n_outer: usize) {
    let program = request.program;
    desk.of_value.clear();
    desk.of_store.clear();
    for v in 0..program.values.len() as u32 {
        let map = if program.values[v as usize].is_needed { program.map(v) } else { None };
        desk.of_value.push(map.map_or(NONE, |map| {
            code.accesses.push(Access::new(map, &desk.extents, &desk.order, n_outer, request.batch, &mut code.bounds));
            code.accesses.len() as u32 - 1
        }));
    }
    for store in &program.source.stores {
        code.accesses.push(Access::new(
            &store.map,
            &desk.extents,
            &desk.order,
            n_outer,
            request.batch,
            &mut code.bounds,
        ));
        desk.of_store.push(code.accesses.len() as u32 - 1);
    }
}

impl Emitter<'_> {
    fn program(&self) -> &Program {
        self.request.program
    }

    fn arg(&self, arg: u32) -> u32 {
        self.request.args.0 as u32 + arg
    }

    fn size(&self, v: u32) -> u8 {
        self.program().values[v as usize].dtype.size_bytes() as u8
    }

    fn step_count(&self) -> u32 {
        self.code.steps.len() as u32
    }

    // ---- rows -------------------------------------------------------------------------------------------------------------------

    fn new_row(&mut self, size: usize) -> Place {
        let off = self.next_row;
        let lanes = self.schedule.tile_rows.next_multiple_of(LANES);
        self.next_row += (lanes * size).next_multiple_of(64) as u32;
        assert!(self.next_row as usize <= REGISTER_BYTES, "bug: row registers exceed their memory");
        Place { base: 0, off, scale: 0 }
    }

    fn place_rows(&mut self) {
        self.desk.row_place.clear();
        self.desk.acc_place.clear();
        for v in 0..self.program().values.len() {
            let info = &self.program().values[v];
            let (needed, size) = (info.is_needed && info.is_row, info.dtype.size_bytes());
            let acc_size = match info.op {
                Op::Reduce { op, x } => {
                    let x = self.program().values[x as usize].dtype;
                    Some((op, joins::acc_dtype(op, x).size_bytes()))
                }
                _ => None,
            };
            let place = if needed { self.new_row(size) } else { Place::default() };
            self.desk.row_place.push(place);
            let acc = match acc_size {
                // Where both are the same, the accumulator is the value.
                Some((op, acc)) if needed && (op == ReduceOp::ArgMax || acc != size) => self.new_row(acc),
                _ => place,
            };
            self.desk.acc_place.push(acc);
        }
    }

    /// Steps of the row values that can be computed before pass `stage`, and their stores.
    fn row_stage(&mut self, stage: u32) -> Span {
        let from = self.step_count();
        for v in 0..self.program().values.len() as u32 {
            let info = &self.program().values[v as usize];
            if !info.is_needed || !info.is_row || info.pass != stage {
                continue;
            }
            let dst = self.desk.row_place[v as usize];
            if let Op::Reduce { op: ReduceOp::Sum, x } = info.op {
                let dtype = self.program().values[x as usize].dtype;
                if joins::acc_dtype(ReduceOp::Sum, dtype) != dtype {
                    let f = blocks::cast(DType::F64, dtype, self.request.level).expect("bug: f64 casts to every float");
                    let acc = self.desk.acc_place[v as usize];
                    self.code.steps.push(Step::Block { f, dst, x: [acc; 3] });
                }
                continue;
            }
            self.value_step(v, dst, |e, x| e.desk.row_place[x as usize]);
        }
        for i in 0..self.program().stores.len() {
            let store = &self.program().stores[i];
            let info = &self.program().values[store.value as usize];
            if store.is_row && info.pass == stage {
                let step = Step::Spill {
                    access: self.desk.of_store[i],
                    arg: self.arg(self.program().source.stores[i].arg),
                    size: info.dtype.size_bytes() as u8,
                    src: self.desk.row_place[store.value as usize],
                };
                self.code.steps.push(step);
            }
        }
        Span { from, to: self.step_count() }
    }

    fn begin_pass(&mut self, pass: u32) -> Span {
        let from = self.step_count();
        for v in 0..self.program().values.len() {
            let info = &self.program().values[v];
            let Op::Reduce { op, x } = info.op else { continue };
            if !info.is_needed || info.pass != pass + 1 {
                continue;
            }
            let dtype = self.program().values[x as usize].dtype;
            let acc = joins::acc_dtype(op, dtype);
            let step = Step::Bits {
                size: acc.size_bytes() as u8,
                dst: self.desk.acc_place[v],
                bits: joins::first_bits(op, dtype),
            };
            self.code.steps.push(step);
            if op == ReduceOp::ArgMax {
                self.code.steps.push(Step::Bits { size: 4, dst: self.desk.row_place[v], bits: 0 });
            }
        }
        Span { from, to: self.step_count() }
    }

    fn add_partials(&mut self) {
        if self.schedule.splits == 1 {
            return;
        }
        for v in 0..self.program().values.len() {
            let info = &self.program().values[v];
            let Op::Reduce { op, x } = info.op else { continue };
            if !info.is_needed {
                continue;
            }
            let acc = joins::acc_dtype(op, self.program().values[x as usize].dtype);
            let join = joins::join(op, acc, false, self.request.level).expect("bug: accumulators can be joined");
            self.code.partials.push(Partial { acc: self.desk.acc_place[v], size: acc.size_bytes() as u8, join });
        }
    }

    // ---- one value ----------------------------------------------------------------------------------------------------------------

    /// The step that computes `v` into `dst`; `find` tells where operands are.
    fn value_step(&mut self, v: u32, dst: Place, find: impl Fn(&Self, u32) -> Place) {
        let info = &self.program().values[v as usize];
        let (size, dtype) = (info.dtype.size_bytes() as u8, info.dtype);
        let access = self.desk.of_value[v as usize];
        let batch = self.request.batch;
        let step = match (&info.op, &self.program().source.instrs[v as usize]) {
            (Op::Load, Instr::Load { arg, fill, .. }) => {
                Step::Fill { access, arg: self.arg(*arg), size, dst, bits: bits_of(*fill, dtype) }
            }
            (Op::Gather { index }, Instr::Gather { arg, stride, len, .. }) => Step::Gather {
                access,
                arg: self.arg(*arg),
                size,
                index: find(self, *index),
                index_dtype: self.program().values[*index as usize].dtype,
                stride: stride.at_signed(batch),
                len: len.at_signed(batch),
                dst,
            },
            (Op::Index, _) => Step::Numbers { access, dtype, dst },
            (Op::Random, Instr::Random { stream, key, step, .. }) => Step::Random {
                f: random::blocks(self.request.level),
                access,
                stream: *stream,
                key: self.arg(*key),
                step: self.arg(*step),
                dst,
            },
            (Op::Bits(bits), _) => Step::Bits { size, dst, bits: *bits },
            (Op::Extent(dim), _) => Step::Bits { size, dst, bits: bits_of(dim.at_signed(batch) as f64, dtype) },
            (Op::Block { f, operands, n_operands, .. }, _) => {
                let mut x = [Place::default(); 3];
                for (x, o) in x.iter_mut().zip(&operands[..*n_operands as usize]) {
                    *x = find(self, *o);
                }
                Step::Block { f: *f, dst, x }
            }
            (Op::Reduce { .. } | Op::Same(_), _) => return,
            (Op::Load | Op::Gather { .. } | Op::Random, _) => panic!("bug: value {v} has another instruction"),
        };
        self.code.steps.push(step);
    }

    // ---- memory in place ------------------------------------------------------------------------------------------------------------

    /// Bytes from one position to the next, if the tile's lanes of this access lie next to each other in memory for every block.
    fn in_place_scale(&self, access: u32, size: u8) -> Option<u32> {
        let a = &self.code.accesses[access as usize];
        let s = &self.schedule;
        if a.guards.1 > 0 {
            return None;
        }
        let single = |axes: &Axes, stride: i64| axes.n == 1 && axes.strides[0] == stride;
        let size = u32::from(size);
        if !s.across {
            let one_row = s.tile_rows == 1;
            let whole = s.tile_len == s.len && single(&a.rows, s.len as i64);
            return (single(&a.inner, 1) && (one_row || whole)).then_some(size);
        }
        if !single(&a.rows, 1) {
            return None;
        }
        let stride = a.inner.single_stride()?;
        let blocks_touch = stride == s.rows as i64 && s.tile_rows == s.rows;
        let fits = stride >= 0 && (stride as u64) < (1 << 28);
        ((s.tile_len == 1 || blocks_touch) && fits).then(|| stride as u32 * size)
    }

    fn add_base(&mut self, access: u32, arg: u32, size: u8) -> u32 {
        if self.bases.1 as usize + 1 >= MAX_BASES {
            return NONE;
        }
        self.code.bases.push(BaseOf { access, arg, size: u32::from(size) });
        self.bases.1 += 1;
        self.bases.1
    }

    fn add_bases(&mut self) {
        self.desk.base_of_value.clear();
        self.desk.base_of_store.clear();
        for v in 0..self.program().values.len() as u32 {
            let info = &self.program().values[v as usize];
            let load = match &self.program().source.instrs[v as usize] {
                Instr::Load { arg, .. } if info.is_needed && !info.is_row => Some(*arg),
                _ => None,
            };
            let access = self.desk.of_value[v as usize];
            let base = match load {
                Some(arg) if self.in_place_scale(access, self.size(v)).is_some() && !self.must_copy(v, arg) => {
                    self.add_base(access, self.arg(arg), self.size(v))
                }
                _ => NONE,
            };
            self.desk.base_of_value.push(base);
        }
        for i in 0..self.program().stores.len() {
            let (is_row, value) = (self.program().stores[i].is_row, self.program().stores[i].value);
            let (access, size) = (self.desk.of_store[i], self.size(value));
            let base = if !is_row && self.in_place_scale(access, size).is_some() {
                self.add_base(access, self.arg(self.program().source.stores[i].arg), size)
            } else {
                NONE
            };
            self.desk.base_of_store.push(base);
        }
    }

    fn overlaps(&self, a: u32, b: u32) -> bool {
        let (a, b): (&ArgAt, &ArgAt) = (&self.code.args[self.arg(a) as usize], &self.code.args[self.arg(b) as usize]);
        if a.input != NO_INPUT || b.input != NO_INPUT {
            return false;
        }
        let (x, y) = (a.ptr.addr(), b.ptr.addr());
        x < y + b.bytes && y < x + a.bytes
    }

    /// A load that is stored as it is must not change before it is stored.
    fn must_copy(&self, v: u32, arg: u32) -> bool {
        let program = self.program();
        program.stores.iter().any(|s| s.value == v) && program.source.stores.iter().any(|s| self.overlaps(arg, s.arg))
    }

    /// Whether a store's memory is read by this loop.
    fn is_read(&self, store_arg: u32) -> bool {
        self.program().source.instrs.iter().any(|i| match i {
            Instr::Load { arg, .. } | Instr::Gather { arg, .. } => self.overlaps(*arg, store_arg),
            Instr::Random { key, step, .. } => self.overlaps(*key, store_arg) || self.overlaps(*step, store_arg),
            Instr::Index { .. }
            | Instr::Const { .. }
            | Instr::Extent { .. }
            | Instr::Unary { .. }
            | Instr::Binary { .. }
            | Instr::Select { .. }
            | Instr::Cast { .. }
            | Instr::Reduce { .. } => false,
        })
    }

    // ---- points ---------------------------------------------------------------------------------------------------------------------

    /// In which pass each store of points happens: the first that has its value, or the last if a pass in between reads the memory.
    fn plan_stores(&mut self) {
        self.desk.store_pass.clear();
        for i in 0..self.program().stores.len() {
            let first = self.program().values[self.program().stores[i].value as usize].pass;
            let read = self.program().n_passes > 1 && self.is_read(self.program().source.stores[i].arg);
            self.desk.store_pass.push(if read { self.last_pass } else { first });
        }
    }

    /// Whether a load's lanes are the same for every block of a tile.
    fn repeats(&self, v: u32) -> bool {
        let access = self.desk.of_value[v as usize];
        let s = &self.schedule;
        if access == NONE || !s.by_blocks || !matches!(self.program().values[v as usize].op, Op::Load) {
            return false;
        }
        let a = &self.code.accesses[access as usize];
        let inner = &a.inner;
        let period = match inner.n {
            0 => 1,
            1 if inner.strides[0] == 0 => 1,
            2 if inner.strides[0] == 0 => inner.extents[1],
            _ => return false,
        };
        // Parts of a contraction's result begin at any row.
        let begins_whole = match self.request.result {
            Some(Part::Rows { cols }) => cols.is_multiple_of(period),
            Some(Part::Rectangles { .. }) => false,
            None => true,
        };
        a.guards.1 == 0 && begins_whole && s.len > s.tile_len && s.tile_len.is_multiple_of(period)
    }

    /// Lists what each pass does, in order.
    fn plan_events(&mut self) {
        let n = self.program().values.len();
        self.desk.events.clear();
        self.desk.done.clear();
        self.desk.done.resize(n, false);
        for pass in 0..self.program().n_passes {
            self.desk.wanted.clear();
            self.desk.wanted.resize(n, false);
            self.want_roots(pass);
            for v in (0..n).rev() {
                if self.desk.wanted[v] && !self.program().values[v].is_row {
                    let op = &self.request.program.values[v].op;
                    op.operands().iter().for_each(|&x| self.desk.wanted[x as usize] = true);
                }
            }
            for v in 0..n as u32 {
                if self.desk.wanted[v as usize] && !self.desk.done[v as usize] {
                    let is_row = self.program().values[v as usize].is_row;
                    let what = if is_row { What::Splat(v) } else { What::Value(v) };
                    let is_prologue = is_row || self.repeats(v);
                    self.desk.events.push(Event { pass, is_prologue, what });
                    self.desk.done[v as usize] = self.schedule.resident;
                }
            }
            for v in 0..n as u32 {
                let info = &self.program().values[v as usize];
                if info.is_needed && info.pass == pass + 1 && matches!(info.op, Op::Reduce { .. }) {
                    self.desk.events.push(Event { pass, is_prologue: false, what: What::Join(v) });
                }
            }
            for i in 0..self.program().stores.len() {
                if !self.program().stores[i].is_row && self.desk.store_pass[i] == pass {
                    self.desk.events.push(Event { pass, is_prologue: false, what: What::Store(i as u32) });
                }
            }
        }
        // Once a tile before once a block; the order is otherwise kept.
        self.desk.events.sort_by_key(|e| (e.pass, !e.is_prologue));
    }

    fn want_roots(&mut self, pass: u32) {
        for v in 0..self.request.program.values.len() {
            let info = &self.request.program.values[v];
            match info.op {
                Op::Reduce { x, .. } if info.is_needed && info.pass == pass + 1 => self.desk.wanted[x as usize] = true,
                _ => {}
            }
        }
        for (i, store) in self.request.program.stores.iter().enumerate() {
            if !store.is_row && self.desk.store_pass[i] == pass {
                self.desk.wanted[store.value as usize] = true;
            }
        }
    }

    fn new_point(&mut self, size: u8) -> u32 {
        if let Some(off) = self.desk.free[size as usize].pop() {
            return off;
        }
        let s = &self.schedule;
        let lanes = (s.tile_rows * s.tile_len).next_multiple_of(LANES);
        let off = self.next_point;
        self.next_point += (lanes * size as usize).next_multiple_of(64) as u32;
        assert!(self.next_point as usize <= POINT_BYTES, "bug: point registers exceed their memory");
        off
    }

    fn emit_points(&mut self, first_pass: usize, ragged: usize) {
        self.plan_events();
        let n = self.program().values.len();
        self.desk.place.clear();
        self.desk.place.resize(n, None);
        self.desk.owns.clear();
        self.desk.owns.resize(n, None);
        self.reset_points();
        let mut i = 0;
        for pass in 0..self.program().n_passes {
            if !self.schedule.resident {
                self.desk.place.fill(None);
                self.desk.owns.fill(None);
                self.reset_points();
            }
            self.desk.stored.clear();
            self.desk.stored.resize(self.program().stores.len(), false);
            let from = self.step_count();
            let mut split = from;
            while i < self.desk.events.len() && self.desk.events[i].pass == pass {
                let event = self.desk.events[i];
                self.emit(event, i, ragged == 1);
                if event.is_prologue {
                    split = self.step_count();
                }
                i += 1;
            }
            let to = self.step_count();
            let p = &mut self.code.passes[first_pass + pass as usize];
            p.prologue[ragged] = Span { from, to: split };
            p.body[ragged] = Span { from: split, to };
        }
    }

    fn reset_points(&mut self) {
        self.next_point = 0;
        self.desk.free.iter_mut().for_each(Vec::clear);
    }

    fn find(&self, v: u32) -> Place {
        self.desk.place[v as usize].unwrap_or_else(|| panic!("bug: value {v} is used before it is computed"))
    }

    fn emit(&mut self, event: Event, at: usize, ragged: bool) {
        match event.what {
            What::Splat(v) => {
                let size = self.size(v);
                let dst = self.own(v, size);
                self.code.steps.push(Step::Splat { size, src: self.desk.row_place[v as usize], dst });
            }
            What::Value(v) => self.emit_value(v, event.pass, at, ragged),
            What::Join(v) => {
                let Op::Reduce { op, x } = self.program().values[v as usize].op else { return };
                let dtype = self.program().values[x as usize].dtype;
                let f = joins::join(op, dtype, !self.schedule.across, self.request.level);
                let step = Step::Join {
                    f: f.expect("bug: the program checked that values can be joined"),
                    acc: self.desk.acc_place[v as usize],
                    places: self.desk.row_place[v as usize],
                    x: self.find(x),
                };
                self.code.steps.push(step);
                self.release(x, at);
            }
            What::Store(i) => {
                let value = self.program().stores[i as usize].value;
                self.emit_store(i as usize, value, ragged);
                self.release(value, at);
            }
        }
    }

    fn own(&mut self, v: u32, size: u8) -> Place {
        let off = self.new_point(size);
        self.desk.owns[v as usize] = Some((off, size));
        let place = Place { base: 0, off, scale: 0 };
        self.desk.place[v as usize] = Some(place);
        place
    }

    fn emit_value(&mut self, v: u32, pass: u32, at: usize, ragged: bool) {
        let base = self.desk.base_of_value[v as usize];
        let size = self.size(v);
        if base != NONE && !ragged {
            let scale = self.in_place_scale(self.desk.of_value[v as usize], size).unwrap_or(0);
            self.desk.place[v as usize] = Some(Place { base, off: 0, scale });
            return;
        }
        let is_block = matches!(self.program().values[v as usize].op, Op::Block { .. });
        let direct = if is_block && !ragged { self.direct_store(v, pass) } else { None };
        let dst = match direct {
            Some((i, place)) => {
                self.desk.stored[i] = true;
                self.desk.place[v as usize] = Some(place);
                place
            }
            None => self.own(v, size),
        };
        self.value_step(v, dst, |e, x| e.find(x));
        let program = self.request.program;
        program.values[v as usize].op.operands().iter().for_each(|&x| self.release(x, at));
    }

    /// A store of `v` in this pass whose memory the instruction can write itself.
    fn direct_store(&self, v: u32, pass: u32) -> Option<(usize, Place)> {
        let program = self.program();
        (0..program.stores.len()).find_map(|i| {
            let arg = program.source.stores[i].arg;
            let fits = program.stores[i].value == v
                && self.desk.base_of_store[i] != NONE
                && self.desk.store_pass[i] == pass
                && !self.is_read(arg);
            let others = || program.source.stores.iter().enumerate().any(|(j, s)| j != i && self.overlaps(s.arg, arg));
            if !fits || others() {
                return None;
            }
            let scale = self.in_place_scale(self.desk.of_store[i], self.size(v))?;
            Some((i, Place { base: self.desk.base_of_store[i], off: 0, scale }))
        })
    }

    fn emit_store(&mut self, i: usize, value: u32, ragged: bool) {
        if self.desk.stored[i] {
            return;
        }
        let (access, size) = (self.desk.of_store[i], self.size(value));
        let src = self.find(value);
        let base = self.desk.base_of_store[i];
        if base != NONE && !ragged {
            let scale = self.in_place_scale(access, size).unwrap_or(0);
            let f = blocks::copy(self.program().values[value as usize].dtype, self.request.level);
            self.code.steps.push(Step::Block { f, dst: Place { base, off: 0, scale }, x: [src; 3] });
            return;
        }
        let arg = self.arg(self.program().source.stores[i].arg);
        self.code.steps.push(Step::Spill { access, arg, size, src });
    }

    /// Gives `v`'s register back after event `at`, if no later event uses it.
    fn release(&mut self, v: u32, at: usize) {
        let Some((off, size)) = self.desk.owns[v as usize] else { return };
        let program = self.request.program;
        let same_run = |e: &Event| self.schedule.resident || e.pass == self.desk.events[at].pass;
        let uses = |e: &Event| match e.what {
            What::Value(u) => program.values[u as usize].op.operands().contains(&v),
            What::Splat(_) => false,
            What::Join(u) => matches!(program.values[u as usize].op, Op::Reduce { x, .. } if x == v),
            What::Store(i) => program.stores[i as usize].value == v,
        };
        let later = self.desk.events[at + 1..].iter().any(|e| same_run(e) && uses(e));
        // What is made once a tile must last for all its blocks.
        let lasts =
            !self.schedule.resident
                && self.desk.events.iter().any(|e| {
                    e.is_prologue && same_run(e) && matches!(e.what, What::Splat(u) | What::Value(u) if u == v)
                });
        if !later && !lasts {
            self.desk.free[size as usize].push(off);
            self.desk.owns[v as usize] = None;
        }
    }
}
