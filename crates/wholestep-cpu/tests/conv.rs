//! The convolution and its gradients against naive loops in f64: strides, padding on each side, dilation, groups, every
//! instruction set, poisoned memory.

use std::sync::Mutex;
use wholestep_cpu::conv::*;
use wholestep_cpu::matmul::Rect;
use wholestep_cpu::pool::Pool;
use wholestep_cpu::simd::Isa;

mod common;
use common::{Random, assert_covers};

/// Calls `f(x index, filter index, y index)` for every product of the convolution.
fn each_product(s: &ConvSpec, mut f: impl FnMut(usize, usize, usize)) {
    let (ci_g, co_g) = (s.ci / s.groups, s.co / s.groups);
    let v = &s.depth;
    let inside = |o: usize, k: usize, stride: usize, dilation: usize, pad: usize, size: usize| {
        (o * stride + k * dilation).checked_sub(pad).filter(|&i| i < size)
    };
    let places =
        |[d, h, w]: [usize; 3]| (0..d).flat_map(move |z| (0..h).flat_map(move |y| (0..w).map(move |x| [z, y, x])));
    for image in 0..s.n {
        for [oz, oy, ox] in places([v.od, s.oh, s.ow]) {
            for [kz, ky, kx] in places([v.kd, s.kh, s.kw]) {
                let (Some(iz), Some(iy), Some(ix)) = (
                    inside(oz, kz, v.stride, v.dilation, v.pad, v.d),
                    inside(oy, ky, s.stride[0], s.dilation[0], s.pad[0], s.h),
                    inside(ox, kx, s.stride[1], s.dilation[1], s.pad[1], s.w),
                ) else {
                    continue;
                };
                let x = (((image * v.d + iz) * s.h + iy) * s.w + ix) * s.ci;
                let y = (((image * v.od + oz) * s.oh + oy) * s.ow + ox) * s.co;
                let tap = (kz * s.kh + ky) * s.kw + kx;
                for o in 0..s.co {
                    for c in 0..ci_g {
                        f(x + o / co_g * ci_g + c, (tap * ci_g + c) * s.co + o, y + o);
                    }
                }
            }
        }
    }
}

/// The wanted values and the sums of magnitudes: (y, d_x, d_filters).
type Wanted = [Vec<(f64, f64)>; 3];

fn naive(s: &ConvSpec, inputs: [&[f32]; 3], start: [&[f32]; 3]) -> Wanted {
    let mut out: Wanted =
        start.map(|v| v.iter().map(|&x| if s.accumulate { (x as f64, x.abs() as f64) } else { (0.0, 0.0) }).collect());
    let [x, filters, d_y] = inputs;
    let add = |to: &mut (f64, f64), a: f32, b: f32| {
        let product = a as f64 * b as f64;
        *to = (to.0 + product, to.1 + product.abs());
    };
    each_product(s, |xi, fi, yi| {
        add(&mut out[0][yi], x[xi], filters[fi]);
        add(&mut out[1][xi], d_y[yi], filters[fi]);
        add(&mut out[2][fi], x[xi], d_y[yi]);
    });
    out
}

fn compare(what: &str, s: &ConvSpec, isa: Isa, got: &[f32], want: &[(f64, f64)], terms: usize) {
    for (i, (&got, &(want, size))) in got.iter().zip(want).enumerate() {
        let bound = 4.0 * f32::EPSILON as f64 * size * (1.0 + (terms as f64).sqrt());
        assert!((got as f64 - want).abs() <= bound, "{what} {i}: got {got} want {want}, {s:?} {isa:?}");
    }
}

