//! Bytes of x86-64 instructions. Takes registers and addresses, gives machine code in the encodings of the "Intel 64 and IA-32
//! Architectures Software Developer's Manual", volume 2. Never decides which instruction is needed.

/// General registers by their number in the encoding.
pub const RAX: u8 = 0;
pub const RDX: u8 = 2;
pub const RDI: u8 = 7;
pub const R11: u8 = 11;

/// Which opcode table and prefix an EVEX instruction has.
#[derive(Clone, Copy)]
pub struct Op {
    map: u8,
    prefix: u8,
    code: u8,
}

const fn op(map: u8, prefix: u8, code: u8) -> Op {
    Op { map, prefix, code }
}

// Names as in the manual; `[map, prefix, opcode]`, map 1 is 0F, 2 is 0F38, 3 is 0F3A, prefix 1 is 66, 2 is F3, 3 is F2.
pub const VMOVUPS_LOAD: Op = op(1, 0, 0x10);
pub const VMOVUPS_STORE: Op = op(1, 0, 0x11);
pub const VMOVAPS: Op = op(1, 0, 0x28);
pub const VMOVDQU8_LOAD: Op = op(1, 3, 0x6f);
pub const VMOVDQU8_STORE: Op = op(1, 3, 0x7f);
pub const VSQRTPS: Op = op(1, 0, 0x51);
pub const VADDPS: Op = op(1, 0, 0x58);
pub const VMULPS: Op = op(1, 0, 0x59);
pub const VSUBPS: Op = op(1, 0, 0x5c);
pub const VMINPS: Op = op(1, 0, 0x5d);
pub const VDIVPS: Op = op(1, 0, 0x5e);
pub const VMAXPS: Op = op(1, 0, 0x5f);
pub const VCVTDQ2PS: Op = op(1, 0, 0x5b);
pub const VCVTUDQ2PS: Op = op(1, 3, 0x7a);
pub const VCMPPS: Op = op(1, 0, 0xc2);
pub const VPANDD: Op = op(1, 1, 0xdb);
pub const VPORD: Op = op(1, 1, 0xeb);
pub const VPXORD: Op = op(1, 1, 0xef);
pub const VPADDD: Op = op(1, 1, 0xfe);
pub const VPSUBD: Op = op(1, 1, 0xfa);
pub const VPMULLD: Op = op(2, 1, 0x40);
pub const VPTESTMB: Op = op(2, 1, 0x26);
pub const VBROADCASTSS: Op = op(2, 1, 0x18);
pub const VBLENDMPS: Op = op(2, 1, 0x65);
pub const VPBROADCASTD_R32: Op = op(2, 1, 0x7c);
pub const VFMADD231PS: Op = op(2, 1, 0xb8);
pub const VFMSUB231PS: Op = op(2, 1, 0xba);
pub const VFNMADD231PS: Op = op(2, 1, 0xbc);
pub const VRNDSCALEPS: Op = op(3, 1, 0x08);
pub const VPCMPUD: Op = op(3, 1, 0x1e);
pub const VPCMPD: Op = op(3, 1, 0x1f);

/// The last operand of an EVEX instruction.
#[derive(Clone, Copy)]
pub enum Rm {
    Reg(u8),
    /// `[base + rax·2^scale]`.
    Indexed {
        base: u8,
        scale: u8,
    },
    /// `[r11]`.
    AtR11,
}

/// Mask of an EVEX instruction: lanes outside keep what they held, or become zero.
#[derive(Clone, Copy)]
pub enum Under {
    All,
    Merging(u8),
    Zeroing(u8),
}

/// Vector length.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Width {
    Xmm = 0,
    Zmm = 2,
}

/// Instructions written so far.
#[derive(Default)]
pub struct Asm {
    pub bytes: Vec<u8>,
}

/// A jump whose target is not known yet.
pub struct Jump(usize);

/// Conditions of jumps.
#[derive(Clone, Copy)]
pub enum If {
    Always,
    Zero,
    Greater,
    AtMost,
}

impl Asm {
    pub fn put(&mut self, bytes: &[u8]) {
        self.bytes.extend_from_slice(bytes);
    }

