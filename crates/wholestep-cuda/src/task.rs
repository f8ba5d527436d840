//! What libraries make. Takes a contraction and a batch size, gives the product or the convolution that it is, with what kernels of ours do before and
//! after. Never calls a library.

use crate::convolution::{self, Convolution};
use crate::follow::Follower;
use crate::product::{self, Product};
use wholestep_compiler::ir::DType;
use wholestep_compiler::kernel::{Contract, Loop};

#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Task {
    Product(Product),
    Convolution(Convolution),
}

/// What kernels of ours do for a contraction that a library makes.
pub struct Split {
    /// The loop that turns argument 0, the weights, for the library to read as argument 1.
    pub turn: Option<Loop>,
    pub goal: Goal,
    pub rest: Option<Loop>,
}

/// Where the library's result goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Goal {
    /// An argument of the contraction.
    Arg(usize),
    /// Memory of which only `rest` knows, as this argument.
    Scratch(usize),
}

impl Task {
    /// A contraction as a library makes it; a convolution that is a product is one.
    pub fn of(k: &Contract, batch: usize, tf32: bool) -> Option<Task> {
        let convolution = || {
            convolution::split(k)?;
            Convolution::of(k, batch, tf32)
        };
        let product = Product::of(k, batch, tf32).filter(Product::is_aligned).map(Task::Product);
        product.or_else(|| convolution().map(Task::Convolution))
    }

    /// A contraction, with what follows it, as a library makes it on batches of `most`; `None` unless it can on all smaller ones, too.
    pub fn of_all(k: &Contract, follower: Option<&Follower>, most: usize, tf32: bool) -> Option<Task> {
        let of = |batch: usize| {
            let task = Task::of(k, batch, tf32)?;
            follower.map_or(Some(task.clone()), |follower| task.joined(follower, batch))
        };
        // Extents grow with the batch. What is one row, or none, on the smallest ones has no distance to the next.
        let smaller = [1, 2, 3].into_iter().filter(|&batch| batch < most);
        smaller.map(of).collect::<Option<Vec<Task>>>()?;
        of(most)
    }

    /// The same with the loop that follows; `None` where the library cannot say it.
    pub fn joined(&self, follower: &Follower, batch: usize) -> Option<Task> {
        match self {
            Task::Product(p) => follower.joined(p, batch).filter(Product::is_aligned).map(Task::Product),
            Task::Convolution(_) => None,
        }
    }

    /// What kernels of ours do beside the library.
    pub fn split(&self, k: &Contract) -> Split {
        match self {
            Task::Product(_) => {
                let target = product::target(k);
                let rest = k.epilogue.clone().filter(|_| target.has_epilogue);
                Split { turn: None, goal: target.arg.map_or(Goal::Scratch(2), Goal::Arg), rest }
            }
            Task::Convolution(_) => convolution::split(k).expect("bug: a convolution that no library makes"),
        }
    }

    /// By operand: its dtype, and how many elements there are from its first one on.
    pub fn operands(&self) -> [(DType, u64); 2] {
        match self {
            Task::Product(p) => {
                let [lhs, rhs] = p.reach();
                [(p.lhs.dtype, lhs), (p.rhs.dtype, rhs)]
            }
            Task::Convolution(c) => c.operands().map(|n| (c.dtype, n)),
        }
    }

    /// Bytes of both operands that are read, and of the result.
    pub fn bytes(&self) -> u64 {
        let read = match self {
            Task::Product(p) => p.reach(),
            Task::Convolution(c) => c.reads(),
        };
        let operands = self.operands().map(|(dtype, _)| dtype.size_bytes() as u64);
        read[0] * operands[0] + read[1] * operands[1] + self.result_bytes()
    }

    /// The dtype of the result.
    pub fn result(&self) -> DType {
        match self {
            Task::Product(p) => p.result,
            Task::Convolution(c) => c.dtype,
        }
    }

    /// Elements of the result.
    pub fn n_sums(&self) -> u64 {
        match self {
            Task::Product(p) => p.n_sums(),
            Task::Convolution(c) => c.n_sums(),
        }
    }

    /// Products in each sum.
    pub fn depth(&self) -> u64 {
        match self {
            Task::Product(p) => p.k,
            Task::Convolution(c) => c.depth(),
        }
    }

    /// Whether operands of f32 may be rounded to 19 bits.
    pub fn tf32(&self) -> bool {
        match self {
            Task::Product(p) => p.tf32,
            Task::Convolution(c) => c.tf32,
        }
    }

    /// Bytes of the result.
    pub fn result_bytes(&self) -> u64 {
        self.n_sums() * self.result().size_bytes() as u64
    }

    /// Bytes of what a kernel of ours turns for the library: weights in its order, or a bias of the result's dtype.
    pub fn turned_bytes(&self) -> u64 {
        match self {
            Task::Product(p) => p.bias_bytes(),
            Task::Convolution(c) => c.turned_bytes(),
        }
    }

    /// Multiply-adds.
    pub fn work(&self) -> f64 {
        match self {
            Task::Product(p) => p.work(),
            Task::Convolution(c) => c.work(),
        }
    }
}
