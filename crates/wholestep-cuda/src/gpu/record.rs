//! A step as a graph of the driver's. Takes nodes, gives a graph of what the compute stream was given; loops are conditional nodes, which the device
//! itself runs again or leaves. Never runs anything.

use super::{Queue, alone, check};
use crate::driver::{Graph, KernelCall, LoopCall, Node, Param, Work};
use cudarc::driver::sys;
use wholestep_compiler::backend::DeviceError;

const DOING: &str = "recording the step";

/// A graph that is given back at the end.
pub(super) struct Recorded(pub sys::CUgraph);

impl Drop for Recorded {
    fn drop(&mut self) {
        // SAFETY: it was made below and what was made of it does not need it. What fails here fails because the device is lost.
        let _ = unsafe { sys::cuGraphDestroy(self.0) };
    }
}

impl Queue {
    /// What was recorded, ready to be launched.
    pub(super) fn instantiate(&mut self, graph: &Recorded) -> Result<Graph, DeviceError> {
        let mut made = std::ptr::null_mut();
        // SAFETY: the graph was recorded and the place is one for what is made of it.
        check(unsafe { sys::cuGraphInstantiateWithFlags(&mut made, graph.0, 0) }, "making the step's graph")?;
        self.graphs.push(Some(made));
        // SAFETY: the graph is ready and the stream this queue's.
        check(unsafe { sys::cuGraphUpload(made, self.compute) }, "sending the step's graph")?;
        Ok(Graph(self.graphs.len() - 1))
    }

    /// Nodes in order, none of them a loop, as a graph in which the device reads two clocks, before the first and after the last: a host that gets little of
    /// a core would read them late.
    pub(super) fn record_between(&mut self, nodes: &[Node], from: usize, to: usize) -> Result<Recorded, DeviceError> {
        let (graph, _) = self.capture(None, |queue| {
            queue.mark_in_graph(from)?;
            queue.give(nodes, None)?;
            queue.mark_in_graph(to)
        })?;
        Ok(Recorded(graph))
    }

    /// Notes the time at which the graph that is being recorded comes here.
    fn mark_in_graph(&self, clock: usize) -> Result<(), DeviceError> {
        let flags = sys::CUevent_record_flags::CU_EVENT_RECORD_EXTERNAL as u32;
        // SAFETY: event and stream are this queue's.
        check(unsafe { sys::cuEventRecordWithFlags(self.clocks[clock], self.compute, flags) }, "reading a clock")
    }

    /// Gives the stream nodes that are no loops, each after the one before, and a kernel `last`.
    fn give(&mut self, nodes: &[Node], last: Option<KernelCall>) -> Result<(), DeviceError> {
        nodes.iter().enumerate().try_for_each(|(i, node)| self.enqueue(node, i > 0))?;
        last.map_or(Ok(()), |call| self.enqueue_kernel(&call, !nodes.is_empty(), "what asks for another trip"))
    }

    /// Nodes in order as a graph.
    pub(super) fn record(&mut self, nodes: &[Node]) -> Result<Recorded, DeviceError> {
        if nodes.iter().all(|node| !matches!(node.work, Work::Loop(_))) {
            // As older drivers can do it too.
            return self.capture(None, |queue| queue.give(nodes, None)).map(|(graph, _)| Recorded(graph));
        }
        let mut graph = std::ptr::null_mut();
        // SAFETY: the place is one for a graph.
        check(unsafe { sys::cuGraphCreate(&mut graph, 0) }, DOING)?;
        let graph = Recorded(graph);
        self.record_into(graph.0, nodes, None)?;
        Ok(graph)
    }

    /// Adds nodes to a graph in which there is nothing yet, and what asks for another trip of the loop whose body they are.
    fn record_into(
        &mut self,
        graph: sys::CUgraph,
        nodes: &[Node],
        again: Option<(&LoopCall, u64)>,
    ) -> Result<(), DeviceError> {
        let mut after = Vec::new();
        let mut rest = nodes;
        loop {
            let n = rest.iter().take_while(|node| !matches!(node.work, Work::Loop(_))).count();
            let (plain, others) = rest.split_at(n);
            let Some((Node { work: Work::Loop(call), .. }, others)) = others.split_first() else {
                let again = again.map(|(call, handle)| ask(call, handle, false));
                return self.capture(Some((graph, &after)), |queue| queue.give(plain, again)).map(|_| ());
            };
            let mut handle = 0;
            let context = self.gpu.context.cu_ctx();
            // SAFETY: the place is one for a handle, the graph is being made and the context is this device's.
            check(unsafe { sys::cuGraphConditionalHandleCreate(&mut handle, graph, context, 0, 0) }, DOING)?;
            let first = ask(call, handle, true);
            let (_, ends) = self.capture(Some((graph, &after)), |queue| queue.give(plain, Some(first)))?;
            let (node, body) = self.add_loop(graph, &ends, call, handle)?;
            // What runs once at most is not asked about again.
            let again = (call.max_trips > 1).then_some((call, handle));
            self.record_into(body, &call.body, again)?;
            (after, rest) = (vec![node], others);
        }
    }

