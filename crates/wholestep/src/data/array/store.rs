//! Where the values of an array lie: in memory of its own, or in memory that a device copies from by itself. Takes either, gives a slice. Never lets
//! values be written that somebody else reads.

use super::Element;
use std::ops::Deref;
use std::sync::Arc;
use wholestep_compiler::backend::HostMemory;

pub enum Store<T> {
    Own(Vec<T>),
    /// The first elements of the memory.
    Pinned {
        memory: Arc<dyn HostMemory>,
        len: usize,
    },
}

impl<T: Element> std::fmt::Debug for Store<T> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_list().entries(self.iter()).finish()
    }
}

impl<T: Element> Store<T> {
    /// Room for `len` elements: that of `spare` if it has as much, else what `pinned` gives, else new memory. What is in it means nothing.
    pub fn with_room(
        len: usize,
        spare: Option<Store<T>>,
        pinned: impl FnOnce(usize) -> Option<Arc<dyn HostMemory>>,
    ) -> Store<T> {
        let fits = |bytes: usize| bytes >= len * size_of::<T>();
        match spare {
            Some(Store::Own(mut values)) if values.capacity() >= len => {
                values.resize(len, T::default());
                Store::Own(values)
            }
            Some(Store::Pinned { memory, .. }) if fits(memory.bytes().len()) => Store::Pinned { memory, len },
            Some(_) | None => match pinned(len * size_of::<T>()) {
                Some(memory) => Store::Pinned { memory, len },
                None => Store::Own(vec![T::default(); len]),
            },
        }
    }

    /// Whether only this array, and no device, reads the values.
    pub fn is_unshared(&mut self) -> bool {
        match self {
            Store::Own(_) => true,
            Store::Pinned { memory, .. } => Arc::get_mut(memory).is_some(),
        }
    }

    /// The values to write to, which are copied first where a device still reads them.
    pub fn as_mut_slice(&mut self) -> &mut [T] {
        if !self.is_unshared() {
            *self = self.clone();
        }
        match self {
            Store::Own(values) => values,
            Store::Pinned { memory, len } => {
                let memory = Arc::get_mut(memory).expect("bug: pinned memory is shared again");
                T::of_bytes_mut(&mut memory.bytes_mut()[..*len * size_of::<T>()])
            }
        }
    }

    /// The memory that a device copies from by itself.
    pub fn pinned(&self) -> Option<&Arc<dyn HostMemory>> {
        match self {
            Store::Own(_) => None,
            Store::Pinned { memory, .. } => Some(memory),
        }
    }
}

impl<T: Element> Deref for Store<T> {
    type Target = [T];

    fn deref(&self) -> &[T] {
        match self {
            Store::Own(values) => values,
            Store::Pinned { memory, len } => T::of_bytes(&memory.bytes()[..*len * size_of::<T>()]),
        }
    }
}

/// The copy lies in memory of its own: what is pinned is scarce.
impl<T: Element> Clone for Store<T> {
    fn clone(&self) -> Store<T> {
        Store::Own(self.to_vec())
    }
}

impl<T> Default for Store<T> {
    fn default() -> Store<T> {
        Store::Own(Vec::new())
    }
}

impl<T: Element> PartialEq for Store<T> {
    fn eq(&self, other: &Store<T>) -> bool {
        self[..] == other[..]
    }
}
