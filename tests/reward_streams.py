"""A reward fed token by token, against a plain twin that sees them all."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from typing import Any

from deal import _core


def random_tokens(rng: random.Random, alphabet: Sequence[str]) -> list[str]:
    return [
        "".join(rng.choices(alphabet, k=rng.randrange(4)))
        for _ in range(rng.randrange(1, 12))
    ]


def check_stream(
    capsule: Any, tokens: Sequence[str], twin: Callable[[Sequence[str]], float]
) -> None:
    """Scores after every token equal the twin's, forked or not; bounds hold all."""
    token_size_max = max(len(token.encode()) for token in tokens)
    state = _core.RewardState(
        capsule, "a prompt", n_new_max=len(tokens), token_size_max=token_size_max
    )
    scores = [twin(tokens[:i]) for i in range(len(tokens) + 1)]
    bounds = []
    for i, score in enumerate(scores):
        assert state.score() == state.score(True) == score, tokens[:i]
        bounds.append([state.bounds(n) for n in range(len(scores) - i)])
        if i < len(tokens):
            kept, state = state, state.fork()
            state.advance(tokens[i].encode(), i)
            assert kept.score() == score
    for i, row in enumerate(bounds):
        assert row[0] == (scores[i], scores[i])
        for n_left, (low, high) in enumerate(row):
            reached = scores[i : i + n_left + 1]
            assert low <= min(reached) and max(reached) <= high, (tokens, i, n_left)
