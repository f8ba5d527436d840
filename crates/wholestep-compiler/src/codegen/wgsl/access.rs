//! How WGSL reads and writes elements of arguments. Takes an argument and a place, gives text: `u8` and `bool` take a word of their own, floats of 16
//! bits lie two to a word. Never decides how an argument is declared.

use super::{half, whole};
use crate::codegen::Word;
use crate::codegen::scalar::is_half;
use crate::codegen::source::{Elem, Source, register};
use crate::ir::DType;
use crate::kernel::Access;

/// The place of element `at` of an argument, or of the word that holds it, in its storage type.
fn element(s: &mut Source, arg: u32, at: &str) -> String {
    let elem = *s.bound.entry(arg).or_insert(Elem::Scalar);
    match (elem, is_half(s.dtype(arg))) {
        (Elem::Scalar, false) => format!("a{arg}[{at}]"),
        (Elem::Vec4, false) => format!("a{arg}[({at}) >> 2u][({at}) & 3u]"),
        (Elem::Scalar, true) => format!("a{arg}[({at}) >> 1u]"),
        (Elem::Vec4, true) => format!("a{arg}[({at}) >> 2u][(({at}) >> 1u) & 1u]"),
        (Elem::Halves, _) => panic!("bug: elements of vectors that only move are read one by one"),
    }
}

/// Whether words of an argument are shared by threads that write one half each.
pub fn is_atomic(s: &Source, arg: u32) -> bool {
    let is_scalar = s.bound.get(&arg).is_none_or(|elem| *elem == Elem::Scalar);
    is_half(s.dtype(arg)) && s.args[arg as usize].access != Access::Read && is_scalar
}

/// The word of element `at` of an argument that is seen in a piece of memory with others.
fn word_in_piece(s: &mut Source, arg: u32, at: &str) -> Option<String> {
    let piece = s.pieces.as_ref()?.0[arg as usize];
    let step = if piece == whole::INPUTS { " + inputs_at" } else { "" };
    Some(format!("p{piece}[{at} + {}{step}]", s.word(Word::Offset(arg))))
}

/// Element `at` of an argument as a value of its register type.
pub fn load(s: &mut Source, arg: u32, at: &str) -> String {
    if let Some(word) = word_in_piece(s, arg, at) {
        return match register(s.dtype(arg)) {
            "u32" => word,
            "bool" => format!("({word} != 0u)"),
            kind => format!("bitcast<{kind}>({word})"),
        };
    }
    let at = s.place(arg, at);
    let place = element(s, arg, &at);
    match s.dtype(arg) {
        DType::Bool => format!("({place} != 0u)"),
        dtype @ (DType::F16 | DType::BF16) => {
            let word = if is_atomic(s, arg) { format!("atomicLoad(&{place})") } else { place };
            half::widen(s, dtype, &word, &at)
        }
        DType::F64 | DType::F32 | DType::I64 | DType::I32 | DType::U32 | DType::U8 => place,
    }
}

/// The statement that stores a value of the argument's register type.
pub fn store(s: &mut Source, arg: u32, at: &str, value: &str) -> String {
    if let Some(word) = word_in_piece(s, arg, at) {
        return match register(s.dtype(arg)) {
            "bool" => format!("{word} = select(0u, 1u, {value});\n"),
            _ => format!("{word} = bitcast<u32>({value});\n"),
        };
    }
    let at = s.place(arg, at);
    let place = element(s, arg, &at);
    match s.dtype(arg) {
        DType::Bool => format!("{place} = select(0u, 1u, {value});\n"),
        dtype @ (DType::F16 | DType::BF16) => {
            assert!(is_atomic(s, arg), "bug: argument {arg} is written by halves of words that are read as vectors");
            half::store(s, dtype, &place, &at, value)
        }
        DType::F64 | DType::F32 | DType::I64 | DType::I32 | DType::U32 | DType::U8 => {
            format!("{place} = {value};\n")
        }
    }
}

/// Vector number `at` of an argument that is declared in vectors: four values of its register type, but for `bool`, whose words stay words.
pub fn load_vector(s: &mut Source, arg: u32, at: &str) -> String {
    let place = format!("a{arg}[{at}]");
    match s.dtype(arg) {
        dtype @ (DType::F16 | DType::BF16) => half::widen_four(s, dtype, &place),
        DType::F64 | DType::F32 | DType::I64 | DType::I32 | DType::U32 | DType::U8 | DType::Bool => place,
    }
}

/// Vector number `at` of an argument of f16, as four f16.
pub fn load_f16(s: &mut Source, arg: u32, at: &str) -> String {
    s.bind(arg, Elem::Halves);
    format!("a{arg}[{at}]")
}

/// The statement that stores what [`Source::load_vector`] would load.
pub fn store_vector(s: &mut Source, arg: u32, at: &str, value: &str) -> String {
    let value = match s.dtype(arg) {
        dtype @ (DType::F16 | DType::BF16) => half::round_four(s, dtype, value),
        DType::F64 | DType::F32 | DType::I64 | DType::I32 | DType::U32 | DType::U8 | DType::Bool => value.to_string(),
    };
    format!("a{arg}[{at}] = {value};\n")
}
