//! Decoding steps as graphs: recorded the second time a step of its size comes, and issued at once from then on.
//!
//! A step's kernels and their arguments follow from the number of its rows, the width of its block tables and where its
//! buffers are. The first two are rounded up to powers of two ([`super::batch`]), so that a few graphs serve for all
//! steps; buffers stay where they are as long as passes follow one another. All of that is the key of a graph: a step
//! that differs in any of it is issued kernel by kernel, or recorded anew.

use edgewise_kernels::cuda::{CudaError, Device, Graph};

use crate::decoder::DecoderError;

use super::device_error;

/// Most graphs that are kept; each takes about a megabyte of the device.
const MOST: usize = 24;

/// What a step's kernels are given, as far as it can change: sizes and addresses.
pub(super) type Key = Vec<usize>;

/// The graphs of a decoder.
#[derive(Debug, Default)]
pub(super) struct Steps {
    /// Least recently used first. Without a graph where the step was seen once.
    kept: Vec<(Key, Option<Graph>)>,
    /// Whether recording failed once, and is not tried again.
    disabled: bool,
}

impl Steps {
    /// Issues a step.
    ///
    /// # Errors
    /// What `issue` fails with, or a failure of the device.
    ///
    /// # Safety
    /// `issue` issues the same operations on the same memory whenever it is called for `key`, does not wait, allocate or
    /// free, and what the operations read is as their launchers require each time.
    pub(super) unsafe fn issue(
        &mut self,
        device: &Device,
        key: Key,
        issue: impl FnOnce() -> Result<(), DecoderError>,
    ) -> Result<(), DecoderError> {
        if self.disabled {
            return issue();
        }
        let Some(at) = self.kept.iter().position(|(kept, _)| *kept == key) else {
            if self.kept.len() >= MOST {
                self.kept.remove(0);
            }
            self.kept.push((key, None));
            return issue();
        };
        let (key, graph) = self.kept.remove(at);
        let graph = match graph {
            Some(graph) => graph,
            None => match Graph::record(device, issue) {
                Ok(recorded) => recorded?,
                Err(error) => return self.disable(error),
            },
        };
        // SAFETY: the key says that everything recorded is where it was; the caller vouches for the rest.
        let launched = unsafe { graph.launch() };
        self.kept.push((key, Some(graph)));
        launched.map_err(device_error)
    }

    /// Fails this step, which was not issued; those after it are issued kernel by kernel.
    fn disable(&mut self, error: CudaError) -> Result<(), DecoderError> {
        tracing::warn!(%error, "decoding steps can't be recorded as graphs: they are issued kernel by kernel");
        self.disabled = true;
        Err(device_error(error))
    }
}
