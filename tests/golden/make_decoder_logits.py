#!/usr/bin/env python3
"""Tiny random-weight models of every family and RoPE scaling, and their logits from transformers.

Deterministic. Writes the models to tests/fixtures/decoders/<model>/ (config.json and safetensors as transformers saves
them), the same weights as GGUF to tests/fixtures/decoders/<model>.gguf, and the logits to
tests/golden/decoder_logits.json.

    pip install torch==2.15.0 transformers==5.23.0 gguf==0.19.0 numpy==2.4.6
    python tests/golden/make_decoder_logits.py

Each case names a model, what to change in its config.json, the context window to load it with, and the logits of a
single forward pass over all tokens in f32 at some positions. Every scaling is run well beyond the window it extends; a
case that should differ from its plain model is checked to do so.
"""

import copy
import json
import math
import pathlib
import shutil

import gguf
import numpy as np
import torch
import transformers
from transformers import AutoConfig, AutoModelForCausalLM

ROOT = pathlib.Path(__file__).parents[2]
FIXTURES = ROOT / "tests/fixtures/decoders"
TOKENS = [(i * i * 37 + 11 * i + 5) % 96 for i in range(150)]
POSITIONS = [0, 1, 31, 32, 63, 64, 65, 100, 149]

COMMON = dict(
    vocab_size=96, hidden_size=32, intermediate_size=64, num_hidden_layers=2, max_position_embeddings=64,
    bos_token_id=1, eos_token_id=2, pad_token_id=0,
)
GQA = dict(num_attention_heads=4, num_key_value_heads=2, head_dim=16)
MODELS = {
    "llama-mha": ("llama", torch.float32, COMMON | dict(num_attention_heads=2, max_position_embeddings=256)),
    "llama-gqa": ("llama", torch.float16, COMMON | GQA),
    "llama-mqa": ("llama", torch.bfloat16, COMMON | dict(
        num_attention_heads=4, num_key_value_heads=1, head_dim=16, attention_bias=True, mlp_bias=True,
        tie_word_embeddings=True, max_position_embeddings=256)),
    "mistral": ("mistral", torch.float16, COMMON | GQA | dict(sliding_window=40, max_position_embeddings=256)),
    "qwen2": ("qwen2", torch.float16, COMMON | dict(
        hidden_size=64, intermediate_size=32, num_attention_heads=4, num_key_value_heads=2, tie_word_embeddings=True,
        max_position_embeddings=256, use_sliding_window=True, sliding_window=33, max_window_layers=1)),
    "qwen3": ("qwen3", torch.bfloat16, COMMON | GQA | dict(tie_word_embeddings=True, max_position_embeddings=256)),
    "mpt": ("mpt", torch.float16, dict(
        vocab_size=96, d_model=48, n_heads=3, n_layers=2, expansion_ratio=4, max_seq_len=256, bos_token_id=1,
        eos_token_id=2, pad_token_id=0)),
}
YARN = dict(rope_type="yarn", rope_theta=10000.0, factor=4.0, original_max_position_embeddings=64)
# Name of the case, model, scaling, context window to load with where it is not the model's own.
SCALINGS = [
    ("linear", "llama-gqa", dict(rope_type="linear", rope_theta=10000.0, factor=4.0), None),
    ("dynamic", "llama-gqa", dict(rope_type="dynamic", rope_theta=10000.0, factor=4.0), len(TOKENS)),
    ("yarn", "llama-gqa", YARN, None),
    ("yarn-attention-factor", "llama-gqa", YARN | dict(attention_factor=1.5, beta_fast=6.0, beta_slow=2.0), None),
    ("yarn-mscale", "llama-gqa", YARN | dict(mscale=0.8, mscale_all_dim=0.3, truncate=False, beta_fast=4.0), None),
    ("llama3", "llama-gqa", dict(
        rope_type="llama3", rope_theta=10000.0, factor=8.0, low_freq_factor=1.0, high_freq_factor=4.0,
        original_max_position_embeddings=32), None),
    # NTK-aware scaling with a fixed alpha is, by definition, a larger base; transformers has no name for it.
    ("ntk", "llama-gqa", dict(rope_type="ntk", rope_theta=10000.0, factor=4.0), None),
    ("qwen3-yarn", "qwen3", YARN, None),
]
# GGUF files: case, and the scaling keys they carry.
GGUF_SCALINGS = {"linear", "yarn", "llama3"}


