//! Data for training: arrays, data sets, readers of the common file formats, and batches. Takes files and host memory,
//! gives named arrays of one batch at a time. Never runs anything on a device, and never changes a value without being asked.

pub mod array;
mod bytes;
pub mod csv;
pub mod dataset;
pub mod idx;
pub mod images;
mod known;
pub mod loader;
pub mod npy;
pub mod npz;
pub mod random;
pub mod standardize;
pub mod synthetic;

pub use array::{Array, ArrayType};
pub use dataset::Dataset;
pub use known::{fashion_mnist, mnist, sklearn_table};
pub use loader::{Batch, Loader, Loading, Position, Sample};
pub use standardize::Standardize;
