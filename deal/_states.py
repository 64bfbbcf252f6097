"""Reading activations of many texts: what `Model.hidden` asks of the core."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from deal import _core
from deal.controls import FINAL, HEAD, RESIDUAL, in_force
from deal.settings import check_int

Positions = str | Sequence[int]

_N_READ = 32  # texts that are read together: between them a fit can be interrupted
_N_KEEP = 2048  # tokens whose cells are kept for the texts that come next


def residual_taps(layers: Sequence[int], n_layer: int) -> list[tuple[int, int]]:
    layers = _check_layers(layers, -1, n_layer)
    return [(FINAL, 0) if layer == -1 else (RESIDUAL, layer) for layer in layers]


def head_taps(layers: Sequence[int], n_layer: int) -> list[tuple[int, int]]:
    return [(HEAD, layer) for layer in _check_layers(layers, 0, n_layer)]


def _check_layers(layers: Any, low: int, n_layer: int) -> list[int]:
    if isinstance(layers, (str, bytes)) or not hasattr(layers, "__iter__"):
        raise TypeError(f"layers: expected a list of integers, got {layers!r}")
    layers = [check_int("layers", layer, low, n_layer - 1) for layer in layers]
    if not layers:
        raise ValueError("layers: expected at least one, got none")
    return layers


def read_states(
    model: Any,
    sequences: list[list[int]],
    taps: list[tuple[int, int]],
    positions: Positions,
) -> list[np.ndarray]:
    """For each sequence (n_taps, n_features), or (n_taps, n_positions, n_features)."""
    slots, picks = _slots(sequences, positions)
    core = _core.Controls(model._core, in_force(model).rows, taps)
    with model._session() as session:
        arrays = session.states(sequences, slots, core)
    states = [a.reshape(len(a), len(taps), -1).swapaxes(0, 1) for a in arrays]
    if picks is not None:
        return [
            np.ascontiguousarray(s[:, p]) for s, p in zip(states, picks, strict=True)
        ]
    if positions == "all":
        return [np.ascontiguousarray(s) for s in states]
    return [s[:, 0] for s in states]


def read_tails(
    model: Any, sequences: list[list[int]], starts: list[int], layers: Sequence[int]
) -> list[np.ndarray]:
    """For each sequence (n_tokens, n_layers, n_embd), of its tokens from a start on."""
    taps = residual_taps(layers, model.hparams.n_layer)
    core = _core.Controls(model._core, in_force(model).rows, taps)
    slots = []
    for ids, start in zip(sequences, starts, strict=True):
        at = np.arange(len(ids), dtype=np.int32) - np.int32(start)
        slots.append(np.maximum(at, -1, dtype=np.int32))
    with model._session() as session:
        arrays = session.states(sequences, slots, core)
    return [np.ascontiguousarray(a.reshape(len(a), len(taps), -1)) for a in arrays]


def read_pooled(
    model: Any,
    sequences: list[list[int]],
    starts: list[int],
    layers: Sequence[int],
    poolings: Sequence[str],
    on_read: Callable[[int], Any] | None = None,
) -> np.ndarray:
    """States (n_poolings, n, n_layers * n_embd) of tokens from a start on: that of the
    last ("last") or their mean ("mean"), in one pass over each distinct prefix.

    `on_read` is called with the number of sequences that were read.
    """
    taps = residual_taps(layers, model.hparams.n_layer)
    core = _core.Controls(model._core, in_force(model).rows, taps)
    order = sorted(range(len(sequences)), key=sequences.__getitem__)
    n_features = len(taps) * model.hparams.n_embd
    found = np.empty((len(poolings), len(sequences), n_features), np.float32)
    with model._session() as session:
        reader = _core.Reader(session, core, _N_KEEP)
        try:
            for begin in range(0, len(order), _N_READ):
                part = order[begin : begin + _N_READ]
                rows = [(p, i) for i in part for p in range(len(poolings))]
                ends = [len(sequences[i]) - 1 for _, i in rows]
                first = [
                    end if poolings[p] == "last" else min(starts[i], end)
                    for (p, i), end in zip(rows, ends, strict=True)
                ]
                states = reader.states(
                    [sequences[i] for _, i in rows], first, [1] * len(rows)
                )
                for (p, i), state in zip(rows, states, strict=True):
                    found[p, i] = state
                if on_read is not None:
                    on_read(len(part))
        finally:
            reader.close()
    return found


def _slots(
    sequences: list[list[int]], positions: Any
) -> tuple[list[np.ndarray] | None, list[np.ndarray] | None]:
    """Rows that the core writes tokens' states to, and which rows are wanted."""
    lengths = [len(ids) for ids in sequences]
    if isinstance(positions, str):
        if positions == "mean":
            return None, None
        if positions == "all":
            return [np.arange(n, dtype=np.int32) for n in lengths], None
        if positions == "last":
            return [np.where(np.arange(n) == n - 1, 0, -1) for n in lengths], None
    if isinstance(positions, str) or not hasattr(positions, "__iter__"):
        raise ValueError(
            "positions: expected 'last', 'all', 'mean' or a list of integers, got "
            f"{positions!r}"
        )
    positions = list(positions)
    if not positions:
        raise ValueError("positions: expected at least one, got none")
    slots, picks = [], []
    for n in lengths:
        at = [check_int("positions", i, -n, n - 1) % n for i in positions]
        wanted, pick = np.unique(np.array(at, dtype=np.int64), return_inverse=True)
        row = np.full(n, -1, dtype=np.int32)
        row[wanted] = np.arange(len(wanted))
        slots.append(row)
        picks.append(pick)
    return slots, picks
