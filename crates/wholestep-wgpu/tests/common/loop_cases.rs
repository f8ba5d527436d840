//! Steps of one loop each: what the tests compare with the oracle at small sizes and the bench times at sizes beyond any cache.
#![allow(dead_code)]

use wholestep_compiler::ir::scope::Mode;
use wholestep_compiler::ir::{DType, Graph, Init, Scope, Shape, SlotKind, Tensor};

pub struct Case {
    pub name: &'static str,
    /// Extents at which the device's memory is the limit, and how many independent copies then are larger together than its cache.
    pub full: (&'static [usize], usize),
    /// Extents that go through every form of the text: multiples of four and not, few rows and many.
    pub small: &'static [&'static [usize]],
    /// Bytes that a copy moves, where its arguments say something else.
    pub bytes: Option<fn(&[usize]) -> usize>,
    build: fn(&Scope, &[usize]),
}

impl Case {
    /// The graph of `copies` of the step.
    pub fn graph(&self, sizes: &[usize], copies: usize) -> Graph {
        let s = Scope::root(Mode::Train);
        (0..copies).for_each(|i| (self.build)(&s.sub(format!("{i:03}")), sizes));
        s.graph().borrow().clone()
    }
}

fn slot(s: &Scope, name: &str, sizes: &[usize]) -> Tensor {
    s.param(name, Shape::from(sizes), Init::Const(0.0))
}

fn out(s: &Scope, name: &str, value: &Tensor) {
    s.output(&format!("{}/{name}", s.path()), value);
}

/// Whole numbers below `below`, which the runner fills in by the slot's name.
fn ids(s: &Scope, n: usize, below: usize) -> Tensor {
    s.slot(&format!("ids{below}"), SlotKind::Buffer, DType::I32, Shape::from([n]), Init::Const(0.0))
}

/// Which columns of matrices a row does not see.
fn hidden(s: &Scope, n: &[usize]) -> Tensor {
    let (rows, columns) = (s.iota(n[1], DType::I32).reshape([n[1], 1]), s.iota(n[2], DType::I32));
    columns.greater(&(rows * n[3] as f64))
}

fn adam(s: &Scope, n: usize) {
    let [p, g, m, v] = ["p", "g", "m", "v"].map(|name| slot(s, name, &[n]));
    let m_new = &m * 0.9 + &g * 0.1;
    let v_new = &v * 0.999 + g.square() * 0.001;
    s.update(&p, &(&p - &m_new / (v_new.abs().sqrt() + 1e-3) * 0.01));
    s.update(&m, &m_new);
    s.update(&v, &v_new);
}

