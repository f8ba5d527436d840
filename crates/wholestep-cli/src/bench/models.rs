//! The models of the workloads, as bench/peers builds them. Takes inputs of one batch, gives logits. Never shares code with the examples:
//! what is measured must not change when those do.

use wholestep::nn::{BatchNorm2d, Conv2d, Conv2dSpec, Initializer, LayerNorm, Linear, LinearSpec, MaxPool2d};
use wholestep::{Batch, DType, Init, Scope, Tensor};

/// Linear layers with ReLU after each but the last.
pub fn mlp(s: &Scope, x: &Tensor, sizes: &[usize]) -> Tensor {
    let mut h = x.clone();
    for (i, pair) in sizes.windows(2).enumerate() {
        h = Linear::new(&s.sub(format!("fc{i}")), pair[0], pair[1]).forward(&h);
        if i + 2 < sizes.len() {
            h = h.relu();
        }
    }
    h
}

/// Four convolutions and two linear layers: x `[B, 3, 32, 32]`.
pub fn cnn(s: &Scope, x: &Tensor) -> Tensor {
    let mut h = x.clone();
    for (i, (c_in, c_out, stride)) in [(3, 32, 1), (32, 32, 2), (32, 64, 1), (64, 64, 2)].into_iter().enumerate() {
        let spec = Conv2dSpec::new(c_out, 3).stride(stride).padding(1);
        h = Conv2d::with(&s.sub(format!("conv{i}")), c_in, &spec).forward(&h).relu();
    }
    mlp(&s.sub("head"), &h.flatten(1, -1), &[64 * 8 * 8, 128, 10])
}

/// ResNet-18 for small images: x `[B, 3, 32, 32]`. Paper: He, Zhang, Ren, Sun 2015, arXiv:1512.03385.
pub fn resnet18(s: &Scope, x: &Tensor) -> Tensor {
    let mut h = conv_norm(&s.sub("stem"), x, 3, 64, 3, 1).relu();
    let mut c_in = 64;
    for (stage, (c_out, stride)) in [(64, 1), (128, 2), (256, 2), (512, 2)].into_iter().enumerate() {
        for block in 0..2 {
            let stride = if block == 0 { stride } else { 1 };
            h = basic_block(&s.sub(format!("stage{stage}/{block}")), &h, c_in, c_out, stride);
            c_in = c_out;
        }
    }
    Linear::new(&s.sub("fc"), 512, 10).forward(&h.mean([2, 3]))
}

fn basic_block(s: &Scope, x: &Tensor, c_in: usize, c_out: usize, stride: usize) -> Tensor {
    let h = conv_norm(&s.sub("first"), x, c_in, c_out, 3, stride).relu();
    let h = conv_norm(&s.sub("second"), &h, c_out, c_out, 3, 1);
    let short =
        if stride == 1 && c_in == c_out { x.clone() } else { conv_norm(&s.sub("short"), x, c_in, c_out, 1, stride) };
    (h + short).relu()
}

fn conv_norm(s: &Scope, x: &Tensor, c_in: usize, c_out: usize, kernel: usize, stride: usize) -> Tensor {
    let spec = Conv2dSpec::new(c_out, kernel).stride(stride).padding(kernel / 2).bias(false);
    let y = Conv2d::with(&s.sub("conv"), c_in, &spec).forward(x);
    BatchNorm2d::new(&s.sub("norm"), c_out).forward(&y)
}

/// ResNet-50: x `[B, 3, 224, 224]` -> `[B, 1000]`, with the stride of a block in its 3x3 convolution, as torchvision has it.
/// Paper: He, Zhang, Ren, Sun 2015, arXiv:1512.03385.
pub fn resnet50(s: &Scope, x: &Tensor) -> Tensor {
    let h = conv_norm(&s.sub("stem"), x, 3, 64, 7, 2).relu();
    let mut h = MaxPool2d::new(3).stride(2).padding(1).forward(&h);
    let mut c_in = 64;
    for (stage, (width, n_blocks, stride)) in
        [(64, 3, 1), (128, 4, 2), (256, 6, 2), (512, 3, 2)].into_iter().enumerate()
    {
        for block in 0..n_blocks {
            let stride = if block == 0 { stride } else { 1 };
            h = bottleneck(&s.sub(format!("stage{stage}/{block}")), &h, c_in, width, stride);
            c_in = 4 * width;
        }
    }
    Linear::new(&s.sub("fc"), 2048, 1000).forward(&h.mean([2, 3]))
}

fn bottleneck(s: &Scope, x: &Tensor, c_in: usize, width: usize, stride: usize) -> Tensor {
    let h = conv_norm(&s.sub("first"), x, c_in, width, 1, 1).relu();
    let h = conv_norm(&s.sub("second"), &h, width, width, 3, stride).relu();
    let h = conv_norm(&s.sub("third"), &h, width, 4 * width, 1, 1);
    let short = if c_in == 4 * width { x.clone() } else { conv_norm(&s.sub("short"), x, c_in, 4 * width, 1, stride) };
    (h + short).relu()
}

