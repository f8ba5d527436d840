//! GB/s of loops on the device, as a share of what it copies: `loops [NAME]..` runs those whose name contains one of the words. Times are the
//! device's own, launch by launch; each step moves more bytes than a cache holds, over copies of its own where one is small. The binary needs
//! only the graphics driver. `loops --text [NAME]..` prints the kernels' texts instead.

#[path = "../tests/common/loop_cases.rs"]
mod loop_cases;
#[path = "../tests/common/loop_rates.rs"]
mod loop_rates;
#[path = "../tests/common/shaders.rs"]
mod shaders;

use loop_cases::{Case, cases};
use loop_rates::{measure, slot_copy_rate};
use shaders::Device;
use wholestep_compiler::backend::Backend;
use wholestep_compiler::caps::Caps;
use wholestep_compiler::codegen::{self, Count, Grid, Shader, Word};
use wholestep_compiler::compile;
use wholestep_compiler::kernel::Kernel;
use wholestep_wgpu::WgpuBackend;

fn main() {
    let words: Vec<String> = std::env::args().skip(1).filter(|a| !a.starts_with("--")).collect();
    let wanted = |c: &Case| words.is_empty() || words.iter().any(|w| c.name.contains(w.as_str()));
    let Some(device) = Device::open() else { return };
    if std::env::args().any(|a| a == "--text") {
        let caps = WgpuBackend::new(0).expect("the device opens").caps();
        return cases().iter().filter(|c| wanted(c)).for_each(|case| texts(case, &caps));
    }
    println!("{}, subgroups {:?}", device.name, device.workgroups.subgroup);
    let best = yardsticks(&device);
    let is_cpu = device.is_cpu;
    drop(device);
    let backend = WgpuBackend::new(0).expect("the device opens");
    if words.is_empty() || words.iter().any(|w| w == "copy") {
        let n: usize = if is_cpu { 1 << 20 } else { 1 << 26 };
        let rate = slot_copy_rate(&backend, n);
        let (size, share) = ((4 * n) >> 20, 100.0 * rate / best);
        println!(
            "a slot of {size} MiB to another program: {:.0} GB/s, {share:.0} % of what the device copies",
            rate / 1e9
        );
    }
    println!("{:<26} {:>9} {:>9} {:>9} {:>7}", "loop", "launches", "us each", "GB/s", "share");
    for case in cases().iter().filter(|c| wanted(c)) {
        let (sizes, copies) = if is_cpu { (case.small[0], 1) } else { case.full };
        measure(&backend, case, (sizes, copies), best, is_cpu);
    }
}

/// Bytes a second that the device copies, by its copy command and by a shader that does nothing else; the better one.
fn yardsticks(device: &Device) -> f64 {
    let bytes: usize = if device.is_cpu { 1 << 22 } else { 1 << 28 };
    let by_command = 2.0 * bytes as f64 / device.copy_seconds(bytes);
    let args = [vec![1; bytes], vec![2; bytes]].map(|v| device.buffer(&v));
    let source = format!(
        "@group(0) @binding(0) var<storage, read_write> a: array<vec4<f32>>;
         @group(0) @binding(1) var<storage, read_write> b: array<vec4<f32>>;
         @compute @workgroup_size(256)
         fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>, @builtin(local_invocation_index) local: u32) {{
         let at = (group.y * groups.x + group.x) * 256u + local; if (at < {}u) {{ b[at] = a[at]; }} }}",
        bytes / 16
    );
    let grid = Grid::Line(Count { of: vec![Word::Bits((bytes / 16) as u32)], per: 256 });
    let shader = Shader {
        source,
        parts: None,
        args: vec![0, 1],
        workgroup: [256, 1, 1],
        params: vec![],
        grid,
        shared_bytes: 0,
        wants_registers: false,
        scratch: None,
    };
    let by_shader = 2.0 * bytes as f64 / device.seconds(&device.prepare(&[shader], &args, 1, false));
    println!("copy command {:.0} GB/s, copy shader {:.0} GB/s", by_command / 1e9, by_shader / 1e9);
    by_command.max(by_shader)
}

/// Prints what would run.
fn texts(case: &Case, caps: &Caps) {
    let plan = compile(&case.graph(case.full.0, 1), caps, &mut |_| {}).expect("the step compiles").plan;
    for launch in plan.launches() {
        let kernel = &plan.kernels[launch.kernel as usize];
        println!(
            "// {}: {} segments of\n// {}",
            case.name,
            launch.segments.len(),
            kernel.to_string().replace('\n', "\n// ")
        );
        let kernels: Vec<Kernel> = launch.segments.iter().map(|s| plan.kernel_of(s)).collect();
        let text = codegen::together(&kernels).kernel;
        let shaders = codegen::shaders(&text, launch.segments.len(), caps).expect("the kernel has a text");
        shaders.iter().for_each(|s| println!("{}", s.source));
    }
}
