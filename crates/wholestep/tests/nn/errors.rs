//! Whole error messages of layers, as a user reads them.

use wholestep::nn::*;
use wholestep::{Batch, DType, Scope, Tensor};
use wholestep_compiler::ir::scope::Mode;

/// The message with this file's line numbers taken out.
fn message(f: impl Fn(&Scope) -> Tensor) -> String {
    let s = Scope::root(Mode::Train);
    let _ = f(&s.sub("net"));
    let error = s.graph().borrow().error.clone().expect("an error");
    let text = error.to_string();
    let mut out = String::new();
    let mut rest = text.as_str();
    while let Some(at) = rest.find("errors.rs:") {
        let end = at + "errors.rs:".len();
        let start = rest[..at].rfind(' ').map_or(0, |i| i + 1);
        out.push_str(&rest[..start]);
        out.push_str("errors.rs:N");
        rest = rest[end..].trim_start_matches(|c: char| c.is_ascii_digit());
    }
    out + rest
}

#[test]
fn errors_name_the_layer_and_teach() {
    let image = |s: &Scope| s.input("x", (Batch, 3, 8, 8), DType::F32);
    let rows: Vec<(String, &str)> = vec![
        (
            message(|s| Linear::new(&s.sub("fc1"), 512, 10).forward(&s.input("x", (Batch, 768), DType::F32))),
            "Linear: need x [.., 512], got [B, 768]\n  --> errors.rs:N   in net/fc1\n  x [B, 768] f32  from input x   errors.rs:N\n  help: Linear::new(s, n_in, n_out): n_in is 512, x has 768 features",
        ),
        (
            message(|s| Linear::new(&s.sub("fc1"), 192, 10).forward(&image(s))),
            "Linear: need x [.., 192], got [B, 3, 8, 8]\n  --> errors.rs:N   in net/fc1\n  x [B, 3, 8, 8] f32  from input x   errors.rs:N\n  help: Linear::new(s, n_in, n_out): n_in is 192, x has 8 features; give it x.flatten(1, -1)",
        ),
        (
            message(|s| Conv2d::new(&s.sub("conv1"), 1, 8, 3).forward(&image(s))),
            "Conv2d: need x [N, 1, H, W], got [B, 3, 8, 8]\n  --> errors.rs:N   in net/conv1\n  x [B, 3, 8, 8] f32  from input x   errors.rs:N\n  help: Conv2d::new(s, c_in, ..): c_in is 1, x has 3 channels",
        ),
        (
            message(|s| Conv2d::new(&s.sub("conv1"), 3, 8, 3).forward(&s.input("x", (Batch, 28, 20, 3), DType::F32))),
            "Conv2d: need x [N, 3, H, W], got [B, 28, 20, 3]\n  --> errors.rs:N   in net/conv1\n  x [B, 28, 20, 3] f32  from input x   errors.rs:N\n  help: x has its channels last; x.permute([0, 3, 1, 2]) puts them first",
        ),
        (
            message(|s| Conv2d::new(&s.sub("conv1"), 8, 8, 3).forward(&image(s))),
            "Conv2d: need x [N, 8, H, W], got [B, 3, 8, 8]\n  --> errors.rs:N   in net/conv1\n  x [B, 3, 8, 8] f32  from input x   errors.rs:N\n  help: Conv2d::new(s, c_in, ..): c_in is 8, x has 3 channels",
        ),
        (
            message(|s| Conv2d::with(&s.sub("conv1"), 3, &Conv2dSpec::new(8, 3).groups(2)).forward(&image(s))),
            "Conv2d: need groups to divide both channel counts, got 2 groups of 3 and 8\n  --> errors.rs:N   in net/conv1\n  help: a depthwise convolution has groups = in_channels and out_channels a multiple of it",
        ),
        (
            message(|s| MaxPool2d::new(2).padding(2).forward(&image(s))),
            "MaxPool2d: need a padding of at most half the kernel, got 2 for 2\n  --> errors.rs:N   in net\n  x [B, 3, 8, 8] f32  from input x   errors.rs:N\n  help: a layer of its own (ZeroPad2d) pads more, with zeros that count",
        ),
        (
            message(|s| BatchNorm2d::new(&s.sub("bn"), 4).forward(&image(s))),
            "BatchNorm2d: need x [N, C, H, W] with C = 4, got [B, 3, 8, 8]\n  --> errors.rs:N   in net/bn\n  x [B, 3, 8, 8] f32  from input x   errors.rs:N\n  help: BatchNorm2d::new(s, channels): channels is 4, the channel axis is 1",
        ),
        (
            message(|s| Dropout::new(&s.sub("drop"), 1.5).forward(&image(s))),
            "Dropout: need a probability in [0, 1], got 1.5\n  --> errors.rs:N   in net/drop\n  help: p is the part that is dropped, as in PyTorch",
        ),
        (
            message(|s| Embedding::new(&s.sub("embed"), 10, 4).forward(&image(s))),
            "Embedding: need whole numbers, got f32\n  --> errors.rs:N   in net/embed\n  x [B, 3, 8, 8] f32  from input x   errors.rs:N\n  help: declare the input with s.labels(name, shape, DType::U32, n, None)",
        ),
        (
            message(|s| LayerNorm::new(&s.sub("ln"), [16]).forward(&image(s))),
            "LayerNorm: need x [.., 16], got [B, 3, 8, 8]\n  --> errors.rs:N   in net/ln\n  x [B, 3, 8, 8] f32  from input x   errors.rs:N\n  help: LayerNorm::new(s, dims): dims are the last extents of x",
        ),
    ];
    for (got, expected) in rows {
        assert_eq!(got, expected, "\n{got}\n");
    }
}
