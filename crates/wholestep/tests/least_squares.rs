//! Levenberg-Marquardt on the device against SciPy's fits, on the host and on GPUs.

#[path = "support/devices.rs"]
mod devices;
#[path = "support/golden.rs"]
mod golden;

use devices::devices;
use golden::cases;
use serde_json::Value as Json;
use wholestep::{Array, DType, Device, F32, F64, LeastSquares, Scope, Tensor, eval, levenberg_marquardt};

fn numbers(json: &Json) -> Vec<f64> {
    json.as_array().expect("a list").iter().map(|v| v.as_f64().expect("a number")).collect()
}

fn vector(s: &Scope, values: &[f64], dtype: DType) -> Tensor {
    let parts: Vec<Tensor> = values.iter().map(|&v| s.constant(v, dtype)).collect();
    parts[0].stack(&parts[1..], 0)
}

/// What a model of the golden file says of parameters `p` at the points.
fn model(id: &str, p: &Tensor, t: &Tensor) -> Tensor {
    let p = |i: i64| p.index(0, i);
    match id {
        "decay" => &(&(-(t * &p(1))).exp() * &p(0)) + &p(2),
        "saturation" => &(t * &p(0)) / &(t + &p(1)),
        "peak" => &(&((((t - &p(1)) / &p(2)).square()) * -0.5).exp() * &p(0)) + &p(3),
        "valley" => ((&p(1) - &p(0).square()) * 10.0).stack(&[1.0 - &p(0)], 0),
        other => panic!("no model of {other}"),
    }
}

/// Where a case ends on a device, its cost and the steps that were tried.
fn fit(device: &Device, case: &Json, dtype: DType, options: &LeastSquares) -> (Vec<f64>, f64, f64) {
    let id = case["id"].as_str().unwrap();
    let found = eval(device, |s| {
        let [t, y, start] = ["t", "y", "start"].map(|key| vector(s, &numbers(&case[key]), dtype));
        let fitted = levenberg_marquardt(|p| model(id, p, &t) - &y, &start, options);
        let parts = [&fitted.cost, &fitted.trips.cast(dtype)].map(|x| x.unsqueeze(0));
        fitted.x.concat(&parts, 0)
    });
    let found: Array = found.unwrap_or_else(|e| panic!("{id}: {e}")).cast::<f64>().unwrap();
    let all = found.slice::<f64>().unwrap().to_vec();
    let n = all.len() - 2;
    (all[..n].to_vec(), all[n], all[n + 1])
}

#[test]
fn fits_end_where_scipys_do() {
    for device in devices() {
        // On wgpu there are no numbers of 64 bits.
        let (dtype, far) = if device.name() == "wgpu" { (F32, 2e-3) } else { (F64, 1e-7) };
        let options =
            LeastSquares { tolerance_grad: if dtype == F32 { 1e-5 } else { 1e-10 }, ..LeastSquares::default() };
        for case in cases("least_squares") {
            let (x, cost, trips) = fit(&device, &case, dtype, &options);
            let (want, want_cost) = (numbers(&case["x"]), case["cost"].as_f64().unwrap());
            let id = &case["id"];
            let apart = x.iter().zip(&want).map(|(a, b)| (a - b).abs() / b.abs().max(1.0)).fold(0.0, f64::max);
            assert!(apart <= far, "{device:?} {id}: {x:?} after {trips} steps, SciPy ends at {want:?}");
            assert!((cost - want_cost).abs() <= far, "{device:?} {id}: cost {cost}, SciPy's {want_cost}");
            assert!(trips > 2.0 && trips < 60.0, "{device:?} {id}: {trips} steps");
        }
    }
}

/// A bound ends it, with the best point until then.
#[test]
fn a_fit_that_is_cut_short_is_no_worse_than_its_start() {
    let device = Device::cpu_with_threads(1);
    let case = &cases("least_squares")[3];
    let costs: Vec<f64> = [1, 3, 9]
        .map(|max_trips| fit(&device, case, F64, &LeastSquares { max_trips, ..LeastSquares::default() }))
        .map(|(_, cost, trips)| {
            assert!([1.0, 3.0, 9.0].contains(&trips));
            cost
        })
        .to_vec();
    // At (-1.2, 1) it is ½(4.4² + 2.2²) = 12.1.
    assert!(costs[0] <= 12.1 && costs[1] <= costs[0] && costs[2] < costs[1], "{costs:?}");
}

/// Each of the two tolerances ends a fit without the other, and long before steps can no longer be told from 0.
#[test]
fn a_fit_ends_where_it_is_flat_and_where_steps_are_short() {
    let device = Device::cpu_with_threads(1);
    let case = &cases("least_squares")[0];
    for (tolerance_grad, tolerance_change) in [(1e-6, 0.0), (0.0, 1e-6)] {
        let options = LeastSquares { max_trips: 500, tolerance_grad, tolerance_change };
        let (_, _, trips) = fit(&device, case, F64, &options);
        assert!(trips < 20.0, "{tolerance_grad} {tolerance_change}: {trips} trips");
    }
}
