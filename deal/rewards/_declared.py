"""What the functions of a Python reward take, and checks of what they declare."""

from __future__ import annotations

import inspect
import math
import reprlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from deal._errors import RewardError, RewardTypeError

UNKNOWN = (-math.inf, math.inf)
_BY_NAME = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)
_BY_PLACE = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)


def checked_range(range: Any) -> tuple[float, float]:
    if range is None:
        return UNKNOWN
    try:
        low, high = (float(end) for end in range)
    except (TypeError, ValueError):
        raise ValueError(f"range: expected (low, high), got {range!r}") from None
    if not low <= high:
        raise ValueError(f"range: expected low <= high, got {range!r}")
    return low, high


def _parameters(fn: Callable[..., Any]) -> list[inspect.Parameter] | None:
    """None of a builtin that does not tell."""
    try:
        return list(inspect.signature(fn).parameters.values())
    except ValueError:
        return None


def accepted_names(
    fn: Callable[..., Any], name: str, per_text: bool
) -> frozenset[str] | None:
    """Names that `fn` takes as keywords; None for any."""
    if inspect.iscoroutinefunction(fn):
        raise TypeError(f"reward {name!r}: expected a plain function, got async")
    if per_text:
        return frozenset()
    parameters = _parameters(fn)
    if parameters is None or any(p.kind is p.VAR_KEYWORD for p in parameters):
        return None
    accepted = frozenset(p.name for p in parameters if p.kind in _BY_NAME)
    if "completions" not in accepted:
        raise TypeError(
            f"reward {name!r}: expected a function with a parameter 'completions'; for "
            "f(text) -> float use deal.reward(per_text=True)"
        )
    return accepted


class Bounds:
    """``fn(prompt, text, tokens_left)``, checked.

    Of a request's columns it gets those that it accepts by name, each as the value of
    this prompt.
    """

    def __init__(self, fn: Any, name: str) -> None:
        if not callable(fn) or inspect.iscoroutinefunction(fn):
            raise TypeError(f"reward {name!r}: bounds: expected a function, got {fn!r}")
        self._fn, self._name = fn, name
        self._accepted: frozenset[str] | None = frozenset()
        self._taken: frozenset[str] = frozenset()
        parameters = _parameters(fn)
        if parameters is None:
            return
        placed = [p for p in parameters if p.kind in _BY_PLACE]
        if len(placed) < 3 and all(p.kind is not p.VAR_POSITIONAL for p in parameters):
            raise TypeError(
                f"reward {name!r}: bounds: expected a function of "
                f"(prompt, text, tokens_left), got {fn!r}"
            )
        self._taken = frozenset(p.name for p in placed[:3])
        if any(p.kind is p.VAR_KEYWORD for p in parameters):
            self._accepted = None
        else:
            self._accepted = frozenset(p.name for p in parameters if p.kind in _BY_NAME)

    def __call__(
        self,
        prompt: str,
        texts: Sequence[str],
        tokens_left: Sequence[int],
        row: Mapping[str, Any],
    ) -> list[tuple[float, float]]:
        """(low, high) of every text; one that comes twice is asked about once."""
        given = {
            name: value
            for name, value in row.items()
            if name not in self._taken
            and (self._accepted is None or name in self._accepted)
        }
        found: dict[tuple[str, int], tuple[float, float]] = {}
        cases = list(zip(texts, tokens_left, strict=True))
        for text, n in cases:
            if (text, n) not in found:
                result = self._fn(prompt, text, n, **given)
                found[text, n] = self._checked(text, n, result)
        return [found[case] for case in cases]

    def _checked(self, text: str, n: int, result: Any) -> tuple[float, float]:
        def explain(expected: str) -> str:
            return (
                f"reward {self._name!r}: bounds: expected {expected}, got {result!r} "
                f"for {n} tokens left after {reprlib.repr(text)}"
            )

        is_pair = hasattr(result, "__len__") and not isinstance(result, (str, bytes))
        ends = list(result) if is_pair else []
        if len(ends) != 2 or not all(map(_is_number, ends)):
            raise RewardTypeError(explain("two numbers (low, high)"))
        try:
            low, high = map(float, ends)
        except OverflowError:  # an integer too large for a float
            raise RewardError(explain("floats")) from None
        if not low <= high:  # also where one of them is NaN
            raise RewardError(explain("low <= high"))
        return low, high


def _is_number(value: Any) -> bool:
    return hasattr(type(value), "__float__") or hasattr(type(value), "__index__")
