"""What heads over hidden states share: weights, scores and files."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from deal import _core
from deal._errors import ModelFormatError
from deal._safetensors import read_json, read_tensors, write_tensors
from deal.rewards._arguments import choice, engine_model, number
from deal.rewards.base import Reward
from deal.settings import check_int

POOLINGS = ("last", "mean")
ACTIVATIONS = ("tanh", "relu", "gelu")
_MAX_HIDDEN = 1024
_FORMAT = "deal.head.v1"
_SETTINGS = {"layers", "pooling", "activation", "bias", "name"}  # in a file

AnyHead = TypeVar("AnyHead", bound="Head")


@dataclass(frozen=True)
class HeadFit:
    """How the fit of a head went.

    Attributes
    ----------
    n_fitted, n_validation : int
        Texts or pairs fitted on, and those that told when to stop and calibrated.
    n_steps, best_step : int
        Steps taken, and the one whose weights were kept.
    loss : float
        Mean logistic loss of what was fitted on, with the penalty, in nats.
    validation_loss : float or None
        Without the penalty, before calibration.
    validation_accuracy : float or None
        Share of texts on the right side of one half, or of pairs in the right order,
        ties half.
    converged : bool
        The gradient became flat, or no step lowered the loss.
    """

    n_fitted: int
    n_validation: int
    n_steps: int
    best_step: int
    loss: float
    validation_loss: float | None
    validation_accuracy: float | None
    converged: bool


class Head(Reward):
    """A head over hidden states with a sigmoid, in (0, 1): a base class.

    :class:`RewardModel` and :class:`Classifier` document the parameters.
    """

    _kind = "head"

    def __init__(
        self,
        weight: Any,
        bias: float = 0.0,
        *,
        hidden_weight: Any = None,
        hidden_bias: Any = None,
        activation: str = "tanh",
        layers: Sequence[int] = (-1,),
        pooling: str = "last",
        mean: Any = None,
        std: Any = None,
        model: Any = None,
        name: str | None = None,
    ) -> None:
        super().__init__(self._kind if name is None else name, (0.0, 1.0))
        check_choices(pooling, activation)
        if model is not None:
            engine_model("model", model)
        self.layers = checked_layers(layers, model)
        n_layers = len(self.layers)
        self.pooling = pooling
        self.activation = activation
        self.hidden_weight, self.hidden_bias = _checked_hidden(
            hidden_weight, hidden_bias, n_layers
        )
        self.n_hidden = len(self.hidden_bias)
        self.weight = _checked_weight(weight, n_layers, self.n_hidden)
        first = self.hidden_weight if self.n_hidden else self.weight
        n_features = first.shape[-1]
        self.n_embd = n_features // n_layers
        if model is not None and self.n_embd != model.hparams.n_embd:
            raise ValueError(
                f"weight: expected {n_layers} * {model.hparams.n_embd} numbers "
                f"(layers and the model's n_embd), got {n_features}"
            )
        self.bias = number("bias", bias)
        if std is not None:
            first /= _checked_scale(std, n_features)
        if mean is not None:
            shift = first @ _checked_like("mean", mean, n_features)
            if self.n_hidden:
                self.hidden_bias -= shift
            else:
                self.bias -= float(shift)
        self.report: HeadFit | None = None
        self._model = model
        self._owner = _core.head(
            self.weight,
            self.bias,
            self.layers,
            self.n_embd,
            POOLINGS.index(pooling),
            self.hidden_weight,
            self.hidden_bias,
            ACTIVATIONS.index(activation),
        )

    def decision_function(self, states: Any) -> np.ndarray:
        """What the sigmoid is taken of, for states that are pooled already.

        Parameters
        ----------
        states : array_like, shape (n, n_layers, n_embd) or (n, n_layers * n_embd)
            As :func:`deal.rewards.pooled_states` reads them; taken as float32.

        Returns
        -------
        ndarray of float64, shape (n,)
        """
        rows = checked_states(states, len(self.layers), self.n_embd)
        raw = _core.head_decide(self._owner, rows, len(rows))
        return np.frombuffer(raw, np.float64)

    def _score(
        self, completions: list[Any], prompts: list[Any], columns: Mapping[str, Any]
    ) -> list[float]:
        if self._model is None:
            raise ValueError(
                f"reward {self.name!r}: it scores hidden states; give the model that "
                f"they come from, {type(self).__name__}(..., model=lm)"
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

    # --- files

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the head as a safetensors file, with its model's fingerprint.

        Parameters
        ----------
        path : path
            Replaced as a whole where it is there.

        Raises
        ------
        ValueError
            If the head was made without its `model`.
        """
        if self._model is None:
            raise ValueError(
                f"reward {self.name!r}: a file names the model that a head belongs to; "
                f"give it, {type(self).__name__}(..., model=lm)"
            )
        settings = {
            "kind": self._kind,
            "layers": self.layers,
            "pooling": self.pooling,
            "activation": self.activation,
            "bias": self.bias,
            "name": self.name,
            "report": None if self.report is None else asdict(self.report),
        }
        tensors = {"weight": self.weight}
        if self.n_hidden:
            tensors["hidden_weight"] = self.hidden_weight
            tensors["hidden_bias"] = self.hidden_bias
        metadata = {
            "format": _FORMAT,
            "model": self._model.path.name,
            "fingerprint": self._model.fingerprint,
            "settings": json.dumps(settings),
        }
        write_tensors(Path(path), tensors, metadata)

    @classmethod
    def load(cls: type[AnyHead], path: str | os.PathLike[str], model: Any) -> AnyHead:
        """Read what :meth:`save` wrote; scores are the same to the last bit.

        Parameters
        ----------
        path : path
        model : deal.Model
            The one that the head was saved for: the same file or folder of weights.

        Raises
        ------
        ValueError
            If the head belongs to another model.
        ModelFormatError
            If the file is another one, or damaged.
        """
        file = Path(path)
        tensors, metadata = read_tensors(file)
        if metadata.get("format") != _FORMAT:
            raise ModelFormatError(
                f"{file.name}: expected format {_FORMAT!r}, got "
                f"{metadata.get('format')!r:.80}"
            )
        if metadata.get("fingerprint") != model.fingerprint:
            raise ValueError(
                f"{file.name}: expected a head of {model.path.name} (fingerprint "
                f"{model.fingerprint}), got one of {metadata.get('model')!r:.80} "
                f"({metadata.get('fingerprint')!r:.80})"
            )
        return cls._from_file(file.name, tensors, metadata, model)

    @classmethod
    def _from_file(
        cls: type[AnyHead],
        file: str,
        tensors: dict[str, Any],
        metadata: Mapping[str, Any],
        model: Any,
    ) -> AnyHead:
        settings = read_json(metadata.get("settings") or "", f"{file}: settings")
        kind, report = settings.pop("kind", None), settings.pop("report", None)
        if kind != cls._kind:
            raise ModelFormatError(f"{file}: expected a {cls._kind}, got {kind!r:.80}")
        if settings.keys() != _SETTINGS:
            raise ModelFormatError(
                f"{file}: settings: expected {', '.join(sorted(_SETTINGS))}, got "
                f"{', '.join(sorted(settings))!r:.200}"
            )
        try:
            head = cls(**tensors, **settings, model=model)
            head.report = None if report is None else HeadFit(**report)
        except (TypeError, ValueError) as error:
            raise ModelFormatError(f"{file}: not a whole head: {error}") from error
        return head

    def __repr__(self) -> str:
        hidden = f", n_hidden={self.n_hidden}, {self.activation}" * bool(self.n_hidden)
        return (
            f"deal.rewards.{type(self).__name__}(layers={self.layers}, "
            f"pooling={self.pooling!r}{hidden}, name={self.name!r})"
        )


