//! Passes: `Graph -> Graph`, each a free function in a file of its own. Takes the traced step, gives one that computes the same values
//! with less. Never changes a slot's meaning, an output's name or what a random node draws.

mod cse;
mod dce;
mod factor;
mod fold;
mod layout;
mod mask;
mod position;
mod precision;
mod regroup;
pub mod remat;
pub mod rewrite;
mod simplify;
mod total;
mod unchanged;

pub use cse::cse;
pub use dce::dce;
pub use factor::factor;
pub use fold::fold;
pub use layout::layout;
pub use mask::mask;
pub use position::position;
pub use precision::precision;
pub use regroup::regroup;
pub use simplify::simplify;
pub use total::total;
pub use unchanged::unchanged;

use crate::ir::Graph;

/// A pass with its name in dumps and logs.
pub type Pass = (&'static str, fn(&Graph) -> Graph);

/// The passes in order, each with the reason for its place.
pub const PASSES: &[Pass] = &[
    // Autodiff leaves much that nobody asked for; what is dead need not be thought about.
    ("dce", dce),
    // A branch carries all that it might change; what it does not need not be carried.
    ("unchanged", unchanged),
    // Known values first: they turn later ops into identities.
    ("fold", fold),
    // Identities go, so that layout sees ops next to the permutations that surround convolutions.
    ("simplify", simplify),
    // Equal permutations of one weight become one node, which layout then moves into the slot.
    ("cse", cse),
    ("layout", layout),
    // Layout leaves permutations that cancel.
    ("simplify", simplify),
    ("cse", cse),
    // Sums lose their factors once equal nodes are one node, so that a mean is recognized; the factors leave identities and equal sums.
    ("factor", factor),
    ("fold", fold),
    ("simplify", simplify),
    ("cse", cse),
    // Once a sum that two ask for is one node: what two read stays as it is.
    ("total", total),
    // Once the product that is there anyway is one node, and before masks are left out of the sum.
    ("regroup", regroup),
    ("dce", dce),
    // Once nothing is left that nobody reads, it is known what the backward pass keeps.
    ("mask", mask),
    // Behind the last cse, which would make one mask of all again.
    ("position", position),
    // Last: each user of a 16-bit value has a widening cast of its own, which cse would join.
    ("precision", precision),
    ("dce", dce),
    // After these, in `compile`: `remat`, which is told what to compute again.
];
