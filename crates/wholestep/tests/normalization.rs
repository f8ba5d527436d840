//! Normalization in inference: statistics that were learned, listed, replaced, reset and carried to another process.

#[path = "support/process.rs"]
mod process;

use process::{command, in_child};
use wholestep::checkpoint::Meta;
use wholestep::data::random::Philox;
use wholestep::data::{Array, Dataset};
use wholestep::nn::{BatchNorm1dSpec, BatchNorm2dSpec, Conv2dSpec, NormalizeSpec};
use wholestep::spec::Model;
use wholestep::step::{Normalization, Statistics};
use wholestep::train::{Loss, OptimizerSpec, Trainer, Training};
use wholestep::{Batch, Device, ErrorKind, F32, Infer};

const EPS: f64 = 1e-5;

fn cpu() -> Device {
    Device::cpu_with_threads(2)
}

/// Input scaling, a convolution with batch normalization, a dense layer with another one.
fn network() -> Model {
    Model::input([2, 6, 5])
        .layer(NormalizeSpec::new([0.4, -0.2], [1.5, 0.5]))
        .layer(Conv2dSpec::new(7, 3).padding(1))
        .layer(BatchNorm2dSpec::new())
        .relu()
        .flatten()
        .linear(33)
        .layer(BatchNorm1dSpec::new())
        .relu()
        .linear(3)
}

fn pictures(rows: usize) -> Dataset {
    let mut random = Philox::new(2, 0);
    let x: Vec<f32> = (0..rows * 60).map(|_| random.normal() as f32).collect();
    let y = (0..rows).map(|_| random.below(3) as u32).collect();
    Dataset::new([("x", Array::new(x, [rows, 2, 6, 5]).unwrap()), ("y", Array::from_vec(y))]).unwrap()
}

fn trained() -> Trainer {
    let settings =
        Training { epochs: 3, batch_size: 16, ..Training::new(Loss::cross_entropy(), OptimizerSpec::adam(0.01)) };
    let mut trainer = Trainer::new(&cpu(), network(), settings).unwrap();
    trainer.fit(&pictures(100), None, &mut []).unwrap();
    trainer
}

fn bits(outputs: &Array) -> Vec<u32> {
    outputs.slice::<f32>().unwrap().iter().map(|x| x.to_bits()).collect()
}

