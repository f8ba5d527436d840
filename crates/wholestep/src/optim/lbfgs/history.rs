//! What the last steps say of curvature. Takes the newest pair of a step and the change of the gradient that it made, gives the direction of
//! the next step in two passes over the pairs that are kept. Never stores the Hessian.
//!
//! The two-loop recursion is run on inner products: the first pass multiplies all pairs by the gradient and by the newest change, both loops
//! run over a few numbers, the second pass adds up the pairs with the factors that they found. Paper: Nocedal 1980, "Updating quasi-Newton
//! matrices with limited storage"; the products: Byrd, Nocedal, Schnabel 1994, "Representations of quasi-Newton matrices".

use wholestep_compiler::ir::{DType, Scope, Tensor};
use wholestep_compiler::ops::control::run_if;

/// A pair is kept if `s·y` is larger: else the curvature along the step was not positive. As PyTorch.
const LEAST_CURVATURE: f64 = 1e-10;

/// The pairs and their products. Rows are places of a ring.
#[derive(Clone)]
pub struct History {
    /// By parameter `[m, ..]`: steps and changes of the gradient.
    pub s: Vec<Tensor>,
    pub y: Vec<Tensor>,
    /// `sy[i, j] = s_i·y_j` for pairs i not newer than j, and `yy[i, j] = y_i·y_j`.
    pub sy: Tensor,
    pub yy: Tensor,
    /// How many pairs there are, and where the next one goes.
    pub count: Tensor,
    pub head: Tensor,
    /// The scale of the initial inverse Hessian: `s·y / y·y` of the newest pair.
    pub gamma: Tensor,
}

/// The sum over all parameters of `Σ a·b`.
pub fn dot(a: &[Tensor], b: &[Tensor]) -> Tensor {
    let parts = a.iter().zip(b).map(|(a, b)| (a * b).sum(..));
    parts.reduce(|a, b| &a + &b).expect("bug: a step has parameters")
}

/// The largest of all absolute values.
pub fn largest(x: &[Tensor]) -> Tensor {
    x.iter().map(|x| x.abs().max(..)).reduce(|a, b| a.maximum(&b)).expect("bug: a step has parameters")
}

/// By row of `rows`, its product with `x`, summed over all parameters: `[m]`.
fn row_dots(rows: &[Tensor], x: &[Tensor]) -> Tensor {
    let parts = rows.iter().zip(x).map(|(rows, x)| {
        let axes: Vec<i64> = (1..rows.rank() as i64).collect();
        let products = rows * x;
        if axes.is_empty() { products } else { products.sum(axes) }
    });
    parts.reduce(|a, b| &a + &b).expect("bug: a step has parameters")
}

impl History {
    /// How many pairs there is room for.
    fn m(&self) -> usize {
        self.sy.shape().0[0].at(1)
    }

    /// The tensors, for a loop to carry.
    pub fn pack(&self) -> Vec<Tensor> {
        let rest = [&self.sy, &self.yy, &self.count, &self.head, &self.gamma];
        self.s.iter().chain(&self.y).chain(rest).cloned().collect()
    }

    /// How many tensors [`History::pack`] gives for `n` parameters.
    pub fn packed(n: usize) -> usize {
        2 * n + 5
    }

    pub fn unpack(v: &[Tensor]) -> History {
        let n = (v.len() - 5) / 2;
        let [sy, yy, count, head, gamma] = [0, 1, 2, 3, 4].map(|i| v[2 * n + i].clone());
        History { s: v[..n].to_vec(), y: v[n..2 * n].to_vec(), sy, yy, count, head, gamma }
    }

    /// The history with the pair of the last `step` where `had_step` and its curvature is positive, and minus the inverse Hessian times the
    /// gradient `g`. `before` is the gradient where the step began.
    pub fn next(
        &self,
        scope: &Scope,
        step: &[Tensor],
        before: &[Tensor],
        g: &[Tensor],
        had_step: &Tensor,
    ) -> (History, Vec<Tensor>) {
        let change: Vec<Tensor> = g.iter().zip(before).map(|(g, before)| g - before).collect();
        let (curvature, change_norm) = (dot(step, &change), dot(&change, &change));
        let is_kept = had_step & &curvature.greater(LEAST_CURVATURE);
        // One pass: all rows by the gradient and by the newest change. The newest pair's own products stand where it will lie.
        let rows = scope.iota(self.m(), DType::I32);
        let is_new = rows.equal(self.head.cast(DType::I32)) & &is_kept;
        let with_new = |old: Tensor, new: &Tensor| is_new.select(new, &old);
        let (sg, yg) =
            (with_new(row_dots(&self.s, g), &dot(step, g)), with_new(row_dots(&self.y, g), &dot(&change, g)));
        let s_change = with_new(row_dots(&self.s, &change), &curvature);
        let y_change = with_new(row_dots(&self.y, &change), &change_norm);
        let next = self.with_pair(step, &change, &is_kept, &is_new, [&s_change, &y_change, &curvature, &change_norm]);
        let factors = next.factors(&rows, &sg, &yg);
        // The other pass, one loop over all rows of each list. What is added to is made in the same loop, so that products are never stored.
        let along = |rows: &Tensor, factors: &Tensor| {
            let parts = (0..next.m() as i64).map(|r| rows.index(0, r) * factors.index(0, r));
            parts.reduce(|sum, part| &sum + &part).expect("bug: a history of no pairs")
        };
        let towards = |i: usize| {
            let by_steps = along(&next.s[i], &factors.0);
            // What the changes explain leaves the gradient first: steps along flat directions are much longer than what is left.
            let left = &g[i] - &along(&next.y[i], &factors.1);
            -(&(left * &next.gamma) + &by_steps)
        };
        let direction = (0..g.len()).map(towards).collect();
        (next, direction)
    }

