//! Prints the speed of the products of this crate beside the `gemm` crate, in GFLOP/s, and that of the convolutions beside
//! the peak of the multiply-add units. The two libraries take turns, and the best of many rounds counts.
//!
//! `cargo bench -p wholestep-cpu --bench kernels -- [part of a name]`, threads from WHOLESTEP_BENCH_THREADS (default 1 and 2).

use std::hint::black_box;
use std::time::Instant;
use wholestep_cpu::matmul::{MatmulSpec, matmul, matmul_scratch_elems};
use wholestep_cpu::pool::Pool;
use wholestep_cpu::simd::Isa;

/// Best seconds per call of each function, called in turns for about `budget` seconds.
fn best(budget: f64, functions: &mut [&mut dyn FnMut()]) -> Vec<f64> {
    let mut seconds = vec![f64::INFINITY; functions.len()];
    let begin = Instant::now();
    functions.iter_mut().for_each(|f| f());
    let once = begin.elapsed().as_secs_f64();
    let repeats = ((2e-4 / once) as usize).clamp(1, 2000);
    let mut rounds = 0;
    while rounds < 5 || begin.elapsed().as_secs_f64() < budget {
        for (f, best) in functions.iter_mut().zip(&mut seconds) {
            f();
            let begin = Instant::now();
            (0..repeats).for_each(|_| f());
            *best = best.min(begin.elapsed().as_secs_f64() / repeats as f64);
        }
        rounds += 1;
    }
    seconds
}

fn bench_matmul(pool: &Pool, name: &str, m: usize, n: usize, k: usize, a_t: bool, b_t: bool) {
    let (a_rs, a_cs) = if a_t { (1, m) } else { (k, 1) };
    let (b_rs, b_cs) = if b_t { (1, k) } else { (n, 1) };
    let s = MatmulSpec { m, n, k, a_rs, a_cs, b_rs, b_cs, ldc: n, accumulate: false };
    let n_threads = pool.n_threads();
    let fill = |len: usize| (0..len).map(|i| (i * 7 % 23) as f32 - 11.0).collect::<Vec<f32>>();
    let (a, b) = (fill(m * k), fill(k * n));
    let (mut c, mut c_gemm) = (vec![0.0f32; m * n], vec![0.0f32; m * n]);
    let mut scratch = vec![0.0f32; matmul_scratch_elems(&s, n_threads)];
    let parallel = if n_threads == 1 { gemm::Parallelism::None } else { gemm::Parallelism::Rayon(n_threads) };
    let isa = Isa::detect();
    let mut ours = || {
        // SAFETY: the buffers have the sizes of the spec.
        unsafe { matmul(pool, isa, &s, a.as_ptr(), b.as_ptr(), c.as_mut_ptr(), scratch.as_mut_ptr(), None) }
        black_box(&mut c);
    };
    let mut theirs = || {
        // SAFETY: the buffers have the sizes of the spec.
        unsafe {
            gemm::gemm(
                m,
                n,
                k,
                c_gemm.as_mut_ptr(),
                1,
                n as isize,
                false,
                a.as_ptr(),
                a_cs as isize,
                a_rs as isize,
                b.as_ptr(),
                b_cs as isize,
                b_rs as isize,
                0.0,
                1.0,
                false,
                false,
                false,
                parallel,
            )
        }
        black_box(&mut c_gemm);
    };
    let seconds = best(0.25, &mut [&mut ours, &mut theirs]);
    let flops = 2.0 * (m * n * k) as f64;
    println!(
        "{name:10} {m:5} {n:5} {k:6}  {n_threads} threads: ours {:8.1} gemm {:8.1} GFLOP/s  ratio {:5.2}  {:9.2} us",
        flops / seconds[0] / 1e9,
        flops / seconds[1] / 1e9,
        seconds[1] / seconds[0],
        seconds[0] * 1e6,
    );
}

fn main() {
    let filter = std::env::args().skip(1).find(|arg| !arg.starts_with("--")).unwrap_or_default();
    let threads = std::env::var("WHOLESTEP_BENCH_THREADS").unwrap_or_else(|_| "1,2".into());
    for n_threads in threads.split(',').filter_map(|n| n.parse().ok()) {
        let pool = Pool::new(n_threads);
        let mut cases: Vec<(&str, usize, usize, usize, bool, bool)> = Vec::new();
        cases.extend([256, 512, 1024, 2048].map(|n| ("square", n, n, n, false, false)));
        for batch in [64, 512] {
            cases.extend([(512, 784), (256, 512), (10, 256)].map(|(n, k)| ("forward", batch, n, k, false, false)));
            cases.extend([(784, 512), (512, 256), (256, 10)].map(|(m, n)| ("weight", m, n, batch, true, false)));
            cases.extend([(256, 10), (512, 256)].map(|(n, k)| ("input", batch, n, k, false, true)));
        }
        cases.extend([("tiny", 8, 16, 10, false, false), ("tiny", 8, 2, 16, false, false)]);
        cases.extend([("tiny_at", 10, 16, 8, true, false), ("tiny_at", 16, 2, 8, true, false)]);
        cases.extend([("tiny_bt", 8, 16, 2, false, true), ("tiny_bt", 8, 10, 16, false, true)]);
        cases.push(("long", 288, 32, 65536, true, false));
        for (name, m, n, k, a_t, b_t) in cases {
            if name.contains(&filter) {
                bench_matmul(&pool, name, m, n, k, a_t, b_t);
            }
        }
    }
}
