//! Contractions, windows, scatters, sorts, scans and scalar functions against plain f64.

#[path = "common/plans.rs"]
mod plans;

use plans::{Data, plan_of, plan_of_loop, run_slots};
use wholestep_compiler::ir::op::{Binary, ConvGeometry, Unary, WindowGeometry};
use wholestep_compiler::ir::{DType, Dim};
use wholestep_compiler::kernel::{
    Access, Arg, Contract, Contraction, ConvSizes, Instr, Kernel, Loop, Map, Scan, Scatter, Sort, Store, Value,
    WindowKernel, WindowOp,
};
use wholestep_cpu::Config;
use wholestep_cpu::loops::level::Level;

fn dim(v: i64) -> Dim {
    Dim { batch: 0, fixed: v }
}

fn map(strides: &[i64], offset: i64) -> Map {
    Map { strides: strides.iter().map(|&s| dim(s)).collect(), offset: dim(offset), guards: vec![] }
}

fn arg(dtype: DType, access: Access) -> Arg {
    Arg { dtype, access }
}

fn numbers(n: usize, seed: u64) -> Data {
    let mut x = seed.wrapping_mul(2654435761).wrapping_add(12345);
    (0..n)
        .map(|_| {
            x = x.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
            ((x >> 33) % 2001) as f64 / 1000.0 - 1.0
        })
        .map(|v| v as f32 as f64)
        .collect()
}

fn assert_close(got: &[f64], expected: &[f64], tolerance: f64, what: &str) {
    assert_eq!(got.len(), expected.len(), "{what}");
    for (i, (g, e)) in got.iter().zip(expected).enumerate() {
        let same = g == e || (g.is_nan() && e.is_nan()) || (g - e).abs() <= tolerance * (1.0 + e.abs());
        assert!(same, "{what}: element {i} is {g}, expected {e}");
    }
}

/// Runs one contraction with an epilogue that adds a bias per column and keeps the plain sums apart.
fn run_contraction(
    c: Contraction,
    dtype: DType,
    sizes: [usize; 3],
    shape: &[usize],
    plain: bool,
    threads: usize,
) -> Vec<Data> {
    let cols = *shape.last().unwrap();
    let axes: Vec<Dim> = shape.iter().map(|&e| Dim::fixed(e)).collect();
    let mut strides = vec![1i64; shape.len()];
    (0..shape.len() - 1).rev().for_each(|i| strides[i] = strides[i + 1] * shape[i + 1] as i64);
    let mut per_column = vec![0i64; shape.len()];
    per_column[shape.len() - 1] = 1;
    use Access::{Read, ReadWrite, Write};
    let args = vec![
        arg(dtype, Read),
        arg(dtype, Read),
        arg(dtype, ReadWrite),
        arg(DType::U8, Write),
        arg(dtype, Read),
        arg(dtype, Write),
    ];
    let epilogue = Loop {
        n_outer: axes.len(),
        axes,
        args: args.clone(),
        instrs: vec![
            Instr::Load { arg: 2, map: map(&strides, 0), fill: 0.0 },
            Instr::Load { arg: 4, map: map(&per_column, 0), fill: 0.0 },
            Instr::Binary { op: Binary::Add, x: Value(0), y: Value(1) },
        ],
        stores: vec![
            Store { arg: 5, map: map(&strides, 0), value: Value(0) },
            Store { arg: 2, map: map(&strides, 0), value: Value(2) },
        ],
    };
    let contract = Contract { contraction: c, dtype, args, epilogue: Some(epilogue), triangle: None };
    let scratch = wholestep_cpu::contract::scratch_bytes(&contract, 1);
    let kernel = Kernel::Contract(contract);
    let slots = [
        (dtype, sizes[0]),
        (dtype, sizes[1]),
        (dtype, sizes[2]),
        (DType::U8, scratch),
        (dtype, cols),
        (dtype, sizes[2]),
    ];
    let plan = plan_of(vec![kernel], vec![(0, vec![(vec![], (0..6).collect())])], &slots);
    let data = [
        numbers(sizes[0], 1),
        numbers(sizes[1], 2),
        vec![7.0; sizes[2]],
        vec![255.0; scratch],
        numbers(cols, 3),
        vec![7.0; sizes[2]],
    ];
    let config = Config { n_threads: threads, plain_contractions: plain, ..Config::detect() };
    run_slots(&plan, config, &data)
}

