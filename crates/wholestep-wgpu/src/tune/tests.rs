//! What no plan can show: kernels that are wrong.

use super::measure::{Compiled, Measure};
use super::{Config, Named, Tuner};
use crate::adapter::{Gpu, test_backend};
use std::sync::Arc;
use std::time::Duration;
use wholestep_compiler::backend::Origin;
use wholestep_compiler::caps::Workgroups;
use wholestep_compiler::codegen::Shader;
use wholestep_compiler::codegen::choice::{self, Choice};
use wholestep_compiler::codegen::contract;
use wholestep_compiler::ir::{Batch, DType, Dim};
use wholestep_compiler::kernel::{Access, Arg, Contract, Contraction, Map};

fn gpu() -> Option<Arc<Gpu>> {
    Some(test_backend(Config { budget: Duration::from_secs(600), ..Config::default() })?.gpu)
}

/// `[B, 48]·[48, 40]`.
fn product() -> Contract {
    let map = |row: usize| Map { strides: vec![Dim::fixed(row), Dim::ONE], offset: Dim::ZERO, guards: vec![] };
    let arg = |access| Arg { dtype: DType::F32, access };
    Contract {
        contraction: Contraction::Matmul {
            batch: vec![],
            m: Batch,
            n: Dim::fixed(40),
            k: Dim::fixed(48),
            lhs: map(48),
            rhs: map(40),
        },
        dtype: DType::F32,
        args: vec![arg(Access::Read), arg(Access::Read), arg(Access::ReadWrite)],
        epilogue: None,
        triangle: None,
    }
}

fn named(kernel: &Contract, from: Option<Choice>) -> Named<'_> {
    Named { name: "product".to_string(), kernel, others: vec![], launches: 1, from, made: None, is_left: false }
}

/// Begins a quarter of the sums of a thread's first row with `by` instead of 0.
fn wrong(shaders: Vec<Shader>, by: &str) -> Vec<Shader> {
    let spoilt = |mut s: Shader| {
        let source =
            s.source.replace("var c0_0 = vec4<f32>();", &format!("var c0_0 = vec4<f32>({by}, 0.0, 0.0, 0.0);"));
        assert_ne!(source, s.source, "the text begins its sums in another way now");
        s.source = source;
        s
    };
    shaders.into_iter().map(spoilt).collect()
}

fn all_but_the_table(k: &Contract, w: &Workgroups, c: Choice) -> Vec<Shader> {
    let shaders = contract::shaders_with(k, w, c);
    if c == choice::table(k, w) { shaders } else { wrong(shaders, "0.001") }
}

fn all(k: &Contract, w: &Workgroups, c: Choice) -> Vec<Shader> {
    wrong(contract::shaders_with(k, w, c), "0.001")
}

#[test]
fn a_choice_whose_numbers_are_wrong_is_not_used_and_told() {
    let Some(gpu) = gpu() else { return };
    let workgroups = gpu.caps.workgroups.as_ref().unwrap();
    let kernel = product();
    let table = choice::table(&kernel, workgroups);
    let n_candidates = choice::candidates(&kernel, workgroups, 70).len();
    assert!(n_candidates > 1);
    let makers: [(fn(&Contract, &Workgroups, Choice) -> Vec<Shader>, _, _); 3] = [
        (contract::shaders_with, None, 0..1),
        (all_but_the_table, Some((table, Origin::Timed)), 0..n_candidates),
        (all, None, n_candidates..n_candidates + 1),
    ];
    for (i, (shaders, expected, refused)) in makers.into_iter().enumerate() {
        let mut named = named(&kernel, None);
        let mut tuner = Tuner { gpu: &gpu, workgroups, max_batch: 70, shaders, notes: vec![] };
        assert_eq!(tuner.tune(&mut [&mut named]).unwrap(), 1);
        let told = tuner.notes.iter().filter(|n| n.contains("is not used for product: it is off by")).count();
        assert!(refused.contains(&told), "maker {i}: {:?}", tuner.notes);
        match i {
            0 => assert!(matches!(named.made, Some((_, Origin::Timed))), "{:?}", named.made),
            _ => assert_eq!(named.made, expected),
        }
    }
}

/// A choice with another that adds in the same order.
fn from(k: &Contract, w: &Workgroups) -> Choice {
    let all = choice::candidates(k, w, 70);
    let found = all.iter().find(|c| choice::alike(k, w, 70, **c).len() > 1);
    *found.unwrap_or_else(|| panic!("nothing adds like one of {all:?}"))
}

/// What differs from [`from`] is off by less than roundings are.
fn nearly_right(k: &Contract, w: &Workgroups, c: Choice) -> Vec<Shader> {
    let shaders = contract::shaders_with(k, w, c);
    if c == from(k, w) { shaders } else { wrong(shaders, "0.0000002") }
}

#[test]
fn what_was_made_before_changes_no_bit() {
    let Some(gpu) = gpu() else { return };
    let workgroups = gpu.caps.workgroups.as_ref().unwrap();
    let kernel = product();
    let from = from(&kernel, workgroups);
    for (shaders, keeps) in [(contract::shaders_with as fn(&_, &_, _) -> _, false), (nearly_right, true)] {
        let mut named = named(&kernel, Some(from));
        let mut tuner = Tuner { gpu: &gpu, workgroups, max_batch: 70, shaders, notes: vec![] };
        let n_timed = tuner.tune(&mut [&mut named]).unwrap();
        let (made, origin) = named.made.unwrap();
        assert_eq!((n_timed, origin, named.is_left), (1, Origin::Timed, false));
        assert!(if keeps { made == from } else { made.adds_like(&from) }, "{from} became {made}");
        assert!(tuner.notes.iter().all(|n| !n.contains("is not used")), "{:?}", tuner.notes);
    }
}

#[test]
fn ways_that_add_in_the_same_order_give_the_same_bits_at_every_batch_size() {
    let Some(gpu) = gpu() else { return };
    let workgroups = gpu.caps.workgroups.as_ref().unwrap();
    let mut kernel = product();
    let Contraction::Matmul { k: depth, lhs, .. } = &mut kernel.contraction else { unreachable!() };
    (*depth, lhs.strides[0]) = (Dim::fixed(300), Dim::fixed(300));
    let (measure, _) = Measure::new(&gpu, &[(&kernel, &[])], 70).unwrap();
    let read = |text: String| Choice::read(&text, &kernel, workgroups);
    let all = choice::TILES.iter().flat_map(|r| [1, 3].map(|parts| Choice { tile: r.tile, parts }));
    // Those that fit this device.
    let all: Vec<Choice> = all.filter_map(|c| read(c.to_string())).collect();
    let compiled: Vec<Compiled> =
        all.iter().map(|c| Compiled::new(&gpu, contract::shaders_with(&kernel, workgroups, *c))).collect();
    let (mut n_alike, mut n_other) = (0, 0);
    for (i, j) in (1..all.len()).flat_map(|j| (0..j).map(move |i| (i, j))) {
        let equal = [70, 33, 1].map(|batch| measure.is_equal(&[], [&compiled[i], &compiled[j]], batch).unwrap());
        if all[i].adds_like(&all[j]) {
            assert_eq!(equal, [true; 3], "{} and {}", all[i], all[j]);
            n_alike += 1;
        } else {
            n_other += usize::from(equal.contains(&false));
        }
    }
    assert!(n_alike > 10 && n_other > 10, "{n_alike} alike, {n_other} not");
}
