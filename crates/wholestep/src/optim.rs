//! Optimizers as Tensor maths inside of the step. Takes parameters, their gradients and what is remembered of them, gives the next of each.
//! Never keeps anything of its own: what an optimizer remembers is a slot.
//!
//! To maximize, return the negated loss: that is what PyTorch's `maximize` does to the gradient.

mod adadelta;
mod adafactor;
mod adagrad;
mod adam;
mod adamax;
mod factor;
mod lamb;
mod lbfgs;
mod lion;
mod muon;
mod nadam;
mod radam;
mod rmsprop;
mod schedule_free;
mod sgd;

pub use adadelta::Adadelta;
pub use adafactor::Adafactor;
pub use adagrad::Adagrad;
pub use adam::{Adam, AdamW};
pub use adamax::Adamax;
pub use factor::Factor;
pub use lamb::Lamb;
pub use lbfgs::{Lbfgs, LineSearch, Status};
pub use lion::Lion;
pub use muon::{Muon, MuonRate};
pub use nadam::NAdam;
pub use radam::RAdam;
pub use rmsprop::RmsProp;
pub use schedule_free::ScheduleFreeAdamW;
pub use sgd::Sgd;

use crate::Result;
use crate::error::need;
use serde::{Deserialize, Serialize};
use wholestep_compiler::ir::{Scope, Shape, Tensor};

/// One tensor that an optimizer remembers, f32.
#[derive(Clone, Debug, PartialEq)]
pub struct StateSpec {
    /// "exp_avg", as in PyTorch's state_dict.
    pub name: &'static str,
    /// Any fixed shape, often the parameter's.
    pub shape: Shape,
    /// What it holds before the first step.
    pub init: f64,
}

impl StateSpec {
    /// Zeros of `shape`.
    pub fn zeros(name: &'static str, shape: &Shape) -> StateSpec {
        StateSpec { name, shape: shape.clone(), init: 0.0 }
    }

    /// One number.
    pub fn scalar(name: &'static str, init: f64) -> StateSpec {
        StateSpec { name, shape: Shape::scalar(), init }
    }

    /// What it holds before the first step.
    pub fn init(self, init: f64) -> StateSpec {
        StateSpec { init, ..self }
    }
}

/// What is the same for all parameters of a group in a step.
#[derive(Debug)]
pub struct StepScalars<'a> {
    /// The root of the program: for constants. State is declared by [`Optimizer::state`] and [`Optimizer::shared`], not here.
    pub scope: &'a Scope,
    /// The learning rate of this step, f32.
    pub lr: Tensor,
    /// The number of this update, counted from 1, f32.
    pub t: Tensor,
    /// The decay of the group, where it has one of its own, else the optimizer's.
    pub weight_decay: f64,
    /// The momentum of this step (β1 of the Adam family) where the schedule cycles it.
    pub momentum: Option<Tensor>,
    /// What [`Optimizer::advance`] made of [`Optimizer::shared`] in this step.
    pub shared: Vec<Tensor>,
}

/// A parameter with what an update needs.
#[derive(Debug)]
pub struct Update {
    /// The parameter before the update, in the shape that the model declares.
    pub p: Tensor,
    /// Its gradient, of the same shape, after accumulation and clipping.
    pub g: Tensor,
    /// In the order of [`Optimizer::state`].
    pub state: Vec<Tensor>,
}

