"""What good text is: rewards in Python and in C, and weighted sums of them.

A reward gives every completion of a prompt a number; higher is better.

    @deal.reward(range=(0, 1))
    def polite(completions, prompts, **kwargs):      # TRL's signature
        return [float("please" in text.lower()) for text in completions]

    rewards = deal.rewards.Keywords(["cat", "couch"]) + 0.5 * polite

Native rewards, :class:`Keywords`, :class:`Length`, :class:`RewardModel` and third
parties' scorers in :class:`Native`, run in C without the interpreter, token by token.
"""

from __future__ import annotations

import functools
import inspect
import math
import numbers
import operator
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from deal import _core

__all__ = [
    "Keywords",
    "Length",
    "Native",
    "Part",
    "PythonReward",
    "Reward",
    "RewardModel",
    "WeightedSum",
    "as_reward",
    "reward",
]

_UNITS = {"tokens": 0, "characters": 1, "words": 2, "sentences": 3}
_UNKNOWN = (-math.inf, math.inf)


class Reward:
    """What scores completions. Made by :func:`reward` or by the classes below.

    Rewards form weighted sums: ``a + 0.5 * b - c``, and ``sum([a, b, c])``. A function
    or a capsule may stand for a reward on one side of a ``+`` or ``-``.

    Attributes
    ----------
    name : str
    range : tuple of float
        (low, high) of all scores; infinite where it is not known.
    """

    __array_ufunc__ = None  # so that numpy.float64(0.5) * reward is left to __rmul__

    def __init__(self, name: str, range: tuple[float, float]) -> None:
        if not isinstance(name, str) or not name or "\0" in name:
            raise ValueError(f"name: expected a non-empty string, got {name!r}")
        self.name = name
        self.range = range

    def __repr__(self) -> str:
        return f"deal.rewards.{type(self).__name__}({self.name!r})"

    def parts(self) -> tuple[Part, ...]:
        """The rewards of the sum, each with a name of its own; of a single one, itself.

        Returns
        -------
        tuple of Part
        """
        return (Part(self.name, 1.0, self),)

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
        if isinstance(other, int) and other == 0:  # sum() starts with 0
            return self
        return as_reward(other) + self if _is_reward_like(other) else NotImplemented

    def __sub__(self, other: Any) -> Reward:
        return _joined(self, other, -1.0)

    def __rsub__(self, other: Any) -> Reward:
        return as_reward(other) - self if _is_reward_like(other) else NotImplemented

    def __mul__(self, weight: Any) -> Reward:
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
            parts.append(Part(_unused(item.name, parts), weight, item))
        self._parts = tuple(parts)
        super().__init__(" + ".join(_term(part) for part in parts), _range_of(parts))

    def parts(self) -> tuple[Part, ...]:
        return self._parts

    def _score(
        self, completions: list[Any], prompts: list[str], columns: Mapping[str, Any]
    ) -> list[float]:
        total = [0.0] * len(completions)
        for part in self._parts:
            scores = part.reward._score(completions, prompts, columns)
            total = [t + part.weight * s for t, s in zip(total, scores, strict=True)]
        return total


def _unused(name: str, parts: Sequence[Part]) -> str:
    taken = {part.name for part in parts}
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
    if isinstance(right, int) and right == 0:
        return left
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
    if isinstance(obj, Reward):
        return obj
    if _is_capsule(obj):
        return Native(obj)
    if callable(obj):
        return PythonReward(obj)
    raise TypeError(
        f"reward: expected a deal.Reward, a callable or a capsule, got {obj!r}"
    )


# --- Python --------------------------------------------------------------------------


def reward(
    fn: Callable[..., Any] | None = None,
    *,
    range: tuple[float, float] | None = None,
    name: str | None = None,
    per_text: bool = False,
) -> Any:
    """Make a reward of a Python function; a decorator, with or without arguments.

    Parameters
    ----------
    fn : callable
        ``fn(completions=[...], prompts=[...], **kwargs)`` returns one number for each
        completion, as TRL's reward functions do. Of `prompts` and of a request's
        `reward_kwargs` it gets those that it accepts by name, all of them with
        ``**kwargs``, as lists with one value for each completion.
    range : (float, float), optional
        Least and greatest score; a score outside raises. Knowing it helps the search.
    name : str, optional
        Default: the function's name.
    per_text : bool, default=False
        ``fn(text)`` returns the number of one completion.

    Returns
    -------
    PythonReward

    Notes
    -----
    A reward must be a pure function: the search asks for each text once.

    References
    ----------
    .. [1] TRL, "GRPO Trainer", section "Using a custom reward function".
    """
    if fn is None:
        return functools.partial(reward, range=range, name=name, per_text=per_text)
    return PythonReward(fn, range=range, name=name, per_text=per_text)


