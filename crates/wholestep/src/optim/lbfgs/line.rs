//! The line search, one evaluation at a time: a step that satisfies both strong Wolfe conditions is first bracketed, then closed in on by cubic
//! interpolation. Takes where the search stands and the loss and slope at its trial step, gives where it stands then. Never evaluates
//! anything itself, and never branches: everything is a choice between scalars.
//!
//! Paper: Nocedal, Wright 2006, "Numerical Optimization", algorithms 3.5 and 3.6. The rules for steps that make too little progress, and when
//! to stop, are those of PyTorch's `strong_wolfe`.

use wholestep_compiler::ir::Tensor;

/// Sufficient decrease: `f(t) <= f(0) + C1·t·slope(0)`.
pub const C1: f64 = 1e-4;
/// Curvature: `|slope(t)| <= C2·|slope(0)|`.
pub const C2: f64 = 0.9;

/// A step length with the loss and its derivative along the direction there.
#[derive(Clone)]
pub struct Point {
    pub t: Tensor,
    pub f: Tensor,
    pub slope: Tensor,
}

impl Point {
    fn select(cond: &Tensor, yes: &Point, no: &Point) -> Point {
        let of = |yes: &Tensor, no: &Tensor| cond.select(yes, no);
        Point { t: of(&yes.t, &no.t), f: of(&yes.f, &no.f), slope: of(&yes.slope, &no.slope) }
    }
}

/// A search between two evaluations. All are scalars.
#[derive(Clone)]
pub struct Line {
    /// At t = 0.
    pub start: Point,
    /// The largest element of the direction: how far a unit step moves.
    pub reach: Tensor,
    /// What is evaluated next.
    pub t: Tensor,
    /// Evaluations after the first one, and how many there may be.
    pub trials: Tensor,
    pub most: Tensor,
    /// Whether `a` and `b` bracket a step; before, `a` is the last step and `b` nothing.
    pub is_bracketed: Tensor,
    pub a: Point,
    pub b: Point,
    /// Which of the two has the lower loss.
    pub low_is_b: Tensor,
    /// Whether the last trial was next to an end of the bracket.
    pub is_stalled: Tensor,
}

/// What an evaluation leads to.
pub struct Advanced {
    pub line: Line,
    /// Whether the search is over: `low` is its result.
    pub ends: Tensor,
    pub low: Point,
    /// Whether `low` satisfies both conditions.
    pub is_wolfe: Tensor,
    /// Whether loss and slope were numbers.
    pub is_finite: Tensor,
    /// Whether the gradient at `low` is the one that was just computed; else it is the one at 0 if `low_is_start`, else that at `low` before.
    pub low_is_new: Tensor,
    pub low_is_start: Tensor,
}

/// `cond` decides between bools.
pub fn either(cond: &Tensor, yes: &Tensor, no: &Tensor) -> Tensor {
    (cond & yes) | (!cond & no)
}

/// What one phase makes of an evaluation.
struct Phase {
    a: Point,
    b: Point,
    low_is_b: Tensor,
    low_is_new: Tensor,
    is_done: Tensor,
}

impl Line {
    /// A search from `start` that evaluates `t` first, and `most` times after that.
    pub fn new(start: Point, reach: Tensor, t: Tensor, most: Tensor) -> Line {
        let zero = &t * 0.0;
        let no = zero.greater(0.0);
        Line {
            reach,
            t,
            trials: zero,
            most,
            is_bracketed: no.clone(),
            a: start.clone(),
            b: start.clone(),
            low_is_b: no.clone(),
            is_stalled: no,
            start,
        }
    }

    /// The scalars, for a loop to carry.
    pub fn pack(&self) -> Vec<Tensor> {
        let points = [&self.start, &self.a, &self.b].into_iter().flat_map(|p| [&p.t, &p.f, &p.slope]);
        let rest =
            [&self.reach, &self.t, &self.trials, &self.most, &self.is_bracketed, &self.low_is_b, &self.is_stalled];
        points.chain(rest).cloned().collect()
    }

    /// How many scalars [`Line::pack`] gives.
    pub const PACKED: usize = 16;

    pub fn unpack(v: &[Tensor]) -> Line {
        let point = |i: usize| Point { t: v[i].clone(), f: v[i + 1].clone(), slope: v[i + 2].clone() };
        Line {
            start: point(0),
            a: point(3),
            b: point(6),
            reach: v[9].clone(),
            t: v[10].clone(),
            trials: v[11].clone(),
            most: v[12].clone(),
            is_bracketed: v[13].clone(),
            low_is_b: v[14].clone(),
            is_stalled: v[15].clone(),
        }
    }

