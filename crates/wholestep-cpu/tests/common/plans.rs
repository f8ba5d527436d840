//! Small plans for tests, and a plain interpreter of loops. Takes kernels, gives plans whose args are all slots. Never shares code with
//! the fast path.
#![allow(dead_code)]

use wholestep_compiler::backend::{Backend, Executable};
use wholestep_compiler::ir::op::{Binary, Unary};
use wholestep_compiler::ir::{DType, Dim, Init, Loc, Shape, Slot, SlotId, SlotKind};
use wholestep_compiler::kernel::{Access, Instr, Kernel, Loop, Map, ReduceOp};
use wholestep_compiler::plan::{Buffer, BufferId, Item, Launch, Layout, Plan, Segment, Size, Space};
use wholestep_cpu::{Config, CpuBackend};

/// Elements of one arg as f64, which holds every test value exactly.
pub type Data = Vec<f64>;

pub fn slot(name: &str, dtype: DType, elems: usize) -> Slot {
    Slot {
        name: name.to_string(),
        kind: SlotKind::State,
        dtype,
        shape: Shape::from([elems]),
        order: vec![0],
        init: Init::Const(0.0),
        loc: Loc { file: "test", line: 1 },
    }
}

/// A launch's kernel, and axes and slots of each of its segments.
pub type Launched = (u32, Vec<(Vec<Dim>, Vec<u32>)>);

/// A plan of one launch; `segments` gives axes and the arg's slots, `elems` the size of each slot with its dtype.
pub fn plan_of(kernels: Vec<Kernel>, launches: Vec<Launched>, slots: &[(DType, usize)]) -> Plan {
    let n_launches = launches.len() as u32;
    let launch = |(kernel, segments): Launched| {
        let segments = segments
            .into_iter()
            .map(|(axes, args)| Segment { kernel, axes, args: args.into_iter().map(BufferId).collect() })
            .collect();
        Item::Launch(Launch { kernel, segments, scope: String::new(), ops: String::new() })
    };
    let buffer = |i: usize, dtype: DType, elems: usize| Buffer {
        space: Space::Slot(SlotId(i as u32)),
        dtype,
        size: Size::Elements(Shape::from([elems])),
        first: 0,
        last: n_launches,
    };
    Plan {
        kernels,
        items: launches.into_iter().map(launch).collect(),
        buffers: slots.iter().enumerate().map(|(i, &(t, n))| buffer(i, t, n)).collect(),
        inputs: vec![],
        slots: slots.iter().enumerate().map(|(i, &(t, n))| slot(&format!("s{i}"), t, n)).collect(),
        outputs: vec![],
        align_bytes: 64,
        tf32: false,
        spares_memory: false,
    }
}

pub fn load(plan: &Plan, config: Config, max_batch: usize) -> Box<dyn Executable> {
    let backend = CpuBackend::new(config);
    let layout = Layout::new(plan, &backend.caps(), max_batch);
    backend.load(plan, &layout).unwrap()
}

pub fn to_bytes(data: &[f64], dtype: DType) -> Vec<u8> {
    let mut out = Vec::new();
    for &v in data {
        match dtype {
            DType::F64 => out.extend(v.to_le_bytes()),
            DType::F32 => out.extend((v as f32).to_le_bytes()),
            DType::I64 => out.extend((v as i64).to_le_bytes()),
            DType::I32 => out.extend((v as i32).to_le_bytes()),
            DType::U32 => out.extend((v as u32).to_le_bytes()),
            DType::U8 | DType::Bool => out.push(v as u8),
            DType::F16 | DType::BF16 => panic!("no test has {dtype}"),
        }
    }
    out
}

pub fn from_bytes(bytes: &[u8], dtype: DType) -> Data {
    let chunk = bytes.chunks_exact(dtype.size_bytes());
    match dtype {
        DType::F64 => chunk.map(|c| f64::from_le_bytes(c.try_into().unwrap())).collect(),
        DType::F32 => chunk.map(|c| f32::from_le_bytes(c.try_into().unwrap()) as f64).collect(),
        DType::I64 => chunk.map(|c| i64::from_le_bytes(c.try_into().unwrap()) as f64).collect(),
        DType::I32 => chunk.map(|c| i32::from_le_bytes(c.try_into().unwrap()) as f64).collect(),
        DType::U32 => chunk.map(|c| u32::from_le_bytes(c.try_into().unwrap()) as f64).collect(),
        DType::U8 | DType::Bool => chunk.map(|c| c[0] as f64).collect(),
        DType::F16 | DType::BF16 => panic!("no test has {dtype}"),
    }
}

