"""How much a reward should weigh: scores in one unit, a weight for a wanted level."""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from deal._progress import progress_bar
from deal._request import is_messages, rows_of
from deal.rewards.base import Reward, as_reward
from deal.rewards.combine import affine
from deal.settings import Sampling, Search, check_int


def _decode(lm: Any, prompt: Any, row: Mapping[str, Any], **kwargs: Any) -> Any:
    ask = lm.chat if is_messages(prompt) else lm.generate
    return ask(prompt, reward_kwargs=dict(row) or None, **kwargs)


def _decode_all(
    lm: Any, prompts: Sequence[Any], rows: Sequence[Mapping[str, Any]], **kwargs: Any
) -> list[Any]:
    """A result for each prompt; together where all are chats, or none is."""
    if len({is_messages(prompt) for prompt in prompts}) > 1:
        pairs = zip(prompts, rows, strict=True)
        return [_decode(lm, prompt, row, **kwargs) for prompt, row in pairs]
    ask = lm.chat if is_messages(prompts[0]) else lm.generate
    columns = {name: [row[name] for row in rows] for name in rows[0]}
    return ask(list(prompts), reward_kwargs=columns, **kwargs)


def _checked(prompts: Any, columns: Mapping[str, Any] | None) -> list[dict[str, Any]]:
    """The row of columns of each prompt."""
    if isinstance(prompts, (str, bytes)) or not hasattr(prompts, "__len__"):
        raise TypeError(f"prompts: expected a list of prompts, got {prompts!r}")
    if len(prompts) == 0:
        raise ValueError("prompts: expected at least one, got none")
    return rows_of(columns, len(prompts))


def standardise(
    reward: Reward,
    lm: Any,
    prompts: Sequence[Any],
    *,
    n: int = 4,
    sampling: Sampling | None = None,
    max_new_tokens: int = 64,
    reward_kwargs: Mapping[str, Sequence[Any]] | None = None,
    progress: bool = False,
) -> Reward:
    """What :meth:`deal.Reward.standardise` returns."""
    rows = _checked(prompts, reward_kwargs)
    check_int("n", n, 1)
    drawn = Sampling(temperature=1.0) if sampling is None else sampling
    scores: list[float] = []
    with progress_bar(len(prompts), f"standardise {reward.name}", progress) as bar:
        for i, (prompt, row) in enumerate(zip(prompts, rows, strict=True)):
            found = _decode(
                lm,
                prompt,
                row,
                rewards=reward,
                sampling=replace(drawn, seed=drawn.seed + i),
                num_return_sequences=n,
                max_new_tokens=max_new_tokens,
            )
            scores += [each.reward for each in (found if n > 1 else [found])]
            bar.update()
    deviation = statistics.pstdev(scores)
    if deviation == 0.0:
        raise ValueError(
            f"reward {reward.name!r}: all {len(scores)} completions score "
            f"{scores[0]:g}; it cannot be standardised on these prompts"
        )
    mean = statistics.fmean(scores)
    name = f"standardised {reward.name}"
    return affine(reward, 1.0 / deviation, -mean / deviation, name)


@dataclass(frozen=True)
class Calibration:
    """What :func:`deal.calibrate` found.

    Attributes
    ----------
    reward_weight : float
        The least weight tried that reaches the target, or the greatest one tried.
    level : float
        Share of the prompts that are satisfied with it.
    is_reached : bool
        Whether that is at least the target.
    steps : tuple of (float, float)
        Weight and level of every try, in order.
    """

    reward_weight: float
    level: float
    is_reached: bool
    steps: tuple[tuple[float, float], ...]


def calibrate(
    lm: Any,
    prompts: Sequence[Any],
    *,
    rewards: Any,
    search: Search,
    target: float = 0.9,
    satisfied: float | None = None,
    max_weight: float = 64.0,
    n_bisect: int = 4,
    reward_kwargs: Mapping[str, Sequence[Any]] | None = None,
    progress: bool = False,
    **kwargs: Any,
) -> Calibration:
    """Find the least ``reward_weight`` that satisfies enough of some dev prompts.

    Doubles the weight from that of `search` until the share of completions that score
    at least `satisfied` reaches `target`, and then bisects between the last weight that
    did not and the first that did. The share need not rise with the weight everywhere;
    what is returned was measured.

    Parameters
    ----------
    lm : deal.Model
    prompts : sequence
        Prompts as for :meth:`deal.Model.generate`, or conversations as for ``chat``.
    rewards : Reward or callable
    search : deal.Search
        Everything but the weight; its own one is the first that is tried.
    target : float, default=0.9
        In (0, 1].
    satisfied : float, optional
        Least sum of rewards of a satisfied prompt. Default: the highest there is.
    max_weight : float, default=64.0
    n_bisect : int, default=4
        Each halves the interval.
    reward_kwargs : mapping, optional
        Columns with a value for each prompt.
    progress : bool, default=False
        Show a tqdm bar.
    **kwargs
        Of :meth:`deal.Model.generate`, such as ``max_new_tokens``.

    Returns
    -------
    Calibration
        With ``is_reached`` False where no weight up to `max_weight` was enough.

    Raises
    ------
    ValueError
        If `satisfied` is not given and the rewards have no highest score, or a number
        is out of its range.
    """
    reward = as_reward(rewards)
    rows = _checked(prompts, reward_kwargs)
    least = reward.range[1] if satisfied is None else float(satisfied)
    if not math.isfinite(least):
        raise ValueError(
            f"satisfied: expected a number, as reward {reward.name!r} has no known "
            "highest score"
        )
    if not 0.0 < target <= 1.0:
        raise ValueError(f"target: expected a share in (0, 1], got {target}")
    if not isinstance(search, Search):
        raise TypeError(f"search: expected a deal.Search, got {search!r}")
    if not 0.0 < search.reward_weight <= max_weight < math.inf:
        raise ValueError(
            "max_weight: expected 0 < search.reward_weight <= max_weight < inf, got "
            f"{search.reward_weight} and {max_weight}"
        )
    check_int("n_bisect", n_bisect, 0)
    steps: list[tuple[float, float]] = []
    n_most = 1 + math.ceil(math.log2(max_weight / search.reward_weight)) + n_bisect

    with progress_bar(n_most * len(prompts), "calibrate", progress) as bar:

        def is_enough(weight: float) -> bool:
            tried = replace(search, reward_weight=weight)
            found = _decode_all(
                lm, prompts, rows, rewards=reward, search=tried, **kwargs
            )
            n = sum(r.reward >= least - 1e-9 for r in found)
            bar.update(len(prompts))
            steps.append((weight, n / len(prompts)))
            bar.set_postfix(reward_weight=weight, level=n / len(prompts))
            return steps[-1][1] >= target

        low, high = 0.0, search.reward_weight
        while not (is_reached := is_enough(high)) and high < max_weight:
            low, high = high, min(2.0 * high, max_weight)
        for _ in range(n_bisect if is_reached else 0):
            middle = (low + high) / 2
            if is_enough(middle):
                high = middle
            else:
                low = middle
    level = dict(steps)[high]
    return Calibration(high, level, is_reached, tuple(steps))
