//! Random erasure. Takes activations, gives them with some elements zero while training. Never changes anything in inference.

use super::place::{Place, has_failed};
use serde::{Deserialize, Serialize};
use wholestep_compiler::ir::{Scope, Tensor};

/// What a [`Dropout`] is.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DropoutSpec {
    /// The probability that an element is dropped.
    pub p: f64,
}

impl DropoutSpec {
    /// `p` is the part that is dropped, in \[0, 1\]; PyTorch's default is 0.5.
    pub fn new(p: f64) -> DropoutSpec {
        DropoutSpec { p }
    }
}

/// In training each element is 0 with probability `p` and `x / (1 - p)` otherwise, drawn anew at each step; in inference, and below
/// [`Scope::eval`], the identity.
///
/// Shapes: any -> the same. The mask depends on nothing but the seed, the step and the layer's place in the program.
/// Errors: `p` is not in [0, 1]; `x` is no float.
/// Paper: Srivastava et al. 2014. Matches PyTorch `nn.Dropout` in distribution.
#[derive(Debug)]
pub struct Dropout {
    p: f64,
    place: Place,
}

impl Dropout {
    /// `p` is the part that is dropped. Errors: it is not in \[0, 1\].
    #[track_caller]
    pub fn new(s: &Scope, p: f64) -> Dropout {
        let place = Place::new(s, "Dropout");
        if !(0.0..=1.0).contains(&p) {
            place.reject(
                format!("need a probability in [0, 1], got {p}"),
                "p is the part that is dropped, as in PyTorch",
            );
        }
        Dropout { p, place }
    }

    /// As `spec` says.
    #[track_caller]
    pub fn with(s: &Scope, spec: &DropoutSpec) -> Dropout {
        Dropout::new(s, spec.p)
    }

    /// `x` of any shape -> the same shape; two calls in one step draw two masks. Errors: `x` is no float.
    #[track_caller]
    pub fn forward(&self, x: &Tensor) -> Tensor {
        if has_failed(x) {
            return x.clone();
        }
        if !x.dtype().is_float() {
            let message = format!("need a float, got {}", x.dtype());
            return self.place.refuse(x, message, "convert with .cast(DType::F32)");
        }
        x.dropout(&self.place.scope, self.p)
    }
}
