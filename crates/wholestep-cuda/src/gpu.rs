//! The device. Takes a number, gives queues on it that do what is asked through the CUDA driver. Never drops an error: each call's is given back,
//! with the kernel's name where it was a launch.

mod pinned;
mod record;

use crate::cache::Cache;
use crate::dnn::Dnn;
use crate::driver::{Algorithm, Driver, Event, Function, Graph, Host, KernelCall, Node, Param, Stream, Work, leaves};
use crate::library::Library;
use crate::lt::Lt;
use crate::nvrtc::Nvrtc;
use crate::task::Task;
use crate::texts::Text;
use crate::units::Compiler;
use cudarc::driver::{CudaContext, DriverError, sys};
use pinned::{Pinned, pinned, unpinned};
use std::collections::BTreeMap;
use std::ffi::{CString, c_void};
use std::fmt::Display;
use std::ops::Range;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use sys::CUresult;
use wholestep_compiler::backend::{DeviceError, SlotAddress};
use wholestep_compiler::ir::DType;

/// An open device.
pub struct Gpu {
    context: Arc<CudaContext>,
    nvrtc: Nvrtc,
    /// The compute capability that is compiled for.
    target: u32,
    cache: Option<Cache>,
    /// For the first queue: it has begun before the device was open.
    compiler: Mutex<Option<Compiler>>,
    pub facts: Facts,
    /// Memory that large values pass through on their way.
    pieces: Mutex<[Pinned; 2]>,
    /// A number that no other device of this process has.
    number: u64,
    /// By queue.
    shared: Mutex<BTreeMap<u64, Shared>>,
    /// Held to the end.
    _library: Loading,
}

/// What other queues may read of one.
struct Shared {
    /// The stream that writes slots.
    stream: usize,
    /// Where slots lie, and their bytes.
    slots: Vec<(u64, u64)>,
}

/// A library on its way into the process. A process that ends meanwhile may crash, hence the wait at the end.
struct Loading(Option<JoinHandle<()>>);

impl Drop for Loading {
    fn drop(&mut self) {
        let _ = self.0.take().map(JoinHandle::join);
    }
}

/// Numbers of devices and queues: no two are equal in a process.
static NEXT: AtomicU64 = AtomicU64::new(0);

/// Taken by whoever records, and by whoever does what may wait for all of the context, as giving back a library, a module or memory does: that breaks what
/// another thread records.
static CONTEXT: Mutex<()> = Mutex::new(());

fn alone() -> MutexGuard<'static, ()> {
    CONTEXT.lock().unwrap_or_else(PoisonError::into_inner)
}

/// What a device is.
#[derive(Clone, Debug)]
pub struct Facts {
    pub name: String,
    /// Its compute capability, 90 for 9.0.
    pub arch: u32,
    pub memory_bytes: u64,
    /// The most memory that a block may share.
    pub shared_bytes: u32,
    /// Whether a kernel may begin while the one before ends.
    pub overlaps: bool,
    /// Whether the time between two places in a stream can be read.
    pub clocks: bool,
    /// Whether graphs can have loops.
    pub loops: bool,
}

#[cfg(any(test, feature = "translate"))]
impl Facts {
    /// What an H100 is, for plans and texts on machines without one.
    pub fn h100() -> Facts {
        Facts {
            name: "NVIDIA H100".to_string(),
            arch: 90,
            memory_bytes: 80 << 30,
            shared_bytes: 232_448,
            overlaps: true,
            clocks: true,
            loops: true,
        }
    }
}

/// Bytes of a piece of a large value.
const PIECE: usize = 4 << 20;
/// Values up to this size are copied by the driver, which is faster for them.
const SMALL: usize = 64 << 10;
/// Drivers from here on put the overlap of kernels into graphs.
const OVERLAPS_FROM: i32 = 12_030;
/// Drivers and compilers from here on have graphs with loops.
const LOOPS_FROM: (i32, (i32, i32)) = (12_040, (12, 4));
/// The compute capability from which cuBLASLt and cuDNN multiply bf16.
const LIBRARIES_TAKE_BF16_FROM: u32 = 80;
/// The bindings know one name of the function that reads clocks, which drivers have from here on.
const CLOCKS_FROM: i32 = 12_080;

