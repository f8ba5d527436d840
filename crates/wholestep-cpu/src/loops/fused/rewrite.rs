//! Finds runs of steps that one chain can do. Takes the steps of a segment as emitted, gives them with the runs replaced and with the
//! steps left out whose lanes nobody reads any more. Never moves a step past another.

use super::MAX_POINTERS;
use super::chain::{Arg, Line};
use crate::loops::access::Access;
use crate::loops::steps::{Code, Pass, Place, Span, Step};
use wholestep_compiler::ir::DType;

/// Lists that are kept, so that rewriting again allocates nothing.
#[derive(Default)]
pub struct Desk {
    old: Vec<Step>,
    new: Vec<Step>,
    lines: Vec<Line>,
    lanes: Vec<Place>,
    uniforms: Vec<Place>,
    /// What places hold that a step of the run wrote.
    held: Vec<(Place, Arg)>,
}

impl Desk {
    /// Room for segments of other batch sizes, whose length differs a little.
    pub fn reserve(&mut self) {
        self.old.reserve(self.old.len() + 64);
        self.new.reserve(self.new.len() + 64);
        self.lines.reserve(2 * MAX_LINES);
        self.held.reserve(2 * MAX_LINES);
        self.lanes.reserve(2 * MAX_POINTERS);
        self.uniforms.reserve(2 * MAX_POINTERS);
    }
}

/// The steps of a segment: rows, then passes; all from `first` on, without gaps, in the order in which they were emitted.
pub struct Spans<'a> {
    pub row_lanes: &'a mut Span,
    pub first_pass: usize,
    pub n_passes: usize,
    pub tile_rows: usize,
}

/// Most lines of one chain: longer runs become several.
const MAX_LINES: usize = 96;

struct Rewriter<'a> {
    desk: &'a mut Desk,
    code: &'a mut Code,
    /// Index of the first old step in `code.steps`.
    first: usize,
    tile_rows: usize,
    /// Old steps that compute row values.
    rows_end: usize,
}

/// Fuses the steps from `first` on.
pub fn fuse(code: &mut Code, desk: &mut Desk, first: usize, spans: Spans) {
    desk.old.clear();
    desk.old.extend_from_slice(&code.steps[first..]);
    code.steps.truncate(first);
    let passes = spans.first_pass..spans.first_pass + spans.n_passes;
    let rows_end = code.passes[passes.clone()].iter().map(|p| p.rows.to as usize - first).max();
    let rows_end = rows_end.unwrap_or(spans.row_lanes.to as usize - first);
    let mut r = Rewriter { desk, code, first, tile_rows: spans.tile_rows, rows_end };
    *spans.row_lanes = r.rewrite(*spans.row_lanes, rows_end);
    for p in passes.clone() {
        let Pass { begin, rows, .. } = r.code.passes[p];
        r.code.passes[p].begin = r.keep(begin);
        r.code.passes[p].rows = r.rewrite(rows, rows_end);
    }
    let from = r.code.steps.len();
    for ragged in 0..2 {
        let end = passes.clone().map(|p| r.code.passes[p].body[ragged].to as usize - first).max().unwrap_or(0);
        for p in passes.clone() {
            let Pass { prologue, body, .. } = r.code.passes[p];
            r.code.passes[p].prologue[ragged] = r.keep(prologue[ragged]);
            r.code.passes[p].body[ragged] = r.rewrite(body[ragged], end);
        }
    }
    r.drop_unread(from, passes.clone());
    for p in passes {
        let pass = &mut r.code.passes[p];
        let body = &r.code.steps[pass.body[0].from as usize..pass.body[0].to as usize];
        let args = &r.code.fused_args;
        pass.any_length = !body.is_empty()
            && body.iter().all(|step| match *step {
                Step::Fused { args: from, n_lanes, .. } => {
                    args[from as usize..][..n_lanes as usize].iter().all(|place| place.base != 0)
                }
                _ => false,
            });
    }
}

