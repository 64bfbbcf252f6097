"""Rewards that are native scorers: ours, and those of third parties."""

from __future__ import annotations

import operator
from collections.abc import Iterable, Mapping
from typing import Any

from deal import _core
from deal.rewards._arguments import checked_text, choice, listed
from deal.rewards.base import Reward, check_texts
from deal.settings import check_int

_UNITS = {
    "tokens": 0,
    "characters": 1,
    "words": 2,
    "sentences": 3,
    "lines": 4,
    "paragraphs": 5,
}
_MODES = {"fraction": 0, "all": 1, "any": 2, "ordered": 3}


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
        own_name, low, high, _, is_pure, _ = _core.reward_info(capsule)
        super().__init__(own_name if name is None else name, (low, high), is_pure)
        self._owner = capsule

    def _score(
        self, completions: list[Any], prompts: list[str], columns: Mapping[str, Any]
    ) -> list[float]:
        check_texts(self.name, completions)
        scores = []
        for text, prompt in zip(completions, prompts, strict=True):
            state = _core.RewardState(self._owner, prompt)
            state.advance(text.encode())
            scores.append(state.score(True))
        return scores

    def _capsule(self, kwargs: Mapping[str, Any]) -> Any:
        return self._owner


class Keywords(Native):
    """Which of the wanted words the text has, and which of the forbidden; in [0, 1].

    A concept occurs where one of its forms does as a whole word or phrase: neither end
    of it may cut a word of letters, marks, digits and underscores. Case is folded,
    nothing else is normalised; spaces within a form match as written.

    Parameters
    ----------
    concepts : list of str, or of lists of str, optional
        Each concept is a word, or a list of accepted forms. Of a mapping, its values.
        May be left out where there are forbidden ones.
    name : str, default="keywords"
    mode : {"fraction", "all", "any", "ordered"}, default="fraction"
        The score: the fraction of concepts that occur; 1 if all, or any, of them do,
        else 0; or the fraction, counted from the first one on, of those that occur one
        after the other, without overlap.
    forbidden : list of str, or of lists of str, optional
        Concepts that must not occur. The score is multiplied with the fraction of them
        that does not; in modes "all" and "any" a single one makes it 0.

    Raises
    ------
    ValueError
        For no concepts at all, a concept without forms, an empty form or another mode.

    Examples
    --------
    >>> Keywords(["cat", ["sit", "sits", "sat"]]).score(["The cat ran.", "A cat sat."])
    [0.5, 1.0]
    >>> Keywords(["cat", "sat"], mode="ordered", forbidden=["dog"]).score(
    ...     ["sat: a cat", "a cat sat", "a cat sat on a dog"])
    [0.5, 1.0, 0.0]
    """

    def __init__(
        self,
        concepts: Iterable[Any] = (),
        name: str = "keywords",
        *,
        mode: str = "fraction",
        forbidden: Iterable[Any] = (),
    ) -> None:
        choice("mode", mode, _MODES)
        wanted = _rows_of("concepts", concepts)
        unwanted = _rows_of("forbidden", forbidden)
        super().__init__(_core.keywords(wanted, unwanted, _MODES[mode]), name)
        self.concepts = tuple(map(tuple, wanted))
        self.forbidden = tuple(map(tuple, unwanted))
        self.mode = mode

    def __repr__(self) -> str:
        shown = repr(_shown(self.concepts))
        if self.mode != "fraction":
            shown += f", mode={self.mode!r}"
        if self.forbidden:
            shown += f", forbidden={_shown(self.forbidden)!r}"
        return f"deal.rewards.Keywords({shown})"


def _shown(rows: Iterable[tuple[str, ...]]) -> list[Any]:
    return [row[0] if len(row) == 1 else list(row) for row in rows]


def _rows_of(what: str, concepts: Iterable[Any]) -> list[list[str]]:
    if isinstance(concepts, Mapping):
        concepts = list(concepts.values())
    return [_forms_of(what, concept) for concept in listed(what, concepts)]


def _forms_of(what: str, concept: Any) -> list[str]:
    forms = [concept] if isinstance(concept, str) else concept
    if isinstance(forms, bytes) or not isinstance(forms, Iterable):
        raise TypeError(f"{what}: expected str or a list of str, got {concept!r}")
    forms = list(forms)
    for form in forms:
        checked_text(what, form)
        if not form:
            raise ValueError(f"{what}: expected non-empty forms, got {concept!r}")
    if not forms:
        raise ValueError(f"{what}: expected at least one form for each, got []")
    return forms


class Length(Native):
    """How near the length is to what is wanted, in (0, 1].

    With d the distance from [min, max], the score is ``1 / (1 + d / max(1, bound))``
    for the bound that is missed; 1 inside.

    Parameters
    ----------
    unit : {"words", "tokens", "characters", "sentences", "lines", "paragraphs"}
        Default: words, which are those of ``str.split()``. Characters are code points.
        A sentence ends with a run of ``.``, ``!``, ``?`` that no word character follows
        at once, or with one of their full-width forms; text after the last end is not
        counted. Lines are those that are not blank, paragraphs runs of such lines.
    min, max : int, optional
        At least one of them.
    target : int, optional
        Instead of both: ``min = target - tolerance``, at least 0, and ``max = target +
        tolerance``.
    name : str, default="length"
    tolerance : int, default=0
        With `target` alone.

    Raises
    ------
    ValueError
        For an unknown unit, a negative bound or ``min > max``.

    Examples
    --------
    >>> Length(target=4, tolerance=1).score(["a b", "a b c", "a b c d e"])
    [0.75, 1.0, 1.0]
    """

    def __init__(
        self,
        unit: str = "words",
        min: int | None = None,
        max: int | None = None,
        target: int | None = None,
        name: str = "length",
        *,
        tolerance: int = 0,
    ) -> None:
        choice("unit", unit, _UNITS)
        if target is not None:
            if min is not None or max is not None:
                raise ValueError("target: give either target or min and max")
            centre = checked_bound("target", target)
            width = checked_bound("tolerance", tolerance)
            min = centre - width if centre > width else 0
            max = centre + width
        elif tolerance:
            raise ValueError("tolerance: expected a target beside it")
        if min is None and max is None:
            raise ValueError("length: expected min, max or target")
        low = 0 if min is None else checked_bound("min", min)
        high = -1 if max is None else checked_bound("max", max)
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


def checked_bound(name: str, value: Any) -> int:
    return check_int(name, value, 0, 2**63 - 1)