class PythonReward(Reward):
    """A Python function as a reward; see :func:`reward`. A call calls the function."""

    def __init__(
        self,
        fn: Callable[..., Any],
        *,
        range: tuple[float, float] | None = None,
        name: str | None = None,
        per_text: bool = False,
    ) -> None:
        if not callable(fn):
            raise TypeError(f"reward: expected a function, got {fn!r}")
        if name is None:
            name = getattr(fn, "__name__", type(fn).__name__)
        super().__init__(name, _checked_range(range))
        if inspect.iscoroutinefunction(fn):
            raise TypeError(f"reward {name!r}: expected a plain function, got async")
        self._accepted = frozenset() if per_text else _accepted_names(fn, name)
        self._per_text = per_text
        functools.update_wrapper(self, fn, updated=())
        self._fn = fn

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return self._fn(*args, **kwargs)

    def _call(
        self, completions: list[str], prompts: list[str], columns: Mapping[str, Any]
    ) -> Any:
        if self._per_text:
            return [self._fn(text) for text in completions]
        given = {"prompts": prompts, **columns}
        if self._accepted is not None:
            given = {k: v for k, v in given.items() if k in self._accepted}
        return self._fn(completions=completions, **given)

    def _score(
        self, completions: list[Any], prompts: list[str], columns: Mapping[str, Any]
    ) -> list[float]:
        self._check_columns(columns)
        _check_texts(self.name, completions)
        result = self._call(completions, prompts, columns)
        return _core.check_scores(self.name, result, len(completions), *self.range)

    def _capsule(self, kwargs: Mapping[str, Any]) -> Any:
        self._check_columns(kwargs)
        row = dict(kwargs)

        def call(prompt: str, texts: list[str]) -> Any:
            n = len(texts)
            columns = {name: [value] * n for name, value in row.items()}
            return self._call(texts, [prompt] * n, columns)

        return _core.python_reward(self.name, call, *self.range)

    def _check_columns(self, columns: Mapping[str, Any]) -> None:
        for name in ("completions", "prompts"):
            if name in columns:
                raise ValueError(f"{name}: no column may have this name")


def _checked_range(range: Any) -> tuple[float, float]:
    if range is None:
        return _UNKNOWN
    try:
        low, high = (float(end) for end in range)
    except (TypeError, ValueError):
        raise ValueError(f"range: expected (low, high), got {range!r}") from None
    if not low <= high:
        raise ValueError(f"range: expected low <= high, got {range!r}")
    return low, high


def _accepted_names(fn: Callable[..., Any], name: str) -> frozenset[str] | None:
    """Names that `fn` takes as keywords; None for any."""
    try:
        parameters = inspect.signature(fn).parameters.values()
    except ValueError:  # a builtin that does not tell
        return None
    if any(p.kind is p.VAR_KEYWORD for p in parameters):
        return None
    by_name = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)
    accepted = frozenset(p.name for p in parameters if p.kind in by_name)
    if "completions" not in accepted:
        raise TypeError(
            f"reward {name!r}: expected a function with a parameter 'completions'; for "
            "f(text) -> float use deal.reward(per_text=True)"
        )
    return accepted


def _check_texts(name: str, completions: Sequence[Any]) -> None:
    for i, text in enumerate(completions):
        if not isinstance(text, str):
            raise TypeError(
                f"reward {name!r}: completions[{i}]: expected str, got {text!r}"
            )


# --- Native --------------------------------------------------------------------------


class Native(Reward):
    """A reward in C: a capsule "deal.reward.v1", see ``deal/reward.h``.

    Parameters
    ----------
    capsule : capsule
        Kept alive by the reward.
    name : str, optional
        Default: the name that the scorer gives itself.

    Raises
    ------
    TypeError
        If it is not such a capsule.
    ValueError
        If it was built for another version of the header, or is incomplete.
    """

    def __init__(self, capsule: Any, name: str | None = None) -> None:
        own_name, low, high, _ = _core.reward_info(capsule)
        super().__init__(own_name if name is None else name, (low, high))
        self._owner = capsule

    def _score(
        self, completions: list[Any], prompts: list[str], columns: Mapping[str, Any]
    ) -> list[float]:
        _check_texts(self.name, completions)
        scores = []
        for text, prompt in zip(completions, prompts, strict=True):
            state = _core.RewardState(self._owner, prompt)
            state.advance(text.encode())
            scores.append(state.score(True))
        return scores

    def _capsule(self, kwargs: Mapping[str, Any]) -> Any:
        return self._owner