def build(family, dtype, options, seed):
    config = AutoConfig.for_model(family, **options)
    torch.manual_seed(seed)
    model = AutoModelForCausalLM.from_config(config, attn_implementation="eager").eval()
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            noise = torch.randn(parameter.shape, generator=generator)
            if parameter.dim() == 1:
                values = 0.3 * noise if name.endswith("bias") else 1.0 + 0.2 * noise
            elif any(part in name for part in ("q_proj", "k_proj", "Wqkv")):
                values = noise * 0.9 / math.sqrt(parameter.shape[1])  # sharp enough that positions matter
            elif "embed" in name or "wte" in name:
                values = noise * 0.5
            else:
                values = noise / math.sqrt(parameter.shape[1])
            parameter.copy_(values.to(dtype).float())
    return model


def logits(model, scaling=None):
    """Logits of all tokens in one forward pass, in f32, with the given RoPE parameters."""
    config = copy.deepcopy(model.config)
    if scaling is not None:
        scaling = dict(scaling)
        if scaling["rope_type"] == "ntk":
            head_dim = config.head_dim
            base = scaling["rope_theta"] * scaling["factor"] ** (head_dim / (head_dim - 2))
            scaling = dict(rope_type="default", rope_theta=base)
        config.rope_parameters = scaling
    fresh = AutoModelForCausalLM.from_config(config, attn_implementation="eager").eval()
    fresh.load_state_dict(model.state_dict())
    assert fresh.dtype == torch.float32
    with torch.no_grad():
        return fresh(torch.tensor([TOKENS])).logits[0].float().numpy()


