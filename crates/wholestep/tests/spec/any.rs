//! Random models: text and back gives the same model, and building one never panics.

use proptest::collection::vec;
use proptest::option;
use proptest::prelude::*;
use wholestep::nn::*;
use wholestep::spec::*;
use wholestep::{DType, Scope};
use wholestep_compiler::ir::scope::Mode;

fn number() -> impl Strategy<Value = f64> {
    prop_oneof![-3.0..3.0, Just(0.0), Just(1.0), Just(-0.0), any::<f64>().prop_filter("finite", |v| v.is_finite())]
}

fn size() -> impl Strategy<Value = usize> {
    prop_oneof![20 => 1usize..4, 3 => 0usize..9, 1 => 0usize..100_000, 1 => Just(i64::MAX as usize)]
}

fn extents<const N: usize>() -> impl Strategy<Value = Extents<N>> {
    prop_oneof![size().prop_map(Extents::from), vec(size(), N).prop_map(|v| Extents(v.try_into().expect("N")))]
}

fn padding<const N: usize>() -> impl Strategy<Value = Padding<N>> {
    prop_oneof![
        Just(Padding::Same),
        extents::<N>().prop_map(|e| Padding::from(e.0)),
        vec((size(), size()), N).prop_map(|v| Padding::Explicit(v.try_into().expect("N"))),
    ]
}

fn initializer() -> impl Strategy<Value = Initializer> {
    let gain = || {
        prop_oneof![
            Just(Gain::Linear),
            Just(Gain::Sigmoid),
            Just(Gain::Tanh),
            Just(Gain::Relu),
            Just(Gain::Selu),
            number().prop_map(Gain::LeakyRelu),
            number().prop_map(Gain::Value),
        ]
    };
    let fan = || prop_oneof![Just(Fan::In), Just(Fan::Out)];
    prop_oneof![
        (fan(), gain()).prop_map(|(fan, gain)| Initializer::KaimingUniform { fan, gain }),
        (fan(), gain()).prop_map(|(fan, gain)| Initializer::KaimingNormal { fan, gain }),
        gain().prop_map(|gain| Initializer::XavierUniform { gain }),
        gain().prop_map(|gain| Initializer::XavierNormal { gain }),
        gain().prop_map(|gain| Initializer::Orthogonal { gain }),
        (number(), number()).prop_map(|(mean, std)| Initializer::Normal { mean, std }),
        (number(), number()).prop_map(|(lo, hi)| Initializer::Uniform { lo, hi }),
        (number(), number(), number(), number()).prop_map(|(mean, std, lo, hi)| Initializer::TruncNormal {
            mean,
            std,
            lo,
            hi
        }),
        Just(Initializer::Zeros),
        Just(Initializer::Ones),
        number().prop_map(|value| Initializer::Const { value }),
    ]
}

fn conv<const N: usize>() -> impl Strategy<Value = ConvSpec<N>> {
    let window = (extents::<N>(), extents::<N>(), padding::<N>(), extents::<N>());
    (size(), window, size(), any::<bool>(), option::of(initializer()), option::of(initializer())).prop_map(
        |(out_channels, (kernel, stride, padding, dilation), groups, bias, weight_init, bias_init)| ConvSpec {
            out_channels,
            kernel,
            stride,
            padding,
            dilation,
            groups,
            bias,
            weight_init,
            bias_init,
        },
    )
}

fn max_pool<const N: usize>() -> impl Strategy<Value = MaxPool<N>> {
    (extents::<N>(), option::of(extents::<N>()), extents::<N>(), extents::<N>(), any::<bool>()).prop_map(
        |(kernel, stride, padding, dilation, ceil_mode)| MaxPool { kernel, stride, padding, dilation, ceil_mode },
    )
}

fn avg_pool<const N: usize>() -> impl Strategy<Value = AvgPool<N>> {
    (extents::<N>(), option::of(extents::<N>()), extents::<N>(), any::<bool>(), any::<bool>()).prop_map(
        |(kernel, stride, padding, ceil_mode, count_include_pad)| AvgPool {
            kernel,
            stride,
            padding,
            ceil_mode,
            count_include_pad,
        },
    )
}

fn momentum() -> impl Strategy<Value = Momentum> {
    prop_oneof![Just(Momentum::Cumulative), number().prop_map(Momentum::Exponential)]
}

fn batch_norm<const N: usize>() -> impl Strategy<Value = BatchNormSpec<N>> {
    (number(), momentum(), any::<bool>(), any::<bool>()).prop_map(|(eps, momentum, affine, track_running_stats)| {
        BatchNormSpec { eps, momentum, affine, track_running_stats }
    })
}

fn instance_norm<const N: usize>() -> impl Strategy<Value = InstanceNormSpec<N>> {
    (number(), momentum(), any::<bool>(), any::<bool>()).prop_map(|(eps, momentum, affine, track_running_stats)| {
        InstanceNormSpec { eps, momentum, affine, track_running_stats }
    })
}

