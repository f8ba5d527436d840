//! Devices. Takes a name or nothing, gives something that runs compiled steps. Never falls back without a word: a device that was asked for
//! and is not there is an error.

use crate::env::env;
use crate::{Error, ErrorKind, Result};
use std::sync::Arc;
use wholestep_compiler::backend::Backend;
use wholestep_cpu::{Config, CpuBackend};

/// A device that runs compiled steps. Cheap to clone; clones share threads and queues.
#[derive(Clone)]
pub struct Device {
    name: &'static str,
    backend: Arc<dyn Backend + Send + Sync>,
}

impl Device {
    /// The device that `WHOLESTEP_DEVICE` names, else the fastest there is: today the host's threads.
    /// Errors: the named device is unknown or absent.
    pub fn best() -> Result<Device> {
        match env()?.device.as_deref() {
            None => Device::cpu(),
            Some(name) => Device::named(name),
        }
    }

    /// The device called `name`: `cpu`, `wgpu` or, where there are several, `wgpu:1`.
    /// Errors: there is none of that name, or this build or machine lacks it.
    pub fn named(name: &str) -> Result<Device> {
        let (kind, number) = name.split_once(':').unwrap_or((name, "0"));
        match (kind, number.parse()) {
            ("cpu", _) if kind == name => Device::cpu(),
            ("wgpu", Ok(n)) => Device::wgpu(n),
            _ => {
                let known = if cfg!(feature = "wgpu") { "cpu, wgpu, wgpu:1 .." } else { "cpu" };
                Err(Error::new(ErrorKind::Device, format!("no device is called {name}; this build has: {known}")))
            }
        }
    }

    /// GPU number `n` through Metal, Vulkan or DX12; discrete GPUs come first, software ones last. Contractions are timed at their first use
    /// and what was found out is kept on disk, as `WHOLESTEP_CACHE` says.
    /// Errors: there is none, or this build lacks the feature `wgpu`.
    #[cfg(feature = "wgpu")]
    pub fn wgpu(n: usize) -> Result<Device> {
        use etcetera::BaseStrategy;
        use wholestep_wgpu::{Config, Tune};
        let config = match env()?.cache.as_deref() {
            Some("off") => Config::default(),
            Some(folder) => Config { cache: Some(folder.into()), tune: Tune::Always, ..Config::default() },
            None => {
                let system = etcetera::base_strategy::choose_native_strategy().ok();
                let cache = system.map(|s| s.cache_dir().join("wholestep"));
                Config { cache, tune: Tune::OnGpu, ..Config::default() }
            }
        };
        Device::wgpu_with(n, config)
    }

    /// GPU number `n`, which times and keeps what `config` says.
    /// Errors: as [`Device::wgpu`].
    #[cfg(feature = "wgpu")]
    pub fn wgpu_with(n: usize, config: wholestep_wgpu::Config) -> Result<Device> {
        let backend = wholestep_wgpu::WgpuBackend::with(n, config).map_err(crate::step::device_failed)?;
        Ok(Device { name: "wgpu", backend: Arc::new(backend) })
    }

    /// GPU number `n` through Metal, Vulkan or DX12.
    /// Errors: always, since this build lacks the feature `wgpu`.
    #[cfg(not(feature = "wgpu"))]
    pub fn wgpu(_n: usize) -> Result<Device> {
        let message = "this build has no wgpu; build it with the feature `wgpu`";
        Err(Error::new(ErrorKind::Device, message.to_string()))
    }

    /// The host's threads: `WHOLESTEP_THREADS`, else one per core.
    pub fn cpu() -> Result<Device> {
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        Ok(Device::cpu_with_threads(env()?.threads.unwrap_or(cores)))
    }

    /// `n_threads` of the host's threads, at least 1. The number changes no bit of any result.
    pub fn cpu_with_threads(n_threads: usize) -> Device {
        Device::cpu_with(Config { n_threads: n_threads.max(1), ..Config::detect() })
    }

    /// The host's threads as `config` says: a lower instruction set, or memory that is poisoned before each step to find reads of what
    /// was never written.
    pub fn cpu_with(config: Config) -> Device {
        Device { name: "cpu", backend: Arc::new(CpuBackend::new(config)) }
    }

    /// A device of your own, under a name that says what it is.
    pub fn with_backend(name: &'static str, backend: Arc<dyn Backend + Send + Sync>) -> Device {
        Device { name, backend }
    }

    /// "cpu" or "wgpu", or what a device of your own is called.
    pub fn name(&self) -> &'static str {
        self.name
    }

    pub(crate) fn backend(&self) -> &dyn Backend {
        &*self.backend
    }
}

impl std::fmt::Debug for Device {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.backend.caps().name)
    }
}
