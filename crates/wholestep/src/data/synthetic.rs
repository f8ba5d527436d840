//! Made-up data with a known rule, for examples and tests. Takes sizes and a seed, gives a data set. Never differs
//! between machines or versions: all randomness is Philox.

use std::f64::consts::TAU;

use super::array::Array;
use super::dataset::Dataset;
use super::random::Philox;

// One stream for each set, so that two sets of one seed are independent. The upper bits keep them off the epochs.
const STREAM: u64 = 3 << 62;

fn random(seed: u64, set: u64) -> Philox {
    Philox::new(seed, STREAM | set)
}

/// A data set of rows of `x` and of `y`, whose sizes the callers know to agree.
fn rows(x: Vec<f64>, x_shape: &[usize], y: Array) -> Dataset {
    let x = Array::new(x.into_iter().map(|v| v as f32).collect(), x_shape).expect("bug: x does not fit its shape");
    Dataset::new([("x", x), ("y", y)]).expect("bug: x and y differ in rows")
}

fn column(y: Vec<f64>) -> Array {
    let n = y.len();
    Array::new(y.into_iter().map(|v| v as f32).collect(), [n, 1]).expect("bug: y does not fit its shape")
}

/// Flowers like Fisher's Iris, `rows_per_class` of each of three species in random order: `"x"` f32 `[N, 4]` in cm,
/// `"y"` u32 `[N]`. Each feature is uniform in the range of its species plus uniform noise of ±0.1.
///
/// 200 rows per class and seed 42 are the 600 rows that the examples use.
pub fn iris_like(rows_per_class: usize, seed: u64) -> Dataset {
    const RANGES: [[(f64, f64); 4]; 3] = [
        [(4.8, 5.8), (3.2, 4.0), (1.3, 1.7), (0.2, 0.5)],
        [(5.8, 6.8), (2.6, 3.2), (4.0, 5.0), (1.2, 1.8)],
        [(6.2, 7.2), (2.8, 3.4), (5.0, 6.0), (1.8, 2.4)],
    ];
    let mut random = random(seed, 1);
    let mut y: Vec<u32> = (0..3).flat_map(|class| std::iter::repeat_n(class, rows_per_class)).collect();
    random.shuffle(&mut y);
    let mut x = Vec::with_capacity(4 * y.len());
    for &class in &y {
        for (low, high) in RANGES[class as usize] {
            x.push(random.uniform(low, high) + random.uniform(-0.1, 0.1));
        }
    }
    let n = y.len();
    rows(x, &[n, 4], Array::from_vec(y)).with_class_names(["setosa", "versicolor", "virginica"]).with_feature_names([
        "sepal length",
        "sepal width",
        "petal length",
        "petal width",
    ])
}

/// The line `y = 2x + 1` with uniform noise of ±0.1, x uniform in \[-2, 2): `"x"` and `"y"` f32 `[N, 1]`.
pub fn line(n: usize, seed: u64) -> Dataset {
    let mut random = random(seed, 2);
    let x: Vec<f64> = (0..n).map(|_| random.uniform(-2.0, 2.0)).collect();
    let y = x.iter().map(|x| 2.0 * x + 1.0 + random.uniform(-0.1, 0.1)).collect();
    rows(x, &[n, 1], column(y)).with_feature_names(["x"])
}

/// Houses and their price in millions: `"x"` f32 `[N, 5]`, `"y"` f32 `[N, 1]`.
///
/// Features: area uniform in \[500, 3500) square feet, 1 to 5 bedrooms, 1 to 4 bathrooms, age 0 to 49 years, location
/// uniform in \[0, 1). Price: `150·area + 10,000·beds + 8,000·baths + 1,000·(50 - age) + 50,000·location` with uniform
/// noise of ±10,000.
pub fn houses(n: usize, seed: u64) -> Dataset {
    let mut random = random(seed, 3);
    let (mut x, mut y) = (Vec::with_capacity(5 * n), Vec::with_capacity(n));
    for _ in 0..n {
        let area = random.uniform(500.0, 3500.0);
        let [beds, baths] = [1 + random.below(5), 1 + random.below(4)].map(|v| v as f64);
        let age = random.below(50) as f64;
        let location = random.unit();
        let price = 150.0 * area + 10e3 * beds + 8e3 * baths + 1e3 * (50.0 - age) + 50e3 * location;
        x.extend([area, beds, baths, age, location]);
        y.push((price + random.uniform(-10e3, 10e3)) / 1e6);
    }
    rows(x, &[n, 5], column(y)).with_feature_names(["area", "beds", "baths", "age", "location"])
}

/// The parabola `y = x² + x`, x uniform in \[-2, 2), where each tenth row is off by +5 or -5: `"x"` and `"y"` f32
/// `[N, 1]`. Outliers are at random rows, and there are exactly N/10 of them (rounded down).
pub fn parabola_with_outliers(n: usize, seed: u64) -> Dataset {
    let mut random = random(seed, 4);
    let x: Vec<f64> = (0..n).map(|_| random.uniform(-2.0, 2.0)).collect();
    let mut y: Vec<f64> = x.iter().map(|x| x * x + x).collect();
    let mut order: Vec<usize> = (0..n).collect();
    random.shuffle(&mut order);
    for &row in &order[..n / 10] {
        y[row] += if random.below(2) == 0 { 5.0 } else { -5.0 };
    }
    rows(x, &[n, 1], column(y)).with_feature_names(["x"])
}

