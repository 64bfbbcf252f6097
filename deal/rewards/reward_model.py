"""Rewards that are heads over the language model's own hidden states."""

from __future__ import annotations

import random
from collections.abc import Sequence
from contextlib import nullcontext
from typing import Any

import numpy as np

from deal import _core
from deal.rewards._arguments import engine_model, listed, not_negative, share
from deal.rewards._arguments import texts as texts_of
from deal.rewards._chats import Prompt, last_turn, preference
from deal.rewards._pooled import pooled_states
from deal.rewards.heads import (
    ACTIVATIONS,
    AnyHead,
    Head,
    HeadFit,
    check_choices,
    checked_layers,
    checked_states,
)
from deal.rewards.ngram import (
    _checked_labels,
    _costs,
    _progress,
    _split,
)
from deal.settings import check_int


class RewardModel(Head):
    """A head with a sigmoid over hidden states, in (0, 1).

    The score is ``sigmoid(weight . x + bias)`` of the standardised pooled states ``x =
    (pooled - mean) / std``, or with a hidden layer ``sigmoid(weight .
    activation(hidden_weight x + hidden_bias) + bias)``. It is computed in C from states
    that the search evaluates tokens for anyway: there is no second pass. Made from
    weights, by :meth:`fit` from preference pairs, or by :meth:`load`.

    Parameters
    ----------
    weight : array_like of float, shape (n_layers * n_embd,) or (n_layers, n_embd)
        Finite. The reward is for models with these `n_embd` features; a search over
        another one raises when it starts.
    bias : float, default=0.0
    hidden_weight : array_like of float, shape (n_hidden, n_layers * n_embd), optional
        One hidden layer, at most 1024 units: `weight` then has the shape (n_hidden,).
    hidden_bias : array_like of float, shape (n_hidden,), optional
        Default: zeros.
    activation : {"tanh", "relu", "gelu"}, default="tanh"
        Of the hidden layer; "gelu" is the exact one, with the error function.
    layers : sequence of int, default=(-1,)
        As for :meth:`deal.Model.hidden`: 0 to n_layer - 1 is the residual stream after
        that layer, -1 the final normed state. States of several layers are
        concatenated.
    pooling : {"last", "mean"}, default="last"
        The state of the completion's last token, or the mean over its tokens. An end
        token at the end is none of them. Of an empty completion both are the state of
        the prompt's last token. Where a stop string has cut the text, all tokens that
        were generated count.
    mean, std : array_like of float, shape (n_layers * n_embd,), optional
        What features were standardised with when the head was fitted.
    model : deal.Model, optional
        Checked against the weights, and needed by :meth:`score` and :meth:`save`; a
        search uses its own.
    name : str, default="reward_model"

    Attributes
    ----------
    weight : ndarray of float64, shape (n_layers * n_embd,) or (n_hidden,)
    bias : float
    hidden_weight, hidden_bias : ndarray of float64
        All with `mean` and `std` worked in.
    layers : tuple of int
    pooling, activation : str
    n_embd, n_hidden : int
    report : HeadFit or None
        Of :meth:`fit`.

    Raises
    ------
    ValueError
        For a wrong shape, a number that is not finite, an unknown pooling, or a layer
        that `model` has not.

    Examples
    --------
    >>> pairs = [("Q: Why?\\nA:", " Because it rains.", " Go away.")]  # and many more
    >>> head = RewardModel.fit(lm, pairs, layers=[13], pooling="mean")
    >>> r = lm.generate(prompt, rewards=head)
    """

    _kind = "reward_model"

    @classmethod
    def fit(
        cls,
        lm: Any,
        pairs: Sequence[Any],
        *,
        layers: Sequence[int] = (-1,),
        pooling: str = "last",
        n_hidden: int = 0,
        activation: str = "tanh",
        l2: float = 0.1,
        validation: float = 0.1,
        patience: int = 10,
        max_steps: int = 500,
        tolerance: float = 1e-6,
        seed: int = 0,
        states: Any = None,
        progress: bool = True,
        name: str | None = None,
    ) -> RewardModel:
        """Fit a head to preferences, by the loss of Bradley and Terry [1]_.

        Parameters
        ----------
        lm : deal.Model
            Whose states are read, with the controls in force.
        pairs : sequence of (prompt, chosen, rejected) or of mapping
            In this order or by these names: three texts, or three lists of messages,
            ``{"role": ..., "content": ...}``. A text follows its prompt as it is: a
            space between them belongs to it. Messages are written with the model's
            chat template, so that a completion is what ``lm.chat`` would write; a
            mapping of chats without "prompt" has as prompt what both begin with.
        layers, pooling, activation, name
            As for the class.
        n_hidden : int, default=0
            Units of a hidden layer, at most 1024; 0: none.
        l2 : float, default=0.1
            Penalty: ``l2 / 2`` times the sum of squared weights, on standardised
            features, beside the mean loss. In terms of scikit-learn's
            ``LogisticRegression``: ``C = 1 / (l2 * n)`` for n texts that are fitted.
        validation : float, default=0.1
            Share that is not fitted on, drawn by `seed`: the fit stops where the loss
            on it has not fallen for `patience` steps and keeps the best weights, and it
            calibrates the score. 0: fits on all, to the end, without calibration.
        patience : int, default=10
        max_steps : int, default=500
        tolerance : float, default=1e-6
            Done where no part of the gradient is greater.
        seed : int, default=0
            Of the share held out and of a hidden layer's first weights: the same seed
            gives the same head.
        states : ndarray of float32, optional
            Those of the completions where they are known, as :func:`pooled_states`
            reads them: chosen and rejected of the first pair, of the second, and so on,
            (2 * n_pairs, n_layers, n_embd). No text is then read.
        progress : bool, default=True
            Bars of the texts that are read and of the steps.

        Returns
        -------
        RewardModel
            Its score is ``sigmoid(slope * (r - mean))`` of the fitted reward r: `mean`
            is that over the completions fitted on, and `slope` is fitted on pairs held
            out, so that the difference of two scores' log odds is the log odds of the
            preference [2]_. Pairs with the same prompt are held out together.

        Raises
        ------
        ValueError
            For no pairs, a pair without one of the texts, or numbers out of range.

        References
        ----------
        .. [1] R. A. Bradley and M. E. Terry, "Rank analysis of incomplete block
           designs", Biometrika 39, 1952.
        .. [2] J. Platt, "Probabilistic outputs for support vector machines", 1999.
        """
        engine_model("lm", lm)
        rows = [
            preference(lm, f"pairs[{i}]", pair)
            for i, pair in enumerate(listed("pairs", pairs))
        ]
        if len(rows) < 2:
            raise ValueError(f"pairs: expected at least 2, got {len(rows)}")
        prompts = [prompt for prompt, _, _ in rows]
        order, n_train = _split_groups(prompts, validation, seed)
        if states is None:
            states = pooled_states(
                lm,
                [text for _, *both in rows for text in both],
                [prompt for prompt in prompts for _ in range(2)],
                layers=layers,
                pooling=pooling,
                progress=progress,
            )
        x = _known_states(lm, states, layers, 2 * len(rows))
        x = x.reshape(len(rows), 2, -1)[order]
        head, report = _fit(
            cls, lm, x, None, None, n_train, layers=layers, pooling=pooling,
            n_hidden=n_hidden, activation=activation, l2=l2, max_steps=max_steps,
            tolerance=tolerance, patience=patience, seed=seed, progress=progress,
            name=name,
        )  # fmt: skip
        held_out = head.decision_function(x[n_train:].reshape(-1, x.shape[-1]))
        gap = held_out[0::2] - held_out[1::2]
        is_right = (gap > 0) + 0.5 * (gap == 0)
        head.report = _report(report, n_train, is_right)
        return head


