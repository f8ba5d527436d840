//! Values on their way between host and devices: every size to the bit, many threads at once, from one device to another. `cargo xtask soak`
//! asks for a gigabyte.

#[path = "support/devices.rs"]
mod devices;
#[path = "support/late.rs"]
mod late;

use devices::devices;
use late::late;
use std::sync::atomic::Ordering::SeqCst;
use std::sync::mpsc::channel;
use std::time::Duration;
use wholestep::data::loader::Loading;
use wholestep::data::random::Philox;
use wholestep::data::{Dataset, Loader, Sample};
use wholestep::nn::Linear;
use wholestep::optim::{Adam, Sgd};
use wholestep::{
    Array, Batch, Bool, DType, Device, ErrorKind, F16, F32, I64, Infer, Init, ParamGroup, Scope, Shape, Step, Tensor,
    U8, U32,
};
use wholestep_compiler::ir::SlotKind;

/// Bytes of the largest value that is sent.
const LARGEST: &str = "TEST_LARGEST";
const DEFAULT_LARGEST: usize = 64 << 20;
/// Devices move values in pieces of this or a power of two below.
const PIECE: usize = 16 << 20;

/// Words that differ from each other and from what any rounding would make of them.
fn words(n: usize, seed: u32) -> Vec<u32> {
    (0..n as u32).map(|i| (i ^ seed).wrapping_mul(2_654_435_761) ^ (i >> 3)).collect()
}

/// Bytes of a tensor that every device must be able to hold; more may be refused by name.
const ALL_HOLD: usize = 128 << 20;

/// A program that holds `n` values of `dtype` and does little else.
fn holder(device: &Device, n: usize, dtype: DType) -> Infer {
    try_holder(device, n, dtype).unwrap()
}

fn try_holder(device: &Device, n: usize, dtype: DType) -> wholestep::Result<Infer> {
    Infer::compile(device, 1, |s| {
        let held = s.slot("held", SlotKind::Buffer, dtype, Shape::from([n]), Init::Const(0.0));
        let after = s.slot("after", SlotKind::Buffer, U32, Shape::from([3usize]), Init::Const(7.0));
        held.slice(0, 0..1).cast(F32) + after.slice(0, 0..1).cast(F32)
    })
}

#[test]
fn every_size_comes_back_to_the_bit_and_touches_nothing_beside_it() {
    let largest = std::env::var(LARGEST).map_or(DEFAULT_LARGEST, |n| n.parse().unwrap()) / 4;
    let piece = PIECE / 4;
    for device in devices() {
        let check = |sent: Array, dtype: DType| {
            let n = sent.len();
            let mut program = match try_holder(&device, n, dtype) {
                Err(e) if e.kind() == ErrorKind::Device && 4 * n > ALL_HOLD => {
                    return println!("skipped: {n} of {dtype} do not fit into {device:?} ({e})");
                }
                made => made.unwrap(),
            };
            program.write("held", &sent).unwrap();
            assert!(program.read("held").unwrap() == sent, "{device:?}: {n} of {dtype}");
            assert_eq!(program.read("after").unwrap().slice::<u32>().unwrap(), [7, 7, 7], "{device:?}: {n} of {dtype}");
        };
        for n in [1usize, 2, 3, 5, 63, 64, 65, 1023, 4097, 65_535, 1_048_577] {
            let bytes = words(n.div_ceil(4), 3).iter().flat_map(|w| w.to_le_bytes()).take(n).collect();
            check(Array::from_vec::<u8>(bytes), U8);
        }
        for n in [1, piece - 1, piece, piece + 1, 2 * piece, 3 * piece + 5, largest - 1, largest] {
            check(Array::from_vec(words(n, 9)), U32);
        }
    }
}

/// Pieces of several large values that are on their way at once keep their order, and what is written last is what is read.
#[test]
fn values_that_are_written_one_after_the_other_do_not_mix() {
    let n = PIECE / 4 * 2 + 77;
    for device in devices() {
        let mut first = holder(&device, n, U32);
        let mut second = holder(&device, n, U32);
        let last: Vec<Array> = (0..5).map(|seed| Array::from_vec(words(n, seed))).collect();
        for (i, value) in last.iter().enumerate() {
            first.write("held", value).unwrap();
            second.write("held", &last[4 - i]).unwrap();
        }
        assert!(first.read("held").unwrap() == last[4] && second.read("held").unwrap() == last[0], "{device:?}");
    }
}

