//! Losses over classes: cross-entropy on indices or probabilities, and negative log-likelihood. Takes scores with a class axis, gives a
//! loss per row, joined as asked. Never gathers: the label's score is picked by comparison, which fuses with the softmax into one loop over
//! the row, forward and backward.

use super::Reduction;
use crate::ir::op::{Elementwise, Index, Leaf, Op, Reduce, Unary};
use crate::ir::{DType, Dim, Shape, Tensor};
use crate::ops::{Traced, refuse, settle};

/// Options of [`Tensor::cross_entropy_with`].
#[derive(Clone, Debug)]
pub struct CrossEntropy {
    /// The class axis of the logits: 1 as in PyTorch's `[N, C, d..]`; -1 for rows `[.., C]`.
    pub axis: i64,
    /// One factor per class, `[C]`.
    pub weight: Option<Tensor>,
    /// Rows with this label count neither in the loss nor in the mean. `None`: the label that [`Scope::labels`](crate::ir::Scope::labels) was
    /// told to ignore, if the target comes from there.
    pub ignore_index: Option<i64>,
    /// How much of the probability is spread evenly over all classes, in [0, 1].
    pub label_smoothing: f64,
    /// Of the losses of all rows; the mean divides by the sum of the weights of those that count, and by their number for probabilities.
    pub reduction: Reduction,
}

impl Default for CrossEntropy {
    fn default() -> CrossEntropy {
        CrossEntropy { axis: 1, weight: None, ignore_index: None, label_smoothing: 0.0, reduction: Reduction::Mean }
    }
}

impl Tensor {
    /// `-ln softmax(x)[label]`, mean over rows: logits `[N, C, d..]`, labels (whole numbers) `[N, d..]` or probabilities of the logits'
    /// shape -> scalar. Matches PyTorch `cross_entropy`, except that -100 is ignored only if the labels are declared so, or [`CrossEntropy`] says so.
    ///
    /// Declare labels with [`Scope::labels`](crate::ir::Scope::labels), which checks each batch: those of a plain input are not checked, and a row
    /// whose label is no class has a meaningless loss.
    #[track_caller]
    pub fn cross_entropy(&self, target: &Tensor) -> Tensor {
        self.cross_entropy_with(target, &CrossEntropy::default())
    }

    /// [`Tensor::cross_entropy`] with class axis, class weights, ignored label, label smoothing and reduction. Matches PyTorch
    /// `cross_entropy`.
    #[track_caller]
    pub fn cross_entropy_with(&self, target: &Tensor, options: &CrossEntropy) -> Tensor {
        settle(cross_entropy(self, target, options))
    }
}

/// Options of [`Tensor::nll_loss_with`].
#[derive(Clone, Debug)]
pub struct Nll {
    /// The class axis: 1 as in PyTorch's `[N, C, d..]`; -1 for rows `[.., C]`.
    pub axis: i64,
    /// One factor per class, `[C]`.
    pub weight: Option<Tensor>,
    /// Rows with this label count neither in the loss nor in the mean. `None`: the label that [`Scope::labels`](crate::ir::Scope::labels) was
    /// told to ignore, if the target comes from there.
    pub ignore_index: Option<i64>,
    /// Of the losses of all rows; the mean divides by the sum of the weights of those that count.
    pub reduction: Reduction,
}

impl Default for Nll {
    fn default() -> Nll {
        Nll { axis: 1, weight: None, ignore_index: None, reduction: Reduction::Mean }
    }
}

impl Tensor {
    /// `-x[label]`, mean over rows: log-probabilities `[N, C, d..]`, labels (whole numbers) `[N, d..]` -> scalar. Matches PyTorch `nll_loss`,
    /// except that -100 is ignored only if the labels are declared so, or [`Nll`] says so.
    ///
    /// Declare labels with [`Scope::labels`](crate::ir::Scope::labels), which checks each batch: those of a plain input are not checked, and a row
    /// whose label is no class has a meaningless loss.
    #[track_caller]
    pub fn nll_loss(&self, labels: &Tensor) -> Tensor {
        self.nll_loss_with(labels, &Nll::default())
    }