#[test]
fn matrix_products_of_every_layout_match_plain_sums_and_run_their_epilogue() {
    for (batch, m, n, k) in [
        (vec![], 5, 7, 11),
        (vec![3], 64, 10, 33),
        (vec![2, 3], 16, 17, 8),
        (vec![], 300, 130, 70),
        (vec![4], 1, 9, 40),
    ] {
        for (lhs_t, rhs_t) in [(false, false), (true, false), (false, true), (true, true)] {
            for shared in [false, true] {
                let count: usize = batch.iter().product();
                let operand = |rows: usize, cols: usize, t: bool, shared: bool| {
                    let mut strides = vec![0i64; batch.len()];
                    let mut step = (rows * cols) as i64;
                    for (i, e) in batch.iter().enumerate().rev() {
                        strides[i] = if shared { 0 } else { step };
                        step *= *e as i64;
                    }
                    strides.extend(if t { [1, rows as i64] } else { [cols as i64, 1] });
                    (map(&strides, 0), rows * cols * if shared { 1 } else { count })
                };
                let ((lhs, n_lhs), (rhs, n_rhs)) = (operand(m, k, lhs_t, false), operand(k, n, rhs_t, shared));
                let axes: Vec<Dim> = batch.iter().map(|&e| Dim::fixed(e)).collect();
                let fixed = Dim::fixed;
                let c = Contraction::Matmul { batch: axes, m: fixed(m), n: fixed(n), k: fixed(k), lhs, rhs };
                let shape = [batch.clone(), vec![m, n]].concat();
                let sizes = [n_lhs, n_rhs, count * m * n];
                let fast = run_contraction(c.clone(), DType::F32, sizes, &shape, false, 2);
                let slow = run_contraction(c.clone(), DType::F32, sizes, &shape, true, 1);
                let wide = run_contraction(c, DType::F64, sizes, &shape, false, 3);
                let expected: Data = (0..sizes[2])
                    .map(|at| {
                        let (i, row, col) = (at / (m * n), at / n % m, at % n);
                        let l = |p: usize| i * m * k + if lhs_t { p * m + row } else { row * k + p };
                        let r = |p: usize| {
                            (if shared { 0 } else { i * k * n }) + if rhs_t { col * k + p } else { p * n + col }
                        };
                        (0..k).map(|p| fast[0][l(p)] * fast[1][r(p)]).sum()
                    })
                    .collect();
                let biased: Data = expected.iter().enumerate().map(|(i, v)| v + fast[4][i % n]).collect();
                let what = format!("{batch:?} {m} {n} {k} {lhs_t} {rhs_t} {shared}");
                for (run, tolerance) in [(&fast, 1e-5), (&slow, 1e-6), (&wide, 1e-13)] {
                    assert_close(&run[5], &expected, tolerance, &what);
                    assert_close(&run[2], &biased, tolerance, &what);
                }
            }
        }
    }
}

fn conv_sizes(rank: usize, groups: usize, stride: usize, dilation: usize) -> ConvSizes {
    let (input, kernel) = (vec![7; rank], vec![3; rank]);
    let geometry = ConvGeometry {
        stride: vec![stride; rank],
        pad_lo: vec![1; rank],
        pad_hi: vec![1; rank],
        dilation: vec![dilation; rank],
        groups,
    };
    let out = (0..rank).map(|i| geometry.out_extent(i, 7, 3).unwrap()).collect();
    ConvSizes { geometry, n: Dim::fixed(2), input, c_in: 4, kernel, out, c_out: 6 }
}

