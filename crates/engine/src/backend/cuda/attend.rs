//! Attention of a pass's rows, launch by launch.

use edgewise_kernels::cuda::{DecodeAttention, PagedShape, PrefillAttention};

use super::{
    Cuda, CudaAttention, CudaKv, CudaPass, CudaTensor,
    batch::{Kind, Launch},
    device_error, lock,
};
use crate::decoder::DecoderError;

impl Cuda {
    /// As [`Backend::attend`](super::Backend::attend): every launch by the kernel of its kind.
    pub(super) fn attend_launches(
        &self,
        attention: &CudaAttention,
        pass: &CudaPass,
        (kv, layer): (&CudaKv, usize),
        window: Option<usize>,
        qkv: [&CudaTensor; 3],
        out: &CudaTensor,
    ) -> Result<(), DecoderError> {
        let [q, ..] = qkv;
        let [keys, values] = kv.layer(layer)?;
        let shape = PagedShape { pages: kv.pages(), ..attention.shape };
        let (scratch, held) =
            (&attention.scratch, |launch: &Launch| &pass.batch.numbers[launch.context..][..launch.batch]);
        for launch in &pass.batch.launches {
            #[cfg(feature = "flash-attn")]
            if self.attend_by_flash(attention, (pass, launch), (kv, layer), window, qkv, out)? {
                continue;
            }
            let (batch, table_stride) = (launch.batch, launch.table_stride);
            let rows = launch.rows.len();
            let (q, out) = (q.rows(launch.rows.start, rows)?, out.rows(launch.rows.start, rows)?);
            let table = pass.numbers(launch.table, batch * table_stride)?;
            let context = pass.numbers(launch.context, batch)?;
            let launched = match launch.kind {
                Kind::Prompt => {
                    let starts = pass.numbers(launch.starts, batch + 1)?;
                    let attention = PrefillAttention {
                        shape,
                        q,
                        out,
                        keys,
                        values,
                        table,
                        starts,
                        context,
                        batch,
                        rows,
                        table_stride,
                        window,
                    };
                    match scratch {
                        // SAFETY: `Batch::new` made these from entries whose pages `Decoder::check` found in the pool.
                        None => unsafe { attention.run(self.device()) },
                        // SAFETY: as above.
                        Some(scratch) => unsafe { scratch.attend(self.device(), &attention, held(launch)) },
                    }
                }
                Kind::Generated => {
                    let workspace = lock(&attention.workspace);
                    let attention = DecodeAttention {
                        shape,
                        q,
                        out,
                        keys,
                        values,
                        table,
                        context,
                        workspace: workspace.all(),
                        batch,
                        table_stride,
                        window,
                    };
                    // SAFETY: as above; a row sees at least its own position.
                    unsafe { attention.run(self.device()) }
                }
            };
            launched.map_err(device_error)?;
        }
        Ok(())
    }
}
