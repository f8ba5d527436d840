//! Writes a loop's code for one batch size. Takes a program, the arguments' places and a schedule, gives a [`Segment`] and its steps.
//! Never allocates once its lists have grown to their size.

mod points;

use super::access::Access;
use super::blocks::{self, LANES};
use super::fused::chain::Lane;
use super::fused::{self, Spans};
use super::joins;
use super::level::Level;
use super::machine::{POINT_BYTES, REGISTER_BYTES, ROW_BYTES};
use super::program::{Op, Program, bits_of};
use super::random;
use super::schedule::{Schedule, choose};
use super::steps::{Code, Partial, Pass, Place, Segment, Span, Step};
use points::Event;
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
    fused: fused::Desk,
}

impl Desk {
    /// Room for segments of other batch sizes, whose length differs a little.
    pub fn reserve(&mut self) {
        self.fused.reserve();
    }
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
    let first_step = e.code.steps.len();
    let mut row_lanes = e.row_stage(0);
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
    if code.chains.is_on() {
        let (n_passes, tile_rows) = (program.n_passes as usize, s.tile_rows.max(1));
        let spans = Spans { row_lanes: &mut row_lanes, first_pass, n_passes, tile_rows };
        fused::fuse(code, &mut desk.fused, first_step, spans);
    }
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
                    let lane = Lane::Cast { from: DType::F64, to: dtype };
                    self.code.steps.push(Step::Block { f, lane, dst, x: [acc; 3] });
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
            (Op::Block { f, lane, operands, n_operands, .. }, _) => {
                let mut x = [Place::default(); 3];
                for (x, o) in x.iter_mut().zip(&operands[..*n_operands as usize]) {
                    *x = find(self, *o);
                }
                Step::Block { f: *f, lane: *lane, dst, x }
            }
            (Op::Reduce { .. } | Op::Same(_), _) => return,
            (Op::Load | Op::Gather { .. } | Op::Random, _) => panic!("bug: value {v} has another instruction"),
        };
        self.code.steps.push(step);
    }
}
