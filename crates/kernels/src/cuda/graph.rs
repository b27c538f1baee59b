//! Operations recorded once and issued again together: a CUDA graph.
//!
//! A decoding step is some three hundred kernels with the same arguments as the step before, as long as its buffers stay
//! where they are: issued one by one, each costs the host some microseconds; a graph is issued at once. Kernels that
//! start before the one ahead is done keep doing so.
//!
//! What is recorded runs on no device while it is recorded, and names addresses: whoever replays it must know that all
//! of them are what they were.

use std::{cell::Cell, ptr::null_mut};

use super::{CudaError, Device, check, ffi};

thread_local! {
    /// The stream this thread records on, where it does.
    static RECORDING: Cell<ffi::RawStream> = const { Cell::new(null_mut()) };
}

/// The stream this thread records on.
pub(super) fn recording() -> Option<ffi::RawStream> {
    Some(RECORDING.get()).filter(|stream| !stream.is_null())
}

/// Operations that can be issued again.
#[derive(Debug)]
pub struct Graph {
    executable: ffi::RawGraph,
    device: Device,
}

// SAFETY: an executable graph is a handle; the runtime's functions may be called from any thread.
unsafe impl Send for Graph {}

/// A stream that is destroyed when dropped, and recorded on by this thread until then.
struct Recorder(ffi::RawStream);

impl Recorder {
    fn begin() -> Result<Self, CudaError> {
        let mut stream = null_mut();
        // SAFETY: writes the handle of a new stream.
        check("cudaStreamCreate", unsafe { ffi::cudaStreamCreateWithFlags(&mut stream, ffi::STREAM_NON_BLOCKING) })?;
        let recorder = Self(stream);
        // SAFETY: the stream exists. Relaxed: what other threads do to the device meanwhile is not recorded.
        check("cudaStreamBeginCapture", unsafe { ffi::cudaStreamBeginCapture(stream, ffi::CAPTURE_RELAXED) })?;
        RECORDING.set(stream);
        Ok(recorder)
    }
}

impl Drop for Recorder {
    fn drop(&mut self) {
        RECORDING.set(null_mut());
        // SAFETY: created by this value; a capture that was not ended ends with it.
        unsafe { ffi::cudaStreamDestroy(self.0) };
    }
}

impl Graph {
    /// Records what `issue` issues from this thread, which must not wait for the device, allocate or free. Its own
    /// failure comes back as the inner result.
    ///
    /// # Errors
    /// [`CudaError::Call`] when it can't be recorded.
    pub fn record<E>(device: &Device, issue: impl FnOnce() -> Result<(), E>) -> Result<Result<Self, E>, CudaError> {
        let recorder = Recorder::begin()?;
        let issued = issue();
        RECORDING.set(null_mut());
        let mut graph = null_mut();
        // SAFETY: writes the handle of what was recorded, or none.
        let ended = check("cudaStreamEndCapture", unsafe { ffi::cudaStreamEndCapture(recorder.0, &mut graph) });
        if let Err(error) = issued {
            if !graph.is_null() {
                // SAFETY: recorded in part; nothing refers to it.
                unsafe { ffi::cudaGraphDestroy(graph) };
            }
            return Ok(Err(error));
        }
        ended?;
        let mut executable = null_mut();
        // SAFETY: the graph exists; writes the handle of its executable form, which is independent of it.
        let made = check("cudaGraphInstantiate", unsafe { ffi::cudaGraphInstantiate(&mut executable, graph, 0) });
        // SAFETY: as above.
        unsafe { ffi::cudaGraphDestroy(graph) };
        made?;
        Ok(Ok(Self { executable, device: device.clone() }))
    }

    /// Issues what was recorded.
    ///
    /// # Errors
    /// [`CudaError::Call`].
    ///
    /// # Safety
    /// All memory the recorded operations were given is still allocated, and what they read there (pages, rows,
    /// positions) is as their launchers require.
    pub unsafe fn launch(&self) -> Result<(), CudaError> {
        // SAFETY: the graph exists; the caller vouches for the memory.
        check("cudaGraphLaunch", unsafe { ffi::cudaGraphLaunch(self.executable, self.device.stream()) })
    }
}

impl Drop for Graph {
    fn drop(&mut self) {
        // It may still run.
        let _ = self.device.synchronize();
        // SAFETY: made by this value.
        unsafe { ffi::cudaGraphExecDestroy(self.executable) };
    }
}
