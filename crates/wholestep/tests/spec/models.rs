//! Whole models: a file by hand, wiring, scopes as PyTorch's keys, the summary.

use wholestep::nn::*;
use wholestep::spec::{Branches, Concat, Input, Join, Model, Node, Residual};
use wholestep::{Batch, DType, Scope, Shape};
use wholestep_compiler::ir::scope::Mode;

const LENET: &str = r#"
version = 1

[[inputs]]
name = "image"
shape = [1, 28, 28]

[[layers]]
type = "conv2d"
name = "conv1"
out_channels = 6
kernel = 5
padding = "same"
weight_init = { type = "kaiming_normal", fan = "out", gain = "relu" }

[[layers]]
type = "relu"

[[layers]]
type = "max_pool2d"
kernel = 2

[[layers]]
type = "conv2d"
out_channels = 16
kernel = [5, 3]
stride = [2, 1]
padding = [[0, 1], [1, 2]]
bias = false

[[layers]]
type = "flatten"

[[layers]]
type = "linear"
out_features = 10
"#;

fn slots(model: &Model) -> Vec<(String, String)> {
    let s = Scope::root(Mode::Infer);
    model.build(&s).expect("a model");
    let graph = s.graph().borrow();
    graph.slots.iter().map(|slot| (slot.name.clone(), slot.shape.to_string())).collect()
}

#[test]
fn a_file_says_a_model() {
    let from_file = Model::from_toml(LENET).expect("a model");
    let gain = Initializer::KaimingNormal { fan: Fan::Out, gain: Gain::Relu };
    let built = Model::with_inputs([Input::new("image", [1, 28, 28])])
        .layer(Node::new(Conv2dSpec::new(6, 5).same().weight_init(gain)).named("conv1"))
        .relu()
        .layer(MaxPool2d::new(2))
        .layer(Conv2dSpec::new(16, [5, 3]).stride([2, 1]).padding([(0, 1), (1, 2)]).bias(false))
        .flatten()
        .linear(10);
    assert_eq!(from_file, built);
    let names = slots(&from_file);
    let expected = [
        ("conv1/weight", "[6, 1, 5, 5]"),
        ("conv1/bias", "[6]"),
        ("3_conv2d/weight", "[16, 6, 5, 3]"),
        ("5_linear/weight", "[10, 1440]"),
        ("5_linear/bias", "[10]"),
    ];
    assert_eq!(names, expected.map(|(n, s)| (n.to_string(), s.to_string())));
}

#[test]
fn the_summary_is_a_table() {
    let block = Residual::new([
        Node::new(Conv2dSpec::new(8, 3).padding(1).stride(2).bias(false)),
        Node::new(BatchNorm2dSpec::new()),
    ])
    .shortcut([Node::new(Conv2dSpec::new(8, 1).stride(2)).named("down")]);
    let model = Model::input([3, 8, 8]).layer(block).relu().implicit_flatten(true).linear(1000);
    let expected = "\
layer             type          output        parameters
x                 input         [B, 3, 8, 8]
  0_conv2d        conv2d        [B, 8, 4, 4]         216
  1_batch_norm2d  batch_norm2d  [B, 8, 4, 4]          16
  down            conv2d        [B, 8, 4, 4]          32
0_residual        residual      [B, 8, 4, 4]         264
1_relu            relu          [B, 8, 4, 4]           0
(implicit)        flatten       [B, 128]               0
2_linear          linear        [B, 1000]        129,000
129,264 parameters, 16 kept without being learned
";
    assert_eq!(model.summary().expect("a summary").to_string(), expected);
}

#[test]
fn a_flatten_before_linear_is_never_silent() {
    let model = Model::input([3, 4, 5]).linear(2);
    let output = |m: &Model| m.build(&Scope::root(Mode::Infer)).expect("a model").output().shape();
    assert_eq!(output(&model), Shape::from((Batch, 3, 4, 2)), "the last axis, as PyTorch");
    assert_eq!(output(&model.clone().implicit_flatten(true)), Shape::from((Batch, 2)));
    let rows = model.implicit_flatten(true).summary().expect("a summary").rows;
    assert_eq!(rows.iter().map(|r| r.kind.as_str()).collect::<Vec<_>>(), ["flatten", "linear"]);
}

/// Two inputs, a tap, a join and two outputs.
#[test]
fn nodes_take_what_they_name() {
    let model = Model::with_inputs([Input::new("image", [1, 8, 8]), Input::tokens("word", [5], 20)])
        .layer(Node::new(Conv2dSpec::new(4, 3)).from(["image"]))
        .layer(Node::new(GlobalAvgPool::new()).named("seen"))
        .layer(Node::new(EmbeddingSpec::new(20, 3)).from(["word"]))
        .layer(Node::new(Flatten::new()).named("read"))
        .layer(Node::new(Concat::new(1)).from(["seen", "read"]))
        .layer(Node::new(LinearSpec::new(2)).named("class"))
        .layer(Node::new(LinearSpec::new(7)).named("extra").from(["seen"]))
        .outputs(["class", "extra"]);
    let s = Scope::root(Mode::Train);
    let built = model.build(&s).expect("a model");
    let shapes: Vec<(String, String)> = built.outputs.iter().map(|(n, t)| (n.clone(), t.shape().to_string())).collect();
    assert_eq!(shapes, [("class".into(), "[B, 2]".into()), ("extra".into(), "[B, 7]".into())]);
    let graph = s.graph().borrow();
    assert_eq!(graph.inputs[1].range.map(|r| r.n), Some(20));
    let weight = graph.slots.iter().find(|s| s.name == "class/weight").expect("a weight");
    assert_eq!(weight.shape, Shape::from([2usize, 4 + 15]));
    drop(graph);
    assert_eq!(Model::from_toml(&model.to_toml().expect("TOML")).expect("a model"), model);
}

#[test]
fn branches_run_side_by_side() {
    let conv = |c, k| vec![Node::new(Conv2dSpec::new(c, k).same()), Node::new(Relu::new())];
    let inception = Branches::new(Join::Concat { axis: 1 }, [conv(4, 1), conv(5, 3), conv(6, 5), vec![]]);
    let model = Model::input([3, 9, 7]).layer(inception);
    let built = model.build(&Scope::root(Mode::Infer)).expect("a model");
    assert_eq!(built.output().shape(), Shape::from((Batch, 4 + 5 + 6 + 3, 9, 7)));
    assert_eq!(slots(&model)[2].0, "0_branches/1/0_conv2d/weight");
}

/// The same description on another image size and a fixed batch.
#[test]
fn a_description_holds_no_batch_and_no_image_size_of_its_own() {
    let model = Model::input([3, 32, 32]).layer(Conv2dSpec::new(4, 3)).layer(GlobalAvgPool::new()).linear(2);
    let s = Scope::root(Mode::Infer);
    let x = s.input("photo", [7usize, 3, 50, 21], DType::F32);
    let built = model.forward(&s.sub("net"), &[x]).expect("a model");
    assert_eq!(built.output().shape(), Shape::from([7usize, 2]));
    assert_eq!(s.graph().borrow().slots[0].name, "net/0_conv2d/weight");
}
