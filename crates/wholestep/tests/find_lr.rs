//! The learning-rate finder: what it runs, what it suggests, and that it leaves no trace.

use wholestep::optim::{Adam, Sgd};
use wholestep::step::LrSearch;
use wholestep::{Array, Batch, DType, Device, Init, Step};

/// `mean((w·x - 3x)²)`: its curvature is 2·mean(x²).
fn line() -> Step {
    let built = Step::options().max_batch(8).compile(&Device::cpu_with_threads(1), Sgd::new(0.1).momentum(0.5), |s| {
        let x = s.input("x", (Batch, 4), DType::F32);
        let w = s.param("w", [4usize], Init::Uniform { lo: -0.1, hi: 0.1 });
        ((&x * &w).sum(1) - (&x * 3.0).sum(1)).square().mean(..)
    });
    built.unwrap()
}

fn batch() -> Array {
    Array::new((0..32).map(|i| ((i * 7 % 11) as f32 - 5.0) / 5.0).collect::<Vec<f32>>(), [8usize, 4]).unwrap()
}

fn all_slots(step: &mut Step) -> Vec<(String, Array)> {
    let names: Vec<String> = step.slots().map(|(n, _)| n.to_string()).collect();
    names.into_iter().map(|n| (n.clone(), step.read(&n).unwrap())).collect()
}

#[test]
fn every_slot_holds_the_same_bits_after_a_search() {
    let (mut step, x) = (line(), batch());
    (0..5).for_each(|_| step.run(&[("x", &x)]).unwrap());
    let before = all_slots(&mut step);
    let curve = step.find_lr(&LrSearch::default(), |step| step.run(&[("x", &x)])).unwrap();
    assert_eq!(all_slots(&mut step), before);
    // And so it goes on as one that never searched.
    let mut other = line();
    (0..6).for_each(|_| other.run(&[("x", &x)]).unwrap());
    step.run(&[("x", &x)]).unwrap();
    assert_eq!(all_slots(&mut step), all_slots(&mut other));
    // The rates are the exponential ladder, and the search ended where the loss exploded.
    for (i, p) in curve.points.iter().enumerate() {
        let want = 1e-7 * 1e8f64.powf(i as f64 / 99.0);
        assert!((p.lr / want - 1.0).abs() < 1e-6, "rate {i} is {}, not {want}", p.lr);
    }
    let lowest = curve.points.iter().map(|p| p.smoothed).fold(f64::INFINITY, f64::min);
    let last = curve.points.last().unwrap();
    assert!(curve.points.len() < 100 && last.smoothed > 4.0 * lowest, "{last:?}");
    let lr = curve.suggestion.expect("the loss falls");
    // It learns fast at the suggested rate, and diverges at 100 times of it.
    for (lr, is_good) in [(lr, true), (100.0 * lr, false)] {
        let mut step = line();
        step.run(&[("x", &x)]).unwrap();
        let first = step.loss().unwrap();
        step.set_lr(lr as f32).unwrap();
        (0..30).for_each(|_| step.run(&[("x", &x)]).unwrap());
        let last = step.loss().unwrap();
        assert_eq!(last < 0.2 * first, is_good, "from {first} to {last} at {lr}");
    }
}

#[test]
fn a_search_that_fails_leaves_no_trace_either() {
    let (mut step, x) = (line(), batch());
    step.run(&[("x", &x)]).unwrap();
    let before = all_slots(&mut step);
    let mut n = 0;
    let wrong = Array::from_vec(vec![1f32]);
    let failed = step.find_lr(&LrSearch::default(), |step| {
        n += 1;
        step.run(&[("x", if n < 20 { &x } else { &wrong })])
    });
    assert!(failed.unwrap_err().to_string().starts_with("x: expected"));
    assert_eq!(all_slots(&mut step), before);
    let faults = [
        (LrSearch { from: 0.0, ..LrSearch::default() }, "from: need a finite number > 0, got 0"),
        (
            LrSearch { to: 1e-9, ..LrSearch::default() },
            "to: need a finite number above the first rate, got 0.000000001",
        ),
        (LrSearch { points: 3, ..LrSearch::default() }, "points: need at least 10, got 3"),
    ];
    for (search, want) in faults {
        assert_eq!(step.find_lr(&search, |step| step.run(&[("x", &x)])).unwrap_err().to_string(), want);
    }
}

#[test]
fn a_loss_that_falls_nowhere_suggests_nothing() {
    let x = batch();
    let mut step = Step::compile(&Device::cpu_with_threads(1), Adam::new(0.1), |s| {
        // Already at its lowest.
        (&s.input("x", (Batch, 4), DType::F32) * &s.param("w", [4usize], Init::Const(0.0))).square().mean(..) + 1.0
    })
    .unwrap();
    let curve = step.find_lr(&LrSearch::default(), |step| step.run(&[("x", &x)])).unwrap();
    assert_eq!((curve.points.len(), curve.suggestion), (100, None));
}
