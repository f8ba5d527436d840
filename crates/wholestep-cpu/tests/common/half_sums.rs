//! What tests of 16-bit floats share on every device: the floats that go in, and the sums that torch's results have (`golden/half.py`).

/// What may follow the upper half of a float: around the places where either type rounds.
const LOW: [u32; 17] = [
    0, 1, 0xfff, 0x1000, 0x1001, 0x1fff, 0x2000, 0x2fff, 0x3000, 0x3001, 0x7fff, 0x8000, 0x8001, 0x9000, 0xb000,
    0xf000, 0xffff,
];
const N_RANDOM: u64 = 1 << 20;

pub fn inputs() -> Vec<u32> {
    let edges = (0..=0xffff_u32).flat_map(|high| LOW.map(|low| high << 16 | low));
    let random = (1..=N_RANDOM).map(|i| {
        let x = i.wrapping_mul(0x9E37_79B9_7F4A_7C15);
        let x = (x ^ (x >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        ((x ^ (x >> 27)) >> 32) as u32
    });
    edges.chain(random).collect()
}

/// The sum that stands in `golden/half.json`; all NaN count as one.
pub fn weighted(bits: impl Iterator<Item = u32>, exponent: u32, sign: u32, nan: u32) -> String {
    let one_nan = |b: u32| if b & !sign > exponent { nan } else { b };
    let sum =
        bits.zip(0_u64..).fold(0_u64, |sum, (b, i)| sum.wrapping_add(u64::from(one_nan(b)).wrapping_mul(2 * i + 1)));
    format!("{sum:016x}")
}

pub fn golden(name: &str) -> String {
    let text = include_str!("../golden/half.json");
    let from = text.split(&format!("\"{name}\": \"")).nth(1).expect("the golden has this sum");
    from[..16].to_string()
}
