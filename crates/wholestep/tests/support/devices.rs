//! The devices that a test runs on.

use wholestep::Device;

/// The host, and the first GPU there is. Without one this says that it was skipped, unless `REQUIRE_WGPU` is set.
pub fn devices() -> Vec<Device> {
    let mut all = vec![Device::cpu_with_threads(2)];
    match Device::wgpu(0) {
        Ok(gpu) => all.push(gpu),
        Err(e) if std::env::var_os("REQUIRE_WGPU").is_none() => println!("skipped: no wgpu adapter ({e})"),
        Err(e) => panic!("REQUIRE_WGPU is set and there is no adapter: {e}"),
    }
    all
}
