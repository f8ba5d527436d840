//! A full report from made-up numbers, for tests and for looking at the page. Takes nothing, gives the same report each
//! time. Never meant as a result.

use crate::report::{ClassRow, CostRow, EpochRow, LayerRow, Mistake, Picture, Regression, Report, Totals};

/// A small deterministic generator (SplitMix64); the samples need variety, not quality.
pub struct Random(pub u64);

impl Random {
    /// Uniform in 0..1.
    pub fn uniform(&mut self) -> f64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((z ^ (z >> 31)) >> 11) as f64 / (1u64 << 53) as f64
    }

    /// About normal, mean 0, spread 1.
    pub fn normal(&mut self) -> f64 {
        (0..12).map(|_| self.uniform()).sum::<f64>() - 6.0
    }
}

/// Digits with ten classes.
pub fn digits() -> Report {
    let mut random = Random(1);
    let class_names: Vec<String> = (0..10).map(|digit| digit.to_string()).collect();
    let confusion = confusion(&mut random, 10, 1000, 0.018);
    Report {
        title: "Handwritten digits, small CNN".to_string(),
        command: "wholestep train digits.toml --device cpu --seed 7".to_string(),
        started: Some("14 March 2025, 09:41".to_string()),
        device: "cpu, 8 threads, AVX2".to_string(),
        layers: layers(),
        totals: Totals {
            params: Some(421_642),
            planned_bytes: Some(27_918_336),
            compile_ms: Some(412.0),
            step_ms: Some(6.83),
            samples_per_s: Some(18_741.0),
            seconds_to_target: Some(38.4),
        },
        epochs: epochs(&mut random, 24),
        classes: class_rows(&confusion, 10),
        mistakes: (0..24).map(|i| mistake(&mut random, i)).collect(),
        class_names,
        confusion,
        regression: None,
        costs: costs(),
        config_toml: CONFIG.to_string(),
        plan_summary: PLAN.to_string(),
    }
}

/// House prices: a number as output, no classes.
pub fn houses() -> Report {
    let mut random = Random(9);
    let truth: Vec<f32> = (0..600).map(|_| (0.18 + 0.12 * (random.normal() * 0.5).exp()) as f32).collect();
    let predicted: Vec<f32> = truth.iter().map(|t| t * (1.0 + 0.06 * random.normal() as f32) + 0.003).collect();
    let epochs = epochs(&mut random, 150).into_iter().map(|row| EpochRow {
        train_loss: row.train_loss.powi(2) * 0.4,
        val_loss: row.val_loss.map(|loss| loss.powi(2) * 0.4),
        train_acc: None,
        val_acc: None,
        ..row
    });
    Report {
        title: "House prices".to_string(),
        command: "wholestep train houses.toml".to_string(),
        device: "cpu, 8 threads, AVX2".to_string(),
        epochs: epochs.collect(),
        regression: Some(Regression {
            truth,
            predicted,
            mae: Some(0.01412),
            rmse: Some(0.02031),
            r2: Some(0.9471),
            unit: Some("million USD".to_string()),
        }),
        config_toml: CONFIG.to_string(),
        ..Report::default()
    }
}

/// `n` classes with made-up names.
pub fn many_classes(n: usize) -> Report {
    let mut random = Random(n as u64);
    let kinds =
        ["apple", "beaver", "bicycle", "castle", "dolphin", "forest", "lamp", "maple tree", "otter", "pickup truck"];
    let confusion = confusion(&mut random, n, 100, 0.25);
    Report {
        title: format!("{n} kinds of things"),
        class_names: (0..n).map(|class| format!("{} {}", kinds[class % 10], class / 10)).collect(),
        classes: class_rows(&confusion, n),
        confusion,
        epochs: epochs(&mut random, 12),
        ..Report::default()
    }
}

