//! Every row of the table of ops, forward and with gradients, compiled for this backend and run by it, against the f64 oracle, at batch sizes
//! below and at the size that memory was laid out for. Without a GPU it says that it was skipped, unless `REQUIRE_CUDA` is set.

use wholestep_compiler::backend::DeviceError;
use wholestep_compiler::conformance::{Variant, run_table};
use wholestep_compiler::ir::DType;
use wholestep_cuda::CudaBackend;

fn backend() -> Option<CudaBackend> {
    match CudaBackend::new(0) {
        Ok(backend) => Some(backend),
        Err(DeviceError::Absent(why)) if std::env::var_os("REQUIRE_CUDA").is_none() => {
            println!("skipped: no cuda ({why})");
            None
        }
        Err(e) => panic!("REQUIRE_CUDA is set and the device does not open: {e}"),
    }
}

fn run(floats: &[DType], at_least: usize) {
    let Some(backend) = backend() else { return };
    let variants = [Variant { name: "cuda".into(), family: "cuda".into(), backend: &backend }];
    let report = run_table(&variants, floats, &|_| true);
    let faults = &report.faults;
    println!("{} graphs ran, {} skipped for their dtypes", report.checked, report.skipped);
    // Loops on the device are left out.
    assert!(report.checked > at_least && report.skipped < 20, "{} ran, {} skipped", report.checked, report.skipped);
    assert!(faults.is_empty(), "{} differences in {} graphs:\n{}", faults.len(), report.checked, faults.join("\n"));
}

#[test]
fn every_row_agrees_with_the_oracle() {
    run(&[DType::F32], 230);
}

#[test]
fn rows_of_f64_agree_with_the_oracle() {
    run(&[DType::F64], 230);
}

/// All kinds of kernels read and write 16 bits.
#[test]
fn rows_kept_in_16_bits_agree_with_the_oracle() {
    run(&[DType::F16, DType::BF16], 400);
}
