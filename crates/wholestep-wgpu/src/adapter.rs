//! Adapters: takes a number, gives an open device and what it can do. Never falls back to another adapter without a word.

use crate::cache::Cache;
use crate::copy::Copier;
use crate::executable::WgpuExecutable;
use crate::share::Holders;
use crate::tune::{Config, Tune};
use parking_lot::MutexGuard;
use std::collections::BTreeMap;
use std::sync::{Arc, LazyLock, Mutex, OnceLock};
use std::time::{Duration, Instant};
use wholestep_compiler::backend::{Backend, DeviceError, Executable};
use wholestep_compiler::caps::{Caps, Language, Workgroups};
use wholestep_compiler::codegen::wgsl;
use wholestep_compiler::ir::DType;
use wholestep_compiler::plan::{Layout, Plan};

const BACKENDS: wgpu::Backends = wgpu::Backends::VULKAN.union(wgpu::Backends::METAL).union(wgpu::Backends::DX12);

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
    /// Slots that programs copy from each other, and what copies large ones once there was one.
    pub holders: Holders,
    pub copier: OnceLock<Copier>,
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
/// Of the memory that the driver says is free: with more, some drivers move memory to the host without a word, and steps take many times as long.
const MEMORY_PERCENT: u8 = 97;
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
        let adapters = any_adapters()?;
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

/// What each adapter is, in the order of their numbers: "NVIDIA H100 80GB HBM3, Vulkan, 580.159.04". None is opened.
/// Errors: there is none.
pub fn devices() -> Result<Vec<String>, DeviceError> {
    let what = |a: &wgpu::Adapter| {
        let info = a.get_info();
        let software = if info.device_type == wgpu::DeviceType::Cpu { ", software" } else { "" };
        format!("{}, {:?}, {}{software}", info.name, info.backend, info.driver_info)
    };
    Ok(any_adapters()?.iter().map(what).collect())
}

fn any_adapters() -> Result<Vec<wgpu::Adapter>, DeviceError> {
    let adapters = adapters();
    if adapters.is_empty() {
        return Err(DeviceError::Absent(
            "no device for Vulkan, Metal or DX12 was found; install the GPU's driver (or, without a GPU, Mesa's software Vulkan: \
             Debian's mesa-vulkan-drivers), or use the cpu"
                .to_string(),
        ));
    }
    Ok(adapters)
}

/// Whether the first adapter is a GPU and no software.
pub fn has_gpu() -> bool {
    adapters().first().is_some_and(|a| a.get_info().device_type != wgpu::DeviceType::Cpu)
}

/// All adapters, the fastest kind first. They are of one instance that stays: drivers do not all bear that one thread makes an instance while another
/// ends one, and have room for so many.
fn adapters() -> Vec<wgpu::Adapter> {
    static INSTANCE: LazyLock<wgpu::Instance> = LazyLock::new(|| {
        let memory_budget_thresholds =
            wgpu::MemoryBudgetThresholds { for_resource_creation: Some(MEMORY_PERCENT), for_device_loss: None };
        wgpu::Instance::new(wgpu::InstanceDescriptor {
            backends: BACKENDS,
            memory_budget_thresholds,
            ..wgpu::InstanceDescriptor::new_without_display_handle()
        })
    });
    let mut adapters = pollster::block_on(INSTANCE.enumerate_adapters(BACKENDS));
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
    check_limits(&info.name, &limits)?;
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
    let caps = Caps { memory_bytes: memory_bytes(adapter), ..caps(&info, &limits, features, tiles) };
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
        holders: Holders::new(),
        copier: OnceLock::new(),
        fault,
    })
}

