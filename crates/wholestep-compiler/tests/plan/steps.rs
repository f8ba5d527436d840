//! Small whole training steps for the plan tests: a network, its loss, gradients and an optimizer.

use wholestep_compiler::autodiff::gradients;
use wholestep_compiler::ir::scope::Mode;
use wholestep_compiler::ir::{Batch, DType, Graph, Init, Scope, SlotKind, Tensor};
use wholestep_compiler::ops::conv::{ConvOptions, Padding};
use wholestep_compiler::ops::pool::PoolOptions;

/// A parameter with values that are nothing special.
pub fn param(s: &Scope, name: &str, shape: &[usize]) -> Tensor {
    let n: usize = shape.iter().product();
    let values = (0..n).map(|i| ((i * 37 + 11 * name.len()) % 23) as f32 / 40.0 - 0.25).collect();
    s.param(name, shape, Init::Values(values))
}

fn conv(s: &Scope, name: &str, x: &Tensor, c_in: usize, c_out: usize, k: usize, stride: usize) -> Tensor {
    let w = param(&s.sub(name), "weight", &[c_out, c_in, k, k]);
    let options = ConvOptions { stride: [stride; 2], padding: Padding::all(k / 2), ..Default::default() };
    x.conv2d(&w, None, &options)
}

/// Batch normalization with running statistics, by hand.
fn norm(s: &Scope, name: &str, x: &Tensor, c: usize) -> Tensor {
    let s = s.sub(name);
    let (gamma, beta) = (param(&s, "weight", &[c]), param(&s, "bias", &[c]));
    let mean = x.mean([0, 2, 3]);
    let centred = x - mean.reshape((1, c, 1, 1));
    let var = centred.square().mean([0, 2, 3]);
    let running = s.buffer("running_mean", [c], Init::Const(0.0));
    s.update(&running, &(&running * 0.9 + &mean * 0.1));
    let scale = (var + 1e-5).rsqrt() * &gamma;
    centred * scale.reshape((1, c, 1, 1)) + beta.reshape((1, c, 1, 1))
}

/// Convolutions, batch normalization, a strided residual block, max pooling, a linear head, cross-entropy.
pub fn cnn(momentum: bool, clip: bool) -> Graph {
    let s = Scope::root(Mode::Train);
    let x = s.input("x", (Batch, 2, 6, 6), DType::F32);
    let y = s.labels("y", (Batch,), DType::I32, 3, None);
    let stem = norm(&s, "bn0", &conv(&s, "conv0", &x, 2, 4, 3, 1), 4).relu();
    let body = norm(&s, "bn1", &conv(&s, "conv1", &stem, 4, 5, 3, 2), 5).relu();
    let body = norm(&s, "bn2", &conv(&s, "conv2", &body, 5, 5, 3, 1), 5);
    let short = norm(&s, "bn3", &conv(&s, "conv3", &stem, 4, 5, 1, 2), 5);
    let h = (body + short).relu().max_pool2d(&PoolOptions { stride: [1; 2], ..PoolOptions::new([2, 2]) });
    let h = h.flatten(1, -1);
    let fc = s.sub("fc");
    let logits = h.linear(&param(&fc, "weight", &[3, 20]), Some(&param(&fc, "bias", &[3])));
    s.output("logits", &logits);
    finish(&s, &logits.cross_entropy(&y), momentum, clip)
}

/// Loss, gradients, clipping and descent with momentum.
pub fn finish(s: &Scope, loss: &Tensor, momentum: bool, clip: bool) -> Graph {
    s.output("loss", loss);
    let params: Vec<(String, Tensor)> = {
        let graph = s.graph().borrow();
        let ids = graph.ids().filter_map(|id| match &graph.node(id).op {
            wholestep_compiler::ir::Op::Leaf(wholestep_compiler::ir::op::Leaf::Slot { id: slot, .. }) => {
                let slot = graph.slot(*slot);
                matches!(slot.kind, SlotKind::Param { .. })
                    .then(|| (slot.name.clone(), Tensor::from_node(s.graph().clone(), id)))
            }
            _ => None,
        });
        ids.collect()
    };
    let tensors: Vec<Tensor> = params.iter().map(|(_, p)| p.clone()).collect();
    let mut grads = gradients(loss, &tensors);
    if clip {
        let norm = grads.iter().map(|g| g.square().sum(..)).reduce(|a, b| a + b).unwrap().sqrt();
        grads = grads.iter().map(|g| g / &norm).collect();
    }
    for ((name, p), g) in params.iter().zip(&grads) {
        let step = if momentum {
            let m = s.slot(&format!("{name}/m"), SlotKind::State, DType::F32, p.shape(), Init::Const(0.5));
            let new = &m * 0.9 + g;
            s.update(&m, &new);
            new
        } else {
            g.clone()
        };
        s.update(p, &(p - &step * 0.1));
    }
    s.graph().borrow().clone()
}