/// The convolution by its definition, over all index tuples: calls `f(x, w, y)` with flat places that meet.
fn each_product(s: &ConvSizes, mut f: impl FnMut(usize, usize, usize)) {
    let (n, rank, g) = (s.n.at(1), s.input.len(), &s.geometry);
    let (ci_g, co_g) = (s.c_in / g.groups, s.c_out / g.groups);
    let (n_out, n_k): (usize, usize) = (s.out.iter().product(), s.kernel.iter().product());
    let index = |mut at: usize, e: &[usize]| {
        let mut v = vec![0; e.len()];
        for i in (0..e.len()).rev() {
            v[i] = at % e[i];
            at /= e[i];
        }
        v
    };
    for image in 0..n {
        for o in 0..n_out {
            for k in 0..n_k {
                let (oi, ki) = (index(o, &s.out), index(k, &s.kernel));
                let mut x = 0i64;
                let mut inside = true;
                for i in 0..rank {
                    let at = (oi[i] * g.stride[i] + ki[i] * g.dilation[i]) as i64 - g.pad_lo[i] as i64;
                    inside &= at >= 0 && at < s.input[i] as i64;
                    x = x * s.input[i] as i64 + at;
                }
                if !inside {
                    continue;
                }
                let pixel = image * s.input.iter().product::<usize>() + x as usize;
                for co in 0..s.c_out {
                    for c in 0..ci_g {
                        let ci = co / co_g * ci_g + c;
                        f(pixel * s.c_in + ci, (k * ci_g + c) * s.c_out + co, (image * n_out + o) * s.c_out + co);
                    }
                }
            }
        }
    }
}

#[test]
fn convolutions_of_one_to_three_axes_and_their_gradients_match_the_definition() {
    for (rank, groups, stride, dilation) in
        [(1, 1, 1, 1), (1, 2, 2, 1), (2, 1, 1, 1), (2, 2, 2, 1), (2, 1, 1, 2), (3, 1, 2, 1), (3, 2, 1, 1)]
    {
        let s = conv_sizes(rank, groups, stride, dilation);
        let x_n = 2 * s.input.iter().product::<usize>() * s.c_in;
        let w_n = s.kernel.iter().product::<usize>() * s.c_in / groups * s.c_out;
        let y_n = 2 * s.out.iter().product::<usize>() * s.c_out;
        let tensor = |middle: &[usize], c: usize| [vec![2], middle.to_vec(), vec![c]].concat();
        let forms = [
            (Contraction::Conv(s.clone()), [x_n, w_n, y_n], tensor(&s.out, s.c_out)),
            (Contraction::ConvInputGrad(s.clone()), [y_n, w_n, x_n], tensor(&s.input, s.c_in)),
            (
                Contraction::ConvWeightGrad(s.clone()),
                [x_n, y_n, w_n],
                [s.kernel.clone(), vec![s.c_in / groups, s.c_out]].concat(),
            ),
        ];
        for (form, (c, sizes, shape)) in forms.into_iter().enumerate() {
            for plain in [false, true] {
                for dtype in [DType::F32, DType::F64] {
                    let run = run_contraction(c.clone(), dtype, sizes, &shape, plain, 2);
                    let mut expected = vec![0.0; sizes[2]];
                    each_product(&s, |x, w, y| match form {
                        0 => expected[y] += run[0][x] * run[1][w],
                        1 => expected[x] += run[0][y] * run[1][w],
                        _ => expected[w] += run[0][x] * run[1][y],
                    });
                    let what = format!("form {form} {rank} {groups} {stride} {dilation} plain {plain} {dtype}");
                    assert_close(&run[5], &expected, 2e-5, &what);
                    let cols = *shape.last().unwrap();
                    let biased: Data = expected.iter().enumerate().map(|(i, v)| v + run[4][i % cols]).collect();
                    assert_close(&run[2], &biased, 2e-5, &what);
                }
            }
        }
    }
}

