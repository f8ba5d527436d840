//! Loops on the device as parts of its plan: what runs in a trip, what is copied, and what is refused. That they compute what they say is the
//! matter of the table of ops.

use wholestep_compiler::caps::Caps;
use wholestep_compiler::compile;
use wholestep_compiler::ir::scope::Mode;
use wholestep_compiler::ir::{DType, Graph, Init, Scope, Shape, SlotKind, Tensor};
use wholestep_compiler::ops::control::{run_if, while_loop};

fn caps() -> Caps {
    Caps {
        name: "any".into(),
        dtypes: vec![DType::F32, DType::I32, DType::U32, DType::Bool],
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

fn traced(f: impl FnOnce(&Scope)) -> Graph {
    let s = Scope::root(Mode::Train);
    f(&s);
    s.graph().borrow().clone()
}

/// The launches of a plan, without the list of buffers.
fn schedule(graph: &Graph) -> String {
    let plan = compile(graph, &caps(), &mut |_| {}).expect("the graph compiles").plan;
    let text = plan.to_string();
    let lines = text.lines().take_while(|line| !line.starts_with('b'));
    lines.map(|line| line.trim_end().to_string() + "\n").collect()
}

fn state(s: &Scope, name: &str, n: usize) -> Tensor {
    s.slot(name, SlotKind::State, DType::F32, Shape::from([n]), Init::Const(1.0))
}

/// What is carried from a slot into the same slot is not copied, however deep the loops: a trip works in the slot's own memory. What does not
/// change (`exp`) runs before the loop.
#[test]
fn a_loop_over_a_slot_works_in_its_memory() {
    let graph = traced(|s| {
        let (p, q) = (state(s, "p", 8), state(s, "q", 8));
        let step = q.exp();
        let ends = while_loop(
            9,
            std::slice::from_ref(&p),
            |v| v[0].sum(..).less(100.0),
            |v| {
                let large = v[0].max(..).greater(2.0);
                run_if(&large, &[v[0].clone()], |w| vec![&w[0] * &step])
            },
        );
        s.update(&p, &ends[0]);
    });
    assert_eq!(
        schedule(&graph),
        "k0 loop (b0 b1)  #  exp
k1 loop (b2 b3)  #  sum lt reshape
while b3 at most 9 times
  k2 loop (b2 b4)  #  max gt reshape
  while b4 at most 1 times
    k3 loop (b2 b1)  #  mul
  k1 loop (b2 b3)  #  sum lt
"
    );
}

/// A value that is still read after the loop began is copied first.
#[test]
fn a_slot_that_is_read_later_is_copied() {
    let graph = traced(|s| {
        let p = state(s, "p", 8);
        let ends = while_loop(9, std::slice::from_ref(&p), |v| v[0].sum(..).less(100.0), |v| vec![&v[0] * 2.0]);
        s.update(&p, &ends[0]);
        s.output("change", &(&ends[0] - &p));
    });
    assert_eq!(
        schedule(&graph),
        "k0 loop (b0 b1)  #  sum lt reshape
k1 loop (b0 b2)  #  reshape
while b1 at most 9 times
  k2 loop (b2 b3 b1)  #  mul sum mul lt
  k1 loop (b3 b2)  #  mul
k3 loop (b2 b0 b4)  #  sub
k1 loop (b2 b0)  #  reshape
"
    );
}

#[test]
fn values_of_a_body_stay_in_it() {
    let graph = traced(|s| {
        let x = s.input("x", [4usize], DType::F32);
        let mut kept = None;
        while_loop(
            9,
            std::slice::from_ref(&x),
            |v| v[0].sum(..).less(100.0),
            |v| {
                kept = Some(&v[0] * 2.0);
                vec![&v[0] + 1.0]
            },
        );
        s.output("y", &(&kept.expect("the body is traced") + &x));
    });
    let error = compile(&graph, &caps(), &mut |_| {}).expect_err("a value is taken out").to_string();
    assert!(error.starts_with("add: it uses a value that only the body of a loop has\n"), "{error}");
    assert!(error.contains("control.rs:"), "{error}");
}

#[test]
fn a_value_keeps_its_type_and_the_condition_is_one_bool() {
    let graph = traced(|s| {
        let x = s.input("x", [4usize], DType::F32);
        while_loop(9, std::slice::from_ref(&x), |v| v[0].sum(..).less(9.0), |v| vec![v[0].sum(..)]);
    });
    let error = graph.error.expect("a value changes its shape").to_string();
    assert!(error.contains("while_loop: value 0 is [4] f32 before a trip and [] f32 after it"), "{error}");
    let graph = traced(|s| {
        let x = s.input("x", [4usize], DType::F32);
        while_loop(9, std::slice::from_ref(&x), |v| v[0].less(9.0), |v| vec![&v[0] + 1.0]);
    });
    let error = graph.error.expect("the condition has four elements").to_string();
    assert!(error.contains("while_loop: need a bool scalar as condition, got [4] bool"), "{error}");
    let graph = traced(|s| {
        let x = s.input("x", [4usize], DType::F32);
        while_loop(9, std::slice::from_ref(&x), |v| v[0].sum(..).less(9.0), |_| Vec::new());
    });
    let error = graph.error.expect("the body gives nothing").to_string();
    assert!(error.contains("while_loop: the body works on 1 values and gives 0"), "{error}");
}

/// There is no list of trips to go back over; a silent zero would be the worst answer.
#[test]
fn no_gradient_passes_a_loop_in_silence() {
    let graph = traced(|s| {
        let x = s.param("w", [4usize], Init::Const(1.0));
        let ends = while_loop(9, std::slice::from_ref(&x), |v| v[0].sum(..).less(9.0), |v| vec![&v[0] * 2.0]);
        let _ = wholestep_compiler::autodiff::gradients(&ends[0].sum(..), &[x]);
    });
    let error = graph.error.expect("no gradient passes").to_string();
    assert!(error.contains("w gets no gradient: while_loop passes none on"), "{error}");
}

#[test]
fn a_device_without_loops_says_so() {
    let graph = traced(|s| {
        let p = state(s, "p", 8);
        let ends = while_loop(9, std::slice::from_ref(&p), |v| v[0].sum(..).less(100.0), |v| vec![&v[0] * 2.0]);
        s.update(&p, &ends[0]);
    });
    let error = compile(&graph, &Caps { loops: false, ..caps() }, &mut |_| {}).expect_err("it has no loops");
    assert!(error.to_string().contains("any runs no loop that ends on the device yet"), "{error}");
}

/// A ring of vectors in a slot: a trip writes one of them, and nothing is copied.
#[test]
fn one_row_of_a_slot_is_written_in_place() {
    let graph = traced(|s| {
        let ring = s.slot("ring", SlotKind::State, DType::F32, Shape::from([4usize, 8]), Init::Const(0.0));
        let (zero, x) = (s.constant(0.0, DType::I32), s.input("x", [8usize], DType::F32));
        let ends = while_loop(
            9,
            &[zero, ring.clone()],
            |v| v[0].less(3.0),
            |v| {
                let rest = run_if(&v[0].greater(0.0), &[v[1].clone()], |w| vec![w[0].put(0, &v[0], &x)]);
                vec![&v[0] + 1.0, rest[0].clone()]
            },
        );
        s.update(&ring, &ends[1]);
    });
    assert_eq!(
        schedule(&graph),
        "k0 loop (b0 b1)  #  reshape reshape
while b0 at most 9 times
  k1 loop (b1 b2 b3 b0)  #  gt reshape add lt
  while b2 at most 1 times
    k2 scatter (b4 b1 b5)  #  put
  k3 loop (b3 b1)  #  add
"
    );
}

/// What only a branch uses runs only where the branch is taken, even if it does not depend on what the branch changes.
#[test]
fn a_branch_computes_nothing_that_it_does_not_take() {
    let graph = traced(|s| {
        let (p, q) = (state(s, "p", 8), state(s, "q", 8));
        let large = p.max(..).greater(2.0);
        let done = run_if(&large, &[p.clone(), q.clone()], |v| vec![&v[0] + &v[1].exp(), v[1].clone()]);
        s.update(&p, &done[0]);
        s.update(&q, &(&done[1] * 2.0));
    });
    let text = schedule(&graph);
    let line = text.lines().find(|line| line.contains("exp")).expect("it is computed");
    assert!(line.starts_with("  k"), "{text}");
    // Neither value is copied, and the one that the branch does not change is not carried through it.
    assert_eq!(text.lines().count(), 4, "{text}");
}

/// The same values and gradients as the loop written out, and the program does not grow with the count.
#[test]
fn a_scan_has_the_gradients_of_the_loop_written_out() {
    use wholestep_compiler::autodiff::{gradients, scan};
    let trace = |n: u32, is_scan: bool| {
        traced(|s| {
            let (x, w) =
                (s.input("x", (wholestep_compiler::ir::Batch, 3), DType::F64), s.input("w", [3usize, 3], DType::F64));
            let body = |v: &[Tensor], c: &[Tensor]| vec![(&v[0].matmul(&c[0]) + &v[1]).tanh(), &v[1] * 0.9];
            let first = [x.clone(), &x * 0.5];
            let ends = if is_scan {
                scan(n, &first, std::slice::from_ref(&w), body)
            } else {
                (0..n).fold(first.to_vec(), |v, _| body(&v, std::slice::from_ref(&w)))
            };
            let loss = (&ends[0] * &ends[1]).sum(..);
            s.output("loss", &loss);
            let d = gradients(&loss, &[x, w]);
            s.output("d_x", &d[0]);
            s.output("d_w", &d[1]);
        })
    };
    let inputs = vec![
        (0..6).map(|i| f64::from(i) / 5.0 - 0.4).collect(),
        (0..9).map(|i| f64::from(i % 4) / 3.0 - 0.5).collect(),
    ];
    let run = |graph: &Graph| wholestep_compiler::eval::eval(graph, 2, &inputs, &[]).outputs;
    let (looped, written) = (run(&trace(6, true)), run(&trace(6, false)));
    for (a, b) in looped.iter().flatten().zip(written.iter().flatten()) {
        assert!((a - b).abs() <= 1e-12 * b.abs().max(1.0), "{looped:?}, written out {written:?}");
    }
    let wide = Caps { dtypes: vec![DType::F64, DType::I32, DType::Bool], ..caps() };
    let launches = |n: u32| compile(&trace(n, true), &wide, &mut |_| {}).expect("it compiles").plan.launches().len();
    assert_eq!(launches(6), launches(60));
}
