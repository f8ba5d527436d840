//! Text of kernels: one line an instruction. Takes a kernel, gives text that goldens and `WHOLESTEP_DUMP` show. Never a device's language.

use super::{Contract, Contraction, Instr, Kernel, Loop, Map, Scan, Scatter, Sort, WindowKernel};
use crate::ir::Dim;
use std::fmt;

impl fmt::Display for Kernel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Kernel::Loop(k) => k.fmt(f),
            Kernel::Contract(k) => k.fmt(f),
            Kernel::Window(k) => k.fmt(f),
            Kernel::Scatter(k) => k.fmt(f),
            Kernel::Sort(k) => k.fmt(f),
            Kernel::Scan(k) => k.fmt(f),
        }
    }
}

/// "B, 32, 32".
fn dims(axes: &[Dim]) -> String {
    axes.iter().map(Dim::to_string).collect::<Vec<_>>().join(", ")
}

impl fmt::Display for Map {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "[{}]", dims(&self.strides))?;
        if self.offset != Dim::ZERO {
            write!(f, "+{}", self.offset)?;
        }
        for g in &self.guards {
            write!(f, " if {:?}+{} in 0..{}", g.strides, g.offset, g.extent)?;
        }
        Ok(())
    }
}

impl fmt::Display for Loop {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "loop [{} | {}]", dims(&self.axes[..self.n_outer]), dims(&self.axes[self.n_outer..]))?;
        for (i, instr) in self.instrs.iter().enumerate() {
            write!(f, "  v{i} = ")?;
            match instr {
                Instr::Load { arg, map, fill } => {
                    let fill = if map.guards.is_empty() { String::new() } else { format!(" else {fill}") };
                    writeln!(f, "load a{arg}{map}{fill}")?;
                }
                Instr::Gather { arg, map, index, stride, len } => {
                    writeln!(f, "gather a{arg}{map} + {stride}*clamp(v{}, {len})", index.0)?;
                }
                Instr::Index { map, dtype } => writeln!(f, "index {map} {dtype}")?,
                Instr::Random { map, stream, key, step } => {
                    writeln!(f, "random {map} stream {stream} key a{key} step a{step}")?
                }
                Instr::Const { value, dtype } => writeln!(f, "const {value} {dtype}")?,
                Instr::Extent { dim, dtype } => writeln!(f, "extent {dim} {dtype}")?,
                Instr::Unary { op, x } => writeln!(f, "{} v{}", op.name(), x.0)?,
                Instr::Binary { op, x, y } => writeln!(f, "{} v{} v{}", op.name(), x.0, y.0)?,
                Instr::Select { cond, yes, no } => writeln!(f, "where v{} v{} v{}", cond.0, yes.0, no.0)?,
                Instr::Cast { to, x } => writeln!(f, "cast v{} {to}", x.0)?,
                Instr::Reduce { op, x } => writeln!(f, "reduce {op:?} v{}", x.0)?,
            }
        }
        for s in &self.stores {
            writeln!(f, "  store a{}{} = v{}", s.arg, s.map, s.value.0)?;
        }
        Ok(())
    }
}

impl fmt::Display for Contract {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.contraction {
            Contraction::Matmul { batch, m, n, k, lhs, rhs } => {
                writeln!(f, "matmul [{}] m {m} n {n} k {k}  lhs a0{lhs}  rhs a1{rhs}", dims(batch))?;
            }
            Contraction::Conv(s) => writeln!(f, "conv {s:?}")?,
            Contraction::ConvInputGrad(s) => writeln!(f, "conv_input_grad {s:?}")?,
            Contraction::ConvWeightGrad(s) => writeln!(f, "conv_weight_grad {s:?}")?,
        }
        if let Some(triangle) = &self.triangle {
            writeln!(f, "  {triangle}")?;
        }
        let place = if self.keeps_sums() { "" } else { " of sums that are not kept" };
        match &self.epilogue {
            Some(epilogue) => write!(f, "epilogue{place} {epilogue}"),
            None => Ok(()),
        }
    }
}

impl fmt::Display for WindowKernel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "window {:?} [{}, {:?}, {}] {:?}", self.op, self.n, self.input, self.channels, self.geometry)
    }
}

impl fmt::Display for Scatter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let form = if self.along { "along" } else { "slices" };
        let form = if self.replaces { "replacing" } else { form };
        writeln!(f, "scatter {form} [{}, {} -> {}, {}]", self.outer, self.n_index, self.len, self.inner)
    }
}

impl fmt::Display for Sort {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let order = if self.descending { "descending" } else { "ascending" };
        writeln!(f, "argsort {order} [{}, {}, {}]", self.outer, self.len, self.inner)
    }
}

impl fmt::Display for Scan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let from = if self.reverse { " from the end" } else { "" };
        writeln!(f, "cumsum{from} [{}, {}, {}]", self.outer, self.len, self.inner)
    }
}
