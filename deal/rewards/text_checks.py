"""Native scorers of how a text is made: what it repeats, and its form."""

from __future__ import annotations

from typing import Any

from deal import _core
from deal.rewards._arguments import checked_text, choice, flag
from deal.rewards.native import Native, checked_bound

_CASES = {"lower": 1, "upper": 2}
_POSTSCRIPTS = {"P.S.": 1, "P.P.S": 2}


class Repetition(Native):
    """How little the text repeats itself, in [0, 1]; 1: not at all.

    Words are runs of letters, marks, digits and underscores, compared after case
    folding. An n-gram is `n` of them in a row, whatever stands between; it is repeated
    where the same one occurred before in the text, overlapping or not.

    Parameters
    ----------
    n : int, default=3
        Words of an n-gram, 1 to 32.
    longest : int, optional
        Default: the score is the share of n-grams that are no repetition, 1 where there
        are no n-grams. With `longest`, what counts is the longest stretch of words
        whose n-grams are all repeated: 1 up to so many words, ``1 / (1 + d / max(1,
        longest))`` for d words more.
    name : str, default="repetition"

    Raises
    ------
    ValueError
        If `n` or `longest` is out of range.

    Notes
    -----
    The share of n-grams is "distinct-n" [1]_ of a single text.

    References
    ----------
    .. [1] J. Li et al., "A Diversity-Promoting Objective Function for Neural
       Conversation Models", NAACL 2016.

    Examples
    --------
    >>> Repetition(n=2).score(["to be or not to be", "to be or not"])
    [0.8, 1.0]
    >>> Repetition(n=2, longest=2).score(["to be or not to be", "so so so so so"])
    [1.0, 0.5]
    """

    def __init__(
        self, n: int = 3, longest: int | None = None, name: str = "repetition"
    ) -> None:
        allowed = 0 if longest is None else checked_bound("longest", longest)
        size = checked_bound("n", n)
        capsule = _core.repetition(
            int(longest is not None), min(size, 2**31 - 1), allowed
        )
        super().__init__(capsule, name)
        self.n = size
        self.longest = None if longest is None else allowed

    def __repr__(self) -> str:
        more = "" if self.longest is None else f", longest={self.longest}"
        return f"deal.rewards.Repetition(n={self.n}{more})"


class Format(Native):
    """Which checks of its form the text passes, in [0, 1].

    The checks are those of IFEval [1]_, and agree with its checkers on whole texts, but
    for the language of texts in one case, which is not looked at.

    Parameters
    ----------
    starts_with, ends_with : str, optional
        What the text begins or ends with, in whatever case; white space, and then
        double quotation marks, at the ends of the text are left out.
    bullets : int, optional
        Just so many lines that begin with ``-`` or with a single ``*``.
    paragraphs : int, optional
        Just so many parts between ``***``, none of them blank but the first or last.
    placeholders : int, optional
        At least so many ``[placeholders]``.
    highlights : int, optional
        At least so many ``*highlighted*`` or ``**highlighted**`` sections.
    letter_case : {"lower", "upper"}, optional
        Some letters, and all of them in this case.
    postscript : {"P.S.", "P.P.S"}, optional
        Occurs in the text, in whatever case.
    no_commas, quoted, title : bool, default=False
        No comma; wrapped in double quotation marks; a title in ``<<double brackets>>``.
    mode : {"fraction", "all"}, default="fraction"
        The score: the fraction of the checks that pass, or 1 if all do, else 0.
    name : str, default="format"

    Raises
    ------
    ValueError
        If nothing is to be checked, or a value is out of range.

    References
    ----------
    .. [1] J. Zhou et al., "Instruction-Following Evaluation for Large Language Models",
       arXiv:2311.07911, 2023.

    Examples
    --------
    >>> reward = Format(bullets=2, no_commas=True)
    >>> reward.score(["- one\\n- two", "- one, two"])
    [1.0, 0.0]
    >>> reward.checks("- one\\n- two, three")
    {'bullets': True, 'no_commas': False}
    """

    def __init__(
        self,
        *,
        starts_with: str | None = None,
        ends_with: str | None = None,
        bullets: int | None = None,
        paragraphs: int | None = None,
        placeholders: int | None = None,
        highlights: int | None = None,
        letter_case: str | None = None,
        postscript: str | None = None,
        no_commas: bool = False,
        quoted: bool = False,
        title: bool = False,
        mode: str = "fraction",
        name: str = "format",
    ) -> None:
        choice("mode", mode, ("fraction", "all"))
        asked: dict[str, Any] = {
            "starts_with": _phrase("starts_with", starts_with),
            "ends_with": _phrase("ends_with", ends_with),
            "bullets": _optional_count("bullets", bullets),
            "paragraphs": _optional_count("paragraphs", paragraphs),
            "placeholders": _optional_count("placeholders", placeholders),
            "highlights": _optional_count("highlights", highlights),
            "letter_case": _choice("letter_case", letter_case, _CASES),
            "postscript": _choice("postscript", postscript, _POSTSCRIPTS),
            "no_commas": flag("no_commas", no_commas) or None,
            "quoted": flag("quoted", quoted) or None,
            "title": flag("title", title) or None,
        }
        self._options = {k: v for k, v in asked.items() if v is not None}
        super().__init__(_core.format(**self._options, is_all=mode == "all"), name)
        self.mode = mode

    def __repr__(self) -> str:
        shown = self._options.copy()
        for key, names in (("letter_case", _CASES), ("postscript", _POSTSCRIPTS)):
            if key in shown:
                shown[key] = list(names)[shown[key] - 1]
        if self.mode != "fraction":
            shown["mode"] = self.mode
        arguments = ", ".join(f"{key}={value!r}" for key, value in shown.items())
        return f"deal.rewards.Format({arguments})"

    def checks(self, completion: str) -> dict[str, bool]:
        """Which checks a text passes.

        Parameters
        ----------
        completion : str

        Returns
        -------
        dict of str to bool
            By the name of the parameter, in their order.
        """
        passed = {}
        for key, value in self._options.items():
            state = _core.RewardState(_core.format(**{key: value}), "")
            state.advance(completion.encode())
            passed[key] = state.score(True) == 1.0
        return passed


def _optional_count(name: str, value: Any) -> int | None:
    return None if value is None else checked_bound(name, value)


def _choice(name: str, value: Any, choices: dict[str, int]) -> int | None:
    return None if value is None else choices[choice(name, value, choices)]


def _phrase(name: str, value: Any) -> str | None:
    return None if value is None else checked_text(name, value)
