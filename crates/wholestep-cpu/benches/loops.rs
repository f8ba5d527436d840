//! Times of loops as training steps have them: `cargo bench -p wholestep-cpu --bench loops`. Takes the name of a row or nothing, gives
//! nanoseconds (the least of many runs) and bytes moved per nanosecond. Never checks values: the tests do.

#[path = "../tests/common/plans.rs"]
mod plans;

use std::time::Instant;
use wholestep_compiler::ir::op::{Binary, Unary, WindowGeometry};
use wholestep_compiler::ir::{DType, Dim, SlotId};
use wholestep_compiler::kernel::{
    Access, Arg, Instr, Kernel, Loop, Map, ReduceOp, Scan, Sort, Store, Value, WindowKernel, WindowOp,
};
use wholestep_compiler::plan::Plan;
use wholestep_cpu::Config;

const F32: DType = DType::F32;

/// Writes loops line by line.
pub struct Writer {
    k: Loop,
}

impl Writer {
    fn new(axes: &[usize], n_outer: usize, args: &[(DType, Access)]) -> Writer {
        let axes = axes.iter().map(|&e| Dim::fixed(e)).collect();
        let args = args.iter().map(|&(dtype, access)| Arg { dtype, access }).collect();
        Writer { k: Loop { axes, n_outer, args, instrs: vec![], stores: vec![] } }
    }

    fn push(&mut self, i: Instr) -> Value {
        self.k.instrs.push(i);
        Value(self.k.instrs.len() as u32 - 1)
    }

    fn map(strides: &[i64]) -> Map {
        let strides = strides.iter().map(|&s| Dim { batch: 0, fixed: s }).collect();
        Map { strides, offset: Dim::ZERO, guards: vec![] }
    }

    fn load(&mut self, arg: u32, strides: &[i64]) -> Value {
        self.push(Instr::Load { arg, map: Writer::map(strides), fill: 0.0 })
    }

    fn constant(&mut self, value: f64) -> Value {
        self.push(Instr::Const { value, dtype: F32 })
    }

    fn un(&mut self, op: Unary, x: Value) -> Value {
        self.push(Instr::Unary { op, x })
    }

    fn bin(&mut self, op: Binary, x: Value, y: Value) -> Value {
        self.push(Instr::Binary { op, x, y })
    }

    fn reduce(&mut self, op: ReduceOp, x: Value) -> Value {
        self.push(Instr::Reduce { op, x })
    }

    fn store(&mut self, arg: u32, strides: &[i64], value: Value) {
        self.k.stores.push(Store { arg, map: Writer::map(strides), value });
    }
}

use Access::{Read, ReadWrite, Write};

fn adam(n: usize) -> Loop {
    let mut w = Writer::new(&[n], 1, &[(F32, ReadWrite), (F32, ReadWrite), (F32, ReadWrite), (F32, Read), (F32, Read)]);
    let (p, m, v, g, lr) = (w.load(0, &[1]), w.load(1, &[1]), w.load(2, &[1]), w.load(3, &[1]), w.load(4, &[0]));
    let (b1, c1) = (w.constant(0.9), w.constant(0.1));
    let (b2, c2) = (w.constant(0.999), w.constant(0.001));
    let eps = w.constant(1e-8);
    let (bm, cg) = (w.bin(Binary::Mul, b1, m), w.bin(Binary::Mul, c1, g));
    let m2 = w.bin(Binary::Add, bm, cg);
    let gg = w.bin(Binary::Mul, g, g);
    let (bv, cg) = (w.bin(Binary::Mul, b2, v), w.bin(Binary::Mul, c2, gg));
    let v2 = w.bin(Binary::Add, bv, cg);
    let s = w.un(Unary::Sqrt, v2);
    let d = w.bin(Binary::Add, s, eps);
    let q = w.bin(Binary::Div, m2, d);
    let lq = w.bin(Binary::Mul, lr, q);
    let p2 = w.bin(Binary::Sub, p, lq);
    w.store(0, &[1], p2);
    w.store(1, &[1], m2);
    w.store(2, &[1], v2);
    w.k
}