fn check(pools: &[Pool], random: &mut Random, s: &ConvSpec, isas: &[Isa]) {
    let taps = s.depth.kd * s.kh * s.kw;
    let (x_pixels, y_pixels) = (s.n * s.depth.d * s.h * s.w, s.n * s.depth.od * s.oh * s.ow);
    let x = random.vec(x_pixels * s.ci);
    let filters = random.vec(taps * s.ci / s.groups * s.co);
    let d_y = random.vec(y_pixels * s.co);
    let start = [random.vec(d_y.len()), random.vec(x.len()), random.vec(filters.len())];
    let want = naive(s, [&x, &filters, &d_y], [&start[0], &start[1], &start[2]]);
    for &isa in isas {
        let mut bits = Vec::new();
        for pool in pools {
            let begin = |v: &Vec<f32>| if s.accumulate { v.clone() } else { vec![f32::NAN; v.len()] };
            let [mut y, mut d_x, mut d_filters] = [0, 1, 2].map(|i| begin(&start[i]));
            let poisoned = |elems: usize| vec![f32::NAN; elems];
            let n_threads = pool.n_threads();
            let rects: [Mutex<Vec<Rect>>; 2] = Default::default();
            let record = |i: usize| {
                let rects = &rects;
                move |r: Rect| rects[i].lock().unwrap().push(r)
            };
            // SAFETY: every buffer has the size of the spec.
            unsafe {
                let mut scratch = poisoned(conv_forward_scratch_elems(s, n_threads));
                let (x, filters, d_y) = (x.as_ptr(), filters.as_ptr(), d_y.as_ptr());
                let p = scratch.as_mut_ptr();
                conv_forward(pool, isa, s, x, filters, y.as_mut_ptr(), p, Some(&record(0)));
                let mut scratch = poisoned(conv_input_grad_scratch_elems(s, n_threads));
                let p = scratch.as_mut_ptr();
                conv_input_grad(pool, isa, s, d_y, filters, d_x.as_mut_ptr(), p, Some(&record(1)));
                let mut scratch = poisoned(conv_weight_grad_scratch_elems(s, n_threads));
                conv_weight_grad(pool, isa, s, x, d_y, d_filters.as_mut_ptr(), scratch.as_mut_ptr());
            }
            let terms = taps * s.ci / s.groups;
            compare("y", s, isa, &y, &want[0], terms);
            compare("d_x", s, isa, &d_x, &want[1], taps * s.co / s.groups);
            compare("d_filters", s, isa, &d_filters, &want[2], y_pixels);
            let [y_rects, x_rects] = rects.map(|r| r.into_inner().unwrap());
            assert_covers(&y_rects, y_pixels, s.co);
            assert_covers(&x_rects, x_pixels, s.ci);
            bits.push([y, d_x, d_filters].concat().iter().map(|x| x.to_bits()).collect::<Vec<_>>());
        }
        assert!(bits.iter().all(|x| *x == bits[0]), "bits depend on the threads: {s:?} {isa:?}");
    }
}

fn isas() -> Vec<Isa> {
    Isa::ALL.into_iter().filter(|isa| isa.is_available()).collect()
}

fn pools() -> [Pool; 3] {
    [Pool::new(1), Pool::new(2), Pool::new(3)]
}

/// A convolution whose output size follows from padding on all sides: (top, left, bottom, right).
fn spec(
    [n, h, w, ci, co]: [usize; 5],
    [kh, kw]: [usize; 2],
    stride: [usize; 2],
    dilation: [usize; 2],
    pad: [usize; 4],
    groups: usize,
) -> ConvSpec {
    let out = |size: usize, pad: usize, k: usize, i: usize| {
        (size + pad).checked_sub((k - 1) * dilation[i] + 1).map_or(0, |free| free / stride[i] + 1)
    };
    let (oh, ow) = (out(h, pad[0] + pad[2], kh, 0), out(w, pad[1] + pad[3], kw, 1));
    let pad = [pad[0], pad[1]];
    ConvSpec { n, h, w, ci, oh, ow, co, kh, kw, stride, dilation, pad, groups, depth: Depth::FLAT, accumulate: false }
}

#[test]
fn shapes_of_real_networks() {
    let (pools, mut random) = (pools(), Random::new(11));
    for (size, k, stride, pad) in [
        ([2, 32, 32, 3, 32], 3, 1, 1),
        ([2, 16, 16, 32, 32], 3, 2, 1),
        ([1, 16, 16, 64, 64], 3, 1, 1),
        ([3, 8, 8, 64, 128], 3, 2, 1),
        ([4, 4, 4, 96, 160], 3, 1, 1),
        ([2, 8, 8, 64, 128], 1, 2, 0),
        ([2, 9, 9, 20, 30], 1, 1, 0),
        ([1, 28, 28, 1, 6], 5, 1, 2),
        ([1, 33, 33, 3, 16], 7, 2, 3),
        ([1, 5, 5, 300, 20], 3, 1, 1),
    ] {
        for accumulate in [false, true] {
            let s = spec(size, [k, k], [stride; 2], [1, 1], [pad; 4], 1);
            check(&pools, &mut random, &ConvSpec { accumulate, ..s }, &isas());
        }
    }
}

