//! Weight matrices, packed for the register tiles of the matrix product.
//!
//! Sixteen successive rows form a *panel*, the unit the product works on; a last, partial panel is padded with zeros.
//! Quantised weights keep the integers of their GGUF blocks, nothing is rounded again. Every block of 32 weights of a
//! row is `d·u + m` with unsigned codes `u`:
//!
//! | GGUF block | codes | `m` |
//! |---|---|---|
//! | Q4_0 | 4 bits | `-8·d` |
//! | Q4_1 | 4 bits | as stored |
//! | Q8_0 | 8 bits, offset by 128 | `-128·d` |
//!
//! Layouts, in order of growing address:
//! - 4 bits: `[panel][block][4][row 16][4]` bytes; byte `(j, r, t)` of a block holds the code of column `4·j + t` in
//!   its low and of column `16 + 4·j + t` in its high nibble, which is how the file pairs them;
//! - 8 bits: `[panel][block][8][row 16][4]` bytes; byte `(j, r, t)` is column `4·j + t`;
//! - scales of 4-bit weights: `[panel][block][{d, m}][row 16]` in f16; of 8-bit weights: `[panel][block][row 16]` in
//!   f32, `d` alone;
//! - dense: `[panel][column][row 16]` in f32, f16 or bf16, as in the file.
//!
//! Block formats: <https://github.com/ggml-org/ggml/blob/master/src/ggml-common.h>. Deliberately not here: formats
//! with finer scales (the K-quants), which are expanded to dense weights by the caller.

use half::{bf16, f16};
use rayon::prelude::*;

use crate::{
    KernelError,
    error::check_length,
    simd::{CodeLine, Element, LANES, Line},
};

/// Weights per block.
pub(crate) const BLOCK: usize = 32;

/// What the codes of 8-bit weights are offset by, to make them unsigned.
pub(crate) const BYTE_OFFSET: f32 = 128.0;

/// Scales and offsets of one block of a panel of 4-bit weights: sixteen `d`, then sixteen `m`.
pub(crate) type ScaleLine = Line<f16, 32>;
/// The `d` of one block of a panel of 8-bit weights.
pub(crate) type FloatLine = Line<f32, LANES>;

/// One column of a dense panel.
#[derive(Debug, Clone, Copy)]
#[repr(C, align(32))]
pub(crate) struct DenseLine<T>(pub(crate) [T; LANES]);

/// How weights are stored in a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum WeightFormat {
    /// 32-bit floating point.
    F32,
    /// 16-bit floating point.
    F16,
    /// The upper half of 32-bit floating point.
    BF16,
    /// Blocks of 32: a scale and 4-bit codes around 8.
    Q4_0,
    /// Blocks of 32: a scale, an offset and 4-bit codes.
    Q4_1,
    /// Blocks of 32: a scale and signed 8-bit codes.
    Q8_0,
}

impl WeightFormat {
    /// Weights per block and bytes per block.
    pub fn block(self) -> (usize, usize) {
        match self {
            Self::F32 => (1, 4),
            Self::F16 | Self::BF16 => (1, 2),
            Self::Q4_0 => (BLOCK, 18),
            Self::Q4_1 => (BLOCK, 20),
            Self::Q8_0 => (BLOCK, 34),
        }
    }
}

/// A matrix of weights `[rows, columns]`; its product with `x` is `y[r] = Σ w[r, c]·x[c]`, plus a bias where one was
/// given.
#[derive(Debug, Clone)]
pub struct PackedMatrix {
    rows: usize,
    columns: usize,
    storage: Storage,
    bias: Vec<FloatLine>,
}

#[derive(Debug, Clone)]
pub(crate) enum Storage {
    Nibbles { codes: Vec<CodeLine>, scales: Vec<ScaleLine> },
    Bytes { codes: Vec<CodeLine>, scales: Vec<FloatLine> },
    F32(Vec<DenseLine<f32>>),
    F16(Vec<DenseLine<f16>>),
    BF16(Vec<DenseLine<bf16>>),
}

