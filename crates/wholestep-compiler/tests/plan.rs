//! Plans compute what their graphs say: every row of the op table, its gradients and whole steps, compiled and interpreted with poisoned,
//! byte-exact memory, against the graph oracle.

#[path = "plan/interpreter.rs"]
mod interpreter;

#[path = "plan/steps.rs"]
mod steps;

use interpreter::Machine;
use wholestep_compiler::autodiff::gradients;
use wholestep_compiler::caps::Caps;
use wholestep_compiler::cases::{all, initial_slots};
use wholestep_compiler::compile;
use wholestep_compiler::eval::eval;
use wholestep_compiler::ir::scope::Mode;
use wholestep_compiler::ir::{Batch, DType, Dim, Graph, Init, Scope, Shape, Slot, SlotKind, Tensor};
use wholestep_compiler::kernel::{Half, Instr, Kernel, Loop, ReduceOp, Triangle};
use wholestep_compiler::plan::{Layout, Plan};

fn caps() -> Caps {
    Caps {
        name: "interpreter".into(),
        dtypes: vec![DType::F64, DType::F32, DType::I64, DType::I32, DType::U32, DType::U8, DType::Bool],
        memory_bytes: None,
        align_bytes: 16,
        max_row_elems: 64,
        contract_scratch_bytes: |_, _| 24,
        max_args: usize::MAX,
        byte_bytes: 1,
        long_bytes: 8,
        max_buffer_bytes: usize::MAX,
        loops: true,
        workgroups: None,
    }
}

/// The faults of one graph at batch size `batch` in memory laid out for 5.
fn faults(title: &str, graph: &Graph, batch: usize, inputs: &[Vec<f64>], out: &mut Vec<String>) {
    faults_on(&caps(), title, graph, batch, inputs, out);
}

/// The same on a device with other limits; gives the most arguments that a kernel takes.
fn faults_on(
    caps: &Caps,
    title: &str,
    graph: &Graph,
    batch: usize,
    inputs: &[Vec<f64>],
    out: &mut Vec<String>,
) -> usize {
    let compiled = match compile(graph, caps, &mut |_| {}) {
        Ok(compiled) => compiled,
        Err(error) => {
            out.push(format!("{title}: {error}"));
            return 0;
        }
    };
    let slots = initial_slots(graph);
    let expected = eval(graph, batch, inputs, &slots);
    let layout = Layout::new(&compiled.plan, caps, 5);
    let placed: Vec<Vec<f64>> = compiled.plan.slots.iter().zip(&slots).map(|(slot, v)| stored(slot, v)).collect();
    let mut machine = Machine::new(&compiled.plan, &layout, batch, &placed, inputs);
    let outputs = machine.run();
    for (i, (got, want)) in outputs.iter().zip(&expected.outputs).enumerate() {
        compare(&format!("{title} B={batch} output {}", graph.outputs[i].name), got, want, out);
    }
    for (i, (got, want)) in machine.slots.iter().zip(&expected.slots).enumerate() {
        let slot = &compiled.plan.slots[i];
        compare(&format!("{title} B={batch} slot {}", slot.name), got, &stored(slot, want), out);
    }
    compiled.plan.kernels.iter().map(|k| k.args().len()).max().unwrap_or(0)
}

/// Declared order to storage order.
fn stored(slot: &Slot, values: &[f64]) -> Vec<f64> {
    let shape = slot.shape.at(0);
    let extents: Vec<usize> = slot.order.iter().map(|&axis| shape[axis]).collect();
    let stride = |axis: usize| shape[axis + 1..].iter().product::<usize>();
    let element = |mut n: usize| {
        let mut at = 0;
        for (i, &axis) in slot.order.iter().enumerate().rev() {
            at += n % extents[i] * stride(axis);
            n /= extents[i];
        }
        values[at]
    };
    (0..values.len()).map(element).collect()
}

