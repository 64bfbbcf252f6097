"""What every reward has, and weighted sums of rewards."""

from __future__ import annotations

import math
import numbers
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any


class Reward:
    """What scores completions. Made by :func:`reward` or by the classes below.

    Rewards form weighted sums: ``a + 0.5 * b - c``, and ``sum([a, b, c])``, products,
    ``a * b``, and may be shifted, ``a - 0.5``. A function or a capsule may stand for a
    reward on one side of a ``+`` or ``-``.

    Attributes
    ----------
    name : str
    range : tuple of float
        (low, high) of all scores; infinite where it is not known.
    pure : bool
        Whether the same text always scores the same; of a sum, whether all parts do.
    """

    _is_leaf = True  # asked itself; else what it is made of
    __array_ufunc__ = None  # so that numpy.float64(0.5) * reward is left to __rmul__

    def __new__(cls, *args: Any, **kwargs: Any) -> Any:
        self = super().__new__(cls)
        self._made_with = (args, kwargs)
        return self

    def __init__(
        self, name: str, range: tuple[float, float], pure: bool = True
    ) -> None:
        if not isinstance(name, str) or not name or "\0" in name:
            raise ValueError(f"name: expected a non-empty string, got {name!r}")
        self.name = name
        self.range = range
        self.pure = pure

    def __repr__(self) -> str:
        return f"deal.rewards.{type(self).__name__}({self.name!r})"

    def __reduce__(self) -> Any:
        """Pickled as what it was made from: states in C do not travel."""
        return _remade, (type(self), *self._made_with)

    def parts(self) -> tuple[Part, ...]:
        """The rewards of the sum, each with a name of its own; of a single one, itself.

        Returns
        -------
        tuple of Part
        """
        return (Part(self.name, 1.0, self),)

    def leaves(self) -> tuple[Part, ...]:
        """The rewards that are asked, each with a name of its own.

        Of a weighted sum its parts; of another combination what it is made of, each
        reward once, with weight 1.

        Returns
        -------
        tuple of Part
        """
        from deal.rewards.combine import leaves_of

        return leaves_of(self)

    def _build(self, builder: Any) -> None:
        """Pushes this reward's terms on a ``combine.Builder``."""
        builder.leaf(self)

    def score(
        self,
        completions: Sequence[Any],
        prompts: str | Sequence[str] | None = None,
        **kwargs: Sequence[Any],
    ) -> list[float]:
        """Score completions outside of a search.

        Parameters
        ----------
        completions : sequence of str
            ``Length(unit="tokens")`` takes token ids, a :class:`RewardModel` both.
        prompts : str or sequence of str, optional
            One for all, or one for each completion. Default: empty prompts.
        **kwargs
            More columns for Python rewards, one value for each completion.

        Returns
        -------
        list of float

        Raises
        ------
        RewardError
            If a Python reward returns something else than its declaration says, or a
            native one fails.
        ValueError
            If the lengths differ.
        """
        if isinstance(completions, (str, bytes)):
            raise TypeError("completions: expected a list of str, got one string")
        rows = list(completions)
        if isinstance(prompts, str) or prompts is None:
            prompts = [prompts or ""] * len(rows)
        for name, column in {"prompts": prompts, **kwargs}.items():
            if isinstance(column, (str, bytes)) or len(column) != len(rows):
                raise ValueError(
                    f"{name}: expected a list of {len(rows)}, one for each completion"
                )
        return self._score(rows, list(prompts), kwargs) if rows else []

    def standardise(
        self,
        lm: Any,
        prompts: Sequence[Any],
        *,
        n: int = 4,
        sampling: Any = None,
        max_new_tokens: int = 64,
        reward_kwargs: Mapping[str, Sequence[Any]] | None = None,
        progress: bool = False,
    ) -> Reward:
        """This reward in standard deviations, so that weights mean the same across.

        Parameters
        ----------
        lm : deal.Model
        prompts : sequence
            As for :meth:`deal.Model.generate`, or conversations as for ``chat``.
        n : int, default=4
            Completions that are drawn for each.
        sampling : deal.Sampling, default=Sampling(temperature=1.0)
            Its seed is that of the first prompt, the next ones follow.
        max_new_tokens : int, default=64
        reward_kwargs : mapping, optional
            Columns with a value for each prompt.
        progress : bool, default=False
            Show a tqdm bar.

        Returns
        -------
        Reward
            ``(score - mean) / deviation``, of the scores of those completions.

        Raises
        ------
        ValueError
            If all completions score the same.
        """
        from deal._calibrate import standardise

        return standardise(
            self,
            lm,
            prompts,
            n=n,
            sampling=sampling,
            max_new_tokens=max_new_tokens,
            reward_kwargs=reward_kwargs,
            progress=progress,
        )

    def _score(
        self, completions: list[Any], prompts: list[str], columns: Mapping[str, Any]
    ) -> list[float]:
        """Scores of at least one completion; every column has a value for each."""
        raise NotImplementedError

    def _capsule(self, kwargs: Mapping[str, Any]) -> Any:
        """Capsule "deal.reward.v1" for one request whose columns have these values."""
        raise TypeError(f"reward {self.name!r}: a sum has no capsule, its parts have")

    def __add__(self, other: Any) -> Reward:
        return _joined(self, other, 1.0)

    def __radd__(self, other: Any) -> Reward:
        if isinstance(other, numbers.Real):
            return self + other
        return as_reward(other) + self if _is_reward_like(other) else NotImplemented

    def __sub__(self, other: Any) -> Reward:
        return _joined(self, other, -1.0)

    def __rsub__(self, other: Any) -> Reward:
        if isinstance(other, numbers.Real):
            return -self + other
        return as_reward(other) - self if _is_reward_like(other) else NotImplemented

    def __mul__(self, weight: Any) -> Reward:
        if isinstance(weight, Reward):
            from deal.rewards.combine import product

            return product(self, weight)
        if not isinstance(weight, numbers.Real):
            return NotImplemented
        return WeightedSum([(float(weight) * p.weight, p.reward) for p in self.parts()])

    __rmul__ = __mul__

    def __neg__(self) -> Reward:
        return self * -1.0


