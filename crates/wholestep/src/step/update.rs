//! From a traced loss to a traced step. Takes the loss, an optimizer and options, appends gradients, accumulation, clipping, schedule, update
//! and averages to the graph. Never touches a device.

mod search;

use super::accumulate::Accumulation;
use super::group::{self, ParamGroup};
use super::precision::{LossScale, Precision};
use super::{StepOptions, clip};
use crate::optim::{Optimizer, StateSpec, StepScalars, Update};
use crate::schedule::Clock;
use crate::{Error, ErrorKind, Result};
use std::collections::BTreeMap;
use std::panic::Location;
use wholestep_compiler::autodiff::gradients;
use wholestep_compiler::ir::graph::Loc;
use wholestep_compiler::ir::scope::slot_node;
use wholestep_compiler::ir::{BuildError, DType, Graph, Init, Scope, Shape, SlotId, SlotKind, Tensor};

/// The slot that holds the base learning rate; a group's own is "lr/PATTERN".
pub const LR: &str = "lr";
/// The output that is the loss.
pub const LOSS: &str = "loss";
/// Where the optimizer's state lies: "optimizer/fc1/weight/exp_avg".
const OPTIMIZER: &str = "optimizer";
/// Where averages of the weights lie: "average/fc1/weight".
const AVERAGE: &str = "average";

/// By the name of a parameter's slot, the slot that holds its weights for evaluation once an update was made.
pub type Averaged = BTreeMap<String, String>;

/// A parameter that learns.
struct Param {
    name: String,
    tensor: Tensor,
    group: Option<usize>,
}

/// Appends all that follows the loss, and gives where weights for evaluation lie if not in the parameters.
///
/// Errors (`ErrorKind::Config`): options that do not fit the model or the optimizer.
#[track_caller]
pub fn trace(scope: &Scope, loss: &Tensor, optimizer: &dyn Optimizer, options: &StepOptions) -> Result<Averaged> {
    let has_error = || scope.graph().borrow().error.is_some();
    // A rule that remembers the loss spares the step its evaluation.
    if known(optimizer).is_none() {
        scope.output(LOSS, loss);
    }
    check(optimizer, options)?;
    let params = trainable(scope, optimizer, &options.groups)?;
    if has_error() {
        return Ok(Averaged::new());
    }
    if let Some(rule) = optimizer.search() {
        return search::trace(scope, loss, (optimizer, rule), options, &params);
    }
    let tensors: Vec<Tensor> = params.iter().map(|p| p.tensor.clone()).collect();
    let loss_scale = (options.precision == Precision::F16).then(|| LossScale::new(scope));
    let objective = loss_scale.as_ref().map_or_else(|| loss.clone(), |s| s.scaled(loss));
    let mut micro = gradients(&objective, &tensors);
    if has_error() {
        return Ok(Averaged::new());
    }
    loss_scale.iter().for_each(|s| s.unscale(&mut micro));
    let calls = scope.step();
    let mut accumulation = Accumulation::new(options.pace(), &calls);
    let names: Vec<&str> = params.iter().map(|p| p.name.as_str()).collect();
    let mut grads = accumulation.mean(scope, &names, &micro);
    loss_scale.iter().for_each(|s| s.advance(scope, &grads, &mut accumulation));
    if options.noise_scale {
        clip::noise_scale(scope, &micro, &grads, &accumulation);
    }
    clip::clip(scope, &mut grads, options.clip, options.grad_norm);
    let traced = Traced { scope, optimizer, options, accumulation, clock: None };
    let averaged = traced.update(&params, &grads);
    scope.update(&calls, &(&calls + &scope.constant(1.0, DType::U32)));
    Ok(averaged)
}

/// The slot that says whether a search remembers the loss at the parameters.
pub fn known(optimizer: &dyn Optimizer) -> Option<String> {
    optimizer.search()?.known().map(|name| format!("{OPTIMIZER}/{name}"))
}

fn check(optimizer: &dyn Optimizer, options: &StepOptions) -> Result<()> {
    let fault = |message: &str| Err(Error::new(ErrorKind::Config, message));
    optimizer.check().map_err(|e| e.context("optimizer"))?;
    options.clip.map_or(Ok(()), |clip| clip.check())?;
    options.average.map_or(Ok(()), |a| a.check())?;
    if options.average.is_some() && optimizer.averaged().is_some() {
        return fault("average: the optimizer keeps an average of the weights already; leave one of the two out");
    }
    if options.accumulate == 0 {
        return fault("accumulate: need at least 1 micro-batch, got 0");
    }
    if options.calls_per_epoch == Some(0) {
        return fault("calls_per_epoch: need at least 1 call, got 0");
    }
    if options.noise_scale && options.accumulate < 2 {
        return fault("gradient noise scale: need accumulate >= 2, for it compares micro-batches with their mean");
    }
    if options.schedule.cycles_momentum() && !optimizer.takes_momentum() {
        return fault("the schedule cycles the momentum, and the optimizer has none to cycle");
    }
    Ok(())
}

