"""Edits of what a model computes, in force inside ``with lm.controls([...]):``.

The forward pass can be edited at three sites: the residual stream after a layer
(`AddResidual`), the output of an attention head before its projection (`MapHead`) and
the final normed state before the head (`EditFinal`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from deal import _core
from deal.settings import check_float, check_int

RESIDUAL, HEAD, FINAL = 0, 1, 2  # deal_site
_WHERE = {"all": 0, "prompt": 1, "completion": 2, "last": 3}  # deal_where

# One edit or one tap as the core reads it.
Row = tuple[int, int, int, int, Any, Any, Any]


def _check_where(name: str, where: Any) -> None:
    if where not in _WHERE:
        wanted = ", ".join(map(repr, _WHERE))
        raise ValueError(f"{name}.where: expected one of {wanted}, got {where!r}")


def _floats(name: str, value: Any, *n_dims: int) -> np.ndarray:
    """A read-only copy of `value` in float64, or an error that names it."""
    try:
        array = np.array(value, dtype=np.float64)
    except (TypeError, ValueError):
        raise TypeError(f"{name}: expected an array of floats, got {value!r}") from None
    if array.ndim not in n_dims:
        wanted = " or ".join(map(str, n_dims))
        raise ValueError(
            f"{name}: expected {wanted} dimensions, got shape {array.shape}"
        )
    if not np.isfinite(array).all():
        raise ValueError(f"{name}: expected finite numbers, got NaN or infinity")
    array.flags.writeable = False
    return array


@dataclass(frozen=True, eq=False)
class AddResidual:
    """Adds ``scale * vector`` to the residual stream after a layer.

    Parameters
    ----------
    layer : int
        In [0, n_layer): the stream after that layer, as ``lm.hidden`` reads it.
    vector : array of float, shape (n_embd,)
    scale : float, default=1.0
    where : {"all", "prompt", "completion", "last"}, default="all"
        Tokens to edit: all, those of the prompt, those after it, or the prompt's last.
        Tokens that are not edited still attend to those that are.
    """

    layer: int
    vector: Any
    scale: float = 1.0
    where: str = "all"

    def __post_init__(self) -> None:
        check_int("AddResidual.layer", self.layer, 0)
        vector = _floats("AddResidual.vector", self.vector, 1)
        object.__setattr__(self, "vector", vector)
        check_float("AddResidual.scale", self.scale, "a finite number", lambda x: True)
        _check_where("AddResidual", self.where)

    def _row(self, hparams: Any) -> Row:
        check_int("AddResidual.layer", self.layer, 0, hparams.n_layer - 1)
        _check_shape("AddResidual.vector", self.vector, (hparams.n_embd,), "n_embd")
        vector = _single("AddResidual: scale * vector", self.vector * self.scale)
        return RESIDUAL, _WHERE[self.where], self.layer, 0, None, vector, None


@dataclass(frozen=True, eq=False)
class MapHead:
    """Maps the output z of an attention head to ``matrix @ z + shift``.

    z is what the head hands to the output projection. With grouped queries, heads are
    query heads: keys and values, which several share, stay as they are.

    Parameters
    ----------
    layer, head : int
        In [0, n_layer) and [0, n_head).
    matrix : array of float, shape (head_dim, head_dim), optional
        Shape (head_dim,) is a diagonal. Default: the identity.
    shift : array of float, shape (head_dim,), optional
        Default: zero.
    where : {"all", "prompt", "completion", "last"}, default="all"
        As for `AddResidual`.
    """

    layer: int
    head: int
    matrix: Any = None
    shift: Any = None
    where: str = "all"

    def __post_init__(self) -> None:
        check_int("MapHead.layer", self.layer, 0)
        check_int("MapHead.head", self.head, 0)
        if self.matrix is None and self.shift is None:
            raise ValueError("MapHead: expected a matrix, a shift or both, got neither")
        if self.matrix is not None:
            matrix = _floats("MapHead.matrix", self.matrix, 1, 2)
            object.__setattr__(self, "matrix", matrix)
        if self.shift is not None:
            shift = _floats("MapHead.shift", self.shift, 1)
            object.__setattr__(self, "shift", shift)
        _check_where("MapHead", self.where)

    def _row(self, hparams: Any) -> Row:
        check_int("MapHead.layer", self.layer, 0, hparams.n_layer - 1)
        check_int("MapHead.head", self.head, 0, hparams.n_head - 1)
        n, matrix, shift = hparams.head_dim, self.matrix, self.shift
        if matrix is not None:
            shape = (n,) * matrix.ndim
            _check_shape("MapHead.matrix", matrix, shape, "head_dim")
            matrix = np.diag(matrix) if matrix.ndim == 1 else matrix
            matrix = _single("MapHead.matrix", matrix)
        if shift is not None:
            _check_shape("MapHead.shift", shift, (n,), "head_dim")
            shift = _single("MapHead.shift", shift)
        return HEAD, _WHERE[self.where], self.layer, self.head, matrix, shift, None


@dataclass(frozen=True, eq=False)
class EditFinal:
    """Replaces the final normed states, the input of the head, by ``fn(states)``.

    Keys and values stay as they are: the edit moves the distribution of the next token
    and nothing else.

    Parameters
    ----------
    fn : callable or PyCapsule
        Gets a float32 array (n_states, n_embd) of its own and returns one of that
        shape. Each state's edit is a pure function of that state: which others come
        along depends on the batch. It runs with the GIL, on the thread that called the
        model, and what it raises reaches the caller unchanged; inside it no controls
        are in force. A capsule ``"deal.control.v1"`` holds a ``deal_control`` of the
        header ``<deal/control.h>`` and runs without the GIL.
    where : {"all", "prompt", "completion", "last"}, default="all"
        A final state belongs to the token that is predicted from it: "completion" are
        the prompt's last state and those after it, "prompt" those before.
    """

    fn: Callable[[np.ndarray], np.ndarray] | Any
    where: str = "all"

    def __post_init__(self) -> None:
        is_capsule = type(self.fn).__name__ == "PyCapsule"
        if not is_capsule and not callable(self.fn):
            raise TypeError(
                f"EditFinal.fn: expected a callable or a capsule, got {self.fn!r}"
            )
        _check_where("EditFinal", self.where)

    def _row(self, hparams: Any) -> Row:
        del hparams
        fn = _without_controls(self.fn) if callable(self.fn) else self.fn
        return FINAL, _WHERE[self.where], 0, 0, None, None, fn


Control = AddResidual | MapHead | EditFinal


def _check_shape(name: str, array: np.ndarray, shape: tuple, what: str) -> None:
    if array.shape != shape:
        raise ValueError(f"{name}: expected shape {shape} ({what}), got {array.shape}")


def _single(name: str, array: np.ndarray) -> np.ndarray:
    with np.errstate(over="ignore"):
        single = np.ascontiguousarray(array, dtype=np.float32)
    if not np.isfinite(single).all():
        raise ValueError(f"{name}: expected numbers in the range of float32")
    return single


# --- what is in force ----------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class ControlSet:
    """The edits in force for a model: as rows for the core, and compiled."""

    model: Any
    rows: list[Row] = field(default_factory=list)
    core: Any = None  # _core.Controls, or None without edits


# By thread and asyncio task. The last set of a model is the one in force.
_in_force: ContextVar[tuple[ControlSet, ...]] = ContextVar(
    "deal_controls_in_force", default=()
)


def in_force(model: Any) -> ControlSet:
    for controls in reversed(_in_force.get()):
        if controls.model is model:
            return controls
    return ControlSet(model)


@contextmanager
def enter(model: Any, controls: Sequence[Control] | None) -> Iterator[None]:
    """Put checked controls in force, on top of those that are; None: none at all."""
    rows: list[Row] = []
    if controls is not None:
        if isinstance(controls, Control):
            controls = [controls]
        rows = list(in_force(model).rows)
        for control in controls:
            if not isinstance(control, Control):
                raise TypeError(
                    "controls: expected AddResidual, MapHead or EditFinal, got "
                    f"{control!r}"
                )
            rows.append(control._row(model.hparams))
    core = _core.Controls(model._core, rows, []) if rows else None
    token = _in_force.set((*_in_force.get(), ControlSet(model, rows, core)))
    try:
        yield
    finally:
        _in_force.reset(token)


def _without_controls(fn: Callable[[np.ndarray], Any]) -> Callable[[np.ndarray], Any]:
    def run(states: np.ndarray) -> Any:
        token = _in_force.set(())
        try:
            return fn(states)
        finally:
            _in_force.reset(token)

    return run