impl PackedMatrix {
    /// Packs the rows of a file: `bytes` holds them one after the other in `format`.
    ///
    /// # Errors
    /// [`KernelError`] when the columns are not whole blocks or `bytes` is not exactly the matrix.
    pub fn from_rows(format: WeightFormat, rows: usize, columns: usize, bytes: &[u8]) -> Result<Self, KernelError> {
        let (weights, size) = format.block();
        if !columns.is_multiple_of(weights) {
            return Err(KernelError::Dimension {
                what: "the number of columns",
                actual: columns,
                rule: "a multiple of the block of 32",
            });
        }
        check_length("the encoded matrix", bytes.len(), rows * (columns / weights) * size)?;
        let source = Source { bytes, rows, blocks: columns / weights, size };
        let storage = match format {
            WeightFormat::F32 => Storage::F32(source.dense(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]]))),
            WeightFormat::F16 => Storage::F16(source.dense(|b| half_at(b, 0))),
            WeightFormat::BF16 => Storage::BF16(source.dense(|b| bf16::from_le_bytes([b[0], b[1]]))),
            WeightFormat::Q4_0 => source.nibbles(2, |b| {
                let d = half_at(b, 0);
                (d, f16::from_f32(-8.0 * d.to_f32()))
            }),
            WeightFormat::Q4_1 => source.nibbles(4, |b| (half_at(b, 0), half_at(b, 2))),
            WeightFormat::Q8_0 => source.signed_bytes(),
        };
        Ok(Self { rows, columns, storage, bias: Vec::new() })
    }

    /// Packs dense weights, row after row.
    ///
    /// # Errors
    /// [`KernelError::Length`] when `weights` is not exactly the matrix.
    pub fn from_f32(rows: usize, columns: usize, weights: &[f32]) -> Result<Self, KernelError> {
        check_length("the matrix", weights.len(), rows * columns)?;
        let mut lines = vec![DenseLine([0.0; LANES]); rows.div_ceil(LANES) * columns];
        lines.par_chunks_mut(columns.max(1)).enumerate().for_each(|(panel, lines)| {
            for (lane, row) in weights.chunks_exact(columns).skip(panel * LANES).take(LANES).enumerate() {
                for (line, weight) in lines.iter_mut().zip(row) {
                    line.0[lane] = *weight;
                }
            }
        });
        Ok(Self { rows, columns, storage: Storage::F32(lines), bias: Vec::new() })
    }

    /// The same weights, expanded to f32.
    pub fn to_dense(&self) -> Result<Self, KernelError> {
        let mut weights = vec![0.0; self.rows * self.columns];
        weights.par_chunks_mut(self.columns.max(1)).enumerate().try_for_each(|(r, row)| self.row(r, row))?;
        Ok(Self { bias: self.bias.clone(), ..Self::from_f32(self.rows, self.columns, &weights)? })
    }

    /// The same weights with a bias: `y[r] = Σ w[r, c]·x[c] + bias[r]`, added where the product is written.
    ///
    /// # Errors
    /// [`KernelError::Length`] when `bias` does not have an element for each row.
    pub fn with_bias(mut self, bias: &[f32]) -> Result<Self, KernelError> {
        check_length("the bias of a matrix", bias.len(), self.rows)?;
        self.bias = vec![Line([0.0; LANES]); self.panels()];
        for (line, bias) in self.bias.iter_mut().zip(bias.chunks(LANES)) {
            line.0[..bias.len()].copy_from_slice(bias);
        }
        Ok(self)
    }

    /// Number of rows, which is the length of the product.
    pub fn rows(&self) -> usize {
        self.rows
    }

    /// Number of columns.
    pub fn columns(&self) -> usize {
        self.columns
    }

    /// Memory the packed weights take, in bytes.
    pub fn bytes(&self) -> usize {
        match &self.storage {
            Storage::Nibbles { codes, scales } => size_of_val(codes.as_slice()) + size_of_val(scales.as_slice()),
            Storage::Bytes { codes, scales } => size_of_val(codes.as_slice()) + size_of_val(scales.as_slice()),
            Storage::F32(lines) => size_of_val(lines.as_slice()),
            Storage::F16(lines) => size_of_val(lines.as_slice()),
            Storage::BF16(lines) => size_of_val(lines.as_slice()),
        }
    }

    /// Expands row `row` into `out`, of `columns` elements; how an embedding is looked up.
    ///
    /// # Errors
    /// [`KernelError`] when there is no such row or `out` has another length.
    pub fn row(&self, row: usize, out: &mut [f32]) -> Result<(), KernelError> {
        if row >= self.rows {
            return Err(KernelError::Dimension {
                what: "the row",
                actual: row,
                rule: "below the number of rows of the matrix",
            });
        }
        check_length("the expanded row", out.len(), self.columns)?;
        let (panel, lane) = (row / LANES, row % LANES);
        match &self.storage {
            Storage::F32(lines) => dense_row(&lines[panel * self.columns..], lane, out),
            Storage::F16(lines) => dense_row(&lines[panel * self.columns..], lane, out),
            Storage::BF16(lines) => dense_row(&lines[panel * self.columns..], lane, out),
            Storage::Nibbles { codes, scales } => {
                let blocks = codes.chunks_exact(4).zip(scales).skip(panel * self.columns / BLOCK);
                for (out, (codes, scale)) in out.chunks_exact_mut(BLOCK).zip(blocks) {
                    let (d, m) = (scale.0[lane].to_f32(), scale.0[LANES + lane].to_f32());
                    let (low, high) = out.split_at_mut(BLOCK / 2);
                    for (column, (low, high)) in low.iter_mut().zip(high).enumerate() {
                        let pair = codes[column / 4].0[4 * lane + column % 4];
                        *low = d * f32::from(pair & 0x0f) + m;
                        *high = d * f32::from(pair >> 4) + m;
                    }
                }
            }
            Storage::Bytes { codes, scales } => {
                let blocks = codes.chunks_exact(8).zip(scales).skip(panel * self.columns / BLOCK);
                for (out, (codes, scale)) in out.chunks_exact_mut(BLOCK).zip(blocks) {
                    for (column, out) in out.iter_mut().enumerate() {
                        let code = f32::from(codes[column / 4].0[4 * lane + column % 4]);
                        *out = scale.0[lane] * (code - BYTE_OFFSET);
                    }
                }
            }
        }
        Ok(())
    }

    pub(crate) fn storage(&self) -> &Storage {
        &self.storage
    }

    /// The bias of the sixteen rows of a panel.
    #[inline(always)]
    pub(crate) fn panel_bias(&self, panel: usize) -> Option<&FloatLine> {
        self.bias.get(panel)
    }

    pub(crate) fn panels(&self) -> usize {
        self.rows.div_ceil(LANES)
    }

    pub(crate) fn is_dense(&self) -> bool {
        matches!(self.storage, Storage::F32(_) | Storage::F16(_) | Storage::BF16(_))
    }
}

