//! The likeliest tokens of rows of logits, so that a decoding step need not bring whole rows to the host.

use std::ffi::c_int;

use super::{CudaError, Device, DeviceMemory, PinnedMemory, Slice, check, ffi, int, require};

/// Logits that a block of the kernel takes.
const SLICE: usize = 4096;
/// Most tokens of a row, and most of all its blocks together.
const MOST: usize = 256;
const MOST_OF_BLOCKS: usize = 16_384;
const NUMBER: usize = 4;
/// Where arrays of results begin.
const ALIGNMENT: usize = 256;

/// What is known of a row of logits.
#[derive(Debug, Clone, PartialEq)]
pub struct TopKRow {
    /// The likeliest tokens and their logits: in descending order, equal ones by ascending ids.
    pub tokens: Vec<(u32, f32)>,
    /// `ln Σ exp(logit)` of the whole row; NaN where one of its logits is not finite.
    pub log_sum: f32,
}

/// Selects the likeliest tokens; keeps the room this takes between launches.
#[derive(Debug)]
pub struct TopK {
    /// Counters in front, zero but while the kernel runs.
    workspace: DeviceMemory,
    results: DeviceMemory,
    host: PinnedMemory,
    /// Rows and tokens of each that the last launch gives.
    shape: (usize, usize),
}

/// Where logits, ids and sums begin among the results, and the end.
fn places(rows: usize, k: usize) -> [usize; 4] {
    let many = (rows * k * NUMBER).next_multiple_of(ALIGNMENT);
    [0, many, 2 * many, 2 * many + rows * NUMBER]
}

impl TopK {
    /// Without room as yet.
    ///
    /// # Errors
    /// [`CudaError`].
    pub fn new(device: &Device) -> Result<Self, CudaError> {
        Ok(Self {
            workspace: DeviceMemory::new(device, 0)?,
            results: DeviceMemory::new(device, 0)?,
            host: PinnedMemory::new(device, 0)?,
            shape: (0, 0),
        })
    }

    /// How many tokens of a row over a vocabulary can be selected at most.
    pub fn most(vocabulary: usize) -> usize {
        MOST.min(vocabulary).min(MOST_OF_BLOCKS / vocabulary.div_ceil(SLICE).max(1))
    }

    /// Issues the selection of `k` tokens, at least one, of each of `rows` rows of f32 `logits`, `[rows, vocabulary]`.
    ///
    /// # Errors
    /// [`CudaError`] when shapes don't match or `k` exceeds [`Self::most`].
    pub fn issue(
        &mut self,
        device: &Device,
        logits: Slice<'_>,
        (rows, vocabulary): (usize, usize),
        k: usize,
    ) -> Result<(), CudaError> {
        require((1..=Self::most(vocabulary)).contains(&k), "the number of likeliest tokens", k, {
            "at least 1 and at most 256, fewer for vocabularies of hundreds of thousands"
        })?;
        let logits = logits.at_least("logits", rows * vocabulary * NUMBER)?;
        let sizes = [int("the number of rows", rows)?, int("the vocabulary", vocabulary)?, int("tokens of a row", k)?];
        // SAFETY: computes a size from numbers.
        let needed = unsafe { ffi::edgewise_top_k_workspace(sizes[0], sizes[1], sizes[2]) };
        let needed = usize::try_from(needed).unwrap_or(0);
        if self.workspace.bytes() < needed {
            self.workspace = DeviceMemory::new(device, needed.next_power_of_two())?;
            self.workspace.fill(0)?;
        }
        let [first_logit, first_id, first_sum, end] = places(rows, k);
        if self.results.bytes() < end {
            self.results = DeviceMemory::new(device, end.next_power_of_two())?;
            self.host = PinnedMemory::new(device, end.next_power_of_two())?;
        }
        let place = |first: usize, numbers: usize| {
            let slice = self.results.slice(first, numbers * NUMBER)?;
            slice.at_least("the room for selected tokens", numbers * NUMBER)
        };
        let (top_logits, top_ids) = (place(first_logit, rows * k)?, place(first_id, rows * k)?);
        let log_sum = place(first_sum, rows)?;
        self.shape = (rows, k);
        // SAFETY: every buffer is as long as the shape calls for, and the counters are zero: the kernel leaves them so.
        check("top_k", unsafe {
            ffi::edgewise_top_k(
                logits,
                c_int::from(true),
                top_logits.cast(),
                top_ids.cast(),
                log_sum.cast(),
                self.workspace.all().pointer(),
                sizes[0],
                sizes[1],
                sizes[2],
                device.stream(),
            )
        })
    }

    /// Waits for what was issued last, and reads it.
    ///
    /// # Errors
    /// [`CudaError::Call`], also for what failed before.
    pub fn read(&mut self, device: &Device) -> Result<Vec<TopKRow>, CudaError> {
        let (rows, k) = self.shape;
        let [first_logit, first_id, first_sum, end] = places(rows, k);
        self.results.slice(0, end)?.download(device, &mut self.host)?;
        let numbers = |first: usize, count: usize| -> &[[u8; NUMBER]] {
            self.host.as_bytes()[first..first + count * NUMBER].as_chunks().0
        };
        let logits = numbers(first_logit, rows * k).chunks_exact(k.max(1));
        let ids = numbers(first_id, rows * k).chunks_exact(k.max(1));
        let mut result = Vec::with_capacity(rows);
        for ((ids, logits), sum) in ids.zip(logits).zip(numbers(first_sum, rows)) {
            let token =
                |(id, logit): (&[u8; NUMBER], &[u8; NUMBER])| (u32::from_le_bytes(*id), f32::from_le_bytes(*logit));
            result.push(TopKRow {
                tokens: ids.iter().zip(logits).map(token).collect(),
                log_sum: f32::from_le_bytes(*sum),
            });
        }
        Ok(result)
    }
}
