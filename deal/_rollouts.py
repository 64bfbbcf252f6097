"""Two models in one search: one selects, and a cheaper one looks ahead."""

from __future__ import annotations

import weakref
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from typing import Any

from deal._request import Options
from deal.controls import in_force

# Models by the models that were found to have their tokens.
_same_tokens: weakref.WeakKeyDictionary[Any, weakref.WeakSet[Any]]
_same_tokens = weakref.WeakKeyDictionary()


def checked(model: Any, options: Options, has_ends: bool) -> Options:
    """The options, where their rollout model can roll out for `model`.

    `has_ends`: the request names its end tokens, so that the models' own do not count.
    """
    other = options.rollout_model
    if other is None:
        return options
    if other is model:  # which rolls out anyway
        return replace(options, rollout_model=None)
    known = _same_tokens.setdefault(model, weakref.WeakSet())
    if other not in known:
        _check_tokens(model, other)
        known.add(other)
    if not has_ends:
        _check_ends(model, other)
    return options


def _check_tokens(model: Any, other: Any) -> None:
    """Ids must mean the same."""
    n, n_other = model.hparams.n_vocab, other.hparams.n_vocab
    if n != n_other:
        raise ValueError(
            f"rollout_model: expected the model's {n} tokens, got {n_other}"
        )
    pairs = zip(model.tokenizer.tokens(), other.tokenizer.tokens(), strict=True)
    for i, (ours, its) in enumerate(pairs):
        if ours != its:
            raise ValueError(
                f"rollout_model: expected the model's tokens; token {i} is {ours!r} "
                f"there and {its!r} in the rollout model"
            )


def _check_ends(model: Any, other: Any) -> None:
    """Rollouts must end where texts of the other model would."""
    ours, its = model.tokenizer.eos_token_ids, other.tokenizer.eos_token_ids
    ends = sorted(set(ours) ^ set(its))
    if ends:
        whose = "the model" if ends[0] in ours else "the rollout model"
        token = model.tokenizer.tokens()[ends[0]]
        raise ValueError(
            f"rollout_model: expected the model's end tokens; token {ends[0]}, "
            f"{token!r}, is one of {whose} alone; eos_token_id names those that count"
        )


@contextmanager
def sessions(model: Any, options: Options) -> Iterator[tuple[Any, Any]]:
    """The model's session, and that of the model which rolls out, or None.

    Each is the request's own, and none is waited for: requests that pair two models
    crosswise cannot hold each other up.
    """
    other = options.rollout_model
    with model._session() as first:
        with nullcontext() if other is None else other._session() as second:
            yield first, second


def controls(model: Any, options: Options) -> tuple[Any, Any]:
    """The controls in force now, for each of those sessions; each model has its own."""
    other = options.rollout_model
    second = None if other is None else in_force(other).core
    return in_force(model).core, second
