//! Rows of which a mask of positions hides a part, as causal attention's does. Takes a loop that reduces, gives what each value is where the mask hides it, if
//! that is one value for the whole row; a unit that is hidden altogether then reads and computes nothing, and joins and stores those values. Never
//! changes a bit: they are the same instructions on the same operands, made once a row.

use super::divisor::divided;
use super::{LANES, RowShader, Unit};
use crate::codegen::point::{self, Site};
use crate::codegen::source::{define, register};
use crate::codegen::spread::{Analysis, stores_points};
use crate::kernel::{Instr, Loop, Value};

/// What a mask does to a loop.
pub struct Masked {
    /// The instruction that is the mask, and which truth of it hides.
    mask: usize,
    hides: bool,
    /// By instruction: whether it is made of positions and known numbers alone.
    is_known: Vec<bool>,
    /// By instruction: whether the mask is made of it, or is it.
    of_mask: Vec<bool>,
    /// By instruction: whether its value is one for all hidden points of a row.
    is_still: Vec<bool>,
}

/// The mask of a loop whose reductions and stores are still where it hides; `None` if there is none, or nothing to spare.
pub fn masked(k: &Loop, analysis: &Analysis) -> Option<Masked> {
    let is_point = &analysis.is_point;
    let reads = k.instrs.iter().zip(is_point).any(|(i, is_point)| *is_point && matches!(i, Instr::Load { .. }));
    let is_known = known(k);
    let conditions = k.instrs.iter().filter_map(|i| match i {
        Instr::Select { cond, .. } if is_point[cond.0 as usize] && is_known[cond.0 as usize] => Some(*cond),
        _ => None,
    });
    let wanted = |i: &Instr| if let Instr::Reduce { x, .. } = i { Some(*x) } else { None };
    let stored = k.stores.iter().filter(|s| stores_points(k, is_point, s.value, &s.map)).map(|s| s.value);
    let wanted: Vec<Value> = k.instrs.iter().filter_map(wanted).chain(stored).collect();
    let ways = conditions.flat_map(|mask| [true, false].map(|hides| (mask, hides)));
    let (mask, hides, is_still) = ways
        .map(|(mask, hides)| (mask, hides, still(k, is_point, mask, hides)))
        .find(|(_, _, still)| reads && wanted.iter().all(|v| still[v.0 as usize]))?;
    let mask = mask.0 as usize;
    let mut of_mask = vec![false; k.instrs.len()];
    of_mask[mask] = true;
    for i in (0..=mask).rev().filter(|&i| is_point[i]) {
        if of_mask[i] {
            k.instrs[i].operands().iter().for_each(|v| of_mask[v.0 as usize] = true);
        }
    }
    Some(Masked { mask, hides, is_known, of_mask, is_still })
}

/// By instruction: whether it is made of positions and known numbers alone.
fn known(k: &Loop) -> Vec<bool> {
    let mut known: Vec<bool> = Vec::with_capacity(k.instrs.len());
    for instr in &k.instrs {
        known.push(match instr {
            Instr::Index { .. } | Instr::Const { .. } | Instr::Extent { .. } => true,
            Instr::Load { .. } | Instr::Gather { .. } | Instr::Random { .. } | Instr::Reduce { .. } => false,
            Instr::Unary { .. } | Instr::Binary { .. } | Instr::Select { .. } | Instr::Cast { .. } => {
                instr.operands().iter().all(|v| known[v.0 as usize])
            }
        });
    }
    known
}

/// By instruction: whether its value is one for all points of a row where `mask` is `hides`.
fn still(k: &Loop, is_point: &[bool], mask: Value, hides: bool) -> Vec<bool> {
    let mut still: Vec<bool> = Vec::with_capacity(k.instrs.len());
    for (instr, is_point) in k.instrs.iter().zip(is_point) {
        let is_still = |v: &Value| still[v.0 as usize];
        let here = match instr {
            Instr::Select { cond, yes, no } if alike(k, *cond, mask) => is_still(if hides { yes } else { no }),
            Instr::Unary { .. } | Instr::Binary { .. } | Instr::Select { .. } | Instr::Cast { .. } => {
                instr.operands().iter().all(is_still)
            }
            Instr::Load { .. }
            | Instr::Gather { .. }
            | Instr::Index { .. }
            | Instr::Random { .. }
            | Instr::Const { .. }
            | Instr::Extent { .. }
            | Instr::Reduce { .. } => false,
        };
        still.push(!is_point || here);
    }
    still
}

/// Whether two values are the same program, as each reader of a mask has one of its own.
fn alike(k: &Loop, a: Value, b: Value) -> bool {
    let [x, y] = [a, b].map(|v| &k.instrs[v.0 as usize]);
    let operands = x.operands();
    let mut y_of_x = y.clone();
    y_of_x.operands_mut().into_iter().zip(&operands).for_each(|(to, from)| *to = *from);
    a == b || (y_of_x == *x && operands.iter().zip(y.operands()).all(|(p, q)| alike(k, *p, q)))
}

