"""The lexicon reward once more, in plain Python, on whole texts.

Bytes that are no text are lone surrogates here ("surrogateescape"): neither word
characters nor white space.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence

from reward_twins import fold, is_word

SCALE = 2.0**24
CUT_OFF = '.,;:!?"\u201d'
Unit = tuple[str, str]


def classes(text: str) -> str:
    return "".join("w" if is_word(c) else "'" if c == "'" else "o" for c in text)


def words_of(chunk: str) -> list[Unit]:
    found = re.finditer("w+(?:'w+)*", classes(chunk))
    return [("word", chunk[m.start() : m.end()]) for m in found]


def folded(text: str) -> str:
    return fold(text.replace("\u2019", "'"))


def entry_units(entry: str) -> tuple[Unit, ...]:
    units: list[Unit] = []
    for chunk in folded(entry).split():
        parts = chunk.split("-")
        is_plain = all(re.fullmatch("w+(?:'w+)*", classes(part)) for part in parts)
        if is_plain and (len(parts) == 1 or max(map(len, parts)) > 2):
            units += [("word", part) for part in parts]
        else:
            units.append(("chunk", chunk))
    return tuple(units)


def text_units(text: str, chunks: set[str]) -> list[Unit]:
    units: list[Unit] = []
    for chunk in folded(text).split():
        cut = chunk.rstrip(CUT_OFF)
        if re.fullmatch("w+(?:'w+)*", classes(chunk)):
            units.append(("word", chunk))
        elif chunk in chunks:
            units.append(("chunk", chunk))
        elif cut in chunks:
            units.append(("chunk", cut))
        else:
            units += words_of(chunk)
    return units


def lexicon_twin(
    weights: Mapping[str, float],
    negators: Sequence[str],
    window: int,
    negation: float,
    per: str,
    alpha: float,
    text: str,
) -> float:
    entries = {entry_units(entry): weight for entry, weight in weights.items()}
    turning = {("word", folded(word)) for word in negators}
    chunks = {name for key in entries for kind, name in key if kind == "chunk"}
    units = text_units(text, chunks)
    negated = [
        any(unit in turning for unit in units[max(0, i - window) : i])
        for i in range(len(units))
    ]
    total = n_match = i = 0
    while i < len(units):
        ends = [n for n in range(1, 9) if tuple(units[i : i + n]) in entries]
        ends = [n for n in ends if i + n <= len(units)]
        if not ends:
            i += 1
            continue
        weight = entries[tuple(units[i : i + ends[-1]])]
        total += round(weight * (negation if negated[i] else 1.0) * SCALE)
        n_match += 1
        i += ends[-1]
    x = total / SCALE
    if per == "text":
        return x / math.sqrt(x * x + alpha)
    n = len(units) if per == "word" else n_match
    return x / n if n else 0.0