/// Runs a plan of slots only and gives all slots afterwards.
pub fn run_slots(plan: &Plan, config: Config, data: &[Data]) -> Vec<Data> {
    let mut exe = load(plan, config, 1);
    for (i, (d, s)) in data.iter().zip(&plan.slots).enumerate() {
        exe.write_slot(SlotId(i as u32), &to_bytes(d, s.dtype)).unwrap();
    }
    exe.run(1, 1, &[]).unwrap();
    read_slots(plan, exe.as_mut())
}

pub fn read_slots(plan: &Plan, exe: &mut dyn Executable) -> Vec<Data> {
    plan.slots
        .iter()
        .enumerate()
        .map(|(i, s)| {
            let mut bytes = vec![0; s.shape.numel_at(0) * s.dtype.size_bytes()];
            exe.read_slot(SlotId(i as u32), &mut bytes).unwrap();
            from_bytes(&bytes, s.dtype)
        })
        .collect()
}

/// A plan of one loop whose arg i is slot i.
pub fn plan_of_loop(k: &Loop, elems: &[usize]) -> Plan {
    let slots: Vec<(DType, usize)> = k.args.iter().zip(elems).map(|(a, &n)| (a.dtype, n)).collect();
    let args = (0..k.args.len() as u32).collect();
    plan_of(vec![Kernel::Loop(k.clone())], vec![(0, vec![(k.axes.clone(), args)])], &slots)
}

/// Rounds to what `dtype` stores.
pub fn narrow(v: f64, dtype: DType) -> f64 {
    match dtype {
        DType::F64 => v,
        DType::F32 => v as f32 as f64,
        DType::I64 => v as i64 as f64,
        DType::I32 => (v as i64 as i32) as f64,
        DType::U32 => (v as i64 as u32) as f64,
        DType::U8 => (v as i64 as u8) as f64,
        DType::Bool => (v != 0.0) as u8 as f64,
        DType::F16 | DType::BF16 => panic!("no test has {dtype}"),
    }
}

fn map_at(map: &Map, index: &[usize], b: usize) -> Option<i64> {
    let dot = |s: &mut dyn Iterator<Item = i64>| -> i64 { s.zip(index).map(|(s, &i)| s * i as i64).sum() };
    for g in &map.guards {
        let v = g.offset.at_signed(b) + dot(&mut g.strides.iter().copied());
        if v < 0 || v >= g.extent.at_signed(b) {
            return None;
        }
    }
    Some(map.offset.at_signed(b) + dot(&mut map.strides.iter().map(|s| s.at_signed(b))))
}

fn unary(op: Unary, x: f64, t: DType) -> f64 {
    let y = match op {
        Unary::Neg => -x,
        Unary::Abs => x.abs(),
        Unary::Sign => {
            if x == 0.0 || x.is_nan() {
                x
            } else {
                x.signum()
            }
        }
        Unary::Not => 1.0 - x,
        Unary::Exp => x.exp(),
        Unary::Expm1 => x.exp_m1(),
        Unary::Log => x.ln(),
        Unary::Log1p => x.ln_1p(),
        Unary::Sqrt => x.sqrt(),
        Unary::Rsqrt => 1.0 / x.sqrt(),
        Unary::Recip => 1.0 / x,
        Unary::Sin => x.sin(),
        Unary::Cos => x.cos(),
        Unary::Tanh => x.tanh(),
        Unary::Asin => x.asin(),
        Unary::Acos => x.acos(),
        Unary::Atan => x.atan(),
        Unary::Asinh => x.asinh(),
        Unary::Sigmoid => 1.0 / (1.0 + (-x).exp()),
        Unary::Erf => libm::erf(x),
        Unary::Floor => x.floor(),
        Unary::Ceil => x.ceil(),
        Unary::Round => x.round_ties_even(),
        Unary::Detach => x,
    };
    narrow(y, t)
}

