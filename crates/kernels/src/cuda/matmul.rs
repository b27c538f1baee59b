//! Products of rows with weight matrices: many rows by cuBLASLt, few by a kernel of our own.
//!
//! A row's result must not depend on how many rows are multiplied beside it. [`decode_matmul`] keeps that by
//! construction, for up to 64 rows. For cuBLASLt, an algorithm is chosen once for each shape of matrix, among those that
//! do not split the sum over the columns, and used for every number of rows: its tiles then walk along the columns in
//! the same order whatever else is computed.
//!
//! cuBLASLt is loaded when a [`Matmul`] is made, so that a program that never does so needs no such library. Source of
//! names, attributes and layouts: `cublasLt.h` of CUDA 13.

use std::{
    collections::HashMap,
    ffi::{CStr, c_int, c_void},
    mem::transmute,
    ptr::{null, null_mut},
    sync::{Mutex, MutexGuard, PoisonError},
};

use super::{CudaError, Device, DeviceMemory, Half, MOST_DECODE_ROWS, Slice, check, ffi, int, require};

const HALF: usize = 2;
/// Bytes cuBLASLt may use beside its operands; NVIDIA's advice for Hopper.
const WORKSPACE: usize = 32 << 20;
/// Algorithms to look at for a shape.
const CANDIDATES: usize = 16;
/// Numbers of rows an algorithm must be able to multiply.
const TRIED_ROWS: [usize; 6] = [1, 8, 33, 256, 2048, 16384];

const TYPE_F32: c_int = 0;
const TYPE_F16: c_int = 2;
const TYPE_BF16: c_int = 14;
const COMPUTE_F32: c_int = 68;
const DESC_TRANSPOSE_A: c_int = 3;
const DESC_EPILOGUE: c_int = 7;
const DESC_BIAS_POINTER: c_int = 8;
const DESC_BIAS_TYPE: c_int = 26;
const EPILOGUE_BIAS: u32 = 4;
const PREFERENCE_WORKSPACE: c_int = 1;
const PREFERENCE_REDUCTIONS: c_int = 3;
const PREFERENCE_ALIGNMENTS: std::ops::RangeInclusive<c_int> = 5..=8;
const ALGORITHM_SPLITS: c_int = 2;

type Handle = *mut c_void;
type Status = c_int;

/// `cublasLtMatmulAlgo_t`
#[derive(Debug, Clone, Copy, Default)]
#[repr(C)]
struct Algorithm([u64; 8]);

/// `cublasLtMatmulHeuristicResult_t`
#[derive(Debug, Clone, Copy, Default)]
#[repr(C)]
struct Heuristic {
    algorithm: Algorithm,
    workspace: usize,
    status: Status,
    waves: f32,
    reserved: [c_int; 4],
}

type SetAttribute = unsafe extern "C" fn(Handle, c_int, *const c_void, usize) -> Status;
type Destroy = unsafe extern "C" fn(Handle) -> Status;

/// The functions of the library that are used.
#[derive(Debug, Clone, Copy)]
struct Library {
    create: unsafe extern "C" fn(*mut Handle) -> Status,
    destroy: Destroy,
    desc_create: unsafe extern "C" fn(*mut Handle, c_int, c_int) -> Status,
    desc_set: SetAttribute,
    desc_destroy: Destroy,
    layout_create: unsafe extern "C" fn(*mut Handle, c_int, u64, u64, i64) -> Status,
    layout_destroy: Destroy,
    preference_create: unsafe extern "C" fn(*mut Handle) -> Status,
    preference_set: SetAttribute,
    preference_destroy: Destroy,
    heuristic: unsafe extern "C" fn(
        Handle,
        Handle,
        Handle,
        Handle,
        Handle,
        Handle,
        Handle,
        c_int,
        *mut Heuristic,
        *mut c_int,
    ) -> Status,
    algorithm_check: unsafe extern "C" fn(
        Handle,
        Handle,
        Handle,
        Handle,
        Handle,
        Handle,
        *const Algorithm,
        *mut Heuristic,
    ) -> Status,
    algorithm_get: unsafe extern "C" fn(*const Algorithm, c_int, *mut c_void, usize, *mut usize) -> Status,
    matmul: unsafe extern "C" fn(
        Handle,
        Handle,
        *const c_void,
        *const c_void,
        Handle,
        *const c_void,
        Handle,
        *const c_void,
        *const c_void,
        Handle,
        *mut c_void,
        Handle,
        *const Algorithm,
        *mut c_void,
        usize,
        ffi::RawStream,
    ) -> Status,
}

