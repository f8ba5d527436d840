//! Products on matrix units. Takes a device, prints what each tile reaches, or compares what each tile makes with plain f64.

use super::kernels::{contract, conv, in_half, matmul, with_bias};
use super::shaders::{Device, numbers};
use super::{relative_error, sample};
use wholestep_compiler::codegen::Shader;
use wholestep_compiler::codegen::direct;
use wholestep_compiler::codegen::wgsl::coop::{self, CoopTile};
use wholestep_compiler::ir::{DType, Dim};
use wholestep_compiler::kernel::Contraction;

/// The tiles that are shipped and more, by rows, columns and depth of a workgroup, rows and columns of a subgroup, and elements in one of
/// the arrays of workgroup memory.
fn tiles(device: &Device) -> Vec<CoopTile> {
    let w = &device.workgroups;
    let Some(unit) = [16, 8].into_iter().find(|&u| w.tiles.contains(&[u; 3])) else {
        println!("f16: the device has no square matrix units ({:?})", w.tiles);
        return Vec::new();
    };
    let lanes = w.subgroup.map_or(32, |s| s.0);
    let mut all: Vec<CoopTile> = coop::tiles(unit, lanes).into_iter().map(|r| r.tile).collect();
    if unit == 16 {
        all.extend(MORE.map(|([rows, cols, depth], [sub_rows, sub_cols], per)| CoopTile {
            unit,
            rows,
            cols,
            sub_rows,
            sub_cols,
            depth,
            lanes,
            per,
        }));
    }
    all.retain(|t| t.threads() <= w.threads && t.shared_bytes() <= w.shared_bytes);
    all
}

const MORE: [([u32; 3], [u32; 2], u32); 6] = [
    ([128, 256, 32], [64, 64], 1),
    ([256, 128, 32], [64, 64], 4),
    ([64, 256, 32], [64, 64], 4),
    ([128, 128, 64], [64, 64], 4),
    ([128, 128, 64], [64, 32], 4),
    ([128, 256, 32], [64, 32], 4),
];

fn name(t: &CoopTile) -> String {
    let CoopTile { unit, rows, cols, sub_rows, sub_cols, depth, per, .. } = *t;
    format!("unit {unit}, tile {rows}x{cols}x{depth} of {sub_rows}x{sub_cols}, arrays of {per}")
}

/// Runs `what` for each tile in a process of its own, since a driver that fails to compile one takes the device with it; `what-one N SIZE` is one.
/// Gives how many failed.
fn each(device: &Device, what: &str, size: usize) -> usize {
    let program = std::env::current_exe().expect("the program knows where it is");
    let one = |(i, t): (usize, &CoopTile)| {
        println!("{what} {size}, {}:", name(t));
        let args = [format!("{what}-one"), i.to_string(), size.to_string()];
        let done = std::process::Command::new(&program).args(args).status();
        let is_good = done.is_ok_and(|status| status.success());
        if !is_good {
            println!("FAILED");
        }
        usize::from(!is_good)
    };
    tiles(device).iter().enumerate().map(one).sum()
}

/// What each tile reaches on a square product.
pub fn products(device: &Device, n: usize) {
    each(device, "f16", n);
}

/// Every tile's products and convolutions.
pub fn check(device: &Device) {
    let n_faults = each(device, "coop-check", 0);
    assert_eq!(n_faults, 0, "contractions on matrix units differ or fail");
}

/// One tile of [`each`].
pub fn one(device: &Device, what: &str, numbers: &[usize]) {
    let t = tiles(device)[numbers[0]];
    match what {
        "f16-one" => product(device, &t, numbers[1]),
        _ => check_one(device, &t),
    }
}

/// Numbers that f16 holds, and their bytes.
fn halves(n: usize, seed: u32) -> (Vec<f32>, Vec<u8>) {
    let bits: Vec<u16> = numbers(n, seed).iter().map(|x| half_bits(*x)).collect();
    (bits.iter().map(|b| from_half(*b)).collect(), bytemuck::cast_slice(&bits).to_vec())
}

