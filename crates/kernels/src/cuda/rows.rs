//! Launchers of what works row by row. Rows are bf16; widths are multiples of 8.

use std::{ffi::c_int, ptr::null_mut};

use super::{CudaError, Device, Slice, check, ffi, int, require};

const BF16: usize = 2;
/// Most rows of one launch of the gate.
const GATE_ROWS: usize = 65_535;

/// `out[i] = table[ids[i]]`, with `ids` int32 `[rows]` and `out` `[rows, width]`.
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
    out: Slice<'_>,
    rows: usize,
    width: usize,
) -> Result<(), CudaError> {
    let ids = ids.at_least("the ids of rows", rows * size_of::<c_int>())?;
    let out = out.at_least("the gathered rows", rows * width * BF16)?;
    let (rows, width) = (int("the number of rows", rows)?, int("the width of rows", width)?);
    // SAFETY: `out` and `ids` are long enough; the caller vouches for the ids.
    check("gather_rows", unsafe {
        ffi::edgewise_gather_rows(table.pointer(), ids.cast(), out, rows, width, device.stream())
    })
}

/// `out = weight · s/√(mean(s²) + eps)` with `s = x`, or `residual += x; s = residual` where there is one. All but
/// `weight`, `[width]`, are `[rows, width]`.
///
/// # Errors
/// [`CudaError`] when shapes don't match.
#[allow(clippy::too_many_arguments)]
pub fn rms_norm(
    device: &Device,
    x: Slice<'_>,
    residual: Option<Slice<'_>>,
    weight: Slice<'_>,
    out: Slice<'_>,
    rows: usize,
    width: usize,
    eps: f32,
) -> Result<(), CudaError> {
    let bytes = rows * width * BF16;
    let x = x.at_least("the rows to be normalised", bytes)?;
    let residual = residual.map_or(Ok(null_mut()), |r| r.at_least("the residual", bytes))?;
    let weight = weight.at_least("the weight of a normalisation", width * BF16)?;
    let out = out.at_least("the normalised rows", bytes)?;
    let (rows, width) = (int("the number of rows", rows)?, int("the width of rows", width)?);
    // SAFETY: every buffer is as long as the shape calls for.
    check("rms_norm", unsafe { ffi::edgewise_rms_norm(x, residual, weight, out, rows, width, eps, device.stream()) })
}

/// `gate ← silu(gate)·up`, both `[rows, width]`.
///
/// # Errors
/// [`CudaError`] when shapes don't match.
pub fn silu_mul(
    device: &Device,
    gate: Slice<'_>,
    up: Slice<'_>,
    rows: usize,
    width: usize,
) -> Result<(), CudaError> {
    require(width.is_multiple_of(8), "the width of a gate", width, "a multiple of 8")?;
    for first in (0..rows).step_by(GATE_ROWS) {
        let count = GATE_ROWS.min(rows - first);
        let (offset, bytes) = (first * width * BF16, count * width * BF16);
        let gate = gate.slice(offset, bytes)?.at_least("the gate", bytes)?;
        let up = up.slice(offset, bytes)?.at_least("what is gated", bytes)?;
        let (count, width) = (int("the number of rows", count)?, int("the width of a gate", width)?);
        // SAFETY: both are `[count, width]`; the kernel reads a value of the gate before it writes there.
        check("silu_mul", unsafe { ffi::edgewise_silu_mul(gate, up, gate, count, width, width, device.stream()) })?;
    }
    Ok(())
}
