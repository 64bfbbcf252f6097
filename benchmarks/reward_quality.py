"""Sentiment and toxicity on data sets of others; a part of benchmarks.rewards.

Records are JSON, one a line, with ``input`` and a label: ``label`` 0 or 1 of
rt_polarity (Pang and Lee, ACL 2005), ``label`` "hate", "offensive" or "neither" of
hate_offensive (Davidson et al., ICWSM 2017), ``toxic`` of wiki_toxicity (Dixon et al.,
AIES 2018). Nothing is fitted on texts that are scored; but the defaults of
NgramModel.fit were chosen with these dev parts in view.
"""

from __future__ import annotations

import argparse
import json
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from deal.rewards import Lexicon, NgramModel

FOLDERS = ("rt_polarity", "hate_offensive", "wiki_toxicity", "lexicons")
MODELS: dict[str, dict[str, Any]] = {
    "NgramModel, words (1, 2)": {},
    "NgramModel, words (1, 2) and characters (2, 5)": {"characters": (2, 5)},
}
N_FOLDS, N_BOOTSTRAP = 5, 1000

Labelled = tuple[list[str], np.ndarray]  # texts, and bools (n_texts,)


@dataclass(frozen=True)
class Data:
    """Folders of the data sets; None where one is not there."""

    rt_polarity: Path | None = None
    hate_offensive: Path | None = None
    wiki_toxicity: Path | None = None
    lexicons: Path | None = None

    @classmethod
    def find(cls, arguments: argparse.Namespace) -> Data:
        """From the command line: a folder of its own, or one below ``--data``."""
        found = {}
        for name in FOLDERS:
            path = getattr(arguments, name)
            if path is None and arguments.data is not None:
                path = arguments.data / name
            found[name] = path if path is not None and path.is_dir() else None
        return cls(**found)


def read_rows(path: Path) -> list[dict[str, Any]]:
    with path.open(encoding="utf-8") as file:
        return [json.loads(line) for line in file]


def labelled(path: Path, is_high: Callable[[dict[str, Any]], bool]) -> Labelled:
    rows = read_rows(path)
    return [row["input"] for row in rows], np.array([is_high(row) for row in rows])


# --- measures -------------------------------------------------------------------------


def auroc(scores: np.ndarray, labels: np.ndarray) -> float:
    """Chance that a text of label 1 scores above one of label 0; ties count half."""
    order = np.sort(scores)
    low, high = np.searchsorted(order, scores), np.searchsorted(order, scores, "right")
    ranks = (low + high + 1) / 2
    n_high = int(labels.sum())
    n_low = len(labels) - n_high
    return float((ranks[labels].sum() - n_high * (n_high + 1) / 2) / (n_high * n_low))


def accuracy(scores: np.ndarray, labels: np.ndarray) -> float:
    """Share on the right side of the middle; scores are shifted so that this is 0."""
    return float(((scores > 0) == labels).mean())


def measured(
    task: str, model: str, measure: str, scores: Any, labels: np.ndarray, goal: float
) -> dict[str, Any]:
    """A row of the result, with a 95 % interval by the percentile bootstrap."""
    of = {"accuracy": accuracy, "AUROC": auroc}[measure]
    scores = np.asarray(scores)
    rng = np.random.default_rng(0)
    draws = []
    for _ in range(N_BOOTSTRAP):
        rows = rng.integers(len(labels), size=len(labels))
        if 0 < labels[rows].sum() < len(rows):
            draws.append(of(scores[rows], labels[rows]))
    low, high = np.quantile(draws, [0.025, 0.975])
    return {
        "task": task,
        "model": model,
        "measure": measure,
        "value": of(scores, labels),
        "low": float(low),
        "high": float(high),
        "n": len(labels),
        "goal": goal,
    }


# --- tasks ----------------------------------------------------------------------------


def sklearn_baselines(train: Labelled, dev: Labelled) -> list[tuple[str, Any]]:
    """scikit-learn's logistic regressions over bags of words; none without it."""
    try:
        from sklearn.feature_extraction.text import CountVectorizer, TfidfVectorizer
        from sklearn.linear_model import LogisticRegression
        from sklearn.pipeline import make_pipeline
    except ImportError:
        return []
    vectorizers = {
        "scikit-learn, counts of words": CountVectorizer(),
        "scikit-learn, tf-idf of words (1, 2)": TfidfVectorizer(
            ngram_range=(1, 2), sublinear_tf=True, token_pattern=r"(?u)\b\w+\b"
        ),
    }
    found = []
    for name, vectorizer in vectorizers.items():
        pipeline = make_pipeline(vectorizer, LogisticRegression(C=10, max_iter=1000))
        pipeline.fit(*train)
        found.append((name, pipeline.decision_function(dev[0])))
        imported = NgramModel.from_sklearn(pipeline)
        found.append((f"{name}, imported", np.array(imported.score(dev[0])) - 0.5))
    return found