impl Library {
    /// Loads cuBLASLt of CUDA 13 or 12.
    #[allow(clippy::missing_transmute_annotations, reason = "the fields' types are the annotations")]
    fn load() -> Result<Self, CudaError> {
        const NOW: c_int = 2;
        let missing = || CudaError::NoDevice {
            reason: "the library libcublasLt.so.13 of the CUDA toolkit is not found: install it, or add its folder to \
                     LD_LIBRARY_PATH"
                .to_owned(),
        };
        let names: [&CStr; 3] =
            [c"libcublasLt.so.13", c"/usr/local/cuda/lib64/libcublasLt.so.13", c"libcublasLt.so.12"];
        // SAFETY: the library is NVIDIA's, whose initialisers have no preconditions.
        let library = names.iter().map(|name| unsafe { ffi::dlopen(name.as_ptr(), NOW) }).find(|l| !l.is_null());
        let library = library.ok_or_else(missing)?;
        let symbol = |name: &CStr| -> Result<*mut c_void, CudaError> {
            // SAFETY: the library is open and stays so.
            let symbol = unsafe { ffi::dlsym(library, name.as_ptr()) };
            if symbol.is_null() { Err(missing()) } else { Ok(symbol) }
        };
        // SAFETY: the types of the fields are those of the functions in `cublasLt.h`; pointers to opaque structs and
        // enumerations are passed as `*mut c_void` and `c_int`.
        unsafe {
            Ok(Self {
                create: transmute::<*mut c_void, _>(symbol(c"cublasLtCreate")?),
                destroy: transmute::<*mut c_void, _>(symbol(c"cublasLtDestroy")?),
                desc_create: transmute::<*mut c_void, _>(symbol(c"cublasLtMatmulDescCreate")?),
                desc_set: transmute::<*mut c_void, _>(symbol(c"cublasLtMatmulDescSetAttribute")?),
                desc_destroy: transmute::<*mut c_void, _>(symbol(c"cublasLtMatmulDescDestroy")?),
                layout_create: transmute::<*mut c_void, _>(symbol(c"cublasLtMatrixLayoutCreate")?),
                layout_destroy: transmute::<*mut c_void, _>(symbol(c"cublasLtMatrixLayoutDestroy")?),
                preference_create: transmute::<*mut c_void, _>(symbol(c"cublasLtMatmulPreferenceCreate")?),
                preference_set: transmute::<*mut c_void, _>(symbol(c"cublasLtMatmulPreferenceSetAttribute")?),
                preference_destroy: transmute::<*mut c_void, _>(symbol(c"cublasLtMatmulPreferenceDestroy")?),
                heuristic: transmute::<*mut c_void, _>(symbol(c"cublasLtMatmulAlgoGetHeuristic")?),
                algorithm_check: transmute::<*mut c_void, _>(symbol(c"cublasLtMatmulAlgoCheck")?),
                algorithm_get: transmute::<*mut c_void, _>(symbol(c"cublasLtMatmulAlgoConfigGetAttribute")?),
                matmul: transmute::<*mut c_void, _>(symbol(c"cublasLtMatmul")?),
            })
        }
    }
}

/// A descriptor that is destroyed when dropped.
#[derive(Debug)]
struct Owned {
    raw: Handle,
    destroy: Destroy,
}

impl Drop for Owned {
    fn drop(&mut self) {
        // SAFETY: created by the function that belongs to `destroy`.
        unsafe { (self.destroy)(self.raw) };
    }
}

/// What decides the choice of an algorithm.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
struct Key {
    half: Half,
    outputs: usize,
    columns: usize,
    typical_rows: usize,
    is_float: bool,
    bias: bool,
}

impl Key {
    /// What the library calls the 16-bit numbers.
    fn half_type(self) -> c_int {
        match self.half {
            Half::Bf16 => TYPE_BF16,
            Half::F16 => TYPE_F16,
        }
    }
}

