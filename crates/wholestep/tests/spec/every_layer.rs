//! Walks over the closed list of layers: each is built, differentiated, run, written, read and printed, and trained on a device.

use wholestep::checkpoint::Meta;
use wholestep::data::Dataset;
use wholestep::init::fill;
use wholestep::spec::{Input, Layer, Model, Node};
use wholestep::train::{Loss, OptimizerSpec, Trainer, Training};
use wholestep::{Array, DType, Device, Scope, Tensor};
use wholestep_compiler::autodiff::gradients;
use wholestep_compiler::eval::eval;
use wholestep_compiler::ir::scope::{Mode, slot_node};
use wholestep_compiler::ir::{SlotId, SlotKind};

/// A model whose last layer is `layer`, on an input of a shape that suits it.
fn model_with(layer: &Layer) -> Model {
    let shape: &[usize] = match layer {
        Layer::Linear(_) | Layer::Conv1d(_) | Layer::MaxPool1d(_) | Layer::AvgPool1d(_) | Layer::BatchNorm1d(_) => {
            &[4, 6]
        }
        Layer::AdaptiveAvgPool1d(_) | Layer::AdaptiveMaxPool1d(_) => &[4, 6],
        Layer::ConvTranspose1d(_) | Layer::InstanceNorm1d(_) => &[4, 6],
        Layer::LayerNorm(_) | Layer::RmsNorm(_) | Layer::Permute(_) | Layer::Unsqueeze(_) | Layer::Reshape(_) => {
            &[4, 6]
        }
        Layer::Conv3d(_) | Layer::MaxPool3d(_) | Layer::AvgPool3d(_) | Layer::BatchNorm3d(_) => &[2, 3, 4, 3],
        Layer::ConvTranspose3d(_) | Layer::InstanceNorm3d(_) => &[2, 3, 4, 3],
        Layer::AdaptiveAvgPool3d(_) | Layer::AdaptiveMaxPool3d(_) => &[2, 3, 4, 3],
        Layer::Conv2d(_) | Layer::ConvTranspose2d(_) | Layer::MaxPool2d(_) | Layer::AvgPool2d(_) => &[4, 5, 6],
        Layer::GlobalAvgPool(_) | Layer::GlobalMaxPool(_) => &[4, 5, 6],
        Layer::AdaptiveAvgPool2d(_) | Layer::AdaptiveMaxPool2d(_) | Layer::BatchNorm2d(_) => &[4, 5, 6],
        Layer::GroupNorm(_) | Layer::InstanceNorm2d(_) | Layer::Normalize(_) | Layer::ZeroPad2d(_) => &[4, 5, 6],
        Layer::Embedding(_) => &[5],
        Layer::Dropout(_) | Layer::Flatten(_) | Layer::Relu(_) | Layer::LeakyRelu(_) | Layer::Prelu(_) => &[4, 5, 6],
        Layer::Elu(_) | Layer::Selu(_) | Layer::Gelu(_) | Layer::Silu(_) | Layer::Mish(_) | Layer::Hardswish(_) => &[7],
        Layer::Softplus(_) | Layer::Sigmoid(_) | Layer::Tanh(_) | Layer::Softmax(_) | Layer::LogSoftmax(_) => &[7],
        Layer::Sequential(_) | Layer::Residual(_) | Layer::Branches(_) => &[7],
        Layer::Concat(_) | Layer::Add(_) | Layer::Mul(_) => &[7],
    };
    let joins = matches!(layer, Layer::Concat(_) | Layer::Add(_) | Layer::Mul(_));
    if matches!(layer, Layer::Embedding(_)) {
        return Model::with_inputs([Input::tokens("x", shape, 7)]).layer(layer.clone());
    }
    let model = Model::input(shape);
    match joins {
        true => model
            .layer(Node::new(wholestep::nn::Tanh::new()).named("gate"))
            .layer(Node::new(layer.clone()).from(["x", "gate"])),
        false => model.layer(layer.clone()),
    }
}

#[test]
fn every_layer_is_built_trained_saved_and_printed() {
    let samples = Layer::samples();
    let mut kinds: Vec<&str> = samples.iter().map(Layer::kind).collect();
    kinds.sort_unstable();
    kinds.dedup();
    assert_eq!(kinds.len(), samples.len(), "each kind has one sample and a name of its own");
    for layer in &samples {
        let model = model_with(layer);
        saved(&model);
        printed(&model, layer);
        trained(&model, layer);
    }
}

/// 48 rows of a model's input in three classes, which differ in their first elements.
fn rows(model: &Model) -> Dataset {
    let input = &model.inputs[0];
    let (n, each) = (48, input.shape.iter().product::<usize>());
    let shape: Vec<usize> = [n].into_iter().chain(input.shape.clone()).collect();
    let class = |i: usize| i / each % 3;
    let x = match input.classes {
        None => {
            let x = |i: usize| (i as f32 * 1.7).sin() + if i % each < 3 { 2.0 * class(i) as f32 - 2.0 } else { 0.0 };
            Array::new((0..n * each).map(x).collect(), shape)
        }
        Some(_) => Array::new((0..n * each).map(|i| (class(i) * 2 + i % 2) as u32).collect(), shape),
    };
    let y = Array::from_vec((0..n).map(|row| class(row * each) as u32).collect());
    Dataset::new([(input.name.as_str(), x.expect("rows")), ("y", y)]).expect("a data set")
}

