//! What a step costs beside its arithmetic: host time of a submission and of reading one value, for a tiny and a small MLP with momentum, and
//! what the driver takes for each of its parts. The binary needs only the graphics driver.

use std::time::{Duration, Instant};
use wholestep_compiler::autodiff::gradients;
use wholestep_compiler::backend::{Backend, Executable};
use wholestep_compiler::compile;
use wholestep_compiler::ir::scope::{Mode, slot_node};
use wholestep_compiler::ir::{Batch, DType, Init, Scope, SlotId, SlotKind, Tensor};
use wholestep_compiler::plan::Layout;
use wholestep_wgpu::WgpuBackend;

fn main() {
    let open = || WgpuBackend::new(0).map_err(|e| println!("skipped: {e}"));
    let Ok(shared) = open() else { return };
    println!("{}", shared.caps().name);
    parts();
    for (name, sizes, batch) in
        [("tiny 10-16-2", &[10, 16, 2][..], 8), ("mlp 784-512-256-10", &[784, 512, 256, 10], 64)]
    {
        step(&format!("{name}, batch {batch}"), &shared, sizes, batch);
        let Ok(apart) = open() else { return };
        step(&format!("{name}, batch {batch}, every launch apart"), &apart.apart(), sizes, batch);
    }
}

/// The median of some times, in microseconds.
fn median_us(mut times: Vec<Duration>) -> f64 {
    times.sort_unstable();
    times[times.len() / 2].as_secs_f64() * 1e6
}

fn timed(n: usize, mut f: impl FnMut()) -> f64 {
    (0..n / 10).for_each(|_| f());
    median_us(
        (0..n)
            .map(|_| {
                let started = Instant::now();
                f();
                started.elapsed()
            })
            .collect(),
    )
}

fn mlp(s: &Scope, sizes: &[usize]) {
    let mut h = s.input("x", (Batch, sizes[0]), DType::F32);
    let y = s.labels("y", (Batch,), DType::U32, sizes[sizes.len() - 1], None);
    for (i, pair) in sizes.windows(2).enumerate() {
        let s = s.sub(format!("fc{i}"));
        let init = Init::Uniform { lo: -0.1, hi: 0.1 };
        let (w, b) = (s.param("weight", [pair[1], pair[0]], init.clone()), s.param("bias", [pair[1]], init));
        h = h.linear(&w, Some(&b));
        h = if i + 2 < sizes.len() { h.relu() } else { h };
    }
    let loss = h.cross_entropy(&y);
    s.output("loss", &loss);
    let params: Vec<Tensor> = {
        let graph = s.graph().borrow();
        let node = |i: usize| slot_node(&graph, SlotId(i as u32)).expect("a slot has a node");
        (0..graph.slots.len()).map(|i| Tensor::from_node(s.graph().clone(), node(i))).collect()
    };
    for (i, (p, g)) in params.iter().zip(&gradients(&loss, &params)).enumerate() {
        let v = s.slot(&format!("v{i}"), SlotKind::State, DType::F32, p.shape(), Init::Const(0.0));
        let next = &v * 0.9 + g;
        s.update(&v, &next);
        s.update(p, &(p - &(next * 0.01)));
    }
}

