"""Fits of heads over hidden states: a twin in NumPy, scikit-learn, files, bad input."""

from __future__ import annotations

import json
import signal
import struct
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from generation import PROMPT, SEARCH
from tiny_model import TinyConfig, make_tiny, write_gguf

import deal
from deal import ModelFormatError, _core
from deal._safetensors import read_tensors, write_tensors
from deal.rewards import Classifier, RewardModel, pooled_states

N_EMBD = 64
ACTIVATIONS = ("tanh", "relu", "gelu")
QUIET = {"progress": False}


@pytest.fixture(scope="module")
def lm(tmp_path_factory: pytest.TempPathFactory) -> deal.Model:
    path = tmp_path_factory.mktemp("heads") / "tiny.gguf"
    write_gguf(make_tiny(TinyConfig(seed=0, n_layer=3)), path)
    return deal.load(path, compute="f32", threads=1)


@pytest.fixture(scope="module")
def other(tmp_path_factory: pytest.TempPathFactory) -> deal.Model:
    """The same hyper-parameters with other weights."""
    path = tmp_path_factory.mktemp("heads") / "tiny.gguf"
    write_gguf(make_tiny(TinyConfig(seed=1, n_layer=3)), path)
    return deal.load(path, compute="f32", threads=1)


# --- the twin -------------------------------------------------------------------------


def activate(name: str, z: np.ndarray) -> np.ndarray:
    if name == "tanh":
        return np.tanh(z)
    if name == "relu":
        return np.maximum(z, 0)
    erf = np.vectorize(__import__("math").erf)
    return z * (1 + erf(z / np.sqrt(2))) / 2


def log_loss(margin: np.ndarray) -> np.ndarray:
    return np.logaddexp(0, -margin)


def twin_loss(
    point: np.ndarray,
    x: np.ndarray,
    target: np.ndarray | None,
    cost: np.ndarray | None,
    n_hidden: int,
    activation: str,
    l2: float,
) -> float:
    """As csrc/reward/head_fit.h states it; x (n, n_in), or (n, 2, n_in) of pairs."""
    n_first = x.shape[-1] * n_hidden
    first = point[:n_first].reshape(-1, n_hidden)
    bias, weight, last = np.split(point[n_first:], [n_hidden, 2 * n_hidden])
    f = activate(activation, x.astype(np.float64) @ first + bias) @ weight + last[0]
    margin = f[:, 0] - f[:, 1] if target is None else np.where(target > 0.5, f, -f)
    loss = np.average(log_loss(margin), weights=cost)
    return loss + l2 / 2 * ((first**2).sum() + (weight**2).sum())


def random_task(seed: int, n: int, n_in: int, is_pairs: bool) -> tuple[Any, ...]:
    """Features of odd scales, targets that a plane and a product decide, and costs."""
    rng = np.random.default_rng(seed)
    shape = (n, 2, n_in) if is_pairs else (n, n_in)
    x = rng.normal(size=shape) * rng.uniform(0.1, 9, n_in) + rng.normal(size=n_in) * 5
    z = (x - x.mean(tuple(range(x.ndim - 1)))) / x.std(tuple(range(x.ndim - 1)))
    side = z[..., 0] + z[..., 1] * z[..., 2] + 0.7 * rng.normal(size=shape[:-1])
    if not is_pairs:
        cost = rng.uniform(0.5, 2, n).astype(np.float32)
        return x.astype(np.float32), (side > 0).astype(np.float32), cost
    order = np.argsort(-side, axis=1)
    x = np.take_along_axis(x, order[..., None], axis=1)
    return x.astype(np.float32), None, None