impl Gpu {
    /// How many devices the driver sees.
    /// Errors: there is no driver, or it does not start.
    pub fn count() -> Result<usize, DeviceError> {
        Library::Driver.open()?;
        cudarc::driver::result::init().map_err(absent)?;
        CudaContext::device_count().map_err(absent).map(|n| n as usize)
    }

    /// What each of them is.
    /// Errors: as [`Gpu::count`].
    pub fn names() -> Result<Vec<String>, DeviceError> {
        use cudarc::driver::result::device;
        let name = |n: usize| -> Result<String, DriverError> {
            let at = device::get(n as i32)?;
            let [major, minor] = capability(at)?;
            // SAFETY: the driver gave the device.
            let bytes = unsafe { device::total_mem(at)? };
            let gib = bytes as f64 / f64::from(1 << 30);
            Ok(format!("{}, compute capability {major}.{minor}, {gib:.1} GiB", device::get_name(at)?))
        };
        (0..Gpu::count()?).map(|n| name(n).map_err(absent)).collect()
    }

    /// With the library for products if it `multiplies` by it, and `texts` that are compiled first.
    /// Errors: the driver, the compiler or the device is not there.
    pub fn open(n: usize, cache: Option<Cache>, multiplies: bool, texts: &[Text]) -> Result<Gpu, DeviceError> {
        Library::Driver.open()?;
        // Libraries are large and the driver takes its time to open the device: all at once.
        let library = Loading(multiplies.then(|| std::thread::spawn(Lt::load)));
        let nvrtc = std::thread::spawn(Nvrtc::open);
        let arch = Gpu::arch(n);
        let nvrtc = nvrtc.join().expect("bug: opening NVRTC panicked");
        let (arch, nvrtc) = (arch?, nvrtc?);
        let target = nvrtc.target(arch)?;
        let mut compiler = Compiler::new(nvrtc, target, cache.clone());
        compiler.begin(texts, true);
        let compiler = Mutex::new(Some(compiler));
        let context = CudaContext::new(n).map_err(absent)?;
        let facts = facts(&context, arch, nvrtc.version).map_err(absent)?;
        let piece = || pinned(PIECE);
        let pieces = Mutex::new([piece()?, piece()?]);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let shared = Mutex::default();
        Ok(Gpu { context, nvrtc, target, cache, compiler, facts, pieces, number, shared, _library: library })
    }

    /// The compute capability of a device that need not be open, 90 for 9.0.
    fn arch(n: usize) -> Result<u32, DeviceError> {
        let count = Gpu::count()?;
        if n >= count {
            return Err(DeviceError::Absent(format!("there is no device cuda:{n}; this machine has {count}")));
        }
        let [major, minor] = cudarc::driver::result::device::get(n as i32).and_then(capability).map_err(absent)?;
        Ok((10 * major + minor) as u32)
    }

    /// A queue with nothing in it.
    pub fn queue(self: &Arc<Gpu>) -> Result<Queue, DeviceError> {
        self.bind()?;
        let stream = || {
            let mut stream = std::ptr::null_mut();
            let flags = sys::CUstream_flags::CU_STREAM_NON_BLOCKING as u32;
            // SAFETY: the place is one for a stream.
            check(unsafe { sys::cuStreamCreate(&mut stream, flags) }, "making a stream").map(|()| stream)
        };
        let begun = self.compiler.lock().unwrap_or_else(PoisonError::into_inner).take();
        let event = || Queue::make_event(sys::CUevent_flags::CU_EVENT_DISABLE_TIMING);
        Ok(Queue {
            gpu: self.clone(),
            compiler: begun.unwrap_or_else(|| Compiler::new(self.nvrtc, self.target, self.cache.clone())),
            piece_events: [event()?, event()?],
            small: Vec::with_capacity(SMALL),
            compute: stream()?,
            copies: stream()?,
            modules: Vec::new(),
            graphs: Vec::new(),
            hosts: Vec::new(),
            events: Vec::new(),
            clocks: Vec::new(),
            memory: Vec::new(),
            lt: None,
            dnn: None,
            number: NEXT.fetch_add(1, Ordering::Relaxed),
        })
    }

    fn bind(&self) -> Result<(), DeviceError> {
        self.context.bind_to_thread().map_err(|e| failed(e.0, "using the device"))
    }
}

