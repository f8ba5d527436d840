//! The steps of a loop's points: what each pass computes, joins and stores, in which registers or where in memory. Takes an emitter whose
//! rows have their places, gives the prologue and body of each pass. Never touches row values but to spread them.

use super::super::access::Axes;
use super::super::blocks::{self, LANES};
use super::super::fused::chain::Lane;
use super::super::joins;
use super::super::machine::POINT_BYTES;
use super::super::program::Op;
use super::super::steps::{ArgAt, BaseOf, MAX_BASES, NO_INPUT, Place, Span, Step};
use super::{Emitter, NONE, Part};
use wholestep_compiler::kernel::Instr;

/// Something that a pass does.
#[derive(Clone, Copy, Debug)]
pub(super) struct Event {
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

impl Emitter<'_> {
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

    pub(super) fn add_bases(&mut self) {
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
    pub(super) fn plan_stores(&mut self) {
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
        // Once a tile before once a block, and what is read before what is computed, which leaves longer runs to fuse; the order is
        // otherwise kept.
        let values = &self.request.program.values;
        let is_read =
            |what: What| matches!(what, What::Value(v) if matches!(values[v as usize].op, Op::Load | Op::Index));
        self.desk.events.sort_by_key(|e| (e.pass, !e.is_prologue, !is_read(e.what)));
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

    pub(super) fn emit_points(&mut self, first_pass: usize, ragged: usize) {
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
            let dtype = self.program().values[value as usize].dtype;
            let (f, lane) = (blocks::copy(dtype, self.request.level), Lane::Copy(dtype));
            self.code.steps.push(Step::Block { f, lane, dst: Place { base, off: 0, scale }, x: [src; 3] });
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
