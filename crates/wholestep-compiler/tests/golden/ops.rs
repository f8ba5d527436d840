//! Single operations.

use super::set::{Set, Trace, ints, keys, report, sizes};
use serde_json::Value as Json;
use wholestep_compiler::ir::{DType, Tensor};
use wholestep_compiler::ops::PadMode;

#[test]
fn single_ops_have_pytorchs_values_and_gradients() {
    let set = Set::load("ops");
    report(&set, |case| {
        let mut trace = Trace::new(&set, None);
        let inputs: Vec<Tensor> = keys(&case["inputs"]).iter().flatten().map(|key| trace.input(key)).collect();
        let found = op(case, &inputs);
        let outputs: Vec<(Tensor, String)> =
            found.into_iter().zip(keys(&case["outputs"]).into_iter().flatten()).collect();
        let gradients: Vec<(Tensor, String)> =
            inputs.into_iter().zip(keys(&case["d_inputs"])).filter_map(|(x, key)| Some((x, key?))).collect();
        trace.compare(&outputs, &keys(&case["d_outputs"]), &gradients, 1e-5)
    });
}

fn op(case: &Json, x: &[Tensor]) -> Vec<Tensor> {
    let name = case["op"].as_str().unwrap_or("?");
    let args = &case["args"];
    let axis = args["axis"].as_i64().unwrap_or(0);
    if let Some(y) = unary(name, &x[0]).or_else(|| reduction(name, args, &x[0])).or_else(|| binary(name, x)) {
        return vec![y];
    }
    let flag = |key: &str| args[key].as_bool().unwrap_or(false);
    let y = match name {
        "clamp" => match (args["min"].as_f64(), args["max"].as_f64()) {
            (Some(lo), Some(hi)) => x[0].clamp(lo, hi),
            (Some(lo), None) => x[0].clamp_min(lo),
            (None, Some(hi)) => x[0].clamp_max(hi),
            (None, None) => x[0].clone(),
        },
        "pow_scalar" => x[0].pow(args["exponent"].as_f64().unwrap_or(f64::NAN)),
        "logical_not" => !x[0].not_equal(0.0),
        "where" => Tensor::where_(&x[0].not_equal(0.0), &x[1], &x[2]),
        "lerp" => x[0].lerp(&x[1], &x[2]),
        "nan_to_num" => {
            let [nan, hi, lo] = ["nan", "posinf", "neginf"].map(|key| args[key].as_f64().unwrap_or(f64::NAN));
            x[0].nan_to_num(nan, hi, lo)
        }
        "movedim" => x[0].movedim(ints(&args["from_to"])[0], ints(&args["from_to"])[1]),
        "diagonal" => x[0].diagonal(ints(&args["axes"])[0], ints(&args["axes"])[1]),
        "unfold" => x[0].unfold(axis, sizes(&args["size_step"])[0], sizes(&args["size_step"])[1]),
        "pad_with" => {
            let mode = match args["mode"].as_str() {
                Some("reflect") => PadMode::Reflect,
                Some("replicate") => PadMode::Replicate,
                _ => PadMode::Circular,
            };
            let pairs: Vec<(usize, usize)> =
                args["before_after"].as_array().expect("pairs").iter().map(|p| (sizes(p)[0], sizes(p)[1])).collect();
            x[0].pad_with(&pairs, mode)
        }
        "cumsum" => x[0].cumsum(axis),
        "cumprod" => x[0].cumprod(axis),
        "softmax" => x[0].softmax(axis),
        "log_softmax" => x[0].log_softmax(axis),
        "sort" => {
            let (values, order) = x[0].sort(axis, flag("descending"));
            return vec![values, order];
        }
        "topk" => {
            let k = args["k"].as_u64().unwrap_or(0) as usize;
            let (values, order) = x[0].topk(k, axis, flag("largest"));
            return vec![values, order];
        }
        "argsort" => x[0].argsort(axis, flag("descending")),
        "gather" => x[0].gather(axis, &x[1]),
        "index_select" => x[0].index_select(axis, &x[1]),
        "scatter_add" => x[0].scatter_add(axis, &x[1], &x[2]),
        "slice" => {
            let triples = args["start_stop_step"].as_array().expect("triples");
            triples.iter().enumerate().fold(x[0].clone(), |y, (axis, triple)| {
                let t = ints(triple);
                y.slice_step(axis as i64, t[0]..t[1].min(y.shape().0[axis].fixed), t[2] as usize)
            })
        }
        "flip" => x[0].flip(ints(&args["axes"])),
        "roll" => {
            let moves = ints(&args["axes"]).into_iter().zip(ints(&args["shifts"]));
            moves.fold(x[0].clone(), |y, (axis, shift)| y.roll(shift, axis))
        }
        "pad" => {
            let pairs: Vec<(usize, usize)> =
                args["before_after"].as_array().expect("pairs").iter().map(|p| (sizes(p)[0], sizes(p)[1])).collect();
            x[0].pad(&pairs, args["value"].as_f64().unwrap_or(f64::NAN))
        }
        "concat" => x[0].concat(&x[1..], axis),
        "stack" => x[0].stack(&x[1..], axis),
        "split" => return x[0].split(&sizes(&args["sizes"]), axis),
        "permute" => x[0].permute(ints(&args["axes"])),
        "reshape" => x[0].reshape(sizes(&args["shape"])),
        "broadcast_to" => x[0].broadcast_to(sizes(&args["shape"])),
        "einsum" => x[0].einsum(args["equation"].as_str().unwrap_or("?"), &x[1..].iter().collect::<Vec<_>>()),
        "cast" => match args["to"].as_str() {
            Some("i64") => x[0].cast(DType::I64),
            Some("i32") => x[0].cast(DType::I32),
            Some("bool") => x[0].cast(DType::Bool),
            Some("f32") => x[0].cast(DType::F32),
            // The oracle never rounds to a narrower float: these two are for the backends' tests.
            Some("f16" | "bf16") => return Vec::new(),
            other => panic!("unknown dtype {other:?}"),
        },
        other => panic!("unknown op {other}"),
    };
    vec![y]
}

