//! What a library does of the loop after its product, so that nothing passes over the result again. Takes a plan, gives for each kernel that is a
//! product the loop that follows wherever it is launched, if that does what the library can: puts the result elsewhere, or adds a bias and applies an
//! activation. Never looks at a batch's memory: what holds here holds for every batch size.

use crate::product::{self, Epilogue, Product};
use std::collections::BTreeMap;
use wholestep_compiler::ir::op::{Binary, Unary};
use wholestep_compiler::ir::{DType, Dim};
use wholestep_compiler::kernel::{Access, Arg, Contract, Instr, Kernel, Loop, Map, Store, Value};
use wholestep_compiler::plan::{BufferId, Item, Launch, Plan, Space};

/// A loop after a product, by the arguments of the loop.
#[derive(Clone, Debug, PartialEq)]
pub struct Follower {
    /// The kernel of the plan that it is.
    pub kernel: u32,
    pub epilogue: Epilogue,
    pub result: usize,
    pub bias: Option<(usize, DType)>,
    /// Where the numbers go to which an activation was applied.
    pub aux: Option<usize>,
    moves: Moves,
}

/// Where elements lie before and after.
#[derive(Clone, Debug, PartialEq)]
struct Moves {
    axes: Vec<Dim>,
    from: Vec<Dim>,
    to: Vec<Dim>,
}

/// By kernel of the plan, the loop that follows each of its launches.
pub fn followers(plan: &Plan) -> BTreeMap<u32, Follower> {
    let mut found: BTreeMap<u32, Option<Follower>> = BTreeMap::new();
    walk(plan, &plan.items, &mut 0, &mut found);
    found.into_iter().filter_map(|(kernel, follower)| Some((kernel, follower?))).collect()
}

/// Notes the follower of each product; `None` where two launches of one have different ones. `at` counts launches.
fn walk(plan: &Plan, items: &[Item], at: &mut u32, found: &mut BTreeMap<u32, Option<Follower>>) {
    for (i, item) in items.iter().enumerate() {
        match item {
            Item::Launch(l) => {
                let next = items.get(i + 1).and_then(|item| if let Item::Launch(l) = item { Some(l) } else { None });
                if let Kernel::Contract(k) = &plan.kernels[l.kernel as usize] {
                    let follower = next.and_then(|next| follower(plan, k, l, next, *at));
                    let known = found.entry(l.kernel).or_insert_with(|| follower.clone());
                    if *known != follower {
                        *known = None;
                    }
                }
                *at += 1;
            }
            Item::Region(region) => walk(plan, &region.items, at, found),
        }
    }
}

/// What the launch after the `at`-th one is to it.
fn follower(plan: &Plan, k: &Contract, l: &Launch, next: &Launch, at: u32) -> Option<Follower> {
    let target = product::target(k);
    let ([product], [segment]) = (&l.segments[..], &next.segments[..]) else { return None };
    let (Some(arg), false, Kernel::Loop(after)) = (target.arg, target.has_epilogue, plan.kernel_of(segment)) else {
        return None;
    };
    let passed = product.args[arg];
    let reads = segment.args.iter().position(|&b| b == passed)?;
    let follower = read(&after, reads, next.kernel)?;
    let buffer = |id: BufferId| &plan.buffers[id.0 as usize];
    let is_transient = |id: BufferId| buffer(id).space == Space::Transient;
    // Nobody else reads what is passed on.
    let is_passed = is_transient(passed) && (buffer(passed).first, buffer(passed).last) == (at, at + 1);
    // What the product reads is in no memory that the loop writes.
    let written = [Some(follower.result), follower.aux].into_iter().flatten().map(|i| segment.args[i]);
    let stays = product.args[..2].iter().all(|&b| !is_transient(b) || buffer(b).last > at);
    let is_new = written.into_iter().all(|b| is_transient(b) && buffer(b).first == at + 1);
    let is_known =
        follower.bias.is_none_or(|(i, _)| !is_transient(segment.args[i]) || buffer(segment.args[i]).first < at);
    (is_passed && stays && is_new && is_known).then_some(follower)
}

