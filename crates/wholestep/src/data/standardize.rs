//! Zero mean and unit deviation. Takes the training part to fit on, gives parameters that apply to any part and can be
//! stored with the model. Never looks at the data it is applied to.

use super::array::Array;
use super::dataset::Dataset;
use crate::{Error, ErrorKind, Result};

/// Mean and deviation of each feature: axis 1 of the column, which is the features of `[N, F]` and the channels of
/// `[N, C, H, W]`. For `[N]` there is one feature.
///
/// The deviation is the biased one (scikit-learn's `StandardScaler`, which this matches). A feature that never changes
/// has `std` 1, so that it becomes 0 and not NaN.
#[derive(Clone, Debug, PartialEq)]
pub struct Standardize {
    /// The column it was fitted on and changes.
    pub column: String,
    /// Mean of each feature.
    pub mean: Vec<f64>,
    /// Deviation of each feature; never 0.
    pub std: Vec<f64>,
}

fn input_error(text: String) -> Error {
    Error::new(ErrorKind::Input, text)
}

/// Features, and elements of one feature in one row.
fn layout(array: &Array) -> (usize, usize) {
    let n_features = array.shape().get(1).copied().unwrap_or(1);
    (n_features, array.row_elems().checked_div(n_features).unwrap_or(0))
}

/// Calls `f` with the feature and the value of each element, in row-major order.
fn each_feature(array: &Array, mut f: impl FnMut(usize, f64)) {
    let (n_features, n_inner) = layout(array);
    let (mut feature, mut inner) = (0, 0);
    array.for_each_f64(|value| {
        f(feature, value);
        inner += 1;
        if inner == n_inner {
            inner = 0;
            feature = (feature + 1) % n_features;
        }
    });
}

impl Standardize {
    /// The parameters of column `name` of `data`: give it the training part only.
    /// Errors: no such column, no row, or a value that is NaN or infinite.
    pub fn fit(data: &Dataset, name: &str) -> Result<Standardize> {
        let array = data.column(name)?;
        let (n_features, n_inner) = layout(array);
        if array.is_empty() {
            return Err(input_error(format!("standardize: column {name:?} of shape {:?} is empty", array.shape())));
        }
        let n = (array.rows() * n_inner) as f64;
        let mut mean = vec![0.0; n_features];
        let (mut at, mut not_finite) = (0, None);
        each_feature(array, |feature, value| {
            if !value.is_finite() && not_finite.is_none() {
                not_finite = Some((at / array.row_elems(), feature, value));
            }
            at += 1;
            mean[feature] += value;
        });
        if let Some((row, feature, value)) = not_finite {
            return Err(input_error(format!(
                "standardize: column {name:?}, row {row}, feature {feature} is {value}; drop or fill such rows first"
            )));
        }
        mean.iter_mut().for_each(|m| *m /= n);
        let mut variance = vec![0.0; n_features];
        each_feature(array, |feature, value| variance[feature] += (value - mean[feature]).powi(2) / n);
        // Rounding of the mean leaves a constant feature with a tiny variance; that is noise and must not become 1.
        let std = variance.iter().zip(&mean).map(|(&v, &m)| {
            let noise = (1e-14 * f64::abs(m)).powi(2);
            if v > noise { v.sqrt() } else { 1.0 }
        });
        Ok(Standardize { column: name.to_string(), std: std.collect(), mean })
    }

    /// `data` with the column replaced by `(value - mean) / std` as f32.
    /// Errors: no such column, or not the number of features that was fitted.
    pub fn apply(&self, data: &Dataset) -> Result<Dataset> {
        let array = data.column(&self.column)?;
        data.clone().with_column(&self.column, self.transform(array)?)
    }

    /// `(value - mean) / std` as f32. Errors: not the number of features that was fitted.
    pub fn transform(&self, array: &Array) -> Result<Array> {
        self.map(array, |value, mean, std| (value - mean) / std)
    }

    /// `value * std + mean` as f32: from what a model predicts for a standardized target back to its own units.
    /// Errors: not the number of features that was fitted.
    pub fn invert(&self, array: &Array) -> Result<Array> {
        self.map(array, |value, mean, std| value * std + mean)
    }

    fn map(&self, array: &Array, f: impl Fn(f64, f64, f64) -> f64) -> Result<Array> {
        let (n_features, _) = layout(array);
        if n_features != self.mean.len() || self.std.len() != self.mean.len() {
            return Err(input_error(format!(
                "standardize: fitted on {} features, shape {:?} with {n_features} came; apply it to the same columns",
                self.mean.len(),
                array.shape()
            )));
        }
        let mut values = Vec::with_capacity(array.len());
        each_feature(array, |feature, v| values.push(f(v, self.mean[feature], self.std[feature]) as f32));
        Array::new(values, array.shape())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fits_on_one_part_and_applies_to_another() {
        // sklearn.preprocessing.StandardScaler().fit([[1, 5], [3, 5], [8, 5]]): mean_ [4, 5], scale_ [2.94392029, 1].
        let train = Array::new(vec![1f32, 5.0, 3.0, 5.0, 8.0, 5.0], [3, 2]).unwrap();
        let train = Dataset::new([("x", train)]).unwrap();
        let scale = Standardize::fit(&train, "x").unwrap();
        assert_eq!(scale.mean, [4.0, 5.0]);
        assert!((scale.std[0] - 2.943_920_288_775_949).abs() < 1e-12 && scale.std[1] == 1.0, "{:?}", scale.std);
        let test = Array::new(vec![4f32 + 2.943_920_3, 6.0], [1, 2]).unwrap();
        let out = scale.transform(&test).unwrap();
        let close = |a: &Array, b: &[f32]| a.slice::<f32>().unwrap().iter().zip(b).all(|(a, b)| (a - b).abs() < 1e-6);
        assert!(close(&out, &[1.0, 1.0]), "{out:?}");
        assert!(close(&scale.invert(&out).unwrap(), test.slice().unwrap()));
        let e = scale.transform(&Array::new(vec![0f32; 3], [1, 3]).unwrap()).unwrap_err().to_string();
        assert_eq!(e, "standardize: fitted on 2 features, shape [1, 3] with 3 came; apply it to the same columns");
    }

    #[test]
    fn images_are_scaled_by_channel_and_nan_is_named() {
        let x = Array::new(vec![0f32, 2.0, 10.0, 10.0, 4.0, 6.0, 10.0, 10.0], [2, 2, 1, 2]).unwrap();
        let scale = Standardize::fit(&Dataset::new([("x", x)]).unwrap(), "x").unwrap();
        assert_eq!(scale.mean, [3.0, 10.0]);
        assert!((scale.std[0] - 5f64.sqrt()).abs() < 1e-12 && scale.std[1] == 1.0);
        let x = Array::new(vec![0f32, f32::NAN], [1, 2]).unwrap();
        let e = Standardize::fit(&Dataset::new([("x", x)]).unwrap(), "x").unwrap_err().to_string();
        assert_eq!(e, "standardize: column \"x\", row 0, feature 1 is NaN; drop or fill such rows first");
    }
}
