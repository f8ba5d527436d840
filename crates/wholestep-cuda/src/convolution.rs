//! Convolutions as a library makes them. Takes a contraction and a batch size, gives its extents if the library can say it, and what is left to
//! kernels of ours: to turn weights into the library's order, and what follows its result. Never calls the library.

use crate::product;
use crate::task::{Goal, Split};
use wholestep_compiler::ir::{DType, Dim};
use wholestep_compiler::kernel::{Access, Arg, Contract, Contraction, ConvSizes, Instr, Loop, Map, Store, Value};

/// A convolution or one of its gradients. Operands and result are of one dtype and contiguous: images with their channels last, weights as
/// `[c_out, kernel.., c_in / groups]`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Convolution {
    pub form: Form,
    pub dtype: DType,
    pub n: u64,
    pub c_in: u64,
    pub c_out: u64,
    pub groups: u64,
    /// By spatial axis; there are at least two.
    pub axes: Vec<Axis>,
    /// Whether operands of f32 may be rounded to 19 bits.
    pub tf32: bool,
}

/// Which of the three is made of the two others.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Form {
    Forward,
    InputGrad,
    WeightGrad,
}

/// The window along one spatial axis.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Axis {
    pub input: u64,
    pub kernel: u64,
    pub out: u64,
    pub pad: u64,
    pub stride: u64,
    pub dilation: u64,
}

impl Convolution {
    /// The convolution that a contraction is at a batch size; `None` where the library has no words for it.
    pub fn of(k: &Contract, batch: usize, tf32: bool) -> Option<Convolution> {
        let (form, s) = parts(&k.contraction)?;
        let dtype = k.args[0].dtype;
        let is_half = matches!(dtype, DType::F16 | DType::BF16);
        let sums = [k.dtype, k.args[2].dtype];
        let fits = |d: &DType| *d == dtype || (is_half && *d == DType::F32);
        if k.args[1].dtype != dtype || !(is_half || dtype == DType::F32) || !sums.iter().all(fits) {
            return None;
        }
        let g = &s.geometry;
        // Images of one axis are as those of two, one of them of a single row.
        let row = Axis { input: 1, kernel: 1, out: 1, pad: 0, stride: 1, dilation: 1 };
        let mut axes = vec![row; 2_usize.saturating_sub(s.kernel.len())];
        for i in 0..s.kernel.len() {
            let extents = [s.input[i], s.kernel[i], s.out[i], g.pad_lo[i], g.stride[i], g.dilation[i]];
            let [input, kernel, out, pad, stride, dilation] = extents.map(|n| n as u64);
            // The library pads both ends alike; what it makes of the far end decides about nothing but how many results there are.
            let room = (input + 2 * pad).checked_sub(dilation * (kernel - 1) + 1)?;
            if room / stride + 1 != out || pad > dilation * (kernel - 1) {
                return None;
            }
            axes.push(Axis { input, kernel, out, pad, stride, dilation });
        }
        let [n, c_in, c_out, groups] = [s.n.at(batch), s.c_in, s.c_out, g.groups].map(|n| n as u64);
        let pixels = |of: fn(&Axis) -> u64| axes.iter().map(of).product::<u64>();
        let elements = [n * pixels(|a| a.input) * c_in, n * pixels(|a| a.out) * c_out];
        // It counts with 32 bits and a sign.
        if elements.iter().any(|&n| n == 0 || n > i32::MAX as u64) {
            return None;
        }
        let tf32 = tf32 && dtype == DType::F32;
        Some(Convolution { form, dtype, n, c_in, c_out, groups, axes, tf32 })
    }

    fn weights(&self) -> u64 {
        self.c_out * self.axes.iter().map(|a| a.kernel).product::<u64>() * (self.c_in / self.groups)
    }

    /// Elements of input, weights and output.
    fn sizes(&self) -> [u64; 3] {
        let pixels = |of: fn(&Axis) -> u64| self.n * self.axes.iter().map(of).product::<u64>();
        [pixels(|a| a.input) * self.c_in, self.weights(), pixels(|a| a.out) * self.c_out]
    }

    /// Elements of both operands.
    pub fn operands(&self) -> [u64; 2] {
        let [x, w, y] = self.sizes();
        match self.form {
            Form::Forward => [x, w],
            Form::InputGrad => [y, w],
            Form::WeightGrad => [x, y],
        }
    }