fn compare(title: &str, got: &[f64], want: &[f64], out: &mut Vec<String>) {
    if got.len() != want.len() {
        return out.push(format!("{title}: {} elements, expected {}", got.len(), want.len()));
    }
    let same = |a: f64, b: f64| a == b || (a.is_nan() && b.is_nan()) || (a - b).abs() <= 1e-9 * b.abs().max(1.0);
    if let Some(i) = got.iter().zip(want).position(|(&a, &b)| !same(a, b)) {
        out.push(format!("{title}: element {i} is {}, expected {}", got[i], want[i]));
    }
}

#[test]
fn every_op_and_its_gradient_survive_compilation() {
    let mut out = Vec::new();
    for case in all() {
        for batch in [1, 3, 5] {
            let inputs = case.inputs(batch, 7);
            let graph = case.trace(DType::F64);
            let n = graph.inputs.len();
            faults(&case.title(), &graph, batch, &inputs[..n], &mut out);
            if let Some(graph) = case.trace_gradients(DType::F64) {
                faults(
                    &format!("gradient of {}", case.title()),
                    &graph,
                    batch,
                    &inputs[..graph.inputs.len()],
                    &mut out,
                );
            }
        }
    }
    assert!(out.is_empty(), "{} faults:\n{}", out.len(), out.join("\n"));
}

/// Inputs that are nothing special; labels in range.
fn inputs(graph: &Graph, batch: usize) -> Vec<Vec<f64>> {
    let one = |d: &wholestep_compiler::ir::InputDecl| {
        let n = d.shape.numel_at(batch);
        let value = |i: usize| match &d.range {
            Some(range) => (i * 7 % range.n) as f64,
            None => ((i * 29 % 31) as f64 - 15.0) / 11.0,
        };
        (0..n).map(value).collect()
    };
    graph.inputs.iter().map(one).collect()
}

#[test]
fn whole_steps_survive_compilation_at_every_batch_size() {
    let mut out = Vec::new();
    for (momentum, clip) in [(false, false), (true, false), (true, true)] {
        let graph = steps::cnn(momentum, clip);
        for batch in [1, 2, 4, 5] {
            faults(&format!("cnn {momentum} {clip}"), &graph, batch, &inputs(&graph, batch), &mut out);
        }
    }
    assert!(out.is_empty(), "{} faults:\n{}", out.len(), out.join("\n"));
}

/// The weakest devices bind eight to ten buffers at once.
#[test]
fn no_kernel_takes_more_arguments_than_the_device_binds() {
    let mut out = Vec::new();
    let mut widest = 0;
    for max_args in [usize::MAX, 9, 8] {
        let caps = Caps { max_args, ..caps() };
        let mut check = |title: &str, graph: &Graph, batch: usize, inputs: &[Vec<f64>]| {
            let n_args = faults_on(&caps, title, graph, batch, inputs, &mut out);
            match max_args {
                usize::MAX => widest = widest.max(n_args),
                _ => assert!(n_args <= max_args, "{title}: a kernel of {n_args} arguments, {max_args} are allowed"),
            }
        };
        for case in all() {
            let inputs = case.inputs(3, 7);
            for graph in [Some(case.trace(DType::F64)), case.trace_gradients(DType::F64)].iter().flatten() {
                check(&case.title(), graph, 3, &inputs[..graph.inputs.len()]);
            }
        }
        for (momentum, clip) in [(false, false), (true, true)] {
            let graph = steps::cnn(momentum, clip);
            check("cnn", &graph, 4, &inputs(&graph, 4));
        }
    }
    assert!(widest > 9, "nothing here needs more than {widest} arguments");
    assert!(out.is_empty(), "{} faults:\n{}", out.len(), out.join("\n"));
}

