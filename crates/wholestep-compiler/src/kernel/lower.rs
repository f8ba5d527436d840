//! Lowering: takes one cluster, gives the kernel that runs it and what each of its args is. Never decides what runs together or where
//! memory lies; `place` says which values share the memory of a slot.

use super::fuse::{
    Cluster, ClusterKind, Fusion, Level, Role, has_memory, is_gathered, row_space, squeeze, squeeze_strides,
};
use super::triangle::triangle;
use super::view::View;
use super::{
    Access, Arg, Contract, Contraction, ConvSizes, Guard, Instr, Kernel, Loop, Map, ReduceOp, Scan, Scatter, Sort,
    Store, Value, WindowKernel, WindowOp,
};
use crate::ir::op::{self, ConvGeometry, Elementwise, Index, Leaf, Movement, Op, Reduce, Window};
use crate::ir::{DType, Dim, Graph, InputId, Node, NodeId, Shape, SlotId};
use std::collections::BTreeMap;

/// What an argument is, before memory is planned.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Place {
    Node(NodeId),
    Slot(SlotId),
    Input(InputId),
    Scratch(NodeId),
}

/// A kernel with the places of its arguments.
#[derive(Clone, Debug)]
pub struct WorkSegment {
    pub kernel: Kernel,
    pub places: Vec<Place>,
}

/// What one launch does. Kernels of several segments are loops that differ in extents, strides and offsets only.
#[derive(Clone, Debug)]
pub struct Work {
    pub segments: Vec<WorkSegment>,
    pub nodes: Vec<NodeId>,
}

impl Work {
    fn new(kernel: Kernel, places: Vec<Place>, nodes: Vec<NodeId>) -> Work {
        Work { segments: vec![WorkSegment { kernel, places }], nodes }
    }
}

/// Which memory a value has and which values need any.
pub struct Places {
    /// Values that some other cluster, an output or a slot reads, by node.
    pub stored: Vec<bool>,
    /// The memory of a value, by node, where that is another's: a slot's, that of a value of a loop, or of what it is a part of.
    pub at: Vec<Option<Place>>,
    /// By node, at which element of that memory the value begins, where it is a part.
    pub offsets: Vec<Dim>,
}

impl Places {
    /// The memory that holds the source of a view.
    pub fn of(&self, graph: &Graph, source: NodeId, role: Role) -> Place {
        match &graph.node(source).op {
            Op::Leaf(Leaf::Slot { id, .. }) if role == Role::Leaf => Place::Slot(*id),
            Op::Leaf(Leaf::Input { id, .. }) if role == Role::Leaf => Place::Input(*id),
            _ => self.at[source.0 as usize].unwrap_or(Place::Node(source)),
        }
    }
}

/// The kernels of one cluster: one, except for a concatenation, which is one copy per operand that lies elsewhere.
pub fn lower(graph: &Graph, fusion: &Fusion, places: &Places, cluster: &Cluster) -> Vec<Work> {
    match cluster.kind {
        ClusterKind::Loop => vec![lower_loop(graph, fusion, places, cluster)],
        ClusterKind::Contract(id) => vec![lower_contract(graph, fusion, places, cluster, id)],
        ClusterKind::Other(id) => lower_other(graph, fusion, places, id),
    }
}

/// Builds the program of a loop, or of an epilogue.
struct Builder<'a> {
    graph: &'a Graph,
    fusion: &'a Fusion,
    places: &'a Places,
    cluster: &'a Cluster,
    /// For each axis of the cluster's space its axis in the loop, and how many axes the loop has.
    axis_in_loop: Vec<usize>,
    n_axes: usize,
    args: Vec<Arg>,
    arg_places: Vec<Place>,
    instrs: Vec<Instr>,
    values: BTreeMap<NodeId, Value>,
    stores: Vec<Store>,
}

