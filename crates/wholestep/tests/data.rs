//! Data as a user sees them: files in, batches out. Golden files and numbers come from NumPy, pandas, Pillow and
//! scikit-learn through `tests/data/make_golden.py`.
#[path = "data/any_bytes.rs"]
mod any_bytes;
#[path = "data/csv.rs"]
mod csv;
#[path = "data/images.rs"]
mod images;
#[path = "data/known.rs"]
mod known;
#[path = "data/loader.rs"]
mod loader;
#[path = "data/npy.rs"]
mod npy;

use std::path::PathBuf;

/// A file beside `make_golden.py`.
fn golden(name: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/data/golden").join(name)
}