impl RowShader<'_> {
    /// Defines what hidden points of a pass have.
    pub(super) fn define_hidden(&mut self, m: &Masked, pass: u32) {
        let k = self.k;
        let of = |i: usize| if self.analysis.is_point[i] { "h".to_string() } else { String::new() };
        let suffixes: Vec<String> = (0..k.instrs.len()).map(of).collect();
        let site = Site { index: &[], linear: None, axes: &k.axes, suffixes: Some(&suffixes) };
        for i in self.analysis.points_of(k, pass) {
            if !m.is_still[i] || std::mem::replace(&mut self.has_hidden[i], true) {
                continue;
            }
            let mask = Value(m.mask as u32);
            self.body += &match &k.instrs[i] {
                Instr::Select { cond, yes, no } if alike(k, *cond, mask) => {
                    let kind = register(k.dtype(*yes));
                    self.s.value(&point::name(i, "h"), kind, &site.value(if m.hides { *yes } else { *no }))
                }
                _ => match self.divisor(i) {
                    Some((x, by)) => self.s.value(&point::name(i, "h"), "f32", &divided(&site.value(x), by)),
                    None => point::instruction(&mut self.s, k, i, &site, None),
                },
            };
        }
    }

    /// The points of a pass where units may be hidden: what the mask is made of, then what is read, then what is computed, so that the reads of all units are
    /// under way together.
    pub(super) fn points_beside_mask(&mut self, m: &Masked, points: &[usize], units: &[Unit], inner: &[Vec<String>]) {
        let k = self.k;
        let held = self.rows.held.is_some();
        let is_new = |i: &usize| !self.made[*i];
        let is_open = |i: &usize| m.of_mask[*i] || (m.is_known[*i] && points.contains(i));
        let open: Vec<usize> =
            (0..k.instrs.len()).filter(|i| self.analysis.is_point[*i] && is_open(i) && is_new(i)).collect();
        let rest: Vec<usize> = points.iter().copied().filter(|i| !is_open(i) && is_new(i)).collect();
        let defines = !self.made[m.mask];
        for &i in &open {
            units.iter().zip(inner).for_each(|(unit, inner)| self.instruction(i, inner, &unit.suffix));
            self.made[i] = held;
        }
        for unit in units.iter().filter(|_| defines) {
            let suffixes = self.suffixes(&unit.suffix);
            let mut lanes: Vec<String> = suffixes.iter().map(|s| point::name(m.mask, &s[m.mask])).collect();
            lanes.dedup();
            let no = if m.hides { "" } else { "!" };
            let all: Vec<String> = lanes.iter().map(|lane| format!("{no}{lane}")).collect();
            self.body += &define(&format!("hidden{}", unit.suffix), &all.join(" && "));
        }
        let (read, made): (Vec<usize>, Vec<usize>) =
            rest.iter().partition(|i| matches!(k.instrs[**i], Instr::Load { .. }));
        self.unless_hidden(m, &read, units, inner);
        self.unless_hidden(m, &made, units, inner);
        rest.iter().for_each(|&i| self.made[i] = held);
    }

    /// Makes some points of each unit unless it is hidden. What others use of them are variables, which begin with what hidden points have.
    fn unless_hidden(&mut self, m: &Masked, some: &[usize], units: &[Unit], inner: &[Vec<String>]) {
        let k = self.k;
        let others = (0..k.instrs.len()).filter(|j| !some.contains(j));
        let mut used: Vec<Value> = others.flat_map(|j| k.instrs[j].operands()).collect();
        used.extend(k.stores.iter().map(|s| s.value));
        let kept: Vec<usize> = some.iter().copied().filter(|&i| used.contains(&Value(i as u32))).collect();
        for (unit, inner) in units.iter().zip(inner).filter(|_| !some.is_empty()) {
            kept.iter().for_each(|&i| self.is_kept[i] = false);
            for &i in &kept {
                let kind = register(k.dtype(Value(i as u32)));
                let first = if m.is_still[i] { point::name(i, "h") } else { format!("{kind}(0)") };
                for name in self.names(i, unit) {
                    self.body += &self.s.variable(&format!("{name}m"), kind, &first);
                }
            }
            self.body += &format!("if (!hidden{}) {{\n", unit.suffix);
            for &i in some {
                self.instruction(i, inner, &unit.suffix);
                if kept.contains(&i) {
                    for name in self.names(i, unit) {
                        self.body += &format!("{name}m = {name};\n");
                    }
                    self.is_kept[i] = true;
                }
            }
            self.body += "}\n";
        }
    }

    /// The names that an instruction's value has in the lanes of a unit.
    fn names(&self, i: usize, unit: &Unit) -> Vec<String> {
        let suffixes = self.suffixes(&unit.suffix);
        let mut names: Vec<String> = suffixes.iter().map(|s| point::name(i, &s[i])).collect();
        debug_assert!(names.len() <= LANES.len(), "bug: a unit has four lanes at most");
        names.dedup();
        names
    }
}
