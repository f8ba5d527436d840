//! WGSL. Takes kernels, gives shaders. What is common to all kinds is here: how arguments, parameters and memory are declared. Never asks
//! for more than `Caps` has.

pub mod block;
pub mod choice;
pub mod beside;
pub mod contract;
pub mod conv;
pub mod coop;
pub mod direct;
pub mod half;
pub mod loops;
pub mod point;
pub mod quad;
pub mod scalar;
pub mod scan;
pub mod scatter;
pub mod sort;
pub mod tile;
pub mod whole;
pub mod window;

use self::choice::Choice;
use super::{Count, Grid, Shader, Word, index};
use crate::caps::{Caps, Workgroups};
use crate::ir::{DType, Dim};
use crate::kernel::{Access, Arg, Instr, Kernel, Loop};
use std::collections::BTreeMap;

/// The dispatches of a kernel, in order. `n_segments` is that of its launch: more than one only for loops.
/// Errors: what the kernel needs and the device or this version lacks.
pub fn shaders(kernel: &Kernel, n_segments: usize, caps: &Caps) -> Result<Vec<Shader>, String> {
    chosen_shaders(kernel, n_segments, caps, None)
}

/// The same with a choice for a contraction that has one.
/// Errors: as [`shaders`].
pub fn chosen_shaders(
    kernel: &Kernel,
    n_segments: usize,
    caps: &Caps,
    choice: Option<Choice>,
) -> Result<Vec<Shader>, String> {
    let kernel = &narrow(kernel);
    let Some(workgroups) = &caps.workgroups else { return Err(format!("{} runs no kernel text", caps.name)) };
    if let Some(arg) = kernel.args().iter().find(|a| storage(a.dtype).is_none()) {
        return Err(format!("{} in a {} kernel on {}", arg.dtype, kernel.kind(), caps.name));
    }
    if kernel.args().len() > caps.max_args {
        let (n, most) = (kernel.args().len(), caps.max_args);
        return Err(format!("a {} kernel of {n} arguments on {}, which takes {most}", kernel.kind(), caps.name));
    }
    match kernel {
        Kernel::Loop(k) => Ok(loops::shaders(k, n_segments, workgroups)),
        Kernel::Contract(k) => contract::shaders(k, workgroups, choice),
        Kernel::Window(k) => Ok(vec![window::shader(k, workgroups)]),
        Kernel::Scatter(k) => Ok(scatter::shaders(k, workgroups)),
        Kernel::Sort(k) => Ok(vec![sort::shader(k, workgroups)]),
        Kernel::Scan(k) => Ok(vec![scan::shader(k, workgroups)]),
    }
}

/// The kernel with `i32` for `i64`: the device keeps such values in 32 bits (see [`Caps::long_bytes`]).
fn narrow(kernel: &Kernel) -> Kernel {
    let dtype = |d: &mut DType| *d = if *d == DType::I64 { DType::I32 } else { *d };
    let args = |args: &mut Vec<Arg>| args.iter_mut().for_each(|a| dtype(&mut a.dtype));
    let program = |k: &mut Loop| {
        args(&mut k.args);
        k.instrs.iter_mut().for_each(|i| match i {
            Instr::Index { dtype: d, .. } | Instr::Const { dtype: d, .. } | Instr::Extent { dtype: d, .. } => dtype(d),
            Instr::Cast { to, .. } => dtype(to),
            Instr::Load { .. }
            | Instr::Gather { .. }
            | Instr::Random { .. }
            | Instr::Unary { .. }
            | Instr::Binary { .. }
            | Instr::Select { .. }
            | Instr::Reduce { .. } => {}
        });
    };
    let mut kernel = kernel.clone();
    match &mut kernel {
        Kernel::Loop(k) => program(k),
        Kernel::Contract(k) => {
            args(&mut k.args);
            k.epilogue.iter_mut().for_each(program);
        }
        Kernel::Window(k) => args(&mut k.args),
        Kernel::Scatter(k) => {
            args(&mut k.args);
            dtype(&mut k.index_dtype);
        }
        Kernel::Sort(k) => {
            args(&mut k.args);
            dtype(&mut k.dtype);
        }
        Kernel::Scan(k) => args(&mut k.args),
    }
    kernel
}

/// How the elements of an argument are declared.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Elem {
    /// One by one.
    Scalar,
    /// Four to a vector. A buffer's size is a multiple of 16 bytes, so the last vector exists, but what is behind the last element in it is
    /// another's or nobody's: it may be read and must not be written.
    Vec4,
    /// Four f16 to a vector of f16, which the device must have; they are moved as they are.
    Halves,
}

