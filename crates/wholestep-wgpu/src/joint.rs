//! Dispatches that several launches share: one after the other in one workgroup, or side by side in workgroups of their own. Takes launches and
//! where their memory is, gives what is bound, the parameters and a shader. Never decides which launches go together.

use crate::adapter::Gpu;
use crate::group::{Group, Window};
use crate::memory::{Memory, Piece, Place};
use crate::schedule::Member;
use wholestep_compiler::codegen::wgsl::beside::{self, Neighbour};
use wholestep_compiler::codegen::wgsl::{MAX_SEGMENT_VECTORS, whole};
use wholestep_compiler::codegen::{Count, Grid, Shader, Word};
use wholestep_compiler::ir::Dim;
use wholestep_compiler::plan::{Layout, Plan};

/// Small launches that one workgroup runs.
pub struct Whole {
    /// Whether it is all that a step does, so that one dispatch takes several steps.
    pub repeats: bool,
    pub members: Vec<Member>,
    parts: Vec<WholePart>,
    /// By binding: what is bound. Those that no argument needs are not in the shader's list.
    pub pieces: Vec<Piece>,
}

/// A segment of one of them: which words are its own, and what they mean.
struct WholePart {
    words: std::ops::Range<usize>,
    axes: Vec<Dim>,
    /// By argument: where it begins in its piece, in elements.
    offsets: Vec<u32>,
}

impl Whole {
    /// Evaluates the words for a batch size.
    pub fn set_batch(&self, batch: usize, shader: &Shader, memory: &Memory, params: &mut [u32]) {
        if self.repeats {
            params[whole::INPUT_WORDS] = (memory.block_bytes / 4) as u32;
        }
        for part in &self.parts {
            for i in part.words.clone() {
                params[i] = match shader.params[i] {
                    Word::Offset(arg) => part.offsets[arg as usize],
                    other => other.at(batch, &part.axes),
                };
            }
        }
    }
}

/// Small launches as one dispatch, and its shader.
pub fn whole_of(gpu: &Gpu, plan: &Plan, layout: &Layout, memory: &Memory, members: Vec<Member>) -> (Whole, Shader) {
    let slots = (0..memory.slots.len()).map(Piece::Slots);
    let arena = (0..memory.arena.len()).map(Piece::Arena);
    let pieces: Vec<Piece> = [Piece::Inputs].into_iter().chain(slots).chain(arena).collect();
    let launches = plan.launches();
    let (mut texts, mut parts) = (Vec::new(), Vec::new());
    for member in &members {
        let launch = launches[member.launch];
        for (i, segment) in launch.segments.iter().enumerate() {
            let kernel = plan.kernel_of(segment);
            let places: Vec<Place> = segment.args.iter().map(|&id| memory.place(plan, layout, id)).collect();
            let number = |p: &Place| pieces.iter().position(|q| *q == p.piece).expect("bug: a piece of this memory");
            let bytes = |arg: usize| gpu.caps.stored_bytes(kernel.args()[arg].dtype) as u64;
            let offsets = places.iter().enumerate().map(|(arg, p)| (p.offset / bytes(arg)) as u32).collect();
            parts.push(WholePart { words: 0..0, axes: segment.axes.clone(), offsets });
            let pieces = places.iter().map(|p| number(p) as u32).collect();
            texts.push(whole::Part { kernel, pieces, waits: i == 0 && member.waits });
        }
    }
    let workgroups = gpu.caps.workgroups.as_ref().expect("bug: a GPU has workgroups");
    let repeats = members.len() == launches.len() && plan.regions().is_empty();
    let (shader, words) = whole::shader(&texts, repeats, workgroups, layout.max_batch);
    parts.iter_mut().zip(words).for_each(|(part, words)| part.words = words);
    (Whole { repeats, members, parts, pieces }, shader)
}

/// Launches side by side, each with workgroups of its own.
pub struct Beside {
    pub groups: Vec<GroupBeside>,
    /// Their launches, and the share of the time that is theirs.
    pub launches: Vec<(usize, f64)>,
    /// By binding.
    pub windows: Vec<Window>,
}

pub struct GroupBeside {
    /// The number of the group, and its own shader.
    pub group: usize,
    pub shader: Shader,
    first_vector: u32,
}

/// Groups side by side, each with a shader of its own, if they fit together.
pub fn beside_of(gpu: &Gpu, groups: &[(usize, &Group, &Shader)]) -> Option<(Beside, Shader)> {
    if !beside::fits(&groups.iter().map(|(_, _, shader)| *shader).collect::<Vec<_>>()) {
        return None;
    }
    let mut bound: Vec<(Window, &str)> = Vec::new();
    let (mut neighbours, mut begins) = (Vec::new(), Vec::new());
    let mut first_vector = groups.len().div_ceil(4) as u32;
    for (_, group, shader) in groups {
        let mut bindings = Vec::new();
        for &arg in &shader.args {
            let key = (group.windows[arg as usize], beside::element_type(shader, arg)?);
            bindings.push(bound.iter().position(|k| *k == key).unwrap_or(bound.len()) as u32);
            if !bound.contains(&key) {
                bound.push(key);
            }
        }
        let vectors = (shader.params.len().div_ceil(4) * group.numbers.len()) as u32;
        neighbours.push(Neighbour { shader, bindings });
        begins.push(first_vector);
        first_vector += vectors;
    }
    if first_vector > MAX_SEGMENT_VECTORS || bound.len() > gpu.caps.max_args {
        return None;
    }
    let shader = Shader {
        source: beside::source(&neighbours),
        parts: None,
        args: (0..bound.len() as u32).collect(),
        workgroup: groups[0].2.workgroup,
        // Those of the groups stand here; who evaluates them knows whose they are.
        params: vec![Word::Bits(0); 4 * first_vector as usize],
        shared_bytes: 0,
        wants_registers: false,
        grid: Grid::Line(Count { of: vec![Word::Bits(0)], per: 1 }),
        scratch: None,
    };
    let of = |((group, _, shader), first_vector): (&(usize, &Group, &Shader), u32)| GroupBeside {
        group: *group,
        shader: (*shader).clone(),
        first_vector,
    };
    let all = groups.iter().zip(begins).map(of).collect();
    Some((
        Beside { groups: all, launches: Vec::new(), windows: bound.into_iter().map(|(window, _)| window).collect() },
        shader,
    ))
}

impl Beside {
    /// Shares the time out by multiply-adds or points at the largest batch size.
    pub fn share(&mut self, groups: &[Group]) {
        let work = |g: &GroupBeside| (groups[g.group].launch, groups[g.group].work.max(1) as f64);
        let works: Vec<(usize, f64)> = self.groups.iter().map(work).collect();
        let all: f64 = works.iter().map(|(_, w)| w).sum();
        self.launches = works.into_iter().map(|(launch, w)| (launch, w / all)).collect();
    }

    /// Evaluates the words for a batch size; gives the number of workgroups.
    pub fn set_batch(&self, batch: usize, groups: &[Group], params: &mut [u32]) -> u64 {
        let mut end = 0;
        for (i, g) in self.groups.iter().enumerate() {
            end += groups[g.group].set_batch(batch, &g.shader, &mut params[4 * g.first_vector as usize..]);
            params[i] = end as u32;
        }
        end
    }
}