    /// [`Tensor::nll_loss`] with class axis, class weights, ignored label and reduction. Matches PyTorch `nll_loss`.
    #[track_caller]
    pub fn nll_loss_with(&self, labels: &Tensor, options: &Nll) -> Tensor {
        settle(nll(self, labels, options))
    }
}

#[track_caller]
fn nll(x: &Tensor, target: &Tensor, options: &Nll) -> Traced {
    const WHAT: &str = "nll_loss";
    x.float_or(WHAT)?;
    let axis = x.axis_of(WHAT, if x.rank() == 1 { 0 } else { options.axis })?;
    check_weight(WHAT, x, axis, options.weight.as_ref())?;
    check_labels(WHAT, x, target, axis)?;
    let ignore = ignored(WHAT, x, target, options.ignore_index)?;
    let rows = class_last(x, axis);
    let labels = Labels::new(&rows, target, options.weight.as_ref(), ignore);
    let losses = labels.keep(&labels.weigh(&-labels.pick(&rows)));
    Ok(labels.join(&losses, options.reduction))
}

#[track_caller]
fn cross_entropy(x: &Tensor, target: &Tensor, options: &CrossEntropy) -> Traced {
    const WHAT: &str = "cross_entropy";
    x.float_or(WHAT)?;
    // A vector of logits is one row, as in PyTorch.
    let axis = x.axis_of(WHAT, if x.rank() == 1 { 0 } else { options.axis })?;
    if !(0.0..=1.0).contains(&options.label_smoothing) {
        let message = format!("need label smoothing in [0, 1], got {}", options.label_smoothing);
        return Err(refuse(WHAT, &[x], message, None));
    }
    check_weight(WHAT, x, axis, options.weight.as_ref())?;
    if target.dtype().is_float() && target.rank() == x.rank() {
        return on_probabilities(x, target, axis, options);
    }
    check_labels(WHAT, x, target, axis)?;
    let ignore = ignored(WHAT, x, target, options.ignore_index)?;
    let rows = class_last(x, axis);
    let (shifted, lse) = shifted_and_lse(&rows);
    let labels = Labels::new(&shifted, target, options.weight.as_ref(), ignore);
    let mut losses = &lse - labels.pick(&shifted);
    let smoothing = options.label_smoothing;
    if smoothing > 0.0 {
        let evenly = spread(&shifted, &lse, options.weight.as_ref());
        let n_classes = x.extent_beside(x.shape().0[axis]);
        let weighted = labels.weigh(&losses) * (1.0 - smoothing) + evenly * smoothing / n_classes;
        return Ok(labels.join(&labels.keep(&weighted), options.reduction));
    }
    losses = labels.keep(&labels.weigh(&losses));
    Ok(labels.join(&losses, options.reduction))
}

#[track_caller]
fn on_probabilities(x: &Tensor, target: &Tensor, axis: usize, options: &CrossEntropy) -> Traced {
    const WHAT: &str = "cross_entropy";
    super::same_type(WHAT, x, target)?;
    if let Some(label) = options.ignore_index {
        let message = format!("label {label} cannot be ignored: the target holds probabilities, not labels");
        return Err(refuse(WHAT, &[x, target], message, Some("leave ignore_index out".to_string())));
    }
    let (rows, mut p) = (class_last(x, axis), class_last(target, axis));
    let (shifted, lse) = shifted_and_lse(&rows);
    let smoothing = options.label_smoothing;
    if smoothing > 0.0 {
        p = p * (1.0 - smoothing) + x.constant_beside(WHAT, smoothing) / x.extent_beside(x.shape().0[axis]);
    }
    if let Some(weight) = &options.weight {
        p = p * weight;
    }
    let losses = sum_last(&(p * (lse.unsqueeze(-1) - shifted)));
    Ok(options.reduction.join(&losses))
}