    /// The search after `f` and `slope` were found at its trial step.
    pub fn advance(&self, f: &Tensor, slope: &Tensor, tolerance_change: f64) -> Advanced {
        let new = Point { t: self.t.clone(), f: f.clone(), slope: slope.clone() };
        let limit = &self.start.f + &(&(&self.t * C1) * &self.start.slope);
        let is_high = new.f.greater(&limit);
        let is_flat = new.slope.abs().less_equal(&(&self.start.slope * -C2));
        let is_finite = new.f.is_finite() & new.slope.is_finite();
        let is_spent = self.trials.greater_equal(&self.most);
        let (bracketing, extends) = self.bracket(&new, &is_high, &is_flat, &is_spent);
        let closing = self.close_in(&new, &is_high, &is_flat);
        let chosen = |of: fn(&Phase) -> &Point| Point::select(&self.is_bracketed, of(&closing), of(&bracketing));
        let flag = |of: fn(&Phase) -> &Tensor| either(&self.is_bracketed, of(&closing), of(&bracketing));
        let (a, b) = (chosen(|p| &p.a), chosen(|p| &p.b));
        let low_is_b = flag(|p| &p.low_is_b);
        let is_done = flag(|p| &p.is_done) & &is_finite;
        // A bracket narrower than what counts as a change is not looked into.
        let is_narrow = (&(&b.t - &a.t).abs() * &self.reach).less(tolerance_change) & !&extends;
        let ends = &(&(&is_done | &is_spent) | &is_narrow) | &!&is_finite;
        let (t, is_stalled) = self.next_trial(&a, &b, &new, &extends);
        // Where there was no number, all stays as it was: the lower end, or the last step.
        let (a, b) = (Point::select(&is_finite, &a, &self.a), Point::select(&is_finite, &b, &self.b));
        let low_is_b = either(&is_finite, &low_is_b, &(&self.low_is_b & &self.is_bracketed));
        let low = Point::select(&low_is_b, &b, &a);
        let is_bracketed = &self.is_bracketed | &!&extends;
        let low_is_new = flag(|p| &p.low_is_new) & &is_finite;
        let low_is_start = &(&(&is_spent & &!&self.is_bracketed) & &!&low_is_b) & &is_finite;
        let line = Line {
            start: self.start.clone(),
            reach: self.reach.clone(),
            t,
            trials: &self.trials + 1.0,
            most: self.most.clone(),
            is_bracketed,
            a,
            b,
            low_is_b,
            is_stalled,
        };
        Advanced { line, ends, low, is_wolfe: is_done, is_finite, low_is_new, low_is_start }
    }

    /// Before there is a bracket: whether the new step closes one with the last, satisfies both conditions, or (the second value) is to be
    /// followed by a longer one.
    fn bracket(&self, new: &Point, is_high: &Tensor, is_flat: &Tensor, is_spent: &Tensor) -> (Phase, Tensor) {
        let rises = self.trials.greater(1.0) & new.f.greater_equal(&self.a.f);
        let is_above = is_high | &rises;
        let is_done = &(&!&is_above & is_flat) & &!is_spent;
        let goes_up = new.slope.greater_equal(0.0);
        let extends = &(&!&(&(&is_above | is_flat) | &goes_up) & &!is_spent) & &!&self.is_bracketed;
        // Out of trials, the choice is between not moving and the last step.
        let a = Point::select(is_spent, &self.start, &Point::select(&extends, new, &self.a));
        let low_is_b = &!&a.f.less_equal(&new.f) | &is_done;
        let low_is_new = &low_is_b | &extends;
        (Phase { a, b: new.clone(), low_is_b, low_is_new, is_done }, extends)
    }

    /// With a bracket: the new step replaces one of its ends.
    fn close_in(&self, new: &Point, is_high: &Tensor, is_flat: &Tensor) -> Phase {
        let (low, high) =
            (Point::select(&self.low_is_b, &self.b, &self.a), Point::select(&self.low_is_b, &self.a, &self.b));
        let is_worse = is_high | &new.f.greater_equal(&low.f);
        let is_done = &!&is_worse & is_flat;
        // Downhill from the new step lies the old lower end, not the higher one.
        let turns = (&new.slope * &(&high.t - &low.t)).greater_equal(0.0) & !&is_done;
        let next_low = Point::select(&is_worse, &low, new);
        let next_high = Point::select(&is_worse, new, &Point::select(&turns, &low, &high));
        let (a, b) = (
            Point::select(&self.low_is_b, &next_high, &next_low),
            Point::select(&self.low_is_b, &next_low, &next_high),
        );
        let low_is_b = either(&is_worse, &!&a.f.less_equal(&b.f), &self.low_is_b);
        // Where it replaced the higher end, it may have become the lower one.
        let changed_ends = either(&self.low_is_b, &!&low_is_b, &low_is_b);
        let low_is_new = &!&is_worse | &changed_ends;
        Phase { a, b, low_is_b, low_is_new, is_done }
    }

