"""The n-gram model against its twin and scikit-learn, its bounds, fits and files."""

from __future__ import annotations

import builtins
import json
import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from ngram_twin import ngram_twin
from test_bounds import check_holds, cut
from test_lexicon import random_bytes, seen

import deal
from deal import _core
from deal.rewards import NgramFeatures, NgramModel

PIECES = [
    "a",
    "b",
    "ab",
    "A",
    "good",
    "Bad",
    "the",
    "not",
    "_",
    "1",
    "\u00e9",
    "\u00c9",
]
PIECES += [" ", " ", " ", " ", "  ", "\n", "\u3000", "-", "'", ".", "\u5b57", "\u0301"]
WORDS = ["a", "b", "ab", "aa", "good", "bad", "the", "not", "\u00e9", "a1", "_"]


def random_terms(
    rng: random.Random, orders: tuple[int, int], is_words: bool
) -> list[str]:
    terms = set()
    for _ in range(rng.randint(1, 25)):
        n = rng.randint(*orders)
        parts = rng.choices(WORDS if is_words else [*"ab good.\u00e9\u5b57"], k=n)
        terms.add((" " if is_words else "").join(parts))
    return sorted(terms)


def random_model(rng: random.Random) -> NgramModel:
    """Of a vocabulary, or hashed into few buckets so that n-grams share them."""
    low = rng.randint(1, 3)
    orders = (low, low + rng.randrange(3))
    is_words, kind = rng.random() < 0.5, rng.choice(["vocabulary", "hashed"])
    words = orders if is_words else None
    characters = None if is_words else orders
    if kind == "hashed" and rng.random() < 0.4:
        words, characters = (1, 2), orders
    terms = random_terms(rng, orders, is_words) if kind == "vocabulary" else []
    features = NgramFeatures(
        kind,
        len(terms) if terms else 2 ** rng.randint(1, 6),
        words,
        characters,
        within_words=rng.random() < 0.5,
        lowercase=rng.random() < 0.7,
        min_word=rng.randint(1, 2),
        stop_words=tuple(rng.sample(["the", "a", "not"], rng.randrange(3))),
        terms=tuple(terms),
    )
    sign = rng.choice([(-1, 1), (0, 1), (-1, 0)])
    n = features.n_slots
    return NgramModel._of(
        features,
        [rng.uniform(*sign) for _ in range(n)],
        [rng.uniform(0.5, 3) for _ in range(n)] if rng.random() < 0.5 else None,
        rng.uniform(-1, 1),
        rng.choice(["count", "binary", "log"]),
        rng.random() < 0.5,
        "random",
    )


def test_equals_its_twin() -> None:
    rng = random.Random(1)
    scores = set()
    for _ in range(1000):
        model = random_model(rng)
        tokens = cut(rng, random_bytes(rng, PIECES, 30), rng.randint(1, 9))
        state = _core.RewardState(model._capsule({}), "p", token_size_max=9)
        for i in range(len(tokens) + 1):
            expected = ngram_twin(model, seen(tokens[:i]))
            score = state.score()
            assert score == pytest.approx(expected, abs=1e-5), (model, tokens[:i])
            assert score == state.bounds(0)[0]
            scores.add(score)
            if i < len(tokens):
                kept, state = state, state.fork()
                state.advance(tokens[i], i)
                assert kept.score() == score
    assert len(scores) > 3000


def test_splits_do_not_matter() -> None:
    """One state for each way to cut whole characters: the same score to the bit."""
    rng = random.Random(2)
    for _ in range(300):
        model = random_model(rng)
        text = "".join(rng.choices(PIECES, k=40))
        whole = model.score([text])[0]
        state = _core.RewardState(model._capsule({}), "")
        at = 0
        while at < len(text):
            n = rng.randint(1, 4)
            state = state.fork()
            state.advance(text[at : at + n].encode())
            at += n
        assert state.score() == whole


@pytest.mark.parametrize("size_max", [1, 2, 3, 6])
def test_bounds(size_max: int) -> None:
    rng = random.Random(f"ngrams {size_max}")
    n_partly = 0
    for _ in range(150):
        model = random_model(rng)
        capsule = model._capsule({})
        for data in (b"", *(random_bytes(rng, PIECES, 12) for _ in range(4))):
            state = _core.RewardState(capsule, "p", token_size_max=size_max)
            for token in cut(rng, data, size_max):
                state.advance(token, 1)
            n_max = rng.randint(1, 5)
            follow = [
                cut(rng, random_bytes(rng, pieces, 14), size_max)
                for pieces in (PIECES, ["a ", "b "], ["good "], ["ab"])
                for _ in range(3)
            ]
            check_holds(rng, state, n_max, follow)
            low, high = state.bounds(n_max)
            n_partly += low > 0.01 or high < 0.99
    assert n_partly > 100


