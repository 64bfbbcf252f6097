"""The native rewards once more, in plain Python, on whole texts."""

from __future__ import annotations

import functools
import itertools
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


def spans(form: str, text: str) -> list[tuple[int, int]]:
    """Where `form` is in `text` with neither end inside a word; both folded."""

    def cuts(i: int) -> bool:
        return 0 < i < len(text) and is_word(text[i - 1]) and is_word(text[i])

    ends = [(i, i + len(form)) for i in range(len(text)) if text.startswith(form, i)]
    return [(i, j) for i, j in ends if not cuts(i) and not cuts(j)]


def n_in_order(concepts: Sequence[Sequence[str]], text: str) -> int:
    """Most concepts from the first one on that occur without overlap, by trying all."""
    where = [
        [span for form in forms for span in spans(form, text)] for forms in concepts
    ]

    @functools.cache
    def most(n: int, start: int) -> int:
        if n == len(where):
            return n
        return max([n] + [most(n + 1, j) for i, j in where[n] if i >= start])

    return most(0, 0)


def keywords_twin(
    concepts: Sequence[Sequence[str]],
    text: str,
    forbidden: Sequence[Sequence[str]] = (),
    mode: str = "fraction",
) -> float:
    folded = fold(text)
    wanted = [[fold(form) for form in forms] for forms in concepts]
    met = [any(spans(form, folded) for form in forms) for forms in wanted]
    hit = [any(spans(fold(form), folded) for form in forms) for forms in forbidden]
    if mode in ("all", "any"):
        holds = all(met) if mode == "all" else any(met) or not met
        return float(holds and not any(hit))
    n = n_in_order(wanted, folded) if mode == "ordered" else sum(met)
    value = n / len(met) if met else 1.0
    return value * ((len(hit) - sum(hit)) / len(hit)) if any(hit) else value


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


def count_paragraphs(text: str) -> int:
    is_blank = [not line.strip() for line in text.split("\n")]
    return sum(a and not b for a, b in itertools.pairwise([True, *is_blank]))


def length_score(unit: str, low: int, high: float, n_tokens: int, text: str) -> float:
    n = {
        "tokens": n_tokens,
        "characters": len(text),
        "words": len(text.split()),
        "sentences": count_sentences(text),
        "lines": sum(1 for line in text.split("\n") if line.strip()),
        "paragraphs": count_paragraphs(text),
    }[unit]
    if low <= n <= high:
        return 1.0
    missed = low if n < low else high
    return 1.0 / (1.0 + abs(n - missed) / max(1, missed))


def length_twin(unit: str, low: int, high: float, tokens: Sequence[str]) -> float:
    return length_score(unit, low, high, len(tokens), "".join(tokens))


def repeated_grams(n: int, text: str) -> list[bool]:
    """Of each n-gram of words, whether the same one occurred before."""
    words = "".join(c if is_word(c) else " " for c in fold(text)).split(" ")
    words = [word for word in words if word]
    grams = [tuple(words[i : i + n]) for i in range(len(words) - n + 1)]
    return [gram in grams[:i] for i, gram in enumerate(grams)]


def repetition_twin(n: int, longest: int | None, text: str) -> float:
    is_repeated = repeated_grams(n, text)
    if longest is None:
        return is_repeated.count(False) / len(is_repeated) if is_repeated else 1.0
    runs = [len(list(g)) for k, g in itertools.groupby(is_repeated) if k]
    n_word = max(runs) + n - 1 if runs else 0
    return 1 / (1 + max(0, n_word - longest) / max(1, longest))