class Classifier(Head):
    """A head that tells texts of two kinds apart, in (0, 1); otherwise a
    :class:`RewardModel`, whose parameters and attributes it has.

    Made from weights, by :meth:`fit` from labelled texts, or by :meth:`load`.

    Examples
    --------
    >>> head = Classifier.fit(lm, texts, labels, layers=[17], pooling="mean")
    >>> r = lm.generate(prompt, rewards=head)
    """

    _kind = "classifier"

    @classmethod
    def fit(
        cls,
        lm: Any,
        texts: Sequence[Any],
        labels: Sequence[Any],
        *,
        prompts: Sequence[str] | None = None,
        layers: Sequence[int] = (-1,),
        pooling: str = "mean",
        n_hidden: int = 0,
        activation: str = "tanh",
        l2: float = 0.1,
        class_weight: str | None = None,
        validation: float = 0.1,
        patience: int = 10,
        max_steps: int = 500,
        tolerance: float = 1e-6,
        seed: int = 0,
        states: Any = None,
        progress: bool = True,
        name: str | None = None,
    ) -> Classifier:
        """Fit a head to labelled texts, by the logistic loss.

        Parameters
        ----------
        lm : deal.Model
            Whose states are read, with the controls in force.
        texts : sequence of str or of lists of messages
            Of a chat the last message is what counts, after those before it, as the
            model's chat template writes them.
        labels : sequence of bool or int
            1 for texts that should score high, 0 for others; both have to occur.
        prompts : sequence of str, optional
            What each text follows: its tokens are not pooled. None: texts alone.
        class_weight : {None, "balanced"}, default=None
            "balanced": both labels count the same, however often they occur.
        layers, pooling, n_hidden, activation, l2, validation, patience
            As for :meth:`RewardModel.fit`.
        max_steps, tolerance, seed, progress, name
            Likewise.
        states : ndarray of float32, optional
            Those of the texts where they are known, as :func:`pooled_states` reads
            them, (n_texts, n_layers, n_embd). No text is then read.

        Returns
        -------
        Classifier
            Its score is the probability of label 1, calibrated on the texts held out
            [1]_.

        Raises
        ------
        ValueError
            If lengths differ, a label is neither 0 nor 1, one of them is missing, or
            numbers are out of range.

        References
        ----------
        .. [1] J. Platt, "Probabilistic outputs for support vector machines", 1999.
        """
        engine_model("lm", lm)
        rows, before = _texts_and_prompts(lm, texts, prompts)
        target = _checked_labels(labels, len(rows))
        if not (class_weight is None or str(class_weight) == "balanced"):
            raise ValueError(
                f"class_weight: expected None or 'balanced', got {class_weight!r:.80}"
            )
        order, n_train = _split(target, share("validation", validation), seed)
        if states is None:
            states = pooled_states(
                lm, rows, before, layers=layers, pooling=pooling, progress=progress
            )
        x = _known_states(lm, states, layers, len(rows))[order]
        target = [target[i] for i in order]
        cost = _costs(target[:n_train], target, class_weight == "balanced")
        head, report = _fit(
            cls, lm, x, target, cost, n_train, layers=layers, pooling=pooling,
            n_hidden=n_hidden, activation=activation, l2=l2, max_steps=max_steps,
            tolerance=tolerance, patience=patience, seed=seed, progress=progress,
            name=name,
        )  # fmt: skip
        is_high = head.decision_function(x[n_train:]) > 0
        head.report = _report(report, n_train, is_high == np.array(target[n_train:]))
        return head


