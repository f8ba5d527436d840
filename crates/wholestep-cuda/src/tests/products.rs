//! Products and convolutions: who makes them, how that is chosen, and what follows them.

use super::*;
use crate::cache::Cache;
use crate::check::Check;
use crate::choose::Products;
use crate::driver::ProductCall;
use crate::product::Epilogue;
use crate::task::Task;
use std::time::Duration;
use wholestep_compiler::backend::Origin;
use wholestep_compiler::ir::{SlotId, Tensor};
use wholestep_compiler::kernel::Kernel;
use wholestep_compiler::ops::ConvOptions;
use wholestep_compiler::plan::{Buffer, BufferId, Launch, Space};

/// The products of a graph that was made.
fn products(calls: &[Call]) -> Vec<ProductCall> {
    let graphs = calls.iter().filter_map(|c| if let Call::Graph { nodes, .. } = c { Some(nodes) } else { None });
    let product = |n: &Node| if let Work::Product(call) = &n.work { Some(ProductCall::clone(call)) } else { None };
    graphs.flatten().filter_map(product).collect()
}

#[test]
fn a_product_by_the_library_is_followed_by_a_kernel_with_the_rest_of_its_work() {
    let by = |products| Settings { apart: true, products, ..Settings::default() };
    let mut own = load_with(4, &by(Products::Own), Some(vec![1]));
    own.calls();
    own.run(4, 1).unwrap();
    assert_eq!(products(&own.calls()), []);
    let mut loaded = load_with(4, &by(Products::Library), Some(vec![1]));
    loaded.calls();
    loaded.run(3, 1).unwrap();
    let calls = loaded.calls();
    let [call] = &products(&calls)[..] else { panic!("{calls:?}") };
    let Task::Product(p) = &call.task else { panic!("{call:?}") };
    assert_eq!((p.batch, p.m, p.n, p.k, p.tf32), (1, 3, 3, 6, false));
    let Some(Call::Graph { nodes, .. }) = calls.iter().find(|c| matches!(c, Call::Graph { .. })) else { panic!() };
    assert_eq!(nodes.len(), own.plan.launches().len() + 1, "the product and its epilogue");
    assert!(args(&nodes[1]).contains(&Param::Address(call.result)), "the epilogue reads the sums");
    let Some(Call::Send { to, .. }) = calls.iter().find(|c| matches!(c, Call::Send { .. })) else { panic!() };
    assert_eq!(call.lhs, *to, "the input is an operand");
    assert!(
        call.workspace >= call.result + call.task.result_bytes()
            || call.workspace + call.workspace_bytes <= call.result
    );
}

#[test]
fn the_fastest_is_chosen_once_and_kept() {
    let folder = tempfile::tempdir().unwrap();
    let cache = Some(Cache::new(folder.path().to_path_buf()));
    let timed = Products::Timed(Duration::from_secs(60));
    let settings = Settings { apart: true, products: timed, cache, ..Settings::default() };
    // A kernel of ours takes 10: the second way of the library, and its epilogue, take 13; that is slower than one kernel with both.
    let slow = load_with(4, &settings, Some(vec![5, 3, 8]));
    assert_eq!((slow.exe.choices().made[0].choice.as_str(), slow.exe.counters().timings), ("own kernel", 1));
    // What was found out stays, even if it would come out otherwise now.
    let again = load_with(4, &settings, Some(vec![0, 0, 0]));
    let made = &again.exe.choices().made[0];
    assert_eq!((made.choice.as_str(), made.origin, again.exe.counters().timings), ("own kernel", Origin::Cached, 0));
    // For another largest batch it is another contraction.
    let other = load_with(64, &Settings { cache: None, ..settings.clone() }, Some(vec![5, 0, 8]));
    assert_eq!(other.exe.choices().made[0].choice, "own kernel", "0 and the epilogue's 10 are not faster than 10");
}

/// The plan of one product of 512 x 512 x 512, large enough that the table takes the library.
fn load_large(settings: &Settings, library: Vec<u64>, sums: &[(u64, (f32, u64))]) -> Loaded {
    load_square(512, 10, settings, library, sums)
}

