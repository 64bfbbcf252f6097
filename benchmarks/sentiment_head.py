"""A sentiment head over a model's hidden states, fitted in NumPy.

    python -m benchmarks.sentiment_head --train TRAIN.jsonl --dev DEV.jsonl

Data: one JSON record a line with ``input`` (a text) and ``label`` (1 positive, 0
negative), such as the sentence polarity set of Pang and Lee, "Seeing Stars", ACL 2005.
The head is a logistic regression on standardised features with a ridge penalty, found
by Newton's method.
"""

from __future__ import annotations

import argparse
import json
import random
from collections.abc import Sequence
from pathlib import Path

import numpy as np

import deal


def read_texts(path: Path, n: int | None, seed: int) -> tuple[list[str], np.ndarray]:
    """`n` texts drawn with `seed`, or all, and their labels, 0 or 1."""
    with path.open(encoding="utf-8") as file:
        records = [json.loads(line) for line in file]
    if n is not None:
        records = random.Random(seed).sample(records, min(n, len(records)))
    labels = np.array([record["label"] for record in records], dtype=np.float64)
    return [record["input"] for record in records], labels


def fit_logistic(
    x: np.ndarray, labels: np.ndarray, ridge: float, n_step: int = 20
) -> tuple[np.ndarray, float]:
    """Weights (n_features,) and bias that maximise the penalised likelihood.

    Parameters
    ----------
    x : ndarray of float64, shape (n_texts, n_features)
    labels : ndarray, shape (n_texts,)
        0 or 1.
    ridge : float
        Penalty on the squared weights, of all texts together; the bias has none.
    """
    x = np.column_stack([x, np.ones(len(x))])
    penalty = np.full(x.shape[1], ridge)
    penalty[-1] = 0.0
    weight = np.zeros(x.shape[1])
    for _ in range(n_step):
        p = 1 / (1 + np.exp(-np.clip(x @ weight, -30, 30)))
        gradient = x.T @ (labels - p) - penalty * weight
        curvature = (x * (p * (1 - p) + 1e-9)[:, None]).T @ x + np.diag(penalty)
        step = np.linalg.solve(curvature, gradient)
        weight += step
        if np.abs(step).max() < 1e-8:
            break
    return weight[:-1], float(weight[-1])


def fit(
    lm: deal.Model,
    train: Path,
    *,
    layers: Sequence[int] = (-1,),
    pooling: str = "mean",
    n: int | None = 2000,
    ridge: float = 300.0,
    seed: int = 0,
) -> deal.rewards.RewardModel:
    """A head that tells positive texts from negative ones, fitted on `n` of `train`."""
    texts, labels = read_texts(train, n, seed)
    x = lm.hidden(texts, layers=layers, positions=pooling)
    x = x.reshape(len(texts), -1).astype(np.float64)
    mean, std = x.mean(0), x.std(0) + 1e-6
    weight, bias = fit_logistic((x - mean) / std, labels, ridge)
    return deal.rewards.RewardModel(
        weight,
        bias,
        layers=layers,
        pooling=pooling,
        mean=mean,
        std=std,
        model=lm,
        name="sentiment",
    )


def accuracy(
    lm: deal.Model, head: deal.rewards.RewardModel, path: Path, n: int | None = None
) -> float:
    """Share of texts on whose side of one half the head's score lies."""
    texts, labels = read_texts(path, n, 1)
    x = lm.hidden(texts, layers=head.layers, positions=head.pooling)
    z = x.reshape(len(texts), -1).astype(np.float64) @ head.weight + head.bias
    return float(((z > 0) == (labels > 0.5)).mean())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="smollm2-135m-instruct")
    parser.add_argument("--train", type=Path, required=True)
    parser.add_argument("--dev", type=Path, required=True)
    parser.add_argument("--layers", type=int, nargs="+", default=[-1])
    parser.add_argument("--pooling", default="mean")
    parser.add_argument("-n", type=int, default=2000, help="texts to fit on")
    args = parser.parse_args()
    lm = deal.load(args.model)
    head = fit(lm, args.train, layers=args.layers, pooling=args.pooling, n=args.n)
    print(f"train {accuracy(lm, head, args.train, args.n):.3f}")
    print(f"dev   {accuracy(lm, head, args.dev):.3f}")


if __name__ == "__main__":
    main()
