//! Models as data: text and back, wiring, errors, and one walk over every kind of layer.
#[path = "spec/any.rs"]
mod any;
#[path = "spec/errors.rs"]
mod errors;
#[path = "spec/every_layer.rs"]
mod every_layer;
#[path = "spec/pytorch.rs"]
mod pytorch;
#[path = "spec/models.rs"]
mod models;
