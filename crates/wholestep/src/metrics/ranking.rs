//! Metrics of order: area under the ROC curve and average precision. Takes scores and labels, gives areas with ties
//! counted as scikit-learn counts them. Never bins or samples: it keeps each score until the end.

use super::table::{Column, write_table};
use super::{check_binary, check_n_classes, check_rows};
use crate::Result;
use std::fmt;

/// ROC-AUC and average precision of two classes.
///
/// Matches scikit-learn `roc_auc_score` and `average_precision_score`. Only the order of the scores matters, so logits
/// and probabilities do equally well. Keeps 8 bytes for each row.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct BinaryRanking {
    /// (score, label is 1)
    pairs: Vec<(f32, bool)>,
}

impl BinaryRanking {
    /// No rows yet.
    pub fn new() -> BinaryRanking {
        BinaryRanking::default()
    }

    /// Adds a batch: `scores [B]` of class 1 (probability, logit or logit difference), `labels [B]` 0 or 1.
    ///
    /// Errors (nothing is added): lengths that differ, a label above 1, a NaN score.
    pub fn update(&mut self, scores: &[f32], labels: &[u32]) -> Result<()> {
        check_binary("ranking", scores, labels)?;
        self.pairs.extend(scores.iter().zip(labels).map(|(score, label)| (*score, *label == 1)));
        Ok(())
    }

    /// Rows seen so far.
    pub fn rows(&self) -> u64 {
        self.pairs.len() as u64
    }

    /// Area under the ROC curve in `0..=1`: the chance that a row of class 1 scores above a row of class 0, ties half.
    /// `None` unless both classes occurred.
    pub fn roc_auc(&self) -> Option<f64> {
        roc_auc(&tied_groups(&self.pairs))
    }

    /// Average precision (the step-wise area under the precision-recall curve) in `0..=1`; `None` unless class 1 occurred.
    pub fn average_precision(&self) -> Option<f64> {
        average_precision(&tied_groups(&self.pairs))
    }
}

impl fmt::Display for BinaryRanking {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (auc, precision) = (text_of(self.roc_auc()), text_of(self.average_precision()));
        write!(f, "ROC-AUC {auc}, average precision {precision} ({} rows)", self.rows())
    }
}

/// ROC-AUC and average precision of each class against the rest.
///
/// Matches scikit-learn `roc_auc_score(multi_class="ovr", average="macro")` and `average_precision_score` of the
/// one-hot labels. Keeps `4 · (C + 1)` bytes for each row.
#[derive(Clone, Debug, PartialEq)]
pub struct OneVsRest {
    n_classes: usize,
    scores: Vec<f32>,
    labels: Vec<u32>,
}

impl OneVsRest {
    /// Ranking over `n_classes` classes. Errors: no class.
    pub fn new(n_classes: usize) -> Result<OneVsRest> {
        check_n_classes("ranking", n_classes)?;
        Ok(OneVsRest { n_classes, scores: Vec::new(), labels: Vec::new() })
    }

    /// Adds a batch: `scores [B, C]`, `labels [B]`. Pass probabilities: logits of different rows are not comparable.
    ///
    /// Errors (nothing is added): lengths that do not fit, a label outside `0..C`, a NaN score.
    pub fn update(&mut self, scores: &[f32], labels: &[u32]) -> Result<()> {
        check_rows("ranking", scores, self.n_classes, labels)?;
        self.scores.extend_from_slice(scores);
        self.labels.extend_from_slice(labels);
        Ok(())
    }

    /// Rows seen so far.
    pub fn rows(&self) -> u64 {
        self.labels.len() as u64
    }

    /// ROC-AUC of each class against the rest; `None` for a class that no row or every row has.
    pub fn roc_auc_per_class(&self) -> Vec<Option<f64>> {
        (0..self.n_classes).map(|class| roc_auc(&self.groups_of(class))).collect()
    }

