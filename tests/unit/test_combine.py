"""Formulas over rewards: against a twin, their bounds, what Python makes of them."""

from __future__ import annotations

import math
import random
from typing import Any

import pytest
import test_segment
from deal_twin import Problem
from formula_twin import formula_value
from generation import PROMPT, WORDS
from search_cases import combined, random_case, random_formula
from search_table import Program
from test_search_twin import (
    check_case,
    check_spares,
    checked_cases,
    checked_pairs,
    with_random_tricks,
)
from tiny_model import TinyConfig, make_tiny, write_gguf

import deal
from deal import _core
from deal.rewards import (
    Keywords,
    Length,
    at_least,
    clip,
    lexicographic,
    maximum,
    minimum,
    penalty,
    product,
    scheduled,
)


def cases_of(mode: str, n: int) -> list[tuple[Problem, str]]:
    found = []
    for i in range(n):
        rng = random.Random(f"formula {mode} {i}")
        case = (
            test_segment.segment_case(i)
            if mode == "segment"
            else random_case(40000 + i, mode)
        )
        found.append((combined(rng, case[0]), case[1]))
    return found


# --- the search ----------------------------------------------------------------------


@pytest.mark.parametrize(
    "mode, n", [("naive", 600), ("beam", 100), ("greedy", 100), ("segment", 200)]
)
def test_random_cases(search_table: Program, mode: str, n: int) -> None:
    cases = cases_of(mode, n)
    if mode == "segment":
        for problem, answer, expected in test_segment.run_both(search_table, cases):
            check_case(problem, answer, expected)
    else:
        checked_cases(search_table, cases)
    kinds = {term[0] for problem, _ in cases for term in problem.formula}
    assert kinds == set(range(8))


@pytest.mark.parametrize("part", range(2))
def test_exact_is_naive(search_table: Program, part: int) -> None:
    problems = [problem for problem, _ in cases_of("naive", 2400)[part::2]]
    pairs = checked_pairs(search_table, with_random_tricks(problems))
    check_spares(pairs, "n_forward_tokens")


# --- bounds --------------------------------------------------------------------------


def value_of(
    terms: list[Any], numbers: list[float], scores: list[float], position: int
) -> float:
    return formula_value(terms, numbers, scores, position)


def test_bounds_are_sound() -> None:
    """Over random formulas and ranges, some of them infinite or of one point."""
    n_tight = 0
    for i in range(3000):
        rng = random.Random(f"bounds of formula {i}")
        n = rng.randint(1, 3)
        terms, numbers = random_formula(rng, n, rng.randint(1, 5))
        formula = _core.Formula(tuple(terms), numbers, n)
        position = rng.randrange(8)
        lows = [rng.choice([-1.0, 0.0, 0.1, -math.inf, rng.random()]) for _ in range(n)]
        highs = [
            low + rng.choice([0.0, 1.0, rng.random(), math.inf])
            if low > -math.inf
            else rng.choice([0.0, 1.5, math.inf])
            for low in lows
        ]
        low, high = formula.range(lows, highs, position)
        assert low <= high
        for _ in range(20):
            scores = [
                rng.choice(
                    [max(a, -1e6), min(b, 1e6), rng.uniform(max(a, -9.0), min(b, 9.0))]
                )
                for a, b in zip(lows, highs, strict=True)
            ]
            scores = [
                min(max(s, a), b) for s, a, b in zip(scores, lows, highs, strict=True)
            ]
            value = formula.value(scores, position)
            assert value == value_of(terms, numbers, scores, position)
            assert low <= value <= high
            n_tight += value in (low, high)
        same = formula.range(scores, scores, position)
        assert same == (value, value)
    assert n_tight > 3000


# --- Python --------------------------------------------------------------------------

CAT, DOG = Keywords(["cat"]), Keywords(["dog"])
TEXTS = ["a cat", "a dog", "a cat and a dog", "a bird"]


def half(completions: list[str], **kwargs: Any) -> list[float]:
    return [0.5 * ("cat" in text) + 0.25 * ("dog" in text) for text in completions]


HALF = deal.reward(half, range=(0, 1))


