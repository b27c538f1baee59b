//! The forward pass's operations on NVIDIA Hopper: weights, activations, keys and values in bf16 or half precision, sums
//! and the residual stream in f32; keys and values in FP8 pages where [`CudaOptions::kv_format`] says so (`fp8`).
//!
//! Rounding to 16 bits is what logits differ from exact arithmetic by, in every product and sublayer alike: with the 8
//! significant bits of bf16 by about a percent, with the 11 of half precision by an eighth of that. Half precision ends
//! at 65504, which some models exceed: [`CudaOptions::half`] says which it is.
//!
//! A row's result is, bit for bit, a function of its sequence: every kernel adds a row's terms in an order that neither
//! the batch nor the pages decide. But attention of prompts and of generated tokens are different kernels. That of a
//! prompt's many rows is bound by arithmetic and of a step's few rows by memory, and what is fastest for the one is
//! several times slower for the other; the two add in different orders. So a row is computed by its kind, which is part
//! of what its sequence is (`batch`), and pages of generated tokens are not shared with prompts
//! ([`Backend::shares_generated`]): a follow-up prefills the answer before it again, some hundred tokens.
//!
//! With candle-flash-attn for prompts (`flash`) a row's bits follow from where its prompt was first cut, too.
//!
//! What the kernels do not have (ALiBi, other widths of heads, other cards) is refused when a model is loaded.

mod arena;
mod attend;
mod batch;
#[cfg(feature = "flash-attn")]
mod flash;
mod fp8;
mod pages;
mod plan;
mod products;
mod scores;
mod steps;
mod tensor;
mod times;
mod weights;

use std::sync::{
    Arc, Mutex, MutexGuard, PoisonError,
    atomic::{AtomicBool, Ordering},
};

use edgewise_kernels::{
    Pairing,
    cuda::{
        CudaError, Device, DeviceMemory, Event, KvFormat, PagedShape, PinnedMemory, RmsNorm, RopePages, Slice, TopK,
        gather_rows,
    },
};

pub use pages::CudaKv;
pub use plan::CudaOptions;
use tensor::CudaTensor;
use times::Times;
pub use times::{Ceilings, PassTimes};
use weights::CudaMatrix;

use self::{arena::Arena, batch::Batch, steps::Steps};
use super::{Activations, Backend, HostMatrix, Norm};
use crate::{
    PromptAttention,
    decoder::{DecoderConfig, DecoderError, Positions},
    step_model::{BatchEntry, Demand, Meanwhile, Scores},
};

/// Positions in a page: prefill reads pages of 64 faster than pages of 32 by 7 %, and larger ones waste more.
const PAGE: usize = 64;
const HALF: usize = 2;
/// Bytes of weights on their way to the device at a time.
const STAGED: usize = 64 << 20;

fn device_error(error: CudaError) -> DecoderError {
    DecoderError::Device(error.to_string())
}

/// The first visible NVIDIA Hopper.
#[derive(Debug, Clone)]
pub struct Cuda(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    device: Device,
    options: CudaOptions,
    arena: Mutex<Arc<Arena>>,
    upload: Mutex<Upload>,
    /// What is read back.
    read: Mutex<PinnedMemory>,
    top_k: Mutex<TopK>,
    times: Mutex<Times>,
    /// Whether moving a page failed, so that pages are no longer what they should be.
    failed: AtomicBool,
}

/// The way of a batch's numbers to the device.
#[derive(Debug)]
struct Upload {
    host: PinnedMemory,
    device: Arc<DeviceMemory>,
    /// Behind the last copy.
    copied: Event,
}

/// What attention needs of a model.
#[derive(Debug)]
pub struct CudaAttention {
    /// Without pages.
    shape: PagedShape,
    layers: usize,
    rotary_dim: usize,
    adjacent: bool,
    /// Served positions, those of the tables.
    positions: usize,
    cosines: DeviceMemory,
    sines: DeviceMemory,
    workspace: Mutex<DeviceMemory>,
    /// With FP8 pages, what prompts read them through.
    scratch: Option<fp8::Scratch>,
    steps: Mutex<Steps>,
    #[cfg(feature = "flash-attn")]
    flash: Option<flash::Flash>,
}

/// What the layers of a pass share.
#[derive(Debug)]
pub struct CudaPass {
    batch: Batch,
    numbers: Arc<DeviceMemory>,
}

