//! The forward pass's operations on the CPU, by the kernels crate. Activations are f32, keys and values f16.

mod pages;

use edgewise_kernels::{
    AttentionEntry, Gelu, KvLayout, PAGE, PackedMatrix, PagedAttention, Product, Rope, Rotation, Workspace, add, gelu,
    layer_norm, matmul, rms_norm, silu_mul, with_team,
};
pub use pages::CpuKv;

use super::{Backend, HostMatrix, Norm};
use crate::{
    decoder::{Arithmetic, DecoderConfig, DecoderError, NormKind, Positions},
    step_model::BatchEntry,
};

/// The CPU. Uses the threads of the rayon pool it is called from, or of the global one.
#[derive(Debug, Clone, Copy, Default)]
pub struct Cpu {
    /// How weight matrices are multiplied.
    pub arithmetic: Arithmetic,
}

/// Activations, row after row.
#[derive(Debug)]
pub struct Rows {
    width: usize,
    values: Vec<f32>,
}

/// What attention needs of a model.
#[derive(Debug)]
pub struct CpuAttention {
    layout: KvLayout,
    layers: usize,
    heads: usize,
    scale: f32,
    clip: Option<f32>,
    rope: Option<Rope>,
    slopes: Option<Vec<f32>>,
}

/// What the layers of a pass share.
#[derive(Debug)]
pub struct CpuPass<'a> {
    batch: &'a [BatchEntry<'a>],
    /// Block table of each entry.
    tables: Vec<Vec<u32>>,
    rotation: Option<Rotation>,
    workspace: Workspace,
}

impl CpuPass<'_> {
    fn entries(&self) -> Vec<AttentionEntry<'_>> {
        let mut first_row = 0;
        let entry = |(entry, pages): (&BatchEntry<'_>, _)| {
            let rows = entry.tokens.len();
            first_row += rows;
            AttentionEntry { first_row: first_row - rows, rows, position: entry.position, pages }
        };
        self.batch.iter().zip(self.tables.iter().map(Vec::as_slice)).map(entry).collect()
    }
}

fn normalise(x: &[f32], norm: &Norm<Cpu>, out: &mut [f32]) -> Result<(), DecoderError> {
    match norm.kind {
        NormKind::Rms => rms_norm(x, &norm.weight, norm.eps, out)?,
        NormKind::Layer => layer_norm(x, &norm.weight, None, norm.eps, out)?,
    }
    Ok(())
}

impl Backend for Cpu {
    type Matrix = PackedMatrix;
    type Vector = Vec<f32>;
    type Tensor = Rows;
    type Attention = CpuAttention;
    type Pass<'a> = CpuPass<'a>;
    type Kv = CpuKv;

    fn matrix(&self, weights: &HostMatrix<'_>, bias: Option<&[f32]>) -> Result<PackedMatrix, DecoderError> {
        let HostMatrix { rows, columns, format, bytes } = weights;
        let mut matrix = PackedMatrix::from_rows(*format, *rows, *columns, bytes)?;
        if self.arithmetic == Arithmetic::F32 {
            matrix = matrix.to_dense()?;
        }
        match bias {
            Some(bias) => Ok(matrix.with_bias(bias)?),
            None => Ok(matrix),
        }
    }

    fn matrix_bytes(matrix: &PackedMatrix) -> usize {
        matrix.bytes()
    }

    fn vector(&self, values: Vec<f32>) -> Result<Vec<f32>, DecoderError> {
        Ok(values)
    }

    fn attention(&self, config: &DecoderConfig) -> Result<CpuAttention, DecoderError> {
        let (rope, slopes) = match &config.positions {
            Positions::Rotary(rope) => {
                let table = rope.table();
                let rope = Rope::new(config.head_dim, rope.pairing, table.frequencies, table.attention_factor)?;
                (Some(rope), None)
            }
            Positions::Alibi { slopes } => (None, Some(slopes.clone())),
        };
        Ok(CpuAttention {
            layout: KvLayout::new(config.kv_heads, config.head_dim)?,
            layers: config.layers,
            heads: config.heads,
            scale: config.attention_scale,
            clip: config.clip,
            rope,
            slopes,
        })
    }

    fn kv_format(&self) -> String {
        format!("cpu f16 page {PAGE} {:?}", self.arithmetic)
    }

    fn page_tokens(&self) -> usize {
        PAGE
    }

    fn page_bytes(&self, attention: &CpuAttention) -> usize {
        pages::page_bytes(attention.layout, attention.layers)
    }

    fn allocate(&self, attention: &CpuAttention, pages: usize) -> Result<CpuKv, DecoderError> {
        CpuKv::new(attention.layout, attention.layers, pages)
    }

    fn pages(kv: &CpuKv) -> usize {
        kv.pages()
    }

    fn copy_page(&self, kv: &mut CpuKv, from: usize, to: usize, _: usize) {
        kv.copy(from, to);
    }

    fn read_page(&self, kv: &CpuKv, page: usize, out: &mut Vec<u8>) {
        kv.read(page, out);
    }

    fn write_page(&self, kv: &mut CpuKv, page: usize, bytes: &[u8]) {
        kv.write(page, bytes);
    }

    /// Inside the pool from the start: each of some hundred parallel sections would otherwise hand over twice.
    fn run<T: Send>(&self, pass: impl FnOnce() -> T + Send) -> T {
        with_team(pass)
    }

