//! The devices that a test runs on.

use wholestep::Device;

/// The host, and the first GPU of each kind. Where there is none this says that it was skipped, unless `REQUIRE_WGPU` or `REQUIRE_CUDA` is set.
#[allow(dead_code, reason = "some tests are of one kind of GPU")]
pub fn devices() -> Vec<Device> {
    let gpus = [("wgpu", "REQUIRE_WGPU"), ("cuda", "REQUIRE_CUDA")];
    let gpus = gpus.iter().filter_map(|(name, required)| gpu(name, required));
    [Device::cpu_with_threads(2)].into_iter().chain(gpus).collect()
}

/// The device that `WHOLESTEP_DEVICE` names, or else so many of the host's threads.
#[allow(dead_code, reason = "some tests are of one kind of device")]
pub fn chosen(n_threads: usize) -> Device {
    match std::env::var("WHOLESTEP_DEVICE") {
        Ok(name) if name != "cpu" => Device::named(&name).expect("the device under test is there"),
        _ => Device::cpu_with_threads(n_threads),
    }
}

/// The GPU of a name; `None`, with a word, where there is none and `required` is not set.
#[allow(dead_code, reason = "some tests are of one kind of device")]
pub fn gpu(name: &str, required: &str) -> Option<Device> {
    match Device::named(name) {
        Ok(gpu) => Some(gpu),
        Err(e) if std::env::var_os(required).is_none() => {
            println!("skipped: no {name} ({e})");
            None
        }
        Err(e) => panic!("{required} is set and there is none: {e}"),
    }
}