@pytest.mark.parametrize(
    "reward, expected, ends",
    [
        (minimum(CAT, DOG), [0, 0, 1, 0], (0, 1)),
        (maximum(CAT, DOG), [1, 1, 1, 0], (0, 1)),
        (product(CAT, HALF), [0.5, 0, 0.75, 0], (0, 1)),
        (CAT * DOG, [0, 0, 1, 0], (0, 1)),
        (CAT - 0.5, [0.5, -0.5, 0.5, -0.5], (-0.5, 0.5)),
        (1 - CAT, [0, 1, 0, 1], (0, 1)),
        (2 + 3 * (CAT - 1), [2, -1, 2, -1], (-1, 2)),
        (clip(HALF, high=0.6), [0.5, 0.25, 0.6, 0], (0, 0.6)),
        (clip(HALF, 0.3), [0.5, 0.3, 0.75, 0.3], (0.3, 1)),
        (at_least(HALF, 0.5), [1, 0, 1, 0], (0, 1)),
        (penalty(HALF, 0.5, 2), [0, -0.5, 0, -1], (-1, 0)),
        (scheduled(CAT, [3, 2]), [2, 0, 2, 0], (0, 3)),
        (lexicographic((HALF, 0.5), DOG), [1, 0.5, 2, 0], (0, 2)),
        (
            lexicographic((CAT, 1), (DOG, 1), HALF),
            [1.0, 0.0, 2.75, 0.0],
            (0, 3),
        ),
        (CAT + 2 * minimum(CAT, DOG), [1, 0, 3, 0], (0, 3)),
    ],
    ids=lambda value: value.name if isinstance(value, deal.Reward) else None,
)
def test_scores(
    reward: deal.Reward, expected: list[float], ends: tuple[float, float]
) -> None:
    assert reward.score(TEXTS) == pytest.approx(expected, abs=1e-12)
    assert reward.range == pytest.approx(ends)


def test_lexicographic_order() -> None:
    """Whatever the last reward says, the first one counts first."""
    rng = random.Random(0)
    values: dict[str, tuple[float, float]] = {}

    def first(completions: list[str], **kwargs: Any) -> list[float]:
        return [values[text][0] for text in completions]

    def then(completions: list[str], **kwargs: Any) -> list[float]:
        return [values[text][1] for text in completions]

    for i in range(200):
        values[str(i)] = (rng.choice([-3.0, 0.0, 0.5, 0.7, 1.0]), rng.uniform(-50, 7))
    reward = lexicographic(
        (deal.reward(first, range=(-3, 1)), 0.7), deal.reward(then, range=(-50, 7))
    )
    texts = list(values)
    ranked = sorted(zip(reward.score(texts), texts, strict=True))
    keys = [
        (min(values[t][0], 0.7), values[t][1] if values[t][0] >= 0.7 else 0.0)
        for _, t in ranked
    ]
    assert keys == sorted(keys)


def test_unpure_parts_make_an_unpure_whole() -> None:
    counting = deal.reward(half, range=(0, 1), pure=False, name="counting")
    assert not minimum(CAT, counting).pure and minimum(CAT, HALF).pure