/// What a loop does with what it reads as argument `reads`.
fn read(k: &Loop, reads: usize, kernel: u32) -> Option<Follower> {
    let all = reads_of(k, reads)?;
    let dtype = k.args[reads].dtype;
    let is_plain = |map: &Map| map.guards.is_empty() && map.offset == Dim::ZERO;
    let stores_in_order = k.stores.iter().all(|s| s.map.is_row_major(&k.axes) && k.args[s.arg as usize].dtype == dtype);
    if k.n_outer != k.axes.len() || !stores_in_order || !is_plain(all.passed) {
        return None;
    }
    let to = k.stores.first()?.map.strides.clone();
    let moves = Moves { axes: k.axes.clone(), from: all.passed.strides.clone(), to };
    let of =
        |epilogue, result: u32, bias, aux| Follower { kernel, epilogue, result: result as usize, bias, aux, moves };
    let Some((bias_arg, bias_map)) = all.bias else {
        let ([Instr::Load { .. }], [store]) = (&k.instrs[..], &k.stores[..]) else { return None };
        return Some(of(Epilogue::None, store.arg, None, None));
    };
    let (last, others) = bias_map.strides.split_last()?;
    let is_by_column = is_plain(bias_map) && *last == Dim::ONE && others.iter().all(|s| *s == Dim::ZERO);
    if !is_by_column || !all.passed.is_row_major(&k.axes) {
        return None;
    }
    let bias = Some((bias_arg as usize, k.args[bias_arg as usize].dtype));
    // Samples do not tell a bound beyond them from none, nor a bend from one that is near.
    let bends = k.instrs.iter().any(|i| match i {
        Instr::Binary { op: Binary::Max | Binary::Le | Binary::Gt, .. } | Instr::Select { .. } => true,
        // tidy: wildcard, all others that `value_of` takes are smooth
        _ => false,
    });
    let bends_at_0 = k.instrs.iter().all(|i| if let Instr::Const { value, .. } = i { *value == 0.0 } else { true });
    let is = |store: usize, f: fn(f64) -> f64| {
        let value = k.stores[store].value.0 as usize;
        SAMPLES.iter().all(|&[x, b]| {
            value_of(k, reads, [x, b]).is_some_and(|all| (all[value] - f(x + b)).abs() <= 1e-9 * (1.0 + f(x + b).abs()))
        })
    };
    match k.stores.len() {
        1 if !bends && is(0, |x| x) => Some(of(Epilogue::Bias, k.stores[0].arg, bias, None)),
        1 if keeps_nan(dtype) && bends_at_0 && is(0, |x| x.max(0.0)) => {
            Some(of(Epilogue::BiasRelu, k.stores[0].arg, bias, None))
        }
        1 if !bends && is(0, gelu) => Some(of(Epilogue::BiasGelu, k.stores[0].arg, bias, None)),
        2 if !bends => {
            let aux = [0, 1].into_iter().find(|&i| is(i, |x| x) && is(1 - i, gelu))?;
            let [aux, result] = [aux, 1 - aux].map(|i| k.stores[i].arg);
            Some(of(Epilogue::BiasGeluAux, result, bias, Some(aux as usize)))
        }
        _ => None,
    }
}

/// Numbers and biases on which programs are compared.
const SAMPLES: [[f64; 2]; 8] =
    [[-9.0, 0.5], [-3.1, -0.2], [-1.3, 0.1], [-0.4, 0.3], [0.0, 0.2], [0.7, -0.1], [1.9, 0.6], [8.0, 1.0]];

/// Whether the library's ReLU of a dtype gives NaN for NaN in all of its ways. In f32 a tenth of them, in TF32 a fifth gave 0 (cuBLASLt 13.1 on an H100, 540 ways), which
/// would hide that a step has failed; in bf16 none did. In f16 it was not looked at.
fn keeps_nan(dtype: DType) -> bool {
    dtype == DType::BF16
}

/// By its tanh formula, which is the library's. Paper: Hendrycks, Gimpel 2016, arXiv:1606.08415.
fn gelu(x: f64) -> f64 {
    0.5 * x * (1.0 + ((2.0 / std::f64::consts::PI).sqrt() * (x + 0.044715 * x * x * x)).tanh())
}

struct Reads<'a> {
    passed: &'a Map,
    bias: Option<(u32, &'a Map)>,
}

