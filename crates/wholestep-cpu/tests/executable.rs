//! What an executable promises: no allocation once a batch size was seen, the same bits for every number of threads, inputs in place,
//! regions, several steps, outputs.

#[path = "common/plans.rs"]
mod plans;

use std::alloc::{GlobalAlloc, Layout as Bytes, System};
use std::sync::atomic::{AtomicU64, Ordering};
use wholestep_compiler::backend::{Backend, DeviceError, Executable};
use wholestep_compiler::ir::op::{Binary, Unary};
use wholestep_compiler::ir::{Batch, DType, Dim, InputDecl, InputId, Shape, SlotId};
use wholestep_compiler::kernel::{Access, Arg, Instr, Kernel, Loop, Map, ReduceOp, Store, Value};
use wholestep_compiler::plan::{Buffer, BufferId, Item, Launch, Layout, Output, Plan, Region, Segment, Size, Space};
use wholestep_cpu::{Config, CpuBackend};

struct Counting;

static ALLOCATIONS: AtomicU64 = AtomicU64::new(0);

// SAFETY: hands everything on to the system's allocator.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Bytes) -> *mut u8 {
        ALLOCATIONS.fetch_add(1, Ordering::Relaxed);
        // SAFETY: the caller's contract.
        unsafe { System.alloc(layout) }
    }
    unsafe fn dealloc(&self, p: *mut u8, layout: Bytes) {
        // SAFETY: the caller's contract.
        unsafe { System.dealloc(p, layout) }
    }
}

#[global_allocator]
static GLOBAL: Counting = Counting;

const F32: DType = DType::F32;
use Access::{Read, ReadWrite, Write};

fn map(strides: &[Dim]) -> Map {
    Map { strides: strides.to_vec(), offset: Dim::ZERO, guards: vec![] }
}

fn load(arg: u32, strides: &[Dim]) -> Instr {
    Instr::Load { arg, map: map(strides), fill: 0.0 }
}

fn launch(kernel: u32, args: &[u32]) -> Item {
    let args = args.iter().map(|&b| BufferId(b)).collect();
    Item::Launch(Launch {
        kernel,
        segments: vec![Segment { kernel, axes: vec![], args }],
        scope: String::new(),
        ops: String::new(),
    })
}

const C: usize = 37;

