"""Batches of padded token ids as the prompts that they hold."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

import torch


def prompt_rows(
    inputs: torch.Tensor | None, input_ids: torch.Tensor | None, bos: int | None
) -> torch.Tensor:
    """The one that is given, (n_prompt, length), or the begin token."""
    if inputs is not None and input_ids is not None:
        raise ValueError("input_ids: expected inputs or input_ids, got both")
    rows: Any = inputs if input_ids is None else input_ids
    if rows is None:
        if bos is None:
            raise ValueError(
                "input_ids: expected token ids; there is no begin token to start with"
            )
        rows = torch.tensor([[bos]])
    if not isinstance(rows, torch.Tensor) or rows.is_floating_point():
        raise TypeError(
            f"input_ids: expected a tensor of token ids, got {type(rows).__name__}"
        )
    if rows.ndim != 2 or 0 in rows.shape:
        raise ValueError(
            f"input_ids: expected a shape (prompts, length), got {tuple(rows.shape)}"
        )
    return rows


def prompts_of(
    rows: torch.Tensor,
    mask: torch.Tensor | None,
    pad: int | None,
    ends: Collection[int],
) -> list[list[int]]:
    """The ids of each row without its padding, which must be on the left."""
    if mask is None and pad is not None and pad not in ends:
        mask = rows != pad
    if mask is None:
        return rows.tolist()
    if tuple(mask.shape) != tuple(rows.shape):
        raise ValueError(
            f"attention_mask: expected shape {tuple(rows.shape)} (input_ids), got "
            f"{tuple(mask.shape)}"
        )
    is_token = mask != 0
    prompts = []
    for i, (ids, here) in enumerate(zip(rows.tolist(), is_token.tolist(), strict=True)):
        n_pad = here.index(True) if True in here else len(here)
        if n_pad == len(here) or not all(here[n_pad:]):
            raise ValueError(
                f"attention_mask: row {i}: expected padding on the left and at least "
                f"one token after it (padding_side='left'), got {mask[i].tolist()}"
            )
        prompts.append(ids[n_pad:])
    return prompts