def test_bounds_are_reached() -> None:
    """One letter a token: as many words as tokens have room for, and no more."""
    for characters, words, follow in (
        (None, (1, 1), [b"a", b" ", b"a", b" ", b"a"]),
        ((1, 1), None, [b"a"] * 5),
    ):
        model = NgramModel(
            {"a": 0.5}, words=words, characters=characters, within_words=False
        )
        state = _core.RewardState(model._capsule({}), "", token_size_max=1)
        bounds = [state.bounds(n) for n in range(6)]
        for n, (low, high) in enumerate(bounds):
            assert low == pytest.approx(0.5) and high == pytest.approx(state.score())
            state.advance(follow[min(n, 4)])


# --- scikit-learn --------------------------------------------------------------------


def corpus(rng: random.Random, n: int) -> tuple[list[str], list[int]]:
    texts, labels = [], []
    for _ in range(n):
        label = rng.randrange(2)
        words = rng.choices(["good", "fine", "ok"] if label else ["bad", "ok"], k=3)
        filler = rng.choices(
            ["the", "a", "cat", "Caf\u00e9", "x1", "I", "\u5b57"], k=12
        )
        words += filler
        rng.shuffle(words)
        space = [" ", "  ", "\n", "\t ", ", ", ". "]
        texts.append("".join(word + rng.choice(space) for word in words))
        labels.append(label)
    return texts, labels


def vectorizers() -> list[Any]:
    text = pytest.importorskip("sklearn.feature_extraction.text")
    count, tfidf, hashing = (
        text.CountVectorizer,
        text.TfidfVectorizer,
        text.HashingVectorizer,
    )
    return [
        [count()],
        [count(ngram_range=(1, 3), binary=True, stop_words="english")],
        [count(analyzer="char", ngram_range=(1, 4), lowercase=False)],
        [count(analyzer="char_wb", ngram_range=(4, 6))],
        [count(token_pattern=r"(?u)\b\w+\b", ngram_range=(2, 2))],
        [tfidf()],
        [tfidf(sublinear_tf=True, ngram_range=(1, 2))],
        [tfidf(use_idf=False, norm=None, analyzer="char_wb", ngram_range=(2, 5))],
        [tfidf(norm=None, binary=True)],
        [count(), text.TfidfTransformer()],
        [hashing(n_features=64)],
        [hashing(n_features=2**16, ngram_range=(1, 3), norm=None)],
        [hashing(n_features=2**12, alternate_sign=False, binary=True)],
        [hashing(n_features=500, analyzer="char", ngram_range=(2, 5))],
        [hashing(n_features=2**10, analyzer="char_wb", ngram_range=(3, 6))],
        [hashing(n_features=2**10, norm=None), text.TfidfTransformer()],
    ]


@pytest.mark.parametrize("i", range(16))
def test_sklearn_pipelines(i: int) -> None:
    linear_model = pytest.importorskip("sklearn.linear_model")
    svm = pytest.importorskip("sklearn.svm")
    make_pipeline = pytest.importorskip("sklearn.pipeline").make_pipeline
    rng = random.Random(i)
    texts, labels = corpus(rng, 60)
    unseen = [*corpus(rng, 60)[0], "", "  ", "x", "\n a", "good", "GOOD  good\t"]
    classifier = [
        linear_model.LogisticRegression(),
        linear_model.SGDClassifier(random_state=0),
        svm.LinearSVC(),
    ][i % 3]
    pipeline = make_pipeline(*vectorizers()[i], classifier).fit(texts, labels)
    model = NgramModel.from_sklearn(pipeline)
    expected = 1 / (1 + np.exp(-pipeline.decision_function(unseen)))
    assert np.ptp(expected) > 0.01
    np.testing.assert_allclose(model.score(unseen), expected, atol=2e-6)
    other = NgramModel.from_sklearn(pipeline, label=0)
    np.testing.assert_allclose(other.score(unseen), 1 - expected, atol=2e-6)