    /// Elements of both operands that are read: what windows step over is not.
    pub fn reads(&self) -> [u64; 2] {
        let [_, w, y] = self.sizes();
        let along = |a: &Axis| if a.kernel < a.stride { a.input.min(a.out * a.kernel) } else { a.input };
        let seen = self.n * self.axes.iter().map(along).product::<u64>() * self.c_in;
        match self.form {
            Form::Forward => [seen, w],
            Form::InputGrad => [y, w],
            Form::WeightGrad => [seen, y],
        }
    }

    /// Elements of the result.
    pub fn n_sums(&self) -> u64 {
        let [x, w, y] = self.sizes();
        match self.form {
            Form::Forward => y,
            Form::InputGrad => x,
            Form::WeightGrad => w,
        }
    }

    /// Products in each sum, those with padding too.
    pub fn depth(&self) -> u64 {
        let [_, w, y] = self.sizes();
        match self.form {
            Form::Forward => w / self.c_out,
            Form::InputGrad => w / (self.c_in / self.groups) / self.groups,
            Form::WeightGrad => y / self.c_out,
        }
    }

    /// Bytes of turned weights.
    pub fn turned_bytes(&self) -> u64 {
        let is_read = self.form != Form::WeightGrad;
        if is_read { self.weights() * self.dtype.size_bytes() as u64 } else { 0 }
    }

    /// Multiply-adds.
    pub fn work(&self) -> f64 {
        let [_, w, y] = self.sizes();
        y as f64 * (w / self.c_out) as f64
    }
}

fn parts(contraction: &Contraction) -> Option<(Form, &ConvSizes)> {
    match contraction {
        Contraction::Matmul { .. } => None,
        Contraction::Conv(s) => Some((Form::Forward, s)),
        Contraction::ConvInputGrad(s) => Some((Form::InputGrad, s)),
        Contraction::ConvWeightGrad(s) => Some((Form::WeightGrad, s)),
    }
}

/// What kernels of ours do beside the library, which writes results of the operands' dtype. `None` for a product, and for an epilogue that does not
/// begin with the sums.
pub fn split(k: &Contract) -> Option<Split> {
    let (form, s) = parts(&k.contraction)?;
    let dtype = k.args[0].dtype;
    let turn = (form != Form::WeightGrad).then(|| turn(s, dtype));
    let target = product::target(k);
    if let (Some(arg), true) = (target.arg, form != Form::WeightGrad && target.dtype == dtype) {
        let rest = k.epilogue.clone().filter(|_| target.has_epilogue);
        return Some(Split { turn, goal: Goal::Arg(arg), rest });
    }
    let axes = result_axes(form, s);
    let map = match form {
        Form::Forward | Form::InputGrad => row_major(&axes)?,
        Form::WeightGrad => turned(s, false),
    };
    Some(Split { turn, goal: Goal::Scratch(k.args.len()), rest: Some(rest(k, axes, map)?) })
}

fn fixed(extents: &[usize]) -> Vec<Dim> {
    extents.iter().map(|&n| Dim::fixed(n)).collect()
}

fn row_major(axes: &[Dim]) -> Option<Map> {
    let strides = wholestep_compiler::ir::Shape(axes.to_vec()).strides()?;
    Some(Map { strides, offset: Dim::ZERO, guards: Vec::new() })
}

/// The axes of the contraction's result.
fn result_axes(form: Form, s: &ConvSizes) -> Vec<Dim> {
    let image = |pixels: &[usize], channels: usize| [vec![s.n], fixed(pixels), fixed(&[channels])].concat();
    match form {
        Form::Forward => image(&s.out, s.c_out),
        Form::InputGrad => image(&s.input, s.c_in),
        Form::WeightGrad => fixed(&[&s.kernel[..], &[s.c_in / s.geometry.groups, s.c_out]].concat()),
    }
}

