//! Attention of prompts by candle-flash-attn, where `engine.device_attention` asks for it (feature `flash-attn`).
//!
//! A sequence whose rows begin at its first position reads keys and values from the rows themselves; one that holds
//! positions already, behind a prefix or an earlier part of its prompt, reads them from its pages. The crate has a kernel
//! for each, with tiles of other sizes, so the two differ by rounding: with this backend a row is, bit for bit, a function
//! of its sequence and of where the prompt was cut, and a cached prompt's logits equal a cold one's within rounding only.
//! Neither the batch nor the pages change a bit. Generated tokens go through our own kernel.

use std::{
    ops::Range,
    sync::{Mutex, MutexGuard},
};

use edgewise_kernels::cuda::{CudaError, DeviceMemory, FlashAttention, FlashKeys, KvFormat, PagedShape};

use super::{
    Cuda, CudaAttention, CudaKv, CudaPass, CudaTensor,
    batch::{Batch, Kind, Launch},
    device_error, lock,
};
use crate::{
    decoder::{DecoderConfig, DecoderError},
    serve::PromptAttention,
};

/// What it needs beside our own kernel.
#[derive(Debug)]
pub(super) struct Flash {
    /// Logarithms of the sums that rows were divided by, which the kernels write whether anybody reads them or not.
    sums: Mutex<DeviceMemory>,
}

impl Flash {
    /// Makes room, and sees that the kernels compute layers of this shape; nothing where our own kernel is to be used.
    pub(super) fn new(
        backend: &Cuda,
        config: &DecoderConfig,
        shape: &PagedShape,
    ) -> Result<Option<Self>, DecoderError> {
        if backend.options().attention != PromptAttention::FlashAttn {
            return Ok(None);
        }
        if backend.options().kv_format == KvFormat::Fp8 {
            let reason = "candle-flash-attn reads no FP8 pages: set engine.device_attention = \"own\" or \
                          engine.device_kv_precision = \"half\"";
            return Err(DecoderError::Unsupported { reason: reason.to_owned() });
        }
        let make = || -> Result<Self, CudaError> {
            let mut windows = config.windows.clone();
            windows.sort_unstable();
            windows.dedup();
            for window in windows {
                FlashAttention::probe(backend.device(), shape, window)?;
            }
            let bytes = FlashAttention::sum_bytes(shape, backend.options().max_rows);
            Ok(Self { sums: Mutex::new(DeviceMemory::new(backend.device(), bytes)?) })
        };
        make().map(Some).map_err(device_error)
    }

    /// The sums, with room for those of `rows` rows.
    fn sums(
        &self,
        backend: &Cuda,
        shape: &PagedShape,
        rows: usize,
    ) -> Result<MutexGuard<'_, DeviceMemory>, DecoderError> {
        let mut sums = lock(&self.sums);
        let bytes = FlashAttention::sum_bytes(shape, rows);
        if sums.bytes() < bytes {
            *sums = DeviceMemory::new(backend.device(), bytes).map_err(device_error)?;
        }
        Ok(sums)
    }
}

