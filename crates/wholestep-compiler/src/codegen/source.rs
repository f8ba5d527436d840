//! A text being written. Takes arguments, parameters and memory as they come up, gives their spelling and in the end the shader: all that kernel
//! writers say otherwise than in expressions that the languages spell alike. Never knows what a kernel computes.
//!
//! The writers' own words are `let` and `var` for definitions, `u32 i32 f32 …` and `vec4<T>` for types, `select`, `bitcast<T>`, `clamp`, `fma` and the
//! barriers: WGSL has them, the prelude of CUDA C defines them.

use super::{Count, DivisorPart, Grid, Shader, Word, cuda, index, together, wgsl};
use crate::caps::{Language, Workgroups};
use crate::ir::{DType, Dim};
use crate::kernel::Arg;
use std::collections::BTreeMap;

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

/// The type of a value in registers. Floats of 16 bits are f32 there, which holds them exactly.
pub fn register(dtype: DType) -> &'static str {
    match dtype {
        DType::F64 => "f64",
        DType::F32 | DType::F16 | DType::BF16 => "f32",
        DType::I64 => "i64",
        DType::I32 => "i32",
        DType::U32 | DType::U8 => "u32",
        DType::Bool => "bool",
    }
}

/// 4-byte words of a value in registers.
pub fn words_of(dtype: DType) -> u32 {
    if matches!(dtype, DType::F64 | DType::I64) { 2 } else { 1 }
}

/// A shader being written.
pub struct Source<'a> {
    pub workgroups: &'a Workgroups,
    pub(super) args: &'a [Arg],
    /// What is read of each argument that the text uses.
    pub(super) bound: BTreeMap<u32, Elem>,
    /// How many segments the launch has: with several, arguments begin at an offset and extents are parameters.
    pub(super) n_segments: usize,
    pub(super) words: Vec<Word>,
    /// Whether numbers that are known are parameters all the same.
    pub(super) open: bool,
    /// By argument, the piece of memory that it is seen in as words, with others; and where its parameters begin among those of others.
    pub(super) pieces: Option<(Vec<u32>, usize)>,
    pub(super) functions: BTreeMap<&'static str, &'static str>,
    /// Memory that the workgroup shares: name, type of an element, how many.
    pub(super) shared: Vec<(String, String, u32)>,
    pub(super) scratch: Option<(&'static str, Count)>,
    pub(super) enables: BTreeMap<&'static str, ()>,
    /// See [`Shader::wants_registers`].
    pub(super) wants_registers: bool,
}

