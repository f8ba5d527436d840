//! The eight environment variables, each in a process of its own: what it changes can be seen.

#[path = "support/process.rs"]
mod process;

use process::{command, in_child};
use std::path::Path;
use wholestep::nn::Linear;
use wholestep::optim::Sgd;
use wholestep::train::{Loss, OptimizerSpec, Trainer, Training};
use wholestep::{Array, Batch, Device, F32, Scope, Step, Tensor, U32};

fn network(s: &Scope) -> Tensor {
    let x = s.input("x", (Batch, 4), F32);
    Linear::new(&s.sub("fc"), 4, 8).forward(&x).relu()
}

fn loss(s: &Scope) -> Tensor {
    Linear::new(&s.sub("head"), 8, 3).forward(&network(s)).cross_entropy(&s.labels("y", (Batch,), U32, 3, None))
}

/// A few steps; says what it ran on and leaves its first weights.
fn part(folder: &Path) {
    let device = match Device::best() {
        Ok(device) => device,
        Err(e) => return eprintln!("refused: {e}"),
    };
    let mut step = Step::compile(&device, Sgd::new(0.1), loss).unwrap();
    std::fs::write(folder.join("weights"), format!("{:?}", step.read("fc/weight").unwrap().slice::<f32>().unwrap()))
        .unwrap();
    let x = Array::new(vec![0.5_f32; 32], [8, 4]).unwrap();
    let y = Array::from_vec(vec![1_u32; 8]);
    for _ in 0..3 {
        step.run(&[("x", &x), ("y", &y)]).unwrap();
    }
    eprintln!("ran on {device:?}");
}

/// What such a process writes to standard error, and its folder.
fn run(variables: &[(&str, &str)]) -> (String, tempfile::TempDir) {
    let folder = tempfile::tempdir().unwrap();
    let mut process = command("each_variable_does_what_it_says", "few steps", folder.path());
    // Machines differ in what is best, and drivers say things of their own.
    process.env("WHOLESTEP_DEVICE", "cpu").envs(variables.iter().copied());
    let out = process.output().unwrap();
    (String::from_utf8(out.stderr).unwrap(), folder)
}

#[test]
fn each_variable_does_what_it_says() {
    if let Some(folder) = in_child("few steps") {
        return part(&folder);
    }
    let weights = |folder: &tempfile::TempDir| std::fs::read_to_string(folder.path().join("weights")).unwrap();
    let (plain, plain_folder) = run(&[]);
    assert!(plain.starts_with("ran on cpu, ") && plain.lines().count() == 1, "{plain}");
    let (said, _) = run(&[("WHOLESTEP_DEVICE", "tpu")]);
    assert!(said.contains("refused: no device is called tpu"), "{said}");
    let (said, _) = run(&[("WHOLESTEP_SEDE", "1")]);
    assert!(said.contains("refused: WHOLESTEP_SEDE is no variable of Wholestep"), "{said}");
    let (said, _) = run(&[("WHOLESTEP_THREADS", "3")]);
    assert!(said.contains("ran on cpu, 3 threads"), "{said}");
    let levels = ["1", "2", "3", "4"].map(|level| run(&[("WHOLESTEP_LOG", level)]).0);
    let marks = ["compiled in", "launches take", "fusions refused", "= load a"];
    for (i, said) in levels.iter().enumerate() {
        for (j, mark) in marks.iter().enumerate() {
            // Level 2 explains at the end, which holds the refusals too.
            let expected = j <= i || (j == 2 && i == 1);
            assert_eq!(said.contains(mark), expected, "level {}: {mark}\n{said}", i + 1);
        }
    }
    let (_, with_seed) = run(&[("WHOLESTEP_SEED", "5")]);
    assert_ne!(weights(&with_seed), weights(&plain_folder));
    let mut five = Step::options().seed(5).compile(&Device::cpu_with_threads(1), Sgd::new(0.1), loss).unwrap();
    assert_eq!(weights(&with_seed), format!("{:?}", five.read("fc/weight").unwrap().slice::<f32>().unwrap()));
    let dump = tempfile::tempdir().unwrap();
    run(&[("WHOLESTEP_DUMP", dump.path().to_str().unwrap())]);
    for file in ["01-step.dot", "01-step.graph.txt", "02-dce.txt", "30-plan.txt", "100-kernel.txt"] {
        let text = std::fs::read_to_string(dump.path().join(file)).unwrap_or_else(|e| panic!("{file}: {e}"));
        assert!(text.len() > 40, "{file}: {text}");
    }
    let (said, _) = run(&[("WHOLESTEP_VERIFY", "1")]);
    assert!(said.contains("agree with the f64 oracle at batch size 2"), "{said}");
    let (said, _) = run(&[("WHOLESTEP_CACHE", "off")]);
    assert_eq!(said, plain, "the cpu times nothing");
}