@pytest.mark.parametrize(
    "make, error, message",
    [
        (lambda: minimum(), ValueError, "minimum: expected at least one"),
        (lambda: minimum(CAT, 3), TypeError, "expected a deal.Reward"),
        (lambda: clip(CAT), ValueError, "clip: expected low, high"),
        (lambda: clip(CAT, 2, 1), ValueError, "low <= high, got 2 and 1"),
        (lambda: clip(CAT, math.nan), ValueError, "low: expected a finite"),
        (lambda: at_least(CAT, "1"), TypeError, "threshold: expected a number"),
        (lambda: penalty(CAT, 1, -1), ValueError, "weight: expected at least 0"),
        (lambda: scheduled(CAT, []), ValueError, "weights: expected at least one"),
        (lambda: scheduled(CAT, [math.inf]), ValueError, "weights: expected a fin"),
        (lambda: lexicographic(CAT), ValueError, "pairs and a last"),
        (lambda: lexicographic(CAT, DOG), TypeError, "expected .reward, threshold"),
        (lambda: lexicographic((CAT, 0.0), DOG), ValueError, "'keywords'.*above"),
        (lambda: lexicographic((half, 0.5), CAT), ValueError, "'half'.*finite range"),
        (lambda: CAT + "x", TypeError, "unsupported operand"),
        (lambda: CAT + math.nan, ValueError, "shift: expected a finite"),
    ],
)
def test_bad_combinations(make: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        make()


def test_a_formula_that_is_too_deep() -> None:
    rewards = [Keywords([f"w{i}"]) for i in range(70)]
    nested: deal.Reward = rewards[0]
    with pytest.raises(ValueError, match="at most 64 numbers that wait"):
        for reward in rewards[1:]:
            nested = minimum(reward, nested)
    assert minimum(*rewards).score(["w0"]) == [0.0]  # wide, not deep


@pytest.mark.parametrize(
    "terms, numbers, message",
    [
        ((), [], "end with one number, got 0"),
        (((0, 2, 0, 0.0),), [], "reward: expected 0 to 1, got 2"),
        (((0, 0, 0, 0.0), (3, 0, 0, 0.0)), [], "expected 2 numbers before it, got 1"),
        (((1, 0, 0, 0.0), (1, 0, 0, 0.0)), [], "end with one number, got 2"),
        (((9, 0, 0, 0.0),), [], "kind: expected 0 to 7, got 9"),
        (((1, 0, 0, math.nan),), [], "expected a finite number"),
        (((2, 0, 3, 0.0),), [1.0, 2.0], "expected a part of 2 numbers"),
        (((2, 0, 1, 0.0),), [math.inf], "expected finite numbers, got inf"),
    ],
)
def test_formulas_that_are_refused(
    terms: tuple[Any, ...], numbers: list[float], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        _core.Formula(terms, numbers, 2)


@pytest.fixture(scope="module")
def lm(tmp_path_factory: pytest.TempPathFactory) -> deal.Model:
    path = tmp_path_factory.mktemp("combine") / "tiny.gguf"
    write_gguf(make_tiny(TinyConfig(seed=0)), path)
    return deal.load(path, compute="f32")


def test_generate_with_a_combination(lm: deal.Model) -> None:
    calls: list[str] = []

    @deal.reward(range=(0, 1))
    def asked(completions: list[str], **kwargs: Any) -> list[float]:
        calls.extend(completions)
        return half(completions)

    words, length = Keywords(WORDS), Length(min=3, max=6, unit="words")
    rewards = lexicographic((words, 0.5), length) + 0.5 * maximum(asked, 1 - asked)
    assert [part.name for part in rewards.leaves()] == ["keywords", "length", "asked"]
    search = {"top_k": 4, "lookahead": 5, "reward_weight": 6.0}
    naive, exact = (
        lm.generate(
            PROMPT,
            rewards=rewards,
            search=deal.Search(mode=mode, **search),
            max_new_tokens=16,
        )
        for mode in ("naive", "exact")
    )
    assert (naive.token_ids, naive.score) == (exact.token_ids, exact.score)
    assert set(exact.rewards) == {"keywords", "length", "asked"}
    assert exact.reward == pytest.approx(rewards.score([exact.text])[0])
    assert exact.score == exact.logprob + 6.0 * exact.reward
    assert exact.stats.n_forward_tokens < naive.stats.n_forward_tokens
    assert len(calls) == len({*calls}) or calls.count(calls[0]) <= 2  # once a mode


def test_schedules_go_by_the_position(lm: deal.Model) -> None:
    """A weight of 0 up to position 4 leaves the first tokens to the model."""
    words = Keywords(WORDS)
    options: dict[str, Any] = {
        "search": deal.Search(top_k=4, lookahead=5, reward_weight=30.0),
        "max_new_tokens": 12,
    }
    plain = lm.generate(PROMPT, max_new_tokens=12).token_ids
    steered = lm.generate(PROMPT, rewards=words, **options).token_ids
    late = scheduled(words, lambda i: float(i >= 4), n=8)
    r = lm.generate(PROMPT, rewards=late, **options)
    assert steered[:4] != plain[:4] == r.token_ids[:4] and r.token_ids != plain
    weights = [float(d.step >= 4) for d in r.trace]
    for decision, weight in zip(r.trace, weights, strict=True):
        best = decision.candidates[0]
        if best.score is not None:
            expected = best.logprob + 30.0 * best.reward
            assert best.score == pytest.approx(expected)
            assert weight > 0 or best.reward == 0
