//! Storage of keys and values in pages, for every layer, in the memory of the host.
//!
//! Layer by layer, keys and values each are one array of pages in f16, in the layout of the attention kernel. A
//! position takes `2·layers·kv_heads·head_dim·2` bytes (a head as wide as the next multiple of 16). Deliberately not
//! here: who owns which page.

use edgewise_kernels::KvLayout;
use half::f16;

use crate::decoder::DecoderError;

/// Keys and values of many sequences.
#[derive(Debug)]
pub struct CpuKv {
    page_elements: usize,
    pages: usize,
    layers: Vec<LayerPages>,
}

/// The pages of one layer.
#[derive(Debug)]
pub(super) struct LayerPages {
    pub(super) keys: Vec<f16>,
    pub(super) values: Vec<f16>,
}

impl CpuKv {
    pub(super) fn new(layout: KvLayout, layers: usize, pages: usize) -> Result<Self, DecoderError> {
        let out_of_memory = || DecoderError::OutOfMemory { pages, page_bytes: page_bytes(layout, layers) };
        let elements = pages.checked_mul(layout.page_elements()).ok_or_else(out_of_memory)?;
        let array = || -> Result<Vec<f16>, DecoderError> {
            let mut array = Vec::new();
            array.try_reserve_exact(elements).map_err(|_| out_of_memory())?;
            array.resize(elements, f16::ZERO);
            Ok(array)
        };
        let layers = (0..layers).map(|_| Ok(LayerPages { keys: array()?, values: array()? }));
        Ok(Self { page_elements: layout.page_elements(), pages, layers: layers.collect::<Result<_, DecoderError>>()? })
    }

    pub(super) fn pages(&self) -> usize {
        self.pages
    }

    pub(super) fn layer(&self, layer: usize) -> &LayerPages {
        &self.layers[layer]
    }

    pub(super) fn layer_mut(&mut self, layer: usize) -> &mut LayerPages {
        &mut self.layers[layer]
    }

    /// Copies a page. Positions beyond those of interest are copied too: they may hold anything.
    pub(super) fn copy(&mut self, from: usize, to: usize) {
        let size = self.page_elements;
        for array in self.arrays_mut() {
            array.copy_within(from * size..(from + 1) * size, to * size);
        }
    }

    /// Appends the contents of a page, little-endian: keys, then values, of each layer in turn.
    pub(super) fn read(&self, page: usize, out: &mut Vec<u8>) {
        let size = self.page_elements;
        for layer in &self.layers {
            for array in [&layer.keys, &layer.values] {
                out.extend(array[page * size..][..size].iter().flat_map(|x| x.to_le_bytes()));
            }
        }
    }

    /// Puts back what [`Self::read`] gave.
    pub(super) fn write(&mut self, page: usize, bytes: &[u8]) {
        let size = self.page_elements;
        for (array, bytes) in self.arrays_mut().zip(bytes.chunks_exact(size * size_of::<f16>())) {
            for (to, from) in array[page * size..][..size].iter_mut().zip(bytes.as_chunks().0) {
                *to = f16::from_le_bytes(*from);
            }
        }
    }

    fn arrays_mut(&mut self) -> impl Iterator<Item = &mut Vec<f16>> {
        self.layers.iter_mut().flat_map(|layer| [&mut layer.keys, &mut layer.values])
    }
}

/// Bytes of one page over all layers, keys and values.
pub(super) fn page_bytes(layout: KvLayout, layers: usize) -> usize {
    2 * layers * layout.page_elements() * size_of::<f16>()
}