def test_sklearn_with_more_classes() -> None:
    text = pytest.importorskip("sklearn.feature_extraction.text")
    linear_model = pytest.importorskip("sklearn.linear_model")
    texts, _ = corpus(random.Random(1), 60)
    labels = [["x", "y", "z"][i % 3] for i in range(60)]
    counts = text.CountVectorizer()
    x = counts.fit_transform(texts)
    sgd = linear_model.SGDClassifier(random_state=0).fit(x, labels)
    model = NgramModel.from_sklearn([counts, sgd], label="y")
    expected = 1 / (1 + np.exp(-sgd.decision_function(x)[:, 1]))
    np.testing.assert_allclose(model.score(texts), expected, atol=2e-6)
    with pytest.raises(ValueError, match=r"label: expected one of \['x'"):
        NgramModel.from_sklearn([counts, sgd])
    softmax = linear_model.LogisticRegression().fit(x, labels)
    with pytest.raises(NotImplementedError, match="softmax"):
        NgramModel.from_sklearn([counts, softmax], label="y")


@pytest.mark.parametrize(
    ("settings", "what"),
    [
        ({"strip_accents": "ascii"}, "strip_accents"),
        ({"tokenizer": str.split}, "tokenizer"),
        ({"analyzer": str.split}, "analyzer"),
        ({"token_pattern": r"[a-z]+"}, "token_pattern"),
        ({"norm": "l1"}, "norm"),
    ],
)
def test_sklearn_that_is_refused(settings: dict[str, Any], what: str) -> None:
    text = pytest.importorskip("sklearn.feature_extraction.text")
    linear_model = pytest.importorskip("sklearn.linear_model")
    make_pipeline = pytest.importorskip("sklearn.pipeline").make_pipeline
    texts, labels = corpus(random.Random(2), 20)
    pipeline = make_pipeline(
        text.TfidfVectorizer(**settings), linear_model.LogisticRegression()
    ).fit(texts, labels)
    with pytest.raises(NotImplementedError, match=what):
        NgramModel.from_sklearn(pipeline)


