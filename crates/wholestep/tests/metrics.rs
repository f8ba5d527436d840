//! The metrics against scikit-learn (golden/metrics.json, made by golden/metrics.py), fed in uneven batches; and what
//! they refuse.

use serde::Deserialize;
use wholestep::ErrorKind;
use wholestep::metrics::{
    Accuracy, Average, BinaryRanking, ClassScores, Confusion, LogLoss, OneVsRest, Regression, TopK,
};

#[derive(Deserialize)]
struct Golden {
    classes: Vec<Classes>,
    one_vs_rest: Vec<Rest>,
    binary: Vec<Binary>,
    regression: Vec<Regress>,
}

#[derive(Deserialize)]
struct Classes {
    name: String,
    n_classes: usize,
    scores: Vec<f32>,
    labels: Vec<u32>,
    batches: Vec<usize>,
    accuracy: f64,
    confusion: Vec<u64>,
    precision: Vec<f64>,
    recall: Vec<f64>,
    f1: Vec<f64>,
    support: Vec<u64>,
    r#macro: [f64; 3],
    micro: [f64; 3],
    weighted: [f64; 3],
    top_k: Vec<(usize, f64)>,
}

#[derive(Deserialize)]
struct Rest {
    name: String,
    n_classes: usize,
    probs: Vec<f32>,
    logits: Vec<f32>,
    labels: Vec<u32>,
    batches: Vec<usize>,
    roc_auc: Vec<Option<f64>>,
    average_precision: Vec<Option<f64>>,
    roc_auc_macro: Option<f64>,
    average_precision_macro: Option<f64>,
    log_loss: f64,
    log_loss_logits: f64,
}

#[derive(Deserialize)]
struct Binary {
    name: String,
    scores: Vec<f32>,
    labels: Vec<u32>,
    batches: Vec<usize>,
    roc_auc: Option<f64>,
    average_precision: Option<f64>,
    confusion_above_half: Vec<u64>,
}

#[derive(Deserialize)]
struct Regress {
    name: String,
    n_outputs: usize,
    predicted: Vec<f32>,
    targets: Vec<f32>,
    batches: Vec<usize>,
    mae: f64,
    mse: f64,
    rmse: f64,
    r2: Option<f64>,
}

fn golden() -> Golden {
    serde_json::from_str(include_str!("golden/metrics.json")).expect("golden/metrics.json is what metrics.py wrote")
}

/// Row ranges of the batches.
fn ranges(batches: &[usize]) -> Vec<std::ops::Range<usize>> {
    let ends = batches.iter().scan(0, |end, size| {
        *end += size;
        Some(*end)
    });
    ends.zip(batches).map(|(end, size)| end - size..end).collect()
}

fn assert_close(got: f64, want: f64, tolerance: f64, what: &str) {
    let off = (got - want).abs() / want.abs().max(1.0);
    assert!(off <= tolerance, "{what}: got {got}, scikit-learn says {want}");
}

fn assert_optional(got: Option<f64>, want: Option<f64>, what: &str) {
    match (got, want) {
        (Some(got), Some(want)) => assert_close(got, want, 1e-12, what),
        (got, want) => assert_eq!(got, want, "{what}"),
    }
}

fn assert_average(got: ClassScores, want: [f64; 3], what: &str) {
    for (got, want) in [got.precision, got.recall, got.f1].into_iter().zip(want) {
        assert_close(got, want, 1e-12, what);
    }
}

