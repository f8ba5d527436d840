//! TFLOP/s of contractions on the device: f32 products by every tile, ResNet-18's convolutions by the table, f16 products on matrix units.
//! `contractions [matmul|conv|f16] SIZE..`; every number is followed by its relative error against a plain kernel or plain f64.
//! `contractions coop-check` compares products on matrix units, of shapes that no tile divides, with plain f64, and fails where one differs.
//! `contractions search` times many more tiles than are shipped on the shapes of the benchmarks' models. The binary needs only the graphics
//! driver.

#[path = "../../wholestep-compiler/tests/wgsl/kernels.rs"]
#[allow(dead_code)]
mod kernels;
#[path = "contractions/search.rs"]
mod search;
#[path = "../tests/common/shaders.rs"]
mod shaders;
#[path = "contractions/units.rs"]
mod units;

use kernels::{contract, geometry, matmul};
use shaders::{Device, numbers};
use wholestep_compiler::codegen::choice::{self, Choice, TILES};
use wholestep_compiler::codegen::contract as contractions;
use wholestep_compiler::codegen::{Count, Grid, Shader, Word};
use wholestep_compiler::ir::{Batch, Dim};
use wholestep_compiler::kernel::{Contract, Contraction, ConvSizes};

fn main() {
    let args: Vec<String> = std::env::args().skip(1).filter(|a| !a.starts_with("--")).collect();
    let sizes: Vec<usize> = args.iter().filter_map(|a| a.parse().ok()).collect();
    let what = args.first().map_or("all", String::as_str);
    let Some(device) = Device::open() else { return };
    println!("{}", device.name);
    if what == "search" {
        return search::search(&device, sizes.first().copied().unwrap_or(if device.is_cpu { 1 } else { 1000 }));
    }
    if what.ends_with("-one") {
        return units::one(&device, what, &sizes);
    }
    if what == "coop-check" {
        return units::check(&device);
    }
    let (small, large) = if device.is_cpu { (128, 128) } else { (4096, 8192) };
    let or = |n: usize| if sizes.is_empty() { vec![n] } else { sizes.clone() };
    if matches!(what, "all" | "matmul") {
        or(small).into_iter().for_each(|n| products(&device, n));
    }
    if matches!(what, "all" | "conv") {
        let images = sizes.first().copied().unwrap_or(if device.is_cpu { 1 } else { 64 });
        convolutions(&device, images);
    }
    if matches!(what, "all" | "f16") {
        or(large).into_iter().for_each(|n| units::products(&device, n));
    }
}

fn bytes(v: &[f32]) -> Vec<u8> {
    bytemuck::cast_slice(v).to_vec()
}

fn relative_error(got: &[f32], expected: impl Iterator<Item = (usize, f64)>) -> f64 {
    let (mut off, mut all) = (0.0, 0.0);
    for (i, e) in expected {
        off += (f64::from(got[i]) - e).powi(2);
        all += e * e;
    }
    (off / all).sqrt()
}

/// A few elements of a square product in f64.
fn sample<'a>(n: usize, a: &'a [f32], b: &'a [f32]) -> impl Iterator<Item = (usize, f64)> + 'a {
    (0..64).map(move |i| {
        let at = (i * 7919 + 13) * 104_729 % (n * n);
        let sum = (0..n).map(|k| f64::from(a[at / n * n + k]) * f64::from(b[k * n + at % n])).sum();
        (at, sum)
    })
}