/// Runs `work` for each of 64 threads, and fails if they are not done in time.
fn by_64_threads(work: impl Fn(u64) + Send + Clone + 'static) {
    const IN_TIME: Duration = Duration::from_secs(600);
    let (done, end) = channel();
    let spawn = |thread| {
        let (work, done) = (work.clone(), done.clone());
        std::thread::spawn(move || {
            let ended = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| work(thread)));
            let _ = done.send((thread, ended.is_ok()));
        })
    };
    let threads: Vec<_> = (0..64).map(spawn).collect();
    for _ in 0..64 {
        let (thread, is_right) = end.recv_timeout(IN_TIME).expect("the threads are stuck");
        assert!(is_right, "thread {thread}");
    }
    // The last to give up its hold of a device closes it; a process that ended meanwhile took the driver away beneath it.
    threads.into_iter().for_each(|t| t.join().expect("it caught its panics"));
}

#[test]
fn sixty_four_threads_of_random_transfers_lose_and_mix_nothing() {
    for device in devices() {
        let times = if device.name() == "cpu" { 1000 } else { 20 };
        by_64_threads(move |thread| {
            let mut random = Philox::new(thread, 0);
            let sizes = [1, 1 + random.below(100) as usize, 1 + random.below(5000) as usize];
            let mut held: Vec<(Infer, u32)> = sizes.iter().map(|&n| (holder(&device, n, U32), 0)).collect();
            for (program, seed) in &mut held {
                let n = program.read("held").unwrap().len();
                program.write("held", &Array::from_vec(words(n, *seed))).unwrap();
            }
            for _ in 0..times {
                let at = random.below(3) as usize;
                let (program, seed) = &mut held[at];
                if random.below(2) == 0 {
                    *seed = random.below(1 << 30) as u32;
                    program.write("held", &Array::from_vec(words(sizes[at], *seed))).unwrap();
                } else {
                    assert!(program.read("held").unwrap() == Array::from_vec(words(sizes[at], *seed)));
                }
            }
        });
    }
}

/// Each thread has a loader with workers and a step whose sums say which rows came, in which order.
#[test]
fn sixty_four_threads_of_loaders_and_steps_lose_and_reorder_nothing() {
    for device in devices() {
        by_64_threads(move |thread| {
            let rows = 40 + thread as usize;
            let x = Array::new(words(rows * 3, thread as u32), [rows, 3]).unwrap();
            let data = Dataset::new([("x", x.clone())]).unwrap();
            let loading = Loading { batch_size: 8, seed: thread, workers: 2, ..Loading::default() };
            let same = |_: &mut wholestep::data::Sample, _: u64| Ok(());
            let mut staged = Loader::with_map(&data, loading.clone(), same).unwrap();
            let mut plain = Loader::new(&data, Loading { workers: 0, ..loading }).unwrap();
            // A checksum that depends on the order: c ← 31·c + the sum of the batch, in whole numbers.
            let mut program = Infer::compile(&device, 8, |s| {
                let sum = s.slot("sum", SlotKind::Buffer, U32, Shape::scalar(), Init::Const(0.0));
                let batch = s.input("x", (Batch, 3), U32).sum(..);
                let next = &sum * &s.constant(31.0, U32) + &batch;
                s.update(&sum, &next);
                next.cast(F32)
            })
            .unwrap();
            let mut want = 0u32;
            for _ in 0..3 {
                for batch in &mut staged {
                    program.run(&[("x", batch.unwrap().column("x").unwrap())]).unwrap();
                }
                for batch in &mut plain {
                    let batch = batch.unwrap();
                    let values = batch.column("x").unwrap().slice::<u32>().unwrap().to_vec();
                    want = want.wrapping_mul(31).wrapping_add(values.into_iter().fold(0, u32::wrapping_add));
                }
            }
            assert_eq!(program.read("sum").unwrap().slice::<u32>().unwrap(), [want]);
        });
    }
}

fn dense(s: &Scope) -> Tensor {
    Linear::new(&s.sub("fc"), 37, 29).forward(&s.input("x", (Batch, 37), F32))
}

