"""Bounds of native rewards hold whatever follows, and only tighten.

A continuation is any tokens of at most `token_size_max` bytes, the worst that a reward
has to reckon with: drawn at random, bytes that are no text among them, or made to cover
what is missing, cut into as few tokens as the limit allows.
"""

from __future__ import annotations

import itertools
import random
from collections.abc import Iterator

import pytest
from reward_streams import (
    ALPHABET,
    Tokens,
    beginnings,
    check_holds,
    cut,
    random_token,
)
from reward_twins import keywords_twin

from deal import _core

UNITS = ("tokens", "characters", "words", "sentences", "lines", "paragraphs")


# --- Keywords ------------------------------------------------------------------------


def random_concepts(rng: random.Random) -> list[list[str]]:
    def form() -> str:
        words = ["".join(rng.choices(ALPHABET, k=rng.randint(1, 4))) for _ in "ab"]
        return rng.choice([words[0], " ".join(words), words[0].strip() or "a"])

    return [
        [form() for _ in range(rng.randint(1, 3))] for _ in range(rng.randint(1, 5))
    ]


def keyword_continuations(
    rng: random.Random, concepts: list[list[str]], size_max: int
) -> Iterator[Tokens]:
    """Forms one after the other, the first one whole or from some character on."""
    for _ in range(12):
        forms = [rng.choice(forms) for forms in rng.sample(concepts, len(concepts))]
        first = forms[0]
        text = first[rng.randrange(len(first)) :] if rng.random() < 0.6 else first
        for form in forms[1:]:
            text += rng.choice(["", " ", "."]) + form
        text = rng.choice(["", " "]) + rng.choice([text, text.swapcase()])
        yield cut(rng, text.encode(), size_max)
    for _ in range(6):
        yield [random_token(rng, size_max) for _ in range(6)]


@pytest.mark.parametrize("size_max", [1, 2, 3, 5, 12])
def test_keywords(size_max: int) -> None:
    rng = random.Random(f"keywords {size_max}")
    n_tight = n_partly = 0
    for _ in range(120):
        concepts = random_concepts(rng)
        for state in beginnings(rng, _core.keywords(concepts), size_max):
            n_max = rng.randint(1, 5)
            continuations = list(keyword_continuations(rng, concepts, size_max))
            n_tight += check_holds(rng, state, n_max, continuations)
            n_partly += 0 < state.bounds(n_max)[1] < 1
    assert n_tight > 300
    assert n_partly > 100 or size_max > 3  # else all is within reach


def test_keywords_reach_all_that_they_say() -> None:
    """Every text of up to four bytes over a small alphabet: the bounds of one concept
    are just what these reach."""
    rng = random.Random(8)
    texts = [
        "".join(letters)
        for n in range(5)
        for letters in itertools.product("ab ", repeat=n)
    ]
    for _ in range(150):
        forms = ["".join(rng.choices("aab ", k=rng.randint(1, 4))) for _ in "ab"]
        state = _core.RewardState(_core.keywords([forms]), "p", token_size_max=1)
        before = "".join(rng.choices("aab ", k=rng.randrange(6)))
        state.advance(before.encode(), 1)
        for n in range(5):
            scores = {
                keywords_twin([forms], before + text)
                for text in texts
                if len(text) <= n
            }
            low, high = state.bounds(n)
            assert low <= min(scores) and high == max(scores), (forms, before, n)


# --- Length --------------------------------------------------------------------------


def length_continuations(rng: random.Random, size_max: int) -> Iterator[Tokens]:
    """As many units as the bytes have room for, or as few."""
    units = ["a", " a", "a ", " a.", "a. ", ".a", "a\u3002", "\u3002", "!", " ", ""]
    units += ["\na", "a\n", "\n\na", "a\n\n"]
    for _ in range(12):
        n = rng.randint(1, 20)
        if rng.random() < 0.7:
            text = rng.choice(units) + rng.choice(units) * n
        else:
            text = "".join(rng.choices(units, k=n))
        yield cut(rng, text.encode(), size_max)
    yield [b""] * 6
    for _ in range(6):
        yield [random_token(rng, size_max) for _ in range(6)]


@pytest.mark.parametrize("unit", UNITS)
@pytest.mark.parametrize("size_max", [1, 2, 3, 4, 9])
def test_length(unit: str, size_max: int) -> None:
    rng = random.Random(f"{unit} {size_max}")
    n_tight = 0
    for _ in range(100):
        low = rng.randrange(12)
        high = rng.choice([-1, low, low + rng.randrange(6)])
        capsule = _core.length(UNITS.index(unit), low, high)
        for state in beginnings(rng, capsule, size_max):
            continuations = list(length_continuations(rng, size_max))
            n_tight += check_holds(rng, state, rng.randint(1, 5), continuations)
    assert n_tight > 1000
