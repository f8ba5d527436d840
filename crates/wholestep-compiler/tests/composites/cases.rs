//! One row per composite: a name, the shapes of its float inputs (the first extent may be the batch size), and the maths.

use wholestep_compiler::ir::{Batch, DType, Scope, Shape, Tensor};
use wholestep_compiler::ops::*;

/// A composite, applied to inputs that are all larger than 0.2 and at most 2.
pub struct Case {
    pub name: &'static str,
    pub shapes: Vec<Shape>,
    pub maths: fn(&Scope, &[Tensor]) -> Tensor,
}

fn case(name: &'static str, shapes: Vec<Shape>, maths: fn(&Scope, &[Tensor]) -> Tensor) -> Case {
    Case { name, shapes, maths }
}

/// Class weights 0.5, 1.5, 2.5 …: no parameters, since losses give their weights no gradient.
fn class_weights(x: &Tensor) -> Option<Tensor> {
    Some(x.positions(1, DType::F64).flatten(0, -1) + 0.5)
}

/// Whole numbers 0, 1, 2 … modulo `n` in the shape of the rows of `x`.
fn labels(x: &Tensor, n: f64) -> Tensor {
    let rows = x.dim(0);
    let position = x.positions(0, DType::I64).reshape(Shape(vec![rows]));
    position % n
}

pub fn all() -> Vec<Case> {
    [elementwise(), shapes(), reductions(), products(), activations(), norms(), windows(), indices(), losses()]
        .into_iter()
        .flatten()
        .collect()
}

fn bn() -> Vec<Shape> {
    vec![Shape::from((Batch, 3))]
}

fn image() -> Shape {
    Shape::from((Batch, 2, 5, 4))
}

fn elementwise() -> Vec<Case> {
    vec![
        case("broadcast", vec![(Batch, 3).into(), [3].into(), [1, 3].into()], |_, x| {
            (&x[0] + &x[1]) * (2.0 - &x[2]) / (&x[1] + 1.0) - 0.5 * &x[0]
        }),
        case("pow", vec![(Batch, 3).into(), [3].into()], |_, x| x[0].pow(&x[1]) + x[0].pow(1.7) + x[0].pow(3.0)),
        case("clamp", bn(), |_, x| x[0].clamp(0.5, 1.2) + x[0].clamp_min(0.7) + x[0].clamp_max(0.9)),
        case("select", vec![(Batch, 3).into(), [3].into()], |_, x| x[0].greater(1.0).select(&x[1], &x[0] * 3.0)),
        case("masked_fill", bn(), |_, x| x[0].masked_fill(&x[0].less(0.8), 7.0)),
        case("hyperbolic", bn(), |_, x| x[0].sinh() + x[0].cosh() + (&x[0] * 0.4).atanh() + (&x[0] * 0.5).tan()),
        case("inverse_angles", bn(), |_, x| {
            let z = &x[0] * 0.45;
            z.asin() + z.acos() * &x[0] + x[0].atan() + x[0].asinh() + (&x[0] + 1.0).acosh()
        }),
        case("angles", vec![(Batch, 3).into(), [3].into()], |_, x| {
            (&x[0] - 0.1).atan2(-(&x[1])) + x[0].hypot(&x[1]) + x[0].logaddexp(&x[1]) * x[0].lerp(&x[1], 0.3)
        }),
        case("not_finite", bn(), |_, x| {
            let odd = x[0].greater(1.0).select(&x[0], f64::INFINITY);
            odd.nan_to_num(1.0, 2.0, 3.0) * odd.is_finite().select(&x[0], 0.5) + odd.is_nan().cast(DType::F64)
        }),
        case("logarithms", bn(), |_, x| x[0].log2() + x[0].log10() + x[0].log1p() * x[0].expm1()),
        case("extremes", vec![(Batch, 3).into(), [3].into()], |_, x| x[0].maximum(&x[1]) * x[0].minimum(1.1)),
        case("cast", bn(), |_, x| x[0].cast(DType::F32).cast(DType::F64) * 2.0),
    ]
}

