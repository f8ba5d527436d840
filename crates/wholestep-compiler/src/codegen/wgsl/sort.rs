//! Stable orders of lines. Takes a sort, gives a shader in which a workgroup orders one line: in its own memory where the line fits there, else
//! in runs that it merges through the scratch. Elements are compared by unsigned keys and their places, so that no two are equal and every
//! network of comparisons is stable.

use super::{Source, define};
use crate::caps::Workgroups;
use crate::codegen::{Count, Grid, Shader, Word};
use crate::ir::{DType, Dim};
use crate::kernel::Sort;

/// The longest line, or run of a longer one, that is ordered in workgroup memory: 16 KiB of keys and places.
const MAX_RUN: u32 = 2048;

/// An unsigned number that orders as the value does: NaN is the largest, and both zeros are one.
pub(super) fn order_key(s: &mut Source, dtype: DType, value: &str) -> String {
    match dtype {
        DType::F32 | DType::F16 | DType::BF16 => {
            s.function("order_key", ORDER_KEY);
            format!("order_key({value})")
        }
        DType::I32 => format!("(bitcast<u32>({value}) ^ 0x80000000u)"),
        DType::U32 | DType::U8 => value.to_string(),
        DType::Bool => format!("select(0u, 1u, {value})"),
        DType::F64 | DType::I64 => panic!("bug: {dtype} is kept out before text is made"),
    }
}

const ORDER_KEY: &str = "fn order_key(x: f32) -> u32 {
  let bits = bitcast<u32>(x);
  let size = bits & 0x7fffffffu;
  if (size > 0x7f800000u) { return 0xffffffffu; }
  if (size == 0u) { return 0x80000000u; }
  return select(bits | 0x80000000u, ~bits, (bits >> 31u) == 1u);
}
";

/// The extents of what is ordered: lines along the middle axis.
pub(super) struct Lines {
    pub outer: Dim,
    pub len: Dim,
    pub inner: Dim,
}

/// The shader of a sort.
pub fn shader(k: &Sort, workgroups: &Workgroups) -> Shader {
    let s = Source::new(workgroups, &k.args);
    let lines = Lines { outer: k.outer, len: k.len, inner: k.inner };
    let key = |s: &mut Source, at: &str| {
        let value = s.load(0, at);
        let key = order_key(s, k.dtype, &value);
        if k.descending { format!("~({key})") } else { key }
    };
    let store = |s: &mut Source, at: &str, place: &str| s.store(1, at, &format!("i32({place})"));
    write(s, &lines, &key, &store)
}

/// The shader that orders lines: `key(at)` is the text of the key of element `at`, `store(at, place)` the statement that stores a place.
pub(super) fn write(
    mut s: Source,
    lines: &Lines,
    key: &dyn Fn(&mut Source, &str) -> String,
    store: &dyn Fn(&mut Source, &str, &str) -> String,
) -> Shader {
    let fits = lines.len.as_fixed().filter(|&n| n <= MAX_RUN as usize);
    let run = fits.map_or(MAX_RUN, |n| (n as u32).next_power_of_two().max(2));
    let threads = (run / 2).min(256).min(s.workgroups.threads);
    let (outer, len, inner) = (s.dim(lines.outer), s.dim(lines.len), s.dim(lines.inner));
    s.shared("keys", "u32", run);
    s.shared("places", "u32", run);
    let mut body = "let line = group.y * groups.x + group.x;\n".to_string();
    body += &format!("if (line >= {outer} * {inner}) {{ return; }}\nlet len = {len};\nlet inner = {inner};\n");
    body += "let first = line / inner * len * inner + line % inner;\n";
    let element = key(&mut s, "first + i * inner");
    let fill = format!(
        "for (var e = local; e < {run}u; e += {threads}u) {{\nlet i = begin + e;\n\
         if (i < len) {{ keys[e] = {element}; places[e] = i; }} else {{ keys[e] = 0xffffffffu; places[e] = 0xffffffffu; }}\n}}\n\
         workgroupBarrier();\n"
    );
    let network = network(run, threads);
    let grid = vec![Word::Dim(lines.outer), Word::Dim(lines.inner)];
    if fits.is_some() {
        let put = store(&mut s, "first + e * inner", "places[e]");
        body += &format!("let begin = 0u;\n{fill}{network}for (var e = local; e < len; e += {threads}u) {{\n{put}}}\n");
        return s.finish([threads, 1, 1], Grid::Line(Count { of: grid, per: 1 }), &body);
    }
    // Two buffers of keys and places for each line.
    let words = [grid.clone(), vec![Word::Dim(lines.len), Word::Bits(4)]].concat();
    s.scratch("u32", Count { of: words, per: 1 });
    body += &format!(
        "let mine = line * len * 4u;\nvar source = mine;\nvar dest = mine + len * 2u;\n\
         for (var begin = 0u; begin < len; begin += {run}u) {{\n{fill}{network}\
         for (var e = local; e < {run}u && begin + e < len; e += {threads}u) {{ \
         scratch[source + (begin + e) * 2u] = keys[e]; scratch[source + (begin + e) * 2u + 1u] = places[e]; }}\nworkgroupBarrier();\n}}\n\
         storageBarrier();\n{}",
        merge(run, threads)
    );
    let put = store(&mut s, "first + e * inner", "scratch[source + e * 2u + 1u]");
    body += &format!("for (var e = local; e < len; e += {threads}u) {{\n{put}}}\n");
    s.finish([threads, 1, 1], Grid::Line(Count { of: grid, per: 1 }), &body)
}

