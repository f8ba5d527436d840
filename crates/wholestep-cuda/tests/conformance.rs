//! Every row of the table of ops, forward and with gradients, compiled for this backend and run by it, against the f64 oracle, at batch sizes
//! below and at the size that memory was laid out for: as small steps in one kernel, as a chain of kernels of ours, and with products by the library.
//! Without a GPU it says that it was skipped, unless `REQUIRE_CUDA` is set.

use wholestep_compiler::backend::DeviceError;
use wholestep_compiler::conformance::{Variant, run_table};
use wholestep_compiler::ir::DType;
use wholestep_cuda::{Config, CudaBackend, Products};

fn backend(products: Products) -> Option<CudaBackend> {
    match CudaBackend::with(0, Config { products, ..Config::default() }) {
        Ok(backend) => Some(backend),
        Err(DeviceError::Absent(why)) if std::env::var_os("REQUIRE_CUDA").is_none() => {
            println!("skipped: no cuda ({why})");
            None
        }
        Err(e) => panic!("REQUIRE_CUDA is set and the device does not open: {e}"),
    }
}

fn check(name: &str, backend: Option<CudaBackend>, floats: &[DType], at_least: usize) {
    let Some(backend) = backend else { return };
    let variants = [Variant { name: name.into(), family: name.into(), backend: &backend }];
    let report = run_table(&variants, floats, &|_| true);
    let faults = &report.faults;
    println!("{name}: {} graphs ran, {} skipped", report.checked, report.skipped);
    assert!(report.checked > at_least && report.skipped == 0, "{} ran, {} skipped", report.checked, report.skipped);
    assert!(faults.is_empty(), "{} differences in {} graphs:\n{}", faults.len(), report.checked, faults.join("\n"));
}

#[test]
fn every_row_agrees_with_the_oracle() {
    check("small steps in one kernel", backend(Products::Own), &[DType::F32], 230);
}

#[test]
fn every_row_agrees_with_launches_apart() {
    check("launches apart", backend(Products::Own).map(CudaBackend::apart), &[DType::F32], 230);
}

#[test]
fn every_row_agrees_with_products_by_the_library() {
    let backend = backend(Products::Library).map(CudaBackend::apart);
    check("products by the library", backend, &[DType::F32], 230);
}

#[test]
fn rows_of_f64_agree_with_the_oracle() {
    check("f64", backend(Products::Library), &[DType::F64], 230);
}

/// All kinds of kernels read and write 16 bits.
#[test]
fn rows_kept_in_16_bits_agree_with_the_oracle() {
    check("16 bits", backend(Products::Own), &[DType::F16, DType::BF16], 400);
}

#[test]
fn rows_kept_in_16_bits_agree_with_products_by_the_library() {
    let backend = backend(Products::Library).map(CudaBackend::apart);
    check("16 bits, products by the library", backend, &[DType::F16, DType::BF16], 400);
}
