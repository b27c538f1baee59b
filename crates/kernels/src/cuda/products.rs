//! Products of rows with weight matrices, and what follows them before their sums leave the registers.
//!
//! A row's result does not depend on how many rows are multiplied beside it, from 1 to any number.

use std::{
    ffi::{c_int, c_void},
    ptr::{null, null_mut},
};

use super::{CudaError, Device, Slice, check, int, require};

const HALF: usize = 2;
/// Most matrices of a launch.
const MOST_MATRICES: usize = 3;

/// One matrix of a product: `out = x·weightsᵀ + bias`.
#[derive(Debug, Clone, Copy)]
pub struct MatrixProduct<'a> {
    /// bf16 `[outputs, columns]`
    pub weights: Slice<'a>,
    /// bf16 `[outputs]`
    pub bias: Option<Slice<'a>>,
    /// `[rows, outputs]`
    pub out: Slice<'a>,
    /// Rows of the matrix.
    pub outputs: usize,
}

/// Rows to be multiplied, bf16 `[rows, columns]`.
#[derive(Debug, Clone, Copy)]
pub struct Factor<'a> {
    /// The rows.
    pub x: Slice<'a>,
    /// Their number.
    pub rows: usize,
    /// Their width; a multiple of 8.
    pub columns: usize,
}

/// What becomes of sums; numbers as in `fused_matmul.cu`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(i32)]
enum Finish {
    Store = 0,
    StoreFloat = 1,
    Add = 2,
    Gate = 3,
}

impl Finish {
    fn element(self) -> usize {
        if matches!(self, Self::Store | Self::Gate) { HALF } else { size_of::<f32>() }
    }
}

/// The launcher's arguments, of a checked length.
struct Arguments {
    x: *mut c_void,
    weights: [*const c_void; MOST_MATRICES],
    biases: [*const c_void; MOST_MATRICES],
    outs: [*mut c_void; MOST_MATRICES],
    outputs: [c_int; MOST_MATRICES],
    count: c_int,
    rows: c_int,
    columns: c_int,
}

impl Arguments {
    fn new(factor: Factor<'_>, products: &[MatrixProduct<'_>], element: usize) -> Result<Self, CudaError> {
        let Factor { x, rows, columns } = factor;
        require(
            (1..=MOST_MATRICES).contains(&products.len()),
            "the number of matrices of a product",
            products.len(),
            "1 to 3",
        )?;
        require(columns.is_multiple_of(8), "the number of columns of a matrix", columns, "a multiple of 8")?;
        let mut arguments = Self {
            x: x.at_least("the rows of a product", rows * columns * HALF)?,
            weights: [null(); MOST_MATRICES],
            biases: [null(); MOST_MATRICES],
            outs: [null_mut(); MOST_MATRICES],
            outputs: [0; MOST_MATRICES],
            count: int("the number of matrices", products.len())?,
            rows: int("the number of rows", rows)?,
            columns: int("the number of columns", columns)?,
        };
        for (i, product) in products.iter().enumerate() {
            let MatrixProduct { weights, bias, out, outputs } = *product;
            arguments.weights[i] = weights.at_least("the weights", outputs * columns * HALF)?.cast_const();
            if let Some(bias) = bias {
                arguments.biases[i] = bias.at_least("the bias", outputs * HALF)?.cast_const();
            }
            arguments.outs[i] = out.at_least("the product", rows * outputs * element)?;
            arguments.outputs[i] = int("the number of outputs", outputs)?;
        }
        Ok(arguments)
    }
}

/// Multiplies rows with up to three matrices; outputs are f32 if `is_float`, else bf16.
///
/// # Errors
/// [`CudaError`] when shapes don't match.
pub fn matmul(
    device: &Device,
    factor: Factor<'_>,
    is_float: bool,
    products: &[MatrixProduct<'_>],
) -> Result<(), CudaError> {
    launch(device, factor, products, if is_float { Finish::StoreFloat } else { Finish::Store })
}

/// `out += x·weightsᵀ + bias`, in f32: the product's output is the residual stream.
///
/// # Errors
/// [`CudaError`] when shapes don't match.
pub fn matmul_add(device: &Device, factor: Factor<'_>, product: MatrixProduct<'_>) -> Result<(), CudaError> {
    launch(device, factor, &[product], Finish::Add)
}

/// `gate.out = silu(x·gateᵀ)·(x·upᵀ)` in bf16, with the biases of each. `up.out` is left as it is.
///
/// # Errors
/// [`CudaError`] when shapes don't match, or the two matrices differ in height.
pub fn matmul_gate(
    device: &Device,
    factor: Factor<'_>,
    gate: MatrixProduct<'_>,
    up: MatrixProduct<'_>,
) -> Result<(), CudaError> {
    require(gate.outputs == up.outputs, "the height of a gate's second matrix", up.outputs, "that of the first")?;
    launch(device, factor, &[gate, up], Finish::Gate)
}

fn launch(
    device: &Device,
    factor: Factor<'_>,
    products: &[MatrixProduct<'_>],
    finish: Finish,
) -> Result<(), CudaError> {
    let arguments = Arguments::new(factor, products, finish.element())?;
    let Arguments { x, weights, biases, outs, outputs, count, rows, columns } = &arguments;
    if *rows == 0 {
        return Ok(());
    }
    /// The kernel chooses its tiles.
    const ANY_TILE: c_int = 0;
    // SAFETY: every buffer is as long as its shape calls for, the arrays have three entries, and `Finish` numbers what the
    // launcher knows.
    check("fused_matmul", unsafe {
        device.half().edgewise_fused_matmul(
            *x,
            weights.as_ptr(),
            biases.as_ptr(),
            outs.as_ptr(),
            outputs.as_ptr(),
            *count,
            finish as c_int,
            *rows,
            *columns,
            ANY_TILE,
            device.stream(),
        )
    })
}