fn load_square(n: usize, kernel_us: u64, settings: &Settings, library: Vec<u64>, sums: &[(u64, (f32, u64))]) -> Loaded {
    let s = Scope::root(Mode::Infer);
    let x = s.input("x", (Batch, n), DType::F32);
    s.output("y", &x.matmul(&s.param("w", [n, n], Init::Const(0.0))));
    let (recorder, caps) = (Recorder::default(), h100());
    let plan = wholestep_compiler::compile(&s.graph().borrow(), &caps, &mut |_| {}).unwrap().plan;
    let log = recorder.log.clone();
    {
        let mut log = log.lock().unwrap();
        (log.library, log.sums, log.kernel_us) = (Some(library), sums.iter().copied().collect(), Some(kernel_us));
    }
    let layout = Layout::new(&plan, &caps, n);
    let exe = CudaExecutable::new(Box::new(recorder), caps, &plan, &layout, settings, &BTreeMap::new()).unwrap();
    Loaded { exe, log, plan }
}

fn made(loaded: &Loaded) -> (String, Origin, u64) {
    let made = loaded.exe.choices().made[0].clone();
    (made.choice, made.origin, loaded.exe.counters().timings)
}

fn way(i: u64) -> String {
    format!("library 1: {i}.0.0.0.0.0.0.7")
}

#[test]
fn a_way_of_the_library_whose_numbers_are_wrong_is_not_used_and_told() {
    let timed = Products::Timed(Duration::from_secs(60));
    let settings = Settings { apart: true, products: timed, ..Settings::default() };
    let right = load_large(&settings, vec![5, 3, 8], &[]);
    assert_eq!(made(&right), (way(1), Origin::Timed, 1));
    // The fastest is off by more than roundings are, or gives what is no number; a little off is another order of adding.
    for wrong in [1e-3, f32::NAN, f32::INFINITY] {
        let loaded = load_large(&settings, vec![5, 3, 8], &[(0, (1e-6, 0)), (1, (wrong, 0))]);
        assert_eq!(made(&loaded), (way(0), Origin::Timed, 1), "{wrong}");
        let notes = loaded.exe.choices().notes.join("; ");
        let told = format!("{} is not used for {}: it is off by", way(1), loaded.exe.choices().made[0].name);
        assert!(notes.contains(&told) && notes.contains("please report this"), "{notes}");
    }
    let all = [(0, (1.0, 0)), (1, (1.0, 0)), (2, (1.0, 0))];
    assert_eq!(made(&load_large(&settings, vec![5, 3, 8], &all)).0, "own kernel");
}

#[test]
fn what_there_was_no_time_for_is_timed_later_among_ways_of_the_same_bits() {
    let folder = tempfile::tempdir().unwrap();
    let cache = Some(Cache::new(folder.path().to_path_buf()));
    let with = |budget| Settings {
        apart: true,
        products: Products::Timed(budget),
        cache: cache.clone(),
        ..Settings::default()
    };
    let (none, some) = (with(Duration::ZERO), with(Duration::from_secs(60)));
    // The library's own first choice has bits 4; the fastest way has others.
    let sums = [(0, (0.0, 4)), (1, (0.0, 5)), (2, (0.0, 4)), (3, (0.0, 4))];
    let times = vec![9, 1, 3, 6];
    assert_eq!(made(&load_large(&none, times.clone(), &sums)), ("library 1".to_string(), Origin::Table, 0));
    assert_eq!(made(&load_large(&none, times.clone(), &sums)), ("library 1".to_string(), Origin::Cached, 0));
    assert_eq!(made(&load_large(&some, times.clone(), &sums)), (way(2), Origin::Timed, 1));
    // From then on it stays.
    assert_eq!(made(&load_large(&some, vec![9, 1, 9, 1], &sums)), (way(2), Origin::Cached, 0));
    // Without a cache it is the fastest of all.
    assert_eq!(made(&load_large(&Settings { cache: None, ..some.clone() }, times.clone(), &sums)).0, way(1));
    // A kernel of ours that the table took stays: nothing of the library adds in its order.
    load_with(4, &none, Some(vec![1, 1]));
    let small = load_with(4, &some, Some(vec![0, 0]));
    assert_eq!(made(&small), ("own kernel".to_string(), Origin::Timed, 1));
}

