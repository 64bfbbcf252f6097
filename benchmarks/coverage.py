"""The keyword reward in plain Python, for searches that are not ours or not native."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence


def coverage(concepts: Mapping[str, Sequence[str]]) -> Callable[[str], float]:
    """Fraction of concepts that a text covers: `deal.rewards.Keywords` as a function.

    Parameters
    ----------
    concepts : mapping of str to sequence of str
        Concept -> accepted forms.

    Returns
    -------
    callable
        Text to a float in [0, 1].
    """
    patterns = [
        re.compile(
            rf"(?<!\w)(?:{'|'.join(map(re.escape, forms))})(?!\w)", re.IGNORECASE
        )
        for forms in concepts.values()
    ]

    def score(text: str) -> float:
        found = sum(pattern.search(text) is not None for pattern in patterns)
        return found / len(patterns)

    return score