fn epochs(random: &mut Random, n: u32) -> Vec<EpochRow> {
    let row = |epoch: u32, random: &mut Random| {
        let t = f64::from(epoch) / f64::from(n) * 24.0;
        let train_loss = 0.9 * (-t / 1.6).exp() + 0.11 * (-t / 7.0).exp() + 0.002 + 0.0012 * random.uniform();
        let val_loss = 0.8 * (-t / 1.7).exp() + 0.030 + 0.00062 * (t - 9.0).max(0.0) + 0.003 * random.uniform();
        let warm = (t / 2.0).min(1.0);
        EpochRow {
            epoch,
            train_loss,
            val_loss: Some(val_loss),
            train_acc: Some((1.0 - train_loss * 0.29).clamp(0.0, 1.0)),
            val_acc: Some((1.0 - val_loss * 0.26 - 0.001 * random.uniform()).clamp(0.0, 1.0)),
            lr: Some(1e-3 * warm * (0.5 + 0.5 * (std::f64::consts::PI * t / 24.0).cos()).max(0.01)),
            seconds: Some(3.2 + 0.25 * random.uniform()),
            ..EpochRow::default()
        }
    };
    (1..=n).map(|epoch| row(epoch, random)).collect()
}

fn confusion(random: &mut Random, n: usize, rows: u64, error: f64) -> Vec<u64> {
    let mut counts = vec![0; n * n];
    for class in 0..n {
        for _ in 0..rows {
            let near = (class * 7 + 3 + (random.uniform() * random.uniform() * n as f64) as usize) % n;
            let wrong = random.uniform() < error * (0.4 + 1.2 * (class % 5) as f64 / 4.0);
            counts[class * n + if wrong { near } else { class }] += 1;
        }
    }
    counts
}

fn class_rows(confusion: &[u64], n: usize) -> Vec<ClassRow> {
    let ratio = |a: u64, b: u64| if b == 0 { 0.0 } else { a as f64 / b as f64 };
    let row = |class: usize| {
        let hits = confusion[class * n + class];
        let support = confusion[class * n..(class + 1) * n].iter().sum();
        let predicted: u64 = (0..n).map(|row| confusion[row * n + class]).sum();
        let (precision, recall) = (ratio(hits, predicted), ratio(hits, support));
        ClassRow { precision, recall, f1: ratio(2 * hits, predicted + support), support }
    };
    (0..n).map(row).collect()
}

/// 5 x 7 dots of each digit, one row in five bits.
const DIGITS: [[u8; 7]; 10] = [
    [14, 17, 17, 17, 17, 17, 14],
    [4, 12, 4, 4, 4, 4, 14],
    [14, 17, 1, 2, 4, 8, 31],
    [14, 17, 1, 6, 1, 17, 14],
    [2, 6, 10, 18, 31, 2, 2],
    [31, 16, 30, 1, 1, 17, 14],
    [6, 8, 16, 30, 17, 17, 14],
    [31, 1, 2, 4, 4, 8, 8],
    [14, 17, 17, 14, 17, 17, 14],
    [14, 17, 17, 15, 1, 2, 12],
];

fn mistake(random: &mut Random, i: u64) -> Mistake {
    let label = (i * 7 % 10) as u32;
    let predicted = (label + 1 + (random.uniform() * 8.9) as u32) % 10;
    let image = Some(digit(random, label as usize, predicted as usize));
    let index = (random.uniform() * 10_000.0) as u64;
    Mistake { index, label, predicted, confidence: (0.4 + 0.59 * random.uniform()) as f32, image }
}

/// A smeared, slanted digit with a ghost of the one it was taken for.
fn digit(random: &mut Random, label: usize, ghost: usize) -> Picture {
    let (slant, shift) = (0.5 * random.normal(), random.normal());
    let dot = |digit: usize, x: f64, y: f64| {
        let (column, row) = ((x - 5.0 - shift - slant * (14.0 - y) * 0.25) / 3.6, (y - 3.0) / 3.2);
        let mut light = 0.0;
        for (r, bits) in DIGITS[digit].iter().enumerate() {
            for c in (0..5).filter(|c| bits >> (4 - c) & 1 == 1) {
                let far = (column - f64::from(c) - 0.5).powi(2) + (row - r as f64 - 0.5).powi(2);
                light += (-far * 2.2).exp();
            }
        }
        light.min(1.0)
    };
    let mut pixels = Vec::with_capacity(28 * 28);
    for y in 0..28 {
        for x in 0..28 {
            let (x, y) = (f64::from(x), f64::from(y));
            let light = dot(label, x, y) * 0.95 + dot(ghost, x, y) * 0.25 + 0.03 * random.normal();
            pixels.push((light.clamp(0.0, 1.0) * 255.0) as u8);
        }
    }
    Picture { width: 28, height: 28, channels: 1, pixels }
}

