//! Launchers of what works row by row. Rows are bf16; widths are multiples of 8.

use std::{ffi::c_int, ptr::null_mut};

use super::{CudaError, Device, Slice, check, int};

const HALF: usize = 2;

/// `out[i] = table[ids[i]]`, with `ids` int32 `[rows]` and `out` `[rows, width]`, in f32 where `to_float`.
///
/// # Errors
/// [`CudaError`] when shapes don't match.
///
/// # Safety
/// Every id is a row that `table` has.
pub unsafe fn gather_rows(
    device: &Device,
    table: Slice<'_>,
    ids: Slice<'_>,
    (out, to_float): (Slice<'_>, bool),
    rows: usize,
    width: usize,
) -> Result<(), CudaError> {
    let ids = ids.at_least("the ids of rows", rows * size_of::<c_int>())?;
    let size = if to_float { size_of::<f32>() } else { HALF };
    let out = out.at_least("the gathered rows", rows * width * size)?;
    let (rows, width) = (int("the number of rows", rows)?, int("the width of rows", width)?);
    // SAFETY: `out` and `ids` are long enough; the caller vouches for the ids.
    check("gather_rows", unsafe {
        device.half().edgewise_gather_rows(
            table.pointer(),
            ids.cast(),
            out,
            rows,
            width,
            c_int::from(to_float),
            device.stream(),
        )
    })
}

/// A normalisation of rows by their root mean square, in front of it an addition to the residual stream.
#[derive(Debug, Clone, Copy)]
pub struct RmsNorm<'a> {
    /// bf16 `[rows, width]`, added to the residual, or normalised where there is none.
    pub x: Option<Slice<'a>>,
    /// f32 `[rows, width]`; replaced by the sum where there is an `x`.
    pub residual: Option<Slice<'a>>,
    /// bf16 `[width]`
    pub weight: Slice<'a>,
    /// bf16 `[rows, width]`: `weight · s/√(mean(s²) + eps)` with `s = residual + x`.
    pub out: Slice<'a>,
    /// Rows.
    pub rows: usize,
    /// Their width, at most 16384.
    pub width: usize,
    /// Added to the mean square.
    pub eps: f32,
}

impl RmsNorm<'_> {
    /// Issues it.
    ///
    /// # Errors
    /// [`CudaError`] when shapes don't match.
    pub fn run(&self, device: &Device) -> Result<(), CudaError> {
        let elements = self.rows * self.width;
        let x = self.x.map_or(Ok(null_mut()), |x| x.at_least("the rows to be normalised", elements * HALF))?;
        let residual = self.residual.map_or(Ok(null_mut()), |r| r.at_least("the residual", elements * 4))?;
        let weight = self.weight.at_least("the weight of a normalisation", self.width * HALF)?;
        let out = self.out.at_least("the normalised rows", elements * HALF)?;
        let (rows, width) = (int("the number of rows", self.rows)?, int("the width of rows", self.width)?);
        // SAFETY: every buffer is as long as the shape calls for.
        check("rms_norm", unsafe {
            device.half().edgewise_rms_norm(x, residual, weight, out, rows, width, self.eps, device.stream())
        })
    }
}
