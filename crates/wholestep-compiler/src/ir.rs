//! The graph a user's closure traces: typed nodes in an arena. Takes ops and shapes, gives a [`Graph`] that can be cloned, compared
//! and printed. Never holds data, a device or a closure.

#[cfg(any(test, feature = "cases"))]
#[doc(hidden)]
pub mod case;
pub mod dtype;
pub mod error;
pub mod graph;
pub mod loops;
pub mod names;
// A primitive's fields and rules are said with its variant.
#[allow(missing_docs)]
pub mod op;
pub(crate) mod prim;
pub mod print;
pub mod scope;
pub mod shape;
pub mod tensor;
pub mod value;
pub mod verify;
pub(crate) mod vjp;

pub use dtype::DType;
pub use error::BuildError;
pub use graph::{
    CustomVjp, Fit, Graph, Init, InputDecl, InputId, Loc, Node, NodeId, OutputDecl, Slot, SlotId, SlotKind,
};
pub use op::Op;
pub use scope::Scope;
pub use shape::{Batch, Dim, Shape};
pub use tensor::Tensor;
pub use value::{EvalSite, Value};
