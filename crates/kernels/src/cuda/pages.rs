//! Launchers of what moves whole pages: within the pools, and between the pools and a contiguous buffer.

use std::ffi::{c_int, c_void};

use super::{CudaError, Device, DeviceMemory, Slice, check, ffi, int, require};

/// Bytes between the numbers of two pages in the table of ids, so that each can be a kernel's argument.
const ID_STRIDE: usize = 16;

/// Pools of pages, `[pages, page_tokens, token_bytes]` each, that are moved together: those of every layer.
#[derive(Debug)]
pub struct PagePools {
    /// Where the pools are.
    bases: DeviceMemory,
    /// The numbers of all pages, as kernels want them in device memory.
    ids: DeviceMemory,
    pools: usize,
    pages: usize,
    page_tokens: usize,
    token_bytes: usize,
}

impl PagePools {
    /// Of pools that lie one after the other in `memory`, as many as fill it.
    ///
    /// # Errors
    /// [`CudaError`] when they don't fill it, or memory is short.
    pub fn new(
        device: &Device,
        memory: &DeviceMemory,
        pages: usize,
        page_tokens: usize,
        token_bytes: usize,
    ) -> Result<Self, CudaError> {
        let pool_bytes = pages * page_tokens * token_bytes;
        let divides = pool_bytes > 0 && memory.bytes().is_multiple_of(pool_bytes);
        require(divides, "the size of a pool of pages", pool_bytes, "a part of the memory of all pools")?;
        require(token_bytes.is_multiple_of(16), "the size of a token in a page", token_bytes, "a multiple of 16")?;
        int("the number of pages", pages)?;
        let pools = memory.bytes() / pool_bytes;
        let base = |pool: usize| memory.all().address() + pool * pool_bytes;
        let addresses: Vec<u8> = (0..pools).flat_map(|pool| base(pool).to_ne_bytes()).collect();
        let mut numbers = vec![0u8; pages * ID_STRIDE];
        for (page, to) in numbers.chunks_exact_mut(ID_STRIDE).enumerate() {
            to[..size_of::<c_int>()].copy_from_slice(&int("a page", page)?.to_ne_bytes());
        }
        let place = |bytes: &[u8]| -> Result<DeviceMemory, CudaError> {
            let memory = DeviceMemory::new(device, bytes.len())?;
            memory.write(0, bytes)?;
            Ok(memory)
        };
        Ok(Self { bases: place(&addresses)?, ids: place(&numbers)?, pools, pages, page_tokens, token_bytes })
    }

    /// Bytes of one page in all pools.
    pub fn page_bytes(&self) -> usize {
        self.pools * self.page_tokens * self.token_bytes
    }

    fn id(&self, page: usize) -> Result<*const c_int, CudaError> {
        require(page < self.pages, "a page", page, "one of the pool")?;
        Ok(self.ids.slice(page * ID_STRIDE, size_of::<c_int>())?.pointer().cast_const().cast())
    }

    fn bases(&self) -> *const *mut c_void {
        self.bases.all().pointer().cast_const().cast()
    }

    fn sizes(&self) -> Result<[c_int; 3], CudaError> {
        Ok([
            int("pools", self.pools)?,
            int("the size of a page", self.page_tokens)?,
            int("the size of a token in a page", self.token_bytes)?,
        ])
    }

    /// Copies a page to another.
    ///
    /// # Errors
    /// [`CudaError`] when there is no such page.
    ///
    /// # Safety
    /// The memory the pools were made of is still allocated.
    pub unsafe fn copy(&self, device: &Device, from: usize, to: usize) -> Result<(), CudaError> {
        if from == to {
            return Ok(());
        }
        let ([pools, page_tokens, token_bytes], from, to) = (self.sizes()?, self.id(from)?, self.id(to)?);
        // SAFETY: both pages are in the pools, which the caller vouches for; they are not the same.
        check("page_copy", unsafe {
            let (bases, stream) = (self.bases(), device.stream());
            ffi::edgewise_page_copy(bases, pools, from, to, std::ptr::null(), 1, page_tokens, token_bytes, stream)
        })
    }

    /// Collects a page of all pools in `out`, pool after pool.
    ///
    /// # Errors
    /// [`CudaError`] when there is no such page or `out` is too short.
    ///
    /// # Safety
    /// As [`Self::copy`].
    pub unsafe fn gather(&self, device: &Device, page: usize, out: Slice<'_>) -> Result<(), CudaError> {
        let ([pools, page_tokens, token_bytes], page) = (self.sizes()?, self.id(page)?);
        let out = out.at_least("the room for a page", self.page_bytes())?;
        // SAFETY: the page is in the pools, which the caller vouches for; `out` has room for it.
        check("page_gather", unsafe {
            ffi::edgewise_page_gather(self.bases(), pools, page, out, 1, page_tokens, token_bytes, device.stream())
        })
    }

    /// Puts back what [`Self::gather`] collected.
    ///
    /// # Errors
    /// As there.
    ///
    /// # Safety
    /// As [`Self::copy`].
    pub unsafe fn scatter(&self, device: &Device, from: Slice<'_>, page: usize) -> Result<(), CudaError> {
        let ([pools, page_tokens, token_bytes], page) = (self.sizes()?, self.id(page)?);
        let from = from.at_least("a page", self.page_bytes())?;
        // SAFETY: the page is in the pools, which the caller vouches for; `from` is as long as it.
        check("page_scatter", unsafe {
            ffi::edgewise_page_scatter(self.bases(), pools, from, page, 1, page_tokens, token_bytes, device.stream())
        })
    }
}
