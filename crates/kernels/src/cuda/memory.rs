//! Memory of the device and pinned memory of the host.
//!
//! Device memory behaves like memory full of cells: anything that was given a slice may write it. The host never looks
//! into it, and the stream orders all accesses.

use std::{
    ffi::{c_int, c_void},
    marker::PhantomData,
    ptr::null_mut,
};

use super::{CudaError, Device, check, ffi, require};

/// An allocation on the device, freed when dropped.
#[derive(Debug)]
pub struct DeviceMemory {
    pointer: *mut c_void,
    bytes: usize,
    device: Device,
}

// SAFETY: the pointer is only ever used on the device, whose stream orders what threads issue.
unsafe impl Send for DeviceMemory {}
// SAFETY: as above.
unsafe impl Sync for DeviceMemory {}

/// Part of an allocation on the device.
#[derive(Debug, Clone, Copy)]
pub struct Slice<'a> {
    pointer: *mut c_void,
    bytes: usize,
    memory: PhantomData<&'a DeviceMemory>,
}

impl DeviceMemory {
    /// `bytes` bytes with unspecified contents.
    ///
    /// # Errors
    /// [`CudaError::OutOfMemory`].
    pub fn new(device: &Device, bytes: usize) -> Result<Self, CudaError> {
        let mut pointer = null_mut();
        // SAFETY: writes the address of an allocation, which starts at a multiple of 256.
        let status = unsafe { ffi::cudaMalloc(&mut pointer, bytes.max(1)) };
        check("cudaMalloc", status).map_err(|_| CudaError::OutOfMemory { bytes, what: "device" })?;
        Ok(Self { pointer, bytes, device: device.clone() })
    }

    /// Its length.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// All of it.
    pub fn all(&self) -> Slice<'_> {
        Slice { pointer: self.pointer, bytes: self.bytes, memory: PhantomData }
    }

    /// `bytes` bytes from `first` on.
    ///
    /// # Errors
    /// [`CudaError::Argument`] when they are not inside.
    pub fn slice(&self, first: usize, bytes: usize) -> Result<Slice<'_>, CudaError> {
        self.all().slice(first, bytes)
    }

    /// Copies `bytes` into the memory from `first` on, and waits until they are there.
    ///
    /// # Errors
    /// [`CudaError::Argument`] when they don't fit, or [`CudaError::Call`].
    pub fn write(&self, first: usize, bytes: &[u8]) -> Result<(), CudaError> {
        let to = self.slice(first, bytes.len())?;
        // SAFETY: source and target are `bytes.len()` long and live until the copy was waited for.
        check("a copy to the device", unsafe {
            let (from, stream) = (bytes.as_ptr().cast(), self.device.stream());
            ffi::cudaMemcpyAsync(to.pointer, from, bytes.len(), ffi::MEMCPY_DEFAULT, stream)
        })?;
        self.device.synchronize()
    }

    /// Sets every byte.
    ///
    /// # Errors
    /// [`CudaError::Call`].
    pub fn fill(&self, value: u8) -> Result<(), CudaError> {
        // SAFETY: the memory is `bytes` long.
        check("cudaMemset", unsafe {
            ffi::cudaMemsetAsync(self.pointer, i32::from(value), self.bytes, self.device.stream())
        })
    }
}

impl Drop for DeviceMemory {
    fn drop(&mut self) {
        // What was issued may still use it.
        let _ = self.device.synchronize();
        // SAFETY: allocated by this value; slices can't outlive it.
        unsafe { ffi::cudaFree(self.pointer) };
    }
}

impl<'a> Slice<'a> {
    /// Its length in bytes.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// Where it is on the device; only good for telling places apart.
    pub fn address(&self) -> usize {
        self.pointer.addr()
    }

