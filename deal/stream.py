"""A text, piece by piece, while it is generated."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from deal import _rollouts
from deal._request import Options, generations
from deal.generation import Generation

if TYPE_CHECKING:
    from deal.model import Model


class Stream:
    """Iterator over the pieces of a text while it is generated.

    Attributes
    ----------
    generation : Generation or None
        The result, once the last piece is out.
    """

    def __init__(
        self, model: Model, prompt: tuple[list[int], str], options: Options, row: dict
    ) -> None:
        self.generation: Generation | None = None
        # Those of now, not of the first piece.
        controls = _rollouts.controls(model, options)
        self._pieces = self._run(model, prompt, options, row, controls)

    def _run(
        self,
        model: Model,
        prompt: tuple[list[int], str],
        options: Options,
        row: dict,
        controls: Any,
    ) -> Iterator[str]:
        with _rollouts.sessions(model, options) as sessions:
            search = model._start(sessions, prompt, options, row, controls)
            try:
                size, is_done = 0, False
                while not is_done:
                    is_done = search.step()
                    text = search.text()
                    if len(text) > size:
                        piece, size = text[size:], len(text)
                        yield piece
                self.generation = generations(search, options, model.tokenizer)[0]
            finally:
                del search

    def __iter__(self) -> Iterator[str]:
        return self._pieces

    def __next__(self) -> str:
        return next(self._pieces)

    def close(self) -> None:
        """Stop generating."""
        self._pieces.close()  # type: ignore[attr-defined]