#[test]
fn windows_take_the_first_largest_and_their_adjoints_add_back() {
    let geometry = |size: [usize; 2], stride: [usize; 2], pad: [usize; 2], dilation: [usize; 2], out: [usize; 2]| {
        let [size, stride, pad_lo, out, dilation] = [size, stride, pad, out, dilation].map(|a| a.to_vec());
        WindowGeometry { size, stride, pad_lo, out, dilation }
    };
    check_windows(&geometry([3, 2], [2, 1], [1, 0], [1, 2], [3, 4]), [5, 6], 3);
    // Channels that are packed, fill vectors exactly, and leave a rest.
    for channels in [1, 2, 6, 8, 11, 16, 21, 32, 40] {
        check_windows(&geometry([2, 2], [2, 2], [0, 0], [1, 1], [3, 10]), [6, 21], channels);
        check_windows(&geometry([3, 3], [2, 2], [1, 1], [1, 1], [3, 11]), [6, 21], channels);
        check_windows(&geometry([2, 3], [1, 1], [0, 1], [1, 1], [4, 7]), [5, 7], channels);
    }
    // The last windows hang over the end; some pixels are in no window.
    check_windows(&geometry([2, 3], [3, 4], [0, 2], [2, 1], [2, 3]), [6, 7], 5);
}

/// All five ops over two images against the definition, at every level and for one and three threads.
fn check_windows(g: &WindowGeometry, input: [usize; 2], c: usize) {
    let n = 2;
    let (pixels, windows, k_n) = (input[0] * input[1], g.out[0] * g.out[1], g.size[0] * g.size[1]);
    let (x_n, y_n) = (n * pixels * c, n * windows * c);
    let mut x: Data = numbers(x_n, 5).iter().map(|v| (v * 3.0).round()).collect();
    x[17] = f64::NAN;
    let d_y: Data = numbers(y_n, 6).iter().map(|v| (v * 8.0).round()).collect();
    let (mut place, mut top, mut sum, mut put, mut spread) =
        (vec![0.0; y_n], vec![0.0; y_n], vec![0.0; y_n], vec![0.0; x_n], vec![0.0; x_n]);
    for y in 0..y_n {
        let (ch, window, image) = (y % c, y / c % windows, y / c / windows);
        let o = [window / g.out[1], window % g.out[1]];
        let mut best: Option<(usize, usize)> = None;
        for p in 0..k_n {
            let k = [p / g.size[1], p % g.size[1]];
            let q = [0, 1].map(|i| (o[i] * g.stride[i] + k[i] * g.dilation[i]) as i64 - g.pad_lo[i] as i64);
            if (0..2).any(|i| q[i] < 0 || q[i] >= input[i] as i64) {
                continue;
            }
            let at = (image * pixels + q[0] as usize * input[1] + q[1] as usize) * c + ch;
            let beats = |a: f64, b: f64| a > b || (a.is_nan() && !b.is_nan());
            if best.is_none_or(|(_, b)| beats(x[at], x[b])) {
                best = Some((p, at));
            }
            sum[y] += x[at];
            spread[at] += d_y[y];
        }
        let (p, at) = best.unwrap();
        (place[y], top[y]) = (p as f64, x[at]);
        put[at] += d_y[y];
    }
    let i = DType::I32;
    for level in Level::ALL.into_iter().filter(|level| level.is_available()) {
        for (dtype, n_threads) in [(DType::F32, 1), (DType::F32, 3), (DType::F64, 1)] {
            let check = |op: WindowOp, args: &[(DType, &Data)], out: DType, expected: &Data| {
                let slots: Vec<_> = args.iter().map(|(t, d)| (*t, d.len())).chain([(out, expected.len())]).collect();
                let kernel = WindowKernel {
                    op,
                    geometry: g.clone(),
                    dtype,
                    n: Dim::fixed(n),
                    input: input.to_vec(),
                    channels: c,
                    args: slots.iter().map(|s| arg(s.0, Access::ReadWrite)).collect(),
                };
                let ids = (0..slots.len() as u32).collect();
                let plan = plan_of(vec![Kernel::Window(kernel)], vec![(0, vec![(vec![], ids)])], &slots);
                let data: Vec<Data> = args.iter().map(|(_, d)| d.to_vec()).chain([vec![9.0; expected.len()]]).collect();
                let config = Config { n_threads, level, ..Config::detect() };
                let got = run_slots(&plan, config, &data).pop().unwrap();
                assert_close(&got, expected, 0.0, &format!("{op:?} of {g:?}, {c} channels, {dtype}, {level:?}"));
            };
            check(WindowOp::ArgMax, &[(dtype, &x)], i, &place);
            check(WindowOp::Take, &[(dtype, &x), (i, &place)], dtype, &top);
            check(WindowOp::Put, &[(dtype, &d_y), (i, &place)], dtype, &put);
            check(WindowOp::Sum, &[(dtype, &x)], dtype, &sum);
            check(WindowOp::Spread, &[(dtype, &d_y)], dtype, &spread);
        }
    }
}

