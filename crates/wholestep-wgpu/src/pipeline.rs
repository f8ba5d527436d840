//! Pipelines. Takes shaders, gives what a device runs, and how a dispatch of it is put. Never knows a plan.

use crate::adapter::Gpu;
use wholestep_compiler::codegen::Shader;

pub fn bind_group_layout(gpu: &Gpu, shader: &Shader, moving: &[u32]) -> wgpu::BindGroupLayout {
    let of = |binding, ty| wgpu::BindGroupLayoutEntry {
        binding,
        visibility: wgpu::ShaderStages::COMPUTE,
        ty: wgpu::BindingType::Buffer { ty, has_dynamic_offset: moving.contains(&binding), min_binding_size: None },
        count: None,
    };
    let storage = wgpu::BufferBindingType::Storage { read_only: false };
    let mut entries: Vec<_> = shader.args.iter().map(|&arg| of(arg, storage)).collect();
    if !shader.params.is_empty() {
        entries.push(of(Shader::PARAMS, wgpu::BufferBindingType::Uniform));
    }
    if shader.scratch.is_some() {
        entries.push(of(Shader::SCRATCH, storage));
    }
    gpu.device.create_bind_group_layout(&wgpu::BindGroupLayoutDescriptor { label: None, entries: &entries })
}

pub fn pipeline(
    gpu: &Gpu,
    shader: &Shader,
    layout: &wgpu::BindGroupLayout,
    cache: Option<&wgpu::PipelineCache>,
) -> wgpu::ComputePipeline {
    let descriptor =
        wgpu::ShaderModuleDescriptor { label: None, source: wgpu::ShaderSource::Wgsl(shader.source.as_str().into()) };
    // SAFETY: a plan is verified when it is loaded: its kernels' extents and affine addresses stay inside of their buffers (`plan/bounds.rs` of the
    // compiler). What is over the edge of a tile or a workgroup the texts guard, and indices that are data they clamp.
    let module = unsafe { gpu.device.create_shader_module_trusted(descriptor, wgpu::ShaderRuntimeChecks::unchecked()) };
    let layout = gpu.device.create_pipeline_layout(&wgpu::PipelineLayoutDescriptor {
        label: None,
        bind_group_layouts: &[Some(layout)],
        immediate_size: 0,
    });
    gpu.device.create_compute_pipeline(&wgpu::ComputePipelineDescriptor {
        label: None,
        layout: Some(&layout),
        module: &module,
        entry_point: Some("main"),
        compilation_options: wgpu::PipelineCompilationOptions {
            zero_initialize_workgroup_memory: false,
            ..Default::default()
        },
        cache,
    })
}

pub fn entry(binding: u32, buffer: &wgpu::Buffer, offset: u64, bytes: u64) -> wgpu::BindGroupEntry<'_> {
    let size = std::num::NonZeroU64::new(bytes);
    wgpu::BindGroupEntry {
        binding,
        resource: wgpu::BindingResource::Buffer(wgpu::BufferBinding { buffer, offset, size }),
    }
}

/// `n` workgroups as x·y, both at most `most`.
pub fn fold(n: u64, most: u64) -> Option<[u32; 3]> {
    let y = n.div_ceil(most).max(1);
    let x = n.div_ceil(y);
    (y <= most).then_some([x as u32, y as u32, 1])
}

/// `f(0)` to `f(n - 1)` by all of the host's threads, because drivers compile one pipeline on one thread; `None` if one panicked.
pub fn parallel<T: Send>(n: usize, f: impl Fn(usize) -> T + Sync) -> Option<Vec<T>> {
    let threads = std::thread::available_parallelism().map_or(1, |n| n.get()).min(n);
    let next = std::sync::atomic::AtomicUsize::new(0);
    let work = || {
        let mut mine = Vec::new();
        loop {
            let i = next.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
            if i >= n {
                return mine;
            }
            mine.push((i, f(i)));
        }
    };
    let mut made: Vec<(usize, T)> = std::thread::scope(|scope| {
        let handles: Vec<_> = (0..threads).map(|_| scope.spawn(work)).collect();
        handles.into_iter().flat_map(|h| h.join().unwrap_or_default()).collect()
    });
    made.sort_by_key(|(i, _)| *i);
    (made.len() == n).then(|| made.into_iter().map(|(_, t)| t).collect())
}