/// `Σ_c w_c·(-ln softmax_c)` of each row: what label smoothing spreads.
#[track_caller]
fn spread(shifted: &Tensor, lse: &Tensor, weight: Option<&Tensor>) -> Tensor {
    match weight {
        Some(w) => lse * w.sum(..) - sum_last(&(shifted * w)),
        None => lse * shifted.extent_beside(shifted.dim(-1)) - sum_last(shifted),
    }
}

/// The labels of rows `[.., C]` with what they weigh.
pub(super) struct Labels {
    /// Bool `[.., C]`: whether the class is the row's label.
    hit: Tensor,
    /// Bool `[..]`: whether the row counts.
    counts: Option<Tensor>,
    /// `[..]`: the class weight of the row's label.
    weight: Option<Tensor>,
}

impl Labels {
    #[track_caller]
    #[expect(clippy::manual_map, reason = "a closure would not pass the caller's line on")]
    pub(super) fn new(rows: &Tensor, target: &Tensor, weight: Option<&Tensor>, ignore: Option<i64>) -> Labels {
        let classes = rows.positions(-1, target.dtype());
        let hit = classes.equal(target.unsqueeze(-1));
        // An unsigned label is never negative, so there is nothing to compare with.
        let ignore = ignore.filter(|&label| label >= 0 || target.dtype() != DType::U32);
        let counts = match ignore {
            Some(label) => Some(target.not_equal(label as f64)),
            None => None,
        };
        // An ignored label is clamped into the weights; its row is masked afterwards.
        let weight = match weight {
            Some(w) => Some(w.detach().apply(Index::Take { axis: 0 }, &[target])),
            None => None,
        };
        Labels { hit, counts, weight }
    }

    /// The element of each row at its label.
    #[track_caller]
    pub(super) fn pick(&self, rows: &Tensor) -> Tensor {
        sum_last(&self.hit.select(rows, 0.0))
    }

    /// Bool: whether the class is the row's label.
    pub(super) fn hit(&self) -> &Tensor {
        &self.hit
    }

    /// Times the class weight of each row's label.
    #[track_caller]
    pub(super) fn weigh(&self, losses: &Tensor) -> Tensor {
        match &self.weight {
            Some(w) => losses * w,
            None => losses.clone(),
        }
    }

    /// 0 for rows that do not count.
    #[track_caller]
    pub(super) fn keep(&self, losses: &Tensor) -> Tensor {
        match &self.counts {
            Some(counts) => counts.select(losses, 0.0),
            None => losses.clone(),
        }
    }

    /// Joined; the mean divides by the weights of the rows that count.
    #[track_caller]
    pub(super) fn join(&self, losses: &Tensor, reduction: Reduction) -> Tensor {
        match (&self.weight, &self.counts) {
            (None, None) => reduction.join(losses),
            (None, Some(counts)) => reduction.join_weighted(losses, &counts.cast(losses.dtype())),
            (Some(w), _) => reduction.join_weighted(losses, &self.keep(w)),
        }
    }
}

/// Rows less their peak, and the logarithm of the sum of their exponentials `[..]`.
#[track_caller]
fn shifted_and_lse(rows: &Tensor) -> (Tensor, Tensor) {
    let last = rows.rank().saturating_sub(1);
    let peak = rows.apply(Reduce::Max { axes: vec![last] }, &[]).detach();
    let shifted = rows - peak;
    let lse = sum_last(&shifted.exp()).log();
    (shifted, lse)
}

#[track_caller]
pub(super) fn sum_last(x: &Tensor) -> Tensor {
    x.sum(-1)
}

/// The class axis moved to the end: reductions then run over contiguous rows.
#[track_caller]
pub(super) fn class_last(x: &Tensor, axis: usize) -> Tensor {
    let mut perm: Vec<usize> = (0..x.rank()).filter(|&i| i != axis).collect();
    perm.push(axis);
    x.permuted(perm)
}

