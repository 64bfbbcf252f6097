"""Heads over a frozen model's hidden states: sentiment, toxicity and preferences.

    python -m benchmarks.heads --data ../shared/data --cache STATES --json RESULT

Data sets as in benchmarks.reward_quality, and hh_rlhf (Bai et al., arXiv:2204.05862),
records with ``subset``, ``input`` (the dialogue), ``chosen`` and ``rejected``. Heads
are fitted on train parts. Layer, pooling, width and penalty are those with the least
loss on a share of the train part that is held out; dev parts are scored once, with
these. wiki_toxicity has no train part: its heads have the settings chosen on tweets.
"""

from __future__ import annotations

import argparse
import itertools
import math
import random
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from tqdm.auto import tqdm

import deal
from benchmarks import common, reward_quality
from benchmarks.head_states import POOLINGS, Reader, States
from benchmarks.reward_quality import Labelled, measured
from deal.rewards import Classifier, RewardModel

LAYERS = (5, 9, 13, 17, 21, 25, -1)
CHOICES = (*((layer,) for layer in LAYERS), (9, 17, 25))
VALIDATION = 0.2
N_FOLDS = 5
SUBSETS = ("harmless-base", "helpful-base")


@dataclass(frozen=True)
class Settings:
    """What is chosen on the held-out share."""

    layers: tuple[int, ...]
    pooling: str
    n_hidden: int = 0
    l2: float = 0.1


@dataclass(frozen=True)
class Task:
    """What a head is fitted on: texts with labels, or pairs (labels None)."""

    name: str
    lm: deal.Model
    states: States  # of texts, or of chosen and rejected in turn
    labels: np.ndarray | None
    groups: Sequence[str] = ()  # of pairs: their prompts

    def fit(self, settings: Settings, rows: Sequence[int] | None = None) -> Any:
        """A head with these settings, on some of the texts or on all."""
        kwargs: dict[str, Any] = {
            "layers": settings.layers,
            "pooling": settings.pooling,
            "n_hidden": settings.n_hidden,
            "l2": settings.l2,
            "validation": VALIDATION,
            "progress": False,
            "states": self.states.features(settings.layers, settings.pooling, rows),
        }
        if self.labels is None:
            pairs = [(group, "", "") for group in self.groups]
            return RewardModel.fit(self.lm, pairs, **kwargs)
        labels = self.labels if rows is None else self.labels[rows]
        return Classifier.fit(self.lm, [""] * len(labels), labels, **kwargs)


def candidates() -> Iterator[Settings]:
    """The first round: layers, poolings and penalties of a linear head."""
    for layers, pooling, l2 in itertools.product(CHOICES, POOLINGS, (0.1, 1.0, 10.0)):
        yield Settings(layers, pooling, l2=l2)


def variants(best: Settings) -> Iterator[Settings]:
    """The second round: a hidden layer."""
    for l2 in (0.03, 0.1, 0.3):
        yield Settings(best.layers, best.pooling, 16, l2)


def choose(task: Task) -> tuple[Any, Settings, list[dict[str, Any]]]:
    """The head with the least held-out loss, its settings, and all that were tried."""
    tried = [(s, task.fit(s)) for s in tqdm(list(candidates()), task.name, leave=False)]
    best, _ = min(tried, key=held_out_loss)
    more = tqdm(list(variants(best)), task.name, leave=False)
    tried += [(s, task.fit(s)) for s in more]
    best, head = min(tried, key=held_out_loss)
    rows = [
        {
            "task": task.name,
            "layers": list(settings.layers),
            "pooling": settings.pooling,
            "n_hidden": settings.n_hidden,
            "l2": settings.l2,
            "loss": found.report.validation_loss,
            "accuracy": found.report.validation_accuracy,
            "n": found.report.n_validation,
            "is_chosen": settings == best,
        }
        for settings, found in tried
    ]
    return head, best, rows


def held_out_loss(tried: tuple[Settings, Any]) -> float:
    return tried[1].report.validation_loss


