"""A test of rewards: do they keep the contract that a search relies on?

Every reward is driven as a search drives it, over random streams of tokens: advanced,
forked, kept, taken up again. What it says is compared with what it said elsewhere.
"""

from __future__ import annotations

import itertools
import math
import random
import reprlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from deal import _core
from deal.rewards.base import Part, as_reward, check_texts
from deal.settings import check_int

KINDS = ("call", "score", "bounds", "widening", "pure", "fork", "split", "batch")
_EXTRA = "\n .,!?aA\u00e9\u5b57\U0001f408"  # characters that texts need not have
_CHARACTER_SIZE_MAX = 4
_N_TOKENS_MAX = 16  # of one stream: all pairs of its positions are looked at
_SPLIT_TOLERANCE = 1e-9  # relative and absolute, where sums may round differently
Tokens = list[bytes]
Range = tuple[float, float]


@dataclass(frozen=True)
class Violation:
    """A way in which a reward breaks its contract.

    Attributes
    ----------
    reward : str
        Its name; of a combination, that of the part.
    kind : str
        - "call": a function failed.
        - "score": no finite number, or outside of the reward's range.
        - "bounds": no range, or one that a later score is outside of.
        - "widening": bounds allow again what others had ruled out: those of the text's
          beginning, or those of the same text for more tokens.
        - "pure": the same text scored or was bounded differently when it was asked
          about again, though the reward says that it is pure.
        - "fork": a state changed when a copy of it was advanced, or the copy is none.
        - "split": the same bytes in as many tokens, cut elsewhere, score differently.
        - "batch": a text scores differently beside others.
    message : str
        The first case: text, tokens left, what was expected and what came.
    count : int
        Streams in which it was found.
    """

    reward: str
    kind: str
    message: str
    count: int = 1

    def __str__(self) -> str:
        return f"reward {self.reward!r}: {self.kind}: {self.message}"


def check(
    reward: Any,
    texts: Sequence[str],
    *,
    prompts: Sequence[str] = ("",),
    n_streams: int = 100,
    token_size_max: int = 16,
    seed: int = 0,
    reward_kwargs: Mapping[str, Any] | None = None,
) -> tuple[Violation, ...]:
    """Look for ways in which a reward breaks the contract of rewards.

    Each of `n_streams` streams is a text, pieces of two of them, or random characters,
    cut into random tokens of whole characters. All that a reward states on the way is
    held against all that it says later. Nothing found is no proof; a search with
    ``Search(check_rewards=True)`` looks at the texts that a model writes.

    Parameters
    ----------
    reward : Reward, callable or capsule
        Of a combination each part is checked.
    texts : sequence of str
        Completions that matter to the reward: with the words that it looks for, ends
        of sentences, and so on. At least one.
    prompts : sequence of str, default=("",)
        One is drawn for each stream.
    n_streams : int, default=100
    token_size_max : int, default=16
        Most bytes of a token, at least 4; what native rewards are told, too.
    seed : int, default=0
    reward_kwargs : mapping, optional
        Columns for Python rewards: the value of one prompt, as in a search.

    Returns
    -------
    tuple of Violation
        One for each part and kind; empty where nothing was found.

    Raises
    ------
    TypeError, ValueError
        For arguments that are none, and for a capsule that is refused.

    Notes
    -----
    Rewards that say they are not pure are only held to their range. Rewards over hidden
    states are told random ones. A token has some id; a scorer that looks ids up in a
    vocabulary cannot be checked this way.

    Examples
    --------
    >>> found = check(Keywords(["cat", "dog"]), ["A cat.", "cats and a dog"])
    >>> found
    ()
    """
    for name, rows in (("texts", texts), ("prompts", prompts)):
        if isinstance(rows, (str, bytes)) or not len(rows):
            raise ValueError(f"{name}: expected a list of at least one str")
        check_texts(name, rows)
    check_int("n_streams", n_streams, 1)
    check_int("token_size_max", token_size_max, _CHARACTER_SIZE_MAX, 2**31 - 1)
    check_int("seed", seed, 0)
    found: list[Violation] = []
    for part in as_reward(reward).leaves():
        checker = _Checker(part, dict(reward_kwargs or {}), token_size_max)
        rng = random.Random(seed)
        for _ in range(n_streams):
            checker.run(
                rng, _stream(rng, list(texts), token_size_max), rng.choice(prompts)
            )
        checker.batch(list(texts), prompts[0])
        found += checker.found.values()
    return tuple(found)


