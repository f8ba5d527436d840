//! How CUDA C reads and writes elements of arguments. Takes an argument and a place, gives text: 8 and 16 bits are widened on the way in and
//! narrowed on the way out. Never decides how an argument is declared.

use crate::codegen::source::{Elem, Source};
use crate::ir::DType;

/// Element `at` of an argument in memory.
fn element(s: &mut Source, arg: u32, at: &str) -> String {
    let at = s.place(arg, at);
    match *s.bound.entry(arg).or_insert(Elem::Scalar) {
        Elem::Scalar => format!("a{arg}[{at}]"),
        Elem::Vec4 => format!("a{arg}[({at}) >> 2u][({at}) & 3u]"),
        Elem::Halves => panic!("bug: vectors of f16 are for WGSL's matrix units"),
    }
}

/// Element `at` of an argument as a value of its register type.
pub fn load(s: &mut Source, arg: u32, at: &str) -> String {
    let place = element(s, arg, at);
    match s.dtype(arg) {
        DType::Bool => format!("({place} != 0)"),
        DType::U8 => format!("u32({place})"),
        dtype @ (DType::F16 | DType::BF16) => format!("{dtype}_widen({place})"),
        DType::F64 | DType::F32 | DType::I64 | DType::I32 | DType::U32 => place,
    }
}

/// The statement that stores a value of the argument's register type.
pub fn store(s: &mut Source, arg: u32, at: &str, value: &str) -> String {
    let place = element(s, arg, at);
    match s.dtype(arg) {
        DType::Bool | DType::U8 => format!("{place} = u8({value});\n"),
        dtype @ (DType::F16 | DType::BF16) => format!("{place} = {dtype}_round({value});\n"),
        DType::F64 | DType::F32 | DType::I64 | DType::I32 | DType::U32 => format!("{place} = {value};\n"),
    }
}

/// Vector number `at` of an argument as four values of its register type; truth values come as u32.
pub fn load_vector(s: &Source, arg: u32, at: &str) -> String {
    match s.dtype(arg) {
        dtype @ (DType::F16 | DType::BF16) => format!("{dtype}_widen(a{arg}[{at}])"),
        DType::U8 | DType::Bool => format!("u8_widen(a{arg}[{at}])"),
        DType::F64 | DType::F32 | DType::I64 | DType::I32 | DType::U32 => format!("a{arg}[{at}]"),
    }
}

/// The statement that stores what [`load_vector`] would load.
pub fn store_vector(s: &Source, arg: u32, at: &str, value: &str) -> String {
    match s.dtype(arg) {
        dtype @ (DType::F16 | DType::BF16) => format!("a{arg}[{at}] = {dtype}_round({value});\n"),
        DType::U8 | DType::Bool => format!("a{arg}[{at}] = u8_narrow({value});\n"),
        DType::F64 | DType::F32 | DType::I64 | DType::I32 | DType::U32 => format!("a{arg}[{at}] = {value};\n"),
    }
}