fn dense_row<T: Element>(lines: &[DenseLine<T>], lane: usize, out: &mut [f32]) {
    for (out, line) in out.iter_mut().zip(lines) {
        *out = line.0[lane].widen();
    }
}

fn half_at(bytes: &[u8], at: usize) -> f16 {
    f16::from_le_bytes([bytes[at], bytes[at + 1]])
}

/// Rows of blocks as they stand in a file.
struct Source<'a> {
    bytes: &'a [u8],
    rows: usize,
    blocks: usize,
    size: usize,
}

impl<'a> Source<'a> {
    fn block(&self, row: usize, block: usize) -> &'a [u8] {
        &self.bytes[(row * self.blocks + block) * self.size..][..self.size]
    }

    /// The rows of a panel that exist, with their lanes.
    fn lanes(&self, panel: usize) -> impl Iterator<Item = (usize, usize)> {
        (panel * LANES..self.rows.min((panel + 1) * LANES)).enumerate()
    }

    fn panels(&self) -> usize {
        self.rows.div_ceil(LANES)
    }

    fn dense<T: Copy + Default + Send>(&self, weight: impl Fn(&[u8]) -> T + Sync) -> Vec<DenseLine<T>> {
        let mut lines = vec![DenseLine([T::default(); LANES]); self.panels() * self.blocks];
        lines.par_chunks_mut(self.blocks.max(1)).enumerate().for_each(|(panel, lines)| {
            for (lane, row) in self.lanes(panel) {
                for (column, line) in lines.iter_mut().enumerate() {
                    line.0[lane] = weight(self.block(row, column));
                }
            }
        });
        lines
    }

    fn nibbles(&self, header: usize, scale: impl Fn(&[u8]) -> (f16, f16) + Sync) -> Storage {
        let (codes, scales) = self.pack(4, Line([f16::ZERO; 32]), |block, lane, codes, scales: &mut ScaleLine| {
            for (line, quad) in codes.iter_mut().zip(block[header..].chunks_exact(4)) {
                line.0[4 * lane..][..4].copy_from_slice(quad);
            }
            (scales.0[lane], scales.0[LANES + lane]) = scale(block);
        });
        Storage::Nibbles { codes, scales }
    }

    fn signed_bytes(&self) -> Storage {
        let (codes, scales) = self.pack(8, Line([0.0; LANES]), |block, lane, codes, scales: &mut FloatLine| {
            for (line, quad) in codes.iter_mut().zip(block[2..].chunks_exact(4)) {
                for (code, byte) in line.0[4 * lane..][..4].iter_mut().zip(quad) {
                    *code = byte ^ 0x80;
                }
            }
            scales.0[lane] = half_at(block, 0).to_f32();
        });
        Storage::Bytes { codes, scales }
    }

    /// Fills code lines and scales of every panel; `pack` writes one block of one row into its lane.
    fn pack<T: Copy + Send>(
        &self,
        lines_per_block: usize,
        empty: T,
        pack: impl Fn(&[u8], usize, &mut [CodeLine], &mut T) + Sync,
    ) -> (Vec<CodeLine>, Vec<T>) {
        let blocks = self.panels() * self.blocks;
        let mut codes = vec![Line([0; 64]); blocks * lines_per_block];
        let mut scales = vec![empty; blocks];
        let panels = codes.par_chunks_mut((self.blocks * lines_per_block).max(1));
        panels.zip(scales.par_chunks_mut(self.blocks.max(1))).enumerate().for_each(|(panel, (codes, scales))| {
            for (lane, row) in self.lanes(panel) {
                let blocks = codes.chunks_exact_mut(lines_per_block).zip(scales.iter_mut());
                for (block, (codes, scales)) in blocks.enumerate() {
                    pack(self.block(row, block), lane, codes, scales);
                }
            }
        });
        (codes, scales)
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
mod tests {
    use super::*;
    use crate::testing::encoded;

    /// Expands blocks as GGML's `dequantize_row_*` functions do.
    fn expanded(format: WeightFormat, bytes: &[u8]) -> Vec<f32> {
        let mut out = Vec::new();
        for block in bytes.chunks_exact(format.block().1) {
            let d = half_at(block, 0).to_f32();
            match format {
                WeightFormat::F32 => out.push(f32::from_le_bytes(block.try_into().unwrap())),
                WeightFormat::F16 => out.push(d),
                WeightFormat::BF16 => out.push(bf16::from_le_bytes(block.try_into().unwrap()).to_f32()),
                WeightFormat::Q4_0 => {
                    out.extend(block[2..].iter().map(|b| d * (f32::from(b & 15) - 8.0)));
                    out.extend(block[2..].iter().map(|b| d * (f32::from(b >> 4) - 8.0)));
                }
                WeightFormat::Q4_1 => {
                    let m = half_at(block, 2).to_f32();
                    out.extend(block[4..].iter().map(|b| d * f32::from(b & 15) + m));
                    out.extend(block[4..].iter().map(|b| d * f32::from(b >> 4) + m));
                }
                WeightFormat::Q8_0 => out.extend(block[2..].iter().map(|b| d * f32::from(*b as i8))),
            }
        }
        out
    }

    #[test]
    fn rows_come_back_as_they_were_in_the_file() {
        use WeightFormat::*;
        for (rows, columns) in [(1, 32), (16, 64), (37, 96)] {
            for format in [F32, F16, BF16, Q4_0, Q4_1, Q8_0] {
                let bytes = encoded(format, rows * columns, 1);
                let matrix = PackedMatrix::from_rows(format, rows, columns, &bytes).unwrap();
                let dense = matrix.to_dense().unwrap();
                for (r, expected) in expanded(format, &bytes).chunks_exact(columns).enumerate() {
                    let (mut row, mut dense_row) = (vec![f32::NAN; columns], vec![f32::NAN; columns]);
                    matrix.row(r, &mut row).unwrap();
                    dense.row(r, &mut dense_row).unwrap();
                    let close = row.iter().zip(expected).all(|(a, b)| (a - b).abs() <= 1e-6 * b.abs().max(1.0));
                    assert!(close, "{format:?} row {r}: {row:?} against {expected:?}");
                    assert_eq!(row, dense_row);
                }
                assert!(matrix.row(rows, &mut vec![0.0; columns]).is_err());
                assert!(matrix.row(0, &mut vec![0.0; columns + 1]).is_err());
            }
        }
    }

    #[test]
    fn weights_stay_as_small_as_in_the_file() {
        let four = PackedMatrix::from_rows(WeightFormat::Q4_1, 64, 64, &encoded(WeightFormat::Q4_1, 4096, 1)).unwrap();
        let eight = PackedMatrix::from_rows(WeightFormat::Q8_0, 64, 64, &encoded(WeightFormat::Q8_0, 4096, 1)).unwrap();
        for format in [WeightFormat::F16, WeightFormat::BF16] {
            let half = PackedMatrix::from_rows(format, 64, 64, &encoded(format, 4096, 1)).unwrap();
            assert_eq!(half.bytes(), 4096 * 2);
        }
        assert_eq!(four.bytes(), 4096 / 32 * 20);
        assert_eq!(eight.bytes(), 4096 / 32 * 36);
        assert_eq!(four.to_dense().unwrap().bytes(), 4096 * 4);
    }
}