#[derive(Debug)]
struct Plan {
    desc: Owned,
    weights: Owned,
    algorithm: Algorithm,
}

/// Multiplies by cuBLASLt.
#[derive(Debug)]
pub struct Matmul {
    device: Device,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    library: Library,
    // Before the handle they belong to.
    plans: HashMap<Key, Plan>,
    handle: Owned,
    workspace: DeviceMemory,
}

// SAFETY: the library's handles and descriptors may be used from any thread, one at a time, which the mutex ensures.
unsafe impl Send for State {}

/// A product of rows with a matrix: `out = x·weightsᵀ + bias`.
#[derive(Debug, Clone, Copy)]
pub struct Product<'a> {
    /// bf16 `[rows, columns]`
    pub x: Slice<'a>,
    /// bf16 `[outputs, columns]`
    pub weights: Slice<'a>,
    /// bf16 `[outputs]`
    pub bias: Option<Slice<'a>>,
    /// `[rows, outputs]`, bf16 or f32.
    pub out: Slice<'a>,
    /// Whether `out` is f32.
    pub is_float: bool,
    /// Rows.
    pub rows: usize,
    /// Rows of the matrix.
    pub outputs: usize,
    /// Columns of the matrix; a multiple of 8.
    pub columns: usize,
}

impl Product<'_> {
    fn pointers(&self) -> Result<[*mut c_void; 4], CudaError> {
        let size = if self.is_float { size_of::<f32>() } else { HALF };
        require(self.columns.is_multiple_of(8), "the number of columns of a matrix", self.columns, "a multiple of 8")?;
        let bias = self.bias.map_or(Ok(null_mut()), |bias| bias.at_least("the bias", self.outputs * HALF))?;
        Ok([
            self.x.at_least("the rows of a product", self.rows * self.columns * HALF)?,
            self.weights.at_least("the weights", self.outputs * self.columns * HALF)?,
            bias,
            self.out.at_least("the product", self.rows * self.outputs * size)?,
        ])
    }
}

fn blas(call: &'static str, status: Status) -> Result<(), CudaError> {
    if status == 0 { Ok(()) } else { Err(CudaError::Call { call, reason: format!("cuBLAS status {status}") }) }
}

impl Matmul {
    /// Loads cuBLASLt and takes its workspace.
    ///
    /// # Errors
    /// [`CudaError`] when the library or memory is missing.
    pub fn new(device: &Device) -> Result<Self, CudaError> {
        let library = Library::load()?;
        let mut raw = null_mut();
        // SAFETY: writes a handle.
        blas("cublasLtCreate", unsafe { (library.create)(&mut raw) })?;
        let handle = Owned { raw, destroy: library.destroy };
        let workspace = DeviceMemory::new(device, WORKSPACE)?;
        let state = State { library, plans: HashMap::new(), handle, workspace };
        Ok(Self { device: device.clone(), state: Mutex::new(state) })
    }

