//! The loop of a run of L-BFGS, one evaluation a trip. Takes the parameters, what is remembered and the loss at the first point, gives what they
//! are after the last iteration. Never evaluates the loss but through what it is given, and never at a point that it does not need.
//!
//! A trip has three parts, each of which runs only where it is wanted: the beginning of an iteration (a new direction), an evaluation, and the
//! end of an iteration (the step is taken).

use super::history::{History, dot, largest};
use super::line::{Advanced, Line, Point, either};
use super::{Lbfgs, LineSearch, Status};
use crate::optim::{Evaluation, Found, StepScalars, Update};
use wholestep_compiler::ir::{DType, Tensor};
use wholestep_compiler::ops::control::{run_if, while_loop};

/// All that changes in a run.
#[derive(Clone)]
struct Run {
    /// Whether there is another trip.
    goes_on: Tensor,
    /// Whether a trip begins an iteration, and whether its evaluation ends one.
    begins: Tensor,
    ends: Tensor,
    /// Whether nobody knows the loss at `x` yet, and what it was where the run began.
    is_new: Tensor,
    first: Tensor,
    status: Tensor,
    /// Iterations of all runs and of this one, and evaluations of this one.
    n_iter: Tensor,
    iterations: Tensor,
    evaluations: Tensor,
    /// Whether all steps satisfied both conditions.
    is_wolfe: Tensor,
    /// The largest element of `g`.
    gradient: Tensor,
    /// The lowest point of the search, where the step will end.
    low: Point,
    line: Line,
    /// Where the iteration began, with the gradient there.
    x: Vec<Tensor>,
    before: Vec<Tensor>,
    direction: Vec<Tensor>,
    /// The gradient at `low`.
    g: Vec<Tensor>,
    history: History,
}

const N_SCALARS: usize = 11 + 3 + Line::PACKED;

impl Run {
    fn pack(&self) -> Vec<Tensor> {
        let flags = [&self.goes_on, &self.begins, &self.ends, &self.is_new, &self.first];
        let counts = [&self.status, &self.n_iter, &self.iterations];
        let rest = [&self.evaluations, &self.is_wolfe, &self.gradient, &self.low.t, &self.low.f, &self.low.slope];
        let mut all: Vec<Tensor> = flags.into_iter().chain(counts).chain(rest).cloned().collect();
        all.extend(self.line.pack());
        for list in [&self.x, &self.before, &self.direction, &self.g] {
            all.extend(list.iter().cloned());
        }
        all.extend(self.history.pack());
        all
    }

    fn unpack(v: &[Tensor]) -> Run {
        let (scalars, rest) = v.split_at(N_SCALARS);
        let n = (rest.len() - History::packed(0)) / 6;
        let list = |i: usize| rest[i * n..(i + 1) * n].to_vec();
        let at = |i: usize| scalars[i].clone();
        Run {
            goes_on: at(0),
            begins: at(1),
            ends: at(2),
            is_new: at(3),
            first: at(4),
            status: at(5),
            n_iter: at(6),
            iterations: at(7),
            evaluations: at(8),
            is_wolfe: at(9),
            gradient: at(10),
            low: Point { t: at(11), f: at(12), slope: at(13) },
            line: Line::unpack(&scalars[14..]),
            x: list(0),
            before: list(1),
            direction: list(2),
            g: list(3),
            history: History::unpack(&rest[4 * n..]),
        }
    }

    /// The run after `part`, where `cond` holds.
    fn only_if(&self, cond: &Tensor, part: impl FnOnce(Run) -> Run) -> Run {
        Run::unpack(&run_if(cond, &self.pack(), |v| part(Run::unpack(v)).pack()))
    }

    /// `yes` where `cond` holds, else `no`.
    fn select(cond: &Tensor, yes: &Run, no: &Run) -> Run {
        let of = |(yes, no): (&Tensor, &Tensor)| match yes.dtype() {
            _ if yes.id() == no.id() => no.clone(),
            DType::Bool => either(cond, yes, no),
            _ => cond.select(yes, no),
        };
        Run::unpack(&yes.pack().iter().zip(&no.pack()).map(of).collect::<Vec<_>>())
    }