# --- fitting --------------------------------------------------------------------------


def _fit(
    cls: type[AnyHead],
    lm: Any,
    x: np.ndarray,
    target: Sequence[float] | None,
    cost: Sequence[float] | None,
    n_train: int,
    *,
    layers: Sequence[int],
    pooling: str,
    n_hidden: int,
    activation: str,
    l2: float,
    max_steps: int,
    tolerance: float,
    patience: int,
    seed: int,
    progress: bool,
    name: str | None,
) -> tuple[AnyHead, tuple[Any, ...]]:
    """A head fitted to rows (n, n_in) with targets, or pairs (n, 2, n_in) without."""
    check_choices(pooling, activation)
    n_hidden = check_int("n_hidden", n_hidden, 0, 1024)
    max_steps = check_int("max_steps", max_steps, 1, 2**31 - 1)
    tolerance = not_negative("tolerance", tolerance)
    l2 = not_negative("l2", l2)
    with _progress(max_steps) if progress else nullcontext() as on_step:
        weight, bias, hidden_weight, hidden_bias, report = _core.head_fit(
            x,
            x.shape[-1],
            None if target is None else np.array(target, np.float32),
            None if cost is None else np.array(cost, np.float32),
            n_train,
            n_hidden,
            ACTIVATIONS.index(activation),
            l2,
            max_steps,
            tolerance,
            check_int("patience", patience, 1, 2**31 - 1),
            check_int("seed", seed, 0, 2**64 - 1),
            on_step,
        )
    hidden: dict[str, Any] = {}
    if n_hidden:
        hidden["hidden_weight"] = np.frombuffer(hidden_weight).reshape(n_hidden, -1)
        hidden["hidden_bias"] = np.frombuffer(hidden_bias)
    head = cls(
        np.frombuffer(weight), bias, **hidden, activation=activation, layers=layers,
        pooling=pooling, model=lm, name=name,
    )  # fmt: skip
    return head, report


def _report(report: tuple[Any, ...], n_train: int, is_right: np.ndarray) -> HeadFit:
    n_steps, best_step, loss, validation_loss, converged = report
    has_rest = len(is_right) > 0
    return HeadFit(
        n_train,
        len(is_right),
        n_steps,
        best_step,
        loss,
        validation_loss if has_rest else None,
        float(is_right.mean()) if has_rest else None,
        converged,
    )


def _known_states(lm: Any, states: Any, layers: Any, n: int) -> np.ndarray:
    n_layers = len(checked_layers(layers, lm))
    x = checked_states(states, n_layers, lm.hparams.n_embd)
    if len(x) != n:
        raise ValueError(f"states: expected those of {n} texts, got {len(x)}")
    return x


def _texts_and_prompts(
    lm: Any, texts: Any, prompts: Any
) -> tuple[list[str], list[Prompt] | None]:
    """Texts and what each follows, of chats the last message and those before."""
    rows = listed("texts", texts)
    if not rows or isinstance(rows[0], str):
        return texts_of("texts", rows), prompts
    if prompts is not None:
        raise ValueError("prompts: expected None, as chats hold theirs")
    pairs = [last_turn(lm, f"texts[{i}]", chat) for i, chat in enumerate(rows)]
    return [text for _, text in pairs], [prompt for prompt, _ in pairs]


def _split_groups(
    prompts: Sequence[Prompt], validation: float, seed: int
) -> tuple[list[int], int]:
    """A random order in which about this share comes last, pairs of a prompt together,
    and how many come before; at least one group does."""
    validation = share("validation", validation)
    groups: dict[Prompt, list[int]] = {}
    for i, prompt in enumerate(prompts):
        groups.setdefault(prompt, []).append(i)
    rows = list(groups.values())
    random.Random(check_int("seed", seed, 0, 2**64 - 1)).shuffle(rows)
    n_out, n_train = round(validation * len(prompts)), len(prompts)
    for group in rows[:0:-1]:
        if len(prompts) - n_train + len(group) > n_out:
            break
        n_train -= len(group)
    return [i for group in rows for i in group], n_train