    /// The next step to try: beyond the new one, or within the bracket and not too near to its ends twice in a row.
    fn next_trial(&self, a: &Point, b: &Point, new: &Point, extends: &Tensor) -> (Tensor, Tensor) {
        let from = Point::select(extends, &self.a, a);
        let (lo, hi) = (a.t.minimum(&b.t), a.t.maximum(&b.t));
        let longer = &new.t + &(&(&new.t - &self.a.t) * 0.01);
        let t = cubic_minimum(&from, b, &extends.select(&longer, &lo), &extends.select(&(&new.t * 10.0), &hi));
        let margin = &(&hi - &lo) * 0.1;
        let is_near = (&hi - &t).minimum(&(&t - &lo)).less(&margin) & !extends;
        let is_at_end = t.greater_equal(&hi) | t.less_equal(&lo);
        let must_move = &is_near & &(&self.is_stalled | &is_at_end);
        let nearer_hi = (&t - &hi).abs().less((&t - &lo).abs());
        let moved = nearer_hi.select(&(&hi - &margin), &(&lo + &margin));
        (must_move.select(&moved, &t), &is_near & &!&must_move)
    }
}

/// Where the cubic through two points with their slopes has its minimum, within bounds; their middle where it has none.
fn cubic_minimum(p: &Point, q: &Point, lo: &Tensor, hi: &Tensor) -> Tensor {
    let d1 = &(&p.slope + &q.slope) - &(&(&(&p.f - &q.f) * 3.0) / &(&p.t - &q.t));
    let square = &d1.square() - &(&p.slope * &q.slope);
    let d2 = square.maximum(0.0).sqrt();
    let is_ordered = p.t.less_equal(&q.t);
    let (l, r) = (Point::select(&is_ordered, p, q), Point::select(&is_ordered, q, p));
    let part = &(&(&r.slope + &d2) - &d1) / &(&(&r.slope - &l.slope) + &(&d2 * 2.0));
    let t = &r.t - &(&(&r.t - &l.t) * &part);
    square.greater_equal(0.0).select(t.maximum(lo).minimum(hi), &(&(lo + hi) * 0.5))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Device, eval};
    use wholestep_compiler::ir::{DType, Scope};

    /// The trial between 0 and 1 for a loss `(t - least)²`, whose cubic is itself, and whether it counts as near to an end.
    fn trial(least: f64, was_near: bool) -> [f64; 2] {
        let trial = |s: &Scope| {
            let number = |x: f64| s.constant(x, DType::F64);
            let at = |t: f64| Point { t: number(t), f: number((t - least).powi(2)), slope: number(2.0 * (t - least)) };
            let no = number(0.0).greater(0.0);
            let line = Line::new(at(0.0), number(1.0), number(1.0), number(25.0));
            let line = Line { is_stalled: if was_near { !&no } else { no.clone() }, ..line };
            let (t, is_near) = line.next_trial(&at(0.0), &at(1.0), &at(1.0), &no);
            t.stack(&[is_near.cast(DType::F64)], 0)
        };
        let found = eval(&Device::cpu_with_threads(1), trial).unwrap();
        found.slice::<f64>().unwrap().try_into().expect("two numbers")
    }

    /// One trial may be near to an end of the bracket, a second one in a row is moved away by a tenth of its width, and one at an end at once.
    #[test]
    fn trials_do_not_stay_near_an_end_of_the_bracket() {
        for (least, was_near, expected) in [
            (0.5, false, [0.5, 0.0]),
            (0.5, true, [0.5, 0.0]),
            (0.05, false, [0.05, 1.0]),
            (0.05, true, [0.1, 0.0]),
            (0.97, false, [0.97, 1.0]),
            (0.97, true, [0.9, 0.0]),
            (-0.2, false, [0.1, 0.0]),
            (1.3, false, [0.9, 0.0]),
        ] {
            let got = trial(least, was_near);
            let is_close = got.iter().zip(expected).all(|(a, b)| (a - b).abs() < 1e-9);
            assert!(is_close, "least at {least}, was near: {was_near}: {got:?}, expected {expected:?}");
        }
    }
}