#[test]
fn for_a_large_product_a_kernel_of_ours_is_timed_only_if_it_may_be_faster_than_the_library() {
    let timed = Products::Timed(Duration::from_secs(60));
    let settings = Settings { apart: true, products: timed, ..Settings::default() };
    // A call of the library costs 4 more than it takes. What takes it 40 a kernel of ours does not make in 35 at the rate of the library.
    for (times, kernel_us, choice, is_timed) in [
        (vec![40, 45, 60], 1, way(0), false),
        (vec![15, 12, 20], 1, "own kernel".to_string(), true),
        (vec![15, 12, 20], 20, way(1), true),
    ] {
        let loaded = load_square(1024, kernel_us, &settings, times, &[]);
        assert_eq!(made(&loaded), (choice, Origin::Timed, 1));
        let calls = loaded.calls();
        let timed = calls.iter().filter_map(|c| if let Call::ClockGraph { nodes } = c { Some(nodes) } else { None });
        let n_kernels = timed.flatten().filter(|n| matches!(n.work, Work::Kernel(_))).count();
        assert_eq!(n_kernels > 0, is_timed, "{calls:?}");
        // Before anything is timed the compiler has begun with what checks and with the step.
        let prepared = loaded.log.lock().unwrap().prepared.clone();
        assert!(prepared.starts_with(&Check::texts()) && prepared.len() > 3);
    }
    // Wrong numbers of the fastest way are seen here too, and there may be none that is right.
    assert_eq!(made(&load_square(1024, 10, &settings, vec![40, 45], &[(0, (1.0, 0))])), (way(1), Origin::Timed, 1));
    let wrong = [(0, (1.0, 0)), (1, (1.0, 0))];
    assert_eq!(made(&load_square(1024, 10, &settings, vec![40, 45], &wrong)).0, "own kernel");
    // Of what an earlier process had no time for, the way that gives the same bits.
    let folder = tempfile::tempdir().unwrap();
    let cache = Some(Cache::new(folder.path().to_path_buf()));
    let none = Settings { cache: cache.clone(), products: Products::Timed(Duration::ZERO), ..settings.clone() };
    let (sums, times) = ([(0, (0.0, 4)), (1, (0.0, 5)), (2, (0.0, 4))], vec![9, 1, 3]);
    assert_eq!(made(&load_square(1024, 10, &none, times.clone(), &sums)), ("library 1".to_string(), Origin::Table, 0));
    assert_eq!(made(&load_square(1024, 10, &Settings { cache, ..settings }, times, &sums)), (way(2), Origin::Timed, 1));
}

/// Without a clock nothing is timed, and the table decides.
#[test]
fn a_device_without_a_clock_is_no_error() {
    let timed = Products::Timed(Duration::from_secs(60));
    let settings = Settings { apart: true, products: timed, ..Settings::default() };
    let recorder = Recorder::default();
    recorder.log.lock().unwrap().library = Some(vec![1]);
    recorder.log.lock().unwrap().fails = Some(("clock", DeviceError::Unsupported("clocks".to_string())));
    let (caps, plan) = (h100(), plan(&h100()));
    let layout = Layout::new(&plan, &caps, 4);
    let exe = CudaExecutable::new(Box::new(recorder), caps, &plan, &layout, &settings, &BTreeMap::new()).unwrap();
    assert_eq!((exe.choices().made[0].origin, exe.counters().timings), (Origin::Table, 0));
    assert!(exe.choices().notes.join("; ").contains("could not be timed"), "{:?}", exe.choices().notes);
}

#[test]
fn operands_are_numbers_while_ways_are_timed_and_zero_afterwards() {
    let timed = Products::Timed(Duration::from_secs(60));
    let settings = Settings { apart: true, products: timed, ..Settings::default() };
    let calls = load_large(&settings, vec![5, 3], &[]).calls();
    let position = |of: &dyn Fn(&Call) -> bool| calls.iter().position(of).unwrap();
    // Both operands are filled before anything is timed, and the way that was found is compared after.
    let first = position(&|c| matches!(c, Call::Clock { .. }));
    let of = |c: &Call| if let Call::Run { node } = c { Some(node.name.to_string()) } else { None };
    let before: Vec<String> = calls[..first].iter().filter_map(of).collect();
    assert_eq!(before, ["filling an operand", "filling an operand"]);
    let after: Vec<String> = calls[first..].iter().filter_map(of).collect();
    assert_eq!(after, ["a product that is compared", "comparing a product"]);
    // Afterwards operands and result are cleared, one after the other.
    let bytes = 512 * 512 * 4;
    let cleared = |c: &&[Call]| c.iter().all(|c| matches!(c, Call::Clear { bytes: n, .. } if *n == bytes));
    assert!(calls.windows(3).any(|three| cleared(&three)), "{calls:?}");
}

