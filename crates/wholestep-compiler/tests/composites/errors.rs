//! Whole error messages: what was needed, what came, where, and what to do. Lines are those of this file.

use wholestep_compiler::ir::scope::Mode;
use wholestep_compiler::ir::{Batch, DType, Init, Scope, Tensor};
use wholestep_compiler::ops::{ConvOptions, CrossEntropy, Nll, Padding, PoolOptions};

/// The message of what `f` traces, with line numbers replaced by `_`.
fn message(f: fn(&Scope)) -> String {
    let s = Scope::root(Mode::Train);
    f(&s.sub("net"));
    let text = s.graph().borrow().error.as_ref().map(ToString::to_string).unwrap_or_default();
    let mut out = String::new();
    let mut rest = text.as_str();
    while let Some(at) = rest.find("errors.rs:") {
        let end = at + "errors.rs:".len();
        let path = rest[..end].rfind(|c: char| c.is_whitespace()).map_or(0, |i| i + 1);
        out.push_str(&rest[..path]);
        out.push_str("errors.rs:_");
        rest = rest[end..].trim_start_matches(|c: char| c.is_ascii_digit());
    }
    out + rest
}

fn f32(s: &Scope, name: &str, shape: impl Into<wholestep_compiler::ir::Shape>) -> Tensor {
    s.input(name, shape, DType::F32)
}

#[test]
fn shapes_that_do_not_broadcast_say_what_would() {
    let text = message(|s| {
        let _ = f32(s, "x", [32usize, 10]) + f32(s, "y", [32usize]);
    });
    assert_eq!(
        text,
        "add: cannot broadcast [32, 10] with [32]
  --> errors.rs:_   in net
  lhs [32, 10] f32  from input x   errors.rs:_
  rhs [32]     f32  from input y   errors.rs:_
  help: [32] as a column, .unsqueeze(-1), is [32, 1] and broadcasts to [32, 10]"
    );
    let text = message(|s| {
        let _ = f32(s, "x", [32usize, 10]) * f32(s, "y", [5usize]);
    });
    assert_eq!(
        text,
        "mul: cannot broadcast [32, 10] with [5]
  --> errors.rs:_   in net
  lhs [32, 10] f32  from input x   errors.rs:_
  rhs [5]      f32  from input y   errors.rs:_
  help: aligned from the right, extents must be equal or 1"
    );
}

#[test]
fn products_name_the_extents_that_differ() {
    let text = message(|s| {
        let _ = f32(s, "x", (Batch, 128, 768)).matmul(&f32(s, "w", [512usize, 768]));
    });
    assert_eq!(
        text,
        "matmul: need lhs.dim(-1) == rhs.dim(-2), got 768 and 512
  --> errors.rs:_   in net
  lhs [B, 128, 768] f32  from input x   errors.rs:_
  rhs [512, 768]    f32  from input w   errors.rs:_
  help: rhs.transpose(-1, -2) fits; x.linear(&w, None) takes a weight [out, in] like [512, 768]"
    );
    let text = message(|s| {
        let _ = f32(s, "x", (Batch, 3)).einsum("bi,ij->bk", &[&f32(s, "w", [3usize, 4])]);
    });
    assert_eq!(
        text,
        "einsum: `bi,ij->bk`: `k` of the result is in no operand
  --> errors.rs:_   in net
  lhs [B, 3] f32  from input x   errors.rs:_
  rhs [3, 4] f32  from input w   errors.rs:_
  help: an equation looks like `bij,bjk->bik`, with one letter per axis"
    );
    let text = message(|s| {
        let _ = f32(s, "x", (Batch, 3)).einsum("bi,ij->bj", &[&f32(s, "w", [5usize, 4])]);
    });
    assert!(text.starts_with("einsum: `bi,ij->bj`: `i` is 3 and 5\n"), "{text}");
}

#[test]
fn axes_that_are_not_there_are_named_with_those_that_are() {
    let text = message(|s| {
        let _ = f32(s, "x", (Batch, 10)).sum(2);
    });
    assert_eq!(
        text,
        "sum: axis 2 is not in [B, 10]
  --> errors.rs:_   in net
  x [B, 10] f32  from input x   errors.rs:_
  help: its axes are 0 to 1, or -2 to -1"
    );
    let text = message(|s| {
        let _ = f32(s, "x", (Batch, 10)).mean([0, -2]);
    });
    assert!(text.starts_with("mean: axis -2 of [B, 10] is named twice\n"), "{text}");
    let text = message(|s| {
        let _ = f32(s, "x", (Batch, Batch)).mean(..);
    });
    assert_eq!(
        text,
        "mean: the axes [0, 1] of [B, B] hold B² elements, and a count can only be a·B + b
  --> errors.rs:_   in net
  x [B, B] f32  from input x   errors.rs:_
  help: reduce one batch axis after the other, or ask for a fixed batch size"
    );
}

