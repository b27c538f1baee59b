//! The decoder as the model that is scheduled.

use edgewise_kernels::PAGE;
use edgewise_kv_cache::PageId;

use super::{Decoder, DecoderError, KvState, PagedKv, pages::page_bytes};
use crate::{
    EngineError,
    step_model::{BatchEntry, StepModel},
};

impl StepModel for Decoder {
    type Kv = PagedKv;

    fn vocabulary(&self) -> usize {
        self.config().vocab_size
    }

    fn page_tokens(&self) -> usize {
        PAGE
    }

    fn page_bytes(&self) -> usize {
        page_bytes(self.layout(), self.config().layers)
    }

    fn allocate(&self, pages: usize) -> Result<PagedKv, EngineError> {
        Ok(PagedKv::new(self.layout(), self.config().layers, pages)?)
    }

    fn forward(&self, kv: &mut PagedKv, batch: &[BatchEntry<'_>]) -> Result<Vec<Option<Vec<f32>>>, EngineError> {
        let mut results = Vec::with_capacity(batch.len());
        for entry in batch {
            let needed = (entry.position + entry.tokens.len()).div_ceil(PAGE);
            if entry.pages.len() < needed || entry.pages.iter().any(|page| page.0 as usize >= kv.pages()) {
                let problem =
                    format!("{} of the {needed} pages that are needed, or one out of range", entry.pages.len());
                return Err(DecoderError::BlockTable { problem }.into());
            }
            let layers = self.config().layers;
            let mut state = KvState::gather(kv, layers, entry.pages, entry.position, self.layout());
            let logits = Decoder::forward(self, &mut state, entry.tokens)?;
            state.scatter(kv, entry.pages, entry.position);
            results.push(entry.logits.then_some(logits));
        }
        Ok(results)
    }

    fn copy_page(&self, kv: &mut PagedKv, from: PageId, to: PageId, _: usize) {
        kv.copy(from, to);
    }

    fn read_page(&self, kv: &PagedKv, page: PageId, out: &mut Vec<u8>) {
        kv.read(page, out);
    }

    fn write_page(&self, kv: &mut PagedKv, page: PageId, bytes: &[u8]) -> Result<(), EngineError> {
        Ok(kv.write(page, bytes)?)
    }
}
