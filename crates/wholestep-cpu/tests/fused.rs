//! Fused loops against the same loops run step by step: the same bits, on numbers of every kind.

#[path = "common/plans.rs"]
mod plans;

use plans::{plan_of, plan_of_loop, run_slots};
use wholestep_compiler::ir::op::{Binary, Unary};
use wholestep_compiler::ir::{DType, Dim};
use wholestep_compiler::kernel::{Access, Arg, Contract, Contraction, Instr, Kernel, Loop, Map, Store, Value};
use wholestep_cpu::Config;

fn flat(stride: usize) -> Map {
    Map { strides: vec![Dim::fixed(stride)], offset: Dim::fixed(0), guards: vec![] }
}

struct Builder {
    k: Loop,
    data: Vec<Vec<f64>>,
}

impl Builder {
    fn new(n: usize) -> Builder {
        let k = Loop { axes: vec![Dim::fixed(n)], n_outer: 1, args: vec![], instrs: vec![], stores: vec![] };
        Builder { k, data: vec![] }
    }

    fn push(&mut self, instr: Instr) -> Value {
        self.k.instrs.push(instr);
        Value(self.k.instrs.len() as u32 - 1)
    }

    fn arg(&mut self, dtype: DType, access: Access, data: Vec<f64>) -> u32 {
        self.k.args.push(Arg { dtype, access });
        self.data.push(data);
        self.k.args.len() as u32 - 1
    }

    fn load(&mut self, dtype: DType, data: Vec<f64>) -> Value {
        let stride = usize::from(data.len() > 1);
        let arg = self.arg(dtype, Access::Read, data);
        self.push(Instr::Load { arg, map: flat(stride), fill: 0.0 })
    }

    fn store(&mut self, value: Value, n: usize) {
        let arg = self.arg(self.k.dtype(value), Access::Write, vec![0.0; n]);
        self.k.stores.push(Store { arg, map: flat(1), value });
    }

    fn run(&self, plain_loops: bool) -> Vec<Vec<f64>> {
        let elems: Vec<usize> = self.data.iter().map(Vec::len).collect();
        let plan = plan_of_loop(&self.k, &elems);
        run_slots(&plan, Config { n_threads: 2, plain_loops, poison: true, ..Config::detect() }, &self.data)
    }
}

/// Numbers of every kind, in an order that meets each with many others.
fn numbers(n: usize, seed: u64) -> Vec<f64> {
    let odd = [0.0, -0.0, 1.0, -1.0, f64::INFINITY, f64::NEG_INFINITY, f64::NAN, 1e-40, -1e-40, 3e38, 0.5, 2.5];
    let mut x = seed | 1;
    let mut next = || {
        x = x.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        (x >> 33) as usize
    };
    (0..n)
        .map(|_| match next() % 3 {
            0 => odd[next() % odd.len()],
            1 => f64::from((next() as f32 / 1e8).exp2() - 8.0),
            _ => f64::from(f32::from_bits(next() as u32 & 0x7fff_ffff | (next() as u32) << 31)),
        })
        .collect()
}

fn same_bits(a: &[Vec<f64>], b: &[Vec<f64>], what: &str) {
    for (arg, (a, b)) in a.iter().zip(b).enumerate() {
        for (i, (x, y)) in a.iter().zip(b).enumerate() {
            // A NaN is a NaN: which operand's payload it has, no instruction set promises.
            assert!(
                x.to_bits() == y.to_bits() || (x.is_nan() && y.is_nan()),
                "{what}: arg {arg} at {i}: {x:e} for {y:e}"
            );
        }
    }
}

/// Lengths around the lanes of a vector and the blocks of a loop.
const LENGTHS: [usize; 8] = [1, 15, 16, 17, 100, 1024, 1031, 5003];

#[test]
fn every_operation_gives_the_same_bits_fused_and_alone() {
    let binaries = [
        Binary::Add,
        Binary::Sub,
        Binary::Mul,
        Binary::Div,
        Binary::Max,
        Binary::Min,
        Binary::Eq,
        Binary::Ne,
        Binary::Lt,
        Binary::Le,
        Binary::Gt,
        Binary::Ge,
    ];
    let unaries = [
        Unary::Neg,
        Unary::Abs,
        Unary::Sqrt,
        Unary::Rsqrt,
        Unary::Recip,
        Unary::Floor,
        Unary::Ceil,
        Unary::Round,
        Unary::Exp,
        Unary::Tanh,
        Unary::Sigmoid,
    ];
    for n in LENGTHS {
        let mut b = Builder::new(n);
        let (x, y) = (b.load(DType::F32, numbers(n, 3)), b.load(DType::F32, numbers(n, 8)));
        let (label, shared) =
            (b.load(DType::U32, (0..n).map(|i| (i % 7) as f64).collect()), b.load(DType::F32, vec![0.3]));
        let five = b.push(Instr::Const { value: 5.0, dtype: DType::U32 });
        let is_five = b.push(Instr::Binary { op: Binary::Ge, x: label, y: five });
        let number = b.push(Instr::Cast { to: DType::F32, x: label });
        let as_number = b.push(Instr::Cast { to: DType::F32, x: is_five });
        let (mut all, mut masks) = (vec![number, as_number, shared], vec![is_five]);
        for op in binaries {
            let v = b.push(Instr::Binary { op, x, y });
            if b.k.dtype(v) == DType::Bool { masks.push(v) } else { all.push(v) }
        }
        for op in unaries {
            all.push(b.push(Instr::Unary { op, x }));
        }
        let mut any = masks[0];
        for (i, &mask) in masks.iter().enumerate().skip(1) {
            let op = [Binary::Or, Binary::And, Binary::Xor][i % 3];
            any = b.push(Instr::Binary { op, x: any, y: mask });
        }
        let none = b.push(Instr::Unary { op: Unary::Not, x: any });
        let chosen = b.push(Instr::Select { cond: none, yes: x, no: y });
        all.extend([chosen, any, none]);
        all.extend(masks);
        all.iter().for_each(|&v| b.store(v, n));
        same_bits(&b.run(false), &b.run(true), &format!("{n} points"));
    }
}