/// The sizes of a GPT.
pub struct Gpt {
    pub layers: usize,
    pub heads: usize,
    pub width: usize,
    pub context: usize,
    pub vocabulary: usize,
}

/// One that trains on a cpu.
pub const SMALL: Gpt = Gpt { layers: 4, heads: 4, width: 256, context: 128, vocabulary: 256 };
/// GPT-2 124M, its vocabulary rounded up to a multiple of 128.
pub const GPT2: Gpt = Gpt { layers: 12, heads: 12, width: 768, context: 1024, vocabulary: 50304 };

impl Gpt {
    /// A pre-LN transformer with tied head: x `[B, context]` token numbers -> logits `[B, context, vocabulary]`.
    /// Paper: Radford et al. 2019, "Language Models are Unsupervised Multitask Learners".
    pub fn forward(&self, s: &Scope, x: &Tensor) -> Tensor {
        let small = Init::Normal { mean: 0.0, std: 0.02 };
        let tokens = s.param("tok", [self.vocabulary, self.width], small.clone());
        let places = s.param("pos", [self.context, self.width], small);
        let mut h = tokens.embedding(x) + &places;
        for layer in 0..self.layers {
            h = self.block(&s.sub(format!("block{layer}")), &h);
        }
        LayerNorm::new(&s.sub("ln"), vec![self.width]).forward(&h).matmul(&tokens.t())
    }

    fn block(&self, s: &Scope, x: &Tensor) -> Tensor {
        let &Gpt { heads, width, context, .. } = self;
        let h = LayerNorm::new(&s.sub("ln1"), vec![width]).forward(x);
        let qkv = small_linear(&s.sub("qkv"), width, 3 * width).forward(&h);
        let depth = width / heads;
        let qkv = qkv.reshape((Batch, context, 3, heads, depth)).permute([2, 0, 3, 1, 4]);
        let [q, k, v] = [0, 1, 2].map(|i| qkv.index(0, i));
        let scores = q.matmul(&k.transpose(-2, -1)) * (1.0 / (depth as f64).sqrt());
        let (rows, columns) = (scores.positions(-2, DType::I32), scores.positions(-1, DType::I32));
        let mixed = scores.masked_fill(&columns.greater(&rows), f64::NEG_INFINITY).softmax(-1).matmul(&v);
        let mixed = mixed.transpose(1, 2).reshape((Batch, context, width));
        let x = x + small_linear(&s.sub("proj"), width, width).forward(&mixed);
        let h = LayerNorm::new(&s.sub("ln2"), vec![width]).forward(&x);
        let h = small_linear(&s.sub("up"), width, 4 * width).forward(&h).gelu_tanh();
        x + small_linear(&s.sub("down"), 4 * width, width).forward(&h)
    }
}

fn small_linear(s: &Scope, n_in: usize, n_out: usize) -> Linear {
    let spec =
        LinearSpec::new(n_out).weight_init(Initializer::Normal { mean: 0.0, std: 0.02 }).bias_init(Initializer::Zeros);
    Linear::with(s, n_in, &spec)
}

const STEPS: usize = 64;
const FEATURES: usize = 64;
const HIDDEN: usize = 128;

/// One LSTM layer, unrolled, and a classifier of its last state: x `[B, 64, 64]` -> `[B, 10]`. Gates are in PyTorch's order i, f, g, o,
/// with its two biases. Paper: Hochreiter, Schmidhuber 1997; the forget gate by Gers, Schmidhuber, Cummins 2000.
pub fn lstm(s: &Scope, x: &Tensor) -> Tensor {
    let bound = 1.0 / (HIDDEN as f64).sqrt();
    let uniform = || Init::Uniform { lo: -bound, hi: bound };
    let r = s.sub("lstm");
    let w_in = r.param("weight_ih", [4 * HIDDEN, FEATURES], uniform());
    let w_hidden = r.param("weight_hh", [4 * HIDDEN, HIDDEN], uniform()).t();
    let bias = r.param("bias_ih", [4 * HIDDEN], uniform()) + r.param("bias_hh", [4 * HIDDEN], uniform());
    // The part of the gates that needs no state is one product over all steps.
    let gates_in = x.linear(&w_in, Some(&bias));
    let mut state: Option<(Tensor, Tensor)> = None;
    for step in 0..STEPS {
        let gates = gates_in.index(1, step as i64);
        let gates = match &state {
            Some((hidden, _)) => gates + hidden.matmul(&w_hidden),
            None => gates,
        };
        let gate = |i: usize| gates.slice(1, (i * HIDDEN) as i64..((i + 1) * HIDDEN) as i64);
        let fresh = gate(0).sigmoid() * gate(2).tanh();
        let cell = match &state {
            Some((_, cell)) => gate(1).sigmoid() * cell + fresh,
            None => fresh,
        };
        state = Some((gate(3).sigmoid() * cell.tanh(), cell));
    }
    let (hidden, _) = state.expect("bug: an LSTM of no steps");
    Linear::new(&s.sub("fc"), HIDDEN, 10).forward(&hidden)
}
