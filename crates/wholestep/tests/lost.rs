//! A device that is lost while a run goes on: the run ends with an error that says so, what was saved stays, and on another device it goes on to the
//! bits of a run that nothing befell. The device here is the cpu, which fails from one of its calls on as a GPU does after an error of its memory.

#[path = "support/around.rs"]
mod around;

use around::{Around, Wrapped};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use wholestep::data::random::Philox;
use wholestep::data::{Array, Dataset};
use wholestep::nn::{BatchNorm1dSpec, DropoutSpec};
use wholestep::optim::AdamW;
use wholestep::spec::Model;
use wholestep::step::Snapshot;
use wholestep::train::{Checkpoints, Loss, Trainer, Training, newest};
use wholestep::{Device, ErrorKind};
use wholestep_compiler::backend::{Backend, DeviceError, Executable};
use wholestep_compiler::caps::Caps;
use wholestep_compiler::plan::{Layout, Plan};
use wholestep_cpu::{Config, CpuBackend};

/// What the cuda device makes of the driver's error.
const WHY: &str = "running a step: CUDA_ERROR_ECC_UNCORRECTABLE, uncorrectable ECC error encountered";

struct Failing {
    cpu: CpuBackend,
    calls: Arc<Calls>,
}

/// How many calls there were, and the first that fails.
struct Calls {
    made: AtomicUsize,
    good: usize,
}

impl Calls {
    fn one(&self) -> Result<(), DeviceError> {
        let is_good = self.made.fetch_add(1, SeqCst) < self.good;
        if is_good { Ok(()) } else { Err(DeviceError::Lost(WHY.to_string())) }
    }
}

impl Backend for Failing {
    fn caps(&self) -> Caps {
        self.cpu.caps()
    }

    fn load(&self, plan: &Plan, layout: &Layout) -> Result<Box<dyn Executable>, DeviceError> {
        self.calls.one()?;
        Ok(Box::new(Wrapped { cpu: self.cpu.load(plan, layout)?, around: Counted(self.calls.clone()) }))
    }
}

/// The calls of one executable.
struct Counted(Arc<Calls>);

impl Around for Counted {
    fn before(&mut self, _cpu: &mut dyn Executable) -> Result<(), DeviceError> {
        self.0.one()
    }
}

/// A device that is lost after so many good calls.
fn failing(good: usize) -> (Device, Arc<Calls>) {
    let calls = Arc::new(Calls { made: AtomicUsize::new(0), good });
    let cpu = CpuBackend::new(Config { n_threads: 1, ..Config::detect() });
    (Device::with_backend("failing", Arc::new(Failing { cpu, calls: calls.clone() })), calls)
}

fn data() -> (Dataset, Dataset) {
    let mut random = Philox::new(5, 0);
    let n = 150;
    let x: Vec<f32> = (0..n * 4).map(|_| random.uniform(-0.5, 0.5) as f32).collect();
    let y: Vec<u32> = x.chunks(4).map(|row| u32::from(row[0] * row[1] > 0.0)).collect();
    let set = Dataset::new([("x", Array::new(x, [n, 4]).unwrap()), ("y", Array::from_vec(y))]).unwrap();
    set.split(0.8, 3).unwrap()
}

fn trainer(device: &Device, folder: &Path) -> Trainer {
    let model = Model::input([4]).linear(8).layer(BatchNorm1dSpec::new()).relu().layer(DropoutSpec::new(0.2)).linear(2);
    let training = Training {
        epochs: 4,
        batch_size: 16,
        seed: 3,
        ..Training::new(Loss::cross_entropy(), AdamW::new(0.01).into())
    };
    let mut trainer = Trainer::new(device, model, training).unwrap();
    trainer.set_checkpoints(Checkpoints::new(folder).every_steps(3));
    trainer
}

fn end(trainer: &mut Trainer) -> Snapshot {
    trainer.step().unwrap().snapshot().unwrap()
}

#[test]
fn a_run_whose_device_is_lost_ends_with_its_checkpoint_and_goes_on_elsewhere_to_the_same_bits() {
    let (train, validation) = data();
    let whole = tempfile::tempdir().unwrap();
    let (device, calls) = failing(usize::MAX);
    let mut undisturbed = trainer(&device, whole.path());
    undisturbed.fit(&train, Some(&validation), &mut []).unwrap();
    let (total, want) = (calls.made.load(SeqCst), end(&mut undisturbed));
    assert!(total > 60, "{total} calls: too few to fail at");
    let (mut from_nothing, mut from_a_checkpoint) = (0, 0);
    // Every 7th call: loading, writing first values, steps, reading losses, copies for checkpoints.
    for good in (0..total).step_by(7) {
        let folder = tempfile::tempdir().unwrap();
        let mut run = trainer(&failing(good).0, folder.path());
        let error = run.fit(&train, Some(&validation), &mut []).expect_err("the device is lost");
        assert_eq!(error.kind(), ErrorKind::Device, "{good}: {error}");
        let said = error.to_string();
        assert!(said.contains(WHY) && said.contains("go on from the last checkpoint"), "{good}: {said}");
        assert!(run.weights().is_err(), "{good}: weights of a lost device are no weights");
        drop(run);
        let mut resumed = trainer(&Device::cpu_with_threads(1), folder.path());
        // That the newest opens says that it is whole: its checksums hold.
        match newest(folder.path()).unwrap_or_else(|e| panic!("{good}: {e}")) {
            Some(saved) => {
                from_a_checkpoint += 1;
                resumed.resume(saved).unwrap();
            }
            None => from_nothing += 1,
        }
        resumed.fit(&train, Some(&validation), &mut []).unwrap_or_else(|e| panic!("{good}: {e}"));
        assert!(end(&mut resumed) == want, "{good}: other bits than a run that nothing befell");
    }
    assert!(
        from_nothing >= 2 && from_a_checkpoint >= 5,
        "{from_nothing} from nothing, {from_a_checkpoint} from a checkpoint"
    );
}