@pytest.mark.parametrize("is_pairs", [False, True])
@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize("n_in, n_hidden, n", [(3, 1, 2), (5, 3, 7), (9, 4, 1)])
def test_loss_and_gradient(
    n_in: int, n_hidden: int, n: int, activation: str, is_pairs: bool
) -> None:
    x, target, cost = random_task(n, 9, n_in, is_pairs)
    x = x[:n] / 5
    if not is_pairs:
        target, cost = target[:n], cost[:n]
    rng = np.random.default_rng(n_in)
    point = rng.normal(size=n_in * n_hidden + 2 * n_hidden + 1)
    kind = ACTIVATIONS.index(activation)

    def core(at: np.ndarray) -> tuple[float, np.ndarray]:
        loss, raw = _core.head_fit_loss(
            x, n_in, target, cost, n, n_hidden, kind, 0.3, at
        )
        return loss, np.frombuffer(raw)

    loss, gradient = core(point)
    wanted = twin_loss(point, x, target, cost, n_hidden, activation, 0.3)
    assert loss == pytest.approx(wanted, rel=1e-12)
    step = 1e-6
    for j in range(len(point)):
        near = np.zeros(len(point))
        near[j] = step
        slope = (core(point + near)[0] - core(point - near)[0]) / (2 * step)
        assert gradient[j] == pytest.approx(slope, abs=2e-8)


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_scores_of_a_hidden_layer(lm: deal.Model, activation: str) -> None:
    rng = np.random.default_rng(1)
    layers, n_hidden = (2, -1), 7
    first = rng.normal(size=(n_hidden, 2 * N_EMBD)) * 0.2
    second, shift = rng.normal(size=(2, n_hidden)) * 0.3
    mean, std = rng.normal(size=2 * N_EMBD), rng.uniform(0.5, 2, 2 * N_EMBD)
    for pooling in ("last", "mean"):
        head = RewardModel(
            second,
            0.4,
            hidden_weight=first,
            hidden_bias=shift,
            activation=activation,
            layers=layers,
            pooling=pooling,
            mean=mean,
            std=std,
            model=lm,
        )
        texts = [" a dog ran", " the sun", ""]
        x = pooled_states(lm, texts, [PROMPT] * 3, layers=layers, pooling=pooling)
        rows = (x.reshape(3, -1).astype(np.float64) - mean) / std
        z = activate(activation, rows @ first.T + shift) @ second + 0.4
        assert head.decision_function(x) == pytest.approx(z, abs=1e-9)
        wanted = 1 / (1 + np.exp(-z))
        assert head.score(texts, PROMPT) == pytest.approx(wanted, abs=1e-6)
        assert np.ptp(wanted) > 0.01
        r = lm.generate(PROMPT, rewards=head, search=SEARCH, max_new_tokens=7)
        assert head.score([r.token_ids], PROMPT) == [r.reward]


def test_a_hidden_layer_on_another_model(lm: deal.Model, other: deal.Model) -> None:
    rng = np.random.default_rng(2)
    head = RewardModel(
        rng.normal(size=3),
        hidden_weight=rng.normal(size=(3, N_EMBD)) * 0.2,
        pooling="mean",
        model=other,
    )
    texts = [" a dog", " the sun ran"]
    judge = deal.rewards.from_model(other, head)
    assert judge.score(texts, PROMPT) == pytest.approx(head.score(texts, PROMPT))
    r = lm.generate(PROMPT, rewards=judge, search=SEARCH, max_new_tokens=5)
    assert 0 < r.reward < 1


def test_weights_given_are_not_changed() -> None:
    weight, hidden = np.ones(3), np.ones((3, 8))
    RewardModel(weight, hidden_weight=hidden, mean=np.ones(8), std=np.full(8, 2.0))
    assert (weight == 1).all() and (hidden == 1).all()


# --- pooled states --------------------------------------------------------------------


def test_pooled_states_are_those_of_the_texts(lm: deal.Model) -> None:
    texts = [" a dog", " a dog ran", "", " the"]
    layers = (1, -1)
    both = pooled_states(
        lm, texts, [PROMPT] * 4, layers=layers, pooling=("mean", "last")
    )
    assert both.shape == (2, 4, 2, N_EMBD)
    n = len(lm.tokenizer.encode(PROMPT))
    for i, text in enumerate(texts):
        states = lm.hidden(PROMPT + text, layers=layers, positions="all")
        told = states[:, n:] if text else states[:, n - 1 :]
        mean = told.astype(np.float64).mean(1)
        assert both[0, i] == pytest.approx(mean, abs=1e-6)
        assert (both[1, i] == told[:, -1]).all()
    alone = pooled_states(lm, texts[:2], layers=layers, pooling="mean")
    assert (alone == lm.hidden(texts[:2], layers=layers, positions="mean")).all()


def test_bad_pooled_states(lm: deal.Model) -> None:
    with pytest.raises(ValueError, match="pooling: expected one of last, mean"):
        pooled_states(lm, ["a"], pooling=())
    with pytest.raises(ValueError, match="prompts: expected a list of 1"):
        pooled_states(lm, ["a"], ["a", "b"])
    with pytest.raises(TypeError, match="completions: expected a list"):
        pooled_states(lm, "a")
    with pytest.raises(ValueError, match="expected at least one text"):
        pooled_states(lm, [])


# --- fits -----------------------------------------------------------------------------


