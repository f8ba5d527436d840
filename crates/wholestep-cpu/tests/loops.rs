//! Loops against a plain interpreter: random index spaces, maps, dtypes and programs, at all levels and thread counts.

#[path = "common/plans.rs"]
mod plans;

use plans::{Data, exists_once_a_row, interpret, is_written, plan_of_loop, run_slots};
use proptest::prelude::*;
use wholestep_compiler::ir::op::{Binary, Unary};
use wholestep_compiler::ir::{DType, Dim};
use wholestep_compiler::kernel::{Access, Arg, Guard, Instr, Loop, Map, ReduceOp, Store, Value};
use wholestep_cpu::Config;
use wholestep_cpu::loops::level::Level;

/// A small generator of numbers, so that a failing case is one seed.
struct Dice(u64);

impl Dice {
    fn roll(&mut self, n: usize) -> usize {
        self.0 = self.0.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        ((self.0 >> 33) as usize) % n
    }

    fn of<T: Copy>(&mut self, from: &[T]) -> T {
        from[self.roll(from.len())]
    }
}

struct Case {
    k: Loop,
    data: Vec<Data>,
}

const TYPES: [DType; 6] = [DType::F32, DType::F64, DType::I32, DType::I64, DType::U32, DType::U8];

fn value_of(dice: &mut Dice, dtype: DType) -> f64 {
    match dtype {
        DType::F32 | DType::F64 | DType::I32 | DType::I64 => dice.roll(9) as f64 - 4.0,
        DType::U32 | DType::U8 => dice.roll(9) as f64,
        DType::Bool => dice.roll(2) as f64,
        DType::F16 | DType::BF16 => 0.0,
    }
}

struct Builder<'a> {
    dice: &'a mut Dice,
    extents: Vec<usize>,
    n_outer: usize,
    k: Loop,
    data: Vec<Data>,
}