fn step(name: &str, backend: &WgpuBackend, sizes: &[usize], batch: usize) {
    const MANY: usize = 8;
    let s = Scope::root(Mode::Train);
    mlp(&s, sizes);
    let graph = s.graph().borrow().clone();
    let plan = compile(&graph, &backend.caps(), &mut |_| {}).expect("the step compiles").plan;
    let layout = Layout::new(&plan, &backend.caps(), batch);
    let mut exe = backend.load(&plan, &layout).expect("the plan loads");
    let x: Vec<u8> =
        (0..MANY * batch * sizes[0]).flat_map(|i| ((i * 37 % 101) as f32 / 50.0 - 1.0).to_le_bytes()).collect();
    let y: Vec<u8> = (0..MANY * batch).flat_map(|i| ((i % 2) as u32).to_le_bytes()).collect();
    let one = [&x[..x.len() / MANY], &y[..y.len() / MANY]];
    let read = |exe: &mut Box<dyn Executable>| exe.read_output(0, &mut [0; 4]).expect("the loss is read");
    println!("{name}: {} launches, {} dispatches", plan.launches().len(), exe.counters().dispatches);
    let (mut ran, mut waited) = (Vec::new(), Vec::new());
    let both = timed(2000, || {
        let started = Instant::now();
        exe.run(batch, 1, &one).expect("a step runs");
        ran.push(started.elapsed());
        let started = Instant::now();
        read(&mut exe);
        waited.push(started.elapsed());
    });
    println!("  a step and its loss {both:.1} us: run {:.1}, read {:.1}", median_us(ran), median_us(waited));
    let many = timed(500, || {
        exe.run(batch, MANY, &[&x, &y]).expect("steps run");
        read(&mut exe);
    });
    println!("  {MANY} steps a submission and their last loss: {:.1} us a step", many / MANY as f64);
    let stream = timed(100, || {
        (0..64).for_each(|_| exe.run(batch, 1, &one).expect("a step runs"));
        read(&mut exe);
    });
    println!("  64 submissions and one loss: {:.1} us a step", stream / 64.0);
    let stream = timed(30, || {
        (0..32).for_each(|_| exe.run(batch, MANY, &[&x, &y]).expect("steps run"));
        read(&mut exe);
    });
    println!("  32 submissions of {MANY} steps and one loss: {:.2} us a step", stream / 32.0 / MANY as f64);
}

/// What the driver takes, without a plan.
fn parts() {
    let backends = wgpu::Backends::VULKAN | wgpu::Backends::METAL | wgpu::Backends::DX12;
    let descriptor = wgpu::InstanceDescriptor { backends, ..wgpu::InstanceDescriptor::new_without_display_handle() };
    let instance = wgpu::Instance::new(descriptor);
    let options =
        wgpu::RequestAdapterOptions { power_preference: wgpu::PowerPreference::HighPerformance, ..Default::default() };
    let Ok(adapter) = pollster::block_on(instance.request_adapter(&options)) else { return };
    let Ok((device, queue)) = pollster::block_on(adapter.request_device(&wgpu::DeviceDescriptor::default())) else {
        return;
    };
    let buffer = |size, usage| {
        device.create_buffer(&wgpu::BufferDescriptor { label: None, size, usage, mapped_at_creation: false })
    };
    let to = buffer(1 << 20, wgpu::BufferUsages::COPY_DST);
    let from = buffer(1 << 20, wgpu::BufferUsages::COPY_SRC);
    let encode = || {
        let mut encoder = device.create_command_encoder(&wgpu::CommandEncoderDescriptor::default());
        encoder.copy_buffer_to_buffer(&from, 0, &to, 0, 256);
        encoder.finish()
    };
    let wait = |index: wgpu::SubmissionIndex, timeout| {
        device.poll(wgpu::PollType::Wait { submission_index: Some(index), timeout })
    };
    let (mut submitted, mut encoded) = (Vec::new(), Vec::new());
    let asleep = timed(1000, || {
        let started = Instant::now();
        let commands = encode();
        encoded.push(started.elapsed());
        let started = Instant::now();
        let index = queue.submit([commands]);
        submitted.push(started.elapsed());
        wait(index, None).expect("the device works");
    });
    println!(
        "one copy, encode {:.1} us, submit {:.1}, all and wait asleep {asleep:.1}",
        median_us(encoded),
        median_us(submitted)
    );
    let awake = timed(1000, || {
        let index = queue.submit([encode()]);
        while wait(index.clone(), Some(Duration::ZERO)).is_err() {}
    });
    println!("one copy, all and wait awake {awake:.1} us");
    for bytes in [512, 200 << 10] {
        let data = vec![1; bytes];
        let write = timed(500, || {
            queue.write_buffer(&to, 0, &data);
            let index = queue.submit([]);
            while wait(index.clone(), Some(Duration::ZERO)).is_err() {}
        });
        println!("{bytes} bytes through the queue, submit and wait {write:.1} us");
    }
}
