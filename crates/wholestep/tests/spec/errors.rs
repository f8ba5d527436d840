//! Whole messages for files and wirings that are wrong.

use wholestep::ErrorKind;
use wholestep::Scope;
use wholestep::nn::*;
use wholestep::spec::{Add, Input, Model, Node};
use wholestep_compiler::ir::scope::Mode;

const HEAD: &str = "version = 1\n[[inputs]]\nname = \"x\"\nshape = [1, 8, 8]\n[[layers]]\n";

#[test]
fn files_are_refused_with_what_to_write() {
    let rows = [
        (
            format!("{HEAD}type = \"conv2d\"\nout_channels = 4\nkernal = 3\n"),
            "layers[0]: unknown field `kernal`, expected one of `out_channels`, `kernel`, `stride`, `padding`, `dilation`, `groups`, `bias`, `weight_init`, `bias_init`; did you mean `kernel`?",
        ),
        (format!("{HEAD}type = \"relu\"\nslope = 3\n"), "layers[0]: unknown field `slope`, there are no fields"),
        (format!("{HEAD}type = \"conv2d\"\nout_channels = 4\n"), "layers[0]: missing field `kernel`"),
        (
            format!("{HEAD}type = \"conv2d\"\nout_channels = 4\nkernel = [3, 3, 3]\n"),
            "layers[0]: invalid length 3, expected a whole number >= 0 or 2 of them",
        ),
        (
            format!("{HEAD}type = \"conv2d\"\nout_channels = 4\nkernel = 3\npadding = \"valid\"\n"),
            "layers[0]: invalid value: string \"valid\", expected \"same\", a whole number >= 0, 2 of them, or 2 pairs [before, after]",
        ),
        (
            format!("{HEAD}type = \"linear\"\nout_features = -3\n"),
            "layers[0]: invalid value: integer `-3`, expected usize",
        ),
        (
            "version = 1\nlayer = []\n[[inputs]]\nname = \"x\"\nshape = [1]\n".to_string(),
            "layer: unknown field `layer`, expected one of `version`, `implicit_flatten`, `outputs`, `inputs`, `layers`; did you mean `layers`?",
        ),
        (
            "version = 1\n[[inputs]]\nname = \"x\"\nshape = [1]\ndtype = \"float\"\n".to_string(),
            "inputs[0].dtype: unknown variant `float`, expected one of `f64`, `f32`, `f16`, `bf16`, `i64`, `i32`, `u32`, `u8`, `bool`",
        ),
        ("version = 2\nanything = 3\n".to_string(), "model version 2 is unknown; this library reads version 1"),
        ("layers = []\n".to_string(), "the model has no version; write version = 1"),
        (
            "version = \n".to_string(),
            "the model is no TOML: TOML parse error at line 1, column 11\n  |\n1 | version = \n  |           ^\nstring values must be quoted, expected literal string",
        ),
    ];
    for (text, expected) in rows {
        let error = Model::from_toml(&text).expect_err(expected);
        assert_eq!(error.kind(), ErrorKind::Config);
        assert_eq!(error.to_string(), expected);
    }
    let error = Model::from_toml(&format!("{HEAD}type = \"conv3\"\n")).expect_err("no such layer").to_string();
    assert!(error.starts_with("layers[0]: unknown variant `conv3`, expected one of `linear`, `conv1d`,"), "{error}");
    assert!(error.ends_with("; did you mean `conv3d`?"), "{error}");
    let error = Model::from_json("{\"version\": 1, \"inputs\": [").expect_err("cut off").to_string();
    assert_eq!(error, "the model is no JSON: EOF while parsing a list at line 1 column 26");
}

#[test]
fn wirings_are_refused_with_what_to_write() {
    let tanh = || Node::new(Tanh::new());
    let rows = [
        (Model::input([4]).layer(tanh().from(["y"])), "0_tanh: no node or input before it is named y; there are x"),
        (
            Model::input([4]).layer(tanh().named("first")).layer(tanh().from(["frist"])),
            "1_tanh: no node or input before it is named frist; there are x, first; did you mean first?",
        ),
        (
            Model::input([4]).layer(tanh()).layer(tanh().from(["x"])),
            "0_tanh: nobody reads its result; name it in a `from` or in `outputs`, or take it out",
        ),
        (
            Model::with_inputs([Input::new("a", [4]), Input::new("b", [4])]).layer(tanh()),
            "0_tanh: the model has 2 inputs; say which it takes with `from`",
        ),
        (
            Model::with_inputs([Input::new("a", [4]), Input::new("b", [4])]).layer(tanh().from(["a", "b"])),
            "0_tanh: tanh takes one input, got 2",
        ),
        (
            Model::input([4]).layer(tanh().named("x")),
            "x: the name is taken by an input or an earlier node of the same list",
        ),
        (Model::input([4]).layer(tanh().named("a/b")), "need a name of letters, digits, _ and -, got \"a/b\""),
        (Model::input([4]), "a model needs at least one input and one layer"),
        (
            Model::input([4, 0]).layer(tanh()),
            "input x: need extents of at least 1 and at most 2^40 elements, got [4, 0]",
        ),
        (
            Model { version: 9, ..Model::input([4]).layer(tanh()) },
            "model version 9 is unknown; this library reads version 1",
        ),
    ];
    for (model, expected) in rows {
        let error = model.build(&Scope::root(Mode::Infer)).expect_err(expected);
        assert_eq!((error.kind(), error.to_string().as_str()), (ErrorKind::Config, expected));
    }
}

#[test]
fn shapes_are_refused_by_the_layer_with_its_name() {
    let rows = [
        (
            Model::input([1, 4, 4]).layer(Node::new(Conv2dSpec::new(2, 3)).named("a")).layer(MaxPool2d::new(5)),
            "max_pool2d: a window of 5 does not fit spatial axis 0: 2 elements and 0 of padding\n  --> errors.rs:N   in 1_max_pool2d\n  x [B, 2, 2, 2] f32  from permute in a   errors.rs:N",
        ),
        (
            Model::input([3, 4])
                .layer(Node::new(LinearSpec::new(2)).named("a"))
                .layer(Node::new(Add {}).from(["x", "a"])),
            "Add: need tensors of one shape, got [B, 3, 4] and [B, 3, 2]\n  --> errors.rs:N   in 1_add\n  x [B, 3, 2] f32  from add in a   errors.rs:N\n  help: add takes tensors of one shape",
        ),
        (
            Model::input([6]).layer(GroupNormSpec::new(4)),
            "GroupNorm: need groups to divide the channels, got 4 groups of 6\n  --> errors.rs:N   in 0_group_norm\n  help: GroupNorm::new(s, groups, channels)",
        ),
    ];
    for (model, expected) in rows {
        let error = model.build(&Scope::root(Mode::Infer)).expect_err(expected);
        assert_eq!(error.kind(), ErrorKind::Build);
        let text = error.to_string();
        let line = line!();
        let lines: Vec<String> =
            (line - 12..line).map(|n| format!("crates/wholestep/tests/spec/errors.rs:{n}")).collect();
        let text = lines.iter().fold(text, |t, l| t.replace(l.as_str(), "errors.rs:N"));
        assert_eq!(text, expected, "\n{text}\n");
    }
}
