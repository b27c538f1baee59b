//! Activations, packed for the register tiles of the matrix product.
//!
//! Tokens are cut into tiles of nearly equal width. Within a tile, the values that meet the same weights lie side by
//! side: dense as `[tile][column][token]`, quantised as `[tile][block][8][token]` quads of four bytes with
//! `[tile][block][{scale, scaled sum, offset}][token]` beside them: `s`, `s·Σ q`, and `−128·s·Σ q` for 8-bit weights, whose
//! codes are offset by 128.
//!
//! Quantisation is symmetric to 8 bits per block of 32, as in GGML's Q8_1 but with f32 scales: `x ≈ s·q` with
//! `s = max|x| / 127`. A token's packed values never depend on its neighbours.

use crate::{
    matrix::{BLOCK, BYTE_OFFSET},
    parallel::{self, SharedSlice},
    simd::{Isa, Kernel, LANES, MAX_TILE, Simd},
};

/// Below this many values packing is not spread over threads.
const PARALLEL_FROM: usize = 16 * 1024;

/// Buffers for packed activations, to be reused from call to call.
#[derive(Debug, Default)]
pub struct Workspace {
    dense: Vec<f32>,
    quads: Vec<i32>,
    scales: Vec<f32>,
}

/// Packed activations of some tokens.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Activations<'a> {
    tiling: Tiling,
    columns: usize,
    dense: &'a [f32],
    quads: &'a [i32],
    scales: &'a [f32],
}

/// Numbers beside the quads of a block.
pub(crate) const SCALES: usize = 3;

/// One tile of quantised activations, for a product with `W` tokens side by side.
pub(crate) type QuantisedTile<'a, const W: usize> = (&'a [[[i32; W]; 8]], &'a [[[f32; W]; SCALES]]);

impl<'a> Activations<'a> {
    /// Packs `x`, `[tokens, columns]`, in the forms asked for. `columns` must be whole blocks to be quantised.
    pub(crate) fn pack(
        isa: Isa,
        x: &[f32],
        columns: usize,
        (dense, quantised): (bool, bool),
        workspace: &'a mut Workspace,
    ) -> Self {
        let tiling = Tiling::new(x.len() / columns.max(1), isa.tile());
        let Workspace { dense: dense_buffer, quads, scales } = workspace;
        if dense {
            dense_buffer.resize(x.len(), 0.0);
            let tiles = split_tiles(dense_buffer, tiling, columns);
            for_each_tile(x, columns, tiling, tiles, |x, to| pack_dense(x, columns, to));
        }
        if quantised {
            quads.resize(x.len() / 4, 0);
            scales.resize(x.len() / BLOCK * SCALES, 0.0);
            let quads = split_tiles(quads, tiling, columns / 4);
            let scales = split_tiles(scales, tiling, columns / BLOCK * SCALES);
            for_each_tile(x, columns, tiling, quads.into_iter().zip(scales).collect(), |x, (quads, scales)| {
                isa.run(Quantise { x, columns, quads, scales });
            });
        }
        Self { tiling, columns, dense: dense_buffer, quads, scales }
    }

    pub(crate) fn tiling(&self) -> Tiling {
        self.tiling
    }

    /// Columns of a tile of width `W`.
    #[inline(always)]
    pub(crate) fn dense_tile<const W: usize>(&self, tile: usize) -> &'a [[f32; W]] {
        let values = &self.dense[self.tiling.first_token(tile) * self.columns..][..W * self.columns];
        values.as_chunks().0
    }

    /// Blocks of a tile of width `W`.
    #[inline(always)]
    pub(crate) fn quantised_tile<const W: usize>(&self, tile: usize) -> QuantisedTile<'a, W> {
        let (first, blocks) = (self.tiling.first_token(tile), self.columns / BLOCK);
        let quads = &self.quads[first * blocks * 8..][..W * blocks * 8];
        let scales = &self.scales[first * blocks * SCALES..][..W * blocks * SCALES];
        (quads.as_chunks().0.as_chunks().0, scales.as_chunks().0.as_chunks().0)
    }
}

