"""Rewards made of rewards: the least, the greatest, products, thresholds, schedules.

Every combination is a formula over the scores of its rewards, computed in C for each
candidate. Bounds follow through it, so that mode "exact" prunes by what all of it can
still reach. A reward that stands in it twice is asked once.
"""

from __future__ import annotations

import math
import numbers
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from deal import _core
from deal.rewards._arguments import listed
from deal.rewards.base import Part, Reward, as_reward, unused_name
from deal.settings import check_int

__all__ = [
    "Combination",
    "at_least",
    "clip",
    "lexicographic",
    "maximum",
    "minimum",
    "penalty",
    "product",
    "scheduled",
]

# deal_term_kind of search/formula.h
REWARD, NUMBER, SCHEDULE, ADD, MULTIPLY, MIN, MAX, AT_LEAST = range(8)
LAST = 2**31 - 1  # a position after every schedule's end
Build = Callable[["Builder"], None]


class Builder:
    """Terms of one formula, in postfix order, and the rewards that it asks.

    Attributes
    ----------
    leaves : list of Reward
        Each once.
    """

    def __init__(self) -> None:
        self.leaves: list[Reward] = []
        self._terms: list[tuple[int, int, int, float]] = []
        self._numbers: list[float] = []

    def push(self, reward: Reward) -> None:
        """The score of a reward."""
        reward._build(self)

    def leaf(self, reward: Reward) -> None:
        """The score of a reward that is asked."""
        found = [i for i, each in enumerate(self.leaves) if each is reward]
        i = found[0] if found else len(self.leaves)
        if not found:
            self.leaves.append(reward)
        self._terms.append((REWARD, i, 0, 0.0))

    def number(self, x: float) -> None:
        """A constant."""
        self._terms.append((NUMBER, 0, 0, x))

    def schedule(self, weights: Sequence[float]) -> None:
        """The weight at the position of the decision, or the last."""
        self._terms.append((SCHEDULE, len(self._numbers), len(weights), 0.0))
        self._numbers += weights

    def weighted_sum(self, terms: Iterable[tuple[float, Reward]]) -> None:
        """As the search adds it up without a formula."""
        for i, (weight, reward) in enumerate(terms):
            self.push(reward)
            self.number(weight)
            self.apply(MULTIPLY)
            if i > 0:
                self.apply(ADD)

    def apply(self, kind: int, x: float = 0.0) -> None:
        """An operation on what was pushed last."""
        self._terms.append((kind, 0, 0, x))

    def put_into(self, builder: Builder) -> None:
        """All terms of this formula, after those of another."""
        for kind, i, n, x in self._terms:
            if kind == REWARD:
                builder.leaf(self.leaves[i])
            elif kind == SCHEDULE:
                builder.schedule(self._numbers[i : i + n])
            else:
                builder._terms.append((kind, i, n, x))

    @property
    def n_position(self) -> int:
        """Positions before all schedules have come to their last weight."""
        return max((n for kind, _, n, _ in self._terms if kind == SCHEDULE), default=1)

    def formula(self) -> Any:
        """For the search; a formula that is too deep raises ValueError."""
        return _core.Formula(tuple(self._terms), self._numbers, len(self.leaves))


def _built(reward: Reward) -> Builder:
    builder = Builder()
    builder.push(reward)
    return builder


def _is_flat(reward: Reward) -> bool:
    """Whether a weighted sum says it all."""
    return all(part.reward._is_leaf for part in reward.parts())


def leaves_of(reward: Reward) -> tuple[Part, ...]:
    """What :meth:`Reward.leaves` returns."""
    if _is_flat(reward):
        return reward.parts()
    parts: list[Part] = []
    for leaf in _built(reward).leaves:
        name = unused_name(leaf.name, [part.name for part in parts])
        parts.append(Part(name, 1.0, leaf))
    return tuple(parts)


def formula_of(reward: Reward) -> Any:
    """How the leaves make one number: a ``_core.Formula``, or None where it is their
    weighted sum."""
    return None if _is_flat(reward) else _built(reward).formula()