pub fn cases() -> Vec<Case> {
    let case = |name, full, small, build| Case { name, full, small, bytes: None, build };
    vec![
        case("scale", (&[1 << 26], 1), &[&[70_001], &[65_536], &[100]], |s, n| out(s, "y", &(slot(s, "x", n) * 2.0))),
        case("add two", (&[1 << 26], 1), &[&[70_002]], |s, n| out(s, "y", &(slot(s, "a", n) + slot(s, "b", n)))),
        case("bias and ReLU", (&[65_536, 1024], 1), &[&[129, 260], &[1031, 50]], |s, n| {
            out(s, "y", &(slot(s, "x", n) + slot(s, "b", &n[1..])).relu());
        }),
        case("Adam", (&[25_000_000], 1), &[&[20_011], &[65_536]], |s, n| adam(s, n[0])),
        case("Adam, 100 tensors", (&[100, 250_000], 1), &[&[3, 4099]], |s, n| {
            (0..n[0]).for_each(|i| adam(&s.sub(format!("{i:03}")), n[1] + i * 8 / 3));
        }),
        case(
            "softmax of long rows",
            (&[4096, 1024], 16),
            &[&[70, 1024], &[5, 1000], &[2100, 36], &[3, 9000]],
            |s, n| {
                out(s, "y", &slot(s, "x", n).softmax(-1));
            },
        ),
        case("softmax of a vocabulary", (&[512, 50_257], 3), &[&[3, 50_257]], |s, n| {
            out(s, "y", &slot(s, "x", n).softmax(-1));
        }),
        // How many matrices, their rows and columns, and how many columns more each row shows.
        case(
            "causal softmax",
            (&[48, 1024, 1024, 1], 4),
            &[&[2, 132, 132, 1], &[1, 70, 1024, 15], &[3, 50, 50, 1], &[1, 40, 9000, 200], &[20, 110, 36, 1]],
            |s, n| {
                let hidden = hidden(s, n);
                out(s, "y", &(slot(s, "x", &n[..3]) * 0.125).masked_fill(&hidden, f64::NEG_INFINITY).softmax(-1));
            },
        ),
        case(
            "gradient of a causal softmax",
            (&[48, 1024, 1024, 1], 4),
            &[&[2, 132, 132, 1], &[1, 70, 1024, 15], &[3, 50, 50, 1], &[1, 40, 9000, 200]],
            |s, n| {
                let (y, d, hidden) = (slot(s, "y", &n[..3]), slot(s, "d", &n[..3]), hidden(s, n));
                let sum = (&y * &d).masked_fill(&hidden, 0.0).sum_keepdim(-1);
                out(s, "d_x", &(y * (d - sum)).masked_fill(&hidden, 0.0));
            },
        ),
        case("softmax of ten", (&[65_536, 10], 64), &[&[64, 10], &[3000, 10]], |s, n| {
            out(s, "y", &slot(s, "x", n).softmax(-1));
        }),
        case("layer norm", (&[8192, 768], 8), &[&[33, 768], &[20, 770]], |s, n| {
            let (gamma, beta) = (slot(s, "gamma", &n[1..]), slot(s, "beta", &n[1..]));
            out(s, "y", &slot(s, "x", n).layer_norm(1, Some(&gamma), Some(&beta), 1e-5));
        }),
        // The values lie 1000 from 0 and 0.01 from each other.
        case("batch statistics", (&[200_704, 64], 4), &[&[784, 64], &[3000, 12], &[2000, 7]], |s, n| {
            let now = slot(s, "far", n).batch_statistics();
            out(s, "var", &(now.var * 1e4));
            out(s, "mean", &now.mean);
        }),
        case("column sums, short", (&[64, 512], 64), &[&[64, 512], &[5, 8]], |s, n| {
            out(s, "y", &slot(s, "x", n).sum(0));
        }),
        case("column sums, tall", (&[65_536, 64], 16), &[&[9000, 64], &[5000, 10]], |s, n| {
            out(s, "y", &slot(s, "x", n).sum(0));
        }),
        case("column sums of two layers", (&[1 << 20, 32], 1), &[&[5000, 32], &[3001, 7]], |s, n| {
            for i in 0..2 {
                let (p, x) = (slot(s, &format!("p{i}"), &n[1..]), slot(s, &format!("x{i}"), &[n[0] * (i + 1), n[1]]));
                s.update(&p, &(&p - x.sum(0) * 0.1));
            }
        }),
        case("sum of all", (&[1 << 24], 6), &[&[300_000], &[100_003], &[17]], |s, n| {
            out(s, "y", &slot(s, "x", n).sum(..));
        }),
        case("place of the largest", (&[4096, 4096], 6), &[&[40, 520], &[2, 30_001], &[2500, 10]], |s, n| {
            out(s, "y", &slot(s, "x", n).argmax(1));
        }),
        case("norm of 100 tensors", (&[100, 250_000], 1), &[&[4, 70_003]], |s, n| {
            let squares = (0..n[0]).map(|i| slot(s, &format!("x{i}"), &[n[1] + i * 8 / 3]).square().sum(..));
            out(s, "norm", &squares.reduce(|a, b| a + b).expect("there are tensors").sqrt());
        }),
        // How many matrices, extents of the first, and by how much the next is larger: all are multiples of four, or only some.
        case(
            "factored moments",
            (&[8, 2048, 1024, 256], 1),
            &[&[3, 12, 8, 4], &[4, 9, 7, 1], &[3, 70, 300, 4], &[3, 700, 12, 4], &[2, 3000, 9, 7]],
            |s, n| {
                for i in 0..n[0] {
                    let (r, c) = (n[1] + i * n[3], n[2] + 2 * i * n[3]);
                    let [p, row, col] = [("p", [r, c]), ("row", [r, 1]), ("col", [1, c])]
                        .map(|(name, shape)| slot(s, &format!("{name}{i}"), &shape));
                    let squares = p.square();
                    let row_new = &row * 0.5 + squares.sum_keepdim(-1) + 1.0;
                    let col_new = &col * 0.5 + squares.sum_keepdim(-2) + 1.0;
                    s.update(&p, &(&p - &p / &row_new / &col_new));
                    s.update(&row, &row_new);
                    s.update(&col, &col_new);
                }
            },
        ),
        case("transpose", (&[8192, 8192], 1), &[&[520, 260], &[260, 132], &[1300, 17]], |s, n| {
            out(s, "y", &(slot(s, "x", n).transpose(0, 1) * 2.0));
        }),
        case("transpose, bias and add", (&[8192, 4096], 1), &[&[260, 520]], |s, n| {
            let y = slot(s, "x", n).transpose(0, 1) + slot(s, "r", &[n[1], n[0]]) * slot(s, "scale", &[n[1], 1]);
            out(s, "y", &(y + slot(s, "b", &n[..1])));
        }),
        Case {
            name: "embedding",
            full: (&[65_536, 768, 50_257], 2),
            small: &[&[50, 768, 300], &[4000, 6, 300]],
            bytes: Some(|n| n[0] * (8 * n[1] + 4)),
            build: |s, n| out(s, "y", &slot(s, "table", &[n[2], n[1]]).embedding(&ids(s, n[0], n[2]))),
        },
        case("dropout", (&[1 << 26], 1), &[&[70_001], &[80, 1024]], |s, n| {
            out(s, "y", &slot(s, "x", n).dropout(s, 0.3));
        }),
    ]
}