/// A slot that is read back to front cannot be updated in place, which fusion does not count: that kernel is cut in two, and one that just fits
/// stays whole.
#[test]
fn a_kernel_that_comes_out_too_wide_is_cut_and_no_other() {
    let trace = |with_other: bool| {
        let s = Scope::root(Mode::Train);
        let updated = |name: &str, n: usize, begin: fn(&Tensor) -> Tensor| {
            let p = steps::param(&s, name, &[n]);
            let input = |i| s.input(&format!("{name}{i}"), (wholestep_compiler::ir::Dim::fixed(n),), DType::F32);
            s.update(&p, &(0..5).map(input).fold(begin(&p), |sum, x| sum + x));
        };
        updated("p", 40, |p| p.flip(0));
        if with_other {
            updated("q", 56, Tensor::clone);
        }
        s.graph().borrow().clone()
    };
    let (alone, both) = (trace(false), trace(true));
    let widths = |graph: &Graph, max_args| -> Vec<usize> {
        let plan = compile(graph, &Caps { max_args, ..caps() }, &mut |_| {}).expect("the step compiles").plan;
        let launches = plan.launches().into_iter();
        launches.flat_map(|l| vec![plan.kernels[l.kernel as usize].args().len(); l.segments.len()]).collect()
    };
    assert_eq!(widths(&alone, usize::MAX).into_iter().max(), Some(7));
    let (alone, cut) = (widths(&alone, 6), widths(&both, 6));
    assert!(cut.iter().all(|n| *n <= 6) && cut.len() == alone.len() + 1, "{alone:?}, {cut:?}");
    let mut out = Vec::new();
    faults_on(&Caps { max_args: 6, ..caps() }, "two sums", &both, 1, &inputs(&both, 1), &mut out);
    assert!(out.is_empty(), "{out:?}");
}

/// An update in place reads and writes one argument, so that Adam (p, m and v in place, the gradient, two factors) is one kernel where seven
/// are allowed.
#[test]
fn an_update_in_place_is_one_argument() {
    let s = wholestep_compiler::ir::Scope::root(wholestep_compiler::ir::scope::Mode::Train);
    let [p, m, v] = ["p", "m", "v"].map(|name| steps::param(&s, name, &[40]));
    let g = s.input("g", (wholestep_compiler::ir::Dim::fixed(40),), DType::F32);
    let [a, b] = ["a", "b"].map(|name| s.slot(name, SlotKind::Scalar, DType::F32, Shape::scalar(), Init::Const(0.5)));
    let (m_new, v_new) = (&m * 0.9 + &g * 0.1, &v * 0.99 + g.square() * 0.01);
    s.update(&p, &(&p - &m_new * &a / ((&v_new.abs() * &b).sqrt() + 1e-3)));
    s.update(&m, &m_new);
    s.update(&v, &v_new);
    let graph = s.graph().borrow().clone();
    let mut out = Vec::new();
    for (max_args, n_kernels) in [(7, 1), (5, 2)] {
        let caps = Caps { max_args, ..caps() };
        let plan = compile(&graph, &caps, &mut |_| {}).expect("the step compiles").plan;
        assert!(plan.kernels.len() >= n_kernels && (n_kernels > 1 || plan.kernels.len() == 1), "{plan}");
        let n_args = faults_on(&caps, "adam", &graph, 1, &inputs(&graph, 1), &mut out);
        assert!(n_args <= max_args, "{n_args} of {max_args}");
    }
    assert!(out.is_empty(), "{} faults:\n{}", out.len(), out.join("\n"));
}

/// What only a reduction reads is made there, where it takes no memory, and in no epilogue, which would have to store it.
#[test]
fn what_only_a_reduction_reads_is_in_no_epilogue_and_takes_no_memory() {
    use wholestep_compiler::kernel::Kernel;
    use wholestep_compiler::plan::Size;
    let plan_of = |is_kept: bool| {
        let s = Scope::root(Mode::Infer);
        let (x, w) = (s.input("x", (24, 6), DType::F32), s.input("w", (6, 20), DType::F32));
        let y = x.matmul(&w);
        let z = y.tanh();
        s.output("y", &y);
        s.output("rows", &z.sum(1));
        if is_kept {
            s.output("z", &z);
        }
        assert_sound("rows", &s);
        compile(&s.graph().borrow(), &caps(), &mut |_| {}).expect("it compiles").plan
    };
    for is_kept in [false, true] {
        let plan = plan_of(is_kept);
        let is_whole = |size: &Size| matches!(size, Size::Elements(shape) if shape.at(1) == [24, 20]);
        let n_whole = plan.buffers.iter().filter(|b| is_whole(&b.size)).count();
        assert_eq!(n_whole, if is_kept { 2 } else { 1 }, "{plan}");
        let Some(Kernel::Contract(product)) = plan.kernels.iter().find(|k| matches!(k, Kernel::Contract(_))) else {
            panic!("no product: {plan}")
        };
        assert_eq!(product.epilogue.is_some(), is_kept, "{plan}");
    }
}