#[test]
fn depthwise_and_grouped() {
    let (pools, mut random) = (pools(), Random::new(12));
    for (size, groups) in [
        ([2, 9, 11, 24, 24], 24),
        ([1, 7, 5, 37, 37], 37),
        ([2, 6, 7, 12, 20], 4),
        ([1, 5, 6, 8, 16], 8),
        ([1, 8, 8, 40, 60], 2),
    ] {
        for (stride, dilation) in [([1, 1], [1, 1]), ([2, 2], [1, 1]), ([1, 2], [2, 1]), ([3, 2], [1, 3])] {
            for accumulate in [false, true] {
                let s = spec(size, [3, 3], stride, dilation, [1, 2, 1, 0], groups);
                check(&pools, &mut random, &ConvSpec { accumulate, ..s }, &isas());
            }
        }
    }
    let s = spec([3, 30, 30, 33, 33], [3, 3], [1, 1], [1, 1], [1; 4], 33);
    check(&pools, &mut random, &s, &isas());
    // Lines long enough that pixels between the borders are done side by side, and filters wider than a group of taps.
    for (k, stride, dilation, pad) in [
        ([3, 5], [1, 1], [1, 1], [1, 2, 1, 2]),
        ([2, 6], [1, 2], [1, 1], [0, 3, 1, 0]),
        ([1, 9], [1, 1], [1, 2], [0, 7, 0, 9]),
        ([3, 2], [2, 3], [2, 5], [2, 0, 0, 4]),
        ([3, 1], [1, 1], [1, 1], [1, 0, 1, 0]),
    ] {
        for accumulate in [false, true] {
            let s = spec([2, 5, 43, 19, 19], k, stride, dilation, pad, 19);
            check(&pools, &mut random, &ConvSpec { accumulate, ..s }, &isas());
        }
    }
}

#[test]
fn random_geometry() {
    let (pools, mut random) = (pools(), Random::new(13));
    let mut tried = 0;
    while tried < 150 {
        let mut r = |n: usize| 1 + random.below(n);
        let groups = [1, 1, 1, 2, 3][r(5) - 1];
        let size = [r(3), r(13), r(13), groups * r(11), groups * r(37)];
        let (k, stride, dilation) = ([r(4), r(4)], [r(3), r(3)], [r(3), r(3)]);
        let pad = [r(4) - 1, r(4) - 1, r(4) - 1, r(4) - 1];
        let s = ConvSpec { accumulate: r(2) == 1, ..spec(size, k, stride, dilation, pad, groups) };
        if s.oh * s.ow > 0 {
            check(&pools, &mut random, &s, &isas());
            tried += 1;
        }
    }
}

#[test]
fn one_dimension_and_long_lines() {
    let (pools, mut random) = (pools(), Random::new(14));
    for (size, kw, stride, dilation, left) in
        [([2, 1, 1200, 5, 19], 7, 1, 2, 12), ([1, 1, 700, 2, 9], 5, 2, 1, 2), ([1, 1, 600, 130, 140], 3, 1, 1, 1)]
    {
        let s = spec(size, [1, kw], [1, stride], [1, dilation], [0, left, 0, 0], 1);
        check(&pools, &mut random, &s, &isas());
    }
}

#[test]
fn pixels_are_split_for_the_weight_gradient() {
    let (pools, mut random) = (pools(), Random::new(15));
    let s = spec([5, 24, 24, 6, 10], [3, 3], [1, 1], [1, 1], [1; 4], 1);
    check(&pools, &mut random, &s, &isas());
    check(&pools, &mut random, &ConvSpec { accumulate: true, ..s }, &isas());
}

#[test]
fn empty_sizes_and_filters_outside_the_image() {
    let (pools, mut random) = (pools(), Random::new(16));
    let s = spec([0, 4, 4, 3, 5], [3, 3], [1, 1], [1, 1], [1; 4], 1);
    check(&pools, &mut random, &s, &isas());
    let far = ConvSpec { oh: 6, ow: 6, pad: [9, 0], ..spec([1, 2, 2, 8, 9], [2, 2], [1, 1], [1, 1], [0; 4], 1) };
    check(&pools, &mut random, &far, &isas());
    let wide = ConvSpec { ci: 3, ..far };
    check(&pools, &mut random, &wide, &isas());
}