class Keywords(Native):
    """Fraction of concepts that the text covers, in [0, 1].

    A concept is covered once one of its forms occurs as a whole word or phrase: neither
    end of it may cut a word of letters, marks, digits and underscores. Case is folded,
    nothing else is normalised; spaces within a form match as written.

    Parameters
    ----------
    concepts : list of str, or of lists of str
        Each concept is a word, or a list of accepted forms. Of a mapping, its values.
    name : str, default="keywords"

    Raises
    ------
    ValueError
        For no concepts, a concept without forms, or an empty form.

    Examples
    --------
    >>> Keywords(["cat", ["sit", "sits", "sat"]]).score(["The cat ran.", "A cat sat."])
    [0.5, 1.0]
    """

    def __init__(self, concepts: Iterable[Any], name: str = "keywords") -> None:
        if isinstance(concepts, (str, bytes)):
            raise TypeError(f"concepts: expected a list of concepts, got {concepts!r}")
        if isinstance(concepts, Mapping):
            concepts = concepts.values()
        forms = [_forms_of(concept) for concept in concepts]
        super().__init__(_core.keywords(forms), name)
        self.concepts = tuple(tuple(row) for row in forms)

    def __repr__(self) -> str:
        shown = [row[0] if len(row) == 1 else list(row) for row in self.concepts]
        return f"deal.rewards.Keywords({shown!r})"


def _forms_of(concept: Any) -> list[str]:
    forms = [concept] if isinstance(concept, str) else concept
    if isinstance(forms, bytes) or not isinstance(forms, Iterable):
        raise TypeError(f"concepts: expected str or a list of str, got {concept!r}")
    forms = list(forms)
    for form in forms:
        if not isinstance(form, str):
            raise TypeError(f"concepts: expected str, got {form!r} in {concept!r}")
        if not form:
            raise ValueError(f"concepts: expected non-empty forms, got {concept!r}")
    if not forms:
        raise ValueError("concepts: expected at least one form for each, got []")
    return forms


class Length(Native):
    """How near the length is to what is wanted, in (0, 1].

    With d the distance from [min, max], the score is ``1 / (1 + d / max(1, bound))``
    for the bound that is missed; 1 inside.

    Parameters
    ----------
    unit : {"words", "tokens", "characters", "sentences"}, default="words"
        Words are those of ``str.split()``, characters are code points. A sentence ends
        with a run of ``.``, ``!``, ``?`` that no word character follows at once, or
        with one of their full-width forms; text after the last end is not counted.
    min, max : int, optional
        At least one of them.
    target : int, optional
        Instead of both: ``min = max = target``.
    name : str, default="length"

    Raises
    ------
    ValueError
        For an unknown unit, a negative bound or ``min > max``.
    """

    def __init__(
        self,
        unit: str = "words",
        min: int | None = None,
        max: int | None = None,
        target: int | None = None,
        name: str = "length",
    ) -> None:
        if unit not in _UNITS:
            raise ValueError(f"unit: expected one of {', '.join(_UNITS)}, got {unit!r}")
        if target is not None:
            if min is not None or max is not None:
                raise ValueError("target: give either target or min and max")
            min = max = target
        if min is None and max is None:
            raise ValueError("length: expected min, max or target")
        low = 0 if min is None else _checked_bound("min", min)
        high = -1 if max is None else _checked_bound("max", max)
        super().__init__(_core.length(_UNITS[unit], low, high), name)
        self.unit = unit
        self.min = low
        self.max = None if max is None else high

    def __repr__(self) -> str:
        return f"deal.rewards.Length({self.unit!r}, min={self.min}, max={self.max})"

    def _score(
        self, completions: list[Any], prompts: list[str], columns: Mapping[str, Any]
    ) -> list[float]:
        if self.unit != "tokens":
            return super()._score(completions, prompts, columns)
        scores = []
        for ids in completions:
            if isinstance(ids, (str, bytes)) or not isinstance(ids, Iterable):
                raise TypeError(
                    f"reward {self.name!r}: unit 'tokens': expected a list of token "
                    f"ids for each completion, got {ids!r}"
                )
            state = _core.RewardState(self._owner, "")
            for token in ids:
                state.advance(b"", operator.index(token))
            scores.append(state.score(True))
        return scores


def _checked_bound(name: str, value: Any) -> int:
    try:
        bound = operator.index(value)
    except TypeError:
        raise TypeError(f"{name}: expected an integer, got {value!r}") from None
    if not 0 <= bound < 2**63:
        raise ValueError(f"{name}: expected at least 0, got {value!r}")
    return bound


from deal._reward_model import RewardModel  # noqa: E402 it needs Reward
