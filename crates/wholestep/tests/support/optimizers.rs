//! Every optimizer that takes one gradient a step, by its name in files. Takes a name and a rate, gives the optimizer with its defaults.

use wholestep::train::OptimizerSpec;

pub const OPTIMIZERS: [&str; 14] = [
    "sgd",
    "adam",
    "adamw",
    "rmsprop",
    "adagrad",
    "adadelta",
    "nadam",
    "radam",
    "adamax",
    "lion",
    "muon",
    "lamb",
    "adafactor",
    "schedule_free_adamw",
];

pub fn of_kind(name: &str, lr: f64) -> OptimizerSpec {
    serde_json::from_value(serde_json::json!({ "type": name, "lr": lr })).unwrap_or_else(|e| panic!("{name}: {e}"))
}
