//! Floats of 16 bits, which lie two to a word and are f32 in registers. Takes words and places, gives the text that reads, rounds and writes
//! them. Never asks the device for 16-bit types: their rounding and what they do with subnormals differ from device to device, these bits do not.

use crate::codegen::Source;
use crate::ir::DType;

/// The functions of one type; each text names those before it.
struct Names {
    widen: &'static str,
    round: &'static str,
    widen_four: &'static str,
    round_four: &'static str,
}

/// Adds the functions of a type.
fn functions(s: &mut Source, dtype: DType) -> Names {
    let (names, texts) = match dtype {
        DType::F16 => (F16, [F16_WIDEN, F16_ROUND, F16_WIDEN_FOUR, F16_ROUND_FOUR]),
        DType::BF16 => (BF16, [BF16_WIDEN, BF16_ROUND, BF16_WIDEN_FOUR, BF16_ROUND_FOUR]),
        DType::F64 | DType::F32 | DType::I64 | DType::I32 | DType::U32 | DType::U8 | DType::Bool => {
            panic!("bug: {dtype} has no 16 bits")
        }
    };
    for (name, text) in [names.widen, names.round, names.widen_four, names.round_four].into_iter().zip(texts) {
        s.function(name, text);
    }
    names
}

/// How far the bits of element `at` are from the low end of their word.
fn shift(at: &str) -> String {
    format!("((({at}) & 1u) << 4u)")
}

/// Element `at`, which lies in `word`, as f32.
pub fn widen(s: &mut Source, dtype: DType, word: &str, at: &str) -> String {
    format!("{}({word} >> {})", functions(s, dtype).widen, shift(at))
}

/// Two words as four f32.
pub fn widen_four(s: &mut Source, dtype: DType, words: &str) -> String {
    format!("{}({words})", functions(s, dtype).widen_four)
}

/// Four f32 as two words.
pub fn round_four(s: &mut Source, dtype: DType, values: &str) -> String {
    format!("{}({values})", functions(s, dtype).round_four)
}

/// The nearest number of the type, as f32.
pub fn rounded(s: &mut Source, dtype: DType, value: &str) -> String {
    let names = functions(s, dtype);
    format!("{}({}({value}))", names.widen, names.round)
}

/// The statement that stores a value as element `at`, which lies in `word`, an atomic. Another thread may write the other half meanwhile: this
/// one changes its own bits only, which nobody else does.
pub fn store(s: &mut Source, dtype: DType, word: &str, at: &str, value: &str) -> String {
    let round = functions(s, dtype).round;
    let shift = shift(at);
    format!("atomicXor(&{word}, (((atomicLoad(&{word}) >> {shift}) ^ {round}({value})) & 0xffffu) << {shift});\n")
}

const F16: Names =
    Names { widen: "f16_widen", round: "f16_round", widen_four: "f16_widen_four", round_four: "f16_round_four" };
const BF16: Names =
    Names { widen: "bf16_widen", round: "bf16_round", widen_four: "bf16_widen_four", round_four: "bf16_round_four" };

/// The low half of a word. A subnormal is its bits times 2^-24; the exponents' biases differ by 112.
const F16_WIDEN: &str = "fn f16_widen(word: u32) -> f32 {
  let size = word & 0x7fffu;
  let normal = (size << 13u) + select(0x38000000u, 0x70000000u, size >= 0x7c00u);
  let finite = select(normal, bitcast<u32>(f32(size) * 5.9604645e-8f), size < 0x400u);
  return bitcast<f32>(finite | ((word & 0x8000u) << 16u));
}
";

/// To nearest, ties to even; infinite from 65520 on; NaN stays NaN. Adding 1/2 rounds at 2^-24, the step of subnormals: their bits then stand at
/// the low end.
const F16_ROUND: &str = "fn f16_round(x: f32) -> u32 {
  let bits = bitcast<u32>(x);
  let size = bits & 0x7fffffffu;
  let normal = (size - 0x38000000u + 0xfffu + ((size >> 13u) & 1u)) >> 13u;
  let small = select(normal, bitcast<u32>(bitcast<f32>(size) + 0.5f) - 0x3f000000u, size < 0x38800000u);
  let all = select(select(small, 0x7c00u, size >= 0x47800000u), 0x7e00u, size > 0x7f800000u);
  return all | ((bits >> 16u) & 0x8000u);
}
";

const F16_WIDEN_FOUR: &str = "fn f16_widen_four(w: vec2<u32>) -> vec4<f32> {
  return vec4<f32>(f16_widen(w.x), f16_widen(w.x >> 16u), f16_widen(w.y), f16_widen(w.y >> 16u));
}
";

const F16_ROUND_FOUR: &str = "fn f16_round_four(x: vec4<f32>) -> vec2<u32> {
  return vec2<u32>(f16_round(x.x) | (f16_round(x.y) << 16u), f16_round(x.z) | (f16_round(x.w) << 16u));
}
";

const BF16_WIDEN: &str = "fn bf16_widen(word: u32) -> f32 { return bitcast<f32>(word << 16u); }\n";

/// To nearest, ties to even; NaN stays NaN.
const BF16_ROUND: &str = "fn bf16_round(x: f32) -> u32 {
  let bits = bitcast<u32>(x);
  let near = (bits + 0x7fffu + ((bits >> 16u) & 1u)) >> 16u;
  return select(near, (bits >> 16u) | 0x40u, (bits & 0x7fffffffu) > 0x7f800000u);
}
";

const BF16_WIDEN_FOUR: &str = "fn bf16_widen_four(w: vec2<u32>) -> vec4<f32> {
  return bitcast<vec4<f32>>(vec4<u32>(w.x << 16u, w.x & 0xffff0000u, w.y << 16u, w.y & 0xffff0000u));
}
";

const BF16_ROUND_FOUR: &str = "fn bf16_round_four(x: vec4<f32>) -> vec2<u32> {
  return vec2<u32>(bf16_round(x.x) | (bf16_round(x.y) << 16u), bf16_round(x.z) | (bf16_round(x.w) << 16u));
}
";