#[test]
fn scatters_add_in_order_and_clamp_what_is_out_of_range() {
    for (outer, n_index, len, inner, along) in
        [(1, 40, 7, 300, false), (3, 5, 4, 6, true), (2, 3, 5, 1, false), (1, 0, 3, 2, false)]
    {
        let values: Data = numbers(outer * n_index * inner, 8).iter().map(|v| (v * 9.0).round()).collect();
        let n_idx = if along { outer * n_index * inner } else { n_index };
        let index: Data = (0..n_idx).map(|i| (i * 5 % (len + 3)) as f64 - 1.0).collect();
        let mut expected = vec![0.0; outer * len * inner];
        for o in 0..outer {
            for i in 0..n_index {
                for c in 0..inner {
                    let at = (o * n_index + i) * inner + c;
                    let to = index[if along { at } else { i }].clamp(0.0, len as f64 - 1.0) as usize;
                    expected[(o * len + to) * inner + c] += values[at];
                }
            }
        }
        for (dtype, index_dtype) in [(DType::F32, DType::I32), (DType::I64, DType::I64), (DType::F64, DType::I32)] {
            let f = Dim::fixed;
            let slots = [(dtype, values.len()), (index_dtype, n_idx), (dtype, expected.len())];
            let args = slots.iter().map(|s| arg(s.0, Access::Read)).collect();
            let k = Scatter {
                outer: f(outer),
                n_index: f(n_index),
                len: f(len),
                inner: f(inner),
                along,
                replaces: false,
                dtype,
                index_dtype,
                args,
            };
            let plan = plan_of(vec![Kernel::Scatter(k)], vec![(0, vec![(vec![], vec![0, 1, 2])])], &slots);
            let data = [values.clone(), index.clone(), vec![9.0; expected.len()]];
            let got = run_slots(&plan, Config { n_threads: 2, ..Config::detect() }, &data);
            assert_eq!(got[2], expected, "{outer} {n_index} {len} {inner} {along} {dtype}");
        }
    }
}

#[test]
fn sorts_are_stable_with_nan_last_and_scans_run_from_both_ends() {
    // Small ones run on one thread; columns beyond a strip and lines beyond a task are shared.
    for extents in [(2, 30, 3), (3, 100, 70), (70, 300, 1)] {
        check_lines(extents);
    }
}