impl Rewriter<'_> {
    /// Copies a span as it is.
    fn keep(&mut self, span: Span) -> Span {
        let from = self.code.steps.len() as u32;
        let range = span.from as usize - self.first..span.to as usize - self.first;
        self.code.steps.extend_from_slice(&self.desk.old[range]);
        Span { from, to: self.code.steps.len() as u32 }
    }

    /// Copies a span with its runs fused; lanes that the old steps up to `end` read must be in their places afterwards.
    fn rewrite(&mut self, span: Span, end: usize) -> Span {
        let from = self.code.steps.len() as u32;
        let (mut at, to) = (span.from as usize - self.first, span.to as usize - self.first);
        while at < to {
            let most = self.desk.old[at..to].iter().take_while(|s| can_fuse(s)).count();
            let n = if most < 2 { 0 } else { self.fuse_run(at, at + most, end) };
            if n == 0 {
                self.code.steps.push(self.desk.old[at]);
                at += 1;
            }
            at += n;
        }
        Span { from, to: self.code.steps.len() as u32 }
    }

    /// Fuses as much of the run `from..to` as one chain takes; gives the number of steps, 0 for none.
    fn fuse_run(&mut self, from: usize, mut to: usize, end: usize) -> usize {
        while to >= from + 2 {
            let n = self.lines_of(from, to, end);
            if n < 2 {
                return 0;
            }
            if let Some(kernel) = self.code.chains.number(&self.desk.lines) {
                let args = self.code.fused_args.len() as u32;
                let (n_lanes, n_args) = (self.desk.lanes.len() as u8, self.desk.lanes.len() + self.desk.uniforms.len());
                self.code.fused_args.extend_from_slice(&self.desk.lanes);
                self.code.fused_args.extend_from_slice(&self.desk.uniforms);
                self.code.steps.push(Step::Fused { kernel, args, n_args: n_args as u8, n_lanes });
                return n;
            }
            // Too many values at a time.
            to = from + n / 2;
        }
        0
    }

    /// Writes the lines of as many of the steps as there are pointers for; gives their number.
    fn lines_of(&mut self, from: usize, to: usize, end: usize) -> usize {
        let mut to = to;
        loop {
            match self.try_lines(from, to, end) {
                Ok(()) => return to - from,
                Err(done) => to = done,
            }
            if to < from + 2 {
                return 0;
            }
        }
    }

    /// Writes the lines of all the steps, or says before which step to stop.
    fn try_lines(&mut self, from: usize, to: usize, end: usize) -> Result<(), usize> {
        let d = &mut *self.desk;
        d.lines.clear();
        d.lanes.clear();
        d.uniforms.clear();
        d.held.clear();
        let mut n_values = 0;
        for at in from..to {
            let Step::Block { lane, dst, x, .. } = self.desk.old[at] else { return Err(at) };
            let (dtypes, n) = lane.operands();
            let mut args = [Arg::Bits(0); 3];
            for i in 0..n {
                args[i] = self.operand(from, x[i], dtypes[i]);
            }
            let lines = &mut self.desk.lines;
            let result = lane.lower(args, |what, args| {
                let mut all = [Arg::Bits(0); 3];
                all[..args.len()].copy_from_slice(args);
                lines.push(Line::Do { what, args: all, n_args: args.len() as u8 });
                n_values += 1;
                Arg::Value(n_values - 1)
            });
            let Some(result) = result else { return Err(at) };
            self.desk.held.retain(|(place, _)| *place != dst);
            self.desk.held.push((dst, result));
            let is_written_again = writes_in(&self.desk.old[at + 1..to], dst);
            let is_stored = dst.base != 0 || (!is_written_again && is_read(&self.desk.old[to..end], dst));
            if is_stored {
                let to = index_of(&mut self.desk.lanes, dst);
                self.desk.lines.push(Line::Store { to, from: result });
            }
            if self.desk.lanes.len() + self.desk.uniforms.len() > MAX_POINTERS || self.desk.lines.len() > MAX_LINES {
                return Err(at);
            }
        }
        let n_lanes = self.desk.lanes.len() as u8;
        for line in &mut self.desk.lines {
            let args: &mut [Arg] = match line {
                Line::Do { args, .. } => args,
                Line::Store { from, .. } => std::slice::from_mut(from),
            };
            for arg in args {
                if let Arg::Uniform(p) = arg {
                    *p += n_lanes;
                }
            }
        }
        Ok(())
    }

    /// What a step of the run that begins at `from` finds at a place.
    fn operand(&mut self, from: usize, place: Place, dtype: DType) -> Arg {
        if let Some((_, held)) = self.desk.held.iter().find(|(p, _)| *p == place) {
            return *held;
        }
        if dtype == DType::Bool {
            return Arg::Bools(index_of(&mut self.desk.lanes, place));
        }
        match self.uniform(from, place) {
            Some(Uniform::Bits(bits)) => Arg::Bits(bits),
            Some(Uniform::At(place)) => Arg::Uniform(index_of(&mut self.desk.uniforms, place)),
            None => Arg::Lanes(index_of(&mut self.desk.lanes, place)),
        }
    }

    /// Whether all lanes of a place are the same when the run at `from` begins.
    fn uniform(&self, from: usize, place: Place) -> Option<Uniform> {
        if place.base != 0 {
            return None;
        }
        if from < self.rows_end {
            return self.uniform_row(from, place);
        }
        let writer = self.desk.old[self.rows_end..from].iter().rfind(|s| writes(s, place))?;
        match *writer {
            Step::Bits { size: 4, bits, .. } => Some(Uniform::Bits(bits as u32)),
            Step::Splat { size: 4, src, .. } => match self.uniform_row(self.rows_end, src) {
                None if self.tile_rows == 1 => Some(Uniform::At(src)),
                uniform => uniform,
            },
            _ => None,
        }
    }

    /// The same of a row value: whether it is the same for all rows of a tile.
    fn uniform_row(&self, end: usize, place: Place) -> Option<Uniform> {
        let is_joined = self.desk.old[self.rows_end..].iter().any(|s| match s {
            Step::Join { acc, places, .. } => *acc == place || *places == place,
            _ => false,
        });
        if is_joined {
            return None;
        }
        match *self.desk.old[..end].iter().rfind(|s| writes(s, place))? {
            Step::Bits { size: 4, bits, .. } => Some(Uniform::Bits(bits as u32)),
            Step::Fill { access, size: 4, .. } => {
                let access: &Access = &self.code.accesses[access as usize];
                (access.rows.n == 0 && access.guards.1 == 0).then_some(Uniform::At(place))
            }
            _ => None,
        }
    }

    /// Leaves out steps that spread a value which no step reads from its lanes any more: neither of the exact blocks nor of the ragged
    /// one, which may come last and finds what was spread for the others.
    fn drop_unread(&mut self, from: usize, passes: std::ops::Range<usize>) {
        let new = &mut self.desk.new;
        new.clear();
        new.extend_from_slice(&self.code.steps[from..]);
        let args = &self.code.fused_args;
        let needed = |step: &Step| match *step {
            Step::Splat { dst, .. } | Step::Bits { dst, .. } => new.iter().any(|s| reads(s, dst, args)),
            _ => true,
        };
        self.code.steps.truncate(from);
        for ragged in 0..2 {
            for p in passes.clone() {
                let pass = &mut self.code.passes[p];
                for span in [&mut pass.prologue[ragged], &mut pass.body[ragged]] {
                    let begin = self.code.steps.len() as u32;
                    let steps = &new[span.from as usize - from..span.to as usize - from];
                    self.code.steps.extend(steps.iter().filter(|s| needed(s)));
                    *span = Span { from: begin, to: self.code.steps.len() as u32 };
                }
            }
        }
    }
}