/// Whole runs on the host's threads: whatever layer a model ends in before its classifier, it learns; its text learns the same bits; and its file
/// predicts the same.
#[test]
fn every_layer_learns_the_same_from_its_text_and_predicts_the_same_from_its_file() {
    let folder = tempfile::tempdir().expect("a folder");
    let settings =
        Training { epochs: 20, batch_size: 16, ..Training::new(Loss::cross_entropy(), OptimizerSpec::adam(0.02)) };
    let trainer = |model: &Model| Trainer::new(&Device::cpu_with_threads(2), model.clone(), settings.clone());
    for layer in &Layer::samples() {
        let model = model_with(layer).flatten().linear(3);
        let fail = |e: wholestep::Error| -> Trainer { panic!("{}: {e}", layer.kind()) };
        let data = rows(&model);
        let fitted = |model: &Model| {
            let mut run = trainer(model).unwrap_or_else(fail);
            let history = run.fit(&data, None, &mut []).unwrap_or_else(|e| panic!("{}: {e}", layer.kind()));
            (run, history.epochs.first().map(|e| e.train_loss), history.epochs.last().map(|e| e.train_loss))
        };
        let (mut run, first, last) = fitted(&model);
        assert!(
            last.zip(first).is_some_and(|(last, first)| last < 0.9 * first),
            "{}: {first:?} to {last:?}",
            layer.kind()
        );
        let (mut of_text, ..) = fitted(&Model::from_json(&model.to_json().expect("JSON")).expect("our own JSON"));
        let weights = run.weights().expect("weights");
        assert_eq!(of_text.weights().expect("weights"), weights, "{}", layer.kind());
        let file = folder.path().join(layer.kind());
        run.save(&file, &Meta::default()).expect("saved");
        let mut loaded = trainer(&model).unwrap_or_else(fail);
        loaded.load(&file).expect("loaded");
        let [here, there] = [&mut run, &mut loaded].map(|t| t.predict(&data).expect("predictions"));
        assert_eq!(here, there, "{}", layer.kind());
    }
}

fn saved(model: &Model) {
    let toml = model.to_toml().expect("TOML");
    assert_eq!(&Model::from_toml(&toml).expect(&toml), model, "{toml}");
    let json = model.to_json().expect("JSON");
    assert_eq!(&Model::from_json(&json).expect(&json), model, "{json}");
}

fn printed(model: &Model, layer: &Layer) {
    let summary = model.summary().unwrap_or_else(|e| panic!("{}: {e}", layer.kind()));
    let row = summary.rows.last().expect("a row");
    assert_eq!(row.kind, layer.kind());
    let text = summary.to_string();
    assert!(text.contains(layer.kind()) && text.contains(&row.output.to_string()), "{text}");
}

/// One step of gradient descent in f64 must lower a loss, and inference must trace too.
fn trained(model: &Model, layer: &Layer) {
    let kind = layer.kind();
    model.build(&Scope::root(Mode::Infer)).unwrap_or_else(|e| panic!("{kind}: {e}"));
    let s = Scope::root(Mode::Train);
    let built = model.build(&s).unwrap_or_else(|e| panic!("{kind}: {e}"));
    let y = built.output();
    // Not constant for softmax and norms, whose plain sums are.
    let weights = s.input("weights", y.shape(), DType::F32);
    let loss = (y * &weights).sum(..);
    let slots = s.graph().borrow().slots.clone();
    let learned: Vec<usize> = (0..slots.len()).filter(|&i| matches!(slots[i].kind, SlotKind::Param { .. })).collect();
    let mut wrt: Vec<Tensor> = Vec::new();
    for &i in &learned {
        let id = slot_node(&s.graph().borrow(), SlotId(i as u32)).expect("a parameter");
        wrt.push(Tensor::from_node(s.graph().clone(), id));
    }
    let x = &built.inputs[0].1;
    if x.dtype().is_float() {
        wrt.push(x.clone());
    }
    let grads = gradients(&loss, &wrt);
    let graph = s.graph().borrow().clone();
    assert_eq!(graph.error, None, "{kind}");
    let batch = 3;
    let wave = |n: usize, f: f64| (0..n).map(|i| (f * (i + 1) as f64).sin()).collect::<Vec<f64>>();
    let n_x = x.shape().numel_at(batch);
    let data = if x.dtype().is_float() { wave(n_x, 1.3) } else { (0..n_x).map(|i| (i % 7) as f64).collect() };
    let values: Vec<Vec<f64>> = slots
        .iter()
        .map(
            |slot| if slot.name == "key" { vec![1.0, 2.0] } else { fill(slot, 5).into_iter().map(f64::from).collect() },
        )
        .collect();
    let inputs = [data, wave(y.shape().numel_at(batch), 0.7)];
    let before = eval(&graph, batch, &inputs, &values);
    let (mut moved, mut stepped, mut slope) = (inputs.clone(), values.clone(), 0.0);
    let rate = 1e-6;
    for (k, grad) in grads.iter().enumerate() {
        let g = &before.value(grad.id()).data;
        slope += g.iter().map(|v| v * v).sum::<f64>();
        let target = learned.get(k).map_or(&mut moved[0], |&i| &mut stepped[i]);
        target.iter_mut().zip(g).for_each(|(v, g)| *v -= rate * g);
    }
    assert!(slope > 0.0, "{kind}: no gradient reaches parameters or input");
    let after = eval(&graph, batch, &moved, &stepped);
    let gain = before.value(loss.id()).data[0] - after.value(loss.id()).data[0];
    assert!(
        (gain / (rate * slope) - 1.0).abs() < 1e-2,
        "{kind}: the loss fell by {gain}, the gradient promised {}",
        rate * slope
    );
}
