//! Contractions on the device, with every tile and on shapes that no tile divides, against plain f64. Bounds are checked by the device here, and
//! what is not written stays NaN.

#[path = "../../wholestep-compiler/tests/wgsl/kernels.rs"]
#[allow(dead_code)]
mod kernels;
#[path = "common/shaders.rs"]
mod shaders;

use kernels::{conv, matmul, result_axes, with_bias};
use shaders::{Device, numbers};
use wholestep_compiler::codegen::Shader;
use wholestep_compiler::codegen::choice::{Choice, Rated, TILES};
use wholestep_compiler::codegen::{contract, direct};
use wholestep_compiler::ir::{Batch, Dim};
use wholestep_compiler::kernel::{Contract, Contraction, ConvSizes};

fn bytes(v: &[f32]) -> Vec<u8> {
    bytemuck::cast_slice(v).to_vec()
}

fn assert_close(got: &[u8], expected: impl Iterator<Item = f64>, tolerance: f64, what: &str) {
    let got: Vec<f32> = bytemuck::pod_collect_to_vec(got);
    for (i, (g, e)) in got.iter().zip(expected).enumerate() {
        // Written so that a NaN fails.
        let close = (f64::from(*g) - e).abs() <= tolerance;
        assert!(close, "{what}: element {i} is {g}, expected {e}");
    }
}

/// Runs shaders of a contraction whose epilogue adds a bias by column; compares both its results.
fn check(
    device: &Device,
    shaders: &[Shader],
    operands: [&[f32]; 2],
    expected: &[f64],
    cols: usize,
    batch: usize,
    what: &str,
) {
    let bias = numbers(cols, 9);
    let nan = vec![f32::NAN; expected.len()];
    let mut args = vec![bytes(operands[0]), bytes(operands[1]), bytes(&nan), vec![], bytes(&bias), bytes(&nan)];
    device.run(shaders, &mut args, batch);
    assert_close(&args[5], expected.iter().copied(), 2e-5, what);
    let biased = expected.iter().enumerate().map(|(i, e)| e + f64::from(bias[i % cols]));
    assert_close(&args[2], biased, 2e-5, what);
}

/// Runs the generic kernel, which takes no epilogue.
fn check_generic(device: &Device, k: &Contract, operands: [&[f32]; 2], expected: &[f64], batch: usize) {
    let nan = vec![f32::NAN; expected.len()];
    let mut args = vec![bytes(operands[0]), bytes(operands[1]), bytes(&nan)];
    device.run(&direct::generic(k, &device.workgroups), &mut args, batch);
    assert_close(&args[2], expected.iter().copied(), 2e-5, &format!("generic {:?}", k.contraction));
}

#[test]
fn every_tile_makes_products_that_it_does_not_divide() {
    let Some(device) = Device::open() else { return };
    let fits = |c: &&Rated| {
        c.tile.shared_bytes() <= device.workgroups.shared_bytes && c.tile.threads() <= device.workgroups.threads
    };
    let mut n_tiles = 0;
    for (i, rated) in TILES.iter().filter(fits).enumerate() {
        // Vectors along either axis of either operand, and sizes that allow none.
        let ([m, n, k], lhs_t, rhs_t) = [
            ([100, 68, 48], false, false),
            ([37, 41, 67], true, false),
            ([68, 100, 52], true, true),
            ([33, 20, 131], false, true),
        ][i % 4];
        let parts = if i % 3 == 2 { 2 } else { 1 };
        // B is one of the extents.
        let sizes = [Dim::fixed(m), Dim::fixed(n), if i % 2 == 0 { Dim::fixed(k) } else { Batch }];
        let (c, axes) = matmul(&[2], sizes, lhs_t, rhs_t);
        let kernel = with_bias(c, &axes);
        let shaders = contract::shaders_with(&kernel, &device.workgroups, Choice { tile: rated.tile, parts });
        let (a, b) = (numbers(2 * m * k, 3), numbers(2 * k * n, 5));
        let expected: Vec<f64> = (0..2 * m * n)
            .map(|at| {
                let (z, row, col) = (at / (m * n), at / n % m, at % n);
                let l = |p: usize| z * m * k + if lhs_t { p * m + row } else { row * k + p };
                let r = |p: usize| z * k * n + if rhs_t { col * k + p } else { p * n + col };
                (0..k).map(|p| f64::from(a[l(p)]) * f64::from(b[r(p)])).sum()
            })
            .collect();
        check(&device, &shaders, [&a, &b], &expected, n, k, &format!("{rated:?} {parts}"));
        check_generic(&device, &kernel, [&a, &b], &expected, k);
        n_tiles += 1;
    }
    assert!(n_tiles >= 4, "{n_tiles} tiles fit the device");
}

