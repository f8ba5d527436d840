//! Loops whose extents choose the rarer schedules: long rows in several passes, split reductions, tall and wide column sums, many
//! segments. Against plain f64, with equal bits for 1, 2 and 3 threads.

#[path = "common/plans.rs"]
mod plans;

use plans::{Data, interpret, plan_of, plan_of_loop, run_slots};
use wholestep_compiler::ir::op::{Binary, Unary};
use wholestep_compiler::ir::{DType, Dim};
use wholestep_compiler::kernel::{Access, Arg, Instr, Kernel, Loop, Map, ReduceOp, Store, Value};
use wholestep_cpu::Config;

const F32: DType = DType::F32;

fn map(strides: &[i64]) -> Map {
    let strides = strides.iter().map(|&s| Dim { batch: 0, fixed: s }).collect();
    Map { strides, offset: Dim::ZERO, guards: vec![] }
}

fn numbers(n: usize) -> Data {
    (0..n).map(|i| ((i * 7919 % 1009) as f32 / 256.0 - 2.0) as f64).collect()
}

fn load(strides: &[i64]) -> Instr {
    Instr::Load { arg: 0, map: map(strides), fill: 0.0 }
}

fn reduce(op: ReduceOp, x: u32) -> Instr {
    Instr::Reduce { op, x: Value(x) }
}

/// Runs a loop of one f32 operand with 1, 2 and 3 threads, compares the bits, then the values with the interpreter's.
fn check(k: &Loop, elems: &[usize], tolerance: f64, data: Data, what: &str) {
    let plan = plan_of_loop(k, elems);
    let all: Vec<Data> = [vec![data], elems[1..].iter().map(|&n| vec![-5.0; n]).collect()].concat();
    let runs: Vec<Vec<Data>> = [1, 2, 3]
        .map(|n_threads| run_slots(&plan, Config { n_threads, poison: true, ..Config::detect() }, &all))
        .into();
    let bits = |run: &[Data]| -> Vec<u64> { run.iter().flatten().map(|v| v.to_bits()).collect() };
    assert_eq!(bits(&runs[0]), bits(&runs[1]), "{what}: 2 threads");
    assert_eq!(bits(&runs[0]), bits(&runs[2]), "{what}: 3 threads");
    let expected = interpret(k, &k.axes, 1, &all);
    for (arg, (got, expected)) in runs[0].iter().zip(&expected).enumerate() {
        for (i, (g, e)) in got.iter().zip(expected).enumerate() {
            let same = g == e || (g.is_nan() && e.is_nan()) || (g - e).abs() <= tolerance * (1.0 + e.abs());
            assert!(same, "{what}: arg {arg} element {i} is {g}, expected {e}");
        }
    }
}

/// Sum of squares, largest, smallest and place of the largest of each row; `row` and `at` are the strides of the operand.
fn four_reductions(rows: usize, len: usize, row: i64, at: i64, with_place: bool) -> (Loop, Vec<usize>) {
    let out = |dtype| Arg { dtype, access: Access::Write };
    let mut k = Loop {
        axes: vec![Dim::fixed(rows), Dim::fixed(len)],
        n_outer: 1,
        args: vec![Arg { dtype: F32, access: Access::Read }, out(F32), out(F32), out(F32)],
        instrs: vec![
            load(&[row, at]),
            Instr::Binary { op: Binary::Mul, x: Value(0), y: Value(0) },
            reduce(ReduceOp::Sum, 1),
            reduce(ReduceOp::Max, 0),
            reduce(ReduceOp::Min, 0),
        ],
        stores: (0..3).map(|i| Store { arg: i + 1, map: map(&[1, 0]), value: Value(i + 2) }).collect(),
    };
    let mut elems = vec![rows * len, rows, rows, rows];
    if with_place {
        k.args.push(out(DType::I32));
        k.instrs.push(reduce(ReduceOp::ArgMax, 0));
        k.stores.push(Store { arg: 4, map: map(&[1, 0]), value: Value(5) });
        elems.push(rows);
    }
    (k, elems)
}

#[test]
fn reductions_of_every_shape_and_layout() {
    let shapes =
        [(1, 100_003), (3, 40_000), (24, 20_000), (64, 4_099), (700, 130), (5_000, 10), (9_001, 3), (130, 1_031)];
    for (rows, len) in shapes {
        for with_place in [false, true] {
            for (row, at) in [(len as i64, 1), (1, rows as i64)] {
                let (k, elems) = four_reductions(rows, len, row, at, with_place);
                let what = format!("[{rows}, {len}] strides {row} {at} place {with_place}");
                check(&k, &elems, 3e-7 * 4.0, numbers(rows * len), &what);
                let mut data = numbers(rows * len);
                let n = data.len();
                (data[n / 2], data[n - 1]) = (f64::NAN, f64::NAN);
                check(&k, &elems, 3e-7 * 4.0, data, &what);
            }
        }
    }
}