fn products(device: &Device, n: usize) {
    let (a, b) = (numbers(n * n, 3), numbers(n * n, 5));
    let args = [bytes(&a), bytes(&b), vec![0; 4 * n * n], vec![0; 16]].map(|v| device.buffer(&v));
    let kernel = contract(matmul(&[], [Dim::fixed(n); 3], false, false).0);
    for rated in TILES {
        let t = rated.tile;
        if t.threads() > device.workgroups.threads || t.shared_bytes() > device.workgroups.shared_bytes {
            continue;
        }
        let shaders = contractions::shaders_with(&kernel, &device.workgroups, Choice { tile: t, parts: 1 });
        let seconds = device.seconds(&device.prepare(&shaders, &args, 1, false));
        let got: Vec<f32> = bytemuck::pod_collect_to_vec(&device.read(&args[2], 4 * n * n));
        let tflops = 2.0 * (n as f64).powi(3) / seconds / 1e12;
        println!(
            "f32 {n}^3, tile {}x{}x{} of {}x{}, {} slices, {} stages: {tflops:.2} TFLOP/s, error {:.1e}",
            t.rows,
            t.cols,
            t.depth,
            t.thread_rows,
            t.thread_cols,
            t.slices,
            t.stages,
            relative_error(&got, sample(n, &a, &b))
        );
    }
}

/// ResNet-18's convolutions and one more, by extent of the input, edge of the window, stride and channels.
const LAYERS: [(usize, usize, usize, [usize; 2]); 10] = [
    (224, 7, 2, [3, 64]),
    (56, 3, 1, [64, 64]),
    (56, 3, 2, [64, 128]),
    (56, 1, 2, [64, 128]),
    // As many products, of pixels that lie side by side.
    (28, 1, 1, [64, 128]),
    (28, 3, 1, [128, 128]),
    (28, 3, 2, [128, 256]),
    (14, 3, 1, [256, 256]),
    (14, 3, 2, [256, 512]),
    (7, 3, 1, [512, 512]),
];

fn layer((extent, edge, stride, channels): (usize, usize, usize, [usize; 2])) -> ConvSizes {
    let mut s = geometry(Batch, [extent; 2], edge, channels);
    s.geometry.stride = vec![stride; 2];
    s.out = (0..2).map(|d| s.geometry.out_extent(d, extent, edge).expect("the window fits")).collect();
    s
}

fn convolutions(device: &Device, images: usize) {
    for shape in LAYERS {
        let s = layer(shape);
        let x_n = images * s.input.iter().product::<usize>() * s.c_in;
        let w_n = s.kernel.iter().product::<usize>() * s.c_in * s.c_out;
        let y_n = images * s.out.iter().product::<usize>() * s.c_out;
        let flops = 2.0 * (w_n / s.c_out) as f64 * y_n as f64;
        for (name, c, sizes) in [
            ("forward", Contraction::Conv(s.clone()), [x_n, w_n, y_n]),
            ("input gradient", Contraction::ConvInputGrad(s.clone()), [y_n, w_n, x_n]),
            ("weight gradient", Contraction::ConvWeightGrad(s.clone()), [x_n, y_n, w_n]),
        ] {
            let kernel = contract(c);
            let (a, b) = (bytes(&numbers(sizes[0], 3)), bytes(&numbers(sizes[1], 5)));
            let args = [a, b, vec![0; 4 * sizes[2]], vec![0; 16]].map(|v| device.buffer(&v));
            let shaders = contractions::shaders(&kernel, &device.workgroups, None).expect("f32 is there");
            let seconds = device.seconds(&device.prepare(&shaders, &args, images, false));
            let timed = choice::candidates(&kernel, &device.workgroups, images).into_iter().map(|c| {
                let shaders = contractions::shaders_with(&kernel, &device.workgroups, c);
                device.seconds(&device.prepare(&shaders, &args, images, false))
            });
            let tuned = timed.fold(seconds, f64::min);
            device.submit(&device.prepare(&shaders, &args, images, false), 1);
            let read = || bytemuck::pod_collect_to_vec::<u8, f32>(&device.read(&args[2], 4 * sizes[2]));
            let got = read();
            let plain = device.prepare(&[plain(&kernel, &s, sizes[2])], &args, images, false);
            device.submit(&plain, 1);
            let expected = read();
            let error = relative_error(&got, expected.iter().map(|e| f64::from(*e)).enumerate());
            let Choice { tile, parts } = choice::table(&kernel, &device.workgroups);
            println!(
                "conv {shape:?} of {images} images, {name}: {:.2} TFLOP/s, {:.0} us, tile {}x{}, {parts} parts, differs by {error:.1e}; timed: {:.2} \
                 TFLOP/s",
                flops / seconds / 1e12,
                seconds * 1e6,
                tile.rows,
                tile.cols,
                flops / tuned / 1e12
            );
        }
    }
}