/// Softmax cross-entropy with its gradient, labels as one-hot comparisons.
fn cross_entropy(rows: usize, cols: usize) -> Loop {
    let args = [(F32, Read), (DType::I32, Read), (F32, Write), (F32, Write)];
    let mut w = Writer::new(&[rows, cols], 1, &args);
    let c = cols as i64;
    let x = w.load(0, &[c, 1]);
    let label = w.load(1, &[1, 0]);
    let class = w.push(Instr::Index { map: Writer::map(&[0, 1]), dtype: DType::I32 });
    let hit = w.bin(Binary::Eq, class, label);
    let hit = w.push(Instr::Cast { to: F32, x: hit });
    let max = w.reduce(ReduceOp::Max, x);
    let d = w.bin(Binary::Sub, x, max);
    let e = w.un(Unary::Exp, d);
    let sum = w.reduce(ReduceOp::Sum, e);
    let hx = w.bin(Binary::Mul, hit, d);
    let picked = w.reduce(ReduceOp::Sum, hx);
    let log = w.un(Unary::Log, sum);
    let loss = w.bin(Binary::Sub, log, picked);
    let p = w.bin(Binary::Div, e, sum);
    let g = w.bin(Binary::Sub, p, hit);
    let scale = w.constant(1.0 / rows as f64);
    let g = w.bin(Binary::Mul, g, scale);
    w.store(2, &[1, 0], loss);
    w.store(3, &[c, 1], g);
    w.k
}

fn column_sums(rows: usize, cols: usize) -> Loop {
    let mut w = Writer::new(&[cols, rows], 1, &[(F32, Read), (F32, Write)]);
    let x = w.load(0, &[1, cols as i64]);
    let s = w.reduce(ReduceOp::Sum, x);
    w.store(1, &[1, 0], s);
    w.k
}

/// Sum and sum of squares per channel of [n, h, w, c].
fn statistics(pixels: usize, c: usize) -> Loop {
    let mut w = Writer::new(&[c, pixels], 1, &[(F32, Read), (F32, Write), (F32, Write)]);
    let x = w.load(0, &[1, c as i64]);
    let xx = w.bin(Binary::Mul, x, x);
    let (s, q) = (w.reduce(ReduceOp::Sum, x), w.reduce(ReduceOp::Sum, xx));
    let n = w.constant(pixels as f64);
    let mean = w.bin(Binary::Div, s, n);
    let sq = w.bin(Binary::Div, q, n);
    let mm = w.bin(Binary::Mul, mean, mean);
    let var = w.bin(Binary::Sub, sq, mm);
    w.store(1, &[1, 0], mean);
    w.store(2, &[1, 0], var);
    w.k
}

fn relu(n: usize) -> Loop {
    let mut w = Writer::new(&[n], 1, &[(F32, Read), (F32, Write)]);
    let (x, z) = (w.load(0, &[1]), w.constant(0.0));
    let y = w.bin(Binary::Max, x, z);
    w.store(1, &[1], y);
    w.k
}

/// x + bias, where the bias repeats along the last axis.
fn bias_relu(rows: usize, cols: usize) -> Loop {
    let mut w = Writer::new(&[rows, cols], 2, &[(F32, Read), (F32, Read), (F32, Write)]);
    let (x, b, z) = (w.load(0, &[cols as i64, 1]), w.load(1, &[0, 1]), w.constant(0.0));
    let y = w.bin(Binary::Add, x, b);
    let y = w.bin(Binary::Max, y, z);
    w.store(2, &[cols as i64, 1], y);
    w.k
}

fn gelu(n: usize) -> Loop {
    let mut w = Writer::new(&[n], 1, &[(F32, Read), (F32, Write)]);
    let (x, c, h, o) = (w.load(0, &[1]), w.constant(0.5f64.sqrt()), w.constant(0.5), w.constant(1.0));
    let t = w.bin(Binary::Mul, x, c);
    let e = w.un(Unary::Erf, t);
    let e = w.bin(Binary::Add, e, o);
    let y = w.bin(Binary::Mul, x, h);
    let y = w.bin(Binary::Mul, y, e);
    w.store(1, &[1], y);
    w.k
}