    /// Issues a product. Its algorithm is one that is good for `typical_rows` rows; products with the same number there
    /// give the same results, bit for bit, however many rows they have.
    ///
    /// # Errors
    /// [`CudaError`] when shapes don't match or the library has no algorithm.
    pub fn run(&self, product: &Product<'_>, typical_rows: usize) -> Result<(), CudaError> {
        let [x, weights, bias, out] = product.pointers()?;
        if product.rows == 0 {
            return Ok(());
        }
        let &Product { is_float, rows, outputs, columns, .. } = product;
        let key = Key { half: self.device.half(), outputs, columns, typical_rows, is_float, bias: !bias.is_null() };
        let mut state = self.lock();
        if !state.plans.contains_key(&key) {
            let plan = state.plan(key, bias)?;
            state.plans.insert(key, plan);
        }
        let Some(plan) = state.plans.get(&key) else { return Ok(()) };
        if !bias.is_null() {
            state.library.set(&plan.desc, DESC_BIAS_POINTER, &bias)?;
        }
        let (rows_layout, out_layout) = (state.library.rows(key, rows)?, state.library.out(key, rows)?);
        let (one, zero) = (1.0f32, 0.0f32);
        // SAFETY: the operands were found as long as their layouts say; the workspace is used by one product at a time,
        // as all are issued on one stream.
        blas("cublasLtMatmul", unsafe {
            (state.library.matmul)(
                state.handle.raw,
                plan.desc.raw,
                (&raw const one).cast(),
                weights,
                plan.weights.raw,
                x,
                rows_layout.raw,
                (&raw const zero).cast(),
                out,
                out_layout.raw,
                out,
                out_layout.raw,
                &plan.algorithm,
                state.workspace.all().pointer(),
                WORKSPACE,
                self.device.stream(),
            )
        })
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Library {
    fn layout(&self, kind: c_int, rows: usize, columns: usize) -> Result<Owned, CudaError> {
        let mut raw = null_mut();
        // SAFETY: writes a descriptor. Columns lie one after the other.
        blas("cublasLtMatrixLayoutCreate", unsafe {
            (self.layout_create)(&mut raw, kind, rows as u64, columns as u64, rows as i64)
        })?;
        Ok(Owned { raw, destroy: self.layout_destroy })
    }

    /// The product `[rows, outputs]`, as the library sees it: its transpose, column after column.
    fn out(&self, key: Key, rows: usize) -> Result<Owned, CudaError> {
        self.layout(if key.is_float { TYPE_F32 } else { key.half_type() }, key.outputs, rows)
    }

    fn rows(&self, key: Key, rows: usize) -> Result<Owned, CudaError> {
        self.layout(key.half_type(), key.columns, rows)
    }

    fn set<T>(&self, desc: &Owned, attribute: c_int, value: &T) -> Result<(), CudaError> {
        // SAFETY: the descriptor exists, and the library reads as many bytes as the value has.
        blas("cublasLtMatmulDescSetAttribute", unsafe {
            (self.desc_set)(desc.raw, attribute, (&raw const *value).cast(), size_of::<T>())
        })
    }
}

impl State {
    /// Chooses the algorithm for a shape.
    fn plan(&self, key: Key, bias: *mut c_void) -> Result<Plan, CudaError> {
        let library = &self.library;
        let mut raw = null_mut();
        // SAFETY: writes a descriptor.
        blas("cublasLtMatmulDescCreate", unsafe { (library.desc_create)(&mut raw, COMPUTE_F32, TYPE_F32) })?;
        let desc = Owned { raw, destroy: library.desc_destroy };
        library.set(&desc, DESC_TRANSPOSE_A, &1i32)?;
        if key.bias {
            library.set(&desc, DESC_EPILOGUE, &EPILOGUE_BIAS)?;
            library.set(&desc, DESC_BIAS_TYPE, &key.half_type())?;
            library.set(&desc, DESC_BIAS_POINTER, &bias)?;
        }
        let weights = library.layout(key.half_type(), key.columns, key.outputs)?;
        // SAFETY: writes a preference.
        blas("cublasLtMatmulPreferenceCreate", unsafe { (library.preference_create)(&mut raw) })?;
        let preference = Owned { raw, destroy: library.preference_destroy };
        let prefer = |attribute: c_int, value: *const c_void, bytes: usize| {
            // SAFETY: the preference exists; the value has as many bytes.
            blas("cublasLtMatmulPreferenceSetAttribute", unsafe {
                (library.preference_set)(preference.raw, attribute, value, bytes)
            })
        };
        let (workspace, reductions, alignment) = (WORKSPACE as u64, 0u32, 16u32);
        prefer(PREFERENCE_WORKSPACE, (&raw const workspace).cast(), size_of::<u64>())?;
        prefer(PREFERENCE_REDUCTIONS, (&raw const reductions).cast(), size_of::<u32>())?;
        for attribute in PREFERENCE_ALIGNMENTS {
            prefer(attribute, (&raw const alignment).cast(), size_of::<u32>())?;
        }
        let (x, out) = (library.rows(key, key.typical_rows)?, library.out(key, key.typical_rows)?);
        let mut found = [Heuristic::default(); CANDIDATES];
        let mut count = 0;
        // SAFETY: all descriptors exist; at most `CANDIDATES` results are written.
        blas("cublasLtMatmulAlgoGetHeuristic", unsafe {
            (library.heuristic)(
                self.handle.raw,
                desc.raw,
                weights.raw,
                x.raw,
                out.raw,
                out.raw,
                preference.raw,
                int("candidates", CANDIDATES)?,
                found.as_mut_ptr(),
                &mut count,
            )
        })?;
        let count = usize::try_from(count).unwrap_or(0);
        for candidate in found.iter().take(count).filter(|candidate| candidate.status == 0) {
            if self.splits(&candidate.algorithm)? <= 1 && self.fits(key, &desc, &weights, &candidate.algorithm)? {
                return Ok(Plan { desc, weights, algorithm: candidate.algorithm });
            }
        }
        Err(CudaError::Argument {
            what: "the number of outputs of a matrix",
            actual: key.outputs,
            rule: "one that cuBLASLt has an algorithm for",
        })
    }

    /// In how many parts an algorithm cuts the sum over the columns.
    fn splits(&self, algorithm: &Algorithm) -> Result<i32, CudaError> {
        let (mut splits, mut written) = (0i32, 0);
        // SAFETY: writes a number of the size given.
        blas("cublasLtMatmulAlgoConfigGetAttribute", unsafe {
            let splits = (&raw mut splits).cast();
            (self.library.algorithm_get)(algorithm, ALGORITHM_SPLITS, splits, size_of::<i32>(), &mut written)
        })?;
        Ok(splits)
    }

    /// Whether an algorithm can multiply any number of rows.
    fn fits(&self, key: Key, desc: &Owned, weights: &Owned, algorithm: &Algorithm) -> Result<bool, CudaError> {
        for rows in TRIED_ROWS {
            let (x, out) = (self.library.rows(key, rows)?, self.library.out(key, rows)?);
            let mut result = Heuristic::default();
            // SAFETY: all descriptors exist; one result is written.
            let status = unsafe {
                (self.library.algorithm_check)(
                    self.handle.raw,
                    desc.raw,
                    weights.raw,
                    x.raw,
                    out.raw,
                    out.raw,
                    algorithm,
                    &mut result,
                )
            };
            if status != 0 || result.workspace > WORKSPACE {
                return Ok(false);
            }
        }
        Ok(true)
    }
}

/// One matrix of a [`decode_matmul`].
#[derive(Debug, Clone, Copy)]
pub struct DecodeProduct<'a> {
    /// bf16 `[outputs, columns]`
    pub weights: Slice<'a>,
    /// bf16 `[outputs]`
    pub bias: Option<Slice<'a>>,
    /// `[rows, outputs]`
    pub out: Slice<'a>,
    /// Rows of the matrix.
    pub outputs: usize,
}

/// Multiplies up to 64 rows `x`, bf16 `[rows, columns]`, with up to three matrices; outputs are f32 if `is_float`, else
/// bf16. A row's results are the same, bit for bit, whatever the number of rows.
///
/// # Errors
/// [`CudaError`] when shapes don't match.
pub fn decode_matmul(
    device: &Device,
    x: Slice<'_>,
    rows: usize,
    columns: usize,
    is_float: bool,
    products: &[DecodeProduct<'_>],
) -> Result<(), CudaError> {
    require(rows <= MOST_DECODE_ROWS, "the number of rows of a product", rows, "at most 64")?;
    require((1..=3).contains(&products.len()), "the number of matrices of a product", products.len(), "1 to 3")?;
    let (mut weights, mut biases, mut outs, mut outputs) = ([null(); 3], [null(); 3], [null_mut(); 3], [0; 3]);
    for (i, product) in products.iter().enumerate() {
        let DecodeProduct { weights: matrix, bias, out, outputs: count } = *product;
        let whole = Product { x, weights: matrix, bias, out, is_float, rows, outputs: count, columns };
        let [_, matrix, bias, out] = whole.pointers()?;
        (weights[i], biases[i], outs[i]) = (matrix.cast_const(), bias.cast_const(), out);
        outputs[i] = int("the number of outputs", count)?;
    }
    let count = int("the number of matrices", products.len())?;
    let (rows, columns) = (int("the number of rows", rows)?, int("the number of columns", columns)?);
    // SAFETY: every buffer is as long as its shape calls for, and the arrays have three entries.
    check("decode_matmul", unsafe {
        device.half().edgewise_decode_matmul(
            x.pointer(),
            weights.as_ptr(),
            biases.as_ptr(),
            outs.as_ptr(),
            outputs.as_ptr(),
            count,
            c_int::from(is_float),
            rows,
            columns,
            device.stream(),
        )
    })
}