impl Builder<'_> {
    fn push(&mut self, instr: Instr) -> Value {
        self.k.instrs.push(instr);
        Value(self.k.instrs.len() as u32 - 1)
    }

    /// A map that is injective over the axes it has, in a random order of memory, with some axes left out.
    fn map(&mut self, keep: impl Fn(usize) -> bool, guards: bool) -> (Map, usize) {
        let r = self.extents.len();
        let mut order: Vec<usize> = (0..r).filter(|&i| keep(i)).collect();
        if self.dice.roll(3) == 0 {
            for i in (1..order.len()).rev() {
                let j = self.dice.roll(i + 1);
                order.swap(i, j);
            }
        }
        let (mut strides, mut step) = (vec![0i64; r], 1i64);
        for &i in order.iter().rev() {
            strides[i] = step;
            step *= self.extents[i].max(1) as i64 + if self.dice.roll(8) == 0 { 1 } else { 0 };
        }
        let (mut offset, mut elems) = (0, step.max(1));
        if !order.is_empty() && self.dice.roll(5) == 0 {
            // A flipped axis.
            let i = self.dice.of(&order);
            offset += strides[i] * (self.extents[i] as i64 - 1).max(0);
            strides[i] = -strides[i];
        }
        let extra = self.dice.roll(3) as i64;
        (offset, elems) = (offset + extra, elems + extra);
        let mut gs = Vec::new();
        if guards && !order.is_empty() && self.dice.roll(3) == 0 {
            let i = self.dice.of(&order);
            let mut g = vec![0; r];
            g[i] = self.dice.of(&[1, 1, 2, -1]);
            let low = self.dice.roll(4) as i64 - 2;
            let extent = Dim::fixed(self.dice.roll(self.extents[i] + 2));
            gs.push(Guard { strides: g, offset: Dim { batch: 0, fixed: low }, extent });
        }
        let dim = |v: i64| Dim { batch: 0, fixed: v };
        (Map { strides: strides.into_iter().map(dim).collect(), offset: dim(offset), guards: gs }, elems as usize)
    }

    fn arg(&mut self, dtype: DType, access: Access, elems: usize) -> u32 {
        self.k.args.push(Arg { dtype, access });
        let data = (0..elems).map(|_| value_of(self.dice, dtype)).collect();
        self.data.push(data);
        self.k.args.len() as u32 - 1
    }

    fn load(&mut self, dtype: DType) -> Value {
        let (n_outer, mode) = (self.n_outer, self.dice.roll(6));
        let skip = if self.extents.is_empty() { 0 } else { self.dice.roll(self.extents.len()) };
        let (map, elems) = match mode {
            0 => self.map(|i| i < n_outer, false),
            1 => self.map(|i| i != skip, true),
            2 => self.map(|_| false, false),
            _ => self.map(|_| true, true),
        };
        let arg = self.arg(dtype, Access::Read, elems);
        let fill = if dtype == DType::F32 && self.dice.roll(2) == 0 { -1.0 } else { 1.0 };
        self.push(Instr::Load { arg, map, fill })
    }

    /// A small value of `dtype`, from what there is.
    fn small(&mut self, x: Value, dtype: DType) -> Value {
        let from = self.k.dtype(x);
        if from == dtype {
            return x;
        }
        if from == DType::Bool || from == DType::U8 || dtype == DType::F32 || dtype == DType::F64 {
            return self.push(Instr::Cast { to: dtype, x });
        }
        // Only numbers that every type holds.
        let seven = self.push(Instr::Const { value: 7.0, dtype: from });
        let zero = self.push(Instr::Const { value: 0.0, dtype: from });
        let x = self.push(Instr::Binary { op: Binary::Min, x, y: seven });
        let x = self.push(Instr::Binary { op: Binary::Max, x, y: zero });
        self.push(Instr::Cast { to: dtype, x })
    }

    /// Values stay whole and small, so that every order of additions gives the same number.
    fn step(&mut self, values: &mut Vec<Value>) {
        let x = self.dice.of(values);
        let t = self.k.dtype(x);
        let y = self.dice.of(values);
        let v = match self.dice.roll(12) {
            10 => {
                let (map, _) = self.map(|_| true, false);
                // Far from the first number and never before it: a flipped axis needs its offset.
                let far = map.offset.fixed + 50_000 + self.dice.roll(5) as i64;
                let map = Map { offset: Dim { batch: 0, fixed: far }, ..map };
                let (key, step) = (self.arg(DType::U32, Access::Read, 2), self.arg(DType::U32, Access::Read, 1));
                let v = self.push(Instr::Random { map, stream: 5, key, step });
                let shift = self.push(Instr::Const { value: 29.0, dtype: DType::U32 });
                self.push(Instr::Binary { op: Binary::Shr, x: v, y: shift })
            }
            11 => {
                let to = self.dice.of(&[DType::I32, DType::I64, DType::U32]);
                let index = self.small(x, to);
                let skip = if self.extents.is_empty() { 0 } else { self.dice.roll(self.extents.len()) };
                let (map, elems) = self.map(|i| i != skip, false);
                let (len, stride) = (1 + self.dice.roll(6), self.dice.of(&[1, 1, 3, elems]));
                let dtype = self.dice.of(&TYPES);
                let arg = self.arg(dtype, Access::Read, elems + (len - 1) * stride);
                self.push(Instr::Gather { arg, map, index, stride: Dim::fixed(stride), len: Dim::fixed(len) })
            }
            0 => {
                let t = self.dice.of(&TYPES);
                self.load(t)
            }
            1 => {
                let op = if t == DType::Bool {
                    Unary::Not
                } else {
                    self.dice.of(&[Unary::Neg, Unary::Abs, Unary::Sign, Unary::Detach])
                };
                self.push(Instr::Unary { op, x })
            }
            2 | 3 if t != DType::Bool => {
                let y = self.small(y, t);
                let op = self.dice.of(&[Binary::Add, Binary::Sub, Binary::Max, Binary::Min, Binary::Mul]);
                let v = self.push(Instr::Binary { op, x, y });
                let bound = self.push(Instr::Const { value: 100.0, dtype: t });
                let v = self.push(Instr::Binary { op: Binary::Min, x: v, y: bound });
                if t == DType::U8 || t == DType::U32 {
                    v
                } else {
                    let bound = self.push(Instr::Const { value: -100.0, dtype: t });
                    self.push(Instr::Binary { op: Binary::Max, x: v, y: bound })
                }
            }
            4 => {
                let y = self.small(y, t);
                let op = self.dice.of(&[Binary::Eq, Binary::Ne, Binary::Lt, Binary::Le, Binary::Gt, Binary::Ge]);
                self.push(Instr::Binary { op, x, y })
            }
            5 if t.is_int() => {
                let y = self.small(y, t);
                let op = self.dice.of(&[Binary::And, Binary::Or, Binary::Xor, Binary::Div, Binary::Rem, Binary::Shr]);
                self.push(Instr::Binary { op, x, y })
            }
            6 => {
                let to = self.dice.of(&TYPES);
                self.small(x, to)
            }
            7 => {
                let y = self.small(y, t);
                let c = self.dice.of(values);
                let cond = self.small(c, DType::Bool);
                self.push(Instr::Select { cond, yes: x, no: y })
            }
            8 => {
                let (map, _) = self.map(|_| true, false);
                let dtype = self.dice.of(&[DType::I32, DType::F32, DType::I64, DType::U32]);
                let map = Map { offset: Dim::fixed(100_000), ..map };
                let v = self.push(Instr::Index { map, dtype });
                let eight = self.push(Instr::Const { value: 9.0, dtype });
                self.push(Instr::Binary { op: Binary::Rem, x: v, y: eight })
            }
            9 if self.n_outer < self.extents.len() && t != DType::Bool && t != DType::U8 => {
                let op = self.dice.of(&[ReduceOp::Sum, ReduceOp::Max, ReduceOp::Min, ReduceOp::ArgMax]);
                let empty = self.extents[self.n_outer..].contains(&0);
                let v = self.push(Instr::Reduce { op: if empty { ReduceOp::Sum } else { op }, x });
                let t = self.k.dtype(v);
                let bound = self.push(Instr::Const { value: 50.0, dtype: t });
                self.push(Instr::Binary { op: Binary::Min, x: v, y: bound })
            }
            _ => {
                let dtype = self.dice.of(&TYPES);
                let value = value_of(self.dice, dtype);
                self.push(Instr::Const { value, dtype })
            }
        };
        values.push(v);
    }

    fn store(&mut self, value: Value, row_only: bool) {
        let n_outer = self.n_outer;
        let (map, elems) = if row_only { self.map(|i| i < n_outer, false) } else { self.map(|_| true, true) };
        let dtype = self.k.dtype(value);
        let arg = self.arg(dtype, Access::Write, elems);
        self.k.stores.push(Store { arg, map, value });
    }
}

