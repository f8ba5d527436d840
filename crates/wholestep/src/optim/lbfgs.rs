//! L-BFGS with a line search, all of it on the device: a step of the program is up to `max_iter` iterations with as many evaluations of the loss
//! as their searches take, and nobody waits for the host in between.

mod history;
mod line;
mod trip;

use super::{Evaluation, Found, Optimizer, Search, StateSpec, StepScalars, Update, check_not_negative, check_positive};
use crate::Result;
use crate::error::need;
use serde::{Deserialize, Serialize};
use wholestep_compiler::ir::{Shape, Tensor};

/// The most pairs of steps that can be kept: both loops over them are laid out in full.
const MOST_PAIRS: usize = 50;

/// Whether loss and gradient at the parameters are known, 1 or 0.
const KNOWN: &str = "is_known";

/// How long a step is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum LineSearch {
    /// As long as both strong Wolfe conditions say (decrease 1e-4, curvature 0.9), by bracketing and cubic interpolation. It tries `lr` first.
    #[default]
    StrongWolfe,
    /// `lr` times the direction.
    Fixed,
}

/// L-BFGS: a step along `-H·g`, where H approximates the inverse Hessian from the last `history_size` steps and changes of the gradient.
///
/// One run of the step is one of PyTorch's `step(closure)`: up to `max_iter` iterations on the batch that it is given, each with as many
/// evaluations of the loss as its line search takes. Random bits (dropout) are the same in all evaluations of a run; outputs and running
/// statistics are those of the first. `weight_decay` adds `½·weight_decay·|p|²` to the loss that is searched.
///
/// Outputs, which cost nothing until they are read: [`Lbfgs::STATUS`], [`Lbfgs::ITERATIONS`], [`Lbfgs::EVALUATIONS`],
/// [`Lbfgs::STEP_LENGTH`], [`Lbfgs::GRADIENT`], [`Lbfgs::WOLFE`].
///
/// Paper: Liu, Nocedal 1989, "On the limited memory BFGS method for large scale optimization". Matches PyTorch `optim.LBFGS`, whose defaults
/// are 100 pairs and a fixed rate, and except where the loss is not finite: the search then ends with the last good point.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Lbfgs {
    /// The first step that is tried, and with [`LineSearch::Fixed`] the only one.
    #[serde(default = "one")]
    pub lr: f64,
    /// The most iterations in a run of the step, each with a direction of its own; 20 by default, as in PyTorch.
    #[serde(default = "max_iter")]
    pub max_iter: u32,
    /// No iteration begins after so many evaluations; 1.25 times `max_iter` where none is given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_eval: Option<u32>,
    /// A run ends where no element of the gradient is larger.
    #[serde(default = "tolerance_grad")]
    pub tolerance_grad: f64,
    /// A run ends where neither loss nor any parameter changes more.
    #[serde(default = "tolerance_change")]
    pub tolerance_change: f64,
    /// Pairs that are kept, 10 unless it is said. PyTorch's 100 take the memory of 200 copies of the parameters, read twice an iteration, for
    /// little: Liu and Nocedal find 3 to 7 enough, and SciPy keeps 10.
    #[serde(default = "history_size")]
    pub history_size: usize,
    /// A strong Wolfe search by default; PyTorch's default is [`LineSearch::Fixed`].
    #[serde(default)]
    pub line_search: LineSearch,
    /// Adds `½·weight_decay·|p|²` to the loss; >= 0, 0 by default. PyTorch's has none.
    #[serde(default)]
    pub weight_decay: f64,
    /// Each run is given the same batch: see [`Lbfgs::same_batch`].
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub same_batch: bool,
}

fn one() -> f64 {
    1.0
}

fn max_iter() -> u32 {
    20
}

fn tolerance_grad() -> f64 {
    1e-7
}

fn tolerance_change() -> f64 {
    1e-9
}

fn history_size() -> usize {
    10
}

/// Why a run of L-BFGS ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Status {
    /// It made `max_iter` iterations.
    Iterations,
    /// It made `max_eval` evaluations.
    Evaluations,
    /// The gradient is as small as `tolerance_grad`.
    Gradient,
    /// Neither the loss nor a parameter changed by more than `tolerance_change`.
    Change,
    /// The direction does not lead down by more than `tolerance_change`: at a minimum, or the limit of the numbers' precision.
    NoDescent,
    /// The loss or its slope was no finite number; the parameters are those of the last good point.
    NotFinite,
}

impl Status {
    const ALL: [Status; 6] = [
        Status::Iterations,
        Status::Evaluations,
        Status::Gradient,
        Status::Change,
        Status::NoDescent,
        Status::NotFinite,
    ];

    /// The status that the output [`Lbfgs::STATUS`] says; `None` for other numbers.
    pub fn of(output: f64) -> Option<Status> {
        Status::ALL.into_iter().find(|status| status.code() == output)
    }

    fn code(self) -> f64 {
        Status::ALL.iter().position(|s| *s == self).map_or(-1.0, |i| i as f64)
    }
}

impl Lbfgs {
    /// The name of the output that says why the last run ended: see [`Status::of`].
    pub const STATUS: &'static str = "lbfgs/status";
    /// Iterations of the last run.
    pub const ITERATIONS: &'static str = "lbfgs/iterations";
    /// Evaluations of the loss and its gradient in the last run.
    pub const EVALUATIONS: &'static str = "lbfgs/evaluations";
    /// The length of the last step, in directions.
    pub const STEP_LENGTH: &'static str = "lbfgs/step_length";
    /// The largest element of the last gradient.
    pub const GRADIENT: &'static str = "lbfgs/gradient";
    /// 1 if all steps of the last run satisfied both Wolfe conditions, 0 if a search was exhausted.
    pub const WOLFE: &'static str = "lbfgs/wolfe";