/// The parameters that learn, in the order in which the model made them. Those of frozen groups are marked as not trainable.
fn trainable(scope: &Scope, optimizer: &dyn Optimizer, groups: &[ParamGroup]) -> Result<Vec<Param>> {
    let mut graph = scope.graph().borrow_mut();
    let learns = |kind: SlotKind| kind == SlotKind::Param { trainable: true };
    let slots: Vec<usize> = (0..graph.slots.len()).filter(|&i| learns(graph.slots[i].kind)).collect();
    let names: Vec<String> = slots.iter().map(|&i| graph.slots[i].name.clone()).collect();
    // After a fault of the model names may be missing for no fault of the patterns.
    if graph.error.is_some() {
        return Ok(Vec::new());
    }
    let of = group::assign(groups, &names, optimizer)?;
    let mut params = Vec::new();
    for ((i, name), group) in slots.into_iter().zip(names).zip(of) {
        if group.is_some_and(|g| groups[g].frozen) {
            graph.slots[i].kind = SlotKind::Param { trainable: false };
            continue;
        }
        let node = node_of(&graph, i);
        params.push(Param { name, tensor: Tensor::from_node(scope.graph().clone(), node), group });
    }
    drop(graph);
    if params.is_empty() {
        let none = "the model has no parameter to train; Infer::compile takes programs without";
        let why = if groups.is_empty() { none } else { "all parameters are frozen; there is nothing to train" };
        return Err(Error::new(ErrorKind::Config, why));
    }
    Ok(params)
}

fn node_of(graph: &Graph, slot: usize) -> wholestep_compiler::ir::NodeId {
    slot_node(graph, SlotId(slot as u32)).expect("bug: a slot has a node")
}

/// A step whose gradients are known.
struct Traced<'a> {
    scope: &'a Scope,
    optimizer: &'a dyn Optimizer,
    options: &'a StepOptions<'a>,
    accumulation: Accumulation,
    clock: Option<Clock<'a>>,
}