fn product(device: &Device, t: &CoopTile, n: usize) {
    let ((a, a_bytes), (b, b_bytes)) = (halves(n * n, 3), halves(n * n, 5));
    let args = [a_bytes, b_bytes, vec![0; 4 * n * n]].map(|v| device.buffer(&v));
    let kernel = in_half(contract(matmul(&[], [Dim::fixed(n); 3], false, false).0));
    let shaders = coop::shaders(&kernel, &device.workgroups, t, 1);
    let seconds = device.seconds(&device.prepare(&shaders, &args, 1, false));
    let got: Vec<f32> = bytemuck::pod_collect_to_vec(&device.read(&args[2], 4 * n * n));
    let tflops = 2.0 * (n as f64).powi(3) / seconds / 1e12;
    let error = relative_error(&got, sample(n, &a, &b));
    println!("  {tflops:.1} TFLOP/s, error {error:.1e}");
}

/// Products that are whole tiles, ragged along each axis, of either layout, batched, cut into parts, and with an odd number of columns.
const SHAPES: [([usize; 3], usize, [bool; 2], u32); 7] = [
    ([256, 256, 64], 1, [false, false], 1),
    ([200, 136, 72], 1, [false, false], 1),
    ([136, 200, 40], 2, [true, false], 1),
    ([72, 264, 104], 3, [false, true], 1),
    ([104, 72, 2000], 1, [true, true], 3),
    ([40, 24, 1208], 2, [false, false], 2),
    ([33, 21, 64], 1, [false, true], 1),
];

/// Infinite for NaN.
fn distance(got: f32, expected: f64) -> f64 {
    let d = (f64::from(got) - expected).abs();
    if d.is_nan() { f64::INFINITY } else { d }
}

/// Every element of products with an epilogue that keeps the sums in f16 and adds a bias.
fn check_one(device: &Device, t: &CoopTile) {
    let mut n_faults = 0;
    for ([m, n, k], batch, [lhs_t, rhs_t], parts) in SHAPES {
        let ((a, a_bytes), (b, b_bytes)) = (halves(batch * m * k, 3), halves(batch * k * n, 5));
        let bias = numbers(n, 9);
        let element = |i: usize| {
            let (z, row, col) = (i / (m * n), i / n % m, i % n);
            let of_a = |p: usize| if lhs_t { z * m * k + p * m + row } else { z * m * k + row * k + p };
            let of_b = |p: usize| if rhs_t { z * k * n + col * k + p } else { z * k * n + p * n + col };
            (0..k).map(|p| f64::from(a[of_a(p)]) * f64::from(b[of_b(p)])).sum::<f64>()
        };
        let expected: Vec<f64> = (0..batch * m * n).map(element).collect();
        let (c, axes) = matmul(&[batch][..usize::from(batch > 1)], [m, n, k].map(Dim::fixed), lhs_t, rhs_t);
        let mut kernel = in_half(with_bias(c, &axes));
        kernel.args[5].dtype = DType::F16;
        kernel.epilogue.iter_mut().for_each(|e| e.args.clone_from(&kernel.args));
        let plain = in_half(contract(kernel.contraction.clone()));
        let what = format!("{batch} of {m}x{n}x{k}, transposed {lhs_t} {rhs_t}, {parts} parts");
        let empty = vec![0xff; 4 * expected.len()];
        let halves = vec![0xff; 2 * expected.len()];
        let contents = [&a_bytes, &b_bytes, &empty, &vec![0; 16], &super::bytes(&bias), &halves];
        for kernel in [&kernel, &plain] {
            let args = contents.map(|c| device.buffer(c));
            let shaders = coop::shaders(kernel, &device.workgroups, t, parts);
            device.submit(&device.prepare(&shaders, &args, 1, false), 1);
            let sums: Vec<f32> = bytemuck::pod_collect_to_vec(&device.read(&args[2], empty.len()));
            let kept: Vec<u16> = bytemuck::pod_collect_to_vec(&device.read(&args[5], halves.len()));
            let has_bias = kernel.epilogue.is_some();
            let off = |i: usize| {
                let e = expected[i];
                let biased = if has_bias { e + f64::from(bias[i % n]) } else { e };
                let kept = if has_bias { distance(from_half(kept[i]), e) / (10.0 + 10.0 * e.abs()) } else { 0.0 };
                distance(sums[i], biased).max(kept)
            };
            let at = (0..expected.len()).max_by(|&i, &j| off(i).total_cmp(&off(j))).expect("there are elements");
            let is_close = off(at) < 1e-4;
            n_faults += usize::from(!is_close);
            let verdict = if is_close { "ok" } else { "DIFFERS" };
            let form = if has_bias { "bias" } else { "plain" };
            println!("  {verdict}: {what}, {form}: off by {:.1e} at element {at}", off(at));
        }
    }
    n_faults += convolutions(device, t);
    assert_eq!(n_faults, 0, "differs");
}