impl Drop for Gpu {
    fn drop(&mut self) {
        if let (Ok(()), Ok(pieces)) = (self.bind(), self.pieces.lock()) {
            pieces.iter().for_each(unpinned);
        }
    }
}

fn absent(e: DriverError) -> DeviceError {
    DeviceError::Absent(format!("the NVIDIA driver does not start: {}", reason(e.0)))
}

fn capability(device: sys::CUdevice) -> Result<[i32; 2], DriverError> {
    use sys::CUdevice_attribute_enum as A;
    let of = |which| {
        // SAFETY: the driver gave the device.
        unsafe { cudarc::driver::result::device::get_attribute(device, which) }
    };
    Ok([of(A::CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR)?, of(A::CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR)?])
}

fn facts(context: &CudaContext, arch: u32, nvrtc: (i32, i32)) -> Result<Facts, DriverError> {
    use sys::CUdevice_attribute_enum as A;
    let mut driver = 0;
    // SAFETY: the place is one for a number.
    unsafe { sys::cuDriverGetVersion(&mut driver) }.result()?;
    Ok(Facts {
        name: context.name()?,
        arch,
        memory_bytes: context.total_mem()? as u64,
        shared_bytes: context.attribute(A::CU_DEVICE_ATTRIBUTE_MAX_SHARED_MEMORY_PER_BLOCK_OPTIN)? as u32,
        overlaps: arch >= 90 && driver >= OVERLAPS_FROM,
        clocks: driver >= CLOCKS_FROM,
        loops: driver >= LOOPS_FROM.0 && nvrtc >= LOOPS_FROM.1,
    })
}

/// The driver's name and description of an error: "CUDA_ERROR_ILLEGAL_ADDRESS, an illegal memory access was encountered".
fn reason(code: CUresult) -> String {
    let e = DriverError(code);
    let text = |c: Result<&std::ffi::CStr, DriverError>| c.map(|c| c.to_string_lossy().into_owned()).ok();
    match (text(e.error_name()), text(e.error_string())) {
        (Some(name), Some(what)) => format!("{name}, {what}"),
        _ => format!("error {}", code as u32),
    }
}

/// What an error of the driver means for a run.
fn failed(code: CUresult, doing: impl Display) -> DeviceError {
    use CUresult as R;
    let why = format!("{doing}: {}", reason(code));
    match code {
        R::CUDA_ERROR_OUT_OF_MEMORY => DeviceError::OutOfMemory { wanted_bytes: 0, what: doing.to_string() },
        // After these every call fails.
        R::CUDA_ERROR_CONTAINED
        | R::CUDA_ERROR_DEINITIALIZED
        | R::CUDA_ERROR_ECC_UNCORRECTABLE
        | R::CUDA_ERROR_MPS_CLIENT_TERMINATED
        | R::CUDA_ERROR_TENSOR_MEMORY_LEAK
        | R::CUDA_ERROR_NVLINK_UNCORRECTABLE
        | R::CUDA_ERROR_ILLEGAL_ADDRESS
        | R::CUDA_ERROR_LAUNCH_TIMEOUT
        | R::CUDA_ERROR_CONTEXT_IS_DESTROYED
        | R::CUDA_ERROR_ASSERT
        | R::CUDA_ERROR_HARDWARE_STACK_ERROR
        | R::CUDA_ERROR_ILLEGAL_INSTRUCTION
        | R::CUDA_ERROR_MISALIGNED_ADDRESS
        | R::CUDA_ERROR_INVALID_ADDRESS_SPACE
        | R::CUDA_ERROR_INVALID_PC
        | R::CUDA_ERROR_LAUNCH_FAILED
        | R::CUDA_ERROR_UNKNOWN => DeviceError::Lost(why),
        _ => DeviceError::Unsupported(format!("what was asked of the CUDA driver: {why}")),
    }
}

/// The words are put together only where they are needed: a launch takes the host 3 µs.
fn check(code: CUresult, doing: impl Display) -> Result<(), DeviceError> {
    if code == CUresult::CUDA_SUCCESS { Ok(()) } else { Err(failed(code, doing)) }
}

