"""Segment search and best of n: against the plain-Python twin, and through the API."""

from __future__ import annotations

import dataclasses
import random
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from generation import PROMPT, PROMPTS, WORDS, key, python_keywords
from search_cases import Case, random_case, random_rewards
from search_table import Program, log_z_of
from segment_twin import Drawing, segment
from test_search_twin import check_case
from tiny_model import TinyConfig, make_tiny, write_gguf

import deal

SAMPLING = deal.Sampling(temperature=1.0, seed=3)
SEGMENT = deal.Search(mode="segment", top_k=4, lookahead=5, num_beams=2)


def segment_case(seed: int) -> Case:
    rng = random.Random(f"segment {seed}")
    problem, _ = random_case(seed, "naive")
    is_drawn = rng.random() < 0.6
    drawing = Drawing(
        n_proposal=rng.randint(1, 6 if is_drawn else min(6, problem.n_vocab)),
        temperature=rng.choice([0.3, 1.0, 2.0]) if is_drawn else 0.0,
        top_k=rng.choice([0, 0, 1, 3]),
        top_p=rng.choice([1.0, 1.0, 0.9, 0.5]),
        repetition_penalty=rng.choice([1.0, 1.3]) if is_drawn else 1.0,
        seed=rng.randrange(1000),
    )
    rewards = problem.rewards
    while not rewards:
        rewards = random_rewards(rng, problem.pieces, problem.prompt)
    lookahead = rng.choice([1, 2, 3, 5, problem.max_new_tokens])
    problem = dataclasses.replace(
        problem, rewards=rewards, lookahead=lookahead, commit=1, drawing=drawing
    )
    return problem, "segment"


def run_both(program: Program, cases: list[Case]) -> list[Any]:
    out = []
    for (problem, _), answer in zip(cases, program.run(cases), strict=True):
        problem = dataclasses.replace(problem, log_z=log_z_of(problem, answer))
        out.append((problem, answer, segment(problem)))
    return out


def checked_segments(program: Program, cases: list[Case]) -> list[Any]:
    """What run_both() gives, C and the twin being equal."""
    found = run_both(program, cases)
    for seed, both in enumerate(found):
        try:
            check_case(*both)
        except AssertionError as error:
            raise AssertionError(f"segment case {seed}: {both[0]}") from error
    return found


def test_random_cases(search_table: Program) -> None:
    seen: Counter[str] = Counter()
    cases = [segment_case(seed) for seed in range(800)]
    for problem, _, want in checked_segments(search_table, cases):
        rows = want.trace
        found = {one.finish for one in want.results}
        found.add("beams" if problem.drawing.temperature == 0 else "drawn")
        for a, b in zip(rows, rows[1:], strict=False):
            if a.step == b.step and a.h == b.h:
                found.add("tie" if a.logprob == b.logprob else "equal rewards")
        if want.stats.n_steps > 2:
            found.add("rounds")
        if any(row.is_finished and not row.rollout and row.step > 0 for row in rows):
            found.add("stands again")
        seen.update(found)
    for what in ("end", "stop", "length", "beams", "drawn", "tie", "equal rewards"):
        assert seen[what] > 50, (what, seen)
    assert seen["rounds"] > 50 and seen["stands again"] > 50, seen


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("segment") / "tiny.gguf"
    write_gguf(make_tiny(TinyConfig(seed=0)), path)
    return path


@pytest.fixture(scope="module")
def lm(path: Path) -> deal.Model:
    return deal.load(path, compute="f32", threads=2)


@pytest.mark.parametrize("sampling", [None, SAMPLING])
def test_threads_change_nothing(
    lm: deal.Model, path: Path, sampling: deal.Sampling | None
) -> None:
    other = deal.load(path, compute="f32", threads=1)
    settings = {
        "search": SEGMENT,
        "sampling": sampling,
        "rewards": deal.rewards.Keywords(WORDS),
        "max_new_tokens": 18,
    }
    for prompt in PROMPTS:
        assert key(lm.generate(prompt, **settings)) == key(
            other.generate(prompt, **settings)
        )
    together = lm.generate(PROMPTS, **settings)
    assert [key(r) for r in together] == [
        key(lm.generate(prompt, **settings)) for prompt in PROMPTS
    ]


@pytest.mark.parametrize("sampling", [None, SAMPLING])
def test_python_reward_keeps_as_native_does(
    lm: deal.Model, sampling: deal.Sampling | None
) -> None:
    native, python = (
        lm.generate(
            PROMPT,
            search=SEGMENT,
            sampling=sampling,
            rewards=reward,
            max_new_tokens=18,
        )
        for reward in (deal.rewards.Keywords(WORDS), python_keywords)
    )
    assert native.token_ids == python.token_ids
    assert native.score == native.reward == pytest.approx(python.reward)


def test_best_of_n_ranks_what_sampling_returns(lm: deal.Model) -> None:
    reward = deal.rewards.Length(min=20, unit="characters")
    settings = {"sampling": SAMPLING, "rewards": reward, "max_new_tokens": 12}
    plain = lm.generate(PROMPT, num_return_sequences=6, **settings)
    best = lm.generate(
        PROMPT, search=deal.Search.best_of_n(6), num_return_sequences=6, **settings
    )
    want = sorted(plain, key=lambda r: (-r.reward, -r.logprob, r.token_ids))
    assert [r.token_ids for r in best] == [r.token_ids for r in want]
    assert [r.logprob for r in best] == [r.logprob for r in want]
    assert [r.score for r in best] == [r.reward for r in want]
    one = lm.generate(PROMPT, search=deal.Search.best_of_n(6), **settings)
    assert one.token_ids == want[0].token_ids
    assert one.stats.n_steps == len(one.trace) == 1
    assert one.stats.n_forward_tokens <= plain[0].stats.n_forward_tokens


@pytest.mark.parametrize(
    "error, settings",
    [
        ("rewards: .*at least 1, got none", {"rewards": None}),
        ("sampling: a search draws", {"search": deal.Search(), "sampling": SAMPLING}),
        ("num_return_sequences: expected 1 to 2", {"num_return_sequences": 3}),
        (
            "repetition_penalty: .*expected 1 with temperature 0, got 1.2",
            {"sampling": deal.Sampling(temperature=0.0, repetition_penalty=1.2)},
        ),
        (
            "top_k: expected 1 to",
            {"search": deal.Search(mode="segment", top_k=4000)},
        ),
    ],
)
def test_bad_requests(lm: deal.Model, error: str, settings: dict[str, Any]) -> None:
    given = {"search": SEGMENT, "rewards": deal.rewards.Keywords(WORDS)} | settings
    with pytest.raises(ValueError, match=error):
        lm.generate(PROMPT, max_new_tokens=4, **given)


@pytest.mark.parametrize(
    "settings",
    [{"top_k": 0}, {"lookahead": 0}, {"num_beams": 0}, {"commit": 2}]
    + [{"reward_weight": 2.0}],
)
def test_bad_settings(settings: dict[str, Any]) -> None:
    [name] = settings
    with pytest.raises(ValueError, match=f"{name}: .*expected"):
        deal.Search(mode="segment", **settings)
    with pytest.raises(ValueError, match="n: expected at least 1, got 0"):
        deal.Search.best_of_n(0)
