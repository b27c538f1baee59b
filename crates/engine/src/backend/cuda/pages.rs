//! Keys and values of all layers on the device, `[pages, page, kv_heads, head_dim]` in bf16 for each layer's keys and
//! values. They are one allocation: a layer's keys, then its values, layer after layer.

use std::sync::{Mutex, PoisonError};

use edgewise_kernels::cuda::{DeviceMemory, PinnedMemory, Slice};

use super::{Cuda, CudaAttention, PAGE, device_error};
use crate::decoder::DecoderError;

/// Keys and values of many sequences.
#[derive(Debug)]
pub struct CudaKv {
    memory: DeviceMemory,
    staging: Mutex<Staging>,
    pages: usize,
    arrays: usize,
    array_page_bytes: usize,
}

/// A page of every array, on its way from or to the host.
#[derive(Debug)]
struct Staging {
    device: DeviceMemory,
    host: PinnedMemory,
}

/// Bytes of a page in one layer's keys, or values.
fn array_page_bytes(attention: &CudaAttention) -> usize {
    PAGE * attention.shape.kv_heads * attention.shape.head_dim * 2
}

/// Bytes of one page over all layers, keys and values.
pub(super) fn page_bytes(attention: &CudaAttention) -> usize {
    2 * attention.layers * array_page_bytes(attention)
}

impl CudaKv {
    pub(super) fn new(backend: &Cuda, attention: &CudaAttention, pages: usize) -> Result<Self, DecoderError> {
        let page_bytes = page_bytes(attention);
        let out_of_memory = || DecoderError::OutOfMemory { pages, page_bytes };
        let bytes = pages.checked_mul(page_bytes).ok_or_else(out_of_memory)?;
        // The kernels number positions of the pool with 32 bits.
        let positions = pages.checked_mul(PAGE).filter(|positions| i32::try_from(*positions).is_ok());
        positions.ok_or_else(out_of_memory)?;
        let device = backend.device();
        let memory = DeviceMemory::new(device, bytes).map_err(|_| out_of_memory())?;
        let staging = Staging {
            device: DeviceMemory::new(device, page_bytes).map_err(|_| out_of_memory())?,
            host: PinnedMemory::new(device, page_bytes).map_err(device_error)?,
        };
        let (arrays, array_page_bytes) = (2 * attention.layers, array_page_bytes(attention));
        Ok(Self { memory, staging: Mutex::new(staging), pages, arrays, array_page_bytes })
    }

    pub(super) fn pages(&self) -> usize {
        self.pages
    }

    /// Keys and values of a layer.
    pub(super) fn layer(&self, layer: usize) -> Result<[Slice<'_>; 2], DecoderError> {
        Ok([self.array(2 * layer)?, self.array(2 * layer + 1)?])
    }

    fn array(&self, array: usize) -> Result<Slice<'_>, DecoderError> {
        let bytes = self.pages * self.array_page_bytes;
        self.memory.slice(array * bytes, bytes).map_err(device_error)
    }

    fn page(&self, array: usize, page: usize) -> Result<Slice<'_>, DecoderError> {
        let bytes = self.array_page_bytes;
        self.array(array)?.slice(page * bytes, bytes).map_err(device_error)
    }

    pub(super) fn copy(&self, backend: &Cuda, from: usize, to: usize) -> Result<(), DecoderError> {
        for array in 0..self.arrays {
            let (from, to) = (self.page(array, from)?, self.page(array, to)?);
            to.copy_from(backend.device(), from).map_err(device_error)?;
        }
        Ok(())
    }

    /// Appends a page's bytes: keys, then values, of each layer in turn.
    pub(super) fn read(&self, backend: &Cuda, page: usize, out: &mut Vec<u8>) -> Result<(), DecoderError> {
        let mut staging = self.staging.lock().unwrap_or_else(PoisonError::into_inner);
        let Staging { device, host } = &mut *staging;
        for array in 0..self.arrays {
            let to = device.slice(array * self.array_page_bytes, self.array_page_bytes).map_err(device_error)?;
            to.copy_from(backend.device(), self.page(array, page)?).map_err(device_error)?;
        }
        device.all().download(backend.device(), host).map_err(device_error)?;
        out.extend_from_slice(host.as_bytes());
        Ok(())
    }

    /// Puts back what [`Self::read`] gave.
    pub(super) fn write(&self, backend: &Cuda, page: usize, bytes: &[u8]) -> Result<(), DecoderError> {
        let mut staging = self.staging.lock().unwrap_or_else(PoisonError::into_inner);
        let Staging { device, host } = &mut *staging;
        // The page before this one may still be on its way.
        backend.device().synchronize().map_err(device_error)?;
        host.bytes_mut().copy_from_slice(bytes);
        device.all().upload(backend.device(), host).map_err(device_error)?;
        for array in 0..self.arrays {
            let from = device.slice(array * self.array_page_bytes, self.array_page_bytes).map_err(device_error)?;
            self.page(array, page)?.copy_from(backend.device(), from).map_err(device_error)?;
        }
        Ok(())
    }
}