/// The convolution by its definition, over all index tuples: calls `f(x, w, y)` with flat places that meet.
fn each_product(s: &ConvSizes, n: usize, mut f: impl FnMut(usize, usize, usize)) {
    let (rank, g) = (s.input.len(), &s.geometry);
    let (ci, co) = (s.c_in / g.groups, s.c_out / g.groups);
    let (n_out, n_taps): (usize, usize) = (s.out.iter().product(), s.kernel.iter().product());
    let index = |mut at: usize, extents: &[usize]| {
        let mut v = vec![0; extents.len()];
        for i in (0..extents.len()).rev() {
            v[i] = at % extents[i];
            at /= extents[i];
        }
        v
    };
    for place in 0..n * n_out * n_taps {
        let (image, o, k) = (place / n_taps / n_out, place / n_taps % n_out, place % n_taps);
        let (oi, ki) = (index(o, &s.out), index(k, &s.kernel));
        let at = |i: usize| (oi[i] * g.stride[i] + ki[i] * g.dilation[i]) as i64 - g.pad_lo[i] as i64;
        if (0..rank).any(|i| at(i) < 0 || at(i) >= s.input[i] as i64) {
            continue;
        }
        let pixel = (0..rank).fold(image, |p, i| p * s.input[i] + at(i) as usize);
        for c in 0..s.c_out * ci {
            let (co_at, ci_at) = (c / ci, c % ci);
            f(
                pixel * s.c_in + co_at / co * ci + ci_at,
                (k * ci + ci_at) * s.c_out + co_at,
                (image * n_out + o) * s.c_out + co_at,
            );
        }
    }
}

#[test]
fn convolutions_and_their_gradients_match_the_definition() {
    let Some(device) = Device::open() else { return };
    let n = 3;
    for (i, s) in [
        conv(2, 1, 1, 1, [8, 20]),
        conv(2, 1, 2, 1, [3, 16]),
        conv(2, 2, 2, 2, [16, 32]),
        conv(1, 1, 3, 2, [4, 6]),
        conv(3, 1, 2, 1, [4, 8]),
        conv(2, 4, 2, 1, [8, 12]),
    ]
    .into_iter()
    .enumerate()
    {
        let x_n = n * s.input.iter().product::<usize>() * s.c_in;
        let w_n = s.kernel.iter().product::<usize>() * s.c_in / s.geometry.groups * s.c_out;
        let y_n = n * s.out.iter().product::<usize>() * s.c_out;
        let forms = [
            (Contraction::Conv(s.clone()), [x_n, w_n, y_n]),
            (Contraction::ConvInputGrad(s.clone()), [y_n, w_n, x_n]),
            (Contraction::ConvWeightGrad(s.clone()), [x_n, y_n, w_n]),
        ];
        for (form, (c, sizes)) in forms.into_iter().enumerate() {
            let (a, b) = (numbers(sizes[0], 3), numbers(sizes[1], 5));
            let mut expected = vec![0.0; sizes[2]];
            each_product(&s, n, |x, w, y| {
                let (to, l, r) = [(y, x, w), (x, y, w), (w, x, y)][form];
                expected[to] += f64::from(a[l]) * f64::from(b[r]);
            });
            let kernel = with_bias(c.clone(), &result_axes(&c));
            let shaders = forced(&device, &kernel, i + form);
            let cols = result_axes(&c).last().unwrap().at(n);
            check(&device, &shaders, [&a, &b], &expected, cols, n, &format!("{c:?}"));
            check_generic(&device, &kernel, [&a, &b], &expected, n);
        }
    }
}

/// What the table says, or every other time a tile of 64 by 64 with as many parts as the form allows.
fn forced(device: &Device, k: &Contract, turn: usize) -> Vec<Shader> {
    let (is_grouped, is_strided) = match &k.contraction {
        Contraction::Conv(s) | Contraction::ConvWeightGrad(s) => (s.geometry.groups > 1, false),
        Contraction::ConvInputGrad(s) => (s.geometry.groups > 1, s.geometry.stride.iter().any(|&n| n > 1)),
        Contraction::Matmul { .. } => (false, false),
    };
    if turn.is_multiple_of(2) || is_grouped {
        return contract::shaders(k, &device.workgroups, None).unwrap();
    }
    let parts = if is_strided { 1 } else { 3 };
    contract::shaders_with(k, &device.workgroups, Choice { tile: TILES[3].tile, parts })
}