/// See [`Driver`].
pub struct Queue {
    gpu: Arc<Gpu>,
    compiler: Compiler,
    compute: sys::CUstream,
    copies: sys::CUstream,
    modules: Vec<sys::CUmodule>,
    /// `None` once dropped.
    graphs: Vec<Option<sys::CUgraphExec>>,
    hosts: Vec<Option<Pinned>>,
    events: Vec<sys::CUevent>,
    /// Events with clocks.
    clocks: Vec<sys::CUevent>,
    /// By piece: when the last copy through it is done.
    piece_events: [sys::CUevent; 2],
    /// Memory of the program's for values of up to [`SMALL`] bytes on their way.
    small: Vec<u8>,
    memory: Vec<u64>,
    /// Looked for when they are first asked for.
    lt: Option<Option<Lt>>,
    dnn: Option<Option<Dnn>>,
    number: u64,
}

// SAFETY: the handles are the driver's, which takes them on any thread that has bound the context, as each method does first.
unsafe impl Send for Queue {}

impl Queue {
    fn stream(&self, stream: Stream) -> sys::CUstream {
        match stream {
            Stream::Compute => self.compute,
            Stream::Copy => self.copies,
        }
    }

    /// Gives a node to the compute stream, which may be recording a graph. It may begin before the one `before` it has ended, if there is one.
    fn enqueue(&mut self, node: &Node, before: bool) -> Result<(), DeviceError> {
        match &node.work {
            Work::Kernel(call) => self.enqueue_kernel(call, before, &node.name),
            Work::Product(call) => {
                let stream = self.compute;
                let no_library = "bug: a task without its library";
                match &call.task {
                    Task::Product(p) => self.lt().expect(no_library).enqueue(p, call, stream),
                    Task::Convolution(c) => self.dnn().expect(no_library).enqueue(c, call, stream),
                }
            }
            Work::Loop(_) => panic!("bug: a loop is given to a stream, not to a graph"),
        }
    }

    fn lt(&mut self) -> Option<&mut Lt> {
        self.lt.get_or_insert_with(Lt::open).as_mut()
    }

    fn dnn(&mut self) -> Option<&mut Dnn> {
        self.dnn.get_or_insert_with(Dnn::open).as_mut()
    }

    fn enqueue_kernel(&self, call: &KernelCall, before: bool, name: &str) -> Result<(), DeviceError> {
        let mut params: Vec<*mut c_void> = Vec::with_capacity(call.args.len());
        for arg in &call.args {
            params.push(match arg {
                Param::Address(at) => (at as *const u64).cast_mut().cast(),
                Param::Words(words) => words.as_ptr().cast_mut().cast(),
            });
        }
        let mut overlap = sys::CUlaunchAttribute {
            id: sys::CUlaunchAttributeID::CU_LAUNCH_ATTRIBUTE_PROGRAMMATIC_STREAM_SERIALIZATION,
            pad: [0; 4],
            value: sys::CUlaunchAttributeValue { programmaticStreamSerializationAllowed: 1 },
        };
        let config = sys::CUlaunchConfig {
            gridDimX: call.grid[0],
            gridDimY: call.grid[1],
            gridDimZ: call.grid[2],
            blockDimX: call.threads,
            blockDimY: 1,
            blockDimZ: 1,
            sharedMemBytes: call.shared_bytes,
            hStream: self.compute,
            attrs: &mut overlap,
            numAttrs: u32::from(before && self.gpu.facts.overlaps),
        };
        let function = call.function.0 as sys::CUfunction;
        // SAFETY: the function is one of a module of this queue, the parameters are those of its text, in order, and live to the end of the call,
        // which copies them.
        let code = unsafe { sys::cuLaunchKernelEx(&config, function, params.as_mut_ptr(), std::ptr::null_mut()) };
        check(code, format_args!("launching {name}"))
    }

    fn finish(&self) -> Result<(), DeviceError> {
        // SAFETY: the stream is this queue's.
        check(unsafe { sys::cuStreamSynchronize(self.compute) }, "running the step")
    }

    fn mark_piece(&self, i: usize) -> Result<(), DeviceError> {
        // SAFETY: event and stream are this queue's.
        check(unsafe { sys::cuEventRecord(self.piece_events[i % 2], self.compute) }, "moving a value")
    }

    fn finish_piece(&self, i: usize) -> Result<(), DeviceError> {
        // SAFETY: the event is this queue's.
        check(unsafe { sys::cuEventSynchronize(self.piece_events[i % 2]) }, "moving a value")
    }