#[test]
fn a_column_that_met_rows_is_told_so() {
    let text = message(|s| {
        let _ = (f32(s, "pred", (Batch, 1)) - f32(s, "y", (Batch,))).square().mean(..);
    });
    assert_eq!(
        text,
        "mean: the axes [0, 1] of [B, B] hold B² elements, and a count can only be a·B + b
  --> errors.rs:_   in net
  x [B, B] f32  from mul in net   errors.rs:_
  help: did [B, 1] meet [B]? sub at errors.rs:_   in net paired their rows: declare the target (Batch, 1), or take the axis off the other by .squeeze(-1); if all pairs are meant, reduce one batch axis after the other, or ask for a fixed batch size"
    );
    let text = message(|s| {
        let _ = (f32(s, "y", (Batch, 3)) - f32(s, "pred", (Batch, 1, 3))).abs().mean(..);
    });
    assert!(text.contains("did [B, 1, 3] meet [B, 3]? "), "{text}");
    assert!(
        text.contains("declare the target (Batch, 1, 3), or take the axis off the other by .squeeze(1);"),
        "{text}"
    );
    // Two axes that are there on purpose are no mistake.
    let text = message(|s| {
        let x = f32(s, "x", (Batch, 3));
        let _ = x.matmul(&x.t()).relu().mean(..);
    });
    assert!(text.ends_with("help: reduce one batch axis after the other, or ask for a fixed batch size"), "{text}");
}

#[test]
fn parameters_that_are_not_there_are_named_with_those_that_are() {
    fn layers(s: &Scope) {
        for name in ["fc1", "fc2"] {
            let _ = s.sub(name).param("weight", [2usize, 2], Init::Const(0.0));
            let _ = s.sub(name).buffer("running_mean", [2usize], Init::Const(0.0));
        }
    }
    let text = message(|s| {
        layers(s);
        let _ = s.get_parameter("fc2.wieght").abs();
    });
    assert_eq!(
        text,
        "get_parameter: nothing in net is called fc2.wieght; there are fc1/weight, fc2/weight; did you mean fc2/weight?
  --> errors.rs:_   in net
  help: a layer declares what it has when it is made: ask afterwards"
    );
    let text = message(|s| {
        let _ = s.get_parameter("fc1/weight");
        layers(s);
    });
    assert!(text.starts_with("get_parameter: nothing in net is called fc1/weight; there are none yet\n"), "{text}");
    let text = message(|s| {
        layers(s);
        let _ = s.get_parameter("fc1/running_mean");
    });
    assert!(text.ends_with("\n  help: it is a buffer: get_buffer gives it"), "{text}");
    let text = message(|s| {
        layers(s);
        let _ = s.sub("fc1").get_buffer("weight");
    });
    assert!(text.starts_with("get_buffer: nothing in net/fc1 is called weight; there are running_mean\n"), "{text}");
    assert!(text.ends_with("\n  help: it is a parameter: get_parameter gives it"), "{text}");
}

#[test]
fn numbers_that_a_dtype_does_not_hold_are_refused() {
    let text = message(|s| {
        let _ = s.input("n", (Batch, 10), DType::I32) * 0.5;
    });
    assert_eq!(
        text,
        "mul: a tensor of i32 cannot be combined with the number 0.5
  --> errors.rs:_   in net
  x [B, 10] i32  from input n   errors.rs:_
  help: nothing is converted silently: .cast(DType::F32) first"
    );
    let whole = message(|s| {
        let _ = s.input("n", (Batch, 10), DType::I32) * 2.0;
    });
    assert_eq!(whole, "");
}

#[test]
fn targets_that_do_not_fit_their_scores_are_refused() {
    let text = message(|s| {
        let _ = f32(s, "x", (Batch, 128, 50)).cross_entropy(&s.input("y", (Batch, 128), DType::U32));
    });
    assert_eq!(
        text,
        "cross_entropy: need labels [B, 50] for scores [B, 128, 50] with class axis 1, got [B, 128]
  --> errors.rs:_   in net
  lhs [B, 128, 50] f32  from input x   errors.rs:_
  rhs [B, 128]     u32  from input y   errors.rs:_
  help: for scores [.., C] set `axis: -1` in the options"
    );
    let text = message(|s| {
        let _ = f32(s, "x", (Batch, 10)).cross_entropy(&s.input("y", (Batch, 1), DType::U32));
    });
    assert!(text.ends_with("help: drop the last axis of the labels: .squeeze(-1)"), "{text}");
    let text = message(|s| {
        let _ = f32(s, "x", (Batch, 1)).mse_loss(&f32(s, "y", (Batch,)));
    });
    assert_eq!(
        text,
        "mse_loss: need a target of the input's shape, got [B, 1] and [B]
  --> errors.rs:_   in net
  lhs [B, 1] f32  from input x   errors.rs:_
  rhs [B]    f32  from input y   errors.rs:_
  help: declare the target (Batch, 1), or take the axis off the input by .squeeze(-1)"
    );
    let text = message(|s| {
        let _ = f32(s, "x", (Batch,)).mse_loss(&f32(s, "y", (Batch, 1)));
    });
    assert!(text.ends_with("help: take the axis off the target by .squeeze(-1)"), "{text}");
    let text = message(|s| {
        let _ = f32(s, "x", (Batch, 2)).mse_loss(&f32(s, "y", (Batch, 3)));
    });
    assert!(text.ends_with("help: a loss does not broadcast; reshape one of them"), "{text}");
}

