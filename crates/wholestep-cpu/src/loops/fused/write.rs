//! Machine code of a chain. Takes its lines, gives a function over rows of lanes. Never touches memory but through the pointers it is
//! given: each of `n` lanes of each row is read and written at most once for each pointer, whatever `n` is.

use super::MAX_POINTERS;
use super::asm::{self, Asm, If, Op, Rm, Under, Width};
use super::chain::{Arg, Do, Line};

/// Registers that hold pointers; further ones stay in the table.
const POINTER_REGISTERS: [u8; 8] = [8, 9, 3, 5, 12, 13, 14, 15];
/// Of these the caller expects to find as they were.
const KEPT: [u8; 6] = [3, 5, 12, 13, 14, 15];
/// Values that are the same for all lanes, kept in registers.
const MAX_HELD: usize = 18;
/// Lanes of the last, incomplete vector.
const TAIL: u8 = 7;

/// Where a value is.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Home {
    Vector(u8),
    Mask(u8),
}

/// Registers that are free, one bit each.
#[derive(Clone, Copy)]
struct Free {
    vectors: u32,
    masks: u8,
}

impl Free {
    fn vector(&mut self) -> Option<u8> {
        let at = self.vectors.trailing_zeros();
        (at < 32).then(|| {
            self.vectors &= !(1 << at);
            at as u8
        })
    }

    fn mask(&mut self) -> Option<u8> {
        let at = self.masks.trailing_zeros();
        (at < 8).then(|| {
            self.masks &= !(1 << at);
            at as u8
        })
    }

    fn give(&mut self, home: Home) {
        match home {
            Home::Vector(r) => self.vectors |= 1 << r,
            Home::Mask(k) => self.masks |= 1 << k,
        }
    }
}

struct Writer<'a> {
    asm: Asm,
    lines: &'a [Line],
    /// Uniform values in registers from 31 downwards.
    held: Vec<Arg>,
    free: Free,
    /// Where values and what pointers give are now, with the last line that uses them.
    values: Vec<(Option<Home>, usize)>,
    pointers: Vec<(Option<Home>, usize)>,
}

/// A function of the chain: `f(table, n, strides, rows)`, System V calling convention, works on `n` lanes at each pointer of `table`, then
/// adds `strides` bytes to the pointers for the next row. `None` where the chain needs more registers than there are.
pub fn write(lines: &[Line]) -> Option<Vec<u8>> {
    let mut w = Writer {
        asm: Asm::default(),
        lines,
        held: Vec::new(),
        free: Free { vectors: 0, masks: 0b0111_1110 },
        values: Vec::new(),
        pointers: vec![(None, 0); MAX_POINTERS],
    };
    w.find_uses();
    w.free.vectors = u32::MAX >> w.held.len();
    w.function()?;
    Some(w.asm.bytes)
}

