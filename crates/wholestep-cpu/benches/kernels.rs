//! Prints the speed of the products of this crate beside the `gemm` crate, in GFLOP/s, and that of the convolutions beside
//! the peak of the multiply-add units. The two libraries take turns, and the best of many rounds counts.
//!
//! `cargo bench -p wholestep-cpu --bench kernels -- [part of a name]`, `--threads=1,2` sets the
//! numbers of threads, `--cpu-time` the clock (see `now`).

use std::hint::black_box;
use std::time::Instant;
use wholestep_cpu::conv::{
    ConvSpec, Depth, conv_forward, conv_forward_scratch_elems, conv_input_grad, conv_input_grad_scratch_elems,
    conv_weight_grad, conv_weight_grad_scratch_elems,
};
use wholestep_cpu::matmul::{MatmulSpec, matmul, matmul_scratch_elems};
use wholestep_cpu::pool::Pool;
use wholestep_cpu::simd::Isa;

/// Seconds on the clock of the wall, or with `--cpu-time` those that this thread had a processor: on a busy machine only
/// the latter says something, and only of one thread.
fn now() -> f64 {
    #[cfg(target_os = "linux")]
    if std::env::args().any(|arg| arg == "--cpu-time") {
        unsafe extern "C" {
            fn clock_gettime(clock: i32, time: *mut [i64; 2]) -> i32;
        }
        const THREAD_CPU_TIME: i32 = 3;
        let mut time = [0; 2];
        // SAFETY: on 64-bit Linux a timespec is two i64.
        unsafe { clock_gettime(THREAD_CPU_TIME, &mut time) };
        return time[0] as f64 + time[1] as f64 * 1e-9;
    }
    static BEGIN: std::sync::LazyLock<Instant> = std::sync::LazyLock::new(Instant::now);
    BEGIN.elapsed().as_secs_f64()
}

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
            let begin = now();
            (0..repeats).for_each(|_| f());
            *best = best.min((now() - begin) / repeats as f64);
        }
        rounds += 1;
    }
    seconds
}

/// Numbers that begin on a cache line, as those of a planned arena do.
struct Filled(Vec<f32>);

fn filled(len: usize) -> Filled {
    Filled((0..len + 16).map(|i| (i * 7 % 23) as f32 - 11.0).collect())
}

impl Filled {
    fn as_ptr(&self) -> *const f32 {
        let p = self.0.as_ptr();
        p.wrapping_add(p.addr().wrapping_neg() % 64 / 4)
    }

    fn as_mut_ptr(&mut self) -> *mut f32 {
        let p = self.0.as_mut_ptr();
        p.wrapping_add(p.addr().wrapping_neg() % 64 / 4)
    }
}