    fn make_event(flags: sys::CUevent_flags) -> Result<sys::CUevent, DeviceError> {
        let mut event = std::ptr::null_mut();
        // SAFETY: the place is one for an event.
        check(unsafe { sys::cuEventCreate(&mut event, flags as u32) }, "making an event").map(|()| event)
    }

    /// Adds the time of each leaf to `times`, which is as long as there are leaves.
    fn add_times(&mut self, nodes: &[Node], times: &mut [u64]) -> Result<(), DeviceError> {
        let (mut nodes, mut times) = (nodes, times);
        while !nodes.is_empty() {
            let n = nodes.iter().take_while(|node| !matches!(node.work, Work::Loop(_))).count();
            let (plain, rest) = nodes.split_at(n);
            let (of_plain, of_rest) = std::mem::take(&mut times).split_at_mut(n);
            self.add_plain_times(plain, of_plain)?;
            let Some((Node { work: Work::Loop(call), .. }, rest)) = rest.split_first() else { return Ok(()) };
            let (of_loop, of_rest) = of_rest.split_at_mut(leaves(&call.body).len());
            for _ in 0..call.max_trips {
                let mut goes_on = [0];
                self.read(call.predicate, &mut goes_on)?;
                if goes_on == [0] {
                    break;
                }
                self.add_times(&call.body, of_loop)?;
            }
            (nodes, times) = (rest, of_rest);
        }
        Ok(())
    }

    /// The same for nodes that are no loops.
    fn add_plain_times(&mut self, nodes: &[Node], times: &mut [u64]) -> Result<(), DeviceError> {
        self.make_clocks(nodes.len() + 1)?;
        self.mark(0)?;
        for (i, node) in nodes.iter().enumerate() {
            self.enqueue(node, false)?;
            self.mark(i + 1)?;
        }
        for (i, (node, time)) in nodes.iter().zip(times).enumerate() {
            // SAFETY: the event was recorded above. Events come in order, so the first that fails tells which kernel did.
            check(unsafe { sys::cuEventSynchronize(self.clocks[i + 1]) }, format_args!("running {}", node.name))?;
            *time += self.between(i, i + 1)?;
        }
        Ok(())
    }

    /// So many events with clocks.
    fn make_clocks(&mut self, n: usize) -> Result<(), DeviceError> {
        if !self.gpu.facts.clocks {
            let what = "profiles: the NVIDIA driver is older than that of CUDA 12.8".to_string();
            return Err(DeviceError::Unsupported(what));
        }
        while self.clocks.len() < n {
            self.clocks.push(Queue::make_event(sys::CUevent_flags::CU_EVENT_DEFAULT)?);
        }
        Ok(())
    }

    /// Notes the time at which the compute stream comes here.
    fn mark(&self, clock: usize) -> Result<(), DeviceError> {
        // SAFETY: event and stream are this queue's.
        check(unsafe { sys::cuEventRecord(self.clocks[clock], self.compute) }, "reading a clock")
    }

    /// The nanoseconds between two marks that the stream has passed.
    fn between(&self, from: usize, to: usize) -> Result<u64, DeviceError> {
        let mut ms = 0.0;
        // SAFETY: both events have happened.
        let code = unsafe { sys::cuEventElapsedTime_v2(&mut ms, self.clocks[from], self.clocks[to]) };
        check(code, "reading a clock").map(|()| (f64::from(ms) * 1e6) as u64)
    }
}

impl Driver for Queue {
    fn prepare(&mut self, texts: &[Text], soon: bool) {
        self.compiler.begin(texts, soon);
    }

    fn load(&mut self, texts: &[Text]) -> Result<(Vec<Function>, u64), DeviceError> {
        let (all, compiled) = self.compiler.finish(texts)?;
        self.gpu.bind()?;
        let _alone = alone();
        let mut functions = vec![Function(0); texts.len()];
        for code in &all {
            let mut module = std::ptr::null_mut();
            // SAFETY: the image is a whole cubin.
            check(unsafe { sys::cuModuleLoadData(&mut module, code.cubin.as_ptr().cast()) }, "loading kernels")?;
            self.modules.push(module);
            for (i, name) in &code.kernels {
                let mut function = std::ptr::null_mut();
                let text = CString::new(name.as_str()).expect("bug: a kernel's name has a zero in it");
                // SAFETY: the module is loaded and the name ends with a zero.
                let code = unsafe { sys::cuModuleGetFunction(&mut function, module, text.as_ptr()) };
                check(code, format_args!("finding kernel {name}"))?;
                let most = sys::CUfunction_attribute_enum::CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES;
                let shared = texts[*i].shared_bytes;
                // SAFETY: the function was found above.
                let code = unsafe { sys::cuFuncSetAttribute(function, most, shared as i32) };
                check(code, format_args!("giving kernel {name} {shared} bytes that a block shares"))?;
                functions[*i] = Function(function as u64);
            }
        }
        Ok((functions, compiled))
    }

