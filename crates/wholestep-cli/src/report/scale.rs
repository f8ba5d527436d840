//! Axes. Takes values, gives a scale from values to pixels and round tick marks. Never scales a value that is not finite.

use super::html;

/// Farther than any loss worth drawing; keeps differences of two values finite.
const LARGEST: f64 = 1e200;

/// Maps `lo..hi` to `from..to` pixels, linear or logarithmic.
#[derive(Clone, Copy, Debug)]
pub struct Scale {
    lo: f64,
    hi: f64,
    log: bool,
    from: f64,
    to: f64,
}

/// The value where it can be drawn; what is too small to scale is 0.
pub fn drawable(value: f64) -> Option<f64> {
    match value.abs() {
        size if size < 1.0 / LARGEST => Some(0.0),
        size if size < LARGEST => Some(value),
        _ => None,
    }
}

impl Scale {
    /// A linear scale over `lo..hi` as they are.
    pub fn exact(lo: f64, hi: f64, (from, to): (f64, f64)) -> Scale {
        let (lo, hi) = widen(lo, hi);
        Scale { lo, hi, log: false, from, to }
    }

    /// A linear scale whose ends are round numbers around `values` (drawable ones); `None` when there are none.
    pub fn linear(values: impl Iterator<Item = f64>, pixels: (f64, f64)) -> Option<Scale> {
        let (lo, hi) = extent(values)?;
        let (lo, hi) = widen(lo, hi);
        let step = round_step((hi - lo) / 4.0);
        Some(Scale::exact((lo / step).floor() * step, (hi / step).ceil() * step, pixels))
    }

    /// As [`Scale::linear`], but logarithmic where all values are positive and span more than a factor of 100.
    pub fn linear_or_log(values: impl Iterator<Item = f64> + Clone, pixels: (f64, f64)) -> Option<Scale> {
        let (lo, hi) = extent(values.clone())?;
        if lo > 0.0 && hi / lo > 100.0 {
            return Some(Scale { lo: lo / 1.15, hi: hi * 1.15, log: true, from: pixels.0, to: pixels.1 });
        }
        Scale::linear(values, pixels)
    }

    pub fn is_log(&self) -> bool {
        self.log
    }

    /// Pixel of a value; values outside the scale go to its ends.
    pub fn at(&self, value: f64) -> f64 {
        let part = match self.log {
            true => (value.max(self.lo) / self.lo).ln() / (self.hi / self.lo).ln(),
            false => (value - self.lo) / (self.hi - self.lo),
        };
        self.from + part.clamp(0.0, 1.0) * (self.to - self.from)
    }

    /// About `n` tick marks at round values, with their text.
    pub fn ticks(&self, n: usize) -> Vec<(f64, String)> {
        if self.log {
            return self.log_ticks(n);
        }
        let step = round_step((self.hi - self.lo) / n.max(1) as f64);
        let places = (-(step.log10() + 1e-9).floor()).max(0.0) as usize;
        let (first, last) = ((self.lo / step - 1e-6).ceil(), (self.hi / step + 1e-6).floor());
        let n_ticks = ((last - first) as i64).clamp(0, 40);
        (0..=n_ticks).map(|i| (first + i as f64) * step).map(|v| (v, tick_text(v, places))).collect()
    }

    /// Whole-numbered tick marks, for epochs.
    pub fn whole_ticks(&self, n: usize) -> Vec<(f64, String)> {
        let step = round_step((self.hi - self.lo) / n.max(1) as f64).max(1.0).round();
        let (first, last) = ((self.lo / step).ceil(), (self.hi / step).floor());
        let n_ticks = ((last - first) as i64).clamp(-1, 40);
        (0..=n_ticks).map(|i| (first + i as f64) * step).map(|v| (v, format!("{v:.0}"))).collect()
    }

    fn log_ticks(&self, n: usize) -> Vec<(f64, String)> {
        let (first, last) = (self.lo.log10().ceil() as i32, self.hi.log10().floor() as i32);
        let every = ((last - first + 1) as usize).div_ceil(n.max(1)).max(1);
        let text = |exponent: i32| match exponent {
            -3..=4 => html::setting(10f64.powi(exponent)),
            _ => format!("1e{exponent}"),
        };
        (first..=last).step_by(every).map(|e| (10f64.powi(e), text(e))).collect()
    }
}

fn tick_text(value: f64, places: usize) -> String {
    let value = if value.abs() < 1e-12 { 0.0 } else { value };
    match value.abs() {
        v if v >= 1e6 || (places > 5 && v > 0.0) => html::number(value),
        _ => format!("{value:.places$}").replace('-', "−"),
    }
}

fn extent(values: impl Iterator<Item = f64>) -> Option<(f64, f64)> {
    values.filter_map(drawable).fold(None, |range, v| match range {
        None => Some((v, v)),
        Some((lo, hi)) => Some((lo.min(v), hi.max(v))),
    })
}

/// One value is no range: give it room in proportion to its size.
fn widen(lo: f64, hi: f64) -> (f64, f64) {
    let tiny = lo.abs().max(hi.abs()) * 1e-9;
    if hi - lo > tiny && hi > lo {
        return (lo, hi);
    }
    let room = if lo == 0.0 { 0.5 } else { lo.abs() * 0.1 };
    (lo - room, hi + room)
}

/// 1, 2, 2.5 or 5 times a power of ten, at least `step`.
pub fn round_step(step: f64) -> f64 {
    let power = 10f64.powf(step.log10().floor());
    let of_power = [1.0, 2.0, 2.5, 5.0].into_iter().find(|m| m * power >= step * 0.999).unwrap_or(10.0);
    of_power * power
}
