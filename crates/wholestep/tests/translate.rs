//! Every program that the examples compile, translated for Vulkan, Metal and DX12 as their drivers would get it, and to machine code of NVIDIA's GPUs. The examples run as they are, on a
//! device that translates and never runs, so that none of their losses means anything here.
#![cfg(all(feature = "wgpu", feature = "cuda"))]
// Each example brings the module that they share.
#![allow(clippy::duplicate_mod)]

use std::collections::BTreeSet;
use std::path::Path;
use std::process::ExitCode;
use std::sync::Arc;
use wholestep::{Array, Batch, DType, Device, Dim, Infer, Init, Result, Scope};
use wholestep_wgpu::translate::{Driver, Translator};

/// The examples as modules, and a list of them: name, and what runs it for one step.
macro_rules! examples {
    ($($path:literal $name:ident)*) => {
        $(
            // Nothing calls its `main`.
            #[allow(dead_code)]
            #[path = $path]
            mod $name;
        )*
        const EXAMPLES: &[(&str, fn(Device) -> Result<ExitCode>)] =
            &[$((stringify!($name), |device| $name::example($name::run::Run::new(device, Some(1))))),*];
    };
}

examples! {
    "../examples/cnn.rs" cnn
    "../examples/iris_pipeline.rs" iris_pipeline
    "../examples/mlp_tutorial.rs" mlp_tutorial
    "../examples/oscillator.rs" oscillator
    "../examples/quick_start.rs" quick_start
    "../examples/regression.rs" regression
    "../examples/residual_mnist.rs" residual_mnist
    "../examples/sine.rs" sine
    "../examples/tensors.rs" tensors
}

#[test]
fn every_example_is_here() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("examples");
    let files = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    let names = files.filter(|path| path.extension().is_some_and(|e| e == "rs"));
    let there: BTreeSet<String> = names.map(|path| path.file_stem().unwrap().to_str().unwrap().to_string()).collect();
    let here: BTreeSet<String> = EXAMPLES.iter().map(|(name, _)| name.to_string()).collect();
    assert_eq!(here, there);
}

#[test]
fn every_program_of_every_example_translates() {
    for driver in Driver::ALL {
        for (name, run) in EXAMPLES {
            let translator = Arc::new(Translator::new(driver));
            run(Device::with_backend("translator", translator.clone())).unwrap_or_else(|e| panic!("{name}: {e}"));
            let n = translator.verdict().unwrap_or_else(|faults| panic!("{name}: {faults}"));
            assert!(n >= 5, "{name}: only {n} shaders for {driver:?}");
            println!("{name}: {n} shaders for {driver:?}");
        }
    }
}

#[test]
fn every_program_of_every_example_becomes_machine_code() {
    let Some(translator) = wholestep_cuda::translate::Translator::open().map(Arc::new) else { return };
    for (name, run) in EXAMPLES {
        run(Device::with_backend("translator", translator.clone())).unwrap_or_else(|e| panic!("{name}: {e}"));
    }
    let n = translator.verdict(1).unwrap_or_else(|faults| panic!("{faults}"));
    assert!(n >= 100, "only {n} texts");
}

/// A sum over the distances of 70,000 points to each other: no value of it is large, and the loop has more points than 32 bits count.
#[test]
fn a_loop_that_a_gpu_cannot_count_is_refused() {
    let translator = || Device::with_backend("translator", Arc::new(Translator::new(Driver::ALL[0])));
    let distances = |s: &Scope, n: Dim| {
        let x = s.input("x", (n, 1usize), DType::F32);
        (&x - s.param("y", [1usize, 70_000], Init::Const(0.0))).abs().sum(..)
    };
    let at_once = Infer::compile(&translator(), 1, |s| distances(s, 70_000.into()));
    let error = at_once.expect_err("4.9e9 points do not fit").to_string();
    assert!(error.contains(" runs over 4900000000 points at batch size 1, and "), "{error}");
    let mut grows = Infer::compile(&translator(), 1, |s| distances(s, Batch)).unwrap();
    let x = Array::new(vec![0f32; 70_000], [70_000, 1]).unwrap();
    let error = grows.run(&[("x", &x)]).unwrap_err().to_string();
    assert!(error.contains(" runs over 4900000000 points at batch size 70000, and "), "{error}");
    grows.run(&[("x", &x.slice_rows(0, 60_000).unwrap())]).unwrap();
}