fn shapes() -> Vec<Case> {
    let four = || vec![Shape::from((Batch, 4, 3))];
    vec![
        case("reshape", four(), |_, x| x[0].reshape((Rest, 6)).square()),
        case("flatten", four(), |_, x| x[0].flatten(1, -1).square() + x[0].flatten(0, 1).sum(..)),
        case("permute", four(), |_, x| x[0].permute([2, 0, 1]).square()),
        case("transpose", four(), |_, x| x[0].transpose(1, -1).square().transpose(0, 1)),
        case("squeeze", four(), |_, x| x[0].unsqueeze(1).unsqueeze(-1).squeeze([1, -1]).square()),
        case("broadcast_to", vec![[1, 3].into()], |_, x| x[0].broadcast_to([2usize, 4, 3]).square()),
        case("slice", four(), |_, x| {
            x[0].slice(1, 1..).slice(1, ..-1).square() + x[0].slice(1, ..2) * x[0].slice(1, 2..)
        }),
        case("slice_step", four(), |_, x| x[0].slice_step(1, 1.., 2).square() + x[0].slice_step(1, ..=2, 2)),
        case("narrow", four(), |_, x| x[0].narrow(0, 0, 1usize) * x[0].narrow(2, 1, 2).index(2, -1).unsqueeze(2)),
        case("index", four(), |_, x| x[0].index(0, -1).square() + x[0].index(0, 0)),
        case("split", four(), |_, x| {
            let parts = x[0].split(&[1, 3], 1);
            let chunks = x[0].chunk(2, 2);
            &parts[0] * &parts[1] + chunks[1].sum(..) + chunks[0].square().sum(..)
        }),
        case("concat", four(), |_, x| {
            x[0].concat(&[&x[0] * 2.0, x[0].square()], 0).concat(&[x[0].repeat(&[3, 1, 1])], 1)
        }),
        case("stack", four(), |_, x| x[0].stack(&[x[0].square(), x[0].exp()], 1) * x[0].unsqueeze(1)),
        case("flip", four(), |_, x| x[0].flip([0, 2]) * &x[0]),
        case("roll", four(), |_, x| x[0].roll(-1, 1) * &x[0] + x[0].roll(5, 2)),
        case("roll_batch", four(), |_, x| x[0].roll(1, 0) * &x[0] + x[0].roll(-4, 0).square()),
        case("movedim", four(), |_, x| x[0].movedim(1, -1).square() * x[0].movedim(0, 1).movedim(2, 0).movedim(2, 0)),
        case("diagonals", four(), |_, x| {
            let square = x[0].slice(1, ..3);
            square.diagonal(2, 1).square()
                + x[0].diagonal(1, 2)
                + square.sum(0).trace()
                + x[0].index(1, 0).diag_embed().sum(1)
        }),
        case("unfold", four(), |_, x| x[0].unfold(1, 2, 1).square().sum(1) * x[0].unfold(2, 2, 2).sum(1)),
        case("pad_with", four(), |_, x| {
            let padded = |mode| x[0].pad_with(&[(2, 1), (1, 2)], mode).square();
            padded(PadMode::Reflect) + padded(PadMode::Replicate) * padded(PadMode::Circular)
        }),
        case("pad", four(), |_, x| x[0].pad(&[(1, 0), (2, 1)], 0.5).square()),
        case("repeat", four(), |_, x| x[0].repeat(&[2, 1, 1, 2]).square().sum(-1)),
        case("repeat_interleave", four(), |_, x| x[0].repeat_interleave(2, 1) * x[0].repeat(&[1, 2, 1])),
        case("triangles", four(), |_, x| x[0].tril(0) * x[0].triu(-1) + x[0].full_like(2.0)),
    ]
}

fn reductions() -> Vec<Case> {
    let three = || vec![Shape::from((Batch, 4, 3))];
    vec![
        case("sum", three(), |_, x| x[0].square().sum([0, -1]) + x[0].sum_keepdim(..).flatten(0, -1)),
        case("mean", three(), |_, x| x[0].square().mean(..) + x[0].mean([0, 2]) * x[0].mean_keepdim(0).sum([0, -1])),
        case("max", three(), |_, x| x[0].max(1).square() + x[0].min_keepdim(1).squeeze(1)),
        case("var", three(), |_, x| x[0].var([0, 1], 1) + x[0].std_keepdim(.., 0).flatten(0, -1)),
        case("logsumexp", three(), |_, x| x[0].logsumexp([0, 2]) * x[0].logsumexp(..)),
        case("norm", three(), |_, x| x[0].norm([1, 2]) + x[0].norm_p([1, 2], 3.0) + x[0].norm_p([1, 2], f64::INFINITY)),
        case("prod", three(), |_, x| x[0].prod([1, 2]) + x[0].prod_keepdim(2).sum([1, 2])),
        case("cumsum", three(), |_, x| x[0].cumsum(0).square() + x[0].cumsum(-1)),
        case("cumprod", three(), |_, x| x[0].cumprod(1)),
        case("argmax", three(), |_, x| {
            x[0].argmax(1).cast(DType::F64) * x[0].sum(1) + x[0].argmin(..).cast(DType::F64)
        }),
        case("any", three(), |_, x| {
            x[0].greater(1.0).any(1).select(x[0].sum(1), x[0].greater(0.5).all(1).cast(DType::F64))
        }),
    ]
}

