//! Keys and values of all layers on the device, for each layer's keys and values a pool of pages as
//! [`edgewise_kernels::cuda::KvFormat`] lays them out. They are one allocation: a layer's keys, then its values, layer
//! after layer.
//!
//! Pages go to the host and come back by way of pinned memory, several at a time on their way there: while one crosses
//! the bus the next is copied, by all threads, as one thread copies slower than the bus.

use std::sync::{Mutex, PoisonError};

use edgewise_kernels::cuda::{CudaError, DeviceMemory, Event, PagePools, PinnedMemory, Slice};
use rayon::prelude::*;

use super::{Cuda, CudaAttention, PAGE, device_error};
use crate::decoder::DecoderError;

/// Pages on their way to the device at most.
const UNDER_WAY: usize = 4;
/// What one thread copies at a time.
const PIECE: usize = 1 << 20;

/// Keys and values of many sequences.
#[derive(Debug)]
pub struct CudaKv {
    // Before the memory they are in.
    pools: PagePools,
    memory: DeviceMemory,
    staging: Mutex<Staging>,
    pages: usize,
    array_page_bytes: usize,
}

/// Places of pages on their way from or to the host.
#[derive(Debug)]
struct Staging {
    places: Vec<Stage>,
    next: usize,
}

#[derive(Debug)]
struct Stage {
    device: DeviceMemory,
    host: PinnedMemory,
    /// Behind the last use.
    used: Event,
}

/// Bytes of a page in one layer's keys, or values.
fn array_page_bytes(attention: &CudaAttention) -> usize {
    attention.shape.page_bytes()
}

/// Bytes of one page over all layers, keys and values.
pub(super) fn page_bytes(attention: &CudaAttention) -> usize {
    2 * attention.layers * array_page_bytes(attention)
}

/// Bytes of the device that moving pages takes.
pub(super) fn staging_bytes(page_bytes: usize) -> usize {
    UNDER_WAY * page_bytes
}

impl CudaKv {
    pub(super) fn new(backend: &Cuda, attention: &CudaAttention, pages: usize) -> Result<Self, DecoderError> {
        let page_bytes = page_bytes(attention);
        let out_of_memory = || DecoderError::OutOfMemory { pages, page_bytes };
        let bytes = pages.checked_mul(page_bytes).filter(|bytes| *bytes > 0).ok_or_else(out_of_memory)?;
        // The kernels number positions of the pool with 32 bits.
        let positions = pages.checked_mul(PAGE).filter(|positions| i32::try_from(*positions).is_ok());
        positions.ok_or_else(out_of_memory)?;
        let device = backend.device();
        let memory = DeviceMemory::new(device, bytes).map_err(|_| out_of_memory())?;
        let stage = |_| {
            let place = || -> Result<Stage, CudaError> {
                Ok(Stage {
                    device: DeviceMemory::new(device, page_bytes)?,
                    host: PinnedMemory::new(device, page_bytes)?,
                    used: Event::new(device)?,
                })
            };
            place().map_err(device_error)
        };
        let places = (0..UNDER_WAY).map(stage).collect::<Result<_, _>>()?;
        let array_page_bytes = array_page_bytes(attention);
        // Pages move as a whole, so that what is in them does not matter.
        let pools = PagePools::new(device, &memory, pages, 1, array_page_bytes).map_err(device_error)?;
        Ok(Self { pools, memory, staging: Mutex::new(Staging { places, next: 0 }), pages, array_page_bytes })
    }

    pub(super) fn pages(&self) -> usize {
        self.pages
    }

    /// Where they are.
    pub(super) fn address(&self) -> usize {
        self.memory.all().address()
    }

    /// Keys and values of a layer.
    pub(super) fn layer(&self, layer: usize) -> Result<[Slice<'_>; 2], DecoderError> {
        Ok([self.array(2 * layer)?, self.array(2 * layer + 1)?])
    }

    fn array(&self, array: usize) -> Result<Slice<'_>, DecoderError> {
        let bytes = self.pages * self.array_page_bytes;
        self.memory.slice(array * bytes, bytes).map_err(device_error)
    }

    pub(super) fn copy(&self, backend: &Cuda, from: usize, to: usize) -> Result<(), DecoderError> {
        // SAFETY: the pools' memory is this value's.
        unsafe { self.pools.copy(backend.device(), from, to) }.map_err(device_error)
    }

    /// Appends a page's bytes: keys, then values, of each layer in turn.
    pub(super) fn read(&self, backend: &Cuda, page: usize, out: &mut Vec<u8>) -> Result<(), DecoderError> {
        let mut staging = self.staging.lock().unwrap_or_else(PoisonError::into_inner);
        let Staging { places, next } = &mut *staging;
        let mut read = || -> Result<(), CudaError> {
            let Some(Stage { device, host, .. }) = places.get_mut(*next) else { return Ok(()) };
            // SAFETY: as above.
            unsafe { self.pools.gather(backend.device(), page, device.all()) }?;
            // What is still on its way to the device from there is waited for, too: one stream orders both.
            device.all().download(backend.device(), host)?;
            out.extend_from_slice(host.as_bytes());
            Ok(())
        };
        read().map_err(device_error)
    }

    /// Puts back what [`Self::read`] gave; the page is there for whatever is issued from now on.
    pub(super) fn write(&self, backend: &Cuda, page: usize, bytes: &[u8]) -> Result<(), DecoderError> {
        let mut staging = self.staging.lock().unwrap_or_else(PoisonError::into_inner);
        let Staging { places, next } = &mut *staging;
        let mut write = || -> Result<(), CudaError> {
            let Some(Stage { device, host, used }) = places.get_mut(*next) else { return Ok(()) };
            used.wait()?;
            let to = host.bytes_mut().par_chunks_mut(PIECE);
            to.zip(bytes.par_chunks(PIECE)).for_each(|(to, from)| to.copy_from_slice(from));
            device.all().upload(backend.device(), host)?;
            // SAFETY: as above.
            unsafe { self.pools.scatter(backend.device(), device.all(), page) }?;
            used.record()?;
            *next = (*next + 1) % UNDER_WAY;
            Ok(())
        };
        write().map_err(device_error)
    }
}
