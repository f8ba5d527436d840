//! Kernels for tests of text. Takes extents, gives contractions with and without an epilogue.

use wholestep_compiler::ir::op::{Binary, ConvGeometry, WindowGeometry};
use wholestep_compiler::ir::{Batch, DType, Dim, Shape};
use wholestep_compiler::kernel::{
    Access, Arg, Contract, Contraction, ConvSizes, Instr, Loop, Map, Store, Value, WindowKernel, WindowOp,
};

pub fn arg(dtype: DType, access: Access) -> Arg {
    Arg { dtype, access }
}

fn map(strides: Vec<Dim>) -> Map {
    Map { strides, offset: Dim::ZERO, guards: vec![] }
}

fn args() -> Vec<Arg> {
    use Access::{Read, ReadWrite, Write};
    let f = DType::F32;
    vec![arg(f, Read), arg(f, Read), arg(f, ReadWrite), arg(DType::U8, Write)]
}

/// A product and the axes of its result; `lhs_t` and `rhs_t` say which operands are stored transposed.
pub fn matmul(batch: &[usize], [m, n, k]: [Dim; 3], lhs_t: bool, rhs_t: bool) -> (Contraction, Vec<Dim>) {
    let batch: Vec<Dim> = batch.iter().map(|&b| Dim::fixed(b)).collect();
    let operand = |rows: Dim, cols: Dim, transposed: bool| {
        let mut axes = batch.clone();
        axes.extend(if transposed { [cols, rows] } else { [rows, cols] });
        let mut strides = Shape(axes).strides().expect("the tests have one B");
        if transposed {
            let r = strides.len();
            strides.swap(r - 2, r - 1);
        }
        map(strides)
    };
    let (lhs, rhs) = (operand(m, k, lhs_t), operand(k, n, rhs_t));
    let axes = batch.iter().copied().chain([m, n]).collect();
    (Contraction::Matmul { batch, m, n, k, lhs, rhs }, axes)
}

/// Extents of a convolution of three taps along each axis of 9 elements.
pub fn conv(rank: usize, groups: usize, stride: usize, dilation: usize, [c_in, c_out]: [usize; 2]) -> ConvSizes {
    let geometry = ConvGeometry {
        stride: vec![stride; rank],
        pad_lo: vec![1; rank],
        pad_hi: vec![1; rank],
        dilation: vec![dilation; rank],
        groups,
    };
    let out = (0..rank).map(|i| geometry.out_extent(i, 9, 3).unwrap()).collect();
    ConvSizes { geometry, n: Batch, input: vec![9; rank], c_in, kernel: vec![3; rank], out, c_out }
}

/// A plain convolution that keeps the image's extents.
pub fn geometry(n: Dim, input: [usize; 2], kernel: usize, [c_in, c_out]: [usize; 2]) -> ConvSizes {
    let pad = vec![kernel / 2; 2];
    let geometry =
        ConvGeometry { stride: vec![1; 2], pad_lo: pad.clone(), pad_hi: pad, dilation: vec![1; 2], groups: 1 };
    ConvSizes { geometry, n, input: input.to_vec(), c_in, kernel: vec![kernel; 2], out: input.to_vec(), c_out }
}

/// The axes of a convolution's result.
pub fn result_axes(c: &Contraction) -> Vec<Dim> {
    let fixed = |v: &[usize]| v.iter().map(|&n| Dim::fixed(n)).collect::<Vec<_>>();
    match c {
        Contraction::Conv(s) => [vec![s.n], fixed(&s.out), fixed(&[s.c_out])].concat(),
        Contraction::ConvInputGrad(s) => [vec![s.n], fixed(&s.input), fixed(&[s.c_in])].concat(),
        Contraction::ConvWeightGrad(s) => [fixed(&s.kernel), fixed(&[s.c_in / s.geometry.groups, s.c_out])].concat(),
        Contraction::Matmul { .. } => panic!("a product has no images"),
    }
}

pub fn contract(contraction: Contraction) -> Contract {
    Contract { contraction, dtype: DType::F32, args: args(), epilogue: None, triangle: None }
}

/// The same with operands of f16.
pub fn in_half(mut k: Contract) -> Contract {
    k.args[..2].iter_mut().for_each(|a| a.dtype = DType::F16);
    k.epilogue.iter_mut().for_each(|e| e.args.clone_from(&k.args));
    k
}

/// The same with an epilogue that keeps the sums in arg 5 and adds arg 4 by column to them in arg 2.
pub fn with_bias(contraction: Contraction, axes: &[Dim]) -> Contract {
    let mut args = args();
    args.extend([arg(DType::F32, Access::Read), arg(DType::F32, Access::Write)]);
    let all = map(Shape(axes.to_vec()).strides().expect("the tests have one B"));
    let mut by_column = vec![Dim::ZERO; axes.len()];
    *by_column.last_mut().unwrap() = Dim::ONE;
    let epilogue = Loop {
        axes: axes.to_vec(),
        n_outer: axes.len(),
        args: args.clone(),
        instrs: vec![
            Instr::Load { arg: 2, map: all.clone(), fill: 0.0 },
            Instr::Load { arg: 4, map: map(by_column), fill: 0.0 },
            Instr::Binary { op: Binary::Add, x: Value(0), y: Value(1) },
        ],
        stores: vec![Store { arg: 5, map: all.clone(), value: Value(0) }, Store { arg: 2, map: all, value: Value(2) }],
    };
    Contract { contraction, dtype: DType::F32, args, epilogue: Some(epilogue), triangle: None }
}

/// Windows of 3 by 2 over images of 7 by 6 with 5 channels.
pub fn window(op: WindowOp) -> WindowKernel {
    use Access::{Read, Write};
    let (f, i) = (DType::F32, DType::I32);
    let args = match op {
        WindowOp::ArgMax => vec![arg(f, Read), arg(i, Write)],
        WindowOp::Take | WindowOp::Put => vec![arg(f, Read), arg(i, Read), arg(f, Write)],
        WindowOp::Sum | WindowOp::Spread => vec![arg(f, Read), arg(f, Write)],
    };
    let geometry = WindowGeometry {
        size: vec![3, 2],
        stride: vec![2, 1],
        pad_lo: vec![1, 0],
        out: vec![4, 4],
        dilation: vec![1, 2],
    };
    WindowKernel { op, geometry, dtype: f, n: Batch, input: vec![7, 6], channels: 5, args }
}