# --- checks ---------------------------------------------------------------------------


def check_choices(pooling: Any, activation: Any) -> None:
    choice("pooling", pooling, POOLINGS)
    choice("activation", activation, ACTIVATIONS)


def checked_states(states: Any, n_layers: int, n_embd: int) -> np.ndarray:
    """Contiguous float32 (n, n_layers * n_embd)."""
    try:
        array = np.asarray(states, dtype=np.float32)
    except (TypeError, ValueError) as error:
        raise ValueError(f"states: expected an array of numbers: {error}") from None
    n_features = n_layers * n_embd
    shapes = (array.shape[:1] + (n_layers, n_embd), array.shape[:1] + (n_features,))
    if array.ndim == 0 or array.shape not in shapes:
        raise ValueError(
            f"states: expected shape (n, {n_layers}, {n_embd}), got {array.shape}"
        )
    return np.ascontiguousarray(array.reshape(-1, n_features))


def checked_layers(layers: Any, model: Any) -> tuple[int, ...]:
    if isinstance(layers, (str, bytes)) or not hasattr(layers, "__iter__"):
        raise TypeError(f"layers: expected a list of integers, got {layers!r}")
    high = 2**31 - 1 if model is None else model.hparams.n_layer - 1
    checked = tuple(check_int("layers", layer, -1, high) for layer in layers)
    if not checked:
        raise ValueError("layers: expected at least one, got none")
    return checked