/// The state of a step goes to a step of another device and back without the change of a bit, and the copy is deep: what one learns
/// afterwards the other does not know.
#[test]
fn a_step_is_copied_from_device_to_device_to_the_bit() {
    let all = devices();
    for (from, to) in all.iter().flat_map(|a| all.iter().map(move |b| (a, b))) {
        let compile = |device: &Device, seed: u64| {
            // A slot of 16 bits and an odd number of elements: its last word is half full.
            let loss = |s: &Scope| {
                let half = s.slot("half", SlotKind::State, F16, Shape::from([5usize]), Init::Const(1.0));
                s.update(&half, &(half.cast(F32) * 1.25).cast(F16));
                dense(s).square().mean(..)
            };
            Step::options().max_batch(4).seed(seed).compile(device, Adam::new(0.1), loss).unwrap()
        };
        let x = Array::new(words(4 * 37, 1).into_iter().map(|w| w as f32 / 4e9).collect(), [4, 37]).unwrap();
        let (mut a, mut b) = (compile(from, 1), compile(to, 2));
        for _ in 0..3 {
            a.run(&[("x", &x)]).unwrap();
        }
        let learned = a.snapshot().unwrap();
        b.restore(&learned).unwrap();
        assert!(b.snapshot().unwrap() == learned, "{from:?} to {to:?}");
        let mut program = Infer::compile(to, 4, dense).unwrap();
        let read = a.counters().bytes_read_back;
        program.copy_from(&mut a).unwrap();
        let read = a.counters().bytes_read_back - read;
        // Within one GPU nothing passes through the host, and what the host has is taken from where it lies.
        let stays = from.name() == to.name() || from.name() == "cpu";
        assert_eq!(read, if stays { 0 } else { 4 * (37 * 29 + 29) }, "{from:?} to {to:?}");
        a.run(&[("x", &x)]).unwrap();
        assert!(a.snapshot().unwrap() != learned && b.snapshot().unwrap() == learned, "{from:?} to {to:?}");
        assert_eq!(program.read("fc/weight").unwrap(), b.read("fc/weight").unwrap(), "{from:?} to {to:?}");
        // Another shape in the second of two parameters: nothing is copied, not the first either.
        let mut other = Infer::compile(to, 4, |s| {
            let x = s.input("x", (Batch, 37), F32);
            let fc = s.sub("fc");
            x.linear(
                &fc.param("weight", [29, 37], Init::Const(3.0)),
                Some(&fc.param("bias", [1usize], Init::Const(4.0))),
            )
        })
        .unwrap();
        let error = other.copy_from(&mut a).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Input);
        assert_eq!(error.to_string(), "fc/bias: expected [1] f32, the step has [29] f32");
        assert!(other.read("fc/weight").unwrap().slice::<f32>().unwrap().iter().all(|w| *w == 3.0));
    }
}

/// One of two networks that learn by turns: the other, `frozen`, has a loss of its own in another step.
fn one_of_two(device: &Device, frozen: &str) -> Step {
    let options = Step::options().groups([ParamGroup::new(frozen).frozen()]);
    let built = options.compile(device, Sgd::new(0.25), |s| {
        let x = s.input("x", (Batch, 3), F32);
        let [a, b] = ["first", "second"].map(|name| s.sub(name).param("w", [3usize], Init::Const(0.0)));
        let runs = s.sub("first").buffer("runs", (), Init::Const(0.0));
        s.update(&runs, &(&runs + 1.0));
        // (a - b·x)² for a, (b - 2a + x)² for b.
        let error = if frozen == "second/*" { &a - &(&b * &x) } else { &(&b - &(&a * 2.0)) + &x };
        error.square().sum(1).mean(..)
    });
    let mut step = built.unwrap();
    step.write("first/w", &Array::from_vec(vec![1.0_f32, -2.0, 0.5])).unwrap();
    step.write("second/w", &Array::from_vec(vec![0.25_f32, 1.0, -1.0])).unwrap();
    step
}

