//! Launches side by side. Takes the parts of a step in order, gives rows: the parts of a row do not depend on each other and are one launch, in which
//! each has blocks of its own, since a launch costs more than little work does. Never changes what a part computes or in which order it adds.

use crate::driver::{Function, KernelCall, Param, Work};
use crate::memory::Place;
use crate::parts::{Part, Parts, VECTOR};
use crate::texts::{Text, device_function};
use wholestep_compiler::codegen::{Grid, Shader, cuda};
use wholestep_compiler::kernel::Access;

/// Memory that a launch uses.
pub type Touch = (Place, Access);

/// So many rows back a part may go to stand beside others.
const LOOK_BACK: usize = 8;
/// Parts side by side.
const MOST_PARTS: usize = 8;
/// A part of more threads keeps the whole device busy.
const MODEST_THREADS: u64 = 1 << 17;
/// Threads of a block: where one part has more, all have fewer registers.
const MOST_BLOCK_THREADS: u32 = 512;
/// Bytes of arguments; every driver takes 4096.
const MOST_ARG_BYTES: usize = 3500;
/// Multiprocessors of the device for which blocks are counted.
const PROCESSORS: u64 = 132;
/// A multiprocessor has 65536 registers. Where all blocks of a row would run at once with 80 for each thread, which is what small tiles of f32 need,
/// the compiler gives no more.
const MOST_RESIDENT_THREADS: u64 = 65_536 / 80;

/// The parts from number `first` on in rows, or each in a row of its own.
pub fn rows(parts: &Parts, first: usize, apart: bool) -> Vec<Vec<usize>> {
    let mut rows: Vec<Vec<usize>> = Vec::new();
    for (i, part) in parts.list.iter().enumerate().skip(first) {
        let is_clear = |row: &Vec<usize>| !row.iter().any(|&j| conflicts(&parts.list[j].touches, &part.touches));
        let reach = rows.iter().rev().take(LOOK_BACK).take_while(|row| is_clear(row)).count();
        let from = rows.len() - reach;
        let mine = arg_bytes(parts, part).filter(|_| !apart);
        let has_room = |row: &&mut Vec<usize>| {
            let theirs = row.iter().map(|&j| arg_bytes(parts, &parts.list[j])).sum::<Option<usize>>();
            let bytes = theirs.zip(mine).map(|(theirs, mine)| theirs + mine);
            row.len() < MOST_PARTS && bytes.is_some_and(|n| n <= MOST_ARG_BYTES)
        };
        match rows[from..].iter_mut().find(has_room) {
            Some(row) => row.push(i),
            None => rows.push(vec![i]),
        }
    }
    rows
}

/// Whether one writes what the other reads or writes.
pub fn conflicts(a: &[Touch], b: &[Touch]) -> bool {
    let writes = |x: Access, y: Access| x != Access::Read || y != Access::Read;
    a.iter().any(|(p, x)| b.iter().any(|(q, y)| writes(*x, *y) && p.overlaps(q)))
}

/// What of the time of a row is a part's, beside others.
pub fn share(work: &Work) -> f64 {
    match work {
        Work::Kernel(call) => call.grid.iter().map(|&n| f64::from(n)).product::<f64>() * f64::from(call.threads),
        Work::Product(_) | Work::Loop(_) => 1.0,
    }
}

/// The bytes of a part's arguments, if it may stand beside others.
fn arg_bytes(parts: &Parts, part: &Part) -> Option<usize> {
    let (shader, n_segments) = parts.shader(part)?;
    let threads: u32 = shader.workgroup.iter().product();
    let all = parts.n_blocks(part) * u64::from(threads);
    let fits = matches!(shader.grid, Grid::Line(_)) && threads <= MOST_BLOCK_THREADS && all <= MODEST_THREADS;
    let vectors = if cuda::params_by_value(shader, n_segments) { vectors(shader, n_segments) } else { 1 };
    // Beside its arguments, the scratch and where its blocks end.
    fits.then_some(8 * shader.args.len() + 4 * VECTOR * vectors + 16)
}

/// Vectors of parameters.
fn vectors(shader: &Shader, n_segments: usize) -> usize {
    shader.params.len().div_ceil(VECTOR) * n_segments
}

