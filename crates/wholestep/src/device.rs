//! Devices. Takes a name or nothing, gives something that runs compiled steps. Never falls back without a word: a device that was asked for
//! and is not there is an error.

use crate::env::env;
use crate::{Error, ErrorKind, Result};
use std::sync::Arc;
use wholestep_compiler::backend::{Backend, HostMemory};
use wholestep_cpu::{Config, CpuBackend};

/// A device that runs compiled steps. Cheap to clone; clones share threads and queues.
#[derive(Clone)]
pub struct Device {
    name: &'static str,
    backend: Arc<dyn Backend + Send + Sync>,
}

/// A device of this machine, or a library that one calls.
#[derive(Debug)]
pub struct Part {
    /// A device's as [`Device::named`] takes it, or a library's.
    pub name: String,
    /// What it is, or why it is not there and how to get it.
    pub what: Result<String>,
}

impl Device {
    /// All devices of this machine; none is opened. A kind of which there is none is listed once, with the reason.
    pub fn all() -> Vec<Part> {
        #[allow(unused_mut, reason = "a build without GPUs adds none")]
        let mut all = vec![Part {
            name: "cpu".to_string(),
            what: Device::cpu().map(|cpu| format!("{cpu:?}").trim_start_matches("cpu, ").to_string()),
        }];
        #[cfg(feature = "cuda")]
        all.extend(numbered("cuda", wholestep_cuda::devices().map_err(crate::step::device_failed)));
        #[cfg(feature = "wgpu")]
        all.extend(numbered("wgpu", wholestep_wgpu::devices().map_err(crate::step::device_failed)));
        all
    }

    /// The libraries that `cuda` calls, with their versions. Only the driver and NVRTC must be there.
    #[cfg(feature = "cuda")]
    pub fn cuda_libraries() -> Vec<Part> {
        let part = |library: wholestep_cuda::Library| Part {
            name: library.to_string(),
            what: library.version().map_err(crate::step::device_failed),
        };
        wholestep_cuda::Library::ALL.map(part).into()
    }

    /// The device that `WHOLESTEP_DEVICE` names, else the fastest there is: an NVIDIA GPU through CUDA, else another GPU, else the host's threads.
    /// With `WHOLESTEP_LOG=1` each compiled step says which it is. An NVIDIA GPU whose libraries are not all there is run in the next way, and
    /// one line on the standard error says what is missing.
    /// Errors: the named device is unknown or absent.
    pub fn best() -> Result<Device> {
        if let Some(name) = env()?.device.as_deref() {
            return Device::named(name);
        }
        #[cfg(feature = "cuda")]
        if wholestep_cuda::has_driver() {
            match Device::cuda(0) {
                Ok(device) => return Ok(device),
                Err(why) => eprintln!("not on cuda: {why}"),
            }
        }
        #[cfg(feature = "wgpu")]
        if wholestep_wgpu::has_gpu() {
            return Device::wgpu(0);
        }
        Device::cpu()
    }

    /// The device called `name`: `cpu`, `cuda`, `wgpu` or, where there are several, `cuda:1`. `cuda-without-cudnn` is cuda whose convolutions are all its own.
    /// Errors: there is none of that name, or this build or machine lacks it.
    pub fn named(name: &str) -> Result<Device> {
        let (kind, number) = name.split_once(':').unwrap_or((name, "0"));
        match (kind, number.parse()) {
            ("cpu", _) if kind == name => Device::cpu(),
            ("cuda", Ok(n)) => Device::cuda(n),
            #[cfg(feature = "cuda")]
            ("cuda-without-cudnn", Ok(n)) => {
                Device::cuda_with(n, wholestep_cuda::Config { cudnn: false, ..cuda_config()? })
            }
            ("wgpu", Ok(n)) => Device::wgpu(n),
            _ => {
                let gpus = [("cuda", cfg!(feature = "cuda")), ("wgpu", cfg!(feature = "wgpu"))];
                let known = |(kind, is_there): &(&str, bool)| is_there.then(|| format!(", {kind}, {kind}:1 .."));
                let known: String = gpus.iter().filter_map(known).collect();
                Err(Error::new(ErrorKind::Device, format!("no device is called {name}; this build has: cpu{known}")))
            }
        }
    }

    /// NVIDIA GPU number `n`, as the driver counts. Products are timed at their first use, by a kernel and by cuBLASLt where it is there; what was
    /// found out and machine code are kept on disk, as `WHOLESTEP_CACHE` says.
    /// Errors: there is none; the driver or NVRTC is missing, with how to get it; this build lacks the feature `cuda`.
    #[cfg(feature = "cuda")]
    pub fn cuda(n: usize) -> Result<Device> {
        Device::cuda_with(n, cuda_config()?)
    }

    /// NVIDIA GPU number `n`, which times, keeps and rounds as `config` says.
    /// Errors: as [`Device::cuda`].
    #[cfg(feature = "cuda")]
    pub fn cuda_with(n: usize, config: wholestep_cuda::Config) -> Result<Device> {
        let backend = wholestep_cuda::CudaBackend::with(n, config).map_err(crate::step::device_failed)?;
        Ok(Device { name: "cuda", backend: Arc::new(backend) })
    }