fn conv_transpose<const N: usize>() -> impl Strategy<Value = ConvTransposeSpec<N>> {
    (conv::<N>(), extents::<N>(), extents::<N>()).prop_map(|(c, padding, output_padding)| ConvTransposeSpec {
        out_channels: c.out_channels,
        kernel: c.kernel,
        stride: c.stride,
        padding,
        output_padding,
        dilation: c.dilation,
        groups: c.groups,
        bias: c.bias,
        weight_init: c.weight_init,
        bias_init: c.bias_init,
    })
}

/// The sample of every kind, with its fields changed at random where it has some.
fn leaf() -> impl Strategy<Value = Layer> {
    let samples = Layer::samples();
    let windows = prop_oneof![
        conv::<1>().prop_map(Layer::from),
        conv::<2>().prop_map(Layer::from),
        conv::<3>().prop_map(Layer::from),
        conv_transpose::<1>().prop_map(Layer::from),
        conv_transpose::<2>().prop_map(Layer::from),
        conv_transpose::<3>().prop_map(Layer::from),
        max_pool::<1>().prop_map(Layer::from),
        max_pool::<2>().prop_map(Layer::from),
        max_pool::<3>().prop_map(Layer::from),
        avg_pool::<1>().prop_map(Layer::from),
        avg_pool::<2>().prop_map(Layer::from),
        avg_pool::<3>().prop_map(Layer::from),
        extents::<2>().prop_map(|output| AdaptiveAvgPool2d { output }.into()),
        extents::<2>().prop_map(|output| AdaptiveMaxPool2d { output }.into()),
        extents::<1>().prop_map(|output| AdaptiveAvgPool1d { output }.into()),
        extents::<3>().prop_map(|output| AdaptiveMaxPool3d { output }.into()),
        (any::<[[u8; 2]; 2]>()).prop_map(|p| ZeroPad2d::new(p.map(|p| p.map(usize::from))).into()),
    ];
    let norms = prop_oneof![
        batch_norm::<1>().prop_map(Layer::from),
        batch_norm::<2>().prop_map(Layer::from),
        batch_norm::<3>().prop_map(Layer::from),
        (size(), number(), any::<bool>(), any::<bool>()).prop_map(|(axes, eps, affine, bias)| LayerNormSpec {
            axes,
            eps,
            affine,
            bias
        }
        .into()),
        (size(), number(), any::<bool>())
            .prop_map(|(groups, eps, affine)| GroupNormSpec { groups, eps, affine }.into()),
        (size(), number(), any::<bool>()).prop_map(|(axes, eps, affine)| RmsNormSpec { axes, eps, affine }.into()),
        instance_norm::<1>().prop_map(Layer::from),
        instance_norm::<2>().prop_map(Layer::from),
        instance_norm::<3>().prop_map(Layer::from),
        (vec(number(), 0..4), vec(number(), 0..4)).prop_map(|(mean, std)| NormalizeSpec { mean, std }.into()),
    ];
    let others = prop_oneof![
        (size(), any::<bool>(), option::of(initializer()), option::of(initializer())).prop_map(
            |(out_features, bias, weight_init, bias_init)| LinearSpec { out_features, bias, weight_init, bias_init }
                .into()
        ),
        (size(), size(), option::of(initializer())).prop_map(|(num_embeddings, embedding_dim, weight_init)| {
            EmbeddingSpec { num_embeddings, embedding_dim, weight_init }.into()
        }),
        number().prop_map(|p| DropoutSpec { p }.into()),
        (-6i64..6, -6i64..6).prop_map(|(start, end)| Flatten { start, end }.into()),
        vec(prop_oneof![-2i64..9, any::<i64>()], 0..4).prop_map(|shape| Reshape { shape }.into()),
        vec(0usize..5, 0..5).prop_map(|axes| Permute { axes }.into()),
        any::<i64>().prop_map(|axis| Unsqueeze { axis }.into()),
        (-6i64..6).prop_map(|axis| Unsqueeze { axis }.into()),
        any::<i64>().prop_map(|axis| Softmax { axis }.into()),
        (-6i64..6).prop_map(|axis| LogSoftmax { axis }.into()),
        number().prop_map(|negative_slope| LeakyRelu { negative_slope }.into()),
        (any::<bool>(), number()).prop_map(|(per_channel, init)| PreluSpec { per_channel, init }.into()),
        number().prop_map(|alpha| Elu { alpha }.into()),
        (number(), number()).prop_map(|(beta, threshold)| Softplus { beta, threshold }.into()),
        (-6i64..6).prop_map(|axis| Concat { axis }.into()),
    ];
    prop_oneof![2 => windows, 1 => norms, 2 => others, 2 => proptest::sample::select(samples)]
}

fn node(layer: impl Strategy<Value = Layer>) -> impl Strategy<Value = Node> {
    let name = option::weighted(0.05, "[a-z]{2,6}");
    let from = prop_oneof![40 => Just(vec![]), 1 => vec(prop_oneof![Just("x".to_string()), Just("input".to_string()), "[a-z]{1,3}"], 1..3)];
    let all = (name, from, proptest::bool::weighted(0.1), layer);
    all.prop_map(|(name, from, recompute, layer)| Node { name, from, recompute, layer })
}

