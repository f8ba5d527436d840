//! Stable orders of lines. Takes a sort, gives a shader in which a workgroup orders one line: in its own memory where the line fits there, else
//! in runs that it merges through the scratch. Elements are compared by unsigned keys and their places, so that no two are equal and every
//! network of comparisons is stable.

use super::scalar::{key_type, order_key};
use super::source::define;
use super::{Count, Grid, Shader, Source, Word};
use crate::caps::{Language, Workgroups};
use crate::ir::{DType, Dim};
use crate::kernel::Sort;

/// The longest line, or run of a longer one, that is ordered in workgroup memory: 16 KiB of keys and places.
const MAX_RUN: u32 = 2048;

/// Threads of a line, at most: merging waits for memory, which more of them do at once, but where WGSL runs a pipeline may take fewer than the device says.
fn most_threads(s: &Source) -> u32 {
    let most = match s.language() {
        Language::Cuda => 1024,
        Language::Wgsl => 256,
    };
    s.workgroups.threads.min(most)
}

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
    write(s, &lines, k.dtype, &key, &store)
}

/// A key and a place as they lie in the scratch.
struct Entry {
    key_type: &'static str,
    /// Words of a key.
    words: u32,
}

impl Entry {
    fn of(dtype: DType) -> Entry {
        let key_type = key_type(dtype);
        Entry { key_type, words: if key_type == "u64" { 2 } else { 1 } }
    }

    /// Where entry `e` of the lines from `begin` on is.
    fn at(&self, begin: &str, e: &str) -> String {
        format!("{begin} + {e} * {}u", self.words + 1)
    }

    fn key(&self, s: &Source, at: &str) -> String {
        if self.words == 1 { format!("scratch[{at}]") } else { s.from_scratch(self.key_type, at) }
    }

    fn place(&self, at: &str) -> String {
        format!("scratch[{at} + {}u]", self.words)
    }

    /// Statements that store both.
    fn put(&self, s: &Source, at: &str, key: &str, place: &str) -> String {
        let key = if self.words == 1 { format!("scratch[{at}] = {key};") } else { s.to_scratch(at, key) };
        format!("{key} {} = {place};", self.place(at))
    }
}

/// The shader that orders lines: `key(at)` is the text of the key of element `at`, a value of `dtype`, `store(at, place)` the statement that
/// stores a place.
pub(super) fn write(
    mut s: Source,
    lines: &Lines,
    dtype: DType,
    key: &dyn Fn(&mut Source, &str) -> String,
    store: &dyn Fn(&mut Source, &str, &str) -> String,
) -> Shader {
    let fits = lines.len.as_fixed().filter(|&n| n <= MAX_RUN as usize);
    let run = fits.map_or(MAX_RUN, |n| (n as u32).next_power_of_two().max(2));
    let threads = (run / 2).min(most_threads(&s));
    let (outer, len, inner) = (s.dim(lines.outer), s.dim(lines.len), s.dim(lines.inner));
    let entry = Entry::of(dtype);
    s.shared("keys", entry.key_type, run);
    s.shared("places", "u32", run);
    let mut body = "let line = group.y * groups.x + group.x;\n".to_string();
    body += &format!("if (line >= {outer} * {inner}) {{ return; }}\nlet len = {len};\nlet inner = {inner};\n");
    body += "let first = line / inner * len * inner + line % inner;\n";
    let element = key(&mut s, "first + i * inner");
    let last = if entry.words == 1 { "0xffffffffu" } else { "~u64(0)" };
    let fill = format!(
        "for (var e = local; e < {run}u; e += {threads}u) {{\nlet i = begin + e;\n\
         if (i < len) {{ keys[e] = {element}; places[e] = i; }} else {{ keys[e] = {last}; places[e] = 0xffffffffu; }}\n}}\n\
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
    let words = [grid.clone(), vec![Word::Dim(lines.len), Word::Bits(2 * (entry.words + 1))]].concat();
    s.scratch("u32", Count { of: words, per: 1 });
    let each = entry.words + 1;
    let kept = entry.put(&s, &entry.at("source", "(begin + e)"), "keys[e]", "places[e]");
    body += &format!(
        "let mine = line * len * {}u;\nvar source = mine;\nvar dest = mine + len * {each}u;\n\
         for (var begin = 0u; begin < len; begin += {run}u) {{\n{fill}{network}\
         for (var e = local; e < {run}u && begin + e < len; e += {threads}u) {{ \
         {kept} }}\nworkgroupBarrier();\n}}\n\
         storageBarrier();\n{}",
        2 * each,
        merge(&s, &entry, run, threads)
    );
    let put = store(&mut s, "first + e * inner", &entry.place(&entry.at("source", "e")));
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
fn merge(s: &Source, entry: &Entry, run: u32, threads: u32) -> String {
    let (own, other) = (entry.at("source", "e"), entry.at("source", "middle"));
    let (key, place) = (entry.key(s, &own), entry.place(&own));
    let (other_key, other_place) = (entry.key(s, &other), entry.place(&other));
    let put = entry.put(s, "at", "key", "place");
    format!(
        "for (var width = {run}u; width < len; width = width << 1u) {{\n\
         for (var e = local; e < len; e += {threads}u) {{\n\
         let key = {key}; let place = {place};\n\
         let pair = e / (2u * width) * (2u * width);\nlet is_left = e - pair < width;\n\
         let other = select(pair, min(pair + width, len), is_left);\n\
         let other_end = select(min(pair + width, len), min(pair + 2u * width, len), is_left);\n\
         var low = other; var high = other_end;\n\
         while (low < high) {{\nlet middle = (low + high) >> 1u;\n\
         let k = {other_key}; let p = {other_place};\n\
         if (k < key || (k == key && p < place)) {{ low = middle + 1u; }} else {{ high = middle; }}\n}}\n\
         let own = select(e - pair - width, e - pair, is_left);\n\
         let at = dest + (pair + own + (low - other)) * {}u;\n\
         {put}\n}}\n\
         storageBarrier();\nlet swap = source; source = dest; dest = swap;\n}}\n",
        entry.words + 1
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
