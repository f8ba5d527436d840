//! Sums of products in index notation. Takes an equation like `bij,bjk->bik` and its operands, gives permutations, sums and matrix products.
//! Never guesses: an equation that does not fit its operands is an error that says where.

use crate::ir::op::Contract;
use crate::ir::{Dim, Shape, Tensor};
use crate::ops::index::diagonal;
use crate::ops::{Traced, refuse, settle};
use std::collections::BTreeMap;

impl Tensor {
    /// The sum of products that `equation` says, with this tensor as the first operand: `x.einsum("bij,bjk->bik", &[&y])`. A letter that is
    /// not in the result is summed over; `...` stands for further axes, which broadcast. Matches PyTorch `einsum`.
    #[track_caller]
    pub fn einsum(&self, equation: &str, others: &[&Tensor]) -> Tensor {
        let operands: Vec<&Tensor> = std::iter::once(self).chain(others.iter().copied()).collect();
        settle(einsum(equation, &operands))
    }
}

/// A tensor whose axes have names, each once.
struct Term {
    labels: Vec<char>,
    x: Tensor,
}

/// The letters of each operand and of the result. Axes behind `...` are the digits that no letter can be, aligned from the right.
struct Equation {
    operands: Vec<Vec<char>>,
    result: Vec<char>,
}

#[track_caller]
fn einsum(equation: &str, operands: &[&Tensor]) -> Traced {
    let ranks: Vec<usize> = operands.iter().map(|x| x.rank()).collect();
    let parsed = match parse(equation, &ranks) {
        Ok(parsed) => parsed,
        Err(message) => {
            let help = "an equation looks like `bij,bjk->bik`, with one letter per axis".to_string();
            return Err(refuse("einsum", operands, format!("`{equation}`: {message}"), Some(help)));
        }
    };
    let extents = match extents(&parsed, operands) {
        Ok(extents) => extents,
        Err(message) => return Err(refuse("einsum", operands, format!("`{equation}`: {message}"), None)),
    };
    let mut terms = Vec::with_capacity(operands.len());
    for (i, x) in operands.iter().enumerate() {
        let elsewhere = |c: char| {
            parsed.result.contains(&c) || parsed.operands.iter().enumerate().any(|(j, o)| j != i && o.contains(&c))
        };
        terms.push(prepared(x, &parsed.operands[i], &extents, &elsewhere));
    }
    let mut product = terms.remove(0);
    for i in 0..terms.len() {
        let later = |c: char| parsed.result.contains(&c) || terms[i + 1..].iter().any(|t| t.labels.contains(&c));
        product = contract(&product, &terms[i], &later)?;
    }
    let place = |c: &char| product.labels.iter().position(|l| l == c);
    let perm: Option<Vec<usize>> = parsed.result.iter().map(place).collect();
    Ok(match perm {
        Some(perm) if perm.len() == product.x.rank() => product.x.permuted(perm),
        Some(_) | None => product.x, // the placeholder of an earlier error
    })
}

