//! Random numbers for order, splits and made-up data: Philox4x32-10. Takes a seed and a stream number, gives the same
//! draws on every machine, for every thread count and in every version. Never reads the clock or the system.
//!
//! Paper: Salmon, Moraes, Dror, Shaw 2011, "Parallel random numbers: as easy as 1, 2, 3".

/// A counter-based generator. Two generators of different `(seed, stream)` are independent.
#[derive(Clone, Debug)]
pub struct Philox {
    key: [u32; 2],
    stream: u64,
    block: u64,
    ready: [u32; 4],
    n_used: usize,
}

const MULTIPLIERS: [u32; 2] = [0xD251_1F53, 0xCD9E_8D57];
const WEYL: [u32; 2] = [0x9E37_79B9, 0xBB67_AE85];

/// One block: ten rounds over `counter` under `key`.
fn philox4x32_10(mut counter: [u32; 4], mut key: [u32; 2]) -> [u32; 4] {
    for _ in 0..10 {
        let a = u64::from(MULTIPLIERS[0]) * u64::from(counter[0]);
        let b = u64::from(MULTIPLIERS[1]) * u64::from(counter[2]);
        counter = [(b >> 32) as u32 ^ counter[1] ^ key[0], b as u32, (a >> 32) as u32 ^ counter[3] ^ key[1], a as u32];
        key = [key[0].wrapping_add(WEYL[0]), key[1].wrapping_add(WEYL[1])];
    }
    counter
}

impl Philox {
    /// The generator of `seed` and `stream`; the seed is the key, the stream the upper half of the counter.
    pub fn new(seed: u64, stream: u64) -> Philox {
        Philox { key: [seed as u32, (seed >> 32) as u32], stream, block: 0, ready: [0; 4], n_used: 4 }
    }

    /// 64 random bits that belong to item `at` of the stream, without drawing those before it.
    pub fn at(seed: u64, stream: u64, at: u64) -> u64 {
        Philox { block: at, ..Philox::new(seed, stream) }.next_u64()
    }

    /// 32 random bits.
    pub fn next_u32(&mut self) -> u32 {
        if self.n_used == 4 {
            let counter =
                [self.block as u32, (self.block >> 32) as u32, self.stream as u32, (self.stream >> 32) as u32];
            self.ready = philox4x32_10(counter, self.key);
            self.block += 1;
            self.n_used = 0;
        }
        self.n_used += 1;
        self.ready[self.n_used - 1]
    }

    /// 64 random bits.
    pub fn next_u64(&mut self) -> u64 {
        let low = u64::from(self.next_u32());
        low | u64::from(self.next_u32()) << 32
    }

    /// Uniform in `[0, 1)` with 53 bits.
    pub fn unit(&mut self) -> f64 {
        (self.next_u64() >> 11) as f64 * 2f64.powi(-53)
    }

    /// Uniform in `[low, high)`.
    pub fn uniform(&mut self, low: f64, high: f64) -> f64 {
        low + (high - low) * self.unit()
    }

    /// Normal with mean 0 and deviation 1 (Box and Muller 1958, the cosine branch).
    pub fn normal(&mut self) -> f64 {
        let radius = (-2.0 * (1.0 - self.unit()).ln()).sqrt();
        radius * (std::f64::consts::TAU * self.unit()).cos()
    }

    /// Uniform among `0..n` without bias (Lemire 2019, arXiv:1805.10941). `n` of 0 gives 0.
    pub fn below(&mut self, n: u64) -> u64 {
        if n == 0 {
            return 0;
        }
        let rejected_below = n.wrapping_neg() % n;
        loop {
            let wide = u128::from(self.next_u64()) * u128::from(n);
            if wide as u64 >= rejected_below {
                return (wide >> 64) as u64;
            }
        }
    }

    /// Puts `items` into a random order (Fisher and Yates, from the end).
    pub fn shuffle<T>(&mut self, items: &mut [T]) {
        for i in (1..items.len()).rev() {
            items.swap(i, self.below(i as u64 + 1) as usize);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    // The known answers that the authors' Random123 library ships (tests/kat_vectors, philox4x32 10).
    #[test]
    fn known_answers() {
        assert_eq!(philox4x32_10([0; 4], [0; 2]), [0x6627_e8d5, 0xe169_c58d, 0xbc57_ac4c, 0x9b00_dbd8]);
        assert_eq!(philox4x32_10([!0; 4], [!0; 2]), [0x408f_276d, 0x41c8_3b0e, 0xa20b_c7c6, 0x6d54_51fd]);
        assert_eq!(
            philox4x32_10([0x243f_6a88, 0x85a3_08d3, 0x1319_8a2e, 0x0370_7344], [0xa409_3822, 0x299f_31d0]),
            [0xd16c_fe09, 0x94fd_cceb, 0x5001_e420, 0x2412_6ea1]
        );
    }

    #[test]
    fn bounded_draws_are_even_and_streams_differ() {
        let mut counts = [0u32; 7];
        let mut random = Philox::new(1, 0);
        (0..70_000).for_each(|_| counts[random.below(7) as usize] += 1);
        // Six standard deviations of a binomial(70000, 1/7) are 556.
        assert!(counts.iter().all(|&c| c.abs_diff(10_000) < 556), "{counts:?}");
        assert_ne!(Philox::new(1, 0).next_u64(), Philox::new(1, 1).next_u64());
        assert_ne!(Philox::new(1, 0).next_u64(), Philox::new(2, 0).next_u64());
    }
}
