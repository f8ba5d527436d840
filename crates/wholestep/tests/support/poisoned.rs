//! A device that fills its arena with NaN before each step. Takes nothing, gives the host's threads. Never hides a read of what was not
//! written.

use wholestep::Device;
use wholestep_cpu::Config;

pub fn poisoned() -> Device {
    Device::cpu_with(Config { n_threads: 2, poison: true, ..Config::detect() })
}
