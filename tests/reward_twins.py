"""The native rewards once more, in plain Python, on whole texts."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Sequence


def is_word(character: str) -> bool:
    return unicodedata.category(character)[0] in "LMN" or character == "_"


def fold_one(character: str) -> str:
    for folded in (character.casefold(), character.lower()):
        if len(folded) == 1:
            return folded
    return character


def fold(text: str) -> str:
    return "".join(map(fold_one, text))


def occurs(form: str, text: str) -> bool:
    """Whether `form` is in `text` with neither end inside a word; both folded."""

    def cuts(i: int) -> bool:
        return 0 < i < len(text) and is_word(text[i - 1]) and is_word(text[i])

    return any(
        text.startswith(form, i) and not cuts(i) and not cuts(i + len(form))
        for i in range(len(text))
    )


def keywords_twin(concepts: Sequence[Sequence[str]], text: str) -> float:
    folded = fold(text)
    n = sum(any(occurs(fold(f), folded) for f in forms) for forms in concepts)
    return n / len(concepts)


def count_sentences(text: str) -> int:
    n, start = 0, 0
    for run in re.finditer("[.!?。．！？｡]+", text):
        after = text[run.end() : run.end() + 1]
        is_end = bool(set(run[0]) - set(".!?")) or not after or not is_word(after)
        if is_end and any(map(is_word, text[start : run.start()])):
            n += 1
        if is_end:
            start = run.end()
    return n


def length_score(unit: str, low: int, high: float, n_tokens: int, text: str) -> float:
    n = {
        "tokens": n_tokens,
        "characters": len(text),
        "words": len(text.split()),
        "sentences": count_sentences(text),
    }[unit]
    if low <= n <= high:
        return 1.0
    missed = low if n < low else high
    return 1.0 / (1.0 + abs(n - missed) / max(1, missed))


def length_twin(unit: str, low: int, high: float, tokens: Sequence[str]) -> float:
    return length_score(unit, low, high, len(tokens), "".join(tokens))
