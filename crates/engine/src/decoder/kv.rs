//! Keys and values of one sequence, for every layer, in the page layout of the attention kernel but contiguous.
//!
//! Invariants: only positions below [`KvState::tokens`] are ever read; a state takes
//! `2·layers·kv_heads·head_dim·2` bytes per position of its pages, which grow by doubling. Deliberately not here:
//! sharing pages between sequences.

use edgewise_kernels::{AttentionEntry, KernelError, KvLayout, PAGE, PagedAttention};
use edgewise_kv_cache::PageId;
use half::f16;

use super::{DecoderConfig, PagedKv};

/// Keys and values of one sequence, in f16. Made by [`Decoder::new_state`](super::Decoder::new_state), and usable only
/// with a decoder of the same shape.
#[derive(Debug, Clone)]
pub struct KvState {
    layout: KvLayout,
    tokens: usize,
    layers: Vec<Layer>,
}

#[derive(Debug, Clone, Default)]
struct Layer {
    keys: Vec<f16>,
    values: Vec<f16>,
}

impl KvState {
    pub(super) fn new(layout: KvLayout, layers: usize) -> Self {
        Self { layout, tokens: 0, layers: vec![Layer::default(); layers] }
    }

    /// Number of positions held.
    pub fn tokens(&self) -> usize {
        self.tokens
    }

    /// Forgets every position from `tokens` on; does nothing when fewer are held. The memory is kept for reuse.
    pub fn truncate(&mut self, tokens: usize) {
        self.tokens = self.tokens.min(tokens);
    }

    /// A state of its own with the first `tokens` positions, or all when fewer are held.
    pub fn clone_prefix(&self, tokens: usize) -> Self {
        let tokens = tokens.min(self.tokens);
        let elements = self.layout.elements(tokens);
        let copy =
            |layer: &Layer| Layer { keys: layer.keys[..elements].to_vec(), values: layer.values[..elements].to_vec() };
        Self { layout: self.layout, tokens, layers: self.layers.iter().map(copy).collect() }
    }

    /// Memory taken, in bytes.
    pub fn bytes(&self) -> usize {
        let elements: usize = self.layers.iter().map(|layer| layer.keys.capacity() + layer.values.capacity()).sum();
        elements * size_of::<f16>()
    }

    /// Whether it was made for a decoder of this shape.
    pub(super) fn fits(&self, config: &DecoderConfig) -> bool {
        self.layers.len() == config.layers
            && self.layout.kv_heads() == config.kv_heads
            && self.layout.head_dim() == config.head_dim
    }

    /// Makes room for `tokens` more positions, which do not count as held before [`Self::advance`].
    pub(super) fn reserve(&mut self, tokens: usize, window: usize) {
        let needed = self.layout.elements(self.tokens + tokens);
        for layer in &mut self.layers {
            if layer.keys.len() < needed {
                let doubled = (layer.keys.len() * 2).min(self.layout.elements(window)).max(needed);
                for pages in [&mut layer.keys, &mut layer.values] {
                    pages.reserve_exact(doubled - pages.len());
                    pages.resize(doubled, f16::ZERO);
                }
            }
        }
    }

    /// Writes keys and values, `[tokens, kv_heads, head_dim]`, of the positions after those held.
    pub(super) fn write(&mut self, layer: usize, k: &[f32], v: &[f32]) -> Result<(), KernelError> {
        let rows = k.len() / (self.layout.kv_heads() * self.layout.head_dim());
        let pages = self.table();
        let Layer { keys, values } = &mut self.layers[layer];
        let entry = AttentionEntry { first_row: 0, rows, position: self.tokens, pages: &pages };
        self.layout.write(k, v, &[entry], keys, values)
    }

    /// Attention of the queries at the positions after those held, whose keys and values have been written.
    pub(super) fn attend(&self, layer: usize, heads: usize, q: &[f32], out: &mut [f32]) -> Result<(), KernelError> {
        let Layer { keys, values } = &self.layers[layer];
        let rows = q.len() / (heads * self.layout.head_dim());
        let entries = [AttentionEntry { first_row: 0, rows, position: self.tokens, pages: &self.table() }];
        PagedAttention {
            layout: self.layout,
            heads,
            scale: (1.0 / (self.layout.head_dim() as f64).sqrt()) as f32,
            q,
            entries: &entries,
            keys,
            values,
            window: None,
            sinks: 0,
            alibi: None,
        }
        .run(out)
    }

    /// The pages lie one after the other.
    fn table(&self) -> Vec<u32> {
        let elements = self.layers.first().map_or(0, |layer| layer.keys.len());
        (0..(elements / self.layout.page_elements()) as u32).collect()
    }

    /// A state with the `tokens` positions that lie in `pages`.
    #[allow(dead_code)]
    pub(super) fn gather(kv: &PagedKv, layers: usize, pages: &[PageId], tokens: usize, layout: KvLayout) -> Self {
        let size = layout.page_elements();
        let used = &pages[..tokens.div_ceil(PAGE)];
        let array = |from: &[f16]| used.iter().flat_map(|p| &from[p.0 as usize * size..][..size]).copied().collect();
        let layer = |i| Layer { keys: array(&kv.layer(i).keys), values: array(&kv.layer(i).values) };
        Self { layout, tokens, layers: (0..layers).map(layer).collect() }
    }

    /// Writes what lies from position `from` on back to `pages`.
    #[allow(dead_code)]
    pub(super) fn scatter(&self, kv: &mut PagedKv, pages: &[PageId], from: usize) {
        let size = self.layout.page_elements();
        for (i, layer) in self.layers.iter().enumerate() {
            let to = kv.layer_mut(i);
            for page in from / PAGE..self.tokens.div_ceil(PAGE) {
                let at = pages[page].0 as usize * size;
                to.keys[at..at + size].copy_from_slice(&layer.keys[page * size..][..size]);
                to.values[at..at + size].copy_from_slice(&layer.values[page * size..][..size]);
            }
        }
    }

    /// Counts `tokens` positions, written in every layer, as held.
    pub(super) fn advance(&mut self, tokens: usize) {
        self.tokens += tokens;
    }
}