impl Traced<'_> {
    /// The learning rate of this step.
    fn rate(&self) -> Tensor {
        let base = self.base_rate(LR, self.optimizer.lr());
        self.options.schedule.advance(&base, self.clock());
        let lr = self.options.schedule.rate(&base, self.clock());
        self.scope.output(LR, &lr);
        lr
    }

    #[track_caller]
    fn update(mut self, params: &[Param], grads: &[Tensor]) -> Averaged {
        self.clock = Some(Clock::new(self.scope, &self.accumulation.done));
        let lr = self.rate();
        let mut averaged = Averaged::new();
        let groups = std::iter::once(None).chain((0..self.options.groups.len()).map(Some));
        for group in groups {
            let members: Vec<usize> = (0..params.len()).filter(|&i| params[i].group == group).collect();
            if !members.is_empty() {
                let members: Vec<(&Param, &Tensor)> = members.iter().map(|&i| (&params[i], &grads[i])).collect();
                self.update_group(&members, group.map(|g| &self.options.groups[g]), &lr, &mut averaged);
            }
        }
        averaged
    }

    fn clock(&self) -> &Clock<'_> {
        self.clock.as_ref().expect("bug: the clock is set first")
    }

    fn base_rate(&self, name: &str, lr: f64) -> Tensor {
        self.scope.scalar(name, DType::F32, Shape::scalar(), Init::Const(lr))
    }

    /// The rate of a group's parameters.
    fn rate_of(&self, group: &ParamGroup, lr: &Tensor) -> Tensor {
        match (group.lr, group.lr_scale) {
            (Some(own), _) => {
                let name = format!("{LR}/{}", group.params);
                let rate = self.options.schedule.rate(&self.base_rate(&name, own), self.clock());
                self.scope.output(&name, &rate);
                rate
            }
            (None, Some(scale)) => lr * scale,
            (None, None) => lr.clone(),
        }
    }

    #[track_caller]
    fn update_group(
        &self,
        members: &[(&Param, &Tensor)],
        group: Option<&ParamGroup>,
        lr: &Tensor,
        averaged: &mut Averaged,
    ) {
        let home = self.scope.sub(OPTIMIZER);
        let decay = group.and_then(|g| g.weight_decay).or(self.optimizer.weight_decay());
        let mut scalars = StepScalars {
            scope: self.scope,
            lr: group.map_or_else(|| lr.clone(), |g| self.rate_of(g, lr)),
            t: &self.clock().step + 1.0,
            weight_decay: decay.unwrap_or(0.0),
            momentum: self.options.schedule.momentum(self.clock()),
            shared: Vec::new(),
        };
        let shared_home = group.map_or_else(|| home.clone(), |g| home.sub(&g.params));
        let shared = slots(&shared_home, &self.optimizer.shared(), DType::F32);
        scalars.shared = self.optimizer.advance(&shared, &scalars);
        self.keep(&shared_home, &shared, &scalars.shared);
        let updates = members.iter().map(|(param, g)| {
            let place = home.sub(&param.name);
            let state = slots(&place, &self.optimizer.state(&param.tensor.shape()), DType::F32);
            Update { p: param.tensor.clone(), g: (*g).clone(), state }
        });
        let updates: Vec<Update> = updates.collect();
        let done = self.optimizer.update_all(&updates, &scalars);
        assert_eq!(done.len(), updates.len(), "an optimizer updates every parameter of a group");
        for (((param, _), old), (new_p, new_state)) in members.iter().zip(&updates).zip(&done) {
            let place = home.sub(&param.name);
            check_update(&place, &old.p, &self.optimizer.state(&old.p.shape()), new_p, new_state);
            if self.scope.graph().borrow().error.is_some() {
                return;
            }
            self.keep(&place, &old.state, new_state);
            let new_p = self.accumulation.kept(new_p, &old.p);
            place.update(&old.p, &new_p);
            self.average(param, &old.p, &new_p, averaged);
        }
    }

    /// Keeps the average of a parameter, and notes where weights for evaluation lie.
    fn average(&self, param: &Param, old_p: &Tensor, new_p: &Tensor, averaged: &mut Averaged) {
        let name = &param.name;
        if let Some(average) = self.options.average {
            let home = self.scope.sub(AVERAGE);
            let slot = home.slot(name, SlotKind::State, DType::F32, old_p.shape(), Init::Const(0.0));
            let next = average.next(&slot, new_p, &self.accumulation.done);
            home.update(&slot, &self.accumulation.kept(&next, &slot));
            averaged.insert(name.clone(), format!("{AVERAGE}/{name}"));
        }
        averaged.extend(self.optimizer.averaged().map(|x| (name.clone(), format!("{OPTIMIZER}/{name}/{x}"))));
    }

    /// Slots hold their next values after calls that update.
    fn keep(&self, place: &Scope, old: &[Tensor], new: &[Tensor]) {
        assert_eq!(new.len(), old.len(), "an optimizer gives as many tensors as its state has");
        // State that stays as it is (a number that depends on the shape) needs no launch.
        let changed = old.iter().zip(new).filter(|(old, new)| old.id() != new.id());
        changed.for_each(|(old, new)| place.update(old, &self.accumulation.kept(new, old)));
    }
}

fn slots(place: &Scope, specs: &[StateSpec], dtype: DType) -> Vec<Tensor> {
    let slot = |s: &StateSpec| place.slot(s.name, SlotKind::State, dtype, s.shape.clone(), Init::Const(s.init));
    specs.iter().map(slot).collect()
}

/// Records what an optimizer's `update` may not return: another number of tensors than its state has, or other types than those of the
/// parameter and of `specs`. `place` is where the parameter's state lies.
#[track_caller]
fn check_update(place: &Scope, p: &Tensor, specs: &[StateSpec], new_p: &Tensor, new_state: &[Tensor]) {
    let names: Vec<&str> = specs.iter().map(|s| s.name).collect();
    let mut graph = place.graph().borrow_mut();
    let fault = |message: String, at: String| {
        BuildError::new("optimizer", message).at(at).help(format!(
            "update() returns the next parameter and a Vec with the next of each of state(): {}; each of its own shape",
            if names.is_empty() { "none".to_string() } else { names.join(", ") }
        ))
    };
    let scope = graph.scope_index(place.path());
    if new_state.len() != names.len() {
        let message = format!("update() returned {} tensors of state, state() names {}", new_state.len(), names.len());
        let at = graph.position(scope, Loc::from(Location::caller()));
        return graph.fail(fault(message, at));
    }
    let of_p = graph.type_of(p.id());
    let parameter = ("the parameter", of_p.dtype, &of_p.shape, new_p);
    let state = specs.iter().zip(new_state).map(|(spec, value)| (spec.name, DType::F32, &spec.shape, value));
    for (what, dtype, shape, value) in std::iter::once(parameter).chain(state) {
        let got = graph.type_of(value.id());
        if (got.dtype, &got.shape) != (dtype, shape) {
            let message =
                format!("update() returned {} {} as the next of {what}, need {shape} {dtype}", got.shape, got.dtype);
            // The line that made the value is in the optimizer, which is where the fault is.
            let at = graph.position(scope, graph.node(value.id()).loc);
            return graph.fail(fault(message, at));
        }
    }
}