    /// The run stopped where its loss is known and no step may follow.
    fn checked(self, options: &Lbfgs) -> Run {
        let is_known = !&self.is_new;
        let is_bad = !&(self.low.f.is_finite() & self.gradient.is_finite());
        let is_small = self.gradient.less_equal(options.tolerance_grad);
        self.stopped(&(&is_bad & &is_known), Status::NotFinite).stopped(&(&is_small & &is_known), Status::Gradient)
    }

    /// The run stopped for the reason `why` where `cond` holds and it has not stopped before.
    fn stopped(self, cond: &Tensor, why: Status) -> Run {
        let stops = cond & &self.goes_on;
        let status = stops.select(why.code(), &self.status);
        Run { goes_on: &self.goes_on & &!&stops, status, ..self }
    }
}

/// What does not change in a run.
struct Rules<'a> {
    options: &'a Lbfgs,
    evaluate: &'a dyn Fn(&[Tensor]) -> Evaluation,
    step: &'a StepScalars<'a>,
    lr: Tensor,
    yes: Tensor,
    no: Tensor,
}

/// A run from where `at` stands, with the loss there.
pub fn search(
    options: &Lbfgs,
    at: &[Update],
    loss: &Tensor,
    evaluate: &dyn Fn(&[Tensor]) -> Evaluation,
    step: &StepScalars,
) -> Found {
    let [no, yes] = [0.0, 1.0].map(|bool| step.scope.constant(bool, DType::Bool));
    let rules = Rules { options, evaluate, step, lr: step.lr.cast(loss.dtype()), yes, no };
    let begun = begin(&rules, at, loss);
    let most = match options.line_search {
        // The one that a search may make beyond the last; and all but the first, unless that is made in a trip.
        LineSearch::StrongWolfe => options.most_evaluations() + u32::from(options.same_batch),
        LineSearch::Fixed => options.max_iter,
    };
    let left = while_loop(most, &begun.pack(), |v| v[0].clone(), |v| rules.trip(Run::unpack(v)).pack());
    let end = Run::unpack(&left);
    let updates = (0..at.len()).map(|i| {
        let state = [&end.direction[i], &end.before[i], &end.history.s[i], &end.history.y[i]];
        let known = options.same_batch.then_some(&end.g[i]);
        (end.x[i].clone(), state.into_iter().chain(known).cloned().collect())
    });
    let h = &end.history;
    let shared = [&end.n_iter, &end.low.t, &h.gamma, &h.count, &h.head, &h.sy, &h.yy];
    let known = options.same_batch.then(|| [end.low.f.clone(), loss.full_like(1.0)]);
    let outputs = vec![
        (Lbfgs::STATUS, end.status.clone()),
        (Lbfgs::ITERATIONS, end.iterations.clone()),
        (Lbfgs::EVALUATIONS, end.evaluations.clone()),
        (Lbfgs::STEP_LENGTH, end.low.t.clone()),
        (Lbfgs::GRADIENT, end.gradient.clone()),
        (Lbfgs::WOLFE, end.is_wolfe.clone()),
    ];
    let shared = shared.into_iter().cloned().chain(known.into_iter().flatten()).collect();
    Found { updates: updates.collect(), shared, outputs, loss: options.same_batch.then(|| end.first.clone()) }
}

