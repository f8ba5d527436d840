//! Random numbers: what they are made of, and how they are distributed.

use wholestep_compiler::eval::eval;
use wholestep_compiler::ir::op::random::philox4x32;
use wholestep_compiler::ir::scope::Mode;
use wholestep_compiler::ir::{Batch, DType, Scope, Tensor};

/// The values of `x` at batch size `b`, with key (7, 11) and step 3.
fn values(s: &Scope, x: &Tensor, b: usize, inputs: &[Vec<f64>]) -> Vec<f64> {
    let graph = s.graph().borrow();
    assert_eq!(graph.error, None);
    let slots: Vec<Vec<f64>> =
        graph.slots.iter().map(|slot| if slot.name == "key" { vec![7.0, 11.0] } else { vec![3.0] }).collect();
    eval(&graph, b, inputs, &slots).value(x.id()).data.clone()
}

fn mean(x: &[f64]) -> f64 {
    x.iter().sum::<f64>() / x.len() as f64
}

#[test]
fn uniform_numbers_are_the_upper_24_bits_of_philox() {
    let s = Scope::root(Mode::Train);
    let x = s.uniform((Batch, 5));
    let found = values(&s, &x, 2, &[]);
    let want: Vec<f64> = (0..10u32)
        .map(|i| f64::from(philox4x32([i / 4, 0, 3, 0], [7, 11])[i as usize % 4] >> 8) / 2f64.powi(24))
        .collect();
    assert_eq!(found, want);
}

#[test]
fn normal_numbers_have_the_moments_of_a_normal() {
    let s = Scope::root(Mode::Train);
    let x = s.normal([40_000usize]);
    let found = values(&s, &x, 1, &[]);
    let moment = |k: i32| mean(&found.iter().map(|v| v.powi(k)).collect::<Vec<_>>());
    // Standard errors of the first four moments are 0.005, 0.007, 0.019 and 0.049.
    assert!(moment(1).abs() < 0.02 && (moment(2) - 1.0).abs() < 0.03, "{} {}", moment(1), moment(2));
    assert!(moment(3).abs() < 0.08 && (moment(4) - 3.0).abs() < 0.2, "{} {}", moment(3), moment(4));
}

#[test]
fn dropout_keeps_each_element_with_its_probability_and_scales_it() {
    let s = Scope::root(Mode::Train);
    let x = s.input("x", [20_000usize], DType::F32);
    let y = x.dropout(&s, 0.3);
    let found = values(&s, &y, 1, &[vec![7.0; 20_000]]);
    assert!(found.iter().all(|v| *v == 0.0 || (*v - 10.0).abs() < 1e-9), "7 / 0.7 is 10");
    let kept = found.iter().filter(|v| **v != 0.0).count() as f64 / 20_000.0;
    assert!((kept - 0.7).abs() < 0.015, "{kept}");
}

#[test]
fn dropout_of_channels_drops_whole_channels() {
    let s = Scope::root(Mode::Train);
    let x = s.input("x", (Batch, 100, 4), DType::F32);
    let y = x.dropout_channels(&s, 0.5);
    let found = values(&s, &y, 3, &[vec![1.0; 1200]]);
    let (channels, _) = found.as_chunks::<4>();
    assert!(channels.iter().all(|c| *c == [0.0; 4] || *c == [2.0; 4]));
    let kept = channels.iter().filter(|c| c[0] != 0.0).count();
    assert!((110..190).contains(&kept), "{kept} of 300");
}

#[test]
fn dropout_is_the_identity_in_inference_and_all_or_nothing_at_the_ends() {
    let s = Scope::root(Mode::Infer);
    let x = s.input("x", [4usize], DType::F32);
    assert_eq!(x.dropout(&s, 0.9).id(), x.id());
    let s = Scope::root(Mode::Train);
    let x = s.input("x", [4usize], DType::F32);
    assert_eq!(x.dropout(&s, 0.0).id(), x.id());
    let gone = x.dropout(&s, 1.0);
    assert_eq!(values(&s, &gone, 1, &[vec![5.0; 4]]), [0.0; 4]);
    let (never, always) = (s.bernoulli([64usize], 0.0), s.bernoulli([64usize], 1.0));
    let (never, always) = (values(&s, &never, 1, &[vec![5.0; 4]]), values(&s, &always, 1, &[vec![5.0; 4]]));
    assert!(never.iter().all(|v| *v == 0.0) && always.iter().all(|v| *v == 1.0));
}
