//! The forward pass, written once for every family and backend: pre-normalised layers of grouped-query attention and a
//! feed-forward layer, over a batch of sequences whose keys and values lie in pages.
//!
//! Sources: Vaswani et al. (<https://arxiv.org/abs/1706.03762>), Touvron et al. (<https://arxiv.org/abs/2302.13971>);
//! paged keys and values, Kwon et al. (<https://arxiv.org/abs/2309.06180>). Memory beyond weights and pages grows with
//! the rows of the batch, never with their square or with the positions held.

use rayon::prelude::*;

use super::{Decoder, DecoderConfig, DecoderError};
use crate::{
    backend::{Activations, Backend},
    step_model::{BatchEntry, Demand, Meanwhile, Scores},
};

impl<B: Backend> Decoder<B> {
    /// Writes the keys and values of every entry's tokens to its pages, and returns the logits after its last token,
    /// `[vocab_size]`, for the entries that want them. A long prompt is best given in parts of some hundred tokens.
    ///
    /// # Errors
    /// [`DecoderError`] when an entry has no or an unknown token, exceeds the window, or its block table is too short
    /// or names a page that does not exist. Positions held before are untouched.
    pub fn forward(&self, kv: &mut B::Kv, batch: &[BatchEntry<'_>]) -> Result<Vec<Option<Vec<f32>>>, DecoderError> {
        self.computed(kv, batch, |backend, logits| backend.read(logits), are_finite)
    }

    /// As [`Self::forward`], with what each entry's token is to be drawn from: at least as much as its place in `demands`
    /// says, which are as many as the batch has entries.
    ///
    /// # Errors
    /// As [`Self::forward`].
    pub fn forward_for(
        &self,
        kv: &mut B::Kv,
        batch: &[BatchEntry<'_>],
        demands: &[Demand],
    ) -> Result<Vec<Option<Scores>>, DecoderError> {
        self.forward_beside(kv, batch, demands, &mut || {})
    }

    /// As [`Self::forward_for`], and calls `meanwhile` on this thread while a device computes the pass; not where the CPU
    /// does, whose time the pass takes itself. A pass that fails, or that nobody wants logits of, may not come to it.
    ///
    /// # Errors
    /// As [`Self::forward`].
    pub fn forward_beside(
        &self,
        kv: &mut B::Kv,
        batch: &[BatchEntry<'_>],
        demands: &[Demand],
        meanwhile: &mut Meanwhile<'_>,
    ) -> Result<Vec<Option<Scores>>, DecoderError> {
        let demand = |i: usize| demands.get(i).copied().unwrap_or_default();
        let wanted: Vec<Demand> =
            batch.iter().enumerate().filter(|(_, entry)| entry.logits).map(|(i, _)| demand(i)).collect();
        let finite = |rows: &[Scores]| {
            let mut whole = are_finite(&rows.iter().filter_map(Scores::whole).collect::<Vec<_>>()).into_iter();
            let is_finite = |row: &Scores| match row {
                Scores::Whole(_) => whole.next().unwrap_or(false),
                Scores::Likeliest(likeliest) => likeliest.log_sum.is_finite(),
            };
            rows.iter().map(is_finite).collect()
        };
        self.computed(kv, batch, |backend, logits| backend.scores(logits, &wanted, meanwhile), finite)
    }

    /// A pass over a batch that is checked, and what `read` makes of the logits, which must all be finite.
    fn computed<T: Send>(
        &self,
        kv: &mut B::Kv,
        batch: &[BatchEntry<'_>],
        read: impl FnOnce(&B, &B::Tensor) -> Result<Vec<T>, DecoderError> + Send,
        are_finite: impl FnOnce(&[T]) -> Vec<bool>,
    ) -> Result<Vec<Option<T>>, DecoderError> {
        self.check(kv, batch)?;
        let rows = self.inner.backend.run(|| self.pass(kv, batch, read))?;
        let finite = are_finite(&rows);
        let mut rows = rows.into_iter().zip(finite);
        let mut results = Vec::with_capacity(batch.len());
        for entry in batch {
            let row = if entry.logits { rows.next() } else { None };
            if matches!(row, Some((_, false))) {
                return Err(DecoderError::NotFinite { position: entry.position + entry.tokens.len() - 1 });
            }
            results.push(row.map(|(row, _)| row));
        }
        Ok(results)
    }

    fn check(&self, kv: &B::Kv, batch: &[BatchEntry<'_>]) -> Result<(), DecoderError> {
        let &DecoderConfig { context_window: window, vocab_size, .. } = self.config();
        let pages = B::pages(kv);
        for entry in batch {
            let (held, added) = (entry.position, entry.tokens.len());
            if added == 0 {
                return Err(DecoderError::NoTokens);
            }
            if held.saturating_add(added) > window {
                return Err(DecoderError::WindowExceeded { held, added, window });
            }
            if let Some(token) = entry.tokens.iter().copied().find(|token| *token as usize >= vocab_size) {
                return Err(DecoderError::UnknownToken { token, vocab_size });
            }
            let needed = (held + added).div_ceil(self.inner.backend.page_tokens());
            if entry.pages.len() < needed {
                let problem = format!("{} pages where {needed} are needed", entry.pages.len());
                return Err(DecoderError::BlockTable { problem });
            }
            if let Some(page) = entry.pages.iter().find(|page| page.0 as usize >= pages) {
                return Err(DecoderError::BlockTable { problem: format!("page {} of {pages}", page.0) });
            }
        }
        Ok(())
    }

    /// What `read` makes of the logits of the entries that want them; it is not called where none does.
    fn pass<T>(
        &self,
        kv: &mut B::Kv,
        batch: &[BatchEntry<'_>],
        read: impl FnOnce(&B, &B::Tensor) -> Result<Vec<T>, DecoderError>,
    ) -> Result<Vec<T>, DecoderError> {
        let (b, attention) = (&self.inner.backend, &self.inner.attention);
        let &DecoderConfig { hidden, heads, kv_heads, head_dim, feed_forward, vocab_size, .. } = self.config();
        let wanted = batch.iter().filter(|entry| entry.logits).count();
        let mut pass = b.begin(attention, batch)?;
        let (rows, wanted_rows) = b.rows(&pass, batch);
        let tensor = |width: usize| b.tensor(rows, width);
        let mut tensors = Activations {
            residual: b.residual(rows, hidden)?,
            normed: tensor(hidden)?,
            projected: tensor(hidden)?,
            qkv: [tensor(heads * head_dim)?, tensor(kv_heads * head_dim)?, tensor(kv_heads * head_dim)?],
            attended: tensor(heads * head_dim)?,
            gate: tensor(feed_forward)?,
            up: tensor(feed_forward)?,
            logits: b.logits(wanted_rows, vocab_size)?,
        };
        b.issue(attention, &mut pass, kv, &mut tensors, |pass, kv, tensors| {
            self.layers(pass, kv, tensors, (rows, wanted_rows))
        })?;
        if wanted == 0 {
            return Ok(Vec::new());
        }
        b.shrink(&mut tensors.logits, wanted);
        read(b, &tensors.logits)
    }

    /// The pass itself, for `rows` rows, `wanted` of whose logits are computed.
    fn layers(
        &self,
        pass: &mut B::Pass<'_>,
        kv: &mut B::Kv,
        tensors: &mut Activations<B>,
        (rows, wanted): (usize, usize),
    ) -> Result<(), DecoderError> {
        let inner = &*self.inner;
        let (b, weights, attention) = (&inner.backend, &inner.weights, &inner.attention);
        let Activations { residual, normed, projected, qkv: [q, k, v], attended, gate, up, logits } = tensors;
        b.embed(pass, &weights.embedding, residual)?;
        let Some(first) = weights.layers.first() else { return Ok(()) };
        b.norm(residual, &first.attention_norm, normed)?;
        for (i, layer) in weights.layers.iter().enumerate() {
            b.project(pass, normed, &mut [(&layer.q, &mut *q), (&layer.k, &mut *k), (&layer.v, &mut *v)])?;
            b.write_kv(attention, pass, (&mut *kv, i), layer.head_norms.as_ref(), [&mut *q, &mut *k, &mut *v])?;
            let last = i + 1 == weights.layers.len();
            if last && wanted == 0 {
                return Ok(());
            }
            b.attend(attention, pass, (&*kv, i), inner.config.windows[i], [q, k, v], attended)?;
            if last && wanted < rows {
                // Nothing below mixes rows, so only those whose logits are wanted go on.
                b.keep_wanted(pass, residual)?;
                b.keep_wanted(pass, attended)?;
                for scratch in [&mut *normed, &mut *projected, &mut *gate, &mut *up] {
                    b.shrink(scratch, wanted);
                }
            }
            let product = (&layer.attention_output, &mut *projected);
            b.project_add_norm(pass, attended, product, residual, &layer.feed_forward_norm, normed)?;
            let widened = if let Some(gate_weights) = &layer.gate {
                b.project_gated(pass, normed, (gate_weights, &mut *gate), (&layer.up, &mut *up))?;
                &*gate
            } else {
                b.project(pass, normed, &mut [(&layer.up, &mut *up)])?;
                b.gelu(up)?;
                &*up
            };
            let next = weights.layers.get(i + 1).map_or(&weights.output_norm, |layer| &layer.attention_norm);
            b.project_add_norm(pass, widened, (&layer.down, &mut *projected), residual, next, normed)?;
        }
        b.project(pass, normed, &mut [(weights.output(), logits)])
    }
}

/// Whether each row [`is_finite`].
fn are_finite(rows: &[impl AsRef<[f32]> + Sync]) -> Vec<bool> {
    // A few rows are looked through faster than other threads are woken.
    match rows.len() {
        0..4 => rows.iter().map(|row| is_finite(row.as_ref())).collect(),
        _ => rows.par_iter().map(|row| is_finite(row.as_ref())).collect(),
    }
}

/// Whether no number is infinite or not a number: their exponents have all bits set. Without an early end, so that it
/// runs on vectors.
fn is_finite(row: &[f32]) -> bool {
    const EXPONENT: u32 = 0x7f80_0000;
    row.iter().fold(0, |largest: u32, logit| largest.max(logit.to_bits() & EXPONENT)) < EXPONENT
}