def test_without_sklearn(monkeypatch: pytest.MonkeyPatch) -> None:
    found = builtins.__import__

    def refuse(name: str, *args: Any, **kwargs: Any) -> Any:
        if name.startswith("sklearn"):
            raise ImportError(name)
        return found(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", refuse)
    with pytest.raises(ImportError, match=r"deal-lm\[sklearn\]"):
        NgramModel.from_sklearn(None)


# --- Fits ----------------------------------------------------------------------------


def test_fit_is_the_optimum() -> None:
    text = pytest.importorskip("sklearn.feature_extraction.text")
    linear_model = pytest.importorskip("sklearn.linear_model")
    texts, labels = corpus(random.Random(3), 200)
    for tf, balanced in (("count", False), ("binary", True)):
        model = NgramModel.fit(
            texts,
            labels,
            words=(1, 1),
            tf=tf,
            idf=False,
            norm=False,
            C=0.5,
            balanced=balanced,
            held_out=0,
        )
        assert model.report is not None and model.report.converged
        counts = text.CountVectorizer(token_pattern=r"\w+", binary=tf == "binary")
        x = counts.fit_transform(texts)
        other = linear_model.LogisticRegression(
            C=0.5, class_weight="balanced" if balanced else None, tol=1e-8, max_iter=999
        ).fit(x, labels)
        expected = other.predict_proba(x)[:, 1]
        np.testing.assert_allclose(model.score(texts), expected, atol=1e-4)


def test_fit_of_tfidf_as_sklearn_has_it() -> None:
    text = pytest.importorskip("sklearn.feature_extraction.text")
    linear_model = pytest.importorskip("sklearn.linear_model")
    texts, labels = corpus(random.Random(4), 200)
    model = NgramModel.fit(texts, labels, held_out=0)
    counts = text.TfidfVectorizer(
        token_pattern=r"\w+", sublinear_tf=True, ngram_range=(1, 2)
    )
    x = counts.fit_transform(texts)
    other = linear_model.LogisticRegression(C=10, tol=1e-8, max_iter=999).fit(x, labels)
    expected = other.predict_proba(x)[:, 1]
    np.testing.assert_allclose(model.score(texts), expected, atol=1e-3)


def test_fit_stops_early_and_is_seeded() -> None:
    rng = random.Random(5)
    texts, labels = corpus(rng, 200)
    labels = [label ^ (rng.random() < 0.3) for label in labels]  # noise to stop at
    first = NgramModel.fit(texts, labels, C=1e6, patience=3)
    again = NgramModel.fit(texts, labels, C=1e6, patience=3, progress=True)
    other = NgramModel.fit(texts, labels, C=1e6, patience=3, seed=1)
    report = first.report
    assert report is not None and report.held_out_loss is not None
    assert (report.n_texts, report.n_held_out) == (180, 20)
    assert report.best_step == report.n_steps - 3 and not report.converged
    assert first.report == again.report
    assert (first.weight == again.weight).all()
    assert (first.weight != other.weight).any()
    free = NgramModel.fit(texts, labels, C=1e6, held_out=0)
    assert free.report is not None and free.report.loss < report.loss


@pytest.mark.parametrize(
    ("texts", "labels", "settings", "error"),
    [
        ("text", [1], {}, TypeError),
        ([b"a", b"b"], [0, 1], {}, TypeError),
        (["a", "b"], [0], {}, ValueError),
        (["a", "b"], [0, 2], {}, ValueError),
        (["a", "b"], [1, 1], {}, ValueError),
        (["a", "b"], [0, 1], {"words": None}, ValueError),
        (["a", "b"], [0, 1], {"words": (2, 1)}, ValueError),
        (["a", "b"], [0, 1], {"words": (1, 6)}, ValueError),
        (["a", "b"], [0, 1], {"characters": 3}, TypeError),
        (["a", "b"], [0, 1], {"n_buckets": 100}, ValueError),
        (["a", "b"], [0, 1], {"tf": "idf"}, ValueError),
        (["a", "b"], [0, 1], {"C": 0}, ValueError),
        (["a", "b"], [0, 1], {"held_out": 1}, ValueError),
    ],
)
def test_fits_that_are_refused(
    texts: Any, labels: Any, settings: dict[str, Any], error: type[Exception]
) -> None:
    with pytest.raises(error):
        NgramModel.fit(texts, labels, **settings)


# --- Files ---------------------------------------------------------------------------


def test_save_and_load(tmp_path: Path) -> None:
    rng = random.Random(6)
    texts, labels = corpus(rng, 80)
    models = [random_model(rng) for _ in range(20)]
    models.append(NgramModel.fit(texts, labels, name="mine"))
    for model in models:
        model.save(tmp_path / "m.safetensors")
        again = NgramModel.load(tmp_path / "m.safetensors")
        assert again.features == model.features and again.report == model.report
        assert (again.name, again.tf, again.norm) == (model.name, model.tf, model.norm)
        assert again.score(texts) == model.score(texts)
    assert again.name == "mine"
    assert [path.name for path in tmp_path.iterdir()] == ["m.safetensors"]


def test_files_that_are_refused(tmp_path: Path) -> None:
    from deal._safetensors import write_tensors

    path = tmp_path / "m.safetensors"
    with pytest.raises(FileNotFoundError):
        NgramModel.load(path)
    path.write_bytes(b"no model")
    with pytest.raises(deal.ModelFormatError):
        NgramModel.load(path)
    weight = np.zeros(2, np.float32)
    write_tensors(path, {"weight": weight}, {"format": "other"})
    with pytest.raises(deal.ModelFormatError, match=r"expected format .* 'other'"):
        NgramModel.load(path)
    settings = json.dumps({"features": {}})
    write_tensors(
        path,
        {"weight": weight},
        {"format": "deal.ngram_model.v1", "settings": settings},
    )
    with pytest.raises(deal.ModelFormatError, match="not a whole n-gram model"):
        NgramModel.load(path)


# --- Weights -------------------------------------------------------------------------


def test_from_weights() -> None:
    model = NgramModel({"good": 2.0, "not good": -3.0}, words=(1, 2), idf={"good": 0.5})
    scores = model.score(["Good.", "not good", ""])
    np.testing.assert_allclose(scores, 1 / (1 + np.exp([-1.0, 2.0, 0.0])), atol=1e-6)
    assert model.range == (0.0, 1.0) and "vocabulary" in repr(model)
    for weights, settings in [
        ({}, {}),
        ({"a": float("nan")}, {}),
        ({"a b c": 1.0}, {"words": (1, 2)}),
        ({"a": 1.0}, {"idf": {"a": 0.0}}),
        ({"a": 1.0}, {"tf": "l2"}),
        ({"a": 1.0}, {"intercept": float("inf")}),
    ]:
        with pytest.raises(ValueError):
            NgramModel(weights, **settings)
    with pytest.raises(TypeError):
        NgramModel([("a", 1.0)])  # type: ignore[arg-type]