fn lower_loop(graph: &Graph, fusion: &Fusion, places: &Places, cluster: &Cluster) -> Work {
    let rank = cluster.space.len();
    let outer: Vec<usize> = (0..rank).filter(|i| !cluster.reduced.contains(i)).collect();
    let order: Vec<usize> = outer.iter().chain(&cluster.reduced).copied().collect();
    let mut axis_in_loop = vec![0; rank];
    order.iter().enumerate().for_each(|(at, &axis)| axis_in_loop[axis] = at);
    let mut b = Builder::new(graph, fusion, places, cluster, axis_in_loop, rank);
    for &id in &cluster.nodes {
        b.emit(id);
    }
    let axes = order.iter().map(|&axis| cluster.space[axis]).collect();
    let kernel = Loop { axes, n_outer: outer.len(), args: b.args, instrs: b.instrs, stores: b.stores };
    Work::new(Kernel::Loop(coalesce(kernel)), b.arg_places, cluster.nodes.clone())
}

impl<'a> Builder<'a> {
    fn new(
        graph: &'a Graph,
        fusion: &'a Fusion,
        places: &'a Places,
        cluster: &'a Cluster,
        axis_in_loop: Vec<usize>,
        n_axes: usize,
    ) -> Builder<'a> {
        let (args, arg_places, instrs, stores) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
        let values = BTreeMap::new();
        Builder { graph, fusion, places, cluster, axis_in_loop, n_axes, args, arg_places, instrs, values, stores }
    }

    fn push(&mut self, instr: Instr) -> Value {
        let found = self.instrs.iter().position(|i| *i == instr && sign_of_zero(i) == sign_of_zero(&instr));
        Value(found.unwrap_or_else(|| {
            self.instrs.push(instr);
            self.instrs.len() - 1
        }) as u32)
    }

    /// The argument for a place; reading and writing one place makes one argument.
    fn arg(&mut self, place: Place, dtype: DType, access: Access) -> u32 {
        if let Some(i) = self.arg_places.iter().position(|p| *p == place) {
            if self.args[i].access != access {
                self.args[i].access = Access::ReadWrite;
            }
            return i as u32;
        }
        self.arg_places.push(place);
        self.args.push(Arg { dtype, access });
        self.args.len() as u32 - 1
    }

    /// The level of a node in this cluster.
    fn level(&self, id: NodeId) -> Level {
        let point = self.fusion.role[id.0 as usize] != Role::Reduce
            && squeeze(&self.graph.node(id).shape) == self.cluster.space;
        if point { Level::Point } else { Level::Row }
    }

    /// A view over a node's shape as a map over the loop's axes.
    fn map(&self, view: &View, shape: &Shape, level: Level) -> Map {
        let space_axes: Vec<usize> = (0..self.cluster.space.len())
            .filter(|i| level == Level::Point || !self.cluster.reduced.contains(i))
            .map(|i| self.axis_in_loop[i])
            .collect();
        let mut strides = vec![Dim::ZERO; self.n_axes];
        for (&axis, stride) in space_axes.iter().zip(squeeze_strides(shape, &view.map.strides)) {
            strides[axis] = stride;
        }
        let guards = view.map.guards.iter().map(|g| {
            let wide: Vec<Dim> = g.strides.iter().map(|&s| Dim { batch: 0, fixed: s }).collect();
            let mut strides = vec![0; self.n_axes];
            for (&axis, stride) in space_axes.iter().zip(squeeze_strides(shape, &wide)) {
                strides[axis] = stride.fixed;
            }
            Guard { strides, offset: g.offset, extent: g.extent }
        });
        Map { strides, offset: view.map.offset, guards: guards.collect() }
    }

    /// The value of operand `k` of `id`, in the dtype in which `id` reads it.
    fn operand(&mut self, id: NodeId, k: usize, level: Level) -> Value {
        let node = self.graph.node(id);
        let is_copy = self.fusion.role[id.0 as usize] == Role::Copy;
        let to = if is_copy { node.dtype } else { self.graph.node(node.inputs[k]).dtype };
        let from = self.graph.node(self.fusion.source(self.graph, id, k)).dtype;
        let x = self.element(id, k, level);
        if from == to { x } else { self.push(Instr::Cast { to, x }) }
    }

    /// The value of operand `k` of `id` as it is stored.
    fn element(&mut self, id: NodeId, k: usize, level: Level) -> Value {
        let view = self.fusion.operand(self.graph, id, k);
        let shape = self.fusion.operand_shape(self.graph, id, k);
        if let Some(&value) = self.values.get(&view.source)
            && self.fusion.is_register(self.cluster, &self.cluster.reduced, &view, shape, level)
        {
            return value;
        }
        let source = self.graph.node(view.source);
        let map = self.map(&view, shape, level);
        let role = self.fusion.role[view.source.0 as usize];
        match &source.op {
            Op::Leaf(Leaf::Const { value, dtype }) if role == Role::Leaf && map.guards.is_empty() => {
                self.push(Instr::Const { value: *value, dtype: *dtype })
            }
            Op::Leaf(Leaf::Extent { dim, dtype }) if role == Role::Leaf && map.guards.is_empty() => {
                self.push(Instr::Extent { dim: *dim, dtype: *dtype })
            }
            Op::Leaf(Leaf::Iota { dtype, .. }) if role == Role::Leaf && map.guards.is_empty() => {
                self.push(Instr::Index { map, dtype: *dtype })
            }
            _ => {
                assert!(
                    has_memory(self.graph, view.source),
                    "bug: a load of {}, which is in no memory",
                    source.op.name()
                );
                let place = self.places.of(self.graph, view.source, role);
                let arg = self.arg(place, source.dtype, Access::Read);
                self.push(Instr::Load { arg, map, fill: view.fill })
            }
        }
    }

    /// Emits the instruction of a node and the store of its value, if anything outside needs it.
    fn emit(&mut self, id: NodeId) {
        let node = self.graph.node(id);
        let level = self.level(id);
        let value = match (&node.op, self.fusion.role[id.0 as usize]) {
            (_, Role::Copy) => self.operand(id, 0, level),
            (Op::Elementwise(op), _) => self.emit_elementwise(id, op, level),
            (Op::Reduce(op), _) => {
                let x = self.operand(id, 0, Level::Point);
                self.push(Instr::Reduce { op: reduce_op(op), x })
            }
            (Op::Random(op), _) => self.emit_random(id, op, level),
            (Op::Index(op), _) => self.emit_take(id, op, level),
            (Op::Leaf(_) | Op::Movement(_) | Op::Contract(_) | Op::Window(_) | Op::Control(_), _) => {
                panic!("bug: {} is no instruction of a loop", node.op.name())
            }
        };
        self.values.insert(id, value);
        if self.places.stored[id.0 as usize] && self.fusion.cluster[id.0 as usize].is_some_and(|c| self.owns(c)) {
            let place = self.places.of(self.graph, id, self.fusion.role[id.0 as usize]);
            let arg = self.arg(place, node.dtype, Access::Write);
            let view = View::identity(id, &node.shape).expect("bug: a node holds at most a·B + b elements");
            let mut map = self.map(&view, &node.shape, level);
            map.offset = self.places.offsets[id.0 as usize];
            self.stores.push(Store { arg, map, value });
        }
    }

    /// Whether this is the cluster that stores the value, rather than one that computes it again.
    fn owns(&self, c: usize) -> bool {
        std::ptr::eq(&self.fusion.clusters[c], self.cluster)
    }

    fn emit_elementwise(&mut self, id: NodeId, op: &Elementwise, level: Level) -> Value {
        let v: Vec<Value> = (0..self.graph.node(id).inputs.len()).map(|k| self.operand(id, k, level)).collect();
        match op {
            Elementwise::Unary(op::Unary::Detach) => v[0],
            Elementwise::Unary(op) => self.push(Instr::Unary { op: *op, x: v[0] }),
            Elementwise::Binary(op) => self.push(Instr::Binary { op: *op, x: v[0], y: v[1] }),
            Elementwise::Select => self.push(Instr::Select { cond: v[0], yes: v[1], no: v[2] }),
            Elementwise::Cast(to) => self.push(Instr::Cast { to: *to, x: v[0] }),
        }
    }

    fn emit_random(&mut self, id: NodeId, op: &op::Random, level: Level) -> Value {
        let [key, step] = [0, 1].map(|k| {
            let source = self.fusion.source(self.graph, id, k);
            let place = self.places.of(self.graph, source, self.fusion.role[source.0 as usize]);
            self.arg(place, DType::U32, Access::Read)
        });
        let shape = &self.graph.node(id).shape;
        let view = View::identity(id, shape).expect("bug: a node holds at most a·B + b elements");
        let map = self.map(&view, shape, level);
        self.push(Instr::Random { map, stream: op.stream, key, step })
    }

    fn emit_take(&mut self, id: NodeId, op: &Index, level: Level) -> Value {
        let node = self.graph.node(id);
        let x = node.inputs[0];
        let view = self.fusion.view[x.0 as usize].clone();
        let index = self.operand(id, 1, level);
        let n_index = self.graph.node(node.inputs[1]).shape.rank();
        let (axis, strides) = match op {
            // Result axes: those before, those of the index, those after.
            Index::Take { axis } => {
                let mut strides = view.map.strides[..*axis].to_vec();
                strides.extend(std::iter::repeat_n(Dim::ZERO, n_index));
                strides.extend_from_slice(&view.map.strides[axis + 1..]);
                (*axis, strides)
            }
            Index::TakeAlong { axis } => {
                let mut strides = view.map.strides.clone();
                strides[*axis] = Dim::ZERO;
                (*axis, strides)
            }
            Index::TakeGrad { .. } | Index::TakeAlongGrad { .. } | Index::Put { .. } | Index::ArgSort { .. } => {
                panic!("bug: {} is no instruction of a loop", op.name())
            }
        };
        let rest = View { source: view.source, map: Map { strides, ..view.map.clone() }, fill: 0.0 };
        let map = self.map(&rest, &node.shape, level);
        let source = self.graph.node(view.source);
        let place = self.places.of(self.graph, view.source, self.fusion.role[view.source.0 as usize]);
        let arg = self.arg(place, source.dtype, Access::Read);
        let len = self.graph.node(x).shape.0[axis];
        let taken = self.push(Instr::Gather { arg, map, index, stride: view.map.strides[axis], len });
        if source.dtype == node.dtype { taken } else { self.push(Instr::Cast { to: node.dtype, x: taken }) }
    }
}

