//! Products of rows with weight matrices: prompts by cuBLASLt, generated tokens by our kernel for few rows. Which one is
//! decided by a row's kind and the engine's options, never by how many rows come along.

use edgewise_kernels::cuda::{DecodeProduct, DeviceMemory, MOST_DECODE_ROWS, Product, decode_matmul};

use super::{Cuda, CudaMatrix, CudaPass, CudaTensor, Kind, Run, device_error};
use crate::decoder::DecoderError;

/// Number of rows that the products of prompts are tuned for.
const PROMPT_ROWS: usize = 2048;

impl Cuda {
    /// Multiplies `x` with each of the matrices.
    pub(super) fn products(
        &self,
        pass: &CudaPass,
        x: &CudaTensor,
        products: &mut [(&CudaMatrix, &mut CudaTensor)],
    ) -> Result<(), DecoderError> {
        for run in pass.runs(x.rows) {
            match run.kind {
                Kind::Generated if self.uses_decode_kernel() => self.decode_products(x, products, run)?,
                kind => {
                    let sequences = self.options().max_sequences.next_power_of_two();
                    let typical = if kind == Kind::Prompt { PROMPT_ROWS } else { sequences };
                    for (matrix, out) in products.iter() {
                        check_width(x, matrix, out)?;
                        self.product(x, (matrix, out), run, typical)?;
                    }
                }
            }
        }
        Ok(())
    }

    /// Whether generated tokens are multiplied by our kernel, made for few rows.
    pub(super) fn uses_decode_kernel(&self) -> bool {
        self.options().max_sequences <= MOST_DECODE_ROWS
    }

    fn product(
        &self,
        x: &CudaTensor,
        (matrix, out): (&CudaMatrix, &CudaTensor),
        run: &Run,
        typical_rows: usize,
    ) -> Result<(), DecoderError> {
        let product = Product {
            x: x.rows(run.rows.start, run.rows.len())?,
            weights: matrix.weights.all(),
            bias: matrix.bias.as_ref().map(DeviceMemory::all),
            out: out.rows(run.rows.start, run.rows.len())?,
            is_float: out.is_float,
            rows: run.rows.len(),
            outputs: matrix.rows,
            columns: matrix.columns,
        };
        self.0.matmul.run(&product, typical_rows).map_err(device_error)
    }

    /// Few rows, by our kernel.
    fn decode_products(
        &self,
        x: &CudaTensor,
        products: &[(&CudaMatrix, &mut CudaTensor)],
        run: &Run,
    ) -> Result<(), DecoderError> {
        for first in run.rows.clone().step_by(MOST_DECODE_ROWS) {
            let rows = MOST_DECODE_ROWS.min(run.rows.end - first);
            for group in products.chunks(3) {
                let mut parts = Vec::with_capacity(group.len());
                for (matrix, out) in group {
                    check_width(x, matrix, out)?;
                    parts.push(DecodeProduct {
                        weights: matrix.weights.all(),
                        bias: matrix.bias.as_ref().map(DeviceMemory::all),
                        out: out.rows(first, rows)?,
                        outputs: matrix.rows,
                    });
                }
                // The outputs of one launch are of one kind; logits are multiplied by themselves.
                let is_float = group.first().is_some_and(|(_, out)| out.is_float);
                let x_rows = x.rows(first, rows)?;
                decode_matmul(self.device(), x_rows, rows, x.width, is_float, &parts).map_err(device_error)?;
            }
        }
        Ok(())
    }
}

/// Refuses tensors that don't fit a matrix.
fn check_width(x: &CudaTensor, matrix: &CudaMatrix, out: &CudaTensor) -> Result<(), DecoderError> {
    if x.width == matrix.columns && out.width == matrix.rows && out.rows == x.rows && !x.is_float {
        return Ok(());
    }
    let shapes = [(x.rows, x.width), (matrix.rows, matrix.columns), (out.rows, out.width)];
    Err(DecoderError::Device(format!("rows, matrix and product have shapes {shapes:?}, which do not fit")))
}
