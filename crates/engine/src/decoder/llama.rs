//! The forward pass of the Llama family: pre-normalised layers of grouped-query attention with rotary positions and a
//! SiLU-gated feed-forward. Source: Touvron et al., <https://arxiv.org/abs/2302.13971>.

use std::sync::Arc;

use edgewise_kernels::{
    KvLayout, Pairing, Product, Rope, Rotation, Workspace, add, matmul, rms_norm, rope_frequencies, silu_mul,
    with_team,
};

use super::{
    DecoderConfig, DecoderError, GgufFile, KvState,
    weights::{LayerWeights, Weights},
};

/// How weight matrices are multiplied.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Arithmetic {
    /// Activations are rounded to 8 bits per block of 32 and multiplied with the weights' own integers.
    #[default]
    Quantized,
    /// Weights are expanded to f32 and activations are not rounded: several times slower and larger, for checking.
    F32,
}

/// A loaded decoder-only transformer. Immutable, `Send` and `Sync`; cloning shares the weights.
#[derive(Debug, Clone)]
pub struct Decoder {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    config: DecoderConfig,
    layout: KvLayout,
    rope: Rope,
    weights: Weights,
}

impl Decoder {
    /// Loads the weights. The file is not needed afterwards.
    ///
    /// # Errors
    /// [`DecoderError`] when metadata or tensors are missing, contradict each other, or need what is not implemented.
    pub fn load_gguf(gguf: &GgufFile) -> Result<Self, DecoderError> {
        Self::load_gguf_with(gguf, Arithmetic::default())
    }

    /// Loads the weights for the given arithmetic.
    ///
    /// # Errors
    /// As [`Self::load_gguf`].
    pub fn load_gguf_with(gguf: &GgufFile, arithmetic: Arithmetic) -> Result<Self, DecoderError> {
        let config = DecoderConfig::from_gguf(gguf)?;
        let layout = KvLayout::new(config.kv_heads, config.head_dim)?;
        let frequencies = rope_frequencies(config.rotary_dim, config.rope_theta);
        let rope = Rope::new(config.head_dim, Pairing::Adjacent, frequencies, 1.0)?;
        let weights = Weights::load(gguf, &config, arithmetic)?;
        Ok(Self { inner: Arc::new(Inner { config, layout, rope, weights }) })
    }

    /// Its shape.
    pub fn config(&self) -> &DecoderConfig {
        &self.inner.config
    }

    /// Memory the weights take, in bytes.
    pub fn weight_bytes(&self) -> usize {
        self.inner.weights.bytes()
    }

    #[allow(dead_code)]
    pub(super) fn layout(&self) -> KvLayout {
        self.inner.layout
    }

    /// An empty sequence.
    pub fn new_state(&self) -> KvState {
        KvState::new(self.inner.layout, self.inner.config.layers)
    }

    /// Appends `tokens` to the sequence and returns the logits of the last one, `[vocab_size]`. Uses the threads of
    /// the global rayon pool, or of the pool it is called from; memory beyond the state grows with the number of
    /// tokens, so a long prompt is best given in chunks of some hundreds.
    ///
    /// # Errors
    /// [`DecoderError`] when no or an unknown token is given, the window is exceeded, or the state belongs to another
    /// model. The state is then unchanged.
    pub fn forward(&self, state: &mut KvState, tokens: &[u32]) -> Result<Vec<f32>, DecoderError> {
        let config = &self.inner.config;
        if tokens.is_empty() {
            return Err(DecoderError::NoTokens);
        }
        if !state.fits(config) {
            return Err(DecoderError::ForeignState);
        }
        let (held, added, window) = (state.tokens(), tokens.len(), config.context_window);
        if held + added > window {
            return Err(DecoderError::WindowExceeded { held, added, window });
        }
        let vocab_size = config.vocab_size;
        if let Some(token) = tokens.iter().copied().find(|token| *token as usize >= vocab_size) {
            return Err(DecoderError::UnknownToken { token, vocab_size });
        }
        // Inside the pool from the start: each of some hundred parallel sections would otherwise hand over twice.
        with_team(|| self.inner.forward(state, tokens))
    }
}