/// 0.0 and -0.0 are equal and not the same: whether the number in an instruction is negative.
fn sign_of_zero(instr: &Instr) -> bool {
    match instr {
        Instr::Const { value, .. } | Instr::Load { fill: value, .. } => value.is_sign_negative(),
        Instr::Gather { .. }
        | Instr::Index { .. }
        | Instr::Random { .. }
        | Instr::Extent { .. }
        | Instr::Unary { .. }
        | Instr::Binary { .. }
        | Instr::Select { .. }
        | Instr::Cast { .. }
        | Instr::Reduce { .. } => false,
    }
}

fn reduce_op(op: &Reduce) -> ReduceOp {
    match op {
        Reduce::Sum { .. } => ReduceOp::Sum,
        Reduce::Max { .. } => ReduceOp::Max,
        Reduce::Min { .. } => ReduceOp::Min,
        Reduce::ArgMax { .. } => ReduceOp::ArgMax,
        Reduce::CumSum { .. } => panic!("bug: a running sum is a kernel of its own"),
    }
}

/// Joins neighbouring axes that every map steps through as one, so that loops over different shapes become the same loop.
fn coalesce(mut k: Loop) -> Loop {
    let mut i = 0;
    while i + 1 < k.axes.len() {
        let joined = if i + 1 == k.n_outer { None } else { k.axes[i].times(k.axes[i + 1]) };
        let inner = k.axes[i + 1];
        let fits = k.maps().iter().all(|m| {
            m.strides[i + 1].times(inner) == Some(m.strides[i])
                && m.guards.iter().all(|g| g.strides[i] == 0 && g.strides[i + 1] == 0)
        });
        match joined.filter(|_| fits) {
            Some(extent) => {
                k.axes[i] = extent;
                k.axes.remove(i + 1);
                k.n_outer -= usize::from(i < k.n_outer && i + 1 < k.n_outer);
                for m in k.maps_mut() {
                    m.strides.remove(i);
                    for g in &mut m.guards {
                        g.strides.remove(i);
                    }
                }
            }
            None => i += 1,
        }
    }
    k
}

