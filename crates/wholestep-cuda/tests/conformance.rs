//! Every row of the table of ops, forward and with gradients, compiled for this backend and run by it, against the f64 oracle, at batch sizes
//! below and at the size that memory was laid out for: as small steps in one kernel, as a chain of kernels of ours, and with products by the library.
//! Without a GPU it says that it was skipped, unless `REQUIRE_CUDA` is set.

use wholestep_compiler::backend::{Backend, DeviceError, Executable};
use wholestep_compiler::caps::Caps;
use wholestep_compiler::conformance::{Variant, run_table};
use wholestep_compiler::ir::DType;
use wholestep_compiler::plan::{Layout, Plan};
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

/// Values share memory however few they are, so that the library works in that of values which are not alive.
struct Sparing(CudaBackend);

impl Backend for Sparing {
    fn caps(&self) -> Caps {
        self.0.caps()
    }

    fn load(&self, plan: &Plan, layout: &Layout) -> Result<Box<dyn Executable>, DeviceError> {
        let plan = Plan { spares_memory: true, ..plan.clone() };
        self.0.load(&plan, &Layout::new(&plan, &self.caps(), layout.max_batch))
    }
}

fn by_library() -> Option<Sparing> {
    backend(Products::Library).map(|backend| Sparing(backend.apart()))
}

fn check(name: &str, backend: Option<impl Backend>, floats: &[DType], at_least: usize) {
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
    check("products by the library", by_library(), &[DType::F32], 230);
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
    check("16 bits, products by the library", by_library(), &[DType::F16, DType::BF16], 400);
}
