"""Runs the C search over a table LM: tests/c/search_table.c, from Python."""

from __future__ import annotations

import itertools
import json
import math
import os
import shutil
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from deal_twin import Problem, Rollouts, Tokens
from reward_twins import keywords_twin, length_score

ROOT = Path(__file__).resolve().parent.parent
MODES = {"greedy": 0, "beam": 1, "naive": 2, "exact": 3, "segment": 4}
N_EMBD = 3  # features of a hidden state
N_LAYER = 3
ACTIVATIONS = ("tanh", "relu", "gelu")
ROOT_HALF = 0.70710678118654752440

# --- rewards that both sides have ----------------------------------------------------


def hash_bytes(value: int, data: bytes) -> int:
    """FNV-1a, 32 bits."""
    for byte in data:
        value = (value ^ byte) * 16777619 & 0xFFFFFFFF
    return value


def word(number: int) -> bytes:
    return number.to_bytes(4, "little")


@dataclass(frozen=True)
class Toy:
    """A hash as a multiple of 1/8 in [-1, 1]; the plain twin of tests/c/toy_reward.c.

    One on texts is told how many tokens there are, an incremental one which. An impure
    one also hashes how often it was asked before. `low` and `high` are the range that
    it promises.
    """

    form: str
    salt: int
    is_impure: bool = False
    low: float = -1.0
    high: float = 1.0
    n_asked: list[int] = field(default_factory=lambda: [0], compare=False, repr=False)

    def __call__(
        self, prompt: str, text: str, tokens: Tokens, is_finished: bool
    ) -> float:
        basis = 2166136261
        value = hash_bytes(basis ^ self.salt, (prompt + text).encode())
        if self.form == "texts":
            other = len(tokens)
        else:
            other = hash_bytes(basis, b"".join(map(word, tokens)))
        if self.is_impure:
            value = hash_bytes(value, word(self.n_asked[0]))
            self.n_asked[0] += 1
        value = hash_bytes(value, word(other) + word(is_finished))
        return (value >> 13) % 17 / 8 - 1

    def words(self) -> list[str]:
        numbers = (self.salt, int(self.is_impure), self.low, self.high)
        return [self.form, *map(str, numbers)]


@dataclass(frozen=True)
class Length:
    unit: str
    min: int
    max: int  # -1: no upper limit

    UNITS = ("tokens", "characters", "words", "sentences")

    def __call__(
        self, prompt: str, text: str, tokens: Tokens, is_finished: bool
    ) -> float:
        high = self.max if self.max >= 0 else math.inf
        return length_score(self.unit, self.min, high, len(tokens), text)

    def words(self) -> list[str]:
        numbers = (self.UNITS.index(self.unit), self.min, self.max)
        return ["length", *map(str, numbers)]


@dataclass(frozen=True)
class Keywords:
    concepts: tuple[tuple[str, ...], ...]

    def __call__(
        self, prompt: str, text: str, tokens: Tokens, is_finished: bool
    ) -> float:
        return keywords_twin(self.concepts, text)

    def words(self) -> list[str]:
        forms = [
            (str(i), as_hex(form.encode()))
            for i, concept in enumerate(self.concepts)
            for form in concept
        ]
        return ["keywords", str(len(forms)), *itertools.chain(*forms)]


@dataclass(frozen=True)
class Marks:
    """How often a byte is in the text; C bounds it by what `n_token` each can bring."""

    mark: bytes
    n_max: int
    n_token: int

    def __call__(
        self, prompt: str, text: str, tokens: Tokens, is_finished: bool
    ) -> float:
        return min(text.encode().count(self.mark), self.n_max) / self.n_max

    def words(self) -> list[str]:
        return ["marks", as_hex(self.mark), str(self.n_max), str(self.n_token)]


def states_of(context: Tokens, layers: Sequence[int]) -> list[float]:
    """The table LM's hidden states after a context, one layer after the other."""
    path = hash_bytes(2166136261, b"".join(map(word, reversed(context))))
    hashes = (
        hash_bytes(path, word(layer & 0xFFFFFFFF) + word(i))
        for layer in layers
        for i in range(N_EMBD)
    )
    return [(value >> 13) % 9 / 4 - 1 for value in hashes]


@dataclass(frozen=True)
class States:
    """A hash of the text and of all hidden states, as a multiple of 1/8 in [-1, 1]."""

    salt: int
    layers: tuple[int, ...]
    context: Tokens  # the prompt's tokens

    def __call__(
        self, prompt: str, text: str, tokens: Tokens, is_finished: bool
    ) -> float:
        basis = 2166136261
        value = hash_bytes(basis ^ self.salt, (prompt + text).encode())
        for n in range(len(tokens) + 1):
            for number in states_of(self.context + tokens[:n], self.layers):
                basis = hash_bytes(basis, word(int(4 * number) & 0xFFFFFFFF))
        value = hash_bytes(value, word(basis) + word(is_finished))
        return (value >> 13) % 17 / 8 - 1

    def words(self) -> list[str]:
        return ["states", str(self.salt), *counted(self.layers)]


