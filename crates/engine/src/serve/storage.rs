//! Where pages are: the model's page storage and, below it, slots of host memory.

use edgewise_kv_cache::{HostSlot, Move, PageId, Place};

use crate::{
    EngineError,
    step_model::{BatchEntry, Demand, Meanwhile, Scores, StepModel},
};

/// Contents of all pages.
pub(crate) struct Storage<M: StepModel> {
    kv: M::Kv,
    /// Filled when first written.
    host: Vec<Option<Vec<u8>>>,
}

/// What one entry of a batch draws from, if its logits were wanted, or why there is nothing.
pub(crate) type Computed = Result<Option<Scores>, EngineError>;

impl<M: StepModel> Storage<M> {
    pub(crate) fn new(kv: M::Kv, host_slots: usize) -> Self {
        Self { kv, host: vec![None; host_slots] }
    }

    /// Executes moves in order.
    ///
    /// # Errors
    /// When a move can't be executed. Pages are then not what the cache believes they are: nothing may be computed any
    /// more.
    pub(crate) fn execute(&mut self, model: &M, moves: &[Move]) -> Result<(), EngineError> {
        for &step in moves {
            match step {
                Move::Copy { from, to, tokens } => model.copy_page(&mut self.kv, from, to, tokens),
                Move::ToHost { page, slot } => {
                    let mut bytes = Vec::with_capacity(model.page_bytes());
                    model.read_page(&self.kv, page, &mut bytes);
                    *self.host.get_mut(slot.0 as usize).ok_or_else(|| unknown(slot))? = Some(bytes);
                }
                Move::FromHost { slot, page } => {
                    let held = self.host.get(slot.0 as usize).and_then(Option::as_ref);
                    model.write_page(&mut self.kv, page, held.ok_or_else(|| unknown(slot))?)?;
                }
            }
        }
        Ok(())
    }

    /// Contents of a page, wherever it is, appended to `out`.
    pub(crate) fn read(&self, model: &M, place: Place, out: &mut Vec<u8>) -> Result<(), EngineError> {
        match place {
            Place::Device(page) => model.read_page(&self.kv, page, out),
            Place::Host(slot) => {
                let held = self.host.get(slot.0 as usize).and_then(Option::as_ref);
                out.extend_from_slice(held.ok_or_else(|| unknown(slot))?);
            }
        }
        Ok(())
    }

    /// Overwrites a page.
    pub(crate) fn write(&mut self, model: &M, page: PageId, bytes: &[u8]) -> Result<(), EngineError> {
        model.write_page(&mut self.kv, page, bytes)
    }

    /// As [`Self::forward_beside`], with nothing to do beside it.
    #[cfg(test)]
    pub(crate) fn forward(&mut self, model: &M, batch: &[BatchEntry<'_>], demands: &[Demand]) -> Vec<Computed> {
        self.forward_beside(model, batch, demands, &mut || {})
    }

    /// Runs a batch, with what each entry draws from, and `meanwhile` beside it. When it fails, every entry is tried by
    /// itself, so that only those at fault fail: positions that were held before are untouched, and writing the others
    /// again changes nothing.
    pub(crate) fn forward_beside(
        &mut self,
        model: &M,
        batch: &[BatchEntry<'_>],
        demands: &[Demand],
        meanwhile: &mut Meanwhile<'_>,
    ) -> Vec<Computed> {
        let error = match model.forward_beside(&mut self.kv, batch, demands, meanwhile) {
            Ok(scores) if scores.len() == batch.len() => return scores.into_iter().map(Ok).collect(),
            Ok(scores) => EngineError::Decoder(format!("{} results for {} sequences", scores.len(), batch.len())),
            Err(error) => error,
        };
        if batch.len() == 1 {
            return vec![Err(error)];
        }
        tracing::warn!(%error, sequences = batch.len(), "a batch failed; its sequences are tried one by one");
        let mut alone = |(entry, demand): (&BatchEntry<'_>, &Demand)| {
            let (entry, demand) = (std::slice::from_ref(entry), std::slice::from_ref(demand));
            let scores = model.forward_for(&mut self.kv, entry, demand)?;
            scores.into_iter().next().ok_or_else(|| EngineError::Decoder("no result for a sequence".to_owned()))
        };
        batch.iter().zip(demands).map(&mut alone).collect()
    }

    /// The model's storage, for its calibration.
    pub(crate) fn kv(&mut self) -> &mut M::Kv {
        &mut self.kv
    }
}

fn unknown(slot: HostSlot) -> EngineError {
    EngineError::Decoder(format!("host slot {} holds no page", slot.0))
}
