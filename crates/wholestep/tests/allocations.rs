//! The step path takes no memory from the host: a counting allocator, alone in its process, sees every thread.

use std::alloc::{GlobalAlloc, Layout, System};
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering::SeqCst};
use wholestep::optim::{Adam, AdamW, Optimizer, Sgd};
use wholestep::{Array, Batch, Clip, DType, Device, Init, Scope, Step, Tensor};

struct Counting;
static CALLS: AtomicU64 = AtomicU64::new(0);
static LIVE_BYTES: AtomicI64 = AtomicI64::new(0);

// SAFETY: hands every call on to the system's allocator unchanged.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        CALLS.fetch_add(1, SeqCst);
        LIVE_BYTES.fetch_add(layout.size() as i64, SeqCst);
        // SAFETY: the caller's contract.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, ptr: *mut u8, layout: Layout) {
        LIVE_BYTES.fetch_sub(layout.size() as i64, SeqCst);
        // SAFETY: the caller's contract.
        unsafe { System.dealloc(ptr, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// Matrix products, a convolution, batch normalization, dropout, pooling by reduction, a cross-entropy.
fn model(s: &Scope) -> Tensor {
    let x = s.input("x", (Batch, 2, 6, 6), DType::F32);
    let y = s.labels("y", (Batch,), DType::I32, 4, None);
    let x =
        x.conv2d(&s.param("conv", [8usize, 2, 3, 3], Init::Uniform { lo: -0.2, hi: 0.2 }), None, &Default::default());
    let now = x.batch_statistics();
    let running = s.buffer("running_mean", [8usize], Init::Const(0.0));
    s.update(&running, &(&running * 0.9 + &now.mean * 0.1));
    let x = x.batch_norm(&now.mean, &now.var, None, None, 1e-5).relu().flatten(1, -1).dropout(s, 0.2);
    let x = x.linear(&s.param("w1", [16usize, 128], Init::Uniform { lo: -0.1, hi: 0.1 }), None).relu();
    let b = s.param("b2", [4usize], Init::Const(0.0));
    x.linear(&s.param("w2", [4usize, 16], Init::Uniform { lo: -0.2, hi: 0.2 }), Some(&b)).cross_entropy(&y)
}

fn batch(n: usize) -> (Array, Array) {
    let x = (0..n * 72).map(|i| (i * 37 % 101) as f32 / 50.0 - 1.0).collect();
    let y = (0..n).map(|i| (i % 4) as i32).collect();
    (Array::new::<f32>(x, vec![n, 2, 6, 6]).unwrap(), Array::new::<i32>(y, vec![n]).unwrap())
}

fn check(device: &Device, name: &str, rule: impl Optimizer, clip: Option<Clip>) {
    let options = Step::options().max_batch(8);
    let options = if let Some(clip) = clip { options.clip(clip) } else { options };
    let mut step = options.compile(device, rule, model).unwrap();
    let (eight, five, many) = (batch(8), batch(5), batch(24));
    step.run(&[("x", &eight.0), ("y", &eight.1)]).unwrap();
    let (before, live) = (CALLS.load(SeqCst), LIVE_BYTES.load(SeqCst));
    for _ in 0..1000 {
        step.run(&[("x", &eight.0), ("y", &eight.1)]).unwrap();
    }
    assert_eq!(CALLS.load(SeqCst) - before, 0, "{name}: allocations in 1 000 steps");
    for _ in 0..100 {
        step.run(&[("x", &five.0), ("y", &five.1)]).unwrap();
        step.run(&[("x", &eight.0), ("y", &eight.1)]).unwrap();
    }
    assert_eq!(CALLS.load(SeqCst) - before, 0, "{name}: allocations in 200 steps of changing batch size");
    for _ in 0..334 {
        step.run_many(3, &[("x", &many.0), ("y", &many.1)]).unwrap();
    }
    assert_eq!(CALLS.load(SeqCst) - before, 0, "{name}: allocations in 334 submissions of 3 steps");
    assert_eq!(LIVE_BYTES.load(SeqCst), live, "{name}: live bytes");
    assert_eq!(step.counters().steps, 1 + 1000 + 200 + 1002);
    assert!(step.loss().unwrap().is_finite());
}

// One test, so that no other test's thread allocates meanwhile.
#[test]
fn steps_allocate_nothing_on_the_host() {
    // More threads than one: a job that is handed to another thread must not be boxed.
    let device = Device::cpu_with_threads(2);
    // A thread allocates when it starts, which may be a while after the first step.
    let mut warm = Step::options().max_batch(8).compile(&device, Sgd::new(0.01), model).unwrap();
    let (x, y) = batch(8);
    (0..2000).for_each(|_| warm.run(&[("x", &x), ("y", &y)]).unwrap());
    check(&device, "sgd", Sgd::new(0.01).momentum(0.9).nesterov().weight_decay(1e-4), None);
    check(&device, "adam", Adam::new(1e-3), None);
    check(&device, "adamw", AdamW::new(1e-3), None);
    check(&device, "adam clipped by norm", Adam::new(1e-3), Some(Clip::GlobalNorm(1.0)));
    check(&device, "sgd clipped by value", Sgd::new(0.01), Some(Clip::Value(0.1)));
}
