//! Every row of the table of ops, forward and with gradients, compiled for this backend and run by it, against the f64 oracle, at batch sizes
//! below and at the size that memory was laid out for. Without an adapter it says that it was skipped, unless `REQUIRE_WGPU` is set.

use wholestep_compiler::backend::DeviceError;
use wholestep_compiler::conformance::{Variant, run_table};
use wholestep_compiler::ir::DType;
use wholestep_wgpu::WgpuBackend;

#[test]
fn every_row_agrees_with_the_oracle() {
    let backend = match WgpuBackend::new(0) {
        Ok(backend) => backend,
        Err(DeviceError::Absent(why)) if std::env::var_os("REQUIRE_WGPU").is_none() => {
            println!("skipped: no wgpu adapter ({why})");
            return;
        }
        Err(e) => panic!("REQUIRE_WGPU is set and the device does not open: {e}"),
    };
    let variants = [Variant { name: "wgpu".into(), family: "wgpu".into(), backend: &backend }];
    let report = run_table(&variants, &[DType::F32], &|_| true);
    let faults = &report.faults;
    // Rows that compute with i64, which no shading language has, are the only ones left out.
    println!("{} graphs ran, {} skipped for their dtypes", report.checked, report.skipped);
    assert!(report.checked > 230 && report.skipped < 10, "{} ran, {} skipped", report.checked, report.skipped);
    assert!(faults.is_empty(), "{} differences in {} graphs:\n{}", faults.len(), report.checked, faults.join("\n"));
}