/// Means over rows and over columns of matrices, and an update that reads both: launches for matrices of nine shapes are as many as for two.
#[test]
fn loops_over_matrices_of_many_shapes_share_launches() {
    let trace = |shapes: &[[usize; 2]]| {
        let s = Scope::root(Mode::Train);
        for (i, &[r, c]) in shapes.iter().enumerate() {
            let name = |of: &str| format!("{of}{i}");
            let [p, row, col] = [("p", [r, c]), ("row", [r, 1]), ("col", [1, c])]
                .map(|(of, shape)| steps::param(&s, &name(of), &shape));
            let g = s.input(&name("g"), (r, c), DType::F32);
            let (row_new, col_new) = (&row + g.square().sum_keepdim(-1), &col + g.square().sum_keepdim(-2));
            s.update(&row, &row_new);
            s.update(&col, &col_new);
            s.update(&p, &(&p - &g * &row_new * &col_new / row_new.sum_keepdim(-2)));
        }
        s.graph().borrow().clone()
    };
    let plan = |shapes: &[[usize; 2]]| compile(&trace(shapes), &caps(), &mut |_| {}).expect("the step compiles").plan;
    // Extents that are multiples of four and others are there from the beginning.
    let all = [[20, 24], [24, 21], [9, 24], [30, 60], [17, 9], [21, 61], [12, 40], [8, 8], [9, 13]];
    let counts = [2, 5, 9].map(|n| plan(&all[..n]).launches().len());
    let one = plan(&all[..1]).launches().len();
    println!("{counts:?} launches for 2, 5, 9 shapes, {one} for one");
    assert!(counts[0] == counts[1] && counts[1] == counts[2], "{counts:?} launches for 2, 5, 9 shapes");
    assert!(counts[0] <= 2 * one, "{counts:?} launches, {one} for one: those of multiples of four, and the others");
    let graph = trace(&all);
    let mut out = Vec::new();
    faults("nine shapes", &graph, 1, &inputs(&graph, 1), &mut out);
    assert!(out.is_empty(), "{} faults:\n{}", out.len(), out.join("\n"));
}

/// The norm of many tensors is their sums side by side, made there, and the sum of those: two launches, however many there are.
#[test]
fn sums_of_many_tensors_are_added_by_one_reduction() {
    use wholestep_compiler::kernel::{Instr, Kernel};
    for n in [4usize, 50] {
        let s = Scope::root(Mode::Train);
        let sums = (0..n).map(|i| s.input(&format!("x{i}"), (3 + i,), DType::F64).square().sum(..));
        s.output("norm", &(sums.reduce(|a, b| a + b).expect("there are tensors").sqrt() * 2.0));
        assert_sound("norm", &s);
        let plan = compile(&s.graph().borrow(), &caps(), &mut |_| {}).expect("the step compiles").plan;
        let launches = plan.launches();
        assert_eq!(launches.iter().map(|l| l.segments.len()).collect::<Vec<_>>(), [n, 1], "{plan}");
        let Kernel::Loop(last) = plan.kernel_of(&launches[1].segments[0]) else { panic!("a loop: {plan}") };
        assert_eq!(last.instrs.iter().filter(|i| matches!(i, Instr::Load { .. })).count(), 1, "{plan}");
        let to: Vec<_> = launches[0].segments.iter().map(|s| s.args[1]).collect();
        assert!(to.iter().all(|b| *b == to[0]), "all are made in one buffer: {plan}");
    }
}