/// Sums and products over many values that all live to the end: more than there are registers.
#[test]
fn more_values_than_registers_give_the_same_bits() {
    let n = 1031;
    let mut b = Builder::new(n);
    let x = b.load(DType::F32, numbers(n, 5));
    let mut values = vec![x];
    for i in 0..60 {
        let c = b.push(Instr::Const { value: 0.37 * f64::from(i) + 0.1, dtype: DType::F32 });
        let y = values[i as usize / 2];
        let v = b.push(Instr::Binary { op: [Binary::Mul, Binary::Add, Binary::Sub][i as usize % 3], x: y, y: c });
        values.push(v);
    }
    let mut sum = values[0];
    for &v in values.iter().rev() {
        let m = b.push(Instr::Binary { op: Binary::Mul, x: v, y: values[7] });
        sum = b.push(Instr::Binary { op: Binary::Add, x: sum, y: m });
    }
    b.store(sum, n);
    values[40..].iter().for_each(|&v| b.store(v, n));
    same_bits(&b.run(false), &b.run(true), "many values");
}

/// An update like an optimizer's behind a product whose result is cut into tiles: in place, with what is shared by all, by a column's
/// rows and by nobody, and with a mask to memory.
#[test]
fn epilogues_on_parts_of_a_result_give_the_same_bits() {
    let map = |strides: &[usize]| Map {
        strides: strides.iter().map(|&s| Dim::fixed(s)).collect(),
        offset: Dim::fixed(0),
        guards: vec![],
    };
    for (m, n, k) in [(200, 300, 150), (130, 137, 20), (64, 512, 300), (5, 3, 4), (300, 16, 9), (1, 700, 33)] {
        let full = || map(&[n, 1]);
        let load = |arg: u32, map: Map| Instr::Load { arg, map, fill: 0.0 };
        let binary = |op: Binary, x: u32, y: u32| Instr::Binary { op, x: Value(x), y: Value(y) };
        let instrs = vec![
            load(2, full()),
            load(4, full()),
            load(5, full()),
            load(6, map(&[0, 1])),
            load(7, map(&[0, 0])),
            Instr::Const { value: 0.9, dtype: DType::F32 },
            binary(Binary::Mul, 1, 5),
            binary(Binary::Add, 6, 0),
            binary(Binary::Mul, 7, 7),
            binary(Binary::Add, 8, 4),
            Instr::Unary { op: Unary::Sqrt, x: Value(9) },
            binary(Binary::Div, 7, 10),
            binary(Binary::Mul, 11, 4),
            binary(Binary::Sub, 2, 12),
            binary(Binary::Gt, 7, 3),
        ];
        let stores = [(4, 7), (5, 13), (8, 14)];
        let stores = stores.map(|(arg, v)| Store { arg, map: full(), value: Value(v) }).to_vec();
        let c = Contraction::Matmul {
            batch: vec![],
            m: Dim::fixed(m),
            n: Dim::fixed(n),
            k: Dim::fixed(k),
            lhs: map(&[1, m]),
            rhs: map(&[n, 1]),
        };
        let scratch = wholestep_cpu::contract::own_scratch_bytes(&c, 1);
        let slots = [
            (DType::F32, m * k, Access::Read),
            (DType::F32, k * n, Access::Read),
            (DType::F32, m * n, Access::ReadWrite),
            (DType::U8, scratch, Access::Write),
            (DType::F32, m * n, Access::ReadWrite),
            (DType::F32, m * n, Access::ReadWrite),
            (DType::F32, n, Access::Read),
            (DType::F32, 1, Access::Read),
            (DType::Bool, m * n, Access::Write),
        ];
        let args: Vec<Arg> = slots.iter().map(|&(dtype, _, access)| Arg { dtype, access }).collect();
        let axes = vec![Dim::fixed(m), Dim::fixed(n)];
        let epilogue = Loop { n_outer: 2, axes, args: args.clone(), instrs, stores };
        let kernel = Kernel::Contract(Contract {
            contraction: c,
            dtype: DType::F32,
            args,
            epilogue: Some(epilogue),
            triangle: None,
        });
        let sizes: Vec<(DType, usize)> = slots.iter().map(|&(dtype, n, _)| (dtype, n)).collect();
        let plan = plan_of(vec![kernel], vec![(0, vec![(vec![], (0..9).collect())])], &sizes);
        let small =
            |n: usize, seed: u64| numbers(n, seed).into_iter().map(|v| if v.abs() < 8.0 { v } else { 0.25 }).collect();
        let data: Vec<Vec<f64>> = sizes
            .iter()
            .enumerate()
            .map(|(i, &(dtype, n))| match dtype {
                DType::F32 if i == 7 => vec![0.01],
                DType::F32 => small(n, i as u64),
                _ => vec![0.0; n],
            })
            .collect();
        let run = |n_threads: usize, plain_loops: bool| {
            let mut slots = run_slots(&plan, Config { n_threads, plain_loops, ..Config::detect() }, &data);
            slots.remove(3);
            slots
        };
        let expected = run(1, true);
        assert!(expected[7].contains(&1.0) || m * n < 20, "the mask is never set");
        for n_threads in [1, 3] {
            same_bits(&run(n_threads, false), &expected, &format!("{m} x {n} x {k}, {n_threads} threads"));
        }
    }
}
