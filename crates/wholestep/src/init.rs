//! The values that slots hold before the first step. Takes a slot and a seed, gives its elements, drawn from Philox keyed by the seed and
//! by a hash of the slot's name. Never depends on the order in which layers were built, on the number of threads or on a device.

use half::{bf16, f16};
use wholestep_compiler::ir::op::random::philox4x32;
use wholestep_compiler::ir::{DType, Init, Slot};

/// The elements of `slot`, row-major in the shape the user declared, rounded to f32.
///
/// Element i of a random kind comes from the Philox4x32-10 block with counter `(i / 4, attempt, hash lo, hash hi)` and key
/// `(seed lo, seed hi)`, where hash is the 64-bit FNV-1a of the slot's name. The two words of [`Init::Key`] are no numbers; they come
/// as the floats with those bits, which [`bytes`] stores unchanged.
pub fn fill(slot: &Slot, seed: u64) -> Vec<f32> {
    let dims = slot.shape.at(0);
    let n: usize = dims.iter().product();
    let words = Words { seed, stream: fnv1a(&slot.name) };
    let round = |value: f64| value as f32;
    match &slot.init {
        Init::Const(value) => vec![round(*value); n],
        Init::Uniform { lo, hi } => in_pieces(n, 4, |from, part| {
            part.iter_mut().zip(words.units(from)).for_each(|(value, u)| *value = uniform(u, *lo, *hi));
        }),
        Init::Normal { mean, std } => {
            in_pieces(n, 4, |from, part| words.normals(from, part, |z| round(mean + std * z)))
        }
        Init::TruncNormal { mean, std, lo, hi } => {
            let bounds = ((lo - mean) / std, (hi - mean) / std);
            let inside = |z: f64| round(mean + std * z).clamp(round(*lo).min(round(*hi)), round(*hi));
            each(n, |i| inside(words.truncated_normal(i, bounds)))
        }
        Init::Orthogonal { gain } => orthogonal(&words, &dims, *gain),
        Init::Values(values) => values.clone(),
        Init::Key => key(&words).map(f32::from_bits).to_vec(),
    }
}

/// Fewer elements are not worth a thread.
const PIECE: usize = 1 << 16;

/// `n` elements, of which `fill` writes a part from a place on; several threads take pieces of whole blocks.
fn in_pieces(n: usize, block: usize, fill: impl Fn(usize, &mut [f32]) + Sync) -> Vec<f32> {
    let mut values = vec![0.0; n];
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    let piece = n.div_ceil(threads).max(PIECE).next_multiple_of(block);
    std::thread::scope(|scope| {
        let mut pieces = values.chunks_mut(piece).enumerate();
        let first = pieces.next();
        for (i, part) in pieces {
            let fill = &fill;
            scope.spawn(move || fill(i * piece, part));
        }
        first.into_iter().for_each(|(_, part)| fill(0, part));
    });
    values
}

/// `of(0)` to `of(n - 1)`.
fn each(n: usize, of: impl Fn(usize) -> f32 + Sync) -> Vec<f32> {
    in_pieces(n, 1, |from, part| part.iter_mut().enumerate().for_each(|(i, value)| *value = of(from + i)))
}

/// The bytes of a slot. Those of floats stay where they were made, as there may be hundreds of megabytes of them.
#[derive(Debug)]
pub enum Bytes {
    /// Elements of f32, in storage order.
    Floats(Vec<f32>),
    /// All other types, little-endian.
    Others(Vec<u8>),
}

impl std::ops::Deref for Bytes {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        match self {
            Bytes::Floats(values) => bytemuck::cast_slice(values),
            Bytes::Others(bytes) => bytes,
        }
    }
}

/// The elements of `slot` as a backend stores them: little-endian, in the slot's dtype and storage order.
pub fn bytes(slot: &Slot, seed: u64) -> Bytes {
    stored(slot, fill(slot, seed))
}

/// What [`fill`] gave as a backend stores it.
pub fn stored(slot: &Slot, values: Vec<f32>) -> Bytes {
    if matches!(slot.init, Init::Key) {
        return Bytes::Others(values.iter().flat_map(|v| v.to_bits().to_le_bytes()).collect());
    }
    let dims = slot.shape.at(0);
    let stored = if slot.order.is_sorted() { values } else { reorder(&values, &dims, &slot.order) };
    if slot.dtype == DType::F32 {
        return Bytes::Floats(stored);
    }
    Bytes::Others(stored.iter().flat_map(|&v| encode(v, slot.dtype)).collect())
}