fn check_lines((outer, len, inner): (usize, usize, usize)) {
    let config = Config { n_threads: 3, ..Config::detect() };
    let mut x: Data = numbers(outer * len * inner, 4).iter().map(|v| (v * 4.0).round()).collect();
    (x[5], x[40]) = (f64::NAN, f64::NAN);
    let f = Dim::fixed;
    for descending in [false, true] {
        let k = Sort {
            outer: f(outer),
            len: f(len),
            inner: f(inner),
            descending,
            dtype: DType::F32,
            args: vec![arg(DType::F32, Access::Read), arg(DType::I32, Access::Write)],
        };
        let plan = plan_of(
            vec![Kernel::Sort(k)],
            vec![(0, vec![(vec![], vec![0, 1])])],
            &[(DType::F32, x.len()), (DType::I32, x.len())],
        );
        let got = run_slots(&plan, config, &[x.clone(), vec![0.0; x.len()]]).pop().unwrap();
        for o in 0..outer {
            for c in 0..inner {
                let at = |l: usize| (o * len + l) * inner + c;
                let mut order: Vec<usize> = (0..len).collect();
                // NaN as infinity: the data has none.
                let key = |l: usize| if x[at(l)].is_nan() { f64::INFINITY } else { x[at(l)] };
                order.sort_by(|&a, &b| {
                    if descending { key(b).partial_cmp(&key(a)).unwrap() } else { key(a).partial_cmp(&key(b)).unwrap() }
                });
                (0..len).for_each(|l| assert_eq!(got[at(l)], order[l] as f64));
            }
        }
    }
    let x: Data = x.iter().map(|v| if v.is_nan() { 1.0 } else { *v }).collect();
    for reverse in [false, true] {
        for dtype in [DType::F32, DType::F64, DType::I32, DType::I64] {
            let k = Scan {
                outer: f(outer),
                len: f(len),
                inner: f(inner),
                reverse,
                dtype,
                args: vec![arg(dtype, Access::Read), arg(dtype, Access::Write)],
            };
            let plan = plan_of(vec![Kernel::Scan(k)], vec![(0, vec![(vec![], vec![0, 1])])], &[(dtype, x.len()); 2]);
            let got = run_slots(&plan, config, &[x.clone(), vec![0.0; x.len()]]).pop().unwrap();
            for o in 0..outer {
                for c in 0..inner {
                    let mut sum = 0.0;
                    for i in 0..len {
                        let l = if reverse { len - 1 - i } else { i };
                        sum += x[(o * len + l) * inner + c];
                        assert_eq!(got[(o * len + l) * inner + c], sum);
                    }
                }
            }
        }
    }
}

/// Runs a scalar function over `x` and gives what it gives.
fn apply(op: Unary, x: &[f32], level: Level) -> Data {
    let n = x.len();
    let k = Loop {
        axes: vec![Dim::fixed(n)],
        n_outer: 1,
        args: vec![arg(DType::F32, Access::Read), arg(DType::F32, Access::Write)],
        instrs: vec![Instr::Load { arg: 0, map: map(&[1], 0), fill: 0.0 }, Instr::Unary { op, x: Value(0) }],
        stores: vec![Store { arg: 1, map: map(&[1], 0), value: Value(1) }],
    };
    let plan = plan_of_loop(&k, &[n, n]);
    let data: Data = x.iter().map(|&v| v as f64).collect();
    run_slots(&plan, Config { level, ..Config::detect() }, &[data, vec![0.0; n]]).pop().unwrap()
}

/// The distance in units of the last place of the exact result.
fn error_ulps(got: f64, exact: f64) -> f64 {
    if got == exact || (got.is_nan() && exact.is_nan()) || (got as f32 == exact as f32) {
        return 0.0;
    }
    let e = exact.abs().max(f32::MIN_POSITIVE as f64);
    (got - exact).abs() / (2f64.powf(e.log2().floor()) * 2f64.powi(-23))
}

fn exact(op: Unary, x: f64) -> f64 {
    match op {
        Unary::Exp => x.exp(),
        Unary::Expm1 => x.exp_m1(),
        Unary::Log => x.ln(),
        Unary::Log1p => x.ln_1p(),
        Unary::Tanh => x.tanh(),
        Unary::Asin => x.asin(),
        Unary::Acos => x.acos(),
        Unary::Atan => x.atan(),
        Unary::Asinh => x.asinh(),
        Unary::Sigmoid => {
            if x < 0.0 {
                x.exp() / (1.0 + x.exp())
            } else {
                1.0 / (1.0 + (-x).exp())
            }
        }
        Unary::Erf => libm::erf(x),
        Unary::Sin => x.sin(),
        Unary::Cos => x.cos(),
        other => panic!("no sweep of {}", other.name()),
    }
}

