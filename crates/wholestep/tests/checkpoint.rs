//! Weights on disk: bytes and damage.

#[path = "support/golden.rs"]
mod golden;

use golden::{Tensors, compare, crate_folder};
use wholestep::checkpoint::{Meta, Scaling, Weights, write_atomically};
use wholestep::data::Array;
use wholestep::nn::{BatchNorm1dSpec, LinearSpec, Momentum, Relu};
use wholestep::spec::{Model, Node};
use wholestep::train::{Loss, OptimizerSpec, Trainer, Training};
use wholestep::{Device, ErrorKind, Infer};

fn trainer(hidden: usize) -> Trainer {
    let net = Model::input([4]).linear(hidden).layer(BatchNorm1dSpec::new()).relu().linear(3);
    let settings = Training { seed: 9, ..Training::new(Loss::cross_entropy(), OptimizerSpec::adamw(0.01)) };
    let mut trainer = Trainer::new(&Device::cpu_with_threads(1), net, settings).unwrap();
    trainer.prepare(32).unwrap();
    trainer
}

fn meta() -> Meta {
    let scalings = vec![Scaling { column: "x".into(), mean: vec![0.1; 4], std: vec![3.0; 4] }];
    Meta { class_names: vec!["a".into(), "b\"".into(), "ü".into()], scalings, epoch: Some(4), ..Meta::default() }
}

#[test]
fn what_is_saved_comes_back_to_the_bit() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("w.safetensors");
    let mut first = trainer(8);
    first.save(&path, &meta()).unwrap();
    let bytes = std::fs::read(&path).unwrap();
    first.save(&path, &meta()).unwrap();
    assert_eq!(bytes, std::fs::read(&path).unwrap());
    let (weights, read) = Weights::open(&path).unwrap();
    assert_eq!(read, Meta { format: 1, ..first.meta(&meta()) });
    let mut names: Vec<String> = weights.tensors().map(|(n, _)| n.to_string()).collect();
    names.sort();
    let want = ["0_linear.bias", "0_linear.weight", "1_batch_norm1d.bias", "1_batch_norm1d.running_mean"];
    assert_eq!(names[..4], want);
    let x = Array::new((0..20).map(|i| i as f32 * 0.3 - 2.0).collect(), [5, 4]).unwrap();
    let mut second =
        Trainer::new(&Device::cpu_with_threads(2), first.model().unwrap().clone(), first.training().clone()).unwrap();
    let e = second.predict_arrays(&[("x", &x)]).unwrap_err().to_string();
    assert_eq!(e, "the model has no weights yet; call fit or load first");
    second.load(&path).unwrap();
    assert_eq!(second.predict_arrays(&[("x", &x)]).unwrap(), first.predict_arrays(&[("x", &x)]).unwrap());
    assert!(second.step().is_none(), "prediction needs no optimizer");
    // Nothing but the file is in the folder.
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 1);
}

#[test]
fn weights_of_another_model_are_refused_whole() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("w.safetensors");
    trainer(8).save(&path, &meta()).unwrap();
    let mut other = trainer(6);
    let before = other.weights().unwrap();
    let e = other.load(&path).unwrap_err();
    assert_eq!(e.kind(), ErrorKind::Checkpoint);
    let text = e.to_string();
    assert!(text.contains("the weights do not fit the model, "), "{text}");
    assert!(text.contains("\n  0_linear.weight: expected [6, 4] f32, got [8, 4] f32"), "{text}");
    assert_eq!(other.weights().unwrap(), before);
    let net = Model::input([4]).linear(8).layer(BatchNorm1dSpec::new()).relu().linear(3).relu().linear(3);
    let settings = Training::new(Loss::cross_entropy(), OptimizerSpec::adamw(0.01));
    let mut deeper = Trainer::new(&Device::cpu_with_threads(1), net, settings).unwrap();
    let text = deeper.load(&path).unwrap_err().to_string();
    assert!(
        text.ends_with("2 of its tensors differ:\n  5_linear.weight [3, 3] is missing\n  5_linear.bias [3] is missing"),
        "{text}"
    );
    let net = Model::input([4]).linear(8).layer(BatchNorm1dSpec::new()).relu();
    let settings = Training::new(Loss::cross_entropy(), OptimizerSpec::adamw(0.01));
    let mut shallower = Trainer::new(&Device::cpu_with_threads(1), net, settings).unwrap();
    let text = shallower.load(&path).unwrap_err().to_string();
    assert!(text.contains("3_linear.weight [3, 8] belongs to no part of the model"), "{text}");
}

