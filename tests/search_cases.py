"""Random problems for the search over a table LM."""

from __future__ import annotations

import dataclasses
import itertools
import math
import random
from collections.abc import Callable
from typing import Any

from deal_twin import Problem, Tokens
from formula_twin import Term
from search_table import ACTIVATIONS, N_EMBD, Head, Keywords, Length, Marks, States, Toy
from text_twin import BYTE, CHAR, LITERAL, RUN, SPECIAL, STREAM, TEXT

CAT = "\u732b".encode()
PIECES = [
    b"a",
    b" b",
    b"A cat",
    b" ",
    b".",
    "\u00e9".encode(),
    "\u00e9".encode()[:1],
    "\u00e9".encode()[1:],
    CAT[:2],
    CAT[2:],
    CAT[:1],
    b"",
    b"ab",
    b"a" + CAT[:1],
    b"dog",
    b"\xff",
]
BYTES = [b"a", b" ", *(bytes([byte]) for byte in "\u00e9\u732b".encode()), b"\xff"]
STOPS = [
    "t",
    "A c",
    "ab",
    "aa",
    "a b",
    "\u00e9",
    "\ufffd",
    " ",
    "cat",
    "b.",
    "\u732ba",
    "A",
    "zz",
]
Case = tuple[Problem, str]


# --- random cases --------------------------------------------------------------------


def random_pieces(rng: random.Random, n: int) -> tuple[int, list[tuple[int, bytes]]]:
    rule = rng.choice([STREAM, STREAM, RUN, CHAR])
    pieces = []
    for _ in range(n):
        u = rng.random()
        if u < 0.1:
            pieces.append((SPECIAL, b"<s>"))
        elif u < 0.5 and rule != STREAM:
            pieces.append((BYTE, rng.choice(BYTES)))
        else:
            kind = rng.choice([TEXT, TEXT, LITERAL])
            pieces.append((kind, rng.choice(PIECES)))
    return rule, pieces


def random_table(
    rng: random.Random, n_vocab: int, n_back: int, is_smooth: bool
) -> dict[Tokens, list[float]]:
    """Logits that are multiples of 1/2, few of them distinct, so that ties abound."""
    top = rng.choice([1, 2, 6])
    has_bans = rng.random() < 0.1

    def logit() -> float:
        if is_smooth:
            return rng.randrange(-4096, 4096) / 1024
        if has_bans and rng.random() < 0.15:
            return -math.inf
        return rng.randrange(-top, top + 1) / 2

    table = {}
    for context in itertools.product(range(n_vocab + 1), repeat=n_back):
        table[context] = [logit() for _ in range(n_vocab)]
        table[context][rng.randrange(n_vocab)] = float(top)
    return table


def random_stops(rng: random.Random, pieces: list[tuple[int, bytes]]) -> list[str]:
    """Some that need two tokens, and some that one token may bring together."""
    stops = []
    for _ in range(rng.choice([0, 0, 0, 1, 2, 3])):
        pair = b"".join(piece for _, piece in rng.sample(pieces, 2))
        stops.append(pair.decode(errors="ignore") if rng.random() < 0.5 else "")
    return [stop or rng.choice(STOPS) for stop in stops]


FORMS = ["cat", "a", "b", "dog", "ab", "a b", "A cat", "\u732b", "a.", "\u00e9"]


def random_keywords(rng: random.Random) -> Keywords:
    n_forms = [rng.choice([1, 1, 2]) for _ in range(rng.randint(1, 4))]
    return Keywords(tuple(tuple(rng.sample(FORMS, n)) for n in n_forms))


def random_layers(rng: random.Random) -> tuple[int, ...]:
    return tuple(rng.choice([[-1], [-1], [0], [2, -1], [-1, 0, 1, 2], [1, 1]]))


def random_head(rng: random.Random, prompt: Tokens) -> Head:
    """With a hidden layer or without."""
    layers = random_layers(rng)
    n_in = N_EMBD * len(layers)
    n_hidden = rng.choice([0, 0, 1, 3])

    def numbers(n: int) -> tuple[float, ...]:
        return tuple(rng.randrange(-8, 9) / 4 for _ in range(n))

    return Head(
        rng.choice(["last", "mean"]),
        rng.randrange(-4, 5) / 4,
        layers,
        numbers(n_hidden or n_in),
        prompt,
        rng.choice(ACTIVATIONS),
        tuple(numbers(n_in + 1) for _ in range(n_hidden)),
    )


def random_toy(rng: random.Random, form: str) -> Toy:
    """One with any range that holds its scores: most lack one end, or both."""
    low, high = rng.choice([(-1.0, 1.0), (-1.0, math.inf), (-math.inf, 1.0)])
    if rng.random() < 0.25:
        low, high = rng.choice([(-1.0, 1.0), (-math.inf, math.inf)])
    return Toy(form, rng.randrange(1000), low=low, high=high)