#[test]
fn choices_of_an_earlier_run_come_first_and_slots_are_zero_after_timing() {
    let timed = Products::Timed(Duration::from_secs(60));
    let settings = Settings { apart: true, products: timed, ..Settings::default() };
    let first = load_with(4, &settings, Some(vec![5, 3, 8]));
    let calls = first.calls();
    let last_clock = calls.iter().rposition(|c| matches!(c, Call::Clock { .. })).unwrap();
    assert!(calls[last_clock..].iter().any(|c| matches!(c, Call::Clear { .. })), "{calls:?}");
    let name = first.exe.choices().made[0].name.clone();
    // As a run of this library, of another, and of any where there is none.
    let resumed = |made: &str, library: Option<Vec<u64>>| {
        let recorded = BTreeMap::from([(name.clone(), made.to_string())]);
        let (recorder, caps, plan) = (Recorder::default(), h100(), plan(&h100()));
        let log = recorder.log.clone();
        log.lock().unwrap().library = library;
        let layout = Layout::new(&plan, &caps, 4);
        let exe = CudaExecutable::new(Box::new(recorder), caps, &plan, &layout, &settings, &recorded).unwrap();
        Loaded { exe, log, plan }
    };
    for (made, library, n_unlike) in
        [("library 0: 2", Some(vec![5]), 1), ("library 0: 2", None, 1), ("own kernel", None, 0)]
    {
        let unlike = resumed(made, library).exe.choices().unlike;
        assert_eq!(unlike.iter().filter(|text| text.contains(made)).count(), n_unlike, "{unlike:?}");
    }
    let mut loaded = resumed("library 1: 2.0.0.0.0.0.0.7", Some(vec![5, 3, 8]));
    let choices = loaded.exe.choices();
    assert_eq!((choices.made[0].origin, loaded.exe.counters().timings), (Origin::Recorded, 0));
    assert!(choices.unlike.is_empty(), "{choices:?}");
    loaded.run(4, 1).unwrap();
    let algorithms: Vec<Option<u64>> = products(&loaded.calls()).iter().map(|c| Some(c.algorithm?.data[0])).collect();
    assert_eq!(algorithms, [Some(2)]);
    loaded.run(3, 1).unwrap();
    assert_eq!(products(&loaded.calls())[0].algorithm, None, "it was chosen for the largest batch");
}

/// Precision `tf32` changes nothing but how the library multiplies.
#[test]
fn a_plan_that_allows_it_multiplies_in_tf32() {
    let by_library = Settings { apart: true, products: Products::Library, ..Settings::default() };
    for tf32 in [false, true] {
        let s = Scope::root(Mode::Infer);
        let x = s.input("x", (Batch, 64), DType::F32);
        s.output("y", &x.matmul(&s.param("w", [64, 64], Init::Const(0.0))));
        let mut graph = s.graph().borrow().clone();
        graph.tf32 = tf32;
        let (recorder, caps) = (Recorder::default(), h100());
        let plan = wholestep_compiler::compile(&graph, &caps, &mut |_| {}).unwrap().plan;
        assert_eq!(plan.tf32, tf32);
        let log = recorder.log.clone();
        log.lock().unwrap().library = Some(vec![1]);
        let layout = Layout::new(&plan, &caps, 64);
        let settings = by_library.of(&plan);
        let mut exe =
            CudaExecutable::new(Box::new(recorder), caps, &plan, &layout, &settings, &BTreeMap::new()).unwrap();
        exe.run(64, 1, &[&[0; 64 * 64 * 4]]).unwrap();
        let calls = std::mem::take(&mut log.lock().unwrap().calls);
        assert_eq!(products(&calls).iter().map(|c| c.task.tf32()).collect::<Vec<_>>(), [tf32]);
        assert_eq!(exe.choices().made[0].name.ends_with(", tf32"), tf32);
    }
}

