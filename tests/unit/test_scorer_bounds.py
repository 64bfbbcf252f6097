"""Bounds of the native scorers hold whatever follows and only tighten; where they are
said to be exact, some text reaches them.
"""

from __future__ import annotations

import itertools
import random
from collections.abc import Iterator, Sequence
from typing import Any

import pytest
from reward_streams import (
    ALPHABET,
    Tokens,
    beginnings,
    check_holds,
    cut,
    random_token,
)

from deal import _core

SIZES = [1, 2, 3, 5, 12]


def some_continuations(
    rng: random.Random, parts: Sequence[str], size_max: int
) -> Iterator[Tokens]:
    """Parts that matter, in few tokens; one of them again and again; anything."""
    for _ in range(10):
        text = "".join(rng.choices(parts, k=rng.randint(1, 8)))
        yield cut(rng, text.encode(), size_max)
    for _ in range(4):
        text = rng.choice(parts) + rng.choice(parts) * rng.randint(1, 10)
        yield cut(rng, text.encode(), size_max)
    for _ in range(4):
        yield [random_token(rng, size_max) for _ in range(6)]


# --- Keywords ------------------------------------------------------------------------

MODES = ("fraction", "all", "any", "ordered")


def some_forms(rng: random.Random, n: int) -> list[list[str]]:
    def form() -> str:
        return "".join(rng.choices("aab b.", k=rng.randint(1, 4)))

    return [[form() for _ in range(rng.choice([1, 1, 2]))] for _ in range(n)]


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("size_max", SIZES)
def test_keywords(mode: str, size_max: int) -> None:
    rng = random.Random(f"{mode} {size_max}")
    n_tight = n_low = 0
    for _ in range(100):
        wanted = some_forms(rng, rng.randint(1, 4))
        forbidden = some_forms(rng, rng.choice([0, 1, 3]))
        capsule = _core.keywords(wanted, forbidden, MODES.index(mode))
        parts = [form for forms in wanted for form in forms] + [" ", ".", "a "]
        if wanted and rng.random() < 0.5:  # in order
            parts.append(" ".join(forms[0] for forms in wanted))
        for state in beginnings(rng, capsule, size_max, ["a", "b", " ", ".", *parts]):
            n_max = rng.randint(1, 5)
            continuations = list(some_continuations(rng, parts, size_max))
            n_tight += check_holds(rng, state, n_max, continuations)
            n_low += state.bounds(n_max)[1] < 1
    assert n_tight > 300
    assert n_low > 30


def reached(state: Any, alphabet: str, n: int) -> list[set[float]]:
    """Scores of all continuations of up to 0, 1, ..., n bytes."""
    scores: list[set[float]] = [set() for _ in range(n + 1)]

    def visit(at: Any, depth: int) -> None:
        scores[depth].add(at.score())
        for letter in alphabet if depth < n else "":
            further = at.fork()
            further.advance(letter.encode(), 1)
            visit(further, depth + 1)

    visit(state, 0)
    return list(itertools.accumulate(scores, set.union))


@pytest.mark.parametrize("mode", ["fraction", "any", "ordered"])
def test_keywords_reach_all_that_they_say(mode: str) -> None:
    """With one form for each, and one concept unless they come in order."""
    rng = random.Random(f"exact {mode}")
    n_partly = 0
    for _ in range(60):
        words = ["a", "b", "ab", "aa", "b a", "a.b", ".a"]
        wanted = [[word] for word in rng.sample(words, k=2 if mode == "ordered" else 1)]
        capsule = _core.keywords(wanted, [], MODES.index(mode))
        state = _core.RewardState(capsule, "p", token_size_max=1)
        state.advance("".join(rng.choices("aab .", k=rng.randrange(5))).encode(), 1)
        for n, scores in enumerate(reached(state, "ab .", 5)):
            low, high = state.bounds(n)
            assert low <= min(scores) and high == max(scores), (wanted, n)
            n_partly += 0 < high < 1
    assert n_partly > 20 or mode != "ordered"


def test_forbidden_words_never_recover() -> None:
    state = _core.RewardState(_core.keywords([["cat"]], [["bad"], ["worse"]], 0), "p")
    state.advance(b"bad")
    assert state.bounds(5) == (0.0, 1.0)  # may yet become "badge"
    state.advance(b" cat")
    assert state.score() == 0.5 and state.bounds(5) == (0.0, 0.5)
    state.advance(b" worse ")
    assert state.bounds(5) == (0.0, 0.0)


# --- Repetition ----------------------------------------------------------------------


@pytest.mark.parametrize("longest", [None, 0, 2])
@pytest.mark.parametrize("size_max", SIZES)
def test_repetition(longest: int | None, size_max: int) -> None:
    rng = random.Random(f"{longest} {size_max}")
    n_tight = n_below = 0
    parts = ["a ", "b ", "a b ", "a", "b", " ", "c d "]
    for _ in range(80):
        n = rng.choice([1, 2, 2, 3])
        capsule = _core.repetition(int(longest is not None), n, longest or 0)
        for state in beginnings(rng, capsule, size_max, [*parts, *ALPHABET]):
            state = state.fork()
            state.advance(rng.choice([b"", b"a b a b a b ", b"a a a a a ", b" b"]), 1)
            n_max = rng.randint(1, 5)
            continuations = list(some_continuations(rng, parts, size_max))
            n_tight += check_holds(rng, state, n_max, continuations)
            n_below += state.bounds(n_max)[1] < 1
    assert n_tight > 500
    assert n_below > 30


