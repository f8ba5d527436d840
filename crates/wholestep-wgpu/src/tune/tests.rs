//! What no plan can show: kernels that are wrong.

use super::{Config, Named, Tuner};
use crate::WgpuBackend;
use crate::adapter::Gpu;
use std::sync::Arc;
use std::time::Duration;
use wholestep_compiler::backend::{DeviceError, Origin};
use wholestep_compiler::caps::Workgroups;
use wholestep_compiler::codegen::Shader;
use wholestep_compiler::codegen::choice::{self, Choice};
use wholestep_compiler::codegen::contract;
use wholestep_compiler::ir::{Batch, DType, Dim};
use wholestep_compiler::kernel::{Access, Arg, Contract, Contraction, Map};

fn gpu() -> Option<Arc<Gpu>> {
    match WgpuBackend::with(0, Config { budget: Duration::from_secs(600), ..Config::default() }) {
        Ok(backend) => Some(backend.gpu),
        Err(DeviceError::Absent(why)) if std::env::var_os("REQUIRE_WGPU").is_none() => {
            println!("skipped: no wgpu adapter ({why})");
            None
        }
        Err(e) => panic!("REQUIRE_WGPU is set and the device does not open: {e}"),
    }
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
    }
}

/// Begins a quarter of the sums of a thread's first row with a little more than 0.
fn wrong(shaders: Vec<Shader>) -> Vec<Shader> {
    let spoilt = |mut s: Shader| {
        let source = s.source.replace("var c0_0 = vec4<f32>();", "var c0_0 = vec4<f32>(0.001, 0.0, 0.0, 0.0);");
        assert_ne!(source, s.source, "the text begins its sums in another way now");
        s.source = source;
        s
    };
    shaders.into_iter().map(spoilt).collect()
}

fn all_but_the_table(k: &Contract, w: &Workgroups, c: Choice) -> Vec<Shader> {
    let shaders = contract::shaders_with(k, w, c);
    if c == choice::table(k, w) { shaders } else { wrong(shaders) }
}

fn all(k: &Contract, w: &Workgroups, c: Choice) -> Vec<Shader> {
    wrong(contract::shaders_with(k, w, c))
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
        let mut named = Named { name: "product".to_string(), kernel: &kernel, others: vec![], launches: 1, made: None };
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
