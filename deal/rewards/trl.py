"""Reward functions written for TRL's trainers, as they are."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from typing import Any

from deal.rewards._declared import accepted_names, checked_range
from deal.rewards.base import Reward, WeightedSum
from deal.rewards.python import PythonReward


def from_trl(
    functions: Callable[..., Any] | Sequence[Callable[..., Any]],
    weights: Sequence[float] | None = None,
    *,
    conversational: bool = False,
    range: tuple[float, float] | None = None,
    tokenizer: Any = None,
    pure: bool = True,
) -> Reward:
    """Reward functions of TRL's ``GRPOTrainer`` and the like, unchanged.

    A function that returns a number for each string needs none of this: it is a reward
    as it is, for :func:`deal.reward` has TRL's signature. This is for what else there
    is.

    Parameters
    ----------
    functions : callable, or list of callables
        Called with the keywords ``completions``, ``prompts``, and the request's
        `reward_kwargs` as columns; those without ``**kwargs`` get what they accept. A
        list is summed, as TRL does. ``None`` as the score of a completion says that
        the function does not apply to it: it adds nothing, as in TRL, and counts as 0.
    weights : sequence of float, optional
        ``reward_weights`` of TRL. Default: 1 each.
    conversational : bool, default=False
        Prompts are lists of messages, those of ``lm.chat`` or else the prompt as one
        of the user, and completions are lists of one message of the assistant, as from
        a conversational data set.
    range : (float, float), optional
        Least and greatest score of each function; 0, for ``None``, is added to it.
    tokenizer : object with ``encode``, optional
        Cuts completions into the ``completion_ids`` that some functions ask for. They
        are the tokens of the text, not always those that the search wrote.
    pure : bool, default=True
        As for :func:`deal.reward`: False for functions that compare the completions of
        a call with each other, count or draw.

    Returns
    -------
    Reward

    Raises
    ------
    TypeError
        For what is no function, or is ``async``; for a function that has to have
        `completion_ids` where there is no tokenizer. Models, which TRL takes as well,
        are for :func:`from_transformers`.

    Notes
    -----
    ``trainer_state`` is None, and what is handed to ``log_extra`` and ``log_metric`` is
    dropped.

    References
    ----------
    .. [1] TRL, "GRPO Trainer", section "Using a custom reward function".
    """
    is_list = isinstance(functions, (list, tuple))
    rows: list[Any] = [*functions] if is_list else [functions]  # type: ignore[misc]
    for fn in rows:
        if not callable(fn) or hasattr(fn, "forward"):
            raise TypeError(
                f"functions: expected reward functions, got {fn!r}; for a model use "
                "deal.rewards.from_transformers"
            )
    low, high = checked_range(range)
    bounded = (min(low, 0.0), max(high, 0.0))
    rewards = []
    for fn in rows:
        name = getattr(fn, "__name__", type(fn).__name__)
        scorer = _Function(fn, name, conversational, tokenizer)
        rewards.append(PythonReward(scorer, range=bounded, name=name, pure=pure))
    if weights is None and len(rewards) == 1:
        return rewards[0]
    if weights is None:
        weights = [1.0] * len(rewards)
    if len(weights) != len(rewards):
        raise ValueError(
            f"weights: expected {len(rewards)}, one a function, got {len(weights)}"
        )
    return WeightedSum(list(zip(map(float, weights), rewards, strict=True)))


def _drop(*args: Any, **kwargs: Any) -> None:
    """Stands for a trainer's log."""


def _needs(fn: Callable[..., Any], name: str) -> bool:
    """Whether a call without the keyword would fail."""
    try:
        parameter = inspect.signature(fn).parameters.get(name)
    except ValueError:  # a builtin that does not tell
        return False
    return parameter is not None and parameter.default is parameter.empty


class _Function:
    def __init__(
        self, fn: Callable[..., Any], name: str, conversational: bool, tokenizer: Any
    ) -> None:
        self._fn, self._conversational = fn, conversational
        self._accepted = accepted_names(fn, name, per_text=False)
        self._tokenizer = tokenizer
        if tokenizer is None and _needs(fn, "completion_ids"):
            raise TypeError(
                f"reward {name!r}: it takes completion_ids; give the tokenizer that "
                "makes them, from_trl(..., tokenizer=lm.tokenizer)"
            )

    def __call__(
        self, completions: list[str], prompts: list[str], **columns: Any
    ) -> Any:
        given: dict[str, Any] = {
            "trainer_state": None,
            "log_extra": _drop,
            "log_metric": _drop,
            **columns,
            "prompts": prompts,
        }
        if self._tokenizer is not None and "completion_ids" not in columns:
            encode = self._tokenizer.encode
            given["completion_ids"] = [
                encode(text, add_special_tokens=False) for text in completions
            ]
        shown: list[Any] = completions
        if self._conversational:
            shown = [[{"role": "assistant", "content": text}] for text in completions]
            given["prompts"] = columns.get("messages") or [
                [{"role": "user", "content": prompt}] for prompt in prompts
            ]
        if self._accepted is not None:
            given = {k: v for k, v in given.items() if k in self._accepted}
        result = self._fn(completions=shown, **given)
        if not isinstance(result, (list, tuple)):
            return result  # arrays hold no None, and others are an error later on
        return [0.0 if score is None else score for score in result]
