"""Prompts, rewards and small helpers of the tests that generate on a tiny model."""

from __future__ import annotations

import re
from typing import Any

import numpy as np

import deal

PROMPT = "the cat sat on a couch and"
PROMPTS = [PROMPT, "she said that he would", "little red house"]
SEARCH = deal.Search(top_k=4, lookahead=5, reward_weight=3.0, mode="naive")
WORDS = ["dog", "river", "happy", "sun", "window"]


def coverage(texts: list[str], words: list[str]) -> list[float]:
    """Python's copy of the native Keywords reward."""
    return [
        sum(re.search(rf"\b{word}\b", text.lower()) is not None for word in words)
        / len(words)
        for text in texts
    ]


@deal.reward(range=(0, 1))
def python_keywords(
    completions: list[str], prompts: list[str], **kwargs: Any
) -> list[float]:
    return coverage(completions, WORDS)


def key(r: deal.Generation) -> tuple[Any, ...]:
    """Everything of a result but its times."""
    return r.text, r.token_ids, r.logprob, r.reward, r.score, r.finish_reason, r.trace


def log_softmax(logits: np.ndarray) -> np.ndarray:
    x = logits.astype(np.float64)
    return x - x.max() - np.log(np.exp(x - x.max()).sum())
