//! Adapters: takes a number, gives an open device and what it can do. Never falls back to another adapter without a word.

use crate::cache::Cache;
use crate::executable::WgpuExecutable;
use crate::tune::{Config, Tune};
use parking_lot::MutexGuard;
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};
use wholestep_compiler::backend::{Backend, DeviceError, Executable};
use wholestep_compiler::caps::{Caps, Language, Workgroups};
use wholestep_compiler::codegen::wgsl;
use wholestep_compiler::ir::DType;
use wholestep_compiler::plan::{Layout, Plan};

/// A GPU, or a software one.
pub struct WgpuBackend {
    pub(crate) gpu: Arc<Gpu>,
    is_apart: bool,
}

/// An open device.
pub(crate) struct Gpu {
    pub device: wgpu::Device,
    pub queue: wgpu::Queue,
    pub caps: Caps,
    pub limits: wgpu::Limits,
    /// Nanoseconds of one tick of the device's clock, where it can be read.
    pub tick_ns: Option<f32>,
    /// Whether the device runs beside the host's processors, which then may watch it rather than sleep.
    can_watch: bool,
    /// Whether contractions are timed at their first use, and how long one plan may take for that.
    pub tunes: bool,
    pub budget: Duration,
    pub cache: Option<Cache>,
    /// The driver's compiled pipelines.
    pub pipelines: Option<wgpu::PipelineCache>,
    /// Who submits or polls holds it: wgpu-core fails an assertion of its own, or a value that is waited for is not there yet, where one
    /// thread finds finished work between two looks of another.
    turn: parking_lot::Mutex<()>,
    /// The first error that no call returned; a loss stays.
    fault: Arc<Mutex<Option<DeviceError>>>,
}

/// The longest row that a loop passes over more than once.
const MAX_ROW_ELEMS: usize = 16_384;
/// Every offset that is bound is a multiple of this: WebGPU's default.
const ALIGN_BYTES: usize = 256;
/// Steps that are shorter are waited for awake: a driver takes tens of microseconds to wake a sleeper.
const WATCHED: Duration = Duration::from_micros(500);
/// Longer ones are waited for so long at a time, so that other threads get their turn.
const NAP: Duration = Duration::from_millis(1);
/// More arguments than this make shaders that compilers are slow with.
const MAX_ARGS: u32 = 40;

impl WgpuBackend {
    /// Adapter number `n`, the fastest kind first: discrete, integrated, virtual, software. It measures nothing and keeps nothing on disk.
    /// Errors: there is no such adapter, or it does not open.
    pub fn new(n: usize) -> Result<WgpuBackend, DeviceError> {
        WgpuBackend::with(n, Config::default())
    }

    /// The same, which measures and keeps what `config` says.
    /// Errors: as [`WgpuBackend::new`].
    pub fn with(n: usize, config: Config) -> Result<WgpuBackend, DeviceError> {
        let adapters = adapters();
        if adapters.is_empty() {
            return Err(DeviceError::Absent(
                "no device for Vulkan, Metal or DX12 was found; install the GPU's driver (or, without a GPU, Mesa's software Vulkan: \
                 Debian's mesa-vulkan-drivers), or use the cpu"
                    .to_string(),
            ));
        }
        let name = |(i, a): (usize, &wgpu::Adapter)| format!("wgpu:{i}, {}", a.get_info().name);
        let names: Vec<String> = adapters.iter().enumerate().map(name).collect();
        let Some(adapter) = adapters.into_iter().nth(n) else {
            let known = names.join("; ");
            return Err(DeviceError::Absent(format!("there is no device wgpu:{n}; this machine has {known}")));
        };
        Ok(WgpuBackend { gpu: Arc::new(open(&adapter, config)?), is_apart: false })
    }

    /// The same with a dispatch of its own, or more, for each launch: what several small launches in one are compared with.
    pub fn apart(self) -> WgpuBackend {
        WgpuBackend { is_apart: true, ..self }
    }
}

/// Whether the first adapter is a GPU and no software.
pub fn has_gpu() -> bool {
    adapters().first().is_some_and(|a| a.get_info().device_type != wgpu::DeviceType::Cpu)
}

