"""Hidden states of texts as heads pool them, for fitting."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import nullcontext
from typing import Any

import numpy as np

from deal._states import read_pooled
from deal.rewards._arguments import choice, engine_model, listed
from deal.rewards.heads import POOLINGS, checked_layers


def pooled_states(
    model: Any,
    completions: Sequence[Any],
    prompts: Sequence[Any] | None = None,
    *,
    layers: Sequence[int] = (-1,),
    pooling: str | Sequence[str] = "last",
    progress: bool = False,
) -> np.ndarray:
    """Hidden states of completions, pooled as a head pools them.

    They are what ``RewardModel.fit`` and ``Classifier.fit`` take as `states`, so that
    one who compares layers, poolings and widths reads them once. What texts share, from
    their start on, is evaluated once.

    Parameters
    ----------
    model : deal.Model
    completions : list of str or of token ids
    prompts : list of str or of token ids, optional
        As many; their tokens are not pooled. Of an empty completion the state is that
        of the prompt's last token. None: each text is read, and pooled, alone.
    layers : sequence of int, default=(-1,)
        As for :meth:`deal.Model.hidden`.
    pooling : {"last", "mean"} or a list of them, default="last"
    progress : bool, default=False
        A bar that counts texts.

    Returns
    -------
    ndarray of float32, shape (n, n_layers, n_embd)
        For a list of poolings: (n_poolings, n, n_layers, n_embd).

    Raises
    ------
    ValueError
        For texts without a token, another number of prompts, or a layer that `model`
        has not. Texts that are longer than the model's context raise what reading them
        raises.
    """
    engine_model("model", model)
    is_one = isinstance(pooling, str)
    poolings = (pooling,) if is_one else tuple(listed("pooling", pooling))
    for given in poolings or (None,):
        choice("pooling", given, POOLINGS)
    layers = checked_layers(layers, model)
    sequences, starts = _encode(model, completions, prompts)
    bar = _bar(len(sequences)) if progress else nullcontext()
    with bar as shown:
        on_read = None if shown is None else shown.update
        found = read_pooled(model, sequences, starts, layers, poolings, on_read)
    found = found.reshape(len(poolings), len(sequences), len(layers), -1)
    return found[0] if is_one else found


def _bar(n: int) -> Any:
    from tqdm.auto import tqdm

    return tqdm(total=n, desc="states", unit="text")


def _encode(
    model: Any, completions: Sequence[Any], prompts: Sequence[Any] | None
) -> tuple[list[list[int]], list[int]]:
    """Ids of prompts and completions, and how many of them are the prompt's."""
    completions = listed("completions", completions)
    if prompts is None:
        rows = [(model._encode(text)[0], 0) for text in completions]
    else:
        prompts = listed("prompts", prompts)
        if len(prompts) != len(completions):
            raise ValueError(
                f"prompts: expected a list of {len(completions)}, one a completion, "
                f"got {len(prompts)}"
            )
        rows = [
            model._encode_pair(prompt, completion)
            for prompt, completion in zip(prompts, completions, strict=True)
        ]
    if not rows:
        raise ValueError("completions: expected at least one text, got none")
    return [ids for ids, _ in rows], [n for _, n in rows]
