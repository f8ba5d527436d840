//! Whether a library's product is right. Takes a call, gives nodes that fill its operands with numbers and compare what came out with sums made anew,
//! and what they found. Never calls the driver.

use crate::convolution::{Axis, Convolution, Form};
use crate::driver::{Function, KernelCall, Node, Param, ProductCall, Work};
use crate::product::{Epilogue, Matrix, Product};
use crate::task::Task;
use crate::texts::Text;
use std::fmt;
use wholestep_compiler::ir::DType;

/// The kernels, and where they leave what they found.
#[derive(Clone, Copy)]
pub struct Check {
    fill: Function,
    compare: Function,
    compare_convolution: Function,
    verdict: u64,
}

/// What was found.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Verdict {
    /// The largest of the differences that rounding the result does not explain, and the largest sum.
    pub most: f32,
    pub largest: f32,
    /// Equal if all bits of two results are.
    pub digest: u64,
}

/// Bytes of a [`Verdict`] on the device.
pub const VERDICT_BYTES: u64 = 16;
/// The name of the comparing node.
pub const COMPARE: &str = "comparing a product";
const HEAD: &str =
    concat!(include_str!("check_places.cuh"), include_str!("check.cuh"), include_str!("check_convolution.cuh"));
/// Threads of the kernels, in blocks of 256.
const BLOCKS: u32 = 1024;
/// So many sums are looked at, and one of so many in large results, as long as that takes no more multiplications than that.
const SUMS: u64 = 1 << 14;
const ONE_OF: u64 = 512;
const MOST_WORK: u64 = 500_000_000;
/// The least, however long they are, or all there are.
const LEAST_SUMS: u64 = 1 << 10;

/// How many of `total` sums of `depth` products are looked at. A single wrong sum among N is missed with a chance of `1 - samples / N`: never in results of
/// up to 16,384, in 511 of 512 large ones, in 2531 of 2532 of GPT-2's scores of its vocabulary (1.6 billion sums). What a library gets wrong is a tile,
/// or a part of its sums: a tile of `4 * N / samples` elements is never missed (`check_places.cuh`), which is 2048 where one of 512 is looked at.
fn samples(total: u64, depth: u64) -> u64 {
    (total / ONE_OF).max(SUMS).min(MOST_WORK / depth).max(LEAST_SUMS).min(total)
}

impl Check {
    pub fn texts() -> [Text; 3] {
        let text = |params: &str, call: &str| Text {
            source: format!(
                "{HEAD}extern \"C\" __global__ void __launch_bounds__(256) KERNEL({params}) {{\nBEGIN_KERNEL();\n{call};\n}}\n"
            ),
            shared_bytes: 0,
            joins: false,
        };
        [
            text("u8* at, const __grid_constant__ Params<1> p", "fill(at, (const u32*)p.w)"),
            text(
                "const u8* lhs, const u8* rhs, const u8* result, Verdict* verdict, const u8* bias, const __grid_constant__ Params<6> p",
                "compare(lhs, rhs, result, verdict, bias, (const u32*)p.w)",
            ),
            text(
                "const u8* lhs, const u8* rhs, const u8* result, Verdict* verdict, const __grid_constant__ Params<7> p",
                "compare_convolution(lhs, rhs, result, verdict, (const u32*)p.w)",
            ),
        ]
    }

    /// `functions` begin with those of the texts; `verdict` has room for one.
    pub fn new(functions: &[Function], verdict: u64) -> Check {
        let (fill, compare, compare_convolution) = (functions[0], functions[1], functions[2]);
        Check { fill, compare, compare_convolution, verdict }
    }

    /// Fills both operands, where they lie before one of them is turned.
    pub fn fill(&self, call: &ProductCall) -> [Node; 2] {
        let [(_, lhs), (_, rhs)] = call.task.operands();
        let places = [(call.lhs, lhs), (call.turned_from.unwrap_or(call.rhs), rhs)];
        std::array::from_fn(|i| self.fill_one(call, i, places[i]))
    }