/// Each has the other's newest weights: the numbers are those of the formula. A copy changes what it names and nothing else.
#[test]
fn networks_that_learn_by_turns_have_each_others_newest_weights() {
    let x = [0.5_f32, 1.0, 2.0];
    let row = Array::new(x.to_vec(), [1, 3]).unwrap();
    for device in devices() {
        let (mut first, mut second) = (one_of_two(&device, "second/*"), one_of_two(&device, "first/*"));
        // Halves of numbers of few digits: exact in f32.
        let (mut a, mut b) = ([1.0_f32, -2.0, 0.5], [0.25_f32, 1.0, -1.0]);
        for n in 1..=4 {
            first.run(&[("x", &row)]).unwrap();
            (0..3).for_each(|i| a[i] -= 0.5 * (a[i] - b[i] * x[i]));
            let read = first.counters().bytes_read_back;
            second.copy_from(&mut first, "first/*").unwrap();
            assert_eq!(first.counters().bytes_read_back, read, "through the host on {device:?}");
            assert_eq!(second.read("first/runs").unwrap().item::<f32>().unwrap(), n as f32);
            second.run(&[("x", &row)]).unwrap();
            (0..3).for_each(|i| b[i] -= 0.5 * (b[i] - 2.0 * a[i] + x[i]));
            let before = first.snapshot().unwrap();
            first.copy_from(&mut second, "second/*").unwrap();
            let after = first.snapshot().unwrap();
            let is_same = |name: &str| {
                let [old, new] = [&before, &after].map(|s| s.bytes(s.find(name).unwrap()).to_vec());
                old == new
            };
            let changed: Vec<&str> = after.slots().iter().map(|s| s.name.as_str()).filter(|n| !is_same(n)).collect();
            assert_eq!(changed, ["second.w"], "{device:?}");
            for step in [&mut first, &mut second] {
                assert_eq!(step.read("first/w").unwrap().slice::<f32>().unwrap(), a, "after {n} turns on {device:?}");
                assert_eq!(step.read("second/w").unwrap().slice::<f32>().unwrap(), b, "after {n} turns on {device:?}");
            }
        }
        let before = first.snapshot().unwrap();
        let error = first.copy_from(&mut second, "third/*").unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Input);
        let want = "third/* matches nothing that this step learned; it has first/w, second/w, first/runs";
        assert!(error.to_string().starts_with(want), "{error}");
        let mut other = Step::compile(&device, Sgd::new(0.1), |s| {
            let first = s.sub("first").param("w", [3usize], Init::Const(7.0));
            let second = s.sub("second").param("w", [1usize], Init::Const(7.0));
            (first * second * s.input("x", (Batch, 3), F32)).sum(1).mean(..)
        })
        .unwrap();
        let error = first.copy_from(&mut other, "*/w").unwrap_err();
        assert_eq!(error.to_string(), "second/w: expected [3] f32, the step has [1] f32");
        assert!(first.snapshot().unwrap() == before, "nothing was copied");
    }
}

/// Waiting for each step and never waiting give the same bits, and a batch's memory is free again when the call returns.
#[test]
fn a_step_that_is_waited_for_and_one_that_is_not_give_the_same_bits() {
    for device in devices() {
        let compile = || {
            let loss = |s: &Scope| dense(s).square().mean(..);
            Step::options().max_batch(4).compile(&device, Adam::new(0.1), loss).unwrap()
        };
        let (mut waited, mut free) = (compile(), compile());
        let mut losses = Vec::new();
        for i in 0..40 {
            let values: Vec<f32> = words(4 * 37, i).into_iter().map(|w| w as f32 / 4e9).collect();
            let mut x = Array::new(values, [4, 37]).unwrap();
            waited.run(&[("x", &x)]).unwrap();
            losses.push(waited.loss().unwrap());
            free.run(&[("x", &x)]).unwrap();
            x.as_mut_slice::<f32>().unwrap().fill(f32::NAN);
        }
        assert!(losses.iter().all(|l| l.is_finite()), "{device:?}: {losses:?}");
        assert_eq!(free.loss().unwrap().to_bits(), losses[39].to_bits(), "{device:?}");
        assert!(free.snapshot().unwrap() == waited.snapshot().unwrap(), "{device:?}");
    }
}