    /// NVIDIA GPU number `n`.
    /// Errors: always, since this build lacks the feature `cuda`.
    #[cfg(not(feature = "cuda"))]
    pub fn cuda(_n: usize) -> Result<Device> {
        let message = "this build has no cuda; build it with the feature `cuda`";
        Err(Error::new(ErrorKind::Device, message.to_string()))
    }

    /// GPU number `n` through Metal, Vulkan or DX12; discrete GPUs come first, software ones last. Contractions are timed at their first use
    /// and what was found out is kept on disk, as `WHOLESTEP_CACHE` says.
    /// Errors: there is none, or this build lacks the feature `wgpu`.
    #[cfg(feature = "wgpu")]
    pub fn wgpu(n: usize) -> Result<Device> {
        use wholestep_wgpu::{Config, Tune};
        // Where a folder is named, software GPUs time and keep as well.
        let tune = if env()?.cache.is_some() { Tune::Always } else { Tune::OnGpu };
        let config = match cache_folder()? {
            None => Config::default(),
            cache => Config { cache, tune, ..Config::default() },
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
    ///
    /// A backend, a device, a compiled step and a program are types of their own; there is no stream or command buffer to mix up.
    ///
    /// ```
    /// use wholestep::{Device, F32, Infer};
    /// let device = Device::cpu()?;
    /// let program = Infer::compile(&device, 1, |s| s.constant(1.0, F32))?;
    /// # Ok::<(), wholestep::Error>(())
    /// ```
    /// What is compiled is no device that one could compile for:
    /// ```compile_fail
    /// use wholestep::{Device, F32, Infer};
    /// let device = Device::cpu()?;
    /// let program = Infer::compile(&device, 1, |s| s.constant(1.0, F32))?;
    /// let other = Infer::compile(&program, 1, |s| s.constant(1.0, F32))?;
    /// # Ok::<(), wholestep::Error>(())
    /// ```
    /// And a backend is none before it is made one:
    /// ```compile_fail
    /// use wholestep::{F32, Infer};
    /// let backend = wholestep_cpu::CpuBackend::new(wholestep_cpu::Config::detect());
    /// let program = Infer::compile(&backend, 1, |s| s.constant(1.0, F32))?;
    /// # Ok::<(), wholestep::Error>(())
    /// ```
    pub fn with_backend(name: &'static str, backend: Arc<dyn Backend + Send + Sync>) -> Device {
        Device { name, backend }
    }

    /// "cpu", "cuda" or "wgpu", or what a device of your own is called.
    pub fn name(&self) -> &'static str {
        self.name
    }

    /// Whether it runs loops that end on the device: `while_loop`, `run_if` and what is made of them, as L-BFGS.
    pub fn runs_loops(&self) -> bool {
        self.backend.caps().loops
    }

    pub(crate) fn backend(&self) -> &dyn Backend {
        &*self.backend
    }

    /// As [`Backend::host_memory`].
    pub(crate) fn host_memory(&self, bytes: usize) -> Result<Option<Arc<dyn HostMemory>>> {
        self.backend.host_memory(bytes).map_err(crate::step::device_failed)
    }
}

/// Devices of one kind by the names that [`Device::named`] takes.
#[cfg(any(feature = "cuda", feature = "wgpu"))]
fn numbered(kind: &str, devices: Result<Vec<String>>) -> Vec<Part> {
    let none = || Err(Error::new(ErrorKind::Device, "this machine has none".to_string()));
    let part = |(n, what): (usize, Result<String>)| {
        let name = if n == 0 { kind.to_string() } else { format!("{kind}:{n}") };
        Part { name, what }
    };
    let all = match devices {
        Ok(devices) if devices.is_empty() => vec![none()],
        Ok(devices) => devices.into_iter().map(Ok).collect(),
        Err(e) => vec![Err(e)],
    };
    all.into_iter().enumerate().map(part).collect()
}

/// What a cuda device keeps and times, as `WHOLESTEP_CACHE` says.
#[cfg(feature = "cuda")]
fn cuda_config() -> Result<wholestep_cuda::Config> {
    use wholestep_cuda::{Config, Products};
    let cache = cache_folder()?;
    let timed = Products::Timed(std::time::Duration::from_secs(2));
    let products = if cache.is_some() { timed } else { Products::Table };
    Ok(Config { cache, products, ..Config::default() })
}

/// Where devices keep what they found out, as `WHOLESTEP_CACHE` says; `None` for nowhere.
#[cfg(any(feature = "cuda", feature = "wgpu"))]
fn cache_folder() -> Result<Option<std::path::PathBuf>> {
    use etcetera::BaseStrategy;
    Ok(match env()?.cache.as_deref() {
        Some("off") => None,
        Some(folder) => Some(folder.into()),
        None => etcetera::base_strategy::choose_native_strategy().ok().map(|s| s.cache_dir().join("wholestep")),
    })
}

impl std::fmt::Debug for Device {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.backend.caps().name)
    }
}