/// A kernel by the definition, one thread for each element of the result, sharing nothing with the compiler's.
fn plain(k: &Contract, s: &ConvSizes, n: usize) -> Shader {
    let (g, [h, w], [oh, ow]) = (&s.geometry, [s.input[0], s.input[1]], [s.out[0], s.out[1]]);
    let (edge, stride, pad, ci, co) = (s.kernel[0], g.stride[0], g.pad_lo[0], s.c_in, s.c_out);
    let taps = format!("for (var ky = 0u; ky < {edge}u; ky++) {{ for (var kx = 0u; kx < {edge}u; kx++) {{");
    let body = match &k.contraction {
        Contraction::Conv(_) => format!(
            "let o = at % {co}u; let px = at / {co}u % {ow}u; let py = at / {co}u / {ow}u % {oh}u; let image = at / {}u;
             {taps} let y = py * {stride}u + ky - {pad}u; let x = px * {stride}u + kx - {pad}u;
             if (y < {h}u && x < {w}u) {{ for (var c = 0u; c < {ci}u; c++) {{
             sum += a[((image * {h}u + y) * {w}u + x) * {ci}u + c] * b[((ky * {edge}u + kx) * {ci}u + c) * {co}u + o]; }} }} }} }}",
            co * ow * oh
        ),
        Contraction::ConvInputGrad(_) => format!(
            "let c = at % {ci}u; let px = at / {ci}u % {w}u; let py = at / {ci}u / {w}u % {h}u; let image = at / {}u;
             {taps} let y = py + {pad}u - ky; let x = px + {pad}u - kx;
             if (y % {stride}u == 0u && x % {stride}u == 0u && y / {stride}u < {oh}u && x / {stride}u < {ow}u) {{
             for (var o = 0u; o < {co}u; o++) {{ sum += a[((image * {oh}u + y / {stride}u) * {ow}u + x / {stride}u) * {co}u + o]
             * b[((ky * {edge}u + kx) * {ci}u + c) * {co}u + o]; }} }} }} }}",
            ci * w * h
        ),
        Contraction::ConvWeightGrad(_) => format!(
            "let o = at % {co}u; let c = at / {co}u % {ci}u; let kx = at / {}u % {edge}u; let ky = at / {}u;
             for (var p = 0u; p < params[0].x * {}u; p++) {{ let px = p % {ow}u; let py = p / {ow}u % {oh}u; let image = p / {}u;
             let y = py * {stride}u + ky - {pad}u; let x = px * {stride}u + kx - {pad}u;
             if (y < {h}u && x < {w}u) {{ sum += a[((image * {h}u + y) * {w}u + x) * {ci}u + c] * b[p * {co}u + o]; }} }}",
            ci * co,
            ci * co * edge,
            oh * ow,
            oh * ow
        ),
        Contraction::Matmul { .. } => panic!("products are compared in f64"),
    };
    let source = format!(
        "@group(0) @binding(0) var<storage, read_write> a: array<f32>;
         @group(0) @binding(1) var<storage, read_write> b: array<f32>;
         @group(0) @binding(2) var<storage, read_write> c_out: array<f32>;
         @group(0) @binding(62) var<uniform> params: array<vec4<u32>, 1>;
         @compute @workgroup_size(64)
         fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>, @builtin(local_invocation_index) local: u32) {{
         let at = (group.y * groups.x + group.x) * 64u + local; if (at >= {n}u || params[0].x == 0u) {{ return; }} var sum = 0.0;
         {body} c_out[at] = sum; }}"
    );
    let grid = Grid::Line(Count { of: vec![Word::Bits(n as u32)], per: 64 });
    Shader {
        source,
        parts: None,
        args: vec![0, 1, 2],
        workgroup: [64, 1, 1],
        params: vec![Word::Dim(Batch)],
        grid,
        shared_bytes: 0,
        wants_registers: false,
        scratch: None,
    }
}
