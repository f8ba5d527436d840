//! The step path takes no memory from the host, and a step takes what its plan says: a counting allocator, alone in its process, sees
//! every thread.

#[path = "support/optimizers.rs"]
mod optimizers;
#[path = "support/process.rs"]
mod process;

use optimizers::{OPTIMIZERS, of_kind};
use process::resident_bytes;
use std::alloc::{GlobalAlloc, Layout, System};
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering::SeqCst};
use wholestep::nn::Linear;
use wholestep::optim::{Adam, AdamW, Optimizer, Sgd};
use wholestep::schedule::{Plateau, Warmup};
use wholestep::{Array, Average, Batch, Clip, DType, Device, Infer, Init, ParamGroup, Scope, Step, Tensor};
use wholestep_cpu::loops::machine::{PARTIAL_WORDS, REGISTER_BYTES};

struct Counting;
static CALLS: AtomicU64 = AtomicU64::new(0);
static LIVE_BYTES: AtomicI64 = AtomicI64::new(0);
/// All that was ever given out.
static GIVEN_BYTES: AtomicU64 = AtomicU64::new(0);
/// Of these, what is aligned to a cache line or more: the device's memory and nothing else, which `check_plan` sees.
static DEVICE_BYTES: AtomicI64 = AtomicI64::new(0);

const ALIGN_BYTES: usize = 64;

fn count(layout: Layout, sign: i64) {
    let bytes = sign * layout.size() as i64;
    LIVE_BYTES.fetch_add(bytes, SeqCst);
    if layout.align() >= ALIGN_BYTES {
        DEVICE_BYTES.fetch_add(bytes, SeqCst);
    }
}

// SAFETY: hands every call on to the system's allocator unchanged.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        CALLS.fetch_add(1, SeqCst);
        GIVEN_BYTES.fetch_add(layout.size() as u64, SeqCst);
        count(layout, 1);
        // SAFETY: the caller's contract.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, ptr: *mut u8, layout: Layout) {
        count(layout, -1);
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
    let x = now.normalize(None, None, 1e-5).relu().flatten(1, -1).dropout(s, 0.2);
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

/// Threads allocate when they start; a device is there when they all have. More of them than any machine that runs this starts at once.
fn check_start() {
    let device = Device::cpu_with_threads(48);
    let before = CALLS.load(SeqCst);
    let begin = std::time::Instant::now();
    while begin.elapsed().as_millis() < 20 {
        std::thread::yield_now();
    }
    assert_eq!(CALLS.load(SeqCst) - before, 0, "allocations of threads that started after their device was there");
    drop(device);
}

/// Every optimizer with everything switched on: accumulation, clipping, groups, an average, a schedule with state.
fn check_every_optimizer(device: &Device) {
    for name in OPTIMIZERS {
        let rule = of_kind(name, 1e-3);
        let schedule = Warmup::new(10, Plateau::new());
        let options = Step::options().schedule(&schedule).clip(Clip::GlobalNorm(1.0)).accumulate(2).noise_scale();
        let options = options.groups([ParamGroup::new("*/bias").weight_decay(0.0).lr_scale(0.5)]);
        let averages_itself = rule.averaged().is_some();
        let options = if averages_itself { options } else { options.average(Average::Ema { decay: 0.9 }) };
        let mut step = options
            .compile(device, rule, |s| {
                let x = s.input("x", (Batch, 4), DType::F32);
                let h = Linear::new(&s.sub("a"), 4, 5).forward(&x).tanh();
                Linear::new(&s.sub("b"), 5, 5).forward(&h).square().mean(..)
            })
            .unwrap();
        let x = Array::new((0..32).map(|i| (i % 9) as f32 / 9.0).collect::<Vec<f32>>(), vec![8, 4]).unwrap();
        step.run(&[("x", &x)]).unwrap();
        let (before, counted) = (CALLS.load(SeqCst), step.counters());
        (0..1000).for_each(|_| step.run(&[("x", &x)]).unwrap());
        assert_eq!(CALLS.load(SeqCst) - before, 0, "{name}: allocations in 1 000 steps");
        let now = step.counters();
        assert_eq!((now.allocations, now.compiles), (counted.allocations, counted.compiles), "{name}");
        assert_eq!((now.bytes_read_back, now.submissions), (0, 1001), "{name}");
        assert!(step.loss().unwrap().is_finite());
    }
}

/// A step of many inputs: none of them needs a list on the heap.
fn check_many_inputs(device: &Device) {
    let names: Vec<String> = (0..40).map(|i| format!("x{i}")).collect();
    let mut step = Step::compile(device, Sgd::new(0.1), |s| {
        let terms = names.iter().map(|name| s.input(name, (Batch, 3), DType::F32));
        let sum = terms.reduce(|a, b| a + b).unwrap();
        (sum * s.param("w", [3usize], Init::Const(1.0))).mean(..)
    });
    let step = step.as_mut().unwrap();
    let x: Vec<Array> = (0..40).map(|i| Array::new(vec![i as f32; 12], vec![4, 3]).unwrap()).collect();
    let inputs: Vec<(&str, &Array)> = names.iter().map(String::as_str).zip(&x).collect();
    step.run(&inputs).unwrap();
    let before = CALLS.load(SeqCst);
    (0..100).for_each(|_| step.run(&inputs).unwrap());
    assert_eq!(CALLS.load(SeqCst) - before, 0, "40 inputs: allocations in 100 steps");
    // The gradient of each of the 3 weights is Σ i over 40 inputs, a third each: 780 / 3 = 260 a step.
    assert_eq!(step.read("w").unwrap().slice::<f32>().unwrap(), [1.0 - 101.0 * 26.0; 3]);
}

