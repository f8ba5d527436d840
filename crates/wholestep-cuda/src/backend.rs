//! Devices by number. Takes a number and where to keep machine code, gives a backend. Never falls back to another device.

use crate::batches::LEAST_LENT;
use crate::cache::Cache;
use crate::check::Check;
use crate::choose::{Products, Settings};
use crate::executable::CudaExecutable;
use crate::gpu::{Facts, Gpu};
use crate::library::Library;
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use wholestep_compiler::backend::{Backend, DeviceError, Executable, HostMemory};
use wholestep_compiler::caps::{Caps, Language, Workgroups};
use wholestep_compiler::codegen::cuda::{self, mma};
use wholestep_compiler::ir::DType;
use wholestep_compiler::plan::{Layout, Plan};

/// An NVIDIA GPU.
pub struct CudaBackend {
    gpu: Arc<Gpu>,
    caps: Caps,
    settings: Settings,
}

/// What a backend may keep.
#[derive(Clone, Debug)]
pub struct Config {
    /// Where machine code and choices are kept between processes; without, nothing is read or written.
    pub cache: Option<PathBuf>,
    pub products: Products,
    /// Whether products of f32 may round their operands to 11 bits (TF32) in all plans and not only in those that say so: several times as fast.
    pub tf32: bool,
    /// Whether cuDNN may make convolutions, where it is there and faster.
    pub cudnn: bool,
}

impl Default for Config {
    fn default() -> Config {
        Config { cache: None, products: Products::default(), tf32: false, cudnn: true }
    }
}

/// The longest row that a loop passes over more than once: what all blocks have under way of rows of 16 bits stays in the second-level cache.
const MAX_ROW_ELEMS: usize = 65_536;
/// What the driver's own memory is aligned to.
const ALIGN_BYTES: usize = 256;
/// Parameters of a kernel take 4 KiB on all drivers; more than this makes texts that compilers are slow with.
const MAX_ARGS: usize = 64;

/// Whether this machine has an NVIDIA driver and a GPU that it sees.
pub fn has_driver() -> bool {
    Library::Driver.is_present() && Gpu::count().is_ok_and(|n| n > 0)
}

/// The GPUs that the driver sees, as "NVIDIA H100 80GB HBM3, compute capability 9.0, 79.2 GiB". None is opened.
/// Errors: there is no driver, or it does not start.
pub fn devices() -> Result<Vec<String>, DeviceError> {
    Gpu::names()
}

impl CudaBackend {
    /// GPU number `n` as the driver counts (`CUDA_VISIBLE_DEVICES` hides some). It keeps nothing on disk.
    /// Errors: there is none, or the driver or NVRTC is missing.
    pub fn new(n: usize) -> Result<CudaBackend, DeviceError> {
        CudaBackend::with(n, Config::default())
    }

    /// The same, which keeps what `config` says.
    /// Errors: as [`CudaBackend::new`].
    pub fn with(n: usize, config: Config) -> Result<CudaBackend, DeviceError> {
        let Config { cache, products, tf32, cudnn } = config;
        let cache = cache.map(Cache::new);
        // Nothing can be timed before these are there.
        let first = if matches!(products, Products::Timed(_)) { &Check::texts()[..] } else { &[] };
        let gpu = Gpu::open(n, cache.clone(), products != Products::Own, first)?;
        let caps = caps(&gpu.facts);
        Ok(CudaBackend { gpu: Arc::new(gpu), caps, settings: Settings { apart: false, products, tf32, cudnn, cache } })
    }

    /// The same with a kernel of its own, or more, for each launch: what a small step in one kernel is compared with.
    pub fn apart(self) -> CudaBackend {
        CudaBackend { settings: Settings { apart: true, ..self.settings }, ..self }
    }
}

/// The compute capability from which there are matrix units of the kind that kernels use, and copies to shared memory beside other work.
const MATRIX_UNITS_FROM: u32 = 80;

/// What kernels may rely on.
pub fn caps(facts: &Facts) -> Caps {
    let (major, minor) = (facts.arch / 10, facts.arch % 10);
    Caps {
        name: format!("cuda, {} (compute capability {major}.{minor})", facts.name),
        dtypes: vec![
            DType::F32,
            DType::F64,
            DType::F16,
            DType::BF16,
            DType::I32,
            DType::I64,
            DType::U32,
            DType::U8,
            DType::Bool,
        ],
        memory_bytes: Some(facts.memory_bytes),
        align_bytes: ALIGN_BYTES,
        max_row_elems: MAX_ROW_ELEMS,
        contract_scratch_bytes: cuda::contract_scratch_bytes,
        max_args: MAX_ARGS,
        byte_bytes: 1,
        long_bytes: 8,
        max_buffer_bytes: usize::MAX,
        loops: facts.loops,
        workgroups: Some(Workgroups {
            language: Language::Cuda,
            threads: 1024,
            shared_bytes: facts.shared_bytes,
            per_axis: 65_535,
            subgroup: Some((32, 32)),
            f16: true,
            long: true,
            tiles: if facts.arch >= MATRIX_UNITS_FROM { vec![mma::UNIT] } else { Vec::new() },
        }),
    }
}

impl Backend for CudaBackend {
    fn caps(&self) -> Caps {
        self.caps.clone()
    }

    fn load(&self, plan: &Plan, layout: &Layout) -> Result<Box<dyn Executable>, DeviceError> {
        self.load_as(plan, layout, &BTreeMap::new())
    }

    fn load_as(
        &self,
        plan: &Plan,
        layout: &Layout,
        choices: &BTreeMap<String, String>,
    ) -> Result<Box<dyn Executable>, DeviceError> {
        let (queue, caps) = (Box::new(self.gpu.queue()?), self.caps.clone());
        let settings = self.settings.of(plan);
        Ok(Box::new(CudaExecutable::new(queue, caps, plan, layout, &settings, choices)?))
    }

    fn host_memory(&self, bytes: usize) -> Result<Option<Arc<dyn HostMemory>>, DeviceError> {
        let is_worth_it = bytes >= LEAST_LENT;
        is_worth_it.then(|| self.gpu.host_memory(bytes)).transpose()
    }
}