fn case(seed: u64) -> Case {
    let mut dice = Dice(seed);
    (0..3).for_each(|_| {
        dice.roll(2);
    });
    let rank = dice.roll(5);
    let sizes = [1, 2, 3, 5, 7, 10, 13, 16, 17, 32, 1, 64];
    let mut extents: Vec<usize> = (0..rank).map(|_| dice.of(&sizes)).collect();
    if dice.roll(30) == 0 && rank > 0 {
        extents[0] = 0;
    }
    if dice.roll(4) == 0 && rank > 0 {
        let i = dice.roll(rank);
        extents[i] = dice.of(&[100, 257, 640, 1000]);
    }
    while extents.iter().product::<usize>() > 60_000 {
        let i = (0..rank).max_by_key(|&i| extents[i]).unwrap();
        extents[i] = extents[i].div_ceil(3);
    }
    let n_outer = if dice.roll(3) == 0 { rank } else { dice.roll(rank + 1) };
    let axes = extents.iter().map(|&e| Dim::fixed(e)).collect();
    let k = Loop { axes, n_outer, args: vec![], instrs: vec![], stores: vec![] };
    let mut b = Builder { dice: &mut dice, extents, n_outer, k, data: vec![] };
    let mut values = Vec::new();
    for _ in 0..1 + b.dice.roll(3) {
        let t = b.dice.of(&TYPES);
        values.push(b.load(t));
    }
    for _ in 0..b.dice.roll(12) {
        b.step(&mut values);
    }
    for _ in 0..1 + b.dice.roll(3) {
        let value = b.dice.of(&values);
        let row_only = exists_once_a_row(&b.k, value) && b.dice.roll(3) > 0;
        b.store(value, row_only);
    }
    // Sometimes a store goes in place over an operand that is read by the same index.
    if b.dice.roll(3) == 0 {
        b.make_in_place();
    }
    let Builder { k, data, .. } = b;
    Case { k, data }
}

impl Builder<'_> {
    fn make_in_place(&mut self) {
        let full = |m: &Map, e: &[usize]| {
            m.guards.is_empty() && m.strides.iter().zip(e).all(|(s, &e)| e == 1 || *s != Dim::ZERO)
        };
        let loads: Vec<(u32, Map)> = self
            .k
            .instrs
            .iter()
            .filter_map(|i| match i {
                Instr::Load { arg, map, .. } if full(map, &self.extents) => Some((*arg, map.clone())),
                _ => None,
            })
            .collect();
        for (arg, map) in loads {
            let dtype = self.k.args[arg as usize].dtype;
            let values: Vec<u32> =
                (0..self.k.instrs.len() as u32).filter(|&v| self.k.dtype(Value(v)) == dtype).collect();
            let value = Value(self.dice.of(&values));
            self.k.args[arg as usize].access = Access::ReadWrite;
            self.k.stores.push(Store { arg, map, value });
        }
    }
}

fn config(level: Level, n_threads: usize) -> Config {
    Config { n_threads, level, poison: true, ..Config::detect() }
}

fn check(seed: u64) {
    let c = case(seed);
    let elems: Vec<usize> = c.data.iter().map(Vec::len).collect();
    let plan = plan_of_loop(&c.k, &elems);
    let expected = interpret(&c.k, &c.k.axes, 1, &c.data);
    for level in Level::ALL.into_iter().filter(|l| l.is_available()) {
        let plain_loops = (seed / 3).is_multiple_of(4);
        let config = Config { plain_loops, ..config(level, 1 + seed as usize % 3) };
        let got = run_slots(&plan, config, &c.data);
        for (i, arg) in c.k.args.iter().enumerate() {
            let same = got[i].iter().zip(&expected[i]).all(|(a, b)| a == b || (a.is_nan() && b.is_nan()));
            let place = got[i].iter().zip(&expected[i]).position(|(a, b)| a != b);
            assert!(
                same,
                "seed {seed} {level:?}: arg {i} (written: {}) differs at {place:?}: {:?} for {:?}\n{}",
                is_written(arg.access),
                place.map(|p| got[i][p]),
                place.map(|p| expected[i][p]),
                c.k
            );
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 600, failure_persistence: None, ..ProptestConfig::default() })]
    #[test]
    fn random_loops_give_what_the_plain_interpreter_gives(seed in any::<u64>()) {
        check(seed);
    }
}
