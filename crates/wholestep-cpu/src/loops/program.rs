//! What can be known of a loop before its extents: levels, passes, fused instructions, block functions. Takes a [`Loop`], gives a
//! [`Program`]. Never knows a batch size or an address.

use super::blocks::{self, BlockFn};
use super::fused::chain::Lane;
use super::level::Level;
use wholestep_compiler::ir::op::{Binary, Unary};
use wholestep_compiler::ir::{DType, Dim};
use wholestep_compiler::kernel::{Instr, Loop, Map, ReduceOp, Value};

/// A loop made ready for binding.
pub struct Program {
    pub source: Loop,
    /// 0 for a loop that reduces nothing: its axes are then one walk over all points.
    pub n_outer: usize,
    pub values: Vec<ValueInfo>,
    pub stores: Vec<StoreInfo>,
    pub n_passes: u32,
    /// Bytes of one lane of all point values and of all row values: bounds on what registers take.
    pub point_lane_bytes: usize,
    pub row_lane_bytes: usize,
}

/// One instruction's value.
#[derive(Clone, Debug)]
pub struct ValueInfo {
    pub dtype: DType,
    /// Whether it exists once a row (for elementwise loops: once).
    pub is_row: bool,
    /// Point values: the first pass that can compute it. Row values: the pass before which it can be computed.
    pub pass: u32,
    pub op: Op,
    /// Whether a store or a reduction needs it.
    pub is_needed: bool,
}

/// How a value is made.
#[derive(Clone, Debug)]
pub enum Op {
    Load,
    Gather {
        index: u32,
    },
    Index,
    Random,
    Bits(u64),
    Extent(Dim),
    Block {
        f: BlockFn,
        lane: Lane,
        operands: [u32; 3],
        n_operands: u8,
        is_costly: bool,
    },
    Reduce {
        op: ReduceOp,
        x: u32,
    },
    /// The same as another value.
    Same(u32),
}

/// A store, by its index in the loop.
#[derive(Clone, Debug)]
pub struct StoreInfo {
    pub value: u32,
    /// Once a row instead of once a point.
    pub is_row: bool,
}

impl Op {
    /// The values it uses.
    pub fn operands(&self) -> &[u32] {
        match self {
            Op::Load | Op::Index | Op::Random | Op::Bits(_) | Op::Extent(_) => &[],
            Op::Gather { index } => std::slice::from_ref(index),
            Op::Block { operands, n_operands, .. } => &operands[..*n_operands as usize],
            Op::Reduce { x, .. } => std::slice::from_ref(x),
            Op::Same(x) => std::slice::from_ref(x),
        }
    }
}

impl Program {
    /// Prepares `source`; the text of the error says which instruction the cpu lacks.
    pub fn new(source: &Loop, level: Level) -> Result<Program, String> {
        let n_outer = effective_outer(source);
        let mut values: Vec<ValueInfo> = Vec::with_capacity(source.instrs.len());
        for (i, instr) in source.instrs.iter().enumerate() {
            let info = value_info(source, n_outer, instr, i, &values, level)?;
            values.push(info);
        }
        let stores: Vec<StoreInfo> = source
            .stores
            .iter()
            .map(|s| {
                let value = root(&values, s.value.0);
                StoreInfo { value, is_row: values[value as usize].is_row && is_row_map(&s.map, n_outer) }
            })
            .collect();
        mark_needed(&mut values, &stores);
        fuse_mul_add(source, &mut values, &stores, level);
        mark_needed(&mut values, &stores);
        let needed = || values.iter().filter(|v| v.is_needed);
        let lane = |v: &ValueInfo| v.dtype.size_bytes();
        let point_lane_bytes = needed().map(lane).sum::<usize>().max(4);
        let row_lane_bytes = needed().filter(|v| v.is_row).map(|v| lane(v) + 8).sum::<usize>().max(4);
        let is_point = |s: &StoreInfo| !s.is_row;
        let last_store = stores.iter().filter(|s| is_point(s)).map(|s| values[s.value as usize].pass + 1).max();
        let last_reduce = needed().filter(|v| matches!(v.op, Op::Reduce { .. })).map(|v| v.pass).max();
        let n_passes = last_store.unwrap_or(0).max(last_reduce.unwrap_or(0));
        Ok(Program { source: source.clone(), n_outer, values, stores, n_passes, point_lane_bytes, row_lane_bytes })
    }

