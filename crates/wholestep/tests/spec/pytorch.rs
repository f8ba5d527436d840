//! A ResNet said as data against the one that PyTorch ran: the same keys, the same shapes, the same logits, loss and gradients.

use safetensors::SafeTensors;
use wholestep::checkpoint::Weights;
use wholestep::nn::*;
use wholestep::spec::{Add, Input, Model, Node, Sequential};
use wholestep::{DType, Device, Infer, Scope, Tensor};
use wholestep_compiler::autodiff::gradients;
use wholestep_compiler::eval::eval;
use wholestep_compiler::ir::scope::{Mode, slot_node};
use wholestep_compiler::ir::{SlotId, SlotKind};

fn conv(out: usize, kernel: usize, stride: usize) -> Conv2dSpec {
    Conv2dSpec::new(out, kernel).stride(stride).padding(kernel / 2).bias(false)
}

fn norm() -> BatchNorm2dSpec {
    BatchNorm2dSpec::new()
}

/// PyTorch's BasicBlock, wired inside so that its keys are PyTorch's.
fn block(out: usize, stride: usize) -> Sequential {
    let mut layers = vec![
        Node::new(conv(out, 3, stride)).named("conv1"),
        Node::new(norm()).named("bn1"),
        Node::new(Relu::new()),
        Node::new(conv(out, 3, 1)).named("conv2"),
        Node::new(norm()).named("bn2"),
    ];
    let shortcut = if stride > 1 {
        let down = Sequential::new([Node::new(conv(out, 1, stride)).named("0"), Node::new(norm()).named("1")]);
        layers.push(Node::new(down).named("down").from(["input"]));
        "down"
    } else {
        "input"
    };
    layers.push(Node::new(Add {}).from(["bn2", shortcut]));
    layers.push(Node::new(Relu::new()));
    Sequential::new(layers)
}

fn resnet() -> Model {
    Model::with_inputs([Input::new("x", [3, 12, 12])])
        .layer(Node::new(conv(6, 3, 2)).named("conv"))
        .layer(Node::new(norm()).named("bn"))
        .relu()
        .layer(Node::new(block(6, 1)).named("block1"))
        .layer(Node::new(block(10, 2)).named("block2"))
        .layer(GlobalAvgPool::new())
        .layer(Node::new(LinearSpec::new(4)).named("fc"))
}

fn floats(tensors: &SafeTensors, key: &str) -> Vec<f64> {
    let view = tensors.tensor(key).unwrap_or_else(|_| panic!("no {key}"));
    view.data().as_chunks::<4>().0.iter().map(|&b| f64::from(f32::from_le_bytes(b))).collect()
}

fn close(what: &str, got: &[f64], expected: &[f64]) {
    assert_eq!(got.len(), expected.len(), "{what}");
    let scale = expected.iter().fold(0f64, |m, v| m.max(v.abs()));
    let worst = got.iter().zip(expected).map(|(g, e)| (g - e).abs()).fold(0f64, f64::max);
    assert!(worst <= 1e-5 * (1.0 + scale), "{what} differs by {worst} of {scale}");
}

#[test]
fn a_resnet_has_the_keys_and_numbers_of_pytorch() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/golden/truth_resnet.safetensors");
    let bytes = std::fs::read(path).expect("golden file");
    let tensors = SafeTensors::deserialize(&bytes).expect("golden tensors");
    let s = Scope::root(Mode::Train);
    let built = resnet().build(&s).expect("a model");
    let logits = built.output().clone();
    let labels = s.input("one_hot", logits.shape(), DType::F32);
    let loss = -((logits.log_softmax(1) * &labels).sum(1).mean(..));

    let slots = s.graph().borrow().slots.clone();
    let key = |name: &str| name.replace('/', ".");
    // Loading is all or nothing: every key has a place of its shape, and no place is left. PyTorch's counters of batches have none.
    let (theirs, _) = Weights::from_bytes(&bytes).expect("weights");
    let theirs = theirs.renamed(|name| Some(name.strip_prefix("init.")?.to_string())).expect("names");
    assert!(theirs.tensors().any(|(name, _)| name == "block2.down.1.num_batches_tracked"));
    let mut program =
        Infer::compile(&Device::cpu_with_threads(1), 1, |s| resnet().build(s).expect("a model").output().clone())
            .expect("a program");
    theirs.load_into_infer(&mut program).expect("the state_dict fits");
    let loaded = program.read("block2/down/1/running_var").expect("a statistic");
    let read: Vec<f64> = loaded.slice::<f32>().expect("floats").iter().map(|&x| f64::from(x)).collect();
    assert_eq!(read, floats(&tensors, "init.block2.down.1.running_var"));

    let learned: Vec<usize> = (0..slots.len()).filter(|&i| matches!(slots[i].kind, SlotKind::Param { .. })).collect();
    let mut wrt = Vec::new();
    for &i in &learned {
        let id = slot_node(&s.graph().borrow(), SlotId(i as u32)).expect("a parameter");
        wrt.push(Tensor::from_node(s.graph().clone(), id));
    }
    let grads = gradients(&loss, &wrt);
    let graph = s.graph().borrow().clone();
    assert_eq!(graph.error, None);
    let batch = 8;
    let x = floats(&tensors, "x")[..batch * 3 * 12 * 12].to_vec();
    let y = tensors.tensor("y").expect("labels").data().as_chunks::<8>().0[..batch].to_vec();
    let one_hot =
        y.iter().flat_map(|&b| (0..4).map(move |c| f64::from(u8::from(i64::from_le_bytes(b) == c)))).collect();
    let values: Vec<Vec<f64>> =
        slots.iter().map(|slot| floats(&tensors, &format!("init.{}", key(&slot.name)))).collect();
    let done = eval(&graph, batch, &[x, one_hot], &values);
    close("logits", &done.value(logits.id()).data, &floats(&tensors, "logits"));
    close("loss", &done.value(loss.id()).data, &floats(&tensors, "loss"));
    for (&i, grad) in learned.iter().zip(&grads) {
        let name = format!("grad.{}", key(&slots[i].name));
        close(&name, &done.value(grad.id()).data, &floats(&tensors, &name));
    }
}
