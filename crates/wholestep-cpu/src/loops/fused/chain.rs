//! What a fused run of steps computes, without addresses: the key by which its code is found again. Takes the instruction of each step,
//! gives lines of a simpler one. Never knows where lanes lie.

use wholestep_compiler::ir::DType;
use wholestep_compiler::ir::op::{Binary, Unary};

/// What a block function does with each lane.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Lane {
    Unary(Unary, DType),
    /// The dtype of the operands.
    Binary(Binary, DType),
    /// The dtype of what is chosen.
    Select(DType),
    Cast {
        from: DType,
        to: DType,
    },
    MulAdd,
    MulSub,
    NegMulAdd,
    Copy(DType),
}

/// Instructions of a chain, on 16 lanes of 4 bytes or on 16 bits of a mask.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Do {
    Add,
    Sub,
    Mul,
    Div,
    Max,
    Min,
    Sqrt,
    Floor,
    Ceil,
    Round,
    /// a·b + c
    MulAdd,
    /// a·b - c
    MulSub,
    /// c - a·b
    NegMulAdd,
    /// Comparisons of f32 give masks; the number is the manual's predicate.
    Compare(u8),
    CompareSigned(u8),
    CompareUnsigned(u8),
    /// `mask ? b : c`
    Select,
    MaskAnd,
    MaskOr,
    MaskXor,
    MaskNot,
    FromSigned,
    FromUnsigned,
    AddWhole,
    SubWhole,
    MulWhole,
    And,
    Or,
    Xor,
}

/// An operand of a line.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Arg {
    /// The result of a line with `Do`, counted from 0.
    Value(u8),
    /// 4-byte lanes at a pointer.
    Lanes(u8),
    /// Bools at a pointer.
    Bools(u8),
    /// The same 4 bytes for all lanes, at a pointer.
    Uniform(u8),
    Bits(u32),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Line {
    Do {
        what: Do,
        args: [Arg; 3],
        n_args: u8,
    },
    /// Lanes, or the bools of a mask, to a pointer.
    Store {
        to: u8,
        from: Arg,
    },
}

impl Do {
    /// Whether the result is a mask.
    pub fn gives_mask(self) -> bool {
        match self {
            Do::Compare(_) | Do::CompareSigned(_) | Do::CompareUnsigned(_) => true,
            Do::MaskAnd | Do::MaskOr | Do::MaskXor | Do::MaskNot => true,
            Do::Add | Do::Sub | Do::Mul | Do::Div | Do::Max | Do::Min | Do::Sqrt | Do::Floor | Do::Ceil | Do::Round => {
                false
            }
            Do::MulAdd | Do::MulSub | Do::NegMulAdd | Do::Select | Do::FromSigned | Do::FromUnsigned => false,
            Do::AddWhole | Do::SubWhole | Do::MulWhole | Do::And | Do::Or | Do::Xor => false,
        }
    }
}

const ONE: Arg = Arg::Bits(0x3f80_0000);
const ZERO: Arg = Arg::Bits(0);

impl Lane {
    /// Dtypes of the operands, as many as there are.
    pub fn operands(self) -> ([DType; 3], usize) {
        match self {
            Lane::Unary(_, t) | Lane::Copy(t) | Lane::Cast { from: t, .. } => ([t; 3], 1),
            Lane::Binary(_, t) => ([t; 3], 2),
            Lane::Select(t) => ([DType::Bool, t, t], 3),
            Lane::MulAdd | Lane::MulSub | Lane::NegMulAdd => ([DType::F32; 3], 3),
        }
    }

