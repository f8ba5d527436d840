//! Every row of the table of ops, forward and with gradients, compiled for this backend and run by it, against the f64 oracle, at batch sizes
//! below and at the size that memory was laid out for.

use wholestep_compiler::conformance::{Variant, run_table};
use wholestep_compiler::ir::DType;
use wholestep_wgpu::WgpuBackend;

#[test]
fn every_row_agrees_with_the_oracle() {
    let backend = WgpuBackend::new(0).unwrap();
    let only = std::env::var("ONLY").unwrap_or_default();
    let variants = [Variant { name: "wgpu".into(), family: "wgpu".into(), backend: &backend }];
    let report = run_table(&variants, &[DType::F32], &|case| case.title().contains(&only));
    let faults = &report.faults;
    println!("{} checked, {} skipped", report.checked, report.skipped);
    assert!(faults.is_empty(), "{} differences in {} graphs:\n{}", faults.len(), report.checked, faults.join("\n"));
}
