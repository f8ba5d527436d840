use wholestep::optim::*;
use wholestep::*;
use wholestep_compiler::ir::scope::Scope as S;
use wholestep_compiler::ops::conv::{ConvOptions, Padding};
fn lin(s: &S, x: &Tensor, i: usize, o: usize) -> Tensor {
    let b = 1.0 / (i as f64).sqrt();
    let w = s.param("weight", [o, i], Init::Uniform { lo: -b, hi: b });
    let bias = s.param("bias", [o], Init::Uniform { lo: -b, hi: b });
    x.linear(&w, Some(&bias))
}
fn conv(s: &S, x: &Tensor, ci: usize, co: usize, k: usize, st: usize, bias: bool) -> Tensor {
    let b = 1.0 / ((ci * k * k) as f64).sqrt();
    let w = s.param("weight", [co, ci, k, k], Init::Uniform { lo: -b, hi: b });
    let bias = if bias { Some(s.param("bias", [co], Init::Uniform { lo: -b, hi: b })) } else { None };
    x.conv2d(&w, bias.as_ref(), &ConvOptions { stride: [st; 2], padding: Padding::all(k / 2), ..Default::default() })
}
fn cbn(s: &S, x: &Tensor, ci: usize, co: usize, k: usize, st: usize) -> Tensor {
    let y = conv(s, x, ci, co, k, st, false);
    let g = s.param("gamma", [co], Init::Const(1.0));
    let b = s.param("beta", [co], Init::Const(0.0));
    let st = y.batch_statistics();
    let rm = s.buffer("running_mean", [co], Init::Const(0.0));
    let rv = s.buffer("running_var", [co], Init::Const(1.0));
    s.update(&rm, &(&rm * 0.9 + st.mean.reshape([co]) * 0.1));
    s.update(&rv, &(&rv * 0.9 + st.var_unbiased.reshape([co]) * 0.1));
    y.batch_norm(&st.mean, &st.var, Some(&g), Some(&b), 1e-5)
}
fn main() -> Result<()> {
    let which = std::env::args().nth(1).unwrap();
    let d = Device::best()?;
    let (b, shape): (usize, Vec<usize>) = match which.as_str() {
        "tiny" => (8, vec![10]),
        "mlp64" => (64, vec![784]),
        "mlp512" => (512, vec![784]),
        "cnn" => (64, vec![3, 32, 32]),
        _ => (32, vec![3, 32, 32]),
    };
    let classes = if which == "tiny" { 2 } else { 10 };
    let model = |s: &S| {
        let mut dims = vec![Batch];
        dims.extend(shape.iter().map(|&d| Dim::from(d)));
        let x = s.input("x", dims, DType::F32);
        let y = s.labels("y", (Batch,), DType::I32, classes, None);
        let out = match which.as_str() {
            "tiny" => {
                let h = lin(&s.sub("0"), &x, 10, 16).relu();
                lin(&s.sub("1"), &h, 16, 2)
            }
            "mlp64" | "mlp512" => {
                let h = lin(&s.sub("0"), &x, 784, 512).relu();
                let h = lin(&s.sub("1"), &h, 512, 256).relu();
                lin(&s.sub("2"), &h, 256, 10)
            }
            "cnn" => {
                let h = conv(&s.sub("0"), &x, 3, 32, 3, 1, true).relu();
                let h = conv(&s.sub("1"), &h, 32, 32, 3, 2, true).relu();
                let h = conv(&s.sub("2"), &h, 32, 64, 3, 1, true).relu();
                let h = conv(&s.sub("3"), &h, 64, 64, 3, 2, true).relu();
                let h = h.flatten(1, -1);
                let h = lin(&s.sub("4"), &h, 4096, 128).relu();
                lin(&s.sub("5"), &h, 128, 10)
            }
            _ => {
                let mut h = cbn(&s.sub("stem"), &x, 3, 64, 3, 1).relu();
                let mut ci = 64;
                for (i, (co, st)) in [(64, 1), (64, 1), (128, 2), (128, 1), (256, 2), (256, 1), (512, 2), (512, 1)]
                    .into_iter()
                    .enumerate()
                {
                    let b = s.sub(format!("b{i}"));
                    let r = cbn(&b.sub("c1"), &h, ci, co, 3, st).relu();
                    let r = cbn(&b.sub("c2"), &r, co, co, 3, 1);
                    let sc = if ci != co { cbn(&b.sub("sc"), &h, ci, co, 1, st) } else { h.clone() };
                    h = (r + sc).relu();
                    ci = co;
                }
                lin(&s.sub("fc"), &h.mean([2, 3]), 512, 10)
            }
        };
        out.cross_entropy(&y)
    };
    let t0 = std::time::Instant::now();
    let opts = Step::options().max_batch(b);
    let mut step = if which == "resnet" {
        opts.compile(&d, Sgd::new(0.01).momentum(0.9), model)?
    } else {
        opts.compile(&d, Adam::new(1e-3), model)?
    };
    println!("compile {:?} mem {:?}", t0.elapsed(), step.memory_bytes());
    let n: usize = b * shape.iter().product::<usize>();
    let mut full = vec![b];
    full.extend(&shape);
    let mut seed = 1u64;
    let mut rnd = || {
        seed = seed.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        ((seed >> 40) as f32 / (1u64 << 24) as f32 - 0.5) * 3.4
    };
    let batches: Vec<(Array, Array)> = (0..8)
        .map(|_| {
            (
                Array::new((0..n).map(|_| rnd()).collect::<Vec<f32>>(), full.clone()).unwrap(),
                Array::new(
                    (0..b).map(|_| ((rnd() + 1.7) * 2.9) as i32 % classes as i32).collect::<Vec<i32>>(),
                    vec![b],
                )
                .unwrap(),
            )
        })
        .collect();
    let steps: usize = std::env::args().nth(2).and_then(|s| s.parse().ok()).unwrap_or(50);
    let mut times = vec![];
    let mut first = 0.0;
    for i in 0..steps {
        let (x, y) = &batches[i % 8];
        let t = std::time::Instant::now();
        step.run(&[("x", x), ("y", y)])?;
        times.push(t.elapsed().as_secs_f64() * 1e3);
        if i == 0 {
            first = step.loss()?;
        }
    }
    let l = step.loss()?;
    let mut t: Vec<f64> = times[steps / 10..].to_vec();
    t.sort_by(f64::total_cmp);
    println!("first loss {first} last {l} median {:.4} ms min {:.4} ms", t[t.len() / 2], t[0]);
    step.set_profiling(true);
    for i in 0..(steps / 4).max(3) {
        let (x, y) = &batches[i % 8];
        step.run(&[("x", x), ("y", y)])?;
    }
    println!("{}", step.explain());
    Ok(())
}