/// Parts that a concatenation cannot have made in place are copied: one that is an output, that two read, or that is there twice, that lies across,
/// and one of another type.
#[test]
fn parts_that_others_read_are_copied_and_equal_copies_share_a_launch() {
    let s = Scope::root(Mode::Train);
    let x = |name: &str| s.input(name, (3usize, 4usize), DType::F64);
    let doubled = |name: &str| x(name).exp() * 2.0;
    let (own, read, out) = (doubled("a"), doubled("b"), doubled("c"));
    s.output("out", &out);
    s.output("read", &(&read.sum(0) + 1.0));
    let rows = own.concat(&[&read, &out, &out], 0);
    s.output("rows", &rows);
    s.output("across", &doubled("d").concat(&[&doubled("e")], 1));
    s.output("whole", &doubled("f").slice(0, 0..2).concat(&[&doubled("g")], 0));
    assert_sound("concatenations", &s);
}

#[test]
fn sums_that_only_the_epilogue_reads_take_no_memory() {
    use wholestep_compiler::kernel::Kernel;
    for is_read in [false, true] {
        let (s, x) = scope();
        let w = s.slot("w", SlotKind::State, DType::F64, Shape::from([3usize, 3]), Init::Const(0.5));
        let product = x.t().matmul(&x);
        s.update(&w, &(&w - &product * 0.1));
        if is_read {
            s.output("product", &product);
        }
        assert_sound("update", &s);
        let caps = Caps { contract_scratch_bytes: |_, _| 0, ..caps() };
        let plan = compile(&s.graph().borrow(), &caps, &mut |_| {}).expect("the step compiles").plan;
        let [Kernel::Contract(k)] = &plan.kernels[..] else { panic!("one product: {plan}") };
        assert_eq!(k.keeps_sums(), is_read);
        assert_eq!(k.to_string().contains("sums that are not kept"), !is_read);
        let bytes = Layout::new(&plan, &caps, 5).transient_bytes;
        assert_eq!(bytes, if is_read { 80 } else { 0 }, "nine numbers, if anything: {plan}");
    }
}

/// The gradient of a batch normalization is summed twice, as it is and times the deviations. Neither is for the epilogue of the convolution that makes
/// it: both are sums of one loop, which reads it once.
#[test]
fn both_sums_of_a_gradient_behind_a_convolution_are_one_loop() {
    use wholestep_compiler::kernel::{Access, Contraction, Instr, Kernel};
    let plan = compile(&steps::cnn(true, false), &caps(), &mut |_| {}).expect("the step compiles").plan;
    let launches = plan.launches();
    let mut n_gradients = 0;
    for (at, launch) in launches.iter().enumerate() {
        let Kernel::Contract(k) = &plan.kernels[launch.kernel as usize] else { continue };
        if !matches!(k.contraction, Contraction::ConvInputGrad(_)) {
            continue;
        }
        for (i, _) in k.args.iter().enumerate().filter(|(_, arg)| arg.access == Access::Write) {
            let written = launch.segments[0].args[i];
            let sums = launches[at + 1..].iter().filter(|l| match &plan.kernels[l.kernel as usize] {
                Kernel::Loop(k) => {
                    k.instrs.iter().any(|i| matches!(i, Instr::Reduce { .. }))
                        && l.segments.iter().any(|s| s.args.contains(&written))
                }
                _ => false,
            });
            let n = sums.count();
            assert!(n <= 1, "{n} loops sum what {} writes: {plan}", launch.scope);
            n_gradients += n;
        }
    }
    assert!(n_gradients >= 2, "{n_gradients} of the first two normalizations: {plan}");
}

