"""The lexicon reward against its twin, its bounds, and files of lexicons."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from lexicon_twin import lexicon_twin
from test_bounds import check_holds, cut

from deal import _core

PER = ("text", "word", "match")
PIECES = ["good", "bad", "not", "fed", "up", "can't", "stand", "Good", "isn\u2019t"]
PIECES += [" ", " ", " ", " ", "-", "'", ".", "!", ",", ":)", ":(", ":d", "8", "f*k"]
PIECES += ["a", "b", "\u00e9t\u00e9", "\u00c9", "\n", "\u3000", '"', "\U0001f408", "''"]
BROKEN = [b"\xff", b"\xc3", b"\xa9", b"\xe5\xad", b"\xf0\x9f\x90", b"\xed\xa0\x80"]
ENTRIES = ["good", "bad", "fed up", "can't stand", ":)", ":(", ":d", "8)", "f*k", "up"]
ENTRIES += ["fed up a", "a b a", "self-good", "x-d", ":).", "\u00e9t\u00e9", "( : )", "a"]
ENTRIES += ["a-b", "good good bad", ".", "fed", "isn't", "stand up", "b b", "B"]


def random_lexicon(rng: random.Random) -> dict[str, Any]:
    entries = rng.sample(ENTRIES, rng.randint(1, len(ENTRIES)))
    low, high = rng.choice([(-3, 3), (0, 3), (-3, 0), (1, 3), (-3, -1)])
    return {
        "weights": {entry: rng.uniform(low, high) for entry in entries},
        "negators": rng.sample(["not", "isn't", "b"], rng.randrange(4)),
        "window": rng.randrange(4),
        "negation": rng.choice([-0.74, -1.0, 0.0, 0.5, -2.0]),
        "per": rng.choice(PER),
        "alpha": rng.choice([15.0, 0.5]),
    }


def make(lexicon: dict[str, Any]) -> Any:
    weights = lexicon["weights"]
    return _core.lexicon(
        list(weights),
        list(weights.values()),
        lexicon["negators"],
        lexicon["window"],
        lexicon["negation"],
        PER.index(lexicon["per"]),
        lexicon["alpha"],
    )


def random_bytes(rng: random.Random, pieces: list[str], n: int) -> bytes:
    data = b""
    for _ in range(rng.randrange(n)):
        data += rng.choice(pieces).encode()
        if rng.random() < 0.04:
            data += rng.choice(BROKEN)
    return data


def seen(tokens: list[bytes]) -> str:
    """The text as the reward sees it: a character in two tokens is none."""
    return "".join(token.decode("utf-8", "surrogateescape") for token in tokens)


def check_twin(
    rng: random.Random, capsule: Any, twin: Callable[[str], float], data: bytes
) -> set[float]:
    tokens = cut(rng, data, rng.randint(1, 9))
    state = _core.RewardState(capsule, "p", token_size_max=9)
    scores = set()
    for i in range(len(tokens) + 1):
        score = twin(seen(tokens[:i]))
        assert state.score() == score == state.bounds(0)[0], tokens[:i]
        scores.add(score)
        if i < len(tokens):
            kept, state = state, state.fork()
            state.advance(tokens[i], i)
            assert kept.score() == score
    return scores


def test_equals_its_twin() -> None:
    rng = random.Random(1)
    scores: set[float] = set()
    for _ in range(1500):
        lexicon = random_lexicon(rng)
        capsule = make(lexicon)
        data = random_bytes(rng, PIECES, 30)
        scores |= check_twin(
            rng, capsule, lambda text, x=lexicon: lexicon_twin(**x, text=text), data
        )
    assert len(scores) > 1500


def continuations(
    rng: random.Random, lexicon: dict[str, Any], size_max: int
) -> Iterator[list[bytes]]:
    """Entries one after the other, at times of one sign, and random text."""
    entries = list(lexicon["weights"])
    best = sorted(entries, key=lambda e: lexicon["weights"][e] / (len(e) + 1))
    for _ in range(6):
        chosen = rng.choice([entries, best[:1], best[-1:], best[:2], best[-2:]])
        text = " ".join(rng.choices(chosen, k=rng.randint(1, 8)))
        if rng.random() < 0.5:
            text = rng.choice(["", " ", "not "]) + text
        else:
            text = text[rng.randrange(len(text)) :]
        yield cut(rng, text.encode(), size_max)
    for _ in range(6):
        yield cut(rng, random_bytes(rng, PIECES, 12), size_max)


@pytest.mark.parametrize("size_max", [1, 2, 3, 5, 9])
def test_bounds(size_max: int) -> None:
    rng = random.Random(f"lexicon {size_max}")
    n_tight = n_partly = 0
    for _ in range(120):
        lexicon = random_lexicon(rng)
        capsule = make(lexicon)
        low, high = _core.reward_info(capsule)[1:3]
        for data in (b"", *(random_bytes(rng, PIECES, 12) for _ in range(4))):
            state = _core.RewardState(capsule, "p", token_size_max=size_max)
            for token in cut(rng, data, size_max):
                state.advance(token, 1)
            n_max = rng.randint(1, 5)
            follow = list(continuations(rng, lexicon, size_max))
            n_tight += check_holds(rng, state, n_max, follow)
            bounds = state.bounds(n_max)
            assert low <= bounds[0] and bounds[1] <= high
            n_partly += bounds[1] < high or bounds[0] > low
    assert n_tight > 100
    assert n_partly > 100
