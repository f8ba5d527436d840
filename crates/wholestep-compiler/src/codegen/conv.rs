//! Convolutions as sums over rows and a depth. Takes the extents of a convolution, gives where its operands' elements are for each row and
//! depth: what matrix products need. Never copies an image into columns.
//!
//! Spatial axes are d = 0..rank. Positions are unsigned and wrap, so that `0 <= p < extent` is one comparison.

use super::Source;
use super::contract::{Gemm, Operand, Placement, Strided, transpose};
use super::index::{self, literal};
use super::source::define;
use super::tile::{Along, Side};
use crate::ir::{DType, Dim};
use crate::kernel::ConvSizes;

/// An operand of a convolution that is no plain matrix.
#[derive(Clone, Debug)]
pub(super) enum Image {
    /// Rows are pixels, the depth is taps by channels.
    Pixels(Pixels),
    /// Rows are taps by input channels, the depth is the output's pixels.
    Taps(Taps),
    /// The weight with rows of input channels and a depth of taps by output channels.
    Weight(Weight),
}

/// Along each axis, pixel u and tap j meet the source at `u·scale + shift + j·step`.
#[derive(Clone, Debug)]
pub(super) struct Pixels {
    rows: Dim,
    extents: Vec<usize>,
    scale: Vec<usize>,
    shift: Vec<String>,
    step: Vec<i64>,
    taps: Vec<String>,
    source: Vec<usize>,
    /// Along each axis, whether the source has an element at every position.
    inside: Vec<bool>,
    channels: usize,
    groups: usize,
}

#[derive(Clone, Debug)]
pub(super) struct Taps {
    sizes: ConvSizes,
}

#[derive(Clone, Debug)]
pub(super) struct Weight {
    sizes: ConvSizes,
    /// Tap j of an axis is tap `first + j·step` of the weight.
    first: Vec<String>,
    step: Vec<usize>,
    taps: Vec<String>,
}

/// The input's pixels by their remainder to the stride: those of one class take the same taps.
#[derive(Clone, Debug)]
pub(super) struct Classes {
    pub cols: Dim,
    /// All pixels of all images.
    pub pixels: Dim,
    sizes: ConvSizes,
    /// Pixels of the largest class along each axis.
    extents: Vec<usize>,
}

/// One axis of one class: the first tap, how many there are, and what is added to the pixel's number to get the position under the first.
struct Class {
    first: usize,
    taps: usize,
    shift: i64,
}

fn gcd(a: usize, b: usize) -> usize {
    if b == 0 { a } else { gcd(b, a % b) }
}

impl Classes {
    pub fn count(&self) -> u32 {
        self.sizes.geometry.stride.iter().product::<usize>() as u32
    }

    /// The largest part of all taps that one class has.
    pub fn largest_share(&self) -> f64 {
        let s = &self.sizes;
        let of_axis = |d: usize| {
            let taps = (0..s.geometry.stride[d]).map(|r| Classes::class(s, d, r).taps);
            taps.max().unwrap_or(0) as f64 / s.kernel[d] as f64
        };
        (0..s.input.len()).map(of_axis).product()
    }

    fn class(s: &ConvSizes, d: usize, remainder: usize) -> Class {
        let g = &s.geometry;
        let (stride, pad, dilation) = (g.stride[d], g.pad_lo[d], g.dilation[d]);
        let q = remainder + pad;
        let Some(first) = (0..s.kernel[d]).find(|k| (k * dilation) % stride == q % stride) else {
            return Class { first: 0, taps: 0, shift: 0 };
        };
        let taps = (s.kernel[d] - 1 - first) / (stride / gcd(stride, dilation)) + 1;
        Class { first, taps, shift: (q as i64 - (first * dilation) as i64) / stride as i64 }
    }