    fn alloc(&mut self, bytes: u64) -> Result<u64, DeviceError> {
        self.gpu.bind()?;
        let (mut at, _alone) = (0, alone());
        // SAFETY: the place is one for an address.
        check(unsafe { sys::cuMemAlloc_v2(&mut at, bytes.max(1) as usize) }, "taking memory")?;
        self.memory.push(at);
        Ok(at)
    }

    fn free(&mut self, at: u64) {
        self.memory.retain(|&m| m != at);
        if self.gpu.bind().is_ok() {
            let _alone = alone();
            // SAFETY: `alloc` gave it; the driver waits for work that uses it. What fails here fails because the device is lost.
            let _ = unsafe { sys::cuMemFree_v2(at) };
        }
    }

    fn pin(&mut self, bytes: usize) -> Result<Host, DeviceError> {
        self.gpu.bind()?;
        self.hosts.push(Some(pinned(bytes)?));
        Ok(Host(self.hosts.len() - 1))
    }

    fn unpin(&mut self, host: Host) {
        if let (Ok(()), Some(memory)) = (self.gpu.bind(), self.hosts[host.0].take()) {
            unpinned(&memory);
        }
    }

    fn host(&mut self, host: Host) -> &mut [u8] {
        let memory = self.hosts[host.0].as_ref().expect("bug: memory of the host is used after it was given back");
        // SAFETY: `pinned` made so many bytes, and only this borrow of the queue gives them out.
        unsafe { std::slice::from_raw_parts_mut(memory.at, memory.bytes) }
    }

    fn address(&self, host: Host) -> u64 {
        // Devices and hosts that run together have one space of addresses.
        self.hosts[host.0].as_ref().map_or(0, |m| m.at as u64)
    }

    fn graph(&mut self, nodes: &[Node]) -> Result<Graph, DeviceError> {
        self.gpu.bind()?;
        let graph = self.record(nodes)?;
        self.instantiate(&graph)
    }

    fn drop_graph(&mut self, graph: Graph) {
        if let (Ok(()), Some(graph)) = (self.gpu.bind(), self.graphs[graph.0].take()) {
            // SAFETY: it is ready and used no more; one that still runs is given back when it has ended.
            let _ = unsafe { sys::cuGraphExecDestroy(graph) };
        }
    }

    fn launch(&mut self, graph: Graph) -> Result<(), DeviceError> {
        self.gpu.bind()?;
        let graph = self.graphs[graph.0].expect("bug: a graph is launched after it was given back");
        // SAFETY: the graph is ready and the stream this queue's.
        check(unsafe { sys::cuGraphLaunch(graph, self.compute) }, "launching the step")
    }

    fn run(&mut self, node: &Node) -> Result<(), DeviceError> {
        self.gpu.bind()?;
        self.enqueue(node, true)
    }

    fn clock(&mut self, nodes: &[Node]) -> Result<Vec<u64>, DeviceError> {
        self.gpu.bind()?;
        let mut times = vec![0; leaves(nodes).len()];
        self.add_times(nodes, &mut times)?;
        Ok(times)
    }

    fn clock_graph(&mut self, nodes: &[Node]) -> Result<u64, DeviceError> {
        self.gpu.bind()?;
        self.make_clocks(2)?;
        let graph = self.record_between(nodes, 0, 1)?;
        let graph = self.instantiate(&graph)?;
        let ended = self.launch(graph).and_then(|()| self.finish());
        self.drop_graph(graph);
        ended.and_then(|()| self.between(0, 1))
    }

    fn send(&mut self, host: Host, part: Range<usize>, to: u64) -> Result<(), DeviceError> {
        self.gpu.bind()?;
        let from = self.host(host)[part.clone()].as_ptr();
        // SAFETY: the memory is pinned and stays; its owner does not write to it before an event after this.
        let code = unsafe { sys::cuMemcpyHtoDAsync_v2(to, from.cast(), part.len(), self.copies) };
        check(code, "sending a batch")
    }

