"""A hard constraint in plain Python: a finite automaton over tokens.

The same as the table of tests/c/toy_constraint.c, and what csrc/search/masks.c makes of
it: end tokens may come where the text is accepted, and where nothing else may.
"""

from __future__ import annotations

import itertools
import random
from collections.abc import Sequence
from dataclasses import dataclass

FORBIDDEN = -1


@dataclass(frozen=True)
class Automaton:
    next: tuple[tuple[int, ...], ...]  # (n_state, n_vocab) the state after a token
    accepts: tuple[bool, ...]  # (n_state,)
    favourite: tuple[int, ...]  # (n_state,) what C is told as a guess; -1: none

    def state(self, tokens: Sequence[int], ends: Sequence[int]) -> int:
        """After these tokens, or FORBIDDEN."""
        state = 0
        for token in tokens:
            if state == FORBIDDEN or token in ends:
                return FORBIDDEN
            state = self.next[state][token]
        return state

    def allowed(self, tokens: Sequence[int], ends: Sequence[int]) -> list[int]:
        """What may follow these tokens, by rising id; never empty."""
        state = self.state(tokens, ends)
        if state == FORBIDDEN:
            return sorted(ends)
        row = enumerate(self.next[state])
        words = [t for t, after in row if after != FORBIDDEN and t not in ends]
        if self.accepts[state]:
            words += ends
        return sorted(words or ends)

    def is_match(self, tokens: Sequence[int], ends: Sequence[int]) -> bool:
        state = self.state(tokens, ends)
        return state != FORBIDDEN and self.accepts[state]

    def words(self) -> list[int]:
        rows = zip(self.accepts, self.favourite, self.next, strict=True)
        parts = [[int(accepts), favourite, *row] for accepts, favourite, row in rows]
        return [len(parts), *itertools.chain(*parts)]


def random_automaton(rng: random.Random, n_vocab: int) -> Automaton:
    """Dense, sparse or nearly a chain: with dead ends, and with forced tokens."""
    n_state = rng.randint(1, 9)
    density = rng.choice([0.1, 0.3, 0.3, 0.6, 0.9])
    table = []
    for state in range(n_state):
        row = [
            rng.randrange(n_state) if rng.random() < density else FORBIDDEN
            for _ in range(n_vocab)
        ]
        if rng.random() < 0.8:  # most states lead on
            row[rng.randrange(n_vocab)] = (state + 1) % n_state
        table.append(tuple(row))
    return Automaton(
        next=tuple(table),
        accepts=tuple(rng.random() < 0.3 for _ in range(n_state)),
        favourite=tuple(rng.choice([-1, rng.randrange(n_vocab)]) for _ in table),
    )