    /// Fills what a kernel of ours turns, as if it had: the right operand, and the bias.
    pub fn fill_turned(&self, call: &ProductCall) -> Vec<Node> {
        let [_, (_, rhs)] = call.task.operands();
        let result = call.task.result();
        let n = call.task.turned_bytes() / result.size_bytes() as u64;
        let rhs = call.turned_from.map(|_| self.fill_one(call, 1, (call.rhs, rhs)));
        rhs.into_iter().chain(call.bias.map(|at| self.fill_with(2, result, (at, n)))).collect()
    }

    fn fill_one(&self, call: &ProductCall, i: usize, place: (u64, u64)) -> Node {
        let (dtype, _) = call.task.operands()[i];
        self.fill_with(i, dtype, place)
    }

    fn fill_with(&self, i: usize, dtype: DType, (at, elements): (u64, u64)) -> Node {
        let words = vec![elements as u32, number(dtype), 977 * (i as u32 + 1), 0];
        node(self.fill, vec![Param::Address(at), Param::Words(words)], "filling an operand")
    }

    /// Compares each result with some of its sums made anew; the place of the verdict has to be zero.
    pub fn compare(&self, call: &ProductCall) -> Vec<Node> {
        let with_bias = |p: &Product| Task::Product(Product { epilogue: Epilogue::Bias, ..p.clone() });
        let aux = match (&call.task, call.aux) {
            (Task::Product(p), Some(at)) => Some(self.compare_one(call, &with_bias(p), at)),
            _ => None,
        };
        [self.compare_one(call, &call.task, call.result)].into_iter().chain(aux).collect()
    }

    fn compare_one(&self, call: &ProductCall, task: &Task, result_at: u64) -> Node {
        let samples = samples(task.n_sums(), task.depth());
        let ([(dtype, _), _], result) = (task.operands(), task.result());
        let mut words = vec![samples as u32, number(dtype), number(result), rounding(result).to_bits()];
        let (function, more) = match task {
            Task::Product(p) => (self.compare, product_words(p)),
            Task::Convolution(c) => (self.compare_convolution, convolution_words(c)),
        };
        words.extend(more.into_iter().map(|n| n as u32));
        words.resize(words.len().next_multiple_of(4), 0);
        let mut args: Vec<Param> = [call.lhs, call.rhs, result_at, self.verdict].map(Param::Address).into();
        if matches!(task, Task::Product(_)) {
            args.push(Param::Address(call.bias.unwrap_or(0)));
        }
        args.push(Param::Words(words));
        node(function, args, COMPARE)
    }
}

fn product_words(p: &Product) -> Vec<u64> {
    let strides = |m: &Matrix| {
        let [row, column] = if m.by_columns { [1, m.stride] } else { [m.stride, 1] };
        [m.outer_stride, m.batch_stride, row, column]
    };
    let extents = [p.outer, p.batch, p.m, p.n, p.k];
    let epilogue = match p.epilogue {
        Epilogue::None => 0,
        Epilogue::Bias => 1,
        Epilogue::BiasRelu => 2,
        Epilogue::BiasGelu | Epilogue::BiasGeluAux => 3,
    };
    [&extents[..], &strides(&p.lhs), &strides(&p.rhs), &p.result_strides, &[p.row_stride, epilogue]].concat()
}

fn convolution_words(c: &Convolution) -> Vec<u64> {
    let form = match c.form {
        Form::Forward => 0,
        Form::InputGrad => 1,
        Form::WeightGrad => 2,
    };
    let row = Axis { input: 1, kernel: 1, out: 1, pad: 0, stride: 1, dilation: 1 };
    let rows = std::iter::repeat_n(&row, 3 - c.axes.len());
    let axes = rows.chain(&c.axes).flat_map(|a| [a.input, a.kernel, a.out, a.pad, a.stride, a.dilation]);
    [form, c.n, c.c_in, c.c_out, c.groups].into_iter().chain(axes).collect()
}

fn node(function: Function, args: Vec<Param>, name: &str) -> Node {
    let call = KernelCall { function, grid: [BLOCKS, 1, 1], threads: 256, shared_bytes: 0, args };
    Node { work: Work::Kernel(call), name: name.into() }
}

/// The kernels' number of a dtype.
fn number(dtype: DType) -> u32 {
    match dtype {
        DType::F32 => 0,
        DType::F64 => 1,
        DType::F16 => 2,
        DType::BF16 => 3,
        DType::I64 | DType::I32 | DType::U32 | DType::U8 | DType::Bool => panic!("bug: a product of {dtype}"),
    }
}

