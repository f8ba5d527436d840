//! Numbers that PyTorch made. Takes the name of a golden group, gives its cases and its tensors as arrays, and says how far arrays are
//! apart. Never computes anything that it compares with.

// Each test binary uses a part of it.
#![allow(dead_code)]

use safetensors::{Dtype, SafeTensors};
use serde_json::Value as Json;
use std::path::PathBuf;
use wholestep::Array;

/// Where this crate's files are. Cargo says so when it runs a test; a program that was carried to another machine is told by hand.
pub fn crate_folder() -> PathBuf {
    std::env::var_os("CARGO_MANIFEST_DIR").unwrap_or_else(|| env!("CARGO_MANIFEST_DIR").into()).into()
}

fn read(file: &str) -> Vec<u8> {
    let path = crate_folder().join("tests/golden").join(file);
    std::fs::read(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()))
}

/// `NAME.json`: what holds for all cases, and the cases.
pub fn head(name: &str) -> Json {
    serde_json::from_slice(&read(&format!("{name}.json"))).expect("the golden group is JSON")
}

/// The cases of `NAME.json`.
pub fn cases(name: &str) -> Vec<Json> {
    head(name)["cases"].as_array().expect("a list of cases").clone()
}

/// The tensors of one file.
pub struct Tensors(Vec<(String, Array)>);

impl Tensors {
    pub fn load(name: &str) -> Tensors {
        let bytes = read(&format!("{name}.safetensors"));
        let file = SafeTensors::deserialize(&bytes).expect("golden tensors are safetensors");
        let array = |view: &safetensors::tensor::TensorView| {
            let (raw, shape) = (view.data(), view.shape().to_vec());
            match view.dtype() {
                Dtype::F32 => {
                    Array::new(raw.as_chunks().0.iter().map(|b| f32::from_le_bytes(*b)).collect::<Vec<f32>>(), shape)
                }
                Dtype::I64 => {
                    Array::new(raw.as_chunks().0.iter().map(|b| i64::from_le_bytes(*b)).collect::<Vec<i64>>(), shape)
                }
                other => panic!("golden tensors are f32 or i64, not {other:?}"),
            }
        };
        let tensors = file.tensors().into_iter();
        Tensors(tensors.map(|(key, view)| (key, array(&view).expect("shape and data fit"))).collect())
    }

    pub fn get(&self, key: &str) -> &Array {
        self.0.iter().find(|(k, _)| k == key).map_or_else(|| panic!("no golden tensor {key}"), |(_, array)| array)
    }

    /// The float tensors below `prefix`, with what the model calls them: `0.weight` is the slot `0/weight`.
    pub fn floats_below(&self, prefix: &str) -> Vec<(String, &Array)> {
        let below = self.0.iter().filter_map(|(key, array)| Some((key.strip_prefix(prefix)?, array)));
        let floats = below.filter(|(_, array)| array.as_slice::<f32>().is_some());
        let found: Vec<(String, &Array)> = floats.map(|(name, array)| (name.replace('.', "/"), array)).collect();
        assert!(!found.is_empty(), "no golden tensors below {prefix}");
        found
    }
}

/// Says so where an element of `got` is further from `want` than `relative` of the largest entry of `want`, or 1e-7 where that is more.
pub fn compare(what: &str, got: &Array, want: &Array, relative: f64) -> Result<(), String> {
    if got.shape() != want.shape() {
        return Err(format!("{what}: shape {:?}, PyTorch has {:?}", got.shape(), want.shape()));
    }
    let (got, want) = (got.slice::<f32>().expect("f32"), want.slice::<f32>().expect("f32"));
    let largest = want.iter().fold(0.0, |m: f64, v| m.max(f64::from(v.abs())));
    let off = |(g, w): (&f32, &f32)| (f64::from(*g) - f64::from(*w)).abs();
    // A NaN is further away than anything.
    let worst = got.iter().zip(want).map(off).fold(0.0, |m: f64, d| if d.is_nan() { f64::INFINITY } else { m.max(d) });
    let allowed = relative * largest + 1e-7;
    if worst <= allowed {
        Ok(())
    } else {
        Err(format!("{what}: off by {worst:.2e}, allowed {allowed:.2e} (largest entry {largest:.3})"))
    }
}