/// Windows of the series `sin(2πt/25) + 0.01·t`, t = 0, 1, 2 …, to foretell the next value: `"x"` f32 `[N, window, 1]`,
/// `"y"` f32 `[N, 1]`. Row i holds t = i to i + window - 1, and y is the value at i + window. No randomness.
pub fn series_windows(n: usize, window: usize) -> Dataset {
    let value = |t: usize| (TAU * t as f64 / 25.0).sin() + 0.01 * t as f64;
    let x = (0..n).flat_map(|i| (i..i + window).map(value)).collect();
    rows(x, &[n, window, 1], column((0..n).map(|i| value(i + window)).collect()))
}

/// One period and a half of a sine with normal noise of deviation `noise`, x uniform in \[-3π/2, 3π/2): `"x"` and `"y"`
/// f32 `[N, 1]`.
pub fn noisy_sine(n: usize, noise: f64, seed: u64) -> Dataset {
    let mut random = random(seed, 5);
    let x: Vec<f64> = (0..n).map(|_| random.uniform(-0.75 * TAU, 0.75 * TAU)).collect();
    let y = x.iter().map(|x| x.sin() + noise * random.normal()).collect();
    rows(x, &[n, 1], column(y)).with_feature_names(["x"])
}

#[cfg(test)]
mod tests {
    use super::*;

    fn values(data: &Dataset, name: &str) -> Vec<f64> {
        data.column(name).unwrap().slice::<f32>().unwrap().iter().map(|&v| f64::from(v)).collect()
    }

    #[test]
    fn iris_stays_in_its_ranges_and_classes_can_be_told_apart() {
        let data = iris_like(200, 42);
        let (x, y) = (values(&data, "x"), data.column("y").unwrap().slice::<u32>().unwrap());
        assert_eq!((data.rows(), y.iter().filter(|&&c| c == 2).count()), (600, 200));
        for (flower, &class) in x.chunks(4).zip(y) {
            // Petal length: 1.2 to 1.8, 3.9 to 5.1, 4.9 to 6.1 with the noise.
            let (low, high) = [(1.2, 1.8), (3.9, 5.1), (4.9, 6.1)][class as usize];
            assert!((low - 1e-6..high + 1e-6).contains(&flower[2]), "{flower:?} of {class}");
        }
        assert!(iris_like(200, 42) == data && iris_like(200, 43) != data);
        assert_ne!(y[..200], [0; 200]);
    }

    #[test]
    fn targets_follow_their_rules() {
        let data = line(500, 1);
        let residuals = |d: &Dataset, f: &dyn Fn(&[f64]) -> f64, n: usize| -> Vec<f64> {
            values(d, "x").chunks(n).zip(values(d, "y")).map(|(x, y)| y - f(x)).collect()
        };
        let r = residuals(&data, &|x| 2.0 * x[0] + 1.0, 1);
        assert!(r.iter().all(|r| r.abs() <= 0.1 + 1e-5) && r.iter().any(|r| r.abs() > 0.08));
        let price = |x: &[f64]| (150.0 * x[0] + 10e3 * x[1] + 8e3 * x[2] + 1e3 * (50.0 - x[3]) + 50e3 * x[4]) / 1e6;
        let r = residuals(&houses(500, 1), &price, 5);
        assert!(r.iter().all(|r| r.abs() <= 0.01 + 1e-5) && r.iter().any(|r| r.abs() > 0.008));
        let r = residuals(&parabola_with_outliers(500, 1), &|x| x[0] * x[0] + x[0], 1);
        let n_off = |by: f64| r.iter().filter(|r| (*r - by).abs() < 1e-4).count();
        assert_eq!((n_off(0.0), n_off(5.0) + n_off(-5.0)), (450, 50));
        assert!(n_off(5.0) > 10 && n_off(-5.0) > 10);
        let r = residuals(&noisy_sine(5000, 0.1, 1), &|x| x[0].sin(), 1);
        let deviation = (r.iter().map(|r| r * r).sum::<f64>() / 5000.0).sqrt();
        assert!((deviation - 0.1).abs() < 0.005, "{deviation}");
    }

    #[test]
    fn windows_slide_by_one() {
        let data = series_windows(40, 10);
        let (x, y) = (values(&data, "x"), values(&data, "y"));
        assert_eq!(data.column("x").unwrap().shape(), [40, 10, 1]);
        assert_eq!(x[10..19], x[1..10]);
        assert_eq!(y[0], x[19]);
        // After one period of 25 steps only the trend is left.
        assert!((x[250] - x[0] - 0.25).abs() < 1e-6, "{} {}", x[250], x[0]);
    }
}
