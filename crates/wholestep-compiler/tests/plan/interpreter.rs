//! A naive f64 interpreter of plans, the twin of the graph oracle one stage later. Takes a plan, a layout and step data, gives
//! outputs and slots. Memory is one cell per byte, so that buffers which share bytes wrongly destroy each other, and starts as NaN, so that a
//! read before a write shows.

use std::cell::RefCell;
use wholestep_compiler::ir::op::{Elementwise, Op, Window, random::philox4x32};
use wholestep_compiler::ir::value::{EvalSite, Value as Tensor};
use wholestep_compiler::ir::{DType, Dim};
use wholestep_compiler::kernel::*;
use wholestep_compiler::plan::{BufferId, Item, Layout, Plan, Segment, Space};

pub struct Machine<'a> {
    plan: &'a Plan,
    layout: &'a Layout,
    batch: usize,
    arena: Vec<f64>,
    pub slots: Vec<Vec<f64>>,
    inputs: &'a [Vec<f64>],
    /// Sums of the contraction that runs, where only its epilogue sees them.
    sums: Option<Vec<f64>>,
}

impl<'a> Machine<'a> {
    pub fn new(
        plan: &'a Plan,
        layout: &'a Layout,
        batch: usize,
        slots: &[Vec<f64>],
        inputs: &'a [Vec<f64>],
    ) -> Machine<'a> {
        let arena = vec![f64::NAN; layout.transient_bytes];
        Machine { plan, layout, batch, arena, slots: slots.to_vec(), inputs, sums: None }
    }

    pub fn run(&mut self) -> Vec<Vec<f64>> {
        self.items(&self.plan.items);
        let read = |o: &wholestep_compiler::plan::Output| {
            (0..o.shape.numel_at(self.batch)).map(|i| self.read(o.buffer, i as i64)).collect()
        };
        self.plan.outputs.iter().map(read).collect()
    }

    fn items(&mut self, items: &[Item]) {
        for item in items {
            match item {
                Item::Launch(launch) => {
                    launch.segments.iter().for_each(|s| self.launch(&self.plan.kernels[s.kernel as usize], s));
                }
                Item::Region(region) => {
                    for _ in 0..region.max_trips {
                        let again = self.read(region.predicate, 0);
                        assert!(again == 0.0 || again == 1.0, "a loop asks {again}");
                        if again == 0.0 {
                            break;
                        }
                        self.items(&region.items);
                    }
                }
            }
        }
    }

    fn read(&self, id: BufferId, at: i64) -> f64 {
        let buffer = &self.plan.buffers[id.0 as usize];
        let at = usize::try_from(at).expect("a negative address");
        match buffer.space {
            Space::Transient => {
                let size = buffer.dtype.size_bytes();
                assert!(at * size < self.layout.sizes[id.0 as usize], "read past the end of b{}", id.0);
                self.arena[self.layout.offsets[id.0 as usize] + at * size]
            }
            Space::Slot(slot) => self.slots[slot.0 as usize][at],
            Space::Input(input) => self.inputs[input.0 as usize][at],
        }
    }

    fn write(&mut self, id: BufferId, at: i64, value: f64) {
        let buffer = &self.plan.buffers[id.0 as usize];
        let at = usize::try_from(at).expect("a negative address");
        match buffer.space {
            Space::Transient => {
                let size = buffer.dtype.size_bytes();
                assert!(at * size < self.layout.sizes[id.0 as usize], "write past the end of b{}", id.0);
                let start = self.layout.offsets[id.0 as usize] + at * size;
                self.arena[start..start + size].fill(f64::NAN);
                self.arena[start] = value;
            }
            Space::Slot(slot) => self.slots[slot.0 as usize][at] = value,
            Space::Input(_) => panic!("a kernel writes an input"),
        }
    }

    fn read_all(&self, id: BufferId, dtype: DType, shape: Vec<usize>) -> Tensor {
        let n: usize = shape.iter().product();
        Tensor { dtype, shape, data: (0..n as i64).map(|i| self.read(id, i)).collect() }
    }

    fn write_all(&mut self, id: BufferId, values: &[f64]) {
        values.iter().enumerate().for_each(|(i, &v)| self.write(id, i as i64, v));
    }

    fn launch(&mut self, kernel: &Kernel, s: &Segment) {
        match kernel {
            Kernel::Loop(k) => self.run_loop(k, &s.axes, &s.args),
            Kernel::Contract(k) => {
                self.contract(k, &s.args);
                if let Some(epilogue) = &k.epilogue {
                    self.run_loop(epilogue, &epilogue.axes.clone(), &s.args);
                }
                self.sums = None;
            }
            Kernel::Window(k) => self.window(k, &s.args),
            Kernel::Scatter(k) => self.scatter(k, &s.args),
            Kernel::Sort(k) => self.sort(k, &s.args),
            Kernel::Scan(k) => self.scan(k, &s.args),
        }
    }

    fn place(&self, map: &Map, index: &[usize]) -> Option<i64> {
        let holds = map.guards.iter().all(|g| {
            let at: i64 =
                g.offset.at_signed(self.batch) + g.strides.iter().zip(index).map(|(s, &i)| s * i as i64).sum::<i64>();
            (0..g.extent.at_signed(self.batch)).contains(&at)
        });
        let steps = map.strides.iter().zip(index).map(|(s, &i)| s.at_signed(self.batch) * i as i64);
        holds.then(|| map.offset.at_signed(self.batch) + steps.sum::<i64>())
    }

    /// Rows one by one; a reduction walks its row again for every value that it joins.
    fn run_loop(&mut self, k: &Loop, axes: &[Dim], args: &[BufferId]) {
        let extents: Vec<usize> = axes.iter().map(|d| d.at(self.batch)).collect();
        let (outer, inner) = extents.split_at(k.n_outer);
        let per_point = per_point(k);
        // All values are computed before any is stored: a loop may overwrite what it reads.
        let mut writes = Vec::new();
        each_index(outer, |row| {
            let mut reduced: Vec<Option<f64>> = vec![None; k.instrs.len()];
            for v in 0..k.instrs.len() {
                if let Instr::Reduce { op, x } = &k.instrs[v] {
                    let mut joined: Option<f64> = None;
                    let (mut best, mut at) = (f64::NAN, 0);
                    each_index(inner, |point| {
                        let index: Vec<usize> = row.iter().chain(point).copied().collect();
                        let value = self.value(k, args, *x, &index, &reduced);
                        let n = flat(point, inner);
                        joined = Some(match (op, joined) {
                            (ReduceOp::ArgMax, None) => {
                                best = value;
                                0.0
                            }
                            (ReduceOp::ArgMax, Some(_)) => {
                                if !best.is_nan() && (value > best || value.is_nan()) {
                                    (best, at) = (value, n);
                                }
                                at as f64
                            }
                            (_, None) => value,
                            (ReduceOp::Sum, Some(j)) => j + value,
                            (ReduceOp::Max, Some(j)) => {
                                if j.is_nan() || value.is_nan() {
                                    f64::NAN
                                } else {
                                    j.max(value)
                                }
                            }
                            (ReduceOp::Min, Some(j)) => {
                                if j.is_nan() || value.is_nan() {
                                    f64::NAN
                                } else {
                                    j.min(value)
                                }
                            }
                        });
                    });
                    let joined = joined.unwrap_or(0.0);
                    let wraps = k.dtype(Value(v as u32)) == DType::U32;
                    reduced[v] = Some(if wraps { joined.rem_euclid(4294967296.0) } else { joined });
                }
            }
            for s in &k.stores {
                let once = !per_point[s.value.0 as usize] && s.map.strides[k.n_outer..].iter().all(|s| *s == Dim::ZERO);
                let mut done = false;
                each_index(inner, |point| {
                    if once && std::mem::replace(&mut done, true) {
                        return;
                    }
                    let index: Vec<usize> = row.iter().chain(point).copied().collect();
                    let value = self.value(k, args, s.value, &index, &reduced);
                    let at = self.place(&s.map, &index).expect("a guarded store");
                    writes.push((args[s.arg as usize], at, value));
                });
            }
        });
        writes.into_iter().for_each(|(id, at, value)| self.write(id, at, value));
    }

    fn value(&self, k: &Loop, args: &[BufferId], v: Value, index: &[usize], reduced: &[Option<f64>]) -> f64 {
        let known = RefCell::new(vec![None; k.instrs.len()]);
        self.value_at(k, args, v, index, reduced, &known)
    }

    /// `known` holds what this point has computed: values are used more than once.
    fn value_at(
        &self,
        k: &Loop,
        args: &[BufferId],
        v: Value,
        index: &[usize],
        reduced: &[Option<f64>],
        known: &RefCell<Vec<Option<f64>>>,
    ) -> f64 {
        if let Some(value) = known.borrow()[v.0 as usize] {
            return value;
        }
        let of = |v: Value| self.value_at(k, args, v, index, reduced, known);
        let point = |op: Elementwise, operands: &[Value]| {
            let operands: Vec<Tensor> =
                operands.iter().map(|&x| Tensor { dtype: k.dtype(x), shape: vec![], data: vec![of(x)] }).collect();
            let site = EvalSite { dtype: k.dtype(v), shape: vec![], batch: self.batch, inputs: &[], slots: &[] };
            Op::Elementwise(op).eval(&operands.iter().collect::<Vec<_>>(), &site)[0]
        };
        let value = match &k.instrs[v.0 as usize] {
            Instr::Load { arg, map, fill } => self.place(map, index).map_or(*fill, |at| match (&self.sums, arg) {
                (Some(sums), 2) => sums[at as usize],
                _ => self.read(args[*arg as usize], at),
            }),
            Instr::Gather { arg, map, index: i, stride, len } => {
                let i = of(*i).clamp(0.0, (len.at(self.batch) - 1) as f64) as i64;
                let base = self.place(map, index).expect("a guarded gather");
                self.read(args[*arg as usize], base + i * stride.at_signed(self.batch))
            }
            Instr::Index { map, .. } => self.place(map, index).expect("a guarded index") as f64,
            Instr::Random { map, stream, key, step } => {
                let at = self.place(map, index).expect("a guarded random") as usize;
                let key = [0, 1].map(|i| self.read(args[*key as usize], i) as u32);
                let step = self.read(args[*step as usize], 0) as u32;
                f64::from(philox4x32([(at / 4) as u32, *stream, step, 0], key)[at % 4])
            }
            Instr::Const { value, .. } => *value,
            Instr::Extent { dim, .. } => dim.at(self.batch) as f64,
            Instr::Unary { op, x } => point(Elementwise::Unary(*op), &[*x]),
            Instr::Binary { op, x, y } => point(Elementwise::Binary(*op), &[*x, *y]),
            Instr::Select { cond, yes, no } => point(Elementwise::Select, &[*cond, *yes, *no]),
            Instr::Cast { to, x } => point(Elementwise::Cast(*to), &[*x]),
            Instr::Reduce { .. } => reduced[v.0 as usize].expect("a reduction is used before its row is joined"),
        };
        known.borrow_mut()[v.0 as usize] = Some(value);
        value
    }

    fn contract(&mut self, k: &Contract, args: &[BufferId]) {
        use wholestep_compiler::ir::op::Contract as C;
        let b = self.batch;
        let conv = |s: &ConvSizes, ext: &[usize], c: usize| [&[s.n.at(b)], ext, &[c]].concat();
        let weight = |s: &ConvSizes| [&s.kernel[..], &[s.c_in / s.geometry.groups, s.c_out]].concat();
        let (op, lhs, rhs, out) = match &k.contraction {
            Contraction::Matmul { batch, m, n, k: depth, lhs, rhs } => {
                let lead: Vec<usize> = batch.iter().map(|d| d.at(b)).collect();
                let gather = |map: &Map, id: BufferId, r: usize, c: usize| {
                    let shape = [&lead[..], &[r, c]].concat();
                    let mut data = Vec::new();
                    each_index(&shape, |i| data.push(self.read(id, self.place(map, i).expect("a guarded operand"))));
                    Tensor { dtype: k.dtype, shape, data }
                };
                let (m, n, d) = (m.at(b), n.at(b), depth.at(b));
                let (mut x, y) = (gather(lhs, args[0], m, d), gather(rhs, args[1], d, n));
                // What is said to be 0 is.
                if let Some(Triangle::Lhs(half)) = k.triangle {
                    let outside = x.data.iter_mut().enumerate().filter(|(i, _)| is_outside(half, i / d % m, i % d));
                    outside.for_each(|(_, v)| assert_eq!(*v, 0.0, "{k}"));
                }
                (C::Matmul, x, y, [&lead[..], &[m, n]].concat())
            }
            Contraction::Conv(s) => (
                C::Conv(s.geometry.clone()),
                self.read_all(args[0], k.dtype, conv(s, &s.input, s.c_in)),
                self.read_all(args[1], k.dtype, weight(s)),
                conv(s, &s.out, s.c_out),
            ),
            Contraction::ConvInputGrad(s) => (
                C::ConvInputGrad { geometry: s.geometry.clone(), input: s.input.clone() },
                self.read_all(args[0], k.dtype, conv(s, &s.out, s.c_out)),
                self.read_all(args[1], k.dtype, weight(s)),
                conv(s, &s.input, s.c_in),
            ),
            Contraction::ConvWeightGrad(s) => (
                C::ConvWeightGrad { geometry: s.geometry.clone(), kernel: s.kernel.clone() },
                self.read_all(args[0], k.dtype, conv(s, &s.input, s.c_in)),
                self.read_all(args[1], k.dtype, conv(s, &s.out, s.c_out)),
                weight(s),
            ),
        };
        let site = EvalSite { dtype: k.dtype, shape: out, batch: b, inputs: &[], slots: &[] };
        let mut result = op.eval(&[&lhs, &rhs], &site);
        // What nobody reads may be anything.
        if let (Some(Triangle::Read(half)), Contraction::Matmul { m, n, .. }) = (k.triangle, &k.contraction) {
            let (m, n) = (m.at(b), n.at(b));
            let outside = result.iter_mut().enumerate().filter(|(i, _)| is_outside(half, i / n % m, i % n));
            outside.for_each(|(_, sum)| *sum = f64::NAN);
        }
        if k.keeps_sums() {
            self.write_all(args[2], &result);
        } else {
            self.sums = Some(result);
        }
    }

    fn window(&mut self, k: &WindowKernel, args: &[BufferId]) {
        let full = |ext: &[usize]| [&[k.n.at(self.batch)], ext, &[k.channels]].concat();
        let (geometry, input) = (k.geometry.clone(), k.input.clone());
        let (x_shape, y_shape) = (full(&k.input), full(&k.geometry.out));
        let (op, shapes, out) = match k.op {
            WindowOp::ArgMax => (Window::ArgMax(geometry), vec![x_shape], y_shape),
            WindowOp::Take => (Window::Take(geometry), vec![x_shape, y_shape.clone()], y_shape),
            WindowOp::Put => (Window::Put { geometry, input }, vec![y_shape.clone(), y_shape], x_shape),
            WindowOp::Sum => (Window::Sum(geometry), vec![x_shape], y_shape),
            WindowOp::Spread => (Window::Spread { geometry, input }, vec![y_shape], x_shape),
        };
        let operands: Vec<Tensor> =
            shapes.into_iter().enumerate().map(|(i, s)| self.read_all(args[i], k.args[i].dtype, s)).collect();
        let site = EvalSite { dtype: k.dtype, shape: out, batch: self.batch, inputs: &[], slots: &[] };
        let result = op.eval(&operands.iter().collect::<Vec<_>>(), &site);
        self.write_all(args[operands.len()], &result);
    }

    fn scatter(&mut self, k: &Scatter, args: &[BufferId]) {
        let [outer, n, len, inner] = [k.outer, k.n_index, k.len, k.inner].map(|d| d.at(self.batch));
        let mut out = match k.replaces {
            true => (0..(outer * len * inner) as i64).map(|at| self.read(args[2], at)).collect(),
            false => vec![0.0; outer * len * inner],
        };
        for o in 0..outer {
            for j in 0..n {
                for i in 0..inner {
                    let at = (o * n + j) * inner + i;
                    let index = self.read(args[1], if k.along { at } else { j } as i64);
                    let index = index.clamp(0.0, (len - 1) as f64) as usize;
                    let (to, value) = ((o * len + index) * inner + i, self.read(args[0], at as i64));
                    out[to] = if k.replaces { value } else { out[to] + value };
                }
            }
        }
        self.write_all(args[2], &out);
    }

    fn sort(&mut self, k: &Sort, args: &[BufferId]) {
        let [outer, len, inner] = [k.outer, k.len, k.inner].map(|d| d.at(self.batch));
        for o in 0..outer {
            for i in 0..inner {
                let at = |j: usize| ((o * len + j) * inner + i) as i64;
                let line: Vec<f64> = (0..len).map(|j| self.read(args[0], at(j))).collect();
                let mut order: Vec<usize> = (0..len).collect();
                let key = |j: usize| (line[j].is_nan(), line[j]);
                order.sort_by(|&a, &b| {
                    let (x, y) = (key(a), key(b));
                    let up = x.0.cmp(&y.0).then(x.1.partial_cmp(&y.1).unwrap_or(std::cmp::Ordering::Equal));
                    if k.descending { up.reverse() } else { up }
                });
                order.into_iter().enumerate().for_each(|(j, from)| self.write(args[1], at(j), from as f64));
            }
        }
    }

    fn scan(&mut self, k: &Scan, args: &[BufferId]) {
        let [outer, len, inner] = [k.outer, k.len, k.inner].map(|d| d.at(self.batch));
        for o in 0..outer {
            for i in 0..inner {
                let mut sum = 0.0;
                for step in 0..len {
                    let j = if k.reverse { len - 1 - step } else { step };
                    let at = ((o * len + j) * inner + i) as i64;
                    sum += self.read(args[0], at);
                    self.write(args[1], at, sum);
                }
            }
        }
    }
}

