//! Room for activations: one allocation that tensors are cut from in order, and that begins anew when the last of them
//! is gone. What finds no room there is an allocation of its own: slower, and never wrong.

use std::sync::{
    Arc, Mutex,
    atomic::{AtomicUsize, Ordering},
};

use edgewise_kernels::cuda::{CudaError, Device, DeviceMemory, Slice};

/// Where tensors begin.
const ALIGNMENT: usize = 256;

/// The allocation tensors are cut from.
#[derive(Debug)]
pub(super) struct Arena {
    memory: DeviceMemory,
    /// End of the last tensor, while there are any.
    end: Mutex<usize>,
    tensors: AtomicUsize,
}

/// Memory of one tensor.
#[derive(Debug)]
pub(super) enum Block {
    Part { arena: Arc<Arena>, first: usize, bytes: usize },
    Own(DeviceMemory),
}

impl Arena {
    pub(super) fn new(device: &Device, bytes: usize) -> Result<Arc<Self>, CudaError> {
        let memory = DeviceMemory::new(device, bytes)?;
        Ok(Arc::new(Self { memory, end: Mutex::new(0), tensors: AtomicUsize::new(0) }))
    }

    pub(super) fn bytes(&self) -> usize {
        self.memory.bytes()
    }

    /// Room for `bytes` bytes.
    pub(super) fn block(self: &Arc<Self>, device: &Device, bytes: usize) -> Result<Block, CudaError> {
        let mut end = self.end.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        if self.tensors.load(Ordering::Acquire) == 0 {
            *end = 0;
        }
        let first = *end;
        if first + bytes > self.memory.bytes() {
            return Ok(Block::Own(DeviceMemory::new(device, bytes)?));
        }
        *end = (first + bytes).next_multiple_of(ALIGNMENT);
        self.tensors.fetch_add(1, Ordering::AcqRel);
        Ok(Block::Part { arena: self.clone(), first, bytes })
    }
}

impl Block {
    /// Whether it is part of the arena.
    pub(super) fn is_part(&self) -> bool {
        matches!(self, Self::Part { .. })
    }

    pub(super) fn slice(&self) -> Result<Slice<'_>, CudaError> {
        match self {
            Self::Part { arena, first, bytes } => arena.memory.slice(*first, *bytes),
            Self::Own(memory) => Ok(memory.all()),
        }
    }
}

impl Drop for Block {
    fn drop(&mut self) {
        if let Self::Part { arena, .. } = self {
            arena.tensors.fetch_sub(1, Ordering::AcqRel);
        }
    }
}
