//! What tokens are drawn from on its way to the host: whole rows of logits, or only the likeliest tokens of each.
//!
//! A row has hundreds of thousands of logits, of which greedy decoding needs one and top-k sampling a few dozen. They are
//! selected on the device for all rows of a pass at once, as many as the most demanding of these rows needs; which rows
//! are selected from follows from their own demands, never from the rows beside them.

use std::ops::Range;

use edgewise_kernels::cuda::{PinnedMemory, TopK};
use rayon::prelude::*;

use super::{Cuda, CudaTensor, device_error, lock};
use crate::{
    decoder::DecoderError,
    step_model::{Demand, Likeliest, Meanwhile, Scores},
};

impl Cuda {
    /// Rows of a tensor, once all that was issued is done.
    pub(super) fn download(&self, x: &CudaTensor, rows: Range<usize>) -> Result<Vec<Vec<f32>>, DecoderError> {
        let slice = x.rows(rows.start, rows.len())?;
        let mut read = lock(&self.0.read);
        if read.bytes() < slice.bytes() {
            let room = slice.bytes().next_power_of_two();
            *read = PinnedMemory::new(self.device(), room).map_err(device_error)?;
        }
        slice.download(self.device(), &mut read).map_err(device_error)?;
        let rows = read.as_bytes()[..slice.bytes()].par_chunks_exact((x.width * x.element()).max(1));
        let half = self.options().half;
        // Rows have hundreds of thousands of values, and a step may have a hundred rows.
        Ok(match x.is_float {
            true => rows.map(|row| row.as_chunks().0.iter().map(|b| f32::from_le_bytes(*b)).collect()).collect(),
            false => rows.map(|row| row.as_chunks().0.iter().map(|b| half.from_le_bytes(*b)).collect()).collect(),
        })
    }

    /// What the rows of `logits` demand; `meanwhile` is called between issuing the selection and waiting for it.
    pub(super) fn select(
        &self,
        logits: &CudaTensor,
        demands: &[Demand],
        meanwhile: &mut Meanwhile<'_>,
    ) -> Result<Vec<Scores>, DecoderError> {
        let most = if logits.is_float { TopK::most(logits.width) } else { 0 };
        let selected = |row: usize| match demands.get(row) {
            Some(Demand::Likeliest(k)) if (1..=most).contains(k) => Some(*k),
            _ => None,
        };
        let mut top_k = lock(&self.0.top_k);
        let largest = (0..logits.rows).filter_map(selected).max();
        if let Some(k) = largest {
            let shape = (logits.rows, logits.width);
            top_k.issue(self.device(), logits.all()?, shape, k).map_err(device_error)?;
        }
        lock(&self.0.times).issued().map_err(device_error)?;
        meanwhile();
        let mut likeliest = match largest {
            Some(_) => top_k.read(self.device()).map_err(device_error)?,
            None => Vec::new(),
        }
        .into_iter();
        drop(top_k);
        let mut scores = Vec::with_capacity(logits.rows);
        while scores.len() < logits.rows {
            let first = scores.len();
            if let Some(k) = selected(first) {
                let Some(mut row) = likeliest.next() else {
                    return Err(DecoderError::Device(format!("no tokens were selected of row {first}")));
                };
                row.tokens.truncate(k);
                scores.push(Scores::Likeliest(Likeliest { tokens: row.tokens, log_sum: row.log_sum.into() }));
            } else {
                let end = (first..logits.rows).find(|row| selected(*row).is_some()).unwrap_or(logits.rows);
                scores.extend(self.download(logits, first..end)?.into_iter().map(Scores::Whole));
                // What was selected of them serves nobody.
                likeliest.by_ref().take(end - first).for_each(drop);
            }
        }
        Ok(scores)
    }
}
