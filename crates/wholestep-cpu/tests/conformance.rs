//! Every row of the table of ops, forward and with gradients, compiled for this backend and run by it, against the f64 oracle: in f32 and
//! f64, at batch sizes below and at the size that memory was laid out for, at every instruction level and thread count, in poisoned memory.

use wholestep_compiler::conformance::{Variant, run_table};
use wholestep_compiler::ir::DType;
use wholestep_cpu::loops::level::Level;
use wholestep_cpu::simd::Isa;
use wholestep_cpu::{Config, CpuBackend};

fn configs() -> Vec<Config> {
    let levels = [(Level::Baseline, Isa::Scalar), (Level::Avx2, Isa::Avx2), (Level::Avx512, Isa::Avx512)];
    let available = levels.into_iter().filter(|(level, isa)| level.is_available() && isa.is_available());
    let of = |(level, isa)| {
        [1, 2, 3].map(|n_threads| Config {
            n_threads,
            level,
            isa,
            poison: true,
            plain_contractions: false,
            plain_loops: false,
        })
    };
    available.flat_map(of).collect()
}

#[test]
fn every_row_agrees_with_the_oracle_at_all_levels_threads_and_batch_sizes() {
    let backends: Vec<(Config, CpuBackend)> = configs().into_iter().map(|c| (c, CpuBackend::new(c))).collect();
    let variants: Vec<Variant> = backends
        .iter()
        .map(|(c, backend)| Variant {
            name: format!("{:?} with {} threads", c.level, c.n_threads),
            family: format!("{:?}", c.level),
            backend,
        })
        .collect();
    let report = run_table(&variants, &[DType::F32, DType::F64], &|_| true);
    assert!(report.checked > 300, "only {} graphs were there to check", report.checked);
    assert_eq!(report.skipped, 0);
    let faults = &report.faults;
    assert!(faults.is_empty(), "{} differences in {} graphs:\n{}", faults.len(), report.checked, faults.join("\n"));
}

/// As in mixed precision: all kinds of kernels read and write 16 bits.
#[test]
fn rows_kept_in_16_bits_agree_with_the_oracle() {
    let backends: Vec<(Config, CpuBackend)> =
        configs().into_iter().filter(|c| c.n_threads == 2).map(|c| (c, CpuBackend::new(c))).collect();
    let name = |c: &Config| format!("{:?}", c.level);
    let variants: Vec<Variant> =
        backends.iter().map(|(c, backend)| Variant { name: name(c), family: name(c), backend }).collect();
    let report = run_table(&variants, &[DType::F16, DType::BF16], &|_| true);
    let faults = &report.faults;
    assert!(report.checked > 400 && report.skipped == 0, "{} ran, {} skipped", report.checked, report.skipped);
    assert!(faults.is_empty(), "{} differences in {} graphs:\n{}", faults.len(), report.checked, faults.join("\n"));
}