    /// The history after the newest pair, whose products are given: columns, then `s·y` and `y·y`.
    fn with_pair(
        &self,
        step: &[Tensor],
        change: &[Tensor],
        is_kept: &Tensor,
        is_new: &Tensor,
        products: [&Tensor; 4],
    ) -> History {
        let [s_change, y_change, curvature, change_norm] = products;
        let place = self.head.cast(DType::I32);
        let lists: Vec<Tensor> = self.s.iter().chain(&self.y).cloned().collect();
        let lists = run_if(is_kept, &lists, |lists| {
            lists.iter().zip(step.iter().chain(change)).map(|(list, new)| list.put(0, &place, new)).collect()
        });
        let (row, column) = (is_new.unsqueeze(1), is_new.unsqueeze(0));
        let m = self.m() as f64;
        let head = &self.head + 1.0;
        let wrapped = head.less(m).select(&head, 0.0);
        let n = self.s.len();
        History {
            s: lists[..n].to_vec(),
            y: lists[n..].to_vec(),
            sy: column.select(s_change.unsqueeze(1), &self.sy),
            yy: row.select(y_change.unsqueeze(0), column.select(y_change.unsqueeze(1), &self.yy)),
            count: is_kept.select((&self.count + 1.0).minimum(m), &self.count),
            head: is_kept.select(&wrapped, &self.head),
            gamma: is_kept.select(&(curvature / change_norm), &self.gamma),
        }
    }

    /// `δ` by row of `s` and `α` by row of `y`, with which the inverse Hessian times the gradient is `γ·(g - Σ α·y) + Σ δ·s`, given the rows' products
    /// with the gradient.
    fn factors(&self, rows: &Tensor, sg: &Tensor, yg: &Tensor) -> (Tensor, Tensor) {
        let m = self.m();
        let (count, head) = (self.count.cast(DType::I32), self.head.cast(DType::I32));
        // From the oldest pair to the newest, and back; what is not there comes last.
        let oldest = &head + &(m as f64 - &count);
        let places = (rows + &oldest).remainder(m as f64);
        let ages = (&(rows - &oldest) + 2.0 * m as f64).remainder(m as f64);
        let by_age = |x: &Tensor| x.take(0, &places);
        let (sg, yg) = (by_age(sg), by_age(yg));
        let [sy, yy] = [&self.sy, &self.yy].map(|products| by_age(products).take(1, &places));
        let is_there: Vec<Tensor> = (0..m).map(|k| count.greater(k as f64)).collect();
        let number = |x: &Tensor, k: usize| x.index(0, k as i64);
        let product = |i: usize, j: usize| number(&number(&sy, i), j);
        let vector = |of: &[Tensor]| {
            let at = |(k, x): (usize, &Tensor)| rows.equal(k as f64).select(x, 0.0);
            of.iter().enumerate().map(at).reduce(|a, b| &a + &b).expect("bug: a history of no pairs")
        };
        // The first loop, from the newest pair: q = g - Σ α·y, whose product with each s is known.
        let mut alpha = vec![sg.index(0, 0) * 0.0; m];
        for i in (0..m).rev() {
            let later = (i + 1..m).map(|j| &product(i, j) * &alpha[j]);
            let rest = later.fold(number(&sg, i), |q, part| &q - &part);
            alpha[i] = is_there[i].select(&(&rest / &product(i, i)), 0.0);
        }
        // The second, from the oldest: r = γ·q + Σ (α - β)·s.
        let seen = &(&yg - &(&yy * &vector(&alpha)).sum(1)) * &self.gamma;
        let mut along_s: Vec<Tensor> = Vec::with_capacity(m);
        for i in 0..m {
            let earlier = (0..i).map(|j| &product(j, i) * &along_s[j]);
            let yr = earlier.fold(number(&seen, i), |r, part| &r + &part);
            along_s.push(is_there[i].select(&(&alpha[i] - &(&yr / &product(i, i))), 0.0));
        }
        let by_row = |x: Tensor| x.take(0, &ages);
        (by_row(vector(&along_s)), by_row(vector(&alpha)))
    }
}