    /// What the stream is given, as a graph of its own or in one, after some of its nodes. Gives the graph, and in one what comes after all of it.
    fn capture(
        &mut self,
        into: Option<(sys::CUgraph, &[sys::CUgraphNode])>,
        give: impl FnOnce(&mut Queue) -> Result<(), DeviceError>,
    ) -> Result<(sys::CUgraph, Vec<sys::CUgraphNode>), DeviceError> {
        let _alone = alone();
        let mode = sys::CUstreamCaptureMode::CU_STREAM_CAPTURE_MODE_THREAD_LOCAL;
        // SAFETY: graph and nodes are alive, the stream is this queue's, and recording ends below whatever happens between.
        let begun = unsafe {
            match into {
                None => sys::cuStreamBeginCapture_v2(self.compute, mode),
                Some((graph, after)) => {
                    let (deps, n) = (after.as_ptr(), after.len());
                    sys::cuStreamBeginCaptureToGraph(self.compute, graph, deps, std::ptr::null(), n, mode)
                }
            }
        };
        check(begun, DOING)?;
        let given = give(self);
        let ends = into.map_or(Ok(Vec::new()), |_| self.ends());
        let mut graph = std::ptr::null_mut();
        // SAFETY: the stream is this queue's and the place is one for a graph.
        let ended = check(unsafe { sys::cuStreamEndCapture(self.compute, &mut graph) }, DOING);
        given?;
        ended?;
        Ok((graph, ends?))
    }

    /// What the next node of the stream, which is recording, would come after.
    fn ends(&self) -> Result<Vec<sys::CUgraphNode>, DeviceError> {
        let mut status = sys::CUstreamCaptureStatus::CU_STREAM_CAPTURE_STATUS_NONE;
        let (mut id, mut graph) = (0, std::ptr::null_mut());
        let (mut deps, mut edges, mut n) = (std::ptr::null(), std::ptr::null(), 0);
        // SAFETY: the stream is this queue's and all are places for what they take.
        let code = unsafe {
            sys::cuStreamGetCaptureInfo_v3(
                self.compute,
                &mut status,
                &mut id,
                &mut graph,
                &mut deps,
                &mut edges,
                &mut n,
            )
        };
        check(code, DOING)?;
        // SAFETY: the driver gives so many nodes, which stay until the stream is used again.
        Ok(if n == 0 { Vec::new() } else { unsafe { std::slice::from_raw_parts(deps, n) }.to_vec() })
    }

    /// A node that runs a body while its handle says so; gives the body too, in which there is nothing yet.
    fn add_loop(
        &self,
        graph: sys::CUgraph,
        after: &[sys::CUgraphNode],
        call: &LoopCall,
        handle: u64,
    ) -> Result<(sys::CUgraphNode, sys::CUgraph), DeviceError> {
        let (mut node, mut bodies) = (std::ptr::null_mut(), std::ptr::null_mut());
        // SAFETY: the parameters are numbers and addresses, of which zero is the one for nothing.
        let mut params: sys::CUgraphNodeParams = unsafe { std::mem::zeroed() };
        params.type_ = sys::CUgraphNodeType::CU_GRAPH_NODE_TYPE_CONDITIONAL;
        params.__bindgen_anon_1.conditional = sys::CUDA_CONDITIONAL_NODE_PARAMS {
            handle,
            type_: match call.max_trips {
                1 => sys::CUgraphConditionalNodeType::CU_GRAPH_COND_TYPE_IF,
                _ => sys::CUgraphConditionalNodeType::CU_GRAPH_COND_TYPE_WHILE,
            },
            size: 1,
            phGraph_out: &mut bodies,
            ctx: self.gpu.context.cu_ctx(),
        };
        let (deps, n) = (after.as_ptr(), after.len());
        // SAFETY: graph and nodes are alive; the driver writes where its one body is, which lives as long as the node.
        let body = unsafe {
            check(sys::cuGraphAddNode_v2(&mut node, graph, deps, std::ptr::null(), n, &mut params), DOING)?;
            *params.__bindgen_anon_1.conditional.phGraph_out
        };
        Ok((node, body))
    }
}

/// The launch that tells the graph whether there is another trip.
fn ask(call: &LoopCall, handle: u64, is_first: bool) -> KernelCall {
    let args = vec![
        Param::Address(handle),
        Param::Address(call.predicate),
        Param::Address(call.counter),
        Param::Words(vec![call.max_trips]),
        Param::Words(vec![u32::from(is_first)]),
    ];
    KernelCall { function: call.ask, grid: [1; 3], threads: 1, shared_bytes: 0, args }
}