/// Smoothing gives the loss several values that are made of leaves alone and have two readers: once a reader has placed one, the next must
/// not take what is made of it along unseen.
#[test]
fn values_made_of_leaves_do_not_tie_clusters_into_a_knot() {
    use wholestep_compiler::ir::scope::Mode;
    use wholestep_compiler::ir::{Batch, Scope};
    use wholestep_compiler::ops::loss::CrossEntropy;
    let s = Scope::root(Mode::Train);
    let x = s.input("x", (Batch, 4), DType::F32);
    let y = s.labels("y", (Batch,), DType::U32, 3, None);
    let w = steps::param(&s, "w", &[3, 4]);
    let logits = x.linear(&w, None);
    let right = logits.argmax(-1).cast(DType::U32).equal(&y).cast(DType::F32).sum(..);
    s.output("right", &right);
    let options = CrossEntropy { label_smoothing: 0.05, ..CrossEntropy::default() };
    let loss = logits.cross_entropy_with(&y, &options);
    let graph = steps::finish(&s, &loss, true, true);
    let mut out = Vec::new();
    for batch in [1, 4] {
        faults("smoothed", &graph, batch, &inputs(&graph, batch), &mut out);
    }
    assert!(out.is_empty(), "{} faults:\n{}", out.len(), out.join("\n"));
}

/// A scope with one float input `x` of `(Batch, 3)`.
fn scope() -> (wholestep_compiler::ir::Scope, wholestep_compiler::ir::Tensor) {
    let s = wholestep_compiler::ir::Scope::root(wholestep_compiler::ir::scope::Mode::Train);
    let x = s.input("x", (wholestep_compiler::ir::Batch, 3), DType::F64);
    (s, x)
}

fn assert_sound(title: &str, s: &wholestep_compiler::ir::Scope) {
    let graph = s.graph().borrow().clone();
    let mut out = Vec::new();
    for batch in [1, 3, 5] {
        faults(title, &graph, batch, &inputs(&graph, batch), &mut out);
    }
    assert!(out.is_empty(), "{} faults:\n{}", out.len(), out.join("\n"));
}

/// The gradient of a slice of a sum is a padded constant: padding is a guard of a load, and a constant is not loaded.
#[test]
fn padding_around_known_values_is_there() {
    let (s, x) = scope();
    let loss = x.slice(1, 1..).sum(..);
    s.output("d_x", &wholestep_compiler::autodiff::gradients(&loss, &[x])[0]);
    s.output("padded", &s.iota(4, DType::F64).pad(&[(2, 1)], -1.0));
    assert_sound("padded", &s);
}

/// A slot that becomes a product as it is, with no arithmetic after it: alone, and where its old value is used beside the new one.
#[test]
fn a_product_is_written_into_its_slot() {
    for reads_old in [false, true] {
        let (s, x) = scope();
        let m = s.slot("m", SlotKind::State, DType::F64, Shape::from([3usize, 3]), Init::Const(0.5));
        let new = x.t().matmul(&x);
        s.update(&m, &new);
        s.output("m", &new);
        if reads_old {
            s.output("change", &(&new - &m));
        }
        assert_sound("product", &s);
    }
}

#[test]
fn zeros_of_both_signs_are_two_constants() {
    let (s, x) = scope();
    let (plus, minus) = (s.constant(0.0, DType::F64), s.constant(-0.0, DType::F64));
    s.output("y", &x.greater(0.0).select(&plus, &minus).recip());
    s.output("z", &(x.pad(&[(1, 0)], 0.0).recip() + x.pad(&[(1, 0)], -0.0).recip()));
    assert_sound("zeros", &s);
}

/// Each value is read twice by the next, sixty times: there are 2^60 ways through such a graph, which no pass may walk one by one.
#[test]
fn values_that_are_read_twice_are_looked_at_once() {
    let doubled = |mut y: Tensor| {
        for _ in 0..60 {
            y = &y + &y;
        }
        y.sum(..)
    };
    let mut out = Vec::new();
    for (title, first) in [("leaves", false), ("factors", true)] {
        let s = Scope::root(Mode::Train);
        let x = s.input("x", [3usize], DType::F64);
        let first = if first { x } else { s.iota(3usize, DType::F64) };
        s.output("y", &doubled(first * 2f64.powi(-60)));
        let graph = s.graph().borrow().clone();
        faults(title, &graph, 1, &inputs(&graph, 1), &mut out);
    }
    assert!(out.is_empty(), "{}", out.join("\n"));
}