    /// Statements that define each axis' remainder, taps, first tap and shift for class number `z` modulo their count.
    pub fn prologue(&self, z: &str) -> String {
        let s = &self.sizes;
        let mut text = String::new();
        let mut rest = format!("({z})");
        for d in (0..s.input.len()).rev() {
            let stride = s.geometry.stride[d];
            text += &define(&format!("class_{d}"), &format!("{rest} % {stride}u"));
            rest = format!("({rest} / {stride}u)");
            let classes: Vec<Class> = (0..stride).map(|r| Classes::class(s, d, r)).collect();
            let pick = |of: &dyn Fn(&Class) -> u32| {
                let numbers = classes.iter().enumerate().skip(1);
                numbers.fold(format!("{}u", of(&classes[0])), |before, (i, c)| {
                    format!("select({before}, {}u, class_{d} == {i}u)", of(c))
                })
            };
            text += &define(&format!("class_taps_{d}"), &pick(&|c| c.taps as u32));
            text += &define(&format!("class_first_{d}"), &pick(&|c| c.first as u32));
            text += &define(&format!("class_shift_{d}"), &pick(&|c| c.shift as i32 as u32));
        }
        let taps: Vec<String> = (0..s.input.len()).map(|d| format!("class_taps_{d}")).collect();
        let c = s.c_out / s.geometry.groups;
        text + &define("class_depth", &format!("{} * {c}u", taps.join(" * ")))
    }

    /// Defines `orow`, the pixel that row `row` is, and whether it is `inside` of the image.
    pub fn place(&self, row: &str) -> String {
        let s = &self.sizes;
        let mut text = define("rest", row);
        let mut rest = "rest".to_string();
        let (mut at, mut inside, mut step) = (Vec::new(), Vec::new(), 1);
        for d in (0..s.input.len()).rev() {
            let stride = s.geometry.stride[d];
            text += &define(&format!("pixel_{d}"), &format!("({rest} % {}u) * {stride}u + class_{d}", self.extents[d]));
            rest = format!("({rest} / {}u)", self.extents[d]);
            at.push(format!("pixel_{d} * {step}u"));
            inside.push(format!("pixel_{d} < {}u", s.input[d]));
            step *= s.input[d];
        }
        at.push(format!("{rest} * {step}u"));
        text + &define("orow", &at.join(" + ")) + &define("inside", &index::all(inside))
    }
}

fn product(v: &[usize]) -> usize {
    v.iter().product()
}

fn times(d: Dim, n: usize) -> Dim {
    d * n as i64
}

/// Whether the convolution is a product of matrices as it stands.
fn is_pointwise(s: &ConvSizes) -> bool {
    let g = &s.geometry;
    let ones = |v: &[usize]| v.iter().all(|&n| n == 1);
    let zeros = |v: &[usize]| v.iter().all(|&n| n == 0);
    g.groups == 1 && ones(&s.kernel) && ones(&g.stride) && zeros(&g.pad_lo) && zeros(&g.pad_hi)
}

fn strided(arg: u32, rows: Dim, row: usize, depth: usize) -> Strided {
    let [row, depth] = [row, depth].map(Dim::fixed);
    Strided { arg, rows, row, depth, offset: Dim::ZERO, batch: Vec::new() }
}

fn gemm(s: &ConvSizes, [m, n, k, unit]: [Dim; 4], a: Operand, mut b: Operand, result: Placement) -> Gemm {
    let groups = s.geometry.groups;
    let batch = if groups == 1 { vec![] } else { vec![Dim::fixed(groups)] };
    if let (Operand::Strided(b), true) = (&mut b, groups > 1) {
        // Groups follow each other along the columns.
        b.batch = vec![b.rows];
    }
    Gemm { m, n, k, unit, batch, a, b, result }
}

/// y: pixels of the output by taps and input channels.
pub(super) fn forward(s: &ConvSizes) -> Gemm {
    let (ci, co) = (s.c_in / s.geometry.groups, s.c_out / s.geometry.groups);
    let m = times(s.n, product(&s.out));
    let g = &s.geometry;
    let rank = s.input.len();
    let a = match is_pointwise(s) {
        true => Operand::Strided(strided(0, m, s.c_in, 1)),
        false => Operand::Image(Image::Pixels(Pixels {
            rows: m,
            extents: s.out.clone(),
            scale: g.stride.clone(),
            shift: g.pad_lo.iter().map(|&p| literal(-(p as i64))).collect(),
            step: g.dilation.iter().map(|&d| d as i64).collect(),
            taps: s.kernel.iter().map(|&k| literal(k as i64)).collect(),
            source: s.input.clone(),
            inside: (0..rank)
                .map(|d| {
                    let last = (s.out[d] - 1) * g.stride[d] + (s.kernel[d] - 1) * g.dilation[d];
                    g.pad_lo[d] == 0 && last < s.input[d]
                })
                .collect(),
            channels: ci,
            groups: g.groups,
        })),
    };
    let b = Operand::Strided(strided(1, Dim::fixed(co), 1, s.c_out));
    let sizes = [m, Dim::fixed(co), Dim::fixed(product(&s.kernel) * ci), Dim::fixed(ci)];
    gemm(s, sizes, a, b, Placement::Grouped { cols: Dim::fixed(s.c_out) })
}

