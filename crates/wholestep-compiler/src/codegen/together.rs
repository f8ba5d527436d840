//! Loops that differ in extents, strides and offsets only, as one. Takes the kernels of a launch's segments, gives the one that a text is made of
//! and the numbers in which the segments differ. Never decides which loops are alike.

use super::spread::is_fourfold;
use crate::ir::Dim;
use crate::kernel::{Kernel, Loop};

/// What a text of several segments is made of.
#[derive(Clone, Debug)]
pub struct Together {
    /// The kernel of the segment with the most points, which the text suits; its own numbers are [`own`].
    pub kernel: Kernel,
    /// By segment: the extents of its axes, and behind them the strides and offsets that are its own. Empty for kernels that are no loops.
    pub numbers: Vec<Vec<Dim>>,
}

/// No number of a plan has this many batches: it marks what each segment has its own of.
const OWN: i64 = i64::MIN;

/// What stands in a loop for number `i` of a segment. Whether it is a multiple of four in all segments shows, as for any other number.
fn own(i: usize, is_fourfold: bool) -> Dim {
    Dim { batch: OWN, fixed: 4 * i as i64 + i64::from(!is_fourfold) }
}

/// Which of a segment's numbers this stands for.
pub fn own_number(dim: Dim) -> Option<u32> {
    (dim.batch == OWN).then_some((dim.fixed / 4) as u32)
}

/// The kernels of all segments of a launch, with the segments' axes, as one.
pub fn together(kernels: &[Kernel]) -> Together {
    let loops: Vec<&Loop> =
        kernels.iter().filter_map(|k| if let Kernel::Loop(k) = k { Some(k) } else { None }).collect();
    if loops.is_empty() {
        return Together { kernel: kernels[0].clone(), numbers: vec![Vec::new(); kernels.len()] };
    }
    // Of equal ones the first, so that the text does not depend on how segments are joined.
    let points = |k: &Loop| k.axes.iter().map(|d| d.at(1) as u64).product::<u64>();
    let mut all = (*loops.iter().rev().max_by_key(|k| points(k)).expect("bug: a launch without a segment")).clone();
    let mut numbers: Vec<Vec<Dim>> = loops.iter().map(|k| k.axes.clone()).collect();
    let maps: Vec<_> = loops.iter().map(|k| k.maps()).collect();
    for (m, map) in all.maps_mut().into_iter().enumerate() {
        for (n, number) in map.numbers_mut().enumerate() {
            let of = |segment: usize| maps[segment][m].number(n);
            if (1..loops.len()).all(|segment| of(segment) == of(0)) {
                continue;
            }
            *number = own(numbers[0].len(), (0..loops.len()).all(|segment| is_fourfold(of(segment))));
            numbers.iter_mut().enumerate().for_each(|(segment, numbers)| numbers.push(of(segment)));
        }
    }
    Together { kernel: Kernel::Loop(all), numbers }
}