fn unary(name: &str, x: &Tensor) -> Option<Tensor> {
    Some(match name {
        "neg" => -x,
        "exp" => x.exp(),
        "expm1" => x.expm1(),
        "sin" => x.sin(),
        "cos" => x.cos(),
        "tan" => x.tan(),
        "tanh" => x.tanh(),
        "sigmoid" => x.sigmoid(),
        "relu" => x.relu(),
        "square" => x.square(),
        "erf" => x.erf(),
        "abs" => x.abs(),
        "sign" => x.sign(),
        "sinh" => x.sinh(),
        "cosh" => x.cosh(),
        "log" => x.log(),
        "log2" => x.log2(),
        "log10" => x.log10(),
        "log1p" => x.log1p(),
        "sqrt" => x.sqrt(),
        "rsqrt" => x.rsqrt(),
        "reciprocal" => x.recip(),
        "atanh" => x.atanh(),
        "asin" => x.asin(),
        "acos" => x.acos(),
        "atan" => x.atan(),
        "asinh" => x.asinh(),
        "acosh" => x.acosh(),
        "isnan" => x.is_nan(),
        "isfinite" => x.is_finite(),
        "trace" => x.trace(),
        "diag_embed" => x.diag_embed(),
        "floor" => x.floor(),
        "ceil" => x.ceil(),
        "round" => x.round(),
        "trunc" => x.trunc(),
        _ => return None,
    })
}

fn binary(name: &str, x: &[Tensor]) -> Option<Tensor> {
    let (a, b) = (&x[0], x.get(1)?);
    let truth = || (a.not_equal(0.0), b.not_equal(0.0));
    Some(match name {
        "add" => a + b,
        "sub" => a - b,
        "mul" => a * b,
        "div" => a / b,
        "maximum" => a.maximum(b),
        "minimum" => a.minimum(b),
        "pow" => a.pow(b),
        "atan2" => a.atan2(b),
        "hypot" => a.hypot(b),
        "logaddexp" => a.logaddexp(b),
        "remainder" => a % b,
        "fmod" => a.fmod(b),
        "eq" => a.equal(b),
        "ne" => a.not_equal(b),
        "lt" => a.less(b),
        "le" => a.less_equal(b),
        "gt" => a.greater(b),
        "ge" => a.greater_equal(b),
        "logical_and" => truth().0 & truth().1,
        "logical_or" => truth().0 | truth().1,
        "logical_xor" => truth().0 ^ truth().1,
        "matmul" => a.matmul(b),
        _ => return None,
    })
}

fn reduction(name: &str, args: &Json, x: &Tensor) -> Option<Tensor> {
    let axes = ints(&args["axes"]);
    let correction = args["correction"].as_u64().unwrap_or(0) as usize;
    Some(match (name, args["keepdim"].as_bool()?) {
        ("sum", false) => x.sum(axes),
        ("sum", true) => x.sum_keepdim(axes),
        ("mean", false) => x.mean(axes),
        ("mean", true) => x.mean_keepdim(axes),
        ("amax", false) => x.max(axes),
        ("amax", true) => x.max_keepdim(axes),
        ("amin", false) => x.min(axes),
        ("amin", true) => x.min_keepdim(axes),
        ("logsumexp", false) => x.logsumexp(axes),
        ("logsumexp", true) => x.logsumexp_keepdim(axes),
        ("prod", false) => x.prod(axes),
        ("prod", true) => x.prod_keepdim(axes),
        ("argmax", false) => x.argmax(axes),
        ("argmax", true) => x.argmax_keepdim(axes),
        ("argmin", false) => x.argmin(axes),
        ("argmin", true) => x.argmin_keepdim(axes),
        ("var", false) => x.var(axes, correction),
        ("var", true) => x.var_keepdim(axes, correction),
        ("std", false) => x.std(axes, correction),
        ("std", true) => x.std_keepdim(axes, correction),
        _ => return None,
    })
}
