"""How close logits are, and how close they must be."""

from __future__ import annotations

import numpy as np
import numpy_llama
from tiny_model import TinyConfig

# f32 sums in another order: logits spread by about 3.5, transformers' own f32 is 5e-5
# from float64, and a factor of ten is left for longer rows.
LOGIT_TOLERANCE = 5e-4

# Mean KL of the int8 path from f32, in nats. Random logits spread more than a trained
# model's and every layer mixes all it gets, so rounding shows: 0.003 to 0.015 here.
INT8_KL = 0.03


def tokens_of(config: TinyConfig, n: int = 80) -> list[int]:
    rng = np.random.default_rng(99)
    return [int(t) for t in rng.integers(0, config.n_vocab, n)]


def max_error(a: np.ndarray, b: np.ndarray) -> float:
    assert a.shape == b.shape
    return float(np.abs(a.astype(np.float64) - b).max())


def mean_kl(p_logits: np.ndarray, q_logits: np.ndarray) -> float:
    """KL divergence of q from p in nats, averaged over positions."""
    p, q = numpy_llama.log_softmax(p_logits), numpy_llama.log_softmax(q_logits)
    return float((np.exp(p) * (p - q)).sum(-1).mean())