fn lower_contract(graph: &Graph, fusion: &Fusion, places: &Places, cluster: &Cluster, id: NodeId) -> Work {
    let node = graph.node(id);
    let axes = node.shape.dims().to_vec();
    let axis_in_loop = (0..axes.len()).filter(|&i| axes[i] != Dim::ONE).collect();
    let mut b = Builder::new(graph, fusion, places, cluster, axis_in_loop, axes.len());
    for k in 0..2 {
        let source = fusion.source(graph, id, k);
        let place = places.of(graph, source, fusion.role[source.0 as usize]);
        // Operands are args 0 and 1 even if they are one place: the epilogue finds its own by position.
        b.args.push(Arg { dtype: graph.node(source).dtype, access: Access::Read });
        b.arg_places.push(place);
    }
    let sums = sums_place(graph, fusion, places, cluster, id);
    let is_kept = !matches!(sums, Place::Scratch(_));
    b.arg_places.push(sums);
    b.args.push(Arg { dtype: node.dtype, access: if is_kept { Access::Write } else { Access::Scratch } });
    b.arg_places.push(Place::Scratch(id));
    b.args.push(Arg { dtype: DType::U8, access: Access::Scratch });
    let identity = View::identity(id, &node.shape).expect("bug: a node holds at most a·B + b elements");
    let map = b.map(&identity, &node.shape, Level::Point);
    let loaded = b.push(Instr::Load { arg: 2, map, fill: 0.0 });
    b.values.insert(id, loaded);
    let own = places.of(graph, id, fusion.role[id.0 as usize]);
    if places.stored[id.0 as usize] && own != sums {
        // The slot that this product becomes is read here too, so that the sums cannot be made in it.
        let arg = b.arg(own, node.dtype, Access::Write);
        let map = b.map(&identity, &node.shape, Level::Point);
        b.stores.push(Store { arg, map, value: loaded });
    }
    for &point in cluster.nodes.iter().filter(|&&n| n != id) {
        b.emit(point);
    }
    let epilogue = (!b.stores.is_empty()).then(|| Loop {
        n_outer: axes.len(),
        axes,
        args: b.args.clone(),
        instrs: b.instrs,
        stores: b.stores,
    });
    let contraction = contraction(graph, fusion, id);
    let is_product = matches!(contraction, Contraction::Matmul { .. });
    let read: Vec<NodeId> = cluster.nodes.iter().copied().filter(|v| places.stored[v.0 as usize]).collect();
    let triangle = is_product.then(|| triangle(graph, id, &read)).flatten();
    let kernel = Kernel::Contract(Contract { contraction, dtype: node.dtype, args: b.args, epilogue, triangle });
    Work::new(kernel, b.arg_places, cluster.nodes.clone())
}