impl CudaPass {
    fn numbers(&self, first: usize, count: usize) -> Result<Slice<'_>, DecoderError> {
        self.numbers.slice(first * size_of::<i32>(), count * size_of::<i32>()).map_err(device_error)
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Cuda {
    /// Opens the device.
    ///
    /// # Errors
    /// [`DecoderError::Device`] when there is none, it is no Hopper, or the program was not built with the attention asked
    /// for.
    pub fn open(options: CudaOptions) -> Result<Self, DecoderError> {
        crate::load::check_attention(options.attention).map_err(|error| DecoderError::Device(error.to_string()))?;
        let open = || -> Result<Self, CudaError> {
            let device = Device::open(options.half)?;
            Ok(Self(Arc::new(Inner {
                arena: Mutex::new(Arena::new(&device, 0)?),
                upload: Mutex::new(Upload {
                    host: PinnedMemory::new(&device, 1 << 16)?,
                    device: Arc::new(DeviceMemory::new(&device, 1 << 16)?),
                    copied: Event::new(&device)?,
                }),
                read: Mutex::new(PinnedMemory::new(&device, 1 << 16)?),
                top_k: Mutex::new(TopK::new(&device)?),
                times: Mutex::new(Times::new(&device)?),
                failed: AtomicBool::new(false),
                options,
                device,
            })))
        };
        open().map_err(device_error)
    }

    /// Waits until everything that was issued is done.
    ///
    /// # Errors
    /// [`DecoderError::Device`], also for what failed while it ran.
    pub fn synchronize(&self) -> Result<(), DecoderError> {
        self.device().synchronize().map_err(device_error)
    }

    fn device(&self) -> &Device {
        &self.0.device
    }

    fn options(&self) -> &CudaOptions {
        &self.0.options
    }

    /// Copies bytes to device memory by way of pinned memory.
    fn stage(&self, to: &DeviceMemory, first: usize, bytes: &[u8]) -> Result<(), DecoderError> {
        let copy = || -> Result<(), CudaError> {
            let mut read = lock(&self.0.read);
            if read.bytes() < bytes.len().min(STAGED) {
                *read = PinnedMemory::new(self.device(), STAGED)?;
            }
            let at_once = read.bytes();
            for (i, part) in bytes.chunks(at_once).enumerate() {
                self.device().synchronize()?;
                read.bytes_mut()[..part.len()].copy_from_slice(part);
                to.slice(first + i * at_once, part.len())?.upload(self.device(), &read)?;
            }
            self.device().synchronize()
        };
        copy().map_err(device_error)
    }

    fn place(&self, rows: usize, width: usize, is_float: bool) -> Result<CudaTensor, DecoderError> {
        let bytes = rows * width * if is_float { size_of::<f32>() } else { HALF };
        let block = lock(&self.0.arena).block(self.device(), bytes);
        let block = block.map_err(|error| match error {
            CudaError::OutOfMemory { bytes, .. } => {
                let (free, total) = self.device().memory().unwrap_or_default();
                DecoderError::DeviceMemory {
                    what: format!("a pass of {rows} rows"),
                    needed: bytes,
                    free,
                    total,
                    remedy: "compute fewer tokens at once".to_owned(),
                }
            }
            other => device_error(other),
        })?;
        Ok(CudaTensor { block, rows, width, is_float })
    }

    /// Notes a failure that has no other way to the caller: no pass is computed any more.
    fn note(&self, what: &str, result: Result<(), DecoderError>) {
        if let Err(error) = result {
            tracing::error!(%error, "{what} failed");
            self.0.failed.store(true, Ordering::Release);
        }
    }
}

impl Backend for Cuda {
    const IS_DEVICE: bool = true;

    type Matrix = CudaMatrix;
    type Vector = DeviceMemory;
    type Tensor = CudaTensor;
    type Attention = CudaAttention;
    type Pass<'a> = CudaPass;
    type Kv = CudaKv;

    fn matrix(&self, weights: &HostMatrix<'_>, bias: Option<&[f32]>) -> Result<CudaMatrix, DecoderError> {
        CudaMatrix::new(self, weights, bias)
    }

    fn matrix_bytes(matrix: &CudaMatrix) -> usize {
        matrix.bytes()
    }

