"""A readable Llama forward pass in float64 NumPy: the reference that needs no torch.

    x = embedding[token]
    each layer:  h = rms_norm(x);  q, k, v = Wq h, Wk h, Wv h;  rope(q), rope(k)
                 x += Wo attention(q, k, v)
                 h = rms_norm(x);  x += Wdown (silu(Wgate h) * (Wup h))
    logits = Whead rms_norm(x)

Weights have Hugging Face's names and row order. `tools/make_goldens.py` checks this
file against transformers.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np


def rms_norm(x: np.ndarray, weight: np.ndarray, eps: float) -> np.ndarray:
    return x / np.sqrt((x * x).mean(-1, keepdims=True) + eps) * weight


def inverse_frequencies(config: Any) -> np.ndarray:
    """RoPE rates (head_dim / 2,) after scaling; llama3 as in Llama 3.1's release."""
    c = config
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


def attention(q: np.ndarray, k: np.ndarray, v: np.ndarray) -> np.ndarray:
    """Causal attention; q (n_head, n_token, head_dim), k and v with as many heads."""
    n_token = q.shape[1]
    score = q @ k.swapaxes(1, 2) / np.sqrt(q.shape[-1])
    score[:, ~np.tri(n_token, dtype=bool)] = -np.inf
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
        return rms_norm(x, weights[f"{name}.weight"].astype(np.float64), c.norm_eps)

    rate = inverse_frequencies(c)
    n_share = c.n_head // c.n_head_kv  # query heads of each key-value head
    x = weights["model.embed_tokens.weight"][list(tokens)].astype(np.float64)
    x = visit("embedding", 0, x)
    for i in range(c.n_layer):
        p = f"model.layers.{i}."
        h = norm(x, p + "input_layernorm")
        q = rope(heads(linear(h, p + "self_attn.q_proj"), c.n_head), rate)
        k = rope(heads(linear(h, p + "self_attn.k_proj"), c.n_head_kv), rate)
        v = heads(linear(h, p + "self_attn.v_proj"), c.n_head_kv)
        a = attention(q, k.repeat(n_share, 0), v.repeat(n_share, 0))
        a = visit("heads", i, a.swapaxes(0, 1))
        x = x + linear(a.reshape(len(x), -1), p + "self_attn.o_proj")
        h = norm(x, p + "post_attention_layernorm")
        gate = linear(h, p + "mlp.gate_proj")
        gate = gate / (1 + np.exp(-gate))
        x = x + linear(gate * linear(h, p + "mlp.up_proj"), p + "mlp.down_proj")
        x = visit("residual", i, x)
    head = (
        "lm_head.weight" if "lm_head.weight" in weights else "model.embed_tokens.weight"
    )
    x = visit("final", -1, norm(x, "model.norm"))
    return x @ weights[head].astype(np.float64).T


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