@dataclass(frozen=True)
class Head:
    """The sigmoid of a linear map of the pooled hidden states, or of a hidden layer of
    them; sums are in the order of csrc/reward/layer.c, to the last bit."""

    pooling: str
    bias: float
    layers: tuple[int, ...]
    weight: tuple[float, ...]
    context: Tokens  # the prompt's tokens
    activation: str = "tanh"
    hidden: tuple[tuple[float, ...], ...] = ()  # of each unit: bias, and a weight each

    def __call__(
        self, prompt: str, text: str, tokens: Tokens, is_finished: bool
    ) -> float:
        paths = [self.context + tokens[:n] for n in range(1, len(tokens) + 1)]
        paths = paths or [self.context]
        if self.pooling == "last":
            paths = paths[-1:]
        rows = [states_of(path, self.layers) for path in paths]
        if self.hidden:
            decision = self.bias
            x = [1 / len(rows) * sum(column) for column in zip(*rows, strict=True)]
            for weight, unit in zip(self.weight, self.hidden, strict=True):
                decision += weight * activate(self.activation, layer_sum(unit, x))
        else:
            dots = [
                sum(w * x for w, x in zip(self.weight, states, strict=True))
                for states in rows
            ]
            decision = sum(dots) / len(dots) + self.bias
        return 1 / (1 + math.exp(-decision))

    def words(self) -> list[str]:
        how = ["head", str(int(self.pooling == "mean")), str(self.bias)]
        how += counted(self.layers)
        how += [str(len(self.hidden)), str(ACTIVATIONS.index(self.activation))]
        return [*how, *map(str, self.weight), *map(str, itertools.chain(*self.hidden))]


def layer_sum(unit: Sequence[float], x: Sequence[float]) -> float:
    z, weight = unit[0], unit[1:]
    n_four = len(x) // 4 * 4
    for i in range(0, n_four, 4):
        a, b, c, d = (x[i + j] * weight[i + j] for j in range(4))
        z += (a + b) + (c + d)
    for i in range(n_four, len(x)):
        z += x[i] * weight[i]
    return z


def activate(name: str, z: float) -> float:
    if name == "relu":
        return max(z, 0.0)
    return math.tanh(z) if name == "tanh" else z * 0.5 * math.erfc(-z * ROOT_HALF)


# --- the program ---------------------------------------------------------------------


def as_hex(data: bytes) -> str:
    return "x" + data.hex()


def counted(items: Sequence[Any]) -> list[str]:
    return [str(len(items)), *map(str, items)]


def table_words(lm: Problem | Rollouts) -> list[Any]:
    words: list[Any] = [lm.n_back]
    for context in itertools.product(range(lm.n_vocab + 1), repeat=lm.n_back):
        words += lm.table[context]
    return words


def case_words(problem: Problem, mode: str) -> list[str]:
    """One case in the form that search_table.c reads."""
    p = problem
    words = [p.n_vocab, p.n_ctx, *table_words(p)]
    words.append(p.byte_rule)
    for kind, piece in p.pieces:
        words += [kind, as_hex(piece)]
    words += [*counted(p.prompt), as_hex(p.prompt_text.encode())]
    words += counted(p.end_tokens)
    words += counted([as_hex(stop.encode()) for stop in p.stops])
    words.append(len(p.rewards))
    for weight, reward in p.rewards:
        words += [weight, *reward.words()]
    words += [MODES[mode], p.max_new_tokens, p.num_return_sequences]
    words += [p.num_beams, p.length_penalty, p.top_k, p.lookahead]
    words += [p.reward_weight, p.commit, p.tricks, p.skip_above]
    if mode == "segment":
        words += p.drawing.words()
    words.append(int(p.rollouts is not None))
    if p.rollouts:
        words += [p.rollouts.n_ctx, *table_words(p.rollouts)]
    words += [len(p.formula), *(word for term in p.formula for word in term)]
    words += counted(p.numbers)
    words += p.cost
    words += p.constraint.words() if p.constraint else [0]
    return [str(w) for w in words]


@dataclass(frozen=True)
class Program:
    path: Path

    def run(self, cases: Sequence[tuple[Problem, str]]) -> list[dict[str, Any]]:
        """What C makes of every case."""
        text = "\n".join(" ".join(case_words(*case)) for case in cases)
        run = subprocess.run(
            [self.path], input=text, capture_output=True, text=True, timeout=120
        )
        assert run.returncode == 0, run.stderr[-2000:]
        answers = [json.loads(line) for line in run.stdout.splitlines()]
        assert len(answers) == len(cases)
        return answers


def log_z_of(problem: Problem, answer: dict[str, Any]) -> dict[Tokens, float]:
    """log Z of every context, as the LM in C reports it."""
    contexts = itertools.product(range(problem.n_vocab + 1), repeat=problem.n_back)
    return dict(zip(contexts, answer["log_z"], strict=True))


def sources() -> list[Path]:
    found = [
        ROOT / f"tests/c/{n}.c"
        for n in ("search_table", "table_lm", "toy_reward", "toy_constraint")
    ]
    for folder in ("search", "reward", "tokenizer", "common"):
        found += sorted((ROOT / "csrc" / folder).glob("*.c"))
    return found


def build(folder: Path) -> Path:
    compiler = shutil.which(os.environ.get("CC", "cc"))
    if compiler is None:
        pytest.skip("no C compiler; `make test-c` builds build/c/search_table")
    path = folder / "search_table"
    flags = ["-std=c11", "-O1", f"-I{ROOT}/csrc", f"-I{ROOT}/tests/c"]
    command = [compiler, *flags, *map(str, sources()), "-o", str(path)]
    subprocess.run([*command, "-lm", "-pthread"], check=True)
    return path


def find_or_build(tmp_path_factory: pytest.TempPathFactory) -> Program:
    """The program that the Makefile has built, or one built here where that is old."""
    path = Path(os.environ.get("DEAL_SEARCH_TABLE", ROOT / "build/c/search_table"))
    headers = [*ROOT.glob("csrc/*/*.h"), *ROOT.glob("tests/c/*.h")]
    newest = max(p.stat().st_mtime for p in [*sources(), *headers])
    if not path.exists() or path.stat().st_mtime < newest:
        path = build(tmp_path_factory.mktemp("search_table"))
    return Program(path)