#[test]
fn another_process_predicts_the_same_bits_from_the_file() {
    if let Some(folder) = in_child("predict") {
        let (_, meta) = wholestep::checkpoint::Weights::open(folder.join("w.safetensors")).unwrap();
        let settings = Training::new(meta.loss.unwrap(), OptimizerSpec::sgd(1.0));
        let mut trainer = Trainer::new(&Device::cpu_with_threads(1), meta.model.unwrap(), settings).unwrap();
        trainer.load(folder.join("w.safetensors")).unwrap();
        let bytes: Vec<u8> =
            bits(&trainer.predict(&pictures(64)).unwrap()).iter().flat_map(|b| b.to_le_bytes()).collect();
        std::fs::write(folder.join("outputs"), bytes).unwrap();
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let mut trainer = trained();
    trainer.save(folder.path().join("w.safetensors"), &Meta::default()).unwrap();
    assert!(
        command("another_process_predicts_the_same_bits_from_the_file", "predict", folder.path())
            .status()
            .unwrap()
            .success()
    );
    let here = bits(&trainer.predict(&pictures(64)).unwrap());
    // Nor does it matter which way the weights took to what predicts: from the step itself they give the same.
    let mut copied = Infer::compile(&cpu(), 64, |s| network().build(s).unwrap().output().clone()).unwrap();
    copied.copy_from(trainer.step().unwrap()).unwrap();
    assert_eq!(bits(&copied.run(&[("x", pictures(64).column("x").unwrap())]).unwrap()), here);
    let here: Vec<u8> = here.iter().flat_map(|b| b.to_le_bytes()).collect();
    assert_eq!(std::fs::read(folder.path().join("outputs")).unwrap(), here);
}

#[test]
fn a_row_alone_gives_the_bits_that_it_gives_in_a_batch() {
    let mut trainer = trained();
    let data = pictures(64);
    let all = bits(&trainer.predict(&data).unwrap());
    let x = data.column("x").unwrap();
    for row in 0..64 {
        let one = x.slice_rows(row, row + 1).unwrap();
        let alone = bits(&trainer.predict_arrays(&[("x", &one)]).unwrap());
        assert_eq!(alone, all[3 * row..3 * row + 3], "row {row}");
    }
}

fn running(mean: &[f32], var: &[f32]) -> Statistics {
    Statistics::Running { mean: mean.to_vec(), var: var.to_vec() }
}

/// One batch normalization and nothing else, so that its formula is the whole output.
fn bare() -> Infer {
    Infer::compile(&cpu(), 8, |s| {
        wholestep::nn::BatchNorm1d::new(&s.sub("bn"), 3).forward(&s.input("x", (Batch, 3), F32))
    })
    .unwrap()
}

#[test]
fn what_is_set_is_what_the_formula_uses() {
    let mut program = bare();
    let x: Vec<f32> = (0..24).map(|i| (i as f32 * 0.9).sin() * 3.0).collect();
    let batch = Array::new(x.clone(), [8, 3]).unwrap();
    let check = |program: &mut Infer, mean: [f64; 3], var: [f64; 3]| {
        let out = program.run(&[("x", &batch)]).unwrap();
        for (i, (x, y)) in x.iter().zip(out.slice::<f32>().unwrap()).enumerate() {
            let want = (f64::from(*x) - mean[i % 3]) / (var[i % 3] + EPS).sqrt();
            assert!(
                (f64::from(*y) - want).abs() <= 1e-5 * want.abs().max(1.0),
                "element {i}: {y}, by the formula {want}"
            );
        }
    };
    check(&mut program, [0.0; 3], [1.0; 3]);
    program.set_normalization("bn", &running(&[0.5, -1.0, 2.0], &[4.0, 0.25, 0.0])).unwrap();
    check(&mut program, [0.5, -1.0, 2.0], [4.0, 0.25, 0.0]);
    program.reset_normalization("bn").unwrap();
    check(&mut program, [0.0; 3], [1.0; 3]);
}

#[test]
fn layers_are_listed_in_order_and_learned_statistics_are_not_standard() {
    let mut trainer = trained();
    let list = trainer.normalizations().unwrap();
    let names: Vec<&str> = list.iter().map(|n| n.layer.as_str()).collect();
    assert_eq!(names, ["0_normalize", "2_batch_norm2d", "6_batch_norm1d"]);
    let input = Statistics::Input { mean: vec![0.4, -0.2], std: vec![1.5, 0.5] };
    assert_eq!(list[0], Normalization { layer: "0_normalize".into(), statistics: input });
    for entry in &list[1..] {
        let Statistics::Running { mean, var } = &entry.statistics else { panic!("{entry:?}") };
        assert!(mean.iter().all(|m| *m != 0.0) && var.iter().all(|v| *v != 1.0 && *v > 0.0), "{entry:?}");
    }
}

#[test]
fn statistics_of_a_trained_model_are_replaced_saved_and_reset() {
    let folder = tempfile::tempdir().unwrap();
    let data = pictures(10);
    let mut trainer = trained();
    let learned = bits(&trainer.predict(&data).unwrap());
    let other = Statistics::Input { mean: vec![0.0, 0.1], std: vec![1.0, 2.0] };
    trainer.set_normalization("0_normalize", &other).unwrap();
    let scaled = bits(&trainer.predict(&data).unwrap());
    assert_ne!(scaled, learned);
    trainer.save(folder.path().join("w"), &Meta::default()).unwrap();
    // The file carries them, and a trainer that only loaded it changes them as well.
    let mut loaded = Trainer::new(&cpu(), network(), trainer.training().clone()).unwrap();
    assert!(loaded.normalizations().is_err());
    loaded.load(folder.path().join("w")).unwrap();
    assert_eq!(bits(&loaded.predict(&data).unwrap()), scaled);
    assert_eq!(loaded.normalizations().unwrap()[0].statistics, other);
    loaded.set_normalization("0_normalize", &Statistics::Input { mean: vec![0.4, -0.2], std: vec![1.5, 0.5] }).unwrap();
    assert_eq!(bits(&loaded.predict(&data).unwrap()), learned);
    loaded.reset_normalization("6_batch_norm1d").unwrap();
    assert_eq!(loaded.normalizations().unwrap()[2].statistics, running(&[0.0; 33], &[1.0; 33]));
    assert_ne!(bits(&loaded.predict(&data).unwrap()), learned);
}

#[test]
fn statistics_that_no_formula_can_use_are_refused_and_change_nothing() {
    let mut program = bare();
    program.set_normalization("bn", &running(&[1.0; 3], &[2.0; 3])).unwrap();
    let before = program.normalizations().unwrap();
    let good = [1.0f32; 3];
    let cases = [
        ("bm", running(&good, &good), "no normalization layer is called \"bm\"; there are [\"bn\"]"),
        ("bn", running(&[1.0; 2], &good), "bn/running_mean: expected 3 numbers, one per channel, got 2"),
        ("bn", running(&good, &[1.0; 4]), "bn/running_var: expected 3 numbers, one per channel, got 4"),
        ("bn", running(&good, &[1.0, -0.5, 1.0]), "bn/running_var: number 1 is -0.5, expected a finite number >= 0"),
        ("bn", running(&[1.0, 1.0, f32::NAN], &good), "bn/running_mean: number 2 is NaN, expected a finite number"),
        ("bn", running(&good, &[f32::INFINITY; 3]), "bn/running_var: number 0 is inf, expected a finite number >= 0"),
        (
            "bn",
            Statistics::Input { mean: good.to_vec(), std: good.to_vec() },
            "bn: it has no mean; the layer takes the other kind of statistics",
        ),
    ];
    for (layer, statistics, want) in cases {
        let e = program.set_normalization(layer, &statistics).unwrap_err();
        assert_eq!((e.kind(), e.to_string().as_str()), (ErrorKind::Input, want));
        assert_eq!(program.normalizations().unwrap(), before);
    }
    assert!(program.reset_normalization("nothing").is_err());
}
