"""The lexicon reward against its twin, its bounds, and files of lexicons."""

from __future__ import annotations

import math
import os
import random
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from lexicon_twin import lexicon_twin
from test_bounds import check_holds, cut

from deal import _core
from deal.rewards import NEGATORS, Lexicon

PER = ("text", "word", "match")
PIECES = ["good", "bad", "not", "fed", "up", "can't", "stand", "Good", "isn\u2019t"]
PIECES += [" ", " ", " ", " ", "-", "'", ".", "!", ",", ":)", ":(", ":d", "8", "f*k"]
PIECES += ["a", "b", "\u00e9t\u00e9", "\u00c9", "\n", "\u3000", '"', "\U0001f408", "''"]
BROKEN = [b"\xff", b"\xc3", b"\xa9", b"\xe5\xad", b"\xf0\x9f\x90", b"\xed\xa0\x80"]
ENTRIES = ["good", "bad", "fed up", "can't stand", ":)", ":(", ":d", "8)", "f*k", "up"]
ENTRIES += [
    "fed up a",
    "a b a",
    "self-good",
    "x-d",
    ":).",
    "\u00e9t\u00e9",
    "( : )",
    "a",
]
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


# --- Python --------------------------------------------------------------------------


def test_examples() -> None:
    lexicon = Lexicon({"good": 2.0, "bad": -2.0, "fed up": -1.0, ":)": 1.0}, alpha=12)
    texts = ["Good!", "not so very good", "not so very, very good", "FED UP", "hi :)."]
    expected = [2.0, -1.48, 2.0, -1.0, 1.0]
    x = [
        score / math.sqrt(1 - score**2) * math.sqrt(12)
        for score in lexicon.score(texts)
    ]
    assert x == pytest.approx(expected, abs=1e-6)
    assert lexicon.range == (-1.0, 1.0) and "4 entries" in repr(lexicon)
    toxic = Lexicon({"ass": 1.0}, window=0, per="word")
    assert toxic.range == (0.0, 1.0)
    assert toxic.score(["ass", "pass", "an ass", ""]) == [1.0, 0.0, 0.5, 0.0]
    age = Lexicon({"cat": 3.0, "dog": 5.0, "heuristic": 14.0}, negators=(), per="match")
    assert age.score(["the cat and the heuristic", "none"]) == [8.5, 0.0]


def test_negators() -> None:
    assert len(set(NEGATORS)) == len(NEGATORS)
    scores = Lexicon({"good": 1.0}).score([f"{word} good" for word in NEGATORS])
    assert all(score < 0 for score in scores)
    assert Lexicon({"good": 1.0}).score(["didn\u2019t look good"])[0] < 0


@pytest.mark.parametrize(
    ("weights", "settings", "error"),
    [
        ([("a", 1)], {}, TypeError),
        ({}, {}, ValueError),
        ({"": 1}, {}, ValueError),
        ({" ": 1}, {}, ValueError),
        ({3: 1}, {}, TypeError),
        ({"a": float("nan")}, {}, ValueError),
        ({"a": 1e9}, {}, ValueError),
        ({"a b c d e f g h i": 1}, {}, ValueError),
        ({"a" * 257: 1}, {}, ValueError),
        ({"\ud800": 1}, {}, ValueError),
        ({"a": 1}, {"negators": "not"}, TypeError),
        ({"a": 1}, {"negators": ["at all"]}, ValueError),
        ({"a": 1}, {"window": -1}, ValueError),
        ({"a": 1}, {"negation": float("inf")}, ValueError),
        ({"a": 1}, {"per": "line"}, ValueError),
        ({"a": 1}, {"alpha": 0}, ValueError),
    ],
)
def test_refuses(
    weights: Any, settings: dict[str, Any], error: type[Exception]
) -> None:
    with pytest.raises(error):
        Lexicon(weights, **settings)


VADER = ":)\t2.0\t1.1\t[2, 1]\ngood\t1.9\t0.9\t[2]\n( '}{' )\t1.6\t0.6\t[1]\n\n"


@pytest.mark.parametrize(
    ("text", "settings", "weights"),
    [
        (VADER, {}, {":)": 2.0, "good": 1.9, "( '}{' )": 1.6}),
        ("good,1.5\nfed up,-2\n", {}, {"good": 1.5, "fed up": -2.0}),
        ("\ufeffgood 1.5\nfed up  -2\n", {}, {"good": 1.5, "fed up": -2.0}),
        ("2 girls\nbad\n", {"weight": -1.0}, {"2 girls": -1.0, "bad": -1.0}),
    ],
)
def test_files(
    tmp_path: Path, text: str, settings: dict[str, Any], weights: dict[str, float]
) -> None:
    path = tmp_path / "words.txt"
    path.write_text(text, encoding="utf-8")
    lexicon = Lexicon.from_file(path, window=2, **settings)
    assert lexicon.weights == weights and lexicon.window == 2


@pytest.mark.parametrize("text", ["good\t1\nbad\n", "good 1\nbad\n", "good,x\n", ""])
def test_files_that_are_refused(tmp_path: Path, text: str) -> None:
    path = tmp_path / "words.txt"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(ValueError, match="line [12]|expected at least one"):
        Lexicon.from_file(path)


SHARED = Path(os.environ.get("DEAL_SHARED", Path(__file__).parents[3] / "shared"))
FOLDER = SHARED / "data" / "lexicons"


@pytest.mark.skipif(not FOLDER.is_dir(), reason="lexicons are not there")
def test_lexicons_of_others() -> None:
    vader = Lexicon.from_file(FOLDER / "vader_lexicon.txt")
    assert len(vader.weights) > 7500
    texts = ["This is great :)", "Not great.", "I can't stand it", "A table."]
    signs = [math.copysign(bool(score), score) for score in vader.score(texts)]
    assert signs == [1, -1, -1, 0]
    rng = random.Random(9)
    entries = list(vader.weights)
    for _ in range(200):
        text = " ".join(rng.choices([*entries, "not", "the", "a"], k=12))
        expected = lexicon_twin(vader.weights, NEGATORS, 3, -0.74, "text", 15.0, text)
        assert vader.score([text]) == [expected]
    rude = Lexicon.from_file(FOLDER / "ldnoobw_en.txt", weight=1.0, window=0)
    assert len(rude.weights) == 403 and rude.range == (0.0, 1.0)