/// d_x: pixels of the input by taps and output channels.
pub(super) fn input_grad(s: &ConvSizes) -> Gemm {
    let (ci, co) = (s.c_in / s.geometry.groups, s.c_out / s.geometry.groups);
    let g = &s.geometry;
    let rank = s.input.len();
    let is_strided = g.stride.iter().any(|&n| n > 1);
    let extents: Vec<usize> = (0..rank).map(|d| s.input[d].div_ceil(g.stride[d])).collect();
    let m = times(s.n, product(&extents));
    let k = Dim::fixed(product(&s.kernel) * co);
    let cols = Dim::fixed(s.c_in);
    let sizes = [m, Dim::fixed(ci), k, Dim::fixed(co)];
    if is_pointwise(s) {
        let a = Operand::Strided(strided(0, m, s.c_out, 1));
        let b = Operand::Strided(strided(1, Dim::fixed(ci), s.c_out, 1));
        return gemm(s, sizes, a, b, Placement::Grouped { cols });
    }
    let per_axis = |of: &dyn Fn(usize) -> String| (0..rank).map(of).collect::<Vec<String>>();
    let named = |name: &str, plain: &dyn Fn(usize) -> i64| {
        per_axis(&|d| if is_strided { format!("class_{name}_{d}") } else { literal(plain(d)) })
    };
    let taps = named("taps", &|d| s.kernel[d] as i64);
    let common = |d: usize| gcd(g.stride[d], g.dilation[d]);
    let a = Image::Pixels(Pixels {
        rows: m,
        extents: extents.clone(),
        scale: vec![1; rank],
        shift: named("shift", &|d| g.pad_lo[d] as i64),
        step: (0..rank).map(|d| -((g.dilation[d] / common(d)) as i64)).collect(),
        taps: taps.clone(),
        source: s.out.clone(),
        inside: vec![false; rank],
        channels: co,
        groups: g.groups,
    });
    let b = Image::Weight(Weight {
        sizes: s.clone(),
        first: named("first", &|_| 0),
        step: (0..rank).map(|d| g.stride[d] / common(d)).collect(),
        taps,
    });
    let result = match is_strided {
        true => Placement::Strided(Classes { cols, pixels: times(s.n, product(&s.input)), sizes: s.clone(), extents }),
        false => Placement::Grouped { cols },
    };
    gemm(s, sizes, Operand::Image(a), Operand::Image(b), result)
}

/// d_w: taps and input channels by pixels of the output.
pub(super) fn weight_grad(s: &ConvSizes) -> Gemm {
    let (ci, co) = (s.c_in / s.geometry.groups, s.c_out / s.geometry.groups);
    let m = Dim::fixed(product(&s.kernel) * ci);
    let k = times(s.n, product(&s.out));
    let a = match is_pointwise(s) {
        true => Operand::Strided(strided(0, m, 1, s.c_in)),
        false => Operand::Image(Image::Taps(Taps { sizes: s.clone() })),
    };
    let b = Operand::Strided(strided(1, Dim::fixed(co), 1, s.c_out));
    gemm(s, [m, Dim::fixed(co), k, k], a, b, Placement::Grouped { cols: Dim::fixed(s.c_out) })
}

impl Image {
    pub fn arg(&self) -> u32 {
        match self {
            Image::Pixels(_) | Image::Taps(_) => 0,
            Image::Weight(_) => 1,
        }
    }

