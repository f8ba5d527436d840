use wholestep_compiler::autodiff::gradients;
use wholestep_compiler::ir::scope::Mode;
use wholestep_compiler::ir::*;
use wholestep_compiler::ops::conv::{ConvOptions, Padding};
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
fn cbn(s: &Scope, x: &Tensor, ci: usize, co: usize, k: usize, st: usize) -> Tensor {
    let w = s.param("weight", [co, ci, k, k], Init::Normal { mean: 0.0, std: 0.05 });
    let y = x.conv2d(&w, None, &ConvOptions { stride: [st; 2], padding: Padding::all(k / 2), ..Default::default() });
    let g = s.param("gamma", [co], Init::Const(1.0));
    let b = s.param("beta", [co], Init::Const(0.0));
    let st = y.batch_statistics();
    let rm = s.buffer("running_mean", [co], Init::Const(0.0));
    let rv = s.buffer("running_var", [co], Init::Const(1.0));
    s.update(&rm, &(&rm * 0.9 + st.mean.reshape([co]) * 0.1));
    s.update(&rv, &(&rv * 0.9 + st.var_unbiased.reshape([co]) * 0.1));
    y.batch_norm(&st.mean, &st.var, Some(&g), Some(&b), 1e-5)
}
fn main() {
    let t0 = std::time::Instant::now();
    let s = Scope::root(Mode::Train);
    let x = s.input("x", (Batch, 3, 32, 32), DType::F32);
    let y = s.labels("y", (Batch,), DType::I32, 10, None);
    let mut h = cbn(&s.sub("stem"), &x, 3, 64, 3, 1).relu();
    let mut ci = 64;
    for (i, (co, st)) in
        [(64, 1), (64, 1), (128, 2), (128, 1), (256, 2), (256, 1), (512, 2), (512, 1)].into_iter().enumerate()
    {
        let b = s.sub(format!("b{i}"));
        let r = cbn(&b.sub("c1"), &h, ci, co, 3, st).relu();
        let r = cbn(&b.sub("c2"), &r, co, co, 3, 1);
        let sc = if ci != co { cbn(&b.sub("sc"), &h, ci, co, 1, st) } else { h.clone() };
        h = (r + sc).relu();
        ci = co;
    }
    let h = h.mean([2, 3]);
    let w = s.param("fc/weight", [10, 512], Init::Normal { mean: 0.0, std: 0.05 });
    let b = s.param("fc/bias", [10], Init::Const(0.0));
    let loss = h.linear(&w, Some(&b)).cross_entropy(&y);
    s.output("loss", &loss);
    let ids: Vec<_> = {
        let g = s.graph().borrow();
        g.slots
            .iter()
            .enumerate()
            .filter(|(_, s)| matches!(s.kind, SlotKind::Param { .. }))
            .map(|(i, sl)| (sl.name.clone(), wholestep_compiler::ir::scope::slot_node(&g, SlotId(i as u32)).unwrap()))
            .collect()
    };
    let params: Vec<Tensor> = ids.iter().map(|(_, id)| Tensor::from_node(s.graph().clone(), *id)).collect();
    let grads = gradients(&loss, &params);
    for (((name, _), p), g) in ids.iter().zip(&params).zip(&grads) {
        let m = s.slot(&format!("{name}/m"), SlotKind::State, DType::F32, p.shape(), Init::Const(0.0));
        let m1 = &m * 0.9 + g;
        s.update(&m, &m1);
        s.update(p, &(p - &m1 * 0.01));
    }
    let g = s.graph().borrow().clone();
    println!("trace {:?}", t0.elapsed());
    let t0 = std::time::Instant::now();
    let c = wholestep_compiler::compile(&g, &caps(), &mut |st| {
        if std::env::args().len() > 1 && (st.name == "plan" || st.name == "kernel" || st.number == 9) {
            println!("== {} {}\n{}", st.number, st.name, st.text)
        }
    })
    .unwrap();
    println!("{:?} {:?} launches {}", c.nodes, t0.elapsed(), c.plan.launches().len());
    let l = wholestep_compiler::plan::Layout::new(&c.plan, &caps(), 32);
    println!(
        "transient {} unshared {} persistent {}",
        l.transient_bytes >> 20,
        l.unshared_bytes >> 20,
        c.plan.persistent_bytes() >> 20
    );
    let mut n = std::collections::BTreeMap::new();
    for l in c.plan.launches() {
        *n.entry((c.plan.kernels[l.kernel as usize].kind(), l.ops.clone())).or_insert(0) += 1;
    }
    for (k, v) in n {
        println!("{v:4} {k:?}");
    }
}
