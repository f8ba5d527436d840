//! `wholestep devices`. Takes nothing, gives the machine's devices, what `cuda` calls, and which device a step would run on. Trains nothing.

use crate::say;
use std::fmt::Write;
use wholestep::device::Part;
use wholestep::{Device, Result};

pub fn devices() -> Result<()> {
    let mut text = table(&Device::all());
    let _ = write!(
        text,
        "\nLibraries of cuda, which needs the first two and is faster with the next two; nothing uses NCCL yet:\n{}",
        table(&Device::cuda_libraries())
    );
    say(&text)?;
    say(&format!(
        "A step runs on: {:?}\nWHOLESTEP_DEVICE, `device` in a configuration or --device name another.",
        Device::best()?
    ))
}

fn table(parts: &[Part]) -> String {
    let mut text = String::new();
    for Part { name, what } in parts {
        let what = match what {
            Ok(what) => what.clone(),
            Err(why) => format!("not there: {why}"),
        };
        let _ = writeln!(text, "{name:9} {what}");
    }
    text
}