def _as_floats(name: str, value: Any) -> np.ndarray:
    try:
        array = np.atleast_1d(np.asarray(value, dtype=np.float64))
    except (TypeError, ValueError) as error:
        raise ValueError(f"{name}: expected an array of numbers: {error}") from None
    if not np.isfinite(array).all():
        raise ValueError(f"{name}: expected finite numbers, got NaN or infinity")
    return array


def _checked_weight(weight: Any, n_layers: int, n_hidden: int) -> np.ndarray:
    array = _as_floats("weight", weight)
    if n_hidden:
        if array.shape != (n_hidden,):
            raise ValueError(
                f"weight: expected shape ({n_hidden},), one number a hidden unit, got "
                f"{array.shape}"
            )
        return array.copy()
    n = array.size
    fits = array.ndim == 1 or (array.ndim == 2 and len(array) == n_layers)
    if n == 0 or n % n_layers or not fits:
        raise ValueError(
            f"weight: expected shape ({n_layers} * n_embd,) for {n_layers} layer(s), "
            f"got {array.shape}"
        )
    return array.reshape(-1).copy()


def _checked_hidden(
    weight: Any, bias: Any, n_layers: int
) -> tuple[np.ndarray, np.ndarray]:
    """(n_hidden, n_layers * n_embd) and (n_hidden,); of no hidden layer both empty."""
    if weight is None:
        if bias is not None:
            raise ValueError("hidden_bias: expected None without hidden_weight")
        return np.empty((0, 0)), np.empty(0)
    array = _as_floats("hidden_weight", weight)
    n_columns = array.shape[1] if array.ndim == 2 else 0
    if not 1 <= len(array) <= _MAX_HIDDEN or n_columns < 1 or n_columns % n_layers:
        raise ValueError(
            f"hidden_weight: expected shape (n_hidden, {n_layers} * n_embd) with at "
            f"most {_MAX_HIDDEN} hidden units, got {array.shape}"
        )
    second = np.zeros(len(array)) if bias is None else _as_floats("hidden_bias", bias)
    if second.shape != (len(array),):
        raise ValueError(
            f"hidden_bias: expected shape ({len(array)},), got {second.shape}"
        )
    return np.array(array, order="C"), second.copy()


def _checked_like(name: str, value: Any, n: int) -> np.ndarray:
    array = _as_floats(name, value)
    if array.size != n:
        raise ValueError(
            f"{name}: expected {n} numbers, one a feature, got {array.size}"
        )
    return array.reshape(-1)


def _checked_scale(std: Any, n: int) -> np.ndarray:
    scale = _checked_like("std", std, n)
    if not (scale > 0).all():
        raise ValueError(f"std: expected positive numbers, got {scale.min()}")
    return scale
