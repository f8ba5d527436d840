//! Random programs, three ways, as many as wanted: `programs N [FIRST]`. Takes how many and the first seed, gives each fault with the smallest
//! program that has it. Never part of CI; `tests/programs.rs` runs the first few.

#[path = "../tests/common/differ.rs"]
mod differ;
#[path = "../../wholestep-compiler/tests/plan/interpreter.rs"]
mod interpreter;

use differ::Differ;
use wholestep_compiler::cases::program::{program, shrink, words};
use wholestep_compiler::ir::DType;

fn main() {
    let mut numbers = std::env::args().skip(1).map(|a| a.parse::<u32>().expect("a whole number"));
    let n = numbers.next().unwrap_or(1000);
    let first = numbers.next().unwrap_or(0);
    std::panic::set_hook(Box::new(|_| {}));
    let differ = Differ::new();
    let mut n_faults = 0;
    for seed in first..first + n {
        let float = if seed % 4 == 0 { DType::F32 } else { DType::F64 };
        let words = words(seed, 40 + (seed as usize % 8) * 30);
        let Some(fault) = differ.fault(&words, float) else { continue };
        n_faults += 1;
        println!("seed {seed} {float}: {fault}");
        let kind = kind(&fault);
        let small = shrink(&words, |w| differ.fault(w, float).is_some_and(|f| self::kind(&f) == kind));
        println!("  shrunk: {}", differ.fault(&small, float).unwrap_or_default());
        println!("  {small:?}");
        println!("{}", program(&small, float));
        if n_faults == 5 {
            break;
        }
    }
    println!("{n_faults} faults in seeds {first}..{}", first + n);
    std::process::exit(i32::from(n_faults > 0));
}

/// The part of a fault that stays while it shrinks.
fn kind(fault: &str) -> String {
    let head = fault.split([',', ':', '(']).next().unwrap_or_default();
    if fault.contains("bug") { fault.chars().take(30).collect() } else { head.to_string() }
}
