//! The learning-rate range test. Takes a step and batches, gives the loss at rising rates and a rate to begin with. Never leaves a trace in the
//! step: every slot holds the same bits after as before.

use super::Step;
use crate::error::need;
use crate::{Error, ErrorKind, Result};
use serde::Serialize;

/// How much of the smoothed loss stays at each point.
const SMOOTHING: f64 = 0.9;
/// The share of points at the start that suggest nothing: their smoothed loss rests on too few.
const WARM: f64 = 0.1;

/// A fall of the smoothed loss by less than this share of it suggests nothing: rounding falls, too.
const LEAST_FALL: f64 = 1e-3;

/// Which rates are tried.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct LrSearch {
    /// The first rate.
    pub from: f64,
    /// The last rate, unless the loss explodes before.
    pub to: f64,
    /// How many rates, each a constant factor above the one before.
    pub points: u32,
    /// Ends where the smoothed loss is this many times its lowest.
    pub stop_at: f64,
}

impl Default for LrSearch {
    /// 100 rates from 1e-7 to 10, until the loss is four times its lowest.
    fn default() -> LrSearch {
        LrSearch { from: 1e-7, to: 10.0, points: 100, stop_at: 4.0 }
    }
}

impl LrSearch {
    /// Errors (`ErrorKind::Config`): a number outside of its range, by name.
    pub fn check(&self) -> Result<()> {
        need(self.from > 0.0 && self.from.is_finite(), "from", "a finite number > 0", &self.from)?;
        need(self.to > self.from && self.to.is_finite(), "to", "a finite number above the first rate", &self.to)?;
        need(self.points >= 10, "points", "at least 10", &self.points)?;
        need(self.stop_at > 1.0, "stop_at", "a number above 1", &self.stop_at)
    }

    /// The rates, each a constant factor above the one before.
    fn rates(&self) -> impl Iterator<Item = f64> {
        let (from, factor) = (self.from, (self.to / self.from).ln() / f64::from(self.points - 1));
        (0..self.points).map(move |i| from * (factor * f64::from(i)).exp())
    }
}

/// The loss at one rate.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct LrPoint {
    /// What the step used.
    pub lr: f64,
    /// Before the update with this rate.
    pub loss: f64,
    /// The exponential average so far, without bias.
    pub smoothed: f64,
}

/// What a search found.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct LrCurve {
    /// By rising rate.
    pub points: Vec<LrPoint>,
    /// Where the smoothed loss falls fastest over the logarithm of the rate; `None` where it falls nowhere.
    pub suggestion: Option<f64>,
}

impl Step {
    /// Runs the step at rates that rise exponentially and puts everything back: every slot holds the same bits afterwards, also if `run` fails.
    ///
    /// `run` is to run the step once on a batch (as often as the step accumulates). A schedule still changes each rate; the curve has the rates
    /// that were used. Groups with a base rate of their own keep it.
    /// Paper: Smith 2015, arXiv:1506.01186, section 3.3. Errors: what `run` returns; a search out of range.
    pub fn find_lr(&mut self, search: &LrSearch, mut run: impl FnMut(&mut Step) -> Result<()>) -> Result<LrCurve> {
        search.check()?;
        let before = self.snapshot()?;
        let curve = self.sweep(search, &mut run);
        self.restore(&before)?;
        let points = curve?;
        let suggestion = steepest(&points);
        Ok(LrCurve { points, suggestion })
    }

    fn sweep(&mut self, search: &LrSearch, run: &mut dyn FnMut(&mut Step) -> Result<()>) -> Result<Vec<LrPoint>> {
        let (mut average, mut lowest) = (0.0, f64::INFINITY);
        let mut points = Vec::new();
        for (i, rate) in search.rates().enumerate() {
            self.set_lr(rate as f32)?;
            run(self)?;
            let loss = f64::from(self.loss()?);
            if !loss.is_finite() {
                break;
            }
            average = SMOOTHING * average + (1.0 - SMOOTHING) * loss;
            let smoothed = average / (1.0 - SMOOTHING.powi(i as i32 + 1));
            let lr = f64::from(self.output(super::LR)?.slice::<f32>()?[0]);
            points.push(LrPoint { lr, loss, smoothed });
            lowest = f64::min(lowest, smoothed);
            if smoothed > search.stop_at * lowest {
                break;
            }
        }
        if points.is_empty() {
            let message = format!("the loss is not finite at the rate {} already", search.from);
            return Err(Error::new(ErrorKind::Diverged, message));
        }
        Ok(points)
    }
}

/// The rate at which the smoothed loss falls fastest before its lowest point.
fn steepest(points: &[LrPoint]) -> Option<f64> {
    let lowest = (0..points.len()).min_by(|&a, &b| points[a].smoothed.total_cmp(&points[b].smoothed))?;
    let first = ((points.len() as f64 * WARM) as usize).max(1);
    let start = points.get(first)?.smoothed;
    if start - points[lowest].smoothed < LEAST_FALL * start.abs() {
        return None;
    }
    let slope = |i: usize| {
        let (a, b) = (&points[i - 1], &points[i + 1]);
        (b.smoothed - a.smoothed) / (b.lr / a.lr).ln()
    };
    let fastest = (first..lowest).map(|i| (i, slope(i))).min_by(|a, b| a.1.total_cmp(&b.1));
    fastest.filter(|(_, slope)| *slope < 0.0).map(|(i, _)| points[i].lr)
}
