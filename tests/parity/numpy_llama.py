"""A readable forward pass in float64 NumPy: the reference that needs no torch.

    x = embedding[token]
    each layer:  h = rms_norm(x);  q, k, v = Wq h, Wk h, Wv h;  rope(q), rope(k)
                 x += Wo attention(q, k, v)
                 h = rms_norm(x);  x += Wdown (silu(Wgate h) * (Wup h))
    logits = Whead rms_norm(x)

Qwen3 also norms the heads of q and k before RoPE; a layer with a sliding window attends
to the last `n_swa` positions. Gemma scales embeddings by sqrt(n_embd), norms what is
added to x, has GELU instead of SiLU, norms whose weight is what is missing from one,
soft caps of scores and logits, and in its third version another RoPE where a layer has
a window.

Weights have Hugging Face's names and row order. `tools/make_goldens.py` checks this
file against transformers.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np


def rms_norm(x: np.ndarray, weight: np.ndarray, eps: float) -> np.ndarray:
    return x / np.sqrt((x * x).mean(-1, keepdims=True) + eps) * weight


def inverse_frequencies(config: Any, is_local: bool = False) -> np.ndarray:
    """RoPE rates (head_dim / 2,) after scaling; llama3 as in Llama 3.1's release."""
    c = config
    if is_local and c.arch == "gemma3_text":
        return c.rope_base_local ** -(np.arange(0, c.head_dim, 2) / c.head_dim)
    rate = c.rope_base ** -(np.arange(0, c.head_dim, 2) / c.head_dim)
    if c.rope_scaling == "linear":
        return rate / c.rope_factor
    if c.rope_scaling == "llama3":
        turns = c.rope_n_ctx_orig * rate / (2 * np.pi)  # within the original context
        low, high = c.rope_low_freq_factor, c.rope_high_freq_factor
        smooth = np.clip((turns - low) / (high - low), 0.0, 1.0)
        return rate * (smooth + (1 - smooth) / c.rope_factor)
    return rate


def rope(x: np.ndarray, rate: np.ndarray) -> np.ndarray:
    """Rotates pairs (i, i + head_dim / 2) of x (n_head, n_token, head_dim)."""
    angle = np.arange(x.shape[1])[:, None] * rate  # (n_token, head_dim / 2)
    cos, sin = np.cos(angle), np.sin(angle)
    a, b = np.split(x, 2, axis=-1)
    return np.concatenate([a * cos - b * sin, b * cos + a * sin], axis=-1)


def softcap(x: np.ndarray, cap: float) -> np.ndarray:
    return cap * np.tanh(x / cap) if cap else x


def activation(x: np.ndarray, is_gelu: bool) -> np.ndarray:
    """SiLU, or GELU by its tanh approximation."""
    if is_gelu:
        return x * (1 + np.tanh(np.sqrt(2 / np.pi) * (x + 0.044715 * x**3))) / 2
    return x / (1 + np.exp(-x))


def attention(
    q: np.ndarray,
    k: np.ndarray,
    v: np.ndarray,
    n_window: int = 0,
    scalar: float = 0.0,
    cap: float = 0.0,
) -> np.ndarray:
    """Causal attention; q (n_head, n_token, head_dim), k and v with as many heads.

    Of `n_window` positions, a token's own included; 0 is of all. Scores are divided by
    the root of `scalar`, or of head_dim.
    """
    n_token = q.shape[1]
    score = softcap(q @ k.swapaxes(1, 2) / np.sqrt(scalar or q.shape[-1]), cap)
    is_seen = np.tri(n_token, dtype=bool)
    if n_window:
        is_seen &= ~np.tri(n_token, k=-n_window, dtype=bool)
    score[:, ~is_seen] = -np.inf
    p = np.exp(score - score.max(-1, keepdims=True))
    return p / p.sum(-1, keepdims=True) @ v


# Sees, and may replace, what is at a site: (site, layer, activations) -> activations.
Visit = Callable[[str, int, np.ndarray], np.ndarray]