# --- streams -------------------------------------------------------------------------


def _stream(rng: random.Random, texts: list[str], size_max: int) -> Tokens:
    """Tokens of whole characters, of at most `size_max` bytes."""
    kind = rng.random()
    text = _piece(rng, rng.choice(texts))
    if kind < 0.4:
        text += _piece(rng, rng.choice(texts))
    elif kind < 0.6:
        text = "".join(rng.choices("".join(texts) + _EXTRA, k=rng.randint(1, 40)))
    return _cut(rng, text, size_max)[:_N_TOKENS_MAX]


def _piece(rng: random.Random, text: str) -> str:
    start = 0 if rng.random() < 0.5 else rng.randrange(len(text) + 1)
    return text[start:]


def _cut(rng: random.Random, text: str, size_max: int) -> Tokens:
    size_max = rng.choice([size_max, rng.randint(_CHARACTER_SIZE_MAX, size_max)])
    tokens: Tokens = [b""] * (rng.random() < 0.2)
    token = b""
    for character in text:
        data = character.encode("utf-8", "replace")
        if len(token) + len(data) > size_max or (token and rng.random() < 0.2):
            tokens.append(token)
            token = b""
            tokens += [b""] * (rng.random() < 0.05)  # half a character, a special one
        token += data
    return [*tokens, token]


def _recut(rng: random.Random, tokens: Tokens, size_max: int) -> Tokens:
    """The same bytes in as many tokens: characters move across their borders."""
    moved = list(tokens)
    for i in rng.sample(range(len(tokens)), len(tokens)):
        for j in (i - 1, i + 1):
            text = moved[i].decode()
            if not text or not 0 <= j < len(moved):
                continue
            data = (text[0] if j < i else text[-1]).encode()
            if len(moved[j]) + len(data) > size_max or rng.random() < 0.3:
                continue
            kept = text[1:] if j < i else text[:-1]
            moved[i] = kept.encode()
            moved[j] = moved[j] + data if j < i else data + moved[j]
    return moved


# --- one reward ----------------------------------------------------------------------


class _Broken(Exception):
    """A stream that cannot go on; what was found is told."""


@dataclass(frozen=True)
class _Said:
    """What a reward says of one state."""

    scores: tuple[float, float]  # not finished, finished
    bounds: tuple[Range, ...]  # by tokens left, from 0