    /// The map of a value that has one.
    pub fn map(&self, v: u32) -> Option<&Map> {
        match &self.source.instrs[v as usize] {
            Instr::Load { map, .. }
            | Instr::Gather { map, .. }
            | Instr::Index { map, .. }
            | Instr::Random { map, .. } => Some(map),
            Instr::Const { .. }
            | Instr::Extent { .. }
            | Instr::Unary { .. }
            | Instr::Binary { .. }
            | Instr::Select { .. }
            | Instr::Cast { .. }
            | Instr::Reduce { .. } => None,
        }
    }
}

/// The value that `v` is the same as.
fn root(values: &[ValueInfo], v: u32) -> u32 {
    match values[v as usize].op {
        Op::Same(x) => x,
        _ => v,
    }
}

/// A loop that reduces nothing and stores nothing once a row has no rows.
fn effective_outer(source: &Loop) -> usize {
    let reduces = source.instrs.iter().any(|i| matches!(i, Instr::Reduce { .. }));
    let has_inner = source.n_outer < source.axes.len();
    let row_store = source.stores.iter().any(|s| is_row_map(&s.map, source.n_outer));
    if reduces || (has_inner && row_store) { source.n_outer } else { 0 }
}

/// Whether no inner axis changes the map.
fn is_row_map(map: &Map, n_outer: usize) -> bool {
    map.strides[n_outer..].iter().all(|s| *s == Dim::ZERO)
        && map.guards.iter().all(|g| g.strides[n_outer..].iter().all(|&s| s == 0))
}

fn value_info(
    source: &Loop,
    n_outer: usize,
    instr: &Instr,
    i: usize,
    values: &[ValueInfo],
    level: Level,
) -> Result<ValueInfo, String> {
    let dtype = source.dtype(Value(i as u32));
    let at = |v: &Value| root(values, v.0);
    let of = |v: &Value| source.dtype(*v);
    let missing = |what: &str, t: DType| format!("{what} of {t}");
    let block = |f: BlockFn, lane: Lane, x: &[&Value], is_costly: bool| {
        let mut operands = [0; 3];
        x.iter().zip(&mut operands).for_each(|(v, o)| *o = at(v));
        Op::Block { f, lane, operands, n_operands: x.len() as u8, is_costly }
    };
    let mut is_row_here = true;
    let op = match instr {
        Instr::Load { map, .. } => {
            is_row_here = is_row_map(map, n_outer);
            Op::Load
        }
        Instr::Gather { map, index, .. } => {
            is_row_here = is_row_map(map, n_outer);
            Op::Gather { index: at(index) }
        }
        Instr::Index { map, .. } => {
            is_row_here = is_row_map(map, n_outer);
            Op::Index
        }
        Instr::Random { map, .. } => {
            is_row_here = is_row_map(map, n_outer);
            Op::Random
        }
        Instr::Const { value, dtype } => Op::Bits(bits_of(*value, *dtype)),
        Instr::Extent { dim, .. } => Op::Extent(*dim),
        Instr::Unary { op: Unary::Detach, x } => Op::Same(at(x)),
        Instr::Unary { op, x } => {
            let f = blocks::unary(*op, of(x), level).ok_or_else(|| missing(op.name(), of(x)))?;
            block(f, Lane::Unary(*op, of(x)), &[x], is_costly_unary(*op))
        }
        Instr::Binary { op, x, y } => {
            let f = blocks::binary(*op, of(x), level).ok_or_else(|| missing(op.name(), of(x)))?;
            block(f, Lane::Binary(*op, of(x)), &[x, y], matches!(op, Binary::Pow | Binary::Rem | Binary::Atan2))
        }
        Instr::Select { cond, yes, no } => {
            block(blocks::select(of(yes), level), Lane::Select(of(yes)), &[cond, yes, no], false)
        }
        Instr::Cast { to, x } if *to == of(x) => Op::Same(at(x)),
        Instr::Cast { to, x } => {
            let f = blocks::cast(of(x), *to, level).ok_or_else(|| missing("cast", *to))?;
            block(f, Lane::Cast { from: of(x), to: *to }, &[x], false)
        }
        Instr::Reduce { op, x } => {
            super::joins::join(*op, of(x), true, level).ok_or_else(|| missing("reduction", of(x)))?;
            Op::Reduce { op: *op, x: at(x) }
        }
    };
    let operands = || op.operands().iter().map(|&v| &values[v as usize]);
    let (is_row, pass) = match &op {
        Op::Reduce { x, .. } => (true, values[*x as usize].pass + 1),
        _ => (is_row_here && operands().all(|v| v.is_row), operands().map(|v| v.pass).max().unwrap_or(0)),
    };
    Ok(ValueInfo { dtype, is_row, pass, op, is_needed: false })
}