/// How far rounding puts a result from its sum, as a part of it.
fn rounding(dtype: DType) -> f32 {
    match dtype {
        DType::BF16 => 1.0 / 256.0,
        DType::F16 => 1.0 / 2048.0,
        _ => 0.0,
    }
}

impl Verdict {
    pub fn read(bytes: [u8; VERDICT_BYTES as usize]) -> Verdict {
        let word = |i: usize| u32::from_ne_bytes(std::array::from_fn(|b| bytes[4 * i + b]));
        let digest = u64::from_ne_bytes(std::array::from_fn(|b| bytes[8 + b]));
        Verdict { most: f32::from_bits(word(0)), largest: f32::from_bits(word(1)), digest }
    }

    /// Whether another order of adding, and what a product may round, explain the differences. Roundings grow with the root of how many there are,
    /// and those of tensor cores, which cut off, with how many; a product that is missing or wrong is off by more, and NaN by whatever it is.
    pub fn is_small(&self, task: &Task) -> bool {
        let depth = (task.depth() as f64).max(16.0);
        let bar = match task.operands()[0].0 {
            DType::F64 => 1e-15 * depth.sqrt(),
            DType::F16 | DType::BF16 => 5e-7 * depth.sqrt() + 1.5e-8 * depth,
            // Operands of 11 bits.
            _ if task.tf32() => 1.0 / 512.0,
            _ => 5e-7 * depth.sqrt(),
        };
        let (most, largest) = (f64::from(self.most), f64::from(self.largest));
        largest > 0.0 && largest.is_finite() && most <= bar * largest
    }
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "it is off by {:e} where the largest sum is {:e}", self.most, self.largest)
    }
}

#[cfg(test)]
mod tests {
    use super::{Check, VERDICT_BYTES, Verdict, samples};
    use crate::convolution::{Axis, Convolution, Form};
    use crate::driver::{Driver, Node, ProductCall, Work};
    use crate::gpu::{Gpu, Queue};
    use crate::nvrtc::Nvrtc;
    use crate::product::{Epilogue, Matrix, Product};
    use crate::task::Task;
    use crate::texts::Loaded;
    use crate::units::unit;
    use std::collections::BTreeSet;
    use std::process::Command;
    use std::sync::Arc;
    use wholestep_compiler::backend::DeviceError;
    use wholestep_compiler::ir::DType;

    #[test]
    fn the_kernels_compile() {
        let nvrtc = match Nvrtc::open() {
            Ok(nvrtc) => nvrtc,
            Err(e) if std::env::var_os("REQUIRE_NVRTC").is_none() => return println!("skipped: no nvrtc ({e})"),
            Err(e) => panic!("REQUIRE_NVRTC is set and it does not open: {e}"),
        };
        let source = unit(Check::texts().iter().map(|text| &text.source));
        for arch in [90, 75] {
            nvrtc.compile(std::slice::from_ref(&source), arch, None).unwrap();
        }
    }

    /// The places that the kernels look at, by the very text of theirs, which is C and made a program of the host's by what links Rust's.
    fn places(results: &[Looked]) -> Vec<Vec<u64>> {
        let folder = tempfile::tempdir().unwrap();
        let (source, program) = (folder.path().join("places.c"), folder.path().join("places"));
        let of = |r: &Looked| {
            let total = r.rows * r.columns;
            format!("print({}, {total}u, {}u);\n", samples(total, r.depth), r.columns)
        };
        let text = format!(
            "#include <stdio.h>\n#define INLINE static\ntypedef unsigned u32;\ntypedef unsigned long long u64;\n{}\
             static void print(u32 samples, u64 total, u64 n) {{\n\
             for (u32 s = 0; s < samples; s++) printf(\"%llu \", place_of(s, samples, total, n));\nprintf(\"\\n\");\n}}\n\
             int main(void) {{\n{}return 0;\n}}\n",
            include_str!("check_places.cuh"),
            results.iter().map(of).collect::<String>()
        );
        std::fs::write(&source, text).unwrap();
        let compiled = Command::new("cc").args(["-std=c99", "-O1", "-o"]).arg(&program).arg(&source).output().unwrap();
        assert!(compiled.status.success(), "{}", String::from_utf8_lossy(&compiled.stderr));
        let printed = String::from_utf8(Command::new(&program).output().unwrap().stdout).unwrap();
        printed.lines().map(|line| line.split_whitespace().map(|n| n.parse().unwrap()).collect()).collect()
    }