class Combination(Reward):
    """A formula over rewards; made by the functions of this module and by operators.

    Parameters
    ----------
    name : str
    build : callable
        Pushes the formula's terms.
    """

    _is_leaf = False

    def __init__(self, name: str, build: Build) -> None:
        self._built = builder = Builder()
        build(builder)
        self._leaves, self._formula = tuple(builder.leaves), builder.formula()
        lows = [leaf.range[0] for leaf in self._leaves]
        highs = [leaf.range[1] for leaf in self._leaves]
        ends = [
            self._formula.range(lows, highs, position)
            for position in range(builder.n_position)
        ]
        low, high = min(low for low, _ in ends), max(high for _, high in ends)
        super().__init__(name, (low, high), all(leaf.pure for leaf in self._leaves))

    def _build(self, builder: Builder) -> None:
        self._built.put_into(builder)

    def __reduce__(self) -> Any:
        return Combination, (self.name, self._built.put_into)

    def _score(
        self, completions: list[Any], prompts: list[str], columns: Mapping[str, Any]
    ) -> list[float]:
        told = (completions, prompts, columns)
        by_leaf = [leaf._score(*told) for leaf in self._leaves]
        rows = zip(*by_leaf, strict=True)
        return [self._formula.value(scores, LAST) for scores in rows]


# --- the functions --------------------------------------------------------------------


def _all(rewards: Sequence[Any], what: str) -> list[Reward]:
    if not rewards:
        raise ValueError(f"{what}: expected at least one reward, got none")
    return [as_reward(reward) for reward in rewards]


def _finite(name: str, x: Any) -> float:
    if not isinstance(x, numbers.Real) or isinstance(x, bool):
        raise TypeError(f"{name}: expected a number, got {x!r}")
    if not math.isfinite(x):
        raise ValueError(f"{name}: expected a finite number, got {x}")
    return float(x)


def _fold(kind: int, what: str, rewards: Sequence[Any]) -> Reward:
    found = _all(rewards, what)
    if len(found) == 1:
        return found[0]

    def build(builder: Builder) -> None:
        for i, reward in enumerate(found):
            builder.push(reward)
            if i > 0:
                builder.apply(kind)

    return Combination(f"{what}({', '.join(r.name for r in found)})", build)


def minimum(*rewards: Any) -> Reward:
    """The least of the scores: as good as the worst of them."""
    return _fold(MIN, "minimum", rewards)


def maximum(*rewards: Any) -> Reward:
    """The greatest of the scores: one of them is enough."""
    return _fold(MAX, "maximum", rewards)


def product(*rewards: Any) -> Reward:
    """The product of the scores; also ``a * b``."""
    return _fold(MULTIPLY, "product", rewards)


def clip(reward: Any, low: float | None = None, high: float | None = None) -> Reward:
    """The score, but no less than `low` and no more than `high`.

    Raises
    ------
    ValueError
        If ``low > high``, or neither is given.
    """
    inner = as_reward(reward)
    if low is None and high is None:
        raise ValueError("clip: expected low, high or both")
    ends = [
        (kind, _finite(name, end))
        for kind, name, end in ((MAX, "low", low), (MIN, "high", high))
        if end is not None
    ]
    if low is not None and high is not None and low > high:
        raise ValueError(f"clip: expected low <= high, got {low} and {high}")

    def build(builder: Builder) -> None:
        builder.push(inner)
        for kind, end in ends:
            builder.number(end)
            builder.apply(kind)

    return Combination(f"clip({inner.name})", build)


def at_least(reward: Any, threshold: float) -> Reward:
    """1 where the score is at least `threshold`, else 0."""
    inner, least = as_reward(reward), _finite("threshold", threshold)

    def build(builder: Builder) -> None:
        builder.push(inner)
        builder.apply(AT_LEAST, least)

    return Combination(f"at_least({inner.name}, {least:g})", build)


def penalty(reward: Any, threshold: float, weight: float = 1.0) -> Reward:
    """A constraint as a penalty: `weight` times how far the score is below `threshold`,
    negative; 0 where the constraint is met."""
    inner, least = as_reward(reward), _finite("threshold", threshold)
    slope = _finite("weight", weight)
    if slope < 0:
        raise ValueError(f"weight: expected at least 0, got {weight}")

    def build(builder: Builder) -> None:
        builder.push(inner)
        builder.number(-least)
        builder.apply(ADD)
        builder.number(0.0)
        builder.apply(MIN)
        builder.number(slope)
        builder.apply(MULTIPLY)

    return Combination(f"penalty({inner.name}, {least:g})", build)


