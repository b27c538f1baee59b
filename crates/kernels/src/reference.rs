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

/// Rotates one head by one angle per pair of dimensions, multiplying with `factor`. Pair `i` is dimensions `2·i` and
/// `2·i + 1`, or with `half`, `i` and `i + angles.len()`. Dimensions beyond the pairs are left as they are.
pub fn rope(head: &[f32], angles: &[f64], factor: f64, half: bool) -> Vec<f32> {
    let mut out = head.to_vec();
    for (i, angle) in angles.iter().enumerate() {
        let (first, second) = if half { (i, i + angles.len()) } else { (2 * i, 2 * i + 1) };
        let (a, b) = (f64::from(head[first]), f64::from(head[second]));
        let (cos, sin) = (angle.cos() * factor, angle.sin() * factor);
        out[first] = (a * cos - b * sin) as f32;
        out[second] = (a * sin + b * cos) as f32;
    }
    out
}

/// What a query sees of its sequence, besides the causal rule.
#[derive(Debug, Clone, Copy, Default)]
pub struct Mask<'a> {
    /// The last positions that are seen, the query's own among them.
    pub window: Option<usize>,
    /// First positions that are seen from beyond the window.
    pub sinks: usize,
    /// `slope·(key position - query position)` is added to the scores, one slope per query head.
    pub alibi: Option<&'a [f32]>,
}

/// Causal attention of the last `queries` positions of one sequence. `q` is `[queries, heads, head_dim]`, `k` and `v`
/// are `[positions, kv_heads, head_dim]`; they are rounded to f16 first, as the cache does. Query head `h` reads
/// key-value head `h·kv_heads/heads`; scores are multiplied with `scale`.
pub fn attention(
    q: &[f32],
    (k, v): (&[f32], &[f32]),
    (heads, kv_heads, head_dim): (usize, usize, usize),
    scale: f32,
    mask: Mask<'_>,
) -> Vec<f32> {
    let rounded = |x: &f32| f64::from(f16::from_f32(*x));
    let (queries, positions) = (q.len() / (heads * head_dim), k.len() / (kv_heads * head_dim));
    let mut out = Vec::with_capacity(q.len());
    for (i, q) in q.chunks_exact(head_dim).enumerate() {
        let (position, head) = (positions - queries + i / heads, i % heads);
        let at = |p: usize| (p * kv_heads + head * kv_heads / heads) * head_dim;
        let seen = |p: &usize| p + mask.window.unwrap_or(usize::MAX - p) > position || *p < mask.sinks;
        let score = |p: usize| {
            let products = q.iter().zip(&k[at(p)..]).map(|(q, k)| f64::from(*q) * rounded(k));
            let slope = mask.alibi.map_or(0.0, |slopes| f64::from(slopes[head]));
            products.sum::<f64>() * f64::from(scale) + slope * (p as f64 - position as f64)
        };
        let scores: Vec<(usize, f64)> = (0..=position).filter(seen).map(|p| (p, score(p))).collect();
        let largest = scores.iter().map(|(_, s)| *s).fold(f64::NEG_INFINITY, f64::max);
        let powers: Vec<(usize, f64)> = scores.iter().map(|(p, s)| (*p, (s - largest).exp())).collect();
        let total: f64 = powers.iter().map(|(_, w)| w).sum();
        for d in 0..head_dim {
            let sum: f64 = powers.iter().map(|(p, w)| w * rounded(&v[at(*p) + d])).sum();
            out.push((sum / total) as f32);
        }
    }
    out
}

/// `(x - mean) / √(variance + eps) · weight + bias` for each token of `weight.len()` elements.
pub fn layer_norm(x: &[f32], weight: &[f32], bias: Option<&[f32]>, eps: f32) -> Vec<f32> {
    let mut out = Vec::with_capacity(x.len());
    for x in x.chunks_exact(weight.len()) {
        let n = x.len() as f64;
        let mean = x.iter().map(|x| f64::from(*x)).sum::<f64>() / n;
        let variance = x.iter().map(|x| (f64::from(*x) - mean).powi(2)).sum::<f64>() / n;
        let root = (variance + f64::from(eps)).sqrt();
        for (i, (x, w)) in x.iter().zip(weight).enumerate() {
            let bias = bias.map_or(0.0, |bias| f64::from(bias[i]));
            out.push(((f64::from(*x) - mean) / root * f64::from(*w) + bias) as f32);
        }
    }
    out
}

/// `x·Φ(x)` with the distribution function `Φ` of the normal distribution, by Simpson's rule.
pub fn gelu_erf(x: f32) -> f32 {
    let x = f64::from(x);
    let density = |t: f64| (-t * t / 2.0).exp() / (2.0 * std::f64::consts::PI).sqrt();
    let (steps, from) = (4000, -12.0f64);
    let width = (x.max(from) - from) / f64::from(steps);
    let weight = |i: i32| {
        if i == 0 || i == steps {
            1.0
        } else if i % 2 == 1 {
            4.0
        } else {
            2.0
        }
    };
    let sum: f64 = (0..=steps).map(|i| weight(i) * density(from + width * f64::from(i))).sum();
    (x * sum * width / 3.0) as f32
}

/// `x/2·(1 + tanh(√(2/π)·(x + 0.044715·x³)))`.
pub fn gelu_tanh(x: f32) -> f32 {
    let x = f64::from(x);
    let inner = (2.0 / std::f64::consts::PI).sqrt() * (x + 0.044_715 * x.powi(3));
    (x / 2.0 * (1.0 + inner.tanh())) as f32
}