/// The loads of a loop that reads argument `passed` once and at most one other.
fn reads_of(k: &Loop, passed: usize) -> Option<Reads<'_>> {
    let loads =
        k.instrs.iter().filter_map(|i| if let Instr::Load { arg, map, .. } = i { Some((*arg, map)) } else { None });
    let (mine, others): (Vec<_>, Vec<_>) = loads.partition(|(arg, _)| *arg as usize == passed);
    match (&mine[..], &others[..]) {
        ([(_, map)], []) => Some(Reads { passed: map, bias: None }),
        ([(_, map)], [bias]) => Some(Reads { passed: map, bias: Some(*bias) }),
        _ => None,
    }
}

/// The values of a program of floats, not rounded, where it reads `x` and `b`; `None` if it has other instructions than activations are made of.
fn value_of(k: &Loop, reads: usize, [x, b]: [f64; 2]) -> Option<Vec<f64>> {
    let mut v: Vec<f64> = Vec::with_capacity(k.instrs.len());
    for instr in &k.instrs {
        let at = |value: &wholestep_compiler::kernel::Value| v[value.0 as usize];
        let truth = |holds: bool| f64::from(u8::from(holds));
        v.push(match instr {
            Instr::Load { arg, .. } => {
                if *arg as usize == reads {
                    x
                } else {
                    b
                }
            }
            Instr::Const { value, .. } => *value,
            Instr::Cast { x, to: DType::F32 | DType::F16 | DType::BF16 } => at(x),
            Instr::Unary { op: Unary::Neg, x } => -at(x),
            Instr::Unary { op: Unary::Tanh, x } => at(x).tanh(),
            Instr::Binary { op: Binary::Add, x, y } => at(x) + at(y),
            Instr::Binary { op: Binary::Sub, x, y } => at(x) - at(y),
            Instr::Binary { op: Binary::Mul, x, y } => at(x) * at(y),
            Instr::Binary { op: Binary::Max, x, y } => at(x).max(at(y)),
            Instr::Binary { op: Binary::Le, x, y } => truth(at(x) <= at(y)),
            Instr::Binary { op: Binary::Gt, x, y } => truth(at(x) > at(y)),
            Instr::Select { cond, yes, no } => {
                if at(cond) != 0.0 {
                    at(yes)
                } else {
                    at(no)
                }
            }
            _ => return None,
        });
    }
    Some(v)
}

impl Follower {
    /// The arguments that there are of it.
    pub fn args(&self) -> impl Iterator<Item = usize> {
        [Some(self.result), self.bias.map(|(arg, _)| arg), self.aux].into_iter().flatten()
    }

    /// The same where its arguments come after `n` others.
    pub fn after(self, n: usize) -> Follower {
        let bias = self.bias.map(|(arg, dtype)| (n + arg, dtype));
        Follower { result: n + self.result, bias, aux: self.aux.map(|arg| n + arg), ..self }
    }

    /// The loop that rounds the bias to the dtype of the result, where it has another, and which argument that is.
    pub fn turn(&self, k: &Contract) -> Option<(usize, Loop)> {
        let (arg, from) = self.bias?;
        let to = product::target(k).dtype;
        let axes = vec![*self.moves.axes.last()?];
        let map = Map { strides: vec![Dim::ONE], offset: Dim::ZERO, guards: Vec::new() };
        let of = |dtype, access| Arg { dtype, access };
        let turn = Loop {
            axes,
            n_outer: 1,
            args: vec![of(from, Access::Read), of(to, Access::Write)],
            instrs: vec![Instr::Load { arg: 0, map: map.clone(), fill: 0.0 }, Instr::Cast { to, x: Value(0) }],
            stores: vec![Store { arg: 1, map, value: Value(1) }],
        };
        (from != to).then_some((arg, turn))
    }

    /// The product with what follows it; `None` where the library cannot say where the result goes.
    pub fn joined(&self, product: &Product, batch: usize) -> Option<Product> {
        let mut joined = Product { epilogue: self.epilogue, ..product.clone() };
        if self.epilogue != Epilogue::None {
            let is_one = product.outer * product.batch == 1 && self.moves.axes.last()?.at(batch) as u64 == product.n;
            return is_one.then_some(joined);
        }
        let axes: Vec<[u64; 3]> = (0..self.moves.axes.len())
            .map(|i| [&self.moves.axes, &self.moves.from, &self.moves.to].map(|d| d[i].at(batch) as u64))
            .collect();
        let [outer, between] = joined.result_strides;
        let moved = |stride: u64, extent: u64| moved(&axes, stride, extent);
        joined.result_strides = [moved(outer, product.outer)?, moved(between, product.batch)?];
        // Of a single row there is no distance to the next.
        joined.row_stride = if product.m == 1 { product.n } else { moved(product.n, product.m)? };
        let is_matrix = moved(1, product.n)? == 1 && joined.row_stride >= product.n;
        is_matrix.then_some(joined)
    }
}