impl Writer<'_> {
    /// Notes the last use of everything and which uniform values get a register.
    fn find_uses(&mut self) {
        for (at, line) in self.lines.iter().enumerate() {
            let args: &[Arg] = match line {
                Line::Do { args, n_args, .. } => &args[..*n_args as usize],
                Line::Store { from, .. } => std::slice::from_ref(from),
            };
            for arg in args {
                match *arg {
                    Arg::Value(v) => self.values[v as usize].1 = at,
                    Arg::Lanes(p) | Arg::Bools(p) => self.pointers[p as usize].1 = at,
                    Arg::Uniform(_) | Arg::Bits(_) => {
                        if !self.held.contains(arg) && self.held.len() < MAX_HELD {
                            self.held.push(*arg);
                        }
                    }
                }
            }
            match line {
                Line::Do { .. } => self.values.push((None, at)),
                // Bools are stored as ones under a mask.
                Line::Store { .. } => {}
            }
        }
    }

    /// The pointers that lanes are read or written at, in the order of the table.
    fn n_pointers(&self) -> usize {
        let of = |arg: &Arg| match *arg {
            Arg::Lanes(p) | Arg::Bools(p) => p as usize + 1,
            Arg::Value(_) | Arg::Uniform(_) | Arg::Bits(_) => 0,
        };
        let of_line = |line: &Line| match line {
            Line::Do { args, n_args, .. } => args[..*n_args as usize].iter().map(of).max().unwrap_or(0),
            Line::Store { to, from } => of(from).max(*to as usize + 1),
        };
        self.lines.iter().map(of_line).max().unwrap_or(0)
    }

    fn function(&mut self) -> Option<()> {
        let n_pointers = self.n_pointers();
        let in_registers = n_pointers.min(POINTER_REGISTERS.len());
        let kept: Vec<u8> = KEPT.iter().copied().filter(|r| POINTER_REGISTERS[..in_registers].contains(r)).collect();
        kept.iter().for_each(|&r| self.asm.push(r));
        for (i, &r) in POINTER_REGISTERS[..in_registers].iter().enumerate() {
            self.asm.at_table(0x8b, r, asm::RDI, i);
        }
        for i in 0..self.held.len() {
            self.load_uniform(self.held[i], 31 - i as u8);
        }
        self.asm.put(&[0x48, 0x83, 0xee, 16]); // sub rsi, 16
        self.asm.put(&[0x49, 0x89, 0xca]); // mov r10, rcx
        let row = self.asm.bytes.len();
        self.asm.put(&[0x31, 0xc0]); // xor eax, eax
        self.asm.put(&[0x48, 0x39, 0xf0]); // cmp rax, rsi
        let to_tail = self.asm.jump(If::Greater);
        self.asm.put(&[0x49, 0x83, 0xfa, 1]); // cmp r10, 1
        let to_last = self.asm.jump(If::Zero);
        self.vectors(true)?;
        let done = self.asm.jump(If::Always);
        self.asm.land(to_last);
        self.vectors(false)?;
        self.asm.land(done);
        self.asm.land(to_tail);
        self.asm.put(&[0x89, 0xf1, 0x83, 0xc1, 16, 0x29, 0xc1]); // mov ecx, esi; add ecx, 16; sub ecx, eax
        let no_tail = self.asm.jump(If::AtMost);
        self.asm.r11_is(1);
        self.asm.put(&[0x41, 0xd3, 0xe3, 0x41, 0x83, 0xeb, 1]); // shl r11d, cl; sub r11d, 1
        self.asm.put(&[0xc4, 0xc1, 0x78, 0x92, 0xfb]); // kmovw k7, r11d
        self.body(true)?;
        self.asm.land(no_tail);
        self.asm.put(&[0x49, 0x83, 0xea, 1]); // sub r10, 1
        let end = self.asm.jump(If::Zero);
        for i in 0..n_pointers {
            match POINTER_REGISTERS.get(i) {
                Some(&r) => self.asm.at_table(0x03, r, asm::RDX, i),
                None => {
                    self.asm.at_table(0x8b, asm::R11, asm::RDI, i);
                    self.asm.at_table(0x03, asm::R11, asm::RDX, i);
                    self.asm.at_table(0x89, asm::R11, asm::RDI, i);
                }
            }
        }
        self.asm.jump_back(If::Always, row);
        self.asm.land(end);
        kept.iter().rev().for_each(|&r| self.asm.pop(r));
        self.asm.put(&[0xc5, 0xf8, 0x77, 0xc3]); // vzeroupper; ret
        Some(())
    }

    /// The whole vectors of a row, of which there is at least one; asks for the next row's memory where there is one.
    fn vectors(&mut self, has_next_row: bool) -> Option<()> {
        let next = self.asm.bytes.len();
        if has_next_row {
            self.ask_for_next_row();
        }
        self.body(false)?;
        self.asm.put(&[0x48, 0x83, 0xc0, 16]); // add rax, 16
        self.asm.put(&[0x48, 0x39, 0xf0]); // cmp rax, rsi
        self.asm.jump_back(If::AtMost, next);
        Some(())
    }

    /// Rows are short and far apart: what the processor fetches ahead by itself is the rest of a row.
    fn ask_for_next_row(&mut self) {
        let mut asked = [false; POINTER_REGISTERS.len()];
        for line in self.lines {
            let Line::Do { args, n_args, .. } = line else { continue };
            for arg in &args[..*n_args as usize] {
                let (p, scale) = match *arg {
                    Arg::Lanes(p) => (p as usize, 2),
                    Arg::Bools(p) => (p as usize, 0),
                    Arg::Value(_) | Arg::Uniform(_) | Arg::Bits(_) => continue,
                };
                if p < asked.len() && !asked[p] {
                    asked[p] = true;
                    self.asm.at_table(0x8b, asm::R11, asm::RDX, p);
                    self.asm.add_to_r11(POINTER_REGISTERS[p]);
                    self.asm.put(&[0x41, 0x0f, 0x18, 0x0c, scale << 6 | 3]); // prefetcht0 [r11 + rax·2^scale]
                }
            }
        }
    }

    /// One vector of each line.
    fn body(&mut self, is_tail: bool) -> Option<()> {
        let free = self.free;
        self.values.iter_mut().chain(&mut self.pointers).for_each(|v| v.0 = None);
        let mut n_values = 0;
        for at in 0..self.lines.len() {
            match self.lines[at] {
                Line::Do { what, args, n_args } => {
                    let home = self.compute(at, what, &args[..n_args as usize], is_tail)?;
                    self.values[n_values].0 = Some(home);
                    if self.values[n_values].1 <= at {
                        self.free.give(home);
                    }
                    n_values += 1;
                }
                Line::Store { to, from } => self.store(at, to, from, is_tail)?,
            }
        }
        self.free = free;
        Some(())
    }

    /// The address of lanes of `1 << scale` bytes at a pointer; may use r11.
    fn address(&mut self, pointer: u8, scale: u8) -> Rm {
        let base = POINTER_REGISTERS.get(pointer as usize).copied().unwrap_or_else(|| {
            self.asm.at_table(0x8b, asm::R11, asm::RDI, pointer as usize);
            asm::R11
        });
        Rm::Indexed { base, scale }
    }

    fn load_uniform(&mut self, arg: Arg, to: u8) {
        match arg {
            Arg::Uniform(p) => {
                self.asm.at_table(0x8b, asm::R11, asm::RDI, p as usize);
                self.asm.evex(asm::VBROADCASTSS, Width::Zmm, to, 0, Rm::AtR11, Under::All);
            }
            Arg::Bits(0) => self.asm.evex(asm::VPXORD, Width::Zmm, to, to, Rm::Reg(to), Under::All),
            Arg::Bits(bits) => {
                self.asm.r11_is(bits);
                self.asm.evex(asm::VPBROADCASTD_R32, Width::Zmm, to, 0, Rm::Reg(asm::R11), Under::All);
            }
            Arg::Value(_) | Arg::Lanes(_) | Arg::Bools(_) => {}
        }
    }

    /// The register of an operand, and whether it is free after line `at`.
    fn operand(&mut self, at: usize, arg: Arg, is_tail: bool) -> Option<(Home, bool)> {
        let under = if is_tail { Under::Zeroing(TAIL) } else { Under::All };
        match arg {
            Arg::Value(v) => self.values[v as usize].0.map(|home| (home, self.values[v as usize].1 <= at)),
            Arg::Lanes(p) | Arg::Bools(p) => {
                let (home, last) = self.pointers[p as usize];
                if let Some(home) = home {
                    return Some((home, last <= at));
                }
                let to = self.free.vector()?;
                let home = if matches!(arg, Arg::Lanes(_)) {
                    let from = self.address(p, 2);
                    self.asm.evex(asm::VMOVUPS_LOAD, Width::Zmm, to, 0, from, under);
                    Home::Vector(to)
                } else {
                    let from = self.address(p, 0);
                    let mask = self.free.mask()?;
                    self.asm.evex(asm::VMOVDQU8_LOAD, Width::Xmm, to, 0, from, under);
                    self.asm.evex(asm::VPTESTMB, Width::Xmm, mask, to, Rm::Reg(to), Under::All);
                    self.free.give(Home::Vector(to));
                    Home::Mask(mask)
                };
                self.pointers[p as usize].0 = Some(home);
                Some((home, last <= at))
            }
            Arg::Uniform(_) | Arg::Bits(_) => {
                if let Some(i) = self.held.iter().position(|held| *held == arg) {
                    return Some((Home::Vector(31 - i as u8), false));
                }
                let to = self.free.vector()?;
                self.load_uniform(arg, to);
                Some((Home::Vector(to), true))
            }
        }
    }

    fn store(&mut self, at: usize, to: u8, from: Arg, is_tail: bool) -> Option<()> {
        let under = if is_tail { Under::Merging(TAIL) } else { Under::All };
        let (home, dies) = self.operand(at, from, is_tail)?;
        match home {
            Home::Vector(r) => {
                let to = self.address(to, 2);
                self.asm.evex(asm::VMOVUPS_STORE, Width::Zmm, r, 0, to, under);
            }
            Home::Mask(k) => {
                let ones = self.free.vector()?;
                self.load_uniform(Arg::Bits(0x0101_0101), ones);
                self.asm.evex(asm::VMOVDQU8_LOAD, Width::Xmm, ones, 0, Rm::Reg(ones), Under::Zeroing(k));
                let to = self.address(to, 0);
                self.asm.evex(asm::VMOVDQU8_STORE, Width::Xmm, ones, 0, to, under);
                self.free.give(Home::Vector(ones));
            }
        }
        if dies {
            self.free.give(home);
        }
        Some(())
    }

    fn compute(&mut self, at: usize, what: Do, args: &[Arg], is_tail: bool) -> Option<Home> {
        let mut homes = [(Home::Mask(0), false); 3];
        for (i, (home, arg)) in homes.iter_mut().zip(args).enumerate() {
            *home = self.operand(at, *arg, is_tail)?;
            // The same operand twice is given back once.
            if args[..i].contains(arg) {
                home.1 = false;
            }
        }
        let number = |i: usize| match homes[i].0 {
            Home::Vector(r) | Home::Mask(r) => r,
        };
        let [a, b, c] = [number(0), number(1), number(2)];
        // Results of several instructions must not lie where an operand is still needed.
        let apart = matches!(what, Do::Max | Do::Min | Do::MulAdd | Do::MulSub | Do::NegMulAdd);
        if apart && what != Do::Max && what != Do::Min && homes[2].1 {
            // The sum is added up where the third operand is.
            homes[..2].iter().filter(|h| h.1).for_each(|h| self.free.give(h.0));
            self.asm.evex(fused_op(what), Width::Zmm, c, a, Rm::Reg(b), Under::All);
            return Some(Home::Vector(c));
        }
        let give = |free: &mut Free| homes[..args.len()].iter().filter(|h| h.1).for_each(|h| free.give(h.0));
        if !apart {
            give(&mut self.free);
        }
        let home = if what.gives_mask() { Home::Mask(self.free.mask()?) } else { Home::Vector(self.free.vector()?) };
        let (Home::Vector(dst) | Home::Mask(dst)) = home;
        self.instruction(what, dst, [a, b, c])?;
        if apart {
            give(&mut self.free);
        }
        Some(home)
    }

    fn instruction(&mut self, what: Do, dst: u8, [a, b, c]: [u8; 3]) -> Option<()> {
        let asm = &mut self.asm;
        let mut two = |op: Op| asm.evex(op, Width::Zmm, dst, a, Rm::Reg(b), Under::All);
        match what {
            Do::Add => two(asm::VADDPS),
            Do::Sub => two(asm::VSUBPS),
            Do::Mul => two(asm::VMULPS),
            Do::Div => two(asm::VDIVPS),
            Do::AddWhole => two(asm::VPADDD),
            Do::SubWhole => two(asm::VPSUBD),
            Do::MulWhole => two(asm::VPMULLD),
            Do::And => two(asm::VPANDD),
            Do::Or => two(asm::VPORD),
            Do::Xor => two(asm::VPXORD),
            Do::Max | Do::Min => {
                // The instruction gives the second operand where one is NaN.
                let is_nan = self.free.mask()?;
                two(if what == Do::Max { asm::VMAXPS } else { asm::VMINPS });
                asm.evex(asm::VCMPPS, Width::Zmm, is_nan, a, Rm::Reg(a), Under::All);
                asm.put(&[3]); // unordered
                asm.evex(asm::VMOVAPS, Width::Zmm, dst, 0, Rm::Reg(a), Under::Merging(is_nan));
                self.free.give(Home::Mask(is_nan));
            }
            Do::MulAdd | Do::MulSub | Do::NegMulAdd => {
                asm.evex(asm::VMOVAPS, Width::Zmm, dst, 0, Rm::Reg(c), Under::All);
                asm.evex(fused_op(what), Width::Zmm, dst, a, Rm::Reg(b), Under::All);
            }
            Do::Compare(predicate) => {
                two(asm::VCMPPS);
                asm.put(&[predicate]);
            }
            Do::CompareSigned(predicate) => {
                two(asm::VPCMPD);
                asm.put(&[predicate]);
            }
            Do::CompareUnsigned(predicate) => {
                two(asm::VPCMPUD);
                asm.put(&[predicate]);
            }
            Do::Select => asm.evex(asm::VBLENDMPS, Width::Zmm, dst, c, Rm::Reg(b), Under::Merging(a)),
            Do::Sqrt | Do::FromSigned | Do::FromUnsigned => {
                let op = match what {
                    Do::Sqrt => asm::VSQRTPS,
                    Do::FromSigned => asm::VCVTDQ2PS,
                    _ => asm::VCVTUDQ2PS,
                };
                asm.evex(op, Width::Zmm, dst, 0, Rm::Reg(a), Under::All);
            }
            Do::Floor | Do::Ceil | Do::Round => {
                asm.evex(asm::VRNDSCALEPS, Width::Zmm, dst, 0, Rm::Reg(a), Under::All);
                // Without an exception for inexact results; to nearest even, down, up.
                asm.put(&[8 | match what {
                    Do::Floor => 1,
                    Do::Ceil => 2,
                    _ => 0,
                }]);
            }
            Do::MaskAnd => asm.masks(0x41, dst, a, b),
            Do::MaskOr => asm.masks(0x45, dst, a, b),
            Do::MaskXor => asm.masks(0x47, dst, a, b),
            Do::MaskNot => asm.mask(0x44, dst, a),
        }
        Some(())
    }
}

fn fused_op(what: Do) -> Op {
    match what {
        Do::MulSub => asm::VFMSUB231PS,
        Do::NegMulAdd => asm::VFNMADD231PS,
        _ => asm::VFMADD231PS,
    }
}
