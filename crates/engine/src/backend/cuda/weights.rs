//! Weights in 16-bit numbers on the device.

use edgewise_kernels::{
    PackedMatrix, WeightFormat,
    cuda::{DeviceMemory, Half},
};
use rayon::prelude::*;

use super::{Cuda, HALF, device_error};
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
    /// Copies the device's own numbers as they are; everything else is expanded and rounded.
    pub(super) fn new(backend: &Cuda, weights: &HostMatrix<'_>, bias: Option<&[f32]>) -> Result<Self, DecoderError> {
        let &HostMatrix { rows, columns, format, ref bytes } = weights;
        let (device, half) = (backend.device(), backend.options().half);
        let memory = DeviceMemory::new(device, rows * columns * HALF).map_err(device_error)?;
        if matches!((format, half), (WeightFormat::BF16, Half::Bf16) | (WeightFormat::F16, Half::F16)) {
            backend.stage(&memory, 0, bytes)?;
        } else {
            let step = (AT_ONCE / columns.max(1)).max(1);
            for first in (0..rows).step_by(step) {
                let count = step.min(rows - first);
                let part = weights.rows(first, count);
                backend.stage(&memory, first * columns * HALF, &rounded(&part, half)?)?;
            }
        }
        let bias = bias.map(|bias| vector(backend, bias)).transpose()?;
        Ok(Self { weights: memory, bias, rows, columns })
    }

    pub(super) fn bytes(&self) -> usize {
        self.weights.bytes()
    }
}

/// A vector on the device.
pub(super) fn vector(backend: &Cuda, values: &[f32]) -> Result<DeviceMemory, DecoderError> {
    let half = backend.options().half;
    in_range(values, half)?;
    let bytes: Vec<u8> = values.iter().flat_map(|value| half.to_le_bytes(*value)).collect();
    let memory = DeviceMemory::new(backend.device(), bytes.len()).map_err(device_error)?;
    memory.write(0, &bytes).map_err(device_error)?;
    Ok(memory)
}

/// Refuses numbers that would become infinite.
fn in_range(values: &[f32], half: Half) -> Result<(), DecoderError> {
    if values.iter().all(|value| value.abs() <= half.most()) {
        return Ok(());
    }
    let reason = format!(
        "it has weights that {} does not reach, or that are no numbers: set engine.device_precision = \"bf16\", or fetch \
         it again if its file is damaged",
        half.name()
    );
    Err(DecoderError::Unsupported { reason })
}

/// The rows of a matrix in the device's numbers, little-endian.
fn rounded(matrix: &HostMatrix<'_>, half: Half) -> Result<Vec<u8>, DecoderError> {
    let &HostMatrix { rows, columns, format, ref bytes } = matrix;
    let packed = PackedMatrix::from_rows(format, rows, columns, bytes)?;
    let mut result = vec![0u8; rows * columns * HALF];
    result.par_chunks_mut((columns * HALF).max(1)).enumerate().try_for_each_init(
        || vec![0.0f32; columns],
        |values, (row, out)| {
            packed.row(row, values)?;
            in_range(values, half)?;
            for (out, value) in out.as_chunks_mut().0.iter_mut().zip(values) {
                *out = half.to_le_bytes(*value);
            }
            Ok::<(), DecoderError>(())
        },
    )?;
    Ok(result)
}
