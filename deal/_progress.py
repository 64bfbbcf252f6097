"""Progress bars: tqdm's, as text in a terminal and as a widget in a notebook."""

from __future__ import annotations

from contextlib import closing, nullcontext
from typing import Any


def progress_bar(
    total: int, what: str, is_shown: bool, unit: str = "prompt", **kwargs: Any
) -> Any:
    """A context manager around a bar with ``update()`` and ``set_postfix()``."""
    if not is_shown:  # tqdm, which may warn of a missing widget, is not even imported
        return nullcontext(_Unseen())
    from tqdm.auto import tqdm

    return closing(tqdm(total=total, desc=what, unit=unit, **kwargs))


class _Unseen:
    def update(self, n: int = 1) -> None:
        pass

    def set_postfix(self, *args: Any, **kwargs: Any) -> None:
        pass