impl Cuda {
    /// Attention of the rows of a launch of prompts, and whether there was any: not of generated tokens, nor where our own
    /// kernel is to be used. `qkv` are those of the batch, with keys rotated.
    pub(super) fn attend_by_flash(
        &self,
        attention: &CudaAttention,
        (pass, launch): (&CudaPass, &Launch),
        (kv, layer): (&CudaKv, usize),
        window: Option<usize>,
        [q, k, v]: [&CudaTensor; 3],
        out: &CudaTensor,
    ) -> Result<bool, DecoderError> {
        let (Kind::Prompt, Some(flash)) = (launch.kind, &attention.flash) else { return Ok(false) };
        let shape = PagedShape { pages: kv.pages(), ..attention.shape };
        let rows = launch.rows.len();
        if pass.batch.numbers.get(launch.ends + launch.batch) == Some(&i32::MAX) {
            let reason = "the prompts of a pass hold more than 2^31 positions together: lower engine.max_sequences";
            return Err(DecoderError::Device(reason.to_owned()));
        }
        let sums = flash.sums(self, &shape, rows)?;
        for group in groups(&pass.batch, launch) {
            let (first, batch) = (group.sequences.start, group.sequences.len());
            let keys = if group.begins {
                FlashKeys::Rows { keys: k.rows(launch.rows.start, rows)?, values: v.rows(launch.rows.start, rows)? }
            } else {
                let [keys, values] = kv.layer(layer)?;
                let table_stride = launch.table_stride;
                let table = pass.numbers(launch.table + first * table_stride, batch * table_stride)?;
                let ends = pass.numbers(launch.ends + first, batch + 1)?;
                FlashKeys::Pages { keys, values, table, table_stride, ends }
            };
            let flash = FlashAttention {
                shape,
                q: q.rows(launch.rows.start, rows)?,
                out: out.rows(launch.rows.start, rows)?,
                keys,
                starts: pass.numbers(launch.starts + first, batch + 1)?,
                sums: sums.all(),
                batch,
                rows,
                longest: group.longest,
                deepest: group.deepest,
                window,
            };
            // SAFETY: `Batch::new` made these from entries whose pages `Decoder::check` found in the pool; the keys of
            // sequences that begin are as many as their queries.
            unsafe { flash.run(self.device()) }.map_err(device_error)?;
        }
        Ok(true)
    }
}

/// Successive sequences of a launch that one kernel computes.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Group {
    sequences: Range<usize>,
    /// Whether their rows begin at their first positions.
    begins: bool,
    /// Rows of the one that has most.
    longest: usize,
    /// Positions of the one that holds most.
    deepest: usize,
}

/// The sequences of a launch, cut where others of the two kinds begin.
fn groups(batch: &Batch, launch: &Launch) -> Vec<Group> {
    let starts = &batch.numbers[launch.starts..=launch.starts + launch.batch];
    let held = &batch.numbers[launch.context..launch.context + launch.batch];
    let mut groups: Vec<Group> = Vec::new();
    for (i, (bounds, held)) in starts.windows(2).zip(held).enumerate() {
        // Neither is negative.
        let (rows, held) = ((bounds[1] - bounds[0]) as usize, *held as usize);
        let begins = rows == held;
        match groups.last_mut() {
            Some(group) if group.begins == begins => {
                group.sequences.end = i + 1;
                group.longest = group.longest.max(rows);
                group.deepest = group.deepest.max(held);
            }
            _ => groups.push(Group { sequences: i..i + 1, begins, longest: rows, deepest: held }),
        }
    }
    groups
}

#[cfg(test)]
mod tests {
    use edgewise_kv_cache::PageId;

    use super::*;
    use crate::step_model::BatchEntry;

    #[test]
    fn sequences_that_begin_are_kept_from_those_that_go_on() {
        let pages: Vec<PageId> = (0..8).map(PageId).collect();
        let tokens = [1; 300];
        let entry = |position: usize, count: usize| BatchEntry {
            tokens: &tokens[..count],
            position,
            pages: &pages,
            logits: true,
            generated_from: usize::MAX,
        };
        let batch = Batch::new(&[entry(0, 300), entry(0, 7), entry(64, 5), entry(200, 90), entry(0, 1)]);
        let [launch] = &batch.launches[..] else { unreachable!("one run of prompts") };
        let group = |sequences, begins, longest, deepest| Group { sequences, begins, longest, deepest };
        let expected = [group(0..2, true, 300, 300), group(2..4, false, 90, 290), group(4..5, true, 1, 1)];
        assert_eq!(groups(&batch, launch), expected);
        assert_eq!(batch.numbers[launch.ends..launch.ends + 6], [0, 300, 307, 376, 666, 667]);
    }
}