impl<'a> Source<'a> {
    pub fn new(workgroups: &'a Workgroups, args: &'a [Arg]) -> Source<'a> {
        Source {
            workgroups,
            args,
            bound: BTreeMap::new(),
            n_segments: 1,
            words: Vec::new(),
            open: false,
            pieces: None,
            functions: BTreeMap::new(),
            shared: Vec::new(),
            scratch: None,
            enables: BTreeMap::new(),
            wants_registers: false,
        }
    }

    /// The same for a launch of several segments.
    pub fn with_segments(mut self, n: usize) -> Source<'a> {
        self.n_segments = n;
        self
    }

    /// The same with parameters in place of numbers that are known, where a compiler takes long: loops that differ in numbers only have one text. Folding them spares
    /// what is bound by memory nothing.
    pub fn with_open_numbers(mut self) -> Source<'a> {
        self.open = self.language() == Language::Cuda && !self.segmented();
        self
    }

    /// The same for a kernel that stands in a text with others, whose parameters begin at word `first`: see [`wgsl::whole`].
    pub(super) fn in_pieces(mut self, pieces: Vec<u32>, first: usize) -> Source<'a> {
        self.pieces = Some((pieces, first));
        self
    }

    pub fn language(&self) -> Language {
        self.workgroups.language
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
        match together::own_number(dim) {
            Some(i) => self.word(Word::Number(i)),
            None if dim.batch == 0 && !(self.open && dim.fixed > 1) => index::literal(dim.fixed),
            None => self.word(Word::Dim(dim)),
        }
    }

    /// The same of a number of the schedule.
    pub fn number(&mut self, n: u32) -> String {
        if self.open { self.word(Word::Bits(n)) } else { format!("{n}u") }
    }

    /// The same of ⌈of / per⌉, by which places are taken apart along an axis.
    pub fn divisor(&mut self, axis: usize, of: Dim, per: u32) -> String {
        let is_one = of.batch == 0 && of.fixed <= i64::from(per);
        if !self.open || is_one {
            return if per == 1 { self.dim(of) } else { self.tiles(of, per) };
        }
        let parts = [DivisorPart::Itself, DivisorPart::Inverse, DivisorPart::Shift];
        let parts = parts.map(|part| self.word(Word::Divisor { axis: axis as u32, of, per, part }));
        format!("Extent{{{}}}", parts.join(", "))
    }

    /// The text of ⌈of / per⌉.
    fn tiles(&mut self, of: Dim, per: u32) -> String {
        let word = Word::Tiles(of, per);
        if of.batch == 0 { index::literal(word.at(1, &[]).into()) } else { self.word(word) }
    }

    /// What is added to a place: on CUDA a parameter, so that epilogues that differ in where they read have one text.
    pub fn offset(&mut self, offset: Dim) -> Option<String> {
        let is_known = offset.batch == 0 && offset.fixed != 0;
        (self.language() == Language::Cuda && is_known).then(|| self.word(Word::Dim(offset)))
    }

    /// Declares an argument's elements; an argument is declared in one way only.
    pub fn bind(&mut self, arg: u32, elem: Elem) {
        let before = self.bound.insert(arg, elem);
        assert!(before.is_none_or(|b| b == elem), "bug: argument {arg} is declared in two ways");
    }

    /// An element's number in what is bound for its argument.
    pub(super) fn place(&mut self, arg: u32, at: &str) -> String {
        if self.segmented() { format!("{at} + {}", self.word(Word::Offset(arg))) } else { at.to_string() }
    }

    /// Element `at` of an argument as a value of its register type.
    pub fn load(&mut self, arg: u32, at: &str) -> String {
        match self.language() {
            Language::Wgsl => wgsl::access::load(self, arg, at),
            Language::Cuda => cuda::access::load(self, arg, at),
        }
    }

    /// The statement that stores a value of the argument's register type.
    pub fn store(&mut self, arg: u32, at: &str, value: &str) -> String {
        match self.language() {
            Language::Wgsl => wgsl::access::store(self, arg, at, value),
            Language::Cuda => cuda::access::store(self, arg, at, value),
        }
    }

    /// Vector number `at` of an argument that is declared in vectors: four values of its register type, but for `bool`, which comes as u32.
    pub fn load_vector(&mut self, arg: u32, at: &str) -> String {
        self.bind(arg, Elem::Vec4);
        match self.language() {
            Language::Wgsl => wgsl::access::load_vector(self, arg, at),
            Language::Cuda => cuda::access::load_vector(self, arg, at),
        }
    }

    /// The statement that stores what [`Source::load_vector`] would load.
    pub fn store_vector(&mut self, arg: u32, at: &str, value: &str) -> String {
        self.bind(arg, Elem::Vec4);
        match self.language() {
            Language::Wgsl => wgsl::access::store_vector(self, arg, at, value),
            Language::Cuda => cuda::access::store_vector(self, arg, at, value),
        }
    }

    /// The value of type `kind` that begins at word `at` of the scratch.
    pub fn from_scratch(&self, kind: &str, at: &str) -> String {
        match self.language() {
            Language::Wgsl => format!("bitcast<{kind}>(scratch[{at}])"),
            Language::Cuda => format!("from_words<{kind}>(scratch + {at})"),
        }
    }

    /// The statement that puts a value there.
    pub fn to_scratch(&self, at: &str, value: &str) -> String {
        match self.language() {
            Language::Wgsl => format!("scratch[{at}] = bitcast<u32>({value});\n"),
            Language::Cuda => format!("to_words(scratch + {at}, {value});\n"),
        }
    }

    pub fn dtype(&self, arg: u32) -> DType {
        self.args[arg as usize].dtype
    }

    /// The definition of a value of type `kind`.
    pub fn value(&self, name: &str, kind: &str, value: &str) -> String {
        match self.language() {
            Language::Wgsl => format!("let {name}: {kind} = {value};\n"),
            Language::Cuda => format!("const {kind} {name} = {value};\n"),
        }
    }

    /// Zero of the register type of `dtype`, for a variable whose type follows from it.
    pub fn zero(&self, dtype: DType) -> String {
        match self.language() {
            Language::Wgsl => if dtype.is_float() { "0.0" } else { "0" }.to_string(),
            Language::Cuda => format!("{}()", register(dtype)),
        }
    }

    /// The definition of a variable of type `kind`.
    pub fn variable(&self, name: &str, kind: &str, value: &str) -> String {
        match self.language() {
            Language::Wgsl => format!("var {name}: {kind} = {value};\n"),
            Language::Cuda => format!("{kind} {name} = {value};\n"),
        }
    }

    /// A case of a `switch` over numbers, or what is done in all others.
    pub fn case(&self, number: Option<u32>, statements: &str) -> String {
        let label = number.map_or("default".to_string(), |n| format!("case {n}u"));
        let end = match self.language() {
            Language::Wgsl => "",
            Language::Cuda => "break; ",
        };
        format!("{label}: {{ {statements}{end}}}\n")
    }

    /// Adds a function of the language's own, once.
    pub fn function(&mut self, name: &'static str, text: &'static str) {
        self.functions.insert(name, text);
    }

    /// Declares memory that the workgroup shares; the same again is the same memory.
    pub fn shared(&mut self, name: &str, of: &str, n: u32) {
        let declared = (name.to_string(), of.to_string(), n);
        if !self.shared.contains(&declared) {
            self.shared.push(declared);
        }
    }

    /// Declares the scratch, `scratch[..]` in the text, of 4-byte elements.
    pub fn scratch(&mut self, of: &'static str, words: Count) {
        self.scratch = Some((of, words));
    }

    /// Asks for an extension of WGSL.
    pub fn enable(&mut self, name: &'static str) {
        self.enables.insert(name, ());
    }

    /// The whole text around `body`. In it stand `group` (workgroup number, three axes), `groups` (how many), `local` (thread number in the
    /// workgroup, u32) and, where there are subgroups, `lane` (number in the subgroup) and `lanes` (how many); with matrix units also `sub` (the
    /// subgroup's number).
    pub fn finish(mut self, workgroup: [u32; 3], grid: Grid, body: &str) -> Shader {
        // A part of a kernel need not touch all that the whole does.
        self.bound.retain(|arg, _| body.contains(&format!("a{arg}[")));
        let (source, shared_bytes, parts) = match self.language() {
            Language::Wgsl => {
                let parts = wgsl::parts(&self, body);
                (parts.text(workgroup), 0, Some(parts))
            }
            Language::Cuda => {
                let (source, shared_bytes) = cuda::text(&self, workgroup, body);
                (source, shared_bytes, None)
            }
        };
        let args = self.bound.keys().copied().collect();
        let scratch = self.scratch.map(|(_, n)| n);
        let (params, wants_registers) = (self.words, self.wants_registers);
        Shader { source, parts, args, workgroup, shared_bytes, wants_registers, params, grid, scratch }
    }
}

/// A definition.
pub fn define(name: &str, value: &str) -> String {
    format!("let {name} = {value};\n")
}