    /// `bytes` bytes from `first` on.
    ///
    /// # Errors
    /// [`CudaError::Argument`] when they are not inside.
    pub fn slice(&self, first: usize, bytes: usize) -> Result<Slice<'a>, CudaError> {
        let inside = first.checked_add(bytes).is_some_and(|end| end <= self.bytes);
        require(inside, "the end of a slice of device memory", first.saturating_add(bytes), "within the memory")?;
        Ok(Slice { pointer: self.pointer.wrapping_byte_add(first), bytes, memory: PhantomData })
    }

    /// Copies `from` here; both have the same length.
    ///
    /// # Errors
    /// [`CudaError::Argument`] when they have not.
    pub fn copy_from(&self, device: &Device, from: Slice<'_>) -> Result<(), CudaError> {
        require(from.bytes == self.bytes, "the source of a copy", from.bytes, "as long as its target")?;
        // SAFETY: both are `bytes` long; the stream orders the copy before whatever frees them.
        check("a copy on the device", unsafe {
            ffi::cudaMemcpyAsync(self.pointer, from.pointer, self.bytes, ffi::MEMCPY_DEFAULT, device.stream())
        })
    }

    /// Copies the beginning of `from` here, as much as fits in this slice. `from` must not be written before an event
    /// recorded after this was waited for: see [`PinnedMemory::bytes_mut`].
    ///
    /// # Errors
    /// [`CudaError::Argument`] when `from` is shorter.
    pub fn upload(&self, device: &Device, from: &PinnedMemory) -> Result<(), CudaError> {
        require(from.bytes >= self.bytes, "pinned memory", from.bytes, "at least as long as what is filled from it")?;
        // SAFETY: both are at least `bytes` long; dropping pinned memory waits for the stream.
        check("a copy to the device", unsafe {
            ffi::cudaMemcpyAsync(self.pointer, from.pointer, self.bytes, ffi::MEMCPY_DEFAULT, device.stream())
        })
    }

    /// Copies this to the beginning of `to` and waits for it.
    ///
    /// # Errors
    /// [`CudaError::Argument`] when `to` is shorter, [`CudaError::Call`] also for what failed before.
    pub fn download(&self, device: &Device, to: &mut PinnedMemory) -> Result<(), CudaError> {
        require(to.bytes >= self.bytes, "pinned memory", to.bytes, "at least as long as what is copied to it")?;
        // SAFETY: both are at least `bytes` long, and the copy is waited for.
        check("a copy from the device", unsafe {
            ffi::cudaMemcpyAsync(to.pointer, self.pointer, self.bytes, ffi::MEMCPY_DEFAULT, device.stream())
        })?;
        device.synchronize()
    }

    pub(super) fn pointer(&self) -> *mut c_void {
        self.pointer
    }

    /// The address where a kernel finds at least `count` int32, which it reads one by one.
    pub(super) fn ints(&self, what: &'static str, count: usize) -> Result<*const c_int, CudaError> {
        require(self.bytes >= count * size_of::<c_int>(), what, self.bytes, "at least as long as its shape calls for")?;
        require(
            self.pointer.addr().is_multiple_of(size_of::<c_int>()),
            what,
            self.pointer.addr(),
            "aligned to 4 bytes",
        )?;
        Ok(self.pointer.cast_const().cast())
    }

    /// The address where a kernel finds at least `bytes` bytes, aligned for its 16-byte accesses.
    pub(super) fn at_least(&self, what: &'static str, bytes: usize) -> Result<*mut c_void, CudaError> {
        require(self.bytes >= bytes, what, self.bytes, "at least as long as its shape calls for")?;
        require(self.pointer.addr().is_multiple_of(16), what, self.pointer.addr(), "aligned to 16 bytes")?;
        Ok(self.pointer)
    }
}

/// Page-locked memory of the host, which copies to and from the device at the bus's full rate.
#[derive(Debug)]
pub struct PinnedMemory {
    pointer: *mut c_void,
    bytes: usize,
    device: Device,
}

// SAFETY: it is owned memory like a `Vec`'s.
unsafe impl Send for PinnedMemory {}
// SAFETY: as above; shared references only read.
unsafe impl Sync for PinnedMemory {}

impl PinnedMemory {
    /// `bytes` bytes of zeros.
    ///
    /// # Errors
    /// [`CudaError::OutOfMemory`].
    pub fn new(device: &Device, bytes: usize) -> Result<Self, CudaError> {
        let mut pointer = null_mut();
        // SAFETY: writes the address of an allocation.
        let status = unsafe { ffi::cudaMallocHost(&mut pointer, bytes.max(1)) };
        check("cudaMallocHost", status).map_err(|_| CudaError::OutOfMemory { bytes, what: "pinned host" })?;
        // SAFETY: the allocation is `bytes` long.
        unsafe { pointer.cast::<u8>().write_bytes(0, bytes) };
        Ok(Self { pointer, bytes, device: device.clone() })
    }

    /// Its contents.
    pub fn as_bytes(&self) -> &[u8] {
        // SAFETY: initialised, `bytes` long, and copies from the device into it are waited for.
        unsafe { std::slice::from_raw_parts(self.pointer.cast(), self.bytes) }
    }

    /// Its contents, to be changed. A copy to the device that was issued and not waited for may see the change.
    pub fn bytes_mut(&mut self) -> &mut [u8] {
        // SAFETY: initialised, `bytes` long, uniquely borrowed; the device at most reads it.
        unsafe { std::slice::from_raw_parts_mut(self.pointer.cast(), self.bytes) }
    }

    /// Its length.
    pub fn bytes(&self) -> usize {
        self.bytes
    }
}

impl Drop for PinnedMemory {
    fn drop(&mut self) {
        let _ = self.device.synchronize();
        // SAFETY: allocated by this value, and no copy is under way any more.
        unsafe { ffi::cudaFreeHost(self.pointer) };
    }
}