/// The run before its first trip.
fn begin(rules: &Rules, at: &[Update], loss: &Tensor) -> Run {
    let all = |of: &dyn Fn(&Update) -> &Tensor| at.iter().map(|u| of(u).clone()).collect::<Vec<_>>();
    let [n_iter, t, gamma, count, head, sy, yy] = [0, 1, 2, 3, 4, 5, 6].map(|i| rules.step.shared[i].clone());
    let (yes, no) = (&rules.yes, &rules.no);
    let known = rules.options.same_batch.then(|| (&rules.step.shared[7], &rules.step.shared[8]));
    let g = if known.is_some() { all(&|u| &u.state[4]) } else { all(&|u| &u.g) };
    let (loss, is_new) = known.map_or((loss, no.clone()), |(loss, is_known)| (loss, is_known.equal(0.0)));
    let gradient = largest(&g);
    let zero = loss * 0.0;
    let nothing = Point { t: t.clone(), f: loss.clone(), slope: zero.full_like(0.0) };
    let run = Run {
        goes_on: yes.clone(),
        begins: yes.clone(),
        ends: no.clone(),
        first: loss.clone(),
        status: zero.full_like(Status::Iterations.code()),
        n_iter,
        iterations: zero.full_like(0.0),
        evaluations: zero.full_like(if known.is_some() { 0.0 } else { 1.0 }),
        is_new,
        is_wolfe: zero.full_like(1.0),
        low: nothing.clone(),
        line: Line::new(nothing, zero.full_like(0.0), t, zero.full_like(0.0)),
        x: all(&|u| &u.p),
        before: all(&|u| &u.state[1]),
        direction: all(&|u| &u.state[0]),
        g,
        history: History { s: all(&|u| &u.state[2]), y: all(&|u| &u.state[3]), sy, yy, count, head, gamma },
        gradient,
    };
    run.checked(rules.options)
}