fn encode(v: f32, dtype: DType) -> Vec<u8> {
    match dtype {
        DType::F64 => f64::from(v).to_le_bytes().to_vec(),
        DType::F32 => v.to_le_bytes().to_vec(),
        DType::F16 => f16::from_f32(v).to_le_bytes().to_vec(),
        DType::BF16 => bf16::from_f32(v).to_le_bytes().to_vec(),
        DType::I64 => (v as i64).to_le_bytes().to_vec(),
        DType::I32 => (v as i32).to_le_bytes().to_vec(),
        DType::U32 => (v as u32).to_le_bytes().to_vec(),
        DType::U8 => vec![v as u8],
        DType::Bool => vec![u8::from(v != 0.0)],
    }
}

/// The row-major elements of `dims` as they lie in memory when axis i of the memory is axis `order[i]` of `dims`.
fn reorder(values: &[f32], dims: &[usize], order: &[usize]) -> Vec<f32> {
    let mut strides = vec![1; dims.len()];
    for axis in (1..dims.len()).rev() {
        strides[axis - 1] = strides[axis] * dims[axis];
    }
    let Some((&last, outer)) = order.split_last() else { return values.to_vec() };
    let len = dims[last].max(1);
    in_pieces(values.len(), len, |from, part| {
        let mut place = vec![0; outer.len()];
        let mut at = from / len;
        for (i, &axis) in outer.iter().enumerate().rev() {
            (place[i], at) = (at % dims[axis], at / dims[axis]);
        }
        for line in part.chunks_mut(len) {
            let first = outer.iter().zip(&place).map(|(&axis, &at)| strides[axis] * at).sum::<usize>();
            line.iter_mut().enumerate().for_each(|(at, value)| *value = values[first + at * strides[last]]);
            for i in (0..outer.len()).rev() {
                place[i] += 1;
                if place[i] < dims[outer[i]] {
                    break;
                }
                place[i] = 0;
            }
        }
    })
}

/// The 64-bit FNV-1a hash, by Fowler, Noll and Vo.
fn fnv1a(name: &str) -> u64 {
    name.bytes().fold(0xcbf2_9ce4_8422_2325, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3))
}

/// Blocks of words that are made into numbers at once.
const BLOCKS: usize = 16;

/// The random words of one slot.
struct Words {
    seed: u64,
    stream: u64,
}

impl Words {
    fn block(&self, block: u32, attempt: u32) -> [u32; 4] {
        let counter = [block, attempt, self.stream as u32, (self.stream >> 32) as u32];
        philox4x32(counter, [self.seed as u32, (self.seed >> 32) as u32])
    }

    /// Uniform in [0, 1), a multiple of 2^-32.
    fn unit(&self, i: usize, attempt: u32) -> f64 {
        f64::from(self.block((i / 4) as u32, attempt)[i % 4]) * 2f64.powi(-32)
    }

    /// All of [`Words::unit`] at attempt 0 from `from` on, which begins a block; one block for four of them.
    fn units(&self, from: usize) -> impl Iterator<Item = f64> {
        let blocks = (from / 4..).flat_map(|block| self.block(block as u32, 0));
        blocks.map(|word| f64::from(word) * 2f64.powi(-32))
    }

    /// Standard normal: elements 2k and 2k+1 are the two coordinates of one point.
    fn normal(&self, i: usize, attempt: u32) -> f64 {
        let block = self.block((i / 4) as u32, attempt);
        let pair = i % 4 / 2 * 2;
        point(block[pair], block[pair + 1])[i % 2]
    }

    /// Writes what `of` makes of all of [`Words::normal`] at attempt 0 from `from` on, which begins a block. Words first and then their points, so that
    /// a compiler can make several points at once.
    fn normals(&self, from: usize, values: &mut [f32], of: impl Fn(f64) -> f32) {
        for (i, part) in values.chunks_mut(4 * BLOCKS).enumerate() {
            let blocks: [[u32; 4]; BLOCKS] =
                std::array::from_fn(|block| self.block((from / 4 + i * BLOCKS + block) as u32, 0));
            let mut points = [[0.0; 2]; 2 * BLOCKS];
            for (point, words) in points.iter_mut().zip(blocks.as_flattened().chunks_exact(2)) {
                *point = self::point(words[0], words[1]);
            }
            part.iter_mut().zip(points.as_flattened()).for_each(|(value, &z)| *value = of(z));
        }
    }