/// A number of magnitude at most 0.5 as f16, cut off, which is as good as rounded for products of random numbers.
fn half_bits(x: f32) -> u16 {
    let bits = x.to_bits();
    let sign = (bits >> 16 & 0x8000) as u16;
    let exponent = (bits >> 23 & 0xff) as i32 - 112;
    if exponent <= 0 { sign } else { sign | (exponent as u16) << 10 | (bits >> 13 & 0x3ff) as u16 }
}

fn from_half(h: u16) -> f32 {
    let sign = u32::from(h & 0x8000) << 16;
    if h & 0x7fff == 0 {
        return f32::from_bits(sign);
    }
    f32::from_bits(sign | (u32::from(h >> 10 & 0x1f) + 112) << 23 | u32::from(h & 0x3ff) << 13)
}

/// Convolutions and their gradients against the kernel that makes them by their definition; gives how many differ.
fn convolutions(device: &Device, t: &CoopTile) -> usize {
    const IMAGES: usize = 3;
    let mut n_faults = 0;
    for (stride, groups, channels) in [(1, 1, [16, 24]), (2, 1, [8, 16]), (1, 2, [32, 16])] {
        let s = conv(2, groups, stride, 1, channels);
        let size = |extents: &[usize], c: usize| IMAGES * extents.iter().product::<usize>() * c;
        let (x, y) = (size(&s.input, s.c_in), size(&s.out, s.c_out));
        let w = 9 * s.c_in / groups * s.c_out;
        for (c, [a, b, result]) in [
            (Contraction::Conv(s.clone()), [x, w, y]),
            (Contraction::ConvInputGrad(s.clone()), [y, w, x]),
            (Contraction::ConvWeightGrad(s.clone()), [x, y, w]),
        ] {
            let kernel = in_half(contract(c));
            let run = |shaders: &[Shader]| -> Vec<f32> {
                let contents = [halves(a, 3).1, halves(b, 5).1, vec![0xff; 4 * result], vec![0; 16]];
                let args = contents.map(|c| device.buffer(&c));
                device.submit(&device.prepare(shaders, &args, IMAGES, false), 1);
                bytemuck::pod_collect_to_vec(&device.read(&args[2], 4 * result))
            };
            let expected = run(&direct::generic(&kernel, &device.workgroups));
            let got = run(&coop::shaders(&kernel, &device.workgroups, t, 1));
            let off = got.iter().zip(&expected).map(|(g, e)| distance(*g, f64::from(*e))).fold(0.0, f64::max);
            n_faults += usize::from(off >= 1e-4);
            let verdict = if off < 1e-4 { "ok" } else { "DIFFERS" };
            let kind = match &kernel.contraction {
                Contraction::ConvInputGrad(_) => "input gradient",
                Contraction::ConvWeightGrad(_) => "weight gradient",
                Contraction::Conv(_) | Contraction::Matmul { .. } => "convolution",
            };
            println!("  {verdict}: {kind}, stride {stride}, {groups} groups: off by {off:.1e}");
        }
    }
    n_faults
}
