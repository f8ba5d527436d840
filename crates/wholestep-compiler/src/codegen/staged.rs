//! Operands of matrix units in the memory of a workgroup. Takes which way an operand lies, gives the shape of its part there. Never says how it comes
//! there.

use super::tile::Along;

/// One operand's part of a step, lines as in memory.
pub struct Staged {
    /// 'a' or 'b'.
    pub name: char,
    pub along: Along,
    pub lines: u32,
    pub width: u32,
    /// Elements from one line to the next.
    pub pitch: u32,
    pub elements: u32,
}

/// Elements of 16 bits between lines, so that the lines that a subgroup loads at once are in different banks.
const PAD: u32 = 8;

impl Staged {
    /// `extent` rows of `depth`.
    pub fn new(name: char, along: Along, extent: u32, depth: u32) -> Staged {
        let (lines, width) = match along {
            Along::Rows => (depth, extent),
            Along::Depth => (extent, depth),
        };
        let pitch = width + PAD;
        Staged { name, along, lines, width, pitch, elements: lines * pitch }
    }

    /// The elements at most, whichever way an operand lies.
    pub fn most(extent: u32, depth: u32) -> u32 {
        let of = |along| Staged::new('a', along, extent, depth).elements;
        of(Along::Rows).max(of(Along::Depth))
    }

    /// How many times each of `threads` moves `per` elements.
    pub fn moves(&self, per: u32, threads: u32) -> u32 {
        (self.lines * self.width / per).div_ceil(threads)
    }
}