/// The planned peak is what is taken, and what is taken beside it does not depend on model or batch.
fn check_plan(device: &Device) {
    let beside = [4, 32, 100].map(|max_batch| {
        let before = DEVICE_BYTES.load(SeqCst);
        let mut step = Step::options().max_batch(max_batch).compile(device, Adam::new(1e-3), model).unwrap();
        let (x, y) = batch(max_batch);
        (0..3).for_each(|_| step.run(&[("x", &x), ("y", &y)]).unwrap());
        let held = (DEVICE_BYTES.load(SeqCst) - before) as usize;
        assert_eq!(held as u64, step.counters().allocated_bytes, "what the backend counts is what the host gave");
        let planned = step.memory_bytes();
        held - planned.persistent_bytes - planned.transient_bytes
    });
    assert_eq!(beside, [beside[0]; 3], "bytes beside the plan, by batch size");
    assert!(beside[0] <= 2 * REGISTER_BYTES + 8 * 8 * PARTIAL_WORDS, "{} bytes beside the plan", beside[0]);
}

/// A value is copied once on its way: reading takes memory for what it gives and no more, writing takes none, and neither does handing over a batch.
fn check_copies(device: &Device) {
    const N: usize = 1 << 20;
    const LITTLE: u64 = 16 << 10;
    let mut program = Infer::compile(device, N, |s| {
        let (x, p) = (s.input("x", (Batch,), DType::F32), s.param("p", [N], Init::Const(1.0)));
        s.output("sum", &p.sum(..));
        x * 2.0
    })
    .unwrap();
    let value = Array::from_vec((0..N).map(|i| i as f32).collect::<Vec<f32>>());
    let taken = |run: &mut dyn FnMut()| {
        let before = GIVEN_BYTES.load(SeqCst);
        run();
        GIVEN_BYTES.load(SeqCst) - before
    };
    let written = taken(&mut || program.write("p", &value).unwrap());
    assert!(written <= LITTLE, "writing took {written} bytes");
    let read = taken(&mut || assert!(program.read("p").unwrap() == value));
    assert!(read <= 4 * N as u64 + LITTLE, "reading {} bytes took {read}", 4 * N);
    let ran = taken(&mut || drop(program.run(&[("x", &value)]).unwrap()));
    assert!(ran <= 4 * N as u64 + LITTLE, "an output of {} bytes took {ran}", 4 * N);
}

/// Neither what is allocated nor what the system holds for this process grows.
fn check_flat(device: &Device) {
    let mut step = Step::options().max_batch(8).compile(device, Adam::new(1e-3), model).unwrap();
    let (x, y) = batch(8);
    (0..100).for_each(|_| step.run(&[("x", &x), ("y", &y)]).unwrap());
    let (live, resident) = (LIVE_BYTES.load(SeqCst), resident_bytes());
    (100..10_000).for_each(|_| step.run(&[("x", &x), ("y", &y)]).unwrap());
    // Read before anything else allocates.
    let live_after = LIVE_BYTES.load(SeqCst);
    assert_eq!(step.steps().unwrap(), 10_000);
    assert_eq!(live_after, live, "live bytes over 10 000 steps");
    if let (Some(before), Some(after)) = (resident, resident_bytes()) {
        // A page that was allocated before and is touched now counts; 10 000 leaks of even 8 bytes would be more.
        assert!(after <= before + 64 * 1024, "resident memory grew by {} bytes over 9 900 steps", after - before);
    }
}

/// The harness's own thread allocates when it has started the test's; where cores are busy it may come to that late.
fn wait_for_harness() {
    loop {
        let before = CALLS.load(SeqCst);
        std::thread::sleep(std::time::Duration::from_millis(100));
        if CALLS.load(SeqCst) == before {
            return;
        }
    }
}

// One test, so that no other test's thread allocates meanwhile.
#[test]
fn steps_allocate_nothing_on_the_host() {
    wait_for_harness();
    check_start();
    // More threads than one: a job that is handed to another thread must not be boxed.
    let device = Device::cpu_with_threads(2);
    check(&device, "sgd", Sgd::new(0.01).momentum(0.9).nesterov().weight_decay(1e-4), None);
    check(&device, "adam", Adam::new(1e-3), None);
    check(&device, "adamw", AdamW::new(1e-3), None);
    check(&device, "adam clipped by norm", Adam::new(1e-3), Some(Clip::GlobalNorm(1.0)));
    check(&device, "sgd clipped by value", Sgd::new(0.01), Some(Clip::Value(0.1)));
    check_every_optimizer(&device);
    check_many_inputs(&device);
    check_plan(&device);
    check_copies(&device);
    check_flat(&device);
}