#[test]
fn scratch_for_the_largest_batch_serves_every_smaller_one() {
    for (ci, co, k, stride, groups) in [(3, 32, 3, 1, 1), (64, 64, 3, 1, 1), (64, 128, 1, 1, 1), (32, 32, 3, 2, 32)] {
        let mut largest = [0; 3];
        for n in 0..300 {
            let s = spec([n, 16, 16, ci, co], [k, k], [stride; 2], [1, 1], [k / 2; 4], groups);
            let now = [
                conv_forward_scratch_elems(&s, 3),
                conv_input_grad_scratch_elems(&s, 3),
                conv_weight_grad_scratch_elems(&s, 3),
            ];
            assert!((0..3).all(|i| now[i] >= largest[i]), "{s:?}: {now:?} < {largest:?}");
            largest = now;
        }
    }
}

/// A third axis of `[d, kd, stride, dilation, pad in front, pad behind]`.
fn depth([d, kd, stride, dilation, front, behind]: [usize; 6]) -> Depth {
    let od = (d + front + behind).checked_sub((kd - 1) * dilation + 1).map_or(0, |free| free / stride + 1);
    Depth { d, od, kd, stride, dilation, pad: front }
}

#[test]
fn volumes() {
    let (pools, mut random) = (pools(), Random::new(19));
    let same = [1, 1, 1, 1];
    for (s, third) in [
        (spec([2, 6, 7, 16, 32], [3, 3], [1, 1], [1, 1], same, 1), [5, 3, 1, 1, 1, 1]),
        // Few channels: images of so few are copied, volumes are not.
        (spec([2, 7, 9, 3, 20], [3, 3], [1, 1], [1, 1], same, 1), [4, 3, 1, 1, 1, 1]),
        (spec([1, 8, 8, 24, 40], [3, 3], [2, 2], [1, 1], same, 1), [9, 3, 2, 1, 1, 1]),
        (spec([2, 5, 6, 9, 17], [2, 3], [3, 2], [1, 2], [0, 2, 1, 1], 1), [7, 4, 3, 2, 2, 3]),
        (spec([2, 5, 5, 12, 18], [3, 1], [1, 2], [2, 1], [1, 0, 2, 0], 3), [6, 2, 2, 1, 0, 1]),
        (spec([1, 5, 4, 10, 10], [3, 3], [1, 1], [1, 1], same, 10), [4, 3, 1, 1, 1, 1]),
        // A product of matrices, and one that only the third axis keeps from being one.
        (spec([2, 4, 5, 20, 30], [1, 1], [1, 1], [1, 1], [0; 4], 1), [3, 1, 1, 1, 0, 0]),
        (spec([2, 4, 5, 20, 30], [1, 1], [1, 1], [1, 1], [0; 4], 1), [5, 1, 2, 1, 0, 0]),
        (spec([1, 4, 4, 8, 8], [1, 1], [1, 1], [1, 1], [0; 4], 1), [4, 3, 1, 1, 1, 1]),
        // No output at all, and taps of which most lie outside.
        (spec([1, 4, 4, 8, 8], [3, 3], [1, 1], [1, 1], same, 1), [2, 3, 1, 2, 0, 0]),
        (spec([1, 2, 2, 8, 9], [2, 2], [1, 1], [1, 1], [0; 4], 1), [1, 3, 1, 1, 4, 4]),
        // Enough pixels that the weight gradient is split.
        (spec([3, 13, 12, 5, 6], [3, 3], [1, 1], [1, 1], same, 1), [11, 2, 1, 1, 1, 0]),
    ] {
        for accumulate in [false, true] {
            check(&pools, &mut random, &ConvSpec { depth: depth(third), accumulate, ..s }, &isas());
        }
    }
    for _ in 0..60 {
        let mut r = |n| random.below(n);
        let groups = 1 + r(3);
        let size = [1 + r(2), 1 + r(7), 1 + r(7), groups * (1 + r(9)), groups * (1 + r(20))];
        let k = [1 + r(3), 1 + r(3)];
        let (stride, dilation) = ([1 + r(3), 1 + r(3)], [1 + r(2), 1 + r(2)]);
        let third = [1 + r(6), 1 + r(3), 1 + r(3), 1 + r(2), r(3), r(3)];
        let s = spec(size, k, stride, dilation, [r(3), r(3), r(3), r(3)], groups);
        let s = ConvSpec { depth: depth(third), accumulate: r(2) == 1, ..s };
        check(&pools, &mut random, &s, &isas());
    }
}
