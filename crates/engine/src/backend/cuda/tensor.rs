//! Activations on the device.

use edgewise_kernels::cuda::Slice;

use super::{Activations, Cuda, HALF, arena::Block, device_error};
use crate::decoder::DecoderError;

/// Activations, row after row, in bf16 or f32.
#[derive(Debug)]
pub struct CudaTensor {
    pub(super) block: Block,
    pub(super) rows: usize,
    pub(super) width: usize,
    pub(super) is_float: bool,
}

impl CudaTensor {
    pub(super) fn element(&self) -> usize {
        if self.is_float { size_of::<f32>() } else { HALF }
    }

    pub(super) fn all(&self) -> Result<Slice<'_>, DecoderError> {
        self.rows(0, self.rows)
    }

    pub(super) fn rows(&self, first: usize, rows: usize) -> Result<Slice<'_>, DecoderError> {
        let row = self.width * self.element();
        self.block.slice().and_then(|block| block.slice(first * row, rows * row)).map_err(device_error)
    }
}

impl Activations<Cuda> {
    /// All of them.
    pub(super) fn all(&self) -> [&CudaTensor; 10] {
        let Self { residual, normed, projected, qkv: [q, k, v], attended, gate, up, logits } = self;
        [residual, normed, projected, q, k, v, attended, gate, up, logits]
    }
}