/// All adapters, the fastest kind first.
fn adapters() -> Vec<wgpu::Adapter> {
    let backends = wgpu::Backends::VULKAN | wgpu::Backends::METAL | wgpu::Backends::DX12;
    let descriptor = wgpu::InstanceDescriptor { backends, ..wgpu::InstanceDescriptor::new_without_display_handle() };
    let instance = wgpu::Instance::new(descriptor);
    let mut adapters = pollster::block_on(instance.enumerate_adapters(backends));
    adapters.sort_by_key(|a| rank(a.get_info().device_type));
    adapters
}

fn rank(kind: wgpu::DeviceType) -> u32 {
    match kind {
        wgpu::DeviceType::DiscreteGpu => 0,
        wgpu::DeviceType::IntegratedGpu => 1,
        wgpu::DeviceType::VirtualGpu => 2,
        wgpu::DeviceType::Other => 3,
        wgpu::DeviceType::Cpu => 4,
    }
}

fn open(adapter: &wgpu::Adapter, config: Config) -> Result<Gpu, DeviceError> {
    let wanted = wgpu::Features::SUBGROUP
        | wgpu::Features::SHADER_F16
        | wgpu::Features::SHADER_INT64
        | wgpu::Features::TIMESTAMP_QUERY
        | wgpu::Features::PIPELINE_CACHE;
    let features = (wanted | wgpu::Features::EXPERIMENTAL_COOPERATIVE_MATRIX) & adapter.features();
    let tiles = tiles(adapter, features);
    let limits = adapter.limits();
    let info = adapter.get_info();
    let descriptor = wgpu::DeviceDescriptor {
        label: None,
        required_features: features,
        required_limits: limits.clone(),
        memory_hints: wgpu::MemoryHints::Performance,
        // SAFETY: of what is experimental only matrix units are asked for, and the texts that use them follow their rules: all threads of a
        // subgroup take part, and every matrix lies inside of its buffer.
        experimental_features: unsafe { wgpu::ExperimentalFeatures::enabled() },
        ..Default::default()
    };
    let (device, queue) = pollster::block_on(adapter.request_device(&descriptor))
        .map_err(|e| DeviceError::Absent(format!("{} does not open: {e}", info.name)))?;
    let fault = Arc::new(Mutex::new(None));
    let note = {
        let fault = fault.clone();
        move |error: DeviceError| {
            if let Ok(mut first) = fault.lock() {
                keep(&mut first, error);
            }
        }
    };
    let note_lost = note.clone();
    device.set_device_lost_callback(move |_, why| note_lost(DeviceError::Lost(why)));
    device.on_uncaptured_error(Arc::new(move |error: wgpu::Error| {
        note(match error {
            wgpu::Error::OutOfMemory { .. } => {
                DeviceError::OutOfMemory { wanted_bytes: 0, what: "a buffer of the step".to_string() }
            }
            other => DeviceError::Unsupported(format!("what was made for it: {other}")),
        })
    }));
    let tick_ns = features.contains(wgpu::Features::TIMESTAMP_QUERY).then(|| queue.get_timestamp_period());
    let caps = caps(&info, &limits, features, tiles);
    let can_watch = info.device_type != wgpu::DeviceType::Cpu;
    let (tunes, keeps) = match config.tune {
        Tune::Never => (false, true),
        Tune::OnGpu => (can_watch, can_watch),
        Tune::Always => (true, true),
    };
    let cache = config.cache.filter(|_| keeps).map(|folder| Cache::new(folder, &info));
    let pipelines = cache.as_ref().filter(|_| features.contains(wgpu::Features::PIPELINE_CACHE)).map(|cache| {
        let data = cache.pipelines();
        let descriptor = wgpu::PipelineCacheDescriptor { label: None, data: data.as_deref(), fallback: true };
        // SAFETY: the data come from `get_data`: their checksum holds, and the file's name is that of this device and driver.
        unsafe { device.create_pipeline_cache(&descriptor) }
    });
    let budget = config.budget;
    Ok(Gpu {
        device,
        queue,
        caps,
        limits,
        tick_ns,
        can_watch,
        tunes,
        budget,
        cache,
        pipelines,
        turn: parking_lot::Mutex::new(()),
        fault,
    })
}