@dataclass(frozen=True)
class Part:
    """One term of a weighted sum.

    Parameters
    ----------
    name : str
        The reward's name; ``#2``, ``#3`` follow where a sum has it several times.
    weight : float
        Finite.
    reward : Reward
    """

    name: str
    weight: float
    reward: Reward


class WeightedSum(Reward):
    """A sum of rewards, each with a weight; made by ``+`` and ``*``.

    Parameters
    ----------
    terms : iterable of (float, Reward)
        Weights are finite. Sums among the rewards are resolved into their parts.

    Raises
    ------
    ValueError
        If a weight is not finite; it names the reward.
    """

    _is_leaf = False

    def __init__(self, terms: Iterable[tuple[float, Reward]]) -> None:
        flat = [
            (weight * part.weight, part.reward)
            for weight, item in terms
            for part in item.parts()
        ]
        if not flat:
            raise ValueError("terms: expected at least one reward")
        parts: list[Part] = []
        for weight, item in flat:
            if not math.isfinite(weight):
                raise ValueError(
                    f"reward {item.name!r}: expected a finite weight, got {weight}"
                )
            name = unused_name(item.name, [part.name for part in parts])
            parts.append(Part(name, weight, item))
        self._parts = tuple(parts)
        super().__init__(
            " + ".join(_term(part) for part in parts),
            _range_of(parts),
            all(part.reward.pure for part in parts),
        )

    def __reduce__(self) -> Any:
        return WeightedSum, ([(part.weight, part.reward) for part in self._parts],)

    def parts(self) -> tuple[Part, ...]:
        return self._parts

    def _build(self, builder: Any) -> None:
        builder.weighted_sum([(part.weight, part.reward) for part in self._parts])

    def _score(
        self, completions: list[Any], prompts: list[str], columns: Mapping[str, Any]
    ) -> list[float]:
        total = [0.0] * len(completions)
        for part in self._parts:
            scores = part.reward._score(completions, prompts, columns)
            total = [t + part.weight * s for t, s in zip(total, scores, strict=True)]
        return total


def _remade(cls: type, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Reward:
    return cls(*args, **kwargs)


def unused_name(name: str, taken: Sequence[str]) -> str:
    """`name`, or with ``#2``, ``#3`` ... where it is taken."""
    if name not in taken:
        return name
    n = 2
    while f"{name}#{n}" in taken:
        n += 1
    return f"{name}#{n}"


def _term(part: Part) -> str:
    return part.name if part.weight == 1.0 else f"{part.weight:g} * {part.name}"


def _range_of(parts: Sequence[Part]) -> tuple[float, float]:
    low = high = 0.0
    for part in parts:
        if part.weight == 0.0:
            continue  # 0 times an unknown range is 0
        ends = sorted(part.weight * end for end in part.reward.range)
        low, high = low + ends[0], high + ends[1]
    return low, high


def _is_reward_like(obj: Any) -> bool:
    return isinstance(obj, Reward) or callable(obj) or _is_capsule(obj)


def _is_capsule(obj: Any) -> bool:
    return type(obj).__name__ == "PyCapsule"


def _joined(left: Reward, right: Any, weight: float) -> Reward:
    if isinstance(right, numbers.Real):
        from deal.rewards.combine import affine

        return affine(left, 1.0, weight * float(right), left.name) if right else left
    if not _is_reward_like(right):
        return NotImplemented
    return WeightedSum([(1.0, left), (weight, as_reward(right))])


def as_reward(obj: Any) -> Reward:
    """`obj` as a reward.

    Parameters
    ----------
    obj : Reward, callable or capsule
        A callable has TRL's signature and an unknown range, as with :func:`reward`.

    Returns
    -------
    Reward

    Raises
    ------
    TypeError
        If it is none of these.
    """
    from deal.rewards.native import Native
    from deal.rewards.python import PythonReward

    if isinstance(obj, Reward):
        return obj
    if _is_capsule(obj):
        return Native(obj)
    if callable(obj):
        return PythonReward(obj)
    raise TypeError(
        f"reward: expected a deal.Reward, a callable or a capsule, got {obj!r}"
    )


def check_texts(name: str, completions: Sequence[Any]) -> None:
    for i, text in enumerate(completions):
        if not isinstance(text, str):
            raise TypeError(
                f"reward {name!r}: completions[{i}]: expected str, got {text!r}"
            )
        try:
            text.encode()
        except UnicodeEncodeError as error:
            raise ValueError(
                f"reward {name!r}: completions[{i}]: expected valid Unicode, got a "
                f"lone surrogate at {error.start}"
            ) from None
