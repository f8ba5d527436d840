//! Training through the library: effects on weights and files.

use wholestep::data::{Array, Dataset};
use wholestep::spec::Model;
use wholestep::train::{EarlyStopping, Ended, Loss, Metric, OptimizerSpec, StopAt, Trainer, Training};
use wholestep::Device;

/// 150 flowers, standardized.
fn iris() -> Dataset {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../../data/tables/iris.csv");
    let data = wholestep::data::sklearn_table(path).unwrap();
    wholestep::data::Standardize::fit(&data, "x").unwrap().apply(&data).unwrap()
}

fn model() -> Model {
    Model::input([4]).linear(16).relu().linear(3)
}

fn training(epochs: u32) -> Training {
    Training { epochs, batch_size: 16, seed: 3, ..Training::new(Loss::cross_entropy(), OptimizerSpec::adam(0.01)) }
}

#[test]
fn flowers_are_told_apart() {
    let (train, test) = iris().split_stratified(0.8, 1).unwrap();
    let mut trainer = Trainer::new(&Device::cpu().unwrap(), model(), training(30)).unwrap();
    let history = trainer.fit(&train, Some(&test), &mut []).unwrap();
    let (first, last) = (&history.epochs[0], history.epochs.last().unwrap());
    assert!(last.train_loss < 0.2 * first.train_loss, "{history:?}");
    assert_eq!(last.steps, 30 * 8);
    let accuracy = trainer.evaluate(&test).unwrap().numbers.accuracy.unwrap();
    assert!(accuracy >= 28.0 / 30.0, "{accuracy}");
    let _ = (Array::scalar(1f32), Ended::Epochs, EarlyStopping::new(1), StopAt { metric: Metric::Loss, value: 0.0 });
}