/// `nn.Sequential(Linear(4, 6), BatchNorm1d(6), ReLU(), Linear(6, 3))` with PyTorch's names, or with those that nodes have by themselves.
fn sequential(is_named: bool, norm: BatchNorm1dSpec) -> Model {
    let nodes: [Node; 4] = [LinearSpec::new(6).into(), norm.into(), Relu::new().into(), LinearSpec::new(3).into()];
    let named = |(i, node): (usize, Node)| if is_named { node.named(i.to_string()) } else { node };
    nodes.into_iter().enumerate().map(named).fold(Model::input([4]), Model::layer)
}

fn program(model: &Model) -> Infer {
    Infer::compile(&Device::cpu_with_threads(1), 7, |s| model.build(s).unwrap().output().clone()).unwrap()
}

fn state_dict(name: &str) -> Weights {
    Weights::open(crate_folder().join(format!("tests/golden/state_dict_{name}.safetensors"))).unwrap().0
}

/// Files of PyTorch, its counters of batches in them: as they are where nodes have its names, else renamed; floats of 16 bits are widened.
#[test]
fn a_state_dict_of_pytorch_gives_its_numbers() {
    let numbers = Tensors::load("state_dict");
    let bits = |value: &Array| value.slice::<f32>().unwrap().iter().map(|x| x.to_bits()).collect::<Vec<u32>>();
    for name in ["f32", "f16", "bf16"] {
        let file = state_dict(name);
        let mut n = 0;
        for (tensor, value) in file.tensors().filter(|(tensor, _)| *tensor != "1.num_batches_tracked") {
            let want = numbers.get(&format!("{name}.{tensor}"));
            assert_eq!((value.shape(), bits(value)), (want.shape(), bits(want)), "{name} {tensor}");
            n += 1;
        }
        assert_eq!(n, if name == "f32" { 8 } else { 9 }, "tensors of {name}");
        let weights = file.renamed(|tensor| (tensor != "bits").then(|| tensor.to_string())).unwrap();
        let own = ["0_linear", "1_batch_norm1d", "3_linear"];
        let renamed = weights.clone().renamed(|tensor| {
            let (place, rest) = tensor.split_once('.')?;
            Some(format!("{}.{rest}", own.iter().find(|node| node.starts_with(place))?))
        });
        for (is_named, weights) in [(true, &weights), (false, &renamed.unwrap())] {
            let mut program = program(&sequential(is_named, BatchNorm1dSpec::new()));
            weights.load_into_infer(&mut program).unwrap();
            let got = program.run(&[("x", numbers.get("x"))]).unwrap();
            compare(name, &got, numbers.get(&format!("{name}.logits")), 1e-6).unwrap();
        }
    }
    // By its path, in a trainer, and into the step of one.
    let settings = Training::new(Loss::cross_entropy(), OptimizerSpec::adam(0.01));
    let model = sequential(true, BatchNorm1dSpec::new());
    let mut trainer = Trainer::new(&Device::cpu_with_threads(1), model, settings).unwrap();
    trainer.load(crate_folder().join("tests/golden/state_dict_f32.safetensors")).unwrap();
    trainer.prepare(32).unwrap();
    assert_eq!(trainer.step().unwrap().read("3/bias").unwrap(), *numbers.get("f32.3.bias"));
    state_dict("f16").load_fitting(trainer.step().unwrap(), |_| true).unwrap();
    assert_eq!(trainer.step().unwrap().read("3/bias").unwrap(), *numbers.get("f16.3.bias"));
    // A norm that counts its batches goes on counting.
    let mut counting = program(&sequential(true, BatchNorm1dSpec::new().momentum(Momentum::Cumulative)));
    state_dict("f32").load_into_infer(&mut counting).unwrap();
    assert_eq!(counting.read("1/num_batches_tracked").unwrap(), Array::scalar(5.0_f32));
}

#[test]
fn weights_are_made_of_tensors_and_renamed_and_no_name_is_lost() {
    let one = |x: f32| Array::from_vec(vec![x]);
    let weights = Weights::from_tensors([("a/w", one(1.0)), ("a.b", one(2.0)), ("c", one(3.0))]).unwrap();
    let names =
        |w: &Weights| w.tensors().map(|(n, v)| (n.to_string(), v.slice::<f32>().unwrap()[0])).collect::<Vec<_>>();
    let have = |list: &[(&str, f32)]| list.iter().map(|(n, x)| (n.to_string(), *x)).collect::<Vec<_>>();
    assert_eq!(names(&weights), have(&[("a.w", 1.0), ("a.b", 2.0), ("c", 3.0)]));
    let moved = weights.clone().renamed(|n| Some(n.strip_prefix("a.")?.replace('w', "x/y"))).unwrap();
    assert_eq!(names(&moved), have(&[("x.y", 1.0), ("b", 2.0)]));
    let error = weights.renamed(|n| Some(n.replace("a.w", "c"))).unwrap_err();
    assert_eq!(
        (error.kind(), error.to_string()),
        (ErrorKind::Checkpoint, "a.w and c both become c; rename them apart".to_string())
    );
    let error = Weights::from_tensors([("a.b", one(1.0)), ("a/b", one(1.0))]).unwrap_err();
    assert_eq!(error.to_string(), "two tensors are called a.b; give each a name of its own");
    // Names that differ are what renaming is for.
    let error =
        state_dict("f32").load_into_infer(&mut program(&sequential(false, BatchNorm1dSpec::new()))).unwrap_err();
    let text = error.to_string();
    assert!(text.contains("0_linear.weight [6, 4] is missing"), "{text}");
    assert!(text.contains("0.weight [6, 4] belongs to no part of the model"), "{text}");
    assert!(text.ends_with("\nWeights::renamed gives tensors the names of the model"), "{text}");
    assert!(!text.contains("num_batches_tracked"), "{text}");
}

