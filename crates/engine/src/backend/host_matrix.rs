//! A weight matrix in host memory, in the format of its file.

use std::borrow::Cow;

use edgewise_kernels::WeightFormat;
use half::{bf16, f16};

/// Weights per Q8_0 block.
const BLOCK: usize = 32;

/// A matrix `[rows, columns]` on its way to a backend.
#[derive(Debug, Clone)]
pub struct HostMatrix<'a> {
    /// Outputs.
    pub rows: usize,
    /// Inputs.
    pub columns: usize,
    /// How the weights are encoded.
    pub format: WeightFormat,
    /// The rows, one after the other, as long as shape and format call for.
    pub bytes: Cow<'a, [u8]>,
}

impl HostMatrix<'_> {
    /// The rows `first..first + rows`.
    pub(crate) fn rows(&self, first: usize, rows: usize) -> HostMatrix<'_> {
        let row_bytes = self.bytes.len() / self.rows.max(1);
        let bytes = Cow::Borrowed(&self.bytes[first * row_bytes..][..rows * row_bytes]);
        HostMatrix { rows, columns: self.columns, format: self.format, bytes }
    }

    /// Floating-point weights as f32; quantised ones come out empty.
    pub(crate) fn to_f32(&self) -> Vec<f32> {
        let bytes = &self.bytes;
        match self.format {
            WeightFormat::F32 => bytes.as_chunks().0.iter().map(|b| f32::from_le_bytes(*b)).collect(),
            WeightFormat::F16 => bytes.as_chunks().0.iter().map(|b| f16::from_le_bytes(*b).to_f32()).collect(),
            WeightFormat::BF16 => bytes.as_chunks().0.iter().map(|b| bf16::from_le_bytes(*b).to_f32()).collect(),
            _ => Vec::new(),
        }
    }

    /// The same weights, rounded to Q8_0 where they are floating-point numbers in rows of whole blocks: each block of
    /// 32 is an f16 scale `d = max|w|/127` and 32 signed bytes `w/d`, as GGML's `quantize_row_q8_0_ref` does.
    pub(crate) fn compacted(&self) -> HostMatrix<'_> {
        let values = self.to_f32();
        if values.is_empty() || !self.columns.is_multiple_of(BLOCK) {
            return HostMatrix { bytes: Cow::Borrowed(&self.bytes), ..*self };
        }
        let mut bytes = Vec::with_capacity(values.len() / BLOCK * WeightFormat::Q8_0.block().1);
        for block in values.as_chunks::<BLOCK>().0 {
            let largest = block.iter().fold(0.0f32, |largest, w| largest.max(w.abs()));
            let inverse = if largest > 0.0 { 127.0 / largest } else { 0.0 };
            bytes.extend(f16::from_f32(largest / 127.0).to_le_bytes());
            bytes.extend(block.iter().map(|w| (w * inverse).round() as i8 as u8));
        }
        HostMatrix { rows: self.rows, columns: self.columns, format: WeightFormat::Q8_0, bytes: Cow::Owned(bytes) }
    }
}
