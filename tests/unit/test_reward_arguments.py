"""Odd arguments of every reward: an error that names the argument and what came."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tiny_model import make_tiny, write_gguf

import deal
from deal.rewards import (
    Classifier,
    Contrast,
    Fluency,
    Format,
    Keywords,
    Length,
    Lexicon,
    NgramModel,
    Repetition,
    RewardModel,
    at_least,
    clip,
    from_model,
    penalty,
    pooled_states,
    scheduled,
)

TEXTS, LABELS = ["a joy", "dull", "nice", "bad"], [1, 0, 1, 0]
PAIRS = [("p", " good", " bad")] * 2
WORDS = {"good": 1.0}
NO_TEXT = (None, True, 5, math.nan, b"x", [], {}, object(), np.zeros(2), "\ud800")
NO_LIST = (None, True, 5, math.nan, b"x", "word", object())
NO_TEXTS = (*NO_LIST, [None], [5], [b"x"], ["\ud800"])
NO_NUMBER = (None, "", "1", b"x", [], {}, object(), math.nan, np.zeros((2, 2)), 10**400)
NO_COUNT = (None, "", "1", 1.5, math.nan, [], -1, 2**70, object(), np.zeros((2, 2)))
NO_NAME = (5, "", "word", b"x", [], {}, math.nan, object(), np.zeros((2, 2)))
NO_FLAG = (None, 5, "", "yes", [], math.nan, np.zeros((2, 2)))
NO_MODEL = (None, 5, "word", [], {}, object(), np.zeros(2))
WEIGHT = np.linspace(-1, 1, 64)

# What is called with an odd value; the argument's name; the values.
CASES: list[tuple[Callable[[Any, Any], Any], str, tuple[Any, ...]]] = [
    (lambda lm, x: Keywords(x), "concepts", NO_TEXTS),
    (lambda lm, x: Keywords(forbidden=x), "forbidden", NO_TEXTS),
    (lambda lm, x: Keywords(["a"], mode=x), "mode", NO_NAME),
    (lambda lm, x: Length(x, max=1), "unit", NO_NAME),
    (lambda lm, x: Length(min=x, max=1), "min", NO_COUNT[1:]),
    (lambda lm, x: Length(min=1, max=x), "max", NO_COUNT[1:]),
    (lambda lm, x: Length(target=1, tolerance=x), "tolerance", NO_COUNT),
    (lambda lm, x: Repetition(x), "n", (*NO_COUNT, 0)),
    (lambda lm, x: Repetition(longest=x), "longest", NO_COUNT[1:]),
    (lambda lm, x: Format(starts_with=x), "starts_with", NO_TEXT[1:]),
    (lambda lm, x: Format(ends_with=x), "ends_with", NO_TEXT[1:]),
    (lambda lm, x: Format(bullets=x), "bullets", NO_COUNT[1:]),
    (lambda lm, x: Format(letter_case=x), "letter_case", NO_NAME),
    (lambda lm, x: Format(no_commas=x), "no_commas", NO_FLAG),
    (lambda lm, x: Format(title=True, mode=x), "mode", NO_NAME),
    (lambda lm, x: Lexicon(x), "weights", (*NO_LIST, {}, {1: 1.0}, {"\ud800": 1.0})),
    (lambda lm, x: Lexicon({"good": x}), "weights: 'good'", NO_NUMBER),
    (lambda lm, x: Lexicon(WORDS, negators=x), "negators", NO_TEXTS),
    (lambda lm, x: Lexicon(WORDS, window=x), "window", NO_COUNT),
    (lambda lm, x: Lexicon(WORDS, negation=x), "negation", NO_NUMBER),
    (lambda lm, x: Lexicon(WORDS, per=x), "per", (None, 5, "words", b"x", [])),
    (lambda lm, x: Lexicon(WORDS, alpha=x), "alpha", (*NO_NUMBER, 0, -1)),
    (lambda lm, x: NgramModel(x), "weights", (*NO_LIST, {}, {1: 1.0})),
    (lambda lm, x: NgramModel({"good": x}), "weights: 'good'", NO_NUMBER),
    (lambda lm, x: NgramModel(WORDS, x), "intercept", NO_NUMBER),
    (lambda lm, x: NgramModel(WORDS, words=x), "words", (5, "a", (1, "a"), (0, 1))),
    (lambda lm, x: NgramModel(WORDS, within_words=x), "within_words", NO_FLAG),
    (lambda lm, x: NgramModel(WORDS, min_word=x), "min_word", (*NO_COUNT, 0)),
    (lambda lm, x: NgramModel(WORDS, stop_words=x), "stop_words", NO_TEXTS),
    (lambda lm, x: NgramModel(WORDS, idf=x), "idf", (5, "", [], {"good": "x"})),
    (lambda lm, x: NgramModel(WORDS, tf=x), "tf", (None, *NO_NAME)),
    (lambda lm, x: NgramModel(WORDS, norm=x), "norm", NO_FLAG),
    (lambda lm, x: NgramModel.fit(x, LABELS), "texts", NO_TEXTS),
    (lambda lm, x: NgramModel.fit(TEXTS, x), "labels", (*NO_LIST, [2] * 4, ["1"] * 4)),
    (lambda lm, x: _fit_ngrams(n_buckets=x), "n_buckets", (*NO_COUNT, 5)),
    (lambda lm, x: _fit_ngrams(C=x), "C", (*NO_NUMBER, 0)),
    (lambda lm, x: _fit_ngrams(idf=x), "idf", NO_FLAG),
    (lambda lm, x: _fit_ngrams(balanced=x), "balanced", NO_FLAG),
    (lambda lm, x: _fit_ngrams(held_out=x), "held_out", (*NO_NUMBER, -1, 1)),
    (lambda lm, x: _fit_ngrams(patience=x), "patience", (*NO_COUNT, 0)),
    (lambda lm, x: _fit_ngrams(max_steps=x), "max_steps", (*NO_COUNT, 0)),
    (lambda lm, x: _fit_ngrams(tolerance=x), "tolerance", (*NO_NUMBER, -1)),
    (lambda lm, x: _fit_ngrams(seed=x), "seed", NO_COUNT),
    (lambda lm, x: Fluency(x), "model", NO_MODEL),
    (lambda lm, x: Fluency(lm, floor=x), "floor", (*NO_NUMBER[1:], 0)),
    (lambda lm, x: Fluency(lm, cache_tokens=x), "cache_tokens", NO_COUNT),
    (lambda lm, x: Contrast(x, "p"), "model", NO_MODEL),
    (lambda lm, x: Contrast(lm, x), "prompt", (None, 5, [], {}, math.nan)),
    (lambda lm, x: from_model(x, WEIGHT), "model", NO_MODEL),
    (lambda lm, x: RewardModel(x), "weight", (None, "", [], {}, [math.nan])),
    (lambda lm, x: RewardModel(WEIGHT, x), "bias", NO_NUMBER),
    (lambda lm, x: RewardModel(WEIGHT, layers=x), "layers", (*NO_LIST, [], [-2])),
    (lambda lm, x: RewardModel(WEIGHT, pooling=x), "pooling", (None, *NO_NAME)),
    (lambda lm, x: RewardModel(WEIGHT, activation=x), "activation", (None, *NO_NAME)),
    (lambda lm, x: RewardModel(WEIGHT, model=x), "model", NO_MODEL[1:]),
    (lambda lm, x: RewardModel.fit(x, PAIRS), "lm", NO_MODEL),
    (lambda lm, x: RewardModel.fit(lm, x), "pairs", (*NO_LIST, [], [1], ["abc"])),
    (lambda lm, x: _fit_head(lm, l2=x), "l2", (*NO_NUMBER, -1)),
    (lambda lm, x: _fit_head(lm, validation=x), "validation", (*NO_NUMBER, -1, 1)),
    (lambda lm, x: _fit_head(lm, n_hidden=x), "n_hidden", NO_COUNT),
    (lambda lm, x: _fit_head(lm, seed=x), "seed", NO_COUNT),
    (lambda lm, x: _fit_head(lm, layers=x), "layers", (*NO_LIST, [], [99])),
    (lambda lm, x: _fit_head(lm, pooling=x), "pooling", (None, 5, "word", b"x", [])),
    (lambda lm, x: _fit_head(lm, states=x), "states", (5, "a", ["a"], [[1.0]])),
    (lambda lm, x: _classify(x, TEXTS), "lm", NO_MODEL),
    (lambda lm, x: _classify(lm, x), "texts", (*NO_LIST, [None] * 4, [5] * 4)),
    (lambda lm, x: _classify(lm, TEXTS, x), "labels", (*NO_LIST, [1] * 3, [None] * 4)),
    (lambda lm, x: _classify(lm, TEXTS, prompts=x), "prompts", NO_LIST[1:]),
    (lambda lm, x: _classify(lm, TEXTS, class_weight=x), "class_weight", NO_NAME),
    (lambda lm, x: pooled_states(x, TEXTS), "model", NO_MODEL),
    (lambda lm, x: pooled_states(lm, x), "completions", NO_LIST),
    (lambda lm, x: clip(Length(max=1), x, 1), "low", NO_NUMBER[1:-1]),
    (lambda lm, x: at_least(Length(max=1), x), "threshold", NO_NUMBER[:-1]),
    (lambda lm, x: penalty(Length(max=1), 0.5, x), "weight", NO_NUMBER[:-1]),
    (lambda lm, x: scheduled(Length(max=1), x), "weights", (*NO_LIST, [], ["a"])),
]


def _fit_ngrams(**options: Any) -> Any:
    return NgramModel.fit(TEXTS, LABELS, **options)


def _fit_head(lm: Any, **options: Any) -> Any:
    return RewardModel.fit(lm, PAIRS, progress=False, **options)


def _classify(lm: Any, texts: Any, labels: Any = LABELS, **options: Any) -> Any:
    return Classifier.fit(lm, texts, labels, progress=False, **options)


@pytest.fixture(scope="module")
def lm(tmp_path_factory: pytest.TempPathFactory) -> deal.Model:
    path: Path = tmp_path_factory.mktemp("arguments") / "tiny.gguf"
    write_gguf(make_tiny(), path)
    return deal.load(path, compute="f32", threads=1)


@pytest.mark.parametrize("call, name, values", CASES, ids=range(len(CASES)))
def test_odd_arguments(
    call: Any, name: str, values: tuple[Any, ...], lm: deal.Model
) -> None:
    for value in values:
        with pytest.raises((TypeError, ValueError)) as found:
            call(lm, value)
        said = str(found.value)
        assert name.replace("_", " ") in said.replace("_", " "), (value, said)
        assert "expected" in said, (value, said)


def test_the_base_cases_are_fine(lm: deal.Model) -> None:
    """What the cases change one argument of."""
    assert _fit_ngrams(idf=np.True_).score(TEXTS)
    assert _fit_head(lm).n_embd == _classify(lm, TEXTS).n_embd == len(WEIGHT)
