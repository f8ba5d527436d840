//! Random whole programs: a list of words chooses shapes, ops of all families, outputs, gradients and slot updates. Takes words, gives a
//! graph that is always valid; fewer and smaller words give a smaller program, so that shrinking is shrinking a list ([`shrink`]). Never
//! part of a build that ships.
//!
//! Programs avoid what would differ by rounding alone: only values that no arithmetic touched are compared, sorted or rounded, and values
//! stay small.

mod finish;
mod moves;
mod sums;

use crate::ir::op::random::philox4x32;
use crate::ir::scope::Mode;
use crate::ir::{Batch, DType, Dim, Graph, Init, Scope, Shape, SlotKind, Tensor};

/// Larger tensors are not made: the oracle is slow.
const MAX_ELEMS: usize = 400;
/// Batch sizes for which [`MAX_ELEMS`] holds go up to this.
pub const MAX_BATCH: usize = 5;
/// Values beyond this are scaled down.
const MAX_ABS: f64 = 16.0;

/// Words for program number `seed`; more of them make a longer program.
pub fn words(seed: u32, n: usize) -> Vec<u32> {
    (0..n).map(|i| philox4x32([i as u32, 0, 0, 0], [seed, 0xF022])[0]).collect()
}

/// The program that `words` choose, its floats of dtype `float`.
pub fn program(words: &[u32], float: DType) -> Graph {
    let mut b = Builder::new(words, float);
    for _ in 0..1 + b.pick(3) {
        b.input();
    }
    while b.at < b.words.len().saturating_sub(b.words.len() / 5) {
        let step = STEPS[b.pick(STEPS.len())];
        b.attempt(step);
    }
    b.finish();
    b.scope.graph().borrow().clone()
}

/// Elements of each input at batch size `batch`, exact in f32; labels are in range.
pub fn inputs(graph: &Graph, batch: usize) -> Vec<Vec<f64>> {
    let one = |(i, d): (usize, &crate::ir::InputDecl)| {
        let n = d.shape.numel_at(batch);
        let word = |j: usize| philox4x32([j as u32, 0, 0, 0], [i as u32, 0xDA7A])[0];
        let value = |j: usize| match &d.range {
            Some(range) => f64::from(word(j) % range.n as u32),
            None if d.dtype == DType::Bool => f64::from(word(j) & 1),
            None => f64::from(word(j) % 4096) / 1024.0 - 2.0,
        };
        (0..n).map(value).collect()
    };
    graph.inputs.iter().enumerate().map(one).collect()
}

/// The smallest list found, by leaving out parts and lowering words, on which `fails` still holds.
pub fn shrink(words: &[u32], mut fails: impl FnMut(&[u32]) -> bool) -> Vec<u32> {
    let mut best = words.to_vec();
    loop {
        let before = best.clone();
        let mut part = best.len().div_ceil(2);
        while part > 0 {
            let mut start = 0;
            while start < best.len() {
                let mut shorter = best.clone();
                shorter.drain(start..(start + part).min(best.len()));
                if fails(&shorter) {
                    best = shorter;
                } else {
                    start += part;
                }
            }
            part /= 2;
        }
        for i in 0..best.len() {
            for smaller in [0, 1, best[i] % 16, best[i] % 256] {
                if smaller < best[i] {
                    let mut lower = best.clone();
                    lower[i] = smaller;
                    if fails(&lower) {
                        best = lower;
                        break;
                    }
                }
            }
        }
        if best == before {
            return best;
        }
    }
}

/// A value of the program and what is known of it.
#[derive(Clone)]
struct Known {
    t: Tensor,
    /// No arithmetic touched it: its bits are the same wherever it is computed.
    exact: bool,
    /// No element is larger.
    bound: f64,
}

/// What makes one more value out of those that are there; `None` where the choice does not fit.
type Step = fn(&mut Builder) -> Option<Known>;

/// A family that is here twice is chosen twice as often.
const STEPS: &[Step] = &[
    unary,
    unary,
    binary,
    binary,
    binary,
    select,
    leaf,
    sums::reduce,
    sums::reduce,
    sums::reduce,
    sums::normalize,
    sums::scan_or_sort,
    sums::matmul,
    sums::matmul,
    sums::conv,
    sums::pool,
    sums::take,
    sums::gather,
    moves::reshape,
    moves::permute,
    moves::slice,
    moves::flip,
    moves::pad,
    moves::concat,
    moves::broadcast,
    random,
];

