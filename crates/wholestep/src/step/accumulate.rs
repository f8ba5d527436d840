//! One update from several micro-batches. Takes the gradient of each call, gives the mean over all rows since the last update and which calls
//! end with an update. Never waits for the host: what a call that only collects must not change is kept by `select`.

use wholestep_compiler::ir::{Batch, DType, Init, Scope, Shape, SlotKind, Tensor};

/// Where the sums lie: "accumulated/fc1/weight".
const HOME: &str = "accumulated";

/// How many calls make an update.
#[derive(Clone, Copy, Debug)]
pub struct Pace {
    /// Calls for each update.
    pub every: u32,
    /// Calls of an epoch, which ends with an update, however few were collected since the last.
    pub epoch: Option<u32>,
}

impl Pace {
    /// Updates that so many calls made: [`Accumulation::done`] for the host, those included that were skipped because a gradient was not finite.
    pub fn updates(self, calls: u32) -> u32 {
        match self.epoch {
            None => calls / self.every,
            Some(n) => calls / n * n.div_ceil(self.every) + calls % n / self.every,
        }
    }
}

/// When the optimizer runs.
pub struct Accumulation {
    /// Calls for each update.
    pub every: u32,
    /// Updates before this one, u32.
    pub done: Tensor,
    /// Whether this call ends with an update (bool); `None`: every call does.
    fires: Option<Tensor>,
    /// Whether this call changes parameters (bool); `None`: every call does.
    updates: Option<Tensor>,
    /// Whether this call is the last of `every` (bool), and not one with which an epoch ends early; `None`: every call is.
    fills: Option<Tensor>,
}

impl Accumulation {
    /// `calls` counts the calls before this one, u32.
    pub fn new(Pace { every, epoch }: Pace, calls: &Tensor) -> Accumulation {
        if every == 1 {
            return Accumulation { every, done: calls.clone(), fires: None, updates: None, fills: None };
        }
        let k = f64::from(every);
        let fills = |calls: &Tensor| calls.remainder(k).equal(k - 1.0);
        let (fires, fills, done) = match epoch {
            None => (fills(calls), fills(calls), calls / k),
            Some(n) => {
                let (within, epochs) = (calls.remainder(f64::from(n)), calls / f64::from(n));
                let ends = within.equal(f64::from(n) - 1.0);
                (fills(&within) | ends, fills(&within), epochs * f64::from(n.div_ceil(every)) + within / k)
            }
        };
        Accumulation { every, done, updates: Some(fires.clone()), fires: Some(fires), fills: Some(fills) }
    }

    /// `new` in calls that update, `old` in the others.
    pub fn kept(&self, new: &Tensor, old: &Tensor) -> Tensor {
        self.updates.as_ref().map_or_else(|| new.clone(), |updates| updates.select(new, old))
    }

    /// `new` in calls that update from as many as [`Accumulation::every`] says, `old` in the others.
    pub fn kept_where_full(&self, new: &Tensor, old: &Tensor) -> Tensor {
        let new = self.kept(new, old);
        self.fills.as_ref().map_or_else(|| new.clone(), |fills| fills.select(&new, old))
    }

    /// From here on calls update only where `finite` (bool), and updates that were `skipped` before (u32) do not count.
    pub fn only_if(&mut self, finite: &Tensor, skipped: &Tensor) {
        self.updates = Some(self.fires.as_ref().map_or_else(|| finite.clone(), |fires| fires & finite));
        self.done = &self.done - skipped;
    }

    /// `sum` until an update has used it, then 0.
    pub fn emptied(&self, sum: &Tensor) -> Tensor {
        self.fires.as_ref().map_or_else(|| sum.full_like(0.0), |fires| fires.select(0.0, sum))
    }

    /// The gradient over all rows since the last update: the mean of the calls' gradients weighted by their rows.
    pub fn mean(&self, scope: &Scope, names: &[&str], grads: &[Tensor]) -> Vec<Tensor> {
        if self.fires.is_none() {
            return grads.to_vec();
        }
        let home = scope.sub(HOME);
        let rows = scope.extent(Batch, DType::F32);
        let collect = |name: &str, value: &Tensor| {
            let slot = home.slot(name, SlotKind::State, DType::F32, value.shape(), Init::Const(0.0));
            let sum = &slot + value;
            home.update(&slot, &self.emptied(&sum));
            sum
        };
        let all_rows = {
            let slot = scope.slot("accumulated_rows", SlotKind::State, DType::F32, Shape::scalar(), Init::Const(0.0));
            let sum = &slot + &rows;
            scope.update(&slot, &self.emptied(&sum));
            sum
        };
        names.iter().zip(grads).map(|(name, g)| &collect(name, &(g * &rows)) / &all_rows).collect()
    }
}
