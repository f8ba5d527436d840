//! Takes a seed. Gives numbers and checks that several test files share. Never uses the code under test.

use wholestep_cpu::matmul::Rect;

/// Xorshift: good enough for test inputs, the same on every machine.
pub struct Random(u64);

impl Random {
    pub fn new(seed: u64) -> Random {
        Random(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1)
    }

    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    pub fn below(&mut self, n: usize) -> usize {
        ((self.next() >> 33) as usize) % n
    }

    pub fn vec(&mut self, n: usize) -> Vec<f32> {
        (0..n).map(|_| (self.next() >> 40) as f32 / (1 << 23) as f32 - 1.0).collect()
    }
}

/// Every element of an `m` x `n` matrix is in exactly one rectangle.
pub fn assert_covers(rects: &[Rect], m: usize, n: usize) {
    let mut counts = vec![0u8; m * n];
    for r in rects {
        assert!(r.row0 + r.rows <= m && r.col0 + r.cols <= n, "{r:?} outside {m} x {n}");
        for i in r.row0..r.row0 + r.rows {
            counts[i * n + r.col0..i * n + r.col0 + r.cols].iter_mut().for_each(|x| *x += 1);
        }
    }
    assert!(counts.iter().all(|x| *x == 1), "rectangles do not cover {m} x {n} once: {rects:?}");
}
