//! Choices of kernels as users meet them: explained, kept in checkpoints, made again by a run that goes on. Without an adapter these say that
//! they were skipped, unless `REQUIRE_WGPU` is set.
#![cfg(feature = "wgpu")]

use std::path::Path;
use std::time::Duration;
use wholestep::checkpoint::{self, Checkpoint};
use wholestep::data::Dataset;
use wholestep::nn::Linear;
use wholestep::optim::Adam;
use wholestep::spec::Model;
use wholestep::train::{Checkpoints, Loss, OptimizerSpec, Trainer, Training};
use wholestep::{Array, Batch, Device, F32, Scope, Step, Tensor};
use wholestep_compiler::codegen::choice::{Choice, TILES};
use wholestep_wgpu::{Config, Tune};

/// The first adapter, which times and keeps what it finds out in `folder`.
fn device(folder: &Path) -> Option<Device> {
    let config = Config { cache: Some(folder.to_path_buf()), tune: Tune::Always, budget: Duration::from_secs(600) };
    match Device::wgpu_with(0, config) {
        Ok(device) => Some(device),
        Err(e) if std::env::var_os("REQUIRE_WGPU").is_none() => {
            println!("skipped: no wgpu adapter ({e})");
            None
        }
        Err(e) => panic!("REQUIRE_WGPU is set and there is no adapter: {e}"),
    }
}

fn model(s: &Scope) -> Tensor {
    Linear::new(&s.sub("fc"), 40, 24).forward(&s.input("x", (Batch, 40), F32)).square().mean(..)
}

/// A choice that every device can make.
fn smallest() -> String {
    let tile = TILES.iter().map(|r| r.tile).min_by_key(|t| (t.shared_bytes(), t.threads())).unwrap();
    Choice { tile, parts: 1 }.to_string()
}

fn step(step: &mut Step) {
    let x = (0..16 * 40).map(|i| (i * 37 % 101) as f32 / 50.0 - 1.0).collect();
    step.run(&[("x", &Array::new::<f32>(x, [16, 40]).unwrap())]).unwrap();
}

#[test]
fn a_checkpoint_holds_the_choices_and_a_step_made_with_them_makes_the_same_bits() {
    let folder = tempfile::tempdir().unwrap();
    let Some(tuned) = device(&folder.path().join("cache")) else { return };
    let mut first = Step::options().max_batch(16).compile(&tuned, Adam::new(0.1), model).unwrap();
    let n_timed = first.counters().timings;
    assert_eq!(n_timed, 2, "a product and its weight's gradient:\n{}", first.explain());
    assert_eq!(first.explain().matches(" (timed) in fc").count(), 2, "{}", first.explain());
    step(&mut first);
    let saved = folder.path().join("saved");
    checkpoint::save(&saved, &mut first, None).unwrap();
    let mut saved = Checkpoint::open(&saved).unwrap();
    assert_eq!(saved.record.choices.len(), 2);
    step(&mut first);
    // A device that measures nothing, and would decide by the table.
    let plain = Device::wgpu_with(0, Config::default()).unwrap();
    let options = || Step::options().max_batch(16);
    let mut second = options().choices_of(&saved.record).compile(&plain, Adam::new(0.1), model).unwrap();
    assert_eq!(second.explain().matches(" (checkpoint) in fc").count(), 2, "{}", second.explain());
    second.restore(&saved.snapshot).unwrap();
    step(&mut second);
    assert_eq!(second.snapshot().unwrap(), first.snapshot().unwrap());
    // Whatever they are.
    let text = smallest();
    saved.record.choices.values_mut().for_each(|choice| choice.clone_from(&text));
    let third = options().choices_of(&saved.record).compile(&plain, Adam::new(0.1), model).unwrap();
    assert_eq!(third.explain().matches(&format!("{text} (checkpoint)")).count(), 2, "{}", third.explain());
    // Of another device they mean nothing.
    saved.record.device += " of another kind";
    let other = options().choices_of(&saved.record).compile(&plain, Adam::new(0.1), model).unwrap();
    assert_eq!(other.explain().matches(" (table) in fc").count(), 2, "{}", other.explain());
}

#[test]
fn a_run_that_goes_on_makes_its_kernels_as_before_without_timing() {
    let folder = tempfile::tempdir().unwrap();
    let Some(tuned) = device(&folder.path().join("cache")) else { return };
    let x: Vec<f32> = (0..48 * 40).map(|i| (i * 29 % 97) as f32 / 48.0 - 1.0).collect();
    let y: Vec<f32> = (0..48 * 24).map(|i| (i % 5) as f32 - 2.0).collect();
    let data = [("x", Array::new::<f32>(x, [48, 40]).unwrap()), ("y", Array::new::<f32>(y, [48, 24]).unwrap())];
    let data = Dataset::new(data).unwrap();
    let trainer = |device: &Device, epochs: u32| {
        let settings = Training { epochs, batch_size: 16, ..Training::new(Loss::Mse {}, OptimizerSpec::adam(0.01)) };
        Trainer::new(device, Model::input([40]).linear(24), settings).unwrap()
    };
    let weights = |t: &mut Trainer| t.step().unwrap().snapshot().unwrap();
    let mut whole = trainer(&tuned, 2);
    whole.fit(&data, Some(&data), &mut []).unwrap();
    let mut half = trainer(&tuned, 1);
    half.set_checkpoints(Checkpoints::new(folder.path().join("run")));
    half.fit(&data, Some(&data), &mut []).unwrap();
    let saved = wholestep::train::newest(folder.path().join("run")).unwrap().expect("the run was saved");
    assert!(!saved.record.choices.is_empty());
    // Another machine of the same kind, whose cache is empty.
    let Some(fresh) = device(&folder.path().join("other cache")) else { return };
    let mut rest = trainer(&fresh, 2);
    rest.resume(saved.clone()).unwrap();
    rest.fit(&data, Some(&data), &mut []).unwrap();
    let step = rest.step().unwrap();
    assert!(step.explain().contains(" (checkpoint) in ") && step.counters().timings == 0, "{}", step.explain());
    assert_eq!(weights(&mut rest), weights(&mut whole));
    // A step that was made before the checkpoint was known, in another way, is made anew.
    let mut other = saved;
    let text = smallest();
    other.record.choices.values_mut().for_each(|choice| choice.clone_from(&text));
    rest.prepare(48).unwrap();
    rest.resume(other).unwrap();
    rest.fit(&data, Some(&data), &mut []).unwrap();
    let said = rest.step().unwrap().explain();
    assert!(said.contains(&format!("{text} (checkpoint)")), "{said}");
}