/// What a device of its own finds out lies where the variable says.
#[cfg(feature = "wgpu")]
#[test]
fn the_cache_is_a_folder_or_off() {
    let name = "the_cache_is_a_folder_or_off";
    if in_child("a product").is_some() {
        return match Device::best() {
            Ok(device) => {
                // Smaller ones share a dispatch, in which there is nothing to choose.
                let model = |s: &Scope| Linear::new(s, 64, 32).forward(&s.input("x", (Batch, 64), F32));
                wholestep::Infer::compile(&device, 64, model).unwrap();
                eprintln!("compiled for {device:?}");
            }
            Err(e) => eprintln!("refused: {e}"),
        };
    }
    // `None`: the folder is the system's.
    let files = |cache: Option<&str>| {
        let (folder, home) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let inside = |name: &str| home.path().join(name);
        let mut process = command(name, "a product", folder.path());
        process.envs([("WHOLESTEP_DEVICE", "wgpu"), ("WHOLESTEP_LOG", "1")]).env("XDG_CACHE_HOME", inside("system"));
        match cache {
            Some("off") => _ = process.env("WHOLESTEP_CACHE", "off"),
            Some(folder) => _ = process.env("WHOLESTEP_CACHE", inside(folder)),
            None => {}
        }
        let out = process.output().unwrap();
        let said = String::from_utf8(out.stderr).unwrap();
        if !said.contains("compiled for wgpu") {
            assert!(std::env::var_os("REQUIRE_WGPU").is_none(), "REQUIRE_WGPU is set: {said}");
            println!("skipped: {said}");
            return None;
        }
        let found = |name: &str| std::fs::read_dir(inside(name)).map_or(0, Iterator::count);
        // Drivers keep things in the system's folder too.
        Some((found("own"), found("system/wholestep"), said))
    };
    let Some((own, system, said)) = files(Some("own")) else { return };
    assert!(own >= 2 && system == 0 && said.contains("contractions in "), "{own} {system}: {said}");
    let Some((own, system, said)) = files(Some("off")) else { return };
    assert!(own + system == 0 && !said.contains("contractions in "), "{own} {system}: {said}");
    // Software devices time nothing unless they are told to: the folder appears only on a GPU.
    let Some((own, _, said)) = files(None) else { return };
    let is_software = ["llvmpipe", "SwiftShader", "lavapipe"].iter().any(|name| said.contains(name));
    assert!(own == 0 && said.contains("contractions in ") != is_software, "{said}");
}

/// The line in this file on which each model goes wrong, and the models.
const LOG_LINE: u32 = line!() + 3;
fn takes_a_logarithm_of_0(s: &Scope) -> Tensor {
    // A unit that is off has no logarithm.
    network(s).log().mean(..) + s.constant(0.0, F32)
}

fn explodes(s: &Scope) -> Tensor {
    Linear::new(&s.sub("fc"), 4, 8).forward(&s.input("x", (Batch, 4), F32)).square().mean(..)
}

/// Infinities that are never used are no fault.
fn masks(s: &Scope) -> Tensor {
    let x = network(s);
    let safe = x.greater(0.0).select(x.log(), s.constant(0.0, F32).broadcast_to(x.shape()));
    let masked = x.greater(0.5).select(&x, s.constant(f64::NEG_INFINITY, F32).broadcast_to(x.shape()));
    (safe.detach() * 0.0 + masked.exp()).mean(..)
}

fn watched(model: impl FnOnce(&Scope) -> Tensor, lr: f64, x: f32) -> String {
    let mut step = Step::compile(&Device::cpu_with_threads(1), Sgd::new(lr), model).unwrap();
    let x = Array::new(vec![0.5, -0.5, 0.25, x], [1, 4]).unwrap();
    for _ in 0..4 {
        if let Err(e) = step.run_many(1, &[("x", &x)]) {
            return format!("{:?}: {e}\n", e.kind());
        }
    }
    "finite\n".to_string()
}

#[test]
fn the_first_node_that_is_not_finite_is_named_with_scope_and_line() {
    if let Some(folder) = in_child("watched") {
        let texts = [
            watched(takes_a_logarithm_of_0, 0.1, 1.0),
            watched(explodes, 1e38, 1.0),
            watched(explodes, 0.1, f32::NAN),
            watched(masks, 0.1, 1.0),
        ];
        let settings = Training { epochs: 3, batch_size: 4, ..Training::new(Loss::Mse {}, OptimizerSpec::sgd(1e30)) };
        let mut trainer =
            Trainer::new(&Device::cpu_with_threads(1), wholestep::spec::Model::input([4]).linear(1), settings).unwrap();
        let x = Array::new(vec![0.5_f32; 64], [16, 4]).unwrap();
        let data =
            wholestep::data::Dataset::new([("x", x), ("y", Array::new(vec![1.0_f32; 16], [16, 1]).unwrap())]).unwrap();
        let fit = trainer.fit(&data, None, &mut []).unwrap_err().to_string();
        std::fs::write(folder.join("said"), format!("{}\n===\n{fit}", texts.join("\n===\n"))).unwrap();
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let name = "the_first_node_that_is_not_finite_is_named_with_scope_and_line";
    assert!(command(name, "watched", folder.path()).env("WHOLESTEP_NAN", "1").status().unwrap().success());
    let said = std::fs::read_to_string(folder.path().join("said")).unwrap();
    let said: Vec<&str> = said.split("\n===\n").collect();
    let [log, explodes, input, masks, fit] = said[..] else { panic!("{said:?}") };
    assert!(
        log.starts_with("Diverged: the first value that is not finite in step 1: log is -inf at element "),
        "{log}"
    );
    assert!(log.contains(&format!("environment.rs:{LOG_LINE}")), "line {LOG_LINE}: {log}");
    assert!(log.contains("of maximum") || log.contains("of relu") || log.contains("finite   "), "{log}");
    assert!(explodes.starts_with("Diverged: the first value that is not finite in step "), "{explodes}");
    assert!(explodes.contains("--> ") && explodes.contains("   in "), "{explodes}");
    assert!(input.contains("in step 1: input x is NaN at element 3 of [B, 4] f32"), "{input}");
    assert_eq!(masks, "finite\n");
    assert!(fit.starts_with("the first value that is not finite in step "), "{fit}");
}
