//! Weights in bf16 on the device.

use edgewise_kernels::{PackedMatrix, WeightFormat, cuda::DeviceMemory};
use half::bf16;
use rayon::prelude::*;

use super::{Cuda, device_error};
use crate::{backend::HostMatrix, decoder::DecoderError};

/// Weights converted and copied at a time.
const AT_ONCE: usize = 1 << 24;

/// A weight matrix.
#[derive(Debug)]
pub struct CudaMatrix {
    pub(super) weights: DeviceMemory,
    pub(super) bias: Option<DeviceMemory>,
    pub(super) rows: usize,
    pub(super) columns: usize,
}

impl CudaMatrix {
    /// Copies bf16 as it is; everything else is expanded and rounded.
    pub(super) fn new(
        backend: &Cuda,
        weights: &HostMatrix<'_>,
        bias: Option<&[f32]>,
    ) -> Result<Self, DecoderError> {
        let &HostMatrix { rows, columns, format, ref bytes } = weights;
        let device = backend.device();
        let memory = DeviceMemory::new(device, rows * columns * size_of::<bf16>()).map_err(device_error)?;
        if format == WeightFormat::BF16 {
            backend.stage(&memory, 0, bytes)?;
        } else {
            let step = (AT_ONCE / columns.max(1)).max(1);
            for first in (0..rows).step_by(step) {
                let count = step.min(rows - first);
                let part = weights.rows(first, count);
                backend.stage(&memory, first * columns * size_of::<bf16>(), &rounded(&part)?)?;
            }
        }
        let bias = bias.map(|bias| vector(backend, bias)).transpose()?;
        Ok(Self { weights: memory, bias, rows, columns })
    }

    pub(super) fn bytes(&self) -> usize {
        self.weights.bytes()
    }
}

/// A vector in bf16 on the device.
pub(super) fn vector(backend: &Cuda, values: &[f32]) -> Result<DeviceMemory, DecoderError> {
    let bytes: Vec<u8> = values.iter().flat_map(|value| bf16::from_f32(*value).to_le_bytes()).collect();
    let memory = DeviceMemory::new(backend.device(), bytes.len()).map_err(device_error)?;
    memory.write(0, &bytes).map_err(device_error)?;
    Ok(memory)
}

/// The rows of a matrix in bf16, little-endian.
fn rounded(matrix: &HostMatrix<'_>) -> Result<Vec<u8>, DecoderError> {
    let &HostMatrix { rows, columns, format, ref bytes } = matrix;
    let packed = PackedMatrix::from_rows(format, rows, columns, bytes)?;
    let mut result = vec![0u8; rows * columns * size_of::<bf16>()];
    result.par_chunks_mut((columns * size_of::<bf16>()).max(1)).enumerate().try_for_each_init(
        || vec![0.0f32; columns],
        |values, (row, out)| {
            packed.row(row, values)?;
            for (out, value) in out.as_chunks_mut().0.iter_mut().zip(values) {
                *out = bf16::from_f32(*value).to_le_bytes();
            }
            Ok::<(), DecoderError>(())
        },
    )?;
    Ok(result)
}