/// More batches than there is memory on the way to a device that is behind: each waits for its turn, and none is written over before it was read.
#[test]
fn batches_wait_for_a_device_that_is_behind() {
    const SIDE: usize = 160;
    for device in devices() {
        let mut step = Step::options()
            .max_batch(8)
            .compile(&device, Sgd::new(0.0), |s| {
                // A checksum that depends on the order, and work that takes the device longer than handing a batch over.
                let sum = s.slot("sum", SlotKind::Buffer, U32, Shape::scalar(), Init::Const(0.0));
                let batch = s.input("x", (Batch, 3), U32).sum(..);
                s.update(&sum, &(&sum * &s.constant(31.0, U32) + &batch));
                let w = s.param("w", [SIDE, SIDE], Init::Const(1.0 / SIDE as f64));
                (0..4).fold(w.clone(), |h, _| h.matmul(&w)).mean(..)
            })
            .unwrap();
        let mut want = 0u32;
        for i in 0..16 {
            let values = words(24, i);
            want = want.wrapping_mul(31).wrapping_add(values.iter().copied().fold(0, u32::wrapping_add));
            let mut x = Array::new(values, [8, 3]).unwrap();
            step.run(&[("x", &x)]).unwrap();
            x.as_mut_slice::<u32>().unwrap().fill(7);
        }
        assert_eq!(step.read("sum").unwrap().slice::<u32>().unwrap(), [want], "{device:?}");
    }
}

/// A batch that is refused, before or while it is sent, takes no memory and leaves the next step as if it had not come.
#[test]
fn a_refused_batch_takes_nothing_and_changes_nothing() {
    for device in devices() {
        let compile = || {
            Step::options().max_batch(4).compile(&device, Adam::new(0.1), |s| {
                let n = s.input("n", (Batch, 2), I64).cast(F32);
                (n * s.param("w", [2usize], Init::Const(1.0))).square().mean(..)
            })
        };
        let of = |values: [i64; 8]| Array::new(values.to_vec(), [4, 2]).unwrap();
        let good = of([1, -2, 3, 4, -5, 6, 7, -8]);
        let (mut step, mut plain) = (compile().unwrap(), compile().unwrap());
        for _ in 0..2 {
            step.run(&[("n", &good)]).unwrap();
            step.loss().unwrap();
        }
        let held = step.counters();
        for _ in 0..50 {
            assert!(step.run(&[("n", &Array::new(vec![0f32; 8], [4, 2]).unwrap())]).is_err());
            assert!(step.run(&[("n", &Array::new(vec![0i64; 12], [4, 3]).unwrap())]).is_err());
            // A GPU finds this one only when it narrows the numbers.
            if device.name() == "wgpu" {
                assert!(step.run(&[("n", &of([1, 2, 3, 1 << 40, 5, 6, 7, 8]))]).is_err());
            }
        }
        step.run(&[("n", &good)]).unwrap();
        let now = step.counters();
        assert_eq!((now.allocations, now.allocated_bytes), (held.allocations, held.allocated_bytes), "{device:?}");
        assert_eq!((now.steps, now.submissions), (3, 3), "{device:?}");
        for _ in 0..3 {
            plain.run(&[("n", &good)]).unwrap();
        }
        assert!(step.snapshot().unwrap() == plain.snapshot().unwrap(), "{device:?}");
    }
}

/// A step on rows of 5, a whole number and a truth value each.
fn mixed(device: &Device) -> Step {
    Step::options()
        .max_batch(7)
        .compile(device, Adam::new(0.1), |s| {
            let x = s.input("x", (Batch, 5), F32);
            let (n, is_on) = (s.input("n", (Batch,), I64).cast(F32), s.input("is_on", (Batch,), Bool).cast(F32));
            let y = Linear::new(&s.sub("fc"), 5, 1).forward(&x).flatten(0, 1);
            ((y - n) * is_on).square().mean(..)
        })
        .unwrap()
}

fn mixed_rows(n: usize) -> Dataset {
    let x = Array::new((0..5 * n).map(|i| (i * 37 % 101) as f32 / 50.0 - 1.0).collect(), [n, 5]).unwrap();
    let whole = Array::from_vec((0..n as i64).map(|i| i % 5 - 2).collect());
    let is_on = Array::from_vec((0..n).map(|i| i % 3 != 0).collect());
    Dataset::new([("x", x), ("n", whole), ("is_on", is_on)]).unwrap()
}