    /// Standard normal given that it lies in [lo, hi], by rejection from the proposal that fits the interval.
    /// Paper: Robert 1995, "Simulation of truncated normal variables", Statistics and Computing 5.
    fn truncated_normal(&self, i: usize, (lo, hi): (f64, f64)) -> f64 {
        if lo.partial_cmp(&hi) != Some(std::cmp::Ordering::Less) {
            return hi; // An empty or undefined interval has one sensible answer, and a loop would not end.
        }
        if hi < -0.5 && hi - lo >= 2.0 {
            return -self.truncated_normal(i, (-hi, -lo));
        }
        let nearest = 0f64.clamp(lo, hi);
        // Each attempt takes two words of its own blocks, so that attempts and elements are independent.
        for attempt in 0..1_000_000 {
            let (u, v) = (self.unit(2 * i, 1 + attempt), self.unit(2 * i + 1, 1 + attempt));
            let (z, accepted) = if hi - lo < 2.0 {
                let z = lo + u * (hi - lo);
                (z, v < ((nearest * nearest - z * z) / 2.0).exp())
            } else if lo > 0.5 {
                let z = lo - (1.0 - u).ln() / lo;
                (z, v < (-(z - lo) * (z - lo) / 2.0).exp())
            } else {
                (self.normal(i, 1 + attempt), true)
            };
            if accepted && (lo..=hi).contains(&z) {
                return z;
            }
        }
        nearest
    }
}

/// Two independent standard normal numbers from two words, by Box and Muller 1958. Made of operations that every machine rounds alike and a compiler
/// can do for several points at once: the functions of a system's library are neither.
fn point(distance: u32, angle: u32) -> [f64; 2] {
    let radius = (-2.0 * ln_unit(distance)).sqrt();
    let (sin, cos) = sin_cos_turn(angle);
    [radius * cos, radius * sin]
}

/// `ln((word + 1) / 2^32)`, to the last bit or two.
fn ln_unit(word: u32) -> f64 {
    let bits = (f64::from(word) + 1.0).to_bits();
    // As m * 2^e with m between the roots of 1/2 and 2; the carry of this sum says whether m is halved.
    let above = (bits + (0x3ff0_0000_0000_0000 + 0x0010_0000_0000_0000 - std::f64::consts::SQRT_2.to_bits())) >> 52;
    let e = above as i32 - 1023;
    let m = f64::from_bits(bits - ((e as u64) << 52));
    // ln m = 2 artanh s; terms from here on are below the last bit.
    let s = (m - 1.0) / (m + 1.0);
    let odd = (1..10).rev().fold(1.0 / 21.0, |sum, k| sum * (s * s) + 1.0 / f64::from(2 * k + 1));
    f64::from(e - 32) * std::f64::consts::LN_2 + (2.0 * s + 2.0 * s * (s * s) * odd)
}

/// Sine and cosine of `word / 2^32` turns, to the last bit or two.
fn sin_cos_turn(word: u32) -> (f64, f64) {
    // A quarter of a turn, and at most an eighth beside it.
    let quarter = word.wrapping_add(1 << 29) >> 30;
    let x = f64::from(word.wrapping_sub(quarter << 30) as i32) * (std::f64::consts::TAU * 2f64.powi(-32));
    let series = |factorials: [f64; 8]| factorials.iter().rev().fold(0.0, |sum, n| sum * (x * x) + 1.0 / n);
    let sin = x * series([1.0, -6.0, 120.0, -5040.0, 362_880.0, -39_916_800.0, 6_227_020_800.0, -1_307_674_368_000.0]);
    // By squaring: how a power is rounded is not specified.
    let x_16 = (0..4).fold(x, |power, _| power * power);
    let cos = series([1.0, -2.0, 24.0, -720.0, 40_320.0, -3_628_800.0, 479_001_600.0, -87_178_291_200.0])
        + x_16 / 20_922_789_888_000.0;
    let (sin, cos) = if quarter & 1 == 0 { (sin, cos) } else { (cos, -sin) };
    if quarter & 2 == 0 { (sin, cos) } else { (-sin, -cos) }
}

/// A unit number as one in [lo, hi); rounding to f32 never gives `hi`.
fn uniform(unit: f64, lo: f64, hi: f64) -> f32 {
    let value = (lo + unit * (hi - lo)) as f32;
    if f64::from(value) >= hi && hi > lo { (hi as f32).next_down() } else { value }
}

/// The random key of the program: its slot's name makes it differ from every parameter's words.
fn key(words: &Words) -> [u32; 2] {
    let block = words.block(0, 0);
    [block[0], block[1]]
}

