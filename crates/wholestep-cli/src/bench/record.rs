//! `wholestep bench --record FOLDER`: a run that another program can repeat. Takes a workload, writes what it begins with and the loss of each step.
//! Never measures time. bench/peers/same_losses.py repeats it in PyTorch.

use super::{POOL, Workload, batches, compile};
use std::fmt::Write as _;
use std::path::Path;
use wholestep::checkpoint::{Meta, Weights};
use wholestep::data::npy;
use wholestep::{Device, Error, Precision, Result};

/// Writes to `folder`: `start.safetensors`, the weights before the first step, and `end.safetensors`, those after the last; `x0.npy`, `y0.npy` and
/// so on, the batches, used in turn; `losses.csv`, a line a step; `workload.json`. Gives the last loss.
/// Errors: the folder cannot be written to; what compiling and running a step can fail with.
pub fn record(device: &Device, workload: &Workload, precision: Precision, folder: &Path) -> Result<f32> {
    let Workload { name, batch, steps, .. } = *workload;
    std::fs::create_dir_all(folder).map_err(|e| Error::io("create", folder, e))?;
    let write = |name: &str, text: &str| {
        let path = folder.join(name);
        std::fs::write(&path, text).map_err(|e| Error::io("write", &path, e))
    };
    let rounded = format!("{precision:?}").to_lowercase();
    write("workload.json", &format!("{{\"workload\":\"{name}\",\"batch\":{batch},\"precision\":\"{rounded}\"}}\n"))?;
    let batches = batches(workload)?;
    for (i, (x, y)) in batches.iter().enumerate().take(steps) {
        npy::write(folder.join(format!("x{i}.npy")), x)?;
        npy::write(folder.join(format!("y{i}.npy")), y)?;
    }
    let mut step = compile(device, workload, precision)?;
    Weights::of(&mut step)?.save(folder.join("start.safetensors"), &Meta::default())?;
    let mut losses = "step,loss\n".to_string();
    let mut last = f32::NAN;
    for i in 0..steps {
        let (x, y) = &batches[i % POOL];
        step.run(&[("x", x), ("y", y)])?;
        last = step.loss()?;
        let _ = writeln!(losses, "{i},{last}");
    }
    write("losses.csv", &losses)?;
    Weights::of(&mut step)?.save(folder.join("end.safetensors"), &Meta::default())?;
    Ok(last)
}

#[cfg(test)]
mod tests {
    use super::super::{WORKLOADS, Workload};
    use super::{Precision, Weights, npy, record};
    use wholestep::Device;

    #[test]
    fn what_is_written_is_what_a_run_began_with() {
        let folder = tempfile::tempdir().unwrap();
        let workload = Workload { steps: 3, ..WORKLOADS[0] };
        let device = Device::cpu_with_threads(1);
        let last = record(&device, &workload, Precision::F32, folder.path()).unwrap();

        // The first loss again, from the files alone.
        let (weights, _) = Weights::open(folder.path().join("start.safetensors")).unwrap();
        let mut step = super::compile(&device, &workload, Precision::F32).unwrap();
        step.write("fc0/bias", &wholestep::Array::new(vec![9_f32; 16], [16]).unwrap()).unwrap();
        weights.load_into(&mut step).unwrap();
        let mut losses = Vec::new();
        for i in 0..3 {
            let [x, y] = ["x", "y"].map(|n| npy::read(folder.path().join(format!("{n}{i}.npy"))).unwrap());
            step.run(&[("x", &x), ("y", &y)]).unwrap();
            losses.push(step.loss().unwrap());
        }
        assert_eq!(losses[2].to_bits(), last.to_bits());
        let end = Weights::open(folder.path().join("end.safetensors")).unwrap().0;
        let now = Weights::of(&mut step).unwrap();
        assert_eq!(end.tensors().count(), 4);
        for (name, value) in end.tensors() {
            assert_eq!(now.tensors().find(|(n, _)| *n == name), Some((name, value)));
        }
        let text = std::fs::read_to_string(folder.path().join("losses.csv")).unwrap();
        assert_eq!(text, format!("step,loss\n0,{}\n1,{}\n2,{}\n", losses[0], losses[1], losses[2]));
    }
}