/// Batches in pinned memory are the batches, however late the device copies them: their memory is used again, and not before it was copied.
#[test]
fn batches_in_pinned_memory_wait_for_late_copies_and_come_back() {
    let data = mixed_rows(61);
    let add_one = |sample: &mut Sample, _: u64| {
        sample.get_mut("x")?.as_mut_slice::<f32>().unwrap().iter_mut().for_each(|x| *x += 1.0);
        Ok(())
    };
    for workers in [None, Some(0), Some(3)] {
        let run = |device: &Device| {
            let loading = Loading { batch_size: 7, workers: workers.unwrap_or(0), seed: 4, ..Loading::default() };
            let loader = match workers {
                None => Loader::new(&data, loading),
                Some(_) => Loader::with_map(&data, loading, add_one),
            };
            let (mut loader, mut step) = (loader.unwrap().pin_memory(device), mixed(device));
            for _ in 0..4 {
                for batch in &mut loader {
                    step.run(&batch.unwrap().columns().collect::<Vec<_>>()).unwrap();
                }
            }
            step.snapshot().unwrap()
        };
        let (device, counts) = late();
        assert!(run(&device) == run(&Device::cpu_with_threads(2)), "{workers:?} workers");
        let (given, lent) = (counts.given.load(SeqCst), counts.lent.load(SeqCst));
        // Nine batches in each of four epochs, of three columns.
        assert_eq!(lent, 9 * 4 * 3);
        assert!(given <= 3 * (4 + 3), "{given} pieces of memory with {workers:?} workers");
    }
}

/// An array in pinned memory is the array: writing to it is not seen by a copy that is still to come, and costs a copy only then.
#[test]
fn a_write_to_a_pinned_array_is_not_seen_by_a_late_copy() {
    let (device, counts) = late();
    let plain = mixed_rows(7);
    let columns: Vec<(&str, Array)> = plain.columns().map(|(n, a)| (n, a.pin_memory(&device).unwrap())).collect();
    assert!(plain.columns().eq(columns.iter().map(|(n, a)| (*n, a))));
    let [(_, mut x), (_, n), (_, is_on)] = <[_; 3]>::try_from(columns).unwrap();
    let (mut late, mut cpu) = (mixed(&device), mixed(&Device::cpu_with_threads(2)));
    for _ in 0..5 {
        late.run(&[("x", &x), ("n", &n), ("is_on", &is_on)]).unwrap();
        cpu.run(&[("x", &x), ("n", &n), ("is_on", &is_on)]).unwrap();
        x.as_mut_slice::<f32>().unwrap().iter_mut().for_each(|x| *x *= 1.5);
    }
    assert!(late.snapshot().unwrap() == cpu.snapshot().unwrap());
    assert_eq!(
        (counts.given.load(SeqCst), counts.lent.load(SeqCst)),
        (3, 1 + 2 * 5),
        "the copy that was written to is not pinned"
    );
}

/// On every device: an array that was pinned, where the device has such memory, gives the bits of one that was not, alone or beside others, in single
/// steps and in several, and can be written to at once.
#[test]
fn pinned_batches_give_the_bits_of_others() {
    const ROWS: usize = 64;
    for device in devices() {
        let compile = || {
            Step::options().max_batch(ROWS).compile(&device, Adam::new(0.1), |s| {
                let (x, n) = (s.input("x", (Batch, 1024), F32), s.input("n", (Batch,), I64).cast(F32));
                let y = Linear::new(&s.sub("fc"), 1024, 1).forward(&x).flatten(0, 1);
                (y - n).square().mean(..)
            })
        };
        let (mut pinned, mut plain) = (compile().unwrap(), compile().unwrap());
        for (turn, steps) in [1, 1, 1, 3, 2, 1, 4].into_iter().enumerate() {
            let rows = ROWS * steps;
            let values: Vec<f32> = words(rows * 1024, turn as u32).into_iter().map(|w| w as f32 / 4e9).collect();
            let x = Array::new(values, [rows, 1024]).unwrap();
            let n = Array::from_vec((0..rows as i64).map(|i| i % 7).collect());
            plain.run_many(steps, &[("x", &x), ("n", &n)]).unwrap();
            let mut x = x.pin_memory(&device).unwrap();
            pinned.run_many(steps, &[("x", &x), ("n", &n)]).unwrap();
            x.as_mut_slice::<f32>().unwrap().fill(f32::NAN);
        }
        assert!(pinned.loss().unwrap().is_finite(), "{device:?}");
        assert!(pinned.snapshot().unwrap() == plain.snapshot().unwrap(), "{device:?}");
    }
}