fn bench_matmul(pool: &Pool, name: &str, m: usize, n: usize, k: usize, a_t: bool, b_t: bool) {
    let (a_rs, a_cs) = if a_t { (1, m) } else { (k, 1) };
    let (b_rs, b_cs) = if b_t { (1, k) } else { (n, 1) };
    let s = MatmulSpec { m, n, k, a_rs, a_cs, b_rs, b_cs, ldc: n, accumulate: false };
    let n_threads = pool.n_threads();
    let (a, b) = (filled(m * k), filled(k * n));
    let (mut c, mut c_gemm) = (filled(m * n), filled(m * n));
    let mut scratch = filled(matmul_scratch_elems(&s, n_threads));
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

/// Best GFLOP/s of one core's multiply-add units on a product that never leaves the first cache.
fn peak() -> f64 {
    let pool = Pool::new(1);
    let s = MatmulSpec::dense(8, Isa::detect().lanes() * 3, 192);
    let (a, b) = (vec![1.0f32; s.m * s.k], vec![1.0f32; s.k * s.n]);
    let mut c = vec![0.0f32; s.m * s.n];
    let mut run = || {
        // SAFETY: the buffers have the sizes of the spec, which needs no scratch memory.
        unsafe { matmul(&pool, Isa::detect(), &s, a.as_ptr(), b.as_ptr(), c.as_mut_ptr(), std::ptr::null_mut(), None) }
        black_box(&mut c);
    };
    2.0 * (s.m * s.n * s.k) as f64 / best(0.5, &mut [&mut run])[0] / 1e9
}

/// A depth of 0 is an image.
fn bench_conv(
    pool: &Pool,
    peak: f64,
    name: &str,
    [n, d, hw, ci, co]: [usize; 5],
    k: usize,
    stride: usize,
    groups: usize,
) {
    let pad = k / 2;
    let out = |size: usize| (size + 2 * pad - k) / stride + 1;
    let depth = if d == 0 { Depth::FLAT } else { Depth { d, od: out(d), kd: k, stride, dilation: 1, pad } };
    let out = out(hw);
    let s = ConvSpec {
        n,
        h: hw,
        w: hw,
        ci,
        oh: out,
        ow: out,
        co,
        kh: k,
        kw: k,
        stride: [stride; 2],
        dilation: [1; 2],
        pad: [pad; 2],
        groups,
        depth,
        accumulate: false,
    };
    let n_threads = pool.n_threads();
    let Depth { d: slices, od, kd, .. } = depth;
    let sizes = [n * slices * hw * hw * ci, kd * k * k * ci / groups * co, n * od * out * out * co];
    let [x, filters, d_y] = sizes.map(filled);
    let [mut d_x, mut d_filters, mut y] = sizes.map(filled);
    let [mut s1, mut s2, mut s3] = [
        conv_forward_scratch_elems(&s, n_threads),
        conv_input_grad_scratch_elems(&s, n_threads),
        conv_weight_grad_scratch_elems(&s, n_threads),
    ]
    .map(filled);
    let isa = Isa::detect();
    let (px, pf, pd) = (x.as_ptr(), filters.as_ptr(), d_y.as_ptr());
    // SAFETY: the buffers have the sizes of the spec.
    let mut forward = || unsafe { conv_forward(pool, isa, &s, px, pf, y.as_mut_ptr(), s1.as_mut_ptr(), None) };
    // SAFETY: as above.
    let mut input = || unsafe { conv_input_grad(pool, isa, &s, pd, pf, d_x.as_mut_ptr(), s2.as_mut_ptr(), None) };
    // SAFETY: as above.
    let mut weight = || unsafe { conv_weight_grad(pool, isa, &s, px, pd, d_filters.as_mut_ptr(), s3.as_mut_ptr()) };
    let seconds = best(0.5, &mut [&mut forward, &mut input, &mut weight]);
    let flops = 2.0 * (n * od * out * out * kd * k * k * ci / groups * co) as f64;
    print!("{name:10} [{n},{slices},{hw},{hw},{ci}]->{co} k{k} s{stride} g{groups}  {n_threads} threads:");
    for (what, seconds) in ["y", "d_x", "d_w"].iter().zip(seconds) {
        let speed = flops / seconds / 1e9;
        print!(
            "  {what} {speed:6.1} GFLOP/s {:3.0} % {:7.2} ms",
            100.0 * speed / peak / n_threads as f64,
            seconds * 1e3
        );
    }
    println!();
}

fn main() {
    let peak = peak();
    println!("peak of one core {peak:.1} GFLOP/s");
    let filter = std::env::args().skip(1).find(|arg| !arg.starts_with("--")).unwrap_or_default();
    let threads = std::env::args().find_map(|arg| arg.strip_prefix("--threads=").map(str::to_string));
    let threads = threads.unwrap_or_else(|| "1,2".into());
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
        let convs: [(&str, [usize; 5], usize, usize, usize); 18] = [
            ("resnet", [32, 0, 32, 64, 64], 3, 1, 1),
            ("resnet", [32, 0, 16, 128, 128], 3, 1, 1),
            ("resnet", [32, 0, 8, 256, 256], 3, 1, 1),
            ("resnet", [32, 0, 4, 512, 512], 3, 1, 1),
            ("resnet_s2", [32, 0, 32, 64, 128], 3, 2, 1),
            ("resnet_s2", [32, 0, 16, 128, 256], 3, 2, 1),
            ("resnet_s2", [32, 0, 8, 256, 512], 3, 2, 1),
            ("resnet_1x1", [32, 0, 32, 64, 128], 1, 2, 1),
            ("first", [64, 0, 32, 3, 32], 3, 1, 1),
            ("first", [64, 0, 28, 1, 32], 3, 1, 1),
            ("first", [32, 0, 32, 3, 64], 3, 1, 1),
            ("cnn", [64, 0, 32, 32, 32], 3, 2, 1),
            ("cnn", [64, 0, 16, 32, 64], 3, 1, 1),
            ("cnn", [64, 0, 16, 64, 64], 3, 2, 1),
            ("depthwise", [32, 0, 16, 128, 128], 3, 1, 128),
            ("depthwise", [32, 0, 32, 96, 96], 5, 2, 96),
            ("volume", [4, 16, 16, 32, 64], 3, 1, 1),
            ("volume", [4, 16, 32, 32, 32], 3, 2, 1),
        ];
        for (name, size, k, stride, groups) in convs {
            if name.contains(&filter) {
                bench_conv(&pool, peak, name, size, k, stride, groups);
            }
        }
    }
}