/// The text of a row, `None` for a product of the library: that of its shader, or one kernel that calls the bodies of several.
pub fn text(parts: &Parts, row: &[usize]) -> Option<Text> {
    let shaders: Vec<(&Shader, usize)> = row.iter().map(|&i| parts.shader(&parts.list[i])).collect::<Option<_>>()?;
    if let [(shader, _)] = shaders[..] {
        return Some(Text::of(shader));
    }
    let end = |i: usize| format!("ends.w[{}].{}", i / VECTOR, ["x", "y", "z", "w"][i % VECTOR]);
    let mut declared = vec![format!("const __grid_constant__ Params<{}> ends", shaders.len().div_ceil(VECTOR))];
    let (mut bodies, mut calls, mut begin) = (String::new(), String::new(), "0u".to_string());
    for (i, &(shader, n_segments)) in shaders.iter().enumerate() {
        bodies += &format!("#undef BODY\n#define BODY PART(KERNEL, {i})\n{}", device_function(shader));
        let mut given = String::new();
        for arg in &shader.args {
            declared.push(format!("u8* a{i}_{arg}"));
            given += &format!(", At{{a{i}_{arg}}}");
        }
        match vectors(shader, n_segments) {
            0 => {}
            n if cuda::params_by_value(shader, n_segments) => {
                declared.push(format!("const __grid_constant__ Params<{n}> params{i}"));
                given += &format!(", params{i}.w");
            }
            _ => {
                declared.push(format!("const uint4* __restrict__ params{i}"));
                given += &format!(", params{i}");
            }
        }
        if shader.scratch.is_some() {
            declared.push(format!("u32* scratch{i}"));
            given += &format!(", scratch{i}");
        }
        let threads: u32 = shader.workgroup.iter().product();
        // Barriers do not wait for threads that have left.
        calls += &format!(
            "if (blockIdx.x < {end}) {{\nif (threadIdx.x < {threads}u) {{\nPART(KERNEL, {i})(uint3{{blockIdx.x - {begin}, 0u, 0u}}, \
             uint3{{{end} - {begin}, 1u, 1u}}, threadIdx.x, (u8*)shared{given});\n}}\nreturn;\n}}\n",
            end = end(i)
        );
        begin = end(i);
    }
    let threads = shaders.iter().map(|(s, _)| s.workgroup.iter().product::<u32>()).max().unwrap_or(1);
    let blocks = row.iter().map(|&i| parts.n_blocks(&parts.list[i])).sum::<u64>();
    let resident = blocks.div_ceil(PROCESSORS);
    let is_bound = (2..=MOST_RESIDENT_THREADS / u64::from(threads)).contains(&resident);
    let bound = match is_bound && !shaders.iter().any(|(s, _)| s.wants_registers) {
        true => format!(", {resident}"),
        false => String::new(),
    };
    let source = format!(
        "{bodies}extern \"C\" __global__ void __launch_bounds__({threads}{bound}) KERNEL({}) {{\nBEGIN_KERNEL();\nextern __shared__ uint4 shared[];\n\
         {calls}}}\n",
        declared.join(", ")
    );
    let shared_bytes = shaders.iter().map(|(s, _)| s.shared_bytes).max().unwrap_or(0);
    Some(Text { source, shared_bytes, joins: true })
}

/// What a row does, `works` being what its parts do; `None` if that is nothing.
pub fn joined(function: Function, mut works: Vec<Work>) -> Option<Work> {
    if works.len() == 1 {
        return works.pop().filter(|work| if let Work::Kernel(call) = work { !call.grid.contains(&0) } else { true });
    }
    let mut all = KernelCall { function, grid: [0, 1, 1], threads: 0, shared_bytes: 0, args: Vec::new() };
    let mut ends = Vec::new();
    for work in works {
        let Work::Kernel(call) = work else { panic!("bug: what stands beside others is no kernel") };
        all.grid[0] += call.grid[0];
        ends.push(all.grid[0]);
        all.threads = all.threads.max(call.threads);
        all.shared_bytes = all.shared_bytes.max(call.shared_bytes);
        all.args.extend(call.args);
    }
    ends.resize(ends.len().next_multiple_of(VECTOR), 0);
    all.args.insert(0, Param::Words(ends));
    (all.grid[0] > 0).then_some(Work::Kernel(all))
}
