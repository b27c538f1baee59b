//! Where the time of a pass goes, and what the card can do at most: for measurements.

use std::time::{Duration, Instant};

use edgewise_kernels::cuda::{CudaError, Device, DeviceMemory, Event, Half, VendorProduct};

use super::{Cuda, HALF, device_error, lock};
use crate::decoder::DecoderError;

/// What the last pass that gave logits took.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct PassTimes {
    /// Milliseconds until everything was issued.
    pub issue_ms: f64,
    /// Milliseconds from the first operation on the device to the end of the last, copying logits to the host excluded.
    pub device_ms: f64,
}

/// The rates that limit a decoder, measured.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Ceilings {
    /// Operations per second of cuBLASLt's matrix product 8192 × 8192 × 8192.
    pub matmul: f64,
    /// Bytes read and written per second by a copy of a gibibyte within the device.
    pub copy: f64,
}

/// Marks of the last pass.
#[derive(Debug)]
pub(super) struct Times {
    first: Event,
    last: Event,
    begun: Instant,
    issued: Option<Duration>,
}

impl Times {
    pub(super) fn new(device: &Device) -> Result<Self, CudaError> {
        Ok(Self { first: Event::new(device)?, last: Event::new(device)?, begun: Instant::now(), issued: None })
    }

    /// Before the first operation of a pass.
    pub(super) fn begin(&mut self) -> Result<(), CudaError> {
        (self.begun, self.issued) = (Instant::now(), None);
        self.first.record()
    }

    /// Behind the last.
    pub(super) fn issued(&mut self) -> Result<(), CudaError> {
        self.issued = Some(self.begun.elapsed());
        self.last.record()
    }
}

/// Random bits that are numbers between 1 and 2 in size, of both signs.
fn noise(device: &Device, bytes: usize) -> Result<DeviceMemory, CudaError> {
    const PART: usize = 32 << 20;
    let memory = DeviceMemory::new(device, bytes)?;
    let (kept, one) = match device.half() {
        Half::Bf16 => (0x807f, 0x3f80),
        Half::F16 => (0x83ff, 0x3c00),
    };
    let mut state = 0x9e37_79b9_7f4a_7c15u64;
    let mut number = || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        ((state >> 48) as u16 & kept | one).to_le_bytes()
    };
    let part: Vec<u8> = (0..PART.min(bytes) / HALF).flat_map(|_| number()).collect();
    for first in (0..bytes).step_by(PART) {
        memory.write(first, &part[..PART.min(bytes - first)])?;
    }
    Ok(memory)
}

/// The median of `repetitions` times in seconds, after one that does not count.
fn timed(device: &Device, repetitions: usize, issue: impl Fn() -> Result<(), CudaError>) -> Result<f64, CudaError> {
    let (first, last) = (Event::new(device)?, Event::new(device)?);
    let mut times = Vec::with_capacity(repetitions);
    for repetition in 0..=repetitions {
        first.record()?;
        issue()?;
        last.record()?;
        last.wait()?;
        if repetition > 0 {
            times.push(f64::from(first.until(&last)?) / 1e3);
        }
    }
    times.sort_by(f64::total_cmp);
    Ok(times.get(times.len() / 2).copied().unwrap_or(f64::NAN))
}

impl Cuda {
    /// What the last pass that gave logits took; nothing before the first.
    ///
    /// # Errors
    /// [`DecoderError::Device`].
    pub fn last_pass(&self) -> Result<Option<PassTimes>, DecoderError> {
        let times = lock(&self.0.times);
        let Some(issued) = times.issued else { return Ok(None) };
        let device_ms = times.last.wait().and_then(|()| times.first.until(&times.last)).map_err(device_error)?;
        Ok(Some(PassTimes { issue_ms: issued.as_secs_f64() * 1e3, device_ms: device_ms.into() }))
    }

    /// Measures what limits a decoder; takes 2.5 GB of the device meanwhile, and half a second.
    ///
    /// # Errors
    /// [`DecoderError::Device`], also where that memory is not free, or cuBLASLt is not installed.
    pub fn ceilings(&self) -> Result<Ceilings, DecoderError> {
        const SIDE: usize = 8192;
        const COPIED: usize = 1 << 30;
        let measure = || -> Result<Ceilings, CudaError> {
            let device = self.device();
            let [x, weights] = [noise(device, SIDE * SIDE * HALF)?, noise(device, SIDE * SIDE * HALF)?];
            let out = DeviceMemory::new(device, SIDE * SIDE * HALF)?;
            let product = VendorProduct::new(device, [x.all(), weights.all(), out.all()], SIDE)?;
            let product = timed(device, 11, || product.issue())?;
            let (from, to) = (noise(device, COPIED)?, DeviceMemory::new(device, COPIED)?);
            let copied = timed(device, 11, || to.all().copy_from(device, from.all()))?;
            Ok(Ceilings { matmul: 2.0 * (SIDE as f64).powi(3) / product, copy: 2.0 * COPIED as f64 / copied })
        };
        measure().map_err(device_error)
    }
}