    fn begin<'a>(&self, attention: &CpuAttention, batch: &'a [BatchEntry<'a>]) -> Result<CpuPass<'a>, DecoderError> {
        let positions = batch.iter().flat_map(|entry| entry.position..entry.position + entry.tokens.len());
        Ok(CpuPass {
            batch,
            tables: batch.iter().map(|entry| entry.pages.iter().map(|page| page.0).collect()).collect(),
            rotation: attention.rope.as_ref().map(|rope| rope.rotation(positions)),
            workspace: Workspace::default(),
        })
    }

    fn tensor(&self, rows: usize, width: usize) -> Result<Rows, DecoderError> {
        Ok(Rows { width, values: vec![0.0; rows * width] })
    }

    fn embed(&self, pass: &CpuPass<'_>, table: &PackedMatrix, out: &mut Rows) -> Result<(), DecoderError> {
        let tokens = pass.batch.iter().flat_map(|entry| entry.tokens);
        for (token, row) in tokens.zip(out.values.chunks_exact_mut(out.width)) {
            table.row(*token as usize, row)?;
        }
        Ok(())
    }

    fn norm(&self, x: &Rows, norm: &Norm<Self>, out: &mut Rows) -> Result<(), DecoderError> {
        normalise(&x.values, norm, &mut out.values)
    }

    fn project(
        &self,
        pass: &mut CpuPass<'_>,
        x: &Rows,
        products: &mut [(&PackedMatrix, &mut Rows)],
    ) -> Result<(), DecoderError> {
        let products = products.iter_mut();
        let mut products: Vec<Product<'_>> =
            products.map(|(weights, out)| Product { weights, out: &mut out.values }).collect();
        Ok(matmul(&x.values, &mut products, &mut pass.workspace)?)
    }

    fn project_gated(
        &self,
        pass: &mut CpuPass<'_>,
        x: &Rows,
        (gate_matrix, gate): (&PackedMatrix, &mut Rows),
        (up_matrix, up): (&PackedMatrix, &mut Rows),
    ) -> Result<(), DecoderError> {
        self.project(pass, x, &mut [(gate_matrix, &mut *gate), (up_matrix, &mut *up)])?;
        Ok(silu_mul(&mut gate.values, &up.values)?)
    }

    fn project_add_norm(
        &self,
        pass: &mut CpuPass<'_>,
        x: &Rows,
        (matrix, projected): (&PackedMatrix, &mut Rows),
        residual: &mut Rows,
        norm: &Norm<Self>,
        out: &mut Rows,
    ) -> Result<(), DecoderError> {
        self.project(pass, x, &mut [(matrix, &mut *projected)])?;
        add(&mut residual.values, &projected.values)?;
        normalise(&residual.values, norm, &mut out.values)
    }

    fn write_kv(
        &self,
        attention: &CpuAttention,
        pass: &CpuPass<'_>,
        (kv, layer): (&mut CpuKv, usize),
        head_norms: Option<&[Norm<Self>; 2]>,
        [q, k, v]: [&mut Rows; 3],
    ) -> Result<(), DecoderError> {
        if let Some(clip) = attention.clip {
            for x in [&mut q.values, &mut k.values, &mut v.values].into_iter().flatten() {
                *x = x.clamp(-clip, clip);
            }
        }
        for (x, norm) in [&mut *q, &mut *k].into_iter().zip(head_norms.into_iter().flatten()) {
            let before = x.values.clone();
            normalise(&before, norm, &mut x.values)?;
        }
        if let Some(rotation) = &pass.rotation {
            rotation.apply(&mut q.values, q.width)?;
            rotation.apply(&mut k.values, k.width)?;
        }
        let pages = kv.layer_mut(layer);
        Ok(attention.layout.write(&k.values, &v.values, &pass.entries(), &mut pages.keys, &mut pages.values)?)
    }

    fn attend(
        &self,
        attention: &CpuAttention,
        pass: &CpuPass<'_>,
        (kv, layer): (&CpuKv, usize),
        window: Option<usize>,
        [q, ..]: [&Rows; 3],
        out: &mut Rows,
    ) -> Result<(), DecoderError> {
        let pages = kv.layer(layer);
        let paged = PagedAttention {
            layout: attention.layout,
            heads: attention.heads,
            scale: attention.scale,
            q: &q.values,
            entries: &pass.entries(),
            keys: &pages.keys,
            values: &pages.values,
            window,
            sinks: 0,
            alibi: attention.slopes.as_deref(),
        };
        Ok(paged.run(&mut out.values)?)
    }

    fn gelu(&self, x: &mut Rows) -> Result<(), DecoderError> {
        gelu(Gelu::Exact, &mut x.values);
        Ok(())
    }

    fn keep_wanted(&self, pass: &CpuPass<'_>, x: &mut Rows) -> Result<(), DecoderError> {
        let (mut end, mut kept) = (0, 0);
        for entry in pass.batch {
            end += entry.tokens.len();
            if entry.logits {
                x.values.copy_within((end - 1) * x.width..end * x.width, kept * x.width);
                kept += 1;
            }
        }
        x.values.truncate(kept * x.width);
        Ok(())
    }

    fn shrink(&self, x: &mut Rows, rows: usize) {
        x.values.truncate(rows * x.width);
    }

    fn read(&self, x: &Rows) -> Result<Vec<Vec<f32>>, DecoderError> {
        Ok(x.values.chunks_exact(x.width.max(1)).map(<[f32]>::to_vec).collect())
    }
}