#[test]
fn softmax_of_short_long_and_very_long_rows_in_both_layouts_and_in_place() {
    for (rows, len) in [(64, 10), (1000, 7), (33, 100), (20, 768), (3, 16_384), (2, 30_000)] {
        for (row, at) in [(len as i64, 1), (1, rows as i64)] {
            for in_place in [false, true] {
                let to = u32::from(!in_place);
                let mut args =
                    vec![Arg { dtype: F32, access: if in_place { Access::ReadWrite } else { Access::Read } }];
                args.extend((!in_place).then_some(Arg { dtype: F32, access: Access::Write }));
                let k = Loop {
                    axes: vec![Dim::fixed(rows), Dim::fixed(len)],
                    n_outer: 1,
                    args,
                    instrs: vec![
                        load(&[row, at]),
                        reduce(ReduceOp::Max, 0),
                        Instr::Binary { op: Binary::Sub, x: Value(0), y: Value(1) },
                        Instr::Unary { op: Unary::Exp, x: Value(2) },
                        reduce(ReduceOp::Sum, 3),
                        Instr::Binary { op: Binary::Div, x: Value(3), y: Value(4) },
                    ],
                    stores: vec![Store { arg: to, map: map(&[row, at]), value: Value(5) }],
                };
                let elems = vec![rows * len; 1 + to as usize];
                check(
                    &k,
                    &elems,
                    1e-6,
                    numbers(rows * len),
                    &format!("[{rows}, {len}] strides {row} {at} in place {in_place}"),
                );
            }
        }
    }
}

#[test]
fn transposes_of_two_to_four_axes_keep_every_element() {
    for extents in [vec![300, 200], vec![5, 33, 70], vec![3, 17, 40, 8], vec![2, 3, 50, 64], vec![1000, 3]] {
        let n = extents.len();
        let mut strides = vec![1i64; n];
        (0..n - 1).rev().for_each(|i| strides[i] = strides[i + 1] * extents[i + 1] as i64);
        // The operand has the axes in each rotation of their order.
        for turn in 1..n {
            let mut from = vec![0i64; n];
            let mut step = 1;
            for i in 0..n {
                let axis = (turn + n - 1 - i) % n;
                from[axis] = step;
                step *= extents[axis] as i64;
            }
            for (a, b) in [(&from, &strides), (&strides, &from)] {
                let k = Loop {
                    axes: extents.iter().map(|&e| Dim::fixed(e)).collect(),
                    n_outer: n,
                    args: vec![Arg { dtype: F32, access: Access::Read }, Arg { dtype: F32, access: Access::Write }],
                    instrs: vec![load(a), Instr::Unary { op: Unary::Neg, x: Value(0) }],
                    stores: vec![Store { arg: 1, map: map(b), value: Value(1) }],
                };
                check(&k, &[step as usize; 2], 0.0, numbers(step as usize), &format!("{extents:?} turn {turn}"));
            }
        }
    }
}

#[test]
fn segments_of_one_launch_update_their_own_buffers_in_place() {
    let sizes = [10, 1, 4096, 70_001, 64, 333];
    let arg = |access| Arg { dtype: F32, access };
    let k = Loop {
        axes: vec![Dim::fixed(1)],
        n_outer: 1,
        args: vec![arg(Access::ReadWrite), arg(Access::ReadWrite), arg(Access::Read)],
        instrs: vec![
            load(&[1]),
            Instr::Load { arg: 1, map: map(&[1]), fill: 0.0 },
            Instr::Load { arg: 2, map: map(&[0]), fill: 0.0 },
            Instr::Binary { op: Binary::Mul, x: Value(1), y: Value(2) },
            Instr::Binary { op: Binary::Add, x: Value(3), y: Value(0) },
            Instr::Binary { op: Binary::Sub, x: Value(0), y: Value(4) },
        ],
        // The two values change places on the way: each store would spoil the other's operand if it came too early.
        stores: vec![
            Store { arg: 1, map: map(&[1]), value: Value(5) },
            Store { arg: 0, map: map(&[1]), value: Value(1) },
        ],
    };
    let segments =
        sizes.iter().enumerate().map(|(i, &n)| (vec![Dim::fixed(n)], vec![2 * i as u32, 2 * i as u32 + 1, 12]));
    let slots: Vec<(DType, usize)> = sizes.iter().flat_map(|&n| [(F32, n), (F32, n)]).chain([(F32, 1)]).collect();
    let plan = plan_of(vec![Kernel::Loop(k)], vec![(0, segments.collect())], &slots);
    let data: Vec<Data> = slots.iter().enumerate().map(|(i, s)| numbers(s.1 + i)[i..].to_vec()).collect();
    let scale = data[12][0];
    for n_threads in [1, 2, 3] {
        let got = run_slots(&plan, Config { n_threads, ..Config::detect() }, &data);
        for i in 0..sizes.len() {
            let (p, m) = (&data[2 * i], &data[2 * i + 1]);
            assert_eq!(got[2 * i], *m, "segment {i}");
            for (j, v) in got[2 * i + 1].iter().enumerate() {
                let expected = p[j] - (m[j] * scale + p[j]);
                assert!((v - expected).abs() < 1e-5, "segment {i} element {j}: {v} for {expected}");
            }
        }
    }
}