/// The distance in the new places of elements at a distance of `stride` in the old ones, `extent` of them; `None` unless it is one. Axes are extents with old
/// and new strides.
fn moved(axes: &[[u64; 3]], stride: u64, extent: u64) -> Option<u64> {
    let (mut stride, mut extent, mut first) = (stride, extent, None);
    // Digit by digit: each axis of the loop that the axis of the product runs over, from the innermost one.
    while extent > 1 {
        let holds = |a: &&[u64; 3]| a[0] > 1 && a[1] <= stride && stride < a[1] * a[0] && stride % a[1] == 0;
        let &[n, old, new] = axes.iter().find(holds)?;
        let distance = new * (stride / old);
        let begin = *first.get_or_insert((stride, distance));
        if distance * begin.0 != begin.1 * stride {
            return None;
        }
        // Up to the end of this axis, which has to be whole steps away.
        let steps = (old * n / stride).min(extent);
        if (old * n) % stride != 0 || extent % steps != 0 {
            return None;
        }
        extent /= steps;
        stride *= steps;
    }
    Some(first.map_or(0, |(_, distance)| distance))
}

#[cfg(test)]
mod tests {
    use super::{Follower, followers, moved};
    use crate::product::{Epilogue, Product};
    use crate::tests::h100;
    use wholestep_compiler::compile;
    use wholestep_compiler::ir::scope::Mode;
    use wholestep_compiler::ir::{Batch, DType, Init, Scope, Tensor};
    use wholestep_compiler::kernel::Kernel;
    use wholestep_compiler::plan::Plan;

    /// A layer of 24 numbers for each of 8 rows of 16 for each of a batch.
    fn layer(then: impl Fn(&Tensor) -> Tensor, storage: Option<DType>) -> Plan {
        let s = Scope::root(Mode::Infer);
        let x = s.input("x", (Batch, 8, 16), DType::F32);
        let (w, b) = (s.param("w", [24, 16], Init::Const(0.0)), s.param("b", [24], Init::Const(0.0)));
        let y = then(&x.linear(&w, Some(&b)));
        // What the layer reads is in memory beyond it, as for gradients.
        s.output("d_w", &x.transpose(-2, -1).matmul(&y));
        s.output("d_x", &y.matmul(&w));
        let mut graph = s.graph().borrow().clone();
        graph.storage = storage;
        compile(&graph, &h100(), &mut |_| {}).unwrap().plan
    }

    fn epilogue(plan: &Plan) -> Option<Epilogue> {
        followers(plan).into_values().map(|f| f.epilogue).next()
    }

    #[test]
    fn what_follows_is_told_by_what_it_computes() {
        let of = |then: &dyn Fn(&Tensor) -> Tensor| epilogue(&layer(then, None));
        assert_eq!(of(&Tensor::clone), Some(Epilogue::Bias));
        // Where the library's may give 0 for NaN it is not taken.
        let relu = |storage| epilogue(&layer(Tensor::relu, storage));
        assert_eq!([None, Some(DType::F16), Some(DType::BF16)].map(relu), [None, None, Some(Epilogue::BiasRelu)]);
        assert_eq!(of(&Tensor::gelu_tanh), Some(Epilogue::BiasGelu));
        // The exact GELU is off by 5e-4, another bias by its own size.
        assert_eq!(of(&Tensor::gelu), None);
        assert_eq!(of(&|y| y + 0.01), None);
        // Bounds that are beyond what is tried, or near a bend.
        assert_eq!(of(&|y| y.clamp_min(-20.0)), None);
        assert_eq!(of(&|y| y.clamp_max(20.0)), None);
        assert_eq!(of(&|y| y.clamp_min(1e-10)), None);
        assert_eq!(of(&|y| y.greater(1e-3).select(y, 0.0)), None);
        assert_eq!(of(&|y| y.gelu_tanh().clamp_min(-20.0)), None);
        assert_eq!(of(&Tensor::tanh), None);
    }