/// Batcher's bitonic network over the keys in workgroup memory.
fn network(run: u32, threads: u32) -> String {
    format!(
        "for (var block = 2u; block <= {run}u; block = block << 1u) {{\n\
         for (var step = block >> 1u; step > 0u; step = step >> 1u) {{\n\
         for (var pair = local; pair < {}u; pair += {threads}u) {{\n\
         let low = pair / step * step * 2u + pair % step;\nlet high = low + step;\n\
         let up = (low & block) == 0u;\n\
         let k0 = keys[low]; let k1 = keys[high]; let p0 = places[low]; let p1 = places[high];\n\
         let after = k0 > k1 || (k0 == k1 && p0 > p1);\n\
         if (after == up) {{ keys[low] = k1; keys[high] = k0; places[low] = p1; places[high] = p0; }}\n}}\n\
         workgroupBarrier();\n}}\n}}\n",
        run / 2
    )
}

/// Merges runs in the scratch until one is left. The place of an element is its place in its own run and how many of the other run come before it.
fn merge(run: u32, threads: u32) -> String {
    format!(
        "for (var width = {run}u; width < len; width = width << 1u) {{\n\
         for (var e = local; e < len; e += {threads}u) {{\n\
         let key = scratch[source + e * 2u]; let place = scratch[source + e * 2u + 1u];\n\
         let pair = e / (2u * width) * (2u * width);\nlet is_left = e - pair < width;\n\
         let other = select(pair, min(pair + width, len), is_left);\n\
         let other_end = select(min(pair + width, len), min(pair + 2u * width, len), is_left);\n\
         var low = other; var high = other_end;\n\
         while (low < high) {{\nlet middle = (low + high) >> 1u;\n\
         let k = scratch[source + middle * 2u]; let p = scratch[source + middle * 2u + 1u];\n\
         if (k < key || (k == key && p < place)) {{ low = middle + 1u; }} else {{ high = middle; }}\n}}\n\
         let own = select(e - pair - width, e - pair, is_left);\n\
         let at = dest + (pair + own + (low - other)) * 2u;\n\
         scratch[at] = key; scratch[at + 1u] = place;\n}}\n\
         storageBarrier();\nlet swap = source; source = dest; dest = swap;\n}}\n"
    )
}

/// Defines `order`, a place in the sorted sequence of one line, by its key: the first that is not before `wanted`.
pub(super) fn lower_bound(name: &str, wanted: &str, n: &str, key_at: &dyn Fn(&str) -> String) -> String {
    let middle = key_at("middle");
    define(&format!("{name}_end"), n)
        + &format!(
            "var {name} = 0u;\n{{\nvar high = {name}_end;\nwhile ({name} < high) {{\nlet middle = ({name} + high) >> 1u;\n\
             if ({middle} < {wanted}) {{ {name} = middle + 1u; }} else {{ high = middle; }}\n}}\n}}\n"
        )
}
