//! CUDA C of every kernel of the table of ops, compiled to machine code: that the texts are right programs, on a machine without a GPU. Skipped where
//! NVRTC is not there, unless `REQUIRE_NVRTC` is set.

use std::collections::BTreeSet;
use std::thread::available_parallelism;
use wholestep_compiler::backend::DeviceError;
use wholestep_compiler::caps::{Caps, Language, Workgroups};
use wholestep_compiler::cases::{self, Floats};
use wholestep_compiler::codegen::{self, cuda, small};
use wholestep_compiler::compile;
use wholestep_compiler::ir::{DType, Graph};
use wholestep_compiler::kernel::Kernel;
use wholestep_cuda::Nvrtc;

/// Texts in one unit.
const PER_UNIT: usize = 64;
/// A batch size at which launches are small.
const SMALL_BATCH: usize = 4;

/// A usual device, of compute capability 9.0.
fn caps() -> Caps {
    use DType::{BF16, Bool, F16, F32, F64, I32, I64, U8, U32};
    let workgroups = Workgroups {
        language: Language::Cuda,
        threads: 1024,
        shared_bytes: 232_448,
        per_axis: i32::MAX as u32,
        subgroup: Some((32, 32)),
        f16: true,
        long: true,
        tiles: Vec::new(),
    };
    Caps {
        name: "any GPU of CUDA".to_string(),
        dtypes: vec![F64, F32, F16, BF16, I64, I32, U32, U8, Bool],
        memory_bytes: None,
        align_bytes: 256,
        max_row_elems: 16_384,
        contract_scratch_bytes: cuda::contract_scratch_bytes,
        max_args: 64,
        byte_bytes: 1,
        long_bytes: 8,
        max_buffer_bytes: 1 << 40,
        loops: true,
        workgroups: Some(workgroups),
    }
}

/// The texts of a graph's kernels: as they are launched, loops also as one of several segments, small ones also for one workgroup.
fn texts(graph: &Graph, caps: &Caps, also: bool) -> Vec<String> {
    let plan = compile(graph, caps, &mut |_| {}).expect("the graph compiles").plan;
    let workgroups = caps.workgroups.as_ref().expect("a GPU has workgroups");
    let mut out = Vec::new();
    for launch in plan.launches() {
        let kernel = &plan.kernels[launch.kernel as usize];
        let counts = if also && matches!(kernel, Kernel::Loop(_)) { vec![1, 3] } else { vec![launch.segments.len()] };
        for n in counts {
            out.extend(codegen::shaders(kernel, n, caps).expect("the kernel has a text"));
        }
        if also && small::work(kernel, SMALL_BATCH).is_some() {
            out.push(small::shader(kernel, workgroups));
        }
    }
    out.into_iter().map(|shader| shader.source).collect()
}

fn unit(texts: &[&String]) -> String {
    let one = |(i, text): (usize, &&String)| {
        format!("#define BODY body{i}\n#define KERNEL kernel{i}\n{text}#undef BODY\n#undef KERNEL\n")
    };
    cuda::PRELUDE.to_string() + &texts.iter().enumerate().map(one).collect::<String>()
}

fn compile_all(nvrtc: &Nvrtc, units: &[String], arch: u32) {
    let at_once = available_parallelism().map_or(1, |n| n.get());
    for some in units.chunks(at_once) {
        let (cubins, _) = nvrtc.compile(some, arch, None).unwrap_or_else(|e| panic!("{e}\n{}", some.join("\n")));
        assert!(cubins.iter().all(|cubin| cubin.starts_with(b"\x7fELF")));
    }
}

#[test]
fn every_text_of_the_table_compiles() {
    let nvrtc = match Nvrtc::open() {
        Ok(nvrtc) => nvrtc,
        Err(DeviceError::Absent(why)) if std::env::var_os("REQUIRE_NVRTC").is_none() => {
            return println!("skipped: no nvrtc ({why})");
        }
        Err(e) => panic!("REQUIRE_NVRTC is set and it does not open: {e}"),
    };
    let caps = caps();
    let mut all = BTreeSet::new();
    for case in cases::all() {
        // What only moves 16 bits is the same kernels without casts.
        let forms = [DType::F32.into(), DType::F64.into(), Floats::kept_in(DType::F16), Floats::kept_in(DType::BF16)];
        for (i, form) in forms.into_iter().enumerate() {
            for graph in [Some(case.trace(form)), case.trace_gradients(form)].iter().flatten() {
                all.extend(texts(graph, &caps, i == 0));
            }
        }
    }
    assert!(all.len() > 1200, "only {} texts were there to compile", all.len());
    let all: Vec<&String> = all.iter().collect();
    let units: Vec<String> = all.chunks(PER_UNIT).map(unit).collect();
    compile_all(&nvrtc, &units, 90);
    // The oldest that has all instructions of the prelude: a part of the texts, as the language is the same.
    compile_all(&nvrtc, &units[..units.len() / 4], 80);
}
