//! Runs of elementwise steps as machine code that keeps what passes between them in registers. Takes the steps of a bound loop, gives
//! fewer steps that store the same bits. Never a different result: the same operations in the same order, only fewer trips through
//! memory. Where the processor has no AVX-512 or the system gives no executable memory, all steps stay as they are.

#[cfg(target_arch = "x86_64")]
mod asm;
pub mod chain;
mod rewrite;
#[cfg(target_arch = "x86_64")]
mod write;

use super::level::Level;
use chain::Line;
pub use rewrite::{Desk, Spans, fuse};
use std::collections::BTreeMap;

/// Pointers that a chain may have, those to uniform values included.
pub const MAX_POINTERS: usize = 24;

/// `f(table, n, strides, rows)`: works on `n` lanes at each pointer of `table`, then adds `strides` bytes to the pointers for the next row.
#[cfg(target_arch = "x86_64")]
pub type FusedFn = unsafe extern "sysv64" fn(*mut *mut u8, usize, *const isize, usize);
#[cfg(not(target_arch = "x86_64"))]
pub type FusedFn = unsafe extern "C" fn(*mut *mut u8, usize, *const isize, usize);

/// The chains of an executable, written once each.
#[derive(Default)]
pub struct Chains {
    is_on: bool,
    is_closed: bool,
    /// By lines: the place in `functions`, or `None` for those that need too many registers.
    known: BTreeMap<Vec<Line>, Option<u32>>,
    functions: Vec<Option<FusedFn>>,
    /// Code that is written but not executable yet, and where each of its functions begins.
    pending: Vec<u8>,
    begins: Vec<usize>,
    #[cfg(target_arch = "x86_64")]
    memory: Vec<memmap2::Mmap>,
}

impl Chains {
    /// Whether steps are fused from now on.
    pub fn switch(&mut self, is_on: bool, level: Level) {
        self.is_on = is_on && level == Level::Avx512 && cfg!(target_arch = "x86_64");
    }

    pub fn is_on(&self) -> bool {
        self.is_on
    }

    /// Whether new chains are refused from now on: steps that would need one stay as they are, and nothing is allocated.
    pub fn close(&mut self, is_closed: bool) {
        self.is_closed = is_closed;
    }

    /// The number of the chain with these lines; `None` where it cannot be written.
    fn number(&mut self, lines: &[Line]) -> Option<u32> {
        if let Some(known) = self.known.get(lines) {
            return *known;
        }
        if self.is_closed {
            return None;
        }
        let number = self.write(lines);
        self.known.insert(lines.to_vec(), number);
        number
    }

    #[cfg(target_arch = "x86_64")]
    fn write(&mut self, lines: &[Line]) -> Option<u32> {
        let bytes = write::write(lines)?;
        self.begins.push(self.pending.len());
        self.pending.extend(bytes);
        self.pending.resize(self.pending.len().next_multiple_of(64), 0xcc);
        self.functions.push(None);
        Some(self.functions.len() as u32 - 1)
    }

    #[cfg(not(target_arch = "x86_64"))]
    fn write(&mut self, _: &[Line]) -> Option<u32> {
        None
    }

    /// Makes what was written executable. False where the system refuses: steps that use it must not run then, and none is fused again.
    #[must_use]
    pub fn seal(&mut self) -> bool {
        if self.pending.is_empty() {
            return true;
        }
        let is_done = self.map();
        if !is_done {
            *self = Chains::default();
        }
        self.pending = Vec::new();
        self.begins.clear();
        is_done
    }

    #[cfg(target_arch = "x86_64")]
    fn map(&mut self) -> bool {
        let Ok(mut writable) = memmap2::MmapMut::map_anon(self.pending.len()) else { return false };
        writable.copy_from_slice(&self.pending);
        let Ok(memory) = writable.make_exec() else { return false };
        let first = self.functions.len() - self.begins.len();
        for (f, &begin) in self.functions[first..].iter_mut().zip(&self.begins) {
            // SAFETY: a whole function with this signature begins there, and the memory lives as long as the list.
            *f = Some(unsafe { std::mem::transmute::<*const u8, FusedFn>(memory.as_ptr().add(begin)) });
        }
        self.memory.push(memory);
        true
    }

    #[cfg(not(target_arch = "x86_64"))]
    fn map(&mut self) -> bool {
        false
    }

    /// The function of a chain; sealed before it is asked for.
    #[inline(always)]
    pub fn function(&self, number: u32) -> FusedFn {
        match self.functions[number as usize] {
            Some(f) => f,
            None => panic!("bug: a chain runs that is not executable yet"),
        }
    }
}
