//! The closed set of primitive ops, by family. Takes an op and its operands' types, gives the result's type, its value (the oracle)
//! and its gradient; each family file holds all three for its ops. Never holds a composite op: those are maths in `ops/`.

pub mod contract;
pub mod control;
pub mod elementwise;
pub mod index;
pub mod leaf;
pub mod movement;
pub mod random;
pub mod reduce;
pub mod window;

pub use contract::{Contract, ConvGeometry};
pub use control::Control;
pub use elementwise::{Binary, Elementwise, Unary};
pub use index::Index;
pub use leaf::Leaf;
pub use movement::{Movement, SliceAxis};
pub use random::Random;
pub use reduce::Reduce;
pub use window::{Window, WindowGeometry};

use super::{DType, EvalSite, Shape, Tensor, Value};

/// A primitive op. Operands are the node's inputs, in the order each family states.
///
/// Attention and collective (all-reduce …) are families of their own that join this list with the backends that need them.
#[derive(Clone, Debug, PartialEq)]
pub enum Op {
    Leaf(Leaf),
    Elementwise(Elementwise),
    Movement(Movement),
    Reduce(Reduce),
    Contract(Contract),
    Window(Window),
    Index(Index),
    Random(Random),
    Control(Control),
}

/// What the rules of an op need to know of an operand.
#[derive(Clone, Debug, PartialEq)]
pub struct Type {
    pub dtype: DType,
    pub shape: Shape,
}

/// The message of a shape or dtype rule: what was needed and what came, without position (the graph adds that).
#[derive(Clone, Debug, PartialEq)]
pub struct RuleError {
    /// "need lhs.dim(-1) == rhs.dim(-2), got 768 and 512".
    pub message: String,
    /// "Linear::new(n_in, n_out): n_in is 512, x has 768 channels".
    pub help: Option<String>,
}

impl RuleError {
    pub fn new(message: impl Into<String>) -> RuleError {
        RuleError { message: message.into(), help: None }
    }

    pub fn help(mut self, help: impl Into<String>) -> RuleError {
        self.help = Some(help.into());
        self
    }
}

/// The gradient of an op.
#[derive(Clone, Debug)]
pub enum Vjp {
    /// By operand. `None` where nothing flows: the operand is not wanted, holds no floats, or the derivative is zero everywhere that it
    /// exists (`floor`) or by decree (`detach`).
    Grads(Vec<Option<Tensor>>),
    /// The op has no derivative: its result is discrete (an index, a comparison, bits).
    NotDifferentiable,
}

impl Vjp {
    /// No operand receives anything.
    pub(crate) fn nothing(n_operands: usize) -> Vjp {
        Vjp::Grads(vec![None; n_operands])
    }
}

impl Op {
    /// The result's dtype and shape, or why there is none.
    pub fn infer(&self, operands: &[Type]) -> Result<Type, RuleError> {
        match self {
            Op::Leaf(op) => op.infer(operands),
            Op::Elementwise(op) => op.infer(operands),
            Op::Movement(op) => op.infer(operands),
            Op::Reduce(op) => op.infer(operands),
            Op::Contract(op) => op.infer(operands),
            Op::Window(op) => op.infer(operands),
            Op::Index(op) => op.infer(operands),
            Op::Random(op) => op.infer(operands),
            Op::Control(op) => op.infer(operands),
        }
    }

    /// The result's elements, computed naively in f64.
    pub fn eval(&self, operands: &[&Value], site: &EvalSite) -> Vec<f64> {
        match self {
            Op::Leaf(op) => op.eval(site),
            Op::Elementwise(op) => op.eval(operands, site),
            Op::Movement(op) => op.eval(operands, site),
            Op::Reduce(op) => op.eval(operands, site),
            Op::Contract(op) => op.eval(operands, site),
            Op::Window(op) => op.eval(operands, site),
            Op::Index(op) => op.eval(operands, site),
            Op::Random(op) => op.eval(operands, site),
            Op::Control(op) => panic!("bug: {} has no value outside of its loop", op.name()),
        }
    }

    /// The gradient of the operands `x` that are `wanted`, given the result `y` and its gradient `d_y`, as new nodes.
    pub fn vjp(&self, x: &[Tensor], y: &Tensor, d_y: &Tensor, wanted: &[bool]) -> Vjp {
        match self {
            Op::Leaf(op) => op.vjp(),
            Op::Elementwise(op) => op.vjp(x, y, d_y, wanted),
            Op::Movement(op) => op.vjp(x, d_y, wanted),
            Op::Reduce(op) => op.vjp(x, y, d_y),
            Op::Contract(op) => op.vjp(x, d_y, wanted),
            Op::Window(op) => op.vjp(x, d_y),
            Op::Index(op) => op.vjp(x, d_y),
            Op::Random(op) => op.vjp(),
            Op::Control(op) => op.vjp(),
        }
    }

    /// The op's name in error messages and printed graphs.
    pub fn name(&self) -> &'static str {
        match self {
            Op::Leaf(op) => op.name(),
            Op::Elementwise(op) => op.name(),
            Op::Movement(op) => op.name(),
            Op::Reduce(op) => op.name(),
            Op::Contract(op) => op.name(),
            Op::Window(op) => op.name(),
            Op::Index(op) => op.name(),
            Op::Random(op) => op.name(),
            Op::Control(op) => op.name(),
        }
    }
}

macro_rules! op_from_family {
    ($($family:ident),+) => {
        $(impl From<$family> for Op {
            fn from(op: $family) -> Op {
                Op::$family(op)
            }
        })+
    };
}
op_from_family!(Leaf, Elementwise, Movement, Reduce, Contract, Window, Index, Random, Control);
