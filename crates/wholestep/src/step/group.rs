//! Parameters with settings of their own. Takes patterns and the names of all parameters, gives which group each belongs to. Never lets a
//! pattern that does nothing pass without a word.

use crate::error::need;
use crate::optim::Optimizer;
use crate::{Error, ErrorKind, Result};
use serde::{Deserialize, Serialize};
use wholestep_compiler::ir::names::known;
use wildmatch::WildMatch;

/// Settings of the parameters whose names match a pattern. A parameter belongs to the first group that matches it.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ParamGroup {
    /// "backbone/*", "*/bias": `*` stands for any letters, `/` too, and `?` for one.
    pub params: String,
    /// A base rate of its own, which the schedule changes as it does the other; [`crate::Step::set_group_lr`] sets it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lr: Option<f64>,
    /// The rate as a multiple of the step's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lr_scale: Option<f64>,
    /// Instead of the optimizer's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub weight_decay: Option<f64>,
    /// Not trained: no gradient, no state, no update. Batch normalization still uses and follows the batch's statistics and dropout still drops, as
    /// in PyTorch; a part that is made with [`Scope::eval`](crate::Scope::eval) does neither.
    #[serde(default)]
    pub frozen: bool,
}

impl ParamGroup {
    /// A group that changes nothing yet.
    pub fn new(params: impl Into<String>) -> ParamGroup {
        ParamGroup { params: params.into(), ..ParamGroup::default() }
    }

    /// A base rate of its own; `Step::set_group_lr` changes it later.
    pub fn lr(self, lr: f64) -> ParamGroup {
        ParamGroup { lr: Some(lr), ..self }
    }

    /// A factor on the base rate.
    pub fn lr_scale(self, scale: f64) -> ParamGroup {
        ParamGroup { lr_scale: Some(scale), ..self }
    }

    /// A decay of its own instead of the optimizer's.
    pub fn weight_decay(self, weight_decay: f64) -> ParamGroup {
        ParamGroup { weight_decay: Some(weight_decay), ..self }
    }

    /// Without gradient, state and update; for statistics and dropout see [`frozen`](ParamGroup#structfield.frozen).
    pub fn frozen(self) -> ParamGroup {
        ParamGroup { frozen: true, ..self }
    }

    /// Errors (`ErrorKind::Config`): a number outside of its range; settings that contradict each other.
    pub fn check(&self) -> Result<()> {
        let within = || {
            let at_least_0 = |key: &str, x: Option<f64>| {
                x.map_or(Ok(()), |x| need(x >= 0.0 && x.is_finite(), key, "a finite number >= 0", &x))
            };
            at_least_0("lr", self.lr)?;
            at_least_0("lr_scale", self.lr_scale)?;
            at_least_0("weight_decay", self.weight_decay)?;
            let set = [self.lr, self.lr_scale, self.weight_decay].iter().flatten().count();
            need(self.lr.is_none() || self.lr_scale.is_none(), "lr", "either lr or lr_scale", &"both")?;
            need(!self.frozen || set == 0, "frozen", "no other setting with it", &self.frozen)
        };
        within().map_err(|e| e.context(format!("the group {}", self.params)))
    }
}

/// For each parameter the index of its group; `None` for the optimizer's own settings.
/// Errors: a group that is not well formed, matches nothing, or sets a decay that the optimizer has not.
pub fn assign(groups: &[ParamGroup], names: &[String], optimizer: &dyn Optimizer) -> Result<Vec<Option<usize>>> {
    for group in groups {
        group.check()?;
        if group.weight_decay.is_some() && optimizer.weight_decay().is_none() {
            let message = format!("the group {}: the optimizer has no weight decay to set", group.params);
            return Err(Error::new(ErrorKind::Config, message));
        }
    }
    let patterns: Vec<WildMatch> = groups.iter().map(|g| WildMatch::new(&g.params)).collect();
    let of: Vec<Option<usize>> = names.iter().map(|name| patterns.iter().position(|p| p.matches(name))).collect();
    for (i, (group, pattern)) in groups.iter().zip(&patterns).enumerate() {
        if of.contains(&Some(i)) {
            continue;
        }
        let why = match names.iter().any(|name| pattern.matches(name)) {
            true => "what it matches belongs to earlier groups".to_string(),
            false => format!("it matches no parameter; there are {}", known(&group.params, names)),
        };
        return Err(Error::new(ErrorKind::Config, format!("the group {}: {why}", group.params)));
    }
    Ok(of)
}