    /// The lines that do it, or `None` where a block function must. `push` adds a line and gives its value.
    pub fn lower(self, x: [Arg; 3], mut push: impl FnMut(Do, &[Arg]) -> Arg) -> Option<Arg> {
        use DType::{Bool, F32, I32, U32};
        let [a, b, c] = x;
        Some(match self {
            Lane::Copy(F32 | I32 | U32 | Bool) => a,
            Lane::MulAdd => push(Do::MulAdd, &[a, b, c]),
            Lane::MulSub => push(Do::MulSub, &[a, b, c]),
            Lane::NegMulAdd => push(Do::NegMulAdd, &[a, b, c]),
            Lane::Select(F32 | I32 | U32) => push(Do::Select, &[a, b, c]),
            Lane::Cast { from: Bool, to: F32 } => push(Do::Select, &[a, ONE, ZERO]),
            Lane::Cast { from: Bool, to: I32 | U32 } => push(Do::Select, &[a, Arg::Bits(1), ZERO]),
            Lane::Cast { from: I32, to: F32 } => push(Do::FromSigned, &[a]),
            Lane::Cast { from: U32, to: F32 } => push(Do::FromUnsigned, &[a]),
            Lane::Cast { from: F32, to: Bool } => push(Do::Compare(NE_UQ), &[a, ZERO]),
            Lane::Cast { from: I32 | U32, to: Bool } => push(Do::CompareUnsigned(4), &[a, ZERO]),
            Lane::Unary(op, F32) => return unary(op, a, push),
            Lane::Unary(Unary::Not, Bool) => push(Do::MaskNot, &[a]),
            Lane::Unary(Unary::Neg, I32 | U32) => push(Do::SubWhole, &[ZERO, a]),
            Lane::Binary(op, F32) => push(binary(op)?, &[a, b]),
            Lane::Binary(op, I32) => push(whole(op, Do::CompareSigned)?, &[a, b]),
            Lane::Binary(op, U32) => push(whole(op, Do::CompareUnsigned)?, &[a, b]),
            Lane::Binary(Binary::And, Bool) => push(Do::MaskAnd, &[a, b]),
            Lane::Binary(Binary::Or, Bool) => push(Do::MaskOr, &[a, b]),
            Lane::Binary(Binary::Xor | Binary::Ne, Bool) => push(Do::MaskXor, &[a, b]),
            Lane::Unary(..) | Lane::Binary(..) | Lane::Select(_) | Lane::Cast { .. } | Lane::Copy(_) => return None,
        })
    }
}

fn unary(op: Unary, x: Arg, mut push: impl FnMut(Do, &[Arg]) -> Arg) -> Option<Arg> {
    Some(match op {
        Unary::Neg => push(Do::Xor, &[x, Arg::Bits(1 << 31)]),
        Unary::Abs => push(Do::And, &[x, Arg::Bits(!(1 << 31))]),
        Unary::Sqrt => push(Do::Sqrt, &[x]),
        Unary::Rsqrt => {
            let root = push(Do::Sqrt, &[x]);
            push(Do::Div, &[ONE, root])
        }
        Unary::Recip => push(Do::Div, &[ONE, x]),
        Unary::Floor => push(Do::Floor, &[x]),
        Unary::Ceil => push(Do::Ceil, &[x]),
        Unary::Round => push(Do::Round, &[x]),
        Unary::Sign | Unary::Not | Unary::Detach => return None,
        Unary::Exp | Unary::Expm1 | Unary::Log | Unary::Log1p | Unary::Sin | Unary::Cos => return None,
        Unary::Tanh | Unary::Sigmoid | Unary::Erf => return None,
        Unary::Asin | Unary::Acos | Unary::Atan | Unary::Asinh => return None,
    })
}

/// Predicates of VCMPPS: quiet, false for NaN but for "not equal".
const EQ_OQ: u8 = 0x00;
const NE_UQ: u8 = 0x04;
const LT_OQ: u8 = 0x11;
const LE_OQ: u8 = 0x12;
const GE_OQ: u8 = 0x1d;
const GT_OQ: u8 = 0x1e;

fn binary(op: Binary) -> Option<Do> {
    Some(match op {
        Binary::Add => Do::Add,
        Binary::Sub => Do::Sub,
        Binary::Mul => Do::Mul,
        Binary::Div => Do::Div,
        Binary::Max => Do::Max,
        Binary::Min => Do::Min,
        Binary::Eq => Do::Compare(EQ_OQ),
        Binary::Ne => Do::Compare(NE_UQ),
        Binary::Lt => Do::Compare(LT_OQ),
        Binary::Le => Do::Compare(LE_OQ),
        Binary::Gt => Do::Compare(GT_OQ),
        Binary::Ge => Do::Compare(GE_OQ),
        Binary::Rem | Binary::Pow | Binary::Atan2 => return None,
        Binary::And | Binary::Or | Binary::Xor | Binary::Shl | Binary::Shr => return None,
    })
}

fn whole(op: Binary, compare: fn(u8) -> Do) -> Option<Do> {
    Some(match op {
        Binary::Add => Do::AddWhole,
        Binary::Sub => Do::SubWhole,
        Binary::Mul => Do::MulWhole,
        Binary::Eq => compare(0),
        Binary::Lt => compare(1),
        Binary::Le => compare(2),
        Binary::Ne => compare(4),
        Binary::Ge => compare(5),
        Binary::Gt => compare(6),
        Binary::And => Do::And,
        Binary::Or => Do::Or,
        Binary::Xor => Do::Xor,
        Binary::Div
        | Binary::Rem
        | Binary::Pow
        | Binary::Atan2
        | Binary::Max
        | Binary::Min
        | Binary::Shl
        | Binary::Shr => return None,
    })
}
