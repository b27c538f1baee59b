//! Storage of keys and values in pages, for every layer.
//!
//! Layer by layer, keys and values each are one array of pages, `[page][page_elements]`, in the layout of the attention
//! kernel. A page takes `2·layers·kv_heads·head_dim·2` bytes per position. Deliberately not here: who owns which page.

use edgewise_kernels::KvLayout;
use edgewise_kv_cache::PageId;
use half::f16;

use super::DecoderError;

/// Keys and values of many sequences, in f16.
#[derive(Debug)]
pub struct PagedKv {
    layout: KvLayout,
    pages: usize,
    layers: Vec<LayerPages>,
}

/// The pages of one layer.
#[derive(Debug)]
pub(crate) struct LayerPages {
    pub(crate) keys: Vec<f16>,
    pub(crate) values: Vec<f16>,
}

impl PagedKv {
    pub(crate) fn new(layout: KvLayout, layers: usize, pages: usize) -> Result<Self, DecoderError> {
        let out_of_memory = || DecoderError::OutOfMemory { pages, page_bytes: page_bytes(layout, layers) };
        let elements = pages.checked_mul(layout.page_elements()).ok_or_else(out_of_memory)?;
        let array = || -> Result<Vec<f16>, DecoderError> {
            let mut array = Vec::new();
            array.try_reserve_exact(elements).map_err(|_| out_of_memory())?;
            array.resize(elements, f16::ZERO);
            Ok(array)
        };
        let layer = |_| Ok(LayerPages { keys: array()?, values: array()? });
        Ok(Self { layout, pages, layers: (0..layers).map(layer).collect::<Result<_, DecoderError>>()? })
    }

    /// Number of pages.
    pub fn pages(&self) -> usize {
        self.pages
    }

    pub(crate) fn layer(&self, layer: usize) -> &LayerPages {
        &self.layers[layer]
    }

    pub(crate) fn layer_mut(&mut self, layer: usize) -> &mut LayerPages {
        &mut self.layers[layer]
    }

    /// Copies a page. Positions beyond those of interest are copied too: they may hold anything.
    pub(crate) fn copy(&mut self, from: PageId, to: PageId) {
        let size = self.layout.page_elements();
        let (from, to) = (from.0 as usize * size, to.0 as usize * size);
        for array in self.arrays_mut() {
            array.copy_within(from..from + size, to);
        }
    }

    /// Appends the contents of a page, little-endian: keys, then values, of each layer in turn.
    pub(crate) fn read(&self, page: PageId, out: &mut Vec<u8>) {
        let size = self.layout.page_elements();
        for layer in &self.layers {
            for array in [&layer.keys, &layer.values] {
                out.extend(array[page.0 as usize * size..][..size].iter().flat_map(|x| x.to_le_bytes()));
            }
        }
    }

    /// Puts back what [`Self::read`] gave.
    pub(crate) fn write(&mut self, page: PageId, bytes: &[u8]) -> Result<(), DecoderError> {
        let size = self.layout.page_elements();
        let expected = page_bytes(self.layout, self.layers.len());
        if bytes.len() != expected {
            return Err(DecoderError::PageSize { bytes: bytes.len(), expected });
        }
        let parts = bytes.chunks_exact(size * size_of::<f16>());
        for (array, bytes) in self.arrays_mut().zip(parts) {
            for (to, from) in array[page.0 as usize * size..][..size].iter_mut().zip(bytes.as_chunks().0) {
                *to = f16::from_le_bytes(*from);
            }
        }
        Ok(())
    }

    fn arrays_mut(&mut self) -> impl Iterator<Item = &mut Vec<f16>> {
        self.layers.iter_mut().flat_map(|layer| [&mut layer.keys, &mut layer.values])
    }
}

/// Bytes of one page over all layers, keys and values.
pub(crate) fn page_bytes(layout: KvLayout, layers: usize) -> usize {
    2 * layers * layout.page_elements() * size_of::<f16>()
}