fn layers() -> Vec<LayerRow> {
    let row = |layer: &str, shape: &str, params| LayerRow {
        layer: layer.to_string(),
        output_shape: shape.to_string(),
        params,
    };
    vec![
        row("conv1: Conv2d(1, 32, 3)", "[B, 32, 26, 26]", 320),
        row("relu1: Relu", "[B, 32, 26, 26]", 0),
        row("conv2: Conv2d(32, 64, 3)", "[B, 64, 24, 24]", 18_496),
        row("relu2: Relu", "[B, 64, 24, 24]", 0),
        row("pool: MaxPool2d(4)", "[B, 64, 6, 6]", 0),
        row("dropout: Dropout(0.25)", "[B, 64, 6, 6]", 0),
        row("up: Linear(2304, 174)", "[B, 174]", 401_070),
        row("head: Linear(174, 10)", "[B, 10]", 1_756),
    ]
}

fn costs() -> Vec<CostRow> {
    let row = |kernel: &str, scope: &str, time_us, share, gflops: Option<f64>, gb| CostRow {
        kernel: kernel.to_string(),
        scope: scope.to_string(),
        time_us,
        share,
        gflops,
        gb_per_s: Some(gb),
    };
    vec![
        row("conv_dw_64x32x3x3", "cnn/conv2, backward", 2310.0, 0.338, Some(524.1), 9.4),
        row("conv_dx_64x32x3x3", "cnn/conv2, backward", 1622.0, 0.237, Some(746.5), 12.2),
        row("conv_64x32x3x3_relu_pool", "cnn/conv2", 1288.0, 0.189, Some(940.2), 15.0),
        row("gemm_128x174x2304_bias_relu", "cnn/up", 402.0, 0.059, Some(255.3), 8.1),
        row("gemm_tn_2304x174x128", "cnn/up, backward", 391.0, 0.057, Some(262.5), 8.4),
        row("gemm_nt_128x2304x174", "cnn/up, backward", 366.0, 0.054, Some(280.4), 8.9),
        row("adamw_all", "optimizer", 204.0, 0.030, None, 57.8),
        row("conv_32x1x3x3_relu", "cnn/conv1", 131.0, 0.019, Some(380.0), 21.7),
        row("softmax_cross_entropy", "loss", 58.0, 0.0085, None, 0.9),
        row("clip_norm", "optimizer", 41.0, 0.006, None, 41.1),
    ]
}

const CONFIG: &str = "\
[data]
train = \"data/digits\"
validation = 0.1
batch = 128

[model]
layers = [
  { kind = \"conv2d\", channels = 32, kernel = 3 },
  { kind = \"relu\" },
  { kind = \"linear\", units = 10 },
]

[optimizer]
kind = \"adamw\"
lr = 1e-3
weight_decay = 0.01

[schedule]
kind = \"cosine\"
warmup_steps = 900
";

const PLAN: &str = "\
plan: 41 launches, 1 submission per step, B = 128
arena   24 117 248 B  (sum of buffers 63 504 384 B, 2.6x reuse)
params   1 686 568 B
state    3 373 136 B
 #  kernel                          reads                writes
 0  conv_32x1x3x3_relu              x w0 b0              t0 @ 0
 1  conv_64x32x3x3_relu_pool        t0 w1 b1             t1 @ 11075584
 2  gemm_128x174x2304_bias_relu     t1 w2 b2             t2 @ 12255232
";
