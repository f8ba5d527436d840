//! The device under test. Takes `WHOLESTEP_DEVICE`, gives that device, or else the host's threads with an arena that is filled with NaN before
//! each step. Never hides a read of what was not written.

use wholestep::Device;
use wholestep_cpu::Config;

pub fn poisoned() -> Device {
    match std::env::var("WHOLESTEP_DEVICE") {
        Ok(name) if name != "cpu" => Device::named(&name).expect("the device under test is there"),
        _ => Device::cpu_with(Config { n_threads: 2, poison: true, ..Config::detect() }),
    }
}