    #[test]
    fn a_bias_is_rounded_to_what_the_result_is_kept_in() {
        for (storage, turns) in [(None, None), (Some(DType::BF16), Some((DType::F32, DType::BF16)))] {
            let plan = layer(Tensor::gelu_tanh, storage);
            let (kernel, follower) = followers(&plan).into_iter().next().unwrap();
            let Kernel::Contract(k) = &plan.kernels[kernel as usize] else { panic!() };
            assert_eq!(follower.turn(k).map(|(_, turn)| (turn.args[0].dtype, turn.args[1].dtype)), turns);
        }
    }

    #[test]
    fn heads_go_back_between_the_rows_of_a_batch() {
        let s = Scope::root(Mode::Infer);
        let x = s.input("x", (Batch, 8, 96), DType::F32).reshape((Batch, 8, 3, 2, 16)).permute([2, 0, 3, 1, 4]);
        let [q, k, v] = [0, 1, 2].map(|i| x.index(0, i));
        let scores = q.matmul(&k.transpose(-2, -1));
        s.output("scores", &scores);
        let mixed = scores.matmul(&v).transpose(1, 2).reshape((Batch, 8, 32));
        s.output("y", &mixed.matmul(&s.param("w", [32, 4], Init::Const(0.0))));
        let plan = compile(&s.graph().borrow(), &h100(), &mut |_| {}).unwrap().plan;
        let all = followers(&plan);
        let (kernel, follower) = all.iter().next().expect("the second product is followed by a copy");
        let Kernel::Contract(k) = &plan.kernels[*kernel as usize] else { panic!() };
        let joined = |follower: &Follower, batch| {
            let p = follower.joined(&Product::of(k, batch, false).unwrap(), batch).unwrap();
            let mut strides = vec![(p.outer, p.result_strides[0]), (p.batch, p.result_strides[1])];
            strides.sort_unstable();
            (strides, p.m, p.row_stride)
        };
        assert_eq!(all.len(), 1);
        assert_eq!(joined(follower, 5), (vec![(2, 16), (5, 256)], 8, 32));
        assert_eq!(joined(follower, 1), (vec![(1, 0), (2, 16)], 8, 32));
    }

    #[test]
    fn heads_go_back_to_a_single_row() {
        let s = Scope::root(Mode::Infer);
        let x = s.input("x", (Batch, 8, 64), DType::F32).permute([1, 0, 2]);
        let mixed = x.matmul(&s.param("w", [8, 64, 64], Init::Const(0.0)));
        let y = mixed.permute([1, 0, 2]).reshape((Batch, 512));
        s.output("y", &y.matmul(&s.param("v", [512, 4], Init::Const(0.0))));
        let plan = compile(&s.graph().borrow(), &h100(), &mut |_| {}).unwrap().plan;
        let (kernel, follower) = followers(&plan).into_iter().next().expect("the first product is followed by a copy");
        let Kernel::Contract(k) = &plan.kernels[kernel as usize] else { panic!() };
        let joined = |batch| follower.joined(&Product::of(k, batch, false).unwrap(), batch).unwrap();
        let of = |p: Product| (p.m, p.row_stride, p.result_strides[1]);
        assert_eq!([of(joined(5)), of(joined(1))], [(5, 512, 64), (1, 64, 64)]);
    }

    #[test]
    fn elements_are_followed_through_axes_that_are_cut_elsewhere() {
        // [4, 6] of rows of 5, turned: 30 and 5 before, 5 and 20 after.
        let axes = [[4, 30, 5], [6, 5, 20], [5, 1, 1]];
        assert_eq!((moved(&axes, 30, 4), moved(&axes, 5, 6), moved(&axes, 1, 5)), (Some(5), Some(20), Some(1)));
        // A part of an axis, each other one of it, and two axes as one, which they are no more.
        assert_eq!((moved(&axes, 5, 3), moved(&axes, 10, 3), moved(&axes, 5, 24)), (Some(20), Some(40), None));
        assert_eq!((moved(&[[4, 30, 120], [6, 5, 20]], 5, 24), moved(&axes, 7, 1)), (Some(20), Some(0)));
        assert_eq!((moved(&axes, 4, 3), moved(&axes, 200, 2)), (None, None));
    }
}