/// The memory in which a contraction leaves its sums: the result's own, that of a value that the epilogue writes over them, or its scratch
/// where the epilogue keeps none of them.
fn sums_place(graph: &Graph, fusion: &Fusion, places: &Places, cluster: &Cluster, id: NodeId) -> Place {
    let node = graph.node(id);
    if let Some(place) = places.at[id.0 as usize]
        && !cluster.reads.iter().any(|&x| places.of(graph, x, fusion.role[x.0 as usize]) == place)
    {
        return place;
    }
    let fits = |v: &NodeId| {
        let other = graph.node(*v);
        let same_size = other.dtype == node.dtype && other.shape.numel() == node.shape.numel();
        places.stored[v.0 as usize] && places.at[v.0 as usize].is_none() && same_size
    };
    let kept = std::iter::once(&id).chain(cluster.nodes.iter().filter(|&&v| v != id)).find(|v| fits(v));
    match kept {
        Some(&v) => places.of(graph, v, fusion.role[v.0 as usize]),
        None => Place::Scratch(id),
    }
}

fn contraction(graph: &Graph, fusion: &Fusion, id: NodeId) -> Contraction {
    let node = graph.node(id);
    let Op::Contract(op) = &node.op else { panic!("bug: {} is no contraction", node.op.name()) };
    let shape = |k: usize| &graph.node(node.inputs[k]).shape;
    match op {
        op::Contract::Matmul => {
            let r = node.shape.rank();
            let (lhs, rhs) = (fusion.operand(graph, id, 0).map.clone(), fusion.operand(graph, id, 1).map.clone());
            let (m, n, k) = (node.shape.0[r - 2], node.shape.0[r - 1], shape(0).0[r - 1]);
            Contraction::Matmul { batch: node.shape.0[..r - 2].to_vec(), m, n, k, lhs, rhs }
        }
        op::Contract::Conv(g) => Contraction::Conv(conv_sizes(g, shape(0), shape(1), &node.shape)),
        op::Contract::ConvInputGrad { geometry, .. } => {
            Contraction::ConvInputGrad(conv_sizes(geometry, &node.shape, shape(1), shape(0)))
        }
        op::Contract::ConvWeightGrad { geometry, .. } => {
            Contraction::ConvWeightGrad(conv_sizes(geometry, shape(0), &node.shape, shape(1)))
        }
    }
}