fn binary(op: Binary, x: f64, y: f64, t: DType) -> f64 {
    let (i, j) = (x as i128, y as i128);
    let bits = 8 * t.size_bytes() as i128;
    let whole = t.is_int();
    let rem = |r: f64, y: f64| if r != 0.0 && (r < 0.0) != (y < 0.0) { r + y } else { r };
    let truth = |b: bool| b as u8 as f64;
    match op {
        Binary::Add => narrow(x + y, t),
        Binary::Sub => narrow(x - y, t),
        Binary::Mul if whole => narrow((i * j) as i64 as f64, t),
        Binary::Mul => narrow(x * y, t),
        Binary::Div if whole => narrow(if j == 0 { 0.0 } else { (i / j) as f64 }, t),
        Binary::Div => narrow(x / y, t),
        Binary::Rem if whole => narrow(if j == 0 { 0.0 } else { rem((i % j) as f64, y) }, t),
        Binary::Rem => narrow(rem(x % y, y), t),
        Binary::Pow => narrow(x.powf(y), t),
        Binary::Atan2 => narrow(x.atan2(y), t),
        Binary::Max if x.is_nan() || y.is_nan() => f64::NAN,
        Binary::Min if x.is_nan() || y.is_nan() => f64::NAN,
        Binary::Max => x.max(y),
        Binary::Min => x.min(y),
        Binary::Eq => truth(x == y),
        Binary::Ne => truth(x != y),
        Binary::Lt => truth(x < y),
        Binary::Le => truth(x <= y),
        Binary::Gt => truth(x > y),
        Binary::Ge => truth(x >= y),
        Binary::And => narrow((i & j) as f64, t),
        Binary::Or => narrow((i | j) as f64, t),
        Binary::Xor => narrow((i ^ j) as f64, t),
        Binary::Shl => narrow((i << j.rem_euclid(bits)) as i64 as f64, t),
        Binary::Shr => narrow((i >> j.rem_euclid(bits)) as f64, t),
    }
}

fn cast(v: f64, to: DType) -> f64 {
    match to {
        DType::F64 => v,
        DType::F32 => v as f32 as f64,
        DType::I64 => v as i64 as f64,
        DType::I32 => v as i32 as f64,
        DType::U32 => v as u32 as f64,
        DType::U8 => v as u8 as f64,
        DType::Bool => (v != 0.0) as u8 as f64,
        DType::F16 | DType::BF16 => panic!("no test has {to}"),
    }
}

struct Point<'a> {
    k: &'a Loop,
    b: usize,
    index: &'a [usize],
    data: &'a [Data],
    reduced: &'a [Option<f64>],
}

impl Point<'_> {
    fn value(&self, v: usize) -> f64 {
        let t = self.k.dtype(wholestep_compiler::kernel::Value(v as u32));
        let of = |x: &wholestep_compiler::kernel::Value| self.value(x.0 as usize);
        let arg_type = |x: &wholestep_compiler::kernel::Value| self.k.dtype(*x);
        match &self.k.instrs[v] {
            Instr::Load { arg, map, fill } => {
                map_at(map, self.index, self.b).map_or(narrow(*fill, t), |i| self.data[*arg as usize][i as usize])
            }
            Instr::Gather { arg, map, index, stride, len } => {
                let base = map_at(map, self.index, self.b).unwrap();
                let i = (of(index) as i64).clamp(0, len.at_signed(self.b) - 1);
                self.data[*arg as usize][(base + i * stride.at_signed(self.b)) as usize]
            }
            Instr::Index { map, dtype } => narrow(map_at(map, self.index, self.b).unwrap() as f64, *dtype),
            Instr::Random { map, stream, key, step } => {
                let i = map_at(map, self.index, self.b).unwrap();
                let key = [self.data[*key as usize][0] as u32, self.data[*key as usize][1] as u32];
                let step = self.data[*step as usize][0] as u32;
                let words = wholestep_compiler::ir::op::random::philox4x32([(i / 4) as u32, *stream, step, 0], key);
                words[(i % 4) as usize] as f64
            }
            Instr::Const { value, dtype } => narrow(*value, *dtype),
            Instr::Extent { dim, dtype } => narrow(dim.at_signed(self.b) as f64, *dtype),
            Instr::Unary { op, x } => unary(*op, of(x), t),
            Instr::Binary { op, x, y } => binary(*op, of(x), of(y), arg_type(x)),
            Instr::Select { cond, yes, no } => {
                if of(cond) != 0.0 {
                    of(yes)
                } else {
                    of(no)
                }
            }
            Instr::Cast { to, x } if arg_type(x).is_float() => cast(of(x), *to),
            Instr::Cast { to, x } if to.is_float() => cast(of(x), *to),
            Instr::Cast { to, x } => narrow(of(x), *to),
            Instr::Reduce { .. } => self.reduced[v].unwrap(),
        }
    }
}