/// A convolution of images of one row, whose ReLU follows its sums.
fn load_convolution(settings: &Settings, library: Option<Vec<u64>>) -> Loaded {
    let s = Scope::root(Mode::Infer);
    let x = s.input("x", (Batch, 2, 1, 3), DType::F32);
    let w = s.sub("conv").param("w", [5, 2, 1, 2], Init::Const(0.0));
    s.output("y", &x.conv2d(&w, None, &ConvOptions::default()).relu().sum([1, 2, 3]));
    let plan = wholestep_compiler::compile(&s.graph().borrow(), &h100(), &mut |_| {}).unwrap().plan;
    load_plan(plan, 4, settings, library)
}

#[test]
fn a_convolution_by_the_library_stands_between_kernels_of_ours() {
    let with = |products, cudnn| Settings { apart: true, products, cudnn, ..Settings::default() };
    // Nobody has asked for it.
    assert!(load_convolution(&with(Products::Library, false), Some(vec![0])).exe.choices().made.is_empty());
    let by = |products| with(products, true);
    let timed = by(Products::Timed(Duration::from_secs(60)));
    // Ours takes 10. The library's takes nothing, but what turns its weights 10: that is no faster.
    let own = load_convolution(&timed, Some(vec![0, 1]));
    assert_eq!(own.exe.choices().made[0].choice, "own kernel");
    assert_eq!(load_convolution(&by(Products::Table), Some(vec![0])).exe.choices().made[0].choice, "own kernel");
    let mut loaded = load_convolution(&by(Products::Library), Some(vec![0, 1]));
    loaded.calls();
    loaded.run(3, 1).unwrap();
    let calls = loaded.calls();
    let [call] = &products(&calls)[..] else { panic!("{calls:?}") };
    let Task::Convolution(c) = &call.task else { panic!("{call:?}") };
    assert_eq!((c.n, c.c_in, c.c_out, c.axes[1].out), (3, 2, 5, 2));
    let Some(Call::Graph { nodes, .. }) = calls.iter().find(|c| matches!(c, Call::Graph { .. })) else { panic!() };
    let at = nodes.iter().position(|n| matches!(n.work, Work::Product(_))).unwrap();
    assert!(args(&nodes[at - 1]).contains(&Param::Address(call.rhs)), "the kernel before writes what is read");
    assert!(args(&nodes[at + 1]).contains(&Param::Address(call.result)), "the kernel behind reads the result");
    let ranges =
        [(call.rhs, c.turned_bytes()), (call.result, call.task.result_bytes()), (call.workspace, call.workspace_bytes)];
    for (i, (a, bytes)) in ranges.iter().enumerate() {
        assert!(ranges[i + 1..].iter().all(|(b, other)| a + bytes <= *b || b + other <= *a), "{ranges:?}");
    }
}

/// `gelu(x·w + b)` of 4 rows of 512 for each of a batch: a product and a loop.
fn load_layer(library: Vec<u64>) -> Loaded {
    let s = Scope::root(Mode::Infer);
    let x = s.input("x", (Batch, 4, 512), DType::F32);
    let (w, b) = (s.param("w", [512, 512], Init::Const(0.0)), s.param("b", [512], Init::Const(0.0)));
    s.output("y", &x.linear(&w, Some(&b)).gelu_tanh());
    let plan = wholestep_compiler::compile(&s.graph().borrow(), &h100(), &mut |_| {}).unwrap().plan;
    let timed = Products::Timed(Duration::from_secs(60));
    load_plan(plan, 64, &Settings { apart: true, products: timed, ..Settings::default() }, Some(library))
}

#[test]
fn a_library_adds_the_bias_and_applies_the_activation_where_that_is_faster() {
    let mut loaded = load_layer(vec![5, 3, 8]);
    assert_eq!(loaded.exe.choices().made[0].choice, "library 1 with what follows: 1.0.0.0.0.0.0.7");
    let x = vec![0; 3 * 4 * 512 * 4];
    loaded.calls();
    loaded.exe.run(3, 1, &[&x]).unwrap();
    let calls = loaded.calls();
    let [call] = &products(&calls)[..] else { panic!("{calls:?}") };
    let Task::Product(p) = &call.task else { panic!("{call:?}") };
    assert_eq!((p.m, p.epilogue, call.algorithm), (12, Epilogue::BiasGelu, None), "chosen for 64");
    assert_eq!(call.result, loaded.exe.address_of(loaded.plan.outputs[0].buffer));
    let bias = loaded.plan.slots.iter().position(|slot| slot.name == "b").unwrap();
    let of_slot = |b: &Buffer| b.space == Space::Slot(SlotId(bias as u32));
    let buffer = loaded.plan.buffers.iter().position(of_slot).unwrap();
    assert_eq!(call.bias, Some(loaded.exe.address_of(BufferId(buffer as u32))));
    let Some(Call::Graph { nodes, .. }) = calls.iter().find(|c| matches!(c, Call::Graph { .. })) else { panic!() };
    assert_eq!((nodes.len(), loaded.plan.launches().len()), (1, 2));
}