/// How tokens are cut into tiles: the first `wide` tiles have one token more than the others.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Tiling {
    tiles: usize,
    width: usize,
    wide: usize,
}

impl Tiling {
    pub(crate) fn new(tokens: usize, widest: usize) -> Self {
        let tiles = tokens.div_ceil(widest.min(MAX_TILE)).max(1);
        Self { tiles, width: tokens / tiles, wide: tokens % tiles }
    }

    pub(crate) fn tiles(self) -> usize {
        self.tiles
    }

    pub(crate) fn width(self, tile: usize) -> usize {
        self.width + usize::from(tile < self.wide)
    }

    pub(crate) fn first_token(self, tile: usize) -> usize {
        tile * self.width + tile.min(self.wide)
    }
}

/// Cuts a buffer with `per_token` elements for each token into its tiles.
fn split_tiles<T>(mut buffer: &mut [T], tiling: Tiling, per_token: usize) -> Vec<&mut [T]> {
    let mut tiles = Vec::with_capacity(tiling.tiles());
    for tile in 0..tiling.tiles() {
        let (head, rest) = buffer.split_at_mut(tiling.width(tile) * per_token);
        tiles.push(head);
        buffer = rest;
    }
    tiles
}

fn for_each_tile<T: Send>(
    x: &[f32],
    columns: usize,
    tiling: Tiling,
    mut tiles: Vec<T>,
    pack: impl Fn(&[f32], &mut T) + Sync + Send,
) {
    let tokens = |tile: usize| &x[tiling.first_token(tile) * columns..][..tiling.width(tile) * columns];
    if x.len() < PARALLEL_FROM {
        tiles.iter_mut().enumerate().for_each(|(tile, to)| pack(tokens(tile), to));
    } else {
        let (count, tiles) = (tiles.len(), SharedSlice::new(&mut tiles));
        // SAFETY: each tile belongs to one item.
        parallel::for_each(count, |tile| pack(tokens(tile), &mut unsafe { tiles.part(tile, 1) }[0]));
    }
}

fn pack_dense(x: &[f32], columns: usize, to: &mut [f32]) {
    let width = x.len() / columns.max(1);
    for (token, x) in x.chunks_exact(columns.max(1)).enumerate() {
        for (x, to) in x.iter().zip(to[token..].iter_mut().step_by(width)) {
            *to = *x;
        }
    }
}

/// Quantises the tokens of one tile.
struct Quantise<'a> {
    x: &'a [f32],
    columns: usize,
    quads: &'a mut [i32],
    scales: &'a mut [f32],
}

impl Kernel for Quantise<'_> {
    type Output = ();

    #[inline(always)]
    fn call<S: Simd>(self, s: S) {
        let width = self.x.len() / self.columns.max(1);
        for (token, x) in self.x.chunks_exact(self.columns.max(1)).enumerate() {
            for (block, x) in x.as_chunks::<LANES>().0.as_chunks::<2>().0.iter().enumerate() {
                let (low, high) = (s.load(&x[0]), s.load(&x[1]));
                let largest = s.maximum(s.max(s.abs(low), s.abs(high)));
                let inverse = s.splat(if largest > 0.0 { 127.0 / largest } else { 0.0 });
                let (low, high) = (s.round(s.mul(low, inverse)), s.round(s.mul(high, inverse)));
                let bytes = [s.to_i8(low), s.to_i8(high)];
                // Exact: whole numbers below 2^24.
                let sum = s.sum(s.add(low, high));
                let scale = largest / 127.0;
                let scales = &mut self.scales[block * SCALES * width..][..SCALES * width];
                scales[token] = scale;
                scales[width + token] = scale * sum;
                scales[2 * width + token] = -BYTE_OFFSET * (scale * sum);
                let quads = &mut self.quads[block * 8 * width..][..8 * width];
                for (quad, bytes) in bytes.as_flattened().as_chunks::<4>().0.iter().enumerate() {
                    quads[quad * width + token] = i32::from_ne_bytes(bytes.map(|b| b as u8));
                }
            }
        }
    }
}