/// A matrix with orthonormal rows or columns (whichever are fewer) times `gain`, uniform over all such: Gram-Schmidt on a normal
/// matrix, which is its QR factor with a positive diagonal. Axes after the first count as columns.
fn orthogonal(words: &Words, dims: &[usize], gain: f64) -> Vec<f32> {
    let n: usize = dims.iter().product();
    let rows = dims.first().copied().unwrap_or(1);
    if n == 0 {
        return Vec::new();
    }
    let cols = n / rows;
    let (count, len) = (rows.min(cols), rows.max(cols));
    let mut basis: Vec<Vec<f64>> = Vec::with_capacity(count);
    for k in 0..count {
        let mut v: Vec<f64> = (0..len).map(|i| words.normal(k * len + i, 0)).collect();
        // Once is not enough: the second pass removes what rounding of the first left along the earlier vectors.
        for _ in 0..2 {
            for q in &basis {
                let dot: f64 = q.iter().zip(&v).map(|(a, b)| a * b).sum();
                v.iter_mut().zip(q).for_each(|(x, y)| *x -= dot * y);
            }
        }
        let norm = v.iter().map(|x| x * x).sum::<f64>().sqrt();
        v.iter_mut().for_each(|x| *x /= norm);
        basis.push(v);
    }
    let element = |i: usize| {
        let (row, col) = (i / cols, i % cols);
        if rows <= cols { basis[row][col] } else { basis[col][row] }
    };
    (0..n).map(|i| (gain * element(i)) as f32).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use wholestep_compiler::ir::Scope;
    use wholestep_compiler::ir::scope::Mode;

    /// The published vectors of FNV-1a 64.
    #[test]
    fn names_hash_as_published() {
        assert_eq!(fnv1a(""), 0xcbf2_9ce4_8422_2325);
        assert_eq!(fnv1a("a"), 0xaf63_dc4c_8601_ec8c);
        assert_eq!(fnv1a("foobar"), 0x8594_4171_f739_67e8);
    }

    /// Beside the functions of the system, whose argument is rounded too.
    #[test]
    fn logarithms_and_turns_are_right_to_the_last_bits() {
        let words = (0..100_000_u32).map(|i| i.wrapping_mul(0x9e37_79b9));
        for word in words.chain([0, 1, u32::MAX, 1 << 29, (1 << 29) - 1, 1 << 30, 3 << 29, 1 << 31, 3 << 30]) {
            let unit = (f64::from(word) + 1.0) * 2f64.powi(-32);
            assert!((ln_unit(word) - unit.ln()).abs() <= 4e-16 * unit.ln().abs(), "{word}");
            let (sin, cos) = (std::f64::consts::TAU * f64::from(word) * 2f64.powi(-32)).sin_cos();
            let (s, c) = sin_cos_turn(word);
            assert!((s - sin).abs() < 1e-15 && (c - cos).abs() < 1e-15, "{word}");
            assert!((s * s + c * c - 1.0).abs() < 1e-15, "{word}");
        }
        assert_eq!(
            [0, 1 << 30, 1 << 31, 3 << 30].map(sin_cos_turn),
            [(0.0, 1.0), (1.0, 0.0), (0.0, -1.0), (-1.0, 0.0)]
        );
    }

    #[test]
    fn pieces_are_parts_of_one_sequence() {
        let n = 3 * PIECE + 5;
        let slot = |init| {
            let s = Scope::root(Mode::Train);
            let _ = s.param("w", [n], init);
            let graph = s.graph().borrow();
            graph.slots[0].clone()
        };
        let words = Words { seed: 7, stream: fnv1a("w") };
        let unit = fill(&slot(Init::Uniform { lo: 0.0, hi: 1.0 }), 7);
        let normal = fill(&slot(Init::Normal { mean: 0.0, std: 1.0 }), 7);
        assert_eq!((unit.len(), normal.len()), (n, n));
        for i in (0..n).step_by(997).chain([PIECE - 1, PIECE, n - 1]) {
            assert_eq!(unit[i], uniform(words.unit(i, 0), 0.0, 1.0), "{i}");
            assert_eq!(normal[i], words.normal(i, 0) as f32, "{i}");
        }
    }

    #[test]
    fn stored_order_is_a_permutation_of_the_declared_one() {
        let values: Vec<f32> = (0..6).map(|v| v as f32).collect();
        // [2, 3] stored with axis 1 outermost is its transpose.
        assert_eq!(reorder(&values, &[2, 3], &[1, 0]), [0.0, 3.0, 1.0, 4.0, 2.0, 5.0]);
        // In several pieces.
        let dims = [30, 7, 5, 401];
        let values: Vec<f32> = (0..dims.iter().product::<usize>()).map(|v| v as f32).collect();
        let stored = reorder(&values, &dims, &[2, 3, 0, 1]);
        for (i, value) in stored.iter().enumerate().step_by(11) {
            let (a, b, c, d) = (i / 7 % 30, i % 7, i / (401 * 30 * 7), i / (30 * 7) % 401);
            assert_eq!(*value as usize, ((a * 7 + b) * 5 + c) * 401 + d, "{i}");
        }
    }
}
