use wholestep_compiler::ir::scope::Mode;
use wholestep_compiler::ir::*;
fn caps() -> wholestep_compiler::caps::Caps {
    wholestep_compiler::caps::Caps {
        name: "probe".into(),
        dtypes: vec![],
        memory_bytes: None,
        align_bytes: 64,
        max_row_elems: 16384,
        contract_scratch_bytes: |_, _| 0,
    }
}
fn main() {
    let s = Scope::root(Mode::Train);
    let x = s.input("x", (Batch, 784), DType::F32);
    let y = s.labels("y", (Batch,), DType::I32, 10, None);
    let mut params = vec![];
    let mut h = x;
    for (i, (a, b)) in [(784usize, 512usize), (512, 256), (256, 10)].into_iter().enumerate() {
        let l = s.sub(format!("fc{i}"));
        let w = l.param("weight", [b, a], Init::Normal { mean: 0.0, std: 0.02 });
        let bias = l.param("bias", [b], Init::Const(0.0));
        h = h.linear(&w, Some(&bias));
        if i < 2 {
            h = h.relu();
        }
        params.push(w);
        params.push(bias);
    }
    let loss = h.cross_entropy(&y);
    let grads = wholestep_compiler::autodiff::gradients(&loss, &params);
    let root = &s;
    let t = root.step().cast(DType::F32) + 1.0;
    for (i, (p, g)) in params.iter().zip(&grads).enumerate() {
        let m = root.slot(&format!("m{i}"), SlotKind::State, DType::F32, p.shape(), Init::Const(0.0));
        let v = root.slot(&format!("v{i}"), SlotKind::State, DType::F32, p.shape(), Init::Const(0.0));
        let m1 = &m * 0.9 + g * 0.1;
        let v1 = &v * 0.999 + g * g * 0.001;
        let c1 = 1.0 - (&t * (0.9f64).ln()).exp();
        let c2 = (1.0 - (&t * (0.999f64).ln()).exp()).sqrt();
        let upd = (&m1 / &c1) / (v1.sqrt() / &c2 + 1e-8) * 1e-3;
        root.update(p, &(p - &upd));
        root.update(&m, &m1);
        root.update(&v, &v1);
    }
    root.output("loss", &loss);
    let g = s.graph().borrow().clone();
    let t0 = std::time::Instant::now();
    let c = wholestep_compiler::compile(&g, &caps(), &mut |st| {
        if st.name == "kernel" || st.name == "plan" {
            println!("== {} {}\n{}", st.number, st.name, st.text)
        }
    });
    match c {
        Ok(c) => println!("{:?} {:?}", c.nodes, t0.elapsed()),
        Err(e) => println!("{e}"),
    }
}