/// What every text and plan here counts on; WebGPU promises all of it, drivers of old GPUs do not.
/// Errors: what the device lacks, and what to do.
fn check_limits(name: &str, has: &wgpu::Limits) -> Result<(), DeviceError> {
    let least = wgpu::Limits::default();
    let wanted = |what: &'static str, of: fn(&wgpu::Limits) -> u64| (what, of(has), of(&least));
    let all = [
        wanted("storage buffers in a shader", |l| l.max_storage_buffers_per_shader_stage.into()),
        wanted("threads in a workgroup", |l| l.max_compute_invocations_per_workgroup.into()),
        wanted("threads along a workgroup's first axis", |l| l.max_compute_workgroup_size_x.into()),
        wanted("bytes of workgroup memory", |l| l.max_compute_workgroup_storage_size.into()),
        wanted("workgroups along an axis", |l| l.max_compute_workgroups_per_dimension.into()),
        wanted("bytes in one storage binding", |l| l.max_storage_buffer_binding_size),
        wanted("bytes in one uniform binding", |l| l.max_uniform_buffer_binding_size),
        wanted("bytes in one buffer", |l| l.max_buffer_size),
    ];
    let lacking = all.iter().filter(|(_, has, least)| has < least);
    let lacking: Vec<String> =
        lacking.map(|(what, has, least)| format!("{has} {what} where {least} are needed")).collect();
    if lacking.is_empty() {
        return Ok(());
    }
    Err(DeviceError::Absent(format!(
        "{name} cannot run steps: it has {}; update the GPU's driver, or use another device or the cpu",
        lacking.join(", ")
    )))
}

/// The device's own memory, where Vulkan tells.
#[cfg(not(target_vendor = "apple"))]
fn memory_bytes(adapter: &wgpu::Adapter) -> Option<u64> {
    /// `VK_MEMORY_HEAP_DEVICE_LOCAL_BIT`.
    const DEVICE_LOCAL: u32 = 1;
    // SAFETY: the adapter is only asked; nothing of it is kept or destroyed.
    let adapter = unsafe { adapter.as_hal::<wgpu::hal::api::Vulkan>() }?;
    let instance = adapter.shared_instance().raw_instance();
    // SAFETY: the handle is that of this instance, and both live as long as the adapter.
    let memory = unsafe { instance.get_physical_device_memory_properties(adapter.raw_physical_device()) };
    let heaps = memory.memory_heaps.iter().take(memory.memory_heap_count as usize);
    heaps.filter(|heap| heap.flags.as_raw() & DEVICE_LOCAL != 0).map(|heap| heap.size).max()
}