/// Matrix units that multiply f16 and add in f32.
fn tiles(adapter: &wgpu::Adapter, features: wgpu::Features) -> Vec<[u32; 3]> {
    if !features.contains(wgpu::Features::EXPERIMENTAL_COOPERATIVE_MATRIX | wgpu::Features::SHADER_F16) {
        return Vec::new();
    }
    use wgpu::CooperativeScalarType::{F16, F32};
    let all = adapter.cooperative_matrix_properties();
    all.iter().filter(|t| (t.ab_type, t.cr_type) == (F16, F32)).map(|t| [t.m_size, t.n_size, t.k_size]).collect()
}

/// Keeps the first error; a loss goes before it and stays, since what fails beside it says less.
fn keep(first: &mut Option<DeviceError>, error: DeviceError) {
    let is_lost = |e: &DeviceError| matches!(e, DeviceError::Lost(_));
    if first.is_none() || (is_lost(&error) && !first.as_ref().is_some_and(is_lost)) {
        *first = Some(error);
    }
}

fn caps(info: &wgpu::AdapterInfo, limits: &wgpu::Limits, features: wgpu::Features, tiles: Vec<[u32; 3]>) -> Caps {
    let subgroups = features.contains(wgpu::Features::SUBGROUP);
    // Metal does not say; Apple's own GPUs, which are those with matrix units there, have subgroups of 32.
    let is_apple = info.backend == wgpu::Backend::Metal && !tiles.is_empty();
    let subgroup = if is_apple { (32, 32) } else { (info.subgroup_min_size, info.subgroup_max_size) };
    Caps {
        name: format!("wgpu, {} ({:?})", info.name, info.backend).to_string(),
        dtypes: vec![DType::F32, DType::F16, DType::BF16, DType::I32, DType::U32, DType::U8, DType::Bool],
        memory_bytes: None,
        align_bytes: ALIGN_BYTES.max(limits.min_storage_buffer_offset_alignment as usize),
        max_row_elems: MAX_ROW_ELEMS,
        contract_scratch_bytes: wgsl::contract_scratch_bytes,
        // One for the scratch that two dispatches of a kernel share.
        max_args: (limits.max_storage_buffers_per_shader_stage - 1).min(MAX_ARGS) as usize,
        byte_bytes: 4,
        long_bytes: 4,
        max_buffer_bytes: usize::try_from(limits.max_buffer_size).unwrap_or(usize::MAX),
        loops: false,
        workgroups: Some(Workgroups {
            language: Language::Wgsl,
            threads: limits.max_compute_invocations_per_workgroup.min(limits.max_compute_workgroup_size_x),
            shared_bytes: limits.max_compute_workgroup_storage_size,
            per_axis: limits.max_compute_workgroups_per_dimension,
            subgroup: subgroups.then_some(subgroup),
            f16: features.contains(wgpu::Features::SHADER_F16),
            long: features.contains(wgpu::Features::SHADER_INT64),
            tiles,
        }),
    }
}

impl Gpu {
    /// The first error since the last call that no other call returned. A lost device is lost for all later calls.
    pub fn check(&self) -> Result<(), DeviceError> {
        let Ok(mut fault) = self.fault.lock() else { return Ok(()) };
        let found = if matches!(*fault, Some(DeviceError::Lost(_))) { fault.clone() } else { fault.take() };
        found.map_or(Ok(()), Err)
    }

    /// Hands commands to the device, after what was written to buffers before.
    pub fn submit(&self, commands: impl IntoIterator<Item = wgpu::CommandBuffer>) -> wgpu::SubmissionIndex {
        let turn = self.turn.lock();
        let submission = self.queue.submit(commands);
        MutexGuard::unlock_fair(turn);
        submission
    }