fn is_costly_unary(op: Unary) -> bool {
    match op {
        Unary::Neg
        | Unary::Abs
        | Unary::Sign
        | Unary::Not
        | Unary::Recip
        | Unary::Sqrt
        | Unary::Rsqrt
        | Unary::Floor
        | Unary::Ceil
        | Unary::Round
        | Unary::Detach => false,
        Unary::Exp
        | Unary::Expm1
        | Unary::Log
        | Unary::Log1p
        | Unary::Sin
        | Unary::Cos
        | Unary::Tanh
        | Unary::Asin
        | Unary::Acos
        | Unary::Atan
        | Unary::Asinh
        | Unary::Sigmoid
        | Unary::Erf => true,
    }
}

fn mark_needed(values: &mut [ValueInfo], stores: &[StoreInfo]) {
    values.iter_mut().for_each(|v| v.is_needed = false);
    stores.iter().for_each(|s| values[s.value as usize].is_needed = true);
    for i in (0..values.len()).rev() {
        if values[i].is_needed {
            let op = values[i].op.clone();
            op.operands().iter().for_each(|&x| values[x as usize].is_needed = true);
        }
    }
}

/// Points of a loop that may hold what is a value of rows elsewhere.
const FEW_POINTS: i64 = 4096;

/// `a·b + c`, `a·b - c` and `c - a·b` in f32 become one instruction where nothing else uses the product. Values of rows stay as they are, whether they are
/// with their rows or in a small loop of their own: what is computed again is then rounded as what it copies, whoever else uses the product there.
fn fuse_mul_add(source: &Loop, values: &mut [ValueInfo], stores: &[StoreInfo], level: Level) {
    let points = source.axes.iter().map(|d| d.as_fixed().map(|n| n as i64)).product::<Option<i64>>();
    if points.is_some_and(|n| n <= FEW_POINTS) {
        return;
    }
    let mut uses = vec![0u32; values.len()];
    stores.iter().for_each(|s| uses[s.value as usize] += 1);
    for v in values.iter().filter(|v| v.is_needed) {
        v.op.operands().iter().for_each(|&x| uses[x as usize] += 1);
    }
    for i in 0..values.len() {
        let is_sub = match &source.instrs[i] {
            Instr::Binary { op: Binary::Add, .. } => false,
            Instr::Binary { op: Binary::Sub, .. } => true,
            _ => continue,
        };
        if values[i].dtype != DType::F32 || !values[i].is_needed || values[i].is_row {
            continue;
        }
        let Op::Block { operands: [x, y, _], .. } = values[i].op else { continue };
        let product = |v: u32| match (&source.instrs[v as usize], &values[v as usize].op) {
            (Instr::Binary { op: Binary::Mul, .. }, Op::Block { operands: [a, b, _], n_operands: 2, .. })
                if uses[v as usize] == 1 && values[v as usize].is_row == values[i].is_row =>
            {
                Some((*a, *b))
            }
            _ => None,
        };
        let (f, lane, [a, b, c]) = match (product(x), product(y)) {
            (Some((a, b)), _) if is_sub => (blocks::mul_sub(level), Lane::MulSub, [a, b, y]),
            (Some((a, b)), _) => (blocks::mul_add(level), Lane::MulAdd, [a, b, y]),
            (None, Some((a, b))) if is_sub => (blocks::neg_mul_add(level), Lane::NegMulAdd, [a, b, x]),
            (None, Some((a, b))) => (blocks::mul_add(level), Lane::MulAdd, [a, b, x]),
            (None, None) => continue,
        };
        values[i].op = Op::Block { f, lane, operands: [a, b, c], n_operands: 3, is_costly: false };
    }
}

/// The stored bits of `value` in `dtype`, in the low bytes.
pub fn bits_of(value: f64, dtype: DType) -> u64 {
    match dtype {
        DType::F64 => value.to_bits(),
        DType::F32 => u64::from((value as f32).to_bits()),
        DType::I64 => value as i64 as u64,
        DType::I32 => u64::from(value as i32 as u32),
        DType::U32 => u64::from(value as u32),
        DType::U8 => u64::from(value as u8),
        DType::Bool => u64::from(value != 0.0),
        DType::F16 => u64::from(super::half::f32_to_f16(value as f32)),
        DType::BF16 => u64::from(super::half::f32_to_bf16(value as f32)),
    }
}