fn parse(equation: &str, ranks: &[usize]) -> Result<Equation, String> {
    let compact: String = equation.chars().filter(|c| !c.is_whitespace()).collect();
    let (left, right) = match compact.split_once("->") {
        Some((left, right)) => (left.to_string(), Some(right.to_string())),
        None => (compact, None),
    };
    let parts: Vec<&str> = left.split(',').collect();
    if parts.len() != ranks.len() {
        return Err(format!("need {} operands, got {}", parts.len(), ranks.len()));
    }
    let mut n_rest = 0;
    for (part, &rank) in parts.iter().zip(ranks) {
        let letters = part.replace("...", "").chars().count();
        if letters > rank || (letters < rank && !part.contains("...")) {
            return Err(format!("`{part}` names {letters} axes, its operand has {rank}"));
        }
        n_rest = n_rest.max(rank - letters);
    }
    if n_rest > 10 {
        return Err(format!("`...` stands for {n_rest} axes, more than 10"));
    }
    let rest = |n: usize| (n_rest - n..n_rest).map(|i| (b'0' + i as u8) as char);
    let expand = |part: &str, n: usize| -> Result<Vec<char>, String> {
        let mut labels = Vec::new();
        let (before, after) = part.split_once("...").map_or((part, None), |(a, b)| (a, Some(b)));
        labels.extend(before.chars());
        if let Some(after) = after {
            labels.extend(rest(n));
            labels.extend(after.chars());
        }
        match (before.chars().chain(after.unwrap_or("").chars())).find(|c| !c.is_ascii_alphabetic()) {
            Some(c) => Err(format!("`{c}` is no letter")),
            None => Ok(labels),
        }
    };
    let mut operands = Vec::with_capacity(parts.len());
    for (part, &rank) in parts.iter().zip(ranks) {
        let letters = part.replace("...", "").chars().count();
        operands.push(expand(part, rank - letters)?);
    }
    let result = match right {
        Some(right) => expand(&right, n_rest)?,
        None => implied(&operands, n_rest),
    };
    for (i, c) in result.iter().enumerate() {
        if result[..i].contains(c) {
            return Err(format!("`{c}` is twice in the result"));
        }
        if !operands.iter().any(|o| o.contains(c)) {
            return Err(format!("`{c}` of the result is in no operand"));
        }
    }
    Ok(Equation { operands, result })
}

/// Without `->` the result has the axes of `...`, then the letters that occur once, in alphabetical order.
fn implied(operands: &[Vec<char>], n_rest: usize) -> Vec<char> {
    let mut counts: BTreeMap<char, usize> = BTreeMap::new();
    operands.iter().flatten().for_each(|&c| *counts.entry(c).or_default() += 1);
    let mut result: Vec<char> = (0..n_rest).map(|i| (b'0' + i as u8) as char).collect();
    result.extend(counts.iter().filter(|(c, n)| c.is_ascii_alphabetic() && **n == 1).map(|(c, _)| *c));
    result
}

/// The extent of each label; an extent of 1 broadcasts.
fn extents(equation: &Equation, operands: &[&Tensor]) -> Result<BTreeMap<char, Dim>, String> {
    let mut extents: BTreeMap<char, Dim> = BTreeMap::new();
    for (labels, x) in equation.operands.iter().zip(operands) {
        for (&c, &d) in labels.iter().zip(&x.shape().0) {
            let known = extents.entry(c).or_insert(d);
            if *known == Dim::ONE {
                *known = d;
            } else if d != *known && d != Dim::ONE {
                let axis = if c.is_ascii_digit() { "an axis of `...`".to_string() } else { format!("`{c}`") };
                return Err(format!("{axis} is {known} and {d}"));
            }
        }
    }
    Ok(extents)
}

/// An operand with each label once: diagonals taken, broadcast axes dropped, axes that nobody else names summed.
#[track_caller]
fn prepared(x: &Tensor, labels: &[char], extents: &BTreeMap<char, Dim>, elsewhere: &dyn Fn(char) -> bool) -> Term {
    let (mut x, mut labels) = (x.clone(), labels.to_vec());
    let mut i = 0;
    while i < labels.len() && x.rank() == labels.len() {
        let c = labels[i];
        if x.shape().0[i] == Dim::ONE && extents.get(&c) != Some(&Dim::ONE) {
            x = x.without(&[i]);
            labels.remove(i);
        } else if let Some(j) = (i + 1..labels.len()).find(|&j| labels[j] == c && x.shape().0[j] != Dim::ONE) {
            x = diagonal(&x, i, j);
            labels.remove(j);
        } else if let Some(j) = (i + 1..labels.len()).find(|&j| labels[j] == c) {
            x = x.without(&[j]);
            labels.remove(j);
        } else {
            i += 1;
        }
    }
    let alone: Vec<usize> = (0..labels.len()).filter(|&i| !elsewhere(labels[i])).collect();
    if !alone.is_empty() && x.rank() == labels.len() {
        let axes: Vec<i64> = alone.iter().map(|&i| i as i64).collect();
        x = x.sum(axes);
        labels.retain(|&c| elsewhere(c));
    }
    Term { labels, x }
}