/// A rule that turns gradients into new parameters.
///
/// It is traced once and compiled into the step. [`Optimizer::lr`], [`Optimizer::state`] and [`Optimizer::update`] are all that a simple rule
/// says; the other methods have defaults.
pub trait Optimizer {
    /// Its name, which checkpoints keep: the same state means something else to another rule. The default is that of the type.
    fn name(&self) -> &'static str {
        let path = std::any::type_name::<Self>().split('<').next().unwrap_or_default();
        path.rsplit("::").next().unwrap_or(path)
    }

    /// The learning rate that the step starts with.
    fn lr(&self) -> f64;

    /// What is remembered for a parameter of this shape.
    fn state(&self, shape: &Shape) -> Vec<StateSpec>;

    /// The new parameter and the new state, in the order of [`Optimizer::state`].
    fn update(&self, p: &Tensor, g: &Tensor, state: &[Tensor], step: &StepScalars) -> (Tensor, Vec<Tensor>);

    /// All parameters of a group at once: for rules that work on several together. The default calls [`Optimizer::update`] for each.
    fn update_all(&self, updates: &[Update], step: &StepScalars) -> Vec<(Tensor, Vec<Tensor>)> {
        updates.iter().map(|u| self.update(&u.p, &u.g, &u.state, step)).collect()
    }

    /// Its own weight decay; `None`: it has none, and a group that sets one is an error.
    fn weight_decay(&self) -> Option<f64> {
        None
    }

    /// Whether it uses [`StepScalars::momentum`]; if not, a schedule that cycles the momentum is an error.
    fn takes_momentum(&self) -> bool {
        false
    }

    /// What is remembered once for all parameters of a group.
    fn shared(&self) -> Vec<StateSpec> {
        Vec::new()
    }

    /// The next values of [`Optimizer::shared`], computed before the updates. `step.shared` is empty here.
    fn advance(&self, shared: &[Tensor], _step: &StepScalars) -> Vec<Tensor> {
        shared.to_vec()
    }

    /// The state that holds the weights to evaluate, predict and save with, where those are not the ones that are trained. It is not read
    /// before the first update.
    fn averaged(&self) -> Option<&'static str> {
        None
    }

    /// For rules that evaluate the loss at several points in one step: those, instead of [`Optimizer::update`].
    fn search(&self) -> Option<&dyn Search> {
        None
    }

    /// Errors (`ErrorKind::Config`): an option outside of its range, by name.
    fn check(&self) -> Result<()> {
        Ok(())
    }
}

/// The loss at a point and its gradients, decay included.
#[derive(Debug)]
pub struct Evaluation {
    /// A scalar.
    pub loss: Tensor,
    /// One for each point, in their order and shapes.
    pub grads: Vec<Tensor>,
}

/// What a search found.
#[derive(Debug)]
pub struct Found {
    /// The new parameter and the new state of each, as of [`Optimizer::update_all`].
    pub updates: Vec<(Tensor, Vec<Tensor>)>,
    /// The next values of [`Optimizer::shared`].
    pub shared: Vec<Tensor>,
    /// What can be read after a step, by name.
    pub outputs: Vec<(&'static str, Tensor)>,
    /// The loss with decay where the search began, of a rule that has it without being told.
    pub loss: Option<Tensor>,
}

/// A rule that evaluates the loss where it wants, as often as it wants, with [`while_loop`](crate::while_loop) until it has found what it
/// looks for: a line search. The state of such a rule has its parameters' type, which is one for all.
pub trait Search {
    /// The name of the number among [`Optimizer::shared`] that is 1 where the rule remembers the loss and gradient at the parameters, and is set to 0
    /// when parameters are written; for rules that are given the same batch in each step.
    fn known(&self) -> Option<&'static str> {
        None
    }

    /// The end of a search that begins at the parameters `at`, where the loss with decay is `loss`. `step.shared` is what it was before the
    /// step. Each call of `evaluate` traces the model anew; random bits are the same in all.
    fn search(
        &self,
        at: &[Update],
        loss: &Tensor,
        evaluate: &dyn Fn(&[Tensor]) -> Evaluation,
        step: &StepScalars,
    ) -> Found;
}