/// Where an element of weights lies in the other order than that of the axes. Those are ours, `[kernel.., c_in / groups, c_out]`, or the library's,
/// `[c_out, kernel.., c_in / groups]`.
fn turned(s: &ConvSizes, axes_are_the_librarys: bool) -> Map {
    let channels = s.c_in / s.geometry.groups;
    let taps = |j: usize| s.kernel[j + 1..].iter().product::<usize>() * channels;
    let n_taps: usize = s.kernel.iter().product();
    let strides: Vec<usize> = if axes_are_the_librarys {
        let taps = (0..s.kernel.len()).map(|j| taps(j) * s.c_out);
        std::iter::once(1).chain(taps).chain([s.c_out]).collect()
    } else {
        (0..s.kernel.len()).map(taps).chain([1, n_taps * channels]).collect()
    };
    Map { strides: fixed(&strides), offset: Dim::ZERO, guards: Vec::new() }
}

/// Weights as the library reads them.
fn turn(s: &ConvSizes, dtype: DType) -> Loop {
    let axes = fixed(&[&[s.c_out], &s.kernel[..], &[s.c_in / s.geometry.groups]].concat());
    let arg = |access| Arg { dtype, access };
    let map = row_major(&axes).expect("bug: weights have fixed extents");
    Loop {
        n_outer: axes.len(),
        args: vec![arg(Access::Read), arg(Access::Write)],
        instrs: vec![Instr::Load { arg: 0, map: turned(s, true), fill: 0.0 }],
        stores: vec![Store { arg: 1, map, value: Value(0) }],
        axes,
    }
}

/// The epilogue over a result that lies at `map` of an argument of its own and is rounded to the operands' dtype.
fn rest(k: &Contract, axes: Vec<Dim>, map: Map) -> Option<Loop> {
    let sums = k.args[2].dtype;
    let plain = || {
        let instrs = vec![Instr::Load { arg: 2, map: row_major(&axes)?, fill: 0.0 }];
        Some(Loop { n_outer: axes.len(), axes: axes.clone(), args: k.args.clone(), instrs, stores: Vec::new() })
    };
    let mut rest = match &k.epilogue {
        Some(epilogue) => epilogue.clone(),
        None => plain()?,
    };
    let is_sums = |i: &Instr| matches!(i, Instr::Load { arg: 2, .. });
    let begins = matches!(rest.instrs.first(), Some(Instr::Load { arg: 2, map, .. }) if map.is_row_major(&axes));
    if !begins || rest.axes != axes || rest.instrs[1..].iter().any(is_sums) {
        return None;
    }
    let raw = Arg { dtype: k.args[0].dtype, access: Access::Read };
    rest.instrs[0] = Instr::Load { arg: rest.args.len() as u32, map, fill: 0.0 };
    rest.args.push(raw);
    if raw.dtype != sums {
        // The widened value takes the place of the one that was loaded, and all values move up by one.
        rest.instrs.insert(1, Instr::Cast { to: sums, x: Value(0) });
        rest.instrs[2..].iter_mut().for_each(|i| i.operands_mut().into_iter().for_each(|v| v.0 += 1));
        rest.stores.iter_mut().for_each(|s| s.value.0 += 1);
    }
    let value = Value(u32::from(raw.dtype != sums));
    if k.keeps_sums() && !rest.stores.iter().any(|s| s.arg == 2) {
        rest.stores.push(Store { arg: 2, map: row_major(&axes)?, value });
    }
    Some(rest)
}

#[cfg(test)]
mod tests {
    use super::{Axis, Convolution, Form, split};
    use crate::task::Goal;
    use wholestep_compiler::ir::op::ConvGeometry;
    use wholestep_compiler::ir::{DType, Dim};
    use wholestep_compiler::kernel::{Access, Arg, Contract, Contraction, ConvSizes, Instr, Loop, Map, Store, Value};

    /// Images of 5 x 9 with 4 channels in 2 groups, through windows of 3 x 2, to 6 channels.
    fn sizes() -> ConvSizes {
        let geometry = ConvGeometry {
            stride: vec![2, 1],
            pad_lo: vec![1, 0],
            pad_hi: vec![0, 1],
            dilation: vec![1, 2],
            groups: 2,
        };
        let (input, out) = (vec![5, 9], vec![2, 7]);
        ConvSizes { geometry, n: Dim { batch: 1, fixed: 0 }, input, c_in: 4, kernel: vec![3, 2], out, c_out: 6 }
    }