    /// `op reg, vvvv, rm`; instructions with two operands have 0 for `vvvv`.
    pub fn evex(&mut self, op: Op, width: Width, reg: u8, vvvv: u8, rm: Rm, under: Under) {
        let (x, b) = match rm {
            Rm::Reg(r) => (r >> 4 & 1, r >> 3 & 1),
            Rm::Indexed { base, .. } => (0, base >> 3 & 1),
            Rm::AtR11 => (0, 1),
        };
        let (mask, zero) = match under {
            Under::All => (0, 0),
            Under::Merging(k) => (k, 0),
            Under::Zeroing(k) => (k, 1),
        };
        let r = reg >> 3 & 1;
        let p0 = (r ^ 1) << 7 | (x ^ 1) << 6 | (b ^ 1) << 5 | (reg >> 4 & 1 ^ 1) << 4 | op.map;
        let p1 = (!vvvv & 15) << 3 | 4 | op.prefix;
        let p2 = zero << 7 | (width as u8) << 5 | (vvvv >> 4 & 1 ^ 1) << 3 | mask;
        self.put(&[0x62, p0, p1, p2, op.code]);
        let reg = (reg & 7) << 3;
        match rm {
            Rm::Reg(r) => self.put(&[0xc0 | reg | r & 7]),
            Rm::AtR11 => self.put(&[reg | R11 & 7]),
            Rm::Indexed { base, scale } => {
                let sib = scale << 6 | RAX << 3 | base & 7;
                // Without a displacement these bases would mean another address.
                if base & 7 == 5 { self.put(&[0x44 | reg, sib, 0]) } else { self.put(&[0x04 | reg, sib]) }
            }
        }
    }

    /// A mask instruction `op k, k, k` of 16 bits.
    pub fn masks(&mut self, code: u8, dst: u8, a: u8, b: u8) {
        self.put(&[0xc5, 0x80 | (!a & 15) << 3 | 4, code, 0xc0 | dst << 3 | b]);
    }

    /// `op k, k` of 16 bits.
    pub fn mask(&mut self, code: u8, dst: u8, a: u8) {
        self.put(&[0xc5, 0xf8, code, 0xc0 | dst << 3 | a]);
    }

    /// `op reg, [base + 8·at]` on 64 bits; `base` is below 8 and not rsp.
    pub fn at_table(&mut self, code: u8, reg: u8, base: u8, at: usize) {
        self.put(&[0x48 | reg >> 3 << 2, code, 0x80 | (reg & 7) << 3 | base]);
        self.put(&(8 * at as u32).to_le_bytes());
    }

    /// `mov r11d, bits`.
    pub fn r11_is(&mut self, bits: u32) {
        self.put(&[0x41, 0xbb]);
        self.put(&bits.to_le_bytes());
    }

    /// `add r11, reg`.
    pub fn add_to_r11(&mut self, reg: u8) {
        self.put(&[0x49 | reg >> 3 << 2, 0x01, 0xc0 | (reg & 7) << 3 | R11 & 7]);
    }

    pub fn push(&mut self, reg: u8) {
        if reg >= 8 {
            self.put(&[0x41]);
        }
        self.put(&[0x50 | reg & 7]);
    }

    pub fn pop(&mut self, reg: u8) {
        if reg >= 8 {
            self.put(&[0x41]);
        }
        self.put(&[0x58 | reg & 7]);
    }

    /// A jump to a place that is not written yet.
    pub fn jump(&mut self, when: If) -> Jump {
        match when {
            If::Always => self.put(&[0xe9]),
            If::Zero => self.put(&[0x0f, 0x84]),
            If::Greater => self.put(&[0x0f, 0x8f]),
            If::AtMost => self.put(&[0x0f, 0x8e]),
        }
        self.put(&[0; 4]);
        Jump(self.bytes.len())
    }

    /// The jump leads here.
    pub fn land(&mut self, jump: Jump) {
        let distance = (self.bytes.len() - jump.0) as u32;
        self.bytes[jump.0 - 4..jump.0].copy_from_slice(&distance.to_le_bytes());
    }

    /// A jump to `place`, which is written already.
    pub fn jump_back(&mut self, when: If, place: usize) {
        let jump = self.jump(when);
        let distance = place as i64 - jump.0 as i64;
        self.bytes[jump.0 - 4..].copy_from_slice(&(distance as i32).to_le_bytes());
    }
}