#[cfg(target_vendor = "apple")]
fn memory_bytes(_: &wgpu::Adapter) -> Option<u64> {
    None
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
        loops: true,
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

/// The first adapter, if there is one or must be.
#[cfg(test)]
pub(crate) fn test_backend(config: Config) -> Option<WgpuBackend> {
    match WgpuBackend::with(0, config) {
        Ok(backend) => Some(backend),
        Err(DeviceError::Absent(why)) if std::env::var_os("REQUIRE_WGPU").is_none() => {
            println!("skipped: no wgpu adapter ({why})");
            None
        }
        Err(e) => panic!("REQUIRE_WGPU is set and the device does not open: {e}"),
    }
}

#[cfg(test)]
mod tests {
    use super::{WgpuBackend, check_limits, test_backend};
    use crate::tune::Config;
    use wholestep_compiler::backend::{Backend, DeviceError, Executable};
    use wholestep_compiler::ir::scope::Mode;
    use wholestep_compiler::ir::{Batch, DType, Dim, Scope};
    use wholestep_compiler::kernel::Kernel;
    use wholestep_compiler::plan::Layout;

    fn backend() -> Option<WgpuBackend> {
        test_backend(Config::default())
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

    /// What we count is ours; this is what wgpu holds.
    #[test]
    fn steps_take_nothing_of_the_device() {
        let Some(backend) = backend() else { return };
        let mut exe = load(&backend, 8, 4).unwrap();
        let mut y = [0; 4 * 8 * 4];
        let mut held_after = |n: usize| {
            for _ in 0..n {
                exe.run(4, 1, &[&[0; 4 * 8 * 4]]).unwrap();
                exe.read_output(0, &mut y).unwrap();
            }
            let report = backend.gpu.device.generate_allocator_report();
            report.map(|r| (r.allocations.len(), r.total_allocated_bytes, r.total_reserved_bytes))
        };
        let early = held_after(100);
        assert_eq!(held_after(2000), early);
    }

    #[test]
    fn a_device_that_lacks_something_is_refused_with_all_that_it_lacks() {
        let least = wgpu::Limits::default();
        assert_eq!(check_limits("a GPU", &least), Ok(()));
        let old = wgpu::Limits {
            max_storage_buffers_per_shader_stage: 4,
            max_compute_invocations_per_workgroup: 128,
            ..least
        };
        let error = check_limits("an old GPU", &old).unwrap_err();
        assert_eq!(
            error.to_string(),
            "an old GPU cannot run steps: it has 4 storage buffers in a shader where 8 are needed, 128 threads in a workgroup where 256 are \
             needed; update the GPU's driver, or use another device or the cpu"
        );
        // What downlevel drivers of OpenGL promise is too little as well.
        assert!(matches!(check_limits("GL", &wgpu::Limits::downlevel_webgl2_defaults()), Err(DeviceError::Absent(_))));
    }

    #[test]
    fn more_than_the_device_has_is_refused_before_any_of_it_is_taken() {
        let Some(backend) = backend() else { return };
        let Some(has) = backend.caps().memory_bytes else { return };
        // Small batches come in, and 1 MiB a row is kept of them.
        let s = Scope::root(Mode::Infer);
        let x = s.input("x", (Batch, 1), DType::F32);
        s.output("y", &(x.broadcast_to((Batch, 1 << 18)) + 1.0));
        let plan = wholestep_compiler::compile(&s.graph().borrow(), &backend.caps(), &mut |_| {}).unwrap().plan;
        let layout = |max_batch| Layout::new(&plan, &backend.caps(), max_batch);
        let rows = (has >> 20) as usize + 1;
        let refused = |error: DeviceError| {
            let DeviceError::OutOfMemory { wanted_bytes, what } = &error else { panic!("{error:?}") };
            assert!(*wanted_bytes > has && what.contains(&format!("has {has}")), "{error}");
        };
        refused(backend.load(&plan, &layout(rows)).err().unwrap());
        // What is there goes on when it cannot grow.
        let mut exe = backend.load(&plan, &layout(2)).unwrap();
        let before = exe.counters();
        refused(exe.grow(&layout(rows)).unwrap_err());
        assert_eq!(exe.counters().allocated_bytes, before.allocated_bytes);
        exe.run(2, 1, &[bytemuck::cast_slice(&[1.0_f32, 2.0])]).unwrap();
        let mut y = vec![0; 2 << 20];
        exe.read_output(0, &mut y).unwrap();
        assert_eq!(y[..4], 2.0_f32.to_ne_bytes());
        assert_eq!(y[(2 << 20) - 4..], 3.0_f32.to_ne_bytes());
        exe.grow(&layout(3)).unwrap();
        exe.run(3, 1, &[bytemuck::cast_slice(&[1.0_f32, 2.0, 3.0])]).unwrap();
    }

    #[test]
    fn a_plan_whose_addresses_leave_their_buffers_is_refused() {
        let Some(backend) = backend() else { return };
        let s = Scope::root(Mode::Infer);
        s.output("y", &(s.input("x", (Batch, 4), DType::F32) + 1.0));
        let mut plan = wholestep_compiler::compile(&s.graph().borrow(), &backend.caps(), &mut |_| {}).unwrap().plan;
        let layout = Layout::new(&plan, &backend.caps(), 2);
        assert!(backend.load(&plan, &layout).is_ok());
        let Kernel::Loop(k) = &mut plan.kernels[0] else { panic!("{:?}", plan.kernels) };
        k.stores[0].map.offset = k.stores[0].map.offset + Dim::ONE;
        let error = backend.load(&plan, &layout).err().unwrap().to_string();
        assert!(error.contains("a loop reaches 1 to 4 of a") && error.contains("with 4 elements at B = 1"), "{error}");
    }

    #[test]
    fn what_is_too_large_for_the_device_says_how_large_and_what_to_do() {
        let Some(backend) = backend() else { return };
        // One row more than a buffer holds, of which little is kept.
        let s = Scope::root(Mode::Infer);
        s.output("y", &s.input("x", (Batch, 1024), DType::F32).sum(..));
        let plan = wholestep_compiler::compile(&s.graph().borrow(), &backend.caps(), &mut |_| {}).unwrap().plan;
        let rows = backend.gpu.limits.max_buffer_size / 4096 + 1;
        let error = backend.load(&plan, &Layout::new(&plan, &backend.caps(), rows as usize)).err().unwrap();
        let DeviceError::OutOfMemory { wanted_bytes, what } = &error else { panic!("{error:?}") };
        assert!(*wanted_bytes >= rows * 4096 && what.contains("at most"), "{error}");
        assert!(error.to_string().ends_with("a smaller batch needs less"), "{error}");
        // And the device goes on.
        let mut exe = load(&backend, 2, 1).unwrap();
        exe.run(1, 1, &[&[0; 8]]).unwrap();
    }
}
