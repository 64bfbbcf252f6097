"""Drafts and rows ahead spare passes, and are made where a row costs little.

Costs are set, as a pass and a row of the model might have been measured.
"""

from __future__ import annotations

import dataclasses
import math
import random
from collections import Counter
from typing import Any

import pytest
from deal_twin import Problem
from search_cases import random_case, random_table
from search_table import Keywords, Program, Toy
from test_search_twin import checked_pairs

REUSE, BOUNDS, DRAFTS, SPECULATION = 1, 2, 4, 8  # of search_params.h
CHEAP_ROWS = 1.0, 0.02  # seconds of a pass and of a row
CHEAP_PASSES = 0.05, 1.0


def repeating_case(seed: int, **changes: Any) -> Problem:
    """A long text of a model that looks back one token: its path soon repeats."""
    rng = random.Random(f"repeats {seed}")
    problem, _ = random_case(seed, "naive", n_vocab=12, has_states=False)
    words = Keywords((("cat",), ("dog",), ("zoo",)))
    return dataclasses.replace(
        problem,
        table=random_table(rng, 12, 1, is_smooth=True),
        n_back=1,
        n_ctx=300,
        end_tokens=(),
        stops=(),
        rewards=((1.0, words),),
        max_new_tokens=200,
        num_beams=1,
        num_return_sequences=1,
        top_k=4,
        lookahead=8,
        reward_weight=4.0,
        commit=1,
        **changes,
    )


def sums_of(program: Program, problems: list[Problem]) -> Counter[str]:
    """The statistics of exact searches, all naive's results, added up."""
    sums: Counter[str] = Counter()
    for _, exact in checked_pairs(program, problems):
        assert len(exact["results"][0]["tokens"]) == 200
        sums.update({k: v for k, v in exact["stats"].items() if k.startswith("n_")})
    return sums


def test_drafts_spare_passes(search_table: Program) -> None:
    """Where rows cost little; where they cost a pass each, nothing is guessed."""
    runs = {}
    for tricks in (REUSE | BOUNDS, REUSE | BOUNDS | DRAFTS):
        for cost in (CHEAP_ROWS, CHEAP_PASSES):
            cases = [repeating_case(i, tricks=tricks, cost=cost) for i in range(6)]
            runs[tricks & DRAFTS, cost] = sums_of(search_table, cases)
    plain, drafts = runs[0, CHEAP_ROWS], runs[DRAFTS, CHEAP_ROWS]
    assert plain["n_draft_tokens"] == plain["n_ahead_tokens"] == 0
    assert 0 < drafts["n_draft_accepted"] <= drafts["n_draft_tokens"]
    assert drafts["n_draft_accepted"] > 0.8 * drafts["n_draft_tokens"]
    assert drafts["n_forward_passes"] < 0.8 * plain["n_forward_passes"]
    assert runs[DRAFTS, CHEAP_PASSES]["n_draft_tokens"] == 0
    assert runs[DRAFTS, CHEAP_PASSES] == runs[0, CHEAP_PASSES]


def unbounded(seed: int) -> tuple[tuple[float, Toy], ...]:
    """A reward that no bar can be cleared by, so that later rollouts are needed too."""
    return ((1.0, Toy("plain", seed, low=-math.inf, high=math.inf)),)


@pytest.mark.parametrize("is_bounded", [True, False])
def test_rows_ahead_spare_passes(search_table: Program, is_bounded: bool) -> None:
    runs = []
    for more, cost in (
        (0, CHEAP_ROWS),
        (SPECULATION, CHEAP_ROWS),
        (SPECULATION, CHEAP_PASSES),
    ):
        changes = {"tricks": REUSE | BOUNDS | more, "cost": cost}
        cases = [repeating_case(i, **changes) for i in range(6)]
        if not is_bounded:
            cases = [
                dataclasses.replace(case, rewards=unbounded(i), reward_weight=0.5)
                for i, case in enumerate(cases)
            ]
        runs.append(sums_of(search_table, cases))
    plain, ahead, dear = runs
    assert plain["n_ahead_tokens"] == plain["n_in_vain"] == 0
    assert ahead["n_ahead_tokens"] > 1000
    assert ahead["n_in_vain"] < 0.5 * ahead["n_ahead_tokens"]
    assert ahead["n_forward_passes"] < 0.75 * plain["n_forward_passes"]
    if is_bounded:
        return
    assert ahead["n_in_vain"] > 0
    # The dearer a row, the surer it has to be.
    assert 0 < dear["n_ahead_tokens"] < 0.5 * ahead["n_ahead_tokens"]
    share = dear["n_in_vain"] / dear["n_ahead_tokens"]
    assert share < 0.5 * ahead["n_in_vain"] / ahead["n_ahead_tokens"]
