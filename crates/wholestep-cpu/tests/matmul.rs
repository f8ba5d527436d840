//! The matrix product against a naive one in f64: every instruction set, odd shapes, all strides, poisoned memory.

use std::sync::Mutex;
use wholestep_cpu::matmul::{MatmulSpec, Rect, matmul, matmul_scratch_elems};
use wholestep_cpu::pool::Pool;
use wholestep_cpu::simd::Isa;

mod common;
use common::{Random, assert_covers};

/// Runs one product and compares; gives the bits of C.
fn check(pool: &Pool, isa: Isa, spec: &MatmulSpec, a: &[f32], b: &[f32], c0: &[f32]) -> Vec<u32> {
    let s = spec;
    let mut c = c0.to_vec();
    if !s.accumulate {
        (0..s.m).for_each(|i| c[i * s.ldc..i * s.ldc + s.n].fill(f32::NAN));
    }
    let mut scratch = vec![f32::NAN; matmul_scratch_elems(s, pool.n_threads())];
    let rects: Mutex<Vec<Rect>> = Mutex::new(Vec::new());
    let c_ptr = c.as_mut_ptr() as usize;
    let epilogue = |r: Rect| {
        for i in r.row0..r.row0 + r.rows {
            for j in r.col0..r.col0 + r.cols {
                // SAFETY: the rectangle is finished and inside C.
                let x = unsafe { *(c_ptr as *const f32).add(i * s.ldc + j) };
                assert!(x.is_finite(), "unfinished {i} {j} of {s:?} {isa:?}");
            }
        }
        rects.lock().unwrap().push(r);
    };
    // SAFETY: the test sized every buffer for the spec.
    unsafe { matmul(pool, isa, s, a.as_ptr(), b.as_ptr(), c.as_mut_ptr(), scratch.as_mut_ptr(), Some(&epilogue)) };
    assert_covers(&rects.into_inner().unwrap(), s.m, s.n);
    for i in 0..s.m {
        for j in 0..s.ldc {
            let got = c[i * s.ldc + j];
            if j >= s.n {
                assert_eq!(got.to_bits(), c0[i * s.ldc + j].to_bits(), "wrote outside C, {s:?}");
                continue;
            }
            let (mut want, mut size) = (0.0f64, 0.0f64);
            if s.accumulate {
                want = c0[i * s.ldc + j] as f64;
                size = want.abs();
            }
            for k in 0..s.k {
                let product = a[i * s.a_rs + k * s.a_cs] as f64 * b[k * s.b_rs + j * s.b_cs] as f64;
                want += product;
                size += product.abs();
            }
            let bound = 4.0 * f32::EPSILON as f64 * size * (1.0 + (s.k as f64).sqrt());
            assert!((got as f64 - want).abs() <= bound, "{i} {j}: got {got} want {want}, {s:?} {isa:?}");
        }
    }
    c.iter().map(|x| x.to_bits()).collect()
}

fn pools() -> [Pool; 3] {
    [Pool::new(1), Pool::new(2), Pool::new(3)]
}

/// Every way to lay out A and B, with and without accumulation, on each instruction set and thread count.
fn check_shape(pools: &[Pool], random: &mut Random, m: usize, n: usize, k: usize, thorough: bool) {
    for layout in 0..if thorough { 10 } else { 4 } {
        let pad = if layout >= 4 { 3 } else { 0 };
        let (a_rs, a_cs) = match layout {
            0 | 1 | 4 | 5 => (k + pad, 1),
            2 | 3 | 6 | 7 => (1, m + pad),
            _ => (2 * k + 5, 2),
        };
        let (b_rs, b_cs) = match layout {
            0 | 2 | 4 | 6 => (n + pad, 1),
            1 | 3 | 5 | 7 => (1, k + pad),
            _ => (2 * n + 1, 2),
        };
        let s = MatmulSpec { m, n, k, a_rs, a_cs, b_rs, b_cs, ldc: n + pad, accumulate: layout % 2 == 1 };
        let a = random.vec((m * a_rs).max(k * a_cs) + a_rs + a_cs);
        let b = random.vec((k * b_rs).max(n * b_cs) + b_rs + b_cs);
        let c = random.vec(m * s.ldc);
        for isa in Isa::ALL.into_iter().filter(|isa| isa.is_available()) {
            let bits = pools.iter().map(|pool| check(pool, isa, &s, &a, &b, &c)).collect::<Vec<_>>();
            assert!(bits.iter().all(|x| *x == bits[0]), "bits depend on the threads: {s:?} {isa:?}");
        }
    }
}