    /// 20 iterations, 10 pairs, tolerances 1e-7 and 1e-9, a strong Wolfe search.
    pub fn new() -> Lbfgs {
        Lbfgs {
            lr: one(),
            max_iter: max_iter(),
            max_eval: None,
            tolerance_grad: tolerance_grad(),
            tolerance_change: tolerance_change(),
            history_size: history_size(),
            line_search: LineSearch::StrongWolfe,
            weight_decay: 0.0,
            same_batch: false,
        }
    }

    /// The most iterations in a run of the step; 20 by default.
    pub fn max_iter(self, max_iter: u32) -> Lbfgs {
        Lbfgs { max_iter, ..self }
    }

    /// No iteration begins after so many evaluations of the loss in a run; 1.25 times `max_iter` by default, rounded down.
    pub fn max_eval(self, max_eval: u32) -> Lbfgs {
        Lbfgs { max_eval: Some(max_eval), ..self }
    }

    /// A run ends where no element of the gradient is larger; 1e-7 by default.
    pub fn tolerance_grad(self, tolerance_grad: f64) -> Lbfgs {
        Lbfgs { tolerance_grad, ..self }
    }

    /// A run ends where neither the loss nor any parameter changes more; 1e-9 by default.
    pub fn tolerance_change(self, tolerance_change: f64) -> Lbfgs {
        Lbfgs { tolerance_change, ..self }
    }

    /// Pairs of steps and changes of the gradient that are kept, each two copies of the parameters; 10 by default.
    pub fn history_size(self, history_size: usize) -> Lbfgs {
        Lbfgs { history_size, ..self }
    }

    /// Steps of `lr` times the direction, without a search.
    pub fn fixed(self, lr: f64) -> Lbfgs {
        Lbfgs { lr, line_search: LineSearch::Fixed, ..self }
    }

    /// Adds `½·weight_decay·|p|²` to the loss.
    pub fn weight_decay(self, weight_decay: f64) -> Lbfgs {
        Lbfgs { weight_decay, ..self }
    }

    /// Promises that each run is given the same batch. Loss and gradient where a run begins are then those with which the last one ended, so
    /// that it takes an evaluation less. The promise is kept: another batch is refused. After weights are written the first evaluation is made
    /// again. It takes the memory of another copy of the parameters.
    pub fn same_batch(self) -> Lbfgs {
        Lbfgs { same_batch: true, ..self }
    }

    fn most_evaluations(&self) -> u32 {
        self.max_eval.unwrap_or(self.max_iter * 5 / 4)
    }
}

impl Default for Lbfgs {
    fn default() -> Lbfgs {
        Lbfgs::new()
    }
}

impl Optimizer for Lbfgs {
    fn lr(&self) -> f64 {
        self.lr
    }

    fn state(&self, shape: &Shape) -> Vec<StateSpec> {
        let mut list = shape.clone();
        list.0.insert(0, self.history_size.into());
        let mut state = vec![
            StateSpec::zeros("direction", shape),
            StateSpec::zeros("prev_grad", shape),
            StateSpec::zeros("steps", &list),
            StateSpec::zeros("changes", &list),
        ];
        state.extend(self.same_batch.then(|| StateSpec::zeros("grad", shape)));
        state
    }

    fn shared(&self) -> Vec<StateSpec> {
        let products = Shape::from([self.history_size, self.history_size]);
        let mut shared = vec![
            StateSpec::scalar("n_iter", 0.0),
            StateSpec::scalar("step_length", 0.0),
            StateSpec::scalar("gamma", 1.0),
            StateSpec::scalar("n_pairs", 0.0),
            StateSpec::scalar("next_pair", 0.0),
            StateSpec::zeros("steps_by_changes", &products),
            StateSpec::zeros("changes_by_changes", &products),
        ];
        if self.same_batch {
            shared.extend([StateSpec::scalar("loss", 0.0), StateSpec::scalar(KNOWN, 0.0)]);
        }
        shared
    }

    fn update(&self, _: &Tensor, _: &Tensor, _: &[Tensor], _: &StepScalars) -> (Tensor, Vec<Tensor>) {
        panic!("bug: L-BFGS searches, and one gradient is not enough for it")
    }

    fn weight_decay(&self) -> Option<f64> {
        Some(self.weight_decay)
    }

    fn search(&self) -> Option<&dyn Search> {
        Some(self)
    }

    fn check(&self) -> Result<()> {
        check_positive("lr", self.lr)?;
        need(self.max_iter > 0, "max_iter", "at least 1 iteration", &self.max_iter)?;
        need(self.most_evaluations() > 0, "max_eval", "at least 1 evaluation", &self.most_evaluations())?;
        check_not_negative("tolerance_grad", self.tolerance_grad)?;
        check_not_negative("tolerance_change", self.tolerance_change)?;
        let pairs = format!("from 1 to {MOST_PAIRS} pairs");
        need((1..=MOST_PAIRS).contains(&self.history_size), "history_size", &pairs, &self.history_size)?;
        let is_of_use = !self.same_batch || self.line_search == LineSearch::StrongWolfe;
        need(
            is_of_use,
            "same_batch",
            "line_search = \"strong_wolfe\": the end of a fixed step is not evaluated",
            &"fixed",
        )?;
        check_not_negative("weight_decay", self.weight_decay)
    }
}

impl Search for Lbfgs {
    fn known(&self) -> Option<&'static str> {
        self.same_batch.then_some(KNOWN)
    }

    fn search(
        &self,
        at: &[Update],
        loss: &Tensor,
        evaluate: &dyn Fn(&[Tensor]) -> Evaluation,
        step: &StepScalars,
    ) -> Found {
        trip::search(self, at, loss, evaluate, step)
    }
}
