//! Which launches share a dispatch. Takes a plan and where its memory is, gives its launches in an order that respects what they write and
//! read, small ones together. Never makes a text.

use crate::adapter::Gpu;
use crate::memory::{Memory, Piece, Place};
use std::ops::Range;
use wholestep_compiler::codegen::wgsl::beside::work as beside_work;
use wholestep_compiler::codegen::wgsl::whole;
use wholestep_compiler::kernel::Access;
use wholestep_compiler::plan::{BufferId, Item, Layout, Plan, Segment};

/// What runs as one, or as the dispatches that its kernels take; numbers are positions in `Plan::launches`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Unit {
    /// Launches that may stand side by side; often it is one.
    Beside(Vec<usize>),
    /// One workgroup for all of them, each with its multiply-adds and whether a barrier goes before it.
    Whole(Vec<Member>),
}

/// What is done in order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Step {
    Unit(Unit),
    Loop { max_trips: u32, predicate: BufferId, body: Vec<Step> },
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Member {
    pub launch: usize,
    pub work: u64,
    pub waits: bool,
}

/// Segments of one workgroup, so that their parameters fit what every device binds.
const MOST_SEGMENTS: usize = 32;

/// A launch as the schedule sees it.
struct Task {
    touches: Vec<(Place, Access)>,
    /// Its multiply-adds and segments, if it is small.
    small: Option<(u64, usize)>,
    /// Whether it leaves room on the device for others.
    is_modest: bool,
}

/// A kernel with fewer multiply-adds or points than this takes a few microseconds, in which its dispatch and its last workgroups leave much of
/// the device idle.
const MODEST_WORK: u64 = 32 << 20;
/// So many units back a launch may go to stand beside others.
const LOOK_BACK: usize = 8;
/// Launches side by side.
const MOST_BESIDE: usize = 8;

/// What a plan does at batch sizes up to that of the layout. Launches with nothing between them share dispatches, unless all are to be `apart`.
pub fn steps(gpu: &Gpu, plan: &Plan, layout: &Layout, memory: &Memory, apart: bool) -> Vec<Step> {
    let tasks = (!apart).then(|| tasks(gpu, plan, layout, memory));
    let share = |launches: Range<usize>| match &tasks {
        Some(tasks) => units(tasks, launches),
        None => launches.map(|launch| Unit::Beside(vec![launch])).collect(),
    };
    steps_of(&plan.items, &share, &mut 0)
}

/// The steps of some items, of which the first launch has the number `launch`.
fn steps_of(items: &[Item], share: &dyn Fn(Range<usize>) -> Vec<Unit>, launch: &mut usize) -> Vec<Step> {
    let mut steps = Vec::new();
    let mut rest = items;
    while !rest.is_empty() {
        let n = rest.iter().take_while(|item| matches!(item, Item::Launch(_))).count();
        steps.extend(share(*launch..*launch + n).into_iter().map(Step::Unit));
        *launch += n;
        rest = &rest[n..];
        if let Some((Item::Region(region), others)) = rest.split_first() {
            let (max_trips, predicate) = (region.max_trips, region.predicate);
            steps.push(Step::Loop { max_trips, predicate, body: steps_of(&region.items, share, launch) });
            rest = others;
        }
    }
    steps
}

/// The units of steps in order, those in loops too.
pub fn units_of(steps: &[Step]) -> Vec<&Unit> {
    let mut all = Vec::new();
    for step in steps {
        match step {
            Step::Unit(unit) => all.push(unit),
            Step::Loop { body, .. } => all.extend(units_of(body)),
        }
    }
    all
}

/// The units of launches with nothing between them.
fn units(tasks: &[Task], launches: Range<usize>) -> Vec<Unit> {
    let mut units = Vec::new();
    // Small launches wait until a large one needs them: until then they do not stand in its way.
    let mut small: Vec<usize> = Vec::new();
    for launch in launches {
        let task = &tasks[launch];
        match task.small {
            Some((_, n)) => {
                let held: usize = small.iter().filter_map(|&l| tasks[l].small).map(|(_, n)| n).sum();
                if held + n > MOST_SEGMENTS {
                    flush(tasks, &mut small, &mut units);
                }
                small.push(launch);
            }
            None => {
                if small.iter().any(|&l| conflict(&tasks[l], task)) {
                    flush(tasks, &mut small, &mut units);
                }
                beside(tasks, launch, &mut units);
            }
        }
    }
    flush(tasks, &mut small, &mut units);
    units
}