#[test]
fn a_type_that_is_not_read_is_named_with_what_to_do() {
    let header = r#"{"n":{"dtype":"I16","shape":[1],"data_offsets":[0,2]}}"#;
    let bytes = [&(header.len() as u64).to_le_bytes(), header.as_bytes(), &[1, 0]].concat();
    let error = Weights::from_bytes(&bytes).unwrap_err();
    let want = "n holds I16 values, which this library does not read; write the file without it or as f32 (PyTorch: tensor.float())";
    assert_eq!((error.kind(), error.to_string()), (ErrorKind::Checkpoint, want.to_string()));
}

/// Tensors without elements lie at one place, so that their place gives them no order.
#[test]
fn what_a_file_holds_is_read_in_the_order_of_its_names() {
    let entries = ["d", "g", "a", "f", "b", "h", "c", "e"];
    let entries = entries.map(|name| format!(r#""{name}":{{"dtype":"F32","shape":[0],"data_offsets":[0,0]}}"#));
    let header = format!("{{{}}}", entries.join(","));
    let bytes = [&(header.len() as u64).to_le_bytes(), header.as_bytes()].concat();
    let (weights, _) = Weights::from_bytes(&bytes).unwrap();
    let names: String = weights.tensors().map(|(name, _)| name).collect();
    assert_eq!(names, "abcdefgh");
}

#[test]
fn damage_is_an_error_and_never_a_panic() {
    let bytes = trainer(8).weights().unwrap().to_bytes(&meta()).unwrap();
    assert!(Weights::from_bytes(&bytes).is_ok());
    for n in 0..bytes.len() {
        let e = Weights::from_bytes(&bytes[..n]).unwrap_err();
        assert_eq!(e.kind(), ErrorKind::Checkpoint, "{n}");
    }
    let text = |bytes: &[u8]| Weights::from_bytes(bytes).unwrap_err().to_string();
    assert_eq!(text(b"abc"), "not a whole .safetensors file: expected at least 8 bytes, got 3");
    let huge =
        "not a .safetensors file: its header would be 18446744073709551615 bytes long, at most 16777216 are sensible";
    assert_eq!(text(&[255; 64]), huge);
    assert_eq!(text(&[9, 0, 0, 0, 0, 0, 0, 0, 1]), "the file is cut short: its header is 9 bytes long, 1 bytes follow");
    // Every byte of the header changed once: an error, or weights, never a panic.
    let header = u64::from_le_bytes(bytes[..8].try_into().unwrap()) as usize;
    for at in 0..8 + header {
        for change in [1u8, 128] {
            let mut damaged = bytes.clone();
            damaged[at] ^= change;
            drop(Weights::from_bytes(&damaged));
        }
    }
    let newer =
        String::from_utf8(bytes[8..8 + header].to_vec()).unwrap().replace("\\\"format\\\":1", "\\\"format\\\":7");
    let newer = [&bytes[..8], newer.as_bytes(), &bytes[8 + header..]].concat();
    assert_eq!(text(&newer), "the metadata has format version 7, this library reads 1");
}

#[test]
fn a_file_that_cannot_be_written_leaves_the_old_one() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("w");
    write_atomically(&path, b"old").unwrap();
    // A folder in the place of the file: the rename fails after the bytes were written.
    let taken = folder.path().join("taken");
    std::fs::create_dir(&taken).unwrap();
    std::fs::write(taken.join("x"), "x").unwrap();
    assert_eq!(write_atomically(&taken, b"new").unwrap_err().kind(), ErrorKind::Io);
    assert_eq!(write_atomically(&folder.path().join("none/w"), b"new").unwrap_err().kind(), ErrorKind::Io);
    let mut left: Vec<_> = std::fs::read_dir(folder.path()).unwrap().map(|e| e.unwrap().file_name()).collect();
    left.sort();
    assert_eq!((left, std::fs::read(&path).unwrap()), (vec!["taken".into(), "w".into()], b"old".to_vec()));
}