fn conv_sizes(g: &ConvGeometry, x: &Shape, w: &Shape, y: &Shape) -> ConvSizes {
    let n = g.stride.len();
    let fixed = |d: &Dim| d.as_fixed().expect("bug: inference allows B only in a convolution's first axis");
    ConvSizes {
        geometry: g.clone(),
        n: x.0[0],
        input: x.0[1..=n].iter().map(fixed).collect(),
        c_in: fixed(&x.0[n + 1]),
        kernel: w.0[..n].iter().map(fixed).collect(),
        out: y.0[1..=n].iter().map(fixed).collect(),
        c_out: fixed(&y.0[n + 1]),
    }
}

fn lower_other(graph: &Graph, fusion: &Fusion, places: &Places, id: NodeId) -> Vec<Work> {
    let node = graph.node(id);
    if let Op::Movement(Movement::Concat { axis }) = &node.op {
        return lower_concat(graph, fusion, places, id, *axis);
    }
    let mut args = Vec::new();
    let mut at = Vec::new();
    for k in 0..node.inputs.len() {
        let source = fusion.source(graph, id, k);
        args.push(Arg { dtype: graph.node(source).dtype, access: Access::Read });
        at.push(places.of(graph, source, fusion.role[source.0 as usize]));
    }
    args.push(Arg { dtype: node.dtype, access: Access::Write });
    at.push(places.of(graph, id, Role::Heavy));
    let x = graph.node(node.inputs[0]);
    let kernel = match &node.op {
        Op::Window(op) => Kernel::Window(window_kernel(op, x, args)),
        Op::Reduce(Reduce::CumSum { axis, reverse }) => {
            let (outer, len, inner) = around(&node.shape, *axis);
            Kernel::Scan(Scan { outer, len, inner, reverse: *reverse, dtype: node.dtype, args })
        }
        Op::Index(Index::ArgSort { axis, descending }) => {
            let (outer, len, inner) = around(&x.shape, *axis);
            Kernel::Sort(Sort { outer, len, inner, descending: *descending, dtype: x.dtype, args })
        }
        Op::Index(op @ (Index::TakeGrad { .. } | Index::TakeAlongGrad { .. })) => {
            Kernel::Scatter(scatter(op, node, graph.node(node.inputs[1]), args))
        }
        Op::Index(Index::Put { axis }) => return lower_put(graph, fusion, places, id, *axis),
        Op::Index(Index::Take { .. } | Index::TakeAlong { .. })
        | Op::Leaf(_)
        | Op::Elementwise(_)
        | Op::Movement(_)
        | Op::Reduce(_)
        | Op::Contract(_)
        | Op::Random(_)
        | Op::Control(_) => panic!("bug: {} is no kernel of its own", node.op.name()),
    };
    vec![Work::new(kernel, at, vec![id])]
}

