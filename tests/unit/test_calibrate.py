"""Standardised rewards and calibrated weights."""

from __future__ import annotations

import math
import statistics
from typing import Any

import pytest
from generation import PROMPTS, WORDS
from tiny_model import TinyConfig, make_tiny, write_gguf

import deal
from deal.rewards import Keywords, Length

SEARCH = deal.Search(top_k=4, lookahead=5, reward_weight=0.25)
N_NEW = 10


@pytest.fixture(scope="module")
def lm(tmp_path_factory: pytest.TempPathFactory) -> deal.Model:
    path = tmp_path_factory.mktemp("calibrate") / "tiny.gguf"
    write_gguf(make_tiny(TinyConfig(seed=0)), path)
    return deal.load(path, compute="f32")


def levels(lm: deal.Model, weight: float, reward: deal.Reward, least: float) -> float:
    search = deal.Search(top_k=4, lookahead=5, reward_weight=weight)
    found = lm.generate(PROMPTS, rewards=reward, search=search, max_new_tokens=N_NEW)
    return statistics.fmean(r.reward >= least for r in found)


def test_standardised_scores_have_mean_0_and_deviation_1(lm: deal.Model) -> None:
    reward = Length(min=6, max=8, unit="words") + Keywords(WORDS)
    standard = reward.standardise(lm, PROMPTS, n=3, max_new_tokens=N_NEW)
    scores = []
    for i, prompt in enumerate(PROMPTS):
        found = lm.generate(
            prompt,
            rewards=standard,
            sampling=deal.Sampling(temperature=1.0, seed=i),
            num_return_sequences=3,
            max_new_tokens=N_NEW,
        )
        scores += [r.reward for r in found]
    assert statistics.fmean(scores) == pytest.approx(0.0, abs=1e-9)
    assert statistics.pstdev(scores) == pytest.approx(1.0)


def test_calibrated_weight_reaches_the_level(lm: deal.Model) -> None:
    reward = Keywords(WORDS)
    found = deal.calibrate(
        lm,
        PROMPTS,
        rewards=reward,
        search=SEARCH,
        target=0.6,
        satisfied=0.5,
        n_bisect=3,
        max_new_tokens=N_NEW,
    )
    assert found.is_reached and found.level >= 0.6
    for weight, level in found.steps:
        assert level == levels(lm, weight, reward, 0.5)
    reached = [weight for weight, level in found.steps if level >= 0.6]
    assert found.reward_weight == min(reached)
    assert found.steps[0][0] == 0.25 and len(found.steps) >= 4


def test_a_level_that_no_weight_reaches(lm: deal.Model) -> None:
    found = deal.calibrate(
        lm,
        PROMPTS[:2],
        rewards=Keywords(["no such word"]),
        search=SEARCH,
        max_weight=1.0,
        max_new_tokens=4,
        progress=True,
    )
    assert not found.is_reached and found.level == 0.0 and found.reward_weight == 1.0
    assert [weight for weight, _ in found.steps] == [0.25, 0.5, 1.0]


@pytest.mark.parametrize(
    "changes, error, message",
    [
        ({"target": 0.0}, ValueError, "target: expected a share"),
        ({"rewards": lambda completions, **k: [0.0]}, ValueError, "no known"),
        ({"max_weight": 0.1}, ValueError, "max_weight: expected 0 < "),
        ({"max_weight": math.inf}, ValueError, "max_weight: expected 0 < "),
        ({"max_weight": math.nan}, ValueError, "max_weight: expected 0 < "),
        ({"search": None}, TypeError, "search: expected a deal.Search"),
        ({"prompts": []}, ValueError, "prompts: expected at least one"),
        ({"prompts": "a b"}, TypeError, "prompts: expected a list"),
        (
            {"reward_kwargs": {"x": [1]}},
            ValueError,
            r"'x'.*expected a list of 3 values",
        ),
        ({"n_bisect": -1}, ValueError, "n_bisect"),
    ],
)
def test_bad_calibrations(
    lm: deal.Model, changes: dict[str, Any], error: type[Exception], message: str
) -> None:
    options = {"prompts": PROMPTS, "rewards": Keywords(WORDS), "search": SEARCH}
    with pytest.raises(error, match=message):
        deal.calibrate(lm, **(options | changes))


def test_a_reward_that_tells_nothing_apart(lm: deal.Model) -> None:
    with pytest.raises(ValueError, match="all 2 completions score 0"):
        Keywords(["no such word"]).standardise(lm, PROMPTS[:1], n=2, max_new_tokens=4)