    /// A result, its sums as rows and columns, and how many products each has.
    struct Looked {
        rows: u64,
        columns: u64,
        depth: u64,
    }

    #[test]
    #[cfg_attr(not(unix), ignore = "needs a C compiler that is called cc")]
    fn samples_leave_out_no_row_no_column_and_no_tile() {
        // A small product, odd sizes, gradients of weights with sums of up to 1.6 million products, layers of GPT-2, pixels by channels, one row and one column.
        let results = [
            [129, 127, 64],
            [200, 100, 10],
            [576, 64, 524_288],
            [64, 576, 524_288],
            [147, 64, 1_605_632],
            [4608, 512, 8192],
            [1000, 2048, 128],
            [8192, 3072, 768],
            [50304, 768, 32768],
            [100_352, 256, 64],
            [1, 100_000, 700],
            [100_000, 1, 700],
        ];
        let results = results.map(|[rows, columns, depth]| Looked { rows, columns, depth });
        let tiles = [8, 16, 32, 64, 128, 256].map(|a| [8, 16, 32, 64, 128, 256].map(|b| [a, b]));
        let mut n_tiles = 0;
        for (Looked { rows, columns, depth }, places) in results.iter().zip(places(&results)) {
            let (total, n) = (rows * columns, samples(rows * columns, *depth));
            assert_eq!(places.len() as u64, n);
            assert!(places.iter().all(|place| *place < total));
            let distinct = places.iter().collect::<BTreeSet<_>>().len() as u64;
            println!("{rows} x {columns}, sums of {depth}: {n} of {total} places, {distinct} of them distinct");
            assert!(distinct == n || distinct * 10 >= n * 8 && total < 2 * n, "{rows} x {columns}: {distinct} of {n}");
            let seen = |of: fn(u64, u64) -> u64| places.iter().map(|p| of(*p, *columns)).collect::<BTreeSet<_>>().len();
            assert_eq!(seen(|p, columns| p / columns) as u64, n.min(*rows), "rows of {rows} x {columns}");
            assert_eq!(seen(|p, columns| p % columns) as u64, n.min(*columns), "columns of {rows} x {columns}");
            for [a, b] in
                tiles.into_iter().flatten().filter(|[a, b]| a * b * n >= 4 * total && a <= rows && b <= columns)
            {
                // Wherever tiles begin: at the first row and column, and at others.
                for [down, right] in [[0, 0], [a / 3, b / 2], [rows % a, columns % b]] {
                    let [down_by, across_by] = [(rows - down) / a, (columns - right) / b];
                    let mut seen = vec![false; (down_by * across_by) as usize];
                    for place in &places {
                        let from = |at: u64, begin: u64, tile: u64| at.checked_sub(begin).map(|at| at / tile);
                        let tile = from(place / columns, down, a).zip(from(place % columns, right, b));
                        if let Some((i, j)) = tile.filter(|(i, j)| *i < down_by && *j < across_by) {
                            seen[(i * across_by + j) as usize] = true;
                        }
                    }
                    assert!(
                        seen.iter().all(|seen| *seen),
                        "tiles of {a} x {b} in {rows} x {columns} from {down}, {right}"
                    );
                    n_tiles += seen.len();
                }
            }
        }
        assert!(n_tiles > 300_000, "{n_tiles} tiles");
    }

    /// Products of 37 x 24 x 64 in 3 calls of 5 between whose rows others lie.
    fn product(dtype: DType, result: DType, by_columns: bool) -> Product {
        let (outer, batch, m, n, k) = (3, 5, 37, 24, 64);
        let matrix = |[rows, columns]: [u64; 2], by_columns: bool| {
            let [lines, length] = if by_columns { [columns, rows] } else { [rows, columns] };
            let stride = outer * length;
            Matrix { dtype, offset: 0, outer_stride: length, batch_stride: lines * stride, stride, by_columns }
        };
        let (lhs, rhs) = (matrix([m, k], by_columns), matrix([k, n], !by_columns));
        // Rows of the results of all calls lie between each other.
        let (result_strides, row_stride) = ([n, outer * m * n], outer * n);
        let epilogue = Epilogue::None;
        Product {
            outer,
            batch,
            m,
            n,
            k,
            lhs,
            rhs,
            result,
            result_strides,
            row_stride,
            epilogue,
            listed: false,
            tf32: false,
        }
    }