fn layer() -> impl Strategy<Value = Layer> {
    let nested = leaf().prop_recursive(3, 12, 3, |inner| {
        let list = || vec(node(inner.clone()), 0..3);
        let join = prop_oneof![(-3i64..4).prop_map(|axis| Join::Concat { axis }), Just(Join::Add)];
        prop_oneof![
            list().prop_map(|layers| Sequential { layers }.into()),
            (list(), list()).prop_map(|(body, shortcut)| Residual { body, shortcut }.into()),
            (join, vec(list(), 0..3)).prop_map(|(join, branches)| Branches { join, branches }.into()),
        ]
    });
    prop_oneof![6 => leaf(), 1 => nested]
}

fn model() -> impl Strategy<Value = Model> {
    let dtype =
        prop_oneof![12 => Just(DType::F32), 1 => Just(DType::U32), 1 => Just(DType::Bool), 1 => Just(DType::BF16)];
    let input = (vec(prop_oneof![20 => 1usize..9, 1 => size()], 0..5), dtype, option::weighted(0.02, size()))
        .prop_map(|(shape, dtype, classes)| Input { name: "x".into(), shape, dtype, classes });
    (input, vec(node(layer()), 1..4), any::<bool>(), prop_oneof![9 => Just(vec![]), 1 => vec("[a-z]{1,2}", 1..3)])
        .prop_map(|(input, layers, implicit_flatten, outputs)| Model {
            version: VERSION,
            implicit_flatten,
            outputs,
            inputs: vec![input],
            layers,
        })
}

/// How many cases of each kind; for a long run set it to 100,000.
const CASES: &str = "TEST_CASES";

fn cases() -> ProptestConfig {
    let cases = std::env::var(CASES).map_or(600, |n| n.parse().expect("a number"));
    ProptestConfig { cases, failure_persistence: None, ..ProptestConfig::default() }
}

/// What was read is written and read again as the same model, and has a summary or a fault.
fn check_read(read: wholestep::Result<Model>) -> std::result::Result<(), TestCaseError> {
    let Ok(model) = read else { return Ok(()) };
    let _ = model.summary();
    if let Ok(text) = model.to_toml() {
        prop_assert_eq!(&Model::from_toml(&text).map_err(|e| TestCaseError::fail(format!("{e}\n{text}")))?, &model);
    }
    Ok(())
}

proptest! {
    #![proptest_config(cases())]

    #[test]
    fn text_and_back_gives_the_same_model(model in model()) {
        let toml = model.to_toml().expect("TOML");
        prop_assert_eq!(&Model::from_toml(&toml).map_err(|e| TestCaseError::fail(format!("{e}\n{toml}")))?, &model);
        let json = model.to_json().expect("JSON");
        prop_assert_eq!(&Model::from_json(&json).map_err(|e| TestCaseError::fail(format!("{e}\n{json}")))?, &model);
    }

    /// The program of the text is the program of the model, node by node: what is trained from one is what is trained from the other.
    #[test]
    fn text_and_back_gives_the_same_program(model in model()) {
        let program = |model: &Model| {
            let s = Scope::root(Mode::Train);
            let fault = model.build(&s).err().map(|e| e.to_string());
            (fault, format!("{:?}", s.graph().borrow()))
        };
        let want = program(&model);
        let (toml, json) = (model.to_toml().expect("TOML"), model.to_json().expect("JSON"));
        prop_assert_eq!(&program(&Model::from_toml(&toml).expect("our own TOML")), &want);
        prop_assert_eq!(&program(&Model::from_json(&json).expect("our own JSON")), &want);
    }

    #[test]
    fn building_gives_tensors_or_an_error(model in model(), is_training in any::<bool>()) {
        let s = Scope::root(if is_training { Mode::Train } else { Mode::Infer });
        let built = model.build(&s);
        if built.is_ok() {
            prop_assert_eq!(&s.graph().borrow().error, &None);
            model.summary().expect("what is built has a summary");
        }
    }

    #[test]
    fn broken_text_gives_an_error(model in model(), cut in 0.0..1.0, noise in "[\\[\\]{}=\",a-z0-9 ]{0,3}") {
        let toml = model.to_toml().expect("TOML");
        let at = (cut * toml.len() as f64) as usize;
        let at = (at..=toml.len()).find(|&i| toml.is_char_boundary(i)).unwrap_or(0);
        check_read(Model::from_toml(&format!("{}{noise}{}", &toml[..at], &toml[at..])))?;
        let json = model.to_json().expect("JSON");
        let at = (cut * json.len() as f64) as usize;
        let at = (at..=json.len()).find(|&i| json.is_char_boundary(i)).unwrap_or(0);
        check_read(Model::from_json(&format!("{}{noise}", &json[..at])))?;
    }
}