/// Attention of two heads, `[B, 6, 8]` to as much, with what of its scores is hidden; its gradients by `[B, 6, 3, 2, 4]` of queries, keys and values.
fn attention(hidden: impl Fn(&Tensor, &Tensor) -> Tensor, shows_scores: bool) -> Graph {
    let s = Scope::root(Mode::Train);
    let (x, d) = (s.input("x", (Batch, 6, 3, 2, 4), DType::F32), s.input("d", (Batch, 6, 8), DType::F32));
    let heads = x.permute([2, 0, 3, 1, 4]);
    let [q, k, v] = [0, 1, 2].map(|i| heads.index(0, i));
    let scores = q.matmul(&k.transpose(-2, -1)) * 0.5;
    let hidden = hidden(&scores.positions(-2, DType::I32), &scores.positions(-1, DType::I32));
    let mixed = scores.masked_fill(&hidden, f64::NEG_INFINITY).softmax(-1).matmul(&v);
    let y = mixed.transpose(1, 2).reshape((Batch, 6, 8));
    s.output("d_x", &gradients(&(&y * d).sum(..), &[x]).remove(0));
    if shows_scores {
        s.output("scores", &scores);
    }
    s.output("y", &y);
    s.graph().borrow().clone()
}

/// What a causal mask hides is 0 in what is made of scores: the products that read it know, and the sum in softmax's gradient is one over the rows of a head.
/// The interpreter looks at what is to be 0.
#[test]
fn products_know_which_half_a_mask_of_positions_leaves() {
    type Hidden = fn(&Tensor, &Tensor) -> Tensor;
    let (lower, upper) = (Triangle::Lhs(Half::Lower), Triangle::Lhs(Half::Upper));
    let causal: Hidden = |rows, columns| columns.greater(rows);
    let all = |half, of, turned| vec![of, Triangle::Stored(half), turned, of, turned];
    let cases: [(&str, Hidden, Vec<Triangle>); 5] = [
        ("causal", causal, all(Half::Lower, lower, upper)),
        ("window", |rows, columns| columns.greater(rows) | columns.less(rows - 2.0), all(Half::Lower, lower, upper)),
        ("turned", |rows, columns| !rows.less_equal(columns), all(Half::Upper, upper, lower)),
        ("one column more", |rows, columns| columns.greater(rows + 1.0), vec![]),
        ("either side", |rows, columns| columns.greater(rows) & columns.greater(rows + 2.0), vec![]),
    ];
    let mut out = Vec::new();
    for (title, hidden, expected) in cases {
        let graph = attention(hidden, false);
        for batch in [1, 3] {
            faults(title, &graph, batch, &inputs(&graph, batch), &mut out);
        }
        let plan = compile(&graph, &caps(), &mut |_| {}).expect("it compiles").plan;
        assert_eq!(triangles(&plan), expected, "{title}: {plan}");
        let sums_scores = |k: &Kernel| match k {
            Kernel::Loop(k) => {
                let reads = k.instrs.iter().filter(|i| matches!(i, Instr::Load { .. })).count();
                let reduces = k.instrs.iter().any(|i| matches!(i, Instr::Reduce { .. }));
                k.axes.last() == Some(&Dim::fixed(6)) && reads > 1 && reduces
            }
            _ => false,
        };
        assert!(!plan.kernels.iter().any(sums_scores), "{title}: {plan}");
    }
    assert!(out.is_empty(), "{}", out.join("\n"));
}