/// x [B, 37]: softmax over rows to a transient, its column sums added to a slot, the mean of all as an output; 3 launches and a region
/// that halves a slot while a flag is true.
fn training_like() -> Plan {
    let (one, zero, c) = (Dim::ONE, Dim::ZERO, Dim::fixed(C));
    let arg = |access| Arg { dtype: F32, access };
    let softmax = Loop {
        axes: vec![Batch, c],
        n_outer: 1,
        args: vec![arg(Read), arg(Write)],
        instrs: vec![
            load(0, &[c, one]),
            Instr::Reduce { op: ReduceOp::Max, x: Value(0) },
            Instr::Binary { op: Binary::Sub, x: Value(0), y: Value(1) },
            Instr::Unary { op: Unary::Exp, x: Value(2) },
            Instr::Reduce { op: ReduceOp::Sum, x: Value(3) },
            Instr::Binary { op: Binary::Div, x: Value(3), y: Value(4) },
        ],
        stores: vec![Store { arg: 1, map: map(&[c, one]), value: Value(5) }],
    };
    let columns = Loop {
        axes: vec![c, Batch],
        n_outer: 1,
        args: vec![arg(Read), arg(ReadWrite)],
        instrs: vec![
            load(0, &[one, c]),
            Instr::Reduce { op: ReduceOp::Sum, x: Value(0) },
            load(1, &[one, zero]),
            Instr::Binary { op: Binary::Add, x: Value(1), y: Value(2) },
        ],
        stores: vec![Store { arg: 1, map: map(&[one, zero]), value: Value(3) }],
    };
    let mean = Loop {
        axes: vec![Batch, c],
        n_outer: 0,
        args: vec![arg(Read), arg(Write)],
        instrs: vec![
            load(0, &[c, one]),
            Instr::Reduce { op: ReduceOp::Sum, x: Value(0) },
            Instr::Extent { dim: Dim { batch: C as i64, fixed: 0 }, dtype: F32 },
            Instr::Binary { op: Binary::Div, x: Value(1), y: Value(2) },
        ],
        stores: vec![Store { arg: 1, map: map(&[zero, zero]), value: Value(3) }],
    };
    let halve = Loop {
        axes: vec![],
        n_outer: 0,
        args: vec![arg(ReadWrite), Arg { dtype: DType::Bool, access: Write }],
        instrs: vec![
            load(0, &[]),
            Instr::Const { value: 0.5, dtype: F32 },
            Instr::Binary { op: Binary::Mul, x: Value(0), y: Value(1) },
            Instr::Const { value: 3.0, dtype: F32 },
            Instr::Binary { op: Binary::Gt, x: Value(2), y: Value(3) },
        ],
        stores: vec![
            Store { arg: 0, map: map(&[]), value: Value(2) },
            Store { arg: 1, map: map(&[]), value: Value(4) },
        ],
    };
    let buffer = |space, dtype, shape: Shape| Buffer { space, dtype, size: Size::Elements(shape), first: 0, last: 9 };
    let region = Region { max_trips: 5, predicate: BufferId(5), items: vec![launch(3, &[4, 5])] };
    Plan {
        kernels: [softmax, columns, mean, halve].into_iter().map(Kernel::Loop).collect(),
        items: vec![launch(0, &[0, 1]), launch(1, &[1, 2]), Item::Region(region), launch(2, &[1, 3])],
        buffers: vec![
            buffer(Space::Input(InputId(0)), F32, Shape(vec![Batch, c])),
            buffer(Space::Transient, F32, Shape(vec![Batch, c])),
            buffer(Space::Slot(SlotId(0)), F32, Shape(vec![c])),
            buffer(Space::Transient, F32, Shape::scalar()),
            buffer(Space::Slot(SlotId(1)), F32, Shape::from([1usize])),
            buffer(Space::Slot(SlotId(2)), DType::Bool, Shape::from([1usize])),
        ],
        inputs: vec![InputDecl { name: "x".into(), dtype: F32, shape: Shape(vec![Batch, c]), range: None }],
        slots: vec![plans::slot("sums", F32, C), plans::slot("h", F32, 1), plans::slot("more", DType::Bool, 1)],
        outputs: vec![
            Output { name: "mean".into(), buffer: BufferId(3), shape: Shape::scalar(), dtype: F32 },
            Output { name: "x".into(), buffer: BufferId(0), shape: Shape(vec![Batch, c]), dtype: F32 },
        ],
        align_bytes: 64,
        tf32: false,
        spares_memory: false,
    }
}

fn executable(plan: &Plan, n_threads: usize, max_batch: usize) -> Box<dyn Executable> {
    let backend = CpuBackend::new(Config { n_threads, poison: true, ..Config::detect() });
    backend.load(plan, &Layout::new(plan, &backend.caps(), max_batch)).unwrap()
}

fn input(batch: usize, seed: usize) -> Vec<u8> {
    (0..batch * C).flat_map(|i| (((i * 7 + seed * 13) % 23) as f32 * 0.25 - 2.0).to_le_bytes()).collect()
}

fn read_f32(exe: &mut dyn Executable, slot: u32, n: usize) -> Vec<f32> {
    let mut bytes = vec![0; n * 4];
    exe.read_slot(SlotId(slot), &mut bytes).unwrap();
    bytes.chunks_exact(4).map(|b| f32::from_le_bytes(b.try_into().unwrap())).collect()
}

/// Column sums of the softmax in f64.
fn expected_sums(x: &[u8]) -> Vec<f64> {
    let x: Vec<f64> = x.chunks_exact(4).map(|b| f32::from_le_bytes(b.try_into().unwrap()) as f64).collect();
    let mut sums = vec![0.0; C];
    for row in x.chunks_exact(C) {
        let total: f64 = row.iter().map(|v| v.exp()).sum();
        row.iter().zip(&mut sums).for_each(|(v, s)| *s += v.exp() / total);
    }
    sums
}

// One test, because the allocation counter counts the whole process.
#[test]
fn an_executable_keeps_its_promises() {
    batches_change_without_allocation();
    threads_do_not_change_a_bit();
    steps_and_misaligned_inputs_give_the_same_as_runs_in_place();
    wrong_lengths_are_errors();
    regions_stop_at_their_predicate();
}

