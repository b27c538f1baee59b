//! Products of rows with weight matrices, and what follows them: the residual stream is added to, and the gate applied,
//! where a product's sums are.

use edgewise_kernels::cuda::{DeviceMemory, Factor, MatrixProduct, RmsNorm, matmul, matmul_add, matmul_gate};

use super::{Cuda, CudaMatrix, CudaTensor, Norm, device_error};
use crate::decoder::DecoderError;

/// Most matrices of one launch.
const MOST_MATRICES: usize = 3;

impl Cuda {
    /// Multiplies `x` with each of the matrices. Outputs that are multiplied together are of one kind.
    pub(super) fn products(
        &self,
        x: &CudaTensor,
        products: &[(&CudaMatrix, &mut CudaTensor)],
    ) -> Result<(), DecoderError> {
        for group in products.chunks(MOST_MATRICES) {
            let parts = group.iter().map(|(matrix, out)| matrix_product(x, matrix, out));
            let parts = parts.collect::<Result<Vec<_>, _>>()?;
            let is_float = group.first().is_some_and(|(_, out)| out.is_float);
            matmul(self.device(), factor(x)?, is_float, &parts).map_err(device_error)?;
        }
        Ok(())
    }

    /// `gate ← silu(x·gateᵀ)·(x·upᵀ)`, where nothing is written to `up`.
    pub(super) fn gated_product(
        &self,
        x: &CudaTensor,
        (gate_matrix, gate): (&CudaMatrix, &CudaTensor),
        (up_matrix, up): (&CudaMatrix, &CudaTensor),
    ) -> Result<(), DecoderError> {
        let [gate, up] = [matrix_product(x, gate_matrix, gate)?, matrix_product(x, up_matrix, up)?];
        matmul_gate(self.device(), factor(x)?, gate, up).map_err(device_error)
    }

    /// `residual += x·matrixᵀ; out = norm(residual)`
    pub(super) fn added_product(
        &self,
        x: &CudaTensor,
        (matrix, residual): (&CudaMatrix, &CudaTensor),
        (norm, out): (&Norm<Self>, &CudaTensor),
    ) -> Result<(), DecoderError> {
        matmul_add(self.device(), factor(x)?, matrix_product(x, matrix, residual)?).map_err(device_error)?;
        let norm = RmsNorm {
            x: None,
            residual: Some(residual.all()?),
            weight: norm.weight.all(),
            out: out.all()?,
            rows: residual.rows,
            width: residual.width,
            eps: norm.eps,
        };
        norm.run(self.device()).map_err(device_error)
    }
}

fn factor(x: &CudaTensor) -> Result<Factor<'_>, DecoderError> {
    Ok(Factor { x: x.all()?, rows: x.rows, columns: x.width })
}

/// Refuses tensors that don't fit the matrix.
fn matrix_product<'a>(
    x: &CudaTensor,
    matrix: &'a CudaMatrix,
    out: &'a CudaTensor,
) -> Result<MatrixProduct<'a>, DecoderError> {
    if x.width != matrix.columns || out.width != matrix.rows || out.rows != x.rows || x.is_float {
        let shapes = [(x.rows, x.width), (matrix.rows, matrix.columns), (out.rows, out.width)];
        return Err(DecoderError::Device(format!("rows, matrix and product have shapes {shapes:?}, which do not fit")));
    }
    Ok(MatrixProduct {
        weights: matrix.weights.all(),
        bias: matrix.bias.as_ref().map(DeviceMemory::all),
        out: out.all()?,
        outputs: matrix.rows,
    })
}
