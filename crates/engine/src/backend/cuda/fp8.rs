//! FP8 pages: generated tokens read them as they are, prompts by way of 16-bit copies.
//!
//! Attention of a prompt is bound by arithmetic on 16-bit numbers, so before each launch the pages it reads are
//! dequantised, those of one layer at a time, into room that is planned for one context window: some 2 % of a large
//! chunk's attention. Sequences that hold more than that together go group by group; a row's result depends on its own
//! sequence alone, so nothing changes. A chunk's own keys and values go through the pages like all others, so that cached
//! is cold, bit for bit.

use std::sync::Mutex;

use edgewise_kernels::cuda::{
    CudaError, DequantisePages, Device, DeviceMemory, KvFormat, PagedShape, PrefillAttention,
};

use super::{Cuda, CudaOptions, PAGE, device_error, lock};
use crate::decoder::{DecoderConfig, DecoderError};

const HALF: usize = 2;
const INT: usize = size_of::<i32>();

/// Room for the 16-bit pages of one layer.
#[derive(Debug)]
pub(super) struct Scratch {
    /// Keys, then values. Held while a group's operations are issued, which another's would overwrite.
    memory: Mutex<DeviceMemory>,
    /// int32 `0, 1, 2, …`: the block tables of groups, whose pages lie in order.
    table: DeviceMemory,
    pages: usize,
}

/// Pages of the scratch: the context window's, or those of the largest pass where that is more.
fn scratch_pages(config: &DecoderConfig, options: &CudaOptions) -> usize {
    config.context_window.max(options.max_rows).div_ceil(PAGE)
}

/// Bytes that prompts read FP8 pages through; 0 where pages are of 16 bits.
pub(super) fn scratch_bytes(config: &DecoderConfig, options: &CudaOptions) -> usize {
    match options.kv_format {
        KvFormat::Half => 0,
        KvFormat::Fp8 => scratch_pages(config, options) * (2 * HALF * PAGE * config.kv_heads * config.head_dim + INT),
    }
}

impl Scratch {
    /// As large as planned; none where pages are of 16 bits.
    ///
    /// # Errors
    /// [`DecoderError::Device`] when memory is short.
    pub(super) fn new(backend: &Cuda, config: &DecoderConfig) -> Result<Option<Self>, DecoderError> {
        if backend.options().kv_format == KvFormat::Half {
            return Ok(None);
        }
        let pages = scratch_pages(config, backend.options());
        let place = || -> Result<Self, CudaError> {
            let bytes = 2 * HALF * PAGE * config.kv_heads * config.head_dim * pages;
            let memory = Mutex::new(DeviceMemory::new(backend.device(), bytes)?);
            let numbers: Vec<u8> = (0i32..).take(pages).flat_map(i32::to_le_bytes).collect();
            let table = DeviceMemory::new(backend.device(), numbers.len())?;
            table.write(0, &numbers)?;
            Ok(Self { memory, table, pages })
        };
        place().map(Some).map_err(device_error)
    }

    /// Attention of prompts over FP8 pages. `contexts` are those of the launch, as the device has them.
    ///
    /// # Errors
    /// [`CudaError`] when shapes don't match.
    ///
    /// # Safety
    /// As [`PrefillAttention::run`].
    pub(super) unsafe fn attend(
        &self,
        device: &Device,
        launch: &PrefillAttention<'_>,
        contexts: &[i32],
    ) -> Result<(), CudaError> {
        let memory = lock(&self.memory);
        let pool = memory.bytes() / 2;
        let (keys, values) = (memory.slice(0, pool)?, memory.slice(pool, pool)?);
        let held: Vec<usize> = contexts.iter().map(|c| usize::try_from(*c).unwrap_or(0).div_ceil(PAGE)).collect();
        for (first, batch, longest) in groups(&held, self.pages) {
            let group = PrefillAttention {
                table: launch.table.slice(first * launch.table_stride * INT, batch * launch.table_stride * INT)?,
                starts: launch.starts.slice(first * INT, (batch + 1) * INT)?,
                context: launch.context.slice(first * INT, batch * INT)?,
                batch,
                ..*launch
            };
            let dequantise = DequantisePages { attention: group, keys, values, out_stride: longest };
            let attention = PrefillAttention {
                shape: PagedShape { pages: self.pages, format: KvFormat::Half, ..launch.shape },
                keys,
                values,
                table: self.table.all(),
                table_stride: longest,
                ..group
            };
            // SAFETY: the group is part of the launch, which the caller vouches for; `longest` is the most that a context
            // of it holds, and its pages are numbered within the room.
            unsafe {
                dequantise.run(device)?;
                attention.run(device)?;
            }
        }
        Ok(())
    }
}

/// Successive sequences that hold so many pages each, in groups whose block tables, as wide as the longest, have room for
/// `room` pages: the first of each, how many, and the longest's pages. A sequence never holds more than `room`.
fn groups(held: &[usize], room: usize) -> Vec<(usize, usize, usize)> {
    let mut groups: Vec<(usize, usize, usize)> = Vec::new();
    for (i, pages) in held.iter().enumerate() {
        match groups.last_mut() {
            Some((_, batch, longest)) if (*batch + 1) * (*longest).max(*pages) <= room => {
                (*batch, *longest) = (*batch + 1, (*longest).max(*pages));
            }
            _ => groups.push((i, 1, *pages)),
        }
    }
    groups
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sequences_go_together_as_far_as_there_is_room() {
        assert_eq!(groups(&[3, 1, 2], 9), [(0, 3, 3)]);
        assert_eq!(groups(&[3, 1, 2], 8), [(0, 2, 3), (2, 1, 2)]);
        assert_eq!(groups(&[1, 1, 1, 8, 1, 1], 8), [(0, 3, 1), (3, 1, 8), (4, 2, 1)]);
        assert_eq!(groups(&[8, 8], 8), [(0, 1, 8), (1, 1, 8)]);
        assert_eq!(groups(&[], 8), []);
    }
}
