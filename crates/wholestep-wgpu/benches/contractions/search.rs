//! Which tiles should be shipped: times a wide choice of tiles and parts on the contractions of the benchmarks' models. Takes a device, prints
//! for each contraction what the table says, what a tuner would pick from its candidates, and the fastest there are.

use super::kernels::{contract, matmul};
use super::shaders::{Device, Job, numbers};
use super::{LAYERS, bytes, layer};
use std::time::Instant;
use wholestep_compiler::codegen::choice::{self, Choice, TILES};
use wholestep_compiler::codegen::contract as contractions;
use wholestep_compiler::codegen::tile::Tile;
use wholestep_compiler::ir::Dim;
use wholestep_compiler::kernel::{Contract, Contraction, ConvSizes};

/// Tiles that are not shipped: `[rows, cols, depth, thread_rows, thread_cols, slices, stages, unroll]`.
const MORE: [[u32; 8]; 30] = [
    [16, 16, 256, 4, 4, 16, 1, 8],
    [16, 16, 128, 4, 4, 8, 1, 8],
    [16, 16, 64, 4, 4, 8, 2, 8],
    [16, 16, 64, 4, 4, 16, 1, 4],
    [32, 16, 128, 4, 4, 8, 1, 8],
    [32, 16, 64, 4, 4, 8, 1, 8],
    [16, 32, 128, 4, 4, 8, 1, 8],
    [16, 32, 64, 4, 4, 8, 1, 8],
    [16, 64, 64, 4, 4, 4, 1, 8],
    [64, 16, 64, 4, 4, 4, 1, 8],
    [32, 32, 64, 4, 4, 4, 1, 8],
    [32, 32, 128, 4, 4, 4, 1, 8],
    [32, 32, 64, 4, 4, 2, 1, 8],
    [32, 32, 32, 4, 4, 4, 1, 8],
    [32, 32, 32, 4, 4, 1, 1, 8],
    [32, 32, 32, 4, 4, 2, 2, 8],
    [64, 32, 32, 4, 4, 2, 1, 8],
    [64, 32, 32, 8, 4, 2, 1, 8],
    [64, 32, 32, 4, 4, 1, 1, 8],
    [32, 64, 32, 4, 4, 2, 1, 8],
    [64, 64, 32, 8, 4, 2, 1, 8],
    [64, 64, 32, 8, 4, 1, 1, 8],
    [64, 64, 32, 4, 4, 1, 1, 8],
    [64, 64, 16, 4, 4, 1, 1, 8],
    [64, 64, 16, 8, 4, 1, 2, 16],
    [64, 64, 16, 8, 8, 1, 1, 8],
    [64, 128, 16, 8, 8, 1, 1, 8],
    [128, 64, 16, 8, 4, 1, 1, 8],
    [128, 64, 16, 8, 8, 1, 2, 16],
    [128, 32, 16, 8, 4, 1, 1, 8],
];

fn tiles() -> Vec<Tile> {
    let more = MORE.map(|[rows, cols, depth, thread_rows, thread_cols, slices, stages, unroll]| Tile {
        rows,
        cols,
        depth,
        thread_rows,
        thread_cols,
        slices,
        stages,
        unroll,
    });
    TILES.iter().map(|r| r.tile).chain(more).collect()
}

/// A contraction with its batch size, the elements of its arguments and the products in a row of its matrix form.
struct Case {
    name: String,
    kernel: Contract,
    batch: usize,
    elements: [usize; 3],
    sizes: [usize; 3],
}

fn products() -> Vec<Case> {
    let layers = [[784, 512], [512, 256], [256, 10], [4096, 128], [128, 10], [512, 10]];
    let mut cases = Vec::new();
    for (rows, [n_in, n_out]) in layers.into_iter().map(|l| (64, l)).chain([(512, [784, 512]), (512, [512, 256])]) {
        for (form, [m, n, k], lhs_t, rhs_t) in [
            ("forward", [rows, n_out, n_in], false, false),
            ("input gradient", [rows, n_in, n_out], false, true),
            ("weight gradient", [n_in, n_out, rows], true, false),
        ] {
            let kernel = contract(matmul(&[], [m, n, k].map(Dim::fixed), lhs_t, rhs_t).0);
            let name = format!("{m}x{n}x{k} {form}");
            cases.push(Case { name, kernel, batch: 1, elements: [m * k, k * n, m * n], sizes: [m, n, k] });
        }
    }
    cases
}

/// ResNet-18's convolutions for images of 32², and those of 224² that the table is slow with.
fn convolutions() -> Vec<Case> {
    let mut cases = Vec::new();
    let mut small = Vec::new();
    for (extent, c) in [(32, 64), (16, 128), (8, 256), (4, 512)] {
        small.push((extent, 3, 1, [c, c]));
        if c > 64 {
            small.push((2 * extent, 3, 2, [c / 2, c]));
            small.push((2 * extent, 1, 2, [c / 2, c]));
        }
    }
    small.push((32, 3, 1, [3, 64]));
    let large = [LAYERS[0], LAYERS[1], LAYERS[3], (28, 1, 2, [128, 256]), (14, 1, 2, [256, 512])];
    for (images, shape) in small.into_iter().map(|s| (32, s)).chain(large.into_iter().map(|s| (64, s))) {
        let s: ConvSizes = layer(shape);
        let taps = s.kernel.iter().product::<usize>();
        let pixels = |extents: &[usize]| images * extents.iter().product::<usize>();
        let (x, w, y) = (pixels(&s.input) * s.c_in, taps * s.c_in * s.c_out, pixels(&s.out) * s.c_out);
        for (form, c, elements, sizes) in [
            ("forward", Contraction::Conv(s.clone()), [x, w, y], [y / s.c_out, s.c_out, taps * s.c_in]),
            ("input gradient", Contraction::ConvInputGrad(s.clone()), [y, w, x], [y / s.c_out, s.c_in, taps * s.c_out]),
            (
                "weight gradient",
                Contraction::ConvWeightGrad(s.clone()),
                [x, y, w],
                [taps * s.c_in, s.c_out, y / s.c_out],
            ),
        ] {
            if shape.3[0] == 3 && form == "input gradient" {
                continue;
            }
            cases.push(Case {
                name: format!("{shape:?} of {images} {form}"),
                kernel: contract(c),
                batch: images,
                elements,
                sizes,
            });
        }
    }
    cases
}