enum Uniform {
    Bits(u32),
    At(Place),
}

/// The place's number in the list, to which it is added where it is new.
fn index_of(list: &mut Vec<Place>, place: Place) -> u8 {
    let at = list.iter().position(|p| *p == place).unwrap_or_else(|| {
        list.push(place);
        list.len() - 1
    });
    at as u8
}

fn can_fuse(step: &Step) -> bool {
    let Step::Block { lane, .. } = step else { return false };
    lane.lower([Arg::Bits(0); 3], |_, _| Arg::Bits(0)).is_some()
}

fn writes(step: &Step, place: Place) -> bool {
    match step {
        Step::Block { dst, .. }
        | Step::Fill { dst, .. }
        | Step::Splat { dst, .. }
        | Step::Bits { dst, .. }
        | Step::Numbers { dst, .. }
        | Step::Random { dst, .. }
        | Step::Gather { dst, .. } => *dst == place,
        Step::Join { acc, places, .. } => *acc == place || *places == place,
        Step::Spill { .. } | Step::Fused { .. } => false,
    }
}

fn writes_in(steps: &[Step], place: Place) -> bool {
    steps.iter().any(|s| writes(s, place))
}

fn reads(step: &Step, place: Place, fused_args: &[Place]) -> bool {
    match *step {
        // Operands that a function does not have are some address.
        Step::Block { lane, x, .. } => x[..lane.operands().1].contains(&place),
        Step::Spill { src, .. } | Step::Splat { src, .. } => src == place,
        Step::Gather { index, .. } => index == place,
        Step::Join { acc, places, x, .. } => acc == place || places == place || x == place,
        Step::Fused { args, n_args, .. } => fused_args[args as usize..][..n_args as usize].contains(&place),
        Step::Fill { .. } | Step::Bits { .. } | Step::Numbers { .. } | Step::Random { .. } => false,
    }
}

/// Whether the steps read a place before they write it anew. Row values, which several spans share, count as read.
fn is_read(steps: &[Step], place: Place) -> bool {
    if place.off as usize >= crate::loops::machine::POINT_BYTES {
        return true;
    }
    for step in steps {
        if reads(step, place, &[]) {
            return true;
        }
        if writes(step, place) {
            return false;
        }
    }
    false
}
