//! Keys and values of one sequence, in pages of its own.
//!
//! Invariant: only positions below [`KvState::tokens`] are ever read. Pages grow by doubling. Deliberately not here:
//! sharing pages between sequences.

use edgewise_kv_cache::PageId;

use super::{BatchEntry, Cpu, CpuKv, Decoder, DecoderError};

/// Keys and values of one sequence. Made by [`Decoder::new_state`], and usable only with a decoder of the same shape.
#[derive(Debug)]
pub struct KvState {
    decoder: Decoder,
    kv: CpuKv,
    pages: Vec<PageId>,
    tokens: usize,
}

impl Decoder<Cpu> {
    /// An empty sequence.
    ///
    /// # Errors
    /// [`DecoderError::OutOfMemory`].
    pub fn new_state(&self) -> Result<KvState, DecoderError> {
        Ok(KvState { decoder: self.clone(), kv: self.allocate(0)?, pages: Vec::new(), tokens: 0 })
    }
}

impl KvState {
    /// Appends `tokens` and returns the logits of the last one.
    ///
    /// # Errors
    /// As [`Decoder::forward`]. The state is then unchanged.
    pub fn forward(&mut self, tokens: &[u32]) -> Result<Vec<f32>, DecoderError> {
        let window = self.decoder.config().context_window;
        let (held, added) = (self.tokens, tokens.len());
        if held + added > window {
            return Err(DecoderError::WindowExceeded { held, added, window });
        }
        self.reserve(held + added)?;
        let entry = BatchEntry { tokens, position: held, pages: &self.pages, logits: true };
        let logits = self.decoder.forward(&mut self.kv, &[entry])?;
        self.tokens += added;
        Ok(logits.into_iter().flatten().next().unwrap_or_default())
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
    ///
    /// # Errors
    /// [`DecoderError::OutOfMemory`].
    pub fn clone_prefix(&self, tokens: usize) -> Result<Self, DecoderError> {
        let mut copy = self.decoder.new_state()?;
        copy.tokens = tokens.min(self.tokens);
        let pages = copy.tokens.div_ceil(self.decoder.page_tokens());
        copy.kv = self.kv.resized(pages)?;
        copy.pages = self.pages[..pages].to_vec();
        Ok(copy)
    }

    /// Memory taken, in bytes.
    pub fn bytes(&self) -> usize {
        self.pages.len() * self.decoder.page_bytes()
    }

    fn reserve(&mut self, tokens: usize) -> Result<(), DecoderError> {
        let needed = tokens.div_ceil(self.decoder.page_tokens());
        if needed > self.pages.len() {
            let pages = needed.max(self.pages.len() * 2);
            self.kv = self.kv.resized(pages)?;
            self.pages = (0..pages as u32).map(PageId).collect();
        }
        Ok(())
    }
}