    /// Waits until `submission`, or all work, is done.
    pub fn wait(&self, submission: Option<wgpu::SubmissionIndex>) -> Result<(), DeviceError> {
        let started = Instant::now();
        let done = loop {
            let is_watched = self.can_watch && started.elapsed() < WATCHED;
            let timeout = Some(if is_watched { Duration::ZERO } else { NAP });
            let turn = self.turn.lock();
            let done = self.device.poll(wgpu::PollType::Wait { submission_index: submission.clone(), timeout });
            MutexGuard::unlock_fair(turn);
            if !matches!(done, Err(wgpu::PollError::Timeout)) {
                break done;
            }
        };
        if let (Err(e), Ok(mut fault)) = (done, self.fault.lock()) {
            keep(&mut fault, DeviceError::Lost(e.to_string()));
        }
        self.check()
    }
}

impl Backend for WgpuBackend {
    fn caps(&self) -> Caps {
        self.gpu.caps.clone()
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
        Ok(Box::new(WgpuExecutable::new(self.gpu.clone(), plan, layout, self.is_apart, choices)?))
    }
}

#[cfg(test)]
mod tests {
    use super::WgpuBackend;
    use wholestep_compiler::backend::{Backend, DeviceError, Executable};
    use wholestep_compiler::ir::scope::Mode;
    use wholestep_compiler::ir::{Batch, DType, Scope};
    use wholestep_compiler::plan::Layout;

    /// The first adapter, if there is one or must be.
    fn backend() -> Option<WgpuBackend> {
        match WgpuBackend::new(0) {
            Ok(backend) => Some(backend),
            Err(DeviceError::Absent(why)) if std::env::var_os("REQUIRE_WGPU").is_none() => {
                println!("skipped: no wgpu adapter ({why})");
                None
            }
            Err(e) => panic!("REQUIRE_WGPU is set and the device does not open: {e}"),
        }
    }

    /// `x + 1` for batches up to `max_batch`, of `width` numbers a row.
    fn load(backend: &WgpuBackend, width: usize, max_batch: usize) -> Result<Box<dyn Executable>, DeviceError> {
        let s = Scope::root(Mode::Infer);
        s.output("y", &(s.input("x", (Batch, width), DType::F32) + 1.0));
        let plan = wholestep_compiler::compile(&s.graph().borrow(), &backend.caps(), &mut |_| {}).unwrap().plan;
        backend.load(&plan, &Layout::new(&plan, &backend.caps(), max_batch))
    }

    #[test]
    fn a_lost_device_says_so_from_then_on_and_what_to_do() {
        let Some(backend) = backend() else { return };
        let mut exe = load(&backend, 2, 1).unwrap();
        exe.run(1, 1, &[&[0; 8]]).unwrap();
        let mut y = [0; 8];
        exe.read_output(0, &mut y).unwrap();
        assert_eq!(y, *bytemuck::bytes_of(&[1.0_f32; 2]));
        backend.gpu.device.destroy();
        for _ in 0..2 {
            let error = exe.run(1, 1, &[&[0; 8]]).and_then(|()| exe.read_output(0, &mut y)).unwrap_err();
            assert!(matches!(error, DeviceError::Lost(_)), "{error:?}");
            assert!(error.to_string().contains("open it anew and go on from the last checkpoint"), "{error}");
        }
        let error = load(&backend, 2, 1).err().unwrap();
        assert!(matches!(error, DeviceError::Lost(_)), "{error:?}");
    }

    #[test]
    fn what_is_too_large_for_the_device_says_how_large_and_what_to_do() {
        let Some(backend) = backend() else { return };
        // One row more than a buffer holds.
        let rows = backend.gpu.limits.max_buffer_size / 4096 + 1;
        let error = load(&backend, 1024, rows as usize).err().unwrap();
        let DeviceError::OutOfMemory { wanted_bytes, what } = &error else { panic!("{error:?}") };
        assert!(*wanted_bytes >= rows * 4096 && what.contains("at most"), "{error}");
        assert!(error.to_string().ends_with("a smaller batch needs less"), "{error}");
        // And the device goes on.
        let mut exe = load(&backend, 2, 1).unwrap();
        exe.run(1, 1, &[&[0; 8]]).unwrap();
    }
}