/// What a slot holds: numbers between -0.5 and 0.5, a part of that far from 0, ids, or a random key.
pub fn fill(graph: &Graph, slot: usize) -> Vec<f64> {
    let decl = &graph.slots[slot];
    let n = decl.shape.numel_at(1);
    let name = decl.name.rsplit('/').next().unwrap_or_default();
    let mut x = (slot as u32 + 1).wrapping_mul(2_654_435_761) | 1;
    let mut next = || {
        x ^= x << 13;
        x ^= x >> 17;
        x ^= x << 5;
        x
    };
    if let Init::Key = decl.init {
        return vec![1.0, 2.0];
    }
    match (name.strip_prefix("ids").and_then(|below| below.parse::<u32>().ok()), decl.dtype) {
        (Some(below), _) => (0..n).map(|_| f64::from(next() % below)).collect(),
        (None, DType::F32) if name == "far" => (0..n)
            .map(|_| f64::from((1000.0 + (f64::from(next()) / f64::from(u32::MAX) - 0.5) * 0.035) as f32))
            .collect(),
        (None, DType::F32) => (0..n).map(|_| f64::from(next() as f32 / u32::MAX as f32 - 0.5)).collect(),
        (None, _) => vec![0.0; n],
    }
}

/// Values as bytes of a slot.
pub fn bytes_of(values: &[f64], dtype: DType) -> Vec<u8> {
    match dtype {
        DType::F32 => values.iter().flat_map(|v| (*v as f32).to_ne_bytes()).collect(),
        DType::I32 => values.iter().flat_map(|v| (*v as i32).to_ne_bytes()).collect(),
        DType::U32 => values.iter().flat_map(|v| (*v as u32).to_ne_bytes()).collect(),
        DType::I64 => values.iter().flat_map(|v| (*v as i64).to_ne_bytes()).collect(),
        DType::F64 | DType::F16 | DType::BF16 | DType::U8 | DType::Bool => panic!("no loop here has {dtype}"),
    }
}

/// Bytes of an output as values.
pub fn values_of(bytes: &[u8], dtype: DType) -> Vec<f64> {
    match dtype {
        DType::F32 => bytes.as_chunks().0.iter().map(|b| f64::from(f32::from_ne_bytes(*b))).collect(),
        DType::I32 => bytes.as_chunks().0.iter().map(|b| f64::from(i32::from_ne_bytes(*b))).collect(),
        DType::U32 => bytes.as_chunks().0.iter().map(|b| f64::from(u32::from_ne_bytes(*b))).collect(),
        DType::I64 => bytes.as_chunks().0.iter().map(|b| i64::from_ne_bytes(*b) as f64).collect(),
        DType::F64 | DType::F16 | DType::BF16 | DType::U8 | DType::Bool => panic!("no loop here has {dtype}"),
    }
}
