//! Divisions by what a row shares, as softmax has them. Takes a loop that reduces, gives text that has the reciprocal once a row and three multiplications a point, where the
//! language has a dear division. Never for divisors that differ from point to point.

use super::RowShader;
use crate::caps::Language;
use crate::codegen::Source;
use crate::codegen::point::Site;
use crate::ir::DType;
use crate::ir::op::Binary;
use crate::kernel::{Instr, Value};

impl RowShader<'_> {
    /// What instruction `i` divides, and by which value of the row, where that pays.
    pub(super) fn divisor(&self, i: usize) -> Option<(Value, Value)> {
        let Instr::Binary { op: Binary::Div, x, y } = self.k.instrs[i] else { return None };
        let is_point = |v: Value| self.analysis.is_point[v.0 as usize];
        let is_shared = is_point(x) && !is_point(y) && !self.rows.across && self.k.dtype(x) == DType::F32;
        (is_shared && self.s.language() == Language::Cuda).then_some((x, y))
    }

    /// Defines what the points of a pass are divided by, once a row.
    pub(super) fn define_divisors(&mut self, pass: u32) {
        let points = self.analysis.points_of(self.k, pass);
        let all: Vec<Value> = points.into_iter().filter_map(|i| Some(self.divisor(i)?.1)).collect();
        for by in all {
            let text = format!("const Divisor by{}(v{});\n", by.0, by.0);
            if !self.body.contains(&text) {
                self.body += &text;
            }
        }
    }

    /// Instruction `i` at a unit, a division.
    pub(super) fn divide(&mut self, i: usize, (x, by): (Value, Value), inner: &[String], unit: &str) {
        let is_one = self.quads.is_some_and(|q| q.uniform[i]);
        let one = |s: &Source, site: &Site| s.value(&site.value(Value(i as u32)), "f32", &divided(&site.value(x), by));
        let text = self.at(inner, unit, |s, sites| {
            sites.iter().take(if is_one { 1 } else { sites.len() }).map(|site| one(s, site)).collect::<String>()
        });
        self.body += &text;
    }
}

/// The text of a quotient.
pub(super) fn divided(x: &str, by: Value) -> String {
    format!("divided({x}, by{})", by.0)
}