/// The type in which elements of `dtype` lie in memory: `u8` and `bool` take a word of their own, floats of 16 bits lie two to a word.
pub fn storage(dtype: DType) -> Option<&'static str> {
    match dtype {
        DType::F32 => Some("f32"),
        DType::I32 => Some("i32"),
        DType::U32 | DType::U8 | DType::Bool | DType::F16 | DType::BF16 => Some("u32"),
        DType::F64 | DType::I64 => None,
    }
}

/// The type of a value in registers. Floats of 16 bits are f32 there, which holds them exactly.
pub fn register(dtype: DType) -> &'static str {
    match dtype {
        DType::F32 | DType::F16 | DType::BF16 => "f32",
        DType::I32 => "i32",
        DType::U32 | DType::U8 => "u32",
        DType::Bool => "bool",
        DType::F64 | DType::I64 => panic!("bug: {dtype} is kept out before text is made"),
    }
}

/// A shader being written.
pub struct Source<'a> {
    pub workgroups: &'a Workgroups,
    args: &'a [Arg],
    /// What is read of each argument that the text uses.
    bound: BTreeMap<u32, Elem>,
    /// How many segments the launch has: with several, arguments begin at an offset and extents are parameters.
    n_segments: usize,
    words: Vec<Word>,
    /// By argument, the piece of memory that it is seen in as words, with others; and where its parameters begin among those of others.
    pieces: Option<(Vec<u32>, usize)>,
    functions: BTreeMap<&'static str, &'static str>,
    /// Memory that the workgroup shares: name, type of an element, how many.
    shared: Vec<(String, String, u32)>,
    scratch: Option<(&'static str, Count)>,
    enables: BTreeMap<&'static str, ()>,
}