fn products() -> Vec<Case> {
    vec![
        case("matmul_flat", vec![(Batch, 4, 3).into(), [3, 2].into()], |_, x| x[0].matmul(&x[1])),
        case("matmul_batched", vec![(Batch, 1, 2, 3).into(), [2, 3, 2].into()], |_, x| x[0].matmul(&x[1])),
        case("matmul_vectors", vec![(Batch, 4, 3).into(), [3].into(), [4].into()], |_, x| {
            x[0].matmul(&x[1]) + x[2].matmul(&x[0]).sum(-1).unsqueeze(-1) + x[1].matmul(&x[1])
        }),
        case("linear", vec![(Batch, 4, 3).into(), [2, 3].into(), [2].into()], |_, x| x[0].linear(&x[1], Some(&x[2]))),
        case("outer", vec![[3].into(), [2].into()], |_, x| x[0].outer(&x[1]) * x[0].dot(&x[0])),
        case("einsum_batched", vec![(Batch, 2, 3, 4).into(), (Batch, 2, 5, 4).into()], |_, x| {
            x[0].einsum("bhqd,bhkd->bhqk", &[&x[1]])
        }),
        case("einsum_three", vec![(Batch, 3).into(), [2, 3, 4].into(), (Batch, 4).into()], |_, x| {
            x[0].einsum("bi,oij,bj->bo", &[&x[1], &x[2]])
        }),
        case("einsum_ellipsis", vec![(Batch, 2, 3, 4).into(), [1, 4, 5].into()], |_, x| {
            x[0].einsum("b...ij,...jk->b...ki", &[&x[1]]) + x[0].einsum("...ij->...", &[]).sum(..)
        }),
        case("einsum_diagonal", vec![[3, 3, 2].into()], |_, x| {
            x[0].einsum("iij->ji", &[]) + x[0].einsum("iik", &[]).sum(..)
        }),
    ]
}

fn activations() -> Vec<Case> {
    vec![
        case("relus", bn(), |_, x| {
            let z = (&x[0] - 1.0) * 7.0;
            z.relu() + z.relu6() + z.leaky_relu(0.1) + z.elu(1.3) + z.selu() + z.celu(0.7)
        }),
        case("prelu", vec![(Batch, 3, 2).into(), [3].into()], |_, x| {
            (&x[0] - 1.0).prelu(&x[1]) * x[0].prelu(&x[1].slice(0, ..1))
        }),
        case("gelus", bn(), |_, x| {
            let z = (&x[0] - 1.0) * 3.0;
            z.gelu() + z.gelu_tanh() + z.silu() + z.mish()
        }),
        case("hards", bn(), |_, x| ((&x[0] - 1.0) * 7.0).hardsigmoid() + ((&x[0] - 1.0) * 7.0).hardswish()),
        case("softs", bn(), |_, x| {
            let z = (&x[0] - 1.0) * 9.0;
            z.softplus(2.0, 5.0) + z.log_sigmoid() + z.sigmoid() * z.tanh()
        }),
        case("softmax", vec![(Batch, 4, 3).into()], |_, x| x[0].softmax(1) * x[0].log_softmax(-1) + x[0].softmax(0)),
        case("glu", vec![(Batch, 4).into()], |_, x| x[0].glu(-1)),
    ]
}

fn norms() -> Vec<Case> {
    let affine = || vec![Shape::from((Batch, 4, 3)), [4].into(), [4].into()];
    vec![
        case("layer_norm", vec![(Batch, 4, 3).into(), [4, 3].into(), [4, 3].into()], |_, x| {
            x[0].layer_norm(2, Some(&x[1]), Some(&x[2]), 1e-5)
        }),
        case("rms_norm", vec![(Batch, 4, 3).into(), [3].into()], |_, x| x[0].rms_norm(1, Some(&x[1]), 1e-6)),
        case("group_norm", affine(), |_, x| x[0].group_norm(2, Some(&x[1]), Some(&x[2]), 1e-5)),
        case("instance_norm", affine(), |_, x| x[0].instance_norm(Some(&x[1]), Some(&x[2]), 1e-5)),
        case("batch_norm", affine(), |_, x| {
            let now = x[0].batch_statistics();
            now.normalize(Some(&x[1]), Some(&x[2]), 1e-5) + now.var_unbiased.sum(..)
        }),
    ]
}