def sentiment_head(lm: deal.Model, path: Path, n: int = 2000) -> Classifier:
    """For searches: likes positive texts, fitted on `n` of a file as rt_polarity's."""
    texts, labels = reward_quality.labelled(path, lambda row: row["label"] == 1)
    rows = random.Random(0).sample(range(len(texts)), min(n, len(texts)))
    return Classifier.fit(
        lm, [texts[i] for i in rows], labels[rows], name="sentiment", progress=False
    )


def decisions(
    head: Any, states: States, rows: Sequence[int] | None = None
) -> np.ndarray:
    return head.decision_function(states.features(head.layers, head.pooling, rows))


# --- texts ----------------------------------------------------------------------------


def sentiment(lm: deal.Model, reader: Reader, folder: Path) -> tuple[list, list]:
    """Film reviews, a sentence each, beside bags of words."""
    train, dev = (
        reward_quality.labelled(folder / f"{part}.jsonl", lambda row: row["label"] == 1)
        for part in ("train", "dev")
    )
    task = Task("rt_polarity", lm, reader.read(train[0]), train[1])
    head, _, tried = choose(task)
    scores = [("head", decisions(head, reader.read(dev[0])))]
    scores += reward_quality.sklearn_baselines(train, dev)
    rows = [
        measured(task.name, name, "accuracy", values, dev[1], 0.78)
        for name, values in scores
        if "imported" not in name
    ]
    return rows, tried


def some_tweets(folder: Path, n: int | None) -> Labelled:
    """`n` of the train part, drawn, or all."""
    texts, labels = reward_quality.read_tweets(folder, "train")
    rows = range(len(texts))
    if n is not None:
        rows = random.Random(0).sample(rows, min(n, len(texts)))
    return [texts[i] for i in rows], labels[list(rows)]


def toxicity(
    lm: deal.Model, reader: Reader, folder: Path, comments: Path | None, n: int | None
) -> tuple[list, list]:
    """Tweets; talk-page comments by the head of tweets, and by heads of other folds."""
    train, dev = some_tweets(folder, n), reward_quality.read_tweets(folder, "dev")
    task = Task("hate_offensive", lm, reader.read(train[0]), train[1])
    head, settings, tried = choose(task)
    scores = decisions(head, reader.read(dev[0]))
    rows = [measured(task.name, "head", "AUROC", scores, dev[1], 0.9)]
    if comments is None:
        return rows, tried
    texts, labels = reward_quality.labelled(
        comments / "dev.jsonl", lambda row: row["toxic"]
    )
    task = Task("wiki_toxicity", lm, reader.read(texts), labels)
    fold = np.arange(len(texts)) % N_FOLDS
    random.Random(0).shuffle(fold)
    folded = np.zeros(len(texts))
    for k in range(N_FOLDS):
        inside = np.flatnonzero(fold == k)
        other = task.fit(settings, np.flatnonzero(fold != k))
        folded[inside] = decisions(other, task.states, inside)
    ways = {
        "head, fitted on tweets": decisions(head, task.states),
        f"head, fitted on {N_FOLDS} folds": folded,
    }
    rows += [
        measured(task.name, name, "AUROC", values, labels, 0.9)
        for name, values in ways.items()
    ]
    return rows, tried


# --- preferences ----------------------------------------------------------------------


@dataclass(frozen=True)
class Pairs:
    """Preferences of one subset: states of chosen and rejected in turn."""

    prompts: list[str]
    lengths: np.ndarray  # (2 * n_pairs,) characters of the answers
    states: States


def read_pairs(reader: Reader, path: Path, subset: str, n: int | None) -> Pairs:
    """The first `n` of a subset, or all. An answer follows "Assistant:" and a space."""
    rows = [row for row in reward_quality.read_rows(path) if row["subset"] == subset]
    rows = rows[:n]
    answers = [" " + row[key] for row in rows for key in ("chosen", "rejected")]
    prompts = [row["input"] for row in rows]
    states = reader.read(answers, [prompt for prompt in prompts for _ in range(2)])
    return Pairs(prompts, np.array([len(text) for text in answers]), states)


def joined(parts: Sequence[Pairs]) -> Pairs:
    array = np.concatenate([part.states.array for part in parts], axis=1)
    return Pairs(
        [prompt for part in parts for prompt in part.prompts],
        np.concatenate([part.lengths for part in parts]),
        States(array, parts[0].states.layers),
    )


