"""What the files of tiny models say of architectures beside Llama's own keys.

A config here is a `tiny_model.TinyConfig`.
"""

from __future__ import annotations

from typing import Any

CLASS_NAMES = {
    "llama": "LlamaForCausalLM",
    "mistral": "MistralForCausalLM",
    "qwen2": "Qwen2ForCausalLM",
    "qwen3": "Qwen3ForCausalLM",
    "gemma2": "Gemma2ForCausalLM",
    "gemma3_text": "Gemma3ForCausalLM",
}


def config_keys(config: Any) -> dict[str, Any]:
    """Keys of config.json that a llama's has not."""
    c = config
    if c.arch == "llama":
        return {}
    if c.arch == "mistral":
        return {"sliding_window": c.n_swa or None}
    if c.is_gemma:
        kinds = ("full_attention", "sliding_attention")
        return {
            "sliding_window": c.n_swa,
            "layer_types": [kinds[c.is_local(i)] for i in range(c.n_layer)],
            "hidden_activation": "gelu_pytorch_tanh",
            "query_pre_attn_scalar": c.query_scalar or c.head_dim,
            "attn_logit_softcapping": c.attn_softcap or None,
            "final_logit_softcapping": c.final_softcap or None,
            **({"rope_local_base_freq": c.rope_base_local} if c.has_qk_norm else {}),
        }
    return {
        "use_sliding_window": c.n_swa > 0,
        "sliding_window": c.n_swa or 4096,  # counts only where it is used
        "max_window_layers": c.swa_begin,
    }


def gguf_keys(config: Any) -> dict[str, tuple[str, Any]]:
    """Metadata that a llama's GGUF file has not, as key -> (type, value)."""
    c, arch = config, config.gguf_arch
    if c.arch == "mistral" and c.n_swa:
        return {f"{arch}.attention.sliding_window": ("u32", c.n_swa)}
    if not c.is_gemma:
        return {}
    meta: dict[str, tuple[str, Any]] = {
        f"{arch}.attention.key_length": ("u32", c.head_dim),
        f"{arch}.attention.value_length": ("u32", c.head_dim),
        f"{arch}.attention.sliding_window": ("u32", c.n_swa),
    }
    if c.query_scalar:
        meta[f"{arch}.attention.scale"] = ("f32", c.query_scalar**-0.5)
    if c.arch == "gemma2":
        meta[f"{arch}.attn_logit_softcapping"] = ("f32", c.attn_softcap)
    if c.final_softcap:
        meta[f"{arch}.final_logit_softcapping"] = ("f32", c.final_softcap)
    if c.arch == "gemma3_text" and c.rope_base_local != 10000.0:
        meta[f"{arch}.rope.freq_base_swa"] = ("f32", c.rope_base_local)
    if c.swa_period != (2 if c.arch == "gemma2" else 6):
        meta[f"{arch}.attention.sliding_window_pattern"] = ("u32", c.swa_period)
    return meta