    /// Whether four neighbours along the channels are loaded as a vector.
    pub fn vectors(&self) -> bool {
        self.group_step().is_multiple_of(4)
    }

    /// Channels of a group.
    pub fn group_step(&self) -> usize {
        match self {
            Image::Pixels(p) => p.channels,
            Image::Taps(t) => t.sizes.c_in / t.sizes.geometry.groups,
            Image::Weight(w) => w.sizes.c_out / w.sizes.geometry.groups,
        }
    }
}

/// For matrix units, which take neighbours along the channels as one vector.
impl Image {
    /// Defines where row `row` is, the first of a vector of `wide` if these lie along rows.
    pub fn setup_row(&self, s: &mut Source, name: &str, row: &str, wide: usize) -> String {
        match self {
            Image::Pixels(p) => p.setup_row(s, name, row),
            Image::Taps(t) => t.setup_row(name, row, wide),
            Image::Weight(w) => w.setup_row(name, row),
        }
    }

    /// Statements that define for depth `k` how far `away` from the row's place its vector is, and the condition under which there is one; else
    /// it is zero.
    pub fn at(&self, name: &str, k: &str) -> (String, String) {
        match self {
            Image::Pixels(p) => (p.tap(k), p.inside(name)),
            Image::Taps(t) => (t.pixel(k), t.inside(name)),
            Image::Weight(w) => (w.tap(k), "true".to_string()),
        }
    }
}

impl Side for Image {
    fn along(&self) -> Along {
        match self {
            Image::Pixels(_) | Image::Weight(_) => Along::Depth,
            Image::Taps(_) => Along::Rows,
        }
    }

    fn setup(&self, s: &mut Source, name: &str, row: &str) -> String {
        match self {
            Image::Pixels(p) => p.setup(s, name, row),
            Image::Taps(t) => t.setup(name, row),
            Image::Weight(w) => w.setup(name, row),
        }
    }

    fn load(&self, s: &mut Source, name: &str, slot: u32, k: &str) -> String {
        let by_depth = |s: &mut Source| {
            (0..4).map(|i| format!("{{\n{}}}\n", self.load_one(s, name, slot, &format!("({k} + {i}u)"), i))).collect()
        };
        match self {
            Image::Pixels(p) if self.vectors() => p.load_vectors(s, name, slot, k),
            Image::Weight(w) if self.vectors() => w.load_vectors(s, name, slot, k),
            Image::Pixels(_) | Image::Weight(_) | Image::Taps(_) => by_depth(s),
        }
    }

    fn load_one(&self, s: &mut Source, name: &str, slot: u32, k: &str, i: u32) -> String {
        match self {
            Image::Pixels(p) => p.load_one(s, name, slot, k, i),
            Image::Taps(t) => t.load_one(s, name, slot, k, i),
            Image::Weight(w) => w.load_one(s, name, slot, k, i),
        }
    }
}

/// Elements from one position to the next along each axis, and those of an image.
fn steps(extents: &[usize], channels: usize) -> (Vec<usize>, usize) {
    let mut steps = vec![0; extents.len()];
    let mut step = channels;
    for d in (0..extents.len()).rev() {
        steps[d] = step;
        step *= extents[d];
    }
    (steps, step)
}

/// Takes `rest` apart over `extents`: statements that define `{prefix}_{d}`, and the text of what is left.
fn split(rest: &str, extents: &[String], prefix: &str) -> (String, String) {
    let mut text = String::new();
    let mut rest = rest.to_string();
    for d in (0..extents.len()).rev() {
        text += &define(&format!("{prefix}_{d}"), &format!("{rest} % {}", extents[d]));
        text += &define(&format!("{prefix}_over_{d}"), &format!("{rest} / {}", extents[d]));
        rest = format!("{prefix}_over_{d}");
    }
    (text, rest)
}

fn texts(v: &[usize]) -> Vec<String> {
    v.iter().map(|n| format!("{n}u")).collect()
}

impl Pixels {
    fn setup(&self, s: &mut Source, name: &str, row: &str) -> String {
        (0..4).map(|j| self.setup_row(s, &format!("{name}_{j}"), &format!("{row} + {j}u"))).collect()
    }