    fn send_lent(&mut self, bytes: &[u8], to: u64) -> Result<(), DeviceError> {
        self.gpu.bind()?;
        // SAFETY: so many bytes lie there, and whoever lent them leaves them as they are until an event after this.
        let code = unsafe { sys::cuMemcpyHtoDAsync_v2(to, bytes.as_ptr().cast(), bytes.len(), self.copies) };
        check(code, "sending a batch")
    }

    fn write(&mut self, to: u64, bytes: &[u8]) -> Result<(), DeviceError> {
        self.gpu.bind()?;
        let put = |from: *const u8, at: usize, n: usize| {
            // SAFETY: `n` bytes lie there; they stay until the stream was waited for, or, as they are not pinned, the driver has copied them.
            check(unsafe { sys::cuMemcpyHtoDAsync_v2(to + at as u64, from.cast(), n, self.compute) }, "writing a value")
        };
        if bytes.len() <= SMALL {
            // From pinned memory, which theirs may be, the driver would read later.
            self.small.clear();
            self.small.extend_from_slice(bytes);
            return put(self.small.as_ptr(), 0, bytes.len());
        }
        let mut pieces = self.gpu.pieces.lock().unwrap_or_else(PoisonError::into_inner);
        for (i, piece) in bytes.chunks(PIECE).enumerate() {
            // One piece is filled while the other is on its way.
            if i >= 2 {
                self.finish_piece(i)?;
            }
            let through = &mut pieces[i % 2];
            // SAFETY: the piece is as large as that memory, and nothing on the device reads it by now.
            unsafe { std::ptr::copy_nonoverlapping(piece.as_ptr(), through.at, piece.len()) };
            put(through.at, i * PIECE, piece.len())?;
            self.mark_piece(i)?;
        }
        self.finish()
    }

    fn clear(&mut self, at: u64, bytes: u64) -> Result<(), DeviceError> {
        self.gpu.bind()?;
        // SAFETY: it is a range of this queue's memory.
        check(unsafe { sys::cuMemsetD8Async(at, 0, bytes as usize, self.compute) }, "clearing memory")
    }

    fn read(&mut self, from: u64, bytes: &mut [u8]) -> Result<(), DeviceError> {
        self.gpu.bind()?;
        let pieces = self.gpu.pieces.lock().unwrap_or_else(PoisonError::into_inner);
        let ask = |i: usize, n: usize| {
            let at = from + (i * PIECE) as u64;
            // SAFETY: the piece has room, and what it held was copied out.
            let code = unsafe { sys::cuMemcpyDtoHAsync_v2(pieces[i % 2].at.cast(), at, n, self.compute) };
            check(code, "reading a value").and_then(|()| self.mark_piece(i))
        };
        let n_pieces = bytes.len().div_ceil(PIECE);
        let total = bytes.len();
        let len = |i: usize| PIECE.min(total - i * PIECE);
        (0..n_pieces.min(2)).try_for_each(|i| ask(i, len(i)))?;
        for i in 0..n_pieces {
            let n = len(i);
            self.finish_piece(i)?;
            // SAFETY: the event says that the piece is there.
            let piece = unsafe { std::slice::from_raw_parts(pieces[i % 2].at, n) };
            bytes[i * PIECE..][..n].copy_from_slice(piece);
            if i + 2 < n_pieces {
                ask(i + 2, len(i + 2))?;
            }
        }
        Ok(())
    }

    fn library(&mut self, task: &Task) -> Option<String> {
        self.gpu.bind().ok()?;
        if self.gpu.facts.arch < LIBRARIES_TAKE_BF16_FROM && task.operands()[0].0 == DType::BF16 {
            return None;
        }
        let _alone = alone();
        match task {
            Task::Product(p) => self.lt().map(|_| {
                // Its ways are of one call or of several.
                let by = if p.outer > 1 && Lt::takes_lists() { " by lists" } else { "" };
                format!("cuBLASLt {}{by}", Lt::version())
            }),
            Task::Convolution(_) => self.dnn().map(|_| format!("cuDNN {}", Dnn::version())),
        }
    }

