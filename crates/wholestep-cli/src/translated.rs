//! Every program of the benchmarks and of examples/*.toml, translated for Vulkan, Metal and DX12 as their drivers would get it, and to machine code of
//! NVIDIA's GPUs, on devices that translate and never run.

use crate::config::{Config, load};
use crate::{bench, train};
use std::path::Path;
use std::sync::Arc;
use wholestep::{Device, Precision, Trainer};
use wholestep_wgpu::translate::{Driver, Translator};

/// Translates what `compile` compiles, for each driver.
fn translate(name: &str, compile: &mut dyn FnMut(&Device) -> wholestep::Result<()>) {
    for driver in Driver::ALL {
        let translator = Arc::new(Translator::new(driver));
        compile(&Device::with_backend("translator", translator.clone())).unwrap_or_else(|e| panic!("{name}: {e}"));
        let n = translator.verdict().unwrap_or_else(|faults| panic!("{name}: {faults}"));
        assert!(n >= 5, "{name}: only {n} shaders for {driver:?}");
        println!("{name}: {n} shaders for {driver:?}");
    }
}

#[test]
fn the_steps_of_the_benchmarks_translate() {
    for workload in bench::WORKLOADS {
        // A search is not for 16 bits.
        for precision in PRECISIONS.iter().filter(|p| **p == Precision::F32 || !workload.is_search()) {
            let name = format!("{} in {precision:?}", workload.name);
            translate(&name, &mut |device| bench::compile(device, workload, *precision).map(drop));
        }
    }
}

#[test]
fn the_programs_of_the_configured_examples_translate() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../examples");
    let files = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    let mut files: Vec<_> = files.filter(|path| path.extension().is_some_and(|e| e == "toml")).collect();
    files.sort();
    assert!(files.len() >= 3, "{files:?}");
    for file in files {
        let mut config = Config::open(&file).unwrap();
        let data = load(&config.data, 1).unwrap();
        train::complete(&mut config, &data.train).unwrap();
        let few = data.train.head(config.train.batch_size).unwrap();
        for precision in PRECISIONS {
            config.train.precision = *precision;
            translate(&format!("{} in {precision:?}", file.display()), &mut |device| {
                let mut trainer = Trainer::new(device, config.model.clone(), config.training())?;
                trainer.prepare(few.rows())?;
                // The programs of inference: one that scores, one that predicts.
                trainer.evaluate(&few)?;
                trainer.predict(&few).map(drop)
            });
        }
    }
}

/// bf16 lies in memory as f16 does, and the table of ops has it.
const PRECISIONS: &[Precision] = &[Precision::F32, Precision::F16];

#[test]
fn the_steps_of_the_benchmarks_become_machine_code() {
    let Some(translator) = wholestep_cuda::translate::Translator::open().map(Arc::new) else { return };
    let device = Device::with_backend("translator", translator.clone());
    // A search is a loop, which this device does not run.
    for workload in bench::WORKLOADS.iter().filter(|w| !w.is_search()) {
        for precision in [Precision::F32, Precision::Bf16] {
            bench::compile(&device, workload, precision)
                .unwrap_or_else(|e| panic!("{} in {precision:?}: {e}", workload.name));
        }
    }
    let n = translator.verdict(1).unwrap_or_else(|faults| panic!("{faults}"));
    assert!(n >= 100, "only {n} texts");
    // The convolutions of the residual networks go to tensor cores: forward, and both gradients.
    let on_units = translator.count("multiply_bf16(");
    println!("{on_units} of {n} texts on tensor cores");
    assert!(on_units >= 20, "only {on_units} of {n}");
}