def sentiment(folder: Path, lexicons: Path | None) -> list[dict[str, Any]]:
    """Positive or negative film reviews, one sentence each."""
    train, dev = (
        labelled(folder / f"{part}.jsonl", lambda row: row["label"] == 1)
        for part in ("train", "dev")
    )
    found = sklearn_baselines(train, dev)
    for name, settings in MODELS.items():
        scores = NgramModel.fit(*train, **settings).score(dev[0])
        found.append((name, np.array(scores) - 0.5))
    if lexicons is not None:
        vader = Lexicon.from_file(lexicons / "vader_lexicon.txt")
        found.append(("Lexicon, VADER's", vader.score(dev[0])))
    return [
        measured("rt_polarity", name, "accuracy", scores, dev[1], 0.78)
        for name, scores in found
    ]


def is_offensive(row: dict[str, Any]) -> bool:
    return row["label"] != "neither"


def read_tweets(folder: Path, part: str) -> Labelled:
    return labelled(folder / f"{part}.jsonl", is_offensive)


def rude_words(lexicons: Path) -> Lexicon:
    return Lexicon.from_file(lexicons / "ldnoobw_en.txt", weight=1.0, window=0)


def tweets(folder: Path, lexicons: Path | None) -> list[dict[str, Any]]:
    """Hateful or offensive tweets against others."""
    train, dev = read_tweets(folder, "train"), read_tweets(folder, "dev")
    found = [
        (name, NgramModel.fit(*train, **settings).score(dev[0]))
        for name, settings in MODELS.items()
    ]
    if lexicons is not None:
        found.append(("Lexicon, LDNOOBW's", rude_words(lexicons).score(dev[0])))
    return [
        measured("hate_offensive", name, "AUROC", scores, dev[1], 0.9)
        for name, scores in found
    ]


def folded_scores(
    rows: Labelled, more: Labelled | None, settings: dict[str, Any]
) -> np.ndarray:
    """Scores of texts by models that were fitted on the other folds, and on `more`."""
    texts, labels = rows
    fold = np.arange(len(texts)) % N_FOLDS
    random.Random(0).shuffle(fold)
    scores = np.zeros(len(texts))
    for k in range(N_FOLDS):
        train = [texts[i] for i in np.flatnonzero(fold != k)]
        target = labels[fold != k].tolist()
        if more is not None:
            train, target = train + more[0], target + more[1].tolist()
        model = NgramModel.fit(train, target, **settings)
        scores[fold == k] = model.score([texts[i] for i in np.flatnonzero(fold == k)])
    return scores


def comments(
    folder: Path, tweets_folder: Path | None, lexicons: Path | None
) -> list[dict[str, Any]]:
    """Toxic talk-page comments; there is a dev part alone."""
    dev = labelled(folder / "dev.jsonl", lambda row: row["toxic"])
    train = None if tweets_folder is None else read_tweets(tweets_folder, "train")
    found: list[tuple[str, Any]] = []
    for name, settings in MODELS.items():
        if train is not None:
            model = NgramModel.fit(*train, **settings)
            found.append((f"{name}, fitted on tweets", model.score(dev[0])))
        ways = {"": None} if train is None else {"": None, " and tweets": train}
        for what, more in ways.items():
            scores = folded_scores(dev, more, settings)
            found.append((f"{name}, fitted on {N_FOLDS} folds{what}", scores))
    if lexicons is not None:
        found.append(("Lexicon, LDNOOBW's", rude_words(lexicons).score(dev[0])))
    return [
        measured("wiki_toxicity", name, "AUROC", scores, dev[1], 0.9)
        for name, scores in found
    ]


def quality(data: Data) -> Sequence[dict[str, Any]]:
    """Rows of all tasks whose data are there."""
    rows: list[dict[str, Any]] = []
    if data.rt_polarity is not None:
        rows += sentiment(data.rt_polarity, data.lexicons)
    if data.hate_offensive is not None:
        rows += tweets(data.hate_offensive, data.lexicons)
    if data.wiki_toxicity is not None:
        rows += comments(data.wiki_toxicity, data.hate_offensive, data.lexicons)
    return rows