#[test]
fn labels_that_a_loss_would_count_as_a_class_are_refused() {
    let text = message(|s| {
        let y = s.labels("y", (Batch,), DType::I32, 10, Some(-100));
        let options = CrossEntropy { ignore_index: Some(0), ..CrossEntropy::default() };
        let _ = f32(s, "x", (Batch, 10)).cross_entropy_with(&y.flip(0), &options);
    });
    assert_eq!(
        text,
        "cross_entropy: the labels y may be -100, which is no class, and 0 is to be ignored
  --> errors.rs:_   in net
  lhs [B, 10] f32  from input x   errors.rs:_
  rhs [B]     i32  from flip in net   errors.rs:_
  help: leave ignore_index out, or declare the labels with Some(0)"
    );
    let text = message(|s| {
        let y = s.labels("y", (Batch,), DType::I32, 10, Some(-100));
        let _ = f32(s, "x", (Batch, 10)).nll_loss_with(&y, &Nll { ignore_index: Some(255), ..Nll::default() });
    });
    assert!(
        text.starts_with("nll_loss: the labels y may be -100, which is no class, and 255 is to be ignored\n"),
        "{text}"
    );
    let text = message(|s| {
        let y = s.labels("y", (Batch,), DType::I32, 10, Some(-100));
        let _ = f32(s, "x", (Batch, 10)).multi_margin_loss(&y);
    });
    let want = "multi_margin_loss: the labels y may be -100, which is no class, and this loss ignores none\n";
    assert!(text.starts_with(want), "{text}");
}

#[test]
fn convolutions_say_which_axis_holds_the_channels() {
    let text = message(|s| {
        let w = f32(s, "w", [8usize, 3, 3, 3]);
        let _ = f32(s, "x", (Batch, 32, 32, 3)).conv2d(&w, None, &ConvOptions::default());
    });
    assert_eq!(
        text,
        "conv2d: need 3 input channels (3 per group, groups: 1) and output channels that the groups divide, got 32 and 8
  --> errors.rs:_   in net
  lhs [B, 32, 32, 3] f32  from input x   errors.rs:_
  rhs [8, 3, 3, 3]   f32  from input w   errors.rs:_
  help: x is [N, C, ..]; channels that come last are moved with .permute(…)"
    );
    let text = message(|s| {
        let options = ConvOptions { padding: Padding::Same, stride: [2, 2], ..ConvOptions::default() };
        let _ = f32(s, "x", (Batch, 3, 32, 32)).conv2d(&f32(s, "w", [8usize, 3, 3, 3]), None, &options);
    });
    assert!(text.starts_with("conv2d: `same` padding needs stride 1, got [2, 2]\n"), "{text}");
    let text = message(|s| {
        let options = PoolOptions { padding: [(2, 2), (0, 0)], ..PoolOptions::new([2, 2]) };
        let _ = f32(s, "x", (Batch, 3, 32, 32)).max_pool2d(&options);
    });
    let want = "max_pool2d: need padding of at most half a window of 2, got 2 and 2 at spatial axis 0\n";
    assert!(text.starts_with(want), "{text}");
}

#[test]
fn slices_that_leave_the_axis_are_refused_for_every_batch_size() {
    let text = message(|s| {
        let _ = f32(s, "x", (Batch, 10)).slice(1, ..11);
    });
    assert!(text.starts_with("slice: axis 1 of [B, 10]: 11 elements from 0 in steps of 1 leave the axis\n"), "{text}");
    let text = message(|s| {
        let _ = f32(s, "x", (Batch, 10)).slice(0, ..2);
    });
    assert!(text.starts_with("slice: axis 0 of [B, 10]: 2 elements from 0"), "B may be 1: {text}");
    let text = message(|s| {
        let _ = f32(s, "x", (Batch, 10)).index(0, 1);
    });
    assert!(text.starts_with("index: position 1 is not in axis 0 of [B, 10]\n"), "B may be 1: {text}");
}