impl Rules<'_> {
    fn trip(&self, run: Run) -> Run {
        let begins = &run.begins & &!&run.is_new;
        let run = run.only_if(&begins, |run| self.begin_iteration(run));
        let run = match self.options.line_search {
            LineSearch::StrongWolfe => run.only_if(&run.goes_on, |run| self.try_step(run)),
            LineSearch::Fixed => {
                // What comes after the last step is known in the next run.
                let is_last = run.iterations.greater_equal(f64::from(self.options.max_iter));
                let run = Run { ends: run.goes_on.clone(), ..run };
                run.only_if(&(&run.goes_on & &!&is_last), |run| self.look_at_step(run))
            }
        };
        let ends = &run.ends & &run.goes_on;
        run.only_if(&ends, |run| self.end_iteration(run))
    }

    /// The direction from what the last step has shown, and the first step to try.
    fn begin_iteration(&self, run: Run) -> Run {
        let n_iter = &run.n_iter + 1.0;
        let is_first = n_iter.equal(1.0);
        let last_step: Vec<Tensor> = run.direction.iter().map(|d| d * &run.low.t).collect();
        let (history, direction) = run.history.next(self.step.scope, &last_step, &run.before, &run.g, &!&is_first);
        let slope = dot(&run.g, &direction);
        let sum = run.g.iter().map(|g| g.abs().sum(..)).reduce(|a, b| &a + &b).expect("bug: a step has parameters");
        let careful = sum.recip().minimum(1.0) * &self.lr;
        let t = is_first.select(&careful, &self.lr);
        let zero = t.full_like(0.0);
        let start = Point { t: zero.clone(), f: run.low.f.clone(), slope: slope.clone() };
        let most = f64::from(self.options.most_evaluations()) - &run.evaluations;
        let leads_down = slope.less_equal(-self.options.tolerance_change);
        let run = Run {
            begins: self.no.clone(),
            n_iter,
            iterations: &run.iterations + 1.0,
            line: Line::new(start.clone(), largest(&direction), t, most),
            // Nothing is lower yet.
            low: start,
            before: run.g.clone(),
            direction,
            history,
            ..run
        };
        run.stopped(&!&leads_down, Status::NoDescent)
    }

    fn at_step(&self, run: &Run) -> (Tensor, Vec<Tensor>) {
        let at = |(x, d): (&Tensor, &Tensor)| {
            let there = x + &(d * &run.line.t);
            if self.options.same_batch { run.is_new.select(x, there) } else { there }
        };
        let x: Vec<Tensor> = run.x.iter().zip(&run.direction).map(at).collect();
        let Evaluation { loss, grads } = (self.evaluate)(&x);
        (loss, grads)
    }

    /// An evaluation of the line search, or the one before the first.
    fn try_step(&self, run: Run) -> Run {
        let (loss, grads) = self.at_step(&run);
        let tried = self.tried(run.clone(), &loss, &grads);
        if self.options.same_batch {
            Run::select(&run.is_new, &self.looked(run.clone(), loss, grads), &tried)
        } else {
            tried
        }
    }

    /// What is known after the loss where the run begins.
    fn looked(&self, run: Run, loss: Tensor, g: Vec<Tensor>) -> Run {
        let evaluations = &run.evaluations + 1.0;
        let (first, gradient, low) = (loss.clone(), largest(&g), Point { f: loss, ..run.low.clone() });
        Run { is_new: self.no.clone(), first, evaluations, gradient, low, g, ..run }.checked(self.options)
    }

    fn tried(&self, run: Run, loss: &Tensor, grads: &[Tensor]) -> Run {
        let slope = dot(grads, &run.direction);
        let Advanced { line, ends, low, is_wolfe, is_finite, low_is_new, low_is_start } =
            run.line.advance(loss, &slope, self.options.tolerance_change);
        let kept = run.g.iter().zip(&run.before).map(|(low, start)| low_is_start.select(start, low));
        let g = grads.iter().zip(kept).map(|(new, kept)| low_is_new.select(new, &kept)).collect();
        let is_bad = &ends & &!&is_wolfe;
        Run {
            evaluations: &run.evaluations + 1.0,
            is_wolfe: is_bad.select(0.0, &run.is_wolfe),
            status: is_finite.select(&run.status, run.status.full_like(Status::NotFinite.code())),
            ends,
            low,
            line,
            g,
            ..run
        }
    }

    /// The evaluation after a step of fixed length.
    fn look_at_step(&self, run: Run) -> Run {
        let (loss, grads) = self.at_step(&run);
        let slope = dot(&grads, &run.direction);
        let is_finite = loss.is_finite() & slope.is_finite();
        let new = Point { t: run.line.t.clone(), f: loss, slope };
        let choose = |new: &Tensor, old: &Tensor| is_finite.select(new, old);
        let (t, f, slope) =
            (choose(&new.t, &run.low.t), choose(&new.f, &run.low.f), choose(&new.slope, &run.low.slope));
        Run {
            evaluations: &run.evaluations + 1.0,
            status: is_finite.select(&run.status, run.status.full_like(Status::NotFinite.code())),
            low: Point { t, f, slope },
            g: grads.iter().zip(&run.g).map(|(new, old)| choose(new, old)).collect(),
            ..run
        }
    }

    /// The step to the lowest point, and whether it was the last.
    fn end_iteration(&self, run: Run) -> Run {
        let options = self.options;
        let is_fixed = options.line_search == LineSearch::Fixed;
        let is_bad = run.status.equal(Status::NotFinite.code());
        let is_last = run.iterations.greater_equal(f64::from(options.max_iter));
        // Without an evaluation after it, a step of fixed length is as long as it was said to be.
        let t = if is_fixed { (&is_last & &!&is_bad).select(&run.line.t, &run.low.t) } else { run.low.t.clone() };
        let x = run.x.iter().zip(&run.direction).map(|(x, d)| x + &(d * &t)).collect();
        let gradient = largest(&run.g);
        let moved = &t.abs() * &run.line.reach;
        let change = (&run.low.f - &run.line.start.f).abs();
        let reached = gradient.less_equal(options.tolerance_grad);
        let is_seen = if is_fixed { !&is_last } else { self.yes.clone() };
        let run =
            Run { begins: self.yes.clone(), ends: self.no.clone(), low: Point { t, ..run.low }, x, gradient, ..run };
        // In PyTorch's order, except that what is not finite comes first.
        let run = run.stopped(&is_bad, Status::NotFinite).stopped(&is_last, Status::Iterations);
        let most = f64::from(options.most_evaluations());
        let is_spent = run.evaluations.greater_equal(most);
        let run = run.stopped(&is_spent, Status::Evaluations).stopped(&(&reached & &is_seen), Status::Gradient);
        run.stopped(&moved.less_equal(options.tolerance_change), Status::Change)
            .stopped(&change.less(options.tolerance_change), Status::Change)
    }
}