    fn opened() -> Option<Arc<Gpu>> {
        match Gpu::open(0, None, true, &[]) {
            Ok(gpu) => Some(Arc::new(gpu)),
            Err(DeviceError::Absent(why)) if std::env::var_os("REQUIRE_CUDA").is_none() => {
                println!("skipped: no cuda ({why})");
                None
            }
            Err(e) => panic!("REQUIRE_CUDA is set and the device does not open: {e}"),
        }
    }

    /// A task in memory of its own.
    fn call(queue: &mut Queue, task: Task) -> ProductCall {
        let bytes = task.result_bytes();
        let sizes =
            [task.operands()[0].1 * 8, task.operands()[1].1 * 8, bytes, 32 << 20, task.turned_bytes().max(1), bytes];
        let [lhs, rhs, result, workspace, bias, aux] = sizes.map(|bytes| queue.alloc(bytes).unwrap());
        let epilogue = if let Task::Product(p) = &task { p.epilogue } else { Epilogue::None };
        let bias = (epilogue != Epilogue::None).then_some(bias);
        let aux = (epilogue == Epilogue::BiasGeluAux).then_some(aux);
        let n = if let Task::Product(p) = &task { 24 * p.outer * p.batch } else { 1 };
        let lists = Some(queue.alloc(n).unwrap());
        let algorithm = queue.algorithms(&task, 32 << 20).unwrap().first().copied();
        let workspace_bytes = 32 << 20;
        ProductCall {
            task,
            algorithm,
            lhs,
            rhs,
            turned_from: None,
            result,
            bias,
            aux,
            lists,
            workspace,
            workspace_bytes,
        }
    }

    fn verdict_of(queue: &mut Queue, check: &Check, call: &ProductCall) -> Verdict {
        queue.clear(check.verdict, VERDICT_BYTES).unwrap();
        check.compare(call).iter().for_each(|node| queue.run(node).unwrap());
        let mut bytes = [0; VERDICT_BYTES as usize];
        queue.read(check.verdict, &mut bytes).unwrap();
        Verdict::read(bytes)
    }

    /// On a GPU with cuBLASLt: each epilogue does what it is to do, and where one bias is another the check sees it, in both results.
    #[test]
    fn epilogues_are_right_and_a_wrong_bias_is_seen() {
        let Some(gpu) = opened() else { return };
        let mut queue = gpu.queue().unwrap();
        let verdict = queue.alloc(VERDICT_BYTES).unwrap();
        let (functions, _) = Loaded::default().load(&mut queue, &Check::texts()).unwrap();
        let check = Check::new(&functions, verdict);
        for dtype in [DType::F32, DType::F16, DType::BF16] {
            for epilogue in [Epilogue::Bias, Epilogue::BiasRelu, Epilogue::BiasGelu, Epilogue::BiasGeluAux] {
                let one = product(dtype, dtype, false);
                let task = Task::Product(Product { outer: 1, batch: 1, row_stride: one.n, epilogue, ..one });
                let call = call(&mut queue, task);
                if call.algorithm.is_none() {
                    println!("no way of the library for {epilogue:?} of {dtype}");
                    continue;
                }
                check.fill(&call).iter().for_each(|node| queue.run(node).unwrap());
                check.fill_turned(&call).iter().for_each(|node| queue.run(node).unwrap());
                queue.run(&Node { work: Work::Product(Box::new(call.clone())), name: "product".into() }).unwrap();
                let right = verdict_of(&mut queue, &check, &call);
                assert!(right.is_small(&call.task), "{epilogue:?} of {dtype}: {right}");
                let mut bias = vec![0; call.task.turned_bytes() as usize];
                queue.read(call.bias.unwrap(), &mut bias).unwrap();
                // Another exponent.
                *bias.last_mut().unwrap() ^= 2;
                queue.write(call.bias.unwrap(), &bias).unwrap();
                let wrong = verdict_of(&mut queue, &check, &call);
                assert!(!wrong.is_small(&call.task), "{epilogue:?} of {dtype}: {wrong}");
                let Some(aux) = call.aux else { continue };
                let of_aux = check.compare(&call).pop().unwrap();
                queue.clear(verdict, VERDICT_BYTES).unwrap();
                queue.run(&of_aux).unwrap();
                let mut bytes = [0; VERDICT_BYTES as usize];
                queue.read(verdict, &mut bytes).unwrap();
                assert!(!Verdict::read(bytes).is_small(&call.task), "what the activation is of, in {dtype}, at {aux}");
            }
        }
    }