/// Parts that fill the device about once, twice and four times, or so that a part is a few steps deep.
fn parts(t: &Tile, case: &Case) -> Vec<u32> {
    let [m, n, k] = case.sizes;
    let tiles = m.div_ceil(t.rows as usize) * n.div_ceil(t.cols as usize);
    let most = (k / (8 * t.depth as usize)).min(256);
    let is_strided = matches!(&case.kernel.contraction, Contraction::ConvInputGrad(s) if s.geometry.stride[0] > 1);
    let mut counts = vec![1];
    if !is_strided {
        counts.extend([66, 132, 264, 396, 528, 1056].map(|n| n / tiles).into_iter().filter(|&n| n > 1 && n <= most));
    }
    counts.sort_unstable();
    counts.dedup();
    counts.into_iter().map(|n| n as u32).collect()
}

/// Microseconds of a run: the least of three regions of 3 ms.
fn time(device: &Device, job: &Job) -> f64 {
    let region = |times: usize| {
        let start = Instant::now();
        device.submit(job, times);
        start.elapsed().as_secs_f64() * 1e6 / times as f64
    };
    region(1);
    let times = if device.is_cpu { 1 } else { ((3000.0 / region(2)) as usize).clamp(2, 500) };
    (0..3).map(|_| region(times)).fold(f64::INFINITY, f64::min)
}

/// Searches the first `most` contractions.
pub fn search(device: &Device, most: usize) {
    let fits =
        |t: &Tile| t.threads() <= device.workgroups.threads && t.shared_bytes() <= device.workgroups.shared_bytes;
    for case in products().into_iter().chain(convolutions()).take(most) {
        let args: Vec<wgpu::Buffer> = [bytes(&numbers(case.elements[0], 3)), bytes(&numbers(case.elements[1], 5))]
            .into_iter()
            .chain([vec![0; 4 * case.elements[2]], vec![0; 16]])
            .map(|v| device.buffer(&v))
            .collect();
        let table = choice::table(&case.kernel, &device.workgroups);
        let candidates = choice::candidates(&case.kernel, &device.workgroups, case.batch);
        let [m, n, k] = case.sizes;
        // What would be mostly empty, or so small that operands are read too often.
        let is_sensible = |t: &Tile| {
            let (rows, cols) = (t.rows as usize, t.cols as usize);
            rows < 2 * m.max(16) && cols < 2 * n.max(16) && (m * n).div_ceil(rows * cols) < 20_000
        };
        let mut choices = candidates.clone();
        for tile in tiles().into_iter().filter(|t| fits(t) && is_sensible(t)) {
            let more = parts(&tile, &case).into_iter().map(|parts| Choice { tile, parts });
            choices.extend(more.filter(|c| !candidates.contains(c)).collect::<Vec<_>>());
        }
        let mut timed: Vec<(f64, Choice)> = choices
            .chunks(48)
            .flat_map(|some| {
                let prepare = |c: &Choice| {
                    device.prepare(
                        &contractions::shaders_with(&case.kernel, &device.workgroups, *c),
                        &args,
                        case.batch,
                        false,
                    )
                };
                let jobs: Vec<Job> = std::thread::scope(|threads| {
                    let started: Vec<_> = some.iter().map(|c| threads.spawn(|| prepare(c))).collect();
                    started.into_iter().map(|t| t.join().expect("the shader compiles")).collect()
                });
                some.iter().zip(jobs).map(|(c, job)| (time(device, &job), *c)).collect::<Vec<_>>()
            })
            .collect();
        let of = |wanted: &[Choice]| {
            let found = timed.iter().filter(|(_, c)| wanted.contains(c));
            found.fold((f64::INFINITY, table), |best, t| if t.0 < best.0 { *t } else { best })
        };
        let flops = 2.0 * (m * n * k) as f64;
        let line = |what: &str, (us, c): (f64, Choice)| {
            println!("  {what:9} {us:9.1} us {:6.1} TFLOP/s  {c}", flops / us / 1e6)
        };
        println!("{}: {m} x {n} x {k}, {} choices, {} candidates", case.name, timed.len(), candidates.len());
        line("table", of(&[table]));
        line("tuned", of(&candidates));
        timed.sort_by(|a, b| a.0.total_cmp(&b.0));
        timed.iter().take(6).for_each(|t| line("", *t));
        // The fastest of each shipped tile, from which rates are estimated.
        for rated in TILES {
            if let Some(t) = timed.iter().find(|(_, c)| c.tile == rated.tile) {
                line("shipped", *t);
            }
        }
    }
}