    fn vector(&self, values: Vec<f32>) -> Result<DeviceMemory, DecoderError> {
        weights::vector(self, &values)
    }

    /// Checks that the model is one the kernels have and that it fits, and makes room for its activations.
    fn attention(&self, config: &DecoderConfig) -> Result<CudaAttention, DecoderError> {
        plan::check(config)?;
        self.check_room(config)?;
        let Positions::Rotary(rope) = &config.positions else {
            return Err(DecoderError::Unsupported { reason: "it has no rotary positions".to_owned() });
        };
        let shape = PagedShape {
            heads: config.heads,
            kv_heads: config.kv_heads,
            head_dim: config.head_dim,
            pages: 0,
            page_tokens: PAGE,
            scale: config.attention_scale,
            format: self.options().kv_format,
        };
        let device = self.device();
        let table = rope.table();
        let angles = |turn: fn(f64) -> f64| -> Result<DeviceMemory, DecoderError> {
            let value =
                |position: usize, frequency: &f64| (turn(position as f64 * frequency) * table.attention_factor) as f32;
            let row = |position| table.frequencies.iter().map(move |f| value(position, f)).collect::<Vec<f32>>();
            let values = (0..config.context_window).flat_map(row);
            let bytes: Vec<u8> = values.flat_map(f32::to_le_bytes).collect();
            let memory = DeviceMemory::new(device, bytes.len()).map_err(device_error)?;
            self.stage(&memory, 0, &bytes)?;
            Ok(memory)
        };
        let bytes = plan::activation_bytes(config, self.options());
        let mut arena = lock(&self.0.arena);
        if arena.bytes() < bytes {
            *arena = Arena::new(device, bytes).map_err(device_error)?;
        }
        drop(arena);
        let workspace = shape.decode_workspace(batch::DECODE_ROWS).map_err(device_error)?;
        Ok(CudaAttention {
            layers: config.layers,
            rotary_dim: rope.rotary_dim,
            adjacent: rope.pairing == Pairing::Adjacent,
            positions: config.context_window,
            cosines: angles(f64::cos)?,
            sines: angles(f64::sin)?,
            workspace: Mutex::new(DeviceMemory::new(device, workspace).map_err(device_error)?),
            scratch: fp8::Scratch::new(self, config)?,
            steps: Mutex::default(),
            #[cfg(feature = "flash-attn")]
            flash: flash::Flash::new(self, config, &shape)?,
            shape,
        })
    }

    fn shares_generated(&self) -> bool {
        false
    }

    fn kv_format(&self) -> String {
        let attention = match self.options().attention {
            PromptAttention::Own => "",
            // Keys and values behind the first layer follow from it.
            PromptAttention::FlashAttn => " flash-attn",
        };
        let pages = if self.options().kv_format == KvFormat::Fp8 { " fp8" } else { "" };
        format!("cuda sm90 {} page {PAGE} fused products{attention}{pages}", self.options().half.name())
    }

    fn page_tokens(&self) -> usize {
        PAGE
    }

    fn page_bytes(&self, attention: &CudaAttention) -> usize {
        pages::page_bytes(attention)
    }

    fn allocate(&self, attention: &CudaAttention, pages: usize) -> Result<CudaKv, DecoderError> {
        CudaKv::new(self, attention, pages)
    }

    fn pages(kv: &CudaKv) -> usize {
        kv.pages()
    }

    fn copy_page(&self, kv: &mut CudaKv, from: usize, to: usize, _: usize) {
        self.note("copying a page of keys and values", kv.copy(self, from, to));
    }

    fn read_page(&self, kv: &CudaKv, page: usize, out: &mut Vec<u8>) {
        self.note("reading a page of keys and values", kv.read(self, page, out));
    }

    fn write_page(&self, kv: &mut CudaKv, page: usize, bytes: &[u8]) {
        self.note("writing a page of keys and values", kv.write(self, page, bytes));
    }