    fn setup_row(&self, s: &mut Source, name: &str, row: &str) -> String {
        let last = s.dim(self.rows - Dim::ONE);
        let (steps, image) = steps(&self.source, self.channels * self.groups);
        let at = format!("at_{name}");
        let mut text = define(&at, &format!("min({row}, {last})"));
        let (parts, rest) = split(&at, &texts(&self.extents), &format!("u_{name}"));
        text += &parts;
        let mut terms = vec![format!("base_0 + {rest} * {image}u")];
        for (d, step) in steps.iter().enumerate() {
            let p = format!("p_{name}_{d}");
            text += &define(&p, &format!("u_{name}_{d} * {}u + {}", self.scale[d], self.shift[d]));
            terms.push(format!("{p} * {step}u"));
        }
        text + &define(&format!("o_{name}"), &terms.join(" + "))
    }

    /// Defines for depth `k` the tap's step along each axis, `t_{d}`, and the elements that it is away, `away`.
    fn tap(&self, k: &str) -> String {
        let (steps, _) = steps(&self.source, self.channels * self.groups);
        let c = self.channels;
        let (parts, _) = split(&format!("({k} / {c}u)"), &self.taps, "j");
        let mut text = parts;
        let mut terms = vec![format!("{k} % {c}u")];
        for (d, step) in steps.iter().enumerate() {
            text += &define(&format!("t_{d}"), &format!("j_{d} * {}", literal(self.step[d])));
            terms.push(format!("t_{d} * {step}u"));
        }
        text + &define("away", &terms.join(" + "))
    }

    /// The condition under which a row has a source element at the tap.
    fn inside(&self, name: &str) -> String {
        let one = |d: usize| format!("p_{name}_{d} + t_{d} < {}u", self.source[d]);
        index::all((0..self.source.len()).filter(|&d| !self.inside[d]).map(one))
    }

    fn load_vectors(&self, s: &mut Source, name: &str, slot: u32, k: &str) -> String {
        let mut text = self.tap(k);
        for j in 0..4 {
            let read = s.load_vector(0, &format!("(o_{name}_{j} + away) >> 2u"));
            text += &match self.inside(&format!("{name}_{j}")).as_str() {
                "true" => define(&format!("l{j}"), &read),
                inside => format!("var l{j} = vec4<f32>();\nif ({inside}) {{ l{j} = {read}; }}\n"),
            };
        }
        text + &transpose(slot)
    }

    fn load_one(&self, s: &mut Source, name: &str, slot: u32, k: &str, i: u32) -> String {
        let (mut text, zero) = (self.tap(k), s.zero(DType::F32));
        for j in 0..4 {
            let read = s.load(0, &format!("o_{name}_{j} + away"));
            text += &format!("var l{j} = {zero};\nif ({}) {{ l{j} = {read}; }}\n", self.inside(&format!("{name}_{j}")));
        }
        text + &format!("v{slot}_{i} = vec4<f32>(l0, l1, l2, l3);\n")
    }
}

impl Taps {
    fn channels(&self) -> usize {
        self.sizes.c_in / self.sizes.geometry.groups
    }

    fn vectors(&self) -> bool {
        self.channels().is_multiple_of(4)
    }

    /// Rows of a block that have a tap of their own.
    fn n_rows(&self) -> u32 {
        if self.vectors() { 1 } else { 4 }
    }

    fn setup(&self, name: &str, row: &str) -> String {
        let wide = if self.vectors() { 4 } else { 1 };
        let one = |j: u32| self.setup_row(&format!("{name}_{j}"), &format!("{row} + {j}u"), wide);
        (0..self.n_rows()).map(one).collect()
    }

    /// Defines where a row is that begins a vector of `wide`.
    fn setup_row(&self, name: &str, row: &str, wide: usize) -> String {
        let s = &self.sizes;
        let c = self.channels();
        let (steps, _) = steps(&s.input, s.c_in);
        let last = product(&s.kernel) * c - wide;
        let at = format!("at_{name}");
        let mut text = define(&at, &format!("min({row}, {last}u)"));
        let (parts, _) = split(&format!("({at} / {c}u)"), &texts(&s.kernel), &format!("j_{name}"));
        text += &parts;
        let mut terms = vec![format!("base_0 + {at} % {c}u")];
        for (d, step) in steps.iter().enumerate() {
            let p = format!("p_{name}_{d}");
            let pad = literal(-(s.geometry.pad_lo[d] as i64));
            text += &define(&p, &format!("j_{name}_{d} * {}u + {pad}", s.geometry.dilation[d]));
            terms.push(format!("{p} * {step}u"));
        }
        text + &define(&format!("o_{name}"), &terms.join(" + "))
    }