fn layer_norm(rows: usize, cols: usize) -> Loop {
    let c = cols as i64;
    let mut w = Writer::new(&[rows, cols], 1, &[(F32, Read), (F32, Read), (F32, Read), (F32, Write)]);
    let (x, gamma, beta) = (w.load(0, &[c, 1]), w.load(1, &[0, 1]), w.load(2, &[0, 1]));
    let (n, eps) = (w.constant(cols as f64), w.constant(1e-5));
    let s = w.reduce(ReduceOp::Sum, x);
    let mean = w.bin(Binary::Div, s, n);
    let d = w.bin(Binary::Sub, x, mean);
    let dd = w.bin(Binary::Mul, d, d);
    let q = w.reduce(ReduceOp::Sum, dd);
    let var = w.bin(Binary::Div, q, n);
    let var = w.bin(Binary::Add, var, eps);
    let r = w.un(Unary::Rsqrt, var);
    let y = w.bin(Binary::Mul, d, r);
    let y = w.bin(Binary::Mul, y, gamma);
    let y = w.bin(Binary::Add, y, beta);
    w.store(3, &[c, 1], y);
    w.k
}

fn transpose(rows: usize, cols: usize) -> Loop {
    let mut w = Writer::new(&[rows, cols], 2, &[(F32, Read), (F32, Write)]);
    let x = w.load(0, &[1, rows as i64]);
    let y = w.un(Unary::Neg, x);
    w.store(1, &[cols as i64, 1], y);
    w.k
}

fn full_sum(n: usize) -> Loop {
    let mut w = Writer::new(&[n], 0, &[(F32, Read), (F32, Write)]);
    let x = w.load(0, &[1]);
    let s = w.reduce(ReduceOp::Sum, x);
    w.store(1, &[0], s);
    w.k
}

fn random_mask(n: usize) -> Loop {
    let args = [(F32, Read), (DType::U32, Read), (DType::U32, Read), (F32, Write)];
    let mut w = Writer::new(&[n], 1, &args);
    let x = w.load(0, &[1]);
    let bits = w.push(Instr::Random { map: Writer::map(&[1]), stream: 3, key: 1, step: 2 });
    let half = w.push(Instr::Const { value: 2147483648.0, dtype: DType::U32 });
    let keep = w.bin(Binary::Lt, bits, half);
    let z = w.constant(0.0);
    let y = w.push(Instr::Select { cond: keep, yes: x, no: z });
    w.store(3, &[1], y);
    w.k
}

/// The tiny plan: a chain of 20 loops over 10 to 200 elements.
fn tiny() -> Plan {
    let sizes = [10, 64, 200, 128, 32];
    let mut kernels: Vec<Kernel> = Vec::new();
    let mut launches = Vec::new();
    for i in 0..20u32 {
        let n = sizes[i as usize % 5];
        kernels.push(Kernel::Loop(match i % 4 {
            0 => relu(n),
            1 => gelu(n),
            2 => column_sums(8, n / 8),
            _ => bias_relu(n / 2, 2),
        }));
        let n_args = kernels[i as usize].args().len() as u32;
        let args = (0..n_args).map(|a| (i + a) % 8).collect();
        launches.push((i, vec![(vec![], args)]));
    }
    plans::plan_of(kernels, launches, &[(F32, 200); 8])
}