class _Checker:
    """Drives one reward, and keeps the first violation of each kind."""

    def __init__(self, part: Part, kwargs: Mapping[str, Any], size_max: int) -> None:
        self.name, self.reward, self.kwargs = part.name, part.reward, kwargs
        self.size_max = size_max
        self.capsule = part.reward._capsule(kwargs)
        info = _core.reward_info(self.capsule)
        self.range, self.is_incremental = info[1:3], info[3]
        self.is_pure, self.n_hidden = info[4:6]
        self.found: dict[str, Violation] = {}
        self._kinds: set[str] = set()  # found in this stream

    def run(self, rng: random.Random, tokens: Tokens, prompt: str) -> None:
        """All checks on one stream."""
        self._kinds.clear()
        self._states = np.random.default_rng(rng.getrandbits(32)).standard_normal(
            (len(tokens) + 1, self.n_hidden), np.float32
        )
        try:
            kept = self._follow(self._start(prompt), tokens)
            said = [self._ask(s, tokens, i) for i, s in enumerate(kept)]
            self._check_bounds(tokens, said)
            if self.is_pure:
                self._check_again(rng, tokens, prompt, kept, said)
        except _Broken:
            pass

    def batch(self, texts: list[str], prompt: str) -> None:
        """Whether a text's score hangs on the others that are asked about with it."""
        self._kinds.clear()
        if self.is_incremental or not self.is_pure or "score" in self.found:
            return
        columns = {name: [value] for name, value in self.kwargs.items()}
        many = {name: column * len(texts) for name, column in columns.items()}
        try:
            together = self.reward._score(texts, [prompt] * len(texts), many)
            alone = [self.reward._score([t], [prompt], columns)[0] for t in texts]
        except Exception as error:
            self._tell("score", f"{_shown(texts)}: {error!r}")
            return
        for text, a, b in zip(texts, alone, together, strict=True):
            if a != b:
                self._tell("batch", f"{_shown(text)}: {a!r} alone, {b!r} beside others")

    def _tell(self, kind: str, message: str) -> None:
        if kind in self._kinds:
            return
        self._kinds.add(kind)
        old = self.found.get(kind)
        self.found[kind] = (
            replace(old, count=old.count + 1)
            if old
            else Violation(self.name, kind, message)
        )

    # What is asked of a state, each failure told.

    def _call(self, kind: str, what: str, tokens: Tokens, fn: Any, *args: Any) -> Any:
        try:
            return fn(*args)
        except Exception as error:
            self._tell(kind, f"{what} after {_shown(tokens)}: {error!r}")
            raise _Broken from None

    def _start(self, prompt: str) -> Any:
        def make() -> Any:
            return _core.RewardState(
                self.capsule,
                prompt,
                n_new_max=2 * _N_TOKENS_MAX,
                token_size_max=self.size_max,
            )

        state = self._call("call", "init", [], make)
        self._observe(state, [], 0)
        return state

    def _observe(self, state: Any, tokens: Tokens, i: int) -> None:
        if self.n_hidden:
            row = self._states[i]
            self._call("call", "observe", tokens, state.observe, row.tobytes())

    def _advance(self, state: Any, tokens: Tokens, i: int) -> None:
        """State of tokens[:i] to that of tokens[:i + 1]."""
        seen = tokens[: i + 1]
        self._call("call", "advance", seen, state.advance, tokens[i], i)
        self._observe(state, seen, i + 1)

    def _fork(self, state: Any, tokens: Tokens) -> Any:
        return self._call("call", "fork", tokens, state.fork)

    def _follow(self, state: Any, tokens: Tokens) -> list[Any]:
        """States after none, one, two, ... of the tokens, each kept."""
        states = [state]
        for i in range(len(tokens)):
            state = self._fork(state, tokens[:i])
            self._advance(state, tokens, i)
            states.append(state)
        return states

    def _ask(self, state: Any, tokens: Tokens, i: int) -> _Said:
        seen = tokens[:i]
        n_bounds = len(tokens) - i + 2 if self.is_pure else 0
        return _Said(
            (
                self._call("score", "score", seen, state.score, False),
                self._call("score", "score, finished,", seen, state.score, True),
            ),
            tuple(
                self._call("bounds", f"bounds for {n} tokens", seen, state.bounds, n)
                for n in range(n_bounds)
            ),
        )

    # What is compared.

    def _check_bounds(self, tokens: Tokens, said: list[_Said]) -> None:
        for i, one in enumerate(said):
            for n, (low, high) in enumerate(one.bounds):
                where = f"({low!r}, {high!r}) for {n} tokens after {_shown(tokens[:i])}"
                if not low <= high:
                    self._tell("bounds", f"{where}: expected low <= high")
                    raise _Broken
                if high < self.range[0] or low > self.range[1]:
                    self._tell("bounds", f"{where}: outside of the range {self.range}")
                    raise _Broken
                for j in range(i, min(i + n, len(tokens)) + 1):
                    for score in said[j].scores:
                        if not low <= score <= high:
                            self._tell(
                                "bounds",
                                f"{where}: then {_shown(tokens[:j])} scores {score!r}",
                            )
        for i, one in enumerate(said):
            more = [*itertools.pairwise(one.bounds)]
            later = said[i + 1].bounds if i < len(tokens) else one.bounds[1:]
            then = [*zip(later, one.bounds[1:], strict=True)]
            for kind, pairs in (("fewer tokens", more), ("a longer text", then)):
                for n, (inner, outer) in enumerate(pairs):
                    if not self._is_within(inner, outer):
                        self._tell(
                            "widening",
                            f"{outer!r} for {n + 1} tokens after {_shown(tokens[:i])}, "
                            f"{inner!r} for {n} after {kind}",
                        )

    def _is_within(self, inner: Range, outer: Range) -> bool:
        low, high = self.range
        (a, b), (c, d) = (
            (max(low, each[0]), min(high, each[1])) for each in (inner, outer)
        )
        return c <= a and b <= d

    def _check_again(
        self,
        rng: random.Random,
        tokens: Tokens,
        prompt: str,
        kept: list[Any],
        said: list[_Said],
    ) -> None:
        last, n = kept[-1], len(tokens)
        if self._differs("pure", last, said[-1], tokens, n, "asked again"):
            return
        for i, state in enumerate(kept):  # others were advanced since
            if self._differs(
                "fork", state, said[i], tokens, i, "its copy was advanced"
            ):
                return
        i = rng.randrange(n)
        copy, again = self._fork(kept[i], tokens[:i]), self._fork(kept[i], tokens[:i])
        self._advance(kept[i], tokens, i)
        what = "it was copied and the original advanced"
        self._differs("fork", copy, said[i], tokens, i, what)
        kept.clear()
        del last, copy  # what they own is gone
        for j in range(i, n):
            self._advance(again, tokens, j)
        self._differs("fork", again, said[-1], tokens, n, "a kept state was taken up")
        fresh = self._start(prompt)
        for j in range(n):
            self._advance(fresh, tokens, j)
        self._differs("pure", fresh, said[-1], tokens, n, "a new state came there")
        if not self.n_hidden:
            self._check_split(rng, tokens, prompt, said[-1])

    def _differs(
        self, kind: str, state: Any, said: _Said, tokens: Tokens, i: int, why: str
    ) -> bool:
        now = self._ask(state, tokens, i)
        if repr(now) == repr(said):
            return False
        what, old, new = next(
            (what, a, b)
            for what, a, b in (
                ("scores", said.scores, now.scores),
                ("bounds", said.bounds, now.bounds),
            )
            if repr(a) != repr(b)
        )
        self._tell(
            kind,
            f"{what} of {_shown(tokens[:i])}: {reprlib.repr(old)} at first, "
            f"{reprlib.repr(new)} after {why}",
        )
        return True

    def _check_split(
        self, rng: random.Random, tokens: Tokens, prompt: str, said: _Said
    ) -> None:
        moved = _recut(rng, tokens, self.size_max)
        state = self._start(prompt)
        for i in range(len(moved)):
            self._advance(state, moved, i)
        scores = self._ask(state, moved, len(moved)).scores
        if not all(
            math.isclose(a, b, rel_tol=_SPLIT_TOLERANCE, abs_tol=_SPLIT_TOLERANCE)
            for a, b in zip(scores, said.scores, strict=True)
        ):
            self._tell(
                "split",
                f"{_shown(tokens)} scores {said.scores!r}, {_shown(moved)} {scores!r}",
            )


def _shown(tokens: Iterable[Any]) -> str:
    """A text, or tokens with bars between them; the end of what is long."""
    rows = [t.decode() if isinstance(t, bytes) else t for t in tokens]
    text = rows[0] if len(rows) == 1 else "|".join(rows)
    text = tokens if isinstance(tokens, str) else text
    return repr(text if len(text) <= 60 else "..." + text[-60:])