impl<'a> Source<'a> {
    pub fn new(workgroups: &'a Workgroups, args: &'a [Arg]) -> Source<'a> {
        Source {
            workgroups,
            args,
            bound: BTreeMap::new(),
            n_segments: 1,
            words: Vec::new(),
            pieces: None,
            functions: BTreeMap::new(),
            shared: Vec::new(),
            scratch: None,
            enables: BTreeMap::new(),
        }
    }

    /// The same for a launch of several segments.
    pub fn with_segments(mut self, n: usize) -> Source<'a> {
        self.n_segments = n;
        self
    }

    /// The same for a kernel that stands in a text with others, whose parameters begin at word `first`: see [`whole`].
    fn in_pieces(mut self, pieces: Vec<u32>, first: usize) -> Source<'a> {
        self.pieces = Some((pieces, first));
        self
    }

    /// What there is beside the body.
    fn into_pieces(self) -> PieceText {
        PieceText { words: self.words, functions: self.functions, shared: self.shared }
    }

    /// Whether the launch has several segments. The text then defines `segment`, where this one's parameters begin, before it uses any.
    pub fn segmented(&self) -> bool {
        self.n_segments > 1
    }

    /// The text of a parameter, of type u32.
    pub fn word(&mut self, word: Word) -> String {
        let at = self.words.iter().position(|w| *w == word).unwrap_or_else(|| {
            self.words.push(word);
            self.words.len() - 1
        });
        let base = if self.segmented() { "segment + " } else { "" };
        let at = at + self.pieces.as_ref().map_or(0, |(_, first)| *first);
        format!("params[{base}{}u].{}", at / 4, ["x", "y", "z", "w"][at % 4])
    }

    /// The text of a number, of type u32: a literal where it is fixed.
    pub fn dim(&mut self, dim: Dim) -> String {
        if dim.batch == 0 { index::literal(dim.fixed) } else { self.word(Word::Dim(dim)) }
    }

    /// Declares an argument's elements; an argument is declared in one way only.
    pub fn bind(&mut self, arg: u32, elem: Elem) {
        let before = self.bound.insert(arg, elem);
        assert!(before.is_none_or(|b| b == elem), "bug: argument {arg} is declared in two ways");
    }

    /// The place of element `at` of an argument, or of the word that holds it, in its storage type.
    fn element(&mut self, arg: u32, at: &str) -> String {
        let elem = *self.bound.entry(arg).or_insert(Elem::Scalar);
        match (elem, half::is_half(self.dtype(arg))) {
            (Elem::Scalar, false) => format!("a{arg}[{at}]"),
            (Elem::Vec4, false) => format!("a{arg}[({at}) >> 2u][({at}) & 3u]"),
            (Elem::Scalar, true) => format!("a{arg}[({at}) >> 1u]"),
            (Elem::Vec4, true) => format!("a{arg}[({at}) >> 2u][(({at}) >> 1u) & 1u]"),
            (Elem::Halves, _) => panic!("bug: elements of vectors that only move are read one by one"),
        }
    }

    /// An element's number in what is bound for its argument.
    fn place(&mut self, arg: u32, at: &str) -> String {
        if self.segmented() { format!("{at} + {}", self.word(Word::Offset(arg))) } else { at.to_string() }
    }

    /// Whether words of an argument are shared by threads that write one half each.
    fn is_atomic(&self, arg: u32) -> bool {
        let is_scalar = self.bound.get(&arg).is_none_or(|elem| *elem == Elem::Scalar);
        half::is_half(self.dtype(arg)) && self.args[arg as usize].access != Access::Read && is_scalar
    }

    /// The word of element `at` of an argument that is seen in a piece of memory with others.
    fn word_in_piece(&mut self, arg: u32, at: &str) -> Option<String> {
        let piece = self.pieces.as_ref()?.0[arg as usize];
        let step = if piece == whole::INPUTS { " + inputs_at" } else { "" };
        Some(format!("p{piece}[{at} + {}{step}]", self.word(Word::Offset(arg))))
    }

    /// Element `at` of an argument as a value of its register type.
    pub fn load(&mut self, arg: u32, at: &str) -> String {
        if let Some(word) = self.word_in_piece(arg, at) {
            return match register(self.dtype(arg)) {
                "u32" => word,
                "bool" => format!("({word} != 0u)"),
                kind => format!("bitcast<{kind}>({word})"),
            };
        }
        let at = self.place(arg, at);
        let place = self.element(arg, &at);
        match self.dtype(arg) {
            DType::Bool => format!("({place} != 0u)"),
            dtype @ (DType::F16 | DType::BF16) => {
                let word = if self.is_atomic(arg) { format!("atomicLoad(&{place})") } else { place };
                half::widen(self, dtype, &word, &at)
            }
            DType::F64 | DType::F32 | DType::I64 | DType::I32 | DType::U32 | DType::U8 => place,
        }
    }

    /// The statement that stores a value of the argument's register type.
    pub fn store(&mut self, arg: u32, at: &str, value: &str) -> String {
        if let Some(word) = self.word_in_piece(arg, at) {
            return match register(self.dtype(arg)) {
                "bool" => format!("{word} = select(0u, 1u, {value});\n"),
                _ => format!("{word} = bitcast<u32>({value});\n"),
            };
        }
        let at = self.place(arg, at);
        let place = self.element(arg, &at);
        match self.dtype(arg) {
            DType::Bool => format!("{place} = select(0u, 1u, {value});\n"),
            dtype @ (DType::F16 | DType::BF16) => {
                assert!(
                    self.is_atomic(arg),
                    "bug: argument {arg} is written by halves of words that are read as vectors"
                );
                half::store(self, dtype, &place, &at, value)
            }
            DType::F64 | DType::F32 | DType::I64 | DType::I32 | DType::U32 | DType::U8 => {
                format!("{place} = {value};\n")
            }
        }
    }

    /// Vector number `at` of an argument that is declared in vectors: four values of its register type, but for `bool`, whose words stay words.
    pub fn load_vector(&mut self, arg: u32, at: &str) -> String {
        self.bind(arg, Elem::Vec4);
        let place = format!("a{arg}[{at}]");
        match self.dtype(arg) {
            dtype @ (DType::F16 | DType::BF16) => half::widen_four(self, dtype, &place),
            DType::F64 | DType::F32 | DType::I64 | DType::I32 | DType::U32 | DType::U8 | DType::Bool => place,
        }
    }

    /// Vector number `at` of an argument of f16, as four f16.
    pub fn load_f16(&mut self, arg: u32, at: &str) -> String {
        self.bind(arg, Elem::Halves);
        format!("a{arg}[{at}]")
    }

    /// The statement that stores what [`Source::load_vector`] would load.
    pub fn store_vector(&mut self, arg: u32, at: &str, value: &str) -> String {
        self.bind(arg, Elem::Vec4);
        let value = match self.dtype(arg) {
            dtype @ (DType::F16 | DType::BF16) => half::round_four(self, dtype, value),
            DType::F64 | DType::F32 | DType::I64 | DType::I32 | DType::U32 | DType::U8 | DType::Bool => {
                value.to_string()
            }
        };
        format!("a{arg}[{at}] = {value};\n")
    }

    pub fn dtype(&self, arg: u32) -> DType {
        self.args[arg as usize].dtype
    }

    /// Adds a function of [`scalar`] or a caller's own, once.
    pub fn function(&mut self, name: &'static str, text: &'static str) {
        self.functions.insert(name, text);
    }

    /// Declares memory that the workgroup shares.
    pub fn shared(&mut self, name: &str, of: &str, n: u32) {
        self.shared.push((name.to_string(), of.to_string(), n));
    }

    /// Declares the scratch, `scratch[..]` in the text, of 4-byte elements.
    pub fn scratch(&mut self, of: &'static str, words: Count) {
        self.scratch = Some((of, words));
    }

    /// Asks for an extension of the language.
    pub fn enable(&mut self, name: &'static str) {
        self.enables.insert(name, ());
    }

    /// The whole text around `body`. In it stand `group` (workgroup number, vec3), `groups` (how many, vec3), `local` (thread number in the
    /// workgroup, u32) and, where there are subgroups, `lane` (number in the subgroup) and `lanes` (how many); with matrix units also `sub` (the
    /// subgroup's number).
    pub fn finish(mut self, workgroup: [u32; 3], grid: Grid, body: &str) -> Shader {
        // A part of a kernel need not touch all that the whole does.
        self.bound.retain(|arg, _| body.contains(&format!("a{arg}[")));
        let n_vectors = self.words.len().div_ceil(4);
        let mut text = String::new();
        for name in self.enables.keys() {
            text += &format!("enable {name};\n");
        }
        for (&arg, elem) in &self.bound {
            let of = storage(self.dtype(arg)).expect("bug: the dtype was checked");
            let of = match elem {
                Elem::Scalar if self.is_atomic(arg) => format!("atomic<{of}>"),
                Elem::Scalar => of.to_string(),
                Elem::Vec4 if half::is_half(self.dtype(arg)) => format!("vec2<{of}>"),
                Elem::Vec4 => format!("vec4<{of}>"),
                Elem::Halves => "vec4<f16>".to_string(),
            };
            text += &format!("@group(0) @binding({arg}) var<storage, read_write> a{arg}: array<{of}>;\n");
        }
        if n_vectors > 0 {
            let n = n_vectors * self.n_segments;
            text += &format!("@group(0) @binding({}) var<uniform> params: array<vec4<u32>, {n}>;\n", Shader::PARAMS);
        }
        if let Some((of, _)) = &self.scratch {
            text +=
                &format!("@group(0) @binding({}) var<storage, read_write> scratch: array<{of}>;\n", Shader::SCRATCH);
        }
        if self.segmented() {
            text += &format!("const VECTORS: u32 = {n_vectors}u;\n");
        }
        for (name, of, n) in &self.shared {
            text += &format!("var<workgroup> {name}: array<{of}, {n}>;\n");
        }
        self.functions.values().for_each(|f| text += f);
        let [x, y, z] = workgroup;
        text += &format!("@compute @workgroup_size({x}, {y}, {z})\n");
        text += "fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>, ";
        text += "@builtin(local_invocation_index) local: u32";
        if self.enables.contains_key(COOPERATIVE) {
            text += ", @builtin(subgroup_id) sub: u32";
        }
        if self.workgroups.subgroup.is_some() && (body.contains("lane") || body.contains("lanes")) {
            text += ", @builtin(subgroup_invocation_id) lane: u32, @builtin(subgroup_size) lanes: u32";
        }
        text += &format!(") {{\n{body}}}\n");
        let args = self.bound.keys().copied().collect();
        Shader { source: text, args, workgroup, params: self.words, grid, scratch: self.scratch.map(|(_, n)| n) }
    }
}

/// The extension with matrix units.
pub const COOPERATIVE: &str = "wgpu_cooperative_matrix";

/// What a kernel's text needs around it.
struct PieceText {
    words: Vec<Word>,
    functions: BTreeMap<&'static str, &'static str>,
    shared: Vec<(String, String, u32)>,
}

/// The longest parameter block of a launch of several segments, in vectors of four words: 16 KiB, which every device has.
pub const MAX_SEGMENT_VECTORS: u32 = 1024;

/// A definition.
pub fn define(name: &str, value: &str) -> String {
    format!("let {name} = {value};\n")
}

/// Bytes of scratch that a contraction wants: none yet.
pub fn contract_scratch_bytes(_: &crate::kernel::Contract, _: usize) -> usize {
    0
}
