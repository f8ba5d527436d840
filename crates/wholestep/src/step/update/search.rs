//! A step whose optimizer searches: it evaluates the loss where it wants. Takes the traced loss and such a rule, appends the loss again for each of
//! its evaluations, with the parameters replaced by the point it looks at. Never evaluates more than the rule asks for.

use super::{Averaged, LOSS, OPTIMIZER, Param, Traced, slots};
use crate::optim::{Evaluation, Optimizer, Search, StepScalars, Update};
use crate::schedule::Clock;
use crate::step::accumulate::Accumulation;
use crate::step::precision::Precision;
use crate::step::{StepOptions, clip};
use crate::{Error, ErrorKind, Result};
use wholestep_compiler::autodiff::{gradients, replaced};
use wholestep_compiler::ir::{DType, Op, Scope, Tensor};

/// Appends all that follows the loss, which is an output here where the rule knows it.
#[track_caller]
pub fn trace(
    scope: &Scope,
    loss: &Tensor,
    (optimizer, rule): (&dyn Optimizer, &dyn Search),
    options: &StepOptions,
    params: &[Param],
) -> Result<Averaged> {
    optimizer.check()?;
    check(options)?;
    let is_random = |op: &Op| matches!(op, Op::Random(_));
    if rule.known().is_some() && scope.graph().borrow().nodes.iter().any(|n| is_random(&n.op)) {
        let message = "same_batch: the loss is another in each step, for the model draws random numbers (dropout); leave one of the two out";
        return Err(Error::new(ErrorKind::Config, message));
    }
    let has_error = || scope.graph().borrow().error.is_some();
    let dtype = params[0].tensor.dtype();
    if let Some(other) = params.iter().find(|p| p.tensor.dtype() != dtype) {
        let message = format!(
            "the optimizer wants parameters of one type: {} is {dtype}, {} is {}",
            params[0].name,
            other.name,
            other.tensor.dtype()
        );
        return Err(Error::new(ErrorKind::Config, message));
    }
    let n_own = scope.graph().borrow().updates.len();
    let points: Vec<Tensor> = params.iter().map(|p| p.tensor.clone()).collect();
    let decays: Vec<f64> = params.iter().map(|p| decay_of(p, optimizer, options)).collect();
    let evaluate = |x: &[Tensor]| {
        let loss = decayed(&replaced(loss, &points, x), x, &decays);
        let grads = gradients(&loss, x);
        Evaluation { loss, grads }
    };
    let first = decayed(loss, &points, &decays);
    let mut grads = gradients(&first, &points);
    if has_error() {
        return Ok(Averaged::new());
    }
    clip::clip(scope, &mut grads, None, options.grad_norm);
    let calls = scope.step();
    let accumulation = Accumulation::new(options.pace(), &calls);
    let clock = Some(Clock::new(scope, &accumulation.done));
    let traced = Traced { scope, optimizer, options, accumulation, clock };
    let home = scope.sub(OPTIMIZER);
    let scalars = StepScalars {
        scope,
        lr: traced.rate(),
        t: &traced.clock().step + 1.0,
        weight_decay: 0.0,
        momentum: None,
        shared: slots(&home, &optimizer.shared(), dtype),
    };
    let updates = params.iter().zip(grads).map(|(param, g)| {
        let state = slots(&home.sub(&param.name), &optimizer.state(&param.tensor.shape()), dtype);
        Update { p: param.tensor.clone(), g, state }
    });
    let updates: Vec<Update> = updates.collect();
    let found = rule.search(&updates, &first, &evaluate, &scalars);
    if has_error() {
        return Ok(Averaged::new());
    }
    traced.keep(&home, &scalars.shared, &found.shared);
    let mut averaged = Averaged::new();
    for ((param, old), (new_p, new_state)) in params.iter().zip(&updates).zip(&found.updates) {
        let place = home.sub(&param.name);
        traced.keep(&place, &old.state, new_state);
        place.update(&old.p, new_p);
        traced.average(param, &old.p, new_p, &mut averaged);
    }
    if let Some(decayed_loss) = &found.loss {
        let terms = decays.iter().map(|decay| -decay).collect::<Vec<f64>>();
        let known = decayed(decayed_loss, &points, &terms);
        scope.output(LOSS, &known);
        take_from(scope, n_own, loss, &known);
    }
    found.outputs.iter().for_each(|(name, value)| scope.output(name, value));
    scope.update(&calls, &(&calls + &scope.constant(1.0, DType::U32)));
    Ok(averaged)
}

/// The first `n` updates, which are the model's own, with the loss that is known where they took the traced one: a sum of losses is no reason
/// to evaluate it.
fn take_from(scope: &Scope, n: usize, loss: &Tensor, known: &Tensor) {
    for i in 0..n {
        let value = Tensor::from_node(scope.graph().clone(), scope.graph().borrow().updates[i].1);
        let value = replaced(&value, std::slice::from_ref(loss), std::slice::from_ref(known));
        scope.graph().borrow_mut().updates[i].1 = value.id();
    }
}

/// Options that would change the gradient and not the loss, or the loss between two evaluations: a search would not end.
fn check(options: &StepOptions) -> Result<()> {
    let fault = |message: &str| Err(Error::new(ErrorKind::Config, message));
    if options.clip.is_some() {
        return fault(
            "clip: the optimizer searches along the gradient of the loss, and a clipped gradient is none; leave it out",
        );
    }
    if options.accumulate > 1 {
        return fault(
            "accumulate: the optimizer evaluates the loss of one batch several times; give it a larger batch instead",
        );
    }
    if options.precision != Precision::F32 {
        return fault("precision: the optimizer compares losses that differ in their last digits; train in f32");
    }
    if options.fit_in.is_some() {
        return fault("fit_in: evaluations of a search keep their values; leave it out, or give smaller batches");
    }
    match options.groups.iter().find(|g| g.lr.is_some() || g.lr_scale.is_some()) {
        Some(group) => {
            let message = format!(
                "the group {}: the optimizer moves all parameters along one direction, at one rate",
                group.params
            );
            Err(Error::new(ErrorKind::Config, message))
        }
        None => Ok(()),
    }
}

fn decay_of(param: &Param, optimizer: &dyn Optimizer, options: &StepOptions) -> f64 {
    let own = param.group.and_then(|g| options.groups[g].weight_decay);
    own.or(optimizer.weight_decay()).unwrap_or(0.0)
}

/// `loss + Σ ½·decay·|x|²`.
fn decayed(loss: &Tensor, x: &[Tensor], decays: &[f64]) -> Tensor {
    let terms = x.iter().zip(decays).filter(|(_, decay)| **decay != 0.0);
    terms.fold(loss.clone(), |sum, (x, decay)| &sum + &(x.square().sum(..) * (decay / 2.0)))
}