def affine(reward: Reward, scale: float, shift: float, name: str) -> Reward:
    """``scale * score + shift``."""
    scale, shift = _finite("scale", scale), _finite("shift", shift)

    def build(builder: Builder) -> None:
        builder.push(reward)
        builder.number(scale)
        builder.apply(MULTIPLY)
        builder.number(shift)
        builder.apply(ADD)

    return Combination(name, build)


def lexicographic(*stages: Any) -> Reward:
    """First things first: "at least 0.8 toxicity-free, then fluency".

    ``lexicographic((toxicity_free, 0.8), fluency)`` ranks every text that meets the
    threshold above every one that does not; those that do not by the first reward,
    those that do by what follows. Each stage adds a number in [0, 1]: how much of its
    threshold is reached, and the last one where its score lies in its range.

    Parameters
    ----------
    *stages : (reward, threshold) pairs, then a reward
        The ranges that the formula divides by must be finite: below each threshold, and
        of the last reward.

    Raises
    ------
    ValueError
        If a range is not finite, or a threshold is not above its reward's least score;
        it names the reward.
    """
    if len(stages) < 2:
        raise ValueError(
            "lexicographic: expected (reward, threshold) pairs and a last reward"
        )
    pairs: list[tuple[Reward, float]] = []
    for stage in stages[:-1]:
        if not isinstance(stage, tuple) or len(stage) != 2:
            raise TypeError(
                f"lexicographic: expected (reward, threshold), got {stage!r}"
            )
        pairs.append((as_reward(stage[0]), _finite("threshold", stage[1])))
    last = as_reward(stages[-1])
    reached = [_unit(reward, reward.range[0], least) for reward, least in pairs]
    rest = _unit(last, *last.range)

    def build(builder: Builder) -> None:
        for (reward, least), part in zip(pairs, reached, strict=True):
            builder.push(part)
            builder.push(reward)
            builder.apply(AT_LEAST, least)
        builder.push(rest)
        for _ in pairs:
            builder.apply(MULTIPLY)
            builder.apply(ADD)

    names = [f"{r.name} >= {least:g}" for r, least in pairs]
    return Combination(f"lexicographic({', '.join([*names, last.name])})", build)


def _unit(reward: Reward, low: float, high: float) -> Reward:
    """The score on the way from `low` to `high`, in [0, 1]."""
    if not math.isfinite(low) or not math.isfinite(high):
        raise ValueError(
            f"lexicographic: reward {reward.name!r}: expected a finite range, got "
            f"{reward.range}"
        )
    if high < low or (high == low and reward.range[1] != low):
        raise ValueError(
            f"lexicographic: reward {reward.name!r}: expected a threshold above its "
            f"least score {low:g}, got {high:g}"
        )
    scale = 1.0 / (high - low) if high > low else 0.0
    return clip(affine(reward, scale, -low * scale, reward.name), 0.0, 1.0)


def scheduled(
    reward: Any, weights: Iterable[float] | Callable[[int], float], n: int = 4096
) -> Reward:
    """The score times a weight that hangs on how far the text has come.

    Parameters
    ----------
    reward : Reward
    weights : sequence of float, or callable
        The weight of a decision before which the text has 0, 1, 2 ... tokens; the last
        one holds from there on, and outside of a search. A callable is asked for
        positions 0 to n - 1.
    n : int, default=4096
    """
    inner = as_reward(reward)
    if callable(weights):
        n = check_int("n", n, 1, 2**31 - 1)
        values: list[Any] = [weights(i) for i in range(n)]
    else:
        values = listed("weights", weights)
    if not values:
        raise ValueError("weights: expected at least one")
    table = [_finite("weights", value) for value in values]

    def build(builder: Builder) -> None:
        builder.push(inner)
        builder.schedule(table)
        builder.apply(MULTIPLY)

    return Combination(f"scheduled({inner.name})", build)