    fn contract(contraction: Contraction, operands: DType, sums: Access, epilogue: Option<Loop>) -> Contract {
        let arg = |dtype, access| Arg { dtype, access };
        let mut args = vec![arg(operands, Access::Read); 2];
        args.extend([arg(DType::F32, sums), arg(DType::U8, Access::Scratch), arg(operands, Access::Write)]);
        Contract { contraction, dtype: DType::F32, args, epilogue, triangle: None }
    }

    fn strides(map: &Map, at: &[usize]) -> i64 {
        map.strides.iter().zip(at).map(|(s, &i)| s.fixed * i as i64).sum()
    }

    fn map(strides: &[i64]) -> Map {
        let strides = strides.iter().map(|&n| Dim { fixed: n, batch: 0 }).collect();
        Map { strides, offset: Dim::ZERO, guards: Vec::new() }
    }

    #[test]
    fn pixels_between_windows_are_not_read() {
        let axis = |kernel, stride| Axis { input: 8, kernel, out: 8 / stride, pad: 0, stride, dilation: 1 };
        let reads = |form, axes: [Axis; 2]| {
            let (dtype, groups, tf32) = (DType::BF16, 1, false);
            Convolution { form, dtype, n: 2, c_in: 3, c_out: 5, groups, axes: axes.into(), tf32 }.reads()
        };
        assert_eq!(reads(Form::Forward, [axis(1, 2), axis(1, 4)]), [2 * 4 * 2 * 3, 15]);
        assert_eq!(reads(Form::WeightGrad, [axis(1, 2), axis(2, 2)]), [2 * 4 * 8 * 3, 2 * 4 * 4 * 5]);
        assert_eq!(reads(Form::InputGrad, [axis(1, 2), axis(1, 2)]), [2 * 4 * 4 * 5, 15]);
    }

    #[test]
    fn the_library_gets_what_it_can_say() {
        let of =
            |s: ConvSizes, dtype| Convolution::of(&contract(Contraction::Conv(s), dtype, Access::Write, None), 3, true);
        // The second axis has a zero more at its far end than the library would put there, which is a result more.
        assert_eq!(of(sizes(), DType::F32), None);
        let mut s = sizes();
        s.geometry.pad_hi = vec![0, 0];
        s.out = vec![3, 7];
        let axis =
            |[input, kernel, out, pad, stride, dilation]: [u64; 6]| Axis { input, kernel, out, pad, stride, dilation };
        let axes = vec![axis([5, 3, 3, 1, 2, 1]), axis([9, 2, 7, 0, 1, 2])];
        let it = Convolution {
            form: Form::Forward,
            dtype: DType::F32,
            n: 3,
            c_in: 4,
            c_out: 6,
            groups: 2,
            axes,
            tf32: true,
        };
        assert_eq!(of(s.clone(), DType::F32), Some(it.clone()));
        assert_eq!(
            (it.operands(), it.n_sums(), it.depth()),
            ([3 * 5 * 9 * 4, 6 * 3 * 2 * 2], 3 * 3 * 7 * 6, 3 * 2 * 2)
        );
        assert_eq!(it.turned_bytes(), 4 * 6 * 3 * 2 * 2);
        assert_eq!(of(s.clone(), DType::BF16).map(|c| (c.dtype, c.tf32)), Some((DType::BF16, false)));
        assert_eq!(of(s.clone(), DType::F64), None);
        // Images of one axis are rows.
        let g = &mut s.geometry;
        for list in
            [&mut g.stride, &mut g.pad_lo, &mut g.pad_hi, &mut g.dilation, &mut s.kernel, &mut s.input, &mut s.out]
        {
            list.remove(0);
        }
        let axes = of(s.clone(), DType::F16).unwrap().axes;
        assert_eq!(axes, [axis([1, 1, 1, 0, 1, 1]), axis([9, 2, 7, 0, 1, 2])]);
        s.n = Dim::fixed(1 << 27);
        assert_eq!(of(s, DType::F16), None, "more elements than it counts");
    }

