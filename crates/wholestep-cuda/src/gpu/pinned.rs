//! Memory of the host that the device reads by itself. Takes a size, gives memory that the system keeps in its place. Never gives it back while
//! somebody holds it.

use super::{Gpu, alone, check};
use cudarc::driver::sys;
use std::sync::Arc;
use wholestep_compiler::backend::{DeviceError, HostMemory};

pub(super) struct Pinned {
    pub at: *mut u8,
    pub bytes: usize,
}

// SAFETY: it is memory like any other; whoever has it may use it from any thread.
unsafe impl Send for Pinned {}
// SAFETY: it is written only through who has it alone.
unsafe impl Sync for Pinned {}

/// So many bytes, all zero; the context is bound.
pub(super) fn pinned(bytes: usize) -> Result<Pinned, DeviceError> {
    let (mut at, _alone) = (std::ptr::null_mut(), alone());
    let flags = sys::CU_MEMHOSTALLOC_PORTABLE | sys::CU_MEMHOSTALLOC_DEVICEMAP;
    // SAFETY: the place is one for an address.
    let code = unsafe { sys::cuMemHostAlloc(&mut at, bytes.max(1), flags) };
    check(code, "taking memory of the host that the device can read")?;
    // SAFETY: it is as large as it was asked for, and bytes that were never written may not be looked at.
    unsafe { std::ptr::write_bytes(at.cast::<u8>(), 0, bytes.max(1)) };
    Ok(Pinned { at: at.cast(), bytes })
}

pub(super) fn unpinned(memory: &Pinned) {
    let _alone = alone();
    // SAFETY: `pinned` gave it, and whoever dropped it does not use it any more. What fails here fails because the device is lost.
    let _ = unsafe { sys::cuMemFreeHost(memory.at.cast()) };
}

/// Such memory for whoever is outside, with the device that it is of.
struct Shared {
    gpu: Arc<Gpu>,
    memory: Pinned,
}

impl Gpu {
    /// See [`HostMemory`].
    /// Errors: the system has no more that it can keep in its place.
    pub fn host_memory(self: &Arc<Gpu>, bytes: usize) -> Result<Arc<dyn HostMemory>, DeviceError> {
        self.bind()?;
        Ok(Arc::new(Shared { gpu: self.clone(), memory: pinned(bytes)? }))
    }
}

impl HostMemory for Shared {
    fn device(&self) -> u64 {
        self.gpu.number
    }

    fn bytes(&self) -> &[u8] {
        // SAFETY: `pinned` made so many bytes, and none is written while this is borrowed.
        unsafe { std::slice::from_raw_parts(self.memory.at, self.memory.bytes) }
    }

    fn bytes_mut(&mut self) -> &mut [u8] {
        // SAFETY: `pinned` made so many bytes, and only this borrow gives them out.
        unsafe { std::slice::from_raw_parts_mut(self.memory.at, self.memory.bytes) }
    }
}

impl Drop for Shared {
    fn drop(&mut self) {
        if self.gpu.bind().is_ok() {
            unpinned(&self.memory);
        }
    }
}