/// Which values exist once a point: they depend on an inner axis other than through a reduction.
fn per_point(k: &Loop) -> Vec<bool> {
    let moves = |map: &Map| {
        map.strides[k.n_outer..].iter().any(|s| *s != Dim::ZERO)
            || map.guards.iter().any(|g| g.strides[k.n_outer..].iter().any(|&s| s != 0))
    };
    let mut out: Vec<bool> = Vec::new();
    for instr in &k.instrs {
        let by_operand = instr.operands().into_iter().any(|x| out[x.0 as usize]);
        out.push(match instr {
            Instr::Load { map, .. } | Instr::Index { map, .. } | Instr::Random { map, .. } => moves(map),
            Instr::Gather { map, .. } => moves(map) || by_operand,
            Instr::Reduce { .. } => false,
            _ => by_operand,
        });
    }
    out
}

fn each_index(extents: &[usize], mut visit: impl FnMut(&[usize])) {
    let n: usize = extents.iter().product();
    let mut index = vec![0; extents.len()];
    for _ in 0..n {
        visit(&index);
        for axis in (0..extents.len()).rev() {
            index[axis] += 1;
            if index[axis] < extents[axis] {
                break;
            }
            index[axis] = 0;
        }
    }
}

fn flat(index: &[usize], extents: &[usize]) -> usize {
    index.iter().zip(extents).fold(0, |n, (i, e)| n * e + i)
}

fn is_outside(half: Half, row: usize, column: usize) -> bool {
    match half {
        Half::Lower => column > row,
        Half::Upper => column < row,
    }
}