// The variants of `OptimizerSpec`; a type's name in files is its own in small letters unless it says otherwise.
macro_rules! optimizers {
    ($($(#[$attribute:meta])* $rule:ident),+ $(,)?) => {
        /// Which optimizer, with its options. In files `type` names the variant.
        #[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
        #[serde(tag = "type", rename_all = "lowercase")]
        pub enum OptimizerSpec {
            $($(#[$attribute])* $rule($rule)),+
        }

        impl OptimizerSpec {
            /// The rule that it describes.
            pub fn rule(&self) -> &dyn Optimizer {
                match self { $(OptimizerSpec::$rule(rule) => rule),+ }
            }
        }

        $(impl From<$rule> for OptimizerSpec {
            fn from(rule: $rule) -> OptimizerSpec {
                OptimizerSpec::$rule(rule)
            }
        })+
    };
}
optimizers!(
    /// [`Sgd`]; in files `"sgd"`.
    Sgd,
    /// [`Adam`]; in files `"adam"`.
    Adam,
    /// [`AdamW`]; in files `"adamw"`.
    AdamW,
    /// [`RmsProp`]; in files `"rmsprop"`.
    RmsProp,
    /// [`Adagrad`]; in files `"adagrad"`.
    Adagrad,
    /// [`Adadelta`]; in files `"adadelta"`.
    Adadelta,
    /// [`NAdam`]; in files `"nadam"`.
    NAdam,
    /// [`RAdam`]; in files `"radam"`.
    RAdam,
    /// [`Adamax`]; in files `"adamax"`.
    Adamax,
    /// [`Lion`]; in files `"lion"`.
    Lion,
    /// [`Muon`]; in files `"muon"`.
    Muon,
    /// [`Lamb`]; in files `"lamb"`.
    Lamb,
    /// [`Adafactor`]; in files `"adafactor"`.
    Adafactor,
    /// [`ScheduleFreeAdamW`]; in files `"schedule_free_adamw"`.
    #[serde(rename = "schedule_free_adamw")]
    ScheduleFreeAdamW,
    /// [`Lbfgs`]; in files `"lbfgs"`.
    Lbfgs,
);

impl OptimizerSpec {
    /// Plain descent.
    pub fn sgd(lr: f64) -> OptimizerSpec {
        Sgd::new(lr).into()
    }

    /// Adam with its usual options.
    pub fn adam(lr: f64) -> OptimizerSpec {
        Adam::new(lr).into()
    }

    /// AdamW with its usual options.
    pub fn adamw(lr: f64) -> OptimizerSpec {
        AdamW::new(lr).into()
    }
}

impl Optimizer for OptimizerSpec {
    fn name(&self) -> &'static str {
        self.rule().name()
    }

    fn lr(&self) -> f64 {
        self.rule().lr()
    }

    fn state(&self, shape: &Shape) -> Vec<StateSpec> {
        self.rule().state(shape)
    }

    fn update(&self, p: &Tensor, g: &Tensor, state: &[Tensor], step: &StepScalars) -> (Tensor, Vec<Tensor>) {
        self.rule().update(p, g, state, step)
    }

    fn update_all(&self, updates: &[Update], step: &StepScalars) -> Vec<(Tensor, Vec<Tensor>)> {
        self.rule().update_all(updates, step)
    }

    fn weight_decay(&self) -> Option<f64> {
        self.rule().weight_decay()
    }

    fn takes_momentum(&self) -> bool {
        self.rule().takes_momentum()
    }

    fn shared(&self) -> Vec<StateSpec> {
        self.rule().shared()
    }

    fn advance(&self, shared: &[Tensor], step: &StepScalars) -> Vec<Tensor> {
        self.rule().advance(shared, step)
    }

    fn averaged(&self) -> Option<&'static str> {
        self.rule().averaged()
    }

    fn search(&self) -> Option<&dyn Search> {
        self.rule().search()
    }

    fn check(&self) -> Result<()> {
        self.rule().check()
    }
}

/// `g + decay·p`: coupled decay (L2).
fn coupled(p: &Tensor, g: &Tensor, decay: f64) -> Tensor {
    if decay == 0.0 { g.clone() } else { g + &(p * decay) }
}

/// `p·(1 - lr·decay)`: decoupled decay.
fn decoupled(p: &Tensor, decay: f64, lr: &Tensor) -> Tensor {
    if decay == 0.0 { p.clone() } else { p * &(1.0 - &(lr * decay)) }
}

/// `1 - base^t` without cancellation for bases next to 1.
fn bias_correction(base: f64, t: &Tensor) -> Tensor {
    -((t * base.ln()).expm1())
}

/// Errors: not a finite number > 0.
fn check_positive(key: &str, x: f64) -> Result<()> {
    need(x > 0.0 && x.is_finite(), key, "a finite number > 0", &x)
}

/// Errors: not a finite number >= 0.
fn check_not_negative(key: &str, x: f64) -> Result<()> {
    need(x >= 0.0 && x.is_finite(), key, "a finite number >= 0", &x)
}

/// Errors: not from 0 to below 1.
fn check_share(key: &str, x: f64) -> Result<()> {
    need((0.0..1.0).contains(&x), key, "numbers from 0 to below 1", &x)
}

/// Errors: a rate, eps, decay or β outside of its range, by name.
fn check_adaptive(lr: f64, (beta1, beta2): (f64, f64), eps: f64, decay: f64) -> Result<()> {
    check_not_negative("lr", lr)?;
    check_share("betas", beta1)?;
    check_share("betas", beta2)?;
    check_not_negative("eps", eps)?;
    check_not_negative("weight_decay", decay)
}

/// Values that several optimizers have when files leave them out.
mod usual {
    pub fn betas() -> (f64, f64) {
        (0.9, 0.999)
    }

    pub fn eps() -> f64 {
        1e-8
    }
}
