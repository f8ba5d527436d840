//! Random bits. Counter-based, so that a value depends on nothing but key, step, node and position.

use super::{RuleError, Type, Vjp};
use crate::ir::{DType, EvalSite, Shape, Value};

/// Uniform u32 bits of `shape`. Operands: key (u32 [2]) and step (u32 scalar).
///
/// Element i is word `i mod 4` of Philox4x32-10 with counter `(i / 4, stream, step, 0)` and the key's two words.
/// Paper: Salmon, Moraes, Dror, Shaw 2011, "Parallel random numbers: as easy as 1, 2, 3".
#[derive(Clone, Debug, PartialEq)]
pub struct Random {
    pub shape: Shape,
    /// Tells apart the random nodes of one program; assigned in tracing order.
    pub stream: u32,
}

impl Random {
    pub fn infer(&self, operands: &[Type]) -> Result<Type, RuleError> {
        let [key, step] = operands else { panic!("bug: random bits need a key and a step") };
        if key.dtype != DType::U32 || key.shape != Shape::from([2usize]) || step.dtype != DType::U32 {
            return Err(RuleError::new("need a key u32 [2] and a step u32"));
        }
        Ok(Type { dtype: DType::U32, shape: self.shape.clone() })
    }

    pub fn eval(&self, operands: &[&Value], site: &EvalSite) -> Vec<f64> {
        let key = [operands[0].data[0] as u32, operands[0].data[1] as u32];
        let step = operands[1].data[0] as u32;
        let n: usize = site.shape.iter().product();
        let blocks = (0..n.div_ceil(4)).map(|block| philox4x32([block as u32, self.stream, step, 0], key));
        blocks.flatten().take(n).map(f64::from).collect()
    }

    /// Bits are discrete.
    pub fn vjp(&self) -> Vjp {
        Vjp::NotDifferentiable
    }

    pub fn name(&self) -> &'static str {
        "random_bits"
    }
}

/// One Philox4x32-10 block: four random words for a counter and a key.
pub fn philox4x32(counter: [u32; 4], key: [u32; 2]) -> [u32; 4] {
    const MUL: [u64; 2] = [0xD251_1F53, 0xCD9E_8D57];
    const WEYL: [u32; 2] = [0x9E37_79B9, 0xBB67_AE85];
    let ([mut c0, mut c1, mut c2, mut c3], [mut k0, mut k1]) = (counter, key);
    for _ in 0..10 {
        let p0 = MUL[0] * u64::from(c0);
        let p1 = MUL[1] * u64::from(c2);
        (c0, c1, c2, c3) = ((p1 >> 32) as u32 ^ c1 ^ k0, p1 as u32, (p0 >> 32) as u32 ^ c3 ^ k1, p0 as u32);
        (k0, k1) = (k0.wrapping_add(WEYL[0]), k1.wrapping_add(WEYL[1]));
    }
    [c0, c1, c2, c3]
}

/// The rows that test this family: see [`crate::cases`].
#[cfg(any(test, feature = "cases"))]
pub(crate) fn cases() -> Vec<crate::ir::case::Case> {
    use crate::ir::Batch;
    use crate::ir::case::stops;
    vec![
        stops("random_bits", "batch", [], |s, _| s.random_bits((Batch, 7))),
        stops("random_bits", "two streams", [], |s, _| {
            let _ = s.random_bits([5]);
            s.random_bits([5])
        }),
    ]
}

#[cfg(test)]
mod tests {
    use super::philox4x32;

    /// The known-answer vectors published with the paper's reference code (Random123, kat_vectors).
    #[test]
    fn philox_gives_the_published_vectors() {
        assert_eq!(philox4x32([0; 4], [0; 2]), [0x6627e8d5, 0xe169c58d, 0xbc57ac4c, 0x9b00dbd8]);
        let ones = u32::MAX;
        assert_eq!(philox4x32([ones; 4], [ones; 2]), [0x408f276d, 0x41c83b0e, 0xa20bc7c6, 0x6d5451fd]);
        assert_eq!(
            philox4x32([0x243f6a88, 0x85a308d3, 0x13198a2e, 0x03707344], [0xa4093822, 0x299f31d0]),
            [0xd16cfe09, 0x94fdcceb, 0x5001e420, 0x24126ea1]
        );
    }
}
