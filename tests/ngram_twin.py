"""The n-gram model once more, in plain Python, on whole texts."""

from __future__ import annotations

import math
import re
from collections import Counter
from typing import Any

from reward_twins import fold, is_word

MASK = 2**64 - 1


def put(key: int, code: int) -> int:
    key = (key ^ code) * 0x9E3779B97F4A7C15 & MASK
    return key ^ key >> 29


def end(key: int) -> int:
    key = (key ^ key >> 32) * 0xD6E8FEB86659FD93 & MASK
    return key ^ key >> 32


def word_key(word: str) -> int:
    key = 0x51
    for character in word:
        key = put(key, ord(character))
    return key


def bucket(ngram: tuple[str, ...], is_words: bool, n_slots: int) -> int:
    """Where our own hash puts it."""
    key = 0xA3 if is_words else 0x1F7
    for part in reversed(ngram):
        key = put(key, word_key(part) if is_words else ord(part))
    return end(key) * n_slots >> 64


def words_of(text: str, min_word: int, stop: tuple[str, ...]) -> list[str]:
    classes = "".join("w" if is_word(c) else " " for c in text)
    found = [text[m.start() : m.end()] for m in re.finditer("w+", classes)]
    return [word for word in found if len(word) >= min_word and word not in stop]


def windows(items: Any, low: int, high: int) -> list[tuple[str, ...]]:
    return [
        tuple(items[i : i + n])
        for n in range(low, high + 1)
        for i in range(len(items) - n + 1)
    ]


def characters_of(
    text: str, low: int, high: int, within: bool
) -> list[tuple[str, ...]]:
    if not within:
        return windows(re.sub(r"\s\s+", " ", text), low, high)
    found = []
    for word in text.split():
        padded = f" {word} "
        found += windows(padded, low, high) or [tuple(padded)]
    return found


def ngrams_of(features: Any, text: str) -> list[tuple[bool, tuple[str, ...]]]:
    """Whether each is one of words, and its parts."""
    text = re.sub("[\udc80-\udcff]", "\ufffd", text)
    if features.lowercase:
        text = fold(text)
    found = []
    if features.words:
        stop = tuple(map(fold, features.stop_words))
        words = words_of(text, features.min_word, stop)
        found += [(True, ngram) for ngram in windows(words, *features.words)]
    if features.characters:
        low, high = features.characters
        rows = characters_of(text, low, high, features.within_words)
        found += [(False, ngram) for ngram in rows]
    return found


def ngram_twin(model: Any, text: str) -> float:
    features = model.features
    slots: Counter[int] = Counter()
    terms = {
        fold(term) if features.lowercase else term: i
        for i, term in enumerate(features.terms)
    }
    for is_words, ngram in ngrams_of(features, text):
        if features.kind == "hashed":
            slots[bucket(ngram, is_words, features.n_slots)] += 1
        elif (term := (" " if is_words else "").join(ngram)) in terms:
            slots[terms[term]] += 1
    z = square = 0.0
    for slot, count in slots.items():
        tf = {"count": count, "binary": 1, "log": 1 + math.log(count)}[model.tf]
        v = tf * (1.0 if model.idf is None else float(model.idf[slot]))
        z += float(model.weight[slot]) * v
        square += v * v
    if model.norm and square:
        z /= math.sqrt(square)
    return 1 / (1 + math.exp(-(z + model.intercept)))
