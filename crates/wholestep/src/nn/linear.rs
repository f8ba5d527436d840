//! Affine maps and lookup tables. Takes features or whole numbers, gives features. Never flattens: an image needs a `Flatten` before.

use super::place::{Place, has_failed, is_extent};
use super::{Initializer, yes};
use serde::{Deserialize, Serialize};
use wholestep_compiler::ir::{Scope, Tensor};

/// What a [`Linear`] is, without the size of its input.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LinearSpec {
    /// n_out, at least 1.
    pub out_features: usize,
    /// Whether `bias [n_out]` is added; by default it is.
    #[serde(default = "yes")]
    pub bias: bool,
    /// Absent: PyTorch's default.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub weight_init: Option<Initializer>,
    /// Absent: PyTorch's default.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bias_init: Option<Initializer>,
}

impl LinearSpec {
    /// With a bias and PyTorch's initial values.
    pub fn new(out_features: usize) -> LinearSpec {
        LinearSpec { out_features, bias: true, weight_init: None, bias_init: None }
    }

    /// Whether `bias [n_out]` is added; by default it is.
    pub fn bias(self, bias: bool) -> LinearSpec {
        LinearSpec { bias, ..self }
    }

    /// How `weight` starts instead of U(±1/√n_in).
    pub fn weight_init(self, init: Initializer) -> LinearSpec {
        LinearSpec { weight_init: Some(init), ..self }
    }

    /// How `bias` starts instead of U(±1/√n_in).
    pub fn bias_init(self, init: Initializer) -> LinearSpec {
        LinearSpec { bias_init: Some(init), ..self }
    }
}

/// An affine map of the last axis: `x Wᵀ + b`.
///
/// Shapes: `x [.., n_in]` -> `[.., n_out]`; parameters `weight [n_out, n_in]`, `bias [n_out]`.
/// Errors: the last axis of `x` is not `n_in`; a size is 0.
/// Matches PyTorch `nn.Linear`, its default values included.
#[derive(Debug)]
pub struct Linear {
    weight: Tensor,
    bias: Option<Tensor>,
    n_in: usize,
    place: Place,
}

impl Linear {
    /// With a bias and PyTorch's initial values.
    #[track_caller]
    pub fn new(s: &Scope, n_in: usize, n_out: usize) -> Linear {
        Linear::with(s, n_in, &LinearSpec::new(n_out))
    }

    /// As `spec` says.
    #[track_caller]
    pub fn with(s: &Scope, n_in: usize, spec: &LinearSpec) -> Linear {
        let place = Place::new(s, "Linear");
        place.need_sizes(1, &[("in_features", n_in), ("out_features", spec.out_features)]);
        let weight_init = spec.weight_init.unwrap_or(Initializer::TORCH_WEIGHT);
        let weight = place.param("weight", &[spec.out_features, n_in], &weight_init);
        let bias_init = spec.bias_init.unwrap_or(Initializer::torch_bias(n_in));
        let bias = match spec.bias {
            true => Some(place.param("bias", &[spec.out_features], &bias_init)),
            false => None,
        };
        Linear { weight, bias, n_in, place }
    }

    /// `[.., n_in]` -> `[.., n_out]`, rank 1 up. Errors: the last axis is not `n_in`.
    #[track_caller]
    pub fn forward(&self, x: &Tensor) -> Tensor {
        if has_failed(x) {
            return x.clone();
        }
        match x.shape().dims().last() {
            Some(&last) if is_extent(last, self.n_in) => x.linear(&self.weight, self.bias.as_ref()),
            last => {
                let found = last.map_or("a scalar".to_string(), |d| format!("{d} features"));
                let message = format!("need x [.., {}], got {}", self.n_in, x.shape());
                // What a flatten would make of it.
                let dims = x.shape();
                let per_sample = dims.dims().iter().skip(1).map(|d| d.as_fixed()).product::<Option<usize>>();
                let is_unflattened = dims.rank() > 2 && per_sample == Some(self.n_in);
                let flatten = if is_unflattened { "; give it x.flatten(1, -1)" } else { "" };
                self.place.refuse(
                    x,
                    message,
                    format!("Linear::new(s, n_in, n_out): n_in is {}, x has {found}{flatten}", self.n_in),
                )
            }
        }
    }
}

/// What an [`Embedding`] is.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct EmbeddingSpec {
    /// Rows of the table, n: indices are `0..n`.
    pub num_embeddings: usize,
    /// Elements of a row, d.
    pub embedding_dim: usize,
    /// Absent: N(0, 1), PyTorch's default.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub weight_init: Option<Initializer>,
}

impl EmbeddingSpec {
    /// A table `[n, d]` whose rows start as N(0, 1).
    pub fn new(num_embeddings: usize, embedding_dim: usize) -> EmbeddingSpec {
        EmbeddingSpec { num_embeddings, embedding_dim, weight_init: None }
    }

    /// How the table starts instead of N(0, 1).
    pub fn weight_init(self, init: Initializer) -> EmbeddingSpec {
        EmbeddingSpec { weight_init: Some(init), ..self }
    }
}

/// A table of vectors: row `x[i]` for each whole number of `x`.
///
/// Shapes: `x [..]` whole numbers in `0..n` -> `[.., d]`; parameter `weight [n, d]`. Declare `x` with `Scope::labels`, which checks the
/// range when a batch is handed over; on the device an index out of range reads the nearest row.
/// Errors: `x` is no whole number; a size is 0.
/// Matches PyTorch `nn.Embedding` without `padding_idx`.
#[derive(Debug)]
pub struct Embedding {
    weight: Tensor,
    place: Place,
}

impl Embedding {
    /// `n` rows of `d` elements drawn from N(0, 1).
    #[track_caller]
    pub fn new(s: &Scope, n: usize, d: usize) -> Embedding {
        Embedding::with(s, &EmbeddingSpec::new(n, d))
    }

    /// As `spec` says.
    #[track_caller]
    pub fn with(s: &Scope, spec: &EmbeddingSpec) -> Embedding {
        let place = Place::new(s, "Embedding");
        let (n, d) = (spec.num_embeddings, spec.embedding_dim);
        place.need_sizes(1, &[("num_embeddings", n), ("embedding_dim", d)]);
        let init = spec.weight_init.unwrap_or(Initializer::Normal { mean: 0.0, std: 1.0 });
        Embedding { weight: place.param("weight", &[n, d], &init), place }
    }

    /// Whole numbers `[..]` -> `[.., d]`. Errors: `x` is no whole number; what is out of range is said with the batch, as the type says.
    #[track_caller]
    pub fn forward(&self, x: &Tensor) -> Tensor {
        if has_failed(x) {
            return x.clone();
        }
        if !x.dtype().is_int() {
            let message = format!("need whole numbers, got {}", x.dtype());
            return self.place.refuse(x, message, "declare the input with s.labels(name, shape, DType::U32, n, None)");
        }
        self.weight.embedding(x)
    }
}