    fn algorithms(&mut self, task: &Task, workspace_bytes: u64) -> Result<Vec<Algorithm>, DeviceError> {
        self.gpu.bind()?;
        let _alone = alone();
        match task {
            Task::Product(p) => self.lt().map_or(Ok(Vec::new()), |lt| lt.algorithms(p, workspace_bytes)),
            Task::Convolution(c) => self.dnn().map_or(Ok(Vec::new()), |dnn| dnn.algorithms(c, workspace_bytes)),
        }
    }

    fn takes_lists(&mut self) -> bool {
        let _alone = alone();
        self.gpu.bind().is_ok() && self.lt().is_some() && Lt::takes_lists()
    }

    fn share(&mut self, slots: Vec<(u64, u64)>) -> (u64, u64) {
        let mut shared = self.gpu.shared.lock().unwrap_or_else(PoisonError::into_inner);
        shared.insert(self.number, Shared { stream: self.compute as usize, slots });
        (self.gpu.number, self.number)
    }

    fn copy_shared(&mut self, from: SlotAddress, to: u64, bytes: u64) -> Result<bool, DeviceError> {
        // Held to the end, so that the other queue's memory stays.
        let gpu = self.gpu.clone();
        let shared = gpu.shared.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(held) = shared.get(&from.holder).filter(|_| from.device == gpu.number) else { return Ok(false) };
        let Some(&(at, _)) = held.slots.get(from.slot.0 as usize).filter(|s| s.1 == bytes) else { return Ok(false) };
        gpu.bind()?;
        // Of the whole context nothing is waited for: that would break what another thread records.
        // SAFETY: the context is bound; the stream and both slots are of queues on this device that have not been dropped.
        unsafe {
            check(sys::cuStreamSynchronize(held.stream as sys::CUstream), "running the step")?;
            check(sys::cuMemcpyDtoDAsync_v2(to, at, bytes as usize, self.compute), "copying a slot")?;
        }
        self.finish().map(|()| true)
    }

    fn event(&mut self) -> Result<Event, DeviceError> {
        self.gpu.bind()?;
        self.events.push(Queue::make_event(sys::CUevent_flags::CU_EVENT_DISABLE_TIMING)?);
        Ok(Event(self.events.len() - 1))
    }

    fn record(&mut self, event: Event, stream: Stream) -> Result<(), DeviceError> {
        self.gpu.bind()?;
        // SAFETY: event and stream are this queue's.
        check(unsafe { sys::cuEventRecord(self.events[event.0], self.stream(stream)) }, "marking a place")
    }

    fn after(&mut self, stream: Stream, event: Event) -> Result<(), DeviceError> {
        self.gpu.bind()?;
        // SAFETY: event and stream are this queue's.
        check(unsafe { sys::cuStreamWaitEvent(self.stream(stream), self.events[event.0], 0) }, "waiting for a place")
    }

    fn wait(&mut self, event: Event) -> Result<(), DeviceError> {
        self.gpu.bind()?;
        // SAFETY: the event is this queue's.
        check(unsafe { sys::cuEventSynchronize(self.events[event.0]) }, "running the step")
    }
}

impl Drop for Queue {
    fn drop(&mut self) {
        self.gpu.shared.lock().unwrap_or_else(PoisonError::into_inner).remove(&self.number);
        if self.gpu.bind().is_err() {
            return;
        }
        // SAFETY: all of it is this queue's and nothing uses it after the streams have come to their ends. What fails here fails because the
        // device is lost, and what it had with it.
        unsafe {
            for stream in [self.compute, self.copies] {
                let _ = sys::cuStreamSynchronize(stream);
            }
            let _alone = alone();
            (self.lt, self.dnn) = (None, None);
            for graph in self.graphs.drain(..).flatten() {
                let _ = sys::cuGraphExecDestroy(graph);
            }
            for module in self.modules.drain(..) {
                let _ = sys::cuModuleUnload(module);
            }
            for event in self.events.drain(..).chain(self.clocks.drain(..)).chain(self.piece_events) {
                let _ = sys::cuEventDestroy_v2(event);
            }
            for at in self.memory.drain(..) {
                let _ = sys::cuMemFree_v2(at);
            }
            for stream in [self.compute, self.copies] {
                let _ = sys::cuStreamDestroy_v2(stream);
            }
        }
        self.hosts.drain(..).flatten().for_each(|memory| unpinned(&memory));
    }
}