    /// Images of 9 x 12 through windows of 3 x 2, every other pixel along one axis.
    fn convolution(form: Form, dtype: DType) -> Task {
        let axis = |[input, kernel, out, pad, stride]: [u64; 5]| Axis { input, kernel, out, pad, stride, dilation: 1 };
        let axes = vec![axis([9, 3, 5, 1, 2]), axis([12, 2, 11, 0, 1])];
        Task::Convolution(Convolution { form, dtype, n: 3, c_in: 8, c_out: 16, groups: 1, axes, tf32: false })
    }

    /// On a GPU with cuBLASLt, and where it is there cuDNN: what they make is right, and not if one sum of it lacks one product.
    #[test]
    fn a_sum_that_lacks_one_product_is_seen() {
        let Some(gpu) = opened() else { return };
        let mut queue = gpu.queue().unwrap();
        let verdict = queue.alloc(VERDICT_BYTES).unwrap();
        let (functions, _) = Loaded::default().load(&mut queue, &Check::texts()).unwrap();
        let check = Check::new(&functions, verdict);
        use DType::{BF16, F16, F32, F64};
        for (dtype, result) in [(F32, F32), (F64, F64), (F16, F16), (F16, F32), (BF16, BF16), (BF16, F32)] {
            let mut products = [false, true].map(|by_columns| product(dtype, result, by_columns)).to_vec();
            if queue.takes_lists() {
                products.push(Product { listed: true, ..products[0].clone() });
            }
            let products = products.into_iter().map(Task::Product);
            let is_there = dtype == result && dtype != F64 && queue.library(&convolution(Form::Forward, F32)).is_some();
            let forms = [Form::Forward, Form::InputGrad, Form::WeightGrad];
            let convolutions = forms.into_iter().filter(|_| is_there).map(|form| convolution(form, dtype));
            for task in products.chain(convolutions) {
                let call = call(&mut queue, task);
                check.fill(&call).iter().for_each(|node| queue.run(node).unwrap());
                if let Some((at, bytes)) = call.lists() {
                    queue.write(at, &bytes).unwrap();
                }
                queue.run(&Node { work: Work::Product(Box::new(call.clone())), name: "product".into() }).unwrap();
                let verdict_of = |queue: &mut Queue| verdict_of(queue, &check, &call);
                let (right, again) = (verdict_of(&mut queue), verdict_of(&mut queue));
                assert!(right.is_small(&call.task), "{dtype} to {result}: {right}");
                assert_eq!(right, again);
                // The last sum without a usual product, 1/12, or as no number.
                let size = result.size_bytes();
                let last = call.result + call.task.result_bytes() - size as u64;
                let mut bytes = vec![0; size];
                queue.read(last, &mut bytes).unwrap();
                let wrong: [Vec<u8>; 2] = match result {
                    F64 => [f64::from_ne_bytes(bytes[..].try_into().unwrap()) + 0.083, f64::NAN]
                        .map(|x| x.to_ne_bytes().into()),
                    F32 => [f32::from_ne_bytes(bytes[..].try_into().unwrap()) + 0.083, f32::NAN]
                        .map(|x| x.to_ne_bytes().into()),
                    // Another exponent, and no number.
                    _ => [[bytes[0], bytes[1] ^ 2], [0xff, 0x7f]].map(Vec::from),
                };
                for bytes in wrong {
                    queue.write(last, &bytes).unwrap();
                    let found = verdict_of(&mut queue);
                    assert!(!found.is_small(&call.task), "{dtype} to {result}: {found}");
                    assert_ne!(found.digest, right.digest);
                }
            }
        }
    }
}