/// Scores that are kept in 16 bits are masked by who reads them: nobody reads what is hidden, which the interpreter makes NaN. Where they are an output too,
/// all of them are read.
#[test]
fn scores_that_a_mask_hides_are_read_by_nobody() {
    let caps = Caps { dtypes: [&caps().dtypes[..], &[DType::F16]].concat(), ..caps() };
    for (half, shows_scores, reads) in
        [(Half::Lower, false, true), (Half::Upper, false, true), (Half::Lower, true, false)]
    {
        let hidden = |rows: &Tensor, columns: &Tensor| match half {
            Half::Lower => columns.greater(rows),
            Half::Upper => rows.greater(columns),
        };
        let graph = Graph { storage: Some(DType::F16), ..attention(hidden, shows_scores) };
        let inputs = inputs(&graph, 2);
        let plan = compile(&graph, &caps, &mut |_| {}).expect("it compiles").plan;
        assert_eq!(triangles(&plan).contains(&Triangle::Read(half)), reads, "{plan}");
        let expected = eval(&graph, 2, &inputs, &[]).outputs;
        let got = Machine::new(&plan, &Layout::new(&plan, &caps, 5), 2, &[], &inputs).run();
        for (got, want) in got.iter().zip(&expected) {
            let far = got
                .iter()
                .zip(want)
                .map(|(x, y)| (x - y).abs())
                .fold(0.0, |a, b| if b > a || b.is_nan() { b } else { a });
            assert!(far < 0.02, "{far}: {plan}");
        }
    }
}

fn triangles(plan: &Plan) -> Vec<Triangle> {
    let of = |kernel: &Kernel| if let Kernel::Contract(k) = kernel { k.triangle } else { None };
    plan.launches().into_iter().filter_map(|l| of(&plan.kernels[l.kernel as usize])).collect()
}

/// The gradient of a masked softmax adds up what the mask lets through, and masks are compared where they are used: as windows and triangles, either way round.
#[test]
fn masks_of_positions_are_made_by_who_uses_them() {
    type Mask = fn(&Tensor, &Tensor) -> Tensor;
    let masks: [Mask; 3] = [
        |rows, columns| columns.greater(rows),
        |rows, columns| rows.less(columns) | columns.less(rows - 2.0),
        |rows, columns| !columns.less_equal(rows),
    ];
    let mut out = Vec::new();
    for (i, mask) in masks.into_iter().enumerate() {
        let s = Scope::root(Mode::Train);
        let (x, d) = (s.input("x", (Batch, 5, 6), DType::F64), s.input("d", (Batch, 5, 7), DType::F64));
        let v = s.input("v", [6, 7], DType::F64);
        // With all axes of the scores, and with its own two alone.
        let (rows, columns) = match i {
            0 => (s.iota(5usize, DType::I32).reshape([5usize, 1]), s.iota(6usize, DType::I32)),
            _ => (x.positions(-2, DType::I32), x.positions(-1, DType::I32)),
        };
        let hidden = mask(&rows, &columns);
        let y = x.masked_fill(&hidden, f64::NEG_INFINITY).softmax(-1).matmul(&v);
        let gradient = gradients(&(&y * d).sum(..), &[x]).remove(0);
        s.output("y", &y);
        s.output("d_x", &gradient);
        let graph = s.graph().borrow().clone();
        for batch in [1, 3] {
            faults(&format!("mask {i}"), &graph, batch, &inputs(&graph, batch), &mut out);
        }
        let plan = compile(&graph, &caps(), &mut |_| {}).expect("it compiles").plan;
        assert!(plan.buffers.iter().all(|b| b.dtype != DType::Bool), "mask {i}: {plan}");
        let is_masked = |k: &Loop| {
            k.instrs.iter().any(|instr| match instr {
                Instr::Reduce { op: ReduceOp::Sum, x } => matches!(k.instrs[x.0 as usize], Instr::Select { .. }),
                _ => false,
            })
        };
        let n = plan.kernels.iter().filter(|k| matches!(k, Kernel::Loop(k) if is_masked(k))).count();
        assert_eq!(n, 1, "mask {i}: {plan}");
    }
    assert!(out.is_empty(), "{}", out.join("\n"));
}