def states_of(lm: deal.Model, x: np.ndarray) -> np.ndarray:
    """Features as if they were states: those that are missing are 0."""
    rows = np.zeros((x.size // x.shape[-1], 1, N_EMBD), np.float32)
    rows[:, 0, : x.shape[-1]] = x.reshape(-1, x.shape[-1])
    return rows


@pytest.mark.parametrize("l2", [0.003, 0.1, 2.0])
@pytest.mark.parametrize("class_weight", [None, "balanced"])
def test_linear_optimum_is_scikit_learns(
    lm: deal.Model, l2: float, class_weight: str | None
) -> None:
    linear = pytest.importorskip("sklearn.linear_model")
    x, target, _ = random_task(3, 400, 12, is_pairs=False)
    target = (np.arange(400) % 4 == 0) | (target > 0)
    states = states_of(lm, x)
    head = Classifier.fit(
        lm,
        ["a"] * 400,
        target,
        l2=l2,
        class_weight=class_weight,
        validation=0,
        tolerance=1e-9,
        states=states,
        **QUIET,
    )
    assert head.report.converged and head.report.validation_loss is None
    z = (x - x.mean(0, dtype=np.float64)) / x.std(0, dtype=np.float64)
    # Balanced costs have a sum of n, as the plain ones have.
    found = linear.LogisticRegression(
        C=1 / (l2 * 400), tol=1e-10, max_iter=5000, class_weight=class_weight
    ).fit(z, target)
    decision = head.decision_function(states)
    assert decision == pytest.approx(found.decision_function(z), abs=2e-5)
    assert decision.std() > 0.05


def test_linear_preferences_are_a_regression_of_differences(lm: deal.Model) -> None:
    linear = pytest.importorskip("sklearn.linear_model")
    x, _, _ = random_task(4, 300, 12, is_pairs=True)
    pairs = [(str(i), "a", "b") for i in range(300)]
    states = states_of(lm, x)
    head = RewardModel.fit(
        lm, pairs, l2=0.05, validation=0, tolerance=1e-9, states=states, **QUIET
    )
    flat = x.reshape(600, -1).astype(np.float64)
    z = (flat - flat.mean(0)) / flat.std(0)
    difference = z[0::2] - z[1::2]
    both = np.concatenate([difference, -difference])  # scikit-learn wants two labels
    found = linear.LogisticRegression(
        C=1 / (0.05 * 600), tol=1e-10, max_iter=5000, fit_intercept=False
    ).fit(both, np.repeat([1, 0], 300))
    decision = head.decision_function(states)
    assert decision == pytest.approx(z @ found.coef_[0], abs=2e-5)
    assert abs(decision.mean()) < 1e-5


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_a_hidden_layer_fits_what_a_plane_cannot(
    lm: deal.Model, activation: str
) -> None:
    rng = np.random.default_rng(5)
    x = rng.normal(size=(400, 4))
    target = x[:, 0] * x[:, 1] > 0
    texts, states = ["a"] * 400, states_of(lm, x)
    settings = {"l2": 1e-3, "validation": 0.2, "states": states, **QUIET}
    plane = Classifier.fit(lm, texts, target, **settings)
    settings |= {"activation": activation, "n_hidden": 16}
    bent = Classifier.fit(lm, texts, target, **settings)
    assert plane.report.validation_accuracy < 0.7
    assert bent.report.validation_accuracy > 0.85
    assert bent.report.n_validation == 80 and bent.report.n_fitted == 320
    again = Classifier.fit(lm, texts, target, **settings)
    assert (again.hidden_weight == bent.hidden_weight).all()
    assert again.bias == bent.bias
    other = Classifier.fit(lm, texts, target, **settings | {"seed": 1})
    assert not (other.hidden_weight == bent.hidden_weight).all()


@pytest.mark.parametrize("n_hidden", [0, 6])
def test_preferences_are_calibrated(lm: deal.Model, n_hidden: int) -> None:
    """Over many pairs, the log odds of two scores are those of the preference."""
    x, _, _ = random_task(6, 1500, 5, is_pairs=True)
    pairs = [(str(i), "a", "b") for i in range(1500)]
    head = RewardModel.fit(
        lm, pairs, n_hidden=n_hidden, l2=1.0, validation=0.4, states=states_of(lm, x),
        **QUIET,
    )  # fmt: skip
    r = head.decision_function(states_of(lm, x))
    difference = r[0::2] - r[1::2]
    sure = np.abs(difference)
    chance = 1 / (1 + np.exp(-sure))
    for low, high in ((0.0, 0.5), (0.5, 1.0)):
        rows = (sure >= np.quantile(sure, low)) & (sure <= np.quantile(sure, high))
        right = (difference[rows] > 0).mean()
        assert right == pytest.approx(chance[rows].mean(), abs=0.06)
    assert abs(r.mean()) < 0.2 and 0.6 < head.report.validation_accuracy < 1


def test_labels_are_calibrated(lm: deal.Model) -> None:
    x, target, _ = random_task(7, 2000, 5, is_pairs=False)
    head = Classifier.fit(
        lm, ["a"] * 2000, target, l2=3.0, validation=0.4, states=states_of(lm, x),
        **QUIET,
    )  # fmt: skip
    score = 1 / (1 + np.exp(-head.decision_function(states_of(lm, x))))
    for low, high in ((0, 0.5), (0.5, 1)):
        rows = (score >= low) & (score < high)
        assert target[rows].mean() == pytest.approx(score[rows].mean(), abs=0.05)
    assert score.std() > 0.1


def test_constant_and_huge_features(lm: deal.Model) -> None:
    x, target, _ = random_task(8, 60, 4, is_pairs=False)
    x[:, 3] = 1e6
    x[:, 2] *= 1e6
    head = Classifier.fit(
        lm, ["a"] * 60, target, states=states_of(lm, x), n_hidden=3, **QUIET
    )
    assert np.isfinite(head.decision_function(states_of(lm, x))).all()


def test_pairs_of_a_prompt_are_held_out_together(lm: deal.Model) -> None:
    from deal.rewards.reward_model import _split_groups

    prompts = [str(i % 7) for i in range(50)]
    for seed in range(5):
        order, n_train = _split_groups(prompts, 0.3, seed)
        assert sorted(order) == list(range(50)) and 0 < n_train < 50
        kept = {prompts[i] for i in order[:n_train]}
        assert not kept & {prompts[i] for i in order[n_train:]}
    assert _split_groups(["a"] * 5, 0.5, 0)[1] == 5


def test_fits_from_texts(lm: deal.Model) -> None:
    """Texts are read as scores read them, in both forms of a pair."""
    pairs = [("ab " * (i % 3 + 1), " good dog", " bad cat") for i in range(12)]
    fields = [
        dict(zip(("prompt", "chosen", "rejected"), p, strict=True)) for p in pairs
    ]
    settings = {"layers": (1, -1), "pooling": "mean", "validation": 0, **QUIET}
    head = RewardModel.fit(lm, pairs, **settings)
    same = RewardModel.fit(lm, fields, **settings)
    assert (same.weight == head.weight).all() and same.bias == head.bias
    good, bad = head.score([" good dog", " bad cat"], pairs[0][0])
    assert good > 0.5 > bad
    texts, labels = ["a b c", "x y z"] * 6, [1, 0] * 6
    plain = Classifier.fit(lm, texts, labels, validation=0, **QUIET)
    x = pooled_states(lm, texts[:2], pooling="mean")
    high, low = plain.decision_function(x)
    assert high > 0 > low and plain.name == "classifier"
    told = Classifier.fit(lm, texts, labels, prompts=["a"] * 12, validation=0, **QUIET)
    high, low = told.score(texts[:2], "a")
    assert high > 0.5 > low
    r = lm.generate(PROMPT, rewards=told, search=SEARCH, max_new_tokens=5)
    assert 0 < r.rewards["classifier"] < 1


@pytest.mark.usefixtures("ctrl_c")
def test_progress_and_interrupts(
    lm: deal.Model, capsys: pytest.CaptureFixture[str]
) -> None:
    x, target, _ = random_task(9, 60, 4, is_pairs=False)
    states = states_of(lm, x)
    Classifier.fit(lm, ["a"] * 60, target, states=states)
    assert "loss" in capsys.readouterr().err
    big = np.random.default_rng(0).normal(size=(8000, 1, N_EMBD)).astype(np.float32)
    labels = np.arange(8000) % 2  # a fit of many seconds
    timer = threading.Timer(
        0.2, signal.pthread_kill, (threading.main_thread().ident, signal.SIGINT)
    )
    timer.start()
    with pytest.raises(KeyboardInterrupt):
        Classifier.fit(
            lm, ["a"] * 8000, labels, states=big, n_hidden=256, l2=0.0, validation=0,
            max_steps=2**31 - 1, tolerance=0.0, **QUIET,
        )  # fmt: skip
    timer.join()


# --- files ----------------------------------------------------------------------------


def fitted(lm: deal.Model, n_hidden: int) -> Classifier:
    x, target, _ = random_task(10, 60, 9, is_pairs=False)
    return Classifier.fit(
        lm, ["a"] * 60, target, n_hidden=n_hidden, states=states_of(lm, x), **QUIET
    )


@pytest.mark.parametrize("n_hidden", [0, 5])
def test_a_file_gives_the_same_head(
    lm: deal.Model, tmp_path: Path, n_hidden: int
) -> None:
    head = fitted(lm, n_hidden)
    head.save(tmp_path / "head.safetensors")
    again = Classifier.load(tmp_path / "head.safetensors", model=lm)
    x = np.random.default_rng(0).normal(size=(20, N_EMBD))
    assert (again.decision_function(x) == head.decision_function(x)).all()
    assert again.report == head.report and repr(again) == repr(head)
    assert again.score(["a dog"], PROMPT) == head.score(["a dog"], PROMPT)


def test_heads_of_other_models_are_refused(
    lm: deal.Model, other: deal.Model, tmp_path: Path
) -> None:
    path = tmp_path / "head.safetensors"
    fitted(lm, 0).save(path)
    assert lm.fingerprint != other.fingerprint
    with pytest.raises(ValueError, match=r"expected a head of tiny\.gguf \(fingerpr"):
        Classifier.load(path, model=other)
    with pytest.raises(ModelFormatError, match="expected a reward_model, got 'classif"):
        RewardModel.load(path, model=lm)
    with pytest.raises(ValueError, match="a file names the model.*model=lm"):
        RewardModel(np.ones(N_EMBD)).save(path)
    copy = tmp_path / "renamed.gguf"
    copy.write_bytes(lm.path.read_bytes())
    moved = deal.load(copy, compute="f32", threads=1)
    assert moved.fingerprint == lm.fingerprint  # of the content, not of the name
    Classifier.load(path, model=moved)


BAD_SETTINGS = [
    {"layers": [7]},
    {"layers": "x"},
    {"layers": None},
    {"pooling": ["last"]},
    {"activation": "sin"},
    {"bias": "NaN"},
    {"bias": None},
    {"name": 3},
    {"report": [1]},
    {"report": {"loss": 1}},
    {"surprise": 1},
    {"model": 1},
    {"weight": [1]},
]


def test_damaged_files(lm: deal.Model, tmp_path: Path) -> None:
    path, bad = tmp_path / "head.safetensors", tmp_path / "bad.safetensors"
    fitted(lm, 3).save(path)
    tensors, metadata = read_tensors(path)
    settings = json.loads(metadata["settings"])

    def refused(tensors: Any, metadata: Any) -> None:
        write_tensors(bad, tensors, metadata)
        with pytest.raises(ModelFormatError, match=r"bad\.safetensors"):
            Classifier.load(bad, model=lm)

    for change in BAD_SETTINGS:
        refused(tensors, metadata | {"settings": json.dumps(settings | change)})
    for text in ("", "[]", "{", "[" * 10**5, '{"kind": "classifier"}'):
        refused(tensors, metadata | {"settings": text})
    refused(tensors, metadata | {"format": "deal.head.v2"})
    refused(tensors, {"format": metadata["format"], "fingerprint": lm.fingerprint})
    refused({}, metadata)
    for change in ({"settings": 3}, {"settings": ["a"]}, {"model": None}):
        refused(tensors, metadata | change)
    raw = path.read_bytes()
    (size,) = struct.unpack("<Q", raw[:8])
    deep = raw[8 : 8 + size].replace(b"[3]", b"[3" + b", 1" * 64 + b"]")
    bad.write_bytes(struct.pack("<Q", len(deep)) + deep + raw[8 + size :])
    with pytest.raises(ModelFormatError, match="expected a shape"):
        Classifier.load(bad, model=lm)
    nan = tensors["hidden_weight"].copy()
    nan[1, 2] = np.nan
    for change in (
        {"hidden_weight": nan},
        {"hidden_weight": tensors["hidden_weight"][:, :5]},
        {"hidden_bias": np.ones(4)},
        {"weight": np.ones((3, 3))},
        {"more": np.ones(1)},
    ):
        refused(tensors | change, metadata)


def test_random_damage_is_refused_or_harmless(lm: deal.Model, tmp_path: Path) -> None:
    path, bad = tmp_path / "head.safetensors", tmp_path / "bad.safetensors"
    fitted(lm, 2).save(path)
    raw = path.read_bytes()
    (size,) = struct.unpack("<Q", raw[:8])
    rng = np.random.default_rng(0)
    n_refused = 0
    for i in range(400):
        part = bytearray(raw)
        for _ in range(rng.integers(1, 4)):
            part[rng.integers(8 + size)] = rng.integers(256)
        bad.write_bytes(part[: rng.integers(len(raw))] if i % 4 == 0 else part)
        try:
            head = Classifier.load(bad, model=lm)
        except (ValueError, NotImplementedError):  # ModelFormatError is a ValueError
            n_refused += 1
        else:
            assert np.isfinite(head.decision_function(np.ones((1, N_EMBD)))).all()
    assert n_refused > 250


# --- bad input ------------------------------------------------------------------------


@pytest.mark.parametrize(
    "change, message",
    [
        ({"labels": [1, 0, 1]}, "labels: expected 4, as many as texts"),
        ({"labels": [1, 1, 1, 1]}, "labels: expected both 0 and 1"),
        ({"labels": [1, 0, 2, 1]}, r"labels\[2\]: expected 0 or 1"),
        ({"l2": -1.0}, "l2: expected a finite number >= 0"),
        ({"l2": np.inf}, "l2: expected a finite number >= 0"),
        ({"validation": 1.0}, "validation: expected a share"),
        ({"validation": "x"}, "validation: expected a number"),
        ({"n_hidden": 1025}, "n_hidden: expected"),
        ({"n_hidden": -1}, "n_hidden: expected"),
        ({"activation": "sin", "n_hidden": 2}, "activation: expected one of"),
        ({"pooling": "max"}, "pooling: expected one of last, mean"),
        ({"class_weight": "x"}, "class_weight: expected None or 'balanced'"),
        ({"layers": (9,)}, "layers: expected -1 to 2"),
        ({"patience": 0}, "patience: expected"),
        ({"max_steps": 0}, "max_steps: expected"),
        ({"tolerance": np.nan}, "tolerance: expected a finite number"),
        ({"seed": -1}, "seed: expected"),
        ({"states": np.ones((3, 1, N_EMBD))}, "states: expected those of 4 texts"),
        ({"states": np.ones((4, 2, N_EMBD))}, "states: expected shape"),
        ({"states": np.full((4, 1, N_EMBD), np.nan)}, "states: expected finite"),
    ],
)
def test_bad_fits(lm: deal.Model, change: dict[str, Any], message: str) -> None:
    states = np.random.default_rng(0).normal(size=(4, 1, N_EMBD))
    settings = {"labels": [1, 0, 1, 0], "states": states, **QUIET} | change
    with pytest.raises((ValueError, TypeError), match=message):
        Classifier.fit(lm, ["a", "b", "c", "d"], **settings)


@pytest.mark.parametrize(
    "pairs, message",
    [
        ([], "pairs: expected at least 2, got 0"),
        ("abc", "pairs: expected a list"),
        ([("a", "b")], r"pairs\[0\]: expected \(prompt, chosen, rejected\)"),
        ([{"prompt": "a", "chosen": "b"}], r"pairs\[0\]: expected a field 'rejected'"),
        ([("a", "b", 3)], r"pairs\[0\]: rejected: expected str, or .*, got 3"),
        (["abc"], r"pairs\[0\]: expected \(prompt"),
    ],
)
def test_bad_pairs(lm: deal.Model, pairs: Any, message: str) -> None:
    with pytest.raises((ValueError, TypeError), match=message):
        RewardModel.fit(lm, pairs, **QUIET)


@pytest.mark.parametrize(
    "change, message",
    [
        ({"hidden_weight": np.ones((3, 63)), "layers": (0, 1)}, "hidden_weight: expec"),
        ({"hidden_weight": np.ones(64)}, "hidden_weight: expected shape"),
        ({"hidden_weight": np.ones((1025, 4))}, "at most 1024 hidden units"),
        ({"hidden_weight": np.ones((2, 64))}, r"weight: expected shape \(2,\)"),
        ({"hidden_weight": [["x"]]}, "hidden_weight: expected an array of numbers"),
        (
            {"hidden_weight": np.ones((3, 64)), "hidden_bias": np.ones(2)},
            "hidden_bias: expected shape",
        ),
        ({"hidden_bias": np.ones(3)}, "hidden_bias: expected None"),
    ],
)
def test_bad_hidden_layers(change: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        RewardModel(np.ones(3), **change)