    /// Defines for depth `k`, a pixel of the output, where its window begins, `away`.
    fn pixel(&self, k: &str) -> String {
        let s = &self.sizes;
        let (steps, image) = steps(&s.input, s.c_in);
        let (mut text, rest) = split(k, &texts(&s.out), "u");
        let mut terms = vec![format!("{rest} * {image}u")];
        for (d, step) in steps.iter().enumerate() {
            text += &define(&format!("t_{d}"), &format!("u_{d} * {}u", s.geometry.stride[d]));
            terms.push(format!("t_{d} * {step}u"));
        }
        text + &define("away", &terms.join(" + "))
    }

    /// The condition under which a row has an element of the input there.
    fn inside(&self, name: &str) -> String {
        let one = |d: usize| format!("p_{name}_{d} + t_{d} < {}u", self.sizes.input[d]);
        index::all((0..self.sizes.input.len()).map(one))
    }

    fn load_one(&self, s: &mut Source, name: &str, slot: u32, k: &str, i: u32) -> String {
        let (mut text, zero) = (self.pixel(k), s.zero(DType::F32));
        let inside = |j: u32| self.inside(&format!("{name}_{j}"));
        if self.vectors() {
            let read = s.load_vector(0, &format!("(o_{name}_0 + away) >> 2u"));
            return text + &format!("var l = vec4<f32>();\nif ({}) {{ l = {read}; }}\nv{slot}_{i} = l;\n", inside(0));
        }
        for j in 0..4 {
            let read = s.load(0, &format!("o_{name}_{j} + away"));
            text += &format!("var l{j} = {zero};\nif ({}) {{ l{j} = {read}; }}\n", inside(j));
        }
        text + &format!("v{slot}_{i} = vec4<f32>(l0, l1, l2, l3);\n")
    }
}

impl Weight {
    fn setup(&self, name: &str, row: &str) -> String {
        (0..4).map(|j| self.setup_row(&format!("{name}_{j}"), &format!("{row} + {j}u"))).collect()
    }

    fn setup_row(&self, name: &str, row: &str) -> String {
        let s = &self.sizes;
        let last = s.c_in / s.geometry.groups - 1;
        define(&format!("o_{name}"), &format!("base_1 + min({row}, {last}u) * {}u", s.c_out))
    }

    /// Defines for depth `k` where its tap and channel are, `away`.
    fn tap(&self, k: &str) -> String {
        let s = &self.sizes;
        let groups = s.geometry.groups;
        let c = s.c_out / groups;
        let (text, _) = split(&format!("({k} / {c}u)"), &self.taps, "j");
        let (steps, _) = steps(&s.kernel, s.c_in / groups * s.c_out);
        let mut terms = vec![format!("{k} % {c}u")];
        for (d, step) in steps.iter().enumerate() {
            terms.push(format!("({} + j_{d} * {}u) * {step}u", self.first[d], self.step[d]));
        }
        text + &define("away", &terms.join(" + "))
    }

    fn load_vectors(&self, s: &mut Source, name: &str, slot: u32, k: &str) -> String {
        let vector = |j| define(&format!("l{j}"), &s.load_vector(1, &format!("(o_{name}_{j} + away) >> 2u")));
        let rows = [0, 1, 2, 3].map(vector);
        self.tap(k) + &rows.concat() + &transpose(slot)
    }

    fn load_one(&self, s: &mut Source, name: &str, slot: u32, k: &str, i: u32) -> String {
        let each = [0, 1, 2, 3].map(|j| s.load(1, &format!("o_{name}_{j} + away")));
        self.tap(k) + &format!("v{slot}_{i} = vec4<f32>({});\n", each.join(", "))
    }
}