/// One window op over `[n, side, side, c]`, windows of `size` with stride 2; gives the plan and its bytes.
fn window(op: WindowOp, n: usize, side: usize, c: usize, size: usize) -> (Plan, usize) {
    let out = (side - size) / 2 + 1;
    let (x, y) = (n * side * side * c, n * out * out * c);
    let geometry = WindowGeometry {
        size: vec![size; 2],
        stride: vec![2; 2],
        pad_lo: vec![0; 2],
        out: vec![out; 2],
        dilation: vec![1; 2],
    };
    let (value, place) = ((F32, Read), (DType::I32, Read));
    let (args, elems) = match op {
        WindowOp::ArgMax => (vec![value, (DType::I32, Write)], vec![x, y]),
        WindowOp::Take => (vec![value, place, (F32, Write)], vec![x, y, y]),
        WindowOp::Put => (vec![value, place, (F32, Write)], vec![y, y, x]),
        WindowOp::Sum => (vec![value, (F32, Write)], vec![x, y]),
        WindowOp::Spread => (vec![value, (F32, Write)], vec![y, x]),
    };
    let slots: Vec<(DType, usize)> = args.iter().zip(&elems).map(|(a, &n)| (a.0, n)).collect();
    let args = args.into_iter().map(|(dtype, access)| Arg { dtype, access }).collect();
    let n = Dim::fixed(n);
    let kernel = WindowKernel { op, geometry, dtype: F32, n, input: vec![side; 2], channels: c, args };
    let ids = (0..slots.len() as u32).collect();
    let plan = plans::plan_of(vec![Kernel::Window(kernel)], vec![(0, vec![(vec![], ids)])], &slots);
    (plan, 4 * elems.iter().sum::<usize>())
}

fn lines(is_sort: bool, [outer, len, inner]: [usize; 3]) -> Plan {
    let (to, n) = (if is_sort { DType::I32 } else { F32 }, outer * len * inner);
    let args = [(F32, Read), (to, Write)].map(|(dtype, access)| Arg { dtype, access }).to_vec();
    let [outer, len, inner] = [outer, len, inner].map(Dim::fixed);
    let kernel = if is_sort {
        Kernel::Sort(Sort { outer, len, inner, descending: false, dtype: F32, args })
    } else {
        Kernel::Scan(Scan { outer, len, inner, reverse: false, dtype: F32, args })
    };
    plans::plan_of(vec![kernel], vec![(0, vec![(vec![], vec![0, 1])])], &[(F32, n), (to, n)])
}

/// Rows of a table by number, `[n, c]`.
fn embedding(n: usize, table: usize, c: usize) -> Loop {
    let mut w = Writer::new(&[n, c], 2, &[(F32, Read), (DType::I32, Read), (F32, Write)]);
    let index = w.load(1, &[1, 0]);
    let (stride, len) = (Dim::fixed(c), Dim::fixed(table));
    let x = w.push(Instr::Gather { arg: 0, map: Writer::map(&[0, 1]), index, stride, len });
    w.store(2, &[c as i64, 1], x);
    w.k
}

/// Softmax over rows.
fn softmax(rows: usize, cols: usize) -> Loop {
    let c = cols as i64;
    let mut w = Writer::new(&[rows, cols], 1, &[(F32, Read), (F32, Write)]);
    let x = w.load(0, &[c, 1]);
    let max = w.reduce(ReduceOp::Max, x);
    let d = w.bin(Binary::Sub, x, max);
    let e = w.un(Unary::Exp, d);
    let sum = w.reduce(ReduceOp::Sum, e);
    let p = w.bin(Binary::Div, e, sum);
    w.store(1, &[c, 1], p);
    w.k
}

fn time(name: &str, plan: &Plan, bytes: f64, n_threads: usize) {
    if std::env::args().skip(1).any(|a| !a.starts_with("--") && !name.contains(a.as_str())) {
        return;
    }
    let config = Config { n_threads, ..Config::detect() };
    let mut exe = plans::load(plan, config, 1);
    for (i, s) in plan.slots.iter().enumerate() {
        let data: Vec<f64> = (0..s.shape.numel_at(0)).map(|i| (i % 7) as f64 * 0.25).collect();
        exe.write_slot(SlotId(i as u32), &plans::to_bytes(&data, s.dtype)).unwrap();
    }
    let mut best = f64::MAX;
    let begin = Instant::now();
    let mut n = 0;
    while n < 5 || (begin.elapsed().as_millis() < 150 && n < 20_000) {
        let start = Instant::now();
        exe.run(1, 1, &[]).unwrap();
        best = best.min(start.elapsed().as_nanos() as f64);
        n += 1;
    }
    println!("{name:34} {n_threads} threads {best:12.0} ns {:8.1} GB/s", bytes / best);
}

