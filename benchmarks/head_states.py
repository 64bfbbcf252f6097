"""Hidden states of texts for benchmarks.heads, read once and kept in a folder."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from tqdm.auto import tqdm

import deal
from deal.rewards import pooled_states

POOLINGS = ("last", "mean")
_N_PART = 128  # texts of a file


@dataclass(frozen=True)
class States:
    """Of one set of texts: (n_poolings, n, n_layers, n_embd)."""

    array: np.ndarray
    layers: tuple[int, ...]

    def features(
        self, layers: Sequence[int], pooling: str, rows: Sequence[int] | None = None
    ) -> np.ndarray:
        """What a head with these settings reads: (n, n_layers, n_embd)."""
        picks = [self.layers.index(layer) for layer in layers]
        found = self.array[POOLINGS.index(pooling)]
        return found[:, picks] if rows is None else found[rows][:, picks]


@dataclass(frozen=True)
class Reader:
    """Reads states of all `layers` in both poolings.

    Parameters
    ----------
    lm : deal.Model
    layers : tuple of int
    folder : Path or None
        Where they are kept; a file's name is a hash of model, layers and texts.
    """

    lm: deal.Model
    layers: tuple[int, ...]
    folder: Path | None = None

    def read(
        self, completions: Sequence[str], prompts: Sequence[str] | None = None
    ) -> States:
        """In parts, each kept as it is done, so that a run can be taken up again."""
        parts = []
        for begin in tqdm(range(0, len(completions), _N_PART), "states", leave=False):
            end = begin + _N_PART
            some = None if prompts is None else list(prompts[begin:end])
            parts.append(self._read_part(list(completions[begin:end]), some))
        return States(np.concatenate(parts, axis=1), self.layers)

    def _read_part(
        self, completions: list[str], prompts: list[str] | None
    ) -> np.ndarray:
        what = [self.lm.fingerprint, self.lm.compute, self.layers, completions, prompts]
        key = hashlib.sha256(json.dumps(what).encode()).hexdigest()[:24]
        path = None if self.folder is None else self.folder / f"{key}.npy"
        if path is not None and path.is_file():
            return np.load(path)
        found = pooled_states(
            self.lm, completions, prompts, layers=self.layers, pooling=POOLINGS
        )
        if path is not None:
            path.parent.mkdir(parents=True, exist_ok=True)
            part = path.with_suffix(".part.npy")
            np.save(part, found)
            part.replace(path)
        return found