#[test]
fn small_and_odd_shapes() {
    let (pools, mut random) = (pools(), Random::new(1));
    for (m, n, k) in [
        (1, 1, 1),
        (1, 1, 0),
        (3, 5, 0),
        (1, 17, 3),
        (17, 1, 5),
        (8, 16, 10),
        (8, 2, 16),
        (10, 16, 8),
        (16, 2, 8),
        (7, 47, 13),
        (9, 49, 31),
        (13, 97, 17),
        (31, 33, 37),
        (65, 15, 129),
        (23, 113, 257),
        (5, 64, 300),
        (2, 3, 5),
    ] {
        check_shape(&pools, &mut random, m, n, k, true);
    }
    for _ in 0..40 {
        let (m, n, k) = (1 + random.below(40), 1 + random.below(120), 1 + random.below(70));
        check_shape(&pools, &mut random, m, n, k, false);
    }
}

#[test]
fn shapes_of_many_tiles_and_blocks() {
    let (pools, mut random) = (pools(), Random::new(2));
    for (m, n, k) in [
        (131, 257, 263),
        (300, 70, 521),
        (64, 512, 100),
        (517, 130, 67),
        (16, 1000, 64),
        (90, 510, 30),
        (70, 140, 1030),
    ] {
        check_shape(&pools, &mut random, m, n, k, false);
    }
}

#[test]
fn long_k_is_split_and_wide_b_is_cut_into_slabs() {
    let (pools, mut random) = (pools(), Random::new(3));
    check_shape(&pools, &mut random, 19, 33, 5000, false);
    check_shape(&pools, &mut random, 3, 2, 9001, false);
    let s = MatmulSpec { b_rs: 1, b_cs: 4111, ..MatmulSpec::dense(17, 1100, 4111) };
    let (a, b, c) = (random.vec(s.m * s.k), random.vec(s.k * s.n), random.vec(s.m * s.n));
    let bits = pools.iter().map(|pool| check(pool, Isa::detect(), &s, &a, &b, &c)).collect::<Vec<_>>();
    assert!(bits.iter().all(|x| *x == bits[0]));
}

#[test]
fn scratch_for_the_largest_batch_serves_every_smaller_one() {
    for fixed in [(7, 10), (48, 500), (300, 784), (1, 5000)] {
        for layout in 0..4 {
            let mut largest = [0; 3];
            for batch in 1..3000 {
                let spec = |m: usize, n: usize, k: usize| {
                    let (a_rs, a_cs) = if layout & 1 == 0 { (4096, 1) } else { (1, 4096) };
                    let (b_rs, b_cs) = if layout & 2 == 0 { (4096, 1) } else { (1, 4096) };
                    MatmulSpec { a_rs, a_cs, b_rs, b_cs, ..MatmulSpec::dense(m, n, k) }
                };
                let (x, y) = fixed;
                for (seen, s) in largest.iter_mut().zip([spec(batch, x, y), spec(x, batch, y), spec(x, y, batch)]) {
                    let elems = matmul_scratch_elems(&s, 2);
                    assert!(elems >= *seen, "{s:?}: {elems} < {seen}");
                    *seen = elems;
                }
            }
        }
    }
}