fn windows() -> Vec<Case> {
    vec![
        case("conv1d", vec![(Batch, 4, 6).into(), [2, 2, 3].into(), [2].into()], |_, x| {
            let options = ConvOptions { padding: Padding::Explicit([(2, 1)]), stride: [2], dilation: [1], groups: 2 };
            x[0].conv1d(&x[1], Some(&x[2]), &options)
        }),
        case("conv2d_same", vec![image(), [3, 2, 2, 3].into()], |_, x| {
            x[0].conv2d(
                &x[1],
                None,
                &ConvOptions { padding: Padding::Same, dilation: [2, 1], ..ConvOptions::default() },
            )
        }),
        case("conv3d", vec![(Batch, 1, 3, 2, 3).into(), [2, 1, 2, 2, 2].into()], |_, x| {
            x[0].conv3d(&x[1], None, &ConvOptions { padding: Padding::all(1), ..ConvOptions::default() })
        }),
        case("conv_transpose1d", vec![(Batch, 2, 3).into(), [2, 3, 2].into(), [3].into()], |_, x| {
            let options = ConvTransposeOptions { stride: [3], output_padding: [2], ..Default::default() };
            x[0].conv_transpose1d(&x[1], Some(&x[2]), &options)
        }),
        case("conv_transpose2d", vec![image(), [2, 1, 3, 2].into(), [2].into()], |_, x| {
            let options = ConvTransposeOptions {
                stride: [2, 1],
                padding: [(1, 1), (0, 1)],
                output_padding: [1, 0],
                groups: 2,
                ..Default::default()
            };
            x[0].conv_transpose2d(&x[1], Some(&x[2]), &options)
        }),
        case("conv_transpose3d", vec![(Batch, 1, 2, 2, 1).into(), [1, 2, 2, 1, 2].into()], |_, x| {
            x[0].conv_transpose3d(&x[1], None, &ConvTransposeOptions::default())
        }),
        case("max_pool", vec![image()], |_, x| {
            let options = PoolOptions { padding: [(1, 0), (0, 1)], ceil_mode: true, ..PoolOptions::new([2, 3]) };
            x[0].max_pool2d(&options) + x[0].flatten(2, 3).max_pool1d(&PoolOptions::new([4])).sum(..)
        }),
        case("avg_pool", vec![image()], |_, x| {
            let options = PoolOptions {
                padding: [(1, 0), (1, 1)],
                stride: [2, 2],
                ceil_mode: true,
                count_include_pad: false,
                ..PoolOptions::new([3, 2])
            };
            x[0].avg_pool2d(&options) + x[0].avg_pool2d(&PoolOptions { count_include_pad: true, ..options })
        }),
        case("pool3d", vec![(Batch, 1, 2, 2, 2).into()], |_, x| {
            x[0].max_pool3d(&PoolOptions::new([2, 1, 2])) + x[0].avg_pool3d(&PoolOptions::new([2, 1, 2]))
        }),
        case("adaptive_pool", vec![image()], |_, x| {
            x[0].adaptive_avg_pool(&[3, 3]) + x[0].adaptive_max_pool(&[3, 3]) + x[0].adaptive_avg_pool(&[1, 2]).sum(..)
        }),
        case("global_pool", vec![image()], |_, x| x[0].global_avg_pool() + x[0].global_max_pool().square()),
    ]
}