def ordered(task: str, model: str, scores: np.ndarray) -> dict[str, Any]:
    """Share of pairs in the right order, ties half, with Wilson's 95 % interval."""
    gap = scores[0::2] - scores[1::2]
    n, z = len(gap), 1.959964
    share = float(((gap > 0) + 0.5 * (gap == 0)).mean())
    middle = (share + z * z / (2 * n)) / (1 + z * z / n)
    half = z * math.sqrt(share * (1 - share) / n + z * z / (4 * n * n))
    half /= 1 + z * z / n
    return {
        "task": task,
        "model": model,
        "measure": "pair accuracy",
        "value": share,
        "low": middle - half,
        "high": middle + half,
        "n": n,
        "goal": None,
    }


def preferences(
    lm: deal.Model, reader: Reader, folder: Path, n: int | None
) -> tuple[list, list]:
    """Heads of each subset and of both, on the dev part of each and of both."""
    train = {s: read_pairs(reader, folder / "train.jsonl", s, n) for s in SUBSETS}
    dev = {s: read_pairs(reader, folder / "dev.jsonl", s, None) for s in SUBSETS}
    train["both"], dev["both"] = (
        joined([part[s] for s in SUBSETS]) for part in (train, dev)
    )
    rows, tried = [], []
    for name, part in train.items():
        task = Task(f"hh_rlhf {name}", lm, part.states, None, part.prompts)
        head, _, found = choose(task)
        tried += found
        for other, pairs in dev.items():
            scores = decisions(head, pairs.states)
            rows.append(ordered(f"hh_rlhf {other}", f"head of {name}", scores))
    for name, pairs in dev.items():
        rows.append(ordered(f"hh_rlhf {name}", "the longer answer", pairs.lengths))
    return sorted(rows, key=lambda row: list(dev).index(row["task"][8:])), tried


# --- command --------------------------------------------------------------------------


def run(arguments: argparse.Namespace) -> dict[str, Any]:
    """Measure, and return the result document."""
    lm = deal.load(arguments.model, threads=arguments.threads)
    reader = Reader(lm, LAYERS, arguments.cache)
    data = arguments.data
    result: dict[str, Any] = {
        "benchmark": "heads",
        "settings": {
            "model": arguments.model,
            "model_file": lm.path.name,
            "compute": lm.compute,
            "n_tweets": arguments.n_tweets,
            "n_pairs": arguments.n_pairs,
            "validation": VALIDATION,
        },
        "rows": [],
        "tried": [],
    }
    parts = []
    if (data / "rt_polarity").is_dir():
        parts.append(lambda: sentiment(lm, reader, data / "rt_polarity"))
    if (data / "hate_offensive").is_dir():
        comments = data / "wiki_toxicity"
        parts.append(
            lambda: toxicity(
                lm,
                reader,
                data / "hate_offensive",
                comments if comments.is_dir() else None,
                arguments.n_tweets,
            )
        )
    if (data / "hh_rlhf").is_dir():
        parts.append(
            lambda: preferences(lm, reader, data / "hh_rlhf", arguments.n_pairs)
        )
    for part in parts:
        rows, tried = part()
        result["rows"] += rows
        result["tried"] += tried
    return result | {"environment": common.environment()}


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.heads", description=__doc__.partition("\n")[0]
    )
    parser.add_argument("--data", type=Path, required=True, help="folder of data sets")
    parser.add_argument("--cache", type=Path, help="folder that keeps hidden states")
    parser.add_argument("--model", default="smollm2-135m-instruct")
    parser.add_argument("--threads", type=int)
    parser.add_argument("--n-tweets", type=int, help="tweets to fit on; default: all")
    parser.add_argument("--n-pairs", type=int, help="pairs of a subset; default: all")
    parser.add_argument("--json", type=Path, help="file for the result")
    arguments = parser.parse_args(argv)
    result = run(arguments)
    for row in result["rows"]:
        print(row)
    if arguments.json is not None:
        common.write_json(arguments.json, result)
    return 0


if __name__ == "__main__":
    sys.exit(main())
