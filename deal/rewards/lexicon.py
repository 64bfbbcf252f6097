"""A reward of weighted words and phrases: sentiment, toxicity, formality, ..."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from deal import _core
from deal.rewards._arguments import choice, number, texts
from deal.rewards.native import Native
from deal.settings import check_float, check_int

_PER = {"text": 0, "word": 1, "match": 2}

_CONTRACTED = """ain aren can couldn didn doesn don hadn hasn haven isn mightn mustn
needn oughtn shan shouldn wasn weren won wouldn""".split()

NEGATORS: tuple[str, ...] = (
    *"barely cannot hardly neither never no nobody none nor not nothing".split(),
    *"nowhere rarely scarcely seldom without".split(),
    *(stem + "'t" for stem in _CONTRACTED),
    *(stem + "t" for stem in _CONTRACTED if stem not in ("can", "won")),
)
"""English words that turn what follows; :class:`Lexicon`'s default."""


class Lexicon(Native):
    """Weights of the words and phrases in a text, turned by negators before them.

    With x the sum of the weights of all entries found, each multiplied by `negation`
    where one of `negators` is among the `window` words before it, the score is

    - per "text": ``x / sqrt(x**2 + alpha)``, in (-1, 1); in [0, 1) or (-1, 0] where no
      weight, negated or not, has the other sign;
    - per "word": ``x`` divided by the number of words, those in no entry included;
    - per "match": ``x`` divided by the number of entries found, 0 where none is.

    Case is folded and entries match whole words, an apostrophe inside being part of
    one. Phrases are words that follow one another; where several entries begin at a
    word the longest is taken, and none is looked for inside it. Emoticons and words
    with symbols in them match between white space, or with punctuation after them.

    Parameters
    ----------
    weights : mapping of str to float
        Entries of at most 8 words; weights within 65,536. Of entries that are the same
        after folding, the last one counts. Sums are kept to 2**-24.
    negators : iterable of str, default=NEGATORS
        Single words. One may be an entry, too.
    window : int, default=3
        Words before an entry in which a negator counts; 0: none.
    negation : float, default=-0.74
        -1 flips a weight, 0 drops it, 0.5 damps it.
    per : {"text", "word", "match"}, default="text"
    alpha : float, default=15
        The x at which a score per text is 0.71 is its root.
    name : str, default="lexicon"

    Raises
    ------
    ValueError
        For no entries, or one without text or too long; for a weight, `negation` or
        `alpha` out of range.

    Notes
    -----
    Window, factor and alpha are those of VADER [1]_, whose rules for degree words,
    capitals, punctuation and "but" are left out.

    References
    ----------
    .. [1] C. J. Hutto and E. Gilbert, "VADER: A parsimonious rule-based model for
       sentiment analysis of social media text", ICWSM 2014.

    Examples
    --------
    >>> lexicon = Lexicon({"good": 1.9, "bad": -2.5, "fed up": -1.8})
    >>> [round(score, 2) for score in lexicon.score(["Good!", "not good", "fed up"])]
    [0.44, -0.34, -0.42]
    """

    def __init__(
        self,
        weights: Mapping[str, float],
        *,
        negators: Iterable[str] = NEGATORS,
        window: int = 3,
        negation: float = -0.74,
        per: str = "text",
        alpha: float = 15.0,
        name: str = "lexicon",
    ) -> None:
        if not isinstance(weights, Mapping):
            raise TypeError(f"weights: expected a mapping, got {weights!r:.80}")
        texts("weights", list(weights))
        if not weights:
            raise ValueError("weights: expected at least one entry, got none")
        self.weights = {
            entry: number(f"weights: {entry!r}", weight)
            for entry, weight in weights.items()
        }
        self.negators = tuple(texts("negators", negators))
        self.window = check_int("window", window, 0, 2**31 - 1)
        self.negation = number("negation", negation)
        self.per = choice("per", per, _PER)
        self.alpha = check_float("alpha", alpha, "a number > 0", lambda x: x > 0)
        capsule = _core.lexicon(
            list(self.weights),
            list(self.weights.values()),
            self.negators,
            self.window,
            self.negation,
            _PER[per],
            self.alpha,
        )
        super().__init__(capsule, name)

    @classmethod
    def from_file(
        cls,
        path: str | os.PathLike[str],
        *,
        weight: float | None = None,
        **options: Any,
    ) -> Lexicon:
        """A lexicon from a text file in UTF-8, one entry a line.

        Parameters
        ----------
        path : path
            Two columns, entry and weight, or more, which are not read: VADER's
            four-column file as it is. Columns are separated by tabs where the first
            line has one, else by the last comma, or the last white space, of a line.
        weight : float, optional
            Every line is an entry of that weight, and there are no columns.
        **options
            As for the class.

        Returns
        -------
        Lexicon

        Raises
        ------
        ValueError
            If a line has no weight; it names the line.
        """
        text = Path(path).read_text(encoding="utf-8-sig")
        lines = [
            (i_line, line)
            for i_line, line in enumerate(text.splitlines(), 1)
            if line.strip()
        ]
        if weight is not None:
            return cls({line.strip(): weight for _, line in lines}, **options)
        separator = _separator(lines[0][1]) if lines else None
        weights = {}
        for i_line, line in lines:
            entry, value = _columns(line, separator)
            try:
                weights[entry] = float(value)
            except ValueError:
                raise ValueError(
                    f"{Path(path).name}: line {i_line}: expected an entry and a "
                    f"number, got {line!r:.80}; for entries alone give weight="
                ) from None
        return cls(weights, **options)

    def __repr__(self) -> str:
        n = len(self.weights)
        return (
            f"deal.rewards.Lexicon({n} entries, per={self.per!r}, name={self.name!r})"
        )


def _separator(line: str) -> str | None:
    return next((mark for mark in "\t," if mark in line), None)


def _columns(line: str, separator: str | None) -> tuple[str, str]:
    """Entry and weight, as text; the weight empty where there is none."""
    if separator == "\t":
        columns = line.split("\t")
        return columns[0].strip(), columns[1] if len(columns) > 1 else ""
    parts = line.strip().rsplit(separator, 1)
    return parts[0].strip(), parts[1] if len(parts) > 1 else ""