/// The product of two terms, summed over the labels that both have and nobody needs later.
#[track_caller]
fn contract(a: &Term, b: &Term, later: &dyn Fn(char) -> bool) -> Result<Term, Tensor> {
    let in_a = |c: &&char| a.labels.contains(c);
    let shared: Vec<char> = b.labels.iter().filter(in_a).copied().collect();
    let (batch, inner): (Vec<char>, Vec<char>) = shared.iter().partition(|&&c| later(c));
    let rows: Vec<char> = a.labels.iter().filter(|c| !shared.contains(c)).copied().collect();
    let columns: Vec<char> = b.labels.iter().filter(|c| !shared.contains(c)).copied().collect();
    let labels = [batch.as_slice(), &rows, &columns].concat();
    if a.x.rank() != a.labels.len() || b.x.rank() != b.labels.len() {
        return Err(a.x.clone()); // the placeholder of an earlier error
    }
    if inner.is_empty() || (rows.is_empty() && columns.is_empty()) {
        // Nothing to contract, or dot products: elementwise work that fuses with what surrounds it.
        let all = [labels.as_slice(), &inner].concat();
        let x = spread(a, &all) * spread(b, &all);
        let axes: Vec<i64> = (labels.len()..all.len()).map(|i| i as i64).collect();
        let x = if axes.is_empty() { x } else { x.sum(axes) };
        return Ok(Term { labels, x });
    }
    let extents_of = |t: &Term, group: &[char]| -> Vec<Dim> {
        let places = group.iter().filter_map(|c| t.labels.iter().position(|l| l == c));
        places.map(|i| t.x.shape().0[i]).collect()
    };
    let size = |t: &Term, group: &[char]| Shape(extents_of(t, group)).numel();
    let sizes = size(a, &rows).zip(size(b, &columns)).zip(size(a, &inner));
    let Some(((m, n), k)) = sizes else {
        let message = "a product of the batch extent with itself has no extent of the form a·B + b";
        return Err(refuse("einsum", &[&a.x, &b.x], message, Some("ask for a fixed batch size".to_string())));
    };
    let leading = extents_of(a, &batch);
    let lhs = matrix(a, &[&batch, &rows, &inner], &leading, m, k);
    let rhs = matrix(b, &[&batch, &inner, &columns], &leading, k, n);
    let product = lhs.apply(Contract::Matmul, &[&rhs]);
    let dims = [leading, extents_of(a, &rows), extents_of(b, &columns)].concat();
    Ok(Term { labels, x: product.reshaped(&Shape(dims)) })
}

/// The term with `first` as its first axes, the others behind them.
#[track_caller]
fn ordered(t: &Term, first: &[char]) -> Tensor {
    let place = |c: &char| t.labels.iter().position(|l| l == c);
    let mut perm: Vec<usize> = first.iter().filter_map(place).collect();
    perm.extend((0..t.labels.len()).filter(|&i| !first.contains(&t.labels[i])));
    t.x.permuted(perm)
}

/// The term as `leading ++ [m, n]`, its axes ordered by groups.
#[track_caller]
fn matrix(t: &Term, groups: &[&[char]], leading: &[Dim], m: Dim, n: Dim) -> Tensor {
    let order: Vec<char> = groups.iter().flat_map(|g| g.iter().copied()).collect();
    ordered(t, &order).reshaped(&Shape([leading, &[m, n]].concat()))
}

/// The term with one axis per label of `all`, of extent 1 where it has none.
#[track_caller]
fn spread(t: &Term, all: &[char]) -> Tensor {
    let x = ordered(t, all);
    if x.rank() != t.labels.len() {
        return x; // the placeholder of an earlier error
    }
    let mut own = x.shape().0.into_iter();
    let dims = all.iter().map(|c| if t.labels.contains(c) { own.next().unwrap_or(Dim::ONE) } else { Dim::ONE });
    x.reshaped(&Shape(dims.collect()))
}