def random_rewards(
    rng: random.Random,
    pieces: list[tuple[int, bytes]],
    prompt: Tokens,
    has_states: bool = True,
) -> tuple[tuple[float, Any], ...]:
    """Some of all kinds; those that read hidden states only with `has_states`."""
    mark = rng.choice([b"a", b"b", b" ", b"o"])
    makers: list[Callable[[], Any]] = [
        lambda: random_toy(rng, "texts"),
        lambda: random_toy(rng, "plain"),
        lambda: random_toy(rng, "owning"),
        lambda: random_keywords(rng),
        lambda: Length(
            rng.choice(Length.UNITS),
            low := rng.randrange(4),
            rng.choice([-1, low, low + 1]),
        ),
        lambda: Marks(
            mark, rng.randint(1, 6), max(piece.count(mark) for _, piece in pieces)
        ),
    ]
    if has_states:
        makers += [
            lambda: random_head(rng, prompt),
            lambda: States(rng.randrange(1000), random_layers(rng), prompt),
        ]
    n = rng.choice([0, 1, 1, 1, 2, 3])
    return tuple(
        (rng.choice([1.0, 1.0, 0.5, -1.0, 2.0, 0.0, 0.3]), rng.choice(makers)())
        for _ in range(n)
    )


def random_formula(
    rng: random.Random, n_reward: int, depth: int
) -> tuple[list[Term], list[float]]:
    """A formula over some of the rewards, and the numbers of its schedules."""
    terms: list[Term] = []
    numbers: list[float] = []

    def grow(depth: int) -> None:
        if depth == 0 or rng.random() < 0.2:
            terms.append((0, rng.randrange(n_reward), 0, 0.0))
            return
        kind = rng.choice([1, 2, 3, 4, 4, 5, 5, 6, 7])
        grow(depth - 1)
        if kind == 7:
            terms.append((7, 0, 0, rng.choice([-0.5, 0.0, 0.25, 0.5, 1.0])))
        elif kind == 1:
            terms.append((1, 0, 0, rng.choice([-2.0, -0.5, 0.0, 0.3, 3.0])))
            terms.append((rng.choice([3, 4, 5, 6]), 0, 0, 0.0))
        elif kind == 2:
            weights = [
                rng.choice([-1.0, 0.0, 0.5, 2.0]) for _ in range(rng.randint(1, 5))
            ]
            terms.append((2, len(numbers), len(weights), 0.0))
            terms.append((4, 0, 0, 0.0))
            numbers.extend(weights)
        else:
            grow(depth - 1)
            terms.append((kind, 0, 0, 0.0))

    grow(depth)
    return terms, numbers


def combined(rng: random.Random, problem: Problem) -> Problem:
    """The same with a formula over its rewards, if it has any."""
    if not problem.rewards:
        return problem
    terms, numbers = random_formula(rng, len(problem.rewards), rng.randint(1, 4))
    return dataclasses.replace(problem, formula=tuple(terms), numbers=tuple(numbers))


def impure(rng: random.Random, problem: Problem) -> Problem:
    """The same with one of its rewards in place of which there is one that counts."""
    form = rng.choice(["texts", "texts", "plain", "owning"])
    rewards = list(problem.rewards) or [(1.0, None)]
    i = rng.randrange(len(rewards))
    rewards[i] = (rewards[i][0], Toy(form, rng.randrange(1000), is_impure=True))
    return dataclasses.replace(problem, rewards=tuple(rewards))


def random_case(
    seed: int, mode: str, n_vocab: int = 0, has_states: bool = True
) -> Case:
    rng = random.Random(f"{mode} {seed}")
    n_vocab = n_vocab or rng.randint(3, 12)
    n_back = rng.choice([1, 2]) if n_vocab <= 6 else 1
    rule, pieces = random_pieces(rng, n_vocab)
    prompt = tuple(rng.randrange(n_vocab) for _ in range(rng.randint(1, 4)))
    lookahead = rng.randint(0, 6)
    num_beams = rng.randint(1, 5)
    ends = rng.sample(range(n_vocab), rng.choice([0, 0, 1, 1, 2, 3]))
    problem = Problem(
        table=random_table(rng, n_vocab, n_back, is_smooth=rng.random() < 0.15),
        log_z={},
        n_back=n_back,
        n_ctx=len(prompt) + rng.choice([1, 2, 5, 50, 50, 50, 50, 50]),
        pieces=pieces,
        byte_rule=rule,
        prompt=prompt,
        prompt_text=rng.choice(["", "a prompt", "\u00e9"]),
        end_tokens=tuple(ends),
        stops=tuple(random_stops(rng, pieces)),
        rewards=random_rewards(rng, pieces, prompt, has_states),
        max_new_tokens=rng.choice([1, 2, 3, 6, 8, 12, 16]),
        num_return_sequences=rng.randint(1, num_beams),
        num_beams=num_beams,
        length_penalty=rng.choice([1.0, 1.0, 0.0, 0.5, 2.0, -1.0]),
        top_k=rng.randint(1, n_vocab),
        lookahead=lookahead,
        reward_weight=rng.choice([0.0, 0.5, 1.0, 1.0, 4.0, 20.0, -1.0, 0.7]),
        commit=rng.randint(1, min(4, lookahead + 1)),
    )
    if mode == "greedy":
        problem = dataclasses.replace(problem, num_beams=1, num_return_sequences=1)
    return problem, mode
