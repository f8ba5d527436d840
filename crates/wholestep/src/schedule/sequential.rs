//! One schedule after the other.

use super::{Clock, Schedule};
use wholestep_compiler::ir::Tensor;

/// Each schedule for so many steps, then the next, for which time begins anew; the last one has no end.
///
/// Matches PyTorch `lr_scheduler.SequentialLR`, whose milestones are the sums of the lengths.
#[derive(Debug)]
pub struct Sequential {
    parts: Vec<(Box<dyn Schedule>, u64)>,
    last: Box<dyn Schedule>,
}

impl Sequential {
    /// Each of `parts` for its number of steps, then `last`.
    pub fn new(parts: Vec<(Box<dyn Schedule>, u64)>, last: impl Schedule + 'static) -> Sequential {
        Sequential { parts, last: Box::new(last) }
    }

    /// The parts with the step at which each begins.
    fn starts(&self) -> impl Iterator<Item = (&dyn Schedule, u64)> {
        let ends = self.parts.iter().scan(0, |end, (_, steps)| {
            *end += steps;
            Some(*end)
        });
        let starts = std::iter::once(0).chain(ends);
        self.parts.iter().map(|(s, _)| &**s).chain([&*self.last]).zip(starts)
    }

    /// What the part says that runs at the time.
    fn current(&self, clock: &Clock, of: impl Fn(&dyn Schedule, &Clock) -> Tensor) -> Tensor {
        let mut now: Option<Tensor> = None;
        for (schedule, start) in self.starts() {
            let value = of(schedule, &clock.since(start));
            now = Some(match now {
                None => value,
                Some(before) => clock.count.greater_equal(start as f64).select(&value, &before),
            });
        }
        now.expect("bug: there is a last part")
    }
}

impl Schedule for Sequential {
    fn rate(&self, base: &Tensor, clock: &Clock) -> Tensor {
        self.current(clock, |schedule, clock| schedule.rate(base, clock))
    }

    /// There only if every part cycles it: none says what the momentum is where it does not.
    fn momentum(&self, clock: &Clock) -> Option<Tensor> {
        self.cycles_momentum().then(|| {
            self.current(clock, |schedule, clock| {
                schedule.momentum(clock).expect("bug: every part cycles the momentum")
            })
        })
    }

    fn cycles_momentum(&self) -> bool {
        self.starts().all(|(schedule, _)| schedule.cycles_momentum())
    }

    fn advance(&self, base: &Tensor, clock: &Clock) {
        self.starts().for_each(|(schedule, start)| schedule.advance(base, &clock.since(start)));
    }
}
