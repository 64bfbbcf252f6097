"""Rewards pickle as what they were made from."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import pytest
from tiny_model import TinyConfig, make_tiny, write_gguf

import deal
from deal import rewards as R

TEXTS = ["A cat, a good cat.", "* one\n* two\n* three", "", "not bad, but not good"]


def shouting(text: str) -> float:
    return float(text.isupper())


def fitted() -> Any:
    return R.NgramModel.fit(TEXTS * 4, [1, 0, 0, 1] * 4)


def sum_of_three() -> Any:
    return R.Keywords(["cat"]) + 0.5 * R.Length("words", max=3) - R.Format(bullets=3)


def combined() -> Any:
    cat, short = R.Keywords(["cat"]), R.Length("words", max=3)
    first = R.lexicographic((cat, 0.5), R.scheduled(short, [0.2, 0.4]))
    return R.minimum(first, 2.0 - R.clip(sum_of_three(), -1.0, 1.0), first * short)


@pytest.mark.parametrize(
    "make",
    [
        lambda: R.Keywords(["cat", ["good", "bad"]], mode="ordered"),
        lambda: R.Length("words", min=2, max=3),
        lambda: R.Repetition(n=2, longest=1),
        lambda: R.Format(bullets=3, no_commas=True),
        lambda: R.Lexicon({"good": 1.5, "bad": -2.0}),
        lambda: deal.reward(shouting, per_text=True),
        fitted,
        sum_of_three,
        combined,
    ],
)
def test_the_copy_scores_the_same(make: Any) -> None:
    reward = make()
    copy = pickle.loads(pickle.dumps(reward))
    assert copy.score(TEXTS) == reward.score(TEXTS)
    assert (repr(copy), copy.range) == (repr(reward), reward.range)
    assert [part.name for part in copy.parts()] == [p.name for p in reward.parts()]


def test_weights_of_a_model_do_not_travel(tmp_path: Path) -> None:
    write_gguf(make_tiny(TinyConfig(seed=0)), tmp_path / "tiny.gguf")
    fluent = R.Fluency(deal.load(tmp_path / "tiny.gguf"))
    with pytest.raises(TypeError, match="load the model where it is needed"):
        pickle.dumps(fluent)
