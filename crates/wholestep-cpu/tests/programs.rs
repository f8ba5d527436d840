//! Random programs, three ways. `cargo xtask programs` runs more of them and shrinks what it finds.

#[path = "common/differ.rs"]
mod differ;
#[path = "../../wholestep-compiler/tests/plan/interpreter.rs"]
mod interpreter;

use differ::Differ;
use wholestep_compiler::cases::program::words;
use wholestep_compiler::ir::DType;

#[test]
fn oracle_interpreter_and_backend_agree_on_random_programs() {
    let differ = Differ::new();
    let mut faults = Vec::new();
    for seed in 0..300 {
        let words = words(seed, 40 + (seed as usize % 8) * 30);
        let float = if seed % 4 == 0 { DType::F32 } else { DType::F64 };
        faults.extend(differ.fault(&words, float).map(|fault| format!("seed {seed} {float}: {fault}")));
    }
    assert!(faults.is_empty(), "{} faults:\n{}", faults.len(), faults.join("\n"));
}