/// Activations of one forward pass, reused from layer to layer.
struct Buffers {
    rotation: Rotation,
    workspace: Workspace,
    normed: Vec<f32>,
    q: Vec<f32>,
    k: Vec<f32>,
    v: Vec<f32>,
    attended: Vec<f32>,
    projected: Vec<f32>,
    gate: Vec<f32>,
    up: Vec<f32>,
}

impl Inner {
    fn forward(&self, state: &mut KvState, tokens: &[u32]) -> Result<Vec<f32>, DecoderError> {
        let &DecoderConfig { hidden, heads, kv_heads, head_dim, feed_forward, rms_eps, vocab_size, .. } = &self.config;
        let zeros = |width: usize| vec![0.0f32; tokens.len() * width];
        let mut residual = zeros(hidden);
        for (token, out) in tokens.iter().zip(residual.chunks_exact_mut(hidden)) {
            self.weights.embedding.row(*token as usize, out)?;
        }
        let mut buffers = Buffers {
            rotation: self.rope.rotation(state.tokens()..state.tokens() + tokens.len()),
            workspace: Workspace::default(),
            normed: zeros(hidden),
            q: zeros(heads * head_dim),
            k: zeros(kv_heads * head_dim),
            v: zeros(kv_heads * head_dim),
            attended: zeros(heads * head_dim),
            projected: zeros(hidden),
            gate: zeros(feed_forward),
            up: zeros(feed_forward),
        };
        state.reserve(tokens.len(), self.config.context_window);
        for (i, layer) in self.weights.layers.iter().enumerate() {
            self.attention(i, layer, state, &mut residual, &mut buffers)?;
            self.feed_forward(layer, &mut residual, &mut buffers)?;
        }
        let last = &residual[residual.len() - hidden..];
        let normed = &mut buffers.normed[..hidden];
        rms_norm(last, &self.weights.output_norm, rms_eps, normed)?;
        let mut logits = vec![0.0; vocab_size];
        let product = Product { weights: self.weights.output(), out: &mut logits };
        matmul(normed, &mut [product], &mut buffers.workspace)?;
        if logits.iter().any(|logit| !logit.is_finite()) {
            return Err(DecoderError::NotFinite { position: state.tokens() + tokens.len() - 1 });
        }
        state.advance(tokens.len());
        Ok(logits)
    }

    fn attention(
        &self,
        index: usize,
        layer: &LayerWeights,
        state: &mut KvState,
        residual: &mut [f32],
        buffers: &mut Buffers,
    ) -> Result<(), DecoderError> {
        let &DecoderConfig { heads, kv_heads, head_dim, rms_eps, .. } = &self.config;
        let Buffers { rotation, workspace, normed, q, k, v, attended, projected, .. } = buffers;
        rms_norm(residual, &layer.attention_norm, rms_eps, normed)?;
        let mut qkv = [
            Product { weights: &layer.q, out: q },
            Product { weights: &layer.k, out: k },
            Product { weights: &layer.v, out: v },
        ];
        matmul(normed, &mut qkv, workspace)?;
        rotation.apply(q, heads * head_dim)?;
        rotation.apply(k, kv_heads * head_dim)?;
        state.write(index, k, v)?;
        state.attend(index, heads, q, attended)?;
        matmul(attended, &mut [Product { weights: &layer.attention_output, out: projected }], workspace)?;
        add(residual, projected)?;
        Ok(())
    }

    fn feed_forward(
        &self,
        layer: &LayerWeights,
        residual: &mut [f32],
        buffers: &mut Buffers,
    ) -> Result<(), DecoderError> {
        let Buffers { workspace, normed, projected, gate, up, .. } = buffers;
        rms_norm(residual, &layer.feed_forward_norm, self.config.rms_eps, normed)?;
        let mut gated = [Product { weights: &layer.gate, out: gate }, Product { weights: &layer.up, out: up }];
        matmul(normed, &mut gated, workspace)?;
        silu_mul(gate, up)?;
        matmul(gate, &mut [Product { weights: &layer.down, out: projected }], workspace)?;
        add(residual, projected)?;
        Ok(())
    }
}