def forward(
    config: Any,
    weights: Mapping[str, np.ndarray],
    tokens: Sequence[int],
    visit: Visit = lambda site, layer, x: x,
) -> np.ndarray:
    """Logits after every token.

    Parameters
    ----------
    config : TinyConfig, or any object with its fields
    weights : mapping of str to ndarray
    tokens : sequence of int
    visit : callable
        Called with "embedding" and the embeddings, "heads" and the heads' outputs
        (n_tokens, n_head, head_dim) of a layer, "residual" and the stream after it, and
        "final" and the normed states.

    Returns
    -------
    ndarray of float64, shape (n_tokens, n_vocab)
    """
    c = config

    def linear(x: np.ndarray, name: str) -> np.ndarray:
        y = x @ weights[f"{name}.weight"].astype(np.float64).T
        return y + weights[f"{name}.bias"] if f"{name}.bias" in weights else y

    def heads(x: np.ndarray, n_head: int) -> np.ndarray:
        return x.reshape(len(x), n_head, c.head_dim).swapaxes(0, 1)

    def norm(x: np.ndarray, name: str) -> np.ndarray:
        weight = weights[f"{name}.weight"].astype(np.float64)
        return rms_norm(x, weight + c.is_gemma, c.norm_eps)

    def post_norm(x: np.ndarray, name: str) -> np.ndarray:
        return norm(x, name) if c.is_gemma else x

    n_share = c.n_head // c.n_head_kv  # query heads of each key-value head
    x = weights["model.embed_tokens.weight"][list(tokens)].astype(np.float64)
    x = x * np.sqrt(c.n_embd) if c.is_gemma else x
    x = visit("embedding", 0, x)
    for i in range(c.n_layer):
        rate = inverse_frequencies(c, c.is_local(i))
        p = f"model.layers.{i}."
        h = norm(x, p + "input_layernorm")
        q = heads(linear(h, p + "self_attn.q_proj"), c.n_head)
        k = heads(linear(h, p + "self_attn.k_proj"), c.n_head_kv)
        v = heads(linear(h, p + "self_attn.v_proj"), c.n_head_kv)
        if c.has_qk_norm:
            q = norm(q, p + "self_attn.q_norm")
            k = norm(k, p + "self_attn.k_norm")
        k, v = rope(k, rate).repeat(n_share, 0), v.repeat(n_share, 0)
        n_window = c.n_swa if c.is_local(i) else 0
        a = attention(rope(q, rate), k, v, n_window, c.query_scalar, c.attn_softcap)
        a = visit("heads", i, a.swapaxes(0, 1)).reshape(len(x), -1)
        a = linear(a, p + "self_attn.o_proj")
        x = x + post_norm(a, p + "post_attention_layernorm")
        name = "pre_feedforward" if c.is_gemma else "post_attention"
        h = norm(x, f"{p}{name}_layernorm")
        gate = activation(linear(h, p + "mlp.gate_proj"), c.is_gemma)
        m = linear(gate * linear(h, p + "mlp.up_proj"), p + "mlp.down_proj")
        x = x + post_norm(m, p + "post_feedforward_layernorm")
        x = visit("residual", i, x)
    head = (
        "lm_head.weight" if "lm_head.weight" in weights else "model.embed_tokens.weight"
    )
    x = visit("final", -1, norm(x, "model.norm"))
    logits = x @ weights[head].astype(np.float64).T
    return softcap(logits, c.final_softcap)


def log_softmax(logits: np.ndarray) -> np.ndarray:
    """Log-probabilities over the last axis, in float64."""
    x = logits.astype(np.float64)
    x = x - x.max(-1, keepdims=True)
    return x - np.log(np.exp(x).sum(-1, keepdims=True))


def greedy(
    config: Any, weights: Mapping[str, np.ndarray], prompt: Sequence[int], n_new: int
) -> list[int]:
    """The `n_new` most likely tokens after a prompt; ties on the lower id."""
    tokens = list(prompt)
    for _ in range(n_new):
        tokens.append(int(forward(config, weights, tokens)[-1].argmax()))
    return tokens[len(prompt) :]