    /// Average precision of each class against the rest; `None` for a class that no row has.
    pub fn average_precision_per_class(&self) -> Vec<Option<f64>> {
        (0..self.n_classes).map(|class| average_precision(&self.groups_of(class))).collect()
    }

    /// Mean of the classes' ROC-AUC; `None` when one of them has none.
    pub fn roc_auc_macro(&self) -> Option<f64> {
        mean(&self.roc_auc_per_class())
    }

    /// Mean of the classes' average precision; `None` when one of them has none.
    pub fn average_precision_macro(&self) -> Option<f64> {
        mean(&self.average_precision_per_class())
    }

    fn groups_of(&self, class: usize) -> Vec<Tied> {
        let rows = self.scores.chunks_exact(self.n_classes).zip(&self.labels);
        let pairs: Vec<(f32, bool)> = rows.map(|(row, label)| (row[class], *label as usize == class)).collect();
        tied_groups(&pairs)
    }
}

impl fmt::Display for OneVsRest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut columns = [Column::left("class"), Column::right("ROC-AUC"), Column::right("average precision")];
        columns[0].cells.extend((0..self.n_classes).map(|class| class.to_string()));
        columns[1].cells.extend(self.roc_auc_per_class().into_iter().map(text_of));
        columns[2].cells.extend(self.average_precision_per_class().into_iter().map(text_of));
        columns[0].cells.push("macro average".to_string());
        columns[1].cells.push(text_of(self.roc_auc_macro()));
        columns[2].cells.push(text_of(self.average_precision_macro()));
        write_table(f, &columns)
    }
}

fn text_of(value: Option<f64>) -> String {
    value.map_or_else(|| "-".to_string(), |value| format!("{value:.4}"))
}

fn mean(values: &[Option<f64>]) -> Option<f64> {
    let values: Option<Vec<f64>> = values.iter().copied().collect();
    values.map(|values| values.iter().sum::<f64>() / values.len() as f64)
}

/// How many rows of each class share one score.
struct Tied {
    positives: u64,
    negatives: u64,
}

/// Groups of equal score, highest score first. -0 and +0 are equal, as they compare.
fn tied_groups(pairs: &[(f32, bool)]) -> Vec<Tied> {
    let mut sorted = pairs.to_vec();
    // No NaN gets in, so `total_cmp` is the usual order but for the two zeros, which stay neighbours.
    sorted.sort_unstable_by(|a, b| b.0.total_cmp(&a.0));
    let mut groups = Vec::new();
    for tied in sorted.chunk_by(|a, b| a.0 == b.0) {
        let positives = tied.iter().filter(|(_, positive)| *positive).count() as u64;
        groups.push(Tied { positives, negatives: tied.len() as u64 - positives });
    }
    groups
}

fn roc_auc(groups: &[Tied]) -> Option<f64> {
    let positives: u64 = groups.iter().map(|g| g.positives).sum();
    let negatives: u64 = groups.iter().map(|g| g.negatives).sum();
    if positives == 0 || negatives == 0 {
        return None;
    }
    // Twice the number of ordered pairs, so that a tie's half stays an integer: no rounding before the division.
    let mut ordered_x2: u128 = 0;
    let mut positives_above: u128 = 0;
    for group in groups {
        ordered_x2 += u128::from(group.negatives) * (2 * positives_above + u128::from(group.positives));
        positives_above += u128::from(group.positives);
    }
    Some(ordered_x2 as f64 / (2 * u128::from(positives) * u128::from(negatives)) as f64)
}

fn average_precision(groups: &[Tied]) -> Option<f64> {
    let positives: u64 = groups.iter().map(|g| g.positives).sum();
    if positives == 0 {
        return None;
    }
    let (mut hits, mut rows, mut area) = (0u64, 0u64, 0.0);
    for group in groups {
        hits += group.positives;
        rows += group.positives + group.negatives;
        area += group.positives as f64 * (hits as f64 / rows as f64);
    }
    Some(area / positives as f64)
}
