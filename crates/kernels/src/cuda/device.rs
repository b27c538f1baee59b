//! The device, its stream, and events to measure and wait with.

use std::{ffi::c_int, ptr::null_mut, sync::Arc};

use super::{CudaError, Half, check, ffi, graph};

/// The first visible device and the stream everything is issued on. Cloning shares the stream.
#[derive(Debug, Clone)]
pub struct Device(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    stream: ffi::RawStream,
    multiprocessors: usize,
    half: Half,
}

// SAFETY: the runtime's functions may be called from any thread, and a stream is only a handle to them.
unsafe impl Send for Inner {}
// SAFETY: as above.
unsafe impl Sync for Inner {}

impl Drop for Inner {
    fn drop(&mut self) {
        // SAFETY: the stream was created by this value and nobody holds it any more.
        unsafe { ffi::cudaStreamDestroy(self.stream) };
    }
}

impl Device {
    /// Opens the first visible device, to compute with 16-bit numbers of a kind.
    ///
    /// # Errors
    /// [`CudaError::NoDevice`] when there is no driver, no device, or one that is not a Hopper.
    pub fn open(half: Half) -> Result<Self, CudaError> {
        let mut count: c_int = 0;
        // SAFETY: writes the count.
        let status = check("cudaGetDeviceCount", unsafe { ffi::cudaGetDeviceCount(&mut count) });
        if let Err(CudaError::Call { reason, .. }) = status {
            return Err(CudaError::NoDevice { reason });
        }
        if count == 0 {
            return Err(CudaError::NoDevice { reason: "the driver sees none".to_owned() });
        }
        let attribute = |attribute| -> Result<usize, CudaError> {
            let mut value: c_int = 0;
            // SAFETY: writes the value of an attribute of a device that exists.
            check("cudaDeviceGetAttribute", unsafe { ffi::cudaDeviceGetAttribute(&mut value, attribute, 0) })?;
            Ok(usize::try_from(value).unwrap_or(0))
        };
        let (major, minor) = (attribute(ffi::ATTRIBUTE_MAJOR)?, attribute(ffi::ATTRIBUTE_MINOR)?);
        if (major, minor) != (9, 0) {
            let reason = format!(
                "its compute capability is {major}.{minor}, and the kernels are written for 9.0 (H100, H200, GH200)"
            );
            return Err(CudaError::NoDevice { reason });
        }
        let mut stream = null_mut();
        // SAFETY: writes the handle of a new stream.
        check("cudaStreamCreate", unsafe { ffi::cudaStreamCreateWithFlags(&mut stream, ffi::STREAM_NON_BLOCKING) })?;
        Ok(Self(Arc::new(Inner { stream, multiprocessors: attribute(ffi::ATTRIBUTE_MULTIPROCESSORS)?, half })))
    }

    /// Multiprocessors of the device.
    pub fn multiprocessors(&self) -> usize {
        self.0.multiprocessors
    }

    /// The 16-bit numbers it computes with.
    pub fn half(&self) -> Half {
        self.0.half
    }

    /// Free and total memory of the device, in bytes.
    ///
    /// # Errors
    /// [`CudaError::Call`].
    pub fn memory(&self) -> Result<(usize, usize), CudaError> {
        let (mut free, mut total) = (0, 0);
        // SAFETY: writes two sizes.
        check("cudaMemGetInfo", unsafe { ffi::cudaMemGetInfo(&mut free, &mut total) })?;
        Ok((free, total))
    }

    /// Waits until everything that was issued is done.
    ///
    /// # Errors
    /// [`CudaError::Call`], also for what failed while it ran.
    pub fn synchronize(&self) -> Result<(), CudaError> {
        // SAFETY: the stream exists as long as this value.
        check("a kernel or copy on the device", unsafe { ffi::cudaStreamSynchronize(self.0.stream) })
    }

    /// Where operations are issued: to the device, or into what this thread records.
    pub(super) fn stream(&self) -> ffi::RawStream {
        graph::recording().unwrap_or(self.0.stream)
    }
}

/// A point in the order of what was issued.
#[derive(Debug)]
pub struct Event {
    raw: ffi::RawEvent,
    device: Device,
}

// SAFETY: an event is a handle to functions that any thread may call.
unsafe impl Send for Event {}
// SAFETY: as above.
unsafe impl Sync for Event {}

impl Event {
    /// A new event on the stream of `device`.
    ///
    /// # Errors
    /// [`CudaError::Call`].
    pub fn new(device: &Device) -> Result<Self, CudaError> {
        let mut raw = null_mut();
        // SAFETY: writes the handle of a new event.
        check("cudaEventCreate", unsafe { ffi::cudaEventCreateWithFlags(&mut raw, ffi::EVENT_DEFAULT) })?;
        Ok(Self { raw, device: device.clone() })
    }

    /// Puts the event behind everything issued so far.
    ///
    /// # Errors
    /// [`CudaError::Call`].
    pub fn record(&self) -> Result<(), CudaError> {
        // SAFETY: event and stream exist.
        check("cudaEventRecord", unsafe { ffi::cudaEventRecord(self.raw, self.device.stream()) })
    }

    /// Waits until everything before the event is done; at once where it was never recorded.
    ///
    /// # Errors
    /// [`CudaError::Call`].
    pub fn wait(&self) -> Result<(), CudaError> {
        // SAFETY: the event exists.
        check("cudaEventSynchronize", unsafe { ffi::cudaEventSynchronize(self.raw) })
    }

    /// Milliseconds the device took from this event to a later one; both have been recorded and waited for.
    ///
    /// # Errors
    /// [`CudaError::Call`].
    pub fn until(&self, later: &Self) -> Result<f32, CudaError> {
        let mut milliseconds = 0.0;
        // SAFETY: writes a number; both events exist.
        check("cudaEventElapsedTime", unsafe { ffi::cudaEventElapsedTime(&mut milliseconds, self.raw, later.raw) })?;
        Ok(milliseconds)
    }
}

impl Drop for Event {
    fn drop(&mut self) {
        // SAFETY: the event was created by this value.
        unsafe { ffi::cudaEventDestroy(self.raw) };
    }
}