fn for_each(extents: &[usize], mut f: impl FnMut(&[usize])) {
    let total: usize = extents.iter().product();
    for at in 0..total {
        let (mut rest, mut index) = (at, vec![0; extents.len()]);
        for i in (0..extents.len()).rev() {
            index[i] = rest % extents[i];
            rest /= extents[i];
        }
        f(&index);
    }
}

/// Runs a loop point by point in f64 over copies of its args; gives the args afterwards.
pub fn interpret(k: &Loop, axes: &[Dim], b: usize, data: &[Data]) -> Vec<Data> {
    let extents: Vec<usize> = axes.iter().map(|d| d.at(b)).collect();
    let mut out = data.to_vec();
    let (rows, inner) = extents.split_at(k.n_outer);
    for_each(rows, |row| {
        let mut reduced = vec![None; k.instrs.len()];
        for v in 0..k.instrs.len() {
            let Instr::Reduce { op, x } = &k.instrs[v] else { continue };
            let t = k.dtype(*x);
            let mut all = Vec::new();
            for_each(inner, |at| {
                let index = [row, at].concat();
                all.push(Point { k, b, index: &index, data, reduced: &reduced }.value(x.0 as usize));
            });
            let larger = |a: f64, b: f64| if a.is_nan() || b.is_nan() { f64::NAN } else { a.max(b) };
            reduced[v] = Some(match op {
                ReduceOp::Sum => narrow(all.iter().sum(), t),
                ReduceOp::Max => all.iter().copied().reduce(larger).unwrap_or(f64::NEG_INFINITY),
                ReduceOp::Min => -all.iter().map(|v| -v).reduce(larger).unwrap_or(f64::NEG_INFINITY),
                ReduceOp::ArgMax => {
                    let beats = |a: f64, b: f64| a > b || (a.is_nan() && !b.is_nan());
                    let mut best = 0;
                    (1..all.len()).for_each(|i| {
                        if beats(all[i], all[best]) {
                            best = i
                        }
                    });
                    best as f64
                }
            });
        }
        let is_of_row = |s: &wholestep_compiler::kernel::Store| {
            s.map.strides[k.n_outer..].iter().all(|d| *d == Dim::ZERO) && exists_once_a_row(k, s.value)
        };
        let store = |out: &mut Vec<Data>, index: &[usize], all: bool| {
            for s in k.stores.iter().filter(|s| all || is_of_row(s)) {
                if let Some(i) = map_at(&s.map, index, b) {
                    let point = Point { k, b, index, data, reduced: &reduced };
                    out[s.arg as usize][i as usize] = point.value(s.value.0 as usize);
                }
            }
        };
        // Stores that depend on the row alone are made even where a row has no points.
        if inner.iter().product::<usize>() == 0 {
            store(&mut out, &[row, &vec![0; inner.len()]].concat(), false);
        }
        for_each(inner, |at| store(&mut out, &[row, at].concat(), true));
    });
    out
}

/// Whether a value exists once a row.
pub fn exists_once_a_row(k: &Loop, v: wholestep_compiler::kernel::Value) -> bool {
    let inner = |m: &Map| {
        m.strides[k.n_outer..].iter().any(|s| *s != Dim::ZERO)
            || m.guards.iter().any(|g| g.strides[k.n_outer..].iter().any(|&s| s != 0))
    };
    match &k.instrs[v.0 as usize] {
        Instr::Reduce { .. } => true,
        Instr::Load { map, .. } | Instr::Index { map, .. } | Instr::Random { map, .. } => !inner(map),
        Instr::Gather { map, index, .. } => !inner(map) && exists_once_a_row(k, *index),
        other => other.operands().iter().all(|&o| exists_once_a_row(k, o)),
    }
}

/// Whether an arg is written.
pub fn is_written(access: Access) -> bool {
    access != Access::Read
}
