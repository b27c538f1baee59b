//! The plain definition of every kernel: scalar loops in f64, no tiling, no tricks. Slow; for tests and for checking
//! accelerators.

use half::f16;

use crate::PackedMatrix;

/// `y[t, r] = Σ w[r, c]·x[t, c]` with the expanded weights; `x` is `[tokens, columns]`, the result `[tokens, rows]`.
pub fn matmul(x: &[f32], weights: &PackedMatrix) -> Vec<f32> {
    let mut row = vec![0.0; weights.columns()];
    let tokens = x.len() / weights.columns();
    let mut out = vec![0.0; tokens * weights.rows()];
    for r in 0..weights.rows() {
        if weights.row(r, &mut row).is_err() {
            continue;
        }
        for (t, x) in x.chunks_exact(weights.columns()).enumerate() {
            let products = x.iter().zip(&row).map(|(x, w)| f64::from(*x) * f64::from(*w));
            out[t * weights.rows() + r] = products.sum::<f64>() as f32;
        }
    }
    out
}

/// `x / √(mean(x²) + eps) · weight` for each token of `weight.len()` elements.
pub fn rms_norm(x: &[f32], weight: &[f32], eps: f32) -> Vec<f32> {
    let mut out = Vec::with_capacity(x.len());
    for x in x.chunks_exact(weight.len()) {
        let squares: f64 = x.iter().map(|x| f64::from(*x).powi(2)).sum();
        let root = (squares / x.len() as f64 + f64::from(eps)).sqrt();
        out.extend(x.iter().zip(weight).map(|(x, w)| (f64::from(*x) / root * f64::from(*w)) as f32));
    }
    out
}

/// `silu(gate)·up` with `silu(x) = x / (1 + e⁻ˣ)`.
pub fn silu_mul(gate: &[f32], up: &[f32]) -> Vec<f32> {
    let silu = |x: f64| x / (1.0 + (-x).exp());
    gate.iter().zip(up).map(|(g, u)| (silu(f64::from(*g)) * f64::from(*u)) as f32).collect()
}

/// Rotates the leading `rotary_dim` dimensions of one head at `position`, in adjacent pairs.
pub fn rope(head: &[f32], rotary_dim: usize, theta: f64, position: usize) -> Vec<f32> {
    let mut out = head.to_vec();
    for i in 0..rotary_dim / 2 {
        let angle = position as f64 * theta.powf(-2.0 * i as f64 / rotary_dim as f64);
        let (a, b) = (f64::from(head[2 * i]), f64::from(head[2 * i + 1]));
        out[2 * i] = (a * angle.cos() - b * angle.sin()) as f32;
        out[2 * i + 1] = (a * angle.sin() + b * angle.cos()) as f32;
    }
    out
}

/// Causal attention of the last `queries` positions over all positions. `q` is `[queries, heads, head_dim]`, `k` and
/// `v` are `[positions, kv_heads, head_dim]`; they are rounded to f16 first, as the cache does. Query head `h` reads
/// key-value head `h·kv_heads/heads`; scores are scaled by `1/√head_dim`.
pub fn attention(q: &[f32], k: &[f32], v: &[f32], heads: usize, kv_heads: usize, head_dim: usize) -> Vec<f32> {
    let rounded = |x: &f32| f64::from(f16::from_f32(*x));
    let (queries, positions) = (q.len() / (heads * head_dim), k.len() / (kv_heads * head_dim));
    let mut out = Vec::with_capacity(q.len());
    for (i, q) in q.chunks_exact(head_dim).enumerate() {
        let (position, kv_head) = (positions - queries + i / heads, i % heads * kv_heads / heads);
        let at = |p: usize| (p * kv_heads + kv_head) * head_dim;
        let score = |p: usize| {
            let products = q.iter().zip(&k[at(p)..]).map(|(q, k)| f64::from(*q) * rounded(k));
            products.sum::<f64>() / (head_dim as f64).sqrt()
        };
        let scores: Vec<f64> = (0..=position).map(score).collect();
        let largest = scores.iter().copied().fold(f64::NEG_INFINITY, f64::max);
        let powers: Vec<f64> = scores.iter().map(|s| (s - largest).exp()).collect();
        let total: f64 = powers.iter().sum();
        for d in 0..head_dim {
            let sum: f64 = powers.iter().enumerate().map(|(p, w)| w * rounded(&v[at(p) + d])).sum();
            out.push((sum / total) as f32);
        }
    }
    out
}
