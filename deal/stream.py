"""A text, piece by piece, while it is generated."""

from __future__ import annotations

from collections.abc import Callable, Generator, Sequence
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
    generations : list of Generation
        All results, where several sequences were asked for.
    """

    def __init__(
        self,
        model: Model,
        prompt: tuple[Sequence[int], str],
        options: Options,
        row: dict,
        before_step: Callable[[], None] | None = None,  # what it raises ends all
    ) -> None:
        self.generations: list[Generation] = []
        # Those of now, not of the first piece.
        controls = _rollouts.controls(model, options)
        before = before_step or (lambda: None)
        self._pieces = _run(model, prompt, options, row, controls, before)

    @property
    def generation(self) -> Generation | None:
        return self.generations[0] if self.generations else None

    def __iter__(self) -> Stream:
        return self

    def __next__(self) -> str:
        try:
            return next(self._pieces)
        except StopIteration as stop:
            if stop.value is not None:  # else it was told before, or closed
                self.generations = stop.value
            raise

    def close(self) -> None:
        """Stop generating."""
        self._pieces.close()


def _run(
    model: Model,
    prompt: tuple[Sequence[int], str],
    options: Options,
    row: dict,
    controls: Any,
    before_step: Callable[[], None],
) -> Generator[str, None, list[Generation]]:
    """The pieces, then the results.

    NB: it knows nothing of the stream, so that one that is left goes at once, and its
    search with it.
    """
    with _rollouts.sessions(model, options) as sessions:
        search = model._start(sessions, prompt, options, row, controls)
        try:
            size, is_done = 0, False
            while not is_done:
                before_step()
                is_done = search.step()
                text = search.text()
                if len(text) > size:
                    piece, size = text[size:], len(text)
                    yield piece
            return generations(search, options, model.tokenizer)
        finally:
            del search