#[test]
fn classes_agree_with_scikit_learn() {
    for case in golden().classes {
        let (name, c) = (&case.name, case.n_classes);
        let mut accuracy = Accuracy::new(c).unwrap();
        let mut confusion = Confusion::new(c).unwrap();
        let mut top: Vec<TopK> = case.top_k.iter().map(|(k, _)| TopK::new(*k, c).unwrap()).collect();
        assert_eq!(case.batches.iter().sum::<usize>(), case.labels.len(), "{name}");
        for rows in ranges(&case.batches) {
            let (scores, labels) = (&case.scores[rows.start * c..rows.end * c], &case.labels[rows]);
            accuracy.update(scores, labels).unwrap();
            confusion.update(scores, labels).unwrap();
            top.iter_mut().for_each(|top| top.update(scores, labels).unwrap());
        }
        assert_eq!(accuracy.value(), Some(case.accuracy), "{name}");
        assert_eq!(confusion.accuracy(), Some(case.accuracy), "{name}");
        assert_eq!(confusion.counts(), case.confusion, "{name}");
        for (class, got) in confusion.per_class().iter().enumerate() {
            assert_close(got.precision, case.precision[class], 1e-15, &format!("{name} precision {class}"));
            assert_close(got.recall, case.recall[class], 1e-15, &format!("{name} recall {class}"));
            assert_close(got.f1, case.f1[class], 1e-15, &format!("{name} F1 {class}"));
            assert_eq!(got.support, case.support[class], "{name} support {class}");
        }
        assert_average(confusion.average(Average::Macro), case.r#macro, &format!("{name} macro"));
        assert_average(confusion.average(Average::Micro), case.micro, &format!("{name} micro"));
        assert_average(confusion.average(Average::Weighted), case.weighted, &format!("{name} weighted"));
        for (top, (k, want)) in top.iter().zip(&case.top_k) {
            assert_eq!(top.value(), Some(*want), "{name} top {k}");
        }
    }
}

#[test]
fn one_vs_rest_and_log_loss_agree_with_scikit_learn() {
    for case in golden().one_vs_rest {
        let (name, c) = (&case.name, case.n_classes);
        let mut ranking = OneVsRest::new(c).unwrap();
        let mut of_probs = LogLoss::new(c).unwrap();
        let mut of_logits = LogLoss::new(c).unwrap();
        for rows in ranges(&case.batches) {
            let (at, labels) = (rows.start * c..rows.end * c, &case.labels[rows]);
            ranking.update(&case.probs[at.clone()], labels).unwrap();
            of_probs.update_probs(&case.probs[at.clone()], labels).unwrap();
            of_logits.update_logits(&case.logits[at], labels).unwrap();
        }
        for class in 0..c {
            assert_optional(ranking.roc_auc_per_class()[class], case.roc_auc[class], &format!("{name} AUC {class}"));
            let precision = ranking.average_precision_per_class()[class];
            assert_optional(precision, case.average_precision[class], &format!("{name} precision {class}"));
        }
        assert_optional(ranking.roc_auc_macro(), case.roc_auc_macro, &format!("{name} macro AUC"));
        assert_optional(
            ranking.average_precision_macro(),
            case.average_precision_macro,
            &format!("{name} macro precision"),
        );
        // scikit-learn sums float32 probabilities in float32; the logits case is float64 on both sides.
        assert_close(of_probs.value().unwrap(), case.log_loss, 1e-6, &format!("{name} log loss"));
        assert_close(of_logits.value().unwrap(), case.log_loss_logits, 1e-12, &format!("{name} log loss of logits"));
    }
}

#[test]
fn binary_ranking_agrees_with_scikit_learn() {
    for case in golden().binary {
        let mut ranking = BinaryRanking::new();
        let mut confusion = Confusion::new(2).unwrap();
        for rows in ranges(&case.batches) {
            ranking.update(&case.scores[rows.clone()], &case.labels[rows.clone()]).unwrap();
            confusion.update_binary(&case.scores[rows.clone()], 0.5, &case.labels[rows]).unwrap();
        }
        assert_optional(ranking.roc_auc(), case.roc_auc, &format!("{} AUC", case.name));
        assert_optional(ranking.average_precision(), case.average_precision, &format!("{} precision", case.name));
        assert_eq!(confusion.counts(), case.confusion_above_half, "{}", case.name);
    }
}

#[test]
fn regression_agrees_with_scikit_learn() {
    for case in golden().regression {
        let (name, n) = (&case.name, case.n_outputs);
        let mut regression = Regression::new(n).unwrap();
        for rows in ranges(&case.batches) {
            let at = rows.start * n..rows.end * n;
            regression.update(&case.predicted[at.clone()], &case.targets[at]).unwrap();
        }
        assert_optional(regression.mae(), Some(case.mae), &format!("{name} MAE"));
        assert_optional(regression.mse(), Some(case.mse), &format!("{name} MSE"));
        assert_optional(regression.rmse(), Some(case.rmse), &format!("{name} RMSE"));
        assert_optional(regression.r2(), case.r2, &format!("{name} R2"));
    }
}

/// Logits far apart have no clipping: the loss of a row is the distance itself.
#[test]
fn log_loss_of_logits_is_exact_where_probabilities_underflow() {
    let mut loss = LogLoss::new(2).unwrap();
    loss.update_logits(&[0.0, 1e4, f32::NEG_INFINITY, 3.0], &[0, 1]).unwrap();
    assert_eq!(loss.value(), Some(5e3));
}

#[test]
fn a_refused_batch_changes_nothing_and_says_what_is_wrong() {
    let nan = f32::NAN;
    let mut accuracy = Accuracy::new(3).unwrap();
    let mut top = TopK::new(2, 3).unwrap();
    let mut confusion = Confusion::new(3).unwrap();
    let mut rest = OneVsRest::new(3).unwrap();
    let mut loss = LogLoss::new(3).unwrap();
    let (probs, labels) = ([0.5, 0.25, 0.25, 0.0, 1.0, 0.0], [0, 1]);
    accuracy.update(&probs, &labels).unwrap();
    top.update(&probs, &labels).unwrap();
    confusion.update(&probs, &labels).unwrap();
    rest.update(&probs, &labels).unwrap();
    loss.update_probs(&probs, &labels).unwrap();
    let before = (accuracy.clone(), top.clone(), confusion.clone(), rest.clone(), loss.clone());

    let bad: [(&[f32], &[u32], &str); 4] = [
        (&[0.5, 0.25, 0.25, 1.0, 0.0], &[0, 1], "expected 3 scores for each of 2 labels (6 values), got 5"),
        (&[0.5, 0.25, 0.25, 1.0, 0.0, 0.0], &[0, 3], "expected each label in 0..3, got 3 at row 1"),
        (&[0.5, 0.25, 0.25, 1.0, 0.0, nan], &[0, 1], "got NaN for row 1 class 2"),
        (&[], &[0], "got 0"),
    ];
    for (scores, labels, text) in bad {
        let errors = [
            accuracy.update(scores, labels).unwrap_err(),
            top.update(scores, labels).unwrap_err(),
            confusion.update(scores, labels).unwrap_err(),
            rest.update(scores, labels).unwrap_err(),
            loss.update_probs(scores, labels).unwrap_err(),
            loss.update_logits(scores, labels).unwrap_err(),
        ];
        for error in errors {
            assert_eq!(error.kind(), ErrorKind::Input);
            assert!(error.to_string().contains(text), "{error}");
        }
    }
    let not_probs: [&[f32]; 3] = [&[0.5, 0.5, 0.5], &[1.5, -0.5, 0.0], &[4.0, -2.0, 1.0]];
    for row in not_probs {
        assert!(loss.update_probs(row, &[0]).unwrap_err().to_string().contains("update_logits"));
    }
    assert!(loss.update_logits(&[0.0, f32::INFINITY, 0.0], &[0]).is_err());
    assert!(loss.update_logits(&[0.0, f32::NEG_INFINITY, 0.0], &[1]).is_err());
    assert!(accuracy.update_classes(&[0, 3], &[0, 1]).is_err());
    assert!(accuracy.update_classes(&[0], &[0, 1]).is_err());
    assert!(confusion.update_classes(&[0, 1], &[0, 3]).is_err());
    assert!(confusion.update_binary(&[0.5], 0.5, &[1]).is_err(), "three classes");
    assert_eq!(before, (accuracy, top, confusion, rest, loss));

    let mut binary = BinaryRanking::new();
    assert!(binary.update(&[0.5], &[2]).is_err());
    assert!(binary.update(&[nan], &[1]).is_err());
    assert!(binary.update(&[0.5, 0.5], &[1]).is_err());
    assert_eq!(binary, BinaryRanking::new());

    let mut regression = Regression::new(2).unwrap();
    let bad: [(&[f32], &[f32]); 4] =
        [(&[1.0, 2.0], &[1.0]), (&[1.0], &[1.0]), (&[1.0, nan], &[1.0, 2.0]), (&[1.0, 2.0], &[1.0, f32::INFINITY])];
    for (predicted, targets) in bad {
        assert_eq!(regression.update(predicted, targets).unwrap_err().kind(), ErrorKind::Input);
    }
    assert_eq!(regression, Regression::new(2).unwrap());
}

#[test]
fn senseless_sizes_are_refused() {
    assert!(Accuracy::new(0).is_err() && Confusion::new(0).is_err() && OneVsRest::new(0).is_err());
    assert!(LogLoss::new(0).is_err() && Regression::new(0).is_err() && TopK::new(0, 3).is_err());
    assert!(Confusion::new(5000).unwrap_err().to_string().contains("at most 4096"));
}

#[test]
fn an_empty_set_has_no_value() {
    assert_eq!(Accuracy::new(3).unwrap().value(), None);
    assert_eq!(TopK::new(1, 3).unwrap().value(), None);
    assert_eq!(LogLoss::new(3).unwrap().value(), None);
    assert_eq!(BinaryRanking::new().roc_auc(), None);
    assert_eq!(Regression::new(1).unwrap().rmse(), None);
    let confusion = Confusion::new(3).unwrap();
    assert_eq!(confusion.accuracy(), None);
    assert_eq!(confusion.average(Average::Weighted).f1, 0.0);
    assert!(confusion.to_string().contains("(no rows)"));
}

#[test]
fn the_table_is_aligned_and_named() {
    let mut confusion = Confusion::new(2).unwrap();
    confusion.update_classes(&[0, 1, 1, 1], &[0, 0, 1, 1]).unwrap();
    let names = ["cat".to_string(), "dog".to_string()];
    let want = "\
class             precision  recall      f1  support
cat                  1.0000  0.5000  0.6667        2
dog                  0.6667  1.0000  0.8000        2
macro average        0.8333  0.7500  0.7333        4
micro average        0.7500  0.7500  0.7500        4
weighted average     0.8333  0.7500  0.7333        4
accuracy 0.7500 of 4 rows

true \\ predicted  cat  dog
cat                 1    1
dog                 0    2";
    assert_eq!(confusion.table(&names).to_string(), want);
}
