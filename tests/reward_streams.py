"""A reward fed token by token, against a plain twin that sees them all."""

from __future__ import annotations

import itertools
import random
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from deal import _core

ALPHABET = ["a", "b", "A", "c", " ", " ", ".", "!", "_", "\u00e9", "\u00c9", "\u5b57"]
ALPHABET += ["\u3002", "\uff01", "\u023a", "\u212a", "\u0301", "\n", "\U0001f408"]
BROKEN = [b"\xff", b"\xc3", b"\xa9", b"\xe5\xad", b"\xf0\x9f\x90", b"\xed\xa0\x80"]
Tokens = list[bytes]


def random_token(
    rng: random.Random, size_max: int, alphabet: Sequence[str] = ALPHABET
) -> bytes:
    token = b""
    for _ in range(rng.choice([0, 1, 1, 2, 3, 6])):
        part = rng.choice(alphabet).encode()
        if rng.random() < 0.05:
            part = rng.choice(BROKEN)
        if len(token) + len(part) <= size_max:
            token += part
    return token


def cut(rng: random.Random, data: bytes, size_max: int) -> Tokens:
    """Tokens of the most bytes that they may have, or anywhere, within a character."""
    tokens = []
    while data:
        size = size_max if rng.random() < 0.7 else rng.randint(1, size_max)
        if rng.random() < 0.8:  # whole characters, as a tokenizer gives them
            while 0 < size < len(data) and data[size] & 0xC0 == 0x80:
                size -= 1
        size = size or size_max
        tokens.append(data[:size])
        data = data[size:]
    return tokens


def check_holds(
    rng: random.Random, state: Any, n_max: int, continuations: Sequence[Tokens]
) -> int:
    """Each beginning of each continuation; how many reached the upper end."""
    bounds = [state.bounds(n) for n in range(n_max + 1)]
    for (low, high), (lower, higher) in itertools.pairwise(bounds):
        assert lower <= low <= high <= higher  # more tokens can do more
    assert bounds[0] == (state.score(), state.score(True))
    n_tight = 0
    for tokens in continuations:
        now, reached = state, [state.score()]
        for i, token in enumerate(tokens[:n_max]):
            now = now.fork()
            # What is pending at the end comes without a token's id.
            now.advance(token, -1 if rng.random() < 0.1 else 7)
            reached.append(now.score())
            for n_left in range(n_max - i):  # nothing that was ruled out comes back
                low, high = now.bounds(n_left)
                before = bounds[n_left + i + 1]
                assert before[0] <= low and high <= before[1], (tokens[: i + 1], n_left)
        for n, (low, high) in enumerate(bounds):
            assert low <= min(reached[: n + 1]), (tokens, n)
            assert max(reached[: n + 1]) <= high, (tokens, n)
        n_tight += bounds[n_max][1] == max(reached)
    return n_tight


def beginnings(
    rng: random.Random,
    capsule: Any,
    size_max: int,
    alphabet: Sequence[str] = ALPHABET,
) -> Iterator[Any]:
    """States after none, one, two, ... random tokens."""
    state = _core.RewardState(capsule, "p", n_new_max=99, token_size_max=size_max)
    yield state
    for _ in range(rng.randrange(8)):
        state = state.fork()
        state.advance(random_token(rng, size_max, alphabet), rng.randrange(9))
        yield state


def random_tokens(rng: random.Random, alphabet: Sequence[str]) -> list[str]:
    return [
        "".join(rng.choices(alphabet, k=rng.randrange(4)))
        for _ in range(rng.randrange(1, 12))
    ]


def random_bytes(rng: random.Random, alphabet: Sequence[str]) -> list[bytes]:
    """Tokens that cut characters, with bytes among them that are no text."""
    parts = [part.encode() for part in rng.choices(alphabet, k=rng.randrange(1, 24))]
    for _ in range(rng.choice([0, 0, 1, 3])):
        parts.insert(rng.randrange(len(parts)), rng.choice(BROKEN))
    data, tokens = b"".join(parts), []
    while data:
        size = rng.randint(0, 5)
        tokens.append(data[:size])
        data = data[size:]
    return tokens


def texts_of(tokens: Sequence[bytes]) -> list[str]:
    """As scorers read them: a byte that begins no whole character in its token is one
    character of no class."""
    return [token.decode("utf-8", "surrogateescape") for token in tokens]


def check_stream(
    capsule: Any,
    tokens: Sequence[str] | Sequence[bytes],
    twin: Callable[[Sequence[str]], float],
) -> None:
    """Scores after every token equal the twin's, forked or not; bounds hold all."""
    data = [t if isinstance(t, bytes) else t.encode() for t in tokens]
    tokens = texts_of(data)
    token_size_max = max(map(len, data))
    state = _core.RewardState(
        capsule, "a prompt", n_new_max=len(tokens), token_size_max=token_size_max
    )
    scores = [twin(tokens[:i]) for i in range(len(tokens) + 1)]
    bounds = []
    for i, score in enumerate(scores):
        assert state.score() == state.score(True) == score, tokens[:i]
        bounds.append([state.bounds(n) for n in range(len(scores) - i)])
        if i < len(tokens):
            kept, state = state, state.fork()
            state.advance(data[i], i)
            assert kept.score() == score
    for i, row in enumerate(bounds):
        assert row[0] == (scores[i], scores[i])
        for n_left, (low, high) in enumerate(row):
            reached = scores[i : i + n_left + 1]
            assert low <= min(reached) and max(reached) <= high, (tokens, i, n_left)
