//! Every row of the table of ops, forward and with gradients, compiled for this backend and run by it, against the f64 oracle, at batch sizes
//! below and at the size that memory was laid out for; once with small launches in one dispatch, as they are, and once each apart. Without an adapter it says that it was skipped, unless `REQUIRE_WGPU` is set.

use wholestep_compiler::backend::DeviceError;
use wholestep_compiler::conformance::{Variant, run_table};
use wholestep_compiler::ir::DType;
use wholestep_wgpu::WgpuBackend;

fn backend() -> Option<WgpuBackend> {
    match WgpuBackend::new(0) {
        Ok(backend) => Some(backend),
        Err(DeviceError::Absent(why)) if std::env::var_os("REQUIRE_WGPU").is_none() => {
            println!("skipped: no wgpu adapter ({why})");
            None
        }
        Err(e) => panic!("REQUIRE_WGPU is set and the device does not open: {e}"),
    }
}

/// All kinds of kernels read and write 16 bits.
#[test]
fn rows_kept_in_16_bits_agree_with_the_oracle() {
    let Some(backend) = backend() else { return };
    let variants = [Variant { name: "wgpu".into(), family: "wgpu".into(), backend: &backend }];
    let report = run_table(&variants, &[DType::F16, DType::BF16], &|_| true);
    let faults = &report.faults;
    println!("{} graphs ran, {} skipped for their dtypes", report.checked, report.skipped);
    assert!(faults.is_empty(), "{} differences in {} graphs:\n{}", faults.len(), report.checked, faults.join("\n"));
    assert!(report.checked > 400 && report.skipped < 30, "{} ran, {} skipped", report.checked, report.skipped);
}

#[test]
fn every_row_agrees_with_the_oracle() {
    let (Some(shared), Some(apart)) = (backend(), backend().map(WgpuBackend::apart)) else { return };
    let variant = |name: &str, backend| Variant { name: name.into(), family: name.into(), backend };
    let variants = [variant("wgpu", &shared), variant("wgpu, launches apart", &apart)];
    let report = run_table(&variants, &[DType::F32], &|_| true);
    let faults = &report.faults;
    // Rows that compute with i64, which no shading language has, are the only ones left out.
    println!("{} graphs ran, {} skipped for their dtypes", report.checked, report.skipped);
    assert!(faults.is_empty(), "{} differences in {} graphs:\n{}", faults.len(), report.checked, faults.join("\n"));
    assert!(report.checked > 230 && report.skipped < 15, "{} ran, {} skipped", report.checked, report.skipped);
}