fn main() {
    let one = |k: Loop, elems: &[usize]| plans::plan_of_loop(&k, elems);
    let m = 1 << 20;
    let rows: Vec<(&str, Plan, usize)> = vec![
        ("adam 535k", one(adam(535_000), &[535_000, 535_000, 535_000, 535_000, 1]), 535_000 * 28),
        ("adam 20k", one(adam(20_000), &[20_000, 20_000, 20_000, 20_000, 1]), 20_000 * 28),
        ("cross entropy [64, 10]", one(cross_entropy(64, 10), &[640, 64, 64, 640]), 640 * 8),
        ("cross entropy [512, 10]", one(cross_entropy(512, 10), &[5120, 512, 512, 5120]), 5120 * 8),
        ("cross entropy [256, 1000]", one(cross_entropy(256, 1000), &[256_000, 256, 256, 256_000]), 256_000 * 8),
        ("bias gradient [512, 512]", one(column_sums(512, 512), &[m / 4, 512]), m),
        ("bias gradient [64, 128]", one(column_sums(64, 128), &[8192, 128]), 8192 * 4),
        ("statistics [32,32,32,64]", one(statistics(32768, 64), &[2 * m, 64, 64]), 8 * m),
        ("relu [32,32,32,64]", one(relu(2 * m), &[2 * m, 2 * m]), 16 * m),
        ("bias relu [32768, 64]", one(bias_relu(32768, 64), &[2 * m, 64, 2 * m]), 16 * m),
        ("bias relu [4096, 10]", one(bias_relu(4096, 10), &[40_960, 10, 40_960]), 40_960 * 8),
        ("gelu 1M", one(gelu(m), &[m, m]), 8 * m),
        ("layer norm [512, 768]", one(layer_norm(512, 768), &[512 * 768, 768, 768, 512 * 768]), 512 * 768 * 8),
        ("layer norm [4096, 64]", one(layer_norm(4096, 64), &[m / 4, 64, 64, m / 4]), 2 * m),
        ("softmax [512, 128]", one(softmax(512, 128), &[m / 16, m / 16]), m / 2),
        ("softmax [256, 1000]", one(softmax(256, 1000), &[256_000, 256_000]), 256_000 * 8),
        ("embedding [4096, 256]", one(embedding(4096, 64, 256), &[64 * 256, 4096, m]), 4 * m),
        ("embedding [4096, 16]", one(embedding(4096, 64, 16), &[1024, 4096, m / 16]), m / 4),
        ("sort [64, 1000, 1]", lines(true, [64, 1000, 1]), 64_000 * 8),
        ("sort [4, 64, 200]", lines(true, [4, 64, 200]), 51_200 * 8),
        ("scan [64, 4096, 1]", lines(false, [64, 4096, 1]), 2 * m),
        ("scan [4, 256, 256]", lines(false, [4, 256, 256]), 2 * m),
        ("transpose [1024, 1024]", one(transpose(1024, 1024), &[m, m]), 8 * m),
        ("sum 1M", one(full_sum(m), &[m, 1]), 4 * m),
        ("dropout 256k", one(random_mask(m / 4), &[m / 4, 2, 1, m / 4]), 2 * m),
        ("tiny: 20 launches", tiny(), 0),
    ];
    use WindowOp::{ArgMax, Put, Spread, Sum, Take};
    for (op, name) in [(ArgMax, "argmax"), (Take, "take"), (Put, "put"), (Sum, "sum"), (Spread, "spread")] {
        for (n, side, c, size) in [(128, 26, 32, 2), (32, 57, 16, 3), (64, 28, 6, 2), (64, 28, 1, 2)] {
            let (plan, bytes) = window(op, n, side, c, size);
            for n_threads in [1, 2] {
                time(&format!("{name} {size}x{size}/2 [{n},{side},{side},{c}]"), &plan, bytes as f64, n_threads);
            }
        }
    }
    for (name, plan, bytes) in &rows {
        for n_threads in [1, 2] {
            time(name, plan, *bytes as f64, n_threads);
        }
    }
}