#[test]
fn scalar_functions_stay_within_their_error_over_all_magnitudes() {
    // Every 4093rd bit pattern: all exponents, both signs, subnormals, infinities and NaN.
    let mut x: Vec<f32> = (0..u32::MAX / 4093).map(|i| f32::from_bits(i * 4093)).collect();
    x.extend((0..200_000).map(|i| (i as f32 - 100_000.0) * 1e-4));
    x.extend([
        0.0,
        -0.0,
        f32::INFINITY,
        f32::NEG_INFINITY,
        f32::NAN,
        f32::MIN_POSITIVE,
        88.72,
        88.73,
        -87.4,
        -103.9,
        -104.1,
    ]);
    x.extend([1.0, -1.0, 0.94, -0.94, 0.625, 3.95, f32::MAX, f32::MIN, 1e-40, -1e-40]);
    let limits = [
        (Unary::Exp, 1.5),
        (Unary::Expm1, 2.0),
        (Unary::Log, 1.5),
        (Unary::Log1p, 2.0),
        (Unary::Tanh, 2.0),
        (Unary::Asin, 1.0),
        (Unary::Acos, 1.0),
        (Unary::Atan, 1.0),
        (Unary::Asinh, 3.0),
        (Unary::Sigmoid, 2.5),
        (Unary::Erf, 1.5),
        (Unary::Sin, 2.0),
        (Unary::Cos, 2.0),
    ];
    for level in Level::ALL.into_iter().filter(|l| l.is_available()) {
        for (op, limit) in limits {
            let got = apply(op, &x, level);
            let worst = x.iter().zip(&got).map(|(&x, &g)| (error_ulps(g, exact(op, x as f64)), x, g));
            let worst = worst.max_by(|a, b| a.0.total_cmp(&b.0)).unwrap();
            println!("{} {level:?}: {:.2} ulp at {:e} -> {:e}", op.name(), worst.0, worst.1, worst.2);
            assert!(worst.0 <= limit, "{} {level:?}: {} ulp at {:e} gives {:e}", op.name(), worst.0, worst.1, worst.2);
        }
    }
}

#[test]
fn powers_follow_c_in_special_cases_and_stay_within_an_ulp() {
    let special = [
        0.0,
        -0.0,
        1.0,
        -1.0,
        2.0,
        -2.0,
        0.5,
        3.0,
        -3.0,
        1e30,
        -1e30,
        f64::INFINITY,
        f64::NEG_INFINITY,
        f64::NAN,
        1e-40,
        16777217.0,
        2.5,
    ];
    let mut pairs: Vec<(f64, f64)> = special.iter().flat_map(|&x| special.map(|y| (x, y))).collect();
    pairs.extend(numbers(50_000, 3).iter().zip(numbers(50_000, 4)).map(|(x, y)| ((x + 1.0) * 10.0, y * 20.0)));
    let pairs: Vec<(f64, f64)> = pairs.iter().map(|(x, y)| (*x as f32 as f64, *y as f32 as f64)).collect();
    let n = pairs.len();
    let load = |arg: u32| Instr::Load { arg, map: map(&[1], 0), fill: 0.0 };
    let k = Loop {
        axes: vec![Dim::fixed(n)],
        n_outer: 1,
        args: vec![arg(DType::F32, Access::Read), arg(DType::F32, Access::Read), arg(DType::F32, Access::Write)],
        instrs: vec![load(0), load(1), Instr::Binary { op: Binary::Pow, x: Value(0), y: Value(1) }],
        stores: vec![Store { arg: 2, map: map(&[1], 0), value: Value(2) }],
    };
    let plan = plan_of_loop(&k, &[n, n, n]);
    for level in Level::ALL.into_iter().filter(|l| l.is_available()) {
        let data = [pairs.iter().map(|p| p.0).collect(), pairs.iter().map(|p| p.1).collect(), vec![0.0; n]];
        let got = run_slots(&plan, Config { level, ..Config::detect() }, &data).pop().unwrap();
        for ((x, y), g) in pairs.iter().zip(&got) {
            assert!(error_ulps(*g, x.powf(*y)) <= 1.0, "{level:?} {x:e}^{y:e} = {g:e}, expected {:e}", x.powf(*y));
        }
    }
}