fn indices() -> Vec<Case> {
    let table = || vec![Shape::from((Batch, 4))];
    vec![
        case("take", table(), |_, x| x[0].take(1, &labels(&x[0], 4.0)).square() + x[0].sum(..)),
        case("index_select", table(), |_, x| x[0].index_select(0, &(labels(&x[0], 1.0))).square()),
        case("embedding", vec![(Batch, 2).into(), [3, 2].into()], |_, x| x[1].embedding(&labels(&x[0], 3.0)) * &x[0]),
        case("gather", table(), |_, x| x[0].gather(1, &labels(&x[0], 4.0).unsqueeze(1)).square()),
        case("scatter_add", table(), |_, x| {
            x[0].scatter_add(1, &labels(&x[0], 4.0).unsqueeze(1), &x[0].slice(1, 1..2).square()).square()
        }),
        case("one_hot", table(), |_, x| labels(&x[0], 4.0).one_hot(4, DType::F64) * &x[0]),
        case("sort", table(), |_, x| {
            let (values, order) = x[0].sort(1, true);
            values.square() * order.cast(DType::F64) + x[0].sort(0, false).0.square()
        }),
        case("topk", table(), |_, x| {
            let (values, order) = x[0].topk(2, -1, false);
            values.square() + order.cast(DType::F64)
        }),
    ]
}

fn losses() -> Vec<Case> {
    let two = || vec![Shape::from((Batch, 3)), Shape::from((Batch, 3))];
    vec![
        case("cross_entropy", vec![(Batch, 3).into()], |_, x| {
            let y = labels(&x[0], 3.0);
            let rows = CrossEntropy { axis: -1, label_smoothing: 0.2, ..CrossEntropy::default() };
            x[0].cross_entropy(&y) + x[0].cross_entropy_with(&y, &rows)
        }),
        case("cross_entropy_weighted", vec![(Batch, 3, 2).into()], |_, x| {
            let y = labels(&x[0], 3.0).unsqueeze(1).repeat_interleave(2, 1);
            let options = CrossEntropy {
                weight: class_weights(&x[0]),
                ignore_index: Some(1),
                reduction: Reduction::BatchMean,
                ..CrossEntropy::default()
            };
            x[0].cross_entropy_with(&y, &options)
        }),
        case("cross_entropy_probabilities", two(), |_, x| x[0].cross_entropy(&x[1].softmax(1))),
        case("nll", vec![(Batch, 3).into()], |_, x| x[0].log().nll_loss(&labels(&x[0], 3.0))),
        case("bce", two(), |_, x| (&x[0] * 0.4).bce_loss(&(&x[1] * 0.4)) + x[0].bce_with_logits(&x[1])),
        case("bce_weighted", vec![(Batch, 3).into(), (Batch, 3).into(), [3].into()], |_, x| {
            let (weight, pos_weight) = (Some(x[2].clone()), Some(x[2].square()));
            let logits = BceWithLogits { weight: weight.clone(), pos_weight, reduction: Reduction::None };
            x[0].bce_with_logits_with(&x[1], &logits)
                + (&x[0] * 0.3).bce_loss_with(&x[1], &Bce { weight, reduction: Reduction::Sum })
        }),
        case("sigmoid_focal", two(), |_, x| {
            x[0].sigmoid_focal_loss_with(&(&x[1] * 0.4), &SigmoidFocal { gamma: 1.5, ..SigmoidFocal::default() })
        }),
        case("regression", two(), |_, x| {
            x[0].mse_loss(&x[1])
                + x[0].l1_loss(&x[1])
                + x[0].huber_loss_with(&x[1], &Huber { delta: 0.4, ..Huber::default() })
                + x[0].smooth_l1_loss_with(&x[1], &SmoothL1 { beta: 0.3, reduction: Reduction::Sum })
        }),
        case("kl_div", two(), |_, x| {
            let divergence = KlDiv { reduction: Reduction::BatchMean, ..KlDiv::default() };
            let of_logarithms = KlDiv { log_target: true, ..KlDiv::default() };
            x[0].log_softmax(1).kl_div_with(&x[1].softmax(1), &divergence) + x[0].kl_div_with(&x[1], &of_logarithms)
        }),
        case("margins", two(), |_, x| {
            let sign = x[1].greater(1.0).select(1.0, x[1].full_like(-1.0));
            let near = HingeEmbedding { margin: 0.7, ..HingeEmbedding::default() };
            let alike = CosineEmbedding { margin: 0.2, ..CosineEmbedding::default() };
            x[0].hinge_loss(&sign)
                + x[0].hinge_embedding_loss_with(&sign, &near)
                + x[0].cosine_embedding_loss_with(&x[1], &sign.index(1, 0), &alike)
        }),
        case("multi_margin", bn(), |_, x| {
            let options = MultiMargin { p: 2, weight: class_weights(&x[0]), ..MultiMargin::default() };
            x[0].multi_margin_loss_with(&labels(&x[0], 3.0), &options)
        }),
    ]
}
