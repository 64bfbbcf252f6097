"""Progress bars: tqdm's, as text in a terminal and as a widget in a notebook."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from contextlib import closing
from typing import Any, TypeVar

Item = TypeVar("Item")


def progress_bar(
    total: int, what: str, is_shown: bool, unit: str = "prompt", **kwargs: Any
) -> Any:
    """A context manager around a bar with ``update()`` and ``set_postfix()``."""
    from tqdm.auto import tqdm

    disable = not is_shown
    return closing(tqdm(total=total, desc=what, unit=unit, disable=disable, **kwargs))


def bar_over(items: Sequence[Item], is_shown: bool) -> Iterable[Item]:
    """Prompts and what belongs to them, with a bar that moves where each is done."""
    if not is_shown:
        return items
    from tqdm.auto import tqdm

    return tqdm(items, desc="generate", unit="prompt")