def permuted(weights, heads):
    """GGUF's Llama pairs adjacent dimensions where transformers pairs the halves of a head."""
    return weights.reshape(heads, 2, weights.shape[0] // heads // 2, -1).swapaxes(1, 2).reshape(weights.shape)


def write_gguf(path, model, dtype, scaling=None):
    config, family = model.config, model.config.model_type
    arch = "llama" if family == "mistral" else family
    writer = gguf.GGUFWriter(path, arch)
    mpt = family == "mpt"
    heads = config.num_attention_heads
    kv_heads = heads if mpt else config.num_key_value_heads
    window = config.max_seq_len if mpt else config.max_position_embeddings
    head_dim = config.hidden_size // heads if mpt else getattr(config, "head_dim", None) or config.hidden_size // heads
    # Where the file does not say how its window was extended, it gives the extended one.
    writer.add_context_length(window if scaling and scaling["rope_type"] in ("linear", "yarn") else 256)
    writer.add_embedding_length(config.hidden_size)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_feed_forward_length(4 * config.hidden_size if mpt else config.intermediate_size)
    writer.add_head_count(heads)
    writer.add_head_count_kv(kv_heads)
    if mpt:
        writer.add_layer_norm_eps(config.layer_norm_epsilon)
        writer.add_max_alibi_bias(config.attn_config.alibi_bias_max)
    else:
        writer.add_key_length(head_dim)
        writer.add_value_length(head_dim)
        writer.add_rope_dimension_count(head_dim)
        writer.add_rope_freq_base(config.rope_parameters["rope_theta"])
        writer.add_layer_norm_rms_eps(config.rms_norm_eps)
        if family == "mistral":
            writer.add_sliding_window(config.sliding_window)
    if scaling and scaling["rope_type"] in ("linear", "yarn"):
        kind = scaling["rope_type"]
        writer.add_rope_scaling_type(gguf.RopeScalingType(kind))
        writer.add_rope_scaling_factor(scaling["factor"])
        if kind == "yarn":
            writer.add_rope_scaling_orig_ctx_len(scaling["original_max_position_embeddings"])
    if scaling and scaling["rope_type"] == "llama3":
        # Factors that divide the frequencies, as llama.cpp's converter writes them:
        # https://github.com/ggml-org/llama.cpp/blob/master/convert_hf_to_gguf.py
        original = scaling["original_max_position_embeddings"]
        low, high = original / scaling["low_freq_factor"], original / scaling["high_freq_factor"]
        factors = []
        for i in range(0, head_dim, 2):
            wavelength = 2 * math.pi * scaling["rope_theta"] ** (i / head_dim)
            if wavelength < high:
                factors.append(1.0)
            elif wavelength > low:
                factors.append(scaling["factor"])
            else:
                smooth = (original / wavelength - scaling["low_freq_factor"]) / (
                    scaling["high_freq_factor"] - scaling["low_freq_factor"])
                factors.append(1 / ((1 - smooth) / scaling["factor"] + smooth))
        writer.add_tensor("rope_freqs.weight", np.array(factors, dtype=np.float32))

    names = {
        "self_attn.q_proj": "attn_q", "self_attn.k_proj": "attn_k", "self_attn.v_proj": "attn_v",
        "self_attn.o_proj": "attn_output", "self_attn.q_norm": "attn_q_norm", "self_attn.k_norm": "attn_k_norm",
        "input_layernorm": "attn_norm", "post_attention_layernorm": "ffn_norm", "mlp.gate_proj": "ffn_gate",
        "mlp.up_proj": "ffn_up", "mlp.down_proj": "ffn_down", "attn.Wqkv": "attn_qkv", "attn.out_proj": "attn_output",
        "norm_1": "attn_norm", "norm_2": "ffn_norm", "ffn.up_proj": "ffn_up", "ffn.down_proj": "ffn_down",
    }
    top = {
        "model.embed_tokens.weight": "token_embd.weight", "model.norm.weight": "output_norm.weight",
        "lm_head.weight": "output.weight", "transformer.wte.weight": "token_embd.weight",
        "transformer.norm_f.weight": "output_norm.weight",
    }
    for name, tensor in model.named_parameters():  # tied weights appear once
        weights = tensor.detach().float().numpy()
        if name in top:
            target = top[name]
        else:
            _, _, layer, rest = name.split(".", 3)
            part, _, kind = rest.rpartition(".")
            target = f"blk.{layer}.{names[part]}.{kind}"
            if arch == "llama" and names[part] in ("attn_q", "attn_k"):
                weights = permuted(weights, heads if names[part] == "attn_q" else kv_heads)
        if weights.ndim == 1 or dtype == torch.float32:
            writer.add_tensor(target, weights.astype(np.float32))
        elif dtype == torch.float16:
            writer.add_tensor(target, weights.astype(np.float16))
        else:
            bits = (weights.view(np.uint32) >> 16).astype(np.uint16)
            writer.add_tensor(target, bits.view(np.uint8), raw_dtype=gguf.GGMLQuantizationType.BF16)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def relative(a, b):
    return float((np.abs(a - b).max(axis=-1) / np.abs(b).max(axis=-1))[POSITIONS[-1]])


def case(name, model, values, scaling=None, window=None, gguf_name=None):
    rows = {str(p): [float(f"{x:.6g}") for x in values[p]] for p in POSITIONS}
    return dict(name=name, model=model, gguf=gguf_name, rope_parameters=scaling, context_window=window, logits=rows)


def main():
    shutil.rmtree(FIXTURES, ignore_errors=True)
    FIXTURES.mkdir(parents=True)
    cases, models, plain = [], {}, {}
    for seed, (name, (family, dtype, options)) in enumerate(MODELS.items()):
        model = build(family, dtype, options, seed)
        stored = AutoModelForCausalLM.from_config(copy.deepcopy(model.config)).to(dtype)
        stored.load_state_dict(model.state_dict())
        stored.config.dtype = dtype
        shards = dict(max_shard_size="30KB") if name == "mistral" else {}
        stored.save_pretrained(FIXTURES / name, **shards)
        (FIXTURES / name / "generation_config.json").unlink(missing_ok=True)
        # max_window_layers has no place in GGUF.
        has_gguf = name != "qwen2"
        if has_gguf:
            write_gguf(FIXTURES / f"{name}.gguf", model, dtype)
        models[name], plain[name] = model, logits(model)
        cases.append(case(name, name, plain[name], gguf_name=f"{name}.gguf" if has_gguf else None))

    # Models whose window matters must differ without it.
    for name in ("mistral", "qwen2"):
        family, dtype, options = MODELS[name]
        without = options | dict(sliding_window=None, use_sliding_window=False)
        if family == "mistral":
            without.pop("use_sliding_window")
        assert relative(logits(build(family, dtype, without, list(MODELS).index(name))), plain[name]) > 0.02, name
        if name == "qwen2":
            model = build(family, dtype, without, list(MODELS).index(name))
            write_gguf(FIXTURES / "qwen2-full.gguf", model, dtype)
            cases.append(case("qwen2-full", None, logits(model), gguf_name="qwen2-full.gguf"))

    for name, base, scaling, window in SCALINGS:
        values = logits(models[base], scaling)
        assert relative(values, plain[base]) > 0.02, f"{name} does not differ from {base}"
        gguf_name = None
        if name in GGUF_SCALINGS:
            gguf_name = f"{base}-{name}.gguf"
            write_gguf(FIXTURES / gguf_name, models[base], MODELS[base][1], scaling)
        cases.append(case(name, base, values, scaling, window, gguf_name))
        print(name, relative(values, plain[base]))

    golden = dict(
        made_by="python tests/golden/make_decoder_logits.py", torch=torch.__version__,
        transformers=transformers.__version__, gguf="0.19.0", tokens=TOKENS, positions=POSITIONS, cases=cases,
    )
    text = json.dumps(golden)
    (ROOT / "tests/golden/decoder_logits.json").write_text(text.replace('{"name"', '\n{"name"') + "\n")


main()
