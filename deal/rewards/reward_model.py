"""A reward that is a head over the language model's own hidden states."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from deal import _core
from deal.rewards.base import Reward
from deal.settings import check_int

_POOLINGS = {"last": 0, "mean": 1}


class RewardModel(Reward):
    """A linear head with a sigmoid over hidden states, in (0, 1).

    The score is ``sigmoid(weight . (pooled - mean) / std + bias)``, computed in C from
    states that the search evaluates tokens for anyway: there is no second pass.

    Parameters
    ----------
    weight : array_like of float, shape (n_layers * n_embd,) or (n_layers, n_embd)
        Finite. The reward is for models with these `n_embd` features; a search over
        another one raises when it starts.
    bias : float, default=0.0
    layers : sequence of int, default=(-1,)
        As for :meth:`deal.Model.hidden`: 0 to n_layer - 1 is the residual stream after
        that layer, -1 the final normed state. States of several layers are
        concatenated.
    pooling : {"last", "mean"}, default="last"
        The state of the completion's last token, or the mean over its tokens. An end
        token at the end is none of them. Of an empty completion both are the state of
        the prompt's last token. Where a stop string has cut the text, all tokens that
        were generated count.
    mean, std : array_like of float, shape of `weight`, optional
        What features were standardised with when the head was fitted.
    model : deal.Model, optional
        Checked against the weights, and needed by :meth:`score`; a search uses its own.
    name : str, default="reward_model"

    Attributes
    ----------
    weight : ndarray of float64, shape (n_layers * n_embd,)
    bias : float
        Both with `mean` and `std` worked in.
    layers : tuple of int
    pooling : str
    n_embd : int

    Raises
    ------
    ValueError
        For a wrong shape, a number that is not finite, an unknown pooling, or a layer
        that `model` has not.

    Examples
    --------
    >>> states = lm.hidden(texts, layers=[-1])[:, 0]          # (n_texts, n_embd)
    >>> weight = np.linalg.lstsq(states, labels - 0.5)[0]     # labels 0 or 1
    >>> r = lm.generate(prompt, rewards=deal.rewards.RewardModel(weight))
    """

    def __init__(
        self,
        weight: Any,
        bias: float = 0.0,
        *,
        layers: Sequence[int] = (-1,),
        pooling: str = "last",
        mean: Any = None,
        std: Any = None,
        model: Any = None,
        name: str = "reward_model",
    ) -> None:
        super().__init__(name, (0.0, 1.0))
        if pooling not in _POOLINGS:
            raise ValueError(f"pooling: expected 'last' or 'mean', got {pooling!r}")
        self.layers = _checked_layers(layers, model)
        self.pooling = pooling
        self.weight = _checked_weight(weight, len(self.layers))
        self.n_embd = self.weight.size // len(self.layers)
        if model is not None and self.n_embd != model.hparams.n_embd:
            raise ValueError(
                f"weight: expected {len(self.layers)} * {model.hparams.n_embd} numbers "
                f"(layers and the model's n_embd), got {self.weight.size}"
            )
        self.bias = float(bias)
        if not math.isfinite(self.bias):
            raise ValueError(f"bias: expected a finite number, got {bias!r}")
        if std is not None:
            self.weight = self.weight / _checked_scale(std, self.weight)
        if mean is not None:
            self.bias -= float(self.weight @ _checked_like("mean", mean, self.weight))
        self._model = model
        self._owner = _core.head(
            np.ascontiguousarray(self.weight),
            self.bias,
            self.layers,
            _POOLINGS[pooling],
        )

    def _score(
        self, completions: list[Any], prompts: list[Any], columns: Mapping[str, Any]
    ) -> list[float]:
        if self._model is None:
            raise ValueError(
                f"reward {self.name!r}: it scores hidden states; give the model that "
                "they come from, RewardModel(..., model=lm)"
            )
        states = self._model._completion_states(prompts, completions, self.layers)
        return [self._score_states(rows) for rows in states]

    def _score_states(self, states: np.ndarray) -> float:
        """Score of (n_tokens + 1, n_layers, n_embd), the prompt's last token first."""
        state = _core.RewardState(self._owner, "")
        for row in states:
            state.observe(row)
        return state.score()

    def _capsule(self, kwargs: Mapping[str, Any]) -> Any:
        return self._owner


def _checked_layers(layers: Any, model: Any) -> tuple[int, ...]:
    if isinstance(layers, (str, bytes)) or not hasattr(layers, "__iter__"):
        raise TypeError(f"layers: expected a list of integers, got {layers!r}")
    high = 2**31 - 1 if model is None else model.hparams.n_layer - 1
    checked = tuple(check_int("layers", layer, -1, high) for layer in layers)
    if not checked:
        raise ValueError("layers: expected at least one, got none")
    return checked


def _as_floats(name: str, value: Any) -> np.ndarray:
    array = np.asarray(value, dtype=np.float64)
    if not np.isfinite(array).all():
        raise ValueError(f"{name}: expected finite numbers, got NaN or infinity")
    return array


def _checked_weight(weight: Any, n_layers: int) -> np.ndarray:
    array = _as_floats("weight", weight)
    n = array.size
    fits = array.ndim == 1 or (array.ndim == 2 and len(array) == n_layers)
    if n == 0 or n % n_layers or not fits:
        raise ValueError(
            f"weight: expected shape ({n_layers} * n_embd,) for {n_layers} layer(s), "
            f"got {array.shape}"
        )
    return array.reshape(-1).copy()


def _checked_like(name: str, value: Any, weight: np.ndarray) -> np.ndarray:
    array = _as_floats(name, value)
    if array.size != weight.size:
        raise ValueError(
            f"{name}: expected {weight.size} numbers, as many as weights, got "
            f"{array.size}"
        )
    return array.reshape(-1)


def _checked_scale(std: Any, weight: np.ndarray) -> np.ndarray:
    scale = _checked_like("std", std, weight)
    if not (scale > 0).all():
        raise ValueError(f"std: expected positive numbers, got {scale.min()}")
    return scale