/// A slice over another, in place; before it a copy of all, where the result is not in the operand's memory.
fn lower_put(graph: &Graph, fusion: &Fusion, places: &Places, id: NodeId, axis: usize) -> Vec<Work> {
    let node = graph.node(id);
    let place = |k: usize| {
        let source = fusion.source(graph, id, k);
        places.of(graph, source, fusion.role[source.0 as usize])
    };
    let result = places.of(graph, id, Role::Heavy);
    let [index, slice] = [1, 2].map(|k| graph.node(node.inputs[k]));
    let arg = |dtype: DType, access: Access| Arg { dtype, access };
    let (outer, len, inner) = around(&node.shape, axis);
    let kernel = Scatter {
        outer,
        n_index: Dim::ONE,
        len,
        inner,
        along: false,
        replaces: true,
        dtype: node.dtype,
        index_dtype: index.dtype,
        args: vec![arg(slice.dtype, Access::Read), arg(index.dtype, Access::Read), arg(node.dtype, Access::ReadWrite)],
    };
    let put = Work::new(Kernel::Scatter(kernel), vec![place(2), place(1), result], vec![id]);
    let copy = (place(0) != result).then(|| copy_to(node, place(0), result, id));
    copy.into_iter().chain([put]).collect()
}

fn window_kernel(op: &Window, x: &crate::ir::Node, args: Vec<Arg>) -> WindowKernel {
    let kind = match op {
        Window::ArgMax(_) => WindowOp::ArgMax,
        Window::Take(_) => WindowOp::Take,
        Window::Put { .. } => WindowOp::Put,
        Window::Sum(_) => WindowOp::Sum,
        Window::Spread { .. } => WindowOp::Spread,
    };
    let n = op.geometry().size.len();
    let input = match op {
        Window::Put { input, .. } | Window::Spread { input, .. } => input.clone(),
        Window::ArgMax(_) | Window::Take(_) | Window::Sum(_) => x.shape.0[1..=n].iter().map(|d| d.at(1)).collect(),
    };
    let channels = x.shape.0[n + 1].as_fixed().expect("bug: inference keeps channels fixed");
    WindowKernel { op: kind, geometry: op.geometry().clone(), dtype: x.dtype, n: x.shape.0[0], input, channels, args }
}

fn scatter(op: &Index, node: &crate::ir::Node, index: &crate::ir::Node, args: Vec<Arg>) -> Scatter {
    let (axis, along) = match op {
        Index::TakeGrad { axis, .. } => (*axis, false),
        Index::TakeAlongGrad { axis, .. } => (*axis, true),
        Index::Take { .. } | Index::TakeAlong { .. } | Index::Put { .. } | Index::ArgSort { .. } => {
            panic!("bug: {} adds nothing", op.name())
        }
    };
    let (outer, len, inner) = around(&node.shape, axis);
    let n_index = if along { index.shape.0[axis] } else { product(index.shape.dims()) };
    Scatter { outer, n_index, len, inner, along, replaces: false, dtype: node.dtype, index_dtype: index.dtype, args }
}

fn product(dims: &[Dim]) -> Dim {
    dims.iter().try_fold(Dim::ONE, |n, d| n.times(*d)).expect("bug: a node holds at most a·B + b elements")
}

/// The extents before, at and after an axis.
fn around(shape: &Shape, axis: usize) -> (Dim, Dim, Dim) {
    (product(&shape.0[..axis]), shape.0[axis], product(&shape.0[axis + 1..]))
}