def test_repetition_reaches_its_lower_bound() -> None:
    """One-letter words that repeat the first one are the least that can be had."""
    state = _core.RewardState(_core.repetition(0, 1, 0), "p", token_size_max=1)
    for n, scores in enumerate(reached(state, "a ", 7)):
        assert state.bounds(n) == (min(scores), max(scores))


# --- Format --------------------------------------------------------------------------

PARTS = {
    "starts_with": ["ab", "a", "b", '"', " "],
    "ends_with": ["aba", "ab", "a", '"', " ", "b"],
    "bullets": ["\n-", "-", "*", "\n", "\n* x", " ", "*\n"],
    "paragraphs": ["***", "x", "***x", "*", " "],
    "placeholders": ["[]", "[", "]", "[x]", "\n"],
    "highlights": ["*x*", "**x**", "*", "x", " ", "\n"],
    "letter_case": ["a", "A", "\u00e9", "\u01c5", "1"],
    "postscript": ["P.S.", "p. s.", "p", "s", ".", " ", "P.P.S"],
    "no_commas": [",", "a"],
    "quoted": ['"', " ", "x", '"x"'],
    "title": ["<<x>>", "<", ">", "x", " ", "\n"],
}
OPTIONS: dict[str, list[Any]] = {
    "starts_with": ["ab", "a", "aab"],
    "ends_with": ["ab", "aba", "a"],
    "bullets": [0, 1, 2, 5],
    "paragraphs": [1, 2, 3],
    "placeholders": [0, 1, 3],
    "highlights": [1, 2, 4],
    "letter_case": [1, 2],
    "postscript": [1, 2],
    "no_commas": [True],
    "quoted": [True],
    "title": [True],
}
# One byte each, and what the check cannot tell from "x" or "b" left out.
LETTERS = {
    "starts_with": 'ab" ',
    "ends_with": 'ab" ',
    "bullets": "*-\nx",
    "paragraphs": "*x ",
    "placeholders": "[]\n",
    "letter_case": "aA1",
    "postscript": "ps. ",
    "no_commas": ",x",
    "quoted": '"x ',
    "title": "<>x ",
}


@pytest.mark.parametrize("name", OPTIONS)
@pytest.mark.parametrize("size_max", SIZES)
def test_format(name: str, size_max: int) -> None:
    rng = random.Random(f"{name} {size_max}")
    n_tight = 0
    for _ in range(30):
        capsule = _core.format(**{name: rng.choice(OPTIONS[name])})
        for state in beginnings(rng, capsule, size_max, [*PARTS[name] * 4, *ALPHABET]):
            n_max = rng.randint(1, 5)
            continuations = list(some_continuations(rng, PARTS[name], size_max))
            n_tight += check_holds(rng, state, n_max, continuations)
    assert n_tight > 50


@pytest.mark.parametrize("is_all", [False, True])
@pytest.mark.parametrize("size_max", SIZES)
def test_format_of_many_checks(is_all: bool, size_max: int) -> None:
    rng = random.Random(f"{is_all} {size_max}")
    n_tight = 0
    for _ in range(60):
        names = rng.sample(list(OPTIONS), k=rng.randint(1, 3 if is_all else 11))
        capsule = _core.format(
            **{name: rng.choice(OPTIONS[name]) for name in names}, is_all=is_all
        )
        parts = [part for name in names for part in PARTS[name]]
        for state in beginnings(rng, capsule, size_max, [*parts, *ALPHABET]):
            continuations = list(some_continuations(rng, parts, size_max))
            n_tight += check_holds(rng, state, rng.randint(1, 5), continuations)
    assert n_tight > 200


@pytest.mark.parametrize("name", LETTERS)
def test_format_reaches_all_that_it_says(name: str) -> None:
    rng = random.Random(f"exact {name}")
    highs = set()
    for _ in range(50):
        option = rng.choice(OPTIONS[name])
        capsule = _core.format(**{name: option})
        state = _core.RewardState(capsule, "p", token_size_max=1)
        letters = LETTERS[name]
        before = "".join(rng.choices(letters, k=rng.randrange(8)))
        state.advance(before.encode(), 1)
        for n, scores in enumerate(reached(state, letters, 5)):
            low, high = state.bounds(n)
            assert high == max(scores), (option, before, n)
            assert low <= min(scores), (option, before, n)
            assert low == min(scores) or n, (option, before, n)
            highs.add(high)
    assert highs == {0.0, 1.0}


def test_format_settles() -> None:
    """What cannot change any more is known at once."""
    for options, text, expected in [
        ({"no_commas": True}, "a, b", (0.0, 0.0)),
        ({"starts_with": "dear"}, ' "Dear Sir', (1.0, 1.0)),
        ({"starts_with": "dear"}, "Sir", (0.0, 0.0)),
        ({"ends_with": "bye"}, "Hello", (0.0, 1.0)),
        ({"letter_case": 1}, "aB", (0.0, 0.0)),
        ({"quoted": True}, "a", (0.0, 0.0)),
        ({"title": True}, "<<a>>", (1.0, 1.0)),
        ({"placeholders": 1}, "[a]", (1.0, 1.0)),
        ({"bullets": 1}, "-\n-", (0.0, 0.0)),
        ({"paragraphs": 2}, "a***b***c", (0.0, 0.0)),
        ({"paragraphs": 9}, "a*** ***", (0.0, 0.0)),
        ({"postscript": 1}, "P.S. Hi", (1.0, 1.0)),
        ({"highlights": 1}, "*a*", (1.0, 1.0)),
    ]:
        state = _core.RewardState(_core.format(**options), "p", token_size_max=4)
        state.advance(text.encode(), 1)
        assert state.bounds(3) == expected, text