/// Scores of two heads of 64 that lie between the rows of a batch, kept beside what they are made of.
fn load_heads(max_batch: usize) -> Loaded {
    let s = Scope::root(Mode::Infer);
    let x = s.input("x", (Batch, 16, 256), DType::F32).exp().reshape((Batch, 16, 2, 2, 64)).permute([2, 0, 3, 1, 4]);
    let [q, k] = [0, 1].map(|i| x.index(0, i));
    s.output("y", &q.matmul(&k.transpose(-2, -1)));
    let plan = wholestep_compiler::compile(&s.graph().borrow(), &h100(), &mut |_| {}).unwrap().plan;
    let by = Settings { apart: true, products: Products::Library, ..Settings::default() };
    load_plan(plan, max_batch, &by, Some(vec![1]))
}

#[test]
fn the_addresses_of_heads_lie_where_their_product_reads_them() {
    let mut loaded = load_heads(8);
    for batch in [8, 3] {
        loaded.calls();
        loaded.exe.run(batch, 1, &[&vec![0; batch * 16 * 256 * 4]]).unwrap();
        let calls = loaded.calls();
        let [call] = &products(&calls)[..] else { panic!("{calls:?}") };
        let Task::Product(p) = &call.task else { panic!("{call:?}") };
        assert!(p.listed && p.outer * p.batch == 2 * batch as u64, "{p:?}");
        let (at, wanted) = call.lists().unwrap();
        assert_eq!(loaded.log.lock().unwrap().at(at, wanted.len()), wanted);
        let address = |bytes: &[u8]| u64::from_ne_bytes(bytes.try_into().unwrap());
        let mut firsts: Vec<u64> = wanted.chunks(8).take(2 * batch).map(|at| address(at) - call.lhs).collect();
        firsts.sort_unstable();
        let heads = (0..batch as u64).flat_map(|b| [0, 64].map(|h| 4 * (b * 16 * 256 + h)));
        assert_eq!(firsts, heads.collect::<Vec<u64>>());
    }
}

/// A wide value, and layers of 512 of which the first is read again at the end.
fn deep(caps: &Caps) -> Plan {
    let s = Scope::root(Mode::Infer);
    let layer = |x: &Tensor, i: usize, n: usize| x.matmul(&s.param(&format!("w{i}"), [n, 512], Init::Const(0.0))).exp();
    let first = layer(&s.input("x", (Batch, 4096), DType::F32).exp(), 0, 4096);
    let x = (1..4).fold(first.clone(), |x, i| layer(&x, i, 512));
    s.output("y", &(x + first));
    wholestep_compiler::compile(&s.graph().borrow(), caps, &mut |_| {}).unwrap().plan
}

/// A library works in the memory of values that are not alive meanwhile, unless all values together are few.
#[test]
fn a_library_works_where_no_value_is_alive() {
    let by = Settings { apart: true, products: Products::Library, ..Settings::default() };
    for (rows, shares) in [(16, false), (16_384, true)] {
        let plan = deep(&h100());
        let layout = Layout::new(&plan, &h100(), rows);
        assert_eq!(layout.transient_bytes < layout.unshared_bytes, shares);
        let mut loaded = load_plan(plan, rows, &by, Some(vec![1]));
        loaded.calls();
        loaded.exe.run(rows, 1, &[&vec![0; rows * 4096 * 4]]).unwrap();
        let calls = products(&loaded.calls());
        let is_product = |l: &&Launch| matches!(loaded.plan.kernels[l.kernel as usize], Kernel::Contract(_));
        let launches = loaded.plan.launches();
        let at: Vec<u32> = (0..).zip(&launches).filter(|(_, l)| is_product(l)).map(|(i, _)| i).collect();
        assert_eq!((calls.len(), at.len()), (4, 4));
        let ranges =
            loaded.plan.buffers.iter().enumerate().filter(|(_, b)| b.space == Space::Transient).map(|(i, b)| {
                let start = loaded.exe.address_of(BufferId(i as u32));
                (start..start + layout.sizes[i] as u64, b.first..=b.last)
            });
        let ranges: Vec<_> = ranges.collect();
        let last = ranges.iter().map(|(range, _)| range.end).max().unwrap();
        for (i, (call, launch)) in calls.iter().zip(at).enumerate() {
            // A result that a kernel of ours goes on with lies before the rest.
            let is_value = ranges.iter().any(|(range, _)| range.start == call.result);
            let start = if is_value { call.workspace } else { call.result };
            let work = start..call.workspace + call.workspace_bytes;
            for (range, _) in ranges.iter().filter(|(_, alive)| alive.contains(&launch)) {
                assert!(work.end <= range.start || range.end <= work.start, "{rows} rows: {work:?} is among {range:?}");
            }
            // Beside the wide value there is no room.
            assert_eq!(work.end <= last, shares && i > 0, "{rows} rows: {work:?} and values up to {last}");
        }
    }
}