fn batches_change_without_allocation() {
    let plan = training_like();
    let mut exe = executable(&plan, 2, 3000);
    let batches = [3000, 1, 17, 64, 2999, 512, 3, 1000, 3000];
    let inputs: Vec<Vec<u8>> = batches.iter().map(|&b| input(b, b)).collect();
    let mut expected = vec![0.0; C];
    for x in &inputs {
        expected_sums(x).iter().zip(&mut expected).for_each(|(v, e)| *e += v);
    }
    let before = ALLOCATIONS.load(Ordering::Relaxed);
    for (&batch, x) in batches.iter().zip(&inputs) {
        exe.run(batch, 1, &[x]).unwrap();
    }
    let taken = ALLOCATIONS.load(Ordering::Relaxed) - before;
    assert_eq!(taken, 0, "running must not allocate");
    for (got, e) in read_f32(exe.as_mut(), 0, C).iter().zip(&expected) {
        assert!((*got as f64 - e).abs() < 1e-4 * e.abs(), "{got} for {e}");
    }
    let mut mean = [0; 4];
    exe.read_output(0, &mut mean).unwrap();
    let e = 1.0 / C as f64;
    assert!((f32::from_le_bytes(mean) as f64 - e).abs() < 1e-7);
    let mut x = vec![0; 3000 * C * 4];
    exe.read_output(1, &mut x).unwrap();
    assert_eq!(x, inputs[8], "an output that is an input");
}

fn threads_do_not_change_a_bit() {
    let plan = training_like();
    for batch in [5, 700, 2500] {
        let bits: Vec<Vec<u32>> = [1, 2, 3]
            .map(|n_threads| {
                let mut exe = executable(&plan, n_threads, 2500);
                exe.run(batch, 1, &[&input(batch, 9)]).unwrap();
                let mut mean = [0; 4];
                exe.read_output(0, &mut mean).unwrap();
                let sums = read_f32(exe.as_mut(), 0, C);
                sums.iter().map(|v| v.to_bits()).chain([u32::from_le_bytes(mean)]).collect()
            })
            .into();
        assert_eq!(bits[0], bits[1]);
        assert_eq!(bits[0], bits[2]);
    }
}

fn steps_and_misaligned_inputs_give_the_same_as_runs_in_place() {
    let plan = training_like();
    let (a, b) = (input(40, 1), input(40, 2));
    let mut one = executable(&plan, 1, 40);
    one.run(40, 1, &[&a]).unwrap();
    one.run(40, 1, &[&b]).unwrap();
    let both = [a.clone(), b.clone()].concat();
    let mut two = executable(&plan, 1, 40);
    two.run(40, 2, &[&both]).unwrap();
    let shifted = [&[0u8][..], &both].concat();
    let mut off = executable(&plan, 1, 40);
    off.run(40, 2, &[&shifted[1..]]).unwrap();
    let sums = read_f32(one.as_mut(), 0, C);
    assert_eq!(sums, read_f32(two.as_mut(), 0, C));
    assert_eq!(sums, read_f32(off.as_mut(), 0, C));
    assert_eq!(two.counters().steps, 2);
    assert_eq!(two.counters().submissions, 1);
}

fn wrong_lengths_are_errors() {
    let plan = training_like();
    let mut exe = executable(&plan, 1, 8);
    let short = input(7, 1);
    let error = exe.run(8, 1, &[&short]).unwrap_err();
    let expected = DeviceError::InputLength { input: InputId(0), expected_bytes: 8 * C * 4, got_bytes: 7 * C * 4 };
    assert_eq!(error, expected);
    assert!(exe.run(9, 1, &[&input(9, 1)]).is_err());
    assert!(exe.write_slot(SlotId(0), &[0; 3]).is_err());
    let backend = CpuBackend::new(Config::detect());
    exe.grow(&Layout::new(&plan, &backend.caps(), 9)).unwrap();
    exe.run(9, 1, &[&input(9, 1)]).unwrap();
}

fn regions_stop_at_their_predicate() {
    let plan = training_like();
    for (start, flag, end) in [(40.0f32, 1u8, 2.5f32), (40.0, 0, 40.0), (1e6, 1, 1e6 / 32.0)] {
        let mut exe = executable(&plan, 1, 4);
        exe.write_slot(SlotId(1), &start.to_le_bytes()).unwrap();
        exe.write_slot(SlotId(2), &[flag]).unwrap();
        exe.run(4, 1, &[&input(4, 1)]).unwrap();
        assert_eq!(read_f32(exe.as_mut(), 1, 1), [end]);
    }
}