    #[test]
    fn weights_are_turned_to_the_librarys_order_and_back() {
        let s = sizes();
        let forward = split(&contract(Contraction::Conv(s.clone()), DType::F32, Access::Write, None)).unwrap();
        let turn = forward.turn.unwrap();
        let grad = split(&contract(Contraction::ConvWeightGrad(s), DType::F32, Access::Write, None)).unwrap();
        let rest = grad.rest.unwrap();
        assert!(grad.turn.is_none());
        let Instr::Load { arg: 0, map: from, .. } = &turn.instrs[0] else { panic!("{turn}") };
        let Instr::Load { arg: 5, map: back, .. } = &rest.instrs[0] else { panic!("{rest}") };
        let mut seen = [false; 6 * 3 * 2 * 2];
        for (k, r, t, c) in (0..72).map(|i| (i / 12, i / 4 % 3, i / 2 % 2, i % 2)) {
            let theirs = ((k * 3 + r) * 2 + t) * 2 + c;
            let ours = ((r * 2 + t) * 2 + c) * 6 + k;
            assert_eq!(strides(from, &[k, r, t, c]), ours as i64);
            assert_eq!(strides(&turn.stores[0].map, &[k, r, t, c]), theirs as i64);
            assert_eq!(strides(back, &[r, t, c, k]), theirs as i64);
            assert_eq!(strides(&rest.stores[0].map, &[r, t, c, k]), ours as i64);
            seen[theirs] = true;
        }
        assert!(seen.iter().all(|&s| s));
    }

    #[test]
    fn what_is_only_rounded_is_the_librarys_and_the_rest_follows_its_rounded_result() {
        let axes = [Dim { batch: 1, fixed: 0 }, Dim::fixed(2), Dim::fixed(7), Dim::fixed(6)];
        let whole = map(&[84, 42, 6, 1]);
        let load = Instr::Load { arg: 2, map: whole.clone(), fill: 0.0 };
        let epilogue = |instrs: Vec<Instr>, arg| {
            let value = Value(instrs.len() as u32 - 1);
            let args = contract(Contraction::Conv(sizes()), DType::BF16, Access::Scratch, None).args;
            Loop {
                axes: axes.to_vec(),
                n_outer: 4,
                args,
                instrs,
                stores: vec![Store { arg, map: whole.clone(), value }],
            }
        };
        let of = |access, instrs: &[Instr], arg| {
            let epilogue = Some(epilogue([std::slice::from_ref(&load), instrs].concat(), arg));
            split(&contract(Contraction::Conv(sizes()), DType::BF16, access, epilogue))
        };
        let cast = Instr::Cast { to: DType::BF16, x: Value(0) };
        let rounds = of(Access::Scratch, std::slice::from_ref(&cast), 4).unwrap();
        assert_eq!((rounds.goal, rounds.rest), (Goal::Arg(4), None));
        // The double of the sums, which nobody keeps: they are read as the library wrote them, and widened.
        let twice = Instr::Binary { op: wholestep_compiler::ir::op::Binary::Add, x: Value(0), y: Value(0) };
        let split = of(Access::Scratch, &[twice.clone(), Instr::Cast { to: DType::BF16, x: Value(1) }], 4).unwrap();
        let rest = split.rest.unwrap();
        assert_eq!((split.goal, rest.args[5].dtype), (Goal::Scratch(5), DType::BF16));
        let text = rest.to_string();
        let lines: Vec<&str> = text.lines().skip(1).map(str::trim).collect();
        let raw = "v0 = load a5[84, 42, 6, 1]";
        let store = "store a4[84, 42, 6, 1] = v3";
        assert_eq!(lines, [raw, "v1 = cast v0 f32", "v2 = add v1 v1", "v3 = cast v2 bf16", store]);
        // Sums that somebody else reads are stored too, unless the epilogue overwrites them.
        let kept = of(Access::Write, std::slice::from_ref(&twice), 4).unwrap().rest.unwrap();
        assert_eq!(kept.stores.iter().map(|s| (s.arg, s.value.0)).collect::<Vec<_>>(), [(4, 2), (2, 1)]);
        let over = of(Access::Write, &[twice], 2).unwrap().rest.unwrap();
        assert_eq!(over.stores.iter().map(|s| (s.arg, s.value.0)).collect::<Vec<_>>(), [(2, 2)]);
        let shifted = Instr::Load { arg: 2, map: map(&[84, 42, 6, 0]), fill: 0.0 };
        assert!(of(Access::Scratch, &[shifted], 4).is_none(), "another look at the sums");
    }
}