    fn begin<'a>(&self, attention: &CudaAttention, batch: &'a [BatchEntry<'a>]) -> Result<CudaPass, DecoderError> {
        if self.0.failed.load(Ordering::Acquire) {
            return Err(DecoderError::Device("pages could not be moved before; restart the engine".to_owned()));
        }
        if let Some(entry) = batch.iter().find(|e| e.position + e.tokens.len() > attention.positions) {
            let (held, added) = (entry.position, entry.tokens.len());
            return Err(DecoderError::WindowExceeded { held, added, window: attention.positions });
        }
        lock(&self.0.times).begin().map_err(device_error)?;
        let batch = Batch::new(batch);
        let copy = || -> Result<Arc<DeviceMemory>, CudaError> {
            let bytes = batch.numbers.len() * size_of::<i32>();
            let mut upload = lock(&self.0.upload);
            upload.copied.wait()?;
            if upload.host.bytes() < bytes {
                upload.host = PinnedMemory::new(self.device(), bytes.next_power_of_two())?;
            }
            // Another pass that is not over keeps its numbers.
            if upload.device.bytes() < bytes || Arc::strong_count(&upload.device) > 1 {
                upload.device = Arc::new(DeviceMemory::new(self.device(), bytes.next_power_of_two())?);
            }
            for (to, number) in upload.host.bytes_mut().as_chunks_mut().0.iter_mut().zip(&batch.numbers) {
                *to = number.to_le_bytes();
            }
            upload.device.slice(0, bytes)?.upload(self.device(), &upload.host)?;
            upload.copied.record()?;
            Ok(upload.device.clone())
        };
        let numbers = copy().map_err(device_error)?;
        Ok(CudaPass { batch, numbers })
    }

