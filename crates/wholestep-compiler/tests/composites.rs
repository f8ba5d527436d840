//! Composite ops by themselves: gradients against central differences, the same program at several batch sizes, no panic after an error,
//! whole error messages, random numbers.

#[path = "composites/cases.rs"]
mod cases;
#[path = "composites/errors.rs"]
mod errors;
#[path = "composites/gradients.rs"]
mod gradients;
#[path = "composites/random.rs"]
mod random;