struct Builder<'a> {
    words: &'a [u32],
    at: usize,
    scope: Scope,
    float: DType,
    /// Most extents come from here, so that shapes meet again.
    palette: Vec<Dim>,
    pool: Vec<Known>,
    slots: Vec<Tensor>,
    n_names: usize,
}

impl<'a> Builder<'a> {
    fn new(words: &'a [u32], float: DType) -> Builder<'a> {
        let scope = Scope::root(Mode::Train);
        let palette = vec![Batch, Dim::fixed(2)];
        let mut b = Builder { words, at: 0, scope, float, palette, pool: vec![], slots: vec![], n_names: 0 };
        let extents = [3, 1, 4, 5, 2, 6, 8, 17, 70];
        for _ in 0..2 {
            let n = extents[b.pick(extents.len())];
            b.palette.push(Dim::fixed(n));
        }
        b
    }

    /// The next word's choice among `n`: 0 where no word is left.
    fn pick(&mut self, n: usize) -> usize {
        let word = self.words.get(self.at).copied().unwrap_or(0);
        self.at += 1;
        word as usize % n
    }

    /// A value, the latest ones more often than others.
    fn any(&mut self) -> Known {
        let n = self.pool.len();
        let back = match self.pick(3) {
            0 => 0,
            1 => self.pick(n.min(4)),
            _ => self.pick(n),
        };
        self.pool[n - 1 - back].clone()
    }

    fn any_float(&mut self) -> Option<Known> {
        let known = self.any();
        known.t.dtype().is_float().then_some(known)
    }

    fn axis(&mut self, t: &Tensor) -> Option<usize> {
        let rank = t.rank();
        (rank > 0).then(|| self.pick(rank))
    }

    fn name(&mut self) -> String {
        self.n_names += 1;
        format!("v{}", self.n_names)
    }

    fn extent(&mut self) -> Dim {
        let i = self.pick(self.palette.len());
        self.palette[i]
    }

    fn shape(&mut self) -> Shape {
        let rank = [2, 1, 3, 0, 4][self.pick(5)];
        let mut shape = Shape::scalar();
        for _ in 0..rank {
            let extent = self.extent();
            // One axis at most holds B.
            let fixed = shape.0.iter().all(|d| d.batch == 0);
            shape.0.push(if fixed || extent.batch == 0 { extent } else { Dim::fixed(2) });
        }
        shape
    }

    fn fixed_shape(&mut self) -> Shape {
        let fixed = |d: &Dim| if d.batch == 0 { *d } else { Dim::fixed(3) };
        Shape(self.shape().0.iter().map(fixed).collect())
    }

    fn input(&mut self) {
        let shape = self.shape();
        if shape.numel_at(MAX_BATCH) > MAX_ELEMS {
            return self.input();
        }
        let name = self.name();
        let t = self.scope.input(&name, shape, self.float);
        self.pool.push(Known { t, exact: true, bound: 2.0 });
    }

    /// A parameter with values that are nothing special, unless it is too large.
    fn param(&mut self, shape: Shape) -> Option<Tensor> {
        let n = shape.numel_at(1);
        if n > MAX_ELEMS {
            return None;
        }
        let name = self.name();
        let values = (0..n).map(|i| ((i * 37 + 11 * self.n_names) % 23) as f32 / 16.0 - 0.6875).collect();
        let t = self.scope.slot(&name, SlotKind::Param { trainable: true }, self.float, shape, Init::Values(values));
        self.slots.push(t.clone());
        Some(t)
    }

    /// Takes a step. What it added goes again if the choice does not fit: then the graph holds an error or the value is too large.
    fn attempt(&mut self, step: Step) {
        let graph = self.scope.graph().clone();
        let before = {
            let g = graph.borrow();
            (g.nodes.len(), g.inputs.len(), g.slots.len(), g.n_streams, self.slots.len())
        };
        let made = step(self).filter(|k| {
            let shape = k.t.shape();
            graph.borrow().error.is_none()
                && shape.rank() <= 5
                && shape.numel().is_some()
                && (1..=MAX_ELEMS).contains(&shape.numel_at(MAX_BATCH))
                && shape.numel_at(1) > 0
        });
        match made {
            Some(known) => {
                let known = tamed(known);
                self.pool.push(known);
            }
            None => {
                let mut g = graph.borrow_mut();
                g.error = None;
                g.nodes.truncate(before.0);
                g.inputs.truncate(before.1);
                g.slots.truncate(before.2);
                g.n_streams = before.3;
                self.slots.truncate(before.4);
            }
        }
    }
}

/// Scales down what has grown.
fn tamed(k: Known) -> Known {
    if !k.t.dtype().is_float() || k.bound <= MAX_ABS {
        return k;
    }
    Known { t: &k.t * (1.0 / k.bound.log2().ceil().exp2()), exact: k.exact, bound: 1.0 }
}

fn leaf(b: &mut Builder) -> Option<Known> {
    let float = b.float;
    let t = match b.pick(6) {
        0 | 1 => {
            let shape = b.fixed_shape();
            b.param(shape)?
        }
        2 => {
            let len = b.extent();
            b.scope.iota(len, float) * 0.25
        }
        3 => b.scope.constant(0.5, float),
        4 => b.scope.extent(Batch, float) * 0.25,
        _ => {
            b.input();
            b.pool.pop()?.t
        }
    };
    Some(Known { t, exact: true, bound: 20.0 })
}

fn unary(b: &mut Builder) -> Option<Known> {
    let x = b.any_float()?;
    let t = &x.t;
    let (t, exact, bound) = match b.pick(15) {
        0 => (-t, x.exact, x.bound),
        1 => (t.abs(), x.exact, x.bound),
        2 if x.exact => (t.floor(), true, x.bound + 1.0),
        3 if x.exact => (t.sign(), true, 1.0),
        4 => (t.tanh(), false, 1.0),
        5 => (t.sigmoid(), false, 1.0),
        6 => (t.sin(), false, 1.0),
        7 => ((t * (1.0 / x.bound)).exp(), false, 3.0),
        8 => (t.square(), false, x.bound * x.bound),
        9 => ((t.square() + 0.5).sqrt(), false, x.bound + 1.0),
        10 => ((t.square() + 0.5).rsqrt(), false, 2.0),
        11 => (t * 0.5 + 1.25, false, x.bound * 0.5 + 1.25),
        12 => (t.relu(), x.exact, x.bound),
        13 => (t.detach(), x.exact, x.bound),
        14 => (t.erf(), false, 1.0),
        _ => return None,
    };
    Some(Known { t, exact, bound })
}

fn binary(b: &mut Builder) -> Option<Known> {
    let (x, y) = (b.any_float()?, b.any_float()?);
    let exact = x.exact && y.exact;
    let (t, exact, bound) = match b.pick(7) {
        0 => (&x.t + &y.t, false, x.bound + y.bound),
        1 => (&x.t - &y.t, false, x.bound + y.bound),
        2 | 3 => (&x.t * &y.t, false, x.bound * y.bound),
        4 => (&x.t / (y.t.square() + 0.5), false, 2.0 * x.bound),
        5 => (x.t.maximum(&y.t), exact, x.bound.max(y.bound)),
        _ => (x.t.minimum(&y.t), exact, x.bound.max(y.bound)),
    };
    Some(Known { t, exact, bound })
}

fn select(b: &mut Builder) -> Option<Known> {
    let (x, y, p, q) = (b.any_float()?, b.any_float()?, b.any_float()?, b.any_float()?);
    if !p.exact || !q.exact {
        return None;
    }
    let cond = match b.pick(3) {
        0 => p.t.less(&q.t),
        1 => p.t.greater_equal(0.125),
        _ => p.t.equal(&q.t).logical_not(),
    };
    let t = cond.select(&x.t, &y.t);
    Some(Known { t, exact: x.exact && y.exact, bound: x.bound.max(y.bound) })
}

fn random(b: &mut Builder) -> Option<Known> {
    let x = b.any_float()?;
    if b.pick(2) == 0 {
        let s = b.scope.clone();
        let keep = s.random_bits(x.t.shape()).less_equal(1073741824.0);
        return Some(Known { t: keep.select(&x.t, 0.0), exact: x.exact, bound: x.bound });
    }
    // 8 bits: few enough that f32 holds them.
    let bits = b.scope.random_bits(x.t.shape());
    let t = (bits.remainder(256.0)).cast(b.float) * (1.0 / 256.0);
    Some(Known { t, exact: true, bound: 1.0 })
}