fn tasks(gpu: &Gpu, plan: &Plan, layout: &Layout, memory: &Memory) -> Vec<Task> {
    let fits = |p: &Place| {
        let bytes = if p.piece == Piece::Inputs { memory.block_bytes } else { memory.buffer(p.piece).size() };
        bytes <= gpu.limits.max_storage_buffer_binding_size
    };
    let moves = gpu.limits.max_dynamic_storage_buffers_per_pipeline_layout > 0;
    let of = |l: &wholestep_compiler::plan::Launch| {
        let kernel = &plan.kernels[l.kernel as usize];
        let touch = |s: &Segment| {
            let one = |(&id, arg): (_, &wholestep_compiler::kernel::Arg)| (memory.place(plan, layout, id), arg.access);
            s.args.iter().zip(kernel.args()).map(one).collect::<Vec<_>>()
        };
        let touches: Vec<(Place, Access)> = l.segments.iter().flat_map(touch).collect();
        let work = l.segments.iter().map(|s| whole::work(&plan.kernel_of(s), layout.max_batch)).sum::<Option<u64>>();
        let is_small = l.segments.len() <= MOST_SEGMENTS && moves && touches.iter().all(|(p, _)| fits(p));
        let all = l.segments.iter().map(|s| beside_work(&plan.kernel_of(s), layout.max_batch)).sum::<u64>();
        let is_modest = all <= MODEST_WORK;
        Task {
            touches,
            is_modest,
            small: work.filter(|&w| is_small && w <= whole::MOST_WORK).map(|w| (w, l.segments.len())),
        }
    };
    plan.launches().into_iter().map(of).collect()
}

/// Ends a run of small launches. One alone is better off with as many workgroups as it has work for.
fn flush(tasks: &[Task], small: &mut Vec<usize>, units: &mut Vec<Unit>) {
    let run = std::mem::take(small);
    if run.len() < 2 {
        run.into_iter().for_each(|launch| beside(tasks, launch, units));
        return;
    }
    units.push(Unit::Whole(rounds(tasks, &run)));
}

/// Small launches in as few rounds as what they write and read allows, with a barrier between two rounds: at a barrier, threads wait for memory.
fn rounds(tasks: &[Task], run: &[usize]) -> Vec<Member> {
    let mut round: Vec<usize> = Vec::with_capacity(run.len());
    for (i, &launch) in run.iter().enumerate() {
        let before = (0..i).filter(|&j| conflict(&tasks[run[j]], &tasks[launch]));
        round.push(before.map(|j| round[j] + 1).max().unwrap_or(0));
    }
    let mut order: Vec<usize> = (0..run.len()).collect();
    order.sort_by_key(|&i| round[i]);
    let member = |(at, &i): (usize, &usize)| Member {
        launch: run[i],
        work: tasks[run[i]].small.map_or(1, |(work, _)| work),
        waits: at > 0 && round[order[at - 1]] != round[i],
    };
    order.iter().enumerate().map(member).collect()
}

/// Puts a launch beside others that it does not depend on, or by itself at the end.
fn beside(tasks: &[Task], launch: usize, units: &mut Vec<Unit>) {
    let task = &tasks[launch];
    let clear = |unit: &Unit| match unit {
        Unit::Beside(all) => !all.iter().any(|&l| conflict(&tasks[l], task)),
        Unit::Whole(all) => !all.iter().any(|m| conflict(&tasks[m.launch], task)),
    };
    let reach = units.iter().rev().take(LOOK_BACK).take_while(|unit| clear(unit)).count();
    let from = units.len() - reach;
    let has_room = |unit: &&mut Unit| match unit {
        Unit::Beside(all) => all.len() < MOST_BESIDE && all.iter().all(|&l| tasks[l].is_modest),
        Unit::Whole(_) => false,
    };
    match units[from..].iter_mut().find(has_room) {
        Some(Unit::Beside(all)) if task.is_modest => all.push(launch),
        _ => units.push(Unit::Beside(vec![launch])),
    }
}

/// Whether one writes what the other reads or writes.
fn conflict(a: &Task, b: &Task) -> bool {
    let overlap =
        |p: &Place, q: &Place| p.piece == q.piece && p.offset < q.offset + q.bytes && q.offset < p.offset + p.bytes;
    let writes = |x: &Access, y: &Access| *x != Access::Read || *y != Access::Read;
    a.touches.iter().any(|(p, x)| b.touches.iter().any(|(q, y)| writes(x, y) && overlap(p, q)))
}

#[cfg(test)]
mod tests {
    use super::{Access, Piece, Place, Task, rounds};

    /// A launch that reads and writes some of the arena's words.
    fn task(reads: &[u64], writes: &[u64]) -> Task {
        let touch = |access| move |&i: &u64| (Place { piece: Piece::Arena(0), offset: 4 * i, bytes: 4 }, access);
        let reads = reads.iter().map(touch(Access::Read));
        let touches = reads.chain(writes.iter().map(touch(Access::Write))).collect();
        Task { touches, small: Some((1, 1)), is_modest: true }
    }

    #[test]
    fn small_launches_stand_in_as_few_rounds_as_their_memory_allows() {
        // Two chains of three, one after the other, and one that writes what the first of them read.
        let tasks = [
            task(&[0], &[1]),
            task(&[1], &[2]),
            task(&[2], &[3]),
            task(&[10], &[11]),
            task(&[11], &[12]),
            task(&[12], &[13]),
            task(&[], &[0]),
        ];
        let members = rounds(&tasks, &[0, 1, 2, 3, 4, 5, 6]);
        let order: Vec<(usize, bool)> = members.iter().map(|m| (m.launch, m.waits)).collect();
        let expected = [(0, false), (3, false), (1, true), (4, false), (6, false), (2, true), (5, false)];
        assert_eq!(order, expected);
    }
}