    fn rows(&self, pass: &CudaPass, _: &[BatchEntry<'_>]) -> (usize, usize) {
        (pass.batch.rows, pass.batch.wanted)
    }

    fn issue(
        &self,
        attention: &CudaAttention,
        pass: &mut Self::Pass<'_>,
        kv: &mut CudaKv,
        tensors: &mut Activations<Self>,
        issue: impl FnOnce(&mut Self::Pass<'_>, &mut CudaKv, &mut Activations<Self>) -> Result<(), DecoderError>,
    ) -> Result<(), DecoderError> {
        // What is not in the arena is freed after the pass, and may be anywhere the next time.
        let all = tensors.all();
        if !pass.batch.is_step || !all.iter().all(|tensor| tensor.block.is_part()) {
            return issue(pass, kv, tensors);
        }
        let mut key = vec![pass.batch.rows, kv.pages(), kv.address(), pass.numbers.all().address()];
        key.extend(pass.batch.launches.iter().map(|launch| launch.table_stride));
        for tensor in all {
            key.push(tensor.all()?.address());
        }
        // SAFETY: a step computes in `tensors`, pages and workspaces of the decoder alone; its places in the batch's
        // numbers follow from its rows and the width of its table. `begin` and `Decoder::check` checked the numbers.
        unsafe { lock(&attention.steps).issue(self.device(), key, || issue(pass, kv, tensors)) }
    }

    fn tensor(&self, rows: usize, width: usize) -> Result<CudaTensor, DecoderError> {
        self.place(rows, width, false)
    }

    /// In f32: models with a few very large values there would lose most of what bf16 costs them.
    fn residual(&self, rows: usize, width: usize) -> Result<CudaTensor, DecoderError> {
        self.place(rows, width, true)
    }

    fn logits(&self, rows: usize, width: usize) -> Result<CudaTensor, DecoderError> {
        self.place(rows, width, true)
    }

    fn embed(&self, pass: &CudaPass, table: &CudaMatrix, out: &mut CudaTensor) -> Result<(), DecoderError> {
        let ids = pass.numbers(pass.batch.tokens, pass.batch.rows)?;
        let (table, rows) = (table.weights.all(), pass.batch.rows);
        // SAFETY: `Decoder::check` refused tokens beyond the vocabulary, which the table has a row for each of.
        unsafe { gather_rows(self.device(), table, ids, (out.all()?, out.is_float), rows, out.width) }
            .map_err(device_error)
    }

    fn norm(&self, x: &CudaTensor, norm: &Norm<Self>, out: &mut CudaTensor) -> Result<(), DecoderError> {
        let (all, weight, out) = (Some(x.all()?), norm.weight.all(), out.all()?);
        let (x_in, residual) = if x.is_float { (None, all) } else { (all, None) };
        let norm = RmsNorm { x: x_in, residual, weight, out, rows: x.rows, width: x.width, eps: norm.eps };
        norm.run(self.device()).map_err(device_error)
    }

    fn project(
        &self,
        _: &mut CudaPass,
        x: &CudaTensor,
        products: &mut [(&CudaMatrix, &mut CudaTensor)],
    ) -> Result<(), DecoderError> {
        self.products(x, products)
    }

    fn project_gated(
        &self,
        _: &mut CudaPass,
        x: &CudaTensor,
        (gate_matrix, gate): (&CudaMatrix, &mut CudaTensor),
        (up_matrix, up): (&CudaMatrix, &mut CudaTensor),
    ) -> Result<(), DecoderError> {
        self.gated_product(x, (gate_matrix, gate), (up_matrix, up))
    }

    fn project_add_norm(
        &self,
        _: &mut CudaPass,
        x: &CudaTensor,
        (matrix, _): (&CudaMatrix, &mut CudaTensor),
        residual: &mut CudaTensor,
        norm: &Norm<Self>,
        out: &mut CudaTensor,
    ) -> Result<(), DecoderError> {
        self.added_product(x, (matrix, residual), (norm, out))
    }

    fn write_kv(
        &self,
        attention: &CudaAttention,
        pass: &CudaPass,
        (kv, layer): (&mut CudaKv, usize),
        head_norms: Option<&[Norm<Self>; 2]>,
        [q, k, v]: [&mut CudaTensor; 3],
    ) -> Result<(), DecoderError> {
        let [keys, values] = kv.layer(layer)?;
        let rows = pass.batch.rows;
        let rope = RopePages {
            shape: PagedShape { pages: kv.pages(), ..attention.shape },
            q: q.all()?,
            k: k.all()?,
            v: v.all()?,
            keys,
            values,
            cosines: attention.cosines.all(),
            sines: attention.sines.all(),
            positions: pass.numbers(pass.batch.positions, rows)?,
            slots: pass.numbers(pass.batch.slots, rows)?,
            norms: head_norms.map(|[q, k]| [q.weight.all(), k.weight.all()]),
            eps: head_norms.map_or(0.0, |[q, _]| q.eps),
            tokens: rows,
            rotary_dim: attention.rotary_dim,
            adjacent: attention.adjacent,
            rotates_keys: self.options().attention == PromptAttention::FlashAttn && !pass.batch.is_step,
        };
        // SAFETY: `begin` refused positions beyond the tables, `Decoder::check` pages beyond the pool; entries of a
        // batch do not write to each other's pages, and rows that fill up a step have no slot.
        unsafe { rope.run(self.device()) }.map_err(device_error)
    }

    fn attend(
        &self,
        attention: &CudaAttention,
        pass: &CudaPass,
        layer: (&CudaKv, usize),
        window: Option<usize>,
        qkv: [&CudaTensor; 3],
        out: &mut CudaTensor,
    ) -> Result<(), DecoderError> {
        self.attend_launches(attention, pass, layer, window, qkv, out)
    }

    fn gelu(&self, _: &mut CudaTensor) -> Result<(), DecoderError> {
        Err(DecoderError::Unsupported { reason: "its feed-forward layers have no gate".to_owned() })
    }

    fn keep_wanted(&self, pass: &CudaPass, x: &mut CudaTensor) -> Result<(), DecoderError> {
        let wanted = pass.batch.wanted;
        let kept = self.place(wanted, x.width, x.is_float)?;
        let rows = pass.numbers(pass.batch.wanted_rows, wanted)?;
        // Rows of f32 are copied as rows of twice as many halves.
        let width = x.width * x.element() / HALF;
        // SAFETY: `Batch::new` made these of the entries' last rows, which `x` has.
        unsafe { gather_rows(self.device(), x.all()?, rows, (kept.all()?, false), wanted, width) }
            .map_err(device_error)?;
        *x = kept;
        Ok(())
    }

    fn shrink(&self, x: &mut CudaTensor, rows: usize) {
        x.rows = rows.min(x.rows);
    }

    fn read(&self, x: &CudaTensor) -> Result<Vec<Vec<f32>>, DecoderError> {
        lock(&self.0.times).issued().map_err(device_error)?;
        self.download(x, 0..x.rows)
    }

    fn scores(
        &self,
        logits: &CudaTensor,
        demands: &[Demand],
        meanwhile: &mut Meanwhile<'_>,
    ) -> Result<Vec<Scores>, DecoderError> {
        self.select(logits, demands, meanwhile)
    }
}
