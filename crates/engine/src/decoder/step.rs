//! The decoder as the model that is scheduled.

use edgewise_kv_cache::PageId;

use super::{Backend, Decoder, DecoderError};
use crate::{
    EngineError,
    step_model::{BatchEntry, Demand, Meanwhile, Scores, StepModel},
};

impl<B: Backend> StepModel for Decoder<B> {
    type Kv = B::Kv;

    fn vocabulary(&self) -> usize {
        self.config().vocab_size
    }

    fn page_tokens(&self) -> usize {
        self.page_tokens()
    }

    fn page_bytes(&self) -> usize {
        self.page_bytes()
    }

    fn kv_identity(&self) -> String {
        self.kv_identity()
    }

    fn shares_generated(&self) -> bool {
        self.inner.backend.shares_generated()
    }

    fn allocate(&self, pages: usize) -> Result<B::Kv, EngineError> {
        Ok(self.allocate(pages)?)
    }

    fn forward(&self, kv: &mut B::Kv, batch: &[BatchEntry<'_>]) -> Result<Vec<Option<Vec<f32>>>, EngineError> {
        Ok(self.forward(kv, batch)?)
    }

    fn forward_for(
        &self,
        kv: &mut B::Kv,
        batch: &[BatchEntry<'_>],
        demands: &[Demand],
    ) -> Result<Vec<Option<Scores>>, EngineError> {
        Ok(self.forward_for(kv, batch, demands)?)
    }

    fn is_device(&self) -> bool {
        B::IS_DEVICE
    }

    fn forward_beside(
        &self,
        kv: &mut B::Kv,
        batch: &[BatchEntry<'_>],
        demands: &[Demand],
        meanwhile: &mut Meanwhile<'_>,
    ) -> Result<Vec<Option<Scores>>, EngineError> {
        Ok(self.forward_beside(kv, batch, demands, meanwhile)?)
    }

    fn copy_page(&self, kv: &mut B::Kv, from: PageId, to: PageId, tokens: usize) {
        self.inner.backend.copy_page(kv, from.0 as usize, to.0 as usize, tokens);
    }

    fn read_page(&self, kv: &B::Kv, page: PageId, out: &mut Vec<u8>) {
        self.inner.backend.read_page(kv, page.0 as usize, out);
    }

    fn write_page(&self, kv: &mut B::Kv, page: PageId, bytes: &[u8]) -> Result<(), EngineError> {
        let expected = self.page_bytes();
        if bytes.len() != expected {
            return Err(DecoderError::PageSize { bytes: bytes.len(), expected }.into());
        }
        self.inner.backend.write_page(kv, page.0 as usize, bytes);
        Ok(())
    }
}
