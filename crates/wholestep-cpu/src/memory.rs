//! Memory of an executable. Takes a size, gives zeroed bytes aligned to a cache line. Never grows behind the caller's back.

use std::alloc::{Layout, alloc_zeroed, dealloc};
use wholestep_compiler::backend::DeviceError;

/// Alignment of every allocation and offset, in bytes.
pub const ALIGN_BYTES: usize = 64;

/// An owned, zeroed, aligned piece of memory.
pub struct Block {
    ptr: *mut u8,
    bytes: usize,
}

// SAFETY: a block owns its memory, like a `Vec`.
unsafe impl Send for Block {}
// SAFETY: shared references only give the address; whoever dereferences it says why that is sound.
unsafe impl Sync for Block {}

impl Block {
    /// `bytes` zeroed bytes for `what`.
    pub fn new(bytes: usize, what: &str) -> Result<Block, DeviceError> {
        let out_of_memory = || DeviceError::OutOfMemory { wanted_bytes: bytes as u64, what: what.to_string() };
        let layout = Layout::from_size_align(bytes.max(1), ALIGN_BYTES).map_err(|_| out_of_memory())?;
        // SAFETY: the layout's size is not 0.
        let ptr = unsafe { alloc_zeroed(layout) };
        if ptr.is_null() { Err(out_of_memory()) } else { Ok(Block { ptr, bytes }) }
    }

    pub fn ptr(&self) -> *mut u8 {
        self.ptr
    }

    pub fn bytes(&self) -> usize {
        self.bytes
    }
}

impl Drop for Block {
    fn drop(&mut self) {
        // SAFETY: allocated with this layout in `new`.
        unsafe { dealloc(self.ptr, Layout::from_size_align_unchecked(self.bytes.max(1), ALIGN_BYTES)) }
    }
}