/// Labels have the shape of the scores without their class axis.
#[track_caller]
pub(super) fn check_labels(what: &str, x: &Tensor, target: &Tensor, axis: usize) -> Result<(), Tensor> {
    let without = |axis: usize| {
        let mut shape: Shape = x.shape();
        shape.0.remove(axis);
        shape
    };
    if !matches!(target.dtype(), DType::I32 | DType::U32 | DType::I64) {
        let help = "labels are i32, u32 or i64; probabilities are floats of the logits' shape".to_string();
        let message = format!("need labels of whole numbers, got {}", target.dtype());
        return Err(refuse(what, &[x, target], message, Some(help)));
    }
    let (need, last) = (without(axis), x.rank() - 1);
    if target.shape() == need {
        return Ok(());
    }
    let message = format!("need labels {need} for scores {} with class axis {axis}, got {}", x.shape(), target.shape());
    let help = if target.shape() == without(last) {
        Some("for scores [.., C] set `axis: -1` in the options".to_string())
    } else if target.shape() == x.shape() {
        Some("one-hot targets are probabilities: .cast(DType::F32)".to_string())
    } else if target.shape().0.iter().eq(need.0.iter().chain([&Dim::ONE])) {
        Some("drop the last axis of the labels: .squeeze(-1)".to_string())
    } else {
        None
    };
    Err(refuse(what, &[x, target], message, help))
}

/// The label whose rows do not count: the one that is asked for, which must be the one that the labels were declared with, if any.
#[track_caller]
fn ignored(what: &str, x: &Tensor, target: &Tensor, asked: Option<i64>) -> Result<Option<i64>, Tensor> {
    let declared = declared_ignored(target);
    match (&declared, asked) {
        (Some((name, label)), Some(asked)) if *label != asked => {
            let message = format!("the labels {name} may be {label}, which is no class, and {asked} is to be ignored");
            let help = format!("leave ignore_index out, or declare the labels with Some({asked})");
            Err(refuse(what, &[x, target], message, Some(help)))
        }
        (_, asked) => Ok(asked.or(declared.map(|(_, label)| label))),
    }
}

/// Refuses labels that may be no class, for a loss in which every row counts.
#[track_caller]
pub(super) fn none_ignored(what: &str, x: &Tensor, target: &Tensor) -> Result<(), Tensor> {
    let Some((name, label)) = declared_ignored(target) else { return Ok(()) };
    let message = format!("the labels {name} may be {label}, which is no class, and this loss ignores none");
    let help = "cross_entropy and nll_loss leave out rows; otherwise declare the labels with None".to_string();
    Err(refuse(what, &[x, target], message, Some(help)))
}

/// The name of the input that labels come from, at other places or as another type, and the label that it was told to ignore.
fn declared_ignored(target: &Tensor) -> Option<(String, i64)> {
    let graph = target.graph().borrow();
    let mut next = vec![target.id()];
    while let Some(id) = next.pop() {
        let node = graph.node(id);
        match &node.op {
            Op::Leaf(Leaf::Input { id, .. }) => {
                let input = &graph.inputs[id.0 as usize];
                if let Some(label) = input.range.and_then(|range| range.ignore) {
                    return Some((input.name.clone(), label));
                }
            }
            Op::Movement(_) => next.extend(&node.inputs),
            Op::Elementwise(Elementwise::Cast(_) | Elementwise::Unary(Unary::Detach))
            | Op::Index(Index::Take { .. } | Index::TakeAlong { .. }) => next.push(node.inputs[0]),
            Op::Leaf(_)
            | Op::Elementwise(_)
            | Op::Contract(_)
            | Op::Reduce(_)
            | Op::Window(_)
            | Op::Index(_)
            | Op::Random(_)
            | Op::Control(_) => {}
        }
    }
    None
}

#[track_caller]
pub(super) fn check_weight(what: &str, x: &Tensor, axis: usize, weight: Option<&Tensor>) -> Result<(), Tensor> {
    let Some(weight) = weight else { return Ok(()) };
    let need = Shape(vec![x.shape().0[axis]]);
    if weight.shape() == need && weight.dtype() == x.dtype() {
        return Ok(());
    }
    let message = format!("need class weights {need} {}, got {} {}", x.dtype(), weight.shape(), weight.dtype());
    Err(refuse(what, &[x, weight], message, None))
}