/// One copy per operand, each into its part of the result, but for those that are made there.
fn lower_concat(graph: &Graph, fusion: &Fusion, places: &Places, id: NodeId, axis: usize) -> Vec<Work> {
    let node = graph.node(id);
    let whole = View::identity(id, &node.shape).expect("bug: a node holds at most a·B + b elements");
    let step = node.shape.strides().expect("bug: a node holds at most a·B + b elements")[axis];
    let mut at = Dim::ZERO;
    let mut works = Vec::new();
    for k in 0..node.inputs.len() {
        let shape = graph.node(node.inputs[k]).shape.clone();
        let offset = at.times(step).expect("bug: a node holds at most a·B + b elements");
        at = at + shape.0[axis];
        if places.at[fusion.source(graph, id, k).0 as usize] == Some(Place::Node(id)) {
            continue;
        }
        let part = Cluster {
            kind: ClusterKind::Loop,
            nodes: vec![id],
            space: squeeze(&shape),
            reduced: Vec::new(),
            reads: Default::default(),
            deps: Default::default(),
            region: None,
        };
        let rank = part.space.len();
        let mut b = Builder::new(graph, fusion, places, &part, (0..rank).collect(), rank);
        let value = b.operand(id, k, Level::Point);
        let arg = b.arg(places.of(graph, id, Role::Heavy), node.dtype, Access::Write);
        // An axis that is 1 in the part is stepped over by the offset alone.
        let mut map = b.map(&whole, &shape, Level::Point);
        map.offset = offset;
        b.stores.push(Store { arg, map, value });
        let kernel = Loop { axes: part.space.clone(), n_outer: rank, args: b.args, instrs: b.instrs, stores: b.stores };
        works.push(Work::new(Kernel::Loop(coalesce(kernel)), b.arg_places, vec![id]));
    }
    works
}

/// A plain copy of a stored value into the memory of a slot or a loop's value, for updates that cannot be written in place.
pub fn copy_into(graph: &Graph, places: &Places, id: NodeId, place: Place) -> Work {
    copy_to(graph.node(id), places.of(graph, id, Role::Point), place, id)
}

/// A plain copy of something like `node`.
fn copy_to(node: &Node, from: Place, to: Place, id: NodeId) -> Work {
    let dtype = node.dtype;
    let n = node.shape.numel().expect("bug: a node holds at most a·B + b elements");
    let map = Map { strides: vec![Dim::ONE], offset: Dim::ZERO, guards: Vec::new() };
    let kernel = Loop {
        axes: vec![n],
        n_outer: 1,
        args: vec![Arg { dtype, access: Access::Read }, Arg { dtype, access: Access::Write }],
        instrs: vec![Instr::Load { arg: 0, map: map.clone(), fill: 0.0 }],
        stores: vec![Store { arg: 1, map, value: Value(0) }],
    };
    Work::new(Kernel::Loop(kernel), vec![from, to], vec![id])
}

/// Values that something outside of their cluster reads, by node.
pub fn stored(graph: &Graph, fusion: &Fusion) -> Vec<bool> {
    let mut stored = vec![false; graph.nodes.len()];
    for cluster in &fusion.clusters {
        for &id in &cluster.nodes {
            for k in 0..fusion.n_operands(graph, id) {
                let view = fusion.operand(graph, id, k);
                let made_here = cluster.nodes.contains(&view.source) && {
                    let shape = fusion.operand_shape(graph, id, k);
                    let level = operand_level(graph, fusion, cluster, id);
                    !is_gathered(graph, id, k) && fusion.is_register(cluster, &cluster.reduced, &view, shape, level)
                };
                if !made_here && has_memory(graph, view.source) {
                    stored[view.source.0 as usize] = true;
                }
            }
        }
    }
    graph.outputs.iter().for_each(|o| stored[o.node.0 as usize] = true);
    graph.updates.iter().for_each(|(_, node)| stored[node.0 as usize] = true);
    for l in &fusion.loops.list {
        let firsts = l.carries.iter().map(|carry| graph.node(*carry).inputs[0]);
        firsts.chain(l.nexts.iter().copied()).for_each(|id| stored[id.0 as usize] = true);
    }
    stored
}

fn operand_level(graph: &Graph, fusion: &Fusion, cluster: &Cluster, id: NodeId) -> Level {
    let reduce = fusion.role[id.0 as usize] == Role::Reduce;
    let point =
        reduce || squeeze(&graph.node(id).shape) == cluster.space || row_space(cluster).len() == cluster.space.len();
    if point { Level::Point } else { Level::Row }
}