/// Per-head products `[groups, B, 8] x [groups, 8, 8]` whose groups and parts lie at two distances, so that there are as many calls as the smaller of both.
fn load_groups(groups: usize, most: usize) -> Loaded {
    let s = Scope::root(Mode::Infer);
    let x = s.input("x", (Batch, 4, groups, 8), DType::F32).permute([0, 2, 1, 3]);
    let w = s.input("w", (Batch, 8, groups, 8), DType::F32).permute([0, 2, 1, 3]);
    s.output("y", &x.matmul(&w));
    let plan = wholestep_compiler::compile(&s.graph().borrow(), &h100(), &mut |_| {}).unwrap().plan;
    load_plan(plan, most, &Settings { apart: true, products: Products::Library, ..Settings::default() }, Some(vec![1]))
}

#[test]
fn what_a_library_cannot_make_of_larger_batches_is_made_by_a_kernel_of_ours() {
    let n_products = |loaded: &mut Loaded, batch: usize| {
        let x = vec![0; batch * 4 * 96 * 8 * 4];
        let w = vec![0; batch * 8 * 96 * 8 * 4];
        loaded.calls();
        loaded.exe.run(batch, 1, &[&x, &w]).unwrap();
        products(&loaded.calls()).len()
    };
    let mut loaded = load_groups(96, 32);
    assert_eq!([1, 2, 32].map(|batch| n_products(&mut loaded, batch)), [1; 3]);
    let layout = Layout::new(&loaded.plan, &h100(), 128);
    loaded.exe.grow(&layout).unwrap();
    assert_eq!([1, 32, 128].map(|batch| n_products(&mut loaded, batch)), [0; 3]);
}

#[test]
fn a_library_without_a_way_is_not_taken_by_the_table() {
    let by = |products| Settings { apart: true, products, ..Settings::default() };
    assert_eq!(made(&load_large(&by(Products::Table), vec![1], &[])).0, "library 1");
    assert_eq!(made(&load_large(&by(Products::Table), vec![], &[])).0, "own kernel");
    assert_eq!(made(&load_large(&by(Products::Timed(Duration::ZERO)), vec![], &[])).0, "own kernel");
    // Time for one look at the library, which finds that all it has is wrong, and none for more.
    let look = by(Products::Timed(Duration::from_nanos(1)));
    assert_eq!(made(&load_square(1024, 10, &look, vec![5], &[(0, (1.0, 0))])).0, "own kernel");
    assert_eq!(made(&load_square(1024, 10, &look, vec![5], &[])).0, way(0));
}

#[test]
fn a_way_is_kept_for_one_size_of_batch() {
    let name = |most: usize| {
        let s = Scope::root(Mode::Infer);
        let x = s.input("x", (Batch, 64), DType::F32);
        s.output("y", &x.matmul(&s.param("w", [64, 64], Init::Const(0.0))));
        let plan = wholestep_compiler::compile(&s.graph().borrow(), &h100(), &mut |_| {}).unwrap().plan;
        let settings = Settings { apart: true, products: Products::Library, ..Settings::default() };
        load_plan(plan, most, &settings, Some(vec![1])).exe.choices().made[0].name.clone()
    };
    assert!(name(33) != name(64) && name(33) != name(34), "{}", name(33));
    assert!(name(33).ends_with(", of 33") && name(64).ends_with("at most 64"), "{} {}", name(33), name(64));
}
